"""InstaVSR: golden numerics of the full image backbone, and what the video part promises."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from safetensors.torch import load_file
from vsrbench.methods.instavsr import convert, network
from vsrbench.methods.instavsr.adapter import Streaming, load
from vsrbench.methods.instavsr.network import Backbone, InstaVSR, from_official, pruned
from vsrbench.methods.instavsr.picture import SteadyColour, match_colour, tiled
from vsrbench.methods.instavsr.unet import Transformer, by_windows
from vsrbench.methods.spynet import same_scene, warp

from tests import golden
from vsrbench.cards.specs import method_card, read_card
from vsrbench.cards.weights import identify, read_checkpoint, save_checkpoint
from vsrbench.core.errors import FAILED, MISSING, DataError
from vsrbench.core.types import Weights

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


Official = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def official() -> Official:
    """The two official state dicts, without numbers."""
    net, decoder = (
        {k: torch.empty(s, device="meta") for k, s in golden.shapes(name).items()}
        for name in ("adcsr_net", "adcsr_decoder")
    )
    return net, decoder


@pytest.fixture(scope="module")
def converted(official: Official, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The golden weights, saved as AdcSR saves them, and converted by the command."""
    folder = tmp_path_factory.mktemp("adcsr")
    gain = float(golden.arrays("adcsr")["gain"])
    net: dict[str, torch.Tensor] = {}
    for name, like in official[0].items():
        plain = name
        if name.startswith("body.1.body."):  # an alias of a tensor that has a plain name as well
            index, _, rest = name.removeprefix("body.1.body.").partition(".")
            parts = [*(f"down_blocks.{i}" for i in range(4)), "mid_block"]
            parts += [*(f"up_blocks.{i}" for i in range(4)), "conv_norm_out", "", "conv_out"]
            plain = f"body.1.{parts[int(index)]}.{rest}"
        first = net.get(f"module.{plain}")
        net[f"module.{name}"] = golden.tensor(plain, like.shape, gain) if first is None else first
    assert len(net) == 1076
    assert len({v.data_ptr() for v in net.values()}) == 552
    torch.save(net, folder / "net_params_200.pkl")
    del net, first
    decoder = {
        f"first_stage_model.decoder.{k}": golden.tensor(k, v.shape, gain)
        for k, v in official[1].items()
    }
    torch.save({"state_dict": decoder | {"loss.x": torch.ones(1)}}, folder / "halfDecoder.ckpt")
    out = folder / "instavsr-full.safetensors"
    pair = [str(folder / "net_params_200.pkl"), str(folder / "halfDecoder.ckpt")]
    assert convert.main(["adcsr", *pair, "--out", str(out)]) == 0
    (folder / "net_params_200.pkl").unlink()
    yield out
    out.unlink()


@pytest.fixture(scope="module")
def full(converted: Path, root: Path) -> InstaVSR:
    """`instavsr-full` as its card loads the converted file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSRBENCH_WEIGHTS", str(converted.parent))
        card = method_card(root, "instavsr-full")
        assert card.weights.origin == "user"
        assert "net_params_200.pkl (sha256" in card.weights.note
        method = load(card, "cpu", torch.float32)
    assert isinstance(method, Streaming)
    assert method.net.backbone.tile == card.settings["tile"]
    return method.net


def test_full_network_has_the_official_tensors(official: Official) -> None:
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
def test_full_backbone_matches_golden_numerics(full: InstaVSR) -> None:
    unet, decoder = full.backbone.unet, full.backbone.decoder
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    points = {
        "conv_in": unet.conv_in,
        "d0_res0": unet.down_blocks[0].resnets[0],
        "d0_attn0_attn1": block.attn1.to_out[0],
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
        module.register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.clone()})
        )
        for name, module in points.items()
    ]
    g = golden.arrays("adcsr")
    sr = full(torch.from_numpy(g["input"])[:, None])[:, 0]
    for hook in hooks:
        hook.remove()
    checked = set()
    for key in g:
        name = re.split("_tok_|_c0_", key)[0]
        if name in seen:
            want = g[key]
            got = seen[name]
            if "_tok_" in key:  # (b, h, w, c) here, (b, h * w, c) there
                got = got.flatten(1, 2)[..., : want.shape[-1]]
            else:
                got = got[:, : want.shape[1]]
            assert golden.error(got, want) < 5e-5, key
            checked.add(name)
    assert checked == set(points)
    crop = sr.clamp(0, 1)[:, :, 32:96, 32:96]
    assert golden.error(crop, g["final_01_crop"]) < 5e-5


@torch.inference_mode()
def test_full_video_of_a_still_picture_matches_golden_numerics(full: InstaVSR) -> None:
    g = golden.arrays("adcsr_32x48")
    still = torch.from_numpy(g["input"]).expand(3, -1, -1, -1)
    sr = streamed(full, still).clamp(0, 1)
    for frame in sr:
        assert golden.error(frame[None, :, 32:96, 32:160], g["final_01_crop"]) < 5e-5


SD_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "sample_size": 64,
}
SD_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


def test_stable_diffusion_prunes_to_the_documented_shapes() -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD_UNET), AutoencoderKL(**SD_VAE)
        ours = Backbone()
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    found = pruned(unet.state_dict(), vae.state_dict(), ours)
    new = {f"unet.{k}.{p}" for k in ("conv_in", "conv_out") for p in ("weight", "bias")}
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in ours.state_dict().items() if k not in new
    }


@pytest.mark.parametrize("names", ["new", "old"])
def test_pruning_takes_the_first_channels(names: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {
        "block_out_channels": (32, 64),
        "norm_num_groups": 8,
        "attention_head_dim": [2, 4],
        "cross_attention_dim": 8,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(**(SD_UNET | small))
    vae = AutoencoderKL(**(SD_VAE | {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8}))
    unet.save_pretrained(tmp_path / "unet")
    vae.save_pretrained(tmp_path / "vae")
    if names == "old":
        file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
        state = load_file(file)
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            state = {k.replace(f".{new}.", f".{old}."): v for k, v in state.items()}
        file.unlink()
        torch.save(state, file.with_suffix(".bin"))
    with torch.device("meta"):
        net = Backbone(
            channels=(24, 48), heads=(2, 0), mid_heads=4, layers=1, decoder_channels=(16, 16, 16, 8)
        )
    state = convert.from_stable_diffusion(tmp_path, net)
    net.load_state_dict(state, assign=True)  # every tensor is there and fits
    assert net(torch.rand(1, 3, 16, 16)).isfinite().all()
    for k, v in unet.state_dict().items():
        cross = ".attn2." in k or (".norm2." in k and ".transformer_blocks." in k)
        if "time_emb" in k or cross or k.startswith(("conv_in.", "conv_out.")):
            assert cross is False or f"unet.{k}" not in state
            continue
        for axis, n in enumerate(v.shape):
            keep = n if axis > 1 else int(0.75 * n)
            v = v.narrow(axis, 0, keep)
        assert torch.equal(state[f"unet.{k}"], v), k
    for k, v in vae.decoder.state_dict().items():
        if k.startswith("conv_in."):
            continue
        for axis, n in enumerate(v.shape):
            rgb = k.startswith("conv_out.") and axis == 0
            v = v.narrow(axis, 0, n if axis > 1 or rgb else n // 2)
        assert torch.equal(state[f"decoder.{k}"], v), k


def test_conversions_say_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out.safetensors")]
    assert convert.main(["sd", str(tmp_path), *out]) == MISSING
    assert "no diffusion_pytorch_model.safetensors" in capsys.readouterr().err
    (tmp_path / "x.pkl").write_bytes(b"nothing")
    assert convert.main(["adcsr", *[str(tmp_path / "x.pkl")] * 2, *out]) == FAILED
    assert "cannot be read" in capsys.readouterr().err
    net = awake("lq")
    save_checkpoint(tmp_path / "own.safetensors", net.state_dict(), net.config, "5 steps")
    assert convert.main(["own", str(tmp_path / "own.safetensors"), *out]) == 0
    state, metadata = read_checkpoint(tmp_path / "out.safetensors")
    assert metadata["origin"] == "trained_here"
    assert metadata["note"].startswith("5 steps; from own.safetensors (sha256 ")
    assert {k: list(v.shape) for k, v in state.items()} == {
        k: list(v.shape) for k, v in net.state_dict().items()
    }


def test_full_card_without_its_file_is_cost_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path))
    card = method_card(root, "instavsr-full")
    assert (card.weights.origin, card.weights.file, identify(card)) == ("random", "", "")
    # A file that is not trained says so, and stays cost only.
    net = awake("lq")
    path = tmp_path / "instavsr-full.safetensors"
    save_checkpoint(path, net.state_dict(), net.config, "pruned", "random")
    card = method_card(root, "instavsr-full")
    assert (card.weights.origin, card.weights.note) == ("random", "pruned")
    method = load(card, "cpu", torch.float32)
    assert isinstance(method, Streaming)
    ours, theirs = (n.backbone.unet.conv_in.bias.detach() for n in (method.net, net))
    assert golden.error(ours, theirs) < 1e-3  # stored in fp16
    path.write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be read"):
        method_card(root, "instavsr-full")


def awake(feedback: str, **changes: Any) -> InstaVSR:
    """A small network in which every weight, also those that start at zero, does something."""
    torch.manual_seed(0)
    config = SMALL | changes
    net = InstaVSR(feedback=feedback, flow_widths=[8, 8], flow_levels=3, **config).eval()
    with torch.no_grad():
        for part in (net.backbone, net.finish):
            for p in part.parameters() if part else ():
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


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
def test_output_depends_on_two_frames_ahead(feedback: str, residual: bool) -> None:
    net, clip = awake(feedback, residual=residual), moving(6, seed=6)
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


@pytest.mark.parametrize("feedback", ["lq", "detail"])
def test_what_the_finish_draws_stays_out_of_the_recurrence(feedback: str) -> None:
    net, clip = awake(feedback, finish=8), moving(5, seed=21)
    seen: list[torch.Tensor] = []
    assert net.finish is not None
    net.finish.register_forward_hook(lambda _, inputs, __: seen.extend(inputs))
    finished = streamed(net, clip)
    steady = torch.cat(seen[::2])
    net.finish = None
    assert torch.equal(streamed(net, clip), steady)
    assert differ(finished, steady) > 0.01
    averaged = torch.cat(seen[1::2])
    assert (averaged.max() > 1) == (feedback == "detail")  # else every frame is one alone


def test_the_finish_starts_with_nothing() -> None:
    torch.manual_seed(0)
    net = InstaVSR("detail", flow_widths=[8, 8], flow_levels=3, finish=8, **SMALL).eval()
    clip = moving(3, seed=22)
    with_it = streamed(net, clip)
    net.finish = None
    assert torch.equal(streamed(net, clip), with_it)


def test_learning_starts_from_the_memory() -> None:
    net = InstaVSR("detail", flow_widths=[8, 8], flow_levels=3, **SMALL)
    gate = net.backbone.decoder.conv_out.bias[3:].sigmoid()
    assert gate.tolist() == pytest.approx([1 / (1 + math.exp(-network.OPEN))])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("feedback", ["none", "lq", "detail"])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_scenes_are_processed_as_if_alone(feedback: str, at: int, residual: bool) -> None:
    net = awake(feedback, residual=residual)
    a, b = moving(at, seed=9), moving(6 - at, seed=10)
    alone = torch.cat((streamed(net, a), streamed(net, b)))
    assert differ(streamed(net, torch.cat((a, b))), alone) < 1e-5


@pytest.mark.parametrize("logit", [-1.0, 2.0, 20.0])
def test_the_gate_averages_over_time(logit: float) -> None:
    # With nothing added to the bicubic image the output is its recursive mean, older frames
    # counting by powers of g; with full trust the plain mean of all frames so far.
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Still()
    torch.nn.init.constant_(net.backbone.decoder.conv_out.bias[3:], logit)
    clip = 0.5 + 0.02 * torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")
    gate = 1 / (1 + math.exp(-logit))
    wanted = []
    for t in range(12):
        weights = gate ** torch.arange(t, -1, -1.0)
        wanted.append(torch.tensordot(weights / weights.sum(), bicubic[: t + 1], 1))
    assert differ(streamed(net, clip), torch.stack(wanted)) < 1e-5


def test_the_running_mean_stays_bounded_under_motion() -> None:
    # Half a pixel of SR a frame is where the warp overshoots most, with full trust again and again.
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Drift(1 / 8)
    torch.nn.init.constant_(net.backbone.decoder.conv_out.bias[3:], 20.0)
    x, t = torch.arange(32.0), torch.arange(160.0)[:, None]
    lines = 0.5 + 0.2 * torch.cos(2.5 * (x + t / 8))
    sr = streamed(net, lines[:, None, None].expand(-1, 3, 16, 32))[..., 48:-16]
    swing = (sr - 0.5).abs().amax((1, 2, 3))
    assert swing.max() < 0.3
    assert swing[120:].max() < 1.1 * swing[20:60].max()


def test_nothing_is_kept_from_beyond_the_frame() -> None:
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Drift()
    torch.nn.init.zeros_(net.backbone.decoder.conv_out.bias[3:])
    clip = moving(2, seed=17)
    first, second = streamed(net, clip)
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")[1]
    # The gate is half open. What drifts by one LQ px has no past in the last four columns, and
    # less than half of one where those next to it have none.
    assert differ(second[..., -4:], bicubic[..., -4:]) < 1e-6
    assert differ(second[..., :-12], (2 * bicubic[..., :-12] + first[..., 4:-8]) / 3) < 1e-5


def test_what_the_flow_missed_leaves_no_ghost() -> None:
    net = InstaVSR(feedback="detail", flow_widths=[8, 8], flow_levels=3, **SMALL).eval()
    net.spynet = Still()
    clip = torch.full((2, 3, 32, 32), 0.3)
    clip[0, :, 4:12, 4:12] = clip[1, :, 20:28, 20:28] = 0.7  # a square that jumps
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")[1]
    second = streamed(net, clip)[1]
    assert differ(second[:, 20:44, 20:44], bicubic[:, 20:44, 20:44]) < 1e-6
    assert differ(second[:, 84:108, 84:108], bicubic[:, 84:108, 84:108]) < 1e-6


def test_agreement_bears_noise() -> None:
    x = moving(1, seed=18, size=32)
    frame = F.interpolate(x, scale_factor=4, mode="bicubic")
    noisy = x + 8 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    again = network.agreement(frame - F.interpolate(noisy, scale_factor=4, mode="bicubic"))
    assert again.shape == (1, 1, 128, 128)
    assert again.mean() > 0.95
    assert (network.agreement(frame - frame) == 1).all()
    assert (network.agreement(torch.full_like(frame, 0.2)) == 0).all()


class Still(torch.nn.Module):
    """No motion."""

    def forward(self, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(ref), 2, *ref.shape[2:])


class Drift(torch.nn.Module):
    """The exact flow of `moving`, in both directions; px: its speed."""

    def __init__(self, px: float = 1.0) -> None:
        super().__init__()
        self.px = px

    def forward(self, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        flow = torch.zeros(len(ref), 2, *ref.shape[2:])
        flow[: len(ref) // 2, 0], flow[len(ref) // 2 :, 0] = -self.px, self.px
        return flow


def test_inputs_are_aligned_to_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    # A network of random weights makes frames that its input does not agree with.
    monkeypatch.setattr(network, "agreement", lambda apart: torch.ones_like(apart[:, :1]))
    net, clip = awake("detail"), moving(5, seed=16)
    net.spynet = Drift()
    inputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    net.backbone.register_forward_pre_hook(
        lambda _module, args: inputs.append(tuple(x.clone() for x in args[1]))
    )
    sr = streamed(net, clip)
    bicubic = F.interpolate(clip, scale_factor=4, mode="bicubic")
    inner = slice(4, -4)
    for t, (neighbours, known) in enumerate(inputs):
        frames = neighbours[0] / 2 + 0.5
        own = [clip[t]] * 2  # what stands for neighbours that do not exist
        past = [F.avg_pool2d(sr[i], 4).roll(i - t, -1) for i in range(t)]
        future = [clip[i].roll(i - t, -1) for i in range(t + 1, 5)]
        past, future = past[::-1][:2], future[:2]
        past, future = (side + (side[-1:] or own) * 2 for side in (past, future))
        for got, want in zip(frames.split(3), past[:2] + future[:2], strict=True):
            assert differ(got[:, inner, inner], want[:, inner, inner]) < 1e-4
        detail = known[0] / 2
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


@pytest.mark.parametrize("size", [(16, 24), (18, 19), (7, 40), (8, 8)])
def test_windows_of_one_size_go_through_at_once(size: tuple[int, int]) -> None:
    x = torch.rand(2, *size, 5)
    mix, calls = torch.nn.Linear(5, 4), []

    def layer(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(tokens.shape)
        return mix(tokens + tokens.mean(1, keepdim=True))

    with torch.inference_mode():
        found = by_windows(x, 8, layer)
        assert len(calls) == len(set(calls)) <= 4
        assert sum(b * n for b, n, _ in calls) == 2 * size[0] * size[1]
        rows = []
        for row in x.tensor_split(math.ceil(size[0] / 8), 1):
            cells = row.tensor_split(math.ceil(size[1] / 8), 2)
            rows.append(torch.cat([by_windows(cell, 0, layer) for cell in cells], 2))
    assert differ(found, torch.cat(rows, 1)) < 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("window", [0, 4])
def test_attention_is_that_of_diffusers(window: int) -> None:
    torch.manual_seed(0)
    ours, x = Transformer(16, 2, window).eval(), torch.randn(1, 16, 6, 10)
    block, y = (
        BasicTransformerBlock(16, 2, 8).eval(),
        ours.proj_in(ours.norm(x).permute(0, 2, 3, 1)),
    )
    block.load_state_dict(ours.transformer_blocks[0].state_dict())
    rows = []
    for row in y.tensor_split(math.ceil(6 / (window or 6)), 1):
        cells = row.tensor_split(math.ceil(10 / (window or 10)), 2)
        rows.append(
            torch.cat([block(c.flatten(1, 2)).unflatten(1, c.shape[1:3]) for c in cells], 2)
        )
    expected = x + ours.proj_out(torch.cat(rows, 1)).permute(0, 3, 1, 2)
    assert differ(ours(x), expected) < 1e-6


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("rows", [12, 13])
def test_one_frame_is_warped_by_all_threads_as_by_one(rows: int, mode: str) -> None:
    frame, flow = torch.rand(1, 3, rows, 9), torch.randn(1, 2, rows, 9)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = warp(frame, flow, "border", mode)
    finally:
        torch.set_num_threads(threads)
    expected = warp(frame.repeat(2, 1, 1, 1), flow.repeat(2, 1, 1, 1), "border", mode)
    assert torch.equal(found, expected[:1])


@torch.inference_mode()
def test_tiles_change_nothing_where_reach_is_short() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, padding=2),
        torch.nn.Upsample(scale_factor=2),
        torch.nn.Conv2d(8, 4, 5, padding=2),
    )
    for size in ((40, 96), (96, 40), (104, 200), (72, 72)):
        x = torch.rand(2, 3, *size)
        assert golden.error(tiled(layer, x, 64, 32, 8), layer(x)) < 1e-6
    sides = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        sides.append(tuple(x.shape[2:]))
        return x

    tiled(keep, torch.rand(1, 1, 104, 200), 64, 32, 8)
    assert max(max(s) for s in sides) <= 64
    assert all(n % 8 == 0 for s in sides for n in s)


@torch.inference_mode()
def test_tiles_leave_no_seam() -> None:
    """Tiles that disagree, as their norms do, are joined by a ramp: no step from pixel to pixel."""
    x = torch.zeros(1, 1, 128, 200)
    shades = iter(torch.linspace(0, 1, 100))
    y = tiled(lambda x: x + next(shades), x, 64, 32, 8)
    assert y.amax() > 0.05
    for axis in (2, 3):
        assert y.diff(dim=axis).abs().max() < 2.5 * y.amax() / 16


@torch.inference_mode()
def test_tiled_network_is_close_and_keeps_the_colours_of_the_whole_frame() -> None:
    torch.manual_seed(3)
    whole = Backbone(**(SMALL | {"residual": False, "decoder_mid_attention": False})).eval()
    config = SMALL | {"residual": False, "decoder_mid_attention": False, "tile": 128}
    parts = Backbone(**config).eval()
    parts.load_state_dict(whole.state_dict())
    lq = moving(1, seed=20, size=192)
    a, b = whole(lq), parts(lq)
    assert differ(a, b) > 1e-4
    assert F.l1_loss(a, b) < 0.25 * a.std()
    for out in (a, b):
        for channel in range(3):
            std, mean = torch.std_mean(out[0, channel])
            assert mean == pytest.approx(lq[0, channel].mean().item(), abs=1e-4)
            assert std == pytest.approx(lq[0, channel].std().item(), abs=1e-4)
    with pytest.raises(ValueError, match="too small"):
        Backbone(**SMALL, tile=64)


def test_colours_are_steady_within_a_scene_and_new_after_a_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, 32, 32, generator=generator)
    noisy = [picture * (1 + 0.05 * torch.randn(1, generator=generator)) for _ in range(12)]
    still = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    steady = SteadyColour()
    out = [steady(picture, x, still if i else None) for i, x in enumerate(noisy)]
    jumpy = [match_colour(picture, x) for x in noisy]

    def flicker(frames: list[torch.Tensor]) -> float:
        return float(torch.stack(frames).diff(dim=0).abs().mean())

    assert torch.equal(out[0], jumpy[0])
    assert flicker(out[1:]) < 0.35 * flicker(jumpy[1:])
    # A change of light is on both sides and passes at once.
    dimmed = steady(0.5 * picture, 0.5 * noisy[-1], still)
    assert differ(dimmed, 0.5 * steady(picture, noisy[-1], still)) < 0.02
    assert torch.equal(steady(picture, 1 - picture, ~still), match_colour(picture, 1 - picture))


@pytest.mark.parametrize("match", [match_colour, partial(SteadyColour(), same=None)])
def test_colours_are_matched_in_the_precision_of_the_picture(match: Any) -> None:
    """Under autocast the network answers in bfloat16, 0.5 grey levels apart at best."""
    picture = moving(1, seed=21)
    drawn = picture.sqrt().bfloat16()
    matched = match(drawn, picture)
    assert matched.dtype == torch.float32
    assert differ(matched, match(drawn.float(), picture)) < 1e-6
    assert match(drawn, picture.half()).dtype == torch.float16


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
    assert full_card.weights.file in ("", "instavsr-full.safetensors")
    neighbours = 48 * 240 * 9
    assert sum(p.numel() for p in net.backbone.parameters()) == 456_073_683 + neighbours
    assert full_card.multiple_of == net.backbone.multiple_of

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


def test_a_blend_is_the_mean_of_two_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("soft", "sharp", "other", "out")]
    for i, path in enumerate(files[:3]):
        torch.manual_seed(i)
        net = InstaVSR(
            feedback="lq" if i < 2 else "none", flow_widths=[8, 8], flow_levels=3, **SMALL
        )
        save_checkpoint(path, net.state_dict(), net.config, f"training {i}", half=False)
    soft, sharp, other, out = map(str, files)
    assert convert.main(["blend", soft, sharp, "--share", "0.75", "--out", out]) == 0
    (a, config), (b, _), (mean, about) = (read_checkpoint(files[i]) for i in (0, 1, 3))
    assert about["config"] == config["config"]
    assert about["note"] == "75% of sharp (training 1), the rest of soft (training 0)"
    for name in a:
        torch.testing.assert_close(mean[name], a[name] / 4 + 3 * b[name] / 4)
    assert convert.main(["blend", soft, other, "--out", out]) == 1
    assert "not of one network" in capsys.readouterr().err
