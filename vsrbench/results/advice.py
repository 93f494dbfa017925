"""Which method to take for a clip without ground truth: what is known, what it is worth. No torch.

Two looks at a clip, neither of them whole. On the clip itself there is no GT: metrics without one
say little about what people like. In the rehearsal the clip is brought down by the scale and
upscaled again, with the clip as GT: metrics that agree with people work there, on frames that are
cleaner and smaller than what the method is to meet. How far a metric is believed follows from a
study with people (results/published/agreement.toml), not from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from vsrbench.core.types import Measurement, MetricInfo, Record, Size
from vsrbench.metrics import metric_info
from vsrbench.results.agreement import Study
from vsrbench.results.limits import Constraints, is_out_of_memory, judge
from vsrbench.results.ranking import rank
from vsrbench.results.summary import BASELINE, reason

TRUSTED = 0.6
"""Share of clear pairs in which a metric has to prefer what people prefer; chance is 0.5."""
STANDBY = ("stlpips",)
"""Metrics that decide where no trusted one is here: of the family of LPIPS, not in the study."""
UNSTEADY = 1.5
"""Times the E_warp of bicubic above which a method is said to wobble."""
UNFAITHFUL_DB = 25.0
"""LR-PSNR below which a method is said to change what is there."""


@dataclass(frozen=True)
class Candidate:
    """One method on the clip."""

    method: str
    """Name of its card."""
    title: str
    """Name in tables."""
    origin: str
    """Where its weights come from."""
    ms: float | None
    """Time a frame at the size of the clip; None where it could not be had."""
    estimated: str = ""
    """From which size the time was reckoned; empty where it was measured."""
    measurement: Measurement | None = None
    """The measurement behind it."""
    problem: str = ""
    """Why it has no figures or no picture."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metric -> score on the chosen part of the clip, without GT."""
    rehearsed: Mapping[str, float] = field(default_factory=dict)
    """Metric -> score in the rehearsal, with GT."""
    flags: tuple[str, ...] = ()
    """What to mind."""

    @property
    def memory(self) -> str:
        """Peak memory in words, device memory where it was measured."""
        m = self.measurement
        if m is None:
            return "–"
        if m.vram_peak_mib is not None:
            return f"{m.vram_peak_mib / 1024:.1f} GiB VRAM"
        return f"{m.rss_peak_mib:,.0f} MiB RSS" if m.rss_peak_mib else "–"

    def clip_s(self, frames: int) -> float | None:
        """Seconds for so many frames."""
        return None if self.ms is None else self.ms * frames / 1000


@dataclass(frozen=True)
class Evidence:
    """What one metric says, and what that is worth."""

    metric: str
    """Its name."""
    title: str
    """Its name in tables."""
    rehearsal: bool
    """Seen in the rehearsal, with GT; else on the clip, without."""
    people: float | None
    """Share of clear pairs in which it prefers what people prefer; None where no study says."""
    order: tuple[str, ...]
    """Methods, best first."""
    decides: bool
    """Part of the verdict."""

    @property
    def worth(self) -> str:
        """In words."""
        if self.people is None:
            return "not held against people"
        chance = " (chance is 50 %)" if self.people < TRUSTED else ""
        return f"agrees with people in {100 * self.people:.0f} % of clear pairs{chance}"


@dataclass(frozen=True)
class Choice:
    """The answer under one constraint."""

    when: str
    """The constraint."""
    method: str
    """Name of the card; empty where nothing fits."""
    why: str
    """In a sentence or two."""


@dataclass(frozen=True)
class Advice:
    """All that the page says."""

    candidates: tuple[Candidate, ...]
    """In order of preference."""
    evidence: tuple[Evidence, ...]
    """Those that decide first."""
    choices: tuple[Choice, ...]
    """Answers."""
    sure: str
    """How sure the order is."""
    doubts: tuple[str, ...]
    """Where metrics disagree, and what is not to be believed."""

    @property
    def told(self) -> bool:
        """Whether the order says which picture people would prefer."""
        return any(e.decides for e in self.evidence)

    def candidate(self, method: str) -> Candidate:
        """The one of that name."""
        return next(c for c in self.candidates if c.method == method)


def scale_time(m: Measurement, size: Size) -> float:
    """Time a frame, ms, at another size: by pixels, as convolutions and windows go."""
    return m.median_ms * (size[0] * size[1]) / (m.size[0] * m.size[1])


def make_candidate(
    head: Record, size: Size, costs: Sequence[Record], quality: Iterable[Record], rehearsal: str
) -> Candidate:
    """One method out of its records.

    head: any of its records. costs: the last one decides, at whatever size. quality: of the part
    and of the dataset `rehearsal`.
    """
    scores: dict[bool, dict[str, float]] = {False: {}, True: {}}
    problems = dict[str, None]()
    for r in quality:
        if r.status == "ok" and r.value is not None:
            scores[r.dataset == rehearsal][r.metric] = r.value
        elif r.status == "failed" and r.dataset != rehearsal:
            problems[reason(r)] = None
    cost = next((r for r in reversed(costs) if r.measurement), None)
    m = cost.measurement if cost else None
    for r in costs:
        # One that took too long at the whole size is reckoned from the smaller one.
        if r.status != "ok" and (m is None or is_out_of_memory(r)):
            problems[reason(r)] = None
    whole = m is not None and m.size == size
    ms = None if m is None else m.median_ms if whole else scale_time(m, size)
    at = "" if m is None or whole else f"{m.size[1]}x{m.size[0]}"
    return Candidate(
        head.method,
        head.title,
        head.weights_origin,
        ms,
        at,
        m,
        "; ".join(problems),
        scores[False],
        scores[True],
    )


def advise(
    found: Sequence[Candidate], study: Study, constraints: Constraints, fps: float, frames: int
) -> Advice:
    """The verdict. fps: of the clip, 0 when unknown. frames: of the whole clip."""
    evidence = _weigh(found, study)
    deciding = [e for e in evidence if e.decides]
    better = _preference([c.method for c in found], deciding)
    base = next((c for c in found if c.method == BASELINE), None)
    flagged = [_flag(c, base) for c in found]
    order = sorted(flagged, key=lambda c: (bool(c.problem), -better[c.method], c.ms or math.inf))
    sure, settled = _assess_order(order, deciding)
    choices = _choose(order, constraints, fps, frames, bool(deciding), settled)
    doubts = tuple(_find_doubts(order, evidence, study))
    return Advice(tuple(order), tuple(evidence), choices, sure, doubts)


def _weigh(found: Sequence[Candidate], study: Study) -> list[Evidence]:
    """What each metric that ranks says, trusted ones first."""
    listed = []
    for rehearsal in (True, False):
        tables = {c.method: c.rehearsed if rehearsal else c.scores for c in found}
        for metric in dict.fromkeys(m for table in tables.values() for m in table):
            info = metric_info(metric)
            values = {m: table[metric] for m, table in tables.items() if metric in table}
            if len(values) < 2 or not (rehearsal or _needs_no_gt(info)):
                continue
            ordered = sorted(values, key=lambda m: rank(info.better, values[m]))
            opinion = study.of(metric)
            people = opinion.chosen if opinion else None
            trusted = people is not None and people >= TRUSTED
            listed.append(Evidence(metric, info.title, rehearsal, people, tuple(ordered), trusted))
    if not any(e.decides for e in listed):
        listed = [
            Evidence(e.metric, e.title, e.rehearsal, e.people, e.order, True)
            if e.metric in STANDBY and e.rehearsal
            else e
            for e in listed
        ]
    return sorted(listed, key=lambda e: (not e.decides, -(e.people or 0)))


def _needs_no_gt(info: MetricInfo) -> bool:
    """Whether a metric says how good frames look without GT: it compares with nothing."""
    return not info.needs & {"gt", "lq", "reference", "flow"} and info.span == "frame"


def _weight(e: Evidence) -> float:
    """Log-odds of agreeing with people; 1 for one that decides because no other is here."""
    if e.people is None or e.people < TRUSTED:
        return 1.0
    return math.log(e.people / (1 - e.people))


def _preference(methods: Sequence[str], deciding: Sequence[Evidence]) -> dict[str, float]:
    """Mean weight with which a method is preferred to each other one."""
    total = dict.fromkeys(methods, 0.0)
    for a, b in combinations(methods, 2):
        votes = [_vote(e, a, b) for e in deciding if a in e.order and b in e.order]
        if votes:
            total[a] += fmean(votes)
            total[b] -= fmean(votes)
    return total


def _vote(e: Evidence, a: str, b: str) -> float:
    return _weight(e) * (1 if e.order.index(a) < e.order.index(b) else -1)


def _flag(c: Candidate, base: Candidate | None) -> Candidate:
    """A candidate with what to mind about it."""
    flags = []
    wobble, of_base = c.scores.get("ewarp"), base.scores.get("ewarp") if base else None
    if c.method != BASELINE and wobble is not None and of_base and wobble > UNSTEADY * of_base:
        flags.append(f"less steady: E_warp {wobble / of_base:.1f} times that of bicubic")
    faith = c.scores.get("lr_psnr")
    if faith is not None and faith < UNFAITHFUL_DB:
        flags.append(f"changes what is there: LR-PSNR {faith:.1f} dB")
    if c.origin == "trained_here":
        flags.append("small weights, trained in this repository")
    return Candidate(**{**vars(c), "flags": tuple(flags)})


def _assess_order(order: Sequence[Candidate], deciding: Sequence[Evidence]) -> tuple[str, bool]:
    """(how sure the order at the top is, whether it can be called settled)."""
    usable = [c for c in order if not c.problem]
    if not deciding or len(usable) < 2:
        return "Nothing measured here tells which picture people would prefer: look at them.", False
    first, second = usable[0], usable[1]
    votes = [_vote(e, first.method, second.method) > 0 for e in deciding]
    names = ", ".join(e.title for e in deciding)
    if deciding[0].people is None:
        return (
            f"By {names} alone, which no study has held against people: a hint. Look at the "
            "pictures before you decide.",
            False,
        )
    if all(votes):
        return f"All metrics that agree with people put {first.title} first: {names}.", True
    said = [e.title for e, agrees in zip(deciding, votes, strict=True) if not agrees]
    return (
        f"{', '.join(said)} would take {second.title} rather than {first.title}: compare these two "
        "with your eyes.",
        False,
    )


def _choose(
    order: Sequence[Candidate],
    constraints: Constraints,
    fps: float,
    frames: int,
    told: bool,
    settled: bool,
) -> tuple[Choice, ...]:
    """told: the order means something. settled: all that decide agree on the first."""
    usable = [c for c in order if not c.problem and c.ms is not None]
    if not usable:
        return (Choice("any", "", "No method ran on this clip."),)
    best, when = usable[0], "Best picture, however long it takes"
    sure = "by all metrics that agree with people" if settled else "as far as can be told"
    found = [Choice(when, best.method, f"Preferred {sure}; {_pace(best, frames)}.")]
    if not told:
        among = ", ".join(c.title for c in usable)
        found = [Choice(when, "", f"No metric here tells: choose by eye among {among}.")]
    asked = [constraints] if constraints else []
    if not constraints.fps and fps:
        asked.append(Constraints(fps=fps))
    for limits in asked:
        found.append(_choose_within(usable, limits, frames, told))
    networks = [c for c in usable if c.method != BASELINE]
    failed = [c for c in order if c.method != BASELINE and c.problem]
    if failed and not networks:
        why = f"{failed[0].title}: {failed[0].problem}"
        found[0] = Choice(when, "", f"No network gave a picture ({why}). More time: --minutes 20.")
    if networks:
        fast = min(networks, key=lambda c: c.ms or math.inf)
        if fast.method not in {choice.method for choice in found}:
            found.append(Choice("The fastest network", fast.method, f"{_pace(fast, frames)}."))
    return tuple(found)


def _choose_within(
    usable: Sequence[Candidate], limits: Constraints, frames: int, told: bool
) -> Choice:
    when = str(limits)
    said = {c.method: _judge_reckoned(c, limits) for c in usable}
    fits = [c for c in usable if said[c.method][0] == "yes"]
    unknown = [c for c in usable if said[c.method][0] == "unknown"]
    if fits:
        choice = fits[0]
        above = [c for c in usable[: usable.index(choice)] if said[c.method][0] == "no"]
        best = "best" if told else "fastest"
        why = f"{said[choice.method][1]}; the {best} of those that fit"
        if above:
            more = ", ".join(f"{c.title} ({said[c.method][1]})" for c in above)
            why += f". Preferred, and out of reach: {more}"
        return Choice(when, choice.method, f"{why}.")
    if unknown:
        return Choice(
            when,
            "",
            f"Cannot be told here, as for {unknown[0].title}: {said[unknown[0].method][1]}. Run "
            "this on the card in question.",
        )
    fast = min(usable, key=lambda c: c.ms or math.inf)
    return Choice(
        when,
        "",
        f"Nothing fits. Nearest: {fast.title}, {said[fast.method][1]}; {_pace(fast, frames)}.",
    )


def _judge_reckoned(c: Candidate, limits: Constraints) -> tuple[str, str]:
    """As `judge`; a time that was reckoned counts, memory at another size does not."""
    m = c.measurement
    if m is None or not c.estimated:
        return judge(m, limits, c.problem)
    answers, said = [], []
    if limits.vram:
        answers.append("unknown")
        why = m.why.get("vram_peak_mib") or f"measured at {c.estimated} only"
        said.append(f"VRAM not known at this size: {why}")
    if limits.fps and c.ms:
        answers.append("yes" if 1000 / c.ms >= limits.fps else "no")
        said.append(f"about {1000 / c.ms:.2f} fps")
    return next((a for a in ("no", "unknown", "yes") if a in answers), "yes"), ", ".join(said)


def _pace(c: Candidate, frames: int) -> str:
    seconds = c.clip_s(frames)
    if seconds is None or c.ms is None:
        return "time not known"
    about = "about " if c.estimated else ""
    return f"{about}{duration(c.ms / 1000)} a frame, {duration(seconds)} for the clip"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _find_doubts(
    order: Sequence[Candidate], evidence: Sequence[Evidence], study: Study
) -> Iterable[str]:
    """Where metrics disagree with the order, and why they are not followed."""
    titles = {c.method: c.title for c in order}
    first = next((c.method for c in order if not c.problem), "")
    for e in evidence:
        if first and not e.decides and e.order[0] != first:
            where = "in the rehearsal" if e.rehearsal else "on the clip"
            yield (
                f"{e.title} puts {titles.get(e.order[0], e.order[0])} first {where} and is not "
                f"followed: it {e.worth}."
                if e.people is not None
                else f"{e.title} puts {titles.get(e.order[0], e.order[0])} first {where} and is "
                "not followed: no study has held it against people."
            )
    if not any(e.people and e.people >= TRUSTED for e in evidence):
        best = [o for o in study.opinions if o.id and o.chosen >= TRUSTED and ":" not in o.id][:2]
        names = " ".join(o.id for o in best)
        yield (
            "No metric that agrees with people could be computed here. To have one: "
            f"vsrbench weights fetch --metrics {names}"
        )
    if any("lr_psnr" in c.scores or "ewarp" in c.scores for c in order):
        yield (
            "LR-PSNR and E_warp compare with the clip as it is, which favours bicubic by "
            "construction: they warn of invention and wobble, and rank nothing."
        )
