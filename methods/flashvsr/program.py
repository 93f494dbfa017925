"""FlashVSR by the functions of its authors' script; worker.py calls this, in their environment."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

SPARSE_RATIO = 2.0
"""Of the script; the area that it is meant for is 1280x768."""


def load(values):
    """The script's module and its pipeline; values: script, its name in the working directory."""
    path = Path(values["script"] + ".py").resolve()
    spec = importlib.util.spec_from_file_location("flashvsr_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script, script.init_pipeline()


def restore(model, values):
    """Writes the frames of the folder `input`, restored, into output_dir."""
    from PIL import Image

    script, pipe = model
    torch.cuda.empty_cache()
    lq, height, width, count, _ = script.prepare_input_tensor(values["input"], scale=4)
    video = pipe(
        prompt="",
        negative_prompt="",
        cfg_scale=1.0,
        num_inference_steps=1,
        seed=0,
        tiled=False,
        LQ_video=lq,
        num_frames=count,
        height=height,
        width=width,
        is_full_block=False,
        if_buffer=True,
        topk_ratio=SPARSE_RATIO * 768 * 1280 / (height * width),
        kv_ratio=3.0,
        local_range=11,
        color_fix=True,
    )
    for index, frame in enumerate(script.tensor2video(video)):
        path = Path(values["output_dir"]) / f"{index:06d}.png"
        Image.fromarray(np.asarray(frame)).save(path)
