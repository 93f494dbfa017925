"""A study: everything that one command or one file asks for, checked by one validator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from vsrbench.api.results import FIGURES, Results
from vsrbench.core.config import build, convert
from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.files import read_toml, replace_atomically
from vsrbench.data.selection import Selection, read_span
from vsrbench.results.limits import Constraints, mib

SUFFIX = {"markdown": "md", "latex": "tex", "csv": "csv", "csv-wide": "wide.csv", "json": "json"}
"""Form of a table in a file -> suffix."""


@dataclass(frozen=True)
class Figure:
    """A figure, as `Results.figure` takes it."""

    kind: str
    """Kind of figure."""
    out: str = ""
    """File, below the folder of results unless it is absolute."""
    dataset: str | None = None
    clip: str | None = None
    methods: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else this kind takes, such as metric, row, frame, box, how."""


@dataclass(frozen=True)
class Grid:
    """Sizes and lengths at which cost is measured."""

    sizes: tuple[str, ...]
    """LQ sizes, such as 320x180 (width x height)."""
    frames: tuple[int, ...] = (10,)
    """Numbers of frames."""


@dataclass(frozen=True)
class Study:
    """What is to be run, and what is to be made of it. Paths are those of the working directory."""

    methods: tuple[str, ...] = ()
    """Methods, or paths of checkpoints; at least one."""
    datasets: tuple[str, ...] = ()
    """Datasets; `synthetic` without `input`."""
    input: str = ""
    """A video, a folder of frames or of clips."""
    gt: str = ""
    """Its ground truth, laid out alike."""
    scale: int = 4
    """Upscaling factor of `input` without `gt`."""
    metrics: tuple[str, ...] = ()
    """Metrics; empty for all that the data allows."""
    clips: tuple[str, ...] = ()
    """Clips of the datasets; empty for all."""
    limit: int = 0
    """The first so many clips of each dataset; 0 for all."""
    frames: int | str = ""
    """Frames of each clip: 24, or "100:124"; empty for all."""
    device: str | None = None
    """Torch devices, separated by commas."""
    cost: bool = True
    """Measure cost at the usual size of each dataset."""
    grid: Grid | None = None
    """Measure it at these sizes, too."""
    constraints: Constraints = field(default_factory=Constraints)
    """What a method may cost: said after the tables."""
    keep_frames: bool = False
    """Keep outputs as PNG."""
    video: Literal["", "h264", "av1", "lossless"] = ""
    """Write each output as a video in this form, which keeps frames, too."""
    tables: tuple[Literal["markdown", "latex", "csv", "csv-wide", "json"], ...] = ()
    """Forms of the table that are written into `tables/`."""
    figures: tuple[Figure, ...] = ()
    """Figures to draw."""
    report: bool = False
    """Write the report."""
    results: str = ""
    """Folder of records, frames and figures."""

    @property
    def selection(self) -> Selection:
        """The part of the datasets that is wanted. Raises UserError."""
        frames = read_span(str(self.frames)) if self.frames else None
        return Selection(self.clips, self.limit, frames)

    @property
    def keeps(self) -> bool:
        """Whether outputs are kept as PNG: videos and most figures are made of them."""
        return self.keep_frames or bool(self.video)

    def make(self, results: Results) -> list[Path]:
        """Tables, figures and report, from the results of the study. Raises UserError."""
        made = []
        for form in self.tables:
            path = results.folder / "tables" / f"results.{SUFFIX[form]}"
            with replace_atomically(path) as partial:
                partial.write_text(results.table(form), encoding="utf-8")
            made.append(path)
        for figure in self.figures:
            out = results.folder / "figures" / figure.out if figure.out else None
            made.append(
                results.figure(
                    figure.kind,
                    out,
                    dataset=figure.dataset,
                    clip=figure.clip,
                    methods=figure.methods,
                    **figure.options,
                )
            )
        return [*made, results.report()] if self.report else made


def read_study(path: Path | None, given: Mapping[str, Any]) -> Study:
    """The study in a TOML file, with what the command line gives in place of what it says.

    given: None and False give nothing. Raises UserError for a file that cannot be read, an unknown
    field or a wrong value.
    """
    table = read_toml(path) if path else {}
    where = str(path or "command line")
    parts: dict[str, Any] = {}
    for name, kind in (("grid", Grid), ("constraints", Constraints)):
        if name in table:
            parts[name] = build(kind, table.pop(name), f"{where}: {name}")
    figures = table.pop("figures", [])
    if not isinstance(figures, list):
        raise UserError(f"{where}: figures is not an array of tables", "write [[figures]]")
    parts["figures"] = tuple(_figure(entry, f"{where}: figures") for entry in figures)
    table |= {name: value for name, value in given.items() if value not in (None, False)}
    study: Study = build(Study, table, where, **parts)
    if not study.methods:
        hint = "methods = [...]" if path else "--methods A B; see: vsrbench list methods"
        raise UserError("say which methods to run", hint)
    if study.gt and not study.input:
        raise UserError("--gt needs --input", "--input LQ --gt GT")
    if study.constraints.vram:
        mib(study.constraints.vram)
    if study.grid and not all(re.fullmatch(r"[1-9]\d*x[1-9]\d*", s) for s in study.grid.sizes):
        raise UserError(f"{where}: sizes {', '.join(study.grid.sizes)}", "write them as 320x180")
    _ = study.selection
    return study


def _figure(entry: Any, where: str) -> Figure:
    """A figure; fields that not all kinds have are its options."""
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: {entry!r} is not a table", "write kind = ...")
    own = {f.name for f in fields(Figure)} - {"options"}
    hints = get_type_hints(Results.figure)
    options = {}
    for name, value in entry.items():
        if name not in own:
            if name not in hints:
                raise UserError(f"{where}: {unknown_name('field', name, own | set(hints))}")
            options[name] = convert(value, hints[name], f"{where}: {name}")
    rest = {name: value for name, value in entry.items() if name in own}
    figure: Figure = build(Figure, rest, where, options=options)
    if figure.kind not in FIGURES:
        raise UserError(f"{where}: {unknown_name('figure', figure.kind, FIGURES)}")
    return figure
