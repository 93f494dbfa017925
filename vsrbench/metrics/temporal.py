"""Temporal consistency: what changes from frame to frame and should not."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from vsrbench.errors import DataError
from vsrbench.flow import visible_mask, warp
from vsrbench.metrics import MeanMetric
from vsrbench.types import PairFlow, Sample, Score

if TYPE_CHECKING:
    from vsrbench.types import Frame


def warping_error(previous: Frame, frame: Frame, motion: PairFlow) -> tuple[float, float]:
    """Warping error of a pair of uint8 frames and the share of pixels that it covers.

    `frame` is warped onto the grid of `previous` by motion.forward; the error is the squared
    difference in 0..1, averaged over channels and over `visible_mask`. Where no pixel is visible
    both are 0. Lai et al., ECCV 2018, code convention (a third of the paper's squared norm).
    """
    visible = visible_mask(motion)
    covered = int(visible.sum())
    if not covered:
        return 0.0, 0.0
    difference = (previous - warp(frame, motion.forward))[visible]
    return float(np.square(difference).mean()) / 255**2, covered / visible.size


def excess_change(
    previous: Frame, frame: Frame, reference_previous: Frame, reference: Frame
) -> float:
    """Mean of max(0, |change of the output| - |change of the reference|) in 8-bit levels."""
    own = np.abs(np.subtract(frame, previous, dtype=np.int16))
    theirs = np.abs(np.subtract(reference, reference_previous, dtype=np.int16))
    return float(np.maximum(own - theirs, 0).mean())


class EWarp(MeanMetric):
    """`warping_error` of each pair, times 1000.

    A pair without a visible pixel, as at a scene cut of exact motion, is 0 in `per_frame` and left
    out of the mean. Beside the value: `valid_ratio`, the mean share of visible pixels over all
    pairs, and `pairs_left_out`.
    """

    fewest = "two frames"

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._previous: Frame | None = None
        self._covered: list[float] = []

    def score(self, sample: Sample) -> float | None:
        """Error of the pair that this frame ends."""
        previous, self._previous = self._previous, sample.sr
        if previous is None:
            return None
        if sample.flow is None:
            raise DataError(f"frame {sample.index}: the motion of the reference is not known")
        if sample.flow.forward.shape[:2] != sample.sr.shape[:2]:
            raise DataError(
                f"frame {sample.index}: output is {sample.sr.shape[:2]}, "
                f"flow {sample.flow.forward.shape[:2]}"
            )
        error, covered = warping_error(previous, sample.sr, sample.flow)
        self._covered.append(covered)
        return 1000 * error

    def result(self) -> Score:
        """Mean over the pairs. Raises DataError when no pair could be compared."""
        score = super().result()
        kept = [v for v, c in zip(self._values, self._covered, strict=True) if c]
        if not kept:
            raise DataError("no pixel of the reference is visible in two successive frames")
        extra = {
            "valid_ratio": fmean(self._covered),
            "pairs_left_out": float(len(self._values) - len(kept)),
        }
        return replace(score, value=fmean(kept), extra=extra)


class Flicker(MeanMetric):
    """`excess_change` of each pair against the reference."""

    fewest = "two frames"

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._previous: tuple[Frame, Frame] | None = None

    def score(self, sample: Sample) -> float | None:
        """Excess change of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, sample.reference)
        if previous is None:
            return None
        return excess_change(previous[0], sample.sr, previous[1], sample.reference)
