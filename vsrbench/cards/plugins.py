"""What other installed packages bring: methods and metrics declared by TOML files of theirs.

A package says where they are by an entry point, whose value names one of its packages:

    [project.entry-points."vsrbench.methods"]
    mine = "mypackage.cards"

Nothing of it is imported to find them.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Group = Literal["vsrbench.methods", "vsrbench.metrics"]


@dataclass(frozen=True)
class Plugin:
    """One entry point."""

    folder: Path
    """Folder of the package that it names."""
    version: str
    """`name-version` of the distribution."""

    def files(self) -> list[Path]:
        """Its TOML files, in the folder and in those right below it."""
        return sorted((*self.folder.glob("*.toml"), *self.folder.glob("*/*.toml")))


@functools.cache
def plugins(group: Group) -> tuple[Plugin, ...]:
    """What is installed here for a group; entry points whose package is gone are passed over."""
    from importlib.metadata import entry_points  # a fifth of the time of `--help`

    found = []
    for point in sorted(entry_points(group=group), key=lambda p: p.name):
        try:
            spec = importlib.util.find_spec(point.value)
        except (ImportError, ValueError):
            continue
        dist = point.dist
        version = f"{dist.name}-{dist.version}" if dist else ""
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found.append(Plugin(Path(place), version))
    return tuple(found)
