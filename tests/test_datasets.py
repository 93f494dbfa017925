"""Test sets on disk: layouts, `datasets check`, `add`, `degrade`, and the policies of one size."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import DatasetSpec, Layout
from vsrbench.data import datasets, degrade, newset, second_order
from vsrbench.data.frames import FrameWriter, Resized, open_frames
from vsrbench.data.images import read_image
from vsrbench.metrics.fidelity import psnr
from vsrbench.run import datacheck

SPECS = sorted(
    {p.stem for p in (Path(__file__).parents[1] / "datasets").glob("*.toml")}
    - {"synthetic", "footage"}  # made here: they have no layouts
)
SIZE, FRAMES = (64, 96), 3  # (height, width) of miniature GT

Check = Callable[..., datacheck.Findings]


def scene(clip: str, t: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Texture that moves a pixel a frame, another one for each clip."""
    h, w = size
    seed = sum(map(ord, clip))
    noise = np.random.default_rng(seed).integers(0, 256, (h // 4 + 4, w // 4, 3), np.uint8)
    return np.ascontiguousarray(
        cv2.resize(noise, (w, h + 16), interpolation=cv2.INTER_CUBIC)[t : t + h]
    )


def small(frame: np.ndarray, factor: int) -> np.ndarray:
    h, w = frame.shape[:2]
    if factor == 1:
        return cv2.GaussianBlur(frame, (0, 0), 1.0)
    return cv2.resize(frame, (w // factor, h // factor), interpolation=cv2.INTER_AREA)


def write(place: Path, frames: list[np.ndarray], video: bool) -> None:
    if not video:
        with FrameWriter(place) as writer:
            for frame in frames:
                writer.write(frame)
        return
    import av

    place.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(place.with_name(place.name + ".mkv")), "w") as out:
        stream = out.add_stream("libx264rgb", rate=24, options={"crf": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))


def clip_names(spec: DatasetSpec) -> list[str]:
    return list(spec.expect.names) or ["000", "001"]


def native(spec: DatasetSpec, layout: Layout) -> int:
    return layout.native_scale or spec.native_scale or spec.scale


def build(base: Path, spec: DatasetSpec, layout: Layout) -> None:
    """A miniature of a set in one of its layouts."""
    video = "Video" in (layout.lq or layout.gt)
    for clip in clip_names(spec):
        gt = [scene(clip, t) for t in range(FRAMES)]
        lq = [small(f, native(spec, layout)) for f in gt]
        for pattern, frames in ((layout.lq, lq), (layout.gt, gt)):
            if pattern:
                write(base / pattern.format(clip=clip), frames, video)


@pytest.fixture
def mini(tmp_path: Path, root: Path) -> Path:
    """A root with the specs of the checkout, what they expect reduced to the miniatures."""
    base = tmp_path / "root"
    shutil.copytree(root / "methods" / "interpolation", base / "methods" / "interpolation")
    (base / "datasets").mkdir()
    for path in (root / "datasets").glob("*.toml"):
        text = path.read_text()
        spec = specs.dataset_spec(root, path.stem)
        scale = native(spec, Layout("any"))
        other_scale = spec.base and native(specs.dataset_spec(root, spec.base), Layout("")) != scale
        if other_scale:  # its LQ is of another size than that of its base
            text += "\n[expect]\n"
        if "\n[expect]" in text:
            h, w = SIZE
            names = f"names = {json.dumps(spec.expect.names)}\n" if spec.expect.names else ""
            want = (
                f"\n[expect]\nclips = {len(clip_names(spec))}\n{names}"
                f"frames = [{FRAMES}, {FRAMES}]\n"
                f"gt_size = [{w}, {h}]\nlq_size = [{w // scale}, {h // scale}]\n\n"
            )
            text = re.sub(r"\n\[expect\]\n.*?(?=\n\[\[|\Z)", want, text, flags=re.S)
        (base / "datasets" / path.name).write_text(text)
    return base


@pytest.fixture
def check(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check the set in tmp_path/data against a spec of `mini`."""

    def call(name: str, accept: bool = False, quick: bool = False) -> datacheck.Findings:
        spec = specs.dataset_spec(mini, name)
        monkeypatch.setenv(datasets.root_variable(spec), str(tmp_path / "data"))
        manifest = tmp_path / f"{name}.json"
        return datacheck.check(spec, manifest, accept, quick, lambda _: None)

    return call


# ---------------------------------------------------------------- every spec in every layout


@pytest.mark.parametrize("name", SPECS)
def test_every_layout_of_every_spec(name: str, mini: Path, check: Check, tmp_path: Path) -> None:
    spec = specs.dataset_spec(mini, name)
    assert spec.licence
    assert spec.source
    for layout in spec.layouts:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        build(tmp_path / "data", spec, layout)
        found = check(name)
        assert not found.errors, (layout, found.errors)
        expected = f"layout '{layout.name}'"
        twin = [e.name for e in spec.layouts if (e.lq, e.gt) == (layout.lq, layout.gt)]
        assert expected in found.facts[0] or twin[0] in found.facts[0]
        assert f"{len(clip_names(spec))} clips of {FRAMES} frames" in " ".join(found.facts)
        guesses = [w for w in found.warnings if "was a guess until now" in w]
        assert bool(guesses) == layout.uncertain
        gt_only = [w for w in found.warnings if w.startswith("GT only")]
        assert bool(gt_only) == (not layout.lq)
        assert len(found.warnings) == len(guesses) + len(gt_only), found.warnings


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_runs_through_the_command_line(
    name: str,
    mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = specs.dataset_spec(mini, name)
    layout = next(entry for entry in spec.layouts if entry.lq)
    build(tmp_path / "data", spec, layout)
    monkeypatch.setenv(datasets.root_variable(spec), str(tmp_path / "data"))
    metric = "psnr" if layout.gt else "flicker_vbench"
    args = ["--methods", "bicubic", "--datasets", name, "--metrics", metric, "--no-cost"]
    where = ["--root", str(mini), "--results", str(tmp_path / "results"), "-q"]
    assert main(["run", *args, *where, "--device", "cpu"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f"{spec.title}, x{spec.scale}, {len(clip_names(spec))} clips" in out
    records = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    rows = [r for r in map(json.loads, records) if r["method"] == "bicubic"]
    assert len(rows) == len(clip_names(spec))
    assert {r["status"] for r in rows} == {"ok"}
    if layout.gt:  # what bicubic must have got, by an independent way
        row = next(r for r in rows if r["clip"] == clip_names(spec)[0])
        gt = [scene(row["clip"], t) for t in range(FRAMES)]
        lq = [small(f, native(spec, layout)) for f in gt]
        factor = spec.scale // native(spec, layout)
        if factor > 1:
            lq = list(Resized(lq, (SIZE[0] // factor, SIZE[1] // factor)))
        up = list(Resized(lq, SIZE)) if spec.scale > 1 else lq
        assert row["value"] == pytest.approx(
            np.mean([psnr(a, b) for a, b in zip(up, gt, strict=True)]), abs=0.05
        )


# ---------------------------------------------------------------- what is wrong is said

PAIRED = [n for n in SPECS if n not in ("videolq", "videolq-x1", "movielq", "aigc")]


def sides(spec: DatasetSpec, base: Path) -> tuple[Path, Path]:
    """Folders of the first clip's LQ and GT in the first layout."""
    layout, clip = spec.layouts[0], clip_names(spec)[0]
    return base / layout.lq.format(clip=clip), base / layout.gt.format(clip=clip)


def lose_a_frame(lq: Path, gt: Path) -> None:
    (lq / "00000001.png").unlink()


def add_a_clip(lq: Path, gt: Path) -> None:
    shutil.copytree(gt, gt.with_name("extra"))
    shutil.copytree(lq, lq.with_name("extra"))


def lose_a_side(lq: Path, gt: Path) -> None:
    shutil.rmtree(lq)


def swap(lq: Path, gt: Path) -> None:
    lq.rename(lq.with_name("x"))
    gt.rename(lq)
    lq.with_name("x").rename(gt)


def rewrite(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in sorted(folder.iterdir()):
        cv2.imwrite(str(path), np.ascontiguousarray(change(read_image(path))[..., ::-1]))


def wrong_size(lq: Path, gt: Path) -> None:
    rewrite(gt, lambda f: f[:-8, :-8])


def shift(lq: Path, gt: Path) -> None:
    rewrite(gt, lambda f: np.roll(f, (3, -4), (0, 1)))


def one_size(lq: Path, gt: Path) -> None:
    shutil.rmtree(lq)
    shutil.copytree(gt, lq)


def cut_short(lq: Path, gt: Path) -> None:
    path = gt / "00000002.png"
    path.write_bytes(path.read_bytes()[:-200])


BROKEN = {
    lose_a_frame: r"LQ lacks frame 00000001.*LQ has 2 frames, GT has 3",
    add_a_clip: r"\d clips, expected \d",
    lose_a_side: r"clip '\w+' has GT and no LQ",
    swap: r"LQ and GT are swapped",
    wrong_size: r"GT is 88x56, expected 96x64",
    shift: r"LQ is shifted against GT in 1 clip \(\w+\): it lies -[23](\.\d+)? px down and "
    r"\+[345](\.\d+)? px right",
    one_size: r"LQ is as large as GT, 96x64; this is a x4 set",
    cut_short: r"GT: .*00000002.png is truncated",
}


@pytest.mark.parametrize("fault", BROKEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", PAIRED)
def test_faults_are_named(
    name: str, fault: Callable[..., None], mini: Path, check: Check, tmp_path: Path
) -> None:
    spec = specs.dataset_spec(mini, name)
    one = native(spec, spec.layouts[0]) == 1
    if one and fault is one_size:
        return  # so it is
    build(tmp_path / "data", spec, spec.layouts[0])
    fault(*sides(spec, tmp_path / "data"))
    found = check(name)
    said = " | ".join(found.errors)
    if (fault is shift and spec.kind == "real") or (fault is swap and one):
        said = " | ".join(found.warnings)
    if fault is add_a_clip and spec.layouts[0].subset:
        assert not found.errors  # such a folder holds other clips anyway
        return
    text = "LQ is sharper than GT in 1 clip" if fault is swap and one else BROKEN[fault]
    assert re.search(text, said), (found.errors, found.warnings)


def test_uncertain_facts_are_warnings_only(check: Check, mini: Path, tmp_path: Path) -> None:
    path = mini / "datasets" / "udm10.toml"
    text = path.read_text()
    path.write_text(text.replace("\n[expect]\n", '\n[expect]\nuncertain = ["clips"]\n'))
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[0])
    add_a_clip(*sides(spec, tmp_path / "data"))
    found = check("udm10")
    assert not found.errors
    assert "3 clips, expected 2 (the spec is not certain of it)" in found.warnings


def test_lq_taken_from_pixel_zero_is_a_warning(check: Check, mini: Path, tmp_path: Path) -> None:
    spec = specs.dataset_spec(mini, "vid4")
    build(tmp_path / "data", spec, spec.layouts[0])
    for clip in clip_names(spec):
        lq = tmp_path / "data" / "BIx4" / clip
        gt = [cv2.GaussianBlur(scene(clip, t), (0, 0), 1.5) for t in range(FRAMES)]
        shutil.rmtree(lq)
        write(lq, [f[::4, ::4] for f in gt], False)
    found = check("vid4")
    assert not found.errors
    (text,) = found.warnings
    assert re.search(r"it lies -?\+?1\.\d+ px down and .1\.\d+ px right", text)
    assert "as LQ that takes pixel 0" in text


def test_hashes_are_written_once_and_compared(check: Check, mini: Path, tmp_path: Path) -> None:
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[0])
    first = check("udm10")
    assert any(f.startswith("hashes of 2 clips written") for f in first.facts)
    assert any(f.startswith("hashes as on") for f in check("udm10").facts)
    lq, _ = sides(spec, tmp_path / "data")
    rewrite(lq, lambda f: f // 2 + 40)  # the pack was replaced
    assert any(e.startswith("changed since") and "000 (LQ)" in e for e in check("udm10").errors)
    assert check("udm10", quick=True).errors == []
    assert check("udm10", accept=True).errors == []
    assert check("udm10").errors == []
    # The other layout of the same pack has a manifest of its own.
    shutil.rmtree(tmp_path / "data")
    build(tmp_path / "data", spec, spec.layouts[1])
    assert any("written" in f for f in check("udm10").facts)
    held = json.loads((tmp_path / "udm10.json").read_text())
    assert set(held) == {"dove", "dove-video"}
    assert held["dove-video"]["clips"]["000"]["gt"]["size"] == [96, 64]


def test_check_on_the_command_line(
    mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["datasets", "check", "udm10", "--root", str(mini)]
    for variable in ("VSRBENCH_UDM10", datasets.DATA):
        monkeypatch.delenv(variable, raising=False)
    assert main(args) == 3
    assert "$VSRBENCH_UDM10 and $VSRBENCH_DATA are not set" in capsys.readouterr().err
    spec = specs.dataset_spec(mini, "udm10")
    monkeypatch.setenv(datasets.DATA, str(tmp_path))
    (tmp_path / "UDM10").mkdir()
    assert main(args) == 3
    assert "has none of its layouts" in capsys.readouterr().err
    build(tmp_path / "UDM10", spec, spec.layouts[0])
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "udm10: as its spec says" in out
    assert "pitfall: LQ of other degradations" in out
    lose_a_frame(*sides(spec, tmp_path / "UDM10"))
    assert main(args) == 1
    assert "error: clip '000': LQ lacks frame 00000001" in capsys.readouterr().out
    assert main(["datasets", "check", "udm1", "--root", str(mini)]) == 2
    assert "Did you mean 'udm10'?" in capsys.readouterr().err
    assert main(["datasets", "chek", "udm10"]) == 2
    assert "Did you mean 'datasets check'?" in capsys.readouterr().err
    assert main(["datasets"]) == 2
    assert "check|add|fetch|degrade" in capsys.readouterr().err.replace(", ", "|")


# ---------------------------------------------------------------- policies are identity


def test_the_two_policies_of_one_size_are_two_results(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_REALVSR", str(tmp_path / "data"))
    spec = specs.dataset_spec(mini, "realvsr")
    build(tmp_path / "data", spec, spec.layouts[0])
    reduced = datasets.open_dataset(spec, print).clips[0]
    whole = datasets.open_dataset(specs.dataset_spec(mini, "realvsr-x1"), print).clips[0]
    assert (reduced.scale, reduced.size, whole.scale, whole.size) == (4, (16, 24), 1, SIZE)
    assert reduced.digest != whole.digest
    assert reduced.protocol == {"lq": "1/4 of the size in the files, antialiased bicubic"}
    assert whole.protocol == {}
    assert reduced.lq[0].shape == (16, 24, 3)
    assert np.array_equal(whole.lq[0], small(scene(whole.name, 0), 1))


def test_reduction_is_what_lr_psnr_does() -> None:
    from vsrbench.metrics.fidelity import lr_psnr

    frame = scene("a", 0)
    assert lr_psnr(frame, Resized([frame], (16, 24))[0]) == 80.0


def test_a_declared_scale_is_kept(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_UDM10", str(tmp_path / "data"))
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[0])
    one_size(*sides(spec, tmp_path / "data"))
    found = datasets.open_dataset(spec, print)
    assert [c.name for c in found.clips] == ["001"]
    assert "GT is 1 times the size of LQ, and udm10 has x4" in str(found.broken["000"])


def test_two_layouts_side_by_side_are_two_sets(
    mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VSRBENCH_VID4", str(tmp_path / "data"))
    spec = specs.dataset_spec(mini, "vid4")
    build(tmp_path / "data", spec, spec.layouts[0])
    for clip in clip_names(spec):
        lq = [scene(clip, t)[::4, ::4] for t in range(FRAMES)]
        write(tmp_path / "data" / "BDx4" / clip, lq, False)
    args = ["--methods", "bicubic", "--metrics", "psnr", "--no-cost", "-q", "--device", "cpu"]
    where = ["--root", str(mini), "--results", str(tmp_path / "results")]
    assert main([*args, *where, "--datasets", "vid4,vid4:bd"]) == 0
    said = capsys.readouterr()
    assert "vid4: layout 'bi' is used, also here: bd (choose one: vid4:bd)" in said.err
    assert "vid4:bd: layout" not in said.err
    assert "Vid4 (bd), x4, 4 clips" in said.out
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    rows = {(r["dataset"], r["method"], r["clip"]): r for r in map(json.loads, lines)}
    for clip in clip_names(spec):
        bi, bd = (rows[name, "bicubic", clip] for name in ("vid4", "vid4:bd"))
        assert bd["value"] < bi["value"]
        assert bd["clip_digest"] != bi["clip_digest"]
    assert main(["table", *where]) == 0
    assert "Vid4 (bd), x4" in capsys.readouterr().out
    assert main([*args, *where, "--datasets", "vid4:bx"]) == 2
    assert "no layout of vid4 named 'bx'" in capsys.readouterr().err
    degrade = ["datasets", "degrade", "vid4:bd", "--recipe", "mild", "--seed", "0"]
    assert main([*degrade, *where[:2]]) == 2


def test_one_clip_twice_is_refused(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_UDM10", str(tmp_path / "data"))
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[1])
    video = tmp_path / "data" / "LQ-Video" / "000.mkv"
    shutil.copy(video, video.with_suffix(".mp4"))
    with pytest.raises(DataError, match="clip '000' exists twice"):
        datasets.open_dataset(spec, print)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["walk.mp4", "walk.mov"], "clip 'walk' exists twice: .*walk.mov and .*walk.mp4"),
        (["a b.mp4", "a_b.mp4"], "clip 'a_b' exists twice"),
        (["a.mp4", "b.mp4", "thumb.png"], r"images and videos, such as thumb\.png and a\.mp4"),
    ],
)
def test_no_clip_of_ones_own_is_dropped_silently(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=message):
        datasets.clips_below(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("native_scale = 3", "does not divide scale 4"),
        ('[[layouts]]\nname = "a"\nlqq = "x"', "Did you mean 'lq'"),
        ("[layouts]\nx = 1", "must be an array of tables"),
        ('[[downloads]]\npack = "a"', "not exactly one of wheel, hub, github, drive and url"),
        ('base = "nowhere"', "no base named 'nowhere'"),
        ("[expect]\nframe = [1, 2]", "Did you mean 'frames'"),
        ("[expect]\nclips = true", "clips must be int"),
    ],
)
def test_a_wrong_spec_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "datasets").mkdir()
    head = 'version = 1\ntitle = "T"\nkind = "real"\nscale = 4\n'
    (tmp_path / "datasets" / "toy.toml").write_text(head + text)
    with pytest.raises(UserError) as caught:
        specs.dataset_spec(tmp_path, "toy")
    assert message in str(caught.value)
    assert "toy.toml" in str(caught.value)


# ---------------------------------------------------------------- add


def test_add_finds_sides_and_scale(mini: Path, tmp_path: Path, check: Check) -> None:
    for clip in "ab":
        gt = [scene(clip, t) for t in range(FRAMES)]
        write(tmp_path / "data" / "LQ" / clip, [small(f, 2) for f in gt], False)
        write(tmp_path / "data" / "GT" / clip, gt, False)
    args = ["datasets", "add", "mine", str(tmp_path / "data"), "--root", str(mini)]
    assert main(args) == 0
    spec = specs.dataset_spec(mini, "mine")
    assert (spec.scale, spec.kind, spec.layouts[0].lq) == (2, "synthetic", "LQ/{clip}")
    assert datasets.root_of(spec) == tmp_path / "data"
    assert check("mine").errors == []
    assert main(args) == 2  # there is one of that name
    assert main(["datasets", "add", "a/b", str(tmp_path / "data"), "--root", str(mini)]) == 2
    assert main(["datasets", "add", "x", str(tmp_path / "none"), "--root", str(mini)]) == 3
    one = str(tmp_path / "data" / "GT" / "a")
    assert main(["datasets", "add", "one", one, "--root", str(mini)]) == 2
    assert main(["datasets", "add", "o", one, "--lq", "no/{clip}", "--root", str(mini)]) == 3
    assert not {"one", "o"} & set(specs.dataset_files(mini))  # nothing half-made is left


def test_add_videos_of_ones_own(mini: Path, tmp_path: Path) -> None:
    write(tmp_path / "data" / "v1", [scene("v", t) for t in range(2)], True)
    args = ["datasets", "add", "own", str(tmp_path / "data"), "--root", str(mini)]
    assert main([*args, "--scale", "3"]) == 0
    spec = specs.dataset_spec(mini, "own")
    assert (spec.scale, spec.kind) == (3, "real")
    found = datasets.open_dataset(spec, print)
    assert [(c.name, c.size, c.scale) for c in found.clips] == [("v1", SIZE, 3)]


def test_add_to_an_empty_root(tmp_path: Path) -> None:
    write(tmp_path / "data" / "v1", [scene("v", t) for t in range(2)], True)
    root = tmp_path / "mine"
    args = ["datasets", "add", "own", str(tmp_path / "data"), "--root", str(root)]
    assert main([*args, "--scale", "3"]) == 0
    assert (root / "datasets" / "own.toml").is_file()


# ---------------------------------------------------------------- degrade


@pytest.mark.parametrize("recipe", ["realbasicvsr", "mild"])
def test_degrade_makes_a_set_of_its_own(
    recipe: str, mini: Path, tmp_path: Path, check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = specs.dataset_spec(mini, "reds4")
    build(tmp_path / "data", spec, next(e for e in spec.layouts if e.name == "basicsr-gt-only"))
    write(tmp_path / "data" / "train_sharp" / "099", [scene("099", 0)] * 2, False)  # not of the 4
    assert check("reds4").errors == []
    args = ["datasets", "degrade", "reds4", "--root", str(mini), "--recipe", recipe, "--seed"]
    assert main([*args, "7"]) == 0
    name = capsys.readouterr().out.strip()
    assert re.fullmatch(rf"reds4-{recipe}-v2-s7-[0-9a-f]{{8}}", name)
    made = datasets.open_dataset(specs.dataset_spec(mini, name), print)
    assert not made.broken
    assert [c.name for c in made.clips] == list(spec.expect.names)
    assert {(c.size, c.count, c.scale) for c in made.clips} == {((16, 24), FRAMES, 4)}
    # The same again gives the same set; another seed another one.
    assert main([*args, "7"]) == 0
    assert capsys.readouterr().out.strip() == name
    shutil.rmtree(tmp_path / "data" / f"LQ-{recipe}-v2-s7")
    assert main([*args, "7"]) == 0
    assert capsys.readouterr().out.strip() == name
    assert main([*args, "8"]) == 0
    assert capsys.readouterr().out.strip()[-8:] != name[-8:]
    assert main([*args[:-2], "realbasicvsr2", "--seed", "1"]) == 2
    assert "Did you mean 'realbasicvsr'?" in capsys.readouterr().err


def test_a_set_without_gt_cannot_be_degraded(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs.dataset_spec(mini, "videolq")
    build(tmp_path / "data", spec, spec.layouts[0])
    monkeypatch.setenv("VSRBENCH_VIDEOLQ", str(tmp_path / "data"))
    with pytest.raises(UserError, match="has no GT"):
        newset.degrade_set(mini, spec, "realbasicvsr", 0, print)


def test_kernels_against_closed_forms() -> None:
    y, x = np.mgrid[-7:8, -7:8].astype(float)
    iso = second_order.gaussian_kernel(15, 2.0, 2.0, 0.3, 1.0, "iso")
    want = np.exp(-(x**2 + y**2) / 8)
    assert iso == pytest.approx(want / want.sum(), abs=1e-7)
    # Any exponent of 1 is the plain Gaussian; turning by 90 degrees swaps the axes.
    wide = second_order.gaussian_kernel(15, 3.0, 1.0, 0.0, 1.0, "generalized_aniso")
    want = np.exp(-0.5 * (x**2 / 9 + y**2))
    assert wide == pytest.approx(want / want.sum(), abs=1e-7)
    turned = second_order.gaussian_kernel(15, 3.0, 1.0, np.pi / 2, 1.0, "aniso")
    assert turned == pytest.approx(wide.T, abs=1e-6)
    flat = second_order.gaussian_kernel(15, 2.0, 2.0, 0.0, 2.0, "plateau_iso")
    want = 1 / (1 + ((x**2 + y**2) / 4) ** 2)
    assert flat == pytest.approx(want / want.sum(), abs=1e-7)
    # A low-pass at pi / 2 lets slow waves through and stops fast ones.
    kernel = second_order.sinc_kernel(21, np.pi / 2)
    wave = np.arange(-10, 11)
    for frequency, low, high in ((np.pi / 8, 0.9, 1.1), (7 * np.pi / 8, -0.1, 0.1)):
        gain = float((kernel * np.cos(frequency * wave)[None]).sum())
        assert low < gain < high


def test_realbasicvsr_is_deterministic_registered_and_worse_than_clean() -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (9, 13, 3), np.uint8)
    wide = cv2.resize(coarse, (208, 144), interpolation=cv2.INTER_CUBIC)
    gt = [np.ascontiguousarray(wide[t : t + 128, :192]) for t in range(4)]
    clean = degrade.degrade(gt, 4, degrade.RECIPES["clean"], 0)
    losses = []
    for seed in range(4):
        lq = list(second_order.degrade(gt, 4, [seed]))
        again = list(second_order.degrade(iter(gt), 4, [seed]))
        assert [f.shape for f in lq] == [(32, 48, 3)] * 4
        assert {f.dtype for f in lq} == {np.dtype(np.uint8)}
        assert all(np.array_equal(a, b) for a, b in zip(lq, again, strict=True))
        losses.append(np.mean([psnr(a, b) for a, b in zip(lq, clean, strict=True)]))
        corr = np.corrcoef(lq[0].ravel(), clean[0].ravel())[0, 1]
        assert corr > 0.7, seed  # it is still the same picture, in place
    assert len({round(v, 3) for v in losses}) == 4
    assert max(losses) < 40
    with pytest.raises(DataError, match="not a multiple of 4"):
        list(second_order.degrade([gt[0][:-1]], 4, [0]))
    with pytest.raises(DataError, match="a frame is 192x64"):
        list(second_order.degrade([gt[0], gt[0][:64]], 4, [0]))


def test_walks_stay_in_range_and_small_steps() -> None:
    walk = second_order._Walk(np.random.default_rng(3), 0.2, 0.4, 0.05)
    values = [walk() for _ in range(200)]
    assert 0.2 <= min(values) < 0.25
    assert 0.35 < max(values) <= 0.4
    assert np.abs(np.diff(values)).max() <= 0.05


def test_real_clip_with_classic_lq_is_seen_as_shifted(real: Path) -> None:
    clips = real / "clips-gt"
    found = datacheck.Findings()
    lq, gt = open_frames(clips / "vid4-calendar-lr-bd4"), open_frames(clips / "vid4-calendar")
    spec = DatasetSpec("vid4", 1, "Vid4", "synthetic", 4)
    datacheck._check_shifts(spec, [datacheck._Clip("calendar", lq, gt)], found)
    (text,) = found.warnings
    assert "it lies +1.5 px down and +1.5 px right" in text


# ---------------------------------------------------------------- names and numbers


def test_names_in_both_forms_of_unicode_are_one_clip(tmp_path: Path) -> None:
    import unicodedata

    frames = [scene("v", t) for t in range(2)]
    for side, form in (("LQ", "NFC"), ("GT", "NFD")):
        clip = tmp_path / side / unicodedata.normalize(form, "café")
        write(clip, [small(f, 4) for f in frames] if side == "LQ" else frames, False)
        for path in clip.iterdir():
            path.rename(path.with_name(unicodedata.normalize(form, f"é{path.name}")))
    found = datasets.open_input(tmp_path / "LQ", tmp_path / "GT", 4)
    assert not found.broken
    assert [c.name for c in found.clips] == [unicodedata.normalize("NFC", "café")]
    write(tmp_path / "LQ" / unicodedata.normalize("NFD", "café"), frames, False)
    with pytest.raises(DataError, match="exists twice"):
        datasets.clips_below(tmp_path / "LQ")


def test_check_names_what_is_there_twice_and_what_does_not_pair(
    check: Check, mini: Path, tmp_path: Path
) -> None:
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[0])
    lq, gt = sides(spec, tmp_path / "data")
    (gt / "00000002.png").rename(gt / "00000003.png")
    assert any(
        "frame 00000002 only in LQ, frame 00000003 only in GT" in e for e in check("udm10").errors
    )
    (gt / "00000003.png").rename(gt / "00000002.png")
    for path in gt.iterdir():
        path.rename(path.with_name(f"{int(path.stem) + 1:03d}.png"))
    # (renamed in place, one after the other, into names of another form)
    found = check("udm10", accept=True)
    assert not found.errors
    assert any("frames pair in order, LQ 00000000.png with GT 001.png" in w for w in found.warnings)
    shutil.copy(lq / "00000001.png", lq / "00000001.jpg")
    assert any(
        "holds a frame twice: 00000001.jpg and 00000001.png" in e for e in check("udm10").errors
    )


def test_files_beside_the_clips_of_a_set_are_said(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs.dataset_spec(mini, "udm10")
    build(tmp_path / "data", spec, spec.layouts[0])
    lq, _ = sides(spec, tmp_path / "data")
    shutil.copy(lq / "00000001.png", lq.parent / "cover.png")
    (lq.parent / "@eaDir").mkdir()
    monkeypatch.setenv(datasets.root_variable(spec), str(tmp_path / "data"))
    said: list[str] = []
    assert len(datasets.open_dataset(spec, said.append).clips) == 2
    assert said == [f"not read in {lq.parent}: cover.png"]
