"""Lines of `records.jsonl` and `runs.jsonl` to typed objects.

What is no such line is a `msgspec.DecodeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, make_dataclass
from typing import Any, Literal, NotRequired, TypedDict, get_type_hints

import msgspec

from vsrbench.core.types import Asked, Record


class _Git(TypedDict):
    commit: str | None
    dirty: bool | None


class _Gpu(TypedDict):
    name: str
    memory_mib: int


class _Env(TypedDict):
    python: str
    system: str
    cpu: str
    cores: int | None
    ram_mib: int
    cuda: str | None
    driver: NotRequired[str | None]
    gpus: list[_Gpu]
    packages: dict[str, str]
    git: _Git
    root: NotRequired[_Git]


class _Run(TypedDict):
    """Of a line about a run: what tables and reports read of it."""

    run_id: str
    started: str
    argv: list[str]
    version: str
    device: str
    env: _Env
    finished: str
    counts: dict[str, int]
    exit_code: int
    asked: NotRequired[list[Asked]]


class _Pyiqa(TypedDict):
    version: str
    better: Literal["higher", "lower"]
    needs: list[str]


class _Declared(TypedDict):
    title: str
    better: Literal["higher", "lower", "one"]
    unit: str
    span: Literal["frame", "pair", "clip"]
    decimals: int
    tolerance: float
    package: str
    source: str
    needs: list[str]


class _Protocol(TypedDict):
    frames: NotRequired[str]
    span: NotRequired[tuple[int, int, int]]
    crop: NotRequired[str | list[int]]
    border_px: NotRequired[int]
    lq: NotRequired[str]


class _Extra(TypedDict):
    """Of what lies beside a score: all that summaries and comparisons read of it."""

    flow: NotRequired[str]
    protocol: NotRequired[_Protocol]
    pyiqa: NotRequired[_Pyiqa]
    metric: NotRequired[_Declared]
    shift: NotRequired[tuple[float, float]]
    psnr_at_zero: NotRequired[float]
    psnr_at_shift: NotRequired[float]
    delay: NotRequired[int]


class Outcome(msgspec.Struct):
    """What a plan needs to know of a record."""

    key: str
    status: Literal["ok", "failed", "skipped"]
    method: str
    dataset: str = ""
    source: str = ""
    dataset_source: str = ""
    error: dict[str, str] | None = None
    schema: int = 0


_ANY = msgspec.json.Decoder(dict[str, Any])
_RECORD = msgspec.json.Decoder(Record)
_OUTCOME = msgspec.json.Decoder(Outcome)
_HINTS = get_type_hints(Record)
_NESTED = {
    "settings": b"{}",
    "measurement": b"null",
    "error": b"null",
    "read": b"{}",
    "size": b"[0,0]",
}
"""Fields that hold more than one value -> what stands for a field that is not there."""
_OWN = ("key", "value", "extra")
"""Fields that differ from record to record."""
_LEFT_OUT = {"per_frame": (), "seconds": 0.0}
_REST = [f for f in fields(Record) if f.name not in {*_OWN, *_NESTED, *_LEFT_OUT}]
_TEXTS = [f.name for f in _REST if f.type not in ("int", "int | None")]
_ORDER = [*_OWN, *_NESTED, *_TEXTS, *(f.name for f in _REST if f.name not in _TEXTS)]
_NESTED_FROM, _TEXTS_FROM = len(_OWN), len(_OWN) + len(_NESTED)
_NUMBERS_FROM = _TEXTS_FROM + len(_TEXTS)
_LONG = 400
"""Letters from which on nested fields are not remembered as they were written."""
_NONE: Mapping[str, Any] = {}
_Slots = make_dataclass("_Slots", [*_ORDER, *_LEFT_OUT], slots=True)
"""What a `Record` holds, in this order. It becomes one; made as one it takes ten times as long."""


def _field(name: str) -> tuple[str, Any] | tuple[str, Any, Any]:
    if name in _NESTED:
        return name, msgspec.Raw, msgspec.Raw(_NESTED[name])
    if name == "extra":
        return name, _Extra, {}
    default = next(f.default for f in fields(Record) if f.name == name)
    return (name, _HINTS[name]) if default is MISSING else (name, _HINTS[name], default)


_LEAN = msgspec.json.Decoder(
    msgspec.defstruct("_Lean", [_field(name) for name in _ORDER], kw_only=True)
)
_PARTS = [msgspec.json.Decoder(_HINTS[name]) for name in _NESTED]


def schema(line: bytes) -> Any:
    """The version of the layout that a line says it has."""
    return _ANY.decode(line).get("schema", 0)


def run(line: bytes) -> dict[str, Any]:
    """A line about a run."""
    data = _ANY.decode(line)
    data |= msgspec.convert(data, _Run)
    return data


def record(line: bytes) -> Record:
    """A record, whole."""
    found = _RECORD.decode(line)
    if found.extra:
        msgspec.convert(found.extra, _Extra)
    return found


def outcome(line: bytes) -> Outcome:
    """Of a record what a plan needs."""
    return _OUTCOME.decode(line)


class Lean:
    """Records without what means and comparisons do not read, in little memory.

    Without scores of single frames; and what is equal in many records is there once.
    """

    def __init__(self) -> None:
        self._same: dict[Any, Any] = {}
        self._nested: dict[tuple[bytes, ...], list[Any]] = {}

    def __call__(self, line: bytes) -> Record:
        """The record of a line."""
        values = msgspec.structs.astuple(_LEAN.decode(line))
        key, value, extra = values[:_NESTED_FROM]
        same = self._same.setdefault
        if extra:
            extra = same(repr(extra), extra)
        written = tuple(map(bytes, values[_NESTED_FROM:_TEXTS_FROM]))
        nested = self._nested.get(written) or self._decoded(written)
        texts = values[_TEXTS_FROM:_NUMBERS_FROM]
        found: Any = _Slots(
            *(key, value, extra or _NONE, *nested, *map(same, texts, texts)),
            *values[_NUMBERS_FROM:],
            *_LEFT_OUT.values(),
        )
        found.__class__ = Record
        record: Record = found
        return record

    def _decoded(self, written: tuple[bytes, ...]) -> list[Any]:
        found = [decoder.decode(text) for decoder, text in zip(_PARTS, written, strict=True)]
        if sum(map(len, written)) < _LONG:
            self._nested[written] = found
        return found
