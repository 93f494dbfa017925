"""An advice as one HTML file that opens without network, and as text for a terminal."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from vsrbench.core.progress import counted, plain
from vsrbench.core.types import Clip, Record, size_text
from vsrbench.data.frames import open_frames
from vsrbench.results.advice import Advice, Candidate, duration
from vsrbench.results.summary import metric_column, metric_infos
from vsrbench.show.page import write_page

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

VIEW = (288, 384)
"""Largest (height, width) of a loop in px of the output."""
SLOWEST_FPS, FASTEST_FPS = 6.0, 25.0
"""Of the loops."""


@dataclass(frozen=True)
class About:
    """What the page says of the clip and of how it was looked at."""

    path: str
    """Path of the clip."""
    clip: Clip
    """The whole clip."""
    where: str
    """Which part was run."""
    device: str
    """What it was run on."""
    commands: Mapping[str, str]
    """Method -> the command that upscales the whole clip with it."""
    absent: Sequence[tuple[str, str]]
    """Methods that are not ready here, and what to do."""
    grid: str
    """The command that measures cost at more sizes."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True)
class Loop:
    """A moving crop."""

    method: str
    """Name of the card; empty for LQ."""
    title: str
    """Name."""
    uri: str
    """Looping WebP."""
    note: str
    """What to mind."""


def loops(advice: Advice, part: Clip, frames_root: Path, records: Sequence[Record]) -> list[Loop]:
    """The same crop of LQ and of each method whose frames were kept, where detail is densest."""
    places = {r.method: r.place for r in records if r.place and r.dataset == part.dataset}
    shown = [c for c in advice.candidates if c.method in places and not c.problem]
    h, w = part.size[0] * part.scale, part.size[1] * part.scale
    y, x, view_h, view_w = _densest(part.lq[part.count // 2], part.scale, (h, w))
    fps = min(max(part.fps or 12.0, SLOWEST_FPS), FASTEST_FPS)

    def crop(frame: Frame) -> Frame:
        return np.ascontiguousarray(frame[y : y + view_h, x : x + view_w])

    lq = [np.asarray(Image.fromarray(f).resize((w, h), Image.Resampling.NEAREST)) for f in part.lq]
    made = [Loop("", f"your clip, x{part.scale}", _webp([crop(f) for f in lq], fps), "as it is")]
    for c in shown:
        if (kept := frames_root / places[c.method]).is_dir():
            pictures = [crop(f) for f in open_frames(kept)]
            made.append(Loop(c.method, c.title, _webp(pictures, fps), "; ".join(c.flags)))
    return made


def _densest(lq: Frame, scale: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(y, x, height, width) in output px of the window with most detail."""
    h, w = min(VIEW[0], size[0]), min(VIEW[1], size[1])
    grey = cv2.cvtColor(np.ascontiguousarray(lq), cv2.COLOR_RGB2GRAY).astype(np.float32)
    total = cv2.integral(np.abs(cv2.Laplacian(grey, cv2.CV_32F)))
    a, b = max(h // scale, 1), max(w // scale, 1)
    sums = total[a:, b:] - total[:-a, b:] - total[a:, :-b] + total[:-a, :-b]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(y) * scale, int(x) * scale, h, w


def _webp(frames: Sequence[Frame], fps: float) -> str:
    """A loop, visually lossless."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        loop=0,
        duration=round(1000 / fps),
        quality=92,
        method=3,
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write(
    advice: Advice, about: About, pictures: Sequence[Loop], records: Sequence[Record], out: Path
) -> None:
    """Write the page. Raises UserError when the file cannot be written."""
    titles = {c.method: c.title for c in advice.candidates}
    write_page(
        out,
        "advice",
        about=about,
        count=counted(about.clip.count, "frame"),
        size=size_text(about.clip.size),
        out_size=size_text(
            (about.clip.size[0] * about.clip.scale, about.clip.size[1] * about.clip.scale)
        ),
        advice=advice,
        titles=titles,
        flags={c.method: c.flags for c in advice.candidates},
        reckoned=any(c.estimated for c in advice.candidates),
        rows=[_row(c, about, records) for c in advice.candidates],
        heads=_heads(advice, records),
        evidence=[
            {
                "title": e.title,
                "where": "rehearsal" if e.rehearsal else "clip",
                "order": " > ".join(titles.get(m, m) for m in e.order),
                "worth": e.worth,
                "decides": e.decides,
            }
            for e in advice.evidence
        ],
        loops=pictures,
        no_vram=_no_vram(advice),
        took=duration(about.seconds),
    )


def _heads(advice: Advice, records: Sequence[Record]) -> list[tuple[str, bool, str]]:
    """(metric, seen in the rehearsal, head) of the columns."""
    infos = metric_infos(records)
    found = []
    for rehearsal in (True, False):
        tables = [c.rehearsed if rehearsal else c.scores for c in advice.candidates]
        for metric in (m for m in infos if any(m in t for t in tables)):
            column = metric_column(infos[metric])
            label = column.label.replace("x1e-", "x1e\u2011")  # x1e-3 stays on one line
            found.append((metric, rehearsal, f"{label}\u00a0{column.arrow}"))
    return found


def _row(c: Candidate, about: About, records: Sequence[Record]) -> dict[str, Any]:
    infos = metric_infos(records)
    cells = []
    for rehearsal, table in ((True, c.rehearsed), (False, c.scores)):
        for metric in infos:
            if metric in table:
                cells.append(
                    ((metric, rehearsal), metric_column(infos[metric]).text(table[metric]))
                )
    seconds = c.clip_s(about.clip.count)
    about_sign = "~" if c.estimated else ""
    return {
        "method": c.method,
        "title": c.title,
        "cells": dict(cells),
        "pace": "–" if c.ms is None else f"{about_sign}{duration(c.ms / 1000)}",
        "clip": "–" if seconds is None else f"{about_sign}{duration(seconds)}",
        "memory": c.memory + (f" at {c.estimated}" if c.estimated else ""),
        "problem": c.problem,
        "flags": c.flags,
    }


def _no_vram(advice: Advice) -> str:
    """Why there is no VRAM; empty where there is."""
    whys = (c.measurement.why.get("vram_peak_mib", "") for c in advice.candidates if c.measurement)
    return next((why for why in whys if why), "")


def text(advice: Advice, about: About, width: int) -> str:
    """The answers, the methods and the doubts, in lines of at most `width`."""
    width = max(width, 40)

    def wrap_line(line: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(
            plain(line),
            width,
            initial_indent=first,
            subsequent_indent=rest,
            break_on_hyphens=False,
        )

    clip = about.clip
    pace = f", {clip.fps:g} fps" if clip.fps else ""
    lines = [
        wrap_line(
            f"{about.path}: {counted(clip.count, 'frame')} "
            f"of {size_text(clip.size)}{pace}, x{clip.scale}, on "
            f"{about.device}"
        ),
        "",
    ]
    titles = {c.method: c.title for c in advice.candidates}
    for choice in advice.choices:
        name = titles.get(choice.method, "no method")
        lines += [wrap_line(f"{choice.when}: {name.upper() if not choice.method else name}")]
        lines += [wrap_line(choice.why, "  ", "  "), ""]
    lines += [wrap_line(advice.sure), ""]
    lines += [*_table(advice, about, width), ""]
    for doubt in advice.doubts:
        lines.append(wrap_line(doubt, "- ", "  "))
    if why := _no_vram(advice):
        lines.append(wrap_line(f"VRAM: not measured, {why}.", "- ", "  "))
    return "\n".join(lines)


def _table(advice: Advice, about: About, width: int) -> list[str]:
    """Name, time a frame, time for the clip, memory; below each what to mind."""
    first = max(6, *(len(plain(c.title)) for c in advice.candidates))
    lines = [f"{'method':<{first}}  {'a frame':>9}  {'the clip':>9}  memory"]
    for c in advice.candidates:
        row = _row(c, about, ())
        lines.append(
            f"{plain(c.title):<{first}}  {row['pace']:>9}  {row['clip']:>9}  {row['memory']}"[
                :width
            ]
        )
        for flag in (c.problem, *c.flags) if c.problem else c.flags:
            lines += textwrap.wrap(
                plain(flag), width, initial_indent="    ", subsequent_indent="    "
            )
    return lines
