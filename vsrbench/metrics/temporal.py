"""Temporal consistency: what changes from frame to frame and should not."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, PairFlow, Sample, Score, size_text
from vsrbench.flow.estimators import Farneback, best_estimator, raft
from vsrbench.flow.masks import occlusion_mask, visible, visible_mask
from vsrbench.flow.warp import warp
from vsrbench.metrics import find_weights
from vsrbench.metrics.base import MeanMetric, gt_of, require_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsrbench.core.types import Frame

    Float64 = np.ndarray[Any, np.dtype[np.float64]]


def warping_errors(
    previous: tuple[Frame, ...],
    current: tuple[Frame, ...],
    motion: PairFlow,
    device: str = "cpu",
) -> tuple[list[float], float]:
    """Warping error of each clip's pair of uint8 frames, and the share of pixels that it covers.

    Each frame of `current` is warped onto the grid of its `previous` by motion.forward, in float32;
    the error is the squared difference in 0..1, averaged over channels and over `visible_mask`.
    Where no pixel is visible all are 0. Lai et al., ECCV 2018, code convention (a third of the
    paper's squared norm). device: where that is computed.
    """
    seen, at = visible(motion, device)
    covered = int(seen.sum())
    if not covered:
        return [0.0] * len(previous), 0.0
    errors = list[float]()
    shown = seen.float()
    for number, (before, after) in enumerate(zip(previous, current, strict=True)):
        if number and before is previous[0] and after is current[0]:
            errors.append(errors[0])
            continue
        old = torch.from_numpy(np.stack(cv2.split(before))).to(device)
        sums = at.sample(after).sub_(old).square_().mul_(shown).sum((1, 2))
        errors.append(float(sums.double().sum()) / (3 * covered) / 255**2)
    return errors, covered / seen.numel()


def excess_change(
    previous: Frame, frame: Frame, reference_previous: Frame, reference: Frame
) -> float:
    """Mean of max(0, |change of the output| - |change of the reference|) in 8-bit levels."""
    own, theirs = cv2.absdiff(frame, previous), cv2.absdiff(reference, reference_previous)
    more = cv2.subtract(own, theirs)  # which stops at 0
    return float(sum(cv2.sumElems(more)) / more.size)


CUT = 0.25
"""A pair of which the reference shows less than this share in both frames is a scene cut: ordinary
pairs have 0.8 to 0.98, cuts with estimated flow 0.07 or less, with exact flow 0."""


class _Coverage:
    """How much of each pair a warping error covers, and what follows for the mean.

    A scene cut is decided on the reference alone, the same for all methods; it is 0 in `per_frame`
    and left out of the mean. Beside the value stand `valid_share`, the share of visible pixels of
    each pair, `valid_ratio`, their mean, and `pairs_left_out`.
    """

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._kept: list[bool] = []

    def add(self, share: float, kept: bool) -> None:
        """Take the share of visible pixels of the next pair, and whether it counts."""
        self._shares.append(share)
        self._kept.append(kept)

    def mean(self, values: Sequence[float]) -> float:
        """Mean of one value a pair. Raises DataError when no pair could be compared."""
        kept = [v for v, counts in zip(values, self._kept, strict=True) if counts]
        if not kept:
            raise DataError("every pair of frames is a scene cut: too little is visible in both")
        return fmean(kept)

    def apply(self, score: Score, **extra: float | str) -> Score:
        """The score with its mean over the pairs that count. Raises DataError as `mean`."""
        about: dict[str, float | str | tuple[float, ...]] = {
            "valid_ratio": fmean(self._shares),
            "valid_share": tuple(self._shares),
            "pairs_left_out": float(self._kept.count(False)),
        }
        return replace(score, value=self.mean(score.per_frame), extra=about | extra)


class EWarp(MeanMetric):
    """`warping_errors` of each pair by the motion of the reference, times 1000.

    Beside the value `excess`: how much it lies above that of the reference itself, over the same
    pixels; what is smoother than the reference has less than 0. Also what `_Coverage` tells.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._previous: tuple[Frame, Frame] | None = None
        self._coverage = _Coverage()
        self._excess: list[float] = []

    def score(self, sample: Sample) -> float | None:
        """Error of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, sample.reference)
        if previous is None:
            return None
        if sample.flow is None:
            raise DataError(f"frame {sample.index}: the motion of the reference is not known")
        if sample.flow.forward.shape[:2] != sample.sr.shape[:2]:
            raise DataError(
                f"frame {sample.index}: output is {size_text(sample.sr.shape[:2])}, "
                f"its flow {size_text(sample.flow.forward.shape[:2])}"
            )
        (own, real), covered = warping_errors(previous, self._previous, sample.flow, self.device)
        counts = covered >= CUT
        self._coverage.add(covered, counts)
        self._excess.append(1000 * (own - real) * counts)
        return 1000 * own * counts

    def result(self) -> Score:
        """Mean over the pairs. Raises DataError when no pair could be compared."""
        return self._coverage.apply(super().result(), excess=self._coverage.mean(self._excess))


class EWarpSelf(MeanMetric):
    """`warping_errors` of each pair by motion that is estimated on the output, times 1000.

    Beside the value `flow`, the name of the estimator, and what `_Coverage` tells.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._estimator = best_estimator(device)
        self._previous: tuple[Frame, Frame] | None = None
        self._coverage = _Coverage()

    def score(self, sample: Sample) -> float | None:
        """Error of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, sample.reference)
        if previous is None:
            return None
        motion = self._estimator.both(previous[0], sample.sr)
        (error,), covered = warping_errors(previous[:1], (sample.sr,), motion, self.device)
        seen = covered
        if not (_same(*previous) and _same(sample.sr, sample.reference)):
            real = sample.flow or self._estimator.both(previous[1], sample.reference)
            seen = float(visible_mask(real).mean())
        counts = seen >= CUT
        self._coverage.add(covered, counts)
        return 1000 * error * counts

    def result(self) -> Score:
        """Mean over the pairs. Raises DataError when no pair could be compared."""
        return self._coverage.apply(super().result(), flow=self._estimator.name)


def _same(a: Frame, b: Frame) -> bool:
    return a is b or np.array_equal(a, b)


class EWarpEvalCrafter(MeanMetric):
    """E*_warp as EvalCrafter's code computes it, times 1000; only to compare with printed numbers.

    Frames in 0..1 are halved (bilinear, pixel centres), padded to multiples of 8 by repeating the
    border on both sides, and given to RAFT (20 updates), which divides by 255 again; the padding
    stays. The error of a pair is the squared difference, summed over channels, divided by the
    number of pixels that the masks of Lai et al. leave. Only pairs without any are left out: that
    code knows no cuts.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._raft = raft(find_weights(info.name), device)
        self._halved: torch.Tensor | None = None
        self._coverage = _Coverage()

    def score(self, sample: Sample) -> float | None:
        """Error of the pair that this frame ends."""
        require_side(242, sample.sr)
        before, self._halved = self._halved, _halved(sample.sr)
        if before is None:
            return None
        # RAFT expects 0..255 and maps it to -1..1; what it gets here lies in 0..1.
        a, b = 2 * before / 255 - 1, 2 * self._halved / 255 - 1
        forward, backward = self._raft.net.between(a, b, 20)
        shown = ~occlusion_mask(forward, backward)
        self._coverage.add(float(shown.mean()), bool(shown.any()))
        previous, current = (x.permute(1, 2, 0).numpy() for x in (before, self._halved))
        squares = np.square(warp(current, forward) - previous)[shown]
        return 1000 * float(squares.sum()) / max(1, len(squares))

    def result(self) -> Score:
        """Mean over the pairs. Raises DataError when no pair could be compared."""
        return self._coverage.apply(super().result(), flow=self._raft.name)


def _halved(frame: Frame) -> torch.Tensor:
    """A uint8 frame as float32 3 x H/2 x W/2 in 0..1, padded as RAFT's own scripts do."""
    x = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
    x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    h, w = (-side % 8 for side in x.shape[2:])
    return F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate")[0]


class TOF(MeanMetric):
    """tOF of each pair: mean length in px of the difference of two flows, Chu et al., TOG 2020.

    One is that of the output, the other that of the ground truth, both by `Farneback`.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._estimator = Farneback()
        self._previous: tuple[Frame, Frame] | None = None

    def score(self, sample: Sample) -> float | None:
        """Difference of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, gt_of(sample))
        if previous is None:
            return None
        own, true = map(self._estimator.estimate, previous, self._previous)
        return float(cv2.magnitude(*cv2.split(own - true)).mean(dtype=np.float64))


class Flicker(MeanMetric):
    """`excess_change` of each pair against the reference."""

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._previous: tuple[Frame, Frame] | None = None

    def score(self, sample: Sample) -> float | None:
        """Excess change of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, sample.reference)
        if previous is None:
            return None
        return excess_change(previous[0], sample.sr, previous[1], sample.reference)


class FlickerVBench(MeanMetric):
    """(255 - mean absolute difference) / 255 of each pair. Huang et al., CVPR 2024."""

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._previous: Frame | None = None

    def score(self, sample: Sample) -> float | None:
        """Stillness of the pair that this frame ends."""
        previous, self._previous = self._previous, sample.sr
        if previous is None:
            return None
        return 1 - float(cv2.absdiff(previous, sample.sr).mean(dtype=np.float64)) / 255


class SecondDifference(MeanMetric):
    """`luma_flicker` and `profile_roughness`: three successive frames against the reference's.

    x is the mean luma of a frame (pumping brightness, but no steady fade), or the luma of every
    pixel (jagged traces in temporal profiles, over all rows).

    The number of three frames is the mean of |x_(t+1) - 2 x_t + x_(t-1)| of the output, minus that
    of the reference, which stands beside the value as `reference`. Below 0 the output is steadier.
    """

    fewest = "three frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._last: list[Float64] = []
        self._real: list[float] = []

    def score(self, sample: Sample) -> float | None:
        """Excess of the three frames that this one ends."""
        weights = np.array([0.299, 0.587, 0.114])
        both = np.stack([frame @ weights for frame in (sample.sr, sample.reference)])
        if self.info.name == "luma_flicker":
            both = both.mean((1, 2))
        self._last = [*self._last[-2:], both]
        if len(self._last) < 3:
            return None
        bend = np.abs(self._last[2] - 2 * self._last[1] + self._last[0])
        own, real = (float(x.mean()) for x in bend)
        self._real.append(real)
        return own - real

    def result(self) -> Score:
        """Mean and values. Raises DataError when there were fewer than three frames."""
        return replace(super().result(), extra={"reference": fmean(self._real)})


class TemporalStd(MeanMetric):
    """Standard deviation of every pixel and channel over the frames, averaged over both, in levels.

    Minus that of the reference, which stands beside the value as `reference`: what a fixed camera
    sees stands still, so all of it is noise. One value a clip; memory does not grow with frames.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._count = 0
        self._mean, self._squares = np.zeros(0), np.zeros(0)

    def score(self, sample: Sample) -> None:
        """Take the frame into mean and squared deviation, by the recurrence of Welford (1962)."""
        both = np.stack((sample.sr, sample.reference)).astype(np.float64)
        self._count += 1
        if self._count == 1:
            self._mean, self._squares = both, np.zeros_like(both)
            return
        step = both - self._mean
        self._mean += step / self._count
        self._squares += step * (both - self._mean)

    def result(self) -> Score:
        """The excess. Raises DataError when there were fewer than two frames."""
        if self._count < 2:
            raise DataError(f"needs at least {self.fewest}")
        deviation = np.sqrt(self._squares / (self._count - 1))
        own, real = (float(x.mean()) for x in deviation)
        return Score(own - real, (own - real,), {"reference": real})
