"""Known expressions planted into real frames: the action-unit fields on the frame's own landmarks.

    out(X + s u(X)) = in(X)

with u an action-unit field whose largest displacement is the wanted amplitude, and s the activation
in [0, 1]. Only pixels that move are written; skin, noise, compression and head motion are the
recording's own. The field is laid on the upright face and turned with the head's roll.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError
from data.synthetic.action_units import UNITS, UnitFields, inter_pupil_distance
from data.synthetic.dynamics import minimum_jerk
from data.synthetic.warp import Floats, Map

RISE, HOLD = 0.4, 0.1  # shares of an event's length; the rest is the fall
MARGIN = 4  # pixels around the field that a cubic kernel reads
STEPS = 6  # of the fixed point; a field is kept from folding below
MAX_GRADIENT = 0.7


@dataclass(frozen=True)
class PlantedField:
    """A field at full activation: `u` (h, w, 2) px (x right, y down) on `box` (x, y, w, h)."""

    box: tuple[int, int, int, int]
    u: Map

    @property
    def peak(self) -> float:
        """The largest displacement in pixels."""
        return float(np.hypot(self.u[..., 0], self.u[..., 1]).max(initial=0.0))


def parse_units(word: str) -> tuple[int, ...]:
    """Action units of "1+2" or "12"; ConfigError for one that has no field."""
    try:
        units = tuple(int(part) for part in word.split("+"))
    except ValueError:
        units = ()
    if not units or any(unit not in UNITS for unit in units):
        known = ", ".join(map(str, UNITS))
        raise ConfigError("action units", expected=f"some of {known}, as 1+2", got=repr(word))
    return units


def planted_field(
    landmarks: Floats, size: tuple[int, int], units: Sequence[int], amplitude: float
) -> PlantedField:
    """The field of `units` on a face, scaled so that its largest displacement is `amplitude` px.

    `landmarks` (68, 2) px in a frame of `size` (width, height). A sum of units counts as one field.
    Raises ConfigError for an amplitude at which the skin would fold over itself.
    """
    ipd = inter_pupil_distance(landmarks)
    centre = landmarks[17:68].mean(axis=0)
    eyes = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)
    roll = float(np.arctan2(eyes[1], eyes[0]))
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    upright = (landmarks - centre) @ turn + centre  # rows: the inverse turn
    side = int(np.ceil(2.0 * ipd))
    left, top = (int(v) for v in np.floor(centre - side))
    fields = UnitFields(upright, (left, top, 2 * side, 2 * side))
    u = fields.displacement(dict.fromkeys(units, (1.0, 1.0)))
    pivot = centre - (left, top)
    matrix = np.column_stack([turn, pivot - turn @ pivot])
    u = cv2.warpAffine(u, matrix, (2 * side, 2 * side), flags=cv2.INTER_LINEAR) @ turn.T
    u *= amplitude / max(float(np.hypot(u[..., 0], u[..., 1]).max(initial=0.0)), 1e-9)
    steepest = max(float(np.abs(np.diff(u, axis=axis)).max(initial=0.0)) for axis in (0, 1))
    if steepest > MAX_GRADIENT:
        raise ConfigError(
            f"amplitude of units {'+'.join(map(str, units))}",
            expected=f"at most {amplitude * MAX_GRADIENT / steepest:.2g} px on a face {ipd:.0f} px "
            "between the pupils",
            got=f"{amplitude:g} px",
            todo="Skin would fold over itself.",
        )
    return _cut(u.astype(np.float32), left, top, size)


def _cut(u: Map, left: int, top: int, size: tuple[int, int]) -> PlantedField:
    """The field on the pixels of the frame that it moves."""
    moving = np.hypot(u[..., 0], u[..., 1]) > 0.002
    rows, cols = np.flatnonzero(moving.any(axis=1)), np.flatnonzero(moving.any(axis=0))
    if not len(rows):
        return PlantedField((0, 0, 0, 0), np.zeros((0, 0, 2), np.float32))
    x0, x1 = max(left + int(cols[0]), 0), min(left + int(cols[-1]) + 1, size[0])
    y0, y1 = max(top + int(rows[0]), 0), min(top + int(rows[-1]) + 1, size[1])
    part = u[y0 - top : max(y1, y0) - top, x0 - left : max(x1, x0) - left]
    return PlantedField((x0, y0, part.shape[1], part.shape[0]), np.ascontiguousarray(part))


def plant(image: NDArray[np.uint8], field: PlantedField, activation: float) -> NDArray[np.uint8]:
    """The frame (H, W) or (H, W, 3) with the expression at `activation`; the input is kept."""
    x, y, w, h = field.box
    if activation <= 0 or not w or not h:
        return image
    goal = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=2).astype(np.float32)
    at = goal
    for _ in range(STEPS):
        u = cv2.remap(field.u, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        at = goal - np.float32(activation) * u
    out = image.copy()
    x0, y0 = max(x - MARGIN, 0), max(y - MARGIN, 0)
    source = image[y0 : y + h + MARGIN, x0 : x + w + MARGIN]
    at = at + np.array([x - x0, y - y0], np.float32)
    # Eight taps keep the picture's noise; four would smooth it where the skin moves.
    out[y : y + h, x : x + w] = cv2.remap(
        source, at, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    return out


def activation(seconds: Floats) -> Floats:
    """s (T,) over an event's frames at `seconds` (T,): 0 at the first, 1 held, 0 at the last.

    A minimum-jerk rise over 0.4 of its length, a hold of 0.1, a fall; nothing is left afterwards.
    """
    length = max(float(seconds[-1] - seconds[0]), 1e-9)
    t = (np.asarray(seconds, np.float64) - seconds[0]) / length
    down = minimum_jerk((t - RISE - HOLD) / (1.0 - RISE - HOLD))
    return np.asarray(minimum_jerk(t / RISE) * (1.0 - down))
