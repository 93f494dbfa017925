"""Training data keeps its exact motion; the trainer learns, saves, resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.instavsr import train
from methods.instavsr.data import Batch, Pool, lq_flow, render_pool, turn, turn_flow
from methods.instavsr.train import Config, Stage, Trainer, build_network, read_config
from methods.spynet import warp
from vsrbench.errors import INTERRUPTED, UserError
from vsrbench.weights import load_strictly, read_checkpoint

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "realviformer": (
        "methods.realviformer.network:RealViformer",
        {
            "num_feat": 8,
            "num_blocks": [1, 1, 1, 1],
            "heads": [1, 1, 1],
            "hr_feat": 8,
            "flow_widths": [8, 4, 4, 4],
        },
    ),
    "instavsr": (
        "methods.instavsr.network:InstaVSR",
        {
            "feedback": "lq",
            "flow_widths": [8, 4, 4, 4],
            "channels": [8, 8],
            "heads": [0, 2],
            "mid_heads": 2,
            "layers": 1,
            "decoder_channels": [8, 8, 8, 8],
            "decoder_layers": 0,
            "decoder_mid_attention": False,
            "residual": True,
        },
    ),
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short rendered clips of 96 x 128 px."""
    folder = tmp_path_factory.mktemp("pool")
    render_pool(folder, clips=4, seed=7, size=(96, 128), frames=4)
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Undo what a training does to the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(method: str, *stages: Stage, **settings: Any) -> Config:
    network, kwargs = NETWORKS[method]
    return Config(network, kwargs, stages, holdout=1, validation_frames=2, **settings)


def video(steps: int) -> Stage:
    return Stage(
        "video", 1, (16,), 1e-3, frames=3, steps=steps, pixel=1.0, temporal=0.1, flow=0.1, pan=1
    )


def test_pool_is_deterministic_and_resumable(pool: Path, tmp_path: Path) -> None:
    first = (pool / "00000.npz").read_bytes()
    (pool / "00001.npz").unlink()
    before = (pool / "00000.npz").stat().st_mtime_ns
    render_pool(pool, clips=4, seed=7, size=(96, 128), frames=4)
    assert len(list(pool.glob("*.npz"))) == 4
    assert (pool / "00000.npz").stat().st_mtime_ns == before
    render_pool(tmp_path, clips=1, seed=7, size=(96, 128), frames=4)
    assert (tmp_path / "00000.npz").read_bytes() == first
    with pytest.raises(UserError, match="other settings"):
        render_pool(pool, clips=4, seed=8, size=(96, 128), frames=4)


def test_lq_flow_is_the_block_mean_and_masks_mixed_blocks() -> None:
    flow = np.zeros((8, 8, 2), np.float32)
    flow[..., 0] = 6.0
    flow[:4, :2, 0] = -6.0  # top left block: two motions
    occluded = np.zeros((8, 8), bool)
    occluded[7, 7] = True
    lq, valid = lq_flow(flow, occluded)
    assert lq[1, 0].tolist() == [1.5, 0.0]
    assert valid.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("code", range(8))
def test_turning_keeps_frames_and_flow_consistent(code: int) -> None:
    # b(p + f) = a(p) for f = (2, 1): content of a moves right by 2 and down by 1.
    rng = np.random.default_rng(0)
    a = rng.random((1, 12, 15, 3), np.float32)
    b = np.roll(a, (1, 2), axis=(1, 2))
    flow = np.broadcast_to(np.array([2, 1], np.float32), (1, 12, 15, 2))
    a, b, flow = turn(a, code), turn(b, code), turn_flow(flow, code)
    tensors = [torch.from_numpy(x.copy()).permute(0, 3, 1, 2) for x in (a, b, flow)]
    inner = (..., slice(3, -3), slice(3, -3))
    warped = warp(tensors[1], tensors[2])
    torch.testing.assert_close(warped[inner], tensors[0][inner], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pan", [0, 2])
def test_batches_carry_the_exact_motion_of_their_frames(pool: Path, pan: int) -> None:
    batch = Pool(pool).batch(np.random.default_rng(3), size=24, frames=3, patch=20, pan=pan)
    assert batch.lq.shape == (24, 3, 3, 20, 20)
    assert batch.gt.shape == (24, 3, 3, 80, 80)
    assert batch.forward.shape == (24, 2, 2, 20, 20)
    # On GT brought down to LQ size, warped neighbours must fit far better than unwarped ones and
    # than under flow with a sign or an axis wrong.
    frames = torch.nn.functional.avg_pool2d(batch.gt.flatten(0, 1), 4).unflatten(0, (24, 3))

    def misfit(change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        total = 0.0
        for flow, valid, a, b in (
            (batch.forward, batch.valid_forward, frames[:, :-1], frames[:, 1:]),
            (batch.backward, batch.valid_backward, frames[:, 1:], frames[:, :-1]),
        ):
            warped = warp(b.flatten(0, 1), change(flow.flatten(0, 1)))
            total += float(((warped - a.flatten(0, 1)).abs() * valid.flatten(0, 1)).mean())
        return total

    right = misfit(lambda f: f)
    wrong: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda f: 0 * f,
        lambda f: -f,
        lambda f: f.flip(1),
    ]
    assert all(right < 0.9 * misfit(change) for change in wrong)


def test_batches_follow_from_the_generator_alone(pool: Path) -> None:
    clips = Pool(pool)
    one, two = (clips.batch(np.random.default_rng(5), 2, 2, 16, 1) for _ in range(2))
    assert torch.equal(one.lq, two.lq)
    assert torch.equal(one.forward, two.forward)


def test_the_flow_network_starts_as_a_motion_detector() -> None:
    # A smooth picture moving by a fraction of a px: already the start tells the direction.
    x, y = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy")

    def frame(dx: float, dy: float) -> torch.Tensor:
        wave = torch.sin((x - dx) / 3) * torch.cos((y - dy) / 4) + torch.sin((x - dx + y - dy) / 5)
        return (0.5 + 0.2 * wave).expand(1, 3, 64, 64)

    settings = Config("methods.spynet:SpyNet", {"widths": [16, 32, 16, 8]}, ())
    net = build_network(settings)
    for dx, dy in ((0.7, 0.0), (-0.7, 0.0), (0.0, 0.7), (0.0, -0.7)):
        flow = net(frame(0, 0), frame(dx, dy)).detach().mean((0, 2, 3))
        error = (flow - torch.tensor((dx, dy))).norm()
        assert error < 0.6 * 0.7, (dx, dy, flow)


@pytest.mark.parametrize("method", NETWORKS)
def test_a_checkpoint_rebuilds_the_network(method: str, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    flow = Stage("flow", 2, (16, 20), 1e-3, steps=2, flow=1.0)
    trainer = Trainer(config(method, flow, video(3), bf16=True), pool, out)
    before = trainer.net.state_dict()["spynet.basic_module.0.basic_module.0.weight"].clone()
    trainer.run()
    state, metadata = read_checkpoint(out)
    assert metadata["origin"] == "trained_here"
    assert "flow 2 steps" in metadata["note"]
    assert "video 3 steps" in metadata["note"]
    net = build_network(Config(NETWORKS[method][0], metadata["config"], ()))
    load_strictly(net, state, method)
    assert not torch.equal(state["spynet.basic_module.0.basic_module.0.weight"], before)
    with torch.no_grad():
        assert net(torch.rand(1, 2, 3, 16, 16)).shape == (1, 2, 3, 64, 64)
    rows = out.with_suffix(".csv").read_text().splitlines()
    assert rows[0].startswith("stage,step,minutes")
    assert len(rows) == 3


def test_resumed_equals_uninterrupted(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("realviformer", video(4))
    whole = Trainer(settings, pool, tmp_path / "whole.safetensors")
    whole.run()

    cut = Trainer(settings, pool, tmp_path / "cut.safetensors")
    step = cut._step

    def second_is_last(batch: Batch) -> None:
        cut.stop = cut.progress.step == 1  # as the signal handler does, during the second step
        step(batch)

    monkeypatch.setattr(cut, "_step", second_is_last)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = Trainer(settings, pool, tmp_path / "cut.safetensors")
    resumed.resume()
    assert resumed.progress.step == 2
    resumed.run()
    for name, tensor in whole.averaged.state_dict().items():
        assert torch.equal(tensor, resumed.averaged.state_dict()[name]), name


def test_a_frozen_flow_network_keeps_its_start(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow.safetensors"
    flow = Config(
        "methods.spynet:SpyNet",
        {"widths": [8, 4, 4, 4]},
        (Stage("flow", 2, (16,), 1e-3, steps=2, flow=1.0),),
        holdout=1,
    )
    Trainer(flow, pool, out).run()
    frozen = Stage("video", 1, (16,), 1e-3, steps=2, pixel=1.0, flow_lr=0)
    trainer = Trainer(
        config("instavsr", frozen, flow_init=str(out)), pool, tmp_path / "n.safetensors"
    )
    trainer.run()
    for name, tensor in read_checkpoint(out)[0].items():
        assert torch.equal(tensor, trainer.net.state_dict()[f"spynet.{name}"]), name


def test_shipped_configs_are_valid(root: Path) -> None:
    for path in sorted((root / "methods").glob("*/configs/*.toml")):
        build_network(read_config(path))


def test_the_command_line_reports_and_interrupts(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object) -> int:
        with pytest.raises(SystemExit) as caught:
            train.main([str(a) for a in args])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    path = tmp_path / "bad.toml"
    for text, named in (
        ('steps = 3\n[[stages]]\nname = "x"\nbatch = 1\npatch = [16]\nlr = 1e-3', "steps"),
        ("", "stages"),
        ("[config]\n[[stages]]\npatch = [16]\nbatch = 1", "'name' and 'lr'"),
        ("[[stages", "TOML"),
    ):
        path.write_text(f'network = "methods.spynet:SpyNet"\n{text}')
        assert run(path) == 2
        assert named in capsys.readouterr().err
    assert run(tmp_path / "none.toml") == 3
    good = tmp_path / "good.toml"
    good.write_text(
        'network = "methods.spynet:SpyNet"\nholdout = 1\n[config]\nwidths = [8, 4, 4, 4]\n'
        '[[stages]]\nname = "flow"\nbatch = 1\npatch = [16]\nlr = 1e-3\nflow = 1.0\nsteps = 1\n'
    )
    out = tmp_path / "x.safetensors"
    assert run(good, "--pool", pool, "--out", out, "--resume") == 3
    train.main([str(a) for a in (good, "--pool", pool, "--out", out)])
    assert out.exists()
    monkeypatch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(good, "--pool", pool, "--out", out) == INTERRUPTED
