"""Student's t distribution, without the half second that importing scipy.special takes."""

from __future__ import annotations

import functools
import math


def inside(t: float, df: int) -> float:
    """P(|T| < t) for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cos if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sin * total) if odd else sin * total


@functools.cache
def quantile(level: float, df: int) -> float:
    """The t with P(|T| < t) = level, 0 < level < 1: half the width of a two-sided interval."""
    low, high = 0.0, 1.0
    while inside(high, df) < level:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if inside(middle, df) < level else (low, middle)
    return high
