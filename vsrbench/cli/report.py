"""`report`: one HTML file of stored records and kept frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_results, add_selection, new_parser, number
from vsrbench.cli.stored import open_store, read_records, say_notices, summarise_for
from vsrbench.core.errors import OK
from vsrbench.core.progress import note


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "report",
        "Make one HTML file of stored records and kept frames: table to sort, clips as dots,\n"
        "slider between methods, temporal profiles, failures, provenance. Opens without network.",
        "vsrbench report [options]",
    )
    add_selection(parser)
    parser.add_argument(
        "--images", type=number, metavar="MIB", help="size of all pictures (default: 48)"
    )
    parser.add_argument(
        "--vote", action="store_true", help="add a blind vote on pairs of pictures; see: votes"
    )
    parser.add_argument("-o", "--output", type=Path, help="file (default: DIR/report.html)")
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Write the file, and print its path."""
    from vsrbench.show import report

    store = open_store(options)
    records = read_records(store)
    summary = summarise_for(options, records, options.methods, options.datasets, options.metrics)
    out = options.output or store.folder / "report.html"
    budget = report.BUDGET_MIB if options.images is None else options.images
    report.build(summary, records, store, out, budget, note, options.vote)
    say_notices(store)
    print(out)
    return OK
