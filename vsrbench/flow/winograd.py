"""Convolutions of 3 x 3 with half of the multiplications, on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST = 64
"""Channels on either side from which on this is faster than what PyTorch calls."""
_AT_A_TIME = 2**18
"""Values of each of the six combinations that a thread has at a time: they stay in the cache."""


class Convolution(torch.nn.Module):
    """A convolution of 3 x 3 that keeps the size, over the channels of all its inputs together.

    By Winograd's F(4, 3) down the columns (Lavin and Gray, CVPR 2016): six rows are combined, each
    combination is convolved by 1 x 3, and the six results make four rows: the same but for
    rounding, which is about twice that of the direct sum. PyTorch has no such convolution on CPUs;
    on GPUs the choice is left to cuDNN, which has.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._weight, self._bias = weight, bias
        a, b, c = weight.unbind(2)
        sixths = (a + c) / -6, b / -6
        ends = (a + 4 * c) / 24, b / 12
        kernels = (
            *(a / 4, sixths[0] + sixths[1], sixths[0] - sixths[1]),
            *(ends[0] + ends[1], ends[0] - ends[1], c),
        )
        last = torch.channels_last
        self._kernels = [k[:, :, None].contiguous(memory_format=last) for k in kernels]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The result in channels_last."""
        n, _, h, w = inputs[0].shape
        if inputs[0].device.type != "cpu":
            return F.conv2d(torch.cat(inputs, 1), self._weight, self._bias, padding=1)
        wide, channels = self._weight.shape[:2]
        tall = -(-h // 4) * 4
        framed = inputs[0].new_empty(n, tall + 2, w, channels).permute(0, 3, 1, 2)
        framed[:, :, 0], framed[:, :, h + 1 :] = 0, 0
        torch.cat(inputs, 1, out=framed[:, :, 1 : h + 1])
        out = framed.new_empty(n, tall, w, wide).permute(0, 3, 1, 2)
        values = _AT_A_TIME * torch.get_num_threads()
        rows = 4 * max(1, values // (w * max(wide, channels)))
        for top in range(0, tall, rows):
            self._convolve(framed[:, :, top : top + rows + 2], out[:, :, top : top + rows])
        return out[:, :, :h]

    def _convolve(self, x: Tensor, out: Tensor) -> None:
        """Write the result of some rows, of which `x` has one more above and below."""
        count = out.shape[2]
        d = [x[:, :, i : i + count - 3 : 4] for i in range(6)]
        even, odd = d[4] - d[2], d[3] - d[1]
        far_even, far_odd = d[4].sub(d[2], alpha=4), d[3].sub(d[1], alpha=4)
        sums = (
            (d[0] - d[2]).mul_(4).add_(even),
            far_even + far_odd,
            far_even.sub_(far_odd),
            even.add(odd, alpha=2),
            even.sub_(odd, alpha=2),
            (d[5] - d[3]).sub_(odd, alpha=4),
        )
        biases = (None, self._bias, None, None, None, None)  # the second is part of every row
        m = [
            F.conv2d(x, kernel, bias, padding=(0, 1))
            for x, kernel, bias in zip(sums, self._kernels, biases, strict=True)
        ]
        same, other = m[1] + m[2], m[1].sub_(m[2])
        twice, far = m[3] + m[4], m[3].sub_(m[4])
        o = [out[:, :, i::4] for i in range(4)]
        torch.add(m[0], same, out=o[0]).add_(twice)
        torch.add(other, far, alpha=2, out=o[1])
        torch.add(same, twice, alpha=4, out=o[2])
        torch.add(other, far, alpha=8, out=o[3]).add_(m[5])


def is_meant(weight: Tensor) -> bool:
    """Whether this is for a convolution with such weights, if it keeps the size."""
    return weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= FEWEST


def quicken(module: torch.nn.Module) -> None:
    """Replace the convolutions of a module that this is meant for."""
    for name, part in module.named_children():
        if not isinstance(part, torch.nn.Conv2d):
            quicken(part)
            continue
        plain = part.stride == part.padding == part.dilation == (1, 1) and part.groups == 1
        if plain and part.padding_mode == "zeros" and is_meant(part.weight):
            setattr(module, name, Convolution(part.weight, part.bias))
