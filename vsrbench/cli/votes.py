"""`votes`: what people preferred in the page of `report --vote`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_results, new_parser
from vsrbench.cli.stored import open_results, write
from vsrbench.core.errors import OK, MissingError


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "votes",
        "Rank methods by votes of people: Bradley-Terry scores with intervals, voters who do not\n"
        "look left out, and how each metric agrees with people on the same clips.",
        "vsrbench votes FILE [FILE ...] [options]",
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="saved by the page of report --vote"
    )
    parser.add_argument("-o", "--output", type=Path, help="file (Markdown) instead of stdout")
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Print the ranking."""
    from vsrbench.results import votes

    told = votes.read(options.files)
    try:
        records = open_results(options).records()
    except MissingError:  # votes count without scores, too
        records = []
    text = votes.markdown(told, {r.method: r.title for r in records}, records)
    if options.output:
        write(options.output, text)
    else:
        print(text, end="")
    return OK
