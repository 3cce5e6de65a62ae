"""Apex by optical flow: where a rise and a fall in time explain the face's motion best.

DIS flow is measured from the onset frame to every frame. What the whole face does together (an
affine motion fitted to each field: residual head motion) is taken off. What is left is compared
with courses in time that rise from the onset, hold, and fall to the offset: for each course the
energy of the motion that follows it. Courses are made orthogonal to everything constant or linear
in time, so that drift and the onset frame's own noise have no say. A second pass listens only to
the tenth of the pixels that move most. The apex is the middle of the best course's hold.

Compared with the usual peak of the mean flow magnitude this uses the direction of motion and the
whole course, so noise in single frames hardly matters; measured in tests/benchmarks/bench_apex.py.
Only the time axis is searched: the Gram matrix of the fields, (m,m), holds all that is needed.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from data.apex.clip import Array, Clip, Spotted, every_frame, peak_ratio, smoothed

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

EYE_MARGIN = 0.10  # inter-pupil distances around the eyes left out, for blinks
STRONGEST = 0.10  # share of the pixels heard in the second pass
GRID = 64  # times tried for the start and the end of the hold
MAX_HOLD = 0.5  # of the event


def flow_peak(clip: Clip) -> Spotted:
    """The apex of a clip (m >= 4 crops). `curve`: motion along the found pattern, px of
    the reduced crops, the straight line to the last frame subtracted."""
    mask = face_mask(clip)
    fields = rigid_removed(onset_flow(clip.crops), mask)
    courses, centres = time_courses(tuple(clip.times.tolist()), clip.length, clip.margin)
    pattern = _pattern(courses, fields)
    strength = np.hypot(pattern[:, 0], pattern[:, 1])
    heard = strength >= np.quantile(strength, 1 - STRONGEST)
    best = int(np.argmax(_energy(courses, fields[:, heard])))
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
    size = mask.shape[0]
    basis = np.stack([np.ones(len(rows)), columns / size - 0.5, rows / size - 0.5], axis=1)
    q = np.linalg.qr(basis)[0]
    inside = fields[:, rows, columns].astype(np.float64)  # sums over all pixels of small values
    common = np.einsum("pk,mpc->mkc", q, inside, optimize=True)
    inside -= np.einsum("pk,mkc->mpc", q, common, optimize=True)
    return inside.astype(np.float32)


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
    drift = np.linalg.qr(np.stack([np.ones_like(t), t / last], axis=1))[0]
    courses -= (courses @ drift) @ drift.T
    norm = np.linalg.norm(courses, axis=1)
    seen = norm > 1e-6
    return courses[seen] / norm[seen, None], (start + end)[seen] / 2


def _energy(courses: Array, fields: F32) -> Array:
    """Energy of the motion that follows each course: (n,)."""
    flat = fields.reshape(len(fields), -1)
    gram = (flat @ flat.T).astype(np.float64)
    return np.einsum("nm,nm->n", courses @ gram, courses)


def _pattern(courses: Array, fields: F32) -> F32:
    """Displacement (P,2) of every pixel along the course that explains most."""
    best = courses[int(np.argmax(_energy(courses, fields)))]
    pattern: F32 = np.tensordot(best.astype(np.float32), fields, axes=1)
    return pattern


def _top_magnitude(fields: F32) -> Array:
    """Mean magnitude (m,) of each field's largest tenth."""
    size = np.hypot(fields[..., 0], fields[..., 1])
    keep = max(1, round(STRONGEST * size.shape[1]))
    top = np.partition(size, size.shape[1] - keep, axis=1)[:, -keep:]
    return top.mean(axis=1).astype(np.float64)
