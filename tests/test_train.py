"""Training data keeps its exact motion; the trainer learns, saves, resumes."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from vsrbench.methods.spynet import warp
from vsrbench.methods.training import machine, train
from vsrbench.methods.training import pool as data
from vsrbench.methods.training.batch import Batch, Draw
from vsrbench.methods.training.config import TERMS, Config, Stage, read_config
from vsrbench.methods.training.losses import Latents, pairs
from vsrbench.methods.training.networks import build_network
from vsrbench.methods.training.objective import flow_error
from vsrbench.methods.training.pool import (
    Pool,
    Windows,
    lq_flow,
    render_pool,
    turn,
    turn_flow,
)
from vsrbench.methods.training.trainer import Progress, Trainer

from vsrbench.cards.weights import load_strictly, read_checkpoint
from vsrbench.core.errors import INTERRUPTED, DataError, MissingError, UserError
from vsrbench.data.frames import FrameWriter
from vsrbench.flow.estimators import Dis

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "realviformer": (
        "vsrbench.methods.realviformer.network:RealViformer",
        {
            "num_feat": 8,
            "num_blocks": [1, 1, 1, 1],
            "heads": [1, 1, 1],
            "hr_feat": 8,
            "flow_widths": [8, 4, 4, 4],
        },
    ),
    "instavsr": (
        "vsrbench.methods.instavsr.network:InstaVSR",
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


FLOW = """
network = "vsrbench.methods.spynet:SpyNet"
holdout = 1
[config]
widths = [8, 4, 4, 4]
[[stages]]
name = "flow"
batch = 1
patch = [16]
lr = 1e-3
flow = 1.0
steps = 1
"""


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


def test_some_clips_stand_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "STILL", 1.0)
    monkeypatch.setattr(data, "MIX", {"realbasicvsr": 1.0})
    render_pool(tmp_path, clips=1, seed=7, size=(96, 128), frames=4)
    clip = Pool(tmp_path).clip(0, 4)
    assert (clip.gt == clip.gt[:, :1]).all()
    assert (clip.forward == 0).all()
    assert (clip.valid_backward == 1).all()
    assert (clip.lq[:, 1:] - clip.lq[:, :-1]).abs().mean() > 1e-4  # noise and MPEG-4 or H.264


def test_a_critic_sees_pairs_along_exact_motion(pool: Path) -> None:
    batch = Pool(pool).batch(np.random.default_rng(3), 2, 3, 16, pan=2)
    frames = torch.rand(2, 3, 3, 64, 64)
    both = pairs(frames, batch)
    assert both.shape == (4, 6, 64, 64)
    assert torch.equal(both[:, :3], frames[:, :-1].flatten(0, 1))
    shown = F.interpolate(batch.valid_forward.flatten(0, 1), scale_factor=4) > 0
    assert shown.any()
    assert not shown.all()
    assert torch.equal(*(x * ~shown for x in both.split(3, 1)))
    # Of what is real, the two differ by interpolation alone.
    real, later = (x * shown for x in pairs(batch.gt, batch).split(3, 1))
    untouched = (batch.gt[:, :-1] - batch.gt[:, 1:]).flatten(0, 1) * shown
    assert (real - later).abs().mean() < 0.5 * untouched.abs().mean()


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


def test_batches_are_pinned_whole(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Pool(pool).batch(np.random.default_rng(5), 1, 2, 16)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # needs a GPU
    pinned = vars(batch.pin_memory())
    assert pinned.pop("teacher") is None
    assert all(torch.equal(tensor, vars(batch)[name] + 1) for name, tensor in pinned.items())


def test_the_flow_network_starts_as_a_motion_detector() -> None:
    # A smooth picture moving by a fraction of a px: already the start tells the direction.
    x, y = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy")

    def frame(dx: float, dy: float) -> torch.Tensor:
        wave = torch.sin((x - dx) / 3) * torch.cos((y - dy) / 4) + torch.sin((x - dx + y - dy) / 5)
        return (0.5 + 0.2 * wave).expand(1, 3, 64, 64)

    settings = Config("vsrbench.methods.spynet:SpyNet", {"widths": [16, 32, 16, 8]}, ())
    net = build_network(settings)
    for dx, dy in ((0.7, 0.0), (-0.7, 0.0), (0.0, 0.7), (0.0, -0.7)):
        flow = net(frame(0, 0), frame(dx, dy)).detach().mean((0, 2, 3))
        error = (flow - torch.tensor((dx, dy))).norm()
        assert error < 0.6 * 0.7, (dx, dy, flow)


@pytest.mark.parametrize("has", [True, False])
def test_a_cpu_without_bfloat16_trains_in_float32(
    has: bool, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "fpu avx2 avx512f" + " avx512_bf16" * has
    monkeypatch.setattr(machine, "cpuinfo", lambda field: {"flags": flags}.get(field, ""))
    out = tmp_path / "net.safetensors"
    trainer = Trainer(config("instavsr", video(1), bf16=True), pool, out)
    seen = []
    trainer.net.get_submodule("backbone.unet").register_forward_hook(
        lambda _, __, made: seen.append(made.dtype)
    )
    trainer.run()
    assert seen[0] == (torch.bfloat16 if has else torch.float32)
    assert (", bf16" in read_checkpoint(out)[1]["note"]) is has


@pytest.mark.parametrize("method", NETWORKS)
def test_a_checkpoint_rebuilds_the_network(
    method: str, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: True)
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


def test_critics_of_another_training(pool: Path, tmp_path: Path) -> None:
    stage = replace(video(1), pixel_gan=0.1)
    first = Trainer(config("instavsr", stage), pool, tmp_path / "first.safetensors")
    first.run()
    second = Trainer(config("instavsr", stage, seed=2), pool, tmp_path / "second.safetensors")
    second.take_critics(tmp_path / "first.train.pt")
    for name, tensor in first.objective.helpers.state_dict().items():
        assert torch.equal(tensor, second.objective.helpers.state_dict()[name]), name
    plain = Trainer(config("instavsr", video(1)), pool, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"first\.train\.pt has other critics: .*pixel_critic"):
        plain.take_critics(tmp_path / "first.train.pt")
    with pytest.raises(MissingError, match="no training state"):
        plain.take_critics(tmp_path / "none.train.pt")


@pytest.mark.filterwarnings("ignore:.*no-op")
def test_a_resumed_step_counter_stays_on_the_cpu(pool: Path, tmp_path: Path) -> None:
    # Adam reads it at every step, and would wait there for all that a GPU has to do.
    out = tmp_path / "x.safetensors"
    trainer = Trainer(config("instavsr", video(1)), pool, out)
    trainer.run()
    trainer.progress = Progress(step=1)
    trainer.save()
    elsewhere = Trainer(config("instavsr", video(1)), pool, out, device="meta")
    elsewhere.resume()
    state = list(elsewhere.optimisers[0].state.values())
    assert {s["step"].device.type for s in state} == {"cpu"}
    assert {s["exp_avg"].device.type for s in state} == {"meta"}


def test_a_frozen_flow_network_keeps_its_start(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow.safetensors"
    flow = Config(
        "vsrbench.methods.spynet:SpyNet",
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


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[16]", "16", "stage 'flow': patch must be a list of whole numbers, got 16"),
        ("[16]", "[]", "patch must be a list of whole numbers, got ()"),
        ("[16]", "[16, 0]", "patch must be at least 1, got 0"),
        ("batch = 1", 'batch = "1"', "batch must be a whole number, got '1'"),
        ("batch = 1", "batch = true", "batch must be a whole number, got True"),
        ("batch = 1", "batch = 0", "batch must be at least 1, got 0"),
        ("lr = 1e-3", "lr = 0", "lr must be above 0"),
        ("lr = 1e-3", "lr = nan", "lr must be at least 0, got nan"),
        ("steps = 1", "steps = 1\nwarmup = 0", "stage 'flow': warmup must be at least 1, got 0"),
        ("steps = 1", "steps = 1\nlazy = 0", "lazy must be at least 1, got 0"),
        ("steps = 1", "steps = 1\nframes = 1", "flow needs the next frame, too"),
        ("steps = 1", "steps = -1", "steps must be at least 0, got -1"),
        ("steps = 1", "steps = 0", "a stage has no budget"),
        ("flow = 1.0", "flow = 0", "a stage trains for nothing"),
        ("holdout = 1", "holdout = 0", "holdout must be at least 1, got 0"),
        (
            "holdout = 1",
            "holdout = 1\nvalidation_frames = 1",
            "validation_frames must be at least 2",
        ),
        ("holdout = 1", "holdout = 1\nseed = -1", "seed must be at least 0, got -1"),
        ("holdout = 1", "holdout = 1\nbf16 = 1", "bf16 must be true or false, got 1"),
        ("holdout = 1", "holdout = 1\ninit = 1", "init must be a string, got 1"),
        (
            "spynet:SpyNet",
            "spinet:SpyNet",
            "methods.spinet:SpyNet': No module named",
        ),
        ("spynet:SpyNet", "spynet:Spynet", "has no attribute 'Spynet'"),
        ("vsrbench.methods.spynet:SpyNet", "SpyNet", "write module:Class"),
        (
            "vsrbench.methods.spynet:SpyNet",
            "vsrbench.methods.instavsr.network:SCALE",
            "SCALE cannot be built",
        ),
        ("vsrbench.methods.spynet:SpyNet", "torch.nn:Identity", "torch.nn:Identity has no SpyNet"),
        ("widths =", "width =", "got an unexpected keyword argument 'width' (correct [config])"),
        ("[8, 4, 4, 4]", '["8"]', "SpyNet cannot be built: TypeError"),
        ("[config]\nwidths = [8, 4, 4, 4]", "config = 3", "config must be a table, got 3"),
        ("[[stages]]", "[stages]", "add a table [[stages]]"),
    ],
)
def test_a_wrong_config_is_one_clear_line(
    old: str,
    new: str,
    expected: str,
    pool: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "c.toml"
    assert FLOW.count(old) == 1
    path.write_text(FLOW.replace(old, new))
    with pytest.raises(SystemExit) as caught:
        train.main([str(path), "--data", str(pool), "--out", str(tmp_path / "x.safetensors")])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_clear_line(workers: int, pool: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    shutil.copytree(pool, folder)
    for number in (1, 2, 3):
        (folder / f"{number:05d}.npz").write_bytes(b"")
    trainer = Trainer(config("instavsr", video(1), workers=workers), folder, tmp_path / "x")
    with pytest.raises(DataError, match=r"^cannot read .*npz: .* \(delete it and rerun\)$"):
        trainer.run()


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
        path.write_text(f'network = "vsrbench.methods.spynet:SpyNet"\n{text}')
        assert run(path, "--data", pool) == 2
        assert named in capsys.readouterr().err
    assert run(tmp_path / "none.toml", "--data", pool) == 3
    good = tmp_path / "good.toml"
    good.write_text(FLOW)
    out = tmp_path / "x.safetensors"
    assert run(good, "--data", pool, "--out", out, "--resume") == 3
    train.main([str(a) for a in (good, "--data", pool, "--out", out)])
    assert out.exists()
    monkeypatch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(good, "--data", pool, "--out", out, "--fresh") == INTERRUPTED


def test_earlier_work_is_not_replaced_by_accident(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "c.toml", tmp_path / "x.safetensors"
    path.write_text(FLOW)

    def run(*more: str, steps: int = 1) -> tuple[object, str]:
        args = [str(path), "--data", str(pool), "--out", str(out), "--device", "cpu", *more]
        try:
            code: object = train.main([*args, "--steps", str(steps)])
        except SystemExit as error:
            code = error.code
        return code, capsys.readouterr().err

    def written() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    assert run()[0] is None
    made = written()
    assert set(made) == {"c.toml", "x.safetensors", "x.train.pt", "x.csv"}
    for kept in ("x.safetensors", "x.train.pt", "x.csv"):
        code, line = run()
        assert (code, line) == (
            2,
            f"error: {out.with_name(kept)} already exists (resume with --resume, start over with "
            "--fresh, or name another --out)\n",
        )
        assert written() == made
        made.pop(kept)
        out.with_name(kept).unlink()
    code, line = run("--resume")
    assert code == 3
    assert "start with --fresh" in line
    assert run()[0] is None
    made = written()
    code, line = run("--resume", steps=2000)
    assert code is None
    assert line.startswith("already finished: flow 1 steps, ")
    assert written() == made
    assert run("--fresh", steps=3)[0] is None
    with out.with_suffix(".csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]
    with pytest.raises(SystemExit, match="2"):
        train.main([str(path), "--data", str(pool), "--fresh", "--resume"])


def test_a_state_of_other_settings_is_one_clear_line(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    stopped = Trainer(config("instavsr", video(4), seed=3), pool, out)
    stopped._step(next(stopped.source.batches(stopped.draw, 0, False)))
    stopped.progress.step = 1
    stopped.save()

    def resumed(*stages: Stage, **settings: Any) -> Trainer:
        trainer = Trainer(config("instavsr", *stages, **settings), pool, out)
        trainer.resume()
        return trainer

    # How long, and by what means, is free, and so is what comes after.
    longer = replace(video(9), validate_steps=2)
    assert resumed(longer, video(2), seed=3, threads=2, init="").progress.step == 1
    with pytest.raises(UserError, match=r"x\.train\.pt was made with another seed \(take its own"):
        resumed(video(4))
    other = replace(video(4), lr=1e-4, patch=(20,))
    with pytest.raises(UserError, match="another patch of stage 1, lr of stage 1 "):
        resumed(other, seed=3)
    network = NETWORKS["instavsr"][1] | {"channels": [16, 8]}
    wide = Trainer(replace(config("instavsr", video(4), seed=3), config=network), pool, out)
    with pytest.raises(UserError, match="another config "):
        wide.resume()

    # A state of before settings were kept still goes on; where it does not fit, in one line, too.
    path = out.with_suffix(".train.pt")
    state = torch.load(path, weights_only=True)
    del state["settings"]
    torch.save(state, path)
    assert resumed(video(4), seed=3).optimisers[0].state
    with pytest.raises(UserError, match=r"^.*train\.pt does not fit this config: .*Missing key"):
        wide.resume()
    with pytest.raises(UserError, match="does not fit this config"):
        resumed(replace(video(4), flow_lr=0.0, flow=0.0), seed=3)  # one group less
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="it is torn"):
        resumed(video(4), seed=3)


def test_a_stage_starts_with_an_optimiser_of_its_own(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    Trainer(config("instavsr", video(1)), pool, out).run()
    slow = replace(video(2), name="slow", flow_lr=0.25)
    trainer = Trainer(config("instavsr", video(1), slow), pool, out)
    trainer.resume()
    assert not trainer.optimisers[0].state
    assert [group["relative"] for group in trainer.optimisers[0].param_groups] == [1.0, 0.25, 1.0]


ADVERSARIAL = Stage(
    "adversarial",
    batch=1,
    patch=(16,),
    lr=1e-3,
    frames=3,
    steps=4,
    pan=1,
    pixel=1.0,
    perceptual=0.5,
    autoencode=0.5,
    invert=0.1,
    latent=0.1,
    latent_gan=0.1,
    pixel_gan=0.1,
    temporal=0.1,
    cyclic=0.1,
    flow=0.1,
    lazy=2,
)
DETAIL = NETWORKS["instavsr"][1] | {"feedback": "detail", "finish": 8}


def adversarial(**settings: Any) -> Config:
    return Config(
        NETWORKS["instavsr"][0],
        DETAIL,
        (replace(ADVERSARIAL, name="decoder", steps=2, pixel_gan=0, latent_gan=0), ADVERSARIAL),
        holdout=1,
        validation_frames=2,
        critic_widths=(8, 8),
        encoder_depth=1,
        **settings,
    )


def test_a_killed_training_goes_on_to_the_same_bits(pool: Path, tmp_path: Path) -> None:
    # As a user's: a process that is interrupted, and one that resumes; critics and all, with
    # batches from another process.
    config = tmp_path / "c.toml"
    stage = "\n".join(
        f"{name} = {json.dumps(value)}" for name, value in asdict(ADVERSARIAL).items() if value
    )
    network = "\n".join(f"{name} = {json.dumps(value)}" for name, value in DETAIL.items())
    config.write_text(
        f'network = "{NETWORKS["instavsr"][0]}"\nholdout = 1\nvalidation_frames = 2\n'
        f"workers = 1\ncritic_widths = [8, 8]\n[config]\n{network}\n[[stages]]\n{stage}\n"
    )
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    base = ["--data", str(pool), "--device", "cpu"]
    train.main([str(config), *base, "--out", str(whole)])

    step = Trainer._step

    def interrupted(self: Trainer, batch: Batch) -> None:
        step(self, batch)
        if self.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(SystemExit) as caught:
            train.main([str(config), *base, "--out", str(cut)])
    assert caught.value.code == INTERRUPTED
    train.main([str(config), *base, "--out", str(cut), "--resume"])
    one, two = (
        torch.load(path.with_suffix(".train.pt"), weights_only=True) for path in (whole, cut)
    )
    assert one["progress"]["step"] == two["progress"]["step"]
    for part in ("net", "averaged", "helpers"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, two[part][name]), name
    assert whole.read_bytes()[-1000:] == cut.read_bytes()[-1000:]


def test_batches_come_from_another_process_whatever_the_temporary_folder(
    pool: Path, root: Path, tmp_path: Path
) -> None:
    """The socket of the worker lies in it, and may not have a name of any length."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from vsrbench.methods.training.batch import Draw\n"
        "from vsrbench.methods.training.pool import Pool\n"
        "batches = Pool(Path(sys.argv[1]), workers=1).batches(Draw((0,), 1, 2, (16,)), 0, False)\n"
        "print(next(batches).lq.shape)\n"
    )
    deep = tmp_path / ("long" * 25)
    deep.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(pool)],
        cwd=root,
        env=os.environ | {"TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_every_term_is_logged_and_every_part_learns(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    trainer = Trainer(adversarial(), pool, out)
    before = {
        **{f"net.{k}": v.clone() for k, v in trainer.net.state_dict().items()},
        **{f"helpers.{k}": v.clone() for k, v in trainer.objective.helpers.state_dict().items()},
    }
    trainer.run()
    after = {
        **{f"net.{k}": v for k, v in trainer.net.state_dict().items()},
        **{f"helpers.{k}": v for k, v in trainer.objective.helpers.state_dict().items()},
    }
    still = [k for k, v in before.items() if k.endswith("weight") and torch.equal(v, after[k])]
    # The finest level of the flow network rests on patches as small as these.
    assert all(k.startswith("net.spynet.basic_module.5") for k in still), still
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["decoder", "adversarial"]
    terms = [t for t in TERMS if t != "distill"]
    for name in (*terms, "latent_critic", "pixel_critic", "latent_r1", "pixel_r1"):
        assert math.isfinite(float(rows[1][name])), name
    # At first a critic cannot tell: log 2 for each side.
    assert float(rows[1]["pixel_critic"]) == pytest.approx(2 * math.log(2), abs=0.3)
    for name in ("psnr", "bicubic", "warping", "flicker", "gradients", "epe", "autoencoder"):
        assert math.isfinite(float(rows[1][name])), name
    (strip,) = (tmp_path / "x.strips").glob("adversarial-*.png")
    assert Image.open(strip).size == (3 * 128, 96)  # LQ, SR, GT of the one held-out clip
    note = read_checkpoint(out)[1]["note"]
    assert "perceptual distance slopes" in note
    assert "decoder 2 steps" in note


def test_the_encoder_learns_to_undo_the_decoder_and_leaves_it_alone(
    pool: Path, tmp_path: Path
) -> None:
    stage = replace(ADVERSARIAL, pixel_gan=0, latent_gan=0, latent=0)
    config = replace(adversarial(), stages=(stage,))
    trainer = Trainer(config, pool, tmp_path / "x.safetensors")
    batch = next(trainer.source.batches(trainer.draw, 0, False))
    terms, judged = trainer.objective.terms(stage, 0, batch, np.random.default_rng(0))
    assert judged == {}
    (terms["invert"] + terms["autoencode"]).backward()
    touched = {name for name, p in trainer.net.named_parameters() if p.grad is not None}
    assert touched == set()
    assert all(p.grad is not None for p in trainer.objective.helpers["encoder"].parameters())
    assert all(p.requires_grad for p in trainer.net.get_submodule("backbone").parameters())


def test_an_encoder_that_undoes_the_decoder_has_nothing_to_learn(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(adversarial(), stages=(replace(ADVERSARIAL, lr=1e-9),))
    trainer = Trainer(config, pool, tmp_path / "x.safetensors")
    batch = next(trainer.source.batches(trainer.draw, 0, False))
    known: list[torch.Tensor] = []
    unet = trainer.net.get_submodule("backbone.unet")
    hook = unet.register_forward_hook(lambda _, __, out: known.append(out.detach()))
    with Latents(trainer.net) as latents, torch.no_grad():
        trainer.net(batch.lq)
    hook.remove()
    perfect = torch.stack(known, 1).flatten(0, 1)  # what the decoder was given, frame by frame
    monkeypatch.setattr(trainer.objective.helpers["encoder"], "forward", lambda gt, lq: perfect)
    lq = batch.lq.flatten(0, 1)
    assert float(trainer.objective.inversion_loss(trainer.stage, latents, lq)) < 1e-5
    monkeypatch.setattr(trainer.objective.helpers["encoder"], "forward", lambda gt, lq: perfect + 1)
    assert float(trainer.objective.inversion_loss(trainer.stage, latents, lq)) > 0.01


def test_checkpointing_changes_nothing(pool: Path, tmp_path: Path) -> None:
    nets = []
    for on in (False, True):
        trainer = Trainer(adversarial(checkpointing=on), pool, tmp_path / f"{on}.safetensors")
        trainer.run()
        nets.append(trainer.averaged.state_dict())
    for name, tensor in nets[0].items():
        torch.testing.assert_close(tensor, nets[1][name], msg=name)


def test_checkpointing_keeps_the_gradients_of_colours_that_are_smoothed_over_time(
    pool: Path, tmp_path: Path
) -> None:
    network = NETWORKS["instavsr"][1] | {"residual": False}
    settings = replace(config("instavsr", video(1)), config=network)
    coarse = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(coarse, (32, 40), mode="bicubic").clamp(0, 1)
    clip = torch.stack([picture[:, :, :, i : i + 32] for i in range(5)], 1)  # it pans: no cut
    gradients = []
    for on in (False, True):
        settings = replace(settings, checkpointing=on)
        net = Trainer(settings, pool, tmp_path / "x.safetensors").net
        net(clip).square().mean().backward()
        backbone = net.get_submodule("backbone")
        gradients.append({n: p.grad for n, p in backbone.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_processes_share_a_step(pool: Path, tmp_path: Path, root: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(FLOW.replace("steps = 1", "steps = 2"))
    out = tmp_path / "two.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "vsrbench.methods.training.train", config, "--data", pool, "--out", out]
    ran = subprocess.run(
        [*map(str, command), "--device", "cpu"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    together = torch.load(out.with_suffix(".train.pt"), weights_only=True)["net"]

    # The same by hand: the mean of both processes' gradients.
    settings = read_config(config)
    both = [Trainer(settings, pool, tmp_path / "one.safetensors", rank=rank) for rank in (0, 1)]
    alone = both[0]
    for step in range(2):
        gradients = []
        for trainer in both:
            trainer.net.load_state_dict(alone.net.state_dict())
            trainer.progress.step = step
            batch = next(trainer.source.batches(trainer.draw, step, False))
            rng = np.random.default_rng(
                [settings.seed, trainer.stage.stream, step, trainer.rank, 1]
            )
            trainer.net.zero_grad()
            flow_error(trainer.net, batch, rng).backward()
            gradients.append([p.grad for p in trainer.net.parameters()])
        rate = min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / 2))
        alone.optimisers[0].param_groups[0]["lr"] = 1e-3 * rate
        for p, a, b in zip(alone.net.parameters(), *gradients, strict=True):
            p.grad = None if a is None or b is None else (a + b) / 2
        torch.nn.utils.clip_grad_norm_(alone.net.parameters(), settings.clip_grad)
        alone.optimisers[0].step()
    for name, tensor in alone.net.state_dict().items():
        torch.testing.assert_close(tensor, together[name], msg=name)
    assert "2 process(es) with a batch each" in read_checkpoint(out)[1]["note"]


def test_processes_stop_after_the_same_step(pool: Path, tmp_path: Path, root: Path) -> None:
    # Only one of them is told, during its second step: alone it would leave the other waiting.
    (tmp_path / "interrupted.py").write_text(
        "import os, signal, sys\n"
        "from vsrbench.methods.training import train\n"
        "step = train.Trainer._step\n"
        "def told(self, batch):\n"
        "    step(self, batch)\n"
        "    if self.rank == int(sys.argv[1]) and self.progress.step == 1:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "train.Trainer._step = told\n"
        "train.main(sys.argv[2:])\n"
    )
    config = tmp_path / "c.toml"
    config.write_text(FLOW.replace("steps = 1", "steps = 400"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command.append(str(tmp_path / "interrupted.py"))
    for rank in "01":
        out = tmp_path / f"{rank}.safetensors"
        ran = subprocess.run(
            [
                *command,
                rank,
                str(config),
                "--data",
                str(pool),
                "--device",
                "cpu",
                "--out",
                str(out),
            ],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.stderr.count("interrupted; resume with --resume") == 2, ran.stderr
        assert "RuntimeError" not in ran.stderr
        state = torch.load(out.with_suffix(".train.pt"), weights_only=True)
        assert state["progress"]["step"] == 2


def test_the_stream_of_clips_never_ends(pool: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    shutil.copytree(pool, folder)
    windows = Windows(Pool(folder, 1, 2, renew=1), Draw((1, 0), 1, 3, (16,)))
    for step in range(12):
        windows[step]
    numbers = {int(path.stem) for path in folder.glob("*.npz")}
    assert max(numbers) > 8  # nothing but 0..3 was there
    fresh = Pool(folder, 9, 1).clip(0, 2)
    whole = tmp_path / "other"
    render_pool(whole, clips=11, seed=7, size=(96, 128), frames=4)
    assert torch.equal(Pool(whole, 9, 1).clip(0, 2).gt, fresh.gt)
    with pytest.raises(UserError, match="renew needs clips"):
        Trainer(config("instavsr", video(1), renew=5), pool, tmp_path / "x.safetensors")
    taught = video(1), replace(video(1), distill=0.1)
    with pytest.raises(UserError, match="no frames of a teacher"):
        Trainer(config("instavsr", *taught, clips=2, renew=5), pool, tmp_path / "x.safetensors")


def test_own_clips_of_equal_names_stay_apart(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pool"
    shutil.copytree(pool, folder)
    rng = np.random.default_rng(0)
    for place in "ab":
        with FrameWriter(tmp_path / place / "holiday") as writer:
            for _ in range(4):
                writer.write(rng.integers(0, 256, (96, 128, 3), np.uint8))
        assert data.add_own(folder, tmp_path / place / "holiday") == 1
    added = {path: path.read_bytes() for path in folder.glob("own-*")}
    assert len(set(added.values())) == 2
    monkeypatch.chdir(tmp_path / "a")
    data.add_own(folder, Path("holiday"))  # as before, by another way of writing it
    assert {path: path.read_bytes() for path in folder.glob("own-*")} == added


def test_motion_of_own_clips_is_estimated_on_the_device(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "pool", []
    shutil.copytree(pool, folder)
    with FrameWriter(tmp_path / "own" / "clip") as writer:
        for _ in range(4):
            writer.write(np.zeros((96, 128, 3), np.uint8))
    monkeypatch.setattr(data, "best_estimator", lambda device: asked.append(device) or Dis())
    data.main([str(folder), "--own", str(tmp_path / "own"), "--device", "cuda:1"])
    assert asked == ["cuda:1"]


def test_own_clips_and_a_teacher(
    pool: Path, tmp_path: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pool"
    shutil.copytree(pool, folder)
    data.main([str(folder), "--own", str(real / "clips-gt/vid4-city")])
    data.main([str(folder), "--teacher", "bicubic", "--device", "cpu"])
    everything = Pool(folder)
    assert len(everything) == 4 + 1
    batch = everything.clip(4, 4)
    assert batch.gt.shape == (1, 4, 3, 96, 128)
    # The estimated motion brings the next frame onto this one.
    frames = torch.nn.functional.avg_pool2d(batch.gt[0], 4)
    moved = warp(frames[1:], batch.forward[0])
    valid = batch.valid_forward[0]
    assert ((moved - frames[:-1]).abs() * valid).mean() < 0.8 * (
        (frames[1:] - frames[:-1]).abs() * valid
    ).mean()
    assert batch.teacher is not None
    bicubic = torch.nn.functional.interpolate(batch.lq[0], scale_factor=4, mode="bicubic")
    assert (batch.teacher[0] - bicubic.clamp(0, 1)).abs().mean() < 0.01

    stage = Stage("image", 1, (16,), 1e-3, frames=1, steps=1, distill=1.0)
    trainer = Trainer(config("instavsr", stage), folder, tmp_path / "x.safetensors")
    trainer.run()
    assert not torch.equal(
        trainer.net.state_dict()["backbone.decoder.conv_out.bias"], torch.zeros(3)
    )
    with pytest.raises(UserError, match="teacher"):
        Trainer(config("instavsr", stage), pool, tmp_path / "y.safetensors").run()
    small = tmp_path / "small"
    with FrameWriter(small) as writer:
        writer.write(np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(UserError, match="need at least 128x96"):
        data.add_own(folder, small)
    short = tmp_path / "short"
    with FrameWriter(short / "still") as writer:
        writer.write(np.zeros((96, 128, 3), np.uint8))
    (short / "torn.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"no clip in .* has 4 frames"):
        data.add_own(folder, short)
    assert "torn" in capsys.readouterr().err  # named, and the rest went on


def test_a_short_training_beats_bicubic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From scratch, a tiny network, input that is only shrunk: the loss falls and PSNR rises.
    monkeypatch.setattr(data, "MIX", {"clean": 1.0})
    render_pool(tmp_path / "pool", clips=6, seed=3, size=(128, 128), frames=3)
    stage = replace(video(75), batch=2, flow=0.0, flow_lr=0.0, lr=4e-3, validate_steps=25)
    network = DETAIL | {"unshuffle": 1, "shuffle": 2, "decoder_channels": [8, 8]}
    settings = Config(NETWORKS["instavsr"][0], network, (stage,), holdout=2, validation_frames=3)
    Trainer(settings, tmp_path / "pool", tmp_path / "x.safetensors").run()
    with (tmp_path / "x.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["psnr"]]
    assert len(rows) == 3
    assert float(rows[-1]["pixel"]) < float(rows[0]["pixel"])
    assert float(rows[-1]["psnr"]) > float(rows[-1]["bicubic"]) + 0.1
