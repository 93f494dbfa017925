"""A Summary, or a comparison, drawn for the width of a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vsrbench.core.progress import plain
from vsrbench.results.compare import REGRESSIONS, WORDS, Change, format_signed, legend
from vsrbench.results.summary import GT, Block, Cell, Column, Summary
from vsrbench.show.tables import Footnotes, caption, heading, row_title, weights_text

SUPERSCRIPT = {"best": "¹", "second": "²", "": ""}
VERDICTS = {"better": "green", "new": "cyan"}
STYLE = {"best": "bold green", "second": "cyan", "": ""}


def terminal(summary: Summary, width: int, colour: bool, provenance: str = "") -> str:
    """Tables of at most `width` cells: methods as rows, the columns that fit first, the rest below.

    Best and second have a mark and, with `colour`, a colour. Nothing is wrapped but the notes.
    """
    console = _console(width, colour)
    for block in summary.blocks:
        _draw(block, console, width, provenance)
    return _text(console)


def _draw(block: Block, console: Console, width: int, provenance: str) -> None:
    notes = Footnotes()
    cells = {
        (row.method, column.name): _cell(row.cells[column.name], column, notes)
        for row in block.rows
        for column in block.columns
    }
    names = {row.method: Text(plain(row_title(row)), overflow="ellipsis") for row in block.rows}
    room = max(12, width // 3)
    first = min(room, max([cell_len(heading(block)), *(name.cell_len for name in names.values())]))
    weights = max([7, *(cell_len(weights_text(row)) for row in block.rows)])
    heads = {c.name: _head(c) for c in block.columns}
    widths = {
        c.name: max(
            *(cell_len(line) for line in heads[c.name].split("\n")),
            *(cells[row.method, c.name].cell_len for row in block.rows),
        )
        for c in block.columns
    }
    for number, part in enumerate(_parts(block.columns, widths, width, first, weights)):
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
        title = Text(plain(heading(block)) if number == 0 else "", overflow="ellipsis")
        table.add_column(title, max_width=first, no_wrap=True)
        if number == 0:
            table.add_column("weights", no_wrap=True)
        for column in part:
            table.add_column(heads[column.name], justify="right", no_wrap=True, vertical="bottom")
        for row in block.rows:
            if row.method == GT and len(block.rows) > 1:
                table.add_section()
            lead = [names[row.method], *([Text(weights_text(row))] if number == 0 else [])]
            style = "dim" if row.method == GT else ""
            table.add_row(*lead, *(cells[row.method, c.name] for c in part), style=style)
        console.print(table)
        console.print()
    marks = {cell.mark for row in block.rows for cell in row.cells.values()}
    legend = [f"{SUPERSCRIPT['best']} best"] if "best" in marks else []
    legend += [f"{SUPERSCRIPT['second']} second"] if "second" in marks else []
    said = [", ".join(legend) + ", GT apart."] if legend else []
    for line in (
        *notes.lines("[{}] {}"),
        *block.notes,
        " ".join([*said, *caption(block, provenance, marks=False)]),
    ):
        console.print(Text(plain(line)), style="dim", soft_wrap=False)
    console.print()


def format_changes(
    found: Sequence[Change], verdict: str, width: int, colour: bool, everything: bool = False
) -> str:
    """A comparison: what changed (all with `everything`, or if nothing did), and the verdict."""
    console = _console(width, colour)
    changed = [c for c in found if c.verdict not in ("same", "unjudged")]
    shown = list(found) if everything or not changed else changed
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for head in ("", "method", "metric"):
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    for head in ("base", "new", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    notes = Footnotes()
    for c in shown:
        numbers = ["", "", ""]
        if c.base is not None and c.new is not None:
            spread = f" ±{c.column.text(c.ci95)}" if c.ci95 is not None else ""
            difference = format_signed(c.column, c.new - c.base) + spread
            numbers = [c.column.text(c.base), c.column.text(c.new), difference]
        note = "; ".join(filter(None, (c.worst and f"worst: {c.worst}", c.note)))
        mark = f" [{notes.number(note)}]" if note and c.verdict not in ("same", "unjudged") else ""
        style = "bold red" if c.verdict in REGRESSIONS else VERDICTS.get(c.verdict, "")
        label = f"{c.column.label} {c.column.arrow}".strip()
        cells = [plain(c.where), plain(c.method), label, *numbers]
        table.add_row(*map(Text, cells), Text(f"{WORDS[c.verdict]}{mark}", style))
    console.print(table)
    console.print()
    for line in (*notes.lines("[{}] {}"), legend(shown)):
        console.print(Text(plain(line)), style="dim", soft_wrap=False)
    console.print(Text(plain(verdict)), style="bold red" if "REGRESSION" in verdict else "bold")
    return _text(console)


def _console(width: int, colour: bool) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        emoji=False,
    )


def _text(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def _parts(
    columns: Sequence[Column], widths: dict[str, int], width: int, first: int, weights: int
) -> list[list[Column]]:
    """Columns in as few groups as fit the width; the first also holds the weights."""
    parts: list[list[Column]] = [[]]
    used = first + 2 + weights
    for column in columns:
        need = widths[column.name] + 2
        if parts[-1] and used + need > width:
            parts.append([])
            used = first
        parts[-1].append(column)
        used += need
    return parts


def _head(column: Column) -> str:
    """Title, and below it unit and direction."""
    below = f"{column.unit} {column.arrow}".strip()
    return f"{column.title}\n{below}" if column.title else below


def _cell(cell: Cell, column: Column, notes: Footnotes) -> Text:
    note = f" [{notes.number(cell.note)}]" if cell.note else ""
    if cell.value is None:
        return Text(f"–{note}")
    text = Text(column.text(cell.value), STYLE[cell.mark])
    text.append(SUPERSCRIPT[cell.mark])
    text.append(f" ±{column.text(cell.ci95)}" if cell.ci95 is not None else "", "dim")
    text.append(" ~" if cell.noise else "")
    text.append(note)
    return text
