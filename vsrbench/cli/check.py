"""`check`: files, hashes and imports, before anything runs; a method tried on a tiny clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_device, add_names, new_parser
from vsrbench.cli.running import read_cards
from vsrbench.core.errors import OK, UserError
from vsrbench.core.progress import note, plain
from vsrbench.run.devices import pick_device


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "check",
        "Preflight: files, hashes, imports; runs nothing. With --run, methods run on a tiny clip:\n"
        "number, type, size and range of their frames, whether the same clip gives the same ones\n"
        "again, whether they wait for later frames than the card says, or show another picture.",
        "",
    )
    parser.usage = "vsrbench check [--methods A B] [--datasets A B] [--metrics A B] [--run A]"
    for kind in ("methods", "datasets", "metrics"):
        add_names(parser, f"--{kind}", "names (default: all)", default=[])
    add_names(parser, "--run", "try these methods", default=[])
    add_device(parser, "; for --run")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Say of everything asked for whether it can be used; exit code of the worst."""
    from vsrbench import metrics
    from vsrbench.cards import specs

    codes = _try(options) if options.run else []
    kinds = {
        "methods": [m for m in specs.method_files(options.root) if m != "spandrel"],
        "datasets": list(specs.dataset_files(options.root)),
        "metrics": list(metrics.known_metrics()),
    }
    everything = not options.run and not any(getattr(options, kind) for kind in kinds)
    for kind, known in kinds.items():
        for name in known if everything else getattr(options, kind):
            why = _find_problem(options.root, kind, name)
            if type(why) is UserError and name not in known:
                raise why
            print(plain(f"{kind[:-1]} {name}: {why or 'ready'}"), flush=True)
            codes += _explain(why, options.verbose)
    return min(codes, default=OK)  # what is damaged or wrong before what is missing


def _try(options: argparse.Namespace) -> list[int]:
    """Run each method of --run on a tiny clip; exit codes of what is wrong."""
    from vsrbench.run.trial import trial_apart

    device = pick_device(options.device)
    codes = []
    asked = argparse.Namespace(root=options.root, methods=options.run)
    for card in read_cards(asked, device):
        for what, why in trial_apart(card, device):
            print(plain(f"method {card.name}: {what}: {why or 'ok'}"), flush=True)
            codes += _explain(why, options.verbose)
    return codes


def _explain(why: UserError | None, verbose: bool) -> list[int]:
    """The exit code of what is wrong, if anything is; its traceback goes to stderr."""
    if why and verbose and (cause := why.cause()):
        note(cause.rstrip())
    return [why.exit_code] if why else []


def _find_problem(root: Path, kind: str, name: str) -> UserError | None:
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
                command.check_arguments(card)
            command.identify(card)
            method.entry(card)
        elif kind == "datasets":
            spec = specs.dataset_spec(root, name)
            if spec.kind != "embedded":
                datasets.find_on_disk(spec, note)
        else:  # what lacks weights is not to fetch them now
            return metrics.unavailable(name, fetch=False) or metrics.unavailable(name)
    except UserError as error:
        return error
    return None
