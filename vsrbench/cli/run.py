"""`run`: methods on datasets or a video, scores, costs, a table. The default command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench import __version__
from vsrbench.cli.arguments import (
    METRICS,
    SEVERAL,
    Parser,
    add_device,
    add_how,
    add_names,
    add_part,
    add_ray,
    add_results,
    new_parser,
    positive,
    shard,
    size,
)
from vsrbench.cli.running import (
    crew_of,
    print_commands,
    print_tables,
    read_cards,
    say_counts,
)
from vsrbench.cli.stored import open_store
from vsrbench.core.errors import UserError
from vsrbench.core.progress import note

if TYPE_CHECKING:
    from vsrbench.api.study import Grid, Study
    from vsrbench.core.types import MethodCard
    from vsrbench.data.datasets import Dataset
    from vsrbench.run.cluster import Cluster
    from vsrbench.run.executors import Crew
    from vsrbench.run.runner import Run

EPILOG = """\
examples:
  vsrbench --methods instavsr realviformer
  vsrbench --methods instavsr --input my.mp4 --frames 8 --no-cost --video   # a quick look
  vsrbench advise --input my.mp4 --fps 24                   # which method for this clip?
  vsrbench --methods bicubic weights/RealESRGAN_x4.pth --input lq/ --gt gt/
  vsrbench run study.toml
  vsrbench score --outputs sr/ --gt gt/ --preset dove
  vsrbench table --format latex
  vsrbench figure profile --clip photo-zoom

exit codes: 0 all done, 1 some jobs failed, 2 bad command line or spec, 3 something needed is
missing, 4 regression found, 130 interrupted (finished work is kept)"""
COMMANDS = """\
commands (each has its --help):
  run        methods on datasets or a video; the default command
  advise     which method to use for your clip, from a short part of it
  score      frames or videos that you already have
  cost       time, memory, energy, at sizes and lengths
  table      results as a table: terminal, Markdown, LaTeX, CSV, JSON
  figure     results as a figure, or as a video side by side
  report     results as one HTML file
  compare    new results against a base, for CI
  votes      what people preferred in the report's blind vote
  merge      results of several machines in one folder
  list       methods, datasets, metrics: what is ready here
  check      files, hashes and imports before a run
  datasets   check, add, fetch or degrade a dataset
  methods    set up a method's environment, or start a new one
  weights    list, fetch or check weights
  export     a method's networks as ONNX
"""


def make_parser() -> Parser:
    """The arguments. Those that a study can set have no default here."""
    parser = new_parser(
        "run",
        "Run video super-resolution methods on datasets or on your own video, score them,\n"
        "measure what they cost, and print a table. Results that are on disk are reused.\n\n"
        + COMMANDS,
        "vsrbench [run] --methods A B [options]\n"
        "       vsrbench run STUDY.toml [options]\n"
        "       vsrbench COMMAND [options]",
        EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"vsrbench {__version__}")
    parser.add_argument(
        "study",
        type=Path,
        nargs="?",
        metavar="STUDY.toml",
        help="a file with the options below; those on the command line override it",
    )
    what = parser.add_argument_group("what")
    add_names(what, "--methods", "methods, or paths of checkpoints")
    add_names(what, "--datasets", "datasets, NAME or NAME:LAYOUT (default: synthetic)")
    what.add_argument("--input", metavar="PATH", help="your video, folder of frames or of clips")
    what.add_argument("--gt", metavar="PATH", help="its ground truth, in the same layout")
    what.add_argument("--scale", type=positive, metavar="N", help="without --gt (default: 4)")
    add_names(what, "--metrics", METRICS)
    part = parser.add_argument_group("a part of the data, whose results are kept apart")
    add_part(part)
    part.add_argument(
        "--frames", metavar="N", help="the first N frames of each clip, or FIRST:END (from 0)"
    )
    how = parser.add_argument_group("how")
    add_device(how, SEVERAL)
    add_ray(how)
    add_how(how)
    how.add_argument("--no-cost", action="store_true", help="skip the cost measurement")
    how.add_argument("--keep-frames", action="store_true", help="keep outputs as PNG")
    how.add_argument(
        "--video",
        nargs="?",
        const="h264",
        choices=["h264", "av1", "lossless"],
        metavar="FORM",
        help="outputs as videos, with the sound of the input: h264 (default), av1 or lossless; "
        "keeps frames, too",
    )
    how.add_argument("--fresh", action="store_true", help="recompute results that are on disk")
    how.add_argument(
        "--timeout",
        type=positive,
        metavar="S",
        help="give up on a clip after S seconds, loading and scoring included "
        "(default: no limit; a program's own timeout_s holds as well)",
    )
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
    from vsrbench.cards import specs
    from vsrbench.metrics import metric_info

    study = _study(options)
    options.results = Path(study.results) if study.results else None
    for name in study.methods:  # before anything slow is imported
        specs.method_card(options.root, name)
    for name in study.metrics:
        metric_info(name)
    with crew_of(options) as crew:
        return _execute(options, study, crew)


def _study(options: argparse.Namespace) -> Study:
    """What is asked for, in a file and on the command line. Raises UserError."""
    from vsrbench.api.study import Study, read_study

    given = {f.name: getattr(options, f.name, None) for f in fields(Study)}
    given["results"] = str(options.results) if options.results else None
    study = read_study(options.study, given)
    return replace(study, cost=study.cost and not options.no_cost)


def _execute(options: argparse.Namespace, study: Study, crew: Crew | Cluster) -> int:
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.data.selection import refuse_unknown
    from vsrbench.run.runner import Run, RunConfig

    options.methods, options.device = list(study.methods), study.device
    chosen = study.datasets or (() if study.input else ("synthetic",))
    found = [specs.dataset_spec(options.root, name) for name in chosen]
    devices = crew.devices(options.device)
    cards = read_cards(options, devices[0])
    if not any(card.name == "bicubic" for card in cards):
        cards.insert(0, specs.method_card(options.root, "bicubic"))
    store = open_store(options)
    config = RunConfig(
        root=options.root,
        devices=devices,
        metrics=study.metrics,
        keep_frames=study.keeps,
        fresh=options.fresh,
        quiet=options.quiet,
        with_cost=study.cost,
        shard=options.shard,
        verbose=options.verbose,
        timeout_s=options.timeout,
        began_s=options.began_s,
        study=options.study.read_text(encoding="utf-8") if options.study else "",
    )
    run = Run(config, store, crew)
    sets = []
    if study.input:
        gt = Path(study.gt) if study.gt else None
        own = datasets.open_input(Path(study.input), gt, study.scale, note, study.selection)
        sets.append(own)
    for spec in found:
        try:
            sets.append(datasets.open_dataset(spec, note, study.selection))
        except UserError as error:  # the other datasets go on
            run.report_unopened(error)
    refuse_unknown(study.selection, (name for dataset in sets for name in dataset.names))
    sets = [dataset for dataset in sets if dataset.clips or dataset.broken]
    if options.dry_run:
        print_commands(cards, sets)
        return run.exit_code
    store.prepare()
    if sets:
        run.go(cards, sets)
        print_tables(options, run, sets)
        if study.grid:
            mapping = Run(config, store, crew)
            _map(study.grid, cards, mapping, study.scale)
            run.add(mapping)
        _make(options, study, run, sets)
    say_counts(run)
    return run.exit_code


def _map(grid: Grid, cards: Sequence[MethodCard], run: Run, scale: int) -> None:
    """Measure cost at all sizes and lengths, and print the map."""
    from vsrbench.show import grid as show

    with run.keep_log():
        print(show.grid(run.grid(cards, [size(text) for text in grid.sizes], scale, grid.frames)))


def _make(options: argparse.Namespace, study: Study, run: Run, sets: list[Dataset]) -> None:
    """What a study wants besides the tables: videos, figures, report, verdicts."""
    from vsrbench.api import Results
    from vsrbench.results.limits import describe_within

    records = run.store.of_run(run.id)
    if study.video:
        from vsrbench.show import moving

        folder = run.store.folder / "videos"
        for dataset in sets:
            own = [r for r in records if r.dataset_source == dataset.spec.path]
            own = own if dataset.spec.path else [r for r in own if r.dataset == dataset.spec.name]
            made = moving.videos(folder, run.store.frames, own, dataset.clips, study.video, note)
            print("\n".join(map(str, made)))
    if text := describe_within(records, study.constraints):
        print(text)
    names = {dataset.spec.name: dataset.spec for dataset in sets}
    results = Results(run.store, options.root, names, records)
    for path in study.make(results):
        print(path)
