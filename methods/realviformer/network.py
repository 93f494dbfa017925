"""RealViformer: recurrent x4 video SR with channel attention.

Zhang and Yao, "RealViformer: Investigating Attention for Real-World Video Super-Resolution",
ECCV 2024. At the default arguments state-dict names, shapes and arithmetic are the published ones,
so that the authors' checkpoint loads unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vsrbench.core.errors import DataError

from ..spynet import SpyNet, warp


def conv(c_in: int, c_out: int, kernel: int, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=bias)


def channel_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention between channels, each channel being one vector over all pixels.

    q, k, v: (b, c, h, w); temperature: (heads, 1, 1). Returns the result (b, heads, c/heads, h*w)
    and the logits (b, heads, c/heads, c/heads).
    """
    q, k, v = (x.unflatten(1, (len(temperature), -1)).flatten(3) for x in (q, k, v))
    # A larger eps than the default: 1e-12 is 0 in float16, and frame 0 brings an all-zero state.
    q, k = F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6)
    logits = q @ k.transpose(-2, -1) * temperature
    return logits.softmax(dim=-1) @ v, logits


class LayerNorm(nn.Module):
    """Divides each pixel by the standard deviation over its channels; the mean stays in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.ParameterDict({"weight": nn.Parameter(torch.ones(dim))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) to the same shape."""
        # In float32, because the squares of float16 features overflow; spelt out, because
        # torch.var over a strided dimension is several times slower on a CPU.
        centred = x.float() - x.float().mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt()
        return x * scale.to(x.dtype) * self.body["weight"].view(-1, 1, 1)


class Attention(nn.Module):
    """Channel self-attention; when masked, each output channel is gated by its row of logits."""

    def __init__(self, dim: int, heads: int, masked: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(dim, 3 * dim, 1)
        self.qkv_dwconv = conv(3 * dim, 3 * dim, 3, groups=3 * dim)
        self.project_out = conv(dim, dim, 1)
        self.masked = masked
        if masked:
            self.linear1 = nn.Linear(2, 1, bias=False)
            self.linear2 = nn.Linear(dim // heads, dim // heads, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) to the same shape."""
        q, k, v = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        out, logits = channel_attention(q, k, v, self.temperature)
        if self.masked:
            row = torch.stack((logits.amax(-1), logits.mean(-1)), dim=-1)
            gate = self.linear2(F.gelu(self.linear1(row)).transpose(-2, -1)).transpose(-2, -1)
            out = out * gate.sigmoid()
        return self.project_out(out.reshape(x.shape))


class FeedForward(nn.Module):
    """Gated feed-forward: two depthwise-filtered halves, one gates the other."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = conv(dim, 2 * hidden, 1)
        self.dwconv = conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        self.project_out = conv(hidden, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) to the same shape."""
        a, b = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(a) * b)


class TransformerBlock(nn.Module):
    """Channel attention and feed-forward, both residual.

    squeeze: the attention runs on dim / squeeze channels, masked; 1: on all channels, unmasked.
    """

    def __init__(self, dim: int, heads: int, expansion: float, squeeze: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim // squeeze)
        self.attn = Attention(dim // squeeze, heads, masked=squeeze > 1)
        self.norm2 = LayerNorm(dim)
        self.ffn = FeedForward(dim, expansion)
        self.squeeze = squeeze
        if squeeze > 1:
            self.compress = conv(dim, dim // squeeze, 3)
            self.expand = conv(dim // squeeze, dim, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) to the same shape."""
        if self.squeeze > 1:
            x = x + self.expand(self.attn(self.norm1(self.compress(x))))
        else:
            x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class MergeAttention(nn.Module):
    """Channel cross-attention: queries from the frame, keys and values from the state."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kv = conv(dim, 2 * dim, 1)
        self.kv_dwconv = conv(2 * dim, 2 * dim, 3, groups=2 * dim)
        self.q = conv(dim, dim, 3)
        self.project_out = conv(dim, dim, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Frame features x and state y, both (b, c, h, w), to the same shape."""
        k, v = self.kv_dwconv(self.kv(y)).chunk(2, dim=1)
        out, _ = channel_attention(self.q(x), k, v, self.temperature)
        return self.project_out(out.reshape(x.shape))


class Merge(nn.Module):
    """Joins the features of a frame with the warped state."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_q = LayerNorm(dim)
        self.norm_kv = LayerNorm(dim)
        self.attn = MergeAttention(dim, heads)
        self.norm_out = LayerNorm(dim)
        self.ffn = nn.Sequential(
            conv(2 * dim, dim, 1), conv(dim, dim, 3, groups=dim), nn.GELU(), conv(dim, dim, 1)
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Frame features x and state y, both (b, c, h, w), to the same shape."""
        x = self.norm_q(x)
        return self.ffn(torch.cat((x, self.norm_out(self.attn(x, self.norm_kv(y)))), dim=1))


class Resample(nn.Module):
    """A convolution, then `shuffle` (PixelShuffle or PixelUnshuffle)."""

    def __init__(self, c_in: int, c_out: int, shuffle: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(c_in, c_out, 3), shuffle)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) to twice or half the size."""
        return self.body(x)


class RealViformer(nn.Module):
    """Recurrent x4 SR, forward in time; the defaults are the published network (5.82 M parameters).

    num_feat: channels at LQ size, doubled at each of two coarser levels. num_blocks: transformer
    blocks at level 1, at level 2 (encoder and decoder alike), at level 3, and in the refinement.
    heads: attention heads at the three levels. ffn_expansion: hidden over outer channels of the
    feed-forward. merge_head: heads of the cross-attention with the state. squeeze: factor by
    which channels are reduced for attention. hr_feat: channels at SR size. flow_widths: hidden
    channels of SpyNet.

    num_feat must be even and divisible by merge_head; 1, 2 and 4 times num_feat by squeeze times
    the heads of that level.
    """

    def __init__(
        self,
        num_feat: int = 48,
        num_blocks: Sequence[int] = (2, 3, 4, 1),
        heads: Sequence[int] = (1, 2, 4),
        ffn_expansion: float = 2.66,
        merge_head: int = 2,
        squeeze: int = 4,
        hr_feat: int = 64,
        flow_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__()
        c1, c2, c3 = num_feat, 2 * num_feat, 4 * num_feat

        def blocks(dim: int, head: int, count: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(dim, head, ffn_expansion, squeeze) for _ in range(count))
            )

        self.shallow_extraction = nn.Sequential(
            conv(3, c1, 3, bias=True), TransformerBlock(c1, heads[0], ffn_expansion, squeeze=1)
        )
        self.spynet = SpyNet(flow_widths)
        self.attn_merge = Merge(c1, merge_head)
        self.encoder_level1 = blocks(c1, heads[0], num_blocks[0])
        self.down1_2 = Resample(c1, c1 // 2, nn.PixelUnshuffle(2))
        self.encoder_level2 = blocks(c2, heads[1], num_blocks[1])
        self.down2_3 = Resample(c2, c2 // 2, nn.PixelUnshuffle(2))
        self.latent = blocks(c3, heads[2], num_blocks[2])
        self.up3_2 = Resample(c3, 2 * c3, nn.PixelShuffle(2))
        self.reduce_chan_level2 = conv(2 * c2, c2, 1)
        self.decoder_level2 = blocks(c2, heads[1], num_blocks[1])
        self.up2_1 = Resample(c2, 2 * c2, nn.PixelShuffle(2))
        self.decoder_level1 = blocks(c2, heads[0], num_blocks[0])
        self.refinement = blocks(c2, heads[0], num_blocks[3])
        self.compress = conv(c2, c1, 1, bias=True)
        self.upconv1 = conv(c2, 4 * c1, 3, bias=True)
        self.upconv2 = conv(c1, 4 * hr_feat, 3, bias=True)
        self.conv_hr = conv(hr_feat, hr_feat, 3, bias=True)
        self.conv_last = conv(hr_feat, 3, 3, bias=True)

    def forward(self, lqs: torch.Tensor) -> torch.Tensor:
        """A clip (b, n, 3, h, w), RGB in 0..1, to (b, n, 3, 4h, 4w), not clamped."""
        previous = state = None
        outputs = []
        for frame in lqs.unbind(1):
            sr, state = self.step(frame, previous, state)
            outputs.append(sr)
            previous = frame
        return torch.stack(outputs, dim=1)

    def step(
        self, frame: torch.Tensor, previous: torch.Tensor | None, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One frame of a clip.

        frame, previous: (b, 3, h, w), RGB in 0..1, h and w multiples of 4, in the dtype of the
        weights or float32; state: (b, num_feat, h, w) from the previous step. Both are None at the
        start of a clip. Returns the SR frame (b, 3, 4h, 4w), not clamped, and the next state.
        Raises DataError when h or w is not a multiple of 4.
        """
        if frame.shape[-2] % 4 or frame.shape[-1] % 4:
            raise DataError(
                f"RealViformer cannot take a frame of {frame.shape[-1]}x{frame.shape[-2]} px",
                "pad both sides to a multiple of 4",
            )
        x = self.shallow_extraction(frame.to(self.conv_last.weight.dtype))
        if state is None or previous is None:
            state = torch.zeros_like(x)
        else:
            state = warp(state, self.spynet(frame, previous))

        e1 = self.encoder_level1(self.attn_merge(x, state))
        e2 = self.encoder_level2(self.down1_2(e1))
        x = self.up3_2(self.latent(self.down2_3(e2)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat((x, e2), dim=1)))
        x = self.decoder_level1(torch.cat((self.up2_1(x), e1), dim=1))
        x = self.refinement(x)
        state = self.compress(x)

        x = F.leaky_relu(F.pixel_shuffle(self.upconv1(x), 2), 0.1)
        x = F.leaky_relu(F.pixel_shuffle(self.upconv2(x), 2), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))
        # Added in the dtype of the frame: half precision would quantise the picture itself.
        base = F.interpolate(frame, scale_factor=4, mode="bilinear", align_corners=False)
        return x.to(frame.dtype) + base, state
