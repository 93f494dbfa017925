"""Which frames were kept of a clip, which scores are theirs, and what both are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.core.errors import DataError, MissingError
from vsrbench.core.types import Record, size_text
from vsrbench.data.frames import (
    FrameSource,
    digest,
    find_alteration,
    lq_of,
    open_frames,
    read_mark,
)
from vsrbench.metrics import find_recorded
from vsrbench.results.summary import BASELINE, GT, metric_column, newest

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

LQ = "lq"
"""Stands for the input, where methods are named whose frames are shown."""
MEMORY = 2**28
"""Bytes of the frames of a clip that are kept: what fits is decoded once for all figures of it."""


class Enlarged(Sequence["Frame"]):
    """LQ frames at the size of outputs when indexed: each pixel becomes a block."""

    def __init__(self, source: FrameSource, size: Size) -> None:
        """size: (height, width) in px; of whole multiples of LQ each pixel becomes a square."""
        self.source, self.size = source, size
        places = [np.arange(n) * m // n for n, m in zip(size, source.size, strict=True)]
        self._rows, self._columns = places

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.source[index].take(self._columns, 1).take(self._rows, 0)


def locate_frames(
    frames_root: Path, records: Iterable[Record], dataset: str, clip: str, methods: Iterable[str]
) -> dict[str, Path]:
    """Method -> folder of its frames of a clip, whether they were kept or not."""
    own = {r.method: r.place for r in records if (r.dataset, r.clip) == (dataset, clip)}
    return {m: frames_root / (own.get(m) or Path(m, dataset, clip)) for m in methods}


def open_kept_frames(
    frames_root: Path,
    dataset: str,
    clip: str,
    methods: Sequence[str],
    records: Iterable[Record] = (),
) -> dict[str, FrameSource | Enlarged]:
    """Kept frames of one size: LQ, bicubic, the methods in their order, GT.

    LQ is there where it was kept, unless a method has its name. Raises MissingError, DataError.
    """
    folders = locate_frames(frames_root, records, dataset, clip, (BASELINE, *methods, GT))
    lq = lq_of(folders[BASELINE])
    names = [m for m in methods if m != LQ or folders[LQ].is_dir() or not lq.is_dir()]
    if BASELINE not in names and folders[BASELINE].is_dir():
        names.insert(0, BASELINE)
    if GT in names or folders[GT].is_dir():
        names = [*(m for m in names if m != GT), GT]
    lost = [m for m in names if not folders[m].is_dir()]
    if lost or not {GT, BASELINE} & set(names):
        raise MissingError(
            f"clip '{clip}' of {dataset} has no kept frames of {', '.join(lost or [BASELINE])}",
            "run again with --keep-frames",
        )
    sources = {m: open_frames(folders[m]) for m in names}
    shapes = {m: (len(s), s.size) for m, s in sources.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{m} {n} of {size_text(size)}" for m, (n, size) in shapes.items())
        raise DataError(
            f"kept frames of clip '{clip}' differ in number or size: {found}",
            "remove them and run again with --keep-frames",
        )
    for source in sources.values():
        fit = MEMORY // (len(sources) * 3 * source.size[0] * source.size[1])
        source.recent = max(source.recent, fit)
    input_of = open_frames(lq) if LQ not in sources and lq.is_dir() else None
    if input_of is None or len(input_of) != len(next(iter(sources.values()))):
        return dict(sources)
    input_of.recent = next(iter(sources.values())).recent
    return {LQ: Enlarged(input_of, next(iter(sources.values())).size), **sources}


def read_kept_scores(
    frames_root: Path, dataset: str, clip: str, methods: Iterable[str], records: Iterable[Record]
) -> list[Record]:
    """The records of a clip that score the very frames kept of it; none without a mark.

    Raises MissingError for frames other than those of the newest scores, and for frames that were
    changed since. Records of schema 1 do not
    say which frames they score.
    """
    records = list(records)
    latest, found = newest(records), []
    for method, folder in locate_frames(frames_root, records, dataset, clip, methods).items():
        own = [
            r for r in latest.values() if (r.dataset, r.method, r.clip) == (dataset, method, clip)
        ]
        own = [r for r in own if r.status == "ok" and find_recorded(r) and r.output]
        output = read_mark(folder).output_key
        if not own or not output:
            continue
        if max(own, key=lambda r: r.at).output != output:
            raise MissingError(
                f"kept frames of {method} are of other weights or settings than its scores",
                "run again with --keep-frames",
            )
        if why := find_alteration(folder):
            raise MissingError(
                f"kept frames of {method} are not as they were scored: {why}",
                "run again with --keep-frames",
            )
        found += [r for r in own if r.output == output]
    return found


def titles_of(records: Iterable[Record], methods: Iterable[str]) -> dict[str, str]:
    """Method -> its name in tables; without a record it is the name itself."""
    named = {LQ: "LQ"} | {r.method: r.title for r in sorted(records, key=lambda r: r.at)}
    return {m: named.get(m, m) for m in methods}


def scores(
    records: Iterable[Record], dataset: str, clip: str, method: str, metrics: Iterable[str]
) -> list[str]:
    """What is known of a method on a clip, as printed; nothing of GT compared with itself."""
    latest = newest(records)
    known = []
    for metric in metrics:
        record = latest.get((dataset, method, clip, metric))
        info = find_recorded(record) if record is not None else None
        if record is None or record.value is None or info is None:
            continue
        if not (method == GT and "gt" in info.needs):
            column = metric_column(info)
            known.append(f"{column.title} {column.text(record.value)} {column.unit}".strip())
    return known


class Kept:
    """What was kept of a clip, opened once for all figures of it."""

    def __init__(
        self,
        frames_root: Path,
        dataset: str,
        clip: str,
        methods: Sequence[str],
        records: Iterable[Record] = (),
    ) -> None:
        """LQ, bicubic and GT are added where they were kept.

        Raises MissingError for frames that were not kept or are older than the scores, DataError.
        """
        records = list(records)
        self.dataset, self.clip = dataset, clip
        self.sources = open_kept_frames(frames_root, dataset, clip, methods, records)
        """Method -> frames of one size."""
        self.scored = read_kept_scores(frames_root, dataset, clip, self.sources, records)
        """Records of the frames."""
        self.titles = titles_of(records, self.sources)
        """Method -> its name in tables."""
        self.reference = GT if GT in self.sources else BASELINE
        """What the others are held against."""
        some = self.sources[self.reference]
        self.count, self.size = len(some), some.size

    def scores(self, method: str, metrics: Iterable[str]) -> list[str]:
        """What is known of a method, as printed; nothing of GT compared with itself."""
        return scores(self.scored, self.dataset, self.clip, method, metrics)

    def digests(self) -> list[str]:
        """Of the frames of each method."""
        sources = self.sources.values()
        return [digest(s.source if isinstance(s, Enlarged) else s) for s in sources]
