"""Optical flow: estimators behind one small interface, backward warping, occlusion masks.

F_{a->b} is float32 H x W x 2 in px, (x, y), on the grid of frame a; it points to where a pixel of
frame a lies in frame b. A backward warp W(I, F)(p) = I(p + F(p)) therefore brings b onto a's grid.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from vsrbench.core.files import replacing
from vsrbench.core.types import PairFlow
from vsrbench.core.variables import cache_limit_gib
from vsrbench.flow.identity import (
    RAFT_FILES,
    RAFT_UPDATES,
    dis_identity,
    find_raft,
    raft_identity,
)
from vsrbench.flow.raft import RaftNetwork

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField, Frame, Mask

    Array = np.ndarray[Any, np.dtype[Any]]
    Float64 = np.ndarray[Any, np.dtype[np.float64]]


def flow_warp(
    x: torch.Tensor, flow: torch.Tensor, mode: str = "bilinear", padding: str = "zeros"
) -> torch.Tensor:
    """Backward warp: output pixel p takes `x` at p + flow(p).

    x: (n, c, h, w); flow: (n, h, w, 2) in px, channel 0 horizontal. padding: zeros or border.
    """
    h, w = x.shape[-2:]
    rows, cols = torch.meshgrid(
        torch.arange(h, device=x.device, dtype=flow.dtype),
        torch.arange(w, device=x.device, dtype=flow.dtype),
        indexing="ij",
    )
    gx = 2 * (cols + flow[..., 0]) / max(w - 1, 1) - 1
    gy = 2 * (rows + flow[..., 1]) / max(h - 1, 1) - 1
    grid = torch.stack((gx, gy), dim=-1)
    return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=True)


def _targets(flow: FlowField, top: int = 0) -> tuple[Float64, Float64]:
    """Where each pixel goes: x and y in px, each H x W. top: the first of the rows."""
    h, w = flow.shape[:2]
    return np.arange(w) + flow[..., 0], np.arange(top, top + h)[:, None] + flow[..., 1]


_STRIP = 2**15
"""Pixels that are warped at a time: what is computed on the way stays in the cache."""


def warp(image: Array, flow: FlowField) -> Float64:
    """Backward warp of an H x W x C array in float64, coordinates clamped to the border.

    Unlike `flow_warp` it goes through no normalised grid: a whole-pixel flow copies exactly.
    """
    h, w = flow.shape[:2]
    planes = np.ascontiguousarray(image.reshape(h * w, -1).T)
    out = np.empty((h, w, len(planes)))
    rows = max(1, _STRIP // w)
    for first in range(0, h, rows):
        x, y = _targets(flow[first : first + rows], first)
        x, y = x.clip(0, w - 1), y.clip(0, h - 1)
        left, top = x.astype(np.intp), y.astype(np.intp)
        right, bottom = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1) * w
        fx, fy = x - left, y - top
        gx, gy = 1 - fx, 1 - fy
        top *= w
        corners = top + left, top + right, bottom + left, bottom + right
        for channel, plane in enumerate(planes):
            a, b, c, d = (plane.take(corner) for corner in corners)
            out[first : first + rows, :, channel] = (a * gx + b * fx) * gy + (c * gx + d * fx) * fy
    return out


def occlusion_mask(forward: FlowField, backward: FlowField) -> Mask:
    """True where a pixel of frame a is occluded in frame b or lies on a motion boundary.

    forward: F_{a->b}; backward: F_{b->a}; the mask is H x W on the grid of frame a. With f the
    forward flow and b the backward flow warped onto the same grid, masked are the pixels where
    |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 or |grad f|^2 > 0.01 |f|^2 + 0.002 (forward differences,
    0 in the last row and column). Constants and directions are those of the code of Lai et al.,
    "Learning Blind Video Temporal Consistency", ECCV 2018.
    """
    f = forward.astype(np.float64)
    b = warp(backward, forward)
    f2 = _squared(f)
    inconsistent = _squared(f + b) > 0.01 * (f2 + _squared(b)) + 0.5
    gradient = np.zeros_like(f2)
    gradient[:, :-1] += _squared(np.diff(f, axis=1))
    gradient[:-1] += _squared(np.diff(f, axis=0))
    mask: Mask = inconsistent | (gradient > 0.01 * f2 + 0.002)
    return mask


def _squared(flow: Float64) -> Float64:
    """Squared length of each vector."""
    out: Float64 = np.square(flow[..., 0]) + np.square(flow[..., 1])
    return out


def visible_mask(pair: PairFlow) -> Mask:
    """True where a pixel of frame t is seen again in frame t+1: H x W on the grid of frame t.

    The exact occlusion of the pair decides where it is known, else `occlusion_mask`. Pixels whose
    target lies outside the frame are not visible in either case.
    """
    h, w = pair.forward.shape[:2]
    x, y = _targets(pair.forward)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    hidden = pair.occluded_forward
    if hidden is None:
        hidden = occlusion_mask(pair.forward, pair.backward)
    mask: Mask = inside & ~hidden
    return mask


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
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def estimate(self, a: Frame, b: Frame) -> FlowField:
        """F_{a->b} of two frames of one size."""
        h, w = a.shape[:2]
        # The patches of the coarsest level do not fit into smaller frames.
        pad = ((0, max(0, 32 - h)), (0, max(0, 32 - w)))
        grey = [np.pad(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), pad, mode="edge") for x in (a, b)]
        flow: FlowField = self._dis.calc(grey[0], grey[1], None)[:h, :w]
        return flow


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


CACHE_GIB = 20.0
"""What flows on disk may take, unless $VSRBENCH_CACHE_GIB says otherwise."""


class ReferenceFlow(Sequence[PairFlow]):
    """Motion of a reference clip, both directions for each adjacent pair, estimated when indexed.

    frames: the reference frames. digest: identifies them. cache: folder to keep flows in, 8 bytes a
    pixel and pair, at most `CACHE_GIB`: clips that were used least recently go first. note: told,
    in the same words for each pair, when flows cannot be kept. What is returned has always gone
    through the float16 that is stored, so that a cached and a fresh run agree; the rounding is at
    most 0.004 px below 16 px and 0.03 px below 128 px.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        estimator: Estimator,
        digest: str,
        cache: Path,
        note: Callable[[str], None],
    ) -> None:
        self.estimator = estimator
        self._frames, self._note = frames, note
        key = hashlib.sha256(f"{digest} {estimator.identity}".encode()).hexdigest()
        self._folder = cache / key[:32]
        self._why: str | None = None
        """Why flows of this clip are not kept, empty if they are; None before the first is."""
        with suppress(OSError):
            os.utime(self._folder)

    def __len__(self) -> int:
        return max(len(self._frames) - 1, 0)

    @overload
    def __getitem__(self, index: int) -> PairFlow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairFlow]: ...
    def __getitem__(self, index: int | slice) -> PairFlow | list[PairFlow]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[i] for i in numbers]
        path = self._folder / f"{numbers:06d}.npy"
        both = _load(path)
        if both is None:
            a, b = self._frames[numbers], self._frames[numbers + 1]
            motion = self.estimator.both(a, b)
            both = np.stack((motion.forward, motion.backward)).astype(np.float16)
            self._keep(path, both)
        forward, backward = both.astype(np.float32)
        return PairFlow(forward, backward)

    def _keep(self, path: Path, both: Array) -> None:
        """Save the flow of one pair, or say why not."""
        try:
            if self._why is None:
                self._why = _make_room(self._folder, both.nbytes * len(self))
            if not self._why:
                _save(path, both)
                return
            why = self._why
        except OSError as error:
            why = f"{error.strerror} (set $VSRBENCH_CACHE to another folder)"
        self._note(f"flow is estimated again each time, {self._folder.parent} keeps none: {why}")


def _make_room(folder: Path, need: int) -> str:
    """Remove flows of other clips until `need` bytes fit beside them; why they cannot, or ''.

    Raises OSError, and UserError where the limit is no number.
    """
    limit_gib = cache_limit_gib(CACHE_GIB)
    limit = limit_gib * 2**30
    if need > limit:
        return f"one clip takes {need / 2**30:.1f} GiB and $VSRBENCH_CACHE_GIB is {limit_gib:g}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
    # Finished files alone: another process may be writing.
    sizes = {p: sum(file.stat().st_size for file in p.glob("*.npy")) for p in others}
    for oldest in sorted(others, key=lambda p: p.stat().st_mtime):
        if need + sum(sizes.values()) > limit:
            shutil.rmtree(oldest, ignore_errors=True)
            del sizes[oldest]
    return ""


def _load(path: Path) -> Array | None:
    """A saved array; None where it is not there or cut."""
    try:
        found: Array = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _save(path: Path, array: Array) -> None:
    """Write an array so that a reader sees the whole file or none."""
    with replacing(path) as partial, partial.open("wb") as out:
        np.save(out, array)
