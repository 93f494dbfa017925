"""A quick look at a part, a study in a file, outputs as videos, a map of the cost."""

from __future__ import annotations

import json
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.test_cli import write_clip
from tests.test_core import a_record
from tests.test_frames import encode
from vsrbench.api.results import Results
from vsrbench.api.study import Figure, Study, read_study
from vsrbench.cli import main
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.types import Clip, Measurement
from vsrbench.data.datasets import open_input
from vsrbench.data.frames import open_frames
from vsrbench.data.selection import Part, Selection, name_folder, read_span
from vsrbench.results.limits import Constraints, describe_within, judge, mib
from vsrbench.results.store import Store
from vsrbench.show import moving
from vsrbench.show.grid import grid

FAST = ["--metrics", "lr_psnr", "--no-cost", "-q"]


def a_clip(count: int = 10) -> Clip:
    frames = [np.full((4, 6, 3), t, np.uint8) for t in range(count)]
    return Clip("set", "clip", count, (4, 6), 4, 25.0, "digest", frames, frames, list(range(9)))


def test_a_part_of_a_clip_is_another_clip() -> None:
    clip = a_clip()
    for span in ((0, 4), (3, 7), (3, 30)):
        part = Selection(frames=span).cut(clip)
        wanted = list(range(span[0], min(span[1], 10)))
        assert part.count == len(part.lq) == len(part.gt or ()) == len(wanted)
        assert [int(f[0, 0, 0]) for f in part.lq] == wanted
        assert list(part.flow or ()) == wanted[:-1]
        assert part.protocol["span"] == [wanted[0], wanted[-1], 10]
        assert part.digest != clip.digest
        assert name_folder(part) == f"clip@{wanted[0]}-{wanted[-1]}"
    digests = {Selection(frames=s).cut(clip).digest for s in ((0, 4), (0, 5), (1, 5), (1, 4))}
    assert len(digests) == 4
    assert Selection(frames=(0, 10)).cut(clip) is clip
    assert Selection(frames=(0, 99)).cut(clip) is clip
    with pytest.raises(DataError, match="none from frame 10 on"):
        Selection(frames=(10, 12)).cut(clip)


def test_a_part_reads_like_a_list() -> None:
    part = Part("abcdefgh", 2, 4)
    assert (list(part), part[-1], part[1:3]) == (list("cdef"), "f", ["d", "e"])
    with pytest.raises(IndexError):
        part[4]


def test_spans() -> None:
    assert (read_span("8"), read_span("100:124")) == ((0, 8), (100, 124))
    for wrong in ("0", "5:5", "a", "-3", "1:2:3", ""):
        with pytest.raises(UserError, match="is not a range of frames"):
            read_span(wrong)


def test_clips_are_chosen_before_they_are_opened(tmp_path: Path) -> None:
    for name in "abc":
        write_clip(tmp_path / "set" / name, 2)
    (tmp_path / "set" / "c" / "000.png").write_bytes(b"no picture")
    found = open_input(tmp_path / "set", None, 4, print, Selection(limit=2))
    assert [clip.name for clip in found.clips] == ["a", "b"]
    assert (found.broken, found.names) == ({}, ("a", "b", "c"))
    found = open_input(tmp_path / "set", None, 4, print, Selection(clips=("b",), frames=(1, 2)))
    assert [(clip.name, clip.count) for clip in found.clips] == [("b", 1)]


def test_a_quick_look_shares_nothing_with_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "street", 6)
    base = ["--methods", "bicubic", "lanczos", "--input", str(tmp_path / "street"), *FAST]
    base += ["--results", str(tmp_path / "r"), "--keep-frames"]
    assert main([*base, "--frames", "3"]) == 0
    out = capsys.readouterr().out
    assert "frames 0 to 2 of 6" in out
    assert main(base) == 0
    assert "0 reused" in capsys.readouterr().err
    assert main([*base, "--frames", "3"]) == 0
    assert "2 reused" in capsys.readouterr().err
    kept = sorted(p.name for p in (tmp_path / "r/frames/lanczos/street").iterdir() if p.is_dir())
    assert kept == ["street", "street@0-2"]
    assert main([*base, "--clips", "streat"]) == 2
    assert "Did you mean 'street'?" in capsys.readouterr().err


def test_default_metrics_that_do_not_fit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "street", 2)  # 48 x 64
    base = ["--input", str(tmp_path / "street"), "--no-cost", "-q", "--results", str(tmp_path)]
    base += ["--methods", "nearest"]
    assert main([*base, "--scale", "1", "--frames", "1"]) == 0
    err = capsys.readouterr().err
    assert "left out on street: NIQE (needs 96 px a side), E_warp, Flicker (need two fra" in err
    assert main([*base, "--metrics", "lr_psnr"]) == 0
    assert "left out" not in capsys.readouterr().err
    write_clip(tmp_path / "square", 1, 24, 32)  # of whose enlargement NIQE needs two blocks
    base[1] = str(tmp_path / "square")
    assert main(base) == 0
    assert "left out on square: NIQE (needs 192x96 px), E_warp" in capsys.readouterr().err


def test_a_scale_that_no_method_has_is_refused_before_work_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "street", 1)
    base = ["--input", str(tmp_path / "street"), *FAST, "--results", str(tmp_path / "r")]
    assert main([*base, "--methods", "instavsr", "--scale", "2"]) == 2
    err = capsys.readouterr().err
    assert "say --scale 4" in err
    assert "method for x2" in err
    assert "plan:" not in err
    assert main([*base, "--methods", "instavsr", "lanczos", "--scale", "2"]) == 1
    assert "to compute in 2 jobs" in capsys.readouterr().err


def film(path: Path, codec: str, seconds: float = 2.0) -> None:
    """A video of a moving ramp at 12 fps with a tone whose pitch rises."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream(codec, rate=16000)
        sound.layout = "mono"
        resampler = av.AudioResampler(sound.format.name if sound.format else "s16", "mono", 16000)
        for t in range(round(12 * seconds)):
            picture = np.full((64, 48, 3), 60 + 4 * t, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode(None))
        time = np.arange(round(16000 * seconds)) / 16000
        wave = (8000 * np.sin(2 * np.pi * (300 + 100 * time) * time)).astype(np.int16)[None]
        piece = av.AudioFrame.from_ndarray(wave, "s16", "mono")
        piece.rate = 16000
        for part in [*resampler.resample(piece), *resampler.resample(None)]:
            part.pts = None
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))


@pytest.mark.parametrize(
    ("codec", "suffix", "kept"), [("aac", ".mp4", "aac"), ("pcm_s16le", ".mkv", "aac")]
)
def test_videos_have_the_sound_of_their_part(
    tmp_path: Path, codec: str, suffix: str, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Portrait, with a space in its name; the last second of two."""
    source = tmp_path / f"my film{suffix}"
    film(source, codec)
    results = tmp_path / "r"
    words = ["--methods", "bicubic", "--input", str(source), *FAST, "--results", str(results)]
    assert main([*words, "--frames", "12:24", "--video"]) == 0
    path = results / "videos" / "bicubic" / "my_film" / "my_film@12-23.mp4"
    assert str(path) in capsys.readouterr().out
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 192, 256)
        assert (sound.codec_context.name, video.average_rate) == (kept, 12)
        assert float(video.duration * video.time_base) == pytest.approx(1, abs=0.02)
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert len(heard) / 16000 == pytest.approx(1, abs=0.15)
    middle = heard[len(heard) // 2 - 2048 : len(heard) // 2 + 2048] * np.hanning(4096)
    pitch = np.abs(np.fft.rfft(middle)).argmax() * 16000 / 4096
    assert pitch == pytest.approx(300 + 2 * 100 * 1.5, abs=40)  # of the rising tone at 1.5 s
    pixels = open_frames(path)[0][100, 100]
    assert np.abs(pixels.astype(int) - 108).max() <= 6


def test_videos_keep_times_that_are_not_even(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a phone writes them: frames between 33 and 400 ms apart; the part begins with the third"""
    times = [0, 33, 66, 466, 866, 900, 933, 1200, 1233, 1266]
    pictures = [np.full((64, 48, 3), 60 + 10 * t, np.uint8) for t in range(len(times))]
    source = encode(tmp_path / "phone.mkv", pictures, times=times)
    words = ["--methods", "bicubic", "--input", str(source), *FAST, "--results", str(tmp_path)]
    assert main([*words, "--frames", "2:10", "--video"]) == 0
    said = capsys.readouterr().err
    assert "not evenly spaced in time, but 33 to 400 ms apart" in said
    assert said.count("evenly") == 1
    path = tmp_path / "videos" / "bicubic" / "phone" / "phone@2-9.mp4"
    with av.open(str(path)) as container:
        shown = [1000 * (frame.time or 0) for frame in container.decode(video=0)]
    assert shown == pytest.approx([time - 66 for time in times[2:]], abs=1)


@pytest.mark.parametrize("form", ["h264", "av1", "lossless"])
def test_all_encoders_take_times_and_say_nothing(
    tmp_path: Path, form: moving.Form, capfd: pytest.CaptureFixture[str]
) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    frames = [np.full((64, 64, 3), 40 * t, np.uint8) for t in range(5)]
    out = tmp_path / ("a.mkv" if form == "lossless" else "a.mp4")
    moving.encode(frames, out, 3.0, form, times=times)
    with av.open(str(out)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx(times, abs=0.001)
    with av.open(str(out)) as container:
        assert container.duration is not None
        assert container.duration / av.time_base >= times[-1]
    assert capfd.readouterr() == ("", "")


def test_videos_tell_their_colours(tmp_path: Path) -> None:
    """Flat colours come back, whoever reads the file by what it declares."""
    colour = np.array([200, 40, 90])
    frames = [np.broadcast_to(colour, (33, 47, 3)).astype(np.uint8)] * 3
    for form, off in (("h264", 3), ("lossless", 0)):
        out = tmp_path / f"{form}{'.mkv' if off == 0 else '.mp4'}"
        moving.encode(frames, out, 0.0, form)  # type: ignore[arg-type]
        got = open_frames(out)
        assert np.abs(got[1][5, 5].astype(int) - colour).max() <= off
        assert got.size == ((33, 47) if off == 0 else (34, 48))
    with av.open(str(tmp_path / "h264.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 1


def test_a_study_says_all_that_a_command_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "street", 4)
    study = tmp_path / "study.toml"
    study.write_text(
        f"""
        methods = ["bicubic", "lanczos"]
        input = "{tmp_path / "street"}"
        metrics = ["lr_psnr", "flicker"]
        frames = 3
        cost = false
        keep_frames = true
        results = "{tmp_path / "paper"}"
        tables = ["latex", "csv"]
        grid = {{ sizes = ["24x16"], frames = [2] }}
        constraints = {{ fps = 0.001, vram = "8GiB" }}
        [[figures]]
        kind = "profile"
        methods = ["lanczos"]
        row = 5
        out = "one.png"
        """
    )
    assert main(["run", str(study), "-q"]) == 0
    out = capsys.readouterr().out
    for made in ("tables/results.tex", "tables/results.csv", "figures/one.png"):
        assert (tmp_path / "paper" / made).is_file()
        assert made in out
    assert "24x16" in out
    runs = list(Store(tmp_path / "paper").read_runs())
    assert any(run.get("study") == study.read_text() for run in runs)
    assert main(["run", str(study), "-q", "--metrics", "lr_psnr"]) == 0
    assert "Flicker" not in capsys.readouterr().out
    study.write_text(study.read_text().replace("lanczos", "realviformer").replace("24x16", "8x8"))
    assert main(["run", str(study), "-q"]) == 1  # too small for it, which is a failure as any other
    assert "1 failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metods = ["a"]', "Did you mean 'methods'"),
        ('methods = "a"', "methods must be"),
        ('methods = ["a"]\nframes = "x"', "is not a range of frames"),
        ('methods = ["a"]\nvideo = "gif"', "one of: "),
        ('methods = ["a"]\n[constraints]\nvram = "8"', "no size of memory"),
        ('methods = ["a"]\n[grid]\nsizes = ["x"]', "320x180"),
        ('methods = ["a"]\n[[figures]]\nkind = "crop"', "Did you mean 'crops'"),
        ('methods = ["a"]\n[[figures]]\nkind = "crops"\nbocks = 3', "Did you mean 'box'"),
        ('methods = ["a"]\n[[figures]]\nkind = "crops"\nrow = "x"', "row must be"),
        ('datasets = ["a"]', "say which methods"),
    ],
)
def test_a_wrong_study_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_study(path, {})
    assert message in str(caught.value)


def test_figures_of_a_study_are_those_of_results() -> None:
    own = {f.name for f in fields(Figure)} - {"options"}
    assert own <= set(signature(Results.figure).parameters)
    assert read_study(None, {"methods": ["a"], "limit": None}) == Study(("a",))


def measured(size: tuple[int, int], ms: float, vram: float | None = None) -> Measurement:
    base: dict[str, Any] = dict.fromkeys(
        ("rss_peak_mib", "rss_idle_mib", "vram_allocator_mib", "params_m", "macs_g")
    )
    why = {} if vram else {"vram_peak_mib": "no CUDA device"}
    return Measurement(
        "device",
        "X",
        size,
        10,
        3,
        2,
        (ms,),
        ms,
        ms,
        ms,
        1000 / ms,
        vram_peak_mib=vram,
        why=why,
        **base,
    )


def a_cost(size: tuple[int, int], frames: int, ms: float, vram: float | None) -> Any:
    return a_record(
        kind="cost",
        method="a",
        title="A",
        metric="",
        size=size,
        frames=frames,
        value=None,
        measurement=measured(size, ms, vram) if ms else None,
        status="ok" if ms else "failed",
        error=None if ms else {"message": "CUDA out of memory", "hint": ""},
    )


def test_a_map_shows_where_memory_ends() -> None:
    records = [
        a_cost((90, 160), 10, 50, 1024),
        a_cost((180, 320), 10, 200, 4096),
        a_cost((90, 160), 30, 50, 2048),
        a_cost((180, 320), 30, 0, None),
    ]
    text = grid(records)
    rows = [line.split() for line in text.splitlines()]
    assert rows[3] == ["160x90", "50", "ms", "1.00", "GiB", "50", "ms", "2.00", "GiB"]
    assert rows[4] == ["320x180", "200", "ms", "4.00", "GiB", "OOM"]
    assert "Memory ends at 320x180, 30 frames." in text
    assert "VRAM: not measured, no CUDA device." in grid([a_cost((90, 160), 10, 50, None)])


def test_constraints() -> None:
    assert (mib("8GiB"), mib("500 MiB"), round(mib("1GB"))) == (8192, 500, 954)
    for wrong in ("8", "GiB", "0GiB", "8TiB"):
        with pytest.raises(UserError, match="no size of memory"):
            mib(wrong)
    limits = Constraints("2GiB", 24)
    assert judge(measured((1, 1), 40, 1024), limits) == ("yes", "1.0 GiB, 25.00 fps")
    assert judge(measured((1, 1), 50, 1024), limits)[0] == "no"
    assert judge(measured((1, 1), 40, 4096), limits)[0] == "no"
    assert judge(measured((1, 1), 40), limits)[0] == "unknown"
    assert judge(measured((1, 1), 50), limits)[0] == "no"
    assert judge(None, limits, "CUDA out of memory")[0] == "no"
    text = describe_within([a_cost((90, 160), 10, 40, 1024)], limits)
    assert text.splitlines() == [
        "Within 2GiB and at 24 fps, LQ 160x90:",
        "  yes      A (1.0 GiB, 25.00 fps)",
    ]
    assert (
        describe_within([], limits)
        == describe_within([a_cost((9, 16), 10, 40, 1)], Constraints())
        == ""
    )


@pytest.mark.parametrize("words", [["a,b"], ["a", "b"], ["a,", "b"], ["a , b", "a"]])
def test_lists_take_commas_and_spaces(words: list[str]) -> None:
    from vsrbench.cli import compare, run

    assert run.make_parser().parse_args(["--methods", *words]).methods == ["a", "b"]
    found = compare.make_parser().parse_args(["base", "new", "--methods", *words])
    assert (found.methods, str(found.new)) == (["a", "b"], "new")
    before = compare.make_parser().parse_args(["--methods", "a,b", "base", "new"])
    assert (before.methods, str(before.base), str(before.new)) == (["a", "b"], "base", "new")


def test_records_of_runs_stay_json(tmp_path: Path) -> None:
    """A study with quotes and line ends is one line of runs.jsonl."""
    store = Store(tmp_path)
    store.prepare()
    store.append_run({"run_id": "x", "study": 'a = "b"\n'})
    assert json.loads(store.runs.read_text())["study"] == 'a = "b"\n'
