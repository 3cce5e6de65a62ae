"""Facial action units as displacement fields: sums of Gaussian bumps tied to landmarks.

A bump has a centre (landmarks plus an offset), two widths in inter-pupil distances (IPD) and a
direction. Directions are written for the image-left half of the face and mirrored for the other;
x is outward when negative, y is up when negative. Each unit's symmetric field peaks at 1 px.
The emotion table gives the action-unit sets of each emotion with their probabilities; the overlaps
between emotions are deliberate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.synthetic.warp import Floats


@dataclass(frozen=True)
class Bump:
    """One Gaussian: mean of `points` plus `offset` (IPD), widths (IPD), direction and weight."""

    points: tuple[int, ...]
    sigma: tuple[float, float]
    direction: tuple[float, float]
    weight: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    central: bool = False
    """A central bump stands once on the midline instead of once on each side."""


_UPPER_LID, _LOWER_LID = (37, 38), (40, 41)

UNITS: dict[int, tuple[Bump, ...]] = {
    1: (
        Bump((21,), (0.16, 0.20), (0, -1)),
        Bump((21,), (0.16, 0.20), (0, -1), 0.35, (0, -0.25)),
    ),
    2: (
        Bump((18,), (0.20, 0.20), (-0.1, -1)),
        Bump((18,), (0.20, 0.20), (-0.1, -1), 0.35, (0, -0.25)),
    ),
    4: (
        Bump((20,), (0.20, 0.17), (0.45, 0.9)),
        Bump((21,), (0.12, 0.16), (0.6, 0.7), 0.5),
    ),
    5: (Bump(_UPPER_LID, (0.13, 0.06), (0, -1)),),
    6: (Bump(_LOWER_LID, (0.22, 0.16), (-0.25, -1), 1.0, (-0.1, 0.26)),),
    7: (
        Bump(_LOWER_LID, (0.15, 0.06), (0, -1)),
        Bump(_UPPER_LID, (0.15, 0.06), (0, 0.8), 0.5),
    ),
    9: (
        Bump((31,), (0.12, 0.16), (-0.15, -1)),
        Bump((27, 28), (0.14, 0.14), (0, -0.4), 0.7, central=True),
        Bump((21,), (0.12, 0.14), (0.3, 0.7), 0.5),
        Bump((50,), (0.12, 0.10), (0, -0.8), 0.5),
    ),
    10: (
        Bump((50,), (0.14, 0.09), (-0.1, -1)),
        Bump((31,), (0.14, 0.09), (-0.1, -1), 0.4),
    ),
    12: (
        Bump((48,), (0.18, 0.15), (-0.72, -0.7)),
        Bump((48,), (0.20, 0.18), (-0.3, -0.9), 0.45, (-0.2, -0.22)),
    ),
    14: (Bump((48,), (0.12, 0.12), (-0.95, 0.1)),),
    15: (
        Bump((48,), (0.15, 0.14), (-0.15, 1)),
        Bump((48,), (0.15, 0.14), (-0.15, 1), 0.3, (0, 0.2)),
    ),
    17: (
        Bump((57,), (0.25, 0.16), (0, -1), 1.0, (0, 0.22), central=True),
        Bump((57,), (0.20, 0.07), (0, -1), 0.5, central=True),
    ),
    20: (Bump((48,), (0.18, 0.14), (-1, 0.12)),),
    24: (
        Bump((51,), (0.25, 0.06), (0, 0.8), central=True),
        Bump((57,), (0.25, 0.06), (0, -0.9), central=True),
    ),
    25: (Bump((57,), (0.25, 0.10), (0, 1), central=True),),
}

EMOTIONS: dict[str, tuple[tuple[tuple[int, ...], float], ...]] = {
    "happiness": (((12,), 0.5), ((6, 12), 0.5)),
    "disgust": (((9,), 0.35), ((4, 9), 0.25), ((10,), 0.2), ((4, 7), 0.2)),
    "surprise": (((1, 2), 0.5), ((1, 2, 5), 0.25), ((2,), 0.25)),
    "repression": (((15, 17), 0.4), ((14,), 0.3), ((17, 24), 0.3)),
    "sadness": (((1, 4), 0.4), ((15,), 0.3), ((1, 15), 0.3)),
    "anger": (((4, 7), 0.5), ((4,), 0.3), ((4, 24), 0.2)),
    "fear": (((1, 2, 4), 0.5), ((1, 20), 0.5)),
    "contempt": (((14,), 1.0),),
    "others": (((4,), 0.5), ((20,), 0.25), ((24,), 0.25)),
    # Words of datasets with a coarser or another vocabulary.
    "positive": (((12,), 0.5), ((6, 12), 0.5)),
    "negative": (((4,), 0.25), ((4, 7), 0.2), ((9,), 0.2), ((15,), 0.15), ((10,), 0.1),
                 ((1, 4), 0.1)),
    "tense": (((4, 7), 0.5), ((24,), 0.3), ((17, 24), 0.2)),
    "positive+surprise": (((1, 2, 12), 0.6), ((2, 12), 0.4)),
}  # fmt: skip

# Skin folds that darken with a unit: unit -> (landmarks, widths in IPD, central).
_FOLDS: dict[int, tuple[tuple[int, ...], tuple[float, float], bool]] = {
    1: ((21,), (0.12, 0.05), False),
    4: ((21, 22), (0.05, 0.13), True),
    9: ((31, 48), (0.05, 0.12), False),
    10: ((31, 48), (0.05, 0.12), False),
    12: ((31, 48), (0.06, 0.14), False),
    17: ((57, 8), (0.16, 0.06), True),
}

# FACS-set -> objective class I..VII of Davison et al. 2018; every other set is class VII.
_OBJECTIVE: dict[int, tuple[str, ...]] = {
    1: ("6", "12", "6+12", "6+7+12", "7+12"),
    2: ("1+2", "5", "25", "1+2+25", "25+26", "5+24"),
    3: ("23", "4", "4+7", "4+5", "4+5+7", "17+24", "4+6+7", "4+38"),
    4: ("10", "9", "4+9", "4+40", "4+5+40", "4+7+9", "4+9+17", "4+7+10", "4+5+7+9", "7+10"),
    5: ("1", "15", "1+4", "6+15", "15+17"),
    6: ("1+2+4", "20"),
}


def objective_class(aus: str) -> int:
    """Objective class 1..7 of a coded set such as "1+2"."""
    return next((number for number, sets in _OBJECTIVE.items() if aus in sets), 7)


def mirror_index() -> NDArray[np.int64]:
    """Index (68,) that re-labels mirrored landmarks: new[i] = old[mirror_index()[i]]."""
    index = np.arange(68)
    for low, high in ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67)):
        index[low : high + 1] = np.arange(high, low - 1, -1)
    eyes = {36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46}
    for a, b in eyes.items():
        index[a], index[b] = b, a
    return index


def inter_pupil_distance(landmarks: Floats) -> float:
    """Distance between the eye centres, in pixels."""
    return float(np.linalg.norm(landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)))


class UnitFields:
    """The fields of one face on a pixel box: (left, top, width, height), float32."""

    def __init__(self, landmarks: Floats, box: tuple[int, int, int, int]) -> None:
        self._points = landmarks
        self._ipd = inter_pupil_distance(landmarks)
        self._mirror = mirror_index()
        left, top, width, height = box
        self._x = np.arange(left, left + width, dtype=np.float64)
        self._y = np.arange(top, top + height, dtype=np.float64)

    def displacement(self, peaks: Mapping[int, tuple[float, float]]) -> NDArray[np.float32]:
        """(H, W, 2) pixels for units with their (image-left, image-right) peaks in pixels."""
        total = np.zeros((len(self._y), len(self._x), 2))
        for unit, (left, right) in peaks.items():
            total += self._unit(unit, left, right) / self._norm(unit)
        return total.astype(np.float32)

    def shading(self, peaks: Mapping[int, tuple[float, float]]) -> NDArray[np.float32]:
        """(H, W) fold weight: 1 per pixel of peak at a fold's centre."""
        total = np.zeros((len(self._y), len(self._x)))
        for unit, (left, right) in peaks.items():
            if unit not in _FOLDS:
                continue
            points, sigma, central = _FOLDS[unit]
            bump = Bump(points, sigma, (0, 1), central=central)
            total += self._bump(bump, left, right)[..., 1]
        return total.astype(np.float32)

    def _norm(self, unit: int) -> float:
        return float(np.sqrt((self._unit(unit, 1.0, 1.0) ** 2).sum(axis=2).max()))

    def _unit(self, unit: int, left: float, right: float) -> Floats:
        total = np.zeros((len(self._y), len(self._x), 2))
        for bump in UNITS[unit]:
            total += self._bump(bump, left, right)
        return total

    def _bump(self, bump: Bump, left: float, right: float) -> Floats:
        if bump.central:
            return self._gauss(bump, 1.0, 0.5 * (left + right))
        return self._gauss(bump, 1.0, left) + self._gauss(bump, -1.0, right)

    def _gauss(self, bump: Bump, side: float, scale: float) -> Floats:
        index = list(bump.points)
        if side < 0:
            index = [int(self._mirror[i]) for i in index]
        centre = self._points[index].mean(axis=0)
        cx = centre[0] + side * bump.offset[0] * self._ipd
        cy = centre[1] + bump.offset[1] * self._ipd
        gx = np.exp(-0.5 * ((self._x - cx) / (bump.sigma[0] * self._ipd)) ** 2)
        gy = np.exp(-0.5 * ((self._y - cy) / (bump.sigma[1] * self._ipd)) ** 2)
        direction = np.array([side * bump.direction[0], bump.direction[1]])
        direction = direction * (bump.weight * scale)
        return np.asarray((gy[:, None] * gx[None, :])[..., None] * direction)
