"""The trainer of the video networks here: recurrent x4 SR with a SpyNet, from exact motion.

`python -m methods.instavsr.train CONFIG.toml --pool POOL [--minutes M]` trains a network as its
config says, in stages, on the clips of methods.instavsr.data. All randomness follows from the
config's seed and the step number, so that a run which was stopped and resumed ends, under a budget
of steps, in the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import platform
import signal
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from methods.instavsr.data import SCALE, Batch, Pool
from methods.spynet import warp
from vsrbench.errors import INTERRUPTED, DataError, MissingError, UserError, unknown
from vsrbench.weights import load_strictly, read_checkpoint, save_checkpoint

CHARBONNIER_EPS = 1e-3
LOG_SECONDS = 20.0


@dataclass(frozen=True)
class Stage:
    """One part of a training, with its own optimiser and learning-rate curve."""

    name: str
    """Name in the log."""
    batch: int
    """Windows a step."""
    patch: tuple[int, ...]
    """LQ sides in px, one drawn a step."""
    lr: float
    """Peak learning rate of Adam; cosine to 0 at the end of the budget."""
    frames: int = 2
    """Frames a window."""
    pan: int = 0
    """Largest motion added by panning the patch over the clip, LQ px a frame."""
    steps: int = 0
    """Budget in steps; 0 = none."""
    minutes: float = 0.0
    """Budget in minutes; 0 = none. The stage ends with the budget that is used up first."""
    warmup: int = 50
    """Steps of linear rise of the learning rate."""
    pixel: float = 0.0
    """Weight of the Charbonnier loss against GT. 0 and temporal 0: only the flow network trains."""
    temporal: float = 0.0
    """Weight of |SR_i - warp(SR_{i+1})| along exact flow, where visible."""
    flow: float = 0.0
    """Weight of the end-point error of the flow network, LQ px, on one random pair a window."""
    flow_lr: float = 1.0
    """Learning rate of the flow network relative to `lr`; 0 freezes it."""
    validate_minutes: float = 3.0
    """Time between validations."""


@dataclass(frozen=True)
class Config:
    """A training, as declared in a TOML file."""

    network: str
    """`module:Class`; called with the table [config]."""
    config: Mapping[str, Any]
    """Arguments of the network; they travel in the checkpoint."""
    stages: tuple[Stage, ...]
    """The tables [[stages]], in order."""
    seed: int = 1
    """Of the initial weights and of every batch."""
    threads: int = 1
    """CPU threads."""
    holdout: int = 8
    """Clips at the end of the pool kept for validation."""
    validation_frames: int = 6
    """Frames of each of them."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones that are saved."""
    clip_grad: float = 0.5
    """Largest norm of the gradient."""
    bf16: bool = False
    """Run the video network in bfloat16 where autocast does so; weights and losses stay float32."""
    channels_last: bool = False
    """Memory layout; faster for some networks."""
    flow_init: str = ""
    """Checkpoint of a SpyNet to start from; relative to the config file."""


def _build(kind: type, table: Mapping[str, Any], where: Path) -> Any:
    """A dataclass from a TOML table; lists become tuples. Raises UserError on wrong keys."""
    known = [f.name for f in fields(kind)]
    for name in table:
        if name not in known:
            raise unknown("training setting", name, known, f"in {where}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    except TypeError as error:
        missing = str(error).partition("arguments: ")[2] or str(error).partition("argument: ")[2]
        raise UserError(f"{where} lacks {missing}", "add the missing settings") from error


def read_config(path: Path) -> Config:
    """Parse a training config. Raises MissingError without the file, UserError on wrong content."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise MissingError(f"no training config {path}", "see methods/*/configs") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    stages = tuple(_build(Stage, stage, path) for stage in table.pop("stages", ()))
    if not stages:
        raise UserError(f"{path} declares no stages", "add a table [[stages]]")
    if table.get("flow_init"):
        table["flow_init"] = str(path.parent / table["flow_init"])
    return _build(Config, {**table, "stages": stages}, path)


def build_network(config: Config) -> nn.Module:
    """The network of a config, initialised from its seed."""
    torch.manual_seed(config.seed)
    module, _, name = config.network.partition(":")
    net: nn.Module = getattr(import_module(module), name)(**config.config)
    motion_detectors_(flow_network(net))
    if config.flow_init:
        state, _ = read_checkpoint(Path(config.flow_init))
        load_strictly(flow_network(net), state, config.flow_init)
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def flow_network(net: nn.Module) -> nn.Module:
    """The flow network inside `net`, or `net` itself when it is one."""
    return getattr(net, "spynet", net)


@torch.no_grad()
def motion_detectors_(flow_net: nn.Module) -> None:
    """Initialise every level of a SpyNet as a crude detector of small motion.

    From random weights the flow loss stays at that of zero flow for thousands of steps, since
    motion follows from products of slopes in space and time, a and b, that ReLU layers must find
    first. Here |a + b| - |a - b| = 2 sign(ab) min(|a|, |b|), summed over a window, votes for the
    direction along each axis (channels 0..3 of the hidden layers: right, left, down, up). All
    other weights are random. Contrast and gain below were chosen on training clips. Raises
    UserError for a network of less than 8, 4, 4, 4 channels.
    """
    contrast, gain, other = 3.0, 0.8, 0.3
    smooth, slope = torch.tensor((1.0, 2.0, 1.0)) / 4, torch.tensor((-1.0, 0.0, 1.0)) / 2
    luma = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
    along_x = luma * F.pad(torch.outer(smooth, slope), (2, 2, 2, 2)) / 2
    in_time = luma * F.pad(torch.outer(smooth, smooth), (2, 2, 2, 2)) * contrast
    for level in flow_net.get_submodule("basic_module").children():
        convs = [m for m in level.modules() if isinstance(m, nn.Conv2d)]
        if any(c.out_channels < n for c, n in zip(convs, (8, 4, 4, 4), strict=False)):
            raise UserError("the flow network is too narrow", "widths of at least 8, 4, 4, 4")
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu").mul_(other)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        edges, votes, *passed, out = (conv.weight for conv in convs)
        edges[:8], votes[:4], out[:] = 0, 0, out / 5
        out[:, :4] = 0
        for axis, in_space in enumerate((along_x, along_x.mT)):
            signs = [(a, b) for a in (1, -1) for b in (1, -1)]
            for i, (both, time_sign) in enumerate(signs):
                edge = edges[4 * axis + i]
                edge[:3] = both * in_space + time_sign * in_time
                edge[3:6] = both * in_space - time_sign * in_time
                same = both * time_sign
                votes[2 * axis, 4 * axis + i] = same * 2 / 49
                votes[2 * axis + 1, 4 * axis + i] = -same * 2 / 49
            out[axis, 2 * axis, 3, 3], out[axis, 2 * axis + 1, 3, 3] = gain, -gain
        for weight in passed:
            weight[:4] = 0
            weight[range(4), range(4), 3, 3] = 1


def charbonnier(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean of sqrt((x - y)^2 + eps^2): a smooth L1."""
    return ((x - y).square() + CHARBONNIER_EPS**2).sqrt().mean()


def masked_mean(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean of x (n, c, h, w) over channels and the pixels where valid (n, 1, h, w) is 1."""
    return (x * valid).sum() / (valid.sum() * x.shape[1]).clamp(min=1)


def end_point_error(flow: torch.Tensor, true: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean distance of flow vectors (n, 2, h, w) in px, over valid pixels (n, 1, h, w)."""
    distance = ((flow - true).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return masked_mean(distance, valid)


def warping_error(sr: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean |SR_i - warp(SR_{i+1}, F_{i->i+1})| where frame i's content is visible in frame i+1.

    sr: (b, n, 3, 4h, 4w).
    """
    flow = F.interpolate(
        batch.forward.flatten(0, 1), scale_factor=SCALE, mode="bilinear", align_corners=False
    )
    valid = F.interpolate(batch.valid_forward.flatten(0, 1), scale_factor=SCALE, mode="nearest")
    later = warp(sr[:, 1:].flatten(0, 1), SCALE * flow)
    return masked_mean((sr[:, :-1].flatten(0, 1) - later).abs(), valid)


def flow_error(net: nn.Module, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    """End-point error of the flow network on one random pair of each window, either direction."""
    i = int(rng.integers(batch.lq.shape[1] - 1))
    a, b, true, valid = batch.lq[:, i], batch.lq[:, i + 1], batch.forward, batch.valid_forward
    if rng.integers(2):
        a, b, true, valid = b, a, batch.backward, batch.valid_backward
    return end_point_error(flow_network(net)(a, b), true[:, i], valid[:, i])


def losses(
    net: nn.Module, batch: Batch, stage: Stage, rng: np.random.Generator, bf16: bool
) -> dict[str, torch.Tensor]:
    """The unweighted loss terms that the stage gives a weight."""
    terms = {}
    if stage.flow:
        terms["flow"] = flow_error(net, batch, rng)
    if stage.pixel or stage.temporal:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            sr = net(batch.lq)
        if stage.pixel:
            terms["pixel"] = charbonnier(sr, batch.gt)
        if stage.temporal:
            terms["temporal"] = warping_error(sr, batch)
    return terms


@torch.no_grad()
def validate(net: nn.Module, pool: Pool, frames: int, flow_only: bool) -> dict[str, float]:
    """Scores on whole held-out clips, mean over frames; `score` is the one to maximise.

    With flow_only: end-point error and that of zero flow, LQ px. Else PSNR and that of bicubic, dB.
    """
    rows = []
    for index in range(len(pool.clips)):
        batch = pool.clip(index, frames)
        if flow_only:
            a, b = batch.lq[:, :-1].flatten(0, 1), batch.lq[:, 1:].flatten(0, 1)
            true, valid = batch.forward.flatten(0, 1), batch.valid_forward.flatten(0, 1)
            flow = flow_network(net)(a, b)
            rows.append([end_point_error(f, true, valid).item() for f in (flow, 0 * flow)])
        else:
            lq, gt = batch.lq.flatten(0, 1), batch.gt.flatten(0, 1)
            bicubic = F.interpolate(lq, scale_factor=SCALE, mode="bicubic", align_corners=False)
            rows.append([_psnr(x, gt) for x in (net(batch.lq).flatten(0, 1), bicubic)])
    ours, baseline = np.mean(rows, axis=0).tolist()
    if flow_only:
        return {"score": -ours, "epe": ours, "zero_epe": baseline}
    return {"score": ours, "psnr": ours, "bicubic": baseline}


def _psnr(x: torch.Tensor, gt: torch.Tensor) -> float:
    """Mean over frames of the RGB PSNR in dB of 8-bit frames; x, gt: (n, 3, h, w) in 0..1."""
    error = (x.clamp(0, 1).mul(255).round() / 255 - gt).square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


@dataclass
class Progress:
    """Where a training stands; part of its saved state."""

    stage: int = 0
    """Index of the current stage."""
    step: int = 0
    """Steps done in it."""
    minutes: float = 0.0
    """Minutes spent in it, over all resumptions."""
    best: float | None = None
    """Best validation score in it."""
    done: list[dict[str, Any]] = field(default_factory=list)
    """Name, steps and minutes of the finished stages."""

    def share(self, stage: Stage) -> float:
        """Used share of the stage's budget; the stage is over at 1."""
        by_steps = self.step / stage.steps if stage.steps else 0.0
        by_minutes = self.minutes / stage.minutes if stage.minutes else 0.0
        return max(by_steps, by_minutes)


class Trainer:
    """A training in progress: network, averaged network, optimiser, progress."""

    def __init__(self, config: Config, pool_folder: Path, out: Path) -> None:
        if not all(s.steps or s.minutes for s in config.stages):
            raise UserError("a stage has no budget", "set steps or minutes, or give --steps")
        torch.set_num_threads(config.threads)
        self.config, self.out = config, out
        self.pool = Pool(pool_folder, stop=-config.holdout)
        self.held_out = Pool(pool_folder, start=-config.holdout)
        self.net = build_network(config)
        self.averaged = copy.deepcopy(self.net).requires_grad_(False)
        self.progress = Progress()
        self.optimiser = self._optimiser()
        self.stop = False
        self.sums: dict[str, float] = {}
        self.logged = (time.monotonic(), 0)

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.config.stages[self.progress.stage]

    def run(self) -> None:
        """Train to the end of the last stage, saving on the way.

        When `stop` is set, saves after the current step and raises KeyboardInterrupt.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        while self.progress.stage < len(self.config.stages):
            self._run_stage()
            self.progress = Progress(self.progress.stage + 1, done=self._done())
            if self.progress.stage < len(self.config.stages):
                self.optimiser = self._optimiser()
            self.save()

    def _run_stage(self) -> None:
        stage, progress = self.stage, self.progress
        self.sums, self.logged = {}, (time.monotonic(), progress.step)
        validated, clock = progress.minutes, time.monotonic()
        while progress.share(stage) < 1:
            if self.stop:
                self.save()
                raise KeyboardInterrupt
            self._step()
            progress.step += 1
            now = time.monotonic()
            progress.minutes, clock = progress.minutes + (now - clock) / 60, now
            over = progress.share(stage) >= 1
            if over or progress.minutes - validated >= stage.validate_minutes:
                validated = progress.minutes
                self._validate()
                self.save()
            elif now - self.logged[0] >= LOG_SECONDS:
                self._log({})

    def _step(self) -> None:
        stage, step = self.stage, self.progress.step
        rng = np.random.default_rng([self.config.seed, self.progress.stage, step])
        share = self.progress.share(stage)
        rate = min(1, (step + 1) / stage.warmup) * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        for group in self.optimiser.param_groups:
            group["lr"] = stage.lr * group["relative"] * rate
        patch = int(rng.choice(stage.patch))
        batch = self.pool.batch(rng, stage.batch, stage.frames, patch, stage.pan)
        terms = losses(self.net, batch, stage, rng, self.config.bf16)
        total = sum(getattr(stage, name) * term for name, term in terms.items())
        assert isinstance(total, torch.Tensor)
        if not total.isfinite():
            raise DataError(f"the loss is not finite at step {step}", "lower the learning rate")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.optimiser.step()
        self._average(min(self.config.ema, (1 + step) / (10 + step)))
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.item()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mine, theirs in zip(self.averaged.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)

    def _optimiser(self) -> torch.optim.Adam:
        """Adam over what the stage trains; parameters that it freezes need no gradient."""
        stage = self.stage
        flow = list(flow_network(self.net).parameters())
        inside = {id(p) for p in flow}
        rest = [p for p in self.net.parameters() if id(p) not in inside]
        groups = []
        for parameters, relative in (
            (rest, 1.0 if stage.pixel or stage.temporal else 0.0),
            (flow, stage.flow_lr),
        ):
            for p in parameters:
                p.requires_grad_(relative > 0)
            if parameters and relative:
                groups.append({"params": parameters, "relative": relative})
        return torch.optim.Adam(groups, lr=stage.lr, betas=(0.9, 0.99))

    def _validate(self) -> None:
        stage, progress = self.stage, self.progress
        flow_only = not (stage.pixel or stage.temporal)
        scores = validate(
            self.averaged, self.held_out, self.config.validation_frames, flow_only=flow_only
        )
        score = scores.pop("score")
        if progress.best is None or score > progress.best:
            progress.best = score
            save_checkpoint(
                self.out, self.averaged.state_dict(), self.config.config, self.note(scores)
            )
        self._log(scores)

    def _log(self, scores: Mapping[str, float]) -> None:
        """One line to stderr, one row to the CSV beside the checkpoint."""
        stage, progress = self.stage, self.progress
        since, before = self.logged
        count = max(progress.step - before, 1)
        rate = count / max(time.monotonic() - since, 1e-9)
        terms = {name: value / count for name, value in self.sums.items()}
        self.sums, self.logged = {}, (time.monotonic(), progress.step)
        share = progress.share(stage)
        eta = progress.minutes * (1 - share) / share if share else math.inf
        shown = [f"{k} {v:.4f}" for k, v in terms.items()]
        shown += [f"val {k} {v:.3f}" for k, v in scores.items()]
        print(
            f"{stage.name} step {progress.step}: {', '.join(shown)}, {rate:.2f} steps/s, "
            f"{progress.minutes:.1f} min, {eta:.1f} min to go",
            file=sys.stderr,
            flush=True,
        )
        row = {
            "stage": stage.name,
            "step": progress.step,
            "minutes": round(progress.minutes, 3),
            "lr": self.optimiser.param_groups[0]["lr"],
            **dict.fromkeys(("pixel", "temporal", "flow"), ""),
            **dict.fromkeys(("psnr", "bicubic", "epe", "zero_epe"), ""),
        }
        row |= {k: f"{v:.6f}" for k, v in {**terms, **scores}.items()}
        path = self.out.with_suffix(".csv")
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _done(self) -> list[dict[str, Any]]:
        """The finished stages and the current one."""
        p = self.progress
        return [*p.done, {"name": self.stage.name, "steps": p.step, "minutes": p.minutes}]

    def note(self, scores: Mapping[str, float]) -> str:
        """What was done so far, in words, for the checkpoint."""
        about = self.pool.about
        h, w = about["size"]
        spent = "; ".join(
            f"{s['name']} {s['steps']} steps, {s['minutes']:.1f} min" for s in self._done()
        )
        mix = ", ".join(f"{share:.0%} {name}" for name, share in about["mix"].items())
        reached = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        return (
            f"{len(self.pool.clips)} procedural clips of {about['frames']} frames, "
            f"{w}x{h} px (stream {about['seed']}; LQ {mix}); {spent}; "
            f"{self.config.threads} thread(s) of {_cpu()}, torch {torch.__version__}; "
            f"held-out {reached}"
        )

    def save(self) -> None:
        """Write the full state beside the checkpoint, atomically."""
        path = self.out.with_suffix(".train.pt")
        partial = path.with_name(path.name + ".partial")
        torch.save(
            {
                "net": self.net.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "progress": asdict(self.progress),
            },
            partial,
        )
        partial.replace(path)

    def resume(self) -> None:
        """Continue from the saved state. Raises MissingError when there is none."""
        path = self.out.with_suffix(".train.pt")
        if not path.exists():
            raise MissingError(f"no training state {path}", "start without --resume")
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.averaged.load_state_dict(state["averaged"])
        self.progress = Progress(**state["progress"])
        if self.progress.stage < len(self.config.stages):
            self.optimiser = self._optimiser()
            self.optimiser.load_state_dict(state["optimiser"])


def _cpu() -> str:
    """Model of the processor."""
    info = Path("/proc/cpuinfo")
    lines: Iterable[str] = info.read_text().splitlines() if info.exists() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(argv: list[str] | None = None) -> None:
    """Train from the command line; exits 130 when interrupted, with everything saved."""
    parser = argparse.ArgumentParser("methods.instavsr.train", description="Train a network.")
    parser.add_argument("config", type=Path, help="TOML file, see methods/*/configs")
    parser.add_argument("--pool", type=Path, default=Path("build/pool"), help="training clips")
    parser.add_argument("--steps", type=int, help="budget of the last stage, instead of its own")
    parser.add_argument("--minutes", type=float, help="likewise, in minutes")
    parser.add_argument("--flow-init", type=Path, help="checkpoint of a SpyNet to start from")
    parser.add_argument("--out", type=Path, help="checkpoint to write (.safetensors)")
    parser.add_argument("--resume", action="store_true", help="continue a stopped training")
    args = parser.parse_args(argv)
    try:
        config = read_config(args.config)
        if args.flow_init:
            config = replace(config, flow_init=str(args.flow_init))
        if args.steps or args.minutes:
            last = replace(config.stages[-1], steps=args.steps or 0, minutes=args.minutes or 0.0)
            config = replace(config, stages=(*config.stages[:-1], last))
        out = args.out or Path("build") / f"{args.config.stem}.safetensors"
        trainer = Trainer(config, args.pool, out)
        if args.resume:
            trainer.resume()
        # Between steps only, so that what is saved is whole.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(trainer, "stop", True))
        trainer.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        print("interrupted; go on with --resume", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error


if __name__ == "__main__":
    main()
