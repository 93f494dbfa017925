"""Figures from stored records and kept frames. matplotlib is imported when one is drawn."""

from vsrbench.show.figures.kept import kept_frames, kept_scores, locate_frames, scores, titles_of
from vsrbench.show.figures.lines import over_time
from vsrbench.show.figures.pictures import busiest_box, busiest_row, crops, profile
from vsrbench.show.figures.points import pareto, scatter

__all__ = [
    "busiest_box",
    "busiest_row",
    "crops",
    "kept_frames",
    "kept_scores",
    "locate_frames",
    "over_time",
    "pareto",
    "profile",
    "scatter",
    "scores",
    "titles_of",
]
