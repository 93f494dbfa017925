"""Records to summaries to tables: golden files of hand-made records, and each rule on its own."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from scipy import stats

from vsrbench import metrics as real_metrics
from vsrbench.core.errors import UserError
from vsrbench.core.types import DatasetSpec, Measurement, MetricInfo, Record
from vsrbench.results import summary as summary_module
from vsrbench.results.summary import summarise, usual_size
from vsrbench.show import tables
from vsrbench.show.latex import latex
from vsrbench.show.terminal import terminal

ORIGINS = {"gt": "none", "bicubic": "none", "ours": "trained_here", "raw": "random"}
DATA = Path(__file__).parent / "data"
TITLES = {"gt": "GT", "bicubic": "Bicubic", "ours": "Ours", "raw": "Raw", "theirs": "Theirs"}
METRICS = {
    m.name: m
    for m in (
        MetricInfo("psnr", "PSNR", 1, "higher", "", "dB", decimals=2),
        MetricInfo("lpips", "LPIPS", 1, "lower", ""),
        MetricInfo("ewarp", "E_warp", 1, "lower", "", "x1e-3", decimals=2, span="pair"),
    )
}


@pytest.fixture(autouse=True)
def _table_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goldens do not depend on titles and decimals of the real table."""
    monkeypatch.setattr(summary_module, "METRICS", METRICS)


def score(
    method: str, metric: str, clip: str, value: float | None = None, at: str = "t0", **changes: Any
) -> Record:
    """A quality record; failed when it has no value."""
    record = Record(
        key=f"{method}/{metric}/{clip}/{at}",
        run_id="20260102T030405-ab12",
        at=at,
        kind="quality",
        status="failed" if value is None else "ok",
        method=method,
        method_version=1,
        title=TITLES[method],
        weights_origin=ORIGINS.get(method, "official"),  # type: ignore[arg-type]
        weights_sha256="",
        precision="fp32",
        dataset="toy",
        dataset_version=1,
        clip=clip,
        clip_digest=f"digest of {clip}",
        frames=12,
        size=(64, 112),
        scale=4,
        metric=metric,
        metric_version=1,
        value=value,
        unit=METRICS[metric].unit,
        extra={"flow": "exact"} if metric == "ewarp" else {},
    )
    return replace(record, **changes)


def scores(method: str, metric: str, *values: float) -> list[Record]:
    """One record for each of the clips a, b, c ..."""
    return [score(method, metric, clip, v) for clip, v in zip("abcdefgh", values, strict=False)]


def cost(method: str, median_ms: float, at: str = "t0", **changes: Any) -> Record:
    """A cost record on a CPU."""
    measurement = Measurement(
        region="device",
        device="Some CPU",
        size=(64, 112),
        frames=10,
        warmup_frames=3,
        threads=2,
        samples_ms=(median_ms,),
        median_ms=median_ms,
        p90_ms=median_ms,
        first_output_ms=3 * median_ms,
        fps=1000 / median_ms,
        rss_peak_mib=1234.5,
        rss_idle_mib=200.0,
        vram_peak_mib=None,
        vram_allocator_mib=None,
        params_m=1.5,
        macs_g=1.0,
        why={"vram_peak_mib": "no GPU was used"},
    )
    return replace(
        score(method, "psnr", "", at=at),
        kind="cost",
        status="ok",
        dataset="",
        metric="",
        measurement=replace(measurement, **changes),
    )


def cells(records: list[Record], metric: str = "psnr", **choice: Any) -> dict[str, Any]:
    """Method -> cell of one column of the first block."""
    return {r.method: r.cells[metric] for r in summarise(records, **choice).blocks[0].rows}


@pytest.fixture
def small() -> list[Record]:
    """Every kind of cell: best within noise, tie, failure, untrained, reference, misregistered."""
    shifted = {"shift": [1, -2], "psnr_at_zero": 28.004, "psnr_at_shift": 31.128}
    return [
        *scores("gt", "psnr", 80, 80, 80),
        *scores("gt", "lpips", 0, 0, 0),
        *scores("gt", "ewarp", 1, 1, 1),
        *scores("bicubic", "psnr", 24, 26),
        score("bicubic", "psnr", "c", 28, extra=shifted),
        *scores("bicubic", "lpips", 0.4, 0.4, 0.4),
        *scores("bicubic", "ewarp", 1, 2, 3),
        *scores("ours", "psnr", 25, 26, 30),
        *scores("ours", "lpips", 0.2, 0.2, 0.2),
        *scores("ours", "ewarp", 3, 4, 5),
        *scores("theirs", "psnr", 24.5, 27, 29),
        *scores("theirs", "lpips", 0.2004, 0.2, 0.2),
        *scores("theirs", "ewarp", 3, 4),
        score("theirs", "ewarp", "c", error={"message": "out of memory | 12 frames\nat ..."}),
        cost("bicubic", 0.25),
        cost("ours", 40),
        cost("theirs", 1250, threads=8),
        cost("raw", 20),
    ]


def test_markdown(small: list[Record]) -> None:
    toy = DatasetSpec("toy", 1, "Toy set", "synthetic", 4, border_px=4)
    text = tables.markdown(summarise(small, specs={"toy": toy}), "vsrbench 0.1.0")
    assert text == (DATA / "table.md").read_text(encoding="utf-8")


def test_latex(small: list[Record]) -> None:
    text = latex(summarise(small, metrics=["psnr", "ewarp"]), "vsrbench 0.1.0")
    assert text == (DATA / "table.tex").read_text(encoding="utf-8")
    assert text.count("{") == text.count("}")


def wide() -> list[Record]:
    """12 methods on 3 sets with 15 metrics."""
    rng = np.random.default_rng(0)
    return [
        replace(
            score("ours", "psnr", clip, float(rng.uniform(10, 40))),
            **{"method": f"method-{m}", "title": f"Method_{m}", "dataset": f"set-{d}"},
            **{"metric": metric, "key": f"{m}/{d}/{metric}/{clip}"},
        )
        for m in range(12)
        for d in range(3)
        for metric in real_metrics.METRICS
        if metric in list(real_metrics.METRICS)[:15]
        for clip in "abc"
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[Record]
) -> None:
    """One column and two, a result of 12 x 3 x 15, plain titles and what TeX has to be told."""
    monkeypatch.setattr(summary_module, "METRICS", real_metrics.METRICS)
    text = ""
    for title in ("Plain", "漢字 \u202e <b> & 50% _x_ $ ^ ~ \\ { é"):
        records = [replace(r, title=title) if r.method == "ours" else r for r in small]
        for columns in (1, 2):
            text += latex(summarise(records), "v", columns)
    text += latex(summarise(wide()), "v", 1) + latex(summarise(wide()), "v", 2)
    (tmp_path / "t.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}\\begin{document}"
        f"{text}\\end{{document}}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_terminal_is_never_too_narrow(
    small: list[Record], monkeypatch: pytest.MonkeyPatch, width: int, colour: bool
) -> None:
    monkeypatch.setattr(summary_module, "METRICS", real_metrics.METRICS)
    for records in (small, wide()):
        text = terminal(summarise(records), width, colour, "vsrbench")
        bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert max(map(cell_len, bare.splitlines())) <= width
        assert ("\x1b" in text) is colour
        assert "<u>" not in text
        assert "**" not in text
        for value in ("27.00¹ ±6.57", "26.83² ±5.60") if records is small else ():
            assert value in bare


def test_names_of_strangers_are_shown_and_do_nothing(small: list[Record]) -> None:
    name = "<script>alert(1)</script>|\n\x1b[31m=1+1\u202e"
    records = [replace(r, title=name, method="=x") if r.method == "ours" else r for r in small]
    summary = summarise(records)
    text = tables.markdown(summary)
    assert "&lt;script>alert(1)&lt;/script>\\|" in text
    for form in (
        text,
        terminal(summary, 200, False),
        tables.csv(summary),
        tables.csv_wide(summary),
    ):
        assert not set("\x1b\u202e") & set(form)
    assert all("'=x" in line for line in tables.csv(summary).splitlines() if "=x" in line)


def test_selected(small: list[Record]) -> None:
    summary = summarise(small)
    names = [c.name for c in tables.select(summary, cost=False).blocks[0].columns]
    assert names == ["psnr", "lpips", "ewarp"]
    by_lpips = tables.select(summary, sort="lpips").blocks[0]
    assert [r.method for r in by_lpips.rows] == ["ours", "theirs", "bicubic", "raw", "gt"]
    by_psnr = tables.select(summary, sort="psnr").blocks[0]
    assert [r.method for r in by_psnr.rows] == ["ours", "theirs", "bicubic", "raw", "gt"]
    with pytest.raises(UserError, match="no column named 'psnt'"):
        tables.select(summary, sort="psnt")


def test_a_column_without_a_value_becomes_a_note() -> None:
    why = {"message": "weights are not here"}
    lost = [score(m, "lpips", "a", status="skipped", error=why) for m in ("bicubic", "ours")]
    records = [*lost, *scores("bicubic", "psnr", 20), *scores("ours", "psnr", 26)]
    records.append(score("gt", "lpips", "a", 0.0))
    block = tables.select(summarise(records)).blocks[0]
    assert [c.name for c in block.columns] == ["psnr"]
    assert "No LPIPS: weights are not here" in block.notes
    kept = tables.select(summarise(records), drop_empty=False).blocks[0]
    assert [c.name for c in kept.columns] == ["psnr", "lpips"]


def test_wide_csv_and_json(small: list[Record]) -> None:
    summary = summarise(small)
    rows = list(csv.DictReader(io.StringIO(tables.csv_wide(summary))))
    assert [r["method"] for r in rows] == ["bicubic", "ours", "theirs", "raw", "gt"]
    assert float(rows[1]["psnr [dB]"]) == 27.0
    assert rows[2]["ewarp [x1e-3]"] == ""
    block = json.loads(tables.json(summary))["blocks"][0]
    assert block["rows"][1]["cells"]["psnr"]["clips"] == {"a": 25, "b": 26, "c": 30}


def test_csv(small: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv(summarise(small)))))
    found = {(r["method"], r["metric"]): r for r in rows}
    best = found["ours", "psnr"]
    assert float(best["mean"]) == 27.0
    assert float(best["ci95"]) == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(7 / 3))
    assert [best[k] for k in ("clips", "of", "reason", "weights")] == ["3", "3", "", "trained_here"]
    gap = found["theirs", "ewarp"]
    assert (gap["mean"], gap["clips"], gap["of"]) == ("", "2", "3")
    assert gap["reason"] == "2 of 3 clips scored; 'c': failed: out of memory | 12 frames"
    time = found["ours", "ms"]
    assert (time["mean"], time["unit"], time["of"]) == ("40.0", "ms/frame", "")
    assert (time["lq_width"], time["lq_height"]) == ("112", "64")


def test_mean_and_interval_are_over_clips() -> None:
    values = [24.0, 25.5, 30.25, 28.0]
    cell = cells(scores("ours", "psnr", *values))["ours"]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert cell.value == pytest.approx(np.mean(values))
    assert cell.ci95 == pytest.approx((high - low) / 2)
    assert cell.clips == dict(zip("abcd", values, strict=True))


def test_one_clip_has_no_interval() -> None:
    cell = cells(scores("ours", "psnr", 25))["ours"]
    assert (cell.value, cell.ci95, cell.mark) == (25, None, "")


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ((26.0, 25.0, 24.0), ("best", "second", "")),
        ((26.001, 26.004, 25.0), ("best", "best", "")),  # equal as printed: two best, no second
        ((26.0, 25.001, 25.004), ("best", "second", "second")),
        ((26.0, 26.0, 26.0), ("best", "best", "best")),
    ],
)
def test_ranks_at_printed_precision(values: tuple[float, ...], marks: tuple[str, ...]) -> None:
    methods = ("bicubic", "ours", "theirs")
    records = [r for m, v in zip(methods, values, strict=True) for r in scores(m, "psnr", v, v)]
    found = cells([*records, *scores("gt", "psnr", 80, 80)])
    assert tuple(found[m].mark for m in methods) == marks
    assert found["gt"].mark == ""


def test_lower_is_better_where_it_says_so() -> None:
    found = cells(
        [*scores("ours", "lpips", 0.3, 0.4), *scores("theirs", "lpips", 0.2, 0.3)], "lpips"
    )
    assert (found["theirs"].mark, found["ours"].mark) == ("best", "second")


def test_a_single_clip_ranks_nothing() -> None:
    found = cells([*scores("ours", "psnr", 30), *scores("theirs", "psnr", 20)])
    assert [c.mark for c in found.values()] == ["", ""]


def test_best_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    info = replace(METRICS["psnr"], name="energy", better="one", decimals=3)
    monkeypatch.setitem(METRICS, "energy", info)
    values = {"bicubic": (0.7, 0.8), "ours": (1.04, 1.02), "theirs": (1.6, 1.5)}
    found = cells([r for m, v in values.items() for r in scores(m, "energy", *v)], "energy")
    assert [found[m].mark for m in values] == ["second", "best", ""]


def test_noise_is_paired() -> None:
    """A small gap that every clip agrees on is no noise, however far apart the clips are."""
    spread = [20.0, 25.0, 30.0, 35.0]
    sure = [v + 0.1 + 0.01 * i for i, v in enumerate(spread)]
    unsure = [v + (-1) ** i + 0.1 for i, v in enumerate(spread)]
    base = scores("bicubic", "psnr", *spread)
    assert not cells([*base, *scores("ours", "psnr", *sure)])["ours"].noise
    found = cells([*base, *scores("ours", "psnr", *unsure)])
    assert found["bicubic"].noise
    assert not found["ours"].noise


def test_every_row_not_told_apart_from_the_best_is_marked() -> None:
    """As SciPy and Holm's procedure by hand say; a third row that is far away is told apart."""
    base = [30.0, 31.0, 32.0, 33.0, 34.0]
    rows = {
        "ours": base,
        "theirs": [v - d for v, d in zip(base, (0.5, -0.2, 0.4, 0.3, -0.3), strict=True)],
        "raw": [v - d for v, d in zip(base, (0.1, 0.3, 0.2, 0.25, 0.02), strict=True)],
        "bicubic": [v - d for v, d in zip(base, (5.0, 5.1, 4.9, 5.2, 5.0), strict=True)],
    }
    ps = {m: stats.ttest_rel(base, v).pvalue for m, v in rows.items() if m != "ours"}
    order = sorted(ps, key=lambda m: ps[m])
    assert order == ["bicubic", "raw", "theirs"]
    assert 0.05 / 2 < ps["raw"] < 0.05  # shown alone, and not among three
    records = [
        replace(r, weights_origin="none") for m, v in rows.items() for r in scores(m, "psnr", *v)
    ]
    found = cells(records)
    assert {m for m in rows if found[m].noise} == {"theirs", "raw"}


def test_denominator_is_every_clip_seen() -> None:
    records = [*scores("bicubic", "psnr", 20, 30), *scores("ours", "psnr", 26)]
    cell = cells(records, methods=["ours"])["ours"]
    assert (cell.value, cell.of, dict(cell.clips)) == (None, 2, {"a": 26})
    assert cell.note == "1 of 2 clips scored; 'b': not run"


def test_whole_column_missing_for_one_reason_has_one_footnote() -> None:
    why = {"message": "needs ground truth"}
    records = [
        score(m, "lpips", clip, status="skipped", error=why)
        for m in ("bicubic", "ours")
        for clip in "ab"
    ]
    records += [*scores("bicubic", "psnr", 20, 30), *scores("ours", "psnr", 26, 27)]
    text = tables.markdown(summarise(records))
    assert text.count("– [1]") == 2
    assert "\n[1] needs ground truth\n" in text
    assert "[2]" not in text


def test_newest_record_wins_and_old_identities_do_not_mix() -> None:
    old = [
        score("ours", "psnr", c, v, "t1", weights_sha256="old")
        for c, v in zip("ab", (20, 21), strict=True)
    ]
    new = [
        score("ours", "psnr", c, v, "t2", weights_sha256="new")
        for c, v in zip("ab", (30, 31), strict=True)
    ]
    assert cells([*new, *old])["ours"].value == 30.5
    mixed = cells([*old, new[0]])["ours"]
    assert mixed.value is None
    assert "'b': scored with older weights or settings" in mixed.note


def test_a_row_whose_frames_came_as_lossy_video_says_so() -> None:
    files = {"outputs": {"codec": "h264", "pixels": "yuv420p", "lossy": True}}
    exact = {"outputs": {"codec": "png", "pixels": "", "lossy": False}}
    records = [
        score("ours", "psnr", "a", 25, read=files),
        score("theirs", "psnr", "a", 25, read=exact),
    ]
    (block,) = summarise(records).blocks
    titles = {row.method: row.title for row in block.rows}
    assert titles["ours"].endswith(" (lossy)")
    assert not titles["theirs"].endswith(" (lossy)")
    (said,) = (n for n in block.notes if "lossy" in n)
    assert "Ours came as h264 yuv420p, which is lossy" in said


def test_clip_that_changed_leaves_a_gap() -> None:
    base = [score("bicubic", "psnr", "a", 20, "t1"), score("ours", "psnr", "a", 25, "t2")]
    changed = score("bicubic", "psnr", "a", 21, "t3", clip_digest="other frames")
    found = cells([*base, changed])
    assert found["bicubic"].value == 21
    assert "scored on other frames" in found["ours"].note


def test_other_version_of_the_data_set_is_another_data_set() -> None:
    old = scores("bicubic", "psnr", 20, 21, 22)
    new = replace(score("bicubic", "psnr", "a", 30, "t1"), dataset_version=2)
    cell = cells([*old, new])["bicubic"]
    assert (cell.value, cell.of) == (30, 1)


def test_cost_of_this_size_and_newest() -> None:
    records = [
        *scores("ours", "psnr", 26),
        cost("ours", 50, "t1"),
        cost("ours", 40, "t2"),
        cost("ours", 999, "t3", size=(128, 128)),
    ]
    summary = summarise(records)
    assert summary.blocks[0].rows[0].cells["ms"].value == 40
    assert (summary.blocks[1].dataset, summary.blocks[1].size) == ("", (128, 128))
    assert summary.blocks[1].rows[0].cells["ms"].value == 999
    assert [b.dataset for b in summarise(records, datasets=["toy"]).blocks] == ["toy"]
    assert tables.markdown(summary).count("| Cost, LQ 128x128") == 1


def test_the_size_of_a_data_set_is_its_most_frequent_one() -> None:
    clips = {"a": (64, 112), "b": (0, 0), "c": (0, 0), "d": (32, 32), "e": (64, 112), "f": (0, 0)}
    records = [score("ours", "psnr", clip, 26, size=size) for clip, size in clips.items()]
    assert summarise(records).blocks[0].size == (64, 112)
    assert usual_size([(9, 8), (8, 9)]) == (8, 9)  # whatever the order
    assert usual_size([(0, 0)]) == (0, 0)


def test_cost_measured_otherwise_is_not_ranked() -> None:
    records = [cost("bicubic", 30), cost("ours", 40), cost("theirs", 1, region="process")]
    found = cells(records, "ms")
    assert [found[m].mark for m in ("bicubic", "ours", "theirs")] == ["best", "second", ""]
    assert "region process" in found["theirs"].note


def test_failed_cost_is_a_dash_with_its_reason() -> None:
    failed = replace(
        cost("ours", 1),
        status="failed",
        measurement=None,
        error={"message": "out of memory at 112x64, 10 frames"},
    )
    summary = summarise([*scores("ours", "psnr", 26), failed])
    assert summary.blocks[0].rows[0].cells["ms"].note == "out of memory at 112x64, 10 frames"


def test_vram_column_is_there_when_one_was_measured() -> None:
    names = [c.name for c in summarise([cost("ours", 1, vram_peak_mib=900.0)]).blocks[0].columns]
    assert names == ["ms", "fps", "first_ms", "rss", "vram", "params"]
    block = summarise([cost("ours", 1)]).blocks[0]
    assert "vram" not in [c.name for c in block.columns]
    assert block.notes == ("VRAM: no GPU was used.",)


def test_energy_column_is_there_when_one_was_measured() -> None:
    none = {"j_per_frame": "no GPU was used"}
    other = cost("theirs", 1, j_per_frame=12.0, vram_peak_mib=900.0)
    records = [cost("ours", 1, j_per_frame=1.23456, vram_peak_mib=900.0), other]
    records += [cost("bicubic", 1, vram_peak_mib=900.0), cost("raw", 1, why=none)]
    summary = summarise(records)
    names = [c.name for c in summary.blocks[0].columns]
    assert names == ["ms", "fps", "first_ms", "rss", "vram", "energy", "params"]
    found = cells(records, "energy")
    assert [found[m].mark for m in ("ours", "theirs", "bicubic")] == ["best", "second", ""]
    assert [found[m].note for m in ("bicubic", "raw")] == ["not measured", "no GPU was used"]
    assert "J/frame ↓" in tables.markdown(summary)
    assert "**1.235**" in tables.markdown(summary)
    assert r"J/frame\,$\downarrow$" in latex(summary)
    assert ",ours,trained_here,energy,J/frame,1.23456," in tables.csv(summary)


def test_energy_left_out_says_why() -> None:
    def notes(**why: str) -> tuple[str, ...]:
        block = summarise([cost("ours", 1, why=why)]).blocks[0]
        assert "energy" not in [c.name for c in block.columns]
        return block.notes

    assert notes(vram_peak_mib="x", j_per_frame="x") == ("VRAM and energy: x.",)
    assert notes(vram_peak_mib="x", j_per_frame="y") == ("VRAM: x.", "Energy: y.")
    assert notes(vram_peak_mib="x") == ("VRAM: x.",)  # measured before there was energy


def test_without_cost_no_cost_columns() -> None:
    block = summarise(scores("ours", "psnr", 26)).blocks[0]
    assert [c.name for c in block.columns] == ["psnr"]
    assert block.notes == ("Cost: not measured at LQ 112x64.",)


def test_order_and_legend() -> None:
    records = [score(m, "psnr", "a", 20) for m in ("gt", "theirs", "bicubic", "ours")]
    rows = summarise(records, methods=["gt", "ours", "bicubic"]).blocks[0].rows
    assert [r.method for r in rows] == ["ours", "bicubic", "gt"]
    assert "official =" in tables.markdown(summarise(records))
    official = tables.markdown(summarise(records, methods=["bicubic", "theirs"]))
    assert "Weights:" not in official


@pytest.mark.parametrize("choice", ["methods", "datasets", "metrics"])
def test_unknown_names_are_refused(choice: str) -> None:
    with pytest.raises(UserError, match=r"no .* named 'psnt'"):
        summarise(scores("ours", "psnr", 26), **{choice: ["psnt"]})


def test_names_are_escaped() -> None:
    record = score("ours", "psnr", "a", 26, title="A|B_50% & {x}")
    assert r"A\|B_50%" in tables.markdown(summarise([record]))
    assert r"A$|$B\_50\% \& \{x\}" in latex(summarise([record]))


def test_cost_of_another_scale_is_not_that_of_a_table() -> None:
    twice = replace(cost("bicubic", 2), scale=2)
    titles = [b.title for b in summarise([twice, cost("ours", 9)]).blocks]
    assert titles == ["Cost, x2", "Cost, x4"]
    block, other = summarise([twice, cost("ours", 9), score("theirs", "psnr", "a", 30)]).blocks
    assert [row.method for row in block.rows] == ["ours", "theirs"]
    assert [row.method for row in other.rows] == ["bicubic"]
    assert (block.title, other.title) == ("toy", "Cost")


def test_a_time_that_varies_is_not_ranked() -> None:
    steady = cost("bicubic", 9, samples_ms=(9.0, 9.5, 9.0, 80.0, 9.1, 8.9))
    busy = cost("ours", 8, samples_ms=(4.0, 8.0, 20.0, 8.0, 30.0, 5.0))
    other = cost("theirs", 12, samples_ms=(12.0,))
    for column in ("ms", "fps"):
        found = cells([steady, busy, other], column)
        assert found["ours"].value
        assert "unsteady, not ranked: its frames took 4.0 to 30.0 ms" in found["ours"].note
        assert not found["ours"].mark
        assert found["bicubic"].mark == "best"
        assert not found["bicubic"].note
    assert not cells([steady, busy], "rss")["ours"].note
