"""The connection to a Ray cluster: how it is started or joined, and what tells that it is gone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vsrbench.core.errors import MissingError, UserError, missing_package

LOCAL = "local"
"""The address of a cluster of this machine, started for a run."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # who asked for no GPU sees what there is
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",  # actors have workers of their own
}
"""Of a cluster that is started for a run."""
UNASKED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Processes of Ray for its dashboard, for machines to order, and for what workers print."""
LOCAL_STORE = 128 << 20
"""Bytes of its object store; what travels does so in pieces."""
REACH_S = 5.0
"""An address answers within this time."""
LOOK_S = 1.0
"""How often machines that come and go are looked for."""
EMPTY_S = 15.0
"""A cluster that has lost all its places, or its first machine, is given up after this time: well
before the minute after which Ray ends a process that cannot reach the latter."""
START = "start one: ray start --head; then on each other machine: ray start --address=HOST:6379"
TOKEN = "where it asks for a token: RAY_AUTH_MODE=token, and ~/.ray/auth_token as on its machines"
_PACKAGE = Path(__file__).resolve().parents[1]


def connect(address: str, workers: int, gpus: Callable[[], int]) -> Any:
    """Start Ray, or join it, and give its package. Raises MissingError, UserError.

    workers, gpus: of this machine, for a cluster that is started.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise missing_package(error, "--ray") from error
    options: dict[str, Any] = {}
    if address == LOCAL:
        found = gpus()
        options = {"num_gpus": found, "num_cpus": max(found, workers, 1)}
        options |= {"object_store_memory": LOCAL_STORE, "include_dashboard": False}
    else:
        reach(address)
    # It would print what machines log as they die; a line of ours says that they are gone.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    interrupts: list[int] = []

    def wait(number: int, _: object) -> None:
        if interrupts:
            raise KeyboardInterrupt
        interrupts.append(number)  # half a cluster does not end as it should

    # Ray has a handler of its own.
    handlers = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM)}
    node = ray._private.node.Node
    unasked = [name for name in UNASKED if address == LOCAL and hasattr(node, name)]
    aside = {name: getattr(node, name) for name in unasked}
    for name in aside:  # a third of the CPU time of the start
        setattr(node, name, lambda *_, **__: None)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            job_config=ray.job_config.JobConfig(code_search_path=[str(_PACKAGE.parent)]),
            **options,
        )
    except Exception as error:  # of any kind: a machine that is too busy is a bare one
        text = " ".join(str(error).split())[:300]
        with suppress(Exception):
            ray.shutdown()
        if interrupts:
            raise KeyboardInterrupt from error
        raise MissingError(
            f"Ray does not start or join ({address}): {text}",
            START if address == LOCAL else TOKEN,
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, start in aside.items():
            setattr(node, name, start)
    if interrupts:
        ray.shutdown()
        raise KeyboardInterrupt
    return ray


class Heartbeat:
    """Notices that the first machine is gone: what is asked of Ray then does not come back."""

    def __init__(self) -> None:
        self.gone: MissingError | None = None
        self.tell: Callable[[MissingError], None] | None = None
        """Is told, from another thread."""
        self._first, self._over = "", threading.Event()

    def start(self, ray: Any) -> None:
        """Begin, once it is connected."""
        self._first = ray.get_runtime_context().gcs_address
        threading.Thread(target=self._look, daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        seen = time.monotonic()
        while not self._over.wait(LOOK_S):
            try:
                reach(self._first)
                seen = time.monotonic()
            except MissingError as error:
                if time.monotonic() - seen > EMPTY_S:
                    text = f"the cluster is gone: {error.message}; finished work is kept"
                    self.gone = MissingError(text, START)
                    if self.tell is not None:
                        self.tell(self.gone)
                    return

    def settle(self) -> None:
        """Return once it answers. Raises MissingError when it is gone."""
        while self._first:
            if self.gone is not None:
                raise self.gone
            try:
                reach(self._first)
                break
            except MissingError:
                time.sleep(LOOK_S)

    def get(self, ray: Any, ref: Any) -> Any:
        """What a reference stands for. Raises as `settle`."""
        while not ray.wait([ref], timeout=LOOK_S)[0]:
            self.settle()
        return ray.get(ref)


def reach(address: str) -> None:
    """Raises UserError unless something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"'{address}' is not the address of a Ray cluster",
            "write it as HOST:PORT, on one of its machines; --ray alone starts one here",
        )
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise MissingError(f"no Ray cluster at {address}: {error}", START) from error
