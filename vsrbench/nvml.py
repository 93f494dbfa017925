"""Device memory through NVML: idle baseline, then the peak, polled in a thread."""

from __future__ import annotations

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
    idle baseline of `start_idle`. The GPU is picked by UUID, which CUDA_VISIBLE_DEVICES cannot
    renumber. `why` says why there is no number.
    """

    def __init__(self, uuid: str | None) -> None:
        self.why = ""
        self.peak_mib: float | None = None
        self.shared = False
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
        except ImportError:
            self.why = "pynvml is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # NVMLError exists only where the import went well
            self.why = f"NVML: {error}"
        else:
            self._idle = self._used()

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
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        self.shared = any(process.pid != os.getpid() for process in running)


def tree_mib(root: int) -> tuple[float | None, float | None]:
    """(resident memory, device memory) in MiB of a process and all that descend from it now.

    None where /proc, or NVML, is not there.
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
        total = 0
        for i in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(i)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                total += (process.usedGpuMemory or 0) if process.pid in pids else 0
    except Exception:  # no library, no driver
        return None
    return total / 2**20
