"""The trainer of the video networks here: recurrent x4 SR with a SpyNet, from exact motion.

`python -m vsrbench.methods.training.train CONFIG.toml --data FOLDER [--minutes M]` trains a network
as its config says, in stages, on moving photographs (vsrbench.methods.training.photos) or on a pool
of clips (vsrbench.methods.training.pool). All randomness follows from the config's seed and the
step number, so that a run which was stopped and resumed ends, under a budget of steps, in the same
weights as one that was not. Under `torchrun` every process draws a batch of its own for each step
and gradients are averaged: N processes make the batch N times as large.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from vsrbench.core.errors import INTERRUPTED, UserError

from .config import read_config
from .machine import join
from .trainer import Trainer, describe_budget


def main(argv: list[str] | None = None) -> None:
    """Train from the command line; exits 130 when interrupted, with everything saved."""
    parser = argparse.ArgumentParser(
        "vsrbench.methods.training.train", description="Train a network."
    )
    parser.add_argument("config", type=Path, help="TOML file, see methods/*/configs")
    parser.add_argument("--data", type=Path, required=True, help="photographs, or a pool of clips")
    parser.add_argument("--steps", type=int, help="budget of the last stage, instead of its own")
    parser.add_argument("--minutes", type=float, help="likewise, in minutes")
    parser.add_argument("--init", type=Path, help="checkpoint of the network to start from")
    parser.add_argument("--critics", type=Path, help="saved state (.train.pt) to take critics from")
    parser.add_argument("--flow-init", type=Path, help="checkpoint of a SpyNet to start from")
    parser.add_argument("--out", type=Path, help="checkpoint to write (.safetensors)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue a stopped training")
    again.add_argument("--fresh", action="store_true", help="start over where there is one already")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    try:
        config = read_config(args.config)
        if args.init:
            config = replace(config, init=str(args.init))
        if args.flow_init:
            config = replace(config, flow_init=str(args.flow_init))
        if args.steps is not None or args.minutes is not None:
            last = replace(config.stages[-1], steps=args.steps or 0, minutes=args.minutes or 0.0)
            config = replace(config, stages=(*config.stages[:-1], last))
        out = args.out or Path("build") / f"{args.config.stem}.safetensors"
        made = [out, out.with_suffix(".train.pt"), out.with_suffix(".csv")]
        there = [str(path) for path in made if path.exists()]
        if there and not args.resume and not args.fresh:
            raise UserError(
                f"{there[0]} already exists",
                "resume with --resume, start over with --fresh, or name another --out",
            )
        trainer = Trainer(config, args.data, out, *join(args.device))
        if args.critics:
            trainer.take_critics(args.critics)
        if args.resume:
            trainer.resume()
            if trainer.progress.stage >= len(config.stages):
                if not trainer.rank:
                    print(
                        f"already finished: {describe_budget(trainer.progress.done)}; for more, "
                        f"start from it: --init {out} --out NEW",
                        file=sys.stderr,
                    )
                return
        if args.fresh and not trainer.rank:
            for path in made[1:]:
                path.unlink(missing_ok=True)
            shutil.rmtree(out.with_suffix(".strips"), ignore_errors=True)
        # Between steps only, so that what is saved is whole.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(trainer, "stop", True))
        trainer.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        print("interrupted; resume with --resume", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
