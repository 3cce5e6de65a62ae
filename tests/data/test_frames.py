"""Reading frames: what cannot be read is an `unreadable_frame`, whatever OpenCV thinks of it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import InputError
from data.frames import FrameSource


def png_that_claims(width: int, height: int) -> bytes:
    """A tiny file whose header announces a picture of that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("place", [0, 1])
def test_a_picture_too_large_for_opencv_is_one_unreadable_frame(tmp_path: Path, place: int) -> None:
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    cv2.imwrite(str(paths[1 - place]), np.full((8, 8), 7, np.uint8))
    paths[place].write_bytes(png_that_claims(100_000, 100_000))
    source = FrameSource(paths)
    with pytest.raises(InputError) as caught:
        source.read(place)
    assert caught.value.code == "unreadable_frame"
    assert source.read(1 - place).tolist() == [[7] * 8] * 8
    assert [image is None for _, image in source.iter()] == [place == 0, place == 1]
