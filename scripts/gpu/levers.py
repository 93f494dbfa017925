"""Levers of `instavsr-full`: what may make it faster or smaller, each to be tried alone.

A new lever is one line in LEVERS: settings of the card, a precision, or a context manager that
changes the loaded method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


Around = Callable[[Any, bool], AbstractContextManager[Any]]


def unchanged(*_: Any) -> AbstractContextManager[Any]:
    """The method as it was loaded."""
    return nullcontext()


PLAIN: Mapping[str, Any] = {"window": 0, "tile": 0}
"""Settings of `instavsr-full` as its backbone was published: attention over the whole picture."""


@dataclass(frozen=True)
class Lever:
    """One way to run `instavsr-full`, to be held against how its card runs it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings other than those of the card."""
    precision: str = ""
    """Another precision than that of the card."""
    around: Around = unchanged
    """Changes the loaded method (small or not) for as long as it runs."""
    gpu: bool = False
    """Means something on a GPU alone."""


@contextmanager
def contiguous(method: Any, _: bool) -> Iterator[None]:
    """NCHW, where the adapter chose channels_last."""
    import torch

    method.net.backbone.to(memory_format=torch.contiguous_format)
    yield


@contextmanager
def compiled(method: Any, small: bool) -> Iterator[None]:
    """UNet and decoder by torch.compile; at small sizes the decoder alone, traced and no more."""
    backbone = method.net.backbone
    for part in (backbone.decoder,) if small else (backbone.unet, backbone.decoder):
        part.compile(backend="eager" if small else "inductor", dynamic=False)
    yield


@contextmanager
def graphed(method: Any, _: bool) -> Iterator[None]:
    """UNet and decoder as one CUDA graph, captured at the first frame."""
    import torch

    backbone = method.net.backbone
    drawn, held = backbone.drawn, dict[str, Any]()

    def replayed(features: torch.Tensor) -> torch.Tensor:
        if not held:
            held["in"] = features.clone()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries choose and allocate before the capture
                for _ in range(2):
                    drawn(held["in"])
            torch.cuda.current_stream().wait_stream(stream)
            held["graph"] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["out"] = drawn(held["in"])
        held["in"].copy_(features)
        held["graph"].replay()
        result: torch.Tensor = held["out"].clone()
        return result

    backbone.drawn = replayed
    yield


@contextmanager
def cudnn_benchmark(*_: Any) -> Iterator[None]:
    """Let cuDNN try its algorithms and keep the fastest."""
    import torch

    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


@contextmanager
def tf32(*_: Any) -> Iterator[None]:
    """Products of float32 with inputs rounded to 10 bits, as torch does it unless told not to."""
    import torch

    from vsrbench.run.method import no_tf32

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        no_tf32()


def attention(*backends: str) -> Around:
    """Scaled dot-product attention by these backends of torch, the first one that can."""

    def around(*_: Any) -> AbstractContextManager[Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel([getattr(SDPBackend, name) for name in backends], set_priority=True)

    return around


CARD = "as the card says"
LEVERS: Mapping[str, Lever] = {
    CARD: Lever(),
    "attention over the whole picture": Lever({"window": 0}),
    "windows of 32 tokens": Lever({"window": 32}),
    "windows of 128 tokens": Lever({"window": 128}),
    "tiles of 272 px": Lever({"tile": 272}),
    "tiles of 144 px": Lever({"tile": 144}),
    "NCHW instead of channels_last": Lever(around=contiguous),
    "bf16": Lever(precision="bf16", gpu=True),
    "CUDA graph": Lever(around=graphed, gpu=True),
    "cuDNN benchmark": Lever(around=cudnn_benchmark, gpu=True),
    "attention by flash": Lever(around=attention("FLASH_ATTENTION")),
    "attention by cuDNN, else flash": Lever(
        around=attention("CUDNN_ATTENTION", "FLASH_ATTENTION"), gpu=True
    ),
    "attention by memory-efficient": Lever(around=attention("EFFICIENT_ATTENTION"), gpu=True),
    "attention by matmul and softmax": Lever(around=attention("MATH")),
    "fp32": Lever(precision="fp32", gpu=True),
    "fp32 with TF32": Lever(precision="fp32", around=tf32, gpu=True),
    "compiled": Lever(around=compiled),
}
"""Each alone, the most telling first; what two give together is one more line here."""
