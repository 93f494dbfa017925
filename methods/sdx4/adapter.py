"""Stable Diffusion's x4 upscaler by diffusers' pipeline, each frame alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionUpscalePipeline, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel

from vsrbench.cards.weights import checked, unreadable
from vsrbench.core.errors import DataError
from vsrbench.core.types import Method, MethodCard

PARTS = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}


class PerFrame:
    """Runs the pipeline on each frame, without a text."""

    def __init__(self, pipe: Any, settings: Mapping[str, Any]) -> None:
        self.pipe, self.seed = pipe, settings["seed"]
        self.net = torch.nn.ModuleList(getattr(pipe, name) for name in PARTS)
        self.how = {
            "num_inference_steps": settings["steps"],
            "noise_level": settings["noise_level"],
            "guidance_scale": settings["guidance"],
        }

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, sides multiples of 8 -> 3 x 4H x 4W in 0..1."""
        for x in frames:
            # The same noise for every frame, drawn on the CPU: results repeat on any device, and
            # what differs between two outputs comes from their inputs, not from chance.
            noise = torch.Generator().manual_seed(self.seed)
            yield self.pipe("", x[None], generator=noise, output_type="pt", **self.how).images[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The pipeline in the folder of the card; only safetensors. Raises MissingError, DataError."""
    folder = checked(card)
    how = {"use_safetensors": True, "local_files_only": True}
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    nets = {}
    try:
        for name, kind in PARTS.items():
            # The decoder overflows in fp16: the pipeline itself would cast it for each picture.
            kept = torch.float32 if name == "vae" else dtype
            nets[name], about = kind.from_pretrained(
                folder, subfolder=name, torch_dtype=kept, output_loading_info=True, **how
            )
            if absent := sorted(about["missing_keys"]):  # else they would be random
                raise DataError(f"{name} in {folder} lacks {absent[0]}", "fetch it again")
        pipe = StableDiffusionUpscalePipeline.from_pretrained(folder, **nets, **how)
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    if len(pipe.tokenizer) < pipe.text_encoder.config.vocab_size:  # it starts without its files
        raise DataError(f"tokenizer in {folder} lacks its vocabulary", "fetch it again")
    pipe.to(device).set_progress_bar_config(disable=True)
    if tile := card.settings["tile"]:
        pipe.vae.enable_tiling()
        pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = tile, tile * card.scale
    return PerFrame(pipe, card.settings)
