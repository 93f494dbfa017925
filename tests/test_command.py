"""Programs of others, against toy programs: frames in and out, failures, interruption, cost."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import FakeNvml, alive, gone, heed_interrupts
from vsrbench.cli import main
from vsrbench.core import variables
from vsrbench.core.errors import ContractError, DataError, MissingError, UserError
from vsrbench.core.types import Measurement, MethodCard, Sample, Score, Weights
from vsrbench.data.frames import open_frames
from vsrbench.metrics import load_metric, unavailable
from vsrbench.programs import command
from vsrbench.run import cost

TOY = """
import sys, time
from pathlib import Path
import cv2
given, out, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
video = cv2.VideoCapture(str(given)) if given.is_file() else None
pictures = []
if video:
    while (answer := video.read())[0]:
        pictures.append(answer[1])
else:
    pictures = [cv2.imread(str(p)) for p in sorted(given.iterdir())]
if what == "fail":
    print("first\\nRuntimeError: no such layer", file=sys.stderr)
    sys.exit(3)
if what == "hang":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(__file__).with_name("pids").write_text(str(child.pid))
    time.sleep(60)
if what == "short":
    pictures = pictures[:-1]
if what == "pairs":
    pictures = [cv2.max(a, b) for a, b in zip(pictures, pictures[1:])]
if what == "memory":
    hold = bytearray(200 << 20)
    time.sleep(0.5)
if what == "crop8n-3":
    pictures = pictures[: (len(pictures) + 3) // 8 * 8 - 3]
    h, w = (side * 2 // 16 * 16 // 2 for side in pictures[0].shape[:2])
    pictures = [p[:h, :w] for p in pictures]
(out / "result").mkdir()
for i, p in enumerate(pictures):
    big = cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(out / "result" / f"{i:04d}.png"), big)
if what == "two":
    (out / "more").mkdir()
    cv2.imwrite(str(out / "more" / "0.png"), big)
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the toy program, named in the user's TOML."""
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/toy.py").write_text(TOY)
    table = f'[toy]\npython = "{sys.executable}"\nrepo = "{tmp_path / "repo"}"\n'
    (tmp_path / "commands.toml").write_text(table)
    monkeypatch.setenv(variables.COMMANDS, str(tmp_path / "commands.toml"))
    return tmp_path / "repo"


def card(what: str = "", **more: object) -> MethodCard:
    settings = {"argv": ["{python}", "toy.py", "{input}", "{output_dir}", what], **more}
    return MethodCard(
        "toy",
        1,
        "Toy",
        Weights("none"),
        kind="command",
        entry="vsrbench.programs.command:load",
        scale=2,
        settings=settings,
        folder=str(Path(__file__).parents[1] / "methods" / "toy"),
    )


def clip(count: int = 5, h: int = 16, w: int = 24) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, 3, h, w)).astype(np.float32)
    return [torch.from_numpy(f) / 255 for f in frames]


def doubled(frames: list[torch.Tensor]) -> list[torch.Tensor]:
    return [f.repeat_interleave(2, 1).repeat_interleave(2, 2) for f in frames]


def upscale(made: MethodCard, frames: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(command.load(made, "cpu", torch.float32).upscale(iter(frames)))


@pytest.mark.parametrize("given", ["frames", "video"])
def test_frames_arrive_and_return_without_loss(repo: Path, given: str) -> None:
    frames = clip()
    for out, expected in zip(upscale(card(input=given), frames), doubled(frames), strict=True):
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_frame_count_rule_is_undone(repo: Path) -> None:
    made = card("crop8n-3", frames_multiple=8, frames_offset=-3)
    for count in (1, 5, 6, 13):
        frames = clip(count)
        out = upscale(made, frames)
        assert len(out) == count
        torch.testing.assert_close(out[-1], doubled(frames)[-1], atol=1e-6, rtol=0)
    with pytest.raises(ContractError, match="gave 5 frames for 6"):
        upscale(card("crop8n-3"), clip(6))


def test_a_first_frame_that_is_never_written_is_repeated_in_front(repo: Path) -> None:
    """A program that answers for the second frame of every pair."""
    made = card("pairs", frames_lead=1)
    for count in (1, 4):
        frames = clip(count)
        seen = [frames[0], *(torch.maximum(a, b) for a, b in pairwise(frames))]
        for out, expected in zip(upscale(made, frames), doubled(seen), strict=True):
            torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    with pytest.raises(ContractError, match=r"gave 3 frames for 4 .*frames_lead"):
        upscale(card("pairs"), clip(4))


def test_centre_crop_is_undone_by_padding(repo: Path, tmp_path: Path, root: Path) -> None:
    """Through the command line: a program that crops to multiples of 16 gives whole frames."""
    (tmp_path / "tree/methods/toy").mkdir(parents=True)
    (tmp_path / "tree/methods/interpolation").symlink_to(root / "methods/interpolation")
    (tmp_path / "tree/methods/toy/toy.toml").write_text(
        'version = 1\ntitle = "Toy"\nkind = "command"\nscale = 2\n'
        'entry = "vsrbench.programs.command:load"\n'
        "multiple_of = 8\n"
        '[settings]\nargv = ["{python}", "toy.py", "{input}", "{output_dir}", "crop8n-3"]\n'
        "frames_multiple = 8\nframes_offset = -3\n"
        '[weights]\norigin = "official"\n'
    )
    sizes = {"even": (16, 24), "odd": (17, 26)}
    for name, size in sizes.items():
        (tmp_path / "lq" / name).mkdir(parents=True)
        for i, frame in enumerate(clip(3, *size)):
            pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(tmp_path / f"lq/{name}/{i}.png"), pixels[..., ::-1])
    done = subprocess.run(
        [
            *(sys.executable, "run_bench.py", "--methods", "toy", "--input", str(tmp_path / "lq")),
            *("--scale", "2", "--metrics", "lr_psnr", "--keep-frames", "--quiet"),
            *("--root", str(tmp_path / "tree"), "--results", str(tmp_path / "results")),
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name, size in sizes.items():
        (kept,) = (tmp_path / "results/frames/toy").glob(f"*/{name}/")
        out, lq = open_frames(kept), open_frames(tmp_path / "lq" / name)
        assert out.size == (2 * size[0], 2 * size[1])
        for i in range(3):
            np.testing.assert_array_equal(out[i][::2, ::2], lq[i])
    lines = (tmp_path / "results/records.jsonl").read_text().splitlines()
    (measured,) = (
        r for r in map(json.loads, lines) if r["kind"] == "cost" and r["method"] == "toy"
    )
    assert measured["measurement"]["region"] == "process"
    assert "not ranked" in done.stdout


def test_failure_is_one_line(repo: Path) -> None:
    with pytest.raises(ContractError) as caught:
        upscale(card("fail"), clip())
    assert caught.value.message == "'toy' failed with exit code 3: RuntimeError: no such layer"
    with pytest.raises(ContractError, match="gave 4 frames for 5"):
        upscale(card("short"), clip())
    with pytest.raises(DataError, match="left more, result"):
        upscale(card("two"), clip())
    with pytest.raises(UserError, match="which has no value"):
        upscale(card(argv=["{python}", "{ckpt}"]), clip())


def test_timeout_ends_the_whole_tree(repo: Path) -> None:
    with pytest.raises(ContractError, match="did not end within 2 s"):
        upscale(card("hang", timeout_s=2), clip())
    assert gone(int((repo / "pids").read_text()))


def test_interrupt_ends_the_whole_tree(repo: Path) -> None:
    code = (
        "from pathlib import Path; from vsrbench.programs.process import execute; import sys; "
        "Path('in').mkdir(exist_ok=True); Path('out').mkdir(exist_ok=True); "
        "argv = [sys.executable, 'toy.py', 'in', 'out', 'hang'];"
        "execute('toy', argv, Path('.'), 60, 'cpu')"
    )
    tree = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": tree}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=repo,
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    for _ in range(300):
        if (repo / "pids").is_file() and (repo / "pids").read_text():
            break
        time.sleep(0.1)
    child = int((repo / "pids").read_text())
    assert alive(child)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert gone(child)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variables.COMMANDS, raising=False)
    with pytest.raises(MissingError, match="is not set"):
        command.read_places("toy")
    file = tmp_path / "c.toml"
    monkeypatch.setenv(variables.COMMANDS, str(file))
    for text, message in (
        ("[other]\n", "lacks it"),
        ('[toy]\npython = "/nowhere"\n', "python of .toy. is '/nowhere'"),
        (f'[toy]\npython = "{sys.executable}"\n', "repo of .toy. is ''"),
    ):
        file.write_text(text)
        with pytest.raises(MissingError, match=message):
            command.read_places("toy")
    file.write_text("[toy")
    with pytest.raises(UserError, match="not valid TOML"):
        command.read_places("toy")


def test_identity_follows_everything_that_can_change_the_output(
    git: Callable[..., str], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(more: str = "") -> str:
        command.forget_state()
        table = f'[toy]\npython = "{sys.executable}"\nrepo = "{repo}"\n{more}\n'
        (tmp_path / "commands.toml").write_text(table)
        return command.identify(card())

    seen = [identity()]
    (repo / "toy.py").write_text(TOY.replace("2 // 16", "2 // 32"))  # of the same size
    seen.append(identity())
    git(repo, "init", "-q")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "toy")
    (repo / "__pycache__").mkdir()
    (repo / "__pycache__/toy.pyc").write_text("")
    head = git(repo, "rev-parse", "HEAD")
    assert identity() == head
    assert identity("timeout_s = 5") == identity()
    with monkeypatch.context() as hook:  # there git is told of another repository
        hook.setenv("GIT_DIR", str(tmp_path / "another"))
        assert identity() == head
    seen.append(identity())
    (repo / "toy.py").write_text(TOY)
    seen.append(identity())
    git(repo, "checkout", "-q", "toy.py")
    for flag in ("assume-unchanged", "skip-worktree"):  # git is told not to look
        git(repo, "update-index", f"--{flag}", "toy.py")
        (repo / "toy.py").write_text(TOY.replace("2 // 16", "2 // 64"))
        assert identity() not in seen
        (repo / "toy.py").write_text(TOY)
        git(repo, "update-index", f"--no-{flag}", "toy.py")
    git(repo, "checkout", "-q", "toy.py")
    (tmp_path / "net").mkdir()
    files = {"light.pt": "light.pt", "net/a.bin": "net", "repo/wrapper.py": "repo/wrapper.py"}
    for name, named in files.items():
        for content in "ab":
            (tmp_path / name).write_text(name + content)
            seen.append(identity(f'model = "{tmp_path / named}"'))
    assert identity('model = "wrapper.py"') == seen[-1]  # as the program sees it
    (tmp_path / "copy.pt").write_bytes((tmp_path / "light.pt").read_bytes())
    copies = (f'model = "{tmp_path / name}"' for name in ("copy.pt", "light.pt"))
    assert len({identity(text) for text in copies}) == 1
    seen += [identity(f'model = "{text}"') for text in ("heavy", "light", "", "x" * 300)]
    assert len(set(seen)) == len(seen)


def test_kept_frames_of_a_lossy_program_stay_marked(
    repo: Path,
    tmp_path: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metrics that are asked for later score the kept frames, which are PNG by then.

    All paths are relative: the program works in another folder.
    """
    monkeypatch.chdir(tmp_path)
    table = f'[toy]\npython = "{os.path.relpath(sys.executable)}"\nrepo = "checkout"\n'
    Path("commands.toml").write_text(table)
    Path("checkout").symlink_to(repo)
    monkeypatch.setenv("VSRBENCH_COMMANDS", "commands.toml")
    toy = TOY.replace("{i:04d}.png", "{i:04d}.jpg")
    assert toy != TOY
    (repo / "toy.py").write_text(toy)
    (tmp_path / "tree/methods/toy").mkdir(parents=True)
    (tmp_path / "tree/methods/interpolation").symlink_to(root / "methods/interpolation")
    (tmp_path / "tree/methods/toy/toy.toml").write_text(
        'version = 1\ntitle = "Toy"\nkind = "command"\nscale = 2\n'
        'entry = "vsrbench.programs.command:load"\n'
        '[settings]\nargv = ["{python}", "toy.py", "{input}", "{output_dir}", ""]\n'
        '[weights]\norigin = "official"\n'
    )
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8), (32, 24))
    (tmp_path / "lq").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"lq/{i}.png"), smooth)
    asked = ("--methods", "toy", "--input", "lq", "--scale", 2, "-q", "--frames", "2")
    places = ("--root", "tree", "--results", "results")
    for metric in ("lr_psnr", "flicker", "flicker_vbench"):
        code = main([*map(str, (*asked, "--metrics", metric, "--keep-frames", *places))])
        out = capsys.readouterr().out
        assert code == 0
        assert "| Toy (lossy)" in out
        assert "Toy came as jpg, which is lossy" in out
        shutil.rmtree(repo / "result", ignore_errors=True)
    lines = (tmp_path / "results/records.jsonl").read_text().splitlines()
    of_toy = [r for r in map(json.loads, lines) if r["method"] == "toy"]
    assert {r["status"] for r in of_toy} == {"ok"}
    own = [r for r in of_toy if r["kind"] == "quality"]
    assert len(own) < len(of_toy)  # of its cost, which is measured in another process
    assert [r["read"]["outputs"]["codec"] for r in own] == ["jpg"] * 3
    assert len({r["output"] for r in own}) == 1


def test_cost_covers_the_process_tree(repo: Path) -> None:
    measured = cost.measure(card("memory"), (16, 24), 4, "cpu")
    assert measured.region == "process"
    assert measured.rss_peak_mib is not None
    assert measured.rss_peak_mib > 200
    assert measured.fps == pytest.approx(4000 / measured.first_output_ms)


def test_energy_of_a_program_from_start_to_exit(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", gpu)
    monkeypatch.setattr(cost, "_uuid", lambda device: "GPU-1")
    monkeypatch.setattr(cost, "device_name", lambda device: "a GPU")

    def measured(device: str = "cuda:0") -> Measurement:
        return cost._measure_process(card("memory"), (16, 24), 4, device)

    short = measured()
    assert short.j_per_frame is None
    assert short.why["j_per_frame"] == "the program took less than 5 s"
    monkeypatch.setattr(cost, "ENERGY_S", 0.4)
    found = measured()
    assert found.first_output_ms > 500  # what it sleeps
    assert found.j_per_frame == pytest.approx(
        gpu.watts * found.first_output_ms / 1000 / 4, rel=0.02
    )
    assert "j_per_frame" not in found.why
    gpu.pids = (os.getpid(), 2**30)
    busy = measured()
    assert (busy.j_per_frame, busy.gpu_shared) == (None, True)
    assert busy.why["j_per_frame"] == busy.why["gpu_shared"] == "another process was on the GPU"
    gpu.pids = (os.getpid(),)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "several GPUs" in measured("cuda").why["j_per_frame"]
    assert measured("cuda:1").j_per_frame is not None
    monkeypatch.setattr(cost, "_uuid", lambda device: None)
    assert measured().why["j_per_frame"] == "no CUDA device"


DOVER = {
    "dover.yml": "",
    "yaml.py": "def safe_load(text):\n"
    "    t = dict(clip_len=4, num_clips=1, frame_interval=1)\n"
    "    types = dict(technical=t, aesthetic=dict(t, t_frag=2))\n"
    "    data = {'val-l1080p': dict(args=dict(sample_types=types))}\n"
    "    return dict(test_load_path='w.pth', model=dict(args={}), data=data)\n",
    "dover/__init__.py": "",
    "dover/models.py": "import torch\n"
    "class DOVER(torch.nn.Module):\n"
    "    def __init__(self):  # as the authors', it would download what the checkpoint replaces\n"
    "        super().__init__()\n"
    "        assert not torch.hub.load_state_dict_from_url(url='https://nowhere')['model']\n"
    "    def forward(self, views):\n"
    "        return [torch.tensor([[0.1107], [0.1107]]) if n == 'technical' else\n"
    "                -0.08285 + 0.01 * torch.rand(1) for n, v in views.items() if v.ndim == 5]\n",
    "dover/datasets.py": "import cv2, torch\n"
    "class UnifiedFrameSampler:\n"
    "    def __init__(self, *shape): assert len(shape) in (3, 4)\n"
    "def spatial_temporal_view_decomposition(path, types, samplers):\n"
    "    video, frames = cv2.VideoCapture(path), []\n"
    "    while (answer := video.read())[0]: frames.append(torch.from_numpy(answer[1]))\n"
    "    assert len(frames) == 4\n"
    "    view = torch.stack(frames).permute(3, 0, 1, 2)\n"
    "    return {name: view for name in types}, None\n",
}


def bridged(
    name: str, package: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Score:
    """The score of a clip by a stand-in of the authors' package, twice the same."""
    for path, text in package.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_text(text)
    torch.save({}, folder / "w.pth")
    monkeypatch.delenv(variables.COMMANDS, raising=False)
    missing = unavailable(name)
    assert missing is not None
    assert f'["{name}"]' in missing.hint
    (folder / "c.toml").write_text(f'[{name}]\npython = "{sys.executable}"\nrepo = "{folder}"\n')
    monkeypatch.setenv(variables.COMMANDS, str(folder / "c.toml"))
    assert unavailable(name) is None
    scores = []
    for _ in range(2):
        metric = load_metric(name)
        for i, frame in enumerate(clip(4, 32, 32)):
            pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
            metric.update(Sample(i, pixels, None, None, pixels, None))
        scores.append(metric.result())
    assert scores[0] == scores[1]
    return scores[0]


def test_dover_through_its_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes in, what comes out, seeds and scales."""
    score = bridged("dover", DOVER, tmp_path, monkeypatch)
    extra = score.extra
    assert extra["raw_technical"] == pytest.approx(0.1107)
    assert extra["technical_x100"] == pytest.approx(50, abs=1e-3)
    assert -0.08285 < extra["raw_aesthetic"] < -0.07285
    assert 0.5 < score.value < 0.53
    assert extra["spread"] > 0
    assert extra["samplings"] == 5


TEMPORAL = "clip_len=4, t_frag=2, num_clips=1"
FASTERVQA = {
    "options/fast/f3dvqa-b.yml": "",
    "fastvqa/__init__.py": "",
    "fastvqa/models.py": "import torch\n"
    "class DiViDeAddEvaluator(torch.nn.Module):\n"
    "    def forward(self, views):\n"
    "        (view,) = views.values()\n"
    "        assert view.shape == (1, 3, 4, 8, 8) and 1 < view.std() < 5, view.shape\n"
    "        return torch.tensor([[0.14759505]]) + 0.01 * torch.rand(1)\n",
    "fastvqa/datasets.py": "class FragmentSampleFrames:\n"
    "    def __init__(self, fsize_t, fragments_t, num_clips):\n"
    "        assert (fsize_t, fragments_t, num_clips) == (2, 2, 1)\n"
    "    def __call__(self, count): return range(count)\n"
    "SampleFrames = None\n"
    "def get_spatial_fragments(video, side, **_): return video[:, :, :side, :side]\n",
    "decord/__init__.py": "import cv2, torch\nfrom decord import bridge\n"
    "class VideoReader(list):\n"
    "    def __init__(self, path):\n"
    "        video = cv2.VideoCapture(path)\n"
    "        while (answer := video.read())[0]: self.append(torch.from_numpy(answer[1] * 1))\n",
    "decord/bridge.py": "def set_bridge(name): assert name == 'torch'\n",
}


@pytest.mark.parametrize("inside", [False, True])
def test_fastervqa_through_its_bridge(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options name the frames of a view beside the views, or in another version inside."""
    within, beside = (TEMPORAL, "") if inside else ("", TEMPORAL)
    options = (
        "def safe_load(text):\n"
        f"    types = dict(fragments=dict(side=8, {within}))\n"
        f"    data = {{'val-kv1k': dict(args=dict(sample_types=types, {beside}))}}\n"
        "    return dict(test_load_path='./w*.pth', model=dict(args={}), data=data)\n"
    )
    score = bridged("fastervqa", FASTERVQA | {"yaml.py": options}, tmp_path, monkeypatch)
    raw = score.extra["raw_raw"]
    assert 0.14759505 < raw < 0.15759505
    # The mean of five sigmoids is all but that of the mean.
    assert score.value == pytest.approx(
        1 / (1 + math.exp(-(raw - 0.14759505) / 0.03613452)), abs=1e-3
    )
    assert score.extra["spread"] > 0
    assert score.extra["samplings"] == 5
