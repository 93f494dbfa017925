"""Figures: the rules that choose what is shown, the numbers behind the lines, exact pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Measurement, Record
from vsrbench.data.frames import FrameWriter, mark_of, write_sums
from vsrbench.results.summary import summarise
from vsrbench.show import figures
from vsrbench.show.figures import style

Picture = NDArray[np.uint8]
HEIGHT, WIDTH, COUNT = 40, 60, 8


def keep(root: Path, method: str, frames: list[Picture]) -> None:
    """Frames as a run keeps them."""
    folder = root / method / "toy" / "pan"
    with FrameWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)
    write_sums(folder, writer.digests)


def clip(seed: int, busy_row: int = 25) -> list[Picture]:
    """Noise that stands still, but for one row that changes fully from frame to frame."""
    rng = np.random.default_rng(seed)
    still = rng.integers(100, 156, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = [still.copy() for _ in range(COUNT)]
    for frame in frames:
        frame[busy_row] = rng.integers(0, 256, (WIDTH, 3), dtype=np.uint8)
    return frames


def score(method: str, metric: str, value: float, clip: str = "pan", **changes: Any) -> Record:
    """A quality record with values per frame around its mean."""
    record = Record(
        key=f"{method}/{metric}/{clip}",
        run_id="r",
        at="t",
        kind="quality",
        status="ok",
        method=method,
        method_version=1,
        title=method.title(),
        weights_origin="none" if method in ("gt", "bicubic") else "official",
        weights_sha256="",
        precision="fp32",
        dataset="toy",
        dataset_version=1,
        clip=clip,
        frames=COUNT,
        size=(10, 15),
        scale=4,
        metric=metric,
        metric_version=1,
        value=value,
        per_frame=tuple(value + 0.1 * i for i in range(-3, 4)),
    )
    return replace(record, **changes)


def cost(method: str, median_ms: float, **changes: Any) -> Record:
    """A cost record."""
    measurement = Measurement(
        region="device",
        device="Some CPU",
        size=(10, 15),
        frames=10,
        warmup_frames=3,
        threads=2,
        samples_ms=(median_ms,),
        median_ms=median_ms,
        p90_ms=median_ms,
        first_output_ms=median_ms,
        fps=1000 / median_ms,
        rss_peak_mib=900.0,
        rss_idle_mib=200.0,
        vram_peak_mib=None,
        vram_allocator_mib=None,
        params_m=median_ms,
        macs_g=1.0,
    )
    return replace(
        score(method, "", 0, ""),
        kind="cost",
        dataset="",
        value=None,
        measurement=replace(measurement, **changes),
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Frames of bicubic, one method and GT."""
    for seed, method in enumerate(("bicubic", "ours", "gt")):
        keep(tmp_path / "frames", method, clip(seed))
    return tmp_path / "frames"


def pixels(path: Path) -> Picture:
    """RGB of a PNG."""
    return np.asarray(Image.open(path).convert("RGB"))


def shown(page: Picture, part: Picture) -> bool:
    """True when `part` is somewhere on the page, pixel by pixel."""
    h, w = part.shape[:2]
    inside = page[: page.shape[0] - h + 1, : page.shape[1] - w + 1]
    starts = np.argwhere((inside == part[0, 0]).all(-1))
    return any(np.array_equal(page[y : y + h, x : x + w], part) for y, x in starts)


def test_importing_needs_neither_matplotlib_nor_torch(root: Path) -> None:
    code = (
        "import sys, vsrbench.show.figures, vsrbench.show.tables;"
        "print({'matplotlib', 'torch', 'cv2', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# Temporal profile


def test_busiest_row() -> None:
    assert figures.busiest_row(clip(0, busy_row=25)) == 25


@pytest.mark.parametrize("edge", [0, 3, 36, 39])
def test_rows_at_the_edges_are_not_chosen(edge: int) -> None:
    frames = clip(0, busy_row=edge)
    for i, frame in enumerate(frames):
        frame[17] += np.uint8(i)
    assert figures.busiest_row(frames) == 17


def test_profile(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.png"
    records = [score("ours", "ewarp", 2.5), score("gt", "flicker", 0)]
    about = figures.profile(kept, "toy", "pan", ["ours"], out, records=records)
    assert about == json.loads((tmp_path / "profile.json").read_text())
    assert about["methods"] == ["bicubic", "ours", "gt"]
    assert (about["row"], about["reference"], about["frames"]) == (25, "gt", COUNT)
    assert "highest temporal variance of Gt" in about["rule"]
    slices = pixels(tmp_path / "profile.slices.png")
    expected = [np.stack([frame[25] for frame in clip(seed)]) for seed in (0, 1, 2)]
    assert np.array_equal(slices, np.concatenate(expected))
    page = pixels(out)
    for strip in expected:
        assert shown(page, strip.repeat(1280 // WIDTH, axis=1).repeat(96 // COUNT, axis=0))


def test_profile_of_a_given_row(kept: Path, tmp_path: Path) -> None:
    about = figures.profile(kept, "toy", "pan", ["ours"], tmp_path / "p.png", 3)
    assert (about["row"], about["rule"]) == (3, "given")
    with pytest.raises(UserError, match="row 40 is outside"):
        figures.profile(kept, "toy", "pan", ["ours"], tmp_path / "p.png", 40)


def test_without_gt_bicubic_is_the_reference(tmp_path: Path) -> None:
    keep(tmp_path, "bicubic", clip(0, busy_row=30))
    keep(tmp_path, "ours", clip(1, busy_row=10))
    about = figures.profile(tmp_path, "toy", "pan", ["ours", "bicubic"], tmp_path / "p.png")
    assert (about["reference"], about["row"]) == ("bicubic", 30)
    assert about["methods"] == ["ours", "bicubic"]


def test_wide_and_long_clips_still_fit(tmp_path: Path) -> None:
    frames = [np.full((20, 2000, 3), i, np.uint8) for i in range(120)]
    keep(tmp_path, "bicubic", frames)
    figures.profile(tmp_path, "toy", "pan", [], tmp_path / "p.png")
    assert shown(pixels(tmp_path / "p.png"), np.stack([f[0, :1280] for f in frames]))


@pytest.mark.parametrize("draw", [figures.profile, figures.crops])
def test_frames_that_were_not_kept(draw: Any, kept: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no kept frames of theirs") as caught:
        draw(kept, "toy", "pan", ["ours", "theirs"], tmp_path / "out.png")
    assert "--keep-frames" in caught.value.hint
    only = tmp_path / "only"
    keep(only, "ours", clip(0))
    with pytest.raises(MissingError, match="no kept frames of bicubic"):
        draw(only, "toy", "pan", ["ours"], tmp_path / "out.png")


def test_frames_that_do_not_match(kept: Path, tmp_path: Path) -> None:
    keep(kept, "theirs", clip(5)[:-1])
    with pytest.raises(DataError, match="theirs 7 of 60x40"):
        figures.profile(kept, "toy", "pan", ["theirs"], tmp_path / "p.png")


def test_a_figure_is_drawn_again_when_what_it_shows_has_changed(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    real = style.replacing

    def watched(path: Path) -> Any:
        drawn.append(path)
        return real(path)

    monkeypatch.setattr(style, "replacing", watched)
    mark_of(kept / "ours" / "toy" / "pan").write_text("one\n")
    own = [made("one", "psnr", 30), made("one", "ewarp", 2)]
    for number, draw in enumerate((figures.profile, figures.crops)):
        out = tmp_path / f"{number}.png"

        def again(records: list[Record] = own, draw: Any = draw, out: Path = out) -> int:
            about = draw(kept, "toy", "pan", ["ours"], out, records=records)
            assert about == json.loads(out.with_suffix(".json").read_text())
            return len(drawn)

        first = again()
        assert again() == first
        assert again([made("one", "psnr", 31), made("one", "ewarp", 3)]) == first + 1
        assert again([replace(r, title="X") for r in own]) == first + 2
        shutil.rmtree(kept / "ours")
        keep(kept, "ours", clip(9 + number))
        mark_of(kept / "ours" / "toy" / "pan").write_text("one\n")
        assert again([replace(r, title="X") for r in own]) == first + 3
        out.with_suffix(".json").unlink()
        assert again([replace(r, title="X") for r in own]) == first + 4
    changed = tmp_path / "time.png"
    drawn.clear()
    for value, count in ((30, 1), (30, 1), (31, 2)):
        figures.over_time([score("ours", "psnr", value)], "toy", "pan", ["ours"], "psnr", changed)
        assert len(drawn) == count


# Scores of kept frames


def made(output: str, metric: str, value: float, **changes: Any) -> Record:
    """A score of the output with this key; other outputs are of other weights."""
    return score("ours", metric, value, output=output, weights_sha256=output, **changes)


def test_scores_of_the_very_frames_that_were_kept(kept: Path) -> None:
    mark_of(kept / "ours" / "toy" / "pan").write_text("one\n")

    def shown_of(*records: Record) -> list[float | None]:
        return [r.value for r in figures.kept_scores(kept, "toy", "pan", ["ours"], records)]

    newer = {"at": "u"}
    assert shown_of(made("one", "psnr", 30, border_px=80)) == [30]
    assert shown_of(made("one", "ewarp", 2, flow="x"), made("one", "flicker", 3)) == [2, 3]
    # Weights that are older or newer than the frames, by a metric that they do not share.
    assert shown_of(made("two", "psnr", 31), made("one", "ssim", 0.9, **newer)) == [0.9]
    with pytest.raises(MissingError, match="kept frames of ours are of other weights") as caught:
        shown_of(made("one", "ssim", 0.9), made("two", "psnr", 31, **newer))
    assert "--keep-frames" in caught.value.hint
    with pytest.raises(MissingError, match="other weights"):
        shown_of(made("two", "ewarp", 2, flow="x"))
    first = kept / "ours" / "toy" / "pan" / "00000000.png"
    whole = first.read_bytes()
    first.write_bytes(first.with_name("00000001.png").read_bytes())
    with pytest.raises(
        MissingError, match=r"not as they were scored: pan/00000000\.png was changed"
    ):
        shown_of(made("one", "psnr", 30))
    first.write_bytes(whole)
    # A record of schema 1 does not say which frames it scores.
    assert shown_of(made("", "psnr", 30)) == []
    mark_of(kept / "ours" / "toy" / "pan").unlink()
    assert shown_of(made("one", "psnr", 30)) == []


@pytest.mark.parametrize("draw", [figures.profile, figures.crops])
def test_new_scores_are_not_put_under_old_pictures(draw: Any, kept: Path, tmp_path: Path) -> None:
    mark_of(kept / "ours" / "toy" / "pan").write_text("one\n")
    with pytest.raises(MissingError, match="other weights"):
        draw(kept, "toy", "pan", ["ours"], tmp_path / "o.png", records=[made("two", "psnr", 31)])


# Crops


def test_busiest_box() -> None:
    frame = np.full((50, 100, 3), 128, np.uint8)
    checks = np.indices((20, 20)).sum(0) % 2 * 255
    frame[13:33, 61:81] = checks[..., None]
    assert figures.busiest_box(frame) == (61, 13, 20, 20)


@pytest.mark.parametrize(("height", "width", "side"), [(40, 60, 12), (50, 47, 10), (6, 100, 6)])
def test_box_is_even_and_inside(height: int, width: int, side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    x, y, w, h = figures.busiest_box(frame)
    assert w == h == side
    assert 0 <= x <= width - w
    assert 0 <= y <= height - h


def test_crops(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops.png"
    records = [score("ours", "psnr", 25), score("ours", "lpips", 0.3), score("gt", "psnr", 80)]
    about = figures.crops(kept, "toy", "pan", ["ours"], out, None, None, records)
    assert about == json.loads((tmp_path / "crops.json").read_text())
    reference = clip(2)[COUNT // 2]
    assert tuple(about["box"]) == figures.busiest_box(reference)
    assert (about["frame"], about["methods"]) == (COUNT // 2, ["bicubic", "ours", "gt"])
    x, y, w, h = about["box"]
    for seed in range(3):
        view = clip(seed)[COUNT // 2][y : y + h, x : x + w]
        assert shown(pixels(out), view.repeat(280 // w, axis=0).repeat(280 // w, axis=1))


def test_crops_of_a_given_box(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.png"
    about = figures.crops(kept, "toy", "pan", ["ours"], out, (5, 6, 20, 10), 7)
    assert (about["box"], about["frame"], about["rule"]) == ([5, 6, 20, 10], 7, "given")
    with pytest.raises(UserError, match="is outside the frame"):
        figures.crops(kept, "toy", "pan", ["ours"], out, (50, 6, 20, 10))
    with pytest.raises(UserError, match="frame 8 is outside the clip"):
        figures.crops(kept, "toy", "pan", ["ours"], out, None, 8)


def test_many_methods_take_two_rows(tmp_path: Path) -> None:
    for i in range(5):
        keep(tmp_path, f"m{i}", clip(i))
    keep(tmp_path, "bicubic", clip(9))
    names = [f"m{i}" for i in range(5)]
    few = figures.crops(tmp_path, "toy", "pan", names[:2], tmp_path / "few.png")
    many = figures.crops(tmp_path, "toy", "pan", names, tmp_path / "many.png")
    assert few["box"] == many["box"]
    assert pixels(tmp_path / "many.png").shape[0] > 1.5 * pixels(tmp_path / "few.png").shape[0]


# Quality against cost


@pytest.mark.parametrize(
    ("y_lower", "front"),
    [(True, [0, 1, 3]), (False, [0, 2, 4])],
)
def test_pareto(y_lower: bool, front: list[int]) -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 6.0), (4.0, 1.0), (5.0, 7.0), (5.0, 3.0)]
    assert figures.pareto(points, True, y_lower) == front


def test_pareto_keeps_equals() -> None:
    assert figures.pareto([(1, 1), (1, 1), (2, 1)]) == [0, 1]


def table() -> list[Record]:
    """Five methods: dominated, on the front, a whole process, without cost, and GT."""
    quality = {"bicubic": 24, "fast": 26, "slow": 25, "huge": 27, "uncosted": 25.5, "gt": 80}
    records = [
        score(m, "psnr", v + shift, name)
        for m, v in quality.items()
        for name, shift in (("pan", 0), ("zoom", 1))
    ]
    return [
        *records,
        cost("bicubic", 0.5),
        cost("fast", 10),
        cost("slow", 20),
        cost("huge", 5, region="process"),
    ]


def test_scatter(tmp_path: Path) -> None:
    summary = summarise(table())
    about = figures.scatter(summary, tmp_path / "a.png")
    assert about == {
        "front": ["bicubic", "fast"],
        "hidden": {"uncosted": "cost not measured at this size"},
    }
    figures.scatter(summary, tmp_path / "b.png", dataset="toy")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_scatter_of_other_columns(tmp_path: Path) -> None:
    about = figures.scatter(summarise(table()), tmp_path / "a.png", x="fps")
    assert about["front"] == ["fast", "bicubic"]
    free = [*table(), replace(cost("slow", 20, params_m=0.0), at="t2")]
    about = figures.scatter(summarise(free), tmp_path / "a.png", x="params")
    assert about["hidden"]["slow"] == "zero has no place on a log axis"


def test_scatter_without_cost_or_column(tmp_path: Path) -> None:
    summary = summarise([r for r in table() if r.kind == "quality"])
    with pytest.raises(MissingError, match="no method has both ms and psnr on toy") as caught:
        figures.scatter(summary, tmp_path / "a.png")
    assert "--size 15x10" in caught.value.hint
    with pytest.raises(UserError, match="Did you mean 'psnr'"):
        figures.scatter(summary, tmp_path / "a.png", y="pnsr")
    with pytest.raises(UserError, match="no dataset with results named 'tov'"):
        figures.scatter(summary, tmp_path / "a.png", dataset="tov")


# A metric over time


def test_over_time(tmp_path: Path) -> None:
    records = [score(m, k, 2) for m in ("gt", "bicubic", "ours") for k in ("psnr", "ewarp")]
    names = ["bicubic", "ours", "gt"]
    out = tmp_path / "t.png"
    assert figures.over_time(records, "toy", "pan", names, "ewarp", out)["methods"] == names
    about = figures.over_time(records, "toy", "pan", names, "psnr", out)
    assert about["methods"] == ["bicubic", "ours"]  # GT against itself says nothing
    assert out.stat().st_size > 5000


def test_over_time_without_values(tmp_path: Path) -> None:
    records = [score("ours", "psnr", 2, per_frame=())]
    with pytest.raises(MissingError, match="no method here has psnr frame by frame on toy/pan"):
        figures.over_time(records, "toy", "pan", ["ours"], "psnr", tmp_path / "t.png")
    with pytest.raises(UserError, match="no metric named 'pnsr'"):
        figures.over_time(records, "toy", "pan", ["ours"], "pnsr", tmp_path / "t.png")
