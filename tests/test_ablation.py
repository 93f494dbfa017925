"""The ablation: what rows differ in, claims by their numbers, the document by its records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from vsrbench.methods.instavsr import ablation
from vsrbench.methods.instavsr.ablation import ROWS, Numbers, claims, document, halves, runs
from vsrbench.methods.instavsr.clips import open_captured
from vsrbench.methods.spynet import SpyNet
from vsrbench.methods.training.config import read_config
from vsrbench.methods.training.networks import build_network
from vsrbench.methods.training.pool import Pool, Windows, render_pool

from vsrbench.cards.weights import save_checkpoint
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Clip, Record
from vsrbench.data.frames import FrameWriter
from vsrbench.results.store import Store

TINY = """
network = "vsrbench.methods.instavsr.network:InstaVSR"
holdout = 1
validation_frames = 2
critic_widths = [4, 4]

[config]
feedback = "detail"
flow_widths = [8, 4, 4, 4]
channels = [8, 8]
heads = [0, 2]
mid_heads = 2
layers = 1
decoder_channels = [8, 8]
decoder_layers = 0
decoder_mid_attention = false
unshuffle = 1
shuffle = 2
residual = true

[[stages]]
name = "video"
batch = 1
frames = 3
patch = [16]
lr = 1e-3
pixel = 1.0
temporal = 0.1
flow = 0.1
steps = 2

[[stages]]
name = "encoder"
batch = 1
patch = [16]
lr = 1e-3
autoencode = 1.0
decoder_lr = 0.0
steps = 1

[[stages]]
name = "adversarial"
batch = 1
frames = 3
patch = [16]
lr = 1e-3
pixel = 1.0
temporal = 0.1
cyclic = 0.1
latent_gan = 0.1
pixel_gan = 0.1
autoencode = 0.1
steps = 2
"""


def test_rows_differ_in_what_they_name(tmp_path: Path) -> None:
    base = read_config(ablation.CONFIG)
    plans = {name: halves(base, row, 1, tmp_path) for name, row in ROWS.items()}
    starts = {name: start for name, (_, start, _) in plans.items()}
    # Those that differ among the critics' stages alone share the first one.
    assert len({starts[n] for n in ("full", "acyclic", "pixel", "latent", "plain")}) == 1
    assert starts["frame"] == starts["plain-frame"]
    assert len(set(starts.values())) == 4
    assert halves(base, ROWS["full"], 2, tmp_path)[1] != starts["full"]
    full, plain = plans["full"][2].stages, plans["plain"][2].stages
    assert [s.name for s in full] == ["encoder", "adversarial"]
    assert [s.name for s in plain] == ["adversarial"]
    assert plain[0] == replace(full[1], latent_gan=0, pixel_gan=0, autoencode=0, invert=0)
    assert plans["latent"][2].stages[1].latent_gan == full[1].latent_gan > 0
    assert plans["pixel"][2].stages[0].pixel_gan == full[1].pixel_gan > 0
    for name, (first, _, _) in plans.items():
        net = build_network(replace(first, flow_init=""))
        wide = sum(p.numel() for p in net.parameters())
        assert (name == "wide") == (wide > 2e6), name
    assert len(list(runs())) == 15
    assert {name for name, seed in runs() if seed == 2} == {
        *("full", "frame", "pixel", "latent", "plain", "plain-frame")
    }


def test_rows_see_the_same_batches(tmp_path: Path) -> None:
    render_pool(tmp_path, clips=2, seed=7, size=(256, 256), frames=8)
    base = read_config(ablation.CONFIG)
    batches = []
    for name in ("full", "plain"):
        _, _, rest = halves(base, ROWS[name], 1, tmp_path)
        stage = next(stage for stage in rest.stages if stage.name == "adversarial")
        batches.append(Windows(Pool(tmp_path), stage.draw(rest.seed))[3].lq)
    assert torch.equal(*batches)
    first = halves(base, ROWS["full"], 1, tmp_path)[0]
    assert not torch.equal(
        batches[0], Windows(Pool(tmp_path), first.stages[0].draw(first.seed))[3].lq
    )


def test_a_row_without_neighbours_sees_each_frame_alone(tmp_path: Path) -> None:
    first, _, _ = halves(read_config(ablation.CONFIG), ROWS["frame"], 1, tmp_path)
    net = build_network(replace(first, flow_init="")).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        clip = torch.rand(1, 3, 3, 32, 32)
        together = net(clip)[0]
        for frame, alone in zip(clip[0], together, strict=True):
            torch.testing.assert_close(net(frame[None, None])[0, 0], alone)


def made_up(**changes: dict[str, float]) -> Numbers:
    """Numbers of GT, bicubic and some rows, the same with both seeds."""
    columns = ("psnr", "niqe", "gradient_energy", "ewarp", "flicker", "noise")
    rows = {
        "full": (23.0, 6.0, 0.6, 0.5, 1.0, 0.7),
        "frame": (22.9, 6.0, 0.62, 1.0, 2.0, 2.0),
        "plain": (23.1, 8.0, 0.2, 0.45, 1.0, 0.7),
        "latent": (23.1, 7.0, 0.3, 0.45, 1.0, 0.7),
    }
    named = {name: dict(zip(columns, row, strict=True)) for name, row in rows.items()}
    means = {
        f"instavsr-{name}-{seed}": {**row, **changes.get(name, {})}
        for name, row in named.items()
        for seed in (1, 2)
    }
    means |= {
        "gt": {"niqe": 4.0, "gradient_energy": 1.0, "ewarp": 0.3, "flicker": 0.0},
        "bicubic": {"psnr": 22.5, "niqe": 9.0, "gradient_energy": 0.1},
    }
    soft = {
        "gt-soft-1": {"gradient_energy": 0.5, "ewarp": 0.2, "flicker": 0.5},
        "gt-soft-3": {"gradient_energy": 0.1, "ewarp": 0.1, "flicker": 0.7},
    }
    return Numbers(means, {}, {}, soft)


def test_claims_are_judged_by_every_seed() -> None:
    listed = claims(made_up())
    found = {claim.text: claim for claim in listed if claim.values}
    assert found["PSNR of no GAN over bicubic"].values == pytest.approx((0.6, 0.6))
    assert found["gradient energy lower"].values == pytest.approx([100 * (1 - 0.6 / 0.62)] * 2)
    assert found["deviation on the still under noise lower"].values == pytest.approx((65, 65))
    assert found["NIQE nearer to GT's"].values == pytest.approx((50, 50))
    assert found["gradient energy nearer to GT's"].values == pytest.approx((50, 50))
    steps = {
        name: found[f"no pixel GAN: {name}, share of the way from no GAN to full"].values
        for name in ("NIQE", "gradient energy")
    }
    assert steps == {"NIQE": pytest.approx((50, 50)), "gradient energy": pytest.approx((25, 25))}
    lower = [c.values for c in listed if c.text == "E_warp lower"]
    assert lower == [
        pytest.approx((50, 50)),
        (),  # "plain-frame" was not trained, and neither "free" nor "acyclic"
        (),
        (),
        pytest.approx([100 * (1 - 0.5 / 0.45)] * 2),
        # GT of gradient energy 0.6 and 0.2 lies a fifth and a quarter of the way between its steps.
        pytest.approx([100 * (1 - 0.22 / 0.125)] * 2),
    ]
    assert {c.holds for c in listed if c.values} == {True}
    assert {c.line()[-1] for c in listed if not c.values} == {"not measured"}


def test_a_claim_can_fail() -> None:
    # Beyond GT is away from it again, and a step past the full row is not between.
    worse = made_up(full={"niqe": 0.5, "gradient_energy": 0.5}, latent={"gradient_energy": 0.6})
    found = {c.text: c for c in claims(worse) if c.values}
    assert found["NIQE nearer to GT's"].values == pytest.approx((12.5, 12.5))
    assert not found["NIQE nearer to GT's"].holds
    assert found["gradient energy lower"].line()[-1] == "**no**"
    past = found["no pixel GAN: gradient energy, share of the way from no GAN to full"]
    assert past.values == pytest.approx([400 / 3] * 2)
    assert not past.holds
    # One bad seed is enough.
    mixed = made_up()
    means = {**mixed.means, "instavsr-full-2": {**mixed.means["instavsr-full-2"], "psnr": 22.0}}
    gain = next(c for c in claims(replace(mixed, means=means)) if c.text == "PSNR gain")
    assert gain.values == pytest.approx((0.1, -0.9))
    assert not gain.holds


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny ablation of three rows, and one embedded clip; the folder of its checkpoints."""
    config = tmp_path / "tiny.toml"
    config.write_text(TINY)
    rows = {name: replace(ROWS[name], seeds=(1,)) for name in ("full", "frame", "plain")}
    monkeypatch.setattr(ablation, "ROWS", rows)
    monkeypatch.setattr(ablation, "CONFIG", config)
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(ablation, "DOCUMENT", tmp_path / "ablation.md")
    monkeypatch.setattr(ablation, "METRICS", ("psnr", "gradient_energy", "ewarp", "flicker"))
    monkeypatch.setattr(ablation, "BESIDE", ("bicubic",))
    monkeypatch.setattr(ablation, "SOFT", {"gt-soft-1": 1.0})
    monkeypatch.setattr(ablation, "SIZE", (32, 32))
    monkeypatch.setattr(ablation, "COSTS", {"full": "instavsr-full-1"})
    everything = ablation.open_sets

    def few(gt: list[Path]) -> list[ablation.Dataset]:
        return [replace(d, clips=[short(c) for c in d.clips[-2:]]) for d in everything(gt)]

    def short(clip: Clip) -> Clip:
        lq, gt, flow = (
            None if side is None else [side[i] for i in range(count)]
            for side, count in ((clip.lq, 3), (clip.gt, 3), (clip.flow, 2))
        )
        return replace(clip, count=3, lq=lq or [], gt=gt, flow=flow)

    monkeypatch.setattr(ablation, "open_sets", few)
    return tmp_path / "nets"


def test_training_scoring_and_document(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, clip = tmp_path / "pool", tmp_path / "clip"
    render_pool(pool, clips=3, seed=7, size=(96, 128), frames=4)
    rng = np.random.default_rng(0)
    with FrameWriter(clip) as writer:
        for _ in range(3):
            writer.write(rng.integers(0, 256, (133, 139, 3), dtype=np.uint8))
    flow = tmp_path / "spynet.safetensors"
    save_checkpoint(flow, SpyNet((8, 4, 4, 4)).state_dict(), {}, "")
    teach = ["train", "--pool", str(pool), "--jobs", "1", "--folder", str(small)]
    teach += ["--flow-init", str(flow)]
    ablation.main(teach)
    made = {p: p.stat().st_mtime_ns for p in small.glob("*.safetensors")}
    ends = {p.name for p in made if not p.name.startswith("start-")}
    assert ends == {f"{name}-1.safetensors" for name in ("full", "frame", "plain")}
    assert len(made) == 5  # and two first stages
    ablation.main(teach)
    assert made == {p: p.stat().st_mtime_ns for p in small.glob("*.safetensors")}
    ablation.CONFIG.write_text(TINY.replace("lr = 1e-3", "lr = 2e-3"))
    with pytest.raises(SystemExit):
        ablation.main(teach)
    assert "holds rows of other settings" in capsys.readouterr().err

    for _ in range(2):  # the second time everything is on disk
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            ablation.main(["score", "--gt", str(clip), "--folder", str(small)])
        assert stop.value.code == 0
    assert ", 0 to compute" in capsys.readouterr().err
    records = Store(ablation.RESULTS).require()
    assert {r.clip for r in records if r.dataset == "captured"} == {"clip"}

    ablation.main(["write"])
    text = ablation.DOCUMENT.read_text()
    mean = np.mean([r.value for r in records if r.method == "bicubic" and r.metric == "psnr"])
    row = next(line for line in text.splitlines() if line.startswith("| Bicubic "))
    assert f" {mean:.2f} " in row
    assert "| no GAN " in text
    assert "unpruned" not in text
    soft = np.mean([r.value for r in records if (r.method, r.metric) == ("gt-soft-1", "ewarp")])
    row = next(line for line in text.splitlines() if line.replace(" ", "").startswith("|1|"))
    assert f" {soft:.3f} " in row
    still = {r.metric for r in records if r.dataset == "still"}
    assert still == {"temporal_std"}
    assert "## What pruning buys, at 32x32" in text
    assert str(tmp_path) not in text

    def of(r: Record) -> tuple[str, str, str]:
        return r.method, r.metric, r.dataset

    # Neither a clip nor a whole set may be missing from a mean.
    part = [r for r in records if (*of(r)[:2], r.clip) != ("instavsr-full-1", "psnr", "clip")]
    with pytest.raises(DataError, match="instavsr-full-1 has no psnr of captured/clip"):
        ablation.numbers(part)
    part = [r for r in records if of(r) != ("gt", "ewarp", "synthetic")]
    with pytest.raises(DataError, match="gt has no ewarp of synthetic/"):
        ablation.numbers(part)


def test_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same name"):
        list(open_captured([tmp_path / "a" / "gt", tmp_path / "b" / "gt"]))


def test_there_is_no_document_without_records(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no records"):
        document(Store(tmp_path))


def test_the_document_is_that_of_its_records(root: Path) -> None:
    assert (root / "docs/ablation.md").read_text() == document(Store(ablation.RESULTS))
