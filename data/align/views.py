"""From one reference of a video to another: carried crops, poses between any two frames.

A reference that was registered to an earlier one (its parent, pose `link`) is a step of a chain.
Points go down the chain by `place` and up by `unplace`, so that any frame of the chain can be
brought onto any other's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data.align.fitting import AFFINE_SD, ANGLE_SD, pose_columns
from data.align.geometry import (
    Geometry,
    frame_to_crop,
    head_depth,
    hull_points,
    place,
    unplace,
)

Array = npt.NDArray[np.float64]

FIRM = 1e-3  # how well a mapped point is known, inter-pupil distances: against the poses' priors


def carried_on(geometry: Geometry, pose: Array) -> Geometry:
    """The geometry of the frame of `pose` as a reference of its own, with the same crop."""
    landmarks = place(geometry, pose, geometry.landmarks)
    old = geometry.depth
    depth = head_depth(landmarks, old.slope + pose[4:6], old.added)
    ipd = geometry.ipd * float(np.hypot(pose[0], pose[1]))
    to_crop = frame_to_crop(geometry, pose)
    return Geometry(landmarks, ipd, geometry.size, to_crop, depth, (geometry, pose), carries=True)


def chain_of(geometry: Geometry) -> list[Geometry]:
    """The geometry and those it was registered to, one after the other."""
    chain = [geometry]
    while chain[-1].before is not None:
        chain.append(chain[-1].before[0])
    return chain


def between(source: Geometry, target: Geometry, points: Array) -> Array | None:
    """Points (...,2) px of one reference frame in another's; None where no chain joins them.

    Geometries are one where their landmarks are the same object.
    """
    up, down = chain_of(source), chain_of(target)
    shared = {id(g.landmarks): n for n, g in enumerate(down)}
    meeting = next((n for n, g in enumerate(up) if id(g.landmarks) in shared), None)
    if meeting is None:
        return None
    for step in up[:meeting]:
        assert step.before is not None
        points = unplace(*step.before, points)
    for step in reversed(down[: shared[id(up[meeting].landmarks)]]):
        assert step.before is not None
        points = place(*step.before, points)
    return points


def pose_of_map(geometry: Geometry, source: Array, target: Array) -> Array:
    """The pose (8,) that takes reference points (N,2) nearest to where they lie in a frame."""
    columns = pose_columns(geometry, source)
    design = np.concatenate(list(columns))
    move = ((target - source) / geometry.ipd).T.ravel()
    prior = np.array([0.0] * 4 + [(FIRM / ANGLE_SD) ** 2] * 2 + [(FIRM / AFFINE_SD) ** 2] * 2)
    found = np.linalg.solve(design.T @ design + np.diag(prior), design.T @ move)
    pose = found * np.array([1, 1, geometry.ipd, geometry.ipd, 1, 1, 1, 1])
    pose[0] += 1
    return np.asarray(pose)


class Viewpoint:
    """One reference, asked again and again for poses of frames that are known against another.

    Its points are carried to where they were asked for last, and from there one step on when the
    other reference is a new one: a long chain is not walked for every question.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._points = hull_points(geometry.landmarks, step=max(1, round(geometry.ipd / 4)))
        self._earlier = {id(g.landmarks) for g in chain_of(geometry)}
        self._last: tuple[Geometry, Array | None] = geometry, self._points

    def nearest_pose(self, geometry: Geometry, other: Geometry, pose: Array) -> Array | None:
        """The pose against this reference of a frame of `pose` against `other`; None if unjoined.

        `geometry` is this reference's own, with the depth known by now.
        """
        there = self._carried(other)
        if there is None:
            return None
        return pose_of_map(geometry, self._points, place(other, pose, there))

    def _carried(self, other: Geometry) -> Array | None:
        """This reference's points in the frame of another, px."""
        last, points = self._last
        if last.landmarks is not other.landmarks:
            before = other.before
            next_to_last = before is not None and before[0].landmarks is last.landmarks
            if points is not None and next_to_last and id(other.landmarks) not in self._earlier:
                assert before is not None
                points = place(*before, points)
            else:
                points = between(self._geometry, other, self._points)
            self._last = other, points
        return points


def crops_apart(one: Geometry, pose: Array, other: Geometry, other_pose: Array) -> float:
    """How far apart two references put the crop's inner part in a frame, RMS, IPD."""
    size = one.size
    inner = slice(size // 6, size - size // 6, max(1, size // 16))
    there = [place(g, p, g.crop_grid[inner, inner]) for g, p in ((one, pose), (other, other_pose))]
    return float(np.sqrt(((there[0] - there[1]) ** 2).sum(axis=-1).mean())) / one.ipd
