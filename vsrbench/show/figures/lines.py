"""A metric frame by frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.core.errors import MissingError
from vsrbench.core.types import Record
from vsrbench.results.summary import GT, metric_column, metric_infos, newest
from vsrbench.show.figures.kept import titles_of
from vsrbench.show.figures.style import DPI, chart, is_drawn, looks_of, made_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    looks, titles = looks_of(r.method for r in records), titles_of(records, lines)
    first = 1 if info.span == "pair" else 0
    inputs = made_of("time", dataset, clip, lines, column, first, titles, looks)
    if is_drawn(out, inputs):
        return {"methods": list(lines)}
    ends = []
    with chart(out, 6.4, 3.4, inputs) as axes:
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
