"""Any single-image SR checkpoint that the spandrel library recognises, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

from vsrbench.cards.weights import read_checkpoint, verify
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.parts import Part
from vsrbench.core.types import Method, MethodCard

from . import ncnn


class ImageModel:
    """Applies an image network to each frame alone; spandrel pads to what the network needs."""

    def __init__(self, descriptor: ImageModelDescriptor[Any]) -> None:
        self.descriptor, self.net = descriptor, descriptor.model

    def parts(self) -> dict[str, Part]:
        """What other engines can compute: the network, of what is padded for it already."""
        return {"network": Part(self.net, "forward")}

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1 -> 3 x sH x sW in 0..1."""
        for x in frames:
            yield self.descriptor(x[None].to(self.descriptor.dtype, copy=True))[0]  # RCAN alters it


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The network that fits the checkpoint. Raises DataError, UserError."""
    path = verify(card)
    state = ncnn.read(path) if path.suffix == ".bin" else read_checkpoint(path)[0]
    try:
        descriptor = ModelLoader(device).load_from_state_dict(state)
    except UnsupportedModelError as error:
        raise DataError(
            f"spandrel does not recognise the architecture of {card.weights.file}",
            "see the list of architectures in spandrel's documentation, or write an adapter",
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.input_channels != 3:
        raise DataError(f"{card.weights.file} is not an RGB image network")
    if descriptor.scale != card.scale:
        raise UserError(
            f"{card.name} upscales x{descriptor.scale}, the clip needs x{card.scale}",
            "say --scale for your own input",
        )
    halves = {
        torch.float16: descriptor.supports_half,
        torch.bfloat16: descriptor.supports_bfloat16,
    }
    if not halves.get(dtype, True):
        dtype = torch.float32
    descriptor.to(dtype).eval()
    return ImageModel(descriptor)
