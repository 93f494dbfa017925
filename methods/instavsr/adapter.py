"""InstaVSR as a streaming method: constant memory, look-ahead by its reach."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

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
            "draw": Part(net.backbone, "drawn_from"),
            "flow": Part(net.spynet, "forward", exact=True),
        }
        return found | ({"finish": Part(net.finish, "detail")} if net.finish else {})

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, sides multiples of the card's -> 3 x 4H x 4W, not clamped."""
        yield from self.net.stream(frames)


def channels_last_(net: nn.Module) -> None:
    """Lay out the weights of convolutions anew where they are: copies would leave holes of 0.7 GiB
    between those of the full network.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.data.contiguous()
            made, taken, *sides = weight.shape
            laid = weight.view(made, *sides, taken).permute(0, 3, 1, 2)
            layer.weight.data = laid.copy_(weight.clone())


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network with the weights of the card. Raises MissingError, DataError."""
    net = build(card, InstaVSR)
    to_device(net, net.spynet, device, dtype)
    part = net.backbone if net.backbone.unet.conv_in.weight.is_cuda else net
    channels_last_(part)
    return Streaming(net)
