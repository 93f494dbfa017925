"""A method tried on a tiny clip: what it returns, and whether it returns the same again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vsrbench.core.errors import ContractError, UserError
from vsrbench.core.progress import counted
from vsrbench.core.types import Clip, Method, MethodCard, Sample
from vsrbench.metrics.fidelity import best_shift, psnr
from vsrbench.run import cost
from vsrbench.run.delay import Delay
from vsrbench.run.method import load_method, set_scale, upscale

if TYPE_CHECKING:
    import torch

    from vsrbench.core.types import Frame

COUNT = 5  # frames
SIDE = 36  # px of LQ, more where a card needs more; no multiple of 8, so that padding is tried
ROUNDING = 1  # levels of 255 by which a GPU may differ from itself
FAR = 24.0
"""Mean difference of outputs from LQ, in levels of 255, above which it is another picture: networks
for drawings flatten this texture by 16, and with exchanged colours or upside down it is 39 off."""
LIKE_DB = 22.0  # PSNR against the enlarged input above which it is the same picture, shifted or not
CLEAR_DB = 3.0  # what a shift must gain to be believed

Tried = tuple[str, UserError | None]


def trial_apart(card: MethodCard, device: str) -> list[Tried]:
    """`trial` in a process of its own, which a method may end without harm."""
    try:
        return cost.run_apart(card, "while it was tried", _all, card, device)
    except UserError as error:
        return [("load and run", error)]


def _all(card: MethodCard, device: str) -> list[Tried]:
    return list(trial(card, device))


def trial(card: MethodCard, device: str) -> Iterator[Tried]:
    """What was tried and what is wrong with it (None: nothing), as far as it goes.

    An adapter runs five times: clip A, clip B, A again, A on a method loaded afresh, and A without
    its last frame. Random numbers of torch are seeded for each clip, so that the same clip must
    give the same frames. A program of others, which may take its time, runs once.
    """
    card = set_scale(card, card.scale or 4)
    try:
        method = load_method(card, device)
    except UserError as error:
        yield "load", error
        return
    yield "load", None
    one, other = tiny_clip(card, 0), tiny_clip(card, 1)
    ours = card.kind != "command"
    try:
        eager = _Eager(method)
        first = list(upscale(eager, card, one, device, ahead=False))
        if not ours:
            yield "number, type, size and range of frames", None
            yield "the picture that went in, larger", _picture(card, first, one)
            return
        list(upscale(method, card, other, device))
        again = list(upscale(method, card, one, device))
        afresh = list(upscale(load_method(card, device), card, one, device))
        # What is drawn at random follows from the names of the clip, so those stay.
        shorter = replace(one, count=one.count - 1, lq=one.lq[:-1])
        early = list(upscale(method, card, shorter, device))
    except UserError as error:
        yield "number, type, size and range of frames", error
        return
    yield "number, type, size and range of frames", None
    allowed = 0 if device == "cpu" else ROUNDING
    random, leaked = largest_difference(first, afresh), largest_difference(first, again)
    yield (
        "the same frames when it is loaded afresh",
        _explain_difference(
            random,
            allowed,
            f"'{card.name}' gives other frames of the same clip when it is loaded afresh",
            "draw random numbers from torch alone, which is seeded for each clip; load all weights",
        ),
    )
    yield (
        "the same frames of the same clip after another clip",
        _explain_difference(
            leaked if random <= allowed else 0,
            allowed,
            f"'{card.name}' gives other frames of a clip after another clip",
            "begin each call of `upscale` with fresh state: nothing of a clip may stay",
        ),
    )
    if card.lookahead >= 0 and max(random, leaked) <= allowed:
        found = _looks_ahead(card, first, early, allowed) or eager.judge(card)
        yield "no later frames than its card says", found
    if card.weights.origin != "random":
        yield "the picture that went in, larger", _picture(card, first, one)


class _Eager:
    """A method, and how many frames it took before it gave one."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.ahead = self.frame = 0
        """The most frames after its own that one waited for, and which that was."""

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What the method makes."""
        taken = 0

        def counted() -> Iterator[torch.Tensor]:
            nonlocal taken
            for frame in frames:
                taken += 1
                yield frame

        outputs = self.method.upscale(counted())
        return self._watch(outputs, lambda: taken) if outputs is not None else outputs

    def _watch(
        self, outputs: Iterator[torch.Tensor], taken: Callable[[], int]
    ) -> Iterator[torch.Tensor]:
        for index, output in enumerate(outputs):
            if taken() - index - 1 > self.ahead:
                self.ahead, self.frame = taken() - index - 1, index
            yield output

    def judge(self, card: MethodCard) -> UserError | None:
        """It may wait for as many frames as its card says."""
        if self.ahead <= card.lookahead:
            return None
        return ContractError(
            f"'{card.name}' gives frame {self.frame} only when it has read frame "
            f"{self.frame + self.ahead}",
            f"give it earlier, or write lookahead = {self.ahead} into its card, or -1 if it reads "
            "everything first",
        )


def _looks_ahead(
    card: MethodCard, whole: list[Frame], early: list[Frame], allowed: int
) -> UserError | None:
    """What was answered before the last frame came must not depend on it."""
    pairs = enumerate(zip(whole, early, strict=False))
    differing = [i for i, (a, b) in pairs if largest_difference([a], [b]) > allowed]
    needs = len(whole) - 1 - differing[0] if differing else 0
    if needs <= card.lookahead:
        return None
    return ContractError(
        f"frame {differing[0]} of '{card.name}' depends on frame {len(whole) - 1}",
        f"write lookahead = {needs} into its card, or -1 if it reads everything first",
    )


def _picture(card: MethodCard, out: list[Frame], clip: Clip) -> UserError | None:
    """The picture that went in comes out, larger: in time, not shifted, not in other colours."""
    (h, w), middle = clip.size, clip.count // 2
    sr, lq = out[middle], clip.lq[middle]
    size = sr.shape[1], sr.shape[0]
    targets = [cv2.resize(x, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8) for x in clip.lq]
    delay = Delay()
    for index, (made, wanted) in enumerate(zip(out, targets, strict=True)):
        delay.update(Sample(index, made, None, None, wanted, None))
    dy, dx, as_is, fit = best_shift(sr, targets[middle])
    late = int(delay.result().get("delay", 0))
    # The texture moves: one that is late looks shifted, and one that is shifted a little late.
    if late and psnr(sr, targets[middle - late]) > fit:
        when = "too late" if late > 0 else "too early"
        return ContractError(
            f"frames of '{card.name}' come {counted(abs(late), 'frame')} {when}",
            "frame t of the output is to be frame t of the input, larger",
        )
    if max(abs(dy), abs(dx)) >= 1 and fit > max(LIKE_DB, as_is + CLEAR_DB):
        return ContractError(
            f"frames of '{card.name}' lie {dy:+g} px lower and {dx:+g} px further right than they "
            "should",
            "is the picture cropped, or resized with corners aligned?",
        )
    small = cv2.resize(sr, (w, h), interpolation=cv2.INTER_AREA).astype(np.float64)
    far = float(np.abs(small - lq).mean())
    if far <= FAR:
        return None
    why = "it is another picture: are values 0 to 1, RGB?"
    if float(np.abs(small[..., ::-1] - lq).mean()) < FAR:
        why = "red and blue are swapped"
    elif float(np.abs(small - lq[::-1]).mean()) < FAR:
        why = "it is upside down"
    return ContractError(f"frames of '{card.name}' are {far:.0f} levels of 255 off on average", why)


def _explain_difference(levels: int, allowed: int, what: str, hint: str) -> UserError | None:
    return ContractError(f"{what} (by up to {levels} of 255)", hint) if levels > allowed else None


def largest_difference(first: list[Frame], second: list[Frame]) -> int:
    """The largest difference of two clips in any sample, in levels of 255."""
    pairs = zip(first, second, strict=True)
    return max(int(np.abs(a.astype(np.int16) - b).max()) for a, b in pairs)


def tiny_clip(card: MethodCard, seed: int) -> Clip:
    """Texture that moves a pixel a frame, from dark to bright, in a size that the card accepts."""
    side = max(SIDE, card.min_size, card.multiple_of // 2 + 1)
    height, width = side, side + 8
    y, x = np.mgrid[:height, :width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    ramp = np.linspace(-1, 1, width)[None, :, None]
    lq, count = [], max(COUNT, card.lookahead + 3)
    for t in range(count):
        waves = [
            np.sin((x + t) * 0.35 + p) + np.sin((y - t) * 0.2 * (c + 1))
            for c, p in enumerate(phase)
        ]
        frame = 128 + 45 * np.stack(waves, -1) + 60 * ramp
        lq.append(np.clip(frame, 0, 255).astype(np.uint8))
    name = f"trial-{seed}"
    return Clip("trial", name, count, (height, width), card.scale, 24.0, name, lq)
