"""ST-LPIPS: a perceptual distance that a shift by a pixel does not upset. Not LPIPS.

Ghildyal and Liu, Shift-tolerant Perceptual Similarity Metric, ECCV 2022. Backbone and head were
trained together, so values compare with no LPIPS. The networks are AlexNet and VGG-16 whose strides
are taken by a binomial filter of 3 x 3 after reflection by 2 px.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsrbench.cards.weights import load_strictly, read_checkpoint
from vsrbench.core.types import MetricInfo, Sample
from vsrbench.metrics.base import MeanMetric, gt_of, require_side
from vsrbench.metrics.requirements import find_weights

SMALLEST = 64
"""px a side: below, the last layers have nothing to look at."""


class Halve(nn.Module):
    """Every second pixel of what a binomial filter of 3 x 3 makes, in each channel alone."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Not by arithmetic: on the meta device that imports the compiler, for more than a second.
        row, middle = [0.0625, 0.125, 0.0625], [0.125, 0.25, 0.125]
        filt = torch.tensor([[row, middle, row]])
        self.register_buffer("filt", filt.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """N x c x h x w -> n x c x (h + 3) // 2 x (w + 3) // 2."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), self.filt, stride=2, groups=x.shape[1])


def _alexnet() -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, padding=2), Halve(64), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 1), Halve(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 1), Halve(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()]
    return [*layers, *(m for c in (384, 256) for m in (nn.Conv2d(c, 256, 3, padding=1), nn.ReLU()))]


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for wide, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, 1), Halve(channels)] if layers else []
        for _ in range(count):
            layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
            channels = wide
    return layers


_TAPS = {"alex": (2, 6, 10, 12, 14), "vgg": (3, 9, 17, 25, 33)}
"""The layers whose outputs are compared."""


class STLPIPS(nn.Module):
    """The distance of two batches of pictures, under the names of the authors' checkpoints."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        """net: alex or vgg."""
        super().__init__()
        self.layers = nn.ModuleList(_alexnet() if net == "alex" else _vgg16())
        wide = (64, 192, 384, 256, 256) if net == "alex" else (64, 128, 256, 512, 512)
        self.lins = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in wide)
        self.taps = _TAPS[net]
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two n x 3 x h x w in 0..1 -> n distances, 0 for the same."""
        x = (torch.cat([a, b]) * 2 - 1 - self.shift) / self.scale
        x = x.contiguous(memory_format=torch.channels_last)  # half of the time on a CPU
        total = torch.zeros(len(a), device=a.device)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                first, second = unit.chunk(2)
                weight = self.lins[self.taps.index(number)].get_parameter("weight").flatten()
                # The mean of what the 1 x 1 convolution gives; so it is the same in any number of
                # threads.
                total = total + ((first - second).square().mean((2, 3)) * weight).sum(1)
        return total


def named_as_here(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the authors' checkpoint (`net.slice2.5.weight`, `lin0.model.1.weight`) -> ours."""
    renamed = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first == "net":
            renamed[".".join(["layers", *rest[1:]])] = value
        elif first == "scaling_layer":
            renamed[rest[0]] = value
        else:
            renamed[f"lins.{first.removeprefix('lin')}.weight"] = value
    return renamed


@functools.cache
def network(path: Path, net: str, device: str) -> STLPIPS:
    """The network with the authors' weights. Raises DataError."""
    with torch.device("meta"):
        made = STLPIPS(net)
    load_strictly(made, named_as_here(read_checkpoint(path)[0]), f"ST-LPIPS ({net})", assign=True)
    made.eval().requires_grad_(False).to(device)
    for filters in (p for p in made.parameters() if p.dim() == 4):
        filters.data = filters.data.contiguous(memory_format=torch.channels_last)
    return made


class ShiftTolerant(MeanMetric):
    """ST-LPIPS of each frame against the ground truth."""

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        net = "vgg" if info.name.endswith("_vgg") else "alex"
        self._net = network(find_weights(info.name), net, device)

    @torch.inference_mode()
    def score(self, sample: Sample) -> float:
        """Distance of this frame. Raises DataError below 64 px."""
        require_side(SMALLEST, sample.sr)
        pair = (
            torch.from_numpy(frame.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255
            for frame in (sample.sr, gt_of(sample))
        )
        return float(self._net(*pair))
