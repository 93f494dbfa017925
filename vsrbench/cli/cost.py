"""`cost`: latency, throughput, memory, energy, parameters and MACs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from vsrbench.cli.arguments import (
    Parser,
    add_device,
    add_how,
    add_names,
    add_ray,
    add_results,
    new_parser,
    positive,
    size,
)
from vsrbench.cli.running import crew_of, read_cards, say_counts
from vsrbench.cli.stored import open_store
from vsrbench.core.errors import UserError

T = TypeVar("T")


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "cost",
        "Measure latency, throughput, memory, energy, parameters and MACs at one size; or with\n"
        "--grid draw a map of time and memory by size and length, with the border where memory "
        "ends.",
        "vsrbench cost --methods A B --size WxH [--frames N] [options]\n"
        "       vsrbench cost --methods A B --grid WxH [WxH ...] [--frames N ...]",
    )
    add_names(parser, "--methods", "methods, or paths of checkpoints")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--size", type=size, metavar="WxH", help="LQ size in px")
    add_names(what, "--grid", "LQ sizes of the map, in px", ("WxH", "WxH"))
    add_names(parser, "--frames", "frames timed; several for --grid (default: 10)", ("N", "N"))
    parser.add_argument(
        "--scale", type=positive, default=4, help="factor, for methods of any scale"
    )
    parser.add_argument("--fresh", action="store_true", help="repeat measurements that are on disk")
    add_device(parser)
    add_ray(parser)
    add_how(parser)
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Measure, and print a table or a map."""
    from vsrbench.api import Results
    from vsrbench.run.runner import Run, RunConfig
    from vsrbench.show.grid import grid

    sizes = [_check(size, text) for text in options.grid or []]
    lengths = [_check(positive, text) for text in options.frames or ["10"]]
    if options.size and len(lengths) > 1:
        raise UserError("--size goes with one number of frames", "several: --grid")
    with crew_of(options) as crew:
        devices = crew.devices(options.device)
        cards = read_cards(options, devices[0])
        store = open_store(options)
        store.prepare()
        config = RunConfig(
            options.root,
            devices,
            fresh=options.fresh,
            verbose=options.verbose,
            began_s=options.began_s,
        )
        run = Run(config, store, crew)
        with run.keep_log():
            if sizes:
                print(grid(run.grid(cards, sizes, options.scale, lengths)))
            else:
                run.cost(cards, options.size, options.scale, lengths[0])
        if not sizes:
            print(Results(store, options.root, records=store.of_run(run.id)).table(None))
        say_counts(run)
        return run.exit_code


def _check(kind: Callable[[str], T], text: str) -> T:
    """One entry of a list. Raises UserError."""
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from error
