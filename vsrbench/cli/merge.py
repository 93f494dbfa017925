"""`merge`: results of several folders into one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.cli.arguments import Parser, new_parser
from vsrbench.core.errors import FAILED, OK, MissingError
from vsrbench.core.progress import counted, note

if TYPE_CHECKING:
    from vsrbench.results.merge import InBoth

SHOWN = 20
"""Lines about overlaps, and about conflicts."""


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "merge", "Bring results of several folders into one: records, runs and\nkept frames.", ""
    )
    parser.usage = "vsrbench merge DIR [DIR ...] --into DIR"
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="results folders")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder to add to")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Merge; exit code 1 where folders hold different values for one score."""
    from vsrbench.results.merge import merge
    from vsrbench.results.store import Store

    sources = [Store.at(folder) for folder in options.folders]
    for source in sources:
        if not source.records.is_file():  # a part without jobs has an empty one
            raise MissingError(f"no {source.records}", "name folders that runs have written")
    target = Store(options.into)
    found = merge(sources, target)
    _name("overlap", found.overlaps, "equal, and kept once")
    _name("conflict", found.conflicts, "they differ; the first ones are kept")
    overlaps, conflicts = (
        sum(common.count for common in several.values())
        for several in (found.overlaps, found.conflicts)
    )
    note(
        f"merged: added {counted(found.records, 'record')} and {counted(found.runs, 'run')}; "
        f"{counted(overlaps, 'overlap')}, {counted(conflicts, 'conflict')}; "
        f"records in {target.records}"
    )
    return FAILED if found.conflicts else OK


def _name(what: str, found: InBoth, outcome: str) -> None:
    from vsrbench.results.merge import describe

    lines = describe(found)
    for line in lines[:SHOWN]:
        note(f"{what}: {line}: {outcome}")
    if len(lines) > SHOWN:
        note(f"{what}: {counted(len(lines) - SHOWN, 'line')} more of this kind")
