"""What is run for an advice on one clip: a short part of it, a rehearsal with GT, cost at its size.

Everything that is slow has a limit of its own, so that the answer comes in minutes: methods are
first timed on a small size, and what would take too long at the size of the clip is reckoned from
there, and said to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vsrbench.cards import specs
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted
from vsrbench.core.types import Clip, DatasetSpec, MethodCard, Record, Size, size_text
from vsrbench.data.datasets import Dataset, open_input
from vsrbench.data.frames import FrameSource, Resized
from vsrbench.data.outputs import View
from vsrbench.metrics import known_metrics
from vsrbench.metrics.availability import unavailable
from vsrbench.programs import command
from vsrbench.results.advice import STANDBY, TRUSTED, Candidate, make_candidate
from vsrbench.results.agreement import Study
from vsrbench.run import cost
from vsrbench.run.method import set_scale
from vsrbench.run.runner import Run

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

SMALLEST = 24
"""Shorter side in px below which a rehearsal says nothing; cards that need more are not in it."""
LENGTH = 9
"""Frames of the part."""
PART = (144, 192)
"""Largest LQ (height, width) of the part, px."""
PROBE = (96, 128)
"""LQ size at which every method is timed first."""
PROBE_FRAMES = 4
PLACES = 12
"""Places of a clip that are looked at for the liveliest one."""
CUT = 40.0
"""Mean change of luma, in levels of 255, that is a cut."""
SEEKS = 600
"""Frames decoded at most where a video can only be read from its start."""
RUNS = 1.6
"""Passes over the frames of a cost measurement, warm-up and counting of operations included."""
FLOOR_S = 40.0
"""Seconds that a method may take in any case."""
BASELINES = frozenset({"nearest", "lanczos", "spandrel"})
"""Cards that are no answer: bicubic stands for what needs no network."""


@dataclass(frozen=True)
class Look:
    """What was run on the clip."""

    clip: Clip
    """The whole clip."""
    part: Dataset
    """The part of it."""
    rehearsal: Dataset | None
    """The part brought down, with itself as GT; None where that is too small."""
    where: str
    """Which part, in words."""
    candidates: tuple[Candidate, ...]
    """What was found, in the order of the cards."""
    records: tuple[Record, ...]
    """All records behind it."""


def select_ready(root: Path, scale: int) -> tuple[list[MethodCard], dict[str, UserError]]:
    """(methods that can run here at this scale, with weights; others and why they cannot)."""
    cards, absent = list[MethodCard](), dict[str, UserError]()
    for name, path in specs.method_files(root).items():
        if name in BASELINES:
            continue
        try:
            card = specs.read_card(path)
            if card.weights.origin == "random":
                continue
            set_scale(card, scale)
            if card.kind == "command":
                command.check_arguments(card)
            command.identify(card)
        except UserError as error:
            absent[name] = error
        else:
            cards.append(card)
    return sorted(cards, key=lambda card: card.name != "bicubic"), absent


def metrics_here(study: Study) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(metrics for the part, for the rehearsal): those that tell something and run here."""
    trusted = [o.id for o in study.opinions if o.chosen >= TRUSTED and o.id in known_metrics()]
    here = [m for m in trusted if unavailable(m, fetch=False) is None]
    with_gt = [m for m in here if "gt" in known_metrics()[m].needs]
    alone = [m for m in here if m not in with_gt]
    standby = [m for m in STANDBY if not with_gt and unavailable(m, fetch=False) is None]
    more = [m for m in ("niqe", "brisque_svr") if unavailable(m, fetch=False) is None]
    return (*alone, *more, "lr_psnr", "ewarp", "flicker"), (*with_gt, *standby, "psnr")


def look(
    run: Callable[[], Run],
    cards: Sequence[MethodCard],
    path: Path,
    scale: int,
    study: Study,
    seconds: float,
    say: Callable[[str], None],
) -> Look:
    """Run the cards on a part of the clip at `path`, and measure what they cost at its size.

    run: makes a run, on one store. seconds: what all of it should take. Raises UserError, DataError
    when there is no such clip, or it is a folder of several.
    """
    started = time.monotonic()
    found = open_input(path, None, scale, say)
    if len(found.clips) != 1:
        raise DataError(
            f"{path} holds {counted(len(found.clips), 'clip')}, and advice is for one",
            "name one of them",
        )
    clip = found.clips[0]
    frames = counted(clip.count, "frame")
    say(f"looking for the liveliest part of {frames} of {size_text(clip.size)}")
    first, box = find_liveliest(clip.lq, scale)
    part = cut(clip, first, box)
    alone, with_gt = metrics_here(study)
    spec = replace(found.spec, metrics=alone)
    sets = [Dataset(spec, [part])]
    rehearsal = None
    if min(part.size) // scale >= SMALLEST:
        rehearsal = make_rehearsal(replace(spec, metrics=with_gt), part)
        sets.append(rehearsal)
    store = run().store
    probe = (min(PROBE[0], clip.size[0]), min(PROBE[1], clip.size[1]))

    def seconds_left() -> float:
        return seconds - (time.monotonic() - started)

    say(f"timing {counted(len(cards), 'method')} at {size_text(probe)}")
    costs = _costs(run(), cards, probe, scale, PROBE_FRAMES, max(FLOOR_S, 0.25 * seconds_left()))
    pace = {r.method: r.measurement.median_ms for r in costs if r.measurement}
    area = probe[0] * probe[1]

    def estimate_s(card: MethodCard, size: Size, frames: float) -> float:
        return pace[card.name] * size[0] * size[1] / area * frames / 1000

    share = max(FLOOR_S, 0.5 * seconds_left() / max(len(cards), 1))
    fit = [c for c in cards if c.name in pace and estimate_s(c, part.size, LENGTH) <= share]
    quality = run()
    quality.go(fit, sets)
    records = [*costs, *quality.store.of_run(quality.id)]
    order = sorted((c for c in cards if c.name in pace), key=lambda c: pace[c.name])
    for card in order if clip.size != probe else ():
        need = estimate_s(card, clip.size, cost.FRAMES * RUNS)
        if need <= max(seconds_left() - 3, 0):
            more = _costs(run(), [card], clip.size, scale, cost.FRAMES, max(FLOOR_S, 3 * need))
            records += more
    by_name: dict[str, list[Record]] = {}
    for r in records:
        by_name.setdefault(r.method, []).append(r)
    made = []
    for card in cards:
        own = by_name[card.name]
        of_cost = [r for r in own if r.kind == "cost"]
        of_sets = [r for r in own if r.kind == "quality"]
        other = f"{spec.name}-rehearsal"
        one = make_candidate(own[0], clip.size, of_cost, of_sets, other)
        if card not in fit and card.name in pace and not one.problem:
            about = estimate_s(card, part.size, LENGTH)
            one = replace(one, problem=f"not tried: the part alone would take {about:.0f} s")
        made.append(one)
    y, x, h, w = box
    where = (
        f"frames {first} to {first + part.count - 1} of {clip.count}, "
        f"{w}x{h} px at x {x}, y {y} of {size_text(clip.size)}"
    )
    store.notices.clear()
    return Look(clip, sets[0], rehearsal, where, tuple(made), tuple(records))


def _costs(
    run: Run, cards: Sequence[MethodCard], size: Size, scale: int, frames: int, timeout_s: float
) -> list[Record]:
    with run.keep_log():
        run.cost(cards, size, scale, frames, timeout_s)
    return run.store.of_run(run.id)


def cut(clip: Clip, first: int, box: tuple[int, int, int, int]) -> Clip:
    """The part of a clip; box: (y, x, height, width) in LQ px."""
    y, x, h, w = box
    count = min(LENGTH, clip.count - first)
    part = {"span": [first, first + count - 1, clip.count], "crop": f"{w}x{h} px at x {x}, y {y}"}
    return replace(
        clip,
        count=count,
        size=(h, w),
        digest=digest([clip.digest, part]),
        lq=View(clip.lq, range(first, first + count), (y, x), (h, w)),
        protocol=part,
    )


def make_rehearsal(spec: DatasetSpec, part: Clip) -> Dataset:
    """The part brought down by its scale, with itself as GT."""
    small = (part.size[0] // part.scale, part.size[1] // part.scale)
    name = f"{spec.name}-rehearsal"
    clip = replace(
        part,
        dataset=name,
        size=small,
        digest=digest([part.digest, "rehearsal"]),
        lq=Resized(part.lq, small),
        gt=part.lq,
    )
    return Dataset(replace(spec, name=name, title=name, kind="synthetic"), [clip])


def find_liveliest(lq: Sequence[Frame], scale: int) -> tuple[int, tuple[int, int, int, int]]:
    """(first frame, (y, x, height, width)) of a part with much movement and detail.

    Places all over the clip are ranked by their mean change from frame to frame and their mean
    Laplacian, without those across a cut; in the best one the window with most of both is taken.
    """
    found = []
    for first in _spread_frames(lq):
        greys = [_grey(lq[t]) for t in range(first, min(first + LENGTH, len(lq)))]
        steps = [float(np.abs(b - a).mean()) for a, b in pairwise(greys)] or [0.0]
        detail = float(np.mean([_detail(grey).mean() for grey in greys]))
        found.append((first, float(np.mean(steps)), detail, max(steps) > CUT))
    inside = [f for f in found if not f[3]] or found
    moving = sorted(inside, key=lambda f: f[1])
    detailed = sorted(inside, key=lambda f: f[2])
    first = max(inside, key=lambda f: moving.index(f) + detailed.index(f))[0]
    middle = min(first + LENGTH // 2, len(lq) - 1)
    one, other = _grey(lq[middle], small=False), _grey(lq[max(middle - 1, 0)], small=False)
    interest = _detail(one) + np.abs(one - other)
    step = 2 * scale
    h = min(PART[0], one.shape[0]) // step * step or one.shape[0]
    w = min(PART[1], one.shape[1]) // step * step or one.shape[1]
    total = cv2.integral(interest.astype(np.float32))
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return first, (int(y), int(x), h, w)


def _spread_frames(lq: Sequence[Frame]) -> Iterator[int]:
    """Frames at which to look, spread over the clip, as far as they can be reached quickly."""
    most = max(len(lq) - LENGTH, 0)
    starts = list(lq.starts) if isinstance(lq, FrameSource) else list(range(len(lq)))
    there = [s for s in starts if s <= most]
    if len(there) < PLACES:
        there = list(range(0, min(most, SEEKS) + 1))
    yield from sorted({there[round(i * (len(there) - 1) / (PLACES - 1))] for i in range(PLACES)})


def _grey(frame: Frame, small: bool = True) -> np.ndarray:
    """Luma as float; with `small` at most 320 px wide."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if small and grey.shape[1] > 320:
        size = (320, max(1, round(grey.shape[0] * 320 / grey.shape[1])))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey)


def _detail(grey: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(cv2.Laplacian(grey, cv2.CV_32F)))
