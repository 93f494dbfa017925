"""`python -m vsrbench` and `vsrbench`: the command line.

An interrupt while it is being imported ends it without a traceback, as one does later.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Run the command line; the exit code comes back."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    for number, handler in zip(_SIGNALS, before, strict=True):
        if handler != signal.SIG_IGN:
            signal.signal(number, _stop)
    from vsrbench import cli

    for number, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(number, handler)
    return cli.main()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
