"""Declarations of methods and datasets: read the TOML files and check every field."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from vsrbench.cards.plugins import plugins
from vsrbench.cards.weights import SUFFIXES, find_named_file
from vsrbench.core.config import build, checked_name, checked_place
from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.files import read_toml
from vsrbench.core.types import (
    DatasetSpec,
    Download,
    Edit,
    Environment,
    Expected,
    Layout,
    MethodCard,
    Origin,
    Source,
    Weights,
)
from vsrbench.core.variables import ROOT as ROOT

PLACES = ("wheel", "hub", "github", "drive", "url")
"""Fields of a source that say where it is; one of them is given."""

GT_CARD = MethodCard(
    name="gt", version=1, title="GT", kind="frames", weights=Weights(origin="none"), scale=0
)
"""Reference row: the ground truth scored as if it were an output."""


def method_files(root: Path) -> dict[str, Path]:
    """Method name -> its card, from methods/<folder>/<name>.toml.

    Folders that another root lacks are those of the checkout; a folder is never mixed of both, as
    the cards in it share their modules. Installed packages bring theirs under other names.
    """
    own = sorted(root.glob("methods/*/*.toml"))
    folders = {path.parent.name for path in own}
    more = [p for p in sorted(ROOT.glob("methods/*/*.toml")) if p.parent.name not in folders]
    others = [path for plugin in plugins("vsrbench.methods") for path in plugin.files()]
    return {path.stem: path for path in (*others, *more, *own)}


def dataset_files(root: Path) -> dict[str, Path]:
    """Dataset name -> its spec, from datasets/<name>.toml; what a root lacks, the checkout has."""
    files = (*sorted(ROOT.glob("datasets/*.toml")), *sorted(root.glob("datasets/*.toml")))
    return {path.stem: path for path in files}


def read_card(path: Path) -> MethodCard:
    """The card in a TOML file. Raises UserError."""
    table = read_toml(path)
    weights = table.pop("weights", None)
    if not isinstance(weights, dict):
        raise UserError(
            f"{path}: table [weights] is missing",
            f"say where the weights come from: origin = one of {', '.join(get_args(Origin))}",
        )
    sources = _sources(Source, _tables(weights, "sources", path), path)
    checked_name(table.get("name", path.stem), "method", path)
    environment = table.pop("environment", None)
    if environment is not None:
        edits = tuple(build(Edit, edit, path) for edit in _tables(environment, "edits", path))
        environment = build(Environment, environment, path, edits=edits)
    card: MethodCard = build(
        MethodCard,
        {"name": path.stem, **table},
        path,
        environment=environment,
        weights=build(Weights, weights, path, sources=sources),
        folder=str(path.parent),
    )
    if card.scale < 0 or card.window < 0 or card.multiple_of < 1 or card.min_size < 1:
        raise UserError(
            f"{path}: scale {card.scale}, window {card.window}, multiple_of {card.multiple_of} and "
            f"min_size {card.min_size} do not fit",
            "scale and window are 0 or more, the others 1 or more",
        )
    return find_named_file(card)


def method_card(root: Path, name: str) -> MethodCard:
    """The card of a method named on the command line, or of a checkpoint file given by path.

    A checkpoint path makes a card for the spandrel adapter; its name is the stem of the file.
    Raises UserError for an unknown name.
    """
    files = method_files(root)
    if name in files:
        return read_card(files[name])
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise UserError(f"no checkpoint at {path}", "check the path")
        card = read_card(files["spandrel"])
        weights = replace(card.weights, origin="user", file=str(path.resolve()))
        stem = re.sub(r"[^\w.+-]", "_", path.stem)
        name = f"{stem}-file" if stem in files else stem
        source = str(path.resolve())
        return replace(card, name=name, title=path.stem, weights=weights, source=source)
    raise unknown_name(
        "method", name, set(files) - {"spandrel"}, "or the path of a checkpoint that spandrel reads"
    )


def dataset_spec(root: Path, name: str) -> DatasetSpec:
    """The spec of a dataset named on the command line, NAME or NAME:LAYOUT. Raises UserError.

    One layout alone is a dataset of its own: the LQ of two may differ.
    """
    files = dataset_files(root)
    whole, _, layout = name.partition(":")
    if layout and whole in files and name not in files:
        all_of = dataset_spec(root, whole)
        only = tuple(entry for entry in all_of.layouts if entry.name == layout)
        if not only:
            raise unknown_name(
                f"layout of {whole}", layout, (entry.name for entry in all_of.layouts)
            )
        return replace(
            all_of,
            name=name,
            title=f"{all_of.title} ({layout})",
            layouts=only,
            base=all_of.base or whole,
            folder=all_of.folder or whole,
        )
    if name not in files:
        raise unknown_name("dataset", name, files, "for your own video: --input FILE|DIR")
    path = files[name]
    table = read_toml(path)
    base = table.get("base", "")
    checked_name(table.get("name", name), "dataset", path)
    if base:
        if not isinstance(base, str) or base not in files or base == name:
            raise UserError(f"{path}: {unknown_name('base', str(base), set(files) - {name})}")
        table = {"folder": base, **read_toml(files[base]), **table}
    layouts = [build(Layout, entry, path) for entry in _tables(table, "layouts", path)]
    if "lq" in table or "gt" in table:
        own = {key: table[key] for key in ("lq", "gt") if key in table}
        layouts.insert(0, build(Layout, {"name": "own", **own}, path))
    for layout in layouts:
        for key in ("lq", "gt"):
            pattern = checked_place(getattr(layout, key), key, path)
            if pattern and pattern.strip("./") == "":
                raise UserError(
                    f"{path}: {key} = '{pattern}' names no clips", "such as 'LQ/{clip}'"
                )
    if "folder" in table:
        checked_place(str(table["folder"]), "folder", path)
    downloads = _sources(Download, _tables(table, "downloads", path), path)
    expect = build(Expected, table.pop("expect", {}), path)
    spec: DatasetSpec = build(
        DatasetSpec,
        {"name": name, **table},
        path,
        layouts=tuple(layouts),
        downloads=downloads,
        expect=expect,
    )
    if spec.scale < 1 or spec.border_px < 0 or spec.border_px % spec.scale:
        raise UserError(
            f"{path}: scale {spec.scale} and border_px {spec.border_px} do not fit",
            "border_px counts GT pixels and is a multiple of scale, which is at least 1",
        )
    native = [spec.native_scale, *(layout.native_scale for layout in layouts)]
    if any(n < 0 or (n and spec.scale % n) for n in native):
        raise UserError(
            f"{path}: native_scale {native} does not divide scale {spec.scale}",
            "LQ is brought down by a whole factor",
        )
    return spec


def _sources(kind: type, entries: list[dict[str, Any]], path: Path) -> tuple[Any, ...]:
    """What a file says of its downloads, each with one place to get it from. Raises UserError."""
    sources = tuple(build(kind, entry, path) for entry in entries)
    for source in sources:
        if source.file:
            checked_place(source.file, "file", path)
        if isinstance(source, Download):
            checked_place(source.to, "to", path)
        if sum(bool(getattr(source, place)) for place in PLACES) != 1:
            known = f"{', '.join(PLACES[:-1])} and {PLACES[-1]}"
            raise UserError(f"{path}: a download has not exactly one of {known}")
        if bool(source.wheel) != bool(source.member):
            raise UserError(f"{path}: wheel and member are given together", "one file of a wheel")
    return sources


def _tables(table: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    """Take an array of tables out of a TOML table. Raises UserError."""
    entries = table.pop(name, [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: {name} must be an array of tables", f"write [[{name}]]")
    return entries
