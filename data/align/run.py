"""Aligning a whole video in one pass: references, lost faces, blocks of placed frames.

Frames are registered to a reference. When the head has gone far from it, or its points no longer
agree, an earlier reference nearer to the present pose takes over, or the last frame that was placed
well becomes one: registered to the reference before it (`Segment.link`), and carrying on its crop,
so that nothing jumps. A face that was lost is looked for by the detector; a new scene is a cut.
Frames leave in blocks of one reference, in playing order; at most one block of face patches is held
in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data.align.fitting import BISQUARE, LEAST_ERROR
from data.align.geometry import (
    IDENTITY,
    CropMaker,
    frame_to_crop,
    landmark_pose,
    outside_share,
    place,
)
from data.align.joint import BIN_SECONDS, DepthEvidence, refine
from data.align.modes import (
    FACELESS,
    HELD,
    Image,
    Options,
    Placed,
    PlacedFrames,
    Register,
    Segment,
    carried_box,
    grey_of,
    look_at,
    overlap,
    reference_geometry,
    registration,
    smooth_poses,
)
from data.align.tracking import FaceTracker, Registered
from data.align.views import Viewpoint, carried_on, crops_apart
from data.align.watching import FaceSearch, SceneWatch
from data.errors import InputError
from data.faces import PARTIAL, FaceFinder, Reference

Array = npt.NDArray[np.float64]
Frames = Iterable[tuple[int, Image | None]]  # grey or RGB images, None where unreadable

MAX_SCALE, MAX_ROLL_DEG, MAX_SHIFT = 0.10, 10.0, 0.30  # motion that calls for another reference
MAX_ANGLE = 0.15  # yaw or pitch, rad
CHECK_SECONDS = 0.5  # between looks by the detector, to notice a track on the wrong thing
MIN_OVERLAP = 0.5
LOST_SECONDS = 0.1  # a face lost for longer is looked for
EAGER_LOOKS = 10  # frames in a row searched after a face is lost
EAGER_TRIES = 3  # doubtful frames in a row at each of which other references are tried
RECENT = 3  # frames back that a new reference may lie
KEPT_VIEWS, TRIED_VIEWS = 32, 2  # references that can be returned to; tried in one frame
MAX_DRIFT = 0.006  # IPD: a return that would move the crop by more is no return
BLOCK_FRAMES, BLOCK_BYTES = 512, 48 << 20
MARGIN = 12  # px kept around a crop's box, for what the joint fit still moves


def align_frames(
    frames: Frames,
    image: Image,
    reference: Reference,
    finder: FaceFinder | None,
    options: Options,
) -> Iterator[PlacedFrames]:
    """Place every frame of `frames`, in playing order, against `reference` found in `image`.

    Raises InputError `partial` when the reference's crop lies too far outside the image.
    """
    geometry = reference_geometry(reference, image.shape, options)
    yield from Run(Segment(0, reference, geometry), image, finder, options).blocks(frames)


@dataclass
class _View:
    """A reference with what registers frames to it."""

    segment: Segment
    register: Register
    tracker: FaceTracker | None
    maker: CropMaker
    place: Viewpoint


class Run:
    """One pass over one video. `segments`, `evidence` of depth and `cuts` (frames) grow with it."""

    def __init__(
        self, segment: Segment, image: Image, finder: FaceFinder | None, options: Options
    ) -> None:
        self._options, self._finder = options, finder
        self._patience = max(5, round(LOST_SECONDS * options.fps))
        self._check_every = max(5, round(CHECK_SECONDS * options.fps))
        self._follows = options.mode not in (*FACELESS, "first_crop") and finder is not None
        self._points = options.mode == "track" and self._follows
        self._pending: list[Placed] = []
        self._before: list[Placed] = []  # already given out, still needed for smoothing
        self._ready: list[PlacedFrames] = []
        self._shape = image.shape
        self._first = image
        self._views: list[_View] = []
        self.segments: list[Segment] = []
        self.evidence = DepthEvidence(max(1, round(BIN_SECONDS * options.fps)))
        self.cuts: list[int] = []
        self._scene, self._search = SceneWatch(), FaceSearch(finder, options.fps)
        self._begin(self._add(segment, image))

    def blocks(self, frames: Frames) -> Iterator[PlacedFrames]:
        """All blocks."""
        for index, image in frames:
            if image is None or image.shape != self._shape:
                self._repeat(index)
            else:
                grey = grey_of(image)
                before = self._view
                found = self._see(index, grey)
                found = self._elsewhere(index, image, grey, found)
                yield from self._ready
                self._ready.clear()
                if self._view is not before:
                    yield from self._flush(before, final=True)
                    self._before, self._given = [], found.pose
                self._append(index, image, found)
            if self._full():
                yield from self._flush(self._view, final=False)
        yield from self._flush(self._view, final=True)

    # ------------------------------------------------------------------------------- references

    def _add(self, segment: Segment, image: Image) -> _View:
        register, tracker = registration(image, segment, self._finder, self._options)
        geometry = segment.geometry
        view = _View(segment, register, tracker, CropMaker(geometry), Viewpoint(geometry))
        self._views.append(view)
        self.segments.append(segment)
        if len(self._views) > KEPT_VIEWS:
            self._views.pop(1)  # the first one is home
        return view

    def _begin(self, view: _View) -> None:
        self._view = view
        self._pose = IDENTITY
        self._lost = 0  # frames in a row that could not be registered
        self._cut = False  # what is seen now is not what the reference showed
        self._unchecked = 0
        self._good: tuple[int, Image, Registered] | None = None  # the last frame placed well
        self._given = IDENTITY  # the last pose of the last block
        self._doubts = 0  # frames in a row that were not placed well
        self._gone = False  # doubtful, and the detector sees no face

    def _see(self, index: int, grey: Image) -> Registered:
        """Register a frame to the present reference; after a cut there is nothing to register."""
        unlike = self._follows and self._scene.unlike(grey, self._view.maker)
        if self._cut:
            found = Registered(self._pose, "held")
        else:
            found = self._view.register(grey)
            if unlike and found.method != "track":
                self._cut = True
                self.cuts.append(index)
                found = Registered(self._pose, "held")
        if found.method == "held" and not self._cut and self._points:
            found = self._by_landmarks(grey) or found
        self._lost = self._lost + 1 if found.method == "held" else 0
        self._pose = found.pose
        return found

    def _by_landmarks(self, grey: Image) -> Registered | None:
        """The face where the detector sees it near its last place; its points from there, if so."""
        view = self._view
        if self._finder is None or view.tracker is None or view.segment.reference.face.count == 0:
            return None
        box = carried_box(view.segment, self._pose)
        faces = look_at(self._finder, grey, box)
        near = [f for f in faces if overlap(f.box, box) > 0]
        if not near:
            return None
        face = max(near, key=lambda f: overlap(f.box, box))
        seen = self._finder.landmarks(grey, face.box)
        geometry = view.segment.geometry
        pose = landmark_pose(geometry.landmarks, seen, geometry.centre)
        found = view.tracker.attempt(grey, pose)
        if found is not None:
            return found
        error = np.hypot(*(seen - place(geometry, pose, geometry.landmarks)).T)
        view.tracker.pose = pose
        return Registered(pose, "landmarks", residual=float(np.sqrt((error**2).mean())))

    def _elsewhere(self, index: int, image: Image, grey: Image, found: Registered) -> Registered:
        """The frame against a better reference, where the present one is too far or fails."""
        if not self._follows:
            return found
        far = self._far(found)
        if self._points:
            self._doubts = 0 if found.method == "track" else self._doubts + 1
            found = self._believed(grey, found)
            if found.method == "track" and not far:
                self._good = (index, image, found)
            elif not self._cut and (
                self._doubts < EAGER_TRIES or self._doubts % self._patience == 0
            ):
                better = self._return(grey, found) or self._chain(index, image, grey, found)
                if better is not None:
                    return better
        wanted = (
            self._is_lost(found) or (far and not self._points) or self._tracks_something_else(grey)
        )
        if wanted and (view := self._detected(index, image, grey, found)) is not None:
            self._begin(view)
            return self._see_again(grey)
        return found

    def _see_again(self, grey: Image) -> Registered:
        found = self._view.register(grey)
        self._pose = found.pose
        return found

    def _is_lost(self, found: Registered) -> bool:
        if found.method != "held":
            return False
        eager = self._cut and self._lost <= EAGER_LOOKS
        return eager or self._lost % self._patience == 0

    def _far(self, found: Registered) -> bool:
        return found.method != "held" and self._beyond(found.pose, self._view.segment.geometry.ipd)

    @staticmethod
    def _beyond(pose: Array, ipd: float) -> bool:
        a, b, tx, ty, yaw, pitch = pose[:6]
        return bool(
            abs(np.hypot(a, b) - 1) > MAX_SCALE
            or abs(np.degrees(np.arctan2(b, a))) > MAX_ROLL_DEG
            or np.hypot(tx, ty) > MAX_SHIFT * ipd
            or max(abs(yaw), abs(pitch)) > MAX_ANGLE
        )

    def _return(self, grey: Image, found: Registered) -> Registered | None:
        """The frame against an earlier reference that lies near, if its points agree there."""
        here = self._view.segment.geometry
        near = []
        for view in self._views:
            if view is self._view or view.tracker is None:
                continue
            pose = view.place.nearest_pose(view.segment.geometry, here, found.pose)
            ipd = view.segment.geometry.ipd
            if pose is not None and not self._beyond(pose, ipd):
                near.append(
                    (float(np.hypot(*pose[2:4])) / ipd + np.abs(pose[4:6]).sum(), view, pose)
                )
        for _, view, pose in sorted(near, key=lambda n: n[0])[:TRIED_VIEWS]:
            assert view.tracker is not None
            again = view.tracker.attempt(grey, pose)
            geometry = view.segment.geometry
            if again is None or again.method != "track" or self._beyond(again.pose, geometry.ipd):
                continue
            jump = crops_apart(here, found.pose, geometry, again.pose)
            if found.method != "track" or jump < MAX_DRIFT:
                self._begin(view)
                self._pose = again.pose
                return again
        return None

    def _chain(self, index: int, image: Image, grey: Image, found: Registered) -> Registered | None:
        """The frame against a new reference: this frame where it was placed well, or the last."""
        persists = found.moved is not None and self._doubts >= self._patience
        if found.method == "track" or (persists and self._face_seen(grey)):
            base = (index, image, found)
        elif self._good is not None and index - self._good[0] <= RECENT:
            base = self._good
        else:
            return None
        if base[0] == self._view.segment.reference.index:
            return None
        at, picture, placed = base
        old = self._view.segment
        if outside_share(frame_to_crop(old.geometry, placed.pose), old.geometry.size,
                         picture.shape) > 2 * PARTIAL:  # fmt: skip
            return None
        pose = self._settled(at, picture, placed)
        geometry = carried_on(old.geometry, pose)
        face = replace(old.reference.face, box=carried_box(old, pose))
        reference = Reference(at, geometry.landmarks, face, old.reference.flags)
        segment = Segment(len(self.segments), reference, geometry, "chained", old.number, placed.sd)
        view = self._add(segment, picture)
        assert view.tracker is not None
        again = view.tracker.attempt(grey)
        if base[0] != index and (again is None or again.method != "track"):
            self._views.remove(view)
            self.segments.pop()
            return None
        again = again or view.tracker.correlate(grey)
        self._begin(view)
        self._good = (index, image, again)
        self._pose = again.pose
        return again

    def _settled(self, index: int, image: Image, found: Registered) -> Array:
        """The pose of a frame fitted together with those before it, which are given out."""
        pending = {p.index: p for p in self._pending}
        extra = [] if index in pending else [self._placed(index, image, found)]
        block = self._refined(self._view, [*self._pending, *extra])
        pose = next((p.pose for p in block.frames if p.index == index), found.pose)
        if self._pending:
            self._ready.append(replace(block, frames=block.frames[: len(self._pending)]))
            self._before, self._pending = self._pending[-1:], []
        return pose

    def _detected(self, index: int, image: Image, grey: Image, found: Registered) -> _View | None:
        assert self._finder is not None
        reference = self._search.find(grey, index, self._view.segment.reference)
        if reference is None:
            return None
        try:
            geometry = reference_geometry(reference, grey.shape, self._options)
        except InputError:  # hardly in the picture: wait for a better frame
            return None
        old = self._view.segment
        if self._cut:
            return self._add(Segment(len(self.segments), reference, geometry, "cut"), image)
        if found.method == "held" or self._points:
            how, sd = "landmarks", float("nan")
            link = landmark_pose(old.geometry.landmarks, reference.landmarks, old.geometry.centre)
        else:
            how, link, sd = "chained", found.pose, found.sd
        geometry = replace(geometry, before=(old.geometry, link))
        segment = Segment(len(self.segments), reference, geometry, how, old.number, sd)
        return self._add(segment, image)

    def _believed(self, grey: Image, found: Registered) -> Registered:
        """The same, or held: what has been doubtful for long may be the rim of a face that left."""
        if found.method != "doubtful" or self._doubts < self._patience:
            self._gone = self._gone and found.method != "track"
            return found
        if self._doubts % self._patience == 0:
            self._gone = not self._face_seen(grey)
        if not self._gone:
            return found
        self._lost = max(self._lost, self._patience) + 1
        return Registered(found.pose, "held")

    def _face_seen(self, grey: Image) -> bool:
        """Whether the detector sees a face where the last pose puts it."""
        assert self._finder is not None
        box = carried_box(self._view.segment, self._pose)
        return any(overlap(f.box, box) > MIN_OVERLAP for f in look_at(self._finder, grey, box))

    def _tracks_something_else(self, grey: Image) -> bool:
        """Every half second the detector says where the face is; silence proves nothing."""
        self._unchecked += 1
        face = self._view.segment.reference.face
        if self._view.tracker is None or self._unchecked < self._check_every or face.count == 0:
            return False
        self._unchecked = 0
        assert self._finder is not None
        box = carried_box(self._view.segment, self._pose)
        seen = look_at(self._finder, grey, box)
        return bool(seen) and max(overlap(f.box, box) for f in seen) < MIN_OVERLAP

    # ----------------------------------------------------------------------------------- blocks

    def _append(self, index: int, image: Image, found: Registered) -> None:
        placed = self._placed(index, image, found)
        if placed.status == "no_face":  # so was it in the frames that still hoped
            for i in range(len(self._pending) - 1, -1, -1):
                if self._pending[i].status != "align_held":
                    break
                self._pending[i] = replace(self._pending[i], status="no_face")
        self._pending.append(placed)

    def _placed(self, index: int, image: Image, found: Registered) -> Placed:
        x0, y0, x1, y1 = self._view.maker.box(found.pose, image.shape, MARGIN)
        return Placed(
            index,
            np.ascontiguousarray(image[y0:y1, x0:x1]),
            (x0, y0),
            image.shape,
            found.pose,
            self._status(found, image.shape),
            found.inlier_ratio,
            found.residual,
            found.moved,
            found.light,
        )

    def _status(self, found: Registered, shape: tuple[int, ...]) -> str:
        if found.method == "held":
            return "no_face" if self._cut or self._lost > self._patience else "align_held"
        flags = self._view.segment.reference.flags
        to_crop = frame_to_crop(self._view.segment.geometry, found.pose)
        if "assumed_crop" in flags:
            return "assumed_crop"
        if outside_share(to_crop, self._options.size, shape) > PARTIAL:
            return "partial"
        if self._options.mode == "track" and found.method in ("ecc", "landmarks", "doubtful"):
            return found.method
        return next(iter(flags), "ok")

    def _repeat(self, index: int) -> None:
        """A frame that cannot be read shows the previous one again, or the reference."""
        if self._pending or self._before:
            last = (self._pending or self._before)[-1]
            self._pending.append(
                replace(last, index=index, status="unreadable", moved=None,
                        inlier_ratio=float("nan"), residual=float("nan"))
            )  # fmt: skip
        else:
            x0, y0, x1, y1 = self._view.maker.box(IDENTITY, self._shape, MARGIN)
            patch = np.ascontiguousarray(self._first[y0:y1, x0:x1])
            self._pending.append(
                Placed(index, patch, (x0, y0), self._shape, IDENTITY, "unreadable")
            )

    def _full(self) -> bool:
        count = len(self._pending)
        return count >= BLOCK_FRAMES or count * self._pending[-1].patch.nbytes >= BLOCK_BYTES

    def _flush(self, view: _View, *, final: bool) -> Iterator[PlacedFrames]:
        """Give out what is pending; smoothing keeps back the frames whose future is unknown."""
        reach = 0
        if self._options.mode == "landmarks_smooth":
            reach = int(np.ceil(3 * self._options.smooth_frames))
        ready = len(self._pending) - (0 if final else reach)
        if ready <= 0:
            return
        raw = self._pending[:ready]
        if self._options.mode == "track":
            block = self._refined(view, raw)
        else:
            frames = self._smoothed(ready) if reach else raw
            block = PlacedFrames(view.segment, view.segment.geometry, frames)
        self._pending = self._pending[ready:]
        self._before = (self._before + raw)[-max(1, reach) :]
        yield block

    def _smoothed(self, ready: int) -> list[Placed]:
        around = self._before + self._pending
        poses = np.array([p.pose for p in around])
        good = np.array([p.status not in HELD for p in around])
        smooth = smooth_poses(poses, good, self._options.smooth_frames)[len(self._before) :]
        return [replace(p, pose=q) for p, q in zip(self._pending[:ready], smooth, strict=False)]

    def _refined(self, view: _View, frames: list[Placed]) -> PlacedFrames:
        """The block's tracked frames fitted together, with the depth learned."""
        tracked = [i for i, p in enumerate(frames) if p.moved is not None]
        segment, tracker = view.segment, view.tracker
        assert tracker is not None
        if not tracked:
            return PlacedFrames(segment, segment.geometry, frames)
        joint = refine(
            segment.geometry,
            tracker.points,
            np.stack([np.asarray(frames[i].moved) for i in tracked]),
            np.stack([frames[i].pose for i in tracked]),
            np.stack([np.asarray(frames[i].light) for i in tracked]),
            tracker.drift,
            self.evidence,
            frames=np.array([frames[i].index for i in tracked]),
            fps=self._options.fps,
            parallax=self._options.parallax,
        )
        segment.geometry = joint.geometry
        out = list(frames)
        least = BISQUARE * LEAST_ERROR * segment.geometry.ipd
        for i, pose, error in zip(tracked, joint.poses, joint.errors, strict=True):
            inside = error < max(BISQUARE * float(np.nanmedian(error)) / 1.177, least)
            residual = float(np.sqrt((error[inside] ** 2).mean())) if inside.any() else float("nan")
            out[i] = replace(
                frames[i], pose=pose, inlier_ratio=float(inside.mean()), residual=residual
            )
        for i, frame in enumerate(out):
            if frame.status in HELD:
                out[i] = replace(frame, pose=out[i - 1].pose if i else self._given)
        self._given = out[-1].pose
        seen = np.isfinite(joint.errors)
        total = np.where(seen, joint.errors**2, 0).sum(axis=0)
        rms = np.sqrt(total / np.maximum(seen.sum(axis=0), 1))
        return PlacedFrames(segment, joint.geometry, out, tracker.points, rms)
