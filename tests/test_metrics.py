"""Metrics: closed forms, independent implementations, real clips, and what happens when lacking."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vsrbench import metrics
from vsrbench.errors import DataError, MissingError, UserError
from vsrbench.frames import open_frames
from vsrbench.metrics import fidelity, load_metric, metric_info, unavailable
from vsrbench.types import PairFlow, Sample, Score

H, W = 48, 64


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
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


# the table


def test_table_is_consistent() -> None:
    for name, info in metrics.METRICS.items():
        assert name == info.name
        assert info.source
        assert info.range[0] < info.range[1]
        assert info.needs <= {"gt", "flow", "weights"}
        assert ("weights" in info.needs) == (name in metrics._REQUIREMENTS)


def test_unknown_metric_gets_a_suggestion() -> None:
    for call in (metric_info, load_metric, unavailable):
        with pytest.raises(UserError, match="Did you mean 'lpips'"):
            call("lipps")


@pytest.mark.parametrize("name", ["psnr", "ssim", "lr_psnr", "ewarp", "flicker"])
def test_metrics_without_weights_are_available(name: str) -> None:
    assert unavailable(name) is None
    assert load_metric(name) is not load_metric(name)


@pytest.mark.parametrize("name", ["psnr", "ssim", "lr_psnr", "ewarp", "flicker"])
def test_spans(name: str) -> None:
    score = run(name, pan(4), flow=motion(3, -2))
    assert len(score.per_frame) == {"frame": 4, "pair": 3}[metric_info(name).span]
    assert score.value == pytest.approx(np.mean(score.per_frame), abs=1e-12)


@pytest.mark.parametrize("name", ["psnr", "ssim", "lr_psnr", "ewarp", "flicker"])
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
    for name in ("ewarp", "flicker"):
        with pytest.raises(DataError, match="at least two frames"):
            run(name, pan(1))
    with pytest.raises(DataError, match="at least one frame"):
        run("psnr", [])


def test_missing_or_wrong_references() -> None:
    frame = texture()
    for name in ("psnr", "ssim"):
        with pytest.raises(DataError, match="ground truth"):
            load_metric(name).update(Sample(0, frame, frame, None, frame, None))
        with pytest.raises(DataError, match="output is 64x48, ground truth 60x48"):
            load_metric(name).update(Sample(0, frame, frame, frame[:, :60], frame, None))
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


def test_ssim_and_psnr_against_pyiqa(shared: Path) -> None:
    import pyiqa

    gt = read(shared / "real/clips-gt/vid4-calendar/001.png")
    sr = read(shared / "real/clips-gt/vid4-calendar-rbpn-out/0_RBPNF7.png")
    x, y = (torch.from_numpy(f).permute(2, 0, 1)[None] / 255 for f in (sr, gt))
    theirs = {m: float(pyiqa.create_metric(m, device="cpu")(x, y)) for m in ("psnr", "ssim")}
    assert fidelity.ssim(sr, gt) == pytest.approx(theirs["ssim"], abs=5e-6)
    assert fidelity.psnr(sr, gt) == pytest.approx(theirs["psnr"], abs=1e-4)


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


def test_lr_psnr(shared: Path) -> None:
    lq = np.full((12, 16, 3), 90, np.uint8)
    assert fidelity.lr_psnr(np.full((48, 64, 3), 90, np.uint8), lq) == 80.0
    grey = fidelity.lr_psnr(np.full((48, 64, 3), 95, np.uint8), lq)
    assert grey == pytest.approx(20 * np.log10(255 / 5), abs=1e-9)
    for wrong in ((47, 64), (48, 60), (10, 16)):
        with pytest.raises(DataError, match="whole multiple"):
            fidelity.lr_psnr(np.zeros((*wrong, 3), np.uint8), lq)
    sr = read(shared / "real/clips-gt/vid4-calendar-rbpn-out/0_RBPNF7.png")
    lq = read(shared / "real/clips-gt/vid4-calendar-lr-bd4/0001.png")
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


def test_best_shift_tells_the_phase_of_real_lq(shared: Path) -> None:
    """Every fourth pixel was kept, so a centre-aligned enlargement lies 1.5 px off."""
    gt = read(shared / "real/clips-gt/vid4-calendar/001.png")
    lq = read(shared / "real/clips-gt/vid4-calendar-lr-bd4/0001.png")
    dy, dx, at_zero, at_best = fidelity.best_shift(bicubic(lq, (720, 576)), gt)
    assert dy in (1, 2)
    assert dx in (1, 2)
    assert at_best > at_zero + 1
    aligned = bicubic(bicubic(gt, (180, 144)), (720, 576))
    assert fidelity.best_shift(aligned, gt)[:2] == (0, 0)


# temporal


def test_static_clip_is_perfect() -> None:
    frames = [texture()] * 3
    assert run("ewarp", frames, flow=motion(0, 0)).per_frame == (0.0, 0.0)
    assert run("flicker", frames).per_frame == (0.0, 0.0)


@pytest.mark.parametrize("step", [(3, -2), (-4, 1), (0, 5)])
def test_ewarp_of_exact_motion_is_zero(step: tuple[int, int]) -> None:
    score = run("ewarp", pan(4, *step), flow=motion(*step))
    assert score.value == pytest.approx(0, abs=1e-6)
    seen = (W - abs(step[0])) * (H - abs(step[1])) / (W * H)
    assert score.extra["valid_ratio"] == pytest.approx(seen)
    wrong = run("ewarp", pan(4, *step), flow=motion(step[0] + 1, step[1]))
    assert wrong.value > 1


@pytest.mark.parametrize("step", [(0, 0), (3, -2)])
def test_flicker_of_known_amplitude(step: tuple[int, int]) -> None:
    reference = pan(4, *step)
    sr = [f + np.uint8(8 * (t % 2)) for t, f in enumerate(reference)]
    error = 1000 * (8 / 255) ** 2
    assert run("ewarp", sr, reference, motion(*step)).per_frame == pytest.approx([error] * 3)
    flicker = run("flicker", sr, reference)
    if step == (0, 0):
        assert flicker.per_frame == (8.0, 8.0, 8.0)
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
    with pytest.raises(DataError, match="no pixel"):
        run("ewarp", frames[1:3], flow=motion(0, 0, everything))


def test_bicubic_is_smoother_than_the_ground_truth(shared: Path) -> None:
    """The known weakness of warping errors, which is why reference rows stand beside them."""
    from vsrbench.flow import Dis

    real = shared / "real/clips-gt/vid4-calendar"
    gt = [read(real / f"00{i}.png")[:288, :360] for i in (1, 2)]
    soft = [bicubic(bicubic(f, (90, 72)), (360, 288)) for f in gt]
    pair = PairFlow(Dis().estimate(*gt), Dis().estimate(*gt[::-1]))
    of_gt, of_soft = (run("ewarp", f, gt, pair) for f in (gt, soft))
    assert of_gt.extra == of_soft.extra
    assert 0.7 < of_gt.extra["valid_ratio"] < 1
    assert 0 < of_soft.value < of_gt.value < 20


# perceptual


@pytest.fixture
def weights(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shared / "real/weights"))
    return shared / "real/weights"


def test_niqe_equals_pyiqa(shared: Path, weights: Path) -> None:
    import pyiqa

    frame = read(shared / "real/clips-gt/vid4-calendar/001.png")[:300, :400]
    theirs = pyiqa.create_metric(
        "niqe", device="cpu", pretrained_model_path=str(weights / "niqe_modelparameters.mat")
    )
    expected = float(theirs(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255))
    score = run("niqe", [frame])
    assert score.value == pytest.approx(expected, abs=1e-9)
    assert 2 < score.value < 10


def test_niqe_reads_basicsr_parameters(
    shared: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = texture(192, 192)
    source = shared / "real/weights"
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


def package_value(
    name: str, features: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> Callable[[np.ndarray, np.ndarray], float]:
    """The package's own network, its backbone taken from `features`."""
    model = {"lpips": "alexnet", "dists": "vgg16"}[name]
    monkeypatch.setattr(
        torchvision.models, model, lambda pretrained: SimpleNamespace(features=features)
    )
    if name == "lpips":
        import lpips

        net = lpips.LPIPS(net="alex", verbose=False)
    else:
        from DISTS_pytorch import DISTS

        net = DISTS(load_weights=False)
        mixing = torch.load(
            Path(sys.modules["DISTS_pytorch"].__file__).with_name("weights.pt"), weights_only=True
        )
        net.alpha.data, net.beta.data = mixing["alpha"], mixing["beta"]
    monkeypatch.undo()

    def value(a: np.ndarray, b: np.ndarray) -> float:
        x, y = (torch.from_numpy(f).permute(2, 0, 1)[None] / 127.5 - 1 for f in (a, b))
        if name == "dists":
            x, y = (x + 1) / 2, (y + 1) / 2
        with torch.no_grad():
            return float(net.eval()(x, y))

    return value


@pytest.mark.parametrize(("name", "model"), [("lpips", "alexnet"), ("dists", "vgg16")])
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
    theirs = package_value(name, features, monkeypatch)
    expected = [theirs(a, b) for a, b in zip(sr, gt, strict=True)]
    assert min(expected) > 1e-4
    assert score.per_frame == pytest.approx(expected, rel=1e-4)


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
    "dists": "vgg16-397923af.pth",
    "niqe": "niqe_modelparameters.mat",
}


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
        need = replace(metrics._REQUIREMENTS["lpips"], url=url, sha256=sha256)
        monkeypatch.setattr(metrics, "_REQUIREMENTS", {"lpips": need})

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
    folder = tmp_path / "torch/hub/checkpoints"
    online(f"{server}/nothing.pth")
    assert "404" in str(unavailable("lpips"))
    online(f"{server}/alexnet-owt-7be5be79.pth", "7be5be79")
    assert "hash" in str(unavailable("lpips"))
    assert not list(folder.iterdir())
    online(f"{server}/alexnet-owt-7be5be79.pth")
    assert "downloaded at first use" in str(unavailable("lpips", fetch=False))
    assert unavailable("lpips") is None
    assert [f.name for f in folder.iterdir()] == ["alexnet-owt-7be5be79.pth"]
    assert unavailable("lpips", fetch=False) is None
    assert run("lpips", [texture()]).value == 0


def test_silent_server_does_not_hold_up(
    online: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth")
        start = time.monotonic()
        error = unavailable("lpips")
        assert time.monotonic() - start < 5
    assert error is not None
    assert "weights.pth" in error.message
    assert "download failed" in error.message


def test_package_that_cannot_be_imported(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "pyiqa"]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa/__init__.py").write_text("raise ImportError('built for another torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    metrics._import_failure.cache_clear()
    try:
        error = unavailable("niqe")
        assert error is not None
        assert "built for another torch" in error.message
        assert unavailable("niqe", fetch=False) is None
        assert unavailable("psnr") is None
    finally:
        metrics._import_failure.cache_clear()


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    error = unavailable("lpips")
    assert error is not None
    assert error.hint == "pip install lpips"
