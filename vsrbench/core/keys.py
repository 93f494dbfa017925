"""Identity of results: canonical JSON and sha256. Standard library only.

A key holds everything that can change a number (weights, code, settings, clip digest, metric
version) and nothing that cannot (paths, worker counts, host names).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vsrbench.core.types import Clip, MethodCard, MetricInfo, Size

KEY_VERSION = 2
"""Bumped when the composition of keys changes; a golden key in the tests notices."""


def digest(value: Any) -> str:
    """sha256 (16 hex digits) of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_of(card: MethodCard) -> dict[str, Any]:
    """The settings of a card that can change what it makes."""
    idle = ("timeout_s", "leave_out") if card.kind == "command" else ()
    return {name: value for name, value in card.settings.items() if name not in idle}


def _method(card: MethodCard, weights_sha256: str, code: str) -> list[Any]:
    geometry = [card.window, card.multiple_of, card.pad]
    made_by = [weights_sha256, code, card.precision, settings_of(card), geometry]
    return [card.name, card.version, *made_by]


def output_key(card: MethodCard, weights_sha256: str, code: str, clip: Clip) -> str:
    """Identity of the frames that a method makes of a clip; `code` is that of its adapter."""
    about = [clip.dataset, clip.dataset_version, clip.name, clip.digest, clip.scale]
    return digest([KEY_VERSION, "output", _method(card, weights_sha256, code), about])


def quality_key(output: str, metric: MetricInfo, border_px: int, flow: str) -> str:
    """Identity of one score; `flow` names the flow estimator and is empty where none is used."""
    return digest([KEY_VERSION, "quality", output, metric.name, metric.version, border_px, flow])


def cost_key(
    card: MethodCard,
    weights_sha256: str,
    code: str,
    size: Size,
    frames: int,
    machine: dict[str, Any],
) -> str:
    """Identity of one cost measurement on one kind of machine."""
    parts = [_method(card, weights_sha256, code), card.scale, list(size), frames, machine]
    return digest([KEY_VERSION, "cost", *parts])
