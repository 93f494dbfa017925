"""The Python interface: numbers of the command line, objects as methods, README, notebook."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vsrbench
from tests.test_cli import write_clip
from vsrbench.cli import main
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.data.frames import open_frames
from vsrbench.results.store import Store


class Nearest:
    """The card `nearest` as an object of the caller."""

    def upscale(self, frames: Any) -> Any:
        for x in frames:
            yield x.repeat_interleave(4, 1).repeat_interleave(4, 2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("api")
    return write_clip(folder / "lq", 3, 40, 48), write_clip(folder / "gt", 3, 40, 48, gt=True)


def test_an_object_on_arrays_gives_the_numbers_of_the_command_line(
    clip: tuple[Path, Path], tmp_path: Path
) -> None:
    lq, gt = clip
    names = "psnr,ssim,lr_psnr,ewarp,flicker"
    arguments = ["--methods", "nearest", "--input", str(lq), "--gt", str(gt), "--no-cost", "-q"]
    assert main([*arguments, "--metrics", names, "--results", str(tmp_path / "a")]) == 0
    arrays = tuple(np.stack(list(open_frames(path))) for path in clip)
    found = vsrbench.evaluate(
        {"mine": Nearest()}, {"lq": arrays}, metrics=names.split(","), results=tmp_path / "b"
    )
    assert found.exit_code == 0
    there = vsrbench.load(tmp_path / "a").to_frame().set_index(["method", "metric"]).value
    here = found.to_frame().set_index(["method", "metric"]).value
    for name in names.split(","):
        assert here["mine", name] == there["nearest", name]
        assert here["bicubic", name] == there["bicubic", name]
    assert "mine" in found.table()
    said = "15 records, 3 methods (bicubic, gt, mine), 1 dataset (arrays)>"
    assert repr(found) == f"<Results in {tmp_path / 'b'}: {said}"
    assert found._repr_markdown_() == found.table()
    empty = vsrbench.Results(Store(tmp_path / "none"))
    assert repr(empty) == f"<Results: no records in {tmp_path / 'none'}>"
    assert empty._repr_markdown_() is None
    assert "Arrays, x4, 1 clip" in found.table("terminal")


def test_what_an_object_fails_at_is_said_once(
    clip: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def upscale(self, frames: Any) -> Any:
            raise ValueError("no idea")

    found = vsrbench.evaluate(
        {"failing": Failing()}, str(clip[0]), metrics=["lr_psnr"], results=tmp_path, quiet=False
    )
    assert found.exit_code == 1
    assert capsys.readouterr().err.count("no idea") == 1
    frame = found.to_frame().set_index("method")
    assert (frame.status["failing"], frame.status["bicubic"]) == ("failed", "ok")
    assert "no idea" in frame.reason["failing"]


def test_cards_paths_and_objects_together(clip: tuple[Path, Path], tmp_path: Path) -> None:
    lq, gt = clip
    found = vsrbench.evaluate(
        {"nearest": "nearest", "mine": Nearest()},
        str(lq),
        gt=str(gt),
        metrics=["psnr"],
        results=tmp_path,
        keep_frames=True,
    )
    values = found.to_frame().set_index("method").value
    assert values["nearest"] == values["mine"]
    again = vsrbench.evaluate(["nearest"], str(lq), gt=str(gt), metrics=["psnr"], results=tmp_path)
    assert again.to_frame().set_index("method").value["nearest"] == values["nearest"]
    assert found.figure("crops").is_file()
    assert found.report(say=lambda _: None).is_file()
    change = found.compare(again, metrics=["psnr"])
    assert change.to_frame().empty is False
    assert json.loads(change.json())["regressed"] == change.regressed


class Broken:
    def __init__(self, give: Any) -> None:
        self.give = give

    def upscale(self, frames: Any) -> Any:
        for x in frames:
            yield self.give(x)


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda x: x, "output is"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: torch.full((3, 160, 192), torch.nan), "NaN"),
    ],
)
def test_an_object_that_fails_is_a_row_with_its_reason(
    clip: tuple[Path, Path], tmp_path: Path, give: Any, text: str
) -> None:
    found = vsrbench.evaluate(
        {"mine": Broken(give), "fine": Nearest()},
        str(clip[0]),
        metrics=["flicker"],
        results=tmp_path,
    )
    assert found.exit_code == 1
    rows = found.to_frame().set_index("method")
    assert rows.status["mine"] == "failed"
    assert text in rows.reason["mine"]
    assert rows.status["fine"] == "ok"


def test_a_traceback_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error itself is said once."""
    frames = [np.zeros((16, 16, 3), np.uint8)] * 2  # a list of frames is a clip
    for verbose in (False, True):
        given: Any = {"metrics": ["flicker"], "results": tmp_path / str(verbose)}
        found = vsrbench.evaluate(
            {"mine": Broken(lambda x: 1 / 0)}, frames, verbose=verbose, **given
        )
        assert found.exit_code == 1
        said = capsys.readouterr().err
        assert said.count("error: 'mine' failed at frame 0") == 1
        assert "with -v (in Python verbose=True)" in " ".join(said.split())
        assert said.count("Traceback") == verbose


def test_wrong_arguments(clip: tuple[Path, Path], tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)

    def call(methods: Any, data: Any, **more: Any) -> None:
        vsrbench.evaluate(methods, data, results=tmp_path, **more)

    with pytest.raises(UserError, match="of type int, without upscale"):
        call({"mine": 3}, frames)
    with pytest.raises(UserError, match="no method named 'nearst'"):
        call("nearst", frames)
    with pytest.raises(UserError, match="is the name of a method here"):
        call({"bicubic": Nearest()}, frames)
    with pytest.raises(UserError, match="cannot be the name of a method"):
        call({"../x": Nearest()}, frames)
    with pytest.raises(DataError, match="float64"):
        call("nearest", frames / 2)
    with pytest.raises(UserError, match="no dataset named"):
        call("nearest", "no/such/path")
    with pytest.raises(UserError, match="no metric named 'psnt'"):
        call("nearest", frames, metrics=["psnt"])
    with pytest.raises(MissingError):
        vsrbench.load(tmp_path / "none")
    assert not [p for p in tmp_path.rglob("*") if p.is_dir() and p.name != "frames"]


def test_import_is_light(root: Path) -> None:
    code = "import sys, vsrbench; print(*{'torch', 'numpy', 'pandas', 'cv2'} & set(sys.modules))"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stderr
    assert time.perf_counter() - started < 2  # 0.1 s on a machine that is idle


def test_the_example_of_the_readme(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S):
        exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "PSNR dB ↑" in out
    assert "Registration" not in out


def test_the_notebook(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((root / "docs/example.ipynb").read_text())["cells"]
    assert len(cells) >= 10
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "example.ipynb", "exec"), names)
    assert "mine" in capsys.readouterr().out
