"""What the parsers share: types of arguments, and options of several commands."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.progress import note
from vsrbench.core.variables import ROOT

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
        elif match := re.match(r"argument (.+?): invalid choice: '(.+?)' \(choose from", message):
            choices = [c for a in self._actions if a.choices for c in a.choices]
            own = [a for a in self._actions if a.choices and match[1] in _name_argument(a)]
            choices = [str(c) for a in own for c in a.choices or ()] or choices
            raise unknown_name(match[1].lstrip("-"), match[2], choices)
        raise UserError(message, hint)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Lists take spaces, unless that would swallow positional arguments: then only commas."""
        try:
            return super().parse_args(args, namespace)
        except UserError as error:
            lists = [action for action in self._actions if isinstance(action, Names)]
            if not lists or "arguments are required" not in error.message:
                raise
            for action in lists:
                action.nargs, action.metavar = None, None
            try:
                return super().parse_args(args, namespace)
            except UserError:
                raise error from None


def _name_argument(action: argparse.Action) -> list[str]:
    """How argparse names an argument in its errors."""
    return [*action.option_strings, "/".join(action.option_strings), action.dest]


class Names(argparse.Action):
    """A list of names with commas or spaces between them, each once; given again, it is longer."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Put the names where the option's value goes."""
        texts = [values] if isinstance(values, str) else values
        before = getattr(namespace, self.dest) or []
        before = [] if before is self.default else before
        setattr(namespace, self.dest, names(",".join((*before, *texts))))


class _Help(argparse.HelpFormatter):
    """Paragraphs as wide as the terminal; those with an indented line stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if "\n  " in part else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )


def new_parser(name: str, purpose: str, usage: str, epilog: str | None = None) -> Parser:
    """The parser of a command, with the options that all have; `run` is shown without its name."""
    parser = Parser(
        prog="vsrbench" if name == "run" else f"vsrbench {name}",
        usage=usage,
        description=purpose,
        epilog=epilog,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="folder that holds methods/ and datasets/"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser


def next_step(options: argparse.Namespace, command: str) -> None:
    """Say what comes next: a command, with the root that was given."""
    root = "" if options.root == ROOT else f" --root {shlex.quote(str(options.root))}"
    note(f"next: vsrbench {command}{root}")


def add_results(group: Group, default: str = "results/local") -> None:
    """--results."""
    group.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help=f"folder of records, frames and figures (default: {default})",
    )


def add_format(group: Group) -> None:
    """--format of a table."""
    group.add_argument(
        "--format",
        choices=["terminal", "markdown", "latex", "csv", "csv-wide", "json"],
        metavar="FORM",
        help="terminal, markdown, latex, csv (long), csv-wide or json (default: terminal on a "
        "terminal, else markdown)",
    )


def add_device(group: Group, more: str = "") -> None:
    """--device; `more` is added to its help."""
    text = "cpu, cuda, cuda:1 ... (default: cuda if there is one)"
    group.add_argument("--device", help=text + more)


def add_names(
    group: Group,
    flag: str,
    text: str,
    shown: tuple[str, str] = ("A", "B"),
    default: Sequence[str] | None = None,
    dest: str | None = None,
) -> None:
    """An option that takes a list of names; `shown` stands for them in the help."""
    keys: dict[str, Any] = {"dest": dest} if dest else {}
    group.add_argument(
        flag, action=Names, nargs="+", metavar=shown, help=text, default=default, **keys
    )


def add_part(group: Group) -> None:
    """--clips and --limit."""
    add_names(group, "--clips", "these clips of the datasets")
    group.add_argument(
        "--limit", type=positive, metavar="N", help="the first N clips of each dataset"
    )


def add_ray(group: Group) -> None:
    """--ray."""
    group.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="HOST:PORT",
        help="work on the machines of this Ray cluster; without an address, of one that is "
        "started here",
    )


def add_how(group: Group) -> None:
    """--precision and --backend."""
    group.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16"],
        metavar="P",
        help="fp32, fp16 or bf16 (default: what the card says; fp32 on a CPU)",
    )
    group.add_argument(
        "--backend",
        choices=["torch", "onnxruntime", "openvino"],
        metavar="ENGINE",
        help="torch, or on a CPU onnxruntime or openvino, for methods that export",
    )


def add_selection(group: Group) -> None:
    """--methods, --datasets and --metrics, of what has results."""
    for kind in ("methods", "datasets", "metrics"):
        add_names(group, f"--{kind}", "default: all that have results")


def names(text: str) -> list[str]:
    """A comma-separated list without blanks and repetitions."""
    return list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def size(text: str) -> tuple[int, int]:
    """WxH in px, as (height, width)."""
    width, _, height = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a size; write it as 320x180 (width x height)"
        )
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
