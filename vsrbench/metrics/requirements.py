"""What each metric needs beyond this package, and where its weights are or come from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vsrbench.cards.weights import search
from vsrbench.core.download import download
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.variables import OFFLINE, WEIGHTS, offline, torch_hub


@dataclass(frozen=True)
class Requirement:
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


HUB = "https://huggingface.co"
_PYIQA = f"{HUB}/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
CLIP_RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
_ALEXNET = Requirement(
    "lpips",
    "lpips",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",
)
_VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"


def _pyiqa(file: str = "", sha256: str = "", also: tuple[str, ...] = ()) -> Requirement:
    return Requirement("pyiqa", "pyiqa", file and f"{_PYIQA}/{file}", sha256, also)


PYIQA_PACKAGE = _pyiqa()
"""What any metric by its name in pyiqa needs at least."""
REQUIREMENTS: Mapping[str, Requirement] = {
    "lpips": _ALEXNET,
    "lpips_vgg": Requirement("lpips", "lpips", _VGG, sha256="397923af"),
    "dists": Requirement("DISTS_pytorch", "DISTS-pytorch", _VGG, sha256="397923af"),
    "niqe": _pyiqa("niqe_modelparameters.mat", also=("niqe_pris_params.npz",)),
    "musiq": _pyiqa("musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),
    "clipiqa": Requirement(
        "pyiqa", "pyiqa", f"{_CLIP}/{CLIP_RN50_SHA256}/RN50.pt", sha256=CLIP_RN50_SHA256
    ),
    "maniqa": _pyiqa("ckpt_koniq10k.pt"),
    "brisque": _pyiqa("brisque_svm_weights.pth"),
    "piqe": PYIQA_PACKAGE,
    "liqe": _pyiqa("liqe_koniq.pt"),
    "ewarp_evalcrafter": Requirement(
        "torchvision",
        "torchvision",
        "https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
        sha256="22a6c225",
        also=("raft-things.pth", "raft_large_C_T_SKHT_V2-ff5fadd5.pth", "raft-small.pth"),
    ),
    "tlp": _ALEXNET,
}
TIMEOUT_S = 5.0
"""Without an answer from a server of weights."""


def find_weights(name: str) -> Path:
    """The weights file of a metric, fetched if needed. Raises MissingError."""
    return obtain_weights(REQUIREMENTS[name], fetch=True)


def weights_at(url: str, sha256: str, fetch: bool) -> Path:
    """The file that is published there: found as all weights, else fetched. Raises MissingError.

    sha256: how it begins, if known.
    """
    return obtain_weights(Requirement("pyiqa", "pyiqa", url, sha256), fetch)


def weights_here(name: str) -> Path | None:
    """The weights file of a metric, if it is here; nothing is fetched."""
    return _here(REQUIREMENTS[name])


def _here(need: Requirement) -> Path | None:
    """Look in $VSRBENCH_WEIGHTS, torch hub's checkpoints, pyiqa's and CLIP's caches."""
    hub = torch_hub()
    for file in (need.file, *need.also):
        if path := search(file) or search(file, hub / "checkpoints", hub / "pyiqa", hub / "clip"):
            return path
    return None


def obtain_weights(need: Requirement, fetch: bool) -> Path:
    """The file, fetched into torch hub's checkpoints if it is not here. Raises MissingError."""
    if found := _here(need):
        return found
    target = torch_hub() / "checkpoints" / need.file
    if offline():
        reason = f"not here, and {OFFLINE}=1 forbids the download"
    elif not fetch:
        reason = "not here yet, is downloaded at first use"
    elif failure := _failure(need.url, need.sha256, target):
        reason = f"not here, and the download failed: {failure}"
    else:
        return target
    raise MissingError(
        f"weights {need.file}: {reason}",
        f"get {need.url} and put it into a folder named in ${WEIGHTS} or into "
        f"{_from_home(target.parent)}",
    )


@functools.cache
def _failure(url: str, sha256: str, target: Path) -> str:
    """Fetch a file, one try per process; why it failed, else ''."""
    try:
        download(url, target, sha256, timeout_s=TIMEOUT_S)
    except UserError as error:
        return error.message
    except OSError as error:
        return str(error)
    return ""


def _from_home(folder: Path) -> str:
    """A path as its user writes it, so that records of different machines read alike."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
