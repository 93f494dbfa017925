"""One HTML file out of a template `page.html` and what fills it; it needs no network."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    page = environment.get_template("page.html").render(values).rstrip("\n").encode() + b"\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(out) as partial:
            partial.write_bytes(page + (_seal(page, made_of) if made_of else b""))
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}", "choose another file: -o"
        ) from error


def is_made_of(out: Path, made_of: str) -> bool:
    """Whether a page lies there as `write_page` wrote it, made of the same."""
    with suppress(OSError):
        page, begin, end = out.read_bytes().rpartition(_SEAL)
        return begin + end == _seal(page, made_of)
    return False


_SEAL = b"<!-- made of "


def _seal(page: bytes, made_of: str) -> bytes:
    return _SEAL + f"{made_of} {hashlib.sha256(page).hexdigest()} -->\n".encode()
