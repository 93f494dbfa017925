"""`list`: what exists, what is ready here, and why the rest is not."""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vsrbench.cli.arguments import Parser, new_parser
from vsrbench.core.errors import OK, MissingError, UserError
from vsrbench.core.progress import note, plain, say_error
from vsrbench.run.devices import pick_device

BETTER = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "list", "List what exists, what is ready to use, and why the rest is not.", ""
    )
    parser.usage = "vsrbench list [methods|datasets|metrics] [-v]"
    parser.epilog = (
        "list methods -v adds what each method takes to build (time, peak memory in a process of "
        "its own)\nand its parameters and multiply-adds: measured the first time, then kept.\n"
        "list metrics -v adds what each metric computes and what it rewards wrongly."
    )
    parser.add_argument(
        "what",
        choices=["methods", "datasets", "metrics"],
        nargs="?",
        default="methods",
        help="(default: methods)",
    )
    return parser


GROUPS = ("ready", "one command away", "needs an environment of its own", "not ready")


@dataclass(frozen=True)
class Entry:
    """One method, dataset or metric in the list."""

    name: str
    """On the command line."""
    what: str
    """What it is, in a line."""
    why: UserError | None = None
    """Why it is not ready."""
    more: str = ""
    """What `-v` adds."""

    @property
    def group(self) -> str:
        """Where it is listed."""
        if self.why is None:
            return GROUPS[0]
        if "methods setup" in self.why.hint or "environment of its own" in self.why.message:
            return GROUPS[2]
        return GROUPS[1] if self._command() else GROUPS[3]

    def _command(self) -> str:
        """What brings it here, if one command does."""
        hint = self.why.hint if self.why else ""
        found = re.search(r"(vsrbench [\w .-]+|pip install \S+)( |$|[,;])", hint)
        return found[1].strip() if found else ""

    def lines(self, width: int, column: int) -> list[str]:
        """Its lines: what it is, and below what to do."""
        space = " " * column
        lead = self.name if len(self.name) < column else f"{self.name}\n{space[:-1]}"
        todo = (self._command() or str(self.why)) if self.why is not None else ""
        wrap = functools.partial(textwrap.wrap, width=width - column, break_on_hyphens=False)
        found = [*(wrap(self.what) or [""]), *wrap(todo), *wrap(self.more)]
        return [f"{lead:<{column}}{found[0]}".rstrip(), *(space + line for line in found[1:])]


def execute(options: argparse.Namespace) -> int:
    """Print what exists, in groups by what it takes to run it."""
    entries = list(_entries(options.root, options.what))
    if not options.verbose:
        entries = [replace(e, more="") for e in entries]
    elif options.what == "methods":
        entries = [replace(e, more=_describe_construction(options.root, e.name)) for e in entries]
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 100)
    column = min(24, max([len(entry.name) for entry in entries], default=0) + 2)
    for group in GROUPS:
        members = [entry for entry in entries if entry.group == group]
        members.sort(key=lambda entry: "untrained" in entry.what)  # what has no scores, last
        if members:
            print(f"{group.upper()}")
            for entry in members:
                print("\n".join(map(plain, entry.lines(width - 2, column))))
            print()
    return OK


def _entries(root: Path, kind: str) -> Iterator[Entry]:
    """Everything of one kind. Imports no torch."""
    from vsrbench import metrics
    from vsrbench.cards import specs
    from vsrbench.cards.sources import describe
    from vsrbench.data import datasets
    from vsrbench.metrics.requirements import REQUIREMENTS, need_of

    if kind == "methods":
        for name, path in specs.method_files(root).items():
            if name == "spandrel":
                yield Entry("PATH", "any checkpoint that spandrel reads, given by its path")
            else:
                yield _method(name, path)
    elif kind == "datasets":
        for name in specs.dataset_files(root):
            try:
                spec = specs.dataset_spec(root, name)
            except UserError as error:
                yield Entry(name, "", error)
            else:
                what = f"{spec.title}, {spec.kind}, x{spec.scale}"
                what += f", {spec.licence}" if spec.licence else ""
                yield Entry(name, what, datasets.explain_missing(spec))
    else:
        for name, info in metrics.known_metrics().items():
            unit = f" in {info.unit}" if info.unit else ""
            what = f"{info.title}{unit}, {BETTER[info.better]}"
            if need := need_of(name):
                what += f"; weights: {describe(need)}"
            elif (wants := REQUIREMENTS.get(name)) and wants.package:
                what += f"; package {wants.install} ({wants.licence})"
            more = info.source + (f" Rewards wrongly: {info.flaw}." if info.flaw else "")
            more = re.sub(r"[*`]", "", more)  # Markdown is for docs/metrics.md
            yield Entry(name, what, metrics.unavailable(name, fetch=False), more)
        what = "any other of pyiqa that scores single frames, such as pyiqa:topiq_nr"
        yield Entry(f"{metrics.PYIQA}NAME", f"{what} (PolyForm-Noncommercial licence)")


def _method(name: str, path: Path) -> Entry:
    from vsrbench.cards import specs
    from vsrbench.core.download import describe
    from vsrbench.programs import command

    what = ""
    try:
        card = specs.read_card(path)
        scale = f"x{card.scale}" if card.scale else "any scale"
        origin = card.weights.origin.replace("_", " ")
        weights = {"none": "no weights", "random": "untrained: cost only"}
        what = f"{card.title}, {scale}, {weights.get(card.weights.origin, f'{origin} weights')}"
        licence = card.weights.licence or card.licence
        source = next(iter(card.weights.sources), None)
        own = Path(card.folder, card.weights.file or "")
        if source:
            size = f"{source.size / 1e6:,.0f} MB" if source.size else "size unknown"
            about = [describe(source), size, licence]
        elif own.is_file():
            about = ["comes with it", f"{own.stat().st_size / 1e6:,.1f} MB", licence]
        else:
            about = [licence]
        if any(about):
            what += f" ({', '.join(filter(None, about))})"
        if card.kind == "command":  # whose checkpoints take too long to read
            command.check_arguments(card)
        else:
            command.identify(card)
    except UserError as error:
        return Entry(name, what, error)
    return Entry(name, what)


def _describe_construction(root: Path, name: str) -> str:
    """What `list methods -v` says besides: measured when first asked for, then kept."""
    from vsrbench.cards import specs, weights
    from vsrbench.core.types import Weights
    from vsrbench.core.variables import cache_folder
    from vsrbench.run import cost

    if name == "PATH":
        return ""
    device, absent = pick_device(None), None
    try:
        card = specs.method_card(root, name)
        if card.kind == "command":  # whole programs, which may run for an hour
            return ""
        card = replace(card, scale=card.scale or 4)
        if device == "cpu":
            card = replace(card, precision="fp32")
        try:
            sha = weights.identify(card)
        except MissingError as error:  # no figure here depends on the numbers in the weights
            card, sha, absent = replace(card, weights=Weights("random")), "", error
        cache = cache_folder() / "construction"
        found = cost.measure_construction(card, sha, device, cache)
    except UserError as error:  # without its file, a network may not even be known
        say_error(absent if absent and isinstance(error, MissingError) else error)
        if cause := error.cause():  # this is for -v alone
            note(cause.rstrip())
        return ""
    height, width = found["size"]
    params, macs = found["params_m"], found["macs_g"]
    peak = "" if found["peak_mib"] is None else f", {found['peak_mib']:.0f} MiB"
    size = "" if params is None else f"; {params:.2f} M parameters"
    return (
        f"built in {found['seconds']:.1f} s{peak}{size}, {macs:.1f} G multiply-adds a frame of "
        f"{width}x{height}"
    )
