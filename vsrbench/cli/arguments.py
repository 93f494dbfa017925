"""What the parsers share: types of arguments, and options of several commands."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import NoReturn

from vsrbench.cards.specs import ROOT
from vsrbench.core.errors import UserError

SEVERAL = "; cuda:0,cuda:1 or cpu,cpu: a process for each"
METRICS = "default: all that the data allows; pyiqa:NAME: any of pyiqa"

Group = argparse._ActionsContainer


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


def new_parser(name: str, purpose: str, usage: str, epilog: str | None = None) -> Parser:
    """The parser of a command, with the options that all have; `run` is shown without its name."""
    parser = Parser(
        prog="vsrbench" if name == "run" else f"vsrbench {name}",
        usage=usage,
        description=purpose,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="folder that holds methods/ and datasets/"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser


def add_results(group: Group) -> None:
    """--results."""
    group.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder of records, frames and figures (default: results/local)",
    )


def add_format(group: Group) -> None:
    """--format of a table."""
    group.add_argument(
        "--format",
        choices=["terminal", "markdown", "latex", "csv", "csv-wide", "json"],
        metavar="FORM",
        help="terminal, markdown, latex, csv (long), csv-wide or json (default: terminal on one, "
        "else markdown)",
    )


def add_device(group: Group, more: str = "") -> None:
    """--device; `more` is added to its help."""
    text = "cpu, cuda, cuda:1 ... (default: cuda if there is one)"
    group.add_argument("--device", help=text + more)


def add_selection(group: Group) -> None:
    """--methods, --datasets and --metrics, of what has results."""
    for kind in ("methods", "datasets", "metrics"):
        group.add_argument(f"--{kind}", type=names, help="default: all that have results")


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


def shard(text: str) -> tuple[int, int]:
    """I/N, with 0 <= I < N."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a shard; write it as 0/3, 1/3 or 2/3")
    return int(part), int(parts)


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
