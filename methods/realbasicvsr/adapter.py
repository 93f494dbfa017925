"""RealBasicVSR as an offline method: it reads a whole window before it answers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vsrbench.cards.weights import build
from vsrbench.core.types import Method, MethodCard

from ..spynet import to_device
from .network import RealBasicVSR, from_official


class Offline:
    """Runs the network on one window of frames after another."""

    def __init__(self, net: RealBasicVSR) -> None:
        self.net = net

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, sides of 64 or more -> 3 x 4H x 4W, not clamped."""
        for sr in self.net.stream([frame[None] for frame in frames]):
            yield sr[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network with the weights of the card. Raises MissingError, DataError."""
    net = build(card, RealBasicVSR, from_official)
    to_device(net, net.basicvsr.spynet, device, dtype)
    return Offline(net)
