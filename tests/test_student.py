"""Student's t against scipy and against the values that every table prints."""

from __future__ import annotations

import pytest
from scipy.special import stdtr, stdtrit

from vsrbench.results.student import inside, quantile

DEGREES = [*range(1, 40), 100, 999, 5000]


@pytest.mark.parametrize("df", DEGREES)
def test_it_is_that_of_scipy(df: int) -> None:
    for level in (0.5, 0.9, 0.95, 0.99, 0.9999):
        t = quantile(level, df)
        assert t == pytest.approx(stdtrit(df, (1 + level) / 2), rel=1e-10)
        assert inside(t, df) == pytest.approx(level, abs=1e-12)
    for t in (0.0, 0.1, 1.0, 4.0, 40.0):
        assert inside(t, df) == pytest.approx(2 * stdtr(df, t) - 1, abs=1e-12)


def test_printed_values() -> None:
    printed = {1: 12.706, 2: 4.303, 5: 2.571, 8: 2.306, 30: 2.042}
    assert {df: round(quantile(0.95, df), 3) for df in printed} == printed
