"""What a step of the training sees, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

SCALE = 4


@dataclass(frozen=True)
class Batch:
    """Frames and exact motion, float32. Flow pair i lies between frames i and i+1, in LQ px."""

    lq: torch.Tensor
    """(b, n, 3, h, w) in 0..1."""
    gt: torch.Tensor
    """(b, n, 3, 4h, 4w) in 0..1."""
    forward: torch.Tensor
    """(b, n-1, 2, h, w), F_{i->i+1}: warping frame i+1 by it gives frame i."""
    backward: torch.Tensor
    """(b, n-1, 2, h, w), F_{i+1->i}."""
    valid_forward: torch.Tensor
    """(b, n-1, 1, h, w): 1 where the target is visible and inside the patch."""
    valid_backward: torch.Tensor
    """(b, n-1, 1, h, w), likewise."""
    teacher: torch.Tensor | None = None
    """(b, n, 3, 4h, 4w) in 0..1: what a teacher made of `lq`; None unless all clips have it."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; from pinned memory, without waiting for it."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, as DataLoader asks for it."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {k: v if v is None else change(v) for k, v in vars(self).items()}
        return Batch(**changed)


@dataclass(frozen=True)
class Draw:
    """What the batches of a stage are like; they follow from it and from their number alone."""

    seed: tuple[int, ...]
    """Of all of them."""
    batch: int
    """Windows."""
    frames: int
    """Frames a window."""
    patch: tuple[int, ...]
    """LQ sides in px, one drawn a batch."""
    pan: int = 0
    """Largest motion added by panning, LQ px a frame."""


class Source(Protocol):
    """Where batches come from: a pool of clips on disk, or photographs."""

    def describe(self) -> str:
        """What it holds, in words."""

    def batches(self, draw: Draw, first: int, pin: bool) -> Generator[Batch, None, None]:
        """The batches of a stage from number `first` on, without end. Raises UserError."""

    def read_held_out(self, index: int, frames: int) -> Batch:
        """A clip that no batch shows, as a batch of one."""
