"""Results of several runs, on several machines, brought into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vsrbench.core.errors import WriteError
from vsrbench.core.files import name_partial
from vsrbench.core.types import Record
from vsrbench.data.frames import digests_path, read_mark
from vsrbench.results.store import Store
from vsrbench.results.summary import GT
from vsrbench.results.view import shorten_paths


@dataclass
class Merged:
    """What came of a merge."""

    records: int = 0
    """Records that were added."""
    runs: int = 0
    """Runs that were added."""
    overlap: int = 0
    """Scores that more than one folder held, with equal values; they are kept once."""
    conflicts: list[str] = field(default_factory=list)
    """A line for each score or clip that differs between folders; the first one is kept."""


def place_side_by_side(found: Mapping[str, Sequence[Record]]) -> list[Record]:
    """The results of several folders for one table: what they agree on once, else a row for each.

    found: path of a folder -> what it shows. A method that two folders score differently (other
    weights, code or frames) or cost differently (another machine) goes by its name and the end of
    the folder's path in each of them; GT never does.
    """
    labels = shorten_paths([str(Path(folder).resolve()) for folder in found])
    seen: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for records in found.values():
        for r in records:
            if r.status == "ok":
                value = r.value if r.kind == "quality" else None
                seen.setdefault((r.method, *_slot(r)), set()).add((r.key, value))
    apart = {slot[0] for slot, keys in seen.items() if len(keys) > 1} - {GT}
    shown: dict[tuple[Any, ...], Record] = {}
    for folder, records in found.items():
        label = labels[str(Path(folder).resolve())]
        for r in records:
            if r.method in apart:
                name = f"{r.method} ({label})"
                r = replace(r, method=name, title=f"{r.title} ({label})")
            slot = (r.method, *_slot(r))
            if slot not in shown or shown[slot].status != "ok":
                shown[slot] = r
    return list(shown.values())


def _slot(r: Record) -> tuple[Any, ...]:
    """What two records must share to be the same result."""
    size = r.measurement.size if r.measurement else r.size
    return (r.kind, r.dataset, r.clip, r.metric) if r.kind == "quality" else (r.kind, size)


def merge(sources: Sequence[Store], target: Store) -> Merged:
    """Add the records, runs and kept frames of `sources`, in this order, to `target`.

    A second merge of the same folders adds nothing. Records of one score are the same when they
    differ in time and host alone. Raises WriteError, DataError for damaged lines.
    """
    target.prepare()
    found = Merged()
    known = set[int]()
    held: dict[str, _Held] = {}
    for _, record in target.read_lines(strict=True):
        known.add(_identity(record))
        if record.status == "ok" and record.kind == "quality":
            held[record.key] = _Held(record.value, hash(record.per_frame))
    runs = {run["run_id"] for run in target.read_runs(strict=True)}
    for source in sources:
        target.append_lines(_new(source, known, held, found))
        for run in source.read_runs(strict=True):
            if run["run_id"] not in runs:
                runs.add(run["run_id"])
                asked = [a.to_json() for a in run["asked"]] if "asked" in run else None
                target.append_run(run if asked is None else run | {"asked": asked})
                found.runs += 1
        found.conflicts += _frames(source.frames, target.frames)
    return found


class _Held(NamedTuple):
    """A score that is there already."""

    value: float | None
    per_frame: int
    """Tells the scores of its frames from others."""


def _new(source: Store, known: set[int], held: dict[str, _Held], found: Merged) -> Iterator[bytes]:
    """The lines of records that are to be added."""
    for line, record in source.read_lines(strict=True):
        identity = _identity(record)
        if identity in known:
            continue
        known.add(identity)
        if record.status == "ok" and record.kind == "quality":
            score = _Held(record.value, hash(record.per_frame))
            before = held.setdefault(record.key, score)
            if before is not score:
                if before == score:
                    found.overlap += 1
                else:
                    found.conflicts.append(
                        f"{record.metric} of {record.method} on {record.dataset}/{record.clip} is "
                        f"{before.value} and, in {source.folder}, {record.value}"
                    )
                continue
        found.records += 1
        yield line if line.endswith(b"\n") else line + b"\n"


def _identity(record: Record) -> int:
    """Tells records apart in little memory."""
    return hash((record.key, record.run_id, record.at, record.status, record.value))


def _frames(source: Path, target: Path) -> list[str]:
    """Copy kept frames, each clip whole or not at all; a line for each that is there otherwise."""
    conflicts = []
    for mark in sorted(source.glob("*/*/*.key")):
        folder = mark.with_suffix("")
        place = target / folder.relative_to(source)
        beside = place.with_name(mark.name)
        if not folder.is_dir():
            continue
        if beside.is_file() and place.is_dir():
            if read_mark(place).output_key != read_mark(folder).output_key:
                conflicts.append(f"kept frames in {folder} are of another output than in {place}")
            continue
        partial = name_partial(place)
        try:
            shutil.copytree(folder, partial)
            if place.exists():
                shutil.rmtree(place)
            partial.rename(place)
            if digests_path(folder).is_file():
                shutil.copy2(digests_path(folder), place.parent)
            shutil.copy2(mark, beside)  # last: it says that the frames are whole
        except OSError as error:
            raise WriteError(
                f"cannot write {place}: {error.strerror}", "free some space"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return conflicts
