"""A Summary as Markdown, CSV and JSON, and the wording that all forms share.

Numbers are rounded when they are printed and nowhere before. Names come from files and folders of
strangers: every form shows them and none lets them act.
"""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tabulate import tabulate

from vsrbench.core.errors import unknown_name
from vsrbench.core.progress import counted, plain
from vsrbench.core.types import Origin, size_text
from vsrbench.results.summary import COST, GT, WEIGHTS, Block, Cell, Column, Row, Summary

LEGEND: Mapping[Origin, str] = {
    "official": "the file the authors published",
    "trained_here": "trained in this repository, not by the authors, see the card",
    "user": "supplied by the user, origin unknown here",
    "random": "random weights, only the cost means anything",
}
RUNS_SHOWN = 3
COSTS = frozenset(column.name for column in COST.values())
"""Names of the columns of the cost."""


def markdown(summary: Summary, provenance: str = "") -> str:
    """Pipe tables with padded columns, readable on a terminal; one for each block.

    provenance: package version and commit, printed in the caption when given.
    """
    return "\n".join(_markdown_block(block, provenance) for block in summary.blocks)


def _markdown_block(block: Block, provenance: str) -> str:
    notes = Footnotes()

    def value(cell: Cell, column: Column) -> str:
        if cell.value is None:
            return f"– [{notes.number(cell.note)}]"
        wrap = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}[cell.mark]
        text = wrap.format(column.text(cell.value))
        text += f" ±{column.text(cell.ci95)}" if cell.ci95 is not None else ""
        text += " ~" if cell.noise else ""
        return text + (f" [{notes.number(cell.note)}]" if cell.note else "")

    labels = (escape(f"{c.label} {c.arrow}".strip()) for c in block.columns)
    head = [escape(heading(block)), "weights", *labels]
    body = [
        [
            escape(row_title(row)),
            weights_text(row),
            *(value(row.cells[c.name], c) for c in block.columns),
        ]
        for row in block.rows
    ]
    align = ("left", "left", *("right" for _ in block.columns))
    table = tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    footer = [
        *notes.lines("[{}] {}", escape),
        *map(escape, block.notes),
        escape(" ".join(caption(block, provenance))),
    ]
    return "\n\n".join([table, *footer]) + "\n"


def csv(summary: Summary) -> str:
    """Long form: one line for each method and metric or cost, at full precision.

    Missing values are empty and have a reason. `clips` of `of` clips have a score; both are empty
    for cost, which was measured at the LQ size of the line. `scored_on` says which frames were
    scored and what was cut from them.
    """
    names = (
        "dataset,method,weights,metric,unit,mean,ci95,clips,of,reason,lq_width,lq_height,scored_on"
    )
    lines = []
    for block in summary.blocks:
        for row in block.rows:
            for column in block.columns:
                cell = row.cells[column.name]
                coverage = [len(cell.clips), cell.of] if cell.of else ["", ""]
                start = [block.dataset, row.method, _origin(row), column.name, column.unit]
                extent = [
                    text for text, titles in block.scored_on.items() if column.title in titles
                ]
                size = block.size[::-1] if any(block.size) else ("", "")
                line = [*start, cell.value, cell.ci95, *coverage, cell.note, *size]
                lines.append([*line, "; ".join(extent)])
    return _csv(names.split(","), lines)


def csv_wide(summary: Summary) -> str:
    """One line for each dataset and method, one column for each metric and cost, unit in its name.

    Values are at full precision; what is missing is empty.
    """
    columns = dict.fromkeys(
        (c.name, f"{c.name} [{c.unit}]" if c.unit else c.name)
        for block in summary.blocks
        for c in block.columns
    )
    lines = []
    for block in summary.blocks:
        for row in block.rows:
            cells = (row.cells.get(name) for name, _ in columns)
            start = [block.dataset, row.method, _origin(row)]
            lines.append([*start, *(cell.value if cell else None for cell in cells)])
    return _csv(["dataset", "method", "weights", *(label for _, label in columns)], lines)


def json(summary: Summary) -> str:
    """Everything in a table as JSON: blocks, their columns, rows, and cells with clips."""
    return json_module.dumps(asdict(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _origin(row: Row) -> str:
    return "published" if row.published else row.origin


def _csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        # A spreadsheet takes text that begins like this for a formula.
        writer.writerow(
            f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell
            for cell in (plain(c) if isinstance(c, str) else c for c in line)
        )
    return out.getvalue()


class Footnotes:
    """Numbers for reasons, the same for the same reason."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a reason."""
        return self.texts.setdefault(text, len(self.texts) + 1)

    def lines(self, form: str, escape: Callable[[str], str] = str) -> list[str]:
        """All reasons, each as `form` of its number and text."""
        return [form.format(number, escape(text)) for text, number in self.texts.items()]


def heading(block: Block) -> str:
    """The top left cell: dataset, scale, clips; or the size of a block of cost alone."""
    if not block.dataset:
        return f"{block.title}, LQ {size_text(block.size)}"
    scale = f", x{block.scale}" if block.scale else ""
    clips = f", {counted(len(block.clips), 'clip')}" if block.clips else ""
    return f"{block.title}{scale}{clips}"


def row_title(row: Row) -> str:
    """Name of a method in its row."""
    return f"{row.title} (reference)" if row.method == GT else row.title


def weights_text(row: Row) -> str:
    """Where the weights of a row come from, in the words of the legend."""
    return "published" if row.published else WEIGHTS[row.origin]


def caption(block: Block, provenance: str, marks: bool = True) -> list[str]:
    """Everything a reader needs to read and repeat the table, as sentences.

    marks: with what bold and underlined mean.
    """
    cells = [cell for row in block.rows for cell in row.cells.values()]
    said: list[str] = []
    if block.clips:
        lengths = sorted(set(block.clips.values()) - {0}) or [0]
        each = counted(lengths[-1], "frame")
        each = each if len(lengths) == 1 else f"{lengths[0]} to {each}"
        said.append(f"Means over {counted(len(block.clips), 'clip')} of {each}.")
        for extent, metrics in block.scored_on.items():
            which = f"{', '.join(metrics)}: s" if len(block.scored_on) > 1 else "S"
            said.append(f"{which}cored on {extent}.")
    if any(cell.ci95 is not None for cell in cells):
        said.append("±: 95 % Student-t interval over clips.")
    if marks and any(cell.mark for cell in cells):
        apart = ["GT"] if any(row.method == GT for row in block.rows) else []
        if block.clips and any(row.published for row in block.rows):
            apart.append("published rows")
        reference = f", {' and '.join(apart)} apart" if apart else ""
        said.append(f"Bold: best, underlined: second, at printed precision{reference}.")
    if any(cell.noise for cell in cells):
        said.append("~: not told apart from the best (paired t-test over clips, Holm, 5 %).")
    if block.unranked:
        compare, reward, are = (
            ("compares", "it rewards", "is")
            if len(block.unranked) == 1
            else ("compare", "they reward", "are")
        )
        said.append(
            f"Without GT, {', '.join(block.unranked)} {compare} with LQ, as it is or upscaled: "
            f"{reward} what stays like it, as bicubic does by construction, and {are} not ranked."
        )
    origins: list[Origin] = list(
        dict.fromkeys(row.origin for row in block.rows if not row.published)
    )
    if set(origins) - {"official", "none"}:
        legend = (f"{WEIGHTS[o]} = {LEGEND[o]}" for o in origins if o in LEGEND)
        said.append(f"Weights: {'; '.join(legend)}.")
    for flow, metrics in block.flows.items():
        said.append(f"Flow for {', '.join(metrics)}: {flow}.")
    if block.setting:
        precision = _grouped({row.title: row.precision for row in block.rows if row.measurement})
        said.append(
            f"Cost: {block.setting}, {precision}, LQ {size_text(block.size)} (width x height); "
            "ms: median of the frames, fps: over the whole time."
        )
    if block.runs:
        more = len(block.runs) - RUNS_SHOWN
        shown = ", ".join(block.runs[-RUNS_SHOWN:]) + (f" and {more} before" if more > 0 else "")
        said.append(f"{'Run' if len(block.runs) == 1 else 'Runs'}: {shown}.")
    return [*said, f"{provenance}."] if provenance else said


def _grouped(values: Mapping[str, str]) -> str:
    """`fp32` when all agree, else `fp32 (A), fp16 (B, C)`."""
    kinds = list(dict.fromkeys(values.values()))
    if len(kinds) == 1:
        return kinds[0]
    return ", ".join(f"{k} ({', '.join(n for n, v in values.items() if v == k)})" for k in kinds)


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no entities, no borders of cells."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", plain(text)).replace("<", "&lt;")
    return re.sub(r"([\\|`])", r"\\\1", text)


def select(summary: Summary, cost: bool = True, sort: str = "", drop_empty: bool = True) -> Summary:
    """What of a summary is to be shown.

    cost: with the columns of the cost. sort: name of the column by which rows are ordered, best
    first, rows without a value last; GT stays the last row. drop_empty: columns that are absent for
    all methods become a note with their reasons; failures stay in sight. Raises
    UserError for a column that no block has.
    """
    known = {c.name for block in summary.blocks for c in block.columns}
    if sort and sort not in known:
        raise unknown_name("column", sort, known)
    return Summary(tuple(_select_block(block, cost, sort, drop_empty) for block in summary.blocks))


def _select_block(block: Block, cost: bool, sort: str, drop_empty: bool) -> Block:
    columns = [c for c in block.columns if cost or not block.dataset or c.name not in COSTS]
    with_cost = any(c.name in COSTS for c in columns)
    notes = [note for note in block.notes if with_cost or note not in block.cost_notes]
    rows = [row for row in block.rows if row.method != GT] or list(block.rows)
    if drop_empty:
        reasons: dict[str, list[str]] = {}
        for column in columns:
            cells = [row.cells[column.name] for row in rows]
            if all(cell.value is None and cell.absent for cell in cells):
                why = "; ".join(dict.fromkeys(cell.note for cell in cells if cell.note))
                reasons.setdefault(why or "no value", []).append(column.name)
        empty = {name for names in reasons.values() for name in names}
        title = {c.name: c.title or c.unit for c in columns}
        notes += [f"No {', '.join(title[n] for n in ns)}: {why}" for why, ns in reasons.items()]
        columns = [c for c in columns if c.name not in empty]
    order = list(block.rows)
    if by := next((c for c in block.columns if c.name == sort), None):

        def rank(row: Row) -> tuple[bool, bool, float]:
            value = row.cells[by.name].value
            return row.method == GT, value is None, 0.0 if value is None else by.rank(value)

        order.sort(key=rank)
    return replace(
        block,
        columns=tuple(columns),
        rows=tuple(order),
        notes=tuple(notes),
        setting=block.setting if with_cost else "",
    )
