"""Perceptual metrics: LPIPS and DISTS against the ground truth, NIQE without reference.

The networks come from the packages that define them. Their backbones are filled from a file that
was found beforehand, so that nothing is downloaded behind the user's back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import scipy.io
import torch
import torchvision

from vsrbench.errors import DataError
from vsrbench.metrics import MeanMetric, at_least, find_weights, gt_of
from vsrbench.types import Sample
from vsrbench.weights import load_strictly, read_checkpoint

if TYPE_CHECKING:
    from vsrbench.types import Frame


def _tensor(frame: Frame, device: str) -> torch.Tensor:
    """A uint8 H x W x 3 frame as float32 1 x 3 x H x W in 0..1."""
    return torch.from_numpy(frame.copy()).to(device).permute(2, 0, 1)[None].float() / 255


def _build(make: Callable[[], Any], backbone: str, path: Path) -> Any:
    """Run a package's constructor with its torchvision backbone filled from `path`.

    Both packages call torchvision.models.<backbone>(pretrained=...) and use only `.features`.
    Raises DataError if the file does not hold them.
    """
    with torch.device("meta"):
        features = getattr(torchvision.models, backbone)(weights=None).features
    features.to_empty(device="cpu")
    state, _ = read_checkpoint(path)
    prefix = "features."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    load_strictly(features, state, backbone)
    filled = SimpleNamespace(features=features)
    # The constructors draw random numbers; a metric must not change what a method then draws.
    with (
        mock.patch.object(torchvision.models, backbone, return_value=filled),
        torch.random.fork_rng(devices=[]),
    ):
        return make()


@functools.cache
def _lpips(path: Path, device: str) -> Any:
    import lpips

    net = _build(lambda: lpips.LPIPS(net="alex", verbose=False), "alexnet", path)
    return net.requires_grad_(False).to(device)


@functools.cache
def _dists(path: Path, device: str) -> Any:
    from DISTS_pytorch import DISTS_pt

    net = _build(lambda: DISTS_pt.DISTS(load_weights=False), "vgg16", path)
    # The package looks for its own weights in the interpreter's prefix, where not every installer
    # puts them; the same file lies beside the module.
    mixing = torch.load(Path(DISTS_pt.__file__).with_name("weights.pt"), weights_only=True)
    net.load_state_dict(mixing, strict=False)
    return net.eval().requires_grad_(False).to(device)


@functools.cache
def _niqe_model(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (36) and covariance (36 x 36) of pristine pictures, from the .mat or BasicSR's .npz."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
    else:
        file = scipy.io.loadmat(path)
        mean, covariance = file["mu_prisparam"], file["cov_prisparam"]
    return torch.from_numpy(mean.ravel()), torch.from_numpy(covariance)


class LPIPS(MeanMetric):
    """LPIPS v0.1 with AlexNet of each frame. Zhang et al., CVPR 2018."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._net = _lpips(find_weights("lpips"), device)

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """LPIPS of this frame."""
        at_least(32, sample.sr)
        sr, gt = (_tensor(f, self.device) for f in (sample.sr, gt_of(sample)))
        return float(self._net(sr, gt, normalize=True))


class DISTS(MeanMetric):
    """DISTS of each frame. Ding et al., IEEE TPAMI 2020."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._net = _dists(find_weights("dists"), device)

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """DISTS of this frame."""
        at_least(32, sample.sr)
        sr, gt = (_tensor(f, self.device) for f in (sample.sr, gt_of(sample)))
        return max(0.0, float(self._net(sr, gt)))


class NIQE(MeanMetric):
    """NIQE of each frame as pyiqa computes it. Mittal et al., IEEE SPL 2013."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._mean, self._covariance = _niqe_model(find_weights("niqe"))

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """NIQE of this frame."""
        from pyiqa.archs.niqe_arch import calculate_niqe

        rows, columns = (side // 96 for side in sample.sr.shape[:2])
        if rows * columns < 2:
            raise DataError("needs at least two blocks of 96x96 px")
        picture = _tensor(sample.sr, self.device)
        try:
            return float(
                calculate_niqe(picture, mu_pris_param=self._mean, cov_pris_param=self._covariance)
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # all blocks are flat
            return math.nan
