"""Lines: a metric frame by frame, and cost by size and length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.errors import MissingError
from vsrbench.core.types import Record, size_text
from vsrbench.results.states import cost_size
from vsrbench.results.summary import BASELINE, GT, metric_column, metric_infos, newest
from vsrbench.show.figures.choice import FIRST
from vsrbench.show.figures.kept import titles_of
from vsrbench.show.figures.style import (
    COLUMN,
    PAGE,
    chart,
    digest_inputs,
    drawing,
    looks_of,
    read_sidecar,
    sidecar,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONG = 48
"""Frames from which on a running mean is drawn over the values of single frames."""


def drift(
    records: Iterable[Record],
    dataset: str,
    methods: Sequence[str],
    out: Path,
    metric: str = "",
    clip: str = "",
) -> dict[str, Any]:
    """A metric frame by frame, a line for each method: drift of recurrent methods shows here.

    Without `metric` it is the best known one with values per frame, without `clip` the longest clip
    that has it. Beside each name stands the drift: mean of the last quarter less mean of the first;
    where bicubic has values, too, its own is taken off, and with it what the content does. GT is
    left out of metrics that compare with it. Writes `out` and `<stem>.json`, which is also
    returned. Raises UserError for an unknown metric, MissingError when no method has values per
    frame.
    """
    from matplotlib.ticker import MaxNLocator

    records = list(records)
    have = [r for r in records if r.dataset == dataset and len(r.per_frame) > 1]
    metric = metric or next(
        (m for m in (*FIRST, *(r.metric for r in have)) if any(r.metric == m for r in have)),
        "psnr",
    )
    info = metric_infos(records, [metric])[metric]
    column = metric_column(info)
    counts = {r.clip: len(r.per_frame) for r in have if r.metric == metric}
    clip = clip or max(counts, key=lambda name: counts[name], default="")
    latest = newest(records)
    found = {m: latest.get((dataset, m, clip, metric)) for m in methods}
    lines = {
        m: np.asarray(r.per_frame)
        for m, r in found.items()
        if r is not None and len(r.per_frame) > 1 and not (m == GT and "gt" in info.needs)
    }
    if not lines:
        where = f"{dataset}/{clip}" if clip else dataset
        raise MissingError(
            f"no method here has {metric} frame by frame on {where}", f"run it: --metrics {metric}"
        )
    looks, titles = looks_of(r.method for r in records), titles_of(records, lines)
    values_of = {m: values.tolist() for m, values in lines.items()}
    inputs = digest_inputs(out, "drift", dataset, clip, values_of, column, info.span, titles, looks)
    if about := read_sidecar(out, inputs):
        return about
    changes = {m: _change(values) for m, values in lines.items()}
    apart = BASELINE in changes and len(changes) > 1
    if apart:
        changes = {m: value - changes[BASELINE] for m, value in changes.items() if m != BASELINE}
    said = "mean of the last quarter less that of the first"
    said += f", that of {titles[BASELINE]} taken off" if apart else ""
    about = {
        "figure": "drift",
        "dataset": dataset,
        "clip": clip,
        "metric": metric,
        "methods": list(lines),
        "drift": changes,
        "caption": f"{column.label} of {dataset} / {clip}, frame by frame. Beside the names: drift "
        f"({said}).",
        "made_of": inputs,
    }
    first = 1 if info.span == "pair" else 0
    with chart(out, COLUMN, 2.5) as axes:
        for method, values in lines.items():
            colour, dash = looks[method]
            change = f" ({changes[method]:+.{info.decimals}f})" if method in changes else ""
            look: Any = {"color": colour, "linestyle": dash, "linewidth": 1.1}
            look["label"] = titles[method] + change
            steps = np.arange(first, first + len(values))
            if len(values) >= LONG:
                axes.plot(steps, values, color=colour, linewidth=0.4, alpha=0.45)
                width = LONG // 2
                mean = np.convolve(values, np.full(width, 1 / width), "valid")
                axes.plot(steps[width // 2 :][: len(mean)], mean, **look)
            else:
                axes.plot(steps, values, marker=".", markersize=3, **look)
        axes.margins(0.02, 0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frame t (pair t - 1, t)" if info.span == "pair" else "frame")
        axes.set_ylabel(f"{column.label} {column.arrow}".strip())
        axes.set_title(f"{dataset} / {clip}", loc="left", weight="bold")
        _legend(axes)
    return sidecar(out, about)


def _legend(axes: Axes) -> None:
    """Below the axes, in two columns where names are short enough."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 24 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6)


def _change(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    quarter = max(1, len(values) // 4)
    return float(values[-quarter:].mean() - values[:quarter].mean())


MEMORY = ("vram_peak_mib", "rss_peak_mib")


def growth(records: Iterable[Record], methods: Sequence[str] | None, out: Path) -> dict[str, Any]:
    """How time and memory grow with the size of frames, and with the length of clips.

    Both axes are logarithmic: a straight line of slope 1 is proportional to the pixels. A cross is
    a size at which the method ran out of memory or failed. Memory is VRAM where it was measured,
    else that of the process. Panels by length are drawn where one size was measured at several
    lengths. Writes `out` and `<stem>.json`, which is also returned. Raises MissingError when no
    method was measured at two sizes or lengths.
    """
    own = sorted((r for r in records if r.kind == "cost"), key=lambda r: r.at)
    own = [r for r in own if methods is None or r.method in methods]
    done = [r for r in own if r.measurement and r.status == "ok"]
    part = next((p for p in MEMORY if any(getattr(r.measurement, p) for r in done)), MEMORY[1])
    device = statistics.mode(r.measurement.device for r in done if r.measurement) if done else ""
    done = [r for r in done if r.measurement and r.measurement.device == device]
    by_size = _series(done, lambda r: (r.measurement.frames,), _pixels)
    by_length = _series(done, cost_size, lambda r: r.measurement.frames)
    if not by_size and not by_length:
        names = ",".join(dict.fromkeys(r.method for r in own)) or "A,B"
        raise MissingError(
            "growth needs the cost of a method at two sizes, and one at most is on record",
            f"measure more: vsrbench cost --methods {names} --grid 320x180 640x360",
        )
    looks = looks_of(r.method for r in own)
    titles = titles_of(own, dict.fromkeys(r.method for r in own))
    memory = "VRAM" if part == MEMORY[0] else "memory (RSS)"
    panels: list[tuple[str, Mapping[str, list[Record]], str, str]] = []
    for grown, x_label in ((by_size, "LQ frame, px"), (by_length, "frames of the clip")):
        if grown:
            panels.append(("ms", grown, x_label, "ms a frame"))
            panels.append((part, grown, x_label, f"{memory}, MiB"))
    about = {
        "figure": "growth",
        "methods": list({**by_size, **by_length}),
        "sizes": sorted({size_text(cost_size(r)) for r in done}, key=len),
        "lengths": sorted({r.measurement.frames for r in done if r.measurement}),
        "device": device,
        "caption": f"Cost on {device}. A cross: out of memory, or another failure.",
    }
    failed: dict[str, list[float]] = {}
    for r in own:
        if r.status == "failed" and r.size[0] * r.size[1]:
            failed.setdefault(r.method, []).append(r.size[0] * r.size[1] / 1e6)
    with drawing(out, PAGE, 2.1, layout="constrained") as figure:
        for axes, (name, series, x_label, y_label) in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
        ):
            sizes = series is by_size
            for method, entries in series.items():
                colour, dash = looks[method]
                xs = [_x(r, sizes) for r in entries]
                ys = [_y(r, name) for r in entries]
                style: Any = {"color": colour, "linestyle": dash, "linewidth": 1.1}
                axes.plot(xs, ys, marker="o", markersize=3, label=titles[method], **style)
                for x in failed.get(method, ()) if sizes else ():
                    top = max(y for y in ys if y is not None) if any(ys) else 1.0
                    axes.plot(x, top, "x", color=colour, markersize=6, markeredgewidth=1.5)
            measured = (r for rs in series.values() for r in rs)
            _measured_ticks(axes, {_x(r, sizes): _tick(r, sizes) for r in measured})
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            axes.margins(x=0.06, y=0.08)
            low, high = axes.dataLim.intervaly
            if name == "ms" or high > 20 * low:
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.08 * high)
            axes.yaxis.set_major_formatter("{x:,g}")
        # A method may be in one panel and not in the next.
        named = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        shown = [titles[method] for method in {**by_size, **by_length}]
        figure.legend([named[title] for title in shown], shown, loc="outside right upper")
    return sidecar(out, about)


def _series(records: Iterable[Record], fixed: Any, grows: Any) -> dict[str, list[Record]]:
    """Method -> its records that agree in what is `fixed`, of the most that do, by what grows."""
    found = {}
    for method in dict.fromkeys(r.method for r in records):
        own = sorted((r for r in records if r.method == method), key=lambda r: (fixed(r), grows(r)))
        groups = [
            list({grows(r): r for r in group}.values()) for _, group in groupby(own, key=fixed)
        ]
        longest = max(groups, key=len)
        if len(longest) > 1:
            found[method] = longest
    return found


def _pixels(r: Record) -> int:
    height, width = cost_size(r)
    return height * width


def _x(r: Record, sizes: bool) -> float:
    assert r.measurement is not None
    return _pixels(r) / 1e6 if sizes else float(r.measurement.frames)


def _y(r: Record, name: str) -> float:
    assert r.measurement is not None
    value = r.measurement.median_ms if name == "ms" else getattr(r.measurement, name)
    return float(value) if value else math.nan


def _tick(r: Record, sizes: bool) -> str:
    assert r.measurement is not None
    return size_text(cost_size(r)) if sizes else str(r.measurement.frames)


def _measured_ticks(axes: Axes, ticks: Mapping[float, str]) -> None:
    """A logarithmic x axis with ticks where something was measured, eight at most."""
    from matplotlib.ticker import NullLocator

    places = sorted(ticks)
    places = places[:: math.ceil(len(places) / 8)]
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    turned: Any = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, [ticks[x] for x in places], **(turned if len(places) > 3 else {}))
