"""Processes of our own, for code that may crash: each does one piece of work after another.

They ignore Ctrl-C, which the main process answers, and end with it, however it ends. The main
module is never imported in them. They are forked from a template that has imported torch once, so
that another one costs next to nothing, or executed anew by it; foreign code never runs in it. Work
that kills its parent kills the template, and another one takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import os
import pickle
import queue
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from vsrbench.core.errors import UserError
from vsrbench.core.families import (
    GRACE_S,
    MARK,
    end_family,
    new_mark,
    own_mark,
    python,
    read_birth,
    scratch_folder,
)
from vsrbench.core.variables import LOGS, logs_folder

T = TypeVar("T")
Told = Callable[[Any], None]


class Died(Exception):
    """A process ended in the middle of its work."""

    def __init__(self, how: str, log: str = "", late: bool = False) -> None:
        super().__init__(how)
        self.how = how
        """`signal SIGABRT`, `exit code 0`, or why it was ended."""
        self.log = log
        """Where its Python code was, if it crashed."""
        self.late = late
        """Its work took longer than it may."""

    @property
    def likely(self) -> str:
        """What has most likely happened."""
        if "SIGKILL" in self.how:
            return "most likely out of memory: take smaller frames or clips, or leave it out"
        if self.how.startswith("signal"):
            return "native code crashed in it: -v (in Python verbose=True) shows where it was"
        return "its own code ended the process, or a library that it uses"


class Process:
    """A process that does what it is given, in order. `end` it: its temporary files go with it.

    fresh: executed anew, so that its memory is its own. settings: of its environment, beside ours,
    which win.
    """

    def __init__(self, fresh: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self.mark, self.pid = new_mark(), 0
        self._settings = settings or {}
        self._pending = deque[tuple[Future[Any], Told | None]]()
        self._lock = threading.Lock()
        self._died: Died | None = None
        self._gone = threading.Event()
        self._code, self._ending, self._late = 0, False, ""
        self._scratch = scratch_folder(self.mark)
        try:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it has ended
            self._scratch.mkdir(0o700)
        except OSError as error:
            raise UserError(
                f"no temporary file can be made: {error.strerror}",
                "free some space in /tmp, or name another folder with TMPDIR",
            ) from error
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        with theirs:
            _template().fork(self, [theirs.fileno(), self._log.fileno(), 2], fresh)
        self._connection.send((self._environment(), Path.cwd(), sys.path))
        _thread(self._listen)

    def _environment(self) -> dict[str, str]:
        """Ours, with what belongs to the process; what is to stay is not among its own files."""
        compiled = Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
        own = {MARK: self.mark, "TMPDIR": str(self._scratch), LOGS: str(logs_folder())}
        given = {"TORCHINDUCTOR_CACHE_DIR": str(compiled), **self._settings}
        return {**given, **os.environ, **own}

    def submit(
        self,
        work: Callable[..., T],
        *args: Any,
        told: Told | None = None,
        limit_s: int | None = None,
    ) -> Future[T]:
        """Have it do some work; the future raises `Died` where it dies of it.

        told: gets what the work tells by `tell`, from another thread. limit_s: seconds that it may
        take from when what came before it is done; then the process is ended.
        """
        future = Future[T]()
        message = pickle.dumps((work, args))
        with self._lock:
            if self._died:
                future.set_exception(self._died)
                return future
            before = self._pending[-1][0] if self._pending else None
            self._pending.append((future, told))
        if limit_s:
            longest = min(limit_s, threading.TIMEOUT_MAX)
            timer = threading.Timer(longest, self._give_up, [future, limit_s])
            timer.daemon = True
            future.add_done_callback(lambda _: timer.cancel())
            if before:
                before.add_done_callback(lambda _: timer.start())
            else:
                timer.start()
        with contextlib.suppress(OSError):  # it is dead, which is noticed elsewhere
            self._connection.send_bytes(message)
        return future

    def _give_up(self, future: Future[Any], limit_s: int) -> None:
        if not future.done():
            self._late = f"no end after {limit_s} s"
            self.end()

    def end(self) -> None:
        """End it now, and all that it has started."""
        self._ending = True
        with contextlib.suppress(OSError):  # one that is not yet forked hears it when it is
            self._socket.shutdown(socket.SHUT_RDWR)
        self._end_family()

    def _end_family(self) -> None:
        end_family(self.mark, *([self.pid] if self.pid else []))
        if self._gone.is_set():
            self.pid = 0  # the system may give the number to another
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _note_end(self, code: int) -> None:
        """It has ended: an exit code, or minus the number of a signal."""
        self._code = code
        self._gone.set()
        # What it has said before can still be read. A child of its that holds the other end would
        # keep us waiting for more.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # it ended, closed the pipe, or wrote nonsense
            while True:
                kind, value = pickle.loads(self._connection.recv_bytes(_LONGEST))
                future, told = self._pending[0]
                if kind == "told":
                    if told:
                        told(value)
                    continue
                self._pending.popleft()
                if kind == "done":
                    future.set_result(value)
                else:
                    future.set_exception(value)
        if not self._ending and not self._gone.wait(1) and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._gone.wait(2 * GRACE_S)
        self._end_family()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace").strip()
        died = Died(self._late or describe_exit(self._code), log, bool(self._late))
        with self._lock:
            self._died = died
        for future, _ in self._pending:
            future.set_exception(died)
        self._connection.close()
        self._socket.close()
        self._log.close()


def tell(what: Any) -> None:
    """From the work of a process: hand something to the `told` of its `submit`."""
    assert _pipe is not None
    _end_copies()
    _pipe.send(("told", what))


def describe_exit(code: int) -> str:
    """An exit code, or minus the number of a signal, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


def _thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


_LONGEST = 1 << 28
"""Bytes of an answer: what claims to be longer is no message of ours."""
PRELOAD = ("torch", "vsrbench.run.executors")
"""What the template imports by name: torch takes seconds, and what runs jobs a part of one."""
SPINS = {"GOMP_SPINCOUNT": "1000"}
"""Of the template, unless it is set: how often an idle thread of GNU OpenMP looks for work before
it sleeps. Its own 300,000 hold a core for milliseconds after each operation of torch, which the
threads that score, read and write want, and those of other engines."""
_BORN, _ENDED = 0, 1
_REPORT = struct.Struct("iii")
"""Of the template: the number of a process, one of these, and its pid or exit code."""


class _Template:
    """A process that has imported torch and forks. Started by the first that needs it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                python(__name__, f"_template_loop({theirs.fileno()})"),
                env={**SPINS, **os.environ, MARK: own_mark()},
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._processes: list[Process | None] = []
        self.lost = False
        _thread(self._listen)
        _thread(self._keep_awake)

    def load(self) -> None:
        """Have it import what those need that are forked from it."""
        with contextlib.suppress(OSError):
            self._socket.send(b"load")

    def fork(self, process: Process, fds: list[int], fresh: bool) -> None:
        """Have it fork; the new process serves fds[0], logs crashes to fds[1] and prints to [2].

        fresh: what was forked executes Python anew.
        """
        self._processes.append(process)
        try:
            socket.send_fds(self._socket, [process.mark.encode() if fresh else b"fork"], fds)
        except OSError:  # it was killed; its listener may have told all others by now
            process._note_end(-signal.SIGKILL)

    def _keep_awake(self) -> None:
        """Work may stop it, and then it forks nothing, tells of no end and wakes nobody."""
        while not self.lost:
            self._popen.send_signal(signal.SIGCONT)
            time.sleep(1)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_REPORT.size):
                number, what, value = _REPORT.unpack(data)
                process = self._processes[number]
                assert process is not None
                if what == _BORN:
                    process.pid = value
                else:
                    process._note_end(value)
                    self._processes[number] = None
        self.lost = True
        self._popen.wait()
        for process in filter(None, self._processes):  # of whose end nobody tells any more
            process.end()
            process._note_end(-signal.SIGKILL)


_templates: list[_Template] = []
"""The one in use, last."""


def warm_up() -> None:
    """Start the template now, so that it imports meanwhile."""
    _template().load()


def _template() -> _Template:
    if not _templates or _templates[-1].lost:
        _templates.append(_Template())
    return _templates[-1]


def _template_loop(control: int) -> None:
    """In the template: fork when asked to, tell of births and ends, end with the main process."""
    pipe = socket.socket(fileno=control)
    pipe.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    numbers = dict[int, int]()
    _adopt_orphans()
    count = 0
    while True:
        ready = select.select([pipe.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
                    if os.WIFSTOPPED(found[1]):  # by its own work, which nobody would wake
                        os.kill(found[0], signal.SIGCONT)
                    elif found[0] in numbers:  # else an orphan that it has adopted
                        _end_orphans(numbers)
                        code = os.waitstatus_to_exitcode(found[1])
                        pipe.send(_REPORT.pack(numbers.pop(found[0]), _ENDED, code))
        if pipe.fileno() in ready:
            asked, fds, _, _ = socket.recv_fds(pipe, 4096, 3)
            if not asked:
                os._exit(0)
            if asked in (b"load", b"fork"):
                _preload()
            if asked == b"load":
                continue
            pid = _fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                pipe.close()
                os.close(woken)
                os.close(waker)
                os.setsid()
                os.dup2(fds[2], 1)
                os.dup2(fds[2], 2)
                os.close(fds[2])
                if asked != b"fork":
                    _serve_anew(asked.decode(), *fds[:2])
                _serve(*fds[:2])
            for fd in fds:
                os.close(fd)
            numbers[pid] = count
            pipe.send(_REPORT.pack(count, _BORN, pid))
            count += 1


@functools.cache
def _preload() -> None:
    gc.disable()
    for name in PRELOAD:
        with contextlib.suppress(Exception):  # what needs it says so
            importlib.import_module(name)
    gc.freeze()  # none of it becomes garbage: no process that is forked has to look through it
    gc.enable()


def _end_orphans(ours: Collection[int]) -> None:
    """Kill what a process that has ended leaves behind, whatever it has done to its environment."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            pids = {int(pid) for pid in children.read_text().split()}.difference(ours)
            orphans = [pid for pid in pids if read_birth(pid)]
            if not orphans:
                return
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _fork() -> int:
    with warnings.catch_warnings():  # numpy's threads, which are made for being forked
        warnings.simplefilter("ignore")
        return os.fork()


def _serve_anew(mark: str, pipe: int, log: int) -> NoReturn:
    """Execute Python anew, which serves."""
    for fd in (pipe, log):
        os.set_inheritable(fd, True)
    start = python(__name__, f"_serve_executed({pipe}, {log})")
    os.execve(start[0], start, os.environ | {MARK: mark})


def _serve_executed(pipe: int, log: int) -> NoReturn:
    os.set_inheritable(pipe, False)
    os.set_inheritable(log, False)
    _serve(pipe, log)


def _adopt_orphans() -> None:
    """What a descendant leaves behind becomes a child of this process, where it is found."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


KEPT = 32 << 20
"""Bytes of the largest blocks that `keep_memory` keeps: glibc has no more."""
_MALLOC = {-3: KEPT, -1: 1 << 30}
"""M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes."""


def keep_memory() -> None:
    """Memory that this process frees stays its own, up to a GiB, in blocks of 32 MiB at most.

    What makes and drops the same frames and feature maps again and again would else have glibc give
    each back to the system and ask for it anew, with every page cleared: a sixth of the CPU time
    of a network at 160 x 90. No number changes. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for option, value in _MALLOC.items():
                libc.mallopt(option, value)


def give_back_memory() -> None:
    """What is free at this moment goes back to the system, kept or not: once something large is
    loaded, which leaves holes that nothing later fits. Other C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Ended(BaseException):
    """Unwinds the work of a process that is told to end."""


_pipe: Connection | None = None
_own_pid = 0
"""Of a process that serves."""


def _end_copies() -> None:
    """Work that forks comes back twice: only once in this process."""
    if os.getpid() != _own_pid:
        os._exit(0)


def _serve(fd: int, log: int) -> NoReturn:
    """In the process: do what comes."""
    global _pipe, _own_pid
    _own_pid = os.getpid()
    signal.signal(signal.SIGINT, lambda *_: None)  # what it starts is not to ignore it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _adopt_orphans()
    keep_memory()
    faulthandler.enable(log, all_threads=False)
    _pipe = Connection(fd)
    try:
        environment, folder, path = _pipe.recv()
    except EOFError:
        os._exit(0)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR is another one than where this was imported
    with contextlib.suppress(OSError):
        os.chdir(folder)
    sys.path[:] = path
    todo, busy = queue.SimpleQueue[bytes](), threading.Event()
    _thread(lambda: _receive(todo, busy))
    while True:
        busy.clear()
        message = todo.get()
        busy.set()
        signal.signal(signal.SIGTERM, _unwind)
        os.environ[MARK] = environment[MARK]  # whatever the work before has done to it
        try:
            work, args = pickle.loads(message)
            answer = pickle.dumps(("done", work(*args)))
        except Ended:
            os._exit(1)
        except BaseException as error:
            answer = _pack_error(error)
        _end_copies()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            _pipe.send_bytes(answer)
        except OSError:  # its work has closed the pipe, or the main process is gone
            os._exit(1)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended


def _pack_error(error: BaseException) -> bytes:
    """An exception, or where it does not travel what it says."""
    with contextlib.suppress(Exception):
        answer = pickle.dumps(("raised", error))
        if isinstance(error, Exception) and pickle.loads(answer):
            return answer
    text = "".join(traceback.format_exception(error))
    return pickle.dumps(("raised", RuntimeError(text)))


def _receive(todo: queue.SimpleQueue[bytes], busy: threading.Event) -> None:
    """Take what comes, also during work: the main process may be gone."""
    assert _pipe is not None
    with contextlib.suppress(EOFError, OSError):
        while True:
            todo.put(_pipe.recv_bytes())
    if not busy.is_set():  # nothing is to be unwound, and signals may be blocked
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
