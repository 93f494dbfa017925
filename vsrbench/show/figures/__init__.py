"""Figures from stored records and kept frames. matplotlib is imported when one is drawn."""

from vsrbench.show.figures.choice import spread, telling_clip
from vsrbench.show.figures.kept import (
    LQ,
    Enlarged,
    kept_frames,
    kept_scores,
    locate_frames,
    scores,
    titles_of,
)
from vsrbench.show.figures.lines import drift, growth
from vsrbench.show.figures.pictures import busiest_box, busiest_row, crops, profile
from vsrbench.show.figures.points import pareto, scatter
from vsrbench.show.figures.style import FORMATS, check_format
from vsrbench.show.figures.teaser import teaser

__all__ = [
    "FORMATS",
    "LQ",
    "Enlarged",
    "busiest_box",
    "busiest_row",
    "check_format",
    "crops",
    "drift",
    "growth",
    "kept_frames",
    "kept_scores",
    "locate_frames",
    "pareto",
    "profile",
    "scatter",
    "scores",
    "spread",
    "teaser",
    "telling_clip",
    "titles_of",
]
