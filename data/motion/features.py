"""ME-TST's motion features: how far each facial ROI has moved since the window's first frame.

A video is cut in windows of k frames, k/2 apart. In each, a face is found once and cut out at
320 px; optical flow from that frame to every other one is measured in small patches; the mean of
each ROI's largest vectors, less the head's motion seen on the nose bridge, gives two channels.
Procedure of ME-TST (arXiv 2409.09707) and ME-TST+ (arXiv 2508.08082); `tests.references.motion`
transcribes it window by window, this module gives the same numbers in one pass:

- every frame is decoded once, although two overlapping windows use it, and none is kept;
- a face is searched at most once in a frame, whichever windows ask;
- a window's reference patches are expanded once (`data.motion.farneback`);
- the largest vectors are found by selection, not by sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.motion.rois import ROI_SETS, PatchPlan, RoiPlan, plan_rois

Grey = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Landmarks = npt.NDArray[np.int64]
FindFace = Callable[[Grey], Landmarks | None]  # (H,W) → (68,2) integer px, or no face

FACE_SIZE = 320
MAX_SHIFTS = 3
STATUS_NAMES = ("ok", "late_reference", "held_frame", "no_face")
OK, LATE_REFERENCE, HELD_FRAME, NO_FACE = range(4)


class Frames(Protocol):
    """Where frames come from: `data.frames.FrameSource`, or what stands in for it."""

    def iter(self, indices: Iterable[int]) -> Iterator[tuple[int, Grey | None]]:
        """(index, grey frame) in the order given; None where a frame cannot be read."""


@dataclass(frozen=True)
class MotionOptions:
    """What to measure: window length `k` (even), ROI set, flow, `clamp` (see data.motion.rois)."""

    k: int = 50
    roi_set: Literal["coarse10", "multi36"] = "coarse10"
    flow: Literal["farneback", "tvl1"] = "farneback"
    clamp: bool = True

    @property
    def channels(self) -> int:
        """Two per ROI: dx, dy."""
        return 2 * len(ROI_SETS[self.roi_set])


@dataclass(frozen=True)
class Motion:
    """`features` (W, C, k) float32, px of the 320 px face; `status` (W,) uint8 of STATUS_NAMES.

    Channel 2i is ROI i's dx (right), 2i+1 its dy (down). Column j belongs to view frame
    w·k/2 + j. ok: measured; late_reference: no face in the first frame, its columns up to the
    first face are zero; held_frame: an unreadable frame repeats the column before it; no_face: all
    zero.
    """

    features: F32
    status: npt.NDArray[np.uint8]


def window_count(frames: int, k: int) -> int:
    """Windows of k frames, k/2 apart, in a video of `frames`; a remainder under k/2 is left out."""
    return max(frames // (k // 2) - 1, 0)


def check_options(frames: int, options: MotionOptions, who: str) -> int:
    """Number of windows. Raises InputError for an odd or tiny k, `too_short` for no window."""
    if options.k < 2 or options.k % 2:
        raise InputError(who, expected="an even window length k >= 2", got=str(options.k))
    windows = window_count(frames, options.k)
    if windows == 0:
        raise InputError(
            who,
            expected=f"at least k = {options.k} frames",
            got=f"{frames} after frame_skip",
            code="too_short",
        )
    return windows


def dlib_face(predictor: Path | None = None) -> FindFace:
    """Landmarks of the first face dlib detects at full size, without upsampling."""
    from data.faces import face_finder

    finder = face_finder(predictor)

    def find(grey: Grey) -> Landmarks | None:
        faces = finder.detect(grey)
        return np.rint(finder.landmarks(grey, faces[0].box)).astype(np.int64) if faces else None

    return find


def motion_features(
    source: Frames,
    view: Iterable[int],
    options: MotionOptions,
    find_face: FindFace,
    *,
    who: str = "motion_features",
) -> Motion:
    """Measure all windows of the frames `view` (indices into `source`) in one pass.

    Memory is one decoded frame and the references of at most two windows, whatever the length.
    Raises InputError for a bad k, code `too_short` when there is no window.
    """
    indices = list(view)
    windows = check_options(len(indices), options, who)
    half = options.k // 2
    motion = Motion(
        np.zeros((windows, options.channels, options.k), np.float32),
        np.full(windows, NO_FACE, np.uint8),
    )
    active: dict[int, _Window] = {}
    used = indices[: (windows + 1) * half]
    for position, frame in enumerate(_decoded(source, used, find_face)):
        started = position // half
        if position % half == 0 and started < windows:
            active[started] = _Window(motion.features[started], options, find_face)
        for window in active.values():
            window.add(frame)
        if position % half == half - 1 and started > 0:
            motion.status[started - 1] = active.pop(started - 1).status
    return motion


@dataclass
class _Frame:
    """A decoded frame, or None, whose face is searched when first asked for."""

    image: Grey | None
    find_face: FindFace
    _face: list[Landmarks | None] = field(default_factory=list)

    def face(self) -> Landmarks | None:
        if not self._face:
            self._face.append(None if self.image is None else self.find_face(self.image))
        return self._face[0]


def _decoded(source: Frames, indices: list[int], find_face: FindFace) -> Iterable[_Frame]:
    """Frames in order; a repeated index (a filled gap) is the same frame, decoded once."""
    last, frame = -1, _Frame(None, find_face)
    for index in indices:
        if index != last:
            (_, image), last = next(iter(source.iter([index]))), index
            frame = _Frame(image, find_face)
        yield frame


class ReferencePatch(Protocol):
    """A patch that flow is measured from."""

    def to(self, current: Grey) -> F32:
        """Flow to `current` as planes (2,h,w)."""


class _Tvl1Reference:
    def __init__(self, patch: Grey) -> None:
        self._patch = patch

    def to(self, current: Grey) -> F32:
        from data.optical_flow import tvl1

        flow: F32 = tvl1(self._patch, current, preset="fast", threads=1)
        return np.ascontiguousarray(np.moveaxis(flow, -1, 0))


def make_reference(flow: str, patch: Grey) -> ReferencePatch:
    """The named flow, prepared for this reference patch."""
    if flow == "tvl1":
        return _Tvl1Reference(patch)
    from data.motion.farneback import FarnebackReference

    return FarnebackReference(patch)


@dataclass
class CropBox:
    """Where the face is cut from the frame: half-open pixel bounds, moved by head motion."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, landmarks: Landmarks) -> CropBox | None:
        """Box from the inner eye corners: 3.5 up, 5.5 down, 4.5 aside; None if they coincide."""
        (x0, y0), (x1, y1) = landmarks[39], landmarks[42]
        g, cx, cy = int((x1 - x0) / 2), int((x0 + x1) / 2), int((y0 + y1) / 2)
        if g <= 0 or cx + 4.5 * g < 1 or cy + 5.5 * g < 1:
            return None
        up, down, aside = int(3.5 * g), int(5.5 * g), int(4.5 * g)
        return cls(max(cy - up, 0), cy + down, max(cx - aside, 0), cx + aside)

    def shift(self, dx: int, dy: int, shape: tuple[int, ...]) -> bool:
        """Move by whole pixels, left and top not below 0; False, unmoved, if nothing is left."""
        top, left = max(self.top + dy, 0), max(self.left + dx, 0)
        bottom, right = self.bottom + dy, self.right + dx
        if bottom <= top or right <= left or top >= shape[0] or left >= shape[1]:
            return False
        self.top, self.bottom, self.left, self.right = top, bottom, left, right
        return True

    def cut(self, image: Grey) -> Grey:
        """The face at 320x320, stretched where the image's border cut the box."""
        crop = image[self.top : self.bottom, self.left : self.right]
        return np.asarray(
            cv2.resize(crop, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_LINEAR), np.uint8
        )

    def into(self, landmarks: Landmarks, shape: tuple[int, ...]) -> Landmarks:
        """Landmarks of the image in the cut face's pixels, for when no face is found in it."""
        height = min(self.bottom, shape[0]) - self.top
        width = min(self.right, shape[1]) - self.left
        scale = np.array([FACE_SIZE / width, FACE_SIZE / height])
        return ((landmarks - (self.left, self.top)) * scale).astype(np.int64)


@dataclass
class _Patch:
    """A patch and what flow is measured from; None where the patch has no pixels."""

    plan: PatchPlan
    reference: ReferencePatch | None

    def means(self, face: Grey) -> npt.NDArray[np.float64]:
        """(n,2) mean of the largest vectors of each window."""
        out = np.zeros((len(self.plan.windows), 2))
        if self.reference is not None:
            from data.motion.kernels import top_means

            flow = self.reference.to(self.plan.cut(face))
            top_means(flow, self.plan.windows, self.plan.keep_from, out)
        return out


class _Window:
    """One window while its frames go by."""

    def __init__(self, features: F32, options: MotionOptions, find_face: FindFace) -> None:
        self._features, self._options, self._find_face = features, options, find_face
        self._column = 0
        self._box: CropBox | None = None
        self._bridge: _Patch
        self._patches: list[_Patch] = []
        self.status = NO_FACE

    def add(self, frame: _Frame) -> None:
        """The window's next frame fills the next column."""
        column, self._column = self._column, self._column + 1
        if self._box is None:
            if self._start(frame):  # the reference itself: no motion, zeros
                self.status = OK if column == 0 else LATE_REFERENCE
        elif frame.image is None:
            self._features[:, column] = self._features[:, column - 1]
            self.status = HELD_FRAME
        else:
            self._features[:, column] = self._measure(frame.image)

    def _start(self, frame: _Frame) -> bool:
        """Take the frame as reference if it shows a face."""
        landmarks = frame.face()
        box = None if landmarks is None else CropBox.around(landmarks)
        image = frame.image
        if landmarks is None or box is None or image is None:
            return False
        if box.top >= image.shape[0] or box.left >= image.shape[1]:
            return False
        face = box.cut(image)
        inside = self._find_face(face)
        if inside is None:
            inside = box.into(landmarks, image.shape)
        plan: RoiPlan = plan_rois(
            inside, self._options.roi_set, clamp=self._options.clamp, size=FACE_SIZE
        )
        self._box = box
        self._bridge = self._prepare(plan.bridge, face)
        self._patches = [self._prepare(patch, face) for patch in plan.patches]
        return True

    def _prepare(self, plan: PatchPlan, face: Grey) -> _Patch:
        reference = None if plan.empty else make_reference(self._options.flow, plan.cut(face))
        return _Patch(plan, reference)

    def _measure(self, image: Grey) -> npt.NDArray[Any]:
        """(C,) ROI motion less head motion; moves the crop box after the head."""
        assert self._box is not None
        face = self._box.cut(image)
        head = self._bridge.means(face)[0]
        for _ in range(MAX_SHIFTS):
            if head[0] * head[0] + head[1] * head[1] <= 1:
                break
            if not self._box.shift(round(float(head[0])), round(float(head[1])), image.shape):
                break
            face = self._box.cut(image)
            head = self._bridge.means(face)[0]
        rois = np.empty((self._options.channels // 2, 2))
        for patch in self._patches:
            rois[patch.plan.rois] = patch.means(face) - head
        return rois.reshape(-1)


def warm_up() -> float:
    """Compile the kernels, or load them from numba's disk cache; returns seconds taken."""
    from time import perf_counter

    from data.motion.farneback import FarnebackReference
    from data.motion.kernels import top_means

    started = perf_counter()
    patch = np.zeros((32, 32), np.uint8)
    flow = FarnebackReference(patch).to(patch)
    window = np.array([[0, 8, 0, 8]], np.int64)
    top_means(flow, window, np.zeros(1, np.int64), np.zeros((1, 2)))
    return perf_counter() - started
