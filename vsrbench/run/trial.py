"""A method tried on a tiny clip: what it returns, and whether it returns the same again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from vsrbench.core.errors import ContractError, UserError
from vsrbench.core.types import Clip, MethodCard
from vsrbench.run.method import at_scale, load_method, upscale

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

COUNT = 5  # frames
SIDE = 36  # px of LQ, more where a card needs more; no multiple of 8, so that padding is tried
ROUNDING = 1  # levels of 255 by which a GPU may differ from itself


def trial(card: MethodCard, device: str) -> Iterator[tuple[str, UserError | None]]:
    """What was tried and what is wrong with it (None: nothing), as far as it goes.

    It runs four times: clip A, clip B, A again, and A on a method loaded afresh. Random numbers of
    torch are seeded for each clip, so that the same clip must give the same frames.
    """
    card = at_scale(card, card.scale or 4)
    try:
        method = load_method(card, device)
    except UserError as error:
        yield "load", error
        return
    yield "load", None
    one, other = tiny_clip(card, 0), tiny_clip(card, 1)
    try:
        first = list(upscale(method, card, one, device))
        list(upscale(method, card, other, device))
        again = list(upscale(method, card, one, device))
        afresh = list(upscale(load_method(card, device), card, one, device))
    except UserError as error:
        yield "number, type, size and range of frames", error
        return
    yield "number, type, size and range of frames", None
    allowed = 0 if device == "cpu" else ROUNDING
    random = largest_difference(first, afresh)
    yield (
        "the same frames when it is loaded afresh",
        _differs(
            random,
            allowed,
            f"'{card.name}' gives other frames of the same clip when it is loaded afresh",
            "draw random numbers from torch alone, which is seeded for each clip; load all weights",
        ),
    )
    yield (
        "the same frames of the same clip after another clip",
        _differs(
            largest_difference(first, again) if random <= allowed else 0,
            allowed,
            f"'{card.name}' gives other frames of a clip after another clip",
            "begin each call of `upscale` with fresh state: nothing of a clip may stay",
        ),
    )


def _differs(levels: int, allowed: int, what: str, hint: str) -> UserError | None:
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
    lq = []
    for t in range(COUNT):
        waves = [
            np.sin((x + t) * 0.35 + p) + np.sin((y - t) * 0.2 * (c + 1))
            for c, p in enumerate(phase)
        ]
        frame = 128 + 45 * np.stack(waves, -1) + 60 * ramp
        lq.append(np.clip(frame, 0, 255).astype(np.uint8))
    name = f"trial-{seed}"
    return Clip("trial", name, COUNT, (height, width), card.scale, 24.0, name, lq)
