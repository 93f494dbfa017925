"""The pruned Stable Diffusion 2.1 UNet and VAE decoder that InstaVSR's backbone is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsrbench.core.processes import KEPT, give_back_memory

SMALL_MAP = 1024
"""Positions below which torch's GroupNorm of channels_last is many times as slow on a CPU."""


def group_count(channels: int) -> int:
    """Groups of a GroupNorm over `channels`, after pruning."""
    return next(g for g in (32, 24, 16, 12, 8, 6, 4, 2, 1) if channels % g == 0)


class GroupNorm(nn.GroupNorm):
    """GroupNorm with the group count of the pruned network, in the form that is fast where it is.

    All forms give the same numbers.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(group_count(channels), channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same."""
        if torch.onnx.is_in_onnx_export():
            return self._exported(x)
        if x.device.type == "cpu" and x.shape[2] * x.shape[3] < SMALL_MAP:
            x = x.contiguous()
        return super().forward(x)

    def _exported(self, x: Tensor) -> Tensor:
        """As it is exported: engines would change the layout of a map that is given other axes."""
        if self.num_groups == self.num_channels:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

        def mean(y: Tensor) -> Tensor:
            of_group = y.mean((2, 3)).unflatten(1, (self.num_groups, -1)).mean(2, keepdim=True)
            return of_group.expand(-1, -1, self.num_channels // self.num_groups).reshape(
                len(y), self.num_channels, 1, 1
            )

        apart = x - mean(x)
        scale = self.weight[:, None, None] * torch.rsqrt(mean(apart.square()) + self.eps)
        return apart * scale + self.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    """SiLU of a map that nobody else needs: in its place, unless it is trained."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def convolved(norm: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of the SiLU of a normalised map, as all of them are but the first ones."""
    x = silu(norm(x))  # what it was made of is let go
    made: Tensor = conv(x)
    return made


class Resnet(nn.Module):
    """diffusers' resnet, without time embedding: (b, cin, h, w) -> (b, cout, h, w)."""

    def __init__(self, cin: int, cout: int, eps: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(cin, eps)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = GroupNorm(cout, eps)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, cin, h, w) -> (b, cout, h, w)."""
        made = convolved(self.norm2, self.conv2, convolved(self.norm1, self.conv1, x))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + made


def by_windows(x: Tensor, window: int, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a token layer (b, n, c) -> (b, n, d) to a map (b, h, w, c), window by window.

    window: largest side of a window in tokens; 0 = the whole map is one window. Windows of one
    size, of which there are four at most, go through as one batch.
    """
    batch, height, width, channels = map(int, x.shape)  # also where the network is exported
    rows, columns = (_bands(side, window or side) for side in (height, width))
    found = []
    for top, n, h in rows:
        across = []
        for left, m, w in columns:
            cells = x[:, top : top + n * h, left : left + m * w]
            cells = cells.reshape(batch, n, h, m, w, channels).transpose(2, 3)
            tokens = layer(cells.reshape(batch * n * m, h * w, channels))
            cells = tokens.reshape(batch, n, m, h, w, -1).transpose(2, 3)
            across.append(cells.reshape(batch, n * h, m * w, -1))
        found.append(torch.cat(across, 2) if len(across) > 1 else across[0])
    return torch.cat(found, 1) if len(found) > 1 else found[0]


def _bands(side: int, window: int) -> list[tuple[int, int, int]]:
    """(start, windows, side of each) of the longer windows along a side, and of the others."""
    count = math.ceil(side / window)
    short, longer = divmod(side, count)
    start = longer * (short + 1)
    bands = [(0, longer, short + 1), (start, count - longer, short)]
    return [band for band in bands if band[1]]


class Attention(nn.Module):
    """Self-attention over the positions of a map, in windows.

    Without `norm` (b, h, w, c) -> same. With it (b, c, h, w) -> same, the map itself added, as in
    the decoder; the statistics of the norm stay those of the whole map. bias: of the three maps
    that go in. Its parts and those of the modules below have diffusers' names, as checkpoints do;
    to import diffusers takes seconds.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        bias: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.group_norm = heads, window, norm
        self.to_q = nn.Linear(channels, channels, bias)
        self.to_k = nn.Linear(channels, channels, bias)
        self.to_v = nn.Linear(channels, channels, bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """As said above."""
        if self.group_norm is None:
            return self._attended(x)
        y = self.group_norm(x).permute(0, 2, 3, 1)
        return x + self._attended(y).permute(0, 3, 1, 2)

    def _attended(self, x: Tensor) -> Tensor:
        """(b, h, w, c) -> same. What looks at one position alone goes over all of them at once."""

        def layer(tokens: Tensor) -> Tensor:
            q, k, v = tokens.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        qkv = torch.cat([to(x) for to in (self.to_q, self.to_k, self.to_v)], 3)
        made: Tensor = self.to_out[0](by_windows(qkv, self.window, layer))
        return made


class Gated(nn.Module):
    """GEGLU (Shazeer, arXiv:2002.05202): half of a linear map, times the GELU of the other half."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., width)."""
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Four times as wide within. (..., c) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.net = nn.Sequential(Gated(channels, wide), nn.Identity(), nn.Linear(wide, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., c) -> same."""
        made: Tensor = self.net(x)
        return made


class TransformerBlock(nn.Module):
    """Self-attention, then feed-forward, each of normalised values and added to them."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, window)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) -> same."""
        x = x + self.attn1(self.norm1(x))
        made: Tensor = x + self.ff(self.norm3(x))
        return made


class Transformer(nn.Module):
    """Self-attention and feed-forward over the positions of a map. (b, c, h, w) -> same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, window)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same."""
        y = self.proj_in(self.norm(x).permute(0, 2, 3, 1))
        return x + self.proj_out(self.transformer_blocks[0](y)).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """A strided convolution. (b, c, h, w) -> (b, c, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h/2, w/2)."""
        made: Tensor = self.conv(x)
        return made


class Upsample(nn.Module):
    """Nearest x2 and a convolution. (b, c, h, w) -> (b, c, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        if x.device.type == "cpu" and 4 * x.nbytes > KEPT:
            give_back_memory()  # holes of smaller maps, which this one does not fit
        made: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return made


class DownBlock(nn.Module):
    """Resnets, each with a transformer where `heads` > 0, then a strided convolution."""

    def __init__(
        self, cin: int, cout: int, layers: int, heads: int, window: int, downsample: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            Resnet(cin if i == 0 else cout, cout, 1e-5) for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Transformer(cout, heads, window) for _ in range(layers if heads else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample(cout)] if downsample else [])

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(b, cin, h, w) -> (b, cout, h/2, w/2); every stage's result is pushed on `skips`."""
        for i, layer in enumerate(self.resnets):
            x = layer(x)
            if self.attentions:
                x = self.attentions[i](x)
            skips.append(x)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """Resnet, attention (if any), resnet."""

    def __init__(self, channels: int, attention: nn.Module | None, eps: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, eps) for _ in range(2))
        self.attentions = nn.ModuleList([attention] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> same."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class UpBlock(nn.Module):
    """Resnets, each with a transformer where `heads` > 0, then nearest x2 and a convolution."""

    def __init__(
        self, cins: Sequence[int], cout: int, eps: float, upsample: bool, heads: int, window: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(cin, cout, eps) for cin in cins)
        self.attentions = nn.ModuleList(
            Transformer(cout, heads, window) for _ in (cins if heads else ())
        )
        self.upsamplers = nn.ModuleList([Upsample(cout)] if upsample else [])

    def forward(self, x: Tensor, skips: list[Tensor] | None = None) -> Tensor:
        """(b, c, h, w) -> (b, cout, 2h, 2w); with `skips`, each resnet takes the last one too."""
        for i, layer in enumerate(self.resnets):
            x = layer(x if skips is None else torch.cat((x, skips.pop()), 1))
            if self.attentions:
                x = self.attentions[i](x)
        for up in self.upsamplers:
            x = up(x)
        return x


class UNet(nn.Module):
    """The pruned UNet. (b, in_channels, h, w) -> (b, out_channels, h, w)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        heads: Sequence[int],
        mid_heads: int,
        layers: int,
        window: int,
        norm_out: bool,
    ) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        skips = [width := channels[0]]
        for i, (c, h) in enumerate(zip(channels, heads, strict=True)):
            self.down_blocks.append(DownBlock(width, c, layers, h, window, i < last))
            skips += [c] * (layers + (i < last))
            width = c
        middle = Transformer(width, mid_heads, window) if mid_heads else None
        self.mid_block = MidBlock(width, middle, 1e-5)
        self.up_blocks = nn.ModuleList()
        for i, (c, h) in reversed(list(enumerate(zip(channels, heads, strict=True)))):
            cins = [(width if k == 0 else c) + skips.pop() for k in range(layers + 1)]
            self.up_blocks.append(UpBlock(cins, c, 1e-5, i > 0, h, window))
            width = c
        self.conv_norm_out = GroupNorm(width, 1e-5) if norm_out else nn.Identity()
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features at the input's size, not activated."""
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, skips)
        x = self.mid_block(x)
        for up in self.up_blocks:
            x = up(x, skips)
        return convolved(self.conv_norm_out, self.conv_out, x)


class Decoder(nn.Module):
    """The thin VAE decoder. (b, channels[0], h, w) -> (b, out_channels, sh, sw).

    channels: width of each up block in the order of use; all but the last double the size. shuffle:
    the last convolution works at the output's size over this and fills it in from channels
    (Shi et al., CVPR 2016). So s is 2^(widths - 1) times shuffle.
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: int,
        mid_attention: bool,
        window: int,
        norm_out: bool,
        out_channels: int = 3,
        shuffle: int = 1,
    ) -> None:
        super().__init__()
        width, last = channels[0], len(channels) - 1
        attention: nn.Module | None = None
        if mid_attention:
            norm = nn.GroupNorm(group_count(width), width, 1e-6)
            attention = Attention(width, 1, window, bias=True, norm=norm)
        self.mid_block = MidBlock(width, attention, 1e-6)
        self.up_blocks = nn.ModuleList()
        for i, c in enumerate(channels):
            cins = [width] + [c] * layers
            self.up_blocks.append(UpBlock(cins, c, 1e-6, i < last, heads=0, window=0))
            width = c
        self.conv_norm_out = GroupNorm(width, 1e-6) if norm_out else nn.Identity()
        self.conv_out = nn.Conv2d(width, out_channels * shuffle**2, 3, padding=1)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        """RGB around -1..1, and what other channels there are."""
        x = self.mid_block(x)
        for up in self.up_blocks:
            x = up(x)
        return F.pixel_shuffle(convolved(self.conv_norm_out, self.conv_out, x), self.shuffle)
