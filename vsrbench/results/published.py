"""Numbers that papers print, kept as data in results/published, as tables beside our own.

They are never ranked with measured ones, and only values of one pack (the same LQ and scorer) are
held against each other.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from vsrbench.core.config import build
from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.files import read_toml
from vsrbench.metrics import METRICS
from vsrbench.results.summary import Block, Cell, Column, Row, Summary, metric_column, rank_rows

FIELDS = ["dataset", "method", "metric", "value", "notes"]


@dataclass(frozen=True)
class Source:
    """One printed table."""

    name: str
    """Its id: the stem of its CSV file."""
    title: str
    """Paper and table."""
    paper: str
    """Citation."""
    pack: str
    """Which LQ, and whose scorer; the setting of a cost table."""
    read: str
    """How the numbers came here."""
    conventions: str
    """Definitions and scales that differ between papers."""
    measured: Mapping[str, str] = field(default_factory=dict)
    """Its metric -> the metric here of the same definition; empty text for none."""


@dataclass(frozen=True)
class Value:
    """One printed number."""

    source: Source
    dataset: str
    """Dataset, or the setting of a cost table."""
    method: str
    metric: str
    text: str
    """As printed, with a leading zero."""
    note: str

    @property
    def number(self) -> float:
        """The value."""
        return float(self.text)

    @property
    def decimals(self) -> int:
        """Printed decimals."""
        return len(self.text.partition(".")[2])


class Unmeasured(TypedDict):
    """A column that no metric here computes."""

    title: str
    better: Literal["higher", "lower", ""]
    unit: NotRequired[str]


@dataclass(frozen=True)
class _Index:
    """What sources.toml holds."""

    methods: Mapping[str, str]
    datasets: Mapping[str, str]
    metrics: Mapping[str, Unmeasured]
    sources: Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """Everything in results/published."""

    sources: Mapping[str, Source]
    values: tuple[Value, ...]
    methods: Mapping[str, str]
    """Method -> name in tables."""
    datasets: Mapping[str, str]
    """Dataset -> name in tables."""
    metrics: Mapping[str, Unmeasured]
    """Columns that no metric here computes."""

    def of(self, source: str) -> list[Value]:
        """The values of a source. Raises UserError for an unknown one."""
        if source not in self.sources:
            raise unknown_name("published table", source, self.sources)
        return [v for v in self.values if v.source.name == source]

    def column(self, metric: str, decimals: int) -> Column:
        """The column of a metric at printed decimals."""
        if metric in METRICS:
            return replace(metric_column(METRICS[metric]), decimals=decimals)
        about = self.metrics[metric]
        return Column(metric, about["title"], about.get("unit", ""), about["better"], decimals)


def read(root: Path) -> Published:
    """All published numbers of a checkout. Raises UserError for anything out of place."""
    folder = root / "results" / "published"
    index = folder / "sources.toml"
    table: _Index = build(_Index, read_toml(index), index)
    sources = {
        name: build(Source, about, f"{index}: {name}", name=name)
        for name, about in table.sources.items()
    }
    found = Published(sources, (), table.methods, table.datasets, table.metrics)
    values: list[Value] = []
    for path in sorted(folder.glob("*.csv")):
        if path.stem not in sources:
            raise UserError(f"{path} has no entry in {index}", "write where it comes from")
        values += _values(path, sources[path.stem], found)
    if bare := set(sources) - {v.source.name for v in values}:
        raise UserError(f"{index}: no values of {sorted(bare)[0]}")
    return replace(found, values=tuple(values))


def _values(path: Path, source: Source, known: Published) -> Iterable[Value]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not valid CSV: {error}") from error
    if not rows or rows[0][1] != FIELDS:
        raise UserError(f"{path}: the header must be {','.join(FIELDS)}")
    for number, row in rows[1:]:
        where = f"{path}:{number}"
        if len(row) != len(FIELDS):
            raise UserError(f"{where} has {len(row)} fields, not {len(FIELDS)}")
        value = Value(source, *row)
        if value.method not in known.methods:
            raise UserError(f"{where}: {unknown_name('method', value.method, known.methods)}")
        if value.metric not in {*METRICS, *known.metrics}:
            raise UserError(f"{where}: {unknown_name('metric', value.metric, known.metrics)}")
        try:
            finite = math.isfinite(value.number)
        except ValueError:
            finite = False
        if not finite:
            raise UserError(f"{where}: '{value.text}' is not a number")
        yield value


def summary(
    known: Published,
    source: str,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> Summary:
    """A published table, one block for each dataset, best and second by our rule.

    `methods`, `datasets` and `metrics` choose and order; None takes all. Raises UserError for names
    that the table does not have.
    """
    values = known.of(source)
    about = known.sources[source]
    chosen: list[list[str]] = []
    for kind, asked, have in (
        ("method", methods, dict.fromkeys(v.method for v in values)),
        ("dataset", datasets, dict.fromkeys(v.dataset for v in values)),
        ("metric", metrics, dict.fromkeys(v.metric for v in values)),
    ):
        for name in asked or ():
            if name not in have:
                raise unknown_name(f"{kind} of {about.title}", name, have)
        chosen.append(list(asked or have))
    note = (
        f"As printed in {about.title}: {about.paper}. Nothing in it was measured here. "
        f"Read from {about.read}. Conventions: {about.conventions}."
    )
    blocks: list[Block] = []
    for name in chosen[1]:
        own = {(v.method, v.metric): v for v in values if v.dataset == name}
        shown = [m for m in chosen[0] if any((m, c) in own for c in chosen[2])]
        columns = tuple(
            known.column(c, max(v.decimals for (_, metric), v in own.items() if metric == c))
            for c in chosen[2]
            if any(metric == c for _, metric in own)
        )
        rows = [
            Row(
                method,
                known.methods[method],
                "none",
                {c.name: _cell(own.get((method, c.name))) for c in columns},
                published=about.title,
            )
            for method in shown
        ]
        title = known.datasets.get(name, name)
        notes = (f"As printed in {about.title}, see the first table." if blocks else note,)
        blocks.append(
            Block(name, title, {}, (0, 0), 0, columns, rank_rows(rows, columns), notes=notes)
        )
    return Summary(tuple(blocks))


def _cell(value: Value | None) -> Cell:
    return Cell(note="not in this table") if value is None else Cell(value.number, note=value.note)


def add_published(known: Published, measured: Summary, bases: Mapping[str, str]) -> Summary:
    """Measured blocks with the published rows of the same dataset below, marked and never ranked.

    bases: dataset -> the one it is published as, such as realvsr-x1 -> realvsr.
    """
    blocks = []
    for block in measured.blocks:
        names = {v.dataset for source in known.sources for v in known.of(source)}
        own_rows = block.dataset in names  # published under its own name, or as its base
        name = block.dataset if own_rows else bases.get(block.dataset, block.dataset)
        rows, notes = [], []
        columns = {c.name: c for c in block.columns}
        for source in known.sources.values():
            own: dict[str, dict[str, Cell]] = {}
            for v in known.of(source.name):
                metric = source.measured.get(v.metric, v.metric)
                if v.dataset == name and metric in columns and metric in METRICS:
                    note = f"published, {source.title}" + (f"; {v.note}" if v.note else "")
                    own.setdefault(v.method, {})[metric] = Cell(
                        v.number, note=note, comparable=False
                    )
            for method, cells in own.items():
                absent = Cell(note=f"not in {source.title}")
                row = {c: cells.get(c, absent) for c in columns}
                rows.append(Row(method, known.methods[method], "none", row, published=source.title))
            if own:
                notes.append(f"{source.title}: {source.conventions}; LQ and scorer: {source.pack}.")
        if rows:
            notes.insert(
                0,
                "Published rows are as printed, on the LQ of their paper, which need not be the "
                "one measured here; they are not ranked.",
            )
        blocks.append(replace(block, rows=(*block.rows, *rows), notes=(*block.notes, *notes)))
    return Summary(tuple(blocks))


@dataclass(frozen=True)
class Contradiction:
    """Values of one quantity that differ between papers on the same pack."""

    pack: str
    dataset: str
    method: str
    metric: str
    values: tuple[Value, ...]


def find_contradictions(known: Published) -> tuple[list[Contradiction], list[str]]:
    """(quantities with two values at their common precision, rows that two methods share).

    Only values of one pack are compared.
    """
    groups: dict[tuple[str, str, str, str], list[Value]] = {}
    for v in known.values:
        groups.setdefault((v.source.pack, v.dataset, v.method, v.metric), []).append(v)
    found = []
    for (pack, name, method, metric), values in groups.items():
        digits = min(v.decimals for v in values)
        step = 10.0**-digits
        spread = max(v.number for v in values) - min(v.number for v in values)
        # Values that were rounded from the same number differ by half a step at most.
        if spread > 0.5 * step + 1e-9:
            found.append(Contradiction(pack, name, method, metric, tuple(values)))
    lines: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for v in known.values:
        key = (v.source.pack, v.dataset, v.source.name, v.method)
        lines.setdefault(key, {})[v.metric] = v.text
    twins = []
    entries = list(lines.items())
    for i, ((pack, name, source, method), cells) in enumerate(entries):
        for (pack2, set2, source2, method2), cells2 in entries[i + 1 :]:
            shared = set(cells) & set(cells2)
            if (
                (pack, name) == (pack2, set2)
                and source != source2
                and method != method2
                and len(shared) >= 3
                and all(cells[m] == cells2[m] for m in shared)
            ):
                twins.append(
                    f"{known.datasets.get(name, name)}: {known.methods[method]} in "
                    f"{known.sources[source].title} and {known.methods[method2]} in "
                    f"{known.sources[source2].title} have the same {len(shared)} numbers: one of "
                    "the names is wrong"
                )
    return found, twins


def contradiction_table(known: Published, form: str, width: int = 100) -> str:
    """All contradictions as markdown, LaTeX, CSV, or lines of at most `width` for a terminal."""
    found, twins = find_contradictions(known)
    head = ["dataset", "method", "metric", "values", "pack"]
    body = [
        [
            known.datasets.get(c.dataset, c.dataset),
            known.methods[c.method],
            known.column(c.metric, 0).title,
            ", ".join(f"{v.text} ({v.source.title})" for v in c.values),
            c.pack,
        ]
        for c in found
    ]
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["dataset", "method", "metric", "value", "source", "pack"])
        for c in found:
            for v in c.values:
                writer.writerow([c.dataset, c.method, c.metric, v.text, v.source.name, c.pack])
        return out.getvalue()
    count = f"{len(found)} quantities have two values on the same LQ and scorer."
    if form == "terminal":
        lines = (f"{a}, {b}, {c}: {values} [{pack}]" for a, b, c, values, pack in body)
        shown = (textwrap.fill(line, width, subsequent_indent="  ") for line in (*lines, count))
        return "\n".join([*shown, *(textwrap.fill(twin, width) for twin in twins)]) + "\n"
    from tabulate import tabulate

    text = tabulate(
        body, head, tablefmt="latex_booktabs" if form == "latex" else "pipe", disable_numparse=True
    )
    return "\n\n".join([text, count, *twins]) + "\n"
