"""The machine that trains: its processor, its processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist


def cpuinfo(field: str) -> str:
    """What Linux says of the processor; "" where it says nothing."""
    info = Path("/proc/cpuinfo")
    lines: Iterable[str] = info.read_text().splitlines() if info.exists() else ()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")


def cpu() -> str:
    """Model of the processor."""
    return cpuinfo("model name") or platform.machine()


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    flags = f"{cpuinfo('flags')} {cpuinfo('Features')}"  # x86, Arm
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def join(device: str) -> tuple[str, int, int]:
    """(device, rank, number of processes); joins the others where torchrun started this one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return device, 0, 1
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device, dist.get_rank(), world
