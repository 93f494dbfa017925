"""One part of the check at work: what is measured goes to disk at once, and only once.

Below it, what the parts share: the card of `instavsr-full`, and timing.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from vsrbench.cards import specs
from vsrbench.core import env
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.files import replace_atomically
from vsrbench.core.types import Method, MethodCard, Weights

ROOT = specs.ROOT
Figures = Mapping[str, Any]


class Results:
    """All measurements of one machine: a JSON file, replaced as a whole after each of them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data: dict[str, Any] = {"parts": {}}
        self.read()

    def read(self) -> None:
        """Take what the file holds, if it is there."""
        if self.file.is_file():
            self.data = json.loads(self.file.read_text())

    def part(self, name: str) -> dict[str, Any]:
        """What is known of a part: its state, why, seconds, entries."""
        empty = {"state": "", "why": "", "seconds": 0.0, "entries": {}}
        part: dict[str, Any] = self.data["parts"].setdefault(name, empty)
        return part

    def save(self) -> None:
        """Write it; a reader and a run that goes on later see all of it or what was before."""
        with replace_atomically(self.file) as partial, partial.open("w") as file:
            json.dump(self.data, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())


class Bench:
    """One part at work: where it runs, at which size, and where its figures go."""

    def __init__(self, results: Results, part: str, device: str, small: bool) -> None:
        self.results, self.part, self.device, self.small = results, part, device, small
        self.entries: dict[str, Any] = results.part(part)["entries"]

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device != "cpu"

    def pick(self, full: Any, small: Any) -> Any:
        """One of two sizes."""
        return small if self.small else full

    def is_settled(self, name: str) -> bool:
        """Whether there is nothing to do: it is measured, or has ended a process before."""
        return self.entries.get(name, {}).get("status") in ("ok", "crashed")

    def begin(self, name: str) -> None:
        """Say on disk what is measured now, should it end the process."""
        self.entries[name] = {"status": "running"}
        self.results.save()

    def measure(self, name: str, work: Callable[[], Figures]) -> Figures:
        """The figures that `work` finds, or found before; empty where it failed, which is kept."""
        if self.is_settled(name):
            found: Figures = self.entries[name].get("figures", {})
            return found
        self.begin(name)
        start = time.perf_counter()
        try:
            figures = work()
            self.put(name, "ok", time.perf_counter() - start, figures=figures)
        except MissingError as error:
            figures = {}
            self.put(name, "skipped", time.perf_counter() - start, why=error.message)
        except Exception as error:
            figures = {}
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            why, log = first_line(why), traceback.format_exc()
            if not self._is_usable():
                self.entries[name]["why"] = why
                self.results.save()
                raise  # into a new process: here every call would fail from now on
            self.put(name, "failed", time.perf_counter() - start, why=why, log=log)
        self._tidy()
        return figures

    def put(self, name: str, status: str, seconds: float, **about: Any) -> None:
        """Record how a measurement ended: ok, skipped (cannot be had here) or failed."""
        about |= {"seconds": round(seconds, 3), "commit": _commit()}
        self.entries[name] = {"status": status, **about}
        self.results.save()
        print(f"  {self.part}: {name}: {about.get('why') or status}", file=sys.stderr, flush=True)

    def _tidy(self) -> None:
        """Leave the next measurement the memory of this one."""
        if self._has_used_gpu():
            gc.collect()
            sys.modules["torch"].cuda.empty_cache()

    def _has_used_gpu(self) -> bool:
        """Whether this process has used the GPU."""
        torch = sys.modules.get("torch")
        return self.on_gpu and torch is not None and torch.cuda.is_initialized()

    def _is_usable(self) -> bool:
        """False once a kernel has gone wrong, which torch tells at every later call."""
        try:
            if self._has_used_gpu():
                sys.modules["torch"].cuda.synchronize()
        except RuntimeError:
            return False
        return True


def first_line(text: str) -> str:
    """The first line, in at most 300 characters."""
    return (text.strip().splitlines() or [""])[0][:300]


@cache
def _commit() -> str:
    state = env.git_state(ROOT)
    return f"{state['commit'][:7]}{'+' * bool(state['dirty'])}" if state["commit"] else ""


SMALL: Mapping[str, Any] = {
    **{"flow_widths": [8, 4, 4, 4], "channels": [16, 32, 32, 32], "heads": [1, 2, 2, 0]},
    **{"mid_heads": 2, "layers": 1, "decoder_channels": [32, 16, 16, 16], "decoder_layers": 0},
    **{"window": 8, "tile": 128},
}
"""Settings that make `instavsr-full` a network of the same parts and few channels."""


def full(bench: Bench, precision: str = "", **settings: Any) -> MethodCard:
    """The card `instavsr-full` with random weights, in another precision or with other settings."""
    card = specs.method_card(ROOT, "instavsr-full")
    settings = {**card.settings, **(SMALL if bench.small else {}), **settings}
    weights = Weights(origin="random", note="initialised from seed 0")
    changes: dict[str, Any] = {"weights": weights, "settings": settings}
    return replace(card, precision=precision or card.precision, **changes)


def load(card: MethodCard, device: str) -> Any:
    """The method of a card. Random weights are drawn on the device itself, which takes no time."""
    import torch

    from vsrbench.run.method import load_method

    random = card.weights.origin == "random" and not card.weights.file
    drawn = torch.device(device) if random else nullcontext()
    with drawn:
        return load_method(card, device)


def measure_pace(card: MethodCard, method: Method, side: int, frames: int, device: str) -> Figures:
    """What a loaded method takes for a clip of side x side LQ px, by the cost measurement."""
    from vsrbench.run import cost

    clip = cost.make_resident_clip(card, (side, side), frames, device)
    start = time.perf_counter()
    pace = cost.measure_pace(method, card, clip, device)
    return {
        "ms_per_frame": statistics.median(pace.samples_ms),
        "first_output_ms": pace.first_output_ms,
        "warmup_s": time.perf_counter() - start - pace.total_ms / 1000,
        "allocator_mib": pace.vram_allocator_mib,
        "side": side,
        "frames": frames,
        "precision": card.precision if device != "cpu" else "fp32",
    }
