"""What commands share that read stored records."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.core.errors import UserError
from vsrbench.core.files import replacing
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


@contextmanager
def open_several(options: argparse.Namespace) -> Iterator[Results]:
    """The results in --results, or of all folders that were named, as `merge` takes them together.

    Raises UserError for both, MissingError for a folder without results.
    """
    from vsrbench.api import Results
    from vsrbench.results.merge import merge
    from vsrbench.results.store import Store

    if not options.folders:
        yield open_results(options)
        return
    if options.results:
        raise UserError(
            "--results and folders by name", "name all folders, or give one to --results"
        )
    with tempfile.TemporaryDirectory(prefix="vsrbench-") as folder:
        store = Store(Path(folder))
        found = merge([Store.at(path) for path in options.folders], store, frames=False)
        for line in found.conflicts:
            note(f"conflict: {line}; the first one is shown")
        yield Results(store, options.root)


def write(path: Path, text: str) -> None:
    """Write a file, and say so. Raises UserError."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "choose another file: -o"
        ) from error
    note(f"wrote {path}")
