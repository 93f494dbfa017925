"""Records on disk: one JSON line per finished result, appended and flushed at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
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
        if not self.records.is_file():
            return []
        found = []
        for number, line in enumerate(self.records.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
            except ValueError:
                self.notices.append(f"{self.records}:{number}: cut line passed over")
                continue
            if data.get("schema", 0) > RECORD_SCHEMA:
                raise UserError(
                    f"{self.records}:{number} was written by a newer version (schema "
                    f"{data['schema']}, this one reads up to {RECORD_SCHEMA})",
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


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of each key; a success is never hidden by a later failure."""
    newest: dict[str, Record] = {}
    for record in records:
        old = newest.get(record.key)
        if old is None or record.status == "ok" or old.status != "ok":
            newest[record.key] = record
    return newest
