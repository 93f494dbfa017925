"""The worst second of a clip, as sheets of small frames that the page plays in a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.types import Record
from vsrbench.metrics import find_recorded
from vsrbench.results.summary import GT
from vsrbench.show.figures.choice import FIRST
from vsrbench.show.figures.kept import LQ
from vsrbench.show.figures.pictures import Box, window_mean

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

FPS = 12.0
"""Of frames that do not say how fast they go."""
LONGEST = 60
"""Frames of a loop at most."""


@dataclass(frozen=True)
class Loop:
    """A part of a clip in time and space."""

    first: int
    """Number of its first frame."""
    count: int
    """Frames."""
    fps: float
    """Frames per second at which it is played."""
    box: Box
    """x, y, width, height in px of the output frame."""
    rule: str
    """How time and place were chosen."""
    sheets: Mapping[str, str]
    """Method -> its frames one below the other, lossless, as a data URI."""


def make_worst_loop(
    sources: Mapping[str, Sequence[Frame]],
    records: Sequence[Record],
    uri: Callable[[Frame], str],
) -> Loop | None:
    """The second in which the methods do worst in time, where they depart most from the reference.

    sources: method -> frames of one size. records: the scores of their clip. uri: makes a picture
    a data URI. None for a single frame.
    """
    total = len(next(iter(sources.values())))
    if total < 2:
        return None
    fps = max((r.fps for r in records), default=0.0) or FPS
    count = min(total, max(2, min(LONGEST, round(fps))))
    first, when = _worst_second(records, total, count)
    steps = range(first, first + count)
    box, where = _restless_box(sources, steps)
    x, y, w, h = box
    sheets = {
        method: uri(np.concatenate([source[t][y : y + h, x : x + w] for t in steps]))
        for method, source in sources.items()
    }
    return Loop(first, count, fps, box, f"{when}; {where}", sheets)


def _worst_second(records: Sequence[Record], total: int, count: int) -> tuple[int, str]:
    """(first frame, rule) of the second with the worst mean over the methods."""
    if total == count:
        return 0, "the whole clip"
    found: dict[str, list[Record]] = {}
    for r in records:
        if r.method not in (GT, LQ) and r.status == "ok" and len(r.per_frame) in (total, total - 1):
            found.setdefault(r.metric, []).append(r)
    # Metrics of motion first: what a still cannot show.
    order = ("ewarp", "flicker", *FIRST, *found)
    for name in order:
        info = find_recorded(found[name][0]) if name in found else None
        if info is None or not info.better:
            continue
        values = np.mean([r.per_frame for r in found[name]], axis=0)
        if info.better == "one":
            values = -abs(values - 1)
        length = count - (info.span == "pair")
        means = np.convolve(values, np.full(length, 1 / length), "valid")
        worst = means.argmax() if info.better == "lower" else means.argmin()
        return int(worst), f"the second with the worst {info.title}, mean over the methods"
    return (total - count) // 2, "the second in the middle"


def _restless_box(sources: Mapping[str, Sequence[Frame]], steps: range) -> tuple[Box, str]:
    """The window in which change from frame to frame departs most from that of the reference."""
    import cv2

    reference = GT if GT in sources else next(m for m in sources if m != LQ)
    others = [m for m in sources if m not in (reference, LQ, GT)]
    before: dict[str, Any] = {}
    height, width = sources[reference][steps.start].shape[:2]
    total = np.zeros((height, width), np.float32)
    for t in steps:
        now = {m: cv2.cvtColor(sources[m][t], cv2.COLOR_RGB2GRAY) for m in (reference, *others)}
        if before:
            change = {m: cv2.subtract(now[m], before[m], dtype=cv2.CV_16S) for m in now}
            own = change.pop(reference)
            for other in change.values() or [np.zeros_like(own)]:
                total += cv2.absdiff(other, own)
        before = now
    side = max(2, 2 * round(min(max(width / 5, 64), 144, height, width) / 2 - 0.25))
    side = min(side, height, width)
    means = window_mean(total, side)
    y, x = np.unravel_index(int(np.argmax(means)), means.shape)
    what = "changes most" if not others else "departs most from the reference in its changes"
    return (int(x), int(y), side, side), f"the window that {what}"
