"""Programs of others as processes: started, watched, and ended with all that they started."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Self

from vsrbench.core.errors import ContractError, DataError, MissingError, UserError, WriteError
from vsrbench.core.families import MARK, end_family, new_mark
from vsrbench.core.files import name_partial
from vsrbench.core.nvml import tree_mib
from vsrbench.core.processes import describe_exit
from vsrbench.core.variables import COMMANDS, logs_folder

"""Variable that names the user's table of programs."""
_POLL_S = 0.05
_GRACE_S = 5.0


@dataclass(frozen=True)
class Usage:
    """What a program used, over its whole process tree."""

    seconds: float
    """Wall time from start to exit, or from a request to its answer."""
    rss_peak_mib: float | None
    """Peak of the summed resident memory; None where /proc is not there."""
    vram_peak_mib: float | None
    """Peak of the summed device memory by NVML; None without."""
    joules: float | None = None
    """What a counter of energy went up by; None when none was given."""


def execute(
    name: str,
    argv: Sequence[str],
    cwd: Path,
    timeout_s: float,
    device: str,
    counter: Callable[[], float] | None = None,
    path: Sequence[Path] = (),
    place: Path | None = None,
) -> Usage:
    """Run a program in `cwd`; all that it starts ends with this call.

    device: a torch device; with a number, the only GPU that the program sees. counter: reads energy
    in J, for `Usage.joules`. path: folders that it imports from, besides `cwd`. place: folder that
    gets `command.txt`, and `log.txt`, all that it said, if it fails. Raises MissingError
    if it cannot be started, ContractError with the last line of its stderr if it fails, or if it
    takes longer than `timeout_s`.
    """
    before, started = counter() if counter else 0.0, time.perf_counter()
    if place is not None:
        (place / "command.txt").write_text(f"cd {shlex.quote(str(cwd))} && {shlex.join(argv)}\n")
    with _Program(name, argv, cwd, device, path) as program:
        try:
            rss, vram = program.watch(lambda: False, started + timeout_s, timeout_s)
            if program.process.returncode:
                raise program.failure("run it by hand: command.txt beside its log")
        except ContractError:
            program.save_log(place)
            raise
    seconds = time.perf_counter() - started
    return Usage(seconds, rss, vram, counter() - before if counter else None)


class Worker:
    """A program that stays, with its model loaded, and answers one request after the other.

    It runs worker.py, which says what goes over the wire. Ends with this object, or with us.
    """

    def __init__(
        self, name: str, argv: Sequence[str], cwd: Path, device: str, path: Sequence[Path] = ()
    ) -> None:
        self.name = name
        self._program = _Program(name, argv, cwd, device, path, answers=True)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._program.process.stdout
        assert stdout is not None
        threading.Thread(target=_pump, args=(stdout, self._lines), daemon=True).start()
        self.close = weakref.finalize(self, self._program.end)

    @property
    def alive(self) -> bool:
        """Whether it can be asked: not after a failure that ended it."""
        return self._program.process.poll() is None

    def ask(
        self,
        values: Mapping[str, Any],
        timeout_s: float,
        counter: Callable[[], float] | None = None,
        place: Path | None = None,
    ) -> Usage:
        """Send one request and wait for its answer.

        place: folder that gets `log.txt`, all that it has said so far, if it fails.
        Raises ContractError for an error that is the answer, for a program that ended, and, having
        ended it, for one that took longer than `timeout_s`.
        """
        try:
            return self._ask(values, timeout_s, counter)
        except ContractError:
            self._program.save_log(place)
            raise

    def _ask(
        self, values: Mapping[str, Any], timeout_s: float, counter: Callable[[], float] | None
    ) -> Usage:
        before, started = counter() if counter else 0.0, time.perf_counter()
        stdin = self._program.process.stdin
        assert stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # its last line tells why
                stdin.write(json.dumps(values).encode() + b"\n")
                stdin.flush()
            rss, vram = self._program.watch(
                lambda: not self._lines.empty(), started + timeout_s, timeout_s
            )
        except BaseException:
            self.close()
            raise
        seconds = time.perf_counter() - started
        try:
            answer = json.loads(self._lines.get(timeout=_GRACE_S))
        except (queue.Empty, ValueError):
            if self.alive:  # it should say nothing but answers
                self.close()
            raise self._program.failure("it ended without an answer") from None
        if error := answer.get("error"):
            raise ContractError(f"'{self.name}' failed: {str(error)[:300]}", "see its log")
        return Usage(seconds, rss, vram, counter() - before if counter else None)


def _pump(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        lines.put(line)


class _Program:
    """A process group that was started; as a context it is ended."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        cwd: Path,
        device: str,
        path: Sequence[Path],
        answers: bool = False,
    ) -> None:
        self.name, self.mark = name, new_mark()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # until it is over
        # What an environment brings as commands comes first, as if it were activated.
        own = os.pathsep.join((str(Path(argv[0]).parent), os.environ.get("PATH", os.defpath)))
        imports = os.pathsep.join(map(str, dict.fromkeys((cwd, *path))))
        # Python would keep what was printed, and lose it where it crashes or is ended.
        said = {"PYTHONUNBUFFERED": "1"}
        try:
            self.process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=os.environ
                | said
                | {"PYTHONPATH": imports, "PATH": own, MARK: self.mark}
                | _visible(device),
                stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                stdout=subprocess.PIPE if answers else self.log,
                stderr=self.log,
                start_new_session=True,
            )
        except OSError as error:
            self.log.close()
            raise MissingError(
                f"'{name}' cannot be started: {argv[0]}: {error.strerror}", f"correct ${COMMANDS}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def watch(
        self, enough: Callable[[], bool], until: float, timeout_s: float
    ) -> tuple[float | None, float | None]:
        """Wait until it has ended or it is `enough`; gives the peaks of RSS and VRAM in MiB."""
        rss: float | None = None
        vram: float | None = None
        while self.process.poll() is None and not enough():
            now = tree_mib(self.process.pid)
            rss, vram = _larger(rss, now[0]), _larger(vram, now[1])
            if time.perf_counter() > until:
                raise ContractError(
                    f"'{self.name}' did not end within {timeout_s:.0f} s",
                    f"raise timeout_s in its table in ${COMMANDS}",
                )
            time.sleep(_POLL_S)
        return rss, vram

    def failure(self, hint: str) -> ContractError:
        """The error of a program that has ended: how, and the last line that it wrote."""
        code = self.process.wait()
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 4096))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()[:200]}" if lines else ""
        return ContractError(f"'{self.name}' failed with {describe_exit(code)}{last}", hint)

    def save_log(self, place: Path | None) -> None:
        """Write all that it has said so far to `log.txt` in a folder."""
        if place is not None:
            self.log.seek(0)
            with (place / "log.txt").open("wb") as file:
                shutil.copyfileobj(self.log, file)

    def end(self) -> None:
        """End it, and all that it has started: politely, and after a while by force."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        end_family(self.mark)
        self.process.kill()
        self.process.wait()


@contextmanager
def make_workplace(name: str, secrets: Mapping[str, str]) -> Iterator[Path]:
    """A folder for what a program is given, gives back and says. Where it fails, it is kept.

    It lies in `logs_folder`, which a run has in its results. The error then names it, and no longer
    what `secrets`, the user's table, and variables of tokens hold.
    """
    logs = logs_folder()
    kept = logs / f"{name}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{token_hex(2)}"
    place = name_partial(kept)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise WriteError(f"cannot write {logs}: {error.strerror}") from error
    try:
        yield place
    except WriteError:
        raise
    except UserError as error:
        if isinstance(error, ContractError | DataError):
            file = place / "command.txt"
            if file.is_file():
                file.write_text(file.read_text().replace(str(place), str(kept)))
            place.rename(kept)
            error.hint += f"{'; ' if error.hint else ''}its log and input: {kept}"
        error.message, error.hint = (mask_secrets(x, secrets) for x in (error.message, error.hint))
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


_TOKEN = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", re.IGNORECASE)


def mask_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """A text with the names of secrets and of variables of tokens where their values were."""
    named = {f"{{{key}}}": value for key, value in secrets.items()}
    named |= {f"${key}": value for key, value in os.environ.items() if _TOKEN.search(key)}
    for key, value in sorted(named.items(), key=lambda item: -len(item[1])):
        if len(value) > 3:
            text = text.replace(value, key)
    return text


def _visible(device: str) -> dict[str, str]:
    """The variable that leaves a program one of the GPUs, where `device` names one."""
    index = device.partition(":")[2]
    if not index:
        return {}
    name = "CUDA_VISIBLE_DEVICES"
    seen = os.environ.get(name, "").split(",")
    return {name: seen[int(index)] if int(index) < len(seen) and seen[0] else index}


def _larger(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)
