"""Moving pictures: methods side by side, in a grid or under a wipe; and outputs as playable files.

Frames of one clip by several methods go in, one file comes out: MP4 (H.264) for players, GIF or
WebP for pages. Nothing is enlarged except by whole factors, pixel by pixel.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vsrbench.core.errors import UserError
from vsrbench.data.frames import FrameSource, open_frames
from vsrbench.results.summary import GT

if TYPE_CHECKING:
    from vsrbench.core.types import Clip, Frame, Record

    Box = tuple[int, int, int, int]

Arrangement = Literal["side", "grid", "wipe"]
Form = Literal["h264", "av1", "lossless"]
ENCODERS: Mapping[Form, tuple[str, ...]] = {
    "h264": ("libx264",),
    "av1": ("libsvtav1", "libaom-av1"),
    "lossless": ("ffv1",),
}
"""Form of a video -> encoders of FFmpeg that make it, the first that is there is taken."""
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"crf": "16", "preset": "medium"},
    "libsvtav1": {"crf": "20", "preset": "8"},
    "libaom-av1": {"crf": "20", "cpu-used": "6"},
    "ffv1": {},
}
PLAYED = frozenset({"aac", "mp3", "opus", "ac3", "eac3", "alac", "flac"})
"""Sound that players take in an MP4, which may hold others."""
SUFFIXES = (".mp4", ".gif", ".webp")
BAR = 40
"""Height in px of the strip that names a method."""
EDGE = (255, 176, 0)
"""Colour of the bar of a wipe."""
GREYS = np.linspace(0, 240, 16).round().astype(np.uint8)
"""Of the names in a GIF."""
SMALLER = ((1, 1.0), (1, 0.8), (1, 0.64), (1, 0.5), (2, 0.5), (2, 0.4), (3, 0.4), (4, 0.3))
"""How loops are made smaller: every so many-th frame, at this scale."""
CLOCK = Fraction(1, 90_000)
"""Unit of the times of frames that are not evenly spaced."""
WIPE_S = 4.0
"""Seconds in which the wipe crosses the picture and comes back; of a shorter clip, all of it."""


def arrange(
    frames: Mapping[str, Sequence[Frame]],
    how: Arrangement = "side",
    box: Box | None = None,
    fps: float = 24.0,
    cell: int = 480,
) -> Iterator[Frame]:
    """Labelled uint8 RGB frames that show the methods next to each other.

    frames: title of each method -> its H x W x 3 frames, equal in number and size. how: `side` is
    one row, `grid` as square as it goes, `wipe` shows the first two under a bar that moves. box:
    (x, y, width, height) of what is shown; the whole frame without. cell: about how many px wide
    one method is drawn: small crops are enlarged by a whole factor, large frames brought down.
    Raises UserError for a box outside the frame, or a wipe of other than two methods.
    """
    titles, sources = list(frames), list(frames.values())
    height, width = sources[0][0].shape[:2]
    x, y, w, h = box or (0, 0, width, height)
    if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        raise UserError(f"box {box} is outside the frame", f"frames are {width}x{height}")
    if how == "wipe" and len(sources) != 2:
        raise UserError(
            f"a wipe is between two methods, not {len(sources)}", "--methods A,B --how wipe"
        )
    size = _size(w, h, cell)
    columns = math.ceil(len(sources) / count_rows(how, len(sources)))
    period = min(fps * WIPE_S, len(sources[0]))  # a short clip shows both methods, too
    for index in range(len(sources[0])):
        views = [
            _scaled(np.ascontiguousarray(source[index][y : y + h, x : x + w]), size)
            for source in sources
        ]
        if how == "wipe":
            yield _pad_to_even(_wipe(views, titles, index / period))
            continue
        cells = [
            np.concatenate([_label(title, size[0]), view])
            for title, view in zip(titles, views, strict=True)
        ]
        cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
        rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
        yield _pad_to_even(np.concatenate(rows))


def count_rows(how: Arrangement, count: int) -> int:
    """Rows in which `arrange` puts so many methods, each under strips with their names."""
    return math.ceil(count / math.ceil(math.sqrt(count))) if how == "grid" else 1


def _size(width: int, height: int, cell: int) -> tuple[int, int]:
    """(width, height) at which a crop is drawn."""
    factor = max(1, round(cell / width)) if width <= cell else cell / width
    return max(2, round(width * factor)), max(2, round(height * factor))


def _scaled(view: Frame, size: tuple[int, int]) -> Frame:
    if view.shape[1::-1] == size:
        return view
    return np.asarray(Image.fromarray(view).resize(size, Image.Resampling.BOX))


def _wipe(views: list[Frame], titles: Sequence[str], phase: float) -> Frame:
    """The first left of a bar, the second right of it; the bar goes there and back.

    A name fades while less than a quarter of the picture is of its method.
    """
    left, right = views
    width = left.shape[1]
    at = round(width * (0.5 - 0.5 * math.cos(2 * math.pi * phase)))
    picture = right.copy()
    picture[:, :at] = left[:, :at]
    picture[:, max(0, at - 1) : at + 1] = EDGE
    halves = (titles[0], width // 2, at), (titles[1], width - width // 2, width - at)
    names = [_label(title, room, min(1.0, 4 * shown / width)) for title, room, shown in halves]
    return np.concatenate([np.concatenate(names, axis=1), picture])


def _label(title: str, width: int, strength: float = 1.0) -> Frame:
    strip = Image.new("RGB", (width, BAR), (20, 20, 20))
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(26)
    while draw.textlength(title, font) > width - 12 and len(title) > 2:
        title = title[:-2].rstrip("…") + "…"
    ink = (round(60 + 180 * strength),) * 3
    draw.text((width / 2, BAR / 2), title, ink, font, anchor="mm")
    return np.asarray(strip)


def _pad_to_even(frame: Frame) -> Frame:
    """With even sides, as video wants them."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write(
    frames: Iterator[Frame] | Sequence[Frame],
    out: Path,
    fps: float = 24.0,
    limit_mib: float = 3.0,
    rows: int = 1,
) -> None:
    """Write frames of `arrange` as MP4, or as a looping GIF or WebP of at most `limit_mib`.

    rows: of methods in them, as `count_rows` says. To keep the limit, pictures are brought down,
    then frames left out. Raises UserError for another suffix, or when nothing small enough can be
    made.
    """
    if out.suffix == ".mp4":
        encode(frames, out, fps)
        return
    if out.suffix not in SUFFIXES:
        raise UserError(f"moving pictures are {', '.join(SUFFIXES)}, not {out.suffix or out}")
    pictures = [Image.fromarray(frame) for frame in frames]
    for step, scale in SMALLER:
        data = _looped(pictures[::step], scale, fps / step, out.suffix, rows)
        if len(data) <= limit_mib * 2**20:
            out.write_bytes(data)
            return
    raise UserError(
        f"{out}: larger than {limit_mib:g} MiB however small it is drawn",
        "show a box or fewer frames, or write .mp4",
    )


def _looped(pictures: list[Image.Image], scale: float, fps: float, suffix: str, rows: int) -> bytes:
    width, height = pictures[0].size
    size = max(2, round(width * scale)), max(2, round(height * scale))
    how: dict[str, Any] = {"save_all": True, "loop": 0, "duration": round(1000 / fps)}
    buffer = io.BytesIO()
    if suffix == ".gif":
        views = _with_one_palette(pictures, size, rows)
        views[0].save(buffer, "GIF", append_images=views[1:], **how)
    else:
        views = [_resized(p, size) for p in pictures]
        views[0].save(buffer, "WEBP", append_images=views[1:], quality=80, method=4, **how)
    return buffer.getvalue()


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _with_one_palette(
    pictures: list[Image.Image], size: tuple[int, int], rows: int
) -> list[Image.Image]:
    """Pictures of one palette: palettes of their own would flicker.

    Dithering strews every colour that there is. So the names and the bar of a wipe have colours of
    their own, and are drawn when it is done.
    """
    scale, pitch = size[1] / pictures[0].height, pictures[0].height // rows
    strips = [(round(y * scale), round((y + BAR) * scale)) for y in range(0, rows * pitch, pitch)]
    names, bars, views = [], [], []
    for picture in pictures:
        frame = np.array(picture)
        bar = np.flatnonzero((frame[BAR:] == EDGE).all((0, 2)))
        left, right = (bar[0], bar[-1] + 1) if bar.size else (0, 0)
        if right:
            beside = left - 1 if left else min(right, picture.width - 1)
            frame[BAR:, left:right] = frame[BAR:, beside : beside + 1]
        bars.append((math.floor(left * scale), math.ceil(right * scale)))
        frame = np.array(_resized(Image.fromarray(frame), size))
        names.append([frame[top:end].mean(-1) for top, end in strips])
        for top, end in strips:
            frame[top:end] = frame[end : end + 1]
        views.append(Image.fromarray(frame))
    sheet = np.concatenate([np.asarray(v)[::4, ::4].reshape(-1, 3) for v in views])
    first = 255 - len(GREYS)
    palette = Image.fromarray(sheet[None]).quantize(first)
    colours = (palette.getpalette() or [])[: 3 * first]
    colours += [0] * (3 * first - len(colours)) + GREYS.repeat(3).tolist() + list(EDGE)
    made = []
    for view, own, (left, right) in zip(views, names, bars, strict=True):
        dithered = np.array(view.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
        dithered[:, left:right] = 255
        for (top, end), name in zip(strips, own, strict=True):
            dithered[top:end] = first + (name / GREYS[1]).round().clip(0, len(GREYS) - 1)
        made.append(Image.fromarray(dithered))
        made[-1].putpalette(colours)
    return made


def encode(
    frames: Iterator[Frame] | Sequence[Frame],
    out: Path,
    fps: float,
    form: Form = "h264",
    sound_of: Path | None = None,
    start_s: float = 0.0,
    times: Sequence[float] = (),
) -> None:
    """Frames as a video that players play.

    form: `h264` or `av1` (4:2:0, BT.709, visually lossless), or `lossless` (FFV1, the very RGB
    values). fps: 24 where it is 0. times: seconds at which frames are shown, where they are not
    evenly spaced. sound_of: video whose first audio track goes along, from
    `start_s` on and as long as the frames; copied as it is where the container takes it, else AAC.
    Raises UserError when the file cannot be written, or there is no such encoder.
    """
    import av
    from av.error import FFmpegError

    os.environ.setdefault("SVT_LOG", "1")  # errors: the encoder of AV1 has much to tell
    rate = Fraction(fps or 24.0).limit_denominator(1001)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.part{out.suffix}")
        try:
            with av.open(str(part), "w") as container, ExitStack() as stack:
                stream = container.add_stream(_encoder(form), rate=rate)
                stream.options = dict(OPTIONS[stream.codec.name])
                if times:  # in order: where they come in another one, MP4 is told a shorter time
                    stream.codec_context.time_base = CLOCK
                    stream.codec_context.max_b_frames = 0
                sound = _Sound(container, sound_of, start_s, stack) if sound_of else None
                seconds = 0.0
                for index, frame in enumerate(frames):
                    frame = frame if form == "lossless" else _pad_to_even(frame)
                    if index == 0:
                        stream.height, stream.width = frame.shape[:2]
                        _describe(stream, form)
                    picture = _picture(frame, form)
                    at = times[index] if times else float(index / rate)
                    picture.pts, picture.time_base = index, 1 / rate
                    if times:
                        picture.pts, picture.time_base = round(at / CLOCK), CLOCK
                    container.mux(stream.encode(picture))
                    seconds = at + float(1 / rate)
                    if sound:
                        sound.until(seconds)
                container.mux(stream.encode(None))
                if sound:
                    sound.until(seconds, last=True)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, FFmpegError) as error:
        raise UserError(f"cannot write {out}: {error}", "choose another file or format") from error


def _encoder(form: Form) -> str:
    """The encoder of FFmpeg for a form. Raises UserError."""
    from av.codec import codecs_available

    for name in ENCODERS[form]:
        if name in codecs_available:
            return name
    raise UserError(f"this PyAV has no encoder for {form}", "--video h264")


def _describe(stream: Any, form: Form) -> None:
    """Say in the file how colours are to be read: players guess wrong where nothing is said."""
    context = stream.codec_context
    stream.pix_fmt = "bgr0" if form == "lossless" else "yuv420p"
    if form != "lossless":
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # limited


def _picture(frame: Frame, form: Form) -> Any:
    import av
    from av.video.reformatter import Colorspace

    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    if form == "lossless":
        return picture
    made = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    made.colorspace, made.color_range = 1, 1
    return made


class _Sound:
    """The first audio track of a video, from a second on."""

    def __init__(self, container: Any, source: Path, start_s: float, stack: ExitStack) -> None:
        import av

        self._container = container
        self._in = stack.enter_context(av.open(str(source)))
        tracks = self._in.streams.audio
        self._packets: Iterator[tuple[float, Any]] = iter(())
        self._next: tuple[float, Any] | None = None
        if not tracks:
            return
        self._track = tracks[0]
        films = self._in.streams.video
        begins = [s.start_time * s.time_base for s in films if s.start_time and s.time_base]
        self._from_s = start_s + float(begins[0] if begins else 0)
        name = self._track.codec.canonical_name
        plays = name in PLAYED if container.format.name == "mp4" else True
        if plays and name in container.supported_codecs:
            self._out = container.add_stream_from_template(self._track)
            self._packets = self._copy()
        else:
            self._out = container.add_stream("aac", rate=self._track.rate)
            self._packets = self._encode()
        self._next = next(self._packets, None)

    def until(self, seconds: float, last: bool = False) -> None:
        """Write what sounds before a time; `last`: nothing comes after."""
        while self._next is not None and self._next[0] < seconds:
            self._container.mux(self._next[1])
            self._next = next(self._packets, None)
        if last:
            self._packets, self._next = iter(()), None

    def _copy(self) -> Iterator[tuple[float, Any]]:
        for packet in self._in.demux(self._track):
            if packet.dts is None or packet.pts is None:
                continue
            base = packet.time_base
            at = float(packet.pts * base) - self._from_s
            if at + float((packet.duration or 0) * base) < 0:
                continue
            shift = round(self._from_s / base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._out
            yield at, packet

    def _encode(self) -> Iterator[tuple[float, Any]]:
        import av

        rate = self._track.rate
        layout = "mono" if self._track.channels == 1 else "stereo"
        resampler = av.AudioResampler("fltp", layout, rate)
        skip: int | None = None  # samples before the time at which it begins
        for frame in self._in.decode(self._track):
            if skip is None:
                at = float((frame.pts or 0) * (frame.time_base or 0))
                skip = max(0, round((self._from_s - at) * rate))
            for piece in resampler.resample(frame):
                if skip >= piece.samples:
                    skip -= piece.samples
                    continue
                if skip:
                    rest = np.ascontiguousarray(piece.to_ndarray()[:, skip:])
                    piece, skip = av.AudioFrame.from_ndarray(rest, "fltp", layout), 0
                    piece.rate = rate
                piece.pts = None
                yield from self._timed(self._out.encode(piece))
        yield from self._timed(self._out.encode(None))

    @staticmethod
    def _timed(packets: Iterable[Any]) -> Iterator[tuple[float, Any]]:
        return ((float((packet.pts or 0) * packet.time_base), packet) for packet in packets)


def videos(
    folder: Path,
    frames_root: Path,
    records: Iterable[Record],
    clips: Iterable[Clip],
    form: Form,
    say: Callable[[str], None],
) -> list[Path]:
    """Every output of `clips` whose frames were kept, as a file with the sound of its input.

    folder: where they go, as METHOD/SET/CLIP.mp4 (.mkv for `lossless`). A file that is newer than
    its frames stays. Raises as `encode`.
    """
    known = {clip.name: clip for clip in clips}
    places = {r.place: r for r in records if r.clip in known and r.method != GT and r.place}
    found = []
    for place, record in places.items():
        kept, clip = frames_root / place, known[record.clip]
        if not kept.is_dir():
            continue
        out = folder / f"{place}{'.mkv' if form == 'lossless' else '.mp4'}"
        found.append(out)
        if out.is_file() and out.stat().st_mtime > kept.stat().st_mtime and _is(out, form):
            continue
        say(f"video of {record.title}: {clip.name}")
        first = clip.protocol.get("span", (0,))[0]
        start, film = first / clip.fps if clip.fps else 0.0, _film(clip.lq)
        times = film.times if film else ()
        if times:
            start = times[first]
            times = tuple(time - start for time in times[first : first + clip.count])
        encode(open_frames(kept), out, clip.fps, form, film.path if film else None, start, times)
    return found


def _is(path: Path, form: Form) -> bool:
    """Whether a file is of this form, by its codec."""
    import av

    with suppress(OSError, av.FFmpegError, IndexError), av.open(str(path)) as container:
        name = container.streams.video[0].codec.canonical_name
        return bool(name == {"h264": "h264", "av1": "av1", "lossless": "ffv1"}[form])
    return False


def _film(source: Any) -> FrameSource | None:
    """The video that frames were read from, if it was one."""
    while hasattr(source, "source"):
        source = source.source
    found = isinstance(source, FrameSource) and source.path.is_file() and source.pixel_format
    return source if found else None
