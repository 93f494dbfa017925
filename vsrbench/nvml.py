"""Device memory through NVML: idle baseline, then the peak, polled in a thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

POLL_SECONDS = 0.005


class MemoryMeter:
    """Context manager around a timed region; read `peak_mib` and `shared` afterwards.

    NVML counts the whole device, driver-reserved memory included, so the peak is taken over the
    idle baseline at the start. The GPU is picked by UUID, which CUDA_VISIBLE_DEVICES cannot
    renumber. `why` says why there is no number. `shared` is True when another process than this
    one and its parent was on the GPU at the end; None when NVML does not list this one, as in a PID
    namespace of its own, where nobody can be told apart.
    """

    def __init__(self, uuid: str | None) -> None:
        self.why = ""
        self.peak_mib: float | None = None
        self.shared: bool | None = None
        self._nvml: Any = None
        self._idle = self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if uuid is None:
            self.why = "no CUDA device"
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._nvml = pynvml
            self._idle = self._used()
        except ImportError:
            self.why = "pynvml is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # NVMLError exists only where the import went well
            self.why, self._nvml = f"NVML: {error}", None

    def _used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._peak = max(self._peak, self._used())
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> MemoryMeter:
        if self._nvml is not None:
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
        self._peak = max(self._peak, self._used())
        self.peak_mib = (self._peak - self._idle) / 2**20
        with contextlib.suppress(Exception):  # not every device tells
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            pids = {process.pid for process in running}
            if os.getpid() in pids:
                self.shared = bool(pids - {os.getpid(), os.getppid()})


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
