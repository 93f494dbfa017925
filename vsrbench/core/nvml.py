"""What NVML tells of a GPU: memory over an idle baseline, energy, who else is on it."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

POLL_SECONDS = 0.005


def _reader(uuid: str | None, what: str) -> tuple[Callable[[], Any] | None, str]:
    """(asks the GPU for `what`, a function of NVML, ""), or (None, why it cannot be asked).

    The GPU is picked by UUID, which CUDA_VISIBLE_DEVICES cannot renumber.
    """
    if uuid is None:
        return None, "no CUDA device"
    try:
        import pynvml

        pynvml.nvmlInit()
        read = functools.partial(getattr(pynvml, what), _handle(pynvml, uuid))
        read()
    except ImportError:
        return None, "pynvml is not installed (pip install nvidia-ml-py)"
    except Exception as error:  # NVMLError exists only where the import went well
        return None, f"NVML: {error}"
    return read, ""


def _handle(pynvml: Any, uuid: str) -> Any:
    """The GPU with this UUID, or the instance of a divided one, which has another prefix."""
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid.replace("GPU-", "MIG-", 1))


def driver_version() -> str | None:
    """Version of the driver; None where NVML does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:
        return None


def energy_counter(uuid: str | None) -> tuple[Callable[[], float] | None, str]:
    """(reads the energy in J that the GPU has used so far, ""), or (None, why it cannot be read).

    It counts the whole card: idle power and every process on it. Only differences mean something.
    """
    read, why = _reader(uuid, "nvmlDeviceGetTotalEnergyConsumption")
    return (lambda: read() / 1000) if read else None, why


def is_shared(uuid: str | None, known: bool = False) -> bool | None:
    """Whether another process than this one and its parent is on the GPU now.

    None when NVML does not list this one, as in a PID namespace of its own, where nobody can be
    told apart; unless it is `known` to number processes as they are numbered here.
    """
    read, _ = _reader(uuid, "nvmlDeviceGetComputeRunningProcesses")
    if read is None:  # not every device tells
        return None
    pids = {process.pid for process in read()}
    return bool(pids - {os.getpid(), os.getppid()}) if known or os.getpid() in pids else None


class MemoryMeter:
    """Context manager around a timed region; read `peak_mib` and `shared` afterwards.

    NVML counts the whole device, driver-reserved memory included, so the peak is taken over the
    idle baseline at the start. `why` says why there is no number. `shared` is what the function of
    that name says at the end.
    """

    def __init__(self, uuid: str | None) -> None:
        self.peak_mib: float | None = None
        self.shared: bool | None = None
        self._uuid = uuid
        self._read, self.why = _reader(uuid, "nvmlDeviceGetMemoryInfo")
        self._idle = self._read_used()
        self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _read_used(self) -> int:
        return int(self._read().used) if self._read else 0

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._peak = max(self._peak, self._read_used())
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> MemoryMeter:
        if self._read:
            self._thread = threading.Thread(target=self._poll, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._peak = max(self._peak, self._read_used())
        self.peak_mib = (self._peak - self._idle) / 2**20
        self.shared = is_shared(self._uuid)


def tree_mib(root: int) -> tuple[float | None, float | None]:
    """(resident memory, device memory) in MiB of a process and all that descend from it now.

    None where /proc, or NVML, is not there, or NVML lists none of these processes: they use no
    device, or it knows them by other numbers.
    """
    parents, rss = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(x.split(":", 1) for x in status.read_text().splitlines() if ":" in x)
        except OSError:  # it ended meanwhile
            continue
        pid = int(status.parent.name)
        parents[pid] = int(lines["PPid"])
        rss[pid] = int(lines.get("VmRSS", "0").split()[0]) / 1024
    tree = {root}
    while grown := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    used = sum(rss.get(pid, 0) for pid in tree)
    return used if root in rss else None, _device_mib(tree)


def _device_mib(pids: set[int]) -> float | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        found = []
        for i in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(i)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in pids and process.usedGpuMemory is not None:
                    found.append(process.usedGpuMemory)
    except Exception:  # no library, no driver
        return None
    return sum(found) / 2**20 if found else None
