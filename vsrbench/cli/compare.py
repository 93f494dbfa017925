"""`compare`: new results against a base, for CI."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_names, add_selection, new_parser, number
from vsrbench.cli.stored import write
from vsrbench.core import variables
from vsrbench.core.errors import OK, REGRESSION, UserError
from vsrbench.core.progress import note


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "compare",
        "Compare new results with a base, clip by clip, for CI: exit code 4 when a mean got worse\n"
        "by more than its metric's tolerance, or when a result of the base is gone.",
        "vsrbench compare BASE [NEW] [options]",
    )
    folder = "results folder or records file"
    parser.add_argument("base", type=Path, metavar="BASE", help=folder)
    parser.add_argument(
        "new", type=Path, nargs="?", metavar="NEW", help=f"{folder} (default: results/local)"
    )
    add_selection(parser)
    add_names(
        parser,
        "--tolerance",
        "instead of the metrics' own (docs/metrics.md), in printed units",
        ("METRIC=X", "METRIC=X"),
        default=[],
    )
    parser.add_argument(
        "--cost",
        type=number,
        metavar="PERCENT",
        help="also judge time, memory and energy, with this tolerance",
    )
    parser.add_argument("--all", action="store_true", help="also show what is unchanged")
    parser.add_argument(
        "--format",
        choices=["terminal", "markdown", "json"],
        metavar="FORM",
        help="terminal, markdown or json (default: terminal on a terminal, else markdown)",
    )
    parser.add_argument("-o", "--output", type=Path, help="file instead of stdout")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Print the changes; exit code 4 if something got worse."""
    from vsrbench.api import load

    tolerances = {}
    for item in options.tolerance:
        metric, _, value = item.partition("=")
        try:
            tolerances[metric] = number(value)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--tolerance {item}: {error}", "write it as psnr=0.05") from error
    base = load(options.base, options.root)
    found = load(options.new, options.root).compare(
        base,
        methods=options.methods,
        datasets=options.datasets,
        metrics=options.metrics,
        tolerances=tolerances,
        cost_percent=options.cost,
    )
    drawn = sys.stdout.isatty() and not options.output
    form = options.format or ("terminal" if drawn else "markdown")
    if form == "terminal":
        text = found.terminal(shutil.get_terminal_size((100, 24)).columns, options.all)
    else:
        text = found.json() if form == "json" else found.markdown(options.all)
    if summary := variables.github_summary():
        try:
            with summary.open("a", encoding="utf-8") as file:
                file.write(found.markdown(options.all))
        except OSError as error:  # the verdict is what counts
            note(f"warning: nothing added to the summary {summary}: {error.strerror}")
    if variables.in_github_actions():
        for line in found.annotations():
            note(line)
    if options.output:
        write(options.output, text)
        note(found.verdict)
    else:
        print(text, end="")
    return REGRESSION if found.regressed else OK
