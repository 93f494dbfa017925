"""What a table, a figure, a report or a comparison shows: the results that were asked for last.

Each run keeps the keys of all its results, reused ones too. So the same weights, run again, show
their own scores and not those of other weights in between. Records that no run lists (of an older
version, or of a run that was killed) count as asked for when they were written.

A method without a card and a dataset without a spec are named after their paths. Equal names of
different paths stay apart, and are told apart by the shortest ends of their paths that differ; the
same content under another path is the same thing, which has moved.

A method that was run by several engines or in several precisions has a row for each, and its names
say which.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from pathlib import PurePath
from typing import Any, NamedTuple

from vsrbench.core.keys import digest
from vsrbench.core.types import Asked, Record, Size
from vsrbench.metrics import find_recorded

Named = tuple[str, str]
"""Name and path of what is named after it; the path is empty for what has a card or a spec."""
_COST = "cost"
_ASKED = re.compile(r" \(((?:torch|onnxruntime|openvino|fp32|fp16|bf16)(?:, \w+)?)\)$")
"""In a title: the engine and precision that were asked for."""
_TEXTS = ("method", "source", "dataset", "dataset_source", "clip")
"""Of what was asked for; each is there once in memory."""


class _Slot(NamedTuple):
    """Place of one result in a view."""

    method: Named
    dataset: Named
    clip: str
    metric: str
    """Metric, or `cost` and the size."""
    asked: str = ""
    """Engine and precision that were asked for."""


class _Asking(NamedTuple):
    """What a run asked for."""

    at: str
    slots: Sequence[Asked]

    def pairs(self, of_paths: bool = False) -> Iterator[tuple[_Slot, str]]:
        """(slot, key) of all that it asked for, or only of what is named after a path."""
        for entry in self.slots:
            if of_paths and not (entry.source or entry.dataset_source):
                continue
            method, dataset = (entry.method, entry.source), (entry.dataset, entry.dataset_source)
            for metric, key in entry.keys.items():
                what = metric if entry.dataset else _cost_name(entry.size)
                yield _Slot(method, dataset, entry.clip, what), key


_Events = Callable[[], Iterable[_Asking | Record]]
"""All that was asked for, in order: by a run, or by nobody knows which run."""


def latest(records: Iterable[Record], differing: dict[str, str] | None = None) -> dict[str, Record]:
    """The newest record of each key; a success is never hidden by a later failure.

    differing: takes a line for each key whose records disagree: its identity lacks something that
    matters.
    """
    newest: dict[str, Record] = {}
    first: dict[str, Record] = {}
    for record in records:
        old = newest.get(record.key)
        if old is None or record.status == "ok" or old.status != "ok":
            newest[record.key] = record
        if old is not None and differing is not None:
            old = first.get(record.key, old)
            if text := _difference(old, record):
                first[record.key] = old
                differing[record.key] = text
    return newest


def select_shown(
    found: dict[str, Record], runs: Iterable[Mapping[str, Any]], alone: bool = False
) -> list[Record]:
    """Of every method, dataset, clip and metric (or size) the result that was asked for last.

    found: the newest record of each key, in order of writing; it is used up. runs: what the store
    holds of them, likewise. alone: only what these runs asked for. In what is given back `method`,
    `dataset` and `title` tell apart what has equal names, `at` is the time of asking, and the order
    is that of asking. A clip that the last run of its dataset no longer had is left out.
    """
    events = _events(found, runs, alone)
    methods, datasets = _find_moved(events, found)
    asked: dict[_Slot, tuple[str, str]] = {}
    clips: dict[Named, set[str]] = {}
    for event in events():
        at, now = event.at, dict[Named, set[str]]()
        for slot, key in _contents(event):
            if not slot.asked and (record := found.get(key)):  # what a run lists does not say it
                way = find_asked(record.title)
                slot = _Slot(slot.method, slot.dataset, slot.clip, slot.metric, way)
            if methods or datasets:
                own = methods.get(slot.method, slot.method)
                slot = slot._replace(method=own, dataset=datasets.get(slot.dataset, slot.dataset))
            now.setdefault(slot.dataset, set()).add(slot.clip)
            asked.pop(slot, None)  # to the end: in order of asking
            asked[slot] = (key, at)
        for dataset, here in now.items():
            before = clips.setdefault(dataset, here)
            if isinstance(event, _Asking) and before - here:
                for gone in [s for s in asked if s.dataset == dataset and s.clip not in here]:
                    del asked[gone]
                clips[dataset] = here
            before |= here
    for slot in [slot for slot, (key, _) in asked.items() if key not in found]:
        del asked[slot]
    if _find_several(asked):
        _leave_out_older(asked, found)
    several = _find_several(asked)
    called = _labels(dict.fromkeys(slot.method for slot in asked))
    set_called = _labels(dict.fromkeys(slot.dataset for slot in asked if slot.dataset[0]))
    result, used = [], set[str]()
    for slot, (key, at) in asked.items():
        record, name, label = found[key], called[slot.method], set_called.get(slot.dataset, "")
        way = f" ({slot.asked})" if slot.asked and slot.method in several else ""
        title = record.title if name == slot.method[0] else name + way
        values = {"at": at, "method": name + way, "title": title, "clip": slot.clip}
        values |= {"dataset": label, "source": slot.method[1], "dataset_source": slot.dataset[1]}
        result.append(_copy_with(record, values, key in used))
        used.add(key)
    return result


def _find_several(asked: Iterable[_Slot]) -> set[Named]:
    """Methods that were computed in several ways."""
    first: dict[Named, str] = {}
    return {s.method for s in asked if first.setdefault(s.method, s.asked) != s.asked}


def _leave_out_older(asked: dict[_Slot, tuple[str, str]], found: Mapping[str, Record]) -> None:
    """Of methods that were computed in several ways: those of other weights than the last one, a
    dataset.
    """

    def state(r: Record) -> tuple[Any, ...]:
        return (r.method_version, r.weights_sha256, r.code)

    now: dict[tuple[Named, Named], tuple[str, tuple[Any, ...]]] = {}
    for slot, (key, _) in asked.items():
        if found[key].status == "ok":
            now[slot.method, slot.dataset] = slot.asked, state(found[key])
    for slot, (key, _) in list(asked.items()):
        way, last = now.get((slot.method, slot.dataset), (slot.asked, ()))
        if slot.asked != way and found[key].status == "ok" and state(found[key]) != last:
            del asked[slot]


def _copy_with(record: Record, values: Mapping[str, Any], shared: bool) -> Record:
    """A record with these values: the same object, which nobody else has, unless it is shared."""
    if shared:
        return replace(record, **values)
    for name, value in values.items():
        if getattr(record, name) != value:
            object.__setattr__(record, name, value)  # a million copies would take their time
    return record


def _events(found: Mapping[str, Record], runs: Iterable[Mapping[str, Any]], alone: bool) -> _Events:
    """Everything that was asked for, in order; of one second, what a run asked for comes last."""
    listed, of_runs, now = set[str](), list[_Asking](), ""
    words: dict[str, str] = {}
    same = words.setdefault
    for run in runs:
        if "asked" not in run:
            continue
        now = max(now, str(run.get("finished", "")))  # clocks are set back, lines stay in order
        slots = []
        for entry in run["asked"]:
            keys = {same(m, m): found[k].key if k in found else k for m, k in entry.keys.items()}
            listed.update(keys.values())
            texts = {name: getattr(entry, name) for name in _TEXTS}
            slots.append(replace(entry, keys=keys, **{n: same(t, t) for n, t in texts.items()}))
        of_runs.append(_Asking(now, slots))
    if alone:
        return lambda: of_runs
    single = sorted((r for r in found.values() if r.key not in listed), key=lambda r: r.at)
    return lambda: heapq.merge(single, of_runs, key=lambda event: event.at)


def _contents(event: _Asking | Record, of_paths: bool = False) -> Iterable[tuple[_Slot, str]]:
    """The key of each slot, or only of what is named after a path."""
    if isinstance(event, _Asking):
        return event.pairs(of_paths)
    if of_paths and not (event.source or event.dataset_source):
        return ()
    return [(_slot(event), event.key)]


def has_several(found: Mapping[str, Record]) -> bool:
    """Whether there are results of different keys for one place in a view."""
    keys: dict[_Slot, str] = {}
    return any(keys.setdefault(_slot(r), r.key) != r.key for r in found.values())


def _slot(r: Record) -> _Slot:
    size = r.measurement.size if r.measurement else r.size
    what = r.metric if r.kind == "quality" else _cost_name(size)
    method, dataset = (r.method, r.source), (r.dataset, r.dataset_source)
    return _Slot(method, dataset, r.clip, what, find_asked(r.title))


@lru_cache
def find_asked(title: str) -> str:
    """Engine and precision that were asked for, by the title of a method; empty for neither."""
    found = _ASKED.search(title)
    return found[1] if found else ""


def _cost_name(size: Size) -> str:
    return f"{_COST} {size[0]}x{size[1]}"


def _find_moved(
    events: _Events, found: Mapping[str, Record]
) -> tuple[dict[Named, Named], dict[Named, Named]]:
    """(methods, datasets) that lie elsewhere now: path then -> path of the same content later."""
    clips: dict[Named, dict[str, str]] = {}
    outputs: dict[Named, dict[tuple[str, str], str]] = {}
    weights: dict[Named, str] = {}
    for event in events():
        now: dict[Named, dict[str, str]] = {}
        for slot, key in _contents(event, of_paths=True):
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
            clips[dataset] = digests if isinstance(event, _Asking) else before | digests

    def same_outputs(a: Named, b: Named) -> bool:
        both = outputs[a].keys() & outputs[b].keys()
        alike = all(outputs[a][k] == outputs[b][k] for k in both)
        return alike and bool(both or (weights[a] and weights[a] == weights[b]))

    methods = _follow(list(outputs), same_outputs)
    return methods, _follow(list(clips), lambda a, b: clips[a] == clips[b])


def _follow(names: Sequence[Named], same: Callable[[Named, Named], bool]) -> dict[Named, Named]:
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
        whole = shorten_paths([source for source in sources if source])
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


def shorten_paths(paths: Sequence[str]) -> dict[str, str]:
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


def _difference(old: Record, new: Record) -> str:
    """What two records of one key disagree about.

    Values that differ by less than half of the last printed digit are taken for equal.
    """
    if not (old.kind == new.kind == "quality" and old.status == new.status == "ok"):
        return ""
    info = find_recorded(new)
    if info is None or old.value is None or new.value is None:
        return ""
    if abs(old.value - new.value) <= 0.5 * 10**-info.decimals:
        return ""
    return (
        f"{info.title} of {new.title} on {new.dataset}/{new.clip} is on record as "
        f"{old.value:.{info.decimals}f} (run {old.run_id}) and as "
        f"{new.value:.{info.decimals}f} (run {new.run_id}) under one key, {new.key}"
    )
