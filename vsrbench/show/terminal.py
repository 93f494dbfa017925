"""A Summary drawn for the width of a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vsrbench.results.summary import GT, Block, Cell, Column, Summary
from vsrbench.show.tables import Footnotes, caption, heading, plain, row_title, weights_text

SUPERSCRIPT = {"best": "¹", "second": "²", "": ""}
STYLE = {"best": "bold green", "second": "cyan", "": ""}


def terminal(summary: Summary, width: int, colour: bool, provenance: str = "") -> str:
    """Tables of at most `width` cells: methods as rows, the columns that fit first, the rest below.

    Best and second have a mark and, with `colour`, a colour. Nothing is wrapped but the notes.
    """
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        emoji=False,
    )
    for block in summary.blocks:
        _draw(block, console, width, provenance)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


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
