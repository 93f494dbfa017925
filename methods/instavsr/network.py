"""InstaVSR: recurrent video super-resolution around a pruned one-step diffusion backbone.

The backbone is a Stable Diffusion 2.1 UNet without time embedding, text and cross-attention,
followed by a VAE decoder; channels are pruned (Chen et al., AdcSR, CVPR 2025, arXiv:2411.13383).
The video part follows InstaVSR (Hu et al., arXiv:2603.26134): a five-frame window aligned by
optical flow, in which super-resolved frames replace their low-quality originals. What the paper's
abstract and figures leave open (feedback at full detail, scene cuts) is chosen here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsrbench.core.errors import DataError

from ..spynet import SpyNet, places, same_scene, sample, warp
from .picture import SCALE, SteadyColour, match_colour, tiled, unshuffled, upscaled
from .unet import Decoder, UNet, silu

OVERLAP = 64  # LQ px that neighbouring tiles share
MOST = 16.0  # frames that a pixel averages at most, so that what warping overshoots dies away
AGREES, DIFFERS = 0.05, 0.12  # from LQ: up to here the past is believed, from here on it is not
CLOSED = -4.0  # logit of a gate that lets 2 % through, and can still be learnt
OPEN = 1.5  # of one that lets 82 % through: learning starts from the memory, not from forgetting


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
        extra: Sequence[Tensor] = (),
        match: Callable[[Tensor, Tensor], Tensor] = match_colour,
        bicubic: Tensor | None = None,
    ) -> Tensor:
        """Super-resolve `lq` (b, 3, h, w) in 0..1 to (b, 3, 4h, 4w) around 0..1, not clamped.

        extra: images (b, c, kh, kw) in levels of -1..1 for any whole k, that make up
        extra_channels at h/u x w/u, u = unshuffle.
        match: gives the result the colours of the image, unless `residual`. bicubic: `upscaled` of
        the image, where it is known already.
        With `gate` there is a fourth channel, of logits.
        """
        return self._matched(self.drawn_from(2 * lq - 1, *extra), lq, match, bicubic)

    def drawn_from(self, *images: Tensor) -> Tensor:
        """`drawn` of images in levels of -1..1, the first of LQ size."""
        width = int(images[0].shape[3]) // self.unshuffle
        return self.drawn(torch.cat([unshuffled(x, int(x.shape[3]) // width) for x in images], 1))

    def drawn(self, features: Tensor) -> Tensor:
        """UNet and decoder, which have no state: they may be run again for the same numbers."""
        return self._tiled(self.decoder, self._tiled(self.unet, features)).contiguous()

    def decoded(
        self,
        latents: Tensor,
        lq: Tensor,
        match: Callable[[Tensor, Tensor], Tensor] = match_colour,
    ) -> Tensor:
        """What `forward` makes of the latents (b, c, h/u, w/u) of an image."""
        return self._matched(self._tiled(self.decoder, latents), lq, match)

    def _matched(
        self,
        drawn: Tensor,
        lq: Tensor,
        match: Callable[[Tensor, Tensor], Tensor],
        bicubic: Tensor | None = None,
    ) -> Tensor:
        if self.residual:
            bicubic = upscaled(lq) if bicubic is None else bicubic
            drawn = drawn.to(bicubic.dtype)  # under autocast it has fewer bits
            drawn[:, :3].mul_(0.5).add_(bicubic)
            return drawn
        y, gate = drawn.tensor_split([3], 1)
        y = match(y, 2 * lq - 1) / 2 + 0.5
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


def inside(at: Tensor) -> Tensor:
    """Which of the `places` (b, h, w, 2) lie within the frame: bool (b, 1, h, w)."""
    x, y = at.abs().unbind(3)
    return (torch.maximum(x, y) <= 1)[:, None]


def agreement(difference: Tensor) -> Tensor:
    """How far two aligned frames show the same, 0..1 (b, 1, 4h, 4w), by their difference
    (b, 3, 4h, 4w).

    Its size at LQ resolution, averaged over channels and 3x3 px so that noise counts less than what
    is out of place: motion that the flow missed leaves no ghosts.
    """
    apart = F.avg_pool2d(difference, SCALE).abs().mean(1, keepdim=True)
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
        return torch.add(steady, self.detail(steady, seen), alpha=0.5)

    def detail(self, steady: Tensor, seen: Tensor) -> Tensor:
        """What is added, in levels of -1..1; it has no state."""
        x = unshuffled(torch.cat((2 * steady - 1, seen / MOST), 1), 2)
        x = self.conv_mid(silu(self.conv_in(x)))
        return F.pixel_shuffle(self.conv_out(silu(x)), 2).contiguous()


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
            return self.backbone(centre, (), match), None
        aligned = torch.cat((*self._align(centre, past), *self._align(centre, future)), 1)
        neighbours = 2 * aligned - 1
        if self.feedback != "detail":
            return self.backbone(centre, (neighbours,), match), None
        bicubic = upscaled(centre)
        kept, known, seen = self._align_sr(bicubic, past)
        drawn = self.backbone(centre, (neighbours, known), match, bicubic)
        sr, gate = drawn.tensor_split([3], 1)
        trusted = gate.sigmoid() * seen
        lerp = torch.lerp if torch.is_grad_enabled() else Tensor.lerp_
        return lerp(sr, kept, trusted / (1 + trusted)), (1 + trusted).clamp(max=MOST)

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
    def _align_sr(bicubic: Tensor, past: Sequence[Neighbour]) -> tuple[Tensor, Tensor, Tensor]:
        """The previous SR aligned to the centre, its difference to the centre's bicubic image in
        levels of -1..1, both (b, 3, 4h, 4w), and how many frames it averages, (b, 1, 4h, 4w).

        Where there is none, or it shows something else, difference and number are 0; between the
        two the number is less.
        """
        if not past:
            return bicubic, torch.zeros_like(bicubic), torch.zeros_like(bicubic[:, :1])
        previous = past[0]
        assert previous.sr is not None, "fed back with feedback 'detail'"
        assert previous.seen is not None, "fed back with feedback 'detail'"
        flow = F.interpolate(
            SCALE * previous.hop, scale_factor=SCALE, mode="bilinear", align_corners=False
        )
        # What bilinear weights blur here would be blurred again with every frame.
        at = places(flow)
        sr = sample(previous.sr, at, "border", "bicubic")
        difference = sr - bicubic
        agrees = (inside(at) & previous.same) * agreement(difference)
        seen = sample(previous.seen, at, "border", "bilinear")
        mul = torch.mul if torch.is_grad_enabled() else Tensor.mul_  # new memory is slow
        return sr, mul(difference, (agrees > 0).to(sr.dtype).mul_(2)), agrees * seen
