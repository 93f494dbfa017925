"""Several devices: the same scores, one writer, and a process that dies takes one job with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import gone, heed_interrupts
from tests.test_cli import Run, bench, run, write_card, write_clip  # noqa: F401
from vsrbench import cli, command
from vsrbench.errors import INTERRUPTED, UserError
from vsrbench.store import Store


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


def test_two_processes_find_what_one_does(run: Run, tmp_path: Path) -> None:  # noqa: F811
    given = ["--input", clips(tmp_path / "lq"), "--gt", clips(tmp_path / "gt", gt=True)]
    asked = ["--methods", "lanczos,good,nan", *given, "--no-cost", "--keep-frames"]
    one = run(*asked, "--device", "cpu", results="one")
    two = run(*asked, "--device", "cpu,cpu", results="two")
    assert one[0] == two[0] == 1  # one of the methods breaks its contract
    assert one[1].splitlines()[2:7] == two[1].splitlines()[2:7]
    assert "jobs on cpu, cpu" in two[2]
    assert two[2].count("FAILED: ") == one[2].count("FAILED: ") == 3
    found = scores(tmp_path / "two")
    assert found == scores(tmp_path / "one")
    assert {key[0] for key in found} == {"gt", "bicubic", "lanczos", "good", "nan"}
    for folder in ("frames/good/lq/a", "frames/lanczos/lq/c"):
        names = {p.name for p in (tmp_path / "two" / folder).iterdir()}
        assert names == {p.name for p in (tmp_path / "one" / folder).iterdir()}
    again = run(*asked, "--device", "cpu,cpu", results="two")
    assert "done: 0 new results" in again[2]
    assert scores(tmp_path / "two") == found


def test_videos_embedded_clips_and_outputs_travel(run: Run, tmp_path: Path) -> None:  # noqa: F811
    from vsrbench.frames import open_frames

    command.write_video(tmp_path / "in" / "v.mp4", open_frames(write_clip(tmp_path / "v")))
    command.write_video(tmp_path / "in" / "w.mp4", open_frames(write_clip(tmp_path / "w", 4)))
    code, out, err = run(
        *("--methods", "lanczos", "--input", tmp_path / "in", "--datasets", "synthetic"),
        *("--metrics", "ewarp,flicker", "--no-cost", "--device", "cpu,cpu"),
    )
    assert code == 0, err
    assert err.count("  ok  ") == 2 * (2 + 9) + 9, "both methods on all clips, GT on the set's"
    assert "Lanczos" in out
    sr, gt = clips(tmp_path / "sr", gt=True), clips(tmp_path / "gt", gt=True)
    code, out, err = run(
        "score", "--outputs", sr, "--gt", gt, "--metrics", "psnr", "--device", "cpu,cpu"
    )
    assert code == 0, err
    assert "80.00" in out


DEADLY = """
import os, signal
import torch.nn.functional as F

class Deadly:
    def upscale(self, frames):
        for i, x in enumerate(frames):
            if i == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield F.interpolate(x[None], scale_factor=4)[0]

def load(card, device, dtype):
    return Deadly()
"""


def test_a_process_that_dies_fails_its_job_alone(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_card(bench, "deadly")
    card = bench / "methods" / "toy" / "deadly.toml"
    card.write_text(card.read_text().replace("toy_adapter", "deadly_adapter"))
    (bench / "deadly_adapter.py").write_text(DEADLY)
    lq = clips(tmp_path / "lq", "abcd")  # of 3 to 6 frames: the last two are one too many
    code, _, err = run(
        *("--methods", "deadly,good", "--input", lq, "--metrics", "lr_psnr"),
        *("--no-cost", "--device", "cpu,cpu"),
    )
    assert code == 1
    found = scores(tmp_path / "results")
    assert len(found) == 3 * 4
    for (method, clip, _), (_, value, _, _, error) in found.items():
        if method == "deadly" and clip in "cd":
            assert value is None
            assert error["message"] == f"'deadly' ended its process on clip '{clip}'"
        else:
            assert value is not None, (method, clip, error)
    assert "2 failed" in err


def test_an_interrupt_ends_all_processes_and_keeps_what_is_done(
    bench: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
) -> None:
    adapter = bench / "toy_adapter.py"
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
        if "slow" in line and " ok " in line:
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
    assert cli._devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert cli._devices("cpu,cpu") == ("cpu", "cpu")
    with pytest.raises(UserError, match="mixes cpu and cuda"):
        cli._devices("cpu,cuda:1")
    with pytest.raises(UserError, match="'cuda:2' was asked for and 2 CUDA devices are here"):
        cli._devices("cuda:0,cuda:2")


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
