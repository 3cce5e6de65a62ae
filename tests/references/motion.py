"""ME-TST's motion features transcribed plainly: window by window, ROI by ROI, pixel lists sorted.

The slow truth beside `data.motion.features`, with the same signature and output. Nothing is shared
between windows, OpenCV's own Farneback is called on every pair of patches, and every ROI is written
out with the bounds the method states, in Python slices; only the option and result types are
common. Used by tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.frames import FrameSource
from data.motion.features import (
    HELD_FRAME,
    LATE_REFERENCE,
    NO_FACE,
    OK,
    FindFace,
    Grey,
    Landmarks,
    Motion,
    MotionOptions,
    check_options,
)

Flow = npt.NDArray[np.float32]
Vector = tuple[float, float]


def motion_features(
    source: FrameSource,
    view: Iterable[int],
    options: MotionOptions,
    find_face: FindFace,
    *,
    who: str = "motion_features",
) -> Motion:
    """As `motion_features`, one window after the other, each decoding its frames."""
    indices = list(view)
    windows = check_options(len(indices), options, who)
    half = options.k // 2
    features = np.zeros((windows, options.channels, options.k), np.float32)
    status = np.full(windows, NO_FACE, np.uint8)
    for w in range(windows):
        frames = [_read(source, i) for i in indices[w * half : w * half + options.k]]
        status[w] = _window(frames, features[w], options, find_face)
    return Motion(features, status)


def _read(source: FrameSource, index: int) -> Grey | None:
    try:
        return source.read(index)
    except InputError:
        return None


def _window(
    frames: list[Grey | None], out: Flow, options: MotionOptions, find_face: FindFace
) -> int:
    """Fill one window's (C,k) features; returns its status."""
    status, face = NO_FACE, None
    for j, image in enumerate(frames):
        if face is None:
            face = None if image is None else _Face.found(image, find_face)
            if face is not None:
                status = OK if j == 0 else LATE_REFERENCE
        elif image is None:
            out[:, j] = out[:, j - 1]
            status = HELD_FRAME
        else:
            out[:, j] = face.motion(image, options)
    return status


class _Face:
    """The reference face of a window and the box that follows the head."""

    def __init__(self, box: list[int], patch: Grey, landmarks: Landmarks) -> None:
        self.box, self.first, self.landmarks = box, patch, landmarks

    @classmethod
    def found(cls, image: Grey, find_face: FindFace) -> _Face | None:
        landmarks = find_face(image)
        if landmarks is None:
            return None
        (x39, y39), (x42, y42) = landmarks[39], landmarks[42]
        g = int((x42 - x39) / 2)
        cx, cy = int((x39 + x42) / 2), int((y39 + y42) / 2)
        top, bottom = max(cy - int(3.5 * g), 0), cy + int(5.5 * g)
        left, right = max(cx - int(4.5 * g), 0), cx + int(4.5 * g)
        if g <= 0 or image[top:bottom, left:right].size == 0:
            return None
        box = [top, bottom, left, right]
        first = _crop(image, box)
        inside = find_face(first)
        if inside is None:
            height, width = image[top:bottom, left:right].shape
            x = (landmarks[:, 0] - left) * (320 / width)
            y = (landmarks[:, 1] - top) * (320 / height)
            inside = np.stack([x, y], axis=1).astype(np.int64)
        return cls(box, first, inside)

    def motion(self, image: Grey, options: MotionOptions) -> list[float]:
        """All channels of one frame."""
        current = _crop(image, self.box)
        head = self._head(current, options)
        for _ in range(3):
            if head[0] ** 2 + head[1] ** 2 <= 1:
                break
            dx, dy = round(head[0]), round(head[1])
            top, bottom, left, right = self.box
            moved = [max(top + dy, 0), bottom + dy, max(left + dx, 0), right + dx]
            if image[moved[0] : max(moved[1], 0), moved[2] : max(moved[3], 0)].size == 0:
                break
            self.box = moved
            current = _crop(image, self.box)
            head = self._head(current, options)
        vectors = self._rois(current, options)
        return [component for v in vectors for component in (v[0] - head[0], v[1] - head[1])]

    def _flow(self, current: Grey, rows: slice, columns: slice, options: MotionOptions) -> Flow:
        a, b = self.first[rows, columns], current[rows, columns]
        if a.size == 0:
            return np.zeros((*a.shape, 2), np.float32)
        if options.flow == "tvl1":
            from data.optical_flow import tvl1

            flow: Flow = tvl1(a, b, preset="fast", threads=1)
            return flow
        return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 5, 7, 1.5, 0)

    def _head(self, current: Grey, options: MotionOptions) -> Vector:
        """Motion of the nose bridge."""
        x, y = self.landmarks[29:31].T
        cut = _slicer(options.clamp)
        rows, columns = cut(y.min() - 13, y.max() + 13), cut(x.min() - 13, x.max() + 13)
        return _mean(self._flow(current, rows, columns, options)[15:-10, 5:-5], 0.7)

    def _rois(self, current: Grey, options: MotionOptions) -> list[Vector]:
        """Mean vectors in channel order."""
        cut, points, multi = _slicer(options.clamp), self.landmarks, options.roi_set == "multi36"

        def near(
            flow: Flow, point: int, x0: Any, y0: Any, box: tuple[int, ...], q: float
        ) -> Vector:
            x, y = points[point, 0] - x0, points[point, 1] - y0
            up, down, left, right = box
            return _mean(flow[cut(y + up, y + down), cut(x + left, x + right)], q)

        # left brow
        x, y = points[17:22].T
        rows = cut(max(0, y.min() - 15), y.max() + 5)
        flow = self._flow(current, rows, cut(max(0, x.min() - 5), x.max()), options)
        bt = max(0, 10 + min(0, y.min() - 15))
        bb = 4 if (y.max() + 5 - max(0, y.min() - 15) - 3) < 10 + bt else 10
        vectors = [_mean(flow[bt:-bb, 10:-10], 0.3)]
        x0, y0, small = x.min() - 5, y.min() - 15, (-10, 10, -10, 10)
        if multi:
            vectors += [near(flow, p, x0, y0, small, 0.2) for p in (20, 19, 18)]
        # right brow
        x, y = points[22:27].T
        rows = cut(max(0, y.min() - 15), y.max() + 5)
        flow = self._flow(current, rows, cut(x.min(), x.max()), options)
        bt = max(0, 10 + min(0, y.min() - 15))
        vectors.append(_mean(flow[bt:-10, 10:-10], 0.3))
        x0, y0 = x.min(), y.min() - 15
        if multi:
            vectors += [near(flow, p, x0, y0, small, 0.3) for p in (23, 24, 25)]
        # mouth
        x, y = points[48:67].T
        rows = cut(y.min() - 15, y.max() + 10)
        flow = self._flow(current, rows, cut(max(0, x.min() - 20), x.max() + 20), options)
        vectors.append(_mean(flow[10:-10, 10:-10], 0.3))
        x0, y0 = x.min() - 20, y.min() - 15
        if multi:
            vectors.append(near(flow, 48, x0, y0, (-10, 10, -10, 20), 0.2))
            vectors.append(near(flow, 54, x0, y0, (-10, 10, -20, 10), 0.2))
            vectors += [near(flow, p, x0, y0, small, 0.2) for p in (51, 57, 62)]
        # nose wings
        x, y = points[30:36].T
        rows = cut(y.min() - 20, y.max() + 5)
        flow = self._flow(current, rows, cut(max(0, x.min() - 30), x.max() + 30), options)
        x0, y0 = x.min() - 30, y.min() - 20
        vectors.append(near(flow, 31, x0, y0, (-20, 5, -20, 10), 0.2))
        vectors.append(near(flow, 35, x0, y0, (-20, 5, -10, 20), 0.2))
        # below the eyes
        for first in (36, 42) if multi else ():
            x, y = points[first : first + 6].T
            h, yc = (x.max() - x.min()) / 2, (y.min() + y.max()) / 2
            rows = cut(int(yc + h / 2), int(yc + 3 * h / 2))
            flow = self._flow(current, rows, cut(max(0, x.min()), x.max()), options)
            vectors.append(_mean(flow[5:-5, 5:-5], 0.3))
        return vectors


def _crop(image: Grey, box: list[int]) -> Grey:
    top, bottom, left, right = box
    return np.asarray(cv2.resize(image[top:bottom, left:right], (320, 320)), np.uint8)


def _slicer(clamp: bool) -> Any:
    """`slice`, or one whose negative bounds are 0."""
    return (lambda a, b: slice(max(a, 0), max(b, 0))) if clamp else slice


def _mean(flow: Flow, q: float) -> Vector:
    """Mean of the share `q` of largest vectors."""
    vectors = [(float(dx), float(dy)) for row in flow for dx, dy in row]
    vectors.sort(key=lambda v: v[0] * v[0] + v[1] * v[1])
    kept = vectors[int(len(vectors) * (1 - q)) :]
    if not kept:
        return 0.0, 0.0
    return sum(v[0] for v in kept) / len(kept), sum(v[1] for v in kept) / len(kept)
