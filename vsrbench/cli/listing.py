"""`list`: what exists, what is ready here, and why the rest is not."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from vsrbench.cli.arguments import Parser, new_parser
from vsrbench.core.errors import OK, MissingError, UserError
from vsrbench.core.progress import say_error
from vsrbench.run.devices import pick_device


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser("list", "What exists, what is ready here, and why the rest is not.", "")
    parser.usage = "vsrbench list methods|datasets|metrics [-v]"
    parser.epilog = (
        "list methods -v adds what each method takes to build (time, peak memory of a process of "
        "its own)\nand its parameters and multiply-adds: measured the first time, then kept."
    )
    parser.add_argument("what", choices=["methods", "datasets", "metrics"])
    return parser


def execute(options: argparse.Namespace) -> int:
    """Print a table of what exists."""
    from tabulate import tabulate

    rows: list[tuple[str, ...]] = list(_readiness(options.root, options.what))
    headers = ["name", "what", "ready", "why not"]
    if options.verbose and options.what == "methods":
        rows = [(*row[:3], *_construction(options.root, row), row[3]) for row in rows]
        headers[3:3] = ["build s", "peak MiB", "params M", "GMAC/frame", "at LQ"]
    print(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    return OK


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
                row(
                    name,
                    f"{spec.title}, {spec.kind}, x{spec.scale}",
                    datasets.explain_missing(spec),
                )
    else:
        for name, info in metrics.known_metrics().items():
            unit = f" in {info.unit}" if info.unit else ""
            row(
                name,
                f"{info.title}{unit}, {info.better} is better",
                metrics.unavailable(name, fetch=False),
            )
        what = "any other of pyiqa that scores single frames, such as pyiqa:topiq_nr"
        rows.append((f"{metrics.PYIQA}NAME", what, "yes", ""))
    return rows


def _construction(root: Path, row: tuple[str, ...]) -> tuple[str, ...]:
    """What `list methods -v` says besides: measured when first asked for, then kept."""
    from vsrbench.cards import specs, weights
    from vsrbench.core.types import Weights
    from vsrbench.core.variables import cache_folder
    from vsrbench.run import cost

    dash = ("–",) * 5
    if row[0] == "PATH":
        return dash
    device, absent = pick_device(None), None
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
        cache = cache_folder() / "construction"
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
