"""A Summary as markdown, LaTeX and CSV. Numbers are rounded here and nowhere before."""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Callable, Mapping

from tabulate import tabulate

from vsrbench.core.types import Origin, size_text
from vsrbench.results.summary import GT, WEIGHTS, Block, Cell, Column, Row, Summary

LEGEND: Mapping[Origin, str] = {
    "official": "the file the authors published",
    "trained_here": "trained in this repository, not by the authors, see the card",
    "user": "supplied by the user, origin unknown here",
    "random": "random weights, only the cost means anything",
}
RUNS_SHOWN = 3


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

    head = [heading(block), "weights", *(f"{c.label} {c.arrow}".strip() for c in block.columns)]
    body = [
        [row_title(row), weights_text(row), *(value(row.cells[c.name], c) for c in block.columns)]
        for row in block.rows
    ]
    body = [[cell.replace("|", r"\|") for cell in line] for line in body]
    align = ("left", "left", *("right" for _ in block.columns))
    table = tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    footer = [*notes.lines("[{}] {}"), *block.notes, " ".join(caption(block, provenance))]
    return "\n\n".join([table, *footer]) + "\n"


PREAMBLE = r"""% needs \usepackage{booktabs}
\providecommand{\best}[1]{\textbf{#1}}
\providecommand{\second}[1]{\underline{#1}}
\providecommand{\ci}[1]{{\scriptsize$\pm$#1}}
"""


def latex(summary: Summary, provenance: str = "") -> str:
    r"""One `table` environment for each block, booktabs rules.

    The marks are the macros \best, \second and \ci; a paper that defines its own keeps them.
    provenance: package version and commit, printed in the caption when given.
    """
    return "\n".join([PREAMBLE, *(_latex_block(block, provenance) for block in summary.blocks)])


def _latex_block(block: Block, provenance: str) -> str:
    notes = Footnotes()

    def value(cell: Cell, column: Column) -> str:
        if cell.value is None:
            return rf"--\textsuperscript{{{notes.number(cell.note)}}}"
        text = column.text(cell.value)
        text = rf"\{cell.mark}{{{text}}}" if cell.mark else text
        text += rf"\ci{{{column.text(cell.ci95)}}}" if cell.ci95 is not None else ""
        text += r"\,$\sim$" if cell.noise else ""
        return text + (rf"\textsuperscript{{{notes.number(cell.note)}}}" if cell.note else "")

    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
    head = ["", "Weights", *(_tex(c.label) + arrows[c.better] for c in block.columns)]
    lines = []
    for row in block.rows:
        cells = [value(row.cells[c.name], c) for c in block.columns]
        line = " & ".join([_tex(row_title(row)), _tex(weights_text(row)), *cells]) + r" \\"
        lines += [r"\midrule", line] if row.method == GT and len(block.rows) > 1 else [line]
    said = " ".join([f"{heading(block)}.", *caption(block, provenance)])
    label = re.sub("[^A-Za-z0-9-]+", "-", block.dataset or f"cost-{size_text(block.size)}")
    below = [*notes.lines(r"\textsuperscript{{{}}}{}", _tex), *map(_tex, block.notes)]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{_tex(said)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *(
                [r"\par\smallskip\footnotesize", *(f"{line}\\par" for line in below)]
                if below
                else []
            ),
            r"\end{table}",
            "",
        ]
    )


def csv(summary: Summary) -> str:
    """Long form: one line for each method and metric or cost, at full precision.

    Missing values are empty and have a reason. `clips` of `of` clips have a score; both are empty
    for cost, which was measured at the LQ size of the line. `scored_on` says which frames were
    scored and what was cut from them.
    """
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    names = (
        "dataset,method,weights,metric,unit,mean,ci95,clips,of,reason,lq_width,lq_height,scored_on"
    )
    writer.writerow(names.split(","))
    for block in summary.blocks:
        for row in block.rows:
            for column in block.columns:
                cell = row.cells[column.name]
                coverage = [len(cell.clips), cell.of] if cell.of else ["", ""]
                origin = "published" if row.published else row.origin
                start = [block.dataset, row.method, origin, column.name, column.unit]
                extent = [
                    text for text, titles in block.scored_on.items() if column.title in titles
                ]
                size = block.size[::-1] if any(block.size) else ("", "")
                line = [*start, cell.value, cell.ci95, *coverage, cell.note, *size]
                writer.writerow([*line, "; ".join(extent)])
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
    """The top left cell: data set, scale, clips; or the size of a block of cost alone."""
    if not block.dataset:
        return f"{block.title}, LQ {size_text(block.size)}"
    scale = f", x{block.scale}" if block.scale else ""
    clips = f", {_count(len(block.clips), 'clip')}" if block.clips else ""
    return f"{block.title}{scale}{clips}"


def row_title(row: Row) -> str:
    """Name of a method in its row."""
    return f"{row.title} (reference)" if row.method == GT else row.title


def weights_text(row: Row) -> str:
    """Where the weights of a row come from, in the words of the legend."""
    return "published" if row.published else WEIGHTS[row.origin]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def caption(block: Block, provenance: str) -> list[str]:
    """Everything a reader needs to read and repeat the table, as sentences."""
    cells = [cell for row in block.rows for cell in row.cells.values()]
    said: list[str] = []
    if block.clips:
        lengths = sorted(set(block.clips.values()))
        each = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        said.append(f"Means over {_count(len(block.clips), 'clip')} of {each} frames.")
        for extent, metrics in block.scored_on.items():
            which = f"{', '.join(metrics)}: s" if len(block.scored_on) > 1 else "S"
            said.append(f"{which}cored on {extent}.")
    if any(cell.ci95 is not None for cell in cells):
        said.append("±: 95 % Student-t interval over clips.")
    if any(cell.mark for cell in cells):
        apart = ["GT"] if any(row.method == GT for row in block.rows) else []
        if block.clips and any(row.published for row in block.rows):
            apart.append("published rows")
        reference = f", {' and '.join(apart)} apart" if apart else ""
        said.append(f"Bold: best, underlined: second, at printed precision{reference}.")
    if any(cell.noise for cell in cells):
        said.append("~: paired difference to the next within noise (95 %).")
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
            f"Cost: {block.setting}, {precision}, LQ {size_text(block.size)} (width x height)."
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
    "[": "{[}",  # after a line break it would open an argument
    "–": "--",
}


def _tex(text: str) -> str:
    """Plain text escaped for LaTeX; a factor such as x1e-3 becomes a power of ten."""
    escaped = "".join(TEX.get(c, c) for c in text)
    return re.sub(r"\bx1e(-?\d+)", r"$\\times10^{\1}$", escaped)
