"""Several devices: the same scores, one writer, and a process that dies takes one job with it."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import pytest
import torch

from tests.conftest import gone, heed_interrupts
from tests.test_cli import Run, bench, run, write_adapter, write_card, write_clip  # noqa: F401
from tests.test_evaluate import job
from vsrbench.cards.specs import GT_CARD
from vsrbench.core.errors import INTERRUPTED, DataError, MissingError, UserError
from vsrbench.core.processes import Died, Process
from vsrbench.core.progress import Progress
from vsrbench.core.types import MethodCard
from vsrbench.programs import command
from vsrbench.results.store import Store
from vsrbench.run import executors, runner
from vsrbench.run.devices import pick_devices
from vsrbench.run.plan import Job


def clips(folder: Path, names: str = "abc", gt: bool = False) -> Path:
    for number, name in enumerate(names):
        write_clip(folder / name, count=3 + number, gt=gt)
    return folder


def scores(results: Path) -> dict[tuple[str, str, str], Any]:
    return {
        (r.method, r.clip, r.metric): (r.key, r.value, r.per_frame, r.extra, r.error)
        for r in Store(results).latest().values()
        if r.kind == "quality"
    }


MARKS = """
import builtins
from vsrbench.methods.interpolation.adapter import load as bicubic

def load(card, device, dtype):
    marks = getattr(builtins, "marks", [])
    assert not marks, f"in the process of {marks}"
    builtins.marks = [card.name]
    return bicubic(card, device, dtype)
"""


def marks(base: Path) -> str:
    """Two methods that change the process in which they run, and fail where another was."""
    write_adapter(base, MARKS, "marks")
    for name in ("first", "second"):
        write_card(base, name, settings='kernel = "bicubic"')
        card = base / "methods" / "toy" / f"{name}.toml"
        card.write_text(card.read_text().replace("toy.adapter", "toy.marks"))
    return "first,second"


def test_two_processes_find_what_one_does(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    given = ["--input", clips(tmp_path / "lq"), "--gt", clips(tmp_path / "gt", gt=True)]
    asked = ["--methods", f"lanczos,good,nan,{marks(bench)}", *given]
    asked += ["--no-cost", "--keep-frames"]
    one = run(*asked, "--device", "cpu", results="one")
    two = run(*asked, "--device", "cpu,cpu", results="two")
    assert one[0] == two[0] == 1  # one of the methods breaks its contract
    assert one[1].splitlines()[2:9] == two[1].splitlines()[2:9]
    assert "jobs on cpu, cpu" in two[2]
    assert two[2].count("FAILED: ") == one[2].count("FAILED: ") == 3
    found = scores(tmp_path / "two")
    assert found == scores(tmp_path / "one")
    made = {"gt", "bicubic", "lanczos", "good", "nan", "first", "second"}
    assert {key[0] for key in found} == made
    for folder in ("frames/good/lq/a", "frames/lanczos/lq/c"):
        names = {p.name for p in (tmp_path / "two" / folder).iterdir()}
        assert names == {p.name for p in (tmp_path / "one" / folder).iterdir()}
    times = r"time: ([\d.]+) s, of which methods took ([\d.]+) s, metrics ([\d.]+) s more"
    wall, methods, metrics = map(float, cast("re.Match[str]", re.search(times, one[2])).groups())
    assert 0 < methods + metrics <= wall + 0.2
    again = run(*asked, "--device", "cpu,cpu", results="two")
    assert "done: 0 new results" in again[2]
    assert re.search(r"time: 2 x [\d.]+ s, of which methods took \d\.\d s, metrics", again[2])
    assert scores(tmp_path / "two") == found


def test_videos_embedded_clips_and_outputs_travel(run: Run, tmp_path: Path) -> None:  # noqa: F811
    from vsrbench.data.frames import open_frames

    command.write_video(tmp_path / "in" / "v.mp4", open_frames(write_clip(tmp_path / "v")))
    command.write_video(tmp_path / "in" / "w.mp4", open_frames(write_clip(tmp_path / "w", 4)))
    code, out, err = run(
        *("--methods", "lanczos", "--input", tmp_path / "in", "--datasets", "synthetic"),
        *("--metrics", "ewarp,flicker", "--no-cost", "--device", "cpu,cpu", "--limit", 3),
    )
    assert code == 0, err
    assert err.count("  ok  ") == 2 * (2 + 3) + 3, "both methods on all clips, GT on the set's"
    assert "Lanczos" in out
    sr, gt = clips(tmp_path / "sr", gt=True), clips(tmp_path / "gt", gt=True)
    code, out, err = run(
        "score", "--outputs", sr, "--gt", gt, "--metrics", "psnr", "--device", "cpu,cpu"
    )
    assert code == 0, err
    assert "80.00" in out


DEADLY = """
import os, pathlib, signal, time
import torch.nn.functional as F

class Deadly:
    def __init__(self, card):
        self.how, self.at = card.settings["how"], card.settings["at"]

    def upscale(self, frames):
        for i, x in enumerate(frames):
            if i == self.at:
                if self.how == "raise":
                    raise ValueError("boom")
                os.kill(os.getpid(), getattr(signal, self.how))
                time.sleep(30)
            yield F.interpolate(x[None], scale_factor=4)[0]

def load(card, device, dtype):
    return Deadly(card)
"""


def deadly(base: Path, how: str, at: int) -> str:
    """A card whose method ends its process, or raises, at a frame; its name."""
    write_card(base, "deadly", settings=f'how = "{how}", at = {at}')
    card = base / "methods" / "toy" / "deadly.toml"
    card.write_text(card.read_text().replace("toy.adapter", "toy.deadly"))
    write_adapter(base, DEADLY, "deadly")
    return "deadly"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_process_that_dies_fails_its_job_alone(
    how: str,
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    lq = clips(tmp_path / "lq", "abcd")  # of 3 to 6 frames: the last two are one too many
    code, _, err = run(
        *("--methods", f"{deadly(bench, how, at=4)},good", "--input", lq, "--metrics", "lr_psnr"),
        *("--no-cost", "--device", "cpu,cpu"),
    )
    assert code == 1
    found = scores(tmp_path / "results")
    assert len(found) == 3 * 4
    for (method, clip, _), (_, value, _, _, error) in found.items():
        if method == "deadly" and clip in "cd":
            assert value is None
            assert error["message"].startswith("'deadly' crashed its process on clip '")
            # A process that is told to end unwinds its work first.
            assert ("(signal SIGKILL)" if how == "SIGKILL" else "(exit code 1)") in error["message"]
        else:
            assert value is not None, (method, clip, error)
    assert "2 failed" in err
    assert "on clip 'c'" in err
    assert "tried once more" in err


def test_a_job_that_only_keeps_frames_fails_aloud(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    name = deadly(bench, "SIGKILL", at=9)
    asked = ["--methods", name, "--input", clips(tmp_path / "lq"), "--metrics", "lr_psnr"]
    asked += ["--no-cost", "--device", "cpu,cpu"]
    assert run(*asked)[0] == 0
    # The same output as far as anybody knows: what is scored is not scored again.
    adapter = bench / "methods" / "toy" / "deadly.py"
    adapter.write_text(adapter.read_text().replace("i == self.at", "i == 1"))
    code, _, err = run(*asked, "--keep-frames")
    assert code == 1
    assert "FAILED: 'deadly' crashed its process" in err
    assert err.count("FAILED: ") == 3
    assert not list((tmp_path / "results" / "frames" / "deadly" / "lq").glob("[abc]*"))


def test_tracebacks_travel(run: Run, bench: Path, tmp_path: Path) -> None:  # noqa: F811
    name = deadly(bench, "raise", at=1)
    asked = ["--methods", name, "--input", clips(tmp_path / "lq"), "--metrics", "lr_psnr"]
    logs = []
    for devices in ("cpu", "cpu,cpu"):
        code, _, err = run(*asked, "--no-cost", "-v", "--device", devices, results=devices)
        assert code == 1
        assert err.count("ValueError: boom") >= 3
        errors = [x[4] for key, x in scores(tmp_path / devices).items() if key[0] == name]
        logs.append([error["log"].splitlines()[-1] for error in errors])
    assert logs == [["ValueError: boom"] * 3] * 2


def test_what_a_worker_lacks_fails_jobs(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What names a flow estimator is there; that it is none shows to those who load it.
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "raft-small.pth").write_bytes(b"junk")
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path / "w"))
    given = ("--input", clips(tmp_path / "lq", "ab"), "--metrics", "ewarp", "--no-cost")
    code, _, err = run("--methods", "good", *given, "--device", "cpu,cpu")
    assert code == 1
    assert err.count("raft-small.pth") == err.count("same reason as before") == 2, err
    assert "out of memory" not in err


def test_a_network_scores_alike_whoever_runs_it(root: Path, tmp_path: Path) -> None:
    """Up to how threads share out a sum: here one process has as many as two have together."""
    found = []
    for devices in ("cpu", "cpu,cpu"):
        argv = [sys.executable, str(root / "run_bench.py"), "--methods", "instavsr", "-q"]
        argv += ["--input", str(tmp_path / "lq"), "--metrics", "lr_psnr", "--no-cost"]
        argv += ["--device", devices, "--results", str(tmp_path / devices)]
        if not (tmp_path / "lq").exists():
            clips(tmp_path / "lq", "ab")
        done = subprocess.run(argv, env=os.environ | {"OMP_NUM_THREADS": "2"}, check=False)
        assert done.returncode == 0
        found.append(scores(tmp_path / devices))
    for key, (identity, value, *_) in found[0].items():
        assert found[1][key][0] == identity
        assert found[1][key][1] == pytest.approx(value, abs=2e-3)


def test_what_a_method_left_is_freed_before_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    left: list[weakref.ref[Node]] = []
    happened: list[str] = []

    def load(card: MethodCard, device: str) -> Any:
        happened.append(f"load with {left[0]()}")
        return Node()

    monkeypatch.setattr(executors, "load_method", load)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: happened.append("empty"))
    loader = executors.Loader("cuda:0")
    gc.collect()
    gc.disable()
    try:
        left = [weakref.ref(Node())]
        assert left[0]() is not None
        method = loader.load(GT_CARD)
        assert loader.load(GT_CARD) is method
        left = [weakref.ref(method)]
        del method
        loader.load(replace(GT_CARD, name="other"))
    finally:
        gc.enable()
    assert happened == ["empty", "load with None"] * 2


class Unwatched:
    def start(self, label: str) -> None: ...
    def tick(self) -> None: ...
    def say_once(self, text: str) -> None: ...


class Fake:
    """A worker that does as the name of the clip says."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.ended = False

    def submit(self, job: Job, told: Callable[[str], None]) -> Future[executors.Found]:
        assert not self.ended
        future = Future[executors.Found]()
        told(executors.FRAME)
        if job.clip.name.startswith("dies"):
            future.set_exception(Died("signal SIGABRT", "where it was"))
        elif job.clip.name == "bare":
            future.set_exception(ImportError("no memory for libx.so"))
        elif job.clip.name.startswith("late"):
            future.set_exception(Died("no end after 9 s", late=True))
        else:
            lost = "an illegal access" if job.clip.name == "loses" else ""
            future.set_result(executors.Found([], lost=lost))
        return future

    def end(self) -> None:
        self.ended = True


def opened(workers: Sequence[executors.Start]) -> Callable[[Callable[..., None]], None]:
    """Places that are there from the start."""

    def open_places(tell: Callable[..., None]) -> None:
        for start in workers:
            tell(start)

    return open_places


def scheduled(names: str, cards: str = "m", places: int = 1) -> list[tuple[str, str, str]]:
    """(method, clip, error) of jobs, in the order in which they are done by fakes."""
    Fake.made, one = 0, job("psnr")
    jobs = [
        replace(
            one, card=replace(one.card, name=card, kind="python"), clip=replace(one.clip, name=name)
        )
        for card in cards.split()
        for name in names.split()
    ]
    shared = executors.RunContext("run", False, Path("cache"), Path("logs"))
    found = list(executors.run(jobs, opened([Fake] * places), shared, Unwatched()))
    assert len(found) == len(jobs)
    return [
        (job.card.name, job.clip.name, (r.records[0].error or {})["message"] if r.records else "")
        for job, r in found
    ]


def test_a_method_that_takes_too_long_is_not_tried_again() -> None:
    """On that clip; after three clips not at all."""
    why = "'m' was ended on clip 'late{}' (no end after 9 s)"
    assert scheduled("late1 a late2 late3 b") == [
        ("m", "late1", why.format(1)),
        ("m", "a", ""),
        ("m", "late2", why.format(2)),
        ("m", "late3", why.format(3)),
        ("m", "b", f"{why.format(3)}: not run again"),
    ]


def test_a_worker_that_cannot_begin_fails_its_job() -> None:
    done = scheduled("bare a")
    assert "no memory for libx.so" in done[0][2]
    assert done[1] == ("m", "a", "")


def test_a_method_that_ends_its_worker_again_and_again_is_given_up() -> None:
    """Three times in all; a clip is tried twice, the second time after the others."""
    why = "'m' crashed its process on clip 'dies{}' (signal SIGABRT)"
    last = why.replace("'m'", "'n'")
    assert scheduled("dies a b", "m n") == [
        *(("m", "a", ""), ("m", "b", ""), ("m", "dies", why.format(""))),
        *(("n", "a", ""), ("n", "b", ""), ("n", "dies", last.format(""))),
    ]
    assert Fake.made == 4  # those that died on the second try have no job to be replaced for
    again = f"{why.format(3)}: not run again"
    assert scheduled("dies1 dies2 a dies3 b dies4") == [
        ("m", "a", ""),
        ("m", "dies3", why.format(3)),
        *(("m", clip, again) for clip in ("b", "dies4", "dies1", "dies2")),
    ]


def test_a_worker_that_lost_its_device_is_replaced() -> None:
    assert scheduled("loses a loses b") == [("m", n, "") for n in ["loses", "a", "loses", "b"]]
    assert Fake.made == 3


def test_workers_keep_to_their_method() -> None:
    """Two places take a method each; one that has no more of its own helps with what is left."""
    found = scheduled("a b c d", "m n", places=2)
    assert [card for card, *_ in found][:4] == ["m", "n", "m", "n"]
    assert Fake.made == 2
    taken = [("m", "a"), ("n", "b"), ("m", "c"), ("n", "a")]
    assert [(card, clip) for card, clip, _ in found][:4] == taken, "no clip is in work twice"
    scheduled("a b", "m n o")
    assert Fake.made == 3, "each method has a worker of its own"


def test_what_fails_each_clip_alike_is_said_once(root: Path, tmp_path: Path) -> None:
    shared = executors.RunContext("run", False, tmp_path, tmp_path)
    store = Store(tmp_path / "results")
    store.prepare()
    own = runner.Run(runner.RunConfig(root, ("cpu",)), store)
    progress = Progress(0, 4, quiet=True)
    for error, says, code in (
        (DataError("checkpoint does not fit 'sr'"), "FAILED: checkpoint does not fit 'sr'", 1),
        (MissingError("sr needs x", "get x"), "skipped: sr needs x (get x)", 3),
    ):
        own.counts["failed"] = 0
        found = executors.fail_job(job("psnr"), error, shared)
        said = [own._record(job("psnr"), found, progress) for _ in range(3)]
        again = f"{says.partition(':')[0]}: for the same reason as before"
        assert said == [says, again, again]
        assert own.exit_code == code
    assert len(store.read(strict=True)) == 6


def test_a_process_that_lost_its_device_is_replaced(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    name = deadly(bench, "raise", at=3)  # of clips of 3 to 5 frames
    adapter = bench / "methods" / "toy" / "deadly.py"
    adapter.write_text(
        adapter.read_text().replace(
            'raise ValueError("boom")',
            "from vsrbench.run import executors\n"
            '                    executors._lost = lambda device: "lost"\n'
            f"                    pids = pathlib.Path({str(tmp_path / 'pids')!r})\n"
            '                    pids.open("a").write(f"{os.getpid()} ")\n'
            '                    raise ValueError("boom")',
        )
    )
    lq = clips(tmp_path / "lq", "abcdef")
    code, _, err = run(
        *("--methods", name, "--input", lq, "--metrics", "lr_psnr", "--no-cost"),
        *("--device", "cpu,cpu"),
    )
    assert code == 1
    assert err.count("FAILED: 'deadly' failed at frame 3") == 5, err
    pids = (tmp_path / "pids").read_text().split()
    assert len(set(pids)) == len(pids) == 5
    assert all(gone(int(pid)) for pid in pids)


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(cv2, "setNumThreads", seen.append)
    for share in (1, 2):
        monkeypatch.setattr(executors, "_here", {})
        monkeypatch.setenv("VSRBENCH_LOGS", "")
        shared = executors.RunContext("run", True, tmp_path, tmp_path)
        executors._begin(shared, "cpu", share)
        executors._prepare()
    assert seen == [7, 3, 3]


def test_opencv_uses_as_many_threads_as_torch(tmp_path: Path) -> None:
    """OMP_NUM_THREADS means it, too, whatever it counts by itself."""
    process = Process()
    try:
        shared = executors.RunContext("run", True, tmp_path, tmp_path)
        process.submit(executors._begin, shared, "cpu", 1).result()
        assert process.submit(cv2.getNumThreads).result() == int(os.environ["OMP_NUM_THREADS"])
    finally:
        process.end()


def test_temporary_files_go_with_a_process_whose_children_are_killed(
    root: Path, tmp_path: Path
) -> None:
    """As Ray does it with an actor whose machine is lost."""
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from vsrbench.core.processes import Process\n"
        "worker = Process()\n"
        "print(worker.submit(os.getpid).result(), flush=True)\n"
        "children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()\n"
        "for pid in (*children, os.getpid()):\n"
        "    os.kill(int(pid), 9)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))
    until = time.monotonic() + 60
    while list(tmp_path.glob("vsr-*")) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(tmp_path.glob("vsr-*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_main_one(how: int, root: Path, tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "from vsrbench.core.processes import Process\n"
        "workers = [Process(), Process(fresh=True)]\n"
        "pids = [w.submit(os.getpid).result() for w in workers]\n"
        "print(*pids, flush=True)\n"
        "workers[0].submit(time.sleep, 60)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "main.py").write_text(code)
    argv = [sys.executable, str(tmp_path / "main.py")]
    process = subprocess.Popen(
        argv, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.send_signal(how)
    process.wait(20)
    assert all(gone(pid) for pid in pids)


def test_an_interrupt_ends_all_processes_and_keeps_what_is_done(
    bench: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
) -> None:
    adapter = bench / "methods" / "toy" / "adapter.py"
    adapter.write_text(
        adapter.read_text().replace(
            "    def upscale(self, frames):",
            "    def upscale(self, frames):\n"
            "        import os, pathlib\n"
            f"        pathlib.Path({str(tmp_path)!r}, f'pid{{os.getpid()}}').touch()",
        )
    )
    clips(tmp_path / "lq", "abcdef")
    argv = [sys.executable, str(root / "run_bench.py"), "--methods", "slow", "--root", str(bench)]
    argv += ["--input", str(tmp_path / "lq"), "--metrics", "lr_psnr", "--no-cost"]
    argv += ["--results", str(tmp_path / "results"), "--device", "cpu,cpu"]
    process = subprocess.Popen(
        argv, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts, env=os.environ
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "slow" in line and " ok " in line and len(list(tmp_path.glob("pid*"))) == 2:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    workers = [int(p.name.removeprefix("pid")) for p in tmp_path.glob("pid*")]
    assert len(workers) == 2
    assert all(gone(pid) for pid in workers)
    records = [
        json.loads(line) for line in (tmp_path / "results/records.jsonl").read_text().splitlines()
    ]
    assert {r["method"] for r in records} == {"bicubic", "slow"}
    assert {r["status"] for r in records} == {"ok"}


def test_devices_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert pick_devices("cpu,cpu") == ("cpu", "cpu")
    with pytest.raises(UserError, match="mixes cpu and cuda"):
        pick_devices("cpu,cuda:1")
    with pytest.raises(UserError, match="'cuda:2' was asked for and 2 CUDA devices are here"):
        pick_devices("cuda:0,cuda:2")


@pytest.mark.parametrize(
    ("device", "ours", "theirs"),
    [
        ("cpu", "0,1", "0,1"),
        ("cuda", "2,3", "2,3"),
        ("cuda:1", None, "1"),
        ("cuda:1", "2,3", "3"),
        ("cuda:0", "GPU-a,GPU-b", "GPU-a"),
    ],
)
def test_a_program_sees_the_gpu_that_was_asked_for(
    device: str,
    ours: str | None,
    theirs: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if ours is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
    said = tmp_path / "said"
    code = f"import os; open({str(said)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    command.execute("program", [sys.executable, "-c", code], tmp_path, 60, device)
    assert said.read_text() == theirs
