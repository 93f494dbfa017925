"""No stored number is silently wrong: keys follow what makes the pixels, views what was asked for.

The method of these tests multiplies each frame by a number that lies in its weights, so that
weights, code and settings each decide what a score is.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from vsrbench.cards import specs
from vsrbench.cards.code import digest_code, list_files
from vsrbench.cli import main
from vsrbench.core import files as hashes
from vsrbench.core import keys
from vsrbench.core.types import Asked, MethodCard, Record
from vsrbench.data.datasets import open_input
from vsrbench.results.compare import compare, verdict_line
from vsrbench.results.store import Store
from vsrbench.results.summary import summarise
from vsrbench.results.view import Places, select_shown, shorten_paths
from vsrbench.run.plan import Made, identify_made, plan

from .test_core import a_record

ADAPTER = """
import torch.nn.functional as F
from vsrbench.cards.weights import load_state
from .kernel import MODE

class Mine:
    def __init__(self, gain):
        self.gain = gain

    def upscale(self, frames):
        for x in frames:
            yield F.interpolate(x[None], scale_factor=4, mode=MODE)[0] * self.gain

def load(card, device, dtype):
    gain = load_state(card)[0]["gain"].item() if card.weights.file else 1.0
    return Mine(gain * card.settings.get("gain", 1.0))
"""
CARD = """
version = 1
title = "Mine"
entry = "methods.mine.adapter:load"
settings = { gain = 1.0 }
[weights]
origin = "user"
file = "mine.safetensors"
"""

Run = Callable[..., tuple[int, str, str]]


def weigh(file: Path, gain: float) -> Path:
    """Weights that make every frame darker; large enough to be remembered by their hash."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"gain": torch.tensor(gain), "ballast": torch.zeros(1 << 15)}, str(file))
    return file


def write_frames(folder: Path, side: int, seed: int = 0, count: int = 2) -> Path:
    """Smooth frames of this side."""
    folder.mkdir(parents=True)
    small = np.random.default_rng(seed).integers(0, 200, (8, 8, 3), np.uint8)
    for t in range(count):
        big = cv2.resize(np.roll(small, t, 1), (side, side), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(big).save(folder / f"{t:04d}.png")
    return folder


def write_set(folder: Path, seed: int = 0, clips: str = "ab") -> Path:
    """LQ and GT of clips, below `folder`."""
    for i, name in enumerate(clips):
        write_frames(folder / "LQ" / name, 16, seed + i)
        write_frames(folder / "GT" / name, 64, seed + i)
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A root with a method and its weights."""
    folder = tmp_path / "root" / "methods" / "mine"
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "kernel.py").write_text('MODE = "nearest"\n')
    (folder / "mine.toml").write_text(CARD)
    weigh(folder / "mine.safetensors", 1.0)
    return folder


@pytest.fixture
def run(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line: (exit code, stdout, stderr)."""

    def call(*words: object, results: str = "results") -> tuple[int, str, str]:
        given = [str(word) for word in words] + ["--root", str(mine.parents[1])]
        if given[0] != "compare":
            given += ["--results", str(tmp_path / results)]
        code = main(given)
        return code, *capsys.readouterr()

    return call


def psnr(text: str, row: str = "Mine") -> str:
    """The PSNR of a row in a table; '' without that row."""
    found = re.search(rf"\| {re.escape(row)} +\|[^|]*\| +(?:<u>|[*]+)?([0-9.]+|–)", text)
    return found[1] if found else ""


# What the key follows


def key_of(root: Path, clip: Path, gt: Path | None = None) -> str:
    """The key of a score of `mine` on a clip."""
    card = specs.method_card(root, "mine")
    found = open_input(clip, gt, 4)
    places = Places([]), Places([])
    _, asked = plan([card], found, ["psnr"], {}, {}, root, places, False, False, "", {"psnr": ""})
    return next(a.keys["psnr"] for a in asked if a.method == "mine")


def test_key_follows_every_input_of_a_job(mine: Path, tmp_path: Path) -> None:
    root, data = mine.parents[1], write_set(tmp_path / "set")
    lq, gt = data / "LQ", data / "GT"

    def key() -> str:
        return key_of(root, lq, gt)

    def flip(file: Path, at: int) -> None:
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)

    def darken(file: Path) -> None:
        pixels = np.asarray(Image.open(file)).copy()
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(file)

    def say(file: Path, old: str, new: str) -> None:
        file.write_text(file.read_text().replace(old, new))

    edits: list[Callable[[], None]] = [
        lambda: flip(mine / "mine.safetensors", -1),
        lambda: flip(mine / "mine.safetensors", -70_000),
        lambda: say(mine / "kernel.py", "nearest", "bicubic"),
        lambda: say(mine / "adapter.py", "scale_factor=4", "scale_factor=4.0"),
        lambda: say(mine / "mine.toml", "gain = 1.0", "gain = 0.9"),
        lambda: say(mine / "mine.toml", "version = 1", "version = 1\nwindow = 1"),
        lambda: darken(lq / "a" / "0001.png"),
        lambda: darken(gt / "a" / "0000.png"),
        lambda: say(mine / "mine.toml", "version = 1", "version = 2"),
    ]
    seen = [key()]
    for edit in edits:
        edit()
        seen.append(key())
    assert len(set(seen)) == len(seen)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), size=st.integers(1, 300_000))
def test_any_bit_of_weights_counts(at: float, bit: int, size: int, tmp_path: Path) -> None:
    file = tmp_path / "net.bin"
    content = bytearray(size)
    file.write_bytes(content)
    before = hashes.content(file)
    content[int(at * size)] ^= 1 << bit
    with file.open("r+b") as out:  # in place: path, size and inode stay
        out.write(content)
    assert hashes.content(file) != before


def test_a_file_is_read_again_only_when_it_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_CACHE", str(tmp_path / "cache"))
    read: list[Path] = []

    def watched(path: Path) -> str:
        read.append(path)
        return keys.sha256_file(path)

    monkeypatch.setattr(hashes, "sha256_file", watched)
    monkeypatch.setattr(hashes, "_SETTLED_NS", -(10**18))  # as if it had lain there for long
    file = tmp_path / "net.bin"
    file.write_bytes(bytes(1 << 17))
    first = hashes.content(file)
    hashes._remembered.clear()  # another process
    assert hashes.content(file) == first
    assert len(read) == 1
    times = file.stat()
    file.write_bytes(bytes((1 << 17) - 1) + b"x")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and tar do
    assert hashes.content(file) != first
    (tmp_path / "cache" / "hashes.json").write_text('{"a": 5}')
    hashes._remembered.clear()
    assert hashes.content(file) != first
    monkeypatch.setattr(hashes, "_SETTLED_NS", 2 * 10**9)
    hashes._remembered.clear()
    (tmp_path / "cache" / "hashes.json").unlink()
    file.write_bytes(bytes(1 << 17))
    read.clear()
    assert hashes.content(file) == hashes.content(file) == first
    assert len(read) == 2  # it was written just now, and may be written again


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.bin").write_bytes(bytes(100_000))
    first = hashes.content(folder)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    (moved / "__pycache__").mkdir()
    (moved / "__pycache__" / "x.pyc").write_text("")
    (moved / ".git").mkdir()
    (moved / ".git" / "HEAD").write_text("")
    assert hashes.content(moved) == first
    (moved / "loop").symlink_to(moved)
    assert hashes.content(moved) == first
    (moved / "sub" / "a.bin").rename(moved / "sub" / "b.bin")
    assert hashes.content(moved) != first
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "sub").symlink_to(folder / "sub")
    assert hashes.content(linked) == first


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_line_of_the_code_counts(data: st.DataObject, root: Path) -> None:
    """Of a copy of a method that ships: each file of its closure, any line."""
    card = specs.method_card(root, "realviformer")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "root")
        shutil.copytree(root / "methods" / "realviformer", base / "methods" / "realviformer")
        shutil.copy(root / "methods" / "spynet.py", base / "methods")
        copy = MethodCard(
            "c", 1, "C", card.weights, entry=card.entry, folder=f"{base}/methods/realviformer"
        )
        before = digest_code(copy)
        assert {f.name for f in list_files(copy)} >= {"adapter.py", "network.py", "spynet.py"}
        file = data.draw(st.sampled_from(sorted(list_files(copy))))
        lines = file.read_text().splitlines(keepends=True)
        lines.insert(data.draw(st.integers(0, len(lines))), "# edited\n")
        file.write_text("".join(lines))
        assert digest_code(copy) != before
        (base / "methods" / "realviformer" / "notes.py").write_text("not imported")
        (base / "methods" / "other").mkdir()
        after = digest_code(copy)
        moved = base.with_name(base.name + "-moved")
        base.rename(moved)
        base = moved
        there = MethodCard(
            "c", 1, "C", card.weights, entry=card.entry, folder=f"{base}/methods/realviformer"
        )
        assert digest_code(there) == after


def test_code_is_followed_through_imports_of_all_kinds(mine: Path) -> None:
    root = mine.parents[1]
    (mine / "adapter.py").write_text(
        "from methods.mine import absolute\n"
        "from . import relative\n"
        "from .deep.inner import thing\n"
        "import importlib\n"
        "def load(card, device, dtype):\n"
        "    from .late import x\n"
        "    importlib.import_module('methods.mine.dynamic')\n"
        "    open('table.json')\n"
    )
    (mine / "deep").mkdir()
    for name in ("absolute", "relative", "late", "dynamic", "deep/__init__", "unused"):
        (mine / f"{name}.py").write_text("")
    (mine / "deep" / "inner.py").write_text("from ..indirect import y\n")
    (mine / "indirect.py").write_text("import torch, methods.mine.adapter\nx = (")  # broken
    (mine / "table.json").write_text("{}")
    names = {f.name for f in list_files(specs.method_card(root, "mine"))}
    expected = {"adapter.py", "absolute.py", "relative.py", "inner.py", "late.py", "dynamic.py"}
    assert names == expected | {"indirect.py", "__init__.py", "table.json"}


def test_key_ignores_where_things_lie_and_when(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = mine.parents[1], write_set(tmp_path / "set")
    first = key_of(root, data / "LQ", data / "GT")
    moved = tmp_path / "elsewhere" / "deep"
    moved.mkdir(parents=True)
    shutil.copytree(root, moved / "root")
    shutil.copytree(data, moved / "set")
    monkeypatch.setenv("VSRBENCH_CACHE", str(tmp_path / "other-cache"))
    assert key_of(moved / "root", moved / "set" / "LQ", moved / "set" / "GT") == first
    assert identify_made(specs.method_card(moved / "root", "mine")) != Made()


# A test for each case


def test_case_06_two_sets_of_one_name(run: Run, root: Path, tmp_path: Path) -> None:
    case = root / "tests" / "data" / "cases" / "06-two-sets-named-LQ"
    for name in ("setA", "setB"):
        where = ("--input", case / name / "LQ", "--gt", case / name / "GT")
        assert run("--methods", "bicubic", *where, "--metrics", "psnr", "--no-cost")[0] == 0
    text = run("table")[1]
    assert "setA/LQ, x4, 1 clip" in text
    assert "setB/LQ, x4, 1 clip" in text
    assert re.findall(r"Bicubic .*\| +\**(\d\d\.\d\d)", text) == ["28.23", "43.82"]
    assert "36.02" not in text


def test_case_07_outputs_whose_names_have_dots(run: Run, root: Path) -> None:
    case = root / "tests" / "data" / "cases" / "07-dotted-and-equal-output-names"
    first = ("score", "--outputs", case / "x/out_v1.0", "--gt", case / "gt", "--metrics", "psnr")
    assert run(*first)[0] == 0
    second = ("--gt", case / "gt-A-only/gt", "--metrics", "psnr")
    assert run("score", "--outputs", case / "y/out_v1.5", *second)[0] == 0
    text = run("table")[1]
    assert psnr(text, "out_v1.0") == "35.34"
    assert psnr(text, "out_v1.5") == "22.20"


def test_outputs_of_one_name_are_two_rows(run: Run, tmp_path: Path) -> None:
    gt = write_set(tmp_path / "set", clips="a") / "GT"
    for i, name in enumerate("xy"):
        write_frames(tmp_path / name / "sr" / "a", 64, seed=i)
        assert run("score", "--outputs", tmp_path / name / "sr", "--gt", gt)[0] == 0
    text = run("table", "--metrics", "psnr")[1]
    assert psnr(text, "x/sr") == "80.00"
    assert 0 < float(psnr(text, "y/sr")) < 30
    (tmp_path / "z").mkdir()
    (tmp_path / "y" / "sr").rename(tmp_path / "z" / "sr")  # the same outputs, moved
    assert run("score", "--outputs", tmp_path / "z/sr", "--gt", gt)[0] == 0
    rows = run("table", "--metrics", "psnr")[1]
    assert psnr(rows, "z/sr") == psnr(text, "y/sr")
    assert psnr(rows, "y/sr") == ""


def test_checkpoints_of_one_name_are_two_rows(
    run: Run, mine: Path, root: Path, real: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "methods" / "spandrel", mine.parent / "spandrel")
    file = real / "weights/realesr-animevideov3.pth"
    net = torch.load(file, map_location="cpu", weights_only=True)
    data = write_set(tmp_path / "set", clips="a")
    where = ("--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr", "--no-cost")
    for name in "ab":
        (tmp_path / name).mkdir()
        torch.save(net, tmp_path / name / "x.pth")
        for value in net["params"].values():
            value *= 0.9
    both = ",".join(str(tmp_path / name / "x.pth") for name in "ab")
    assert run("--methods", both, *where, "--keep-frames")[0] == 0
    text = run("table")[1]
    alone = run("--methods", tmp_path / "b/x.pth", *where, results="b")[1]
    assert psnr(text, "b/x") == psnr(alone, "x") != psnr(text, "a/x") != ""
    kept = [Image.open(p).tobytes() for p in (tmp_path / "results/frames").glob("x*/LQ/a/*0.png")]
    assert len(set(kept)) == 2
    assert run("figure", "profile", "--methods", "a/x,b/x")[0] == 0


def test_case_08_an_edited_adapter_is_run_again(
    run: Run, mine: Path, root: Path, tmp_path: Path
) -> None:
    case = root / "tests" / "data" / "cases" / "08-method-code-edited" / "mine"
    shutil.rmtree(mine)
    shutil.copytree(case, mine)
    data = write_set(tmp_path / "set", clips="a")
    where = ("--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr", "--no-cost")
    text = (mine / "adapter.py").read_text().replace('mode="bilinear"', 'mode="nearest"')
    (mine / "adapter.py").write_text(text)
    before = run("--methods", "mine", *where)[1]
    (mine / "adapter.py").write_text(text.replace('mode="nearest"', 'mode="bilinear"'))
    after = run("--methods", "mine", *where)[1]
    assert psnr(after) != psnr(before)
    fresh = run("--methods", "mine", *where, "--fresh", results="fresh")[1]
    assert psnr(after) == psnr(fresh)
    (mine / "adapter.py").write_text(text)
    code, again, said = run("--methods", "mine", *where)
    assert (code, psnr(again)) == (0, psnr(before))
    assert "0 new results, 3 reused" in said


# What views show


@pytest.mark.parametrize(("history", "regressed"), [("ABA", False), ("BAB", True), ("AB", True)])
def test_views_show_what_was_asked_for_last(
    run: Run, mine: Path, tmp_path: Path, history: str, regressed: bool
) -> None:
    gains = {"A": 1.0, "B": 0.8}
    data = write_set(tmp_path / "set")
    what = ("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr")

    def views(results: str) -> tuple[str, bytes, str]:
        table = run("table", results=results)[1]
        picture = tmp_path / "time.png"
        assert run("figure", "drift", "--clip", "a", "-o", picture, results=results)[0] == 0
        page = tmp_path / "page.html"
        assert run("report", "-o", page, results=results)[0] == 0
        cells = re.findall(r'data-sort="([0-9.]+)"', page.read_text())
        return psnr(table), picture.read_bytes(), psnr(page.read_text()) or str(cells)

    alone, printed = {}, {}
    for state, gain in gains.items():
        weigh(mine / "mine.safetensors", gain)
        printed[state] = psnr(run(*what, "--no-cost", results=f"only-{state}")[1])
        alone[state] = views(f"only-{state}")
    assert len({view for state in alone.values() for view in state}) == 6
    for state in history:
        weigh(mine / "mine.safetensors", gains[state])
        text = run(*what, "--no-cost")[1]
        assert psnr(text) == printed[state]
        assert views("results") == alone[state]
    code, text, _ = run("compare", tmp_path / "only-A", tmp_path / "results")
    assert (code, "worse" in text) == ((4, True) if regressed else (0, False))
    # A copy of both files does as well as the folder.
    for name in ("records", "runs"):
        shutil.copy(tmp_path / "results" / f"{name}.jsonl", tmp_path / f"new-{name}.jsonl")
    assert run("compare", tmp_path / "only-A", tmp_path / "new-records.jsonl")[0] == code


@pytest.mark.parametrize("seed", range(20))
def test_compare_is_right_after_any_history(
    run: Run, mine: Path, tmp_path: Path, seed: int
) -> None:
    """Runs, edits and reverts at random: the verdict follows from what lies there at the end."""
    choice = random.Random(seed)
    data = write_set(tmp_path / "set")
    where = ("--input", data / "LQ", "--gt", data / "GT", "--no-cost", "-q")
    state: dict[str, Any] = {"gain": 1.0, "mode": "nearest", "setting": 1.0}

    def put() -> None:
        weigh(mine / "mine.safetensors", state["gain"])
        (mine / "kernel.py").write_text(f'MODE = "{state["mode"]}"\n')
        (mine / "mine.toml").write_text(CARD.replace("gain = 1.0", f"gain = {state['setting']}"))

    def ask(results: str) -> None:
        names = choice.choice(["psnr", "psnr,ssim", "ssim,psnr,flicker"])
        assert run("--methods", "mine", *where, "--metrics", names, results=results)[0] == 0

    put()
    ask("base")
    shutil.copytree(tmp_path / "base", tmp_path / "new")
    for _ in range(choice.randint(2, 5)):
        what = choice.choice(["gain", "mode", "setting", "nothing"])
        options: dict[str, list[Any]] = {
            "gain": [1.0, 0.97, 0.9],
            "mode": ["nearest", "bilinear"],
            "setting": [1.0, 0.95],
        }
        if what in options:
            state[what] = choice.choice(options[what])
        put()
        if choice.random() < 0.8:
            ask("new")
    ask("new")
    metrics = ("--metrics", "psnr")
    assert run("--methods", "mine", *where, *metrics, results="true")[0] == 0
    code, text, _ = run("compare", tmp_path / "base", tmp_path / "new", *metrics, "--all")
    right, clear, _ = run("compare", tmp_path / "base", tmp_path / "true", *metrics, "--all")
    assert (code, text) == (right, clear)


def test_two_values_of_one_key_are_named_and_refused(run: Run, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", clips="a")
    run("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr")
    file = tmp_path / "results" / "records.jsonl"
    line = next(r for r in map(json.loads, file.read_text().splitlines()) if r["method"] == "mine")
    with file.open("a") as out:
        out.write(json.dumps(line | {"value": line["value"] + 0.001}) + "\n")
    assert "one key" not in run("table")[2]  # not a difference that anyone sees
    with file.open("a") as out:
        out.write(json.dumps(line | {"value": line["value"] + 1, "run_id": "later"}) + "\n")
    said = run("table")[2]
    assert f"PSNR of Mine on LQ/a is on record as {line['value']:.2f}" in said
    assert "(run later) under one key" in said
    results = tmp_path / "results"
    code, _, said = run("compare", results, results)
    assert (code, "under one key" in said) == (1, True)


def test_other_software_is_named_where_its_results_are_used(run: Run, tmp_path: Path) -> None:
    """Versions of packages are in no key, as they differ from machine to machine."""
    data = write_set(tmp_path / "set", clips="a")
    what = ("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr")
    assert "computed with" not in run(*what, "--no-cost")[2]
    shutil.copytree(tmp_path / "results", tmp_path / "old")
    assert "computed with" not in run(*what, "--no-cost")[2]
    for name in ("results", "old"):
        file = tmp_path / name / "runs.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines[0]["env"]["packages"] |= {"torch": "1.0", "numpy": "1.1", "gone": "3"}
        lines[0]["env"] |= {"driver": "500.1"}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = run(*what, "--no-cost")[2]
    versions = f"torch 1.0, numpy 1.1 against torch {torch.__version__.partition('+')[0]}"
    assert f"note: what is reused was computed with {versions}" in said.replace("+cu130", "")
    run(*what, "--no-cost", "--fresh")
    assert "computed with" not in run(*what, "--no-cost")[2]
    code, text, _ = run("compare", tmp_path / "old", tmp_path / "results")
    assert code == 0
    assert re.search(r"no regression: .*; computed with torch 1.0, numpy 1.1 against torch", text)
    text = run("compare", tmp_path / "old", tmp_path / "results", "--format", "json")[1]
    assert json.loads(text)["software"].startswith("torch 1.0, numpy 1.1 against")


def test_a_clip_that_is_no_more_leaves_the_mean(run: Run, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", clips="abc")
    what = ("--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr", "--no-cost")
    run("--methods", "bicubic,mine", *what)
    for side in ("LQ", "GT"):
        shutil.rmtree(data / side / "b")
    text = run("--methods", "bicubic", *what)[1]
    stored = run("table")[1]
    assert psnr(stored, "Bicubic") == psnr(text, "Bicubic")
    assert "2 clips" in stored
    assert psnr(stored) not in ("", "–")


def test_what_moved_is_the_same(run: Run, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set")
    metrics = ("--metrics", "psnr", "--no-cost")
    run("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", *metrics)
    data = data.rename(tmp_path / "elsewhere")
    again = ("--input", data / "LQ", "--gt", data / "GT", *metrics)
    said = run("--methods", "bicubic", *again)[2]
    assert "0 new results, 4 reused" in said
    text = run("table")[1]
    assert text.count("| Mine") == text.count("| Bicubic") == 1


def test_a_run_that_was_killed_is_no_harm(run: Run, mine: Path, tmp_path: Path) -> None:
    """It has written records and nothing about itself."""
    data = write_set(tmp_path / "set")
    what = ("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--metrics", "psnr")
    run(*what, "--no-cost")
    runs = tmp_path / "results" / "runs.jsonl"
    before = runs.read_text()
    weigh(mine / "mine.safetensors", 0.8)
    records = tmp_path / "results" / "records.jsonl"
    done = len(records.read_text().splitlines())
    run(*what, "--no-cost")
    lines = records.read_text().splitlines()
    later = [json.loads(line) | {"at": "2999-01-01T00:00:00Z"} for line in lines[done:]]
    records.write_text("\n".join([*lines[:done], json.dumps(later[0])]) + "\n")
    runs.write_text(before)
    text = run("table")[1]
    assert "scored with older weights or settings; run it again" in text
    assert psnr(text) == "–"


def test_engines_and_scales_stand_side_by_side() -> None:
    """A row for each engine, whatever became of the others; a dataset for each scale."""

    def made(number: int, title: str, scale: int, **more: Any) -> Record:
        about = {"weights_sha256": "w", "dataset": "my", "dataset_source": "/d/my", "clip": "a"}
        return a_record(
            **{"key": f"k{number}", "at": f"2026-01-0{number}T00:00:00Z", "title": title}
            | {"scale": scale, "size": (9, 16), **about, **more}
        )

    def shown(*records: Record) -> list[tuple[str, str, str]]:
        found = select_shown({r.key: replace(r) for r in records}, [])
        return [(r.dataset, r.method, r.title) for r in found]

    plain, engine = made(1, "Toy", 4), made(2, "Toy (openvino, bf16)", 4)
    assert shown(plain) == [("my", "toy", "Toy")]
    assert shown(engine) == [("my", "toy", "Toy (openvino, bf16)")]
    both = [("my", "toy", "Toy"), ("my", "toy (openvino, bf16)", "Toy (openvino, bf16)")]
    assert shown(plain, engine) == both
    failed = made(3, "Toy (onnxruntime)", 4, status="failed", value=None, weights_sha256="")
    assert len(shown(plain, engine, failed)) == 3
    later = made(3, "Toy", 4, weights_sha256="others")
    assert shown(plain, engine, later) == [("my", "toy", "Toy")]  # openvino's is of weights before

    later = made(3, "Toy (openvino)", 4, weights_sha256="others")
    assert shown(plain, later) == [("my", "toy", "Toy (openvino)")]

    def of(*records: Record) -> list[Record]:
        return select_shown({r.key: replace(r) for r in records}, [])

    summary = summarise(of(made(1, "Toy", 4), made(2, "Toy", 2)))  # the same scores, asked for anew
    assert [(b.dataset, b.scale) for b in summary.blocks] == [("my", 2)]
    older, newer = made(1, "Mine", 4, method="mine", clip_digest="4"), made(2, "Toy", 2)
    (block,) = summarise(of(older, newer)).blocks
    assert block.scale == 2
    cells = {row.method: row.cells["psnr"] for row in block.rows}
    assert cells["mine"].value is None
    assert "other frames" in cells["mine"].note
    assert cells["toy"].value

    for base, new in (([engine], [plain, engine]), ([plain, engine], [engine])):
        verdicts = {c.method: c.verdict for c in compare(of(*base), of(*new))}
        assert verdicts["toy (openvino, bf16)"] == "same"
        assert verdicts.get("toy") in (None, "new", "lost")
    (change,) = compare([plain], [engine])
    assert change.verdict == "same"
    assert "computed with toy as usual against openvino, bf16" in verdict_line([change])


def test_ends_of_paths() -> None:
    assert shorten_paths(["/d/a/LQ", "/d/b/LQ"]) == {"/d/a/LQ": "a/LQ", "/d/b/LQ": "b/LQ"}
    assert shorten_paths(["/a/x/LQ", "/b/x/LQ"]) == {"/a/x/LQ": "a/x/LQ", "/b/x/LQ": "b/x/LQ"}
    assert shorten_paths(["/LQ", "/a/LQ"]) == {"/LQ": "/LQ", "/a/LQ": "a/LQ"}
    asked = Asked("m", {"psnr": "k"})
    assert msgspec.json.decode(json.dumps(asked.to_json()), type=Asked) == asked


@pytest.mark.parametrize("name", ["reference", "ablation"])
def test_old_results_load_and_say_what_cannot_be_compared(
    run: Run, root: Path, name: str, tmp_path: Path
) -> None:
    old = root / "results" / name
    code, text, _ = run("compare", old, old)
    assert code == 0
    assert "no regression" in text
    store = Store(old)
    found = store.require()
    assert not store.notices
    assert {r.schema for r in found} <= {1, 2}
    assert select_shown(store.latest(), []) == found or name == "reference"


def test_what_old_results_leave_open_is_said_in_one_line(run: Run, root: Path) -> None:
    code, text, _ = run("compare", root / "results/ablation", root / "results/reference")
    (line,) = (line for line in text.splitlines() if line.startswith("REGRESSION"))
    assert code == 4
    assert "4 not comparable (E_warp: version 1 of the metric against 2)" in line
    assert "with records of schema 1, which do not say border and flow: taken for equal" in line


# What scores say


def test_scores_of_gt_that_are_known_are_those_that_would_be_computed(
    run: Run, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "set", clips="a")
    what = ("--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--no-cost")
    names = "psnr,ssim,psnr_y,ssim_y,ssim_rgb,tof,flicker,gradient_energy"
    text = run(*what, "--metrics", names)[1]
    stored = {r.metric: r for r in Store(tmp_path / "results").require() if r.method == "gt"}
    assert psnr(text, "GT (reference)") == "80.00"
    outputs = ("score", "--outputs", data / "GT", "--gt", data / "GT", "--metrics", names)
    assert run(*outputs, results="true")[0] == 0
    for r in Store(tmp_path / "true").require():
        known = stored[r.metric]
        assert known.value == pytest.approx(r.value, abs=1e-9)
        assert known.per_frame == pytest.approx(r.per_frame, abs=1e-9)


def test_without_gt_nothing_is_ranked_by_its_own_reference(run: Run, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set")
    text = run("--methods", "mine", "--input", data / "LQ", "--no-cost")[1]
    lines = text.splitlines()
    head = [cell.strip() for cell in lines[0].split("|")]
    for row in ("Bicubic", "Mine"):
        cells = next(line for line in lines if line.startswith(f"| {row} ")).split("|")
        for title in ("LR-PSNR dB ↑", "E_warp x1e-3 ↓", "Flicker levels ↓"):
            assert re.match(r" *[\d.]+", cells[head.index(title)])  # neither bold nor underlined
    assert "Without GT, LR-PSNR, E_warp, Flicker compare with LQ" in text
    assert "are not ranked" in text
    asked = {r.metric for r in Store(tmp_path / "results").require()}
    assert "piqe" in asked
    with_gt = run(
        "--methods", "mine", "--input", data / "LQ", "--gt", data / "GT", "--no-cost", results="gt"
    )[1]
    assert "Without GT" not in with_gt
    assert "**" in with_gt


def test_lossy_outputs_and_gt_are_marked(run: Run, tmp_path: Path) -> None:
    import av

    gt = write_frames(tmp_path / "gt" / "a", 64, count=3)
    pictures = [np.asarray(Image.open(p)) for p in sorted(gt.iterdir())]

    def film(name: str, codec: str, pixels: str) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream: Any = container.add_stream(codec, 25)
            stream.width = stream.height = 64
            stream.pix_fmt = pixels
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode())
        return tmp_path / name

    lossy = film("lossy.mp4", "libx264", "yuv420p")
    text = run("score", "--outputs", lossy, "--gt", gt, "--metrics", "psnr", results="1")[1]
    assert "| lossy (lossy)" in text
    assert "lossy came as h264 yuv420p, which is lossy" in text
    assert "| GT (reference) |" in text
    text = run("score", "--outputs", gt, "--gt", lossy, "--metrics", "psnr", results="2")[1]
    assert "| a (lossy)" in text
    assert "GT came as h264 yuv420p, which is lossy" in text
    whole = film("whole.mkv", "ffv1", "bgr0")
    text = run("score", "--outputs", whole, "--gt", gt, "--metrics", "psnr", results="3")[1]
    assert "lossy" not in text
    (found,) = (r for r in Store(tmp_path / "3").require() if r.method == "whole")
    assert found.read["outputs"] == {"codec": "ffv1", "pixels": "bgr0", "lossy": False}
    assert found.read["gt"]["codec"] == "png"


def test_records_carry_their_identity(run: Run, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", clips="a")
    outputs, gt = write_frames(tmp_path / "sr" / "a", 64, seed=3), data / "GT"
    more = ("--border", 4, "--frames", "stride:2", "--metrics", "psnr,ssim")
    assert run("score", "--outputs", outputs.parent, "--gt", gt, *more)[0] == 0
    found = next(r for r in Store(tmp_path / "results").require() if r.method == "sr")
    assert (found.schema, found.border_px, found.rule) == (2, 4, "stride:2")
    assert found.source == str(tmp_path / "sr")
    assert found.dataset_source == str(gt)
    assert found.output
    assert "4 px cut from each side" in run("table")[1]
    run("score", "--outputs", outputs.parent, "--gt", gt, "--preset", "dove", results="dove")
    assert {r.preset for r in Store(tmp_path / "dove").require()} == {"dove"}
    run("--methods", "mine", "--input", data / "LQ", "--gt", gt, "--no-cost", results="run")
    own = [r for r in Store(tmp_path / "run").require() if r.method == "mine"]
    assert {len(r.code) for r in own} == {16}
    warped = next(r for r in own if r.metric == "ewarp")
    assert warped.flow == "dis" or warped.flow.startswith("dis")
    assert len(warped.extra["valid_share"]) == 1


def test_the_commit_is_that_of_vsrbench(
    run: Run,
    mine: Path,
    git: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A root of methods in a repository of the user's is recorded beside it.

    Hooks of git run with the variables of one repository. Unpacked sources have no commit, and of
    a checkout of another user git tells none.
    """
    root = mine.parents[1]
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "mine")):
        git(root, *words)
    asked = ["git", "-C", specs.ROOT, "rev-parse", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True)
    own = None if found.returncode else found.stdout.strip()
    monkeypatch.setenv("GIT_DIR", str(root / ".git"))
    data = write_set(tmp_path / "set", clips="a")
    run("--methods", "mine", "--input", data / "LQ", "--metrics", "lr_psnr", "--no-cost")
    (line,) = Store(tmp_path / "results").read_runs()
    assert line["env"]["git"]["commit"] == own
    monkeypatch.delenv("GIT_DIR")
    assert line["env"]["root"] == {"commit": git(root, "rev-parse", "HEAD"), "dirty": False}
    shown = run("table")[1]
    assert f"commit {own[:7]}" in shown if own else "commit" not in shown
