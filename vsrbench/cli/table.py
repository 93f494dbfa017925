"""`table`: from stored records, and from what papers print."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_format, add_results, add_selection, new_parser
from vsrbench.cli.stored import open_results, write
from vsrbench.core.errors import OK, UserError


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser("table", "Print a table from stored records.", "")
    parser.usage = (
        "vsrbench table [DIR ...] [--format FORM] [options]\n"
        "       vsrbench table --published NAME | --with-published | --contradictions\n"
        "       vsrbench table --agreement [options]"
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="results folders side by side, instead of --results; where their scores differ, each "
        "has a row",
    )
    add_format(parser)
    add_selection(parser)
    parser.add_argument(
        "--votes",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="add a column of what people prefer; see: votes",
    )
    parser.add_argument("--no-cost", action="store_true", help="scores alone")
    parser.add_argument(
        "--sort", metavar="COLUMN", default="", help="sort by a column, best first: psnr, ms, ..."
    )
    parser.add_argument(
        "--drop-empty",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out columns without a value, with the reason below (default)",
    )
    parser.add_argument(
        "--columns", type=int, choices=[1, 2], default=2, help="of the page, for LaTeX (default: 2)"
    )
    papers = parser.add_argument_group("numbers that papers print (results/published)")
    which = papers.add_mutually_exclusive_group()
    which.add_argument(
        "--published", metavar="NAME", help="one published table alone, such as dove-2025"
    )
    which.add_argument(
        "--with-published", action="store_true", help="beside measured rows, marked, not ranked"
    )
    which.add_argument(
        "--contradictions", action="store_true", help="where papers differ on the same pack"
    )
    which.add_argument(
        "--agreement",
        action="store_true",
        help="Kendall's tau between the metrics of the results, and what people say of each",
    )
    parser.add_argument("-o", "--output", type=Path, help="file instead of stdout")
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Print the table, or write it."""
    from vsrbench.api import known_specs
    from vsrbench.api.results import load_side_by_side
    from vsrbench.cards.specs import ROOT
    from vsrbench.results import agreement, published
    from vsrbench.show.tables import select

    if options.folders and options.results:
        raise UserError("folders are given twice: DIR and --results", "leave out --results")
    results = (
        load_side_by_side(options.folders, options.root)
        if options.folders
        else open_results(options)
    )
    chosen = options.methods, options.datasets, options.metrics
    width = 100 if options.output else shutil.get_terminal_size((100, 24)).columns
    # What is written into a file is not drawn for a terminal.
    form = options.format or ("markdown" if options.output else None)
    if options.contradictions:
        drawn = form or ("terminal" if sys.stdout.isatty() else "markdown")
        text = published.contradiction_table(published.read(options.root), drawn, width)
    elif options.agreement:
        text = agreement.agreement_table(
            results.summary(*chosen),
            agreement.read_study(ROOT),
            width,
        )
    else:
        if options.published:
            known = published.read(options.root)
            summary = published.summary(known, options.published, *chosen)
        else:
            summary = results.summary(*chosen)
        if options.with_published:
            sets = known_specs(options.root, (block.dataset for block in summary.blocks))
            bases = {name: spec.base or name for name, spec in sets.items()}
            summary = published.add_published(published.read(options.root), summary, bases)
        if options.votes:
            from vsrbench.results import votes  # which needs numpy

            summary = votes.add_preferences(summary, votes.read(options.votes))
        whole = (form or "").startswith(("csv", "json"))
        drop_empty = options.drop_empty and not whole
        shown = select(summary, not options.no_cost, options.sort, drop_empty)
        text = results.format_summary(shown, form, options.columns)
    if options.output:
        write(options.output, text)
    else:
        print(text)
    return OK
