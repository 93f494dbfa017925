"""VMAF 0.6.1 and VMAF-NEG by the package vmaf-torch, frame after frame in constant memory.

Li et al., Toward a Practical Perceptual Video Quality Metric, 2016. Luma is that of 8-bit video
(limited-range BT.601, rounded). The package keeps to libvmaf's floating-point features.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample, Score
from vsrbench.metrics.base import gt_of, require_side
from vsrbench.metrics.fidelity import limited_luma

if TYPE_CHECKING:
    from vsrbench.core.types import Frame


@functools.cache
def _model(negative: bool, device: str) -> Any:
    """The package's model; its support vectors are in its code."""
    from vmaf_torch import VMAF as Model

    return Model(NEG=negative, clip_score=True).eval().requires_grad_(False).to(device)


class VMAF:
    """A running score: spatial features at once, motion one frame late, the regression at the end.

    Motion of a frame is the smaller difference to its neighbours in the ground truth, 0 for the
    first frame and that to the one before for the last.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        self._model = _model(info.name == "vmaf_neg", device)
        self._device = device
        self._features: list[tuple[float, torch.Tensor]] = []
        self._motion: list[float] = []
        self._previous: torch.Tensor | None = None

    def _luma(self, frame: Frame) -> torch.Tensor:
        luma = np.rint(limited_luma(frame)).astype(np.float32)
        return torch.from_numpy(luma).to(self._device)[None, None]

    @torch.inference_mode()
    def update(self, sample: Sample) -> None:
        """Take the next frame. Raises DataError below 192 px a side."""
        require_side(192, sample.sr)  # the fourth scale reflects by more than a smaller one has
        truth, output = self._luma(gt_of(sample)), self._luma(sample.sr)
        adm = self._model.compute_adm_score(truth, output)
        vif = self._model.compute_vif_features(truth, output)
        self._features.append((float(adm), vif.cpu()))
        if self._previous is not None:
            pair = torch.cat([self._previous, truth])
            self._motion.append(float(self._model.compute_motion(pair)[1]))
        self._previous = truth

    @torch.inference_mode()
    def result(self) -> Score:
        """Mean over frames, 0..100. Raises DataError without frames."""
        if not self._features:
            raise DataError("needs at least one frame")
        behind = [math.inf, *self._motion]
        ahead = [*self._motion, math.inf]
        motion = [min(pair) for pair in zip(behind, ahead, strict=True)]
        motion[0] = 0.0
        scores = [
            float(
                self._model.predict(
                    torch.tensor([[adm]], device=self._device),
                    torch.tensor([[moved]], device=self._device),
                    vif.to(self._device),
                )
            )
            for (adm, vif), moved in zip(self._features, motion, strict=True)
        ]
        return Score(sum(scores) / len(scores), tuple(scores))
