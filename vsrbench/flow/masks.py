"""What of a frame is seen in the next one: occlusion from flow that was estimated both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.types import PairFlow
from vsrbench.flow.warp import targets, warp

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField, Mask

    Float64 = np.ndarray[Any, np.dtype[np.float64]]


def occlusion_mask(forward: FlowField, backward: FlowField) -> Mask:
    """True where a pixel of frame a is occluded in frame b or lies on a motion boundary.

    forward: F_{a->b}; backward: F_{b->a}; the mask is H x W on the grid of frame a. With f the
    forward flow and b the backward flow warped onto the same grid, masked are the pixels where
    |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 or |grad f|^2 > 0.01 |f|^2 + 0.002 (forward differences,
    0 in the last row and column). Constants and directions are those of the code of Lai et al.,
    "Learning Blind Video Temporal Consistency", ECCV 2018.
    """
    f = forward.astype(np.float64)
    b = warp(backward, forward)
    f2 = _squared(f)
    inconsistent = _squared(f + b) > 0.01 * (f2 + _squared(b)) + 0.5
    gradient = np.zeros_like(f2)
    gradient[:, :-1] += _squared(np.diff(f, axis=1))
    gradient[:-1] += _squared(np.diff(f, axis=0))
    mask: Mask = inconsistent | (gradient > 0.01 * f2 + 0.002)
    return mask


def _squared(flow: Float64) -> Float64:
    """Squared length of each vector."""
    out: Float64 = np.square(flow[..., 0]) + np.square(flow[..., 1])
    return out


def visible_mask(pair: PairFlow) -> Mask:
    """True where a pixel of frame t is seen again in frame t+1: H x W on the grid of frame t.

    The exact occlusion of the pair decides where it is known, else `occlusion_mask`. Pixels whose
    target lies outside the frame are not visible in either case.
    """
    h, w = pair.forward.shape[:2]
    x, y = targets(pair.forward)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    hidden = pair.occluded_forward
    if hidden is None:
        hidden = occlusion_mask(pair.forward, pair.backward)
    mask: Mask = inside & ~hidden
    return mask
