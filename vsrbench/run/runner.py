"""One run: plan, evaluate, measure cost, and record each result before anything else happens."""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench import __version__
from vsrbench.cards import sources
from vsrbench.cards.specs import GT_CARD
from vsrbench.core import env, keys
from vsrbench.core.errors import (
    FAILED,
    INTERRUPTED,
    MISSING,
    OK,
    MissingError,
    UserError,
    WriteError,
)
from vsrbench.core.files import remove_leftovers
from vsrbench.core.progress import Progress, counted, note, say_error
from vsrbench.core.types import Asked, Clip, MethodCard, MetricInfo, Record, Size
from vsrbench.core.variables import cache_folder
from vsrbench.data.datasets import Dataset
from vsrbench.flow.identity import best_identity
from vsrbench.metrics import depends_on, known_metrics, metric_info
from vsrbench.metrics.availability import all_unavailable
from vsrbench.metrics.requirements import TIMEOUT_S
from vsrbench.programs import command
from vsrbench.results.limits import is_out_of_memory
from vsrbench.results.store import Store
from vsrbench.results.summary import BASELINE, usual_size
from vsrbench.results.view import Places
from vsrbench.run import cost, executors
from vsrbench.run.evaluate import Spent, error_json, timestamp
from vsrbench.run.executors import Crew, Found
from vsrbench.run.method import set_scale
from vsrbench.run.plan import (
    Job,
    Made,
    describe_left_out,
    explain_unfit,
    identify_made,
    plan,
    scores_outputs,
)

if TYPE_CHECKING:
    from vsrbench.run.cluster import Cluster


@dataclass(frozen=True)
class RunConfig:
    """How a run is to be done."""

    root: Path
    """Folder of methods/ and datasets/."""
    devices: tuple[str, ...]
    """Torch devices of one kind, a process for each where there are several."""
    metrics: tuple[str, ...] = ()
    """Metrics asked for by name; empty for the defaults of each dataset."""
    keep_frames: bool = False
    """Keep outputs as PNG."""
    fresh: bool = False
    """Compute again what is on disk."""
    quiet: bool = False
    """No progress."""
    with_cost: bool = True
    """Measure cost at the most frequent size of each dataset."""
    verbose: bool = False
    """Show the tracebacks of what failed."""
    preset: str = ""
    """Preset of metrics that was asked for."""
    shard: tuple[int, int] = (0, 1)
    """Do part I of N parts of the work."""
    timeout_s: int | None = None
    """Seconds after which a method is given up on a clip, or in measuring its cost."""
    study: str = ""
    """The study that asked for it, as TOML: kept with the results."""
    began_s: float | None = None
    """When it began, on the monotonic clock; None: when the run is made."""

    @property
    def device(self) -> str:
        """The one that cost is measured on, and what needs a single one."""
        return self.devices[0]


class Run:
    """One run over methods and datasets; `counts` and `missing` tell how it went."""

    def __init__(self, config: RunConfig, store: Store, crew: Crew | Cluster | None = None) -> None:
        self.config, self.store, self.crew = config, store, crew or Crew()
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        self.counts = {"reused": 0, "ok": 0, "failed": 0, "skipped": 0}
        began_s = config.began_s
        self._began_s, self._spent = time.monotonic() if began_s is None else began_s, Spent()
        self._said = set[tuple[str, str]]()
        self._told = set[str]()
        """What was said before the jobs that it is of."""
        self.missing = False
        """Something that was asked for by name is not here."""
        self.asked: list[Asked] = []
        """All scores and costs asked for, new or reused."""
        command.forget_state()

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 something asked for is missing."""
        return FAILED if self.counts["failed"] else MISSING if self.missing else OK

    def describe_time(self) -> str:
        """Where the time since the start went: what is neither methods nor metrics is overhead.

        Metrics score beside the method that makes the next frame: theirs is the time beyond that.
        """
        wall, spent = time.monotonic() - self._began_s, self._spent
        if self.crew.hosts:  # their places come and go: there is no such rest
            return (
                f"time: {wall:.1f} s, in which the machines together took "
                f"{spent.methods:.1f} s for methods and {spent.metrics:.1f} s more for metrics"
            )
        places = len(self.config.devices)
        rest = wall * places - spent.methods - spent.metrics
        return (
            f"time: {f'{places} x ' * (places > 1)}{wall:.1f} s, of which methods took "
            f"{spent.methods:.1f} s, metrics {spent.metrics:.1f} s more, all else {rest:.1f} s"
        )

    def add(self, other: Run) -> None:
        """Count what another run did, on the way, as this one's."""
        for status, number in other.counts.items():
            self.counts[status] += number
        self.missing |= other.missing
        self._spent.methods += other._spent.methods
        self._spent.metrics += other._spent.metrics

    def report_unopened(self, error: UserError) -> None:
        """A dataset is not here or damaged: said and counted, the others go on."""
        say_error(error)
        if isinstance(error, MissingError):
            self.missing = True
        else:
            self.counts["failed"] += 1

    def go(
        self,
        cards: Sequence[MethodCard],
        sets: Sequence[Dataset],
        outputs: Iterable[tuple[MethodCard, Dataset]] = (),
    ) -> None:
        """Score and measure everything that is not on disk yet.

        outputs: frames that exist already, on clips of a dataset, and what stands for their method.
        """
        if not outputs:
            _refuse_scale(cards, sets)
        with self.keep_log():
            files = [need for card in cards for need in sources.needs_of_card(card)]
            sources.provide((n for n in files if n.place is None), note, TIMEOUT_S)
            self._run_quality(cards, sets)
            for card, dataset in outputs:
                self._run_quality([card], [dataset])
            for dataset in sets if self.config.with_cost else ():
                size = usual_size(clip.size for clip in dataset.clips)
                scales = [clip.scale for clip in dataset.clips if clip.size == size]
                if scales:
                    part, parts = self.config.shard
                    timeout_s = self.config.timeout_s
                    self.cost(cards[part::parts], size, scales[0], cost.FRAMES, timeout_s)

    @contextmanager
    def keep_log(self) -> Iterator[None]:
        """Around the work of a run: arguments, environment, counts and exit code go on record."""
        about: dict[str, Any] = {
            "run_id": self.id,
            "started": timestamp(),
            "argv": sys.argv[1:],
            "version": __version__,
            "device": ",".join(self.config.devices),
            "env": env.capture(self.config.root),
        }
        accelerators = self.crew.find_accelerators()
        remove_leftovers(self.store.logs, *self.store.frames.glob("*/*"))
        code = FAILED  # what Python makes of an exception that nobody catches
        stopped = True
        try:
            yield
            code, stopped = self.exit_code, False
        except UserError as error:
            code = error.exit_code
            raise
        except KeyboardInterrupt:
            code = INTERRUPTED
            raise
        finally:
            about["env"] |= _read_answer(accelerators)
            self.crew.end()
            asked = [entry.to_json() for entry in self.asked]
            end = {"finished": timestamp(), "counts": self.counts, "exit_code": code}
            study = {"study": self.config.study} if self.config.study else {}
            if hosts := self.crew.hosts:
                end["hosts"] = [asdict(host) for host in hosts.values()]
                used = (host.accelerators for host in hosts.values())  # this machine's are not
                about["env"] |= next(filter(None, used), {})
            with suppress(WriteError) if stopped else nullcontext():  # that goes up already
                self.store.append_run(about | end | study | {"asked": asked})

    def choose_metrics(self, dataset: Dataset) -> tuple[str, ...]:
        """The metrics of a dataset: asked for, its own defaults, or all that the data allows."""
        clips = dataset.clips
        return (
            self.config.metrics
            or dataset.spec.metrics
            or tuple(
                m.name
                for m in _default_metrics(clips)
                if not clips or any(explain_unfit(m, clip) is None for clip in clips)
            )
        )

    def _say_left_out(self, dataset: Dataset) -> None:
        """Which default metrics the frames of a dataset are too small or too few for."""
        if self.config.metrics or dataset.spec.metrics:
            return
        text = describe_left_out(_default_metrics(dataset.clips), dataset.clips)
        line = f"left out on {dataset.spec.name}: {text}"
        if text and line not in self._told:
            note(line)
            self._told.add(line)

    def _run_quality(self, cards: Sequence[MethodCard], sets: Sequence[Dataset]) -> None:
        asked = dict.fromkeys(name for dataset in sets for name in self.choose_metrics(dataset))
        for dataset in sets:
            self._say_left_out(dataset)
        reasons = all_unavailable(
            asked, lambda names: self.crew.ask(all_unavailable, names).result()
        )
        for why in reasons.values():
            note(f"missing: {why.message}\n  {why.hint}")
        self.missing |= bool(self.config.metrics and reasons)
        for name in self.config.metrics:
            whys = [
                explain_unfit(metric_info(name), clip) for dataset in sets for clip in dataset.clips
            ]
            if name not in reasons and whys and all(whys):
                note(f"not computed: {whys[0]}")
                self.missing = True
        flow = self._flow(asked, sets)
        depends = {name: depends_on(name) for name in asked}
        seen = self.store.seen()
        for line in self.store.notices:
            note(f"note: {line}")
        jobs: list[Job] = []
        asked_for: list[Asked] = []
        places = Places(seen.methods), Places(seen.sets)
        for dataset in sets:
            for name, error in dataset.broken.items():
                say_error(error)
                note(f"  clip '{name}' is recorded as failed; the rest of the run continues")
            for error in dict.fromkeys(dataset.unpaired.values()):
                names = [name for name, why in dataset.unpaired.items() if why is error]
                which = f": {', '.join(names)}" if len(names) > 1 else ""
                say_error(UserError(error.message + which, error.hint))
                self._told.add(error.message)
            more, asked_here = plan(
                cards,
                dataset,
                self.choose_metrics(dataset),
                reasons,
                {} if self.config.fresh else seen.done,
                self.store.frames,
                places,
                self.config.keep_frames,
                self.config.fresh,
                flow,
                depends,
            )
            jobs += more
            asked_for += asked_here
        self.asked += asked_for
        keys = {key for entry in asked_for for key in entry.keys.values()}
        self.counts["reused"] += len(keys) - sum(len(j.todo) + len(j.refused) for j in jobs)
        mine = self._make_shard_filter(cards, sets)
        jobs = [job for job in jobs if mine(job)]
        clips = counted(sum(len(d.clips) for d in sets), "clip")
        able = [job for job in jobs if job.error is None]
        note(
            f"plan: {counted(len(cards), 'method')}, {clips}; "
            f"{counted(self.counts['reused'], 'result')} on disk, "
            f"{sum(len(j.todo) for j in able):,} to compute in {counted(len(able), 'job')} "
            f"on {', '.join(self.config.devices)}"
        )
        frames = sum(j.clip.count for j in able if j.todo or j.keep)
        if self.config.with_cost and frames and not all(map(scores_outputs, cards)):
            self.crew.prepare_measure()  # where nothing is new, costs are on disk as well
        about = executors.RunContext(
            self.id,
            bool(flow),
            cache_folder() / "flow",
            self.store.logs,
            self.config.preset,
            self.config.timeout_s,
        )
        with (
            Progress(frames, len(jobs), self.config.quiet) as progress,
            closing(self.crew.run(jobs, self.config.devices, about, progress)) as results,
        ):
            for job, found in results:
                outcome = self._record(job, found, progress)
                told = job.error is not None and job.error.message in self._told
                progress.finish(executors.label(job), "" if told else outcome)

    def _make_shard_filter(
        self, cards: Sequence[MethodCard], sets: Sequence[Dataset]
    ) -> Callable[[Job], bool]:
        """Whether a job belongs to this shard: by names alone, whatever is on disk already.

        A method on a clip goes to the shard with the fewest frames so far: one method after the
        other, since one may take a thousand times as long as another, and long clips first.
        """
        part, parts = self.config.shard
        loads, place = [0] * parts, dict[str, int]()
        units = Counter[tuple[str, str]]()
        for card, dataset in product((GT_CARD, *cards), sets):
            for clip in dataset.clips:
                if card is not GT_CARD or clip.gt is not None:
                    units[card.name, _unit(card, dataset.spec.name, clip.name)] += clip.count
        for (_, unit), frames in sorted(units.items(), key=lambda u: (u[0][0], -u[1], u[0])):
            place[unit] = loads.index(min(loads))
            loads[place[unit]] += frames
        return lambda job: place.get(_unit(job.card, job.clip.dataset, job.clip.name), 0) == part

    def _flow(self, asked: Iterable[str], sets: Sequence[Dataset]) -> str:
        """Identity of the flow estimator; empty unless a metric needs motion that is not known."""
        needed = any("flow" in metric_info(name).needs for name in asked)
        exact = all(clip.flow is not None for dataset in sets for clip in dataset.clips)
        return best_identity() if needed and not exact else ""

    def _record(self, job: Job, found: Found, progress: Progress) -> str:
        """Record everything that came of a job; `ok`, or what went wrong."""
        if isinstance(found.error, WriteError):
            raise found.error
        self._spent.methods += found.spent.methods
        self._spent.metrics += found.spent.metrics
        self.store.append_all(found.records)
        for record in found.records:
            self.counts[record.status] += 1
        told: list[tuple[str, Mapping[str, str] | None]] = [
            (r.status, r.error) for r in found.records if r.metric not in job.refused
        ]
        if error := found.error or (None if job.todo else job.error):  # of which no record tells
            status = "skipped" if isinstance(error, MissingError) else "failed"
            told.append((status, error_json(error)))
            self.counts[status] += 1
        outcome = "ok"
        logs = dict[str, None]()
        for status, why in told:
            if why is None:
                continue
            if status == "failed":
                outcome = f"FAILED: {why['message']}"
                logs[why.get("log", "")] = None
            else:
                self.missing = True
                if outcome == "ok":
                    outcome = f"skipped: {why['message']} ({why['hint']})"
        said = job.card.name, outcome
        if said in self._said:  # such as a checkpoint that does not fit
            outcome = f"{outcome.partition(':')[0]}: for the same reason as before"
        elif outcome != "ok":
            self._said.add(said)
        if self.config.verbose:
            for log in filter(None, logs):
                progress.line(log.rstrip())
        return outcome

    def _append(self, record: Record) -> None:
        self.store.append(record)
        self.counts[record.status] += 1

    def cost(
        self,
        cards: Sequence[MethodCard],
        size: Size,
        scale: int,
        frames: int,
        timeout_s: float | None = None,
    ) -> None:
        """Measure every card that has no figure for this LQ size on this machine yet.

        timeout_s: after which a method is given up, which is on record as its failure.
        """
        done = {} if self.config.fresh else self.store.seen().done
        machine = self.crew.machine(self.config.device, self.store.logs)
        for card in cards:
            made_by, error, measurement = Made(), None, None
            try:
                card = set_scale(card, scale)
            except UserError as failure:
                error = failure
            else:
                found = identify_made(card)
                made_by, error = (Made(), found) if isinstance(found, UserError) else (found, None)
            sha, code = made_by.weights_sha256, made_by.code
            key = keys.cost_key(card, sha, code, size, frames, machine)
            self.asked.append(Asked(card.name, {"cost": key}, card.source, size=size))
            if error is None:
                if done.get(key) == "":
                    self.counts["reused"] += 1
                    continue
                note(f"cost: {card.name} at {size[1]}x{size[0]}, {counted(frames, 'frame')}")
                try:
                    with self._spent.count("methods"):
                        measurement = self.crew.measure(
                            card, size, frames, self.config.device, self.store.logs, timeout_s
                        )
                except UserError as failure:
                    error = failure
            told = error_json(error) if error else None
            if error and told:
                say_error(error)
                if self.config.verbose and "log" in told:
                    note(told["log"].rstrip())
            absent = isinstance(error, MissingError)
            self.missing |= absent
            self._append(
                Record(
                    key=key,
                    run_id=self.id,
                    at=timestamp(),
                    kind="cost",
                    status="ok" if error is None else "skipped" if absent else "failed",
                    method=card.name,
                    method_version=card.version,
                    title=card.title,
                    weights_origin=card.weights.origin,
                    weights_sha256=sha,
                    precision=card.precision,
                    settings=dict(card.settings),
                    frames=frames,
                    size=size,
                    scale=scale,
                    measurement=measurement,
                    error=told,
                    source=card.source,
                    code=code,
                )
            )

    def grid(
        self,
        cards: Sequence[MethodCard],
        sizes: Sequence[Size],
        scale: int,
        lengths: Sequence[int],
    ) -> list[Record]:
        """Measure cost at each size and number of frames; the records come back.

        Where memory ran out, what is no smaller in both is not tried.
        """
        ended: list[tuple[str, int, int]] = []
        found: list[Record] = []
        for frames in sorted(lengths):
            for size in sorted(sizes, key=lambda s: s[0] * s[1]):
                area = size[0] * size[1]
                for card in cards:
                    if any(n == card.name and a <= area and f <= frames for n, a, f in ended):
                        continue
                    self.cost([card], size, scale, frames, self.config.timeout_s)
                    record = self.store.latest()[self.asked[-1].keys["cost"]]
                    found.append(record)
                    if is_out_of_memory(record):
                        ended.append((card.name, area, frames))
        return found


def _default_metrics(clips: Sequence[Clip]) -> list[MetricInfo]:
    """The metrics that are computed unasked, where the frames allow it.

    Outputs without GT and LQ leave no reference to take motion from: their own has to serve.
    Without GT, PIQE, which needs neither GT nor weights, is among them.
    """
    no_gt = bool(clips) and all(clip.gt is None for clip in clips)
    alone = no_gt and not any(clip.lq for clip in clips)
    more = [*["ewarp_self"] * alone, *["piqe"] * no_gt]
    return [m for m in known_metrics().values() if m.default or m.name in more]


def _refuse_scale(cards: Sequence[MethodCard], sets: Sequence[Dataset]) -> None:
    """Raise UserError where none of the methods but the baseline has the scale of any clip."""
    scales = list(dict.fromkeys(clip.scale for dataset in sets for clip in dataset.clips))
    own = [card for card in cards if card.name != BASELINE]
    if own and scales and not any(card.scale in (0, *scales) for card in own):
        set_scale(own[0], scales[0])


def _unit(card: MethodCard, dataset: str, clip: str) -> str:
    """What a shard holds whole: of names, for paths may differ between machines."""
    return keys.digest([card.name, dataset, clip])


def _read_answer(future: Future[dict[str, Any]]) -> dict[str, Any]:
    """What a worker said; nothing where it has not, or could not."""
    with suppress(Exception):
        return future.result(timeout=10)
    return {}
