"""Frames of a video file by exact number, with their timestamps, through PyAV or else OpenCV.

Frame n is the n-th frame that decodes from the file's beginning, whichever decoder reads it: both
are FFmpeg's, and their RGB frames are the same to the bit. Random access never trusts a decoder's
own seeking by number (OpenCV's was wrong for 16 of 20 frames of an HEVC film from a phone): it goes
to a key frame by its timestamp and decodes on until the wanted timestamp itself appears. A phone's
rotation flag is applied. TorchCodec was not taken: it is as exact, but needs an FFmpeg installed
beside it and a build that matches torch's.

A decoder that stays silent for `PATIENCE_S` seconds is given up, and nothing that is no regular
file is opened at all.
"""

from __future__ import annotations

import queue
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError

Rgb = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]

PATIENCE_S = 60.0
GUESSING = ("mpeg", "mpegts")  # containers without a duration: FFmpeg divides bytes by a bit rate
FAR = 8  # a jump of fewer frames is decoded through rather than looked up
RATE_DIFFERS = 0.01  # share by which two frame rates may part and still be one
GAP_DIFFERS = 0.10  # share of the usual gap between frames by which one may part from it


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a video file once has shown.

    `times` (T,) seconds of each frame after the first one's, NaN where the container has none;
    `size` (width, height) as seen, the rotation applied; `declared` frames the container promises,
    0 for none; `duration` seconds it declares, NaN for none; `rate` frames per second, from the
    timestamps, else declared, else NaN; `variable` how many gaps between frames are not the usual
    one; `problems` (reason, detail) of what contradicts itself.
    """

    num_frames: int
    size: tuple[int, int]
    times: Times
    rate: float
    declared: int
    duration: float
    variable: int
    decoder: str
    problems: list[tuple[str, str]] = field(default_factory=list)


def examine_video(path: Path) -> VideoFacts:
    """Decode a file once, from end to end, without keeping a picture.

    Raises InputError, code `unreadable_video`: no regular file, no decoder opens it, it opens and
    yields no frame, or its decoder does not answer.
    """
    reader = _open(path)
    try:
        seen: list[float] = []
        size = (0, 0)
        while (frame := reader.step()) is not None:
            if not seen:
                size = reader.size(frame)
            seen.append(reader.seconds(frame))
        declared, duration, rate, tick = reader.declared()
        name = reader.decoder
    finally:
        reader.close()
    if not seen:
        raise _unreadable(path, "a file that opens and yields no frame")
    times = np.asarray(seen, np.float64) - seen[0]
    return _facts(path, times, size, declared, duration, rate, tick, name)


def _facts(
    path: Path,
    times: Times,
    size: tuple[int, int],
    declared: int,
    duration: float,
    rate: float,
    tick: float,
    decoder: str,
) -> VideoFacts:
    """The facts with their contradictions; `tick` is the clock's step in seconds."""
    count, problems = len(times), []
    if declared > count:
        problems.append(("truncated_video", f"{path.name}: {count} of {declared} frames decode"))
    gaps = np.diff(times)
    if np.isnan(times).any() or (gaps <= 0).any():
        if not np.isnan(times).all():
            wrong = int(np.isnan(times).sum() + (gaps <= 0).sum())
            problems.append(("timestamps_wrong", f"{path.name}: {wrong} missing or not increasing"))
        return VideoFacts(
            count, size, np.full(count, np.nan), rate, declared, duration, 0, decoder, problems
        )
    usual = float(np.median(gaps)) if count > 1 else np.nan
    off = np.abs(gaps - usual) > GAP_DIFFERS * usual + 2 * tick
    if count > 1:
        rate = (count - 1) / float(times[-1])
        lasts = float(times[-1]) + usual
        if not declared > count and abs(duration - lasts) > max(0.02 * lasts, 2.5 * usual):
            said = f"{path.name}: declares {duration:.2f} s, its frames fill {lasts:.2f} s"
            problems.append(("duration_differs", said))
    if off.any():
        problems.append(
            (
                "variable_frame_rate",
                f"{path.name}: {int(off.sum())} of {len(gaps)} gaps are not the usual "
                f"{1000 * usual:.1f} ms ({1000 * gaps.min():.1f} to {1000 * gaps.max():.1f} ms)",
            )
        )
    return VideoFacts(
        count, size, times, rate, declared, duration, int(off.sum()), decoder, problems
    )


def rate_differs(facts: VideoFacts, fps: float) -> str:
    """What to say where a sheet's frame rate contradicts the file's own; "" where it does not."""
    if not np.isfinite(facts.rate) or abs(facts.rate - fps) <= RATE_DIFFERS * fps:
        return ""
    return f"the sheet says {fps:g} frames/s, the file {facts.rate:.4g}: the sheet's is used"


def seconds_of(times: npt.ArrayLike, fps: float | None) -> Times:
    """(T,) seconds of every frame: the timestamps where they tell more than index / fps does.

    `times` may be NaN. A recording whose stated rate contradicts its timestamps (a 200 frames/s
    film stored to be played at 25) keeps the stated rate. NaN where neither is known.
    """
    known = np.asarray(times, np.float64)
    index = np.arange(len(known), dtype=np.float64)
    if not len(known) or np.isnan(known).any():
        return index / fps if fps else np.full(len(known), np.nan)
    if fps and len(known) > 1:
        rate = (len(known) - 1) / max(float(known[-1] - known[0]), 1e-9)
        if abs(rate - fps) > RATE_DIFFERS * fps:
            return np.asarray(index / fps)
    return known


class VideoFile:
    """Random and sequential access to a file's frames; RGB uint8 (H, W, 3), rotation applied."""

    def __init__(self, path: Path, num_frames: int) -> None:
        self._path, self._length = path, num_frames
        self._reader: _Reader | None = None
        self._next = 0
        self._table: _Table | None = None
        self._looked = False
        self._last: tuple[int, Rgb] | None = None

    def read(self, index: int) -> Rgb:
        """Frame `index`; InputError `unreadable_frame` where the stream ends before it."""
        if self._last is None or self._last[0] != index:  # one asked twice is not gone back for
            self._last = (index, self._read(index))
        return self._last[1]

    def _read(self, index: int) -> Rgb:
        if self._reader is None:
            self._start()
        assert self._reader is not None
        frame = self._jump(index)
        while frame is None:
            frame = self._reader.step()
            if frame is None:
                ends = self._next
                self._start()
                raise InputError(
                    f"{self._path.name}, frame {index}",
                    expected=f"{self._length} decodable frames",
                    got=f"the stream ends at {ends}",
                    code="unreadable_frame",
                )
            self._next += 1
            if self._next <= index:
                frame = None
        return self._reader.picture(frame)

    def _start(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader, self._next = _open(self._path), 0

    def _jump(self, index: int) -> Any | None:
        """The frame itself where a key frame saves the way to it; else None, at or before it."""
        assert self._reader is not None
        if 0 <= index - self._next < FAR:
            return None
        if not self._looked:
            self._looked = True
            self._table = self._reader.table(self._length)
        key = -1 if self._table is None else self._table.key_before(index)
        if self._table is not None and key > 0 and (index < self._next or key > self._next):
            frame = self._reader.seek(self._table.dts[key], int(self._table.pts[index]))
            if frame is not None:
                self._next = index + 1
                return frame
            self._table = None  # its timestamps are not the frames': from the beginning, always
            self._start()
        elif index < self._next:
            self._start()
        return None


@dataclass(frozen=True)
class _Table:
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


class _Reader:
    """One pass through a file: frames as the decoder's own objects, in the order of showing."""

    decoder = ""

    def __init__(self, path: Path) -> None:
        self._path, self._patient = path, _Patient(path.name)

    def step(self) -> Any | None:
        """The next frame, or None at the end."""
        return self._patient.call(self._step)

    def close(self) -> None:
        self._patient.close()

    def __del__(self) -> None:
        self._patient.close()

    def _step(self) -> Any | None:
        raise NotImplementedError

    def picture(self, frame: Any) -> Rgb:
        raise NotImplementedError

    def size(self, frame: Any) -> tuple[int, int]:
        raise NotImplementedError

    def seconds(self, frame: Any) -> float:
        raise NotImplementedError

    def declared(self) -> tuple[int, float, float, float]:
        """Frames, seconds, frames per second that the container declares; its clock's step."""
        raise NotImplementedError

    def table(self, num_frames: int) -> _Table | None:
        """Timestamps of all frames, None where frames cannot be told by them."""
        return None

    def seek(self, dts: int, pts: int) -> Any | None:
        """The frame of that timestamp, decoded from a key frame on; None where it never comes."""
        return None


class _AvReader(_Reader):
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

    def table(self, num_frames: int) -> _Table | None:
        return self._patient.call(self._table, num_frames)

    def _table(self, num_frames: int) -> _Table | None:
        from av.error import FFmpegError

        rows = []
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
        return _Table(pts, dts, np.flatnonzero([bool(row[2]) for row in rows]))

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


class _CvReader(_Reader):
    decoder = "OpenCV"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._capture = self._patient.call(cv2.VideoCapture, str(path))
        if not self._capture.isOpened():
            raise _unreadable(path, "a file no decoder opens")

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


def _open(path: Path) -> _Reader:
    """PyAV's reader, or OpenCV's where PyAV is not installed or does not yield a first frame."""
    check_regular(path)
    reader: _Reader
    try:
        from av.error import FFmpegError
    except ImportError:
        return _CvReader(path)
    try:
        reader = _AvReader(path)
        first = reader.step()
    except (FFmpegError, IndexError, ValueError):
        return _CvReader(path)
    if first is None:
        reader.close()
        return _CvReader(path)
    reader._ready.insert(0, first)
    return reader


def check_regular(path: Path) -> None:
    """Refuse what is no regular file: a pipe or a device would be waited for without end.

    Raises InputError `unreadable_video`.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        kinds = (
            (stat.S_ISFIFO, "a pipe"),
            (stat.S_ISDIR, "a folder"),
            (stat.S_ISSOCK, "a socket"),
        )
        raise _unreadable(path, next((word for test, word in kinds if test(mode)), "a device"))


def _av_open(path: Path) -> Any:
    import av

    return av.open(str(path), timeout=PATIENCE_S)


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that bring a frame upright; odd angles are left alone."""
    angle = float(getattr(frame, "rotation", 0) or 0)
    return round(angle / 90) % 4 if angle % 90 == 0 else 0


def _unreadable(path: Path, got: str) -> InputError:
    return InputError(path.name, expected="a video file", got=got, code="unreadable_video")
