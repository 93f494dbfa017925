"""Levers of `instavsr-full`: what may make it faster or smaller, each to be tried alone.

A new lever is one line in LEVERS: settings of the card, a precision, or a context manager that
changes the loaded method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

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


@contextmanager
def fp32_norms(method: Any, _: bool) -> Iterator[None]:
    """GroupNorm and LayerNorm wholly in fp32; torch's own keep statistics alone in it."""
    from torch import nn

    kind = method.net.backbone.unet.conv_in.weight.dtype
    norms: list[Any] = [
        module
        for module in method.net.backbone.modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
    ]

    def exact(own: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = own(x.float()).to(kind)
            return result

        return forward

    for norm in norms:
        norm.forward = exact(norm.float().forward)
    yield


@contextmanager
def fused_norms(_: Any, small: bool) -> Iterator[None]:
    """GroupNorm and SiLU as one compiled function, which leaves the layout as it is."""
    import torch
    import torch.nn.functional as F
    from vsrbench.methods.instavsr import unet

    def activated(
        x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> torch.Tensor:
        cells = x.float().reshape(len(x), groups, -1, *x.shape[2:])
        var, mean = torch.var_mean(cells, (2, 3, 4), correction=0, keepdim=True)
        normal = ((cells - mean) * torch.rsqrt(var + eps)).flatten(1, 2)
        return F.silu(normal * weight[:, None, None] + bias[:, None, None]).to(x.dtype)

    fused = torch.compile(activated, backend="eager" if small else "inductor", dynamic=False)

    def convolved(norm: Any, conv: Any, x: torch.Tensor) -> torch.Tensor:
        made = fused(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        result: torch.Tensor = conv(made)
        return result

    torch._dynamo.config.recompile_limit = 64  # one a shape
    with patch.object(unet, "convolved", convolved):
        yield


@contextmanager
def strips(_: Any, small: bool) -> Iterator[None]:
    """Norm, SiLU and convolution of large maps strip by strip, exactly: the norm's statistics are
    those of the whole map, and strips take a row of their neighbours along.
    """
    import torch
    import torch.nn.functional as F
    from vsrbench.methods.instavsr import unet

    rows, own = 16 if small else 128, unet.convolved

    def convolved(norm: Any, conv: Any, x: torch.Tensor) -> torch.Tensor:
        height, groups = x.shape[2], norm.num_groups
        if height <= 2 * rows:
            whole: torch.Tensor = own(norm, conv, x)
            return whole
        starts, count = range(0, height, rows), x[0].numel() // groups

        def cells(top: int, bottom: int) -> torch.Tensor:
            part = x[:, :, top:bottom].float()
            return part.reshape(len(x), groups, -1, *part.shape[2:])

        def total(of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            parts = [of(cells(top, top + rows)).sum((2, 3, 4), keepdim=True) for top in starts]
            mean: torch.Tensor = torch.stack(parts).sum(0) / count
            return mean

        mean = total(lambda part: part)
        scale = torch.rsqrt(total(lambda part: (part - mean).square()) + norm.eps)
        made: torch.Tensor | None = None
        for top in starts:
            first, last = max(0, top - 1), min(height, top + rows + 1)
            part = ((cells(first, last) - mean) * scale).flatten(1, 2)
            part = part * norm.weight[:, None, None] + norm.bias[:, None, None]
            part = conv(F.silu(part).to(x.dtype))[:, :, top - first :][:, :, :rows]
            if made is None:
                made = part.new_empty(*part.shape[:2], height, x.shape[3])
                made = made.contiguous(memory_format=torch.channels_last)
            made[:, :, top : top + rows] = part[:, :, : height - top]
        assert made is not None
        return made

    with patch.object(unet, "convolved", convolved):
        yield


@contextmanager
def padded_heads(*_: Any) -> Iterator[None]:
    """Attention in heads of 64 channels, of which 16 are 0, where the network has 48."""
    import torch.nn.functional as F

    own: Any = F.scaled_dot_product_attention

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> torch.Tensor:
        width = q.shape[-1]
        wide = (F.pad(x, (0, -width % 64)) for x in (q, k, v))
        how["scale"] = how.get("scale") or width**-0.5
        made: torch.Tensor = own(*wide, **how)[..., :width]
        return made

    with patch.object(F, "scaled_dot_product_attention", attention):
        yield


@contextmanager
def flow_aside(method: Any, _: bool) -> Iterator[None]:
    """Flow on a stream of its own, beside the frame before. Right for clips that are resident:
    it waits for no transfer of its frames.
    """
    import torch

    own = method.net._link
    if not method.net.backbone.unet.conv_in.weight.is_cuda:
        yield
        return
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def link(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.cuda.stream(aside):
            found: tuple[torch.Tensor, ...] = own(a, b)
        now = torch.cuda.current_stream()
        now.wait_stream(aside)
        for tensor in found:
            tensor.record_stream(now)
        return found

    with patch.object(method.net, "_link", link):
        yield


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
    "norms in fp32": Lever(around=fp32_norms),
    "heads of 64 channels": Lever(around=padded_heads),
    "flow on its own stream": Lever(around=flow_aside, gpu=True),
    "decoder and UNet in exact strips": Lever(around=strips),
    "GroupNorm and SiLU fused": Lever(around=fused_norms),
    "compiled": Lever(around=compiled),
}
"""Each alone, the most telling first; what two give together is one more line here."""
