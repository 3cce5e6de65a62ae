"""Frames by inverse sampling: undo the pose, undo the expression, close the lids, read the face.

Only what moves is touched: the head's box for the pose, the union of the active bumps for the
expression, two small boxes for the lids; the room is copied. One cubic remap makes the picture,
then gain, then noise from a bank of three tiles laid at random offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.action_units import UnitFields
from data.synthetic.geometry import Head, PoseMaps
from data.synthetic.layouts.base import PlannedActionUnit, PlannedEvent
from data.synthetic.rng import generator
from data.synthetic.script import Script
from data.synthetic.subjects import Subject
from data.synthetic.warp import Floats, Map, sample

_MARGIN = 16
_MAX_GRADIENT = 0.7
_SHADE_CAP = 4.0
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ExpressionField:
    """One expression at full activation: `u` (h, w, 2) px and `shade` (h, w) grey on `box`."""

    box: Box
    u: Map
    shade: NDArray[np.float32]
    scale: float
    steps: int


def unit_peaks(units: tuple[PlannedActionUnit, ...]) -> dict[int, tuple[float, float]]:
    """Unit -> (image-left, image-right) peak in pixels."""
    return {u.number: (u.left, u.right) for u in units}


def expression_field(
    subject: Subject, box: Box, event: PlannedEvent, shading: float
) -> ExpressionField:
    """The field of an event, cut to where it moves anything, scaled down where it would fold."""
    fields = UnitFields(subject.landmarks, box)
    u = fields.displacement(unit_peaks(event.units))
    gradient = max(float(np.abs(np.diff(u, axis=k)).max(initial=0.0)) for k in (0, 1))
    scale = min(1.0, _MAX_GRADIENT / max(gradient, 1e-9))
    u = u * np.float32(scale)
    gradient *= scale
    peak = float(np.abs(u).max(initial=0.0))
    steps = 2
    while peak * gradient ** (steps + 1) > 0.01 and steps < 8:
        steps += 1
    shade = fields.shading(unit_peaks(event.units)) * np.float32(-scale * shading)
    shade = np.maximum(shade, np.float32(-_SHADE_CAP))
    cut = _support(np.abs(u).max(axis=2))
    rows, cols = cut
    inner = (box[0] + cols.start, box[1] + rows.start, cols.stop - cols.start,
             rows.stop - rows.start)  # fmt: skip
    return ExpressionField(
        inner, np.ascontiguousarray(u[cut]), np.ascontiguousarray(shade[cut]), scale, steps
    )


def _support(size: NDArray[np.float32]) -> tuple[slice, slice]:
    """Bounding slices of size > 0.002 px, with a margin for the head's motion."""
    out = []
    for axis in (1, 0):
        hit = np.flatnonzero(size.max(axis=axis) > 0.002)
        limit = size.shape[1 - axis]
        if len(hit) == 0:
            out.append(slice(0, min(8, limit)))
            continue
        out.append(slice(max(0, hit[0] - _MARGIN), min(limit, hit[-1] + 1 + _MARGIN)))
    return out[0], out[1]


class _Lids:
    """The upper lids as a column map inside two boxes around the eyes."""

    def __init__(self, landmarks: Floats, ipd: float) -> None:
        self.eyes = []
        for upper, lower in (((36, 37, 38, 39), (36, 41, 40, 39)),
                             ((42, 43, 44, 45), (42, 47, 46, 45))):  # fmt: skip
            up, low = landmarks[list(upper)], landmarks[list(lower)]
            self.eyes.append((_arch(up), _arch(low), up[0, 0], up[-1, 0], up[:, 1].min(),
                              low[:, 1].max()))  # fmt: skip
        self.above, self.lashes = 0.12 * ipd, 0.035 * ipd

    def boxes(self) -> list[Box]:
        out = []
        for _, _, left, right, top, bottom in self.eyes:
            x, y = int(left) - _MARGIN, int(top - self.above) - _MARGIN
            out.append((x, y, int(right) + _MARGIN - x, int(bottom) + _MARGIN - y))
        return out

    def close(self, at: Map, eye: int, closure: float) -> None:
        """Move sampling points `at` (h, w, 2), in place, up to where the lid's skin came from."""
        up, low, left, right, _, _ = self.eyes[eye]
        x, y = at[..., 0].astype(np.float64), at[..., 1].astype(np.float64)
        inside = (x > left) & (x < right)
        top = np.where(inside, np.polyval(up, x), 0.0)
        bottom = np.where(inside, np.maximum(np.polyval(low, x), top), 0.0)
        edge = top + closure * (bottom - top)
        # The lashes at the edge keep their size; the skin above them stretches.
        start, skin = top - self.above, self.above - self.lashes
        stretched = start + (y - start) * skin / (edge - top + skin)
        source = np.where(y > edge - self.lashes, y - (edge - top), stretched)
        at[..., 1] = np.where(inside & (y > start) & (y <= edge), source, y)


def _arch(points: Floats) -> Floats:
    """Cubic through the four lid points, as y(x)."""
    return np.asarray(np.polyfit(points[:, 0], points[:, 1], 3))


@lru_cache(maxsize=4)
def _noise_bank(sigma: float, height: int, width: int, channels: int) -> list[NDArray[np.uint8]]:
    """Three tiles of noise about 128, a little larger than a frame."""
    shape = (height + 64, width + 64) + ((channels,) if channels > 1 else ())
    tiles = []
    for k in range(3):
        draw = generator("noise", sigma, height, width, channels, k).standard_normal(
            shape, dtype=np.float32
        )
        tiles.append(np.clip(np.rint(128.0 + sigma * draw), 0, 255).astype(np.uint8))
    return tiles


class Renderer:
    """Renders one script with one subject. `colour` False gives (H, W), True (H, W, 3) BGR."""

    def __init__(
        self,
        subject: Subject,
        script: Script,
        *,
        colour: bool,
        noise: float,
        shading: float,
        solid: bool = False,
    ) -> None:
        self._script = script
        image = subject.image
        self._face = image if colour else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        size = (int(image.shape[1]), int(image.shape[0]))
        self._maps = PoseMaps(Head.of(subject.landmarks, subject.ipd, size, solid=solid))
        self._lids = _Lids(subject.landmarks, subject.ipd)
        self._noise = noise
        self._fields = [
            expression_field(subject, self._maps.box, event, shading)
            for event in (*script.plan.expressions, *([script.speech] if script.speech else ()))
        ]
        self._curves = script.track.curves
        if script.speech:
            self._curves = np.vstack([self._curves, script.track.talk])

    def frames(self, indices: range, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """The rendered frames of `indices`; `rng` places the noise."""
        height, width = self._face.shape[:2]
        channels = self._face.shape[2] if self._face.ndim == 3 else 1
        bank = _noise_bank(self._noise, height, width, channels) if self._noise > 0 else []
        for index in indices:
            image = self.clean(index)
            gain = float(self._script.track.gain[index])
            tile, dy, dx = (int(rng.integers(n)) for n in (3, 65, 65))
            if bank:
                noise = bank[tile][dy : dy + height, dx : dx + width]
                image = cv2.addWeighted(image, gain, noise, 1.0, -128.0)
            else:
                image = cv2.convertScaleAbs(image, alpha=gain)
            yield np.asarray(image, np.uint8)

    def clean(self, index: int) -> NDArray[np.uint8]:
        """Frame `index` before gain and noise."""
        track = self._script.track
        left, top, width, height = self._maps.box
        at = self._maps.undo(track.pose[index])
        active = [
            (field, float(s))
            for field, s in zip(self._fields, self._curves[:, index], strict=True)
            if s > 1e-3
        ]
        for field, s in active:
            self._undo_expression(at, field, s)
        if track.blink[index] > 0:
            for eye, box in enumerate(self._lids.boxes()):
                part = self._cut(at, box)
                self._lids.close(part, eye, float(track.blink[index]))
        image = self._face.copy()
        target = image[top : top + height, left : left + width]
        target[:] = sample(self._face, at)
        for field, s in active:
            x, y, w, h = field.box
            patch = image[y : y + h, x : x + w]
            shade = field.shade if image.ndim == 2 else cv2.merge([field.shade] * 3)
            patch[:] = cv2.addWeighted(patch, 1.0, shade, s, 0.0, dtype=cv2.CV_8U)
        return image

    def _cut(self, at: Map, box: Box) -> Map:
        """View of the map `at` on an image box, clipped to the head's box."""
        left, top, _, _ = self._maps.box
        x, y, w, h = box
        return at[max(y - top, 0) : max(y + h - top, 0), max(x - left, 0) : max(x + w - left, 0)]

    def _undo_expression(self, at: Map, field: ExpressionField, s: float) -> None:
        """X from X' = X + s u(X), by fixed-point steps, where the field lives."""
        part = self._cut(at, field.box)
        origin = np.array(field.box[:2], np.float32)
        goal = part - origin
        x = goal
        for _ in range(field.steps):
            u = cv2.remap(field.u, x, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            x = goal - np.float32(s) * u
        part[:] = x + origin
