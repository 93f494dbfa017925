"""One HTML file out of a template `page.html` and what fills it; it needs no network."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from vsrbench.core.errors import UserError
from vsrbench.core.files import replace_atomically


def write_page(out: Path, room: str, made_of: str = "", **values: Any) -> None:
    """Fill the template of vsrbench.show.`room`. Raises UserError when it cannot be written.

    made_of: digest of all that it is made of; the last line keeps it for `is_made_of`.
    """
    environment = Environment(
        loader=PackageLoader("vsrbench.show", room),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = lambda value: msgspec.json.encode(value).decode()
    environment.policies["json.dumps_kwargs"] = {}
    page = environment.get_template("page.html").render(values).rstrip("\n").encode() + b"\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if made_of:
            write_sealed(out, page, made_of)
        else:
            with replace_atomically(out) as partial:
                partial.write_bytes(page)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}", "choose another file: -o"
        ) from error


def is_made_of(out: Path, made_of: str) -> bool:
    """Whether a page lies there as `write_page` wrote it, made of the same."""
    return read_sealed(out, made_of) is not None


def write_sealed(out: Path, data: bytes, made_of: str) -> None:
    """Write data and a last line that tells what it is made of, and whether it is whole."""
    with replace_atomically(out) as partial:
        partial.write_bytes(data + _seal(data, made_of))


def read_sealed(out: Path, made_of: str) -> bytes | None:
    """The data before that line, if it lies there as it was written, made of the same."""
    with suppress(OSError):
        data, begin, end = out.read_bytes().rpartition(_SEAL)
        return data if begin + end == _seal(data, made_of) else None
    return None


_SEAL = b"<!-- made of "


def _seal(page: bytes, made_of: str) -> bytes:
    return _SEAL + f"{made_of} {hashlib.sha256(page).hexdigest()} -->\n".encode()
