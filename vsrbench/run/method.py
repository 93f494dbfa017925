"""Run a method on a clip: load by card, pad, window, crop, clamp, and check what comes out."""

from __future__ import annotations

import importlib
import logging
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.cards import code
from vsrbench.cards.specs import ROOT
from vsrbench.core.errors import ContractError, MissingError, UserError, missing_package
from vsrbench.core.keys import digest
from vsrbench.core.processes import give_back_memory
from vsrbench.core.progress import counted
from vsrbench.core.types import Clip, Method, MethodCard, Size
from vsrbench.run import backends, contract
from vsrbench.run.transfer import Fetcher, Sender, read_ahead

if TYPE_CHECKING:
    import torch

    from vsrbench.core.types import Frame


def set_scale(card: MethodCard, scale: int) -> MethodCard:
    """The card for a clip of this scale; a card with scale 0 follows the clip. Raises UserError."""
    if card.scale not in (0, scale):
        raise UserError(
            f"method '{card.name}' upscales x{card.scale}, the clip needs x{scale}",
            f"take a method for x{scale}: vsrbench list methods; or, where the input is your own, "
            f"say --scale {card.scale}",
        )
    return replace(card, scale=scale)


def check_size(card: MethodCard, size: Size) -> None:
    """Raises UserError when frames of this LQ size are below what network or padding accept."""
    left, right, top, bottom = padding(card, size)
    mirrored = left + right < size[1] and top + bottom < size[0]
    if min(size) < card.min_size or not mirrored:
        # Reflection gives less than a side holds: half of the multiple is always enough.
        least = max(card.min_size, 1 if mirrored else card.multiple_of // 2 + 1)
        raise UserError(
            f"frames of {size[1]}x{size[0]} are too small for '{card.name}', which needs at least "
            f"{least} px a side",
            "use a larger clip or another method",
        )


def no_tf32() -> None:
    """fp32 is fp32 on a GPU, too: torch would round the inputs of convolutions to TF32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def dtype_of(card: MethodCard, device: str) -> torch.dtype:
    """What weights are loaded in: half precisions on a GPU, on the CPU fp32. Raises UserError.

    On a CPU those parts alone have fewer bits that `backends.accelerate` takes over.
    """
    import torch

    names = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if card.precision not in names:
        raise UserError(
            f"card '{card.name}': precision is '{card.precision}'", "fp32, fp16 or bf16"
        )
    return torch.float32 if device == "cpu" else names[card.precision]


def load_method(card: MethodCard, device: str) -> Method:
    """Import the adapter of a card and load it. Raises MissingError, UserError, DataError.

    An error inside foreign code comes out as ContractError with its type and message.
    """
    # It is imported wherever diffusers is, and warns of what only 4-bit weights need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    load = entry(card)
    backends.check(card, device)
    given = replace(card, settings=backends.network_settings(card))
    try:
        method: Method = load(given, device, dtype_of(card, device))
        backends.accelerate(method, card, device)
    except UserError:
        raise
    except ImportError as error:
        raise _import_error(card, error) from error
    except (Exception, SystemExit) as error:
        raise foreign_error(f"'{card.name}'", "loading", error) from error
    give_back_memory()
    return method


def entry(card: MethodCard) -> Callable[..., Method]:
    """The function that a card names, imported. Raises as `load_method`."""
    module, _, function = card.entry.partition(":")
    try:
        found = getattr(_module(card, module), function, None) if function else None
    except ImportError as error:
        raise _import_error(card, error) from error
    except (Exception, SystemExit) as error:
        raise foreign_error(f"'{card.name}'", "loading", error) from error
    if found is None:
        raise UserError(
            f"card '{card.name}': entry = \"{card.entry}\" does not name a function of a module",
            'write it as "methods.folder.adapter:load"',
        )
    load: Callable[..., Method] = found
    return load


def _module(card: MethodCard, name: str) -> types.ModuleType:
    """The module that a card names, by the location of the card, and of the code that lies there.

    The methods that ship are `vsrbench.methods`. Those of another root are a package of their own,
    whatever else is called `methods` on this machine; what that root lacks, the former has. What
    was imported before its source was edited is imported again: scores are of the code as it is.
    """
    root, found = code.root_of(card, name), code.digest_code(card)
    if not name.startswith("methods."):
        full = name
    elif root == ROOT:
        full = f"vsrbench.{name}"
    else:
        package = f"vsrbench_root_{digest([str(root), found])}"
        full = f"{package}.{name}"
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(root)]
    if _imported.setdefault(full, found) != found:
        _imported[full] = found
        stale = {str(file) for file in code.list_files(card)}
        for module, there in list(sys.modules.items()):
            if getattr(there, "__file__", None) in stale:
                del sys.modules[module]
    importlib.invalidate_caches()
    # Byte code is known by size and second of its source: two edits within one would be one.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(full)
    finally:
        sys.dont_write_bytecode = writes


_imported: dict[str, str] = {}
"""Module of an entry -> digest of the code that it was imported with."""


def _import_error(card: MethodCard, error: ImportError) -> MissingError:
    missing = missing_package(error, f"method '{card.name}'")
    if "cannot be imported" in missing.message:
        missing.hint += f', or correct entry = "{card.entry}" in its card'
    return missing


def foreign_error(who: str, doing: str, error: BaseException) -> ContractError:
    """Foreign code raised: one line that names who, the place and the error, which is its cause."""
    try:
        text = (str(error).splitlines() or [""])[0][:200]
    except Exception:
        text = "it cannot say what"
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in text:
        made = ContractError(
            f"{who} ran out of memory {doing}", "use smaller frames or a card with tiles"
        )
    else:
        made = ContractError(
            f"{who} failed {doing}: {type(error).__name__}: {text}",
            "run again with -v (in Python verbose=True) for the traceback",
        )
    made.__cause__ = error
    return made


def padding(card: MethodCard, size: Size) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) px of LQ padding that makes both sides a multiple."""
    right, bottom = -size[1] % card.multiple_of, -size[0] % card.multiple_of
    return (right, 0, bottom, 0) if card.pad == "top-left" else (0, right, 0, bottom)


def upscale(
    method: Method, card: MethodCard, clip: Clip, device: str, ahead: bool | None = None
) -> Iterator[Frame]:
    """SR frames of a clip as uint8 RGB, one per LQ frame, checked; constant memory.

    ahead: the next frames are read and computed while one is fetched; False: each is waited for;
    None: on a GPU. Raises ContractError for a wrong count, size, type or range, values that are not
    finite, or an exception in the method; DataError for LQ frames that cannot be read.
    """
    import torch

    # A method that draws noise gives the same frames in every run.
    seed = int(digest([card.name, clip.name, clip.digest]), 16)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    step = card.window or clip.count
    ahead = device != "cpu" if ahead is None else ahead
    for start in range(0, clip.count, step):
        indices = range(start, min(start + step, clip.count))
        yield from _window(method, card, clip, device, indices, ahead)


def _window(
    method: Method, card: MethodCard, clip: Clip, device: str, indices: range, ahead: bool
) -> Iterator[Frame]:
    import torch

    pad, scale = padding(card, clip.size), card.scale
    left, right, top, bottom = pad
    height, width = clip.size
    expected = (3, (height + top + bottom) * scale, (width + left + right) * scale)
    given: deque[torch.Tensor] = deque()  # thumbnails of frames that were not answered yet
    sender, fetcher = Sender(device), Fetcher()

    def read(i: int) -> tuple[torch.Tensor, Any]:
        frame = torch.from_numpy(np.array(clip.lq[i]))
        x = frame.permute(2, 0, 1).to(torch.float32) / 255
        padded = torch.nn.functional.pad(x[None], pad, mode="reflect")[0]
        return contract.thumbnail(x), sender.send(padded.to(dtype_of(card, device)))

    def prepared() -> Iterator[torch.Tensor]:
        for thumbnail, sent in read_ahead(read, indices) if ahead else map(read, indices):
            given.append(thumbnail)
            yield sender.receive(sent)

    def place(index: int) -> str:
        return f"'{card.name}' at frame {index} of clip '{clip.name}'"

    def arrived(frame: Any) -> Frame:
        index, seen, fetched = frame
        pixels, measured = fetched()
        contract.judge(measured, seen, place(index))
        found: Frame = pixels.numpy()
        return found

    produced = 0
    fetching: deque[Any] = deque()  # frames that are on their way
    outputs: Iterator[torch.Tensor] | None = None
    while True:
        try:
            if outputs is None:
                made = method.upscale(prepared())
                if made is None:
                    raise ContractError(
                        f"upscale of '{card.name}' returned None, not frames",
                        "yield each output, or return all of them",
                    )
                outputs = iter(made)
            y = next(outputs, None)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            doing = f"at frame {indices.start + produced} of clip '{clip.name}'"
            raise foreign_error(f"'{card.name}'", doing, error) from error
        no_tf32()  # it may have allowed it, also for metrics, which share its process
        if y is None:
            break
        where = place(indices.start + produced)
        if produced == len(indices):
            raise ContractError(
                f"{where}: more frames came out than the {len(indices)} that went in"
            )
        contract.check_kind(y, expected, where)
        whole = y.detach().float()
        y = whole[:, top * scale :, left * scale :][:, : height * scale, : width * scale]
        pixels = (y.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        seen = given.popleft() if given else None
        fetched = fetcher.fetch(pixels, contract.measure(y, whole))
        fetching.append((indices.start + produced, seen, fetched))
        produced += 1
        if len(fetching) > ahead:
            yield arrived(fetching.popleft())
    yield from map(arrived, fetching)
    if produced != len(indices):
        raise ContractError(
            f"'{card.name}' gave {counted(produced, 'frame')} for the {len(indices)} of clip "
            f"'{clip.name}'",
            "one output per input, in order",
        )
