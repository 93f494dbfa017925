"""Whether outputs come frames too late or too early: looked at on small pictures while scoring.

Such outputs are whole, of the right number and size, and every metric with a reference scores them:
as bad pictures instead of as good ones at another time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Sample

REACH = 3
"""Frames looked at before and after."""
SIDE = 160
"""Longer side of the small pictures, px."""
CLOSER = 0.5
"""Share of the error at its own time below which another time is said to be the right one."""
STILL = 0.05
"""Squared levels of 255 below which nothing moves enough to tell."""
FEWEST = 3
"""Frames that both times must share."""


class Delay:
    """Errors of outputs against the reference at their own time and at those around it."""

    def __init__(self) -> None:
        self._made: deque[Any] = deque(maxlen=REACH + 1)
        self._wanted: deque[Any] = deque(maxlen=REACH + 1)
        self._errors: dict[int, list[float]] = {late: [] for late in range(-REACH, REACH + 1)}

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
        mean = {late: float(np.mean(e)) for late, e in self._errors.items() if len(e) >= FEWEST}
        if not mean or 0 not in mean:
            return {}
        best = min(mean, key=lambda late: (mean[late], abs(late)))
        told = mean[0] > STILL and mean[best] < CLOSER * mean[0]
        return {"delay": best} if told else {}


def _small(frame: Frame) -> Any:
    """Luma, brought down by area; float."""
    import cv2

    height, width = frame.shape[:2]
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _error(made: Any, wanted: Any) -> float:
    """Squared levels of the wanted picture that no change of brightness and contrast explains."""
    x, y = made - made.mean(), wanted - wanted.mean()
    own, both = float((x * x).mean()), float((x * y).mean())
    return float((y * y).mean()) - (both * both / own if own > 0 and both > 0 else 0.0)
