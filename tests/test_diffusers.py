"""Cards of published weights that are not here: Stable Diffusion's x4 upscaler and Real-ESRGAN.

The former is a tiny random pipeline in the layout of the published folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    LDMSuperResolutionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel.architectures.ESRGAN import ESRGAN
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from vsrbench.methods.diffusers.adapter import PerFrame, load
from vsrbench.methods.instavsr.unpruned import OneStep

from vsrbench.cards import weights
from vsrbench.cards.specs import method_card
from vsrbench.cli import main
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.types import MethodCard
from vsrbench.core.variables import WEIGHTS
from vsrbench.data import frames
from vsrbench.run import cost
from vsrbench.run.method import entry, load_method

NAME = "stable-diffusion-x4-upscaler"
UNET = "unet/diffusion_pytorch_model.safetensors"


def make(folder: Path, seed: int = 0) -> Path:
    """A tiny random pipeline: depth and kinds of its parts are those of the published one."""
    texts = folder.parent / "tokenizer"
    texts.mkdir(parents=True, exist_ok=True)
    words = ["!", "l", "o", "w</w>", "lo", "low</w>", "<|startoftext|>", "<|endoftext|>"]
    (texts / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (texts / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    noise = {"beta_start": 0.0001, "beta_end": 0.02}
    torch.manual_seed(seed)
    StableDiffusionUpscalePipeline(
        tokenizer=CLIPTokenizer.from_pretrained(texts, model_max_length=77, pad_token="!"),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=8,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=6,
                eos_token_id=7,
            )
        ),
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=7,
            out_channels=4,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            only_cross_attention=(True, True, True, False),
            attention_head_dim=8,
            cross_attention_dim=16,
            use_linear_projection=True,
            num_class_embeds=1000,  # the level of noise
            norm_num_groups=4,
        ),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.08333,
        ),
        low_res_scheduler=DDPMScheduler(**noise, beta_schedule="scaled_linear"),
        scheduler=DDIMScheduler(
            **noise,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
        ),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of weights; tests that change it work on a copy."""
    return make(tmp_path_factory.mktemp("weights") / NAME)


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of weights where the card looks for it."""
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "shelf"))
    return Path(shutil.copytree(whole, tmp_path / "shelf" / NAME))


@pytest.fixture
def card(root: Path) -> MethodCard:
    """The card, with fewer steps."""
    found = method_card(root, "sd-x4-upscaler")
    return replace(found, settings={**found.settings, "num_inference_steps": 2})


@pytest.fixture
def run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Both methods by name on a clip of odd size: (exit code, stderr). Few steps, no known hash."""
    own = tmp_path / "root" / "methods"
    for name, file, old, new in (
        ("diffusers", "sd-x4-upscaler", "num_inference_steps = 75", "num_inference_steps = 2"),
        ("spandrel", "realesrgan", "sha256 =", "# sha256 ="),
    ):
        shutil.copytree(root / "methods" / name, own / name)
        path = own / name / f"{file}.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    lq = tmp_path / "lq"
    lq.mkdir()
    for t, seed in enumerate((0, 0, 1)):  # the first two are the same picture
        Image.fromarray(pictures(seed, 11, 21)).save(lq / f"{t}.png")

    def call(method: str, *more: str, of: Path = own.parent) -> tuple[int, str]:
        args = ["--methods", method, "--input", str(lq), "--metrics", "lr_psnr", "--no-cost"]
        args += ["--keep-frames", "--root", str(of), "--results", str(tmp_path / "results"), *more]
        code = main(args)
        return code, capsys.readouterr().err

    return call


def pictures(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def kept(tmp_path: Path, method: str) -> list[np.ndarray]:
    source = frames.open_frames(tmp_path / "results" / "frames" / method / "lq" / "lq")
    return [source[i] for i in range(len(source))]


def upscaled(method: Any, *images: np.ndarray) -> list[torch.Tensor]:
    return list(method.upscale(torch.from_numpy(x).permute(2, 0, 1) / 255 for x in images))


def test_by_name_it_runs_repeats_and_asks_nobody(
    run: Callable[..., tuple[int, str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    code, err = run("sd-x4-upscaler")
    assert code == 0, err
    assert not re.search("Loading|dtype|it/s", err)  # bars and remarks of libraries
    first = kept(tmp_path, "sd-x4-upscaler")
    assert [f.shape for f in first] == [(44, 84, 3)] * 3
    assert np.array_equal(first[0], first[1])  # the same picture and noise
    assert not np.array_equal(first[0], first[2])
    assert np.ptp(first[0]) > 50
    code, err = run("sd-x4-upscaler", "--fresh")
    assert code == 0, err
    again = kept(tmp_path, "sd-x4-upscaler")
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_it_is_the_pipeline_on_pictures(folder: Path, card: MethodCard) -> None:
    """Ranges, prompt and the guidance that the card leaves out."""
    image = pictures(0, 16, 24)
    pipe = StableDiffusionUpscalePipeline.from_pretrained(folder)
    want = pipe(
        prompt="",
        image=Image.fromarray(image),
        num_inference_steps=2,
        noise_level=20,
        guidance_scale=9.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    (got,) = upscaled(load(card, "cpu", torch.float32), image)
    assert np.abs(got.permute(1, 2, 0).numpy() - want).max() < 1e-4


def test_the_smallest_frames_and_tiles(folder: Path, card: MethodCard) -> None:
    plain = load(card, "cpu", torch.float32)
    tiled = load(replace(card, settings={**card.settings, "tile": 16}), "cpu", torch.float32)
    assert upscaled(plain, pictures(0, 8, 8))[0].shape == (3, 32, 32)
    fits, larger = pictures(0, 16, 16), pictures(0, 24, 40)
    assert torch.equal(upscaled(plain, fits)[0], upscaled(tiled, fits)[0])
    assert upscaled(tiled, larger)[0].shape == (3, 96, 160)
    assert not torch.equal(upscaled(plain, larger)[0], upscaled(tiled, larger)[0])
    assert isinstance(plain, PerFrame)
    parts = (plain.pipe.unet, plain.pipe.text_encoder, plain.pipe.vae)
    counted = sum(p.numel() for p in plain.net.parameters())
    assert counted == sum(p.numel() for part in parts for p in part.parameters())


def test_the_names_of_2022_are_read(whole: Path, folder: Path, card: MethodCard) -> None:
    """Files and names as published, which the libraries have given up since and keep reading."""
    want = upscaled(load(card, "cpu", torch.float32), pictures(0, 8, 8))
    text, vae = folder / "text_encoder/model.safetensors", folder / UNET.replace("unet", "vae")
    state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(text).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, text, metadata={"format": "pt"})
    then = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(vae)
    for new, old in then.items():
        state = {k.replace(f"attentions.0.{new}", f"attentions.0.{old}"): state[k] for k in state}
    assert sum("proj_attn" in k for k in state) == 4
    save_file(state, vae, metadata={"format": "pt"})
    tokenizer = folder / "tokenizer"
    for path in tokenizer.iterdir():
        path.unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(whole.parent / "tokenizer" / name, tokenizer)
    # Only the second says what a text is filled up with.
    of = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(of))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert torch.equal(upscaled(load(card, "cpu", torch.float32), pictures(0, 8, 8))[0], want[0])


def test_identity_is_the_content_of_what_is_loaded(
    folder: Path, card: MethodCard, tmp_path: Path
) -> None:
    first = weights.identify(card)
    files = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    assert UNET in files
    assert "tokenizer/tokenizer_config.json" in files
    lines = [f"{hashlib.sha256((folder / f).read_bytes()).hexdigest()}  {f}\n" for f in files]
    assert first == hashlib.sha256("".join(lines).encode()).hexdigest()
    for name in ("x4-upscaler-ema.safetensors", "README.md", "unet/x.bin", ".cache/x.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not loaded")
    shutil.copy(folder / UNET, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert weights.identify(card) == first
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    here = replace(card, weights=replace(card.weights, file=str(elsewhere)))
    assert weights.identify(here) == first
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    changed = weights.identify(card)
    shutil.rmtree(folder)
    make(folder, seed=1)
    assert len({first, changed, weights.identify(card)}) == 3
    expected = replace(card, weights=replace(card.weights, sha256=first))
    with pytest.raises(MissingError, match="do not match its card"):
        weights.identify(expected)


def test_absent_it_says_how_to_get_it(
    run: Callable[..., tuple[int, str]], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run("sd-x4-upscaler")
    assert code == 3
    assert f"method 'sd-x4-upscaler' needs its weights {NAME}, not found" in err
    assert "vsrbench weights fetch --for sd-x4-upscaler" in err
    assert "put the folder into a folder named in $VSRBENCH_WEIGHTS" in err
    assert main(["check", "--methods", "sd-x4-upscaler"]) == 3
    assert "vsrbench weights fetch --for sd-x4-upscaler" in capsys.readouterr().out


def lacks_a_tensor(folder: Path) -> None:
    state = load_file(folder / UNET)
    del state["conv_in.bias"]
    save_file(state, folder / UNET, metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    state = load_file(folder / UNET)
    state["conv_in.weight"] = state["conv_in.weight"][:, :4].contiguous()
    save_file(state, folder / UNET, metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickles only": (
        lambda f: (f / UNET).rename(f / "unet/diffusion_pytorch_model.bin"),
        "no file named diffusion_pytorch_model.safetensors",
    ),
    "truncated": (
        lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:9999]),
        "cannot be read",
    ),
    "lacks a tensor": (lacks_a_tensor, f"unet in .*{NAME} lacks conv_in.bias"),
    "other shapes": (other_shapes, "cannot be read: .*conv_in.weight"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "config.json"),
    "bad index": (
        lambda f: (f / "model_index.json").write_text("{"),
        "cannot be read: .*config file",
    ),
    "no text": (lambda f: shutil.rmtree(f / "tokenizer"), "lacks its vocabulary"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_one_line(card: MethodCard, folder: Path, how: str) -> None:
    damage, words = BROKEN[how]
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_method(card, "cpu")
    assert "\n" not in caught.value.message


def test_a_broken_folder_fails_its_run(run: Callable[..., tuple[int, str]], folder: Path) -> None:
    damage, words = BROKEN["lacks a tensor"]
    damage(folder)
    code, err = run("sd-x4-upscaler")
    assert code == 1
    assert re.search(words, " ".join(err.split()))
    assert "Traceback" not in err


def test_without_its_index_a_folder_is_not_one(folder: Path, card: MethodCard) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(MissingError, match="not found"):
        weights.identify(card)


def test_without_transformers_only_this_method_is_missing(
    card: MethodCard, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vsrbench.methods.diffusers.adapter")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingError, match=r"'sd-x4-upscaler' needs the package transformers"):
        entry(card)
    assert entry(method_card(root, "realesrgan"))


def as_ncnn_has_it(net: torch.nn.Module, path: Path) -> None:
    """Weights as in the files of ncnn: of each convolution a tag, fp16 and then a bias in fp32."""
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    lines, content = [], b""
    for number, conv in enumerate(layers):
        size = conv.weight.numel()
        lines.append(f"Convolution c{number} 1 1 a b 0={conv.out_channels} 1=3 4=1 5=1 6={size}")
        weight, bias = conv.weight.detach().half().numpy(), conv.bias.detach().numpy()
        content += struct.pack("<I", 0x01306B47) + weight.tobytes() + b"\0" * (size % 2 * 2)
        content += bias.tobytes()
    path.with_suffix(".param").write_text("\n".join(["7767517", f"{len(lines)} 1", *lines]))
    path.with_suffix(".bin").write_bytes(content)


def test_realesrgan_by_name(
    run: Callable[..., tuple[int, str]],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, err = run("realesrgan", of=root)
    assert code == 3
    assert "needs its weights realesrgan-x4plus.bin, not found" in err
    assert "vsrbench weights fetch --for realesrgan" in err
    torch.manual_seed(0)
    net = ESRGAN(num_filters=8, num_blocks=1, scale=4)
    monkeypatch.setenv(WEIGHTS, str(tmp_path))
    as_ncnn_has_it(net, tmp_path / "realesrgan-x4plus")
    code, err = run("realesrgan", of=root)
    assert code == 3
    assert "do not match its card" in err
    code, err = run("realesrgan")
    assert code == 0, err
    assert [f.shape for f in kept(tmp_path, "realesrgan")] == [(44, 84, 3)] * 3


def test_another_pipeline_needs_a_card_alone(
    tmp_path: Path,
) -> None:
    """Latent diffusion's first upscaler: no text, another autoencoder, arrays for tensors."""
    torch.manual_seed(0)
    folder = tmp_path / "ldm"
    LDMSuperResolutionPipeline(
        vqvae=VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3,
            norm_num_groups=4,
        ),
        unet=UNet2DModel(
            sample_size=32,
            in_channels=6,
            out_channels=3,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(),
    ).save_pretrained(folder)
    path = tmp_path / "methods/mine/ldm.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        'version = 1\ntitle = "LDM"\nentry = "methods.diffusers.adapter:load"\nscale = 2\n'
        'multiple_of = 32\n[settings]\npipeline = "LDMSuperResolutionPipeline"\n'
        f'num_inference_steps = 2\n[weights]\norigin = "official"\nfile = "{folder}"\n'
    )
    card = method_card(tmp_path, "ldm")
    image = pictures(0, 32, 64)
    made: Any = entry(card)(card, "cpu", torch.float32)
    (got,) = upscaled(made, image)
    assert got.shape == (3, 64, 128)
    pipe = LDMSuperResolutionPipeline.from_pretrained(folder)
    noise = torch.Generator().manual_seed(0)
    want = pipe(Image.fromarray(image), num_inference_steps=2, generator=noise, output_type="np")
    assert np.abs(got.permute(1, 2, 0).numpy() - want.images[0]).max() < 1e-4
    large = replace(card, settings={**card.settings, "enlarged": True})
    made = entry(large)(large, "cpu", torch.float32)
    assert upscaled(made, image)[0].shape == (3, 128, 256)
    wrong = replace(card, settings={"pipeline": "NoSuchPipeline"})
    with pytest.raises(UserError, match="has no pipeline 'NoSuchPipeline'"):
        load(wrong, "cpu", torch.float32)


def test_before_pruning_it_has_the_size_of_the_published_model(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        net = OneStep()
    assert sum(p.numel() for p in net.unet.parameters()) == 865_910_724  # as Stable Diffusion 2.1
    assert sum(p.numel() for p in net.vae.parameters()) == 83_653_863
    card = method_card(root, "instavsr-unpruned")
    small = {"channels": [8, 8, 16, 16], "heads": [1, 1, 2, 2], "layers": 1, "groups": 4}
    small |= {"vae_channels": [8, 8, 8, 8], "vae_layers": 1, "text": 16, "tokens": 5}
    card = replace(card, settings=small)
    monkeypatch.setattr(cost, "run_apart", lambda card, where, work, *rest, **_: work(*rest))
    measured = cost.measure(card, (16, 24), 2, "cpu")
    assert measured.params_m is not None
    assert measured.params_m < 1
    assert measured.macs_g is not None
    net = OneStep(**small).eval()
    with torch.inference_mode():
        out = net(torch.rand(1, 3, 16, 32))
    assert out.shape == (1, 3, 64, 128)
    assert torch.isfinite(out).all()
