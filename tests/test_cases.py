"""Small inputs that once went wrong without a word, each with its right value or refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vsrbench.cli import main
from vsrbench.core.errors import DataError
from vsrbench.data.datasets import clips_below, open_input
from vsrbench.data.frames import open_frames
from vsrbench.data.images import read_image
from vsrbench.metrics.fidelity import psnr

CASES = Path(__file__).parent / "data" / "cases"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command in this process: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main([*map(str, args), "--results", str(tmp_path / "results"), "-q"])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def values(tmp_path: Path, metric: str = "psnr") -> dict[str, float]:
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    found = [r for r in map(json.loads, lines) if r["metric"] == metric and r["status"] == "ok"]
    return {r["method"]: r["value"] for r in found}


def frames(tmp_path: Path) -> dict[str, int]:
    """Frames of each clip that bicubic was scored on."""
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    found = [r for r in map(json.loads, lines) if r["method"] == "bicubic" and r["status"] == "ok"]
    return {r["clip"]: r["frames"] for r in found}


BICUBIC = ("--methods", "bicubic", "--metrics", "lr_psnr", "--no-cost", "--input")


def same(one: Path, other: Path) -> float:
    return psnr(read_image(one), read_image(other))


def test_a_gap_on_one_side_is_refused(call: Call, tmp_path: Path) -> None:
    case = CASES / "01-gap-mispairs"
    code, out, err = call(
        "score", "--outputs", case / "sr", "--gt", case / "gt", "--metrics", "psnr"
    )
    assert (code, out) == (1, "")
    assert "frame 0004 only in outputs, frame 0001 only in GT" in err
    # The control: what both sides have, with a constant offset, is 35.549 dB.
    for side, first in (("sr", 1), ("gt", 0)):
        (tmp_path / side).mkdir()
        for i, name in enumerate(["0000", "0002", "0003", "0005", "0006", "0007", "0008"]):
            shutil.copy(case / side / f"{name}.png", tmp_path / side / f"{i + first:04d}.png")
    code, out, err = call(
        "score", "--outputs", tmp_path / "sr", "--gt", tmp_path / "gt", "--metrics", "psnr"
    )
    assert code == 0, err
    assert values(tmp_path)["sr"] == pytest.approx(35.549, abs=5e-4)


def test_a_gap_that_changes_the_count_is_named_too(call: Call, tmp_path: Path) -> None:
    case = CASES / "01-gap-mispairs"
    shutil.copytree(case / "gt", tmp_path / "sr")
    (tmp_path / "sr" / "0003.png").unlink()
    for preset in ([], ["--preset", "dove"]):
        code, _, err = call(
            "score", "--outputs", tmp_path / "sr", "--gt", case / "gt", "--metrics", "psnr", *preset
        )
        assert code == 1
        assert "frame 0003 only in GT" in err


def test_the_same_frame_twice_is_refused(call: Call) -> None:
    code, out, err = call(
        "--methods", "bicubic", "--input", CASES / "04-same-frame-twice" / "clip", "--no-cost"
    )
    assert (code, out) == (1, "")
    assert "holds a frame twice: 0000.jpg and 0000.png" in err


@pytest.mark.parametrize("name", ["rgba128.png", "rgba128.tif", "orient3.tif"])
def test_tiff_follows_the_rules_of_png(name: str, call: Call, tmp_path: Path) -> None:
    case = CASES / "10-tiff-alpha-and-orientation"
    assert same(case / name, case / "stored.png") == 80
    both = ("--outputs", case / name, "--gt", case / "stored.png")
    assert call("score", *both, "--metrics", "psnr")[0] == 0
    assert values(tmp_path)[Path(name).stem] == 80


def test_every_container_is_a_clip(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(CASES / "11-containers-dropped" / "root", root)
    (root / "notes.txt").write_text("not a clip\n")
    (root / "a.nobody-listed-this").write_bytes((root / "f.MTS").read_bytes())
    (root / "a.nobody-listed-this").rename(root / "g.nobody-listed-this")
    said: list[str] = []
    found = open_input(root, None, 4, said.append)
    assert {clip.name: clip.count for clip in found.clips} == dict.fromkeys("abcdefg", 5)
    assert said == [f"not read in {root}: notes.txt"]
    code, _, err = call(*BICUBIC, root)
    assert (code, frames(tmp_path)) == (0, dict.fromkeys("abcdefg", 5))
    assert said[0] in err


def test_folders_of_systems_are_no_clips(call: Call, tmp_path: Path) -> None:
    names = [f"{i:04d}.png" for i in range(3)]
    for folder in ("clipA", "@eaDir", "__MACOSX/clipA", ".thumbnails", "clipA/@eaDir"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for name in names:
        shutil.copy(CASES / "04-same-frame-twice" / "clip" / name, tmp_path / "root" / "clipA")
    thumb = CASES / "04-same-frame-twice" / "clip" / "0000.jpg"
    shutil.copy(thumb, tmp_path / "root" / "@eaDir" / "SYNOFILE_THUMB_M.jpg")
    shutil.copy(thumb, tmp_path / "root" / "clipA" / "@eaDir" / "SYNOFILE_THUMB_M.jpg")
    (tmp_path / "root" / "__MACOSX" / "clipA" / "._0000.png").write_bytes(b"x")
    (tmp_path / "root" / "clipA" / "._0000.png").write_bytes(b"x")
    said: list[str] = []
    (clip,) = open_input(tmp_path / "root", None, 4, said.append).clips
    assert (clip.name, clip.count) == ("clipA", 3)
    assert said == [f"not read in {tmp_path / 'root'}: .thumbnails/, @eaDir/, __MACOSX/"]
    code, _, err = call(*BICUBIC, tmp_path / "root")
    assert (code, frames(tmp_path)) == (0, {"clipA": 3})
    assert said[0] in err


@pytest.mark.parametrize("name", ["anim.webp", "anim.png", "stack.tif"])
def test_several_pictures_in_one_file_are_refused(name: str, call: Call, tmp_path: Path) -> None:
    path = CASES / "13-many-frames-in-one-image" / name
    with pytest.raises(DataError, match="holds several pictures"):
        open_frames(path)
    # Not the first of its folder, either.
    shutil.copy(CASES / "10-tiff-alpha-and-orientation" / "stored.png", tmp_path / "0.png")
    shutil.copy(path, tmp_path / f"1{path.suffix}")
    with pytest.raises(DataError, match="holds several pictures"):
        open_input(tmp_path, None, 4)
    code, _, err = call(*BICUBIC, path)
    assert code == 1
    assert "holds several pictures" in err


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("14-webm-wallclock-duration/mediarec.webm", 8),
        ("16-cover-picture/hold.mkv", 8),
        ("18-ts-joined/a_then_b.ts", 24),
        ("18-ts-joined/wrapped_pts.ts", 12),
    ],
)
def test_odd_durations_and_timestamps_lose_no_frame(
    name: str, count: int, call: Call, tmp_path: Path
) -> None:
    source = open_frames(CASES / name)
    pictures = list(source)
    assert len(pictures) == len(source) == count
    for k in (count - 1, 3, 0, count // 2):
        np.testing.assert_array_equal(source[k], pictures[k])
    assert call(*BICUBIC, CASES / name)[0] == 0
    assert frames(tmp_path) == {Path(name).stem: count}


def test_a_colon_in_a_name_is_no_protocol(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CASES / "11-containers-dropped" / "root" / "a.mp4", tmp_path / "take:2.mp4")
    monkeypatch.chdir(tmp_path)
    (clip,) = open_input(Path("take:2.mp4"), None, 4).clips
    assert (clip.name, clip.count) == ("take_2", 5)
    assert call(*BICUBIC, "take:2.mp4")[0] == 0
    assert frames(tmp_path) == {"take_2": 5}


def test_cover_pictures_are_not_the_video(call: Call, tmp_path: Path) -> None:
    case = CASES / "16-cover-picture"
    said: list[str] = []
    for name in ("cover_first.mp4", "mjpeg_track_first.mkv"):
        (clip,) = open_input(case / name, None, 4, said.append).clips
        assert (clip.count, clip.size) == (12, (192, 256))
    assert said == [
        f"{case / 'mjpeg_track_first.mkv'} holds 2 video tracks: number 2 is read, the default "
        "one, 256x192 px"
    ]
    for name in ("cover_first.mp4", "mjpeg_track_first.mkv"):
        code, _, err = call(*BICUBIC, case / name)
        assert (code, said[0] in err) == (0, name.startswith("mjpeg"))
        assert frames(tmp_path)[Path(name).stem] == 12


def test_the_same_samples_in_ten_bits_give_the_same_frames(call: Call, tmp_path: Path) -> None:
    case = CASES / "17-ten-bit-same-samples"
    eight, ten = open_frames(case / "eight.mkv"), open_frames(case / "ten.mkv")
    assert len(eight) == len(ten) == 6
    assert [psnr(a, b) for a, b in zip(eight, ten, strict=True)] == [80.0] * 6
    both = ("--outputs", case / "ten.mkv", "--gt", case / "eight.mkv")
    assert call("score", *both, "--metrics", "psnr")[0] == 0
    assert values(tmp_path)["ten"] == 80


def test_gt_of_odd_size_is_to_be_cropped(call: Call) -> None:
    case = CASES / "19-odd-gt"
    code, _, err = call(
        *("--methods", "bicubic", "--input", case / "lq", "--gt", case / "gt", "--no-cost")
    )
    assert code == 1
    assert "GT 107x60 is not a whole multiple of LQ 26x15" in err
    assert "crop GT to 104x60" in err


def test_a_broken_png_does_not_end_the_process(root: Path, call: Call) -> None:
    path = CASES / "20-png-that-kills-the-decoder" / "a.png"
    code = (
        "import sys; from pathlib import Path;"
        "from vsrbench.core.errors import DataError; from vsrbench.data.images import read_image\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except DataError as error: print(error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "is damaged" in done.stdout
    status, _, err = call(*BICUBIC, path)
    assert status == 1
    assert "holds several pictures" in err


def test_a_linked_video_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "3f2a.blob").write_bytes(
        (CASES / "11-containers-dropped" / "root" / "a.mp4").read_bytes()
    )
    (tmp_path / "mine.mp4").symlink_to(tmp_path / "3f2a.blob")
    assert list(clips_below(tmp_path / "mine.mp4")) == ["mine"]


def test_images_beside_folders_of_frames_are_refused(tmp_path: Path) -> None:
    source = CASES / "04-same-frame-twice" / "clip" / "0000.png"
    (tmp_path / "clip").mkdir()
    shutil.copy(source, tmp_path / "clip" / "0000.png")
    shutil.copy(source, tmp_path / "cover.png")
    with pytest.raises(DataError, match="holds images and folders of frames"):
        clips_below(tmp_path)
    (tmp_path / "clip" / "0000.png").unlink()
    said: list[str] = []
    (clip,) = open_input(tmp_path, None, 4, said.append).clips
    assert clip.count == 1
    assert said == [f"not read in {tmp_path}: clip/"]
