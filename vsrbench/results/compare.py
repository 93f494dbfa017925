"""Base against new: what got better, what got worse, and a verdict that CI can act on. No torch.

Clips are compared in pairs. A mean over clips that moved by no more than the metric's tolerance is
unchanged. What the base has and the new results lack, or have of other frames or by another version
of the metric, counts as a regression: a gate must not pass because there is nothing to hold on to.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from tabulate import tabulate

from vsrbench.core.errors import MissingError
from vsrbench.core.types import Measurement, MetricInfo, Record, size_text
from vsrbench.metrics import METRICS, find_recorded
from vsrbench.results.ranking import half_width
from vsrbench.results.states import (
    are_comparable,
    cost_size,
    list_conditions,
    list_makers,
    select_current_costs,
)
from vsrbench.results.summary import (
    COST,
    Column,
    metric_column,
    newest,
    reason,
    refuse,
    setting_text,
)
from vsrbench.results.view import find_asked

Verdict = Literal["better", "same", "worse", "lost", "apart", "new", "unjudged"]
WORDS: Mapping[Verdict, str] = {
    "worse": "worse",
    "lost": "lost",
    "apart": "not comparable",
    "better": "better",
    "new": "new",
    "same": "unchanged",
    "unjudged": "not judged",
}
"""Verdict -> its wording."""
REGRESSIONS: frozenset[Verdict] = frozenset({"worse", "lost", "apart"})
JUDGED_COST = ("median_ms", "first_output_ms", "rss_peak_mib", "vram_peak_mib", "j_per_frame")
"""Parts of the cost that a limit applies to."""


@dataclass(frozen=True)
class Change:
    """One method in one metric of one dataset, or in one part of its cost."""

    where: str
    """Dataset, or `cost at WxH`."""
    method: str
    """Name of the card."""
    column: Column
    """What is compared."""
    verdict: Verdict
    """What became of it."""
    base: float | None = None
    """Mean over the clips that both have; before."""
    new: float | None = None
    """Likewise; now."""
    ci95: float | None = None
    """Half-width of the paired 95 % interval of the difference; None with fewer than two clips."""
    worst: str = ""
    """The clip that moved most for the worse, and by how much."""
    note: str = ""
    """Why it is lost or not comparable."""
    cause: str = ""
    """Why it is not comparable, whatever the clip."""
    ways: str = ""
    """Engine and precision that were asked for, before and now, where they differ."""
    unsaid: bool = False
    """Records of schema 1 are compared, which do not say border and flow: taken for equal."""


def compare(
    base: Iterable[Record],
    new: Iterable[Record],
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
    cost_percent: float | None = None,
) -> list[Change]:
    """All changes from `base` to `new`, in the order of the base.

    Of both only what is compared stays in memory; `new` is asked for when `base` is done with.
    methods, datasets, metrics: what to look at; None = all. tolerances: by metric, in its printed
    unit, instead of those of the table of metrics. cost_percent: by how much time, memory and
    energy may grow; None = cost is shown and not judged. Raises UserError for names without
    records, MissingError when the base holds no scores of what is looked at.
    """
    before = _side(base, methods, datasets, metrics)
    after = _side(align_labels(before.labels, new), methods, datasets, metrics)
    before, after = _pair_ways(before, after)
    for kind, asked in (("method", methods), ("dataset", datasets)):
        refuse(f"{kind} with results", asked, before.names[kind] | after.names[kind])
    infos = {**METRICS, **dict(sorted({**before.infos, **after.infos}.items()))}
    refuse("metric", metrics, {*infos, *before.names["metric"], *after.names["metric"]})
    refuse("metric", list(tolerances or ()), infos)
    changes = [
        _score_change(
            key,
            infos.get(key[2]),
            before.scores.get(key, {}),
            after.scores.get(key, {}),
            tolerances or {},
        )
        for key in dict.fromkeys((*before.scores, *after.scores))
        if _scored(before.scores.get(key, {})) or _scored(after.scores.get(key, {}))
    ]
    for (method, size, scale), old in before.costs.items():
        if now := after.costs.get((method, size, scale)):
            changes += _cost_changes(method, size, old, now, cost_percent)
        elif cost_percent is not None:
            note = "cost not measured"
            changes.append(Change(f"cost at {size}", method, COST["median_ms"], "lost", note=note))
    changes = [replace(c, ways=_differing_ways(c.method, before, after)) for c in changes]
    if all(change.verdict == "new" for change in changes):
        raise MissingError("the base has no scores to hold new ones against", "check its records")
    return changes


def _pair_ways(*sides: _Side) -> tuple[_Side, ...]:
    """The two sides, with a method of several engines or precisions called the same on both.

    One that has one on each side is held against itself; of several each has its counterpart, which
    is called by its bare name where it stands alone.
    """
    ways: list[dict[str, dict[str, str]]] = [{}, {}]  # bare name -> way -> label
    for own, side in zip(ways, sides, strict=True):
        for label, way in side.ways.items():
            own.setdefault(label.removesuffix(f" ({way})"), {})[way] = label
    found = []
    for side, own, others in zip(sides, ways, reversed(ways), strict=True):
        names = {
            label: bare
            if len(of) == len(others.get(bare, of)) == 1 or not way
            else f"{bare} ({way})"
            for bare, of in own.items()
            for way, label in of.items()
        }
        found.append(
            replace(
                side,
                scores={(d, names.get(m, m), x): one for (d, m, x), one in side.scores.items()},
                costs={(names.get(m, m), s, x): one for (m, s, x), one in side.costs.items()},
                ways={names[m]: way for m, way in side.ways.items()},
            )
        )
    return tuple(found)


def _differing_ways(method: str, before: _Side, after: _Side) -> str:
    if not (method in before.ways and method in after.ways):
        return ""
    old, new = before.ways[method], after.ways[method]
    return "" if old == new else f"{method} {old or 'as usual'} against {new or 'as usual'}"


_Labels = tuple[dict[str, tuple[str, set[tuple[str, str]]]], ...]
"""Of datasets, and of methods, that are named after paths: label -> (path, what it holds)."""


def align_labels(old: _Labels, new: Iterable[Record]) -> list[Record]:
    """New records with the labels that the base has for what they are of.

    What is named after a path is called by its name, or by the end of the path where others here
    have that name: the same thing may be `LQ` on one side and `a/LQ` on the other. It is known by
    its path, or by its name and content.
    """
    found = list(new)
    for field, before, now in zip(("dataset", "method"), old, _labels(found), strict=True):
        names: dict[str, str] = {}
        taken = {getattr(r, field) for r in found} - set(now)
        by_path = {path for path, _ in before.values()}  # which comes before what content tells
        for label, (path, holds) in sorted(now.items(), key=lambda one: one[1][0] not in by_path):
            same = [
                *(x for x, (p, _) in before.items() if p == path),
                *(
                    x
                    for x, (p, h) in before.items()
                    if label not in before and x not in now and h & holds
                    if PurePath(p).name == PurePath(path).name
                ),
            ]
            if same and same[0] not in taken:
                names[label] = same[0]
                taken.add(same[0])
        if any(label != name for label, name in names.items()):
            found = [
                replace(r, **{field: names.get(getattr(r, field), getattr(r, field))})
                for r in found
            ]
    return found


def _labels(records: Iterable[Record]) -> _Labels:
    found: _Labels = ({}, {})
    for r in (r for r in records if r.dataset_source or r.source):
        parts = (
            (r.dataset, r.dataset_source, (r.clip, r.clip_digest)),
            (r.method, r.source, (r.clip, r.output)),
        )
        for labels, (label, path, holds) in zip(found, parts, strict=True):
            if path:
                held = labels.setdefault(label, (path, set()))[1]
                if holds[1]:
                    held.add(holds)
    return found


Key = tuple[str, str, str]
"""Dataset, method, metric."""


class _Score(NamedTuple):
    """What is compared of one clip."""

    value: float | None
    """The score; None where there is none."""
    about: tuple[Any, ...]
    """What another score must share to be held against it (`list_conditions`)."""
    reason: str
    """Why there is none."""
    schema: int
    """Version of the layout of its record."""


@dataclass(frozen=True)
class _Side:
    """What is compared of one set of results."""

    names: Mapping[str, set[str]]
    """All methods, datasets and metrics, whatever is looked at."""
    infos: Mapping[str, MetricInfo]
    """Metrics that the table of metrics lacks."""
    scores: Mapping[Key, Mapping[str, _Score]]
    """Clip -> score."""
    costs: Mapping[tuple[str, str, int], Measurement]
    """(method, LQ size, scale) -> newest measurement."""
    labels: _Labels
    """What is named after paths."""
    ways: Mapping[str, str]
    """Method -> engine and precision that were asked for."""


def _side(
    found: Iterable[Record],
    methods: Sequence[str] | None,
    datasets: Sequence[str] | None,
    metrics: Sequence[str] | None,
) -> _Side:
    """What is looked at.

    A score with older weights or settings than the method's others counts as failed.
    """
    records = list(found)
    names = {
        "method": {r.method for r in records},
        "dataset": {r.dataset for r in records if r.dataset},
        "metric": {r.metric for r in records},
    }
    infos = {r.metric: i for r in records if r.metric not in METRICS and (i := find_recorded(r))}
    labels = _labels(records)
    records = [
        r
        for r in records
        if (methods is None or r.method in methods)
        and (datasets is None or r.kind == "cost" or r.dataset in datasets)
        and (metrics is None or r.kind == "cost" or r.metric in metrics)
    ]
    chosen = newest(records)
    in_order = sorted(chosen.values(), key=lambda r: r.at)
    current = {r.method: r for r in in_order if r.status == "ok"}
    made = {method: list_makers(r) for method, r in current.items()}
    scores: dict[Key, dict[str, _Score]] = {}
    same: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for (dataset, method, clip, metric), r in chosen.items():
        state = (r.clip_digest, r.metric_version, id(r.extra), r.border_px, r.flow)
        about = same.get(state) or same.setdefault(state, list_conditions(r))
        value, why = r.value, ""
        if r.status != "ok" or r.value is None:
            value, why = None, reason(r)
        elif made[method] != list_makers(r):
            value, why = None, "scored with older weights or settings; run it again"
        score = _Score(value, about, why, r.schema)
        scores.setdefault((dataset, method, metric), {})[clip] = score
    ways = {r.method: find_asked(r.title) for r in records}
    return _Side(names, infos, scores, _costs(records), labels, ways)


def _scored(clips: Mapping[str, _Score]) -> dict[str, _Score]:
    return {clip: score for clip, score in clips.items() if score.value is not None}


def _score_change(
    key: Key,
    info: MetricInfo | None,
    before: Mapping[str, _Score],
    after: Mapping[str, _Score],
    limits: Mapping[str, float],
) -> Change:
    dataset, method, metric = key
    column = metric_column(info) if info else Column(metric, metric, "", "", 0)
    old, now = _scored(before), _scored(after)

    def change(verdict: Verdict, note: str = "") -> Change:
        return Change(dataset, method, column, verdict, note=note)

    if not old:
        return change("new")
    if not info:
        return change("lost", "this version has no such metric")
    if gone := sorted(old.keys() - now.keys()):
        what = after[gone[0]].reason if gone[0] in after else "not run"
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return change("lost", f"clip '{gone[0]}'{more}: {what}")
    for clip, score in old.items():
        if not are_comparable(score.about, now[clip].about):
            cause = _explain_difference(score.about, now[clip].about)
            return replace(change("apart", f"clip '{clip}': {cause}"), cause=cause)
    pairs = {clip: (_value(score), _value(now[clip])) for clip, score in old.items()}
    gains = {clip: column.rank(was) - column.rank(value) for clip, (was, value) in pairs.items()}
    mean = statistics.fmean(gains.values())
    limit = limits.get(metric, info.tolerance)
    # Differences of printed decimals carry binary noise: at the limit is still within it.
    verdict: Verdict = "same" if abs(mean) <= limit + 1e-9 else "better" if mean > 0 else "worse"
    worst = min(gains, key=lambda clip: gains[clip])
    was, value = pairs[worst]
    return Change(
        dataset,
        method,
        column,
        verdict,
        statistics.fmean(was for was, _ in pairs.values()),
        statistics.fmean(value for _, value in pairs.values()),
        half_width(list(gains.values())),
        f"{worst} {format_signed(column, value - was)}" if gains[worst] < 0 else "",
        unsaid=any(min(score.schema, now[clip].schema) < 2 for clip, score in old.items()),
    )


def _value(score: _Score) -> float:
    assert score.value is not None, "chosen for having one"
    return score.value


def _explain_difference(a: Sequence[Any], b: Sequence[Any]) -> str:
    """Between two results of `list_conditions`."""
    digest, version, flow, _, pyiqa, border, _ = zip(a, b, strict=True)
    if digest[0] != digest[1]:
        return "other frames (LQ, GT or number)"
    if version[0] != version[1]:
        return "version {} of the metric against {}".format(*version)
    if flow[0] != flow[1]:
        return "flow {} against {}".format(*flow)
    if None not in border and border[0] != border[1]:
        return "{} px cut from each side against {}".format(*border)
    if pyiqa[0] != pyiqa[1]:
        return "{} against {}".format(*(about and about["version"] for about in pyiqa))
    return "scored by another protocol"


def _costs(records: Sequence[Record]) -> dict[tuple[str, str, int], Measurement]:
    """(method, LQ size, scale) -> newest measurement."""
    found = {}
    for r in select_current_costs(records, records):
        if r.status == "ok" and r.measurement:
            found[r.method, size_text(cost_size(r)), r.scale] = r.measurement
    return found


def _cost_changes(
    method: str, size: str, old: Measurement, now: Measurement, percent: float | None
) -> list[Change]:
    changes = []
    for part, column in COST.items():
        a, b = getattr(old, part), getattr(now, part)
        if a is None or b is None or part not in JUDGED_COST:
            continue
        note = ""
        verdict: Verdict = "same"
        if percent is None:
            verdict = "unjudged"
        elif setting_text(old) != setting_text(now):
            verdict, note = "apart", f"{setting_text(old)} against {setting_text(now)}"
        elif abs(b - a) > a * percent / 100:
            verdict = "worse" if b > a else "better"
        changes.append(Change(f"cost at {size}", method, column, verdict, a, b, note=note))
    return changes


def format_signed(column: Column, value: float) -> str:
    """A difference as printed: with its sign."""
    return f"{value:+.{column.decimals}f}"


def has_regressed(changes: Iterable[Change]) -> bool:
    """Whether any change is a regression."""
    return any(change.verdict in REGRESSIONS for change in changes)


def verdict_line(changes: Sequence[Change], software: str = "") -> str:
    """All verdicts counted, in one line, with what could not be compared and why.

    software: what the two sides were computed with, where that differs.
    """
    counted = Counter(change.verdict for change in changes)
    causes: dict[str, dict[str, None]] = {}
    for change in changes:
        if change.cause:
            causes.setdefault(change.cause, {})[change.column.title] = None
    why = "; ".join(f"{', '.join(titles)}: {cause}" for cause, titles in causes.items())
    words = {**WORDS, "apart": f"{WORDS['apart']} ({why})" if why else WORDS["apart"]}
    text = ", ".join(f"{counted[v]} {words[v]}" for v in WORDS if counted[v])
    if unsaid := sum(change.unsaid for change in changes):
        text += (
            f"; {unsaid} of these with records of schema 1, which do not say border and flow: "
            "taken for equal"
        )
    computed = [*dict.fromkeys(c.ways for c in changes if c.ways), *([software] * bool(software))]
    if computed:
        text += f"; computed with {', '.join(computed)}"
    verdict = "REGRESSION" if has_regressed(changes) else "no regression"
    return f"{verdict}: {text or 'nothing to compare'}"


def github_annotations(changes: Iterable[Change]) -> list[str]:
    """A workflow command of GitHub for each regression, which it shows beside the run."""
    lines = []
    for c in changes:
        if c.verdict in REGRESSIONS:
            numbers = ""
            if c.base is not None and c.new is not None:
                numbers = f": {c.column.text(c.base)} -> {c.column.text(c.new)}"
            text = f"{c.method}, {c.column.label} on {c.where}: {WORDS[c.verdict]}{numbers}"
            text = "; ".join(filter(None, (text, c.worst and f"worst: {c.worst}", c.note)))
            escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            lines.append(f"::error title=vsrbench regression::{escaped}")
    return lines


def to_json(changes: Sequence[Change], software: str = "") -> str:
    """All changes and the verdict as JSON."""
    verdict = {"regressed": has_regressed(changes), "software": software}
    found = {**verdict, "changes": [asdict(c) for c in changes]}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def markdown(changes: Sequence[Change], everything: bool = False, software: str = "") -> str:
    """A table of what changed (of all with `everything`, or if nothing did), then the verdict."""
    changed = [c for c in changes if c.verdict not in ("same", "unjudged")]
    shown = changes if everything or not changed else changed
    rows = []
    for c in shown:
        numbers = ["", "", ""]
        if c.base is not None and c.new is not None:
            interval = f" ±{c.column.text(c.ci95)}" if c.ci95 is not None else ""
            difference = format_signed(c.column, c.new - c.base) + interval
            numbers = [c.column.text(c.base), c.column.text(c.new), difference]
        label = f"{c.column.label} {c.column.arrow}".strip()
        note = "; ".join(filter(None, (c.worst and f"worst: {c.worst}", c.note)))
        mark = f"**{WORDS[c.verdict]}**" if c.verdict in REGRESSIONS else WORDS[c.verdict]
        rows.append([c.where, c.method, label, *numbers, mark, note])
    heads = ["", "method", "", "base", "new", "difference", "verdict", ""]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    align = ("left", "left", "left", "right", "right", "right", "left", "left")
    table = tabulate(rows, heads, tablefmt="pipe", colalign=align, disable_numparse=True)
    parts = [table, legend(shown)] if rows else []
    return "\n\n".join([*parts, verdict_line(changes, software)]) + "\n"


def legend(shown: Sequence[Change]) -> str:
    """What the columns and verdicts of these changes mean."""
    text = (
        "Difference: new - base, mean over clips, ± 95 % paired interval over clips. Unchanged: "
        "within the tolerance of the metric."
    )
    if any(c.verdict == "unjudged" for c in shown):
        text += (
            " Not judged: cost, which differs from run to run and machine to machine; --cost 10 "
            "judges it with 10 % of slack."
        )
    return text
