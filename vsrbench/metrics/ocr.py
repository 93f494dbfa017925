"""Legibility: whether text can be read in the output as in the ground truth, by OCR.

RapidOCR with the PP-OCRv6 models that its wheel holds. Lines are found in the ground truth; what
is read there is compared with what is read in the same place of the output. Without ground truth
the confidence of what is read in the output stands in, which a sharp wrong letter raises, too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsrbench.core.errors import DataError
from vsrbench.core.types import MetricInfo, Sample, Score
from vsrbench.metrics.base import MeanMetric, require_side

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

CONFIDENT = 0.7
"""Lines that are read in the ground truth with less confidence are left out."""


@functools.cache
def _reader() -> Any:
    """RapidOCR as it comes, without its messages."""
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(None):
        return RapidOCR(params={"Global.log_level": "error"})


def distance(a: str, b: str) -> int:
    """Levenshtein's distance: insertions, deletions and replacements of letters."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def agreement(read: str, true: str) -> float:
    """Share of the true letters that are read: 1 - distance / length, at least 0, blanks aside."""
    read, true = ("".join(text.split()) for text in (read, true))
    return max(0.0, 1 - distance(read, true) / len(true)) if true else 0.0


def _lines(frame: Frame) -> list[tuple[Any, str, float]]:
    """(corners 4 x 2 in px, text, confidence) of the lines of text in a frame."""
    picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    found = _reader()(picture, use_det=True, use_cls=True, use_rec=True)
    if found.boxes is None or not found.txts:
        return []
    return list(zip(found.boxes, found.txts, found.scores, strict=True))


def _straight(frame: Frame, corners: Any) -> Frame:
    """The quadrilateral of a line as an upright picture, BGR."""
    points = np.asarray(corners, np.float32)
    width = max(np.linalg.norm(points[0] - points[1]), np.linalg.norm(points[3] - points[2]))
    height = max(np.linalg.norm(points[0] - points[3]), np.linalg.norm(points[1] - points[2]))
    w, h = max(1, round(float(width))), max(1, round(float(height)))
    target = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    upright = cv2.warpPerspective(
        cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
        cv2.getPerspectiveTransform(points, target),
        (w, h),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(upright)


def read_line(frame: Frame, corners: Any) -> str:
    """What is read in a place of a frame, known to hold one line."""
    found = _reader()(_straight(frame, corners), use_det=False, use_cls=False, use_rec=True)
    return found.txts[0] if found.txts else ""


def legibility(sr: Frame, gt: Frame) -> float | None:
    """Mean `agreement` over the lines of GT, weighted by letters; None where it holds no text."""
    lines = [(corners, text) for corners, text, sure in _lines(gt) if sure >= CONFIDENT]
    letters = [len("".join(text.split())) for _, text in lines]
    if not sum(letters):
        return None
    shares = [agreement(read_line(sr, corners), text) for corners, text in lines]
    return float(np.average(shares, weights=letters))


class Legibility(MeanMetric):
    """`legibility` of each frame with text; of clips without GT the confidence of the reader."""

    fewest = "one frame with text"

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        super().__init__(info, device)
        self._against = ""

    def score(self, sample: Sample) -> float | None:
        """The share of this frame; None where nothing is written in it."""
        require_side(32, sample.sr)
        self._against = "confidence" if sample.gt is None else "GT"
        if sample.gt is not None:
            if sample.gt.shape != sample.sr.shape:
                raise DataError("output and ground truth differ in size")
            return legibility(sample.sr, sample.gt)
        lines = _lines(sample.sr)
        letters = [len("".join(text.split())) for _, text, _ in lines]
        if not sum(letters):
            return None
        return float(np.average([sure for *_, sure in lines], weights=letters))

    def result(self) -> Score:
        """Mean over frames with text, and what it stands for. Raises DataError without text."""
        score = super().result()
        return Score(score.value, score.per_frame, {"against": self._against})
