"""SeedVR2 by the functions of its authors' script; worker.py calls this, in their environment."""

import importlib
import os
import socket


def load(values):
    """The script's module and its runner, on the first GPU; values: model, 3b or 7b."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun would say of a single process.
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(one, MASTER_PORT=str(port))
    script = importlib.import_module("projects.inference_seedvr2_{}".format(values["model"]))
    return script, script.configure_runner(1)


def restore(model, values):
    """Writes the one video of input_dir, restored, into output_dir."""
    script, runner = model
    script.generation_loop(
        runner,
        video_path=values["input_dir"],
        output_dir=values["output_dir"],
        seed=666,
        res_h=values["height"],
        res_w=values["width"],
        sp_size=1,
    )
