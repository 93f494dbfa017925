"""Any upscaler that diffusers has a pipeline for, each frame alone. The card says all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError

from vsrbench.cards.weights import unreadable_error, verify
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import Method, MethodCard

OURS = frozenset(("pipeline", "seed", "tile", "float32", "enlarged"))
"""Settings that are not arguments of the pipeline's call."""
MODELS = (diffusers.ModelMixin, transformers.PreTrainedModel)
HOW = {"use_safetensors": True, "local_files_only": True}


class PerFrame:
    """Calls a pipeline on each frame.

    Settings of the card: `pipeline`, its class in diffusers; `seed` of its noise; `tile`, LQ px a
    side above which its decoder works in tiles (0: never); `float32`, parts that stay in it;
    `enlarged`, whether it wants the frame at the size of its output. All others are arguments of
    its call, such as `num_inference_steps` or `prompt`.
    """

    def __init__(self, pipe: Any, card: MethodCard) -> None:
        self.pipe, self.scale, self.seed = pipe, card.scale, int(card.settings.get("seed", 0))
        self.enlarged = bool(card.settings.get("enlarged", False))
        parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        self.net = torch.nn.ModuleList(parts)
        self.how = {k: v for k, v in card.settings.items() if k not in OURS}

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1 -> 3 x sH x sW in 0..1."""
        for x in frames:
            # LQ is of 8 bits: nothing is lost, and every pipeline agrees on what a picture is.
            pixels = (x.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
            picture = Image.fromarray(pixels.cpu().numpy())
            if self.enlarged:
                size = (picture.width * self.scale, picture.height * self.scale)
                picture = picture.resize(size, Image.Resampling.BICUBIC)
            # The same noise for every frame, drawn on the CPU: results repeat on any device, and
            # what differs between two outputs comes from their inputs, not from chance.
            noise = torch.Generator().manual_seed(self.seed)
            made = self.pipe(image=picture, generator=noise, output_type="pt", **self.how)
            yield _tensor(made.images[0])


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The pipeline in the folder of the card; only safetensors. Raises MissingError, DataError.

    UserError for a pipeline that diffusers does not have.
    """
    name = str(card.settings.get("pipeline", ""))
    kind = getattr(diffusers, name, None) if name.endswith("Pipeline") else None
    if kind is None:
        raise UserError(
            f"card '{card.name}': diffusers {diffusers.__version__} has no pipeline '{name}'",
            'such as pipeline = "StableDiffusionUpscalePipeline"',
        )
    folder = verify(card)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = kind.from_pretrained(folder, **_models(kind, folder, card, dtype), **HOW)
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable_error(folder, error) from error
    words = getattr(getattr(pipe, "text_encoder", None), "config", None)
    if words is not None and len(pipe.tokenizer) < words.vocab_size:  # it starts without its files
        raise DataError(f"tokenizer in {folder} lacks its vocabulary", "fetch it again")
    pipe.to(device).set_progress_bar_config(disable=True)
    if (tile := card.settings.get("tile", 0)) and hasattr(pipe, "vae"):
        pipe.vae.enable_tiling()
        pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = tile, tile * card.scale
    return PerFrame(pipe, card)


def _models(kind: Any, folder: Path, card: MethodCard, dtype: torch.dtype) -> dict[str, Any]:
    """The networks of a pipeline, with every weight; other parts it finds by itself."""
    libraries = {"diffusers": diffusers, "transformers": transformers}
    found = {}
    for name, about in kind.load_config(folder).items():
        library, made = about if isinstance(about, list) and len(about) == 2 else ("", "")
        model: Any = getattr(libraries.get(library), str(made), None)
        known = isinstance(model, type) and issubclass(model, MODELS)
        if not known:
            continue
        kept = torch.float32 if name in card.settings.get("float32", ()) else dtype
        found[name], told = model.from_pretrained(
            folder, subfolder=name, torch_dtype=kept, output_loading_info=True, **HOW
        )
        if absent := sorted(told["missing_keys"]):  # else they would be random
            raise DataError(f"{name} in {folder} lacks {absent[0]}", "fetch it again")
    return found


def _tensor(picture: Any) -> torch.Tensor:
    """A picture as the pipeline gave it, as 3 x H x W in 0..1."""
    if isinstance(picture, torch.Tensor):
        return picture
    array = np.asarray(picture)
    return torch.from_numpy(array / 255 if array.dtype == np.uint8 else array).permute(2, 0, 1)
