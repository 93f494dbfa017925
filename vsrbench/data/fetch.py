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
from typing import IO, TYPE_CHECKING, Any

from vsrbench.core.errors import DataError, MissingError, UserError, unknown
from vsrbench.core.keys import digest, sha256_file
from vsrbench.core.types import DatasetSpec, Download
from vsrbench.data.datasets import find_layouts

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 20.0  # without an answer, or without a byte
SPARE = 64 << 20  # bytes that are left free on the disk
BLOCK = 1 << 16  # bytes; what has come of a block is lost when the line breaks
PARTIAL = ".partial"
DONE = ".done"


def chosen_pack(spec: DatasetSpec, pack: str | None) -> list[Download]:
    """The downloads of a pack; of the first one when None. Raises UserError."""
    packs = list(dict.fromkeys(d.pack for d in spec.downloads))
    if not packs:
        raise UserError(
            f"no download is known for {spec.name}",
            f"published at {spec.source or 'a place that its spec does not name'}",
        )
    if pack is not None and pack not in packs:
        raise unknown(f"pack of {spec.name}", pack, packs)
    return [d for d in spec.downloads if d.pack == (pack or packs[0])]


def source_of(download: Download) -> str:
    """Where a download comes from, in words."""
    if download.drive:
        return f"Google Drive file {download.drive}"
    return f"Hugging Face {download.hub}" if download.hub else download.url


def fetch(
    spec: DatasetSpec,
    downloads: Sequence[Download],
    root: Path,
    note: Callable[[str], None],
    keep: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Download and unpack a pack into `root`.

    keep: leave the archives beside it. timeout_s: seconds without an answer or a byte after which
    a server is given up. Raises MissingError when the source cannot be had (what came stays, and
    the same call goes on from there), DataError for a file that is not what it should be, UserError
    when there is no room or something is in the way.
    """
    if os.environ.get("VSRBENCH_OFFLINE") == "1":
        raise MissingError(
            f"{spec.name} is not fetched: VSRBENCH_OFFLINE=1 forbids downloads",
            f"published at {spec.source}",
        )
    shelf = root.parent / ".downloads" / spec.name
    with _disk(shelf):
        shelf.mkdir(parents=True, exist_ok=True)
        done = {d: shelf / (digest([str(root.resolve()), asdict(d)]) + DONE) for d in downloads}
        for download in downloads:
            note(f"from {source_of(download)}")
            if done[download].is_file():
                names = done[download].read_text(encoding="utf-8").splitlines()
                if all((root / name).exists() for name in names):
                    note("  is here already")
                    continue
            file = _Transfer(download, shelf, note, timeout_s).run()
            names = _unpack(file, root, download.to, spec, note)
            done[download].write_text("\n".join(names) + "\n", encoding="utf-8")
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
            "free some space or choose another folder; what has come is kept",
        ) from error


@dataclass(frozen=True)
class _Transfer:
    """One file on its way to the shelf."""

    download: Download
    shelf: Path
    note: Callable[[str], None]
    timeout_s: float

    def run(self) -> Path:
        """The file, whole; or the folder of a whole Hub repository."""
        try:
            if self.download.url:
                return self._url()
            return self._checked(self._drive() if self.download.drive else self._hub())
        except ImportError as error:
            package = (error.name or "").partition(".")[0]
            raise MissingError(
                f"fetching from {source_of(self.download)} needs the package {package}",
                "pip install 'vsrbench[fetch]'",
            ) from error

    def _failed(self, error: Exception) -> MissingError:
        """What a library says, in one line."""
        text = " ".join(str(error).split())[:300] or type(error).__name__
        return MissingError(
            f"{source_of(self.download)} cannot be had: {text}",
            "what has come is kept; the same command goes on from there",
        )

    def _url(self) -> Path:
        import pooch

        url = self.download.url
        name = _url_name(self.download)
        pooch.get_logger().setLevel("WARNING")
        known = f"sha256:{self.download.sha256}" if self.download.sha256 else None
        try:
            return Path(
                pooch.retrieve(url, known, fname=name, path=self.shelf, downloader=self._resume)
            )
        except ValueError as error:
            raise self._wrong_hash(name) from error

    def _wrong_hash(self, name: str) -> DataError:
        return DataError(
            f"{name} from {source_of(self.download)} is not the file of the spec: its sha256 does "
            f"not begin with {self.download.sha256[:16]}",
            "it was damaged or replaced: try again, and if it stays so, look at the source before "
            "you change sha256 in the spec",
        )

    def _resume(self, url: str, output: str, pooch: object) -> None:
        """Pooch's downloader: get what an earlier call left out, if it is still the same file."""
        import requests

        part = self.shelf / (_url_name(self.download) + PARTIAL)
        tag = part.with_name(part.name + ".etag")
        have = part.stat().st_size if part.is_file() and tag.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
        try:
            with requests.get(
                url, headers=headers, stream=True, timeout=(self.timeout_s, self.timeout_s)
            ) as answer:
                if answer.status_code == 416:  # what is here is as long as the file, or longer
                    part.unlink()
                    self._resume(url, output, pooch)
                    return
                answer.raise_for_status()
                self._receive(answer, part, tag, have if answer.status_code == 206 else 0)
        except requests.exceptions.RequestException as error:
            raise self._failed(error) from error
        part.replace(output)
        tag.unlink(missing_ok=True)

    def _receive(self, answer: requests.Response, part: Path, tag: Path, have: int) -> None:
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        self.room(total - have)
        # Only a strong tag or a date tells that the rest belongs to the same file.
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if mark and not mark.startswith("W/"):
            tag.write_text(mark)
        if have:
            self.note(f"  goes on from {_mib(have)}")
        with Bar(total, have) as bar, part.open("ab" if have else "wb") as out:
            for block in answer.iter_content(BLOCK):
                out.write(block)
                bar.advance(len(block))
        got = part.stat().st_size
        if total and got != total:
            raise MissingError(
                f"{answer.url}: the connection broke off after {_mib(got)} of {_mib(total)}",
                "the same command goes on from there",
            )

    def room(self, size: int) -> None:
        """Raise UserError unless `size` more bytes fit on the disk."""
        _room(self.shelf, size)

    def _drive(self) -> Path:
        import gdown
        import requests

        folder, _, name = self.download.drive.rpartition("/")
        target = self.shelf / (self.download.file or name)
        try:
            answer = gdown.download(
                id=self._in_folder(folder, name) if folder else name,
                output=str(target),
                resume=True,
                timeout=self.timeout_s,
                progress=lambda _done, total: self.room(0 if total is None else total - _done),
                use_cookies=False,
            )
        except (requests.exceptions.RequestException, gdown.exceptions.DownloadError) as error:
            raise self._failed(error) from error
        if answer is None or not target.is_file():
            raise self._failed(RuntimeError("the answer held no file"))
        return target

    def _in_folder(self, folder: str, name: str) -> str:
        """The id of a file in a folder on Drive."""
        import gdown

        listed: Any = gdown.download_folder(
            id=folder, skip_download=True, quiet=True, use_cookies=False, timeout=self.timeout_s
        )
        for entry in listed:
            if Path(entry.path).name == name:
                return str(entry.id)
        names = ", ".join(sorted(Path(entry.path).name for entry in listed)[:8])
        raise self._failed(RuntimeError(f"the folder holds {names or 'nothing'}"))

    def _hub(self) -> Path:
        import huggingface_hub
        import requests

        repo, _, name = self.download.hub.partition(":")
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"  # mirrors are in use
        try:  # the library itself tries again for half a minute
            requests.head(endpoint, timeout=self.timeout_s)
        except requests.exceptions.RequestException as error:
            raise self._failed(error) from error
        common: dict[str, Any] = {
            "repo_type": self.download.repo_type,
            "etag_timeout": self.timeout_s,
            "endpoint": endpoint,
        }
        try:
            if name:
                about = huggingface_hub.hf_hub_download(
                    repo, name, local_dir=self.shelf, dry_run=True, **common
                )
                self.room(about.file_size or 0)
                return Path(
                    huggingface_hub.hf_hub_download(repo, name, local_dir=self.shelf, **common)
                )
            place = self.shelf / repo.replace("/", "--")
            planned = huggingface_hub.snapshot_download(
                repo, local_dir=place, dry_run=True, **common
            )
            self.room(sum(entry.file_size or 0 for entry in planned if entry.will_download))
            huggingface_hub.snapshot_download(repo, local_dir=place, **common)
            shutil.rmtree(place / ".cache", ignore_errors=True)
        except UserError:
            raise
        except Exception as error:  # its own, and those of whichever HTTP client it uses
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the network
            raise self._failed(error) from error
        return place

    def _checked(self, file: Path) -> Path:
        if self.download.sha256 and sha256_file(file) != self.download.sha256:
            file.unlink()
            raise self._wrong_hash(file.name)
        return file


def _url_name(download: Download) -> str:
    return download.file or PurePosixPath(download.url.partition("?")[0]).name or "download"


class Bar:
    """A progress bar of bytes on a terminal, silent elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total or None, completed=done)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        """`count` more bytes have come."""
        self._bar.advance(self._task, count)


def _room(place: Path, size: int) -> None:
    free = shutil.disk_usage(place).free
    if size > 0 and size + SPARE > free:
        raise UserError(
            f"{_mib(size)} more are needed below {place}, and {_mib(free)} are free",
            "free some space or choose another folder with --to",
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


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
                _room(inside, sum(m.size for m in members))
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
                    f"{place / entry.name} is there already, and nothing is overwritten",
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
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
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
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise _unsafe(file, member.name, "points out of its folder")
        target = inside.joinpath(*path.parts)
        if target in targets:
            raise _unsafe(file, member.name, "is there twice")
        targets[target] = member
    for target, member in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)


def _unsafe(file: Path, name: str, what: str) -> DataError:
    return DataError(
        f"{file} is not unpacked: {name!r} {what}", "nothing of it was written; ask the publisher"
    )
