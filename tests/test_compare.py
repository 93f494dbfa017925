"""Base against new: each verdict on hand-made records, and the gate through the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from vsrbench.cli import main
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.types import Measurement, Record
from vsrbench.metrics import METRICS
from vsrbench.results.compare import Change, compare, has_regressed, markdown, verdict_line
from vsrbench.results.store import Store
from vsrbench.results.summary import summarise


def score(clip: str, value: float | None, metric: str = "psnr", **changes: Any) -> Record:
    record = Record(
        key=f"{changes.get('method', 'ours')}/{metric}/{clip}/{changes}",
        run_id="r",
        at="2026-01-01T00:00:00Z",
        kind="quality",
        status="failed" if value is None else "ok",
        method="ours",
        method_version=1,
        title="Ours",
        weights_origin="trained_here",
        weights_sha256="w1",
        precision="fp32",
        dataset="toy",
        dataset_version=1,
        clip=clip,
        clip_digest=f"digest of {clip}",
        frames=4,
        size=(8, 8),
        scale=4,
        metric=metric,
        metric_version=1,
        value=value,
        error={"message": "NaN in frame 3"} if value is None else None,
    )
    return replace(record, **changes)


def cost(ms: float, device: str = "a CPU", method: str = "ours") -> Record:
    m = Measurement(
        "device", device, (8, 8), 4, 1, 1, (ms,), ms, ms, ms, 1.0, 99.0, 9.0, None, None, 1.0, 1.0
    )
    key = f"{method}/{ms}/{device}"
    return score("", None, key=key, kind="cost", status="ok", measurement=m, method=method)


def clips(*values: float | None, metric: str = "psnr", **changes: Any) -> list[Record]:
    return [score(f"c{i}", value, metric, **changes) for i, value in enumerate(values)]


def only(base: list[Record], new: list[Record], **options: Any) -> Change:
    (change,) = compare(base, new, **options)
    return change


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [
        ("psnr", -0.05, "worse"),
        ("psnr", 0.05, "better"),
        ("psnr", -0.02, "same"),  # its tolerance, to the bit pattern of these decimals
        ("ewarp", 0.05, "worse"),
        ("ewarp", -0.05, "better"),
        ("ewarp", 0.001, "same"),
    ],
)
def test_a_mean_that_moves_by_more_than_the_tolerance(
    metric: str, shift: float, verdict: str
) -> None:
    assert METRICS["psnr"].tolerance == 0.02
    base = clips(30.1, 31.3, 29.7, metric=metric)
    new = clips(*(v + shift for v in (30.1, 31.3, 29.7)), metric=metric)
    change = only(base, new)
    assert change.verdict == verdict
    assert change.new is not None
    assert change.base is not None
    assert change.new - change.base == pytest.approx(shift)
    assert has_regressed([change]) == (verdict == "worse")


def test_tolerance_can_be_given() -> None:
    base, new = clips(30.0, 30.0), clips(29.9, 29.9)
    assert only(base, new).verdict == "worse"
    assert only(base, new, tolerances={"psnr": 0.1}).verdict == "same"
    with pytest.raises(UserError, match="Did you mean 'psnr'"):
        compare(base, new, tolerances={"psrn": 0.1})


def test_difference_is_paired_and_names_the_worst_clip() -> None:
    change = only(clips(20.0, 30.0, 40.0), clips(20.5, 29.0, 40.1))
    gaps = [0.5, -1.0, 0.1]
    half = stats.sem(gaps) * stats.t.ppf(0.975, 2)
    assert change.ci95 == pytest.approx(half)
    assert change.worst == "c1 -1.00"
    assert only(clips(1.0, 2.0, metric="ewarp"), clips(1.5, 1.9, metric="ewarp")).worst == (
        "c0 +0.500"
    )


@pytest.mark.parametrize(
    ("new", "verdict", "note"),
    [
        (clips(30.0), "lost", "clip 'c1': not run"),
        (clips(30.0, None), "lost", "clip 'c1': NaN in frame 3"),
        (clips(30.0, 30.0, clip_digest="other"), "apart", "clip 'c0': other frames"),
        (clips(30.0, 30.0, metric_version=2), "apart", "version 1 of the metric against 2"),
        (clips(30.0, 30.0, extra={"flow": "dis"}), "apart", "flow None against dis"),
        (clips(30.0, 30.0, extra={"protocol": {"border_px": 4}}), "apart", "another protocol"),
        (
            [score("c0", 30.0, weights_sha256="w2", at="2026-01-02"), score("c1", 30.0)],
            "lost",
            "clip 'c1': scored with older weights",
        ),
    ],
)
def test_a_gate_does_not_pass_for_want_of_scores(
    new: list[Record], verdict: str, note: str
) -> None:
    change = only(clips(30.0, 30.0), new)
    assert change.verdict == verdict
    assert note in change.note
    assert has_regressed([change])


def test_a_metric_that_is_no_more_is_lost(tmp_path: Path) -> None:
    base = [*clips(30.0), *clips(1.0, metric="old")]
    changes = compare(base, base)
    assert [(c.column.name, c.verdict) for c in changes] == [("psnr", "same"), ("old", "lost")]
    assert "this version has no such metric" in markdown(changes)
    assert only(base, base, metrics=["old"]).verdict == "lost"
    folder = str(stored(tmp_path, base))
    assert main(["table", "--results", folder]) == main(["report", "--results", folder]) == 0


def test_new_weights_and_new_rows_are_welcome() -> None:
    new = [*clips(31.0, 31.0, weights_sha256="w2"), *clips(9.0, method="theirs")]
    changes = compare(clips(30.0, 30.0), new)
    assert [(c.method, c.verdict) for c in changes] == [("ours", "better"), ("theirs", "new")]
    assert verdict_line(changes) == "no regression: 1 better, 1 new"


def test_what_neither_side_scored_is_left_out() -> None:
    base = [*clips(30.0), *clips(None, metric="lpips")]
    assert [c.column.name for c in compare(base, base)] == ["psnr"]


def test_what_cannot_be_compared_is_said_in_the_one_line() -> None:
    old = clips(30.0, 30.0, metric="ewarp") + clips(30.0, 30.0, metric="psnr")
    new = clips(30.0, 30.0, metric="ewarp", metric_version=2) + clips(30.0, 30.0, metric="psnr")
    assert verdict_line(compare(old, new)) == (
        "REGRESSION: 1 not comparable (E_warp: version 1 of the metric against 2), 1 unchanged"
    )
    old = clips(30.0, 30.0, schema=1) + clips(0.5, metric="ssim")
    new = clips(30.0, 30.0, border_px=4, flow="") + clips(0.5, metric="ssim")
    (first, second) = compare(old, new)
    assert (first.verdict, first.unsaid, second.unsaid) == ("same", True, False)
    for text in (verdict_line([first, second]), markdown([first, second])):
        assert "no regression: 2 unchanged; 1 of these with records of schema 1" in text
        assert "do not say border and flow: taken for equal" in text


def test_labels_of_one_path_on_both_sides_are_one_thing() -> None:
    """`LQ` where it is alone is `a/LQ` beside another of that name."""
    base = clips(30.0, 31.0, dataset="LQ", dataset_source="/d/a/LQ")
    one = clips(30.0, 30.0, dataset="a/LQ", dataset_source="/d/a/LQ")
    other = clips(20.0, 20.0, dataset="b/LQ", dataset_source="/d/b/LQ", clip_digest="else")
    changes = compare(base, [*one, *other])
    assert [(c.where, c.verdict) for c in changes] == [("LQ", "worse"), ("b/LQ", "new")]
    assert [c.verdict for c in compare([*one, *other], base)] == ["better", "lost"]
    there = [replace(r, dataset_source="/ci" + r.dataset_source) for r in (*one, *other)]
    assert [c.verdict for c in compare(base, there)] == ["worse", "new"]  # by content
    base = clips(30.0, method="sr", source="/x/sr", output="one")
    new = clips(29.0, method="x/sr", source="/x/sr", output="two")
    more = clips(40.0, method="y/sr", source="/y/sr", output="three")
    assert [(c.method, c.verdict) for c in compare(base, [*more, *new])] == [
        ("sr", "worse"),
        ("y/sr", "new"),
    ]
    card = clips(10.0, method="sr")  # one with a card has that name
    assert {c.method for c in compare(base, [*card, *new])} == {"sr", "x/sr"}


def test_choice_of_methods_and_metrics() -> None:
    base = [*clips(30.0), *clips(0.5, metric="ssim"), *clips(20.0, method="theirs")]
    new = [*clips(30.0), *clips(0.4, metric="ssim"), *clips(10.0, method="theirs")]
    assert {c.verdict for c in compare(base, new, ["ours"], None, ["psnr"])} == {"same"}
    assert {c.verdict for c in compare(base, new, ["theirs"])} == {"worse"}
    with pytest.raises(UserError, match="Did you mean 'ours'"):
        compare(base, new, ["our"])
    with pytest.raises(MissingError, match="no scores"):
        compare(clips(None), base)


def test_cost_is_judged_when_asked() -> None:
    base = [*clips(30.0), cost(10.0)]

    def verdicts(new: Record, percent: float | None) -> dict[str, str]:
        changes = compare(base, [*clips(30.0), new], cost_percent=percent)
        return {c.column.name: c.verdict for c in changes}

    unjudged = dict.fromkeys(("ms", "first_ms", "rss"), "unjudged")
    assert verdicts(cost(99.0), None) == {"psnr": "same", **unjudged}
    assert verdicts(cost(10.9), 10)["ms"] == "same"
    assert verdicts(cost(11.1), 10)["ms"] == "worse"
    assert verdicts(cost(8.0), 10)["ms"] == "better"
    assert verdicts(cost(10.0, "another CPU"), 10)["ms"] == "apart"
    assert verdicts(cost(10.0, method="theirs"), 10)["ms"] == "lost"


def test_a_cost_of_other_settings_than_scored_is_none() -> None:
    base = [*clips(30.0), cost(10.0)]
    new = [*clips(30.0, settings={"steps": 1}, at="2026-01-02"), cost(10.0)]
    changes = compare(base, new, cost_percent=10)
    assert [(c.where, c.verdict) for c in changes][1:] == [("cost at 8x8", "lost")]
    (row,) = summarise(new).blocks[0].rows
    assert row.cells["ms"].value is None
    assert "other weights, code or settings" in row.cells["ms"].note
    half = [replace(r, precision="fp16") for r in clips(30.0)]
    assert summarise([*half, cost(10.0)]).blocks[0].rows[0].cells["ms"].value == 10


@pytest.mark.parametrize(("joules", "verdict"), [(2.1, "same"), (2.3, "worse"), (1.7, "better")])
def test_energy_is_judged_where_both_have_it(joules: float, verdict: str) -> None:
    def using(joules: float | None) -> Record:
        record = cost(10.0)
        assert record.measurement
        return replace(record, measurement=replace(record.measurement, j_per_frame=joules))

    def verdicts(base: Record, new: Record) -> dict[str, str]:
        changes = compare([*clips(30.0), base], [*clips(30.0), new], cost_percent=10)
        return {c.column.name: c.verdict for c in changes}

    assert verdicts(using(2.0), using(joules))["energy"] == verdict
    assert "energy" not in verdicts(using(None), using(joules))


def test_markdown_shows_what_changed() -> None:
    base = [*clips(30.0, 30.0), *clips(0.5, 0.5, metric="ssim"), *clips(1.0, metric="ewarp")]
    new = [*clips(29.0, 29.5), *clips(0.5, 0.5, metric="ssim")]
    text = markdown(compare(base, new))
    lines = text.splitlines()
    assert lines[2].replace(" ", "") == (
        "|toy|ours|PSNRdB↑|30.00|29.25|-0.75±3.18|**worse**|worst:c0-1.00|"
    )
    assert "SSIM" not in text
    assert "**lost**" in text
    assert "clip 'c0': not run" in text
    assert lines[-1] == "REGRESSION: 1 worse, 1 lost, 1 unchanged"
    assert "SSIM" in markdown(compare(base, new), everything=True)


def stored(folder: Path, records: list[Record]) -> Path:
    store = Store(folder)
    store.prepare()
    for record in records:
        store.append(record)
    return folder


def test_gate_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = stored(tmp_path / "base", clips(30.0, 31.0))
    worse = stored(tmp_path / "new", clips(29.0, 31.0))
    assert main(["compare", str(base), str(base)]) == 0
    assert "no regression: 1 unchanged" in capsys.readouterr().out
    assert main(["compare", str(base / "records.jsonl"), str(worse)]) == 4
    assert "worst: c0 -1.00" in capsys.readouterr().out
    assert main(["compare", str(base), str(worse), "--tolerance", "psnr=0.6"]) == 0
    out = tmp_path / "deep" / "summary.md"
    assert main(["compare", str(base), str(worse), "-o", str(out)]) == 4
    assert "REGRESSION: 1 worse" in out.read_text()
    assert "REGRESSION: 1 worse" in capsys.readouterr().err


def test_records_without_their_runs_say_that_they_may_not_be_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was reused last stands in no record."""
    one = stored(tmp_path / "one", clips(30.0))
    assert main(["table", "--results", str(one)]) == 0
    assert "runs.jsonl" not in capsys.readouterr().err
    two = stored(tmp_path / "two", [*clips(30.0), *clips(29.0, weights_sha256="w2")])
    for command in (["table", "--results", str(two)], ["compare", str(one), str(two)]):
        main(command)
        assert "runs.jsonl does not lie beside" in capsys.readouterr().err
    Store(two).runs.write_text("")
    main(["table", "--results", str(two)])
    assert "runs.jsonl" not in capsys.readouterr().err


def test_a_path_tells_more_than_content() -> None:
    """A set that was copied and edited in one clip: the other clip is the same in both."""

    def lq(label: str, path: str, *values: float) -> list[Record]:
        about = {"dataset": label, "dataset_source": path}
        edited = [replace(r, clip_digest=path) for r in clips(values[0], **about)]
        return [*edited, *clips(*values, **about)[1:]]

    base = lq("LQ", "/y/LQ", 30.0, 31.0)
    new = [*lq("x/LQ", "/x/LQ", 20.0, 31.0), *lq("y/LQ", "/y/LQ", 30.0, 31.0)]
    assert {(c.where, c.verdict) for c in compare(base, new)} == {("LQ", "same"), ("x/LQ", "new")}


@pytest.mark.parametrize("side", ["base", "new"])
def test_a_damaged_line_is_no_pass(
    side: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("base", "new"):
        stored(tmp_path / name, clips(30.0, 31.0))
    arguments = ["compare", str(tmp_path / "base"), str(tmp_path / "new")]
    file = tmp_path / side / "records.jsonl"
    whole = file.read_text()
    file.write_text(whole + whole[:30])  # cut in writing
    assert main(arguments) == 0
    assert "records.jsonl:3: cut line passed over" in capsys.readouterr().err
    file.write_text(whole.replace('"key"', "key", 1))
    assert main(arguments) == 1
    assert "is damaged" in capsys.readouterr().err
    for command in ("table", "report"):
        assert main([command, "--results", str(tmp_path / side)]) == 0
        assert "damaged line passed over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere"], 3, "no results in nowhere"),
        (["BASE", "nowhere"], 3, "no results in nowhere"),
        (["BASE", "BASE", "--tolerance", "psnr"], 2, "write it as psnr=0.05"),
        (["BASE", "BASE", "--tolerance", "psnr=-1"], 2, "is not a number, 0 or more"),
        (["BASE", "BASE", "--metrics", "psrn"], 2, "Did you mean 'psnr'?"),
        (["BASE", "BASE", "--cost", "much"], 2, "is not a number"),
        ([], 2, "BASE"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = stored(tmp_path / "base", clips(30.0))
    assert main(["compare", *(str(base) if a == "BASE" else a for a in arguments)]) == code
    assert text in capsys.readouterr().err


def test_on_github(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    base, new = stored(tmp_path / "base", clips(30.0)), stored(tmp_path / "new", clips(29.0))
    assert main(["compare", str(base), str(new)]) == 4
    out, err = capsys.readouterr()
    assert summary.read_text() == out
    assert re.search(r"^::error title=vsrbench regression::.*30.00 -> 29.00", err, re.M)
    assert main(["compare", str(base), str(base), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert "::error" not in err
    found = json.loads(out)
    assert found["regressed"] is False
    assert {c["verdict"] for c in found["changes"]} == {"same"}
    assert main(["compare", str(base), str(base)]) == 0
    assert "| unchanged |" in capsys.readouterr().out  # a table, also when nothing changed
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "gone" / "summary.md"))
    assert main(["compare", str(base), str(new)]) == 4
    assert "nothing added to the summary" in capsys.readouterr().err


def test_cost_at_another_scale_is_not_compared() -> None:
    base, new = (replace(cost(ms), scale=scale) for ms, scale in ((1, 2), (9, 4)))
    scored = clips(30.0, 31.0)
    changes = compare([*scored, base], [*scored, new], cost_percent=10)
    assert [c.verdict for c in changes if c.column.name == "ms"] == ["lost"]
    assert not [c for c in compare([*scored, base], [*scored, new]) if c.where.startswith("cost")]
