"""`report`: one HTML file of stored records and kept frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_results, add_selection, new_parser, number
from vsrbench.cli.stored import open_results
from vsrbench.core.errors import OK


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
        "--images", type=number, metavar="MIB", help="size of all pictures together (default: 48)"
    )
    parser.add_argument(
        "--vote", action="store_true", help="add a blind vote on pairs of pictures; see: votes"
    )
    parser.add_argument("-o", "--output", type=Path, help="file (default: DIR/report.html)")
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Write the file, and print its path."""
    path = open_results(options).report(
        options.output,
        methods=options.methods,
        datasets=options.datasets,
        metrics=options.metrics,
        images_mib=options.images,
        vote=options.vote,
    )
    print(path)
    return OK
