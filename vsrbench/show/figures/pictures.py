"""Temporal profiles and crops: what each method shows of the same pixels.

Every choice that could be picked to please (row, box, frame) follows a rule that is printed on the
figure and kept, with the choice, in a JSON file beside it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vsrbench.core.errors import UserError
from vsrbench.show.figures.choice import luma, usual_metrics
from vsrbench.show.figures.kept import Kept
from vsrbench.show.figures.style import (
    DPI,
    GREY,
    HEAD,
    INK,
    PAGE,
    SIGNAL,
    SMALL,
    digest_inputs,
    fit,
    paste,
    read_sidecar,
    resize,
    sheet,
    sidecar,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vsrbench.core.types import Frame

    Field = NDArray[np.floating[Any]]

Box = tuple[int, int, int, int]
"""x, y, width, height in px of the output frame."""
UNIT = DPI / 72
"""About how many px a point of type is on a sheet."""
TALLEST, LOWEST = 260.0, 184.0
"""Height at most of a sheet of crops, and of one with something beside them, points."""
MOTION = ("ewarp", "flicker")
"""Metrics that stand above profiles."""
TALLEST_SLICE = 400
"""Frames of a clip that a profile has room for."""
LONG = 14
"""Characters; a longer title without scores below takes two lines."""


def profile(kept: Kept, out: Path, row: int | None = None) -> dict[str, Any]:
    """One image row over time: a slice of T x W pixels for each method, stretched in time.

    Jagged traces are flicker. Without `row` it is the one with the highest temporal variance of the
    reference (GT, else bicubic) within the middle 80 % of the height. Writes `out`,
    `<stem>.slices.png` (the slices unstretched, one below the other) and `<stem>.json`, which is
    also returned. Raises UserError for a row outside the frame.
    """
    dataset, clip, sources, titles = kept.dataset, kept.clip, kept.sources, kept.titles
    reference, count = kept.reference, kept.count
    said = {m: "   ".join(kept.scores(m, MOTION)) for m in sources}
    inputs = digest_inputs(out, "profile", dataset, clip, row, titles, said, kept.digests())
    if about := read_sidecar(out, inputs):
        return about
    chosen = choose_slices(kept, row)
    slices = chosen.slices
    about = {
        "figure": "profile",
        "dataset": dataset,
        "clip": clip,
        "methods": list(sources),
        "reference": reference,
        "row": chosen.row,
        "rule": chosen.rule,
        "frames": count,
        "made_of": inputs,
    }
    beside = out.with_suffix(".slices.png")
    Image.fromarray(np.concatenate(list(slices.values()))).save(beside)

    heads = {m: (titles[m], said[m]) for m in slices}
    middle = count // 2
    about_picture = (
        f"{dataset} / {clip}",
        f"{titles[reference]}, frame {middle}, row {chosen.row}: {chosen.rule}",
    )
    _draw_profile(out, sources[reference][middle], chosen.row, about_picture, slices, heads)
    return sidecar(out, about, beside)


def _draw_profile(
    out: Path,
    picture: Frame,
    row: int,
    about: tuple[str, str],
    slices: Mapping[str, Frame],
    heads: Mapping[str, tuple[str, str]],
) -> None:
    """A frame with the row in it left, the slices below each other right.

    about: head and text below the frame. heads: what stands left and right above each slice.
    """
    side, gap, strip_pt, head = 112.0, 26.0, 354.0, 13.0  # points
    count, width = next(iter(slices.values())).shape[:2]
    factor = max(1, round(strip_pt * UNIT / width))
    strip_w = width * factor if width <= 2400 else round(strip_pt * UNIT)
    u = strip_w / strip_pt
    shown = {method: thin(pixels) for method, pixels in slices.items()}
    count_shown = len(next(iter(shown.values())))
    rows = max(1, round(34 * u / count_shown))
    strip_h = rows * count_shown
    fitted = fit(picture, side * u, (strip_h + head * u) * len(slices) - 40 * u)
    left, top, right = 1 * u, head * u, (side + gap + 1) * u
    text = textwrap.fill(about[1], 34)
    below = top + fitted.shape[0] + 4 * u
    bottom = max((head * u + strip_h) * len(slices), below + (12 + 8 * (text.count("\n") + 1)) * u)
    with sheet(out, right + strip_w + left, bottom + u, u) as page:
        paste(page, fitted, left, top)
        y = top + (row + 0.5) * fitted.shape[0] / picture.shape[0]
        for line, colour in ((2.0, INK), (1.0, SIGNAL)):
            page.plot((left, left + fitted.shape[1]), (y, y), color=colour, linewidth=line)
        write(page, left, below, about[0], side * u, va="top", **HEAD)
        page.text(left, below + 10 * u, text, va="top", **SMALL)
        for i, (method, pixels) in enumerate(shown.items()):
            y = top + i * (strip_h + head * u)
            title, said = heads[method]
            write(page, right, y - 3 * u, title, 0.5 * strip_w, **HEAD)
            page.text(right + strip_w, y - 3 * u, said, ha="right", **SMALL)
            paste(page, resize(pixels, strip_w, count_shown).repeat(rows, axis=0), right, y)
            arrow = {"arrowstyle": "->", "color": GREY, "linewidth": 0.6}
            page.annotate("", (right - 4 * u, y + strip_h), (right - 4 * u, y), arrowprops=arrow)
            page.text(right - 8 * u, y, "0", ha="right", va="top", **SMALL)
            page.text(right - 8 * u, y + strip_h, f"{count - 1}", ha="right", **SMALL)
            if i == 0:
                place = (right - 9 * u, y + strip_h / 2)
                page.text(*place, "frame", ha="right", va="center", rotation=90, **SMALL)


@dataclass(frozen=True)
class Slices:
    """A row of pixels, and what each method shows there over time."""

    row: int
    """Its number."""
    rule: str
    """How it was chosen."""
    slices: Mapping[str, Frame]
    """Method -> T x W x 3."""


def choose_slices(kept: Kept, row: int | None = None) -> Slices:
    """What `profile` shows, with its argument, rule and error."""
    height, title = kept.size[0], kept.titles[kept.reference]
    rule = "given"
    if row is None:
        rule = f"highest temporal variance of {title} in the middle 80 % of the height"
        row = busiest_row(kept.sources[kept.reference])
    if not 0 <= row < height:
        raise UserError(f"row {row} is outside the frame", f"rows are 0 to {height - 1}")
    slices = {m: np.stack([frame[row] for frame in source]) for m, source in kept.sources.items()}
    return Slices(row, rule, slices)


def thin(pixels: Frame) -> Frame:
    """A slice of a long clip with every second frame, or third ..., so that it can be drawn."""
    return pixels[:: math.ceil(len(pixels) / TALLEST_SLICE)]


def busiest_row(frames: Iterable[Frame]) -> int:
    """The row with the highest variance of luma (whole levels) over time, mean over its pixels.

    Only rows of the middle 80 % of the height are looked at.
    """
    import cv2

    count, total, squares = 0, np.zeros(()), np.zeros(())
    for frame in frames:
        if not count:
            total, squares = np.zeros((2, *frame.shape[:2]))
        luma, count = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), count + 1
        cv2.accumulate(luma, total)
        cv2.accumulateSquare(luma, squares)
    variance = (squares / count - (total / count) ** 2).mean(axis=1)
    low, high = math.ceil(0.1 * len(variance)), math.floor(0.9 * len(variance))
    return low + int(np.argmax(variance[low : max(high, low + 1)]))


def crops(
    kept: Kept, out: Path, box: Box | None = None, frame: int | None = None
) -> dict[str, Any]:
    """The reference frame with a box, and what each method shows in it, enlarged pixel by pixel.

    Without `frame` it is the middle one; without `box` it is the window, a fifth of the width, with
    the highest variance of luma in the reference (GT, else bicubic). Writes `out` and
    `<stem>.json`, which is also returned. Raises UserError for a box or a frame outside the clip.
    """
    chosen = choose_views(kept, box, frame)
    inputs = digest_inputs(out, "crops", box, chosen.inputs)
    if about := read_sidecar(out, inputs):
        return about
    x, y, w, h = chosen.box
    text = f"frame {chosen.frame}, box {w}x{h} at ({x}, {y}): {chosen.rule}; scores: clip means"
    with crop_sheet(out, PAGE, chosen, (f"{kept.dataset} / {kept.clip}", text)):
        pass
    about = {"figure": "crops", **chosen.about, "made_of": inputs}
    return sidecar(out, about)


@dataclass(frozen=True)
class Chosen:
    """A frame, a box in it, and what each method shows there."""

    picture: Frame
    """The frame of the reference."""
    frame: int
    """Its number."""
    box: Box
    """The box."""
    rule: str
    """How the box was chosen."""
    views: Mapping[str, tuple[Frame, str, Sequence[str]]]
    """Method -> what it shows in the box, its title, its scores on the clip."""
    about: Mapping[str, Any]
    """The same for the file beside a figure."""
    inputs: Sequence[Any]
    """All that it depends on."""


def choose_views(kept: Kept, box: Box | None = None, frame: int | None = None) -> Chosen:
    """What `crops` shows, with its arguments, rules and errors."""
    sources, titles, reference = kept.sources, kept.titles, kept.reference
    count, (height, width) = kept.count, kept.size
    frame = count // 2 if frame is None else frame
    if not 0 <= frame < count:
        raise UserError(f"frame {frame} is outside the clip", f"frames are 0 to {count - 1}")
    picture = sources[reference][frame]
    rule = "given"
    if box is None:
        rule = f"window with the highest variance of {titles[reference]}"
        box = busiest_box(picture)
    x, y, w, h = box
    if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        raise UserError(f"box {box} is outside the frame", f"frames are {width}x{height}")
    names = usual_metrics(kept.scored, kept.dataset)
    views = {
        m: (source[frame][y : y + h, x : x + w], titles[m], kept.scores(m, names))
        for m, source in sources.items()
    }
    about = {
        "dataset": kept.dataset,
        "clip": kept.clip,
        "methods": list(sources),
        "reference": reference,
        "frame": frame,
        "box": list(box),
        "rule": rule,
    }
    shown = [view.tobytes() for view, *_ in views.values()]
    labels = [(title, known) for _, title, known in views.values()]
    inputs = [about, labels, sha256(picture.tobytes() + b"".join(shown)).hexdigest()]
    return Chosen(picture, frame, box, rule, views, about, inputs)


def shorten(titles: Sequence[str]) -> list[str]:
    """Titles without what stands in brackets, where that leaves them different."""
    short = [title.partition(" (")[0] for title in titles]
    return [s if short.count(s) == 1 else t for s, t in zip(short, titles, strict=True)]


@contextmanager
def crop_sheet(
    out: Path,
    inches: float,
    chosen: Chosen,
    about: tuple[str, str] = ("", ""),
    beside: float = 0.0,
) -> Iterator[tuple[Axes, float, float, float]]:
    """A sheet with a frame, a box in it, and what each method shows in the box.

    inches: width of the sheet. about: head and text below the frame; without, the views have no
    scores. beside: inches left free right of it. Gives the page, the left end of that room and the
    height of the sheet in px, and px in a point.
    """
    full, views = chosen.picture, chosen.views
    if not about[0]:
        short = shorten([title for _, title, _ in views.values()])
        views = {
            m: (view[0], title, ()) for (m, view), title in zip(views.items(), short, strict=True)
        }
    x, y, w, h = chosen.box
    lines = max(len(said) for *_, said in views.values())
    two = not about[0] and any(len(title) > LONG for _, title, _ in views.values())
    gap, label, below = 4.0, 13.0 + 3.5 * two + 8.5 * lines, 32.0 * bool(about[0])  # points
    room = 72 * (inches - beside) - 2 - 3 * gap * bool(beside)
    ratio = full.shape[1] / full.shape[0]
    layouts = []
    for rows in range(1, min(4, len(views)) + 1):
        columns = math.ceil(len(views) / rows)
        for view in np.arange(24.0, 150.0, 0.5):
            high = rows * (view * h / w + label) - gap
            free = room - gap - columns * (view + gap)
            side = min((high - below) * ratio, free)
            tallest = LOWEST if beside else TALLEST
            if (
                free < 76
                or high <= below
                or side < min(60.0, 0.9 * (high - below) * ratio)
                or high > tallest
            ):
                continue
            filled = (len(views) * view * view * h / w + side * side / ratio) / (room * high)
            merit = 1.8 * math.log(view) + math.log(side) + 0.6 * math.log(filled)
            layouts.append((merit, rows, columns, view, high, side))
    few = math.ceil(len(views) / 4), 24.0, 60.0
    _, rows, columns, view, high, side = max(
        layouts, default=(0.0, 4, few[0], few[1], 4 * (24.0 * h / w + label), few[2])
    )
    zoom = max(1, round(view * UNIT / w))
    u = w * zoom / view
    column = max(side, 76.0 if about[0] else 0.0)  # what is written below needs room
    left, right = 1 * u, (1 + column + 2 * gap) * u
    fitted = fit(full, side * u, (high - below) * u)
    shrunk = fitted.shape[1] / full.shape[1]
    text = textwrap.fill(about[1], round(column / 3.4))
    under = 12 + 8 * (text.count("\n") + 1) if about[0] else 0
    bottom = max(high * u, fitted.shape[0] + (4 + under) * u)
    with sheet(out, 72 * inches * u, bottom + u, u) as page:
        paste(page, fitted, left, 0)
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
        around = np.array(corners) * shrunk + np.array((round(left), 0))
        for line, colour in ((2.2, INK), (1.1, SIGNAL)):
            page.plot(*around.T, color=colour, linewidth=line, solid_joinstyle="miter")
        if about[0]:
            end = fitted.shape[0] + 4 * u
            write(page, left, end, about[0], column * u, va="top", **HEAD)
            page.text(left, end + 10 * u, text, va="top", **SMALL)
        for i, (shown, title, known) in enumerate(views.values()):
            view_x = right + i % columns * (view + gap) * u
            view_y = i // columns * (view * h / w + label) * u
            paste(page, resize(shown, w * zoom, h * zoom), view_x, view_y)
            middle, end = view_x + view * u / 2, view_y + h * zoom + 2 * u
            middling: Any = {"ha": "center", "va": "top"}
            write(page, middle, end, title, view * u, 1 + two, **middling, **HEAD)
            for j, score in enumerate(known):
                at = end + (9 + 8 * j) * u
                write(page, middle, at, score, view * u, **middling, **SMALL)
        yield page, (1 + room + 3 * gap) * u, bottom, u


def busiest_box(frame: Frame) -> Box:
    """The square window, a fifth of the width and even, with the highest variance of luma."""
    height, width = frame.shape[:2]
    side = max(2, 2 * round(min(width / 5, height) / 2))
    values = luma(frame)
    mean, mean_square = window_mean(values, side), window_mean(values**2, side)
    y, x = np.unravel_index(np.argmax(mean_square - mean**2), mean.shape)
    return int(x), int(y), side, side


def window_mean(values: Field, side: int) -> Field:
    """Mean of every window side x side that lies inside, by an integral image in float64."""
    import cv2

    sums = cv2.integral(values, sdepth=cv2.CV_64F)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(inside / side**2)
