"""Frames of one video as 8-bit arrays, from an image folder or a video file.

Images may be grey, colour, CMYK, with alpha, or 16-bit; what comes out is uint8, grey (H,W) or RGB
(H,W,3). 16-bit images are shifted down from the bit depth (10, 12, 14 or 16) that the video's first
frame needs, never stretched by their own contents: frames of one video keep one brightness scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError

Image = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".wmv", ".m4v")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000  # a larger image is refused, not decoded


def bit_depth(image: npt.NDArray[np.generic]) -> int:
    """8, or the smallest of 10, 12, 14, 16 bits that holds a 16-bit image's values."""
    if image.dtype == np.uint8:
        return 8
    peak = int(image.max(initial=0))
    return next((d for d in (10, 12, 14) if peak < 1 << d), 16)


def to_uint8(image: npt.NDArray[np.generic], who: str, depth: int | None = None) -> Image:
    """8-bit twin of an 8- or 16-bit image of the given bit depth (default: its own)."""
    if image.dtype == np.uint8:
        return image  # type: ignore[return-value]
    if image.dtype == np.uint16:
        shift = (bit_depth(image) if depth is None else depth) - 8
        return np.minimum(np.right_shift(image, shift), 255).astype(np.uint8)
    raise InputError(who, expected="an 8- or 16-bit image", got=str(image.dtype))


def read_image(path: Path, *, colour: bool = False, depth: int | None = None) -> Image:
    """Decode one image file to (H,W) grey or (H,W,3) RGB uint8; `depth` as for `to_uint8`.

    Raises InputError, code `unreadable_frame`, when the file is missing, empty, truncated beyond
    decoding, a directory, forbidden, or larger than MAX_PIXELS.
    """
    who = path.name
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(
            who, expected="a readable image file", got=str(error), code="unreadable_frame"
        ) from error
    flag = cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    try:
        image = cv2.imdecode(raw, flag) if raw.size else None
    except cv2.error as error:
        raise InputError(
            who, expected="an image that can be decoded", got=str(error), code="unreadable_frame"
        ) from error
    if image is None or image.size == 0:
        raise InputError(
            who,
            expected="an image that can be decoded",
            got=f"{raw.size} bytes that cannot",
            code="unreadable_frame",
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise InputError(
            who,
            expected=f"at most {MAX_PIXELS} pixels",
            got=f"{image.shape[1]}x{image.shape[0]}",
            code="unreadable_frame",
        )
    image = to_uint8(image, who, depth)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if colour else image


class FrameSource:
    """Random and sequential access to a video's frames by zero-based index."""

    def __init__(self, paths: Sequence[Path] | Path, num_frames: int | None = None) -> None:
        """`paths`: one file per frame in order, or a single video file with its frame count."""
        self._video = paths if isinstance(paths, Path) else None
        self._paths = [] if isinstance(paths, Path) else list(paths)
        self._length = num_frames if num_frames is not None else len(self._paths)
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self._depth = 0  # bit depth of the first frame, 0 until asked for

    def __len__(self) -> int:
        return self._length

    def read(self, index: int, *, colour: bool = False) -> Image:
        """Frame `index` as uint8 (H,W) or (H,W,3) RGB; InputError `unreadable_frame` otherwise."""
        if not 0 <= index < self._length:
            raise InputError(f"frame {index}", expected=f"0..{self._length - 1}", got=str(index))
        if self._video is None:
            return read_image(self._paths[index], colour=colour, depth=self._bit_depth())
        return self._read_video(index, colour)

    def _bit_depth(self) -> int | None:
        """Bit depth of the first frame if it has 16-bit samples, else None."""
        if self._depth == 0:
            try:
                raw = cv2.imread(str(self._paths[0]), cv2.IMREAD_UNCHANGED)
            except cv2.error:  # too large for OpenCV; reading that frame says so by name
                raw = None
            self._depth = bit_depth(raw) if raw is not None else 8
        return None if self._depth == 8 else self._depth

    def iter(
        self, indices: Iterable[int] | None = None, *, colour: bool = False
    ) -> Iterator[tuple[int, Image | None]]:
        """(index, frame) in the order given; None where a frame cannot be read."""
        for index in range(self._length) if indices is None else indices:
            try:
                yield index, self.read(index, colour=colour)
            except InputError:
                yield index, None

    def _read_video(self, index: int, colour: bool) -> Image:
        assert self._video is not None
        if self._capture is None or index < self._next:
            self._capture = cv2.VideoCapture(str(self._video))
            self._next = 0
        image = None
        while self._next <= index:  # seeking by frame number is inexact in most codecs
            if self._next < index:
                good = self._capture.grab()
            else:
                good, image = self._capture.read()
            if not good:
                raise InputError(
                    f"{self._video.name}, frame {index}",
                    expected=f"{self._length} decodable frames",
                    got=f"the stream ends at {self._next}",
                    code="unreadable_frame",
                )
            self._next += 1
        assert image is not None
        code = cv2.COLOR_BGR2RGB if colour else cv2.COLOR_BGR2GRAY
        return cv2.cvtColor(image, code)


def count_video_frames(path: Path) -> int:
    """Decodable frames of a video file, counted by grabbing (containers often lie).

    Raises InputError, code `unreadable_video`, when it cannot be opened.
    """
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(
            path.name,
            expected="a video file",
            got="a file no decoder opens",
            code="unreadable_video",
        )
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count
