"""Fidelity: how near an output is to the ground truth, or to its own input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from vsrbench.core.errors import DataError
from vsrbench.core.types import Sample
from vsrbench.metrics.base import MeanMetric, gt_of, require_side

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Float64 = np.ndarray[Any, np.dtype[np.float64]]

PSNR_CAP_DB = 80.0


def psnr(a: Frame, b: Frame) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of two uint8 frames.

    Capped at 80 dB, which identical frames get; pyiqa's epsilon of 1e-8 has the same ceiling.
    """
    return _decibels(cv2.norm(a, b, cv2.NORM_L2SQR) / a.size)  # the sum is exact


def _decibels(mse: float) -> float:
    """PSNR in dB of a mean squared error in 8-bit levels, capped at 80."""
    return min(PSNR_CAP_DB, -10 * math.log10(max(mse / 255**2, 10 ** (-PSNR_CAP_DB / 10))))


def luma(frame: Frame) -> Float64:
    """Y of YIQ, full range 0..255, rounded to whole levels: H x W float64."""
    weighted = frame @ np.array([0.299, 0.587, 0.114])
    rounded: Float64 = np.rint(weighted, out=weighted)
    return rounded


def limited_luma(frame: Frame) -> Float64:
    """Y of limited-range BT.601, 16..235, not rounded: H x W float64."""
    weighted: Float64 = 16 + frame @ (np.array([65.481, 128.553, 24.966]) / 255)
    return weighted


def psnr_y(a: Frame, b: Frame) -> float:
    """PSNR in dB of two uint8 RGB frames on `limited_luma`, capped at 80 dB."""
    return _decibels(float(np.square(limited_luma(a) - limited_luma(b)).mean()))


def ssim(a: Frame, b: Frame) -> float:
    """Structural similarity of two uint8 RGB frames on luma, 0..1.

    Wang et al., IEEE TIP 2004: 11 x 11 Gaussian window of sigma 1.5, valid part only,
    C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2, population covariances. As in pyiqa the
    contrast-structure term is clipped at 0. Raises DataError below 11 px.
    """
    require_side(11, a)
    return _mean_structure(luma(a), luma(b), _unsigned)


def ssim_y(a: Frame, b: Frame) -> float:
    """`ssim` on `limited_luma` with nothing clipped, -1..1, as BasicSR has it."""
    require_side(11, a)
    return _mean_structure(limited_luma(a), limited_luma(b), np.multiply)


def ssim_rgb(a: Frame, b: Frame) -> float:
    """`ssim` of each of R, G and B, averaged."""
    require_side(11, a)
    return _mean_structure(a.astype(np.float64), b.astype(np.float64), _unsigned)


def ms_ssim(a: Frame, b: Frame) -> float:
    """Multi-scale structural similarity of two uint8 RGB frames on luma, 0..1.

    Wang, Simoncelli and Bovik, Asilomar 2003: five scales, each half of the one before; the
    contrast terms of all and the brightness term of the last, to the powers of the paper. As in
    pyiqa halving takes means of 2 x 2, with a row of zeros above or a column of them left of odd
    sides. Raises DataError below 161 px.
    """
    require_side(161, a)
    x, y = luma(a), luma(b)
    score = 1.0
    for scale, power in enumerate(_MS_SSIM_POWERS, start=1):
        term = _mean_structure(x, y, _unsigned if scale == 5 else lambda _, c: np.maximum(c, 0))
        score *= term**power
        x, y = _halved(x), _halved(y)
    return score


_MS_SSIM_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _unsigned(brightness: Float64, contrast: Float64) -> Float64:
    """Both terms together; a contrast of the other sign counts as none."""
    return np.multiply(brightness, np.maximum(contrast, 0, out=contrast))


_ROWS = 64
"""Rows that are compared at a time: what is computed on the way stays in the cache."""


def _mean_structure(x: Float64, y: Float64, term: Callable[[Float64, Float64], Float64]) -> float:
    """Mean of a term of the brightness and the contrast-structure of two pictures.

    It is taken where the whole window lies inside, 5 px less at each side.
    """
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blur(z: Float64) -> Float64:
        return np.asarray(cv2.sepFilter2D(z, -1, taps, taps)[5:-5, 5:-5], np.float64)

    total, count = 0.0, 0
    for top in range(0, len(x) - 10, _ROWS):
        a, b = (z[top : top + _ROWS + 10] for z in (x, y))
        ma, mb = blur(a), blur(b)
        both = ma * mb
        squares = ma * ma + mb * mb
        variances = blur(a * a + b * b) - squares
        covariance = blur(a * b) - both
        found = term((2 * both + c1) / (squares + c1), (2 * covariance + c2) / (variances + c2))
        total, count = total + float(found.sum()), count + found.size
    return total / count


def _halved(x: Float64) -> Float64:
    h, w = x.shape
    x = np.pad(x, ((h % 2, 0), (w % 2, 0)))
    halved: Float64 = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    return halved


def lr_psnr(sr: Frame, lq: Frame) -> float:
    """PSNR in dB between the input and the output brought down to its size.

    The reduction is Pillow's bicubic, which is antialiased and rounds to 8 bit. Raises DataError
    if the output is not a whole multiple of the input.
    """
    h, w = lq.shape[:2]
    scale = sr.shape[0] // h
    if sr.shape[:2] != (h * scale, w * scale):
        raise DataError(
            f"output {sr.shape[1]}x{sr.shape[0]} is not a whole multiple of the input {w}x{h}",
            "crop both by the same region",
        )
    down = Image.fromarray(sr).resize((w, h), Image.Resampling.BICUBIC)
    return psnr(np.asarray(down), lq)


def gradient_energy(frame: Frame) -> float:
    """Mean squared difference of neighbours, right and below summed, of a uint8 frame in 0..1."""
    x = frame / np.float64(255)
    return float(sum(np.square(np.diff(x, axis=axis)).mean() for axis in (0, 1)))


def best_shift(sr: Frame, gt: Frame, radius: int = 8) -> tuple[float, float, float, float]:
    """Registration check: the shift at which a frame fits the ground truth best, to 1/4 px.

    Returns (dy, dx, PSNR at shift 0, PSNR at the best), the PSNR in dB on the interior that all
    shifts share. (dy, dx) is how far the content of `sr` lies below and right of that of `gt`:
    sr[y + dy, x + dx] matches gt[y, x]. Whole-pixel shifts are searched, and of equals the
    smallest wins; the quarters come from a parabola through the squared errors at the best one
    and its neighbours. (A search over interpolated frames would take their blur for a better fit.)
    What gains less than 0.1 dB is chance and counts as (0, 0); so does a best fit that leaves more
    than half of the variance of `gt`, as of noise. `radius` shrinks to a sixth of a small frame,
    though not below 3. Raises DataError if sizes differ or no interior is left.
    """
    if sr.shape != gt.shape:
        raise DataError(f"sizes differ: {sr.shape[1::-1]} and {gt.shape[1::-1]}")
    radius = max(min(radius, min(gt.shape[:2]) // 6), 3)
    require_side(2 * radius + 1, gt)
    h, w = gt.shape[0] - 2 * radius, gt.shape[1] - 2 * radius
    inner = gt[radius : radius + h, radius : radius + w]
    # All squared errors at once, by correlation: good to about 0.02 of a squared level.
    rough = cv2.matchTemplate(sr, inner, cv2.TM_SQDIFF) / inner.size
    rows, columns = (axis - radius for axis in np.nonzero(rough <= rough.min() + 0.05))
    near = sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda s: np.hypot(*s))
    scores: dict[tuple[int, int], float] = {}

    def score(shift: tuple[int, int]) -> float:
        dy, dx = shift
        if max(abs(dy), abs(dx)) > radius:
            return float("-inf")
        if shift not in scores:
            scores[shift] = psnr(sr[radius + dy :, radius + dx :][:h, :w], inner)
        return scores[shift]

    best = max(near[:9], key=score)
    whole = (*best, score(best))
    y, x = best

    def error(dy: int, dx: int) -> float:
        return float(10 ** (-score((dy, dx)) / 10))

    dy = y + _vertex(error(y - 1, x), error(y, x), error(y + 1, x))
    dx = x + _vertex(error(y, x - 1), error(y, x), error(y, x + 1))
    moved = cv2.warpAffine(
        sr,
        np.array([[1, 0, dx], [0, 1, dy]], np.float64),
        sr.shape[1::-1],
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    quarter = (dy, dx, psnr(moved[radius : radius + h, radius : radius + w], inner))
    at_zero = score((0, 0))
    dy, dx, at_best = max(whole, quarter, key=lambda found: found[2])
    variance = float(np.square(cv2.meanStdDev(inner)[1]).mean())
    if at_best < max(at_zero + 0.1, _decibels(variance / 2)):
        return 0.0, 0.0, at_zero, at_zero
    return dy, dx, at_zero, at_best


def _vertex(before: float, here: float, after: float) -> float:
    """Where a parabola through three errors at -1, 0, 1 is least, to 1/4 px; 0 at the rim."""
    if np.isinf(before + after) or before + after <= 2 * here:
        return 0.0
    return round(2 * (before - after) / (before - 2 * here + after)) / 4


_MEASURES = {
    "psnr": psnr,
    "psnr_y": psnr_y,
    "ssim": ssim,
    "ssim_y": ssim_y,
    "ssim_rgb": ssim_rgb,
    "ms_ssim": ms_ssim,
}


class FullReference(MeanMetric):
    """The function of the metric's name, on each frame and its ground truth."""

    def score(self, sample: Sample) -> float:
        """The number of this frame."""
        return _MEASURES[self.info.name](sample.sr, gt_of(sample))


class LRPSNR(MeanMetric):
    """`lr_psnr` of each frame against its input."""

    def score(self, sample: Sample) -> float:
        """LR-PSNR of this frame."""
        if sample.lq is None:
            raise DataError("needs the input frames", "give --lq")
        return lr_psnr(sample.sr, sample.lq)


class GradientEnergy(MeanMetric):
    """`gradient_energy` of each frame relative to that of its reference."""

    def score(self, sample: Sample) -> float:
        """The ratio of this frame. Raises DataError where the reference is flat."""
        real = gradient_energy(sample.reference)
        if not real:
            raise DataError(f"reference frame {sample.index} is flat", "nothing to compare with")
        return gradient_energy(sample.sr) / real
