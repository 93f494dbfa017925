"""Outputs of others against a set: alignments, names, DOVE's scorer, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_datasets import write
from vsrbench.cli import main
from vsrbench.core.errors import UserError
from vsrbench.data import outputs
from vsrbench.data.frames import open_frames
from vsrbench.data.images import read_image
from vsrbench.metrics.fidelity import psnr

Score = Callable[..., tuple[int, str, str]]
H, W, COUNT = 136, 280, 10  # of GT; neither side is a multiple of 16 or 128


@pytest.fixture
def score(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Score:
    """Score outputs in this process against the set `toy`: (exit code, stdout, stderr)."""
    base = tmp_path / "root"
    shutil.copytree(root / "methods" / "interpolation", base / "methods" / "interpolation")
    (base / "datasets").mkdir()
    (base / "datasets" / "toy.toml").write_text(
        'version = 1\ntitle = "Toy"\nkind = "synthetic"\nscale = 4\nlq = "LQ/{clip}"\n'
        'gt = "GT/{clip}"\n'
    )
    monkeypatch.setenv("VSRBENCH_TOY", str(tmp_path / "toy"))

    def call(*args: object) -> tuple[int, str, str]:
        fixed = ["--results", str(tmp_path / "results"), "--root", str(base), "--device", "cpu"]
        code = main(["score", *map(str, args), *fixed, "-q"])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def gt_frames(clip: str) -> list[np.ndarray]:
    """A texture that changes enough from frame to frame to tell them apart."""
    seed = sum(map(ord, clip))
    noise = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)
    big = cv2.resize(noise, (W + 40, H + 40), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(big[3 * t : 3 * t + H, 2 * t : 2 * t + W]) for t in range(COUNT)]


def sr_frames(clip: str) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [(f + rng.normal(0, 4, f.shape)).clip(0, 255).astype(np.uint8) for f in gt_frames(clip)]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for clip in ("000", "archwall"):
        gt = gt_frames(clip)
        write(tmp_path / "toy" / "GT" / clip, gt, False)
        lq = [cv2.resize(f, (W // 4, H // 4), interpolation=cv2.INTER_AREA) for f in gt]
        write(tmp_path / "toy" / "LQ" / clip, lq, False)
    return tmp_path / "toy"


def records(tmp_path: Path) -> list[dict[str, object]]:
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def values(tmp_path: Path, method: str, metric: str = "psnr") -> dict[str, float]:
    return {
        str(r["clip"]): float(r["value"])  # type: ignore[arg-type]
        for r in records(tmp_path)
        if r["method"] == method and r["metric"] == metric and r["status"] == "ok"
    }


# ---------------------------------------------------------------- what a convention does


@pytest.mark.parametrize(
    ("gt", "seedvr2", "flashvsr"),
    [
        ((720, 1272), (4, 0, 1264, 720), (60, 40, 1152, 640)),
        ((540, 960), (0, 6, 960, 528), (32, 14, 896, 512)),
        ((1080, 1920), (0, 4, 1920, 1072), (0, 28, 1920, 1024)),
        ((720, 1280), (0, 0, 1280, 720), (0, 40, 1280, 640)),
        ((512, 1024), (0, 0, 1024, 512), (0, 0, 1024, 512)),
    ],
)
def test_boxes_that_are_known(
    gt: tuple[int, int], seedvr2: outputs.Box, flashvsr: outputs.Box
) -> None:
    assert outputs.CONVENTIONS["seedvr2"].box(gt) == seedvr2
    assert outputs.CONVENTIONS["flashvsr"].box(gt) == flashvsr
    assert outputs.CONVENTIONS["dove"].box(gt) == (0, 0, gt[1], gt[0])


def test_lengths_that_are_known() -> None:
    known = {31: 29, 32: 29, 33: 29, 50: 45, 100: 93}
    assert {n: outputs.CONVENTIONS["flashvsr"].length(n) for n in known} == known
    assert {n: outputs.CONVENTIONS["seedvr2"].length(n) for n in known} == {n: n for n in known}


# ---------------------------------------------------------------- undone, or refused in one line


def test_seedvr2_is_named_and_undone(score: Score, toy: Path, tmp_path: Path) -> None:
    top, left = (H - 128) // 2, (W - 272) // 2
    for clip in ("000", "archwall"):  # videos, lossless
        frames = [
            np.ascontiguousarray(f[top : top + 128, left : left + 272]) for f in sr_frames(clip)
        ]
        write(tmp_path / "seed" / clip, frames, True)
    args = ("--outputs", tmp_path / "seed", "--dataset", "toy", "--metrics", "psnr")
    code, _, err = score(*args)
    assert code == 1
    (line,) = [line for line in err.splitlines() if "'000'" in line and "error" in line]
    assert "are 272x128 px" in line
    assert f"is {W}x{H} px (cropped to multiples of 16; they fit at x 4, y 4, the centre)" in line
    assert "as seedvr2 does it: --align seedvr2 undoes it" in err
    code, out, err = score(*args, "--align", "seedvr2")
    assert code == 0, err
    want = {
        clip: np.mean(
            [
                psnr(a[top : top + 128, left : left + 272], b[top : top + 128, left : left + 272])
                for a, b in zip(sr_frames(clip), gt_frames(clip), strict=True)
            ]
        )
        for clip in ("000", "archwall")
    }
    assert values(tmp_path, "seed") == pytest.approx(want)
    assert "GT cropped to what the outputs show (272x128 px at x 4, y 4)" in out
    assert "Registration" not in out
    assert "| Bicubic" in out  # the crop falls on whole LQ pixels


def test_flashvsr_is_named_and_undone(score: Score, toy: Path, tmp_path: Path) -> None:
    for clip in ("000", "archwall"):
        frames = [np.ascontiguousarray(f[4:132, 12:268]) for f in sr_frames(clip)[:5]]
        write(tmp_path / "flash" / f"FlashVSR_v1.1_Full_{clip}_seed0", frames, True)
    args = ("--outputs", tmp_path / "flash", "--dataset", "toy", "--metrics", "psnr,flicker")
    code, _, err = score(*args)
    assert code == 1
    (line,) = [line for line in err.splitlines() if "'archwall'" in line and "error" in line]
    assert "have 5 frames" in line
    assert "has 10 (5 short, their first one fits frame 0)" in line
    assert "are 256x128 px" in line
    assert "(cropped to multiples of 128; they fit at x 12, y 4, the centre)" in line
    code, out, err = score(*args, "--align", "flashvsr")
    assert code == 0, err
    assert "frames 0 to 4 of 10" in out
    assert set(values(tmp_path, "flash")) == {"000", "archwall"}
    assert set(values(tmp_path, "flash", "flicker")) == {"000", "archwall"}  # frames follow on
    # A record of whole frames is never averaged or ranked with these.
    for clip in ("000", "archwall"):
        write(tmp_path / "whole" / clip, sr_frames(clip), False)
    assert score("--outputs", tmp_path / "whole", *args[2:])[0] == 0
    main(["table", "--results", str(tmp_path / "results"), "--metrics", "psnr"])


def test_a_crop_off_the_lq_grid_leaves_lq_out(score: Score, toy: Path, tmp_path: Path) -> None:
    for clip in ("000", "archwall"):
        write(tmp_path / "odd" / clip, [f[6:134] for f in sr_frames(clip)], False)
    (tmp_path / "odd" / "alignment.toml").write_text(f"crop = [0, 6, {W}, 128]\n")
    args = ("--outputs", tmp_path / "odd", "--dataset", "toy", "--metrics", "psnr,lr_psnr")
    code, out, err = score(*args)  # the file beside the outputs is found
    assert code == 3, err  # a metric was asked for by name
    assert f"alignment: {tmp_path / 'odd' / 'alignment.toml'}" in err
    assert "LQ left out, the crop does not fall on its pixels" in out
    assert "'lr_psnr' needs LQ" in out
    assert "| Bicubic" not in out


def test_a_manifest_per_clip(score: Score, toy: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine" / "000", sr_frames("000")[2:8], False)
    write(tmp_path / "mine" / "archwall", [f[:, 8:] for f in sr_frames("archwall")], False)
    file = tmp_path / "where.toml"
    file.write_text(
        f'frames = "2:8"\n[clips.archwall]\nframes = ":"\ncrop = [8, 0, {W - 8}, {H}]\n'
    )
    args = ("--outputs", tmp_path / "mine", "--dataset", "toy", "--metrics", "psnr")
    code, out, err = score(*args, "--align", file)
    assert code == 0, err
    assert min(values(tmp_path, "mine").values()) > 30  # in place: only the noise is left
    assert "frames 2 to 7 of 10" in out
    file.write_text('frames = "0:6"\n')  # it says the wrong place for 000, and the wrong size
    code, out, err = score(*args, "--align", file)
    assert code == 1
    assert f"the alignment puts 6 frames of {W}x{H} px at x 0, y 0 into 10 frames" in err


def test_frames_out_of_a_list_are_no_succession(score: Score, toy: Path, tmp_path: Path) -> None:
    for clip in ("000", "archwall"):
        write(tmp_path / "few" / clip, sr_frames(clip)[::4], False)
    file = tmp_path / "few.toml"
    file.write_text("frames = [0, 4, 8]\n")
    args = ("--outputs", tmp_path / "few", "--dataset", "toy", "--metrics", "psnr,flicker")
    code, out, err = score(*args, "--align", file)
    assert code == 3, err  # a metric was asked for by name
    assert min(values(tmp_path, "few").values()) > 30
    assert "'flicker' needs successive frames" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop = [0, 0, 4]", "are not whole numbers"),
        ("crop = [0, 0, -4, 4]", "are not whole numbers"),
        ('frames = "0-29"', "is not a slice of frames"),
        ("crops = [0, 0, 4, 4]", "Did you mean 'crop'"),
        ('convention = "seedvr"', "convention 'seedvr'"),
        ('convention = "seedvr2"\nframes = ":"', "stands beside other fields"),
        ("crop = = 1", "not valid TOML"),
        ("clips.a = 3", "is not a table"),
    ],
)
def test_a_wrong_alignment_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        outputs.read_alignment(str(file))
    assert message in str(caught.value)
    with pytest.raises(UserError, match="Did you mean 'seedvr2'"):
        outputs.read_alignment("seedvr")


# ---------------------------------------------------------------- shifted, cropped, short


def test_a_shift_of_4_px_is_named(score: Score, real: Path, tmp_path: Path) -> None:
    gt = [read_image(p) for p in open_frames(real / "clips-gt/vid4-city").files]
    sr = [np.roll(cv2.GaussianBlur(f, (0, 0), 1.2), 4, axis=1) for f in gt]
    write(tmp_path / "mine", sr, False)
    args = ("--outputs", tmp_path / "mine", "--gt", real / "clips-gt/vid4-city")
    code, out, err = score(*args, "--metrics", "psnr")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("Registration")]
    assert "mine lies +0 px down and +4 px right of GT" in line


def test_cropped_to_16_is_named(score: Score, real: Path, tmp_path: Path) -> None:
    judo = real / "clips-gt/davis-judo"  # 854x480
    gt = [read_image(p) for p in open_frames(judo).files]
    assert gt[0].shape == (480, 854, 3)
    write(tmp_path / "centre", [cv2.GaussianBlur(f, (0, 0), 1)[:, 3:851] for f in gt], False)
    code, _, err = score("--outputs", tmp_path / "centre", "--gt", judo, "--metrics", "psnr")
    assert code == 1
    text = "(cropped to multiples of 16; they fit at x 3, y 0, the centre)"
    assert f"are 848x480 px, {judo} is 854x480 px {text}" in err.splitlines()[0]
    write(tmp_path / "left", [cv2.GaussianBlur(f, (0, 0), 1)[:, :848] for f in gt], False)
    code, _, err = score("--outputs", tmp_path / "left", "--gt", judo, "--metrics", "psnr")
    assert "they fit at x 0, y 0, the top left)" in err.splitlines()[0]


@pytest.mark.parametrize("first", [0, 3])
def test_three_frames_short_is_named(score: Score, real: Path, tmp_path: Path, first: int) -> None:
    judo = real / "clips-gt/davis-judo"
    gt = [read_image(p) for p in open_frames(judo).files]
    sr = [cv2.GaussianBlur(f, (0, 0), 1) for f in gt[first : first + 13]]
    write(tmp_path / "mine", sr, False)
    code, _, err = score("--outputs", tmp_path / "mine", "--gt", judo, "--metrics", "psnr")
    assert code == 1
    said = f"have 13 frames, {judo} has 16 (3 short, their first one fits frame {first})"
    assert said in err.splitlines()[0]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("form", "video"),
    [
        ("{}", True),
        ("FlashVSR_Full_{}_seed0", True),
        ("FlashVSR_v1.1_Tiny_Long_{}_seed42", False),
    ],
)
def test_names_of_known_scripts(
    score: Score, toy: Path, tmp_path: Path, form: str, video: bool
) -> None:
    for clip in ("000", "archwall"):
        write(tmp_path / "o" / form.format(clip), sr_frames(clip), video)
    code, _, err = score("--outputs", tmp_path / "o", "--dataset", "toy", "--metrics", "psnr")
    assert code == 0, err
    assert set(values(tmp_path, "o")) == {"000", "archwall"}


def test_names_of_ones_own(score: Score, toy: Path, tmp_path: Path) -> None:
    for clip in ("000", "archwall"):
        write(tmp_path / "o" / f"sr+{clip}.x4", sr_frames(clip), False)
    args = ("--outputs", tmp_path / "o", "--dataset", "toy", "--metrics", "psnr")
    code, _, err = score(*args)
    assert code == 1
    assert "match no clip of toy" in err
    code, _, err = score(*args, "--names", "sr_{clip}.x4")  # + is no plain character
    assert code == 0, err
    assert score(*args, "--names", "sr_x4")[0] == 2
    write(tmp_path / "o" / "FlashVSR_Full_000_seed0", sr_frames("000"), False)
    write(tmp_path / "o" / "000", sr_frames("000"), False)
    code, _, err = score(*args)
    assert "clip '000' has two outputs" in err


# ---------------------------------------------------------------- DOVE's scorer


def doves_scorer(pred: Path, gt: Path) -> dict[str, dict[str, float]]:
    """The steps of DOVE's eval_metrics.py with its defaults, but for its rounding of each clip.

    Frames as PIL tensors in name order, both cut to the shorter length and the smaller size from
    the top left, pyiqa's psnr and ssim frame by frame, mean for each clip.
    """
    import pyiqa

    def tensors(folder: Path) -> list[torch.Tensor]:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".jpeg"))
        arrays = (np.asarray(Image.open(p).convert("RGB")).copy() for p in files)
        return [torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255 for a in arrays]

    measures = {name: pyiqa.create_metric(name, device="cpu") for name in ("psnr", "ssim")}
    found: dict[str, dict[str, float]] = {}
    for clip in sorted(p.name for p in pred.iterdir() if (gt / p.name).is_dir()):
        pairs = list(zip(tensors(pred / clip), tensors(gt / clip), strict=False))
        h, w = (min(a.shape[i] for a in pairs[0]) for i in (2, 3))
        scores: dict[str, list[float]] = {name: [] for name in measures}
        for a, b in pairs:
            for name, measure in measures.items():
                scores[name].append(measure(a[..., :h, :w], b[..., :h, :w]).item())
        found[clip] = {name: float(np.mean(v)) for name, v in scores.items()}
    return found


def test_preset_dove_is_doves_scorer(score: Score, real: Path, tmp_path: Path) -> None:
    """Frames: whole, of another size, and three short."""
    clips = real / "clips-gt"
    for name, count in (("vid4-calendar", 6), ("vid4-city", 2), ("davis-judo", 6)):
        (tmp_path / "gt" / name).mkdir(parents=True)
        for path in sorted((clips / name).iterdir())[:count]:
            shutil.copy(path, tmp_path / "gt" / name)
    rbpn = sorted((clips / "vid4-calendar-rbpn-out").iterdir())
    (tmp_path / "pred" / "vid4-calendar").mkdir(parents=True)
    for i, path in enumerate(rbpn):  # 2 of 6 frames
        shutil.copy(path, tmp_path / "pred" / "vid4-calendar" / f"{i:03d}.png")
    city = [read_image(p) for p in open_frames(clips / "vid4-city").files[:2]]
    write(tmp_path / "pred" / "vid4-city", [cv2.GaussianBlur(f, (0, 0), 1.5) for f in city], False)
    judo = [read_image(p) for p in open_frames(clips / "davis-judo").files]
    write(tmp_path / "pred" / "davis-judo", [f[4:474, 7:851] // 2 + 60 for f in judo[:3]], False)

    want = doves_scorer(tmp_path / "pred", tmp_path / "gt")
    assert len(want) == 3
    args = ("--outputs", tmp_path / "pred", "--gt", tmp_path / "gt", "--preset", "dove")
    code, out, err = score(*args)
    assert code == 0, err
    for metric in ("psnr", "ssim"):
        own = values(tmp_path, "pred", metric)
        for clip, scores in want.items():
            assert own[clip] == pytest.approx(scores[metric], abs=5e-5), clip
        mean = np.mean([round(scores[metric], 4) for scores in want.values()])  # as it prints it
        # Each was rounded by up to 5e-5, beside what is allowed above.
        assert np.mean(list(own.values())) == pytest.approx(mean, abs=1e-4)
    # What that scorer hides is said here.
    assert "frames 0 to 2 of 6" in out
    assert "frames 0 to 1 of 6" in out
    assert "sizes that differ cropped to what they share (topleft)" in out
    assert "Registration: pred and GT of clip 'davis-judo' are not aligned" in out


def test_preset_dove_ignores_the_border_of_the_set(score: Score, toy: Path, tmp_path: Path) -> None:
    spec = tmp_path / "root" / "datasets" / "toy.toml"
    spec.write_text(spec.read_text() + "border_px = 8\n")
    for clip in ("000", "archwall"):
        write(tmp_path / "o" / clip, sr_frames(clip), False)
    args = ("--outputs", tmp_path / "o", "--dataset", "toy", "--metrics", "psnr")
    assert "8 px cut from each side" in score(*args)[1]
    code, out, err = score(*args, "--preset", "dove")
    assert code == 0, err
    assert "no border cut" in out


# ---------------------------------------------------------------- a set without GT of one's own


def test_bicubic_on_real_clips_without_gt(
    real: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own no-reference set from the command line to the table."""
    import av

    clips = tmp_path / "clips-lq"
    clips.mkdir()
    source = real / "clips-lq"
    night = open_frames(source / "realbasicvsr-demo_000")
    write(clips / "night", [f[:90, :120] for f in night[:3]], False)  # cut for speed
    tiger = open_frames(source / "dove-007.mp4")
    assert tiger.size == (178, 316)
    with av.open(str(clips / "tiger.mkv"), "w") as out:
        stream = out.add_stream("libx264rgb", rate=16, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 100, 80, "rgb24"
        for frame in tiger[:3]:
            cut = np.ascontiguousarray(frame[60:140, 100:200])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
        out.mux(stream.encode(None))
    shutil.copytree(root / "methods" / "interpolation", tmp_path / "methods" / "interpolation")
    (tmp_path / "datasets").mkdir()
    where = ["--root", str(tmp_path)]
    assert main(["datasets", "add", "mine", str(clips), *where]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSRBENCH_WEIGHTS", str(niqe_weights(real, tmp_path)))
        args = ["--methods", "bicubic", "--datasets", "mine", "--no-cost", "--device", "cpu", "-q"]
        args += ["--metrics", "ewarp_self,flicker,niqe", "--results", str(tmp_path / "results")]
        code = main([*args, *where])
    out = capsys.readouterr()
    assert code == 0, out.err
    assert "mine, x4, 2 clips" in out.out
    ok = {(r["clip"], r["metric"]) for r in records(tmp_path) if r["status"] == "ok"}
    assert ok == {(c, m) for c in ("night", "tiger") for m in ("ewarp_self", "flicker", "niqe")}
    row = next(line for line in out.out.splitlines() if line.startswith("| Bicubic"))
    assert len(re.findall(r"\d+\.\d+ ±", row)) == 3


def niqe_weights(real: Path, tmp_path: Path) -> Path:
    """The published model of NIQE under the name that pyiqa looks for."""
    folder = tmp_path / "weights"
    folder.mkdir()
    model = real / "weights" / "niqe_modelparameters.mat"
    shutil.copy(model, folder / "niqe_modelparameters.mat")
    return folder
