"""The command line. Results go to stdout, the rest to stderr; `main` returns the exit code.

A module holds one subcommand: its parser, and what it does.
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from vsrbench.cli import (
    advise,
    check,
    compare,
    cost,
    datasets,
    export,
    figure,
    listing,
    merge,
    methods,
    report,
    run,
    score,
    table,
    votes,
    weights,
)
from vsrbench.cli.arguments import Parser
from vsrbench.core.errors import (
    EXTRAS,
    FAILED,
    INTERRUPTED,
    OK,
    UserError,
    missing_package,
    unknown_name,
)
from vsrbench.core.processes import keep_memory
from vsrbench.core.progress import note, say_error

COMMANDS: Mapping[str, tuple[Callable[[], Parser], Callable[[argparse.Namespace], int]]] = {
    "run": (run.make_parser, run.execute),
    "advise": (advise.make_parser, advise.execute),
    "merge": (merge.make_parser, merge.execute),
    "score": (score.make_parser, score.execute),
    "datasets": (datasets.make_parser, datasets.execute),
    "datasets check": (datasets.check_parser, datasets.check),
    "datasets add": (datasets.add_parser, datasets.add),
    "datasets fetch": (datasets.fetch_parser, datasets.fetch),
    "datasets degrade": (datasets.degrade_parser, datasets.degrade),
    "methods": (methods.make_parser, methods.execute),
    "methods setup": (methods.setup_parser, methods.setup),
    "methods new": (methods.parser_of_new, methods.new),
    "weights": (weights.make_parser, weights.execute),
    "weights list": (weights.list_parser, weights.list_all),
    "weights fetch": (weights.fetch_parser, weights.fetch),
    "weights check": (weights.check_parser, weights.check),
    "list": (listing.make_parser, listing.execute),
    "check": (check.make_parser, check.execute),
    "table": (table.make_parser, table.execute),
    "figure": (figure.make_parser, figure.execute),
    "report": (report.make_parser, report.execute),
    "votes": (votes.make_parser, votes.execute),
    "compare": (compare.make_parser, compare.execute),
    "cost": (cost.make_parser, cost.execute),
    "export": (export.make_parser, export.execute),
}
"""Name -> its parser, and what it does with the options: the exit code comes back."""
GROUPS = frozenset(name.partition(" ")[0] for name in COMMANDS if " " in name)
"""Commands whose first argument says which of several is meant."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors that a user can act on are two lines."""
    began_s = time.monotonic()
    args = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in args or "--verbose" in args
    signal.signal(signal.SIGTERM, _terminate)
    _open_streams()
    gc.set_threshold(50_000, 10, 1000)  # a million records hold no cycles; the search costs 1/6
    keep_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")  # what it cannot show is no reason to fail
    try:
        name = "run"
        if args and not args[0].startswith("-"):
            name = args.pop(0)
            if name in GROUPS and args and not args[0].startswith("-"):
                name += f" {args.pop(0)}"
            if name not in COMMANDS:
                alike = [c for c in COMMANDS if (" " in c) == (" " in name)]
                raise unknown_name("command", name, alike, "see: vsrbench --help")
        if name == "run" and not args:
            run.make_parser().print_help(sys.stderr)
            return UserError.exit_code
        make_parser, execute = COMMANDS[name]
        try:
            options = make_parser().parse_args(args)
        except UserError as error:
            later = [word for word in args if word in {c.partition(" ")[0] for c in COMMANDS}]
            if name == "run" and later:
                error.hint = f"the command comes first: vsrbench {later[0]} ..."
            raise
        if name == "run" and (study := str(options.study)) in COMMANDS and not Path(study).exists():
            raise UserError(f"'{study}' is a command", f"it comes first: vsrbench {study} ...")
        options.began_s = began_s
        code = execute(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        if verbose:
            traceback.print_exc()
        say_error(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        missing = missing_package(error, "this command")
        say_error(missing)
        return missing.exit_code
    except BrokenPipeError:  # the reader of stdout went away, as `| head` does
        _silence()
        return OK
    except OSError as error:
        if error.filename and error.errno in _REFUSALS:
            if verbose:
                traceback.print_exc()
            refused = UserError(f"{error.filename} cannot be used: {error.strerror}")
            say_error(refused)
            return refused.exit_code
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename:
            raise
        _silence()
        say_error(
            UserError(
                f"cannot write to stdout: {error.strerror}",
                "free some space; all finished results are kept, and `vsrbench table` shows them",
            )
        )
        return FAILED
    except KeyboardInterrupt:
        note("interrupted: finished results are kept; the same command resumes")
        return INTERRUPTED


_REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE),
}
"""By the system, of a file: nothing that the code could have done better."""


def _open_streams() -> None:
    """Where a standard stream is closed, no file of ours may get its number and what goes there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _silence() -> None:
    """Discard what is still to be printed: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
