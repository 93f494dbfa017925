"""A program of others as a process: started, watched, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsrbench.core.errors import ContractError, MissingError
from vsrbench.core.nvml import tree_mib

ENV = "VSRBENCH_COMMANDS"
"""Variable that names the user's table of programs."""
_POLL_S = 0.05
_GRACE_S = 5.0


@dataclass(frozen=True)
class Usage:
    """What a program used, over its whole process tree."""

    seconds: float
    """Wall time from start to exit."""
    rss_peak_mib: float | None
    """Peak of the summed resident memory; None where /proc is not there."""
    vram_peak_mib: float | None
    """Peak of the summed device memory by NVML; None without."""
    joules: float | None = None
    """What a counter of energy went up by; None when none was given."""


def _visible(device: str) -> dict[str, str]:
    """The variable that leaves a program one of the GPUs, where `device` names one."""
    index = device.partition(":")[2]
    if not index:
        return {}
    name = "CUDA_VISIBLE_DEVICES"
    seen = os.environ.get(name, "").split(",")
    return {name: seen[int(index)] if int(index) < len(seen) and seen[0] else index}


def execute(
    name: str,
    argv: Sequence[str],
    cwd: Path,
    timeout_s: float,
    device: str,
    counter: Callable[[], float] | None = None,
) -> Usage:
    """Run a program in `cwd`, its checkout, in a process group that never outlives this call.

    device: a torch device; with a number, the only GPU that the program sees. counter: reads energy
    in J, for `Usage.joules`. Raises MissingError if it cannot be started, ContractError with the
    last line of its stderr if it fails, or if it takes longer than `timeout_s`.
    """
    before = counter() if counter else 0.0
    started, rss, vram = time.perf_counter(), None, None
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=os.environ | {"PYTHONPATH": str(cwd)} | _visible(device),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise MissingError(
                f"'{name}' cannot be started: {argv[0]}: {error.strerror}", f"correct ${ENV}"
            ) from error
        try:
            while process.poll() is None:
                now = tree_mib(process.pid)
                rss, vram = _larger(rss, now[0]), _larger(vram, now[1])
                if time.perf_counter() - started > timeout_s:
                    raise ContractError(
                        f"'{name}' did not end within {timeout_s:.0f} s",
                        f"raise timeout_s in its table in ${ENV}",
                    )
                time.sleep(_POLL_S)
        finally:
            _end(process)
        if process.returncode:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
            how = (
                f"exit code {process.returncode}"
                if process.returncode > 0
                else f"signal {signal.Signals(-process.returncode).name}"
            )
            last = f": {lines[-1].strip()[:200]}" if lines else ""
            raise ContractError(
                f"'{name}' failed with {how}{last}", f"run it by hand: {' '.join(argv)[:300]}"
            )
    seconds = time.perf_counter() - started
    return Usage(seconds, rss, vram, counter() - before if counter else None)


def _larger(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process group: politely, and after a while by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
