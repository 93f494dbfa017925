"""Everything that needs a GPU, measured in one go of eight minutes that may be cut at any moment.

`python scripts/gpu_check.py` runs the parts of scripts/gpu/parts.py one after the other, the most
valuable first, each in a process of its own with a time limit of its own. Figures are on disk as
soon as they are known; the same command again measures what is missing, failed or was cut.
`--cpu --small` runs the same code in under a minute on two cores of a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.gpu.bench import Results  # noqa: E402
from scripts.gpu.pages import page  # noqa: E402
from vsrbench.core import errors  # noqa: E402
from vsrbench.core.progress import note, say_error  # noqa: E402

LIMITS: Mapping[str, float] = {
    "headline": 100,
    "tests": 100,
    "levers": 130,
    "profile": 40,
    "peers": 80,
    "scoring": 80,
    "growth": 80,
    "training": 90,
}
"""Seconds that a part may take, in the order in which they run; four times as long on a CPU."""
Process = subprocess.Popen[bytes]
PROGRAM = (sys.executable, "-m", "scripts.gpu.parts")
"""What runs a part: PROGRAM part --held --out FILE --device DEVICE."""
GO = b"\n"
"""What a held part waits for on its standard input; its end is that of the part."""


def check(
    results: Results,
    parts: Sequence[str],
    device: str,
    small: bool,
    seconds: float,
    limits: Mapping[str, float] = LIMITS,
    program: Sequence[str] = PROGRAM,
) -> bool:
    """Run the parts that lack figures; whether all of them ended well.

    seconds: what all of them may take together.
    """
    end = time.monotonic() + seconds
    results.save()
    for name in parts:
        if results.part(name)["state"] == "done":
            note(f"{name}: there already")
    todo = [name for name in parts if results.part(name)["state"] != "done"]
    ready: dict[str, Process] = {}

    def started(name: str) -> Process:
        options = ["--out", str(results.file), "--device", device, *(["--small"] * small)]
        return ready.pop(name, None) or _start([*program, name, "--held", *options])

    try:
        for name, following in zip_longest(todo, todo[1:]):
            limit, again = min(limits[name], end - time.monotonic()), True
            if limit <= 0:
                results.part(name).update(state="not run", why="no time was left")
                results.save()
            while again and limit > 0:
                note(f"{name}: {limit:.0f} s at most")
                process = started(name)
                if following and following not in ready:  # it imports while this one measures
                    ready[following] = started(following)
                state, why, took = _run(process, limit)
                limit -= took
                again = _note_end(results, name, state, why, took)
            _write_page(results)
    finally:
        for process in ready.values():
            _end(process)
    return all(results.part(name)["state"] == "done" for name in parts)


def _note_end(results: Results, name: str, state: str, why: str, took: float) -> bool:
    """Put down how the process of a part ended; whether the part can go on after a crash.

    What it was measuring then is not tried a second time, so that the rest can be.
    """
    results.read()  # what the part has written
    part = results.part(name)
    entries = part["entries"]
    unfinished = [n for n, entry in entries.items() if entry["status"] == "running"]
    for n in unfinished:
        entries[n] = {"status": state, "why": entries[n].get("why") or why}
    wrong = [n for n, entry in entries.items() if entry["status"] in ("failed", "crashed", "cut")]
    if state == "done" and wrong:
        state, why = "failed", f"not measured: {', '.join(wrong)}"
    elif state == "done" and not entries:
        state, why = "failed", "it measured nothing"
    part.update(state=state, why=why, seconds=round(part["seconds"] + took, 1))
    results.save()
    note(f"{name}: {state}, {took:.1f} s{why and ': ' + why}")
    return state == "crashed" and bool(unfinished)


def _start(command: Sequence[str]) -> Process:
    """A process that waits to be told to go, and ends with this one, however that ends."""
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)


def _run(process: Process, limit: float) -> tuple[str, str, float]:
    """Let a part go: (state, why, seconds)."""
    start = time.monotonic()
    try:
        with suppress(BrokenPipeError):  # it is dead already
            os.write(process.stdin.fileno(), GO) if process.stdin else 0
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return "cut", f"over its limit of {limit:.0f} s", time.monotonic() - start
    finally:
        _end(process)
    took = time.monotonic() - start
    if code:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "crashed", f"its process ended with {how}", took
    return "done", "", took


def _end(process: Process) -> None:
    """End a process now, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _write_page(results: Results) -> None:
    try:
        text = page(results.data)
    except Exception as error:  # the figures are safe; no page is worth the time of a GPU
        note(f"no page could be made: {type(error).__name__}: {error}")
        return
    results.file.with_name("README.md").write_text(text)


def machine(device: str) -> dict[str, object]:
    """Name of the device and environment, asked in another process: here nothing touches a GPU."""
    done = subprocess.run(
        [*PROGRAM, "about", "--device", device], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise errors.MissingError(
            f"{device} cannot be used: {why}", "on a machine without a GPU: --cpu"
        )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _open_results(out: Path, kind: Mapping[str, object], fresh: bool) -> Results:
    """The results in a folder, which are of this kind or not there yet. Raises UserError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        results = Results(out / "results.json")
        before = results.data.get("kind", kind)
        results.data["parts"].values()
    except OSError as error:
        raise errors.UserError(f"{out}: {error.strerror}", "name another --out") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.UserError(
            f"{out / 'results.json'} holds no results", "remove it, or name another --out"
        ) from error
    if before != kind:
        raise errors.UserError(f"{out} holds results of {before}", "name another --out")
    if fresh:
        results.data = {"parts": {}}
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cpu", action="store_true", help="the same on the CPU")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU does in seconds")
    parser.add_argument("--parts", help=f"some of {','.join(LIMITS)}; all unless said")
    parser.add_argument("--minutes", type=float, help="for everything (default: 8; 30 on a CPU)")
    parser.add_argument("--out", type=Path, help="folder; default: results/gpu/<card>-<date>")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--retry", action="store_true", help="try again what crashed a process")
    args = parser.parse_args(argv)
    start = time.monotonic()
    args.cpu |= args.device == "cpu"
    device = "cpu" if args.cpu else args.device
    if args.small:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # waiting for another takes longer than work
    try:
        asked = LIMITS if args.parts is None else map(str.strip, args.parts.split(","))
        parts = list(dict.fromkeys(asked))
        for name in parts:
            if name not in LIMITS:
                raise errors.unknown_name("part", name, LIMITS)
        if not args.cpu and not re.fullmatch(r"cuda(:\d+)?", device):
            raise errors.UserError(f"no device '{device}'", "cuda, cuda:1 ..., or --cpu")
        if args.minutes is not None and not args.minutes > 0:
            raise errors.UserError(f"--minutes {args.minutes:g} leaves no time", "a number above 0")
        about = machine(device)
        card = re.sub(r"[^a-z0-9]+", "-", str(about["device"]).lower()).strip("-")
        base = "build/gpu" if args.cpu or args.small else "results/gpu"
        out = args.out or ROOT / base / f"{card}-{datetime.now(UTC):%Y-%m-%d}"
        out = out.resolve()  # parts run elsewhere
        kind = {"device": about["device"], "small": args.small}
        results = _open_results(out, kind, args.fresh)
        results.data |= {"kind": kind, "env": about["env"]}
        results.data.setdefault("started", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        for part in results.data["parts"].values() if args.retry else ():
            part["entries"] = {
                n: entry for n, entry in part["entries"].items() if entry["status"] != "crashed"
            }
        limits = {name: (4 if args.cpu else 1) * limit for name, limit in LIMITS.items()}
        minutes = args.minutes or (30 if args.cpu else 8)
        left = minutes * 60 - (time.monotonic() - start)
        well = check(results, parts, device, args.small, left, limits)
    except errors.UserError as error:
        say_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        note("interrupted; the same command goes on where it was")
        return errors.INTERRUPTED
    note(f"{time.monotonic() - start:.0f} s; see {results.file.with_name('README.md')}")
    return errors.OK if well else errors.FAILED


if __name__ == "__main__":
    sys.exit(main())
