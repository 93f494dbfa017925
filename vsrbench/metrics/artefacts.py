"""What users of upscalers complain of: colours that shift, seams of chunks and of tiles, edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample, Score
from vsrbench.metrics.base import MeanMetric, gt_of, require_side

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Array = np.ndarray[Any, np.dtype[np.float64]]

CELLS = 8
"""Cells a side in which colours are compared."""
SHORTEST_CHUNK = 4
"""Pairs: shortest period of temporal seams."""
SMALLEST_TILE = 16
"""px: shortest period of spatial seams."""


def cell_colours(frame: Frame) -> Array:
    """Mean CIELAB colour (D65, from sRGB) of CELLS x CELLS cells of a uint8 frame."""
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    rows = np.array_split(lab, CELLS, axis=0)
    return np.array(
        [[cell.mean((0, 1), np.float64) for cell in np.array_split(r, CELLS, 1)] for r in rows]
    )


class ColourShift(MeanMetric):
    """Distance in CIELAB (delta E of 1976) between colours of output and LQ, over 64 cells.

    Cells hold the same part of both pictures, so that neither scale nor detail enters. Beside the
    mean over frames: `drift`, the mean distance of a frame's shift, as a vector over the whole
    picture, from the mean of all.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._shifts: list[Array] = []

    def score(self, sample: Sample) -> float:
        """Mean over cells of the distance. Raises DataError below 8 px of LQ."""
        if sample.lq is None:
            raise DataError("needs LQ", "use a dataset with LQ or give --lq")
        require_side(CELLS, sample.lq)
        shift = cell_colours(sample.sr) - cell_colours(sample.lq)
        self._shifts.append(shift.mean((0, 1)))
        return float(np.linalg.norm(shift, axis=2).mean())

    def result(self) -> Score:
        """Mean, values, and the drift."""
        score = super().result()
        shifts = np.array(self._shifts)
        drift = float(np.linalg.norm(shifts - shifts.mean(0), axis=1).mean())
        return Score(score.value, score.per_frame, {"drift": round(drift, 4)})


def periodic_jump(values: Array, shortest: int) -> tuple[float, int, int]:
    """The jump that comes back after every period, the period, and where the first one is.

    values: one number a position. The jump of a period, `shortest` or more, and a phase is the
    lowest of its positions, two at least, above the median of all. The largest jump wins, times how
    often it comes, so that a period is not taken for twice of it.
    (0, 0, 0) where no period has all of its positions above the median.
    """
    above = values - np.median(values)
    best, most = (0.0, 0, 0), 0.0
    for period in range(shortest, len(values) // 2 + 1):
        rows = -(-len(values) // period)
        padded = np.full(rows * period, np.inf)
        padded[: len(values)] = above
        table = padded.reshape(rows, period)
        lowest = table.min(0)
        weighted = lowest * np.isfinite(table).sum(0)
        first = int(weighted.argmax())
        if weighted[first] > most + 1e-9:
            most, best = float(weighted[first]), (float(lowest[first]), period, first)
    return best


class ChunkSeams:
    """Jump between frames that comes back after a fixed number of them, in 8-bit levels.

    The change from frame to frame (mean |o_t - o_(t-1)|) less that of the reference, then
    `periodic_jump`: methods that work in chunks of frames leave one at each border. Fewer than
    eight pairs hold no period of `SHORTEST_CHUNK` twice.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        self._changes: list[float] = []
        self._previous: tuple[Frame, Frame] | None = None

    def update(self, sample: Sample) -> None:
        """Take the next frame."""
        if self._previous is not None:
            own, true = (
                float(cv2.absdiff(now, before).mean())
                for now, before in zip((sample.sr, sample.reference), self._previous, strict=True)
            )
            self._changes.append(own - true)
        self._previous = sample.sr, sample.reference

    def result(self) -> Score:
        """The jump; `period` in frames and `first`, the frame it first comes before."""
        if len(self._changes) < 2 * SHORTEST_CHUNK:
            raise DataError(f"needs at least {2 * SHORTEST_CHUNK + 1} frames")
        jump, period, first = periodic_jump(np.array(self._changes), SHORTEST_CHUNK)
        where = {"period": float(period), "first": float(first + 1)} if period else {}
        return Score(jump, tuple(self._changes), where)


class TileSeams:
    """Step between columns or rows that comes back after a fixed number of px, in 8-bit levels.

    The mean over frames and lines of |o(x+1) - o(x)| of luma less that of the reference, then
    `periodic_jump` over x, and the same over y: methods that work in tiles leave one at each
    border. The larger of the two counts.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        self._sums: list[Array] | None = None
        self._per_frame: list[float] = []

    def update(self, sample: Sample) -> None:
        """Take the next frame. Raises DataError below 64 px a side."""
        require_side(4 * SMALLEST_TILE, sample.sr)
        own, true = (_steps(frame) for frame in (sample.sr, sample.reference))
        excess = [a - b for a, b in zip(own, true, strict=True)]
        self._per_frame.append(max(periodic_jump(e, SMALLEST_TILE)[0] for e in excess))
        before = self._sums or [np.zeros_like(e) for e in excess]
        self._sums = [a + b for a, b in zip(before, excess, strict=True)]

    def result(self) -> Score:
        """The step in the mean over frames; `period` and `first` in px, and `axis`."""
        if self._sums is None:
            raise DataError("needs at least one frame")
        found = [
            (*periodic_jump(total / len(self._per_frame), SMALLEST_TILE), axis)
            for total, axis in zip(self._sums, ("columns", "rows"), strict=True)
        ]
        jump, period, first, axis = max(found)
        where: dict[str, float | str] = (
            {"period": float(period), "first": float(first + 1), "axis": axis} if period else {}
        )
        return Score(jump, tuple(self._per_frame), where)


def _steps(frame: Frame) -> tuple[Array, Array]:
    """Mean step of luma between neighbouring columns, and between neighbouring rows."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.int16)
    across, down = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0))
    return across.mean(0, np.float64), down.mean(1, np.float64)


class ERQA(MeanMetric):
    """ERQA 1.1 of the package erqa: F1 of Canny edges of output and GT, shifts compensated.

    Kirillova et al., VISAPP 2022.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        from erqa import ERQA as Model

        super().__init__(info, device)
        self._model = Model(version="1.1")

    def score(self, sample: Sample) -> float:
        """The F1 of this frame."""
        output, truth = (np.ascontiguousarray(f[..., ::-1]) for f in (sample.sr, gt_of(sample)))
        return float(self._model(output, truth))
