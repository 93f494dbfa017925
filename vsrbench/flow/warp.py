"""Backward warping of arrays.

F_{a->b} is float32 H x W x 2 in px, (x, y), on the grid of frame a; it points to where a pixel of
frame a lies in frame b. A backward warp W(I, F)(p) = I(p + F(p)) therefore brings b onto a's grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField

    Array = np.ndarray[Any, np.dtype[Any]]
    Float64 = np.ndarray[Any, np.dtype[np.float64]]


def targets(flow: FlowField, top: int = 0) -> tuple[Float64, Float64]:
    """Where each pixel goes: x and y in px, each H x W. top: the first of the rows."""
    h, w = flow.shape[:2]
    return np.arange(w) + flow[..., 0], np.arange(top, top + h)[:, None] + flow[..., 1]


_STRIP = 2**15
"""Pixels that are warped at a time: what is computed on the way stays in the cache."""


def warp(image: Array, flow: FlowField) -> Float64:
    """Backward warp of an H x W x C array in float64, coordinates clamped to the border.

    It goes through no normalised grid: a whole-pixel flow copies exactly.
    """
    h, w = flow.shape[:2]
    planes = np.ascontiguousarray(image.reshape(h * w, -1).T)
    out = np.empty((h, w, len(planes)))
    rows = max(1, _STRIP // w)
    for first in range(0, h, rows):
        x, y = targets(flow[first : first + rows], first)
        x, y = x.clip(0, w - 1), y.clip(0, h - 1)
        left, top = x.astype(np.intp), y.astype(np.intp)
        right, bottom = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1) * w
        fx, fy = x - left, y - top
        gx, gy = 1 - fx, 1 - fy
        top *= w
        corners = top + left, top + right, bottom + left, bottom + right
        for channel, plane in enumerate(planes):
            a, b, c, d = (plane.take(corner) for corner in corners)
            out[first : first + rows, :, channel] = (a * gx + b * fx) * gy + (c * gx + d * fx) * fy
    return out
