"""One event's frames registered to its own onset: tracks, poses, fallbacks.

The onset frame is the reference. Its landmarks are the detector's own: those that alignment carries
through its references drift, by a tenth of the inter-pupil distance in ten lively seconds, and with
them the places where expressions are looked for. Where the detector sees no such face the carried
ones serve. A first guess of every pose comes from the alignment of the video; the depth is the
video's, learned without this event's frames. Each frame's points are tracked from the onset itself,
there and back, and all frames are fitted by `data.align.fitting`. A frame that gives no pose takes
the one of the alignment's chain, and where that has none, one between its neighbours'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data.align.fitting import MIN_KEPT, PoseFit
from data.align.geometry import (
    Geometry,
    centred,
    face_geometry,
    hull_points,
    place,
    unplace,
)
from data.align.modes import HELD, Image, grey_of, look_at, overlap
from data.align.store import StoredPoses
from data.align.tracking import FAR, NEAR, FaceTracker, Tracks
from data.align.views import between, pose_of_map
from data.faces import FaceFinder, equalise, interpupil, is_dark

Array = npt.NDArray[np.float64]

STATUS = ("ok", "doubtful", "chained", "align_held", "no_face", "unreadable")
USABLE = ("ok", "doubtful", "chained", "align_held")  # frames that show the face
BLOCK_FRAMES = 64  # fitted at once
# a face whose landmarks part more from the carried ones is another: log of the size, IPD
SIZE_APART, PLACE_APART = 0.25, 0.3


@dataclass(frozen=True)
class Pose:
    """One frame on the event's reference: `pose` (8,), a word of STATUS, and how well, px."""

    pose: Array
    status: str
    residual: float = float("nan")
    agreeing: float = float("nan")
    sd: float = float("nan")


def onset_landmarks(finder: FaceFinder, grey: Image, carried: Array) -> Array | None:
    """The landmarks (68,2) px of the face that lies where the `carried` ones do; None without."""
    where = np.concatenate([carried.min(axis=0), carried.max(axis=0)])
    faces = look_at(finder, grey, where)
    if not faces:
        return None
    face = max(faces, key=lambda f: overlap(f.box, where))
    seen = finder.steady_landmarks(equalise(grey) if is_dark(grey, face.box) else grey, face.box)
    ipd = interpupil(carried)
    same_size = abs(np.log(interpupil(seen) / ipd)) < SIZE_APART
    same_place = np.hypot(*(seen - carried).T).mean() < PLACE_APART * ipd
    return seen if same_size and same_place else None


def event_geometry(
    stored: StoredPoses,
    frame: int,
    added: Array,
    look: Callable[[Array], Array | None],
    *,
    upright: bool = True,
) -> tuple[Geometry, bool]:
    """The geometry of a frame as an event's reference, and whether its landmarks were seen in it.

    `look` is given the carried landmarks (68,2) px and says what the detector sees there.
    """
    old, pose = stored.geometry(frame), stored.poses[frame]
    carried = place(old, pose, old.landmarks)
    seen = look(carried)
    landmarks = carried if seen is None else seen
    geometry = face_geometry(landmarks, old.size, upright=upright)
    depth = replace(geometry.depth, slope=old.depth.slope + pose[4:6], added=added)
    return geometry.with_depth(centred(depth, landmarks)), seen is not None


class Guesses:
    """Where points of the reference frame lie in other frames, by the video's alignment."""

    def __init__(self, stored: StoredPoses, frame: int, located: npt.NDArray[np.bool_]) -> None:
        """`located` (T,): frames of the video whose pose was measured."""
        self._stored, self._frame, self._located = stored, frame, located
        self._home = stored.geometry(frame)
        self._inner: tuple[int, Array] = (0, np.zeros((0, 2)))
        self._carried: dict[int, Array | None] = {}

    def __call__(self, frame: int, points: Array) -> Array | None:
        """Points (N,2) px in `frame`; None where the alignment does not know."""
        if not self._located[frame]:
            return None
        if self._inner[0] != id(points):  # the same points are asked for again and again
            inner = unplace(self._home, self._stored.poses[self._frame], points)
            self._inner, self._carried = (id(points), inner), {}
        there, segment = self._stored.geometry(frame), int(self._stored.segment[frame])
        if segment not in self._carried:
            self._carried[segment] = between(self._home, there, self._inner[1])
        carried = self._carried[segment]
        return None if carried is None else place(there, self._stored.poses[frame], carried)


def register_event(
    frames: Iterable[tuple[int, Image | None]],
    reference: int,
    image: Image,
    geometry: Geometry,
    guess: Guesses,
    absent: npt.NDArray[np.bool_],
    *,
    points: int = 300,
    keep: Callable[[int, Image, Array], None] | None = None,
) -> dict[int, Pose]:
    """Pose of each of `frames` (grey or RGB, None where unreadable) on the frame `reference`.

    `image` is that frame. `absent` (T,): frames of the video in which alignment saw no face; their
    poses are believed only if the points agree well. `keep` is given each frame that could be
    read, with its pose as far as it is known then.
    """
    tracker = FaceTracker(grey_of(image), geometry, points=points, give=True)
    face = hull_points(geometry.landmarks, step=max(1, round(geometry.ipd / 5)))
    out: dict[int, Pose] = {}
    waiting: list[tuple[int, Tracks]] = []
    last = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    shape = image.shape

    def settle() -> None:
        if waiting:
            fit = _fit(tracker, [t for _, t in waiting])
            for row, (index, _) in enumerate(waiting):
                out[index] = _pose(fit, row, believed=not absent[index])
            waiting.clear()

    for index, picture in frames:
        if picture is None or picture.shape != shape:
            out[index] = Pose(last, "unreadable")
            continue
        reduced = tracker.reduced(grey_of(picture))
        guessed = guess(index, tracker.points)
        held = place(geometry, last, tracker.points)
        tracks = tracker.patient(reduced, held if guessed is None else guessed, NEAR)
        if tracks.found.sum() and tracks.found.mean() < MIN_KEPT:
            again = tracker.patient(reduced, held, FAR)
            tracks = again if again.found.sum() > tracks.found.sum() else tracks
        quick = tracker.model.fit(
            tracks.moved[None], tracks.found[None], np.array([tracks.lit]), rounds=3
        )
        if quick.solved[0]:
            last = quick.poses[0]
        if keep is not None:
            keep(index, picture, last)
        waiting.append((index, tracks))
        if len(waiting) == BLOCK_FRAMES:
            settle()
    settle()
    return _filled(out, guess, geometry, face)


def _fit(tracker: FaceTracker, tracks: list[Tracks]) -> PoseFit:
    return tracker.model.fit(
        np.stack([t.moved for t in tracks]),
        np.stack([t.found for t in tracks]),
        np.array([t.lit for t in tracks]),
    )


def _pose(fit: PoseFit, row: int, *, believed: bool) -> Pose:
    if not fit.solved[row] or not (believed or fit.sure[row]):
        return Pose(fit.poses[row], "no_face" if not believed else "align_held")
    return Pose(
        fit.poses[row],
        "ok" if fit.sure[row] else "doubtful",
        float(fit.sigma[row]),
        float(fit.agreeing[row]),
        float(fit.sd[row]),
    )


def _filled(
    poses: dict[int, Pose], guess: Guesses, geometry: Geometry, face: Array
) -> dict[int, Pose]:
    """The same, with a pose for each frame that gave none."""
    measured = [i for i, p in poses.items() if p.status in ("ok", "doubtful")]
    for index, found in poses.items():
        if found.status == "align_held" and (there := guess(index, face)) is not None:
            poses[index] = Pose(pose_of_map(geometry, face, there), "chained")
            measured.append(index)
    measured.sort()
    if not measured:
        return poses
    known = np.array([poses[i].pose for i in measured])
    for index, found in poses.items():
        if found.status in ("align_held", "no_face", "unreadable"):
            between_ = np.array([np.interp(index, measured, known[:, k]) for k in range(8)])
            poses[index] = replace(found, pose=between_)
    return poses


def located(status: npt.NDArray[np.integer], names: list[str]) -> npt.NDArray[np.bool_]:
    """Frames (T,) whose pose alignment measured, from its status codes."""
    return ~np.isin(status, [names.index(n) for n in HELD if n in names])
