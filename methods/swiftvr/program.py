"""SwiftVR by its authors' class; worker.py calls this, in their environment."""


def load(values):
    """The pipeline in bfloat16 on the first GPU; values: checkpoint, a folder."""
    from swiftvr import SwiftVRPipeline

    return SwiftVRPipeline.from_pretrained(values["checkpoint"]).to("cuda", dtype="bfloat16")


def restore(model, values):
    """Writes the frames of the folder `input`, restored, into output_dir."""
    model.restore_video(
        values["input"], values["output_dir"], upscale=values["scale"], png_save=True, verbose=False
    )
