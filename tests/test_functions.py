"""Metrics as functions: the values of a run, on arrays and paths; metrics of other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import write_clip
from vsrbench import metrics
from vsrbench.cli import main
from vsrbench.core.errors import DataError, UserError
from vsrbench.data.frames import open_frames

NAMES = ("psnr", "ssim", "lr_psnr", "ewarp", "flicker", "gradient_energy")


def test_functions_give_the_values_of_a_run(tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq", 3, 40, 48)
    gt = write_clip(tmp_path / "gt", 3, 40, 48, gt=True)
    arguments = ["--methods", "bicubic", "--input", str(lq), "--gt", str(gt), "--no-cost", "-q"]
    results = ["--keep-frames", "--results", str(tmp_path / "r"), "--metrics", ",".join(NAMES)]
    assert main([*arguments, *results]) == 0
    lines = (tmp_path / "r" / "records.jsonl").read_text().splitlines()
    records = {r["metric"]: r for r in map(json.loads, lines) if r["method"] == "bicubic"}
    sr = tmp_path / "r" / "frames" / "bicubic" / "lq" / "lq"
    arrays = np.stack(list(open_frames(sr)))
    for name in NAMES:
        own = getattr(metrics, name)(arrays, list(open_frames(gt)), lq=str(lq))
        assert float(own) == records[name]["value"], name
        assert list(own.per_frame) == records[name]["per_frame"]
        assert float(getattr(metrics, name)(sr, gt, lq=lq)) == own.value


def test_wrong_arguments_are_one_line() -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(DataError, match="float64 16x16x3, not uint8"):
        metrics.psnr(frames / 255, frames)
    for wrong, cure in (
        (frames[0], "give x[None]"),
        (frames[..., 0], "repeat grey"),
        (frames.transpose(0, 3, 1, 2), "channels are last"),
        ([frames[0, ..., 0]], "repeat grey"),
        ([frames], "give T x H x W x 3"),
        (frames / 255, "scale to 0..255"),
    ):
        with pytest.raises(DataError) as raised:
            metrics.psnr(wrong, wrong)
        assert cure in raised.value.hint
    with pytest.raises(DataError, match="16x16x3 is one frame, and frames are T x H x W x 3"):
        metrics.psnr(frames[0], frames[0])
    with pytest.raises(DataError, match="2 frames and 1 of GT"):
        metrics.psnr(frames, frames[:1])
    with pytest.raises(DataError, match="16x16, its reference 8x8"):
        metrics.psnr(frames, frames[:, :8, :8])
    with pytest.raises(DataError, match="needs ground truth"):
        metrics.psnr(frames)
    with pytest.raises(AttributeError, match="no attribute 'psnt'"):
        metrics.psnt  # noqa: B018
    with pytest.raises(UserError, match="no metric named 'psnt'"):
        metrics.metric_info("psnt")


def test_no_module_hides_a_metric() -> None:
    modules = {p.stem for p in Path(metrics.__file__).parent.iterdir()}
    assert not modules & set(metrics.METRICS)
    assert set(metrics.METRICS) <= set(dir(metrics))


MEAN = """
from vsrbench.core.types import Score


class Mean:
    def __init__(self, info, device="cpu"):
        self.values = []

    def update(self, sample):
        self.values.append(float(sample.sr.mean()))

    def result(self):
        return Score(sum(self.values) / len(self.values), tuple(self.values))
"""


def test_a_metric_and_a_method_of_an_installed_package(tmp_path: Path, root: Path) -> None:
    """Found by entry points, as if installed by pip; records are read without the package."""
    site = tmp_path / "site"
    package = site / "vsr_extras"
    (package / "cards").mkdir(parents=True)
    (package / "scores").mkdir()
    info = site / "vsr_extras-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vsr-extras\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[vsrbench.methods]\nx = vsr_extras.cards\n[vsrbench.metrics]\nx = vsr_extras.scores\n"
    )
    for folder in (package, package / "cards", package / "scores"):
        (folder / "__init__.py").write_text("")
    (package / "scores" / "mean.py").write_text(MEAN)
    (package / "scores" / "mean_level.toml").write_text(
        'title = "Mean level"\nversion = 1\nbetter = "higher"\nunit = "levels"\n'
        'target = "vsr_extras.scores.mean:Mean"\n'
    )
    (package / "cards" / "repeat.toml").write_text(
        'version = 1\ntitle = "Repeat"\nentry = "vsr_extras.cards.repeat:load"\nscale = 4\n'
        '[weights]\norigin = "none"\n'
    )
    (package / "cards" / "repeat.py").write_text(
        "class Repeat:\n    def upscale(self, frames):\n        for x in frames:\n"
        "            yield x.repeat_interleave(4, 1).repeat_interleave(4, 2)\n\n\n"
        "def load(card, device, dtype):\n    return Repeat()\n"
    )
    lq = write_clip(tmp_path / "lq", 2)
    results = ["--results", str(tmp_path / "r")]

    def call(*arguments: str, there: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [site, root] if there else [root]))
        return subprocess.run(
            [sys.executable, "-m", "vsrbench", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )

    run = ["--methods", "repeat", "--input", str(lq), "--metrics", "mean_level", "--no-cost", "-q"]
    done = call(*run, *results)
    assert done.returncode == 0, done.stderr
    mean = np.stack(list(open_frames(lq))).mean()
    assert f"{mean:.3f}" in done.stdout
    assert "Mean level levels ↑" in done.stdout
    assert "1 reused" in (again := call(*run, *results)).stderr or "2 reused" in again.stderr
    assert "mean_level" in call("list", "metrics").stdout
    edited = MEAN.replace("float(sample.sr.mean())", "float(sample.sr.mean()) / 2")
    (package / "scores" / "mean.py").write_text(edited)  # the version stays
    assert f"{mean / 2:.3f}" in call(*run, *results).stdout
    read = call("table", *results, there=False)
    assert "Mean level levels ↑" in read.stdout, read.stderr
    gone = call(*run, *results, there=False)
    assert gone.returncode == 2
    assert "no method named 'repeat'" in gone.stderr
