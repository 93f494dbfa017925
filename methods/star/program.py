"""STAR by the class of its authors' script; worker.py calls this, in their environment."""

import importlib.util
from pathlib import Path


def load(values):
    """The class with its networks; values: model, its checkpoint below the checkout."""
    path = Path(values["repo"]) / "video_super_resolution/scripts/inference_sr.py"
    spec = importlib.util.spec_from_file_location("inference_sr", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.STAR(
        result_dir=values["repo"],
        file_name="clip.mp4",
        model_path=values["model"],
        solver_mode="fast",
        upscale=4,
        max_chunk_len=32,
    )


def restore(model, values):
    """Writes the video `input`, restored, into output_dir."""
    model.result_dir = values["output_dir"]
    model.enhance_a_video(values["input"], "")
