"""What a million records cost: each in a process of its own, CPU seconds and peak memory.

    python -m tests.benchmarks.million [--records 1000000] [--folder DIR] [NAME ...]

The records are those of `results/reference` under other names of methods and clips, with other
scores, in runs of one method each; a second folder holds the same with noise, for `compare`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
METRICS = (
    "psnr",
    "psnr_y",
    "ssim",
    "ewarp",
    "ewarp_self",
    "tof",
    "flicker",
    "niqe",
    "luma_flicker",
)
CLIPS = 500
"""Of one test set."""


def write(folder: Path, count: int, seed: int) -> None:
    """A store of so many records, and the runs that asked for them."""
    folder.mkdir(parents=True)
    lines = map(json.loads, (REFERENCE / "records.jsonl").read_text().splitlines())
    scored = {}
    for line in lines:
        scores = line["kind"] == "quality" and line["status"] == "ok" and line["method"] != "gt"
        if scores and line["metric"] in METRICS:
            scored[line["metric"]] = line
    (about,) = map(json.loads, (REFERENCE / "runs.jsonl").read_text().splitlines()[:1])
    chance = random.Random(seed)
    methods = max(1, count // (len(scored) * CLIPS))
    with (folder / "records.jsonl").open("w") as records, (folder / "runs.jsonl").open("w") as runs:
        left = count
        for m in range(methods):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1.8e9 + 600 * m))
            run_id, asked = f"{stamp}-{m:04x}", []
            for c in range(-(-count // (methods * len(scored)))):
                clip, method = f"clip-{c:04}", f"method-{m:03}"
                digest = hashlib.sha256(clip.encode()).hexdigest()
                keys = {}
                for metric, line in scored.items():
                    if not left:
                        break
                    left -= 1
                    key = hashlib.sha256(f"{method} {clip} {metric}".encode()).hexdigest()[:16]
                    keys[metric] = key
                    noise = chance.gauss(0, 1e-3)
                    frames = [v * (1 + noise) for v in line["per_frame"]]
                    own = {"key": key, "run_id": run_id, "at": stamp, "method": method}
                    own |= {"title": method, "clip": clip, "clip_digest": digest}
                    own |= {"output": digest[:16], "value": line["value"] * (1 + noise)}
                    own |= {"per_frame": frames, "place": f"{method}/synthetic/{clip}"}
                    records.write(json.dumps(line | own, separators=(",", ":")) + "\n")
                asked.append({"method": method, "keys": keys, "dataset": "synthetic", "clip": clip})
            own = {"run_id": run_id, "finished": stamp, "asked": asked}
            runs.write(json.dumps(about | own, separators=(",", ":")) + "\n")


def command(*argv: Any) -> int:
    """The command line, silent."""
    from vsrbench.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        return main(list(map(str, argv)))


def planned(folder: Path) -> int:
    """Jobs of as many scores as there are records, none of which is among them."""
    from vsrbench.core.types import Clip, DatasetSpec, MethodCard, Weights
    from vsrbench.data.datasets import Dataset
    from vsrbench.metrics import depends_on
    from vsrbench.results.store import Store
    from vsrbench.results.view import Places
    from vsrbench.run.plan import plan

    seen = Store(folder).seen()
    spec = DatasetSpec("big", 1, "Big", "real", 4)
    clips = [
        Clip("big", f"clip-{c:04}", 9, (96, 128), 4, 24.0, f"{c:064}", [None], [None])  # type: ignore[list-item]
        for c in range(CLIPS)
    ]
    none = Weights("none")
    count = max(1, len(seen.done) // (CLIPS * len(METRICS)))
    cards = [MethodCard(f"m{n}", 1, "M", none, kind="frames") for n in range(count)]
    places = Places(seen.methods), Places(seen.sets)
    jobs, _ = plan(
        cards,
        Dataset(spec, clips),
        METRICS,
        {},
        seen.done,
        folder / "frames",
        places,
        False,
        False,
        "flow",
        {name: depends_on(name) for name in METRICS},
    )
    return sum(len(job.todo) for job in jobs)


TASKS: dict[str, Callable[[Path, Path], Any]] = {
    "plan": lambda a, b: planned(a),
    "table": lambda a, b: command("table", "--results", a),
    "csv": lambda a, b: command("table", "--results", a, "--format", "csv"),
    "compare": lambda a, b: command("compare", a, b),
    "merge": lambda a, b: command("merge", a, b, "--into", a.parent / "merged"),
}


def measured(task: str, a: Path, b: Path, told: Any) -> None:
    """In a process of its own: (CPU s, peak MiB, what came back)."""
    before = time.process_time()
    found = TASKS[task](a, b)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told.put((time.process_time() - before, peak, found if isinstance(found, int) else ""))


def main() -> None:
    """Print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="NAME")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the records here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, seed in (("a", 0), ("b", 1)):
            if not (folder / name).exists():
                write(folder / name, options.records, seed)
        context = get_context("spawn")
        for task in options.tasks:
            told = context.SimpleQueue()
            process = context.Process(
                target=measured, args=(task, folder / "a", folder / "b", told)
            )
            process.start()
            seconds, peak, code = told.get()
            process.join()
            print(f"{task:8} {seconds:6.1f} s CPU {peak:6.0f} MiB {code}", flush=True)


if __name__ == "__main__":
    main()
