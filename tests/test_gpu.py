"""What only a GPU can show: `pytest -m gpu -n 0`. The default run leaves these out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from vsrbench.methods.training.config import Config, Stage
from vsrbench.methods.training.pool import render_pool
from vsrbench.methods.training.trainer import Trainer

from tests.test_cli import Run, bench, run  # noqa: F401
from tests.test_contract import drifting, ready
from tests.test_executors import clips, scores
from vsrbench.cards import specs
from vsrbench.cards.specs import ROOT
from vsrbench.core.types import MethodCard
from vsrbench.flow.raft import RaftNetwork
from vsrbench.run import cost
from vsrbench.run.method import load_method, no_tf32, set_scale, upscale

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def exact() -> None:
    no_tf32()


def frames(card: MethodCard, precision: str, device: str) -> np.ndarray:
    card = replace(card, precision=precision)
    method = load_method(card, device)
    return np.stack(list(upscale(method, card, drifting(6, 1), device))).astype(float)


@pytest.mark.parametrize("card", ready(), ids=lambda card: card.name)
def test_a_gpu_makes_the_same_frames(card: MethodCard) -> None:
    """fp32 to the last grey level or two; half precision within what nobody sees."""
    known = frames(card, "fp32", "cpu")
    apart = np.abs(frames(card, "fp32", DEVICE) - known)
    assert apart.max() <= 2
    assert apart.mean() < 0.01
    half = np.abs(frames(card, "fp16", DEVICE) - known)
    assert half.mean() < 0.5


def test_scores_do_not_depend_on_the_device(run: Run, tmp_path: Path) -> None:  # noqa: F811
    given = ["--input", clips(tmp_path / "lq", "ab"), "--gt", clips(tmp_path / "gt", "ab", gt=True)]
    asked = ["--methods", "lanczos", *given, "--no-cost"]
    found = []
    for devices in ("cpu", DEVICE, f"{DEVICE}:0,{DEVICE}:0"):
        assert run(*asked, "--device", devices, results=devices)[0] == 0
        found.append(scores(tmp_path / devices))
    for key, (identity, value, *_) in found[0].items():
        for other in found[1:]:
            assert other[key][0] == identity
            if value is not None:
                assert other[key][1] == pytest.approx(value, rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("side", [256, 1024, 2048])
def test_raft_finds_the_same_motion(side: int, shared: Path) -> None:
    """Whatever its batches come to: 2048x2048 has 65536 points, more than cuDNN samples at."""
    file = shared / "real" / "weights" / "raft-small.pth"
    noise = np.random.default_rng(0).random((side // 8 + 4, side // 8 + 4, 3)).astype(np.float32)
    wide = cv2.resize(noise, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    pair = [torch.from_numpy(2 * wide[8 : side + 8, 8 + t : side + 8 + t] - 1) for t in (0, 3)]
    a, b = (frame.permute(2, 0, 1).contiguous() for frame in pair)
    forward, backward = RaftNetwork("raft_small", file, DEVICE).between(a, b, 12)
    middle = slice(side // 4, -side // 4)
    assert np.median(forward[middle, middle, 0]) == pytest.approx(-3, abs=0.3)
    assert np.median(backward[middle, middle, 0]) == pytest.approx(3, abs=0.3)
    if side == 256:
        known = RaftNetwork("raft_small", file, "cpu").between(a, b, 12)[0]
        assert np.abs(forward - known).max() < 0.02


def test_cost_has_all_its_figures() -> None:
    card = set_scale(specs.method_card(ROOT, "instavsr"), 4)
    m = cost.measure(card, (128, 128), 30, DEVICE)
    assert set(m.why) <= {"gpu_shared"}, "in a container NVML may not tell who is on the GPU"
    assert m.vram_peak_mib is not None
    assert m.vram_allocator_mib is not None
    assert 0 < m.vram_allocator_mib < m.vram_peak_mib
    assert m.j_per_frame is not None
    watts = m.j_per_frame * m.fps
    assert 10 < watts < 1500
    assert m.fps == pytest.approx(1000 / m.median_ms, rel=0.5)


def test_the_headline_fits() -> None:
    """30 frames of 2048x2048 in less than 46 s and 7 GB: the paper's figures on an RTX 4090."""
    card = set_scale(specs.method_card(ROOT, "instavsr-full"), 4)
    m = cost.measure(card, (512, 512), 30, DEVICE)
    assert m.vram_peak_mib is not None
    print(f"{m.device}: {30 / m.fps:.1f} s, {m.vram_peak_mib:.0f} MiB, {m.j_per_frame} J/frame")
    assert m.vram_peak_mib < 7e9 / 2**20
    assert 30 / m.fps < 46


def test_bfloat16_with_critics_and_checkpointing_stays_sane(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    render_pool(pool, clips=6, seed=1, size=(128, 128), frames=4)
    network = {"feedback": "detail", "flow_widths": [8, 4, 4, 4], "channels": [8, 8]}
    network |= {"heads": [0, 2], "mid_heads": 2, "layers": 1, "decoder_channels": [8, 8]}
    network |= {"decoder_layers": 0, "decoder_mid_attention": False, "unshuffle": 1}
    network |= {"shuffle": 2, "residual": True}
    stage = Stage(
        *("video", 2, (24,), 2e-3),
        **{"frames": 3, "pixel": 1.0, "temporal": 0.1, "flow": 0.1, "pixel_gan": 0.01},
        **{"steps": 60, "validate_steps": 60},
    )
    settings = Config(
        "vsrbench.methods.instavsr.network:InstaVSR",
        network,
        (stage,),
        bf16=True,
        checkpointing=True,
    )
    settings = replace(settings, holdout=2, validation_frames=3, critic_widths=(8, 8))
    trainer = Trainer(settings, pool, tmp_path / "net.safetensors", DEVICE)
    before = trainer._scores()[0]["psnr"]
    trainer.run()
    trainer.progress.stage = 0  # to score once more
    assert trainer._scores()[0]["psnr"] > before - 0.5, "sixty steps do not learn, nor spoil"
