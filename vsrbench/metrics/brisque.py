"""BRISQUE by the support vectors of the package `brisque`: statistics of normalised luma.

Mittal, Moorthy and Bovik, IEEE TIP 2012, with the model, the ranges of features and the picture
handling that belong to those support vectors: luma of scikit-image in 0..1, zeros beyond the
border, the second scale by OpenCV's bicubic without antialiasing. The models of LIVE and of pyiqa
are others, and so are their numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
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

_LOWEST = np.array(
    [
        0.336999,
        0.019667,
        0.23,
        -0.125959,
        0.000167,
        0.000616,
        0.231,
        -0.125873,
        0.000165,
        0.0006,
        0.241,
        -0.128814,
        0.000179,
        0.000386,
        0.243,
        -0.13308,
        0.000182,
        0.000421,
        0.436998,
        0.016929,
        0.247,
        -0.200231,
        0.000104,
        0.000834,
        0.257,
        -0.200017,
        0.000112,
        0.000876,
        0.257,
        -0.155072,
        0.000112,
        0.000356,
        0.258,
        -0.154374,
        0.000117,
        0.000351,
    ]
)
_HIGHEST = np.array(
    [
        9.999411,
        0.807472,
        1.644021,
        0.202917,
        0.712384,
        0.468672,
        1.644021,
        0.169548,
        0.713132,
        0.467896,
        1.553016,
        0.101368,
        0.687324,
        0.533087,
        1.554016,
        0.101,
        0.689177,
        0.533133,
        3.639918,
        0.800955,
        1.096995,
        0.175286,
        0.755547,
        0.39927,
        1.095995,
        0.155928,
        0.751488,
        0.402398,
        1.041992,
        0.093209,
        0.623516,
        0.532925,
        1.042992,
        0.093714,
        0.621958,
        0.534484,
    ]
)
"""Range of each of the 36 features, scaled to -1..1 before the support vectors see it."""


@dataclass(frozen=True)
class Model:
    """A support vector regression with a radial kernel."""

    gamma: float
    """Width of the kernel: exp(-gamma d^2)."""
    rho: float
    """Subtracted from the sum."""
    coefficients: Array
    """Weight of each vector."""
    vectors: Array
    """Support vectors x 36."""

    def predict(self, features: Array) -> float:
        """The number for 36 scaled features."""
        squares = np.square(self.vectors - features).sum(1)
        return float(self.coefficients @ np.exp(-self.gamma * squares) - self.rho)


@functools.cache
def read_model(path: Path) -> Model:
    """A model in libsvm's text format. Raises DataError."""
    try:
        head, _, body = path.read_text(encoding="ascii").partition("\nSV\n")
        facts = dict(line.split(maxsplit=1) for line in head.splitlines())
        if facts["svm_type"] != "epsilon_svr" or facts["kernel_type"] != "rbf":
            raise ValueError("not a regression with a radial kernel")
        rows = [line.split() for line in body.splitlines()]
        vectors = np.zeros((len(rows), 36))
        for number, (_, *entries) in enumerate(rows):
            for entry in entries:
                index, _, value = entry.partition(":")
                vectors[number, int(index) - 1] = float(value)
        coefficients = np.array([float(row[0]) for row in rows])
        return Model(float(facts["gamma"]), float(facts["rho"]), coefficients, vectors)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"{path} is not a model of BRISQUE: {error}",
            "remove it and fetch it again: vsrbench weights fetch --metrics brisque_svr",
        ) from error


def _ratio(shape: float) -> float:
    """Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), which ascends from 0 to 3/4."""
    one, two, three = (math.lgamma(k / shape) for k in (1, 2, 3))
    return math.exp(2 * two - one - three)


def _fit(values: Array) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian.

    Zeros count to the right. NaN where the values have one sign only.
    """
    values = values.ravel()
    below = np.minimum(values, 0)
    count = int(np.count_nonzero(values < 0))
    if not count or not np.any(values > 0):
        return (math.nan,) * 4
    squares, left_squares = (float(np.einsum("n,n", x, x)) for x in (values, below))
    left = left_squares / count
    right = (squares - left_squares) / (values.size - count)
    g = math.sqrt(left / right)
    absolute = float(values.sum() - 2 * below.sum())
    wanted = (absolute / values.size) ** 2 / (squares / values.size)
    wanted *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    low, high = 0.02, 1000.0
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _ratio(middle) < wanted else (low, middle)
    one, two, three = (math.lgamma(k / low) for k in (1, 2, 3))
    mean = (math.sqrt(right) - math.sqrt(left)) * math.exp(two - (one + three) / 2)
    return low, mean, left, right


def _features(picture: Array) -> list[float]:
    """18 numbers of a grey picture in 0..1."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    taps /= taps.sum()

    def blur(x: Array) -> Array:
        return np.asarray(cv2.sepFilter2D(x, -1, taps, taps, borderType=cv2.BORDER_CONSTANT))

    mean = blur(picture)
    x = (picture - mean) / (np.sqrt(np.abs(blur(picture**2) - mean**2)) + 1 / 255)
    shape, _, left, right = _fit(x)
    found = [shape, (left + right) / 2]
    for first, second in (
        (x[:, :-1], x[:, 1:]),
        (x[:-1], x[1:]),
        (x[:-1, :-1], x[1:, 1:]),
        (x[1:, :-1], x[:-1, 1:]),
    ):
        found += _fit(first * second)
    return found


def brisque(frame: Frame, model: Model) -> float:
    """BRISQUE of a uint8 RGB frame; NaN for one without texture. Raises DataError below 32 px."""
    require_side(32, frame)
    grey = (frame / 255) @ np.array([0.2125, 0.7154, 0.0721])
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    features = np.array(_features(grey) + _features(half))
    return model.predict(2 * (features - _LOWEST) / (_HIGHEST - _LOWEST) - 1)


class BRISQUE(MeanMetric):
    """BRISQUE of each frame."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._model = read_model(find_weights(info.name))

    def score(self, sample: Sample) -> float:
        """BRISQUE of this frame."""
        return brisque(sample.sr, self._model)
