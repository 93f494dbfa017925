"""`cost`: latency, throughput, memory, energy, parameters and MACs."""

from __future__ import annotations

import argparse

from vsrbench.cli.arguments import (
    Parser,
    add_device,
    add_results,
    names,
    new_parser,
    positive,
    size,
)
from vsrbench.cli.running import devices_of, read_cards, say_counts
from vsrbench.cli.stored import open_store


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "cost", "Measure latency, throughput, memory, energy, parameters and MACs.", ""
    )
    parser.usage = "vsrbench cost --methods A,B --size HxW [--frames N] [options]"
    parser.add_argument("--methods", type=names, help="methods, or paths of checkpoints")
    parser.add_argument("--size", type=size, required=True, help="LQ size, HxW in px")
    parser.add_argument("--frames", type=positive, default=10, help="frames timed (default: 10)")
    parser.add_argument(
        "--scale", type=positive, default=4, help="factor, for methods of any scale"
    )
    parser.add_argument("--fresh", action="store_true", help="repeat measurements that are on disk")
    add_device(parser)
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Measure, and print a table."""
    from vsrbench.api import Results
    from vsrbench.run.executors import Crew
    from vsrbench.run.runner import Run, RunConfig

    with Crew() as crew:
        devices = devices_of(options, crew)
        cards = read_cards(options, devices[0])
        store = open_store(options)
        store.prepare()
        config = RunConfig(options.root, devices, fresh=options.fresh, verbose=options.verbose)
        run = Run(config, store, crew)
        with run.logged():
            run.cost(cards, options.size, options.scale, options.frames)
        print(Results(store, options.root, records=store.of_run(run.id)).table(None))
        say_counts(run)
        return run.exit_code
