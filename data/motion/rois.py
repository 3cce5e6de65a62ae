"""Where ME-TST looks: patches around landmarks and the windows averaged inside them.

A *patch* is cut from the 320 px face and given to optical flow; a *window* is the part of a patch's
flow whose largest vectors are averaged into one (dx, dy). Offsets and quantiles are the authors'
(ME-TST, arXiv 2409.09707, five ROIs; ME-TST+, arXiv 2508.08082, eighteen). Landmarks are 300-W
numbered integers in the face's pixels, x right, y down; bounds are half-open.

The authors cut with Python slices, so a start left of the patch wraps around and the window comes
out empty or wrong. `clamp` moves such bounds to 0; without it the wrap is kept as they have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Landmarks = npt.NDArray[np.int64]
Bounds = tuple[int, int, int, int]  # row start, row stop, column start, column stop

BRIDGE = (29, 30)
LEFT_BROW, RIGHT_BROW = range(17, 22), range(22, 27)
MOUTH, NOSE = range(48, 67), range(30, 36)
LEFT_EYE, RIGHT_EYE = range(36, 42), range(42, 48)

# landmark → (rows from, to; columns from, to; share kept), inside the coarse patch of its organ
LEFT_BROW_PARTS = {
    20: (-10, 10, -10, 10, 0.2),
    19: (-10, 10, -10, 10, 0.2),
    18: (-10, 10, -10, 10, 0.2),
}
RIGHT_BROW_PARTS = {
    23: (-10, 10, -10, 10, 0.3),
    24: (-10, 10, -10, 10, 0.3),
    25: (-10, 10, -10, 10, 0.3),
}
MOUTH_PARTS = {
    48: (-10, 10, -10, 20, 0.2),
    54: (-10, 10, -20, 10, 0.2),
    51: (-10, 10, -10, 10, 0.2),
    57: (-10, 10, -10, 10, 0.2),
    62: (-10, 10, -10, 10, 0.2),
}
NOSE_WINGS = {31: (-20, 5, -20, 10, 0.2), 35: (-20, 5, -10, 20, 0.2)}

COARSE10 = ("left_brow", "right_brow", "mouth", "left_wing", "right_wing")
# fmt: off
MULTI36 = (
    "left_brow", "left_brow_inner", "left_brow_middle", "left_brow_outer",
    "right_brow", "right_brow_inner", "right_brow_middle", "right_brow_outer",
    "mouth", "mouth_corner_left", "mouth_corner_right", "upper_lip", "lower_lip", "inner_upper_lip",
    "left_wing", "right_wing", "left_lower_lid", "right_lower_lid",
)
# fmt: on
ROI_SETS = {"coarse10": COARSE10, "multi36": MULTI36}


@dataclass(frozen=True)
class PatchPlan:
    """One flow patch: `bounds` in the face, `windows` (n,4) in the patch, how many vectors to skip.

    `keep_from` (n,): of a window's vectors sorted by length, the first that counts. `rows` (n,):
    which ROI of the set each window is.
    """

    bounds: Bounds
    windows: npt.NDArray[np.int64]
    keep_from: npt.NDArray[np.int64]
    rois: npt.NDArray[np.int64]

    @property
    def empty(self) -> bool:
        """Whether nothing can be measured here: no pixels, or no window with pixels."""
        r0, r1, c0, c1 = self.bounds
        return r1 <= r0 or c1 <= c0

    def cut(self, face: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The patch of a face image (320,320), a contiguous copy."""
        r0, r1, c0, c1 = self.bounds
        return np.ascontiguousarray(face[r0:r1, c0:c1])


@dataclass(frozen=True)
class RoiPlan:
    """All patches of one window of frames: the nose bridge first, then those of the ROI set."""

    bridge: PatchPlan
    patches: tuple[PatchPlan, ...]
    count: int  # ROIs in the set; channels are twice as many


def plan_rois(landmarks: Landmarks, roi_set: str, *, clamp: bool, size: int) -> RoiPlan:
    """Patches and windows for a face with these (68,2) landmarks in its `size`² pixels."""
    organs = [
        _brow(landmarks, LEFT_BROW, size, clamp),
        _brow(landmarks, RIGHT_BROW, size, clamp),
        _mouth(landmarks, size, clamp),
        _nose(landmarks, size, clamp),
    ]
    names = ROI_SETS[roi_set]
    if roi_set == "multi36":
        organs += [_lower_lid(landmarks, eye, size, clamp) for eye in (LEFT_EYE, RIGHT_EYE)]
    order = {name: i for i, name in enumerate(names)}
    patches = []
    for bounds, windows in organs:
        chosen = [(order[name], box, share) for name, box, share in windows if name in order]
        patches.append(_plan(bounds, chosen))
    return RoiPlan(_bridge(landmarks, size, clamp), tuple(patches), len(names))


Named = tuple[Bounds, list[tuple[str, Bounds, float]]]


def _plan(bounds: Bounds, windows: list[tuple[int, Bounds, float]]) -> PatchPlan:
    boxes = np.array([box for _, box, _ in windows], np.int64).reshape(-1, 4)
    sizes = [max(b[1] - b[0], 0) * max(b[3] - b[2], 0) for _, b, _ in windows]
    skip = [int(n * (1 - share)) for n, (_, _, share) in zip(sizes, windows, strict=True)]
    rois = np.array([roi for roi, _, _ in windows], np.int64)
    return PatchPlan(bounds, boxes, np.array(skip, np.int64), rois)


def _span(start: int, stop: int, length: int, clamp: bool) -> tuple[int, int]:
    """What `[start:stop]` selects of `length` items, negative bounds clamped or wrapped."""
    if clamp:
        start, stop = max(start, 0), max(stop, 0)
    first, last, _ = slice(start, stop).indices(length)
    return first, last


def _cut(rows: tuple[int, int], columns: tuple[int, int], size: int, clamp: bool) -> Bounds:
    return (*_span(*rows, size, clamp), *_span(*columns, size, clamp))


def _shape(bounds: Bounds) -> tuple[int, int]:
    r0, r1, c0, c1 = bounds
    return max(r1 - r0, 0), max(c1 - c0, 0)


def _trimmed(bounds: Bounds, top: int, bottom: int, sides: int) -> Bounds:
    """The patch without its outer rows and columns: `[top:-bottom, sides:-sides]`."""
    h, w = _shape(bounds)
    return (*_span(top, max(h - bottom, 0), h, True), *_span(sides, max(w - sides, 0), w, True))


def _around(
    point: npt.NDArray[np.int64],
    origin: tuple[int, int],
    offsets: tuple[int, int, int, int, float],
    bounds: Bounds,
    clamp: bool,
) -> Bounds:
    """Window around a landmark; `origin` (x, y) is the patch's corner before any clipping."""
    h, w = _shape(bounds)
    x, y = int(point[0]) - origin[0], int(point[1]) - origin[1]
    up, down, left, right, _ = offsets
    return (*_span(y + up, y + down, h, clamp), *_span(x + left, x + right, w, clamp))


def _box(landmarks: Landmarks, indices: range | tuple[int, ...]) -> tuple[int, int, int, int]:
    """Bounding box of landmarks: xmin, ymin, xmax, ymax."""
    points = landmarks[list(indices)]
    return (*map(int, points.min(axis=0)), *map(int, points.max(axis=0)))  # type: ignore[return-value]


def _bridge(landmarks: Landmarks, size: int, clamp: bool) -> PatchPlan:
    x0, y0, x1, y1 = _box(landmarks, BRIDGE)
    bounds = _cut((y0 - 13, y1 + 13), (x0 - 13, x1 + 13), size, clamp)
    return _plan(bounds, [(0, _trimmed(bounds, 15, 10, 5), 0.7)])


def _brow(landmarks: Landmarks, brow: range, size: int, clamp: bool) -> Named:
    x0, y0, x1, y1 = _box(landmarks, brow)
    left = brow is LEFT_BROW
    start = max(0, x0 - 5) if left else x0
    bounds = _cut((max(0, y0 - 15), y1 + 5), (start, x1), size, clamp)
    top = max(0, 10 + min(0, y0 - 15))  # less to trim where the face's edge already did
    low = left and (y1 + 5 - max(0, y0 - 15) - 3) < 10 + top
    side = "left_brow" if left else "right_brow"
    windows = [(side, _trimmed(bounds, top, 4 if low else 10, 10), 0.3)]
    origin = (x0 - 5 if left else x0, y0 - 15)
    parts = LEFT_BROW_PARTS if left else RIGHT_BROW_PARTS
    for name, (point, box) in zip(("inner", "middle", "outer"), parts.items(), strict=True):
        window = _around(landmarks[point], origin, box, bounds, clamp)
        windows.append((f"{side}_{name}", window, box[4]))
    return bounds, windows


def _mouth(landmarks: Landmarks, size: int, clamp: bool) -> Named:
    x0, y0, x1, y1 = _box(landmarks, MOUTH)
    bounds = _cut((y0 - 15, y1 + 10), (max(0, x0 - 20), x1 + 20), size, clamp)
    windows = [("mouth", _trimmed(bounds, 10, 10, 10), 0.3)]
    names = ("mouth_corner_left", "mouth_corner_right", "upper_lip", "lower_lip", "inner_upper_lip")
    for name, (point, box) in zip(names, MOUTH_PARTS.items(), strict=True):
        window = _around(landmarks[point], (x0 - 20, y0 - 15), box, bounds, clamp)
        windows.append((name, window, box[4]))
    return bounds, windows


def _nose(landmarks: Landmarks, size: int, clamp: bool) -> Named:
    x0, y0, x1, y1 = _box(landmarks, NOSE)
    bounds = _cut((y0 - 20, y1 + 5), (max(0, x0 - 30), x1 + 30), size, clamp)
    windows = []
    for name, (point, box) in zip(("left_wing", "right_wing"), NOSE_WINGS.items(), strict=True):
        window = _around(landmarks[point], (x0 - 30, y0 - 20), box, bounds, clamp)
        windows.append((name, window, box[4]))
    return bounds, windows


def _lower_lid(landmarks: Landmarks, eye: range, size: int, clamp: bool) -> Named:
    x0, y0, x1, y1 = _box(landmarks, eye)
    half, middle = (x1 - x0) / 2, (y0 + y1) / 2
    rows = (int(middle + half / 2), int(middle + 3 * half / 2))
    bounds = _cut(rows, (max(0, x0), x1), size, clamp)
    name = "left_lower_lid" if eye is LEFT_EYE else "right_lower_lid"
    return bounds, [(name, _trimmed(bounds, 5, 5, 5), 0.3)]
