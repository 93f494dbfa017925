"""The code of an adapter as part of a result's identity. Reads source, imports nothing.

What counts is the module that a card names as its entry, the modules of its own package that it
imports, directly or through one another, and the files beside them that they name. `methods` is
that package for a card; for another entry it is the one that the entry's name begins with, or the
folder of a module that lies in none.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vsrbench.cards.specs import ROOT
from vsrbench.core.files import content
from vsrbench.core.keys import digest
from vsrbench.core.types import MethodCard

_INSTALLED = {"site-packages", "dist-packages"}


def code(card: MethodCard) -> str:
    """Digest of a card's entry and of the code behind it, or of the `program` beside it.

    Empty where there is neither.
    A module that cannot be found or parsed counts by what is there: to say so is the matter of
    whoever imports it.
    """
    if card.kind == "frames" or (card.kind == "command" and "program" not in card.settings):
        return ""
    module, _, function = card.entry.partition(":")
    place = _place(card, module)
    if place is None:
        return digest([card.entry])
    found = [[p.relative_to(place.top).as_posix(), content(p)] for p in sorted(_closure(place))]
    return digest([module, function, found])


def files(card: MethodCard) -> set[Path]:
    """The files that `code` is a digest of."""
    place = _place(card, card.entry.partition(":")[0])
    return _closure(place) if place else set()


def root_of(card: MethodCard, module: str) -> Path:
    """The folder that holds the `methods` which an entry `methods.folder.module` is of.

    That is the root of the card, or where the methods that ship lie, for what that root lacks.
    """
    own = Path(card.folder).resolve().parents[1] if card.folder else ROOT
    folder = module.split(".")[1] if module.count(".") else ""
    return own if folder and (own / "methods" / folder).exists() else ROOT


@dataclass(frozen=True)
class _Place:
    """A module on disk and the package that counts as its own."""

    file: Path
    top: Path
    """Folder below which modules are its own."""
    names: tuple[str, ...]
    """Absolute names of `top` as a package; empty string where it is a folder of modules."""


def _place(card: MethodCard, module: str) -> _Place | None:
    if card.kind == "command":
        program = Path(card.folder, str(card.settings.get("program", ""))).resolve()
        return _Place(program, program.parent, ("",)) if program.is_file() else None
    first, _, rest = module.removeprefix("vsrbench.").partition(".")
    if first == "methods":
        top = (root_of(card, f"methods.{rest}") / "methods").resolve()
        file = _file(top, rest.split("."))
        return _Place(file, top, ("methods", "vsrbench.methods")) if file else None
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    origin = Path(spec.origin).resolve()
    if spec.submodule_search_locations:
        file = _file(origin.parent, rest.split(".")) if rest else origin
        return _Place(file, origin.parent, (first,)) if file else None
    return _Place(origin, origin.parent, ("",))


def _file(top: Path, parts: list[str]) -> Path | None:
    """The source of a module, given by the parts of its name below `top`."""
    if not all(parts):
        return None
    path = top.joinpath(*parts)
    both = path.with_name(path.name + ".py"), path / "__init__.py"
    return next((p for p in both if p.is_file()), None)


def _closure(place: _Place) -> set[Path]:
    """All files that belong to the code of a module."""
    found: set[Path] = set()
    waiting = [place.file]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".py":
            waiting += _named(path, place)
    return found


def _named(path: Path, place: _Place) -> Iterator[Path]:
    """The own modules that a module imports, their packages, and the files that it names."""
    here = path.parent
    while here != place.top and here.is_relative_to(place.top):
        if (here / "__init__.py").is_file():
            yield here / "__init__.py"
        here = here.parent
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    installed = bool(_INSTALLED & set(place.top.parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(place, path, alias.name.split("."), 0)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            yield from _modules(place, path, base, node.level)
            for alias in node.names:
                yield from _modules(place, path, [*base, alias.name], node.level)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if "." in name and len(name) < 200:
                yield from _modules(place, path, name.split("."), 0)
                with suppress(OSError, ValueError):  # text that is no name
                    file = Path(os.path.normpath(path.parent / name))
                    if not installed and file.is_file() and file.is_relative_to(place.top):
                        yield file


def _modules(place: _Place, path: Path, parts: list[str], level: int) -> Iterator[Path]:
    """The file of a module, if it is of the own package."""
    if level:
        base = path.parent
        for _ in range(level - 1):
            base = base.parent
        if not base.is_relative_to(place.top) or not parts:
            return
        below = [*base.relative_to(place.top).parts, *parts]
    else:
        name = ".".join(parts)
        for own in place.names:
            if own == "" and not _INSTALLED & set(place.top.parts):
                below = parts
                break
            if own and name.startswith(f"{own}."):
                below = name.removeprefix(f"{own}.").split(".")
                break
        else:
            return
    if all(part.isidentifier() for part in below) and (file := _file(place.top, below)):
        yield file
