"""`datasets fetch` against servers on 127.0.0.1, and recorded answers of Drive and the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import urllib3

from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core import download
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import DatasetSpec, Download
from vsrbench.data import datasets, fetch


class Server(ThreadingHTTPServer):
    """Files in memory, with ranges; faults are switched on by hand."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag = '"one"'
        self.cut_after = 0
        self.stall_after = -1
        self.drip_s = 0.0
        self.asked: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append((path, self.headers.get("Range", "")))
        body = server.files.get(path)
        if body is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, asked = 0, self.headers.get("Range", "")
        if asked and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        if start >= len(body) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", server.etag)
        self.send_header("X-Repo-Commit", "a" * 40)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if server.stall_after >= 0:
            self.wfile.write(body[start : start + server.stall_after])
            self.wfile.flush()
            threading.Event().wait(5)
            self.close_connection = True
        elif server.drip_s:
            with contextlib.suppress(OSError):
                for byte in body[start:]:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(server.drip_s)
        elif server.cut_after:
            self.wfile.write(body[start : start + server.cut_after])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("VSRBENCH_OFFLINE")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def pack(names: list[str], form: str = "zip", size: int = 50_000) -> bytes:
    """An archive with noise in files of these names."""
    out = io.BytesIO()
    data = hashlib.shake_256(b"noise").digest(size)
    if form == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


GOOD = ["UDM10/GT/a/0.png", "UDM10/GT/a/1.png", "UDM10/LQ/a/0.png", "__MACOSX/x"]
Get = Callable[..., list[str]]


def toy(server: Server, name: str = "pack.zip", **changes: str) -> DatasetSpec:
    root = Path(__file__).parents[1]
    udm10 = specs.dataset_spec(root, "udm10")
    download = Download("toy", url=f"{server.url}/{name}", **changes)  # type: ignore[arg-type]
    return DatasetSpec(
        "toy", 1, "Toy", "real", 4, layouts=udm10.layouts, downloads=(download,), source="s"
    )


@pytest.fixture
def get(tmp_path: Path) -> Get:
    """Fetch into tmp_path/shelf/set; the files that are there then."""

    def call(spec: DatasetSpec, timeout_s: float = 3, keep: bool = False) -> list[str]:
        place = tmp_path / "shelf" / "set"
        fetch.fetch(spec, spec.downloads, place, lambda _: None, keep, timeout_s)
        return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())

    return call


def left(tmp_path: Path) -> list[str]:
    """Everything below tmp_path that is a file."""
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_complete(server: Server, get: Get, tmp_path: Path, form: str) -> None:
    body = pack(GOOD, form)
    server.files[f"/pack.{form}"] = body
    spec = toy(server, f"pack.{form}", sha256=hashlib.sha256(body).hexdigest())
    assert get(spec) == ["GT/a/0.png", "GT/a/1.png", "LQ/a/0.png"]
    # Neither archive nor work folder is left, and nothing was asked for twice.
    assert all(name.startswith("shelf/set/") for name in left(tmp_path))
    assert len(server.asked) == 1


def test_content_that_has_no_top_folder(server: Server, get: Get) -> None:
    server.files["/pack.zip"] = pack(["LQ/a/0.png", "GT/a/0.png"])
    assert get(toy(server)) == ["GT/a/0.png", "LQ/a/0.png"]


def test_interrupted_and_resumed(server: Server, get: Get, tmp_path: Path) -> None:
    body = pack(GOOD)
    server.files["/pack.zip"] = body
    spec = toy(server, sha256=hashlib.sha256(body).hexdigest())
    server.cut_after = 70_000
    with pytest.raises(MissingError, match="cannot be fetched"):
        get(spec)
    (part,) = [name for name in left(tmp_path) if name.endswith(".partial")]
    had = (tmp_path / part).stat().st_size
    assert 0 < had <= 70_000
    server.cut_after = 0
    assert len(get(spec)) == 3
    assert server.asked == [("/pack.zip", ""), ("/pack.zip", f"bytes={had}-")]


def test_a_file_that_changed_in_between_is_not_glued(
    server: Server, get: Get, tmp_path: Path
) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    server.cut_after = 70_000
    with pytest.raises(MissingError):
        get(toy(server))
    server.cut_after, server.etag = 0, '"two"'
    server.files["/pack.zip"] = pack(["UDM10/GT/new/0.png"])
    assert get(toy(server)) == ["GT/new/0.png"]


def test_a_partial_file_that_is_whole_already(server: Server, get: Get, tmp_path: Path) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    shelf = tmp_path / "shelf" / ".downloads" / "toy"
    shelf.mkdir(parents=True)
    (shelf / "pack.zip.partial").write_bytes(b"x" * len(server.files["/pack.zip"]))
    (shelf / "pack.zip.partial.etag").write_text(server.etag)
    assert len(get(toy(server))) == 3


def test_wrong_hash(server: Server, get: Get, tmp_path: Path) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    with pytest.raises(DataError, match="is another file than expected"):
        get(toy(server, sha256="0" * 64))
    assert left(tmp_path) == []  # the wrong file does not stay to be taken for the right one


PAGE = b"\n<!DOCTYPE html><html><body>Please sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("pack.zip", PAGE, "an HTML page"),
        ("pack", PAGE, "an HTML page"),
        ("pack.zip", b"", "empty"),
        ("pack.tar.gz", POINTER, "a pointer of Git LFS"),
        ("pack.zip", hashlib.shake_256(b"junk").digest(5000), "no whole archive"),
        ("pack.zip", pack(["LQ/a/0.png"])[:40_000], "no whole archive"),
        ("pack.tar.gz", pack(["LQ/a/0.png"], "tar.gz")[:40_000], "no whole archive"),
    ],
)
def test_what_is_no_archive_is_refused(
    server: Server, get: Get, tmp_path: Path, name: str, body: bytes, what: str
) -> None:
    server.files[f"/{name}"] = body
    with pytest.raises(DataError, match=f"is {what}"):
        get(toy(server, name))
    assert left(tmp_path) == []


def test_a_drip_is_given_up(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never stops, and would never end."""
    server.files["/pack.zip"] = pack(GOOD)
    server.drip_s = 0.02
    monkeypatch.setattr(download, "SLOWEST", 10_000)
    with pytest.raises(MissingError, match=r"bytes in \d+ s, less than 10,000 a second"):
        get(toy(server), timeout_s=0.3)


def test_a_file_is_from_then_on_to_be_the_one_that_came_first(
    server: Server, get: Get, tmp_path: Path
) -> None:
    data = server.files["/pack.zip"] = pack(GOOD)  # which holds the time
    there = get(toy(server))
    shutil.rmtree(tmp_path / "shelf" / "set")
    assert get(toy(server)) == there
    shutil.rmtree(tmp_path / "shelf" / "set")
    server.files["/pack.zip"] = pack(GOOD, size=40_000)
    with pytest.raises(DataError, match="another file than the one that came before"):
        get(toy(server))
    ledger = tmp_path / "shelf" / download.LEDGER
    first = hashlib.sha256(data).hexdigest()
    assert json.loads(ledger.read_text()) == {f"{server.url}/pack.zip pack.zip": first}
    ledger.unlink()
    assert get(toy(server)) == there
    with pytest.raises(DataError, match="another file than expected"):
        get(dataclasses.replace(toy(server, sha256=first), name="other"))


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png", "..\\out.png"])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_names_that_point_outside(
    server: Server, get: Get, tmp_path: Path, name: str, form: str
) -> None:
    server.files[f"/pack.{form}"] = pack(["UDM10/GT/a/0.png", name], form)
    with pytest.raises(DataError, match="points out of its folder"):
        get(toy(server, f"pack.{form}"))
    assert [n for n in left(tmp_path) if n.endswith(".png")] == []
    assert not (tmp_path / "shelf" / "set").exists()


def test_links_and_doubles_are_refused(server: Server, get: Get, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("GT/a")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    server.files["/pack.tar"] = out.getvalue()
    with pytest.raises(DataError, match="is a link or a device"):
        get(toy(server, "pack.tar"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        link = zipfile.ZipInfo("GT/a")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc")
    server.files["/link.zip"] = out.getvalue()
    with pytest.raises(DataError, match="is a link"):
        get(toy(server, "link.zip"))
    server.files["/twice.zip"] = pack(["GT/a/0.png", "GT//a/0.png"])
    with pytest.raises(DataError, match="exists twice"):
        get(toy(server, "twice.zip"))


def test_odd_archives_are_refused(server: Server, get: Get, tmp_path: Path) -> None:
    """Damaged inside, packed in an unknown way, names that are none or in each other's way."""
    whole, compressed = pack(GOOD), io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("GT/a/0.png", b"text " * 9999)
    listed, deflated = whole.index(b"PK\1\2"), compressed.getvalue()
    odd = {
        "unknown.zip": (whole[: listed + 10] + b"\x63" + whole[listed + 11 :], "damaged"),
        "damaged.zip": (deflated[:45] + b"\xff" * 9 + deflated[54:], "damaged"),
        "nameless.tar.gz": (pack([*GOOD, "."], "tar.gz"), "names no file"),
        "inside.zip": (pack([*GOOD, "UDM10/GT"]), "lies in what is a file"),
    }
    for name, (data, why) in odd.items():
        server.files[f"/{name}"] = data
        with pytest.raises(DataError, match=why):
            get(toy(server, name))
    assert not (tmp_path / "shelf" / "set").exists()


def test_names_in_any_bytes_are_unpacked(server: Server, get: Get) -> None:
    server.files["/pack.tar.gz"] = pack([*GOOD, "UDM10/a\nb\udcff"], "tar.gz")
    assert "a\nb\udcff" in get(toy(server, "pack.tar.gz"))


def test_nothing_is_overwritten(server: Server, get: Get, tmp_path: Path) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    mine = tmp_path / "shelf" / "set" / "GT" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="already exists, and nothing is overwritten"):
        get(toy(server))
    assert mine.read_text() == "mine"
    assert not (tmp_path / "shelf" / "set" / "LQ").exists()
    shutil.rmtree(mine.parent)
    assert len(get(toy(server))) == 3  # from the archive that is still here
    assert len(server.asked) == 1


@pytest.mark.parametrize("keep", [False, True])
def test_a_pack_of_several_files_goes_on_after_the_first(
    keep: bool, server: Server, get: Get, tmp_path: Path
) -> None:
    server.files["/gt.zip"] = pack(["GT/a/0.png"])
    downloads = tuple(Download("toy", url=f"{server.url}/{n}.zip") for n in ("gt", "lq"))
    spec = dataclasses.replace(toy(server), downloads=downloads)
    with pytest.raises(MissingError, match="404"):
        get(spec, keep=keep)
    server.files["/lq.zip"] = pack(["LQ/a/0.png"])
    assert get(spec, keep=keep) == ["GT/a/0.png", "LQ/a/0.png"]
    assert [path for path, _ in server.asked] == ["/gt.zip", "/lq.zip", "/lq.zip"]
    shutil.rmtree(tmp_path / "shelf" / "set")  # a whole pack that went away is no reason to skip
    assert get(spec, keep=keep) == ["GT/a/0.png", "LQ/a/0.png"]


def test_a_part_that_went_away_is_fetched_again(server: Server, get: Get, tmp_path: Path) -> None:
    server.files["/gt.zip"] = pack(["GT/a/0.png"])
    downloads = tuple(Download("toy", url=f"{server.url}/{n}.zip") for n in ("gt", "lq"))
    spec = dataclasses.replace(toy(server), downloads=downloads)
    for _ in range(2):
        with pytest.raises(MissingError, match="404"):
            get(spec)
        shutil.rmtree(tmp_path / "shelf" / "set" / "GT")


def test_a_full_disk_is_seen_before(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    usage = type("usage", (), {"free": 100 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(download, "SPARE", 101 << 20)
    with pytest.raises(UserError, match=r"no room below .*: 0.2 MiB to write, 100.0 MiB free"):
        get(toy(server))
    assert left(tmp_path) == []
    # Room for the archive and not for what is in it.
    usage.free = len(server.files["/pack.zip"]) + 100
    monkeypatch.setattr(download, "SPARE", 0)
    server.files["/pack.zip"] = squeezed = zipped_zeros()
    usage.free = len(squeezed) + 100
    with pytest.raises(UserError, match=r"9.5 MiB to write"):
        get(toy(server))
    assert not (tmp_path / "shelf" / "set").exists()


def zipped_zeros() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("GT/a/0.png", bytes(10_000_000))
    return out.getvalue()


def test_a_disk_that_fills_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system of 1 MiB, with the look beforehand switched off: ENOSPC while writing."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        server.files["/pack.zip"] = pack(GOOD, size=600_000)
        monkeypatch.setattr(download, "require_room", lambda place, size: None)
        with pytest.raises(UserError, match=r"cannot write below .*: No space left on device"):
            fetch.fetch(toy(server), toy(server).downloads, small / "set", lambda _: None)
        assert [n for n in left(small) if not n.startswith(".downloads/")] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_404(server: Server, get: Get, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="404"):
        get(toy(server))
    assert left(tmp_path) == []


@pytest.mark.parametrize("sent", [0, 70_000])
def test_a_server_that_stalls_is_given_up(
    server: Server, get: Get, tmp_path: Path, sent: int
) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    server.stall_after = sent
    begin = time.perf_counter()
    with pytest.raises(MissingError, match="timed out"):
        get(toy(server), timeout_s=0.5)
    assert time.perf_counter() - begin < 3
    server.stall_after = -1
    assert len(get(toy(server))) == 3


def test_nobody_there(server: Server, get: Get) -> None:
    spec = toy(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(MissingError, match="cannot be fetched"):
        get(spec)


def test_offline_is_said_at_once(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    with pytest.raises(MissingError, match="VSRBENCH_OFFLINE=1"):
        get(toy(server))
    assert server.asked == []


# ---------------------------------------------------------------- Google Drive, by recorded answers

CONFIRM = (  # one line, as Drive sends it
    '<!DOCTYPE html><html><body><form id="download-form" '
    'action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="ID123">'
    '<input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t">'
    '<input type="hidden" name="uuid" value="u-1"></form></body></html>'
)
QUOTA = """<html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""


FOLDER = """<html><head><title>RealVSR</title></head><body>
<a href="https://drive.google.com/file/d/GT_23456789012345678901234567/view?usp=drive_web">GT_test.zip</a>
<a href="https://drive.google.com/file/d/LQ_23456789012345678901234567/view?usp=drive_web">LQ_test.zip</a>
</body></html>"""


class Drive:
    """What Drive answers, in place of the network below `requests`."""

    def __init__(self, page: str, body: bytes) -> None:
        self.page, self.body, self.asked = page, body, list[str]()

    def send(self, request: requests.PreparedRequest, **options: object) -> requests.Response:
        assert request.url is not None
        self.asked.append(request.url)
        assert options["timeout"] is not None, "a call without a timeout can hang for ever"
        found = requests.Response()
        found.url, found.request, found.status_code = request.url, request, 200
        if "embeddedfolderview" in request.url:
            content, kind = FOLDER.encode(), "text/html; charset=utf-8"
        elif "usercontent" in request.url:
            content, kind = self.body, "application/octet-stream"
            found.headers["Content-Disposition"] = 'attachment; filename="UDM10.zip"'
        else:
            content, kind = self.page.encode(), "text/html; charset=utf-8"
        found.headers["Content-Type"] = kind
        found.headers["Content-Length"] = str(len(content))
        found.raw = urllib3.HTTPResponse(io.BytesIO(content), preload_content=False)
        return found


def on_drive(server: Server, sha256: str = "", drive: str = "ID123", to: str = "") -> DatasetSpec:
    spec = toy(server)
    download = Download("toy", drive=drive, file="dove-UDM10.zip", sha256=sha256, to=to)
    return DatasetSpec(
        "toy", 1, "Toy", "real", 4, layouts=spec.layouts, downloads=(download,), source="s"
    )


def test_drive(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(CONFIRM, pack(GOOD))
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda _, r, **o: drive.send(r, **o))
    assert get(on_drive(server)) == ["GT/a/0.png", "GT/a/1.png", "LQ/a/0.png"]
    assert drive.asked[0] == "https://drive.google.com/uc?id=ID123"
    assert "confirm=t" in drive.asked[-1]
    assert "uuid=u-1" in drive.asked[-1]


def test_drive_with_another_file(
    server: Server, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(CONFIRM, pack(GOOD))
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda _, r, **o: drive.send(r, **o))
    with pytest.raises(DataError, match="is another file than expected"):
        get(on_drive(server, "0" * 64))
    assert left(tmp_path) == []


def test_drive_file_in_a_folder(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(CONFIRM, pack(["000/0.png"]))
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda _, r, **o: drive.send(r, **o))
    assert get(on_drive(server, drive="FOLDER/LQ_test.zip", to="LQ")) == ["LQ/000/0.png"]
    assert any("id=LQ_23456789012345678901234567" in url for url in drive.asked)
    with pytest.raises(MissingError, match=r"the folder holds GT_test\.zip, LQ_test\.zip"):
        get(on_drive(server, drive="FOLDER/none.zip"))


def test_drive_over_quota(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(QUOTA, b"")
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda _, r, **o: drive.send(r, **o))
    with pytest.raises(MissingError, match="Too many users have viewed"):
        get(on_drive(server))


# ---------------------------------------------------------------- Hugging Face Hub, the same way


def on_hub(server: Server, hub: str) -> DatasetSpec:
    spec = toy(server)
    return DatasetSpec(
        "toy",
        1,
        "Toy",
        "real",
        4,
        layouts=spec.layouts,
        downloads=(Download("toy", hub=hub),),
        source="s",
    )


def test_hub_file(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files["/datasets/someone/set/resolve/main/testset.zip"] = pack(GOOD)
    spec = on_hub(server, "someone/set:testset.zip")
    assert get(spec) == ["GT/a/0.png", "GT/a/1.png", "LQ/a/0.png"]


def test_hub_repository(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    names = ["LQ/a/0.png", "GT/a/0.png", "README.md"]
    commit = "a" * 40
    about = {
        "id": "someone/set",
        "sha": commit,
        "siblings": [{"rfilename": n} for n in names],
    }
    tree = [{"type": "file", "path": n, "size": len(n), "oid": "1" * 40} for n in names]
    for revision in ("main", commit):
        base = f"/api/datasets/someone/set/{{}}/{revision}"
        server.files[base.format("revision")] = json.dumps(about).encode()
        server.files[base.format("tree")] = json.dumps(tree).encode()
    for n in names:
        server.files[f"/datasets/someone/set/resolve/{commit}/{n}"] = n.encode()
    assert get(on_hub(server, "someone/set")) == sorted(names)


def test_hub_without_the_file(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(MissingError, match=r"Hugging Face someone/set:none\.zip cannot be fetched"):
        get(on_hub(server, "someone/set:none.zip"))


def test_hub_that_stalls(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's retries
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files["/"] = b"front page"
    server.files["/datasets/someone/set/resolve/main/testset.zip"] = pack(GOOD)
    server.stall_after = 70_000
    with pytest.raises(MissingError, match="cannot be fetched"):
        get(on_hub(server, "someone/set:testset.zip"))


def test_hub_that_is_not_reached(server: Server, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = on_hub(server, "someone/set:none.zip")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.shutdown()
    server.server_close()
    begin = time.perf_counter()
    with pytest.raises(MissingError, match="cannot be fetched"):
        get(spec, timeout_s=1)
    assert time.perf_counter() - begin < 10


# ---------------------------------------------------------------- the command line


def test_command_line(
    server: Server,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files["/pack.zip"] = pack(GOOD)
    base = tmp_path / "root"
    (base / "datasets").mkdir(parents=True)
    (base / "datasets" / "toy.toml").write_text(
        'version = 1\ntitle = "Toy"\nkind = "real"\nscale = 4\nlicence = "For study only"\n'
        'source = "somewhere"\nlq = "LQ/{clip}"\ngt = "GT/{clip}"\n'
        f'[[downloads]]\npack = "a"\nurl = "{server.url}/pack.zip"\n'
        f'[[downloads]]\npack = "b"\nurl = "{server.url}/none.zip"\n'
    )
    for variable in ("VSRBENCH_TOY", datasets.DATA):
        monkeypatch.delenv(variable, raising=False)
    args = ["datasets", "fetch", "toy", "--root", str(base)]
    assert main([*args, "--accept-licence"]) == 2
    assert "no destination folder for toy" in capsys.readouterr().err
    monkeypatch.setenv(datasets.DATA, str(tmp_path / "sets"))
    assert main(args) == 2
    err = capsys.readouterr().err
    assert "licence: For study only" in err
    assert "--accept-licence" in err
    assert server.asked == []
    assert main([*args, "--accept-licence", "--pack", "c"]) == 2
    assert main([*args, "--accept-licence", "--pack", "b"]) == 3
    assert "404" in capsys.readouterr().err
    assert main([*args, "--accept-licence"]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == str(tmp_path / "sets" / "toy")
    assert "next: vsrbench datasets check toy" in out.err
    assert sorted(p.name for p in (tmp_path / "sets" / "toy").iterdir()) == ["GT", "LQ"]
    assert main(["datasets", "fetch", "reds4", "--root", str(root), "--accept-licence"]) == 2
    assert "no download is known for reds4" in capsys.readouterr().err


def test_every_download_of_a_spec_is_one_source(root: Path) -> None:
    for name in specs.dataset_files(root):
        for source in specs.dataset_spec(root, name).downloads:
            assert download.describe(source)
            assert source.file or "/" in source.drive or not source.drive  # a name to keep
