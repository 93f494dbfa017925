"""The command line: arguments, subcommands, exit codes. Results on stdout, the rest on stderr."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from vsrbench import __version__
from vsrbench.cards.specs import ROOT
from vsrbench.core.errors import (
    FAILED,
    INTERRUPTED,
    OK,
    REGRESSION,
    MissingError,
    UserError,
    unknown,
)
from vsrbench.core.progress import note, say_error

if TYPE_CHECKING:
    from vsrbench.core.types import DatasetSpec, MethodCard, Record
    from vsrbench.data.datasets import Dataset
    from vsrbench.results.store import Store
    from vsrbench.results.summary import Summary
    from vsrbench.run.runner import Run

EPILOG = """\
examples:
  python run_bench.py --methods instavsr,realviformer
  python run_bench.py --methods bicubic,instavsr --input my.mp4 --keep-frames
  python run_bench.py --methods bicubic,weights/RealESRGAN_x4.pth --input lq/ --gt gt/
  python run_bench.py score --outputs sr/ --gt gt/ --preset dove
  python run_bench.py table --format latex
  python run_bench.py figure profile --clip photo-zoom

exit codes: 0 all done, 1 some jobs failed, 2 bad command line or spec, 3 something needed is
missing, 4 regression found, 130 interrupted (finished work is kept)"""


class Parser(argparse.ArgumentParser):
    """argparse, with a suggestion for a misspelt flag or command."""

    def error(self, message: str) -> NoReturn:
        """One line of what, one of what to do, exit code 2."""
        hint = f"see: {self.prog} --help"
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flag = message.removeprefix(prefix).split()[0].split("=")[0]
            options = [o for action in self._actions for o in action.option_strings]
            close = difflib.get_close_matches(flag, options, n=1)
            message = f"unknown argument '{flag}'"
            hint = f"did you mean {close[0]}?" if close else hint
        raise UserError(message, hint)


def names(text: str) -> list[str]:
    """A comma-separated list without blanks and repetitions."""
    return list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def size(text: str) -> tuple[int, int]:
    """HxW in px."""
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write it as 180x320 (HxW)")
    return int(height), int(width)


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above zero")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


def number(text: str) -> float:
    """A number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number, 0 or more")
    return value


def box(text: str) -> tuple[int, int, int, int]:
    """x,y,w,h in GT px."""
    parts = text.split(",")
    if len(parts) != 4 or not all(p.isdigit() for p in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a box; write it as x,y,w,h in GT px")
    x, y, w, h = map(int, parts)
    return x, y, w, h


def build_parsers() -> dict[str, Parser]:
    """One parser for each subcommand; `run` is the one that a bare flag list means."""
    parsers: dict[str, Parser] = {}

    def command(name: str, purpose: str, usage: str) -> Parser:
        shown = "run_bench.py" if name == "run" else f"run_bench.py {name}"
        parser = Parser(
            prog=shown,
            usage=usage,
            description=purpose,
            epilog=EPILOG if name == "run" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument(
            "--root", type=Path, default=ROOT, help="folder of methods/ and datasets/"
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks")
        parsers[name] = parser
        return parser

    def results(parser: Parser) -> None:
        parser.add_argument(
            "--results",
            type=Path,
            metavar="DIR",
            help="folder of records, frames and figures (default: results/local in the checkout)",
        )

    def device(parser: Parser, more: str = "") -> None:
        text = "cpu, cuda, cuda:1 ... (default: cuda if there is one)"
        parser.add_argument("--device", help=text + more)

    several = "; cuda:0,cuda:1 or cpu,cpu: a process for each"
    run = command(
        "run",
        "Run video super-resolution methods on test sets or on your own video, score them,\n"
        "measure what they cost, and print a table. Results that are on disk are reused.",
        "run_bench.py [run] --methods A,B [options]\n"
        "       run_bench.py score|list|check|table|figure|report|compare|cost [options]\n"
        "                    (each has its --help)\n"
        "       run_bench.py datasets check|add|fetch|degrade NAME [options]",
    )
    run.add_argument("--version", action="version", version=f"vsrbench {__version__}")
    what = run.add_argument_group("what")
    what.add_argument("--methods", type=names, help="methods, or paths of checkpoints")
    what.add_argument(
        "--datasets", type=names, help="test sets, NAME or NAME:LAYOUT (default: synthetic)"
    )
    what.add_argument("--input", type=Path, help="your own video, folder of frames or of clips")
    what.add_argument("--gt", type=Path, help="its ground truth, laid out alike")
    what.add_argument("--scale", type=positive, default=4, help="factor without --gt (default: 4)")
    what.add_argument(
        "--metrics", type=names, help="default: all that the data allows; pyiqa:NAME: any of pyiqa"
    )
    how = run.add_argument_group("how")
    device(how, several)  # type: ignore[arg-type]
    how.add_argument("--no-cost", action="store_true", help="leave out the cost pass")
    how.add_argument("--keep-frames", action="store_true", help="keep outputs as PNG")
    how.add_argument("--fresh", action="store_true", help="compute again what is on disk")
    how.add_argument("-q", "--quiet", action="store_true", help="no progress")
    results(how)  # type: ignore[arg-type]

    score = command(
        "score",
        "Score frames or videos that exist already, by the code of a run. Without --gt, metrics\n"
        "that need none; without --lq too, nothing but the outputs themselves is looked at.",
        "run_bench.py score --outputs PATH [--gt PATH] [--lq PATH] [options]\n"
        "       run_bench.py score --outputs PATH --dataset NAME [options]",
    )
    what = score.add_argument_group("what")
    clips = "video, folder of frames or of clips"
    what.add_argument("--outputs", type=Path, required=True, metavar="PATH", help=clips)
    what.add_argument("--gt", type=Path, metavar="PATH", help="ground truth, laid out alike")
    what.add_argument("--lq", type=Path, metavar="PATH", help="inputs, laid out alike")
    what.add_argument("--scale", type=positive, default=4, help="of --lq without --gt (default: 4)")
    what.add_argument("--dataset", metavar="NAME", help="test set that brings LQ and GT")
    what.add_argument("--name", help="name in tables (default: that of the file or folder)")
    how = score.add_argument_group("how")
    how.add_argument(
        "--metrics", type=names, help="default: all that the data allows; pyiqa:NAME: any of pyiqa"
    )
    how.add_argument(
        "--preset",
        help="PSNR and SSIM as in dove (with its cropping), classic-y or strict-rgb",
    )
    how.add_argument("--border", type=whole, metavar="PX", help="cut from each side (default: 0)")
    how.add_argument(
        "--policy",
        help="outputs of another size than GT: refuse (default), or crop both to what they share: "
        "center, topleft",
    )
    how.add_argument(
        "--align",
        metavar="NAME|FILE",
        help="where outputs lie in GT: dove, seedvr2, flashvsr, or a TOML file (default: "
        "alignment.toml beside the outputs)",
    )
    how.add_argument("--names", metavar="PATTERN", help="names of outputs, such as 'sr_{clip}_x4'")
    how.add_argument(
        "--frames", default="all", help="all (default), first-mid-last, or stride:N for every Nth"
    )
    how.add_argument("--format", choices=["markdown", "latex", "csv"], default="markdown")
    device(how, several)  # type: ignore[arg-type]
    how.add_argument("--fresh", action="store_true", help="compute again what is on disk")
    how.add_argument("-q", "--quiet", action="store_true", help="no progress")
    results(how)  # type: ignore[arg-type]

    add_datasets_parsers(command)

    listing = command("list", "What exists, what is ready here, and why the rest is not.", "")
    listing.usage = "run_bench.py list methods|datasets|metrics [-v]"
    listing.epilog = (
        "list methods -v adds what each method takes to build (time, peak memory of a process of "
        "its own)\nand its parameters and multiply-adds: measured the first time, then kept."
    )
    listing.add_argument("what", choices=["methods", "datasets", "metrics"])

    check = command("check", "Preflight: files, hashes, imports; runs nothing.", "")
    check.usage = "run_bench.py check [--methods A,B] [--datasets A,B] [--metrics A,B]"
    for kind in ("methods", "datasets", "metrics"):
        check.add_argument(
            f"--{kind}", type=names, default=[], help="names, separated by commas (default: all)"
        )

    table = command("table", "Print a table from stored records.", "")
    table.usage = (
        "run_bench.py table [--format markdown|latex|csv] [options]\n"
        "       run_bench.py table --published NAME | --with-published | --contradictions"
    )
    table.add_argument("--format", choices=["markdown", "latex", "csv"], default="markdown")
    for kind in ("methods", "datasets", "metrics"):
        table.add_argument(f"--{kind}", type=names, help="default: all that have results")
    papers = table.add_argument_group("numbers that papers print (results/published)")
    which = papers.add_mutually_exclusive_group()
    which.add_argument("--published", metavar="NAME", help="such a table alone, such as dove-2025")
    which.add_argument(
        "--with-published", action="store_true", help="beside measured rows, marked, not ranked"
    )
    which.add_argument(
        "--contradictions", action="store_true", help="where papers differ on the same pack"
    )
    table.add_argument("-o", "--output", type=Path, help="file instead of stdout")
    results(table)

    figure = command("figure", "Draw a figure from stored records and kept frames.", "")
    figure.usage = "run_bench.py figure profile|crops|scatter|time [options]"
    figure.add_argument("kind", choices=["profile", "crops", "scatter", "time"])
    figure.add_argument("--dataset", help="default: the one with results, or synthetic")
    figure.add_argument("--clip", help="default: the first one")
    figure.add_argument("--methods", type=names, help="default: all that have results")
    figure.add_argument("--metric", default="psnr", help="scatter, time (default: psnr)")
    figure.add_argument("--row", type=int, help="profile: GT row (default: chosen by rule)")
    figure.add_argument("--frame", type=int, help="crops: frame (default: the middle one)")
    figure.add_argument("--box", type=box, help="crops: x,y,w,h (default: chosen by rule)")
    figure.add_argument("-o", "--output", type=Path, help="PNG file (default: DIR/figures/...)")
    results(figure)

    report = command(
        "report",
        "Make one HTML file of stored records and kept frames: table to sort, clips as dots,\n"
        "slider between methods, temporal profiles, failures, provenance. Opens without network.",
        "run_bench.py report [options]",
    )
    for kind in ("methods", "datasets", "metrics"):
        report.add_argument(f"--{kind}", type=names, help="default: all that have results")
    report.add_argument(
        "--images", type=number, metavar="MIB", help="size of all pictures (default: 48)"
    )
    report.add_argument("-o", "--output", type=Path, help="file (default: DIR/report.html)")
    results(report)

    compare = command(
        "compare",
        "Hold new results against a base, clip by clip, for CI: exit code 4 when a mean got worse\n"
        "by more than its metric's tolerance, or when a result of the base is gone.",
        "run_bench.py compare BASE [NEW] [options]",
    )
    folder = "results folder or records file"
    compare.add_argument("base", type=Path, metavar="BASE", help=folder)
    compare.add_argument(
        "new", type=Path, nargs="?", metavar="NEW", help=f"{folder} (default: results/local)"
    )
    for kind in ("methods", "datasets", "metrics"):
        compare.add_argument(f"--{kind}", type=names, help="default: all that have results")
    compare.add_argument(
        "--tolerance",
        type=names,
        default=[],
        metavar="METRIC=X,...",
        help="instead of the metrics' own (docs/metrics.md), in printed units",
    )
    compare.add_argument(
        "--cost",
        type=number,
        metavar="PERCENT",
        help="judge time, memory and energy too, with this slack",
    )
    compare.add_argument("--all", action="store_true", help="show what is unchanged, too")
    compare.add_argument("-o", "--output", type=Path, help="file (Markdown) instead of stdout")

    cost = command("cost", "Measure latency, throughput, memory, energy, parameters and MACs.", "")
    cost.usage = "run_bench.py cost --methods A,B --size HxW [--frames N] [options]"
    cost.add_argument("--methods", type=names, help="methods, or paths of checkpoints")
    cost.add_argument("--size", type=size, required=True, help="LQ size, HxW in px")
    cost.add_argument("--frames", type=positive, default=10, help="frames timed (default: 10)")
    cost.add_argument("--scale", type=positive, default=4, help="for methods of any scale")
    cost.add_argument("--fresh", action="store_true", help="measure again what is on disk")
    device(cost)
    results(cost)
    return parsers


def add_datasets_parsers(command: Callable[[str, str, str], Parser]) -> None:
    """The parsers of `datasets check|add|fetch|degrade`."""
    usage = "run_bench.py datasets"
    every = command(
        "datasets",
        "Test sets on disk: check them, add your own, fetch published packs, degrade GT.",
        f"{usage} check|add|fetch|degrade ...   (each has its --help)",
    )
    every.add_argument("action", metavar="check|add|fetch|degrade")
    check = command(
        "datasets check",
        "Hold a test set on disk against its spec (counts, names, sizes, pairing, scale, shift of\n"
        "LQ against GT, every frame readable) and against the hashes of the first check.",
        f"{usage} check NAME [--accept] [--quick]",
    )
    check.add_argument("--accept", action="store_true", help="take the files as they are now")
    check.add_argument("--quick", action="store_true", help="headers only: no shifts, no hashes")
    add = command(
        "datasets add",
        "Write a spec for a folder of clips of your own. Folders LQ and GT in it are found.",
        f"{usage} add NAME FOLDER [--lq PATTERN] [--gt PATTERN] [--scale N]",
    )
    add.add_argument("name", metavar="NAME", help="of the new set")
    add.add_argument("folder", type=Path, metavar="FOLDER", help="where the clips are")
    add.add_argument("--lq", metavar="PATTERN", help="such as 'input/{clip}'")
    add.add_argument("--gt", metavar="PATTERN", help="such as '{clip}/truth'")
    add.add_argument("--scale", type=positive, help="default: from the sizes, 4 without GT")
    fetch = command(
        "datasets fetch",
        "Download and unpack a published pack; a download that was stopped goes on where it was.",
        f"{usage} fetch NAME [--pack NAME] [--to DIR] [--accept-licence]",
    )
    fetch.add_argument("--pack", help="whose pack (default: the first in the spec)")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="default: the folder of the set")
    fetch.add_argument(
        "--accept-licence", action="store_true", help="I have read the licence that is shown"
    )
    fetch.add_argument("--keep", action="store_true", help="keep the archives")
    fetch.add_argument(
        "--timeout", type=positive, default=20, metavar="S", help="give a silent server up (20)"
    )
    degrade = command(
        "datasets degrade",
        "Make LQ for a set that ships GT only: a new set, named by recipe, seed and a hash of its\n"
        "frames. Recipes: realbasicvsr, clean, mild, real.",
        f"{usage} degrade NAME --recipe NAME --seed N",
    )
    degrade.add_argument("--recipe", required=True, metavar="NAME", help="see above")
    degrade.add_argument("--seed", required=True, type=whole, metavar="N", help="0, 1, ...")
    for parser in (check, fetch, degrade):
        parser.add_argument("name", metavar="NAME", help="of the set")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors that a user can act on are two lines."""
    args = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in args or "--verbose" in args
    signal.signal(signal.SIGTERM, _terminate)
    try:
        parsers = build_parsers()
        name = "run"
        if args and not args[0].startswith("-"):
            name = args.pop(0)
            if name == "datasets" and args and not args[0].startswith("-"):
                name += f" {args.pop(0)}"
            if name not in parsers:
                raise unknown("command", name, parsers)
        if name == "run" and not args:
            parsers["run"].print_help(sys.stderr)
            return UserError.exit_code
        options = parsers[name].parse_args(args)
        commands: dict[str, Callable[[argparse.Namespace], int]] = {
            "run": _run,
            "score": _score,
            "datasets check": _datasets_check,
            "datasets add": _datasets_add,
            "datasets fetch": _datasets_fetch,
            "datasets degrade": _datasets_degrade,
            "list": _list,
            "check": _check,
            "table": _table,
            "figure": _figure,
            "report": _report,
            "compare": _compare,
            "cost": _cost,
        }
        return commands[name](options)
    except UserError as error:
        if verbose:
            traceback.print_exc()
        say_error(error)
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        note("interrupted: all finished results are kept; the same command goes on from there")
        return INTERRUPTED


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


# ---------------------------------------------------------------------------------------------
# run, score and cost


def _run(options: argparse.Namespace) -> int:
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.metrics import metric_info
    from vsrbench.run.runner import Choice, Run

    if options.gt and not options.input:
        raise UserError("--gt needs --input", "--input LQ --gt GT")
    devices = _devices(options.device)
    cards = _cards(options, devices[0])
    if not any(card.name == "bicubic" for card in cards):
        cards.insert(0, specs.method_card(options.root, "bicubic"))
    for name in options.metrics or []:
        metric_info(name)
    chosen = options.datasets or ([] if options.input else ["synthetic"])
    found = [specs.dataset_spec(options.root, name) for name in chosen]
    store = _store(options)
    store.prepare()
    choice = Choice(
        root=options.root,
        devices=devices,
        metrics=tuple(options.metrics or ()),
        keep_frames=options.keep_frames,
        fresh=options.fresh,
        quiet=options.quiet,
        with_cost=not options.no_cost,
        verbose=options.verbose,
    )
    run = Run(choice, store)
    sets = []
    if options.input:
        sets.append(datasets.open_input(options.input, options.gt, options.scale))
    for spec in found:
        try:
            sets.append(datasets.open_dataset(spec, note))
        except UserError as error:  # the other sets go on
            say_error(error)
            if isinstance(error, MissingError):
                run.missing = True
            else:
                run.counts["failed"] += 1
    called = [dataset.spec.name for dataset in sets]
    if twice := {name for name in called if called.count(name) > 1}:
        raise UserError(f"two sets are called '{twice.pop()}'", "rename the folder of --input")
    if sets:
        run.go(cards, sets)
        _print_tables(options, run, cards, sets, "markdown")
    _say_counts(run)
    return run.exit_code


def _score(options: argparse.Namespace) -> int:
    from vsrbench.cards import specs
    from vsrbench.core.types import MethodCard, Weights
    from vsrbench.data import datasets, outputs
    from vsrbench.metrics import PRESETS, metric_info
    from vsrbench.run.runner import Choice, Run

    if options.preset and options.preset not in PRESETS:
        raise unknown("preset", options.preset, PRESETS)
    dove = options.preset == "dove"
    policy: Any = options.policy or ("topleft" if dove else "refuse")
    if policy not in get_args(outputs.Policy):
        raise unknown("policy", policy, get_args(outputs.Policy))
    outputs.frame_numbers(options.frames, 1)
    beside = options.outputs / outputs.MANIFEST
    align = options.align or (str(beside) if beside.is_file() else "")
    if align and align not in outputs.CONVENTIONS:
        note(f"alignment: {align}")
    fit = outputs.Fit(
        policy=policy,
        shortest=dove,
        rule=options.frames,
        border_px=0 if dove and options.border is None else options.border,
        alignment=outputs.read_alignment(align) if align else None,
        names=options.names or "",
        need_lq=not (align or dove),
    )
    if options.dataset and (options.gt or options.lq):
        raise UserError("--dataset brings its own LQ and GT", "leave out --gt and --lq")
    metrics = (*PRESETS.get(options.preset, ()), *(options.metrics or ()))
    for metric in metrics:
        metric_info(metric)
    title = options.name or options.outputs.resolve().stem
    name = datasets.safe_name(title)
    if name in {specs.GT_CARD.name, *specs.method_files(options.root)}:
        raise UserError(f"'{name}' is the name of a method here", "choose another with --name")
    store = _store(options)
    store.prepare()
    targets: datasets.Dataset | Path | None = options.gt
    if options.dataset:
        spec = specs.dataset_spec(options.root, options.dataset)
        targets = datasets.open_dataset(spec, note)
    elif options.lq:
        targets = datasets.open_input(options.lq, options.gt, options.scale)
    found = outputs.open_outputs(options.outputs, targets, fit)
    cards = [
        MethodCard(name, 1, title, Weights("user", note="outputs"), kind="frames", scale=0),
    ]
    if found.clips and all(clip.lq for clip in found.clips):
        cards.insert(0, specs.method_card(options.root, "bicubic"))
    choice = Choice(
        root=options.root,
        devices=_devices(options.device),
        metrics=tuple(dict.fromkeys(metrics)),
        fresh=options.fresh,
        quiet=options.quiet,
        with_cost=False,
        verbose=options.verbose,
    )
    run = Run(choice, store)
    run.go(cards, [found])
    _print_tables(options, run, cards, [found], options.format)
    _say_counts(run)
    return run.exit_code


def _print_tables(
    options: argparse.Namespace,
    run: Run,
    cards: Sequence[MethodCard],
    sets: Sequence[Dataset],
    form: str,
) -> None:
    """One table for each data set: what this run asked for, whether new or reused."""
    from vsrbench.cards import specs

    latest = run.store.latest().values()
    records = [r for r in latest if r.key in run.keys]
    shown = [c.name for c in cards] + [specs.GT_CARD.name]
    for dataset in sets:
        own = {r.method for r in records if r.dataset == dataset.spec.name}
        rows = [name for name in shown if name in own]
        name, metrics = dataset.spec.name, list(run.wanted(dataset))
        summary = _summary(options, records, rows, [name], metrics, {name: dataset.spec})
        print(_formatted(run.store, summary, form))


def _cost(options: argparse.Namespace) -> int:
    from vsrbench.run.runner import Choice, Run

    device = _device(options.device)
    cards = _cards(options, device)
    store = _store(options)
    store.prepare()
    choice = Choice(options.root, (device,), fresh=options.fresh, verbose=options.verbose)
    run = Run(choice, store)
    with run.logged():
        run.cost(cards, options.size, options.scale, options.frames)
    records = [r for r in store.require() if r.key in run.keys]
    rows = [c.name for c in cards if any(r.method == c.name for r in records)]
    print(_formatted(store, _summary(options, records, rows, None, None), "markdown"))
    _say_counts(run)
    return run.exit_code


def _cards(options: argparse.Namespace, device: str) -> list[MethodCard]:
    """The cards of --methods, with the precision of this device. Raises UserError."""
    from vsrbench.cards import specs

    if not options.methods:
        raise UserError("say which methods to run", "--methods A,B; see: run_bench.py list methods")
    cards = [specs.method_card(options.root, name) for name in options.methods]
    twice = {card.name for card in cards if [c.name for c in cards].count(card.name) > 1}
    if twice:
        raise UserError(f"two methods are called {twice.pop()}", "rename one of the files")
    # Half precisions are for GPUs: the CPU runs fp32, and says so in records and tables.
    return [replace(card, precision="fp32") if device == "cpu" else card for card in cards]


def _say_counts(run: Run) -> None:
    c = run.counts
    note(
        f"done: {c['ok']} new results, {c['reused']} reused, {c['failed']} failed, "
        f"{c['skipped']} skipped; records in {run.store.records}"
    )
    if c["failed"]:
        note("  the same command tries the failed ones again")


def _devices(asked: str | None) -> tuple[str, ...]:
    """The torch devices to use at a time. Raises as `_device`; UserError for a mixture."""
    devices = (
        tuple(_device(name.strip()) for name in asked.split(",")) if asked else (_device(None),)
    )
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UserError("--device mixes cpu and cuda", "their scores differ in the last digits")
    return devices


def _device(asked: str | None) -> str:
    """The torch device to use. Raises UserError, MissingError."""
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UserError(f"no device named '{asked}'", "cpu, cuda, cuda:1 ...") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"nothing here runs on device '{asked}'", "cpu, cuda, cuda:1 ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(
            f"device '{asked}' was asked for and {torch.cuda.device_count()} CUDA devices are here",
            "use --device cpu",
        )
    return "cpu" if device.type == "cpu" else str(device)


# ---------------------------------------------------------------------------------------------
# test sets


def _datasets_check(options: argparse.Namespace) -> int:
    from vsrbench.cards import specs
    from vsrbench.run import datacheck

    spec = specs.dataset_spec(options.root, options.name)
    manifest = options.root / "results" / "manifests" / f"{spec.name}.json"
    found = datacheck.check(spec, manifest, options.accept, options.quick, note)
    for kind in ("facts", "warnings", "errors"):
        for text in getattr(found, kind):
            print(text if kind == "facts" else f"{kind[:-1]}: {text}")
    verdict = f"{len(found.errors)} errors, {len(found.warnings)} warnings"
    print(f"{spec.name}: {verdict if found.errors or found.warnings else 'as its spec says'}")
    return FAILED if found.errors else OK


def _datasets_add(options: argparse.Namespace) -> int:
    from vsrbench.data import newset

    path, spec = newset.add(
        options.root, options.name, options.folder, options.lq, options.gt, options.scale
    )
    print(f"{path}: {spec.kind}, x{spec.scale}")
    note(f"next: run_bench.py datasets check {spec.name}")
    return OK


def _datasets_fetch(options: argparse.Namespace) -> int:
    from vsrbench.cards import specs
    from vsrbench.data import datasets, fetch

    spec = specs.dataset_spec(options.root, options.name)
    downloads = fetch.chosen_pack(spec, options.pack)
    place = options.to or datasets.root_of(spec)
    if place is None:
        raise UserError(
            f"where shall {spec.name} go?",
            f"--to DIR, or set ${datasets.DATA} to the folder of all sets",
        )
    note(f"{spec.title}: {spec.source}")
    note(f"licence: {spec.licence or 'none stated'}")
    note(f"cite: {spec.citation}")
    if not options.accept_licence:
        if not sys.stdin.isatty():
            raise UserError("the licence is to be accepted first", "--accept-licence")
        note("Do you accept this licence? [y/N] ")
        if input().strip().lower() not in ("y", "yes"):
            note("nothing fetched")
            return UserError.exit_code
    fetch.fetch(spec, downloads, place, note, options.keep, options.timeout)
    print(place)
    if datasets.root_of(spec) != place:
        note(f"next: export {datasets.root_variable(spec)}={place.resolve()}")
    note(f"next: run_bench.py datasets check {spec.name}")
    return OK


def _datasets_degrade(options: argparse.Namespace) -> int:
    from vsrbench.cards import specs
    from vsrbench.data import newset

    whole, _, layout = options.name.partition(":")
    if layout:
        raise UserError("GT is degraded, of whichever layout", f"leave out :{layout} of {whole}")
    spec = specs.dataset_spec(options.root, options.name)
    name, folder = newset.degrade_set(options.root, spec, options.recipe, options.seed, note)
    print(name)
    note(f"LQ in {folder}; next: run_bench.py --methods bicubic --datasets {name}")
    return OK


# ---------------------------------------------------------------------------------------------
# from stored records


def _store(options: argparse.Namespace) -> Store:
    from vsrbench.results.store import Store

    return Store(options.results or options.root / "results" / "local")


def _records(store: Store, strict: bool = False) -> list[Record]:
    """The newest records; what was passed over is said. Raises as `Store.require`."""
    try:
        return store.require(strict)
    finally:
        _say_notices(store)


def _say_notices(store: Store) -> None:
    for line in store.notices:
        note(f"note: {line}")
    store.notices.clear()


def _summary(
    options: argparse.Namespace,
    records: Sequence[Record],
    methods: list[str] | None,
    datasets: list[str] | None,
    metrics: list[str] | None,
    own: Mapping[str, DatasetSpec] | None = None,
) -> Summary:
    """The summary of these records; `own` are specs that no file declares."""
    from vsrbench.results.summary import summarise

    known = _specs(options.root, (r.dataset for r in records))
    return summarise(records, methods, datasets, metrics, known | dict(own or {}))


def _specs(root: Path, names: Iterable[str]) -> dict[str, DatasetSpec]:
    """The specs of these data sets; without those that are none, or damaged."""
    from vsrbench.cards import specs

    found = {}
    for name in dict.fromkeys(names):
        with suppress(UserError):
            found[name] = specs.dataset_spec(root, name)
    return found


def _formatted(store: Store, summary: Summary, form: str) -> str:
    from vsrbench.show import tables

    if form == "csv":
        return tables.csv(summary)
    code = store.code({run for block in summary.blocks for run in block.runs})
    return (tables.latex if form == "latex" else tables.markdown)(summary, code)


def _table(options: argparse.Namespace) -> int:
    from vsrbench.results import published

    store = _store(options)
    chosen = options.methods, options.datasets, options.metrics
    if options.contradictions:
        text = published.contradiction_table(published.read(options.root), options.format)
    else:
        if options.published:
            known = published.read(options.root)
            summary = published.summary(known, options.published, *chosen)
        else:
            summary = _summary(options, _records(store), *chosen)
        if options.with_published:
            sets = _specs(options.root, (block.dataset for block in summary.blocks))
            bases = {name: spec.base or name for name, spec in sets.items()}
            summary = published.beside(published.read(options.root), summary, bases)
        text = _formatted(store, summary, options.format)
    _say_notices(store)
    if options.output:
        _write(options.output, text)
    else:
        print(text)
    return OK


def _report(options: argparse.Namespace) -> int:
    from vsrbench.show import report

    store = _store(options)
    records = _records(store)
    summary = _summary(options, records, options.methods, options.datasets, options.metrics)
    out = options.output or store.folder / "report.html"
    budget = report.BUDGET_MIB if options.images is None else options.images
    report.build(summary, records, store, out, budget, note)
    _say_notices(store)
    print(out)
    return OK


def _compare(options: argparse.Namespace) -> int:
    from vsrbench.results import compare
    from vsrbench.results.store import Store

    tolerances = {}
    for item in options.tolerance:
        metric, _, value = item.partition("=")
        try:
            tolerances[metric] = number(value)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--tolerance {item}: {error}", "write it as psnr=0.05") from error
    base, new = (
        Store.at(path or options.root / "results" / "local") for path in (options.base, options.new)
    )
    changes = compare.compare(
        _records(base, strict=True),
        _records(new, strict=True),
        options.methods,
        options.datasets,
        options.metrics,
        tolerances,
        options.cost,
    )
    text = compare.markdown(changes, options.all)
    if options.output:
        _write(options.output, text)
        note(compare.verdict_line(changes))
    else:
        print(text)
    return REGRESSION if compare.regressed(changes) else OK


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Around the writing of a file: its folder is made, errors of the disk are one clear line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "choose another file: -o"
        ) from error


def _write(path: Path, text: str) -> None:
    with _writing(path):
        path.write_text(text, encoding="utf-8")
    note(f"wrote {path}")


def _figure(options: argparse.Namespace) -> int:
    from vsrbench.show import figures

    store = _store(options)
    records = _records(store)
    quality = [r for r in records if r.kind == "quality"]
    sets = list(dict.fromkeys(r.dataset for r in quality))
    dataset = options.dataset or ("synthetic" if "synthetic" in sets else sets[0] if sets else "")
    if dataset not in sets:
        raise unknown("dataset with results", dataset, sets)
    clips = list(dict.fromkeys(r.clip for r in quality if r.dataset == dataset))
    clip = options.clip or clips[0]
    if clip not in clips:
        raise unknown(f"clip of {dataset}", clip, clips)
    have = list(dict.fromkeys(r.method for r in quality if r.dataset == dataset))
    for name in options.methods or []:
        if name not in have:
            raise unknown("method with results", name, have)
    kept = [name for name in have if (store.frames / name / dataset / clip).is_dir()]
    from_frames = options.kind in ("profile", "crops")
    methods = options.methods or (kept if from_frames and kept else have)
    label = dataset if options.kind == "scatter" else f"{dataset}-{clip}"
    out = options.output or store.folder / "figures" / f"{options.kind}-{label}.png"
    out = out if out.suffix else out.with_suffix(".png")
    if out.suffix.lower() != ".png":
        raise UserError(f"figures are PNG, and {out} is not", f"-o {out.with_suffix('.png')}")
    frames = store.frames
    with _writing(out):
        if options.kind == "profile":
            figures.profile(frames, dataset, clip, methods, out, options.row, records)
        elif options.kind == "crops":
            figures.crops(frames, dataset, clip, methods, out, options.box, options.frame, records)
        elif options.kind == "scatter":
            summary = _summary(options, records, methods, [dataset], None)
            figures.scatter(summary, out, y=options.metric, dataset=dataset)
        else:
            figures.over_time(records, dataset, clip, methods, options.metric, out)
    print(out)
    return OK


def _list(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    rows: list[tuple[str, ...]] = list(_readiness(options.root, options.what))
    headers = ["name", "what", "ready", "why not"]
    if options.verbose and options.what == "methods":
        rows = [(*row[:3], *_construction(options.root, row), row[3]) for row in rows]
        headers[3:3] = ["build s", "peak MiB", "params M", "GMAC/frame", "at LQ"]
    print(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    return OK


def _construction(root: Path, row: tuple[str, ...]) -> tuple[str, ...]:
    """What `list methods -v` says besides: measured when first asked for, then kept."""
    from vsrbench.cards import specs, weights
    from vsrbench.core.types import Weights
    from vsrbench.data import datasets
    from vsrbench.run import cost

    dash = ("–",) * 5
    if row[0] == "PATH":
        return dash
    device, absent = _device(None), None
    try:
        card = specs.method_card(root, row[0])
        if card.kind == "command":  # whole programs, which may run for an hour
            return dash
        card = replace(card, scale=card.scale or 4)
        if device == "cpu":
            card = replace(card, precision="fp32")
        try:
            sha = weights.identify(card)
        except MissingError as error:  # no figure here depends on the numbers in the weights
            card, sha, absent = replace(card, weights=Weights("random")), "", error
        cache = datasets.cache_folder() / "construction"
        found = cost.construction(card, sha, device, cache)
    except UserError as error:  # without its file, a network may not even be known
        say_error(absent if absent and isinstance(error, MissingError) else error)
        return dash
    height, width = found["size"]
    params, macs = found["params_m"], found["macs_g"]
    return (
        f"{found['seconds']:.1f}",
        "–" if found["peak_mib"] is None else f"{found['peak_mib']:.0f}",
        "–" if params is None else f"{params:.2f}",
        f"{macs:.1f}",
        f"{width}x{height}",
    )


def _check(options: argparse.Namespace) -> int:
    from vsrbench import metrics
    from vsrbench.cards import specs

    kinds = {
        "methods": [m for m in specs.method_files(options.root) if m != "spandrel"],
        "datasets": list(specs.dataset_files(options.root)),
        "metrics": list(metrics.METRICS),
    }
    everything = not any(getattr(options, kind) for kind in kinds)
    codes = []
    for kind, known in kinds.items():
        for name in known if everything else getattr(options, kind):
            why = _problem(options.root, kind, name)
            if type(why) is UserError and name not in known:
                raise why
            print(f"{kind[:-1]} {name}: {why or 'ready'}")
            codes += [why.exit_code] if why else []
    return min(codes, default=OK)  # what is damaged or wrong before what is missing


def _problem(root: Path, kind: str, name: str) -> UserError | None:
    """Why something cannot be used here; None when it can. Imports what it needs, runs nothing."""
    from vsrbench import metrics
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.programs import command
    from vsrbench.run import method

    try:
        if kind == "methods":
            card = specs.method_card(root, name)
            if card.kind == "command":
                command.ready(card)
            command.identify(card)
            method.entry(card)
        elif kind == "datasets":
            spec = specs.dataset_spec(root, name)
            if spec.kind != "embedded":
                datasets.on_disk(spec, note)
        else:  # what lacks weights is not to fetch them now
            return metrics.unavailable(name, fetch=False) or metrics.unavailable(name)
    except UserError as error:
        return error
    return None


def _readiness(root: Path, kind: str) -> list[tuple[str, str, str, str]]:
    """(name, what it is, yes or no, why not) of everything of one kind. Imports no torch."""
    from vsrbench import metrics
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.programs import command

    rows = []

    def row(name: str, what: str, why: UserError | None) -> None:
        rows.append((name, what, "no" if why else "yes", str(why) if why else ""))

    if kind == "methods":
        for name, path in specs.method_files(root).items():
            if name == "spandrel":
                rows.append(
                    ("PATH", "any checkpoint that spandrel reads, given by path", "yes", "")
                )
                continue
            why = None
            what = ""
            try:
                card = specs.read_card(path)
                what = f"{card.title}, x{card.scale or 'any'}, weights: {card.weights.origin}"
                if card.kind == "command":  # whose checkpoints take too long to read
                    command.ready(card)
                else:
                    command.identify(card)
            except UserError as error:
                why = error
            row(name, what, why)
    elif kind == "datasets":
        for name in specs.dataset_files(root):
            try:
                spec = specs.dataset_spec(root, name)
            except UserError as error:
                row(name, "", error)
            else:
                row(name, f"{spec.title}, {spec.kind}, x{spec.scale}", datasets.missing(spec))
    else:
        for name, info in metrics.METRICS.items():
            unit = f" in {info.unit}" if info.unit else ""
            row(
                name,
                f"{info.title}{unit}, {info.better} is better",
                metrics.unavailable(name, fetch=False),
            )
        what = "any other of pyiqa that scores single frames, such as pyiqa:topiq_nr"
        rows.append((f"{metrics.PYIQA}NAME", what, "yes", ""))
    return rows
