"""What InstaVSR at its full size takes of a CPU: time by engine, memory in tiles, length of clips.

    python -m tests.benchmarks.full [time] [memory] [length] [--size 128x128] [--rounds 3]

time: CPU ms a frame in fp32 and by what else is here, in turns, and the PSNR of the pictures from
those in fp32. memory: peak resident memory in tiles of half a side over that of the whole, at twice
the size, each in a process of its own. length: time a frame and peak memory of clips of 4 and of
16 frames, at half the size. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tests.benchmarks.speed import installed, say
from vsrbench.cards.specs import ROOT, method_card
from vsrbench.cli.arguments import size
from vsrbench.core.env import device_name
from vsrbench.core.processes import keep_memory
from vsrbench.core.types import Method, MethodCard, Size
from vsrbench.run.backends import SETTING
from vsrbench.run.cost import _rss_mib, make_resident_clip, run_apart
from vsrbench.run.method import load_method

NAME = "instavsr-full"


def card(precision: str = "fp32", **settings: Any) -> MethodCard:
    """The card with other settings."""
    plain = method_card(ROOT, NAME)
    return replace(plain, precision=precision, settings={**plain.settings, **settings})


def took(method: Method, clip: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    """CPU ms a frame, and the last picture."""
    started, last = time.process_time(), clip[0]
    for picture in method.upscale(iter(clip)):
        last = picture
    return (time.process_time() - started) / len(clip) * 1000, last


def compare_engines(at: Size, rounds: int) -> None:
    """Frames in fp32 and by each other engine."""
    ways = {"torch fp32": card(), "torch bf16": card("bf16")}
    if installed("openvino"):
        ways["openvino bf16"] = card("bf16", **{SETTING: "openvino"})
    clip = make_resident_clip(card(), at, 1, "cpu")
    methods = {name: load_method(way, "cpu") for name, way in ways.items()}
    pictures = {name: took(method, clip)[1] for name, method in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, method in methods.items():
            times[name].append(took(method, clip)[0])
    first = times["torch fp32"]
    for name, found in times.items():
        mse = float((pictures[name] - pictures["torch fp32"]).square().mean())
        decibels = "" if name == "torch fp32" else f", {-10 * torch.tensor(mse).log10():.1f} dB"
        ratio = statistics.median(a / b for a, b in zip(first, found, strict=True))
        print(f"{name}: {statistics.median(found):.0f} CPU ms a frame, x{ratio:.2f}{decibels}")


def peak_of(way: MethodCard, at: Size, frames: int) -> tuple[float, float]:
    """(Peak resident MiB, CPU ms a frame after a warm-up)."""
    method = load_method(way, "cpu")
    clip = make_resident_clip(way, at, frames, "cpu")
    if frames > 1:
        took(method, clip[:3])
    ms, _ = took(method, clip)
    return _rss_mib("VmHWM") or 0.0, ms


def compare_tiles(at: Size, _: int) -> None:
    """One frame at once and in tiles."""
    twice = (2 * at[0], 2 * at[1])
    peaks = []
    for tile in (0, max(at)):
        peak = run_apart(card(), f"tile {tile}", peak_of, card(tile=tile), twice, 1)[0]
        peaks.append(peak)
        print(f"{twice[1]}x{twice[0]} in tiles of {tile or 'any size'}: {peak:.0f} MiB at the peak")
    print(f"tiled over whole: {peaks[1] / peaks[0]:.2f}")


def compare_lengths(at: Size, rounds: int) -> None:
    """Short and long clips."""
    half = (at[0] // 2, at[1] // 2)
    for round_ in range(rounds):
        found = [run_apart(card(), "length", peak_of, card(), half, n) for n in (4, 16)]
        (short, a), (long, b) = found
        print(
            f"round {round_}: 16 frames take {b / a:.3f} of 4 a frame, peaks {short:.0f} and "
            f"{long:.0f} MiB"
        )


PARTS: dict[str, Callable[[Size, int], None]] = {
    "time": compare_engines,
    "memory": compare_tiles,
    "length": compare_lengths,
}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="full", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--size", type=size, default=(128, 128), metavar="WxH")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    keep_memory()
    say(f"{device_name('cpu')}, {torch.get_num_threads()} threads")
    for part in options.parts or PARTS:
        PARTS[part](options.size, options.rounds)
    return 0


if __name__ == "__main__":
    from tests.benchmarks.full import main as run  # workers import by that name, not __main__

    sys.exit(run())
