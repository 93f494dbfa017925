"""Records on disk: one JSON line per finished result, appended and flushed at once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from vsrbench.core.errors import DataError, MissingError, UserError, WriteError
from vsrbench.core.types import RECORD_SCHEMA, Record
from vsrbench.results import lines
from vsrbench.results.lines import Lean
from vsrbench.results.view import Named, has_several, latest, select_shown

T = TypeVar("T")
_BATCH = 1000
"""Lines that are written at once."""


class Seen(NamedTuple):
    """What a plan needs to know of the records of a store."""

    done: dict[str, str]
    """Key -> why it was skipped; empty for what is done. Keys of failures are not among them."""
    methods: list[Named]
    """Methods with their paths, in the order in which they came up."""
    sets: list[Named]
    """Datasets, likewise."""


class Store:
    """The results folder: `records.jsonl`, `runs.jsonl`, `frames/`, `figures/`, `logs/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records.jsonl"
        self.runs = folder / "runs.jsonl"
        self.frames = folder / "frames"
        self.logs = folder / "logs"
        self.notices: list[str] = []
        """What was passed over in reading, once each."""

    @classmethod
    def at(cls, path: Path) -> Store:
        """The store in a folder, or the one that a records file belongs to.

        Raises MissingError when there is neither.
        """
        if path.is_file():
            store = cls(path.parent)
            store.records = path
            if path.name != "records.jsonl":  # copies of both may go by names of their own
                own = path.name.replace("records", "runs")
                store.runs = path.with_name(own if own != path.name else f"{path.stem}.runs.jsonl")
            return store
        if not path.is_dir():
            raise MissingError(f"no results in {path}", "name a results folder or a records file")
        return cls(path)

    def prepare(self) -> None:
        """Make the folder and prove that it can be written. Raises UserError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (self.records, self.runs):
                if path.exists() and not path.is_file():  # a pipe would never open
                    raise UserError(f"{path} is not a file", "move it away")
                if path == self.records or os.path.lexists(path):
                    path.open("a").close()
        except OSError as error:
            raise UserError(
                f"the results folder {self.folder} cannot be written: {error.strerror}",
                "choose another one with --results DIR",
            ) from error

    def append(self, record: Record) -> None:
        """Write one record and flush it to disk. Raises UserError when the disk refuses."""
        self.append_all([record])

    def append_all(self, records: Iterable[Record]) -> None:
        """Write records and flush them to disk, once. Raises WriteError when the disk refuses."""
        _append(self.records, (_line(record.to_json()) for record in records))

    def append_run(self, run: dict[str, Any]) -> None:
        """Write one line about a run: arguments, environment, counts, exit code."""
        _append(self.runs, [_line(run)])

    def software(self, runs: Collection[str]) -> dict[str, str]:
        """What these runs computed with: Python, packages, CUDA, driver -> versions."""
        found: dict[str, set[str]] = {}
        for data in self.read_runs():
            if data["run_id"] in runs:
                env = data["env"]
                own = {"Python": env["python"], "CUDA": env["cuda"], "driver": env.get("driver")}
                for name, version in (own | env["packages"]).items():
                    if version:
                        found.setdefault(name, set()).add(version)
        return {name: " and ".join(sorted(versions)) for name, versions in found.items()}

    def append_lines(self, records: Iterable[bytes]) -> None:
        """Write lines of another store's records as they are. Raises WriteError."""
        _append(self.records, records)

    def code(self, runs: Collection[str]) -> str:
        """Version and commit of the code behind these runs; `+` marks uncommitted changes."""
        found: dict[str, None] = {}
        for data in self.read_runs():
            if data["run_id"] in runs:
                git = data["env"]["git"]
                commit = git["commit"] and f", commit {git['commit'][:7]}{'+' * bool(git['dirty'])}"
                found[f"vsrbench {data['version']}{commit or ''}"] = None
        return "; ".join(found)

    def read_runs(self, strict: bool = False) -> Iterator[dict[str, Any]]:
        """The lines about runs, in order of writing; what is no such line leaves a notice.

        strict: as for `read`.
        """
        return (run for _, run in self._lines(self.runs, lines.run, strict))

    def read(self, strict: bool = False) -> list[Record]:
        """All records in order of writing; what is no record is passed over with a notice.

        strict: it is a DataError, unless it is a last line that was cut in writing.
        """
        return [record for _, record in self.read_lines(strict)]

    def read_lines(self, strict: bool = False) -> Iterator[tuple[bytes, Record]]:
        """(line, record) one after the other, as `read` gives them."""
        return self._records(lines.record, strict)

    def seen(self) -> Seen:
        """What is done already, and what has a place among the kept frames."""
        done = dict[str, str]()
        methods, sets = dict[Named, None](), dict[Named, None]()
        for _, found in self._records(lines.outcome):
            methods[found.method, found.source] = None
            sets[found.dataset, found.dataset_source] = None
            if found.status == "ok":
                done[found.key] = ""
            elif done.get(found.key) != "":
                done.pop(found.key, None)
                if found.status == "skipped" and (why := (found.error or {}).get("message")):
                    done[found.key] = why
        return Seen(done, list(methods), list(sets))

    def latest(self) -> dict[str, Record]:
        """The newest record of each key; a success is never hidden by a later failure."""
        return latest(record for _, record in self.read_lines())

    def require(self, strict: bool = False, lean: bool = False) -> list[Record]:
        """The results that were asked for last (`select_shown`), for all that shows or compares.

        Records of one key with different values leave a notice. Raises MissingError when there are
        no records. strict: a DataError for damaged lines, as in `read`, and for such records. lean:
        for means and comparisons, in little memory (`Lean`).
        """
        differing = dict[str, str]()
        read = self._records(Lean() if lean else lines.record, strict)
        newest = latest((record for _, record in read), differing)
        unclear = not self.runs.is_file() and has_several(newest)
        found = select_shown(newest, self.read_runs(strict))
        if unclear:
            self.notices.append(
                f"{self.runs.name} does not lie beside {self.records}: of several results of one "
                "kind the one that was computed last is shown, asked for last or not"
            )
        if not found:
            raise MissingError(
                f"no records in {self.folder}",
                "run something first: vsrbench --methods bicubic",
            )
        keys = {record.key for record in found} if differing else ()
        for text in (text for key, text in differing.items() if key in keys):
            if strict:
                raise DataError(
                    f"{self.records}: {text}",
                    "remove the line that is wrong; --fresh computes it again",
                )
            self.notices.append(f"{text}; the newest is shown")
        return found

    def of_run(self, run_id: str) -> list[Record]:
        """What one run asked for, new or reused, as `require` gives it."""
        runs = [run for run in self.read_runs() if run["run_id"] == run_id]
        keys = {k for run in runs for a in run.get("asked", ()) for k in a.keys.values()}
        newest = latest(record for _, record in self.read_lines() if record.key in keys)
        return select_shown(newest, runs, alone=True)

    def _records(
        self, made_of: Callable[[bytes], Any], strict: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """(line, what is made of it) of all records. Raises UserError for those of the future."""

        def check_line(line: bytes) -> Any:
            try:
                made = made_of(line)
            except msgspec.ValidationError:
                self._check_schema(lines.schema(line))
                raise
            self._check_schema(made.schema)
            return made

        return self._lines(self.records, check_line, strict)

    def _check_schema(self, newest: Any) -> None:
        if isinstance(newest, int) and newest > RECORD_SCHEMA:
            raise UserError(
                f"{self.records} was written by a newer version (schema {newest}, this one reads "
                f"up to {RECORD_SCHEMA})",
                "update vsrbench or choose another folder with --results DIR",
            )

    def _lines(
        self, path: Path, made_of: Callable[[bytes], T], strict: bool = False
    ) -> Iterator[tuple[bytes, T]]:
        """(line, what it makes) of a file; a line that makes nothing leaves a notice."""
        if not path.is_file():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    made = made_of(line)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    cut = not line.endswith(b"\n")
                    if strict and not cut:
                        raise DataError(
                            f"{path}:{number} is damaged", "restore the file, or remove that line"
                        ) from error
                    notice = f"{path}:{number}: {'cut' if cut else 'damaged'} line passed over"
                    if notice not in self.notices:
                        self.notices.append(notice)
                else:
                    yield line, made


def explain_software(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What two results of `Store.software` differ in: versions then and now; empty if in nothing.

    What only one of them has is no version of the same thing.
    """
    changed = [name for name in old if name in new and old[name] != new[name]]
    sides = (", ".join(f"{name} {side[name]}" for name in changed) for side in (old, new))
    return " against ".join(sides) if changed else ""


def _line(value: dict[str, Any]) -> bytes:
    # NaN has no JSON spelling that other readers accept: refuse it here.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _end_line(file: BinaryIO) -> bytes:
    """What ends the last line; one that was cut in writing says nothing and is taken away."""
    end = start = file.seek(0, os.SEEK_END)
    parts, newline = list[bytes](), b""
    while start and not newline:
        step = min(start, 1 << 16)
        start -= step
        file.seek(start)
        _, newline, part = file.read(step).rpartition(b"\n")
        parts.append(part)
    line = b"".join(reversed(parts))
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        file.truncate(end - len(line))
        return b""
    return b"\n"


def _append(path: Path, made: Iterable[bytes]) -> None:
    """Add lines to a file that other runs may be writing to, and flush them to disk.

    Each batch is written at once under a lock. Raises WriteError when the disk refuses.
    """
    rest = iter(made)
    try:
        with path.open("ab+", buffering=0) as file:
            while batch := b"".join(islice(rest, _BATCH)):
                locked = False
                with suppress(OSError):  # not every file system has locks; released below
                    fcntl.flock(file, fcntl.LOCK_EX)
                    locked = True
                if file.seek(0, os.SEEK_END) > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        # Without a lock another run may be writing that line just now.
                        batch = (_end_line(file) if locked else b"\n") + batch
                left = memoryview(batch)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {error.strerror}",
            "free some space or choose another folder with --results DIR; "
            "everything recorded before is kept",
        ) from error
