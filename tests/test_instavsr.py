"""InstaVSR: golden numerics of the full image backbone, and what the video part promises."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.instavsr.adapter import load
from methods.instavsr.network import Backbone, InstaVSR, from_official, same_scene
from vsrbench.specs import read_card
from vsrbench.types import Weights
from vsrbench.weights import save_checkpoint

SMALL: dict[str, Any] = {
    "channels": [12, 16],
    "heads": [0, 2],
    "mid_heads": 2,
    "layers": 1,
    "decoder_channels": [16, 12, 8, 8],
    "decoder_layers": 0,
    "decoder_mid_attention": True,
    "residual": True,
}


def meta_state(path: Path) -> dict[str, torch.Tensor]:
    """An official state dict without numbers."""
    return {k: torch.empty(s, device="meta") for k, s in json.loads(path.read_text()).items()}


def golden_tensor(name: str, shape: torch.Size, gain: float) -> torch.Tensor:
    """The golden weight called `name`; formula in golden/README.md."""
    i = np.arange(10007, dtype=np.int64)  # the pattern repeats after that
    j = (31 * i * i + 17 * i) % 10007
    phase = (zlib.crc32(name.encode()) % 10007) / 10007 * 2 * math.pi
    v = np.sin(0.7 * j + phase)
    if len(shape) > 1:
        v *= gain / math.sqrt(math.prod(shape[1:]))
    else:
        v = 1 + 0.1 * v if name.endswith("weight") else 0.02 * v
    return torch.from_numpy(np.resize(v.astype(np.float32), tuple(shape)))


def relative_error(a: torch.Tensor, b: np.ndarray[Any, Any]) -> float:
    assert tuple(a.shape) == b.shape
    return float(np.abs(a.numpy() - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    net = meta_state(shared / "golden/adcsr_net.keys.json")
    return net, meta_state(shared / "golden/adcsr_decoder.keys.json")


@pytest.fixture(scope="module")
def full(
    shared: Path, official: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
) -> Backbone:
    """The full image backbone under the golden weights, loaded through its official names."""
    gain = float(np.load(shared / "golden/adcsr.npz")["gain"])
    net, decoder = (
        {k: golden_tensor(k, v.shape, gain) for k, v in part.items() if ".1.body." not in k}
        for part in official
    )
    with torch.device("meta"):
        backbone = Backbone(window=64)
    backbone.load_state_dict(from_official(net, decoder), assign=True)
    return backbone.eval()


def test_full_network_has_the_official_tensors(
    official: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
) -> None:
    with torch.device("meta"):
        ours = Backbone()
    net, decoder = official
    loaded = from_official({f"module.{k}": v for k, v in net.items()}, decoder)
    assert {k: v.shape for k, v in loaded.items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }

    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for m in modules for p in m.parameters())

    dec = ours.decoder
    assert count(ours.unet) == 443_695_696
    assert count(dec.mid_block) == 2_626_048
    assert count(dec.up_blocks, dec.conv_norm_out, dec.conv_out) == 9_751_939
    assert count(ours) == 456_073_683


@torch.inference_mode()
def test_full_backbone_matches_golden_numerics(full: Backbone, shared: Path) -> None:
    unet, decoder = full.unet, full.decoder
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    points = {
        "conv_in": unet.conv_in,
        "d0_res0": unet.down_blocks[0].resnets[0],
        "d0_attn0_attn1": block.attn1,
        "d0_attn0_ff": block.ff,
        "d0_attn0": unet.down_blocks[0].attentions[0],
        "umid": unet.mid_block,
        "unet_out": unet,
        "dmid_attn": decoder.mid_block.attentions[0],
        "dmid_out": decoder.mid_block,
        "dec_norm": decoder.conv_norm_out,
        "net_output_raw": decoder,
    }
    for part, layers in (
        ("d", unet.down_blocks),
        ("u", unet.up_blocks),
        ("dec_up", decoder.up_blocks),
    ):
        points |= {f"{part}{i}": layer for i, layer in enumerate(layers)}
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, module in points.items()
    ]
    golden = np.load(shared / "golden/adcsr.npz")
    sr = full(torch.from_numpy(golden["input"]))
    for hook in hooks:
        hook.remove()
    checked = set()
    for key in golden.files:
        name = re.split("_tok_|_c0_", key)[0]
        if name in seen:
            want = golden[key]
            got = seen[name]
            got = got[..., : want.shape[-1]] if "_tok_" in key else got[:, : want.shape[1]]
            assert relative_error(got, want) < 5e-5, key
            checked.add(name)
    assert checked == set(points)
    crop = sr.clamp(0, 1)[:, :, 32:96, 32:96]
    assert relative_error(crop, golden["final_01_crop"]) < 5e-5


@torch.inference_mode()
def test_full_backbone_matches_golden_numerics_on_a_wide_image(
    full: Backbone, shared: Path
) -> None:
    golden = np.load(shared / "golden/adcsr_32x48.npz")
    sr = full(torch.from_numpy(golden["input"])).clamp(0, 1)
    assert relative_error(sr[:, :, 32:96, 32:160], golden["final_01_crop"]) < 5e-5


def awake(feedback: str) -> InstaVSR:
    """A small network in which every weight, also those that start at zero, does something."""
    torch.manual_seed(0)
    net = InstaVSR(feedback=feedback, flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    with torch.no_grad():
        for p in net.backbone.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def moving(n: int, seed: int, size: int = 24) -> torch.Tensor:
    """A clip (n, 3, size, size) of smooth noise that drifts one pixel a frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 4, (size + n) // 4 + 2, generator=generator)
    wide = F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)
    return torch.stack([wide[0, :, :, i : i + size] for i in range(n)])


def streamed(net: InstaVSR, frames: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack(list(net.stream(iter(frames))))


def differ(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize(("unshuffle", "widths"), [(1, [12, 8, 8]), (2, [16, 12, 8, 8])])
def test_training_starts_at_bicubic(unshuffle: int, widths: list[int]) -> None:
    config = SMALL | {"unshuffle": unshuffle, "decoder_channels": widths}
    net = InstaVSR(feedback="lq", flow_widths=[8, 8], flow_levels=3, **config)
    assert net.backbone.multiple_of == 2 * unshuffle
    clip = moving(3, seed=1)
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")
    assert differ(streamed(net, clip), bicubic) < 1e-6


@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
def test_image_state_makes_a_video_network_that_ignores_neighbours(feedback: str) -> None:
    torch.manual_seed(1)
    image = Backbone(**SMALL).eval()
    torch.nn.init.normal_(image.decoder.conv_out.weight, std=0.1)
    net = awake(feedback)
    net.spynet = Still()
    net.load_image_state(image.state_dict())
    clip = moving(1, seed=2).expand(4, -1, -1, -1)
    with torch.inference_mode():
        expected = image(clip)
    assert differ(streamed(net, clip), expected) < 1e-5


@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_stream_equals_forward(feedback: str, n: int) -> None:
    net, a, b = awake(feedback), moving(n, seed=3), moving(n, seed=4)
    if n == 5:
        b = torch.cat((b[:3], moving(2, seed=5)))  # scenes may change in one clip of a batch only
    with torch.inference_mode():
        alone, batch = net(a[None]), net(torch.stack((a, b)))
    assert batch.shape == (2, n, 3, 96, 96)
    assert differ(streamed(net, a), alone[0]) < 1e-5
    # A batch is computed in another order, and this network amplifies rounding.
    assert differ(streamed(net, a), batch[0]) < 1e-3
    assert differ(streamed(net, b), batch[1]) < 1e-3


@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
def test_output_depends_on_two_frames_ahead(feedback: str) -> None:
    net, clip = awake(feedback), moving(6, seed=6)
    whole, prefix = streamed(net, clip), streamed(net, clip[:5])
    assert differ(whole[:3], prefix[:3]) < 1e-5
    assert differ(whole[3], prefix[3]) > 1e-4
    assert differ(whole[4], prefix[4]) > 1e-4


def test_stream_answers_as_soon_as_it_can() -> None:
    read = []

    def frames() -> Any:
        for i, frame in enumerate(moving(5, seed=7)):
            read.append(i)
            yield frame

    counts = [len(read) for _ in awake("lq").stream(frames())]
    assert counts == [3, 4, 5, 5, 5]


@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
def test_past_reaches_the_next_frames(feedback: str) -> None:
    net, clip = awake(feedback), moving(7, seed=8)
    changed = clip.clone()
    changed[0] = (changed[0] + 0.05).clamp(0, 1)
    change = (streamed(net, clip) - streamed(net, changed)).abs().amax((1, 2, 3))
    assert change[2] > 1e-4  # inside the window
    assert (change[4] > 1e-7) == (feedback != "none")  # beyond it by recurrence alone


@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_scenes_are_processed_as_if_alone(feedback: str, at: int) -> None:
    net, a, b = awake(feedback), moving(at, seed=9), moving(6 - at, seed=10)
    alone = torch.cat((streamed(net, a), streamed(net, b)))
    assert differ(streamed(net, torch.cat((a, b))), alone) < 1e-5


@pytest.mark.parametrize("logit", [-1.0, 2.0])
def test_the_gate_averages_over_time(logit: float) -> None:
    # With nothing added to the bicubic image the output is its recursive mean, and of noise of
    # variance 1 the share (1 - g) / (1 + g) is left in the end.
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Still()
    torch.nn.init.constant_(net.backbone.decoder.conv_out.bias[3:], logit)
    clip = 0.5 + 0.02 * torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")
    gate = 1 / (1 + math.exp(-logit))
    wanted = [bicubic[0]]
    for frame in bicubic[1:]:
        wanted.append((1 - gate) * frame + gate * wanted[-1])
    assert differ(streamed(net, clip), torch.stack(wanted)) < 1e-5


def test_nothing_is_kept_from_beyond_the_frame() -> None:
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Drift()
    clip = moving(2, seed=17)
    first, second = streamed(net, clip)
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")[1]
    # The gate starts half open. What drifts by one LQ px has no past in the last four columns.
    assert differ(second[..., -4:], bicubic[..., -4:]) < 1e-6
    assert differ(second[..., :-4], (bicubic[..., :-4] + first[..., 4:]) / 2) < 1e-5


class Still(torch.nn.Module):
    """No motion."""

    def forward(self, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(ref), 2, *ref.shape[2:])


class Drift(torch.nn.Module):
    """The exact flow of `moving`, in both directions."""

    def forward(self, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        flow = torch.zeros(len(ref), 2, *ref.shape[2:])
        flow[: len(ref) // 2, 0], flow[len(ref) // 2 :, 0] = -1, 1
        return flow


def test_inputs_are_aligned_to_the_centre() -> None:
    net, clip = awake("detail"), moving(5, seed=16)
    net.spynet = Drift()
    inputs: list[torch.Tensor] = []
    net.backbone.register_forward_pre_hook(lambda _module, args: inputs.append(args[1]))
    sr = streamed(net, clip)
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")
    inner = slice(4, -4)
    for t, extra in enumerate(inputs):
        frames = F.pixel_shuffle(extra[0, :48], 2) / 2 + 0.5
        own = [clip[t]] * 2  # what stands for neighbours that do not exist
        past = [F.avg_pool2d(sr[i], 4).roll(i - t, -1) for i in range(t)]
        future = [clip[i].roll(i - t, -1) for i in range(t + 1, 5)]
        past, future = past[::-1][:2], future[:2]
        past, future = (side + (side[-1:] or own) * 2 for side in (past, future))
        for got, want in zip(frames.split(3), past[:2] + future[:2], strict=True):
            assert differ(got[:, inner, inner], want[:, inner, inner]) < 1e-4
        detail = F.pixel_shuffle(extra[0, 48:], 8) / 2
        want = sr[t - 1].roll(-4, -1) - bicubic[t] if t else torch.zeros_like(detail)
        assert differ(detail[:, 16:-16, 16:-16], want[:, 16:-16, 16:-16]) < 1e-4


def test_scene_detector() -> None:
    a, b = moving(8, seed=11, size=64)[[0, 1]], moving(2, seed=12, size=64)
    still = torch.zeros(1, 2, 64, 64)

    def same(x: torch.Tensor, y: torch.Tensor) -> bool:
        return bool(same_scene(x[None], y[None], still).item())

    noise = 0.1 * torch.randn(a[0].shape, generator=torch.Generator().manual_seed(0))
    grey = torch.full_like(a[0], 0.5)
    assert same(a[0], a[1])
    assert same(a[0], a[0] + noise)
    assert same(a[0], 0.4 * a[0])  # a fade
    assert same(a[0], (a[0] + 0.2).clamp(0, 1))  # a flash
    assert same(grey, grey + noise)  # nothing but noise
    assert not same(a[0], b[0])
    assert not same(a[0], grey)
    # Motion too fast for a comparison in place is followed by the flow.
    far = torch.roll(a[0], 24, 2)
    assert not same(a[0], far)
    assert bool(same_scene(a[:1], far[None], still + torch.tensor([24.0, 0]).view(1, 2, 1, 1)))


@pytest.mark.parametrize("feedback", ["lq", "detail"])
def test_gradient_flows_back_through_time(feedback: str) -> None:
    net = awake(feedback)
    lqs = moving(5, seed=13)[None].requires_grad_()
    out = net(lqs)
    out[0, 4].mean().backward()
    assert lqs.grad is not None
    assert (lqs.grad[0].abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in net.spynet.parameters())
    assert all(p.grad is not None for p in net.backbone.parameters())


def test_windows_limit_attention_and_nothing_else() -> None:
    torch.manual_seed(2)
    wide, narrow = Backbone(**SMALL).eval(), Backbone(**SMALL, window=4).eval()
    narrow.load_state_dict(wide.state_dict())
    torch.nn.init.normal_(wide.decoder.conv_out.weight)
    narrow.load_state_dict(wide.state_dict())
    with torch.inference_mode():
        small, large = moving(1, seed=14, size=8), moving(1, seed=14, size=40)
        assert differ(wide(small), narrow(small)) == 0
        assert differ(wide(large), narrow(large)) > 1e-5


def test_decoder_must_undo_the_unshuffling() -> None:
    with pytest.raises(ValueError, match="4 decoder widths and shuffle 1 do not make up x4"):
        Backbone(**SMALL, unshuffle=1)


def test_unknown_feedback_is_refused() -> None:
    with pytest.raises(ValueError, match="none, lq or detail"):
        InstaVSR(feedback="sr")


def test_cards(root: Path, tmp_path: Path) -> None:
    full_card = read_card(root / "methods/instavsr/instavsr-full.toml")
    with torch.device("meta"):
        net = InstaVSR(**full_card.settings)
    neighbours = 48 * 240 * 9
    assert sum(p.numel() for p in net.backbone.parameters()) == 456_073_683 + neighbours
    assert full_card.multiple_of == net.backbone.multiple_of
    assert full_card.weights.origin == "random"

    trained = awake("detail")
    save_checkpoint(tmp_path / "x.safetensors", trained.state_dict(), trained.config, "a test")
    card = replace(
        read_card(root / "methods/instavsr/instavsr.toml"),
        weights=Weights(origin="trained_here", file=str(tmp_path / "x.safetensors")),
    )
    clip = moving(3, seed=15)
    out = torch.stack(list(load(card, "cpu", torch.float32).upscale(iter(clip))))
    assert differ(out, streamed(trained, clip)) < 5e-2  # weights travel as fp16

    random = replace(card, settings=trained.config, weights=Weights(origin="random"))
    runs = [list(load(random, "cpu", torch.float32).upscale(iter(clip))) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
