"""Frames on their way to a device and back, while it computes: nobody waits for it.

On a GPU a frame is read and sent while those before it are computed, and fetched while the next is.
Both go through pinned memory on streams of their own; events say when a frame has arrived. Without
a GPU all of this happens in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def read_ahead(make: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """`make` of each index, the next one on a thread while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for index in indices:
            following = thread.submit(make, index)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


class Sender:
    """Tensors from the host to a device."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        self._stream = None if device == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, here: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """A tensor that is on its way, and the event of its arrival. On any thread."""
        import torch

        if self._stream is None:
            return here, None
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory keeps the buffer until the copy is done.
            there = here.pin_memory().to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        return there, arrived

    def receive(self, sent: tuple[torch.Tensor, Any]) -> torch.Tensor:
        """The tensor, for the stream of the caller, which waits for it and not the host."""
        import torch

        there, arrived = sent
        if arrived is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            there.record_stream(stream)  # its memory is that of another stream
        return there


class Fetcher:
    """Tensors from a device to the host."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, Any] = {}

    def fetch(self, *there: torch.Tensor) -> Callable[[], Sequence[torch.Tensor]]:
        """Have tensors of one device copied once they are computed; what comes back waits for it.

        They are pinned, and stay what they are for as long as somebody holds them.
        """
        import torch

        device = there[0].device
        if device.type != "cuda":
            return lambda: there
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        here = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in there]
        with torch.cuda.stream(stream):
            for x, y in zip(there, here, strict=True):
                y.copy_(x, non_blocking=True)
                x.record_stream(stream)  # it is not given to others before it is copied
            done.record(stream)

        def arrived() -> Sequence[torch.Tensor]:
            done.synchronize()
            return here

        return arrived
