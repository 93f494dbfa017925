"""`run`: methods on test sets or a video, scores, costs, a table. It is what no name means."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench import __version__
from vsrbench.cli.arguments import (
    METRICS,
    SEVERAL,
    Parser,
    add_device,
    add_results,
    names,
    new_parser,
    positive,
    shard,
)
from vsrbench.cli.running import (
    devices_of,
    print_commands,
    print_tables,
    read_cards,
    say_counts,
)
from vsrbench.cli.stored import open_store
from vsrbench.core import processes
from vsrbench.core.errors import UserError
from vsrbench.core.progress import note

if TYPE_CHECKING:
    from vsrbench.run.executors import Crew

EPILOG = """\
examples:
  vsrbench --methods instavsr,realviformer
  vsrbench --methods bicubic,instavsr --input my.mp4 --keep-frames
  vsrbench --methods bicubic,weights/RealESRGAN_x4.pth --input lq/ --gt gt/
  vsrbench score --outputs sr/ --gt gt/ --preset dove
  vsrbench table --format latex
  vsrbench figure profile --clip photo-zoom

exit codes: 0 all done, 1 some jobs failed, 2 bad command line or spec, 3 something needed is
missing, 4 regression found, 130 interrupted (finished work is kept)"""


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "run",
        "Run video super-resolution methods on datasets or on your own video, score them,\n"
        "measure what they cost, and print a table. Results that are on disk are reused.",
        "vsrbench [run] --methods A,B [options]\n"
        "       vsrbench score|list|check|table|figure|report|compare|cost [options]\n"
        "                    (each has its --help)\n"
        "       vsrbench datasets check|add|fetch|degrade NAME [options]\n"
        "       vsrbench weights list|fetch|check [NAME ...]",
    )
    parser.add_argument("--version", action="version", version=f"vsrbench {__version__}")
    what = parser.add_argument_group("what")
    what.add_argument("--methods", type=names, help="methods, or paths of checkpoints")
    what.add_argument(
        "--datasets", type=names, help="datasets, NAME or NAME:LAYOUT (default: synthetic)"
    )
    what.add_argument("--input", type=Path, help="your own video, folder of frames or of clips")
    what.add_argument("--gt", type=Path, help="its ground truth, in the same layout")
    what.add_argument("--scale", type=positive, default=4, help="factor without --gt (default: 4)")
    what.add_argument("--metrics", type=names, help=METRICS)
    how = parser.add_argument_group("how")
    add_device(how, SEVERAL)
    how.add_argument("--no-cost", action="store_true", help="skip the cost measurement")
    how.add_argument("--keep-frames", action="store_true", help="keep outputs as PNG")
    how.add_argument("--fresh", action="store_true", help="recompute results that are on disk")
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="print the command lines of external programs, run nothing",
    )
    how.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="do part I (from 0) of N; see merge",
    )
    how.add_argument("-q", "--quiet", action="store_true", help="hide progress")
    add_results(how)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Run, score, measure, and print a table for each dataset."""
    if options.gt and not options.input:
        raise UserError("--gt needs --input", "--input LQ --gt GT")
    processes.warm_up()
    from vsrbench.run.executors import Crew

    with Crew() as crew:
        return _execute(options, crew)


def _execute(options: argparse.Namespace, crew: Crew) -> int:
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.metrics import metric_info
    from vsrbench.run.runner import Run, RunConfig

    devices = devices_of(options, crew)
    cards = read_cards(options, devices[0])
    if not any(card.name == "bicubic" for card in cards):
        cards.insert(0, specs.method_card(options.root, "bicubic"))
    for name in options.metrics or []:
        metric_info(name)
    chosen = options.datasets or ([] if options.input else ["synthetic"])
    found = [specs.dataset_spec(options.root, name) for name in chosen]
    store = open_store(options)
    if not options.dry_run:
        store.prepare()
    config = RunConfig(
        root=options.root,
        devices=devices,
        metrics=tuple(options.metrics or ()),
        keep_frames=options.keep_frames,
        fresh=options.fresh,
        quiet=options.quiet,
        with_cost=not options.no_cost,
        shard=options.shard,
        verbose=options.verbose,
    )
    run = Run(config, store, crew)
    sets = []
    if options.input:
        sets.append(datasets.open_input(options.input, options.gt, options.scale))
    for spec in found:
        try:
            sets.append(datasets.open_dataset(spec, note))
        except UserError as error:  # the other sets go on
            run.could_not_open(error)
    if options.dry_run:
        print_commands(cards, sets)
        return run.exit_code
    if sets:
        run.go(cards, sets)
        print_tables(options, run, sets)
    say_counts(run)
    return run.exit_code
