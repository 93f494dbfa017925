"""How fast things are beside what else computes the same: CPU time of one thread, in turns.

    python -m tests.benchmarks.speed [NAME ...] [--size 1280x720] [--rounds 5] [--results DIR]

NAME: metrics, flow, one-pass, decode, report, store, methods, or a case in them; all by default.
Every way to do a thing starts from the same, uint8 frames in memory or files, and gives the same
number, which is checked. Ratios are medians over the rounds, in each of which all ways have a turn.
Where a package or a file is not here, a line says so. With --results our own times become records
of cost there, so that `vsrbench compare BASE NEW --cost 10` judges one such folder by another.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate

from tests.benchmarks.million import REFERENCE, write
from vsrbench.api import load
from vsrbench.cards.specs import ROOT, method_card
from vsrbench.cards.weights import read_checkpoint, search
from vsrbench.cli.arguments import size
from vsrbench.core import variables
from vsrbench.core.env import device_name
from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.keys import digest
from vsrbench.core.processes import keep_memory
from vsrbench.core.types import Measurement, MethodCard, PairFlow, Record, Sample, Size, Weights
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.data.images import read_image
from vsrbench.data.outputs import open_outputs
from vsrbench.flow.estimators import best_estimator
from vsrbench.flow.raft import _torchvision_names
from vsrbench.metrics import METRICS, depends_on, load_metric
from vsrbench.metrics.fidelity import luma
from vsrbench.results.store import Store
from vsrbench.results.view import Places
from vsrbench.run.backends import BACKENDS, SETTING, TORCH
from vsrbench.run.cost import make_resident_clip
from vsrbench.run.evaluate import Context, evaluate, timestamp
from vsrbench.run.method import load_method, set_scale
from vsrbench.run.plan import plan, scores_outputs

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Work = Callable[[], float]

ONE_PASS = ("psnr", "ssim", "ms_ssim", "niqe", "ewarp", "tof")
METHODS = ("bicubic", "realesr-animevideov3", "realviformer", "instavsr")
METHOD_SIZE = (90, 160)
SHORTEST_S = 0.05
"""That one turn takes at least: what is faster is repeated."""
LONGEST_S = 120
"""CPU time of the rounds of a case, unless one round alone takes more."""


@dataclass(frozen=True)
class Case:
    """One thing to do, and the ways to do it."""

    name: str
    ways: Mapping[str, Work]
    """Name -> work on all frames, which gives a number. The first is ours."""
    frames: int
    """Frames, or records, that the work is about."""
    unit: str = "frame"
    """What is counted in `frames`."""
    size: Size = (0, 0)
    """Of the frames, (height, width) in px."""
    tolerance: float | None = None
    """By how much the numbers may differ; None where they are no measure of equality."""
    ours: bool = False
    """All ways are ours."""
    region: Any = "host"
    """As in `Measurement`."""


Named = tuple[str, Callable[[], Case]]
"""A case by its name, made when it is asked for."""


class Material:
    """What the cases work on: textured frames that pan, and the same softened under noise."""

    def __init__(self, folder: Path, size: Size, frames: int) -> None:
        self.folder, self.size, self.frames = folder, size, frames
        rng = np.random.default_rng(0)
        scene = np.zeros((size[0] + 2 * frames, size[1] + 3 * frames, 3))
        for step in (4, 16, 64):
            noise = rng.uniform(0, 85, (scene.shape[0] // step + 2, scene.shape[1] // step + 2, 3))
            scene += cv2.resize(noise, scene.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        self.gt: list[Frame] = []
        self.sr: list[Frame] = []
        for t in range(frames):
            frame = scene[2 * t :, 3 * t :][: size[0], : size[1]]
            soft = cv2.GaussianBlur(frame, (0, 0), 1.2) + rng.normal(0, 4, frame.shape)
            self.gt.append(frame.clip(0, 255).astype(np.uint8))
            self.sr.append(soft.clip(0, 255).astype(np.uint8))
        self.lq = [
            cv2.resize(f, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for f in self.gt
        ]

    @cached_property
    def flow(self) -> list[PairFlow]:
        """Motion of the ground truth."""
        return [best_estimator().both(a, b) for a, b in pairwise(self.gt)]

    @cached_property
    def stored(self) -> tuple[Path, Path]:
        """Folders of PNG: outputs and ground truth."""
        places = self.folder / "sr", self.folder / "gt"
        for place, clip in zip(places, (self.sr, self.gt), strict=True):
            with FrameWriter(place) as writer:
                for frame in clip:
                    writer.write(frame)
        return places


def tensor(frame: Frame) -> torch.Tensor:
    """1 x 3 x H x W in 0..1."""
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


def grey(frame: Frame) -> torch.Tensor:
    """Luma as 1 x 1 x H x W, levels 0..255."""
    return torch.from_numpy(luma(frame))[None, None].float()


def own_metric(name: str, m: Material) -> float:
    """Our metric on the frames."""
    metric = load_metric(name, "cpu")
    needs = METRICS[name].needs
    for t, (sr, gt) in enumerate(zip(m.sr, m.gt, strict=True)):
        flow = m.flow[t - 1] if t and "flow" in needs else None
        metric.update(Sample(index=t, sr=sr, lq=m.lq[t], gt=gt, reference=gt, flow=flow))
    return metric.result().value


def installed(package: str) -> bool:
    """Whether a package is here; a line says so if it is not."""
    if importlib.util.find_spec(package):
        return True
    say(f"{package} is not installed: not compared with")
    return False


def say(text: str) -> None:
    """To stderr."""
    print(text, file=sys.stderr, flush=True)


def frame_peers(name: str) -> dict[str, Callable[[Frame, Frame], float]]:
    """Functions of (output, ground truth) with the definition of our metric."""
    found: dict[str, Callable[[Frame, Frame], float]] = {}
    if name == "psnr":
        found["cv2"] = cv2.PSNR
    if name in ("psnr", "ssim") and installed("skimage"):
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity

        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        found["scikit-image"] = {
            "psnr": lambda a, b: float(peak_signal_noise_ratio(b, a, data_range=255)),
            "ssim": lambda a, b: float(
                structural_similarity(luma(a), luma(b), data_range=255, **window)
            ),
        }[name]
    if name in ("psnr", "ssim", "ms_ssim") and installed("torchmetrics"):
        from torchmetrics.functional import image

        found["torchmetrics"] = {
            "psnr": lambda a, b: float(
                image.peak_signal_noise_ratio(tensor(a), tensor(b), data_range=1.0)
            ),
            # Where the whole window lies inside.
            "ssim": lambda a, b: float(
                image.structural_similarity_index_measure(
                    grey(a), grey(b), data_range=255.0, return_full_image=True
                )[1][..., 5:-5, 5:-5].mean()
            ),
            "ms_ssim": lambda a, b: float(
                image.multiscale_structural_similarity_index_measure(
                    grey(a), grey(b), data_range=255.0
                )
            ),
        }[name]
    parameters = search("niqe_modelparameters.mat")
    here = installed("pyiqa") and (name != "niqe" or parameters)
    if name in ("psnr", "ssim", "ms_ssim", "niqe") and here:
        import pyiqa

        how = {}
        if name == "niqe":
            how = {"pretrained_model_path": str(parameters)}
        metric = pyiqa.create_metric(name, device="cpu", **how)
        if name == "niqe":
            found["pyiqa"] = lambda a, _: metric(tensor(a)).item()
        else:
            found["pyiqa"] = lambda a, b: metric(tensor(a), tensor(b)).item()
    return found


def lai(m: Material, flow: list[PairFlow]) -> float:
    """Warping error as the code of Lai et al. has it, over torch; times 1000."""

    def warped(x: torch.Tensor, forward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, w = x.shape[2:]
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        to = torch.stack((xs, ys), -1) + forward
        limit = torch.tensor([w - 1, h - 1])
        inside = ((to >= 0) & (to <= limit)).all(-1)
        grid = (2 * to / limit - 1)[None]
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True), inside

    errors = []
    for t, pair in enumerate(flow):
        f, b = (torch.from_numpy(np.ascontiguousarray(x)) for x in (pair.forward, pair.backward))
        back, inside = warped(b.permute(2, 0, 1)[None], f)
        back = back[0].permute(1, 2, 0)
        f2, b2 = f.square().sum(-1), back.square().sum(-1)
        hidden = (f + back).square().sum(-1) > 0.01 * (f2 + b2) + 0.5
        gradient = torch.zeros_like(f2)
        gradient[:, :-1] += (f[:, 1:] - f[:, :-1]).square().sum(-1)
        gradient[:-1] += (f[1:] - f[:-1]).square().sum(-1)
        seen = inside & ~(hidden | (gradient > 0.01 * f2 + 0.002))
        after, _ = warped(tensor(m.sr[t + 1]), f)
        error = (after - tensor(m.sr[t])).square().mean(1)[0]
        errors.append(1000 * float((error * seen).sum() / seen.sum()))
    return statistics.fmean(errors)


def flow_length(m: Material) -> float:
    """tOF by the calls of OpenCV."""

    def move(a: Frame, b: Frame) -> Any:
        grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
        return cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]

    pairs = zip(pairwise(m.sr), pairwise(m.gt), strict=True)
    return statistics.fmean(
        float(np.linalg.norm(move(*gt) - move(*sr), axis=-1).mean()) for sr, gt in pairs
    )


def torchvision_flow(m: Material) -> Callable[[], list[PairFlow]]:
    """RAFT (small) of torchvision, called pair by pair in both directions, 12 updates."""
    from torchvision.models.optical_flow import raft_small

    raft = raft_small(weights=None).eval()
    raft.load_state_dict(_torchvision_names(read_checkpoint(search("raft-small.pth"))[0]))
    h, w = m.size
    pad = (0, max(128, -(-w // 8) * 8) - w, 0, max(128, -(-h // 8) * 8) - h)

    @torch.inference_mode()
    def move(a: Frame, b: Frame) -> Any:
        both = (F.pad(2 * tensor(x) - 1, pad, mode="replicate") for x in (a, b))
        found = raft(*both, num_flow_updates=12)[-1][0]
        return found.permute(1, 2, 0)[:h, :w].contiguous().numpy()

    return lambda: [PairFlow(move(a, b), move(b, a)) for a, b in pairwise(m.gt)]


def mean_length(flow: list[PairFlow]) -> float:
    """Of all vectors, px."""
    return statistics.fmean(
        float(np.linalg.norm(f, axis=-1).mean()) for p in flow for f in (p.forward, p.backward)
    )


TOLERANCES = {"psnr": 1e-3, "ssim": 1e-3, "ms_ssim": 1e-3, "niqe": 1e-3, "ewarp": 0.02, "tof": 1e-3}


def metrics(m: Material) -> Iterator[Named]:
    """Each metric of every run, and those that are asked for of which peers are known."""

    def case(name: str) -> Case:
        ways: dict[str, Work] = {"vsrbench": partial(own_metric, name, m)}
        for peer, function in frame_peers(name).items():
            ways[peer] = lambda f=function: statistics.fmean(map(f, m.sr, m.gt))
        if name == "ewarp":
            ways["Lai et al. over torch"] = lambda: lai(m, m.flow)
        if name == "tof":
            ways["OpenCV"] = lambda: flow_length(m)
        return Case(name, ways, m.frames, size=m.size, tolerance=TOLERANCES.get(name))

    names = dict.fromkeys((*(i.name for i in METRICS.values() if i.default), *ONE_PASS))
    for name in names:
        yield name, partial(case, name)


def flow(m: Material) -> Iterator[Named]:
    """Motion of the reference."""

    def case() -> Case:
        theirs = torchvision_flow(m)
        ways: dict[str, Work] = {
            "vsrbench": lambda: mean_length(
                [best_estimator().both(a, b) for a, b in pairwise(m.gt)]
            ),
            "torchvision": lambda: mean_length(theirs()),
        }
        return Case("flow", ways, m.frames, size=m.size, tolerance=0.02)

    if search("raft-small.pth") is None:
        say("flow: left out, weights are not here: raft-small.pth")
    else:
        yield "flow", case


def one_pass(m: Material) -> Iterator[Named]:
    """Scores of frames on disk: one pass, and a script that goes metric by metric."""

    def ours(metrics: tuple[str, ...]) -> float:
        """What `score` does for the outputs."""
        card = MethodCard("sr", 1, "sr", Weights("user"), kind="frames", scale=0)
        estimator, places = best_estimator(), (Places([]), Places([]))
        with TemporaryDirectory() as name:
            found = open_outputs(*m.stored, None)
            jobs, _ = plan(
                *([card], found, metrics, {}, {}, Path(name), places, False, True),
                estimator.identity,
                {name: depends_on(name) for name in metrics},
            )
            (job,) = (job for job in jobs if scores_outputs(job.card))
            context = Context("run", "cpu", estimator, Path(name), lambda: None, say)
            records = list(evaluate(job, lambda: sys.exit("no method is to run"), context))
        values = [r.value for r in records if r.value is not None]
        assert len(values) == len(metrics), [r.error for r in records if r.error]
        return sum(values)

    def theirs(peers: Mapping[str, Any], move: Callable[[], list[PairFlow]]) -> float:
        """Every metric reads all frames again."""

        def again() -> Material:
            """The same frames, read once more."""
            copy = object.__new__(Material)
            copy.__dict__.update(size=m.size, frames=m.frames)
            copy.sr, copy.gt = ([read_image(p) for p in sorted(d.iterdir())] for d in m.stored)
            return copy

        total = 0.0
        for function in peers.values():
            read = again()
            total += statistics.fmean(map(function, read.sr, read.gt))
        read = again()
        return total + lai(read, move()) + flow_length(again())

    def case() -> Case:
        peers = {n: frame_peers(n)["pyiqa"] for n in ("psnr", "ssim", "ms_ssim", "niqe")}
        ways: dict[str, Work] = {
            "vsrbench": partial(ours, ONE_PASS),
            "pyiqa and torchvision": partial(theirs, peers, torchvision_flow(m)),
        }
        return Case("one-pass", ways, m.frames, size=m.size, tolerance=0.05)

    lacks = [n for n in ("niqe_modelparameters.mat", "raft-small.pth") if search(n) is None]
    if lacks:
        say(f"one-pass: left out, weights are not here: {', '.join(lacks)}")
    elif installed("pyiqa"):
        yield "one-pass", case


def look(frame: Frame) -> float:
    """A number that says which pixels a frame has."""
    return float(frame[::7, ::11].mean())


def decode(m: Material) -> Iterator[Named]:
    """Frames of files."""

    def ours(path: Path) -> float:
        return statistics.fmean(map(look, open_frames(path)))

    def pictures() -> Case:
        def cv2_only() -> float:
            paths = sorted(m.stored[0].glob("*.png"))
            read = (cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in paths)  # type: ignore[arg-type]
            return statistics.fmean(map(look, read))

        ways = {"vsrbench": partial(ours, m.stored[0]), "cv2": cv2_only}
        return Case("png", ways, m.frames, size=m.size, tolerance=1e-9)

    def video() -> Case:
        import av

        path = m.folder / "clip.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"crf": "18"})
            stream.height, stream.width = m.size
            stream.pix_fmt = "yuv420p"
            for frame in m.gt:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))

        def av_only() -> float:
            with av.open(str(path)) as source:
                return statistics.fmean(
                    look(f.to_ndarray(format="rgb24")) for f in source.decode(video=0)
                )

        def cv2_only() -> float:
            source, values = cv2.VideoCapture(str(path)), []
            while (read := source.read())[0]:
                values.append(look(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)))
            return statistics.fmean(values)

        ways = {"vsrbench": partial(ours, path), "PyAV": av_only, "cv2": cv2_only}
        return Case("mp4", ways, m.frames, size=m.size)

    yield from (("png", pictures), ("mp4", video))


def report(m: Material) -> Iterator[Named]:
    """What is drawn of `results/reference`."""

    def drawn() -> float:
        before = os.environ.get(variables.CACHE)
        with TemporaryDirectory() as name:
            os.environ[variables.CACHE] = name
            try:
                path = load(REFERENCE).report(Path(name) / "report.html", say=lambda _: None)
            finally:
                os.environ.pop(variables.CACHE)
                if before is not None:
                    os.environ[variables.CACHE] = before
            return float(path.stat().st_size)

    count = len(load(REFERENCE).records())
    yield "report", lambda: Case("report", {"vsrbench": drawn}, count, "record")
    table: Mapping[str, Work] = {"vsrbench": lambda: float(len(load(REFERENCE).table()))}
    yield "table", lambda: Case("table", table, count, "record")


def store(m: Material) -> Iterator[Named]:
    """Records written one by one, and read."""
    records, rounds = load(REFERENCE).records()[:50], iter(range(10**9))

    def append() -> float:
        place = Store(m.folder / f"store-{next(rounds)}")
        place.prepare()
        for record in records:
            place.append(record)
        return float(place.records.stat().st_size)

    def read() -> Case:
        import json

        write(m.folder / "many", 2000, 0)
        place = Store(m.folder / "many")

        def plain() -> float:
            with place.records.open() as file:
                return float(sum(Record(**json.loads(line)).value or 0 for line in file))

        ways: dict[str, Work] = {
            "vsrbench": lambda: float(sum(r.value or 0 for r in place.read())),
            "json": plain,
        }
        return Case("read", ways, 2000, "record", tolerance=1e-6)

    yield "append", lambda: Case("append", {"vsrbench": append}, len(records), "record")
    yield "read", read


def methods(m: Material) -> Iterator[Named]:
    """Methods on resident frames of 160 x 90, by engine."""

    def upscale(card: MethodCard, frames: int) -> Work:
        method = load_method(card, "cpu")
        clip = make_resident_clip(card, METHOD_SIZE, frames, "cpu")
        return lambda: float(list(method.upscale(iter(clip)))[-1].float().mean())

    def case(name: str) -> Case:
        frames = max(4, m.frames)
        card = replace(set_scale(method_card(ROOT, name), 4), precision="fp32")
        ways: dict[str, Work] = {}
        for way in (*BACKENDS, "openvino bf16"):
            backend, _, precision = way.partition(" ")
            if backend == TORCH:
                ways[way] = upscale(card, frames)
            elif name != "bicubic" and installed(backend):
                settings = {**card.settings, SETTING: backend}
                own = replace(card, settings=settings, precision=precision or "fp32")
                try:
                    ways[way] = upscale(own, frames)
                except UserError as error:
                    say(f"{name} with {way}: {error.message}")
        how: dict[str, Any] = {"ours": True, "region": "device", "tolerance": 1e-3}
        return Case(name, ways, frames, size=METHOD_SIZE, **how)

    yield from ((name, partial(case, name)) for name in METHODS)


GROUPS: Mapping[str, Callable[[Material], Iterator[Named]]] = {
    "metrics": metrics,
    "flow": flow,
    "one-pass": one_pass,
    "decode": decode,
    "report": report,
    "store": store,
    "methods": methods,
}


def spent() -> float:
    """CPU s of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Way -> CPU ms a frame in each round, after a turn that counts for nothing.

    There are fewer rounds where they take more than `LONGEST_S` in all.
    """
    values, repeats = dict[str, float](), dict[str, int]()
    for way, work in case.ways.items():
        before = spent()
        values[way] = work()
        if (took := spent() - before) < 1:  # a short one has loaded and imported for the most part
            before = spent()
            work()
            took = spent() - before
        repeats[way] = max(1, round(SHORTEST_S / max(took, 1e-6)))
    first = next(iter(values.values()))
    for way, value in values.items():
        if case.tolerance is not None and abs(value - first) > case.tolerance:
            raise SystemExit(f"{case.name}: {way} gives {value}, not {first}")
    found: dict[str, list[float]] = {way: [] for way in case.ways}
    started = spent()
    for number in range(rounds):
        if number and (spent() - started) * (number + 1) / number > LONGEST_S:
            break
        for way, work in case.ways.items():
            before = spent()
            for _ in range(repeats[way]):
                work()
            found[way].append((spent() - before) / repeats[way] / case.frames * 1000)
    return found


def to_record(case: Case, way: str, samples: list[float], ratios: Mapping[str, float]) -> Record:
    """One way as a record of cost; what the others took in its terms stands in `extra`."""
    name = f"{case.name} ({way})" if case.ours and way != TORCH else case.name
    ordered, device = sorted(samples), device_name("cpu")
    median, none = statistics.median(ordered), "not measured: CPU time is"
    measured = Measurement(
        region=case.region,
        device=device,
        size=case.size,
        frames=case.frames,
        warmup_frames=case.frames,
        threads=1,
        samples_ms=tuple(samples),
        median_ms=median,
        p90_ms=ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        first_output_ms=median,
        fps=1000 / median,
        rss_peak_mib=None,
        rss_idle_mib=None,
        vram_peak_mib=None,
        vram_allocator_mib=None,
        params_m=None,
        macs_g=None,
        why=dict.fromkeys(("rss_peak_mib", "vram_peak_mib", "params_m", "macs_g"), none),
    )
    return Record(
        key=digest(["speed", name, case.size, case.frames, device]),
        run_id="speed",
        at=timestamp(),
        kind="cost",
        status="ok",
        method=name,
        method_version=1,
        title=name,
        weights_origin="none",
        weights_sha256="",
        precision="fp32",
        size=case.size,
        extra={"ratios": dict(ratios)},
        measurement=measured,
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, keep records."""
    parser = argparse.ArgumentParser(prog="speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--size", type=size, default=(720, 1280), metavar="WxH")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_memory()  # as a run has it: for all ways alike
    rows, records = [], []
    with TemporaryDirectory() as folder:
        material = Material(Path(folder), options.size, options.frames)
        found = {group: list(cases(material)) for group, cases in GROUPS.items()}
        known = {*found, *(name for cases in found.values() for name, _ in cases)}
        if unknown := [name for name in options.names if name not in known]:
            parser.error(str(unknown_name("case", unknown[0], known)))
        for group, cases in found.items():
            for name, make in cases:
                if options.names and not {group, name} & set(options.names):
                    continue
                try:
                    case = make()
                    took = measure(case, options.rounds)
                except UserError as error:
                    say(f"{name}: {error.message}")
                    continue
                first = next(iter(took.values()))
                ratios = {
                    way: statistics.median(t / o for t, o in zip(times, first, strict=True))
                    for way, times in took.items()
                }
                for way, times in took.items():
                    ms = statistics.median(times)
                    rows.append([case.name, way, f"{ms:.3g}", case.unit, f"{ratios[way]:.2f}"])
                    if case.ours or times is first:
                        records.append(to_record(case, way, times, ratios))
                say(f"{case.name}: " + ", ".join(f"{w} {r:.2f}" for w, r in ratios.items()))
    heads = ["what", "by", "CPU ms", "for each", "time in terms of ours"]
    print(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))
    if options.results:
        kept = Store(options.results)
        kept.prepare()
        kept.append_all(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
