"""Where a recording is quiet: the face seen, the eyes open, little motion.

The recording is looked at every `LOOK_S` seconds. Motion is how far the landmarks move from one
look to the next, in inter-pupil distances (IPD) per second: head and expression alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.faces import EYES, Array, FaceFinder, Grey, interpupil, pose_problem
from data.frames import FrameSource

LOOK_S = 0.2
SHUT = 0.7  # of the usual opening: below it the eyes are closing
INNER = slice(17, 68)  # the jaw's points are the least certain
SMOOTH_S = 0.08  # sd of the landmarks' smoothing in time; they jitter by half a pixel


@dataclass(frozen=True)
class Looks:
    """What was seen at frames `index` (n,): `motion` (n,) IPD/s since the look before, `ipd` (n,).

    NaN where no usable face was seen (or none at the look before).
    """

    index: npt.NDArray[np.intp]
    motion: Array
    ipd: Array


def look_over(
    source: FrameSource,
    seconds: Array,
    finder: FaceFinder,
    progress: Callable[[int, int], None] | None = None,
) -> Looks:
    """Look at a recording from end to end. `seconds` (T,) of its frames."""
    index = _every(seconds, LOOK_S)
    points = np.full((len(index), 68, 2), np.nan)
    for n, (_, image) in enumerate(source.iter(index.tolist())):
        if image is not None and (found := _face(image, finder, steady=False)) is not None:
            points[n] = found
        if progress is not None:
            progress(n + 1, len(index))
    ipd = np.array([interpupil(p) for p in points])
    opening = np.array([_opening(p) for p in points]) / ipd
    open_eyes = opening >= SHUT * np.nanmedian(opening) if np.isfinite(opening).any() else opening
    steps = np.diff(points[:, INNER], axis=0)
    moved = np.sqrt((steps**2).sum(axis=2).mean(axis=1)) / ipd[1:] / np.diff(seconds[index])
    motion = np.concatenate([[np.nan], moved])
    motion[~open_eyes.astype(bool)] = np.nan
    return Looks(index, motion, ipd)


def _every(seconds: Array, step: float) -> npt.NDArray[np.intp]:
    """Frames at least `step` seconds apart."""
    picked, last = [], -np.inf
    for i, now in enumerate(seconds):
        if now - last >= step - 1e-6:
            picked.append(i)
            last = float(now)
    return np.array(picked, np.intp)


def quiet_stretches(
    looks: Looks, seconds: Array, length_s: float, gap_s: float, count: int
) -> list[tuple[int, int, float]]:
    """The `count` quietest stretches (first frame, last frame, motion IPD/s), by time.

    Each is `length_s` long and at least `gap_s` from its neighbours and the ends; its motion is
    the largest between looks that touch it. Fewer where the recording has no more.
    """
    at = seconds[looks.index]
    candidates = []
    for start in range(len(at)):
        begin = at[start]
        end = begin + length_s
        if begin < seconds[0] + gap_s or end > seconds[-1] - gap_s:
            continue
        inside = (at >= begin - LOOK_S) & (at <= end + LOOK_S)
        motion = looks.motion[inside]
        if len(motion) and np.isfinite(motion).all():
            candidates.append((float(motion.max()), float(begin), float(end)))
    chosen: list[tuple[float, float, float]] = []
    for candidate in sorted(candidates):
        if len(chosen) < count and all(
            candidate[1] >= other[2] + gap_s or candidate[2] <= other[1] - gap_s for other in chosen
        ):
            chosen.append(candidate)
    ends = []
    for motion_of, begin, end in sorted(chosen, key=lambda c: c[1]):
        first = int(np.searchsorted(seconds, begin - 1e-9))
        ends.append((first, int(np.searchsorted(seconds, end + 1e-9) - 1), motion_of))
    return ends


def landmarks_over(
    source: FrameSource, first: int, last: int, seconds: Array, finder: FaceFinder
) -> Array:
    """(n, 68, 2) px on frames `first` .. `last`, smoothed in time against the jitter.

    A frame whose face is not found takes its neighbours'. InputError `no_face` where none is.
    """
    found: list[Array | None] = []
    for _, image in source.iter(range(first, last + 1)):
        found.append(None if image is None else _face(image, finder, steady=True))
    known = np.array([n for n, points in enumerate(found) if points is not None])
    if not len(known):
        raise InputError(
            f"frames {first}..{last}", expected="a frontal face", got="none", code="no_face"
        )
    points = np.stack([p for p in found if p is not None])
    flat = points.reshape(len(known), -1)
    full = np.stack([np.interp(np.arange(len(found)), known, column) for column in flat.T], axis=1)
    now = seconds[first : last + 1]
    weight = np.exp(-0.5 * ((now[:, None] - now[None, :]) / SMOOTH_S) ** 2)
    return np.asarray((weight / weight.sum(axis=1, keepdims=True)) @ full).reshape(-1, 68, 2)


def _face(image: Grey, finder: FaceFinder, *, steady: bool) -> Array | None:
    seen = finder.look(image)
    if seen is None:
        return None
    picture, face = seen
    find = finder.steady_landmarks if steady else finder.landmarks
    points = find(np.ascontiguousarray(picture), face.box)
    return None if pose_problem(points, face.score) else points


def _opening(points: Array) -> float:
    """How far the eyes are open, px: polygon area over width, mean of both."""
    if not np.isfinite(points).all():
        return np.nan
    found = []
    for eye in EYES:
        outline = points[eye].astype(np.float32)
        found.append(cv2.contourArea(outline) / max(float(np.ptp(outline[:, 0])), 1.0))
    return float(np.mean(found))
