"""A recording of one's own: a video file or a folder of frames, with what it says of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameSource
from data.video_file import VideoFacts, examine_video, seconds_of


@dataclass(frozen=True)
class OwnVideo:
    """Frames of a recording; `files` are a folder's images in order, empty for a video file.

    `fps`: what the caller stated, else what the file's timestamps say, None for a folder of which
    nothing was stated. `seconds` (T,) of each frame, NaN where that is so.
    """

    path: Path
    source: FrameSource
    files: tuple[Path, ...]
    fps: float | None
    seconds: npt.NDArray[np.float64]
    facts: VideoFacts | None

    @property
    def variable(self) -> bool:
        """Whether its frames are not evenly spaced in time, and `seconds` says how."""
        steps = np.diff(self.seconds)
        return bool(self.facts and self.facts.variable) and not np.allclose(steps, steps[0])


def open_own(path: Path, fps: float | None = None) -> OwnVideo:
    """Open a video file or a folder of images, these in natural order of their names.

    A stated `fps` that contradicts the file's timestamps is believed (see `seconds_of`). Raises
    InputError for anything else: `empty_folder`, `not_a_video`, `unreadable_video`.
    """
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise InputError(
                str(path),
                expected=f"images {', '.join(IMAGE_SUFFIXES)}",
                got="none",
                code="empty_folder",
            )
        seconds = seconds_of(np.full(len(files), np.nan), fps)
        return OwnVideo(path, FrameSource(files), tuple(files), fps, seconds, None)
    one_image = path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    if one_image or not path.exists():
        raise InputError(
            str(path),
            expected=f"a video ({', '.join(VIDEO_SUFFIXES)}) or a folder of frames",
            got="one image" if one_image else "neither",
            code="not_a_video",
        )
    facts = examine_video(path)
    known = fps or (float(facts.rate) if np.isfinite(facts.rate) else None)
    source = FrameSource(path, facts.num_frames)
    return OwnVideo(path, source, (), known, seconds_of(facts.times, known), facts)


def image_files(folder: Path) -> list[Path]:
    """A folder's images in natural order of their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
