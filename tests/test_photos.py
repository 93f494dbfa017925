"""Moving photographs: exact motion, batches that follow from their seed, a trainer that learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from vsrbench.methods.training import degradation, photos, scenes, train
from vsrbench.methods.training.batch import Batch, Draw
from vsrbench.methods.training.degradation import (
    Coding,
    Pass,
    coded,
    degrade_batch,
    draw_passes,
    jpeg,
)
from vsrbench.methods.training.losses import masked_mean, warp_pairs, warping_loss
from vsrbench.methods.training.photos import Photos, list_test_photographs
from vsrbench.methods.training.scenes import LAYERS, TEXTURE, draw_scenes, render

from vsrbench.core.errors import DataError, MissingError
from vsrbench.data.degrade import RECIPES, degrade

SIDE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen smooth random pictures, as photographs would be."""
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(16):
        coarse = rng.uniform(0, 255, (48, 56, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (TEXTURE + 64, TEXTURE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path / f"{i:02d}.png"), picture.clip(0, 255).astype(np.uint8))
    return path


def smooth(windows: int) -> torch.Tensor:
    """Photographs that bilinear interpolation hardly changes, (windows, LAYERS, 3, T, T)."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(windows * LAYERS, 3, 24, 24, generator=generator)
    fine = F.interpolate(coarse, TEXTURE, mode="bicubic", align_corners=False).clamp(0, 1)
    return fine.unflatten(0, (windows, LAYERS))


def as_batch(made: scenes.Rendered) -> Batch:
    small = F.avg_pool2d(made.gt.flatten(0, 1), 4).unflatten(0, made.gt.shape[:2])
    return Batch(lq=small, **vars(made))


def test_warping_by_the_flow_gives_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "LIGHT", 0.0)
    drawn = draw_scenes(np.random.default_rng(5), 24, 4, SIDE)
    batch = as_batch(render(drawn, smooth(24), SIDE))
    for flow, valid, frames in (
        (batch.forward, batch.valid_forward, batch.gt),
        (batch.backward.flip(1), batch.valid_backward.flip(1), batch.gt.flip(1)),
    ):
        turned = replace(batch, gt=frames, forward=flow, valid_forward=valid)
        here, later, seen = warp_pairs(frames, turned)
        assert seen.mean() > 0.6
        wrong = (here - later).abs().amax(1, keepdim=True) * seen
        # Interpolation of smooth pictures costs a few levels at most; a wrong layer far more.
        assert wrong.max() < 16 / 255
        assert float(masked_mean((here - later).abs(), seen)) < 0.6 / 255
        moved = float(masked_mean((frames[:, :-1] - frames[:, 1:]).flatten(0, 1).abs(), seen))
        assert moved > 5 / 255


def test_what_is_hidden_is_never_called_visible() -> None:
    """Against brute force: follow points of a layer and look which layer is on top."""
    drawn = draw_scenes(np.random.default_rng(8), 16, 3, SIDE)
    made = render(drawn, smooth(16), SIDE)
    to_layer = torch.linalg.inv(drawn.layer_to_frame)
    points = scenes.centres(SIDE, 4, torch.device("cpu"))

    def top(t: int, at: torch.Tensor) -> torch.Tensor:
        seen = torch.zeros(at.shape[:-1], dtype=torch.long)
        for layer in range(1, LAYERS):
            plane = scenes.project(to_layer[:, t, layer], at)
            depth = scenes.inner_distance(drawn.outline[:, layer], plane)
            seen = torch.where(depth > 0, layer, seen)
        return seen

    some_hidden = 0
    for t in range(2):
        here = points.expand(16, *points.shape)
        there = points + 4 * made.forward[:, t].movedim(1, -1)
        same = (top(t, here) == top(t + 1, there)) & (there.abs() <= SIDE / 2).all(-1)
        uncut = drawn.cut != t + 1
        before = uncut & (drawn.cut > t + 1)  # flow of a clip after its cut is another's
        valid = made.valid_forward[:, t, 0].bool()
        assert not (valid & ~same)[before].any()
        assert not valid[drawn.cut == t + 1].any()
        some_hidden += int((~same)[before].sum())
    assert some_hidden > 20


def test_kinds_of_motion_have_their_shares() -> None:
    drawn = draw_scenes(np.random.default_rng(1), 400, 6, 128)
    eye = torch.eye(3)
    still = (drawn.layer_to_frame[:, :, 0] - eye).abs().amax((1, 2, 3)) < 1e-9
    cut = (drawn.cut < 6).float().mean()
    light = (drawn.gain != 1).any(1).float().mean()
    assert 0.15 < still.float().mean() < 0.45  # still, or before a tripod without a shake
    assert 0.03 < cut < 0.1
    assert 0.06 < light < 0.18
    steps = drawn.layer_to_frame[:, 1:, 0, :2, 2] - drawn.layer_to_frame[:, :-1, 0, :2, 2]
    assert steps.norm(dim=-1).quantile(0.99) < 16  # 4 LQ px a frame
    assert (drawn.outline[:, 1:, 0] > 0).float().mean() == pytest.approx(0.475, abs=0.08)


def test_errors_that_move_with_the_scene_cost_nothing() -> None:
    drawn = draw_scenes(np.random.default_rng(2), 4, 4, SIDE)
    batch = as_batch(render(drawn, smooth(4), SIDE))
    assert float(warping_loss(batch.gt, batch)) == 0
    assert float(warping_loss(batch.gt + 0.1, batch)) < 1e-6
    noise = 0.1 * torch.randn(batch.gt.shape, generator=torch.Generator().manual_seed(0))
    assert float(warping_loss(batch.gt + noise, batch)) > 0.03


def test_jpeg_is_that_of_a_library(folder: Path) -> None:
    picture = cv2.imread(str(folder / "00.png"))[:70, :90]
    rgb = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None, None] / 255
    quality = torch.tensor([40.0, 75.0, 95.0, 0.0])
    made = jpeg(rgb.expand(4, -1, -1, -1, -1), quality)
    for ours, q in zip(made[:3], (40, 75, 95), strict=True):
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, q])[1]
        theirs = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        lost = np.abs(theirs - picture[..., ::-1]).mean()
        apart = np.abs(255 * ours[0].permute(1, 2, 0).numpy() - theirs).mean()
        assert apart < 0.35 * lost + 0.3, (q, apart, lost)
    assert torch.equal(made[3], rgb[0])


def test_blur_is_that_of_a_library(folder: Path) -> None:
    picture = cv2.imread(str(folder / "01.png"))[:60, :80].astype(np.float32) / 255
    kernels = degradation.draw_kernels(np.random.default_rng(4), (0.5, 2.0), (0.4, 1.0), 2)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None, None].expand(2, 1, -1, -1, -1)
    made = degradation.blur(x, kernels)
    for ours, kernel in zip(made, kernels, strict=True):
        flipped = kernel.numpy()[::-1, ::-1]  # filter2D correlates
        theirs = cv2.filter2D(picture, -1, flipped, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-5)


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    x = torch.full((2, 4, 3, 64, 64), 0.5)
    flat = torch.tensor([6.0, 0.0]), torch.tensor([0.0, 8.0])
    drawn = Pass(torch.ones(2, 1, 1), "area", *flat, torch.tensor([False, True]), torch.zeros(2))
    noise = 255 * (degradation.add_noise(x, drawn, torch.Generator().manual_seed(1)) - x)
    assert float(noise[0].std()) == pytest.approx(6.0, rel=0.03)
    assert float(noise[1].std()) == pytest.approx(8.0 * 0.5**0.5, rel=0.03)
    assert torch.equal(noise[1, :, 0], noise[1, :, 2])
    assert not torch.equal(noise[0, :, 0], noise[0, :, 2])


@pytest.mark.parametrize("kind", ["heavy", "mild", "clean"])
def test_lq_stays_registered_and_is_as_bad_as_the_recipes_make_it(kind: str, folder: Path) -> None:
    picture = cv2.imread(str(folder / "02.png"))[:128, :128, ::-1]
    gt = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, None] / 255
    gt = gt.expand(24, 2, -1, -1, -1)
    passes, factor = draw_passes(np.random.default_rng(6), kind, 24)
    lq = degrade_batch(gt, passes, factor, torch.Generator().manual_seed(0))
    assert torch.equal(lq, (255 * lq).round() / 255)
    recipe = replace(RECIPES["real" if kind == "heavy" else kind], crf=None)
    small = F.avg_pool2d(gt[:, 0], 4)
    ours = (255 * (lq[:, 0] - small)).abs().mean((1, 2, 3)).numpy()
    theirs = []
    for seed in range(12):
        frame = next(iter(degrade([picture] * 2, 4, recipe, seed))).astype(float)
        theirs.append(np.abs(frame - 255 * small[0].permute(1, 2, 0).numpy()).mean())
    assert (
        0.5 * np.median(theirs) - 0.3 < np.median(ours) < 2 * np.median(theirs) + 3
    )  # other kernels, too
    shifts = [
        float((lq[:, 0] - small.roll((dy, dx), (2, 3))).square().mean())
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert int(np.argmin(shifts)) == 4


def test_a_part_of_the_windows_has_noise_that_nothing_smoothed() -> None:
    passes, factor = draw_passes(np.random.default_rng(3), "noisy", 64)
    assert degradation.draw_coding(np.random.default_rng(3), "noisy") is None
    grey = torch.full((64, 2, 3, 64, 64), 0.5)
    lq = 255 * degrade_batch(grey, passes, factor, torch.Generator().manual_seed(0))
    (drawn,) = passes
    asked = (drawn.read**2 + drawn.shot**2 / 2).sqrt()
    assert lq.std((1, 2, 3, 4)).numpy() == pytest.approx(asked.numpy(), abs=0.8)
    apart = (lq[:, 0] - lq[:, 1]).std((1, 2, 3)) / 2**0.5  # new in every frame
    assert apart.numpy() == pytest.approx(asked.numpy(), abs=0.8)


@pytest.mark.parametrize("codec", list(degradation.CODECS))
def test_codecs_give_back_every_frame(codec: Any, folder: Path) -> None:
    picture = cv2.imread(str(folder / "03.png"))[:, :, ::-1]
    frames = np.stack([picture[t : t + 36, t : t + 32] for t in range(5)])
    good, bad = (coded(frames, Coding(codec, crf)) for crf in (18.0, 34.0))
    assert good.shape == bad.shape == frames.shape
    errors = [np.abs(made.astype(int) - frames).mean() for made in (good, bad)]
    assert 0 < errors[0] < errors[1] < 12
    small = [frames[:, : 16 + 4 * (k % 5), :16] for k in range(40)]
    once, again = ([coded(x, Coding(codec, 26.0)) for x in small] for _ in range(2))
    assert all(map(np.array_equal, once, again))


def same(a: Batch, b: Batch) -> bool:
    pairs = [(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


def test_batches_follow_from_seed_and_number(folder: Path) -> None:
    draw = Draw((1, 7), 3, 4, (16, 24))
    alone = Photos(folder, 2)
    first = [b for b, _ in zip(alone.batches(draw, 0, False), range(5), strict=False)]
    assert {b.lq.shape[-1] for b in first} == {16, 24}
    assert first[0].gt.shape[:3] == (3, 4, 3)
    beside = Photos(folder, 2, workers=1).batches(draw, 3, False)
    assert same(next(beside), first[3])  # another process, another start
    beside.close()
    other = next(alone.batches(replace(draw, seed=(2, 7)), 3, False))
    assert not same(other, first[3])
    assert same(alone.read_held_out(1, 3), Photos(folder, 2).read_held_out(1, 3))
    assert not same(alone.read_held_out(0, 3), alone.read_held_out(1, 3))


def test_photographs_for_tests_are_never_drawn(folder: Path) -> None:
    source, kept = Photos(folder, 2), set(list_test_photographs(folder))
    assert [p.stem for p in sorted(kept)] == ["00", "13"]
    assert not kept & {*source.paths, *source.validation}
    assert len(source.paths) == 12
    assert len(source.validation) == 2


def test_a_folder_without_use_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no photographs in"):
        Photos(tmp_path, 1)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((600, 500, 3), np.uint8))
    with pytest.raises(MissingError, match="too few photographs"):
        Photos(tmp_path, 1)
    for name in "bcd":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((600, 500, 3), np.uint8))
    source = Photos(tmp_path, 1)
    with pytest.raises(DataError, match=r"[bc]\.png is 500x600 px .*512 px at least"):
        source.batches(Draw((1,), 4, 2, (16,)), 0, False).__next__()


def test_the_trainer_learns_from_photographs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "RENDERED", 1)
    config, out = tmp_path / "c.toml", tmp_path / "x.safetensors"
    config.write_text("""
network = "vsrbench.methods.spynet:SpyNet"
holdout = 2
[config]
widths = [8, 4, 4, 4]
[[stages]]
name = "flow"
batch = 2
patch = [24]
lr = 1e-3
flow = 1.0
steps = 2
""")
    train.main([str(config), "--data", str(folder), "--out", str(out), "--device", "cpu"])
    from vsrbench.cards.weights import read_checkpoint

    note = read_checkpoint(out)[1]["note"]
    assert "12 moving photographs and 12% rendered textures (LQ 50% heavy, 20% mild" in note
    config.write_text(config.read_text().replace("holdout = 2", "holdout = 2\nclips = 4"))
    with pytest.raises(SystemExit, match="2"):
        train.main([str(config), "--data", str(folder), "--out", str(out), "--fresh"])
