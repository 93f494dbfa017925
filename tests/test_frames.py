"""Reading and writing of frames: folders of images, video files, and every way they break."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import SHARED
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.data.frames import RECENT, FrameWriter, digest, open_frames
from vsrbench.data.images import image_size, read_image
from vsrbench.data.numbering import sort_by_number

BARS = [  # white, yellow, cyan, green, magenta, red, blue, black, grey, and two others
    (255, 255, 255),
    (255, 255, 0),
    (0, 255, 255),
    (0, 255, 0),
    (255, 0, 255),
    (255, 0, 0),
    (0, 0, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 30, 90),
    (17, 99, 201),
]
LUMA_RED_BLUE = {601: (0.299, 0.114), 709: (0.2126, 0.0722)}  # Kr and Kb of BT.601 and BT.709
OPEN_FILES = Path("/proc/self/fd")
FLAG = {601: 6, 709: 1, None: 2}  # ITU-T H.273
RANGE = {"limited": 1, "full": 2, None: 0}


def noise(count: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> list[np.ndarray]:
    """Frames without any structure."""
    shape = (count, *size, 3)
    return list(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def scene(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Moving waves under noise: every frame differs, and coding needs many bytes."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [
        np.stack([np.sin((x + 3 * t) / 9), np.sin((y - t) / 7), np.sin((x + y) / 5)], -1)
        for t in range(count)
    ]
    grain = noise(count, size)
    return [
        (128 + 100 * w + g / 12 - 10).clip(0, 255).astype(np.uint8)
        for w, g in zip(waves, grain, strict=True)
    ]


def to_yuv(rgb: np.ndarray, matrix: int, full: bool) -> np.ndarray:
    """R'G'B' to Y'CbCr by the formulas of ITU-R BT.601 / BT.709, 8 bits, H x W x 3."""
    kr, kb = LUMA_RED_BLUE[matrix]
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / 2 / (1 - kb), (r - y) / 2 / (1 - kr)
    planes = (
        (255 * y, 255 * u + 128, 255 * v + 128)
        if full
        else (219 * y + 16, 224 * u + 128, 224 * v + 128)
    )
    return np.stack([np.clip(np.rint(p), 0, 255) for p in planes], -1).astype(np.uint8)


def picture(yuv: np.ndarray, fmt: str) -> av.VideoFrame:
    """A video frame with these samples; 4:2:0 chroma is the mean of 2x2 pixels."""
    h, w = yuv.shape[:2]
    out = av.VideoFrame(w, h, fmt)
    for k, plane in enumerate(out.planes):
        data = yuv[..., k]
        if k and fmt == "yuv420p":
            even = np.pad(data, ((0, h % 2), (0, w % 2)), mode="edge").astype(float)
            data = np.rint(even.reshape((h + 1) // 2, 2, (w + 1) // 2, 2).mean((1, 3)))
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : data.shape[1]] = data
        plane.update(rows.tobytes())
    return out


def encode(
    path: Path,
    frames: list[np.ndarray] | list[av.VideoFrame],
    *,
    codec: str = "libx264",
    fmt: str = "yuv420p",
    gop: int = 0,
    matrix: int | None = None,
    span: str | None = None,
    container: dict[str, str] | None = None,
    times: list[int] | None = None,
    **options: str,
) -> Path:
    """Write a video with PyAV at 24 frames/s, or at the given times in 1/1000 s."""
    pictures = [
        f if isinstance(f, av.VideoFrame) else av.VideoFrame.from_ndarray(f) for f in frames
    ]
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=24 if times is None else 1000, options=options)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = (
            FLAG[matrix],
            RANGE[span],
        )
        if gop:
            stream.codec_context.gop_size = gop
        for k, one in enumerate(pictures):
            one.colorspace, one.color_range = FLAG[matrix], RANGE[span]
            if times is not None:
                one.pts = times[k]
            out.mux(stream.encode(one))
        out.mux(stream.encode())
    return path


def folder(path: Path, frames: list[np.ndarray], name: str = "{:08d}.png") -> Path:
    """Write a folder of images with OpenCV."""
    path.mkdir()
    for k, frame in enumerate(frames):
        cv2.imwrite(str(path / name.format(k)), frame[..., ::-1])
    return path


@contextmanager
def at_most(kind: type[UserError], name: str) -> Iterator[None]:
    """The block may fail, but only with this error, and the error must name the file."""
    try:
        yield
    except kind as error:
        if name not in error.message:
            raise AssertionError(f"'{error}' does not name {name}") from error


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# ---------------------------------------------------------------- folders of images


def test_natural_order(tmp_path: Path) -> None:
    frames = noise(12)
    source = open_frames(folder(tmp_path / "clip", frames, "frame{}.png"))
    assert source.names == [f"frame{k}.png" for k in range(12)]
    assert [p.name for p in source.files] == source.names
    for got, want in zip(source, frames, strict=True):
        np.testing.assert_array_equal(got, want)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, unique=True), st.randoms())
def test_natural_order_is_numeric_whatever_the_padding(
    numbers: list[int], rng: random.Random
) -> None:
    names = {n: f"a{str(n).zfill(rng.randrange(15))}b.png" for n in numbers}
    assert sort_by_number(list(names.values())) == [names[n] for n in sorted(numbers)]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
    )
)
def test_natural_order_is_total(names: list[str]) -> None:
    paths = ["x" + name for name in names]
    assert sort_by_number(paths) == sort_by_number(paths[::-1])


def test_png_round_trip_is_lossless(tmp_path: Path) -> None:
    frames = noise(3, (17, 31))
    write_clip(tmp_path / "a" / "clip", frames)
    source = open_frames(tmp_path / "a" / "clip")
    assert source.names == ["00000000.png", "00000001.png", "00000002.png"]
    assert (source.size, source.fps, len(source)) == ((17, 31), 0.0, 3)
    np.testing.assert_array_equal(list(source), frames)
    np.testing.assert_array_equal(np.asarray(Image.open(source.files[1])), frames[1])


def test_sequence_protocol(tmp_path: Path) -> None:
    frames = noise(6)
    source = open_frames(folder(tmp_path / "clip", frames))
    np.testing.assert_array_equal(source[-1], frames[5])
    np.testing.assert_array_equal(source[1:5:2], frames[1:5:2])
    np.testing.assert_array_equal(list(source), list(source))
    with pytest.raises(IndexError):
        source[6]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[3], frames[3])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF", "webp", "jpg", "JPEG"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    want = np.full((20, 30, 3), (200, 100, 40), np.uint8)
    Image.fromarray(want).save(path, **({"lossless": True} if suffix == "webp" else {}))
    source = open_frames(path)
    assert (len(source), source.size) == (1, (20, 30))
    source.check()
    assert np.abs(source[0].astype(int) - want).max() <= (
        3 if suffix.lower().startswith("jp") else 0
    )


def test_kinds_of_samples_become_rgb8(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (9, 7, 4), np.uint8)
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = Image.fromarray(rgba[..., 0])
    grey.save(tmp_path / "grey.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[..., :2], "LA").save(tmp_path / "la.png")
    grey.point(lambda v: 255 * (v > 127)).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(rgba[..., :3]).quantize(8).save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "deep.png"), ramp)
    deep_rgb = np.stack([ramp, ramp.T, ramp[::-1]], -1)
    cv2.imwrite(str(tmp_path / "deep-rgb.png"), deep_rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "float.tiff"), ramp.astype(np.float32))

    def repeated(x: np.ndarray) -> np.ndarray:
        return np.repeat(x[..., None], 3, -1)

    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), repeated(rgba[..., 0]))
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), repeated(rgba[..., 0]))
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgba[..., :3])
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 255}
    palette = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette)
    rounded = (np.rint(deep_rgb.astype(float) / 257)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "deep-rgb.png"), rounded)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), repeated(rounded[..., 0]))
    with pytest.raises(DataError, match="1 channels of float32"):
        read_image(tmp_path / "float.tiff")


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)[0]).save(tmp_path / "x.jpg", exif=exif)
    source = open_frames(tmp_path / "x.jpg")
    assert source.size == source[0].shape[:2] == (24, 32)


def test_other_files_in_a_folder_are_no_frames(tmp_path: Path) -> None:
    clip = folder(tmp_path / "clip", noise(2))
    for name in ("._00000000.png", "Thumbs.db", "notes.txt"):
        (clip / name).write_text("x")
    assert open_frames(clip).names == ["00000000.png", "00000001.png"]


# ---------------------------------------------------------------- broken folders


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere does not exist") as caught:
        open_frames(tmp_path / "nowhere")
    assert caught.value.hint
    with pytest.raises(DataError, match="holds no images") as caught2:
        open_frames(tmp_path)
    assert ".png" in caught2.value.hint
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(DataError, match="holds no images"):
        open_frames(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_truncated_image_names_the_file(tmp_path: Path, suffix: str) -> None:
    clip = folder(tmp_path / "clip", scene(3), "{:03d}." + suffix)
    cut(clip / f"001.{suffix}", 0.5)
    source = open_frames(clip)
    frames = iter(source)
    next(frames)
    with pytest.raises(DataError, match=rf"001\.{suffix} is truncated") as caught:
        next(frames)
    assert "fetch" in caught.value.hint
    with pytest.raises(DataError, match=rf"001\.{suffix}"):
        source[1]
    assert source[2].shape == (48, 64, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_no_image_inside(tmp_path: Path, content: bytes) -> None:
    clip = folder(tmp_path / "clip", noise(2))
    (clip / "00000001.png").write_bytes(content)
    source = open_frames(clip)
    for read in (source.check, lambda: source[1], lambda: list(source)):
        with pytest.raises(DataError, match=r"00000001\.png"):
            read()
    (clip / "00000000.png").write_bytes(content)
    with pytest.raises(DataError, match=r"00000000\.png"):
        open_frames(clip)


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    clip = folder(tmp_path / "clip", [*noise(2), *noise(1, (20, 30))])
    source = open_frames(clip)
    for read in (source.check, lambda: source[2], lambda: list(source)):
        with pytest.raises(
            DataError, match=r"00000002\.png is 30x20 px.*00000000\.png is 32x24 px"
        ):
            read()


def test_frame_removed_after_opening(tmp_path: Path) -> None:
    source = open_frames(folder(tmp_path / "clip", noise(2)))
    source.files[1].unlink()
    for read in (source.check, lambda: source[1], lambda: digest(source)):
        with pytest.raises(DataError, match=r"00000001\.png"):
            read()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    length=st.integers(0, 1200),
    changes=st.lists(st.tuples(st.integers(0, 1199), st.integers(0, 255)), max_size=6),
)
def test_damaged_png_is_an_image_or_a_data_error(
    tmp_path: Path, length: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(cv2.imencode(".png", noise(1, (16, 16))[0])[1].tobytes())
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "x.png"
    path.write_bytes(data[:length])
    with at_most(DataError, "x.png"):
        frame = read_image(path)
        assert frame.dtype == np.uint8
        assert frame.shape[2] == 3
    with at_most(DataError, "x.png"):
        assert min(image_size(path)) > 0


# ---------------------------------------------------------------- video: colours


@pytest.mark.parametrize("span", ["limited", "full", None])
@pytest.mark.parametrize("matrix", [601, 709, None])
def test_colours_follow_the_flags_of_the_stream(
    tmp_path: Path, matrix: int | None, span: str | None
) -> None:
    bars = np.repeat(np.repeat(np.array(BARS, np.uint8)[None], 32, 0), 16, 1)
    yuv = to_yuv(bars, matrix or 601, span == "full")
    for fmt in ("yuv444p", "yuv420p"):
        path = encode(
            tmp_path / "bars.mp4",
            [picture(yuv, fmt)] * 2,
            fmt=fmt,
            matrix=matrix,
            span=span,
            qp="0",
        )
        got = list(open_frames(path))[1].astype(int)
        error = np.abs(got - bars).reshape(32, len(BARS), 16, 3)
        inner = error if fmt == "yuv444p" else error[:, :, 4:-4]  # 4:2:0 blends across the edges
        assert inner.max() <= 2, fmt


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (144, 176)])
def test_undeclared_matrix_is_bt601_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = np.full((*size, 3), (200, 30, 90), np.uint8)
    path = encode(tmp_path / "flat.mp4", [picture(to_yuv(rgb, 601, False), "yuv420p")], qp="0")
    assert np.abs(open_frames(path)[0].astype(int) - rgb).max() <= 2


def test_bt709_read_as_bt601_would_be_noticed(tmp_path: Path) -> None:
    rgb = np.full((32, 32, 3), (200, 30, 90), np.uint8)
    wrong = encode(
        tmp_path / "x.mp4", [picture(to_yuv(rgb, 709, False), "yuv420p")], matrix=601, qp="0"
    )
    assert np.abs(open_frames(wrong)[0].astype(int) - rgb).max() > 5


def test_chroma_is_repeated_where_subsampled_and_whole_where_not(tmp_path: Path) -> None:
    u = np.random.default_rng(0).integers(64, 192, (16, 16), np.uint8)
    for fmt, chroma in (("yuv420p", u), ("yuv444p", u.repeat(2, 0).repeat(2, 1))):
        path = encode(
            tmp_path / "x.mp4",
            [planes(fmt, np.full((32, 32), 128, np.uint8), chroma)],
            fmt=fmt,
            matrix=709,
            span="full",
            qp="0",
        )
        blue = open_frames(path)[0][..., 2].astype(float)
        want = 128 + (u.repeat(2, 0).repeat(2, 1) - 128.0) * 2 * (1 - LUMA_RED_BLUE[709][1])
        assert np.abs(blue - want.clip(0, 255)).max() <= 2, fmt
    columns = np.tile(np.array([90, 166], np.uint8), (32, 16))
    path = encode(
        tmp_path / "fine.mp4",
        [planes("yuv444p", np.full((32, 32), 128, np.uint8), columns)],
        fmt="yuv444p",
        matrix=709,
        span="full",
        qp="0",
    )
    blue = open_frames(path)[0][..., 2].astype(float)
    want = 128 + (columns - 128.0) * 2 * (1 - LUMA_RED_BLUE[709][1])
    assert np.abs(blue - want).max() <= 2


def planes(fmt: str, y: np.ndarray, u: np.ndarray) -> av.VideoFrame:
    """A video frame of these samples and neutral V."""
    out = av.VideoFrame(y.shape[1], y.shape[0], fmt)
    for plane, data in zip(out.planes, (y, u, np.full_like(u, 128)), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : data.shape[1]] = data
        plane.update(rows.tobytes())
    return out


@pytest.mark.parametrize("fmt", ["yuv444p", "yuv420p"])
def test_odd_sizes(tmp_path: Path, fmt: str) -> None:
    y, x = np.mgrid[:179, :317]
    smooth = np.stack([x * 255 / 316, y * 255 / 178, (x + y) * 255 / 494], -1).astype(np.uint8)
    yuv = to_yuv(smooth, 709, False)
    options = {"codec": "ffv1"} if fmt == "yuv420p" else {"qp": "0"}
    path = encode(
        tmp_path / "odd.mkv",
        [picture(yuv, fmt)] * 3,
        fmt=fmt,
        matrix=709,
        span="limited",
        **options,
    )
    source = open_frames(path)
    assert (source.size, len(source)) == ((179, 317), 3)
    assert np.abs(source[1].astype(int) - smooth).max() <= 4


def test_hdr_is_refused(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "hdr.mp4", scene(2), **{"x264-params": "transfer=smpte2084:colorprim=bt2020"}
    )
    with pytest.raises(DataError, match=r"hdr\.mp4 has HDR.*transfer 16"):
        open_frames(path)


# ---------------------------------------------------------------- video: geometry, time, access


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
    ],
)
def test_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = encode(tmp_path / "x.mp4", scene(2, (32, 48)), qp="0")
    plain = open_frames(path)[1]
    write_matrix(path, matrix)
    turned = open_frames(path)
    a, b, c, d = matrix
    y, x = np.mgrid[:32, :48]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    want = np.zeros((shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
    want[shown_y, shown_x] = plain
    assert turned.size == want.shape[:2]
    np.testing.assert_array_equal(turned[1], want)


def test_skew_rotation_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", scene(2))
    write_matrix(path, (0.7071, 0.7071, -0.7071, 0.7071))
    with pytest.raises(DataError, match=r"x\.mp4 is rotated by -?45"):
        open_frames(path)


def write_matrix(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """Overwrite the matrix in the track header of an mp4 file."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (round(v * 65536) for v in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_variable_frame_rate_keeps_every_frame(tmp_path: Path) -> None:
    times = [0, 40, 45, 300, 301, 1000, 1040, 1900]
    source = open_frames(encode(tmp_path / "vfr.mkv", scene(8), times=times, gop=3, qp="0"))
    assert len(source) == 8
    frames = list(source)
    assert all((p != q).any() for p, q in pairwise(frames))
    for k in (6, 2, 7, 0):
        np.testing.assert_array_equal(source[k], frames[k])


def test_the_rate_of_raw_dv_is_that_of_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 720, 480, "yuv411p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(720, 480, "yuv411p")))
        container.mux(stream.encode())
    assert open_frames(path).fps == pytest.approx(30000 / 1001)


VIDEOS: dict[str, dict[str, object]] = {
    "one-gop.mp4": {},
    "gops.mp4": {"gop": 7},
    "fragments.mp4": {"gop": 7, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "open-gops.mp4": {"x264-params": "open-gop=1:keyint=7:bframes=3"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=7"},
    "gops.mkv": {"gop": 7},
    "gops.mov": {"gop": 7},
    "gops.avi": {"codec": "mpeg4", "gop": 7, "bf": "2"},
    "intra.avi": {"codec": "mjpeg", "fmt": "yuvj420p"},
    "gops.webm": {"codec": "libvpx-vp9", "gop": 7, "deadline": "realtime", "cpu-used": "8"},
    "gops.ts": {"codec": "mpeg2video", "gop": 7, "bf": "2"},
    "raw.y4m": {"codec": "wrapped_avframe"},
    "raw.h264": {"gop": 7},
    "deep.mkv": {"codec": "ffv1", "fmt": "yuv420p10le"},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_random_access_equals_sequential(tmp_path: Path, name: str) -> None:
    original = scene(24)
    source = open_frames(encode(tmp_path / name, original, **VIDEOS[name]))  # type: ignore[arg-type]
    assert (len(source), source.size) == (24, (48, 64))
    assert source.names[:2] == ["00000000", "00000001"]
    assert source.files == [tmp_path / name]
    assert source.fps == pytest.approx(25 if name == "raw.h264" else 24, rel=0.05)
    frames = list(source)
    np.testing.assert_array_equal(frames, list(source))
    for k, frame in enumerate(frames):  # each picture is the nearest to its own original
        errors = [np.abs(frame.astype(int) - o).mean() for o in original]
        assert int(np.argmin(errors)) == k
    order = [23, 0, 22, 8, 7, 6, 14, 13, 21, 20, 20, 3, 15, *range(24)]
    for k in order:
        np.testing.assert_array_equal(source[k], frames[k], err_msg=f"frame {k}")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[17], frames[17])


def test_edit_list_hides_frames(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", scene(24), gop=12)
    trimmed = tmp_path / "trimmed.mp4"
    with (
        av.open(str(whole)) as src,
        av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as dst,
    ):
        stream = src.streams.video[0]
        template = getattr(dst, "add_stream_from_template", None)
        out = template(stream) if template else dst.add_stream(template=stream)
        for packet in src.demux(stream):
            if packet.dts is not None:
                shift = round(5 / 24 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, out
                dst.mux(packet)
    source = open_frames(trimmed)
    assert len(source) == 19
    np.testing.assert_array_equal(list(source), list(open_frames(whole))[5:])


def test_indexing_in_order_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames(encode(tmp_path / "x.mp4", scene(20)))
    opened = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    for t in range(20):
        for k in range(max(t - 2, 0), min(t + 3, 20)):
            assert source[k].shape == (48, 64, 3)
    assert len(opened) == 1
    source[0]
    assert len(opened) == 2


@pytest.mark.parametrize("kind", ["video", "images"])
def test_threads_do_not_disturb_each_other(tmp_path: Path, kind: str) -> None:
    frames, path = [np.full((32, 32, 3), 12 * t, np.uint8) for t in range(20)], tmp_path / "x.mkv"
    if kind == "video":
        encode(path, frames, codec="ffv1", fmt="bgr0")
    else:
        path = tmp_path / "x"
        with FrameWriter(path) as writer:
            for frame in frames:
                writer.write(frame)
    source = open_frames(path)

    def wrong(ahead: int) -> list[int]:
        return [t for t in range(ahead, 20) if (source[t] != frames[t]).any()]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, [0, 8, 1, 0, 4, 2, 0, 9])) == [[]] * 8


def test_changing_a_frame_does_not_change_the_clip(tmp_path: Path) -> None:
    source = open_frames(encode(tmp_path / "x.mp4", scene(4)))
    first = source[1]
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(source[1], kept)


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    path = encode(tmp_path / "long.mp4", scene(20, (120, 160)) * 15, preset="ultrafast")
    source = open_frames(path)
    assert len(source) == 300
    tracemalloc.start()
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    for frame in source:
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(frame)]
        most = max(most, len(alive))
    for k in range(300):
        source[k]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 2
    assert peak < (RECENT + 5) * 120 * 160 * 3  # all frames would be 300


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="needs /proc")
def test_files_are_closed(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", scene(10))
    broken = cut(encode(tmp_path / "y.mp4", scene(10), container={"movflags": "faststart"}), 0.7)
    before = len(list(OPEN_FILES.iterdir()))
    for _ in range(20):
        source = open_frames(path)
        source[3]
        next(iter(source))
        source[9]
        with pytest.raises(DataError):
            open_frames(broken)
    del source
    assert len(list(OPEN_FILES.iterdir())) == before


# ---------------------------------------------------------------- video: broken


def test_mp4_that_lost_its_index(tmp_path: Path) -> None:
    path = cut(encode(tmp_path / "x.mp4", scene(30)), 0.6)
    with pytest.raises(DataError, match=r"no frame of .*x\.mp4 can be decoded") as caught:
        open_frames(path)
    assert "again" in caught.value.hint


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
@pytest.mark.parametrize(
    ("name", "flags", "of"),
    [
        ("fast.mp4", "faststart", " of 30"),
        ("frag.mp4", "frag_keyframe+empty_moov", ""),
        ("x.mkv", "", ""),
    ],
)
def test_video_cut_short(tmp_path: Path, name: str, flags: str, of: str, share: float) -> None:
    container = {"movflags": flags} if flags else {}
    path = cut(encode(tmp_path / name, scene(30), gop=6, container=container, qp="10"), share)
    if share == 0.99 and name == "x.mkv":
        return  # only the seek table at the end is lost
    with pytest.raises(DataError, match=rf"{name} breaks off after (\d+){of} frames") as caught:
        open_frames(path)
    frames = int(caught.value.message.split("after ")[1].split()[0])
    assert 30 * share - 8 <= frames <= 30 * share + 1
    assert "fetch" in caught.value.hint


def test_video_that_breaks_later_than_the_scan(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "x.mp4", scene(20), container={"movflags": "faststart"}, bf="0", qp="10"
    )
    source = open_frames(path)
    cut(path, 0.5)
    with pytest.raises(DataError, match=r"x\.mp4 breaks off after \d+ of 20 frames"):
        list(source)
    with pytest.raises(DataError, match="breaks off"):
        source[19]
    with pytest.raises(DataError, match="breaks off"):
        source[19]
    assert source[0].shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"not a video " * 100),
        ("notes.txt", b"hello\n" * 100),
        ("notes.md", b"# hello\n" * 100),
        ("noise.bin", random.Random(0).randbytes(5000)),
        ("x.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n"),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        open_frames(tmp_path / name)
    assert caught.value.hint


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
    with pytest.raises(DataError, match=r"x\.wav holds no video"):
        open_frames(path)


def test_unknown_codec(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", scene(2))
    path.write_bytes(path.read_bytes().replace(b"avc1\0\0", b"zzzz\0\0"))
    with pytest.raises(DataError, match=r"x\.mp4 has an unknown video codec"):
        open_frames(path)


def test_picture_size_changes(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{k}.h264", scene(3, size))
        for k, size in enumerate([(32, 48), (48, 64)])
    ]
    path = tmp_path / "x.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_frames(path)
    assert len(source) == 6
    with pytest.raises(
        DataError, match=r"x\.h264: frame 00000003 is 64x48 px, but frame 00000000 is 48x32"
    ):
        list(source)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    share=st.floats(0.1, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
)
def test_damaged_video_gives_frames_or_a_user_error(
    tmp_path: Path, share: float, changes: list[tuple[float, int]]
) -> None:
    whole = tmp_path / "whole.mp4"
    if not whole.exists():
        encode(whole, scene(12), gop=5, container={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path / "x.mp4"
    path.write_bytes(data[: int(share * len(data))])
    with at_most(UserError, "x.mp4"):
        source = open_frames(path)
        assert sum(1 for _ in source) == len(source)


# ---------------------------------------------------------------- writing


def write_clip(path: Path, frames: Iterable[np.ndarray], replace: bool = False) -> None:
    with FrameWriter(path, replace) as writer:
        for frame in frames:
            writer.write(frame)
            assert replace or not any(path.glob("*"))


def failing(error: type[BaseException]) -> Iterator[np.ndarray]:
    yield noise(1)[0]
    raise error


def test_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            write_clip(tmp_path / "clip", failing(error))
        assert list(tmp_path.iterdir()) == []


def test_writer_replaces_only_when_told(tmp_path: Path) -> None:
    old, new = noise(3), noise(2, seed=1)
    clip = folder(tmp_path / "clip", old)
    with pytest.raises(UserError, match="clip is not empty"):
        write_clip(clip, new)
    with pytest.raises(RuntimeError):
        write_clip(clip, failing(RuntimeError), replace=True)
    np.testing.assert_array_equal(list(open_frames(clip)), old)
    write_clip(clip, new, replace=True)
    np.testing.assert_array_equal(list(open_frames(clip)), new)
    (tmp_path / "empty").mkdir()
    write_clip(tmp_path / "empty", new)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip", "empty"]


def test_writer_refuses_what_png_would_change() -> None:
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 H x W x 3"):
            FrameWriter(Path("unused")).write(wrong)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*clip") as caught:
        write_clip(tmp_path / "file" / "clip", noise(1))
    assert "name a place" in caught.value.hint


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left") as caught:
        write_clip(tmp_path / "clip", noise(1))
    assert "free some disk space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- identity


def test_digest_depends_on_content_alone(tmp_path: Path) -> None:
    frames = noise(4)
    one = folder(tmp_path / "one", frames)
    renamed = folder(tmp_path / "renamed", frames, "f{}.png")
    swapped = folder(tmp_path / "swapped", [frames[1], frames[0], *frames[2:]])
    fewer = folder(tmp_path / "fewer", frames[:3])
    video = encode(tmp_path / "x.mp4", frames)
    copy = tmp_path / "copy.mp4"
    shutil.copy(video, copy)
    of: Callable[[Path], str] = lambda path: digest(open_frames(path))  # noqa: E731
    assert of(one) == of(renamed) == of(one)
    assert len({of(one), of(swapped), of(fewer), of(video)}) == 4
    assert of(video) == of(copy)
    assert len(of(one)) == 64


# ---------------------------------------------------------------- real clips


REAL_VIDEOS = {
    "clips-gt/carphone_pristine.mp4": (120, (144, 176), 30000 / 1001),
    "clips-gt/carphone_distorted.mp4": (120, (144, 176), 30000 / 1001),
    "clips-lq/dove-002.mp4": (32, (180, 318), 16),
    "clips-lq/dove-003.mp4": (50, (128, 256), 16),
    "clips-lq/dove-007.mp4": (33, (178, 316), 16),
}
FOLDERS = {
    "clips-lq/realbasicvsr-demo_000": (8, (360, 640)),
    "clips-gt/vid4-calendar": (6, (576, 720)),
    "clips-gt/vid4-calendar-lr-bd4": (6, (144, 180)),
    "clips-gt/davis-judo": (16, (480, 854)),
    "clips-gt/sintel-raft-demo": (4, (436, 1024)),
}


def test_real_videos(real: Path) -> None:
    videos = sorted(real.glob("clips-*/*.mp4"))
    assert len(videos) == len(REAL_VIDEOS) or not SHARED.is_dir()
    for path in videos:
        name, source = path.relative_to(real).as_posix(), open_frames(path)
        about = (len(source), source.size, source.fps)
        if SHARED.is_dir():
            count, size, fps = REAL_VIDEOS[name]
            assert about == (count, size, pytest.approx(fps)), name
        frames, count = list(source), len(source)
        assert len(frames) == count
        for k in (count - 1, 0, count // 2, 7, 6, 9):
            np.testing.assert_array_equal(source[k], frames[k])
        capture = cv2.VideoCapture(str(path))  # brings a decoder and a conversion of its own
        told = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        assert tuple(map(capture.get, told)) == (count, *source.size)
        assert source.fps == pytest.approx(capture.get(cv2.CAP_PROP_FPS))
        for frame in frames:
            ok, other = capture.read()
            assert ok, name
            np.testing.assert_array_equal(frame, other[..., ::-1])
        assert not capture.read()[0]


def test_real_folders(real: Path) -> None:
    for name, (count, size) in FOLDERS.items():
        source = open_frames(real / name)
        source.check()
        if not SHARED.is_dir():
            count = len(list((real / name).iterdir()))
        assert (len(source), source.size) == (count, size), name
        assert source.names == sorted(source.names)
        other = np.asarray(Image.open(source.files[-1]).convert("RGB")).astype(int)
        assert np.abs(source[-1] - other).mean() < 0.5  # JPEG decoders may differ by a level


def test_importing_is_light() -> None:
    code = (
        "import sys, vsrbench.data.frames;"
        "print(*{'numpy', 'cv2', 'av', 'PIL', 'torch'} & set(sys.modules))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    os.mkfifo(tmp_path / "a.mp4")
    for path in (tmp_path, tmp_path / "1.png", tmp_path / "a.mp4"):
        with pytest.raises(DataError, match="neither a file nor a folder"):
            open_frames(path)
