"""Records on disk: one JSON line per finished result, appended and flushed at once."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from vsrbench.errors import MissingError, UserError
from vsrbench.types import RECORD_SCHEMA, Record


class Store:
    """The results folder: `records.jsonl`, `runs.jsonl`, `frames/`, `figures/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records.jsonl"
        self.runs = folder / "runs.jsonl"
        self.frames = folder / "frames"
        self.notices: list[str] = []

    @classmethod
    def at(cls, path: Path) -> Store:
        """The store in a folder, or the one that a records file belongs to.

        Raises MissingError when there is neither.
        """
        if path.is_file():
            store = cls(path.parent)
            store.records = path
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
        self._append_line(self.records, record.to_json())

    def append_run(self, run: dict[str, Any]) -> None:
        """Write one line about a run: arguments, environment, counts, exit code."""
        self._append_line(self.runs, run)

    def code(self, runs: Collection[str]) -> str:
        """Version and commit of the code behind these runs; `+` marks uncommitted changes."""
        found: dict[str, None] = {}
        for data in self.read_runs():
            if data.get("run_id") in runs:
                git = data["env"]["git"]
                commit = git["commit"] and f", commit {git['commit'][:7]}{'+' * bool(git['dirty'])}"
                found[f"vsrbench {data['version']}{commit or ''}"] = None
        return "; ".join(found)

    def read_runs(self) -> Iterator[dict[str, Any]]:
        """The lines about runs, in order of writing; a cut line is passed over with a notice."""
        return _lines(self.runs, self.notices)

    def _append_line(self, path: Path, value: dict[str, Any]) -> None:
        # NaN has no JSON spelling that other readers accept: refuse it here.
        line = json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            with path.open("ab+") as file:
                if file.tell() > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # an earlier run was cut in the middle of a line
                        line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}",
                "free some space or choose another folder with --results DIR; "
                "everything recorded before is kept",
            ) from error

    def read(self) -> list[Record]:
        """All records in order of writing; a cut line is passed over with a notice."""
        found = []
        for data in _lines(self.records, self.notices):
            if data.get("schema", 0) > RECORD_SCHEMA:
                raise UserError(
                    f"{self.records} was written by a newer version (schema {data['schema']}, this "
                    f"one reads up to {RECORD_SCHEMA})",
                    "update vsrbench or choose another folder with --results DIR",
                )
            found.append(Record.from_json(data))
        return found

    def latest(self) -> dict[str, Record]:
        """The newest record of each key; a success is never hidden by a later failure."""
        return latest(self.read())

    def require(self) -> list[Record]:
        """The newest records, for tables and figures. Raises MissingError when there are none."""
        records = list(self.latest().values())
        if not records:
            raise MissingError(
                f"no records in {self.folder}",
                "run something first: python run_bench.py --methods bicubic",
            )
        return records


def _lines(path: Path, notices: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; a cut line leaves a notice."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                data = json.loads(line)
            except ValueError:
                notices.append(f"{path}:{number}: cut line passed over")
                continue
            yield data


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of each key; a success is never hidden by a later failure."""
    newest: dict[str, Record] = {}
    for record in records:
        old = newest.get(record.key)
        if old is None or record.status == "ok" or old.status != "ok":
            newest[record.key] = record
    return newest
