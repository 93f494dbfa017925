"""Metrics: their table, what each needs, and what makes them.

Importing it imports no array or network library.
"""

from __future__ import annotations

import importlib

from vsrbench.core.types import Metric
from vsrbench.metrics.identity import depends_on
from vsrbench.metrics.names import PYIQA, about_pyiqa, metric_info, recorded
from vsrbench.metrics.requirements import find_weights, unavailable, weights_at
from vsrbench.metrics.table import METRICS, PRESETS

__all__ = [
    "METRICS",
    "PRESETS",
    "PYIQA",
    "about_pyiqa",
    "depends_on",
    "find_weights",
    "load_metric",
    "metric_info",
    "recorded",
    "unavailable",
    "weights_at",
]


def load_metric(name: str, device: str = "cpu") -> Metric:
    """A fresh object that scores one clip. Networks are loaded once per process and device.

    Raises UserError for an unknown name and MissingError as `unavailable` tells.
    """
    if missing := unavailable(name):
        raise missing
    info = metric_info(name)
    module, _, cls = info.target.partition(":")
    make = getattr(importlib.import_module(f"vsrbench.metrics.{module}"), cls)
    metric: Metric = make(info, device)
    return metric
