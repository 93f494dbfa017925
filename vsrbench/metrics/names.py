"""From the name of a metric to its entry: our own, or any that pyiqa makes. Imports no pyiqa."""

from __future__ import annotations

import functools
import importlib.util
import runpy
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from vsrbench.cards.plugins import plugins
from vsrbench.core.config import build
from vsrbench.core.errors import MissingError, UserError, install_hint, unknown_name
from vsrbench.core.files import read_toml
from vsrbench.core.types import MetricInfo, Record
from vsrbench.metrics.table import METRICS

PYIQA = "pyiqa:"
"""Stands before a name of pyiqa: `pyiqa:NAME` is that metric as pyiqa makes it."""
_UNFIT = {
    "FID": "compares sets of pictures",
    "InceptionScore": "rates sets of pictures",
    "CLIPScore": "needs captions",
    "fgresq_pair": "ranks two pictures, and no number is a score",
}
"""Type or name in pyiqa -> why it gives no number a frame."""


@functools.cache
def known_metrics() -> dict[str, MetricInfo]:
    """The table, then what other installed packages declare. Raises UserError for a bad file."""
    found = dict(METRICS)
    for plugin in plugins("vsrbench.metrics"):
        for path in plugin.files():
            info = read_metric(path, plugin.version)
            if info.name in found:
                raise UserError(f"{path}: there is already a metric named '{info.name}'")
            found[info.name] = info
    return found


def read_metric(path: Path, package: str) -> MetricInfo:
    """The metric that a TOML file of an installed package declares. Raises UserError."""
    table = read_toml(path)
    info: MetricInfo = build(
        MetricInfo, {"name": path.stem, "default": False, **table}, path, package=package
    )
    return info


def metric_info(name: str) -> MetricInfo:
    """The entry of a metric, or what pyiqa says of its own. Imports neither pyiqa nor torch.

    Raises UserError with the closest name if there is none, MissingError without pyiqa.
    """
    if name in known_metrics():
        return known_metrics()[name]
    own = name.removeprefix(PYIQA)
    if own == name:
        if importlib.util.find_spec("pyiqa") and own in pyiqa_says()["DEFAULT_CONFIGS"]:
            raise UserError(f"no metric named '{own}' here", f"pyiqa has it: write {PYIQA}{own}")
        raise unknown_name("metric", own, known_metrics(), f"{PYIQA}NAME for any other of pyiqa")
    configs = pyiqa_says()["DEFAULT_CONFIGS"]
    if own not in configs:
        raise unknown_name("metric of pyiqa", own, configs)
    about = configs[own]
    if why := _UNFIT.get(own) or _UNFIT.get(about["metric_opts"]["type"]):
        raise UserError(f"'{name}' gives no number for a frame: it {why}")
    return _by_name(
        name,
        "lower" if about.get("lower_better") else "higher",
        {"gt"} if about["metric_mode"] == "FR" else (),
    )


def _by_name(
    name: str, better: Literal["higher", "lower"], needs: Collection[str] = ()
) -> MetricInfo:
    return MetricInfo(
        name=name,
        title=f"{name.removeprefix(PYIQA)} (pyiqa)",
        version=1,
        better=better,
        target="perceptual:ByName",
        needs=frozenset(needs),
        decimals=4,
        tolerance=0.001,
        default=False,
        source="package pyiqa, as it comes",
    )


def about_pyiqa(info: MetricInfo) -> dict[str, Any]:
    """What the record of a metric of another package holds, so that it is read without that."""
    if info.package:
        kept = ("title", "better", "unit", "span", "decimals", "tolerance", "package", "source")
        about = {name: getattr(info, name) for name in kept}
        return {"metric": about | {"needs": sorted(info.needs)}}
    if not info.name.startswith(PYIQA):
        return {}
    needs = sorted(info.needs)
    return {"pyiqa": {"version": pyiqa_version(), "better": info.better, "needs": needs}}


def find_recorded(record: Record) -> MetricInfo | None:
    """The entry of the metric of a record; None for one that this version lacks."""
    about = record.extra.get("pyiqa")
    if about:
        return _by_name(record.metric, about["better"], about["needs"])
    if declared := record.extra.get("metric"):
        needs = frozenset(declared["needs"])
        rest = {name: value for name, value in declared.items() if name != "needs"}
        version = record.metric_version
        return MetricInfo(
            record.metric, version=version, target="", needs=needs, default=False, **rest
        )
    return METRICS.get(record.metric)


def pyiqa_version() -> str:
    """The version of pyiqa that is installed, as records name it. Raises MissingError."""
    return f"pyiqa-{pyiqa_says('version')['__version__']}"


@functools.cache
def pyiqa_says(module: str = "default_model_configs") -> dict[str, Any]:
    """What a module of pyiqa defines that imports nothing itself. Raises MissingError."""
    package = importlib.util.find_spec("pyiqa")
    if package is None or package.origin is None:
        raise MissingError("metrics of pyiqa need the package pyiqa", install_hint("pyiqa"))
    return runpy.run_path(str(Path(package.origin).with_name(f"{module}.py")))
