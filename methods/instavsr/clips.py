"""Clips of real frames that InstaVSR's weights and its ablation are judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vsrbench.core.errors import UserError
from vsrbench.core.types import Clip
from vsrbench.data.datasets import open_source
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import Resized

from ..training.batch import SCALE

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

NOISE, CAMERA = "noise", "camera"
"""The still clips: white noise of 8 levels alone, and the degradation of real captures."""


def open_captured(paths: Sequence[Path]) -> Iterator[Clip]:
    """Clips of real GT frames, cut to multiples of 8 px and degraded as real captures are.

    Raises MissingError, DataError; UserError where two have the same name.
    """
    if len({path.name for path in paths}) < len(paths):
        raise UserError("two clips of GT have the same name", "rename the folder of one")
    for seed, path in enumerate(paths, 100):
        frames = list(open_source(path))
        h, w = (side - side % 8 for side in frames[0].shape[:2])
        gt = [np.ascontiguousarray(frame[:h, :w]) for frame in frames]
        yield make_clip("captured", path.name, gt, degrade(gt, SCALE, RECIPES["real"], seed))


def stills(picture: Frame, count: int = 32) -> Iterator[Clip]:
    """One GT frame that stands still: `NOISE` and `CAMERA`, `count` frames each."""
    h, w = picture.shape[:2]
    small = np.array(Resized([picture], (h // SCALE, w // SCALE))[0], float)
    rng = np.random.default_rng(7)
    noisy = [(small + rng.normal(0, 8, small.shape)).round().clip(0, 255) for _ in range(count)]
    gt = [picture] * count
    yield make_clip("still", NOISE, gt, [frame.astype(np.uint8) for frame in noisy])
    yield make_clip("still", CAMERA, gt, degrade(gt, SCALE, RECIPES["real"], 5))


def make_clip(dataset: str, name: str, gt: Sequence[Frame], lq: Sequence[Frame]) -> Clip:
    """A clip of frames in memory; its identity is their hash."""
    identity = hashlib.sha256(b"".join(frame.tobytes() for frame in (*lq, *gt))).hexdigest()
    return Clip(dataset, name, len(lq), lq[0].shape[:2], SCALE, 0.0, identity, lq=lq, gt=gt)
