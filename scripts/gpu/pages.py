"""Markdown from what scripts/gpu_check.py measured.

`python -m scripts.gpu.pages` puts the newest results of each card in results/gpu into
docs/speed.md, and a line on each card into README.md, each between two comments that stay.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from scripts.gpu.bench import ROOT
from scripts.gpu.levers import CARD
from scripts.pages import fill
from vsrbench.core.errors import MissingError
from vsrbench.results import published

Part = Mapping[str, Any]
Entries = Mapping[str, Mapping[str, Any]]
PAPER = "instavsr-2026-cost"
"""The paper's own figures, in results/published."""
NOTHING = (
    "No GPU has been measured yet. "
    "`python scripts/gpu_check.py` does it, in eight minutes on one card."
)


def page(results: Mapping[str, Any]) -> str:
    """Everything that was measured on one machine, part by part."""
    kind, about = results["kind"], results["env"]
    small = "Small sizes, to see that it runs: no figure here means anything.\n\n"
    packages = about["packages"]
    where = f"{results['started'][:10]}, torch {packages.get('torch')}, CUDA {about['cuda']}, "
    where += f"Python {about['python']}, {about['cores']} CPU cores ({about['cpu']})"
    text = [f"## {kind['device']}\n\n{where}. {small if kind['small'] else ''}".strip()]
    for name, write in WRITERS.items():
        part = results["parts"].get(name)
        text.append(f"### {TITLES[name]}")
        text.append("Not run yet." if part is None else write(ok(part)))
        if part is not None:
            text.append(list_absent(part))
    return "\n\n".join(filter(None, text)) + "\n"


def ok(part: Part) -> Entries:
    """The figures of what was measured."""
    entries: Entries = part["entries"]
    return {n: entry["figures"] for n, entry in entries.items() if entry["status"] == "ok"}


def list_absent(part: Part) -> str:
    """What has no figures, and why; one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, entry in part["entries"].items():
        if entry["status"] != "ok":
            reasons.setdefault(f"{entry['status']}: {entry.get('why', '')}", []).append(name)
    lines = [f"- {', '.join(names)}: {why}" for why, names in reasons.items()]
    if part["state"] in ("cut", "crashed", "not run"):
        lines.append(f"- the part was {part['state']}: {part['why']}")
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None is a dash."""
    cells = [["–" if cell is None else cell for cell in row] for row in rows]
    if not cells:
        return ""
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def number(value: float | None, digits: int = 1) -> str | None:
    """A number at so many decimals."""
    return None if value is None else f"{value:.{digits}f}"


def gib(mib: float | None) -> str | None:
    """MiB as GiB."""
    return number(None if mib is None else mib / 1024, 2)


def _clip_rows(entries: Entries) -> list[list[Any]]:
    return [
        [
            f"instavsr-full, {name}",
            f"{m['frames']} x {4 * m['size'][1]}x{4 * m['size'][0]}",
            number(m["frames"] / m["fps"], 2),
            number(m["fps"], 2),
            number(m["first_output_ms"] / 1000, 2),
            gib(m["vram_peak_mib"]),
            gib(m["vram_allocator_mib"]),
            number(m["j_per_frame"]),
        ]
        for name, m in entries.items()
    ]


CLIP_HEAD = (
    *("", "output", "clip s", "fps", "first output s", "VRAM over idle GiB", "allocator GiB"),
    "J/frame",
)


def paper_row() -> list[Any]:
    """What the paper prints of the same clip."""
    values = {v.metric: v for v in published.read(ROOT).of(PAPER)}
    seconds, gigabytes = 60 * values["time_min"].number, values["peak_gb"].number
    setting = values["time_min"].dataset.rpartition(", ")
    return [
        f"paper, {setting[2]} (as printed)",
        "30 x 2048x2048",
        number(seconds, 0),
        number(30 / seconds, 2),
        None,
        f"{gigabytes * 1e9 / 2**30:.2f} ({gigabytes:g} GB)",
        None,
        None,
    ]


def headline(entries: Entries) -> str:
    """The clip of the paper, ours and theirs."""
    reasons = [
        f"{what}: {why}" for m in entries.values() for what, why in m["why"].items() if m["why"]
    ]
    notes = "".join(f"\n- no {line}" for line in dict.fromkeys(reasons))
    return table(CLIP_HEAD, [*_clip_rows(entries), paper_row()]) + (notes and "\n" + notes)


def tests(entries: Entries) -> str:
    """How many tests passed."""
    return f"{len(entries)} passed." if entries else ""


def levers(entries: Entries) -> str:
    """Each lever as a ratio to the card."""
    base = entries.get(CARD)
    rows = []
    for name, m in entries.items():
        faster = base and base["ms_per_frame"] / m["ms_per_frame"]
        more = base and base["allocator_mib"] and m["allocator_mib"] / base["allocator_mib"]
        rows.append(
            [
                name,
                number(m["ms_per_frame"], 2),
                faster and f"{faster:.2f}x",
                gib(m["allocator_mib"]),
                more and f"{more:.2f}x",
                number(m["warmup_s"]),
            ]
        )
    head = ("lever", "ms/frame", "speed", "allocator GiB", "memory", "warm-up s")
    return table(head, rows) + _at(entries)


def _at(entries: Entries) -> str:
    sizes = {(m["side"], m["frames"]) for m in entries.values()}
    said = ", ".join(f"{frames} frames of {side}x{side}" for side, frames in sorted(sizes))
    return f"\n\nLQ: {said}; median time between outputs." if said else ""


def peers(entries: Entries) -> str:
    """Other methods beside ours."""
    own = entries.get("instavsr-full")
    rows = [
        [
            name,
            m["precision"],
            number(m["ms_per_frame"], 2),
            own and f"{m['ms_per_frame'] / own['ms_per_frame']:.2f}x",
            number(m["first_output_ms"], 1),
            gib(m["allocator_mib"]),
            m["weights"].replace("_", " "),
        ]
        for name, m in entries.items()
    ]
    head = ("method", "precision", "ms/frame", "time", "first output ms", "allocator GiB")
    return table((*head, "weights"), rows) + _at(entries)


def scoring(entries: Entries) -> str:
    """Metrics, then the whole run."""
    each = {n: m for n, m in entries.items() if "s_per_frame" in m}
    rows = [[n, f"{m['side']}x{m['side']}", number(m["s_per_frame"], 4)] for n, m in each.items()]
    text = table(("", "frame", "s/frame"), rows)
    for name, m in entries.items():
        if "job_s" in m:
            share = (m["job_s"] - m["load_s"]) / m["inference_s"]
            text += (
                f"\n\n{name[0].upper()}{name[1:]}, {m['frames']} frames to {m['side']}x{m['side']} "
                f"(load, inference, {', '.join(m['metrics'])}, PNG): {m['job_s']:.1f} s; without "
                f"loading ({m['load_s']:.1f} s) {share:.2f}x of inference alone "
                f"({m['inference_s']:.1f} s); the command in all {m['command_s']:.1f} s."
            )
    return text.strip()


def growth(entries: Entries) -> str:
    """Time and memory by size and length."""
    rows = [
        [
            name,
            number(m.get("ms_per_frame"), 1),
            number(m.get("first_output_ms"), 1),
            "out of memory" if "out_of_memory" in m else gib(m["allocator_mib"]),
        ]
        for name, m in entries.items()
    ]
    return table(("LQ", "ms/frame", "first output ms", "allocator GiB"), rows)


def profile(entries: Entries) -> str:
    """The kernels that count."""
    text = []
    for m in entries.values():
        idle = "" if m["idle_share"] is None else f"GPU idle {m['idle_share']:.0%}, "
        total = sum(k["ms"] for k in m["kernels"])
        text.append(
            f"One frame: {m['wall_ms']:.1f} ms under the profiler, {idle}host busy for "
            f"{m['host_ms']:.1f} ms, {m['launches']} launches."
        )
        rows = [
            [f"`{k['name'][:90]}`", k["calls"], number(k["ms"], 2), f"{k['ms'] / total:.0%}"]
            for k in m["kernels"][:15]
        ]
        text.append(table(("kernel", "calls", "ms", "share of those listed"), rows))
    return "\n\n".join(text)


def training(entries: Entries) -> str:
    """Steps a second."""
    rows = [
        [
            name,
            number(m["steps_per_s"], 2),
            f"{m['waiting']:.0%}",
            f"{m['batch']} x {m['frames']} x {m['patch'][0]}",
            m["workers"],
            gib(m["allocator_mib"]),
        ]
        for name, m in entries.items()
    ]
    head = ("", "steps/s", "waiting for data", "windows x frames x LQ px", "workers")
    return table((*head, "allocator GiB"), rows)


WRITERS: Mapping[str, Callable[[Entries], str]] = {
    writer.__name__: writer
    for writer in (headline, tests, levers, profile, peers, scoring, growth, training)
}
TITLES: Mapping[str, str] = {
    "headline": "The paper's clip",
    "tests": "Tests that need a GPU",
    "levers": "What each lever of instavsr-full gains",
    "peers": "Beside other methods",
    "scoring": "Scoring",
    "growth": "By size and length",
    "profile": "Where the time goes",
    "training": "Training",
}


def cost_line(results: Mapping[str, Any]) -> str:
    """The paper's clip on one card, in a line for README."""
    part = results["parts"].get("headline")
    said = [
        f"{name} {m['frames'] / m['fps']:.1f} s, {gib(m['vram_peak_mib']) or 'unknown'} GiB"
        for name, m in (ok(part) if part else {}).items()
    ]
    about = f"the paper's clip takes {'; '.join(said)}" if said else "its figures"
    line = f"Measured on {results['kind']['device']}, {results['started'][:10]}: {about}"
    return textwrap.fill(f"{line} ([docs/speed.md](docs/speed.md)).", 100, break_on_hyphens=False)


def find_newest(folder: Path) -> list[dict[str, Any]]:
    """The newest results of each card in the folders of `folder`, small sizes left out."""
    cards: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*/results.json"), key=lambda file: file.parent.name[-10:]):
        results = json.loads(file.read_text())
        if not results["kind"]["small"]:
            cards[results["kind"]["device"]] = results
    return list(cards.values())


PLACES: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "docs/speed.md": ("gpu-speed", page),
    "README.md": ("gpu-cost", cost_line),
}
"""File -> name of the comments in it, and what is written between them for each card."""


def fill_file(root: Path, place: str) -> str:
    """The text of a file with what belongs between its comments."""
    name, write = PLACES[place]
    found = [write(results) for results in find_newest(root / "results" / "gpu")]
    path = root / place
    return fill(path.read_text(), name, "\n\n".join(found) or NOTHING, path)


def main() -> None:
    """Bring docs/speed.md and README.md up to date."""
    for place in PLACES:
        try:
            text = fill_file(ROOT, place)
        except MissingError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        (ROOT / place).write_text(text)


if __name__ == "__main__":
    main()
