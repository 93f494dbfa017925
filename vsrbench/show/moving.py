"""Moving pictures: methods side by side, in a grid or under a wipe; and outputs as playable files.

Frames of one clip by several methods go in, one file comes out: MP4 (H.264) for players, GIF or
WebP for pages. Nothing is enlarged except by whole factors, pixel by pixel.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vsrbench.core.errors import UserError

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Box = tuple[int, int, int, int]

Arrangement = Literal["side", "grid", "wipe"]
SUFFIXES = (".mp4", ".gif", ".webp")
BAR = 30
"""Height in px of the strip that names a method."""
WIPE_S = 4.0
"""Seconds in which the wipe crosses the picture and comes back."""


def arranged(
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
    columns = {"side": len(sources), "grid": math.ceil(math.sqrt(len(sources))), "wipe": 1}[how]
    for index in range(len(sources[0])):
        views = [
            _scaled(np.ascontiguousarray(source[index][y : y + h, x : x + w]), size)
            for source in sources
        ]
        if how == "wipe":
            yield _even(_wiped(views, titles, index / fps / WIPE_S))
            continue
        cells = [
            np.concatenate([_label(title, size[0]), view])
            for title, view in zip(titles, views, strict=True)
        ]
        cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
        rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
        yield _even(np.concatenate(rows))


def _size(width: int, height: int, cell: int) -> tuple[int, int]:
    """(width, height) at which a crop is drawn."""
    factor = max(1, round(cell / width)) if width <= cell else cell / width
    return max(2, round(width * factor)), max(2, round(height * factor))


def _scaled(view: Frame, size: tuple[int, int]) -> Frame:
    if view.shape[1::-1] == size:
        return view
    return np.asarray(Image.fromarray(view).resize(size, Image.Resampling.BOX))


def _wiped(views: list[Frame], titles: Sequence[str], phase: float) -> Frame:
    """The first left of a bar, the second right of it; the bar goes there and back."""
    left, right = views
    width = left.shape[1]
    at = round(width * (0.5 - 0.5 * math.cos(2 * math.pi * phase)))
    picture = right.copy()
    picture[:, :at] = left[:, :at]
    picture[:, max(0, at - 1) : at + 1] = (255, 176, 0)
    names = np.concatenate(
        [_label(titles[0], width // 2), _label(titles[1], width - width // 2)], axis=1
    )
    return np.concatenate([names, picture])


def _label(title: str, width: int) -> Frame:
    strip = Image.new("RGB", (width, BAR), (20, 20, 20))
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(16)
    while draw.textlength(title, font) > width - 12 and len(title) > 2:
        title = title[:-2].rstrip("…") + "…"
    draw.text((width / 2, BAR / 2), title, (240, 240, 240), font, anchor="mm")
    return np.asarray(strip)


def _even(frame: Frame) -> Frame:
    """With even sides, as video wants them."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write(
    frames: Iterator[Frame] | Sequence[Frame], out: Path, fps: float = 24.0, limit_mib: float = 3.0
) -> None:
    """Write frames as MP4, or as a looping GIF or WebP of at most `limit_mib`.

    To keep the limit, pictures are brought down and frames left out, in turn. Raises UserError for
    another suffix, or when nothing small enough can be made.
    """
    if out.suffix == ".mp4":
        encode(frames, out, fps)
        return
    if out.suffix not in SUFFIXES:
        raise UserError(f"moving pictures are {', '.join(SUFFIXES)}, not {out.suffix or out}")
    pictures = [Image.fromarray(frame) for frame in frames]
    for shrink in range(8):
        step = 1 + (shrink + 1) // 2 if shrink else 1
        scale = 0.8 ** (shrink // 2 + shrink % 2)
        data = _looped(pictures[::step], scale, fps / step, out.suffix)
        if len(data) <= limit_mib * 2**20:
            out.write_bytes(data)
            return
    raise UserError(
        f"{out}: larger than {limit_mib:g} MiB however small it is drawn",
        "show a box or fewer frames, or write .mp4",
    )


def _looped(pictures: list[Image.Image], scale: float, fps: float, suffix: str) -> bytes:
    width, height = (max(2, round(side * scale)) for side in pictures[0].size)
    views = [
        p if scale == 1 else p.resize((width, height), Image.Resampling.LANCZOS) for p in pictures
    ]
    how = {"save_all": True, "append_images": views[1:], "loop": 0, "duration": round(1000 / fps)}
    buffer = io.BytesIO()
    if suffix == ".gif":
        # One palette for all frames: palettes of their own would flicker.
        sheet = np.concatenate([np.asarray(v)[::4, ::4].reshape(-1, 3) for v in views])
        palette = Image.fromarray(sheet[None]).quantize(255)
        views = [v.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for v in views]
        how["append_images"] = views[1:]
        views[0].save(buffer, "GIF", **how)
    else:
        views[0].save(buffer, "WEBP", quality=80, method=4, **how)
    return buffer.getvalue()


def encode(
    frames: Iterator[Frame] | Sequence[Frame],
    out: Path,
    fps: float,
    lossless: bool = False,
    sound_of: Path | None = None,
) -> None:
    """Frames as a video that players play: H.264, 4:2:0, quality 16; with `lossless` FFV1.

    lossless wants a `.mkv` file. sound_of: video whose first audio track is copied. Raises
    UserError when the file cannot be written.
    """
    import av
    from av.error import FFmpegError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.part{out.suffix}")
        try:
            with av.open(str(part), "w") as container:
                codec = "ffv1" if lossless else "libx264"
                rate = Fraction(fps or 24.0).limit_denominator(1001)
                stream = container.add_stream(codec, rate=rate)
                stream.pix_fmt = "bgr0" if lossless else "yuv420p"
                if not lossless:
                    stream.options = {"crf": "16", "preset": "medium"}
                sound = _Sound(container, sound_of) if sound_of else None
                for index, frame in enumerate(frames):
                    if index == 0:
                        stream.height, stream.width = frame.shape[:2]
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                    picture.pts = index
                    picture.time_base = 1 / rate
                    container.mux(stream.encode(picture))
                container.mux(stream.encode(None))
                if sound:
                    sound.copy()
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, FFmpegError) as error:
        raise UserError(f"cannot write {out}: {error}", "choose another file or format") from error


class _Sound:
    """The first audio track of a video, copied as it is."""

    def __init__(self, container: object, source: Path) -> None:
        import av

        self._out = container
        self._in = av.open(str(source))
        tracks = self._in.streams.audio
        self._track = tracks[0] if tracks else None
        self._copy = container.add_stream_from_template(self._track) if self._track else None  # type: ignore[attr-defined]

    def copy(self) -> None:
        """Write all packets."""
        with self._in:
            if self._track is None:
                return
            for packet in self._in.demux(self._track):
                if packet.dts is not None:
                    packet.stream = self._copy
                    self._out.mux(packet)  # type: ignore[attr-defined]
