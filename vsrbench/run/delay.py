"""Whether outputs come frames too late or too early: looked at on small pictures while scoring.

Such outputs are whole, of the right number and size, and every metric with a reference scores them:
as bad pictures instead of as good ones at another time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Sample

REACH = 3
"""Frames looked at before and after."""
SIDE = 160
"""Longer side of the small pictures, px."""
CLOSER = 0.5
"""Share of the error at their own time below which another time of outputs is the right one."""
STILL = 0.05
"""Squared levels of 255 below which nothing moves enough to tell."""
FEWEST = 3
"""Frames that both times must share."""


class Delay:
    """Errors of outputs against the reference at their own time and at those around it."""

    def __init__(self) -> None:
        self._made: deque[Any] = deque(maxlen=REACH + 1)
        self._wanted: deque[Any] = deque(maxlen=REACH + 1)
        self._errors: dict[int, list[Any]] = {late: [] for late in range(-REACH, REACH + 1)}

    def update(self, sample: Sample) -> None:
        """Take the next frame."""
        wanted = _small(sample.reference)
        made = wanted if sample.sr is sample.reference else _small(sample.sr)
        self._made.append(made)
        self._wanted.append(wanted)
        for back, earlier in enumerate(reversed(self._wanted)):
            self._errors[back].append(_error(made, earlier))
        for back, earlier in enumerate(list(self._made)[-2::-1], 1):
            self._errors[-back].append(_error(earlier, wanted))

    def result(self) -> dict[str, Any]:
        """{"delay": frames} where another time fits much better (below 0: too early); else {}."""
        ratios = dict[int, float]()
        for late, errors in self._errors.items():
            # Of the same outputs, of which some have no frame so much earlier or later.
            own = self._errors[0][max(late, 0) :][: len(errors)]
            if len(errors) >= FEWEST and np.mean([error for error, _ in own]) > STILL:
                ratios[late] = _share(errors) / _share(own)
        best = min(ratios, key=lambda late: (ratios[late], abs(late)), default=0)
        return {"delay": best} if ratios and ratios[best] < CLOSER else {}


def _share(errors: Sequence[tuple[float, float]]) -> float:
    """Of what there was to explain, what was not: in a fade the one grows with the other."""
    error, all_of_it = np.sum(errors, axis=0)
    return float(error / all_of_it) if all_of_it > 0 else 1.0


def _small(frame: Frame) -> Any:
    """Luma, brought down by area; float."""
    import cv2

    height, width = frame.shape[:2]
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _error(made: Any, wanted: Any) -> tuple[float, float]:
    """Squared levels of the wanted picture: those that no change of brightness and contrast of the
    made one explains, and all that there are around its mean.
    """
    x, y = made - made.mean(), wanted - wanted.mean()
    own, both, there = (float((a * b).mean()) for a, b in ((x, x), (x, y), (y, y)))
    return there - (both * both / own if own > 0 and both > 0 else 0.0), there
