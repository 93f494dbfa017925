"""What InstaVSR was before it was pruned: Stable Diffusion 2.1 in one step, frame by frame.

VAE encoder, the whole UNet with text and time, VAE decoder, in the sizes of the published model.
There is no checkpoint of it: it is initialised at random, and measured for cost alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from vsrbench.cards.weights import build
from vsrbench.core.types import Method, MethodCard

STEP = 999
"""The one step of the schedule, at which all is noise."""
SCALING = 0.18215


class OneStep(nn.Module):
    """LQ 3 x H x W in 0..1, sides multiples of 16 -> 3 x 4H x 4W in 0..1.

    channels, heads: of the UNet, from the outside in. vae_channels: of encoder and decoder, from
    the outside in. text, tokens: width and number of the text's embeddings.
    """

    text: torch.Tensor

    def __init__(
        self,
        channels: Sequence[int] = (320, 640, 1280, 1280),
        heads: Sequence[int] = (5, 10, 20, 20),
        layers: int = 2,
        vae_channels: Sequence[int] = (128, 256, 512, 512),
        vae_layers: int = 2,
        groups: int = 32,
        text: int = 1024,
        tokens: int = 77,
    ) -> None:
        super().__init__()
        attending = len(channels) - 1
        self.unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            attention_head_dim=tuple(heads),
            cross_attention_dim=text,
            use_linear_projection=True,
            norm_num_groups=groups,
            down_block_types=(*("CrossAttnDownBlock2D",) * attending, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * attending),
        )
        self.vae = AutoencoderKL(
            latent_channels=4,
            block_out_channels=tuple(vae_channels),
            layers_per_block=vae_layers,
            norm_num_groups=groups,
            down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
            up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        )
        self.register_buffer("text", torch.randn(1, tokens, text))
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEP + 1, device="cpu") ** 2
        self.alpha = float((1 - betas).prod())
        """Share of the signal's power that is left at the step."""

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W -> N x 3 x 4H x 4W."""
        size = [4 * side for side in lq.shape[-2:]]
        large = F.interpolate(lq, size, mode="bicubic") * 2 - 1
        latent = self.vae.encode(large).latent_dist.mean * SCALING
        text = self.text.expand(len(lq), -1, -1)
        noise = self.unet(latent, STEP, encoder_hidden_states=text).sample
        clean = (latent - (1 - self.alpha) ** 0.5 * noise) / self.alpha**0.5
        made: torch.Tensor = self.vae.decode(clean / SCALING).sample
        return made / 2 + 0.5


class PerFrame:
    """Applies the network to each frame alone."""

    def __init__(self, net: OneStep) -> None:
        self.net = net

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1 -> 3 x 4H x 4W."""
        for x in frames:
            yield self.net(x[None])[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network, initialised from seed 0."""
    return PerFrame(build(card, OneStep).to(device, dtype).eval())
