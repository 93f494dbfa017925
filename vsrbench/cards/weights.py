"""Weights: find, hash, load safely, save. Only safetensors and torch.load(weights_only=True)."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from vsrbench.core.errors import DataError, MissingError
from vsrbench.core.files import content, recognise_page, replace_atomically
from vsrbench.core.types import MethodCard, Origin
from vsrbench.core.variables import WEIGHTS, fetched_folder, weights_folders

if TYPE_CHECKING:
    import torch

Net = TypeVar("Net", bound="torch.nn.Module")

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pkl", ".bin")
WRAPPERS = ("params_ema", "params", "state_dict", "model", "sd")
INDEX = "model_index.json"
"""What makes a folder one of weights in diffusers' layout."""


UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError),
    *(ValueError, LookupError, AttributeError, TypeError),  # bytes that look like a pickle at first
)


def unreadable_error(path: Path, error: Exception) -> DataError:
    """The error for a file that is no checkpoint or a broken one."""
    with suppress(OSError):
        if what := recognise_page(path):
            return DataError(f"checkpoint {path} is {what}", "fetch it again, or `git lfs pull`")
    return DataError(
        f"checkpoint {path} cannot be read: {(str(error).splitlines() or [''])[0][:120]}",
        "it is truncated, corrupt, or holds more than tensors; fetch it again",
    )


def search(name: str, *folders: Path) -> Path | None:
    """The weights `name` in the given folders, those of $VSRBENCH_WEIGHTS, or among what was
    fetched; None if nowhere.
    """
    for folder in (*folders, *weights_folders(), fetched_folder()):
        if _is_there(folder / name):
            return folder / name
    return None


def _is_there(path: Path) -> bool:
    """Whether this is a file, or a folder in diffusers' layout."""
    return path.is_file() or (path / INDEX).is_file()


def locate(card: MethodCard) -> Path | None:
    """The weights of a card, a file or a folder; None where it has none. Raises MissingError."""
    weights = card.weights
    if not weights.file:
        return None
    file, folder = Path(weights.file).expanduser(), Path(card.folder)
    if file.is_absolute():
        found = file if _is_there(file) else None
    else:
        found = search(weights.file, folder) or search(file.name, folder)
    if found is None:
        kind = "file" if Path(weights.file).suffix.lower() in SUFFIXES else "folder"
        origin = f"; it is published at {weights.url}" if weights.url else ""
        raise MissingError(
            f"method '{card.name}' needs its weights {weights.file}, not found",
            f"vsrbench weights fetch --for {card.name}, or put the {kind} "
            f"into a folder named in ${WEIGHTS}{origin}"
            if weights.sources
            else f"put the {kind} into {card.folder} or a folder named in ${WEIGHTS}{origin}",
        )
    return found


def find_named_file(card: MethodCard) -> MethodCard:
    """A card of origin "random" may name a file: where it is found, origin and note are the file's.

    Elsewhere the network is initialised from seed 0. Imports no torch. Raises DataError.
    """
    if card.weights.origin != "random" or not card.weights.file:
        return card
    try:
        path = locate(card)
    except MissingError:
        return replace(card, weights=replace(card.weights, file=""))
    from safetensors import SafetensorError, safe_open

    assert path is not None
    try:
        with safe_open(str(path), framework="np") as file:
            about: dict[str, Any] = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise unreadable_error(path, error) from error
    origin = about.get("origin", "")
    known: Origin = origin if origin in get_args(Origin) else "user"
    return replace(card, weights=replace(card.weights, origin=known, note=about.get("note", "")))


def identify(card: MethodCard) -> str:
    """sha256 of the weights, checked against the card; empty without. Raises MissingError."""
    path = locate(card)
    if path is None:
        return ""
    found = _content(path)
    expected = card.weights.sha256
    if expected and found != expected:
        raise MissingError(
            f"weights of '{card.name}' do not match its card: {path} has sha256 {found[:16]}..., "
            f"expected {expected[:16]}...",
            "fetch the file again, or if the change is meant, update weights.sha256 in the card "
            "and bump its version",
        )
    return found


def _content(path: Path) -> str:
    """sha256 of a file; of a folder, of the lines that `sha256sum` prints for its `list_parts`."""
    if path.is_dir():
        lines = [f"{_content(p)}  {p.relative_to(path).as_posix()}\n" for p in list_parts(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return content(path)


def list_parts(folder: Path) -> list[Path]:
    """The files that loading a folder in diffusers' layout reads.

    Not pickles, single files of everything beside the parts, nor variants (`*.fp16.safetensors`).
    """
    kinds = (".json", ".txt", ".safetensors")
    inside = (p for p in folder.glob("[!.]*/*") if p.suffix in kinds and "." not in p.stem)
    return sorted([folder / INDEX, *inside])


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict in float32, metadata) of a checkpoint file. Raises DataError when unreadable.

    Metadata is what save_checkpoint wrote; empty for files of others. The usual wrappers
    (`WRAPPERS`, from the outside in) are taken off.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    metadata: dict[str, Any] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                metadata = dict(file.metadata() or {})
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, SafetensorError) as error:
        raise unreadable_error(path, error) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise DataError(f"checkpoint {path} holds no state dict", "expected a dict of tensors")
    if "config" in metadata:
        try:
            metadata["config"] = dict(json.loads(metadata["config"]))
        except (ValueError, TypeError, RecursionError):  # another program's word for something else
            del metadata["config"]
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return floats, metadata


def verify(card: MethodCard) -> Path:
    """The weights of a card, a file or a folder, hash checked. Raises MissingError."""
    identify(card)
    path = locate(card)
    if path is None:
        raise MissingError(f"the card of '{card.name}' names no weights file", "set weights.file")
    return path


def load_state(card: MethodCard) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict, metadata) of a card's weights, hash checked. Raises MissingError, DataError."""
    return read_checkpoint(verify(card))


def load_strictly(
    net: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str, assign: bool = False
) -> None:
    """Strict loading. Raises DataError with the first names that do not fit.

    assign: take the tensors themselves instead of copying them, as a network on `meta` needs.
    """
    try:
        net.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise DataError(
            f"checkpoint does not fit the network of '{name}': {' '.join(lines)[:200]}",
            "is it the file that the card asks for?",
        ) from error


def build(
    card: MethodCard,
    network: Callable[..., Net],
    translate: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = dict,
) -> Net:
    """The network of a card with its weights; "random" without a file initialises it from seed 0.

    The network's arguments are the settings of the card, and before them those that the checkpoint
    carries. translate: from the names in the authors' checkpoint to ours. Raises MissingError,
    DataError.
    """
    import torch

    if card.weights.origin == "random" and not card.weights.file:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return network(**card.settings)
    state, metadata = load_state(card)
    with torch.device("meta"):  # no time and memory for numbers that are not to stay
        net = network(**{**card.settings, **metadata.get("config", {})})
    load_strictly(net, translate(state), card.name, assign=True)
    return net


def open_slices(path: Path) -> dict[str, Any]:
    """{name: what yields a tensor, or a part of it, when indexed}; nothing is read before that.

    Raises DataError when the file is unreadable or holds no state dict.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            file: Any = safe_open(str(path), framework="pt")  # the slices keep it open
            return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (*UNREADABLE, SafetensorError) as error:
        raise unreadable_error(path, error) from error


def save_checkpoint(
    path: Path,
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    note: str,
    origin: Origin = "trained_here",
    half: bool = True,
) -> None:
    """Write a checkpoint of ours, atomically: tensors, network config, origin and note.

    half: floating-point tensors go to fp16, which halves the file; else they stay as they are.
    """
    import torch
    from safetensors.torch import save_file

    kept = {
        k: (v.detach().half() if half and v.is_floating_point() else v.detach()).cpu().contiguous()
        for k, v in state.items()
    }
    assert all(torch.isfinite(v).all() for v in kept.values()), "not finite"
    metadata = {"config": json.dumps(dict(config)), "origin": origin, "note": note}
    with replace_atomically(path) as partial:
        save_file(kept, str(partial), metadata=metadata)
