"""Results of several runs, on several machines, brought into one folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vsrbench.core.errors import WriteError
from vsrbench.core.files import name_partial
from vsrbench.core.progress import counted
from vsrbench.core.types import Record
from vsrbench.data.frames import digests_path, read_mark
from vsrbench.results.store import Store
from vsrbench.results.summary import GT
from vsrbench.results.view import shorten_paths

EXAMPLES = 3
"""Of what two folders share, so many are spelled out."""


@dataclass
class Common:
    """What a folder holds of one method on one dataset that an earlier one has brought, too."""

    count: int = 0
    """Scores, or clips of kept frames."""
    examples: list[str] = field(default_factory=list)
    """The first `EXAMPLES` of them."""

    def add(self, what: str) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(what)


class Between(NamedTuple):
    """Where `Common` things are."""

    first: Path
    """The folder whose ones are kept: a source, or the target."""
    second: Path
    """The other folder, or the same, which holds them twice."""
    method: str
    dataset: str
    frames: bool
    """They are kept frames, not scores."""


InBoth = dict[Between, Common]


@dataclass
class Merged:
    """What came of a merge."""

    records: int = 0
    """Records that were added."""
    runs: int = 0
    """Runs that were added."""
    overlaps: InBoth = field(default_factory=dict)
    """Scores and kept frames of equal values, which are there once now."""
    conflicts: InBoth = field(default_factory=dict)
    """Those of other values; the first ones are kept."""


def describe(found: InBoth) -> list[str]:
    """A line for each pair of folders, method and dataset."""
    lines = []
    for (first, second, method, dataset, frames), common in found.items():
        what = "kept frames of " + counted(common.count, "clip") if frames else ""
        what = what or counted(common.count, "score")
        where = f"in {first} and {second}" if first != second else f"twice in {first}"
        more = common.count - len(common.examples)
        examples = ", ".join(common.examples) + (f" and {more:,} more" if more else "")
        lines.append(f"{what} of {method} on {dataset} {where} ({examples})")
    return lines


def place_side_by_side(found: Mapping[str, Sequence[Record]]) -> list[Record]:
    """The results of several folders for one table: what they agree on once, else a row for each.

    found: path of a folder -> what it shows. A method that two folders score differently (other
    weights, code or frames) or cost differently (another machine) goes by its name and the end of
    the folder's path in each of them; GT never does.
    """
    labels = shorten_paths([str(Path(folder).resolve()) for folder in found])
    seen: dict[tuple[Any, ...], Record] = {}
    apart = set[str]()
    for records in found.values():
        for r in records:
            if r.status == "ok" and r.method != GT:
                first = seen.setdefault((r.method, *_slot(r)), r)
                known = r.kind != "quality" or _agree(first.value, r.value)
                if first.key != r.key or not known:
                    apart.add(r.method)
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
    differ in time, host and rounding alone (`_agree`). Raises WriteError, DataError for damaged
    lines.
    """
    target.prepare()
    found = Merged()
    known = set[int]()
    held: dict[str, _Held] = {}
    came: dict[Path, Path] = {}
    for _, record in target.read_lines(strict=True):
        known.add(_identity(record))
        if record.status == "ok" and record.kind == "quality":
            held[record.key] = _Held(record.value, _weigh(record.per_frame), target.folder)
    runs = {run["run_id"] for run in target.read_runs(strict=True)}
    for source in sources:
        target.append_lines(_new(source, target.folder, known, held, found))
        for run in source.read_runs(strict=True):
            if run["run_id"] not in runs:
                runs.add(run["run_id"])
                asked = [a.to_json() for a in run["asked"]] if "asked" in run else None
                target.append_run(run if asked is None else run | {"asked": asked})
                found.runs += 1
        _bring_frames(source, target, came, found)
    return found


class _Held(NamedTuple):
    """A score that is there already."""

    value: float | None
    frames: float
    """`_weigh` of the scores of its frames."""
    folder: Path
    """That it came from."""


def _new(
    source: Store, target: Path, known: set[int], held: dict[str, _Held], found: Merged
) -> Iterator[bytes]:
    """The lines of records that are to be added."""
    for line, record in source.read_lines(strict=True):
        identity = _identity(record)
        there = identity in known
        if record.status == "ok" and record.kind == "quality":
            score = _Held(record.value, _weigh(record.per_frame), source.folder)
            before = held.setdefault(record.key, score)
            if before is not score:
                if there and before.folder in (source.folder, target):  # this very record
                    continue
                at = Between(before.folder, source.folder, record.method, record.dataset, False)
                what = f"{record.metric} on {record.clip}"
                if _agree(before.value, score.value) and _agree(before.frames, score.frames):
                    found.overlaps.setdefault(at, Common()).add(what)
                else:
                    values = f" is {before.value} and {record.value}"
                    found.conflicts.setdefault(at, Common()).add(what + values)
                continue
        elif there:
            continue
        known.add(identity)
        found.records += 1
        yield line if line.endswith(b"\n") else line + b"\n"


def _agree(a: float | None, b: float | None) -> bool:
    """Whether two scores differ by rounding at most: one part in a million.

    Networks sum in another order on another processor, or in another number of threads.
    """
    return a is b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def _weigh(per_frame: Sequence[float]) -> float:
    """A sum that tells the scores of frames from others, and from their own in another order."""
    return math.fsum((1 + t % 89) * score for t, score in enumerate(per_frame))


def _identity(record: Record) -> int:
    """Tells records apart in little memory."""
    return hash((record.key, record.run_id, record.at, record.status, record.value))


def _bring_frames(source: Store, target: Store, came: dict[Path, Path], found: Merged) -> None:
    """Copy kept frames, each clip whole or not at all.

    came: place of a clip -> folder that brought it, since this merge began.
    """
    for mark in sorted(source.frames.glob("*/*/*.key")):
        folder = mark.with_suffix("")
        place = target.frames / folder.relative_to(source.frames)
        beside = place.with_name(mark.name)
        if not folder.is_dir():
            continue
        if beside.is_file() and place.is_dir():
            method, dataset, clip = place.relative_to(target.frames).parts
            first = came.get(place, target.folder)
            if clip.startswith("."):  # the LQ beside a clip, which speaks for both
                continue
            at = Between(first, source.folder, method, dataset, True)
            if _tell_frames(place) != _tell_frames(folder):
                found.conflicts.setdefault(at, Common()).add(clip)
            elif first not in (target.folder, source.folder):  # else they may be these very ones
                found.overlaps.setdefault(at, Common()).add(clip)
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
        came[place] = source.folder


def _tell_frames(folder: Path) -> tuple[str, str]:
    """What made kept frames, and their digests."""
    sums = digests_path(folder)
    return read_mark(folder).output_key, sums.read_text() if sums.is_file() else ""
