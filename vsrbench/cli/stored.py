"""What commands share that read stored records: store, summary, forms of a table, output."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vsrbench.cards.specs import ROOT
from vsrbench.core.errors import UserError
from vsrbench.core.progress import note

FORMATS = ("terminal", "markdown", "latex", "csv", "csv-wide", "json")

if TYPE_CHECKING:
    from vsrbench.core.types import DatasetSpec, Record
    from vsrbench.results.store import Store
    from vsrbench.results.summary import Summary


def open_store(options: argparse.Namespace) -> Store:
    """The store of --results."""
    from vsrbench.results.store import Store

    return Store(options.results or default_results())


def default_results() -> Path:
    """results/local of the checkout when the work is done in it, else of the working directory."""
    here = Path.cwd()
    checkout = (ROOT / "run_bench.py").is_file() and here.is_relative_to(ROOT)
    return (ROOT if checkout else here) / "results" / "local"


def read_records(store: Store, strict: bool = False) -> list[Record]:
    """The newest records; what was passed over is said. Raises as `Store.require`."""
    try:
        return store.require(strict)
    finally:
        say_notices(store)


def say_notices(store: Store) -> None:
    """Say what reading passed over, once."""
    for line in store.notices:
        note(f"note: {line}")
    store.notices.clear()


def summarise_for(
    options: argparse.Namespace,
    records: Sequence[Record],
    methods: list[str] | None,
    datasets: list[str] | None,
    metrics: list[str] | None,
    own: Mapping[str, DatasetSpec] | None = None,
) -> Summary:
    """The summary of these records; `own` are specs that no file declares."""
    from vsrbench.results.summary import summarise

    known = known_specs(options.root, (r.dataset for r in records))
    return summarise(records, methods, datasets, metrics, known | dict(own or {}))


def known_specs(root: Path, names: Iterable[str]) -> dict[str, DatasetSpec]:
    """The specs of these data sets; without those that are none, or damaged."""
    from vsrbench.cards import specs

    found = {}
    for name in dict.fromkeys(names):
        with suppress(UserError):
            found[name] = specs.dataset_spec(root, name)
    return found


def format_summary(
    store: Store,
    summary: Summary,
    form: str | None = None,
    columns: Literal[1, 2] = 2,
    to_file: bool = False,
) -> str:
    """A table in one of FORMATS; without one, for the terminal if stdout is one, else Markdown.

    columns: of the page, for LaTeX. to_file: it is not printed.
    """
    from vsrbench.show import latex, tables, terminal

    if form in ("csv", "csv-wide", "json"):
        return {"csv": tables.csv, "csv-wide": tables.csv_wide, "json": tables.json}[form](summary)
    code = store.code({run for block in summary.blocks for run in block.runs})
    if form == "latex":
        return latex.latex(summary, code, columns)
    if form == "terminal" or (form is None and sys.stdout.isatty() and not to_file):
        width = shutil.get_terminal_size().columns
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        return terminal.terminal(summary, width, colour, code)
    return tables.markdown(summary, code)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a file: its folder is made, errors of the disk are one clear line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "choose another file: -o"
        ) from error


def write(path: Path, text: str) -> None:
    """Write a file, and say so. Raises UserError."""
    with writing(path):
        path.write_text(text, encoding="utf-8")
    note(f"wrote {path}")
