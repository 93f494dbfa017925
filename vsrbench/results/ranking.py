"""Which values of a column are best, and which are not told apart from the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from vsrbench.results.student import inside, quantile

Better = Literal["higher", "lower", "one", ""]
"""Direction of a column: `one` is best at 1; empty where nothing is better."""
Mark = Literal["", "best", "second"]
ALPHA = 0.05


def rank(better: Better, value: float) -> float:
    """A number that is smaller for what is better."""
    return {"higher": -value, "one": abs(value - 1)}.get(better, value)


def half_width(values: Sequence[float]) -> float | None:
    """Half-width of the Student-t 95 % interval of the mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    return quantile(1 - ALPHA, n - 1) * statistics.stdev(values) / math.sqrt(n)


def p_value(gaps: Sequence[float]) -> float:
    """Two-sided paired t-test of a mean of 0; 1 with fewer than two clips."""
    n = len(gaps)
    if n < 2 or not any(gaps):
        return 1.0
    spread = statistics.stdev(gaps) / math.sqrt(n)
    return 1 - inside(abs(statistics.fmean(gaps)) / spread, n - 1) if spread else 0.0


def find_ties(ps: Mapping[int, float]) -> set[int]:
    """Those whose difference is not shown, corrected for their number by Holm's procedure."""
    order = sorted(ps, key=lambda i: ps[i])
    shown = 0
    while shown < len(order) and ps[order[shown]] <= ALPHA / (len(order) - shown):
        shown += 1
    return set(order[shown:])


def marks(
    better: Better,
    decimals: int,
    values: Mapping[int, float],
    clips: Mapping[int, Mapping[str, float]],
) -> dict[int, tuple[Mark, bool]]:
    """(mark, not told apart from the best) of each row of a column that has either.

    values: means of the rows that are ranked, at full precision; they are ranked as printed, ties
    share a mark, and two best leave no second. clips: their scores clip by clip, where there are
    any; by a single clip nothing is ranked.
    """
    if not better or len(values) < 2 or any(len(own) == 1 for own in clips.values()):
        return {}
    printed = {i: rank(better, round(value, decimals)) for i, value in values.items()}
    levels = sorted(set(printed.values()))
    best = [i for i in printed if printed[i] == levels[0]]
    found: dict[int, tuple[Mark, bool]] = dict.fromkeys(best, ("best", False))
    first = min(values, key=lambda i: rank(better, values[i]))
    own = clips.get(first, {})
    ps = {
        i: p_value([rank(better, other[clip]) - rank(better, own[clip]) for clip in own])
        for i, other in clips.items()
        if i not in best and other.keys() == own.keys() and own
    }
    close = find_ties(ps)
    for i in printed:
        second = len(best) == 1 and levels[1:] and printed[i] == levels[1]
        if second or i in close:
            found[i] = ("second" if second else "", i in close)
    return found
