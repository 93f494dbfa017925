"""What runs in environments of others: frames come back bit-exact, models are loaded once."""

from __future__ import annotations

import ast
import gc
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import gone, package_folders
from vsrbench.core import variables
from vsrbench.core.errors import ContractError, MissingError
from vsrbench.core.types import MethodCard, Weights
from vsrbench.data.frames import open_frames
from vsrbench.metrics import bridge
from vsrbench.programs import command, lossless
from vsrbench.run import cost
from vsrbench.run.method import padding

# A repository of others: video in, lossy video out by the writers that such scripts use. It crops
# to multiples of 16 px of its output, centred, and gives 8n - 3 frames back.
SCRIPT = """
import argparse, os, subprocess, sys
import cv2, numpy as np
import helpers  # beside the script
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--input", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--by", required=True)
a = parser.parse_args()
video, frames = cv2.VideoCapture(a.input), []
while (answer := video.read())[0]:
    frames.append(helpers.enlarge(answer[1][..., ::-1]))
frames = frames[: (len(frames) + 3) // 8 * 8 - 3]
h, w = (side // 16 * 16 for side in frames[0].shape[:2])
top, left = (frames[0].shape[0] - h) // 2, (frames[0].shape[1] - w) // 2
frames = np.stack([f[top : top + h, left : left + w] for f in frames])
to = os.path.join(a.out, "clip.mp4")
if a.by == "mediapy":
    import mediapy
    mediapy.write_video(to, frames, fps=24)
elif a.by == "mediapy-float":
    import mediapy as media
    with media.VideoWriter(to, (h, w), fps=24) as writer:
        for f in frames: writer.add_image(f / 255)
elif a.by == "mimwrite":
    import imageio
    imageio.mimwrite(to, frames, fps=24, quality=8, output_params=["-loglevel", "error"])
elif a.by == "get_writer":
    from imageio import get_writer
    with get_writer(to, fps=24, codec="libx264", quality=6, macro_block_size=16) as writer:
        for f in frames: writer.append_data(np.array(f))
elif a.by == "v3":
    import imageio.v3 as iio
    iio.imwrite(to, frames, fps=24, codec="libx264", pixelformat="yuv420p")
elif a.by == "torchvision":
    from torchvision.io import write_video
    write_video(to, frames, fps=24, video_codec="h264")
elif a.by == "cv2":
    writer = cv2.VideoWriter(to, cv2.VideoWriter_fourcc(*"mp4v"), 24.0, (w, h))
    assert writer.isOpened()
    for f in frames: writer.write(cv2.cvtColor(f, cv2.COLOR_RGB2BGR))
    writer.release()
elif a.by == "ffmpeg":  # images in a folder, hidden failure, renamed afterwards
    for i, f in enumerate(frames): cv2.imwrite(f"{a.out}/../tmp{i + 1:06d}.png", f[..., ::-1])
    made = os.path.join(a.out, "tmp.mp4")
    subprocess.getstatusoutput(
        f"ffmpeg -y -f image2 -framerate 24.0 -i '{a.out}/../tmp%06d.png' -vcodec libx264 "
        f"-preset ultrafast -crf 0 -pix_fmt yuv420p '{made}'")
    os.rename(made, to)
elif a.by == "ffmpeg-raw":
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r", "24", "-i", "-"]
    what = ["-an", "-c:v", "libx265", "-preset", "medium", "-crf", "23", "-pix_fmt", "yuv420p", to]
    command = ["ffmpeg", "-y", "-loglevel", "error", *given, *what]
    subprocess.run(command, input=frames.tobytes(), check=True)
"""
HELPERS = "def enlarge(f):\n    return f.repeat(2, 0).repeat(2, 1)\n"
STUBS = {
    "mediapy.py": "import cv2\n"
    "def write_video(path, images, fps):\n"
    "    h, w = images[0].shape[:2]\n"
    "    out = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'mp4v'), fps, (w, h))\n"
    "    for image in images: out.write(image[..., ::-1].copy())\n"
    "    out.release()\n"
    "def write_image(path, image): cv2.imwrite(path, image[..., ::-1])\n"
    "class VideoWriter: pass\n",
    "torchvision/__init__.py": "",
    "torchvision/io/__init__.py": "def write_video(*a, **k): raise RuntimeError('lossy')\n",
}
WRITERS = (
    *("mediapy", "mediapy-float", "mimwrite", "get_writer", "v3", "torchvision", "cv2"),
    *("ffmpeg", "ffmpeg-raw"),
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, with an environment of its own beside it."""
    folder = tmp_path_factory.mktemp("toy")
    for name, text in {"scripts/run.py": SCRIPT, "scripts/helpers.py": HELPERS, **STUBS}.items():
        (folder / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "repo" / name).write_text(text)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    # What is installed here is installed there, too: no network.
    (packages / "shared.pth").write_text("\n".join(package_folders()))
    return folder


@pytest.fixture
def table(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's table."""
    file = checkout / "commands.toml"
    python = checkout / "env/bin/python"
    file.write_text(f'[toy]\npython = "{python}"\nrepo = "{checkout / "repo"}"\n')
    monkeypatch.setenv(variables.COMMANDS, str(file))
    return checkout / "repo"


def card(argv: tuple[str, ...] = (), **settings: object) -> MethodCard:
    rules = {"frames_multiple": 8, "frames_offset": -3, "input": "video"}
    more = {"argv": list(argv)} if argv else {}
    return MethodCard(
        *("toy", 1, "Toy", Weights("none")),
        kind="command",
        entry="vsrbench.programs.command:load",
        scale=2,
        multiple_of=8,
        settings=rules | more | settings,
        folder=str(Path(__file__).parent),
    )


def script(by: str) -> MethodCard:
    start = ("{python}", "{lossless}", "scripts/run.py")
    return card((*start, "--input", "{input}", "--out", "{output_dir}", "--by", by))


def clip(count: int, h: int = 24, w: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (count, 3, h, w), generator=generator) / 255)


def upscale(made: MethodCard, frames: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(command.load(made, "cpu", torch.float32).upscale(iter(frames)))


def expect_doubled(out: list[torch.Tensor], frames: list[torch.Tensor]) -> None:
    for a, b in zip(out, frames, strict=True):
        wanted = b.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal((a * 255).round(), (wanted * 255).round())


@pytest.mark.parametrize("by", WRITERS)
def test_frames_come_back_bit_exact_whatever_writes_them(table: Path, by: str) -> None:
    frames = clip(6)
    method = command.load(script(by), "cpu", torch.float32)
    expect_doubled(list(method.upscale(iter(frames))), frames)
    assert method.read == {"codec": "png", "pixels": "", "lossy": False}


def test_without_it_the_same_script_is_lossy(table: Path) -> None:
    made = script("mediapy")
    argv = [part for part in made.settings["argv"] if part != "{lossless}"]
    method = command.load(card(tuple(argv)), "cpu", torch.float32)
    out = list(method.upscale(iter(clip(6))))
    assert method.read == {"codec": "mpeg4", "pixels": "yuv420p", "lossy": True}
    error = torch.stack(out) - torch.stack(clip(6)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert 10 * torch.log10(1 / (error**2).mean()) < 45


@pytest.mark.parametrize("count", [1, 5, 21, 22])
@pytest.mark.parametrize("size", [(24, 40), (17, 33)])
def test_counts_and_sizes_at_which_the_rules_bite(
    table: Path, count: int, size: tuple[int, int]
) -> None:
    made = script("mediapy")
    left, right, top, bottom = padding(made, size)
    padded = [
        torch.nn.functional.pad(f[None], (left, right, top, bottom), "reflect")[0]
        for f in clip(count, *size)
    ]
    expect_doubled(upscale(made, padded), padded)


def test_other_uses_of_the_libraries_stay(tmp_path: Path) -> None:
    """Pictures are written as ever, and `ffmpeg` for anything else is the next one on PATH."""
    (tmp_path / "mediapy.py").write_text(STUBS["mediapy.py"])
    real = tmp_path / "bin/ffmpeg"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\necho real $@\n")
    real.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "script.py").write_text(
        "import subprocess, sys, imageio, numpy as np\n"
        "imageio.imwrite('a.png', np.zeros((4, 4, 3), np.uint8))\n"
        "imageio.mimwrite('a.gif', np.zeros((2, 4, 4, 3), np.uint8))\n"
        "import mediapy\n"
        "mediapy.write_image('b.png', np.full((4, 4, 3), 7, np.uint8))\n"
        "mediapy.write_image('b.mp4', np.full((4, 4, 3), 9, np.uint8))\n"
        "for text in ('-i a.mp4 -f rawvideo -', '-i a.mp4 b.mp4', '-i %03d.jpg b.mp4',\n"
        "             '-i %03d.png -vf scale=2:2 b.mp4', '-version'):\n"
        "    print(subprocess.getoutput('ffmpeg ' + text))\n"
        "print(__name__, sys.argv[1:], sys.path[0])\n"
    )
    done = subprocess.run(
        [sys.executable, lossless.__file__, "script.py", "--x", "1"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{real.parent}:{os.environ['PATH']}", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *passed, last = done.stdout.splitlines()
    assert [line.split()[0] for line in passed] == ["real"] * 5
    assert last == f"__main__ ['--x', '1'] {tmp_path}"
    assert cv2.imread(str(tmp_path / "a.png")).shape == (4, 4, 3)
    assert (tmp_path / "a.gif").is_file()
    assert cv2.imread(str(tmp_path / "b.png")).max() == 7
    assert cv2.imread(str(tmp_path / "b.mp4/000000.png")).min() == 9
    assert not list(temporary.iterdir())


def test_pictures_of_all_kinds_become_8_bit_rgb(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for frame, wanted in (
        (rgb, rgb),
        (torch.from_numpy(rgb), rgb),
        (rgb / 255, rgb),
        (rgb.astype(np.float32) / 255, rgb),
        (rgb.astype(np.uint16) << 8, rgb),
        (rgb.astype(np.int64), rgb),
        (np.dstack([rgb, rgb[..., :1]]), rgb),
        (rgb[..., 0], np.repeat(rgb[..., :1], 3, 2)),
        (rgb > 99, np.uint8(rgb > 99) * 255),
        (np.array([[[-1.0, 0.5, 2.0]]]), np.uint8([[[0, 128, 255]]])),
    ):
        np.testing.assert_array_equal(lossless.to_uint8(frame), wanted)
    with pytest.raises(ValueError, match="not a picture"):
        lossless.to_uint8(rgb[None])
    lossless.write_png(tmp_path / "0.png", rgb)
    np.testing.assert_array_equal(open_frames(tmp_path)[0], rgb)


def foreign() -> list[Path]:
    """All of ours that runs in environments of others."""
    root = Path(__file__).parents[1]
    scripts = (lossless.__file__, command.WORKER, bridge.__file__)
    return [*map(Path, scripts), *root.glob("methods/*/program*.py")]


@pytest.mark.parametrize("path", foreign(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_old_pythons_can_read_what_runs_there(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not any(name.startswith("vsrbench") for name in imported)


# --- a program that stays


PROGRAM = """
import os, sys, time
import cv2
print("noise on standard output")
def load(values):
    with open(os.path.join(values["repo"], "loads"), "a") as file: file.write("x")
    time.sleep(0.3)
    if values.get("broken"): raise RuntimeError("no such layer")
    return {"served": 0}
def restore(model, values):
    import mediapy
    model["served"] += 1
    video, frames = cv2.VideoCapture(values["input"]), []
    while (answer := video.read())[0]: frames.append(answer[1][..., ::-1])
    print("noise")
    if len(frames) == 2: raise ValueError("two frames are too few")
    if len(frames) == 3: os._exit(7)
    if len(frames) == 4: time.sleep(60)
    assert values["scale"] == 2 and values["short"] == min(values["height"], values["width"])
    big = [f.repeat(2, 0).repeat(2, 1) for f in frames]
    mediapy.write_video(os.path.join(values["output_dir"], "clip.mp4"), big, fps=1)
"""


@pytest.fixture
def staying(table: Path, tmp_path: Path) -> MethodCard:
    """A card whose program stays."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (table / "loads").unlink(missing_ok=True)
    made = card(program="program.py", frames_multiple=1, frames_offset=0, timeout_s=20)
    return MethodCard(**(vars(made) | {"folder": str(tmp_path)}))


def test_a_model_is_loaded_once(
    staying: MethodCard, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(
        "PYTHONUNBUFFERED", raising=False
    )  # what a crash leaves is read all the same
    method = command.load(staying, "cpu", torch.float32)
    for count in (1, 5):
        expect_doubled(list(method.upscale(iter(clip(count)))), clip(count))
    assert (table / "loads").read_text() == "x"
    assert method.loading is not None
    assert method.usage is not None
    assert method.usage.seconds < 0.3 <= method.loading.seconds
    with pytest.raises(ContractError, match=r"'toy' failed: ValueError: two frames are too few"):
        list(method.upscale(iter(clip(2))))
    expect_doubled(list(method.upscale(iter(clip(1)))), clip(1))
    assert (table / "loads").read_text() == "x"  # an error is an answer
    with pytest.raises(ContractError, match="failed with exit code 7: noise"):
        list(method.upscale(iter(clip(3))))
    expect_doubled(list(method.upscale(iter(clip(1)))), clip(1))
    assert (table / "loads").read_text() == "xx"
    assert method._worker is not None
    pid = method._worker._program.process.pid
    del method
    gc.collect()
    assert gone(pid)


def test_a_program_that_takes_too_long_ends(staying: MethodCard, table: Path) -> None:
    settings = dict(staying.settings) | {"timeout_s": 2}
    method = command.load(
        MethodCard(**(vars(staying) | {"settings": settings})), "cpu", torch.float32
    )
    started = time.perf_counter()
    with pytest.raises(ContractError, match="did not end within 2 s"):
        list(method.upscale(iter(clip(4))))
    assert time.perf_counter() - started < 15
    assert method._worker is not None
    assert gone(method._worker._program.process.pid)


def test_what_a_program_lacks_is_one_line(staying: MethodCard) -> None:
    broken = MethodCard(**(vars(staying) | {"settings": dict(staying.settings) | {"broken": 1}}))
    with pytest.raises(ContractError, match="'toy' failed: RuntimeError: no such layer"):
        upscale(broken, clip(1))
    absent = MethodCard(**(vars(staying) | {"folder": "/nowhere"}))
    with pytest.raises(MissingError, match=r"names /nowhere/program\.py, which does not exist"):
        command.check_arguments(absent)


def test_cost_of_a_loaded_model_is_a_region_of_its_own(staying: MethodCard) -> None:
    measured = cost.measure(staying, (24, 40), 5, "cpu")
    assert measured.region == "worker"
    assert measured.loading_ms is not None
    assert measured.loading_ms > 300
    assert measured.fps == pytest.approx(5000 / measured.first_output_ms)
    assert json.loads(json.dumps(measured.loading_ms)) == measured.loading_ms
