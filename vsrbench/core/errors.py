"""Errors that a user can act on: one line of what, one line of what to do."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from typing import Self

OK, FAILED, USAGE, MISSING, REGRESSION, INTERRUPTED = 0, 1, 2, 3, 4, 130


class UserError(Exception):
    """Something the user can put right.

    Printed as `message` and `hint` without a traceback; `exit_code` ends the program when it
    reaches the command line, and a record keeps all of it when it only ends one job.
    """

    exit_code = USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._cause = ""

    def cause(self) -> str:
        """Traceback of the exception that it was raised from; empty if there is none."""
        if self.__cause__ is None:
            return self._cause
        return "".join(traceback.format_exception(self.__cause__))

    def with_log(self, log: str) -> Self:
        """Itself, with a log in place of the traceback of what it was raised from."""
        self._cause = log
        return self

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type, tuple[str, str], dict[str, str]]:
        # The exception itself may not travel to another process; what it says does.
        return (type(self), (self.message, self.hint), {"_cause": self.cause()})


class MissingError(UserError):
    """A file, package, device or dataset that is needed is not here."""

    exit_code = MISSING


class DataError(UserError):
    """Input data is unreadable or inconsistent (truncated, wrong size, wrong count)."""

    exit_code = FAILED


class WriteError(UserError):
    """The disk refuses what is to be kept: a run stops, or it would compute for nothing."""

    exit_code = FAILED


class ContractError(UserError):
    """A method broke its contract: wrong count, wrong size, NaN, or an exception."""

    exit_code = FAILED


MOST_NAMES = 16
"""Up to this many names are listed in full."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a `name` that is not among `known`, with the closest match as suggestion."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    near = names
    if len(names) > MOST_NAMES:  # the nearest ones say more than all of them
        near = sorted(difflib.get_close_matches(name, names, n=8, cutoff=0.0))
    more = f" and {len(names) - len(near)} more" if len(near) < len(names) else ""
    listing = f"known: {', '.join(near)}{more}" if names else "none is known here"
    return UserError(f"no {kind} named '{name}'.{guess}", f"{listing}{'; ' + hint if hint else ''}")


EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "safetensors", "skimage", "lpips"), "run"),
    **{"DISTS_pytorch": "run", "pynvml": "run", "diffusers": "instavsr", "spandrel": "spandrel"},
    **{"transformers": "sdx4", "pyiqa": "pyiqa", "timm": "pyiqa", "huggingface_hub": "fetch"},
    **dict.fromkeys(("requests", "gdown"), "fetch"),
    **{"vmaf_torch": "vmaf", "pycvvdp": "cvvdp", "erqa": "erqa", "rapidocr": "ocr"},
    **{"openvino": "openvino", "ray": "ray"},
    **dict.fromkeys(("onnx", "onnxruntime"), "onnxruntime"),
}
"""Module -> the extra of vsrbench that installs its package."""


def install_hint(module: str) -> str:
    """How to install the package of a module that cannot be imported."""
    top = module.partition(".")[0]
    extra = EXTRAS.get(top)
    return f"pip install 'vsrbench[{extra}]'" if extra else f"pip install {top}"


def missing_package(error: ImportError, who: str) -> MissingError:
    """The error for an import that failed: what needs the package, and what installs it."""
    name = error.name or ""
    if isinstance(error, ModuleNotFoundError) and name.partition(".")[0] in EXTRAS:
        return MissingError(f"{who} needs the package {name.partition('.')[0]}", install_hint(name))
    return MissingError(f"{who} cannot be imported: {error}", "install what it needs")
