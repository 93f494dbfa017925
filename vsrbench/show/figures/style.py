"""How figures look: colours, type, sheets of pictures, and charts.

Figures have the width of one column or of a whole page of a paper in two columns, so that 7 pt on
the figure are 7 pt in print.
"""

from __future__ import annotations

import json
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vsrbench.core.errors import UserError
from vsrbench.core.files import content, read_json, replace_atomically
from vsrbench.core.keys import digest, sha256_file
from vsrbench.core.types import Origin
from vsrbench.results.summary import BASELINE, GT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vsrbench.core.types import Frame

COLUMN, PAGE = 3.3, 6.9
"""Widths of a figure, inches."""
DPI = 300
"""Pixels per inch of PNG; of sheets about that: pixels of frames are enlarged by whole factors."""
FORMATS = ("png", "svg", "pdf")
"""Of the file that a figure goes to, by its suffix."""
INK, GREY, PALE, SIGNAL = "#1a1a1a", "#5f5f5f", "#d9d9d9", "#ffb000"
# Okabe and Ito's palette without black and yellow: told apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
MARKERS: Mapping[Origin, str] = {
    "official": "o",
    "trained_here": "s",
    "user": "D",
    "random": "X",
    "none": "^",
}
STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.minor.pad": 5.0,  # minor ticks are 1.5 pt shorter: their numbers stand as low
    "ytick.minor.pad": 5.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,
    "pdf.fonttype": 42,  # TrueType: publishers refuse the other kind
    "svg.hashsalt": "vsrbench",  # the same figure has the same bytes
}
HEAD: Any = {"size": 7, "weight": "bold"}
SMALL: Any = {"size": 6.5, "color": GREY}
SMALLEST = 5.5
"""Smallest type, points."""
_DRAWING = threading.Lock()
"""matplotlib has one style for all threads."""
_STAMPS: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def check_format(out: Path) -> None:
    """Raise UserError unless the suffix of `out` is that of a format in which figures are drawn."""
    if out.suffix.lower().removeprefix(".") not in FORMATS:
        kinds = f"{', '.join(f.upper() for f in FORMATS[:-1])} or {FORMATS[-1].upper()}"
        raise UserError(f"figures are {kinds}, and {out} is not", f"-o {out.with_suffix('.png')}")


def looks_of(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, dashes), the same in every figure of the same results."""
    others = sorted(set(methods) - {GT, BASELINE})
    looks = {m: (COLOURS[i % 6], DASHES[i % 4]) for i, m in enumerate(others)}
    return {GT: (INK, "-"), BASELINE: (GREY, "-"), **looks}


def fit(picture: Frame, width: float, height: float) -> Frame:
    """A frame that is looked at as a whole, as large as this room allows, by area."""
    factor = min(width / picture.shape[1], height / picture.shape[0])
    whole = math.ceil(factor)
    if whole > 1:
        picture = picture.repeat(whole, 0).repeat(whole, 1)
    return resize(picture, *(max(1, round(s / whole * factor)) for s in picture.shape[1::-1]))


def resize(picture: Frame, width: int, height: int) -> Frame:
    """By area, which copies pixels where the factor is whole."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


@contextmanager
def sheet(out: Path, width: float, height: float, unit: float) -> Iterator[Axes]:
    """A sheet measured in px from its top left corner, so that pixels stay pixels.

    unit: px in a point of type.
    """
    width, height, dpi = math.ceil(width) + 0.01, math.ceil(height) + 0.01, 72 * unit
    with drawing(out, width / dpi, height / dpi, dpi) as figure:
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        page.set_axis_off()
        yield page


def paste(axes: Axes, picture: Frame, x: float, y: float) -> None:
    """Put a picture onto a sheet, its top left corner at (x, y), which is rounded to whole px."""
    from vsrbench.show.figures.pixels import Pixels

    axes.add_artist(Pixels(picture, round(x), round(y)))


def write(
    page: Axes, x: float, y: float, text: str, room: float, lines: int = 1, **how: Any
) -> None:
    """Text on a sheet, smaller where it is wider than `room` px, and in the end shortened.

    lines: with 2, it is broken at a space or behind a hyphen before it is shortened.
    """
    figure = page.get_figure(root=True)
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # that of Agg
    label = page.text(x, y, text, **how)
    while (width := label.get_window_extent(renderer).width) > room and len(text) > 1:
        if (size := float(label.get_fontsize())) > SMALLEST:
            label.set_fontsize(max(SMALLEST, size * room / width))
        elif lines > 1 and (breaks := [m.end() for m in re.finditer("[ -]", text)]):
            at = min(breaks, key=lambda end: abs(2 * end - len(text)))
            lines, text = 1, f"{text[:at].rstrip()}\n{text[at:]}"
            label.set(text=text, linespacing=1.0)
        else:
            text = text[:-2] if text.endswith("…") else text[:-1]
            text = f"{text.rstrip()}…"
            label.set_text(text)


@contextmanager
def chart(out: Path, width: float, height: float) -> Iterator[Axes]:
    """Axes on a figure of this size in inches."""
    with drawing(out, width, height, layout="constrained") as figure:
        yield figure.subplots()


@contextmanager
def drawing(
    out: Path, width: float, height: float, dpi: float = DPI, **how: Any
) -> Iterator[Figure]:
    """A figure in our style, saved without a stamp: the same figure has the same bytes.

    width, height: inches. The format is that of the suffix of `out`. Raises UserError for another.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_format(out)
    with _DRAWING, rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts the font lacks
        figure = Figure(figsize=(width, height), dpi=dpi, **how)
        FigureCanvasAgg(figure)
        yield figure
        kind = out.suffix.lower()[1:]
        with replace_atomically(out) as partial:
            figure.savefig(partial, format=kind, metadata=dict(_STAMPS[kind]))


def digest_inputs(out: Path, *shown: Any) -> str:
    """Digest of what is shown, of its format, and of the code and packages that draw it."""
    return digest([repr(shown), out.suffix.lower(), *_drawn_by()])


@cache
def _drawn_by() -> tuple[str, ...]:
    return content(Path(__file__).parents[1]), version("matplotlib"), version("pillow")


def read_sidecar(out: Path, inputs: str) -> dict[str, Any]:
    """What stands beside a figure, if it lies there as it was drawn, of these inputs; else {}."""
    with suppress(UserError, OSError, ValueError, TypeError, KeyError):
        about = dict(read_json(out.with_suffix(".json")))
        drawn = dict(about["drawn"])
        whole = all(sha256_file(out.with_name(name)) == sha for name, sha in drawn.items())
        if out.name in drawn and whole and about.get("made_of") == inputs:
            return about
    return {}


def sidecar(out: Path, about: Mapping[str, Any], *beside: Path) -> dict[str, Any]:
    """Write what was chosen, by which rule, and the caption beside a figure, once it is drawn.

    beside: other files that were drawn with it. What is written comes back, with their digests.
    """
    found = {**about, "drawn": {file.name: sha256_file(file) for file in (out, *beside)}}
    out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found
