"""Jobs to records: one mechanism hands them to workers, whatever these are.

A worker of this machine is a process on a device, which keeps the method loaded. What its code does
to it fails one job: another process takes its place.
"""

from __future__ import annotations

import gc
import importlib
import os
import queue
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from vsrbench.core import env, processes, variables
from vsrbench.core.errors import ContractError, UserError, missing_package
from vsrbench.core.processes import Died, Process
from vsrbench.core.types import Measurement, Method, MethodCard, Record, Size
from vsrbench.run import cost
from vsrbench.run.devices import pick_devices
from vsrbench.run.evaluate import Context, Spent, evaluate
from vsrbench.run.method import foreign_error, load_method, no_tf32
from vsrbench.run.plan import Job

if TYPE_CHECKING:
    from vsrbench.flow.estimators import Estimator

P = ParamSpec("P")
T = TypeVar("T")


class Watcher(Protocol):
    """Receives progress callbacks."""

    def start(self, label: str) -> None:
        """A job begins."""

    def tick(self) -> None:
        """One more frame is done."""

    def say_once(self, text: str) -> None:
        """A line that a user should see; repeats are expected."""


@dataclass(frozen=True)
class RunContext:
    """What the jobs of a run share, wherever they run."""

    run_id: str
    needs_flow: bool
    """Some metric asks for motion that is not known."""
    cache: Path
    """Folder of cached flow fields."""
    logs: Path
    """Folder of what programs of others said and were given, where they failed."""
    preset: str = ""
    """Preset of metrics that was asked for."""
    limit_s: int | None = None
    """Seconds after which a job is given up."""


@dataclass(frozen=True)
class Found:
    """What came of a job."""

    records: list[Record]
    error: UserError | None = None
    """What `evaluate` raised beside them."""
    spent: Spent = field(default_factory=Spent)
    """Where time went."""
    lost: str = ""
    """What the device answers to every call since a kernel failed in the process."""


Done = tuple[Job, Found]
FRAME = "frame"
"""What a worker tells after a frame, beside lines for the user."""


class Worker(Protocol):
    """Does one job at a time."""

    def submit(self, job: Job, told: Callable[[str], None]) -> Future[Found]:
        """Have it do a job. The future raises Died when the worker did not survive it."""

    def end(self) -> None:
        """End it now, and all that it has started."""


def label(job: Job) -> str:
    """What a job is called."""
    name = "/".join(Path(job.card.source).parts[-2:]) or job.card.name
    return f"{name}  {job.clip.dataset}/{job.clip.name}"


DEATHS = 3
"""A method that ends so many workers in all, or crashes two on the same clip, is not run again."""
LOSSES = 3
"""A job with which so many places were lost, through no fault of its own, is given up."""

Start = Callable[[], Worker]
"""Makes a worker for one place, and another when that did not survive a job."""
Event = Start | UserError | tuple[int, str | Future[Found]]


class Lost(Exception):
    """A place is gone, and the worker with it: its machine, or the way there."""


def run(
    jobs: Sequence[Job],
    open_places: Callable[[Callable[[Start | UserError], None]], None],
    about: RunContext,
    watcher: Watcher,
) -> Generator[Done, None, None]:
    """Every job with what came of it: in order with one place, with several as they end.

    open_places: is given a function and tells it of each place, at once or later and from any
    thread; of a UserError when there will be none, which is raised. A place does one job at a time.
    What ended its worker is tried once more, after the other clips of its method, so that none of
    them depends on the order; what was lost with its place is tried `LOSSES` times.
    A worker stays for the jobs of one method, whose code may have changed anything in its process;
    the next method gets another. Where it can be, no two jobs of one clip run at a time: the motion
    of its reference is looked for by the first and kept for the others.
    """
    waiting = dict[tuple[str, int], deque[Job]]()
    for job in jobs:
        waiting.setdefault(_method(job), deque()).append(job)
    running = dict[int, Job]()
    at = dict[int, tuple[str, int]]()
    deaths, losses = Counter[str](), Counter[str]()
    banned = dict[str, tuple[str, str]]()
    events = queue.SimpleQueue[Event]()
    starts = dict[int, Start]()
    crew = dict[int, Worker]()
    serves = dict[int, tuple[str, int]]()
    number = count()

    def next_job(place: int) -> Job | None:
        others = {method for other, method in at.items() if other in running}
        clips = {_clip(job) for job in running.values()}
        for fits in (lambda m: m == at.get(place), lambda m: m not in others, lambda m: True):
            for method, left in waiting.items():
                if left and fits(method):
                    at[place] = method
                    able = (j for j in left if _clip(j) not in clips and not deaths[label(j)])
                    job = next(able, left[0])
                    left.remove(job)
                    return job
        return None

    def assign() -> Iterator[Done]:
        """Give idle places their next job; jobs that need no worker are done at once."""
        for place, start in starts.items():
            while place not in running and (job := next_job(place)):
                watcher.start(label(job))
                if job.card.name in banned:
                    why, likely = banned[job.card.name]
                    yield job, fail_job(job, ContractError(f"{why}: not run again", likely), about)
                elif job.error is not None or not (job.todo or job.keep):
                    yield job, fail_job(job, job.error, about)
                else:
                    if place in crew and serves[place] != _code(job):
                        crew.pop(place).end()
                    if place not in crew:
                        crew[place], serves[place] = start(), _code(job)
                    running[place] = job
                    future = crew[place].submit(job, partial(_pass_on, events, place))
                    future.add_done_callback(partial(_pass_on, events, place))

    try:
        if jobs:
            open_places(events.put)
        while running or any(waiting.values()):
            event = events.get()
            if isinstance(event, UserError):
                raise event
            if not isinstance(event, tuple):
                starts[next(number)] = event
                yield from assign()
                continue
            place, news = event
            if isinstance(news, str):
                if news == FRAME:
                    watcher.tick()
                else:
                    watcher.say_once(news)
                continue
            job, done = running.pop(place), None
            name, clip = job.card.name, label(job)
            try:
                found = news.result()
                done = job, found
                if found.lost:
                    crew.pop(place).end()
            except Died as died:
                crew.pop(place).end()
                deaths.update((name, clip))
                how = "was ended" if died.late else "crashed its process"
                why = f"'{name}' {how} on clip '{job.clip.name}' ({died.how})"
                if deaths[name] < DEATHS and deaths[clip] < 2 and not died.late:
                    watcher.say_once(f"{why}: tried once more, after the others")
                    waiting[_method(job)].append(job)
                else:
                    if not died.late or deaths[name] >= DEATHS:
                        banned[name] = why, died.likely
                    error = ContractError(why, LATE if died.late else died.likely)
                    done = job, fail_job(job, error.with_log(died.log), about)
            except Lost as lost:
                crew.pop(place).end()
                del starts[place]
                losses[clip] += 1
                why = f"'{name}' on clip '{job.clip.name}' was lost: {lost}"
                if losses[clip] < LOSSES:
                    watcher.say_once(f"{why}; it is done elsewhere")
                    waiting[_method(job)].appendleft(job)
                else:
                    done = (
                        job,
                        fail_job(job, ContractError(why, "run it again to retry"), about),
                    )
            except Exception as error:  # it could not even begin
                crew.pop(place).end()
                failure = foreign_error(f"'{name}'", f"on clip '{job.clip.name}'", error)
                done = job, fail_job(job, failure, about)
            if done and place not in crew:
                yield done
                yield from assign()
            else:  # the worker is at the next job while the caller writes
                yield from assign()
                if done:
                    yield done
    finally:
        _end(crew.values())


def _pass_on(events: queue.SimpleQueue[Event], place: int, news: str | Future[Found]) -> None:
    if isinstance(news, str | Future):  # else code of others has told it in our name
        events.put((place, news))


LATE = "give it more time with --timeout, or leave it out"


def _method(job: Job) -> tuple[str, int]:
    """What stays loaded from one job to the next."""
    return job.card.name, job.card.scale


def _clip(job: Job) -> tuple[str, str]:
    return job.clip.dataset, job.clip.name


def _code(job: Job) -> tuple[str, int]:
    """Whose code runs in the process of its worker; that of nobody where frames are there."""
    return ("", 0) if job.card.kind == "frames" else _method(job)


def _end(workers: Any) -> None:
    """End all at a time."""
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        list(pool.map(lambda worker: worker.end(), workers))


def fail_job(job: Job, error: UserError | None, about: RunContext) -> Found:
    """What comes of a job that cannot run, or has nothing to run."""
    context = Context(
        about.run_id, "cpu", None, about.cache, lambda: None, lambda _: None, about.preset
    )
    return _do_job(replace(job, error=error), _no_method, context)


def _no_method() -> Method:
    raise AssertionError("a job that has failed loads no method")


def _do_job(job: Job, method: Callable[[], Method], context: Context) -> Found:
    records: list[Record] = []
    context = replace(context, spent=Spent())  # of this job alone
    try:
        for record in evaluate(job, method, context):
            records.append(record)
    except UserError as error:
        return Found(records, error, context.spent)
    return Found(records, spent=context.spent)


class Crew:
    """The workers of a run on this machine: a process for each device, as a context.

    The first starts early, to import what it needs while the run is being planned.
    """

    hosts: Mapping[str, Any] = {}
    """Machines beside this one that have taken part."""

    def __init__(self) -> None:
        self._first: Process | None = None
        self._meter: Process | None = None

    def __enter__(self) -> Crew:
        self._first = self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker do what needs torch or code of others, which stay out of this process.

        The future raises as the work; MissingError where a package of ours is missing.
        """
        self._first = self._take()
        return self._first.submit(_name_missing_package, partial(work, *args, **kwargs))

    def _take(self) -> Process:
        process, self._first = self._first, None
        if process is None:
            process = Process()
            process.submit(importlib.import_module, __name__)
        return process

    def run(
        self, jobs: Sequence[Job], devices: Sequence[str], about: RunContext, watcher: Watcher
    ) -> Generator[Done, None, None]:
        """`run` on these torch devices; one that is named twice runs two jobs at a time."""

        def worker(device: str) -> Worker:
            return OnDevice(self._take(), device, len(devices), about)

        def open_places(tell: Callable[[Start | UserError], None]) -> None:
            for device in devices:
                tell(partial(worker, device))

        yield from run(jobs, open_places, about, watcher)

    def devices(self, asked: str | None) -> tuple[str, ...]:
        """The torch devices to use; a worker looks which are here. Raises as `pick_devices`."""
        if asked and {name.strip() for name in asked.split(",")} == {"cpu"}:
            return pick_devices(asked)
        return self.ask(pick_devices, asked).result()

    def find_accelerators(self) -> Future[dict[str, Any]]:
        """As `env.find_accelerators`, of what may be used here."""
        return self.ask(env.find_accelerators)

    def machine(self, device: str, logs: Path) -> dict[str, Any]:
        """What the cost of a method depends on besides; nothing of ours works when it returns."""
        found = self.ask(cost.machine, device).result()
        self._end_first()
        return found

    def prepare_measure(self) -> None:
        """Have what `measure` needs imported meanwhile."""
        if self._meter is None:
            self._meter = cost.start()

    def measure(
        self,
        card: MethodCard,
        size: Size,
        frames: int,
        device: str,
        logs: Path,
        timeout_s: float | None = None,
    ) -> Measurement:
        """As `cost.measure`."""
        process, self._meter = self._meter, None
        return cost.measure(card, size, frames, device, logs, timeout_s, process)

    def end(self) -> None:
        """End all, so that the devices are idle."""
        self._end_first()
        if self._meter is not None:
            self._meter.end()
            self._meter = None

    def _end_first(self) -> None:
        if self._first is not None:
            self._first.end()
            self._first = None


class OnDevice:
    """A worker that is a process of this machine."""

    def __init__(self, process: Process, device: str, share: int, about: RunContext) -> None:
        """share: how many there are, which divide the cores among them."""
        self._process, self._limit_s = process, about.limit_s
        process.submit(_begin, about, device, share)

    def submit(self, job: Job, told: Callable[[str], None]) -> Future[Found]:
        """Have it do a job."""
        return self._process.submit(_work, job, told=told, limit_s=self._limit_s)

    def end(self) -> None:
        """End it now, and all that it has started."""
        self._process.end()


class Loader:
    """The method in use: loaded when first needed, one at a time in memory."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._card: MethodCard | None = None
        self._method: Method | None = None

    def load(self, card: MethodCard) -> Method:
        """The method of this card. Raises UserError."""
        if self._method is None or card != self._card:
            self.drop()
            self._method = load_method(card, self.device)
            self._card = card
        return self._method

    def drop(self) -> None:
        """Let go of it and of all memory that is not in use."""
        import torch

        self._method = None
        gc.collect()
        torch.cuda.empty_cache()


_here: dict[str, Any] = {}
"""Of a process that works for another: what `_begin` and `_prepare` have made."""


def _name_missing_package(work: Callable[[], T]) -> T:
    try:
        return work()
    except ImportError as error:
        raise missing_package(error, "this command") from error


def _begin(about: RunContext, device: str, share: int) -> None:
    os.environ[variables.LOGS] = str(about.logs)
    _here.update(about=about, device=device, share=share, folder=Path.cwd())
    with suppress(UserError):  # which the first job raises again
        _prepare()


def _prepare() -> Context:
    """Once; it is a job that fails where this does. Raises UserError."""
    if "context" not in _here:
        about, device, share = _here["about"], _here["device"], _here["share"]
        try:
            import cv2
            import torch

            from vsrbench.flow.estimators import best_estimator

            threads = max(1, torch.get_num_threads() // share)
            if share > 1:
                torch.set_num_threads(threads)
            cv2.setNumThreads(threads)  # which looks at the cores alone, not at OMP_NUM_THREADS
            no_tf32()
            _here["loader"] = Loader(device)
            estimator = best_estimator(device) if about.needs_flow else None
        except ImportError as error:
            raise missing_package(error, "running methods") from error
        except Exception as error:
            raise foreign_error("flow", f"on {device}", error) from error
        _here["context"] = _context(about, device, estimator)
    context: Context = _here["context"]
    return context


def _context(about: RunContext, device: str, estimator: Estimator | None) -> Context:
    tell = processes.tell
    return Context(
        about.run_id, device, estimator, about.cache, partial(tell, FRAME), tell, about.preset
    )


def _work(job: Job) -> Found:
    """In a worker: a job. What it raises that is no Exception fails it like one."""
    about, device = _here["about"], _here["device"]
    os.chdir(_here["folder"])  # a method may have gone elsewhere
    try:
        context = _prepare()
    except UserError as error:
        return fail_job(job, error, about)
    try:
        found = _do_job(job, partial(_here["loader"].load, job.card), context)
    except processes.Ended:
        raise
    except BaseException as error:
        raised = foreign_error(f"'{job.card.name}'", f"on clip '{job.clip.name}'", error)
        found = fail_job(job, raised, about)
    if any(
        "ran out of memory" in (record.error or {}).get("message", "") for record in found.records
    ):
        _here["loader"].drop()
    return replace(found, lost=_lost(device))


def _lost(device: str) -> str:
    """What a GPU answers to every call of this process since a kernel failed in it; else ''.

    Memory that ran out is no such thing: there the next call can go well.
    """
    import torch

    if device != "cpu" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            return str(error).partition("\n")[0]
    return ""
