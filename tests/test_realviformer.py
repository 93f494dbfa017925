"""RealViformer and SpyNet against the golden numerics, and the streaming adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from vsrbench.methods.realviformer.adapter import load
from vsrbench.methods.realviformer.network import RealViformer
from vsrbench.methods.spynet import SpyNet, warp

from tests import golden
from vsrbench.cards.specs import method_card
from vsrbench.cards.weights import save_checkpoint
from vsrbench.core.errors import DataError, MissingError
from vsrbench.core.types import MethodCard, Weights
from vsrbench.run.method import padding

NARROW: dict[str, Any] = {
    "num_feat": 16,
    "num_blocks": (1, 1, 1, 1),
    "hr_feat": 8,
    "flow_widths": (4, 8, 4, 4),
}


@pytest.fixture(scope="module")
def official() -> RealViformer:
    net = RealViformer().eval()
    golden.fill(net, float(golden.arrays("realviformer")["gain"]))
    return net


@pytest.fixture(scope="module")
def run(official: RealViformer) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
    """Output of the golden clip and every named intermediate, one entry per call."""
    net, seen = official, {}
    named = {
        "conv0": net.shallow_extraction[0],
        "shallow": net.shallow_extraction,
        "merge": net.attn_merge,
        "enc1_0_attn": net.encoder_level1[0].attn,
        "enc1_0_ffn": net.encoder_level1[0].ffn,
        "enc1": net.encoder_level1,
        "down1_2": net.down1_2,
        "latent": net.latent,
        "up3_2": net.up3_2,
        "dec2": net.decoder_level2,
        "dec1": net.decoder_level1,
        "refine": net.refinement,
        "compress": net.compress,
        "flow": net.spynet,
    }

    def keep(name: str) -> Callable[..., None]:
        seen[name] = []
        return lambda _module, _args, out: seen[name].append(out)

    def keep_state(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen["warped_prop"].append(args[1])

    handles = [module.register_forward_hook(keep(name)) for name, module in named.items()]
    seen["warped_prop"] = []
    handles.append(net.attn_merge.register_forward_pre_hook(keep_state))
    with torch.no_grad():
        out = net(torch.from_numpy(golden.arrays("realviformer")["input"]))
    for handle in handles:
        handle.remove()
    return out, seen


def shapes(net: torch.nn.Module) -> list[tuple[str, list[int]]]:
    return [(name, list(tensor.shape)) for name, tensor in net.state_dict().items()]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def one_scene(n: int, h: int, w: int) -> torch.Tensor:
    """A clip (1, n, 3, h, w) of one picture under noise: no cut in it."""
    return 0.8 * noise(1, 1, 3, h, w) + 0.2 * noise(1, n, 3, h, w)


def narrow_net() -> RealViformer:
    torch.manual_seed(0)
    return RealViformer(**NARROW).eval()


def card(folder: Path | str = "", **kwargs: Any) -> MethodCard:
    weights = kwargs.pop("weights", Weights(origin="random"))
    return MethodCard("rvf", 1, "rvf", weights, settings=NARROW, folder=str(folder), **kwargs)


# warp


@pytest.mark.parametrize("case", ["bilinear_zeros", "bilinear_border", "nearest_zeros"])
def test_warp_matches(case: str) -> None:
    g = golden.arrays("flow_warp")
    mode, pad = case.split("_")
    out = warp(torch.from_numpy(g["x"]), torch.from_numpy(g["flow_nhw2"]).movedim(-1, 1), pad, mode)
    assert golden.error(out, g[case]) < 1e-5


def test_warp_of_constant_flow() -> None:
    g = golden.arrays("flow_warp")
    x = torch.from_numpy(g["x"])
    flow = torch.zeros(1, 2, *x.shape[-2:])
    assert golden.error(warp(x, flow), g["zero_flow"]) < 1e-5
    shifted = warp(x, flow + torch.tensor([2.0, -1.0]).view(1, 2, 1, 1))
    assert golden.error(shifted, g["int_shift_plus2x_minus1y"]) < 1e-5


def test_warp_keeps_half_precision_positions() -> None:
    x = noise(1, 2, 4, 1000).bfloat16()
    shifted = warp(x, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 1000).bfloat16())
    assert shifted.dtype == torch.bfloat16
    assert golden.error(shifted[..., :-1], x[..., 1:]) < 1e-2


# SpyNet


def test_spynet_keys() -> None:
    want = golden.shapes("spynet")
    assert shapes(SpyNet()) == list(want.items())


@pytest.mark.parametrize("size", ["", "_50x70", "_32x32"])
def test_spynet_matches(size: str) -> None:
    g = golden.arrays("spynet")
    net = SpyNet().eval()
    golden.fill(net, float(g["gain"]))
    residuals: list[torch.Tensor] = []
    for module in net.basic_module:
        module.register_forward_hook(lambda _module, _args, out: residuals.append(out))
    with torch.no_grad():
        flow = net(torch.from_numpy(g["ref" + size]), torch.from_numpy(g["supp" + size]))
    assert golden.error(flow, g["flow" + size]) < 1e-5
    assert len(residuals) == (5 if size == "_32x32" else 6)
    for level in range(6 if size == "" else 0):
        assert golden.error(residuals[level], g[f"residual_level{level}"]) < 1e-5


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (64, 32), (20, 100), (33, 65), (5, 7)])
def test_spynet_takes_any_size(size: tuple[int, int]) -> None:
    frame = noise(2, 3, *size)
    assert SpyNet((4, 4, 4, 4))(frame, frame).shape == (2, 2, *size)


# The network


def test_keys_and_parameters() -> None:
    want = golden.shapes("realviformer")
    net = RealViformer()
    assert shapes(net) == list(want.items())
    assert sum(p.numel() for p in net.parameters()) == 5_817_593


def test_outputs_match(run: tuple[torch.Tensor, Any]) -> None:
    g, (out, _) = golden.arrays("realviformer"), run
    crop = out[0, :, :, 96:160, 96:160]
    assert golden.error(out[0, 2], g["out_frame2"]) < 5e-4
    assert golden.error(crop[0], g["out_frame0_crop"]) < 5e-4
    assert golden.error(crop[1], g["out_frame1_crop"]) < 5e-4
    assert golden.error(out.mean((0, 2, 3, 4)), g["out_mean"]) < 5e-4
    assert golden.error(out[0].flatten(1).std(1), g["out_std"]) < 5e-4


def test_intermediates_match(run: tuple[torch.Tensor, dict[str, list[torch.Tensor]]]) -> None:
    g, (_, seen) = golden.arrays("realviformer"), run
    assert golden.error(torch.stack(seen["flow"], dim=1), g["flows_forward"]) < 1e-5
    named = {key: key.partition("_c0_") for key in g if key.startswith(("f0_", "f1_"))}
    assert len(named) == 14
    for key, (name, _, channels) in named.items():
        ours = seen[name[3:]][int(name[1])][:, : int(channels)]
        assert golden.error(ours, g[key]) < 5e-4, key


def test_odd_size_matches_with_the_padding_of_the_harness(
    root: Path, official: RealViformer
) -> None:
    g = golden.arrays("realviformer_odd")
    clip = torch.from_numpy(g["input"])
    pad = padding(method_card(root, "realviformer-official"), (61, 66))
    left, _, top, _ = pad
    assert (left, top) == (int(g["pad_left"]), int(g["pad_top"]))
    padded = F.pad(clip[0], pad, mode="reflect")[None]
    assert golden.error(padded[0, 0], g["padded_input_frame0"]) == 0
    with torch.no_grad():
        out = official(padded)[..., 4 * top :, 4 * left :]
        assert (
            golden.error(official.spynet(padded[:, 1], padded[:, 0]), g["flows_forward"][:, 0])
            < 1e-5
        )
    assert golden.error(out[0, 1], g["out_frame1"]) < 5e-4
    assert golden.error(out[0, 0, :, :64, :64], g["out_frame0_crop"]) < 5e-4


def test_narrow_network_learns() -> None:
    net = narrow_net().train()
    out = net(noise(2, 3, 3, 32, 32))
    assert out.shape == (2, 3, 3, 128, 128)
    out[:, 2].square().mean().backward()
    for name, p in net.named_parameters():
        idle = name.startswith("spynet.basic_module.5.")  # the finest level, at 32 px
        assert (p.grad is None) == idle, name
        assert idle or (p.grad.isfinite().all() and p.grad.any()), name


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (36, 20)])
def test_small_frames(size: tuple[int, int]) -> None:
    h, w = size
    with torch.no_grad():
        assert narrow_net()(noise(1, 2, 3, h, w)).shape == (1, 2, 3, 4 * h, 4 * w)


def test_size_is_checked() -> None:
    with pytest.raises(DataError, match=r"34x32.*multiple of 4"):
        narrow_net()(noise(1, 1, 3, 32, 34))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    net, clip = narrow_net(), noise(1, 2, 3, 16, 16)
    half = copy.deepcopy(net).to(dtype)
    half.spynet.float()
    with torch.no_grad():
        want, kept, cast = net(clip), half(clip), half(clip.to(dtype))
    assert (kept.dtype, cast.dtype) == (torch.float32, dtype)
    assert golden.error(kept, want) < 0.02
    assert golden.error(cast.float(), want) < 0.02


# The adapter


def test_streaming_equals_batch() -> None:
    clip = one_scene(4, 32, 40)
    net, method = narrow_net(), load(card(), "cpu", torch.float32)
    read = 0

    def frames() -> Iterator[torch.Tensor]:
        nonlocal read
        for frame in clip[0]:
            read += 1
            yield frame

    streamed = []
    for i, sr in enumerate(method.upscale(frames())):
        assert read == i + 1  # causal: answered as soon as it is read
        streamed.append(sr)
    with torch.inference_mode():
        batch = net(clip)[0]
    assert torch.equal(torch.stack(streamed), batch)
    assert torch.equal(next(method.upscale(iter(clip[0]))), batch[0])  # a fresh call, fresh state


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    want = torch.rand(1)
    torch.manual_seed(1)
    load(card(), "cpu", torch.float32)
    assert torch.equal(torch.rand(1), want)


def test_checkpoint_carries_its_configuration(tmp_path: Path) -> None:
    net, clip = narrow_net(), one_scene(2, 32, 32)
    save_checkpoint(tmp_path / "net.safetensors", net.state_dict(), NARROW, "test")
    ours = Weights(origin="trained_here", file="net.safetensors")
    method = load(MethodCard("rvf", 1, "rvf", ours, folder=str(tmp_path)), "cpu", torch.float32)
    with torch.inference_mode():
        want = net(clip)[0]
    assert (
        golden.error(torch.stack(list(method.upscale(iter(clip[0])))), want) < 1e-2
    )  # stored in fp16


def test_authors_wrapping_is_read(tmp_path: Path) -> None:
    net, clip = narrow_net(), one_scene(2, 32, 32)
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    theirs = card(tmp_path, weights=Weights(origin="official", file="net.pth"))
    sr = torch.stack(list(load(theirs, "cpu", torch.float32).upscale(iter(clip[0]))))
    with torch.inference_mode():
        assert torch.equal(sr, net(clip)[0])


def test_wrong_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    theirs = card(tmp_path, weights=Weights(origin="official", file="net.pth"))
    with pytest.raises(MissingError, match=r"net\.pth"):
        load(theirs, "cpu", torch.float32)
    state = narrow_net().state_dict()
    del state["conv_last.bias"]
    torch.save({"params": state}, tmp_path / "net.pth")
    with pytest.raises(DataError, match=r"conv_last\.bias"):
        load(theirs, "cpu", torch.float32)


def test_official_card_is_the_official_network(root: Path) -> None:
    settings = method_card(root, "realviformer-official").settings
    assert shapes(RealViformer(**settings)) == shapes(RealViformer())
