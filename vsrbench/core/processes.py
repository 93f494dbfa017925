"""Processes of our own: spawned, deaf to Ctrl-C, which the main one answers, and ended with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def one(prepare: Callable[..., object] | None = None, *args: Any) -> ProcessPoolExecutor:
    """A pool of one fresh process, which calls `prepare(*args)` first. Use `submit` on it."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (prepare, args))


def submit(
    pool: ProcessPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Have the process do some work. Raises BrokenProcessPool when it has died meanwhile."""
    # The first call spawns it. Ctrl-C reaches every process of a terminal, also one that is still
    # starting and cannot say yet that it does not care.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(work, *args, **kwargs)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def unwinding() -> Iterator[None]:
    """Around work: a process that is told to end unwinds it first.

    A program that it has started is in a group of its own, and would go on.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def end(*pools: ProcessPoolExecutor) -> None:
    """End the processes now, and the programs that they have started."""
    for pool in pools:
        for process in list((pool._processes or {}).values()):
            process.terminate()
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def _begin(prepare: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, daemon=True).start()
    if prepare:
        prepare(*args)


def _follow() -> None:
    """End with the main process, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
