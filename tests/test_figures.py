"""Figures: the rules that choose what is shown, the numbers behind the lines, exact pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Measurement, Record
from vsrbench.data import frames
from vsrbench.data.frames import FrameWriter, lq_of, mark_path, write_sums
from vsrbench.results.summary import summarise
from vsrbench.show import figures
from vsrbench.show.figures import kept as figures_kept
from vsrbench.show.figures import lines, style
from vsrbench.show.figures import pictures as figures_pictures

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


Drawn = Callable[[Path, Picture], bool]


@pytest.fixture
def enlarged(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Whether a part is on the last sheet drawn, where it was put, each pixel a square."""
    put: list[tuple[Picture, int, int]] = []

    def paste(axes: Any, picture: Picture, x: float, y: float) -> None:
        put.append((picture, round(x), round(y)))
        style.paste(axes, picture, x, y)

    monkeypatch.setattr(figures_pictures, "paste", paste)

    def found(out: Path, part: Picture) -> bool:
        page = pixels(out)
        for picture, x, y in put:
            h, w = picture.shape[:2]
            factor = w // part.shape[1]
            big = part.repeat(factor, axis=0).repeat(factor, axis=1)
            if np.array_equal(picture, big) and np.array_equal(page[y : y + h, x : x + w], big):
                return True
        return False

    return found


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
    about = figures.profile(figures.Kept(kept, "toy", "pan", ["ours"], records), out)
    assert about == json.loads((tmp_path / "profile.json").read_text())
    assert about["methods"] == ["bicubic", "ours", "gt"]
    assert (about["row"], about["reference"], about["frames"]) == (25, "gt", COUNT)
    assert "highest temporal variance of Gt" in about["rule"]
    slices = pixels(tmp_path / "profile.slices.png")
    expected = [np.stack([frame[25] for frame in clip(seed)]) for seed in (0, 1, 2)]
    assert np.array_equal(slices, np.concatenate(expected))
    page = pixels(out)
    for strip in expected:  # 60 px and 8 frames on 354 by 34 points at 300 px an inch
        assert shown(page, strip.repeat(25, axis=1).repeat(18, axis=0))


def test_frames_are_decoded_once_for_all_figures(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = frames.read_image

    def watched(path: Path) -> Any:
        read.append(path)
        return real(path)

    monkeypatch.setattr(frames, "read_image", watched)
    once = figures.Kept(kept, "toy", "pan", ["ours"])
    read.clear()  # the first of each tells the size
    figures.profile(once, tmp_path / "p.png")
    figures.crops(once, tmp_path / "c.png")
    assert len(read) == len(set(read)) == 3 * COUNT
    monkeypatch.setattr(figures_kept, "MEMORY", 3 * 40 * 60 * 3 * 2)  # two frames of each
    few = figures.Kept(kept, "toy", "pan", ["ours"])
    read.clear()
    (tmp_path / "p.png").unlink()
    assert figures.profile(few, tmp_path / "p.png")["row"] == 25
    assert len(read) > 3 * COUNT


def test_profile_of_a_given_row(kept: Path, tmp_path: Path) -> None:
    about = figures.profile(figures.Kept(kept, "toy", "pan", ["ours"]), tmp_path / "p.png", 3)
    assert (about["row"], about["rule"]) == (3, "given")
    with pytest.raises(UserError, match="row 40 is outside"):
        figures.profile(figures.Kept(kept, "toy", "pan", ["ours"]), tmp_path / "p.png", 40)


def test_without_gt_bicubic_is_the_reference(tmp_path: Path) -> None:
    keep(tmp_path, "bicubic", clip(0, busy_row=30))
    keep(tmp_path, "ours", clip(1, busy_row=10))
    about = figures.profile(
        figures.Kept(tmp_path, "toy", "pan", ["ours", "bicubic"]), tmp_path / "p.png"
    )
    assert (about["reference"], about["row"]) == ("bicubic", 30)
    assert about["methods"] == ["ours", "bicubic"]


def test_wide_and_long_clips_still_fit(tmp_path: Path) -> None:
    frames = [np.full((20, 2000, 3), i, np.uint8) for i in range(120)]
    keep(tmp_path, "bicubic", frames)
    figures.profile(figures.Kept(tmp_path, "toy", "pan", []), tmp_path / "p.png")
    page = pixels(tmp_path / "p.png")
    assert shown(page, np.stack([f[0] for f in frames]).repeat(2, axis=0))
    assert page.shape[1] == pytest.approx(6.9 / 354 * 72 * 2000, rel=0.01)


@pytest.mark.parametrize("draw", [figures.profile, figures.crops])
def test_frames_that_were_not_kept(draw: Any, kept: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no kept frames of theirs") as caught:
        draw(figures.Kept(kept, "toy", "pan", ["ours", "theirs"]), tmp_path / "out.png")
    assert "--keep-frames" in caught.value.hint
    only = tmp_path / "only"
    keep(only, "ours", clip(0))
    with pytest.raises(MissingError, match="no kept frames of bicubic"):
        draw(figures.Kept(only, "toy", "pan", ["ours"]), tmp_path / "out.png")


def test_frames_that_do_not_match(kept: Path, tmp_path: Path) -> None:
    keep(kept, "theirs", clip(5)[:-1])
    with pytest.raises(DataError, match="theirs 7 of 60x40"):
        figures.profile(figures.Kept(kept, "toy", "pan", ["theirs"]), tmp_path / "p.png")


def test_a_figure_is_drawn_again_when_what_it_shows_has_changed(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    real = style.replace_atomically

    def watched(path: Path) -> Any:
        drawn.append(path)
        return real(path)

    monkeypatch.setattr(style, "replace_atomically", watched)
    mark_path(kept / "ours" / "toy" / "pan").write_text("one\n")
    own = [made("one", "psnr", 30), made("one", "ewarp", 2)]
    for number, draw in enumerate((figures.profile, figures.crops)):
        out = tmp_path / f"{number}.png"

        def again(records: list[Record] = own, draw: Any = draw, out: Path = out) -> int:
            about = draw(figures.Kept(kept, "toy", "pan", ["ours"], records), out)
            assert about == json.loads(out.with_suffix(".json").read_text())
            return len(drawn)

        first = again()
        assert again() == first
        assert again([made("one", "psnr", 31), made("one", "ewarp", 3)]) == first + 1
        assert again([replace(r, title="X") for r in own]) == first + 2
        shutil.rmtree(kept / "ours")
        keep(kept, "ours", clip(9 + number))
        mark_path(kept / "ours" / "toy" / "pan").write_text("one\n")
        assert again([replace(r, title="X") for r in own]) == first + 3
        out.with_suffix(".json").unlink()
        assert again([replace(r, title="X") for r in own]) == first + 4
        (tmp_path / "0.png").write_bytes(b"another picture")
        if draw is figures.profile:
            assert again([replace(r, title="X") for r in own]) == first + 5
            out.with_suffix(".slices.png").unlink()
            assert again([replace(r, title="X") for r in own]) == first + 6
    changed = tmp_path / "drift.png"
    drawn.clear()
    for value, count in ((30, 1), (30, 1), (31, 2)):
        figures.drift([score("ours", "psnr", value)], "toy", ["ours"], changed)
        assert len(drawn) == count


# Scores of kept frames


def made(output: str, metric: str, value: float, **changes: Any) -> Record:
    """A score of the output with this key; other outputs are of other weights."""
    return score("ours", metric, value, output=output, weights_sha256=output, **changes)


def test_scores_of_the_very_frames_that_were_kept(kept: Path) -> None:
    mark_path(kept / "ours" / "toy" / "pan").write_text("one\n")

    def shown_of(*records: Record) -> list[float | None]:
        return [r.value for r in figures.read_kept_scores(kept, "toy", "pan", ["ours"], records)]

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
    mark_path(kept / "ours" / "toy" / "pan").unlink()
    assert shown_of(made("one", "psnr", 30)) == []


@pytest.mark.parametrize("draw", [figures.profile, figures.crops])
def test_new_scores_are_not_put_under_old_pictures(draw: Any, kept: Path, tmp_path: Path) -> None:
    mark_path(kept / "ours" / "toy" / "pan").write_text("one\n")
    with pytest.raises(MissingError, match="other weights"):
        draw(
            figures.Kept(kept, "toy", "pan", ["ours"], [made("two", "psnr", 31)]),
            tmp_path / "o.png",
        )


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


def test_crops(kept: Path, tmp_path: Path, enlarged: Drawn) -> None:
    out = tmp_path / "crops.png"
    records = [score("ours", "psnr", 25), score("ours", "lpips", 0.3), score("gt", "psnr", 80)]
    about = figures.crops(figures.Kept(kept, "toy", "pan", ["ours"], records), out)
    assert about == json.loads((tmp_path / "crops.json").read_text())
    reference = clip(2)[COUNT // 2]
    assert tuple(about["box"]) == figures.busiest_box(reference)
    assert (about["frame"], about["methods"]) == (COUNT // 2, ["bicubic", "ours", "gt"])
    x, y, w, h = about["box"]
    for seed in range(3):
        view = clip(seed)[COUNT // 2][y : y + h, x : x + w]
        assert enlarged(out, view)


def test_crops_of_a_given_box(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.png"
    about = figures.crops(figures.Kept(kept, "toy", "pan", ["ours"]), out, (5, 6, 20, 10), 7)
    assert (about["box"], about["frame"], about["rule"]) == ([5, 6, 20, 10], 7, "given")
    with pytest.raises(UserError, match="is outside the frame"):
        figures.crops(figures.Kept(kept, "toy", "pan", ["ours"]), out, (50, 6, 20, 10))
    with pytest.raises(UserError, match="frame 8 is outside the clip"):
        figures.crops(figures.Kept(kept, "toy", "pan", ["ours"]), out, None, 8)


@pytest.mark.parametrize(
    ("count", "height", "width"), [(14, HEIGHT, WIDTH), (1, 60, 24), (14, 60, 24), (2, 8, 8)]
)
def test_sheets_have_the_width_of_a_page(
    count: int, height: int, width: int, tmp_path: Path, enlarged: Drawn
) -> None:
    """Few methods or many, portrait, tiny or wide: all views are there, none beyond the page."""
    rng = np.random.default_rng(0)
    names = ["bicubic", *(f"a method with a long name {i}" for i in range(count))]
    for name in names:
        keep(tmp_path, name, [rng.integers(0, 256, (height, width, 3), dtype=np.uint8)] * 2)
    about = figures.crops(figures.Kept(tmp_path, "toy", "pan", names), tmp_path / "c.png")
    x, y, w, h = about["box"]
    page = pixels(tmp_path / "c.png")
    for name in (names[0], names[-1]):
        kept = pixels(tmp_path / name / "toy" / "pan" / "00000001.png")
        assert enlarged(tmp_path / "c.png", kept[y : y + h, x : x + w])
    assert 1400 < page.shape[1] < 3300
    assert 100 < page.shape[0] < 0.7 * page.shape[1]


def test_lq_is_shown_where_it_was_kept(kept: Path, tmp_path: Path, enlarged: Drawn) -> None:
    lq = [frame[::4, ::4] for frame in clip(7)]
    folder = lq_of(kept / "bicubic" / "toy" / "pan")
    with FrameWriter(folder) as writer:
        for frame in lq:
            writer.write(frame)
    assert list(figures.open_kept_frames(kept, "toy", "pan", ["ours"])) == [
        "lq",
        "bicubic",
        "ours",
        "gt",
    ]
    sources = figures.open_kept_frames(kept, "toy", "pan", ["lq", "ours"])
    assert np.array_equal(sources["lq"][3], lq[3].repeat(4, 0).repeat(4, 1))
    about = figures.crops(
        figures.Kept(kept, "toy", "pan", ["ours"]), tmp_path / "c.png", (8, 4, 16, 16)
    )
    assert about["methods"][0] == "lq"
    assert enlarged(tmp_path / "c.png", sources["lq"][COUNT // 2][4:20, 8:24])
    # A method of that name is shown instead.
    keep(kept, "lq", clip(8))
    sources = figures.open_kept_frames(kept, "toy", "pan", ["lq"])
    assert np.array_equal(sources["lq"][0], clip(8)[0])
    assert list(figures.open_kept_frames(kept, "toy", "pan", ["ours"])).count("lq") == 1


def test_the_clip_on_which_methods_differ_most(tmp_path: Path) -> None:
    def put(method: str, name: str, level: int) -> None:
        with FrameWriter(tmp_path / method / "toy" / name) as writer:
            writer.write(np.full((8, 8, 3), level, np.uint8))

    for name, levels in {"a": (10, 12, 200), "b": (10, 60, 60), "c": (10, 20, 0)}.items():
        for method, level in zip(("bicubic", "ours", "gt"), levels, strict=True):
            put(method, name, level)
    put("bicubic", "d", 0)  # fewer methods were kept of it
    put("gt", "d", 250)
    names = ["bicubic", "ours", "gt"]
    assert figures.find_telling_clip(tmp_path, [], "toy", ["a", "b", "c", "d"], names) == "b"
    assert figures.find_telling_clip(tmp_path, [], "toy", ["x", "y"], names) == "x"
    far = {"lq": 255, "bicubic": 10, "ours": 60, "gt": 255}
    frames = {m: np.full((8, 8, 3), level, np.uint8) for m, level in far.items()}
    assert figures.spread(frames) == pytest.approx(25)


@pytest.mark.parametrize("kind", figures.FORMATS)
def test_formats(kind: str, kept: Path, tmp_path: Path) -> None:
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    for name in "ab":
        figures.scatter(summarise(table()), tmp_path / f"{name}.{kind}")
    figures.crops(figures.Kept(kept, "toy", "pan", []), tmp_path / f"c.{kind}")
    found = [(tmp_path / f"{name}.{kind}").read_bytes() for name in "abc"]
    assert found[0] == found[1]
    assert all(data.startswith(begins) for data in found)
    with pytest.raises(UserError, match=r"figures are PNG, SVG or PDF, and .*d\.jpg is not"):
        figures.crops(figures.Kept(kept, "toy", "pan", ["ours"]), tmp_path / "d.jpg")
    assert not list(tmp_path.glob("d.*"))


def test_names_of_strangers_are_text(kept: Path, tmp_path: Path) -> None:
    evil = "--></svg><script>$x_1$ 画像"
    records = [score("ours", "psnr", 25, title=evil), score("bicubic", "psnr", 24)]
    records += [cost("ours", 3, params_m=1), cost("bicubic", 2)]
    records = [replace(r, title=evil) if r.method == "ours" else r for r in records]
    figures.crops(figures.Kept(kept, "toy", "pan", ["ours"], records), tmp_path / "c.svg")
    figures.scatter(summarise(records), tmp_path / "s.svg")
    figures.drift(records, "toy", ["ours", "bicubic"], tmp_path / "d.svg")
    for name in "csd":
        tree = ElementTree.parse(tmp_path / f"{name}.svg")
        assert not [e for e in tree.iter() if str(e.tag).endswith("script")]


def test_teaser(kept: Path, tmp_path: Path, enlarged: Drawn) -> None:
    records = [
        *(score(m, k, v, c) for c in ("pan", "zoom") for m, k, v in SCORES),
        *(cost("bicubic", 0.5), cost("ours", 20)),
    ]
    out = tmp_path / "t.png"
    summary = summarise(records)
    about = figures.teaser(figures.Kept(kept, "toy", "pan", ["ours"], records), summary, out)
    assert about == json.loads((tmp_path / "t.json").read_text())
    assert about["efficiency"] == ["ms", "rss", "params"]
    assert about["quality"] == ["psnr", "ssim", "flicker"]
    assert about["methods"] == ["bicubic", "ours", "gt"]
    assert "means over 2 clips of toy" in about["caption"]
    assert "LQ 15x10" in about["caption"]
    x, y, w, h = about["box"]
    assert enlarged(out, clip(1)[COUNT // 2][y : y + h, x : x + w])
    few = [r for r in records if r.method != "gt" and r.kind == "quality"][:1]
    figures.teaser(figures.Kept(kept, "toy", "pan", [], few), summarise(few), out)


SCORES = [
    *(("bicubic", "psnr", 24), ("ours", "psnr", 25), ("gt", "psnr", 80)),
    *(("bicubic", "ssim", 0.7), ("ours", "ssim", 0.8), ("ours", "flicker", 2)),
]


# Quality against cost


@pytest.mark.parametrize(("sign", "front"), [(1, [0, 1, 3]), (-1, [0, 2, 4])])
def test_pareto(sign: int, front: list[int]) -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 6.0), (4.0, 1.0), (5.0, 7.0), (5.0, 3.0)]
    assert figures.pareto([(x, sign * y) for x, y in points]) == front


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
    assert about == json.loads((tmp_path / "a.json").read_text())
    assert (about["x"], about["y"], about["front"]) == ("ms", "psnr", ["bicubic", "fast"])
    assert about["hidden"] == {"uncosted": "cost not measured at this size"}
    why = "measured otherwise, not ranked: Some CPU, 2 CPU threads, region process"
    assert f"Hollow, not on the front: Huge: {why}" in about["caption"]
    figures.scatter(summary, tmp_path / "b.png", dataset="toy")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_front_of_one_is_no_line(tmp_path: Path) -> None:
    lone = [r for r in table() if r.method not in ("bicubic", "gt")]
    for records, line in ((table(), True), (lone, False)):
        about = figures.scatter(summarise(records), tmp_path / "a.svg")
        drawn = (tmp_path / "a.svg").read_text()
        assert ("Pareto front" in drawn, "Line: Pareto front." in about["caption"]) == (line, line)
    assert "Fast is the whole Pareto front." in about["caption"]


def test_scatter_of_other_columns(tmp_path: Path) -> None:
    about = figures.scatter(summarise(table()), tmp_path / "a.png", x="fps")
    assert about["front"] == ["fast", "bicubic"]
    free = [*table(), replace(cost("slow", 20, params_m=0.0), at="t2")]
    about = figures.scatter(summarise(free), tmp_path / "a.png", x="params")
    assert about["hidden"]["slow"] == "zero has no place on a log axis"


def test_scatter_without_cost_or_column(tmp_path: Path) -> None:
    summary = summarise([r for r in table() if r.kind == "quality"])
    with pytest.raises(MissingError, match="no method has both ms and psnr on toy") as caught:
        figures.scatter(summary, tmp_path / "a.png", x="ms")
    assert "--size 15x10" in caught.value.hint
    with pytest.raises(UserError, match="Did you mean 'psnr'"):
        figures.scatter(summary, tmp_path / "a.png", y="pnsr")
    with pytest.raises(UserError, match="no dataset with results named 'tov'"):
        figures.scatter(summary, tmp_path / "a.png", dataset="tov")


def test_axes_that_there_are(tmp_path: Path) -> None:
    """Another part of the cost, another metric, or two metrics; never one that does not rank."""
    quick = [replace(r, metric="niqe", value=9 - r.value / 9) for r in table() if r.metric]
    alone = summarise([r for r in quick if r.method != "gt"])
    assert figures.scatter(summarise([*table(), *quick]), tmp_path / "a.png")["y"] == "psnr"
    with pytest.raises(MissingError):
        figures.scatter(alone, tmp_path / "a.png")
    both = summarise([r for r in (*table(), *quick) if r.metric])
    about = figures.scatter(both, tmp_path / "a.png")
    assert (about["x"], about["y"]) == ("niqe", "psnr")
    assert about["front"] == ["huge"]
    blind = [replace(r, metric="flicker", reference="bicubic") for r in table() if r.metric]
    costs = [r for r in table() if not r.metric]
    about = figures.scatter(
        summarise(r for r in (*blind, *quick, *costs) if r.method != "gt"), tmp_path / "a.png"
    )
    assert (about["x"], about["y"]) == ("ms", "niqe")


# A metric over time


def test_drift(tmp_path: Path) -> None:
    records = [score(m, k, 2) for m in ("gt", "bicubic", "ours") for k in ("psnr", "ewarp")]
    names = ["bicubic", "ours", "gt"]
    out = tmp_path / "t.png"
    about = figures.drift(records, "toy", names, out, "ewarp")
    assert about == json.loads((tmp_path / "t.json").read_text())
    assert about["methods"] == names
    about = figures.drift(records, "toy", names, out)
    assert (about["metric"], about["clip"]) == ("psnr", "pan")
    assert about["methods"] == ["bicubic", "ours"]  # GT against itself says nothing
    assert out.stat().st_size > 5000


def test_drift_is_that_of_the_method_and_not_of_the_clip(tmp_path: Path) -> None:
    """Both follow the content; only one loses 0.01 dB a frame besides."""
    content = 30 + np.sin(np.arange(100) / 9) + np.arange(100) / 50
    values = {"bicubic": content, "steady": content + 1, "drifting": content - np.arange(100) / 100}
    records = [score(m, "psnr", 30, per_frame=tuple(map(float, v))) for m, v in values.items()]
    records += [score("steady", "psnr", 30, "short")]
    about = figures.drift(records, "toy", list(values), tmp_path / "t.png")
    assert about["clip"] == "pan"
    assert about["drift"] == pytest.approx({"steady": 0, "drifting": -0.75})
    alone = figures.drift(records, "toy", ["drifting"], tmp_path / "t.png")
    expected = (content - np.arange(100) / 100)[75:].mean() - (content - np.arange(100) / 100)[
        :25
    ].mean()
    assert alone["drift"] == pytest.approx({"drifting": expected})


def test_drift_without_values(tmp_path: Path) -> None:
    records = [score("ours", "psnr", 2, per_frame=())]
    with pytest.raises(
        MissingError, match="no method here has psnr frame by frame on toy"
    ) as caught:
        figures.drift(records, "toy", ["ours"], tmp_path / "t.png")
    assert caught.value.hint == "run it: --metrics psnr"
    with pytest.raises(UserError, match="no metric named 'pnsr'"):
        figures.drift(records, "toy", ["ours"], tmp_path / "t.png", "pnsr")


# Cost by size and length


def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(90, 160), (180, 320), (360, 640)]
    records = [cost(m, 5 * i + 1, size=s) for m in ("a", "b") for i, s in enumerate(sizes)]
    broken = {"message": "out of memory"}
    big = replace(cost("b", 1), status="failed", measurement=None, size=(720, 1280), error=broken)
    about = figures.growth([*records, big, cost("once", 3)], None, tmp_path / "g.png")
    assert about == json.loads((tmp_path / "g.json").read_text())
    assert about["methods"] == ["a", "b"]
    assert set(about["sizes"]) == {"160x90", "320x180", "640x360", "15x10"}
    panels, legend = list[Any](), list[str]()
    drawing = lines.drawing

    @contextmanager
    def kept(*args: Any, **how: Any) -> Iterator[Any]:
        with drawing(*args, **how) as figure:
            yield figure
            panels.extend(figure.axes)
            legend.extend(text.get_text() for text in figure.legends[0].get_texts())

    lengths = [cost("a", 5, frames=n, rss_peak_mib=900 + n / 50) for n in (10, 30, 100)]
    monkeypatch.setattr(lines, "drawing", kept)
    about = figures.growth([*records, *lengths], None, tmp_path / "g.svg")
    assert about["lengths"] == [10, 30, 100]
    assert len(panels) == 4
    assert legend == ["A", "B"]  # though B is in the first two alone
    for axes in panels:  # no marker lies on the edge
        assert axes.get_ylim()[1] > 1.02 * max(max(line.get_ydata()) for line in axes.lines)
    with pytest.raises(MissingError, match="growth needs the cost of a method at two sizes") as no:
        figures.growth([cost("a", 3)], None, tmp_path / "g.png")
    assert "cost --methods a --grid 320x180 640x360" in no.value.hint
