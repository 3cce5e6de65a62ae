"""The alignment modes: how one frame's head pose is found, and the words for what went wrong.

    none              the largest centred square of the frame; no face is looked for
    whole             the whole frame, squashed to a square (as HSTA's authors); no face either
    first_crop        the reference frame's crop for every frame
    landmarks         a similarity of the 68 landmarks, anew in every frame (shakes: for comparison)
    landmarks_smooth  the same, averaged over time by a Gaussian
    ecc               enhanced correlation coefficient, whole face
    track             tracked points, robust head pose, a block of frames together (default); where
                      points fail: ecc, then landmarks, then the last pose, and the status says so

`data.align.run` drives them over a video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from data.align.geometry import (
    IDENTITY,
    Geometry,
    apply,
    face_geometry,
    landmark_pose,
    outside_share,
    place,
    pose_matrix,
    square_geometry,
    whole_geometry,
)
from data.align.tracking import FaceTracker, Registered
from data.errors import InputError
from data.faces import EXCLUDED, Face, FaceFinder, Reference, equalise

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Register = Callable[[Image], Registered]
Glimpse = npt.NDArray[np.float32]

STATUS = (
    "ok",
    "ecc",
    "align_held",
    "no_face",
    "unreadable",
    "partial",
    "dark",
    "multi_face",
    "assumed_crop",
    "doubtful",
    "landmarks",
)
PLACED = ("ok", "partial", "dark", "multi_face", "assumed_crop")  # by the mode's own method
HELD = ("align_held", "no_face", "unreadable")  # frames whose geometry is another frame's
FACELESS = ("none", "whole")  # modes that look for no face
LOOK_PX = 110.0  # face box size at which the detector is shown a known face


@dataclass(frozen=True)
class Options:
    """A video's settings, see `data.align.settings`; `who` names the video in errors."""

    mode: str = "track"
    size: int = 224
    upright: bool = True
    points: int = 200
    parallax: bool = True
    smooth_frames: float = 2.0
    fps: float = 100.0
    who: str = "video"


@dataclass
class Segment:
    """What one reference frame is to a video. `geometry` learns depth as blocks are fitted.

    `how` it was found: "first"; "chained", registered to the reference `parent` with a standard
    deviation of `link_sd` px over the face; "landmarks", by landmarks alone; "cut", a new scene,
    whose geometry comes after none. Numbers may come back: a video returns to them.
    """

    number: int
    reference: Reference
    geometry: Geometry
    how: str = "first"
    parent: int = -1
    link_sd: float = float("nan")


@dataclass
class Placed:
    """One frame with its pose: `patch` is the part of the image its crop needs, from `origin`.

    `index` frame index; `pose` (8,) against the segment's reference; `status` a word of STATUS;
    `moved` (N,2) the tracked points in the frame, px, and `light` (2,) where there are any.
    """

    index: int
    patch: Image
    origin: tuple[int, int]
    shape: tuple[int, ...]
    pose: Array
    status: str
    inlier_ratio: float = float("nan")
    residual: float = float("nan")
    moved: Array | None = None
    light: Array | None = None


@dataclass(frozen=True)
class PlacedFrames:
    """Consecutive frames of one segment, and the geometry their crops are made by.

    `points` (N,2) reference px are what was tracked and `point_rms` (N,) px how far each strays
    from the head over the block; None where nothing was.
    """

    segment: Segment
    geometry: Geometry
    frames: list[Placed]
    points: Array | None = None
    point_rms: Array | None = None


def grey_of(image: Image) -> Image:
    """Grey version of an (H,W) or RGB (H,W,3) image."""
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def reference_geometry(reference: Reference, shape: tuple[int, ...], options: Options) -> Geometry:
    """Crop geometry of a reference. Raises InputError `partial`.

    That is when more than a quarter of the crop lies outside the image; an assumed face may.
    """
    if options.mode == "none":
        return square_geometry(reference.landmarks, shape, options.size)
    if options.mode == "whole":
        return whole_geometry(reference.landmarks, shape, options.size)
    geometry = face_geometry(reference.landmarks, options.size, upright=options.upright)
    outside = outside_share(geometry.to_crop, options.size, shape)
    if outside > EXCLUDED and "assumed_crop" not in reference.flags:
        raise InputError(
            options.who,
            expected=f"a face inside the image (at most {EXCLUDED:.0%} of its crop outside)",
            got=f"{outside:.0%} outside",
            code="partial",
        )
    return geometry


def registration(
    image: Image, segment: Segment, finder: FaceFinder | None, options: Options
) -> tuple[Register, FaceTracker | None]:
    """The function that registers a grey frame to the reference `image`, and its tracker if any."""
    if options.mode in (*FACELESS, "first_crop"):
        still = Registered(IDENTITY, "still")
        return (lambda _: still), None
    if options.mode in ("landmarks", "landmarks_smooth"):
        assert finder is not None
        return LandmarkRegistration(finder, segment).register, None
    tracker = FaceTracker(
        grey_of(image), segment.geometry, points=options.points, parallax=options.parallax
    )
    if options.mode == "ecc":
        return tracker.correlate, tracker
    return (lambda grey: tracker.register(grey)), tracker


class LandmarkRegistration:
    """A similarity from the reference's landmarks to those found in each frame."""

    def __init__(self, finder: FaceFinder, segment: Segment) -> None:
        self._finder, self._segment = finder, segment
        self._box = segment.reference.face.box
        self._pose = IDENTITY
        self._dark = "dark" in segment.reference.flags

    def register(self, grey: Image) -> Registered:
        """Pose of a frame from its own landmarks, of the face that overlaps the last one most."""
        image = equalise(grey) if self._dark else grey
        faces = look_at(self._finder, image, self._box)
        if not faces:
            return Registered(self._pose, "held")
        self._box = max(faces, key=lambda f: overlap(f.box, self._box)).box
        landmarks = self._finder.landmarks(image, self._box)
        geometry = self._segment.geometry
        self._pose = landmark_pose(geometry.landmarks, landmarks, geometry.centre)
        error = np.hypot(*(landmarks - place(geometry, self._pose, geometry.landmarks)).T)
        residual = float(np.sqrt((error**2).mean()))
        return Registered(self._pose, "landmarks", inlier_ratio=1.0, residual=residual)


def look_at(finder: FaceFinder, grey: Image, box: Array) -> list[Face]:
    """Faces within a box's width of `box`, seen at a size the detector is quick and sure at."""
    side = float(box[2] - box[0])
    limit = np.array([grey.shape[1], grey.shape[0]])
    low = np.clip(np.floor(box[:2] - 0.6 * side), 0, limit - 16).astype(int)
    high = np.clip(np.ceil(box[2:] + 0.6 * side), low + 16, limit).astype(int)
    part = np.ascontiguousarray(grey[low[1] : high[1], low[0] : high[0]])
    faces = finder.detect(part, scale=min(1.0, LOOK_PX / side))
    shift = np.tile(low, 2)
    return [Face(f.box + shift, f.score, f.count) for f in faces]


def carried_box(segment: Segment, pose: Array) -> Array:
    """Where the reference's face box (x0, y0, x1, y1) goes with a pose; it stays upright."""
    low, high = segment.reference.face.box.reshape(2, 2)
    middle = apply(pose_matrix(pose, segment.geometry.centre), (low + high) / 2)
    half = (high - low) / 2 * float(np.hypot(pose[0], pose[1]))
    return np.concatenate([middle - half, middle + half])


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return common / max(areas - common, 1e-9)


def smooth_poses(poses: Array, good: npt.NDArray[np.bool_], sigma: float) -> Array:
    """Gaussian average over time of poses (T,8), sd `sigma` frames, from the `good` frames."""
    if sigma <= 0 or not good.any():
        return poses
    reach = np.arange(len(poses))
    weight = np.exp(-0.5 * ((reach[:, None] - reach[None]) / sigma) ** 2) * good
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 1e-6, weight @ poses / np.maximum(total, 1e-6), poses)


def thumb(grey: Image) -> Image:
    """The picture at about 48 columns."""
    step = max(1, grey.shape[1] // 48)
    return np.asarray(cv2.blur(grey[::step, ::step], (3, 3)))


def standard(part: Image) -> Glimpse:
    """A picture's values with zero mean and unit variance."""
    values = part.astype(np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1.0), np.float32)
