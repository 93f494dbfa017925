"""Optical-flow estimators behind one small interface.

F_{a->b} is float32 H x W x 2 in px, (x, y), on the grid of frame a; it points to where a pixel of
frame a lies in frame b.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from vsrbench.core.types import PairFlow
from vsrbench.flow.identity import RAFT_FILES, RAFT_UPDATES, dis_identity, find_raft, raft_identity
from vsrbench.flow.raft import RaftNetwork

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField, Frame


class Estimator(ABC):
    """An optical-flow estimator."""

    name: str
    """Short name for tables and records."""
    identity: str
    """Everything that can change its flow: model, settings, hash of the weights."""

    @abstractmethod
    def estimate(self, a: Frame, b: Frame) -> FlowField:
        """F_{a->b} of two frames of one size."""

    def both(self, a: Frame, b: Frame) -> PairFlow:
        """F_{a->b} and F_{b->a}."""
        return PairFlow(self.estimate(a, b), self.estimate(b, a))


class Dis(Estimator):
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV on luma, preset medium."""

    name = "dis"

    def __init__(self) -> None:
        self.identity = dis_identity()

    def estimate(self, a: Frame, b: Frame) -> FlowField:
        """F_{a->b} of two frames of one size; any number of threads may ask at a time."""
        h, w = a.shape[:2]
        # The patches of the coarsest level do not fit into smaller frames.
        pad = ((0, max(0, 32 - h)), (0, max(0, 32 - w)))
        grey = [np.pad(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), pad, mode="edge") for x in (a, b)]
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow: FlowField = dis.calc(grey[0], grey[1], None)[:h, :w]
        return flow

    def both(self, a: Frame, b: Frame) -> PairFlow:
        """F_{a->b} and F_{b->a}, on two threads where OpenCV uses more than one."""
        if cv2.getNumThreads() == 1:
            return super().both(a, b)
        with ThreadPoolExecutor(1) as thread:
            backward = thread.submit(self.estimate, b, a)
            return PairFlow(self.estimate(a, b), backward.result())


class Farneback(Estimator):
    """Polynomial expansion (Farneback, SCIA 2003) of OpenCV on luma, with TecoGAN's constants."""

    name = "farneback"
    identity = f"farneback-0.5-3-15-3-5-1.2-opencv-{cv2.__version__}"

    def estimate(self, a: Frame, b: Frame) -> FlowField:
        """F_{a->b} of two frames of one size."""
        grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
        flow: FlowField = cv2.calcOpticalFlowFarneback(
            grey[0],
            grey[1],
            None,
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
        return flow


_RAFT_SIDE = 128


class Raft(Estimator):
    """RAFT (Teed and Deng, ECCV 2020); frames get 12 updates.

    name: raft_small for the small network, else the large one. path: a checkpoint of the authors
    or of torchvision. Raises DataError if the file does not hold that network.
    """

    def __init__(self, name: str, path: Path, device: str = "cpu") -> None:
        self.name = name
        self.identity = raft_identity(name, path)
        self.net = RaftNetwork("raft_small" if name == "raft_small" else "raft_large", path, device)

    def both(self, a: Frame, b: Frame) -> PairFlow:
        """F_{a->b} and F_{b->a} of two frames of one size."""
        h, w = a.shape[:2]
        pair = torch.from_numpy(np.stack((a, b))).permute(0, 3, 1, 2)
        pad = (0, max(_RAFT_SIDE, -(-w // 8) * 8) - w, 0, max(_RAFT_SIDE, -(-h // 8) * 8) - h)
        pair = F.pad(pair.float() / 127.5 - 1, pad, mode="replicate")
        forward, backward = self.net.between(pair[0], pair[1], RAFT_UPDATES)
        return PairFlow(forward[:h, :w], backward[:h, :w])

    def estimate(self, a: Frame, b: Frame) -> FlowField:
        """F_{a->b} of two frames of one size."""
        return self.both(a, b).forward


@functools.cache
def raft(path: Path, device: str = "cpu") -> Raft:
    """The estimator of a file named in RAFT_FILES, loaded once per process and device."""
    return Raft(RAFT_FILES[path.name], path, device)


def best_estimator(device: str = "cpu") -> Estimator:
    """RAFT of the first file of RAFT_FILES that lies in $VSRBENCH_WEIGHTS; else DIS.

    Nothing is downloaded, so that the estimator changes only when the user adds a file.
    """
    path = find_raft()
    return raft(path, device) if path else Dis()
