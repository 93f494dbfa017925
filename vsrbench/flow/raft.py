"""RAFT for clips: torchvision's modules and anybody's checkpoint, in less than half of the time.

What comes out is what torchvision's own forward gives, up to rounding. The time goes where nothing
is gained there: here a frame is encoded once for both directions and both of its pairs; features
are pooled in place of correlations, which is the same as both are linear; correlations are looked
up by rows of neighbours, in memory that is held; the context, which does not change, passes the GRU
once and not in every update; only the last flow is upsampled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
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
HELD = 1280 * 768 // 64
"""Pixels at an eighth up to which the memory of all correlations is held from pair to pair: 1.2 GiB
at the limit. For the system to clear it each time takes about a tenth of the whole."""
AT_A_TIME = 2048
"""Pixels whose correlations a thread looks up at a time: what is read stays in the cache."""

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
        self._held: list[_Pyramid] = []

    @torch.inference_mode()
    def between(
        self, a: torch.Tensor, b: torch.Tensor, updates: int
    ) -> tuple[FlowField, FlowField]:
        """(F_{a->b}, F_{b->a}) of two 3 x H x W tensors in -1..1.

        Sides are multiples of 8 and at least 128.
        """
        one, two = self._encode(a), self._encode(b)
        h, w = one.features.shape[2:]
        if h * w > KEPT:
            self._held.clear()
            rows = max(1, BAND // (h * w * w))
            band = _Pyramid(self._net.corr_block, one.features, rows)
            return (
                self._flow(one, partial(band.look_up_anew, one.features, two.features), updates),
                self._flow(two, partial(band.look_up_anew, two.features, one.features), updates),
            )
        pyramid = self._take_pyramid(one.features)
        pyramid.fill(one.features, two.features)
        forward = self._flow(one, pyramid.look_up, updates)
        pyramid.turn(two.features, one.features)
        backward = self._flow(two, pyramid.look_up, updates)
        if h * w <= HELD:
            self._held[:] = [pyramid]
        return forward, backward

    def _take_pyramid(self, features: torch.Tensor) -> _Pyramid:
        """The one that is held if it is for such features: for this thread alone."""
        with suppress(IndexError):
            held = self._held.pop()
            if held.shape == features.shape:
                return held
            del held
        return _Pyramid(self._net.corr_block, features, features.shape[2])

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
        self, a: _Encoded, correlations: Callable[[torch.Tensor], torch.Tensor], updates: int
    ) -> FlowField:
        """Flow on the grid of `a`, given what looks correlations up: 2 x pixels -> channels."""
        from torchvision.models.optical_flow.raft import upsample_flow

        h, w = a.features.shape[2:]
        grid = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")
        start = torch.stack(grid).view(2, -1).to(a.features)
        block, predictor = self._net.update_block, self._net.mask_predictor
        target, hidden = start, a.hidden
        for _ in range(updates):
            found = _as_image(correlations(target), h, w)
            motion = block.motion_encoder(_as_image((target - start).T.contiguous(), h, w), found)
            for gru, context in zip(self._grus, a.context, strict=True):
                hidden = gru.step(hidden, motion, context)
            target = target + block.flow_head(hidden)[0].flatten(1)
        flow = (target - start).view(1, 2, h, w)
        flow = upsample_flow(flow, None if predictor is None else predictor(hidden))
        out: FlowField = flow[0].permute(1, 2, 0).contiguous().cpu().numpy()
        return out


class _Pyramid:
    """Correlations of the pixels of one map of features, or of some rows, with another one's.

    They are levels of one piece of memory, in each of which the other map has half the size of the
    one before. A level is pixels x pixels of the other map; once turned, the first is transposed.
    """

    def __init__(self, block: Any, features: torch.Tensor, rows: int) -> None:
        """block: that of torchvision. features: such a map. rows: of the first map at a time."""
        self.shape = features.shape
        h, w = features.shape[2:]
        self._rows, self._pixels, levels = rows, rows * w, range(block.num_levels)
        self._sizes = [(h >> level, w >> level) for level in levels]
        self._areas = torch.tensor([h * w for h, w in self._sizes])
        self._side = 2 * block.radius + 2
        # Reading a row of neighbours may leave the map, and all of it: such values get weight 0.
        spare = self._side * self._pixels
        self._starts = spare + self._pixels * (self._areas.cumsum(0) - self._areas)
        self._memory = features.new_empty(self._pixels * int(self._areas.sum()) + 2 * spare)
        self._memory[:spare], self._memory[-spare:] = 0, 0
        device = features.device
        self._scales = torch.tensor([[[0.5**level]] for level in levels], device=device)
        last = [[[[w - 1]], [[h - 1]]] for h, w in self._sizes]
        self._last = torch.tensor(last, device=device)
        self._reach = torch.arange(-block.radius, block.radius + 2, device=device)[:, None]
        self._turned: bool | None = None

    def fill(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Correlations of `a`, some rows at most, with `b`."""
        self._fill(a, b, 0)
        self._order(turned=False)

    def turn(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """Those of `b` with `a`, where there are those of `a` with `b`."""
        self._fill(b, F.avg_pool2d(a, 2), 1)
        self._order(turned=True)

    def _fill(self, a: torch.Tensor, b: torch.Tensor, first: int) -> None:
        """The levels from this one on, of which `b` has the size."""
        for level in range(first, len(self._sizes)):
            start, area = int(self._starts[level]), int(self._areas[level])
            count = a[0, 0].numel()
            _correlate(a, b, self._memory[start : start + count * area].view(count, area))
            if level + 1 < len(self._sizes):
                b = F.avg_pool2d(b, 2)

    def _order(self, turned: bool) -> None:
        """Note how far pixels, and neighbours in a row of the other map, lie apart in memory."""
        if turned == self._turned:
            return
        self._turned = turned
        pixel, neighbour = self._areas.clone(), torch.ones_like(self._areas)
        if turned:
            pixel[0], neighbour[0] = 1, self._pixels
        device, side = self._memory.device, self._side
        firsts = self._starts[:, None] + pixel[:, None] * torch.arange(self._pixels)
        self._firsts, self._step = firsts.to(device), neighbour[:, None].to(device)
        self._runs = [
            self._memory.as_strided((len(self._memory) - (side - 1) * step, side), (1, step))
            for step in neighbour.tolist()
        ]

    def look_up_anew(self, a: torch.Tensor, b: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """`look_up` in correlations of `a` with `b`, some rows of `a` after the other."""
        found = []
        for top in range(0, a.shape[2], self._rows):
            self.fill(a[:, :, top : top + self._rows], b)
            first = top * a.shape[3]
            found.append(self.look_up(places[:, first : first + self._pixels]))
        return torch.cat(found)

    def look_up(self, places: torch.Tensor) -> torch.Tensor:
        """Correlations of each pixel with those around a place: bilinear, zeros outside.

        Places are 2 x pixels, (x, y); what is found is pixels x (levels * (2 radius + 1)^2).
        """
        count = places.shape[1]
        out = places.new_empty(count, len(self._sizes) * (self._side - 1) ** 2)
        step = count  # GPUs have no use for small portions
        if places.device.type == "cpu":
            step = AT_A_TIME * torch.get_num_threads()
        for at in range(0, count, step):
            pixels = slice(at, min(at + step, count))
            out[pixels] = self._around(places[:, pixels], self._firsts[:, pixels]).T
        return out

    def _around(self, places: torch.Tensor, firsts: torch.Tensor) -> torch.Tensor:
        """`look_up` as channels x pixels; firsts: where the memory of each begins.

        All points around a place lie between pixels in the same way, so that rows of neighbours are
        read once, and weighted first across, then down. Pixels are the last axis, as it is long.
        """
        at = places * self._scales  # level, axis, pixel
        whole = at.floor()
        share = (at - whole)[:, :, None]
        near = whole.long()[:, :, None] + self._reach
        inside = near.clamp(min=0).minimum(self._last)
        seen = near == inside
        before, after = (1 - share) * seen[:, :, :-1], share * seen[:, :, 1:]
        width = self._last[:, 0, 0] + 1
        left = near[:, 0, 0].clamp(min=-self._side).minimum(width)
        runs = inside[:, 1].mul_((width * self._step)[:, :, None])
        runs.add_((left * self._step + firsts)[:, None])
        side, count = self._side, places.shape[1]
        found = places.new_empty(len(runs), side, side, count)  # level, x, y, pixel
        for own, memory, index in zip(found, self._runs, runs, strict=True):
            read = memory.index_select(0, index.view(-1)).view(side, count, side)
            own.copy_(read.permute(2, 0, 1))
        x = before[:, 0, :, None], after[:, 0, :, None]
        y = before[:, None, 1], after[:, None, 1]
        found = (found[:, :-1] * x[0]).addcmul_(found[:, 1:], x[1])
        found = (found[:, :, :-1] * y[0]).addcmul_(found[:, :, 1:], y[1])
        return found.view(-1, count)


def _correlate(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """Correlation of each pixel of 1 x C x h x w with each of another: pixels x pixels."""
    one, two = (x[0].permute(1, 2, 0).flatten(0, 1) for x in (a, b))
    torch.mm(one, two.T / a.shape[1] ** 0.5, out=out)


def _as_image(pixels: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Pixels x C as 1 x C x h x w, not copied."""
    return pixels.view(1, h, w, -1).permute(0, 3, 1, 2)
