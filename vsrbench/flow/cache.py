"""Motion of a reference clip, estimated when it is asked for and kept on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from vsrbench.core.files import replace_atomically
from vsrbench.core.types import PairFlow
from vsrbench.core.variables import cache_limit_gib

if TYPE_CHECKING:
    from vsrbench.core.types import Frame
    from vsrbench.flow.estimators import Estimator

    Array = np.ndarray[Any, np.dtype[Any]]

CACHE_GIB = 20.0
"""Disk space for cached flow, in GiB, unless $VSRBENCH_CACHE_GIB is set."""


class ReferenceFlow(Sequence[PairFlow]):
    """Motion of a reference clip, both directions for each adjacent pair, estimated when indexed.

    frames: the reference frames. digest: identifies them. cache: folder to keep flows in, 8 bytes a
    pixel and pair, at most `CACHE_GIB`: the least recently used clips are evicted first. note:
    called, with the same text for each pair, when flows cannot be kept. Returned flows are always
    rounded to the float16 that is stored, so that a cached and a fresh run agree; the error is at
    most 0.004 px below 16 px and 0.03 px below 128 px.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        estimator: Estimator,
        digest: str,
        cache: Path,
        note: Callable[[str], None],
    ) -> None:
        self.estimator = estimator
        self._frames, self._note = frames, note
        key = hashlib.sha256(f"{digest} {estimator.identity}".encode()).hexdigest()
        self._folder = cache / key[:32]
        self._why: str | None = None
        """Why flows of this clip are not kept, empty if they are; None before the first is."""
        with suppress(OSError):
            os.utime(self._folder)

    def __len__(self) -> int:
        return max(len(self._frames) - 1, 0)

    @overload
    def __getitem__(self, index: int) -> PairFlow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairFlow]: ...
    def __getitem__(self, index: int | slice) -> PairFlow | list[PairFlow]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[i] for i in numbers]
        path = self._folder / f"{numbers:06d}.npy"
        both = _load(path)
        if both is None:
            a, b = self._frames[numbers], self._frames[numbers + 1]
            motion = self.estimator.both(a, b)
            # numpy rounds alike, and takes seven times as long.
            both = torch.from_numpy(np.stack((motion.forward, motion.backward))).half().numpy()
            self._keep(path, both)
        forward, backward = torch.from_numpy(both).float().numpy()
        return PairFlow(forward, backward)

    def _keep(self, path: Path, both: Array) -> None:
        """Save the flow of one pair, or say why not."""
        try:
            if self._why is None:
                self._why = _make_room(self._folder, both.nbytes * len(self))
            if not self._why:
                _save(path, both)
                return
            why = self._why
        except OSError as error:
            why = f"{error.strerror} (set $VSRBENCH_CACHE to another folder)"
        self._note(f"optical flow is not cached in {self._folder.parent}: {why}")


def _make_room(folder: Path, need: int) -> str:
    """Remove flows of other clips until `need` bytes fit beside them; why they cannot, or ''.

    Raises OSError, and UserError where the limit is no number.
    """
    limit_gib = cache_limit_gib(CACHE_GIB)
    limit = limit_gib * 2**30
    if need > limit:
        return f"one clip takes {need / 2**30:.1f} GiB and $VSRBENCH_CACHE_GIB is {limit_gib:g}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
    # Finished files alone: another process may be writing.
    sizes = {p: sum(file.stat().st_size for file in p.glob("*.npy")) for p in others}
    for oldest in sorted(others, key=lambda p: p.stat().st_mtime):
        if need + sum(sizes.values()) > limit:
            shutil.rmtree(oldest, ignore_errors=True)
            del sizes[oldest]
    return ""


def _load(path: Path) -> Array | None:
    """A saved array; None where it is not there or cut."""
    try:
        found: Array = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _save(path: Path, array: Array) -> None:
    """Write an array so that a reader sees the whole file or none."""
    with replace_atomically(path) as partial, partial.open("wb") as out:
        np.save(out, array)
