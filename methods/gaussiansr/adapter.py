"""GaussianSR frame by frame, at the scale of the clip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from vsrbench.cards.weights import build
from vsrbench.core.types import Method, MethodCard

from .network import GaussianSR


class PerFrame:
    """Applies the network to each frame alone."""

    def __init__(self, net: GaussianSR, scale: int) -> None:
        self.net, self.scale = net, scale

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1 -> 3 x sH x sW, not clamped."""
        for x in frames:
            yield self.net(x[None], self.scale)[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network with the weights of the card. Raises MissingError, DataError."""
    net = build(card, GaussianSR, _names)
    net.to(device, dtype).eval()
    return PerFrame(net, card.scale)


def _names(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The authors' code calls its last layers `dec`, their checkpoint `fc`."""
    return {re.sub(r"^dec\.", "fc.", name): tensor for name, tensor in state.items()}
