"""Lazy, lossless reading and writing of frames: folders of images and video files.

Every frame is a uint8 RGB array H x W x 3, whatever the file holds: by the rules of
vsrbench.data.images for pictures, by those of vsrbench.data.video for videos.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from vsrbench.core.errors import DataError, MissingError, UserError, WriteError
from vsrbench.core.files import name_partial
from vsrbench.core.keys import sha256_file
from vsrbench.data import numbering, video
from vsrbench.data.images import (
    FETCH_AGAIN,
    IMAGE_SUFFIXES,
    image_size,
    is_hidden,
    is_image,
    kind_of,
    read_image,
    unreadable_error,
)

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

RECENT = 5  # frames kept for indexing: a window t-2..t+2 sliding over a video decodes each once
EXACT = set("png bmp tif tiff webp-lossless ppm apng".split()) | set(  # noqa: SIM905
    "ffv1 ffvhuff huffyuv utvideo rawvideo targa qtrle zlib magicyuv r210 sgi pcx".split()  # noqa: SIM905
)
"""Codecs and kinds of images that keep every value."""


_REDUCED = re.compile(
    "4[124][01]|422|nv12|nv16|nv21|p0[0-9]|p2[0-9]|y21|bayer|(rgb|bgr)(4|8|444|555|565)(le|be|_|$)"
)
"""Pixel formats that hold colours at less than full resolution, or in less than 8 bits."""


class _Place(threading.local):
    """Where a thread is in a clip."""

    def __init__(self) -> None:
        self.cursor: Iterator[Frame] = iter(())
        self.next = -1
        self.recent: dict[int, Frame] = {}


@dataclass(eq=False)
class FrameSource(Sequence["Frame"]):
    """The frames of one clip, read when asked for; memory does not grow with their number.

    Iterating decodes once, in order, and afresh each time, unless `recent` holds all of them.
    Indexing goes on from the last index where that is cheaper than starting again. Reading raises
    DataError for a frame that cannot be decoded or whose size differs from the first one. Threads
    may index at once: each has a decoder of its own.
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
    codec: str
    """Of a video as FFmpeg calls it, such as h264; of images their suffixes, such as png."""
    pixel_format: str = ""
    """Of a video as FFmpeg calls it, such as yuv420p; empty for images."""
    rule: int = 1
    """Version of the rules by which these files become pixels."""
    note: str = ""
    """What is left out; empty where nothing is."""
    times: tuple[float, ...] = ()
    """Seconds from the first frame to each, where they are not evenly spaced; else empty."""
    recent: int = RECENT
    """Frames read last that are kept for indexing."""
    _here: _Place = field(default_factory=_Place, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Frame]:
        if self.recent >= len(self):
            return map(self._at, range(len(self)))
        cursor = self.decode(0)
        return (self._read(cursor, index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        wanted = range(len(self))[index]
        return self._at(wanted) if isinstance(wanted, int) else [self._at(i) for i in wanted]

    @property
    def numbered(self) -> Sequence[str]:
        """The names that number the frames; none of a video, which has no gaps."""
        return () if self.pixel_format else self.names

    def check(self) -> None:
        """Raise DataError unless all images have readable headers and one size; quick.

        A video has no more to look at: `open_frames` has scanned it.
        """
        if is_image(self.files[0]):
            for index, file in enumerate(self.files):
                self._check_size(index, image_size(file))

    def __getstate__(self) -> dict[str, Any]:
        # An open decoder cannot travel to another process; it is opened again there.
        return {name: value for name, value in self.__dict__.items() if name != "_here"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _here=_Place())

    def _at(self, index: int) -> Frame:
        here = self._here
        if index not in here.recent:
            start = self.starts[bisect_right(self.starts, index) - 1]
            if not start <= here.next <= index:
                here.cursor, here.next = self.decode(start), start
            first, here.next = here.next, -1  # a decoder that fails below is not used again
            for i in range(first, index + 1):
                here.recent[i] = self._read(here.cursor, i)
                if len(here.recent) > self.recent:
                    del here.recent[next(iter(here.recent))]
            here.next = index + 1
        return here.recent[index].copy()

    def _read(self, cursor: Iterator[Frame], index: int) -> Frame:
        frame = next(cursor, None)
        if frame is None:
            raise video.cut_short_error(self.path, index, len(self))
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
    """The frames of a folder of images (by their numbers), of one image, or of a video file.

    Raises MissingError when `path` does not exist, DataError when it holds no readable frames, a
    number exists twice, or a video ends before its frames do.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist", "check the path, or fetch the dataset")
    refuse_special(path)
    if path.is_dir():
        try:
            inside = sorted(p for p in path.iterdir() if not is_hidden(p))
        except OSError as error:
            raise unreadable_error(path, error) from error
        names = numbering.sort_by_number([p.name for p in inside if is_image(p)])
        if not names:
            raise DataError(
                f"{path} holds no images",
                f"name a folder with {' '.join(sorted(IMAGE_SUFFIXES))} files in it, or a video",
            )
        numbering.refuse_duplicate(names, path)
        notes = [describe_left_out(path, [p for p in inside if not is_image(p)])]
        if lost := numbering.find_gaps(names):
            notes.append(
                f"{path} has no frame {', '.join(lost)}: its neighbours count as successive"
            )
        note = "; ".join(filter(None, notes))
        return _open_images(path, [path / name for name in names], note)
    return _open_images(path, [path]) if is_image(path) else _open_video(path)


def relocate(source: FrameSource, folder: Path) -> FrameSource:
    """The same frames, out of files of the same names and contents in `folder`."""
    files = [folder / file.name for file in source.files]
    assert isinstance(source.decode, partial)
    first, *rest = source.decode.args
    return replace(
        source,
        path=files[0] if source.path == source.files[0] else folder,
        files=files,
        decode=partial(source.decode.func, files if isinstance(first, list) else files[0], *rest),
    )


def describe_left_out(path: Path, others: Sequence[Path]) -> str:
    """The line about what in a folder is not read; empty when that is nothing."""
    names = [other.name + "/" * other.is_dir() for other in others]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not read in {path}: {', '.join(names[:3])}{more}" if names else ""


def is_lossy(source: FrameSource) -> bool:
    """Whether a codec may have lost something of the frames that it was given.

    So may any but those that never do (H.264 can keep all, and files do not say so), and whatever
    holds colours at less than full resolution.
    """
    return bool(_REDUCED.search(source.pixel_format)) or not set(source.codec.split()) <= EXACT


def digest(source: FrameSource) -> str:
    """sha256 over the number of frames and the bytes of all files in frame order, as hex.

    Where files become other pixels than by the first rules, it depends on the version, too.
    """
    rule = f" rule {source.rule}" if source.rule > 1 else ""
    total = hashlib.sha256(f"{len(source)}{rule}".encode())
    for path in source.files:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise unreadable_error(path, error) from error
    return total.hexdigest()


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
        self.digests: list[str] = []
        """sha256 of each file so far, in hex."""
        self._partial = name_partial(folder)

    def __enter__(self) -> Self:
        try:
            if not self.replace and self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty", "remove it, or name another folder")
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise _unwritable_error(self.folder, error) from error
        return self

    def write(self, frame: Frame) -> None:
        """Append one frame."""
        import cv2

        if frame.dtype != "uint8" or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"expected uint8 H x W x 3, got {frame.dtype} {frame.shape}")
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        # One filter for all rows: OpenCV would look for the best of each, which takes a tenth to a
        # half longer to write and to read, and saves 3 to 8 % of the bytes.
        how = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
        png = cv2.imencode(".png", bgr, how)[1]
        data = png.tobytes()
        try:
            name = f"{len(self.digests):08d}.png"
            (self._partial / name).write_bytes(data)
        except OSError as error:
            raise _unwritable_error(self.folder, error) from error
        self.digests.append(hashlib.sha256(data).hexdigest())

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
            raise _unwritable_error(self.folder, error) from error
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def lq_of(folder: Path) -> Path:
    """The folder of LQ frames beside the kept ones of bicubic; hidden, as it is no output."""
    return folder.with_name(f".{folder.name}.lq")


@dataclass(frozen=True)
class Mark:
    """What stands beside kept frames."""

    output_key: str
    """Their identity; empty without a mark."""
    read: Mapping[str, Any] = field(default_factory=dict)
    """Of the files that a program gave them in: codec, pixel format, lossy; empty for others."""


def mark_path(folder: Path) -> Path:
    """The file beside kept frames that holds their mark: the key, and a line of JSON."""
    return folder.with_name(folder.name + ".key")


def read_mark(folder: Path) -> Mark:
    """The mark of kept frames."""
    try:
        key, _, read = mark_path(folder).read_text(encoding="utf-8").partition("\n")
        about = json.loads(read) if read.strip() else {}
    except (OSError, ValueError, RecursionError):
        return Mark("")
    return Mark(key.strip(), about if isinstance(about, dict) else {})


def write_mark(folder: Path, mark: Mark) -> None:
    """Put a mark beside kept frames."""
    more = f"{json.dumps(dict(mark.read))}\n" if mark.read else ""
    mark_path(folder).write_text(f"{mark.output_key}\n{more}", encoding="utf-8")


def digests_path(folder: Path) -> Path:
    """The file beside kept frames that holds their digests, as `sha256sum` writes and checks it."""
    return folder.with_name(folder.name + ".sha256")


def write_sums(folder: Path, digests: Sequence[str]) -> None:
    """Keep the digests of frames that a `FrameWriter` wrote to `folder`."""
    lines = (f"{d}  {folder.name}/{index:08d}.png\n" for index, d in enumerate(digests))
    digests_path(folder).write_text("".join(lines), encoding="utf-8")


def find_alteration(folder: Path) -> str:
    """How frames in `folder` differ from those that were written there; empty when they do not."""
    try:
        lines = digests_path(folder).read_text(encoding="utf-8").splitlines()
        wanted = dict(line.split("  ", 1)[::-1] for line in lines)
        there = {f"{folder.name}/{path.name}" for path in folder.iterdir() if is_image(path)}
        for name in sorted(there ^ set(wanted)):
            return f"{name} is {'gone' if name in wanted else 'new'}"
        for name, digest in wanted.items():
            if sha256_file(folder.parent / name) != digest:
                return f"{name} was changed"
    except (OSError, ValueError):
        return "their digests are not there or cannot be read"
    return ""


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


def refuse_special(*paths: Path) -> None:
    """Raises DataError for a pipe or a device: reading it might never end."""
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(
                f"{path} is neither a file nor a folder", "a pipe or device is not read"
            )


def _open_images(path: Path, images: list[Path], note: str = "") -> FrameSource:
    refuse_special(*images)
    kinds = sorted({kind_of(image) for image in images})
    return FrameSource(
        path=path,
        files=images,
        names=[image.name for image in images],
        size=image_size(images[0]),
        fps=0.0,
        starts=range(len(images)),
        decode=partial(_read_images, images),
        codec=" ".join(kinds),
        rule=video.RULE if any(kind.startswith("tif") for kind in kinds) else 1,
        note=note,
    )


def _read_images(images: list[Path], start: int) -> Iterator[Frame]:
    return map(read_image, islice(images, start, None))


def _open_video(path: Path) -> FrameSource:
    track = video.scan(path)
    opened = video.read_first(path)
    if opened is None:
        raise DataError(f"{path} holds no frames", FETCH_AGAIN)
    frame, rule = opened
    return FrameSource(
        path=path,
        files=[path],
        names=[f"{index:08d}" for index in range(track.count)],
        size=(frame.shape[0], frame.shape[1]),
        fps=track.fps,
        starts=[0, *track.keys],
        decode=partial(video.read, path, track.keys),
        codec=track.codec,
        pixel_format=track.pixel_format,
        rule=rule,
        note=track.note,
        times=track.times,
    )


def _unwritable_error(path: Path, error: OSError) -> WriteError:
    full = error.errno == errno.ENOSPC
    hint = "free some disk space" if full else "name a place that can be written"
    return WriteError(f"cannot write {path}: {error.strerror}", hint)
