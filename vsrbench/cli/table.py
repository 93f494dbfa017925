"""`table`: from stored records, and from what papers print."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_results, add_selection, new_parser
from vsrbench.cli.stored import (
    format_summary,
    known_specs,
    open_store,
    read_records,
    say_notices,
    summarise_for,
    write,
)
from vsrbench.core.errors import OK


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser("table", "Print a table from stored records.", "")
    parser.usage = (
        "run_bench.py table [--format markdown|latex|csv] [options]\n"
        "       run_bench.py table --published NAME | --with-published | --contradictions"
    )
    parser.add_argument("--format", choices=["markdown", "latex", "csv"], default="markdown")
    add_selection(parser)
    papers = parser.add_argument_group("numbers that papers print (results/published)")
    which = papers.add_mutually_exclusive_group()
    which.add_argument("--published", metavar="NAME", help="such a table alone, such as dove-2025")
    which.add_argument(
        "--with-published", action="store_true", help="beside measured rows, marked, not ranked"
    )
    which.add_argument(
        "--contradictions", action="store_true", help="where papers differ on the same pack"
    )
    parser.add_argument("-o", "--output", type=Path, help="file instead of stdout")
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Print the table, or write it."""
    from vsrbench.results import published

    store = open_store(options)
    chosen = options.methods, options.datasets, options.metrics
    if options.contradictions:
        text = published.contradiction_table(published.read(options.root), options.format)
    else:
        if options.published:
            known = published.read(options.root)
            summary = published.summary(known, options.published, *chosen)
        else:
            summary = summarise_for(options, read_records(store), *chosen)
        if options.with_published:
            sets = known_specs(options.root, (block.dataset for block in summary.blocks))
            bases = {name: spec.base or name for name, spec in sets.items()}
            summary = published.beside(published.read(options.root), summary, bases)
        text = format_summary(store, summary, options.format)
    say_notices(store)
    if options.output:
        write(options.output, text)
    else:
        print(text)
    return OK
