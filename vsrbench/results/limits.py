"""What someone can spend: device memory and time; and which methods stay within it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vsrbench.core.errors import UserError
from vsrbench.core.types import Measurement, Record, size_text

Answer = Literal["yes", "no", "unknown"]
UNITS = {"gib": 1024.0, "g": 1024.0, "mib": 1.0, "m": 1.0, "gb": 1e9 / 2**20, "mb": 1e6 / 2**20}
"""Unit -> MiB."""


@dataclass(frozen=True)
class Constraints:
    """What a method may cost; a field left empty or 0 asks for nothing."""

    vram: str = ""
    """Device memory, such as `8GiB`."""
    fps: float = 0.0
    """Frames a second."""

    @property
    def vram_mib(self) -> float | None:
        """Device memory in MiB; None without a limit. Raises UserError."""
        return mib(self.vram) if self.vram else None

    def __bool__(self) -> bool:
        return bool(self.vram or self.fps)

    def __str__(self) -> str:
        said = [f"within {self.vram}"] if self.vram else []
        text = " and ".join([*said, *([f"at {self.fps:g} fps"] if self.fps else [])])
        return text[:1].upper() + text[1:]


def mib(text: str) -> float:
    """A size of memory with its unit, in MiB. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)", text.strip())
    if not match or match[2].lower() not in UNITS or not float(match[1]):
        raise UserError(f"'{text}' is no size of memory", "write it as 8GiB or 500MiB")
    return float(match[1]) * UNITS[match[2].lower()]


def judge(m: Measurement | None, constraints: Constraints, failed: str = "") -> tuple[Answer, str]:
    """(whether a measured cost stays within the constraints, the figures that say so).

    failed: why there is no measurement.
    """
    if m is None:
        return ("no" if "memory" in failed else "unknown"), failed or "cost not measured"
    answers: list[Answer] = []
    said = []
    limit = constraints.vram_mib
    if limit is not None:
        if m.vram_peak_mib is None:
            answers.append("unknown")
            said.append(f"VRAM not measured: {m.why.get('vram_peak_mib', 'no reason recorded')}")
        else:
            answers.append("yes" if m.vram_peak_mib <= limit else "no")
            said.append(f"{m.vram_peak_mib / 1024:.1f} GiB")
    if constraints.fps:
        answers.append("yes" if m.fps >= constraints.fps else "no")
        said.append(f"{m.fps:.2f} fps")
    order: Sequence[Answer] = ("no", "unknown", "yes")
    return next((a for a in order if a in answers), "yes"), ", ".join(said)


def describe_within(records: Iterable[Record], constraints: Constraints) -> str:
    """Which methods stay within the constraints, at each size measured; empty without any."""
    costs = [r for r in records if r.kind == "cost"]
    if not constraints or not costs:
        return ""
    lines = []
    for size in dict.fromkeys(r.size for r in costs):
        lines.append(f"{constraints}, LQ {size_text(size)}:")
        for r in (r for r in costs if r.size == size):
            answer, why = judge(r.measurement, constraints, (r.error or {}).get("message", ""))
            lines.append(f"  {answer:<8} {r.title} ({why})")
    return "\n".join(lines)


def is_out_of_memory(record: Record) -> bool:
    """Whether a measurement failed for want of memory: of a process that died, most likely."""
    error = record.error or {}
    said = f"{error.get('message', '')} {error.get('hint', '')}".lower()
    return record.status == "failed" and "out of memory" in said
