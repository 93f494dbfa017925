"""Identity of results: canonical JSON and sha256. Standard library only.

A key holds everything that can change a number (weights hash, settings, clip digest, metric
version) and nothing that cannot (paths, worker counts, host names).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vsrbench.core.types import Clip, MethodCard, MetricInfo, Size

KEY_VERSION = 1
"""Bumped when the composition of keys changes; a golden key in the tests notices."""


def digest(value: Any) -> str:
    """sha256 (16 hex digits) of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _method(card: MethodCard, weights_sha256: str) -> list[Any]:
    settings = dict(card.settings)
    if card.kind == "command":
        settings.pop("timeout_s", None)  # ends a program, and changes nothing that it makes
    geometry = [card.window, card.multiple_of, card.pad]
    return [card.name, card.version, weights_sha256, card.precision, settings, geometry]


def output_key(card: MethodCard, weights_sha256: str, clip: Clip) -> str:
    """Identity of the frames that a method makes of a clip."""
    about = [clip.dataset, clip.dataset_version, clip.name, clip.digest, clip.scale]
    return digest([KEY_VERSION, "output", _method(card, weights_sha256), about])


def quality_key(output: str, metric: MetricInfo, border_px: int, flow: str) -> str:
    """Identity of one score; `flow` names the flow estimator and is empty where none is used."""
    return digest([KEY_VERSION, "quality", output, metric.name, metric.version, border_px, flow])


def cost_key(
    card: MethodCard, weights_sha256: str, size: Size, frames: int, machine: dict[str, Any]
) -> str:
    """Identity of one cost measurement on one kind of machine."""
    parts = [_method(card, weights_sha256), card.scale, list(size), frames, machine]
    return digest([KEY_VERSION, "cost", *parts])
