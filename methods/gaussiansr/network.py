"""GaussianSR: arbitrary-scale image SR by splatting features as Gaussians and a per-pixel network.

Hu et al., "GaussianSR: High Fidelity 2D Gaussian Splatting for Arbitrary-Scale Image
Super-Resolution", arXiv:2407.18046. State-dict names, shapes and arithmetic are the published
ones, so that the authors' checkpoint loads unchanged. The one difference: theirs adds Gumbel noise
to the choice of Gaussians, also when tested, so that no two runs agree; here that is a switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPLATTED = 8
"""Feature channels that are splatted; the others are resized."""
GRID = 10
"""The Gaussians start as this many widths along each axis."""
STRIP = 2**17
"""Output pixels that the per-pixel network answers at once."""


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, pixel centres aligned. (b, c, h, w) -> (b, c, *size)."""
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False)


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(c_in, c_out, 3, padding=1)


class ResBlock(nn.Module):
    """Two convolutions around a ReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), nn.ReLU(), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> same."""
        return x + self.body(x)


class Edsr(nn.Module):
    """EDSR without upsampling. (b, 3, h, w) -> (b, channels, h, w).

    `sub_mean` and `add_mean` are in the authors' checkpoint and take no part.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(3, channels))
        body = [*(ResBlock(channels) for _ in range(blocks)), conv(channels, channels)]
        self.body = nn.Sequential(*body)
        self.sub_mean = nn.Conv2d(3, 3, 1)
        self.add_mean = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, channels, h, w)."""
        x = self.head(x)
        return x + self.body(x)


class Encoder(nn.Module):
    """Features, and for each pixel how well each Gaussian fits."""

    def __init__(self, channels: int, blocks: int, gaussians: int) -> None:
        super().__init__()
        self.edsr = Edsr(channels, blocks)
        self.segmentation_head = nn.Sequential(conv(channels, gaussians))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, h, w) -> (b, channels, h, w), logits (b, gaussians, h, w)."""
        features = self.edsr(x)
        return features, self.segmentation_head(features)


class Mlp(nn.Module):
    """Linear layers with GELU between. (..., widths[0]) -> (..., widths[-1])."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        return self.layers(x)


class GaussianSR(nn.Module):
    """The defaults are the published network on EDSR-baseline (1.84 M parameters).

    channels, blocks: of the encoder. gaussians: a square of `GRID`, kernels to choose from. patch:
    side in px of the patches whose pixels are splatted together. kernel: side of a kernel in
    samples. hidden: width of the per-pixel network. gumbel: add the authors' noise to the choice
    of Gaussians (drawn from torch's global generator).
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 16,
        gaussians: int = GRID**2,
        patch: int = 7,
        kernel: int = 5,
        hidden: int = 256,
        gumbel: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.kernel, self.gumbel = patch, kernel, gumbel
        widths = torch.linspace(0.2, 3.0, math.isqrt(gaussians))
        self.sigma_x = nn.Parameter(widths.repeat_interleave(len(widths)))
        self.sigma_y = nn.Parameter(widths.repeat(len(widths)))
        self.opacity = nn.Parameter(torch.ones(gaussians, 1))
        self.rho = nn.Parameter(torch.zeros(gaussians, 1))
        self.encoder = Encoder(channels, blocks, gaussians)
        self.coef = conv(channels, hidden)
        self.freq = conv(channels, hidden)
        self.phase = nn.Linear(2, hidden // 2, bias=False)
        self.fc = Mlp([hidden] * 5 + [3])

    def forward(self, lq: Tensor, scale: float, index: Tensor | None = None) -> Tensor:
        """Images (b, 3, h, w) in 0..1 to (b, 3, round(h scale), round(w scale)), not clamped.

        index: the Gaussian (b, h, w) of each pixel, instead of the network's own choice. The
        kernels are those of a mean over the whole batch: one image is enlarged on its own.
        """
        features, logits = self.encoder(2 * lq - 1)
        if index is None:
            if self.gumbel:
                logits = logits - torch.empty_like(logits).exponential_().log()
            index = logits.argmax(1)
        chosen = F.one_hot(index, logits.shape[1]).movedim(-1, 1).to(features.dtype)
        size = (round(lq.shape[2] * scale), round(lq.shape[3] * scale))
        splatted = self._splat(features[:, :SPLATTED], chosen, scale, size)
        features = torch.cat((splatted, resized(features[:, SPLATTED:], size)), 1)
        return self._render(features, (lq.shape[2], lq.shape[3])) / 2 + 0.5

    def _splat(self, x: Tensor, chosen: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
        """Features (b, c, h, w) as sums of Gaussians, (b, c, *size)."""
        patch, side = self.patch, round(self.patch * scale)
        rows, cols = (-(-n // patch) for n in x.shape[2:])
        whole = (rows * patch, cols * patch)
        cells = F.unfold(resized(x, whole), patch, stride=patch)  # (b, c patch^2, rows cols)
        values = cells.unflatten(1, (x.shape[1], patch**2)).transpose(2, 3)
        images = (values @ self._kernels(resized(chosen, whole), side).flatten(1)).clamp(0, 1)
        images = images.transpose(2, 3).flatten(1, 2)  # (b, c side^2, rows cols)
        x = F.fold(images, (rows * side, cols * side), side, stride=side)
        return resized(x, size)

    def _kernels(self, chosen: Tensor, side: int) -> Tensor:
        """The kernel of each position in a patch, moved there: (patch^2, side, side)."""
        patch, kernel = self.patch, self.kernel
        parameters = torch.stack((self.sigma_x, self.sigma_y, self.opacity[:, 0], self.rho[:, 0]))
        weights = chosen.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).mean((0, 2, 4))
        sx, sy, opacity, rho = (parameters @ weights.flatten(1)).float().view(4, -1, 1, 1)
        # Exponent -u^T C^-1 u / 2 of the covariance C = [[a, b], [b, d]].
        a, b, d = sx**2 + 1e-5, rho * sx * sy, sy**2 + 1e-5
        u = torch.linspace(-5, 5, kernel, device=chosen.device)
        v = u.view(1, 1, -1)
        u = u.view(1, -1, 1)
        gauss = torch.exp(-(d * u**2 - 2 * b * u * v + a * v**2) / (2 * (a * d - b**2)))
        gauss = opacity * gauss / gauss.amax((1, 2), keepdim=True)
        before = (side - kernel) // 2
        after = side - kernel - before
        gauss = F.pad(gauss, (before, after, before, after))[:, None]
        step = torch.arange(patch, device=chosen.device)
        y, x = torch.meshgrid(step, step, indexing="ij")
        theta = torch.eye(2, 3, device=chosen.device).repeat(patch**2, 1, 1)
        theta[:, 0, 2] = 1 - 2 * x.flatten() / patch
        theta[:, 1, 2] = 1 - 2 * y.flatten() / patch
        grid = F.affine_grid(theta, list(gauss.shape), align_corners=True)
        moved = F.grid_sample(gauss, grid, align_corners=True)
        return moved[:, 0].to(chosen.dtype)

    def _render(self, features: Tensor, lq_size: tuple[int, int]) -> Tensor:
        """The picture -1..1 (b, 3, H, W) from features (b, channels, H, W), in strips of rows."""
        height, width = features.shape[2:]
        y, x = (
            self._offset(big, small, features)
            for big, small in zip((height, width), lq_size, strict=True)
        )
        cell = features.new_tensor((2 * lq_size[0] / height, 2 * lq_size[1] / width))
        phase = self.phase(cell).view(1, -1, 1, 1)
        padded = F.pad(features, (0, 0, 1, 1))  # a strip needs a row more on each side
        step = max(1, STRIP // width)
        strips = []
        for top in range(0, height, step):
            strip = padded[:, :, top : top + step + 2]
            coef, freq = (
                F.conv2d(strip, layer.weight, layer.bias, padding=(0, 1))
                for layer in (self.coef, self.freq)
            )
            rel_y = y[top : top + step].view(-1, 1)
            angle = math.pi * (freq[:, ::2] * rel_y + freq[:, 1::2] * x + phase)
            basis = torch.cat((angle.cos(), angle.sin()), 1)
            strips.append(self.fc((coef * basis).movedim(1, -1)).movedim(-1, 1))
        return torch.cat(strips, 2)

    @staticmethod
    def _offset(big: int, small: int, like: Tensor) -> Tensor:
        """How far each of `big` pixel centres lies from the nearest of `small`, in small pixels."""
        # In the authors' rounding: the frequencies multiply what is lost in float32.
        fine, coarse = (
            -1 + 1 / n + (2 / n) * torch.arange(n, device=like.device, dtype=torch.float32)
            for n in (big, small)
        )
        nearest = (((fine + 1) * small - 1) / 2).round().long().clamp(0, small - 1)
        return ((fine - coarse[nearest]) * small).to(like.dtype)
