"""A prediction to look at: its timeline as a picture, and the video with the score under it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.errors import InputError

if TYPE_CHECKING:
    from data.frames import FrameSource
    from models.predict.findings import Curves, Prediction

STRIP_PX = 64  # height of the overlay's score strip
DEFAULT_FPS = 30.0  # of an overlay when the frame rate is unknown


def timeline(prediction: Prediction, curves: Curves) -> bytes:
    """Score and threshold above the spotted intervals; seconds where known, else view frames."""
    from data.pictures.drawing import png_bytes
    from models.report.figures import TimelineSpan, timeline_figure

    step = 1 / prediction.view_fps if prediction.view_fps else 1.0
    places = [_place(curves, one.start, one.end) for one in prediction.intervals]
    predicted = [
        TimelineSpan(start, end, one.emotion, "hit")
        for one, (start, end) in zip(prediction.intervals, places, strict=True)
    ]
    fig = timeline_figure(curves.smoothed, curves.threshold, predicted, [], seconds_per_frame=step)
    lanes = fig.axes[-1]
    lanes.set_yticks([0.0], ["predicted"])  # nothing is annotated here
    lanes.set_ylim(-0.6, 0.6)
    for one, (start, end) in zip(prediction.intervals, places, strict=True):
        middle = (start + end + 1) / 2 * step
        lanes.text(middle, 0.0, one.emotion[:3], ha="center", va="center", fontsize=6)
    if prediction.view_fps is None:
        lanes.set_xlabel("frames used")
    return png_bytes(fig)


def _place(curves: Curves, start: int, end: int) -> tuple[float, float]:
    """Where frames of the video stand among the frames used."""
    first = int(np.searchsorted(curves.frames, start))
    last = int(np.searchsorted(curves.frames, end, side="right")) - 1
    return float(first), float(max(first, last))


def write_overlay(prediction: Prediction, curves: Curves, source: FrameSource, path: Path) -> None:
    """The video with its score strip below and the emotion written inside intervals (MPEG-4)."""
    import cv2

    first = next(image for _, image in source.iter(colour=True) if image is not None)
    height, width = (side + side % 2 for side in first.shape[:2])
    shown = np.interp(np.arange(len(source)), curves.frames, curves.smoothed)
    strip = _strip(shown, curves.threshold, width)
    temporary = path.with_name(f".writing-{path.name}")
    size, code = (width, height + STRIP_PX), cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(temporary), code, prediction.fps or DEFAULT_FPS, size)
    if not writer.isOpened():
        raise InputError(
            str(path), expected="an MPEG-4 encoder in OpenCV", got="none", code="no_encoder"
        )
    for index, image in source.iter(colour=True):
        frame = np.zeros((height + STRIP_PX, width, 3), np.uint8)
        if image is not None and image.shape == first.shape:
            frame[: image.shape[0], : image.shape[1]] = image[..., ::-1]
        frame[height:] = strip
        x = int(index * (width - 1) / max(1, len(source) - 1))
        cv2.line(frame, (x, height), (x, height + STRIP_PX - 1), (255, 255, 255), 1)
        for one in prediction.intervals:
            if one.start <= index <= one.end:
                font, place = cv2.FONT_HERSHEY_SIMPLEX, (8, height - 12)
                text = f"{one.emotion} / HSTA {one.hsta}" if one.hsta else one.emotion
                cv2.putText(frame, text, place, font, min(0.8, width / 450), (0, 200, 255), 2)
        writer.write(frame)
    writer.release()
    temporary.replace(path)


def _strip(score: npt.NDArray[np.float64], level: float, width: int) -> npt.NDArray[np.uint8]:
    """The score of the whole video as a strip (STRIP_PX, width, 3), BGR, with its threshold."""
    import cv2

    strip = np.full((STRIP_PX, width, 3), 30, np.uint8)
    top = max(float(score.max()), level, 1e-9)
    x = np.linspace(0, width - 1, len(score))
    y = (STRIP_PX - 3) * (1 - score / top) + 1
    line = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(strip, [line], False, (180, 140, 60), 1, cv2.LINE_AA)
    at = int((STRIP_PX - 3) * (1 - level / top) + 1)
    cv2.line(strip, (0, at), (width - 1, at), (60, 60, 220), 1)
    return strip
