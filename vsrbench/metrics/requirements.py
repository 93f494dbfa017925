"""What a metric needs beyond this package, whether it is here, and how to get it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vsrbench.cards.weights import search
from vsrbench.core.download import download, open_url
from vsrbench.core.errors import MissingError, UserError, install_hint
from vsrbench.core.variables import OFFLINE, WEIGHTS, offline, torch_hub
from vsrbench.metrics.names import PYIQA, metric_info
from vsrbench.programs import command


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


_HUB = "https://huggingface.co"
_PYIQA = f"{_HUB}/chaofengc/IQA-PyTorch-Weights/resolve/main"
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
    "piqe": _pyiqa(),
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
    need = _pyiqa() if by_name else REQUIREMENTS.get(name)
    if need is None:
        return None
    if importlib.util.find_spec(need.package) is None:
        return MissingError(f"{name} needs the package {need.install}", install_hint(need.package))
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
    whys: list[str] = []
    for network in (False, True) if fetch and not offline() else (False,):
        try:
            if whys:  # files that pyiqa gets by other ways than ours, which may try for minutes
                open_url(_HUB, timeout_s=TIMEOUT_S).close()
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
    more = [f"{OFFLINE}=1 forbids downloads"] if offline() else []
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
    return _weights(REQUIREMENTS[name], fetch=True)


def weights_at(url: str, sha256: str, fetch: bool) -> Path:
    """The file that is published there: found as all weights, else fetched. Raises MissingError.

    sha256: how it begins, if known.
    """
    return _weights(Requirement("pyiqa", "pyiqa", url, sha256), fetch)


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


def _weights(need: Requirement, fetch: bool) -> Path:
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


@functools.cache
def _import_failure(package: str) -> str:
    """Why a package that is installed cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except Exception as error:
        # Packages built against other versions of torch or numpy fail in any way they like.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
