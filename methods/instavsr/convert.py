"""Weights for InstaVSR at full size, made from published or own image and video weights.

    python -m vsrbench.methods.instavsr.convert adcsr net_params_200.pkl halfDecoder.ckpt --out OUT
    python -m vsrbench.methods.instavsr.convert sd stable-diffusion-2-1-base --out OUT
    python -m vsrbench.methods.instavsr.convert own checkpoint.safetensors --out OUT
    python -m vsrbench.methods.instavsr.convert blend calm.safetensors sharp.safetensors --out OUT

The last is for any two checkpoints of one network. The result is one safetensors file that carries
the arguments of its network and where its numbers come from. As `instavsr-full.safetensors` in
$VSRBENCH_WEIGHTS, the card `instavsr-full` uses it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsrbench.cards.specs import ROOT, method_card
from vsrbench.cards.weights import load_strictly, open_slices, read_checkpoint, save_checkpoint
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.files import replace_atomically
from vsrbench.core.keys import sha256_file
from vsrbench.core.progress import note, say_error
from vsrbench.core.types import Origin

from ..realbasicvsr.network import from_official as named_as_here
from ..spynet import SpyNet
from .network import Backbone, InstaVSR, from_official, pruned

NEIGHBOURS = "neighbour inputs at zero"


def identity(path: Path) -> str:
    """File name and the start of its sha256."""
    return f"{path.name} (sha256 {sha256_file(path)[:16]})"


def from_adcsr(net: Path, decoder: Path) -> dict[str, Tensor]:
    """State of the full image `Backbone` from the two files of AdcSR. Raises DataError."""
    return from_official(read_checkpoint(net)[0], read_checkpoint(decoder)[0])


def from_stable_diffusion(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    """State of `backbone`, pruned from a folder in diffusers' layout. Raises UserError.

    Only what stays is read. The UNet's first and last layer are initialised from seed 0.
    """
    unet, vae = (open_slices(part_file(folder / part)) for part in ("unet", "vae"))
    state = {k: v.float().contiguous() for k, v in pruned(unet, vae, backbone).items()}
    channels, features = backbone.unet.conv_in.out_channels, backbone.unet.conv_out.out_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        new = {
            "unet.conv_in": nn.Conv2d(backbone.image_channels, channels, 3),
            "unet.conv_out": nn.Conv2d(channels, features, 3),
        }
    return state | {
        f"{k}.{p}": v for k, layer in new.items() for p, v in layer.state_dict().items()
    }


def part_file(folder: Path) -> Path:
    """The weights file of one part of a diffusers folder. Raises MissingError."""
    for suffix in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin"):
        path = folder / f"diffusion_pytorch_model{suffix}"
        if path.is_file():
            return path
    raise MissingError(
        f"no diffusion_pytorch_model.safetensors in {folder}",
        "give the folder of Stable Diffusion 2.1-base that holds unet/ and vae/",
    )


def flow_state(path: Path) -> dict[str, Tensor]:
    """SpyNet out of a checkpoint: bare, or of a network that has one inside. Raises DataError."""
    state = named_as_here(read_checkpoint(path)[0])
    inside = {k.rpartition("spynet.")[2]: v for k, v in state.items() if "spynet." in k}
    return inside or state


def still(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A SpyNet that answers "no motion" until it is trained: the last layers are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spynet = SpyNet(config["flow_widths"], config["flow_levels"])
    for level in spynet.basic_module:
        *_, last = level.modules()
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    return spynet.state_dict()


def blend(first: Path, second: Path, share: float, out: Path, half: bool) -> str:
    """Write the mean of two checkpoints of ours, `share` of it the second's; returns its note.

    Between a network without critics and what critics made of it lies one with part of the detail
    and less of the artefacts (Wang et al., ESRGAN, ECCVW 2018). Raises DataError when they are not
    of one network.
    """
    (a, about), (b, other) = map(read_checkpoint, (first, second))
    if about.get("config", first) != other.get("config", second) or a.keys() != b.keys():
        raise DataError(f"{first} and {second} are not of one network", "train one from the other")
    mean = {name: a[name].float().lerp(b[name].float(), share) for name in a}
    text = f"{share:.0%} of {second.stem} ({other['note']}), the rest of {first.stem}"
    text += f" ({about['note']})"
    save_checkpoint(out, mean, about["config"], text, about["origin"], half=half)
    return text


def convert(options: argparse.Namespace) -> str:
    """Write the checkpoint; returns its note. Raises UserError."""
    if options.source == "blend":
        return blend(options.first, options.second, options.share, options.out, options.half)
    card = method_card(ROOT, "instavsr-full")
    settings: Mapping[str, Any] = {k: v for k, v in card.settings.items() if k != "tile"}
    origin: Origin = "user"
    state: Mapping[str, Tensor] | None = None
    if options.source == "own":
        state, metadata = read_checkpoint(options.checkpoint)
        if "config" not in metadata:
            raise DataError(
                f"{options.checkpoint} is not a checkpoint of this project: it holds no config"
            )
        settings, origin = metadata["config"], metadata["origin"]
        about = f"{metadata['note']}; from {identity(options.checkpoint)}"
    with torch.device("meta"):
        net = InstaVSR(**settings)
    if options.source == "adcsr":
        image = from_adcsr(options.net, options.decoder)
        files = f"{identity(options.net)} and {identity(options.decoder)}"
        about = f"AdcSR's image network, {files}; {NEIGHBOURS}"
    elif options.source == "sd":
        image = from_stable_diffusion(options.folder, net.backbone)
        files = " and ".join(identity(part_file(options.folder / p)) for p in ("unet", "vae"))
        origin = "random"  # its first and last layer are, so its pictures mean nothing yet
        about = f"untrained: pruned from Stable Diffusion, {files}; {NEIGHBOURS}"
    if state is None:
        image_net = {f"backbone.{k}": v for k, v in image.items()}
        net.load_image_state(image)
        flow = flow_state(options.flow) if options.flow else still(net.config)
        about += f"; flow of {identity(options.flow)}" if options.flow else "; no motion known yet"
        image_net["backbone.unet.conv_in.weight"] = net.backbone.unet.conv_in.weight
        state = image_net | {f"spynet.{k}": v for k, v in flow.items()}
    load_strictly(net, state, "instavsr-full", assign=True)
    save_checkpoint(options.out, net.state_dict(), net.config, about, origin, half=options.half)
    return about


def from_sources(paths: Sequence[Path], target: Path) -> None:
    """The card's file out of the two checkpoints of AdcSR, as `adcsr` makes it. Raises UserError.

    What `vsrbench weights fetch --for instavsr-full` does last.
    """
    net, decoder = paths
    about = {"source": "adcsr", "net": net, "decoder": decoder, "flow": None}
    with replace_atomically(target) as partial:
        text = convert(argparse.Namespace(**about, out=partial, half=False))
    note(f"wrote {target}: {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vsrbench.methods.instavsr.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_subparsers(dest="source", required=True)

    def source(name: str, purpose: str, *files: str) -> argparse.ArgumentParser:
        sub = sources.add_parser(name, help=purpose, description=purpose)
        for file in files:
            sub.add_argument(file, type=Path)
        sub.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
        sub.add_argument("--half", action="store_true", help="store fp16 (default: as it comes)")
        return sub

    flow = (
        "a checkpoint with the flow network: SpyNet, RealViformer or RealBasicVSR (default: zero)"
    )
    adcsr = source("adcsr", "from the two checkpoints of AdcSR", "net", "decoder")
    adcsr.add_argument("--flow", type=Path, help=flow)
    sd = source("sd", "by pruning Stable Diffusion 2.1-base, diffusers layout", "folder")
    sd.add_argument("--flow", type=Path, help=flow)
    source("own", "from a checkpoint written by this project", "checkpoint")
    mean = source("blend", "the mean of two checkpoints of one network", "first", "second")
    mean.add_argument("--share", type=float, default=0.5, help="of the second (default: 0.5)")
    options = parser.parse_args(argv)
    try:
        note(f"wrote {options.out}: {convert(options)}")
    except UserError as error:
        say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
