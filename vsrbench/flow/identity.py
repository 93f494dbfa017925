"""What flow estimators are, so that results can name them: nothing is built, no torch imported."""

from __future__ import annotations

from pathlib import Path

from vsrbench.cards.weights import search
from vsrbench.core.files import content

RAFT_FILES = {
    "raft_large_C_T_SKHT_V2-ff5fadd5.pth": "raft_large",
    "raft_large_C_T_V1-22a6c225.pth": "raft_things",
    "raft-things.pth": "raft_things",
    "raft-small.pth": "raft_small",
}
"""Files that are looked for, best first, and the name of their estimator."""
RAFT_UPDATES = 12
"""Refinements that every pair of frames gets."""


def find_raft() -> Path | None:
    """The first file of RAFT_FILES that lies in $VSRBENCH_WEIGHTS."""
    return next((path for file in RAFT_FILES if (path := search(file))), None)


def raft_identity(name: str, path: Path) -> str:
    """Identity of an estimator of RAFT_FILES: network, settings, hash of its file."""
    return f"{name}-v2-{RAFT_UPDATES}-{content(path)[:16]}"


def dis_identity() -> str:
    """Identity of DIS: preset and version of OpenCV."""
    import cv2

    return f"dis-medium-opencv-{cv2.__version__}"


def best_identity() -> str:
    """Identity of what `best_estimator` makes."""
    path = find_raft()
    return raft_identity(RAFT_FILES[path.name], path) if path else dis_identity()
