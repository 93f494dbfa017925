"""Environment variables: every one that is read, in one place, looked up when asked for.

Also the one folder that none of them changes: where vsrbench itself is.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vsrbench.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "methods").is_dir() else _PACKAGE.parent
"""Where methods/, datasets/ and results/published/ lie: the checkout, or the installed package."""

WEIGHTS = "VSRBENCH_WEIGHTS"
COMMANDS = "VSRBENCH_COMMANDS"
DATA = "VSRBENCH_DATA"
CACHE = "VSRBENCH_CACHE"
CACHE_GIB = "VSRBENCH_CACHE_GIB"
OFFLINE = "VSRBENCH_OFFLINE"
FETCHED = "VSRBENCH_FETCHED"
FETCH_MB = "VSRBENCH_FETCH_MB"
LOGS = "VSRBENCH_LOGS"


def weights_folders() -> list[Path]:
    """The folders of $VSRBENCH_WEIGHTS, in which checkpoints are looked for."""
    return [Path(p).expanduser() for p in os.environ.get(WEIGHTS, "").split(os.pathsep) if p]


def commands_file() -> str:
    """$VSRBENCH_COMMANDS: the TOML file that says where programs of others are; may be empty."""
    return os.environ.get(COMMANDS, "")


def data_folder(name: str = DATA) -> Path | None:
    """The folder of all datasets, $VSRBENCH_DATA; or of one, by the variable of that `name`."""
    given = os.environ.get(name, "")
    return Path(given).expanduser() if given else None


def cache_folder() -> Path:
    """$VSRBENCH_CACHE or ~/.cache/vsrbench: rendered datasets, flow, hashes of files."""
    return Path(os.environ.get(CACHE) or "~/.cache/vsrbench").expanduser()


def cache_limit_gib(usual: float) -> float:
    """What flow on disk may take: $VSRBENCH_CACHE_GIB, or the usual limit. Raises UserError."""
    given = os.environ.get(CACHE_GIB, "")
    try:
        return float(given) if given else usual
    except ValueError as error:
        raise UserError(f"${CACHE_GIB} is '{given}'", "give it a number of GiB") from error


def logs_folder() -> Path:
    """$VSRBENCH_LOGS, set by a run for its workers: logs and inputs of external programs.

    Without a run it lies among the temporary files: one for each user of the machine. Absolute,
    since a program works in another folder.
    """
    ours = Path(tempfile.gettempdir(), f"vsrbench-logs-{os.getuid()}")
    return Path(os.environ.get(LOGS) or ours).absolute()


def offline() -> bool:
    """VSRBENCH_OFFLINE=1: nothing is downloaded."""
    return os.environ.get(OFFLINE) == "1"


def fetched_folder() -> Path:
    """Where weights are fetched to: $VSRBENCH_FETCHED, else the folder `weights` of the cache."""
    given = os.environ.get(FETCHED, "")
    return Path(given).expanduser() if given else cache_folder() / "weights"


def fetch_limit_mb() -> float:
    """Weights up to this size, 1e6 bytes, are fetched without being asked for. Raises UserError."""
    given = os.environ.get(FETCH_MB, "")
    try:
        return float(given or 100)
    except ValueError as error:
        raise UserError(f"${FETCH_MB} is '{given}'", "give it a number of megabytes") from error


def hub_endpoint() -> str:
    """$HF_ENDPOINT, since mirrors of the Hugging Face Hub are in use."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def torch_hub() -> Path:
    """The folder in which torch hub keeps what it downloads: $TORCH_HOME, else a cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch")).expanduser() / "hub"


def in_github_actions() -> bool:
    """A workflow of GitHub runs this, which understands annotations."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def github_summary() -> Path | None:
    """$GITHUB_STEP_SUMMARY: the Markdown file that GitHub shows on the page of a workflow's run."""
    given = os.environ.get("GITHUB_STEP_SUMMARY", "")
    return Path(given) if given else None
