"""Jobs to records on one device, here, or on several, in a process for each."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import torch

from vsrbench.core import processes
from vsrbench.core.errors import ContractError, UserError
from vsrbench.core.types import Method, MethodCard, Record
from vsrbench.flow.estimators import Estimator, best_estimator
from vsrbench.run.evaluate import Context, evaluate
from vsrbench.run.method import foreign_error, load_method, no_tf32
from vsrbench.run.plan import Job

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Watcher(Protocol):
    """Is told how the jobs go, perhaps from another thread."""

    def start(self, label: str) -> None:
        """A job begins."""

    def tick(self) -> None:
        """One more frame is done."""

    def once(self, text: str) -> None:
        """Something that a user should know; the same line may come again and again."""


@dataclass(frozen=True)
class Shared:
    """What the jobs of a run share, wherever they run."""

    run_id: str
    needs_flow: bool
    """Some metric asks for motion that is not known."""
    cache: Path
    """Folder of cached flow fields."""
    preset: str = ""
    """Preset of metrics that was asked for."""


Done = tuple[Job, Iterable[Record]]
"""A job and its records. Iterating raises UserError where `evaluate` does."""


def label(job: Job) -> str:
    """What a job is called."""
    return f"{job.card.name}  {job.clip.dataset}/{job.clip.name}"


class Loader:
    """The method in use: loaded when first needed, one at a time in memory."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._card: MethodCard | None = None
        self._method: Method | None = None

    def load(self, card: MethodCard) -> Method:
        """The method of this card. Raises UserError."""
        if self._method is None or card != self._card:
            self._method = None  # its memory goes before the next one comes
            gc.collect()
            torch.cuda.empty_cache()
            self._method = load_method(card, self.device)
            self._card = card
        return self._method


def run(
    jobs: Sequence[Job],
    devices: Sequence[str],
    shared: Shared,
    estimator: Estimator | None,
    watcher: Watcher,
) -> Iterator[Done]:
    """Every job with its records: in order on one device, on several as they end.

    devices: torch devices; one that is named twice runs two jobs at a time. estimator: of a single
    device; other processes make their own. Raises ContractError when the single one is lost.
    """
    if len(devices) == 1:
        context = _context(shared, devices[0], estimator, watcher.tick, watcher.once)
        loader = Loader(devices[0])
        for job in jobs:
            watcher.start(label(job))
            yield job, evaluate(job, partial(loader.load, job.card), context)
            if why := _lost(devices[0]):
                raise ContractError(
                    f"{devices[0]} answers nothing more since {label(job)}: {why}",
                    "run again: what is done is kept; leave out what ends here again",
                )
    else:
        yield from _in_processes(jobs, devices, shared, watcher)


def _context(
    shared: Shared,
    device: str,
    estimator: Estimator | None,
    tick: Callable[[], None],
    note: Callable[[str], None],
) -> Context:
    return Context(shared.run_id, device, estimator, shared.cache, tick, note, shared.preset)


def _in_processes(
    jobs: Sequence[Job], devices: Sequence[str], shared: Shared, watcher: Watcher
) -> Iterator[Done]:
    """A process that dies fails the job that it was at; another takes its place.

    Also of one that has lost its device.
    """
    heard, told = get_context("spawn").Pipe(duplex=False)
    listener = threading.Thread(target=_listen, args=(heard, watcher), daemon=True)
    listener.start()
    threads = max(1, torch.get_num_threads() // len(devices))

    def worker(device: str) -> ProcessPoolExecutor:
        return processes.one(_begin, shared, device, threads, told)

    pools = [worker(device) for device in devices[: len(jobs)]]
    waiting, idle = deque(jobs), deque(range(len(pools)))
    running: dict[Future[_Found], tuple[Job, int]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                job, place = waiting.popleft(), idle.popleft()
                watcher.start(label(job))
                try:
                    future = processes.submit(pools[place], _work, job)
                except BrokenProcessPool:  # it died of something else meanwhile
                    pools[place] = worker(devices[place])
                    future = processes.submit(pools[place], _work, job)
                running[future] = job, place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, place = running.pop(future)
                idle.append(place)
                try:
                    records, error, lost = future.result()
                    if lost:
                        processes.end(pools[place])
                        pools[place] = worker(devices[place])
                    yield job, _kept(records, error)
                except BrokenProcessPool:
                    pools[place] = worker(devices[place])
                    died = ContractError(
                        f"'{job.card.name}' ended its process on clip '{job.clip.name}'",
                        "most likely out of memory: take smaller clips, or fewer jobs at a time",
                    )
                    context = _context(shared, devices[place], None, watcher.tick, watcher.once)
                    yield job, evaluate(replace(job, error=died), _no_method, context)
        for pool in pools:
            pool.shutdown()
    finally:
        processes.end(*pools)
        told.close()
        listener.join()


def _lost(device: str) -> str:
    """What a GPU answers to every call of this process since a kernel failed in it; else ''.

    Memory that ran out is no such thing: there the next call can go well.
    """
    if device != "cpu" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            return str(error).partition("\n")[0]
    return ""


def _kept(records: list[Record], error: UserError | None) -> Iterator[Record]:
    yield from records
    if error is not None:
        raise error


def _no_method() -> Method:
    raise AssertionError("a job that has failed loads no method")


FRAME = "frame"
"""What a process tells after a frame, beside lines for the user."""


def _tell(told: Connection, text: str) -> None:
    """Several processes write into one pipe: a short message arrives whole, and no lock is left
    behind by a process that is killed.
    """
    told.send_bytes(text.encode()[:2048])


def _listen(heard: Connection, watcher: Watcher) -> None:
    """Hand on what is told, until nobody is left to tell."""
    with suppress(EOFError):
        while text := heard.recv_bytes().decode(errors="ignore"):
            if text == FRAME:
                watcher.tick()
            else:
                watcher.once(text)


_here: dict[str, Any] = {}
"""Of a process that works for another: what `_begin` and `_context_here` have made."""


def _begin(shared: Shared, device: str, threads: int, told: Connection) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    no_tf32()
    _here.update(shared=shared, device=device, told=told, loader=Loader(device))


def _context_here() -> Context:
    """Made with the first job, so that it is a job that fails where this does. Raises UserError."""
    if "context" not in _here:
        shared, device, tell = _here["shared"], _here["device"], partial(_tell, _here["told"])
        try:
            estimator = best_estimator(device) if shared.needs_flow else None
        except Exception as error:
            raise foreign_error("flow", f"on {device}", error) from error
        _here["context"] = _context(shared, device, estimator, partial(tell, FRAME), tell)
    context: Context = _here["context"]
    return context


_Found = tuple[list[Record], UserError | None, str]
"""The records of a job, what it raised beside them, and what `_lost` says after it."""


def _work(job: Job) -> _Found:
    records: list[Record] = []
    with processes.unwinding():
        try:
            context = _context_here()
        except UserError as error:
            job = replace(job, error=error)
            context = _context(_here["shared"], _here["device"], None, lambda: None, print)
        try:
            for record in evaluate(job, partial(_here["loader"].load, job.card), context):
                records.append(record)
        except UserError as error:
            return records, error, _lost(_here["device"])
        return records, None, _lost(_here["device"])
