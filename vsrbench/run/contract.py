"""What a method must return, judged before anything is clamped or rounded.

Values of another range would be clamped into a picture that looks wrong but scores like any other:
a frame in -1..1 loses its dark half, one in 0..255 turns white. Overshoot of a network is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vsrbench.core.errors import ContractError

if TYPE_CHECKING:
    import torch

SIDE = 16  # px of the thumbnails that are compared
LOW, HIGH = -0.05, 1.05  # what networks overshoot by
WILD = 0.001  # share of values far outside 0..1 that a network may have
_TURNED: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "with red and blue exchanged": lambda x: x.flip(0),
    "mirrored": lambda x: x.flip(2),
    "upside down": lambda x: x.flip(1),
    "turned by 180 degrees": lambda x: x.flip(1, 2),
    "with rows and columns exchanged": lambda x: x.transpose(1, 2),
}
"""What adapters get wrong in a frame of the right shape and range."""
RETURN = "return one float tensor of 3 x sH x sW, RGB in 0..1, for each input frame"


def thumbnail(frame: torch.Tensor) -> torch.Tensor:
    """The means of SIDE x SIDE parts of a 3 x H x W frame, in float32."""
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(frame.detach().float()[None], SIDE)[0]


def check_kind(output: Any, expected: tuple[int, int, int], where: str) -> None:
    """Raise ContractError unless an output is a real float tensor of the expected shape."""
    import torch

    if not isinstance(output, torch.Tensor):
        kind = f"{type(output).__module__}.{type(output).__name__}".removeprefix("builtins.")
        raise ContractError(f"{where}: output is of type {kind}, not a torch tensor", RETURN)
    if not output.dtype.is_floating_point or output.dtype.itemsize < 2:
        raise ContractError(f"{where}: output is of {output.dtype}", RETURN)
    if tuple(output.shape) != expected:
        raise ContractError(
            f"{where}: output is {tuple(output.shape)}, expected {expected}",
            "one 3 x sH x sW tensor per input frame",
        )


def measure(output: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What `judge` asks of a 3 x H x W float32 output, as one tensor beside it: nobody waits.

    whole: the output before it was cropped, which has to be finite, too.
    """
    import torch

    low, high = output.aminmax()
    bounds = (low, high) if whole.shape == output.shape else whole.aminmax()
    finite = (bounds[0].isfinite() & bounds[1].isfinite()).float()
    if output.is_cuda or not (low >= LOW and high <= HIGH):
        far = (output < -4) | (output > 5)
        shares = [x.float().mean() for x in (output < LOW, far, (output < LOW) | (output > HIGH))]
    else:
        shares = [output.new_zeros(())] * 3
    return torch.cat((torch.stack((finite, low, high, *shares)), thumbnail(output).flatten()))


def judge(measured: torch.Tensor, given: torch.Tensor | None, where: str) -> None:
    """Raise ContractError unless an output was finite and its values were of the range 0..1.

    measured: of that output, on the CPU. given: `thumbnail` of its LQ frame in 0..1, if it is
    known. Of the same picture the means of parts agree, so that what a range makes of them
    (2x - 1, 255x) is told from what a method makes of a frame.
    """
    finite, low, high, under, wild, outside = measured[:6].tolist()
    if not finite:
        raise ContractError(
            f"{where}: output holds NaN or infinity", "try precision fp32 in its card"
        )
    if given is None:
        return
    made = measured[6:].reshape(3, SIDE, SIDE)
    as_is = float((made - given).square().mean())
    signed = float((made - (2 * given - 1)).square().mean())
    # Where nothing is below 0, the fit must be close, and there must be something to fit.
    dark = low < LOW and under > WILD
    close = signed < 0.03**2 and float(given.std()) > 0.02
    spans = f"{where}: output has values from {low:.3g} to {high:.3g}"
    if as_is > 0.03**2 and signed < min(as_is / 9, 0.15**2) and (dark or close):
        raise ContractError(f"{spans}: of range -1..1", f"{RETURN}: y / 2 + 0.5")
    far = low < -4 or high > 5
    if far and wild > WILD:
        cure = ": y / 255" if low > -32 and 5 < high < 288 else ""
        raise ContractError(f"{spans}: not of range 0..1", RETURN + cure)
    gain, offset = _line(made, given)
    if not 0 <= gain <= 3 and outside > 0.02:
        raise ContractError(f"{spans}: {gain:.3g} times the frame {offset:+.3g}", RETURN)
    if 0 < gain < 0.02:
        raise ContractError(f"{spans}: {gain:.3g} times the frame, too dark to be one", RETURN)
    if as_is > 0.03**2:
        for what, turned in _TURNED.items():
            if float((turned(made) - given).square().mean()) < as_is / 16:
                raise ContractError(f"{where}: output is the frame {what}", RETURN)


def _line(made: torch.Tensor, given: torch.Tensor) -> tuple[float, float]:
    """(gain, offset) by which one picture is made of the other; (1, 0) where none fits closely."""
    x, y = given - given.mean(), made - made.mean()
    both, own, theirs = (float((a * b).mean()) for a, b in ((x, y), (x, x), (y, y)))
    if own < 0.02**2 or both**2 < 0.95 * own * theirs or theirs == 0:
        return 1.0, 0.0
    return both / own, float(made.mean() - both / own * given.mean())
