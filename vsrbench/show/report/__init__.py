"""One HTML file from a summary, its records and kept frames: opens from disk, needs no network.

`page.html` is filled by Jinja; scripts, styles and pictures are part of the file. No torch.
"""

from __future__ import annotations

import base64
import io
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PIL import Image

from vsrbench.cards.specs import ROOT
from vsrbench.core.env import core_count
from vsrbench.core.errors import UserError
from vsrbench.core.files import list_below
from vsrbench.core.keys import digest, sha256_file
from vsrbench.core.types import MetricInfo, Record
from vsrbench.data.frames import digests_path, lq_of, mark_path
from vsrbench.metrics import find_recorded
from vsrbench.results.agreement import read_study
from vsrbench.results.store import Store
from vsrbench.results.summary import (
    BASELINE,
    GT,
    WEIGHTS,
    Block,
    Column,
    Row,
    Summary,
    metric_infos,
    newest,
)
from vsrbench.show import figures
from vsrbench.show.figures.style import digest_inputs
from vsrbench.show.page import is_made_of, read_sealed, write_page, write_sealed
from vsrbench.show.report.loops import Loop, make_worst_loop
from vsrbench.show.tables import Footnotes, caption, heading, row_title, select, weights_text

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

BUDGET_MIB = 48.0
"""Default size of all pictures in a report."""
ALL_TAKEN = "the pictures before it took all of --images"
MOST_AT_ONCE = 4
"""Clips that are looked at at a time: each holds `figures.kept.MEMORY`."""


@dataclass(frozen=True)
class Picture:
    """What one method made of the frame that is shown."""

    method: str
    """Name of the card."""
    title: str
    """Name in tables."""
    uri: str
    """The frame, lossless; of LQ at its own size."""
    scores: str
    """Its scores on the clip."""
    best_known: tuple[str, ...]
    """Those that stand under its crop."""
    motion: str
    """Those that stand above its profile."""
    slice: str
    """A row of its pixels over time, lossless: T x W."""
    judged: bool
    """False for LQ and GT, on which nobody votes."""


@dataclass(frozen=True)
class Comparison:
    """One clip to look at."""

    dataset: str
    """Dataset."""
    clip: str
    """Clip."""
    frame: int
    """Number of the frame shown."""
    size: tuple[int, int]
    """(width, height) of a frame in px."""
    pictures: tuple[Picture, ...]
    """LQ, bicubic, the methods, GT."""
    reference: str
    """The method by whose frames box and row were chosen."""
    box: tuple[int, int, int, int]
    """x, y, width, height of the crops in px."""
    box_rule: str
    """How it was chosen."""
    row: int
    """Row of the profiles."""
    row_rule: str
    """How it was chosen."""
    steps: int
    """Frames that the profiles show."""
    loop: Loop | None
    """Its worst second; None for a single frame."""
    spread: float
    """How far the methods differ on the frame, in levels."""

    @property
    def size_b(self) -> int:
        """Bytes that it adds to the file."""
        sheets = self.loop.sheets.values() if self.loop else ()
        pictures = (uri for p in self.pictures for uri in (p.uri, p.slice))
        return sum(map(len, (*pictures, *sheets)))


@dataclass(frozen=True)
class Dot:
    """One clip of one method in one metric."""

    clip: str
    """Clip."""
    x: float
    """Place, 0 to 100."""
    text: str
    """The score as printed."""


@dataclass(frozen=True)
class Strip:
    """All clips of all methods in one metric."""

    column: Column
    """The metric."""
    low: str
    """Score at the left end."""
    high: str
    """Score at the right end."""
    rows: tuple[tuple[str, float | None, tuple[Dot, ...]], ...]
    """(title, place of the mean or None, dots) of each method."""


def build(
    summary: Summary,
    records: Sequence[Record],
    store: Store,
    out: Path,
    budget_mib: float,
    say: Callable[[str], None],
    vote: bool = False,
) -> None:
    """Write the report to `out`, unless it lies there, made of the same.

    budget_mib: what the pictures may take in all; clips beyond it are named as left out. Clips are
    shown whose frames were kept. vote: with a blind vote on pairs of pictures. say: told what is
    being done. Raises UserError when the file cannot be written.
    """
    shown = {row.method for block in summary.blocks for row in block.rows}
    infos = metric_infos(records)
    study = read_study(ROOT)
    runs = _runs(store, {run for block in summary.blocks for run in block.runs})
    pictures = _digest_pictures(summary, records, store)
    inputs = digest_inputs(out, summary, records, budget_mib, vote, study, runs, pictures)
    if is_made_of(out, inputs):
        say(f"nothing has changed since {out} was made: it is kept")
        return
    budget = int(budget_mib * 2**20)
    with ThreadPoolExecutor(1) as pool:  # the scatter is drawn while frames are decoded
        blocks = pool.map(lambda block: _block(block, infos, store), select(summary).blocks)
        comparisons, left_out = _comparisons(summary, records, store, pictures, budget, say)
    write_page(
        out,
        "report",
        inputs,
        blocks=list(blocks),
        study=study.study,
        people={opinion.id: opinion.text() for opinion in study.opinions},
        comparisons=comparisons,
        opened=max(range(len(comparisons)), key=lambda i: comparisons[i].spread, default=0),
        left_out=left_out,
        vote=vote,
        failures=_failures([r for r in records if r.method in shown]),
        provenance=_provenance([r for r in records if r.method in shown]),
        runs=runs,
        code=store.code({run["run_id"] for run in runs}),
    )


def _digest_pictures(
    summary: Summary, records: Sequence[Record], store: Store
) -> dict[tuple[str, str], str]:
    """(dataset, clip) -> digest of all frames that are kept of what is shown."""
    found = {}
    with ThreadPoolExecutor(core_count()) as pool:
        for block in summary.blocks:
            methods = [BASELINE, *(row.method for row in block.rows), GT]
            for clip in block.clips if block.dataset else ():
                places = figures.locate_frames(store.frames, records, block.dataset, clip, methods)
                folders = (*places.values(), lq_of(places[BASELINE]))
                found[block.dataset, clip] = pool.submit(_digest_frames, folders)
    return {clip: digested.result() for clip, digested in found.items()}


def _digest_frames(folders: Iterable[Path]) -> str:
    """Digest of the frames in some folders, and of what is kept beside them."""
    files: list[tuple[str, str, Path]] = []
    for folder in folders:
        if folder.is_dir():
            files += [(str(folder), *file) for file in list_below(folder)]
        files += [(str(folder), "", file) for file in (mark_path(folder), digests_path(folder))]
    return digest([(at, name, sha256_file(file)) for at, name, file in files if file.is_file()])


def _block(block: Block, infos: Mapping[str, MetricInfo], store: Store) -> dict[str, Any]:
    """A block as the page shows it."""
    notes = Footnotes()
    rows = []
    for row in block.rows:
        cells = []
        for column in block.columns:
            cell = row.cells[column.name]
            text = "–" if cell.value is None else column.text(cell.value)
            spread = "" if cell.ci95 is None else f"±{column.text(cell.ci95)}"
            number = notes.number(cell.note) if cell.note else ""
            cells.append(
                {
                    "text": text,
                    "spread": spread + " ~" * cell.noise,
                    "mark": cell.mark,
                    "sort": "" if cell.value is None else repr(cell.value),
                    "note": cell.note,
                    "number": number,
                }
            )
        rows.append(
            {
                "title": row_title(row),
                "weights": weights_text(row),
                "reference": row.method == GT,
                "cells": cells,
            }
        )
    return {
        "heading": heading(block),
        "columns": block.columns,
        "rows": rows,
        "footnotes": notes.lines("[{}] {}"),
        "notes": block.notes,
        "caption": " ".join(caption(block, store.code(block.runs))),
        "strips": list(_strips(block, infos)),
        "scatter": _scatter(block) if block.dataset else {},
    }


def _strips(block: Block, infos: Mapping[str, MetricInfo]) -> Iterator[Strip]:
    """A strip for each metric that some method has clips of; GT only where it says something."""
    for column in block.columns:
        if column.name not in infos:
            continue
        rows = [
            row
            for row in block.rows
            if row.cells[column.name].clips
            and not (row.method == GT and "gt" in infos[column.name].needs)
        ]
        values = [v for row in rows for v in row.cells[column.name].clips.values()]
        if values:
            yield _strip(column, rows, min(values), max(values))


def _strip(column: Column, rows: Sequence[Row], low: float, high: float) -> Strip:
    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3) if high > low else 50.0

    found = []
    for row in rows:
        cell = row.cells[column.name]
        dots = tuple(Dot(clip, place(v), column.text(v)) for clip, v in cell.clips.items())
        found.append((row.title, None if cell.value is None else place(cell.value), dots))
    return Strip(column, column.text(low), column.text(high), tuple(found))


def _comparisons(
    summary: Summary,
    records: Sequence[Record],
    store: Store,
    pictures: Mapping[tuple[str, str], str],
    budget: int,
    say: Callable[[str], None],
) -> tuple[list[Comparison], list[str]]:
    """Clips with kept frames as far as the budget (bytes) goes, and why others are left out.

    pictures: of `_digest_pictures`.
    """
    found: list[Comparison] = []
    left_out: list[str] = []

    def look(dataset: str, clip: str, methods: Sequence[str]) -> Comparison | str:
        """A clip, or why it is left out."""
        places = figures.locate_frames(store.frames, records, dataset, clip, methods)
        kept = [m for m, place in places.items() if place.is_dir()]
        if not kept:
            return "no frames were kept; run with --keep-frames"
        if budget <= 0:
            return ALL_TAKEN
        try:
            return _comparison(store, dataset, clip, kept, records, pictures[dataset, clip], say)
        except UserError as error:
            return str(error)

    clips = [
        (block.dataset, clip, [row.method for row in block.rows])
        for block in summary.blocks
        for clip in (block.clips if block.dataset else ())
    ]
    pool = ThreadPoolExecutor(min(core_count(), MOST_AT_ONCE))
    try:
        for (dataset, clip, _), future in [(of, pool.submit(look, *of)) for of in clips]:
            looked = future.result()
            if isinstance(looked, Comparison) and budget <= 0:
                looked = ALL_TAKEN
            if isinstance(looked, Comparison) and looked.size_b > budget and found:
                looked = "its pictures go beyond --images"
            if isinstance(looked, str):
                left_out.append(f"{dataset}/{clip}: {looked}")
            else:
                budget -= looked.size_b
                found.append(looked)
    finally:
        pool.shutdown(cancel_futures=True)
    return found, left_out


def _comparison(
    store: Store,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    records: Sequence[Record],
    frames: str,
    say: Callable[[str], None],
) -> Comparison:
    """What is to be seen of a clip; of the last report where nothing of it changed.

    frames: digest of all that is kept of it. Raises UserError.
    """
    # When a score was last asked for changes nothing that is seen.
    of_clip = (r for r in records if (r.dataset, r.clip) == (dataset, clip))
    shown = [replace(r, at="") for r in of_clip if r.status == "ok"]
    file = store.folder / "figures" / "report" / f"clip-{digest([dataset, clip])}.json"
    made_of = digest_inputs(file, methods, shown, frames)
    if (data := read_sealed(file, made_of)) is not None:
        return msgspec.json.decode(data, type=Comparison)
    say(f"pictures of {dataset}/{clip}")
    found = _compare_frames(store, dataset, clip, methods, records)
    with suppress(OSError):  # they wait for the next report where they can
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, msgspec.json.encode(found), made_of)
    return found


def _compare_frames(
    store: Store,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    records: Sequence[Record],
) -> Comparison:
    """The middle frame by every method, the worst second, crops, profiles. Raises UserError."""
    kept = figures.Kept(store.frames, dataset, clip, methods, records)
    sources, (height, width) = kept.sources, kept.size
    latest = newest(records)
    own = [
        m for m in metric_infos(records) if any((dataset, s, clip, m) in latest for s in sources)
    ]
    cut, sliced = figures.choose_views(kept), figures.choose_slices(kept)
    slices = {method: figures.thin(pixels) for method, pixels in sliced.slices.items()}
    middle = {method: source[cut.frame] for method, source in sources.items()}
    pictures = []
    for method, source in sources.items():
        given = isinstance(source, figures.Enlarged)
        frame = source.source[cut.frame] if isinstance(source, figures.Enlarged) else middle[method]
        pictures.append(
            Picture(
                method,
                kept.titles[method],
                _uri(frame),
                ", ".join(kept.scores(method, own)),
                tuple(cut.views[method][2]),
                ", ".join(kept.scores(method, figures.MOTION)),
                _uri(slices[method]),
                not given and method != GT,
            )
        )
    of_clip = [r for r in latest.values() if (r.dataset, r.clip) == (dataset, clip)]
    loop = make_worst_loop(sources, [r for r in of_clip if r.method in sources], _uri)
    return Comparison(
        dataset,
        clip,
        cut.frame,
        (width, height),
        tuple(pictures),
        kept.reference,
        cut.box,
        cut.rule,
        sliced.row,
        sliced.rule,
        len(slices[kept.reference]),
        loop,
        figures.spread(middle),
    )


def _scatter(block: Block) -> dict[str, str]:
    """Quality against cost as SVG, with its caption; empty where there is nothing to draw."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scatter.svg"
        try:
            about = figures.scatter(Summary((block,)), out)
        except UserError:
            return {}
        return {"uri": _data("image/svg+xml", out.read_bytes()), "caption": about["caption"]}


def _uri(frame: Frame) -> str:
    """A frame as lossless WebP, so that what is looked at is what was scored.

    Least effort: a fifth more bytes, a tenth of the time.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", lossless=True, quality=0, method=0)
    return _data("image/webp", buffer.getvalue())


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _failures(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What failed or was skipped, one entry a reason: where, how often, what to do."""
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for r in [*newest(records).values(), *(r for r in records if r.kind == "cost")]:
        if r.status == "ok":
            continue
        error = r.error or {}
        info = find_recorded(r)
        what = info.title if info else r.metric or "cost"
        message = error.get("message") or "no reason recorded"
        key = (r.status, r.dataset, what, message)
        entry = found.setdefault(
            key,
            {
                "status": r.status,
                "what": what,
                "dataset": r.dataset,
                "message": message,
                "hint": error.get("hint", ""),
                "methods": {},
                "clips": {},
            },
        )
        entry["methods"][r.title] = None
        if r.clip:
            entry["clips"][r.clip] = None
    return sorted(found.values(), key=lambda entry: str(entry["status"]))


def _provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of each method: the newest version, weights, precision and settings on record."""
    heads = {r.method: r for r in sorted(records, key=lambda r: r.at)}
    return [
        {
            "name": r.method,
            "title": r.title,
            "version": r.method_version,
            "origin": WEIGHTS[r.weights_origin],
            "sha256": r.weights_sha256,
            "precision": r.precision,
            "settings": ", ".join(f"{k} = {v}" for k, v in r.settings.items()),
        }
        for r in heads.values()
        if r.method != GT
    ]


def _runs(store: Store, ids: set[str]) -> list[dict[str, Any]]:
    """The runs behind the numbers, newest last: command, environment, outcome."""
    found = []
    for run in store.read_runs():
        if run["run_id"] in ids:
            env: Mapping[str, Any] = run["env"]
            gpus = ", ".join(f"{g['name']} ({g['memory_mib']} MiB)" for g in env["gpus"])
            commit = env["git"]["commit"] or "none"
            found.append(
                {
                    "run_id": run["run_id"],
                    "command": shlex.join(["vsrbench", *run["argv"]]),
                    "started": run["started"],
                    "finished": run["finished"],
                    "exit_code": run["exit_code"],
                    "counts": ", ".join(f"{n} {what}" for what, n in run["counts"].items() if n),
                    "device": run["device"],
                    "hardware": f"{env['cpu']}, {env['cores']} cores, {env['ram_mib']} MiB"
                    + (f"; {gpus}" if gpus else "; no GPU"),
                    "system": f"{env['system']}, Python {env['python']}"
                    + (f", CUDA {env['cuda']}" if env["cuda"] else "")
                    + (f", driver {env['driver']}" if env.get("driver") else ""),
                    "packages": ", ".join(f"{k} {v}" for k, v in env["packages"].items()),
                    "code": f"vsrbench {run['version']}, commit {commit}"
                    + (" with uncommitted changes" if env["git"]["dirty"] else ""),
                }
            )
    return found
