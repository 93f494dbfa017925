"""Golden numerics: what official networks give under weights made by a formula."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent


def arrays(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Everything in <name>.npz."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def shapes(name: str) -> dict[str, list[int]]:
    """The official state dict: name -> shape, in its order."""
    return json.loads((FOLDER / f"{name}.keys.json").read_text())


def tensor(name: str, shape: list[int] | torch.Size, gain: float) -> torch.Tensor:
    """The golden weight called `name`: a wave over its elements, its phase from the name.

    Matrices are scaled by the square root of their fan-in, so that activations keep their size;
    the quadratic index gives them full rank.
    """
    i = np.arange(10007, dtype=np.int64)  # the pattern repeats after that
    j = (31 * i * i + 17 * i) % 10007
    phase = (zlib.crc32(name.encode()) % 10007) / 10007 * 2 * math.pi
    v = np.sin(0.7 * j + phase)
    last = name.rpartition(".")[2]
    if last == "rho":
        v = 0.3 * v
    elif last == "opacity":
        v = 0.7 + 0.2 * v
    elif last == "temperature":
        v = 1 + 0.1 * v
    elif len(shape) > 1:
        v *= gain / math.sqrt(math.prod(shape[1:]))
    else:
        v = 1 + 0.1 * v if last == "weight" else 0.02 * v
    return torch.from_numpy(np.resize(v.astype(np.float32), tuple(shape)))


@torch.no_grad()
def fill(module: torch.nn.Module, gain: float) -> None:
    """Give every parameter of a network its golden weight."""
    for name, parameter in module.named_parameters():
        parameter.copy_(tensor(name, parameter.shape, gain))


def error(ours: torch.Tensor, theirs: np.ndarray[Any, Any] | torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    want = torch.as_tensor(theirs)
    assert ours.shape == want.shape
    return float((ours - want).abs().max() / want.abs().max())
