"""Layered scenes with exact motion: what is rendered, and where each of its pixels goes.

A scene is a stack of flat layers. Each layer is a texture with an alpha mask, both in texture
coordinates at `TEXELS` texels a pixel, moved by a similarity transform per frame. Motion is a
closed form, so flow and occlusion are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from vsrbench.core.types import PairFlow

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField, Frame, Mask, Size

    Image = np.ndarray[Any, np.dtype[np.float64]]
    Affine = np.ndarray[Any, np.dtype[np.float64]]

TEXELS = 2
EPS = 1e-6  # px; rounding must not push a still pixel out of the frame
COVERS = 0.5 - 1e-6  # alpha that hides what is behind; a straight edge is 0.5 but for rounding


@dataclass(frozen=True)
class Motion:
    """A similarity transform that changes smoothly with time; all lengths in px."""

    at: tuple[float, float] = (0.0, 0.0)
    """Position (x, y) at t = 0 relative to the centre of the frame."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """px a frame."""
    sway: tuple[float, float] = (0.0, 0.0)
    """Amplitude of a sine on top, px."""
    period: float = 16.0
    """Frames of one period of the sway."""
    angle: float = 0.0
    """Rotation at t = 0, rad."""
    spin: float = 0.0
    """rad a frame."""
    size: float = 1.0
    """Magnification at t = 0."""
    zoom: float = 0.0
    """Growth of its logarithm a frame."""

    def matrix(self, t: int, texture: Size, frame: Size) -> Affine:
        """2x3 transform from texture coordinates to px of frame t, both as (x, y) of centres."""
        wave = np.sin(2 * np.pi * t / self.period)
        angle = self.angle + self.spin * t
        scale = self.size * np.exp(self.zoom * t) / TEXELS
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = np.array([(n - 1) / 2 for n in texture[::-1]])
        centre = np.array(
            [
                (n - 1) / 2 + a + v * t + s * wave
                for n, a, v, s in zip(frame[::-1], self.at, self.velocity, self.sway, strict=True)
            ]
        )
        return np.column_stack((turn, centre - turn @ middle))


@dataclass(frozen=True)
class Layer:
    """A moving flat picture."""

    texture: Image
    """float64 RGB, h x w x 3 in 0..255, at `TEXELS` texels a px; mirrored beyond its edges."""
    motion: Motion
    """Where it is."""
    alpha: Image | None = None
    """float64 h x w in 0..1, zero beyond its edges; None for opaque everywhere."""


class SceneLike(Protocol):
    """What is rendered."""

    @property
    def size(self) -> Size:
        """(height, width) in px."""

    @property
    def count(self) -> int:
        """Number of frames."""

    def frame(self, t: int) -> Frame:
        """GT frame t."""

    def flow(self, t: int) -> PairFlow:
        """Exact motion between frames t and t+1."""


@dataclass(frozen=True)
class Scene:
    """Layers from back to front; the first one must be opaque everywhere."""

    layers: tuple[Layer, ...]
    """Back to front."""
    size: Size
    """(height, width) in px."""
    count: int
    """Frames."""
    gain: Callable[[int], float] | None = None
    """Brightness factor of frame t; None for 1."""

    def frame(self, t: int) -> Frame:
        """GT frame t: the layers blended in order, times the gain, rounded."""
        out = self._sample(self.layers[0], t)
        for layer in self.layers[1:]:
            alpha = self._alpha(layer, self._matrix(layer, t))[..., None]
            out += alpha * (self._sample(layer, t) - out)
        if self.gain is not None:
            out *= self.gain(t)
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)

    def flow(self, t: int) -> PairFlow:
        """Exact motion between frames t and t+1, of the layer that covers each pixel centre."""
        forward, occluded_forward = self._flow(t, t + 1)
        backward, occluded_backward = self._flow(t + 1, t)
        return PairFlow(forward, backward, occluded_forward, occluded_backward)

    def _flow(self, a: int, b: int) -> tuple[FlowField, Mask]:
        """F_{a->b}, and where the visible layer of frame a is out of view or covered in frame b.

        A pixel p of layer k moves to q = B_k A_k^-1 p. Layer j above covers it there when its alpha
        at B_j^-1 q reaches one half; that is one affine lookup from p.
        """
        h, w = self.size
        x, y = np.meshgrid(np.arange(w, dtype=np.float64), np.arange(h, dtype=np.float64))
        flow = np.zeros((h, w, 2), np.float32)
        occluded = np.zeros((h, w), np.bool_)
        seen = np.ones((h, w), np.bool_)
        for k in reversed(range(len(self.layers))):
            layer = self.layers[k]
            before, after = self._matrix(layer, a), self._matrix(layer, b)
            own = seen & (self._alpha(layer, before) >= COVERS)
            seen &= ~own
            step = _compose(after, _invert(before))
            qx = step[0, 0] * x + step[0, 1] * y + step[0, 2]
            qy = step[1, 0] * x + step[1, 1] * y + step[1, 2]
            lost = (qx < -EPS) | (qx > w - 1 + EPS) | (qy < -EPS) | (qy > h - 1 + EPS)
            for above in self.layers[k + 1 :]:
                lookup = _compose(_invert(step), self._matrix(above, b))
                lost |= self._alpha(above, lookup) >= COVERS
            flow[own] = np.stack((qx - x, qy - y), axis=-1)[own]
            occluded[own] = lost[own]
        return flow, occluded

    def _matrix(self, layer: Layer, t: int) -> Affine:
        return layer.motion.matrix(t, layer.texture.shape[:2], self.size)

    def _sample(self, layer: Layer, t: int) -> Image:
        return _warp(layer.texture, self._matrix(layer, t), self.size, cv2.BORDER_REFLECT_101)

    def _alpha(self, layer: Layer, matrix: Affine) -> Image:
        if layer.alpha is None:
            return np.ones(self.size, np.float64)
        return _warp(layer.alpha, matrix, self.size, cv2.BORDER_CONSTANT)


@dataclass(frozen=True)
class Cut:
    """Two scenes of one size, one after the other. Nothing is visible across the cut."""

    first: Scene
    """Before the cut."""
    second: Scene
    """After it."""

    @property
    def size(self) -> Size:
        """(height, width) in px."""
        return self.first.size

    @property
    def count(self) -> int:
        """Frames of both."""
        return self.first.count + self.second.count

    def frame(self, t: int) -> Frame:
        """GT frame t."""
        n = self.first.count
        return self.first.frame(t) if t < n else self.second.frame(t - n)

    def flow(self, t: int) -> PairFlow:
        """Exact motion; across the cut it is zero and all pixels are occluded."""
        n = self.first.count
        if t == n - 1:
            zero = np.zeros((*self.size, 2), np.float32)
            return PairFlow(zero, zero, np.ones(self.size, np.bool_), np.ones(self.size, np.bool_))
        return self.first.flow(t) if t < n else self.second.flow(t - n)


@dataclass(frozen=True)
class Ramp:
    """Brightness start * exp(rate t)."""

    start: float
    rate: float

    def __call__(self, t: int) -> float:
        """The factor of frame t."""
        return float(self.start * np.exp(self.rate * t))


def _warp(image: Image, matrix: Affine, size: Size, border: int) -> Image:
    """`image` seen through `matrix` (image -> frame) at the pixel centres of the frame.

    Bilinear: at `TEXELS` = 2 it loses next to nothing, and unlike OpenCV's bicubic kernel (a =
    -0.75) it reproduces a ramp, so that it does not move anything by a fraction of a px.
    """
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    out = cv2.warpAffine(image, _invert(matrix), size[::-1], flags=flags, borderMode=border)
    return np.asarray(out, np.float64)


def _invert(m: Affine) -> Affine:
    inverse = np.linalg.inv(m[:, :2])
    return np.column_stack((inverse, -inverse @ m[:, 2]))


def _compose(outer: Affine, inner: Affine) -> Affine:
    """The transform that applies `inner`, then `outer`."""
    return np.column_stack((outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]))
