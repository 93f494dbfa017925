"""Figures from stored records and kept frames. matplotlib is imported when one is drawn.

Frames are read from `frames_root/<method>/<dataset>/<clip>/`; `gt` and `bicubic` lie there too.
Every choice that could be picked to please (row, box, frame) follows a rule that is printed on the
figure and kept, with the choice, in a JSON file beside it.
"""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vsrbench.core.errors import DataError, MissingError, UserError, unknown
from vsrbench.core.types import Origin, Record, size_text
from vsrbench.data.frames import FrameSource, open_frames
from vsrbench.metrics import METRICS, recorded
from vsrbench.results.summary import (
    BASELINE,
    COST,
    GT,
    WEIGHTS,
    Block,
    Row,
    Summary,
    metric_column,
    metric_infos,
    newest,
    setting_text,
)
from vsrbench.run.plan import mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vsrbench.core.types import Frame

    Field = NDArray[np.float64]

Box = tuple[int, int, int, int]
"""x, y, width, height in px of the output frame."""

DPI = 150
INK, GREY, PALE, SIGNAL = "#1a1a1a", "#6b6b6b", "#d9d9d9", "#ffb000"
# Okabe and Ito's palette without black and yellow: told apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
MARKERS: Mapping[Origin, str] = {
    "official": "o",
    "trained_here": "s",
    "user": "D",
    "random": "X",
    "none": "^",
}
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
}
HEAD: Any = {"size": 9, "weight": "bold"}
SMALL: Any = {"size": 8, "color": GREY}
LUMA = np.array([0.299, 0.587, 0.114])


# Temporal profile


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
    _sidecar(out, about)

    middle = count // 2
    picture = _fit(sources[reference][middle], 560, 420)
    strip_w, strip_h = width * (1280 // width) or 1280, count * max(1, round(96 / count))
    left, top, gap, step = 28, 52, 96, strip_h + 44
    side = max(picture.shape[1], 300)
    right = left + side + gap
    bottom = top + max(step * len(slices), picture.shape[0] + 140)
    with _page(out, right + strip_w + left, bottom) as page:
        _paste(page, picture, left, top)
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
            said = "   ".join(scores(scored, dataset, clip, method, ("ewarp", "flicker")))
            page.text(right, y - 6, titles[method], **HEAD)
            page.text(right + strip_w, y - 6, said, ha="right", **SMALL)
            strip = _resize(pixels, strip_w, count).repeat(strip_h // count, axis=0)
            _paste(page, strip, right, y)
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


# Crops


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
    _sidecar(out, about)

    zoom = max(1, 280 // max(w, h))
    view_w, view_h = w * zoom, h * zoom
    rows = 1 if len(sources) <= 4 else 2
    columns = math.ceil(len(sources) / rows)
    left, top, gap, label = 28, 28, 16, 104
    block_h = rows * view_h + (rows - 1) * label
    picture = _fit(full, 2 * max(block_h, 360), max(block_h, 320))
    side = max(picture.shape[1], 300)
    right = left + side + 2 * gap
    bottom = top + max(block_h, picture.shape[0]) + label
    with _page(out, right + columns * (view_w + gap) - gap + left, bottom) as page:
        _paste(page, picture, left, top)
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
            _paste(page, _resize(view, view_w, view_h), view_x, view_y)
            centre, below = view_x + view_w / 2, view_y + view_h + 10
            said = "\n".join(scores(scored, dataset, clip, method, ("psnr", "lpips")))
            page.text(centre, below, titles[method], ha="center", va="top", **HEAD)
            page.text(centre, below + 28, said, ha="center", va="top", **SMALL)
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


# Quality against cost


@dataclass(frozen=True)
class _Point:
    """One method in the scatter plot."""

    row: Row
    x: float
    y: float
    error: float
    area: float
    """In square points: proportional to the parameters, never too small to see."""
    colour: str


def scatter(
    summary: Summary, out: Path, x: str = "ms", y: str = "psnr", dataset: str = ""
) -> dict[str, Any]:
    """Quality against cost on one data set: log cost, Pareto front, area of a point = parameters.

    `x` and `y` are columns of the summary; y is drawn so that up is better. Without `dataset` it is
    the first one. Cost measured otherwise than the rest is drawn hollow and stays off the front.
    Returns the methods on the front and those left out with their reasons. Raises UserError for an
    unknown column, MissingError when no method has both.
    """
    shown = (c.name for b in summary.blocks for c in b.columns)
    known = {*METRICS, *(c.name for c in COST.values()), *shown}
    for name in (x, y):
        if name not in known:
            raise unknown("column", name, known)
    block = summary.block(dataset) if dataset else summary.blocks[0]
    columns = {c.name: c for c in block.columns}
    looks = _looks(row.method for b in summary.blocks for row in b.rows)
    params = {r.method: (r.measurement.params_m if r.measurement else 0) or 0 for r in block.rows}
    largest = max(params.values(), default=0)
    points, hidden = [], {}
    for row in block.rows if {x, y} <= set(columns) else ():
        cost, quality = row.cells[x], row.cells[y]
        if cost.value is not None and cost.value <= 0:
            hidden[row.method] = "zero has no place on a log axis"
        elif cost.value is not None and quality.value is not None:
            area, colour = _area(params[row.method], largest), looks[row.method][0]
            error = quality.ci95 or 0.0
            points.append(_Point(row, cost.value, quality.value, error, area, colour))
        elif row.method != GT:
            hidden[row.method] = cost.note if cost.value is None else quality.note
    if not points:
        raise MissingError(
            f"no method has both {x} and {y} on {block.title}",
            f"measure the cost: cost --methods ... --size {block.size[0]}x{block.size[1]}",
        )
    fair = [p for p in points if p.row.cells[x].comparable]
    lower_x, lower_y = (columns[c].better != "higher" for c in (x, y))
    best = [fair[i] for i in pareto([(p.x, p.y) for p in fair], lower_x, lower_y)]
    best.sort(key=lambda p: p.x)

    with _chart(out, 6.0, 4.2) as axes:
        axes.plot([p.x for p in best], [p.y for p in best], color=GREY, linewidth=0.9, zorder=1)
        for p in sorted(points, key=lambda p: -p.area):  # small points on top of large ones
            axes.errorbar(p.x, p.y, p.error, color=p.colour, linewidth=1)
            face, edge = (p.colour, "white") if p in fair else ("white", p.colour)
            look: Any = {"facecolor": face, "edgecolor": edge, "linewidth": 1.2, "zorder": 3}
            axes.scatter(p.x, p.y, p.area, marker=MARKERS[p.row.origin], **look)
        _log_scale(axes)
        axes.margins(0.22, 0.18)
        flipped = ""
        if columns[y].better == "lower":
            axes.invert_yaxis()
            flipped = " (axis flipped: up is better)"
        x_label = f"{columns[x].label} {columns[x].arrow}".strip()
        axes.set_xlabel(f"{x_label}, LQ {size_text(block.size)}, log scale")
        axes.set_ylabel(f"{columns[y].label} {columns[y].arrow}{flipped}")
        axes.set_title(block.title, loc="left", weight="bold")
        caption = textwrap.fill(_scatter_caption(block, points, fair, hidden), 100)
        axes.text(0, -0.16, caption, transform=axes.transAxes, color=GREY, size=8, va="top")
        _keys(axes, points, largest)
        _names(axes, points, best)
    return {"front": [p.row.method for p in best], "hidden": hidden}


def pareto(
    points: Sequence[tuple[float, float]], x_lower: bool = True, y_lower: bool = True
) -> list[int]:
    """Indices of the points that no other beats: none is as good in both and better in one."""
    signed = [(x if x_lower else -x, y if y_lower else -y) for x, y in points]
    return [
        i
        for i, (x, y) in enumerate(signed)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in signed)
    ]


def _area(params: float, largest: float) -> float:
    return max(36.0, 700.0 * params / largest) if params else 36.0


def _log_scale(axes: Axes) -> None:
    """A logarithmic x axis that says 0.5 and 1,000 and not 5e-01 and 10^3."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,g}" if super().__call__(x, pos) else ""

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(Plain())
    axes.xaxis.set_minor_formatter(Plain(labelOnlyBase=False))


def _keys(axes: Axes, points: Sequence[_Point], largest: float) -> None:
    """Legend of weights (shape) and parameters (area), right of the axes."""

    def key(marker: str, area: float, label: str) -> Any:
        return axes.scatter([], [], area, marker=marker, color=GREY, linewidth=0, label=label)

    origins = dict.fromkeys(p.row.origin for p in points)
    decades = (10.0**e for e in range(-2, 5))
    handles = [
        *(key(MARKERS[o], _area(0, 1), f"weights: {WEIGHTS[o].rstrip('*')}") for o in origins),
        *(
            key("o", _area(d, largest), f"{d:g} M parameters")
            for d in decades
            if d <= largest and _area(d, largest) > _area(0, 1)
        ),
    ]
    beside: Any = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    axes.legend(handles=handles, labelspacing=1.1, **beside)


def _names(axes: Axes, points: Sequence[_Point], front: Sequence[_Point]) -> None:
    """A name beside each point, at the place around it that covers least of what is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()

    def at(x: float, y: float) -> NDArray[np.float64]:
        return np.asarray(axes.transData.transform((x, y)))

    taken = []
    for p in points:
        radius = math.sqrt(p.area) / 2 * DPI / 72
        taken.append(Bbox([at(p.x, p.y) - radius, at(p.x, p.y) + radius]))
        taken.append(Bbox([at(p.x, p.y - p.error) - 2, at(p.x, p.y + p.error) + 2]))
    for p, q in itertools.pairwise(front):
        for step in np.linspace(at(p.x, p.y), at(q.x, q.y), 100):
            taken.append(Bbox([step - 2, step + 2]))
    frame = axes.get_window_extent(renderer).padded(-8)
    for p in points:
        reach = math.sqrt(p.area) / 2 + 4
        tries = []
        for dx, dy in ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1)):
            label = axes.annotate(
                p.row.title,
                (p.x, p.y),
                xytext=(dx * reach, dy * reach),
                textcoords="offset points",
                ha=("center", "left", "right")[dx],
                va=("center", "bottom", "top")[dy],
                color=p.colour,
                fontsize=8.5,
                weight="bold",
            )
            extent = label.get_window_extent(renderer)
            outside = extent.width * extent.height - _overlap(extent, frame)
            label.remove()
            tries.append((outside + sum(_overlap(extent, t) for t in taken), label, extent))
        _, label, extent = min(tries, key=lambda found: found[0])
        axes.add_artist(label)
        taken.append(extent)


def _overlap(a: Any, b: Any) -> float:
    """Area that two boxes share, in square px."""
    width = min(a.xmax, b.xmax) - max(a.xmin, b.xmin)
    height = min(a.ymax, b.ymax) - max(a.ymin, b.ymin)
    return float(max(0.0, width) * max(0.0, height))


def _scatter_caption(
    block: Block, points: Sequence[_Point], fair: Sequence[_Point], hidden: Mapping[str, str]
) -> str:
    precisions = ", ".join(dict.fromkeys(p.row.precision for p in points))
    said = [f"Cost: {block.setting}, {precisions}. Line: Pareto front."]
    if any(p.error for p in points):
        said.append(f"Bars: 95 % Student-t interval over {len(block.clips)} clips.")
    others = [p.row.measurement for p in points if p not in fair]
    ways = dict.fromkeys(setting_text(m) for m in others if m)
    said += [f"Hollow, not on the front: {way}." for way in ways]
    if hidden:
        said.append(f"Not shown: {'; '.join(f'{m} ({why})' for m, why in hidden.items())}.")
    return " ".join(said)


# A metric over time


def over_time(
    records: Iterable[Record],
    dataset: str,
    clip: str,
    methods: Sequence[str],
    metric: str,
    out: Path,
) -> dict[str, Any]:
    """A metric frame by frame, a line for each method: drift of recurrent methods shows here.

    GT is left out of metrics that compare with it. Returns the methods drawn. Raises UserError for
    an unknown metric, MissingError when no method has values per frame.
    """
    from matplotlib.ticker import MaxNLocator

    records = list(records)
    info = metric_infos(records, [metric])[metric]
    column = metric_column(info)
    latest = newest(records)
    found = {m: latest.get((dataset, m, clip, metric)) for m in methods}
    lines = {
        m: r.per_frame
        for m, r in found.items()
        if r is not None and r.per_frame and not (m == GT and "gt" in info.needs)
    }
    if not lines:
        raise MissingError(
            f"no method here has {metric} frame by frame on {dataset}/{clip}",
            f"run it: --metrics {metric}",
        )
    looks, titles = _looks(r.method for r in records), titles_of(records, lines)
    first = 1 if info.span == "pair" else 0
    ends = []
    with _chart(out, 6.4, 3.4) as axes:
        for method, values in lines.items():
            colour, dash = looks[method]
            steps = range(first, first + len(values))
            marker = "." if len(values) <= 32 else ""
            axes.plot(steps, values, color=colour, linestyle=dash, linewidth=1.6, marker=marker)
            ends.append((steps[-1], values[-1], titles[method], colour))
        axes.margins(0.02, 0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frame t (pair t - 1, t)" if info.span == "pair" else "frame")
        axes.set_ylabel(f"{column.label} {column.arrow}")
        axes.set_title(f"{dataset} / {clip}", loc="left", weight="bold")
        _end_labels(axes, ends)
    return {"methods": list(lines)}


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names right of the ends of lines, pushed apart until none covers another."""
    axes.autoscale_view()
    line = 12 * DPI / 72
    below = -math.inf
    for x, y, title, colour in sorted(ends, key=lambda end: end[1]):
        at_x, at_y = axes.transData.transform((x, y))
        below = max(at_y, below + line)
        place = axes.transData.inverted().transform((at_x, below))
        axes.annotate(
            title,
            (x, place[1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
            weight="bold",
            annotation_clip=False,
        )


# Shared


def places(
    frames_root: Path, records: Iterable[Record], dataset: str, clip: str, methods: Iterable[str]
) -> dict[str, Path]:
    """Method -> folder of its frames of a clip, whether they were kept or not."""
    own = {r.method: r.place for r in records if (r.dataset, r.clip) == (dataset, clip)}
    return {m: frames_root / (own.get(m) or Path(m, dataset, clip)) for m in methods}


def kept_frames(
    frames_root: Path,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    records: Iterable[Record] = (),
) -> dict[str, FrameSource]:
    """Kept frames: bicubic, the methods in their order, GT. Raises MissingError, DataError."""
    folders = places(frames_root, records, dataset, clip, (BASELINE, *methods, GT))
    names = list(methods)
    if BASELINE not in names and folders[BASELINE].is_dir():
        names.insert(0, BASELINE)
    if GT in names or folders[GT].is_dir():
        names = [*(m for m in names if m != GT), GT]
    lost = [m for m in names if not folders[m].is_dir()]
    if lost or not {GT, BASELINE} & set(names):
        raise MissingError(
            f"clip '{clip}' of {dataset} has no kept frames of {', '.join(lost or [BASELINE])}",
            "run again with --keep-frames",
        )
    sources = {m: open_frames(folders[m]) for m in names}
    shapes = {m: (len(s), s.size) for m, s in sources.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{m} {n} of {size_text(size)}" for m, (n, size) in shapes.items())
        raise DataError(
            f"kept frames of clip '{clip}' differ in number or size: {found}",
            "remove them and run again with --keep-frames",
        )
    return sources


def kept_scores(
    frames_root: Path, dataset: str, clip: str, methods: Iterable[str], records: Iterable[Record]
) -> list[Record]:
    """The records of a clip that score the very frames kept of it; none without a mark.

    Raises MissingError for frames other than those of the newest scores. Records of schema 1 do not
    say which frames they score.
    """
    records = list(records)
    latest, found = newest(records), []
    for method, folder in places(frames_root, records, dataset, clip, methods).items():
        own = [
            r for r in latest.values() if (r.dataset, r.method, r.clip) == (dataset, method, clip)
        ]
        own = [r for r in own if r.status == "ok" and recorded(r) and r.output]
        file = mark(folder)
        if not own or not file.is_file():
            continue
        output = file.read_text(encoding="utf-8").strip()
        if max(own, key=lambda r: r.at).output != output:
            raise MissingError(
                f"kept frames of {method} are of other weights or settings than its scores",
                "run again with --keep-frames",
            )
        found += [r for r in own if r.output == output]
    return found


def titles_of(records: Iterable[Record], methods: Iterable[str]) -> dict[str, str]:
    """Method -> its name in tables; without a record it is the name itself."""
    recorded = {r.method: r.title for r in sorted(records, key=lambda r: r.at)}
    return {m: recorded.get(m, m) for m in methods}


def scores(
    records: Iterable[Record], dataset: str, clip: str, method: str, metrics: Iterable[str]
) -> list[str]:
    """What is known of a method on a clip, as printed; nothing of GT compared with itself."""
    latest = newest(records)
    known = []
    for metric in metrics:
        record = latest.get((dataset, method, clip, metric))
        info = recorded(record) if record is not None else None
        if record is None or record.value is None or info is None:
            continue
        if not (method == GT and "gt" in info.needs):
            column = metric_column(info)
            known.append(f"{column.title} {column.text(record.value)} {column.unit}".strip())
    return known


def _looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, dashes), the same in every figure of the same results."""
    others = sorted(set(methods) - {GT, BASELINE})
    looks = {m: (COLOURS[i % 6], DASHES[i % 4]) for i, m in enumerate(others)}
    return {GT: (INK, "-"), BASELINE: (GREY, "-"), **looks}


def _fit(picture: Frame, width: int, height: int) -> Frame:
    """Enlarged by the largest whole factor that fits, pixel by pixel; or shrunk by area."""
    factor = min(width / picture.shape[1], height / picture.shape[0])
    factor = math.floor(factor) if factor >= 1 else factor
    return _resize(picture, round(picture.shape[1] * factor), round(picture.shape[0] * factor))


def _resize(picture: Frame, width: int, height: int) -> Frame:
    """By area, which copies pixels where the factor is whole."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


@contextmanager
def _page(out: Path, width: int, height: int) -> Iterator[Axes]:
    """A sheet measured in px from its top left corner, so that pixels stay pixels."""
    with _drawing(out, width / DPI, height / DPI) as figure:
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        page.set_axis_off()
        yield page


def _paste(axes: Axes, picture: Frame, x: float, y: float) -> None:
    height, width = picture.shape[:2]
    extent = (x, x + width, y + height, y)
    axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto")


@contextmanager
def _chart(out: Path, width: float, height: float) -> Iterator[Axes]:
    """Axes of this size in inches; saved at the end, trimmed to what was drawn."""
    with _drawing(out, width, height, bbox_inches="tight") as figure:
        yield figure.subplots()


@contextmanager
def _drawing(out: Path, width: float, height: float, **how: Any) -> Iterator[Figure]:
    """A figure in our style, saved as PNG without a stamp: the same figure has the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        yield figure
        figure.savefig(out, metadata={"Software": None}, **how)


def _sidecar(out: Path, about: Mapping[str, Any]) -> None:
    out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
