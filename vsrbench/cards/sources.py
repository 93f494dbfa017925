"""Getting weights: what methods and metrics need, where it lies, and fetching it once.

Files of the user win: what is found in a method's folder or in $VSRBENCH_WEIGHTS is never fetched.
All else goes into one folder, beside a note of what each file's sha256 was when it came and of the
licences that were accepted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsrbench.cards.weights import search
from vsrbench.core import download
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.files import content, read_json, replace_atomically
from vsrbench.core.types import MethodCard, Source
from vsrbench.core.variables import (
    FETCHED,
    OFFLINE,
    WEIGHTS,
    fetch_limit_mb,
    fetched_folder,
    offline,
    weights_folders,
)
from vsrbench.core.wheels import KEPT

PERMISSIVE = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD-2-Clause-Patent", "Apache-2.0", "CC0-1.0")
"""Licences that place no condition on running a network: shown, but need no acceptance.

`Apache-2.0 (repository)` is none of them: that of the code, and nobody said it of the weights.
"""
NOTES = "fetched.json"


@dataclass(frozen=True)
class Need:
    """One file that a method or a metric needs, and the sources that have it."""

    owner: str
    """Name of the method or metric."""
    name: str
    """Name of the file."""
    sources: tuple[Source, ...]
    """Alternatives, in the order in which they are tried."""
    licence: str = ""
    """Licence of the file."""
    folders: tuple[Path, ...] = ()
    """Where it is looked for before all other places."""
    also: tuple[str, ...] = ()
    """Names of other files that can take its place."""

    place: Path | None = None
    """Where it is fetched to; None for the folder of all fetched weights."""

    @property
    def size(self) -> int:
        """Bytes to download from the first source; 0 when unknown."""
        return self.sources[0].size

    def locate(self) -> Path | None:
        """Where the file is; None when it is nowhere."""
        first = self.sources[0]
        if first.hub and ":" not in first.hub:  # a folder, in which all that is wanted is there
            shelves = (*self.folders, *weights_folders(), fetched_folder())
            for folder in (shelf / self.name for shelf in shelves):
                if all(any(folder.glob(pattern)) for pattern in first.include or ("*",)):
                    return folder
            return None
        places = (search(name, *self.folders) for name in (self.name, *self.also))
        return next((path for path in places if path), None)

    def is_free(self) -> bool:
        """Whether its licence needs no acceptance, or has it."""
        return self.licence in PERMISSIVE or self.licence in _notes()["licences"]

    def is_small(self) -> bool:
        """Whether it is fetched without being asked for. Raises UserError for a wrong limit."""
        return 0 < self.size <= fetch_limit_mb() * 1e6


def list_needs(
    owner: str,
    sources: Sequence[Source],
    licence: str,
    folders: Iterable[Path] = (),
    place: Path | None = None,
) -> list[Need]:
    """The files that sources hold, each with its alternatives."""
    files: dict[str, list[Source]] = {}
    for source in sources:
        files.setdefault(source.name, []).append(source)
    return [
        Need(owner, name, tuple(same), same[0].licence or licence, tuple(folders), place=place)
        for name, same in files.items()
    ]


def needs_of_card(card: MethodCard, checkout: Path | None = None) -> list[Need]:
    """The files that the sources of a card hold.

    checkout: of a method in an environment of its own; its files go where its card says in there.
    """
    place = checkout / card.environment.weights_to if checkout and card.environment else None
    folders = [place] if place else [Path(card.folder)]
    return list_needs(card.name, card.weights.sources, card.weights.licence, folders, place)


def fetch(
    wanted: Sequence[Need],
    note: Callable[[str], None],
    timeout_s: float = download.TIMEOUT_S,
) -> list[Path]:
    """The files, fetched where they are not here yet; in the order of `wanted`.

    timeout_s: seconds without an answer after which a server is given up. Raises MissingError when
    none of a file's sources answers or downloads are forbidden, DataError when a file is not what
    it should be, UserError when the disk is full or its licence is not accepted.
    """
    paths = []
    try:
        for need in wanted:
            path = need.locate()
            if path is None:
                path = _fetch(need, need.place or fetched_folder(), note, timeout_s)
            paths.append(path)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or 'weights'}: {error.strerror or error}",
            f"free some space or choose another folder: ${FETCHED}; downloads so far are kept",
        ) from error
    finally:
        for place in {need.place or fetched_folder() for need in wanted}:
            shutil.rmtree(place / KEPT, ignore_errors=True)
    return paths


def _fetch(need: Need, folder: Path, note: Callable[[str], None], timeout_s: float) -> Path:
    """One file that is not here, from the first source that has it."""
    if offline():
        raise MissingError(
            f"{need.owner} needs {need.name}, and {OFFLINE}=1 forbids the download",
            explain_by_hand(need),
        )
    if not need.is_free():
        raise UserError(
            f"the licence of {need.name} is not accepted yet: {need.licence or 'none stated'}",
            f"vsrbench weights fetch --for {need.owner} --accept-licence",
        )
    failures: list[UserError] = []
    for source in need.sources:
        size = f", {download.mib(source.size)}" if source.size else ""
        note(f"{need.name} from {download.describe(source)}{size}, {need.licence}")
        try:
            path = download.fetch(source, folder, note, timeout_s)
        except (MissingError, DataError) as error:
            failures.append(error)
            continue
        if path.is_file():
            remember(path)
        return path
    first = failures[0]
    kind = type(first) if len(failures) == 1 else MissingError
    hint = explain_by_hand(need)
    if (folder / (need.name + download.PARTIAL)).exists():
        hint = f"the partial download is kept, and the same command resumes it; or {hint}"
    raise kind("; ".join(f.message for f in failures), hint) from first


def explain_by_hand(need: Need) -> str:
    """What to do when a file cannot be fetched."""
    origin = download.describe(need.sources[0])
    return f"get it from {origin} and put it into a folder named in ${WEIGHTS}"


def describe(need: Need) -> str:
    """Where a file comes from first, how large that is, and its licence, in words."""
    size = f"{need.size / 1e6:,.1f} MB" if need.size else "size unknown"
    origin = download.describe(need.sources[0])
    return f"{origin}, {size}, {need.licence or 'no licence stated'}"


def find_missing(wanted: Iterable[Need]) -> list[Need]:
    """Those whose file is nowhere."""
    return [need for need in wanted if need.locate() is None]


def provide(wanted: Iterable[Need], note: Callable[[str], None], timeout_s: float) -> None:
    """Fetch what is small and free; print a line for each other file with the command for it.

    A failed download is a line, too; the only error raised is for a wrong limit.
    """
    for need in [] if offline() else find_missing(wanted):
        if need.is_small() and need.is_free():
            try:
                fetch([need], note, timeout_s)
            except UserError as error:
                note(f"{need.owner}: {error.message}")
        else:
            size = f"{need.size / 1e6:,.0f} MB" if need.size else "size unknown"
            note(
                f"{need.owner} needs {need.name} ({size}, {need.licence or 'no licence stated'}): "
                f"vsrbench weights fetch --for {need.owner}"
            )


def _notes() -> dict[str, Any]:
    """{files: {name: sha256}, licences: [accepted]} of the folder of fetched weights."""
    with suppress(UserError, ValueError, TypeError):
        held = read_json(fetched_folder() / NOTES)
        if isinstance(held, dict):
            return {"files": dict(held.get("files", {})), "licences": [*held.get("licences", ())]}
    return {"files": {}, "licences": []}


def _write(notes: dict[str, Any]) -> None:
    with replace_atomically(fetched_folder() / NOTES) as partial:
        partial.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def accept(licence: str) -> None:
    """Remember that a licence was accepted."""
    notes = _notes()
    if licence not in notes["licences"]:
        _write({**notes, "licences": sorted([*notes["licences"], licence])})


def remember(path: Path) -> None:
    """Keep the sha256 of a file as it came. Raises DataError when it came otherwise before."""
    notes, found = _notes(), content(path)
    before = notes["files"].get(path.name, found)
    if before != found:
        other = path.with_name(path.name + ".other")
        path.replace(other)
        raise DataError(
            f"{path.name} is not what it was when it first came: sha256 {found[:16]}..., then "
            f"{before[:16]}...",
            f"kept as {other}; if the change is meant, remove the line from {NOTES} beside it",
        )
    notes["files"][path.name] = found
    _write(notes)


def find_problem(need: Need, path: Path) -> str:
    """What is wrong with a file that is here; empty if nothing is known to be."""
    expected = next((s.sha256 for s in need.sources if s.sha256), "")
    expected = expected or (_notes()["files"].get(path.name, "") if _is_ours(path) else "")
    found = content(path)
    if not expected or found.startswith(expected):
        return ""
    return f"sha256 {found[:16]}..., expected {expected[:16]}..."


def _is_ours(path: Path) -> bool:
    return path.parent == fetched_folder()
