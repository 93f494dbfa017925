"""What a run happened on: packages, hardware, source revision."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vsrbench.core.nvml import driver_version

PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "opencv-python", "opencv-python-headless", "av"),
    *("pillow", "diffusers", "safetensors", "spandrel", "pyiqa", "lpips", "DISTS-pytorch"),
)


def core_count() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def cpu_name() -> str:
    """Model name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Name of the GPU behind a torch device string, or of the CPU."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return cpu_name()


_OF_ONE_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)


def environment_for_git() -> dict[str, str]:
    """Ours, so that git goes by the folder it is given: in a hook it is told another repository."""
    return {k: v for k, v in os.environ.items() if k not in _OF_ONE_REPOSITORY}


def git_state(root: Path) -> dict[str, Any]:
    """Commit and dirty flag of the checkout; both null outside one."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args],
                capture_output=True,
                text=True,
                timeout=10,
                env=environment_for_git(),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def own_git_state() -> dict[str, Any]:
    """Commit and dirty flag of vsrbench's own checkout; both null for an installed package.

    That may well lie in a checkout of something else.
    """
    package = Path(__file__).resolve().parents[1]
    own = (package.parent / "run_bench.py").is_file()
    return git_state(package.parent) if own else {"commit": None, "dirty": None}


def capture(root: Path) -> dict[str, Any]:
    """Everything about the machine and the software that a reader of the numbers may ask for.

    git: the state of vsrbench's own checkout; root: of the folder of methods and datasets.

    For what `find_accelerators` tells there are empty places.
    """
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": core_count(),
        "ram_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "cuda": None,
        "driver": None,
        "gpus": [],
        "packages": packages,
        "git": own_git_state(),
        "root": git_state(root),
    }


def find_accelerators() -> dict[str, Any]:
    """CUDA, the driver and the GPUs, as torch sees them; empty without torch or a GPU."""
    try:
        import torch
    except ImportError:
        return {}
    gpus = [
        {
            "name": torch.cuda.get_device_name(i),
            "memory_mib": torch.cuda.get_device_properties(i).total_memory // 2**20,
        }
        for i in range(torch.cuda.device_count())
    ]
    driver = driver_version()
    return {"cuda": torch.version.cuda, "driver": driver, "gpus": gpus} if gpus else {}
