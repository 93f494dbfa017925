"""Processes and all that they start: found by a mark in their environment, and ended together.

A process that goes into a session of its own, or outlives its parent, keeps its environment. Marks
are nested: that of a run is the beginning of those of its workers, theirs of those of the programs
that they start. A guard, which holds nothing but the end of a pipe, ends the family of a main
process that is killed, and removes its temporary files.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = "VSRBENCH_PROCESS"
"""Variable that holds the mark."""
GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_numbers = itertools.count()


def new_mark() -> str:
    """A mark for a process that is about to be started: its environment is to hold it as MARK."""
    return f"{own_mark()}/{next(_numbers)}-{secrets.token_hex(4)}"


@functools.cache
def own_mark() -> str:
    """That of this process, over which its main process watches, or else a guard from now on."""
    if given := os.environ.get(MARK):
        return given
    mark = f"{os.getpid()}-{secrets.token_hex(8)}"
    guard = subprocess.Popen(
        [*python("vsrbench.core.families", "_guard()"), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert guard.stdin is not None
    atexit.register(guard.stdin.close)
    return mark


def scratch_folder(mark: str) -> Path:
    """Where a process with this mark has its temporary files; it is made and removed with it.

    The name is short: a socket below it has at most 107 characters for its whole path.
    """
    own, *numbers = mark.split("/")
    return Path(tempfile.gettempdir(), ".".join(["vsr-" + own[-8:], *numbers]))


def python(module: str, call: str) -> list[str]:
    """The start of a command line: a fresh interpreter that finds what this one finds."""
    paths = list(map(os.path.abspath, sys.path))  # it may be started in another folder
    start = f"import sys; sys.path[:] = {paths!r}; from {module} import *; "
    return [sys.executable, "-P", "-c", f"{start}import {module} as m; m.{call}"]


def _guard() -> None:
    if os.fork():  # what is ended together with its children, as an actor of Ray is, leaves it
        os._exit(0)
    sys.stdin.buffer.read()
    end_family(sys.argv[1])
    own = scratch_folder(sys.argv[1])
    for folder in own.parent.glob(f"{own.name}.*"):  # of processes whose main process was killed
        shutil.rmtree(folder, ignore_errors=True)


def end_family(*of: str | int) -> None:
    """End what `family` finds, but for this process.

    All are told to end; those that are there after `GRACE_S` are killed.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline, told = time.monotonic() + GRACE_S, set[int]()
        while pids := family(*of) - {os.getpid()}:
            if time.monotonic() > deadline:
                break
            for pid in pids - told:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            told |= pids
            time.sleep(0.01)
        else:
            return


def family(*of: str | int) -> set[int]:
    """Processes that carry one of these marks or belong to one of these sessions, and all that
    descend from them; none without /proc.

    Those that have ended and wait for their parent to notice are left out.
    """
    sessions = {one for one in of if isinstance(one, int)}
    marks = [f"{MARK}={one}".encode() for one in of if isinstance(one, str)]
    parents, found = dict[int, int](), set[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if not (stat := _read_stat(pid)):
            continue
        parents[pid] = int(stat[1])
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
        marked = any(x == mark or x.startswith(mark + b"/") for mark in marks for x in environment)
        if marked or pid in sessions or int(stat[3]) in sessions:
            found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def read_birth(pid: int) -> str:
    """When a process that runs was started: clock ticks of the system. Empty where none runs.

    With it a process is told from a later one of the same number.
    """
    return (_read_stat(pid) or [""])[-1]


def _read_stat(pid: int) -> list[str]:
    """State, parent, group, session and so on to the start of a process, as proc(5) lists them.

    Empty for one that has ended, whether or not its parent has noticed, and without /proc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:20]
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields
