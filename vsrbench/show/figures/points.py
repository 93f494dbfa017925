"""Quality against cost: a point for each method, and the Pareto front."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.errors import MissingError, unknown
from vsrbench.core.types import size_text
from vsrbench.metrics import METRICS
from vsrbench.results.summary import COST, GT, WEIGHTS, Block, Row, Summary, setting_text
from vsrbench.show.figures.style import (
    DPI,
    GREY,
    MARKERS,
    chart,
    is_drawn,
    looks_of,
    made_of,
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
    summary: Summary, out: Path, x: str = "ms", y: str = "psnr", dataset: str = ""
) -> dict[str, Any]:
    """Quality against cost on one dataset: log cost, Pareto front, area of a point = parameters.

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
    looks = looks_of(row.method for b in summary.blocks for row in b.rows)
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
            f"measure the cost: cost --methods ... --size {block.size[1]}x{block.size[0]}",
        )
    fair = [p for p in points if p.row.cells[x].comparable]
    best = [fair[i] for i in pareto([(columns[x].rank(p.x), columns[y].rank(p.y)) for p in fair])]
    best.sort(key=lambda p: p.x)
    about = {"front": [p.row.method for p in best], "hidden": hidden}
    inputs = made_of("scatter", block, x, y, looks)
    if is_drawn(out, inputs):
        return about

    with chart(out, 6.0, 4.2, inputs) as axes:
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
    return about


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
