"""Frames as a camera's or a website's video compression leaves them: H.264, encoded and decoded.

Blocks, skipped detail, noise that stands still for a group of frames: what a recording of one's own
has and a folder of rendered frames has not. One thread and x264's own constant rate factor; the
same versions of PyAV give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import MissingExtraError

BLOCK = 32  # sides are filled up to it: what lies beyond a row would be any memory
GROUP = 48  # frames from one key frame to the next at most


def compressed(frames: Iterable[NDArray[np.uint8]], factor: int) -> Iterator[NDArray[np.uint8]]:
    """The same frames (H, W) or (H, W, 3) BGR after H.264 at constant rate `factor`, 1 to 51.

    As many frames come out as went in, in order. Raises MissingExtraError without an encoder.
    """
    encoder: Any = None
    decoder: Any = None
    grey, shape = False, (0, 0)
    for number, image in enumerate(frames):
        if encoder is None:
            grey, shape = image.ndim == 2, image.shape[:2]
            encoder, decoder = _codecs(shape, factor)
        frame = _frame(image)
        frame.pts = number
        for packet in encoder.encode(frame):
            yield from _pictures(decoder.decode(packet), grey, shape)
    if encoder is not None:
        for packet in encoder.encode(None):
            yield from _pictures(decoder.decode(packet), grey, shape)
        yield from _pictures(decoder.decode(None), grey, shape)


def _codecs(shape: tuple[int, int], factor: int) -> tuple[Any, Any]:
    import av

    try:
        encoder: Any = av.CodecContext.create("libx264", "w")
    except ValueError as error:  # a PyAV built without it
        raise MissingExtraError(
            "synthetic compression", expected="PyAV with the encoder libx264", got=str(error)
        ) from error
    encoder.width, encoder.height = (side + -side % BLOCK for side in shape[::-1])
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), 25
    encoder.thread_count = 1
    encoder.options = {"crf": str(factor), "preset": "veryfast", "g": str(GROUP), "threads": "1"}
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    return encoder, decoder


def _frame(image: NDArray[np.uint8]) -> Any:
    import av

    down, right = (-side % BLOCK for side in image.shape[:2])
    image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
    if image.ndim == 2:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")


def _pictures(
    decoded: Iterable[Any], grey: bool, shape: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    for frame in decoded:
        image = frame.to_ndarray(format="bgr24")[: shape[0], : shape[1]]
        if grey:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        yield np.ascontiguousarray(image, np.uint8)
