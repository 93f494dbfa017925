"""The trainer of the video networks here: recurrent x4 SR with a SpyNet, from exact motion.

`python -m vsrbench.methods.instavsr.train CONFIG.toml --pool POOL [--minutes M]` trains a network as its
config says, in stages, on the clips of vsrbench.methods.instavsr.data. All randomness follows from the
config's seed and the step number, so that a run which was stopped and resumed ends, under a budget
of steps, in the same weights as one that was not. Under `torchrun` every process draws a batch of
its own for each step and gradients are averaged: N processes make the batch N times as large.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import math
import os
import platform
import shutil
import signal
import sys
import time
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from vsrbench.cards.weights import UNREADABLE, load_strictly, read_checkpoint, save_checkpoint
from vsrbench.core.errors import INTERRUPTED, DataError, MissingError, UserError, unknown

from .adversaries import (
    Critic,
    Encoder,
    PixelCritic,
    fooled,
    gradient_penalty,
    told_apart,
)
from .data import SCALE, Batch, Pool
from .losses import (
    Latents,
    charbonnier,
    end_point_error,
    pairs,
    perceptual_distance,
    psnr,
    scores,
    warping_loss,
)
from .network import Backbone, upscaled

LOG_SECONDS = 20.0
TERMS = (
    "flow",
    "pixel",
    "perceptual",
    "distill",
    "autoencode",
    "invert",
    "latent",
    "latent_gan",
    "pixel_gan",
    "temporal",
    "cyclic",
)
"""Loss terms; a stage gives each a weight. Critics' own losses are logged beside them."""
LOGGED = (*TERMS, "latent_critic", "pixel_critic", "latent_r1", "pixel_r1")
PAIRED = ("flow", "pixel_gan", "temporal", "cyclic")
"""Those of the terms that compare a frame with the next one."""
SCORES = ("psnr", "bicubic", "warping", "flicker", "gradients", "epe", "zero_epe", "autoencoder")


@dataclass(frozen=True)
class Stage:
    """One part of a training, with its own optimiser and learning-rate curve."""

    name: str
    """Name in the log; its batches follow from it, wherever in a training it comes."""
    batch: int
    """Windows a step, in each process: N of them see N times as many."""
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
    """Steps of linear rise of the learning rate; 1 = none."""
    pixel: float = 0.0
    """Weight of the Charbonnier loss against GT."""
    perceptual: float = 0.0
    """Weight of the perceptual distance to GT: LPIPS where its backbone is here, else slopes."""
    distill: float = 0.0
    """Weight of both distances to the frames of a teacher, which the pool must hold."""
    autoencode: float = 0.0
    """Weight of the Charbonnier loss of GT through the encoder and the decoder."""
    invert: float = 0.0
    """Weight of the mean absolute distance between the latents of the network and what the encoder
    makes of its pictures, so that the critic of latents can only tell apart what shows."""
    latent: float = 0.0
    """Weight of the mean absolute distance to the latents that the encoder makes of GT."""
    latent_gan: float = 0.0
    """Weight of what the critic of latents says; they are those after the decoder's mid block."""
    pixel_gan: float = 0.0
    """Weight of what the critic of frames says."""
    r1: float = 1.0
    """Weight of half the gradient penalty of the critics."""
    temporal: float = 0.0
    """Weight of |SR_i - warp(SR_{i+1})| along exact flow, where visible."""
    cyclic: float = 0.0
    """Weight of the same on second-order results: SR brought down to LQ size and put in again."""
    lazy: int = 4
    """The cyclic term and the penalties are taken every so many steps, so many times as heavy."""
    flow: float = 0.0
    """Weight of the end-point error of the flow network, LQ px, on one random pair a window."""
    flow_lr: float = 1.0
    """Learning rate of the flow network relative to `lr`; 0 freezes it."""
    decoder_lr: float = 1.0
    """Likewise of the decoder."""
    critic_lr: float = 1.0
    """Likewise of the critics."""
    validate_minutes: float = 3.0
    """Time between validations."""
    validate_steps: int = 0
    """Likewise in steps, which a resumed run repeats exactly; 0 = by time."""

    def __post_init__(self) -> None:
        where = f"stage '{self.name}': "
        _check(self, where)
        paired = [term for term in PAIRED if getattr(self, term)]
        if paired and self.frames < 2:
            raise UserError(
                f"{where}{paired[0]} needs the next frame, too", "set frames to 2 or more"
            )

    @property
    def stream(self) -> int:
        """Part of the seed of every batch."""
        return zlib.crc32(self.name.encode())

    @property
    def runs_network(self) -> bool:
        """Some term looks at SR frames."""
        own = {"flow", "autoencode", "invert"}
        return any(getattr(self, name) for name in TERMS if name not in own)

    @property
    def adversarial(self) -> bool:
        """Some critic takes part."""
        return bool(self.latent_gan or self.pixel_gan)


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
    workers: int = 0
    """Processes that prepare batches beside the training; 0 = none."""
    clips: int = 0
    """Clips that batches are drawn from at a time; 0 = all that the pool holds."""
    renew: int = 0
    """Every so many steps a new clip is rendered and takes the place of the oldest, without end;
    0 = never. Needs `clips`."""
    holdout: int = 8
    """Clips at the end of the pool kept for validation."""
    validation_frames: int = 6
    """Frames of each of them."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones that are saved."""
    clip_grad: float = 0.5
    """Largest norm of the gradient."""
    bf16: bool = False
    """Run the video network in bfloat16 where autocast does so; weights and losses stay float32.
    On a CPU without instructions for it, where it takes ten times as long, this does nothing."""
    checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass instead of keeping them."""
    encoder_depth: int = 2
    """Resnets of the encoder."""
    critic_widths: tuple[int, ...] = (32, 64, 64)
    """Channels of the critics' layers."""
    channels_last: bool = False
    """Memory layout; faster for some networks."""
    flow_init: str = ""
    """Checkpoint of a SpyNet to start from; relative to the config file."""
    init: str = ""
    """Checkpoint of the whole network to start from; likewise."""

    def __post_init__(self) -> None:
        _check(self)


LEAST = {
    **dict.fromkeys(("batch", "patch", "frames", "warmup", "lazy"), 1),
    **dict.fromkeys(("threads", "holdout", "critic_widths"), 1),
    "validation_frames": 2,
}
"""Smallest value of a number in a config; of the others 0, which `ABOVE_ZERO` excludes."""
ABOVE_ZERO = ("lr", "clip_grad")
KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda v: isinstance(v, str)),
    bool: ("true or false", lambda v: isinstance(v, bool)),
    int: ("a whole number", lambda v: type(v) is int),
    float: ("a number", lambda v: type(v) in (int, float)),
    tuple[int, ...]: (
        "a list of whole numbers",
        lambda v: isinstance(v, tuple) and v != () and all(type(i) is int for i in v),
    ),
    Mapping[str, Any]: ("a table", lambda v: isinstance(v, Mapping)),
}
"""Types of settings: in words, and whether a value is one."""


def _check(settings: Stage | Config, where: str = "") -> None:
    """Raises UserError, `where` in front, for a value of a wrong type or out of range."""
    for name, hint in get_type_hints(type(settings)).items():
        if hint not in KINDS:
            continue
        value, (words, fits) = getattr(settings, name), KINDS[hint]
        if not fits(value):
            raise UserError(f"{where}{name} must be {words}, got {value!r}")
        least = LEAST.get(name, 0)
        numbers = value if isinstance(value, tuple) else (value,)
        if hint in (int, float, tuple[int, ...]) and not all(n >= least for n in numbers):
            raise UserError(f"{where}{name} must be at least {least}, got {min(numbers)}")
        if name in ABOVE_ZERO and not value:
            raise UserError(f"{where}{name} must be above 0")


def _build(kind: type, table: Mapping[str, Any], where: Path) -> Any:
    """A dataclass from a TOML table; lists become tuples. Raises UserError on wrong content."""
    known = [f.name for f in fields(kind)]
    for name in table:
        if name not in known:
            raise unknown("training setting", name, known, f"in {where}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error
    except TypeError as error:
        missing = str(error).partition("arguments: ")[2] or str(error).partition("argument: ")[2]
        raise UserError(f"{where} lacks {missing}", "add the missing settings") from error


def read_config(path: Path) -> Config:
    """Parse a training config. Raises MissingError without the file, UserError on wrong content."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"no training config {path}", "see methods/*/configs") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    tables = table.pop("stages", [])
    if not tables or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise UserError(f"{path} declares no stages", "add a table [[stages]]")
    stages = tuple(_build(Stage, stage, path) for stage in tables)
    config: Config = _build(Config, {**table, "stages": stages}, path)
    init, flow_init = (f and str(path.parent / f) for f in (config.init, config.flow_init))
    return replace(config, init=init, flow_init=flow_init)


def build_network(config: Config) -> nn.Module:
    """The network of a config, initialised from its seed. Raises UserError, DataError."""
    torch.manual_seed(config.seed)
    module, _, name = config.network.partition(":")
    try:
        kind: type[nn.Module] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"network is '{config.network}': {error}",
            "write module:Class, as in vsrbench.methods.instavsr.network:InstaVSR",
        ) from error
    try:
        net = kind(**config.config)
    except Exception as error:  # networks check their arguments in ways of their own
        text = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{config.network} cannot be built: {type(error).__name__}: {text}", "correct [config]"
        ) from error
    if not hasattr(flow_network(net), "basic_module"):
        raise UserError(f"{config.network} has no SpyNet", "name a video network, or SpyNet itself")
    motion_detectors_(flow_network(net))
    for file, part in ((config.flow_init, flow_network(net)), (config.init, net)):
        if file:
            load_strictly(part, read_checkpoint(Path(file))[0], file)
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


def flow_error(net: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
    """End-point error of the flow network on one random pair of each window, either direction."""
    i = int(rng.integers(batch.lq.shape[1] - 1))
    a, b, true, valid = batch.lq[:, i], batch.lq[:, i + 1], batch.forward, batch.valid_forward
    if rng.integers(2):
        a, b, true, valid = b, a, batch.backward, batch.valid_backward
    return end_point_error(flow_network(net)(a, b), true[:, i], valid[:, i])


class Windows(Dataset[Batch | UserError]):
    """The batch of every step of a stage, by the number of the step.

    An error comes as itself: raised in another process, it would come back as a traceback.
    """

    def __init__(self, pool: Pool, config: Config, stage: Stage, rank: int) -> None:
        self.pool, self.config, self.stage, self.rank = pool, config, stage, rank

    def __getitem__(self, step: int) -> Batch | UserError:
        stage, renew = self.stage, self.config.renew
        rng = np.random.default_rng([self.config.seed, stage.stream, step, self.rank])
        patch = int(rng.choice(stage.patch))
        offset = step // renew if renew else 0
        try:
            return self.pool.batch(rng, stage.batch, stage.frames, patch, stage.pan, offset)
        except UserError as error:
            return error


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


FREE = {
    *("steps", "minutes", "validate_minutes", "validate_steps", "validation_frames"),
    *("threads", "workers", "checkpointing", "init", "flow_init"),
}
"""Settings that a resumed training may change: they say how long, or have done what they do."""


def _settings(config: Config) -> dict[str, Any]:
    """All other settings by name, those of stages after their number: plain values."""
    flat = {name: value for name, value in asdict(config).items() if name != "stages"}
    for number, stage in enumerate(config.stages, 1):
        flat |= {f"{name} of stage {number}": value for name, value in asdict(stage).items()}
    return {name: value for name, value in flat.items() if name.split()[0] not in FREE}


def _spent(stages: Iterable[Mapping[str, Any]]) -> str:
    """Steps and minutes of stages, in words."""
    return "; ".join(f"{s['name']} {s['steps']} steps, {s['minutes']:.1f} min" for s in stages)


class Trainer:
    """A training in progress: network, averaged network, helpers, optimisers, progress.

    device: of the torch kind. rank, world: this process among those of torchrun.
    """

    def __init__(
        self,
        config: Config,
        pool_folder: Path,
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
        self.pool = Pool(pool_folder, config.holdout, config.clips)
        self.held_out = Pool(pool_folder, 0, config.holdout, own=False)
        self.net = build_network(config).to(self.device)
        self.averaged = copy.deepcopy(self.net).requires_grad_(False)
        backbone = getattr(self.net, "backbone", None)
        needs_latents = any(s.autoencode or s.latent or s.latent_gan for s in config.stages)
        if needs_latents and not isinstance(backbone, Backbone):
            raise UserError(f"{config.network} has no latents", "leave their terms out")
        self.helpers = nn.ModuleDict()
        """Encoder and critics, as far as some stage needs them."""
        if isinstance(backbone, Backbone) and needs_latents:
            self.helpers["encoder"] = Encoder(backbone, config.encoder_depth)
            width = backbone.unet.conv_out.out_channels
            if any(s.latent_gan for s in config.stages):
                self.helpers["latent_critic"] = Critic(width, config.critic_widths)
        if any(s.pixel_gan for s in config.stages):
            self.helpers["pixel_critic"] = PixelCritic(config.critic_widths)
        self.helpers.to(self.device)
        if config.checkpointing:
            if backbone is None:
                raise UserError(f"{config.network} has no backbone", "leave checkpointing out")
            backbone.drawn = functools.partial(checkpoint, backbone.drawn, use_reentrant=False)
        self.perceptual, self.distance = perceptual_distance(self.device)
        self.bf16 = config.bf16 and (self.device.type != "cpu" or _cpu_has_bf16())
        if config.bf16 and not self.bf16 and not rank:
            print("this processor has no bfloat16: in float32", file=sys.stderr)
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
            self.progress = Progress(self.progress.stage + 1, done=self._done())
            if self.progress.stage < len(self.config.stages):
                self.optimisers = self._optimisers()
            self.save()

    def _batches(self) -> Iterator[Batch]:
        """The batches of the current stage from the current step on. Raises as `Pool.batch`."""
        windows = Windows(self.pool, self.config, self.stage, self.rank)
        loader = DataLoader(
            windows,
            batch_size=None,
            sampler=count(self.progress.step),
            num_workers=self.config.workers,
            worker_init_fn=_quiet_worker if self.config.workers else None,
            pin_memory=self.on_gpu,
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _run_stage(self) -> None:
        stage, progress = self.stage, self.progress
        self.sums, self.counts = {}, {}
        self.waited, self.logged = 0.0, (time.monotonic(), progress.step)
        batches = self._batches()
        validated, clock = progress.minutes, time.monotonic()
        while progress.share(stage) < 1:
            if self._told_to_stop():
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
                progress.minutes = self._agreed(progress.minutes)
            by_time = progress.minutes - validated >= stage.validate_minutes
            by_step = progress.step % (stage.validate_steps or math.inf) == 0
            if progress.share(stage) >= 1 or (by_step if stage.validate_steps else by_time):
                validated = progress.minutes
                if self.rank == 0:
                    self._validate()
                    self.save()
            elif now - self.logged[0] >= LOG_SECONDS:
                self._log({})

    def _agreed(self, minutes: float) -> float:
        """The clock of process 0, so that all stop at the same step."""
        shared = torch.tensor(minutes, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def _told_to_stop(self) -> bool:
        """Whether any process was, so that all stop after the same step."""
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
        for critic in self._critics():
            critic.requires_grad_(False)
        terms, sides = self._terms(batch, rng)
        self._descend(0, {name: getattr(stage, name) * term for name, term in terms.items()})
        for critic in self._critics():
            critic.requires_grad_(True)
        judged = self._critic_terms(sides)
        if judged:
            weights = dict.fromkeys(judged, 1.0)
            weights |= {name: stage.r1 / 2 * stage.lazy for name in judged if name.endswith("_r1")}
            self._descend(1, {name: weights[name] * term for name, term in judged.items()})
        self._average(min(self.config.ema, (1 + step) / (10 + step)))
        for name, term in {**terms, **judged}.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.item()
            self.counts[name] = self.counts.get(name, 0) + 1

    def _critics(self) -> list[nn.Module]:
        return [self.helpers[name] for name in self.helpers if name.endswith("_critic")]

    def _terms(
        self, batch: Batch, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """(loss terms that the stage weighs, what each critic is to tell apart: real and made)."""
        stage, lazy = self.stage, self.progress.step % self.stage.lazy == 0
        terms: dict[str, Tensor] = {}
        judged: dict[str, tuple[Tensor, Tensor]] = {}
        if stage.flow:
            terms["flow"] = flow_error(self.net, batch, rng)
        gt, lq = batch.gt.flatten(0, 1), batch.lq.flatten(0, 1)
        true = None
        if stage.autoencode or stage.latent or stage.latent_gan:
            with self._autocast():
                image, true = self._through_encoder(gt, lq)
            if stage.autoencode:
                terms["autoencode"] = charbonnier(image, gt)
        if not stage.runs_network:
            if stage.invert:
                with torch.no_grad(), self._autocast(), Latents(self.net) as latents:
                    self.net(batch.lq)
                terms["invert"] = self._inverted(latents, lq)
            return terms, judged
        if true is None:
            with self._autocast():
                sr = self.net(batch.lq)
        else:
            with self._autocast(), Latents(self.net) as latents:
                sr = self.net(batch.lq)
            made = latents.stacked().flatten(0, 1).float()
            real = true.detach().float()
            if stage.invert:
                terms["invert"] = self._inverted(latents, lq)
            if stage.latent:
                terms["latent"] = (made - real).abs().mean()
            if stage.latent_gan:
                terms["latent_gan"] = fooled(self.helpers["latent_critic"], made)
                judged["latent_critic"] = real, made.detach()
        sr = sr.float()
        frames = sr.flatten(0, 1)
        if stage.pixel:
            terms["pixel"] = charbonnier(frames, gt)
        if stage.perceptual:
            terms["perceptual"] = self.distance(frames, gt)
        if stage.distill:
            if batch.teacher is None:
                raise MissingError(
                    "the pool holds no frames of a teacher",
                    "make them: python -m vsrbench.methods.instavsr.data POOL --teacher METHOD",
                )
            teacher = batch.teacher.flatten(0, 1)
            terms["distill"] = charbonnier(frames, teacher) + self.distance(frames, teacher)
        if stage.pixel_gan:
            made = pairs(sr, batch)
            terms["pixel_gan"] = fooled(self.helpers["pixel_critic"], made)
            judged["pixel_critic"] = pairs(batch.gt, batch), made.detach()
        if stage.temporal:
            terms["temporal"] = warping_loss(sr, batch)
        if stage.cyclic and lazy:
            with self._autocast():
                again = self.net(F.avg_pool2d(frames, SCALE).unflatten(0, sr.shape[:2]))
            # Its weight is that of a term taken at every step.
            terms["cyclic"] = stage.lazy * warping_loss(again.float(), batch)
        return terms, judged

    def _inverted(self, latents: Latents, lq: Tensor) -> Tensor:
        """How far the encoder is from giving back the latents of the network's own pictures."""
        pictures = latents.pictures().flatten(0, 1)[:, :3].detach()
        with self._autocast():
            again = self._through_encoder(pictures.float(), lq)[1]
        return (again.float() - latents.stacked().flatten(0, 1).detach().float()).abs().mean()

    def _through_encoder(self, gt: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        """GT (n, 3, 4h, 4w) through encoder and decoder: (the image in 0..1, its latents).

        While the network itself is trained, its decoder is not trained by this.
        """
        backbone = self.net.get_submodule("backbone")
        assert isinstance(backbone, Backbone)
        parameters = [p for p in backbone.decoder.parameters() if p.requires_grad]
        for p in parameters if self.stage.runs_network else ():
            p.requires_grad_(False)
        with Latents(self.net) as latents:
            image = backbone.decoded(self.helpers["encoder"](gt, lq), lq)
        for p in parameters:
            p.requires_grad_(True)
        return image[:, :3].float(), latents.stacked()[:, 0]

    def _critic_terms(self, sides: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The critics' own losses; their gradient penalties at every `lazy`-th step."""
        terms = {}
        for name, (real, made) in sides.items():
            terms[name] = told_apart(self.helpers[name], real, made)
            if self.stage.r1 and self.progress.step % self.stage.lazy == 0:
                penalty = gradient_penalty(self.helpers[name], real)
                terms[name.replace("_critic", "_r1")] = penalty
        return terms

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

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
        if "encoder" in self.helpers:
            encoder = list(self.helpers["encoder"].parameters())
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
            critics = [p for critic in self._critics() for p in critic.parameters()]
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
        for index in range(len(self.held_out)):
            batch = self.held_out.clip(index, self.config.validation_frames).to(self.device)
            lq, gt = batch.lq.flatten(0, 1), batch.gt.flatten(0, 1)
            row: dict[str, float] = {}
            if self.stage.flow:
                a, b = batch.lq[:, :-1].flatten(0, 1), batch.lq[:, 1:].flatten(0, 1)
                true, valid = batch.forward.flatten(0, 1), batch.valid_forward.flatten(0, 1)
                flow = flow_network(self.averaged)(a, b)
                row["epe"] = float(end_point_error(flow, true, valid))
                row["zero_epe"] = float(end_point_error(0 * flow, true, valid))
            if self.stage.autoencode:
                row["autoencoder"] = psnr(self._through_encoder(gt, lq)[0], gt)
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

    def _done(self) -> list[dict[str, Any]]:
        """The finished stages and the current one."""
        p = self.progress
        return [*p.done, {"name": self.stage.name, "steps": p.step, "minutes": p.minutes}]

    def note(self, found: Mapping[str, float]) -> str:
        """What was done so far, in words, for the checkpoint."""
        about = self.pool.about
        h, w = about["size"]
        mix = ", ".join(f"{share:.0%} {name}" for name, share in about["mix"].items())
        reached = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        start = f"; from {Path(self.config.init).name}" if self.config.init else ""
        renewed = f", one new every {self.config.renew} steps" if self.config.renew else ""
        each = " with a batch each" if self.world > 1 else ""
        where = _cpu() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        where += ", bf16" if self.bf16 else ""
        return (
            f"{len(self.pool)} clips of {about['frames']} frames, {w}x{h} px{renewed} "
            f"(stream {about['seed']}, {about['still']:.0%} still; LQ {mix}); "
            f"{_spent(self._done())}{start}; perceptual distance {self.perceptual}; "
            f"{self.world} process(es){each}, {self.config.threads} thread(s), "
            f"{where}, torch {torch.__version__}; held-out {reached}"
        )

    def save(self) -> None:
        """Write the full state beside the checkpoint, atomically; process 0 alone."""
        if self.rank:
            return
        path = self.out.with_suffix(".train.pt")
        partial = path.with_name(path.name + ".partial")
        torch.save(
            {
                "net": self.net.state_dict(),
                "averaged": self.averaged.state_dict(),
                "helpers": self.helpers.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "progress": asdict(self.progress),
                "settings": _settings(self.config),
            },
            partial,
        )
        partial.replace(path)

    def resume(self) -> None:
        """Continue from the saved state.

        Raises MissingError when there is none, DataError when it is unreadable, UserError when it
        was made with other settings.
        """
        path, hint = self.out.with_suffix(".train.pt"), "take its own config, or give --fresh"
        if not path.exists():
            raise MissingError(f"no training state {path}", "start with --fresh")
        try:
            # From there each tensor goes where it belongs, and none is on the device twice.
            state = torch.load(path, weights_only=True, map_location="cpu")
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be read", "it is torn; start with --fresh") from error
        known = state.get("settings", {})  # older states have none
        now = _settings(self.config)
        if changed := [name for name in now if name in known and known[name] != now[name]]:
            raise UserError(f"{path} was made with another {', '.join(changed)}", hint)
        try:
            self.net.load_state_dict(state["net"])
            self.averaged.load_state_dict(state["averaged"])
            self.helpers.load_state_dict(state["helpers"])
            self.progress = Progress(**state["progress"])
            if self.progress.stage < len(self.config.stages):
                self.optimisers = self._optimisers()
                if self.progress.step:  # else those of a stage before, or of nothing yet
                    for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                        optimiser.load_state_dict(saved)
        except (RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not fit this config: {why}", hint) from error


def _quiet_worker(_: int) -> None:
    """Workers leave the processor to the training, and stopping to the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cpuinfo(field: str) -> str:
    """What Linux says of the processor; "" where it says nothing."""
    info = Path("/proc/cpuinfo")
    lines: Iterable[str] = info.read_text().splitlines() if info.exists() else ()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")


def _cpu() -> str:
    """Model of the processor."""
    return _cpuinfo("model name") or platform.machine()


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    flags = f"{_cpuinfo('flags')} {_cpuinfo('Features')}"  # x86, Arm
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _join(device: str) -> tuple[str, int, int]:
    """(device, rank, number of processes); joins the others where torchrun started this one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return device, 0, 1
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device, dist.get_rank(), world


def main(argv: list[str] | None = None) -> None:
    """Train from the command line; exits 130 when interrupted, with everything saved."""
    parser = argparse.ArgumentParser(
        "vsrbench.methods.instavsr.train", description="Train a network."
    )
    parser.add_argument("config", type=Path, help="TOML file, see methods/*/configs")
    parser.add_argument("--pool", type=Path, default=Path("build/pool"), help="training clips")
    parser.add_argument("--steps", type=int, help="budget of the last stage, instead of its own")
    parser.add_argument("--minutes", type=float, help="likewise, in minutes")
    parser.add_argument("--init", type=Path, help="checkpoint of the network to start from")
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
                f"{there[0]} is there already",
                "go on with --resume, start over with --fresh, or name another --out",
            )
        trainer = Trainer(config, args.pool, out, *_join(args.device))
        if args.resume:
            trainer.resume()
            if trainer.progress.stage >= len(config.stages):
                if not trainer.rank:
                    print(
                        f"already finished: {_spent(trainer.progress.done)}; for more, start from "
                        f"it: --init {out} --out NEW",
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
        print("interrupted; go on with --resume", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
