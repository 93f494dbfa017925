"""Blind pairwise votes of people: what they prefer, how sure that is, which metrics agree.

The report's page makes the files (`report --vote`). Scores are those of Bradley and Terry (1952),
a draw being half a win for either; intervals come from the sandwich covariance, so that draws and
voters who differ do not make them too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from tabulate import tabulate

from vsrbench.core.config import convert
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.files import read_json
from vsrbench.core.progress import counted
from vsrbench.core.types import Record
from vsrbench.metrics import find_recorded
from vsrbench.results.summary import GT, Cell, Column, Summary, rank_rows

SCHEMA = 1
FEWEST_DECOYS = 3
"""Decoys that a voter must have seen before they can be judged."""
CONSISTENT = 2 / 3
"""Share of decoys, pairs of one and the same picture, that an attentive voter calls equal."""
PRIOR = 0.1
"""Draws against a method of average strength, so that one that never lost has a finite score."""

Choice = Literal["left", "right", "same"]


@dataclass(frozen=True)
class Vote:
    """One answer of one person."""

    voter: str
    """Who, by a random name."""
    dataset: str
    """Dataset of the clip."""
    clip: str
    """Clip that was shown."""
    left: str
    """Method shown on the left."""
    right: str
    """Method shown on the right; the same one in a decoy."""
    choice: Choice
    """What they preferred."""

    @property
    def decoy(self) -> bool:
        """True for a pair of one and the same picture."""
        return self.left == self.right


class _Answer(TypedDict):
    dataset: str
    clip: str
    left: str
    right: str
    choice: Choice


class _File(TypedDict):
    """What the report's page exports."""

    schema: int
    voter: str
    votes: list[_Answer]


@dataclass(frozen=True)
class Preference:
    """How strongly people prefer one method."""

    method: str
    """Name of its card."""
    score: float
    """Bradley-Terry score, natural logarithm, mean over the methods 0: one ahead by 1 is preferred
    in 73 % of pairs."""
    ci95: float
    """Half-width of its 95 % interval."""
    votes: int
    """Pairs in which it was shown."""


@dataclass(frozen=True)
class Agreement:
    """How one metric agrees with people."""

    metric: str
    """Its name."""
    share: float
    """Share of decided pairs in which it prefers what the voter preferred; draws of the metric
    count half."""
    ci95: float
    """Half-width of the 95 % interval of that share."""
    pairs: int
    """Decided pairs for which both methods have a score on the clip."""


def read(paths: Iterable[Path]) -> list[Vote]:
    """The votes in files that the report's page exported. Raises UserError, DataError.

    A page that was saved twice counts once: its later file begins with what the earlier one holds.
    """
    saved: dict[str, list[list[Vote]]] = {}
    for path in paths:
        try:
            file = convert(read_json(path), _File, str(path))
            if file["schema"] != SCHEMA:
                raise UserError(f"{path}: schema {file['schema']}, this version reads {SCHEMA}")
        except UserError as error:
            raise DataError(
                error.message, "use files that the page of `report --vote` exported"
            ) from error
        votes = [Vote(file["voter"], **entry) for entry in file["votes"]]
        saved.setdefault(file["voter"], []).append(votes)
    return [vote for files in saved.values() for vote in _join_saved(files)]


def _join_saved(files: Iterable[list[Vote]]) -> list[Vote]:
    """The votes of one voter, without files that another one begins with."""
    kept: list[list[Vote]] = []
    for votes in sorted(files, key=len, reverse=True):
        if not any(longer[: len(votes)] == votes for longer in kept):
            kept.append(votes)
    return [vote for votes in kept for vote in votes]


def find_inattentive(votes: Iterable[Vote]) -> dict[str, float]:
    """Voters who told identical pictures apart too often -> share of decoys they called equal."""
    decoys: dict[str, list[bool]] = {}
    for vote in votes:
        if vote.decoy:
            decoys.setdefault(vote.voter, []).append(vote.choice == "same")
    shares = {v: sum(seen) / len(seen) for v, seen in decoys.items() if len(seen) >= FEWEST_DECOYS}
    return {voter: share for voter, share in shares.items() if share < CONSISTENT}


def fit_preferences(votes: Sequence[Vote]) -> list[Preference]:
    """Bradley-Terry scores of all methods, best first; decoys do not count."""
    votes = [vote for vote in votes if not vote.decoy]
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    if not names:
        return []
    index = {name: i for i, name in enumerate(names)}
    left = np.array([index[v.left] for v in votes])
    right = np.array([index[v.right] for v in votes])
    won = np.array([{"left": 1.0, "right": 0.0, "same": 0.5}[v.choice] for v in votes])
    score = np.zeros(len(names))
    for _ in range(100):
        gradient, hessian, _ = _likelihood(score, left, right, won)
        step = np.linalg.solve(hessian, gradient)
        score += step
        if np.abs(step).max() < 1e-10:
            break
    _, hessian, spread = _likelihood(score, left, right, won)
    inverse = np.linalg.inv(hessian)
    centre = np.eye(len(names)) - 1 / len(names)
    covariance = centre @ inverse @ spread @ inverse @ centre
    score -= score.mean()
    seen = np.bincount(np.concatenate([left, right]), minlength=len(names))
    found = [
        Preference(
            name, float(score[i]), 1.96 * math.sqrt(max(covariance[i, i], 0.0)), int(seen[i])
        )
        for name, i in index.items()
    ]
    return sorted(found, key=lambda p: -p.score)


def _likelihood(
    score: np.ndarray, left: np.ndarray, right: np.ndarray, won: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradient and negative Hessian of the log-likelihood with its prior, and the sum of squares
    of the gradients of single votes.
    """
    n = len(score)
    p = 1 / (1 + np.exp(score[right] - score[left]))
    rest = won - p
    gradient = np.bincount(left, rest, n) - np.bincount(right, rest, n)
    hessian, spread = np.zeros((n, n)), np.zeros((n, n))
    for into, weight in ((hessian, p * (1 - p)), (spread, rest**2)):
        np.add.at(into, (left, left), weight)
        np.add.at(into, (right, right), weight)
        np.add.at(into, (left, right), -weight)
        np.add.at(into, (right, left), -weight)
    own = 1 / (1 + np.exp(-score))
    gradient += PRIOR * (0.5 - own)
    hessian += np.diag(PRIOR * own * (1 - own))
    return gradient, hessian, spread


def agreements(votes: Sequence[Vote], records: Iterable[Record]) -> list[Agreement]:
    """How the metrics of some records agree with decided votes on the same clips, best first."""
    scores: dict[str, dict[tuple[str, str, str], float]] = {}
    better: dict[str, float] = {}
    for r in records:
        info = find_recorded(r) if r.kind == "quality" and r.status == "ok" else None
        if info is None or r.value is None:
            continue
        # A metric that is best at 1 prefers what is nearer to it.
        value = -abs(r.value - 1) if info.better == "one" else r.value
        better[r.metric] = -1.0 if info.better == "lower" else 1.0
        scores.setdefault(r.metric, {})[r.dataset, r.clip, r.method] = value
    found = []
    for metric, table in scores.items():
        agreed: list[float] = []
        for vote in votes:
            if vote.decoy or vote.choice == "same":
                continue
            pair = [table.get((vote.dataset, vote.clip, m)) for m in (vote.left, vote.right)]
            if pair[0] is None or pair[1] is None:
                continue
            ahead = better[metric] * (pair[0] - pair[1]) * (1 if vote.choice == "left" else -1)
            agreed.append(0.5 if ahead == 0 else float(ahead > 0))
        if agreed:
            share = sum(agreed) / len(agreed)
            error = math.sqrt(max(share * (1 - share), 0.25 / len(agreed)) / len(agreed))
            found.append(Agreement(metric, share, 1.96 * error, len(agreed)))
    return sorted(found, key=lambda a: -a.share)


def add_preferences(summary: Summary, votes: Sequence[Vote]) -> Summary:
    """A summary with what people prefer as first column, in the datasets that they voted on."""
    careless = find_inattentive(votes)
    column = Column("people", "People", "", "higher", 2)
    blocks = []
    for block in summary.blocks:
        own = [v for v in votes if v.dataset == block.dataset and v.voter not in careless]
        liked = {p.method: p for p in fit_preferences(own)}
        if not liked:
            blocks.append(block)
            continue
        rows = []
        for row in block.rows:
            p = liked.get(row.method)
            fair = row.method != GT
            cell = Cell(note="nobody voted on it", absent=True)
            if p is not None:
                cell = Cell(p.score, p.ci95, comparable=fair)
            rows.append(replace(row, cells={**row.cells, column.name: cell}))
        people = len({v.voter for v in own})
        pairs = sum(not v.decoy for v in own)
        note = (
            f"People: Bradley-Terry score of {counted(pairs, 'comparison')} by "
            f"{counted(people, 'voter')}, ± 95 %; one ahead by 1.0 is preferred in 73 % of pairs."
        )
        made = replace(block, columns=(column, *block.columns), notes=(*block.notes, note))
        blocks.append(replace(made, rows=rank_rows(rows, [column])))
    return Summary(tuple(blocks))


def markdown(
    votes: Sequence[Vote], titles: Mapping[str, str], records: Iterable[Record] = ()
) -> str:
    """What people said, as Markdown: preferences, who was left out, agreement of the metrics."""
    careless = find_inattentive(votes)
    kept = [vote for vote in votes if vote.voter not in careless]
    found = fit_preferences(kept)
    if not found:
        return "No vote on two different pictures.\n"
    rows = [
        [titles.get(p.method, p.method), f"{p.score:+.2f}", f"±{p.ci95:.2f}", p.votes]
        for p in found
    ]
    head = ["method", "Bradley-Terry score ↑", "95 %", "pairs"]
    align = ("left", "right", "right", "right")
    parts = [tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)]
    voters = {vote.voter for vote in votes}
    compared = sum(not vote.decoy for vote in kept)
    parts.append(
        f"{counted(compared, 'comparison')} by {counted(len(voters) - len(careless), 'voter')}, "
        "decoys apart. A method ahead by 1.0 is preferred in 73 % of pairs."
    )
    if careless:
        told = ", ".join(
            f"{voter} ({100 * share:.0f} %)" for voter, share in sorted(careless.items())
        )
        parts.append(
            f"Left out, for calling fewer than {100 * CONSISTENT:.0f} % of identical pairs equal: "
            f"{told}."
        )
    if metrics := agreements(kept, records):
        rows = [
            [a.metric, f"{100 * a.share:.0f} %", f"±{100 * a.ci95:.0f} %", a.pairs] for a in metrics
        ]
        head = ["metric", "agrees with people", "95 %", "pairs"]
        parts.append(tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True))
    return "\n\n".join(parts) + "\n"
