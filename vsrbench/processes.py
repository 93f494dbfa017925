"""Processes of our own: spawned, deaf to Ctrl-C, which the main one answers, and ended by it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def one(prepare: Callable[..., object] | None = None, *args: Any) -> ProcessPoolExecutor:
    """A pool of one fresh process, which calls `prepare(*args)` first.

    Ctrl-C reaches every process of a terminal: this one ignores it, and the main one decides.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (prepare, args))


def end(pool: ProcessPoolExecutor) -> None:
    """End the process now, and the programs that it has started."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(cancel_futures=True)


def _begin(prepare: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Terminated, it unwinds: a program that it has started has a process group of its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if prepare:
        prepare(*args)
