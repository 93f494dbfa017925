"""Perceptual metrics: LPIPS, DISTS and tLP against the ground truth, the rest without reference.

The networks come from the packages that define them. They are filled from files that were found
beforehand, so that nothing is downloaded or unpickled behind the user's back.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torchvision

from vsrbench.cards.weights import load_strictly, read_checkpoint
from vsrbench.core.errors import DataError
from vsrbench.core.keys import sha256_file
from vsrbench.core.types import MetricInfo, Sample
from vsrbench.metrics import PYIQA, find_weights, weights_at
from vsrbench.metrics.base import MeanMetric, gt_of, require_side
from vsrbench.metrics.requirements import CLIP_RN50_SHA256

if TYPE_CHECKING:
    from vsrbench.core.types import Frame


def _tensor(frame: Frame, device: str) -> torch.Tensor:
    """A uint8 H x W x 3 frame as float32 1 x 3 x H x W in 0..1."""
    return torch.from_numpy(frame.copy()).to(device).permute(2, 0, 1)[None].float() / 255


@contextlib.contextmanager
def _replaced(owner: Any, **names: Any) -> Iterator[None]:
    """Other attributes of a module while a package runs, which leaves no other way in.

    Constructors of packages fetch backbones and unpickle files; they get what is here instead.
    """
    before = {name: getattr(owner, name) for name in names}
    try:
        for name, value in names.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


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
        _replaced(torchvision.models, **{backbone: lambda *_, **__: filled}),
        torch.random.fork_rng(devices=[]),
    ):
        return make()


@functools.cache
def lpips_network(path: Path, device: str) -> Any:
    """LPIPS with the backbone of a file: (n, 3, h, w) twice and normalize=True for 0..1 -> (n,)."""
    import lpips

    net, backbone = ("vgg", "vgg16") if path.name.startswith("vgg") else ("alex", "alexnet")
    made = _build(lambda: lpips.LPIPS(net=net, verbose=False), backbone, path)
    return made.requires_grad_(False).to(device)


@functools.cache
def _dists(path: Path, device: str) -> Any:
    from DISTS_pytorch import DISTS_pt

    net = _build(lambda: DISTS_pt.DISTS(load_weights=False), "vgg16", path)
    # The package looks for its own weights in the interpreter's prefix, where not every installer
    # puts them; the same file lies beside the module.
    mixing = torch.load(Path(DISTS_pt.__file__).with_name("weights.pt"), weights_only=True)
    net.load_state_dict(mixing, strict=False)
    return net.eval().requires_grad_(False).to(device)


def _piqe(path: None, device: str) -> Any:
    from pyiqa.archs.piqe_arch import piqe

    # It also returns maps of what it found.
    return lambda picture: piqe(picture)[0]


def _musiq(path: Path, device: str) -> Any:
    return _pyiqa("musiq", device, path)


def _maniqa(path: Path, device: str) -> Any:
    """The file of MANIQA holds its backbone too, so timm is kept from fetching that."""
    import timm

    bare = functools.partial(timm.create_model, pretrained=False)
    with _replaced(timm, create_model=lambda name, pretrained: bare(name)):
        return _pyiqa("maniqa", device, path)


def _clipiqa(path: Path, device: str) -> Any:
    """CLIP is published as a TorchScript archive, which holds code: only the known file is run."""
    if sha256_file(path) != CLIP_RN50_SHA256:
        raise DataError(f"{path} is not the file that OpenAI published", "fetch it again")
    return _pyiqa("clipiqa", device, backbone=str(path))


def _liqe(path: Path, device: str) -> Any:
    """The file of LIQE holds all of its tuned CLIP; no other is needed."""
    from pyiqa.archs import liqe_arch
    from pyiqa.archs.clip_model import build_model

    state, _ = read_checkpoint(path)
    state = {k.removeprefix("clip_model."): v for k, v in state.items()}
    # Building rounds to half precision, as CLIP itself was published; loading again undoes it.
    clip = build_model(dict(state)).float()
    load_strictly(clip, state, "liqe")
    with (
        tempfile.TemporaryDirectory() as folder,
        _replaced(liqe_arch, load=lambda *_, **__: clip, DEFAULT_CACHE_DIR=folder),
    ):
        return _pyiqa("liqe", device)


def _pyiqa(name: str, device: str, path: Path | None = None, **options: Any) -> Any:
    """A metric of pyiqa under its name there, built without download, filled from `path`."""
    model = _inference_model(name, device, pretrained=False, **options)
    if path is not None:
        state, _ = read_checkpoint(path)
        load_strictly(model.net, {k.removeprefix("module."): v for k, v in state.items()}, name)
    return model


def _inference_model(name: str, device: str, **options: Any) -> Any:
    from pyiqa.models.inference_model import InferenceModel

    # The constructors draw random numbers and print.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        model = InferenceModel(name, device=device, **options).requires_grad_(False)
    # Each call sets flags of cuDNN, and TF32 among them where nobody says otherwise.
    cudnn = torch.backends.cudnn
    exact = functools.partial(cudnn.flags, allow_tf32=False)
    forward = model.forward

    def run(*frames: torch.Tensor) -> Any:
        with _replaced(cudnn, flags=exact):
            return forward(*frames)

    model.forward = run
    return model


@contextlib.contextmanager
def _only_tensors() -> Iterator[None]:
    """Pickled code in weights is refused by torch, whoever loads them."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@functools.cache
def by_name(name: str, network: bool) -> Any:
    """A metric as pyiqa itself makes it, on the CPU. Raises what comes when files are missing.

    Files that it gets from plain addresses are looked for where those of our own metrics are.
    Without `network` nothing is asked for, whoever asks. Pickled code in weights is refused.
    """
    from huggingface_hub import constants
    from pyiqa.utils import download_util

    def obtain(url: str, to: str, hash_prefix: str | None = None, *_: Any, **__: Any) -> None:
        found, link = weights_at(url, hash_prefix or "", network), Path(to)
        if found != link:
            link.unlink(missing_ok=True)
            link.symlink_to(found.resolve())

    def refuse(host: object, *_: Any, **__: Any) -> None:
        raise OSError(f"{host} was not asked")

    with contextlib.ExitStack() as stack:
        for module in (torch.hub, download_util):
            stack.enter_context(_replaced(module, download_url_to_file=obtain))
        stack.enter_context(_only_tensors())
        if not network:
            stack.enter_context(_replaced(constants, HF_HUB_OFFLINE=True))
            stack.enter_context(_replaced(socket, getaddrinfo=refuse))
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(5)
        return _inference_model(name, "cpu")


_MODELS: Mapping[str, Callable[..., Any]] = {
    "musiq": _musiq,
    "clipiqa": _clipiqa,
    "maniqa": _maniqa,
    "piqe": _piqe,
    "liqe": _liqe,
}
"""What makes of (file, device) a function of 1 x 3 x H x W in 0..1."""


@functools.cache
def _model(name: str, path: Path | None, device: str) -> Any:
    return _MODELS[name](path, device)


class LPIPS(MeanMetric):
    """LPIPS v0.1 of each frame, with AlexNet or VGG-16. Zhang et al., CVPR 2018."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._net = lpips_network(find_weights(info.name), device)

    def score(self, sample: Sample) -> float:
        """LPIPS of this frame."""
        return self.distance(sample.sr, gt_of(sample))

    @torch.inference_mode()
    def distance(self, a: Frame, b: Frame) -> float:
        """LPIPS of two uint8 frames of one size. Raises DataError below 32 px."""
        require_side(32, a)
        return float(self._net(*(_tensor(f, self.device) for f in (a, b)), normalize=True))


class TLP(MeanMetric):
    """tLP of each pair: how unlike the LPIPS between frames is to that of the ground truth.

    100 |LPIPS(g_(t-1), g_t) - LPIPS(o_(t-1), o_t)|. Chu et al., ACM TOG 2020.
    """

    fewest = "two frames"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._lpips = LPIPS(info, device)
        self._previous: tuple[Frame, Frame] | None = None

    def score(self, sample: Sample) -> float | None:
        """Difference of the pair that this frame ends."""
        previous, self._previous = self._previous, (sample.sr, gt_of(sample))
        if previous is None:
            return None
        own, true = map(self._lpips.distance, previous, self._previous)
        return 100 * abs(own - true)


class DISTS(MeanMetric):
    """DISTS of each frame. Ding et al., IEEE TPAMI 2020."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._net = _dists(find_weights(info.name), device)

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """DISTS of this frame."""
        require_side(32, sample.sr)
        sr, gt = (_tensor(f, self.device) for f in (sample.sr, gt_of(sample)))
        return max(0.0, float(self._net(sr, gt)))


class NoReference(MeanMetric):
    """A metric of pyiqa that looks at each frame alone."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        path = find_weights(info.name) if "weights" in info.needs else None
        self._model = _model(info.name, path, device)

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """The number of this frame. Raises DataError if it is too small."""
        require_side(self.info.smallest, sample.sr)
        return float(self._model(_tensor(sample.sr, self.device)))


class ByName(MeanMetric):
    """Any metric of pyiqa that gives one number for a frame, as pyiqa makes it."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._model = by_name(info.name.removeprefix(PYIQA), network=False).to(device)

    def score(self, sample: Sample) -> float:
        """The number of this frame. Raises DataError if there are several."""
        frames = (sample.sr, gt_of(sample)) if "gt" in self.info.needs else (sample.sr,)
        # Some look at random patches: the same ones each time, and a method's draws stay its own.
        with torch.random.fork_rng(devices=[] if self.device == "cpu" else [self.device]):
            torch.manual_seed(0)
            output = self._model(*(_tensor(frame, self.device) for frame in frames))
        if not isinstance(output, torch.Tensor) or output.numel() != 1:
            raise DataError(f"'{self.info.name}' gives more than one number for a frame")
        return float(output)
