"""One place on a machine of a cluster, as the driver of a run sees it: what arrives, and who works.

Nothing here knows of the engine that calls it. Foreign code runs in a process of its own, as it
does on the driver's machine, so that what crashes there fails one job.
"""

from __future__ import annotations

import io
import os
import pickle
import platform
import queue
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vsrbench import __version__
from vsrbench.cards.specs import ROOT
from vsrbench.core.env import PACKAGES, core_count, device_name, find_accelerators
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.files import content, list_below, name_partial, remove_leftovers
from vsrbench.core.keys import digest
from vsrbench.core.processes import Died, Process, warm_up
from vsrbench.core.types import Measurement, MethodCard, Size
from vsrbench.core.variables import cache_folder, cache_limit_gib
from vsrbench.data import frames
from vsrbench.data.frames import FrameSource
from vsrbench.flow.identity import best_identity
from vsrbench.metrics import depends_on
from vsrbench.metrics.availability import all_unavailable
from vsrbench.programs import command
from vsrbench.run import cost
from vsrbench.run.executors import Found, OnDevice, RunContext
from vsrbench.run.plan import EXACT_FLOW, Job, Made, identify_made

PIECE = 8 << 20
"""Bytes of files that travel at a time."""
CACHE_GIB = 20.0
"""What files that came may take for each place, unless $VSRBENCH_CACHE_GIB says otherwise."""
TELL_S = 0.25
"""What a worker tells is handed on this often."""


def read_own_state() -> dict[str, str]:
    """What the software of two machines must agree in: versions, and the code of vsrbench."""
    found = {"python": platform.python_version(), "vsrbench": __version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    package = Path(__file__).resolve().parents[1]
    aside = {"methods", "datasets"}  # in a wheel; cards are compared one by one
    code = [
        (name, content(file))
        for name, file in list_below(package, lambda name: name in aside)
        if name.endswith(".py")
    ]
    return found | {"code of vsrbench": digest(code)}


@dataclass(frozen=True)
class Terms:
    """What a machine must have to take part in a run."""

    state: Mapping[str, str]
    """`read_own_state` of the driver."""
    cards: Sequence[tuple[MethodCard, Made]]
    """The methods, and what their frames come from."""
    depends: Mapping[str, str]
    """Metric -> what it depends on besides."""
    flow: str
    """Identity of the flow estimator; empty where none is needed."""
    root: str
    """Folder of the methods that ship, on the driver's machine."""
    folder: str
    """Where the driver was started."""
    mark: str
    """A file in the results folder, which is shared where a machine finds it."""


def terms_of(jobs: Sequence[Job], mark: Path) -> Terms:
    """What these jobs ask of a machine."""
    able = [job for job in jobs if job.error is None]
    cards = {
        (job.card.name, job.card.source, job.card.scale): (job.card, job.made_by)
        for job in able
        if job.card.kind != "frames"
    }
    flows = {job.flow for job in able if any("flow" in m.needs for m in job.todo)}
    return Terms(
        read_own_state(),
        list(cards.values()),
        {metric.name: job.depends[metric.name] for job in able for metric in job.todo},
        next(iter(flows - {EXACT_FLOW, ""}), ""),
        str(ROOT),
        str(Path.cwd()),
        str(mark),
    )


@dataclass(frozen=True)
class About:
    """What a machine says of itself."""

    host: str
    """Its name."""
    python: str
    """Version of Python."""
    cores: int
    """CPU cores that it may use."""
    device: str
    """Name of the GPU or CPU that is worked on."""
    shared: bool
    """The results folder is there, too."""
    accelerators: Mapping[str, Any]
    """`env.find_accelerators` of it."""


class Host:
    """One device of a machine, for a run. All methods are called one after the other."""

    def __init__(self, device: str, share: int) -> None:
        """share: how many such places the machine has, which divide its cores among them."""
        self.device, self.share = device, share
        if b"OMP_NUM_THREADS=" not in Path("/proc/self/environ").read_bytes():
            os.environ.pop("OMP_NUM_THREADS", None)  # the engine's guess
        with suppress(OSError):  # who is nice to everybody measures how busy a machine is
            nice = os.getpriority(os.PRIO_PROCESS, os.getppid())
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        warm_up()
        self._worker: OnDevice | None = None
        self._terms: Terms | None = None
        self._about: RunContext | None = None
        self._shared = False
        self._arriving = Path()
        self._at = dict[str, Path | None]()
        places = cache_folder() / "places"
        remove_leftovers(places)  # of those that were killed
        self._scratch = name_partial(places / "place")

    # What the driver asks first

    def join(self, terms: Terms, about: RunContext) -> About | str:
        """What this machine is, or why it cannot take part."""
        with suppress(OSError):  # relative paths mean the same where they mean something
            os.chdir(terms.folder)
        if why := self._explain_unfit(terms):
            return why
        self._terms, self._shared = terms, Path(terms.mark).exists()
        logs = about.logs if self._shared else cache_folder() / "logs"
        self._about = replace(about, cache=cache_folder() / "flow", logs=logs)
        process = Process()
        try:
            name = process.submit(device_name, self.device).result()
            accelerators = process.submit(find_accelerators).result()
        finally:
            process.end()
        python, cores = platform.python_version(), core_count()
        return About(socket.gethostname(), python, cores, name, self._shared, accelerators)

    def _explain_unfit(self, terms: Terms) -> str:
        own = read_own_state()
        for name in sorted({*own, *terms.state}):
            theirs, ours = terms.state.get(name, "none"), own.get(name, "none")
            if theirs != ours:
                return f"{name} is {ours} there and {theirs} here"
        command.forget_state()
        for card, wanted in terms.cards:
            if why := explain_difference(card, wanted, terms.root):
                return why
        process = Process()
        try:
            missing = all_unavailable(
                terms.depends, lambda names: process.submit(all_unavailable, names).result()
            )
        finally:
            process.end()
        for lacks in missing.values():
            return f"{lacks.message} there"
        for name, depends in terms.depends.items():
            if (found_there := depends_on(name)) != depends:
                return f"'{name}' depends on {found_there} there and on {depends} here"
        if terms.flow and (flow := best_identity()) != terms.flow:
            return f"the flow estimator is {flow} there and {terms.flow} here"
        return ""

    # A job

    def do(self, parcel: bytes) -> Iterator[tuple[str, Any, list[str]]]:
        """Do a job: ("told", None, lines) on the way, then ("done", Found, lines) or ("died",
        (how, log, late), lines) with the lines since.

        Where files have to be sent first: ("lacks", digests, []), and nothing else.
        """
        assert self._terms
        assert self._about
        lacking = dict[str, None]()
        job = self._unpack(parcel, lacking)
        if lacking:
            yield "lacks", list(lacking), []
            return
        if self._worker is None:
            self._worker = OnDevice(Process(), self.device, self.share, self._about)
        news = queue.SimpleQueue[str | Future[Found]]()
        self._worker.submit(job, news.put).add_done_callback(news.put)
        while True:
            lines, ended, until = list[str](), None, time.monotonic() + TELL_S
            with suppress(queue.Empty):
                while ended is None:
                    left = until - time.monotonic()
                    found = news.get(timeout=max(left, 0.0)) if lines else news.get()
                    if isinstance(found, str):
                        lines.append(found)
                    else:
                        ended = found
            if ended is not None:
                break
            yield "told", None, lines
        try:
            yield "done", ended.result(), lines
        except Died as died:
            yield "died", (died.how, died.log, died.late), lines

    def _unpack(self, parcel: bytes, lacking: dict[str, None]) -> Job:
        """The job as it is here; the digests of files that are not here join `lacking`."""
        assert self._terms
        job: Job
        job, kept, mark = _Unpacker(
            parcel, lambda digest, data: self._found(digest, data, lacking)
        ).load()
        at = job.frames if self._shared else self._scratch / "frames" / job.place
        card = relocate_card(job.card, self._terms.root)
        if kept and mark and not frames.mark_path(kept.path).is_file():
            frames.write_mark(kept.path, mark)
        return replace(job, card=card, frames=kept.path if kept else at)

    def _found(self, wanted: str, data: bytes, lacking: dict[str, None]) -> FrameSource:
        """Frames by their path where the same files are there, else those that have come."""
        source: FrameSource = pickle.loads(data)
        if wanted not in self._at:
            with suppress(UserError):
                if frames.digest(source) == wanted:
                    self._at[wanted] = None
        if wanted not in self._at:
            lacking[wanted] = None
            return source
        folder = self._at.pop(wanted)
        self._at[wanted] = folder  # the latest in use is the last
        return frames.relocate(source, folder) if folder else source

    def take(self, digest: str, number: int, name: str, data: bytes) -> None:
        """Piece `number` of the files that were lacking: the next bytes of one of them."""
        if number == 0:
            self._arriving = name_partial(self._scratch / "clips" / digest)
            self._arriving.mkdir(parents=True)
        with (self._arriving / name).open("ab") as file:
            file.write(data)

    def finish_files(self, digest: str) -> None:
        """All files of this digest have come. What was in use least lately goes to make room."""
        folder = self._scratch / "clips" / digest
        shutil.rmtree(folder, ignore_errors=True)
        self._arriving.rename(folder)
        self._at[digest] = folder
        came = {name: path for name, path in self._at.items() if path is not None}
        sizes = {name: sum(f.stat().st_size for f in path.iterdir()) for name, path in came.items()}
        for oldest in [name for name in came if name != digest]:
            if sum(sizes.values()) > cache_limit_gib(CACHE_GIB) * 2**30:
                shutil.rmtree(came[oldest], ignore_errors=True)
                del self._at[oldest], sizes[oldest]

    # What came of it

    def send_kept(self, place: str) -> Iterator[tuple[str, bytes]]:
        """The files that a job has kept here and the driver does not see: (name, next bytes)."""
        folder = self._scratch / "frames" / place
        if not self._shared and frames.mark_path(folder).is_file():
            yield from split_files(sorted(folder.iterdir()))
            for file in (frames.digests_path(folder), frames.mark_path(folder)):
                yield from split_files([file])
                file.unlink()
            shutil.rmtree(folder)

    # Costs, with the machine idle otherwise

    def machine(self) -> dict[str, Any]:
        """As `cost.machine`."""
        process = Process()
        try:
            return process.submit(cost.machine, self.device).result()
        finally:
            process.end()

    def measure(
        self,
        card: MethodCard,
        wanted: Made,
        root: str,
        size: Size,
        frames: int,
        timeout_s: float | None,
    ) -> Measurement | UserError:
        """As `cost.measure`, of a method that is the same here."""
        assert self._about
        command.forget_state()
        if why := explain_difference(card, wanted, root):
            return MissingError(f"{why}: its cost was not measured", "bring both to one state")
        try:
            card = relocate_card(card, root)
            return cost.measure(card, size, frames, self.device, self._about.logs, timeout_s)
        except UserError as error:
            return error

    def end_worker(self) -> None:
        """End the worker; another one comes with the next job."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def leave(self) -> None:
        """End all and leave nothing behind."""
        self.end_worker()
        shutil.rmtree(self._scratch, ignore_errors=True)


def explain_difference(card: MethodCard, wanted: Made, root: str) -> str:
    """How a method is not what it is on the driver's machine, or ''."""
    found = identify_made(relocate_card(card, root))
    if isinstance(found, UserError):
        return f"{found.message} there"
    if found.weights_sha256 != wanted.weights_sha256:
        what = "program" if card.kind == "command" else "weights"
        return f"the {what} of '{card.name}' there and here differ"
    return "" if found.code == wanted.code else f"the code of '{card.name}' there and here differs"


def relocate_card(card: MethodCard, root: str) -> MethodCard:
    """A card of a method that ships, where the methods lie here; any other as it is.

    root: where they lie on the machine that it comes from.
    """
    if not Path(card.folder).is_relative_to(root):
        return card
    return replace(card, folder=str(ROOT / Path(card.folder).relative_to(root)))


@dataclass(frozen=True)
class Parcel:
    """A job on its way: its frames go by the digests of their files."""

    job: bytes
    sources: Mapping[str, FrameSource]
    """Digest -> the files, where the driver has them."""


def pack(job: Job, digest_of: Callable[[FrameSource], str]) -> Parcel:
    """A job for another machine. Raises UserError where its files cannot be read."""
    file = io.BytesIO()
    packer = _Packer(file, digest_of)
    kept = frames.open_frames(job.frames) if job.reuse else None
    packer.dump((job, kept, frames.read_mark(job.frames) if kept else None))
    return Parcel(file.getvalue(), packer.sources)


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, digest_of: Callable[[FrameSource], str]) -> None:
        super().__init__(file)
        self.sources = dict[str, FrameSource]()
        self._digest_of = digest_of

    def persistent_id(self, value: Any) -> tuple[str, bytes] | None:
        if not isinstance(value, FrameSource):
            return None
        found = self._digest_of(value)
        self.sources[found] = value
        return found, pickle.dumps(value)


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, found: Callable[[str, bytes], FrameSource]) -> None:
        super().__init__(io.BytesIO(data))
        self._found = found

    def persistent_load(self, named: tuple[str, bytes]) -> FrameSource:
        return self._found(*named)


def split_files(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(name, next bytes) of files, one after the other; of an empty file no bytes, once."""
    for path in files:
        with path.open("rb") as file:
            data = file.read(PIECE)
            yield path.name, data
            while data := file.read(PIECE):
                yield path.name, data


class Received:
    """A context: a folder whose files come in pieces, and that appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at = name_partial(folder)

    def __enter__(self) -> Received:
        self.at.mkdir(parents=True)
        return self

    def add(self, name: str, data: bytes) -> None:
        """The next bytes of a file."""
        with (self.at / Path(name).name).open("ab") as file:
            file.write(data)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.at.rename(self.folder)
        finally:
            shutil.rmtree(self.at, ignore_errors=True)
