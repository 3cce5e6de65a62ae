"""ME-TST's time base: which frame of a video each of its positions shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.motion.settings import MotionConfig

MAX_FILL = 4  # numbering that would need more than this many frames per file is no numbering

Index = npt.NDArray[np.int32]


def view_of(
    frames: int, numbers: list[int] | None, config: MotionConfig, who: str = "view"
) -> Index:
    """Frame index (T',) int32 that each position of ME-TST's time base shows.

    With `numbers` (the files' own, increasing) position p stands for file number p + 1 and shows
    the first image numbered p + 1 or more; a file numbered 0 is left out. Without them positions
    are frames. Then every `frame_skip`-th is kept. Raises InputError `bad_numbering` when the
    numbers do not increase or would need more than four positions per file.
    """
    base = np.arange(frames, dtype=np.int32)
    if numbers is not None:
        known = np.asarray(numbers, np.int64)
        if len(known) != frames or (np.diff(known) <= 0).any() or known[:1].min(initial=0) < 0:
            raise InputError(
                who, expected="increasing file numbers", got=str(numbers[:5]), code="bad_numbering"
            )
        if known.size and known[-1] > MAX_FILL * frames:
            raise InputError(
                who,
                expected=f"file numbers up to {MAX_FILL * frames} for {frames} files",
                got=str(int(known[-1])),
                todo="Use gaps: list.",
                code="bad_numbering",
            )
        last = int(known[-1]) if known.size else 0
        base = np.searchsorted(known, np.arange(1, last + 1)).astype(np.int32)
    return base[:: config.frame_skip]


def position_in_view(view: Index, frame: int) -> int:
    """Position of a video frame in the view: the last one showing it or an earlier frame."""
    return int(np.searchsorted(view, frame, side="right")) - 1
