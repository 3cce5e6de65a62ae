"""Apex by optical flow: where a rise and a fall in time explain the face's motion best.

DIS flow is measured from the onset frame to every frame. What the whole face does together (an
affine motion fitted to each field: residual head motion) is taken off. What is left is compared
with courses in time that rise from the onset, hold, and fall to the offset. Courses are made
orthogonal to everything constant or linear in time, so that drift and the onset frame's own noise
have no say. The search has two passes:

    1. the course that facial action units follow with the most energy, projections of the flow on
       the shapes of `data.align.fitting`; the tenth of the pixels that move most along it is heard
    2. the course most likely for these: −log(1 − share of a pixel's motion that follows it), summed

In the second a pixel's noise is what it does beside the course. So a mouth that moves far but not
from this onset to this offset is outvoted by a brow that moves little and keeps to it. The apex is
the middle of the best course's hold.

Compared with the usual peak of the mean flow magnitude this uses the direction of motion and the
whole course, so noise in single frames hardly matters; measured in tests/benchmarks/bench_apex.py
and bench_real_faces.py.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from data.align.fitting import expressions
from data.apex.clip import Array, Clip, Spotted, every_frame, peak_ratio, smoothed

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

EYE_MARGIN = 0.10  # inter-pupil distances around the eyes left out, for blinks
STRONGEST = 0.10  # share of the pixels heard in the second pass
GRID = 64  # times tried for the start and the end of the hold
MAX_HOLD = 0.5  # of the event
LEAST_LEFT = 1e-6  # of a pixel's motion beside a course


def flow_peak(clip: Clip) -> Spotted:
    """The apex of a clip (m >= 4 crops). `curve`: motion along the found pattern, px of
    the reduced crops, the straight line to the last frame subtracted."""
    mask = face_mask(clip)
    fields = rigid_removed(onset_flow(clip.crops), mask)
    courses, centres = time_courses(tuple(clip.times.tolist()), clip.length, clip.margin)
    first = int(np.argmax(_energy(courses, _actions(clip, mask, fields))))
    pattern = np.tensordot(courses[first].astype(np.float32), fields, axes=1)
    strength = np.hypot(pattern[:, 0], pattern[:, 1])
    heard = strength >= np.quantile(strength, 1 - STRONGEST)
    drift = _drift(clip.times, clip.length)
    best = int(np.argmax(_likelihood(courses, drift, fields[:, heard])))
    apex = int(np.clip(np.rint(centres[best]), 0, clip.length - 1))
    along = np.tensordot(courses[best].astype(np.float32), fields[:, heard], axes=1)
    share = (clip.times / (clip.length - 1)).astype(np.float32)
    fields -= share[:, None, None] * fields[-1].copy()
    weight = max(float(np.hypot(*along.T).sum()), 1e-9)
    curve = np.tensordot(fields[:, heard], along, axes=2) / weight
    strongest = smoothed(_top_magnitude(fields), clip.times, clip.smooth)
    return Spotted(apex, peak_ratio(strongest), every_frame(curve.astype(np.float64), clip))


def onset_flow(crops: npt.NDArray[np.uint8]) -> F32:
    """DIS flow (m,S,S,2) px from the first crop to each; zero for the first."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    fields = np.zeros((*crops.shape, 2), np.float32)
    for i in range(1, len(crops)):
        fields[i] = dis.calc(crops[0], crops[i], None)
    return fields


def face_mask(clip: Clip) -> Mask:
    """Pixels (S,S) inside the hull of the landmarks, eyes left out."""
    size = clip.crops.shape[1]
    mask = np.zeros((size, size), np.uint8)
    points = np.round(clip.landmarks).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    eyes = np.zeros_like(mask)
    for eye in (slice(36, 42), slice(42, 48)):
        cv2.fillConvexPoly(eyes, cv2.convexHull(points[eye]), 1)
    reach = 2 * max(1, round(EYE_MARGIN * clip.ipd)) + 1
    eyes = cv2.dilate(eyes, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    mask[eyes > 0] = 0
    if mask.sum() < 100:  # landmarks outside the crop: listen everywhere
        mask[:] = 1
    return mask > 0


def rigid_removed(fields: F32, mask: Mask) -> F32:
    """Fields (m,S,S,2) inside the mask, (m,P,2), less each one's least-squares affine motion."""
    rows, columns = np.nonzero(mask)
    inside = fields[:, rows, columns].astype(np.float64)  # sums over all pixels of small values
    return _affine_removed(inside, mask).astype(np.float32)


def _affine_removed(fields: Array, mask: Mask) -> Array:
    """Fields (m,P,2) of the mask's pixels less each one's least-squares affine motion."""
    rows, columns = np.nonzero(mask)
    size = mask.shape[0]
    basis = np.stack([np.ones(len(rows)), columns / size - 0.5, rows / size - 0.5], axis=1)
    q = np.linalg.qr(basis)[0]
    common = np.einsum("pk,mpc->mkc", q, fields, optimize=True)
    return fields - np.einsum("pk,mkc->mpc", q, common, optimize=True)


def _actions(clip: Clip, mask: Mask, fields: F32) -> F32:
    """Projections (m,22) of the fields on each action unit's shape on either side, unit norm."""
    rows, columns = np.nonzero(mask)
    shapes = expressions(clip.landmarks, np.stack([columns, rows], axis=1).astype(np.float64))
    flat = _affine_removed(shapes.transpose(2, 1, 0), mask).reshape(shapes.shape[-1], -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return np.asarray(fields.reshape(len(fields), -1) @ flat.T.astype(np.float32))


@functools.lru_cache(maxsize=256)
def time_courses(times: tuple[float, ...], length: int, margin: float) -> tuple[Array, Array]:
    """Courses (n,m) of unit energy without constant and slope, and their centres (n,) in frames.

    A course rises like half a cosine from 0 to the hold, and falls after it to the last frame.
    """
    t, last = np.array(times), length - 1
    low, high = max(margin * last, 0.5), min((1 - margin) * last, last - 0.5)
    grid = np.linspace(low, high, min(GRID, 2 * round(high - low) + 1))
    start, end = (g.ravel() for g in np.meshgrid(grid, grid, indexing="ij"))
    fits = (end >= start) & (end - start <= MAX_HOLD * last)
    start, end = start[fits], end[fits]
    rise = np.clip(t / start[:, None], 0, 1)
    fall = np.clip((t - end[:, None]) / (last - end[:, None]), 0, 1)
    courses = (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 + 0.5 * np.cos(np.pi * fall))
    drift = _drift(t, length)
    courses -= (courses @ drift) @ drift.T
    norm = np.linalg.norm(courses, axis=1)
    seen = norm > 1e-6
    return courses[seen] / norm[seen, None], (start + end)[seen] / 2


def _energy(courses: Array, fields: F32) -> Array:
    """Energy of the motion that follows each course: (n,)."""
    flat = fields.reshape(len(fields), -1)
    gram = (flat @ flat.T).astype(np.float64)
    return np.einsum("nm,nm->n", courses @ gram, courses)


def _drift(times: Array, length: int) -> Array:
    """Orthonormal (m,2): what is constant and what is linear in time."""
    return np.asarray(np.linalg.qr(np.stack([np.ones_like(times), times / (length - 1)], 1))[0])


def _likelihood(courses: Array, drift: Array, fields: F32) -> Array:
    """How well each course explains each pixel's motion, summed over the pixels: (n,)."""
    flat = fields.reshape(len(fields), -1)
    flat = flat - (drift @ (drift.T @ flat)).astype(np.float32)
    whole = (flat**2).reshape(len(flat), -1, 2).sum(axis=(0, 2))
    along = (courses.astype(np.float32) @ flat) ** 2
    share = along.reshape(len(courses), -1, 2).sum(axis=2) / np.maximum(whole, 1e-9)
    return np.asarray(-np.log(np.maximum(1 - share, LEAST_LEFT)).sum(axis=1))


def _top_magnitude(fields: F32) -> Array:
    """Mean magnitude (m,) of each field's largest tenth."""
    size = np.hypot(fields[..., 0], fields[..., 1])
    keep = max(1, round(STRONGEST * size.shape[1]))
    top = np.partition(size, size.shape[1] - keep, axis=1)[:, -keep:]
    return top.mean(axis=1).astype(np.float64)
