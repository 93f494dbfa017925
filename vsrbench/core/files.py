"""Files: written whole or not at all, read as TOML or JSON, hashed once while they stay."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vsrbench.core.errors import UserError
from vsrbench.core.families import read_birth
from vsrbench.core.keys import digest, sha256_file
from vsrbench.core.variables import cache_folder

_SMALL = 1 << 16
"""Bytes below which a file is always read: that takes no longer than looking it up."""
_SETTLED_NS = 2 * 10**9
"""A file that was written less than this before it was hashed is not remembered: it could be
written once more without a trace in its times."""
_MANY = 20_000
_LARGEST = 64 * 2**20
"""Bytes of a file of TOML or JSON."""
_PARTIAL = re.compile(r"(.+)\.(\d+)(?:-(\d*))?\.[0-9a-f]{8}\.partial$")
_OLD_S = 24 * 3600.0
_remembered: dict[Path, dict[str, Any]] = {}


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends well.

    Readers see the file as it was, or all of the new one. The folder is made if it is not there.
    A link stays, and what it leads to is replaced. A device or a pipe stays, and is written to.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = name_partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def name_partial(path: Path) -> Path:
    """A hidden name for what becomes `path` when it is whole; it tells who is at it."""
    owner = f"{socket.gethostname()}.{os.getpid()}-{read_birth(os.getpid())}"
    return path.with_name(f".{path.name[:40]}.{owner}.{secrets.token_hex(4)}.partial")


def shorten_name(name: str, most: int = 128) -> str:
    """A name of a file, of at most so many bytes: one that is longer ends with its digest.

    File systems take 255, and what belongs to a file has a few more than its name.
    """
    whole = os.fsencode(name)
    if len(whole) <= most:
        return name
    return f"{whole[: most - 17].decode(errors='ignore')}-{digest(name)}"


def remove_leftovers(*folders: Path) -> None:
    """Remove what processes that were killed left in folders under such names.

    Those of this host are known to be gone; of another host, what is a day old.
    """
    for folder in folders:
        for path in folder.glob(".*.partial"):
            name = _PARTIAL.search(path.name)
            if name is None:
                continue
            with suppress(OSError):
                here = name[1].endswith("." + socket.gethostname())
                birth = read_birth(int(name[2]))
                alive = bool(birth) if name[3] is None else birth == name[3]
                if not alive if here else time.time() - path.stat().st_mtime > _OLD_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises UserError if it is not there or holds no TOML."""
    table: dict[str, Any] = _read(path, "TOML", tomllib.loads)
    return table


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError if it is not there or holds no JSON."""
    return _read(path, "JSON", json.loads)


def _read(path: Path, form: str, decode: Callable[[str], Any]) -> Any:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
            raise UserError(f"{path} is not a {form} file (a pipe, a folder, or too large)")
        return decode(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid {form}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid {form} here: nested too deeply") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def recognise_page(path: Path) -> str:
    """What came instead of a file of data; empty where it may be one."""
    with path.open("rb") as file:
        head = file.read(1 << 10).lstrip().lower()
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file that it stands for"
    page = head.startswith((b"<!doctype html", b"<html")) or b"<html" in head[:200]
    return "an HTML page" if page else ""


def content(path: Path) -> str:
    """sha256 of a file's content, in hex; of a folder, a digest of names and contents below it.

    Large files are read once while path, size, times and inode stay as they are: what was found is
    kept in the cache folder. A folder is taken as `list_below` tells. Raises OSError.
    """
    if path.is_dir():
        return digest(sorted((name, content(file)) for name, file in list_below(path)))
    about = path.stat()
    if about.st_size < _SMALL:
        return sha256_file(path)
    file = cache_folder() / "hashes.json"
    known = _read_digests(file)
    state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    key = str(path.absolute())
    entry = known.get(key)
    if entry is not None and entry[:-1] == state:
        return str(entry[-1])
    started = time.time_ns()
    found = sha256_file(path)
    if max(about.st_mtime_ns, about.st_ctime_ns) < started - _SETTLED_NS:
        known[key] = [*state, found]
        _write(file, known)
    return found


def list_below(
    folder: Path, leave_out: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, Path]]:
    """(name relative to `folder`, file) of all files below it; links are followed, once each.

    Hidden files and folders, byte code and Python environments are left out, and whatever
    `leave_out` says of the relative name of a file or folder.
    """
    seen: set[Path] = set()

    def walk(here: Path, prefix: str) -> Iterator[tuple[str, Path]]:
        if here.resolve() in seen:
            return
        seen.add(here.resolve())
        for path in sorted(here.iterdir()):
            name = prefix + path.name
            if path.name.startswith(".") or path.name == "__pycache__" or leave_out(name):
                continue
            if path.is_dir():
                if not any((path / mark).exists() for mark in ("pyvenv.cfg", "conda-meta")):
                    yield from walk(path, name + "/")
            elif path.is_file() and path.suffix != ".pyc":
                yield name, path

    yield from walk(folder, "")


def _read_digests(file: Path) -> dict[str, Any]:
    """Path -> [size, mtime, ctime, inode, sha256], as read once from the cache folder."""
    if file not in _remembered:
        found: Any = None
        with suppress(UserError):
            found = read_json(file)
        fits = isinstance(found, dict) and all(
            isinstance(entry, list) and len(entry) == 5 for entry in found.values()
        )
        _remembered[file] = found if fits else {}
    return _remembered[file]


def _write(file: Path, known: dict[str, Any]) -> None:
    """Written whole or not at all; a cache that cannot be written is skipped."""
    if len(known) > _MANY:
        for key in [key for key in known if not Path(key).exists()]:
            del known[key]
    with suppress(OSError), replace_atomically(file) as partial:
        partial.write_text(json.dumps(known), encoding="utf-8")
