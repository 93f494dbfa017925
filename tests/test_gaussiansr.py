"""GaussianSR against the golden numerics, its checkpoint layout, and the per-frame adapter."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vsrbench.methods.gaussiansr import network
from vsrbench.methods.gaussiansr.adapter import load
from vsrbench.methods.gaussiansr.network import GaussianSR

from tests import golden
from vsrbench.cards.specs import method_card
from vsrbench.core.types import MethodCard, Weights
from vsrbench.run.method import set_scale

STAGE = 1e-5
# The frequencies, up to 29, turn rounding of the features into much more: on one machine two
# convolution algorithms of torch, and single against double precision, differ by 2e-5 to 4e-5.
WHOLE = 1e-4
TINY = {"channels": 12, "blocks": 1, "gaussians": 4, "hidden": 16}


@pytest.fixture(scope="module")
def net() -> GaussianSR:
    gain = float(golden.arrays("gaussiansr")["gain"])
    net = GaussianSR().eval()
    widths = {k: v for k, v in net.state_dict().items() if k.startswith("sigma_")}
    state = {k: golden.tensor(k, s, gain) for k, s in golden.shapes("gaussiansr").items()}
    net.load_state_dict(state | widths)
    return net


def test_names_shapes_and_parameters() -> None:
    net = GaussianSR()
    ours = {k: list(v.shape) for k, v in net.state_dict().items()}
    assert list(ours.items()) == list(golden.shapes("gaussiansr").items())
    assert sum(p.numel() for p in net.parameters()) == 1_838_159


@torch.inference_mode()
def test_every_stage_matches(net: GaussianSR) -> None:
    g = golden.arrays("gaussiansr")
    seen = {}
    named = {
        "head_c0_8": net.encoder.edsr.head,
        "res0_c0_8": net.encoder.edsr.body[0],
        "feat_c0_12": net.encoder.edsr,
        "seg_logits_c0_8": net.encoder.segmentation_head,
        "phase": net.phase,
        "mlp_in": net.fc,
    }
    handles = [
        m.register_forward_hook(lambda _m, args, out, k=k: seen.update({k: (args[0], out)}))
        for k, m in named.items()
    ]
    out = net(torch.from_numpy(g["input01"]), 4, torch.from_numpy(g["class_index"]).long())
    for handle in handles:
        handle.remove()
    for key in ("head_c0_8", "res0_c0_8", "feat_c0_12", "seg_logits_c0_8"):
        assert golden.error(seen[key][1][:, : g[key].shape[1]], g[key]) < STAGE, key
    assert golden.error(seen["phase"][1].view(1, -1), g["phase"]) < STAGE
    feature, index = seen["feat_c0_12"][1], torch.from_numpy(g["class_index"]).long()
    assert torch.equal(seen["seg_logits_c0_8"][1].argmax(1), index)
    chosen = torch.nn.functional.one_hot(index, 100).movedim(-1, 1).float()
    splat = net._splat(feature[:, :8], chosen, 4, (96, 96))
    assert golden.error(splat[:, :4, :64, :64], g["splat_c0_4_crop"]) < STAGE
    assert golden.error(splat[:, 7:8, ::2, ::2].reshape(g["splat_c7"].shape), g["splat_c7"]) < STAGE
    wide = torch.cat((splat, network.resized(feature[:, 8:], (96, 96))), 1)
    assert golden.error(wide[:, 8:10, ::2, ::2], g["upsampled_c8_10"]) < STAGE
    assert golden.error(net.coef(wide)[:, :4, ::4, ::4], g["coef_c0_4"]) < STAGE
    assert golden.error(net.freq(wide)[:, :4, ::4, ::4], g["freq_c0_4"]) < STAGE
    first = torch.from_numpy(g["mlp_in_first64"]).reshape(64, 256)
    assert golden.error(seen["mlp_in"][0][0, 0, :64], first) < WHOLE
    assert golden.error(net.fc(first).T, g["pred_raw"][0, :, 0, :64]) < STAGE
    assert golden.error(out, g["out_unclamped01"]) < WHOLE


@torch.inference_mode()
def test_other_scale_and_odd_size_match(net: GaussianSR) -> None:
    g, more = golden.arrays("gaussiansr"), golden.arrays("gaussiansr_more")
    out = net(torch.from_numpy(g["input01"]), 3, torch.from_numpy(g["class_index"]).long())
    assert golden.error(out, more["out_unclamped01_scale3"]) < WHOLE
    index = torch.from_numpy(more["class_index_25x19"]).long()
    odd = torch.from_numpy(more["input01_25x19"])
    assert golden.error(net(odd, 4, index), more["out_unclamped01_25x19"]) < WHOLE


@torch.inference_mode()
@pytest.mark.parametrize("scale", [1, 2, 2.5, math.pi, 6])
def test_any_scale_in_strips_of_any_height(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, lq = GaussianSR(**TINY).eval(), torch.rand(1, 3, 10, 17)
    whole = net(lq, scale)
    assert whole.shape == (1, 3, round(10 * scale), round(17 * scale))
    assert whole.isfinite().all()
    monkeypatch.setattr(network, "STRIP", 3 * whole.shape[3])
    assert golden.error(net(lq, scale), whole) < 1e-5


def test_choice_is_random_only_when_asked(tmp_path: Path, root: Path) -> None:
    torch.manual_seed(0)
    net = GaussianSR(**TINY)
    # The authors' layout: `model` holds name, arguments and the state under `sd`.
    model = {"name": "gaussian", "args": {"fc_spec": {"name": "mlp"}}, "sd": net.state_dict()}
    torch.save({"model": model, "optimizer": {}, "epoch": 1000}, tmp_path / "x.pth")
    official = method_card(root, "gaussiansr")
    assert GaussianSR(**official.settings).state_dict().keys() == GaussianSR().state_dict().keys()
    clip = torch.rand(2, 3, 14, 14)
    runs = {}
    for gumbel in (False, True):
        card = MethodCard(
            "x",
            1,
            "x",
            Weights("official", file="x.pth"),
            scale=3,
            settings=TINY | {"gumbel": gumbel},
            folder=str(tmp_path),
        )
        method = load(card, "cpu", torch.float32)
        runs[gumbel] = [torch.stack(list(method.upscale(iter(clip)))) for _ in range(2)]
    assert torch.equal(*runs[False])
    assert not torch.equal(*runs[True])
    with torch.inference_mode():
        assert torch.equal(runs[False][0][:1], net(clip[:1], 3))


def test_both_names_of_the_last_layers_are_read(tmp_path: Path, root: Path) -> None:
    """The authors' code writes `dec`, the checkpoint that they ship has `fc`."""
    card = replace(set_scale(method_card(root, "gaussiansr"), 4), settings=TINY)
    state = GaussianSR(**TINY).state_dict()
    found = []
    for prefix in ("fc", "dec"):
        path = tmp_path / f"{prefix}.pth"
        named = {re.sub(r"^fc\.", f"{prefix}.", k): v for k, v in state.items()}
        assert any(k.startswith(f"{prefix}.") for k in named)
        torch.save({"model": {"sd": named}}, path)
        own = replace(card, weights=Weights("official", file=str(path)))
        found.append(load(own, "cpu", torch.float32).net.state_dict())  # type: ignore[attr-defined]
    assert all(torch.equal(found[0][k], found[1][k]) for k in state)
