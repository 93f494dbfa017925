"""Scores that look as if the same frames had been scored twice."""

from __future__ import annotations

from collections.abc import Iterable

from vsrbench.core.types import MetricInfo, Record
from vsrbench.metrics import recorded


def identical_scores(records: Iterable[Record]) -> list[str]:
    """Warnings about scores that agree to the last digit on different clips.

    Such scores most likely come from the same frames under two names. Values at an end of a
    metric's range and 0, which unlike clips can well share, say nothing and are left out.
    """
    alike: dict[tuple[str, str, MetricInfo, float], dict[str, None]] = {}
    for r in records:
        if r.status == "ok" and r.value and (info := recorded(r)):
            alike.setdefault((r.method, r.dataset, info, r.value), {})[r.clip] = None
    return [
        f"{method} has {info.title} {value:.{info.decimals}f} on each of "
        f"{dataset}/{', '.join(clips)}, equal to the last digit: are these the same frames?"
        for (method, dataset, info, value), clips in alike.items()
        if len(clips) > 1 and value not in info.range
    ]
