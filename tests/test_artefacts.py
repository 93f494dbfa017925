"""Colour shift, seams, legibility, worst second: planted cases of known size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from vsrbench.core.errors import DataError
from vsrbench.core.types import Sample, Score
from vsrbench.metrics import load_metric
from vsrbench.metrics.artefacts import periodic_jump
from vsrbench.metrics.base import worst_second
from vsrbench.metrics.ocr import agreement, distance


def scene(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Smooth random texture, mid grey, that moves by a pixel a frame."""
    noise = np.random.default_rng(0).normal(0, 1, (height, width + count, 3))
    big = cv2.GaussianBlur(noise, (0, 0), 6)
    big = 128 + 15 * big / big.std()
    return [big[:, t : t + width].clip(20, 235).round().astype(np.uint8) for t in range(count)]


def score(
    name: str,
    sr: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    lq: Sequence[np.ndarray] | None = None,
) -> Score:
    metric = load_metric(name)
    for i, (a, b) in enumerate(zip(sr, reference, strict=True)):
        metric.update(Sample(i, a, None if lq is None else lq[i], b, b, None))
    return metric.result()


def cast(frame: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    """The frame with its CIELAB colours moved."""
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) + np.float32(shift)
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB)
    return (255 * rgb).clip(0, 255).round().astype(np.uint8)


def test_a_colour_cast_of_known_size() -> None:
    lq = scene(5)
    assert score("colour_shift", lq, lq, lq).value == 0
    same = score("colour_shift", [cast(f, (0, 3, 4)) for f in lq], lq, lq)
    assert same.value == pytest.approx(5, abs=0.15)
    assert same.extra["drift"] == pytest.approx(0, abs=0.02)
    growing = score("colour_shift", [cast(f, (2 * t, 0, 0)) for t, f in enumerate(lq)], lq, lq)
    assert growing.per_frame == pytest.approx([0, 2, 4, 6, 8], abs=0.15)
    assert growing.extra["drift"] == pytest.approx((4 + 2 + 0 + 2 + 4) / 5, abs=0.1)


def test_colour_shift_is_of_colours_not_of_size_or_detail() -> None:
    lq = scene(1)
    large = [cv2.resize(f, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST) for f in lq]
    assert score("colour_shift", large, large, lq).value == pytest.approx(0, abs=1e-4)


def test_a_jump_every_12_frames() -> None:
    reference = scene(40)
    sr = [(f + 6 * (t // 12)).astype(np.uint8) for t, f in enumerate(reference)]
    found = score("chunk_seams", sr, reference)
    own, true = (np.abs(np.diff(np.int16(x), axis=0)).mean((1, 2, 3)) for x in (sr, reference))
    jumps = (own - true)[[11, 23, 35]]
    assert found.value == pytest.approx(jumps.min())
    assert found.value > 2
    assert (found.extra["period"], found.extra["first"]) == (12, 12)
    assert score("chunk_seams", reference, reference).value == 0
    still = [reference[0] + np.uint8(6 * (t // 12)) for t in range(40)]
    assert score("chunk_seams", still, reference[:1] * 40).value == 6
    with pytest.raises(DataError, match="at least 9 frames"):
        score("chunk_seams", sr[:8], reference[:8])


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_a_tile_grid(axis: str) -> None:
    reference = [np.full((96, 128, 3), 100, np.uint8)] * 2
    x = np.arange(128)[None, :, None] if axis == "columns" else np.arange(96)[:, None, None]
    grid = [(f + 5 * (x // 24 % 2)).astype(np.uint8) for f in reference]
    found = score("tile_seams", grid, reference)
    assert found.value == 5
    assert (found.extra["period"], found.extra["first"], found.extra["axis"]) == (24, 24, axis)
    moving = scene(3)
    assert score("tile_seams", moving, moving).value == 0
    over = [(f + 5 * (x // 24 % 2)).astype(np.uint8) for f in moving]
    assert score("tile_seams", over, moving).extra["period"] == 24


def test_noise_has_no_period() -> None:
    values = np.random.default_rng(1).normal(0, 1, 300)
    jump, *_ = periodic_jump(values, 4)
    assert jump < 3  # two of 300 by chance; planted ones lie above at every multiple
    values[24::25] += 6
    jump, period, first = periodic_jump(values, 4)
    assert (period, first) == (25, 24)
    assert jump > 3


def test_worst_second() -> None:
    values = [1.0] * 20 + [5.0] * 5 + [1.0] * 20
    assert worst_second(values, 5, False) == (5.0, 20)
    assert worst_second(values, 10, False) == (3.0, 15)
    assert worst_second([-v for v in values], 5, True) == (-5.0, 20)
    assert worst_second(values, 0, False) is None
    assert worst_second(values[:4], 5, False) is None


def test_agreement_of_readings() -> None:
    assert (distance("", "abc"), distance("kitten", "sitting"), distance("a", "a")) == (3, 3, 0)
    assert agreement("same text", "same text") == 1
    assert agreement("sane tex", "same text") == pytest.approx(1 - 2 / 8)
    assert agreement("nothing alike at all", "x") == 0


def test_text_that_is_blurred_step_by_step() -> None:
    pytest.importorskip("rapidocr")
    from vsrbench.metrics import ocr

    page = np.full((64, 320, 3), 235, np.uint8)
    cv2.putText(page, "SUPER 2026 legible", (10, 42), 0, 0.9, (20, 20, 40), 2, cv2.LINE_AA)
    place = np.array([[4, 12], [312, 12], [312, 56], [4, 56]])
    read = [
        agreement(
            ocr.read_line(cv2.GaussianBlur(page, (0, 0), s) if s else page, place),
            "SUPER2026legible",
        )
        for s in (0, 5, 10)
    ]
    assert read[0] > 0.9
    assert read[0] > read[1] >= read[2]
    assert read[2] < 0.3


def test_legibility_of_a_page() -> None:
    pytest.importorskip("rapidocr")
    page = np.full((64, 320, 3), 235, np.uint8)
    blank = page.copy()
    cv2.putText(page, "SUPER 2026 legible", (10, 42), 0, 0.9, (20, 20, 40), 2, cv2.LINE_AA)
    found = score("legibility", [page, blank], [page, blank])
    assert len(found.per_frame) == 1  # nothing is written on the other one
    assert found.value > 0.9
    assert found.extra["against"] == "GT"
    assert score("legibility", [cv2.GaussianBlur(page, (0, 0), 8)], [page]).value < 0.5
    alone = load_metric("legibility")
    alone.update(Sample(0, page, None, None, page, None))
    alone.update(Sample(1, blank, None, None, blank, None))
    assert alone.result().extra["against"] == "confidence"
    assert 0.7 < alone.result().value <= 1
    with pytest.raises(DataError, match="one frame with text"):
        score("legibility", [blank], [blank])
    with pytest.raises(DataError, match="differ in size"):
        score("legibility", [page], [page[:, :-2]])


def test_cvvdp_is_the_package_on_the_whole_clip() -> None:
    torch, package = pytest.importorskip("torch"), pytest.importorskip("pycvvdp")
    truth = scene(3, 64, 64)
    soft = [cv2.GaussianBlur(f, (0, 0), 3) for f in truth]
    model = package.cvvdp(display_name="standard_4k", device=torch.device("cpu"), quiet=True)
    for sr in (soft, soft[:1]):  # a video and a picture
        gt = truth[: len(sr)]
        rate = 30 if len(sr) > 1 else 0
        theirs, _ = model.predict(
            np.stack(sr), np.stack(gt), dim_order="FHWC", frames_per_second=rate
        )
        found = score("cvvdp", sr, gt)
        assert found.value == pytest.approx(float(theirs), abs=1e-4)
        assert found.value < 9.9
    assert score("cvvdp", truth, truth).value == pytest.approx(10, abs=1e-3)
    with pytest.raises(DataError, match="32 px"):
        score("cvvdp", [truth[0][:30]], [truth[0][:30]])
    with pytest.raises(DataError, match="at least one frame"):
        load_metric("cvvdp").result()


def test_erqa_is_1_for_the_truth_and_falls_with_blur() -> None:
    pytest.importorskip("erqa")
    truth = [np.kron(np.random.default_rng(0).integers(0, 2, (12, 16)), np.ones((8, 8)))]
    truth = [np.uint8(200 * t)[..., None].repeat(3, 2) for t in truth]
    soft = [cv2.GaussianBlur(t, (0, 0), 6) for t in truth]
    assert score("erqa", truth, truth).value == 1
    assert score("erqa", soft, truth).value < 0.5


def test_vmaf_frame_by_frame_is_the_package_on_the_clip() -> None:
    torch, package = pytest.importorskip("torch"), pytest.importorskip("vmaf_torch")
    from vsrbench.metrics.fidelity import limited_luma

    truth = scene(3, 192, 192)
    soft = [cv2.GaussianBlur(f, (0, 0), 1.5) for f in truth]

    def lumas(frames: Sequence[np.ndarray]) -> object:
        stacked = np.stack([np.rint(limited_luma(f)) for f in frames])[:, None]
        return torch.from_numpy(stacked.astype(np.float32))

    for name in ("vmaf", "vmaf_neg"):
        model = package.VMAF(NEG=name == "vmaf_neg", clip_score=True)
        with torch.inference_mode():
            theirs = model(lumas(truth), lumas(soft)).flatten().tolist()
        found = score(name, soft, truth)
        assert found.per_frame == pytest.approx(theirs, abs=1e-3)
        assert 0 < found.value < 100


def test_motion_of_vmaf_is_that_of_ffmpeg() -> None:
    """The motion feature against FFmpeg's filter `vmafmotion`, another implementation."""
    pytest.importorskip("vmaf_torch")
    import av
    import torch
    from vmaf_torch import VMAF

    rng = np.random.default_rng(2)
    lumas = [
        cv2.GaussianBlur(rng.uniform(16, 235, (128, 160)), (0, 0), 1.5).round().astype(np.uint8)
        for _ in range(3)
    ]
    stacked = torch.from_numpy(np.stack(lumas)[:, None].astype(np.float32))
    ours = VMAF().compute_motion(stacked).flatten().tolist()
    graph = av.filter.Graph()
    source = graph.add_buffer(width=160, height=128, format="gray", time_base="1/25")
    motion, sink = graph.add("vmafmotion"), graph.add("buffersink")
    source.link_to(motion)
    motion.link_to(sink)
    graph.configure()
    theirs = []
    for number, luma in enumerate(lumas):
        frame = av.VideoFrame.from_ndarray(luma, "gray")
        frame.pts = number
        graph.push(frame)
        theirs.append(float(graph.pull().metadata["lavfi.vmafmotion.score"]))
    assert ours == pytest.approx(theirs, abs=0.05)
    assert max(theirs) > 1
