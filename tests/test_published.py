"""Numbers that papers print: every cell of the data, ranks by our rule, contradictions."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vsrbench.cli import main
from vsrbench.core.errors import UserError
from vsrbench.metrics import METRICS
from vsrbench.results import published

DOVE = ["RealESRGAN", "RealBasicVSR", "Upscale-A-Video", "MGLD-VSR", "VEnhancer", "STAR", "DOVE"]
HIGHER = {"PSNR", "SSIM", "CLIP-IQA", "FasterVQA", "DOVER"}
Facts = dict[tuple[str, str, str], str]  # dataset, metric, method -> value as printed


@pytest.fixture(scope="session")
def facts(root: Path) -> Facts:
    """DOVE's Table 2 as the notes on the paper have it, read without any code of ours."""
    text = (root / "tests/data/published-notes.md").read_text()
    table = text.split("### 4.1 DOVE, Table 2")[1].split("DOVE supplement")[0]
    found: Facts = {}
    name = ""
    for line in table.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("Set", "---"):
            continue
        name = cells[0] or name
        for method, cell in zip(DOVE, cells[2:], strict=True):
            for metric, value in zip(cells[1].split(" / "), cell.split(" / "), strict=True):
                value = f"0{value}" if value.startswith(".") else value
                found[name, metric.replace("\\", ""), method] = value
    assert len(found) == 308
    return found


def marks(facts: Facts, name: str, metric: str) -> dict[str, str]:
    """Best and second by the rule that is printed: ties share a mark, two best leave no second."""
    values = {m: float(v) for (s, k, m), v in facts.items() if (s, k) == (name, metric)}
    order = sorted(set(values.values()), reverse=metric in HIGHER)
    best = {m for m, v in values.items() if v == order[0]}
    second = {m for m, v in values.items() if len(best) == 1 and v == order[1]}
    return {m: "best" if m in best else "second" if m in second else "" for m in values}


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["table", *args]) == 0
    return capsys.readouterr().out


LABEL = {"E*": "E*_warp"}


def test_doves_table_as_markdown(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--published", "dove-2025", "--format", "markdown")
    seen = 0
    for block in re.split(r"\n(?=\| (?:UDM10|SPMCS|YouHQ40|RealVSR|MVSR4x|VideoLQ) )", "\n" + out):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if not lines:
            continue
        head = [c.strip() for c in lines[0].strip("|").split("|")]
        for line in lines[2:]:
            cells = [c.strip() for c in line.strip("|").split("|")]
            assert cells[1] == "published"
            head[0] = head[0].removesuffix(" (x1)")  # as DOVE's authors ran it
            for title, cell in zip(head[2:], cells[2:], strict=True):
                metric = next(m for m in (*HIGHER, "LPIPS", "DISTS", "E*") if title.startswith(m))
                value = facts[head[0], metric, cells[0]]
                mark = marks(facts, head[0], metric)[cells[0]]
                wrap = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}[mark]
                assert cell == wrap.format(value), (head[0], metric, cells[0])
                assert ("↑" in title) == (metric in HIGHER)
                seen += 1
    assert seen == 308
    assert "**0.8596**" in out  # a tie: both best, no second in that column
    assert "Nothing in it was measured here" in out


def test_doves_table_as_latex(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--published", "dove-2025", "--format", "latex")
    seen = 0
    for block in out.split(r"\begin{table*}")[1:]:
        name = re.search(r"\\caption\{(\w+)(?: \(x1\))?\.", block)[1]  # type: ignore[index]
        rows: list[list[str]] = []
        for part in block.split(r"\midrule")[1:]:  # a wide block is set in parts
            body = part.split(r"\bottomrule")[0].strip().split(r"\\")
            cells = [r.strip().split(" & ") for r in body if r.strip()]
            rows = [a + b[1:] for a, b in zip(rows, cells, strict=True)] if rows else cells
        columns = [m for m in ("PSNR", "SSIM", "LPIPS", "DISTS") if name != "VideoLQ"]
        columns += ["CLIP-IQA", "FasterVQA", "DOVER", "E*"]
        assert len(rows) == len(DOVE)
        for row in rows:
            for metric, cell in zip(columns, row[1:], strict=True):
                mark = marks(facts, name, metric)[row[0]]
                value = facts[name, metric, row[0]]
                assert cell == (rf"\{mark}{{{value}}}" if mark else value)
                seen += 1
    assert seen == 308


def test_csv_and_choice_of_cells(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        capsys,
        *("--published", "dove-2025", "--format", "csv", "--datasets", "udm10"),
        *("--methods", "dove,star", "--metrics", "psnr,estar"),
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["method"], r["metric"], float(r["mean"])) for r in rows] == [
        ("dove", "psnr", 26.48),
        ("dove", "estar", 1.77),
        ("star", "psnr", 23.47),
        ("star", "estar", 2.08),
    ]
    assert {r["weights"] for r in rows} == {"published"}
    assert main(["table", "--published", "dove-2025", "--methods", "stare"]) == 2
    assert "Did you mean 'star'?" in capsys.readouterr().err
    assert main(["table", "--published", "dove"]) == 2


def test_every_source_reads_and_prints(root: Path) -> None:
    known = published.read(root)
    assert len(known.values) > 1500
    for name in known.sources:
        summary = published.summary(known, name)
        for block in summary.blocks:
            assert block.rows
            assert block.columns
    keys = [(v.source.name, v.dataset, v.method, v.metric) for v in known.values]
    assert len(keys) == len(set(keys))
    for source in known.sources.values():
        assert all(m in METRICS or not m for m in source.measured.values())


def test_other_tables_hold_the_numbers_of_the_notes(root: Path) -> None:
    """Counts of whole tables, and cells from their corners, against the notes' own lines."""
    known = published.read(root)
    text = (root / "tests/data/published-notes.md").read_text()
    cells = {(v.source.name, v.dataset, v.method, v.metric): v.text for v in known.values}
    lines = {
        "- UDM10: RealViformer 24.64/.6947/.3681/.2039/57.90/.4157/.7303/2.29": (
            *("infvsr-2025", "udm10", "realviformer"),
            "psnr ssim lpips dists musiq clipiqa dover estar",
        ),
        "SwiftVR 23.08/.6151/.2912/3.2815/62.01/.5128/.6877": (
            *("recavsr-2026", "youhq40", "swiftvr"),
            "psnr ssim lpips niqe musiq clipiqa dover",
        ),
        "24.11/.6511/.3432/2.680/67.43/.4215/8.665": (
            *("flashvsr-2025", "reds", "flashvsr-tiny"),
            "psnr ssim lpips niqe musiq clipiqa dover",
        ),
        "7B 4.015/59.97/.497/15.55": (
            *("seedvr2-2025", "aigc28", "seedvr2-7b"),
            "niqe musiq clipiqa dover",
        ),
        "22.46/.600/.274/.110": (
            *("seedvr2-2025", "youhq40", "seedvr2-7b"),
            "psnr ssim lpips dists",
        ),
    }
    for line, (source, name, method, metrics) in lines.items():
        assert line in text
        for metric, value in zip(metrics.split(), line.split(" ")[-1].split("/"), strict=True):
            value = f"0{value}" if value.startswith(".") else value
            assert cells[source, name, method, metric] == value
    counts = {n: sum(v.source.name == n for v in known.values) for n in known.sources}
    assert counts["dove-2025"] == 308
    assert counts["flashvsr-2025"] == 7 * (3 * 7 + 2 * 4)
    assert counts["seedvr2-2025"] == 7 * 4 * 4 + 6 * 4 * 2
    assert counts["recavsr-2026"] == 7 * (3 * 7 + 4)
    assert counts["adcvsr-2026"] == 11 * (9 + 5) + 5


def test_contradictions(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--contradictions")

    def told(*parts: str) -> bool:
        return any(all(p in line for p in parts) for line in out.splitlines())

    assert told("UDM10", "SeedVR2", "SSIM", "0.7764", "0.7564")
    assert told("UDM10", "| SeedVR ", "PSNR", "23.39 (FastVSR", "24.39 (OASIS)")
    assert told("YouHQ40", "RealBasicVSR", "DOVER", "0.8596", "0.7636")
    assert told("YouHQ40", "STAR", "E*_warp", "2.21", "3.39")
    assert told("VEnhancer", "MACs", "3056.16", "5273")
    assert told("VideoLQ: SeedVR in FastVSR", "SeedVR2", "the same 4 numbers")
    assert not told("26.48")  # DOVE on other LQ is no contradiction
    rows = list(csv.DictReader(io.StringIO(run(capsys, "--contradictions", "--format", "csv"))))
    assert {r["pack"] for r in rows} == {"dove", "33 frames of 720p, A100"}
    assert r"\toprule" in run(capsys, "--contradictions", "--format", "latex")


def test_beside_measured_rows(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        **{"key": "k", "run_id": "r", "at": "2026-01-01T00:00:00Z", "kind": "quality"},
        **{"status": "ok", "method": "mine", "method_version": 1, "title": "Mine"},
        **{"weights_origin": "user", "weights_sha256": "", "precision": "fp32"},
        **{"dataset_version": 1, "clip": "a", "clip_digest": "d", "frames": 2, "size": [4, 4]},
        **{"scale": 4, "metric_version": 1, "unit": "", "schema": 1},
    }
    cells = [("udm10", "psnr", 30.0), ("udm10", "ewarp", 1.0), ("udm10", "ewarp_evalcrafter", 9.0)]
    cells += [("realvsr-x1", "psnr", 25.0), ("mine", "psnr", 25.0)]
    lines = [
        record | {"key": f"{d}{m}", "dataset": d, "metric": m, "value": v} for d, m, v in cells
    ]
    tmp_path.joinpath("records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = run(capsys, "--with-published", "--results", str(tmp_path))
    assert re.search(r"\| DOVE +\| published +\| +26.48 \[\d+\] \| +– \[\d+\] \| +1.77 \[", out)
    assert re.search(r"\| MGLD-VSR +\| published +\| +24.28 \[", out)  # AdcVSR's
    assert "published, DOVE, Table 2" in out
    assert "GT cropped" not in out
    assert "**30.00**" not in out  # one measured row ranks against nobody
    assert "they are not ranked" in out
    blocks = re.split(r"\n(?=\| \S+.*\| weights)", "\n" + out)
    (one,) = [b for b in blocks if b.lstrip().startswith("| RealVSR (x1")]
    assert re.search(r"\| DOVE +\| published +\| +22.32", one)
    (own,) = [b for b in blocks if b.lstrip().startswith("| mine")]
    assert "published" not in own
    assert main(["table", "--with-published", "--contradictions"]) == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("other.csv", "dataset,method,metric,value,notes\n", "has no entry in"),
        ("a.csv", "dataset,metric,value\n", "the header must be"),
        ("a.csv", "dataset,method,metric,value,notes\nudm10,dov,psnr,1,\n", "Did you mean 'dove'"),
        ("a.csv", "dataset,method,metric,value,notes\nudm10,dove,psrn,1,\n", "no metric named"),
        ("a.csv", "dataset,method,metric,value,notes\nudm10,dove,psnr,x,\n", "is not a number"),
    ],
)
def test_wrong_data_is_one_clear_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = tmp_path / "results" / "published"
    folder.mkdir(parents=True)
    (folder / "sources.toml").write_text(
        '[methods]\ndove = "DOVE"\n[metrics]\n[datasets]\n[sources.a]\ntitle = "A"\npaper = "A"\n'
        'pack = "p"\nread = "r"\nconventions = "c"\n'
    )
    (folder / file).write_text(text)
    with pytest.raises(UserError) as caught:
        published.read(tmp_path)
    assert message in str(caught.value)


def test_as_a_user_would(root: Path) -> None:
    command = [sys.executable, "run_bench.py", "table", "--published", "dove-2025"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| UDM10 ")


def test_a_checkout_without_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sources\.toml cannot be read: No such file"):
        published.read(tmp_path)
