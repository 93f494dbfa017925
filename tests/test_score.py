"""Scoring frames that exist already: the numbers, what is refused, and what goes on record."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsrbench.cli import main
from vsrbench.core.errors import UserError
from vsrbench.core.types import Sample
from vsrbench.data.frames import FrameWriter
from vsrbench.data.images import read_image
from vsrbench.data.outputs import frame_numbers
from vsrbench.metrics import METRICS
from vsrbench.metrics.fidelity import psnr
from vsrbench.run.delay import Delay

Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    """Call `score` in this process: (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        code = main(["score", *map(str, args), "--results", str(tmp_path / "results")])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def records(tmp_path: Path) -> list[dict[str, object]]:
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def picture(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Smooth texture."""
    noise = np.random.default_rng(seed).integers(0, 256, (h // 4 + 2, w // 4 + 2, 3), np.uint8)
    return cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)


def write(folder: Path, frames: list[np.ndarray]) -> Path:
    with FrameWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)
    return folder


def noisy(frame: np.ndarray, seed: int = 0, sigma: float = 6) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return (frame + grain).clip(0, 255).round().astype(np.uint8)


def pair(tmp_path: Path, count: int = 4, size: tuple[int, int] = (48, 64)) -> tuple[Path, Path]:
    """(outputs, GT): moving texture, and the same under noise."""
    scene = picture(size[0] + count, size[1])
    gt = [np.ascontiguousarray(scene[t : t + size[0]]) for t in range(count)]
    sr = [noisy(f, t) for t, f in enumerate(gt)]
    return write(tmp_path / "mine", sr), write(tmp_path / "truth", gt)


# ---------------------------------------------------------------- real data


def test_rbpn_outputs_score_what_is_known_of_them(
    score: Score, shared: Path, tmp_path: Path
) -> None:
    clips = shared / "real" / "clips-gt"
    sr, gt = clips / "vid4-calendar-rbpn-out", tmp_path / "calendar"
    gt.mkdir()
    for name in ("001.png", "002.png"):
        shutil.copy(clips / "vid4-calendar" / name, gt)
    code, out, err = score("--outputs", sr, "--gt", gt, "--border", 8, "--preset", "dove")
    assert code == 0, err
    own = {r["metric"]: r for r in records(tmp_path) if r["method"] == "vid4-calendar-rbpn-out"}
    assert [round(v, 2) for v in own["psnr"]["per_frame"]] == [21.59, 21.74]
    assert set(own) == {"psnr", "ssim"}
    assert own["psnr"]["weights_origin"] == "user"
    assert own["psnr"]["extra"]["shift"] == [0, 0]
    assert own["psnr"]["extra"]["protocol"] == {"border_px": 8}
    assert "8 px cut from each side" in out
    assert "GT (reference)" in out

    code, out, err = score("--outputs", sr, "--gt", clips / "vid4-calendar")
    assert (code, out) == (1, "")
    assert f"outputs {sr} have 2 frames, {clips / 'vid4-calendar'} has 6" in err


def test_carphone_scores_what_common_tools_say(score: Score, shared: Path, tmp_path: Path) -> None:
    clips = shared / "real" / "clips-gt"
    sr, gt = clips / "carphone_distorted.mp4", clips / "carphone_pristine.mp4"
    code, out, err = score("--outputs", sr, "--gt", gt, "--metrics", "psnr")
    assert code == 0, err
    (row,) = [line for line in out.splitlines() if line.startswith("| carphone_distorted")]
    assert "| 23.07 |" in row.replace("  ", "")
    (own,) = [r for r in records(tmp_path) if r["method"] == "carphone_distorted"]
    per_frame = own["per_frame"]
    assert (len(per_frame), round(min(per_frame), 2), round(max(per_frame), 2)) == (
        120,
        22.39,
        23.79,
    )


# ---------------------------------------------------------------- what the data allows


def test_gt_and_lq_give_reference_rows_and_every_default(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    small = [cv2.resize(read_image(p), (16, 12), interpolation=cv2.INTER_AREA) for p in files(gt)]
    lq = write(tmp_path / "lq", small)
    metrics = "psnr,lr_psnr,ewarp,flicker"
    code, out, err = score("--outputs", sr, "--gt", gt, "--lq", lq, "--metrics", metrics)
    assert code == 0, err
    for row in ("| Bicubic", "| mine", "| GT (reference)"):
        assert row in out
    assert {r["status"] for r in records(tmp_path)} == {"ok"}
    both = zip(files(sr), files(gt), strict=True)
    want = np.mean([psnr(read_image(a), read_image(b)) for a, b in both])
    (own,) = [r for r in records(tmp_path) if (r["method"], r["metric"]) == ("mine", "psnr")]
    assert own["value"] == pytest.approx(want, abs=1e-9)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_without_lq_lr_psnr_is_refused_with_its_reason(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    code, out, err = score("--outputs", sr, "--gt", gt, "--metrics", "psnr,lr_psnr")
    assert code == 3  # it was asked for by name
    assert "'lr_psnr' needs LQ and clip 'truth' has none" in out
    assert "not computed: 'lr_psnr' needs LQ" in err
    assert "Bicubic" not in out
    assert ", x" not in out  # no scale is known


def test_lq_without_gt_is_the_reference(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    small = [cv2.resize(read_image(p), (16, 12), interpolation=cv2.INTER_AREA) for p in files(gt)]
    lq = write(tmp_path / "lq", small)
    args = ("--outputs", sr, "--lq", lq, "--metrics", "lr_psnr,flicker,psnr")
    code, out, err = score(*args)
    assert code == 3, err
    assert "'psnr' needs ground truth" in out
    ok = {(r["method"], r["metric"]) for r in records(tmp_path) if r["status"] == "ok"}
    assert ok == {(m, n) for m in ("bicubic", "mine") for n in ("lr_psnr", "flicker")}
    code, _, err = score(*args, "--scale", 2)
    assert code == 1
    assert f"outputs {sr} are 64x48 px, {lq} x2 is 32x24 px" in err


def test_outputs_alone_are_scored_by_themselves(score: Score, tmp_path: Path) -> None:
    sr, _ = pair(tmp_path, size=(96, 96))
    code, out, err = score("--outputs", sr)
    assert code in (0, 3), err  # 3: the weights of a metric are not here
    ran = {r["metric"] for r in records(tmp_path)}
    assert "ewarp_self" in ran
    assert not ran & {"psnr", "lr_psnr", "flicker", "ewarp"}
    assert {r["method"] for r in records(tmp_path)} == {"mine"}
    code, out, err = score("--outputs", sr, "--metrics", "flicker,ewarp,psnr")
    assert code == 3, err
    for text in (out, err):
        assert "'flicker' needs GT or LQ as reference" in text
        assert "'psnr' needs ground truth" in text


def test_a_data_set_brings_its_clips(score: Score, tmp_path: Path, root: Path) -> None:
    spec = 'version = 1\ntitle = "Toy set"\nkind = "synthetic"\nscale = 4\nborder_px = 4\n'
    base = tmp_path / "root"
    shutil.copytree(root / "methods" / "interpolation", base / "methods" / "interpolation")
    (base / "datasets").mkdir()
    (base / "datasets" / "toy.toml").write_text(
        spec + 'root_env = "TOY"\nlq = "LQ/*"\ngt = "GT/*"\n'
    )
    for name in "ab":
        sr, gt = pair(tmp_path / name)
        lq = [cv2.resize(read_image(p), (16, 12), interpolation=cv2.INTER_AREA) for p in files(gt)]
        write(tmp_path / "toy" / "LQ" / name, lq)
        shutil.copytree(gt, tmp_path / "toy" / "GT" / name)
        shutil.copytree(sr, tmp_path / "out" / name)
    args = ("--outputs", tmp_path / "out", "--dataset", "toy", "--metrics", "psnr", "--root", base)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TOY", raising=False)
        assert score(*args)[0] == 3
        patch.setenv("TOY", str(tmp_path / "toy"))
        code, out, err = score(*args)
        assert code == 0, err
        assert "Toy set, x4, 2 clips" in out
        assert "4 px cut from each side" in out
        shutil.rmtree(tmp_path / "out" / "b")
        write(tmp_path / "out" / "stray", [picture(48, 64)])
        code, out, err = score(*args)
        assert code == 1
        assert "clip 'b' of toy has no outputs of the same name" in err
        assert f"outputs {tmp_path / 'out' / 'stray'} match no clip of toy" in err
        assert "1 of 3 clips scored" in out
        code, _, err = score(*args, "--gt", tmp_path)
        assert code == 2
        assert "--dataset brings its own LQ and GT" in err


# ---------------------------------------------------------------- sizes, policies, frames


@pytest.mark.parametrize(("policy", "top", "left"), [("center", 4, 6), ("topleft", 0, 0)])
def test_sizes_that_differ_are_refused_or_cropped_by_name(
    score: Score, tmp_path: Path, policy: str, top: int, left: int
) -> None:
    gt = [picture(48, 64, t) for t in range(3)]
    sr = [noisy(f[top : top + 40, left : left + 52], t) for t, f in enumerate(gt)]
    a, b = write(tmp_path / "mine", sr), write(tmp_path / "truth", gt)
    code, out, err = score("--outputs", a, "--gt", b, "--metrics", "psnr")
    assert (code, out) == (1, "")
    assert f"outputs {a} are 52x40 px, {b} is 64x48 px" in err
    code, out, err = score("--outputs", a, "--gt", b, "--metrics", "psnr", "--policy", policy)
    assert code == 0, err
    assert f"cropped to what they share ({policy})" in out
    (own,) = [r for r in records(tmp_path) if r["method"] == "mine"]
    crop = [f[top : top + 40, left : left + 52] for f in gt]
    assert own["per_frame"] == pytest.approx([psnr(x, y) for x, y in zip(sr, crop, strict=True)])
    assert own["extra"]["protocol"] == {"crop": policy}
    assert own["size"] == [40, 52]


def test_a_policy_that_had_nothing_to_do_changes_nothing(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    args = ("--outputs", sr, "--gt", gt, "--metrics", "psnr")
    assert score(*args)[0] == 0
    _, out, err = score(*args, "--policy", "center", "--frames", "stride:1")
    assert "0 new results, 2 reused" in err
    assert "cropped" not in out


def test_crops_stay_on_whole_lq_pixels(score: Score, tmp_path: Path) -> None:
    gt = [picture(48, 64, t) for t in range(2)]
    lq = [cv2.resize(f, (16, 12), interpolation=cv2.INTER_AREA) for f in gt]
    args = ("--gt", write(tmp_path / "gt", gt), "--lq", write(tmp_path / "lq", lq))
    args += ("--metrics", "psnr,lr_psnr", "--policy", "topleft")
    good = write(tmp_path / "good", [noisy(f[:40, :52]) for f in gt])
    odd = write(tmp_path / "odd", [noisy(f[:41, :52]) for f in gt])
    code, out, err = score("--outputs", good, *args)
    assert code == 0, err
    assert "| Bicubic" in out
    code, _, err = score("--outputs", odd, *args)
    assert code == 1
    assert "does not fall on whole LQ pixels" in err


def test_frame_rules_choose_print_and_identify(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path, count=7)
    args = ("--outputs", sr, "--gt", gt, "--metrics", "psnr,flicker")
    assert score(*args)[0] == 0
    code, out, err = score(*args, "--frames", "stride:3")
    assert code == 3, err  # flicker was asked for by name
    assert "Means over 1 clip of 3 frames" in out
    assert "cored on frames by the rule stride:3" in out
    assert "'flicker' needs successive frames and the rule is stride:3" in out
    first, second = [
        r
        for r in records(tmp_path)
        if (r["method"], r["metric"], r["status"]) == ("mine", "psnr", "ok")
    ]
    assert second["per_frame"] == first["per_frame"][::3]
    assert first["key"] != second["key"]
    assert (
        "frames by the rule stride:3 as"
        in score(*args, "--frames", "stride:3", "--format", "csv")[1]
    )
    code, out, _ = score(*args, "--frames", "first-mid-last")
    assert "the first, middle and last frame" in out
    code, out, err = score(*args)  # the first call again: its own numbers, not the newest
    assert "0 new results, 4 reused" in err
    assert "Scored on all frames as 8-bit RGB, no border cut." in out


def test_frame_numbers() -> None:
    assert frame_numbers("all", 3) == [0, 1, 2]
    assert frame_numbers("first-mid-last", 100) == [0, 50, 99]
    assert frame_numbers("first-mid-last", 1) == [0]
    assert frame_numbers("stride:4", 9) == [0, 4, 8]
    for rule in ("stride:0", "stride:", "stride:x", "al", ""):
        with pytest.raises(UserError, match="no frame rule named"):
            frame_numbers(rule, 9)


def test_a_border_must_leave_something(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    code, _, err = score("--outputs", sr, "--gt", gt, "--border", 24)
    assert code == 2
    assert "a border of 24 px does not fit frames of 64x48 px" in err


# ---------------------------------------------------------------- checks and records


@pytest.mark.parametrize("shift", [(2, -1), (0.5, 0.25)])
def test_shifted_outputs_are_named_with_both_numbers(
    score: Score, tmp_path: Path, shift: tuple[float, float]
) -> None:
    big = picture(80, 96)
    move = np.array([[1, 0, shift[1]], [0, 1, shift[0]]], np.float64)
    moved = cv2.warpAffine(big, move, big.shape[1::-1], flags=cv2.INTER_CUBIC)
    gt = write(tmp_path / "truth", [big[8:-8, 8:-8]] * 3)
    sr = write(tmp_path / "mine", [moved[8:-8, 8:-8]] * 3)
    code, out, err = score("--outputs", sr, "--gt", gt, "--metrics", "psnr")
    assert code == 0, err
    extra = next(r["extra"] for r in records(tmp_path) if r["method"] == "mine")
    assert extra["shift"] == list(shift)
    assert extra["psnr_at_shift"] > extra["psnr_at_zero"] + 3
    note = next(line for line in out.splitlines() if line.startswith("Registration"))
    assert f"{shift[0]:+g} px down and {shift[1]:+g} px right" in note
    assert f"{extra['psnr_at_zero']:.2f}" in note
    assert f"{extra['psnr_at_shift']:.2f}" in note


def moving(count: int) -> list[np.ndarray]:
    """A window that pans over a picture, 2 px a frame."""
    big = picture(64, 96 + 2 * count)
    return [np.ascontiguousarray(big[:, 2 * t : 2 * t + 96]) for t in range(count)]


def test_outputs_that_come_a_frame_late_are_named(score: Score, tmp_path: Path) -> None:
    frames = moving(8)
    made = write(tmp_path / "mine", [frames[max(t - 1, 0)] for t in range(8)])
    gt = write(tmp_path / "truth", frames)
    code, out, err = score("--outputs", made, "--gt", gt, "--metrics", "ssim")
    assert code == 0, err
    own = {r["method"]: r["extra"].get("delay", 0) for r in records(tmp_path)}
    assert (own["mine"], own["gt"]) == (1, 0)
    assert "Registration: the frames of mine come 1 frame too late on clip" in out


def delay_of(made: list[np.ndarray], wanted: list[np.ndarray]) -> int:
    delay = Delay()
    for t, (sr, gt) in enumerate(zip(made, wanted, strict=True)):
        delay.update(Sample(t, sr, None, gt, gt, None))
    return int(delay.result().get("delay", 0))


@pytest.mark.parametrize("late", range(-3, 4))
def test_delays_are_found_through_blur_noise_and_tone(late: int) -> None:
    frames = moving(10)
    blurred = [noisy(cv2.GaussianBlur(f // 2 + 40, (0, 0), 1.5)) for f in frames]
    assert delay_of([blurred[min(max(t - late, 0), 9)] for t in range(10)], frames) == late


def test_no_delay_is_seen_where_none_shows() -> None:
    one, frames = picture(64, 96), moving(8)
    assert delay_of([noisy(one, t, 25) for t in range(8)], [one] * 8) == 0
    assert delay_of([one] * 8, [noisy(one, t, 25) for t in range(8)]) == 0
    flicker = [one, cv2.flip(one, 1)] * 4
    assert delay_of([noisy(f, t) for t, f in enumerate(flicker)], flicker) == 0
    held = [frames[t // 2 * 2] for t in range(8)]
    smooth = [np.mean([frames[max(t - 1, 0)], frames[t]], 0).astype(np.uint8) for t in range(8)]
    assert delay_of(held, frames) == delay_of(smooth, frames) == 0
    assert delay_of(frames[:2], frames[1:3]) == 0  # too few to tell
    for steps in (range(1, 13), range(12, 0, -1)):  # fades
        fade = [(one * (t / 12)).astype(np.uint8) for t in steps]
        assert delay_of([cv2.GaussianBlur(f, (0, 0), 3) for f in fade], fade) == 0
    for bad in (range(3), range(3, 6)):  # nothing moves, and the method is at its best later on
        made = [cv2.GaussianBlur(one, (0, 0), 8 if t in bad else 1) for t in range(6)]
        assert delay_of(made, [one] * 6) == 0


def test_equal_scores_on_different_clips_are_called_out(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    for name in "ab":
        shutil.copytree(sr, tmp_path / "out" / name)
        write(tmp_path / "gts" / name, [read_image(p) for p in files(gt)])
    cv2.imwrite(str(tmp_path / "gts" / "b" / "00000000.png"), picture(48, 64, 7))
    args = ("--outputs", tmp_path / "out", "--gt", tmp_path / "gts", "--metrics")
    code, out, _ = score(*args, "flicker_vbench,psnr")  # looks at the outputs alone
    assert code == 0
    (line,) = [line for line in out.splitlines() if "equal to the last digit" in line]
    assert line.startswith("out has Flicker (VBench)")
    assert "gts/a, b" in line


def test_a_second_call_reuses_and_changed_frames_do_not(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    args = ("--outputs", sr, "--gt", gt, "--metrics", "psnr,ssim")
    code, first, err = score(*args)
    assert (code, "4 new results, 0 reused" in err) == (0, True)
    code, again, err = score(*args)
    assert (code, "0 new results, 4 reused" in err) == (0, True)
    assert again == first
    assert "4 new results, 0 reused" in score(*args, "--fresh")[2]
    assert "4 new results, 0 reused" in score(*args, "--border", "4")[2]
    cv2.imwrite(str(files(sr)[1]), picture(48, 64, 5))
    code, out, err = score(*args)
    assert "2 new results, 2 reused" in err  # GT is as it was
    assert out != first


def test_formats_and_stored_tables(
    score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sr, gt = pair(tmp_path)
    args = ("--outputs", sr, "--gt", gt, "--metrics", "psnr", "--name", "My net", "-q")
    code, out, err = score(*args, "--format", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out.strip())))
    assert [(r["method"], r["metric"], r["clips"], r["of"]) for r in rows] == [
        ("My_net", "psnr", "1", "1"),
        ("gt", "psnr", "1", "1"),
    ]
    assert float(rows[0]["mean"]) == next(
        r["value"] for r in records(tmp_path) if r["method"] == "My_net"
    )
    assert r"\toprule" in score(*args, "--format", "latex")[1]
    assert main(["table", "--results", str(tmp_path / "results")]) == 0
    assert "| My net" in capsys.readouterr().out


def test_an_unreadable_frame_is_a_failed_record(score: Score, tmp_path: Path) -> None:
    sr, gt = pair(tmp_path)
    bad = files(sr)[2]
    bad.write_bytes(bad.read_bytes()[:-100])
    code, out, err = score("--outputs", sr, "--gt", gt, "--metrics", "psnr")
    assert code == 1
    assert str(bad) in err
    assert "– [1]" in out
    assert {(r["method"], r["status"]) for r in records(tmp_path)} == {
        ("gt", "ok"),
        ("mine", "failed"),
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: --outputs"),
        (["--outputs", "x", "--preset", "clasic-y"], "Did you mean 'classic-y'?"),
        (["--outputs", "x", "--policy", "centre"], "Did you mean 'center'?"),
        (["--outputs", "x", "--frames", "first-last"], "Did you mean 'first-mid-last'?"),
        (["--outputs", "x", "--metrics", "psrn"], "no metric named 'psrn'"),
        (["--outputs", "x", "--dataset", "sinthetic"], "Did you mean 'synthetic'?"),
        (["--outputs", "x", "--name", "bicubic"], "'bicubic' is the name of a method here"),
        (["--outputs", "x", "--border", "-1"], "not a whole number"),
        (["--outputs", "x", "--presets", "dove"], "did you mean --preset?"),
    ],
)
def test_a_bad_command_line_is_exit_2(score: Score, args: list[str], message: str) -> None:
    code, out, err = score(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2


def test_missing_paths_are_exit_3(score: Score, tmp_path: Path) -> None:
    sr, _ = pair(tmp_path)
    for args in (["--outputs", "nowhere"], ["--outputs", sr, "--gt", "nowhere"]):
        code, _, err = score(*args)
        assert code == 3
        assert "nowhere" in err


def test_presets_name_metrics() -> None:
    from vsrbench.metrics import PRESETS

    assert set(PRESETS) == {"dove", "classic-y", "strict-rgb"}
    assert {m for preset in PRESETS.values() for m in preset} <= set(METRICS)


# ---------------------------------------------------------------- memory

PEAK = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vsrbench.cli import main
code = main(["score", *sys.argv[1:]])
print(code, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_length(tmp_path: Path, root: Path) -> None:
    peaks = []
    for count in (30, 300):
        base = tmp_path / str(count)
        sr, gt = pair(base, count, (120, 160))
        command = [sys.executable, "-c", PEAK, "--outputs", sr, "--gt", gt, "-q"]
        command += ["--metrics", "psnr,ssim,ewarp,tof,flicker", "--results", base / "results"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        code, peak = done.stdout.splitlines()[-1].split()
        assert code == "0", done.stderr
        peaks.append(int(peak))
    assert peaks[1] <= 1.1 * peaks[0], peaks


# ---------------------------------------------------------------- a part of the clips


def test_part_of_the_clips(score: Score, tmp_path: Path) -> None:
    """Those that have outputs can be chosen; those that have none are nobody else's failure."""
    for name in "abc":
        scene = picture(48, 64, ord(name))
        write(tmp_path / "gt" / name, [scene, scene])
        write(tmp_path / "lq" / name, [scene[2::4, 2::4]] * 2)
        if name == "b":
            write(tmp_path / "sr" / name, [noisy(scene)] * 2)
    pairs = ["--gt", tmp_path / "gt", "--lq", tmp_path / "lq"]
    common = ["--outputs", tmp_path / "sr", "--metrics", "psnr"]
    for targets in (pairs, pairs[:2]):
        code, out, err = score(*common, *targets, "--clips", "b")
        assert (code, err.count("error")) == (0, 0)
        assert "1 clip" in out
        code, _, err = score(*common, *targets, "--clips", "d")
        assert (code, "no clip named 'd'" in err) == (2, True)
    assert score(*common, *pairs, "--limit", "2")[0] == 1  # of which one has outputs
    before = len(records(tmp_path))
    code, _, err = score(*common, *pairs, "--fresh")
    assert code == 1
    assert err.count("FAILED") == 0
    assert err.count("no outputs of the same name") == 1
    assert "2 clips of lq have no outputs" in err
    assert ": a, c\n" in err
    assert "--clips or --limit" in err
    new = records(tmp_path)[before:]
    assert {(r["method"], r["clip"]) for r in new if r["status"] == "failed"} == {
        ("sr", "a"),
        ("sr", "c"),
    }
