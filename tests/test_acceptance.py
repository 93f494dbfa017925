"""Demands on weights: judged by the numbers of each clip, on clips with exact motion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from vsrbench.methods.instavsr import acceptance
from vsrbench.methods.instavsr.acceptance import (
    BICUBIC,
    GAN,
    PASSES,
    RIVAL,
    TURN,
    Scores,
    demands,
    document,
    long,
    make_moved,
)
from vsrbench.methods.instavsr.clips import NOISE, make_clip

from vsrbench.core.errors import DataError
from vsrbench.core.types import Record
from vsrbench.flow.warp import warp

METRICS = {
    "psnr": 24.0,
    "niqe": 7.0,
    "gradient_energy": 0.2,
    "ewarp": 0.2,
    "flicker": 1.0,
    "stlpips": 0.4,
}
BETTER = {
    "psnr": 25.0,
    "niqe": 5.5,
    "gradient_energy": 0.5,
    "ewarp": 0.1,
    "flicker": 0.9,
    "stlpips": 0.3,
}
OWN = "instavsr"


def record(dataset: str, method: str, clip: str, metric: str, value: float) -> Record:
    made = Record(
        "k", "r", "2026-01-01T00:00:00Z", "quality", "ok", method, 1, method, "none", "", "fp32"
    )
    return replace(made, dataset=dataset, clip=clip, metric=metric, value=value)


def scores() -> dict[tuple[str, str, str, str], Record]:
    """Where `OWN` meets every demand: two clips of each of three sets, the still, the long clip."""
    found = {}

    def add(*cells: str, value: float) -> None:
        found[cells] = record(*cells, value)  # type: ignore[index, arg-type]

    for dataset in ("synthetic", "captured", "photographs"):
        for clip in "ab":
            for metric, value in METRICS.items():
                for method in (BICUBIC, RIVAL, GAN):
                    add(dataset, method, clip, metric, value=value)
                add(dataset, OWN, clip, metric, value=BETTER[metric])
                gt = {"niqe": 5.0, "gradient_energy": 1.0}.get(metric, 0.0)
                add(dataset, "gt", clip, metric, value=gt)
    add("still", OWN, NOISE, "temporal_std", value=2.0)
    add("still", BICUBIC, NOISE, "temporal_std", value=6.0)
    add("drift", OWN, "a", "psnr", value=30.0)
    key = "drift", OWN, "a", "psnr"
    found[key] = replace(found[key], per_frame=(30.0,) * 300)
    return found


def failed(found: dict[tuple[str, str, str, str], Record]) -> list[str]:
    return [claim.text for claim in demands(Scores(found), OWN) if not claim.holds]


def test_a_table_without_fault_holds() -> None:
    found = scores()
    known = demands(Scores(found), OWN)
    assert len(known) == 18
    assert all(claim.holds for claim in known)
    # What was not measured holds for nothing.
    some = {key: r for key, r in found.items() if key[3] != "stlpips"}
    assert all("ST-LPIPS" in text for text in failed(some))
    assert len(failed(some)) == 3


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("captured", OWN, "b", "psnr"), 23.9, "PSNR over bicubic, worst clip"),
        (("synthetic", OWN, "b", "gradient_energy"), 0.2, "gradient energy over bicubic's, synth"),
        (
            ("photographs", OWN, "a", "gradient_energy"),
            1.9,
            "gradient energy over GT's, any dataset",
        ),
        (("captured", OWN, "a", "niqe"), 9.0, "NIQE nearer to GT's than bicubic's"),
        (("captured", OWN, "a", "stlpips"), 2.9, "ST-LPIPS"),
        (("captured", OWN, "a", "flicker"), 1.4, "flicker over bicubic's, captured"),
        (("still", OWN, NOISE, "temporal_std"), 2.2, "noise on a still over bicubic's"),
    ],
)
def test_one_bad_number_fails_its_demand(
    key: tuple[str, str, str, str], value: float, expected: str
) -> None:
    found = scores()
    found[key] = replace(found[key], value=value)
    assert any(text.startswith(expected) for text in failed(found)), failed(found)


def test_drift_is_the_last_pass_against_the_second() -> None:
    found = scores()
    key = "drift", OWN, "a", "psnr"
    found[key] = replace(found[key], per_frame=(20.0,) * 30 + (30.0,) * 240 + (29.8,) * 30)
    (claim,) = (c for c in demands(Scores(found), OWN) if c.text.startswith("PSNR lost"))
    assert claim.values[0] == pytest.approx(0.2)
    assert not claim.holds
    del found[key]
    with pytest.raises(DataError, match="instavsr has no psnr of drift"):
        demands(Scores(found), OWN)


def test_the_document_has_every_set_and_method() -> None:
    text = document(Scores(scores()), OWN)
    assert "| synthetic   | instavsr" in text
    assert text.count("| realesr-animevideov3") == 3
    assert "`captured`: a, b;" in text


def test_what_is_written_by_hand_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(acceptance, "newest", lambda store: scores())
    monkeypatch.setattr(acceptance.Store, "require", lambda self: self)
    for _ in range(2):
        assert acceptance.main(["write", "--out", str(page), "--results", str(tmp_path)]) == 0
        text = page.read_text()
        assert text.startswith(document(Scores(scores()), OWN))
        page.write_text(text if "## Seen" in text else f"{text}\n## Seen\n\nNo rims.\n")
    assert page.read_text().count("## Seen\n\nNo rims.\n") == 1


def test_moved_photographs_move_as_their_flow_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        coarse = rng.uniform(0, 255, (24, 24, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC).clip(0, 255)
        cv2.imwrite(str(path), picture.astype(np.uint8))
    clips = list(make_moved(paths))
    assert [clip.name for clip in clips] == ["0", "1"]
    for clip in clips:
        assert clip.gt is not None
        assert clip.flow is not None
        assert len(clip.lq) == len(clip.gt) == len(clip.flow) + 1 == acceptance.FRAMES
        pair = clip.flow[0]
        assert pair.occluded_forward is not None
        apart = np.abs(warp(np.array(clip.gt[1]), pair.forward) - clip.gt[0]).max(-1)
        assert apart[~pair.occluded_forward].max() < 4


def test_the_long_clip_runs_back_and_forth() -> None:
    rng = np.random.default_rng(1)
    gt = list(rng.integers(0, 255, (TURN, 400, 480, 3), dtype=np.uint8))
    lq = [frame[::4, ::4] for frame in gt]
    clip = long(make_clip("captured", "x", gt, lq))
    assert clip.count == PASSES * (2 * TURN - 2) == 300
    assert clip.size == (80, 80)
    assert clip.gt is not None
    assert np.array_equal(clip.gt[1], clip.gt[29])
    assert np.array_equal(clip.gt[16], clip.gt[14])
    assert np.array_equal(clip.gt[3][::4, ::4], clip.lq[3])
