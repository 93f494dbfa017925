"""Still pictures: which files are read, and how they become uint8 RGB H x W x 3.

Grey is repeated to RGB, palettes are resolved, alpha is dropped (not composited: the colours of a
pixel are those that the file stores, whatever its alpha), 16-bit samples become round(v / 257), and
orientation (EXIF, or the tag of TIFF) is ignored. Refused: float samples, HDR, colours other than
grey and RGB, and files that hold several pictures (animations, stacks): none of them is the frame.

Decoders meet only what was looked at before: a damaged file is a DataError and never ends the
process.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.core.errors import DataError

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
FETCH_AGAIN = "copy or fetch the file again"
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = (b"\xff\xd8\xff", b"BM", b"RIFF")
_HEADS: dict[str, tuple[bytes, ...]] = {
    "png": (PNG,),
    "jpeg": (b"\xff\xd8\xff",),
    "bmp": (b"BM",),
    "tiff": TIFF,
    "webp": (b"RIFF",),
}
_SAME = {"jpeg": ("jpg", "jpeg"), "tiff": ("tif", "tiff")}
_LOSSY_TIFF = (6, 7, 34712, 34892, 50001, 50002)
"""Compressions of TIFF that are those of JPEG, JPEG 2000, WebP and JPEG XL."""
_SYSTEM = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx"}
    | {"$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
    | {"lost+found"}
)
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def is_image(path: Path) -> bool:
    """True for the name of an image that is read; hidden files are passed over."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)


def is_hidden(path: Path) -> bool:
    """True for what systems leave beside the files of users: .DS_Store, @eaDir, __MACOSX, ..."""
    return path.name.startswith(".") or path.name.lower() in _SYSTEM


def image_size(path: Path) -> Size:
    """(height, width) of an image as it is stored, from its header.

    Raises DataError, also for a file that holds several pictures.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})  # of TIFF, whose size would be that when turned
            size = int(tags.get(257, image.height)), int(tags.get(256, image.width))
            count, mode = _pictures(image), image.mode
    except Exception as error:  # Pillow has no common ancestor for what its readers raise
        raise DataError(f"{path} is not a readable image: {error}", FETCH_AGAIN) from error
    if mode == "CMYK":
        raise DataError(f"{path} has colours other than grey and RGB", "save it as RGB PNG")
    if count > 1:
        raise DataError(
            f"{path} holds several pictures",
            "save each as a file of its own in one folder, or all as a video",
        )
    return size


def kind_of(path: Path) -> str:
    """What a file is by its content: its suffix if right, else png, jpeg, bmp, tiff or webp.

    TIFF that holds JPEG or YCbCr, and WebP that keeps every value, have `-ycc` and `-lossless`
    behind it. Of a file that cannot be read it is the suffix.
    """
    from PIL import Image

    suffix, more = path.suffix.lower()[1:], ""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        kind = next((kind for kind, starts in _HEADS.items() if head.startswith(starts)), suffix)
        if kind == "tiff":
            with Image.open(path) as image:
                tags: Any = getattr(image, "tag_v2", {})
                more = "-ycc" * (tags.get(259) in _LOSSY_TIFF or tags.get(262) == 6)
        elif kind == "webp":
            more = "-lossless" * _keeps_all(path)
    except Exception:  # `image_size` and `read_image` say what is wrong
        return suffix
    return (suffix if suffix in _SAME.get(kind, (kind,)) else kind) + more


def _keeps_all(path: Path) -> bool:
    """Whether the picture in a WebP file is coded without loss."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, 1)
    return False


def _pictures(image: Any) -> int:
    """Number of pictures in a file, thumbnails and smaller copies not counted; 2 means more."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        whole = 0
        for index in range(count):
            image.seek(index)
            whole += not int(image.tag_v2.get(254, 0)) & 5  # 1: smaller copy, 4: mask
            if not whole:
                return 2  # readers take the first
            if whole > 1:
                break
        return whole
    if count > 1 and image.format == "MPO":
        kinds = [str(entry["Attribute"]["MPType"]) for entry in image.mpinfo[0xB002]]
        return sum("Thumbnail" not in kind for kind in kinds)
    return int(count)


def read_image(path: Path) -> Frame:
    """One image as uint8 RGB H x W x 3; see the module for the rules. Raises DataError."""
    import cv2
    import numpy as np

    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable_error(path, error) from error
    inverted = False
    level = cv2.utils.logging.setLogLevel(0)  # what is wrong is said here
    try:
        if data.startswith(PNG):
            data = _plain_png(data)
        elif data.startswith(TIFF):
            data, inverted = _plain_tiff(data, path)
        elif not data.startswith(_OTHERS):
            raise ValueError("is none of PNG, JPEG, BMP, TIFF and WebP")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            rare = ", or is compressed in a rare way: save it as PNG" * data.startswith(TIFF)
            raise ValueError(f"is truncated or not an image{rare}")
    except ValueError as error:
        raise DataError(f"{path} {error}", FETCH_AGAIN) from error
    except (struct.error, cv2.error) as error:  # cut in its header, or of an absurd size
        raise DataError(f"{path} is truncated or not an image", FETCH_AGAIN) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if image.dtype == np.uint16:
        image = ~image if inverted else image  # of 8 bits OpenCV does so itself
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or channels not in to_rgb:
        raise DataError(
            f"{path} has {channels} channels of {image.dtype}",
            "save it as grey or RGB with 8 or 16 bits a channel",
        )
    return np.asarray(cv2.cvtColor(image, to_rgb[channels]), np.uint8)


def unreadable_error(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not give."""
    return DataError(f"cannot read {path}: {error.strerror}", "check the file and its permissions")


def _plain_png(data: bytes) -> bytes:
    """The chunks of a PNG that make its pixels, once they are known to be whole and right.

    Decoders have died of chunks that make no pixel. Raises ValueError and struct.error.
    """
    header, palette, at, pixels = b"", b"", len(PNG), 0
    kept = [PNG]
    closed = ended = False
    while not ended:
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError("is truncated")
        body, at = chunk[8:-4], at + len(chunk)
        if kind == b"cICP" and body[1:2] in (b"\x10", b"\x12"):
            raise ValueError("has the curve of HDR (PQ or HLG): convert it to SDR first")
        if kind[0] & 32:  # what a reader may ignore
            closed |= pixels > 0
            continue
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError("is damaged: wrong checksum")
        if bool(header) == (kind == b"IHDR") or (not header and length != 13):
            raise ValueError("is damaged: its header is not its first chunk")
        if kind == b"IHDR":
            header = body
        elif kind == b"PLTE" and not pixels:
            palette = body
            if header[9] != 3:
                continue  # a suggestion
        elif kind == b"IDAT" and not closed:
            pixels += length
        elif kind == b"IEND":
            ended = True
        else:
            raise ValueError("is damaged: its chunks are out of order")
        kept.append(chunk)
    _check_header(header, palette, pixels)
    return b"".join(kept)


def _check_header(header: bytes, palette: bytes, packed: int) -> None:
    """Raise ValueError unless a PNG of `packed` bytes of pixels can be what its header says."""
    width, height, depth, colour, *method, interlaced = struct.unpack(">IIBBBBB", header)
    if not 0 < width < 2**31 or not 0 < height < 2**31 or any(method) or interlaced > 1:
        raise ValueError("is damaged: its header is not valid")
    if depth not in _PNG_DEPTHS.get(colour, ()):
        raise ValueError("is damaged: unknown kind of PNG")
    if colour == 3 and (not palette or len(palette) % 3 or len(palette) > 768):
        raise ValueError("is damaged: its palette is not valid")
    # zlib packs 1032 bytes into one at best: what cannot fill the picture gets no memory for it.
    if packed < height * -(-width * depth * _PNG_CHANNELS[colour] // 8) // 1100:
        raise ValueError("is truncated")


def _plain_tiff(data: bytes, path: Path) -> tuple[bytes, bool]:
    """(a TIFF that says to be upright, with colours to be left alone; whether 0 is white in it).

    libtiff turns pictures by their orientation, and multiplies colours by an alpha that is not
    associated with them yet. Raises DataError for samples that OpenCV does not read as they are
    meant, struct.error.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, step, inline = (start + 8, 20, 8) if big else (start + 2, 12, 4)
    changed, values = bytearray(data), {}
    for at in range(first, min(first + step * count, len(data)), step):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code is None or not number:
            continue
        place, length = at + step - inline, struct.calcsize(code)
        if length * number > inline:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        if tag in (258, 262, 284):
            (values[tag],) = struct.unpack_from(order + code, data, place)
        if tag in (274, 338):
            for index in range(min(number, 8)):  # 1: upright; or multiplied already
                struct.pack_into(order + code, changed, place + index * length, 1)
    apart = values.get(284) == 2 and values.get(258, 8) > 8
    if values.get(262, 2) not in (0, 1, 2, 3, 6) or apart:
        what = "16-bit samples in separate planes" if apart else "colours other than grey and RGB"
        raise DataError(f"{path} has {what}", "save it as grey or RGB PNG")
    return bytes(changed), values.get(262) == 0
