"""The command line as a user meets it: whole runs, and one clear line for every bad input."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import heed_interrupts
from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core.errors import ContractError, MissingError, UserError
from vsrbench.data import frames
from vsrbench.results.store import Store
from vsrbench.run import cost, executors
from vsrbench.run.runner import Run as Runner
from vsrbench.run.runner import RunConfig

ADAPTER = '''
"""A method that does what its settings say."""
import time
import torch
import torch.nn.functional as F

class Toy:
    def __init__(self, mode):
        self.mode = mode

    def upscale(self, frames):
        for i, x in enumerate(frames):
            y = F.interpolate(x[None], scale_factor=4, mode="nearest")[0]
            if self.mode == "nan" and i == 1:
                y[0, 0, 0] = float("nan")
            if self.mode == "size":
                y = y[:, 1:]
            if self.mode == "raise" and i == 1:
                raise ValueError("boom")
            if self.mode == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            if self.mode == "few" and i == 1:
                return
            if self.mode == "slow":
                time.sleep(0.3)
            yield y
        if self.mode == "many":
            yield y

def load(card, device, dtype):
    if card.settings["mode"] == "load":
        raise RuntimeError("cannot build")
    return Toy(card.settings["mode"])
'''
MODES = ["good", "nan", "size", "raise", "memory", "few", "many", "load", "slow"]

Run = Callable[..., tuple[int, str, str]]


def picture(h: int, w: int, shift: int = 0) -> np.ndarray:
    """A textured RGB frame that moves by `shift` px."""
    noise = np.random.default_rng(0).integers(0, 256, (h // 4 + 9, w // 4 + 9, 3), np.uint8)
    big = cv2.resize(noise, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[shift : shift + h, shift : shift + w])


def write_clip(folder: Path, count: int = 3, h: int = 32, w: int = 40, gt: bool = False) -> Path:
    """A folder of frames; `gt` makes them four times larger."""
    folder.mkdir(parents=True)
    for t in range(count):
        frame = picture(4 * h, 4 * w, t)
        if not gt:
            frame = cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA)
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    return folder


@pytest.fixture
def bench(tmp_path: Path, root: Path) -> Path:
    """A root of its own: the interpolation cards and one toy card for each way to misbehave."""
    base = tmp_path / "root"
    shutil.copytree(root / "methods" / "interpolation", base / "methods" / "interpolation")
    shutil.copytree(root / "datasets", base / "datasets")
    shutil.copytree(root / "methods" / "spandrel", base / "methods" / "spandrel")
    for mode in MODES:
        write_card(base, mode, settings=f'mode = "{mode}"')
    write_adapter(base, ADAPTER)
    return base


def write_adapter(base: Path, text: str, name: str = "adapter") -> None:
    """A module of the toy's folder; one that was imported before is forgotten."""
    (base / "methods" / "toy" / f"{name}.py").write_text(text)
    for module in [m for m in sys.modules if m.startswith("vsrbench_root_")]:
        del sys.modules[module]


def write_card(base: Path, name: str, settings: str = 'mode = "good"', weights: str = "") -> None:
    """A toy card below a root."""
    (base / "methods" / "toy").mkdir(parents=True, exist_ok=True)
    (base / "methods" / "toy" / f"{name}.toml").write_text(
        f'version = 1\ntitle = "{name.title()}"\nentry = "methods.toy.adapter:load"\n'
        f"settings = {{ {settings} }}\n[weights]\n" + (weights or 'origin = "none"\n')
    )


@pytest.fixture
def run(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*args: object, results: str = "results") -> tuple[int, str, str]:
        words = [str(a) for a in args]
        words += ["--root", str(bench)]
        if words[0] not in ("list", "check"):
            words += ["--results", str(tmp_path / results)]
        code = main(words)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def records(tmp_path: Path) -> list[dict[str, object]]:
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


FAST = ["--metrics", "lr_psnr,flicker", "--no-cost"]


def test_a_whole_run_resumes_keeps_frames_and_feeds_tables(run: Run, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "street")
    gt = write_clip(tmp_path / "truth", gt=True)
    args = ("--methods", "good,lanczos", "--input", lq, "--gt", gt, "--keep-frames")
    code, out, err = run(*args)
    assert code == 0, err
    for row in ("Bicubic", "Lanczos", "Good", "GT"):
        assert row in out
    assert "PSNR dB" in out
    assert "ms/frame" in out
    kept = tmp_path / "results" / "frames" / "good" / "street" / "street"
    source = frames.open_frames(kept)
    assert (len(source), source.size) == (3, (128, 160))
    want = frames.open_frames(lq)[1].repeat(4, 0).repeat(4, 1)  # what the toy method does
    assert np.array_equal(source[1], want)

    before = records(tmp_path)
    code, again, err = run(*args)
    assert code == 0
    assert "0 new results" in err
    assert records(tmp_path) == before
    assert again == out

    for fmt, word in (("markdown", "Lanczos"), ("latex", "toprule"), ("csv", "psnr")):
        code, text, _ = run("table", "--format", fmt)
        assert code == 0
        assert word in text
    for kind in ("profile", "crops", "scatter", "drift"):
        code, path, err = run("figure", kind)
        assert code == 0, err
        with Image.open(path.strip()) as image:
            assert min(image.size) > 200
    code, _, err = run(*args, "--fresh", "--no-cost")
    assert "0 reused" in err
    assert len(records(tmp_path)) > len(before)


def test_kept_frames_serve_new_metrics_without_the_method(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lq = write_clip(tmp_path / "lq")
    args = ("--methods", "good", "--input", lq, "--no-cost", "--keep-frames")
    assert run(*args, "--metrics", "flicker")[0] == 0
    monkeypatch.setattr(executors, "load_method", lambda *_: pytest.fail("it runs"))
    code, _, err = run(*args, "--metrics", "flicker,lr_psnr")
    assert code == 0, err
    assert sum(r["metric"] == "lr_psnr" and r["status"] == "ok" for r in records(tmp_path)) == 2


@pytest.mark.parametrize("change", ["altered", "lost", "more", "digests"])
def test_kept_frames_that_were_changed_do_not_serve(
    run: Run, bench: Path, tmp_path: Path, change: str
) -> None:
    lq = write_clip(tmp_path / "lq")
    args = ("--methods", "good", "--input", lq, "--no-cost", "--keep-frames")
    assert run(*args, "--metrics", "flicker_vbench,lr_psnr")[0] == 0
    right = {r["metric"]: r["value"] for r in records(tmp_path) if r["method"] == "good"}
    (folder,) = (tmp_path / "results" / "frames").glob("good*/*/*/")
    first, second = sorted(folder.iterdir())[:2]
    why = {
        "altered": "lq/00000000.png was changed",
        "lost": "lq/00000000.png is gone",
        "more": "lq/copy.png is new",
        "digests": "their digests are not there",
    }[change]
    if change == "altered":
        first.write_bytes(second.read_bytes())
    elif change == "lost":
        first.unlink()
    elif change == "more":
        (folder / "copy.png").write_bytes(first.read_bytes())
    else:
        folder.with_name(folder.name + ".sha256").unlink()
    (tmp_path / "results" / "records.jsonl").unlink()
    code, _, err = run(*args, "--metrics", "flicker_vbench,lr_psnr")
    assert code == 0
    assert f"cannot be used, {why}" in err
    now = {r["metric"]: r["value"] for r in records(tmp_path) if r["method"] == "good"}
    assert now == right
    (tmp_path / "results" / "records.jsonl").unlink()
    code, _, err = run(*args, "--metrics", "flicker_vbench,lr_psnr")
    assert (code, "cannot be used" in err) == (0, False)  # they were made again


def test_frames_of_older_settings_are_not_shown_with_newer_scores(
    run: Run, bench: Path, tmp_path: Path
) -> None:
    lq = write_clip(tmp_path / "lq")
    args = ("--methods", "good", "--input", lq, "--no-cost", "--metrics", "lr_psnr,flicker")
    assert run(*args, "--keep-frames")[0] == 0
    assert run("figure", "crops")[0] == 0
    write_card(bench, "good", settings='mode = "good", more = 1')
    assert run(*args)[0] == 0
    code, _, err = run("figure", "crops")
    assert code == 3
    assert "kept frames of good are of other weights or settings" in err
    assert run("report")[0] == 0
    page = (tmp_path / "results" / "report.html").read_text()
    assert "kept frames of good are of other weights or settings" in page
    assert run(*args, "--keep-frames")[0] == 0
    assert run("figure", "crops")[0] == 0


def test_methods_that_break_their_contract_fail_alone(run: Run, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq")
    code, out, err = run("--methods", ",".join(MODES[:-1]), "--input", lq, *FAST)
    assert code == 1
    for text in (
        "'nan' at frame 1 of clip 'lq': output holds NaN",
        "'size' at frame 0 of clip 'lq': output is (3, 127, 160), expected (3, 128, 160)",
        "'raise' failed at frame 1 of clip 'lq': ValueError: boom",
        "'memory' ran out of memory at frame 0",
        "'few' gave 1 frame for the 3",
        "'many' at frame 3 of clip 'lq': more frames came out than the 3",
        "'load' failed loading: RuntimeError: cannot build",
    ):
        assert text in err
    assert "Traceback" not in err
    by_status = {(r["method"], r["status"]) for r in records(tmp_path) if r["metric"] == "flicker"}
    assert {("good", "ok"), ("bicubic", "ok"), ("nan", "failed"), ("few", "failed")} <= by_status
    assert "nan" not in {str(r["value"]).lower() for r in records(tmp_path)}
    assert "output holds NaN" in out  # the reason stands under the table


def test_a_default_metric_asks_for_no_more_than_a_clip_has(run: Run, tmp_path: Path) -> None:
    """Frames of 24 and 28 px: scored by what can, and nobody failed."""
    given = ["--input", write_clip(tmp_path / "lq", h=6, w=7), "--no-cost", "--device", "cpu"]
    code, _, err = run("--methods", "bicubic", *given)
    assert (code, "FAILED" in err) == (0, False), err
    assert {r["metric"] for r in records(tmp_path)} & {"niqe", "lpips", "brisque_svr"} == set()
    code, _, err = run("--methods", "bicubic", *given, "--metrics", "tile_seams")
    assert code == 3
    assert "not computed: 'tile_seams' needs 64 px a side and clip 'lq' has 24" in err


def test_failures_are_tried_again(run: Run, bench: Path, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq")
    assert run("--methods", "few", "--input", lq, *FAST)[0] == 1
    write_adapter(bench, ADAPTER.replace('"few"', '"never"'))
    code, _, err = run("--methods", "few", "--input", lq, *FAST)
    assert code == 0, err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "bicubik"], "no method named 'bicubik'. Did you mean 'bicubic'?"),
        (["--methods", "bicubic", "--datasets", "sinthetic"], "Did you mean 'synthetic'?"),
        (["--methods", "bicubic", "--metrics", "psrn"], "no metric named 'psrn'"),
        (["--methods", "bicubic", "--keep-frame"], "did you mean --keep-frames?"),
        (["--datasets", "synthetic"], "say which methods to run"),
        (["tabel"], "no command named 'tabel'. Did you mean 'table'?"),
        (["--methods", "bicubic", "--gt", "x"], "--gt needs --input"),
        (["--methods", "bicubic", "--device", "gpu"], "no device named 'gpu'"),
        (["--methods", "bicubic", "--device", "mps"], "nothing here runs on device 'mps'"),
        (["--methods", "nowhere.pth"], "no checkpoint at nowhere.pth"),
        (["cost", "--methods", "bicubic", "--size", "64"], "write it as 320x180"),
        (["--quiet", "table", "--sort", "psnr"], "the command comes first: vsrbench table ..."),
        (["--quiet", "table"], "it comes first: vsrbench table ..."),
    ],
)
def test_a_bad_command_line_is_exit_2(run: Run, args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2


def test_missing_things_are_exit_3(run: Run, tmp_path: Path) -> None:
    assert run("table")[0] == 3
    assert run("--methods", "bicubic", "--input", tmp_path / "nowhere")[0] == 3
    assert run("--methods", "bicubic", "--device", "cuda:9")[0] == 3


def test_absent_wrong_and_corrupt_checkpoints(run: Run, bench: Path, tmp_path: Path) -> None:
    toy = bench / "methods" / "toy"
    write_card(bench, "absent", weights='origin = "official"\nfile = "absent.pth"\n')
    save_file({"w": torch.zeros(2)}, str(toy / "net.safetensors"))
    wrong = f'origin = "official"\nfile = "net.safetensors"\nsha256 = "{"0" * 64}"\n'
    write_card(bench, "wronghash", weights=wrong)
    corrupt = tmp_path / "corrupt.pth"
    corrupt.write_bytes(b"PK\x03\x04 not a checkpoint")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((toy / "net.safetensors").read_bytes()[:20])
    evil = tmp_path / "evil.pth"
    torch.save({"w": Evil(str(tmp_path / "pwned"))}, evil)
    unknown = tmp_path / "unknown.pth"
    torch.save({"some.layer.weight": torch.zeros(3, 3)}, unknown)
    lq = write_clip(tmp_path / "lq")
    methods = f"good,absent,wronghash,{corrupt},{cut},{evil},{unknown}"
    code, _, err = run("--methods", methods, "--input", lq, *FAST)
    assert code == 1  # some failed; the absent alone would be 3
    assert "'absent' needs its weights absent.pth, not found" in err
    assert "'wronghash' do not match its card" in err
    assert "expected 000000" in err
    for path in (corrupt, cut, evil):
        assert f"checkpoint {path} cannot be read" in err
    assert not (tmp_path / "pwned").exists()
    assert "spandrel does not recognise" in err
    assert "Traceback" not in err
    assert any(r["method"] == "good" and r["status"] == "ok" for r in records(tmp_path))
    code, _, _ = run("--methods", "good,absent", "--input", lq, *FAST)
    assert code == 3


class Evil:
    """Would make a file when unpickled without weights_only."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (self.path,))


def test_bad_clips(run: Run, tmp_path: Path, real: Path) -> None:
    def error(lq: Path, *more: object) -> tuple[int, str]:
        code, _, err = run("--methods", "good", "--input", lq, *more, *FAST)
        assert "Traceback" not in err
        return code, err

    (tmp_path / "empty").mkdir()
    code, err = error(tmp_path / "empty")
    assert (code, "holds no frames and no clips" in err) == (1, True)
    code, err = error(write_clip(tmp_path / "clip"), "--clips", "nope")
    assert (code, "no clip named 'nope'" in err) == (2, True)
    assert not (tmp_path / "results").exists()  # nothing was to be written

    sizes = write_clip(tmp_path / "sizes")
    Image.fromarray(picture(16, 16)).save(sizes / "001.png")
    code, err = error(sizes)
    assert code == 1
    assert "001.png" in err
    assert "16x16" in err

    lq = write_clip(tmp_path / "lq")
    few = write_clip(tmp_path / "few", count=2, gt=True)
    code, err = error(lq, "--gt", few)
    assert code == 1
    assert "3 frames" in err
    assert "has 2" in err

    odd = write_clip(tmp_path / "odd", h=33, gt=True)
    code, err = error(lq, "--gt", odd)
    assert code == 1
    assert "not a whole multiple" in err

    video = tmp_path / "cut.mp4"
    data = (real / "clips-lq" / "dove-003.mp4").read_bytes()
    video.write_bytes(data[: len(data) // 2])
    code, err = error(video)
    assert code == 1
    assert "cut.mp4" in err

    (tmp_path / "text.mp4").write_text("hello")
    assert error(tmp_path / "text.mp4")[0] == 1


def test_a_truncated_frame_fails_its_clip_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "set" / "good")
    bad = write_clip(tmp_path / "set" / "bad") / "001.png"
    bad.write_bytes(bad.read_bytes()[:-200])
    uneven = write_clip(tmp_path / "set" / "uneven")
    Image.fromarray(picture(16, 16)).save(uneven / "002.png")
    code, out, err = run("--methods", "good", "--input", tmp_path / "set", *FAST)
    assert code == 1
    assert str(bad) in err
    assert "uneven" in err
    status = {(r["clip"], r["status"]) for r in records(tmp_path) if r["method"] == "good"}
    assert {("good", "ok"), ("bad", "failed"), ("uneven", "failed")} <= status
    row = next(line for line in out.splitlines() if line.startswith("| Good"))
    assert "– [" in row  # an incomplete mean is a dash with its reason


def test_one_frame_and_frames_too_small(run: Run, bench: Path, tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one", count=1)
    code, out, err = run("--methods", "good", "--input", one, *FAST)
    assert code == 3, err  # flicker was asked for by name
    assert "needs two frames" in out
    card = bench / "methods" / "toy" / "good.toml"
    card.write_text(card.read_text().replace("[weights]", "min_size = 64\n[weights]"))
    code, _, err = run("--methods", "good", "--input", one, *FAST)
    assert code == 1
    assert "40x32 are too small for 'good', which needs at least 64 px" in err


def test_metrics_that_need_gt_say_so(run: Run, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq")
    args = ("--methods", "good", "--input", lq, "--no-cost", "--metrics", "psnr,flicker")
    for _ in range(2):  # new or reused
        code, out, err = run(*args)
        assert code == 3, err
        assert "not computed: 'psnr' needs ground truth and clip 'lq' has none" in err
        assert "needs ground truth" in out


def test_tracebacks_are_there_with_v(run: Run, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq")
    for args in (("--input", lq, *FAST), ("cost", "--size", "32x24", "--frames", "2")):
        code, _, err = run(*args, "--methods", "raise", "-v")
        assert code == 1
        assert err.count("ValueError: boom") == 2, err
        assert err.count('raise ValueError("boom")') == 1
    assert all("in upscale" in r["error"]["log"] for r in records(tmp_path) if r["error"])


def test_the_exit_code_of_a_run_is_on_record(root: Path, tmp_path: Path) -> None:
    for error in (MissingError("gone"), KeyboardInterrupt(), RuntimeError("a defect")):
        with (
            pytest.raises(type(error)),
            Runner(RunConfig(root, ("cpu",)), Store(tmp_path)).keep_log(),
        ):
            raise error
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["exit_code"] for line in lines] == [3, 130, 1]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["table", "-o", "."], 2, "cannot write .: Is a directory"),
        (
            ["figure", "drift", "--metric", "flicker", "-o", "x.gif"],
            2,
            "PNG, SVG or PDF, and x.gif is not",
        ),
        (["figure", "drift", "--metric", "flicker", "-o", "DIR/noext"], 0, "DIR/noext.png\n"),
        (["figure", "drift", "--metric", "flicker", "-o", "DIR/f/x.png"], 2, "cannot write DIR/f"),
    ],
)
def test_where_output_cannot_go(
    args: list[str], code: int, said: str, run: Run, tmp_path: Path
) -> None:
    lq = write_clip(tmp_path / "lq")
    assert run("--methods", "bicubic", "--input", lq, *FAST)[0] == 0
    (tmp_path / "f").write_text("")
    found, out, err = run(*(a.replace("DIR", str(tmp_path)) for a in args))
    assert found == code
    assert said.replace("DIR", str(tmp_path)) in out + err
    assert (tmp_path / "noext.png").is_file() == (code == 0)


def test_unwritable_results(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lq = write_clip(tmp_path / "lq")
    code, _, err = run("--methods", "good", "--input", lq, *FAST, results="file/below")
    assert code == 2
    assert "cannot be written" in err


def test_interrupted_work_is_kept(bench: Path, root: Path, tmp_path: Path) -> None:
    lq = tmp_path / "set"
    for name in "ab":
        write_clip(lq / name, count=4)
    command = [sys.executable, "run_bench.py", "--methods", "slow", "--input", str(lq)]
    command += [
        "--metrics",
        "flicker,lr_psnr",
        "--no-cost",
        "--results",
        str(tmp_path / "results"),
        "--root",
        str(bench),
        "--keep-frames",
    ]
    process = subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    log = tmp_path / "results" / "records.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and '"slow"' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)  # the first clip of the slow method is done
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    done = [r for r in records(tmp_path) if r["method"] == "slow"]
    assert {r["clip"] for r in done} == {"a"}
    assert all(r["status"] == "ok" for r in done if r["metric"] == "flicker")
    left = {p.name for p in (tmp_path / "results" / "frames" / "slow" / "set").iterdir()}
    assert left == {"a", "a.key", "a.sha256"}  # no half-written clip
    done_again = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done_again.returncode == 0, done_again.stderr
    assert {r["clip"] for r in records(tmp_path) if r["method"] == "slow"} == {"a", "b"}
    runs = (tmp_path / "results" / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["exit_code"] for line in runs] == [130, 0]


def test_a_foreign_checkpoint_runs_by_path(run: Run, real: Path, tmp_path: Path) -> None:
    lq = write_clip(tmp_path / "lq", count=2)
    path = real / "weights" / "realesr-animevideov3.pth"
    code, out, err = run("--methods", path, "--input", lq, *FAST)
    assert code == 0, err
    assert "realesr-animevideov3" in out
    assert "user" in out


def test_misaligned_ground_truth_is_named(run: Run, real: Path) -> None:
    clips = real / "clips-gt"
    lq, gt = clips / "vid4-calendar-lr-bd4", clips / "vid4-calendar"
    args = ("--methods", "bicubic", "--input", lq, "--gt", gt)
    code, out, err = run(*args, "--metrics", "psnr", "--no-cost")
    assert code == 0, err
    note = next(line for line in out.splitlines() if "shift" in line)
    assert "vid4-calendar-lr-bd4" in note


def test_help_is_fast_and_imports_no_torch(root: Path) -> None:
    code = "import sys, vsrbench.cli as c; c.main(['list', 'methods'])"
    code += "; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == 0
    )
    times = []  # of the CPU, which other work on the machine does not change
    for _ in range(3):
        start = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        done = subprocess.run(
            [sys.executable, "run_bench.py", "--help"], cwd=root, capture_output=True, text=True
        )
        times.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - start)
        assert done.returncode == 0
        assert "--keep-frames" in done.stdout
    assert min(times) < 0.5


def test_list_and_check(run: Run) -> None:
    code, out, _ = run("list", "methods")
    assert code == 0
    ready = out.partition("NOT READY")[0]
    assert "bicubic" in ready.partition("NEEDS AN ENVIRONMENT")[0]
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = run("check", "--methods", "bicubic", "--metrics", "psnr")
    assert (code, out.count("ready")) == (0, 2)
    code, _, err = run("check", "--methods", "bicubi")
    assert code == 2
    assert "Did you mean" in err


def test_check_imports_and_fills_in(
    run: Run, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = bench / "methods" / "toy"
    text = (toy / "good.toml").read_text()
    (toy / "gone.toml").write_text(text.replace("methods.toy.adapter:load", "nowhere.at_all:lod"))
    (toy / "misspelt.toml").write_text(
        text.replace("methods.toy.adapter:load", "methods.toy.adapter:lod")
    )
    (toy / "halfway.toml").write_text("version = ")
    (toy / "program.toml").write_text(
        text.replace("methods.toy.adapter", "vsrbench.programs.command")
        .replace("[weights]", '[settings]\nargv = ["{python}", "{ckpt}"]\n[weights]')
        .replace('settings = { mode = "good" }', 'kind = "command"')
    )
    (tmp_path / "c.toml").write_text(f'[program]\npython = "{sys.executable}"\nrepo = "/tmp"\n')
    monkeypatch.setenv("VSRBENCH_COMMANDS", str(tmp_path / "c.toml"))
    torch.save({"w": torch.zeros(1)}, tmp_path / "net.pth")
    for name, code, said in (
        ("good", 0, "method good: ready"),
        ("gone", 3, "method gone: method 'gone' cannot be imported: No module named 'nowhere'"),
        (
            "misspelt",
            2,
            "method misspelt: card 'misspelt': entry = \"methods.toy.adapter:lod\" does not name",
        ),
        ("halfway", 2, "is not valid TOML"),
        ("program", 2, "the command names {ckpt}, which has no value"),
        ("gone,good,halfway", 2, "method good: ready"),
        (tmp_path / "net.pth", 0, "net.pth: ready"),
    ):
        found, out, _ = run("check", "--methods", name)
        assert (found, said in out) == (code, True), out
    assert run("check", "--methods", tmp_path / "no.pth")[0] == 2
    code, out, _ = run("check")
    assert code == 2
    assert {line.split()[0] for line in out.splitlines()} == {"method", "dataset", "metric"}
    assert "dataset synthetic: ready" in out


def test_a_damaged_spec_spoils_nothing_else(run: Run, bench: Path, tmp_path: Path) -> None:
    (bench / "datasets" / "wip.toml").write_text("version = ")
    lq = write_clip(tmp_path / "lq")
    code, out, err = run("--methods", "good", "--input", lq, *FAST)
    assert code == 0, err
    assert run("table")[0] == 0
    code, out, _ = run("list", "datasets")
    assert code == 0
    assert "is not valid TOML" in " ".join(out.partition("\nwip")[2].split())
    assert run("--methods", "good", "--datasets", "wip", *FAST)[0] == 2
    shutil.copytree(tmp_path / "results", tmp_path / "of wip")
    for name in ("records", "runs"):  # a spec that was whole when it was scored
        log = tmp_path / "of wip" / f"{name}.jsonl"
        text = log.read_text().replace('"dataset":"lq"', '"dataset":"wip"')
        log.write_text(text.replace(f'"dataset_source":"{lq}"', '"dataset_source":""'))
    code, out, _ = run("table", results="of wip")
    assert (code, "| wip, x4" in out) == (0, True)


def test_a_damaged_set_does_not_stop_the_others(
    run: Run, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = 'version = 1\ntitle = "T"\nkind = "real"\nscale = 4\nlq = "{clip}"\n'
    for name in ("one", "two"):
        (bench / "datasets" / f"{name}.toml").write_text(spec)
        monkeypatch.setenv(f"VSRBENCH_{name.upper()}", str(tmp_path / name))
        write_clip(tmp_path / name / "a")
    (tmp_path / "one" / "a.mp4").write_bytes(b"")
    code, _, err = run("--methods", "good", "--datasets", "one,two", *FAST)
    assert code == 1
    assert "clip 'a' exists twice" in err
    assert {r["dataset"] for r in records(tmp_path)} == {"two"}


def test_a_method_in_a_root_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As README has it: no __init__.py, and bicubic is that of the checkout."""
    mine = tmp_path / "my" / "methods" / "mine"
    mine.mkdir(parents=True)
    (mine / "mine.toml").write_text(
        'version = 1\ntitle = "Mine"\nentry = "methods.mine.adapter:load"\n'
        'settings = { mode = "good" }\n[weights]\norigin = "none"\n'
    )
    (mine / "adapter.py").write_text(ADAPTER)
    lq = write_clip(tmp_path / "lq")
    where = ["--root", str(tmp_path / "my"), "--results", str(tmp_path / "results")]
    args = ["--methods", "mine", "--input", str(lq), *FAST, *where]
    assert main(args) == 0, capsys.readouterr().err
    assert {r["method"] for r in records(tmp_path)} == {"bicubic", "mine"}
    assert main(["list", "datasets", *where[:2]]) == 0
    assert "synthetic" in capsys.readouterr().out


def test_a_folder_of_cards_hides_that_of_the_checkout(bench: Path) -> None:
    assert specs.method_card(bench, "bicubic").folder == str(bench / "methods" / "interpolation")
    (bench / "methods" / "interpolation" / "lanczos.toml").unlink()
    with pytest.raises(UserError, match="no method named 'lanczos'"):
        specs.method_card(bench, "lanczos")


def test_list_methods_v_says_what_they_take(
    run: Run, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(specs, "ROOT", bench)
    for path in (bench / "methods").glob("*/*.toml"):
        if path.stem not in ("bicubic", "load", "realesrgan"):
            path.unlink()
    write_card(bench, "absent", weights='origin = "official"\nfile = "absent.pth"\n')
    write_card(bench, "program")
    program = bench / "methods" / "toy" / "program.toml"
    program.write_text('kind = "command"\n' + program.read_text())
    code, out, err = run("list", "methods", "-v")
    entries = re.split(r"\n(?=[\w-]+ )", out)
    rows = {entry.split()[0]: entry for entry in entries if entry.strip()}
    assert code == 0
    assert re.search(r"built in [0-9.]+ s, \d+ MiB; 0.00 M parameters", rows["bicubic"])
    assert "64x64" in rows["bicubic"]
    assert "64x64" in rows["absent"]  # building needs no numbers
    assert "absent.pth" in rows["absent"]
    assert "built in" not in rows["load"]
    assert "built in" not in rows["realesrgan"]  # which network it is, its file says
    assert "needs its weights realesrgan-x4plus.bin, not found" in err
    assert "built in" not in rows["program"]  # it would have to be run
    assert "cannot build" in err
    assert len(list((tmp_path / "cache/construction").glob("*.json"))) == 2


def test_cost_alone(run: Run) -> None:
    code, out, err = run("cost", "--methods", "bicubic", "--size", "32x24", "--frames", "4")
    assert code == 0, err
    assert "Bicubic" in out
    assert "ms/frame" in out


def test_tables_show_the_cost_that_was_asked_for(run: Run, tmp_path: Path) -> None:
    ours = ("--methods", "bicubic", "--input", write_clip(tmp_path / "lq"), "--metrics", "lr_psnr")
    alone = ("cost", "--methods", "bicubic", "--size", "40x32", "--device", "cpu:0", "--frames")
    for args, timed, new in (
        (ours, 10, "2 new results"),
        ((*alone, 4), 4, "1 new result,"),
        ((*alone, 10), 10, "0 new results"),  # of the run: another name of the same device
        (ours, 10, "0 new results"),
    ):
        code, out, err = run(*args)
        assert code == 0, err
        assert new in err
        assert f"{timed} frames timed" in out


def test_cost_is_measured_at_the_most_frequent_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def measure(card: object, size: tuple[int, int], *_: object) -> None:
        sizes.append(size)
        raise ContractError("measured elsewhere")

    monkeypatch.setattr(cost, "measure", measure)
    for name, width in (("a", 32), ("b", 40), ("c", 40)):
        write_clip(tmp_path / "set" / name, w=width)
    run("--methods", "bicubic", "--input", tmp_path / "set", "--metrics", "lr_psnr")
    assert sizes == [(32, 40)]


def test_readme_shows_the_reference_records(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = root / "results" / "reference"
    text = (root / "README.md").read_text()
    command = re.search(r"`vsrbench (table --results results/reference[^`]*)`", text)
    assert command
    monkeypatch.chdir(root)
    assert main(command[1].split()) == 0
    out = capsys.readouterr().out
    assert "Cost:" not in out  # nor anything else about columns that are not there
    assert "VRAM" not in out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table[0].count("|") == 5  # four columns
    assert "\n".join(table) in text
    lines = text.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100
    # Of the weights that ship, and of nothing older.
    for line in (reference / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["weights_origin"] == "trained_here":
            card = root / "methods" / record["method"] / f"{record['method']}.toml"
            assert record["weights_sha256"] in card.read_text()
