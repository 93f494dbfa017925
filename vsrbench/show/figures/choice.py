"""What a figure shows where nobody said: by rules, never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.errors import UserError
from vsrbench.core.types import Record
from vsrbench.metrics import METRICS
from vsrbench.results.summary import COST, GT, Block, Column
from vsrbench.show.figures.kept import LQ, locate_frames, open_kept_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsrbench.core.types import Frame

FIRST = ("lpips", "psnr", "ewarp", "dists", "ssim", "niqe", "flicker")
"""Metrics in the order in which figures take them: what readers know, one of each kind."""
COST_NAMES = tuple(column.name for column in COST.values())


def quality_columns(block: Block) -> list[Column]:
    """The metrics of a block that tell its methods apart, best known first; unranked ones last."""
    rows = [row for row in block.rows if row.method != GT]
    have = [
        column
        for column in block.columns
        if column.name not in COST_NAMES
        and any(r.cells[column.name].value is not None for r in rows)
    ]

    def order(column: Column) -> tuple[bool, int]:
        known = FIRST.index(column.name) if column.name in FIRST else len(FIRST)
        return column.title in block.unranked or not column.better, known

    return sorted(have, key=order)


def cost_columns(block: Block) -> list[Column]:
    """The parts of the cost that some method of a block has."""
    rows = [row for row in block.rows if row.method != GT]
    return [
        column
        for column in block.columns
        if column.name in COST_NAMES and any(r.cells[column.name].value for r in rows)
    ]


def usual_metrics(records: Iterable[Record], dataset: str) -> list[str]:
    """The two best known metrics of a dataset: their scores stand under pictures."""
    own = [r for r in records if r.dataset == dataset and r.status == "ok" and r.method != GT]
    have = dict.fromkeys(r.metric for r in own if r.metric)
    known = [m for m in FIRST if m in have]
    return (known + [m for m in have if m not in known and m in METRICS])[:2]


def luma(frame: Frame) -> NDArray[np.float32]:
    """Luma of BT.601 in levels, not rounded: H x W, float32."""
    import cv2

    return np.asarray(cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)


def spread(frames: Mapping[str, Frame]) -> float:
    """How far methods differ on one frame: standard deviation of luma over them, mean over pixels.

    LQ and GT do not count.
    """
    lumas = [luma(frame) for name, frame in frames.items() if name not in (LQ, GT)]
    return float(np.std(lumas, axis=0).mean()) if lumas else 0.0


def find_telling_clip(
    frames_root: Path,
    records: Sequence[Record],
    dataset: str,
    clips: Sequence[str],
    methods: Sequence[str],
) -> str:
    """The clip on whose middle frame methods differ most; the first one where none was kept.

    Clips of which fewer methods were kept than of others do not count.
    """
    found: dict[str, tuple[int, float]] = {}
    for clip in clips:
        places = locate_frames(frames_root, records, dataset, clip, methods)
        kept = [m for m, place in places.items() if place.is_dir()]
        if kept and len(clips) > 1:
            try:
                sources: Mapping[str, Any] = open_kept_frames(
                    frames_root, dataset, clip, kept, records
                )
                middle = {m: source[len(source) // 2] for m, source in sources.items()}
            except UserError:
                continue
            found[clip] = len(kept), spread(middle)
    return max(found, key=lambda clip: found[clip], default=clips[0])
