"""What every method of finding an apex sees and gives, and what they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """What a method sees of an event of `length` frames.

    `crops` (m,S,S) uint8 at `times` (m,) frames after the onset, the first at 0; `landmarks`
    (68,2) crop px; `smooth` frames of the moving average; `margin` share of the event at either
    end in which no apex is looked for.
    """

    crops: Grey
    times: Array
    length: int
    landmarks: Array
    smooth: int
    margin: float

    @property
    def ipd(self) -> float:
        """Distance between the eyes' centres, px."""
        left, right = self.landmarks[36:42].mean(axis=0), self.landmarks[42:48].mean(axis=0)
        return float(np.hypot(*(right - left)))

    @property
    def limits(self) -> tuple[float, float]:
        """First and last time an apex may have."""
        last = self.length - 1
        return self.margin * last, (1 - self.margin) * last


@dataclass(frozen=True)
class Spotted:
    """`apex` frames after the onset; `confidence` 1 = nothing stands out; `curve` (length,)."""

    apex: int
    confidence: float
    curve: npt.NDArray[np.float32]


def smoothed(values: Array, times: Array, width: float) -> Array:
    """Mean over `width` frames around each time, of values (m,) at times (m,)."""
    near = np.abs(times[:, None] - times[None, :]) <= max(width - 1, 0) / 2
    return (near @ values) / near.sum(axis=1)


def every_frame(values: Array, clip: Clip) -> npt.NDArray[np.float32]:
    """Values at the clip's times as a curve of all its frames, linear in between."""
    return np.interp(np.arange(clip.length), clip.times, values).astype(np.float32)


def peak_ratio(values: Array) -> float:
    """Peak over median of a curve that is nowhere negative; 1 when nothing stands out."""
    return float(values.max() / max(float(np.median(values)), 1e-6))
