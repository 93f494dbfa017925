"""SpyNet, the coarse-to-fine optical-flow network that recurrent video SR networks carry inside.

Ranjan and Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017. State-dict
names and arithmetic are those of the BasicSR family, so their checkpoints load unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def warp(
    x: torch.Tensor, flow: torch.Tensor, padding: str = "zeros", mode: str = "bilinear"
) -> torch.Tensor:
    """Backward warp with the flow layout of networks: output pixel p takes `x` at p + flow(p).

    x: (n, c, h, w), any float dtype, kept; flow: (n, 2, h, w) in px, channel 0 horizontal;
    padding: zeros or border. mode: bilinear or bicubic.
    """
    return sample(x, places(flow), padding, mode)


def places(flow: torch.Tensor) -> torch.Tensor:
    """Where each pixel of a flow (n, 2, h, w) in px goes, for `sample`: (n, h, w, 2), float32."""
    # Half precision cannot tell neighbouring pixels apart in the right part of a wide frame.
    field = flow.float()
    h, w = flow.shape[-2:]
    cols = torch.linspace(-1, 1, w, device=flow.device)
    rows = torch.linspace(-1, 1, h, device=flow.device)[:, None]
    gx = torch.add(cols, field[:, 0], alpha=2 / max(w - 1, 1))
    gy = torch.add(rows, field[:, 1], alpha=2 / max(h - 1, 1))
    return torch.stack((gx, gy), dim=-1)


def sample(x: torch.Tensor, at: torch.Tensor, padding: str, mode: str) -> torch.Tensor:
    """`warp` of `x` to places that are known already."""
    given, rows, bands = x.float(), at, 1
    if at.device.type == "cpu" and len(at) == 1:
        # There torch shares out the pictures of a batch among its threads: one goes in bands.
        bands = math.gcd(torch.get_num_threads(), int(at.shape[1]))
        given = given.expand(bands, -1, -1, -1)
        rows = at.unflatten(1, (bands, -1)).flatten(0, 1)
    warped = F.grid_sample(given, rows, mode=mode, padding_mode=padding, align_corners=True)
    if bands > 1:
        warped = warped.transpose(0, 1).flatten(1, 2)[None]
    return warped.to(x.dtype)


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class BasicModule(nn.Module):
    """One pyramid level: from (n, 8, h, w) to the residual flow (n, 2, h, w)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        channels = (8, *widths, 2)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            layers += [nn.Conv2d(c_in, c_out, 7, padding=3), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8, h, w): reference, warped support and flow, to the residual flow (n, 2, h, w)."""
        return self.basic_module(x)


class SpyNet(nn.Module):
    """Optical flow between two frames; the defaults are the published network (1.44 M parameters).

    widths: hidden channels of every level. levels: depth of the pyramid.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, widths: Sequence[int] = (32, 64, 32, 16), levels: int = 6) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(BasicModule(widths) for _ in range(levels))
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1))

    def forward(self, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        """The backward-warp field F_{ref->supp}: warping `supp` by it gives `ref`.

        ref, supp: (n, 3, h, w) RGB in 0..1, any h and w. Returns (n, 2, h, w) in px, channel 0
        horizontal, in the dtype of the weights. Frames are resized to the next multiple of
        2^(levels-1). Where a side is then no longer than that, the finest module stays idle: the
        pyramid has one level less, so that its coarsest is 2 px. (The original looks at the width
        alone and fails on a short, wide frame; wherever it works, the numbers are the same.)
        """
        h, w = map(int, ref.shape[-2:])  # numbers, also where the network is exported
        unit = 2 ** (len(self.basic_module) - 1)
        size = (-(-h // unit) * unit, -(-w // unit) * unit)
        depth = len(self.basic_module) - (min(size) == unit)

        # One entry a level, coarse to fine; both frames share a batch until they meet the module.
        levels = [(_resize(torch.cat((ref, supp)).to(self.mean), size) - self.mean) / self.std]
        for _ in range(depth - 1):
            levels.insert(0, F.avg_pool2d(levels[0], 2))

        flow = levels[0].new_zeros(ref.shape[0], 2, *levels[0].shape[-2:])
        for module, frames in zip(self.basic_module, levels, strict=False):
            a, b = frames.chunk(2)
            if a.shape[-2:] != flow.shape[-2:]:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            found = module(torch.cat((a, warp(b, flow, "border"), flow), dim=1))
            flow = flow + found.contiguous()  # also where the weights are channels_last

        ratio = flow.new_tensor((w / size[1], h / size[0])).view(1, 2, 1, 1)
        return _resize(flow, (h, w)) * ratio


def same_scene(a: torch.Tensor, b: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Do two frames (n, 3, h, w) show the same scene? -> bool (n, 1, 1, 1).

    flow: F_{a->b}. The frames are compared at 1/4 size (noise), with mean and contrast divided out
    (light changes), with and without alignment by the flow (fast motion); the better one counts.
    The mean absolute difference of two unrelated normalised images is about 1.1. A cut is a
    difference above 0.8 that is also above 0.03 in grey levels of 0..1, since in a flat scene the
    normalised difference is that of the noise.
    """
    a, *others = (
        F.avg_pool2d(x.float(), 4, ceil_mode=True) for x in (a, b, warp(b, flow, "border"))
    )

    def normalised(x: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
        return (x - mean) / (std + 1e-3)

    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean((1, 2, 3), keepdim=True)

    relative = [distance(normalised(a), normalised(x)) for x in others]
    absolute = [distance(a, x) for x in others]
    return (torch.minimum(*relative) < 0.8) | (torch.minimum(*absolute) < 0.03)


def to_device(net: nn.Module, flow: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Bring a network onto a device in `dtype`, ready to run.

    flow: the flow network in it, whose weights keep every bit of their float32: its errors add up
    over levels and frames, and it is a small part of the cost.
    """
    exact = flow.state_dict()
    net.to(device, dtype).eval()
    flow.float().load_state_dict(exact)
