"""RealViformer as a streaming method: each frame is answered as it is read, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vsrbench.cards.weights import build
from vsrbench.core.types import Method, MethodCard

from ..spynet import same_scene, to_device
from .network import RealViformer


class Streaming:
    """Carries the previous frame and the recurrent state along one clip, and restarts at a cut.

    The authors' script carries them across: between scenes there is nothing to carry.
    """

    def __init__(self, net: RealViformer) -> None:
        self.net = net

    def _same_scene(self, frame: torch.Tensor, previous: torch.Tensor) -> bool:
        still = torch.zeros_like(frame[:, :2], dtype=torch.float32)
        if bool(same_scene(frame, previous, still)):
            return True  # no need for the flow
        flow = self.net.spynet(frame.float(), previous.float())
        return bool(same_scene(frame, previous, flow))

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, sides multiples of 4 -> 3 x 4H x 4W, not clamped."""
        previous = state = None
        for x in frames:
            frame = x[None]
            if previous is not None and not self._same_scene(frame, previous):
                previous = state = None
            sr, state = self.net.step(frame, previous, state)
            previous = frame
            yield sr[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network with the weights of the card. Raises MissingError, DataError."""
    net = build(card, RealViformer)
    to_device(net, net.spynet, device, dtype)
    return Streaming(net)
