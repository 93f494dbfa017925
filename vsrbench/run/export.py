"""The networks of a method as ONNX files, held against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.core.errors import UserError
from vsrbench.core.files import replace_atomically
from vsrbench.core.parts import Part
from vsrbench.core.types import MethodCard, Size
from vsrbench.run.backends import export, network_settings, parts_of
from vsrbench.run.cost import make_resident_clip
from vsrbench.run.method import check_size, load_method

if TYPE_CHECKING:
    from torch import Tensor

    Work = Callable[..., Tensor]


def export_all(card: MethodCard, size: Size, folder: Path) -> Iterator[tuple[Path, str]]:
    """Write the parts of a method as ONNX, for clips of one LQ size: each file, and what it does.

    Where ONNX Runtime is here, a file is run on random numbers and held against torch. Raises
    UserError where there is no part, where the size does not fit, or where the two differ.
    """
    check_size(card, size)
    plain = replace(card, precision="fp32", settings=network_settings(card))
    if plain.kind != "python":
        raise UserError(f"'{card.name}' is a program", "only networks that run here are exported")
    method = load_method(plain, "cpu")
    parts, seen = parts_of(method, card), dict[str, tuple[tuple[int, ...], ...]]()

    def watch(name: str, own: Work) -> Work:
        def work(*tensors: Tensor) -> Tensor:
            seen[name] = tuple(tuple(x.shape) for x in tensors)
            return own(*tensors)

        return work

    own = {name: getattr(part.owner, part.name) for name, part in parts.items()}
    for name, part in parts.items():
        setattr(part.owner, part.name, watch(name, own[name]))
    frames = max(card.lookahead, 0) + 2
    for _ in method.upscale(iter(make_resident_clip(plain, size, frames, "cpu"))):
        pass
    for name, part in parts.items():
        setattr(part.owner, part.name, own[name])
    for name, shapes in seen.items():
        path = folder / f"{card.name}-{name}-{size[1]}x{size[0]}.onnx"
        with replace_atomically(path) as partial:
            export(parts[name], shapes, partial)
        given = ", ".join("x".join(map(str, shape)) for shape in shapes)
        yield path, given + _compare(parts[name], path, shapes)


def _compare(part: Part, path: Path, shapes: tuple[tuple[int, ...], ...]) -> str:
    """What is to be said of a file beside torch. Raises UserError where the two differ."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        return "; not run: onnxruntime is not here"
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(shape, generator=generator) for shape in shapes]
    with torch.inference_mode():
        expected: Tensor = getattr(part.owner, part.name)(*inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    most = float((torch.from_numpy(found) - expected).abs().max())
    if most > 0.01 * max(1.0, float(expected.abs().max())):
        raise UserError(f"{path} differs from torch by {most:.2g}", "please report it")
    return f" -> {'x'.join(map(str, found.shape))}; ONNX Runtime differs by {most:.1g} at most"
