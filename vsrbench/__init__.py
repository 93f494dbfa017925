"""vsrbench: benchmark and evaluation harness for real-world video super-resolution.

`evaluate` runs and scores, `load` reads what is stored; both give `Results`. Metrics are functions
of `vsrbench.metrics`. Importing this imports nothing heavy.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsrbench.api import Results, evaluate, load

__all__ = ["Results", "__version__", "evaluate", "load"]
__version__ = "0.2.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "methods" / "__init__.py").is_file():
    # In a wheel the methods lie inside this package; in a checkout they lie beside it.
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vsrbench' has no attribute '{name}'")
    from vsrbench import api

    return getattr(api, name)
