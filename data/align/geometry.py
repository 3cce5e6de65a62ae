"""Geometry of alignment: where a face is in each frame, and its crop made by one resampling.

A reference frame fixes the geometry (landmarks, crop square). Every other frame is described by a
head pose against it: a similarity, what yaw and pitch of a deep head in perspective do, and a
small affine part for what depth and camera leave. With X a point of the reference frame, c the
crop's centre, (x, y) = (X − c) / ipd, h(X) the head's depth, both in inter-pupil distances, and Z
the camera's distance,

    frame(X) = c + [a −b; b a] (X − c) + (tx, ty)
               + ipd · (yaw (h − x²/Z) − pitch x y/Z,  pitch (h − y²/Z) − yaw x y/Z)
               + ipd · (e₁ x + e₂ y,  e₂ x − e₁ y)

yaw and pitch are small angles in radians. h has zero mean over the face, so that leaving the
parallax out gives the best similarity. Points are (x, y), x right and y down, pixel centres at
integers. A reference that was registered to an earlier one may carry on its crop: the crop's pixels
are then placed by both poses, one after the other, and sampled once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from data.faces import EYES, JAW, NOSE, interpupil

Array = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]

CROP_SIDE = 2.3  # inter-pupil distances
CROP_DOWN = 0.02  # crop centre below the mean of the nose landmarks, inter-pupil distances
IDENTITY = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
CAMERA = 10.0  # Z: the camera's distance, inter-pupil distances (0.6 m)
NODES = np.arange(7) * 0.33 - 1.0  # of what a video adds to the depth, along either axis
NODE_WIDTH = 0.3  # Gaussian sd around a node, inter-pupil distances
DEPTH_TERMS = len(NODES) ** 2
UNBENT = ("centre", "crop_grid")  # of a geometry: whatever its own depth is


@dataclass(frozen=True)
class Depth:
    """Head depth h, inter-pupil distances: half ellipsoid with a nose, and what a video adds to it.

    All but `to_face` is in face coordinates: inter-pupil distances about the crop's centre, x along
    the line of the eyes; `to_face` (2,3) maps px to them. `centre`, `half` (2,): the ellipse of
    the face; `nose` (2,): its tip; `slope` (2,): how a head that is turned already leans, less
    depth per x and y; `added` (49,): coefficients of `terms`; `mean`: what is subtracted.
    """

    to_face: Array
    centre: Array
    half: Array
    nose: Array
    slope: Array = field(default_factory=lambda: np.zeros(2))
    added: Array = field(default_factory=lambda: np.zeros(DEPTH_TERMS))
    mean: float = 0.0

    def _prior(self, at: Array) -> Array:
        """Half ellipsoid of 0.9 with a nose bump of 0.2, leaning."""
        x, y = at[..., 0], at[..., 1]
        u, v = (x - self.centre[0]) / self.half[0], (y - self.centre[1]) / self.half[1]
        shell = 0.9 * np.sqrt(np.maximum(0.0, 1 - u**2 - v**2))
        bump = ((x - self.nose[0]) / 0.16) ** 2 + ((y - self.nose[1]) / 0.20) ** 2
        return np.asarray(shell + 0.2 * np.exp(-0.5 * bump) - at @ self.slope)

    def prior(self, points: Array) -> Array:
        """h without what a video adds, and without `mean`: (...,2) px → (...)."""
        return self._prior(apply(self.to_face, points))

    def terms(self, points: Array) -> Array:
        """Gaussians a video may add: (...,2) px → (..., 49)."""
        across, down = _hills(apply(self.to_face, points))
        return np.asarray((down[..., :, None] * across[..., None, :]).reshape(*down.shape[:-1], -1))

    def __call__(self, points: Array) -> Array:
        """h at (...,2) px."""
        at = apply(self.to_face, points)
        h = self._prior(at) - self.mean
        if self.added.any():
            across, down = _hills(at)
            h = h + ((down @ self.added.reshape(len(NODES), -1)) * across).sum(-1)
        return np.asarray(h)


def _hills(at: Array) -> tuple[Array, Array]:
    """Gaussians of the nodes along x and along y: (...,2) → (...,7) each."""
    x, y = (np.exp(-0.5 * ((at[..., k, None] - NODES) / NODE_WIDTH) ** 2) for k in (0, 1))
    return x, y


def face_axes(landmarks: Array) -> Array:
    """Affine (2,3) from px to face coordinates, see `Depth`."""
    ipd = interpupil(landmarks)
    left, right = (landmarks[eye].mean(axis=0) for eye in EYES)
    across = (right - left) / ipd
    down = np.array([-across[1], across[0]])
    turn = np.array([across, down]) / ipd
    return np.column_stack([turn, -turn @ (landmarks[NOSE].mean(axis=0) + CROP_DOWN * ipd * down)])


def head_depth(
    landmarks: Array,
    slope: Array | None = None,
    added: Array | None = None,
    mean: float | None = None,
) -> Depth:
    """The depth of a face with these landmarks (68,2) px: the prior, and what is known beyond.

    Without `mean`, it is what makes h zero in the mean over the face.
    """
    to_face = face_axes(landmarks)
    at = apply(to_face, landmarks)
    jaw, brows = at[JAW], at[17:27].mean(axis=0)
    top, bottom = brows[1] - 1.0, jaw[8, 1] + 0.05
    centre = np.array([(jaw[0, 0] + jaw[16, 0]) / 2, (top + bottom) / 2])
    half = np.array([0.55 * np.hypot(*(jaw[16] - jaw[0])), (bottom - top) / 2])
    depth = Depth(
        to_face,
        centre,
        half,
        at[30],
        np.zeros(2) if slope is None else slope,
        np.zeros(DEPTH_TERMS) if added is None else added,
    )
    return centred(depth, landmarks) if mean is None else replace(depth, mean=mean)


def centred(depth: Depth, landmarks: Array) -> Depth:
    """The same depth with zero mean over the convex hull of the landmarks."""
    inside = hull_points(landmarks, step=max(1, round(interpupil(landmarks) / 20)))
    return replace(depth, mean=float(replace(depth, mean=0.0)(inside).mean()))


def hull_points(landmarks: Array, step: int) -> Array:
    """Grid of points (n,2) inside the convex hull of the landmarks, `step` px apart."""
    low, high = np.floor(landmarks.min(axis=0)), np.ceil(landmarks.max(axis=0))
    xs, ys = (np.arange(low[k], high[k] + 1, step) for k in (0, 1))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    hull = cv2.convexHull(landmarks.astype(np.float32))[:, 0].astype(np.float64)
    side, away = np.roll(hull, -1, axis=0) - hull, grid[:, None] - hull
    turn = side[:, 0] * away[..., 1] - side[:, 1] * away[..., 0]
    return np.asarray(grid[(turn >= 0).all(axis=1) | (turn <= 0).all(axis=1)])


@dataclass(frozen=True)
class Geometry:
    """What one reference frame fixes: landmarks (68,2) px, the crop square, the head's depth.

    `to_crop` (2,3) maps reference px to crop px. `before`, where this reference was registered to
    an earlier one: that geometry and this reference's pose against it. With `carries` it carries
    on the earlier crop, and `to_crop` is the similarity nearest to what the poses make of it.
    """

    landmarks: Array
    ipd: float
    size: int
    to_crop: Array
    depth: Depth
    before: tuple[Geometry, Array] | None = None
    carries: bool = False

    @cached_property
    def centre(self) -> Array:
        """The crop's centre in the reference frame, px (2,)."""
        return apply(invert(self.to_crop), np.full(2, (self.size - 1) / 2))

    def with_depth(self, depth: Depth) -> Geometry:
        """The same with another depth; what does not depend on it is not worked out anew."""
        made = replace(self, depth=depth)
        made.__dict__.update({n: self.__dict__[n] for n in UNBENT if n in self.__dict__})
        return made

    @property
    def landmarks_crop(self) -> Array:
        """Landmarks in crop px (68,2)."""
        return apply(self.to_crop, self.landmarks)

    @cached_property
    def crop_grid(self) -> Array:
        """Where the crop's pixels lie in the reference frame, px (S,S,2)."""
        if self.carries and self.before is not None:
            earlier, pose = self.before
            return place(earlier, pose, earlier.crop_grid)
        ys, xs = np.mgrid[: self.size, : self.size].astype(np.float64)
        return apply(invert(self.to_crop), np.stack([xs, ys], axis=-1))


def face_geometry(landmarks: Array, size: int, *, upright: bool = True) -> Geometry:
    """Crop square of side 2.3 inter-pupil distances around the nose, eyes level if `upright`."""
    ipd = interpupil(landmarks)
    left, right = (landmarks[eye].mean(axis=0) for eye in EYES)
    across = (right - left) / ipd if upright else np.array([1.0, 0.0])
    down = np.array([-across[1], across[0]])
    centre = landmarks[NOSE].mean(axis=0) + CROP_DOWN * ipd * down
    scale = size / (CROP_SIDE * ipd)
    turn = scale * np.array([across, down])
    shift = (size - 1) / 2 - turn @ centre
    return Geometry(landmarks, ipd, size, np.column_stack([turn, shift]), head_depth(landmarks))


def square_geometry(landmarks: Array, shape: tuple[int, ...], size: int) -> Geometry:
    """The largest centred square of the frame as the crop (mode `none`)."""
    side = min(shape[:2])
    scale = size / side
    centre = (np.array([shape[1], shape[0]]) - 1) / 2
    to_crop = np.column_stack([scale * np.eye(2), (size - 1) / 2 - scale * centre])
    return Geometry(landmarks, interpupil(landmarks), size, to_crop, head_depth(landmarks))


def whole_geometry(landmarks: Array, shape: tuple[int, ...], size: int) -> Geometry:
    """The whole frame as the crop, its sides scaled one by one to a square (mode `whole`).

    Pixel edges meet pixel edges, as an image resize has it.
    """
    scale = size / np.array([shape[1], shape[0]], np.float64)
    to_crop = np.column_stack([np.diag(scale), (scale - 1) / 2])
    return Geometry(landmarks, interpupil(landmarks), size, to_crop, head_depth(landmarks))


def apply(matrix: Array, points: Array) -> Array:
    """Affine (2,3) on points (...,2)."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def invert(matrix: Array) -> Array:
    """Inverse of an affine (2,3)."""
    (a, b, tx), (c, d, ty) = matrix.tolist()
    scale = 1 / (a * d - b * c)
    turn = scale * np.array([[d, -b], [-c, a]])
    return np.column_stack([turn, -turn @ (tx, ty)])


def compose(outer: Array, inner: Array) -> Array:
    """Affine (2,3) that applies `inner`, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def pose_matrix(pose: Array, centre: Array) -> Array:
    """The similarity part of a pose (8,) as an affine (2,3), reference px → frame px."""
    a, b, tx, ty = pose[:4]
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, centre + np.array([tx, ty]) - turn @ centre])


def matrix_pose(matrix: Array, centre: Array) -> Array:
    """The pose (8,) without parallax of a similarity (2,3), reference px → frame px."""
    a, b = (matrix[0, 0] + matrix[1, 1]) / 2, (matrix[1, 0] - matrix[0, 1]) / 2
    tx, ty = apply(matrix, centre) - centre
    return np.array([a, b, tx, ty, 0.0, 0.0, 0.0, 0.0])


def bends(x: Array, y: Array, depth: Array) -> Array:
    """What a radian of yaw, a radian of pitch, e₁ and e₂ do to points: (2, ..., 4).

    `x`, `y` about the crop's centre and `depth`, all in inter-pupil distances, as is the result.
    """
    cross = -x * y / CAMERA
    return np.stack(
        [
            np.stack([depth - x * x / CAMERA, cross, x, y], axis=-1),
            np.stack([cross, depth - y * y / CAMERA, -y, x], axis=-1),
        ]
    )


def _bent(geometry: Geometry, pose: Array, points: Array) -> Array:
    """What a pose does beside its similarity, px (...,2)."""
    x, y = np.moveaxis((points - geometry.centre) / geometry.ipd, -1, 0)
    shift = bends(x, y, geometry.depth(points)) @ (geometry.ipd * pose[4:])
    return np.moveaxis(shift, 0, -1)


def place(geometry: Geometry, pose: Array, points: Array) -> Array:
    """Where reference points (...,2) px lie in the frame of `pose` (8,), px."""
    moved = apply(pose_matrix(pose, geometry.centre), points)
    return np.asarray(moved + _bent(geometry, pose, points)) if pose[4:].any() else moved


def unplace(geometry: Geometry, pose: Array, points: Array) -> Array:
    """Inverse of `place`: the reference points seen at `points` (...,2) px in the frame."""
    back = invert(pose_matrix(pose, geometry.centre))
    found = apply(back, points)
    if pose[4:].any():
        for _ in range(8):  # it changes slowly over the face: each step gains a digit or two
            found = apply(back, points - _bent(geometry, pose, found))
    return found


def frame_to_crop(geometry: Geometry, pose: Array) -> Array:
    """Affine (2,3) of one frame, original px → crop px, parallax left out."""
    return compose(geometry.to_crop, invert(pose_matrix(pose, geometry.centre)))


def outside_share(to_crop: Array, size: int, shape: tuple[int, ...]) -> float:
    """Share of the crop square that lies outside an image of `shape`, 0..1."""
    limit = np.array([shape[1], shape[0]]) - 0.5
    outer = np.array([-0.5, size - 0.5])
    corners = np.stack(np.meshgrid(outer, outer), axis=-1).reshape(-1, 2)
    seen = apply(invert(to_crop), corners)
    if (seen >= -0.5).all() and (seen <= limit).all():
        return 0.0
    steps = (np.arange(20) + 0.5) * size / 20 - 0.5
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    points = apply(invert(to_crop), grid)
    return float(1 - ((points >= -0.5) & (points <= limit)).all(axis=1).mean())


class CropMaker:
    """Makes crops of one geometry: each output pixel is one cubic sample of the frame.

    A crop much smaller than the face in the frame is made from a Gaussian-smoothed frame, so that
    detail beyond the crop's pixels does not alias. Pixels outside the frame repeat its border.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        grid = geometry.crop_grid
        self._rim = np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]])
        reductions = np.hypot(*np.linalg.inv(geometry.to_crop[:, :2]))  # along crop x, crop y
        across, down = (0.45 * np.sqrt(max(0.0, float(r) ** 2 - 1.2**2)) for r in reductions)
        self._sigmas = across, down

    @cached_property
    def _rows(self) -> npt.NDArray[np.float32]:
        """What each part of a pose does to the crop's pixels: (5, S·S) px."""
        geometry = self._geometry
        grid = geometry.crop_grid
        x, y = np.moveaxis((grid - geometry.centre) / geometry.ipd, -1, 0)
        yaw, cross = bends(x, y, geometry.depth(grid))[0, ..., :2].transpose(2, 0, 1)
        pitch = yaw + (x * x - y * y) / CAMERA
        rows = geometry.ipd * np.stack([x, y, yaw, cross, pitch])
        return rows.reshape(5, -1).astype(np.float32)

    def box(
        self, pose: Array, shape: tuple[int, ...], margin: int = 0
    ) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the part of an image of `shape` that the crop samples, ends open."""
        margin = margin + 4 + int(np.ceil(3 * max(self._sigmas)))
        seen = apply(pose_matrix(pose, self._geometry.centre), self._rim)
        reach = margin + 1.5 * self._geometry.ipd * float(np.abs(pose[4:]).max())
        low, high = seen.min(axis=0) - reach, seen.max(axis=0) + reach
        limit = np.array([shape[1], shape[0]])
        x0, y0 = np.clip(np.floor(low), 0, limit - 8).astype(int)
        x1, y1 = np.clip(np.ceil(high), (x0 + 8, y0 + 8), limit).astype(int)
        return int(x0), int(y0), int(x1), int(y1)

    def __call__(
        self,
        patch: Grey,
        pose: Array,
        origin: tuple[int, int] = (0, 0),
        shape: tuple[int, ...] | None = None,
    ) -> Grey:
        """The crop (S,S) or (S,S,3) of a frame of `shape`.

        `patch` is the frame, or its part from pixel `origin` (x, y) on, with at least `box` in it.
        """
        x0, y0, x1, y1 = self.box(pose, shape or patch.shape)
        left, top = origin
        image = np.ascontiguousarray(patch[y0 - top : y1 - top, x0 - left : x1 - left])
        a, b, tx, ty, yaw, pitch, e1, e2 = pose
        turn = np.array([[a + e1, e2 - b, yaw, pitch, 0], [b + e2, a - e1, 0, yaw, pitch]],
                        np.float32)  # fmt: skip
        shift = self._geometry.centre + np.array([tx - x0, ty - y0])
        maps = turn @ self._rows + shift.astype(np.float32)[:, None]
        if max(self._sigmas) > 0:
            across, down = (max(s, 1e-3) for s in self._sigmas)  # OpenCV reads 0 as "the other's"
            image = cv2.GaussianBlur(image, (0, 0), across, None, down, cv2.BORDER_REPLICATE)
        size = self._geometry.size
        crop = cv2.remap(
            image,
            maps[0].reshape(size, size),
            maps[1].reshape(size, size),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(crop, dtype=np.uint8)


def landmark_pose(source: Array, target: Array, centre: Array) -> Array:
    """Least-squares similarity pose (8,) that takes `source` points to `target` points (n,2)."""
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    p, q = source - from_mean, target - to_mean
    power = float((p**2).sum())
    a = float((p * q).sum()) / power
    b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / power
    turn = np.array([[a, -b], [b, a]])
    matrix = np.column_stack([turn, to_mean - turn @ from_mean])
    return matrix_pose(matrix, centre)
