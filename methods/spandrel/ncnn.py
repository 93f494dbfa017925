"""Weights of Real-ESRGAN out of ncnn's files: `NAME.param`, the graph, and `NAME.bin` beside it.

The names are those of the authors' own checkpoints. Weights were rounded to fp16 when they were
converted for ncnn; biases and slopes are fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vsrbench.core.errors import DataError, MissingError

HALF = 0x01306B47
"""What stands before weights in fp16."""


def read(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a `.bin`, float32. Raises MissingError, DataError."""
    graph = path.with_suffix(".param")
    if not graph.is_file():
        raise MissingError(
            f"{path} needs {graph.name} beside it",
            "both are in the same package; vsrbench weights fetch gets both",
        )
    try:
        layers = list(_layers(graph.read_text(encoding="ascii"), path.read_bytes()))
        names = _names(len(layers), any(len(layer) == 1 for layer in layers))
        return {
            f"{name}.{what}": tensor
            for name, layer in zip(names, layers, strict=True)
            for what, tensor in zip(("weight", "bias"), layer, strict=False)
        }
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a model of ncnn: {error}") from error


def _layers(graph: str, content: bytes) -> Iterator[tuple[torch.Tensor, ...]]:
    """(weight, bias) of each convolution and (slopes,) of each PReLU, in the order of the graph."""
    at = 0

    def take(kind: str, count: int) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(content, kind, count, at)
        at += -(-values.nbytes // 4) * 4
        return torch.from_numpy(values.astype(np.float32))

    for line in graph.splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        options = dict(part.split("=") for part in rest[int(inputs) + int(outputs) :])
        if kind == "PReLU":
            yield (take("<f4", int(options["0"])),)
        elif kind == "Convolution":
            wide, side, size = (int(options[key]) for key in ("0", "1", "6"))
            if take("<u4", 1).item() != np.float32(HALF) or options["5"] != "1":
                raise ValueError("a convolution is not in fp16 with a bias")
            yield take("<f2", size).reshape(wide, -1, side, side), take("<f4", wide)
    if at != len(content):
        raise ValueError(f"{len(content) - at} bytes are left over")


def _names(count: int, compact: bool) -> list[str]:
    """Names of the layers: of SRVGGNetCompact, or of RRDBNet with (count - 6) / 15 blocks."""
    if compact:
        return [f"body.{number}" for number in range(count)]
    blocks = [
        f"body.{block}.rdb{part}.conv{number}"
        for block in range((count - 6) // 15)
        for part in range(1, 4)
        for number in range(1, 6)
    ]
    last = ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return ["conv_first", *blocks, *last]
