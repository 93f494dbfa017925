"""Shards of a run on several machines, and their results in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import Run, bench, run, write_clip  # noqa: F401
from tests.test_core import a_record
from vsrbench.cli import main
from vsrbench.core.types import Record
from vsrbench.results.merge import merge, place_side_by_side
from vsrbench.results.store import Store


def scores(folder: Path) -> dict[str, Any]:
    return {r.key: (r.status, r.value, r.per_frame) for r in Store(folder).latest().values()}


def test_shards_merged_equal_one_run(run: Run, tmp_path: Path) -> None:  # noqa: F811
    for number, name in enumerate("abcd"):
        write_clip(tmp_path / "lq" / name, count=2 + number)
    asked = ["--methods", "good,lanczos", "--input", tmp_path / "lq", "--metrics", "lr_psnr"]
    asked += ["--no-cost", "--keep-frames", "--device", "cpu"]
    assert run(*asked, results="one")[0] == 0
    parts = [f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        assert run(*asked, "--shard", f"{i}/3", results=part)[0] == 0
    held = [scores(tmp_path / part) for part in parts]
    assert sum(map(len, held)) == len(set().union(*held)) == 12  # none twice
    assert max(map(len, held)) - min(map(len, held)) <= 2
    into = tmp_path / "all"
    found = merge([Store(tmp_path / part) for part in parts], Store(into))
    assert (found.records, found.runs, found.overlap, found.conflicts) == (12, 3, 0, [])
    assert scores(into) == scores(tmp_path / "one")
    kept = {p.relative_to(tmp_path / "one") for p in (tmp_path / "one/frames").rglob("*")}
    assert kept == {p.relative_to(into) for p in (into / "frames").rglob("*")}
    again = run(*asked, results="all")
    assert "done: 0 new results" in again[2]
    found = merge([Store(tmp_path / part) for part in parts], Store(into))
    assert (found.records, found.runs, found.overlap, found.conflicts) == (0, 0, 0, [])


def test_overlap_and_conflicts_are_named(run: Run, tmp_path: Path) -> None:  # noqa: F811
    asked = ["--methods", "good", "--input", write_clip(tmp_path / "lq"), "--metrics", "lr_psnr"]
    assert run(*asked, "--no-cost", "--device", "cpu", results="a")[0] == 0
    first, _ = Store(tmp_path / "a").latest().values()
    for name, value in (("b", first.value), ("c", 99.0)):
        Store(tmp_path / name).prepare()
        Store(tmp_path / name).append(replace(first, run_id="other", value=value))
    found = merge([Store(tmp_path / x) for x in "abc"], Store(tmp_path / "d"))
    assert (found.records, found.overlap, len(found.conflicts)) == (2, 1, 1)
    assert f"lr_psnr of {first.method} on lq/lq is {first.value} and, in" in found.conflicts[0]
    assert scores(tmp_path / "d") == scores(tmp_path / "a")


def test_a_table_of_several_folders(
    run: Run,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Parts of one run are one table, that of `merge`, without a folder of its own."""
    for number, name in enumerate("ab"):
        write_clip(tmp_path / "lq" / name, count=2 + number)
    asked = ["--methods", "lanczos", "--input", tmp_path / "lq", "--metrics", "lr_psnr"]
    asked += ["--no-cost", "--device", "cpu"]
    for i in range(2):
        assert run(*asked, "--shard", f"{i}/2", results=f"part{i}")[0] == 0
    parts = [str(tmp_path / f"part{i}") for i in range(2)]
    merge([Store(Path(part)) for part in parts], Store(tmp_path / "all"))
    found = run("table", results="all")

    def table(*words: str) -> tuple[int, str, str]:
        code = main(["table", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    assert found[0] == 0
    assert "over 2 clips" in found[1]
    assert table(*parts) == found
    assert table(*parts, "--results", parts[0])[0] == 2
    assert table(str(tmp_path / "none"))[0] == 3


def test_folders_side_by_side(tmp_path: Path) -> None:
    """What folders agree on is one row; what they score differently has one for each."""

    def score(method: str, metric: str, key: str) -> Record:
        return a_record(key=key, method=method, title=method, dataset="s", clip="c", metric=metric)

    one = [score("a", "psnr", "1"), score("b", "psnr", "2"), score("gt", "psnr", "3")]
    two = [score("a", "psnr", "1"), score("b", "psnr", "9"), score("gt", "psnr", "8")]
    two.append(score("a", "ssim", "4"))
    found = place_side_by_side({str(tmp_path / "x" / "r"): one, str(tmp_path / "y" / "r"): two})
    names = sorted((r.method, r.metric, r.key) for r in found)
    assert names == [
        ("a", "psnr", "1"),
        ("a", "ssim", "4"),
        ("b (x/r)", "psnr", "2"),
        ("b (y/r)", "psnr", "9"),
        ("gt", "psnr", "3"),
    ]
    same_key = [replace(one[0], value=99.0)]  # one key with two values is never one row
    found = place_side_by_side({str(tmp_path / "x"): one[:1], str(tmp_path / "y"): same_key})
    assert [r.value for r in found] == [one[0].value, 99.0]
    assert len({r.method for r in found}) == 2
