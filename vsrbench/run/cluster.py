"""Workers on the machines of a Ray cluster. With `connection`, all that this package knows of Ray.

Ray places an actor on each device, carries messages and files, and says who is gone. Which job runs
where is decided by `executors.run`, as on one machine; what an actor does is `host.Host`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from vsrbench.cards.specs import ROOT
from vsrbench.core.errors import (
    ContractError,
    DataError,
    MissingError,
    UserError,
    WriteError,
)
from vsrbench.core.files import name_partial
from vsrbench.core.processes import Died
from vsrbench.core.progress import note
from vsrbench.core.types import Measurement, MethodCard, Size
from vsrbench.data import frames
from vsrbench.data.frames import FrameSource
from vsrbench.run.connection import EMPTY_S, LOOK_S, START, Heartbeat, connect
from vsrbench.run.executors import (
    LOSSES,
    Crew,
    Done,
    Found,
    Lost,
    RunContext,
    Start,
    Watcher,
    fail_job,
    run,
)
from vsrbench.run.host import About, Host, Received, Terms, pack, split_files, terms_of
from vsrbench.run.plan import Job, identify_made

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 10.0
"""Devices that others hold are spoken of after this time."""
ATTEMPTS = 3
"""An actor that does not get as far as its first answer is started again this often."""
LEAVE_S = 5.0
"""An actor tidies up within this time, or is ended without."""


@dataclass(eq=False)
class _Place:
    """An actor on a device of a machine."""

    node: str
    """Id of the machine."""
    host: str
    """Its address."""
    number: int
    """Which device of it."""
    actor: Any
    joining: Any = None
    """Reference to what `Host.join` answers."""
    state: Literal["joining", "working", "refused", "lost"] = "joining"
    busy: bool = False
    """A job is with it."""
    shared: bool = False
    """The results folder is there, too."""


class Cluster:
    """What `Crew` is for this machine, for those of a Ray cluster; a context.

    Jobs and costs run on its machines. What a run asks before, it asks a worker here, which is
    started when there is something to ask.
    """

    def __init__(self, address: str) -> None:
        """address: `local` to start one of this machine, or HOST:PORT of one that runs."""
        self.address = address
        self.hosts = dict[str, About]()
        """Machines that have taken part, by their ids."""
        self._crew = Crew()
        self._ray: Any = None
        self._digests = dict[tuple[Path, int], str]()
        self._places = list[_Place]()
        self._stop, self._heartbeat = threading.Event(), Heartbeat()
        self._alone: _Place | None = None
        self._machine: dict[str, Any] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._heartbeat.end()
        if self._ray is not None and self._heartbeat.gone is None:
            self._ray.shutdown()

    def ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Crew.ask`, on this machine."""
        return self._crew.ask(work, *args, **kwargs)

    def find_accelerators(self) -> Future[dict[str, Any]]:
        """None: what is here is not used but as a machine of the cluster, which tells of it."""
        found = Future[dict[str, Any]]()
        found.set_result({})
        return found

    def prepare_measure(self) -> None:
        """Nothing: it is not known yet which machine measures."""

    def end(self) -> None:
        """End all, so that the devices are idle; the cluster stays."""
        self._crew.end()
        self._clear()

    def devices(self, asked: str | None) -> tuple[str, ...]:
        """The devices to use of each machine: `cpu` as often as it is asked for, or each GPU.

        Starts or joins the cluster, whose places start while the run is being planned. Raises
        UserError, MissingError.
        """
        names = tuple(name.strip() for name in (asked or "").split(",") if name.strip())
        if names and set(names) != {"cpu"} and names != ("cuda",):
            raise UserError(
                f"--ray does not go with --device {asked}",
                "cuda for every GPU of each machine; cpu, or cpu,cpu for two workers on each",
            )
        gpus = (lambda: 0) if "cpu" in names else (lambda: self.ask(_gpus).result())
        self._ray = connect(self.address, len(names), gpus)
        self._heartbeat.start(self._ray)
        offered = sum(int(node["Resources"].get("GPU", 0)) for node in self._nodes())
        if names == ("cuda",) and not offered:
            raise MissingError(
                "--device cuda was asked for and no machine of the cluster offers a GPU to Ray",
                "join them with: ray start --num-gpus N",
            )
        devices = names or (("cuda",) if offered else ("cpu",))
        for node in self._nodes():
            for number in range(_count(node, devices)):
                self._open(devices, node, number)
        return devices

    def _nodes(self) -> list[dict[str, Any]]:
        self._heartbeat.settle()
        return [node for node in self._ray.nodes() if node["Alive"]]

    def run(
        self, jobs: Sequence[Job], devices: Sequence[str], about: RunContext, watcher: Watcher
    ) -> Generator[Done, None, None]:
        """`executors.run` on these devices of each machine that is there or comes meanwhile.

        Raises MissingError when none fits, or none is left.
        """
        watching: threading.Thread | None = None
        with _mark_folder(about.logs) as mark:

            def open_places(tell: Callable[[Start | UserError], None]) -> None:
                nonlocal watching
                self._stop.clear()
                self._heartbeat.tell = tell
                terms = terms_of(jobs, mark)

                def ready(place: _Place) -> None:
                    tell(lambda: _Remote(self._ray, place, about, self._digest))

                args = devices, terms, about, ready, tell, watcher
                watching = threading.Thread(target=self._watch, args=args, daemon=True)
                watching.start()

            try:
                yield from run(jobs, open_places, about, watcher)
            finally:
                self._stop.set()
                self._heartbeat.tell = None
                while watching is not None and watching.is_alive() and self._heartbeat.gone is None:
                    watching.join(LOOK_S)
                self._clear()

    def _digest(self, source: FrameSource) -> str:
        key = source.path, len(source)
        if key not in self._digests:
            self._digests[key] = frames.digest(source)
        return self._digests[key]

    def _open(
        self, devices: Sequence[str], node: dict[str, Any], number: int, alone: bool = False
    ) -> None:
        """Begin to fill a place; with `alone` it takes all CPUs of its machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share = _count(node, devices)
        cpus = node["Resources"].get("CPU", 0)
        own = cpus if alone else cpus // share or cpus / share
        gpu = devices[0] == "cuda"
        actor = (
            self._ray.remote(Host)
            .options(
                num_gpus=int(gpu),
                num_cpus=0 if gpu else own,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(devices[0], 1 if alone else share)
        )
        self._places.append(_Place(node["NodeID"], node["NodeManagerAddress"], number, actor))

    def _join(self, terms: Terms, about: RunContext) -> None:
        """Ask those that have not been asked to take part."""
        for place in self._places:
            if place.joining is None:
                place.joining = place.actor.join.remote(terms, about)

    def _watch(
        self,
        devices: Sequence[str],
        terms: Terms,
        about: RunContext,
        ready: Callable[[_Place], None],
        tell: Callable[[UserError], None],
        watcher: Watcher,
    ) -> None:
        """Keep an actor on each device of each machine, until told to stop."""
        tries, reasons = Counter[tuple[str, int]](), dict[str, None]()
        began = empty_since = time.monotonic()
        try:
            while not self._stop.is_set():
                held = {(p.node, p.number) for p in self._places if p.state != "lost"}
                for node in self._nodes():
                    for number in range(_count(node, devices)):
                        slot = node["NodeID"], number
                        if slot not in held and tries[slot] < ATTEMPTS:
                            tries[slot] += 1
                            self._open(devices, node, number)
                self._join(terms, about)
                refs = {p.joining: p for p in self._places if p.state == "joining"}
                found = self._ray.wait(list(refs), timeout=LOOK_S)[0] if refs else ()
                for ref in found:
                    if why := self._joined(refs[ref]):
                        reasons[why] = None
                        host, lost = refs[ref].host, refs[ref].state == "lost"
                        what = f"no worker started on {host}" if lost else f"{host} is left out"
                        if not self._stop.is_set():  # else it was us who ended it
                            watcher.say_once(f"{what}: {why}")
                    else:
                        tries[refs[ref].node, refs[ref].number] = 0
                        ready(refs[ref])
                states = {p.state for p in self._places}
                now = time.monotonic()
                if states & {"joining", "working"}:
                    empty_since = now
                elif "lost" not in states or now - empty_since > EMPTY_S:
                    raise MissingError(
                        "no machine of the cluster is left for these jobs; finished work is kept",
                        "; ".join(reasons) or START,
                    )
                if "working" not in states and now - began > PATIENCE_S:
                    watcher.say_once(
                        "waiting for machines of the cluster: they start, or are in use"
                    )
                if not found:
                    self._stop.wait(0 if refs else LOOK_S)
        except UserError as error:
            tell(error)
        except self._ray.exceptions.RayError as error:
            tell(MissingError(f"the cluster is gone: {_line(error)}; finished work is kept", START))

    def _joined(self, place: _Place) -> str:
        """Take what a machine answers; why it does not take part, or ''."""
        try:
            answer = self._ray.get(place.joining)
        except self._ray.exceptions.RayError as error:
            place.state = "lost"
            return _line(error)
        if isinstance(answer, str):
            place.state = "refused"
            self._ray.kill(place.actor)  # others may have a use for its device
            return answer
        self.hosts[place.node] = answer
        place.state, place.shared = "working", answer.shared
        return ""

    def _clear(self) -> None:
        """End all actors."""
        places, self._places, self._alone = self._places, [], None
        try:
            self._heartbeat.settle()
        except MissingError:
            return
        idle = [p for p in places if p.state == "working" and not p.busy]
        with suppress(Exception):
            leaving = [p.actor.leave.remote() for p in idle]
            if leaving:
                self._ray.wait(leaving, num_returns=len(leaving), timeout=LEAVE_S)
        for place in places:
            with suppress(Exception):
                self._ray.kill(place.actor)

    def machine(self, device: str, logs: Path) -> dict[str, Any]:
        """As `Crew.machine`: of the first machine of the cluster with an idle device, which is
        kept until `end`, and shared with nobody.

        Raises MissingError.
        """
        self._crew.end()
        if self._alone is not None:
            return self._machine
        self._clear()
        about = RunContext("", False, Path(), logs)
        with _mark_folder(logs) as mark:
            for node in self._nodes():
                if _count(node, [device]):
                    self._open([device], node, 0, alone=True)
            self._join(terms_of((), mark), about)
            reasons = dict[str, None]()
            says_at = time.monotonic() + PATIENCE_S
            while refs := {p.joining: p for p in self._places if p.state == "joining"}:
                self._heartbeat.settle()
                if time.monotonic() > says_at:
                    says_at = float("inf")
                    wanted = "a free GPU" if device == "cuda" else "a machine with all CPUs free"
                    hosts = ", ".join(sorted({p.host for p in refs.values()}))
                    note(f"waiting for {wanted} in the cluster: {hosts} in use, or starting")
                for ref in self._ray.wait(list(refs), timeout=LOOK_S)[0]:
                    if why := self._joined(refs[ref]):
                        reasons[f"{refs[ref].host}: {why}"] = None
                    else:
                        self._alone = refs[ref]
                        break
                if self._alone is not None:
                    break
        for place in self._places:
            if place is not self._alone:
                self._ray.kill(place.actor)
        if self._alone is None:
            raise MissingError(
                "no machine of the cluster can measure costs", "; ".join(reasons) or START
            )
        self._places = [self._alone]
        self._machine = self._heartbeat.get(self._ray, self._alone.actor.machine.remote())
        return self._machine

    def measure(
        self,
        card: MethodCard,
        size: Size,
        frames: int,
        device: str,
        logs: Path,
        timeout_s: float | None = None,
    ) -> Measurement:
        """As `Crew.measure`, on the machine of `machine`, or another of its kind if it is lost."""
        wanted = identify_made(card)
        if isinstance(wanted, UserError):
            raise wanted
        why = ""
        for _ in range(LOSSES):
            before = self._machine
            if self._alone is None and self.machine(device, logs) != before:
                break
            assert self._alone is not None
            try:
                measuring = self._alone.actor.measure
                found = self._heartbeat.get(
                    self._ray, measuring.remote(card, wanted, str(ROOT), size, frames, timeout_s)
                )
            except self._ray.exceptions.RayError as error:
                why = _line(error)
                self._clear()
                continue
            if isinstance(found, UserError):
                raise found
            measurement: Measurement = found
            return measurement
        raise ContractError(
            f"the machine that measured '{card.name}' was lost: {why}",
            "run it again to retry",
        )


class _Remote:
    """A worker that is an actor."""

    def __init__(
        self, ray: Any, place: _Place, about: RunContext, digest_of: Callable[[FrameSource], str]
    ) -> None:
        self._ray, self._place, self._about = ray, place, about
        self._digest_of = digest_of

    def submit(self, job: Job, told: Callable[[str], None]) -> Future[Found]:
        """Have it do a job; the future raises Died, Lost."""
        self._place.busy = True
        future = Future[Found]()

        def work() -> None:
            try:
                future.set_result(self._do(job, told))
            except BaseException as error:
                future.set_exception(error)

        # One that nobody waits for at the end: the cluster may be gone.
        threading.Thread(target=work, daemon=True).start()
        return future

    def end(self) -> None:
        """End it now, and all that it has started."""
        with suppress(Exception):
            if self._place.busy:
                self._place.state = "lost"
            if self._place.state == "lost":  # it may be at work all the same, out of reach
                killing = threading.Thread(target=self._kill, daemon=True)
                killing.start()
                killing.join(LEAVE_S)  # it takes longer when the cluster is gone
            else:
                self._ray.get(self._place.actor.end_worker.remote(), timeout=LEAVE_S)

    def _kill(self) -> None:
        with suppress(Exception):
            self._ray.kill(self._place.actor)

    def _do(self, job: Job, told: Callable[[str], None]) -> Found:
        errors = self._ray.exceptions
        try:
            parcel = pack(job, self._digest_of)
            found = self._asked(parcel.job, told)
            if not isinstance(found, Found):
                for lacking in found:
                    self._send(lacking, parcel.sources[lacking].files)
                found = self._asked(parcel.job, told)
            if not isinstance(found, Found):
                raise DataError(f"{self._place.host} does not keep what is sent to it", FULL)
            if job.keep and not self._place.shared:
                for folder in job.kept:
                    self._bring(folder, str(Path(job.place).with_name(folder.name)))
            return found
        except WriteError:
            raise
        except UserError as error:
            return fail_job(job, error, self._about)
        except errors.RayTaskError as error:  # it lives: something is wrong with its machine
            text = f"{self._place.host}: {_line(error.cause)}"
            return fail_job(job, ContractError(text, "see to that machine"), self._about)
        except errors.OutOfMemoryError as error:
            self._place.state = "lost"
            raise Died("Ray ended its worker, for its machine ran out of memory") from error
        except errors.RayError as error:
            self._place.state = "lost"
            raise Lost(f"{self._place.host}: {_line(error).partition(':')[0]}") from error
        finally:
            self._place.busy = False

    def _asked(self, parcel: bytes, told: Callable[[str], None]) -> Found | list[str]:
        """What came of a job, or the digests of what has to be sent first."""
        answer: Found | list[str] = []
        for ref in self._place.actor.do.remote(parcel):
            kind, value, lines = self._ray.get(ref)
            for line in lines:
                told(line)
            if kind == "died":
                raise Died(*value)
            if kind != "told":
                answer = value
        return answer

    def _send(self, digest: str, files: Sequence[Path]) -> None:
        """Files in pieces, each waited for, so that no two are in memory at a time."""
        actor = self._place.actor
        for number, (name, data) in enumerate(split_files(files)):
            self._ray.get(actor.take.remote(digest, number, name, data))
        self._ray.get(actor.finish_files.remote(digest))

    def _bring(self, folder: Path, place: str) -> None:
        """The frames that were kept there as `place`, into a folder. Raises WriteError."""
        kept = self._place.actor.send_kept.options(_generator_backpressure_num_objects=2)
        refs = iter(kept.remote(place))
        first = next(refs, None)
        if first is None:  # the job failed
            return
        beside = dict[str, bytes]()
        try:
            with Received(folder) as back:
                for ref in chain([first], refs):
                    name, data = self._ray.get(ref)
                    if Path(name).suffix in (".key", ".sha256"):
                        beside[name] = beside.get(name, b"") + data
                    else:
                        back.add(name, data)
            for name in sorted(beside, reverse=True):  # the key comes last: all is there
                folder.with_name(name).write_bytes(beside[name])
        except OSError as error:
            text = f"cannot write {folder}: {error.strerror}"
            raise WriteError(text, "free some space") from error


@contextmanager
def _mark_folder(folder: Path) -> Iterator[Path]:
    """A file in a folder of results, by which a machine sees whether it shares them."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = name_partial(folder / "here")
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()  # where nothing else is in it


def _count(node: dict[str, Any], devices: Sequence[str]) -> int:
    """How many places a machine has."""
    offered = node["Resources"]
    if devices[0] == "cuda":
        return int(offered.get("GPU", 0))
    return len(devices) if offered.get("CPU", 0) else 0


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _line(error: BaseException) -> str:
    """What an error of Ray says, in one line."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return (text[-1] if "Traceback" in str(error) else text[0])[:200]


FULL = "give it more with $VSRBENCH_CACHE_GIB"
