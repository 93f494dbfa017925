"""The code of an adapter as part of a result's identity. Reads source, imports nothing.

What counts is the module that a card names as its entry, the modules of its own package and of its
own folder that it imports, directly or through one another, and what they name: files and folders
beside them, and checkpoints. `methods` is that package for a card; for another entry it is the one
that the entry's name begins with, or the folder of a module that lies in none. What the card itself
names counts, too: files in its settings, and those of its weights beside the one that is hashed as
such.

Environment variables that the code reads by names that are written out count with their values, or
with the content of the file that a value names; but for those that say where and how a machine
works (PATH, RANK, CUDA_VISIBLE_DEVICES, ...), and for folders.

Names are read where they are written out. What is named too much costs a run; what code puts
together in other ways (a name from a network, say) is what `version` of the card is for.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from vsrbench.cards.specs import ROOT
from vsrbench.cards.weights import SUFFIXES, search
from vsrbench.core.files import content, list_below
from vsrbench.core.keys import digest
from vsrbench.core.types import MethodCard

_INSTALLED = {"site-packages", "dist-packages"}
_VARIABLE = re.compile(
    rb"""environ\s*(?:\.get\s*\(\s*["'](\w+)["']|\[\s*["'](\w+)["']\s*\](?!\s*=[^=]))"""
    rb"""|getenv\s*\(\s*["'](\w+)["']"""
)
"""Where code reads one; what it sets itself is known by the code."""
_OF_MACHINES = re.compile(
    r"(LD_LIBRARY_|PYTHON)?PATH|(VSRBENCH|SLURM|XDG|RAY)_\w+|(\w+_)?(HOME|DIR|CACHE|ROOT|RANK"
    r"|WORLD_SIZE|NUM_THREADS|VISIBLE_DEVICES|PORT|ADDR|TOKEN|USER|HOST|HOSTNAME)"
)
"""Variables that say where and how a machine works."""
_CHANGING = (("proc",), ("sys",), ("dev",))
"""Folders of the system whose files say something else every time."""


def digest_code(card: MethodCard) -> str:
    """Digest of a card's entry and of the code behind it, or of the `program` beside it.

    Empty where there is neither.
    A module that cannot be found or parsed counts by what is there: to say so is the matter of
    whoever imports it.
    """
    if card.kind == "frames" or (card.kind == "command" and "program" not in card.settings):
        return ""
    more = [[_label(p, Path(card.folder)), content(p)] for p in sorted(_of_card(card))]
    place = _place(card, card.entry.partition(":")[0])
    return _digest(card.entry, place, *([more] if more and place else []))


def digest_entry(entry: str) -> str:
    """Digest of `MODULE:NAME` in a package that is installed, and of the code behind it."""
    return _digest(entry, _elsewhere(entry.partition(":")[0].removeprefix("vsrbench.")))


def _digest(entry: str, place: _Place | None, *more: object) -> str:
    if place is None:
        return digest([entry])
    module, _, name = entry.partition(":")
    files = sorted(_collect_files(place))
    found = [[_label(p, place.top), content(p)] for p in files]
    variables = _read_variables(files)
    return digest([module, name, found, *more, *([variables] if variables else [])])


def _read_variables(files: Iterable[Path]) -> list[list[str]]:
    """[name, value] of the variables that are set and that these files read."""
    sources = (path.read_bytes() for path in files if path.suffix == ".py")
    reads = (groups for source in sources for groups in _VARIABLE.findall(source))
    names = {b"".join(groups).decode() for groups in reads}
    found = []
    for name in sorted(names & set(os.environ)):
        value = os.environ[name]
        # os.path, since a Path raises for what is too long to be one.
        if _OF_MACHINES.fullmatch(name) or (os.path.isdir(value) and os.path.isabs(value)):  # noqa: PTH112, PTH117
            continue
        if os.path.isfile(value):  # noqa: PTH113
            with suppress(OSError):
                value = content(Path(value))
        found.append([name, value])
    return found


def list_files(card: MethodCard) -> set[Path]:
    """The files that `digest_code` is a digest of."""
    place = _place(card, card.entry.partition(":")[0])
    return _collect_files(place) if place else set()


def root_of(card: MethodCard, module: str) -> Path:
    """The folder that holds the `methods` which an entry `methods.folder.module` is of.

    That is the root of the card, or where the methods that ship lie, for what that root lacks.
    """
    # Not of what a linked folder points to.
    own = Path(os.path.abspath(card.folder)).parents[1].resolve() if card.folder else ROOT  # noqa: PTH100
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
    module = module.removeprefix("vsrbench.")
    first, _, rest = module.partition(".")
    if first == "methods":
        top = (root_of(card, f"methods.{rest}") / "methods").resolve()
        file = _file(top.joinpath(*rest.split(".")))
        return _Place(file, top, ("methods", "vsrbench.methods")) if file else None
    return _elsewhere(module)


def _elsewhere(module: str) -> _Place | None:
    """A module of a package that Python finds."""
    first, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():  # a namespace has several, and no origin
        top = Path(folder).resolve()
        if file := _file(top.joinpath(*(rest or "__init__").split("."))):
            return _Place(file, top, (first,))
    if spec.submodule_search_locations or spec.origin is None or not Path(spec.origin).is_file():
        return None
    origin = Path(spec.origin).resolve()
    return _Place(origin, origin.parent, ("",))


def _file(path: Path) -> Path | None:
    """The file of a module, given its path without a suffix."""
    kinds = (".py", "/__init__.py", *EXTENSION_SUFFIXES)
    return next((p for p in (Path(f"{path}{kind}") for kind in kinds) if p.is_file()), None)


def _label(path: Path, top: Path) -> str:
    """What a file is called, wherever `top` lies."""
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name


def _of_card(card: MethodCard) -> set[Path]:
    """What a card names beside its code and its weights file."""
    if card.kind != "python" or not card.folder:
        return set()
    # What a file is converted from says nothing more than the file itself.
    sources = () if card.weights.convert else card.weights.sources
    names = {source.name for source in sources} | set(_texts(dict(card.settings)))
    found = {path for name in names for path in _spoken(name, Path(card.folder), True)}
    return found - {search(card.weights.file, Path(card.folder))}


def _texts(value: object) -> Iterator[str]:
    """The texts in a table."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _collect_files(place: _Place) -> set[Path]:
    """All files that belong to the code of a module."""
    found: set[Path] = set()
    waiting = [place.file]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".py":
            waiting += _find_named(path, place)
    return found


def _find_named(path: Path, place: _Place) -> Iterator[Path]:
    """The own modules that a module imports, their packages, and the files that it names."""
    here = path.parent
    while here != place.top and here.is_relative_to(place.top):
        if (here / "__init__.py").is_file():
            yield here / "__init__.py"
        here = here.parent
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    imports = b"import_module" in source or b"__import__" in source
    installed = bool(_INSTALLED & set(place.top.parts))
    folders = path.parent != place.top or place.names == ("",)  # `methods` has one for each method
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
            yield from _spoken_module(place, path, node.value, imports)
            if not installed:
                yield from _spoken(node.value, path.parent, folders)
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "*" for p in node.values)
            text = "".join(map(str, parts))
            yield from _spoken_module(place, path, text.removesuffix("*"), imports)
            if not installed:
                yield from _spoken(text, path.parent, False)


def _spoken(name: str, here: Path, folders: bool) -> Iterator[Path]:
    """The files that a text stands for in code that lies `here`: by name, by pattern, in a folder.

    Checkpoints are looked for where those of cards are.
    """
    if not re.search(r"\w", name) or len(name) > 200 or "\n" in name:
        return
    with suppress(OSError, ValueError, NotImplementedError):  # text that is no name
        path = Path(os.path.normpath(here / name))
        if path.is_file():
            found = [path]
        elif folders and path.is_dir() and path != here and path.is_relative_to(here):
            found = [file for _, file in list_below(path)]
        elif "*" in name and re.search(r"\w", name.replace("*", "")):
            found = [file for file in here.glob(name) if file.is_file()]
        else:
            weights = search(path.name, here) if path.suffix.lower() in SUFFIXES else None
            found = [weights] if weights else []
        yield from (p for p in found if os.access(p, os.R_OK) and p.parts[1:2] not in _CHANGING)


def _spoken_module(place: _Place, path: Path, text: str, imports: bool) -> Iterator[Path]:
    """What a text stands for as the name of a module.

    imports: the code imports by name, so that a text may be any module, or the beginning of a name,
    which stands for a whole package.
    """
    name = text.lstrip(".")
    parts, level = name.rstrip(".").split("."), len(text) - len(name)
    if imports and text.endswith("."):
        parts = [*filter(None, parts), "*"]
    if imports or len(parts) > 1:
        yield from _modules(place, path, parts, level)


def _modules(place: _Place, path: Path, parts: list[str], level: int) -> Iterator[Path]:
    """The files of a module, if it is of the own package or lies beside the one that names it."""
    names = parts[:-1] if parts[-1:] == ["*"] else parts
    if not parts or not all(part.isidentifier() for part in names):
        return
    here, installed = path.parent, bool(_INSTALLED & set(place.top.parts))
    if level:
        for _ in range(level - 1):
            here = here.parent
        found = [here.joinpath(*parts)] if here.is_relative_to(place.top) else []
    else:
        found = [here.joinpath(*parts)] if here.name not in _INSTALLED else []
        name = ".".join(parts)
        for own in place.names:
            if own and name.startswith(f"{own}."):
                found.append(place.top.joinpath(*name.removeprefix(f"{own}.").split(".")))
            elif not own and not installed:
                found.append(place.top.joinpath(*parts))
    for module in found:
        if module.name == "*":
            yield from module.parent.glob("*.py") if len(parts) > 1 or level else ()
        elif file := _file(module):
            yield file
