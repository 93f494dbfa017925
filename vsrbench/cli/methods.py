"""`methods setup|new`: environments for programs of others, methods of one's own."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from vsrbench.cli.arguments import Parser, new_parser, next_step
from vsrbench.core.errors import OK, UserError
from vsrbench.core.progress import note


def make_parser() -> Parser:
    """The arguments of `methods` alone, which says what there is."""
    parser = new_parser(
        "methods",
        "Set up the environment of someone else's program; start a method of your own.",
        "vsrbench methods setup|new ...   (each has its --help)",
    )
    parser.add_argument("action", metavar="setup|new")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Refuse an unknown action."""
    raise UserError(f"no action '{options.action}' of methods", "setup or new")


def setup_parser() -> Parser:
    """The arguments of `methods setup`."""
    parser = new_parser(
        "methods setup",
        "Clone the repository of a method, make its Python environment and fetch its weights, all\n"
        "below DIR/NAME; write where they are into the table of $VSRBENCH_COMMANDS. Finished\n"
        "steps are skipped.",
        "vsrbench methods setup NAME --to DIR [--dry-run]",
    )
    parser.add_argument(
        "name", metavar="NAME", help="name of a method that has its own environment"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for it")
    parser.add_argument("--dry-run", action="store_true", help="print every command, run none")
    return parser


def setup(options: argparse.Namespace) -> int:
    """Make the environment, or print what would."""
    from vsrbench.cards import specs
    from vsrbench.core.variables import COMMANDS, commands_file
    from vsrbench.programs import setup as programs

    card = specs.method_card(options.root, options.name)
    plan = programs.steps(card, options.to, note)
    licence = f"licence: {card.licence}; weights: {card.weights.licence or 'none stated'}"
    if options.dry_run:
        print(f"# {card.title}, {licence}")
        for step in plan:
            print(step.text)
        return OK
    note(f"{card.title}, {licence}")
    programs.run(plan, note)
    table = programs.table_file(options.to)
    if not commands_file():
        note(f"next: export {COMMANDS}={shlex.quote(str(table))}")
    next_step(options, f"check --methods {card.name}")
    print(table)
    return OK


def parser_of_new() -> Parser:
    """The arguments of `methods new`."""
    parser = new_parser(
        "methods new",
        "Start a method: a card, an adapter (or an example program) and a test, all working as\n"
        "they are. DIR becomes a root for --root.",
        "vsrbench methods new NAME [--kind python|command] [--to DIR]",
    )
    parser.add_argument("name", metavar="NAME", help="name of the method")
    parser.add_argument("--kind", choices=["python", "command"], default="python")
    parser.add_argument(
        "--to", type=Path, default=Path(), metavar="DIR", help="folder (default: this one)"
    )
    return parser


def new(options: argparse.Namespace) -> int:
    """Write the files, and say what comes next."""
    from vsrbench.core.variables import COMMANDS, commands_file
    from vsrbench.programs import scaffold

    for path in scaffold.new(options.name, options.kind, options.to):
        print(path)
    if options.kind == "command" and not commands_file():
        note(
            f"next: export {COMMANDS}={shlex.quote(str((options.to / 'commands.toml').resolve()))}"
        )
    note(f"next: vsrbench check --root {shlex.quote(str(options.to))} --run {options.name}")
    return OK
