"""What runs when there is a GPU: the same code at small size; cut, killed and gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from packaging.requirements import Requirement

from scripts import gpu_check, wheels
from scripts.gpu import levers, pages
from scripts.gpu.bench import ROOT, Bench, Results, full, load
from scripts.gpu.levers import LEVERS, graphed
from scripts.gpu.parts import PARTS
from tests.conftest import gone
from vsrbench.cards import specs
from vsrbench.core.errors import MissingError, UserError

if TYPE_CHECKING:  # drivers that are killed import this module, too
    import torch

TOY = """
import os, signal, sys, time
from pathlib import Path
from scripts.gpu.parts import main

LOG = Path(__file__).with_name("log")


def part(*names):
    def run(bench):
        for name in names:
            def work():
                with LOG.open("a") as log:
                    log.write(f"{os.getpid()} {name}\\n")
                if name == "crashes":
                    os.kill(os.getpid(), signal.SIGSEGV)
                if name == "fails":
                    raise RuntimeError("boom")
                time.sleep(60 if name == "hangs" and not LOG.with_name("quick").exists() else 0.05)
                return {"at": time.time_ns()}

            bench.measure(name, work)

    return run


main(parts={"one": part(*"abcd"), "two": part("e", NAME, "f"), "three": part(*"gh")}, imports=())
"""


def toy(folder: Path, name: str = "x") -> list[str]:
    """A program of three parts; the second one does what `name` says."""
    program = folder / "toy.py"
    program.write_text(TOY.replace("NAME", repr(name)))
    return [sys.executable, str(program)]


def run(folder: Path, program: list[str], limit: float = 30, seconds: float = 60) -> Results:
    results = Results(folder / "results.json")
    results.data |= {"kind": {"device": "toy", "small": True}, "env": ENV, "started": "2026-01-01"}
    limits = {"one": 30.0, "two": limit, "three": 30.0}
    gpu_check.check(results, list(limits), "cpu", False, seconds, limits, program)
    return Results(folder / "results.json")


ENV = {"packages": {"torch": "2"}, "cuda": None, "python": "3", "cores": 2, "cpu": "toy"}


def measured(results: Results) -> dict[str, int]:
    return {
        name: entry["figures"]["at"]
        for part in results.data["parts"].values()
        for name, entry in part["entries"].items()
        if entry["status"] == "ok"
    }


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@pytest.mark.slow
def test_every_part_runs_at_small_size_on_a_cpu(tmp_path: Path) -> None:
    asked = [sys.executable, "scripts/gpu_check.py", "--cpu", "--small", "--out", str(tmp_path)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "results.json").read_text())
    assert list(data["parts"]) == list(PARTS) == list(gpu_check.LIMITS)
    entries = [(n, e) for part in data["parts"].values() for n, e in part["entries"].items()]
    for name, entry in entries:
        assert entry["status"] in ("ok", "skipped"), name
        assert entry["why"] if entry["status"] == "skipped" else entry["figures"], name
    assert [e["status"] for e in data["parts"]["levers"]["entries"].values()].count("ok") >= 8
    text = (tmp_path / "README.md").read_text()
    assert all(f"### {title}" in text for title in pages.TITLES.values())
    assert "means nothing on a CPU" in text
    assert "46 |" in text, "the paper's figure stands beside ours"
    again = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stderr.count("there already") == len(PARTS)
    assert json.loads((tmp_path / "results.json").read_text())["parts"] == data["parts"]


def test_killed_at_random_and_gone_on_with(tmp_path: Path) -> None:
    """Nothing that was recorded is lost or measured again, and no part outlives its driver."""
    program = toy(tmp_path)
    code = "import sys; from pathlib import Path; from tests.test_gpu_check import run; "
    code += f"run(Path({str(tmp_path)!r}), {program!r})"
    moments, log, known, kills = random.Random(3), tmp_path / "log", dict[str, int](), 0

    def begun() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    for _ in range(40):
        goal = len(begun()) + moments.choice((1, 2, 3))
        driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
        while driver.poll() is None and len(begun()) < goal:
            time.sleep(0.002)
        if driver.poll() is not None:
            break
        time.sleep(0.08 * moments.random())
        driver.kill()
        driver.wait()
        kills += 1
        assert gone(int(begun()[-1].split()[0]))
        now = measured(Results(tmp_path / "results.json"))
        assert now.items() >= known.items()
        known = now
    assert kills > 1
    final = Results(tmp_path / "results.json")
    assert set(measured(final)) == {*"abcdefgh", "x"}
    assert measured(final).items() >= known.items()
    assert {part["state"] for part in final.data["parts"].values()} == {"done"}
    assert len(begun()) <= 9 + kills, "a kill costs at most the measurement that it ends"


def test_a_part_over_its_limit_is_cut_and_said(tmp_path: Path) -> None:
    program = toy(tmp_path, "hangs")
    cut = run(tmp_path, program, limit=3)
    assert cut.part("two")["state"] == "cut"
    assert cut.part("two")["entries"]["hangs"] == {"status": "cut", "why": "over its limit of 3 s"}
    assert set(measured(cut)) == {*"abcdegh"}
    pids = {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()}
    assert all(gone(pid) for pid in pids)
    assert "- hangs: cut: over its limit of 3 s" in pages.list_absent(cut.part("two"))
    (tmp_path / "quick").touch()
    whole = run(tmp_path, program)
    assert measured(whole).items() > measured(cut).items()
    assert set(measured(whole)) == {*"abcdefgh", "hangs"}


def test_a_crash_costs_one_measurement(tmp_path: Path) -> None:
    program = toy(tmp_path, "crashes")
    for _ in range(2):  # and is not brought about again
        found = run(tmp_path, program)
        part = found.part("two")
        assert (part["state"], part["why"]) == ("failed", "not measured: crashes")
        assert part["entries"]["crashes"]["why"] == "its process ended with SIGSEGV"
        assert set(measured(found)) == {*"abcdefgh"}
    assert (tmp_path / "log").read_text().count("crashes") == 1


def test_what_raises_is_recorded_and_tried_again(tmp_path: Path) -> None:
    program = toy(tmp_path, "fails")
    for _ in range(2):
        found = run(tmp_path, program)
        entry = found.part("two")["entries"]["fails"]
        assert (entry["status"], entry["why"]) == ("failed", "RuntimeError: boom")
        assert "Traceback" in entry["log"]
    assert (tmp_path / "log").read_text().count("fails") == 2
    assert (tmp_path / "log").read_text().count(" e\n") == 1


def test_a_part_without_entries_has_failed(tmp_path: Path) -> None:
    program = toy(tmp_path)
    source = Path(program[-1])
    source.write_text(source.read_text().replace('part("e", \'x\', "f")', "part()"))
    found = run(tmp_path, program)
    assert (found.part("two")["state"], found.part("two")["why"]) == (
        "failed",
        "it measured nothing",
    )
    assert set(measured(found)) == {*"abcdgh"}


def test_without_time_a_part_is_not_run(tmp_path: Path) -> None:
    found = run(tmp_path, toy(tmp_path), seconds=0)
    assert {part["state"] for part in found.data["parts"].values()} == {"not run"}
    assert not measured(found)
    assert set(measured(run(tmp_path, toy(tmp_path)))) == {*"abcdefgh", "x"}


def test_ctrl_c_ends_the_part_too(tmp_path: Path) -> None:
    program = toy(tmp_path, "hangs")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from pathlib import Path; from tests.test_gpu_check import run; "
    code += f"run(Path({str(tmp_path)!r}), {program!r})"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / "log", time.monotonic() + 60
    while not (log.exists() and "hangs" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) != 0
    assert gone(int(log.read_text().splitlines()[-1].split()[0]))


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/gpu_check.py", "--device", "cuda:7", "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == MissingError.exit_code
    assert done.stderr.startswith("error: cuda:7 cannot be used: ")
    assert "--cpu" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "held", "said"),
    [
        (["--device", "foo"], None, "no device 'foo'"),
        (["--cpu", "--parts", ""], None, "no part named ''"),
        (["--cpu", "--parts", "levers,"], None, "no part named ''"),
        (["--cpu", "--minutes", "0"], None, "leaves no time"),
        (["--cpu", "--minutes", "nan"], None, "leaves no time"),
        (["--device", "cpu"], '{"parts"', "holds no results"),
        (["--cpu"], "[]", "holds no results"),
        (["--cpu", "--fresh"], '{"parts": {}, "kind": "another"}', "holds results of another"),
        (["--cpu", "--out", "FILE"], "", "FILE: File exists"),
    ],
)
def test_wrong_options_are_one_line_and_touch_nothing(
    options: list[str],
    held: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu_check, "machine", lambda device: {"device": "cpu", "env": {}})
    monkeypatch.setattr(gpu_check, "check", lambda *args: pytest.fail("it ran"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ("FILE" if "FILE" in options else "results.json")
    if held is not None:
        file.write_text(held)
    assert gpu_check.main(["--out", str(tmp_path), *options]) == UserError.exit_code
    assert said in capsys.readouterr().err
    assert held is None or file.read_text() == held


def test_a_folder_is_that_of_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "machine", lambda device: {"device": "cpu", "env": {}})
    monkeypatch.setattr(gpu_check, "check", lambda results, *args: files.append(results.file))
    monkeypatch.chdir(tmp_path)
    files: list[Path] = []
    gpu_check.main(["--cpu", "--out", "here"])
    assert files == [tmp_path / "here/results.json"]


def test_numbers_that_are_none_are_failures(tmp_path: Path) -> None:
    bench = Bench(Results(tmp_path / "results.json"), "one", "cpu", True)
    assert bench.measure("nan", lambda: {"ms": float("nan")}) == {}
    entry = Results(tmp_path / "results.json").part("one")["entries"]["nan"]
    assert entry["status"] == "failed"


def test_levers_are_settings_of_the_card() -> None:
    card = specs.method_card(specs.ROOT, "instavsr-full")
    for name, lever in LEVERS.items():
        assert set(lever.settings) <= set(card.settings), name


@pytest.mark.parametrize(
    "around", [levers.fp32_norms, levers.fused_norms, levers.strips, levers.padded_heads]
)
def test_levers_change_no_picture(around: levers.Around, tmp_path: Path) -> None:
    import torch

    bench = Bench(Results(tmp_path / "results.json"), "levers", "cpu", True)
    card = full(bench)
    clip = [torch.rand(3, 32, 48) for _ in range(3)]
    want = list(load(card, "cpu").upscale(iter(clip)))
    method = load(card, "cpu")
    with around(method, True):
        got = list(method.upscale(iter(clip)))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(got, want, strict=True))


class Recorded:
    """What a CUDA graph does: it holds no results, and repeats calls on the same memory."""

    calls: ClassVar[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def replay(self) -> None:
        given, made = self.calls[-1]
        made.copy_(given.square())


def test_a_graph_is_fed_and_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: nullcontext())

    def drawn(x: torch.Tensor) -> torch.Tensor:
        Recorded.calls.append((x, x.square()))
        return Recorded.calls[-1][1]

    backbone = SimpleNamespace(drawn=drawn)
    with graphed(SimpleNamespace(net=SimpleNamespace(backbone=backbone)), False):
        made = [backbone.drawn(torch.full((2,), x)) for x in (1.0, 2.0, 3.0)]
    assert [y[0].item() for y in made] == [1.0, 4.0, 9.0]
    assert len(Recorded.calls) == 3, "two to warm up, one that is captured"


# Pages


def results(device: str, **parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def part(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        ok = {n: {"status": "ok", "figures": figures} for n, figures in entries.items()}
        return {"state": "done", "why": "", "seconds": 1.0, "entries": ok}

    kind = {"device": device, "small": False}
    parts = {name: part(entries) for name, entries in parts.items()}
    return {"kind": kind, "env": ENV, "started": "2026-01-01T00:00:00Z", "parts": parts}


def paced(ms: float, mib: float) -> dict[str, Any]:
    given = {"ms_per_frame": ms, "allocator_mib": mib, "side": 512, "frames": 10}
    return {**given, "warmup_s": 1.0, "first_output_ms": 3 * ms, "precision": "fp16"}


CLIP = {
    **{"frames": 30, "size": [512, 512], "fps": 6.0, "first_output_ms": 500.0, "why": {}},
    **{"vram_peak_mib": 4096.0, "vram_allocator_mib": 3072.0, "j_per_frame": 61.26},
}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_clip_stands_beside_the_papers() -> None:
    _, _, ours, paper = rows(pages.headline({"fp16": CLIP}))
    assert ours == [
        *("instavsr-full, fp16", "30 x 2048x2048", "5.00", "6.00", "0.50", "4.00", "3.00", "61.3")
    ]
    assert paper[:4] == ["paper, RTX 4090 (as printed)", "30 x 2048x2048", "46", "0.65"]
    assert paper[5] == "6.61 (7.1 GB)"


def test_levers_are_ratios_to_the_card() -> None:
    entries = {"as the card says": paced(100, 4096), "compiled": paced(80, 2048)}
    _, _, base, lever = rows(pages.levers(entries))
    assert base[:5] == ["as the card says", "100.00", "1.00x", "4.00", "1.00x"]
    assert lever[:5] == ["compiled", "80.00", "1.25x", "2.00", "0.50x"]
    assert rows(pages.levers({"compiled": paced(80, 2048)}))[2][2] == "–", "nothing to hold it to"


def test_the_newest_results_of_each_card(tmp_path: Path) -> None:
    small = results("A")
    small["kind"]["small"] = True
    for folder, made in {
        "a-2026-01-02": results("A", tests={"new": {}}),
        "a-2026-01-01": results("A", tests={"old": {}}),
        "b-2025-12-31": results("B"),
        "a-2026-02-01": small,
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.json").write_text(json.dumps(made))
    found = {made["kind"]["device"]: made for made in pages.find_newest(tmp_path)}
    assert set(found) == {"A", "B"}
    assert "new" in found["A"]["parts"]["tests"]["entries"]


def test_pages_are_written_between_their_comments(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    file = tmp_path / "docs" / "speed.md"
    file.write_text("before\n<!-- gpu-speed -->\nold\n<!-- /gpu-speed -->\nafter\n")
    assert pages.NOTHING in pages.fill_file(tmp_path, "docs/speed.md")
    folder = tmp_path / "results" / "gpu" / "a-2026-01-01"
    folder.mkdir(parents=True)
    made = results("Card A", headline={"fp16": CLIP}, peers={"instavsr-full": paced(100, 1)})
    made["parts"]["peers"]["entries"]["instavsr-full"]["figures"]["weights"] = "random"
    (folder / "results.json").write_text(json.dumps(made))
    text = pages.fill_file(tmp_path, "docs/speed.md")
    assert text.startswith("before\n<!-- gpu-speed -->\n## Card A")
    assert text.endswith("<!-- /gpu-speed -->\nafter\n")
    assert "old" not in text.partition("/gpu-speed")[0].partition("## Card A")[2]
    assert "Measured on Card A" in pages.cost_line(made)
    assert max(map(len, pages.cost_line(made).splitlines())) <= 100
    file.write_text("none")
    with pytest.raises(MissingError, match="lacks <!-- gpu-speed -->"):
        pages.fill_file(tmp_path, "docs/speed.md")


@pytest.mark.parametrize("place", pages.PLACES)
def test_pages_say_what_was_measured(place: str) -> None:
    text = (ROOT / place).read_text()
    if f"<!-- {pages.PLACES[place][0]} -->" not in text:
        pytest.skip(f"{place} has no place for them")
    assert pages.fill_file(ROOT, place) == text, "run python -m scripts.gpu.pages"


# Wheels


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("numpy>=2", False),
        ("numpy>=3", True),
        ("absent", True),
        ("absent; python_version < '3.12'", False),
        ("absent; extra == 'test'", False),
        ("absent; sys_platform == 'linux'", True),
        ("Scikit.Image", False),
    ],
)
def test_what_a_machine_lacks(asked: str, expected: bool) -> None:
    have = {"numpy": "2.5.2", "scikit-image": "0.26.0"}
    assert wheels.is_lacking(Requirement(asked), have, "3.12") == expected


def test_wheels_bring_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = {"spandrel": ["einops", "numpy"], "einops": ["more; extra == 'x'", "base>=1"]}
    fetched = []

    def fetch(requirement: Requirement, pinned: Any, python: str, folder: Path) -> Path:
        fetched.append(requirement.name)
        wheel = folder / f"{requirement.name.replace('-', '_')}-9-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            lines = [f"Requires-Dist: {need}" for need in asks.get(requirement.name, [])]
            archive.writestr(f"{requirement.name}-9.dist-info/METADATA", "\n".join(lines))
        return wheel

    monkeypatch.setattr(wheels, "fetch", fetch)
    have = {wheels.canonicalize_name(r.name): "99" for r in wheels.read_declared(["run"])}
    wheels.gather(["run", "spandrel"], have, "3.12", tmp_path)
    assert sorted(fetched) == ["base", "einops", "spandrel"]


def test_extras_name_extras() -> None:
    names = {requirement.name for requirement in wheels.read_declared(["instavsr"])}
    assert {"numpy", "torch", "diffusers"} <= names
    assert "pyiqa" not in names
