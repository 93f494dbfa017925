"""Degradation: deterministic, aligned, and as strong as the recipe says."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from vsrbench.core.errors import DataError
from vsrbench.data.degrade import RECIPES, Recipe, Stage, degrade, digest


def picture(h: int = 128, w: int = 160, seed: int = 0) -> np.ndarray:
    """Smooth random colours with detail at the scale of an LQ pixel."""
    noise = np.random.default_rng(seed).standard_normal((h, w, 3))
    fine, coarse = cv2.GaussianBlur(noise, (0, 0), 1.5), cv2.GaussianBlur(noise, (0, 0), 6)
    x = 128 + 30 * fine / fine.std() + 30 * coarse / coarse.std()
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def shift_of(lq: np.ndarray, gt: np.ndarray) -> tuple[int, int]:
    """Integer (y, x) shift of the bicubic-upscaled LQ that fits the GT best, within 3 px."""
    up = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(float)
    inner = gt[8:-8, 8:-8].astype(float)
    h, w = inner.shape[:2]

    def error(shift: tuple[int, int]) -> float:
        y, x = 8 + shift[0], 8 + shift[1]
        return float(np.mean((up[y : y + h, x : x + w] - inner) ** 2))

    return min(((y, x) for y in range(-3, 4) for x in range(-3, 4)), key=error)


def centroid(x: np.ndarray) -> np.ndarray:
    weight = x.astype(float).sum(axis=-1)
    weight -= np.median(weight)
    grid = np.stack(np.mgrid[: x.shape[0], : x.shape[1]])
    return (grid * weight).sum(axis=(1, 2)) / weight.sum()


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bits_other_seed_other_bits(name: str) -> None:
    frames = [picture(seed=s) for s in range(3)]
    a, b = (np.stack(degrade(frames, 4, RECIPES[name], 7)) for _ in range(2))
    assert a.dtype == np.uint8
    assert a.shape == (3, 32, 40, 3)
    np.testing.assert_array_equal(a, b)
    c = np.stack(degrade(frames, 4, RECIPES[name], 8))
    assert np.array_equal(a, c) == (name == "clean")  # nothing to draw in `clean`


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("seed", range(6))
def test_stays_registered(name: str, seed: int) -> None:
    gt = picture(seed=seed)
    assert shift_of(degrade([gt], 4, RECIPES[name], seed)[0], gt) == (0, 0)


@pytest.mark.parametrize("cubic", [0.0, 1.0])
@pytest.mark.parametrize("factor", [0.4, 0.77, 1.0, 1.3])
def test_no_step_moves_the_centre(cubic: float, factor: float) -> None:
    """A blob keeps its centroid through two stages, to a fortieth of a GT px."""
    y, x = np.mgrid[:96, :112]
    centre = np.array((45.3, 60.8))
    blob = 220 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * 7**2))
    frame = np.rint(np.repeat(blob[..., None], 3, axis=2)).astype(np.uint8)
    blur = Stage(blur=(2, 2), anisotropy=(0.5, 0.5), resize=(factor, factor), cubic=cubic)
    lq = degrade([frame], 4, Recipe("two", 1, (blur, blur)), 5)[0]
    # Pixel centres: GT position = 4 (LQ position + 1/2) - 1/2.
    np.testing.assert_allclose(4 * centroid(lq) + 1.5, centre, atol=0.025)


def test_clean_is_the_mean_of_blocks() -> None:
    gt = picture()
    expected = np.rint(gt.reshape(32, 4, 40, 4, 3).mean(axis=(1, 3)))
    assert np.abs(degrade([gt], 4, RECIPES["clean"], 0)[0] - expected).max() <= 1


def test_camera_is_constant_and_noise_is_not() -> None:
    """On a still clip frames differ by noise alone: blur and level stay."""
    still = [picture()] * 6
    noisy = Recipe("noisy", 1, (Stage(blur=(0.5, 3), read_noise=(6, 6)),))
    lq = np.stack(degrade(still, 4, noisy, 3)).astype(float)
    noise = lq - np.stack(degrade(still, 4, replace(noisy, stages=(Stage(blur=(0.5, 3)),)), 3))
    assert noise.std() == pytest.approx(6, rel=0.05)
    pairs = np.corrcoef(noise.reshape(6, -1))
    assert np.abs(pairs[~np.eye(6, dtype=bool)]).max() < 0.06


def test_shot_noise_grows_with_the_root_of_the_signal() -> None:
    level = np.repeat(np.array([10, 40, 160], np.uint8), 80)
    frame = np.broadcast_to(level[None, :, None], (240, 240, 3))
    recipe = Recipe("shot", 1, (Stage(shot_noise=(10, 10)),))
    lq = degrade([frame], 1, recipe, 0)[0].astype(float)
    measured = np.array([lq[:, i * 80 : (i + 1) * 80].std() for i in range(3)])
    expected = 10 * np.sqrt(np.array([10, 40, 160]) / 255)
    np.testing.assert_allclose(measured, expected, rtol=0.04)


def test_grey_noise_is_one_for_all_channels() -> None:
    frame = np.full((32, 32, 3), 128, np.uint8)
    lq = degrade([frame], 1, Recipe("g", 1, (Stage(read_noise=(5, 5), grey=1),)), 0)[0]
    assert lq.std() > 4
    assert np.array_equal(lq[..., 0], lq[..., 1])
    assert np.array_equal(lq[..., 0], lq[..., 2])


def test_odd_sizes_through_the_codec() -> None:
    """63 x 37 LQ frames come back whole, also the last row and column, in order.

    Grey, because yuv420p halves the resolution of colour.
    """
    grey = np.repeat(picture(252, 148)[..., :1], 3, axis=2)
    gt = [np.roll(grey, 4 * t, axis=1) for t in range(20)]
    lq = degrade(gt, 4, replace(RECIPES["clean"], crf=(10, 10)), 1)
    assert len(lq) == 20
    for a, b in zip(lq, degrade(gt, 4, RECIPES["clean"], 1), strict=True):
        assert a.shape == (63, 37, 3)
        difference = a.astype(float) - b
        assert np.sqrt(np.mean(difference**2)) < 2.5
        assert np.sqrt(np.mean(difference[-1] ** 2)) < 4
        assert np.sqrt(np.mean(difference[:, -1] ** 2)) < 4


def test_higher_crf_and_lower_quality_are_worse() -> None:
    gt = [picture()] * 2
    clean = np.stack(degrade(gt, 4, RECIPES["clean"], 0)).astype(float)

    def error(recipe: Recipe) -> float:
        return float(np.mean((np.stack(degrade(gt, 4, recipe, 0)) - clean) ** 2))

    crf = [error(Recipe("c", 1, (Stage(),), crf=(v, v))) for v in (12, 24, 36)]
    jpeg = [error(Recipe("j", 1, (Stage(jpeg=(v, v)),))) for v in (95, 70, 30)]
    assert crf == sorted(crf)
    assert jpeg == sorted(jpeg)
    assert min(crf[0], jpeg[0]) > 0


def test_strength_of_the_recipes() -> None:
    gt = [picture(seed=s) for s in range(4)]
    clean = np.stack(degrade(gt, 4, RECIPES["clean"], 0)).astype(float)
    rms = {
        name: np.mean(
            [np.sqrt(np.mean((np.stack(degrade(gt, 4, r, s)) - clean) ** 2)) for s in range(8)]
        )
        for name, r in RECIPES.items()
    }
    assert rms["clean"] == 0 < rms["mild"] < rms["real"]


def test_no_frames_no_output() -> None:
    assert degrade([], 4, RECIPES["real"], 0) == []


def test_digest_names_recipe_version_and_seed() -> None:
    real = RECIPES["real"]
    names = {
        digest(real, 0),
        digest(real, 1),
        digest(replace(real, version=real.version + 1), 0),
        digest(replace(real, crf=(19, 29)), 0),
        digest(RECIPES["mild"], 0),
    }
    assert len(names) == 5
    assert digest(real, 0) == digest(replace(real), 0)
    assert all(len(name) == 64 for name in names)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="32x30 px is not a multiple of 4"):
        degrade([picture(30, 32)], 4, RECIPES["clean"], 0)
    with pytest.raises(DataError, match="frame 1 is 32x36, frame 0 32x32"):
        degrade([picture(32, 32), picture(36, 32)], 4, RECIPES["clean"], 0)
