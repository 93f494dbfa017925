"""Scores that look as if the same frames had been scored twice."""

from __future__ import annotations

from collections.abc import Iterable

from vsrbench.core.types import Record
from vsrbench.metrics import find_recorded


def find_identical_scores(records: Iterable[Record]) -> list[str]:
    """Warnings about scores that agree to the last digit on different clips.

    Such scores most likely come from the same frames under two names. Values at an end of a
    metric's range and 0, which unlike clips can well share, say nothing and are left out.
    """
    scored: dict[tuple[str, str, str], list[Record]] = {}
    for r in records:
        if r.status == "ok" and r.value:
            scored.setdefault((r.method, r.dataset, r.metric), []).append(r)
    found = []
    for (method, dataset, _), own in scored.items():
        if (info := find_recorded(own[0])) is None:
            continue
        first: dict[float, str] = {}
        alike: dict[float, dict[str, None]] = {}
        for r in own:
            if r.value is not None and first.setdefault(r.value, r.clip) != r.clip:
                alike.setdefault(r.value, {first[r.value]: None})[r.clip] = None
        found += [
            f"{method} has {info.title} {value:.{info.decimals}f} on each of "
            f"{dataset}/{', '.join(clips)}, equal to the last digit: are these the same frames?"
            for value, clips in alike.items()
            if value not in info.range
        ]
    return found
