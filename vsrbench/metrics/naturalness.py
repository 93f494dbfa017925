"""NIQE: how far the statistics of a picture are from those of natural photographs.

Mittal, Soundararajan and Bovik, IEEE SPL 2013, in the convention of pyiqa: full-range luma rounded
to 8 bit, whole blocks of 96 x 96, two scales, the second halved by an antialiased bicubic kernel.
Written over numpy and OpenCV; BRISQUE uses the same fits.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample
from vsrbench.metrics.base import MeanMetric, require_side
from vsrbench.metrics.requirements import find_weights

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Array = np.ndarray[Any, np.dtype[np.float64]]

BLOCK = 96
"""Side of a block in px."""
_EPS = float(np.finfo(np.float64).eps)


@functools.cache
def _shapes() -> tuple[Array, Array, Array, Array]:
    """For shape parameters 0.2, 0.201 ... 10: they, the ratio that finds them, and two factors.

    The ratio is Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), the factors are
    sqrt(Gamma(1/a) / Gamma(3/a)) and Gamma(2/a) / Gamma(1/a). Shapes are rounded to float32, as
    pyiqa has them.
    """
    shapes = (0.2 + 0.001 * np.arange(9801)).astype(np.float32).astype(np.float64)
    one, two, three = (
        np.array([math.lgamma(k / a) for a in shapes.tolist()]) for k in (1.0, 2.0, 3.0)
    )
    return shapes, np.exp(2 * two - one - three), np.exp((one - three) / 2), np.exp(two - one)


def _nearest(table: Array, values: Array) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Index of the entry of an ascending table that is nearest to each value, the lower of two."""
    right = np.searchsorted(table, values).clip(1, len(table) - 1)
    return np.where(values - table[right - 1] <= table[right] - values, right - 1, right)


def fit_blocks(blocks: Array) -> tuple[Array, Array, Array, Array]:
    """Asymmetric generalised Gaussians that fit n x h x w values, one a block.

    Gives shape, left and right scale, and mean, each of n. Lasmar et al., ICIP 2009. Blocks without
    values of both signs are NaN.
    """
    shapes, ratios, to_scale, to_mean = _shapes()
    flat = blocks.reshape(len(blocks), -1)
    count = flat.shape[1]
    below = np.minimum(flat, 0)
    squares = np.einsum("ni,ni->n", flat, flat)
    left_squares = np.einsum("ni,ni->n", below, below)
    absolute = flat.sum(1) - 2 * below.sum(1)
    # numpy counts one row several times as fast as several.
    lefts, rights = (
        np.array([np.count_nonzero(row) for row in side]) for side in (flat < 0, flat > 0)
    )
    left = np.sqrt(left_squares / lefts)
    right = np.sqrt(np.maximum(squares - left_squares, 0) / rights)
    g = left / right
    wanted = (absolute / count) ** 2 / (squares / count) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    at = _nearest(ratios, wanted)
    left, right = left * to_scale[at], right * to_scale[at]
    shape = np.where(np.isfinite(wanted), shapes[at], np.nan)
    return shape, left, right, (right - left) * to_mean[at]


@functools.cache
def _taps() -> Array:
    """A Gaussian of sigma 7/6 in 7 taps.

    Their products have the sum of pyiqa's window, whose weights are rounded to float32: it decides
    on which side of 0 flat parts come to lie.
    """
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(taps, taps)
    rounded = (window / window.sum()).astype(np.float32).astype(np.float64)
    return np.asarray(taps / taps.sum() * np.sqrt(rounded.sum()))


def normalised(picture: Array) -> Array:
    """(I - mu) / (sigma + 1) with mean and deviation of a Gaussian window of 7 x 7, levels 0..255.

    The rim of 3 px is there for the window alone and has no result.
    """

    def blur(x: Array) -> Array:
        return np.asarray(cv2.sepFilter2D(x, -1, _taps(), _taps())[3:-3, 3:-3])

    mean = blur(picture)
    deviation = blur(picture * picture)
    deviation -= mean * mean
    np.sqrt(np.add(np.abs(deviation, out=deviation), _EPS, out=deviation), out=deviation)
    deviation += 1
    return np.asarray(np.subtract(picture[3:-3, 3:-3], mean, out=mean) / deviation)


def _features(picture: Array, side: int) -> Array:
    """18 numbers a block of `side` px: blocks x 18.

    A row of blocks at a time, which stays in the cache.
    """
    columns = picture.shape[1] // side
    framed = cv2.copyMakeBorder(picture, 3, 3, 3, 3, cv2.BORDER_REPLICATE)
    found = []
    for top in range(0, picture.shape[0], side):
        strip = normalised(framed[top : top + side + 6])
        blocks = np.ascontiguousarray(strip.reshape(side, columns, side).swapaxes(0, 1))
        shape, left, right, _ = fit_blocks(blocks)
        numbers = [shape, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            shape, left, right, mean = fit_blocks(blocks * np.roll(blocks, shift, (1, 2)))
            numbers += [shape, mean, left, right]
        found.append(np.stack(numbers, axis=-1))
    return np.concatenate(found)


def _halved(picture: Array) -> Array:
    """Half the size by the bicubic kernel (a = -0.5) stretched to 8 taps, borders mirrored.

    In float32 and in the order of pyiqa: where a fit lies between two shapes, the last bit decides.
    """
    x = np.abs(np.arange(8, dtype=np.float32) - np.float32(3.5)) / 2
    taps = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    taps /= taps.sum()
    small = (picture / 255).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(small, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], "symmetric")
        size = small.shape[axis]
        padded = np.swapaxes(padded, 0, axis)
        small = sum(padded[k : k + size : 2] * taps[k] for k in range(8))
        small = np.swapaxes(small, 0, axis)
    return np.asarray(small, np.float64) * 255


def grey(frame: Frame) -> Array:
    """Luma 0.299 R + 0.587 G + 0.114 B of uint8 H x W x 3, whole levels, as float64.

    Where a sum lies on one half, the float32 steps of a picture in 0..1 decide.
    """
    sums = frame.reshape(-1, 3) @ np.array([0.299, 0.587, 0.114])
    whole: Array = np.rint(sums)
    # Other sums are a thousandth or more away from a half.
    halves = np.flatnonzero(np.abs(np.subtract(sums, whole, out=sums), out=sums) > 0.4995)
    if len(halves):
        whole[halves] = _as_pyiqa(frame.reshape(-1, 3)[halves])
    return whole.reshape(frame.shape[:2])


def _as_pyiqa(pixels: Frame) -> Array:
    """`grey` of n x 3 pixels, step by step."""
    red, green, blue = (pixels.astype(np.float32) / np.float32(255)).T
    weights = [float(np.float32(w)) for w in (0.299, 0.587, 0.114)]
    total = (red * np.float32(weights[0])).astype(np.float32)
    for channel, weight in ((green, weights[1]), (blue, weights[2])):  # fused multiply and add
        total = (channel.astype(np.float64) * weight + total).astype(np.float32)
    return np.asarray(np.rint(total * np.float32(255)), np.float64)


def niqe(frame: Frame, mean: Array, covariance: Array) -> float:
    """NIQE of a uint8 RGB frame under a model of 36 means and their covariance.

    NaN for a picture in which no block has texture. Raises DataError below two blocks of 96 px.
    """
    require_side(BLOCK, frame)
    rows, columns = (side // BLOCK for side in frame.shape[:2])
    if rows * columns < 2:
        raise DataError("needs at least two blocks of 96x96 px")
    picture = grey(frame)[: rows * BLOCK, : columns * BLOCK]
    with np.errstate(invalid="ignore", divide="ignore"):
        features = np.hstack([_features(picture, BLOCK), _features(_halved(picture), BLOCK // 2)])
    known = ~np.isnan(features)
    whole = features[known.all(axis=1)]
    if len(whole) < 2:
        return math.nan
    own_mean = np.where(known, features, 0).sum(0) / known.sum(0)
    own_covariance = np.cov(whole, rowvar=False)
    difference = mean - own_mean
    inverse = np.linalg.pinv((covariance + own_covariance) / 2)
    return math.sqrt(float(difference @ inverse @ difference))


def read_model(path: Path) -> tuple[Array, Array]:
    """(36 means, 36 x 36 covariance) of BasicSR's .npz or the authors' .mat. Raises DataError."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
        else:
            import scipy.io

            file = scipy.io.loadmat(path)
            mean, covariance = file["mu_prisparam"], file["cov_prisparam"]
        return np.asarray(mean, np.float64).reshape(36), np.asarray(covariance, np.float64)
    except Exception as error:  # of any kind, where something else was saved under that name
        raise DataError(
            f"{path} is not a model of NIQE: {(str(error).splitlines() or [''])[0][:120]}",
            "remove it and fetch it again: vsrbench weights fetch --metrics niqe",
        ) from error


class NIQE(MeanMetric):
    """NIQE of each frame."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._model = read_model(find_weights(info.name))

    def score(self, sample: Sample) -> float:
        """NIQE of this frame."""
        return niqe(sample.sr, *self._model)
