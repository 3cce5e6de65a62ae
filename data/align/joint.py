"""Head poses of many frames at once: what moves rigidly, and how deep this head is.

A frame alone cannot tell a cheek that is raised from a head that nods. A run of frames can: a
point that keeps with the head in all of them is trusted, one that leaves it in some is trusted in
none; and what yaw and pitch leave behind, always at the same places, is the head's own depth. Both
are found by alternating least squares over the tracked points of a block of frames, with the model
of `data.align.fitting`, starting from the poses found frame by frame.

Weights are bisquare in (frame, point), times each point's loyalty over the block and its calm in
the frame. Both are judged by errors averaged over neighbouring points and moments, where noise is
small and an expression's edge is not: what lies beside a wrinkled nose keeps out of the pose. In
the last rounds expressions are fitted along.

The depth of one head serves all of a video. Its evidence is kept by time, a tenth of a second in
each bin, so that a reader may leave out the frames of an event: a depth learned from an expression
takes some of that for its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from data.align.fitting import LIGHT_TERMS, POSE_TERMS, Model
from data.align.geometry import DEPTH_TERMS, Depth, Geometry, centred

Array = npt.NDArray[np.float64]

ROUNDS = 14
TRUSTING_ROUNDS = 6  # first rounds: wide bisquare, all points loyal, while the depth is unknown
WIDE_CUT, CUT = 6.0, 3.5  # bisquare's end, in median errors
LOYALTY, LOYALTY_POWER = 1.5, 6  # strays, in median ones, at which a point counts half; steepness
CALM, CALM_POWER = 0.8, 4  # the same within one frame
POINT_SD = 0.1 / 115  # error of a good point, inter-pupil distances
LEAST = 0.05  # strays below this, in units of a good point's error, say nothing
NEAR, NEAR_SECONDS = 0.12, 0.033  # Gaussian sd of the averages: inter-pupil distances, seconds
OFTEN = 0.9  # a point strays as far as it does in all but a tenth of the frames
DEPTH_SD = 0.06  # prior of the depth's coefficients, inter-pupil distances
DEPTH_KIN = 12.0  # points and frames that err like one
MIN_FRAMES = 8
GIVE_ROUNDS = 8  # last rounds, in which expressions are fitted along
BIN_SECONDS = 0.1


@dataclass
class DepthEvidence:
    """Normal equations of the depth's coefficients: a sum, and its parts by time.

    `bins`: number of a bin of `bin_frames` frames → [matrix (49,49), values (49,)].
    """

    bin_frames: int = 50
    matrix: Array = field(default_factory=lambda: np.zeros((DEPTH_TERMS, DEPTH_TERMS)))
    values: Array = field(default_factory=lambda: np.zeros(DEPTH_TERMS))
    bins: dict[int, list[Array]] = field(default_factory=dict)

    def add(self, number: int, matrix: Array, values: Array) -> None:
        """More evidence, from frames of one bin."""
        self.matrix += matrix
        self.values += values
        held = self.bins.setdefault(number, [np.zeros_like(self.matrix), np.zeros(DEPTH_TERMS)])
        held[0] += matrix
        held[1] += values


def solve_depth(matrix: Array, values: Array) -> Array:
    """Coefficients (49,) from normal equations and the prior."""
    return np.asarray(np.linalg.solve(matrix + np.eye(DEPTH_TERMS) / DEPTH_SD**2, values))


@dataclass(frozen=True)
class Joint:
    """Result for a block: `poses` (T,8); `errors` (T,N) px; `geometry` with the new depth."""

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
    frames: npt.NDArray[np.int64] | None = None,
    fps: float = 100.0,
    parallax: bool = True,
) -> Joint:
    """Fit a block of tracked frames together and add its evidence about the depth.

    `points` (N,2) reference px, `moved` (T,N,2) px in the frames, `poses` (T,8) and `lights` (T,2)
    to start from, `drift` (N,2,2) as `tracking.light_drift`, `frames` (T,) their indices.
    """
    model = _Block(geometry, points, moved, poses, lights, drift, parallax, fps)
    where = np.arange(len(moved)) if frames is None else frames
    learns = parallax and len(poses) >= MIN_FRAMES
    weight: Array = np.zeros(0)
    for turn in range(ROUNDS):
        weight = model.weigh(trusting=turn < TRUSTING_ROUNDS)
        model.fit_poses(weight, give=turn >= ROUNDS - GIVE_ROUNDS)
        if learns and turn > 0:
            matrix, values = model.depth_evidence(weight)
            model.added = solve_depth(evidence.matrix + matrix, evidence.values + values)
    if learns:
        bins = where // evidence.bin_frames
        for number in np.unique(bins):
            evidence.add(int(number), *model.depth_evidence(weight, bins == number))
    depth = geometry.depth
    if learns:
        depth = centred(replace(depth, added=model.added), geometry.landmarks)
    return Joint(model.shifted_poses(depth), model.errors() * model.unit_px,
                 geometry.with_depth(depth))  # fmt: skip


class _Block:
    """Alternating least squares over one block; errors in units of a good point's."""

    def __init__(
        self,
        geometry: Geometry,
        points: Array,
        moved: Array,
        poses: Array,
        lights: Array,
        drift: Array,
        parallax: bool,
        fps: float,
    ) -> None:
        ipd = geometry.ipd
        self.unit_px = POINT_SD * ipd
        self._geometry = geometry
        self._model = Model(geometry, points, drift, parallax=parallax)
        self._design: Array = self._model.design
        self._seen = np.asarray(np.isfinite(moved).all(axis=-1))
        self._y = np.where(self._seen[..., None], (moved - points) / ipd, 0).transpose(2, 0, 1)
        self._terms = geometry.depth.terms(points)
        self._old: Array = geometry.depth.added
        self.added: Array = self._old.copy()
        self._base = self._design[:, :, :6].copy()
        self._scale = np.array([1, 1, ipd, ipd, 1, 1, 1, 1])
        start = (poses - np.eye(POSE_TERMS)[0]) / self._scale
        self._poses = np.hstack([start, lights])
        self._trust: Array = np.ones(1)
        self._moments = NEAR_SECONDS * fps
        apart = ((points[:, None] - points) ** 2).sum(axis=-1) / (NEAR * ipd) ** 2
        near = np.exp(-0.5 * apart)
        self._near = near / near.sum(axis=1, keepdims=True)

    def _residuals(self) -> Array:
        """(2, T, N)."""
        plain = self._design[..., : POSE_TERMS + LIGHT_TERMS]
        predicted = self._poses[None] @ plain.transpose(0, 2, 1)
        return np.asarray((self._y - predicted) / POINT_SD)

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
        return np.asarray(bisquare * self._trust / (typical * POINT_SD) ** 2)

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
        """Weighted least squares of every frame's pose and light, and of expressions."""
        extra = self._terms @ (self.added - self._old)
        self._design[:, :, :6] = self._base
        self._design[0, :, 4] += extra
        self._design[1, :, 5] += extra
        terms = self._design.shape[-1] if give else POSE_TERMS + LIGHT_TERMS
        design = self._design[..., :terms]
        squares = (design[:, :, :, None] * design[:, :, None, :]).sum(axis=0)
        normal = (weight @ squares.reshape(-1, terms**2)).reshape(-1, terms, terms)
        normal += np.diag(self._model.precision[:terms])
        right = sum((weight * y) @ d for y, d in zip(self._y, design, strict=True))
        answer = np.linalg.solve(normal, np.asarray(right)[..., None])[..., 0]
        self._poses = answer[:, : POSE_TERMS + LIGHT_TERMS]

    def depth_evidence(
        self, weight: Array, some: Array | slice = slice(None)
    ) -> tuple[Array, Array]:
        """Normal equations (49,49), (49,) of the depth's coefficients from `some` frames."""
        weight = weight[some] / DEPTH_KIN
        known = self._terms @ self.added
        power, pull = np.zeros(len(known)), np.zeros(len(known))
        for angle, residual in zip(self._poses[some, 4:6].T, self._residuals(), strict=True):
            strength = weight.T @ angle**2
            power += strength
            pull += (weight * residual[some] * POINT_SD).T @ angle + strength * known
        return (self._terms * power[:, None]).T @ self._terms, self._terms.T @ pull

    def shifted_poses(self, depth: Depth) -> Array:
        """Poses (T,8) in px for `depth`, whose mean may differ from the one fitted with."""
        poses = self._poses[:, :POSE_TERMS] * self._scale
        poses[:, 0] += 1
        change = self._geometry.ipd * (depth.mean - self._geometry.depth.mean)
        poses[:, 2:4] += change * poses[:, 4:6]
        return np.asarray(poses)
