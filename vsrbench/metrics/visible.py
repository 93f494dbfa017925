"""ColorVideoVDP by the package cvvdp: visible differences of colour video, in JOD.

Mantiuk et al., ACM TOG 2024. 10 JOD is no visible difference. Frames are spooled to disk and read
back by the package as it goes, so that memory does not grow with the clip.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample, Score
from vsrbench.metrics.base import gt_of, require_side

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

FPS = 30.0
"""Frames a second that is assumed: clips of images do not say theirs."""
DISPLAY = "standard_4k"


@functools.cache
def _model(device: str) -> Any:
    """The package's metric; it prints to the log."""
    from pycvvdp import cvvdp

    logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))
    with torch.random.fork_rng(devices=[]):
        return cvvdp(display_name=DISPLAY, device=torch.device(device), quiet=True)


class CVVDP:
    """A running score: frames go to disk, and are compared at the end."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        self._model = _model(device)
        self._folder = tempfile.TemporaryDirectory(prefix="vsrbench-cvvdp-")
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def update(self, sample: Sample) -> None:
        """Take the next frame. Raises DataError below 32 px a side."""
        require_side(32, sample.sr)
        self._shape = sample.sr.shape
        self._write("gt", gt_of(sample))
        self._write("sr", sample.sr)
        self._count += 1

    def _write(self, name: str, frame: Frame) -> None:
        with Path(self._folder.name, name).open("ab") as file:
            file.write(np.ascontiguousarray(frame).tobytes())

    @torch.inference_mode()
    def result(self) -> Score:
        """One number for the clip, in JOD. Raises DataError without frames."""
        if not self._count:
            raise DataError("needs at least one frame")
        try:
            sr, gt = (
                torch.from_numpy(
                    np.memmap(
                        Path(self._folder.name, name),
                        np.uint8,
                        "r+",
                        shape=(self._count, *self._shape),
                    )
                )
                for name in ("sr", "gt")
            )
            fps = FPS if self._count > 1 else 0
            jod, _ = self._model.predict(sr, gt, dim_order="FHWC", frames_per_second=fps)
            return Score(float(jod), (float(jod),), {"fps": FPS, "display": DISPLAY})
        finally:
            self._folder.cleanup()
