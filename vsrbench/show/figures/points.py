"""Quality against cost: a point for each method, and the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.errors import MissingError, unknown_name
from vsrbench.core.types import size_text
from vsrbench.metrics import METRICS
from vsrbench.results.summary import GT, WEIGHTS, Block, Row, Summary
from vsrbench.show.figures.choice import COST_NAMES, cost_columns, quality_columns
from vsrbench.show.figures.style import (
    COLUMN,
    GREY,
    INK,
    MARKERS,
    chart,
    digest_inputs,
    looks_of,
    read_sidecar,
    sidecar,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


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
    summary: Summary, out: Path, x: str = "", y: str = "", dataset: str = ""
) -> dict[str, Any]:
    """Quality against cost on one dataset: log cost, Pareto front, area of a point = parameters.

    `x` and `y` are columns of the summary. Without `y` it is the best known metric that ranks the
    methods here; without `x` the first part of the cost that was measured at this size, else
    another metric. y is drawn so that up is better. Without `dataset` it is the first one. Cost
    that is not ranked is drawn hollow and stays off the front. Writes `out` and
    `<stem>.json`, which is also returned: the axes, the methods on the front, those left out with
    their reasons, a caption. Raises UserError for an unknown column, MissingError when no method
    has both.
    """
    shown = (c.name for b in summary.blocks for c in b.columns)
    known = {*METRICS, *COST_NAMES, *shown}
    for name in filter(None, (x, y)):
        if name not in known:
            raise unknown_name("column", name, known)
    block = summary.block(dataset) if dataset else summary.blocks[0]
    x, y = _axes(block, x, y)
    columns = {c.name: c for c in block.columns}
    log = x in COST_NAMES
    looks = looks_of(row.method for b in summary.blocks for row in b.rows)
    params = {r.method: (r.measurement.params_m if r.measurement else 0) or 0 for r in block.rows}
    largest = max(params.values(), default=0)
    points, hidden = [], {}
    for row in block.rows if {x, y} <= set(columns) else ():
        cost, quality = row.cells[x], row.cells[y]
        if row.method == GT and not log:
            continue
        if log and cost.value is not None and cost.value <= 0:
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
            f"measure the cost: cost --methods ... --size {block.size[1]}x{block.size[0]}",
        )
    fair = [p for p in points if p.row.cells[x].comparable or not log]
    best = [fair[i] for i in pareto([(columns[x].rank(p.x), columns[y].rank(p.y)) for p in fair])]
    best.sort(key=lambda p: p.x)
    inputs = digest_inputs(out, "scatter", block, x, y, looks)
    if about := read_sidecar(out, inputs):
        return about
    about = {
        "figure": "scatter",
        "dataset": block.dataset,
        "x": x,
        "y": y,
        "front": [p.row.method for p in best],
        "hidden": hidden,
        "caption": _caption(block, x, points, fair, best, hidden),
        "made_of": inputs,
    }

    with chart(out, COLUMN, 2.75) as axes:
        front: Any = {"color": INK, "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 1}
        if len(best) > 1:
            axes.plot([p.x for p in best], [p.y for p in best], label="Pareto front", **front)
        for p in sorted(points, key=lambda p: -p.area):  # small points on top of large ones
            axes.errorbar(p.x, p.y, p.error, color=p.colour, linewidth=0.8, alpha=0.35)
            face, edge = (p.colour, "white") if p in fair else ("white", p.colour)
            look: Any = {"facecolor": face, "edgecolor": edge, "linewidth": 0.8, "zorder": 3}
            axes.scatter(p.x, p.y, p.area, marker=MARKERS[p.row.origin], **look)
        axes.margins(0.16, 0.12)
        if log:
            _log_scale(axes)
        axes.set_ylabel(f"{columns[y].label} {columns[y].arrow}")
        x_label = f"{columns[x].label} {columns[x].arrow}".strip()
        if log:
            x_label += f", LQ {size_text(block.size)}, log scale"
        axes.set_xlabel(x_label)
        if columns[y].better == "lower":
            axes.invert_yaxis()
            axes.set_ylabel(f"{columns[y].label} {columns[y].arrow} (axis flipped)")
        if not log and columns[x].better == "higher":
            axes.invert_xaxis()
            axes.set_xlabel(f"{x_label} (axis flipped)")
        axes.set_title(block.title, loc="left", weight="bold")
        _keys(axes, points, fair, largest)
        _names(axes, points, best)
    return sidecar(out, about)


def _axes(block: Block, x: str, y: str) -> tuple[str, str]:
    """The axes that were asked for, the others by what the block has."""
    quality = [c.name for c in quality_columns(block)] or ["psnr"]
    y = y or next((name for name in quality if name != x), quality[0])
    others = [c.name for c in cost_columns(block)] + [name for name in quality if name != y]
    return x or next(iter(others), "ms"), y


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: none is as low in both and lower in one."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    ]


def _area(params: float, largest: float) -> float:
    return max(22.0, 240.0 * params / largest) if params else 22.0


def _log_scale(axes: Axes) -> None:
    """A logarithmic x axis that says 0.5 and 1,000 and not 5e-01 and 10^3."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,g}" if super().__call__(x, pos) else ""

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(Plain())
    axes.xaxis.set_minor_formatter(Plain(labelOnlyBase=False))


def _keys(axes: Axes, points: Sequence[_Point], fair: Sequence[_Point], largest: float) -> None:
    """Legend below the axes: front, weights (shape), parameters (area), what hollow points are."""

    def key(marker: str, area: float, label: str, **look: Any) -> Any:
        look = look or {"color": GREY, "linewidth": 0}
        return axes.scatter([], [], area, marker=marker, label=label, **look)

    origins = dict.fromkeys(p.row.origin for p in points)
    words = {"none": "no weights", "official": "official weights", "random": "untrained"}
    sizes = [d for e in range(-2, 5) if (d := 10.0**e) <= largest and _area(d, largest) > 22]
    handles = [
        *axes.get_legend_handles_labels()[0],
        *(key(MARKERS[o], 22, words.get(o, WEIGHTS[o].rstrip("*"))) for o in origins),
        *(key("o", _area(d, largest), f"{d:g} M parameters") for d in sizes[-2:]),
    ]
    if len(fair) < len(points):
        hollow = {"facecolor": "white", "edgecolor": GREY, "linewidth": 0.8}
        handles.append(key("o", 22, "cost not ranked", **hollow))
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(handles=handles, loc="outside lower center", ncols=2, labelspacing=0.6)


def _names(axes: Axes, points: Sequence[_Point], front: Sequence[_Point]) -> None:
    """A name beside each point, at the place around it that covers least of what is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()

    def at(x: float, y: float) -> NDArray[np.float64]:
        return np.asarray(axes.transData.transform((x, y)))

    taken, bars = [], []
    for p in points:
        radius = math.sqrt(p.area) / 2 * figure.dpi / 72
        taken.append(Bbox([at(p.x, p.y) - radius, at(p.x, p.y) + radius]))
        bars.append(Bbox([at(p.x, p.y - p.error) - 2, at(p.x, p.y + p.error) + 2]))
    for p, q in itertools.pairwise(front):
        for step in np.linspace(at(p.x, p.y), at(q.x, q.y), 100):
            taken.append(Bbox([step - 2, step + 2]))
    frame = axes.get_window_extent(renderer).padded(-8)
    for p in points:
        reach = math.sqrt(p.area) / 2 + 2.5
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
                fontsize=7,
                weight="bold",
                in_layout=False,
            )
            extent = label.get_window_extent(renderer)
            outside = extent.width * extent.height - _overlap(extent, frame)
            label.remove()
            covered = 3 * sum(_overlap(extent, t) for t in taken)
            pale = sum(_overlap(extent, bar) for bar in bars)
            tries.append((10 * outside + covered + pale, label, extent))
        _, label, extent = min(tries, key=lambda found: found[0])
        label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        axes.add_artist(label)
        taken.append(extent)


def _overlap(a: Any, b: Any) -> float:
    """Area that two boxes share, in square px."""
    width = min(a.xmax, b.xmax) - max(a.xmin, b.xmin)
    height = min(a.ymax, b.ymax) - max(a.ymin, b.ymin)
    return float(max(0.0, width) * max(0.0, height))


def _caption(
    block: Block,
    x: str,
    points: Sequence[_Point],
    fair: Sequence[_Point],
    front: Sequence[_Point],
    hidden: Mapping[str, str],
) -> str:
    said = ["Line: Pareto front."] if len(front) > 1 else []
    if len(front) == 1 < len(fair):
        said.append(f"{front[0].row.title} is the whole Pareto front.")
    if x in COST_NAMES:
        precisions = ", ".join(dict.fromkeys(p.row.precision for p in points))
        said = [f"Cost: {block.setting}, {precisions}.", *said]
    if any(p.error for p in points):
        said.append(f"Bars: 95 % Student-t interval over {len(block.clips)} clips.")
    others = {p.row.title: p.row.cells[x].note for p in points if p not in fair}
    said += [f"Hollow, not on the front: {title}: {why}." for title, why in others.items()]
    if hidden:
        said.append(f"Not shown: {'; '.join(f'{m} ({why})' for m, why in hidden.items())}.")
    return " ".join(said)
