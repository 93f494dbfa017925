"""Which records belong together: what they must share to be averaged or compared. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from vsrbench.core.types import Record, Size


def list_makers(r: Record) -> tuple[Any, ...]:
    """What the scores of one method must share to be averaged."""
    settings = {k: v for k, v in r.settings.items() if k not in ("timeout_s", "leave_out")}
    return (r.method_version, r.weights_sha256, r.code, r.precision, settings)


def list_conditions(r: Record) -> tuple[Any, ...]:
    """What two scores of one clip must share to be compared."""
    beside = map(r.extra.get, ("flow", "protocol", "pyiqa"))
    return (r.clip_digest, r.metric_version, *beside, r.border_px, r.flow or None)


def are_comparable(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two `list_conditions` can be compared; records of schema 1 lack the last two."""
    later = zip(a[-2:], b[-2:], strict=True)
    return a[:-2] == b[:-2] and all(x == y or None in (x, y) for x, y in later)


def current_state(quality: Iterable[Record]) -> dict[Any, tuple[Any, ...]]:
    """What records must agree on to share a mean (per method) or a column (per clip and metric)."""
    current: dict[Any, tuple[Any, ...]] = {}
    for r in sorted(quality, key=lambda r: r.at):
        if r.status == "ok":
            current[r.method] = list_makers(r)
            current[r.clip, r.metric] = list_conditions(r)
    return current


def cost_size(record: Record) -> Size:
    """LQ size at which a cost was measured."""
    return record.measurement.size if record.measurement else record.size


def select_current_costs(records: Iterable[Record], scores: Iterable[Record]) -> list[Record]:
    """Those of cost, the newest last; one that is not of what was scored counts as failed.

    Precision may differ: scores of a GPU can stand beside the cost on a CPU.
    """

    def list_run_state(r: Record) -> tuple[Any, ...]:
        *before, _, settings = list_makers(r)
        return (*before, settings)

    scored = sorted((r for r in scores if r.kind == "quality"), key=lambda r: r.at)
    state = {
        m: list_run_state(r) for m, r in {r.method: r for r in scored if r.status == "ok"}.items()
    }
    error = {"message": "measured with other weights, code or settings than scored; run it again"}
    found = sorted((r for r in records if r.kind == "cost"), key=lambda r: r.at)
    return [
        r
        if r.status != "ok" or state.get(r.method, list_run_state(r)) == list_run_state(r)
        else replace(r, status="failed", measurement=None, size=cost_size(r), error=error)
        for r in found
    ]
