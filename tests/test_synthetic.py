"""The embedded set: motion and occlusion are exact, rendering repeats, the cache is whole."""

from __future__ import annotations

import json
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from vsrbench.cards import specs
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import PairFlow
from vsrbench.data import synthetic
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import FrameWriter
from vsrbench.data.synthetic import stream, testset, textures
from vsrbench.data.synthetic.engine import Cut, Layer, Motion, Scene, SceneLike
from vsrbench.data.synthetic.testset import FRAMES, SCALE, SIZE, TESTS

CUT = FRAMES // 2 - 1
MOVING = [name for name in TESTS if name != "static"]


@pytest.fixture(scope="module", params=TESTS)
def scene(request: pytest.FixtureRequest) -> SceneLike:
    return synthetic.scene(request.param)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def within(scene: SceneLike) -> Iterator[int]:
    """Some t for which frames t and t+1 belong to one scene."""
    cut = isinstance(scene, Cut)
    return (t for t in (0, CUT + 1, FRAMES - 2) if not (cut and t == CUT))


def sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`image` (h, w) at p + flow(p) by cubic splines, which the library does not use."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
    return map_coordinates(image, (y + flow[..., 1], x + flow[..., 0]), order=3, mode="mirror")


def luma(frame: np.ndarray) -> np.ndarray:
    return frame @ np.array((0.299, 0.587, 0.114))


def grown(mask: np.ndarray, px: int = 2) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * px + 1, 2 * px + 1))).astype(bool)


def boundaries(flow: np.ndarray) -> np.ndarray:
    """Pixels whose neighbour moves differently by more than rotation and zoom can explain."""
    jump = np.zeros(flow.shape[:2], bool)
    jump[:, 1:] |= np.abs(np.diff(flow, axis=1)).max(axis=-1) > 0.2
    jump[1:] |= np.abs(np.diff(flow, axis=0)).max(axis=-1) > 0.2
    return grown(jump)


def gain(scene: SceneLike, t: int) -> float:
    return scene.gain(t) if isinstance(scene, Scene) and scene.gain else 1.0


def directions(scene: SceneLike, t: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    pair = scene.flow(t)
    yield t, t + 1, pair.forward, pair.occluded_forward
    yield t + 1, t, pair.backward, pair.occluded_backward


def test_flow_carries_each_frame_to_the_next(scene: SceneLike) -> None:
    """Frame b sampled along F_{a->b} is frame a, to 35 dB and without a bias of position."""
    for t in within(scene):
        for a, b, flow, occluded in directions(scene, t):
            here = luma(scene.frame(a))
            there = sample(luma(scene.frame(b)), flow) * gain(scene, a) / gain(scene, b)
            good = ~grown(occluded) & ~boundaries(flow)
            assert good.mean() > 0.6
            error = (here - there)[good]
            assert np.mean(error**2) < 255**2 / 10**3.5
            # Least-squares shift that explains the error, from the gradients of the frame.
            gradients = np.stack([g[good] for g in np.gradient(here)], axis=-1)
            shift, *_ = np.linalg.lstsq(gradients, error, rcond=None)
            assert np.abs(shift).max() < 0.02


def test_forward_and_backward_agree(scene: SceneLike) -> None:
    """F_{b->a} at p + F_{a->b}(p) is -F_{a->b}(p) wherever p is visible in both frames."""
    for t in within(scene):
        pair = scene.flow(t)
        for ab, ba, occluded in (
            (pair.forward, pair.backward, pair.occluded_forward),
            (pair.backward, pair.forward, pair.occluded_backward),
        ):
            at_seam = np.abs(sample(boundaries(ba).astype(float), ab)) > 1e-3
            good = ~grown(occluded) & ~boundaries(ab) & ~grown(at_seam)
            assert good.mean() > 0.5
            for i in range(2):
                assert np.abs(sample(ba[..., i], ab) + ab[..., i])[good].max() < 5e-3


def test_occlusion_is_where_frames_disagree() -> None:
    """In the clips with objects, unmasked pixels look the same in both frames, masked do not."""
    for name in ("photo-objects", "texture-parallax"):
        scene = synthetic.scene(name)
        pair = scene.flow(4)
        error = np.abs(luma(scene.frame(4)) - sample(luma(scene.frame(5)), pair.forward))
        inner = np.zeros(SIZE, bool)
        inner[12:-12, 12:-12] = True
        hidden = pair.occluded_forward & inner
        assert hidden.mean() > 0.003
        assert np.median(error[hidden]) > 10
        assert np.median(error[~pair.occluded_forward]) < 2


@pytest.mark.parametrize("name", TESTS)
def test_occluded_share_and_speed_are_sane(name: str) -> None:
    scene = synthetic.scene(name)
    for t in within(scene):
        pair = scene.flow(t)
        speed = np.hypot(pair.forward[..., 0], pair.forward[..., 1])
        assert speed.max() < 9
        for occluded in (pair.occluded_forward, pair.occluded_backward):
            assert occluded.mean() < 0.08
            if name in ("photo-objects", "texture-parallax", "light"):
                assert occluded[12:-12, 12:-12].any()
        if name in MOVING:
            assert speed.max() > 0.5


def square_scene(step: float) -> Scene:
    """A 20 px grey square that moves right by `step` over a still ground, in a 40 x 60 frame."""
    ground = np.zeros((80, 120, 3), np.float32)
    alpha = np.pad(np.ones((40, 40), np.float32), 4)
    square = Layer(np.full((48, 48, 3), 200, np.float32), Motion(velocity=(step, 0)), alpha)
    return Scene((Layer(ground, Motion()), square), (40, 60), 2)


def test_closed_form_of_a_moving_square() -> None:
    pair = square_scene(3.0).flow(0)
    expected = np.zeros((40, 60), bool)
    expected[10:30, 20:40] = True
    np.testing.assert_array_equal(pair.forward[..., 0], np.where(expected, 3, 0))
    np.testing.assert_array_equal(pair.forward[..., 1], 0)
    covered = np.zeros((40, 60), bool)
    covered[10:30, 40:43] = True
    np.testing.assert_array_equal(pair.occluded_forward, covered)
    uncovered = np.zeros((40, 60), bool)
    uncovered[10:30, 20:23] = True
    np.testing.assert_array_equal(pair.occluded_backward, uncovered)
    np.testing.assert_array_equal(pair.backward[..., 0], np.where(np.roll(expected, 3, 1), -3, 0))


def test_what_leaves_the_frame_is_occluded() -> None:
    rng = np.random.default_rng(0)
    texture = rng.uniform(0, 255, (100, 100, 3)).astype(np.float32)
    pair = Scene((Layer(texture, Motion(velocity=(2.5, -1))),), (40, 50), 2).flow(0)
    inside = np.zeros((40, 50), bool)
    inside[1:, :47] = True  # x + 2.5 <= 49, y - 1 >= 0
    np.testing.assert_array_equal(pair.occluded_forward, ~inside)
    np.testing.assert_allclose(pair.forward, np.broadcast_to((2.5, -1.0), (40, 50, 2)), atol=1e-5)


def test_rotation_and_zoom_in_closed_form() -> None:
    """p' - c = e^zoom R(spin) (p - c) about the centre c of the frame."""
    texture = np.zeros((200, 200, 3), np.float32)
    layer = Layer(texture, Motion(angle=0.4, spin=0.03, size=1.1, zoom=0.02))
    flow = Scene((layer,), (40, 50), 9).flow(7).forward
    y, x = np.mgrid[:40, :50] - np.array((19.5, 24.5))[:, None, None]
    z = (x + 1j * y) * (np.exp(0.02 + 0.03j) - 1)
    np.testing.assert_allclose(flow, np.stack((z.real, z.imag), -1), atol=1e-4)


def test_nothing_survives_the_cut() -> None:
    scene = synthetic.scene("cut")
    pair = scene.flow(CUT)
    assert pair.occluded_forward.all()
    assert pair.occluded_backward.all()
    assert not pair.forward.any()
    assert not pair.backward.any()
    assert not scene.flow(CUT - 1).occluded_forward.all()
    assert not scene.flow(CUT + 1).occluded_forward.all()


def test_static_clip_stands_still() -> None:
    scene = synthetic.scene("static")
    for t in range(FRAMES - 1):
        pair = scene.flow(t)
        for part in (pair.forward, pair.backward, pair.occluded_forward, pair.occluded_backward):
            assert not part.any()
        np.testing.assert_array_equal(scene.frame(t), scene.frame(t + 1))


def test_light_changes_the_brightness_smoothly() -> None:
    scene = synthetic.scene("light")
    level = np.array([scene.frame(t).mean() for t in range(FRAMES)])
    assert np.all(np.diff(level) > 0)
    assert level[-1] / level[0] > 1.4


def test_scenes_have_detail_that_lq_lacks() -> None:
    """Bicubic upscaling loses a lot on every clip, so there is something to win."""
    for name in TESTS:
        gt = synthetic.scene(name).frame(0)
        lq = degrade([gt], SCALE, RECIPES["clean"], 0)[0]
        up = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(float)
        assert 14 < 10 * np.log10(255**2 / np.mean((up - gt) ** 2)) < 34


def test_clips_are_rendered_once_and_repeat(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    clips = synthetic.clips(cache, said.append)
    assert [clip.name for clip in clips] == list(TESTS)
    assert len(said) == len(TESTS)
    assert len({clip.digest for clip in clips}) == len(TESTS)
    stamps = {p: p.stat().st_mtime_ns for p in cache.rglob("*.png")}
    assert [c.digest for c in synthetic.clips(cache, said.append)] == [c.digest for c in clips]
    assert len(said) == len(TESTS)
    assert stamps == {p: p.stat().st_mtime_ns for p in cache.rglob("*.png")}

    synthetic.scene.cache_clear()
    root = tmp_path / "again"
    testset._render("photo-objects", root)
    again, first = (
        testset._clip(root / "photo-objects"),
        clips[list(TESTS).index("photo-objects")],
    )
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.lq[5], first.lq[5])


def test_clips_hold_what_they_say(cache: Path) -> None:
    for clip in synthetic.clips(cache):
        clip = pickle.loads(pickle.dumps(clip))  # jobs travel to other processes
        assert clip.gt is not None
        assert clip.flow is not None
        assert (len(clip.lq), len(clip.gt), len(clip.flow)) == (FRAMES, FRAMES, FRAMES - 1)
        lq, gt = clip.lq[FRAMES - 1], clip.gt[-1]
        assert lq.shape == (*clip.size, 3) == (SIZE[0] // SCALE, SIZE[1] // SCALE, 3)
        assert gt.shape == (*SIZE, 3)
        assert lq.dtype == gt.dtype == np.uint8
        np.testing.assert_array_equal(gt, synthetic.scene(clip.name).frame(FRAMES - 1))
        pair = clip.flow[0]
        assert isinstance(pair, PairFlow)
        assert pair.forward.shape == pair.backward.shape == (*SIZE, 2)
        assert pair.forward.dtype == np.float32
        with pytest.raises(IndexError):
            clip.flow[FRAMES - 1]
        for a, b in zip(clip.lq[:2], clip.lq[1:3], strict=True):
            assert not np.array_equal(a, b)  # also on the static clip: noise is per frame


OLD_PROCESSOR = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX2 FMA3 X86_V4 X86_V3",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3,AVX,FP16",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
}
RENDER = """
import hashlib, json, sys
from pathlib import Path
from vsrbench.data import second_order, synthetic
made = {clip.name: clip.digest for clip in synthetic.clips(Path(sys.argv[1]))}
gt = [synthetic.scene("leaves-pan").frame(t) for t in range(4)]
leaf = hashlib.sha256(synthetic.scene("leaves-pan").layers[0].texture.tobytes())
for seed in range(3):
    lq = second_order.degrade(gt, 4, [seed])
    made[f"second-order {seed}"] = hashlib.sha256(b"".join(f.tobytes() for f in lq)).hexdigest()
print(json.dumps([made, leaf.hexdigest()]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names features of x86-64 processors")
def test_all_processors_render_the_same_frames(root: Path, cache: Path, tmp_path: Path) -> None:
    made = []
    for folder, features in ((cache, {}), (tmp_path, OLD_PROCESSOR)):
        argv = [sys.executable, "-c", RENDER, str(folder)]
        env = os.environ | features
        done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append(json.loads(done.stdout))
    (new, leaf), (old, other_leaf) = made
    assert new == old
    if leaf == other_leaf:
        pytest.skip("this processor has none of the features that were to be off")


def test_reference_results_are_of_these_frames(root: Path, cache: Path) -> None:
    """So that a run on any machine can be compared with them."""
    lines = (root / "results/reference/records.jsonl").read_text().splitlines()
    scored = {r["clip"]: r["clip_digest"] for r in map(json.loads, lines) if r["kind"] == "quality"}
    assert scored == {clip.name: clip.digest for clip in synthetic.clips(cache)}


def test_lq_is_registered_to_gt(cache: Path) -> None:
    """The best integer shift of the bicubic-upscaled LQ within 3 px is none, on every clip."""
    for clip in synthetic.clips(cache):
        assert clip.gt is not None
        gt = clip.gt[3].astype(np.float32)
        up = cv2.resize(clip.lq[3], SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
        errors = {
            (y, x): np.mean((np.roll(up, (y, x), (0, 1)) - gt)[8:-8, 8:-8] ** 2)
            for y in range(-3, 4)
            for x in range(-3, 4)
        }
        assert min(errors, key=errors.__getitem__) == (0, 0)


def test_interrupted_render_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = FrameWriter.write

    def fail_at_third(writer: FrameWriter, frame: np.ndarray) -> None:
        write(writer, frame)
        written.append(frame)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(FrameWriter, "write", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        synthetic.clips(tmp_path)
    assert len(written) == 3
    assert [p.name for p in tmp_path.rglob("*")] == [f"synthetic-v{synthetic.VERSION}"]


def test_second_process_may_be_first(tmp_path: Path) -> None:
    testset._render("static", tmp_path)
    stamp = (tmp_path / "static").stat().st_mtime_ns
    testset._render("static", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["static"]
    assert (tmp_path / "static").stat().st_mtime_ns == stamp


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    testset._render("static", tmp_path)
    about = tmp_path / "static" / "clip.json"
    for text in ("{}", "[]", '{"digest": 1}'):
        about.write_text(text)
        with pytest.raises(DataError, match=r"clip\.json is damaged"):
            testset._clip(tmp_path / "static")
    about.write_text('{"digest": "0"}')
    frame = tmp_path / "static" / "lq" / "00000002.png"
    frame.write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"00000002\.png"):
        testset._clip(tmp_path / "static").lq[2]
    frame.unlink()
    with pytest.raises(DataError, match="static is incomplete"):
        testset._clip(tmp_path / "static")


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*VSRBENCH_CACHE"):
        synthetic.clips(tmp_path / "file")


def test_spec_and_code_say_the_same(root: Path) -> None:
    spec = specs.dataset_spec(root, "synthetic")
    assert (spec.kind, spec.version) == ("embedded", synthetic.VERSION)
    assert (spec.scale, spec.fps) == (SCALE, testset.FPS)


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_repeat_and_flow_is_exact(seed: int) -> None:
    a, b = (
        synthetic.random_scene(np.random.default_rng(seed), size=(96, 120), frames=4)
        for _ in range(2)
    )
    assert (a.size, a.count) == ((96, 120), 4)
    np.testing.assert_array_equal(a.frame(2), b.frame(2))
    other = synthetic.random_scene(np.random.default_rng(seed + 100), size=(96, 120), frames=4)
    assert not np.array_equal(a.frame(2), other.frame(2))
    pair = a.flow(1)
    good = ~grown(pair.occluded_forward) & ~boundaries(pair.forward)
    here, there = luma(a.frame(1)), sample(luma(a.frame(2)), pair.forward)
    error = here - there * gain(a, 1) / gain(a, 2)
    assert np.median(np.abs(error[good])) < 4


def test_photographs_of_the_tests_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not set(stream.TRAIN_PHOTOS) & set(testset.TEST_PHOTOS)
    used = set()
    real = textures._photo

    def spy(name: str) -> np.ndarray:
        used.add(name)
        return real(name)

    monkeypatch.setattr(textures, "_photo", spy)
    for seed in range(40):
        synthetic.random_scene(np.random.default_rng(seed), size=(48, 48), frames=1)
    assert used
    assert used <= set(stream.TRAIN_PHOTOS)
    used.clear()
    for name in TESTS:
        TESTS[name][0](np.random.default_rng(0))
    assert used == set(testset.TEST_PHOTOS)
