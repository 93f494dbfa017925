"""The benchmark of speed at a small size: it runs, and two runs of it can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.speed import main
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
