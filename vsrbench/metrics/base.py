"""What all metrics share: one number a frame or pair, averaged over the clip."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample, Score, size_text

if TYPE_CHECKING:
    from vsrbench.core.types import Frame


class MeanMetric(ABC):
    """Base of the metrics: one number a frame or pair, averaged over the clip."""

    fewest = "one frame"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        """info: the metric's entry. device: where networks run; the others ignore it."""
        self.info, self.device = info, device
        self._values: list[float] = []

    @abstractmethod
    def score(self, sample: Sample) -> float | None:
        """The number of this frame, or of the pair that it ends; None when it ends no pair."""

    def update(self, sample: Sample) -> None:
        """Take the next frame. Raises DataError if it cannot be scored."""
        value = self.score(sample)
        if value is None:
            return
        if not math.isfinite(value):
            raise DataError(
                f"{self.info.title} has no finite value at frame {sample.index}",
                "flat or very small pictures cannot be scored by it",
            )
        self._values.append(value)

    def result(self) -> Score:
        """Mean and values. Raises DataError when there were too few frames."""
        if not self._values:
            raise DataError(f"needs at least {self.fewest}")
        return Score(fmean(self._values), tuple(self._values))


def worst_second(
    values: Sequence[float], fps: float, higher_is_better: bool
) -> tuple[float, int] | None:
    """Worst mean over one second of values of successive pairs, and the pair it begins with.

    None for less than a second, or where `fps` is not known (0).
    """
    length = round(fps)
    if length < 1 or len(values) < length:
        return None
    means = [fmean(values[i : i + length]) for i in range(len(values) - length + 1)]
    worst = min(means) if higher_is_better else max(means)
    return worst, means.index(worst)


def gt_of(sample: Sample) -> Frame:
    """The ground truth of a frame. Raises DataError if there is none or its size differs."""
    if sample.gt is None:
        raise DataError("needs ground truth", "use a dataset with GT or give --gt")
    if sample.gt.shape != sample.sr.shape:
        raise DataError(
            f"frame {sample.index}: output is {size_text(sample.sr.shape[:2])}, "
            f"ground truth {size_text(sample.gt.shape[:2])}",
            "they are never cropped or resized silently",
        )
    return sample.gt


def require_side(side: int, frame: Frame) -> None:
    """Raise DataError if a side of the frame is shorter than `side` px."""
    if min(frame.shape[:2]) < side:
        raise DataError(f"needs frames of {side} px a side, got {size_text(frame.shape[:2])}")
