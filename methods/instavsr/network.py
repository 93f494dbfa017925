"""InstaVSR: recurrent video super-resolution around a pruned one-step diffusion backbone.

The backbone is a Stable Diffusion 2.1 UNet without time embedding, text and cross-attention,
followed by a VAE decoder; channels are pruned (Chen et al., AdcSR, CVPR 2025, arXiv:2411.13383).
The video part follows InstaVSR (Hu et al., arXiv:2603.26134): a five-frame window aligned by
optical flow, in which super-resolved frames replace their low-quality originals. What the paper's
abstract and figures leave open (feedback at full detail, scene cuts) is chosen here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from vsrbench.core.errors import DataError

from ..spynet import SpyNet, same_scene, warp

SCALE = 4
OVERLAP = 64  # LQ px that neighbouring tiles share
MOST = 16.0  # frames that a pixel averages at most, so that what warping overshoots dies away
AGREES, DIFFERS = 0.05, 0.12  # from LQ: up to here the past is believed, from here on it is not
CLOSED = -4.0  # logit of a gate that lets 2 % through, and can still be learnt
OPEN = 1.5  # of one that lets 82 % through: learning starts from the memory, not from forgetting


def group_count(channels: int) -> int:
    """Groups of a GroupNorm over `channels`, after pruning."""
    return next(g for g in (32, 24, 16, 12, 8, 6, 4, 2, 1) if channels % g == 0)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with the group count of the pruned network."""
    return nn.GroupNorm(group_count(channels), channels, eps)


def resnet(cin: int, cout: int, eps: float) -> ResnetBlock2D:
    """Resnet without time embedding: (b, cin, h, w) -> (b, cout, h, w)."""
    return ResnetBlock2D(
        in_channels=cin,
        out_channels=cout,
        temb_channels=None,
        groups=group_count(cin),
        groups_out=group_count(cout),
        eps=eps,
    )


def by_windows(x: Tensor, window: int, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a token layer (b, n, c) -> (b, n, c) to a map (b, c, h, w), window by window.

    window: largest side of a window in tokens; 0 = the whole map is one window. Windows of one
    size, of which there are four at most, go through as one batch.
    """
    rows, cols = (math.ceil(side / window) if window else 1 for side in x.shape[2:])
    cells = [row.tensor_split(cols, 3) for row in x.tensor_split(rows, 2)]
    done = {}
    for shape in {cell.shape for row in cells for cell in row}:
        alike = [cell.flatten(2) for row in cells for cell in row if cell.shape == shape]
        tokens = layer(torch.cat(alike).transpose(1, 2)).transpose(1, 2)
        done[shape] = iter(tokens.unflatten(2, shape[2:]).chunk(len(alike)))
    return torch.cat([torch.cat([next(done[cell.shape]) for cell in row], 3) for row in cells], 2)


class Transformer(nn.Module):
    """Self-attention and feed-forward over the positions of a map. (b, c, h, w) -> same."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = group_norm(channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        block = BasicTransformerBlock(channels, heads, channels // heads)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same."""

        def layer(tokens: Tensor) -> Tensor:
            return self.proj_out(self.transformer_blocks[0](self.proj_in(tokens)))

        return x + by_windows(self.norm(x), self.window, layer)


class SpatialAttention:
    """Attention processor of the decoder: one head over the positions of a map, in windows.

    The norm's statistics stay those of the whole map.
    """

    def __init__(self, window: int) -> None:
        self.window = window

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
    ) -> Tensor:
        """(b, c, h, w) -> same, residual included. The two arguments that are None are unused."""

        def layer(tokens: Tensor) -> Tensor:
            q, k, v = (to(tokens)[:, None] for to in (attn.to_q, attn.to_k, attn.to_v))
            return attn.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])

        return hidden_states + by_windows(attn.group_norm(hidden_states), self.window, layer)


def spatial_attention(channels: int, window: int) -> Attention:
    """The attention of the decoder's mid block: (b, channels, h, w) -> same."""
    return Attention(
        channels,
        heads=1,
        dim_head=channels,
        norm_num_groups=group_count(channels),
        eps=1e-6,
        bias=True,
        processor=SpatialAttention(window),
    )


class DownBlock(nn.Module):
    """Resnets, each with a transformer where `heads` > 0, then a strided convolution."""

    def __init__(
        self, cin: int, cout: int, layers: int, heads: int, window: int, downsample: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            resnet(cin if i == 0 else cout, cout, 1e-5) for i in range(layers)
        )
        self.attentions = nn.ModuleList(
            Transformer(cout, heads, window) for _ in range(layers if heads else 0)
        )
        self.downsamplers = nn.ModuleList(
            [Downsample2D(cout, use_conv=True, name="op")] if downsample else []
        )

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(b, cin, h, w) -> (b, cout, h/2, w/2); every stage's result is pushed on `skips`."""
        for i, layer in enumerate(self.resnets):
            x = layer(x, None)
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
        self.resnets = nn.ModuleList(resnet(channels, channels, eps) for _ in range(2))
        self.attentions = nn.ModuleList([attention] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> same."""
        x = self.resnets[0](x, None)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, None)


class UpBlock(nn.Module):
    """Resnets, each with a transformer where `heads` > 0, then nearest x2 and a convolution."""

    def __init__(
        self, cins: Sequence[int], cout: int, eps: float, upsample: bool, heads: int, window: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnet(cin, cout, eps) for cin in cins)
        self.attentions = nn.ModuleList(
            Transformer(cout, heads, window) for _ in (cins if heads else ())
        )
        self.upsamplers = nn.ModuleList([Upsample2D(cout, use_conv=True)] if upsample else [])

    def forward(self, x: Tensor, skips: list[Tensor] | None = None) -> Tensor:
        """(b, c, h, w) -> (b, cout, 2h, 2w); with `skips`, each resnet takes the last one too."""
        for i, layer in enumerate(self.resnets):
            x = layer(x if skips is None else torch.cat((x, skips.pop()), 1), None)
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
        self.conv_norm_out = group_norm(width, 1e-5) if norm_out else nn.Identity()
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
        return self.conv_out(F.silu(self.conv_norm_out(x)))


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
        attention = spatial_attention(width, window) if mid_attention else None
        self.mid_block = MidBlock(width, attention, 1e-6)
        self.up_blocks = nn.ModuleList()
        for i, c in enumerate(channels):
            cins = [width] + [c] * layers
            self.up_blocks.append(UpBlock(cins, c, 1e-6, i < last, heads=0, window=0))
            width = c
        self.conv_norm_out = group_norm(width, 1e-6) if norm_out else nn.Identity()
        self.conv_out = nn.Conv2d(width, out_channels * shuffle**2, 3, padding=1)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        """RGB around -1..1, and what other channels there are."""
        x = self.mid_block(x)
        for up in self.up_blocks:
            x = up(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.conv_norm_out(x))), self.shuffle)


def colour_map(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift (b, c, 1, 1), float32, that give each channel of `x` the mean and (unbiased)
    deviation of `reference`.
    """
    std, mean = torch.std_mean(x.float(), (2, 3), keepdim=True)
    to_std, to_mean = torch.std_mean(reference.float(), (2, 3), keepdim=True)
    gain = to_std / std
    return gain, to_mean - gain * mean


def match_colour(x: Tensor, reference: Tensor) -> Tensor:
    """Give `x` the per-image, per-channel mean and (unbiased) deviation of `reference`.

    The result has the dtype of `reference`, the picture; under autocast, `x` has fewer bits.
    """
    gain, shift = colour_map(x, reference)
    return (gain * x + shift).to(reference.dtype)


class SteadyColour:
    """`match_colour` along one clip, its map smoothed over time so that it adds no flicker.

    The map and not the statistics are smoothed: a change of light moves both sides alike and leaves
    the map as it is. The result has the dtype of `reference`, as there.
    """

    RATE = 0.25
    """Weight of the new frame."""

    def __init__(self) -> None:
        self._map: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, reference: Tensor, same: Tensor | None) -> Tensor:
        """The next frame. same: (b, 1, 1, 1) bool, no cut since the last; None at the start."""
        gain, shift = colour_map(x, reference)
        if self._map is not None and same is not None:
            gain, shift = (
                torch.where(same, old + self.RATE * (new - old), new)
                for old, new in zip(self._map, (gain, shift), strict=True)
            )
        self._map = gain, shift
        return (gain * x + shift).to(reference.dtype)


def tile_starts(side: int, tile: int, overlap: int, unit: int) -> tuple[list[int], int]:
    """Where tiles along a side start, and how long they are: as few as cover it, and no longer than
    they must be. All are multiples of `unit`, as `side` is.
    """
    if not tile or side <= tile:
        return [0], side
    count = math.ceil((side - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count / unit) * unit
    last = side - length
    return [round(i * last / (count - 1) / unit) * unit for i in range(count)], length


def tile_weight(start: int, length: int, side: int, overlap: int, like: Tensor) -> Tensor:
    """How much of each position of a tile counts: a ramp over the middle half of each overlap,
    nothing in the outer quarter, which sees the tile's edge; 1 at the edges of the picture.
    """
    x = torch.arange(length, device=like.device) + 0.5
    ramp, edge = overlap / 2, overlap / 4
    weight = torch.ones_like(x)
    if start > 0:
        weight = torch.minimum(weight, ((x - edge) / ramp).clamp(0, 1))
    if start + length < side:
        weight = torch.minimum(weight, ((length - x - edge) / ramp).clamp(0, 1))
    return weight


def tiled(
    layer: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, unit: int
) -> Tensor:
    """`layer` of a map (b, c, h, w) -> (b, c', sh, sw), by overlapping tiles that blend smoothly.

    tile: largest side of a tile in px of `x` (0 = all at once); overlap: what neighbours share, a
    quarter of it on each side being context alone. unit: the layer wants sides that are multiples
    of this. Where each output depends on no more than that context, the tiles change nothing.
    """
    (rows, height), (cols, width) = (tile_starts(n, tile, overlap, unit) for n in x.shape[2:])
    if len(rows) == len(cols) == 1:
        return layer(x)
    total: Tensor | None = None
    for top in rows:
        for left in cols:
            y = layer(x[:, :, top : top + height, left : left + width])
            s = y.shape[2] // height
            weight = (
                tile_weight(s * top, s * height, s * x.shape[2], s * overlap, y)[:, None]
                * tile_weight(s * left, s * width, s * x.shape[3], s * overlap, y)
            ).to(y.dtype)
            if total is None:
                total = y.new_zeros(*y.shape[:2], s * x.shape[2], s * x.shape[3])
                norm = y.new_zeros(total.shape[2:])
            rect = (slice(s * top, s * (top + height)), slice(s * left, s * (left + width)))
            total[:, :, *rect] += weight * y
            norm[rect] += weight
    assert total is not None
    return total.div_(norm)


def upscaled(x: Tensor) -> Tensor:
    """Bicubic x4, pixel centres aligned."""
    return F.interpolate(x, scale_factor=SCALE, mode="bicubic", align_corners=False)


class Backbone(nn.Module):
    """One diffusion step: super-resolves one image, given features of its neighbours if any.

    channels, heads, layers: width, attention heads (0 = no attention) of each UNet level from fine
    to coarse, and resnets per level; mid_heads: heads at the bottom. decoder_channels: widths from
    coarse to fine, `decoder_layers` + 1 resnets each. window: largest side of an attention window
    in tokens (0 = global). unshuffle: the UNet's finest level works at LQ size over this; at 1 a
    thin decoder need not find positions in channels. shuffle: see `Decoder`; widths and shuffle
    must make up SCALE * unshuffle. residual: add the result to the bicubic image, which is where
    training then starts from, and leave out the two output norms, since they take away how much
    contrast there is to add; otherwise match the colours of the input, which puts it back.
    extra_channels, gate: see `forward`. tile: largest side in LQ px that UNet and decoder see at
    once (0 = any); larger pictures go through in tiles that overlap by `OVERLAP`, and memory then
    grows by the picture itself alone.

    The defaults are the full network: 443,695,696 + 2,626,048 + 9,751,939 parameters.
    LQ sides must be multiples of `multiple_of`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (240, 480, 960, 960),
        heads: Sequence[int] = (5, 10, 20, 0),
        mid_heads: int = 20,
        layers: int = 2,
        decoder_channels: Sequence[int] = (256, 256, 128, 64),
        decoder_layers: int = 2,
        decoder_mid_attention: bool = True,
        window: int = 0,
        unshuffle: int = 2,
        shuffle: int = 1,
        residual: bool = False,
        extra_channels: int = 0,
        gate: bool = False,
        tile: int = 0,
    ) -> None:
        super().__init__()
        if tile and tile < 2 * OVERLAP:
            raise ValueError(f"tiles of {tile} px are too small: at least {2 * OVERLAP}")
        self.tile = tile
        if 2 ** (len(decoder_channels) - 1) * shuffle != SCALE * unshuffle:
            raise ValueError(
                f"{len(decoder_channels)} decoder widths and shuffle {shuffle} do not make up "
                f"x{SCALE * unshuffle}"
            )
        self.residual, self.unshuffle = residual, unshuffle
        self.multiple_of = unshuffle * 2 ** (len(channels) - 1)
        self.image_channels = 3 * unshuffle**2
        self.unet = UNet(
            self.image_channels + extra_channels,
            decoder_channels[0],
            channels,
            heads,
            mid_heads,
            layers,
            window,
            norm_out=not residual,
        )
        self.decoder = Decoder(
            decoder_channels,
            decoder_layers,
            decoder_mid_attention,
            window,
            norm_out=not residual,
            out_channels=4 if gate else 3,
            shuffle=shuffle,
        )
        nn.init.zeros_(self.unet.conv_in.weight[:, self.image_channels :].detach())
        if residual:
            for parameter in self.decoder.conv_out.parameters():
                nn.init.zeros_(parameter)
        if gate:
            logits = self.decoder.conv_out.get_parameter("bias")[3 * shuffle**2 :]
            nn.init.constant_(logits.detach(), OPEN)

    def forward(
        self,
        lq: Tensor,
        extra: Tensor | None = None,
        match: Callable[[Tensor, Tensor], Tensor] = match_colour,
    ) -> Tensor:
        """Super-resolve `lq` (b, 3, h, w) in 0..1 to (b, 3, 4h, 4w) around 0..1, not clamped.

        extra: (b, extra_channels, h/u, w/u) with u = unshuffle, joined to the unshuffled image.
        match: gives the result the colours of the image, unless `residual`.
        With `gate` there is a fourth channel, of logits.
        """
        features = F.pixel_unshuffle(2 * lq - 1, self.unshuffle)
        if extra is not None:
            features = torch.cat((features, extra), 1)
        return self._matched(self.drawn(features), lq, match)

    def drawn(self, features: Tensor) -> Tensor:
        """UNet and decoder, which have no state: they may be run again for the same numbers."""
        return self._tiled(self.decoder, self._tiled(self.unet, features))

    def decoded(
        self,
        latents: Tensor,
        lq: Tensor,
        match: Callable[[Tensor, Tensor], Tensor] = match_colour,
    ) -> Tensor:
        """What `forward` makes of the latents (b, c, h/u, w/u) of an image."""
        return self._matched(self._tiled(self.decoder, latents), lq, match)

    def _matched(
        self, drawn: Tensor, lq: Tensor, match: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        y, gate = drawn.tensor_split([3], 1)
        y = upscaled(lq) + y / 2 if self.residual else match(y, 2 * lq - 1) / 2 + 0.5
        return torch.cat((y, gate), 1) if gate.shape[1] else y

    def _tiled(self, layer: nn.Module, x: Tensor) -> Tensor:
        u = self.unshuffle
        return tiled(layer, x, self.tile // u, OVERLAP // u, self.multiple_of // u)


def pruned(unet: Mapping[str, Any], vae: Mapping[str, Any], net: Backbone) -> dict[str, Tensor]:
    """State of `net` from a Stable Diffusion UNet and VAE: of every layer the first channels.

    unet, vae: diffusers' names -> tensors, or what yields a part of one when sliced. The UNet's
    conv_in and conv_out are left out: there they take and give latents. Raises DataError.
    """
    # Files from before diffusers 0.12 have other names in the VAE's attention.
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = {}
    for name, own in net.state_dict().items():
        part, _, inner = name.partition(".")
        if part == "unet" and inner.startswith(("conv_in.", "conv_out.")):
            continue
        source, theirs = (unet, inner) if part == "unet" else (vae, name)
        if theirs not in source:
            for new, before in old.items():
                theirs = theirs.replace(new, before)
        if theirs not in source:
            raise DataError(f"there is no {theirs} in the {part} to prune", "is it SD 2.1-base?")
        state[name] = source[theirs][tuple(slice(n) for n in own.shape)]
        if state[name].shape != own.shape:
            raise DataError(
                f"{theirs} is {tuple(state[name].shape)} at most, {tuple(own.shape)} are needed",
                "is it SD 2.1-base?",
            )
    return state


def from_official(net: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of the full `Backbone` from the two AdcSR checkpoints.

    net: `net_params_*.pkl`, as saved from the distributed wrapper or without its prefix.
    decoder: the `state_dict` of `halfDecoder.ckpt`; its conv_in and mid_block are not used.
    """
    parts = {"body.1.": "unet.", "body.2.": "decoder.mid_block."}
    state = {}
    for name, tensor in net.items():
        name = name.removeprefix("module.")
        if not name.startswith("body.1.body."):  # second names of the same tensors
            state[parts[name[:7]] + name[7:]] = tensor
    for name, tensor in decoder.items():
        name = name.rpartition("decoder.")[2]
        if name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")):
            state[f"decoder.{name}"] = tensor
    return state


def inside(flow: Tensor) -> Tensor:
    """Where a flow (b, 2, h, w) in px ends inside its own grid: bool (b, 1, h, w)."""
    h, w = flow.shape[2:]
    x = torch.arange(w, device=flow.device) + flow[:, :1]
    y = torch.arange(h, device=flow.device)[:, None] + flow[:, 1:]
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def agreement(past: Tensor, present: Tensor) -> Tensor:
    """How far two aligned frames (b, 3, 4h, 4w) show the same, 0..1 (b, 1, 4h, 4w).

    By their absolute difference at LQ size, averaged over channels and 3x3 px so that noise counts
    less than what is out of place: motion that the flow missed leaves no ghosts.
    """
    apart = (F.avg_pool2d(past, SCALE) - F.avg_pool2d(present, SCALE)).abs().mean(1, keepdim=True)
    apart = F.avg_pool2d(apart, 3, 1, 1, count_include_pad=False)
    share = ((DIFFERS - apart) / (DIFFERS - AGREES)).clamp(0, 1)
    return F.interpolate(share, scale_factor=SCALE, mode="bilinear", align_corners=False)


class Neighbour(NamedTuple):
    """A frame beside the centre, as seen from the frame one step nearer to the centre."""

    frame: Tensor
    """(b, 3, h, w) in 0..1: the LQ frame, or its SR brought down to this size."""
    hop: Tensor
    """Flow (b, 2, h, w) from the nearer frame to this one, on the grid of the nearer one."""
    same: Tensor
    """(b, 1, 1, 1) bool: no scene cut between the two."""
    sr: Tensor | None = None
    """(b, 3, 4h, 4w): its SR; None where it is not fed back at full detail."""
    seen: Tensor | None = None
    """(b, 1, 4h, 4w): how many frames each of its pixels averages, 1 to `MOST`; likewise."""


class Finish(nn.Module):
    """Draws detail onto a frame that is steady already; the recurrence never sees what is drawn.

    What depends on the steady frame alone moves with it, where detail that each frame makes by
    itself would flicker or be averaged away. width: channels, at half the frame's size. Zero at
    first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4 * 4, width, 3, padding=1)
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, 4 * 3, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, steady: Tensor, seen: Tensor) -> Tensor:
        """(b, 3, h, w) around 0..1, sides even, to the same.

        seen: (b, 1, h, w), how many frames each pixel averages: the less noise, the more detail.
        """
        x = F.pixel_unshuffle(torch.cat((2 * steady - 1, seen / MOST), 1), 2)
        x = self.conv_mid(F.silu(self.conv_in(x)))
        return steady + F.pixel_shuffle(self.conv_out(F.silu(x)), 2) / 2


class InstaVSR(nn.Module):
    """Recurrent x4 video super-resolution over a window of 2 reach + 1 frames, look-ahead reach.

    Each frame enters the backbone with its neighbours on each side, aligned to it by backward
    warping along optical flow. Flow is estimated between adjacent LQ frames and composed beyond.
    A neighbour that does not exist (clip end) or belongs to another scene is replaced by the next
    nearer one, in the end by the centre frame itself. So each scene is processed as if alone.

    feedback: what super-resolved frames give to the next ones.
      none: nothing, neighbours are LQ frames;
      lq: past neighbours are SR frames brought down to LQ size;
      detail: that, and the previous SR frame at full size, aligned. The backbone sees it
        PixelUnshuffled, as the difference to the bicubic image, and says by a gate g for each pixel
        how far to trust it. Where n frames were averaged before, the next average is
        (new + g n kept) / (1 + g n), over 1 + g n frames but no more than `MOST`: with full trust a
        running mean over what was seen of a point, else one over the last 1 / (1 - g). What does
        not agree with the present (`agreement`) is left out.
    reach: neighbours on each side; 0 makes of each frame what it would be alone, without feedback.
    flow_widths, flow_levels: size of the flow network. finish: channels of `Finish`, which goes
    over every frame that leaves; 0 = none. backbone: configuration of `Backbone`.

    The weights of all inputs but the centre frame start at zero. The flow network gets no gradient
    from the output: train `self.spynet` by a loss of its own.
    """

    def __init__(
        self,
        feedback: str = "lq",
        reach: int = 2,
        flow_widths: Sequence[int] = (32, 64, 32, 16),
        flow_levels: int = 6,
        finish: int = 0,
        **backbone: Any,
    ) -> None:
        super().__init__()
        if feedback not in ("none", "lq", "detail"):
            raise ValueError(f"feedback is none, lq or detail, not {feedback!r}")
        if not reach and feedback != "none":
            raise ValueError("without neighbours (reach 0) there is nothing to feed back to")
        self.config = {
            "feedback": feedback,
            "reach": reach,
            "flow_widths": list(flow_widths),
            "flow_levels": flow_levels,
            "finish": finish,
            **backbone,
        }
        self.feedback, self.reach = feedback, reach
        cells = backbone.get("unshuffle", 2) ** 2
        extra = 3 * cells * 2 * reach
        if feedback == "detail":
            extra += 3 * cells * SCALE**2
        self.spynet = SpyNet(tuple(flow_widths), flow_levels)
        gate = feedback == "detail"
        self.backbone = Backbone(**backbone, extra_channels=extra, gate=gate)
        self.finish = Finish(finish) if finish else None

    def load_image_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of an image `Backbone`.

        The weights of all further inputs become zero; the gate starts almost closed everywhere.
        """
        own, image = self.backbone.unet.conv_in.weight, state["unet.conv_in.weight"]
        weight = image.new_zeros(own.shape)
        weight[:, : self.backbone.image_channels] = image
        padded = {"unet.conv_in.weight": weight}
        if self.feedback == "detail":
            out, bias = state["decoder.conv_out.weight"], state["decoder.conv_out.bias"]
            gates = len(self.backbone.decoder.conv_out.weight) - len(out)
            padded["decoder.conv_out.weight"] = F.pad(out, (0, 0, 0, 0, 0, 0, 0, gates))
            padded["decoder.conv_out.bias"] = F.pad(bias, (0, gates), value=CLOSED)
        self.backbone.load_state_dict({**state, **padded}, assign=own.is_meta)

    def forward(self, lqs: Tensor) -> Tensor:
        """Super-resolve clips (b, n, 3, h, w) in 0..1 to (b, n, 3, 4h, 4w), differentiably."""
        return torch.stack(list(self._run(lqs.unbind(1))), 1)

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Super-resolve one clip frame by frame, (3, h, w) -> (3, 4h, 4w), in constant memory."""
        for sr in self._run(frame[None] for frame in frames):
            yield sr[0]

    def _run(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        ahead: deque[Tensor] = deque()  # LQ frames from t on
        links: deque[tuple[Tensor, Tensor, Tensor]] = deque()  # between each two of `ahead`
        past: deque[Neighbour] = deque(maxlen=self.reach)  # nearest first
        colour = SteadyColour()
        for lq in chain(frames, [None] * self.reach):
            if lq is not None:
                if ahead:
                    links.append(self._link(ahead[-1], lq))
                ahead.append(lq)
                if len(ahead) <= self.reach:
                    continue
            if ahead:
                centre = ahead.popleft()
                future = [
                    Neighbour(frame, forward, same)
                    for frame, (forward, _, same) in zip(ahead, links, strict=True)
                ]
                sr, seen = self._step(centre, past, future, colour)
                yield self._finished(sr, seen)
                if ahead:
                    _, backward, same = links.popleft()
                    past.appendleft(self._fed_back(centre, sr, seen, backward, same))

    @torch.no_grad()
    def _link(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flow a->b, flow b->a (float32), and whether both show the same scene."""
        a, b = a.float(), b.float()
        with torch.autocast(a.device.type, enabled=False):
            forward, backward = self.spynet(torch.cat((a, b)), torch.cat((b, a))).chunk(2)
            return forward, backward, same_scene(a, b, forward)

    def _finished(self, sr: Tensor, seen: Tensor | None) -> Tensor:
        if self.finish is None:
            return sr
        return self.finish(sr, torch.ones_like(sr[:, :1]) if seen is None else seen)

    def _fed_back(
        self, lq: Tensor, sr: Tensor, seen: Tensor | None, hop: Tensor, same: Tensor
    ) -> Neighbour:
        """What the next frames see of a finished frame."""
        frame = lq if self.feedback == "none" else F.avg_pool2d(sr, SCALE)
        return Neighbour(frame, hop, same, sr if self.feedback == "detail" else None, seen)

    def _step(
        self,
        centre: Tensor,
        past: Sequence[Neighbour],
        future: Sequence[Neighbour],
        colour: SteadyColour,
    ) -> tuple[Tensor, Tensor | None]:
        """Super-resolve `centre` (b, 3, h, w), given its neighbours on each side, nearest first.

        The second result, with feedback of detail, is how many frames each pixel averages.
        """
        match = partial(colour, same=past[0].same if past else None)
        if not self.reach:
            return self.backbone(centre, None, match), None
        aligned = torch.cat((*self._align(centre, past), *self._align(centre, future)), 1)
        unshuffle = self.backbone.unshuffle
        extra = F.pixel_unshuffle(2 * aligned - 1, unshuffle)
        if self.feedback != "detail":
            return self.backbone(centre, extra, match), None
        bicubic = upscaled(centre)
        kept, seen = self._align_sr(bicubic, past)
        detail = F.pixel_unshuffle(2 * (kept - bicubic), unshuffle * SCALE)
        extra = torch.cat((extra, detail), 1)
        sr, gate = self.backbone(centre, extra, match).tensor_split([3], 1)
        trusted = gate.sigmoid() * seen
        return sr + trusted / (1 + trusted) * (kept - sr), (1 + trusted).clamp(max=MOST)

    def _align(self, centre: Tensor, side: Sequence[Neighbour]) -> list[Tensor]:
        """The neighbours of one side aligned to the centre, always `reach`, nearest first."""
        nearest, flow, same, aligned = centre, None, None, []
        for frame, hop, joined, *_ in side:
            flow = hop if flow is None else flow + warp(hop, flow, "border")
            same = joined if same is None else same & joined
            nearest = torch.where(same, warp(frame, flow, "border"), nearest)
            aligned.append(nearest)
        return aligned + [nearest] * (self.reach - len(aligned))

    @staticmethod
    def _align_sr(bicubic: Tensor, past: Sequence[Neighbour]) -> tuple[Tensor, Tensor]:
        """The previous SR aligned to the centre, and how many frames it averages, (b, 1, 4h, 4w).

        Where there is none, or it shows something else, it is the centre's bicubic image
        (b, 3, 4h, 4w), and the number 0; between the two the number is less.
        """
        if not past:
            return bicubic, torch.zeros_like(bicubic[:, :1])
        previous = past[0]
        assert previous.sr is not None, "fed back with feedback 'detail'"
        assert previous.seen is not None, "fed back with feedback 'detail'"
        flow = SCALE * F.interpolate(
            previous.hop, scale_factor=SCALE, mode="bilinear", align_corners=False
        )
        # What bilinear weights blur here would be blurred again with every frame.
        sr = warp(previous.sr, flow, "border", "bicubic")
        agrees = (inside(flow) & previous.same) * agreement(sr, bicubic)
        return torch.where(agrees > 0, sr, bicubic), agrees * warp(previous.seen, flow, "border")
