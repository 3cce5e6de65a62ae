"""Aligning a whole video in one pass: segments, lost faces, blocks of placed frames.

A segment is a run of frames with one reference; it ends at a cut, after large motion, or when the
face stays lost, and no event may cross it. Frames leave in blocks, in playing order; at most one
block of face patches is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from data.align.geometry import (
    IDENTITY,
    CropMaker,
    frame_to_crop,
    outside_share,
    place,
)
from data.align.joint import refine
from data.align.modes import (
    FACELESS,
    HELD,
    Block,
    Image,
    Options,
    Placed,
    Segment,
    grey_of,
    look_at,
    overlap,
    reference_geometry,
    registration,
    smooth_poses,
)
from data.align.tracking import TOLERANCE, Registered
from data.errors import InputError
from data.faces import PARTIAL, FaceFinder, Reference, examine

Array = npt.NDArray[np.float64]
Frames = Iterable[tuple[int, Image | None]]  # grey or RGB images, None where unreadable

MAX_SCALE, MAX_ROLL_DEG, MAX_SHIFT = 0.05, 8.0, 0.25  # motion that calls for a new reference
MAX_ANGLE = 0.15  # yaw or pitch, rad
CHECK_SECONDS = 0.5  # between looks by the detector, to notice a track on the wrong thing
MIN_OVERLAP = 0.5
CUT_LIKENESS = 0.5  # correlation of consecutive face regions below which there is a cut
LOST_SECONDS = 0.1  # a face lost for longer gets a new reference
EAGER_LOOKS = 10  # frames in a row searched after a face is lost
BLOCK_FRAMES, BLOCK_BYTES = 512, 48 << 20
MARGIN = 12  # px kept around a crop's box, for what the joint fit still moves


def align_frames(
    frames: Frames,
    image: Image,
    reference: Reference,
    finder: FaceFinder | None,
    options: Options,
) -> Iterator[Block]:
    """Place every frame of `frames`, in playing order, against `reference` found in `image`.

    Raises InputError `partial` when the reference's crop lies too far outside the image.
    """
    geometry = reference_geometry(reference, image.shape, options)
    yield from _Run(Segment(0, reference, geometry), image, finder, options).over(frames)


class _Run:
    """State of one pass over one video."""

    def __init__(
        self, segment: Segment, image: Image, finder: FaceFinder | None, options: Options
    ) -> None:
        self._options, self._finder = options, finder
        self._patience = max(5, round(LOST_SECONDS * options.fps))
        self._check_every = max(5, round(CHECK_SECONDS * options.fps))
        self._follows = options.mode not in (*FACELESS, "first_crop") and finder is not None
        self._pending: list[Placed] = []
        self._before: list[Placed] = []  # already given out, still needed for smoothing
        self._begin(segment, image)

    def _begin(self, segment: Segment, image: Image) -> None:
        self._segment, self._image = segment, image
        self._maker = CropMaker(segment.geometry)
        self._register, self._tracker = registration(image, segment, self._finder, self._options)
        self._pose = IDENTITY
        self._lost = 0  # frames in a row that could not be registered
        self._cut = False  # what is seen now is not what the reference showed
        self._unchecked = 0
        self._glimpse: npt.NDArray[np.float32] | None = None
        self._before = []
        self._given = IDENTITY  # the last pose of the last block

    def over(self, frames: Frames) -> Iterator[Block]:
        """All blocks."""
        for index, image in frames:
            if image is None or image.shape != self._image.shape:
                self._repeat(index)
            else:
                grey = grey_of(image)
                found = self._see(grey)
                if self._wants_reference(grey, found):
                    segment = self._new_segment(index, grey)
                    if segment is not None:
                        yield from self._flush(final=True)
                        self._begin(segment, image)
                        found = self._see(grey)
                self._append(index, image, found)
            if self._full():
                yield from self._flush(final=False)
        yield from self._flush(final=True)

    def _see(self, grey: Image) -> Registered:
        """Register a frame; after a cut there is nothing to register to."""
        if self._follows:
            glimpse = self._look(grey)
            if self._glimpse is not None:
                self._cut |= float((glimpse * self._glimpse).mean()) < CUT_LIKENESS
            self._glimpse = glimpse
        found = Registered(self._pose, "held") if self._cut else self._register(grey)
        self._lost = self._lost + 1 if found.method == "held" else 0
        self._pose = found.pose
        return found

    def _look(self, grey: Image) -> npt.NDArray[np.float32]:
        """The reference's face box, sparsely sampled; zero mean, unit variance."""
        x0, y0, x1, y1 = self._maker.box(IDENTITY, grey.shape)
        step = max(1, (x1 - x0) // 40)
        part = grey[y0:y1:step, x0:x1:step].astype(np.float32)
        return np.asarray((part - part.mean()) / max(float(part.std()), 1.0), np.float32)

    def _wants_reference(self, grey: Image, found: Registered) -> bool:
        if not self._follows:
            return False
        if found.method == "held":
            eager = self._cut and self._lost <= EAGER_LOOKS
            return eager or self._lost % self._patience == 0
        a, b, tx, ty, yaw, pitch = found.pose
        ipd = self._segment.geometry.ipd
        far = (
            abs(np.hypot(a, b) - 1) > MAX_SCALE
            or abs(np.degrees(np.arctan2(b, a))) > MAX_ROLL_DEG
            or np.hypot(tx, ty) > MAX_SHIFT * ipd
            or max(abs(yaw), abs(pitch)) > MAX_ANGLE
        )
        return bool(far) or self._tracks_something_else(grey)

    def _tracks_something_else(self, grey: Image) -> bool:
        """Every half second the detector says where the face is; silence proves nothing."""
        self._unchecked += 1
        face = self._segment.reference.face
        if self._tracker is None or self._unchecked < self._check_every or face.count == 0:
            return False
        self._unchecked = 0
        assert self._finder is not None
        corners = place(self._segment.geometry, self._pose, face.box.reshape(2, 2))
        seen = look_at(self._finder, grey, corners.ravel())
        return bool(seen) and max(overlap(f.box, corners.ravel()) for f in seen) < MIN_OVERLAP

    def _new_segment(self, index: int, grey: Image) -> Segment | None:
        assert self._finder is not None
        reference, _ = examine(self._finder, grey, index)
        if reference is None:
            return None
        try:
            geometry = reference_geometry(reference, grey.shape, self._options)
        except InputError:  # hardly in the picture: wait for a better frame
            return None
        return Segment(self._segment.number + 1, reference, geometry)

    def _append(self, index: int, image: Image, found: Registered) -> None:
        x0, y0, x1, y1 = self._maker.box(found.pose, image.shape, MARGIN)
        patch = np.ascontiguousarray(image[y0:y1, x0:x1])
        self._pending.append(
            Placed(
                index,
                patch,
                (x0, y0),
                image.shape,
                found.pose,
                self._status(found, image.shape),
                found.inlier_ratio,
                found.residual,
                found.moved,
                found.light,
            )
        )

    def _status(self, found: Registered, shape: tuple[int, ...]) -> str:
        if found.method == "held":
            return "no_face" if self._cut or self._lost > self._patience else "align_held"
        flags = self._segment.reference.flags
        to_crop = frame_to_crop(self._segment.geometry, found.pose)
        if "assumed_crop" in flags:
            return "assumed_crop"
        if outside_share(to_crop, self._options.size, shape) > PARTIAL:
            return "partial"
        if found.method == "ecc" and self._options.mode != "ecc":
            return "ecc"
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
            x0, y0, x1, y1 = self._maker.box(IDENTITY, self._image.shape, MARGIN)
            patch = np.ascontiguousarray(self._image[y0:y1, x0:x1])
            shape = self._image.shape
            self._pending.append(Placed(index, patch, (x0, y0), shape, IDENTITY, "unreadable"))

    def _full(self) -> bool:
        count = len(self._pending)
        return count >= BLOCK_FRAMES or count * self._pending[-1].patch.nbytes >= BLOCK_BYTES

    def _flush(self, *, final: bool) -> Iterator[Block]:
        """Give out what is pending; smoothing keeps back the frames whose future is unknown."""
        reach = 0
        if self._options.mode == "landmarks_smooth":
            reach = int(np.ceil(3 * self._options.smooth_frames))
        ready = len(self._pending) - (0 if final else reach)
        if ready <= 0:
            return
        raw = self._pending[:ready]
        if self._options.mode == "track":
            block = self._refined(raw)
        else:
            frames = self._smoothed(ready) if reach else raw
            block = Block(self._segment, self._segment.geometry, frames)
        self._pending = self._pending[ready:]
        self._before = (self._before + raw)[-max(1, reach) :]
        yield block

    def _smoothed(self, ready: int) -> list[Placed]:
        around = self._before + self._pending
        poses = np.array([p.pose for p in around])
        good = np.array([p.status not in HELD for p in around])
        smooth = smooth_poses(poses, good, self._options.smooth_frames)[len(self._before) :]
        return [replace(p, pose=q) for p, q in zip(self._pending[:ready], smooth, strict=False)]

    def _refined(self, frames: list[Placed]) -> Block:
        """The block's tracked frames fitted together, with the depth learned."""
        tracked = [i for i, p in enumerate(frames) if p.moved is not None]
        assert self._tracker is not None
        if not tracked:
            return Block(self._segment, self._segment.geometry, frames)
        joint = refine(
            self._segment.geometry,
            self._tracker.points,
            np.stack([np.asarray(frames[i].moved) for i in tracked]),
            np.stack([frames[i].pose for i in tracked]),
            np.stack([np.asarray(frames[i].light) for i in tracked]),
            self._tracker.drift,
            self._segment.evidence,
            fps=self._options.fps,
            parallax=self._options.parallax,
        )
        self._segment.geometry = joint.geometry
        limit = TOLERANCE * self._tracker.unit
        out = list(frames)
        for i, pose, error in zip(tracked, joint.poses, joint.errors, strict=True):
            inside = error < limit
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
        return Block(self._segment, joint.geometry, out, self._tracker.points, rms)
