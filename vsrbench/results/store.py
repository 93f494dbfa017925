"""Records on disk: one JSON line per finished result, appended and flushed at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import msgspec

from vsrbench.core.errors import DataError, MissingError, UserError, WriteError
from vsrbench.core.types import RECORD_SCHEMA, Asked, Record
from vsrbench.results.view import Named, conflicts, latest, several, shown

T = TypeVar("T")


class _Git(TypedDict):
    commit: str | None
    dirty: bool | None


class _Gpu(TypedDict):
    name: str
    memory_mib: int


class _Env(TypedDict):
    python: str
    system: str
    cpu: str
    cores: int | None
    ram_mib: int
    cuda: str | None
    gpus: list[_Gpu]
    packages: dict[str, str]
    git: _Git
    root: NotRequired[_Git]


class _Run(TypedDict):
    """Of a line about a run: what tables and reports read of it."""

    run_id: str
    started: str
    argv: list[str]
    version: str
    device: str
    env: _Env
    finished: str
    counts: dict[str, int]
    exit_code: int
    asked: NotRequired[list[Asked]]


_RECORDS = msgspec.json.Decoder(Record)
_SCHEMA = msgspec.json.Decoder(dict[str, Any])


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
            with self.records.open("a"):
                pass
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
        self._append_lines(self.records, (record.to_json() for record in records))

    def append_run(self, run: dict[str, Any]) -> None:
        """Write one line about a run: arguments, environment, counts, exit code."""
        self._append_lines(self.runs, [run])

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
        return self._lines(self.runs, _run, strict)

    def _append_lines(self, path: Path, values: Iterable[dict[str, Any]]) -> None:
        # NaN has no JSON spelling that other readers accept: refuse it here.
        lines = (json.dumps(v, allow_nan=False, separators=(",", ":")).encode() for v in values)
        try:
            with path.open("ab+") as file:
                if file.tell() > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # an earlier run was cut in the middle of a line
                        file.write(b"\n")
                file.writelines(line + b"\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(
                f"cannot write {path}: {error.strerror}",
                "free some space or choose another folder with --results DIR; "
                "everything recorded before is kept",
            ) from error

    def read(self, strict: bool = False) -> list[Record]:
        """All records in order of writing; what is no record is passed over with a notice.

        strict: it is a DataError, unless it is a last line that was cut in writing.
        """
        return list(self._lines(self.records, self._record, strict))

    def _record(self, line: bytes) -> Record:
        try:
            record, schema = _RECORDS.decode(line), 0
        except msgspec.ValidationError:
            record, schema = None, _SCHEMA.decode(line).get("schema", 0)
        newest = record.schema if record else schema
        if isinstance(newest, int) and newest > RECORD_SCHEMA:
            raise UserError(
                f"{self.records} was written by a newer version (schema {newest}, this one reads "
                f"up to {RECORD_SCHEMA})",
                "update vsrbench or choose another folder with --results DIR",
            )
        return record or _RECORDS.decode(line)

    def latest(self) -> dict[str, Record]:
        """The newest record of each key; a success is never hidden by a later failure."""
        return latest(self.read())

    def require(self, strict: bool = False) -> list[Record]:
        """The results that were asked for last (`shown`), for all that shows or compares.

        Records of one key with different values leave a notice. Raises MissingError when there are
        no records. strict: a DataError for damaged lines, as in `read`, and for such records.
        """
        records = self.read(strict)
        found = shown(records, self.read_runs(strict))
        if not self.runs.is_file() and several(records):
            self.notices.append(
                f"{self.runs.name} does not lie beside {self.records}: of several results of one "
                "kind the one that was computed last is shown, asked for last or not"
            )
        if not found:
            raise MissingError(
                f"no records in {self.folder}",
                "run something first: vsrbench --methods bicubic",
            )
        keys = {record.key for record in found}
        for text in conflicts(r for r in records if r.key in keys):
            if strict:
                raise DataError(
                    f"{self.records}: {text}",
                    "remove the line that is wrong; --fresh computes it again",
                )
            self.notices.append(f"{text}; the newest is shown")
        return found

    def of_run(self, run_id: str) -> list[Record]:
        """What one run asked for, new or reused, as `require` gives it."""
        runs = (run for run in self.read_runs() if run["run_id"] == run_id)
        return shown(self.read(), runs, alone=True)

    def named(self) -> tuple[list[Named], list[Named]]:
        """(methods, sets) with their paths, in the order in which they came up."""
        methods, sets = dict[Named, None](), dict[Named, None]()
        for record in self.read():
            methods[record.method, record.source] = None
            sets[record.dataset, record.dataset_source] = None
        return list(methods), list(sets)

    def _lines(
        self, path: Path, made_of: Callable[[bytes], T], strict: bool = False
    ) -> Iterator[T]:
        """What the lines of a file make; a line of which nothing can be made leaves a notice."""
        if not path.is_file():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield made_of(line)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                    cut = not line.endswith(b"\n")
                    if strict and not cut:
                        raise DataError(
                            f"{path}:{number} is damaged", "restore the file, or remove that line"
                        ) from error
                    notice = f"{path}:{number}: {'cut' if cut else 'damaged'} line passed over"
                    if notice not in self.notices:
                        self.notices.append(notice)


def _run(line: bytes) -> dict[str, Any]:
    """A line about a run, if it is one. Raises DecodeError."""
    data: dict[str, Any] = _SCHEMA.decode(line)
    data |= msgspec.convert(data, _Run)
    return data
