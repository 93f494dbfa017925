"""Broken inputs of every kind: one line and an exit code, never a traceback, nothing outside.

`make fuzz` tries ten times as many; `FUZZ_ROUNDS=N` says how many of each kind, `FUZZ_FIRST=S` from
which seed on.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import stat
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import torch

from tests.test_cli import write_clip
from tests.test_fetch import Server, server  # noqa: F401
from vsrbench.cli import main

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "25"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
HANGS_S = 300
"""Of a command, on a machine with other work."""
Change = Callable[[random.Random, bytes], bytes]
WORDS = [
    *('""', "'x'", "-1", "0", "1e999", "nan", "true", "[]", "{}", "[[]]", "null", '"../../x"'),
    *(
        '"/etc/passwd"',
        '"\\u202e"',
        "9" * 400,
        '"' + "a" * 5000 + '"',
        "\x00",
        "\ud7ff",
        "é",
        "=1+1",
    ),
    *(
        "[" * 3000,
        "{" * 3000,
        "\n",
        "\r\n",
        "{clip}",
        "**",
        ".",
        "..",
        "~",
        '"[/b]"',
        "NaN",
        "-0.0",
    ),
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to four random edits: bytes, cuts, repetitions, and words that mean trouble."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([1, 1, 4, 30, 300]))
        word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
        noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        data = rng.choice(
            [
                data[:at] + noise + data[end:],
                data[:at] + word + data[end:],
                data[:at],
                data[:at] + data[end:],
                data[:end] + data[at:],
            ]
        )
    return data


def values_mutated(rng: random.Random, data: bytes) -> bytes:
    """The value of one field of TOML is another word; the rest stays well-formed."""
    lines = data.decode().split("\n")
    fields = [i for i, line in enumerate(lines) if re.match(r"\s*[\w.]+\s*=", line)]
    for i in rng.sample(fields, min(len(fields), rng.randint(1, 2))):
        name = lines[i].partition("=")[0]
        lines[i] = f"{name}= {rng.choice([w for w in WORDS if len(w) < 20])}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def fields_mutated(rng: random.Random, data: bytes) -> bytes:
    """In lines of JSON, values of random fields are of another type, and fields are gone."""
    odd: list[Any] = [
        None,
        "",
        "x",
        -1,
        1e308,
        True,
        [],
        {},
        [[1]],
        {"a": 1},
        "../x",
        [None],
        2**70,
    ]
    out = []
    for line in data.splitlines():
        record = json.loads(line)
        places = [(record, k) for k in record]
        places += [(v, k) for v in record.values() if isinstance(v, dict) for k in v]
        for where, key in rng.sample(places, min(2, len(places))):
            if rng.random() < 0.3:
                del where[key]
            else:
                where[key] = rng.choice(odd)
        out.append(json.dumps(record).encode())
    return b"\n".join(out) + b"\n"


def harmless(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command in this process; anything raised is a traceback that a user would see."""
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_S)
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        signal.alarm(0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert code in (0, 1, 2, 3, 4), code
    assert code == 0 or out + err, "no word of what is wrong"
    return code


def hangs(number: int, frame: FrameType | None) -> NoReturn:
    raise AssertionError(f"no end after {HANGS_S} s")


def seeds(rounds: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seed", range(FIRST, FIRST + rounds))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a run with cost and a failure."""
    folder = tmp_path_factory.mktemp("fuzz")
    lq = write_clip(folder / "lq", 2)
    arguments = ["--methods", "bicubic,nearest", "--input", str(lq), "--no-cost", "-q"]
    metrics = ["--metrics", "flicker,lr_psnr,lpips"]
    assert main([*arguments, *metrics, "--results", str(folder / "r")]) == 3
    return folder / "r"


def snapshot(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@seeds(ROUNDS)
def test_toml(seed: int, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cards, specs, alignments, tables of programs."""
    rng = random.Random(seed)
    change = rng.choice([mutated, values_mutated])
    card = rng.choice(sorted(root.glob("methods/*/*.toml")))
    spec = rng.choice(sorted(root.glob("datasets/*.toml")))
    (tmp_path / "root/methods" / card.parent.name).mkdir(parents=True)
    (tmp_path / "root/datasets").mkdir()
    shutil.copytree(card.parent, tmp_path / "root/methods" / card.parent.name, dirs_exist_ok=True)
    (tmp_path / "root/methods" / card.parent.name / card.name).write_bytes(
        change(rng, card.read_bytes())
    )
    (tmp_path / "root/datasets" / spec.name).write_bytes(change(rng, spec.read_bytes()))
    align = tmp_path / "alignment.toml"
    align.write_bytes(
        change(rng, b'crop = [0, 0, 8, 8]\nframes = "0:2"\n[clips.a]\nframes = [1]\n')
    )
    where = ["--root", str(tmp_path / "root")]
    before = snapshot(tmp_path)
    harmless(["list", "methods", *where], capsys)
    harmless(["list", "datasets", *where], capsys)
    harmless(["check", "--methods", card.stem, *where], capsys)
    harmless(["check", "--datasets", spec.stem, *where], capsys)
    missing = ["--results", str(tmp_path / "r"), "--outputs", str(tmp_path / "none")]
    harmless(["score", *missing, "--align", str(align)], capsys)
    made = {name for name in snapshot(tmp_path) - before if "__pycache__" not in name}
    assert all(name.partition("/")[0] == "r" for name in made), made


@seeds(ROUNDS)
def test_records(
    seed: int, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of records and runs, well-formed and torn."""
    rng = random.Random(seed)
    shutil.copytree(results, tmp_path / "r")
    for name in rng.choice([["records.jsonl"], ["runs.jsonl"], ["records.jsonl", "runs.jsonl"]]):
        path = tmp_path / "r" / name
        path.write_bytes(rng.choice([mutated, fields_mutated])(rng, path.read_bytes()))
    there = ["--results", str(tmp_path / "r")]
    form = rng.choice(["markdown", "latex", "csv", "csv-wide", "json", "terminal"])
    harmless(["table", "--format", form, *there], capsys)
    harmless(["report", *there, "-o", str(tmp_path / "report.html")], capsys)
    harmless(["compare", str(tmp_path / "r"), str(results)], capsys)
    harmless(["compare", str(results), str(tmp_path / "r")], capsys)
    harmless(["figure", "scatter", *there, "-o", str(tmp_path / "f.png")], capsys)


@seeds(ROUNDS)
def test_pictures_and_videos(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    picture = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    clip = tmp_path / "clip"
    clip.mkdir()
    kind = rng.choice([".png", ".jpg", ".tif", ".bmp", ".webp", ".mp4"])
    if kind == ".mp4":
        path = clip / "a.mp4"
        video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (40, 32))
        for _ in range(4):
            video.write(picture)
        video.release()
    else:
        for i in range(2):
            path = clip / f"{i}{kind}"
            path.write_bytes(cv2.imencode(kind, picture)[1].tobytes())
    path.write_bytes(mutated(rng, path.read_bytes()))
    arguments = ["--outputs", str(clip), "--metrics", "flicker_vbench", "-q"]
    harmless(["score", *arguments, "--results", str(tmp_path / "r")], capsys)


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@seeds(max(6, ROUNDS // 4))
def test_checkpoints(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged ones, what came instead of one, and one that holds code, which is not to run."""
    rng, ran = random.Random(seed), tmp_path / "ran"
    path = tmp_path / rng.choice(["net.pth", "net.safetensors", "net.ckpt"])
    weights: Any = {"params": {"conv_first.weight": torch.zeros(8, 3, 3, 3)}}
    if seed % 3 == 0:
        weights = rng.choice([Runs(ran), {"params": Runs(ran)}, weights | {"extra": [Runs(ran)]}])
    torch.save(weights, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    data = path.read_bytes()
    if seed % 3:
        page = b"<!doctype html><html><body>404</body></html>"
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
        path.write_bytes(rng.choice([mutated(rng, data), page, pointer, b"", data]))
    harmless(["check", "--methods", str(path)], capsys)
    assert snapshot(tmp_path) == {path.name}


PARTS = ["LQ/a/0.png", "GT/a/0.png", "GT/a", "x", "a/" * 200 + "b", "é/\udcff", " ", ".", "a\nb"]
OUTSIDE = [
    "../v",
    "/tmp/v",
    "LQ/../../v",
    "..",
    "C:\\v",
    "\\v",
    "..\\v",
    "//v",
    "~/v",
    "LQ/a/../../../v",
]


def archive(rng: random.Random) -> tuple[str, bytes]:
    """(name, content) of an archive of some files, of which some lead astray."""
    names = rng.choices([*PARTS, *OUTSIDE], k=rng.randint(0, 5))
    made, form = BytesIO(), rng.choice(["zip", "tar", "tar.gz", "tar.xz"])
    if form == "zip":
        with zipfile.ZipFile(made, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_LZMA])) as pack:
            for name in dict.fromkeys(name.replace("\udcff", "ÿ") for name in names):
                info = zipfile.ZipInfo(name)
                info.external_attr = rng.choice([0, stat.S_IFLNK | 0o777, stat.S_IFIFO]) << 16
                pack.writestr(info, b"../../v")
    else:
        with tarfile.open(fileobj=made, mode=f"w:{form[4:]}") as tar:  # type: ignore[call-overload]
            for name in names:
                member = tarfile.TarInfo(name)
                member.type = rng.choice([tarfile.REGTYPE] * 4 + [b"1", b"2", b"3", b"6", b"5"])
                member.linkname, member.size = "../../v", 7 * (member.type == tarfile.REGTYPE)
                tar.addfile(member, BytesIO(b"content"))
    return f"pack.{form}", made.getvalue()


@seeds(ROUNDS)
def test_archives(
    seed: int,
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing of them goes anywhere but into the folder of the dataset, whole or not at all."""
    rng = random.Random(seed)
    name, data = archive(rng)
    server.files[f"/{name}"] = data if rng.random() < 0.5 else mutated(rng, data)
    (tmp_path / "root/datasets").mkdir(parents=True)
    (tmp_path / "root/datasets/toy.toml").write_text(
        'version = 1\ntitle = "Toy"\nkind = "real"\nscale = 4\nlicence = "MIT"\nsource = "-"\n'
        f'lq = "LQ/{{clip}}"\n[[downloads]]\npack = "a"\nurl = "{server.url}/{name}"\n'
    )
    monkeypatch.setenv("VSRBENCH_DATA", str(tmp_path / "sets"))
    before = snapshot(tmp_path)
    where = ["--root", str(tmp_path / "root"), "--accept-licence"]
    code = harmless(["datasets", "fetch", "toy", *where], capsys)
    made = {n for n in snapshot(tmp_path) - before if not n.startswith(("sets/.", "sets/toy/"))}
    assert made <= ({"sets", "sets/toy"} if code == 0 else {"sets"}), made
    assert code == 0 or not (tmp_path / "sets/toy").exists()
    assert not Path("/tmp/v").exists()


SOURCES = b"""[methods]
dove = "DOVE"
[datasets]
[metrics]
own = { title = "O", better = "lower" }
[sources.a]
title = "A"
paper = "A"
pack = "p"
read = "r"
conventions = "c"
"""
VALUES = b"dataset,method,metric,value,notes\nudm10,dove,psnr,24.12,\nspmcs,dove,own,0.5,a note\n"
VOTE = {"dataset": "s", "clip": "c", "left": "a", "right": "b", "choice": "left"}
STUDY = b"""methods = ["bicubic"]
datasets = ["synthetic"]
frames = "0:2"
tables = ["csv"]
[[figures]]
kind = "scatter"
"""
TRAINING = b'method = "x"\nsteps = 3\n'


@seeds(ROUNDS)
def test_numbers_votes_and_studies(
    seed: int, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published numbers (CSV and what names them), votes of people, a study that is not run."""
    rng, folder = random.Random(seed), tmp_path / "results/published"
    folder.mkdir(parents=True)
    change = rng.choice([mutated, values_mutated])
    (folder / "sources.toml").write_bytes(rng.choice([SOURCES, change(rng, SOURCES)]))
    (folder / "a.csv").write_bytes(mutated(rng, VALUES))
    for more in (["--published", "a"], ["--contradictions"]):
        form = rng.choice(["markdown", "latex", "csv", "terminal"])
        harmless(["table", "--root", str(tmp_path), *more, "--format", form], capsys)
    votes = json.dumps({"schema": 1, "voter": "x", "votes": [VOTE]}).encode()
    (tmp_path / "votes.json").write_bytes(rng.choice([mutated, fields_mutated])(rng, votes))
    harmless(["votes", str(tmp_path / "votes.json"), "--results", str(results)], capsys)
    (tmp_path / "study.toml").write_bytes(change(rng, STUDY))
    harmless(
        ["run", str(tmp_path / "study.toml"), "--dry-run", "--results", str(tmp_path / "r")], capsys
    )


@seeds(ROUNDS * 2)
def test_command_lines(
    seed: int, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    names = ["table", "figure", "report", "compare", "votes", "list", "check", "score", "datasets"]
    flags = "--methods --datasets --metrics --format --sort --columns --published --clip --box "
    flags += "--row --frame --metric --images --tolerance --cost --all --outputs --gt --border "
    flags += "--policy --align --names --preset --dataset --no-cost --drop-empty --how --limit"
    words = [w for w in WORDS if len(w) < 300 and "\x00" not in w]
    words += [
        "bicubic",
        "psnr",
        "profile",
        "scatter",
        "video",
        "drift",
        "lq",
        "1",
        "0,0,4,4",
        "csv",
    ]
    line = [rng.choice(names)]
    for _ in range(rng.randint(0, 5)):
        line += [rng.choice([*flags.split(), rng.choice(words)]), rng.choice(words)]
    if line[0] in ("table", "figure", "report", "score"):
        line += ["--results", str(results)]
    if line[0] in ("table", "figure", "report"):
        line += ["-o", str(tmp_path / "out.png")]
    harmless(line, capsys)
