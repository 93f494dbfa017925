"""Other engines for the networks of methods: ONNX Runtime, OpenVINO, and bf16 on a CPU.

A method that has `parts` says which of its functions keep no state. Each is exported to ONNX for
the shapes that it meets, once a shape, and an engine takes its place. What moves and mixes frames
between them stays as it is.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vsrbench.core.errors import UserError, missing_package
from vsrbench.core.parts import Part
from vsrbench.core.types import Method, MethodCard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    Work = Callable[..., Tensor]

SETTING = "backend"
"""The setting of a card that names one; part of its identity like any other."""
TORCH = "torch"
BACKENDS = (TORCH, "onnxruntime", "openvino")
KEPT = 4
"""Shapes of a part for which an engine stays ready."""
OPSET = 18
COUNTS = (1, 2, 4, 8)
"""Neighbours whose outputs a convolution may make at once."""


def network_settings(card: MethodCard) -> dict[str, Any]:
    """The settings of a card that are for its adapter."""
    return {name: value for name, value in card.settings.items() if name != SETTING}


def check(card: MethodCard, device: str) -> None:
    """Raise UserError for a backend that there is not, or not here."""
    backend = card.settings.get(SETTING, TORCH)
    if backend not in BACKENDS:
        raise UserError(f"card '{card.name}': no backend '{backend}'", " or ".join(BACKENDS))
    if card.kind != "python" and backend != TORCH:
        raise UserError(f"'{card.name}' is a program: backend {backend} cannot run it")
    if backend == TORCH:
        return
    if device != "cpu":
        raise UserError(f"backend {backend} computes on the CPU", "add --device cpu")
    if backend == "onnxruntime" and card.precision != "fp32":
        raise UserError(
            f"backend {backend} has no {card.precision}", "--precision fp32, or --backend openvino"
        )


def accelerate(method: Method, card: MethodCard, device: str) -> None:
    """Have a loaded method compute its parts as its card says.

    Raises UserError where it has none, MissingError without the package of the engine.
    """
    backend, half = card.settings.get(SETTING, TORCH), device == "cpu" and card.precision == "bf16"
    if backend == TORCH and not half:
        return
    if backend == TORCH and not _find_parts(method):
        raise UserError(
            f"'{card.name}' has no part that bf16 on a CPU could take over",
            "--precision fp32; or its adapter needs `parts`",
        )
    parts = parts_of(method, card)
    engine = _ENGINES[backend](card)
    for part in parts.values():
        if backend == TORCH and part.exact:
            continue
        setattr(part.owner, part.name, engine(part))


def parts_of(method: Method, card: MethodCard) -> Mapping[str, Part]:
    """The parts of a method that keep no state. Raises UserError where it names none."""
    found = _find_parts(method)
    if not found:
        raise UserError(
            f"'{card.name}' has no part that can be exported",
            "its adapter needs `parts`; without: neither --backend nor bf16 on a CPU",
        )
    return found


def _find_parts(method: Method) -> Mapping[str, Part]:
    found: Mapping[str, Part] = getattr(method, "parts", dict)()
    return found


def export(part: Part, shapes: tuple[tuple[int, ...], ...], target: Path | io.BytesIO) -> None:
    """Write a part as ONNX, for inputs of these shapes alone. Raises MissingError without onnx."""
    _export(part.owner, getattr(part.owner, part.name), shapes, target)


def _export(
    owner: nn.Module, own: Work, shapes: tuple[tuple[int, ...], ...], target: Path | io.BytesIO
) -> None:
    import torch

    try:
        import onnx  # noqa: F401  # torch's exporter asks for it after its work
    except ImportError as error:
        raise missing_package(error, "an export to ONNX") from error

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, *tensors: Tensor) -> Tensor:
            return own(*tensors)

    names = [f"input{number}" for number in range(len(shapes))]
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of shapes that become constants, as they are meant to
        torch.onnx.export(
            Whole().eval(),
            tuple(torch.zeros(shape) for shape in shapes),
            target,  # type: ignore[arg-type]  # the stubs forget what is open already
            input_names=names,
            output_names=["output"],
            opset_version=OPSET,
            dynamo=False,
        )


@contextmanager
def _filling_lanes(network: nn.Module) -> Iterator[None]:
    """Export convolutions of few outputs as such that make those of several neighbours at once.

    A CPU sums as many outputs at a time as a register holds: of 2 or 24 some lanes are idle. The
    kernel gets a column for each neighbour to the right, zeros fill it up, and the sums are the
    same.
    """
    import numpy as np
    import torch
    from torch import nn

    lanes = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8

    def work(layer: nn.Conv2d, count: int) -> float:
        registers = math.ceil(layer.out_channels * count / lanes)
        return registers * (layer.kernel_size[1] + count - 1) / count

    def widened(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
        own, ordered = layer.forward, sorted(COUNTS, key=functools.partial(work, layer))

        def forward(x: Tensor) -> Tensor:
            count = next(n for n in ordered if n == 1 or x.shape[-1] % n == 0)
            if count == 1 or x.ndim != 4:
                return own(x)
            batch, _, height, width = map(int, x.shape)
            # As constants, read here: some networks make weights while they are called.
            weight = layer.weight.detach().numpy()
            sides = ((0, 0),) * 3
            shifted = [np.pad(weight, (*sides, (i, count - 1 - i))) for i in range(count)]
            kernel = torch.from_numpy(np.concatenate(shifted))
            bias = layer.bias
            if bias is not None:
                bias = torch.from_numpy(np.tile(bias.detach().numpy(), count))
            y = nn.functional.conv2d(x, kernel, bias, (1, count), layer.padding)
            y = y.permute(0, 2, 3, 1).reshape(batch, height, width, layer.out_channels)
            return y.permute(0, 3, 1, 2).contiguous()

        return forward

    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        and getattr(layer.forward, "__func__", None) is nn.Conv2d.forward
        and layer.out_channels % lanes
        and (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.padding_mode == "zeros"
        and all(side % 2 for side in layer.kernel_size)
        and layer.padding == tuple(side // 2 for side in layer.kernel_size)
    ]
    for layer in layers:
        vars(layer)["forward"] = widened(layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


_one_at_a_time = threading.Lock()
"""An export follows what torch does and alters the network; OpenVINO refuses a second thread."""


def _by_shape(part: Part, make: Callable[[bytes], Callable[[list[Any]], Any]]) -> Work:
    """A part by an engine; make: from a model to what computes arrays."""
    import torch

    own, ready = getattr(part.owner, part.name), dict[Any, Callable[[list[Any]], Any]]()

    def work(*tensors: Tensor) -> Tensor:
        shapes = tuple(tuple(x.shape) for x in tensors)
        arrays = [x.float().contiguous().numpy() for x in tensors]
        with _one_at_a_time:
            if shapes not in ready:
                model = io.BytesIO()
                with _filling_lanes(part.owner):
                    _export(part.owner, own, shapes, model)
                if len(ready) == KEPT:
                    del ready[next(iter(ready))]
                ready[shapes] = make(model.getvalue())
            return torch.from_numpy(ready[shapes](arrays)).to(tensors[0].dtype)

    return work


def _onnxruntime(card: MethodCard) -> Callable[[Part], Work]:
    import torch

    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(error, f"backend onnxruntime of '{card.name}'") from error

    def make(model: bytes) -> Callable[[list[Any]], Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return lambda part: _by_shape(part, make)


def _openvino(card: MethodCard) -> Callable[[Part], Work]:
    import torch

    try:
        import openvino
    except ImportError as error:
        raise missing_package(error, f"backend openvino of '{card.name}'") from error
    core = _core(openvino.Core)
    kinds = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    able = ("FP32", *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if card.precision.upper() not in able:  # it would take another one and say nothing
        raise UserError(
            f"'{card.name}': OpenVINO has no {card.precision} on this CPU", "--precision fp32"
        )

    def by(part: Part) -> Work:
        options = {
            "INFERENCE_PRECISION_HINT": "f32" if part.exact else kinds[card.precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }

        def make(model: bytes) -> Callable[[list[Any]], Any]:
            compiled = core.compile_model(core.read_model(model), "CPU", options)
            return lambda arrays: compiled(arrays)[0]  # a copy already

        return _by_shape(part, make)

    return by


@functools.cache
def _core(make: Callable[[], Any]) -> Any:
    """That of OpenVINO: one for the whole life of the process.

    For AMX a core gives the thread that makes it another stack for signals. Where it is dropped by
    another thread, or after one that was made later, the thread is left with a stack that is gone,
    and the next signal kills the process.
    """
    return make()


def _bf16(card: MethodCard) -> Callable[[Part], Work]:
    """By torch itself, in a copy of the network with half of the bits."""
    import torch

    def by(part: Part) -> Work:
        owner: Any = copy.deepcopy(part.owner)
        owner.to(torch.bfloat16, memory_format=torch.channels_last)
        own = getattr(owner, part.name)

        def work(*tensors: Tensor) -> Tensor:
            halves = (x.to(torch.bfloat16, memory_format=torch.channels_last) for x in tensors)
            result: Tensor = own(*halves).to(tensors[0].dtype)
            return result

        return work

    return by


_ENGINES = {TORCH: _bf16, "onnxruntime": _onnxruntime, "openvino": _openvino}
