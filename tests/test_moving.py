"""Moving pictures: what is shown where, sizes, limits, sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.test_cli import write_clip
from vsrbench.cli import main
from vsrbench.core.errors import UserError
from vsrbench.show import moving
from vsrbench.show.moving import BAR


def clip(
    value: int, count: int = 12, size: tuple[int, int] = (60, 80)
) -> list[np.ndarray[Any, Any]]:
    """Noise around a level, another in each frame."""
    rng = np.random.default_rng(value)
    return [rng.integers(value, value + 40, (*size, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(
    ("how", "shape"), [("side", (360 + BAR, 1440)), ("grid", (2 * (360 + BAR), 960))]
)
def test_every_method_is_where_its_name_is(how: moving.Arrangement, shape: tuple[int, int]) -> None:
    frames = {"a": clip(0), "b": clip(80), "c": clip(160)}
    shown = list(moving.arrange(frames, how))
    assert len(shown) == 12
    assert shown[0].shape == (*shape, 3)
    low = (BAR, 960) if how == "side" else (360 + 2 * BAR, 0)
    places = {"a": (BAR, 0), "b": (BAR, 480), "c": low}
    for name, (y, x) in places.items():
        view = shown[3][y : y + 360, x : x + 480]
        assert np.array_equal(view[::6, ::6], frames[name][3])  # enlarged pixel by pixel


def test_a_box_is_enlarged_by_a_whole_factor() -> None:
    frames = {"a": clip(0)}
    shown = next(moving.arrange(frames, box=(10, 20, 16, 12), cell=64))
    assert np.array_equal(shown[BAR : BAR + 48 : 4, ::4], frames["a"][0][20:32, 10:26])
    with pytest.raises(UserError, match="outside the frame"):
        next(moving.arrange(frames, box=(70, 0, 20, 20)))


def test_a_wipe_goes_there_and_back() -> None:
    frames = {"a": clip(0, 5), "b": clip(200, 5)}
    shown = list(moving.arrange(frames, "wipe", fps=1))
    left = [int((frame[60, :, 0] < 100).sum()) for frame in shown]
    assert left[0] <= 1
    assert left[2] >= 479
    assert left[4] <= 1
    assert left[1] == pytest.approx(240, abs=2)
    with pytest.raises(UserError, match="between two methods"):
        next(moving.arrange({**frames, "c": frames["a"]}, "wipe"))


def test_mp4_plays_at_its_rate(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "a.mp4"
    out.parent.mkdir()
    moving.write(moving.arrange({"a": clip(50)}, fps=30), out, 30)
    with av.open(str(out)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 30
        assert sum(1 for _ in video.decode(stream)) == 12
    assert [p.name for p in out.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_loops_keep_their_limit(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"a{suffix}"
    frames = {"a": clip(50, 24, (120, 160)), "b": clip(90, 24, (120, 160))}
    moving.write(moving.arrange(frames), out, 12, limit_mib=0.5)
    assert 20_000 < out.stat().st_size <= 0.5 * 2**20
    with Image.open(out) as loop:
        assert loop.n_frames > 4
        assert loop.info["loop"] == 0
    with pytest.raises(UserError, match="however small"):
        moving.write(moving.arrange(frames), out, 12, limit_mib=0.001)
    with pytest.raises(UserError, match="moving pictures are"):
        moving.write(moving.arrange(frames), tmp_path / "a.avi")


@pytest.mark.parametrize("how", ["wipe", "grid"])
def test_bar_and_names_leave_no_specks_in_a_gif(tmp_path: Path, how: moving.Arrangement) -> None:
    y, x = np.mgrid[:270, :480]
    waves = [np.sin(x / 40) * np.cos(y / 31), np.sin((x + y) / 55), np.cos(x / 25 + y / 60)]
    picture = (np.stack(waves, -1) * 50 + (90, 110, 80)).astype(np.uint8)  # no value above 160
    moves = [np.roll(picture, 5 * t, 0) for t in range(8)]
    frames = dict.fromkeys("ab" if how == "wipe" else "abc", moves)
    out, rows = tmp_path / "a.gif", moving.count_rows(how, len(frames))
    moving.write(moving.arrange(frames, how, fps=8), out, 8, rows=rows)
    with Image.open(out) as loop:
        loop.seek(2)
        shown = np.asarray(loop.convert("RGB"))
    assert (shown[8:32] > 200).any()  # the names are there
    bright = (shown[BAR : BAR + 270] > 190).any((0, 2))
    assert bright.sum() == (2 if how == "wipe" else 0)


def test_lossless_is_lossless_and_sound_stays(tmp_path: Path) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(8000) / 5)).astype(np.int16)[None]
        sound = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        sound.rate = 8000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    frames = clip(60, 8)
    moving.encode(frames, out, 8.0, "lossless", source)
    with av.open(str(out)) as video:
        got = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
        assert all(np.array_equal(a, b) for a, b in zip(got, frames, strict=True))
    with av.open(str(out)) as video:
        heard = np.concatenate([f.to_ndarray() for f in video.decode(audio=0)], axis=1)
    assert np.array_equal(heard, samples)


def test_figure_video_from_kept_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "lq", 4)
    kept = ["--results", str(tmp_path / "r")]
    arguments = ["--methods", "bicubic,lanczos", "--input", str(tmp_path / "lq"), "--no-cost", "-q"]
    assert main([*arguments, "--metrics", "flicker", "--keep-frames", *kept]) == 0
    capsys.readouterr()
    assert main(["figure", "video", "--methods", "lq,lanczos", *kept]) == 0
    with av.open(capsys.readouterr().out.strip()) as video:
        first = next(video.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape[1] == 2 * 480  # the two that were named, and no others
    assert main(["figure", "video", *kept]) == 0
    out = Path(capsys.readouterr().out.strip())
    assert out.name == "video-lq-lq.mp4"
    with av.open(str(out)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 4
    gif = tmp_path / "wipe.gif"
    wipe = ["--how", "wipe", "--methods", "lanczos,bicubic", "--box", "0,0,16,16"]
    assert main(["figure", "video", *wipe, "-o", str(gif), *kept]) == 0
    with Image.open(gif) as loop:
        assert loop.n_frames == 4
    assert main(["figure", "video", *kept, "-o", str(tmp_path / "x.avi")]) == 2
