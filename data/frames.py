"""Frames of one video as 8-bit arrays, from an image folder or a video file.

Images may be grey, colour, CMYK, with alpha, or 16-bit; what comes out is uint8, grey (H,W) or RGB
(H,W,3). 16-bit images are shifted down from the bit depth (10, 12, 14 or 16) that frames from all
over the video need, never stretched by their own contents: one video keeps one brightness scale.
All frames of a video have its first readable frame's size; another is refused, `size_differs`.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.video_file import VideoFile

Image = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (
    *(".avi", ".mp4", ".mov", ".mkv", ".wmv", ".m4v"),
    *(".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".flv", ".ogv"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000  # a larger image is refused, not decoded
DIGEST_LENGTH = 32  # hex digits of the digest of a video's raw bytes
BETWEEN = b"\x1e"  # stands in it after each file
BLOCK = 1 << 20  # read at once
DEPTH_SAMPLES = 16  # frames whose brightest value says how many bits a 16-bit video uses


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


def read_image(
    path: Path,
    *,
    colour: bool = False,
    depth: int | None = None,
    note: Callable[[npt.NDArray[np.uint8]], None] | None = None,
) -> Image:
    """Decode one image file to (H,W) grey or (H,W,3) RGB uint8; `depth` as for `to_uint8`.

    `note` is given the file's bytes before they are decoded.

    Raises InputError, code `unreadable_frame`, when the file is missing, empty, truncated beyond
    decoding, a directory, a pipe, forbidden, or larger than MAX_PIXELS: its header is asked first.
    """
    flag = cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    image = to_uint8(_decode(path, flag, note), path.name, depth)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if colour else image


def _decode(
    path: Path, flag: int, note: Callable[[npt.NDArray[np.uint8]], None] | None = None
) -> npt.NDArray[np.generic]:
    """`note` is given the file's bytes."""
    who = path.name
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait without end
            raise _no_frame(who, "a readable image file", "no regular file")
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise _no_frame(who, "a readable image file", str(error)) from error
    if note:
        note(raw)
    _refuse_huge(raw, who)
    try:
        image = cv2.imdecode(raw, flag) if raw.size else None
    except cv2.error as error:
        raise _no_frame(who, "an image that can be decoded", str(error)) from error
    if image is None or image.size == 0:
        raise _no_frame(who, "an image that can be decoded", f"{raw.size} bytes that cannot")
    return np.asarray(image)


def _refuse_huge(raw: npt.NDArray[np.uint8], who: str) -> None:
    """A few bytes can announce gigabytes of pixels: the header's size is looked at, not decoded."""
    size = _png_size(raw) or _pillow_size(raw)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise _no_frame(who, f"at most {MAX_PIXELS} pixels", f"{size[0]}x{size[1]}")


def _png_size(raw: npt.NDArray[np.uint8]) -> tuple[int, int] | None:
    """Four times faster than Pillow's."""
    if raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n" or raw.size < 24:
        return None
    width, height = (int(v) for v in raw[16:24].view(">u4"))
    return width, height


def _pillow_size(raw: npt.NDArray[np.uint8]) -> tuple[int, int] | None:
    """(width, height) by Pillow's lazy header; None where it knows none, or is not installed."""
    try:
        from PIL import Image as Pillow
    except ImportError:  # a machine for training holds little more than torch and OpenCV
        return None
    try:
        with Pillow.open(io.BytesIO(raw.data)) as header:
            return int(header.width), int(header.height)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        return MAX_PIXELS, 2  # it does not say by how much
    except (OSError, ValueError, SyntaxError):
        return None


def _no_frame(who: str, expected: str, got: str) -> InputError:
    return InputError(who, expected=expected, got=got, code="unreadable_frame")


def bytes_of_files(paths: Iterable[Path]) -> tuple[str, int]:
    """Digest and size of several files' bytes, in order; an unreadable file counts as that."""
    digest, size = hashlib.sha256(), 0
    for path in paths:
        try:
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    size += len(block)
        except OSError as error:
            digest.update(f"unreadable: {type(error).__name__}".encode())
        digest.update(BETWEEN)
    return digest.hexdigest()[:DIGEST_LENGTH], size


class FrameSource:
    """Random and sequential access to a video's frames by zero-based index."""

    def __init__(self, paths: Sequence[Path] | Path, num_frames: int | None = None) -> None:
        """`paths`: one file per frame in order, or a single video file with its frame count."""
        self._video = paths if isinstance(paths, Path) else None
        self._paths = [] if isinstance(paths, Path) else list(paths)
        self._length = num_frames if num_frames is not None else len(self._paths)
        self._file: VideoFile | None = None
        self._depth = 0  # bit depth of the video, 0 until asked for
        self._shape: tuple[int, int] | None = None
        self.reasons: dict[int, str] = {}
        self._bytes, self._size, self._next = hashlib.sha256(), 0, 0

    def __len__(self) -> int:
        return self._length

    def read(self, index: int, *, colour: bool = False) -> Image:
        """Frame `index` as uint8 (H,W) or (H,W,3) RGB.

        InputError otherwise: `unreadable_frame`, or `size_differs` for a frame that has not the
        size of the video's first readable one. `reasons` keeps the word of each index.
        """
        if not 0 <= index < self._length:
            raise InputError(f"frame {index}", expected=f"0..{self._length - 1}", got=str(index))
        try:
            image = self._read(index, colour)
            self._check_size(index, image)
        except InputError as error:
            self.reasons[index] = error.code
            raise
        return image

    def _read(self, index: int, colour: bool) -> Image:
        if self._video is None:
            note = self._note if index == self._next else None
            path, depth = self._paths[index], self._bit_depth()
            return read_image(path, colour=colour, depth=depth, note=note)
        if self._file is None:
            self._file = VideoFile(self._video, self._length)
        if index == self._next:  # whether it decodes or not: its bytes were there to be read
            self._next += 1
        image = self._file.read(index)
        return image if colour else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)

    def _note(self, raw: npt.NDArray[np.uint8]) -> None:
        self._bytes.update(raw.data)
        self._bytes.update(BETWEEN)
        self._size, self._next = self._size + raw.size, self._next + 1

    def raw_bytes(self) -> tuple[str, int] | None:
        """Digest and size of the files of all frames, if they were read from first to last.

        As `bytes_of_files` makes them. A film is read once more for it: decoders seek as they like,
        and what was decoded a moment ago is still in memory.
        """
        if not 0 < self._next == self._length:
            return None
        if self._video is not None:
            return bytes_of_files([self._video])
        return self._bytes.hexdigest()[:DIGEST_LENGTH], self._size

    def _check_size(self, index: int, image: Image) -> None:
        """Images: against the first readable one, whichever is read first; films: the first read.

        (A film's beginning is a long way back from the middle, and its size hardly ever changes.)
        """
        height, width = image.shape[:2]
        if self._shape is None:
            self._shape = (height, width)
            for before in range(index if self._video is None else 0):
                try:
                    first = self._read(before, False)
                except InputError:
                    continue
                self._shape = (int(first.shape[0]), int(first.shape[1]))
                break
        if (height, width) != self._shape:
            raise InputError(
                f"frame {index}",
                expected=f"{self._shape[1]}x{self._shape[0]} as the frames before",
                got=f"{width}x{height}",
                code="size_differs",
            )

    def _bit_depth(self) -> int | None:
        """Bit depth that the brightest of a few frames needs; None unless they have 16 bits."""
        if self._depth == 0:
            self._depth = self._deepest()
        return None if self._depth == 8 else self._depth

    def _deepest(self) -> int:
        """A dark first frame must not set the scale of the rest: frames from all over are asked."""
        last = self._length - 1
        deepest = 8
        for index in sorted(set(np.linspace(0, last, min(DEPTH_SAMPLES, last + 1)).astype(int))):
            try:
                image = _decode(self._paths[index], cv2.IMREAD_UNCHANGED)
            except InputError:
                continue
            if image.dtype != np.uint16:
                break
            deepest = max(deepest, bit_depth(image))
        return deepest

    def iter(
        self, indices: Iterable[int] | None = None, *, colour: bool = False
    ) -> Iterator[tuple[int, Image | None]]:
        """(index, frame) in the order given; None where a frame cannot be read."""
        for index in range(self._length) if indices is None else indices:
            try:
                yield index, self.read(index, colour=colour)
            except InputError:
                yield index, None
