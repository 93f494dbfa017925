"""Interpolation: the reference rows of every table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vsrbench.core.types import Method, MethodCard


class Interpolation:
    """Upscales each frame alone by a fixed kernel, pixel centres aligned."""

    def __init__(self, kernel: str, scale: int) -> None:
        self.kernel, self.scale = kernel, scale

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1 -> 3 x sH x sW; overshoot of the kernel is kept."""
        for x in frames:
            if self.kernel == "lanczos":
                yield self._lanczos(x)
            elif self.kernel == "bicubic":
                # antialias selects the kernel with a = -0.5, as in MATLAB and Pillow.
                yield F.interpolate(
                    x[None], scale_factor=self.scale, mode="bicubic", antialias=True
                )[0]
            else:
                yield F.interpolate(x[None], scale_factor=self.scale, mode="nearest")[0]

    def _lanczos(self, x: torch.Tensor) -> torch.Tensor:
        size = (x.shape[2] * self.scale, x.shape[1] * self.scale)
        planes = [
            np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
            for plane in x.float().cpu().numpy()
        ]
        return torch.from_numpy(np.stack(planes)).to(x)


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The kernel named in the card's settings."""
    return Interpolation(card.settings["kernel"], card.scale)
