"""Video files: which track is read, how many frames it holds, and how they become RGB.

YUV becomes full-range RGB by the matrix and range that the stream declares. An undeclared range
means limited (grey: full); an undeclared matrix means BT.601 at any size, which is what FFmpeg and
OpenCV write and read unless told otherwise. Samples of more bits are rounded to 8 first. Subsampled
chroma is repeated over its pixels, whatever the subsampling, the depth and the size: 8-bit 4:2:0
gives the pixels that OpenCV gives. Files disagree on where those samples lie (H.264 says left, most
encoders fed with RGB average pairs), so no filter would be right for all. Full-resolution chroma
stays whole. A flag for interlacing changes no pixel: fields are not taken apart. Alpha is dropped.

The display matrix (rotation, mirroring) is applied; pixel aspect ratio is ignored; HDR transfer
curves are refused. Frames come in display order as decoded: none is dropped or repeated to even out
the frame rate. Of several video tracks the default one is read. A file is refused for damage to its
frames, never for its duration, its timestamps or its index, which many programs write wrongly.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.core.errors import DataError
from vsrbench.core.progress import counted
from vsrbench.data.containers import is_joined, lacks_frames
from vsrbench.data.images import FETCH_AGAIN

if TYPE_CHECKING:
    from av import FFmpegError, Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from vsrbench.core.types import Frame

RULE = 2
"""Version of the rules by which files become pixels, where they are not what they were at first."""
_RAW = frozenset({"h264", "hevc", "vvc", "mpegvideo", "m4v"})
"""Streams without a container: nothing but the decoder tells whether the last picture is whole."""
_SLICES: dict[str, Callable[[int, int], bool]] = {
    "h264": lambda first, _: 1 <= first & 31 <= 5,
    "hevc": lambda first, _: first >> 1 & 63 < 32,
    "vvc": lambda _, second: second >> 3 < 12,
}
"""Those whose decoders stop where a whole picture ends, whatever follows it, and which units of
them are parts of pictures, by their first bytes: ITU-T H.264, H.265 and H.266, table of types."""
_STARTS: dict[str, Callable[[int, int], bool]] = {
    "h264": lambda first, _: first & 31 == 5,
    "hevc": lambda first, _: 16 <= first >> 1 & 63 <= 21,
    "vvc": lambda _, second: 7 <= second >> 3 <= 9,
}
"""Units of pictures that need no others, by their first bytes."""
_UNIT = re.compile(b"\0\0\1(..)", re.DOTALL)
_LISTS = frozenset({"hls", "concat", "dash", "imf", "sdp", "webm_dash_manifest"})
_STILLS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
_PLANAR = re.compile(r"yuva?j?(420|422|444|411|440|410)p(\d*)(le|be)?")
_TENS = {"x2rgb10le": (20, 10, 0), "x2bgr10le": (0, 10, 20)}
"""Three samples of 10 bits in a word of 32, and where red, green and blue begin."""
_AS_THEY_ARE = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"})


@dataclass(frozen=True)
class Track:
    """What a scan of a video file finds."""

    count: int
    """Number of frames."""
    keys: dict[int, int]
    """Timestamp of each later frame at which decoding can begin."""
    fps: float
    """Frames per second, the average if it varies; 0 when unknown."""
    codec: str
    """Name of the codec, such as h264."""
    pixel_format: str
    """As FFmpeg calls it, such as yuv420p."""
    note: str
    """What a user must know: which track is read, where another stream begins, that a cut can go
    unseen, and that frames are not evenly spaced; else empty."""
    times: tuple[float, ...] = ()
    """Seconds from the first frame to each, where they are not evenly spaced; else empty."""


def scan(path: Path) -> Track:
    """Look at the packets of a video file, and decode it where they do not tell all.

    Raises DataError when there is no video in it or its frames are damaged.
    """
    import av

    shown: list[tuple[int | None, bool]] = []  # timestamp, key frame?
    total, last, end, payload, corrupt, steady = 0, None, 0, 0, False, True
    join = 0  # packets within which another stream begins, where one ends
    held, places = 0, set[int]()  # bytes and positions of the packets of all tracks
    try:
        with _open(path) as container:
            stream, note = _track(path, container)
            for packet in container.demux():
                if packet.size:
                    held += packet.size
                    places.add(packet.pos or 0)
                if packet.stream_index != stream.index or not packet.size:
                    continue
                if not _count_slices(container.format.name, packet):
                    continue
                if join == 1 and not packet.is_keyframe:
                    raise DataError(f"{path} lacks a part at frame {total:08d}", FETCH_AGAIN)
                if join and packet.is_keyframe:
                    note = note or (
                        f"{path}: another stream begins at frame {len(shown):08d}, or some before "
                        "it are lost"
                    )
                join = 0 if packet.is_keyframe else max(0, join - 1)
                if packet.is_corrupt and container.format.name == "mpegts":
                    join = 2
                total, payload = total + 1, packet.size
                steady &= last is None or packet.dts is None or packet.dts > last
                last = packet.dts if packet.dts is not None else last
                if packet.is_corrupt and not join:
                    corrupt = True
                elif not packet.is_discard:
                    shown.append((packet.pts, packet.is_keyframe))
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
            corrupt |= join > 0
            declared = stream.frames
            name = container.format.name
            # No average is above the rate that fits all timestamps: raw DV has 60000 as its own.
            rates = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
            fps = float(min(rates, default=0))
            codec, pixels = stream.codec_context.name, str(stream.codec_context.pix_fmt)
            # Matroska declares a length in time only, over all its streams.
            length_s = float(container.duration or 0) / av.time_base
            base = float(stream.time_base or 0)
            end_s = end * base
            lost = round((length_s - end_s) * fps) if len(container.streams) == 1 else 0
    except av.FFmpegError as error:
        raise undecodable_error(path, error, len(shown)) from error
    if is_joined(path, name):
        raise DataError(
            f"{path} begins more than once: it is several videos, one after another, or one with "
            "its head repeated, and programs differ in what they read of it",
            "join them with a program that knows the format, or take them apart",
        )
    missing = lacks_frames(
        path,
        name,
        fewer=total < declared,
        shorter=lost > 1,
        payload=payload,
        held=held,
        places=len(places),
    )
    if len(shown) != declared or corrupt or missing or not steady:
        pictures = _check_pictures(path, _pictures(path), 0)
        shown = [(frame.pts, frame.key_frame) for frame in pictures]
        missing |= name in _RAW and total - 1 not in {stamp for stamp, _ in shown}
        if name in _SLICES and not missing:
            missing = _is_open_ended(path)
            note = note or f"{path} has no container, so a cut in its last frame can go unseen"
        if missing or corrupt:
            raise cut_short_error(path, len(shown), declared if total < declared else 0)
        in_order = all(
            a is not None and b is not None and a < b for (a, _), (b, _) in pairwise(shown)
        )
        if not in_order:
            return Track(len(shown), {}, fps, codec, pixels, note)
    stamps = sorted((stamp, key) for stamp, key in shown if stamp is not None)
    keys: dict[int, int] = {}
    times: tuple[float, ...] = ()
    if len({stamp for stamp, _ in stamps}) == len(shown):  # no seeking without unique timestamps
        keys = {i: stamp for i, (stamp, key) in enumerate(stamps) if key and i > 0}
        times = tuple((stamp - stamps[0][0]) * base for stamp, _ in stamps)
    gaps = [b - a for a, b in pairwise(times)]
    off = max((abs(time - i / fps) for i, time in enumerate(times) if fps), default=0.0)
    if off * fps <= 1 or max(gaps) < 1.5 * min(gaps):  # a frame dropped here and there is no matter
        return Track(len(shown), keys, fps, codec, pixels, note)
    uneven = (
        f"{path}: its frames are not evenly spaced in time, but {1000 * min(gaps):.0f} to "
        f"{1000 * max(gaps):.0f} ms apart; --video keeps their times, other moving pictures show "
        f"{fps:.3g} a second, up to {off:.2g} s from them"
    )
    return Track(
        len(shown), keys, fps, codec, pixels, "; ".join(filter(None, (note, uneven))), times
    )


def read(path: Path, keys: dict[int, int], start: int) -> Iterator[Frame]:
    """Frames from display number `start` on: 0 or one of `keys`. Raises DataError."""
    return (to_rgb(path, picture) for picture in _decode_from(path, keys, start))


def read_first(path: Path) -> tuple[Frame, int] | None:
    """(the first frame, version of the rule that makes it); None when there is none.

    Version 1 is how OpenCV reads it; 3 reads the formats of 10 bits that version 2 got wrong.
    """
    for picture in _pictures(path):
        version = 1 if _is_plain(picture) else 3 if picture.format.name in _TENS else RULE
        return to_rgb(path, picture), version
    return None


def has_video(path: Path) -> bool:
    """Whether FFmpeg finds moving pictures in a file; lists of files and stills do not count."""
    import av

    try:
        with _open(path) as container:
            return not container.format.name.endswith("_pipe") and bool(_track(path, container))
    except (av.FFmpegError, DataError):
        return False


def _open(path: Path) -> InputContainer:
    """A file opened by FFmpeg, which sees no protocol in its name and reads nothing else."""
    import av

    options = {"protocol_whitelist": "file"}
    container: InputContainer = av.open(f"file:{path}", metadata_errors="replace", options=options)
    return container


def _track(path: Path, container: InputContainer) -> tuple[VideoStream, str]:
    """(the video track that is read, a line about the others). Raises DataError."""
    from av.stream import Disposition

    if container.format.name in _LISTS:
        raise DataError(f"{path} is a list of other files", "name the video itself")
    with path.open("rb") as file:
        if file.read(12)[4:] in _STILLS:
            raise DataError(f"{path} is a still picture (HEIF or AVIF)", "save it as PNG")
    # FFmpeg takes plain text for ANSI art and renders it.
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [s for s in container.streams.video if not s.disposition & covers]
    if not tracks or container.format.name == "tty":
        raise DataError(f"{path} holds no video", "name a video file or a folder of images")
    known = [s for s in tracks if s.codec_context is not None]
    if not known:
        raise DataError(f"{path} has an unknown video codec", "convert it to H.264 first")
    chosen = max(
        known, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height)
    )
    note = ""
    if len(tracks) > 1:
        which = "the default one" if chosen.disposition & Disposition.default else "the largest one"
        note = (
            f"{path} holds {len(tracks)} video tracks: number {tracks.index(chosen) + 1} is read, "
            f"{which}, {chosen.width}x{chosen.height} px"
        )
    return chosen, note


def _pictures(path: Path, seek: int | None = None, first: int = 0) -> Iterator[VideoFrame]:
    """Decoded pictures in display order, from the key frame with timestamp `seek` on.

    `first` is the number of that frame, for the message of the DataError when decoding breaks off.
    Pictures of streams without timestamps get the numbers of their packets.
    """
    import av

    index, order = first, 0
    try:
        with _open(path) as container:
            stream, _ = _track(path, container)
            if stream.codec_context.name == "h264":
                stream.codec_context.thread_count = 1  # several do not see that a slice is missing
            if seek is not None:
                container.seek(seek, stream=stream)
            for packet in container.demux(stream):
                if packet.is_corrupt and container.format.name != "mpegts":
                    index += len(stream.decode())  # pictures that were waiting for their turn
                    raise cut_short_error(path, index, stream.frames)
                slices = _count_slices(container.format.name, packet)
                if container.format.name in _RAW and packet.size and slices:
                    packet.pts = packet.dts = order
                    order += 1
                try:
                    pictures = packet.decode()
                except av.InvalidDataError:
                    if slices:
                        raise
                    continue  # decoders complain where there is nothing but notes
                for picture in pictures:
                    yield picture
                    index += 1
    except av.FFmpegError as error:
        raise undecodable_error(path, error, index) from error


def _count_slices(form: str, packet: Packet) -> int:
    """How many parts of a picture a packet of a stream without a container holds; of others 1."""
    if form not in _SLICES or not packet.size:
        return 1
    return _count(form, bytes(packet))


def _count(form: str, data: bytes) -> int:
    """How many units of them are parts of pictures."""
    return sum(_SLICES[form](*unit[1]) for unit in _UNIT.finditer(data))


def _is_open_ended(path: Path) -> bool:
    """Whether the last frames of a stream without a container are not settled by what is there.

    They are decoded twice, from the last picture on that needs no other. Where one is cut, they
    change with the bytes that follow, which its decoder reads, too, and with what the memory of one
    decoder held before that a missing part is not written to. Of H.265 and H.266 in several slices,
    of which decoders read more than there is, only the latter counts, and whether the last picture
    has as many slices as all others. Not seen is a cut within a few bytes of the end of a slice.
    """
    import av

    with _open(path) as container:
        stream, _ = _track(path, container)
        form, about = container.format.name, stream.codec_context
        held = [bytes(p) for p in container.demux(stream) if _count_slices(form, p) and p.size]
        decoders = [av.CodecContext.create(about.name, "r") for _ in range(2)]
        for decoder in decoders:
            decoder.thread_count, decoder.extradata = 1, about.extradata
    slices = [_count(form, data) for data in held]
    several = form != "h264" and slices[-1] > 1
    # One size for all slices gives any number of them, and among a few pictures the same by chance.
    if form != "h264" and len(slices) > 3 and slices[-1] < slices[0] and len(set(slices[:-1])) == 1:
        return True
    first = max((k for k, data in enumerate(held) if _begins(form, data)), default=0)
    found = list[list[bytes]]()
    tails = (b"", b"") if several else (256 * b"\x55", 256 * b"\xa7")
    # That of H.264 remembers how far out of order pictures came, and may give more of them then.
    for decoder, tail in zip(decoders if form == "h264" else decoders[:1] * 2, tails, strict=True):
        digests, alive = list[bytes](), deque[Any](maxlen=8)  # their memory is not used again
        try:
            for unit in (*held[first:-1], held[-1] + tail, None):  # None: what is left
                for picture in decoder.decode(None if unit is None else av.Packet(unit)):
                    digests.append(hashlib.sha256(picture.to_ndarray()).digest())
                    alive.append(picture)
        except av.FFmpegError as error:
            digests.append(str(error.errno).encode())
        found.append(sorted(digests))
        decoder.flush_buffers()
    return found[0] != found[1]


def _begins(form: str, data: bytes) -> bool:
    """Whether decoding can begin at a packet of a stream without a container."""
    return any(_STARTS[form](*unit[1]) for unit in _UNIT.finditer(data))


def _decode_from(path: Path, keys: dict[int, int], start: int) -> Iterator[VideoFrame]:
    if start:
        # Seeking may land early, and at an open GOP pictures that precede the key frame follow it
        # in the file. Where the key frame itself does not come out, count from the beginning.
        stamp = keys[start]
        sought = _pictures(path, stamp, start)
        for picture in sought:
            if picture.pts == stamp:
                return _check_pictures(path, chain([picture], sought), start)
            if picture.pts is None or picture.pts > stamp:
                break
    return islice(_check_pictures(path, _pictures(path), 0), start, None)


def _check_pictures(path: Path, pictures: Iterator[VideoFrame], first: int) -> Iterator[VideoFrame]:
    """The pictures, until the decoder had to make up a part of one. Raises DataError."""
    for index, picture in enumerate(pictures, start=first):
        if picture.is_corrupt:
            raise DataError(f"{path}: frame {index:08d} is damaged", FETCH_AGAIN)
        yield picture


def to_rgb(path: Path, picture: VideoFrame) -> Frame:
    """A decoded picture as uint8 RGB H x W x 3, by the rules above. Raises DataError."""
    import numpy as np
    from av.video.reformatter import ColorRange

    name = picture.format.name
    # Matrices and transfer curves are numbered by ITU-T H.273, as in swscale: 1 BT.709, 5 BT.601.
    # 0 and 2 leave the matrix open: BT.601 is what encoders that are fed with RGB then used.
    matrix = {0: 5, 2: 5, 6: 5}.get(picture.colorspace, picture.colorspace)
    if matrix not in (1, 4, 5, 7, 9) or picture.color_trc in (16, 18):
        raise DataError(
            f"{path} has HDR or unknown colours "
            f"(matrix {picture.colorspace}, transfer {picture.color_trc} of ITU-T H.273)",
            "convert it to SDR BT.709 first",
        )
    if re.search("f(16|32)", name):
        raise DataError(f"{path} has float samples ({name})", "convert it to 8 or 16 bits first")
    full = picture.color_range == ColorRange.JPEG or name.startswith("yuvj")
    if _is_plain(picture):
        rgb = _convert(picture, matrix, full)
    elif name.startswith(("gray", "ya8", "ya16")):
        rgb = np.repeat(_grey(picture)[..., None], 3, -1)
    elif re.fullmatch(r"(gbra?p\d+|(rgb|bgr)a?(48|64))(le|be)", name):
        rgb = _deep_rgb(picture)
    elif name in _TENS:
        rgb = _packed_tens(picture)
    elif _is_yuv(picture):
        rgb = _repeat_chroma(picture, matrix, full)
    else:  # 8-bit RGB and what swscale alone knows
        rgb = _convert(picture, matrix, full)
    if "DISPLAYMATRIX" in picture.side_data:
        # (x, y) is shown at (ax + cy, bx + dy), in units of 1/65536 px.
        a, b, _, c, d = np.frombuffer(picture.side_data["DISPLAYMATRIX"], np.int32)[:5]
        if (a or d) and (b or c):
            raise DataError(
                f"{path} is rotated by {picture.rotation} degrees",
                "re-encode it upright; only multiples of 90 are applied",
            )
        if b:
            rgb, a, d = rgb.swapaxes(0, 1), c, b
        rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb, np.uint8)


def _is_plain(picture: VideoFrame) -> bool:
    """Whether swscale repeats the chroma of a picture as it is."""
    even = picture.width % 2 == 0 and picture.height % 2 == 0
    return picture.format.name in _AS_THEY_ARE and even and not picture.interlaced_frame


def _is_yuv(picture: VideoFrame) -> bool:
    form = picture.format
    return len(form.components) > 2 and not form.is_rgb and not form.name.startswith("xyz")


def _convert(picture: VideoFrame, matrix: int, full: bool) -> Any:
    """By swscale, without resampling of luma."""
    from av.video.reformatter import ColorRange, Interpolation

    return picture.to_ndarray(
        format="rgb24",
        interpolation=Interpolation.BICUBIC,  # the default of swscale, whatever PyAV's is
        src_colorspace=matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )


def _samples(plane: Any, bits: int, swapped: bool, width: int) -> Any:
    """The samples of a plane, as many in a row as are given."""
    import numpy as np

    kind = np.dtype("u1" if bits <= 8 else ">u2" if swapped else "<u2")
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, :width]


def _to_8_bits(samples: Any, bits: int, full: bool, chroma: bool = False) -> Any:
    """Rounded: of limited range by a power of 2, of full range so that white stays white."""
    import numpy as np

    if bits <= 8:
        return samples
    wide = samples.astype(np.int32)
    if not full:
        return np.minimum((wide + (1 << bits - 9)) >> bits - 8, 255).astype(np.uint8)
    middle = 1 << bits - 1 if chroma else 0
    wide = np.rint((wide - middle) * (255 / ((1 << bits) - 1))) + (128 if chroma else 0)
    return wide.clip(0, 255).astype(np.uint8)


def _grey(picture: VideoFrame) -> Any:
    form = picture.format
    bits, step = form.components[0].bits, len(form.components)
    line = _samples(picture.planes[0], bits, form.is_big_endian, picture.width * step)
    return _to_8_bits(line[:, ::step], bits, True)


def _deep_rgb(picture: VideoFrame) -> Any:
    import numpy as np

    form, width = picture.format, picture.width
    bits, count, swapped = form.components[0].bits, len(form.components), form.is_big_endian
    if form.is_planar:
        green, blue, red = (_samples(p, bits, swapped, width) for p in picture.planes[:3])
        rgb = np.stack([red, green, blue], -1)
    else:
        line = _samples(picture.planes[0], bits, swapped, width * count)
        rgb = line.reshape(picture.height, width, count)[..., :3]
        rgb = rgb[..., ::-1] if form.name.startswith("bgr") else rgb
    return _to_8_bits(rgb, bits, True)


def _packed_tens(picture: VideoFrame) -> Any:
    import numpy as np

    (plane,) = picture.planes
    words = np.frombuffer(plane, "<u4").reshape(plane.height, -1)[:, : picture.width]
    rgb = np.stack([words >> first & 1023 for first in _TENS[picture.format.name]], -1)
    return _to_8_bits(rgb, 10, True)


def _repeat_chroma(picture: VideoFrame, matrix: int, full: bool) -> Any:
    """RGB of YUV of any subsampling, depth and size, by the arithmetic of 8-bit 4:2:2.

    In that swscale repeats chroma, with the same arithmetic as in 4:2:0. Samples are brought to 8
    bits, and chroma to all rows and every other column; where chroma has all columns, luma gets
    twice as many, and every other one is taken in the end.
    """
    import av
    import numpy as np

    form, height, width = picture.format, picture.height, picture.width
    bits = form.components[0].bits
    across, down = 16 // form.chroma_width(16), 16 // form.chroma_height(16)
    if not _PLANAR.fullmatch(form.name):
        picture = _separate_planes(picture, (across, down), bits, full)
    widths = (width, *[-(-width // across)] * 2)
    luma, *chroma = (
        _to_8_bits(_samples(p, bits, picture.format.is_big_endian, w), bits, full, k > 0)
        for k, (p, w) in enumerate(zip(picture.planes[:3], widths, strict=True))
    )
    if across == 1:
        luma = luma.repeat(2, 1)
    even = height + height % 2, luma.shape[1] + luma.shape[1] % 2
    made = av.VideoFrame(even[1], even[0], "yuv422p")
    for plane, data in zip(
        made.planes,
        (luma, *(c.repeat(down, 0)[:height].repeat(max(across // 2, 1), 1) for c in chroma)),
        strict=True,
    ):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        data = data[:, : plane.width]
        rows[:height, : data.shape[1]] = data
        rows[height:] = rows[height - 1]
        rows[:, data.shape[1] : plane.width] = data[-1:, -1:]
        plane.update(rows)
    rgb = _convert(made, matrix, full)[:height]
    return rgb[:, ::2] if across == 1 else rgb[:, :width]


def _separate_planes(
    picture: VideoFrame, ratio: tuple[int, int], bits: int, full: bool
) -> VideoFrame:
    """The same samples, each kind in a plane of its own."""
    from av.video.reformatter import ColorRange

    kind = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411", (1, 2): "440"}[ratio]
    span = ColorRange.JPEG if full else ColorRange.MPEG
    return picture.reformat(
        format=f"yuv{kind}p" + (f"{bits}le" if bits > 8 else ""),
        src_colorspace=5,
        dst_colorspace=5,
        src_color_range=span,
        dst_color_range=span,
    )


def cut_short_error(path: Path, count: int, declared: int = 0) -> DataError:
    """The error for a video that ends before its frames do."""
    of = f" of {declared}" if declared else ""
    return DataError(f"{path} breaks off after {count}{of} frames", FETCH_AGAIN)


def undecodable_error(path: Path, error: FFmpegError, count: int = 0) -> DataError:
    """The error for what FFmpeg says, after `count` frames."""
    if count:
        return DataError(
            f"{path} breaks off after {counted(count, 'frame')}: {error.strerror}", FETCH_AGAIN
        )
    return DataError(
        f"no frame of {path} can be decoded: {error.strerror}",
        "check that it is a video; a copy or download that stopped early must be made again",
    )
