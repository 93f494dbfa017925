"""Networks that exist only in training: the encoder of GT into the latent space, and the critics.

InstaVSR's dual-space adversarial learning needs a real side in latent space. The pruned backbone
has no encoder, so one is trained along: what the decoder makes of its latents must be the GT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..instavsr.network import Backbone
from ..instavsr.picture import SCALE, upscaled
from ..instavsr.unet import Resnet


class Encoder(nn.Module):
    """GT frames to the latents that the decoder of `backbone` would need to make them.

    depth: resnets.
    """

    def __init__(self, backbone: Backbone, depth: int = 2) -> None:
        super().__init__()
        self.residual, self.factor = backbone.residual, SCALE * backbone.unshuffle
        width = backbone.unet.conv_out.out_channels
        self.conv_in = nn.Conv2d(3 * self.factor**2, width, 3, padding=1)
        self.resnets = nn.ModuleList(Resnet(width, width, 1e-6) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, gt: Tensor, lq: Tensor) -> Tensor:
        """Frames gt (b, 3, 4h, 4w), lq (b, 3, h, w) in 0..1 -> (b, c, h/u, w/u), u = unshuffle.

        For a backbone that adds to the bicubic image only what is to be added is encoded.
        """
        x = 2 * (gt - upscaled(lq)) if self.residual else 2 * gt - 1
        x = self.conv_in(F.pixel_unshuffle(x, self.factor))
        for layer in self.resnets:
            x = layer(x)
        return self.conv_out(x)


class Critic(nn.Module):
    """A convolutional critic of patches with spectral norm. (b, c, h, w) -> (b, n) logits.

    Miyato et al., ICLR 2018. widths: channels of the layers; all but the first halve the size.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (cin, cout) in enumerate(zip((channels, *widths), widths, strict=False)):
            kernel, stride = (4, 2) if i else (3, 1)
            layers += [spectral_norm(nn.Conv2d(cin, cout, kernel, stride, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        """One logit a patch; above 0: looks real."""
        logits: Tensor = self.layers(x)
        return logits.flatten(1)


class PixelCritic(nn.Module):
    """Critics of pairs of frames at full and at half size: (b, 6, h, w) in 0..1 -> (b, n) logits.

    A frame, and the next one brought onto it along exact motion: what is sharp in one and gone in
    the other does not look real (after Chu et al., TOG 2020, who take three frames).
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Critic(24, widths) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of all patches."""
        x = 2 * x - 1
        pictures = (x, F.avg_pool2d(x, 2))
        logits = [
            critic(F.pixel_unshuffle(picture, 2))
            for critic, picture in zip(self.scales, pictures, strict=True)
        ]
        return torch.cat(logits, 1)


def generator_loss(critic: nn.Module, fake: Tensor) -> Tensor:
    """Loss of the generator, non-saturating (Goodfellow et al., 2014)."""
    return F.softplus(-critic(fake)).mean()


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the critic on detached pictures or latents; 2 log 2 where it cannot tell."""
    return F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()


def gradient_penalty(critic: nn.Module, real: Tensor) -> Tensor:
    """R1: mean squared gradient of the critic on real data, summed over each example's elements.

    Mescheder et al., ICML 2018.
    """
    real = real.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(critic(real).mean(1).sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()
