"""RAFT for clips: torchvision's modules and anybody's checkpoint, in less than half of the time.

What comes out is what torchvision's own forward gives, up to rounding. The time goes where nothing
is gained there: here a frame is encoded once for both directions and both of its pairs; features
are pooled in place of correlations, which is the same as both are linear; the context, which does
not change, passes the GRU once and not in every update; only the last flow is upsampled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from vsrbench.cards.weights import load_strictly, read_checkpoint
from vsrbench.flow import winograd

if TYPE_CHECKING:
    from vsrbench.core.types import FlowField

KEPT = 2048 * 1152 // 64
"""Pixels at an eighth up to which all correlations of two frames are kept: 7 GiB at the limit."""
BAND = 2**27
"""Correlations that are there at a time above it: 0.5 GiB."""

_NAMES = {
    r"^module\.": "",
    r"^fnet\.": "feature_encoder.",
    r"^cnet\.": "context_encoder.",
    r"_encoder\.conv1\.": "_encoder.convnormrelu.0.",
    r"_encoder\.norm1\.": "_encoder.convnormrelu.1.",
    r"_encoder\.conv2\.": "_encoder.conv.",
    r"(layer\d\.\d)\.conv(\d)\.": r"\1.convnormrelu\2.0.",
    r"(layer\d\.\d)\.norm([12])\.": r"\1.convnormrelu\2.1.",
    r"_block\.encoder\.convc": "_block.motion_encoder.convcorr",
    r"_block\.encoder\.convf": "_block.motion_encoder.convflow",
    r"_block\.encoder\.conv\.": "_block.motion_encoder.conv.",
    r"(motion_encoder\.conv\w*)\.(?=weight|bias)": r"\1.0.",
    r"\.gru\.(conv[zrq])1?\.": r".recurrent_block.convgru1.\1.",
    r"\.gru\.(conv[zrq])2\.": r".recurrent_block.convgru2.\1.",
    r"^update_block\.mask\.0\.": "mask_predictor.convrelu.0.",
    r"^update_block\.mask\.2\.": "mask_predictor.conv.",
}


def _torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A RAFT state dict with the authors' names under torchvision's; one of its own stays as it is.

    The authors list the normalisation of a shortcut twice: as norm3 and inside `downsample`.
    """
    out: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if not re.search(r"layer\d\.\d\.norm3\.", name):
            for theirs, ours in _NAMES.items():
                name = re.sub(theirs, ours, name)
            out[name] = value
    return out


@dataclass(frozen=True)
class _Encoded:
    """What is kept of a frame, all at an eighth of its size."""

    features: torch.Tensor
    """To be correlated."""
    hidden: torch.Tensor
    """First hidden state of the GRUs."""
    context: list[torch.Tensor]
    """What the context adds to the gates of each GRU, biases included."""


class _Gru:
    """A convolutional GRU whose share of the context is computed beforehand.

    Its inputs are the hidden state, the context and the motion, in this order of channels.
    """

    def __init__(self, gru: torch.nn.Module, context: int) -> None:
        convs: list[Any] = [gru.convz, gru.convr, gru.convq]
        self._padding, hidden = convs[0].padding, convs[0].out_channels
        weight, self._bias = (torch.cat([getattr(c, x) for c in convs]) for x in ("weight", "bias"))
        own, self._context, motion = weight.tensor_split((hidden, hidden + context), 1)
        moving = torch.cat((own, motion), 1).contiguous(memory_format=torch.channels_last)
        self._update_reset, self._candidate = map(
            self._convolution, moving.tensor_split((2 * hidden,))
        )

    def _convolution(self, weight: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Of the channels of all its arguments."""
        if winograd.is_meant(weight):
            return winograd.Convolution(weight)
        return lambda *inputs: F.conv2d(torch.cat(inputs, 1), weight, padding=self._padding)

    def prepare(self, context: torch.Tensor) -> torch.Tensor:
        """The share of the context in all three gates."""
        return F.conv2d(context, self._context, self._bias, padding=self._padding)

    def step(self, h: torch.Tensor, motion: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The next hidden state."""
        fixed = context.tensor_split((2 * h.shape[1],), 1)
        gates = self._update_reset(h, motion).add_(fixed[0]).sigmoid_()
        update, reset = gates.chunk(2, 1)
        candidate = self._candidate(reset.mul_(h), motion).add_(fixed[1]).tanh_()
        return torch.lerp(h, candidate, update)


class RaftNetwork:
    """A RAFT network with its weights.

    kind: raft_small or raft_large. path: a checkpoint of the authors or of torchvision. Raises
    DataError if the file does not hold that network.
    """

    def __init__(self, kind: str, path: Path, device: str) -> None:
        from torchvision.models import optical_flow

        self._device = device
        with torch.device("meta"):
            net = getattr(optical_flow, kind)(weights=None)
        net.to_empty(device="cpu")
        state, _ = read_checkpoint(path)
        load_strictly(net, _torchvision_names(state), f"{kind} from {path.name}")
        net.eval().requires_grad_(False).to(device)
        net.context_encoder.to(memory_format=torch.channels_last)
        net.update_block.to(memory_format=torch.channels_last)  # instance norm prefers the other
        block = net.update_block.recurrent_block
        winograd.quicken(net.update_block.motion_encoder)
        winograd.quicken(net.update_block.flow_head)
        width = net.context_encoder.conv.out_channels - block.hidden_size
        grus = (block.convgru1, block.convgru2)  # the second of the small network does nothing
        self._grus = [_Gru(gru, width) for gru in grus if isinstance(gru, torch.nn.Module)]
        self._net = net
        self._recent: list[tuple[torch.Tensor, _Encoded]] = []

    @torch.inference_mode()
    def between(
        self, a: torch.Tensor, b: torch.Tensor, updates: int
    ) -> tuple[FlowField, FlowField]:
        """(F_{a->b}, F_{b->a}) of two 3 x H x W tensors in -1..1.

        Sides are multiples of 8 and at least 128.
        """
        one, two = self._encode(a), self._encode(b)
        if one.features[0, 0].numel() > KEPT:
            return self._flow(one, two, None, updates), self._flow(two, one, None, updates)
        volume = _correlate(one.features, two.features)
        return (
            self._flow(one, two, volume, updates),
            self._flow(two, one, volume.T, updates),
        )

    def _encode(self, frame: torch.Tensor) -> _Encoded:
        """Those of the last two frames are kept, as the next pair begins with one of them."""
        for seen, encoded in self._recent:
            if torch.equal(seen, frame):
                return encoded
        x = frame[None].to(self._device)
        features = self._net.feature_encoder(x).contiguous(memory_format=torch.channels_last)
        both = self._net.context_encoder(x.contiguous(memory_format=torch.channels_last))
        hidden, context = both.tensor_split((self._net.update_block.hidden_state_size,), 1)
        context = context.relu()
        encoded = _Encoded(
            features=features,
            hidden=hidden.tanh(),
            context=[gru.prepare(context) for gru in self._grus],
        )
        self._recent = [*self._recent[-1:], (frame, encoded)]
        return encoded

    def _flow(
        self, a: _Encoded, b: _Encoded, volume: torch.Tensor | None, updates: int
    ) -> FlowField:
        from torchvision.models.optical_flow.raft import upsample_flow

        h, w = a.features.shape[2:]
        grid = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")
        start = torch.stack(grid, -1).view(-1, 2).to(a.features)
        correlations = self._correlations(a.features, b.features, volume)
        block, predictor = self._net.update_block, self._net.mask_predictor
        target, hidden = start, a.hidden
        for _ in range(updates):
            found = _as_image(correlations(target), h, w)
            motion = block.motion_encoder(_as_image(target - start, h, w), found)
            for gru, context in zip(self._grus, a.context, strict=True):
                hidden = gru.step(hidden, motion, context)
            target = target + block.flow_head(hidden).permute(0, 2, 3, 1).reshape(-1, 2)
        flow = _as_image(target - start, h, w).contiguous()
        flow = upsample_flow(flow, None if predictor is None else predictor(hidden))
        out: FlowField = flow[0].permute(1, 2, 0).contiguous().cpu().numpy()
        return out

    def _correlations(
        self, a: torch.Tensor, b: torch.Tensor, volume: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives the correlations of each pixel of `a` with those around a place in `b`.

        volume: `_correlate` of both; without it correlations are computed each time, for some rows
        of `a` after the other. Places are pixels x 2, (x, y); what is found is pixels x (levels *
        (2 radius + 1)^2).
        """
        block, pooled, grids = self._net.corr_block, [b], []
        for _ in range(block.num_levels - 1):
            pooled.append(F.avg_pool2d(pooled[-1], 2))
        reach = torch.arange(-block.radius, block.radius + 1).to(a)
        around = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1)
        for level, x in enumerate(pooled):
            h, w = x.shape[2:]
            pixel = 2 / torch.tensor((w - 1, h - 1)).to(a)  # a grid counts from -1 to 1
            grids.append((h, w, pixel / 2**level, around * pixel - 1))

        def look_up(volumes: Iterable[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
            found = []
            for volume, (h, w, scale, offsets) in zip(volumes, grids, strict=True):
                grid = (places * scale)[:, None, None] + offsets
                # As F.grid_sample does on CPUs: bilinear, zeros outside, corners aligned. On GPUs
                # that would call cuDNN, which refuses 65,536 pictures and more.
                sample = torch.ops.aten.grid_sampler_2d
                found.append(sample(volume.view(-1, 1, h, w), grid, 0, 0, True).flatten(1))
            return torch.cat(found, 1)

        if volume is not None:
            kept = [volume, *(_correlate(a, x) for x in pooled[1:])]
            return lambda places: look_up(kept, places)
        h, w = a.shape[2:]
        rows = max(1, BAND // (h * w * w))

        def at(places: torch.Tensor) -> torch.Tensor:
            found = []
            for top in range(0, h, rows):
                volumes = (_correlate(a[:, :, top : top + rows], x) for x in pooled)
                found.append(look_up(volumes, places[top * w : (top + rows) * w]))
            return torch.cat(found)

        return at


def _correlate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of each pixel of 1 x C x h x w with each of another: pixels x pixels.

    As a convolution by 1 x 1 this product is about three times as fast as a matrix product on CPUs
    where PyTorch's BLAS is not at its best.
    """
    kernels = b.flatten(2)[0].T[..., None, None] / a.shape[1] ** 0.5
    return F.conv2d(a, kernels).permute(0, 2, 3, 1).flatten(0, 2)


def _as_image(pixels: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Pixels x C as 1 x C x h x w, not copied."""
    return pixels.view(1, h, w, -1).permute(0, 3, 1, 2)
