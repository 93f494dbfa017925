"""Degradation of batches on the device that trains: GT frames to LQ frames, but for the codecs.

After the recipes of vsrbench.data.degrade and vsrbench.data.second_order, whose ranges these cover:
blur, resizing, noise and JPEG, twice, or once and mildly, or resizing alone, or white noise that no
codec has smoothed. Everything but the noise is drawn once a window, the size between the two
passes and the ways of resizing once a batch. Codecs follow in processes of their own (`coded`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from vsrbench.data import degrade

from .batch import SCALE

Codec = Literal["libx264", "libx265", "mpeg4"]
KINDS = {"heavy": 0.5, "mild": 0.2, "clean": 0.1, "noisy": 0.2}
"""Shares of the windows."""
RADIUS = 6
"""Of the blur's kernel, px."""
CODECS: dict[Codec, float] = {"libx264": 0.7, "mpeg4": 0.2, "libx265": 0.1}
"""Shares among the heavy; the mild all have H.264."""
LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *([99] * 32),
)
"""Quantisation of JPEG at quality 50: ITU-T T.81, annex K."""


@dataclass(frozen=True)
class Pass:
    """Blur, resizing, noise and JPEG of one pass; values for each window."""

    kernels: Tensor
    """(b, 2 RADIUS + 1, 2 RADIUS + 1), each of sum 1."""
    mode: str
    """Of interpolation, antialiased when it shrinks; "area" too."""
    read: Tensor
    """(b,) deviation of the noise that does not depend on the signal, 8-bit levels."""
    shot: Tensor
    """(b,) deviation at white of the noise that does."""
    grey: Tensor
    """(b,) bool: one noise for all channels."""
    quality: Tensor
    """(b,) of JPEG, 1 to 100; 0 for none."""


@dataclass(frozen=True)
class Coding:
    """A codec and its setting."""

    codec: Codec
    crf: float
    """Of H.264 and HEVC; the quantiser of MPEG-4 follows from it."""


def draw_kernels(
    rng: Generator, sigma: tuple[float, float], narrow: tuple[float, float], b: int
) -> Tensor:
    """(b, k, k) Gaussians and generalised Gaussians. sigma: of the long axis, px, from and to;
    narrow: of the short one over it, likewise.
    """
    at = np.arange(-RADIUS, RADIUS + 1.0)
    kernels = []
    for _ in range(b):
        along, angle = rng.uniform(*sigma), rng.uniform(0, math.pi)
        across = along * rng.uniform(*narrow)
        power = 1.0 if rng.random() < 0.8 else rng.uniform(0.6, 2.0)
        u = at * math.cos(angle) + at[:, None] * math.sin(angle)
        v = at[:, None] * math.cos(angle) - at * math.sin(angle)
        q = (u / max(along, 0.1)) ** 2 + (v / max(across, 0.1)) ** 2
        kernel = np.exp(-0.5 * q**power)
        kernels.append(kernel / kernel.sum())
    return torch.from_numpy(np.stack(kernels)).float()


def _each(rng: Generator, span: tuple[float, float], b: int) -> Tensor:
    return torch.from_numpy(rng.uniform(*span, b)).float()


def draw_passes(rng: Generator, kind: str, b: int) -> tuple[list[Pass], float]:
    """(the passes of b windows of a kind, GT size over the size between them)."""
    modes = ("area", "bilinear", "bicubic")

    def one(
        sigma: tuple[float, float],
        narrow: tuple[float, float],
        read: tuple[float, float],
        shot: tuple[float, float],
        quality: tuple[float, float] | None,
    ) -> Pass:
        asked = _each(rng, quality or (0, 0), b).round()
        skipped = torch.from_numpy(rng.random(b) < 0.15)
        return Pass(
            draw_kernels(rng, sigma, narrow, b),
            modes[rng.integers(3)],
            _each(rng, read, b),
            _each(rng, shot, b),
            torch.from_numpy(rng.random(b) < 0.3),
            torch.where(skipped, 0, asked),
        )

    if kind == "clean":
        return [one((0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0), None)], 1.0
    if kind == "mild":
        return [one((0.3, 1.4), (1.0, 1.0), (0.0, 2.0), (0.0, 3.0), None)], 1.0
    if kind == "noisy":
        return [one((0.2, 1.4), (1.0, 1.0), (1.0, 12.0), (0.0, 6.0), None)], 1.0
    first = one((0.4, 2.3), (0.4, 1.0), (0.5, 9.0), (0.5, 11.0), (45, 95))
    second = one((0.2, 1.2), (0.5, 1.0), (0.0, 4.0), (0.0, 5.0), (55, 95))
    return [first, second], float(rng.uniform(0.45, 1.2))


def draw_coding(rng: Generator, kind: str) -> Coding | None:
    """The codec of one window; None for none."""
    if kind in ("clean", "noisy"):
        return None
    if kind == "mild":
        return Coding("libx264", rng.uniform(14, 22))
    codec = list(CODECS)[rng.choice(len(CODECS), p=list(CODECS.values()))]
    return Coding(codec, rng.uniform(18, 30))


def degrade_batch(
    gt: Tensor, passes: Sequence[Pass], factor: float, generator: torch.Generator
) -> Tensor:
    """GT (b, n, 3, H, W) in 0..1 to LQ (b, n, 3, H/4, W/4) in 0..1, whole 8-bit levels.

    factor: size between two passes over that of GT. generator: of the noise, on the device of `gt`.
    """
    h, w = gt.shape[-2:]
    x = gt
    for number, drawn in enumerate(passes, 1):
        size = (round(h * factor), round(w * factor))
        if number == len(passes):
            size = (h // SCALE, w // SCALE)
        x = resized(blur(x, drawn.kernels.to(x)), size, drawn.mode)
        x = add_noise(x, drawn, generator)
        x = jpeg(x, drawn.quality.to(x))
    return (255 * x).round().clamp(0, 255) / 255


def blur(x: Tensor, kernels: Tensor) -> Tensor:
    """(b, n, 3, h, w), each window through its own kernel (b, k, k); edges are mirrored."""
    h, w = x.shape[-2:]
    radius = kernels.shape[-1] // 2
    padded = F.pad(x.flatten(0, 1), (radius,) * 4, mode="reflect").unflatten(0, x.shape[:2])
    size = padded.shape[-2:]
    # In the Fourier domain, several times faster than so large a kernel on a CPU.
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, size)[:, None, None]
    return torch.fft.irfft2(spectrum, size)[..., 2 * radius :, 2 * radius :][..., :h, :w]


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(b, n, 3, h, w) at another size, centres of pixels aligned."""
    if x.shape[-2:] == size:
        return x
    flat = x.flatten(0, 1)
    if mode == "area":
        flat = F.interpolate(flat, size=size, mode="area")
    else:
        flat = F.interpolate(flat, size=size, mode=mode, align_corners=False, antialias=True)
    return flat.unflatten(0, x.shape[:2])


def add_noise(x: Tensor, drawn: Pass, generator: torch.Generator) -> Tensor:
    """With Poisson-Gaussian noise, its Poisson part taken as normal: variance a + b x."""
    read, shot, grey = (
        v.to(x.device)[:, None, None, None, None] for v in (drawn.read, drawn.shot, drawn.grey)
    )
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    noise = torch.where(grey, noise[:, :, :1], noise)
    return x + noise / 255 * (read**2 + shot**2 * x.clamp(0, 1)).sqrt()


def _cosines(like: Tensor) -> Tensor:
    """(8, 8): the orthonormal DCT-II."""
    k = torch.arange(8, device=like.device, dtype=like.dtype)
    basis = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _quantise(plane: Tensor, table: Sequence[int], quality: Tensor) -> Tensor:
    """Planes (b, m, h, w) around -128..127, sides multiples of 8, through 8x8 blocks of the DCT."""
    b, m, h, w = plane.shape
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality)
    steps = plane.new_tensor(table).view(8, 8) * scale[:, None, None]
    steps = ((steps + 50) / 100).floor().clamp(1, 255)[:, None, None, None]
    basis = _cosines(plane)
    blocks = plane.view(b, m, h // 8, 8, w // 8, 8).transpose(3, 4)
    levels = (basis @ blocks @ basis.T / steps).round()
    return (basis.T @ (levels * steps) @ basis).transpose(3, 4).reshape(b, m, h, w)


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """(b, n, 3, h, w) in 0..1 as JPEG, 4:2:0, would give it back.

    quality: (b,), 1 to 100; windows of quality 0 stay as they are. What entropy coding leaves alone
    is left out, so that it works on batches.
    """
    if not (quality > 0).any():
        return x
    b, n, _, h, w = x.shape
    levels = (255 * x).round().clamp(0, 255)
    padded = F.pad(levels.flatten(0, 1), (0, -w % 16, 0, -h % 16), mode="replicate")
    r, g, blue = padded.unflatten(0, (b, n)).unbind(2)
    y = 0.299 * r + 0.587 * g + 0.114 * blue
    cb, cr = 128 + (blue - y) / 1.772, 128 + (r - y) / 1.402
    small = F.avg_pool2d(torch.cat((cb, cr), 1), 2).round()
    y = _quantise(y.round() - 128, LUMINANCE, quality) + 128
    small = _quantise(small - 128, CHROMINANCE, quality)
    cb, cr = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False).chunk(2, 1)
    rgb = torch.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), 2)
    coded = rgb[..., :h, :w].round().clamp(0, 255) / 255
    return torch.where(quality[:, None, None, None, None] > 0, coded, x)


def coded(lq: np.ndarray[Any, Any], coding: Coding) -> np.ndarray[Any, Any]:
    """A window (n, h, w, 3) uint8 through a codec and back."""
    options = {"crf": f"{coding.crf:.2f}", "preset": "medium"}
    if coding.codec == "libx264":
        options["x264-params"] = "asm=0"  # with it, not always the same bits: see degrade.py
    elif coding.codec == "libx265":
        options["x265-params"] = "log-level=0:pools=none:frame-threads=1"
    else:
        # Its rate control takes longer than a window to find its way.
        step = round(2 ** ((coding.crf - 10) / 6))
        options = {"qmin": f"{step}", "qmax": f"{step}"}
    # Below 64 px, its block, x265 writes beyond its own memory; below 128 px its bits are not
    # always the same.
    (h, w), least = lq.shape[1:3], 128 if coding.codec == "libx265" else 0
    missing = ((0, 0), (0, max(0, least - h)), (0, max(0, least - w)), (0, 0))
    whole = np.pad(lq, missing, mode="edge")
    return np.stack(list(degrade.coded(whole, coding.codec, options)))[:, :h, :w]
