"""Decoders of video files: frames in the order of showing, through PyAV or else OpenCV.

Both are FFmpeg's, and their RGB frames are the same to the bit. A decoder that stays silent for
`PATIENCE_S` seconds is given up, and nothing that is no regular file is opened at all. TorchCodec
was not taken: it is as exact, but needs an FFmpeg installed beside it and a build that matches
torch's.
"""

from __future__ import annotations

import queue
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError

Rgb = npt.NDArray[np.uint8]

PATIENCE_S = 60.0
INDEXED = ("mov,mp4", "matroska", "avi")  # containers that say where each frame lies
GUESSING = ("mpeg", "mpegts")  # containers without a duration: FFmpeg divides bytes by a bit rate


@dataclass(frozen=True)
class Timestamps:
    """Timestamps of all frames in the order of showing, and which are key frames."""

    pts: npt.NDArray[np.int64]
    dts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.intp]

    def key_before(self, index: int) -> int:
        """The last key frame shown at or before a frame; -1 for none."""
        at = int(np.searchsorted(self.keys, index, side="right")) - 1
        return int(self.keys[at]) if at >= 0 else -1


class _Patient:
    """Calls in a thread of their own that may be left behind where a decoder never answers."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stuck = False
        # A daemon: whoever gives up on it can still end the program.
        threading.Thread(target=_serve, args=(self._asked, self._said), daemon=True).start()

    def call(self, step: Callable[..., Any], *args: Any) -> Any:
        if not self._stuck:
            self._asked.put((step, args))
            try:
                good, value = self._said.get(timeout=PATIENCE_S)
            except queue.Empty:
                self._stuck = True
            else:
                if good:
                    return value
                raise value
        raise InputError(
            self._who,
            expected="a decoder that answers",
            got=f"nothing for {PATIENCE_S:g} s",
            code="unreadable_video",
        )

    def close(self) -> None:
        self._asked.put(None)


def _serve(asked: queue.SimpleQueue[Any], said: queue.SimpleQueue[Any]) -> None:
    while (job := asked.get()) is not None:
        step, args = job
        try:
            said.put((True, step(*args)))
        except Exception as error:
            said.put((False, error))
        del job, step, args  # a file that waits for its next question is not kept open by the last


class Reader(ABC):
    """One pass through a file: frames as the decoder's own objects, in the order of showing."""

    decoder = ""

    def __init__(self, path: Path) -> None:
        self._path, self._patient = path, _Patient(path.name)

    def step(self) -> Any | None:
        """The next frame, or None at the end."""
        return self._patient.call(self._step)

    def close(self) -> None:
        """Let the decoder's thread end."""
        self._patient.close()

    def __del__(self) -> None:
        self._patient.close()

    @abstractmethod
    def _step(self) -> Any | None:
        """The next frame, or None at the end; called in the decoder's own thread."""

    @abstractmethod
    def picture(self, frame: Any) -> Rgb:
        """A frame as RGB (H, W, 3), upright."""

    @abstractmethod
    def size(self, frame: Any) -> tuple[int, int]:
        """(width, height) of that picture."""

    @abstractmethod
    def seconds(self, frame: Any) -> float:
        """A frame's timestamp; NaN where it has none."""

    @abstractmethod
    def declared(self) -> tuple[int, float, float, float]:
        """Frames, seconds, frames per second that the container declares; its clock's step."""

    def table(self, num_frames: int) -> Timestamps | None:
        """Timestamps of all frames, None where frames cannot be told by them."""
        return None

    def seek(self, dts: int, pts: int) -> Any | None:
        """The frame of that timestamp, decoded from a key frame on; None where it never comes."""
        return None


class AvReader(Reader):
    """PyAV's pass through a file."""

    decoder = "PyAV"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self._patient.call(_av_open, path)
        self._stream = self._file.streams.video[0]
        # Stages run a process per core already, and one thread conceals damage alike everywhere.
        self._stream.thread_type, self._stream.codec_context.thread_count = "NONE", 1
        self._packets = self._file.demux(self._stream)
        self._ready: list[Any] = []
        self._over = False

    def _step(self) -> Any | None:
        from av.error import FFmpegError

        while not self._ready and not self._over:
            try:
                packet = next(self._packets)
            except (StopIteration, EOFError):
                self._over = True
                break
            except FFmpegError:  # the rest of a cut-off file
                self._over = True
                break
            try:
                self._ready = list(packet.decode())
            except FFmpegError:  # a damaged packet: later ones may be whole
                continue
            self._over = packet.size == 0 and packet.pts is None
        return self._ready.pop(0) if self._ready else None

    def picture(self, frame: Any) -> Rgb:
        image = frame.to_ndarray(format="rgb24")
        turns = _quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def size(self, frame: Any) -> tuple[int, int]:
        size = (int(frame.width), int(frame.height))
        return size[::-1] if _quarter_turns(frame) % 2 else size

    def seconds(self, frame: Any) -> float:
        stamp = frame.pts if frame.pts is not None else frame.dts
        return float(stamp * frame.time_base) if stamp is not None else np.nan

    def declared(self) -> tuple[int, float, float, float]:
        stream, clock = self._stream, self._stream.time_base or Fraction(0)
        duration = float(stream.duration * clock) if stream.duration else np.nan
        if np.isnan(duration) and self._file.duration:
            duration = self._file.duration / 1e6
        if self._file.format.name in GUESSING:
            duration = np.nan
        rate = stream.average_rate or stream.guessed_rate
        return int(stream.frames or 0), duration, float(rate) if rate else np.nan, float(clock)

    def table(self, num_frames: int) -> Timestamps | None:
        return self._patient.call(self._table, num_frames)

    def _table(self, num_frames: int) -> Timestamps | None:
        from av.error import FFmpegError

        rows = []
        if not self._file.format.name.startswith(INDEXED):
            return None  # a search by timestamp in an MPEG stream ended at the wrong picture
        try:
            with _av_open(self._path) as file:
                for packet in file.demux(file.streams.video[0]):
                    if packet.size and not packet.is_discard:
                        rows.append((packet.pts, packet.dts, packet.is_keyframe))
        except FFmpegError:
            return None
        # As many packets as frames that decode: each packet is one frame.
        if len(rows) != num_frames or any(pts is None for pts, _, _ in rows):
            return None
        rows.sort(key=lambda row: row[0])
        pts = np.array([row[0] for row in rows], np.int64)
        if (np.diff(pts) <= 0).any():
            return None
        dts = np.array([row[0] if row[1] is None else min(row[:2]) for row in rows], np.int64)
        return Timestamps(pts, dts, np.flatnonzero([bool(row[2]) for row in rows]))

    def seek(self, dts: int, pts: int) -> Any | None:
        return self._patient.call(self._seek, dts, pts)

    def _seek(self, dts: int, pts: int) -> Any | None:
        from av.error import FFmpegError

        try:
            self._file.seek(int(dts), stream=self._stream, backward=True, any_frame=False)
        except FFmpegError:
            return None
        self._packets, self._ready = self._file.demux(self._stream), []
        self._over = False
        while (frame := self._step()) is not None:
            if frame.pts is None or frame.pts > pts:
                return None
            if frame.pts == pts:
                return frame
        return None


class CvReader(Reader):
    """OpenCV's pass through a file."""

    decoder = "OpenCV"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._capture = self._patient.call(cv2.VideoCapture, str(path))
        if not self._capture.isOpened():
            raise unreadable(path, "a file no decoder opens")

    def _step(self) -> Any | None:
        good, image = self._capture.read()
        return (image, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000) if good else None

    def picture(self, frame: Any) -> Rgb:
        return np.asarray(cv2.cvtColor(frame[0], cv2.COLOR_BGR2RGB), np.uint8)

    def size(self, frame: Any) -> tuple[int, int]:
        return int(frame[0].shape[1]), int(frame[0].shape[0])

    def seconds(self, frame: Any) -> float:
        return float(frame[1])

    def declared(self) -> tuple[int, float, float, float]:
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        frames = int(max(self._capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
        known = np.isfinite(rate) and rate > 0
        return frames, frames / rate if known else np.nan, rate if known else np.nan, 1e-3


def open_reader(path: Path) -> Reader:
    """PyAV's reader, or OpenCV's where PyAV is not installed or does not yield a first frame."""
    check_regular(path)
    reader: Reader
    try:
        from av.error import FFmpegError
    except ImportError:
        return CvReader(path)
    try:
        reader = AvReader(path)
        first = reader.step()
    except (FFmpegError, IndexError, ValueError):
        return CvReader(path)
    if first is None:
        reader.close()
        return CvReader(path)
    reader._ready.insert(0, first)
    return reader


def check_regular(path: Path) -> None:
    """Refuse what is no regular file: a pipe or a device would be waited for without end.

    Raises InputError `not_a_file`; `unreadable_video` for a file that is not there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        kinds = (
            (stat.S_ISFIFO, "a pipe"),
            (stat.S_ISDIR, "a folder"),
            (stat.S_ISSOCK, "a socket"),
        )
        got = next((word for test, word in kinds if test(mode)), "a device")
        raise InputError(path.name, expected="a video file", got=got, code="not_a_file")


def _av_open(path: Path) -> Any:
    import av

    return av.open(str(path), timeout=PATIENCE_S)


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that bring a frame upright; odd angles are left alone."""
    angle = float(getattr(frame, "rotation", 0) or 0)
    return round(angle / 90) % 4 if angle % 90 == 0 else 0


def unreadable(path: Path, got: str) -> InputError:
    """The error of a file that is no video."""
    return InputError(path.name, expected="a video file", got=got, code="unreadable_video")
