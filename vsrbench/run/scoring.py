"""Metrics at work beside the method that they score: frame by frame, on threads of their own.

What numpy, OpenCV and torch compute lets other threads run. While the method makes a frame, the
metrics score the two before; memory holds these three.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Metric, PairFlow, Sample

BEHIND = 2
"""Frames that wait for a metric or are being scored by it, at most."""
RECENT = BEHIND + 2
"""Frames that are kept for other threads: those that wait, the one before, of which the first makes
a pair, and the one that is being made."""


class Shared(Sequence["Frame"]):
    """Frames for several threads, each read once while it is recent. They are not to be changed."""

    def __init__(self, source: Sequence[Frame]) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._recent: dict[int, Frame] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        with self._lock:
            if index not in self._recent:
                self._recent[index] = self.source[index]
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
            return self._recent[index]


class Panel:
    """Running metrics, as a context: `take` a frame, and those that follow while they score it.

    They are grouped by what they share: those that need motion wait for the same flow, networks
    have one device. A group scores one frame at a time, in order, and waits for no other group. A
    metric that raises is left out from there on. When the context ends without an exception, all
    frames are scored.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        chosen: Mapping[str, Container[int]],
        moving: Container[str],
        motion: Callable[[int], PairFlow] | None,
        failure: Callable[[str, str, Exception], Mapping[str, str]],
    ) -> None:
        """chosen: metric -> numbers of the frames that it is shown. moving: metrics of motion.

        motion: that between frames t and t + 1, cut as frames are. failure: what is kept of an
        exception, given who raised it and where.

        There are as many threads as torch uses. Where that is one, `take` does all of the work.
        """
        import torch  # here: the main process of a run imports this module

        self.metrics = dict(metrics)
        """Those that have not failed."""
        self.failures: dict[str, Mapping[str, str]] = {}
        """What became of the others."""
        self._chosen, self._motion, self._failure = chosen, motion, failure
        groups = dict[str, list[str]]()
        for name, metric in metrics.items():
            parts = vars(metric).values()
            network = any(isinstance(part, torch.nn.Module) for part in parts)
            kind = "motion" if name in moving else "networks" if network else name
            groups.setdefault(kind, []).append(name)
        long = ("motion", "networks")
        self._moving = groups.get("motion")
        self._groups = sorted(groups.values(), key=lambda g: g not in map(groups.get, long))
        workers = min(torch.get_num_threads(), len(groups))
        self._pool = ThreadPoolExecutor(workers) if torch.get_num_threads() > 1 and groups else None
        self._waiting: list[deque[Sample]] = [deque() for _ in self._groups]
        """Frames that each group is to score; the first may be at work."""
        self._changed = threading.Condition()
        self._raised: BaseException | None = None

    def __enter__(self) -> Panel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            if self._pool is not None:  # nobody waits where the process is told to end
                self._pool.shutdown(
                    kind is None or issubclass(kind, Exception), cancel_futures=True
                )

    def take(self, sample: Sample) -> None:
        """Have this frame scored, once no group has `BEHIND` frames before it to score."""
        self._wait(BEHIND - 1)
        for number, group in enumerate(self._groups):
            if self._pool is None:
                self._score(group, sample)
                continue
            with self._changed:
                self._waiting[number].append(sample)
                if len(self._waiting[number]) == 1:
                    self._pool.submit(self._work, self._pool, number)

    def settle(self) -> None:
        """Wait until all frames so far are scored."""
        self._wait(0)

    def _wait(self, most: int) -> None:
        """Until no group has more frames than this to score; raises what ended a thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._raised or max(map(len, self._waiting), default=0) <= most
            )
        if self._raised:
            raise self._raised

    def _work(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Score the next frame of a group, and have the one after it scored."""
        waiting = self._waiting[number]
        try:
            self._score(self._groups[number], waiting[0])
        except BaseException as error:  # such as SystemExit in code of others
            self._raised = error
        with self._changed:
            waiting.popleft()
            if waiting and not self._raised:
                with suppress(RuntimeError):  # the pool has been shut down
                    pool.submit(self._work, pool, number)
            self._changed.notify()

    def _score(self, group: Sequence[str], sample: Sample) -> None:
        names, at = [n for n in group if n in self.metrics], f"at frame {sample.index}"
        if names and group is self._moving and self._motion is not None and sample.index:
            try:
                sample = replace(sample, flow=self._motion(sample.index - 1))
            except Exception as error:
                self._drop(names, "flow", at, error)
                return
        for name in names:
            if sample.index in self._chosen[name]:
                try:
                    self.metrics[name].update(sample)
                except Exception as error:
                    self._drop([name], f"metric '{name}'", at, error)

    def _drop(self, names: Sequence[str], who: str, at: str, error: Exception) -> None:
        # Not the exception itself, which would hold on to the tensors of the code that failed.
        self.failures |= dict.fromkeys(names, self._failure(who, at, error))
        for name in names:
            del self.metrics[name]
