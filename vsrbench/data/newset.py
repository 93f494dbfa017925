"""`datasets add` and `datasets degrade`: new datasets from a folder, or from GT and a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vsrbench.cards.specs import dataset_files, dataset_spec
from vsrbench.core.errors import DataError, MissingError, UserError, unknown_name
from vsrbench.core.files import replace_atomically
from vsrbench.core.keys import digest
from vsrbench.core.types import DatasetSpec
from vsrbench.data import frames, second_order
from vsrbench.data.datasets import (
    clips_below,
    explain_missing,
    find_layouts,
    open_source,
    root_of,
    safe_name,
)
from vsrbench.data.degrade import RECIPES

SIDES = {"lq": ("LQ", "lq", "lr", "LR", "input", "Input"), "gt": ("GT", "gt", "hr", "HR", "target")}
"""Folder names that say which side of a dataset they hold."""


def recipe_versions() -> dict[str, int]:
    """Recipe -> version."""
    return {second_order.NAME: second_order.VERSION} | {r.name: r.version for r in RECIPES.values()}


def add(
    root: Path, name: str, folder: Path, lq: str | None, gt: str | None, scale: int | None
) -> tuple[Path, DatasetSpec]:
    """Write datasets/<name>.toml for the clips below `folder`.

    lq, gt: patterns below `folder`; None to look for folders named LQ and GT, else the clips lie in
    `folder` itself. scale: None to follow from the sizes of LQ and GT, 4 without GT. Raises
    UserError, MissingError, DataError.
    """
    _check_is_free(root, name)
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}", "name the folder that holds the clips")
    if lq is None and gt is None:
        sides = {
            side: next((f"{n}/{{clip}}" for n in names if (folder / n).is_dir()), None)
            for side, names in SIDES.items()
        }
        lq, gt = sides["lq"], sides["gt"]
        if lq is None and gt is None:
            clips = clips_below(folder)
            if list(clips.values()) == [folder]:
                raise UserError(
                    f"{folder} holds the frames of one clip",
                    "a dataset is a folder of clips; for one clip: --input",
                )
            lq = "{clip}"
    path = root / "datasets" / f"{name}.toml"
    _write(path, folder, lq or "", gt or "", scale or 4)
    try:
        written = dataset_spec(root, name)
        here = find_layouts(written, folder)[0]
        if scale is None and here.lq and here.gt:
            both = sorted(set(here.lq) & set(here.gt))
            if not both:
                raise DataError(f"no LQ clip of {folder} has the name of a GT clip")
            low, high = (open_source(side[both[0]]).size for side in (here.lq, here.gt))
            found = high[0] // low[0] if low[0] <= high[0] else 0
            if not found:
                raise DataError(
                    f"clip '{both[0]}': LQ {low[1]}x{low[0]} is larger than GT {high[1]}x{high[0]}",
                    "are the two swapped? say --lq PATTERN --gt PATTERN",
                )
            _write(path, folder, lq or "", gt or "", found)
        return path, dataset_spec(root, name)
    except UserError:
        path.unlink()
        raise


def _check_is_free(root: Path, name: str) -> None:
    """Raise UserError unless a spec of this name can be written."""
    if name != safe_name(name) or not name:
        raise UserError(f"'{name}' cannot be the name of a dataset", "use letters, digits, - and _")
    if name in dataset_files(root):
        raise UserError(
            f"there is already a dataset named '{name}'", f"remove datasets/{name}.toml"
        )


def _fields(**values: str | int) -> list[str]:
    """Lines of TOML; JSON strings and numbers are TOML."""
    return [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()]


def _write(path: Path, folder: Path, lq: str, gt: str, scale: int) -> None:
    kind = "synthetic" if gt else "real"
    sides = {side: pattern for side, pattern in (("lq", lq), ("gt", gt)) if pattern}
    where = str(folder.resolve())
    lines = _fields(version=1, title=path.stem, kind=kind, scale=scale, root=where, **sides)
    with replace_atomically(path) as partial:  # a root of one's own may lack the folder
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def degrade_set(
    root: Path, spec: DatasetSpec, recipe: str, seed: int, note: Callable[[str], None]
) -> tuple[str, Path]:
    """(name of the new dataset, folder of its LQ): all GT clips of a dataset through a recipe.

    The name ends with a hash of the LQ, so that no two datasets of different pixels share one. LQ
    appears under its name when it is whole. Raises UserError, MissingError, DataError.
    """
    if recipe not in recipe_versions():
        raise unknown_name("recipe", recipe, recipe_versions())
    reason = explain_missing(spec)
    if reason:
        raise reason
    place = root_of(spec)
    if spec.kind == "embedded" or place is None:
        raise UserError(f"{spec.name} is rendered here with its LQ", "name a dataset on disk")
    here = next((h for h in find_layouts(spec, place) if h.gt), None)
    if here is None:
        raise MissingError(f"{spec.name} has no GT in {place}", "there is nothing to degrade")
    label = f"{recipe}-v{recipe_versions()[recipe]}-s{seed}"
    out = place / f"LQ-{label}"
    hashes = {}
    for i, (clip, path) in enumerate(sorted(here.gt.items()), start=1):
        if (out / clip).is_dir():
            note(f"[{i}/{len(here.gt)}] {clip}: already exists")
        else:
            note(f"[{i}/{len(here.gt)}] {clip}")
            source = open_source(path)
            count = 0
            with frames.FrameWriter(out / clip) as writer:
                # A seed for each clip, whatever the order and number of the others.
                own = int(digest([seed, clip]), 16)
                for frame in second_order.degrade_by_recipe(source, spec.scale, recipe, own):
                    writer.write(frame)
                    count += 1
                if count != len(source):
                    raise DataError(
                        f"clip '{clip}': the codec returned {count} of {len(source)} frames"
                    )
        hashes[clip] = frames.digest(open_source(out / clip))
    name = f"{spec.name}-{label}-{digest(hashes)[:8]}"
    if name not in dataset_files(root):
        layout = {"name": label, "lq": f"{out.name}/{{clip}}", "gt": here.layout.gt}
        lines = [
            *_fields(
                version=1,
                base=spec.name,
                title=f"{spec.title} ({label})",
                kind="synthetic",
                root=str(place.resolve()),
                source=f"GT of {spec.title}; LQ by the recipe {label} of vsrbench",
            ),
            "downloads = []",
            "",
            "[[layouts]]",
            *_fields(**layout),
            f"subset = {str(here.layout.subset).lower()}",
        ]
        text = "\n".join(lines) + "\n"
        path = root / "datasets" / f"{name}.toml"
        with replace_atomically(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return name, out
