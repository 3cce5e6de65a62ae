"""What `predict` finds in a video, as types and as words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SpottedInterval:
    """One interval in the video's own frames; `score` is the smoothed score at its peak.

    `challenge_emotion`: the vote among negative, positive and surprise, the challenge's classes.
    """

    start: int
    end: int
    peak: int
    emotion: str
    score: float
    hsta: str | None = None
    hsta_probability: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    peak_s: float | None = None
    challenge_emotion: str = ""


@dataclass(frozen=True)
class Prediction:
    """What was found in a video, and where it was written."""

    video: str
    folds: tuple[str, ...]
    num_frames: int
    fps: float | None
    frame_skip: int
    k_p: int
    view_fps: float | None
    windows_without_face: int
    num_windows: int
    unreadable_frames: int
    intervals: tuple[SpottedInterval, ...]
    trained_on: str = "unknown"  # synthetic | people | both | unknown
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)

    def to_text(self) -> str:
        """A line per interval, for a terminal."""
        lines = [f"{self.video}: {self.num_frames} frames, {len(self.intervals)} intervals"]
        lines += [f"  note: {note}" for note in self.notes]
        for one in self.intervals:
            when = "" if one.start_s is None else f"  {one.start_s:.2f}–{one.end_s:.2f} s"
            named = f"  HSTA: {one.hsta} {one.hsta_probability:.2f}" if one.hsta else ""
            lines.append(
                f"  frames {one.start}–{one.end}{when}  {one.emotion}  score {one.score:.2f}{named}"
            )
        if self.windows_without_face:
            lines.append(
                f"  no face in {self.windows_without_face} of {self.num_windows} windows: "
                "nothing can be found there"
            )
        if self.unreadable_frames:
            lines.append(
                f"  {self.unreadable_frames} frames cannot be read: the motion before is held"
            )
        return "\n".join([*lines, *(f"  wrote {name}" for name in self.files)])


@dataclass(frozen=True)
class Curves:
    """Per view frame: raw and smoothed score (T,), class id (T,), and the video's frame (T,).

    `three`: class id among the first three only.
    """

    score: Reals
    smoothed: Reals
    classes: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    threshold: float
    three: npt.NDArray[np.int64]
