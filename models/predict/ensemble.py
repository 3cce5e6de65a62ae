"""Several runs look at one video: their curves on one axis, and the mean of them.

Each run sees the frames it was trained to see, so that two runs may have different axes. The first
run's is kept: the others' scores are interpolated between the frames of the video, their class
logits taken from the nearest one, their half-widths scaled by the frames' spacing. Runs count
alike, however many folds each has; decoding is the first run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.predict.findings import Curves, Reals
from models.spotting import frame_classes, smooth, threshold

CHALLENGE_CLASSES = 3  # negative, positive, surprise


@dataclass(frozen=True)
class Look:
    """One run's curves: score (T,), logits (T, 5), the video's frames (T,), half-width, strategy.

    The half-width `k_p` counts frames of this view.
    """

    score: Reals
    logits: npt.NDArray[Any]
    frames: npt.NDArray[np.int64]
    k_p: int
    strategy: int

    @property
    def spacing(self) -> float:
        """Frames of the video from one of the view to the next."""
        if len(self.frames) < 2:
            return 1.0
        return float(self.frames[-1] - self.frames[0]) / (len(self.frames) - 1) or 1.0


def combined(looks: Sequence[Look], p: float) -> tuple[Curves, int]:
    """The mean curves on the first look's frames and the median half-width there."""
    first = looks[0]
    scores, logits, widths = [], [], []
    for look in looks:
        if np.array_equal(look.frames, first.frames):
            scores.append(look.score)
            logits.append(look.logits)
        else:
            scores.append(np.interp(first.frames, look.frames, look.score))
            logits.append(look.logits[_nearest(look.frames, first.frames)])
        widths.append(look.k_p * look.spacing / first.spacing)
    score, mean = np.mean(scores, axis=0), np.mean(logits, axis=0)
    k_p = max(1, int(np.median(widths)))
    smoothed = smooth(score, k_p)
    classes = frame_classes(mean, first.strategy)
    three = np.asarray(mean[:, :CHALLENGE_CLASSES].argmax(-1), np.int64)
    return Curves(score, smoothed, classes, first.frames, threshold(smoothed, p), three), k_p


def _nearest(frames: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    right = np.clip(np.searchsorted(frames, wanted), 1, max(1, len(frames) - 1))
    right = np.minimum(right, len(frames) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - frames[left] <= frames[right] - wanted, left, right)
