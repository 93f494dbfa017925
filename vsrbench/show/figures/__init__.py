"""Figures from stored records and kept frames. matplotlib is imported when one is drawn."""

from vsrbench.show.figures.choice import find_telling_clip, spread
from vsrbench.show.figures.kept import (
    LQ,
    Enlarged,
    Kept,
    locate_frames,
    open_kept_frames,
    read_kept_scores,
    scores,
    titles_of,
)
from vsrbench.show.figures.lines import drift, growth
from vsrbench.show.figures.pictures import (
    MOTION,
    busiest_box,
    busiest_row,
    choose_slices,
    choose_views,
    crops,
    profile,
    thin,
)
from vsrbench.show.figures.points import pareto, scatter
from vsrbench.show.figures.style import FORMATS, check_format
from vsrbench.show.figures.teaser import teaser

__all__ = [
    "FORMATS",
    "LQ",
    "MOTION",
    "Enlarged",
    "Kept",
    "busiest_box",
    "busiest_row",
    "check_format",
    "choose_slices",
    "choose_views",
    "crops",
    "drift",
    "find_telling_clip",
    "growth",
    "locate_frames",
    "open_kept_frames",
    "pareto",
    "profile",
    "read_kept_scores",
    "scatter",
    "scores",
    "spread",
    "teaser",
    "thin",
    "titles_of",
]
