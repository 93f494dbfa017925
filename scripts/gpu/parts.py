"""The parts of scripts/gpu_check.py, a function each, run in a process of its own.

`python -m scripts.gpu.parts headline --out results.json --device cuda` measures one part here.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scripts.gpu.bench import ROOT, Bench, Figures, Results, first_line, full, load, measure_pace
from scripts.gpu.levers import LEVERS, PLAIN, Around, Lever, contiguous, unchanged
from vsrbench.cards import specs
from vsrbench.cards.weights import locate
from vsrbench.core import env, variables
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.types import MethodCard, Weights

if TYPE_CHECKING:
    from vsrbench.methods.training.config import Config

SCALE = 4


def headline(bench: Bench) -> None:
    """The paper's measurement: 30 frames of 512x512, with memory and energy, in fresh processes."""
    from vsrbench.run import cost

    side, frames = bench.pick(512, 32), bench.pick(30, 5)
    card = specs.method_card(ROOT, "instavsr-full")
    for precision in ("fp16", "bf16") if bench.on_gpu else ("fp32",):
        chosen = full(bench, precision) if bench.small else replace(card, precision=precision)

        def work(chosen: MethodCard = chosen) -> Figures:
            m = cost.measure(chosen, (side, side), frames, bench.device)
            return {**asdict(m), "samples_ms": [round(ms, 3) for ms in m.samples_ms]}

        bench.measure(precision, work)


def tests(bench: Bench) -> None:
    """`pytest -m gpu`: what only a GPU can show, each test recorded as it ends."""
    if not bench.on_gpu:
        bench.measure("pytest -m gpu", partial(_absent, "compares a GPU with the CPU"))
        return
    import pytest

    class Recorder:
        """Puts down every test."""

        @staticmethod
        def pytest_runtest_logstart(nodeid: str) -> None:
            bench.begin(nodeid.partition("::")[2])

        @staticmethod
        def pytest_runtest_logreport(report: Any) -> None:
            name = report.nodeid.partition("::")[2]
            if report.skipped:
                why = str(report.longrepr[2] if report.longrepr else "").removeprefix("Skipped: ")
                bench.put(name, "skipped", report.duration, why=why)
            elif report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                why = first_line(crash.message if crash else str(report.longrepr))
                bench.put(name, "failed", report.duration, why=why, log=str(report.longrepr))
            elif report.when == "call":
                bench.put(name, "ok", report.duration, figures={"seconds": report.duration})

    file = "tests/test_gpu.py"
    # The headline is measured by its own part.
    known = ["test_the_headline_fits", *(name for name in bench.entries if bench.is_settled(name))]
    left_out = [f"--deselect={file}::{name}" for name in known]
    how = ["-m", "gpu", "-n", "0", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    code = pytest.main([str(ROOT / file), f"--rootdir={ROOT}", *how, *left_out], [Recorder()])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, 5):  # 5: none was left
        bench.put("pytest", "failed", 0.0, why=f"pytest ended with {code!r}")


def levers(bench: Bench) -> None:
    """`instavsr-full` by each lever alone: what it gains is its ratio to the card as it is."""
    side, frames = bench.pick(512, 32), bench.pick(10, 4)

    def work(lever: Lever) -> Figures:
        if lever.gpu and not bench.on_gpu:
            _absent("means nothing on a CPU")
        card = full(bench, lever.precision, **lever.settings)
        method = load(card, bench.device)
        with lever.around(method, bench.small):
            return measure_pace(card, method, side, frames, bench.device)

    for name, lever in LEVERS.items():
        bench.measure(name, partial(work, lever))


TINY: Mapping[str, Mapping[str, Any]] = {
    "instavsr-unpruned": {
        **{"channels": [8, 8, 8, 8], "heads": [1, 1, 1, 1], "layers": 1, "groups": 4, "text": 8},
        **{"vae_channels": [8, 8, 8, 8], "vae_layers": 1},
    },
    "realviformer-official": {"num_feat": 16, "num_blocks": [1, 1, 1, 1], "hr_feat": 16},
    "realbasicvsr": {"channels": 8, "blocks": 1, "cleaning_blocks": 1},
}
"""Settings of untrained networks at small size."""
PEERS = (
    *("instavsr-unpruned", "instavsr"),
    *("realviformer-official", "realbasicvsr", "realesrgan"),
)
"""Cards that `instavsr-full` is held against, as they say and in fp16."""


def peers(bench: Bench) -> None:
    """Other methods at the size of the headline; where their weights are not here, random ones."""
    side, frames = bench.pick(512, 64), bench.pick(10, 2)

    def work(card: MethodCard, around: Around = unchanged) -> Figures:
        method = load(card, bench.device)
        with around(method, bench.small):
            found = measure_pace(card, method, side, frames, bench.device)
        return {**found, "weights": card.weights.origin}

    bench.measure("instavsr-full", partial(work, full(bench)))
    for precision in ("fp32", "fp16") if bench.on_gpu else ("fp32",):
        card = full(bench, precision, **PLAIN)
        bench.measure(f"instavsr-full, plain eager {precision}", partial(work, card, contiguous))
    with TemporaryDirectory() as folder:
        for name in PEERS:
            card = with_weights(specs.method_card(ROOT, name), Path(folder), bench.small)
            bench.measure(name, partial(work, card))
            if bench.on_gpu and card.precision != "fp16":
                bench.measure(f"{name}, fp16", partial(work, replace(card, precision="fp16")))


def with_weights(card: MethodCard, folder: Path, small: bool) -> MethodCard:
    """The card, with random weights of the right shapes where its own are not here."""
    file = ""
    try:
        locate(card)
        if card.weights.origin != "random":
            return card
    except MissingError:
        if card.entry.startswith("methods.spandrel."):  # reads the architecture from a checkpoint
            import torch
            from spandrel.architectures.ESRGAN import ESRGAN

            file = str(folder / f"{card.name}.pth")
            torch.save(ESRGAN(num_blocks=1 if small else 23, scale=SCALE).state_dict(), file)
    settings = {**card.settings, **(TINY.get(card.name, {}) if small else {})}
    return replace(card, weights=Weights(origin="random", file=file), settings=settings)


def scoring(bench: Bench) -> None:
    """Seconds a frame of each default metric, then a whole run against inference alone."""
    import numpy as np

    from vsrbench.core.types import Sample
    from vsrbench.flow.estimators import best_estimator
    from vsrbench.metrics import METRICS, load_metric

    side, count = bench.pick(2048, 256), 4
    gt = texture(side, side, count)
    noise = np.random.default_rng(1).integers(-6, 7, gt[0].shape)
    sr = [np.clip(frame + noise, 0, 255).astype(np.uint8) for frame in gt]
    lq = [_halved_twice(frame) for frame in gt]
    estimator = best_estimator(bench.device)
    pairs = [estimator.both(gt[0], gt[1])] * count

    def flow() -> Figures:

        seconds = _seconds(lambda t: estimator.both(gt[t - 1], gt[t]), count)
        return {"s_per_frame": seconds, "side": side}

    def metric(name: str) -> Figures:
        running = load_metric(name, bench.device)

        def update(t: int) -> None:
            motion = pairs[t] if t else None
            running.update(Sample(t, sr[t], lq[t], gt[t], gt[t], motion))

        update(0)
        seconds = _seconds(update, count)
        return {"s_per_frame": seconds, "side": side, "value": running.result().value}

    bench.measure(f"flow of the reference ({estimator.name})", flow)
    for name, info in METRICS.items():
        if info.default:
            bench.measure(name, partial(metric, name))
    bench.measure("a whole run of instavsr", partial(_whole_run, bench))


def texture(height: int, width: int, count: int) -> list[Any]:
    """Frames (uint8 RGB) of a textured picture that pans by two pixels a frame."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 85, (3, height // 4 + 2, width // 4 + count, 3)).astype(np.float32)
    wide = (width + 2 * count, height)
    scene = np.zeros((*wide[::-1], 3), np.float32)
    for layer, step in zip(noise, (4, 16, 64), strict=True):
        corner = layer[: height // step + 2, : wide[0] // step + 2]
        scene += cv2.resize(corner, wide, interpolation=cv2.INTER_CUBIC)
    return [np.clip(scene[:, 2 * t : width + 2 * t], 0, 255).astype(np.uint8) for t in range(count)]


def _halved_twice(frame: Any) -> Any:
    import cv2

    height, width = frame.shape[:2]
    return cv2.resize(frame, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA)


def _seconds(work: Callable[[int], Any], count: int) -> float:
    """Seconds of one call, the mean over 2..count-1 after one call that does not count."""
    work(1)
    start = time.perf_counter()
    for t in range(2, count):
        work(t)
    return (time.perf_counter() - start) / (count - 2)


def _whole_run(bench: Bench) -> Figures:
    """`run_bench.py` with default metrics and kept PNG, beside the method alone on that clip."""
    from vsrbench.data.datasets import open_input
    from vsrbench.data.frames import FrameWriter
    from vsrbench.results.store import Store
    from vsrbench.run.method import load_method, set_scale, upscale

    side, count = bench.pick(2048, 128), bench.pick(6, 2)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with FrameWriter(folder / "gt") as truth, FrameWriter(folder / "lq") as low:
            for frame in texture(side, side, count):
                truth.write(frame)
                low.write(_halved_twice(frame))
        card = set_scale(specs.method_card(ROOT, "instavsr"), SCALE)
        (clip,) = open_input(folder / "lq", folder / "gt", SCALE).clips
        start = time.perf_counter()
        method = load_method(card, bench.device)
        ready = time.perf_counter()
        loading = ready - start
        seconds = {}
        for ahead in (False, True):
            began = time.perf_counter()
            made = sum(1 for _ in upscale(method, card, clip, bench.device, ahead))
            seconds[ahead] = time.perf_counter() - began
        asked = ["--methods", card.name, "--input", str(folder / "lq"), "--gt", str(folder / "gt")]
        asked += ["--keep-frames", "--no-cost", "--device", bench.device]
        asked += ["--results", str(folder / "results")]
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "vsrbench", *asked],
            cwd=ROOT,
            env=os.environ | {variables.CACHE: str(folder / "cache")},
            capture_output=True,
            text=True,
        )
        wall = time.perf_counter() - start
        records = [r for r in Store(folder / "results").read() if r.method == card.name]
        job = max((r.seconds for r in records if r.status == "ok"), default=None)
        if job is None:
            raise UserError("the run scored nothing", ended.stderr.strip()[-300:])
    return {
        "side": side,
        "frames": made,
        "load_s": loading,
        "inference_s": seconds[True],
        "inference_waited_s": seconds[False],
        "job_s": job,
        "command_s": wall,
        "metrics": sorted(r.metric for r in records if r.status == "ok"),
    }


def growth(bench: Bench) -> None:
    """Time and memory of `instavsr-full` by size and length, and the size that is too much."""
    import torch

    def work(side: int, frames: int, **settings: Any) -> Figures:
        card = full(bench, **settings)
        try:
            return measure_pace(card, load(card, bench.device), side, frames, bench.device)
        except torch.OutOfMemoryError as error:
            return {"side": side, "frames": frames, "out_of_memory": first_line(str(error))}

    for side in bench.pick((128, 256, 384, 512, 768, 1024), (32, 48)):
        bench.measure(f"{side}x{side}, {GROWN} frames", partial(work, side, GROWN))
    side = bench.pick(128, 32)
    for frames in bench.pick((10, 30, 100), (10,)):
        bench.measure(f"{side}x{side}, {frames} frames", partial(work, side, frames))
    for side in (1024, 1536, 2048, 3072):
        name = f"{side}x{side} without tiles"
        if not bench.on_gpu:
            bench.measure(name, partial(_absent, "a CPU has no memory of its own"))
            break
        if "out_of_memory" in bench.measure(name, partial(work, side, 3, tile=0)):
            break


GROWN = 6
"""Frames of the clips that grow in size."""


def _absent(why: str) -> Figures:
    raise MissingError(why)


def profile(bench: Bench) -> None:
    """What one frame of `instavsr-full` is made of: kernels, idle time of the GPU, host time."""
    bench.measure("one frame", partial(_profiled, bench))


def _profiled(bench: Bench) -> Figures:
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from vsrbench.run import cost

    side = bench.pick(512, 32)
    card = full(bench)
    frames = cost.make_resident_clip(card, (side, side), 8, bench.device)
    outputs = load(card, bench.device).upscale(iter(frames))
    for _ in range(4):
        next(outputs)
    wait: Callable[[], Any] = torch.cuda.synchronize if bench.on_gpu else list
    wait()
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.on_gpu
    with profiler(activities=kinds, acc_events=True) as recorded:
        start = time.perf_counter()
        next(outputs)
        host = time.perf_counter() - start
        wait()
        wall = time.perf_counter() - start
    kind = "CUDA" if bench.on_gpu else "CPU"
    events = [event for event in _events(recorded) if event.device_type.name == kind]
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    busy, until = 0.0, 0.0
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    table: dict[str, list[float]] = {}
    for event in events:
        # On a GPU kernels do not nest; on a CPU calls do, and each counts without those in it.
        own = event.time_range.elapsed_us() if bench.on_gpu else event.self_cpu_time_total
        row = table.setdefault(event.name, [0, 0.0])
        row[0], row[1] = row[0] + 1, row[1] + own / 1000
    kernels = sorted(((n, int(c), ms) for n, (c, ms) in table.items()), key=lambda row: -row[2])
    return {
        "wall_ms": wall * 1000,
        "host_ms": host * 1000,
        "busy_ms": busy / 1000,
        "idle_share": max(0.0, 1 - busy / 1000 / (wall * 1000)) if bench.on_gpu else None,
        "launches": len(events),
        "kernels": [{"name": n[:120], "calls": c, "ms": ms} for n, c, ms in kernels[:25]],
    }


def _events(recorded: Any) -> list[Any]:
    return list(recorded.events() or ())


def training(bench: Bench) -> None:
    """Steps a second and the share of waiting for data: the shipped size, and `instavsr-full`."""
    from vsrbench.methods.training.config import read_config

    from vsrbench.data.frames import FrameWriter

    shipped = read_config(ROOT / "methods/instavsr/configs/photographs-gpu.toml")
    workers = bench.pick(max(1, min(shipped.workers, (os.cpu_count() or 1) - 2)), 0)
    stage = shipped.stages[0]
    if bench.small:
        stage = replace(stage, batch=1, frames=3, patch=(32,))
    shipped = replace(shipped, stages=(stage,), workers=workers, compile=False)
    one = replace(stage, batch=1, patch=bench.pick((64,), (32,)))
    large = replace(shipped, config=full(bench).settings, stages=(one,), checkpointing=True)
    with TemporaryDirectory() as name:
        photographs = Path(name, "photographs")
        with FrameWriter(photographs) as writer:
            for picture in texture(640, 640, bench.pick(16, 3)):
                writer.write(picture)
        for title, config, steps in (
            ("shipped size", shipped, (10, 40)),
            ("instavsr-full, checkpointing", large, (3, 8)),
            ("shipped size, compiled", replace(shipped, compile=True), (10, 40)),
        ):
            if config.compile and not bench.on_gpu:
                bench.measure(title, partial(_absent, "is compiled on a GPU alone"))
                continue
            counts = (1, 1) if bench.small else steps
            bench.measure(title, partial(_trained, config, photographs, counts, bench.device))


def _trained(config: Config, folder: Path, steps: tuple[int, int], device: str) -> Figures:
    """What the second of two stages takes, which differ in their number of steps alone."""
    import torch
    from vsrbench.methods.training.trainer import Trainer

    (stage,) = config.stages
    stages = tuple(replace(stage, name=f"{n} steps", steps=n, minutes=0.0) for n in steps)
    config = replace(config, stages=stages, holdout=1, validation_frames=2)
    # As one of several processes, which leave validation and saving to the first.
    trainer = Trainer(config, folder, folder / "unused.safetensors", device, rank=1)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    trainer.run()
    seconds = 60 * trainer.progress.done[-1]["minutes"]
    return {
        "steps_per_s": steps[1] / seconds,
        "waiting": trainer.waited / seconds,
        "steps": steps[1],
        "batch": stage.batch,
        "frames": stage.frames,
        "patch": list(stage.patch),
        "workers": config.workers,
        "bf16": trainer.bf16,
        "checkpointing": config.checkpointing,
        "allocator_mib": None if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20,
    }


PARTS: Mapping[str, Callable[[Bench], None]] = {
    part.__name__: part
    for part in (headline, tests, levers, profile, peers, scoring, growth, training)
}
"""The most valuable first."""


IMPORTS = ("torch", "vsrbench.run.cost", "vsrbench.methods.instavsr.adapter")
"""What takes long to import and touches no GPU."""


def main(
    argv: Sequence[str] | None = None,
    parts: Mapping[str, Callable[[Bench], None]] = PARTS,
    imports: Sequence[str] = IMPORTS,
) -> None:
    """Measure one part in this process."""
    parser = argparse.ArgumentParser("gpu_parts", description="Measure one part here.")
    parser.add_argument("part", choices=[*parts, "about"])
    parser.add_argument("--out", type=Path, help="JSON file of all parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU does in seconds")
    parser.add_argument(
        "--held", action="store_true", help="import, wait for a byte, end when standard input does"
    )
    args = parser.parse_args(argv)
    if args.part == "about":
        print(json.dumps({"device": env.device_name(args.device), "env": env.capture(ROOT)}))
        return
    faulthandler.enable()
    os.environ[variables.OFFLINE] = "1"  # nothing here may wait for a network
    if args.held:
        for name in imports:
            with suppress(Exception):  # the part says so itself, where it needs it
                importlib.import_module(name)
        if not os.read(sys.stdin.fileno(), 1):
            return
        threading.Thread(target=_follow, daemon=True).start()
    parts[args.part](Bench(Results(args.out), args.part, args.device, args.small))


def _follow() -> None:
    """End, and what was started from here, with whoever started this process."""
    os.read(sys.stdin.fileno(), 1)  # unbuffered: nothing to tidy up when this process ends
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
