"""What a training minimises: every loss term on its own, unweighted, and the validation scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spynet import warp
from .batch import SCALE, Batch

CHARBONNIER_EPS = 1e-3

Distance = Callable[[Tensor, Tensor], Tensor]


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    """Mean of sqrt((x - y)^2 + eps^2): a smooth L1."""
    return ((x - y).square() + CHARBONNIER_EPS**2).sqrt().mean()


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and to the lower neighbour of (..., h, w)."""
    return x.diff(dim=-1), x.diff(dim=-2)


def slope_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of slopes at full, half and quarter size, (n, 3, h, w) in 0..1.

    The perceptual distance that needs no weights: it asks for edges of the right height in the
    right place and for structure, and is blind to brightness.
    """
    total = x.new_zeros(())
    for size in range(3):
        if size:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        for a, b in zip(slopes(x), slopes(y), strict=True):
            total = total + (a - b).abs().mean() / 3
    return total


def perceptual_distance(device: torch.device) -> tuple[str, Distance]:
    """(name, distance): LPIPS where its backbone is here (nothing is fetched), else the slopes."""
    from vsrbench.metrics import find_weights, unavailable

    if unavailable("lpips", fetch=False) is not None:
        return "slopes", slope_distance
    from vsrbench.metrics.perceptual import lpips_network

    net = lpips_network(find_weights("lpips"), str(device))
    return "lpips", lambda x, y: net(x, y, normalize=True).mean()


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x (n, c, h, w) over channels and the pixels where valid (n, 1, h, w) is 1."""
    return (x * valid).sum() / (valid.sum() * x.shape[1]).clamp(min=1)


def end_point_error(flow: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Mean distance of flow vectors (n, 2, h, w) in px, over valid pixels (n, 1, h, w)."""
    distance = ((flow - true).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return masked_mean(distance, valid)


def warp_pairs(frames: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(frame i, frame i+1 warped onto it, where it is visible there), all pairs in one batch.

    frames: (b, n, 3, 4h, 4w). Exact flow of the batch, F_{i->i+1}.
    """
    flow = F.interpolate(
        batch.forward.flatten(0, 1), scale_factor=SCALE, mode="bilinear", align_corners=False
    )
    valid = F.interpolate(batch.valid_forward.flatten(0, 1), scale_factor=SCALE, mode="nearest")
    later = warp(frames[:, 1:].flatten(0, 1), SCALE * flow)
    return frames[:, :-1].flatten(0, 1), later, valid


def warping_loss(frames: Tensor, batch: Batch) -> Tensor:
    """Mean |e_i - warp(e_{i+1}, F_{i->i+1})| of the errors e = SR - GT, where frame i's content is
    visible in frame i+1.

    Errors have to move with the scene. Of the frames themselves the same would ask for softness,
    since interpolation changes what is sharp, and forbid a change of light: GT would not be free.
    """
    frame, later, valid = warp_pairs(frames - batch.gt, batch)
    return masked_mean((frame - later).abs(), valid)


def pairs(frames: Tensor, batch: Batch) -> Tensor:
    """Each frame beside the next one brought onto it, (b * (n - 1), 6, 4h, 4w).

    Where the next one does not show a point, the frame itself stands for it.
    """
    frame, later, valid = warp_pairs(frames, batch)
    return torch.cat((frame, torch.where(valid > 0, later, frame)), 1)


def psnr(x: Tensor, gt: Tensor) -> float:
    """Mean over frames of the RGB PSNR in dB of 8-bit frames; x, gt: (n, 3, h, w) in 0..1."""
    error = (x.clamp(0, 1).mul(255).round() / 255 - gt).square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def gradient_energy(x: Tensor) -> float:
    """Mean squared slope of (n, 3, h, w)."""
    return sum(float(d.square().mean()) for d in slopes(x))


def scores(sr: Tensor, batch: Batch) -> dict[str, float]:
    """PSNR in dB; warping error and flicker in 8-bit levels, as excess over GT; gradient energy
    relative to that of GT. sr: (b, n, 3, 4h, 4w).
    """
    sr = sr.clamp(0, 1)
    errors = []
    for frames in (sr, batch.gt):
        frame, later, valid = warp_pairs(frames, batch)
        errors.append(float(masked_mean((frame - later).abs(), valid)))
    changes = [frames.diff(dim=1).abs() for frames in (sr, batch.gt)]
    return {
        "psnr": psnr(sr.flatten(0, 1), batch.gt.flatten(0, 1)),
        "warping": 255 * (errors[0] - errors[1]),
        "flicker": 255 * float((changes[0] - changes[1]).clamp(min=0).mean()),
        "gradients": gradient_energy(sr.flatten(0, 1)) / gradient_energy(batch.gt.flatten(0, 1)),
    }


class Latents:
    """Collects what the decoder's mid block makes, and the pictures that the backbone makes of it,
    while a network runs, frame by frame.

    Use as a context manager; `stacked` then gives (b, n, c, h, w), `pictures` (b, n, c, 4h, 4w).
    """

    def __init__(self, net: nn.Module) -> None:
        self._backbone = net.get_submodule("backbone")
        self._block = net.get_submodule("backbone.decoder.mid_block")
        self._maps: list[Tensor] = []
        self._pictures: list[Tensor] = []

    def __enter__(self) -> Latents:
        self._hooks = (
            self._block.register_forward_hook(lambda _, __, out: self._maps.append(out)),
            self._backbone.register_forward_hook(lambda _, __, out: self._pictures.append(out)),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def stack(self) -> Tensor:
        """The latents of all frames, in order."""
        return torch.stack(self._maps, 1)

    def pictures(self) -> Tensor:
        """What the backbone made of them, before the recurrence."""
        return torch.stack(self._pictures, 1)
