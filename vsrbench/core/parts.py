"""What other engines than torch may take over of a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """A function of a method's networks that keeps no state and makes one tensor of others."""

    owner: torch.nn.Module
    """The network that has it."""
    name: str
    """Its name there: another function may be set in its place."""
    exact: bool = False
    """It stays in fp32."""
