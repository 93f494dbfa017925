"""Lazy, lossless reading and writing of frames: folders of images and video files.

Every frame is a uint8 RGB array H x W x 3, whatever the file holds:

- Images: grey is repeated to RGB, palettes are resolved, alpha is dropped (not composited), 16-bit
  samples become round(v / 257), EXIF orientation is ignored. Float samples are refused.
- Video: YUV becomes full-range RGB by the matrix and range that the stream declares. An undeclared
  range means limited; an undeclared matrix means BT.601 at any size, which is what FFmpeg and
  OpenCV write and read unless told otherwise. Subsampled chroma is repeated over its pixels, as
  they do: with the same matrix and range, a file gives the pixels that their readers give.
  Files disagree on where those samples lie (H.264 says left, most encoders fed with RGB average
  pairs), so no filter would be right for all. Full-resolution chroma stays whole. The display
  matrix (rotation, mirroring) is applied; pixel aspect ratio is ignored; HDR transfer curves are
  refused. Frames come in display order as decoded: none is dropped or repeated to even out the
  frame rate.
"""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from vsrbench.core.errors import DataError, MissingError, UserError

if TYPE_CHECKING:
    from av import FFmpegError, VideoFrame

    from vsrbench.core.types import Frame, Size

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
RECENT = 5  # frames kept for indexing: a window t-2..t+2 sliding over a video decodes each once
FETCH_AGAIN = "copy or fetch the file again"


@dataclass(eq=False)
class FrameSource(Sequence["Frame"]):
    """The frames of one clip, read when asked for; memory does not grow with their number.

    Iterating decodes once, in order, and afresh each time. Indexing goes on from the last index
    where that is cheaper than starting again. Reading raises DataError for a frame that cannot be
    decoded or whose size differs from the first one. Not for use from several threads at once.
    """

    path: Path
    """Folder of images, or file."""
    files: list[Path]
    """The files that hold the frames, in frame order."""
    names: list[str]
    """One a frame: file name of an image, 8-digit number in a video."""
    size: Size
    """(height, width) in px."""
    fps: float
    """Frames per second, the average if it varies; 0 when unknown (images)."""
    starts: Sequence[int]
    """Frames at which decoding can begin, ascending from 0."""
    decode: Callable[[int], Iterator[Frame]]
    """Frames from one of `starts` on, unchecked."""
    _cursor: Iterator[Frame] = field(default=iter(()), init=False, repr=False)
    _next: int = field(default=-1, init=False, repr=False)
    _recent: dict[int, Frame] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Frame]:
        cursor = self.decode(0)
        return (self._read(cursor, index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        wanted = range(len(self))[index]
        return self._at(wanted) if isinstance(wanted, int) else [self._at(i) for i in wanted]

    def check(self) -> None:
        """Raise DataError unless all images have readable headers and one size; quick.

        A video has no more to look at: `open_frames` has scanned it.
        """
        if is_image(self.files[0]):
            for index, file in enumerate(self.files):
                self._check_size(index, image_size(file))

    def __getstate__(self) -> dict[str, Any]:
        # An open decoder cannot travel to another process; it is opened again there.
        return {**self.__dict__, "_cursor": iter(()), "_next": -1, "_recent": {}}

    def _at(self, index: int) -> Frame:
        if index not in self._recent:
            start = self.starts[bisect_right(self.starts, index) - 1]
            if not start <= self._next <= index:
                self._cursor, self._next = self.decode(start), start
            first, self._next = self._next, -1  # a decoder that fails below is not used again
            for i in range(first, index + 1):
                self._recent[i] = self._read(self._cursor, i)
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
            self._next = index + 1
        return self._recent[index].copy()

    def _read(self, cursor: Iterator[Frame], index: int) -> Frame:
        frame = next(cursor, None)
        if frame is None:
            raise _cut_short(self.path, index, len(self))
        self._check_size(index, frame.shape[:2])
        return frame

    def _check_size(self, index: int, size: tuple[int, ...]) -> None:
        if size != self.size:
            raise DataError(
                f"{self.path}: frame {self.names[index]} is {size[1]}x{size[0]} px, "
                f"but frame {self.names[0]} is {self.size[1]}x{self.size[0]} px",
                "all frames of a clip must have one size; remove or resize the odd ones",
            )


def open_frames(path: Path) -> FrameSource:
    """The frames of a folder of images (in natural order), of one image, or of a video file.

    Raises MissingError when `path` does not exist, DataError when it holds no readable frames or a
    video ends before its declared length.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist", "check the path, or fetch the data set")
    if path.is_dir():
        try:
            images = sorted(filter(is_image, path.iterdir()), key=natural_key)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not images:
            raise DataError(
                f"{path} holds no images",
                f"name a folder with {' '.join(sorted(IMAGE_SUFFIXES))} files in it, or a video",
            )
        return _open_images(path, images)
    return _open_images(path, [path]) if is_image(path) else _open_video(path)


def digest(source: FrameSource) -> str:
    """sha256 over the number of frames and the bytes of all files in frame order, as hex."""
    total = hashlib.sha256(str(len(source)).encode())
    for path in source.files:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise _unreadable(path, error) from error
    return total.hexdigest()


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key of a file name in which numbers count as numbers: frame2 before frame10."""
    parts = re.split("([0-9]+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def image_size(path: Path) -> Size:
    """(height, width) of an image, from its header. Raises DataError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}", FETCH_AGAIN) from error


def read_image(path: Path) -> Frame:
    """One image as uint8 RGB H x W x 3; see the module for the rules. Raises DataError."""
    import cv2
    import numpy as np

    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except OSError as error:
        raise _unreadable(path, error) from error
    except cv2.error:  # empty, or a header that claims an absurd size
        image = None
    if image is None:
        raise DataError(f"{path} is truncated or not an image", FETCH_AGAIN)
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or channels not in to_rgb:
        raise DataError(
            f"{path} has {channels} channels of {image.dtype}",
            "save it as grey or RGB with 8 or 16 bits a channel",
        )
    return np.asarray(cv2.cvtColor(image, to_rgb[channels]), np.uint8)


class FrameWriter:
    """Context manager that writes uint8 RGB frames to `folder` as 00000000.png, 00000001.png, ...

    The folder appears under its name only when the block ends without an exception, so it always
    holds a whole clip; otherwise nothing is left. With `replace`, an earlier folder is deleted
    then. Raises UserError when the folder holds something and may not be replaced, or when writing
    fails.
    """

    def __init__(self, folder: Path, replace: bool = False) -> None:
        self.folder = folder
        self.replace = replace
        self.count = 0
        self._partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")

    def __enter__(self) -> Self:
        try:
            if not self.replace and self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty", "remove it, or name another folder")
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return self

    def write(self, frame: Frame) -> None:
        """Append one frame."""
        import cv2

        if frame.dtype != "uint8" or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"expected uint8 H x W x 3, got {frame.dtype} {frame.shape}")
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        try:
            (self._partial / f"{self.count:08d}.png").write_bytes(png.tobytes())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self.count += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None:
                if self.folder.exists():
                    shutil.rmtree(self.folder) if self.replace else self.folder.rmdir()
                self._partial.rename(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


class Resized(Sequence["Frame"]):
    """Frames brought to `size` (height, width) when indexed.

    Pillow's bicubic: a = -0.5, pixel centres aligned, antialiased where it shrinks, 8-bit result.
    """

    def __init__(self, source: Sequence[Frame], size: Size) -> None:
        self.source, self.size = source, size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        import numpy as np
        from PIL import Image

        picture = Image.fromarray(self.source[index])
        return np.asarray(picture.resize(self.size[::-1], Image.Resampling.BICUBIC))


def is_image(path: Path) -> bool:
    """True for the name of an image that is read; hidden files are passed over."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _open_images(path: Path, images: list[Path]) -> FrameSource:
    return FrameSource(
        path=path,
        files=images,
        names=[image.name for image in images],
        size=image_size(images[0]),
        fps=0.0,
        starts=range(len(images)),
        decode=partial(_read_images, images),
    )


def _read_images(images: list[Path], start: int) -> Iterator[Frame]:
    return map(read_image, islice(images, start, None))


def _open_video(path: Path) -> FrameSource:
    count, keys, fps = _scan(path)
    decode = partial(_read_video, path, keys)
    for frame in decode(0):
        return FrameSource(
            path=path,
            files=[path],
            names=[f"{index:08d}" for index in range(count)],
            size=(frame.shape[0], frame.shape[1]),
            fps=fps,
            starts=[0, *keys],
            decode=decode,
        )
    raise DataError(f"{path} holds no frames", FETCH_AGAIN)


def _scan(path: Path) -> tuple[int, dict[int, int], float]:
    """Number of frames, the timestamp of each later frame at which decoding can begin, and fps."""
    import av

    shown: list[tuple[int | None, bool]] = []  # timestamp, key frame?
    end = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            # FFmpeg takes plain text for ANSI art and renders it.
            stream = next(iter(container.streams.video), None)
            if stream is None or container.format.name == "tty":
                raise DataError(f"{path} holds no video", "name a video file or a folder of images")
            if stream.codec_context is None:
                raise DataError(f"{path} has an unknown video codec", "convert it to H.264 first")
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt and not packet.is_discard:
                    shown.append((packet.pts, packet.is_keyframe))
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
            declared = stream.frames
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            # Matroska declares a length in time only, over all its streams.
            length_s = float(container.duration or 0) / av.time_base
            end_s = float(end * (stream.time_base or 0))
            lost = round((length_s - end_s) * fps) if len(container.streams) == 1 else 0
    except av.FFmpegError as error:
        raise _undecodable(path, error, len(shown)) from error
    if len(shown) != declared:
        shown = [(frame.pts, frame.key_frame) for frame in _pictures(path)]
        if not declared and lost > 1:
            raise _cut_short(path, len(shown))
    stamps = [(stamp, key) for stamp, key in shown if stamp is not None]
    if len({stamp for stamp, _ in stamps}) < len(shown):  # no seeking without unique timestamps
        return len(shown), {}, fps
    keys = {i: stamp for i, (stamp, key) in enumerate(sorted(stamps)) if key and i > 0}
    return len(shown), keys, fps


def _pictures(path: Path, seek: int | None = None, first: int = 0) -> Iterator[VideoFrame]:
    """Decoded pictures in display order, from the key frame with timestamp `seek` on.

    `first` is the number of that frame, for the message of the DataError when decoding breaks off.
    """
    import av

    index = first
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            if seek is not None:
                container.seek(seek, stream=stream)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    index += len(stream.decode())  # pictures that were waiting for their turn
                    raise _cut_short(path, index, stream.frames)
                for picture in packet.decode():
                    yield picture
                    index += 1
    except av.FFmpegError as error:
        raise _undecodable(path, error, index) from error


def _read_video(path: Path, keys: dict[int, int], start: int) -> Iterator[Frame]:
    """Frames from display number `start` on: 0 or one of `keys`."""
    return (_to_rgb(path, picture) for picture in _pictures_from(path, keys, start))


def _pictures_from(path: Path, keys: dict[int, int], start: int) -> Iterator[VideoFrame]:
    if start:
        # Seeking may land early, and at an open GOP pictures that precede the key frame follow it
        # in the file. Where the key frame itself does not come out, count from the beginning.
        stamp = keys[start]
        sought = _pictures(path, stamp, start)
        for picture in sought:
            if picture.pts == stamp:
                return chain([picture], sought)
            if picture.pts is None or picture.pts > stamp:
                break
    return islice(_pictures(path), start, None)


def _to_rgb(path: Path, picture: VideoFrame) -> Frame:
    import numpy as np
    from av.video.reformatter import ColorRange, Interpolation

    # Matrices and transfer curves are numbered by ITU-T H.273, as in swscale: 1 BT.709, 5 BT.601.
    # 0 and 2 leave the matrix open: BT.601 is what encoders that are fed with RGB then used.
    matrix = {0: 5, 2: 5, 6: 5}.get(picture.colorspace, picture.colorspace)
    if matrix not in (1, 4, 5, 7, 9) or picture.color_trc in (16, 18):
        raise DataError(
            f"{path} has HDR or unknown colours "
            f"(matrix {picture.colorspace}, transfer {picture.color_trc} of ITU-T H.273)",
            "convert it to SDR BT.709 first",
        )
    full = picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj")
    rgb = picture.to_ndarray(
        format="rgb24",
        interpolation=Interpolation.BICUBIC,  # the default of swscale, whatever PyAV's is
        src_colorspace=matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
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


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read {path}: {error.strerror}", "check the file and its permissions")


def _cut_short(path: Path, count: int, declared: int = 0) -> DataError:
    of = f" of {declared}" if declared else ""
    return DataError(f"{path} breaks off after {count}{of} frames", FETCH_AGAIN)


def _undecodable(path: Path, error: FFmpegError, count: int = 0) -> DataError:
    if count:
        return DataError(f"{path} breaks off after {count} frames: {error.strerror}", FETCH_AGAIN)
    return DataError(
        f"no frame of {path} can be decoded: {error.strerror}",
        "check that it is a video; a copy or download that stopped early must be made again",
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    full = error.errno == errno.ENOSPC
    hint = "free some disk space" if full else "name a place that can be written"
    return UserError(f"cannot write {path}: {error.strerror}", hint)
