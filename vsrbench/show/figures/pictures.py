"""Temporal profiles and crops: what each method shows of the same pixels.

Every choice that could be picked to please (row, box, frame) follows a rule that is printed on the
figure and kept, with the choice, in a JSON file beside it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vsrbench.core.errors import UserError
from vsrbench.core.types import Record
from vsrbench.data.frames import digest
from vsrbench.results.summary import BASELINE, GT
from vsrbench.show.figures.kept import kept_frames, kept_scores, scores, titles_of
from vsrbench.show.figures.style import (
    GREY,
    HEAD,
    INK,
    SIGNAL,
    SMALL,
    fit,
    is_drawn,
    made_of,
    paste,
    read_sidecar,
    resize,
    sheet,
    sidecar,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsrbench.core.types import Frame

    Field = NDArray[np.float64]

Box = tuple[int, int, int, int]
"""x, y, width, height in px of the output frame."""
LUMA = np.array([0.299, 0.587, 0.114])


def profile(
    frames_root: Path,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    out: Path,
    row: int | None = None,
    records: Iterable[Record] = (),
) -> dict[str, Any]:
    """One image row over time: a slice of T x W pixels for each method, stretched in time.

    Jagged traces are flicker. Without `row` it is the one with the highest temporal variance of
    the reference (GT, else bicubic) within the middle 80 % of the height. Bicubic and GT are added
    where they were kept. Writes `out` (PNG), `<stem>.slices.png` (the slices unstretched, one below
    the other) and `<stem>.json`, which is also returned. Raises MissingError for frames that were
    not kept or are older than the scores, UserError for a row outside the frame.
    """
    records = list(records)
    sources = kept_frames(frames_root, dataset, clip, methods, records)
    scored = kept_scores(frames_root, dataset, clip, sources, records)
    reference = GT if GT in sources else BASELINE
    count, (height, width) = len(sources[reference]), sources[reference].size
    titles = titles_of(records, sources)
    said = {m: scores(scored, dataset, clip, m, ("ewarp", "flicker")) for m in sources}
    inputs = made_of("profile", dataset, clip, row, titles, said, *map(digest, sources.values()))
    if is_drawn(out, inputs) and (drawn := read_sidecar(out)):
        return drawn
    rule = "given"
    if row is None:
        rule = f"highest temporal variance of {titles[reference]} in the middle 80 % of the height"
        row = busiest_row(sources[reference])
    if not 0 <= row < height:
        raise UserError(f"row {row} is outside the frame", f"rows are 0 to {height - 1}")
    slices = {m: np.stack([frame[row] for frame in source]) for m, source in sources.items()}
    about = {
        "figure": "profile",
        "dataset": dataset,
        "clip": clip,
        "methods": list(sources),
        "reference": reference,
        "row": row,
        "rule": rule,
        "frames": count,
    }
    Image.fromarray(np.concatenate(list(slices.values()))).save(out.with_suffix(".slices.png"))
    sidecar(out, about)

    middle = count // 2
    picture = fit(sources[reference][middle], 560, 420)
    strip_w, strip_h = width * (1280 // width) or 1280, count * max(1, round(96 / count))
    left, top, gap, step = 28, 52, 96, strip_h + 44
    side = max(picture.shape[1], 300)
    right = left + side + gap
    bottom = top + max(step * len(slices), picture.shape[0] + 140)
    with sheet(out, right + strip_w + left, bottom, inputs) as page:
        paste(page, picture, left, top)
        y = top + (row + 0.5) * picture.shape[0] / height
        for line, colour in ((2.4, INK), (1.2, SIGNAL)):
            ends = (left - 10, left + picture.shape[1] + 10)
            page.plot(ends, (y, y), color=colour, linewidth=line)
        below = top + picture.shape[0] + 12
        text = textwrap.fill(f"{titles[reference]}, frame {middle}, row {row}: {rule}", side // 9)
        page.text(left, below, f"{dataset} / {clip}", va="top", **HEAD)
        page.text(left, below + 28, text, va="top", **SMALL)
        for i, (method, pixels) in enumerate(slices.items()):
            y = top + i * step
            page.text(right, y - 6, titles[method], **HEAD)
            page.text(right + strip_w, y - 6, "   ".join(said[method]), ha="right", **SMALL)
            strip = resize(pixels, strip_w, count).repeat(strip_h // count, axis=0)
            paste(page, strip, right, y)
            arrow = {"arrowstyle": "->", "color": GREY}
            page.annotate("", (right - 12, y + strip_h), (right - 12, y), arrowprops=arrow)
            page.text(right - 24, y, "0", ha="right", va="top", **SMALL)
            page.text(right - 24, y + strip_h / 2, "frame", ha="right", va="center", **SMALL)
            page.text(right - 24, y + strip_h, f"{count - 1}", ha="right", **SMALL)
    return about


def busiest_row(frames: Iterable[Frame]) -> int:
    """The row with the highest variance of luma over time, mean over its pixels.

    Only rows of the middle 80 % of the height are looked at.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for frame in frames:
        luma = frame @ LUMA
        count, total, squares = count + 1, total + luma, squares + luma**2
    variance = (squares / count - (total / count) ** 2).mean(axis=1)
    low, high = math.ceil(0.1 * len(variance)), math.floor(0.9 * len(variance))
    return low + int(np.argmax(variance[low : max(high, low + 1)]))


def crops(
    frames_root: Path,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    out: Path,
    box: Box | None = None,
    frame: int | None = None,
    records: Iterable[Record] = (),
) -> dict[str, Any]:
    """The reference frame with a box, and what each method shows in it, enlarged pixel by pixel.

    Without `frame` it is the middle one; without `box` it is the window, a fifth of the width, with
    the highest variance of luma in the reference (GT, else bicubic). Bicubic and GT are added
    where they were kept. Writes `out` (PNG) and `<stem>.json`, which is also returned. Raises
    MissingError for frames that were not kept or are older than the scores, UserError for a box or
    a frame outside the clip.
    """
    records = list(records)
    sources = kept_frames(frames_root, dataset, clip, methods, records)
    scored = kept_scores(frames_root, dataset, clip, sources, records)
    reference = GT if GT in sources else BASELINE
    count, (height, width) = len(sources[reference]), sources[reference].size
    titles = titles_of(records, sources)
    said = {m: scores(scored, dataset, clip, m, ("psnr", "lpips")) for m in sources}
    shown = dataset, clip, box, frame, titles, said
    inputs = made_of("crops", *shown, *map(digest, sources.values()))
    if is_drawn(out, inputs) and (drawn := read_sidecar(out)):
        return drawn
    frame = count // 2 if frame is None else frame
    if not 0 <= frame < count:
        raise UserError(f"frame {frame} is outside the clip", f"frames are 0 to {count - 1}")
    full = sources[reference][frame]
    rule = "given"
    if box is None:
        rule = f"window with the highest variance of {titles[reference]}"
        box = busiest_box(full)
    x, y, w, h = box
    if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        raise UserError(f"box {box} is outside the frame", f"frames are {width}x{height}")
    about = {
        "figure": "crops",
        "dataset": dataset,
        "clip": clip,
        "methods": list(sources),
        "reference": reference,
        "frame": frame,
        "box": list(box),
        "rule": rule,
    }
    sidecar(out, about)

    zoom = max(1, 280 // max(w, h))
    view_w, view_h = w * zoom, h * zoom
    rows = 1 if len(sources) <= 4 else 2
    columns = math.ceil(len(sources) / rows)
    left, top, gap, label = 28, 28, 16, 104
    block_h = rows * view_h + (rows - 1) * label
    picture = fit(full, 2 * max(block_h, 360), max(block_h, 320))
    side = max(picture.shape[1], 300)
    right = left + side + 2 * gap
    bottom = top + max(block_h, picture.shape[0]) + label
    with sheet(out, right + columns * (view_w + gap) - gap + left, bottom, inputs) as page:
        paste(page, picture, left, top)
        shrunk = picture.shape[1] / width
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
        around = np.array(corners) * shrunk + np.array((left, top))
        for line, colour in ((3.0, INK), (1.5, SIGNAL)):
            page.plot(*around.T, color=colour, linewidth=line)
        below = top + picture.shape[0] + 10
        text = f"box {w}x{h} at ({x}, {y}): {rule}; scores are means over the clip"
        page.text(left, below, f"{dataset} / {clip}, frame {frame}", va="top", **HEAD)
        page.text(left, below + 28, textwrap.fill(text, side // 9), va="top", **SMALL)
        for i, (method, source) in enumerate(sources.items()):
            view_x = right + i % columns * (view_w + gap)
            view_y = top + i // columns * (view_h + label)
            view = source[frame][y : y + h, x : x + w]
            paste(page, resize(view, view_w, view_h), view_x, view_y)
            centre, below = view_x + view_w / 2, view_y + view_h + 10
            text = "\n".join(said[method])
            page.text(centre, below, titles[method], ha="center", va="top", **HEAD)
            page.text(centre, below + 28, text, ha="center", va="top", **SMALL)
    return about


def busiest_box(frame: Frame) -> Box:
    """The square window, a fifth of the width and even, with the highest variance of luma."""
    height, width = frame.shape[:2]
    side = max(2, 2 * round(min(width / 5, height) / 2))
    luma = frame @ LUMA
    mean, mean_square = _window_mean(luma, side), _window_mean(luma**2, side)
    y, x = np.unravel_index(np.argmax(mean_square - mean**2), mean.shape)
    return int(x), int(y), side, side


def _window_mean(values: Field, side: int) -> Field:
    """Mean of every window side x side that lies inside, by an integral image."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(inside / side**2)
