"""Votes of simulated people whose preferences are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_core import a_record
from vsrbench.core.errors import DataError
from vsrbench.results import votes
from vsrbench.results.votes import Vote

STRENGTH = {"a": 1.0, "b": 0.4, "c": -0.2, "d": -1.2}


def simulated(
    rng: np.random.Generator, voters: int, each: int, draws: float = 0.0, careless: int = 0
) -> list[Vote]:
    """Each person compares random pairs; every fourth pair is a decoy. The last are careless."""
    found = []
    names = list(STRENGTH)
    for v in range(voters):
        clicks = v >= voters - careless
        for i in range(each):
            left, right = rng.choice(names, 2, replace=False)
            if i % 4 == 3:
                right = left
            p = 1 / (1 + math.exp(STRENGTH[right] - STRENGTH[left]))
            choice = "left" if rng.random() < p else "right"
            if (left == right and rng.random() < 0.95) or (left != right and rng.random() < draws):
                choice = "same"
            if clicks:
                choice = str(rng.choice(["left", "right", "same"]))
            found.append(Vote(f"v{v}", "set", "clip", str(left), str(right), choice))
    return found


def test_the_order_of_known_preferences_is_found() -> None:
    found = votes.fit_preferences(simulated(np.random.default_rng(0), 40, 40))
    assert [p.method for p in found] == list("abcd")
    for p in found:
        assert abs(p.score - STRENGTH[p.method]) < 2 * p.ci95
    assert sum(p.votes for p in found) == 2 * 40 * 30


@pytest.mark.parametrize("each", [16, 60])
def test_intervals_cover_what_they_say(each: int) -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        for p in votes.fit_preferences(simulated(rng, 15, each)):
            inside.append(abs(p.score - STRENGTH[p.method]) < p.ci95)
    assert 0.93 <= np.mean(inside) <= 0.97


def test_two_methods_have_the_closed_form() -> None:
    """With two methods the score is the log of the odds; the prior is all that differs."""
    told = [Vote("v", "s", "c", "a", "b", "left")] * 300 + [
        Vote("v", "s", "c", "b", "a", "left")
    ] * 100
    a, b = votes.fit_preferences(told)
    assert a.score - b.score == pytest.approx(math.log(3), rel=2e-3)
    assert a.ci95 == pytest.approx(1.96 * math.sqrt(1 / 300 + 1 / 100) / 2, rel=5e-3)


def test_one_that_never_lost_has_a_finite_score() -> None:
    found = votes.fit_preferences([Vote("v", "s", "c", "a", "b", "left")] * 20)
    assert math.isfinite(found[0].score)
    assert found[0].method == "a"


def test_random_clickers_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(2)
    told = simulated(rng, 60, 32, careless=20)
    found = votes.find_inattentive(told)
    assert len(set(found) & {f"v{i}" for i in range(40, 60)}) >= 19
    assert len(set(found) & {f"v{i}" for i in range(40)}) <= 2
    text = votes.markdown(told, {})
    assert "Left out" in text
    assert "v59" in text


def test_agreement_of_metrics() -> None:
    told = simulated(np.random.default_rng(3), 30, 40, draws=0.2)
    records = [
        a_record(key=f"{m}/{metric}", method=m, metric=metric, value=v, dataset="set", clip="clip")
        for m, strength in STRENGTH.items()
        for metric, v in (("psnr", 20 + strength), ("ewarp", strength + 2), ("ssim", 0.5))
    ]
    found = {a.metric: a for a in votes.agreements(told, records)}
    assert found["psnr"].share == pytest.approx(1 - found["ewarp"].share)
    assert found["psnr"].share > 0.6
    assert found["ssim"].share == 0.5
    assert next(iter(found)) == "psnr"
    decided = [v for v in told if not v.decoy and v.choice != "same"]
    assert found["psnr"].pairs == len(decided)


def test_files_are_read_and_others_refused(tmp_path: Path) -> None:
    vote = {"dataset": "s", "clip": "c", "left": "a", "right": "b", "choice": "left"}
    path = tmp_path / "votes.json"
    path.write_text(json.dumps({"schema": 1, "voter": "x", "votes": [vote]}))
    assert votes.read([path]) == [Vote("x", "s", "c", "a", "b", "left")]
    path.write_text(json.dumps({"schema": 1, "voter": "x", "votes": [vote, vote]}))
    earlier, other = tmp_path / "earlier.json", tmp_path / "other.json"
    earlier.write_text(json.dumps({"schema": 1, "voter": "x", "votes": [vote]}))
    other.write_text(json.dumps({"schema": 1, "voter": "y", "votes": [vote]}))
    told = votes.read([earlier, path, other, path])  # what was saved twice counts once
    assert [v.voter for v in told] == ["x", "x", "y"]
    wrong: list[Any] = [
        "[",
        "[]",
        json.dumps({"schema": 2, "voter": "x", "votes": []}),
        json.dumps({"schema": 1, "voter": "x", "votes": [{**vote, "choice": "both"}]}),
        json.dumps({"schema": 1, "voter": "x", "votes": [{**vote, "left": 1}]}),
        json.dumps({"schema": 1, "voter": "x", "votes": 3}),
    ]
    for text in wrong:
        path.write_text(text)
        with pytest.raises(DataError, match=str(path)):
            votes.read([path])


def test_votes_stand_beside_the_scores() -> None:
    from vsrbench.results.summary import summarise

    told = simulated(np.random.default_rng(4), 20, 24)
    names = {"a": "set", "c": "set", "gt": "set", "z": "set"}
    records = [
        a_record(key=m, method=m, title=m, metric="psnr", value=30.0, dataset=d, clip="clip")
        for m, d in names.items()
    ]
    block = votes.add_preferences(summarise(records), told).blocks[0]
    cells = {row.method: row.cells["people"] for row in block.rows}
    expected = {p.method: p for p in votes.fit_preferences(told)}
    assert block.columns[0].name == "people"
    assert cells["a"].value == expected["a"].score
    assert cells["c"].ci95 == expected["c"].ci95
    assert (cells["z"].value, cells["z"].note) == (None, "nobody voted on it")
    assert any("voters" in note for note in block.notes)
