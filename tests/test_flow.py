"""Flow: warping, masks against transcriptions, estimators on known motion, the cache."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.optical_flow.raft import CorrBlock

from vsrbench.cards.weights import read_checkpoint
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import PairFlow
from vsrbench.flow import estimators as flow
from vsrbench.flow import masks, winograd
from vsrbench.flow import raft as raft_network
from vsrbench.flow.cache import ReferenceFlow
from vsrbench.flow.warp import warp


def constant(dx: float, dy: float, h: int = 24, w: int = 30) -> np.ndarray:
    return np.tile(np.float32([dx, dy]), (h, w, 1))


def smooth(rng: np.random.Generator, h: int, w: int, amplitude: float) -> np.ndarray:
    noise = rng.normal(size=(h, w, 2)).astype(np.float32)
    return amplitude * cv2.GaussianBlur(noise, (0, 0), 4) * 12


@pytest.fixture(scope="module")
def city(real: Path) -> np.ndarray:
    picture = cv2.imread(str(real / "clips-gt/vid4-city/001.png"))
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def test_warp_copies_whole_pixels_exactly_and_clamps() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    out = warp(image, constant(3, -2))
    np.testing.assert_array_equal(out[2:, :-3], image[:-2, 3:])
    np.testing.assert_array_equal(out[:, -4:-1], np.repeat(out[:, -1:], 3, axis=1))
    np.testing.assert_array_equal(warp(image, constant(1e6, 1e6))[5, 5], image[-1, -1])


def test_warp_is_exact_on_a_linear_ramp() -> None:
    rows, cols = np.mgrid[:24, :30].astype(np.float64)
    image = np.stack((2 * cols + 3 * rows,), -1)
    out = warp(image, constant(0.375, 0.75))
    np.testing.assert_allclose(out[:-1, :-1], image[:-1, :-1] + 0.75 + 2.25, atol=1e-12)


def test_warp_agrees_with_grid_sample() -> None:
    rng = np.random.default_rng(1)
    image, field = rng.random((40, 56, 3)), smooth(rng, 40, 56, 3.0)
    rows, cols = np.mgrid[:40, :56]
    grid = np.stack((cols + field[..., 0], rows + field[..., 1]), -1) * 2 / (55, 39) - 1
    theirs = F.grid_sample(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        torch.from_numpy(grid)[None],
        padding_mode="border",
        align_corners=True,
    )
    np.testing.assert_allclose(warp(image, field), theirs[0].permute(1, 2, 0), atol=1e-10)


def lai_mask(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """The two tests of Lai et al., one pixel after the other, in float64."""
    forward, backward = forward.astype(np.float64), backward.astype(np.float64)
    h, w = forward.shape[:2]
    out = np.zeros((h, w), bool)
    for y in range(h):
        for x in range(w):
            f = forward[y, x]
            px, py = min(max(x + f[0], 0), w - 1), min(max(y + f[1], 0), h - 1)
            x0, y0 = int(px), int(py)
            x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
            ax, ay = px - x0, py - y0
            upper = (1 - ax) * backward[y0, x0] + ax * backward[y0, x1]
            lower = (1 - ax) * backward[y1, x0] + ax * backward[y1, x1]
            b = (1 - ay) * upper + ay * lower
            occluded = ((f + b) ** 2).sum() > 0.01 * ((f**2).sum() + (b**2).sum()) + 0.5
            across = forward[y, x + 1] - f if x + 1 < w else np.zeros(2)
            down = forward[y + 1, x] - f if y + 1 < h else np.zeros(2)
            edge = (across**2).sum() + (down**2).sum() > 0.01 * (f**2).sum() + 0.002
            out[y, x] = occluded or edge
    return out


def test_occlusion_mask_equals_transcription() -> None:
    rng = np.random.default_rng(2)
    forward = smooth(rng, 40, 56, 1.0)
    forward[10:20, 15:30] += (4, -3)
    backward = -warp(forward, -forward).astype(np.float32) + smooth(rng, 40, 56, 0.3)
    mask = masks.occlusion_mask(forward, backward)
    assert 0.1 < mask.mean() < 0.9
    np.testing.assert_array_equal(mask, lai_mask(forward, backward))


def test_occlusion_mask_of_consistent_motion_is_empty() -> None:
    assert not masks.occlusion_mask(constant(5, 2), constant(-5, -2)).any()
    assert masks.occlusion_mask(constant(5, 2), constant(5, 2)).all()


def test_visible_mask_leaves_out_what_leaves_the_frame() -> None:
    visible = masks.visible_mask(PairFlow(constant(3, -2), constant(-3, 2)))
    expected = np.zeros((24, 30), bool)
    expected[2:, :-3] = True
    np.testing.assert_array_equal(visible, expected)


def test_exact_occlusion_replaces_the_estimate() -> None:
    hidden = np.zeros((24, 30), bool)
    hidden[5, 6] = True
    inconsistent = PairFlow(constant(0, 0), constant(9, 9), occluded_forward=hidden)
    np.testing.assert_array_equal(masks.visible_mask(inconsistent), ~hidden)


def assert_finds_roll(estimator: flow.Estimator, picture: np.ndarray, error_px: float) -> None:
    found = estimator.estimate(picture, np.roll(picture, (3, -5), (0, 1)))
    assert found.shape == (*picture.shape[:2], 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.median(found, (0, 1)), (-5, 3), atol=error_px)


def test_raft_finds_a_roll(shared: Path, city: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shared / "real/weights"))
    raft = flow.best_estimator()
    assert raft.name == "raft_small"
    assert raft.identity == "raft_small-v2-12-c7d41b9cc88442bb"
    # The whole frame: on crops of a third of it the error grows to about 0.12 px.
    assert_finds_roll(raft, city, 0.1)
    assert_finds_roll(raft, city[100:200, 100:233], 0.3)


@pytest.mark.parametrize("kind", ["raft_small", "raft_large"])
def test_raft_equals_the_forward_of_torchvision(
    kind: str, real: Path, tmp_path: Path, city: np.ndarray
) -> None:
    from torchvision.models import optical_flow

    torch.manual_seed(0)
    theirs = getattr(optical_flow, kind)(weights=None).eval()
    path = tmp_path / "raft.pth"
    if kind == "raft_small":
        path = real / "weights/raft-small.pth"
        theirs.load_state_dict(raft_network._torchvision_names(read_checkpoint(path)[0]))
    else:
        torch.save(theirs.state_dict(), path)
    ours = raft_network.RaftNetwork(kind, path, "cpu")
    tensors = [
        torch.from_numpy(city[i : i + 136, 2 * i : 2 * i + 184]).permute(2, 0, 1) / 127.5 - 1
        for i in (100, 102, 103)
    ]
    for a, b in pairwise(tensors):
        for found, (x, y) in zip(ours.between(a, b, 8), ((a, b), (b, a)), strict=True):
            with torch.no_grad():
                expected = theirs(x[None], y[None], num_flow_updates=8)[-1][0].permute(1, 2, 0)
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_raft_encodes_each_frame_of_a_clip_once(real: Path, city: np.ndarray) -> None:
    network = flow.Raft("raft_small", real / "weights/raft-small.pth").net
    seen = []
    network._net.feature_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(1))
    frames = [torch.from_numpy(city[i : i + 128, :128]).permute(2, 0, 1) / 255 for i in range(4)]
    for a, b in pairwise(frames):
        network.between(a, b, 1)
    assert len(seen) == 4


def test_raft_on_frames_too_large_to_keep_all_correlations(
    real: Path, city: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = flow.Raft("raft_small", real / "weights/raft-small.pth").net
    a, b = (
        torch.from_numpy(city[i : i + 144, 2 * i : 2 * i + 184]).permute(2, 0, 1) / 127.5 - 1
        for i in (100, 102)
    )
    kept = network.between(a, b, 12)
    sizes = []

    def correlate(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> None:
        sizes.append(out.numel())
        all_of_them(x, y, out)

    all_of_them = raft_network._correlate
    monkeypatch.setattr(raft_network, "_correlate", correlate)
    monkeypatch.setattr(raft_network, "KEPT", 18 * 23 - 1)
    monkeypatch.setattr(raft_network, "BAND", 18 * 23 * 23 * 4)  # does not divide the 18 rows
    for found, expected in zip(network.between(a, b, 12), kept, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert max(sizes) == raft_network.BAND
    monkeypatch.setattr(raft_network, "KEPT", 18 * 23)
    for found, expected in zip(network.between(a, b, 12), kept, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert max(sizes) == (18 * 23) ** 2


@pytest.mark.parametrize("turned", [False, True])
def test_correlations_are_looked_up_as_by_a_sampler(
    turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_network, "AT_A_TIME", 100)  # does not divide the pixels
    h, w, radius = 18, 23, 3
    a, b = torch.randn(2, 1, 16, h, w, generator=torch.Generator().manual_seed(0))
    pyramid = raft_network._Pyramid(CorrBlock(num_levels=2, radius=radius), a, h)
    pyramid.fill(a, b)
    if turned:
        pyramid.turn(b, a)
        a, b = b, a
    places = torch.rand(2, h * w) * 80 - 30
    places[:, :4] = torch.tensor([[0, w - 1, -3e9, 3e9], [h - 1, 0, 0, -3e9]])
    reach = torch.arange(-radius, radius + 1.0)
    around = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1)
    expected = []
    for level, x in enumerate((b, F.avg_pool2d(b, 2))):
        volume = torch.einsum("xcij,xckl->ijkl", a, x).view(-1, 1, *x.shape[2:]) / 16**0.5
        side = torch.tensor(x.shape[:1:-1]) - 1
        grid = 2 * (places.T[:, None, None] / 2**level + around) / side - 1
        found = F.grid_sample(volume, grid, align_corners=True)
        expected.append(found.flatten(1))
    torch.testing.assert_close(pyramid.look_up(places), torch.cat(expected, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (18, 23), (40, 6)])
def test_quick_convolutions_equal_those_of_torch(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_AT_A_TIME", 8 * 70 * 6)  # 2 strips of rows at a time, or 1
    torch.manual_seed(0)
    layer = nn.Conv2d(70, 64, 3, padding=1).requires_grad_(False)
    parts = torch.randn(2, 30, *size), torch.randn(2, 40, *size)
    x = torch.cat(parts, 1)
    stack = nn.Sequential(nn.Sequential(layer), nn.ReLU())
    expected = stack(x)
    winograd.quicken(stack)
    torch.testing.assert_close(stack(x), expected, atol=1e-5, rtol=1e-5)
    quick = winograd.Convolution(layer.weight)
    torch.testing.assert_close(
        quick(*parts), F.conv2d(x, layer.weight, padding=1), atol=1e-5, rtol=1e-5
    )


def test_only_convolutions_that_gain_are_replaced() -> None:
    layers = [
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=1, dilation=2),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Conv2d(64, 64, 5, padding=1),
    ]
    stack = nn.Sequential(*layers)
    winograd.quicken(stack)
    assert list(stack) == layers


def test_raft_never_asks_cudnn_for_a_look_up(
    real: Path, city: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 65,536 pixels an eighth of a side, cuDNN's sampler fails: pytorch issue 88380."""
    raft = flow.Raft("raft_small", real / "weights/raft-small.pth")
    monkeypatch.setattr(torch.nn.functional, "grid_sample", lambda *_, **__: pytest.fail("cuDNN"))
    monkeypatch.setattr(torch, "grid_sampler", lambda *_, **__: pytest.fail("cuDNN"))
    assert raft.estimate(city[:128, :128], city[:128, :128]).shape == (128, 128, 2)


def test_raft_takes_any_size(real: Path, city: np.ndarray) -> None:
    raft = flow.Raft("raft_small", real / "weights/raft-small.pth")
    field = raft.estimate(city[100:200, 100:233], city[101:201, 100:233])
    assert field.shape == (100, 133, 2)
    assert np.isfinite(field).all()


def test_raft_refuses_other_files(real: Path) -> None:
    with pytest.raises(DataError, match=r"raft_small from realesr-animevideov3\.pth"):
        flow.Raft("raft_small", real / "weights/realesr-animevideov3.pth")
    with pytest.raises(DataError, match=r"raft_large from raft-small\.pth"):
        flow.Raft("raft_large", real / "weights/raft-small.pth")


def test_raft_refuses_a_file_with_other_shapes(real: Path, tmp_path: Path) -> None:
    path = real / "weights/raft-small.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    key = next(iter(state))
    state[key] = state[key][:1]
    torch.save(state, tmp_path / "raft-small.pth")
    with pytest.raises(DataError, match="does not fit"):
        flow.Raft("raft_small", tmp_path / "raft-small.pth")


def test_better_raft_files_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path))
    state = raft_large(weights=None).state_dict()
    assert list(flow.RAFT_FILES.values()) == ["raft_large", *["raft_things"] * 2, "raft_small"]
    for file in list(flow.RAFT_FILES)[1::-1]:
        torch.save(state, tmp_path / file)
        best = flow.best_estimator()
        assert best.name == flow.RAFT_FILES[file]
        assert flow.best_estimator() is best
    frame = np.zeros((30, 50, 3), np.uint8)
    assert best.estimate(frame, frame).shape == (30, 50, 2)


class Residual(nn.Module):
    """The authors' RAFT, from here on: their names, so that their checkpoints have them too."""

    def __init__(self, width: int, out: int, norm: type[nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.norm1, self.norm2 = norm(out), norm(out)
        self.downsample = None
        if stride > 1:
            self.norm3 = norm(out)
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride), self.norm3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        return ((self.downsample(x) if self.downsample else x) + y).relu()


class Encoder(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(64), nn.Conv2d(3, 64, 7, 2, 3)
        for i, (width, out) in enumerate(((64, 64), (64, 96), (96, 128)), start=1):
            blocks = Residual(width, out, norm, min(i, 2)), Residual(out, out, norm, 1)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.conv2 = nn.Conv2d(128, 256, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convc1, self.convc2 = nn.Conv2d(324, 256, 1), nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, 126, 3, padding=1)

    def forward(self, motion: torch.Tensor, correlation: torch.Tensor) -> torch.Tensor:
        c = self.convc2(self.convc1(correlation).relu()).relu()
        f = self.convf2(self.convf1(motion).relu()).relu()
        return torch.cat((self.conv(torch.cat((c, f), 1)).relu(), motion), 1)


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, size in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                conv = nn.Conv2d(384, 128, size, padding=tuple(s // 2 for s in size))
                self.add_module(f"conv{gate}{i}", conv)

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        for i in (1, 2):
            z = getattr(self, f"convz{i}")(torch.cat((h, x), 1)).sigmoid()
            r = getattr(self, f"convr{i}")(torch.cat((h, x), 1)).sigmoid()
            q = getattr(self, f"convq{i}")(torch.cat((r * h, x), 1)).tanh()
            h = (1 - z) * h + z * q
        return h


class Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru = MotionEncoder(), Gru()
        self.flow_head = nn.Module()
        self.flow_head.conv1 = nn.Conv2d(128, 256, 3, padding=1)
        self.flow_head.conv2 = nn.Conv2d(256, 2, 3, padding=1)
        layers = nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 576, 1)
        self.mask = nn.Sequential(*layers)


def test_raft_reads_the_checkpoints_of_its_authors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = nn.Module()
    theirs.fnet, theirs.cnet = Encoder(nn.InstanceNorm2d), Encoder(nn.BatchNorm2d)
    theirs.update_block = Update()
    for name, value in theirs.named_buffers():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 * ("var" in name))
    for name, value in theirs.named_parameters():
        if "norm" in name or "downsample.1" in name:
            value.data.uniform_(0.5, 1.5)
    path = tmp_path / "raft-things.pth"
    torch.save({f"module.{k}": v for k, v in theirs.state_dict().items()}, path)
    theirs.eval()
    raft = flow.raft(path)
    ours = raft.net._net
    assert raft.name == "raft_things"
    with torch.no_grad():
        picture = torch.rand(1, 3, 64, 72) * 2 - 1
        for mine, their in (
            (ours.feature_encoder, theirs.fnet),
            (ours.context_encoder, theirs.cnet),
        ):
            torch.testing.assert_close(mine(picture), their(picture), atol=1e-5, rtol=1e-5)
        correlation, motion = torch.rand(1, 324, 8, 9), torch.rand(1, 2, 8, 9)
        hidden, context = torch.rand(1, 128, 8, 9), torch.rand(1, 128, 8, 9)
        after, step = ours.update_block(hidden, context, correlation, motion)
        block = theirs.update_block
        inputs = torch.cat((context, block.encoder(motion, correlation)), 1)
        expected = block.gru(hidden, inputs)
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
        head = block.flow_head.conv2(block.flow_head.conv1(expected).relu())
        torch.testing.assert_close(step, head, atol=1e-5, rtol=1e-5)
        mask = 0.25 * block.mask(expected)
        torch.testing.assert_close(ours.mask_predictor(after), mask, atol=1e-5, rtol=1e-5)


def test_farneback_has_the_constants_of_tecogan(city: np.ndarray) -> None:
    a, b = city[100:260, 100:300], city[98:258, 103:303]
    grey = [np.rint(f @ np.array([0.299, 0.587, 0.114])).astype(np.uint8) for f in (a, b)]
    theirs = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    found = flow.Farneback().estimate(a, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs, atol=0.02)
    np.testing.assert_allclose(np.median(found, (0, 1)), (-3, 2), atol=0.05)


def test_dis_finds_a_roll(city: np.ndarray) -> None:
    assert_finds_roll(flow.Dis(), city, 0.25)
    assert flow.Dis().estimate(city[:7, :9], city[:7, :9]).shape == (7, 9, 2)


def test_both_flows_of_dis_are_the_same_on_two_threads(
    city: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = city[100:260, 100:300], city[98:258, 103:303]
    for threads in (1, 2):
        monkeypatch.setattr(cv2, "getNumThreads", lambda: threads)  # noqa: B023
        pair = flow.Dis().both(a, b)
        np.testing.assert_array_equal(pair.forward, flow.Dis().estimate(a, b))
        np.testing.assert_array_equal(pair.backward, flow.Dis().estimate(b, a))


def test_best_estimator_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VSRBENCH_WEIGHTS", raising=False)
    assert flow.best_estimator().name == "dis"
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path))
    assert flow.best_estimator().name == "dis"


class Counting(flow.Estimator):
    """Flow that tells which frames it saw, and how often it was asked."""

    name = "counting"

    def __init__(self, identity: str = "counting-1") -> None:
        self.identity, self.calls = identity, 0

    def estimate(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.full((*a.shape[:2], 2), a[0, 0, 0] + b[0, 0, 0] / 1000 + 0.1, np.float32)


def test_reference_flow_is_cached_and_rounded_alike(tmp_path: Path) -> None:
    frames = [np.full((4, 5, 3), i, np.uint8) for i in range(4)]
    counting = Counting()
    fresh = ReferenceFlow(frames, counting, "digest", tmp_path, pytest.fail)
    assert len(fresh) == 3
    assert counting.calls == 0
    pairs = list(fresh)
    assert len(pairs) == 3
    assert counting.calls == 6
    assert pairs[1].forward[0, 0, 0] == np.float16(1.102)
    assert pairs[1].backward[0, 0, 0] == np.float16(2.101)
    again = ReferenceFlow(frames, counting, "digest", tmp_path, pytest.fail)
    np.testing.assert_array_equal(again[-1].forward, pairs[2].forward)
    np.testing.assert_array_equal([p.backward for p in again[:2]], [p.backward for p in pairs[:2]])
    assert counting.calls == 6
    assert again[0].forward.dtype == np.float32
    with pytest.raises(IndexError):
        again[3]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".npy"]


def test_reference_flow_keys_by_clip_and_estimator(tmp_path: Path) -> None:
    frames = [np.full((4, 5, 3), i, np.uint8) for i in range(2)]
    for digest, identity in (("a", "x"), ("b", "x"), ("a", "y")):
        counting = Counting(identity)
        assert ReferenceFlow(frames, counting, digest, tmp_path, pytest.fail)[0]
        assert counting.calls == 2
    assert len(ReferenceFlow(frames[:1], Counting(), "a", tmp_path, pytest.fail)) == 0


def test_a_cut_flow_is_estimated_again(tmp_path: Path) -> None:
    frames = [np.full((4, 5, 3), i, np.uint8) for i in range(2)]
    made = ReferenceFlow(frames, Counting(), "a", tmp_path, pytest.fail)
    first = made[0].forward
    (file,) = tmp_path.rglob("*.npy")
    for size in (0, 20, 150):
        file.write_bytes(file.read_bytes()[:size])
        np.testing.assert_array_equal(made[0].forward, first)
        assert file.stat().st_size == 128 + 8 * 4 * 5


def test_the_cache_keeps_what_was_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [np.full((40, 50, 3), i, np.uint8) for i in range(3)]
    notes: list[str] = []

    def calls(digest: str) -> int:
        counting = Counting()
        list(ReferenceFlow(frames, counting, digest, tmp_path, notes.append))
        time.sleep(0.02)  # file systems tell times apart that differ by that much
        return counting.calls

    clip = 2 * 8 * 40 * 50 / 2**30
    monkeypatch.setenv("VSRBENCH_CACHE_GIB", str(2.5 * clip))
    assert [calls(c) for c in "ababcacb"] == [4, 4, 0, 0, 4, 4, 0, 4]
    assert len(list(tmp_path.iterdir())) == 2
    assert not notes
    monkeypatch.setenv("VSRBENCH_CACHE_GIB", str(0.5 * clip))
    assert [calls("d"), calls("c")] == [4, 0]
    assert len(set(notes)) == 1
    assert "one clip takes" in notes[0]
    monkeypatch.setenv("VSRBENCH_CACHE_GIB", "plenty")
    with pytest.raises(UserError, match="VSRBENCH_CACHE_GIB is 'plenty'"):
        calls("e")


def test_metrics_table_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'cv2', 'scipy', 'PIL'}"
    code = f"import sys, vsrbench.metrics; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
