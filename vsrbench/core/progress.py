"""Progress on stderr: a live bar on a terminal, plain stamped lines otherwise."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
import unicodedata
from types import TracebackType
from typing import TYPE_CHECKING

from vsrbench.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn


def plain(text: str) -> str:
    """Text on one line, without control and bidirectional-override characters."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join("\ufffd" if unicodedata.category(c) in hidden else c for c in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 clip, 2 clips, 1,000 clips."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def note(text: str) -> None:
    """Plain lines on stderr; on a terminal broken between words where they are too long.

    Where stderr takes no more, on a full disk, all goes on in silence.
    """
    lines = [plain(line.expandtabs()) for line in text.split("\n")]
    if sys.stderr.isatty():
        width = max(shutil.get_terminal_size().columns, 40)
        lines = [_broken(line, width) for line in lines]
    try:
        print("\n".join(lines), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _broken(line: str, width: int) -> str:
    """A line in pieces that fit, the later ones further in; paths and commands stay whole."""
    if len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def say_error(error: UserError) -> None:
    """One line of what, one of what to do."""
    note(f"error: {error.message}")
    if error.hint:
        note(f"  {error.hint}")


def _bar(*columns: str | ProgressColumn, quiet: bool = False) -> tuple[Bar, Console]:
    """A bar that goes away when it is done, on a terminal; none elsewhere."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    hidden = quiet or not console.is_terminal
    return Bar(*columns, console=console, transient=True, disable=hidden), console


class Bytes:
    """Counts the bytes of a transfer; `total` is 0 where it is not known."""

    def __init__(self, total: int, done: int = 0) -> None:
        from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

        self._bar, _ = _bar(BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._task = self._bar.add_task("", total=total or None, completed=done)

    def __enter__(self) -> Bytes:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        """`count` more bytes have come."""
        self._bar.advance(self._task, count)


class Progress:
    """Counts frames over all jobs; lines of finished jobs scroll above the bar."""

    def __init__(self, frames: int, jobs: int, quiet: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        self.jobs, self.quiet = jobs, quiet
        self._finished = 0
        self._begun: dict[str, float] = {}
        self._told: set[str] = set()
        self._bar, self._console = _bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("frames, left"),
            TimeRemainingColumn(),
            quiet=quiet,
        )
        self._task = self._bar.add_task("", total=frames)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, label: str) -> None:
        """A job begins; others may be running."""
        self._begun[label] = time.perf_counter()
        number = self._finished + len(self._begun)
        self._bar.update(self._task, description=plain(f"[{number}/{self.jobs}] {label}"))

    def tick(self) -> None:
        """One more frame is done."""
        self._bar.advance(self._task)

    def finish(self, label: str, outcome: str) -> None:
        """The job ended; `outcome` is ok or what went wrong, empty where that was said before."""
        self._finished += 1
        now = time.perf_counter()
        seconds = now - self._begun.pop(label, now)  # gone where two jobs had one label
        if outcome:
            self.line(f"[{self._finished}/{self.jobs}] {label}  {outcome}  {seconds:.1f} s")

    def say_once(self, text: str) -> None:
        """A line that stays, unless it was there before."""
        if text not in self._told:
            self._told.add(text)
            self.line(text)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._console.is_terminal:
            self._console.print("\n".join(map(plain, text.split("\n"))), markup=False)
        else:
            note(f"{time.strftime('%H:%M:%SZ', time.gmtime())} {text}")
