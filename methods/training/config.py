"""What a training does, as declared in a TOML file: stages, losses, budgets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from vsrbench.core.errors import MissingError, UserError, unknown_name
from vsrbench.core.files import read_toml

from .batch import Draw

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

    def draw(self, seed: int, rank: int = 0) -> Draw:
        """What the stage's batches are like, in a training of this seed, in this process of it."""
        return Draw((seed, self.stream, rank), self.batch, self.frames, self.patch, self.pan)

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
    compile: bool = False
    """Compile the backbone on a GPU; takes a minute, then pays. Elsewhere this does nothing."""
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
            raise unknown_name("training setting", name, known, f"in {where}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error
    except TypeError as error:
        missing = str(error).partition("arguments: ")[2] or str(error).partition("argument: ")[2]
        raise UserError(f"{where} lacks {missing}", "add the missing settings") from error


def read_config(path: Path) -> Config:
    """Parse a training config. Raises MissingError without the file, UserError on wrong content."""
    if not path.is_file():
        raise MissingError(f"no training config {path}", "see methods/*/configs")
    table = read_toml(path)
    tables = table.pop("stages", [])
    if not tables or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise UserError(f"{path} declares no stages", "add a table [[stages]]")
    stages = tuple(_build(Stage, stage, path) for stage in tables)
    config: Config = _build(Config, {**table, "stages": stages}, path)
    init, flow_init = (f and str(path.parent / f) for f in (config.init, config.flow_init))
    return replace(config, init=init, flow_init=flow_init)


FREE = {
    *("steps", "minutes", "validate_minutes", "validate_steps", "validation_frames"),
    *("threads", "workers", "compile", "checkpointing", "init", "flow_init"),
}
"""Settings that a resumed training may change: budgets, resources, and initial weights that
are already applied."""


def settings(config: Config) -> dict[str, Any]:
    """All other settings by name, those of stages after their number: plain values."""
    flat = {name: value for name, value in asdict(config).items() if name != "stages"}
    for number, stage in enumerate(config.stages, 1):
        flat |= {f"{name} of stage {number}": value for name, value in asdict(stage).items()}
    return {name: value for name, value in flat.items() if name.split()[0] not in FREE}
