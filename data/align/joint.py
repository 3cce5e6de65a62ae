"""Head poses of many frames at once: what moves rigidly, and how deep this head is.

A frame alone cannot tell a cheek that is raised from a head that nods. A run of frames can: a
point that keeps with the head in all of them is trusted, one that leaves it in some is trusted in
none; and what yaw and pitch leave behind, always at the same places, is the head's own depth. Both
are found by alternating least squares over the tracked points of a block of frames, starting from
the poses found frame by frame:

    moved(t, p) − c = S(t) (X(p) − c) + (tx, ty) + ipd · h(p) · (yaw, pitch)
    h(p) = prior(p) + terms(p) · w

weighted by bisquare in (t, p), by each point's loyalty over the block and by its calm in the frame.
Both are judged by errors averaged over neighbouring points and moments, where noise is small and
an expression's edge is not: what lies beside a wrinkled nose keeps out of the pose. w has a
Gaussian prior and keeps its evidence from block to block of a segment. In the last rounds brows,
cheeks, nose wings, mouth corners, chin and glabella may each give way a little by themselves, so
that a smile is not taken for a nod; what they give is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from data.align.geometry import Depth, Geometry, centred
from data.align.tracking import POINT_SD, pose_design, pose_prior

Array = npt.NDArray[np.float64]

ROUNDS = 14
TRUSTING_ROUNDS = 6  # first rounds: wide bisquare, all points loyal, while the depth is unknown
WIDE_CUT, CUT = 6.0, 3.5  # bisquare's end, in median errors
LOYALTY, LOYALTY_POWER = 1.5, 6  # strays, in median ones, at which a point counts half; steepness
CALM, CALM_POWER = 0.8, 4  # the same within one frame
LEAST = 0.05  # strays below this, in units of a good point's error, say nothing
NEAR, NEAR_SECONDS = 0.12, 0.033  # Gaussian sd of the averages: inter-pupil distances, seconds
OFTEN = 0.9  # a point strays as far as it does in all but a tenth of the frames
DEPTH_SD = 0.15  # prior of the depth's coefficients, inter-pupil distances
MIN_FRAMES = 8
GIVE_ROUNDS = 3  # last rounds, in which soft places may give way
GIVE_SD, GIVE_WIDTH = 1.5, 0.18  # how far, px at distance 115; how wide, inter-pupil distances


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
    lights: Array,
    drift: Array,
    evidence: DepthEvidence,
    *,
    fps: float = 100.0,
    parallax: bool = True,
) -> Joint:
    """Fit a block of tracked frames together and add its evidence about the depth.

    `points` (N,2) reference px, `moved` (T,N,2) px in the frames, `poses` (T,6) and `lights` (T,2)
    to start from, `drift` (N,2,2) as `tracking.light_drift`.
    """
    model = _Block(geometry, points, moved, np.hstack([poses, lights]), drift, parallax, fps)
    weight = matrix = values = None
    for turn in range(ROUNDS):
        weight = model.weigh(trusting=turn < TRUSTING_ROUNDS)
        model.fit_poses(weight, give=turn >= ROUNDS - GIVE_ROUNDS)
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


def soft_places(landmarks: Array, ipd: float) -> Array:
    """Centres (14,2) px of what expressions move in or next to the tracked region."""
    down = np.array([0.0, 1.0]) * ipd
    cheeks = [
        landmarks[lid].mean(axis=0) + 0.26 * down + [side * 0.05 * ipd, 0]
        for lid, side in (([40, 41], -1), ([46, 47], 1))
    ]
    halfway = [landmarks[[i, j]].mean(axis=0) for i, j in ((48, 4), (54, 12), (48, 31), (54, 35))]
    chin, glabella = landmarks[57] + 0.25 * down, landmarks[21:23].mean(axis=0)
    return np.array([*cheeks, *halfway, chin, glabella, *landmarks[[31, 35, 48, 54, 19, 24]]])


class _Block:
    """Alternating least squares over one block; lengths in units of a good point's error."""

    def __init__(
        self,
        geometry: Geometry,
        points: Array,
        moved: Array,
        start: Array,
        drift: Array,
        parallax: bool,
        fps: float,
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
        self._drift = drift / self.unit
        self._pixels = np.array([1, 1, self.unit, self.unit, 1, 1, 1, 1])
        self._poses = start / self._pixels  # (T,8): pose and light
        self._trust: Array = np.ones(1)
        self._moments = NEAR_SECONDS * fps
        apart = ((points[:, None] - points) ** 2).sum(axis=-1) / (NEAR * geometry.ipd) ** 2
        near = np.exp(-0.5 * apart)
        self._near = near / near.sum(axis=1, keepdims=True)
        away = points[:, None] - soft_places(geometry.landmarks, geometry.ipd)
        self._give = np.exp(-0.5 * ((away / (GIVE_WIDTH * geometry.ipd)) ** 2).sum(axis=-1))

    def _depth(self) -> Array:
        return self._prior + self._terms @ self.added

    def _design(self) -> Array:
        return pose_design(self._x, self._depth() if self._parallax else None, self._drift)

    def _residuals(self) -> Array:
        """(2, T, N)."""
        predicted = self._poses[None] @ self._design().transpose(0, 2, 1)
        return np.asarray(self._y.transpose(2, 0, 1) - predicted)

    def errors(self) -> Array:
        """(T, N) distance of every point from where its head puts it; NaN where it was lost."""
        return np.where(self._seen, np.hypot(*self._residuals()), np.nan)

    def weigh(self, *, trusting: bool) -> Array:
        """(T, N) weights: bisquare of the errors times loyalty and calm."""
        residuals = np.where(self._seen, self._residuals(), 0.0)
        error = np.hypot(*residuals)
        typical = max(float(np.median(error[self._seen])), 0.3)
        if not trusting:
            self._trust = self._judge(np.clip(residuals, -6 * typical, 6 * typical))
        cut = (WIDE_CUT if trusting else CUT) * typical
        bisquare = np.where((error < cut) & self._seen, (1 - (error / cut) ** 2) ** 2, 0)
        return np.asarray(bisquare * self._trust / typical**2)

    def _judge(self, residuals: Array) -> Array:
        """Loyalty times calm (T, N), 0..1, from residuals (2, T, N)."""
        averages = residuals @ self._near.T
        if self._moments > 0.3:
            from scipy.ndimage import gaussian_filter1d  # here: a GPU machine may lack scipy

            averages = gaussian_filter1d(averages, self._moments, axis=1, mode="nearest")
        size = np.hypot(*averages)
        usual = np.maximum(np.median(size, axis=1, keepdims=True), LEAST)
        calm = 1 / (1 + (size / (CALM * usual)) ** CALM_POWER)
        strays = np.quantile(size, OFTEN, axis=0)
        limit = LOYALTY * max(float(np.median(strays)), LEAST)
        return np.asarray(calm / (1 + (strays / limit) ** LOYALTY_POWER))

    def fit_poses(self, weight: Array, *, give: bool) -> None:
        """Weighted least squares of every frame's pose and light, and of what soft places give."""
        design, prior = self._design(), pose_prior(self._parallax)
        if give:
            zero = np.zeros_like(self._give)
            x, y = np.hstack([self._give, zero]), np.hstack([zero, self._give])
            design = np.concatenate([design, np.stack([x, y])], axis=-1)
            prior = np.concatenate([prior, np.full(x.shape[1], (POINT_SD / GIVE_SD) ** 2)])
        terms = design.shape[-1]
        squares = (design[:, :, :, None] * design[:, :, None, :]).sum(axis=0)
        normal = (weight @ squares.reshape(-1, terms**2)).reshape(-1, terms, terms)
        normal += np.diag(prior)
        right = sum((weight * self._y[..., k]) @ design[k] for k in (0, 1))
        self._poses = np.linalg.solve(normal, np.asarray(right)[..., None])[:, :8, 0]

    def depth_evidence(self, weight: Array) -> tuple[Array, Array]:
        """Normal equations (6,6), (6,) of the depth's coefficients from this block."""
        angles = self._poses[:, 4:6].T
        known = self._terms @ self.added
        power = np.zeros(len(self._x))
        pull = np.zeros(len(self._x))
        for angle, residual in zip(angles, self._residuals(), strict=True):
            power += weight.T @ angle**2
            pull += ((weight * residual).T @ angle) + (weight.T @ angle**2) * known
        return (self._terms * power[:, None]).T @ self._terms, self._terms.T @ pull

    def shifted_poses(self, depth: Depth) -> Array:
        """Poses (T,6) in px for `depth`, whose mean may differ from the one fitted with."""
        poses = (self._poses * self._pixels)[:, :6]
        change = self._geometry.ipd * (depth.mean - self._geometry.depth.mean)
        poses[:, 2:4] += change * poses[:, 4:]
        return np.asarray(poses)
