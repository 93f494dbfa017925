"""Which metric to trust: agreement with people, from a study, and among the metrics of a result."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vsrbench.core.files import read_toml
from vsrbench.results.summary import GT, Block, Summary

CELL = 6
"""Width of a number in the table."""
FILE = Path("results") / "published" / "agreement.toml"


@dataclass(frozen=True)
class Opinion:
    """How one metric agrees with people."""

    title: str
    """Name of the metric."""
    srcc: float
    """Spearman's rank correlation with mean opinions within a source."""
    chosen: float
    """Share of clear pairs in which the metric prefers what people prefer; chance is 0.5."""
    id: str = ""
    """The metric here; empty where it is not among them."""
    low: float | None = None
    """Lower end of the 95 % interval of `chosen`."""
    high: float | None = None
    """Upper end."""

    def text(self) -> str:
        """The share, with its interval where it is known."""
        span = f" [{self.low:.2f}, {self.high:.2f}]" if self.low and self.high else ""
        return f"{self.chosen:.2f}{span}"


@dataclass(frozen=True)
class Study:
    """A study with people."""

    study: str
    """To cite."""
    design: str
    """What was rated by whom."""
    limits: str
    """What it cannot tell."""
    opinions: tuple[Opinion, ...]
    """In descending order of agreement."""

    def of(self, metric: str) -> Opinion | None:
        """What it says of a metric; None where it says nothing."""
        return next((opinion for opinion in self.opinions if opinion.id == metric), None)


def read_study(root: Path) -> Study:
    """The study whose numbers lie below `root`. Raises UserError."""
    table = read_toml(root / FILE)
    rows = tuple(Opinion(**row) for row in table.pop("metrics"))
    return Study(**table, opinions=tuple(sorted(rows, key=lambda row: -row.chosen)))


def kendall(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Tau-b from the differences of two quantities over pairs of things.

    (C - D) / sqrt((n - ties of one) (n - ties of the other)); None where either is always tied.
    """
    agree = first = second = 0
    for a, b in pairs:
        agree += (a * b > 0) - (a * b < 0)
        first += a != 0
        second += b != 0
    return agree / math.sqrt(first * second) if first and second else None


def taus(block: Block) -> Mapping[tuple[str, str], float | None]:
    """Kendall's tau-b of each two metrics of a dataset, over all pairs of methods on a clip.

    1: they prefer the same methods everywhere; below 0: one rewards what the other punishes. The
    row of GT is left out, and so are clips that one of the two did not score.
    """
    columns = [column for column in block.columns if column.better and block.clips]
    rows = [row for row in block.rows if row.method != GT and not row.published]
    signs = {column.name: 1 if column.better == "higher" else -1 for column in columns}
    values = {
        column.name: {
            (row.method, clip): signs[column.name] * value
            for row in rows
            if column.name in row.cells
            for clip, value in row.cells[column.name].clips.items()
        }
        for column in columns
    }
    scored = [name for name in values if values[name]]
    return {(a, b): kendall(_differences(values[a], values[b])) for a in scored for b in scored}


def _differences(
    a: Mapping[tuple[str, str], float], b: Mapping[tuple[str, str], float]
) -> Iterable[tuple[float, float]]:
    """Differences of both between any two methods on a clip."""
    clips: dict[str, list[tuple[str, str]]] = {}
    for key in a.keys() & b.keys():
        clips.setdefault(key[1], []).append(key)
    for keys in clips.values():
        for x, y in combinations(sorted(keys), 2):
            yield a[x] - a[y], b[x] - b[y]


def agreement_table(summary: Summary, study: Study, width: int = 100) -> str:
    """Tau-b between the metrics of each dataset, and what people say of each. Plain text.

    width: of the lines; metrics that do not fit beside each other stand below.
    """
    return "\n\n".join(text for block in summary.blocks if (text := _block(block, study, width)))


def _block(block: Block, study: Study, width: int) -> str:
    found = taus(block)
    names = list(dict.fromkeys(name for pair in found for name in pair))
    if len(names) < 2:
        return ""
    titles = {column.name: column.title for column in block.columns}
    wide = max(len(title) for title in (*(titles[n] for n in names), block.title)) + 3
    people = {name: opinion.text() for name in names if (opinion := study.of(name))}
    last = 2 + max([6, *map(len, people.values())])
    each = max(1, (width - wide - last) // CELL)
    lines = []
    for start in range(0, len(names), each):
        part = names[start : start + each]
        numbers = _row(str(start + i + 1) for i in range(len(part)))
        lines.append(f"{block.title:<{wide}}{numbers}  people")
        for number, name in enumerate(names, start=1):
            row = _row(_text(found[name, other]) for other in part)
            lines.append(f"{number:>2} {titles[name]:<{wide - 3}}{row}  {people.get(name, '–')}")
    said = (
        "Kendall's tau-b between metrics, over pairs of methods on a clip: 1 the same order, below "
        "0 one rewards what the other punishes. people: share of clear pairs in which the metric "
        f"prefers what people prefer ({study.study})."
    )
    return "\n".join([*lines, *textwrap.wrap(said, width)])


def _row(cells: Iterable[str]) -> str:
    return "".join(f"{cell:>{CELL}}" for cell in cells)


def _text(tau: float | None) -> str:
    return "–" if tau is None else f"{tau:.2f}"
