"""What of a frame is seen in the next one: occlusion from flow that was estimated both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsrbench.core.types import PairFlow
from vsrbench.flow.warp import Places

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField, Mask


def occlusion_mask(forward: FlowField, backward: FlowField) -> Mask:
    """True where a pixel of frame a is occluded in frame b or lies on a motion boundary.

    forward: F_{a->b}; backward: F_{b->a}; the mask is H x W on the grid of frame a. With f the
    forward flow and b the backward flow warped onto the same grid, masked are the pixels where
    |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 or |grad f|^2 > 0.01 |f|^2 + 0.002 (forward differences,
    0 in the last row and column). Constants and directions are those of the code of Lai et al.,
    "Learning Blind Video Temporal Consistency", ECCV 2018.
    """
    mask: Mask = _occluded(Places(forward, torch.float32), backward).numpy()
    return mask


def _occluded(at: Places, backward: FlowField) -> Tensor:
    """`occlusion_mask` of a forward flow, given where it leads."""
    f, b = at.flow, at.sample(backward)
    f2 = _squared(f)
    bound = _squared(b).add_(f2).mul_(0.01).add_(0.5)
    inconsistent = _squared(b.add_(f)) > bound
    gradient = torch.zeros_like(f2)
    gradient[:, :-1] += _squared(f.diff(dim=2))
    gradient[:-1] += _squared(f.diff(dim=1))
    return inconsistent.logical_or_(gradient > f2.mul_(0.01).add_(0.002))


def _squared(flow: Tensor) -> Tensor:
    """Squared length of each vector."""
    return flow[0].square().addcmul_(flow[1], flow[1])


def visible_mask(pair: PairFlow) -> Mask:
    """True where a pixel of frame t is seen again in frame t+1: H x W on the grid of frame t.

    The exact occlusion of the pair decides where it is known, else `occlusion_mask`. Pixels whose
    target lies outside the frame are not visible in either case.
    """
    mask: Mask = visible(pair, "cpu")[0].numpy()
    return mask


def visible(pair: PairFlow, device: str) -> tuple[Tensor, Places]:
    """`visible_mask` on a device, and where each pixel goes."""
    at = Places(pair.forward, torch.float32, device)
    if pair.occluded_forward is not None:
        hidden = torch.from_numpy(pair.occluded_forward.copy()).to(device)
    else:
        hidden = _occluded(at, pair.backward)
    return at.inside & hidden.logical_not_(), at
