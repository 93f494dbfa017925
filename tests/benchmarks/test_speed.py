"""The benchmark of speed at a small size: it runs, and two runs of it can be compared.

`pytest tests/benchmarks -n 0 --benchmark-enable` also times PSNR as a function.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.speed import main
from vsrbench import metrics
from vsrbench.cli import main as vsrbench


def test_two_runs_are_judged_by_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    names = ["psnr", "ewarp", "decode", "read"]
    small = ["--size", "256x256", "--frames", "2", "--rounds", "1", "--results"]
    assert main([*names, *small, str(tmp_path / "base")]) == 0
    assert main([*names[-2:], *small, str(tmp_path / "new")]) == 0
    table = capsys.readouterr().out
    for name in ("psnr", "ewarp", "png", "mp4", "read"):
        assert f"| {name} " in table
    both = [str(tmp_path / "base"), str(tmp_path / "new"), "--cost", "100000", "--format", "json"]
    assert vsrbench(["compare", *both]) == 4  # the new one lacks metrics
    found = json.loads(capsys.readouterr().out)["changes"]
    assert {c["verdict"] for c in found if c["method"] == "png"} == {"same"}
    assert {c["verdict"] for c in found if c["method"] == "psnr"} == {"lost"}


def test_a_name_that_nothing_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["psrn"])
    assert "no case named 'psrn'. Did you mean 'psnr'?" in capsys.readouterr().err


def test_psnr_as_a_function(benchmark: BenchmarkFixture) -> None:
    """Two pictures of white noise: the mean of (a - b)^2 over 0..255 is (256^2 - 1) / 6."""
    sr, gt = np.random.default_rng(0).integers(0, 256, (2, 4, 180, 320, 3), np.uint8)
    score = benchmark(metrics.psnr, sr, gt)
    assert score.value == pytest.approx(10 * np.log10(255**2 / ((256**2 - 1) / 6)), abs=0.02)
