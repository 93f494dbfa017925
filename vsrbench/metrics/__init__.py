"""Metrics: their table, what each needs, what makes them; and each as a function.

`vsrbench.metrics.ewarp(sr, gt)` scores one clip by the metric of that name; what the arguments are
says `vsrbench.metrics.functions.score`. Importing this imports no array or network library.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

from vsrbench.core.types import Metric
from vsrbench.metrics.availability import unavailable
from vsrbench.metrics.identity import depends_on
from vsrbench.metrics.names import PYIQA, about_pyiqa, find_recorded, known_metrics, metric_info
from vsrbench.metrics.requirements import find_weights, weights_at
from vsrbench.metrics.table import METRICS, PRESETS

if TYPE_CHECKING:
    from vsrbench.metrics.functions import MetricFunction

__all__ = [
    "METRICS",
    "PRESETS",
    "PYIQA",
    "about_pyiqa",
    "depends_on",
    "find_recorded",
    "find_weights",
    "known_metrics",
    "load_metric",
    "metric_info",
    "unavailable",
    "weights_at",
]


def __getattr__(name: str) -> MetricFunction:
    """The metric of that name as a function."""
    if name.startswith("_") or name not in known_metrics():
        raise AttributeError(f"module 'vsrbench.metrics' has no attribute '{name}'")
    from vsrbench.metrics.functions import score

    return functools.partial(score, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *known_metrics()})


def load_metric(name: str, device: str = "cpu") -> Metric:
    """A fresh object that scores one clip. Networks are loaded once per process and device.

    Raises UserError for an unknown name and MissingError as `unavailable` tells.
    """
    if missing := unavailable(name):
        raise missing
    info = metric_info(name)
    module, _, cls = info.target.partition(":")
    place = module if info.package else f"vsrbench.metrics.{module}"
    make = getattr(importlib.import_module(place), cls)
    metric: Metric = make(info, device)
    return metric
