"""The torch devices that a user names."""

from __future__ import annotations

from vsrbench.core.errors import MissingError, UserError


def pick_devices(asked: str | None) -> tuple[str, ...]:
    """The torch devices to use at a time. Raises as `_device`; UserError for a mixture."""
    devices = (
        tuple(pick_device(name.strip()) for name in asked.split(","))
        if asked
        else (pick_device(None),)
    )
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UserError("--device mixes cpu and cuda", "their scores differ in the last digits")
    return devices


def pick_device(asked: str | None) -> str:
    """The torch device to use. Raises UserError, MissingError."""
    if asked == "cpu":
        return asked
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UserError(f"no device named '{asked}'", "cpu, cuda, cuda:1 ...") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"nothing here runs on device '{asked}'", "cpu, cuda, cuda:1 ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(
            f"device '{asked}' was asked for and {torch.cuda.device_count()} CUDA devices are here",
            "use --device cpu",
        )
    return "cpu" if device.type == "cpu" else str(device)
