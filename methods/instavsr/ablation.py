"""The ablation of InstaVSR: rows trained for equal steps, scored by the harness, claims judged.

`python -m vsrbench.methods.instavsr.ablation train --pool POOL --flow-init SPYNET` trains every
row, `... score --gt FOLDER` records what they do on the test clips, and `... write` makes
docs/ablation.md out of the records alone.
"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tabulate import tabulate

from vsrbench.cards.specs import ROOT, dataset_spec, method_card
from vsrbench.core.errors import INTERRUPTED, DataError, MissingError, UserError
from vsrbench.core.keys import digest, sha256_file
from vsrbench.core.types import Clip, DatasetSpec, MethodCard, Record, Weights
from vsrbench.core.variables import cache_folder
from vsrbench.data import synthetic
from vsrbench.data.datasets import Dataset
from vsrbench.metrics import METRICS as METRIC_INFOS
from vsrbench.results.store import Store
from vsrbench.results.summary import metric_column, newest
from vsrbench.run.cost import FRAMES
from vsrbench.run.runner import Run, RunConfig

from ..training.batch import SCALE
from ..training.config import Config, read_config
from ..training.pool import Pool
from ..training.trainer import Trainer
from .clips import CAMERA, NOISE, open_captured, stills

if TYPE_CHECKING:
    pass

CONFIG = Path(__file__).with_name("configs") / "ablation.toml"
RESULTS = ROOT / "results" / "ablation"
DOCUMENT = ROOT / "docs" / "ablation.md"


@dataclass(frozen=True)
class Row:
    """One training: what differs from the full one."""

    title: str
    """Name in the document."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the network."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Weights of loss terms."""
    seeds: tuple[int, ...] = (1, 2)
    """One training each; two where one of the paper's claims rests on it."""


NO_LATENT_GAN = {"latent_gan": 0.0, "autoencode": 0.0, "invert": 0.0}
NO_PIXEL_GAN = {"pixel_gan": 0.0}
ALONE = {"feedback": "none", "reach": 0}
"""The network of single frames."""
STILL = {"temporal": 0.0, "cyclic": 0.0, "flow": 0.0}
ROWS = {
    "full": Row("full"),
    "frame": Row("no recurrence: each frame alone", ALONE, STILL),
    "free": Row(
        "recurrence without temporal loss", terms={"temporal": 0.0, "cyclic": 0.0}, seeds=(1,)
    ),
    "acyclic": Row("no cyclic term", terms={"cyclic": 0.0}, seeds=(1,)),
    "pixel": Row("no latent GAN", terms=NO_LATENT_GAN),
    "latent": Row("no pixel GAN", terms=NO_PIXEL_GAN),
    "plain": Row("no GAN", terms=NO_LATENT_GAN | NO_PIXEL_GAN),
    "plain-frame": Row("no recurrence, no GAN", ALONE, STILL | NO_LATENT_GAN | NO_PIXEL_GAN),
    "wide": Row(
        "unpruned width: UNet x4/3, decoder x2",
        network={"channels": [44, 64, 88], "decoder_channels": [64, 64]},
        seeds=(1,),
    ),
}
"""What the pruned network keeps is three quarters of the UNet's and half of the decoder's channels
(Chen et al., CVPR 2025); the last row gives them back.
"""


def runs() -> Iterator[tuple[str, int]]:
    """(row, seed) of every training."""
    return ((name, seed) for name, row in ROWS.items() for seed in row.seeds)


def halves(base: Config, row: Row, seed: int, folder: Path) -> tuple[Config, Path, Config]:
    """(training of the first stage, its checkpoint, training of the others from there on).

    Rows that agree in the first stage share its checkpoint. A stage that is left with nothing to
    train for, as that of the encoder where no critic sees latents, falls away.
    """
    stages = []
    for stage in base.stages:
        own = {name: w for name, w in row.terms.items() if getattr(stage, name)}
        stage = replace(stage, **own)  # type: ignore[arg-type]
        if stage.runs_network or stage.autoencode:
            stages.append(stage)
    config = replace(base, config={**base.config, **row.network}, seed=seed)
    first = replace(config, stages=tuple(stages[:1]))
    start = folder / f"start-{digest(asdict(first))}.safetensors"
    return first, start, replace(config, stages=tuple(stages[1:]), init=str(start), flow_init="")


def _train(config: Config, pool: Path, out: Path) -> None:
    """One training, in a process of its own; a finished one is kept, a stopped one goes on."""
    if out.exists():
        return
    part = out.with_suffix(".part.safetensors")
    with out.with_suffix(".log").open("a") as log, redirect_stderr(log):
        trainer = Trainer(config, pool, part)
        if (state := part.with_suffix(".train.pt")).exists():
            trainer.resume()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(trainer, "stop", True))
        trainer.run()
    part.replace(out)
    state.unlink()


def train(pool: Path, folder: Path, flow_init: Path, jobs: int) -> None:
    """Train all rows into `folder`.

    Raises UserError when it holds rows of other settings, MissingError without pool or flow.
    """
    if not flow_init.is_file():
        raise MissingError(
            f"no checkpoint {flow_init}", "train it: methods/instavsr/configs/flow.toml"
        )
    base = replace(read_config(CONFIG), flow_init=str(flow_init))
    clips = Pool(pool).manifest
    about = digest([asdict(base) | {"flow_init": sha256_file(flow_init)}, clips])
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "settings"
    if mark.exists() and mark.read_text() != about:
        raise UserError(f"{folder} holds rows of other settings", "name a new folder")
    mark.write_text(about)
    starts: dict[Path, Config] = {}
    ends: dict[Path, dict[Path, Config]] = {}
    for name, seed in runs():
        first, start, rest = halves(base, ROWS[name], seed, folder)
        starts[start] = first
        ends.setdefault(start, {})[folder / f"{name}-{seed}.safetensors"] = rest
    # Not forked: torch refuses gradients there once this process has computed some.
    processes = ProcessPoolExecutor(jobs, get_context("spawn"))

    def begin(trainings: Mapping[Path, Config]) -> dict[Path, Future[None]]:
        return {out: processes.submit(_train, c, pool, out) for out, c in trainings.items()}

    begun: dict[Path, Future[None]] = {}
    try:
        for start, future in begin(starts).items():
            future.result()
            begun |= begin(ends[start])
        for done, (out, future) in enumerate(begun.items(), 1):
            future.result()
            print(f"{out.name}: {done}/{len(begun)}", file=sys.stderr, flush=True)
    finally:
        processes.shutdown(cancel_futures=True)


def card(name: str, seed: int, folder: Path) -> MethodCard:
    """The card of one training of a row."""
    shipped, row = method_card(ROOT, "instavsr"), ROWS[name]
    return replace(
        shipped,
        name=f"instavsr-{name}-{seed}",
        title=f"{row.title} ({seed})",
        lookahead=row.network.get("reach", shipped.lookahead),
        weights=Weights("trained_here", str((folder / f"{name}-{seed}.safetensors").resolve())),
    )


METRICS = ("psnr", "lr_psnr", "niqe", "gradient_energy", "ewarp", "flicker")
BESIDE = ("instavsr", "realviformer", "bicubic")
"""Methods as they ship, scored beside the rows."""
COSTS = {ROWS[name].title: f"instavsr-{name}-1" for name in ("full", "wide")}
"""Row -> the method whose cost is measured."""
SIZE = (90, 160)
"""LQ size of that measurement."""
SOFT = {f"gt-soft-{sigma:g}": sigma for sigma in (0.5, 1.0, 1.5, 2.0, 3.0)}
"""Names of GT through Gaussians -> their deviations, px. That is how steady a perfect method of
that sharpness would be.
"""
SOFT_METRICS = ("gradient_energy", "ewarp", "flicker")
"""What is measured of them."""


def open_sets(gt: Sequence[Path]) -> list[Dataset]:
    """What the rows are scored on: the embedded dataset, real clips (`captured`), still ones."""
    embedded = dataset_spec(ROOT, "synthetic")
    clips = synthetic.clips(cache_folder(), lambda text: print(text, file=sys.stderr))
    first = next(clip.gt for clip in clips if clip.name == "static")
    assert first is not None
    made = {
        "captured": (METRICS, list(open_captured(gt))),
        "still": (("temporal_std",), list(stills(np.array(first[0])))),
    }
    return [Dataset(replace(embedded, metrics=METRICS), clips)] + [
        Dataset(DatasetSpec(name, 1, name, "synthetic", SCALE, metrics=metrics), own)
        for name, (metrics, own) in made.items()
    ]


def soften(dataset: Dataset, sigma: float) -> Dataset:
    """A dataset whose outputs are its GT, through a Gaussian of `sigma` px."""

    def soft(clip: Clip) -> Clip:
        outputs = [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip.gt or ()]
        return replace(clip, outputs=outputs, outputs_digest=digest([clip.digest, sigma]))

    spec = replace(dataset.spec, metrics=SOFT_METRICS)
    return Dataset(spec, [soft(clip) for clip in dataset.clips])


def score(folder: Path, gt: Sequence[Path], device: str) -> int:
    """Record scores of all rows trained so far and of softened GT, and the cost of the full and the
    wide row.
    """
    store = Store(RESULTS)
    store.prepare()
    cards = [method_card(ROOT, name) for name in BESIDE]
    cards += [card(name, seed, folder) for name, seed in runs()]
    there = [c for c in cards if c.name in BESIDE or Path(c.weights.file).exists()]
    config = RunConfig(ROOT, tuple(device.split(",")), with_cost=False)
    quality, cost = Run(config, store), Run(config, store)
    given = open_sets(gt)
    quality.go(there, given)
    for name, sigma in SOFT.items():
        truth = MethodCard(name, 1, "GT, softened", Weights("none"), kind="frames", scale=0)
        quality.go([truth], [soften(d, sigma) for d in given if "ewarp" in d.spec.metrics])
    with cost.keep_log():
        cost.cost([c for c in there if c.name in COSTS.values()], SIZE, SCALE, FRAMES)
    return max(quality.exit_code, cost.exit_code)


@dataclass(frozen=True)
class Numbers:
    """Means over clips, by method and metric."""

    means: Mapping[str, Mapping[str, float]]
    """Method -> metric -> mean over all clips that move; and `NOISE` and `CAMERA`, in levels."""
    by_set: Mapping[tuple[str, str], Mapping[str, float]]
    """(dataset, method) -> metric -> mean over its clips."""
    clips: Mapping[str, tuple[str, ...]]
    """Dataset -> its clips."""
    soft: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Name in `SOFT` -> metric -> mean over the same clips."""


def numbers(records: Sequence[Record]) -> Numbers:
    """Means out of records. Raises DataError where a method lacks scores that others have."""
    scores: dict[str, dict[str, dict[tuple[str, str], float]]] = {}
    for (dataset, method, clip, metric), record in newest(records).items():
        if record.status == "ok" and record.value is not None:
            metric = clip if dataset == "still" else metric
            scores.setdefault(method, {}).setdefault(metric, {})[dataset, clip] = record.value
    full: dict[str, dict[tuple[str, str], None]] = {}
    for own in (scores[method] for method in scores if method not in SOFT):
        for metric, values in own.items():
            full.setdefault(metric, {}).update(dict.fromkeys(values))
    clips: dict[str, dict[str, None]] = {}
    for dataset, clip in full.get("psnr", {}):
        clips.setdefault(dataset, {})[clip] = None
    means: dict[str, dict[str, float]] = {}
    by_set: dict[tuple[str, str], dict[str, float]] = {}
    for method, own in scores.items():
        for metric in SOFT_METRICS if method in SOFT else full:
            wanted, values = full[metric], own.get(metric, {})
            if lacking := [f"{dataset}/{clip}" for dataset, clip in wanted.keys() - values.keys()]:
                raise DataError(
                    f"{method} has no {metric} of {', '.join(sorted(lacking))}", "score again"
                )
            means.setdefault(method, {})[metric] = statistics.fmean(values.values())
            for dataset in clips:
                if there := [v for (d, _), v in values.items() if d == dataset]:
                    by_set.setdefault((dataset, method), {})[metric] = statistics.fmean(there)
    soft = {name: means.pop(name) for name in SOFT if name in means}
    return Numbers(means, by_set, {name: tuple(own) for name, own in clips.items()}, soft)


@dataclass(frozen=True)
class Claim:
    """One comparison of two rows, seed by seed."""

    about: str
    """What was claimed."""
    text: str
    """What is measured."""
    values: tuple[float, ...]
    """One a seed; empty where a row or a metric was not to be had."""
    low: float = -math.inf
    """Least value with which it holds."""
    high: float = math.inf
    """Largest."""
    unit: str = "%"
    """Of the values."""

    @property
    def holds(self) -> bool:
        """Whether it does with every seed."""
        return bool(self.values) and all(self.low <= v <= self.high for v in self.values)

    def line(self) -> tuple[str, ...]:
        """The cells of its row."""
        digits = 0 if self.unit == "%" else 2
        shown = " / ".join(f"{value:.{digits}f}" for value in self.values) or "–"
        bounds = [f"at least {self.low:g}"] * (self.low > -math.inf)
        bounds += [f"at most {self.high:g}"] * (self.high < math.inf)
        judged = ("yes" if self.holds else "**no**") if bounds else ""
        answer = judged if self.values else "not measured"
        return self.about, f"{self.text}, {self.unit}", shown, " and ".join(bounds), answer


def claims(found: Numbers) -> list[Claim]:
    """The paper's claims as comparisons of rows, for every seed that all of them were trained from.

    Lower by p: 100 (1 - a / b). Nearer to GT by p: 100 (1 - |a - GT| / |b - GT|).
    """

    def each(value: Callable[..., float], metric: str, *rows: str) -> tuple[float, ...]:
        """`value` of the metric of some rows, or of methods as they ship, by seed."""
        values = []
        for seed in Row.seeds:
            names = (f"instavsr-{row}-{seed}" if row in ROWS else row for row in rows)
            numbers = [found.means.get(name, {}).get(metric) for name in names]
            if None not in numbers:
                values.append(value(*numbers))
        return tuple(values)

    def lower(metric: str, base: str, row: str = "full") -> tuple[float, ...]:
        return each(lambda a, b: 100 * (1 - a / b), metric, row, base)

    def gain(row: str, base: str) -> tuple[float, ...]:
        return each(lambda a, b: a - b, "psnr", row, base)

    def nearer(metric: str) -> tuple[float, ...]:
        def share(a: float, b: float, gt: float) -> float:
            return 100 * (1 - abs(a - gt) / abs(b - gt))

        return each(share, metric, "full", "plain", "gt")

    def as_sharp(row: str) -> tuple[float, ...]:
        """E_warp of GT that is as soft as a row, by linear interpolation."""
        known = sorted((m["gradient_energy"], m["ewarp"]) for m in [*found.soft.values(), gt])
        sharp, moved = zip(*known, strict=True)
        return each(lambda g: float(np.interp(g, sharp, moved)), "gradient_energy", row)

    def between(metric: str, row: str) -> tuple[float, ...]:
        return each(lambda a, b, c: 100 * (a - b) / (c - b), metric, row, "plain", "full")

    gt = found.means.get("gt", {})
    fidelity = "1: as faithful as bicubic"
    steady = {
        "2: recurrence and temporal loss, against each frame alone": ("full", "frame"),
        "2: the same without critics": ("plain", "plain-frame"),
    }
    alone = "2: the temporal loss alone"
    sharp = "3: both critics, against none"
    return [
        Claim(fidelity, "PSNR of no GAN over bicubic", gain("plain", "bicubic"), 0.5, unit="dB"),
        Claim(fidelity, "PSNR of full over bicubic", gain("full", "bicubic"), 0, unit="dB"),
        *(
            claim
            for about, (row, base) in steady.items()
            for claim in (
                Claim(about, "E_warp lower", lower("ewarp", base, row), 30),
                Claim(about, "flicker lower", lower("flicker", base, row), 30),
                Claim(about, "PSNR gain", gain(row, base), 0, unit="dB"),
                Claim(about, "gradient energy lower", lower("gradient_energy", base, row), high=5),
                Claim(
                    about, "deviation on the still under noise lower", lower(NOISE, base, row), 60
                ),
            )
        ),
        Claim(alone, "E_warp lower", lower("ewarp", "free"), 0),
        Claim(alone, "flicker lower", lower("flicker", "free"), 0),
        Claim("2: the cyclic term alone", "E_warp lower", lower("ewarp", "acyclic"), 0),
        Claim(sharp, "NIQE nearer to GT's", nearer("niqe"), 20),
        Claim(sharp, "gradient energy nearer to GT's", nearer("gradient_energy"), 20),
        Claim(sharp, "E_warp lower", lower("ewarp", "plain"), -15),
        Claim(
            "3: GT itself, as sharp as with and as without critics",
            "E_warp lower",
            tuple(
                100 * (1 - a / b) for a, b in zip(as_sharp("full"), as_sharp("plain"), strict=True)
            )
            if found.soft
            else (),
        ),
        *(
            Claim(
                "3: each critic alone sits between",
                f"{ROWS[row].title}: {name}, share of the way from no GAN to full",
                between(metric, row),
                0,
                100,
            )
            for row in ("pixel", "latent")
            if row in ROWS
            for metric, name in (("niqe", "NIQE"), ("gradient_energy", "gradient energy"))
        ),
    ]


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean over seeds, and half of what they differ by."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{decimals}f}"
    half = (max(values) - min(values)) / 2
    return text if len(values) == 1 else f"{text} ±{half:.{decimals}f}"


def table(means: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> str:
    """A markdown table of all rows and of what is beside them. means: method -> metric -> mean."""
    rows = {
        row.title: [f"instavsr-{name}-{seed}" for seed in row.seeds] for name, row in ROWS.items()
    }
    for name in BESIDE:
        beside = method_card(ROOT, name)
        rows[beside.title + ", as it shipped then" * (beside.weights.origin != "none")] = [name]
    rows |= {"GT": ["gt"]}
    columns = {name: metric_column(METRIC_INFOS[name]) for name in metrics if name in METRIC_INFOS}
    heads = [columns[name].label if name in columns else f"still, {name}" for name in metrics]
    lines = []
    for title, methods in rows.items():
        if there := [means[method] for method in methods if means.get(method)]:
            cells = (
                spread([m[n] for m in there if n in m], columns[n].decimals if n in columns else 2)
                for n in metrics
            )
            lines.append([title, str(len(there)), *cells])
    align = ("left", *("right" for _ in range(len(metrics) + 1)))
    heads = ["row", "seeds", *heads]
    return tabulate(lines, heads, tablefmt="pipe", colalign=align, disable_numparse=True)


def document(store: Store) -> str:
    """docs/ablation.md out of the records. Raises MissingError when there are none."""
    records = store.require()
    found = numbers(records)
    budget = ", ".join(f"{stage.name} {stage.steps}" for stage in read_config(CONFIG).stages)
    flows = {str(r.extra["flow"]) for r in records if r.metric == "ewarp" and "flow" in r.extra}
    measured = sorted(
        (r for r in records if r.kind == "cost" and r.status == "ok"), key=lambda r: r.at
    )
    newest_cost = {r.method: r.measurement for r in measured}
    costs = [
        (
            title,
            *(f"{x:.2f}" if x is not None else "–" for x in (m.params_m, m.median_ms, m.macs_g)),
            m.device,
        )
        for title, name in COSTS.items()
        if (m := newest_cost.get(name))
    ]
    clips = "; ".join(f"`{name}`: {', '.join(own)}" for name, own in found.clips.items())
    versions = sorted({r.dataset_version for r in records if r.dataset == synthetic.NAME})
    if len(versions) > 1:
        clips += f" (versions {' and '.join(map(str, versions))}, which differ in roundings)"
    parts = [
        "# Ablation of InstaVSR",
        "Made by `python -m vsrbench.methods.instavsr.ablation write` from `results/ablation`, "
        "which `... score --gt CLIPS` filled with "
        f"{store.code({r.run_id for r in records})}; the rows were trained by "
        "`... train --pool POOL --flow-init SPYNET`.",
        f"All rows have the same steps ({budget}; batches and losses in "
        "`methods/instavsr/configs/ablation.toml`), data and seeds; rows that do not differ before "
        "the critics share the first stage. That is far less than the shipped weights had: rows "
        "compare with each other. Each is a mean over clips, then over seeds; ± is half of what "
        "two seeds differ by. The critic of frames sees aligned pairs, so that it asks for "
        "steadiness too, also in the rows without temporal loss or recurrence. No clip was used in "
        "training; the weights of the losses were chosen with an eye on these clips.",
        f"Clips: {clips}. `captured`: real GT frames under the recipe `real`, seeds 100 onwards. "
        f"Flow of E_warp: {', '.join(sorted(flows))}. Still: deviation over time in 8-bit levels "
        "(`temporal_std`) of 32 times one picture, under white noise of 8 levels or under `real`.",
        "## What was claimed",
        tabulate(
            [claim.line() for claim in claims(found)],
            ("claim", "measured", "by seed", "wanted", "holds"),
            tablefmt="pipe",
            disable_numparse=True,
        ),
        "## All clips",
        table(found.means, (*METRICS, NOISE, CAMERA)),
    ]
    for name in found.clips:
        own = {m: found.by_set.get((name, m), {}) for m in found.means}
        parts += [f"## {name}", table(own, METRICS)]
    if found.soft:
        lines = [
            (
                f"{SOFT[name]:g}",
                *(metric_column(METRIC_INFOS[m]).text(own[m]) for m in SOFT_METRICS),
            )
            for name, own in found.soft.items()
        ]
        labels = (metric_column(METRIC_INFOS[m]).label for m in SOFT_METRICS)
        parts += [
            "## What sharpness costs",
            "E_warp is lower the softer a picture is, whatever its method. GT itself through a "
            "Gaussian, all clips:",
            tabulate(
                lines,
                ("Gaussian, px", *labels),
                tablefmt="pipe",
                colalign=("right",) * 4,
                disable_numparse=True,
            ),
        ]
    if costs:
        heads = ("row", "M parameters", "ms/frame", "GMAC/frame", "on")
        parts += [
            f"## What pruning buys, at {SIZE[1]}x{SIZE[0]}",
            tabulate(costs, heads, tablefmt="pipe", disable_numparse=True),
        ]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Train, score, or write from the command line."""
    parser = argparse.ArgumentParser(
        "vsrbench.methods.instavsr.ablation", description="Ablate InstaVSR."
    )
    what = parser.add_subparsers(dest="what", required=True)
    folder = Path("build/ablation")
    one = what.add_parser("train", help="train every row; resumes if interrupted")
    one.add_argument("--pool", type=Path, default=Path("build/pool"), help="training clips")
    one.add_argument("--flow-init", type=Path, required=True, help="checkpoint of a SpyNet")
    one.add_argument("--jobs", type=int, default=2, help="processes")
    one.add_argument("--folder", type=Path, default=folder, help="checkpoints to write")
    two = what.add_parser("score", help="record what the rows do on the test clips")
    two.add_argument("--gt", type=Path, nargs="+", required=True, help="real clips of GT frames")
    two.add_argument("--folder", type=Path, default=folder, help="checkpoints to read")
    two.add_argument("--device", default="cpu")
    what.add_parser("write", help="make docs/ablation.md from the records")
    args = parser.parse_args(argv)
    try:
        if args.what == "train":
            train(args.pool, args.folder, args.flow_init, args.jobs)
        elif args.what == "score":
            raise SystemExit(score(args.folder, args.gt, args.device))
        else:
            DOCUMENT.write_text(document(Store(RESULTS)), encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error


if __name__ == "__main__":
    main()
