"""Data from files to typed objects: the one validator of TOML tables and JSON lines.

What is wrong is one line: file, place, what was expected.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from vsrbench.core.errors import UserError, unknown_name

T = TypeVar("T")
MOST_LETTERS = 100
"""Longest name, in characters: it becomes the name of a folder."""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, localns={"np": None, "torch": None}, include_extras=True)


def build(cls: type, table: Any, where: Path | str, **given: Any) -> Any:
    """An instance of a dataclass from a table of a file. Raises UserError for a wrong field.

    given: fields that the file does not hold.
    """
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: {shorten(table)} is not a table", "write fields as name = value")
    known = {f.name: f for f in fields(cls)}
    values = dict(given)
    for name, value in table.items():
        if name not in known or name in given:
            raise UserError(f"{where}: {unknown_name('field', str(name), set(known) - set(given))}")
        values[name] = convert(value, _hints(cls)[name], f"{where}: {name}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: field '{name}' is missing", "it has no default")
    return cls(**values)


def convert(value: Any, kind: Any, where: str) -> Any:
    """A value as the type that is asked for. Raises UserError, in which `where` comes first."""
    choices = [c for c in get_args(kind) if isinstance(c, str)]
    if choices and value not in choices:
        raise UserError(f"{where} is {shorten(value)}", f"one of: {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        text = str(error).replace("`", "")
        text, _, place = text.partition(" - at $")
        place = f" at {place.strip('.')}" if place else ""
        if match := re.fullmatch(r"Expected (.+?), got (.+)", text):
            text = f"must be {match[1]}{place}, got {shorten(value)}"
        else:
            text = f"{text[:1].lower()}{text[1:]}{place}: {shorten(value)}"
        raise UserError(f"{where} {text}") from error


def shorten(value: Any) -> str:
    """A value in a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked_name(name: Any, kind: str, where: Path | str) -> str:
    """A name that may become a folder: one plain component of a path. Raises UserError."""
    fits = isinstance(name, str) and re.fullmatch(r"[\w+-][\w.+-]*", name)
    if not fits or len(name) > MOST_LETTERS:
        raise UserError(
            f"{where}: {shorten(name)} cannot be the name of a {kind}",
            f"letters, digits, _ + - and dots inside, {MOST_LETTERS} at most",
        )
    return str(name)


def checked_place(path: str, what: str, where: Path | str) -> str:
    """A path below a folder, such as `LQ/clip`; empty stays empty. Raises UserError."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    outside = path.startswith(("/", "~", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", path)
    if path and (outside or not parts or "\0" in path or "**" in path):
        raise UserError(
            f"{where}: {what} is {shorten(path)}, which leads out of its folder",
            "write a relative path without .. and **, such as 'LQ/{clip}'",
        )
    return path
