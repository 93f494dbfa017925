"""Pages that are partly written by hand and partly made from data."""

from __future__ import annotations

from pathlib import Path

from vsrbench.core.errors import MissingError


def fill(text: str, name: str, content: str, where: Path) -> str:
    """`text` with `content` between `<!-- name -->` and `<!-- /name -->`. Raises MissingError."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise MissingError(f"{where} lacks {begin} or {end}", "write both where the part belongs")
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"
