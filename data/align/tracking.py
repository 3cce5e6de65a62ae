"""Registration of frames to a reference frame: tracked points, a robust head pose, fallbacks.

Corners on the part of the face that expressions move least (hull of the 68 landmarks without
brows, eyes and mouth, each grown by 0.18 inter-pupil distances), and on forehead, hairline and
temples, without which raised cheeks pass for a nod, are followed from the reference to every frame
by pyramidal Lucas-Kanade (Bouguet 2000), starting where the previous pose puts them.
A RANSAC similarity (own, seeded; Fischler & Bolles 1981) rejects what does not move with the head;
a bisquare least-squares fit of similarity and parallax follows. Lucas-Kanade takes brighter for
moved: a flicker of 0.4 % shifts points by 0.1 px, each along its own gradient. That pattern is
known from the reference, so gain and offset of the light are fitted along. Where too few points
agree, the enhanced correlation coefficient (Evangelidis & Psarakis 2008) on the whole face
decides, and where that fails the previous pose is held.

Tracking runs on the grey region around the face, reduced so that the inter-pupil distance is at
most 120 px. Poses are as in `data.align.geometry`, in original pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from data.align.geometry import (
    IDENTITY,
    Geometry,
    apply,
    landmark_pose,
    pose_matrix,
)
from data.faces import BROWS, EYES, MOUTH

Array = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]

WORKING_IPD = 120.0  # tracking resolution: larger faces are reduced to this
UPPER_SHARE, UPPER_REACH = 0.3, 0.6  # points above the brows: part of all, how far up (IPD)
REGION_REACH = 0.65  # inter-pupil distances around the landmarks that tracking may see
GROW = 0.18  # how far brows, eyes and mouth are kept away from, inter-pupil distances
WINDOW = 0.18  # Lucas-Kanade window side, inter-pupil distances
CORNER_QUALITY, CORNER_DISTANCE, CORNER_BLOCK = 0.005, 4, 5
TOLERANCE = 0.5  # inlier distance, px at inter-pupil distance 115
MIN_INLIERS, MIN_RATIO = 20, 0.4
# Lucas-Kanade: pyramid levels above the image, steps, precision px, inlier ratio that is enough.
# Near the previous pose the image itself will do; the full pyramid costs three times as much.
SEARCHES = ((0, 10, 0.02, 0.7), (3, 30, 0.01, MIN_RATIO))
DEPTH_DOUBT = 0.15  # how far the prior depth may be off, inter-pupil distances: widens it
HYPOTHESES = 60
ANGLE_SD = 0.05  # prior on yaw and pitch, rad: keeps them at zero without evidence
GAIN_SD, OFFSET_SD = 0.02, 0.02  # prior on the light: 2 %, 2 grey levels
POINT_SD = 0.10  # what one tracked point is worth, px at inter-pupil distance 115
ECC_STEPS, ECC_SMOOTHING, MIN_ECC = 30, 5, 0.8
LOW_CONTRAST_SD = 25.0


@dataclass(frozen=True)
class Registered:
    """One frame's result: `pose` (6,), `light` (gain − 1, offset / 100), how found, how well.

    `method` is "track", "ecc", "held" or another mode's name; `inlier_ratio` 0..1 and `residual`
    (RMS of the inliers, original px) are NaN where there are no points; `moved` (n,2) are the
    tracked points in the frame, NaN where one was lost.
    """

    pose: Array
    method: str
    light: Array = field(default_factory=lambda: np.zeros(2))
    inlier_ratio: float = float("nan")
    residual: float = float("nan")
    moved: Array | None = None


def stable_mask(landmarks: Array, ipd: float, shape: tuple[int, int]) -> Grey:
    """255 on the face where expressions move little, 0 elsewhere; landmarks in mask px."""
    return _filled([landmarks], shape) & ~_grown([landmarks[p] for p in (*BROWS, *EYES, MOUTH)],
                                                 ipd, shape)  # fmt: skip


def upper_mask(landmarks: Array, ipd: float, shape: tuple[int, int]) -> Grey:
    """255 on forehead, hairline and temples: far from what a cheek or a nose can do."""
    across = (landmarks[EYES[1]].mean(axis=0) - landmarks[EYES[0]].mean(axis=0)) / ipd
    up = UPPER_REACH * ipd * np.array([across[1], -across[0]])
    temples = landmarks[[0, 1, 15, 16]]
    outline = [landmarks[17:27] + up, temples, temples + 0.4 * up]
    inner = [*(landmarks[p] for p in (*BROWS, *EYES)), landmarks[17:]]
    return _filled([np.concatenate(outline)], shape) & ~_grown(inner, ipd, shape)


def _filled(outlines: list[Array], shape: tuple[int, int]) -> Grey:
    """255 inside the convex hull of each set of points (n,2) px."""
    mask = np.zeros(shape, np.uint8)
    for points in outlines:
        cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 255)
    return mask


def _grown(outlines: list[Array], ipd: float, shape: tuple[int, int]) -> Grey:
    """The hulls and all within GROW of them."""
    reach = round(GROW * ipd)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(_filled(outlines, shape), disc), np.uint8)


def _corners(face: Grey, count: int, mask: Grey) -> npt.NDArray[np.float32]:
    """At most `count` corners (n,1,2) of the masked part, the sharpest."""
    found = cv2.goodFeaturesToTrack(
        face, count, CORNER_QUALITY, CORNER_DISTANCE, mask=mask, blockSize=CORNER_BLOCK
    )
    return np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)


class FaceTracker:
    """Registers frames to one reference frame; call `register` in playing order."""

    def __init__(
        self, grey: Grey, geometry: Geometry, *, points: int = 200, parallax: bool = True
    ) -> None:
        """`grey` (H,W): the whole reference frame. Few corners (a flat face) is no error here."""
        self._geometry, self._parallax = geometry, parallax
        self._scale = min(1.0, WORKING_IPD / geometry.ipd)
        self._box = self._region(grey.shape)
        self._gain = 1.0
        face = self._reduced(grey)
        if face.std() < LOW_CONTRAST_SD:
            self._gain = float(np.clip(2 * LOW_CONTRAST_SD / max(float(face.std()), 1.0), 1, 8))
            face = self._reduced(grey)
        self._face = face
        landmarks = self._inward(geometry.landmarks)
        lower = stable_mask(landmarks, geometry.ipd * self._scale, face.shape)
        upper = upper_mask(landmarks, geometry.ipd * self._scale, face.shape) & ~lower
        above = round(UPPER_SHARE * points)
        corners = np.concatenate(
            [_corners(face, points - above, lower), _corners(face, above, upper)]
        )
        self._corners: npt.NDArray[np.float32] = corners
        self.points: Array = self._outward(corners[:, 0].astype(np.float64))
        self.depth: Array = geometry.depth(self.points) if len(self.points) else np.zeros(0)
        window = round(WINDOW * geometry.ipd * self._scale)
        self._window = max(7, window + 1 - window % 2)
        drift = light_drift(face, corners[:, 0], self._window)
        self.drift: Array = drift / self._ratio()[:, None]
        self._hull = _filled([landmarks], face.shape)
        self._pose, self._light = IDENTITY, np.zeros(2)
        self._pairs = _sample_pairs(len(self.points))

    @property
    def unit(self) -> float:
        """Original px that correspond to 1 px at inter-pupil distance 115."""
        return self._geometry.ipd / 115

    def register(self, grey: Grey) -> Registered:
        """Pose of a whole frame (H,W) against the reference, starting at the previous pose."""
        face = self._reduced(grey)
        result = self._by_points(face)
        if result is None:
            result = self._by_correlation(face)
        self._pose, self._light = result.pose, result.light
        return result

    def correlate(self, grey: Grey) -> Registered:
        """Like `register`, by ECC alone (mode `ecc`)."""
        result = self._by_correlation(self._reduced(grey))
        self._pose = result.pose
        return result

    def _region(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        reach = REGION_REACH * self._geometry.ipd
        low = self._geometry.landmarks.min(axis=0) - reach
        high = self._geometry.landmarks.max(axis=0) + reach + 1
        limit = np.array([shape[1], shape[0]])
        x0, y0 = np.clip(np.floor(low), 0, limit - 16).astype(int)
        x1, y1 = np.clip(np.ceil(high), (x0 + 16, y0 + 16), limit).astype(int)
        return int(x0), int(y0), int(x1), int(y1)

    def _reduced(self, grey: Grey) -> Grey:
        x0, y0, x1, y1 = self._box
        face = np.ascontiguousarray(grey[y0:y1, x0:x1])
        if self._scale < 1:
            size = (round((x1 - x0) * self._scale), round((y1 - y0) * self._scale))
            face = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        if self._gain != 1:
            face = cv2.convertScaleAbs(face, alpha=self._gain)
        return face

    def _ratio(self) -> Array:
        x0, y0, x1, y1 = self._box
        size = np.array([x1 - x0, y1 - y0], np.float64)
        return np.round(size * self._scale) / size if self._scale < 1 else np.ones(2)

    def _inward(self, points: Array) -> Array:
        """Original px → px of the reduced region."""
        return (points - self._box[:2] + 0.5) * self._ratio() - 0.5

    def _outward(self, points: Array) -> Array:
        return (points + 0.5) / self._ratio() - 0.5 + self._box[:2]

    def _by_points(self, face: Grey) -> Registered | None:
        """Lucas-Kanade and a robust fit, quickly and then with the full pyramid."""
        if len(self.points) < MIN_INLIERS:
            return None
        for levels, steps, precision, enough in SEARCHES:
            start = self._inward(self._placed(self._pose)).astype(np.float32)
            start = np.ascontiguousarray(start).reshape(-1, 1, 2)  # [:, None] has a stride 0
            moved, found, _ = cv2.calcOpticalFlowPyrLK(
                self._face,
                face,
                self._corners,
                start,
                winSize=(self._window, self._window),
                maxLevel=levels,
                criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, precision),
                flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            )
            result = self._fit(self._outward(moved[:, 0].astype(np.float64)), found[:, 0] > 0)
            if result is not None and result.inlier_ratio >= enough:
                return result
        return None

    def _placed(self, pose: Array) -> Array:
        shift = self._geometry.ipd * self.depth[:, None] * pose[4:]
        moved: Array = apply(pose_matrix(pose, self._geometry.centre), self.points) + shift
        return moved

    def _fit(self, moved: Array, found: npt.NDArray[np.bool_]) -> Registered | None:
        doubt = DEPTH_DOUBT * self._geometry.ipd * float(np.abs(self._pose[4:]).max())
        tolerance = float(np.hypot(TOLERANCE * self.unit, doubt))
        shift = self._geometry.ipd * self.depth[:, None] * self._pose[4:]
        shift = shift + self.drift @ self._light
        inliers = ransac_similarity(self.points, moved - shift, found, self._pairs, 2 * tolerance)
        if inliers.sum() < MIN_INLIERS:
            return None
        pose, light = fit_pose(
            self.points - self._geometry.centre,
            moved - self._geometry.centre,
            self._geometry.ipd * self.depth if self._parallax else None,
            self.drift,
            found,
            inliers,
            tolerance=tolerance,
            point_sd=POINT_SD * self.unit,
        )
        error = np.hypot(*(moved - self._placed(pose) - self.drift @ light).T)
        inliers = found & (error < tolerance)
        ratio = float(inliers.mean())
        if inliers.sum() < MIN_INLIERS or ratio < MIN_RATIO or abs(pose[0] - 1) > 0.5:
            return None
        residual = float(np.sqrt((error[inliers] ** 2).mean()))
        moved = np.where(found[:, None], moved, np.nan)
        return Registered(pose, "track", light, ratio, residual, moved)

    def _by_correlation(self, face: Grey) -> Registered:
        """ECC over the whole face, from the previous pose without parallax; or that pose held."""
        inward = np.column_stack([np.diag(self._ratio()), self._inward(np.zeros(2))])
        grid = np.array([(0.0, 0.0), (face.shape[1], 0), (0, face.shape[0])])
        placed = apply(pose_matrix(self._pose, self._geometry.centre), self._outward(grid))
        start = cv2.getAffineTransform(
            grid.astype(np.float32), apply(inward, placed).astype(np.float32)
        )
        angle = np.arctan2(start[1, 0], start[0, 0])
        start[:, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ECC_STEPS, 1e-5)
        try:
            score, warp = cv2.findTransformECC(
                self._face,
                face,
                start.astype(np.float32),
                cv2.MOTION_EUCLIDEAN,
                criteria,
                self._hull,
                ECC_SMOOTHING,
            )
        except cv2.error:  # it did not converge
            return Registered(self._pose, "held")
        if score < MIN_ECC:
            return Registered(self._pose, "held")
        outer = self._outward(apply(warp.astype(np.float64), grid))
        pose = landmark_pose(self._outward(grid), outer, self._geometry.centre)
        return Registered(pose, "ecc")


def _sample_pairs(count: int) -> npt.NDArray[np.int64]:
    """RANSAC's pairs of point numbers (HYPOTHESES, 2): fixed for a number of points."""
    if count < 2:
        return np.zeros((0, 2), np.int64)
    random = np.random.default_rng(count)
    first = random.integers(0, count, HYPOTHESES)
    return np.stack([first, (first + random.integers(1, count, HYPOTHESES)) % count], axis=1)


def ransac_similarity(
    source: Array,
    target: Array,
    found: npt.NDArray[np.bool_],
    pairs: npt.NDArray[np.int64],
    tolerance: float,
) -> npt.NDArray[np.bool_]:
    """Inliers (n,) of the similarity, from one of `pairs`, that most `found` points agree with."""
    p, q = (np.ascontiguousarray(v).view(np.complex128)[:, 0] for v in (source, target))
    p, q = p.astype(np.complex64), q.astype(np.complex64)
    usable = pairs[found[pairs].all(axis=1)]
    span = p[usable[:, 1]] - p[usable[:, 0]]
    usable = usable[np.abs(span) > 0]
    if len(usable) == 0:
        return np.zeros(len(p), bool)
    i, j = usable.T
    turn = (q[j] - q[i]) / (p[j] - p[i])
    shift = q[i] - turn * p[i]
    error = np.abs(q[None] - turn[:, None] * p[None] - shift[:, None])
    agree = (error < tolerance) & found
    return np.asarray(agree[agree.sum(axis=1).argmax()])


def light_drift(face: Grey, corners: npt.NDArray[np.float32], window: int) -> Array:
    """Where points seem to go when the light changes: (n,2,2), px per gain and per 100 grey levels.

    A frame g·I + o makes Lucas-Kanade err by −G⁻¹ Σ ∇I ((g − 1) I + o), sums over its window.
    """
    image = face.astype(np.float32)
    dx, dy = (cv2.Scharr(image, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1)))
    where = np.clip(np.round(corners).astype(int), 0, np.array(face.shape[::-1]) - 1)

    def total(values: npt.NDArray[np.float32]) -> Array:
        sums = cv2.boxFilter(values, cv2.CV_32F, (window, window), normalize=False)
        return np.asarray(sums[where[:, 1], where[:, 0]], np.float64)

    tensor = np.array([[total(dx * dx), total(dx * dy)], [total(dx * dy), total(dy * dy)]])
    tensor = tensor.transpose(2, 0, 1) + np.eye(2)
    pull = np.array([[total(d * image), 100 * total(d)] for d in (dx, dy)]).transpose(2, 0, 1)
    return np.asarray(-np.linalg.solve(tensor, pull))


def pose_design(source: Array, depth: Array | None, drift: Array) -> Array:
    """(2,n,8): derivatives of the points' x and y by the pose (6,) and the light (2,).

    `source` (n,2) about the centre; `depth` (n,) in the same unit, None for no parallax.
    """
    design = np.zeros((2, len(source), 8))
    design[0, :, 0], design[1, :, 0] = source.T
    design[0, :, 1], design[1, :, 1] = -source[:, 1], source[:, 0]
    design[0, :, 2] = design[1, :, 3] = 1
    if depth is not None:
        design[0, :, 4] = design[1, :, 5] = depth
    design[..., 6:] = drift.transpose(1, 0, 2)
    return design


def pose_prior(parallax: bool) -> Array:
    """(8,) inverse variances of pose and light: tiny, but for angles and light."""
    angles = [ANGLE_SD**-2] * 2 if parallax else [1.0] * 2
    return np.array([1e-9] * 4 + angles + [GAIN_SD**-2, OFFSET_SD**-2])


def fit_pose(
    source: Array,
    target: Array,
    depth: Array | None,
    drift: Array,
    found: npt.NDArray[np.bool_],
    inliers: npt.NDArray[np.bool_],
    *,
    tolerance: float,
    point_sd: float,
) -> tuple[Array, Array]:
    """Pose (6,) and light (2,) by bisquare least squares, started at `inliers`.

    Points (n,2) about the centre; `depth` (n,) px, None leaves yaw and pitch at zero; a point is
    worth `point_sd`, the angles' and the light's priors are this module's.
    """
    design = pose_design(source, depth, drift)
    prior = np.diag(pose_prior(depth is not None)) * point_sd**2
    values = target.T
    weight: Array = inliers.astype(np.float64)
    solution: Array = np.zeros(8, np.float64)
    for last in (False, False, True):
        weighted = design * weight[:, None]
        normal = sum(w.T @ d for w, d in zip(weighted, design, strict=True)) + prior
        right = sum(w.T @ v for w, v in zip(weighted, values, strict=True))
        solution = np.asarray(np.linalg.solve(normal, right), np.float64)
        if last:
            break
        error = np.hypot(*(values - design @ solution))
        cut = max(tolerance, 3 * float(np.median(error[inliers])))
        weight = np.asarray(np.where(found & (error < cut), (1 - (error / cut) ** 2) ** 2, 0.0))
    return solution[:6], solution[6:]
