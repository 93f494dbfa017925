"""One job to records: whatever breaks on the way costs what needs it, and nothing else."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsrbench.cards.specs import GT_CARD
from vsrbench.core.errors import UserError
from vsrbench.core.types import Clip, Metric, PairFlow, Record, Sample, Score
from vsrbench.flow.estimators import Dis, Estimator
from vsrbench.metrics import METRICS, load_metric
from vsrbench.run import evaluate as module
from vsrbench.run.evaluate import Context, evaluate
from vsrbench.run.plan import Job, Made
from vsrbench.run.scoring import BEHIND, Panel

SIDE = 64


def job(*metrics: str, **changes: Any) -> Job:
    """Outputs that are GT: metrics run without any method."""
    scene = np.random.default_rng(0).integers(0, 256, (SIDE, 2 * SIDE, 3), np.uint8)
    gt = [np.ascontiguousarray(scene[:, t : t + SIDE]) for t in range(3)]
    clip = Clip("set", "clip", 3, (SIDE // 4, SIDE // 4), 4, 24.0, "d", (), gt, outputs=gt)
    given = {"keep": False, "todo": tuple(METRICS[m] for m in metrics)} | changes
    about: dict[str, Any] = {
        "refused": {},
        "flow": "dis",
        "depends": dict.fromkeys(metrics, ""),
        "frames": Path("kept"),
        "place": "",
        "reuse": False,
    }
    return Job(replace(GT_CARD, name="sr"), clip, Made(), "", **about | given)


def records(
    tmp_path: Path, made: Job, estimator: Estimator | None = None, notes: list[str] | None = None
) -> dict[str, Record]:
    heard = [] if notes is None else notes
    context = Context(
        "run", "cpu", estimator or Dis(), tmp_path / "cache", lambda: None, heard.append
    )
    return {r.metric: r for r in evaluate(made, lambda: pytest.fail("no method"), context)}


class Unread(Sequence[np.ndarray]):
    """Frames that nobody may look at."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        pytest.fail("it is read")


def test_gt_against_itself_is_not_read_where_the_score_is_known(tmp_path: Path) -> None:
    made = job("psnr", "ssim", "flicker", "lpips")
    made = replace(made, card=GT_CARD, clip=replace(made.clip, gt=Unread(), outputs=None))
    found = records(tmp_path, made)
    assert {m: (r.status, r.value) for m, r in found.items()} == {
        "psnr": ("ok", 80),
        "ssim": ("ok", 1),
        "flicker": ("ok", 0),
        "lpips": ("ok", 0),
    }
    assert found["psnr"].per_frame == (80, 80, 80)
    few = records(tmp_path, replace(made, todo=(METRICS["stlpips"],), depends={"stlpips": ""}))
    assert (few["stlpips"].value, few["stlpips"].per_frame) == (0, (0, 0, 0))
    assert found["flicker"].per_frame == (0, 0)


def test_gt_that_is_scored_is_read_once(tmp_path: Path) -> None:
    made = job("psnr", "ewarp", "flicker_vbench")
    gt, read = made.clip.gt, list[int]()
    assert gt is not None

    class Counted(Sequence[np.ndarray]):
        def __len__(self) -> int:
            return len(gt)

        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return gt[index]

        def __iter__(self) -> Iterator[np.ndarray]:
            return (self[i] for i in range(len(self)))

    exact = [PairFlow(*np.zeros((2, SIDE, SIDE, 2), np.float32))] * 2
    own = replace(made.clip, gt=Counted(), outputs=None, flow=exact)
    found = records(tmp_path, replace(made, card=GT_CARD, clip=own, flow="exact"))
    assert read == [0, 1, 2]
    other = records(tmp_path, replace(made, clip=replace(made.clip, flow=exact), flow="exact"))
    for metric, record in found.items():
        assert (record.value, record.per_frame) == (other[metric].value, other[metric].per_frame)
    assert found["ewarp"].extra == other["ewarp"].extra


class OutOfMemory(Dis):
    """Raises as RAFT does on a large frame."""

    def estimate(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")


def test_flow_that_fails_costs_the_metrics_that_need_it(tmp_path: Path) -> None:
    found = records(tmp_path, job("psnr", "ewarp", "flicker"), OutOfMemory())
    assert {m: r.status for m, r in found.items()} == {
        "psnr": "ok",
        "ewarp": "failed",
        "flicker": "ok",
    }
    error = found["ewarp"].error
    assert error is not None
    assert error["message"] == "flow ran out of memory at frame 1"
    assert "in estimate" in error["log"]


class Broken:
    """A metric that raises something unforeseen at one of its three stages."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        if stage == "load":
            raise IndexError("load")

    def update(self, sample: Sample) -> None:
        if self.stage == "update" and sample.index == 1:
            raise IndexError("update")

    def result(self) -> Score:
        raise KeyError("result")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("load", "metric 'ssim' failed loading: IndexError: load"),
        ("update", "metric 'ssim' failed at frame 1: IndexError: update"),
        ("result", "metric 'ssim' failed after the last frame: KeyError: 'result'"),
    ],
)
def test_a_metric_that_raises_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, message: str
) -> None:
    def load(name: str, device: str) -> Metric:
        return Broken(stage) if name == "ssim" else load_metric(name, device)

    monkeypatch.setattr(module, "load_metric", load)
    found = records(tmp_path, job("ssim", "psnr"))
    assert found["psnr"].status == "ok"
    assert found["ssim"].status == "failed"
    assert found["ssim"].error is not None
    assert found["ssim"].error["message"] == message


def test_frames_that_fail_are_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cut", lambda *_: {}["no such codec"])
    found = records(tmp_path, job("ssim", "psnr"))
    assert [r.status for r in found.values()] == ["failed", "failed"]
    assert "failed on clip 'clip': KeyError" in str(found["psnr"].error)


def test_registration_that_fails_is_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_registration", lambda _: [][0])
    found = records(tmp_path, job("ssim", "psnr"))
    assert (found["ssim"].status, found["psnr"].status) == ("ok", "failed")


def test_a_page_saved_as_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "niqe_modelparameters.mat").write_text("<!doctype html><p>404</p>" * 20)
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path))
    found = records(tmp_path, job("niqe", "psnr"))
    assert (found["niqe"].status, found["psnr"].status) == ("failed", "ok")
    assert "niqe_modelparameters.mat is not a model of NIQE" in str(found["niqe"].error)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    notes: list[str] = []
    found = records(tmp_path, job("ewarp"), notes=notes)
    assert found["ewarp"].status == "ok"
    assert len(notes) == 2  # one for each pair, of which a run shows the first
    assert len(set(notes)) == 1
    assert "$VSRBENCH_CACHE" in notes[0]


class Hungry:
    """A method that runs out of memory at its second frame, holding on to something large."""

    def __init__(self, held: list[weakref.ref[torch.Tensor]]) -> None:
        self.held = held

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        large = next(frames).repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.held.append(weakref.ref(large))
        yield large
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("todo", [True, False])
def test_what_ran_out_of_memory_lets_go_of_it_at_once(tmp_path: Path, todo: bool) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    made = job(*(["psnr", "ssim"] if todo else []), keep=not todo)
    lq = [np.full((SIDE // 4, SIDE // 4, 3), i, np.uint8) for i in range(3)]
    made = replace(
        made,
        card=replace(GT_CARD, name="hungry", scale=4),
        clip=replace(made.clip, lq=lq, outputs=None),
        frames=tmp_path / "frames",
    )
    context = Context("run", "cpu", None, tmp_path, lambda: None, lambda _: None)
    gc.collect()
    gc.disable()
    try:
        with nullcontext() if todo else pytest.raises(UserError, match="out of memory"):
            found = list(evaluate(made, lambda: Hungry(held), context))
            assert [r.status for r in found] == ["failed"] * 2
            assert "'hungry' ran out of memory at frame 1" in str(found[0].error)
        if todo:
            assert [ref() for ref in held] == [None]
    finally:
        gc.enable()
    gc.collect()
    assert [ref() for ref in held] == [None]


def test_an_interrupt_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, device: str) -> Metric:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_metric", interrupt)
    with pytest.raises(KeyboardInterrupt):
        records(tmp_path, job("psnr"))


def test_threads_change_no_score_and_read_each_frame_once(tmp_path: Path) -> None:
    names = ("psnr", "ssim", "ewarp", "flicker")
    made = job(*names)

    class Counted(Sequence[np.ndarray]):
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:
            self.read.append(index)
            assert made.clip.gt is not None
            return made.clip.gt[index]

    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            gt = Counted()
            noisy = [frame // 2 for frame in made.clip.outputs or ()]
            counted = replace(made, clip=replace(made.clip, gt=gt, outputs=noisy))
            results = records(tmp_path / str(threads), counted)
            found.append({m: (r.status, r.per_frame) for m, r in results.items()})
            middle = [1]  # the registration is checked there
            assert gt.read == [0, 1, 2, *middle]
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert {status for status, _ in found[0].values()} == {"ok"}


def test_a_metric_that_ends_its_thread_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving(Broken):
        def update(self, sample: Sample) -> None:
            raise SystemExit(3)

    monkeypatch.setattr(
        module, "load_metric", lambda n, d: Leaving("") if n == "ssim" else load_metric(n, d)
    )
    with pytest.raises(SystemExit):
        records(tmp_path, job("ssim", "psnr"))


class Gated:
    """Says which frames it was shown; those of `gate` when it is opened."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.shown: list[int] = []
        self.gate, self.all_shown = gate, threading.Event()

    def update(self, sample: Sample) -> None:
        if self.gate is not None:
            assert self.gate.wait(30)
        self.shown.append(sample.index)
        if len(self.shown) == BEHIND:
            self.all_shown.set()

    def result(self) -> Score:
        return Score(0, ())


def test_metrics_do_not_wait_for_each_other_and_frames_for_the_slowest() -> None:
    gate = threading.Event()
    slow, fast = Gated(gate), Gated()
    frames = range(3 * BEHIND)
    pixels = np.zeros((2, 2, 3), np.uint8)
    taken = list[int]()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        chosen = {"slow": frames, "fast": frames}
        with Panel({"slow": slow, "fast": fast}, chosen, (), None, lambda *_: {}) as panel:

            def take() -> None:
                for index in frames:
                    panel.take(Sample(index, pixels, None, None, pixels, None))
                    taken.append(index)

            method = threading.Thread(target=take)
            method.start()
            assert fast.all_shown.wait(30)
            time.sleep(0.05)
            assert (slow.shown, taken, fast.shown) == ([], [*frames[:BEHIND]], [*frames[:BEHIND]])
            gate.set()
            method.join(30)
    finally:
        gate.set()
        torch.set_num_threads(before)
    assert slow.shown == fast.shown == [*frames]
    assert not panel.failures
