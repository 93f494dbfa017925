"""Ray: the same scores on machines that differ in nothing, and one line about those that do."""

from __future__ import annotations

import builtins
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import gone, heed_interrupts
from tests.test_cli import Run, bench, run, write_clip  # noqa: F401
from tests.test_command import TOY
from tests.test_evaluate import job
from tests.test_executors import Fake, Unwatched, clips, deadly, marks, opened, scores
from vsrbench.cards.specs import ROOT, method_card
from vsrbench.core import variables
from vsrbench.core.errors import INTERRUPTED, MissingError
from vsrbench.data.frames import digest, mark_path, open_frames
from vsrbench.metrics import metric_info
from vsrbench.programs import command
from vsrbench.results.store import Store
from vsrbench.run import connection, executors, host
from vsrbench.run.cluster import Cluster, _Place, _Remote
from vsrbench.run.connection import ENVIRONMENT
from vsrbench.run.host import Host, Received, Terms, pack, split_files, terms_of
from vsrbench.run.method import set_scale
from vsrbench.run.plan import Job, identify_made, is_kept

BY_FOUR = TOY.replace("fx=2, fy=2", "fx=4, fy=4")


MACHINES = """
import sys
from ray.cluster_utils import Cluster
machine = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
cluster.add_node(**machine)
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
    for _ in range(3):
        try:
            cluster.add_node(**machine)
            print("again", flush=True)
            break
        except Exception as error:  # Ray gives a busy machine 30 s
            print(error, file=sys.stderr)
cluster.shutdown()
"""
"""The machines: a line on stdin ends the second one and starts it anew, its end ends both."""


class Machines:
    """Two machines on loopback, each with a device.

    They have a process of their own: when a start fails, Ray ends the group of processes of
    whoever asked for it, and a driver that has lost its cluster is ended, too.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", MACHINES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def replace(self) -> None:
        """End the second machine at once, and start it anew."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        assert self._read() == "again"

    def kill(self) -> None:
        """As when they lose their power."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """They know of a toy program."""
    pytest.importorskip("ray", reason="needs the extra ray")
    folder = tmp_path_factory.mktemp("machines")
    (folder / "repo").mkdir()
    (folder / "repo" / "toy.py").write_text(BY_FOUR)
    table = f'[program]\npython = "{sys.executable}"\nrepo = "{folder / "repo"}"\n'
    (folder / "commands.toml").write_text(table)
    theirs = {variables.COMMANDS: str(folder / "commands.toml"), variables.CACHE: str(folder)}
    theirs |= {"TMPDIR": str(folder), "RAY_TMPDIR": tempfile.gettempdir()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | theirs).items():
            patch.setenv(name, value)
        found = Machines()
        if not found.address:  # Ray gives a busy machine 30 s, whatever one says
            found.end()
            found = Machines()
        yield found
        found.end()


@pytest.fixture
def cluster(machines: Machines) -> str:
    """Their address."""
    return machines.address


@pytest.fixture
def apart(bench: Path, tmp_path: Path) -> Run:  # noqa: F811
    """Call the command line in a process of its own: (exit code, stdout, stderr)."""

    def call(*args: object, results: str = "results") -> tuple[int, str, str]:
        words = [*args, "--root", bench, "--results", tmp_path / results]
        done = subprocess.run(
            [sys.executable, "run_bench.py", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return call


PROGRAM = """
version = 1
title = "Program"
kind = "command"
entry = "vsrbench.programs.command:load"
scale = 4
settings = { argv = ["{python}", "toy.py", "{input}", "{output_dir}", ""] }
[weights]
origin = "official"
"""


def test_two_machines_find_what_one_process_does(
    cluster: str,
    apart: Run,
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Methods of another root, a program of the machines, one that fails and one that crashes."""
    (bench / "methods" / "toy" / "program.toml").write_text(PROGRAM)
    given = ["--input", clips(tmp_path / "lq"), "--gt", clips(tmp_path / "gt", gt=True)]
    methods = f"lanczos,good,nan,program,{deadly(bench, 'SIGKILL', at=4)},{marks(bench)}"
    asked = ["--methods", methods, *given]
    asked += ["--metrics", "psnr,flicker,ewarp", "--no-cost", "--keep-frames"]
    one = apart(*asked, "--device", "cpu", results="one")
    two = apart(*asked, "--device", "cpu", "--ray", cluster, results="two")
    assert one[0] == two[0] == 1
    assert one[1].splitlines()[2:10] == two[1].splitlines()[2:10]
    assert "tried once more" in two[2]
    assert re.search(r"time: [\d.]+ s, in which the machines together took", two[2])
    found = scores(tmp_path / "two")
    assert found == scores(tmp_path / "one")
    assert {key[0] for key in found} >= {
        *("gt", "lanczos", "good", "nan", "deadly", "program", "first", "second")
    }
    for clip in "abc":
        kept = tmp_path / "two/frames/lanczos/lq" / clip
        assert digest(open_frames(kept)) == digest(
            open_frames(tmp_path / "one" / kept.relative_to(tmp_path / "two"))
        )
    last = list(Store(tmp_path / "two").read_runs())[-1]
    assert [about["shared"] for about in last["hosts"]] == [True, True]


def test_costs_and_a_method_that_a_machine_does_not_know(
    cluster: str,
    apart: Run,
    bench: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bench / "methods" / "toy" / "program.toml").write_text(PROGRAM)
    asked = ["--device", "cpu", "--ray", cluster]
    code, _, err = apart("cost", "--methods", "lanczos", "--size", "16x24", *asked)
    assert code == 0, err
    (record,) = Store(tmp_path / "results").latest().values()
    assert record.measurement is not None
    assert record.measurement.threads == int(os.environ["OMP_NUM_THREADS"])
    table = tmp_path / "commands.toml"  # here it is another program than there
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "toy.py").write_text(BY_FOUR + "\n")
    table.write_text(f'[program]\npython = "{sys.executable}"\nrepo = "{tmp_path / "repo"}"\n')
    monkeypatch.setenv(variables.COMMANDS, str(table))
    given = ("--input", write_clip(tmp_path / "lq"), "--metrics", "lr_psnr")
    code, _, err = apart("--methods", "program", *given, "--no-cost", *asked)
    assert code == 3
    assert "is left out: the program of 'program' there and here differ" in err
    assert "no machine of the cluster is left for these jobs" in err


def workers() -> list[int]:
    """Processes that do work on these machines or for a main process, but not for this one."""
    cache, found = f"{variables.CACHE}={os.environ[variables.CACHE]}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            working = any(name in line for name in (b"ray::Host", b"core.processes", b"toy.py"))
            mine = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            if working and not mine and cache in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)


ROUNDS = int(os.environ.get("ROUNDS_OF_KILLS", "1"))
"""Of three kills each."""


@pytest.mark.long
def test_kills_at_random_moments_lose_nothing(
    machines: Machines,
    apart: Run,
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Of workers, a machine and the main process: the same command completes what is left."""
    chance = random.Random(ROUNDS)
    ends = ["SIGKILL", "SIGINT", "SIGTERM"]
    victims = [v for n in range(ROUNDS) for v in chance.sample(["worker", "node", ends[n % 3]], 3)]
    (bench / "methods" / "toy" / "program.toml").write_text(PROGRAM)
    asked = ["--methods", "slow,program", "--input", str(clips(tmp_path / "lq", "abc"))]
    asked += ["--metrics", "lr_psnr", "--no-cost", "--keep-frames", "--device", "cpu"]
    assert apart(*asked, results="whole")[0] == 0
    expected, said, studies = scores(tmp_path / "whole"), tmp_path / "said", 0
    asked = [sys.executable, "run_bench.py", *asked, "--root", str(bench)]
    asked += ["--ray", machines.address, "--results"]
    while victims:
        results = tmp_path / f"study-{studies}"
        studies, file, known, code = studies + 1, results / "records.jsonl", list[bytes](), -1
        while code:
            with said.open("a") as log:
                driver = subprocess.Popen(
                    [*asked, results], cwd=ROOT, stderr=log, stdout=log, preexec_fn=heed_interrupts
                )
            while driver.poll() is None and victims:
                goal, until = len(known) + chance.choice((1, 2, 3)), time.monotonic() + 120
                while driver.poll() is None and len(known) < goal and time.monotonic() < until:
                    time.sleep(0.05)
                    before, known = known, lines(file)
                    assert known[: len(before)] == before
                time.sleep(0.5 * chance.random())
                if driver.poll() is None:
                    kill(victims.pop(0), driver, machines, chance)
            code = driver.wait(300)
            assert lines(file)[: len(known)] == known
            assert code in (0, 1, INTERRUPTED, -signal.SIGKILL), said.read_text()
        assert scores(results) == expected
        kept = [{p.name for p in at.glob("frames/**/*")} for at in (results, tmp_path / "whole")]
        assert kept[0] == kept[1]
    assert "state-dump" not in said.read_text(), "what Ray says of machines that die"
    assert all(gone(pid) for pid in workers()), "they end with the actors of the last run"
    assert not list(Path(os.environ[variables.CACHE]).glob("places/*"))
    until = time.monotonic() + 60
    while left := list(Path(os.environ["TMPDIR"]).glob("vsr-*")):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def kill(
    victim: str, driver: subprocess.Popen[bytes], machines: Machines, chance: random.Random
) -> None:
    """End a worker, all of a machine, or the main process by a signal."""
    if victim == "node":
        machines.replace()
    elif victim != "worker":
        driver.send_signal(getattr(signal, victim))
        driver.wait(120)
    elif pids := workers():
        with suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_cluster_of_its_own_ends_with_the_run(
    apart: Run,
    bench: Path,  # noqa: F811
    tmp_path: Path,
    end: str,
) -> None:
    """Nothing stays behind, what is done is kept, and the same command does the rest."""
    pytest.importorskip("ray", reason="needs the extra ray")
    asked = ["--methods", "slow", "--input", str(clips(tmp_path / "lq", "abc"))]
    asked += ["--metrics", "lr_psnr", "--no-cost", "--device", "cpu,cpu"]
    assert apart(*asked, results="whole")[0] == 0
    mark, file = f"VSR_TEST={tmp_path}", tmp_path / "study" / "records.jsonl"
    asked = [sys.executable, "run_bench.py", *asked, "--root", str(bench), "--ray"]
    asked += ["--results", str(file.parent)]
    environment = os.environ | dict([mark.split("=", 1)])

    def start() -> subprocess.Popen[bytes]:
        given: dict[str, Any] = {"cwd": ROOT, "env": environment, "preexec_fn": heed_interrupts}
        return subprocess.Popen(asked, **given)

    driver = start()
    while not lines(file):
        time.sleep(0.1)
        assert driver.poll() is None
    driver.send_signal(getattr(signal, end))
    assert driver.wait(60) == (-signal.SIGKILL if end == "SIGKILL" else INTERRUPTED)
    known = lines(file)
    wait_for_end(mark)
    assert lines(file) == known
    assert start().wait() == 0
    assert lines(file)[: len(known)] == known
    assert scores(file.parent) == scores(tmp_path / "whole")
    wait_for_end(mark)


def wait_for_end(mark: str) -> None:
    """Of all processes that have this in their environment: two agents of Ray give a cluster that
    was killed a minute to hear that it is gone.
    """
    until = time.monotonic() + 90
    while left := marked(mark):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def marked(mark: str) -> list[str]:
    """Ids of the processes that have this in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


def test_a_run_ends_with_its_cluster(
    machines: Machines,
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Comes last of those that need the machines. Ray would end the main process, silently.

    What is in work at that moment may still come; there is more than that.
    """
    results, file = tmp_path / "results", tmp_path / "results/records.jsonl"
    asked = ["--methods", "slow", "--input", str(clips(tmp_path / "lq", "abcdefghi"))]
    asked += ["--metrics", "lr_psnr", "--no-cost", "--device", "cpu", "--ray", machines.address]
    driver = subprocess.Popen(
        [sys.executable, "run_bench.py", *asked, "--root", bench, "--results", results],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not lines(file) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    known = lines(file)
    machines.kill()
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 3, err
    assert "error: the cluster is gone: no Ray cluster at" in err
    assert lines(file)[: len(known)] == known
    assert list(Store(results).read_runs())[-1]["exit_code"] == 3


def lines(file: Path) -> list[bytes]:
    """Those that are whole."""
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


@pytest.mark.parametrize(
    ("address", "code", "line"),
    [
        ("127.0.0.1:1", 3, "no Ray cluster at 127.0.0.1:1: "),
        ("nowhere.invalid:6379", 3, "no Ray cluster at nowhere.invalid:6379: "),
        ("ray://127.0.0.1:10001", 2, "is not the address of a Ray cluster"),
        ("here", 2, "'here' is not the address of a Ray cluster"),
    ],
)
def test_wrong_addresses(address: str, code: int, line: str, run: Run, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("ray", reason="needs the extra ray")
    given = ("--methods", "good", "--input", write_clip(tmp_path / "lq"))
    found, _, err = run(*given, "--device", "cpu", "--ray", address)
    assert (found, line in err) == (code, True), err
    found, _, err = run(*given, "--device", "cuda:1", "--ray", address)
    assert (found, "--ray does not go with --device cuda:1" in err) == (2, True)


def test_without_ray_a_line_says_what_to_install(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    code, _, err = run(
        "--methods", "good", "--input", write_clip(tmp_path / "lq"), "--device", "cpu", "--ray"
    )
    assert code == 3
    assert "--ray needs the package ray\n  pip install 'vsrbench[ray]'" in err


# Without Ray: what arrives at a machine, and what it refuses.


def a_job(folder: Path, tmp_path: Path, **changes: Any) -> Job:
    """Lanczos on a clip of a folder."""
    card = set_scale(method_card(ROOT, "lanczos"), 4)
    found = identify_made(card)
    assert not isinstance(found, BaseException)
    lq = open_frames(folder)
    clip = replace(job().clip, name="c", lq=lq, gt=None, outputs=None, count=len(lq), size=lq.size)
    todo = (metric_info("lr_psnr"),)
    about = {"depends": {"lr_psnr": ""}, "frames": tmp_path / "kept/c", "place": "lanczos/set/c"}
    return replace(job(), card=card, clip=clip, made_by=found, todo=todo, **about | changes)


def finish(place: Host, parcel: host.Parcel) -> Any:
    kind, value, _ = list(place.do(parcel.job))[-1]
    return kind, value


def test_files_that_are_not_there_come_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variables.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(host, "PIECE", 1000)
    (tmp_path / "in").mkdir()
    folder = write_clip(tmp_path / "in" / "c")
    command.write_video(tmp_path / "in" / "v.mkv", open_frames(folder))
    wanted = a_job(folder, tmp_path, keep=True)
    place = Host("cpu", 1)
    shared = executors.RunContext("run", False, tmp_path, tmp_path / "logs")
    assert place.join(terms_of([wanted], tmp_path / "no mark"), shared).shared is False  # type: ignore[union-attr]
    parcels = [pack(wanted, digest), pack(a_job(tmp_path / "in/v.mkv", tmp_path), digest)]
    (tmp_path / "in").rename(tmp_path / "away")
    try:
        found = []
        for parcel in parcels:
            kind, lacking = finish(place, parcel)
            assert (kind, lacking) == ("lacks", list(parcel.sources))
            files = [
                tmp_path / "away" / p.relative_to(tmp_path / "in")
                for p in parcel.sources[lacking[0]].files
            ]
            sent = list(split_files(files))
            assert len(sent) > len(files)
            assert all(len(data) <= 1000 for _, data in sent)
            for number, (name, data) in enumerate(sent):
                place.take(lacking[0], number, name, data)
            place.finish_files(lacking[0])
            kind, value = finish(place, parcel)
            assert kind == "done"
            found += value.records
        assert [r.status for r in found] == ["ok", "ok"]
        (tmp_path / "away").rename(tmp_path / "in")
        kind, value = finish(place, pack(a_job(folder, tmp_path), digest))
        assert value.records[0].value == found[0].value
        # What was kept there comes back, whole.
        with Received(wanted.frames) as back:
            beside = {}
            for name, data in place.send_kept(wanted.place):
                if name.endswith(".png"):
                    back.add(name, data)
                else:
                    beside[name] = beside.get(name, b"") + data
        for name, data in beside.items():
            wanted.frames.with_name(name).write_bytes(data)
        assert is_kept(wanted.frames, wanted.output_key)
        assert list(place.send_kept(wanted.place)) == []
        # Frames that were kept here serve there.
        kind, value = finish(place, pack(replace(wanted, reuse=True, keep=False), digest))
        assert value.records[0].value == found[0].value
        mark_path(wanted.frames).unlink()
        # With too little room, what was in use least lately goes.
        monkeypatch.setenv(variables.CACHE_GIB, "0")
        monkeypatch.setattr(place, "_at", {"old": tmp_path / "in" / "c"})
        place.take("new", 0, "f", b"x")
        place.finish_files("new")
        assert list(place._at) == ["new"]
        assert not (tmp_path / "in" / "c").exists()
    finally:
        place.leave()
    assert not list((tmp_path / "cache" / "places").iterdir())


def test_frames_that_bicubic_keeps_come_back_with_their_lq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would do it again, and figures lack their input."""
    monkeypatch.setenv(variables.CACHE, str(tmp_path / "cache"))
    card = set_scale(method_card(ROOT, "bicubic"), 4)
    wanted = replace(a_job(write_clip(tmp_path / "c"), tmp_path, keep=True), card=card)
    place = Host("cpu", 1)
    about = executors.RunContext("run", False, tmp_path, tmp_path / "logs")
    place.join(terms_of([wanted], tmp_path / "no mark"), about)

    class Actor:
        def __getattr__(self, name: str) -> Any:
            call = getattr(place, name)
            remote = SimpleNamespace(remote=call)
            return SimpleNamespace(remote=call, options=lambda **_: remote)

    ray = SimpleNamespace(get=lambda ref: ref, exceptions=None)
    at = _Place("id", "host", 0, Actor(), None, shared=False)
    try:
        found = _Remote(ray, at, about, digest)._do(wanted, lambda _: None)
        assert found.error is None
        assert len(wanted.kept) == 2
        assert all(is_kept(*kept) for kept in wanted.kept.items())
        assert not list(place._scratch.glob("frames/*/*/*"))
    finally:
        place.leave()


def test_a_machine_that_differs_says_in_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variables.CACHE, str(tmp_path / "cache"))
    wanted = a_job(write_clip(tmp_path / "c"), tmp_path)
    terms = terms_of([wanted], tmp_path)
    place = Host("cpu", 1)
    shared = executors.RunContext("run", False, tmp_path, tmp_path)
    (card, its), *_ = terms.cards

    def why(**changes: Any) -> Any:
        return place.join(replace(terms, **changes), shared)

    assert why(state={**terms.state, "torch": "1.0"}).endswith(" there and 1.0 here")
    assert why(state={**terms.state, "code of vsrbench": "x"}).startswith("code of vsrbench is ")
    other = [(card, replace(its, code="x"))]
    assert why(cards=other) == "the code of 'lanczos' there and here differs"
    other = [(card, replace(its, weights_sha256="x"))]
    assert why(cards=other) == "the weights of 'lanczos' there and here differ"
    lacking = replace(card, weights=replace(card.weights, origin="user", file="no.pth"))
    assert why(cards=[(lacking, its)]).endswith(" there")
    assert why(depends={"lr_psnr": "x"}) == "'lr_psnr' depends on  there and on x here"
    assert "raft-1 here" in why(flow="raft-1")
    elsewhere = replace(card, folder=f"/opt/{Path(card.folder).relative_to(ROOT)}")
    assert host.relocate_card(elsewhere, "/opt") == card
    assert not isinstance(why(cards=[(elsewhere, its)], root="/opt"), str)


def test_terms_are_of_jobs_that_can_run(tmp_path: Path) -> None:
    wanted = a_job(write_clip(tmp_path / "c"), tmp_path)
    cannot = replace(wanted, card=replace(wanted.card, name="x"), error=MissingError("no"))
    terms: Terms = terms_of([wanted, cannot, replace(wanted, flow="dis")], tmp_path)
    assert [card.name for card, _ in terms.cards] == ["lanczos"]
    assert terms.flow == ""  # no metric of theirs needs it
    terms = terms_of(
        [replace(wanted, todo=(metric_info("ewarp"),), depends={"ewarp": ""})], tmp_path
    )
    assert terms.flow == "dis"


# Without Ray: places that come and go.


class Leaves(Fake):
    """A worker that is lost with its machine at clips of some names."""

    def submit(self, job: Job, told: Any) -> Future[executors.Found]:
        if job.clip.name.startswith("leaves"):
            future = Future[executors.Found]()
            future.set_exception(executors.Lost("its machine"))
            return future
        return super().submit(job, told)


def ordered(names: str, offer: Any) -> list[tuple[str, str]]:
    """(clip, error) of jobs in the order in which they are done."""
    one = job("psnr")
    jobs = [replace(one, clip=replace(one.clip, name=name)) for name in names.split()]
    shared = executors.RunContext("run", False, Path("cache"), Path("logs"))
    return [
        (job.clip.name, (r.records[0].error or {})["message"] if r.records else "")
        for job, r in executors.run(jobs, offer, shared, Unwatched())
    ]


def test_a_job_that_was_lost_is_done_elsewhere() -> None:
    assert ordered("leaves a", opened([Leaves, Fake])) == [("a", ""), ("leaves", "")]
    lost = "'sr' on clip 'leaves' was lost: its machine"
    found = ordered("leaves a", opened([Leaves, Leaves, Leaves, Fake]))
    assert sorted(found) == [("a", ""), ("leaves", lost)]


def test_places_that_come_later_and_a_cluster_that_goes() -> None:
    tell: list[Any] = []

    class Last(Fake):
        def submit(self, job: Job, told: Any) -> Future[executors.Found]:
            future = super().submit(job, told)
            tell[0](MissingError("all gone"))
            return future

    def later(told: Any) -> None:
        tell.append(told)
        told(Leaves)
        told(Fake)

    assert ordered("leaves", later) == [("leaves", "")]
    tell.clear()

    def goes(told: Any) -> None:
        tell.append(told)
        told(Leaves)
        told(MissingError("all gone"))

    with pytest.raises(MissingError, match="all gone"):
        ordered("leaves", goes)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_while_ray_starts_ends_it_in_order(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is there; a second one does not wait for that."""
    done: list[str] = []

    def init(**_: Any) -> None:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append("init")

    ray = SimpleNamespace(
        init=init,
        shutdown=lambda: done.append("shutdown"),
        job_config=SimpleNamespace(JobConfig=dict),
        _private=SimpleNamespace(worker=SimpleNamespace(), node=SimpleNamespace(Node=object())),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        connection.connect("local", 1, lambda: 0)
    assert done == (["init", "shutdown"] if times == 1 else [])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class FakeRay:
    """An engine that notes what is asked of it: two machines of 16 cores and four GPUs."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ended: list[Any] = []
        self.numbers = count()

    def nodes(self) -> list[dict[str, Any]]:
        offered = {"CPU": 16.0, "GPU": 4.0}
        return [
            {
                "NodeID": f"{n:056x}",
                "NodeManagerAddress": f"{n}",
                "Resources": offered,
                "Alive": True,
            }
            for n in range(2)
        ]

    def remote(self, _: Any) -> Any:
        call = SimpleNamespace(remote=lambda *args: ("answer", next(self.numbers)))
        actor = SimpleNamespace(join=call, machine=call, leave=call)
        return SimpleNamespace(
            options=lambda **asked: (
                self.asked.append(asked) or SimpleNamespace(remote=lambda *args: actor)
            )
        )

    def wait(self, refs: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return refs[:1], refs[1:]

    def get(self, ref: Any) -> Any:
        return host.About("h", "3", 16, "a GPU", False, {})

    def kill(self, actor: Any) -> None:
        self.ended.append(actor)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_cost_has_a_device_of_its_own(device: str, tmp_path: Path) -> None:
    """A whole GPU, or all CPUs of a machine; it is kept, and those of other machines let go."""
    pytest.importorskip("ray", reason="needs the extra ray")
    ray, cluster = FakeRay(), Cluster("somewhere:1")
    cluster._ray = ray
    cluster.machine(device, tmp_path / "logs")
    wanted = (1, 0) if device == "cuda" else (0, 16)
    assert [(asked["num_gpus"], asked["num_cpus"]) for asked in ray.asked] == [wanted] * 2
    assert len(ray.ended) == 1
    cluster.machine(device, tmp_path / "logs")
    assert len(ray.asked) == 2, "the next method is measured on the same one"
    cluster.end()
    assert len(ray.ended) == 2


def test_a_cost_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, when all devices have been in use for a while."""
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr("vsrbench.run.cluster.PATIENCE_S", -1)
    ray, cluster = FakeRay(), Cluster("somewhere:1")
    answers = iter(list[list[Any]]([[], []]))
    ray.wait = lambda refs, **_: (next(answers, refs[:1]), [])  # type: ignore[method-assign]
    cluster._ray = ray
    cluster.machine("cpu", tmp_path / "logs")
    cluster.end()
    said = "waiting for a machine with all CPUs free in the cluster: 0, 1 in use, or starting\n"
    assert capsys.readouterr().err == said
