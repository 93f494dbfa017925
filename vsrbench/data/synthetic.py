"""The embedded test set `synthetic`: layered scenes with exact motion, rendered from a seed.

A scene is a stack of flat layers. Each layer is a texture with an alpha mask, both in texture
coordinates at `TEXELS` texels a pixel, moved by a similarity transform per frame. Motion is a
closed form, so flow and occlusion are exact. The same code renders the endless `random_scene`s
that networks are trained on; photographs and seeds of the tests never occur there.

Everything is computed in float64 and rounded once: processors differ in the last bits of a sine or
a filter, which float32 would carry into the pixels. So all of them render the same frames.

Bump `VERSION`, and `version` in datasets/synthetic.toml with it, whenever a pixel of GT or LQ or
a flow vector can change.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import cv2
import numpy as np
import skimage
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from skimage.color import hsv2rgb

from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Clip, PairFlow
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import FrameWriter, open_frames

if TYPE_CHECKING:
    from numpy.random import Generator

    from vsrbench.core.types import FlowField, Frame, Mask, Size

    Image = np.ndarray[Any, np.dtype[np.float64]]
    Affine = np.ndarray[Any, np.dtype[np.float64]]

NAME = "synthetic"
VERSION = 2
SIZE = (384, 512)
FRAMES = 12
SCALE = 4
FPS = 24.0
TEXELS = 2
TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
)
TEST_PHOTOS = ("coffee.png", "motorcycle_left.png", "rocket.jpg")
EPS = 1e-6  # px; rounding must not push a still pixel out of the frame
COVERS = 0.5 - 1e-6  # alpha that hides what is behind; a straight edge is 0.5 but for rounding
MARGIN = 48  # px of texture around the frame; beyond it the texture is mirrored


# Motion and scenes


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


# Textures: (rng, (h, w) in texels) -> float64 RGB h x w x 3 in 0..255


def _soft(image: Image) -> Image:
    """Band-limit hard edges: a Gaussian of 0.5 px, about the sharpness of a good camera."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.5 * TEXELS), np.float64)


def _noise(rng: Generator, size: Size, exponent: float) -> Image:
    """Noise (h x w) of zero mean, unit deviation and an amplitude that falls as 1/f**exponent."""
    h, w = (n + n % 2 for n in size)
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    f = np.hypot(fy, fx).astype(np.float64)
    f[0, 0] = np.inf
    # The cut-off keeps it free of aliases at one sample a px.
    amplitude = f**-exponent * np.exp(-((f * TEXELS / 0.45) ** 4))
    white = np.fft.rfft2(rng.standard_normal((h, w), dtype=np.float32).astype(np.float64))
    field = np.fft.irfft2(white * amplitude, s=(h, w))[: size[0], : size[1]]
    return np.asarray(field / field.std(), np.float64)


def _palette(rng: Generator, n: int) -> Image:
    """Colours (n x 3), mostly muted, most of them around a common hue."""
    spread = np.where(rng.random(n) < 0.15, 60, 14)
    hue = (rng.uniform(0, 180) + spread * rng.standard_normal(n)) % 180
    hsv = np.stack((hue, 255 * rng.beta(1.5, 3.5, n), 255 * rng.beta(1.8, 1.7, n)), axis=-1)
    return np.asarray(255 * hsv2rgb(hsv / (180, 255, 255)), np.float64)


def leaves(rng: Generator, size: Size) -> Image:
    """Dead leaves: occluding discs and polygons of power-law size, shaded and grained."""
    h, w = size
    n = 1400 * h * w // (700 * 900)
    smallest, largest = 2.0 * TEXELS, 70.0 * TEXELS
    u = rng.random(n)
    # Inverse transform of the density r**-3 between the two radii: scale-invariant, as in nature.
    radius = (smallest**-2 + u * (largest**-2 - smallest**-2)) ** -0.5
    radius = np.sort(np.concatenate((radius, rng.uniform(20, 70, n // 14) * TEXELS)))[::-1]
    n = len(radius)
    centre = rng.random((n, 2)) * (w, h)
    corners = rng.integers(3, 8, n)
    ident = np.zeros(size, np.int32)
    for i in range(n):
        if i % 3:
            axes = radius[i] * np.array([1.0, rng.uniform(0.4, 1)])
            box = (tuple(centre[i]), tuple(2 * axes), float(rng.uniform(0, 180)))
            cv2.ellipse(ident, box, i + 1, cv2.FILLED)
        else:
            turn = np.sort(rng.uniform(0, 2 * np.pi, corners[i]))
            shape = centre[i] + radius[i] * np.stack((np.cos(turn), np.sin(turn)), axis=-1)
            cv2.fillPoly(ident, [np.rint(shape).astype(np.int32)], i + 1)
    # Each leaf has its own colour, shading, stripes (a third of them) and strength of grain.
    colours = _palette(rng, n + 1)
    slope = rng.normal(0, 0.35, (n + 1, 2)).astype(np.float64)
    turn, cycles = rng.uniform(0, np.pi, n + 1), rng.uniform(0.06, 0.25, n + 1)
    wave = (2 * np.pi * cycles * (np.cos(turn), np.sin(turn))).astype(np.float64)
    stripes = (rng.uniform(0, 0.25, n + 1) * (rng.random(n + 1) < 0.35)).astype(np.float64)
    grain = (0.25 * rng.beta(1.2, 2, n + 1)).astype(np.float64)
    y, x = np.mgrid[:h, :w].astype(np.float64) / TEXELS
    middle = np.concatenate((((w / 2, h / 2),), centre)).astype(np.float64) / TEXELS
    dx, dy = x - middle[ident, 0], y - middle[ident, 1]
    shade = np.clip((slope[ident, 0] * dx + slope[ident, 1] * dy) / 60, -0.7, 0.7)
    shade += stripes[ident] * np.sin(wave[0, ident] * dx + wave[1, ident] * dy)
    shade += grain[ident] * _noise(rng, size, 0.8)
    return _soft(np.clip(colours[ident] * np.exp(shade)[..., None], 0, 255))


WORDS = """
    a and as at by for from in into is it its of on or over than that the then this to with
    frame motion detail camera river window garden signal light paper winter harbour station
    market bridge letter engine summer silver quiet narrow early bright northern between
    1847 1962 2031 No. 7 & 350 12:45 -- Grand Hotel Theatre Station West Avenue
"""


@lru_cache(maxsize=64)
def _font(px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(px)


def text(rng: Generator, size: Size) -> Image:
    """Printed lines in several sizes on a tinted, slightly mottled sheet."""
    h, w = size
    ink = np.zeros(size, np.float64)
    y = -TEXELS * 4.0
    while y < h:
        px = int(
            TEXELS
            * rng.choice((9, 11, 13, 16, 20, 28, 44), p=(0.2, 0.2, 0.2, 0.15, 0.1, 0.1, 0.05))
        )
        for _ in range(int(rng.integers(1, 5))):
            words = " ".join(rng.choice(WORDS.split(), 2 + 3 * w // (px * 4)))
            line = PILImage.new("L", (w, int(1.4 * px)))
            draw = ImageDraw.Draw(line)
            draw.text((rng.uniform(-6, 12) * TEXELS, 0), words, fill=255, font=_font(px))
            top = int(y)
            rows = slice(max(top, 0), min(top + line.height, h))
            ink[rows] += np.asarray(line, np.float64)[rows.start - top : rows.stop - top] / 255
            y += px * 1.25
            if y >= h:
                break
        y += px * 0.5
    paper, colour = _palette(rng, 1)[0] * 0.25 + 190, _palette(rng, 1)[0] * 0.3
    if rng.random() < 0.25:
        paper, colour = colour, paper
    mottled = paper + 5 * _noise(rng, size, 1.1)[..., None]
    return _soft(np.clip(mottled + np.minimum(ink, 1)[..., None] * (colour - mottled), 0, 255))


def gratings(rng: Generator, size: Size) -> Image:
    """Panels of lines, chirps, zone plates, checks and spokes up to 0.3 cycles a px."""
    h, w = size
    image = np.empty((h, w, 3), np.float64)
    side = int(rng.uniform(80, 130)) * TEXELS
    for top in range(0, h, side):
        for left in range(0, w, side):
            ph, pw = min(side, h - top), min(side, w - left)
            y, x = (np.mgrid[:ph, :pw].astype(np.float64) - side / 2) / TEXELS
            angle = rng.uniform(0, np.pi)
            along = x * np.cos(angle) + y * np.sin(angle)
            across = y * np.cos(angle) - x * np.sin(angle)
            high, half = rng.uniform(0.12, 0.3), side / (2 * TEXELS)
            kind = rng.integers(5)
            if kind == 0:
                wave = np.sin(2 * np.pi * high * 0.6 * along)
            elif kind == 1:  # frequency rises linearly to `high` at the rim
                wave = np.sin(np.pi * high * (along + 1.4 * half) ** 2 / (2.8 * half))
            elif kind == 2:
                wave = np.cos(np.pi * high * (x**2 + y**2) / (1.4 * half))
            elif kind == 3:
                pitch = np.pi * high
                wave = np.sin(pitch * along) * np.sin(pitch * across)
            else:
                spokes = rng.integers(10, 32)
                # Spokes fade out where they would pass 0.3 cycles a px.
                near = np.clip(2 * np.pi * 0.3 * np.hypot(x, y) / spokes - 1, 0, 1)
                wave = near * np.sin(spokes * np.arctan2(y, x))
            hardness = rng.uniform(1, 3)
            dark, bright = np.sort(_palette(rng, 2), axis=0)
            mix = 0.5 + 0.5 * np.tanh(hardness * wave) / np.tanh(hardness)
            panel = dark - 20 + mix[..., None] * (bright - dark + 40)
            image[top : top + ph, left : left + pw] = panel
    return _soft(np.clip(image, 0, 255))


def coloured_noise(rng: Generator, size: Size) -> Image:
    """1/f noise along a palette, like stone, cloth or foliage."""
    base = _noise(rng, size, rng.uniform(0.9, 1.5))
    if rng.random() < 0.5:
        ridges = np.abs(0.8 * _noise(rng, size, 1.7) + 0.3 * base)
        base = (1.5 - 2.2 * ridges).astype(np.float64)
    tint = _noise(rng, size, rng.uniform(1.2, 1.8))
    low, high, other = np.sort(_palette(rng, 3), axis=0)[[0, 2, 1]]
    mix = (0.5 + 0.5 * np.tanh(0.6 * base))[..., None]
    image = low + mix * (high - low)
    image += (0.35 * np.clip(0.5 + 0.3 * tint, 0, 1))[..., None] * (other - image)
    return np.asarray(np.clip(image, 0, 255), np.float64)


@lru_cache(maxsize=16)
def _photo(name: str) -> Frame:
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise MissingError(f"scikit-image has no {name}", "reinstall scikit-image from PyPI")
    return np.asarray(PILImage.open(path).convert("RGB"))


def photo(rng: Generator, size: Size, name: str) -> Image:
    """A random window of a photograph at its own sharpness, or shrunk by up to two."""
    image = _photo(name)
    h, w = (n / TEXELS for n in size)
    most = min(2.0, image.shape[0] / h, image.shape[1] / w)
    shrink = rng.uniform(1.0, most) if most > 1 else most
    ch, cw = round(h * shrink), round(w * shrink)
    top = rng.integers(0, max(image.shape[0] - ch, 0) + 1)
    left = rng.integers(0, max(image.shape[1] - cw, 0) + 1)
    crop = image[top : top + ch, left : left + cw].astype(np.float64)
    if shrink > 1:
        crop = cv2.resize(crop, (round(w), round(h)), interpolation=cv2.INTER_AREA)
    grown = cv2.resize(crop, size[::-1], interpolation=cv2.INTER_CUBIC)
    return _soft(np.clip(grown, 0, 255))


TEXTURES = (leaves, text, gratings, coloured_noise)


# Shapes: (rng, (h, w) in texels) -> float64 alpha h x w in 0..1


def blob(rng: Generator, size: Size) -> Image:
    """A smooth star-shaped blob, an ellipse, a polygon or a ring that fills the picture."""
    h, w = size
    theta = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    kind = rng.integers(4)
    if kind == 0:
        waves = (
            rng.normal(0, 0.3 / k) * np.cos(k * theta + rng.uniform(0, 6)) for k in range(1, 7)
        )
        radius = np.exp(sum(waves))
    elif kind == 1:
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        theta, radius = corners, np.ones(len(corners))
    else:
        radius = np.ones(240)
    points = radius[:, None] * np.stack((np.cos(theta), np.sin(theta)), axis=-1)
    low, high = points.min(axis=0), points.max(axis=0)
    inner = np.array((w, h)) - 8 * TEXELS  # room for the soft edge
    points = 4 * TEXELS + (points - low) / (high - low) * inner
    alpha = np.zeros(size, np.float64)
    fixed = np.rint(points * 16).astype(np.int32)
    cv2.fillPoly(alpha, [fixed], 1.0, shift=4)
    if kind == 3:
        hole = np.rint((points - points.mean(axis=0)) * 9 + points.mean(axis=0) * 16)
        cv2.fillPoly(alpha, [hole.astype(np.int32)], 0.0, shift=4)
    return _soft(alpha)


def foliage(rng: Generator, size: Size) -> Image:
    """Irregular islands that cover about a third of the picture; its rim stays clear."""
    cover = _noise(rng, size, 1.7) > 0.45
    rim = 2 * TEXELS
    cover[:rim] = cover[-rim:] = cover[:, :rim] = cover[:, -rim:] = False
    return _soft(cover.astype(np.float64))


# Random scenes for training


def random_scene(rng: Generator, size: Size = (256, 256), frames: int = 8) -> Scene:
    """An endless supply of training scenes: a moving background, up to three things before it.

    Uses the training photographs only. Background motion stays below about 5 px a frame and that
    of objects below about 8.
    """
    layers = [Layer(_texture(rng, _texels(size)), _motion(rng, 3.0, max(size)))]
    for _ in range(rng.choice(4, p=(0.3, 0.3, 0.25, 0.15))):
        if rng.random() < 0.2:
            extent = _texels(size)
            alpha = foliage(rng, extent)
            motion = _motion(rng, 4.0, max(size))
        else:
            low, high = 0.15 * min(size), 0.6 * min(size)
            extent = (
                int(TEXELS * rng.uniform(low, high)),
                int(TEXELS * rng.uniform(low, high)),
            )
            alpha = blob(rng, extent)
            at = (
                rng.uniform(-0.45, 0.45) * size[1],
                rng.uniform(-0.45, 0.45) * size[0],
            )
            motion = _motion(rng, 5.0, max(extent) // TEXELS, at, rng.uniform(-np.pi, np.pi))
        layers.append(Layer(_texture(rng, extent), motion, alpha))
    gain = _Ramp(1.0, rng.normal(0, 0.02)) if rng.random() < 0.15 else None
    return Scene(tuple(layers), size, frames, gain)


@dataclass(frozen=True)
class _Ramp:
    """Brightness start * exp(rate t)."""

    start: float
    rate: float

    def __call__(self, t: int) -> float:
        return float(self.start * np.exp(self.rate * t))


def _texels(size: Size, margin: int = MARGIN) -> Size:
    """Texture size that covers a frame with `margin` px on each side."""
    return (size[0] + 2 * margin) * TEXELS, (size[1] + 2 * margin) * TEXELS


def _texture(rng: Generator, size: Size) -> Image:
    if rng.random() < 0.45:
        return photo(rng, size, TRAIN_PHOTOS[rng.integers(len(TRAIN_PHOTOS))])
    return TEXTURES[rng.choice(4, p=(0.4, 0.2, 0.15, 0.25))](rng, size)


def _motion(
    rng: Generator,
    fastest: float,
    extent: int,
    at: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
) -> Motion:
    """Half of the motions are translations only; one in ten stands still."""
    if rng.random() < 0.1:
        return Motion(at=at, angle=angle)
    speed, heading = fastest * rng.beta(1.2, 1.8), rng.uniform(0, 2 * np.pi)
    turning = rng.random() < 0.5
    # Rotation and zoom each move the rim of the picture by at most about 2 px a frame.
    rate = 3.0 / extent
    return Motion(
        at=at,
        velocity=(speed * np.cos(heading), speed * np.sin(heading)),
        sway=tuple(rng.normal(0, 0.8, 2)),
        period=rng.uniform(8, 24),
        angle=angle,
        spin=rng.uniform(-rate, rate) if turning else 0.0,
        size=rng.uniform(0.9, 1.15),
        zoom=rng.uniform(-rate, rate) if turning else 0.0,
    )


# The test set


def _cover(texture: Image, **motion: Any) -> Layer:
    return Layer(texture, Motion(**motion))


def _thing(
    rng: Generator,
    texture: Callable[[Generator, Size], Image],
    h: int,
    w: int,
    **motion: Any,
) -> Layer:
    extent = (h * TEXELS, w * TEXELS)
    return Layer(texture(rng, extent), Motion(**motion), blob(rng, extent))


def _leaves_pan(rng: Generator) -> Scene:
    pan = _cover(leaves(rng, _texels(SIZE)), velocity=(3.3, 0.9), sway=(0.0, 2.0), period=14)
    return Scene((pan,), SIZE, FRAMES)


def _text_scroll(rng: Generator) -> Scene:
    sheet = _cover(text(rng, _texels(SIZE)), velocity=(0.15, -2.6), angle=0.03)
    return Scene((sheet,), SIZE, FRAMES)


def _gratings_rotate(rng: Generator) -> Scene:
    chart = _cover(gratings(rng, _texels(SIZE)), angle=-0.1, spin=0.018)
    return Scene((chart,), SIZE, FRAMES)


def _texture_parallax(rng: Generator) -> Scene:
    extent = _texels(SIZE, 2 * MARGIN)
    return Scene(
        (
            _cover(coloured_noise(rng, extent), velocity=(0.7, 0.1)),
            Layer(leaves(rng, extent), Motion(velocity=(2.4, 0.3)), foliage(rng, extent)),
            Layer(
                coloured_noise(rng, extent),
                Motion(velocity=(5.6, 0.8)),
                foliage(rng, extent),
            ),
        ),
        SIZE,
        FRAMES,
    )


def _photo_zoom(rng: Generator) -> Scene:
    picture = photo(rng, _texels(SIZE, 8), "coffee.png")
    return Scene((_cover(picture, velocity=(0.4, 0.2), zoom=0.012),), SIZE, FRAMES)


def _photo_objects(rng: Generator) -> Scene:
    return Scene(
        (
            _cover(
                photo(rng, _texels(SIZE, 32), "motorcycle_left.png"),
                velocity=(-1.4, 0.3),
            ),
            _thing(rng, leaves, 130, 150, at=(-150, -60), velocity=(6.5, 1.5), spin=0.03),
            _thing(rng, text, 90, 170, at=(120, 90), velocity=(-4.2, -2.0), angle=0.2),
            _thing(
                rng,
                coloured_noise,
                150,
                110,
                at=(60, -90),
                velocity=(1.5, 5.5),
                zoom=0.02,
            ),
        ),
        SIZE,
        FRAMES,
    )


def _cut(rng: Generator) -> Cut:
    before = _cover(photo(rng, _texels(SIZE, 16), "rocket.jpg"), velocity=(-2.1, 0.6))
    after = _cover(leaves(rng, _texels(SIZE)), velocity=(1.7, -1.2), spin=0.006)
    half = FRAMES // 2
    return Cut(Scene((before,), SIZE, half), Scene((after,), SIZE, FRAMES - half))


def _static(rng: Generator) -> Scene:
    return Scene((_cover(photo(rng, _texels(SIZE, 16), "motorcycle_left.png")),), SIZE, FRAMES)


def _light(rng: Generator) -> Scene:
    back = _cover(coloured_noise(rng, _texels(SIZE)), velocity=(1.1, -0.5))
    front = _thing(rng, leaves, 230, 260, at=(-20, 10), velocity=(-0.9, 0.7), spin=-0.01)
    return Scene((back, front), SIZE, FRAMES, _Ramp(0.6, 0.04))


TESTS: dict[str, tuple[Callable[[Generator], SceneLike], str]] = {
    "leaves-pan": (_leaves_pan, "real"),
    "text-scroll": (_text_scroll, "mild"),
    "gratings-rotate": (_gratings_rotate, "mild"),
    "texture-parallax": (_texture_parallax, "real"),
    "photo-zoom": (_photo_zoom, "real"),
    "photo-objects": (_photo_objects, "real"),
    "cut": (_cut, "real"),
    "static": (_static, "real"),
    "light": (_light, "real"),
}
"""Clip name -> (scene, recipe of its LQ)."""


def _seed(name: str) -> int:
    """Fixed per clip and for all versions, independent of the order in `TESTS` and out of reach of
    small seeds.
    """
    return int.from_bytes(hashlib.sha256(f"{NAME}-v1/{name}".encode()).digest()[:8], "big")


@lru_cache(maxsize=1)
def scene(name: str) -> SceneLike:
    """The test scene `name`, one of `TESTS`."""
    return TESTS[name][0](np.random.default_rng(_seed(name)))


def test_scenes() -> dict[str, SceneLike]:
    """All test scenes by clip name."""
    return {name: scene(name) for name in TESTS}


def clips(cache: Path, progress: Callable[[str], None] | None = None) -> list[Clip]:
    """The clips of the embedded set, rendered below `cache` on first use and read from there.

    `progress` gets one line per clip that is rendered. A clip's folder appears whole or not at all.
    Raises UserError when `cache` cannot be written, DataError when a cached clip is damaged.
    """
    root = cache / f"{NAME}-v{VERSION}"
    for i, name in enumerate(TESTS, 1):
        if not (root / name).is_dir():
            if progress is not None:
                progress(f"rendering {NAME}/{name} ({i} of {len(TESTS)})")
            _render(name, root)
    return [_clip(root / name) for name in TESTS]


def _render(name: str, root: Path) -> None:
    shown = scene(name)
    gt = [shown.frame(t) for t in range(shown.count)]
    lq = degrade(gt, SCALE, RECIPES[TESTS[name][1]], _seed(name))
    sha = hashlib.sha256(b"".join(image.tobytes() for image in lq + gt))
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root)
    except OSError as error:
        hint = "set VSRBENCH_CACHE to a folder that can be written"
        raise UserError(f"cannot write {root}: {error.strerror}", hint) from error
    with temporary:
        built = Path(temporary.name) / name
        for kind, images in (("lq", lq), ("gt", gt)):
            with FrameWriter(built / kind) as writer:
                for image in images:
                    writer.write(image)
        (built / "clip.json").write_text(json.dumps({"digest": sha.hexdigest()}))
        try:
            built.replace(root / name)
        except OSError:
            if not (root / name).is_dir():  # else another process was first: the same bits
                raise


def _clip(folder: Path) -> Clip:
    lq, gt = open_frames(folder / "lq"), open_frames(folder / "gt")
    if not len(lq) == len(gt) == FRAMES:
        raise DataError(f"{folder} is incomplete", "delete it and it is rendered again")
    return Clip(
        dataset=NAME,
        name=folder.name,
        count=FRAMES,
        size=lq.size,
        scale=SCALE,
        fps=FPS,
        digest=json.loads((folder / "clip.json").read_text())["digest"],
        lq=lq,
        gt=gt,
        flow=_Flow(folder.name),
        dataset_version=VERSION,
    )


@dataclass(frozen=True)
class _Flow(Sequence[PairFlow]):
    """The exact motion of a test scene, computed when indexed: a closed form needs no file."""

    name: str

    def __len__(self) -> int:
        return FRAMES - 1

    @overload
    def __getitem__(self, index: int) -> PairFlow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairFlow]: ...
    def __getitem__(self, index: int | slice) -> PairFlow | list[PairFlow]:
        wanted = range(len(self))[index]
        shown = scene(self.name)
        return shown.flow(wanted) if isinstance(wanted, int) else [shown.flow(t) for t in wanted]
