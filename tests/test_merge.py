"""Shards of a run on several machines, and their results in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_cli import Run, bench, run, write_clip  # noqa: F401
from tests.test_core import a_record
from vsrbench.cards.specs import GT_CARD
from vsrbench.cli import main
from vsrbench.core.errors import FAILED
from vsrbench.core.types import Record
from vsrbench.data.frames import Mark, digests_path, read_mark, write_mark
from vsrbench.results.merge import merge, place_side_by_side
from vsrbench.results.store import Store
from vsrbench.run.executors import Crew
from vsrbench.run.runner import Run as Runner
from vsrbench.run.runner import RunConfig


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
    assert (found.records, found.runs, found.overlaps, found.conflicts) == (12, 3, {}, {})
    assert scores(into) == scores(tmp_path / "one")
    kept = {p.relative_to(tmp_path / "one") for p in (tmp_path / "one/frames").rglob("*")}
    assert kept == {p.relative_to(into) for p in (into / "frames").rglob("*")}
    again = run(*asked, results="all")
    assert "done: 0 new results" in again[2]
    found = merge([Store(tmp_path / part) for part in parts], Store(into))
    assert (found.records, found.runs, found.overlaps, found.conflicts) == (0, 0, {}, {})


def test_overlaps_and_conflicts_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for each two folders, method and dataset, with a count and the first of them."""

    def fill(name: str, run_id: str, clips: int, value: float, frames: str = "same") -> None:
        store = Store(tmp_path / name)
        store.prepare()
        for n in range(clips):
            clip = f"c{n}"
            about = {"run_id": run_id, "method": "m", "dataset": "s", "clip": clip}
            store.append(a_record(key=f"{n}", metric="psnr", value=value, **about))
            for kept in (clip, f".{clip}.lq"):  # frames, and the LQ that the report shows
                folder = store.frames / "m" / "s" / kept
                folder.mkdir(parents=True)
                write_mark(folder, Mark("key"))
                digests_path(folder).write_text(frames)

    fill("a", "one", 4, 30.0)
    fill("b", "two", 5, 30.0)  # computed again, and one more
    fill("c", "one", 1, 30.0)  # a copy
    fill("d", "three", 1, 99.0, "other")
    parts, into = [str(tmp_path / x) for x in "abcd"], tmp_path / "all"
    a, b, c, d = parts
    assert main(["merge", a, *parts, "--into", str(into)]) == FAILED  # a folder twice is it once
    four, kept = "(psnr on c0, psnr on c1, psnr on c2 and 1 more)", "equal, and kept once"
    differ = "they differ; the first ones are kept"
    assert capsys.readouterr().err.splitlines() == [
        f"overlap: 4 scores of m on s in {a} and {b} {four}: {kept}",
        f"overlap: kept frames of 4 clips of m on s in {a} and {b} (c0, c1, c2 and 1 more): {kept}",
        f"overlap: 1 score of m on s in {a} and {c} (psnr on c0): {kept}",
        f"overlap: kept frames of 1 clip of m on s in {a} and {c} (c0): {kept}",
        f"conflict: 1 score of m on s in {a} and {d} (psnr on c0 is 30.0 and 99.0): {differ}",
        f"conflict: kept frames of 1 clip of m on s in {a} and {d} (c0): {differ}",
        "merged: added 5 records and 0 runs; 10 overlaps, 2 conflicts; "
        f"records in {into}/records.jsonl",
    ]
    assert {key: value for key, (_, value, _) in scores(into).items()} == dict.fromkeys(
        "01234", 30.0
    )


def test_rounding_is_no_conflict(tmp_path: Path) -> None:
    """Nor does it give a method two rows; the same frames in another order are a conflict."""

    def fill(name: str, *per_frame: float) -> Store:
        store = Store(tmp_path / name)
        store.prepare()
        value = sum(per_frame) / len(per_frame)
        store.append(a_record(run_id=name, value=value, per_frame=per_frame))
        return store

    first = fill("a", 0.25, 0.5)
    for name, per_frame, rows in (("near", (0.25, 0.5 + 1e-8), 1), ("far", (0.25, 0.5001), 2)):
        other = fill(name, *per_frame)
        found = merge([first, other], Store(tmp_path / f"with-{name}"))
        assert (found.records, bool(found.conflicts)) == (1, name == "far")
        both = place_side_by_side({s.folder.name: list(s.read()) for s in (first, other)})
        assert len({r.method for r in both}) == rows
    assert merge([first, fill("turned", 0.5, 0.25)], Store(tmp_path / "c")).conflicts


def test_what_folders_share_is_said_in_few_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        store = Store(tmp_path / name)
        store.prepare()
        for n in range(30):
            store.append(a_record(key=f"{n}", method=f"m{n}", run_id=name))
    parts = [str(tmp_path / x) for x in "ab"]
    assert main(["merge", *parts, "--into", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 22
    assert said[-2] == "overlap: 10 lines more of this kind"
    # Folder b is merged again: its runs were not there, its scores were.
    assert main(["merge", *parts, "--into", str(tmp_path / "all")]) == 0
    assert "added 0 records" in capsys.readouterr().err


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


def test_a_name_that_another_begins_with(tmp_path: Path) -> None:
    """Frames of clip `a` do not bring the mark of `a.b`, whose frames are others there."""
    for part, clip, key in (("x", "a.b", "one"), ("y", "a", "two"), ("y", "a.b", "three")):
        folder = tmp_path / part / "frames" / "m" / "s" / clip
        folder.mkdir(parents=True)
        write_mark(folder, Mark(key))
        digests_path(folder).write_text(key)
    found = merge([Store(tmp_path / "x"), Store(tmp_path / "y")], Store(tmp_path / "z"))
    assert len(found.conflicts) == 1
    at = tmp_path / "z" / "frames" / "m" / "s"
    held = {
        n: (read_mark(at / n).output_key, digests_path(at / n).read_text()) for n in ("a", "a.b")
    }
    assert held == {"a": ("two", "two"), "a.b": ("one", "one")}


def test_more_shards_than_jobs(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """One without jobs is a success, and part of a merge; what no run has written is neither."""
    asked = ["--methods", "lanczos", "--input", write_clip(tmp_path / "lq"), "--metrics", "lr_psnr"]
    asked += ["--no-cost", "--device", "cpu"]
    for i in range(3):
        assert run(*asked, "--shard", f"{i}/3", results=f"part{i}")[0] == 0
    held = [len(scores(tmp_path / f"part{i}")) for i in range(3)]
    assert sorted(held) == [0, 1, 1]
    parts = [str(tmp_path / f"part{i}") for i in range(3)]
    (tmp_path / "none").mkdir()
    assert main(["merge", *parts, str(tmp_path / "none"), "--into", str(tmp_path / "all")]) == 3
    assert not (tmp_path / "all").exists()
    assert main(["merge", *parts, "--into", str(tmp_path / "all")]) == 0
    assert len(scores(tmp_path / "all")) == 2


def test_shards_are_alike_wherever_a_checkpoint_lies(tmp_path: Path) -> None:
    """Each has about as many clips of each method, and GT is counted where there is some."""
    clips = [SimpleNamespace(name=str(i), count=3, gt=None) for i in range(30)]
    dataset = SimpleNamespace(spec=SimpleNamespace(name="s"), clips=clips)

    def held(source: str) -> list[tuple[list[str], list[str]]]:
        """Of each of three shards: the clips of one method, and of another."""
        cards = [replace(GT_CARD, name=name, source=source) for name in ("net", "other")]
        found = []
        for part in range(3):
            config = RunConfig(root=tmp_path, devices=("cpu",), shard=(part, 3))
            shard = Runner(config, Store(tmp_path), Crew())
            mine = shard._make_shard_filter(cards, [dataset])  # type: ignore[list-item]
            jobs = [[SimpleNamespace(card=card, clip=clip) for clip in of_set] for card in cards]
            net, other = ([j.clip.name for j in of if mine(j)] for of in jobs)  # type: ignore[arg-type]
            found.append((net, other))
        return found

    of_set = [SimpleNamespace(dataset="s", name=clip.name) for clip in clips]
    assert held("/here/net.pth") == held("/there/net.pth")
    assert [tuple(map(len, names)) for names in held("")] == [(10, 10)] * 3


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
