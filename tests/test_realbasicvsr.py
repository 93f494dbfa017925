"""RealBasicVSR against the golden numerics, its checkpoint layout, and the offline adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from vsrbench.methods.realbasicvsr.adapter import load
from vsrbench.methods.realbasicvsr.network import RealBasicVSR, from_official

from tests import golden
from vsrbench.cards.specs import method_card
from vsrbench.core.types import MethodCard, Weights

NARROW: dict[str, Any] = {"channels": 8, "blocks": 1, "cleaning_blocks": 1}


@pytest.fixture(scope="module")
def net() -> RealBasicVSR:
    """The official network under the golden weights, loaded through its official names."""
    gain = float(golden.arrays("realbasicvsr")["gain"])
    net = RealBasicVSR().eval()
    kept = {k: v for k, v in net.state_dict().items() if k.endswith((".mean", ".std"))}
    state = {
        f"generator_ema.{k}": kept.get(k, golden.tensor(k, s, gain))
        for k, s in golden.shapes("realbasicvsr").items()
    }
    net.load_state_dict(from_official(state))
    return net


def test_names_shapes_and_parameters() -> None:
    official = {k: torch.empty(s, device="meta") for k, s in golden.shapes("realbasicvsr").items()}
    net = RealBasicVSR()
    ours = {k: v.shape for k, v in net.state_dict().items()}
    assert list(from_official(official)) == list(ours)
    assert {k: v.shape for k, v in from_official(official).items()} == ours
    assert sum(p.numel() for p in net.parameters()) == 6_294_834


def test_the_averaged_generator_counts() -> None:
    state = {
        f"{prefix}fusion.bias": torch.full((1,), i)
        for i, prefix in enumerate(("generator.", "generator_ema.", "discriminator."))
    }
    assert from_official(state) == {"fusion.bias": torch.ones(1)}
    del state["generator_ema.fusion.bias"]
    assert from_official(state) == {"fusion.bias": torch.zeros(1)}


@torch.inference_mode()
def test_outputs_and_intermediates_match(net: RealBasicVSR) -> None:
    g = golden.arrays("realbasicvsr")
    vsr, seen = net.basicvsr, {}
    points = {
        "clean_feat": net.image_cleaning[0],
        "clean_res": net.image_cleaning,
        "flow": vsr.spynet,
        "back": vsr.backward_resblocks,
        "fwd": vsr.forward_resblocks,
        "fusion": vsr.fusion,
        "up1": vsr.upsample1,
    }
    handles = []
    for name, module in points.items():
        inputs, outputs = seen.setdefault(name, ([], []))

        def keep(
            _m: Any, args: Any, out: Any, inputs: Any = inputs, outputs: Any = outputs
        ) -> None:
            inputs.append(args[0])
            outputs.append(out)

        handles.append(module.register_forward_hook(keep))
    with FlopCounterMode(display=False) as counter:
        out = net(torch.from_numpy(g["input"]))[0]
    for handle in handles:
        handle.remove()
    flows = torch.stack(seen["flow"][1], 1)  # of each pair: forward, backward
    want = {
        "cleaned": torch.stack([x[:, :3] for x in seen["fwd"][0]], 1),
        "flows_forward": flows[:1],
        "flows_backward": flows[1:],
        "clean_feat_f0_c0_4": seen["clean_feat"][1][0],
        "clean_res_f0": seen["clean_res"][1][0],
        "back_f2_c0_4": seen["back"][1][0],
        "fwd_f0_c0_4": seen["fwd"][1][0],
        "fusion_f0_c0_4": seen["fusion"][1][0],
        "up1_f0_c0_2": seen["up1"][1][0],
        "back_warped_into_f1_c0_4": seen["back"][0][1][:, 3:],
        "fwd_warped_into_f2_c0_4": seen["fwd"][0][2][:, 3:],
        "out_frame0_crop": out[0, :, 96:160, 96:224],
        "out_frame2_crop": out[2, :, 64:192, 64:192],
        "out_mean": out.mean((1, 2, 3)),
        "out_std": out.flatten(1).std(1),
    }
    assert set(want) == set(g) - {"input", "gain"}
    for key, ours in want.items():
        ours = ours[:, : g[key].shape[1]] if "_c0_" in key else ours
        assert golden.error(ours.reshape(g[key].shape), g[key]) < 5e-5, key
    # Counted without the resized borders of SpyNet; 26.65 GMAC per 64x64 frame in golden/.
    assert counter.get_total_flops() / 2 / 3 * 64 / 80 == pytest.approx(26.65e9, rel=0.05)


@torch.inference_mode()
def test_odd_size_and_repeated_cleaning_match(net: RealBasicVSR) -> None:
    g = golden.arrays("realbasicvsr_odd")
    lqs = torch.from_numpy(g["input"])
    cleaned = net.clean(lqs.unbind(1))
    assert golden.error(torch.stack(cleaned, 1), g["cleaned"]) < 5e-5
    flow = net.basicvsr.spynet(cleaned[1], cleaned[0])
    assert golden.error(flow[:, None].reshape(g["flows_forward"].shape), g["flows_forward"]) < 5e-5
    out = net(lqs)[0]
    assert golden.error(out[1, :, :96, :96], g["out_frame1_crop"]) < 5e-5
    net.clean_until = 5.0
    again = net.clean(torch.from_numpy(golden.arrays("realbasicvsr")["input"]).unbind(1))
    net.clean_until = 255.0
    assert golden.error(torch.stack(again, 1), g["thres5_cleaned_64x80"]) < 5e-5


def test_card_reads_the_authors_layout(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = RealBasicVSR(**NARROW).eval()
    theirs = {}
    for k, v in net.state_dict().items():
        *head, index, last = k.split(".")
        if "spynet.basic_module" in k:
            k = ".".join((*head, str(int(index) // 2), "conv", last))
        theirs |= {f"generator_ema.{k}": v, f"generator.{k}": torch.zeros_like(v)}
    wrapped = {"meta": {"epoch": 1}, "state_dict": theirs | {"step_counter": torch.tensor([1])}}
    torch.save(wrapped, tmp_path / "x.pth")
    official = method_card(root, "realbasicvsr")
    assert (
        RealBasicVSR(**official.settings).state_dict().keys() == RealBasicVSR().state_dict().keys()
    )
    card = MethodCard(
        "x", 1, "x", Weights("official", file="x.pth"), settings=NARROW, folder=str(tmp_path)
    )
    clip = torch.from_numpy(np.random.default_rng(0).random((2, 3, 64, 64), np.float32))
    sr = torch.stack(list(load(card, "cpu", torch.float32).upscale(iter(clip))))
    with torch.inference_mode():
        assert torch.equal(sr, net(clip[None])[0])
