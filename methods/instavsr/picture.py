"""Large pictures in tiles that leave no seam, and outputs in the colours of their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 4


def colour_map(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift (b, c, 1, 1), float32, that give each channel of `x` the mean and (unbiased)
    deviation of `reference`.
    """
    std, mean = torch.std_mean(x.float(), (2, 3), keepdim=True)
    to_std, to_mean = torch.std_mean(reference.float(), (2, 3), keepdim=True)
    gain = to_std / std
    return gain, to_mean - gain * mean


def match_colour(x: Tensor, reference: Tensor) -> Tensor:
    """Give `x` the per-image, per-channel mean and (unbiased) deviation of `reference`.

    The result has the dtype of `reference`, the picture; under autocast, `x` has fewer bits.
    """
    gain, shift = colour_map(x, reference)
    return (gain * x + shift).to(reference.dtype)


class SteadyColour:
    """`match_colour` along one clip, its map smoothed over time so that it adds no flicker.

    The map and not the statistics are smoothed: a change of light moves both sides alike and leaves
    the map as it is. The result has the dtype of `reference`, as there.
    """

    RATE = 0.25
    """Weight of the new frame."""

    def __init__(self) -> None:
        self._map: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, reference: Tensor, same: Tensor | None) -> Tensor:
        """The next frame. same: (b, 1, 1, 1) bool, no cut since the last; None at the start."""
        gain, shift = colour_map(x, reference)
        if self._map is not None and same is not None:
            gain, shift = (
                torch.where(same, old + self.RATE * (new - old), new)
                for old, new in zip(self._map, (gain, shift), strict=True)
            )
        self._map = gain, shift
        return (gain * x + shift).to(reference.dtype)


def tile_starts(side: int, tile: int, overlap: int, unit: int) -> tuple[list[int], int]:
    """Where tiles along a side start, and how long they are: as few as cover it, and no longer than
    they must be. All are multiples of `unit`, as `side` is.
    """
    if not tile or side <= tile:
        return [0], side
    count = math.ceil((side - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count / unit) * unit
    last = side - length
    return [round(i * last / (count - 1) / unit) * unit for i in range(count)], length


def tile_weight(start: int, length: int, side: int, overlap: int, like: Tensor) -> Tensor:
    """How much of each position of a tile counts: a ramp over the middle half of each overlap,
    nothing in the outer quarter, which sees the tile's edge; 1 at the edges of the picture.
    """
    x = torch.arange(length, device=like.device) + 0.5
    ramp, edge = overlap / 2, overlap / 4
    weight = torch.ones_like(x)
    if start > 0:
        weight = torch.minimum(weight, ((x - edge) / ramp).clamp(0, 1))
    if start + length < side:
        weight = torch.minimum(weight, ((length - x - edge) / ramp).clamp(0, 1))
    return weight


def tiled(
    layer: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, unit: int
) -> Tensor:
    """`layer` of a map (b, c, h, w) -> (b, c', sh, sw), by overlapping tiles that blend smoothly.

    tile: largest side of a tile in px of `x` (0 = all at once); overlap: what neighbours share, a
    quarter of it on each side being context alone. unit: the layer wants sides that are multiples
    of this. Where each output depends on no more than that context, the tiles change nothing.
    """
    (rows, height), (cols, width) = (tile_starts(int(n), tile, overlap, unit) for n in x.shape[2:])
    if len(rows) == len(cols) == 1:
        return layer(x)
    total: Tensor | None = None
    for top in rows:
        for left in cols:
            y = layer(x[:, :, top : top + height, left : left + width])
            s = y.shape[2] // height
            weight = (
                tile_weight(s * top, s * height, s * x.shape[2], s * overlap, y)[:, None]
                * tile_weight(s * left, s * width, s * x.shape[3], s * overlap, y)
            ).to(y.dtype)
            if total is None:
                total = y.new_zeros(*y.shape[:2], s * x.shape[2], s * x.shape[3])
                norm = y.new_zeros(total.shape[2:])
            rect = (slice(s * top, s * (top + height)), slice(s * left, s * (left + width)))
            total[:, :, *rect] += weight * y
            norm[rect] += weight
    assert total is not None
    return total.div_(norm)


def upscaled(x: Tensor) -> Tensor:
    """Bicubic x4 of (b, c, h, w), pixel centres aligned, a = -0.75, borders repeated."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
        return F.interpolate(x, scale_factor=SCALE, mode="bicubic", align_corners=False)
    b, c, h, w = x.shape  # there OpenCV makes the same numbers several times as fast
    made = x.new_empty(b, c, SCALE * h, SCALE * w)
    planes = x.reshape(-1, h, w).numpy(), made.view(-1, SCALE * h, SCALE * w).numpy()
    for plane, target in zip(*planes, strict=True):
        cv2.resize(plane, (SCALE * w, SCALE * h), target, interpolation=cv2.INTER_CUBIC)
    return made


def unshuffled(x: Tensor, side: int) -> Tensor:
    """`F.pixel_unshuffle`, in a form that torch computes about three times as fast on a CPU."""
    b, c, h, w = (int(n) for n in x.shape)
    cells = x.reshape(b, c, h // side, side, w // side, side).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(b, c * side**2, h // side, w // side)
