"""The first figure of a paper: what each method shows, what it costs, how it scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.core.progress import counted
from vsrbench.core.types import size_text
from vsrbench.results.summary import GT, Column, Row, Summary
from vsrbench.show.figures.choice import cost_columns, quality_columns
from vsrbench.show.figures.kept import Kept
from vsrbench.show.figures.pictures import Box, choose_views, crop_sheet, shorten
from vsrbench.show.figures.style import HEAD, INK, PAGE, PALE, SMALL, looks_of, sidecar, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOM = 2.9
"""Width of the right half, inches."""
COSTS = ("ms", "vram", "rss", "params", "energy")
"""Parts of the cost that are shown, the first three that there are."""


def teaser(
    kept: Kept, summary: Summary, out: Path, box: Box | None = None, frame: int | None = None
) -> dict[str, Any]:
    """Crops left, efficiency and quality right, as wide as a page of two columns.

    The crops are those of `crops`, with its rules for `box` and `frame`. Right are up to three
    parts of the cost, as bars from zero, and up to three metrics that rank the methods here, as
    points with their intervals, so that right is better. Writes `out` and `<stem>.json`, which is
    also returned, with a caption. Raises what `crops` raises.
    """
    block = summary.block(kept.dataset)
    chosen = choose_views(kept, box, frame)
    rows = [row for row in block.rows if row.method != GT and row.method in chosen.views]
    costs = {column.name: column for column in cost_columns(block)}
    names = [n for n in COSTS if n in costs and not (n == "rss" and "vram" in costs)]
    costs_shown = [costs[n] for n in names][:3]
    metrics = [c for c in quality_columns(block) if c.title not in block.unranked][:3]
    x, y, w, h = chosen.box
    caption = [
        f"Left: frame {chosen.frame} of {kept.dataset} / {kept.clip}; box {w}x{h} at ({x}, {y}), "
        f"{chosen.rule}."
    ]
    if costs_shown:
        caption.append(f"Efficiency: {block.setting}, LQ {size_text(block.size)}.")
    if metrics:
        caption.append(f"Quality: means over {counted(len(block.clips), 'clip')} of {block.title}.")
    about = {
        "figure": "teaser",
        **chosen.about,
        "efficiency": [c.name for c in costs_shown],
        "quality": [c.name for c in metrics],
        "caption": " ".join(caption),
    }
    groups = [
        (f"Efficiency (LQ {size_text(block.size)})", costs_shown, True),
        (f"Quality ({block.title}, {counted(len(block.clips), 'clip')})", metrics, False),
    ]
    groups = [group for group in groups if group[1]]
    if not groups:
        with crop_sheet(out, PAGE, chosen):
            pass
        return sidecar(out, about)
    colours = {m: look[0] for m, look in looks_of(r.method for r in block.rows).items()}
    with crop_sheet(out, PAGE, chosen, beside=ROOM) as (page, left, height, unit):
        figure = page.get_figure(root=True)
        assert figure is not None
        each = height / len(groups)
        for i, (title, columns, bars) in enumerate(groups):
            top = i * each
            page.text(left, top + 1 * unit, title, va="top", **HEAD)
            _group(page, figure, rows, columns, bars, colours, (left, top, each, unit))
    return sidecar(out, about)


def _group(
    page: Axes,
    figure: Figure,
    rows: Sequence[Row],
    columns: Sequence[Column],
    bars: bool,
    colours: dict[str, str],
    place: tuple[float, float, float, float],
) -> None:
    """Methods down, columns across; a bar or a point and its value in each cell.

    place: left, top and height in px, and px in a point.
    """
    left, top, height, unit = place
    width, bottom = page.get_xlim()[1], page.get_ylim()[0]
    names = 54 * unit
    each = (width - left - names) / len(columns)
    head, foot = 23 * unit, 3 * unit
    room = (height - head - foot) / len(rows)
    short = shorten([row.title for row in rows])
    for j, row in enumerate(rows):
        middle = top + head + (j + 0.5) * room
        look: Any = {"size": 7, "color": colours[row.method], "weight": "bold", "va": "center"}
        write(page, left, middle, short[j], names - 4 * unit, lines=2, **look)
    for i, column in enumerate(columns):
        start = left + names + i * each
        said = f"{column.label} {column.arrow}".strip()
        write(page, start, top + 19 * unit, said, each - 4 * unit, va="bottom", size=6.5, color=INK)
        area = (start, bottom - top - height + foot, 0.42 * each, height - head - foot)
        axes = figure.add_axes(
            (area[0] / width, area[1] / bottom, area[2] / width, area[3] / bottom)
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.grid(False)
        axes.spines[["bottom"]].set_visible(False)
        cells = {j: row.cells[column.name] for j, row in enumerate(rows)}
        have = {j: cell for j, cell in cells.items() if cell.value is not None}
        values = [cell.value or 0.0 for cell in have.values()]
        shades = [colours[rows[j].method] for j in have]
        if bars:
            axes.barh(list(have), values, 0.55, color=shades)
            axes.set_xlim(0, max(values, default=0.0) or 1.0)
        else:
            ends = [cell.ci95 or 0.0 for cell in have.values()]
            for j, value, end, shade in zip(have, values, ends, shades, strict=True):
                axes.plot((value - end, value + end), (j, j), color=shade, linewidth=0.8)
            axes.scatter(values, list(have), 12, color=shades, zorder=3)
            axes.spines[["left"]].set_color(PALE)
            axes.margins(x=0.12)
            if column.better == "lower":
                axes.invert_xaxis()
        for j, cell in cells.items():
            text = "–" if cell.value is None else column.text(cell.value)
            best: Any = {"weight": "bold"} if cell.mark == "best" else {}
            end, middle = start + each - 5 * unit, top + head + (j + 0.5) * room
            look = {"ha": "right", "va": "center", "size": 6.5, **best}
            write(page, end, middle, text, 0.58 * each - 6 * unit, **look)
    if not bars:
        page.text(width - 2 * unit, top + unit, "right is better", ha="right", va="top", **SMALL)
