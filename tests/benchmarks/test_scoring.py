"""Scoring in one pass against a script that goes metric by metric. Not part of the default run:

OMP_NUM_THREADS=2 pytest tests/benchmarks -n 0 --benchmark-enable --benchmark-only
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vsrbench.cards.weights import read_checkpoint, search
from vsrbench.core.types import MethodCard, PairFlow, Weights
from vsrbench.data.frames import FrameWriter
from vsrbench.data.images import read_image
from vsrbench.data.outputs import open_outputs
from vsrbench.flow.estimators import Estimator, Farneback, best_estimator
from vsrbench.flow.raft import _torchvision_names
from vsrbench.metrics import depends_on
from vsrbench.metrics.temporal import warping_errors
from vsrbench.results.view import Places
from vsrbench.run.evaluate import Context, evaluate
from vsrbench.run.plan import plan, scores_outputs

FRAMES, SIZE = 24, (576, 720)
METRICS = ("psnr", "ssim", "ewarp", "tof")


def write_clips(folder: Path) -> tuple[Path, Path]:
    """(outputs, GT): a pan over texture of several scales, and the same softened under noise."""
    rng = np.random.default_rng(0)
    scene = np.zeros((SIZE[0] + 2 * FRAMES, SIZE[1] + 3 * FRAMES, 3))
    for step in (4, 16, 64):
        noise = rng.uniform(0, 85, (scene.shape[0] // step + 2, scene.shape[1] // step + 2, 3))
        scene += cv2.resize(noise, scene.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    gt, sr = folder / "gt", folder / "sr"
    with FrameWriter(gt) as truth, FrameWriter(sr) as outputs:
        for t in range(FRAMES):
            frame = scene[2 * t :, 3 * t :][: SIZE[0], : SIZE[1]]
            soft = cv2.GaussianBlur(frame, (0, 0), 1.2) + rng.normal(0, 4, frame.shape)
            truth.write(frame.clip(0, 255).astype(np.uint8))
            outputs.write(soft.clip(0, 255).astype(np.uint8))
    return sr, gt


def one_pass(sr: Path, gt: Path, cache: Path, estimator: Estimator) -> dict[str, float]:
    """What `score` does for the outputs."""
    card = MethodCard("sr", 1, "sr", Weights("user"), kind="frames", scale=0)
    found, places = open_outputs(sr, gt), (Places([]), Places([]))
    jobs, _ = plan(
        *([card], found, METRICS, {}, {}, cache, places, False, True, estimator.identity),
        {name: depends_on(name) for name in METRICS},
    )
    (job,) = (job for job in jobs if scores_outputs(job.card))
    context = Context("run", "cpu", estimator, cache, lambda: None, print)
    records = list(evaluate(job, lambda: pytest.fail("no method is to run"), context))
    return {record.metric: record.value for record in records if record.value is not None}


def metric_by_metric(sr: Path, gt: Path, weights: Path) -> dict[str, float]:
    """The usual script: every metric reads all frames again; RAFT is called pair by pair.

    RAFT is torchvision's own network and forward, with as many updates as ours.
    """
    import pyiqa
    from torchvision.models.optical_flow import raft_small

    raft = raft_small(weights=None).eval()
    raft.load_state_dict(_torchvision_names(read_checkpoint(weights)[0]))

    names = sorted(path.name for path in gt.iterdir())

    def tensor(path: Path) -> torch.Tensor:
        return torch.from_numpy(read_image(path)).permute(2, 0, 1)[None] / 255

    scores = {}
    for name in ("psnr", "ssim"):
        metric = pyiqa.create_metric(name, device="cpu")
        values = [metric(tensor(sr / n), tensor(gt / n)).item() for n in names]
        scores[name] = float(np.mean(values))

    @torch.inference_mode()
    def flow(a: Path, b: Path) -> np.ndarray:
        found = raft(*(2 * tensor(path) - 1 for path in (a, b)), num_flow_updates=12)[-1]
        return found[0].permute(1, 2, 0).contiguous().numpy()

    errors, lengths = [], []
    for a, b in pairwise(names):
        motion = PairFlow(flow(gt / a, gt / b), flow(gt / b, gt / a))
        (error,), _ = warping_errors((read_image(sr / a),), (read_image(sr / b),), motion)
        errors.append(1000 * error)
    farneback = Farneback()
    for a, b in pairwise(names):
        true = farneback.estimate(read_image(gt / a), read_image(gt / b))
        own = farneback.estimate(read_image(sr / a), read_image(sr / b))
        lengths.append(float(np.linalg.norm(true - own, axis=-1).mean()))
    return scores | {"ewarp": float(np.mean(errors)), "tof": float(np.mean(lengths))}


def timed(function: Any, *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start


def test_one_pass_against_metric_by_metric(
    benchmark: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if benchmark.disabled:
        pytest.skip("benchmarks are off: -n 0 --benchmark-enable --benchmark-only")
    shared = request.getfixturevalue("shared")
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shared / "real" / "weights"))
    pytest.importorskip("pyiqa")  # its import is not to be timed
    estimator = best_estimator()
    assert estimator.name == "raft_small"
    sr, gt = write_clips(tmp_path)
    args = (sr, gt, tmp_path / "cache", estimator)
    ours, first = timed(lambda: benchmark.pedantic(one_pass, args, rounds=1, iterations=1))
    again, later = timed(one_pass, *args)
    theirs, naive = timed(metric_by_metric, sr, gt, search("raft-small.pth"))
    assert again == ours
    for name, tolerance in {"psnr": 1e-3, "ssim": 1e-3, "ewarp": 0.02, "tof": 1e-3}.items():
        assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name
    with capsys.disabled():
        print(
            f"\n{FRAMES} frames of {SIZE[1]}x{SIZE[0]}, {', '.join(METRICS)}, "
            f"{torch.get_num_threads()} threads: metric by metric {naive:.1f} s; one pass "
            f"{first:.1f} s ({naive / first:.2f}x as fast); further methods on the same clip "
            f"{later:.1f} s ({naive / later:.1f}x)"
        )
