"""The table of metrics and what they need. Importing it imports no array or network library."""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib
import importlib.util
import os
import runpy
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vsrbench.cards.weights import ENV, search
from vsrbench.core.errors import MissingError, UserError, unknown
from vsrbench.core.types import Metric, MetricInfo, Record
from vsrbench.programs import command

_GT, _LQ = frozenset({"gt"}), frozenset({"lq"})
_REFERENCE, _FLOW = frozenset({"reference"}), frozenset({"flow"})
_WEIGHTS, _GT_WEIGHTS = frozenset({"weights"}), frozenset({"gt", "weights"})
_COMMAND = frozenset({"command"})

METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo(
            name="psnr",
            title="PSNR",
            version=1,
            better="higher",
            target="fidelity:FullReference",
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
            target="fidelity:FullReference",
            range=(0.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            source="Wang et al. 2004 on luma (0.299 R + 0.587 G + 0.114 B, full range, rounded to "
            "8 bit), 11x11 Gaussian of sigma 1.5, valid part, contrast term clipped at 0: the "
            "convention of pyiqa's ssim",
        ),
        MetricInfo(
            name="psnr_y",
            title="PSNR-Y",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            unit="dB",
            range=(0.0, 80.0),
            needs=_GT,
            decimals=2,
            tolerance=0.02,
            default=False,
            source="as psnr, on Y of limited-range BT.601 (16..235), not rounded: the convention "
            "of MATLAB's rgb2ycbcr and of BasicSR; reads 1.32 dB more than full-range luma "
            "on grey pictures",
        ),
        MetricInfo(
            name="ssim_y",
            title="SSIM-Y",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            range=(-1.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            default=False,
            source="Wang et al. 2004 on the Y of psnr_y, 11x11 Gaussian of sigma 1.5, valid part, "
            "nothing clipped: the convention of BasicSR",
        ),
        MetricInfo(
            name="ssim_rgb",
            title="SSIM-RGB",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            range=(0.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            default=False,
            source="as ssim, mean over R, G and B: the convention of pyiqa's ssimc",
        ),
        MetricInfo(
            name="ms_ssim",
            title="MS-SSIM",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            range=(0.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            default=False,
            source="Wang et al. 2003 on the luma of ssim: product over five scales, halved by 2x2 "
            "means, weights 0.0448, 0.2856, 0.3001, 0.2363, 0.1333: the convention of "
            "pyiqa's ms_ssim",
        ),
        MetricInfo(
            name="lr_psnr",
            title="LR-PSNR",
            version=1,
            better="higher",
            target="fidelity:LRPSNR",
            unit="dB",
            range=(0.0, 80.0),
            needs=_LQ,
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
            name="lpips_vgg",
            title="LPIPS-VGG",
            version=1,
            better="lower",
            target="perceptual:LPIPS",
            range=(0.0, 5.0),
            needs=_GT_WEIGHTS,
            decimals=4,
            tolerance=0.0005,
            default=False,
            source="Zhang et al. 2018, package lpips, v0.1, VGG-16",
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
            target="perceptual:NoReference",
            range=(0.0, 100.0),
            needs=_WEIGHTS,
            decimals=3,
            tolerance=0.005,
            source="Mittal et al. 2013, package pyiqa, luma, blocks of 96x96, original model",
        ),
        MetricInfo(
            name="musiq",
            title="MUSIQ",
            version=1,
            better="higher",
            target="perceptual:NoReference",
            range=(0.0, 100.0),
            needs=_WEIGHTS,
            decimals=2,
            tolerance=0.05,
            default=False,
            source="Ke et al. 2021, package pyiqa, KonIQ-10k weights",
        ),
        MetricInfo(
            name="clipiqa",
            title="CLIP-IQA",
            version=1,
            better="higher",
            target="perceptual:NoReference",
            range=(0.0, 1.0),
            needs=_WEIGHTS,
            decimals=4,
            tolerance=0.001,
            default=False,
            source="Wang et al. 2023, package pyiqa, CLIP RN50 without position embedding, mean of "
            "five pairs of prompts (the paper has one), no resizing",
        ),
        MetricInfo(
            name="maniqa",
            title="MANIQA",
            version=1,
            better="higher",
            target="perceptual:NoReference",
            range=(0.0, 1.5),
            needs=_WEIGHTS,
            decimals=4,
            tolerance=0.001,
            default=False,
            source="Yang et al. 2022, package pyiqa, KonIQ-10k weights, 20 crops of 224x224",
        ),
        MetricInfo(
            name="brisque",
            title="BRISQUE",
            version=1,
            better="lower",
            target="perceptual:NoReference",
            range=(-100.0, 200.0),
            needs=_WEIGHTS,
            decimals=2,
            tolerance=0.05,
            default=False,
            source="Mittal et al. 2012, package pyiqa (port of the LIVE software), luma; good "
            "pictures may get values below 0",
        ),
        MetricInfo(
            name="piqe",
            title="PIQE",
            version=1,
            better="lower",
            target="perceptual:NoReference",
            range=(0.0, 100.0),
            decimals=2,
            tolerance=0.05,
            default=False,
            source="Venkatanath et al. 2015, package pyiqa, luma stretched to its maximum, blocks "
            "of 16x16",
        ),
        MetricInfo(
            name="liqe",
            title="LIQE",
            version=1,
            better="higher",
            target="perceptual:NoReference",
            range=(1.0, 5.0),
            needs=_WEIGHTS,
            decimals=3,
            tolerance=0.005,
            default=False,
            source="Zhang et al. 2023, package pyiqa, CLIP ViT-B/32 tuned on KonIQ-10k, 15 patches "
            "of 224x224",
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
            name="ewarp_self",
            title="E_warp (own flow)",
            version=1,
            better="lower",
            target="temporal:EWarpSelf",
            unit="x1e-3",
            range=(0.0, 1000.0),
            span="pair",
            decimals=3,
            tolerance=0.01,
            default=False,
            source="as ewarp, but flow and mask are estimated from the output itself (RAFT where "
            "its file is here, else DIS)",
        ),
        MetricInfo(
            name="ewarp_evalcrafter",
            title="E*_warp (EvalCrafter)",
            version=1,
            better="lower",
            target="temporal:EWarpEvalCrafter",
            unit="x1e-3",
            range=(0.0, 3000.0),
            needs=_WEIGHTS,
            span="pair",
            decimals=2,
            tolerance=0.01,
            default=False,
            source="compatibility with printed E*_warp only: RAFT (things, 20 updates) on the "
            "output itself at half size, fed with frames divided by 255 twice; masks of Lai "
            "et al.; squared error summed over channels; times 1000",
        ),
        MetricInfo(
            name="tof",
            title="tOF",
            version=1,
            better="lower",
            target="temporal:TOF",
            unit="px",
            range=(0.0, float("inf")),
            needs=_GT,
            span="pair",
            decimals=3,
            tolerance=0.005,
            default=False,
            source="Chu et al. 2020: mean length of the difference between the optical flows of "
            "the output and of the ground truth, Farneback of OpenCV on 8-bit luma; here on "
            "the whole frame and on all pairs",
        ),
        MetricInfo(
            name="tlp",
            title="tLP",
            version=1,
            better="lower",
            target="perceptual:TLP",
            unit="x1e-2",
            range=(0.0, 500.0),
            needs=_GT_WEIGHTS,
            span="pair",
            decimals=3,
            tolerance=0.01,
            default=False,
            source="Chu et al. 2020: |LPIPS(g_(t-1), g_t) - LPIPS(o_(t-1), o_t)| with LPIPS as "
            "lpips; here on the whole frame and on all pairs",
        ),
        MetricInfo(
            name="flicker_vbench",
            title="Flicker (VBench)",
            version=1,
            better="higher",
            target="temporal:FlickerVBench",
            range=(0.0, 1.0),
            span="pair",
            decimals=4,
            tolerance=0.0005,
            default=False,
            source="Huang et al. 2024, temporal_flickering: (255 - mean |o_t - o_(t-1)|) / 255 "
            "over pixels and channels; measures motion wherever there is any",
        ),
        MetricInfo(
            name="luma_flicker",
            title="Luma flicker",
            version=1,
            better="lower",
            target="temporal:SecondDifference",
            unit="levels",
            range=(-510.0, 510.0),
            needs=_REFERENCE,
            span="pair",
            decimals=3,
            tolerance=0.01,
            default=False,
            source="mean |m_(t+1) - 2 m_t + m_(t-1)| of the output minus that of the reference "
            "(GT, else bicubic LQ), m the mean luma of a frame in 8-bit levels; steady "
            "fades count nothing",
        ),
        MetricInfo(
            name="profile_roughness",
            title="Profile roughness",
            version=1,
            better="lower",
            target="temporal:SecondDifference",
            unit="levels",
            range=(-510.0, 510.0),
            needs=_REFERENCE,
            span="pair",
            decimals=3,
            tolerance=0.01,
            default=False,
            source="mean |y_(t+1) - 2 y_t + y_(t-1)| over all pixels of the output minus that of "
            "the reference (GT, else bicubic LQ), y luma in 8-bit levels: how jagged the "
            "traces of temporal profiles are, over all rows",
        ),
        MetricInfo(
            name="temporal_std",
            title="Temporal std",
            version=1,
            better="lower",
            target="temporal:TemporalStd",
            unit="levels",
            range=(-181.0, 181.0),
            needs=_REFERENCE,
            span="clip",
            decimals=3,
            tolerance=0.01,
            default=False,
            source="standard deviation over the frames (n - 1) of every pixel and channel in 8-bit "
            "levels, averaged, minus that of the reference (GT, else bicubic LQ); for fixed "
            "cameras: whatever moves counts as noise",
        ),
        MetricInfo(
            name="gradient_energy",
            title="Grad. energy",
            version=1,
            better="higher",
            target="fidelity:GradientEnergy",
            unit="x ref.",
            range=(0.0, float("inf")),
            needs=_REFERENCE,
            decimals=3,
            tolerance=0.005,
            default=False,
            source="mean squared difference of right and lower neighbours, relative to that of the "
            "reference (GT, else bicubic LQ); 1 is as sharp as the reference",
        ),
        MetricInfo(
            name="dover",
            title="DOVER",
            version=1,
            better="higher",
            target="video:VideoMetric",
            range=(0.0, 1.0),
            needs=_COMMAND,
            span="clip",
            decimals=4,
            tolerance=0.01,
            default=False,
            source="Wu et al. 2023, the authors' code in its own environment, fused scale 0..1 of "
            "the official script since August 2023, mean of five seeded samplings; raw branches "
            "and the other printed scales beside it",
        ),
        MetricInfo(
            name="fastervqa",
            title="FasterVQA",
            version=1,
            better="higher",
            target="video:VideoMetric",
            range=(0.0, 1.0),
            needs=_COMMAND,
            span="clip",
            decimals=4,
            tolerance=0.01,
            default=False,
            source="Wu et al. 2023 (FasterVQA, f3dvqa-b), the authors' code in its own "
            "environment, sigmoid((raw - 0.1476) / 0.0361), mean of five seeded samplings",
        ),
        MetricInfo(
            name="flicker",
            title="Flicker",
            version=1,
            better="lower",
            target="temporal:Flicker",
            unit="levels",
            range=(0.0, 255.0),
            needs=_REFERENCE,
            span="pair",
            decimals=3,
            tolerance=0.01,
            source="change from frame to frame that the reference (GT, else bicubic LQ) does not "
            "have: mean of max(0, |o_t - o_(t-1)| - |r_t - r_(t-1)|) over pixels and channels in "
            "8-bit levels, no motion compensation",
        ),
    )
}


PRESETS: Mapping[str, tuple[str, ...]] = {
    "dove": ("psnr", "ssim"),
    "classic-y": ("psnr_y", "ssim_y"),
    "strict-rgb": ("psnr", "ssim_rgb"),
}
"""Fidelity as families of papers compute it: PSNR on RGB with SSIM on luma (DOVE and whoever prints
its tables), both on limited-range Y (MATLAB, BasicSR), both on RGB."""


@dataclass(frozen=True)
class _Requirement:
    """What a metric needs beyond this package."""

    package: str
    """Module that is imported."""
    install: str
    """Its name on PyPI."""
    url: str = ""
    """Where the weights are published; the last part is the file name. Empty: needs none."""
    sha256: str = ""
    """How the file's hash begins, where it is known."""
    also: tuple[str, ...] = ()
    """Other files that serve."""

    @property
    def file(self) -> str:
        """Name of the weights file."""
        return self.url.rpartition("/")[2]


_HUB = "https://huggingface.co"
_PYIQA = f"{_HUB}/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
CLIP_RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
_ALEXNET = _Requirement(
    "lpips",
    "lpips",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",
)
_VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"


def _pyiqa(file: str = "", sha256: str = "", also: tuple[str, ...] = ()) -> _Requirement:
    return _Requirement("pyiqa", "pyiqa", file and f"{_PYIQA}/{file}", sha256, also)


PYIQA = "pyiqa:"
"""Stands before a name of pyiqa: `pyiqa:NAME` is that metric as pyiqa makes it."""
_UNFIT = {
    "FID": "compares sets of pictures",
    "InceptionScore": "rates sets of pictures",
    "CLIPScore": "needs captions",
    "fgresq_pair": "ranks two pictures, and no number is a score",
}
"""Type or name in pyiqa -> why it gives no number a frame."""


_REQUIREMENTS: Mapping[str, _Requirement] = {
    "lpips": _ALEXNET,
    "lpips_vgg": _Requirement("lpips", "lpips", _VGG, sha256="397923af"),
    "dists": _Requirement("DISTS_pytorch", "DISTS-pytorch", _VGG, sha256="397923af"),
    "niqe": _pyiqa("niqe_modelparameters.mat", also=("niqe_pris_params.npz",)),
    "musiq": _pyiqa("musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),
    "clipiqa": _Requirement(
        "pyiqa", "pyiqa", f"{_CLIP}/{CLIP_RN50_SHA256}/RN50.pt", sha256=CLIP_RN50_SHA256
    ),
    "maniqa": _pyiqa("ckpt_koniq10k.pt"),
    "brisque": _pyiqa("brisque_svm_weights.pth"),
    "piqe": _pyiqa(),
    "liqe": _pyiqa("liqe_koniq.pt"),
    "ewarp_evalcrafter": _Requirement(
        "torchvision",
        "torchvision",
        "https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
        sha256="22a6c225",
        also=("raft-things.pth", "raft_large_C_T_SKHT_V2-ff5fadd5.pth", "raft-small.pth"),
    ),
    "tlp": _ALEXNET,
}
_TIMEOUT_S = 5.0
_silent: set[str] = set()
"""Hosts that gave no answer; they are not asked again, and others get a fifth of the time."""


def metric_info(name: str) -> MetricInfo:
    """The entry of a metric, or what pyiqa says of its own. Imports neither pyiqa nor torch.

    Raises UserError with the closest name if there is none, MissingError without pyiqa.
    """
    if name in METRICS:
        return METRICS[name]
    own = name.removeprefix(PYIQA)
    if own == name:
        if importlib.util.find_spec("pyiqa") and own in _pyiqa_says()["DEFAULT_CONFIGS"]:
            raise UserError(f"no metric named '{own}' here", f"pyiqa has it: write {PYIQA}{own}")
        raise unknown("metric", own, METRICS, f"{PYIQA}NAME for any other of pyiqa")
    configs = _pyiqa_says()["DEFAULT_CONFIGS"]
    if own not in configs:
        raise unknown("metric of pyiqa", own, configs)
    about = configs[own]
    if why := _UNFIT.get(own) or _UNFIT.get(about["metric_opts"]["type"]):
        raise UserError(f"'{name}' gives no number for a frame: it {why}")
    return _by_name(
        name,
        "lower" if about.get("lower_better") else "higher",
        {"gt"} if about["metric_mode"] == "FR" else (),
    )


def _by_name(
    name: str, better: Literal["higher", "lower"], needs: Collection[str] = ()
) -> MetricInfo:
    return MetricInfo(
        name=name,
        title=f"{name.removeprefix(PYIQA)} (pyiqa)",
        version=1,
        better=better,
        target="perceptual:ByName",
        needs=frozenset(needs),
        decimals=4,
        tolerance=0.001,
        default=False,
        source="package pyiqa, as it comes",
    )


def about_pyiqa(info: MetricInfo) -> dict[str, Any]:
    """What the record of a metric by its pyiqa name holds, so that it is read without pyiqa."""
    if not info.name.startswith(PYIQA):
        return {}
    needs = sorted(info.needs)
    return {"pyiqa": {"version": depends_on(info.name), "better": info.better, "needs": needs}}


def recorded(record: Record) -> MetricInfo | None:
    """The entry of the metric of a record; None for one that this version lacks."""
    about = record.extra.get("pyiqa")
    if about:
        return _by_name(record.metric, about["better"], about["needs"])
    return METRICS.get(record.metric)


@functools.cache
def _pyiqa_says(module: str = "default_model_configs") -> dict[str, Any]:
    """What a module of pyiqa defines that imports nothing itself. Raises MissingError."""
    package = importlib.util.find_spec("pyiqa")
    if package is None or package.origin is None:
        raise MissingError("metrics of pyiqa need the package pyiqa", "pip install pyiqa")
    return runpy.run_path(str(Path(package.origin).with_name(f"{module}.py")))


def load_metric(name: str, device: str = "cpu") -> Metric:
    """A fresh object that scores one clip. Networks are loaded once per process and device.

    Raises UserError for an unknown name and MissingError as `unavailable` tells.
    """
    if missing := unavailable(name):
        raise missing
    info = metric_info(name)
    module, _, cls = info.target.partition(":")
    make = getattr(importlib.import_module(f"vsrbench.metrics.{module}"), cls)
    metric: Metric = make(info, device)
    return metric


def unavailable(name: str, fetch: bool = True) -> MissingError | None:
    """Why a metric cannot run here, or None.

    With `fetch` weights that are not here are downloaded, one try per process, and its package is
    imported. Without, nothing is downloaded, and nothing imported but for metrics by their pyiqa
    name, which have to be made: quick enough for a listing.
    """
    if "command" in metric_info(name).needs:
        try:
            command.places(name)
        except UserError as error:
            return MissingError(error.message, error.hint)
        return None
    by_name = name.startswith(PYIQA)
    need = _pyiqa() if by_name else _REQUIREMENTS.get(name)
    if need is None:
        return None
    if importlib.util.find_spec(need.package) is None:
        return MissingError(
            f"{name} needs the package {need.install}", f"pip install {need.install}"
        )
    try:
        if need.url:
            _weights(need, fetch)
    except MissingError as error:
        return error
    if (fetch or by_name) and (reason := _import_failure(need.package)):
        return MissingError(
            f"{name}: the package {need.install} cannot be imported: {reason}",
            f"reinstall it: pip install --force-reinstall {need.install}",
        )
    return _unmade(name, fetch) if by_name else None


def _unmade(name: str, fetch: bool) -> MissingError | None:
    """Why pyiqa cannot make a metric here, or None.

    Which files it takes shows only in the making: it is tried without network, then with it.
    """
    make = importlib.import_module("vsrbench.metrics.perceptual").by_name
    offline = os.environ.get("VSRBENCH_OFFLINE") == "1"
    whys: list[str] = []
    for network in (False, True) if fetch and not offline else (False,):
        try:
            if whys:  # files that pyiqa gets by other ways than ours, which may try for minutes
                _answer(_HUB).close()
            make(name.removeprefix(PYIQA), network)
            return None
        except MissingError as error:
            missing: MissingError | None = error
        except ImportError as error:
            return MissingError(f"pyiqa cannot make {name} here: {error}", "install what it needs")
        except Exception as error:
            missing, cause = None, _root(error)
            whys.append(f"{type(cause).__name__}: {cause}".splitlines()[0].partition(". To ")[0])
    if missing is not None:
        return missing
    more = ["VSRBENCH_OFFLINE=1 forbids downloads"] if offline else []
    return MissingError(
        f"pyiqa cannot make {name} here: {'; '.join([*whys, *more])}",
        "files that it lacks come with its first use where there is network, and stay in the "
        "caches of torch hub and Hugging Face",
    )


def _root(error: BaseException) -> BaseException:
    """What an error came from."""
    cause = error.__cause__ or error.__context__
    return _root(cause) if cause else error


def find_weights(name: str) -> Path:
    """The weights file of a metric, fetched if needed. Raises MissingError."""
    return _weights(_REQUIREMENTS[name], fetch=True)


def weights_at(url: str, sha256: str, fetch: bool) -> Path:
    """The file that is published there: found as all weights, else fetched. Raises MissingError.

    sha256: how it begins, if known.
    """
    return _weights(_Requirement("pyiqa", "pyiqa", url, sha256), fetch)


def _weights(need: _Requirement, fetch: bool) -> Path:
    """Look in $VSRBENCH_WEIGHTS, torch hub's checkpoints, pyiqa's and CLIP's caches; else fetch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = Path(os.environ.get("TORCH_HOME") or Path(cache, "torch")).expanduser() / "hub"
    folder = hub / "checkpoints"
    for file in (need.file, *need.also):
        if path := search(file) or search(file, folder, hub / "pyiqa", hub / "clip"):
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
        f"get {need.url} and put it into a folder named in ${ENV} or into {_from_home(folder)}",
    )


def _from_home(folder: Path) -> str:
    """A path as its user writes it, so that records of different machines read alike."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


@functools.cache
def _import_failure(package: str) -> str:
    """Why a package that is installed cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except Exception as error:
        # Packages built against other versions of torch or numpy fail in any way they like.
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
    host = urllib.parse.urlsplit(url).netloc
    if host in _silent:
        raise TimeoutError(f"{host} did not answer before")
    patience = _TIMEOUT_S / 5 if _silent else _TIMEOUT_S
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(urllib.request.urlopen(url, timeout=patience))
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    if not outcome:
        _silent.add(host)
        raise TimeoutError(f"no answer within {patience:.0f} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def depends_on(name: str) -> str:
    """What a metric depends on besides this package; part of the identity of a score.

    The flow estimator that it runs on the output itself, the commit of the checkout that it runs
    in, or the version of pyiqa for a metric by its name there; empty for others.
    """
    if name.startswith(PYIQA):
        return f"pyiqa-{_pyiqa_says('version')['__version__']}"
    if "command" in metric_info(name).needs and unavailable(name) is None:
        return command.commit(name)
    from vsrbench.flow import estimators as flow

    if name == "ewarp_self":
        return flow.best_estimator().identity
    if name == "ewarp_evalcrafter" and unavailable(name, fetch=False) is None:
        return flow.raft(find_weights(name)).identity
    return ""


def identical_scores(records: Iterable[Record]) -> list[str]:
    """Warnings about scores that agree to the last digit on different clips.

    Such scores most likely come from the same frames under two names. Values at an end of a
    metric's range and 0, which unlike clips can well share, say nothing and are left out.
    """
    alike: dict[tuple[str, str, MetricInfo, float], dict[str, None]] = {}
    for r in records:
        if r.status == "ok" and r.value and (info := recorded(r)):
            alike.setdefault((r.method, r.dataset, info, r.value), {})[r.clip] = None
    return [
        f"{method} has {info.title} {value:.{info.decimals}f} on each of "
        f"{dataset}/{', '.join(clips)}, equal to the last digit: are these the same frames?"
        for (method, dataset, info, value), clips in alike.items()
        if len(clips) > 1 and value not in info.range
    ]
