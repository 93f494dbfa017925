"""One rule for the pixels of every picture and video: chroma, depth, range, alpha, orientation."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.test_frames import encode, scene
from vsrbench.core.errors import DataError, UserError
from vsrbench.data import video
from vsrbench.data.containers import lacks_frames
from vsrbench.data.frames import is_lossy, open_frames
from vsrbench.data.images import image_size, read_image
from vsrbench.data.video import has_video, to_rgb

Planes = list[np.ndarray]


def filled(fmt: str, planes: Planes) -> av.VideoFrame:
    """A video frame with these samples in its planes."""
    out = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], fmt)
    for plane, data in zip(out.planes, planes, strict=False):
        rows = np.zeros((plane.height, plane.line_size // data.itemsize), data.dtype)
        rows[:, : data.shape[1]] = data
        plane.update(rows.tobytes())
    return out


def samples(size: tuple[int, int], across: int, down: int, seed: int = 0) -> Planes:
    """Random Y, U and V of 8 bits in this subsampling."""
    rng = np.random.default_rng(seed)
    small = (-(-size[0] // down), -(-size[1] // across))
    return [rng.integers(0, 256, s, np.uint8) for s in (size, small, small)]


def as_420(planes: Planes, across: int, down: int) -> av.VideoFrame:
    """The same picture with each pixel as 2 x 2 of 8-bit 4:2:0, which repeats nothing."""
    h, w = planes[0].shape
    luma, u, v = planes
    full = [c.repeat(down, 0)[:h].repeat(across, 1)[:, :w] for c in (u, v)]
    return filled("yuv420p", [luma.repeat(2, 0).repeat(2, 1), *full])


def rgb(frame: av.VideoFrame) -> np.ndarray:
    return to_rgb(Path("x"), frame)


SUBSAMPLED = {
    "420": (2, 2),
    "422": (2, 1),
    "444": (1, 1),
    "440": (1, 2),
    "411": (4, 1),
    "410": (4, 4),
}
SIZES = [(48, 64), (47, 64), (48, 63), (45, 61), (2, 2), (1, 1), (5, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", SUBSAMPLED)
def test_chroma_is_repeated_in_every_subsampling_and_size(kind: str, size: tuple[int, int]) -> None:
    if kind == "410" and min(size) < 4:
        return
    planes = samples(size, *SUBSAMPLED[kind])
    want = rgb(as_420(planes, *SUBSAMPLED[kind]))[::2, ::2]
    np.testing.assert_array_equal(rgb(filled(f"yuv{kind}p", planes)), want)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize(("kind", "order"), [("420", "le"), ("422", "le"), ("444", "be")])
def test_depth_changes_nothing(kind: str, order: str, bits: int) -> None:
    for size in ((48, 64), (45, 61)):
        planes = samples(size, *SUBSAMPLED[kind])
        deep = [
            (p.astype(np.uint16) << bits - 8).astype(f"{'<' if order == 'le' else '>'}u2")
            for p in planes
        ]
        np.testing.assert_array_equal(
            rgb(filled(f"yuv{kind}p{bits}{order}", deep)), rgb(filled(f"yuv{kind}p", planes))
        )


def test_full_range_of_ten_bits_spans_what_eight_bits_do() -> None:
    planes = samples((48, 64), 2, 2)
    deep = [np.rint(planes[0] * (1023 / 255)).astype("<u2")]
    deep += [
        np.rint((c.astype(float) - 128) * (1023 / 255) + 512).clip(0, 1023).astype("<u2")
        for c in planes[1:]
    ]
    eight, ten = filled("yuvj420p", planes), filled("yuv420p10le", deep)
    ten.color_range = 2
    np.testing.assert_array_equal(rgb(ten), rgb(eight))


@pytest.mark.parametrize("size", [(48, 64), (46, 62)])
def test_interleaved_samples_are_the_same_picture(size: tuple[int, int]) -> None:
    y, u, v = samples(size, 2, 2)
    both = np.stack([u, v], -1).reshape(u.shape[0], -1)
    want = rgb(filled("yuv420p", [y, u, v]))
    np.testing.assert_array_equal(rgb(filled("nv12", [y, both])), want)
    shifted = [(p.astype(np.uint16) << 8).astype("<u2") for p in (y, both)]
    np.testing.assert_array_equal(rgb(filled("p010le", shifted)), want)
    y, u, v = samples(size, 2, 1)
    packed = np.stack([y[:, ::2], u, y[:, 1::2], v], -1).reshape(size[0], -1)
    out = av.VideoFrame(size[1], size[0], "yuyv422")
    rows = np.zeros((size[0], out.planes[0].line_size), np.uint8)
    rows[:, : packed.shape[1]] = packed
    out.planes[0].update(rows.tobytes())
    np.testing.assert_array_equal(rgb(out), rgb(filled("yuv422p", [y, u, v])))


def test_grey_and_rgb_of_any_depth() -> None:
    grey = samples((45, 61), 1, 1)[0]
    want = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(rgb(filled("gray", [grey])), want)
    for bits in (10, 12, 16):
        deep = np.rint(grey * ((2**bits - 1) / 255)).astype("<u2")
        np.testing.assert_array_equal(rgb(filled(f"gray{bits}le", [deep])), want)
    planes = samples((45, 61), 1, 1, seed=1)
    want = np.stack([planes[2], planes[0], planes[1]], -1)  # stored as green, blue, red
    np.testing.assert_array_equal(rgb(filled("gbrp", planes)), want)
    for bits in (10, 12, 16):
        deep = [np.rint(p * ((2**bits - 1) / 255)).astype("<u2") for p in planes]
        np.testing.assert_array_equal(rgb(filled(f"gbrp{bits}le", deep)), want)
    wide = av.VideoFrame.from_ndarray(want.astype(np.uint16) * 257, "rgb48le")
    np.testing.assert_array_equal(rgb(wide), want)
    red, green, blue = (p.astype(np.uint32) * 1023 // 255 for p in planes)
    want = np.stack(planes, -1)
    for name, order in (("x2rgb10le", (red, green, blue)), ("x2bgr10le", (blue, green, red))):
        words = order[0] << 20 | order[1] << 10 | order[2] | 3 << 30  # the two bits mean nothing
        np.testing.assert_array_equal(rgb(filled(name, [words.astype("<u4")])), want)
    alpha = [*samples((48, 64), 2, 2), np.full((48, 64), 7, np.uint8)]
    np.testing.assert_array_equal(rgb(filled("yuva420p", alpha)), rgb(filled("yuv420p", alpha[:3])))


def test_the_arithmetic_is_that_of_the_standard() -> None:
    """Far from any clipping, RGB by the formulas of BT.601 and BT.709, within three levels."""
    rng = np.random.default_rng(2)
    y = rng.integers(60, 190, (45, 61), np.uint8)
    u, v = rng.integers(108, 148, (2, 23, 31), np.uint8)
    big = [c.repeat(2, 0).repeat(2, 1)[:45, :61].astype(float) - 128 for c in (u, v)]
    for matrix, (kr, kb) in {5: (0.299, 0.114), 1: (0.2126, 0.0722)}.items():
        frame = filled("yuv420p", [y, u, v])
        frame.colorspace = matrix
        luma = (y.astype(float) - 16) * 255 / 219
        red = luma + 255 / 224 * 2 * (1 - kr) * big[1]
        blue = luma + 255 / 224 * 2 * (1 - kb) * big[0]
        green = (luma - kr * red - kb * blue) / (1 - kr - kb)
        assert np.abs(rgb(frame) - np.stack([red, green, blue], -1)).max() <= 3


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_the_interlace_flag_changes_no_pixel(tmp_path: Path, codec: str) -> None:
    frames = scene(6, (64, 96))
    options = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264-params": "tff=1"}
    path = encode(tmp_path / "i.mkv", frames, codec=codec, **options)
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    assert any(p.interlaced_frame for p in pictures)
    for got, picture in zip(open_frames(path), pictures, strict=True):
        planes = [
            np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width] for p in picture.planes
        ]
        np.testing.assert_array_equal(got, rgb(filled("yuv420p", planes)))


def test_files_read_by_another_rule_than_before_are_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = encode(tmp_path / "a.mkv", scene(2), codec="ffv1", fmt="yuv420p")
    ten = encode(tmp_path / "b.mkv", scene(2), codec="ffv1", fmt="yuv420p10le")
    assert [open_frames(p).rule for p in (eight, ten)] == [1, 2]
    assert [open_frames(p).pixel_format for p in (eight, ten)] == ["yuv420p", "yuv420p10le"]
    assert open_frames(eight).codec == "ffv1"
    words = filled("x2rgb10le", [np.zeros((4, 4), "<u4")])
    monkeypatch.setattr(video, "_pictures", lambda _: iter([words]))  # few containers keep it
    assert open_frames(ten).rule == 3


# ---------------------------------------------------------------- TIFF

RGBA = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (24, 40, 4), np.uint16)


def eight(image: np.ndarray) -> np.ndarray:
    return np.rint(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image", [RGBA, DEEP], ids=["8", "16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_is_as_it_is_stored(
    tmp_path: Path, channels: int, image: np.ndarray, orientation: int
) -> None:
    path, stored = tmp_path / "x.tif", image[..., :channels]
    kind = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        path,
        stored[..., 0].copy() if channels == 1 else stored.copy(),
        photometric="minisblack" if channels == 1 else "rgb",
        extratags=[(274, "H", 1, orientation, True)],
        **kind,
    )
    want = np.repeat(eight(stored), 3, -1) if channels == 1 else eight(stored)[..., :3]
    np.testing.assert_array_equal(read_image(path), want)
    assert image_size(path) == (24, 40)
    source = open_frames(path)
    source.check()


@pytest.mark.parametrize("image", [RGBA, DEEP], ids=["8", "16"])
@pytest.mark.parametrize(
    "options",
    [
        {"extrasamples": ["assocalpha"]},
        {"extrasamples": ["unspecified"]},
        {"extrasamples": ["unassalpha"], "bigtiff": True},
        {"extrasamples": ["unassalpha"], "byteorder": ">"},
        {"extrasamples": ["unassalpha"], "tile": (16, 16)},
        {"extrasamples": ["unassalpha"], "compression": "zlib", "predictor": True},
    ],
    ids=str,
)
def test_alpha_of_tiff_is_dropped(
    tmp_path: Path, options: dict[str, object], image: np.ndarray
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), eight(image)[..., :3])


def test_other_kinds_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for image in (RGBA, DEEP):
        tifffile.imwrite(path, image[..., 0], photometric="miniswhite")
        want = np.repeat(255 - eight(image[..., :1]), 3, -1)
        assert np.abs(read_image(path).astype(int) - want).max() <= 1
        tifffile.imwrite(path, image, photometric="separated")
        with pytest.raises(DataError, match="colours other than grey and RGB"):
            read_image(path)
    tifffile.imwrite(
        path, np.moveaxis(DEEP[..., :3], -1, 0), photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(DataError, match="separate planes"):
        read_image(path)


def test_a_thumbnail_beside_the_picture_is_no_second_frame(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as out:
        out.write(RGBA[..., :3], photometric="rgb")
        out.write(RGBA[::4, ::4, :3].copy(), photometric="rgb", subfiletype=1)
    assert image_size(path) == (24, 40)
    np.testing.assert_array_equal(read_image(path), RGBA[..., :3])


# ---------------------------------------------------------------- PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(
    depth: int, colour: int, interlaced: bool = False, extra: bytes = b"", seed: int = 0
) -> tuple[bytes, np.ndarray]:
    """(a PNG of random samples in any legal kind, its pixels), as W. van Schaik's suite has."""
    h, w = 19, 13
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 1 << depth, (h, w, channels))
    palette = rng.integers(0, 256, (1 << min(depth, 8), 3), np.uint8)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    raw = b""
    for top, left, down, right in passes:
        part = pixels[top::down, left::right]
        for row in part if part.size else ():
            raw += b"\0"  # no filter
            if depth == 16:
                raw += row.astype(">u2").tobytes()
            elif depth == 8:
                raw += row.astype(np.uint8).tobytes()
            else:
                bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
                raw += np.packbits(bits.reshape(-1).astype(np.uint8)).tobytes()
    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced)
    )
    data += extra + (chunk(b"PLTE", palette.tobytes()) if colour == 3 else b"")
    body = zlib.compress(raw)
    data += chunk(b"IDAT", body[:40]) + chunk(b"IDAT", body[40:]) + chunk(b"IEND", b"")
    if colour == 3:
        return data, palette[pixels[..., 0]]
    shown = np.rint(pixels * (255 / ((1 << depth) - 1))).astype(np.uint8)
    return data, np.repeat(shown[..., :1], 3, -1) if colour in (0, 4) else shown[..., :3]


KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3)]
KINDS += [(8, 4), (16, 4), (8, 6), (16, 6)]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_every_kind_of_png(tmp_path: Path, depth: int, colour: int, interlaced: bool) -> None:
    path = tmp_path / "x.png"
    extra = chunk(b"gAMA", struct.pack(">I", 30000)) + chunk(b"tEXt", b"a\0b")
    data, want = png_of(depth, colour, interlaced, extra)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), want)
    assert image_size(path) == want.shape[:2]


@pytest.mark.parametrize(("curve", "why"), [(16, "PQ"), (18, "HLG"), (13, "")])
def test_png_with_the_curve_of_hdr_is_refused(tmp_path: Path, curve: int, why: str) -> None:
    path = tmp_path / "x.png"
    data, want = png_of(8, 2, False, chunk(b"cICP", bytes([9, curve, 0, 1])))
    path.write_bytes(data)
    if why:
        with pytest.raises(DataError, match=why):
            read_image(path)
    else:
        np.testing.assert_array_equal(read_image(path), want)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:20],
        lambda d: d[:-30],
        lambda d: d.replace(b"IHDR", b"IHDX"),
        lambda d: d[:30] + bytes([d[30] ^ 1]) + d[31:],  # checksum of the header
        lambda d: d.replace(b"IDAT", b"idAT"),
        lambda d: d[:70] + bytes([d[70] ^ 255]) + d[71:],
        lambda d: d[:8] + d[33:],  # no header
        lambda d: d[:33] + d[8:],  # two headers
        lambda d: b"\x89PNG\n\x1a\n" + d[8:],
        lambda d: d[:33] + chunk(b"XXXX", b"") + d[33:],
    ],
)
def test_damaged_png_is_refused(tmp_path: Path, damage: object) -> None:
    data, _ = png_of(8, 2)
    (tmp_path / "x.png").write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"x\.png"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    "header",
    [
        (0, 5, 8, 2, 0),
        (5, 0, 8, 2, 0),
        (5, 5, 3, 2, 0),
        (5, 5, 8, 1, 0),
        (5, 5, 16, 3, 0),
        (5, 5, 8, 2, 2),
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, header: tuple[int, ...]) -> None:
    w, h, depth, colour, interlaced = header
    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced)
    )
    data += chunk(b"IDAT", zlib.compress(b"\0" * 500)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        read_image(tmp_path / "x.png")


def test_a_png_of_absurd_size_takes_no_memory(tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0)
    )
    (tmp_path / "x.png").write_bytes(
        data + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="is truncated"):
        read_image(tmp_path / "x.png")


FUZZ = """
import random, struct, sys, zlib
from pathlib import Path
from typing import Any
from vsrbench.core.errors import DataError
from vsrbench.data.images import image_size, read_image

rng = random.Random(5)
files = [p.read_bytes() for p in sorted(Path(sys.argv[1]).iterdir())]
path = Path(sys.argv[2])

def chunks(data):
    at, found = 8, []
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append([data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])])
        at += 12 + length
    return found

for turn in range(1500):
    data = bytearray(rng.choice(files))
    if data.startswith(b"\\x89PNG") and rng.random() < 0.6:  # with checksums that are right
        parts = chunks(data)
        for _ in range(rng.randint(1, 3)):
            part = rng.choice(parts)
            if part[1] and rng.random() < 0.6:
                part[1][rng.randrange(len(part[1]))] = rng.randrange(256)
            elif rng.random() < 0.5:
                parts.insert(rng.randrange(len(parts)), part)
            else:
                del part[1][rng.randrange(len(part[1]) + 1) :]
        data = data[:8] + b"".join(
            struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b))
            for k, b in parts
        )
    else:
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
        del data[rng.randrange(len(data)) if rng.random() < 0.3 else len(data) :]
    path.write_bytes(data)
    for read in (read_image, image_size):
        try:
            read(path)
        except DataError:
            pass
print("alive")
"""


def test_damaged_pictures_never_end_the_process(tmp_path: Path, root: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    case = Path(__file__).parent / "data" / "cases"
    frames = [Image.fromarray(f) for f in scene(2, (20, 30))]
    for i, (depth, colour) in enumerate(KINDS):
        (given / f"{i}.png").write_bytes(png_of(depth, colour, bool(i % 2))[0])
    for name in ("a.jpg", "b.bmp", "c.webp", "d.tif"):
        frames[0].save(given / name)
    frames[0].save(given / "e.tif", compression="jpeg")
    frames[0].save(given / "f.tif", compression="tiff_lzw")
    frames[0].save(given / "g.png", save_all=True, append_images=frames[1:])
    (given / "h.png").write_bytes((case / "20-png-that-kills-the-decoder" / "a.png").read_bytes())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FUZZ, given, tmp_path / "x"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "tif", "png"])
def test_what_is_wrong_with_a_picture_is_said_once(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(scene(1)[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="is truncated"):
        read_image(path)
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------- several pictures, tracks, damage


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif", "x.jpg"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, name: str) -> None:
    first, second = (Image.fromarray(f) for f in scene(2))
    kind = {"format": "MPO"} if name == "x.jpg" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **kind)
    with pytest.raises(DataError, match="holds several pictures"):
        open_frames(tmp_path / name)


def test_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.fromarray(f).quantize(64) for f in scene(4)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=40)
    got = list(open_frames(tmp_path / "x.gif"))
    assert len(got) == 4
    for one, want in zip(got, frames, strict=True):
        assert np.abs(one.astype(int) - np.asarray(want.convert("RGB"))).max() <= 8
    path = tmp_path / "cut.gif"
    path.write_bytes((tmp_path / "x.gif").read_bytes()[:-200])
    with pytest.raises(DataError, match="breaks off"):
        open_frames(path)


SAME_BITS = {"x264-params": "asm=0"}  # on every processor

WHOLE: dict[str, dict[str, object]] = {
    "x.avi": {"codec": "mpeg4", "gop": 7, "bf": "2"},
    "x.ts": {"gop": 6, **SAME_BITS},
    "x.flv": {"gop": 6, **SAME_BITS},
    "x.y4m": {"codec": "wrapped_avframe"},
    "x.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "live.mkv": {"gop": 6, **SAME_BITS, "container": {"live": "1"}},
    "x.h264": {"gop": 7, **SAME_BITS},
    "x.mxf": {"codec": "mpeg2video", "gop": 7},
}


@pytest.mark.parametrize("name", WHOLE)
def test_cut_anywhere_a_video_is_refused_or_loses_no_frame_unnoticed(
    tmp_path: Path, name: str
) -> None:
    whole = encode(tmp_path / name, scene(20), **WHOLE[name])  # type: ignore[arg-type]
    frames = list(open_frames(whole))
    assert len(frames) == 20
    data, path = whole.read_bytes(), tmp_path / f"cut-{name}"
    refused = 0
    for place in random.Random(3).sample(range(len(data) // 4, len(data) * 9 // 10), 8):
        path.write_bytes(data[:place])
        try:
            found = list(open_frames(path))
        except UserError:
            refused += 1
            continue
        for got, want in zip(found, frames, strict=False):  # what is read is as it was
            np.testing.assert_array_equal(got, want)
    assert refused >= 6


STREAMS: dict[str, dict[str, Any]] = {
    "three.h264": {"x264-params": "asm=0:slices=3", "crf": "8"},
    "short.h264": {"x264-params": "asm=0:slice-max-size=300"},
    "one.hevc": {"codec": "libx265", "x265-params": "ctu=16:log-level=none"},
    "three.hevc": {"codec": "libx265", "x265-params": "ctu=16:slices=3:log-level=none"},
    "x.mjpeg": {"codec": "mjpeg", "fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", STREAMS)
def test_cut_anywhere_a_stream_without_a_container_gives_no_other_picture(
    tmp_path: Path, name: str
) -> None:
    """Decoders call a cut picture whole, and fill what is missing from the one before."""
    pictures = scene(16, (96, 128))
    whole = encode(tmp_path / name, pictures, gop=7, **STREAMS[name])
    frames = open_frames(whole)
    assert len(frames) == 16
    assert ("no container" in frames.note) == (name != "x.mjpeg")
    right = {frame.tobytes() for frame in frames}
    data, path, wrong, refused = whole.read_bytes(), tmp_path / f"cut-{name}", 0, 0
    places = random.Random(1).sample(range(len(data) // 4, len(data) * 9 // 10), 12)
    for place in places:
        path.write_bytes(data[:place])
        try:
            wrong += any(frame.tobytes() not in right for frame in open_frames(path))
        except DataError as error:
            refused += re.search("breaks off|is damaged", str(error)) is not None
    assert wrong <= (3 if name == "three.hevc" else 1)  # where a slice begins or ends
    assert refused >= (1 if "hevc" in name else 9)  # HEVC's drops the picture that is cut


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.h264", {"x264-params": "open-gop=1:bframes=3:slices=4"}),
        ("x.h264", {"x264-params": "intra-refresh=1"}),
        ("x.hevc", {"codec": "libx265", "x265-params": "log-level=none:bframes=4:slices=2"}),
    ],
)
def test_whole_streams_without_a_container_are_read(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    """Decoding begins in the middle of groups of pictures that lean on others."""
    for count in (19, 22):
        path = encode(tmp_path / name, scene(count, (96, 128)), gop=8, **options)  # type: ignore[arg-type]
        assert len(open_frames(path)) == count


def test_whole_streams_that_do_not_say_how_far_pictures_move_are_read(tmp_path: Path) -> None:
    """Decoders of H.264 learn from the pictures how long they must wait, and lose one meanwhile."""
    options = {"x264-params": "asm=0:bframes=5:b-pyramid=normal:b-adapt=0:ref=4"}
    path = encode(tmp_path / "x.h264", scene(22, (96, 128)), gop=30, **options)
    head, _, rest = path.read_bytes().partition(b"\0\0\1\x67")
    described, mark, rest = rest.partition(b"\0\0\0\1")
    bits = "".join(f"{byte:08b}" for byte in described.replace(b"\0\0\3", b"\0\0"))
    bits, found, _ = bits.rpartition("111100010010001001011001011")  # the limits
    assert found
    bits = f"{bits}01"  # none
    bits += "0" * (-len(bits) % 8)
    bare = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8))
    bare = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", bare)
    path.write_bytes(head + b"\0\0\1\x67" + bare + mark + rest)
    assert len(open_frames(path)) == 22


@pytest.mark.parametrize("count", [2, 3, 6])
def test_whole_streams_in_slices_of_one_size_are_read(tmp_path: Path, count: int) -> None:
    options = {"x264-params": "asm=0:slice-max-size=120:bframes=0"}
    path = encode(tmp_path / "x.h264", scene(count, (96, 128)), **options)
    assert len(open_frames(path)) == count


def test_a_slice_that_is_missing_is_damage(tmp_path: Path) -> None:
    """In the middle of a file: decoders with several threads do not see it."""
    options = {"x264-params": "asm=0:slices=3"}
    path = encode(tmp_path / "x.h264", scene(20), gop=7, **options)
    parts = path.read_bytes().split(b"\0\0\1")
    slices = [k for k, part in enumerate(parts) if part[:1] and part[0] & 31 in (1, 5)]
    for number in (13, 25, 34):
        left = [part for k, part in enumerate(parts) if k != slices[number]]
        path.write_bytes(b"\0\0\1".join(left))
        with pytest.raises(DataError, match=r"frame \d{8} is damaged"):
            open_frames(path)


@pytest.mark.parametrize("name", ["x.mkv", "x.webm", "live.mkv", "x.mp4"])
def test_a_hole_in_the_structure_is_damage(tmp_path: Path, name: str) -> None:
    """Demuxers go on at the next part that they know, and lose frames on the way.

    A hole within the bits of one frame can go unseen: only its decoder reads them.
    """
    how = dict(WHOLE.get(name, {"gop": 6, **SAME_BITS}))
    if name == "x.mp4":
        how["container"] = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    whole = encode(tmp_path / name, scene(20), **how)  # type: ignore[arg-type]
    data, path, chance = whole.read_bytes(), tmp_path / f"hole-{name}", random.Random(2)
    for turn in range(12):
        at, size = chance.randrange(len(data) // 4, len(data) * 3 // 4), chance.choice((1, 40, 500))
        path.write_bytes(data[:at] + bytes(size * (turn % 2)) + data[at + size :])
        try:
            found = len(list(open_frames(path)))
        except UserError:
            continue
        assert found == 20


@pytest.mark.parametrize("wide", [False, True])
def test_data_of_fragments_that_no_packet_has_are_missing(tmp_path: Path, wide: bool) -> None:
    """Lengths of boxes have four bytes or eight."""
    head = struct.pack(">I4sQ", 1, b"mdat", 26) if wide else struct.pack(">I4s", 18, b"mdat")
    path = tmp_path / "x.mp4"
    path.write_bytes(struct.pack(">I4s", 8, b"moof") + head + bytes(10))
    for held in (9, 10):
        found = lacks_frames(
            path, "mov", fewer=False, shorter=False, payload=held, held=held, places=1
        )
        assert found == (held == 9)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_sound_is_no_missing_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w", options={"movflags": "frag_keyframe"}) as out:
        stream, sound = out.add_stream("libx264", rate=24), out.add_stream("aac", rate=48000)
        stream.height, stream.width = scene(1)[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for k, picture in enumerate(scene(20)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            noise = np.random.default_rng(k).normal(0, 0.1, (2, 2000)).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(noise, "fltp", "stereo")
            heard.rate, heard.pts = 48000, 2000 * k
            out.mux(sound.encode(heard))
        out.mux(stream.encode())
        out.mux(sound.encode())
    assert len(list(open_frames(path))) == 20


@pytest.mark.parametrize("name", ["x.mkv", "live.mkv", "x.webm"])
@pytest.mark.parametrize("inside", [False, True])
def test_elements_that_nobody_knows_are_skipped(tmp_path: Path, name: str, inside: bool) -> None:
    """As EBML demands: before a cluster, and before a block within one."""
    whole = encode(tmp_path / name, scene(20), **WHOLE.get(name, {"gop": 6, **SAME_BITS}))  # type: ignore[arg-type]
    data, more = bytearray(whole.read_bytes()), b"\x4a\xbc\x84more"
    segment, cluster = data.index(b"\x18\x53\x80\x67"), data.index(b"\x1f\x43\xb6\x75")
    places = [(segment + 4, 8)]
    if inside:
        places.append((cluster + 4, 2))
    for place, wide in places:
        length = int.from_bytes(data[place : place + wide], "big")
        if length != 0x01FFFFFFFFFFFFFF:  # else it is unknown
            data[place : place + wide] = (length + len(more)).to_bytes(wide, "big")
    at = data.index(b"\xe7\x81\0\xa3", cluster) + 3 if inside else cluster
    data[at:at] = more
    path = tmp_path / f"more-{name}"
    path.write_bytes(data)
    assert len(list(open_frames(path))) == 20


def test_files_that_cannot_be_mapped_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some file systems in user space."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    one = encode(tmp_path / "x.flv", scene(6), gop=4)
    monkeypatch.setattr("mmap.mmap", refuse)
    assert len(open_frames(one)) == 6
    one.write_bytes(one.read_bytes() * 2)
    with pytest.raises(DataError, match="begins more than once"):
        open_frames(one)


@pytest.mark.parametrize("name", ["x.mp4", "fragments.mp4", "x.flv", "x.asf", "x.nut", "x.apng"])
def test_files_that_were_joined_byte_by_byte_are_refused(tmp_path: Path, name: str) -> None:
    """Where FFmpeg reads the first one alone, or mixes them."""
    how: dict[str, Any] = {"gop": 4}
    if name == "fragments.mp4":
        how["container"] = {"movflags": "frag_keyframe+empty_moov"}
    if name == "x.apng":
        how = {"codec": "apng", "fmt": "rgb24"}
    one = encode(tmp_path / name, scene(6), **how)
    assert len(open_frames(one)) == 6
    (tmp_path / f"joined-{name}").write_bytes(one.read_bytes() * 2)
    with pytest.raises(DataError, match="begins more than once: it is several videos"):
        open_frames(tmp_path / f"joined-{name}")


@pytest.mark.parametrize(
    ("name", "codec", "ends"),
    [
        ("x.h264", "libx264", ["06 05 02 41 41 80", "09 f0", "0a", "0c ff ff 80"]),
        ("x.hevc", "libx265", ["50 01 05 02 41 41 80", "46 01 50", "48 01", "4c 01 ff ff 80"]),
    ],
)
@pytest.mark.parametrize("slices", ["1", "2"])
def test_notes_at_the_end_of_a_stream_are_no_damage(
    tmp_path: Path, name: str, codec: str, ends: list[str], slices: str
) -> None:
    """Messages, delimiters, the end of the sequence, filler: units that are no pictures."""
    options = {f"{codec[3:]}-params": f"slices={slices}:log-level=none"}
    path = encode(tmp_path / name, scene(5, (96, 128)), codec=codec, **options)
    frames, data = list(open_frames(path)), path.read_bytes()
    assert len(frames) == 5
    for unit in ends:
        path.write_bytes(data + b"\0\0\1" + bytes.fromhex(unit))
        np.testing.assert_array_equal(list(open_frames(path)), frames)


@pytest.mark.parametrize("name", ["x.gif", "x.ts", "x.flv", "x.mkv", "x.mp4", "x.webm"])
def test_what_follows_the_end_of_a_video_is_no_damage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.gif":
        first, *more = (Image.fromarray(f).quantize(64) for f in scene(6))
        first.save(path, save_all=True, append_images=more)
    else:
        encode(path, scene(6), **WHOLE.get(name, {}))  # type: ignore[arg-type]
    frames = list(open_frames(path))
    assert len(frames) == 6
    for junk in (b"\0" * 50, b"made by a recorder that adds a line at the end\n"):
        path.write_bytes(path.read_bytes() + junk)
        np.testing.assert_array_equal(list(open_frames(path)), frames)


def test_streams_that_were_joined_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{k}.ts", scene(8 + k), gop=4) for k in (0, 1)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    source = open_frames(path)
    want = [frame for part in parts for frame in open_frames(part)]
    np.testing.assert_array_equal(list(source), want)
    for k in (16, 0, 9, 7, 8):
        np.testing.assert_array_equal(source[k], want[k])
    # A gap before a key frame may be a hole as well.
    path.write_bytes(encode(tmp_path / "x.ts", scene(24, (96, 128)), gop=6).read_bytes() * 2)
    source = open_frames(path)
    assert len(source) == 48
    assert source.note == (
        f"{path}: another stream begins at frame 00000024, or some before it are lost"
    )
    # A hole in the middle is damage, and is named.
    data = parts[0].read_bytes()
    packets = len(data) // 188
    path.write_bytes(data[: 188 * (packets // 2)] + data[188 * (packets // 2 + 5) :])
    with pytest.raises(DataError, match=r"joined\.ts: frame \d{8} is damaged|lacks a part"):
        list(open_frames(path))


def test_lists_of_files_and_stills_are_no_videos(tmp_path: Path) -> None:
    video = encode(tmp_path / "x.ts", scene(3))
    (tmp_path / "x.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.1,\nx.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "x.ffconcat").write_text("ffconcat version 1.0\nfile x.ts\n")
    Image.fromarray(scene(1)[0]).save(tmp_path / "x.ppm")
    (tmp_path / "x.txt").write_text("hello\n" * 50)
    named = {p.name: has_video(p) for p in tmp_path.iterdir()}
    assert named == {p: p == video.name for p in named}


def test_pictures_of_other_kinds_beside_frames_are_said(tmp_path: Path) -> None:
    for i, suffix in enumerate(("png", "png", "ppm")):
        Image.fromarray(scene(1)[0]).save(tmp_path / f"{i}.{suffix}")
    assert open_frames(tmp_path).note == f"not read in {tmp_path}: 2.ppm"


def test_of_several_tracks_the_default_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for size in ((64, 96), (32, 48)):
            stream = out.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            streams.append((stream, scene(3, size)))
        streams[1][0].disposition = av.stream.Disposition.default
        streams[0][0].disposition = av.stream.Disposition(0)
        for stream, frames in streams:
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            out.mux(stream.encode(None))
    source = open_frames(path)
    assert (source.size, len(source)) == ((32, 48), 3)
    assert (
        source.note == f"{path} holds 2 video tracks: number 2 is read, the default one, 48x32 px"
    )


def test_what_a_file_lost_is_told_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    """A JPEG is lossy by any name, and in any wrapper; a WebP may be whole."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    kinds: dict[str, tuple[dict[str, Any], str, bool]] = {
        "a.png": ({"format": "JPEG"}, "jpeg", True),
        "b.JPG": ({}, "jpg", True),
        "c.tif": ({"compression": "jpeg"}, "tif-ycc", True),
        "d.TIFF": ({"compression": "tiff_lzw"}, "tiff", False),
        "e.webp": ({"lossless": True}, "webp-lossless", False),
        "f.webp": ({"quality": 90}, "webp", True),
        "g.jpg": ({"format": "PNG"}, "png", False),
        "h.bmp": ({}, "bmp", False),
    }
    for name, (how, codec, lossy) in kinds.items():
        picture.save(tmp_path / name, **how)
        source = open_frames(tmp_path / name)
        assert (source.codec, is_lossy(source)) == (codec, lossy), name
    picture.convert("CMYK").save(tmp_path / "i.jpg")
    with pytest.raises(DataError, match="colours other than grey and RGB"):
        open_frames(tmp_path / "i.jpg")
    for pixels in ("p010le", "yuyv422", "y210le", "rgb565le", "nv12"):
        assert is_lossy(replace(source, codec="rawvideo", pixel_format=pixels))
    for pixels in ("yuv444p10le", "gbrp", "rgb24", "bgr0", "gray16le"):
        assert not is_lossy(replace(source, codec="ffv1", pixel_format=pixels))


def test_a_gap_in_a_folder_is_said(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:04d}.png")
    (tmp_path / "notes.txt").write_text("")
    note = open_frames(tmp_path).note
    assert note == (
        f"not read in {tmp_path}: notes.txt; "
        f"{tmp_path} has no frame 0003: its neighbours count as successive"
    )
