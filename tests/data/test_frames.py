"""Reading frames: what cannot be read is an `unreadable_frame`, whatever OpenCV thinks of it."""

from __future__ import annotations

import os
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


def test_a_huge_pictures_header_is_enough_to_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(png_that_claims(12_000, 10_000))  # OpenCV would make 120 megabytes of it
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="12000x10000"):
        FrameSource([path]).read(0)


def test_a_frame_of_another_size_has_a_reason_of_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, width in zip(paths, (8, 9, 8), strict=True):
        cv2.imwrite(str(path), np.full((6, width), 7, np.uint8))
    source = FrameSource(paths)
    with pytest.raises(InputError, match="9x6") as caught:  # asked first, it sets no standard
        source.read(1)
    assert caught.value.code == "size_differs"
    assert [image is None for _, image in source.iter()] == [False, True, False]
    assert source.reasons == {1: "size_differs"}


def test_a_dark_first_frame_saturates_no_other(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, value in zip(paths, (300, 4000, 2000, 4000), strict=True):
        cv2.imwrite(str(path), np.full((6, 8), value, np.uint16))
    source = FrameSource(paths)
    assert [int(source.read(i)[0, 0]) for i in range(4)] == [300 >> 4, 250, 125, 250]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "1.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no regular file"):
        FrameSource([path]).read(0)


def test_a_huge_jpeg_is_refused_by_its_header_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(bytes(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1]))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    path = tmp_path / "1.jpg"
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="at most") as caught:
        FrameSource([path]).read(0)
    assert caught.value.code == "unreadable_frame"
