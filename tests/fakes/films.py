"""Small video files whose pictures carry their own number, in the codecs people bring."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

BITS, CELL = 8, 16
SIZE = (BITS * CELL, 4 * CELL)  # width, height


def numbered(index: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """RGB (H, W, 3): the upper half spells `index` in eight cells, white for one."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    for bit in range(BITS):
        image[: 2 * CELL, bit * CELL : (bit + 1) * CELL] = 235 if index >> bit & 1 else 20
    return image


def number_of(image: npt.NDArray[np.uint8]) -> int:
    """The number that a picture spells, grey or RGB."""
    grey = image if image.ndim == 2 else image.mean(axis=2)
    cells = [grey[8 : 2 * CELL - 8, b * CELL + 4 : (b + 1) * CELL - 4].mean() for b in range(BITS)]
    return sum(1 << bit for bit, value in enumerate(cells) if value > 128)


def write_film(
    path: Path,
    count: int,
    codec: str,
    *,
    fps: int = 25,
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """`count` numbered frames; `ticks` in thousandths of a second instead of a constant rate."""
    form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=1000 if ticks else fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *SIZE, form
        if ticks:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts = ticks[index] if ticks else index
            frame.time_base = Fraction(1, 1000) if ticks else Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> Path:
    """Give an MP4 a phone's rotation flag, in its track header, without touching a picture."""
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    rows = [cos, sin, 0, -sin, cos, 0, 0, 0, 1]
    ones = [1 << 16] * 8 + [1 << 30]
    matrix = b"".join(
        (v * one).to_bytes(4, "big", signed=True) for v, one in zip(rows, ones, strict=True)
    )
    path.write_bytes(content[:at] + matrix + content[at + 36 :])
    return path


def blank_media(path: Path) -> Path:
    """Zero an MP4's pictures and keep its header: it opens and yields nothing."""
    content = path.read_bytes()
    at = content.index(b"mdat")
    size = int.from_bytes(content[at - 4 : at], "big")
    path.write_bytes(content[: at + 4] + bytes(size - 8) + content[at - 4 + size :])
    return path


def write_motion_jpeg(path: Path, count: int, fps: float = 25.0) -> Path:
    """Numbered frames through OpenCV's own writer."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, SIZE, True)
    for index in range(count):
        writer.write(numbered(index)[..., ::-1].copy())
    writer.release()
    return path
