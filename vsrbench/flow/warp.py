"""Backward warping of arrays.

F_{a->b} is float32 H x W x 2 in px, (x, y), on the grid of frame a; it points to where a pixel of
frame a lies in frame b. A backward warp W(I, F)(p) = I(p + F(p)) therefore brings b onto a's grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField

    Array = np.ndarray[Any, np.dtype[Any]]


class Places:
    """Where each pixel of a flow H x W x 2 goes."""

    def __init__(self, flow: FlowField, kind: torch.dtype, device: str = "cpu") -> None:
        """kind: float32 or float64, of what is computed from here on. device: where that is."""
        self.flow = torch.from_numpy(np.ascontiguousarray(np.moveaxis(flow, 2, 0)))
        """The flow as 2 x H x W."""
        self.flow = self.flow.to(device, kind)
        h, w = self.flow.shape[1:]
        across, down = (torch.arange(n, dtype=kind, device=device) for n in (w, h))
        dx, dy = self.flow
        # The sums would be rounded, and bring back what leaves the frame by less than that.
        self.inside = (dx >= -across).logical_and_(dx <= w - 1 - across)
        """Whether they are in the frame, H x W."""
        down = down[:, None]
        self.inside.logical_and_(dy >= -down).logical_and_(dy <= h - 1 - down)
        # Coordinates count from -1 to 1. Whole px stay exact in them where a side is a power of
        # two, so that rows and columns are said to go on up to there.
        self._said = tuple(1 << (side - 1).bit_length() for side in (h, w))
        self._grid = torch.empty(1, h, w, 2, dtype=kind, device=device)
        for axis, (at, side) in enumerate(((dx + across, w), (dy + down, h))):
            at.clamp_(0, side - 1).mul_(2).add_(1).div_(self._said[1 - axis]).sub_(1)
            self._grid[0, :, :, axis] = at

    def sample(self, image: Array) -> Tensor:
        """Values of an H x W x C array there, as C x H x W: bilinear, clamped to the border.

        A whole-pixel place copies exactly.
        """
        h, w = image.shape[:2]
        channels = image.size // (h * w)
        high, wide = self._said
        kind = np.float64 if self._grid.dtype == torch.float64 else np.float32
        held = np.empty(((high - 1) * w + wide) * channels, kind)
        held[: image.size] = image.reshape(-1)
        # Beyond the last pixel one row and one pixel are read, with a weight of 0.
        held[image.size : image.size + (w + 1) * channels] = 0
        whole = torch.from_numpy(held).to(self._grid.device)
        strides = (held.size, 1, w * channels, channels)
        whole = whole.as_strided((1, channels, high, wide), strides)
        # As F.grid_sample: bilinear, zeros outside, corners not aligned.
        found: Tensor = torch.ops.aten.grid_sampler_2d(whole, self._grid, 0, 0, False)[0]
        return found


def warp(image: Array, flow: FlowField) -> Array:
    """Backward warp of an H x W x C array, coordinates clamped to the border.

    In float32, or in float64 where the array is. A whole-pixel flow copies exactly.
    """
    kind = torch.float64 if image.dtype == np.float64 else torch.float32
    moved: Array = Places(flow, kind).sample(image).permute(1, 2, 0).contiguous().numpy()
    return moved
