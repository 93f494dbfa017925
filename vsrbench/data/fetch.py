"""`datasets fetch`: get a published pack whole and unchanged, or say in one line why not.

Downloads go on where they stopped, are checked against their hash where one is known, and are
unpacked beside their place first: nothing outside it is written, nothing in it is overwritten.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from vsrbench.core import download
from vsrbench.core.errors import DataError, MissingError, UserError, unknown_name
from vsrbench.core.keys import digest
from vsrbench.core.types import DatasetSpec, Download
from vsrbench.core.variables import offline
from vsrbench.data.datasets import find_layouts

DONE = ".done"


def choose_pack(spec: DatasetSpec, pack: str | None) -> list[Download]:
    """The downloads of a pack; of the first one when None. Raises UserError."""
    packs = list(dict.fromkeys(d.pack for d in spec.downloads))
    if not packs:
        raise UserError(
            f"no download is known for {spec.name}",
            f"published at {spec.source or 'a place that its spec does not name'}",
        )
    if pack is not None and pack not in packs:
        raise unknown_name(f"pack of {spec.name}", pack, packs)
    return [d for d in spec.downloads if d.pack == (pack or packs[0])]


def fetch(
    spec: DatasetSpec,
    downloads: Sequence[Download],
    root: Path,
    note: Callable[[str], None],
    keep: bool = False,
    timeout_s: float = download.TIMEOUT_S,
) -> None:
    """Download and unpack a pack into `root`.

    keep: keep the archives. timeout_s: seconds without an answer or a byte before giving up on a
    server. Raises MissingError when the source cannot be downloaded (partial downloads are kept and
    resumed), DataError for a file with the wrong content, UserError when the disk is full or a file
    is in the way.
    """
    if offline():
        raise MissingError(
            f"{spec.name} is not fetched: VSRBENCH_OFFLINE=1 forbids downloads",
            f"published at {spec.source}",
        )
    shelf = root.parent / ".downloads" / spec.name
    with _disk(shelf):
        shelf.mkdir(parents=True, exist_ok=True)
        done = {d: shelf / (digest([str(root.resolve()), asdict(d)]) + DONE) for d in downloads}
        for source in downloads:
            note(f"from {download.describe(source)}")
            if done[source].is_file():
                names = done[source].read_bytes().split(b"\0")
                if all((root / os.fsdecode(name)).exists() for name in names):
                    note("  is here already")
                    continue
            ledger = root.parent / download.LEDGER
            file = download.fetch(source, shelf, note, timeout_s, ledger)
            unpacked = _unpack(file, root, source.to, spec, note)
            done[source].write_bytes(b"\0".join(map(os.fsencode, unpacked)))
            if not keep:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        for mark in done.values():  # what is moved away later is to be fetched again
            mark.unlink()
        if not keep:
            shutil.rmtree(shelf, ignore_errors=True)
            with suppress(OSError):  # others may be on their way there
                shelf.parent.rmdir()


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    """Errors of the disk become one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write below {place}: {error.strerror or error}",
            "free some space or choose another folder; downloads so far are kept",
        ) from error


@dataclass(frozen=True)
class _Member:
    """One regular file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def _unpack(
    file: Path, root: Path, to: str, spec: DatasetSpec, note: Callable[[str], None]
) -> list[str]:
    """The content of an archive, a folder or a lone file, moved below `root` when it is whole.

    Gives the names of what is there then, seen from `root`.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".unpack-") as folder:
        inside = Path(folder)
        if file.is_dir():
            shutil.copytree(file, inside, dirs_exist_ok=True)
        elif zipfile.is_zipfile(file) or tarfile.is_tarfile(file):
            with _archive(file) as members:
                download.require_room(inside, sum(m.size for m in members))
                _extract(members, inside, file)
        else:
            shutil.copy(file, inside / file.name)
        top = _top(inside, spec)
        place = root / to if top is None else root
        top = top or inside
        entries = sorted(p for p in top.iterdir() if p.name not in ("__MACOSX", ".DS_Store"))
        for entry in entries:
            if (place / entry.name).exists():
                raise UserError(
                    f"{place / entry.name} already exists, and nothing is overwritten",
                    "move it away, or choose another folder with --to",
                )
        place.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            entry.rename(place / entry.name)
    note(f"  unpacked into {place}: {', '.join(e.name for e in entries[:6])}")
    return [str((place / entry.name).relative_to(root)) for entry in entries]


def _top(inside: Path, spec: DatasetSpec) -> Path | None:
    """The folder of an unpacked archive in which a layout fits; None where none does."""
    here = inside
    for _ in range(3):
        try:
            # The pattern {clip} fits anything, also the folder that holds all the rest.
            fits = find_layouts(spec, here)[0].layout
            if (fits.lq or fits.gt).strip("/") != "{clip}" or len(list(here.iterdir())) > 1:
                return here
        except UserError:
            pass
        folders = [p for p in here.iterdir() if p.is_dir() and p.name != "__MACOSX"]
        if len(folders) != 1 or any(p.is_file() and p.name != ".DS_Store" for p in here.iterdir()):
            return None
        here = folders[0]
    return None


@contextmanager
def _archive(file: Path) -> Iterator[list[_Member]]:
    """The regular files of a zip or tar archive. Raises DataError for anything else in it."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                yield [
                    _of_zip(archive, info, file) for info in archive.infolist() if not info.is_dir()
                ]
        else:
            with tarfile.open(file) as archive:
                yield [_of_tar(archive, info, file) for info in archive if not info.isdir()]
    except download.DAMAGED as error:
        raise DataError(f"{file} is damaged: {error}", "remove it and fetch it again") from error


def _of_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> _Member:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise _unsafe(file, info.filename, "is a link")
    if info.flag_bits & 1:
        raise DataError(f"{file}: {info.filename} is encrypted", "unpack it by hand")
    return _Member(info.filename, info.file_size, lambda: archive.open(info))


def _of_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, file: Path) -> _Member:
    if not info.isreg():
        raise _unsafe(file, info.name, "is a link or a device")

    def stream() -> IO[bytes]:
        opened = archive.extractfile(info)
        assert opened is not None  # it is a regular file
        return opened

    return _Member(info.name, info.size, stream)


def _extract(members: Sequence[_Member], inside: Path, file: Path) -> None:
    """Write all members below `inside`. Names are judged before the first byte is written."""
    targets: dict[Path, _Member] = {}
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if not path.parts:
            raise _unsafe(file, member.name, "names no file")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise _unsafe(file, member.name, "points out of its folder")
        target = inside.joinpath(*path.parts)
        if target in targets:
            raise _unsafe(file, member.name, "exists twice")
        targets[target] = member
    for target, member in targets.items():
        if not targets.keys().isdisjoint(target.parents):
            raise _unsafe(file, member.name, "lies in what is a file, too")
    for target, member in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)


def _unsafe(file: Path, name: str, what: str) -> DataError:
    return DataError(
        f"{file} is not unpacked: {name!r} {what}", "nothing was written; ask the publisher"
    )
