"""Whether weights of InstaVSR are worth shipping: scores by the harness, every demand judged.

`python -m vsrbench.methods.instavsr.acceptance score --gt CLIPS --photos FOLDER` scores the shipped
weights, or those of `--weights`, beside other methods; `... write` makes docs/acceptance.md of the
records. Photographs that training saw are left out; the networks of others are looked for in
$VSRBENCH_WEIGHTS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from vsrbench.cards.specs import ROOT, dataset_spec, method_card
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import Clip, DatasetSpec, MethodCard, Record, Weights
from vsrbench.core.variables import cache_folder
from vsrbench.data import synthetic
from vsrbench.data.datasets import Dataset, open_dataset
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import open_frames
from vsrbench.metrics import METRICS as METRIC_INFOS
from vsrbench.results.store import Store
from vsrbench.results.summary import metric_column, newest
from vsrbench.run.runner import Run, RunConfig

from ..training.batch import SCALE
from ..training.photos import list_test_photographs
from .ablation import Claim
from .clips import NOISE, make_clip, open_captured, stills

RESULTS = Path("build/acceptance")
DOCUMENT = ROOT / "docs" / "acceptance.md"
METRICS = ("psnr", "niqe", "stlpips", "gradient_energy", "ewarp", "flicker")
BICUBIC, GT, RIVAL, GAN = "bicubic", "gt", "realviformer", "realesr-animevideov3"
SIZE, FRAMES = (192, 192), 6
"""GT size and length of the clips of moved photographs."""
TURN, PASSES, SIDE = 16, 10, 320
"""The clip that shows whether quality drifts: frames that run back and forth, how often, and the
largest GT side.
"""
SETS = ("synthetic", "footage", "captured", "photographs")
"""Those whose clips are compared one by one."""
NATURAL = ("synthetic", "footage", "captured")
"""Those whose frames are large enough for NIQE: the moved photographs hold four blocks of 96 px."""
SEEN = "\n## Seen"
"""What follows this heading in the document is written by hand, and stays."""
SHARPER = {"photographs": 1.5}
"""Least gradient energy over bicubic's, by dataset; of the others 2."""


def gan_card() -> MethodCard:
    """Real-ESRGAN's small network for video, the one that people run on old footage."""
    return replace(
        method_card(ROOT, "realesrgan"),
        name=GAN,
        title="Real-ESRGAN, animevideov3",
        precision="fp32",
        weights=Weights("official", "realesr-animevideov3.pth"),
    )


def make_moved(photographs: Sequence[Path]) -> Iterator[Clip]:
    """Smoothly moved photographs with exact flow, by the engine of the embedded dataset.

    Every other one is degraded as real captures are, the rest mildly.
    """
    for number, path in enumerate(photographs):
        rng = np.random.default_rng([0x6D6F766564, number])
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2.5)
        motion = synthetic.Motion(
            velocity=(speed * np.cos(heading), speed * np.sin(heading)),
            sway=(float(rng.normal(0, 0.5)), float(rng.normal(0, 0.5))),
            spin=float(rng.normal(0, 0.002)),
            zoom=float(rng.normal(0, 0.003)),
        )
        texture = np.asarray(open_frames(path)[0], np.float64)
        scene = synthetic.Scene((synthetic.Layer(texture, motion),), SIZE, FRAMES)
        gt = [scene.frame(t) for t in range(FRAMES)]
        recipe = RECIPES["real" if number % 2 == 0 else "mild"]
        clip = make_clip("photographs", path.stem, gt, degrade(gt, SCALE, recipe, 300 + number))
        yield replace(clip, flow=[scene.flow(t) for t in range(FRAMES - 1)])


def long(clip: Clip) -> Clip:
    """The middle of the first `TURN` frames of a clip, `PASSES` times there and back."""
    assert clip.gt is not None
    h, w = (min(side, SIDE // SCALE) for side in clip.size)
    y, x = ((side - n) // 2 for side, n in zip(clip.size, (h, w), strict=True))
    order = [*range(TURN), *range(TURN - 2, 0, -1)] * PASSES
    lq = [clip.lq[t][y : y + h, x : x + w] for t in order]
    rect = (slice(SCALE * y, SCALE * (y + h)), slice(SCALE * x, SCALE * (x + w)))
    return make_clip("drift", clip.name, [clip.gt[t][rect] for t in order], lq)


def open_sets(gt: Sequence[Path], photos: Path) -> list[Dataset]:
    """What weights are scored on."""
    embedded = dataset_spec(ROOT, "synthetic")
    clips = synthetic.clips(cache_folder(), lambda text: print(text, file=sys.stderr))
    first = next(clip.gt for clip in clips if clip.name == "static")
    assert first is not None
    real = list(open_captured(gt))
    longest = max(real, key=lambda clip: clip.count)
    made = {
        "captured": (METRICS, real),
        "photographs": (METRICS, list(make_moved(list_test_photographs(photos)))),
        "still": (("temporal_std",), list(stills(np.array(first[0])))),
        "drift": (("psnr",), [long(longest)]),
    }
    footage = dataset_spec(ROOT, "footage")
    shown = open_dataset(footage, lambda text: print(text, file=sys.stderr)).clips
    return [
        Dataset(replace(embedded, metrics=METRICS), clips),
        Dataset(replace(footage, metrics=METRICS), shown),
    ] + [
        Dataset(DatasetSpec(name, 1, name, "synthetic", SCALE, metrics=metrics), own)
        for name, (metrics, own) in made.items()
    ]


def score(
    gt: Sequence[Path], photos: Path, weights: Path | None, device: str, results: Path
) -> int:
    """Record scores of all methods on all datasets; what is recorded already is kept."""
    store = Store(results)
    store.prepare()
    own = method_card(ROOT, "instavsr")
    if weights:
        where = Weights("trained_here", str(weights.resolve()))
        own = replace(own, name=weights.stem, title=f"InstaVSR, {weights.stem}", weights=where)
    run = Run(RunConfig(ROOT, tuple(device.split(",")), with_cost=False), store)
    *compared, still, drift = open_sets(gt, photos)
    others = [method_card(ROOT, name) for name in (BICUBIC, RIVAL)]
    run.go([own, *others, gan_card()], compared)
    run.go([own, *others], [still])
    run.go([own], [drift])
    return run.exit_code


@dataclass(frozen=True)
class Scores:
    """The newest scores, by method, dataset and clip."""

    values: Mapping[tuple[str, str, str, str], Record]
    """(dataset, method, clip, metric) -> its record."""

    def of(self, method: str, metric: str, dataset: str = "") -> dict[tuple[str, str], float]:
        """(dataset, clip) -> score, of one dataset or of all that are compared."""
        wanted = (dataset,) if dataset else SETS
        return {
            (s, clip): r.value
            for (s, m, clip, name), r in self.values.items()
            if (m, name) == (method, metric) and s in wanted and r.value is not None
        }

    def mean(self, method: str, metric: str, dataset: str = "") -> float:
        """Mean over the clips. Raises DataError without any."""
        found = self.of(method, metric, dataset)
        if not found:
            raise DataError(
                f"{method} has no {metric} of {dataset or 'any dataset'}", "score first"
            )
        return statistics.fmean(found.values())

    def only(self, method: str, metric: str, dataset: str, clip: str = "") -> Record:
        """The record of one clip, or of a set's only one. Raises DataError without it."""
        for (s, m, c, name), record in self.values.items():
            if (s, m, name) == (dataset, method, metric) and clip in ("", c):
                return record
        raise DataError(f"{method} has no {metric} of {dataset}", "score first")

    def beside(self, a: str, b: str, metric: str, dataset: str = "") -> list[tuple[float, float]]:
        """Both scores of every clip that both have."""
        left, right = self.of(a, metric, dataset), self.of(b, metric, dataset)
        return [(left[key], right[key]) for key in left if key in right]

    @property
    def sets(self) -> list[str]:
        """Those that are recorded, in the order of `SETS`."""
        return [name for name in SETS if any(key[0] == name for key in self.values)]


def demands(found: Scores, own: str) -> list[Claim]:
    """The demands on weights, with what `own` reaches."""

    def gains(dataset: str = "", other: str = BICUBIC) -> list[float]:
        return [a - b for a, b in found.beside(own, other, "psnr", dataset)]

    def ratio(metric: str, dataset: str = "", other: str = BICUBIC) -> float:
        pairs = found.beside(own, other, metric, dataset)
        if not pairs:
            where = dataset or "any dataset"
            raise DataError(
                f"{own} and {other} share no clip with {metric} of {where}", "score first"
            )
        return sum(a for a, _ in pairs) / sum(b for _, b in pairs)

    def wins(other: str) -> tuple[float, ...]:
        pairs = found.beside(own, other, "stlpips")
        return (100 * statistics.fmean(a < b for a, b in pairs),) if pairs else ()

    def nearer(metric: str) -> float:
        mine, its, gt = (
            statistics.fmean(v for name in NATURAL for v in found.of(m, metric, name).values())
            for m in (own, BICUBIC, GT)
        )
        return 100 * (1 - abs(mine - gt) / abs(its - gt))

    faithful, sharp, steady = "1: faithful", "2: sharp", "3: steady"
    lines = [
        Claim(faithful, "PSNR over bicubic, worst clip", (min(gains()),), 0, unit="dB"),
        Claim(faithful, "PSNR over bicubic, mean", (statistics.fmean(gains()),), 0.9, unit="dB"),
        Claim(
            faithful,
            "PSNR over bicubic, moved photographs",
            (statistics.fmean(gains("photographs")),),
            0.3,
            unit="dB",
        ),
    ]
    for name in found.sets:
        value = ratio("gradient_energy", name)
        text = f"gradient energy over bicubic's, {name}"
        lines.append(Claim(sharp, text, (value,), SHARPER.get(name, 2.0), unit="x"))
    most = max(found.mean(own, "gradient_energy", name) for name in found.sets)
    lines.append(
        Claim(sharp, "gradient energy over GT's, any dataset", (most,), high=1.1, unit="x")
    )
    lines.append(Claim(sharp, "NIQE nearer to GT's than bicubic's", (nearer("niqe"),), 50))
    for other in (BICUBIC, GAN):
        lines.append(Claim(sharp, f"clips with ST-LPIPS below {other}'s", wins(other), 75))
    psnr = found.only(own, "psnr", "drift").per_frame
    once = len(psnr) // PASSES
    lost = statistics.fmean(psnr[once : 2 * once]) - statistics.fmean(psnr[-once:])
    noise, its = (
        found.only(m, "temporal_std", "still", NOISE).value or 0.0 for m in (own, BICUBIC)
    )
    still, flicker = noise / its, ratio("flicker", "captured")
    lines += [
        Claim(steady, "E_warp over bicubic's", (ratio("ewarp"),), high=1, unit="x"),
        Claim(steady, "flicker over bicubic's, captured", (flicker,), high=1, unit="x"),
        Claim(steady, "noise on a still over bicubic's", (still,), high=0.35, unit="x"),
        Claim(steady, f"PSNR lost over {len(psnr)} frames", (lost,), high=0.1, unit="dB"),
    ]
    against = f"5: against {method_card(ROOT, RIVAL).title}"
    lines += [
        Claim(against, "PSNR", (statistics.fmean(gains(other=RIVAL)),), 0, unit="dB"),
        Claim(against, "E_warp", (ratio("ewarp", other=RIVAL),), high=1, unit="x"),
        Claim(against, "flicker", (ratio("flicker", other=RIVAL),), high=1, unit="x"),
    ]
    perceived = (ratio("stlpips", other=RIVAL),) if found.beside(own, RIVAL, "stlpips") else ()
    lines.append(Claim(against, "ST-LPIPS", perceived, high=1, unit="x"))
    return lines


def table(found: Scores, own: str) -> str:
    """Means by dataset and method, as markdown."""
    columns = {name: metric_column(METRIC_INFOS[name]) for name in METRICS}
    lines = []
    for dataset in found.sets:
        for method in (own, RIVAL, GAN, BICUBIC, GT):
            cells = []
            for name, column in columns.items():
                values = found.of(method, name, dataset)
                cells.append(column.text(statistics.fmean(values.values())) if values else "–")
            lines.append((dataset, method, *cells))
    heads = ("dataset", "method", *(column.label for column in columns.values()))
    align = ("left", "left", *("right" for _ in columns))
    return tabulate(lines, heads, tablefmt="pipe", colalign=align, disable_numparse=True)


def document(found: Scores, own: str) -> str:
    """docs/acceptance.md out of the scores. Raises DataError where some are lacking."""
    clips = "; ".join(
        f"`{name}`: {', '.join(sorted({key[2] for key in found.values if key[0] == name}))}"
        for name in found.sets
    )
    parts = [
        "# What the shipped weights of InstaVSR reach",
        "Made by `python -m vsrbench.methods.instavsr.acceptance write` from the records of "
        "`... score --gt CLIPS --photos FOLDER`.",
        f"Clips: {clips}. `captured`: real GT frames under the recipe `real`. `photographs`: "
        "photographs that the trainer leaves out, moved smoothly, every other one under `real`, "
        "the rest under `mild`. The still is the static clip under white noise of 8 levels; the "
        f"long clip runs {PASSES} times back and forth, and its last pass is held against its "
        f"second. ST-LPIPS was taken of {len(found.of(own, 'stlpips'))} of "
        f"{len(found.of(own, 'psnr'))} clips, of {method_card(ROOT, RIVAL).title} of "
        f"{len(found.of(RIVAL, 'stlpips'))}, its E_warp of {len(found.of(RIVAL, 'ewarp'))}; "
        "methods are compared on those that both have.",
        tabulate(
            [claim.line() for claim in demands(found, own)],
            ("demand", "measured", own, "wanted", "holds"),
            tablefmt="pipe",
            disable_numparse=True,
        ),
        table(found, own),
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        "vsrbench.methods.instavsr.acceptance", description="Judge weights of InstaVSR."
    )
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("score", help="score weights beside other methods")
    one.add_argument("--gt", type=Path, nargs="+", required=True, help="folders of real GT frames")
    one.add_argument("--photos", type=Path, required=True, help="the folder that training used")
    one.add_argument("--weights", type=Path, help="a checkpoint (default: the one that ships)")
    one.add_argument("--device", default="cpu")
    two = what.add_parser("write", help="judge the scores")
    two.add_argument("--weights", type=Path, help="likewise")
    two.add_argument("--out", type=Path, default=DOCUMENT)
    for sub in (one, two):
        sub.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    try:
        if args.what == "score":
            return score(args.gt, args.photos, args.weights, args.device, args.results)
        own = args.weights.stem if args.weights else "instavsr"
        before = args.out.read_text() if args.out.exists() else ""
        judged = document(Scores(newest(Store(args.results).require())), own)
        args.out.write_text(judged + "".join(before.partition(SEEN)[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
