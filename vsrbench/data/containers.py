"""Whether a video file lacks frames that its own structure announces, or begins more than once.

Demuxers end without a word where a file does, and durations are wrong in many whole files. What
tells is the structure: an element that holds frames and runs past the end of the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF, 0xEC, 0xBF})
_BLOCKS = frozenset({0xA3, 0xA0})  # a simple one, a group of one
_ELEMENTS = _IN_CLUSTER | {
    *(0x1A45DFA3, _SEGMENT, 0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469),
    *(0x1043A770, 0x1254C367),
}
"""And head, index, information, tracks, cues, attachments, chapters, tags."""
_HEADS = {"flv": 13, "asf": 16, "nut": 25, "apng": 33}
"""Bytes at the beginning of a file that come there alone, where FFmpeg reads the first of several
files that were joined."""
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def lacks_frames(
    path: Path,
    container: str,
    *,
    fewer: bool,
    shorter: bool,
    payload: int,
    held: int,
    places: int,
) -> bool:
    """Whether a file is cut off, or FFmpeg left out a part, as it does where one is damaged.

    container: its name in FFmpeg. fewer: there are fewer packets than its index has. shorter: they
    end before its duration. Both are taken for damage only where the structure is cut, too.
    payload: bytes of the last packet. held, places: bytes and number of positions of the packets
    of all tracks.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if container.startswith("matroska"):
            state, blocks = _matroska(file, size)
            return state == "frames" or (state == "between" and shorter) or blocks > places
        if container.startswith("mov"):
            boxes = list(_boxes(file, size))
            last, _, end = boxes[-1] if boxes else (b"", 0, 0)
            first = next((k for k, (kind, *_) in enumerate(boxes) if kind == b"moof"), None)
            cut = end > size and last in (b"moof", b"mdat")
            if first is None:
                return cut and fewer
            if not cut and end != size:  # what follows is no box
                cut = _goes_on(file, boxes[-2][2] if end > size else end, b"moof")
            data = sum(end - begin for kind, begin, end in boxes[first:] if kind == b"mdat")
            return cut or data > held
        if container == "avi":
            return _riff_end(file) > size and fewer
        if container == "asf":
            return _asf_data_end(file, size) > size
        if container == "mpegts":
            return _partial_packet(file, size)
        if container == "flv":
            return _flv_tag_end(file, size) > size
        if container == "mxf":
            return _mxf_item_end(file, size) > size
        if container == "yuv4mpegpipe":
            return _y4m_frame_end(file, size, payload) > size
        if container == "gif":
            return not _gif_is_whole(file)
        if container == "apng":
            file.seek(max(0, size - 64))
            return b"IEND" not in file.read()
        if container == "mjpeg":
            file.seek(max(0, size - payload))
            return b"\xff\xd9" not in file.read()
    return False


def is_joined(path: Path, container: str) -> bool:
    """Whether a file begins more than once, in formats of which FFmpeg does not read all then.

    It is several files, one after another, or in fragments with their head repeated.
    """
    with path.open("rb") as file:
        if container.startswith("mov"):
            return [kind for kind, *_ in _boxes(file, file.seek(0, 2))].count(b"moov") > 1
        if container not in _HEADS:
            return False
        data = _content(file)
        return data.find(data[: _HEADS[container]], 1) > 0


def _matroska(file: BinaryIO, size: int) -> tuple[str, int]:
    """(what is cut, number of blocks).

    `frames` when a block or a cluster is cut, or what lies between is no element; `between` when
    the file ends between clusters of a longer segment; else empty.
    """
    at = segment_end = cluster_end = blocks = 0
    inside = False  # a cluster
    while at < size:
        inside &= not 0 < cluster_end <= at
        file.seek(at)
        kind = _number(file, True)
        length = None if kind is None else _number(file, False)
        if kind is None or length is None:
            return ("frames" if inside or segment_end > size else ""), blocks
        content = file.tell()
        end = content + length if length >= 0 else -1
        if kind not in _ELEMENTS:
            if kind and 0 < end <= size:  # readers skip what they do not know
                file.seek(end)
                if end in (cluster_end, segment_end) or _number(file, True) in _ELEMENTS:
                    at = end
                    continue
            # else it is no element, and demuxers go on at the next cluster, if there is one
            lost = at < max(cluster_end, segment_end if kind else 0)
            lost = lost or _goes_on(file, at, _CLUSTER.to_bytes(4, "big"))
            return ("frames" if lost else ""), blocks
        if kind == _SEGMENT:
            segment_end, inside, at = end, False, content
        elif kind == _CLUSTER:
            cluster_end, inside, at = end, True, content
        elif end > size:
            return ("frames" if inside and kind in _IN_CLUSTER else ""), blocks
        elif end < 0:
            return "", blocks
        else:
            inside &= kind in _IN_CLUSTER
            blocks += inside and kind in _BLOCKS and length > 4  # more than its head
            at = end
    if inside and cluster_end > size:
        return "frames", blocks
    return ("between" if segment_end > size else ""), blocks


def _goes_on(file: BinaryIO, at: int, mark: bytes) -> bool:
    """Whether more that begins with a mark follows."""
    return _content(file).find(mark, at) > 0


def _content(file: BinaryIO) -> mmap.mmap | bytes:
    """All of a file, in memory only where its file system cannot map it."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        file.seek(0)
        return file.read()


def _number(file: BinaryIO, keep_marker: bool) -> int | None:
    """A variable-length integer of EBML; None at the end of the file, -1 for an unknown size."""
    first = file.read(1)
    if not first:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    whole = int.from_bytes(first + rest, "big")
    if keep_marker:
        return whole if first[0] else 0
    most = (1 << 7 * length) - 1
    return -1 if whole & most == most else whole & most


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin and end of the content) of the boxes of ISO media.

    The last one may end past the end of the file.
    """
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            wide = file.read(8)
            length = int.from_bytes(wide, "big") if len(wide) == 8 else 0
        if length < 8 or not all(32 <= byte < 127 for byte in kind):
            return  # 0: to the end of the file; else it is no box
        begin, at = file.tell(), at + length
        yield kind, begin, at


def _riff_end(file: BinaryIO) -> int:
    file.seek(4)
    length = int.from_bytes(file.read(4), "little")
    return 8 + length if length != 0xFFFFFFFF else 0


def _asf_data_end(file: BinaryIO, size: int) -> int:
    """Where the object with all frames ends; 0 when it does not say."""
    at = 0
    while at + 24 <= size:
        file.seek(at)
        kind, length = file.read(16), int.from_bytes(file.read(8), "little")
        if kind == _ASF_DATA:
            return at + length if length > 50 else 0
        if length < 24:
            break
        at += length
    return 0


def _flv_tag_end(file: BinaryIO, size: int) -> int:
    """Where the last tag ends."""
    at = 13  # the header, and the size of no tag before the first one
    while at < size:
        file.seek(at)
        head = file.read(11)
        if head[0] & 31 not in (8, 9, 18):  # what follows is no part of it
            break
        at += 11 + int.from_bytes(head[1:4], "big") + 4 if len(head) == 11 else 11
    return at - 4  # writers may leave out the last size


def _mxf_item_end(file: BinaryIO, size: int) -> int:
    """Where the last item of key, length and value ends; 0 where there is no key."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(25)
        if not head.startswith(b"\x06\x0e\x2b\x34"[: len(head)]):
            return 0
        if len(head) < 17:
            return at + 17
        wide = head[16] & 127 if head[16] & 128 else 0
        length = int.from_bytes(head[17 : 17 + wide], "big") if wide else head[16]
        at += 17 + wide + length
    return at


def _y4m_frame_end(file: BinaryIO, size: int, payload: int) -> int:
    """Where the last frame ends."""
    file.seek(0)
    file.readline(4096)
    while file.tell() < size:
        file.readline(4096)
        file.seek(payload, 1)
    return file.tell()


def _partial_packet(file: BinaryIO, size: int) -> bool:
    """Whether a transport stream ends within a packet."""
    file.seek(0)
    head = file.read(409)
    for length, sync in ((188, 0), (192, 4), (204, 0)):
        if all(head[sync + k * length : sync + k * length + 1] == b"G" for k in (0, 1)):
            rest = size % length
            file.seek(size - rest + sync)
            return rest > 0 and (rest <= sync or file.read(1) == b"G")  # else it is no packet
    return False


def _gif_is_whole(file: BinaryIO) -> bool:
    """Whether all blocks are there up to the one that says so."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    file.seek(10)
    file.seek(2 + table(file.read(1)[0]), 1)
    while kind := file.read(1):
        if kind == b";":
            return True
        if kind == b",":
            head = file.read(9)
            if len(head) < 9:
                return False
            file.seek(table(head[8]), 1)
        file.seek(1, 1)  # the label of an extension, or the size of a code
        while (length := file.read(1)) and length != b"\0":
            file.seek(length[0], 1)
    return False
