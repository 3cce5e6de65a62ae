"""What an image file says without being decoded: its size, and whether its end is there."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_TAIL = 4096  # some writers append bytes after an image's end
_HEADS = (4096, 1 << 16)  # bytes read for a size; a JPEG may have a large preview before it


def is_cut_off(path: Path) -> bool:
    """Whether an image file lacks its end; files that cannot be opened are not judged."""
    return end_problem(path) == "truncated_file"


def end_problem(path: Path) -> str:
    """`truncated_file` for an image without its end, `permission_denied` for one not to be read.

    The end is a JPEG's end marker, a PNG's last chunk, a BMP's bytes; other formats are not
    judged. "" when nothing is wrong.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(26)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            tail = file.read()
    except PermissionError:
        return "permission_denied"
    except OSError:
        return ""
    whole = True
    if head[:2] == b"\xff\xd8":
        whole = b"\xff\xd9" in tail
    elif head[:8] == b"\x89PNG\r\n\x1a\n":
        whole = b"IEND" in tail
    elif head[:2] == b"BM" and len(head) == 26:
        whole = size >= int.from_bytes(head[2:6], "little")
    return "" if whole else "truncated_file"


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from an image file's header, or None when it has none that can be read."""
    for length in _HEADS:
        try:
            with open(path, "rb") as file:
                head = file.read(length)
        except OSError:
            return None
        size = _size_in(head, path)
        if size is not None or len(head) < length:
            return size
    return None


def _size_in(head: bytes, path: Path) -> tuple[int, int] | None:
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return int(width), int(height)
    if head[:2] == b"BM" and len(head) >= 26:
        width, height = struct.unpack("<ii", head[18:26])
        return abs(int(width)), abs(int(height))  # a negative height means top-down rows
    if head[:2] == b"\xff\xd8":
        return _jpeg_size(head)
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return _tiff_size(path)
    return None


def _tiff_size(path: Path) -> tuple[int, int] | None:
    """From the first directory's tags 256 and 257; it may lie anywhere in the file."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            order = "<" if head[:2] == b"II" else ">"
            file.seek(struct.unpack(order + "I", head[4:8])[0])
            count = struct.unpack(order + "H", file.read(2))[0]
            entries = file.read(12 * count)
    except (OSError, struct.error):
        return None
    found = {}
    for at in range(0, len(entries) - 11, 12):
        tag, kind = struct.unpack(order + "HH", entries[at : at + 4])
        if tag in (256, 257) and kind in (3, 4):  # SHORT lies left in its four bytes
            value = entries[at + 8 : at + (10 if kind == 3 else 12)]
            found[tag] = int(struct.unpack(order + ("H" if kind == 3 else "I"), value)[0])
    return (found[256], found[257]) if len(found) == 2 else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Walk the JPEG segments to the frame header (SOF0..SOF15 without DHT, JPG, DAC)."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return int(width), int(height)
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
