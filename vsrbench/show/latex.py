"""A Summary as LaTeX for a paper: booktabs, short captions, never wider than the page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from vsrbench.core.progress import plain
from vsrbench.core.types import size_text
from vsrbench.results.summary import GT, Block, Cell, Column, Row, Summary
from vsrbench.show.tables import COSTS, Footnotes, caption, heading, row_title

PREAMBLE = r"""% needs \usepackage{booktabs,graphicx}
\providecommand{\best}[1]{\textbf{#1}}
\providecommand{\second}[1]{\underline{#1}}
\providecommand{\ci}[1]{{\scriptsize$\pm$#1}}
\providecommand{\fitwidth}[1]{\sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
"""
WIDTH_PT: Mapping[int, float] = {1: 240.0, 2: 500.0}
"""Room of one and of two columns of a usual paper."""
SMALLEST = 0.8
"""A table is set in parts below each other rather than shrunk to less than this."""
HEIGHT_PT = 530.0
"""Room of a float on a usual page, its caption included."""


def latex(summary: Summary, provenance: str = "", columns: Literal[1, 2] = 2) -> str:
    r"""One float for each block: `table` in one column of the page, `table*` across two.

    A block with more columns than fit is set as several tabulars below each other, and where these
    are higher than a page, as several floats of one number. The marks are the macros \best, \second
    and \ci; a paper that defines its own keeps them. What a reader of the paper does not need
    (reasons of what is missing, hardware, commit) stands above the float as comments.
    provenance: package version and commit.
    """
    blocks = (_block(block, provenance, columns) for block in summary.blocks)
    return "\n".join([PREAMBLE, *blocks])


def _block(block: Block, provenance: str, columns: Literal[1, 2]) -> str:
    notes = Footnotes()
    parts = _parts(block, WIDTH_PT[columns] / SMALLEST)
    # Notes are numbered in the order of the printed cells.
    body = [_tabular(block, part, notes) for part in parts]
    pages = _paginate(body, len(_caption(block)) * 5 / WIDTH_PT[columns])
    float_name = "table*" if columns == 2 else "table"
    label = re.sub("[^A-Za-z0-9-]+", "-", block.dataset or f"cost-{size_text(block.size)}")
    comments = [
        *notes.lines("({}) {}"),
        *block.notes,
        *caption(block, provenance),
    ]
    lines = [f"% {plain(line)}" for line in comments]
    for number, page in enumerate(pages):
        if number:
            lines.append(r"\addtocounter{table}{-1}")
        lines += [
            rf"\begin{{{float_name}}}[t]",
            r"\centering\small\setlength{\tabcolsep}{3.5pt}",
            rf"\caption{{{f'{tex(heading(block))}, continued.' if number else _caption(block)}}}",
            *([] if number else [rf"\label{{tab:{label}}}"]),
            "\\par\\smallskip\n".join(page),
            rf"\end{{{float_name}}}",
            "",
        ]
    return "\n".join(lines)


def _paginate(tabulars: Sequence[str], caption_lines: float) -> list[list[str]]:
    """The tabulars of each float, in their order: none is higher than a page if one fits it."""
    pages: list[list[str]] = []
    used = math.inf
    for tabular in tabulars:
        height = 11.5 * tabular.count(r"\\") + 15
        if used + height > HEIGHT_PT:
            used = 12 * (math.ceil(caption_lines) + 1)
            pages.append([])
        pages[-1].append(tabular)
        used += height
    return pages


def _caption(block: Block) -> str:
    """What a reader needs to understand the marks, in two lines."""
    cells = [row.cells[c.name] for row in block.rows for c in block.columns]
    lacking = any(
        row.cells[c.name].value is None and not (row.method == GT and c.name in COSTS)
        for row in block.rows
        for c in block.columns
    )
    said = [f"{tex(heading(block))}."]
    if any(cell.mark for cell in cells):
        said.append(r"\best{Best} and \second{second}.")
    if any(cell.ci95 is not None for cell in cells):
        said.append(r"\ci{}: 95\,\% interval over clips.")
    if any(cell.noise for cell in cells):
        said.append(r"$\sim$: not told apart from the best.")
    if any(row.origin == "trained_here" for row in block.rows):
        said.append(r"$^{*}$: trained by vsrbench, not by the authors.")
    if lacking:
        said.append("--: no value.")
    return " ".join(said)


def _tabular(block: Block, columns: Sequence[Column], notes: Footnotes) -> str:
    arrows = {"higher": r"\,$\uparrow$", "lower": r"\,$\downarrow$", "one": r"\,$\to$1", "": ""}
    head = ["", *(tex(c.label) + arrows[c.better] for c in columns)]
    lines = []
    for row in _select_rows(block, columns):
        cells = (_cell(row.cells[c.name], c, notes) for c in columns)
        line = " & ".join([_title(row), *cells]) + r" \\"
        lines += [r"\midrule", line] if row.method == GT and len(block.rows) > 1 else [line]
    return "\n".join(
        [
            rf"\fitwidth{{\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    )


def _select_rows(block: Block, columns: Sequence[Column]) -> list[Row]:
    """The rows of a tabular: GT only where it has a value, since nobody expects it to cost."""
    return [
        row
        for row in block.rows
        if row.method != GT or any(row.cells[c.name].value is not None for c in columns)
    ]


def _title(row: Row) -> str:
    """Name of a method; what its weights are as far as a reader must know."""
    star = {"trained_here": "$^{*}$", "random": " (untrained)", "user": " (user's weights)"}
    return tex(row_title(row)) + ("" if row.published else star.get(row.origin, ""))


def _cell(cell: Cell, column: Column, notes: Footnotes) -> str:
    if cell.note:
        notes.number(cell.note)
    if cell.value is None:
        return "--"
    text = column.text(cell.value)
    text = rf"\{cell.mark}{{{text}}}" if cell.mark else text
    text += rf"\ci{{{column.text(cell.ci95)}}}" if cell.ci95 is not None else ""
    return text + (r"\,$\sim$" if cell.noise else "")


def _parts(block: Block, room_pt: float) -> list[list[Column]]:
    """All columns if they fit, else scores apart from cost, in as few groups as fit."""
    first = 4.6 * max((len(row_title(row)) + 2 for row in block.rows), default=0)
    widths = {
        c.name: 7
        + 4.6 * max(len(c.label) + 2, *(_letters(row.cells[c.name], c) for row in block.rows))
        for c in block.columns
    }
    if first + sum(widths.values()) <= room_pt:
        return [list(block.columns)]
    parts: list[list[Column]] = []
    for cost in (False, True):
        own = [c for c in block.columns if (c.name in COSTS) is cost]
        groups = _fill(own, widths, room_pt - first)
        # As many as they must be, and none of them much narrower than the others.
        narrow = max((widths[c.name] for c in own), default=0.0)
        while own and len(_fill(own, widths, narrow)) > len(groups):
            narrow += 4
        parts += _fill(own, widths, min(narrow, room_pt - first))
    return parts


def _fill(
    columns: Sequence[Column], widths: Mapping[str, float], room_pt: float
) -> list[list[Column]]:
    """Columns in their order, each group as full as it gets."""
    groups: list[list[Column]] = []
    used = math.inf
    for column in columns:
        used += widths[column.name]
        if used > room_pt:
            groups.append([])
            used = widths[column.name]
        groups[-1].append(column)
    return groups


def _letters(cell: Cell, column: Column) -> float:
    """Width of a cell in digits of the table's size."""
    if cell.value is None:
        return 1
    interval = len(column.text(cell.ci95)) + 2 if cell.ci95 is not None else 0
    return len(column.text(cell.value)) + 0.78 * interval + 2 * cell.noise


TEX: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "*": r"$^{*}$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "[": "{[}",  # after a line break it would open an argument
    "–": "--",
    "×": r"$\times$",
    "°": r"$^{\circ}$",
    "Δ": r"$\Delta$",
    "µ": r"$\mu$",
    "→": r"$\to$",
}


def tex(text: str) -> str:
    """Plain text escaped for LaTeX; a factor such as x1e-3 becomes a power of ten.

    Letters beyond what every TeX can print are shown by their code point.
    """
    letters = (TEX.get(c, c if ord(c) < 0x180 else f"U+{ord(c):04X}") for c in plain(text))
    return re.sub(r"\bx1e(-?\d+)", r"$\\times10^{\1}$", "".join(letters))
