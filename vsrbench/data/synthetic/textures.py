"""Textures and shapes of layers, drawn from a generator of random numbers.

A texture is (rng, (h, w) in texels) -> float64 RGB h x w x 3 in 0..255, a shape likewise float64
alpha h x w in 0..1.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from vsrbench.core.errors import MissingError
from vsrbench.data.synthetic.engine import TEXELS

if TYPE_CHECKING:
    from numpy.random import Generator

    from vsrbench.core.types import Frame, Size

    Image = np.ndarray[Any, np.dtype[np.float64]]


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
    from skimage.color import hsv2rgb  # half a second, which clips that are only read need not

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
    import skimage

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
