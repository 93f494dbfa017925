"""RealBasicVSR: image cleaning, then bidirectional recurrent x4 video SR.

Chan et al., "Investigating Tradeoffs in Real-World Video Super-Resolution", CVPR 2022
(arXiv:2111.12704). Arithmetic is the published one, and so are names and shapes after
`from_official`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spynet import SpyNet, warp

MAX_CLEANING = 3
"""Cleaning passes at most."""


def conv(c_in: int, c_out: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)


class ResidualBlock(nn.Module):
    """Two convolutions around a ReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels)
        self.conv2 = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> same."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Trunk(nn.Module):
    """A convolution, then residual blocks. (b, c_in, h, w) -> (b, channels, h, w)."""

    def __init__(self, c_in: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(c_in, channels),
            nn.LeakyReLU(0.1),
            nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks))),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, channels, h, w)."""
        return self.main(x)


class Upsample(nn.Module):
    """A convolution and a pixel shuffle. (b, channels, h, w) -> (b, channels, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample_conv = conv(channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, channels, 2h, 2w)."""
        return F.pixel_shuffle(self.upsample_conv(x), 2)


class BasicVSR(nn.Module):
    """Features carried backward, then forward in time along optical flow."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.spynet = SpyNet()
        self.backward_resblocks = Trunk(3 + channels, channels, blocks)
        self.forward_resblocks = Trunk(3 + channels, channels, blocks)
        self.fusion = conv(2 * channels, channels, 1)
        self.upsample1 = Upsample(channels)
        self.upsample2 = Upsample(channels)
        self.conv_hr = conv(channels, channels)
        self.conv_last = conv(channels, 3)

    def forward(self, frames: Sequence[Tensor]) -> Iterator[Tensor]:
        """Clean frames (b, 3, h, w) to SR frames (b, 3, 4h, 4w), first to last."""
        # Against the one before and against the one after, in one batch; flow stays float32.
        flows = [
            self.spynet(torch.cat((b, a)), torch.cat((a, b))).chunk(2) for a, b in pairwise(frames)
        ]
        b, _, h, w = frames[0].shape
        state = zeros = self.conv_hr.weight.new_zeros(b, self.fusion.out_channels, h, w)
        backward: list[Tensor] = []
        for i in reversed(range(len(frames))):
            if i < len(flows):
                state = warp(state, flows[i][1])
            state = self.backward_resblocks(torch.cat((frames[i], state), 1))
            backward.append(state)
        state = zeros
        for i, frame in enumerate(frames):
            if i:
                state = warp(state, flows[i - 1][0])
            state = self.forward_resblocks(torch.cat((frame, state), 1))
            yield self._upsampled(frame, torch.cat((backward.pop(), state), 1))

    def _upsampled(self, frame: Tensor, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.fusion(features), 0.1)
        x = F.leaky_relu(self.upsample1(x), 0.1)
        x = F.leaky_relu(self.upsample2(x), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))
        return x + F.interpolate(frame, scale_factor=4, mode="bilinear", align_corners=False)


class RealBasicVSR(nn.Module):
    """Both parts; the defaults are the published network (6.29 M parameters).

    channels: feature channels. blocks, cleaning_blocks: residual blocks of each direction and of
    the cleaning. clean_until: clean again, up to three times in all, until the mean change is
    below this many grey levels; the authors' inference cleans once (255), their training
    configuration suggests 5 for tests.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 20,
        cleaning_blocks: int = 20,
        clean_until: float = 255.0,
    ) -> None:
        super().__init__()
        self.clean_until = clean_until
        self.image_cleaning = nn.Sequential(Trunk(3, channels, cleaning_blocks), conv(channels, 3))
        self.basicvsr = BasicVSR(channels, blocks)

    def clean(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """The frames (b, 3, h, w) of a clip with their degradation reduced; not clamped."""
        frames = list(frames)
        for _ in range(MAX_CLEANING):
            change = 0.0
            for i, frame in enumerate(frames):
                residue = self.image_cleaning(frame)
                frames[i] = frame + residue
                change += float(residue.abs().mean()) / len(frames)
            if change < self.clean_until / 255:
                break
        return frames

    def stream(self, frames: Sequence[Tensor]) -> Iterator[Tensor]:
        """A whole clip of frames (b, 3, h, w), RGB in 0..1, sides of 64 px or more, to its SR
        frames (b, 3, 4h, 4w), not clamped, first to last.
        """
        yield from self.basicvsr(self.clean(frames))

    def forward(self, lqs: Tensor) -> Tensor:
        """A clip (b, n, 3, h, w) to (b, n, 3, 4h, 4w), not clamped."""
        return torch.stack(list(self.stream(lqs.unbind(1))), 1)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of `RealBasicVSR` from the authors' checkpoint.

    Of the two generators it holds, the averaged one (`generator_ema.`) counts, as in the authors'
    inference; a bare state without such prefixes is taken whole. Only SpyNet has other names here.
    """
    for prefix in ("generator_ema.", "generator."):
        if any(name.startswith(prefix) for name in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            break

    def renamed(match: re.Match[str]) -> str:
        return f"{match[1]}{2 * int(match[2])}."

    return {
        re.sub(r"^(.*spynet.*basic_module\.)(\d+)\.conv\.", renamed, k): v for k, v in state.items()
    }
