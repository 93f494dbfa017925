"""A training in progress: its loop, its validation, its saved state."""

from __future__ import annotations

import copy
import csv
import functools
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from vsrbench.cards.weights import UNREADABLE, save_checkpoint
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.files import replace_atomically

from ..instavsr.picture import upscaled
from . import machine
from .batch import SCALE, Batch, Draw, Source
from .config import LOGGED, SCORES, TERMS, Config, Stage, settings
from .losses import end_point_error, psnr, scores
from .networks import build_network, flow_network
from .objective import Objective
from .photos import Photos
from .pool import Pool

LOG_SECONDS = 20.0


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


def describe_budget(stages: Iterable[Mapping[str, Any]]) -> str:
    """Steps and minutes of stages, in words."""
    return "; ".join(f"{s['name']} {s['steps']} steps, {s['minutes']:.1f} min" for s in stages)


def open_data(folder: Path, config: Config, device: str) -> Source:
    """A pool of clips, or else a folder of photographs. Raises MissingError, UserError."""
    if (folder / "pool.json").exists():
        return Pool(folder, config.holdout, config.clips, config.renew, config.workers)
    if config.renew or config.clips or any(s.distill for s in config.stages):
        raise UserError(
            f"{folder} holds no pool", "clips, renew and distill need one; leave them out"
        )
    return Photos(folder, config.holdout, device, config.workers)


class Trainer:
    """A training in progress: network, averaged network, helpers, optimisers, progress.

    device: of the torch kind. rank, world: this process among those of torchrun.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        out: Path,
        device: str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not all(s.steps or s.minutes for s in config.stages):
            raise UserError("a stage has no budget", "set steps or minutes, or give --steps")
        if not all(any(getattr(s, term) for term in TERMS) for s in config.stages):
            raise UserError("a stage trains for nothing", "give a loss term of it a weight")
        if config.renew and not config.clips:
            raise UserError("renew needs clips", "say how many clips there are at a time")
        if config.renew and any(s.distill for s in config.stages):
            raise UserError(
                "renewed clips have no frames of a teacher", "leave renew or distill out"
            )
        torch.set_num_threads(config.threads)
        self.config, self.out, self.device = config, out, torch.device(device)
        torch.backends.cudnn.benchmark = self.on_gpu = self.device.type == "cuda"
        self.rank, self.world = rank, world
        self.source = open_data(folder, config, device)
        self.net = build_network(config).to(self.device)
        self.averaged = copy.deepcopy(self.net).requires_grad_(False)
        self.bf16 = config.bf16 and (self.on_gpu or machine.cpu_has_bf16())
        if config.bf16 and not self.bf16 and not rank:
            print("this processor has no bfloat16: in float32", file=sys.stderr)
        self.objective = Objective(config, self.net, self.device, self.bf16)
        if config.checkpointing or config.compile:
            backbone: Any = getattr(self.net, "backbone", None)
            if backbone is None:
                raise UserError(f"{config.network} has no backbone", "leave checkpointing out")
            if config.compile and self.on_gpu:
                backbone.drawn = torch.compile(backbone.drawn)
            if config.checkpointing:
                backbone.drawn = functools.partial(checkpoint, backbone.drawn, use_reentrant=False)
        self.progress = Progress()
        self.optimisers = self._optimisers()
        self.stop = False
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.waited = 0.0
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
            self.progress = Progress(self.progress.stage + 1, done=self._list_done())
            if self.progress.stage < len(self.config.stages):
                self.optimisers = self._optimisers()
            self.save()

    @property
    def draw(self) -> Draw:
        """What the batches of the current stage are like."""
        return self.stage.draw(self.config.seed, self.rank)

    def _run_stage(self) -> None:
        progress = self.progress
        self.sums, self.counts = {}, {}
        self.waited, self.logged = 0.0, (time.monotonic(), progress.step)
        with closing(self.source.batches(self.draw, progress.step, self.on_gpu)) as batches:
            self._steps(batches)

    def _steps(self, batches: Iterator[Batch]) -> None:
        stage, progress = self.stage, self.progress
        validated, clock = progress.minutes, time.monotonic()
        while progress.share(stage) < 1:
            if self._any_must_stop():
                self.save()
                if self.world > 1:
                    dist.barrier()  # who leaves first makes torchrun end the others
                raise KeyboardInterrupt
            asked = time.monotonic()
            batch = next(batches).to(self.device)
            self.waited += time.monotonic() - asked
            self._step(batch)
            progress.step += 1
            now = time.monotonic()
            progress.minutes, clock = progress.minutes + (now - clock) / 60, now
            if self.world > 1:
                progress.minutes = self._agree_on(progress.minutes)
            by_time = progress.minutes - validated >= stage.validate_minutes
            by_step = progress.step % (stage.validate_steps or math.inf) == 0
            if progress.share(stage) >= 1 or (by_step if stage.validate_steps else by_time):
                validated = progress.minutes
                if self.rank == 0:
                    self._validate()
                    self.save()
            elif now - self.logged[0] >= LOG_SECONDS:
                self._log({})

    def _agree_on(self, minutes: float) -> float:
        """The clock of process 0, so that all stop at the same step."""
        shared = torch.tensor(minutes, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def _any_must_stop(self) -> bool:
        """Whether any process was told to stop, so that all stop after the same step."""
        if self.world == 1:
            return self.stop
        told = torch.tensor(float(self.stop), device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def _step(self, batch: Batch) -> None:
        stage, step = self.stage, self.progress.step
        rng = np.random.default_rng([self.config.seed, stage.stream, step, self.rank, 1])
        share = self.progress.share(stage)
        rate = min(1, (step + 1) / stage.warmup) * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = stage.lr * group["relative"] * rate
        for critic in self.objective.critics:
            critic.requires_grad_(False)
        terms, sides = self.objective.terms(stage, step, batch, rng)
        self._descend(0, {name: getattr(stage, name) * term for name, term in terms.items()})
        for critic in self.objective.critics:
            critic.requires_grad_(True)
        judged = self.objective.critic_terms(stage, step, sides)
        if judged:
            weights = dict.fromkeys(judged, 1.0)
            weights |= {name: stage.r1 / 2 * stage.lazy for name in judged if name.endswith("_r1")}
            self._descend(1, {name: weights[name] * term for name, term in judged.items()})
        self._average(min(self.config.ema, (1 + step) / (10 + step)))
        for name, term in {**terms, **judged}.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.item()
            self.counts[name] = self.counts.get(name, 0) + 1

    def _descend(self, which: int, terms: Mapping[str, Tensor]) -> None:
        """One step of an optimiser along the sum of weighted terms."""
        total = torch.stack(list(terms.values())).sum()
        if not total.isfinite():
            worst = [name for name, term in terms.items() if not term.isfinite()]
            raise DataError(
                f"the loss is not finite at step {self.progress.step}: {', '.join(worst)}",
                "lower the learning rate",
            )
        optimiser = self.optimisers[which]
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        if self.world > 1:
            for p in parameters:
                if p.grad is not None:
                    dist.all_reduce(p.grad)
                    p.grad /= self.world
        nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        optimiser.step()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        mine, theirs = self.averaged.parameters(), self.net.parameters()
        get_ema_multi_avg_fn(decay)(list(mine), list(theirs), None)

    def _optimisers(self) -> list[torch.optim.Adam]:
        """Adam over what the stage trains, and over the critics if it has any.

        Parameters that it freezes need no gradient.
        """
        stage = self.stage
        decoder = getattr(getattr(self.net, "backbone", None), "decoder", None)
        parts = [(list(flow_network(self.net).parameters()), stage.flow_lr)]
        if decoder is not None:
            parts.append((list(decoder.parameters()), stage.decoder_lr))
        taken = {id(p) for parameters, _ in parts for p in parameters}
        rest = [p for p in self.net.parameters() if id(p) not in taken]
        parts.insert(0, (rest, 1.0 if stage.runs_network else 0.0))
        if "encoder" in self.objective.helpers:
            encoder = list(self.objective.helpers["encoder"].parameters())
            parts.append((encoder, 1.0 if stage.autoencode or stage.invert else 0.0))
        groups = []
        for parameters, relative in parts:
            for p in parameters:
                p.requires_grad_(relative > 0)
            if parameters and relative:
                groups.append({"params": parameters, "relative": relative})
        # It travels in saved states, where False would forbid the second fastest way, too.
        fused = self.on_gpu or None
        adam = functools.partial(torch.optim.Adam, lr=stage.lr, fused=fused)
        optimisers = [adam(groups, betas=(0.9, 0.99))]
        if stage.adversarial:
            critics = [p for critic in self.objective.critics for p in critic.parameters()]
            group = {"params": critics, "relative": stage.critic_lr}
            optimisers.append(adam([group], betas=(0.0, 0.99)))
        return optimisers

    def _validate(self) -> None:
        """Score on the held-out clips, draw a strip, keep the weights.

        They are those with the best PSNR or end-point error so far; once critics take part, which
        trade PSNR for likeness, the newest.
        """
        stage, progress = self.stage, self.progress
        found, strip = self._scores()
        score = found["psnr"] if "psnr" in found else -found.get("epe", 0.0)
        if progress.best is None or score > progress.best or stage.adversarial:
            progress.best = score
            save_checkpoint(
                self.out, self.averaged.state_dict(), self.config.config, self.note(found)
            )
        if strip is not None:
            folder = self.out.with_suffix(".strips")
            folder.mkdir(exist_ok=True)
            picture = strip.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
            Image.fromarray(picture).save(folder / f"{stage.name}-{progress.step:07d}.png")
        self._log(found)

    @torch.no_grad()
    def _scores(self) -> tuple[dict[str, float], Tensor | None]:
        """(mean scores over whole held-out clips, strip): LQ, SR and GT of the last frames."""
        rows: list[dict[str, float]] = []
        strips: list[Tensor] = []
        for index in range(self.config.holdout):
            batch = self.source.read_held_out(index, self.config.validation_frames).to(self.device)
            lq, gt = batch.lq.flatten(0, 1), batch.gt.flatten(0, 1)
            row: dict[str, float] = {}
            if self.stage.flow:
                a, b = batch.lq[:, :-1].flatten(0, 1), batch.lq[:, 1:].flatten(0, 1)
                true, valid = batch.forward.flatten(0, 1), batch.valid_forward.flatten(0, 1)
                flow = flow_network(self.averaged)(a, b)
                row["epe"] = float(end_point_error(flow, true, valid))
                row["zero_epe"] = float(end_point_error(0 * flow, true, valid))
            if self.stage.autoencode:
                row["autoencoder"] = psnr(self.objective.through_encoder(self.stage, gt, lq)[0], gt)
            if self.stage.runs_network:
                sr = self.averaged(batch.lq)
                row |= {"bicubic": psnr(upscaled(lq), gt), **scores(sr, batch)}
                if len(strips) < 3:
                    nearest = lq[-1:].repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
                    strips.append(torch.cat((nearest, sr[0, -1:], gt[-1:]), 3)[0])
            rows.append(row)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        return means, torch.cat(strips, 1).clamp(0, 1) if strips else None

    def _log(self, found: Mapping[str, float]) -> None:
        """One line to stderr, one row to the CSV beside the checkpoint."""
        if self.rank:
            return
        stage, progress = self.stage, self.progress
        since, before = self.logged
        steps = max(progress.step - before, 1)
        seconds = max(time.monotonic() - since, 1e-9)
        terms = {name: value / self.counts[name] for name, value in self.sums.items()}
        waiting = self.waited / seconds
        self.sums, self.counts = {}, {}
        self.waited, self.logged = 0.0, (time.monotonic(), progress.step)
        share = progress.share(stage)
        eta = progress.minutes * (1 - share) / share if share else math.inf
        shown = [f"{k} {v:.4f}" for k, v in terms.items()]
        shown += [f"val {k} {v:.3f}" for k, v in found.items()]
        print(
            f"{stage.name} step {progress.step}: {', '.join(shown)}, {steps / seconds:.2f} steps/s "
            f"({waiting:.0%} waiting for data), {progress.minutes:.1f} min, {eta:.1f} min to go",
            file=sys.stderr,
            flush=True,
        )
        row = {
            "stage": stage.name,
            "step": progress.step,
            "minutes": round(progress.minutes, 3),
            "lr": self.optimisers[0].param_groups[0]["lr"],
            "waiting": round(waiting, 4),
            **dict.fromkeys((*LOGGED, *SCORES), ""),
        }
        row |= {k: f"{v:.6f}" for k, v in {**terms, **found}.items()}
        path = self.out.with_suffix(".csv")
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _list_done(self) -> list[dict[str, Any]]:
        """The finished stages and the current one."""
        p = self.progress
        return [*p.done, {"name": self.stage.name, "steps": p.step, "minutes": p.minutes}]

    def note(self, found: Mapping[str, float]) -> str:
        """What was done so far, in words, for the checkpoint."""
        reached = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        start = f"; from {Path(self.config.init).name}" if self.config.init else ""
        each = " with a batch each" if self.world > 1 else ""
        where = torch.cuda.get_device_name(self.device) if self.on_gpu else machine.cpu()
        where += ", bf16" if self.bf16 else ""
        return (
            f"{self.source.describe()}; {describe_budget(self._list_done())}{start}; "
            f"perceptual distance {self.objective.perceptual}; "
            f"{self.world} process(es){each}, {self.config.threads} thread(s), "
            f"{where}, torch {torch.__version__}; held-out {reached}"
        )

    def save(self) -> None:
        """Write the full state beside the checkpoint, atomically; process 0 alone."""
        if self.rank:
            return
        path = self.out.with_suffix(".train.pt")
        state = {
            "net": self.net.state_dict(),
            "averaged": self.averaged.state_dict(),
            "helpers": self.objective.helpers.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": asdict(self.progress),
            "settings": settings(self.config),
        }
        with replace_atomically(path) as partial:
            torch.save(state, partial)

    def take_critics(self, path: Path) -> None:
        """Start with the encoder and the critics of another training, which has saved them.

        A new critic takes hundreds of steps to know what it looks at, and the network softens
        meanwhile. Raises MissingError, DataError, UserError when they are others.
        """
        if not path.is_file():
            raise MissingError(f"no training state {path}", "give the .train.pt of a training")
        try:
            self.objective.helpers.load_state_dict(_read_state(path).get("helpers", {}))
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} has other critics: {why}", "take those of one config"
            ) from error

    def resume(self) -> None:
        """Continue from the saved state.

        Raises MissingError when there is none, DataError when it is unreadable, UserError when it
        was made with other settings.
        """
        path, hint = self.out.with_suffix(".train.pt"), "take its own config, or give --fresh"
        if not path.exists():
            raise MissingError(f"no training state {path}", "start with --fresh")
        state = _read_state(path)
        known = state.get("settings", {})  # older states have none
        now = settings(self.config)
        if changed := [name for name in now if name in known and known[name] != now[name]]:
            raise UserError(f"{path} was made with another {', '.join(changed)}", hint)
        try:
            self.net.load_state_dict(state["net"])
            self.averaged.load_state_dict(state["averaged"])
            self.objective.helpers.load_state_dict(state["helpers"])
            self.progress = Progress(**state["progress"])
            if self.progress.stage < len(self.config.stages):
                self.optimisers = self._optimisers()
                if self.progress.step:  # else those of a stage before, or of nothing yet
                    for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                        optimiser.load_state_dict(saved)
        except (RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not fit this config: {why}", hint) from error


def _read_state(path: Path) -> dict[str, Any]:
    """What `Trainer.save` wrote. Raises DataError where it cannot be read."""
    try:
        # From there each tensor goes where it belongs, and none is on the device twice.
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read", "it is torn; start with --fresh") from error
    return state
