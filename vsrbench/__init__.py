"""vsrbench: benchmark and evaluation harness for real-world video super-resolution."""

from pathlib import Path

__version__ = "0.2.0.dev0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "methods" / "__init__.py").is_file():
    # In a wheel the methods lie inside this package; in a checkout they lie beside it.
    __path__.append(str(_checkout))
