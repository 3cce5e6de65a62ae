"""Frames of a video file by exact number, with their timestamps.

Frame n is the n-th frame that decodes from the file's beginning, whichever decoder reads it (see
`data.decoders`). Random access never trusts a decoder's own seeking by number (OpenCV's was wrong
for 16 of 20 frames of an HEVC film): it goes to a key frame by its timestamp and decodes on until
the wanted timestamp itself appears.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.decoders import Reader, Rgb, Timestamps, open_reader, unreadable
from data.errors import InputError

Times = npt.NDArray[np.float64]

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

    Raises InputError, code `unreadable_video`: no decoder opens it, it opens and yields no frame,
    or its decoder does not answer; `not_a_file` for a pipe, a device or a folder.
    """
    reader = open_reader(path)
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
        raise unreadable(path, "a file that opens but of which no frame decodes")
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
        self._reader: Reader | None = None
        self._next = 0
        self._table: Timestamps | None = None
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
        self._reader, self._next = open_reader(self._path), 0

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
