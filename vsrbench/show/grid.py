"""Time and memory of methods by size and length, with the border where memory ends."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from vsrbench.core.progress import counted, plain
from vsrbench.core.types import Record, Size, size_text
from vsrbench.results.advice import duration
from vsrbench.results.limits import is_out_of_memory
from vsrbench.results.summary import reason


def grid(records: Sequence[Record]) -> str:
    """A map for each method: rows are LQ sizes, columns lengths in frames.

    A cell holds the median time a frame and the peak memory: of the device where it was measured,
    else of the process. `OOM`: memory ran out, there or at a smaller size and length.
    """
    return "\n".join(
        _of_method([r for r in records if r.method == method])
        for method in dict.fromkeys(r.method for r in records)
    )


def _of_method(records: Sequence[Record]) -> str:
    cells = {(r.size, r.frames): r for r in records}
    sizes = sorted({size for size, _ in cells}, key=lambda s: s[0] * s[1])
    lengths = sorted({frames for _, frames in cells})
    notes = dict[str, int]()
    known = [r.measurement for r in records if r.measurement]
    of_device = any(m.vram_peak_mib is not None for m in known)

    def text(size: Size, frames: int) -> str:
        record = cells.get((size, frames))
        if record is None or is_out_of_memory(record):
            return "OOM" if _beyond(cells, size, frames) else "–"
        m = record.measurement
        if m is None:
            return f"– [{notes.setdefault(reason(record), len(notes) + 1)}]"
        peak = m.vram_peak_mib if of_device else m.rss_peak_mib
        memory = "–" if peak is None else f"{peak / 1024:.2f} GiB"
        return f"{duration(m.median_ms / 1000)}  {memory}"

    rows = [[size_text(size), *(text(size, n) for n in lengths)] for size in sizes]
    head = ["LQ", *(counted(n, "frame") for n in lengths)]
    align = ("left", *("right" for _ in lengths))
    title = records[0].title
    what = "peak VRAM" if of_device else "peak RSS of the process"
    lines = [
        f"{plain(title)}: time a frame, {what}",
        tabulate(rows, head, tablefmt="simple", colalign=align, disable_numparse=True),
    ]
    lines += [f"[{number}] {why}" for why, number in notes.items()]
    if any(is_out_of_memory(r) for r in records):
        first = min(
            (r for r in records if is_out_of_memory(r)), key=lambda r: r.size[0] * r.size[1]
        )
        lines.append(f"Memory ends at {size_text(first.size)}, {counted(first.frames, 'frame')}.")
    if not of_device and known:
        why = next((m.why["vram_peak_mib"] for m in known if "vram_peak_mib" in m.why), "")
        lines.append(f"VRAM: not measured{f', {why}' if why else ''}.")
    return "\n".join(lines) + "\n"


def _beyond(cells: dict[tuple[Size, int], Record], size: Size, frames: int) -> bool:
    """Whether memory ran out here, or at a size and length that are both no larger."""
    return any(
        is_out_of_memory(r) and s[0] * s[1] <= size[0] * size[1] and n <= frames
        for (s, n), r in cells.items()
    )
