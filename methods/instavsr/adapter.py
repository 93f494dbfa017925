"""InstaVSR as a streaming method: constant memory, look-ahead by its reach."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vsrbench.cards.weights import build
from vsrbench.core.parts import Part
from vsrbench.core.types import Method, MethodCard

from ..spynet import to_device
from .network import InstaVSR


class Streaming:
    """Runs the network along one clip after another."""

    def __init__(self, net: InstaVSR) -> None:
        self.net = net

    def parts(self) -> dict[str, Part]:
        """What other engines can compute: drawing, finishing, and flow, whose errors add up."""
        net = self.net
        found = {
            "draw": Part(net.backbone, "drawn"),
            "flow": Part(net.spynet, "forward", exact=True),
        }
        return found | ({"finish": Part(net.finish, "forward")} if net.finish else {})

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, sides multiples of the card's -> 3 x 4H x 4W, not clamped."""
        yield from self.net.stream(frames)


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network with the weights of the card. Raises MissingError, DataError."""
    net = build(card, InstaVSR)
    to_device(net, net.spynet, device, dtype)
    part = net.backbone if net.backbone.unet.conv_in.weight.is_cuda else net
    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Streaming(net)
