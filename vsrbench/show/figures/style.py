"""How figures look: colours, type, sheets measured in px, and charts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vsrbench.core.files import content, replacing
from vsrbench.core.keys import digest
from vsrbench.core.types import Origin
from vsrbench.results.summary import BASELINE, GT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vsrbench.core.types import Frame

DPI = 150
INK, GREY, PALE, SIGNAL = "#1a1a1a", "#6b6b6b", "#d9d9d9", "#ffb000"
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
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
}
HEAD: Any = {"size": 9, "weight": "bold"}
SMALL: Any = {"size": 8, "color": GREY}
MADE_OF = "Made of"
"""Text in the PNG of a figure: `made_of`."""


def looks_of(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, dashes), the same in every figure of the same results."""
    others = sorted(set(methods) - {GT, BASELINE})
    looks = {m: (COLOURS[i % 6], DASHES[i % 4]) for i, m in enumerate(others)}
    return {GT: (INK, "-"), BASELINE: (GREY, "-"), **looks}


def fit(picture: Frame, width: int, height: int) -> Frame:
    """Enlarged by the largest whole factor that fits, pixel by pixel; or shrunk by area."""
    factor = min(width / picture.shape[1], height / picture.shape[0])
    factor = math.floor(factor) if factor >= 1 else factor
    return resize(picture, round(picture.shape[1] * factor), round(picture.shape[0] * factor))


def resize(picture: Frame, width: int, height: int) -> Frame:
    """By area, which copies pixels where the factor is whole."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def made_of(*shown: Any) -> str:
    """Digest of what a figure shows, and of the code and the package that draw it."""
    return digest([repr(shown), content(Path(__file__).parent), version("matplotlib")])


def is_drawn(out: Path, inputs: str) -> bool:
    """Whether the figure made of these inputs lies there already."""
    with suppress(OSError, SyntaxError, ValueError), Image.open(out) as picture:
        return picture.info.get(MADE_OF) == inputs
    return False


@contextmanager
def sheet(out: Path, width: int, height: int, inputs: str) -> Iterator[Axes]:
    """A sheet measured in px from its top left corner, so that pixels stay pixels."""
    with _drawing(out, width / DPI, height / DPI, inputs) as figure:
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        page.set_axis_off()
        yield page


def paste(axes: Axes, picture: Frame, x: float, y: float) -> None:
    """Put a picture onto a sheet, its top left corner at (x, y)."""
    height, width = picture.shape[:2]
    extent = (x, x + width, y + height, y)
    axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto")


@contextmanager
def chart(out: Path, width: float, height: float, inputs: str) -> Iterator[Axes]:
    """Axes of this size in inches; saved at the end, trimmed to what was drawn."""
    with _drawing(out, width, height, inputs, bbox_inches="tight") as figure:
        yield figure.subplots()


@contextmanager
def _drawing(out: Path, width: float, height: float, inputs: str, **how: Any) -> Iterator[Figure]:
    """A figure in our style, saved as PNG, with what it was made of and without a time.

    The same figure has the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        yield figure
        with replacing(out) as partial:
            figure.savefig(
                partial, format="png", metadata={"Software": None, MADE_OF: inputs}, **how
            )


def sidecar(out: Path, about: Mapping[str, Any]) -> None:
    """Write what was chosen, and by which rule, beside a figure."""
    out.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read_sidecar(out: Path) -> dict[str, Any]:
    """What stands beside a figure; empty where nothing does."""
    with suppress(OSError, ValueError):
        return dict(json.loads(out.with_suffix(".json").read_text(encoding="utf-8")))
    return {}
