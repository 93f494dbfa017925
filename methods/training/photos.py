"""Training batches from photographs, made where they are used: no clips on disk.

The device that trains moves the photographs and degrades them; codecs run in processes beside it,
a few batches ahead. Every batch follows from its seed and its number.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vsrbench.core.errors import DataError, MissingError
from vsrbench.core.processes import Process
from vsrbench.data import synthetic

from .batch import SCALE, Batch, Draw
from .degradation import KINDS, Coding, coded, degrade_batch, draw_coding, draw_passes
from .scenes import LAYERS, TEXTURE, Rendered, draw_scenes, render

AHEAD = 3
"""Batches that wait for their codecs."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
KEPT_EVERY = 13
"""Of the photographs, by name, the first of so many is left to tests."""
RENDERED = 24
"""Pictures of text, gratings and the like that are drawn from beside the photographs."""
RENDERED_SHARE = 0.12
VALIDATION = (128, 0x76616C)
"""Side of held-out clips in GT px, and the first word of their seeds."""

Array = np.ndarray[Any, Any]


def photographs(folder: Path) -> list[Path]:
    """The pictures of a folder, by name. Raises MissingError where there is none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise MissingError(f"no photographs in {folder}", f"give a folder of {', '.join(SUFFIXES)}")
    return found


def list_test_photographs(folder: Path) -> list[Path]:
    """Those of a folder that no training sees."""
    return photographs(folder)[::KEPT_EVERY]


class _Made(NamedTuple):
    """A batch whose codecs may still be at work."""

    rendered: Rendered
    lq: Tensor
    coded: dict[int, Future[Array] | Array]
    """By window, (n, h, w, 3) uint8."""


class Photos:
    """Moving photographs of a folder; a `Source`.

    holdout: photographs for validation, the last ones. device: where batches are made. workers:
    processes for the codecs; 0 = none beside this one. Raises MissingError, and DataError where
    one cannot be read or has a side below `TEXTURE`.
    """

    def __init__(self, folder: Path, holdout: int, device: str = "cpu", workers: int = 0) -> None:
        paths = photographs(folder)
        kept = set(list_test_photographs(folder))
        paths = [p for p in paths if p not in kept]
        if len(paths) <= holdout:
            raise MissingError(f"{folder} holds too few photographs", "give more than `holdout`")
        self.paths, self.validation = paths[:-holdout], paths[-holdout:]
        self.device, self.workers = torch.device(device), workers
        self._loaded = functools.cache(self._load)
        self._rendered = functools.cache(_render)

    def describe(self) -> str:
        """What it holds, in words."""
        kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in KINDS.items())
        return (
            f"{len(self.paths)} moving photographs and {RENDERED_SHARE:.0%} rendered textures "
            f"(LQ {kinds})"
        )

    def batches(self, draw: Draw, first: int, pin: bool) -> Generator[Batch, None, None]:
        """The batches of a stage from number `first` on; those of a device need no pinning."""
        pools = [Process() for _ in range(self.workers)]
        try:
            waiting: deque[_Made] = deque()
            for number in count(first):
                rng = np.random.default_rng([*draw.seed, number])
                side = SCALE * int(rng.choice(draw.patch))
                waiting.append(self._make(rng, draw.batch, draw.frames, side, self.paths, pools))
                if len(waiting) > (AHEAD if pools else 0):
                    yield _finish(waiting.popleft())
        finally:
            for pool in pools:
                pool.end()

    def read_held_out(self, index: int, frames: int) -> Batch:
        """Clip `index` of the photographs for validation, as a batch of one."""
        side, word = VALIDATION
        rng = np.random.default_rng([word, index])
        return _finish(self._make(rng, 1, frames, side, self.validation, ()))

    def _make(
        self,
        rng: np.random.Generator,
        b: int,
        n: int,
        side: int,
        paths: list[Path],
        pools: Sequence[Process],
    ) -> _Made:
        scenes = draw_scenes(rng, b, n, side)
        looks = [self._look(rng, paths) for _ in range(b * LAYERS)]
        textures = torch.stack(looks).float().div(255).unflatten(0, (b, LAYERS))
        with torch.no_grad():
            rendered = render(scenes.to(self.device), textures, side)
            lq, codings = self._degraded(rng, rendered.gt)
        small = lq.mul(255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()

        def job(i: int, coding: Coding) -> Future[Array] | Array:
            if not pools:
                return coded(small[i], coding)
            return pools[i % len(pools)].submit(coded, small[i], coding)

        jobs = {i: job(i, coding) for i, coding in codings.items()}
        return _Made(rendered, lq, jobs)

    def _degraded(self, rng: np.random.Generator, gt: Tensor) -> tuple[Tensor, dict[int, Coding]]:
        """(LQ before its codecs, the codec of each window that has one)."""
        b, n, c, h, w = gt.shape
        generator = torch.Generator(gt.device).manual_seed(int(rng.integers(2**62)))
        lq = gt.new_empty(b, n, c, h // SCALE, w // SCALE)
        kinds = rng.choice(list(KINDS), b, p=list(KINDS.values()))
        codings: dict[int, Coding] = {}
        for kind in KINDS:
            of = np.flatnonzero(kinds == kind)
            if not len(of):
                continue
            passes, factor = draw_passes(rng, kind, len(of))
            index = torch.from_numpy(of).to(gt.device)
            lq[index] = degrade_batch(gt[index], passes, factor, generator)
            drawn = {int(i): draw_coding(rng, kind) for i in of}
            codings |= {i: coding for i, coding in drawn.items() if coding}
        return lq, codings

    def _look(self, rng: np.random.Generator, paths: list[Path]) -> Tensor:
        """A random part of a random picture, (3, TEXTURE, TEXTURE) uint8 on the device."""
        if rng.random() < RENDERED_SHARE:
            pictures = self._rendered(self.device)
            return pictures[int(rng.integers(len(pictures)))]
        picture = self._loaded(paths[int(rng.integers(len(paths)))])
        y, x = (int(rng.integers(side - TEXTURE + 1)) for side in picture.shape[1:])
        return picture[:, y : y + TEXTURE, x : x + TEXTURE]

    def _load(self, path: Path) -> Tensor:
        """A photograph, (3, h, w) uint8 on the device."""
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DataError(f"cannot read {path}", "is it a picture?")
        if min(picture.shape[:2]) < TEXTURE:
            h, w = picture.shape[:2]
            raise DataError(f"{path} is {w}x{h} px", f"sides of {TEXTURE} px at least are needed")
        rgb = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))
        return torch.from_numpy(rgb).to(self.device)


def _render(device: torch.device) -> list[Tensor]:
    """`RENDERED` pictures, (3, TEXTURE, TEXTURE) uint8: what photographs seldom show."""
    made = []
    for i in range(RENDERED):
        rng = np.random.default_rng([VALIDATION[1], RENDERED, i])
        kind = synthetic.TEXTURES[i % len(synthetic.TEXTURES)]
        picture = np.clip(np.rint(kind(rng, (TEXTURE, TEXTURE))), 0, 255).astype(np.uint8)
        made.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()).to(device))
    return made


def _finish(made: _Made) -> Batch:
    """With what the codecs gave back."""
    lq = made.lq
    for window, done in made.coded.items():
        frames = done.result() if isinstance(done, Future) else done
        values = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).to(lq)
        lq[window] = values / 255
    return Batch(lq=lq, **vars(made.rendered))
