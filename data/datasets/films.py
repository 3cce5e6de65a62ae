"""What a video file says of itself, how much of it decodes, and which formats are not read."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.frames import VIDEO_SUFFIXES

FILM_SUFFIXES = (
    *(".webm", ".mpg", ".mpeg", ".flv", ".3gp", ".mts", ".m2ts", ".ts", ".vob", ".ogv", ".asf"),
    *(".mxf", ".rm", ".divx", ".f4v", ".y4m"),
)
NOT_READ = tuple(s for s in FILM_SUFFIXES if s not in VIDEO_SUFFIXES)
FPS_TOLERANCE = 0.01  # 29.97 and 30 are one rate, 24 and 25 are two
_UNEVEN = 0.5  # a gap this much longer than the usual one, as a share of it


@dataclass(frozen=True)
class VideoFacts:
    """`num_frames` that decode, `declared` by the container (0: none), `fps` it names (0: none),
    `duration_s`, `rotation` in degrees, (`width`, `height`); `uneven`: what is odd in the frames'
    time stamps, "" when they are even."""

    num_frames: int
    declared: int
    fps: float
    duration_s: float
    rotation: int
    width: int
    height: int
    uneven: str = ""


def video_facts(path: Path) -> VideoFacts:
    """Facts of a video file; its frames are counted one by one (containers often lie).

    Raises InputError: `not_a_file` for a pipe or a device (reading it would never end),
    `unreadable_video` when no decoder opens it or not one frame decodes.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(
            path.name, expected="a video file", got="no ordinary file", code="not_a_file"
        )
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise _unreadable(path, "a file no decoder opens")
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    fps = fps if np.isfinite(fps) and 0 < fps < 1e6 else 0.0
    rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META))
    width, height = (int(capture.get(p)) for p in (3, 4))
    declared = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
    times = []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    if not times:
        raise _unreadable(path, "a file that opens but of which no frame decodes (its codec?)")
    gap = 1000 / fps if fps else 0.0
    return VideoFacts(
        len(times),
        declared,
        fps,
        (times[-1] - times[0] + gap) / 1000,
        rotation,
        width,
        height,
        _uneven(np.array(times)),
    )


def _uneven(times: npt.NDArray[np.float64]) -> str:
    """Where frames are missing or doubled in time; "" for even stamps, or none at all."""
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    if usual <= 0:
        return ""
    odd = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if not len(odd):
        return ""
    return (
        f"{len(odd)} of {len(gaps)} gaps between frames are not {usual:.1f} ms "
        f"(first after frame {odd[0] + 1}: {gaps[odd[0]]:.1f} ms)"
    )


def _unreadable(path: Path, got: str) -> InputError:
    return InputError(path.name, expected="a video file", got=got, code="unreadable_video")


def rates_differ(declared: float, container: float) -> bool:
    """Whether the declared frame rate is another than the container's (0: it names none)."""
    return container > 0 and abs(declared - container) > FPS_TOLERANCE * container


def not_read(name: str) -> str:
    """What to say of a film in a format that is not read; "" for any other name."""
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix not in NOT_READ:
        return ""
    return f"{suffix} is not read; {' '.join(VIDEO_SUFFIXES)} are"
