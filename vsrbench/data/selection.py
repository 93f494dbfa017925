"""A part of a dataset for a quick look: some of its clips, some of their frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vsrbench.core.errors import DataError, UserError, unknown_name
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted
from vsrbench.core.types import Clip

T = TypeVar("T")
Span = tuple[int, int]
"""The first frame, and the one after the last."""


@dataclass(frozen=True)
class Selection:
    """What of every dataset is wanted."""

    clips: tuple[str, ...] = ()
    """Names of clips; empty for all."""
    limit: int = 0
    """The first so many clips; 0 for all."""
    frames: Span | None = None
    """The frames of each clip; None for whole clips."""

    def choose(self, there: Mapping[str, T]) -> dict[str, T]:
        """The clips that are wanted of those that are there, in their order."""
        names = [name for name in there if not self.clips or name in self.clips]
        return {name: there[name] for name in names[: self.limit or None]}

    def cut(self, clip: Clip) -> Clip:
        """The frames of a clip that are wanted, as a clip of another identity than the whole one.

        A clip that is not longer than that stays as it is. Raises DataError when it has none of
        these frames.
        """
        first, end = self.frames or (0, clip.count)
        if first == 0 and end >= clip.count:
            return clip
        if first >= clip.count:
            raise DataError(
                f"clip '{clip.name}' has {counted(clip.count, 'frame')}, and none "
                f"from frame {first} on",
                "count frames from 0: --frames FIRST:END",
            )
        count = min(end, clip.count) - first
        part = {"span": [first, first + count - 1, clip.count]}
        gt, flow = clip.gt, clip.flow
        return replace(
            clip,
            count=count,
            digest=digest([clip.digest, part, []]),
            lq=Part(clip.lq, first, count),
            gt=None if gt is None else Part(gt, first, count),
            flow=None if flow is None else Part(flow, first, count - 1),
            protocol={**clip.protocol, **part},
        )


WHOLE = Selection()


class Part(Sequence[Any]):
    """Some successive entries of a sequence, read when indexed."""

    def __init__(self, source: Sequence[Any], first: int, count: int) -> None:
        self.source, self.range = source, range(first, first + count)

    def __len__(self) -> int:
        return len(self.range)

    def __getitem__(self, index: Any) -> Any:
        wanted = self.range[index]
        return self.source[wanted] if isinstance(wanted, int) else [self.source[i] for i in wanted]


def name_folder(clip: Clip) -> str:
    """Name of the folder in which frames of a clip are kept: those of a part stay apart.

    The sign @ is in no clip's name.
    """
    span = clip.protocol.get("span")
    return f"{clip.name}@{span[0]}-{span[1]}" if span else clip.name


def read_span(text: str) -> Span:
    """`N` for the first N frames, or `FIRST:END`, END left out. Raises UserError."""
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text.strip())
    first, end = (int(match[1] or 0), int(match[2])) if match else (0, 0)
    if first >= end:
        raise UserError(
            f"'{text}' is not a range of frames",
            "write 24 for the first 24, or 100:124 (without frame 124)",
        )
    return first, end


def refuse_unknown(selection: Selection, names: Iterable[str]) -> None:
    """Raise UserError for a clip that is wanted and in none of the datasets."""
    there = set(names)
    for name in selection.clips:
        if name not in there:
            raise unknown_name("clip", name, there)
