"""The table of metrics and what they need. Importing it imports no array or network library."""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib
import importlib.util
import math
import os
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vsrbench.errors import DataError, MissingError, unknown
from vsrbench.types import Metric, MetricInfo, Sample, Score
from vsrbench.weights import ENV, search

if TYPE_CHECKING:
    from vsrbench.types import Frame

_GT, _FLOW = frozenset({"gt"}), frozenset({"flow"})
_WEIGHTS, _GT_WEIGHTS = frozenset({"weights"}), frozenset({"gt", "weights"})

METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo(
            name="psnr",
            title="PSNR",
            version=1,
            better="higher",
            target="fidelity:PSNR",
            unit="dB",
            range=(0.0, 80.0),
            needs=_GT,
            decimals=2,
            tolerance=0.02,
            source="RGB, 8 bit, mean squared error over pixels and channels; capped at 80 dB, "
            "which is what identical frames get",
        ),
        MetricInfo(
            name="ssim",
            title="SSIM",
            version=1,
            better="higher",
            target="fidelity:SSIM",
            range=(0.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            source="Wang et al. 2004 on luma (0.299 R + 0.587 G + 0.114 B, full range, rounded to "
            "8 bit), 11x11 Gaussian of sigma 1.5, valid part, contrast term clipped at 0: the "
            "convention of pyiqa's ssim",
        ),
        MetricInfo(
            name="lr_psnr",
            title="LR-PSNR",
            version=1,
            better="higher",
            target="fidelity:LRPSNR",
            unit="dB",
            range=(0.0, 80.0),
            decimals=2,
            tolerance=0.02,
            source="PSNR (as psnr) between LQ and the output brought down to its size by Pillow's "
            "antialiased bicubic, 8 bit; catches content that the input does not support",
        ),
        MetricInfo(
            name="lpips",
            title="LPIPS",
            version=1,
            better="lower",
            target="perceptual:LPIPS",
            range=(0.0, 5.0),
            needs=_GT_WEIGHTS,
            decimals=4,
            tolerance=0.0005,
            source="Zhang et al. 2018, package lpips, v0.1, AlexNet",
        ),
        MetricInfo(
            name="dists",
            title="DISTS",
            version=1,
            better="lower",
            target="perceptual:DISTS",
            range=(0.0, 2.0),
            needs=_GT_WEIGHTS,
            decimals=4,
            tolerance=0.0005,
            source="Ding et al. 2020, package DISTS_pytorch, no resizing; values that rounding "
            "puts below 0 count as 0",
        ),
        MetricInfo(
            name="niqe",
            title="NIQE",
            version=1,
            better="lower",
            target="perceptual:NIQE",
            range=(0.0, 100.0),
            needs=_WEIGHTS,
            decimals=3,
            tolerance=0.005,
            source="Mittal et al. 2013, package pyiqa, luma, blocks of 96x96, original model",
        ),
        MetricInfo(
            name="ewarp",
            title="E_warp",
            version=1,
            better="lower",
            target="temporal:EWarp",
            unit="x1e-3",
            range=(0.0, 1000.0),
            needs=_FLOW,
            span="pair",
            decimals=3,
            tolerance=0.01,
            source="Lai et al. 2018: squared error in 0..1 between frame t and frame t+1 warped "
            "onto it by the flow of the reference (GT, else bicubic LQ), mean over channels and "
            "over the pixels that the reference shows in both frames; pixels that leave the frame "
            "are left out; exact occlusion replaces the estimated mask where it is known",
        ),
        MetricInfo(
            name="flicker",
            title="Flicker",
            version=1,
            better="lower",
            target="temporal:Flicker",
            unit="levels",
            range=(0.0, 255.0),
            span="pair",
            decimals=3,
            tolerance=0.01,
            source="change from frame to frame that the reference (GT, else bicubic LQ) does not "
            "have: mean of max(0, |o_t - o_(t-1)| - |r_t - r_(t-1)|) over pixels and channels in "
            "8-bit levels, no motion compensation",
        ),
    )
}


@dataclass(frozen=True)
class _Requirement:
    """What a metric needs beyond this package."""

    package: str
    """Module that is imported."""
    install: str
    """Its name on PyPI."""
    url: str
    """Where the weights are published; the last part is the file name."""
    sha256: str = ""
    """How the file's hash begins, where it is known."""
    also: str = ""
    """Another file that holds the same weights."""

    @property
    def file(self) -> str:
        """Name of the weights file."""
        return self.url.rpartition("/")[2]


_REQUIREMENTS: Mapping[str, _Requirement] = {
    "lpips": _Requirement(
        "lpips",
        "lpips",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be79",
    ),
    "dists": _Requirement(
        "DISTS_pytorch",
        "DISTS-pytorch",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af",
    ),
    "niqe": _Requirement(
        "pyiqa",
        "pyiqa",
        "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/niqe_modelparameters.mat",
        also="niqe_pris_params.npz",
    ),
}
_TIMEOUT_S = 5.0


def metric_info(name: str) -> MetricInfo:
    """The entry of a metric. Raises UserError with the closest name if there is none."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def load_metric(name: str, device: str = "cpu") -> Metric:
    """A fresh object that scores one clip. Networks are loaded once per process and device.

    Raises UserError for an unknown name and MissingError as `unavailable` tells.
    """
    if missing := unavailable(name):
        raise missing
    module, _, cls = metric_info(name).target.partition(":")
    metric: Metric = getattr(importlib.import_module(f"vsrbench.metrics.{module}"), cls)(device)
    return metric


def unavailable(name: str, fetch: bool = True) -> MissingError | None:
    """Why a metric cannot run here, or None.

    With `fetch` its package is imported and weights that are not here are downloaded, one try per
    process. Without, nothing is imported or downloaded: quick enough for a listing.
    """
    metric_info(name)
    need = _REQUIREMENTS.get(name)
    if need is None:
        return None
    if importlib.util.find_spec(need.package) is None:
        return MissingError(
            f"{name} needs the package {need.install}", f"pip install {need.install}"
        )
    if fetch and (reason := _import_failure(need.package)):
        return MissingError(
            f"{name}: the package {need.install} cannot be imported: {reason}",
            f"reinstall it: pip install --force-reinstall {need.install}",
        )
    try:
        _weights(need, fetch)
    except MissingError as error:
        return error
    return None


def find_weights(name: str) -> Path:
    """The weights file of a metric, fetched if needed. Raises MissingError."""
    return _weights(_REQUIREMENTS[name], fetch=True)


def _weights(need: _Requirement, fetch: bool) -> Path:
    """Look in $VSRBENCH_WEIGHTS, torch hub's checkpoints and pyiqa's cache; else download."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = Path(os.environ.get("TORCH_HOME") or Path(cache, "torch")).expanduser() / "hub"
    folder = hub / "checkpoints"
    for file in filter(None, (need.file, need.also)):
        if path := search(file) or search(file, folder, hub / "pyiqa"):
            return path
    if os.environ.get("VSRBENCH_OFFLINE") == "1":
        reason = "not here, and VSRBENCH_OFFLINE=1 forbids the download"
    elif not fetch:
        reason = "not here yet, is downloaded at first use"
    elif failure := _download(need.url, need.sha256, folder):
        reason = f"not here, and the download failed: {failure}"
    else:
        return folder / need.file
    raise MissingError(
        f"weights {need.file}: {reason}",
        f"get {need.url} and put it into a folder named in ${ENV} or into {folder}",
    )


@functools.cache
def _import_failure(package: str) -> str:
    """Why a package that is installed cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        # Packages built against other versions of torch or numpy fail in all of these ways.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


@functools.cache
def _download(url: str, sha256: str, folder: Path) -> str:
    """Fetch a file into a folder, all of it or nothing; returns why it failed, else ''."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _answer(url) as answer, tempfile.TemporaryDirectory(dir=folder) as part_folder:
            part, digest = Path(part_folder, "part"), hashlib.sha256()
            with part.open("wb") as out:
                while block := answer.read(1 << 20):
                    out.write(block)
                    digest.update(block)
            length = answer.headers["Content-Length"]
            if length and part.stat().st_size != int(length):
                return "the connection broke off"
            if not digest.hexdigest().startswith(sha256):
                return f"the hash does not begin with {sha256}"
            part.replace(folder / url.rpartition("/")[2])
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return ""


def _answer(url: str) -> Any:
    """The opened response. Raises OSError after at most 5 s without an answer.

    A socket timeout alone would be spent on every address of the host, and not on its lookup.
    """
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(urllib.request.urlopen(url, timeout=_TIMEOUT_S))
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_S)
    if not outcome:
        raise TimeoutError(f"no answer within {_TIMEOUT_S:.0f} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class MeanMetric:
    """Base of the metrics: one number a frame or pair, averaged over the clip."""

    fewest = "one frame"

    def __init__(self, device: str = "cpu") -> None:
        """device: where networks run; the others ignore it."""
        self.device = device
        self._values: list[float] = []

    def score(self, sample: Sample) -> float | None:
        """The number of this frame, or of the pair that it ends; None when it ends no pair."""
        raise NotImplementedError

    def update(self, sample: Sample) -> None:
        """Take the next frame. Raises DataError if it cannot be scored."""
        value = self.score(sample)
        if value is None:
            return
        if not math.isfinite(value):
            raise DataError(
                f"{type(self).__name__} has no finite value at frame {sample.index}",
                "flat or very small pictures cannot be scored by it",
            )
        self._values.append(value)

    def result(self) -> Score:
        """Mean and values. Raises DataError when there were too few frames."""
        if not self._values:
            raise DataError(f"needs at least {self.fewest}")
        return Score(fmean(self._values), tuple(self._values))


def gt_of(sample: Sample) -> Frame:
    """The ground truth of a frame. Raises DataError if there is none or its size differs."""
    if sample.gt is None:
        raise DataError("needs ground truth", "use a data set with GT or give --gt")
    if sample.gt.shape != sample.sr.shape:
        raise DataError(
            f"frame {sample.index}: output is {_size(sample.sr)}, ground truth {_size(sample.gt)}",
            "they are never cropped or resized silently",
        )
    return sample.gt


def at_least(side: int, frame: Frame) -> None:
    """Raise DataError if a side of the frame is shorter than `side` px."""
    if min(frame.shape[:2]) < side:
        raise DataError(f"needs frames of {side} px a side, got {_size(frame)}")


def _size(frame: Frame) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
