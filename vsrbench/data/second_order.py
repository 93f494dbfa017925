"""The second-order degradation that papers name after RealBasicVSR: GT frames to LQ frames.

Order, probabilities, ranges and steps are those of its training configuration (Chan et al., CVPR
2022; published in mmagic), the kernels those of Real-ESRGAN (Wang et al., ICCVW 2021): blur,
resize, noise, JPEG and a video codec, twice, the last codec before or after the final resize and a
sinc filter. Parameters are drawn once a clip and walk from frame to frame by the steps given there.

Departures, all of them: it runs on whole frames, so bits per frame, meant for patches of 256x256,
grow with the area; GT is not sharpened first; sizes stay as drawn over a clip. Papers differ in all
of this and in their seeds, so that nobody's LQ can be had again from the recipe: `VERSION`, seed
and the hash of the result name ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy.special import j1

from vsrbench.core.errors import DataError
from vsrbench.data import degrade as first_order

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size
    from vsrbench.data.degrade import Image

    Stage = Callable[[Iterable[Image]], Iterator[Image]]

NAME = "realbasicvsr"
"""As a recipe, beside those of vsrbench.data.degrade."""
VERSION = 2
"""Bumped when any pixel can change."""
PATCH = 256 * 256  # px of GT that the bit rates are meant for
KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
KERNEL_ODDS = (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1)  # the last is sinc
WAYS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class _Pass:
    """One of the two passes: what differs between them."""

    blur_odds: float
    sigma: tuple[float, float]
    resize_odds: tuple[float, float, float]
    """Of enlarging, shrinking, keeping."""
    resize: tuple[float, float]
    gaussian: tuple[float, float]
    """Standard deviation, 8-bit levels."""
    poisson: tuple[float, float]
    """Factor of the noise of photons."""


PASSES = (
    _Pass(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0)),
    _Pass(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5)),
)


class _Walk:
    """A parameter that starts anywhere in its range and moves by at most `step` a frame."""

    def __init__(self, rng: np.random.Generator, low: float, high: float, step: float) -> None:
        # Its own stream: when which frame passes which stage is up to the codecs.
        self.rng = np.random.default_rng(rng.integers(2**63))
        self.low, self.high, self.step = low, high, step
        self.value = self.rng.uniform(low, high)

    def __call__(self) -> float:
        """The value of this frame."""
        now = self.value
        moved = now + self.rng.uniform(-self.step, self.step)
        self.value = min(max(moved, self.low), self.high)
        return now


def degrade(frames: Iterable[Frame], scale: int, seed: Sequence[int]) -> Iterator[Frame]:
    """LQ frames (uint8 RGB, H/scale x W/scale x 3) of GT `frames` (uint8 RGB, H x W x 3).

    The same input and seed give the same frames. Raises DataError when a side is not a multiple of
    `scale` or the frames differ in size.
    """
    source = iter(frames)
    first = next(source, None)
    if first is None:
        return iter(())
    h, w = first.shape[:2]
    if h % scale or w % scale:
        raise DataError(f"{w}x{h} is not a multiple of {scale}", "crop the GT frames first")
    rng = np.random.default_rng(list(seed))
    area = h * w
    stages: list[Stage] = []
    for number, drawn in enumerate(PASSES):
        stages += [_blur(rng, drawn), _resize(rng, drawn, (h, w)), _noise(rng, drawn), _jpeg(rng)]
        if number == 0:
            stages.append(_codec(rng, area))
    last = [_to_size(rng, (h // scale, w // scale)), _sinc(rng)]
    codec = [_codec(rng, area)]
    stages += [*codec, *last] if rng.random() < 0.5 else [*last, *codec]
    x: Iterator[Image] = (_check(f, (h, w)) for f in chain([first], source))
    for stage in stages:
        x = stage(x)
    return (_to_uint8(f) for f in x)


def degrade_by_recipe(
    frames: Iterable[Frame], scale: int, recipe: str, seed: int
) -> Iterator[Frame]:
    """`degrade` by the name of a recipe: `NAME`, or one of vsrbench.data.degrade.RECIPES.

    Raises KeyError for another name, DataError as `degrade` does.
    """
    if recipe == NAME:
        return degrade(frames, scale, [seed])
    return iter(first_order.degrade(frames, scale, first_order.RECIPES[recipe], seed))


def _check(frame: Frame, size: Size) -> Image:
    if frame.shape[:2] != size:
        raise DataError(
            f"a frame is {frame.shape[1]}x{frame.shape[0]}, the first {size[1]}x{size[0]}"
        )
    return frame.astype(np.float64)


def _to_uint8(x: Image) -> Frame:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _each(function: Callable[[Image], Image]) -> Stage:
    return lambda frames: map(function, frames)


def _blur(rng: np.random.Generator, drawn: _Pass) -> Stage:
    """A random kernel for the clip; its parameters walk."""
    skip = rng.random() >= drawn.blur_odds
    size = int(rng.choice(np.arange(7, 22, 2)))
    kind = rng.choice([*KERNELS, "sinc"], p=KERNEL_ODDS)
    along, across = (_Walk(rng, *drawn.sigma, 0.02) for _ in range(2))
    angle = _Walk(rng, -np.pi, np.pi, np.pi / 10)
    low, high = (0.5, 4.0) if "generalized" in kind else (1.0, 2.0)
    span = (low, 1.0) if low < 1 and rng.random() < 0.5 else (1.0, high)
    beta = _Walk(rng, *span, 0.1 if "plateau" in kind else 0.05)
    cutoff = _Walk(rng, np.pi / (3 if size < 13 else 5), np.pi, 0.0628)

    def apply(x: Image) -> Image:
        if kind == "sinc":
            return _filter(x, sinc_kernel(size, cutoff()))
        a, b = along(), across()
        kernel = gaussian_kernel(
            size, a, a if kind.endswith("_iso") or kind == "iso" else b, angle(), beta(), kind
        )
        return _filter(x, kernel)

    return iter if skip else _each(apply)


def gaussian_kernel(
    size: int, along: float, across: float, angle: float, beta: float, kind: str
) -> Image:
    """Normalised kernel of `size` px: Gaussian, generalized Gaussian or plateau.

    With q the Mahalanobis distance squared: exp(-q / 2), exp(-q^beta / 2), 1 / (1 + q^beta).
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    q = (u / along) ** 2 + (v / across) ** 2
    if kind.startswith("plateau"):
        kernel = 1 / (1 + q**beta)
    else:
        kernel = np.exp(-0.5 * (q**beta if kind.startswith("generalized") else q))
    return np.asarray(kernel / kernel.sum(), np.float64)


def sinc_kernel(size: int, cutoff: float) -> Image:
    """Normalised circular low-pass of `size` px: c J1(c r) / (2 pi r), c / 2 at its centre."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r = np.hypot(x, y)
    safe = np.where(r == 0, 1, r)
    kernel = np.where(r == 0, cutoff**2 / (4 * np.pi), cutoff * j1(cutoff * r) / (2 * np.pi * safe))
    return np.asarray(kernel / kernel.sum(), np.float64)


def _filter(x: Image, kernel: Image) -> Image:
    return np.asarray(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _sinc(rng: np.random.Generator) -> Stage:
    """The final filter."""
    skip = rng.random() >= 0.8
    size = int(rng.choice(np.arange(7, 22, 2)))
    cutoff = _Walk(rng, np.pi / 3, np.pi, 0.0628)
    return iter if skip else _each(lambda x: _filter(x, sinc_kernel(size, cutoff())))


def _resize(rng: np.random.Generator, drawn: _Pass, gt: Size) -> Stage:
    """Enlarge, shrink or keep, relative to the size of the stage's input; even sizes."""
    mode = rng.choice(3, p=drawn.resize_odds)
    low, high = drawn.resize
    factor = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[mode]
    way = WAYS[rng.choice(3)]

    def apply(x: Image) -> Image:
        h, w = (max(2, int(side * factor / 2) * 2) for side in x.shape[:2])
        # Two shrinking passes would leave next to nothing of small frames.
        h, w = max(h, gt[0] // 16), max(w, gt[1] // 16)
        return np.asarray(cv2.resize(x, (w, h), interpolation=way))

    return iter if factor == 1 else _each(apply)


def _to_size(rng: np.random.Generator, size: Size) -> Stage:
    way = WAYS[rng.choice(3)]
    return _each(lambda x: np.asarray(cv2.resize(x, size[::-1], interpolation=way)))


def _noise(rng: np.random.Generator, drawn: _Pass) -> Stage:
    poisson, grey = rng.random() < 0.5, rng.random() < 0.4
    level = _Walk(rng, *drawn.poisson, 0.005) if poisson else _Walk(rng, *drawn.gaussian, 0.1)
    own = np.random.default_rng(rng.integers(2**63))

    def apply(x: Image) -> Image:
        if not poisson:
            shape = (*x.shape[:2], 1 if grey else 3)
            return np.asarray(x + own.normal(0, level(), shape), np.float64)
        luma = (299 * x[..., :1] + 587 * x[..., 1:2] + 114 * x[..., 2:]) / 1000
        light = np.clip(np.rint(luma if grey else x), 0, 255)
        levels = 2 ** (max(2, len(np.unique(light))) - 1).bit_length()
        photons = own.poisson(light / 255 * levels) / levels * 255
        return np.asarray(x + (photons - light) * level(), np.float64)

    return _each(apply)


def _jpeg(rng: np.random.Generator) -> Stage:
    quality = _Walk(rng, 30, 95, 3)

    def apply(x: Image) -> Image:
        how = [cv2.IMWRITE_JPEG_QUALITY, round(quality())]
        _, data = cv2.imencode(".jpg", _to_uint8(x)[..., ::-1], how)
        bgr: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.asarray(bgr[..., ::-1], np.float64)

    return _each(apply)


def _codec(rng: np.random.Generator, area: int) -> Stage:
    """libx264 twice as often as MPEG-4: the configuration names it also as h264."""
    mpeg4 = rng.choice(3) == 2
    bits = rng.uniform(1e4, 1e5) * area / PATCH
    # libx264 without assembly writes the same bits every time, see degrade.py.
    options = {} if mpeg4 else {"preset": "medium", "x264-params": "asm=0"}
    codec: Any = "mpeg4" if mpeg4 else "libx264"
    return lambda frames: (
        f.astype(np.float64)
        for f in first_order.coded(map(_to_uint8, frames), codec, options, bits)
    )
