"""Fidelity: how near an output is to the ground truth, or to its own input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from vsrbench.errors import DataError
from vsrbench.metrics import MeanMetric, at_least, gt_of
from vsrbench.types import Sample

if TYPE_CHECKING:
    from vsrbench.types import Frame

    Float64 = np.ndarray[Any, np.dtype[np.float64]]

PSNR_CAP_DB = 80.0


def psnr(a: Frame, b: Frame) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of two uint8 frames.

    Capped at 80 dB, which identical frames get; pyiqa's epsilon of 1e-8 has the same ceiling.
    """
    squares = np.square(np.subtract(a, b, dtype=np.int32))
    mse = float(squares.mean(dtype=np.float64)) / 255**2
    return min(PSNR_CAP_DB, float(-10 * np.log10(max(mse, 10 ** (-PSNR_CAP_DB / 10)))))


def luma(frame: Frame) -> Float64:
    """Y of YIQ, full range 0..255, rounded to whole levels: H x W float64."""
    weighted = frame @ np.array([0.299, 0.587, 0.114])
    rounded: Float64 = np.rint(weighted)
    return rounded


def ssim(a: Frame, b: Frame) -> float:
    """Structural similarity of two uint8 RGB frames on luma, 0..1.

    Wang et al., IEEE TIP 2004: 11 x 11 Gaussian window of sigma 1.5, valid part only,
    C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2, population covariances. As in pyiqa the
    contrast-structure term is clipped at 0. Raises DataError below 11 px.
    """
    at_least(11, a)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(x: Float64) -> Float64:
        return np.asarray(cv2.sepFilter2D(x, -1, taps, taps)[5:-5, 5:-5], np.float64)

    x, y = luma(a), luma(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    contrast = np.maximum((2 * cov + c2) / (vx + vy + c2), 0)
    return float(((2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast).mean())


def lr_psnr(sr: Frame, lq: Frame) -> float:
    """PSNR in dB between the input and the output brought down to its size.

    The reduction is Pillow's bicubic, which is antialiased and rounds to 8 bit. Raises DataError
    if the output is not a whole multiple of the input.
    """
    h, w = lq.shape[:2]
    scale = sr.shape[0] // h
    if sr.shape[:2] != (h * scale, w * scale):
        raise DataError(
            f"output {sr.shape[1]}x{sr.shape[0]} is no whole multiple of the input {w}x{h}",
            "crop both by the same region",
        )
    down = Image.fromarray(sr).resize((w, h), Image.Resampling.BICUBIC)
    return psnr(np.asarray(down), lq)


def best_shift(sr: Frame, gt: Frame, radius: int = 3) -> tuple[int, int, float, float]:
    """Registration check: the whole-pixel shift at which a frame fits the ground truth best.

    Returns (dy, dx, PSNR at shift 0, PSNR at the best), the PSNR in dB on the interior that all
    shifts share. (dy, dx) is how far the content of `sr` lies below and right of that of `gt`:
    sr[y + dy, x + dx] matches gt[y, x]. Of equals the smallest shift wins. Raises DataError if
    sizes differ or no interior is left.
    """
    if sr.shape != gt.shape:
        raise DataError(f"sizes differ: {sr.shape[1::-1]} and {gt.shape[1::-1]}")
    at_least(2 * radius + 1, gt)
    h, w = gt.shape[0] - 2 * radius, gt.shape[1] - 2 * radius
    inner = gt[radius : radius + h, radius : radius + w]
    reach = range(-radius, radius + 1)
    scores = {
        (dy, dx): psnr(sr[radius + dy :, radius + dx :][:h, :w], inner)
        for dy, dx in sorted(((y, x) for y in reach for x in reach), key=lambda s: np.hypot(*s))
    }
    best = max(scores, key=scores.__getitem__)
    return (*best, scores[0, 0], scores[best])


class PSNR(MeanMetric):
    """`psnr` of each frame against the ground truth."""

    def score(self, sample: Sample) -> float:
        """PSNR of this frame."""
        return psnr(sample.sr, gt_of(sample))


class SSIM(MeanMetric):
    """`ssim` of each frame against the ground truth."""

    def score(self, sample: Sample) -> float:
        """SSIM of this frame."""
        return ssim(sample.sr, gt_of(sample))


class LRPSNR(MeanMetric):
    """`lr_psnr` of each frame against its input."""

    def score(self, sample: Sample) -> float:
        """LR-PSNR of this frame."""
        return lr_psnr(sample.sr, sample.lq)
