"""What a table, a figure, a report or a comparison shows: the results that were asked for last.

Each run keeps the keys of all its results, reused ones too. So the same weights, run again, show
their own scores and not those of other weights in between. Records that no run lists (of an older
version, or of a run that was killed) count as asked for when they were written.

A method without a card and a set without a spec are named after their paths. Equal names of
different paths stay apart, and are told apart by the shortest ends of their paths that differ; the
same content under another path is the same thing, which has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import PurePath
from typing import Any

from vsrbench.core.keys import digest
from vsrbench.core.types import Record, Size
from vsrbench.metrics import recorded

Named = tuple[str, str]
"""Name and path of what is named after it; the path is empty for what has a card or a spec."""
_COST = "cost"


@dataclass(frozen=True)
class _Slot:
    """Place of one result in a view."""

    method: Named
    dataset: Named
    clip: str
    metric: str
    """Metric, or `cost` and the size."""


@dataclass(frozen=True)
class _Event:
    """Results that were asked for at a time; with `whole`, all of its sets."""

    at: str
    keys: Mapping[_Slot, str]
    whole: bool


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of each key; a success is never hidden by a later failure."""
    newest: dict[str, Record] = {}
    for record in records:
        old = newest.get(record.key)
        if old is None or record.status == "ok" or old.status != "ok":
            newest[record.key] = record
    return newest


def shown(
    records: Sequence[Record], runs: Iterable[Mapping[str, Any]], alone: bool = False
) -> list[Record]:
    """Of every method, set, clip and metric (or size) the result that was asked for last.

    records, runs: what the store holds, in order of writing. alone: only what these runs asked
    for. In what is given back `method`, `dataset` and `title` tell apart what has equal names, `at`
    is the time of asking, and the order is that of asking. A clip that the last run of its set no
    longer had is left out.
    """
    found = latest(records)
    events = list(_events(found, runs, alone))
    methods, datasets = _moved(events, found)

    def settled(slot: _Slot) -> _Slot:
        own = methods.get(slot.method, slot.method), datasets.get(slot.dataset, slot.dataset)
        return replace(slot, method=own[0], dataset=own[1])

    asked: dict[_Slot, tuple[str, str]] = {}
    for event in events:
        keys = {settled(slot): key for slot, key in event.keys.items()}
        if event.whole:
            clips = {(slot.dataset, slot.clip) for slot in keys}
            sets = {dataset for dataset, _ in clips}
            gone = (s for s in asked if s.dataset in sets and (s.dataset, s.clip) not in clips)
            for slot in list(gone):
                del asked[slot]
        for slot, key in keys.items():
            asked.pop(slot, None)  # to the end: in order of asking
            asked[slot] = (key, event.at)
    there = [(slot, found[key], at) for slot, (key, at) in asked.items() if key in found]
    called = _labels(slot.method for slot, *_ in there)
    set_called = _labels(slot.dataset for slot, *_ in there if slot.dataset[0])
    return [
        replace(
            record,
            at=at,
            method=called[slot.method],
            title=record.title if called[slot.method] == slot.method[0] else called[slot.method],
            dataset=set_called.get(slot.dataset, ""),
            dataset_source=slot.dataset[1],
            source=slot.method[1],
            clip=slot.clip,
        )
        for slot, record, at in there
    ]


def _events(
    found: Mapping[str, Record], runs: Iterable[Mapping[str, Any]], alone: bool
) -> Iterable[_Event]:
    """Everything that was asked for, in order."""
    listed, of_runs, now = set[str](), list[_Event](), ""
    for run in runs:
        if "asked" not in run:
            continue
        now = max(now, str(run.get("finished", "")))  # clocks are set back, lines stay in order
        keys = {}
        for entry in run["asked"]:
            method, dataset = (entry.method, entry.source), (entry.dataset, entry.dataset_source)
            for metric, key in entry.keys.items():
                what = metric if entry.dataset else _cost_name(entry.size)
                keys[_Slot(method, dataset, entry.clip, what)] = key
        listed.update(keys.values())
        of_runs.append(_Event(now, keys, whole=True))
    if alone:
        return of_runs
    single = [
        _Event(r.at, {_slot(r): r.key}, whole=False) for r in found.values() if r.key not in listed
    ]
    # Sorting is stable: of what was asked for within one second, a whole run counts as later.
    return sorted([*sorted(single, key=lambda e: e.at), *of_runs], key=lambda event: event.at)


def several(records: Iterable[Record]) -> bool:
    """Whether there are results of different keys for one place in a view."""
    keys: dict[_Slot, str] = {}
    return any(keys.setdefault(_slot(r), r.key) != r.key for r in latest(records).values())


def _slot(r: Record) -> _Slot:
    size = r.measurement.size if r.measurement else r.size
    what = r.metric if r.kind == "quality" else _cost_name(size)
    return _Slot((r.method, r.source), (r.dataset, r.dataset_source), r.clip, what)


def _cost_name(size: Size) -> str:
    return f"{_COST} {size[0]}x{size[1]}"


def _moved(
    events: Sequence[_Event], found: Mapping[str, Record]
) -> tuple[dict[Named, Named], dict[Named, Named]]:
    """(methods, sets) that lie elsewhere now: path then -> path of the same content later."""
    clips: dict[Named, dict[str, str]] = {}
    outputs: dict[Named, dict[tuple[str, str], str]] = {}
    weights: dict[Named, str] = {}
    for event in events:
        now: dict[Named, dict[str, str]] = {}
        for slot, key in event.keys.items():
            if (record := found.get(key)) is None:
                continue
            if slot.dataset[1] and record.clip_digest:
                now.setdefault(slot.dataset, {})[slot.clip] = record.clip_digest
            if slot.method[1]:
                outputs[slot.method] = outputs.pop(slot.method, {})  # in order of the last use
                outputs[slot.method][slot.dataset[0], slot.clip] = record.output
                weights[slot.method] = record.weights_sha256
        for dataset, digests in now.items():
            before = clips.pop(dataset, {})
            clips[dataset] = digests if event.whole else before | digests

    def same_outputs(a: Named, b: Named) -> bool:
        both = outputs[a].keys() & outputs[b].keys()
        alike = all(outputs[a][k] == outputs[b][k] for k in both)
        return alike and bool(both or (weights[a] and weights[a] == weights[b]))

    methods = _followed(list(outputs), same_outputs)
    return methods, _followed(list(clips), lambda a, b: clips[a] == clips[b])


def _followed(names: Sequence[Named], same: Callable[[Named, Named], bool]) -> dict[Named, Named]:
    """Each thing that is the same as a later one of its name -> that one."""
    found: dict[Named, Named] = {}
    for a, b in combinations(names, 2):
        if a[0] == b[0] and same(a, b):
            found[a] = b
    return {a: found.get(b, b) for a, b in found.items()}


def _labels(named: Iterable[Named]) -> dict[Named, str]:
    """A label for each: its name, or where others have that too, the end of its path."""
    by_name: dict[str, dict[str, None]] = {}
    for name, source in named:
        by_name.setdefault(name, {})[source] = None
    found: dict[Named, str] = {}
    for name, sources in by_name.items():
        if len(sources) == 1:
            found[name, next(iter(sources))] = name
            continue
        whole = ends([source for source in sources if source])
        short = {source: end.removesuffix(PurePath(end).suffix) for source, end in whole.items()}
        for source, end in whole.items():
            if PurePath(end).name == name:
                found[name, source] = end
            elif PurePath(end).stem == name:
                clear = list(short.values()).count(short[source]) == 1
                found[name, source] = short[source] if clear else end
            else:
                found[name, source] = f"{name} ({end})"
        if "" in sources:
            found[name, ""] = name
    return found


def ends(paths: Sequence[str]) -> dict[str, str]:
    """The shortest end, of at least two parts, by which each path differs from all the others."""
    parts = {path: PurePath(path).parts for path in paths}
    found = {}
    for path, own in parts.items():
        others = [p for other, p in parts.items() if other != path]
        length = next(
            (n for n in range(2, len(own)) if all(own[-n:] != p[-n:] for p in others)), len(own)
        )
        found[path] = "/".join(own[-length:]).replace("//", "/")
    return found


class Places:
    """Folders for what is named after its path: the name; of a second such path with a hash."""

    def __init__(self, seen: Iterable[Named]) -> None:
        self._first: dict[str, str] = {}
        for name, source in seen:
            self.of(name, source)

    def of(self, name: str, source: str) -> str:
        """The folder of a name and its path."""
        first = self._first.setdefault(name, source)
        return name if first == source else f"{name}-{digest(source)[:6]}"


def conflicts(records: Iterable[Record]) -> list[str]:
    """What records of one key disagree about: their identity lacks something that matters.

    Values that differ by less than half of the last printed digit are taken for equal.
    """
    first: dict[str, Record] = {}
    found: dict[str, str] = {}
    for r in records:
        info = recorded(r)
        if r.kind != "quality" or r.status != "ok" or r.value is None or info is None:
            continue
        old = first.setdefault(r.key, r)
        if old.value is not None and abs(old.value - r.value) > 0.5 * 10**-info.decimals:
            found[r.key] = (
                f"{info.title} of {r.title} on {r.dataset}/{r.clip} is on record as "
                f"{old.value:.{info.decimals}f} (run {old.run_id}) and as "
                f"{r.value:.{info.decimals}f} (run {r.run_id}) under one key, {r.key}"
            )
    return list(found.values())
