"""Records to what a table or a figure shows: coverage, means, intervals, ranks. No torch.

The unit of every interval is the clip, not the frame. An incomplete mean is no number: the cell
keeps its reason instead.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from vsrbench.core.errors import unknown_name
from vsrbench.core.progress import counted
from vsrbench.core.types import (
    DatasetSpec,
    Measurement,
    MetricInfo,
    Origin,
    Record,
    Size,
    size_text,
)
from vsrbench.metrics import METRICS, find_recorded, metric_info
from vsrbench.results.doubles import find_identical_scores
from vsrbench.results.ranking import Better, Mark, half_width, marks, rank
from vsrbench.results.states import (
    are_comparable,
    cost_size,
    current_state,
    list_conditions,
    list_makers,
    select_current_costs,
)

SELF = frozenset({"reference", "flow", "lq"})
"""Needs of metrics that, without GT, compare with LQ or with its bicubic upscaling, a row."""
GT = "gt"
"""The reference row: shown last, never ranked."""
BASELINE = "bicubic"
"""The baseline: ranked like any method; stands in for GT where there is none."""
WEIGHTS: Mapping[Origin, str] = {
    "official": "official",
    "trained_here": "trained here*",
    "user": "user's file",
    "random": "untrained",
    "none": "none",
}
"""Origin of weights -> wording of the weights column."""


@dataclass(frozen=True)
class Column:
    """One column: a metric, or one part of the cost."""

    name: str
    """Id on the command line and in CSV."""
    title: str
    """Name in headers."""
    unit: str
    """Printed unit; empty without one."""
    better: Better
    """Direction; empty when neither is better, which is never ranked."""
    decimals: int
    """Printed decimals; ranks are taken at this precision."""

    @property
    def arrow(self) -> str:
        """The direction as a sign."""
        return {"higher": "↑", "lower": "↓", "one": "→1", "": ""}[self.better]

    def rank(self, value: float) -> float:
        """A number that is smaller for what is better."""
        return rank(self.better, value)

    @property
    def label(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()

    def text(self, value: float) -> str:
        """The value as printed."""
        return f"{value:z,.{self.decimals}f}"


COST: Mapping[str, Column] = {
    "median_ms": Column("ms", "", "ms/frame", "lower", 1),
    "fps": Column("fps", "", "fps", "higher", 2),
    "first_output_ms": Column("first_ms", "first output", "ms", "lower", 1),
    "rss_peak_mib": Column("rss", "RSS", "MiB", "lower", 0),
    "vram_peak_mib": Column("vram", "VRAM", "MiB", "lower", 0),
    "j_per_frame": Column("energy", "", "J/frame", "lower", 3),
    "params_m": Column("params", "params", "M", "", 2),
}
"""Field of Measurement -> its column."""


@dataclass(frozen=True)
class Cell:
    """One method in one column."""

    value: float | None = None
    """Mean over all clips, or a measurement; None when incomplete."""
    ci95: float | None = None
    """Half-width of the 95 % interval over clips; None with fewer than two."""
    clips: Mapping[str, float] = field(default_factory=dict)
    """Score of each clip that has one; empty for cost."""
    of: int = 0
    """Clips that a complete mean covers; 0 for cost."""
    note: str = ""
    """Why there is no value, or what sets the value apart from its column."""
    comparable: bool = True
    """False for GT and for cost measured in another setting than the rest: never ranked."""
    mark: Mark = ""
    """Rank at printed precision; ties share it, and two best leave no second."""
    absent: bool = False
    """There is no value and nothing failed: it was not asked for, or what it needs is not here."""
    noise: bool = False
    """Not told apart from the best, by clips in pairs."""


@dataclass(frozen=True)
class Row:
    """One method in one block."""

    method: str
    """Name of its card."""
    title: str
    """Name in tables."""
    origin: Origin
    """Where its weights come from."""
    cells: Mapping[str, Cell]
    """Column name -> cell."""
    precision: str = ""
    """fp32 / fp16 / bf16, of the cost measurement where there is one."""
    measurement: Measurement | None = None
    """The cost behind the cost cells."""
    published: str = ""
    """Paper and table that print the row; empty for what was measured here."""


@dataclass(frozen=True)
class Block:
    """One dataset, or the cost at one size when `dataset` is empty."""

    dataset: str
    """Name of the dataset."""
    title: str
    """Name in tables."""
    clips: Mapping[str, int]
    """Clip -> number of frames, 0 without any score: the denominator of every cell."""
    size: Size
    """(height, width) of the LQ frames in px; the most frequent one."""
    scale: int = 0
    """Upscaling factor; 0 when unknown."""
    columns: tuple[Column, ...] = ()
    """Metrics, then cost."""
    rows: tuple[Row, ...] = ()
    """Methods in the order asked for, GT last."""
    border_px: int | None = None
    """GT pixels cut from each side before per-frame metrics; None when unknown."""
    scored_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What was scored of each clip -> titles of the metrics scored on it."""
    flows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Flow estimator -> titles of the metrics that used it."""
    setting: str = ""
    """How and where most of the cost was measured."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the cells."""
    cost_notes: tuple[str, ...] = ()
    """Those of the notes that are about the cost."""
    runs: tuple[str, ...] = ()
    """Ids of the runs behind the numbers."""
    unranked: tuple[str, ...] = ()
    """Titles of the metrics that, for want of GT, compare with LQ or with a row of the block."""


@dataclass(frozen=True)
class Summary:
    """All blocks of a table."""

    blocks: tuple[Block, ...]
    """One for each dataset."""

    def block(self, dataset: str) -> Block:
        """The block of a dataset. Raises UserError for an unknown one."""
        for block in self.blocks:
            if block.dataset == dataset:
                return block
        raise unknown_name("dataset with results", dataset, (b.dataset for b in self.blocks))


def metric_infos(
    records: Iterable[Record], asked: Sequence[str] | None = None
) -> dict[str, MetricInfo]:
    """The table of metrics, then those by their pyiqa names that are on record or asked for.

    Raises UserError for an unknown name that was asked for.
    """
    others = (r for r in records if r.metric not in METRICS)
    found = {r.metric: info for r in others if (info := find_recorded(r))}
    table = METRICS | dict(sorted(found.items()))
    return table | {name: metric_info(name) for name in asked or () if name not in table}


def metric_column(info: MetricInfo) -> Column:
    """The column of a metric."""
    return Column(info.name, info.title, info.unit, info.better, info.decimals)


def setting_text(m: Measurement) -> str:
    """How and where a cost was measured: what must agree before costs are ranked."""
    threads, frames = counted(m.threads, "CPU thread"), counted(m.frames, "frame")
    return f"{m.device}, {threads}, region {m.region}, {frames} timed"


def usual_size(sizes: Iterable[Size]) -> Size:
    """The most frequent size, the smallest of several such; (0, 0) of broken clips has no vote."""
    counts = Counter(size for size in sizes if size != (0, 0))
    return min(counts, key=lambda size: (-counts[size], size), default=(0, 0))


def newest(records: Iterable[Record]) -> dict[tuple[str, str, str, str], Record]:
    """The newest quality record of each (dataset, method, clip, metric)."""
    quality = sorted((r for r in records if r.kind == "quality"), key=lambda r: r.at)
    return {(r.dataset, r.method, r.clip, r.metric): r for r in quality}


def summarise(
    records: Iterable[Record],
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    specs: Mapping[str, DatasetSpec] | None = None,
) -> Summary:
    """Means over clips with intervals and ranks, one block for each dataset.

    `methods`, `datasets` and `metrics` choose and order; None takes all that have records. All
    clips recorded for a dataset make the denominator, whichever methods are chosen. `specs`
    (name -> spec) gives titles and borders. Without `datasets`, cost measured at a size that no
    dataset here has becomes a block of its own. Raises UserError for names without records.
    """
    records = list(records)
    quality = list(newest(records).values())
    costs = {(r.method, cost_size(r), r.scale): r for r in select_current_costs(records, [])}
    heads = {r.method: r for r in sorted(records, key=lambda r: r.at)}
    refuse("dataset with results", datasets, {r.dataset for r in quality})
    refuse("method with results", methods, set(heads))
    infos = metric_infos(quality, metrics)

    order = list(dict.fromkeys(r.method for r in records)) if methods is None else list(methods)
    order = [m for m in order if m != GT] + [m for m in order if m == GT]
    blocks = []
    for dataset in datasets or dict.fromkeys(r.dataset for r in quality):
        own = [r for r in quality if r.dataset == dataset]
        version = max(r.dataset_version for r in own)
        own = [r for r in own if r.dataset_version == version]
        # Of a scale that was asked for before, cells say that they are of other frames.
        scales = {r.clip: r.scale for r in sorted(own, key=lambda r: r.at) if r.status == "ok"}
        here_scales = set(scales.values()) - {0} or {r.scale for r in own}
        scale = here_scales.pop() if len(here_scales) == 1 else 0
        size = usual_size({r.clip: r.size for r in own}.values())
        here = {r.method for r in own}
        here |= {m for m, s, x in costs if s == size and x in (0, scale)}
        chosen = [m for m in order if methods is not None or m in here]
        spec = (specs or {}).get(dataset)
        empty = Block(
            dataset=dataset,
            title=spec.title if spec else dataset,
            clips=_lengths(own),
            size=size,
            scale=scale,
            # Records of schema 1 do not say it, and later ones do.
            border_px=spec.border_px if spec else None,
        )
        current = select_current_costs(records, own)
        here_costs = {(r.method, cost_size(r)): r for r in current if r.scale in (0, empty.scale)}
        blocks.append(_block(empty, [heads[m] for m in chosen], own, metrics, infos, here_costs))
    if datasets is None:
        shown = {(b.size, b.scale) for b in blocks}
        others = {(s, scale) for m, s, scale in costs if (s, scale) not in shown and m in order}
        for size, scale in sorted(others):
            own_costs = {(m, s): r for (m, s, x), r in costs.items() if x == scale}
            chosen = [m for m in order if (m, size) in own_costs]
            title = f"Cost, x{scale}" if len({x for _, x in others}) > 1 else "Cost"
            empty = Block("", title, {}, size)
            blocks.append(_block(empty, [heads[m] for m in chosen], [], [], infos, own_costs))
    return Summary(tuple(blocks))


def _lengths(quality: Iterable[Record]) -> dict[str, int]:
    """Clip -> number of its frames that were scored, by name."""
    found: dict[str, int] = {}
    for r in sorted(quality, key=lambda r: r.clip):
        found[r.clip] = max(found.get(r.clip, 0), r.frames if r.status == "ok" else 0)
    return found


def refuse(kind: str, asked: Sequence[str] | None, known: Iterable[str]) -> None:
    """Raise UserError for the first name asked for that is not known."""
    known = set(known)
    for name in asked or ():
        if name not in known:
            raise unknown_name(kind, name, known)


def _block(
    empty: Block,
    heads: Sequence[Record],
    quality: Sequence[Record],
    metrics: Sequence[str] | None,
    infos: Mapping[str, MetricInfo],
    costs: Mapping[tuple[str, Size], Record],
) -> Block:
    """Fill a block: one row for each of `heads`, the newest record of each method."""
    names = {h.method for h in heads}
    seen = {r.metric for r in quality if r.method in names}
    wanted = [m for m in infos if m in seen] if metrics is None else list(metrics)
    scores = [metric_column(infos[m]) for m in wanted]
    cost = {h.method: costs[h.method, empty.size] for h in heads if (h.method, empty.size) in costs}
    measured = {m: r.measurement for m, r in cost.items() if r.measurement and r.status == "ok"}
    has_lq = empty.scale > 0 or not empty.dataset
    parts, notes = _cost_parts(empty.size, has_lq, cost, measured)
    setting = Counter(map(setting_text, measured.values())).most_common(1)[0][0] if measured else ""

    with_gt = any(r.method == GT or r.reference == "gt" for r in quality)
    unranked = [m for m in wanted if not with_gt and infos[m].needs & SELF]
    table = {(r.method, r.clip, r.metric): r for r in quality}
    current = current_state(quality)
    lossy = _lossy(r for r in quality if r.method in names and r.metric in wanted)
    rows = []
    for head in heads:
        own = {c.name: _score(head, c.name, empty.clips, table, current) for c in scores}
        own |= {m: replace(own[m], comparable=False) for m in unranked}
        cells = own | {
            c.name: _cost_cell(head, cost.get(head.method), part, setting)
            for part, c in parts.items()
        }
        precision = cost.get(head.method, head).precision
        measurement = measured.get(head.method)
        title = f"{head.title} (lossy)" if head.method in lossy else head.title
        rows.append(Row(head.method, title, head.weights_origin, cells, precision, measurement))
    said = dict.fromkeys(chain.from_iterable(lossy.values()))
    columns = (*scores, *parts.values())
    used = [r for r in quality if r.method in names and r.metric in wanted and r.status == "ok"]
    others = [r for r in used if r.method != GT]  # datasets share GT between clips
    flows: dict[str, dict[str, None]] = {}
    scored_on: dict[str, dict[str, None]] = {}
    for r in used:
        scored_on.setdefault(_extent(r, empty.border_px), {})[infos[r.metric].title] = None
        if r.extra.get("flow"):
            flows.setdefault(str(r.extra["flow"]), {})[infos[r.metric].title] = None
    return replace(
        empty,
        columns=columns,
        rows=rank_rows(rows, columns),
        scored_on={text: tuple(metrics) for text, metrics in scored_on.items()},
        flows={name: tuple(metrics) for name, metrics in flows.items()},
        setting=setting,
        notes=(*said, *_shifts(quality), *_delays(used), *find_identical_scores(others), *notes),
        cost_notes=tuple(notes),
        unranked=tuple(infos[m].title for m in unranked),
        runs=tuple(sorted({r.run_id for r in (*used, *cost.values())})),
    )


def _lossy(quality: Iterable[Record]) -> dict[str, dict[str, None]]:
    """Method -> lines on the lossy files in which its outputs, or GT, came; of those that did."""
    found: dict[str, dict[str, None]] = {}
    for r in quality:
        for side, who in (("outputs", r.title), ("gt", "GT")):
            files = r.read.get(side, {})
            if files.get("lossy"):
                kind = " ".join(filter(None, (files.get("codec"), files.get("pixels"))))
                found.setdefault(r.method, {})[
                    f"{who} came as {kind}, which is lossy: these are the scores of those files."
                ] = None
    return found


def _extent(r: Record, border_px: int | None) -> str:
    """What was scored of a clip: which frames, and what was cut from them."""
    protocol = r.extra.get("protocol", {})
    rule = protocol.get("frames", "all")
    named = {"all": "all frames", "first-mid-last": "the first, middle and last frame"}
    text = f"{named.get(rule, f'frames by the rule {rule}')} as 8-bit RGB"
    if "span" in protocol:
        first, last, count = protocol["span"]
        text = text.replace("all frames", f"frames {first} to {last} of {count}")
    if protocol.get("crop") in ("center", "topleft"):
        text += f", sizes that differ cropped to what they share ({protocol['crop']})"
    elif "crop" in protocol:
        text += f", GT cropped to what the outputs show ({protocol['crop']})"
    if "lq" in protocol:
        text += f", LQ {protocol['lq']}"
    border = r.border_px if r.border_px is not None else protocol.get("border_px", border_px)
    return text + {None: "", 0: ", no border cut"}.get(border, f", {border} px cut from each side")


def _score(
    head: Record,
    metric: str,
    clips: Iterable[str],
    table: Mapping[tuple[str, str, str], Record],
    current: Mapping[Any, tuple[Any, ...]],
) -> Cell:
    """One quality cell: the mean over all clips, or the reason why there is none."""
    clips = list(clips)
    if head.weights_origin == "random":
        return Cell(of=len(clips), note="untrained: cost only", absent=True)
    values: dict[str, float] = {}
    problems: dict[str, str] = {}
    absent = True
    for clip in clips:
        r = table.get((head.method, clip, metric))
        absent = absent and (r is None or r.status == "skipped")
        if r is None:
            problems[clip] = "not run"
        elif r.status != "ok" or r.value is None:
            problems[clip] = reason(r) if r.status == "skipped" else f"failed: {reason(r)}"
        elif current[head.method] != list_makers(r):
            problems[clip] = "scored with older weights or settings; run it again"
        elif not are_comparable(current[clip, metric], list_conditions(r)):
            problems[clip] = "scored on other frames or by another version; run it again"
        else:
            values[clip] = r.value
    if not problems:
        scores = list(values.values())
        mean, half = statistics.fmean(scores), half_width(scores)
        return Cell(mean, half, values, len(clips), comparable=head.method != GT)
    clip, what = next(iter(problems.items()))
    if values or len(set(problems.values())) > 1:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        what = f"{len(values)} of {len(clips)} clips scored; '{clip}'{more}: {what}"
    return Cell(clips=values, of=len(clips), note=what, absent=absent)


def reason(record: Record) -> str:
    """The first line of what went wrong."""
    message = (record.error or {}).get("message", "")
    return next(iter(message.splitlines()), "no reason recorded")


def _cost_parts(
    size: Size, has_lq: bool, cost: Mapping[str, Record], measured: Mapping[str, Measurement]
) -> tuple[dict[str, Column], list[str]]:
    """The cost columns worth printing, and a note for what was left out."""
    if not cost:
        return {}, [f"Cost: not measured at LQ {size_text(size)}."] if has_lq else []
    parts = dict(COST)
    left_out: dict[str, list[str]] = {}
    for part, name in (("vram_peak_mib", "VRAM"), ("j_per_frame", "energy")):
        if all(getattr(m, part) is None for m in measured.values()):
            del parts[part]
            why = "; ".join(sorted({m.why[part] for m in measured.values() if part in m.why}))
            left_out.setdefault(why, []).append(name)
    said = [(" and ".join(names), why) for why, names in left_out.items() if why]
    return parts, [f"{names[0].upper()}{names[1:]}: {why}." for names, why in said]


def _cost_cell(head: Record, record: Record | None, part: str, setting: str) -> Cell:
    if record is None:
        return Cell(
            note="GT has no cost" if head.method == GT else "cost not measured at this size"
        )
    m = record.measurement
    if record.status != "ok" or m is None:
        return Cell(note=reason(record))
    value = getattr(m, part)
    if value is None:
        return Cell(note=m.why.get(part, "not measured"))
    same = setting_text(m) == setting
    apart = [] if same else [f"measured otherwise, not ranked: {setting_text(m)}"]
    if m.gpu_shared:
        apart.append("another process was on the GPU")
    unsteady = part in ("median_ms", "fps") and _is_unsteady(m.samples_ms)
    if unsteady:
        apart.append(
            f"unsteady, not ranked: its frames took {min(m.samples_ms):,.1f} to "
            f"{max(m.samples_ms):,.1f} ms (a busy machine, or frames that come in groups)"
        )
    return Cell(value=float(value), note="; ".join(apart), comparable=same and not unsteady)


def _is_unsteady(samples_ms: Sequence[float]) -> bool:
    """Whether the middle half of the frames spans more than a half of its shortest time.

    Such a median could as well be another one. A single frame that waited is no harm to it.
    """
    if len(samples_ms) < 4:
        return False
    low, _, high = statistics.quantiles(samples_ms, n=4, method="inclusive")
    return high > 1.5 * low


def rank_rows(rows: Sequence[Row], columns: Iterable[Column]) -> tuple[Row, ...]:
    """The rows with best, second and what is not told apart from the best, column by column."""
    cells = [dict(row.cells) for row in rows]
    for column in columns:
        own = {i: row.cells[column.name] for i, row in enumerate(rows)}
        fair = {i: cell for i, cell in own.items() if cell.value is not None and cell.comparable}
        values = {i: cell.value for i, cell in fair.items() if cell.value is not None}
        clips = {i: cell.clips for i, cell in fair.items() if cell.clips}
        for i, (mark, noise) in marks(column.better, column.decimals, values, clips).items():
            cells[i][column.name] = replace(own[i], mark=mark, noise=noise)
    return tuple(replace(row, cells=c) for row, c in zip(rows, cells, strict=True))


def _shifts(quality: Iterable[Record]) -> list[str]:
    """A warning for each clip on which bicubic, or outputs of others, fit GT better shifted."""
    notes = []
    for r in sorted(quality, key=lambda r: r.clip):
        dy, dx = r.extra.get("shift", (0, 0))
        if (dy or dx) and {"psnr_at_zero", "psnr_at_shift"} <= r.extra.keys():
            what = "LQ" if r.method == BASELINE else r.title
            notes.append(
                f"Registration: {what} and GT of clip '{r.clip}' are not aligned; {r.title} lies "
                f"{dy:+g} px down and {dx:+g} px right of GT. Its middle frame has "
                f"{r.extra['psnr_at_zero']:.2f} dB as it is, {r.extra['psnr_at_shift']:.2f} dB "
                "shifted back."
            )
    return notes


def _delays(used: Iterable[Record]) -> list[str]:
    """A warning for each row whose frames fit the reference better at another time."""
    found: dict[tuple[str, int], dict[str, None]] = {}
    for r in used:
        if delay := r.extra.get("delay", 0):
            found.setdefault((r.title, delay), {})[r.clip] = None
    notes = []
    for (title, delay), clips in found.items():
        first, *more = clips
        where = f"'{first}'" + (f" and {len(more)} more" if more else "")
        count = counted(abs(delay), "frame")
        notes.append(
            f"Registration: the frames of {title} come {count} too "
            f"{'late' if delay > 0 else 'early'} on clip {where}: they fit those of another "
            "moment better, and its scores compare different moments."
        )
    return notes
