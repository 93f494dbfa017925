"""Kendall's tau between the metrics of a result, and what people say of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import kendalltau

from vsrbench.metrics import METRICS
from vsrbench.results.agreement import agreement_table, kendall, read_study, taus
from vsrbench.results.summary import Block, Cell, Column, Row, Summary


def block(**scores: tuple[str, dict[str, list[float]]]) -> Block:
    """metric=(better, {method: score of each clip})."""
    methods = dict.fromkeys(m for _, values in scores.values() for m in values)
    columns = tuple(
        Column(name, name.upper(), "", better, 2) for name, (better, _) in scores.items()
    )
    rows = []
    for method in methods:
        cells = {
            name: Cell(0.0, clips={f"c{i}": v for i, v in enumerate(values.get(method, ()))})
            for name, (_, values) in scores.items()
        }
        rows.append(Row(method, method, "none", cells))
    return Block("toy", "Toy", {"c0": 1, "c1": 1}, (1, 1), columns=columns, rows=tuple(rows))


def test_tau_is_that_of_scipy() -> None:
    a, b = [1.0, 2, 3, 3, 5, 0], [2.0, 1, 4, 4, 4, 1]
    pairs = [(a[i] - a[j], b[i] - b[j]) for i in range(6) for j in range(i)]
    assert kendall(pairs) == pytest.approx(kendalltau(a, b).statistic)
    assert kendall([(1, 0), (2, 0)]) is None


def test_direction_counts_and_gt_does_not() -> None:
    found = taus(
        block(
            psnr=("higher", {"a": [30, 31], "b": [20, 21], "c": [10, 11], "gt": [80, 80]}),
            lpips=("lower", {"a": [0.1, 0.1], "b": [0.2, 0.2], "c": [0.3, 0.3], "gt": [9, 9]}),
            niqe=("lower", {"a": [9, 9], "b": [8, 8], "c": [7, 7]}),
            half=("higher", {"a": [3, 1], "b": [2, 2], "c": [1, 3]}),
        )
    )
    assert found["psnr", "lpips"] == 1
    assert found["psnr", "niqe"] == -1
    assert found["psnr", "half"] == 0


def test_table_says_what_people_say(root: Path) -> None:
    study = read_study(root)
    shown = block(
        psnr=("higher", {"a": [2, 2], "b": [1, 1]}), dists=("lower", {"a": [2, 2], "b": [1, 1]})
    )
    lines = agreement_table(Summary((shown,)), study).splitlines()
    assert lines[1].split() == ["1", "PSNR", "1.00", "-1.00", "0.48"]
    assert lines[2].split() == ["2", "DISTS", "-1.00", "1.00", "0.82", "[0.71,", "0.90]"]
    assert max(map(len, lines)) <= 100


def test_columns_are_in_the_order_of_agreement(root: Path) -> None:
    """Of the metrics of every run that the study rated; it rated another model of BRISQUE."""
    study = read_study(root)
    assert all(
        o.chosen >= n.chosen for o, n in zip(study.opinions, study.opinions[1:], strict=False)
    )
    default = [name for name, info in METRICS.items() if info.default]
    rated = [opinion.id for opinion in study.opinions if opinion.id in default]
    assert [name for name in default if name in rated] == rated
