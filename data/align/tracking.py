"""Tracking a face from a reference frame into others: corners, Lucas-Kanade, fallbacks.

Corners on the part of the face that expressions move least (hull of the 68 landmarks without
brows, eyes and mouth, each grown by 0.18 inter-pupil distances), and on forehead, hairline and
temples, without which raised cheeks pass for a nod, are followed from the reference to a frame
by pyramidal Lucas-Kanade (Bouguet 2000), starting where a first guess of the pose puts them.
`data.align.fitting` makes a pose of where they went. A quick search is tried first; where its
points agree less well than this video's usually do, a patient one follows: more pyramid levels,
each point tracked back and kept only if it returns, and once more on locally normalised pictures
where few return (a flash, a shadow).

Lucas-Kanade takes brighter for moved: a flicker of 0.4 % shifts points by 0.1 px, each along its
own gradient. That pattern is known from the reference, so gain and offset of the light are fitted
along. Where there is no pose from points, the enhanced correlation coefficient (Evangelidis &
Psarakis 2008) on the whole face decides, and where that fails the previous pose is held.

Tracking runs on the grey region around the face, brought to an inter-pupil distance of 75 to 120
px: a small face enlarged has ten times as many corners. Poses are as in `data.align.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data.align.fitting import MAX_ERROR, MIN_POINTS, Model, PoseFit
from data.align.geometry import (
    IDENTITY,
    Geometry,
    apply,
    landmark_pose,
    place,
    pose_matrix,
)
from data.faces import BROWS, EYES, MOUTH

Array = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

WORKING_IPD = (75.0, 120.0)  # tracking resolution: smaller faces are enlarged, larger reduced
UPPER_SHARE, UPPER_REACH = 0.3, 0.6  # points above the brows: part of all, how far up (IPD)
REGION_REACH = 0.65  # inter-pupil distances around the landmarks that tracking may see
GROW = 0.18  # how far brows, eyes and mouth are kept away from, inter-pupil distances
WINDOW = 0.18  # Lucas-Kanade window side, inter-pupil distances
CORNER_QUALITY, CORNER_DISTANCE, CORNER_BLOCK = 0.005, 4, 5
RETURN = 0.006  # a point tracked there and back that misses by more is lost, IPD
FEW_KEPT, MORE_KEPT = 0.6, 1.1  # below the first, normalised pictures are tried; gain to take them
FLATTEN, FLOOR, LEVEL, SPREAD = 0.18, 36.0, 128.0, 38.0  # local normalisation: IPD, grey levels
QUICK_ERROR, QUICK_SLACK = 0.0015, 1.25  # a quick search's scale: enough at first; over the usual
QUICK_ROUNDS = 8
ECC_STEPS, ECC_SMOOTHING, MIN_ECC = 30, 5, 0.8
LOW_CONTRAST_SD = 25.0


@dataclass(frozen=True)
class TrackSearch:
    """How Lucas-Kanade looks: pyramid levels above the image, steps, precision px, way back."""

    levels: int
    steps: int
    precision: float
    back: bool


QUICK = TrackSearch(0, 10, 0.02, False)
NEAR = TrackSearch(0, 15, 0.02, True)
FAR = TrackSearch(3, 30, 0.01, True)


@dataclass(frozen=True)
class Tracks:
    """Where the points (N,) went: `moved` (N,2) px, `found` (N,); `lit`: light shows in them."""

    moved: Array
    found: Mask
    lit: bool = True


@dataclass(frozen=True)
class Registered:
    """One frame's result: `pose` (8,), `light` (gain − 1, offset / 100), how found, how well.

    `method` is "track", "doubtful" (points that agree badly), "ecc", "held" or another mode's
    name. `inlier_ratio` 0..1, `residual` (the points' scale, original px) and `sd` (standard
    deviation of where the face is put, px) are NaN where there are no points; `moved` (n,2) are
    the tracked points in the frame, NaN where one was lost.
    """

    pose: Array
    method: str
    light: Array = field(default_factory=lambda: np.zeros(2))
    inlier_ratio: float = float("nan")
    residual: float = float("nan")
    moved: Array | None = None
    sd: float = float("nan")


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
    """Registers frames to one reference frame; `register` goes on from the frame before."""

    def __init__(
        self,
        grey: Grey,
        geometry: Geometry,
        *,
        points: int = 200,
        parallax: bool = True,
        give: bool = False,
    ) -> None:
        """`grey` (H,W): the whole reference frame. Few corners (a flat face) is no error here."""
        self.geometry = geometry
        low, high = WORKING_IPD
        self._scale = min(max(1.0, low / geometry.ipd), high / geometry.ipd)
        self._box = self._region(grey.shape)
        self._gain = 1.0
        face = self.reduced(grey)
        if face.std() < LOW_CONTRAST_SD:
            self._gain = float(np.clip(2 * LOW_CONTRAST_SD / max(float(face.std()), 1.0), 1, 8))
            face = self.reduced(grey)
        self._face = face
        self._flat: Grey | None = None
        self._seen_flat: tuple[Grey, Grey] | None = None  # the last frame's, for the next search
        landmarks = self._inward(geometry.landmarks)
        lower = stable_mask(landmarks, geometry.ipd * self._scale, face.shape)
        upper = upper_mask(landmarks, geometry.ipd * self._scale, face.shape) & ~lower
        above = round(UPPER_SHARE * points)
        corners = np.concatenate(
            [_corners(face, points - above, lower), _corners(face, above, upper)]
        )
        self._corners: npt.NDArray[np.float32] = corners
        self.points: Array = self._outward(corners[:, 0].astype(np.float64))
        window = round(WINDOW * geometry.ipd * self._scale)
        self._window = max(7, window + 1 - window % 2)
        drift = light_drift(face, corners[:, 0], self._window)
        self.drift: Array = drift / self._ratio()[:, None]
        self._hull = _filled([landmarks], face.shape)
        self.model = Model(geometry, self.points, self.drift, parallax=parallax, give=give)
        self.pose = IDENTITY
        self._usual = QUICK_ERROR

    def register(self, grey: Grey) -> Registered:
        """Pose of a whole frame (H,W), looked for around the last one."""
        return self.attempt(grey) or self.correlate(grey)

    def attempt(self, grey: Grey, start: Array | None = None) -> Registered | None:
        """The same by points alone, around the pose `start` if given; None where they fail."""
        if start is not None:
            self.pose = start
        result = self._by_points(self.reduced(grey), quick=start is None)
        if result is not None:
            self.pose = result.pose
        return result

    def correlate(self, grey: Grey) -> Registered:
        """Like `register`, by ECC alone (mode `ecc`)."""
        result = self._by_correlation(self.reduced(grey))
        self.pose = result.pose
        return result

    def track(self, face: Grey, start: Array, search: TrackSearch, *, flat: bool = False) -> Tracks:
        """Follow the points into a `reduced` face, from where they may be: `start` (N,2) px."""
        if not len(self.points):
            return Tracks(self.points, np.zeros(0, bool), not flat)
        if flat and self._flat is None:
            self._flat = self._flattened(self._face)
        here = self._flat if flat and self._flat is not None else self._face
        there = face
        if flat:
            if self._seen_flat is None or self._seen_flat[0] is not face:
                self._seen_flat = face, self._flattened(face)
            there = self._seen_flat[1]
        begin = np.ascontiguousarray(self._inward(start).astype(np.float32)).reshape(-1, 1, 2)
        options: dict[str, Any] = {
            "winSize": (self._window, self._window),
            "maxLevel": search.levels,
            "criteria": (
                cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS,
                search.steps,
                search.precision,
            ),
            "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
        }
        moved, found, _ = cv2.calcOpticalFlowPyrLK(here, there, self._corners, begin, **options)
        kept = found[:, 0] > 0
        if search.back:
            back, found, _ = cv2.calcOpticalFlowPyrLK(
                there, here, moved, self._corners.copy(), **options
            )
            missed = np.hypot(*((back - self._corners)[:, 0] / self._ratio()).T)
            kept &= (found[:, 0] > 0) & (missed < RETURN * self.geometry.ipd)
        return Tracks(self._outward(moved[:, 0].astype(np.float64)), kept, not flat)

    def patient(self, face: Grey, start: Array, search: TrackSearch) -> Tracks:
        """`track`, and once more on normalised pictures where few points return."""
        tracks = self.track(face, start, search)
        if search.back and tracks.found.mean() < FEW_KEPT:
            again = self.track(face, start, search, flat=True)
            if again.found.sum() > MORE_KEPT * tracks.found.sum():
                return again
        return tracks

    def reduced(self, grey: Grey) -> Grey:
        """The region around the face at tracking resolution."""
        x0, y0, x1, y1 = self._box
        face = np.ascontiguousarray(grey[y0:y1, x0:x1])
        if self._scale != 1:
            size = (round((x1 - x0) * self._scale), round((y1 - y0) * self._scale))
            how = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_CUBIC
            face = cv2.resize(face, size, interpolation=how)
        if self._gain != 1:
            face = cv2.convertScaleAbs(face, alpha=self._gain)
        return face

    def _region(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        reach = REGION_REACH * self.geometry.ipd
        low = self.geometry.landmarks.min(axis=0) - reach
        high = self.geometry.landmarks.max(axis=0) + reach + 1
        limit = np.array([shape[1], shape[0]])
        x0, y0 = np.clip(np.floor(low), 0, limit - 16).astype(int)
        x1, y1 = np.clip(np.ceil(high), (x0 + 16, y0 + 16), limit).astype(int)
        return int(x0), int(y0), int(x1), int(y1)

    def _flattened(self, face: Grey) -> Grey:
        """Locally normalised: each place's own mean and contrast taken out.

        Both are blurred at half size: a fifth of the time, 0.04 grey levels away.
        """
        image = face.astype(np.float32)
        sigma = FLATTEN * self.geometry.ipd * self._scale
        height, width = face.shape
        both = cv2.copyMakeBorder(
            cv2.merge([image, image * image]), 0, height % 2, 0, width % 2, cv2.BORDER_REFLECT_101
        )
        half = cv2.resize(both, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        half = cv2.GaussianBlur(half, (0, 0), np.sqrt(sigma**2 - 0.25) / 2)
        whole = cv2.resize(half, both.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mean, power = cv2.split(whole[:height, :width])
        spread = np.sqrt(np.maximum(power - mean * mean, 0) + FLOOR)
        return np.clip(LEVEL + SPREAD * (image - mean) / spread, 0, 255).round().astype(np.uint8)

    def _ratio(self) -> Array:
        x0, y0, x1, y1 = self._box
        size = np.array([x1 - x0, y1 - y0], np.float64)
        return np.round(size * self._scale) / size if self._scale != 1 else np.ones(2)

    def _inward(self, points: Array) -> Array:
        """Original px → px of the reduced region."""
        return (points - self._box[:2] + 0.5) * self._ratio() - 0.5

    def _outward(self, points: Array) -> Array:
        return (points + 0.5) / self._ratio() - 0.5 + self._box[:2]

    def _by_points(self, face: Grey, *, quick: bool) -> Registered | None:
        """A quick search, and patient ones where it is not as good as usual."""
        if len(self.points) < MIN_POINTS:
            return None
        start = place(self.geometry, self.pose, self.points)
        best: Registered | None = None
        for search in (QUICK, NEAR, FAR)[0 if quick else 2 :]:
            tracks = self.patient(face, start, search)
            fit = self.model.fit(
                tracks.moved[None],
                tracks.found[None],
                np.array([tracks.lit]),
                rounds=QUICK_ROUNDS,
            )
            if not fit.solved[0]:
                continue
            error = float(fit.sigma[0]) / self.geometry.ipd
            if search is QUICK and (not fit.sure[0] or error > QUICK_SLACK * self._usual):
                continue
            found = registered(fit, tracks)
            if search is not QUICK and fit.sure[0]:
                self._usual = min(max(error, QUICK_ERROR), MAX_ERROR / 2)
            if fit.sure[0]:
                return found
            best = found
        return best

    def _by_correlation(self, face: Grey) -> Registered:
        """ECC over the whole face, from the previous pose without parallax; or that pose held."""
        inward = np.column_stack([np.diag(self._ratio()), self._inward(np.zeros(2))])
        grid = np.array([(0.0, 0.0), (face.shape[1], 0), (0, face.shape[0])])
        placed = apply(pose_matrix(self.pose, self.geometry.centre), self._outward(grid))
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
            return Registered(self.pose, "held")
        if score < MIN_ECC:
            return Registered(self.pose, "held")
        outer = self._outward(apply(warp.astype(np.float64), grid))
        pose = landmark_pose(self._outward(grid), outer, self.geometry.centre)
        return Registered(pose, "ecc")


def registered(fit: PoseFit, tracks: Tracks, frame: int = 0) -> Registered:
    """What a solved fit says of one of its frames."""
    return Registered(
        fit.poses[frame],
        "track" if fit.sure[frame] else "doubtful",
        fit.lights[frame],
        float(fit.agreeing[frame]),
        float(fit.sigma[frame]),
        np.where(tracks.found[:, None], tracks.moved, np.nan),
        float(fit.sd[frame]),
    )


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
