"""One HTML file out of a template `page.html` and what fills it; it needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vsrbench.core.errors import UserError
from vsrbench.core.files import replace_atomically


def write_page(out: Path, room: str, **values: Any) -> None:
    """Fill the template of vsrbench.show.`room`. Raises UserError when it cannot be written."""
    environment = Environment(
        loader=PackageLoader("vsrbench.show", room),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(values)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(out) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}", "choose another file: -o"
        ) from error
