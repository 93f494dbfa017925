"""What many jobs and several workers cost. Wall times mean something on an idle machine alone.

    python -m tests.benchmarks.scale pairs [--pairs 3] [--clips 150]
    python -m tests.benchmarks.scale jobs [--clips 1000] [--ray]

pairs: the same outputs are scored, in turns, by one worker, by two of `--ray`, and by two runs at
once of half the clips each, one thread everywhere. The latter need no engine: what they gain is all
that two cores give, which on a virtual machine may be less than twice. Starts are included. jobs:
CPU time of the main process for each job of a method that does nothing on as many clips, and its
memory as they go by.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parents[2]
MARK = "VSR_BENCHMARK"


def write_clips(folder: Path, clips: int, frames: int, side: int, seed: int = 0) -> None:
    """Clips of textured frames."""
    chance = np.random.default_rng(seed)
    for number in range(clips):
        at = folder / f"clip-{number:04}"
        at.mkdir(parents=True)
        picture = chance.integers(0, 256, (side // 4 + 1, side // 4 + 1, 3), np.uint8)
        picture = cv2.resize(picture, (side + frames, side), interpolation=cv2.INTER_CUBIC)
        for t in range(frames):
            cv2.imwrite(str(at / f"{t:03}.png"), picture[:, t : t + side])


class Cpu:
    """A context: CPU seconds of all processes that carry a mark in their environment."""

    def __enter__(self) -> Cpu:
        self._seen, self._over = dict[str, float](), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if f"{MARK}=1".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        stat = (entry / "stat").read_text().rpartition(")")[2].split()
                        spent = int(stat[11]) + int(stat[12])
                        self._seen[entry.name] = spent / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.seconds = sum(self._seen.values())


def pairs(folder: Path, options: argparse.Namespace) -> None:
    """Score the same outputs by one worker, by two of Ray, and by two runs at once, in turns."""
    for seed, side in enumerate(("gt", "sr")):
        write_clips(folder / "all" / side, options.clips, 12, 384, seed)
        for part in range(2):
            (folder / f"half-{part}" / side).mkdir(parents=True)
        for number, clip in enumerate((folder / "all" / side).iterdir()):
            (folder / f"half-{number % 2}" / side / clip.name).symlink_to(clip)
    alone, two = ["--device", "cpu"], ["--device", "cpu,cpu", "--ray"]
    ways = {
        "serial": [("all", alone)],
        "ray": [("all", two)],
        "halves": [("half-0", alone), ("half-1", alone)],
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.pairs):
        for name, runs in ways.items():
            at, start = folder / f"{name}-{number}", time.perf_counter()
            with Cpu() as cpu:
                started = [score(folder / clips, at, how) for clips, how in runs]
                assert not any(process.wait() for process in started)
            took[name].append(time.perf_counter() - start)
            print(f"{name:7} {took[name][-1]:6.1f} s, {cpu.seconds:6.1f} s CPU", flush=True)
    for fast, slow in (("ray", "serial"), ("halves", "serial"), ("ray", "halves")):
        ratios = [b / a for a, b in zip(took[fast], took[slow], strict=True)]
        print(f"{fast} over {slow}: {statistics.median(ratios):.2f}, median of {len(ratios)}")


def score(clips: Path, at: Path, how: list[str]) -> subprocess.Popen[bytes]:
    """Start a run of its own, with empty folders of results and caches."""
    command = [sys.executable, "run_bench.py", "score", "-q", "--outputs", str(clips / "sr")]
    command += ["--gt", str(clips / "gt"), "--results", str(at / f"results-{clips.name}"), *how]
    own = {"OMP_NUM_THREADS": "1", MARK: "1", "VSRBENCH_OFFLINE": "1"}
    own["VSRBENCH_CACHE"] = str(at / f"cache-{clips.name}")
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=quiet, stderr=quiet)


NOTHING = """
import torch.nn.functional as F

class Nothing:
    def upscale(self, frames):
        for x in frames:
            yield F.interpolate(x[None], scale_factor=4)[0]

def load(card, device, dtype):
    return Nothing()
"""
CARD = """
version = 1
title = "Nothing"
entry = "methods.nothing.adapter:load"
[weights]
origin = "none"
"""


def jobs(folder: Path, options: argparse.Namespace) -> None:
    """A method that does nothing on many clips."""
    write_clips(folder / "lq", options.clips, 2, 16)
    (folder / "methods" / "nothing").mkdir(parents=True)
    (folder / "methods" / "nothing" / "adapter.py").write_text(NOTHING)
    (folder / "methods" / "nothing" / "nothing.toml").write_text(CARD)
    how = ["--device", "cpu", *(["--ray"] if options.ray else [])]
    context = get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=study, args=(folder, how, told))
    process.start()
    seconds, memory, done = told.get()
    process.join()
    print(f"{done} jobs, {seconds / done * 1000:.2f} ms CPU of the main process for each")
    print("resident:", ", ".join(f"{mib:.0f} MiB at {n}" for n, mib in memory))


def study(folder: Path, how: list[str], told: Any) -> None:
    """In a process of its own: CPU s, memory after so many records, jobs."""
    from vsrbench.cli import main

    file, memory, over = folder / "results" / "records.jsonl", list[tuple[int, float]](), [False]

    def watch() -> None:
        while not over[0]:
            with contextlib.suppress(OSError):
                count = file.read_bytes().count(b"\n")
                if count >= (memory[-1][0] if memory else 0) + options_step:
                    memory.append((count, resident()))
            time.sleep(0.2)

    options_step = max(1, len(list((folder / "lq").iterdir())) // 4)
    thread = threading.Thread(target=watch)
    thread.start()
    asked = ["--methods", "nothing", "--input", folder / "lq", "--root", folder, "--no-cost"]
    asked += ["--metrics", "flicker", "--results", folder / "results", *how]
    before = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(list(map(str, asked)))
    seconds = time.process_time() - before
    over[0] = True
    thread.join()
    assert code == 0
    told.put((seconds, memory, file.read_bytes().count(b"\n")))


def resident() -> float:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


TASKS: dict[str, Callable[[Path, argparse.Namespace], None]] = {"pairs": pairs, "jobs": jobs}


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--clips", type=int)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    options.clips = options.clips or {"pairs": 150, "jobs": 1000}[options.task]
    with TemporaryDirectory() as name:
        TASKS[options.task](Path(name), options)


if __name__ == "__main__":
    main()
