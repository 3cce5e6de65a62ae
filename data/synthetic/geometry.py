"""Where a point of the neutral face is seen: expression first, then the head's pose.

    X (neutral image)  --u-->  X' = X + u(X)  --pose-->  x = X' + w(X') (P(X') - X')

P is a similarity about the head's centre plus yaw and pitch parallax (angle times depth, the depth
map being a smooth half ellipsoid with a nose bump). w is 1 on the head and fades to 0 around it,
so that the room stands still. Everything is analytic; the inverse is a fixed point, which
converges because the moves are small beside the width of the fade.

A `solid` head turns in three dimensions instead: the portrait lies over that depth, is turned
rigidly about its centre and seen in perspective from CAMERA inter-pupil distances away.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.synthetic.warp import Floats, Map


@dataclass(frozen=True)
class Head:
    """The head's place and shape in one subject's frame, all from landmarks (68, 2) px."""

    centre: Floats
    axes: Floats
    nose: Floats
    ipd: float
    size: tuple[int, int]
    solid: bool = False

    @staticmethod
    def of(landmarks: Floats, ipd: float, size: tuple[int, int], *, solid: bool = False) -> Head:
        """The head that carries these landmarks."""
        middle = 0.5 * (landmarks[0, 0] + landmarks[16, 0])
        centre = np.array([middle, landmarks[8, 1] - 1.5 * ipd])
        return Head(centre, np.array([1.3, 1.7]) * ipd, landmarks[30].copy(), ipd, size, solid)

    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) outside of which nothing moves."""
        low = np.maximum(np.floor(self.centre - _FADE * self.axes), 0).astype(int)
        high = np.minimum(np.ceil(self.centre + _FADE * self.axes), self.size).astype(int)
        return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])

    def weight(self, at: Floats) -> Floats:
        """w at points (..., 2): 1 on the head, 0 beyond the fade."""
        radius = np.sqrt(_radius2(at, self.centre, self.axes))
        t = np.clip((_FADE - radius) / (_FADE - 1.0), 0.0, 1.0)
        return np.asarray(t * t * (3.0 - 2.0 * t))

    def depth(self, at: Floats) -> Floats:
        """Height of the face towards the camera at points (..., 2), pixels."""
        face = _radius2(at, self.centre, 0.75 * self.axes)
        nose = _radius2(at, self.nose, np.full(2, 0.16 * self.ipd))
        skull = 0.9 * self.ipd * np.exp(-0.5 * face)
        return np.asarray(skull + 0.25 * self.ipd * np.exp(-0.5 * nose))

    def shift(self, at: Floats, pose: Floats) -> Floats:
        """x - X' at points (..., 2) for one pose (6,) as in `dynamics.POSE_FIELDS`."""
        tx, ty, roll, scale, yaw, pitch = pose
        angle = np.deg2rad(roll)
        cos, sin = (1.0 + scale) * np.cos(angle), (1.0 + scale) * np.sin(angle)
        rel = at - self.centre
        depth = self.depth(at)
        if self.solid:
            turned = self._turn(rel, depth, np.deg2rad(yaw), np.deg2rad(pitch))
            dx = cos * turned[..., 0] - sin * turned[..., 1] + tx - rel[..., 0]
            dy = sin * turned[..., 0] + cos * turned[..., 1] + ty - rel[..., 1]
            return np.asarray(np.stack([dx, dy], axis=-1) * self.weight(at)[..., None])
        dx = (cos - 1.0) * rel[..., 0] - sin * rel[..., 1] + tx + np.deg2rad(yaw) * depth
        dy = sin * rel[..., 0] + (cos - 1.0) * rel[..., 1] + ty + np.deg2rad(pitch) * depth
        return np.asarray(np.stack([dx, dy], axis=-1) * self.weight(at)[..., None])

    def _turn(self, rel: Floats, depth: Floats, yaw: float, pitch: float) -> Floats:
        """Where points (..., 2) about the centre are seen after a turn, in perspective.

        The portrait is such a view of the unturned head: no angle moves nothing.
        """
        away = CAMERA * self.ipd
        near = 1.0 - depth / away
        x, y = rel[..., 0] * near, rel[..., 1] * near
        x, z = x * np.cos(yaw) + depth * np.sin(yaw), depth * np.cos(yaw) - x * np.sin(yaw)
        y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
        return np.asarray(np.stack([x, y], axis=-1) / (1.0 - z / away)[..., None])

    def undo(self, at: Floats, pose: Floats, steps: int = 4) -> Floats:
        """X' seen at image points x (..., 2)."""
        out = at
        for _ in range(3 * steps if self.solid else steps):
            out = at - self.shift(out, pose)
        return np.asarray(out)


_FADE = 1.4
CAMERA = 10.0  # distance in inter-pupil distances, about 60 cm


def _radius2(at: Floats, centre: Floats, axes: Floats) -> Floats:
    """Squared elliptical radius; by columns, since a sum over an axis of two is slow."""
    x = (at[..., 0] - centre[0]) * (1.0 / axes[0])
    y = (at[..., 1] - centre[1]) * (1.0 / axes[1])
    return np.asarray(x * x + y * y)


class PoseMaps:
    """`Head.undo` over the whole box, solved on every 8th or 4th pixel and enlarged."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.box = head.box()
        left, top, width, height = self.box
        # Two margin nodes all round; the half pixel is where cv2.resize doubles from.
        self._halvings = 2 if head.ipd > 90 else 1
        node = 2 << self._halvings
        xs = left + 0.5 + node * np.arange(-2, -(-width // node) + 3)
        ys = top + 0.5 + node * np.arange(-2, -(-height // node) + 3)
        self._nodes = np.stack(np.meshgrid(xs, ys), axis=2)
        grid = np.meshgrid(
            np.arange(left, left + width, dtype=np.float32),
            np.arange(top, top + height, dtype=np.float32),
        )
        self.grid = np.stack(grid, axis=2)

    def undo(self, pose: Floats) -> Map:
        """(height, width, 2) float32: X' for every pixel of the box."""
        coarse = (self.head.undo(self._nodes, pose) - self._nodes).astype(np.float32)
        # Down to 2 px by the four-point rule, which is exact for cubics (cv2's own cubic is not
        # even for straight lines); the field is straight enough for the last doubling.
        for _ in range(self._halvings):
            coarse = _halve(coarse)
        fine = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        width, height = self.box[2:]
        return np.asarray(fine[4 : 4 + height, 4 : 4 + width] + self.grid)


def _halve(field: Map) -> Map:
    """Insert four-point midpoints along both axes; the outermost nodes are spent."""
    for axis in (0, 1):
        f = np.moveaxis(field, axis, 0)
        out = np.empty((2 * len(f) - 5, *f.shape[1:]), np.float32)
        out[0::2] = f[1:-1]
        out[1::2] = np.float32(0.5625) * (f[1:-2] + f[2:-1]) - np.float32(0.0625) * (f[:-3] + f[3:])
        field = np.moveaxis(out, 0, axis)
    return np.ascontiguousarray(field)
