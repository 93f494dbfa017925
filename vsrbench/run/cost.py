"""What a method costs: time, memory, energy, parameters, MACs; in a pass of its own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vsrbench.cards.code import digest_code
from vsrbench.core.config import convert
from vsrbench.core.env import device_name
from vsrbench.core.errors import ContractError, UserError
from vsrbench.core.files import read_json, replace_atomically
from vsrbench.core.keys import cost_key
from vsrbench.core.nvml import MemoryMeter, energy_counter, is_shared
from vsrbench.core.processes import SPINS, Died, Ended, Process
from vsrbench.core.progress import counted
from vsrbench.core.types import Measurement, Method, MethodCard, Size
from vsrbench.core.variables import LOGS
from vsrbench.programs.process import Usage
from vsrbench.run.backends import SETTING, TORCH, network_settings
from vsrbench.run.method import (
    check_size,
    dtype_of,
    foreign_error,
    load_method,
    no_tf32,
    padding,
)

if TYPE_CHECKING:
    import torch

VERSION = 6
"""Bumped when a figure can change."""
Result = TypeVar("Result")

FRAMES = 10
WARMUP = 3
PROBE = 64
"""LQ side in px at which `measure_construction` counts."""
ENERGY_S = 5.0
"""Seconds that an energy figure covers at least: the counter of a GPU moves in steps."""
SHARED = "another process was on the GPU"


def machine(device: str) -> dict[str, Any]:
    """What a cost figure depends on besides the method; part of its key."""
    import torch

    about = {
        "version": VERSION,
        "device": device_name(device),
        "torch": str(torch.__version__),  # a class of torch, which would import it wherever it goes
        "threads": torch.get_num_threads() if device == "cpu" else 0,
    }
    return about if device == "cpu" else about | {"tf32": False, "energy_s": ENERGY_S}


def measure(
    card: MethodCard,
    size: Size,
    frames: int,
    device: str,
    logs: Path | None = None,
    timeout_s: float | None = None,
    process: Process | None = None,
) -> Measurement:
    """Measure in a fresh process, so that peak memory is the method's own.

    logs: folder of what a program of others said, if it failed. process: of `start`, if one waits.

    Raises UserError; ContractError when the process died, which is how running out of memory ends,
    or had not ended after `timeout_s`.
    """
    where = f"at {size[1]}x{size[0]}, {counted(frames, 'frame')}"
    if card.settings.get(SETTING, TORCH) != TORCH:  # whose threads want the cores of torch's
        if process is not None:
            process.end()
        process = Process(fresh=True, settings=SPINS)
    work = (_measure, card, size, frames, device, logs)
    return run_apart(card, where, *work, timeout_s=timeout_s, process=process)


def start() -> Process:
    """A fresh process that imports what it needs, and waits to measure."""
    process = Process(fresh=True)
    process.submit(no_tf32)
    return process


def run_apart(
    card: MethodCard,
    where: str,
    work: Callable[..., Result],
    *args: Any,
    timeout_s: float | None = None,
    process: Process | None = None,
) -> Result:
    """`work(*args)` in a process of its own, which never outlives this call, even if it is given.

    Raises UserError; ContractError when foreign code raises, the process dies, or `timeout_s` is
    over.
    """
    process = process or Process(fresh=True)
    try:
        result: Result = process.submit(_run_guarded, card, where, work, *args).result(timeout_s)
        return result
    except TimeoutError:
        raise ContractError(
            f"'{card.name}' had not ended after {timeout_s:.0f} s {where}",
            "give it more time, or a smaller size",
        ) from None
    except Died as died:
        raise ContractError(
            f"'{card.name}' crashed its process {where} ({died.how})",
            died.likely,
        ).with_log(died.log) from None
    finally:
        process.end()


def _run_guarded(card: MethodCard, where: str, work: Callable[..., Result], *args: Any) -> Result:
    no_tf32()
    try:
        return work(*args)
    except (UserError, Ended):
        raise
    except BaseException as error:  # here: third-party exceptions may not be picklable
        raise foreign_error(f"'{card.name}'", where, error) from error


def measure_construction(card: MethodCard, sha256: str, device: str, cache: Path) -> dict[str, Any]:
    """What a method is and what it takes to build it, measured once in a fresh process.

    seconds: to import and build it with its weights, torch being there. peak_mib: peak resident
    memory of the process by then, libraries included. params_m: parameters, 1e6. macs_g:
    multiply-adds a frame at LQ `size`, 1e9. A result is kept in the folder `cache` under the
    identity of card, weights, code and machine. Raises UserError.
    """
    side = max(PROBE, card.min_size)
    size = (side, side)
    file = cache / f"{cost_key(card, sha256, digest_code(card), size, 0, machine(device))}.json"
    with suppress(UserError):
        known: dict[str, Any] = convert(read_json(file), dict[str, Any], str(file))
        return known
    where = f"while it was built and run at {side}x{side}"
    found = run_apart(card, where, _construct, card, size, device)
    with suppress(OSError), replace_atomically(file) as partial:  # else it is measured again
        partial.write_text(json.dumps(found))
    return found


def _construct(card: MethodCard, size: Size, device: str) -> dict[str, Any]:
    import torch  # noqa: F401

    start = time.perf_counter()
    method = load_method(card, device)
    found = {
        "seconds": time.perf_counter() - start,
        "peak_mib": _rss_mib("VmHWM"),
        "size": size,
    }
    parameters = _parameters(method, card)
    frames = abs(card.lookahead) + 1
    clip = make_resident_clip(card, size, frames, device)
    macs = _macs(_by_torch(method, card, device), clip)
    return found | {
        "params_m": None if parameters is None else parameters / 1e6,
        "macs_g": macs / 1e9,
    }


def _measure(
    card: MethodCard, size: Size, frames: int, device: str, logs: Path | None
) -> Measurement:
    """Inputs resident; the clock runs from one output to the next (region `device`)."""
    import torch

    check_size(card, size)
    if card.kind == "command":
        if logs is not None:
            os.environ[LOGS] = str(logs)
        return _measure_process(card, size, frames, device)
    uuid = _uuid(device)
    memory = MemoryMeter(uuid)
    why = {"vram_peak_mib": memory.why} if memory.why else {}
    rss_idle = _rss_mib("VmRSS")
    method = load_method(card, device)
    parameters = _parameters(method, card)
    if parameters is None:
        why["params_m"] = "no attribute of the adapter is a torch module"

    clip = make_resident_clip(card, size, frames, device)
    with memory:
        pace = measure_pace(method, card, clip, device)
    rss_peak = _rss_mib("VmHWM")
    ordered = sorted(pace.samples_ms)
    why |= _describe_sharing(memory.shared, uuid, memory.why)
    # Last, so that they change no other figure.
    macs = _macs(_by_torch(method, card, device), clip[: max(1, card.lookahead + 1)])
    energy, no_energy = _energy(method, clip, device, uuid)
    if energy is None:
        why["j_per_frame"] = no_energy
    return Measurement(
        region="device",
        device=device_name(device),
        size=size,
        frames=frames,
        warmup_frames=pace.warmup_frames,
        threads=torch.get_num_threads(),
        samples_ms=pace.samples_ms,
        median_ms=statistics.median(ordered),
        p90_ms=ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        first_output_ms=pace.first_output_ms,
        fps=frames / pace.total_ms * 1000,
        rss_peak_mib=rss_peak,
        rss_idle_mib=rss_idle,
        vram_peak_mib=memory.peak_mib,
        vram_allocator_mib=pace.vram_allocator_mib,
        params_m=None if parameters is None else parameters / 1e6,
        macs_g=macs / 1e9,
        j_per_frame=energy,
        gpu_shared=bool(memory.shared),
        why=why,
    )


def _measure_process(card: MethodCard, size: Size, frames: int, device: str) -> Measurement:
    """A program from start to exit, loading included (region `process`), over its process tree.

    Of one that stays with its model loaded, a clip alone (region `worker`).
    """
    import torch

    method: Any = load_method(card, device)
    uuid = _uuid(device)
    method.counter, no_counter = energy_counter(uuid)
    for _ in method.upscale(iter(make_resident_clip(card, size, frames, "cpu"))):
        pass
    usage: Usage = method.usage
    loading: Usage | None = method.loading
    ms = usage.seconds * 1000
    apart = "a program in an environment of its own"
    why = dict.fromkeys(("rss_idle_mib", "vram_allocator_mib", "params_m", "macs_g"), apart)
    if usage.vram_peak_mib is None:
        why["vram_peak_mib"] = "NVML shows no memory of its processes"
    others = is_shared(uuid, known=usage.vram_peak_mib is not None)
    why |= _describe_sharing(others, uuid, no_counter)
    energy = None
    if usage.joules is None:
        why["j_per_frame"] = no_counter
    elif others:
        why["j_per_frame"] = SHARED
    elif device == "cuda" and torch.cuda.device_count() > 1:
        why["j_per_frame"] = "which of several GPUs the program used is not known: name one"
    elif usage.seconds < ENERGY_S:
        why["j_per_frame"] = f"the program took less than {ENERGY_S:g} s"
    else:
        energy = usage.joules / frames
    return Measurement(
        region="worker" if loading else "process",
        device=device_name(device),
        size=size,
        frames=frames,
        warmup_frames=0,
        threads=torch.get_num_threads(),
        samples_ms=(ms / frames,),
        median_ms=ms / frames,
        p90_ms=ms / frames,
        first_output_ms=ms,
        fps=frames / usage.seconds,
        rss_peak_mib=usage.rss_peak_mib,
        rss_idle_mib=None,
        vram_peak_mib=usage.vram_peak_mib,
        vram_allocator_mib=None,
        params_m=None,
        macs_g=None,
        j_per_frame=energy,
        gpu_shared=bool(others),
        loading_ms=loading.seconds * 1000 if loading else None,
        why=why,
    )


def _uuid(device: str) -> str | None:
    """The GPU as NVML names it; None for a CPU."""
    import torch

    return None if device == "cpu" else f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _describe_sharing(others: bool | None, uuid: str | None, why: str) -> dict[str, str]:
    """What is to be said of other processes on the GPU; `why` nobody could look, if so."""
    if others:
        return {"gpu_shared": SHARED}
    if others is None and uuid:
        why = why or "NVML does not list this process: others may have been"
        return {"gpu_shared": why}
    return {}


def _rss_mib(field: str) -> float | None:
    """VmRSS or VmHWM (peak) of this process; the peak of getrusage outlives fork and exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    if field == "VmHWM":
        unit = 2**20 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return None


def make_resident_clip(
    card: MethodCard, size: Size, frames: int, device: str
) -> list[torch.Tensor]:
    """A textured picture that pans by one pixel a frame: motion to follow, no scene cut."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 4 + 2, size[1] // 4 + 2, generator=generator)
    picture = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    picture = F.pad(picture, padding(card, size), mode="reflect")[0]
    dtype = dtype_of(card, device)
    return [picture.roll(t, dims=-1).to(device, dtype) for t in range(frames)]


def _read_clock(device: str) -> float:
    """Time in ms, once the device has done all that it was given."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


@dataclass(frozen=True)
class Pace:
    """How fast outputs came of one call on a clip, after a warm-up."""

    samples_ms: tuple[float, ...]
    """Time between successive outputs; of a method that reads everything first, their mean."""
    first_output_ms: float
    """From the first input to the first output."""
    total_ms: float
    """From the first input to the last output."""
    warmup_frames: int
    """Frames run before timing."""
    vram_allocator_mib: float | None
    """Peak of torch's allocator, warm-up included; None on a CPU."""


def measure_pace(method: Method, card: MethodCard, clip: list[torch.Tensor], device: str) -> Pace:
    """Time a loaded method on a clip of `make_resident_clip`, after a warm-up on its start.

    A method that answers only when it has read everything has no time per frame: its one sample is
    the total over the number of frames.
    """
    import torch

    warmup = min(max(WARMUP, card.lookahead + 1), len(clip))
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    _timed(method, clip[:warmup], device)
    first, samples, total = _timed(method, clip, device)
    peak = None if device == "cpu" else torch.cuda.max_memory_allocated(device) / 2**20
    if card.lookahead < 0 or not samples:
        samples = [total / len(clip)]
    return Pace(tuple(samples), first, total, warmup, peak)


def _timed(method: Any, clip: list[torch.Tensor], device: str) -> tuple[float, list[float], float]:
    """(first-output ms, ms between outputs, total ms) of one call on a resident clip."""

    def resident() -> Iterator[torch.Tensor]:
        yield from clip

    _read_clock(device)
    stamps = [_stamp(device)]
    for _ in method.upscale(resident()):
        stamps.append(_stamp(device))
    _read_clock(device)
    first, *samples = (_ms(a, b) for a, b in pairwise(stamps))
    return first, samples, _ms(stamps[0], stamps[-1])


def _stamp(device: str) -> Any:
    """The time, or the event on a GPU that has it once all is done that was asked for before.

    Nobody waits for it: the host goes on to the next frame, as it does where nothing is timed.
    """
    import torch

    if device == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _ms(a: Any, b: Any) -> float:
    """From one `_stamp` to the next, which have come."""
    return float((b - a) * 1000 if isinstance(a, float) else a.elapsed_time(b))


def _energy(
    method: Any, clip: list[torch.Tensor], device: str, uuid: str | None
) -> tuple[float | None, str]:
    """(J a frame, ""), or (None, why there is none): whole calls on a resident clip.

    All that the GPU used, idle power included, in the `ENERGY_S` or more that the calls took, over
    the number of frames that came. The counter cannot tell processes apart: no figure with others.
    """
    read, why = energy_counter(uuid)
    if read is None or is_shared(uuid):
        return None, why or SHARED
    _read_clock(device)
    before, start, frames = read(), _read_clock(device), 0
    while _read_clock(device) - start < ENERGY_S * 1000:
        for _ in method.upscale(iter(clip)):
            frames += 1
    joules = read() - before
    return (None, SHARED) if is_shared(uuid) else (joules / frames, "")


def _parameters(method: Any, card: MethodCard) -> int | None:
    """Parameters of the torch modules that are attributes of the adapter, each counted once."""
    import torch

    modules = [v for v in vars(method).values() if isinstance(v, torch.nn.Module)]
    if not modules and card.weights.origin != "none":
        return None
    return sum({id(p): p.numel() for m in modules for p in m.parameters()}.values())


def _by_torch(method: Method, card: MethodCard, device: str) -> Method:
    """A loaded method, or where an engine computes it another one: torch counts its own work."""
    plain = replace(card, settings=network_settings(card))
    return method if plain == card else load_method(plain, device)


def _macs(method: Any, clip: list[torch.Tensor]) -> float:
    """Multiply-adds a frame, counted by torch on a call of `clip`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    # torch counts fused attention on a GPU and overlooks it on the CPU.
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]

    counter = FlopCounterMode(display=False, custom_mapping={on_cpu: attention})
    with _without_compiler(), counter:
        for _ in method.upscale(iter(clip)):
            pass
    return float(counter.get_total_flops()) / 2 / len(clip)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Around counting: torch imports its compiler, for two seconds, to keep it out of the counter.

    It is not there to be kept out, unless the method compiles something.
    """
    from torch.utils import flop_counter

    mode = getattr(flop_counter, "_FlopCounterMode", None)
    counts = getattr(getattr(mode, "__torch_dispatch__", None), "__wrapped__", None)
    if counts is None or "torch._dynamo" in sys.modules:
        yield
        return
    counts.__dynamo_disable = counts  # what torch would ask its compiler for
    try:
        yield
    finally:
        del counts.__dynamo_disable
