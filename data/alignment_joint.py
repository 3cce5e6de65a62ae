"""Head poses of many frames at once: what moves rigidly, and how deep this head is.

A frame alone cannot tell a cheek that is raised from a head that nods. A run of frames can: a
point that keeps with the head in all of them is trusted, one that leaves it in some is trusted in
none; and what yaw and pitch leave behind, always at the same places, is the head's own depth. Both
are found by alternating least squares over the tracked points of a block of frames, starting from
the poses found frame by frame:

    moved(t, p) − c = S(t) (X(p) − c) + (tx, ty) + ipd · h(p) · (yaw, pitch)
    h(p) = prior(p) + terms(p) · w

weighted by bisquare in (t, p) and by each point's loyalty over the block. w has a Gaussian prior
and keeps its evidence from block to block of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from data.alignment import Depth, Geometry, centred

Array = npt.NDArray[np.float64]

ROUNDS = 6
CUT = 3.5  # bisquare's end, in median errors
LOYALTY = 2.0  # RMS error, in median ones, at which a point counts half
POINT_SD = 0.10  # error of a good point, px at inter-pupil distance 115
ANGLE_SD = 0.05  # prior of yaw and pitch, rad
DEPTH_SD = 0.15  # prior of the depth's coefficients, inter-pupil distances
MIN_FRAMES = 8


@dataclass
class DepthEvidence:
    """Normal equations of the depth's coefficients, summed over a segment's blocks."""

    matrix: Array = field(default_factory=lambda: np.zeros((6, 6)))
    values: Array = field(default_factory=lambda: np.zeros(6))


@dataclass(frozen=True)
class Joint:
    """Result for a block: `poses` (T,6); `errors` (T,N) px; `geometry` with the new depth."""

    poses: Array
    errors: Array
    geometry: Geometry


def refine(
    geometry: Geometry,
    points: Array,
    moved: Array,
    poses: Array,
    evidence: DepthEvidence,
    *,
    parallax: bool = True,
) -> Joint:
    """Fit a block of tracked frames together and add its evidence about the depth.

    `points` (N,2) reference px, `moved` (T,N,2) px in the frames, `poses` (T,6) to start from.
    """
    model = _Block(geometry, points, moved, poses, parallax)
    weight = matrix = values = None
    for turn in range(ROUNDS):
        weight = model.weigh(first=turn == 0)
        model.fit_poses(weight)
        if parallax and turn > 0 and len(poses) >= MIN_FRAMES:
            matrix, values = model.depth_evidence(weight)
            prior = np.eye(6) / DEPTH_SD**2
            model.added = np.asarray(
                np.linalg.solve(evidence.matrix + matrix + prior, evidence.values + values)
            )
    if matrix is not None and values is not None:
        evidence.matrix += matrix
        evidence.values += values
    depth = centred(replace(geometry.depth, added=model.added), geometry.landmarks)
    return Joint(
        model.shifted_poses(depth), model.errors() * model.unit, replace(geometry, depth=depth)
    )


class _Block:
    """Alternating least squares over one block; lengths in units of a good point's error."""

    def __init__(
        self, geometry: Geometry, points: Array, moved: Array, poses: Array, parallax: bool
    ) -> None:
        self.unit = POINT_SD * geometry.ipd / 115
        self._ipd = geometry.ipd / self.unit
        self._geometry, self._parallax = geometry, parallax
        self._x = (points - geometry.centre) / self.unit
        self._seen = np.asarray(np.isfinite(moved).all(axis=-1))
        self._y = np.where(self._seen[..., None], (moved - geometry.centre) / self.unit, 0)
        self._prior = self._ipd * geometry.depth.prior(points)
        self._prior -= self._ipd * geometry.depth.mean
        self._terms = self._ipd * geometry.depth.terms(points)
        self.added: Array = geometry.depth.added.copy()
        self._poses = poses / (1, 1, self.unit, self.unit, 1, 1)
        self._loyalty = np.ones(len(points))

    def _depth(self) -> Array:
        return self._prior + self._terms @ self.added

    def _design(self) -> Array:
        """(2, N, 6): derivatives of x and y of every point by the pose."""
        count = len(self._x)
        design = np.zeros((2, count, 6))
        design[0, :, 0], design[1, :, 0] = self._x.T
        design[0, :, 1], design[1, :, 1] = -self._x[:, 1], self._x[:, 0]
        design[0, :, 2] = design[1, :, 3] = 1
        if self._parallax:
            design[0, :, 4] = design[1, :, 5] = self._depth()
        return design

    def _residuals(self) -> Array:
        """(2, T, N)."""
        predicted = self._poses[None] @ self._design().transpose(0, 2, 1)
        return np.asarray(self._y.transpose(2, 0, 1) - predicted)

    def errors(self) -> Array:
        """(T, N) distance of every point from where its head puts it; NaN where it was lost."""
        return np.where(self._seen, np.hypot(*self._residuals()), np.nan)

    def weigh(self, *, first: bool) -> Array:
        """(T, N) weights: bisquare of the errors times the points' loyalty."""
        error = np.nan_to_num(self.errors(), nan=1e6)
        typical = max(float(np.median(error[self._seen])), 0.3)
        if not first:
            seen = np.maximum(self._seen.sum(axis=0), 1)
            rms = np.sqrt((error**2 * self._seen).sum(axis=0) / seen)
            limit = LOYALTY * max(float(np.median(rms)), 0.3)
            self._loyalty = 1 / (1 + (rms / limit) ** 4)
        cut = (6.0 if first else CUT) * typical
        bisquare = np.where((error < cut) & self._seen, (1 - (error / cut) ** 2) ** 2, 0)
        return np.asarray(bisquare * self._loyalty / typical**2)

    def fit_poses(self, weight: Array) -> None:
        """Weighted least squares of every frame's pose."""
        design = self._design()
        squares = (design[:, :, :, None] * design[:, :, None, :]).sum(axis=0)
        normal = (weight @ squares.reshape(len(squares), 36)).reshape(-1, 6, 6)
        normal += np.diag([1e-9, 1e-9, 1e-9, 1e-9, ANGLE_SD**-2, ANGLE_SD**-2])
        right = sum((weight * self._y[..., k]) @ design[k] for k in (0, 1))
        self._poses = np.linalg.solve(normal, np.asarray(right)[..., None])[..., 0]

    def depth_evidence(self, weight: Array) -> tuple[Array, Array]:
        """Normal equations (6,6), (6,) of the depth's coefficients from this block."""
        angles = self._poses[:, 4:].T
        known = self._terms @ self.added
        power = np.zeros(len(self._x))
        pull = np.zeros(len(self._x))
        for angle, residual in zip(angles, self._residuals(), strict=True):
            power += weight.T @ angle**2
            pull += ((weight * residual).T @ angle) + (weight.T @ angle**2) * known
        return (self._terms * power[:, None]).T @ self._terms, self._terms.T @ pull

    def shifted_poses(self, depth: Depth) -> Array:
        """Poses (T,6) in px for `depth`, whose mean may differ from the one fitted with."""
        poses = self._poses * (1, 1, self.unit, self.unit, 1, 1)
        change = self._geometry.ipd * (depth.mean - self._geometry.depth.mean)
        poses[:, 2:4] += change * poses[:, 4:]
        return np.asarray(poses)
