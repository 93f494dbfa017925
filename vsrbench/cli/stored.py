"""What commands share that read stored records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.core.errors import UserError
from vsrbench.core.progress import note

if TYPE_CHECKING:
    from vsrbench.api import Results
    from vsrbench.results.store import Store


def open_store(options: argparse.Namespace) -> Store:
    """The store of --results, which need not be there yet."""
    from vsrbench.api import default_results
    from vsrbench.results.store import Store

    return Store(options.results or default_results())


def open_results(options: argparse.Namespace) -> Results:
    """The results in --results."""
    from vsrbench.api import Results

    return Results(open_store(options), options.root)


def write(path: Path, text: str) -> None:
    """Write a file, and say so. Raises UserError."""
    from vsrbench.core.files import replace_atomically

    try:
        with replace_atomically(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "choose another file: -o"
        ) from error
    note(f"wrote {path}")
