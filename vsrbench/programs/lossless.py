"""Runs a script of others with its video writers replaced: each frame becomes a PNG file.

    python lossless.py SCRIPT ARGUMENTS...
    python lossless.py -m MODULE ARGUMENTS...

It runs in the script's own environment, never in ours: Python 3.8 or newer, and numpy. Where the
script would write a video NAME there is a folder NAME afterwards, with 000000.png, 000001.png ...
in it: nothing is encoded, resized or converted. Replaced are mediapy, imageio (v2 and v3),
torchvision.io, OpenCV's VideoWriter, and the command `ffmpeg` where it only encodes PNG files or
raw RGB frames. Everything else that these libraries do stays.
"""

import atexit
import os
import re
import runpy
import shutil
import struct
import sys
import tempfile
import zlib
from pathlib import Path

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def is_video(path):
    """Whether a writer that is given this would write a video file."""
    return isinstance(path, (str, os.PathLike)) and str(path).lower().endswith(VIDEOS)


def to_uint8(frame):
    """A picture as uint8 RGB, H x W x 3.

    Of uint8 the values stay. Floats are 0..1 and are rounded, as mediapy and imageio do before they
    encode; of wider integers the upper 8 bits count. Grey becomes RGB, alpha is dropped.
    """
    import numpy as np

    if hasattr(frame, "detach"):
        frame = frame.detach().cpu().numpy()
    frame = np.asarray(frame)
    if frame.dtype == np.bool_:
        frame = frame.astype(np.uint8) * 255
    elif frame.dtype.kind == "f":
        frame = (np.clip(frame.astype(np.float64), 0, 1) * 255 + 0.5).astype(np.uint8)
    elif frame.dtype == np.uint16:
        frame = (frame >> 8).astype(np.uint8)
    elif frame.dtype != np.uint8:
        frame = np.clip(frame, 0, 255).astype(np.uint8)
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4):
        raise ValueError(f"a frame of shape {frame.shape} is not a picture")
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame[..., :3]


def write_png(path, frame):
    """One uint8 RGB picture, H x W x 3, as a PNG file."""
    import numpy as np

    height, width, _ = frame.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter: none
    rows[:, 1:] = frame.reshape(height, 3 * width)

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    picture = zlib.compress(rows.tobytes(), 1)
    whole = chunk(b"IHDR", header) + chunk(b"IDAT", picture) + chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + whole)


class Writer:
    """A folder named like a video, which takes frames one by one."""

    def __init__(self, path, *_, **__):
        self.folder, self.count = Path(path), 0
        if self.folder.is_dir():
            shutil.rmtree(str(self.folder))
        elif self.folder.exists():
            self.folder.unlink()
        self.folder.mkdir(parents=True)

    def next_path(self):
        """Where the next frame belongs."""
        self.count += 1
        return self.folder / f"{self.count - 1:06d}.png"

    def append_data(self, frame, meta=None):
        """Write one frame (imageio)."""
        write_png(self.next_path(), to_uint8(frame))

    add_image = append_data  # mediapy

    def append_many(self, frames):
        """Write all frames."""
        for frame in frames:
            self.append_data(frame)

    def close(self):
        """Nothing is left to be done."""

    def set_meta_data(self, meta):
        """A folder of pictures has none (imageio)."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class CvWriter:
    """cv2.VideoWriter: frames come as BGR."""

    def __init__(self, filename=None, *_, **__):
        self.writer = None
        if filename is not None:
            self.open(filename)

    def open(self, filename, *_, **__):
        """Begin a folder of that name."""
        self.writer = Writer(filename)
        return True

    def isOpened(self):
        """Whether frames can be written."""
        return self.writer is not None

    def write(self, frame):
        """Write one frame."""
        self.writer.append_data(frame[..., ::-1] if frame.ndim == 3 else frame)

    def release(self):
        """End."""
        self.writer = None

    def set(self, *_):
        """There are no properties."""
        return False

    def get(self, *_):
        """There are no properties."""
        return 0.0


def _for_videos(ours, theirs):
    """The first argument decides: ours for a video, else what was there."""

    def chosen(path, *args, **kwargs):
        return (ours if is_video(path) else theirs)(path, *args, **kwargs)

    return chosen


def _write_many(path, frames, *_, **__):
    Writer(path).append_many(frames)


def _write_one(path, frame, *_, **__):
    Writer(path).append_data(frame)


def _write_any(path, frames, *_, **__):
    """imageio.v3: one frame or many."""
    if getattr(frames, "ndim", 4) < 4 and hasattr(frames, "ndim"):
        _write_one(path, frames)
    else:
        _write_many(path, frames)


REPLACED = {
    "mediapy": {"write_video": _write_many, "write_image": _write_one, "VideoWriter": Writer},
    "imageio": {"get_writer": Writer, "mimwrite": _write_many, "mimsave": _write_many},
    "imageio.v2": {"get_writer": Writer, "mimwrite": _write_many, "mimsave": _write_many},
    "imageio.v3": {"imwrite": _write_any},
    "torchvision.io": {"write_video": _write_many},
    "torchvision.io.video": {"write_video": _write_many},
}
"""Module -> what of it is replaced where a video is written."""


def replace_writers(name):
    """Replace the writers of a module that has just been imported."""
    module = sys.modules[name]
    if name == "cv2":
        if hasattr(module, "VideoWriter"):  # not yet while it imports itself
            module.VideoWriter = CvWriter
        return
    for attribute, ours in REPLACED[name].items():
        theirs = getattr(module, attribute, None)
        if theirs is not None and not getattr(theirs, "lossless", False):
            chosen = _for_videos(ours, theirs)
            chosen.lossless = True
            setattr(module, attribute, chosen)


class _Finder:
    """Finds modules as the others do; those with writers are changed once they are imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "cv2" and name not in REPLACED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not _Finder else None
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(module, run=run):
                    run(module)
                    replace_writers(name)

                spec.loader.exec_module = exec_module
                return spec
        return None


CHANGES = frozenset(
    [
        "-vf",
        "-filter",
        "-filter_complex",
        "-lavfi",
        "-s",
        "-ss",
        "-t",
        "-to",
        "-frames",
        "-vframes",
        "-map",
        "-r",
    ]
)
"""Options of an output that make other frames of those that come in. A rate is not among those of
an input, where it only says how long a frame is shown."""


def encode(argv):
    """What `ffmpeg ARGUMENTS` would encode, as PNG files; False where it does something else."""
    options, inputs, output, before = {}, [], None, {}
    words = iter(argv)
    for word in words:
        if word in ("-y", "-n", "-an", "-hide_banner", "-nostdin", "-stats", "-nostats"):
            continue
        if word == "-i":
            inputs.append(next(words, ""))
            before, options = options, {}
        elif len(word) > 1 and word.startswith("-"):
            options[word] = next(words, "")
        elif output is None:
            output = word
        else:
            return False
    changed = CHANGES.intersection(o.split(":")[0] for o in options if ":a" not in o)
    if len(inputs) != 1 or not is_video(output) or changed:
        return False
    if before.get("-f") == "rawvideo" and inputs[0] in ("-", "pipe:", "pipe:0"):
        size = re.match(r"(\d+)x(\d+)$", before.get("-s", before.get("-video_size", "")))
        order = {"rgb24": 1, "bgr24": -1}.get(before.get("-pix_fmt", before.get("-pixel_format")))
        return _encode_raw(output, int(size[1]), int(size[2]), order) if size and order else False
    number = re.search(r"%0?\d*d", Path(inputs[0]).name)
    if not number or not inputs[0].lower().endswith(".png"):
        return False
    name = Path(inputs[0]).name
    parts = map(re.escape, (name[: number.start()], name[number.end() :]))
    pattern = re.compile(r"(\d+)".join(parts) + "$")
    files = [(pattern.match(p.name), p) for p in Path(inputs[0]).parent.iterdir()]
    return _copy(output, [p for _, p in sorted((int(m[1]), p) for m, p in files if m)])


def _encode_raw(output, width, height, order):
    import numpy as np

    writer, size = Writer(output), 3 * width * height
    while True:
        data = sys.stdin.buffer.read(size)
        if len(data) < size:
            return True
        frame = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        writer.append_data(frame[..., ::order])


def _copy(output, files):
    writer = Writer(output)
    for file in files:
        shutil.copyfile(str(file), str(writer.next_path()))
    return bool(files)


def replace_ffmpeg():
    """Put a command `ffmpeg` before the others: it asks `encode`, and else runs the next one."""
    folder = Path(tempfile.mkdtemp(prefix="vsrbench-ffmpeg-"))
    atexit.register(shutil.rmtree, str(folder), True)
    command = folder / "ffmpeg"
    command.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" --ffmpeg "$@"\n'
    )
    command.chmod(0o755)
    os.environ["PATH"] = os.pathsep.join((str(folder), os.environ.get("PATH", os.defpath)))


def ffmpeg(argv):
    """Stand in for the command `ffmpeg`; gives the exit code."""
    if encode(argv):
        return 0
    own = str(Path(__file__).resolve())
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        command = Path(folder, "ffmpeg")
        if command.is_file() and own not in command.read_bytes()[:4096].decode(errors="replace"):
            os.execv(str(command), ["ffmpeg", *argv])
    print("ffmpeg: there is none on PATH", file=sys.stderr)  # noqa: T201
    return 127


def install():
    """From here on, videos are folders of PNG files."""
    sys.meta_path.insert(0, _Finder)
    for name in ("cv2", *REPLACED):
        if name in sys.modules:
            replace_writers(name)
    replace_ffmpeg()


def main():
    """Run what the arguments say."""
    argv = sys.argv[1:]
    if argv[:1] == ["--ffmpeg"]:
        sys.exit(ffmpeg(argv[1:]))
    install()
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path[0] = ""  # the working directory
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
