"""The neutral base face: NASA's portrait of Eileen Collins with the smile taken out.

Two stages, both constants of this package so that no landmark detector is needed: the open mouth
is closed column by column (the teeth are cut out, the lips kept), then a thin-plate spline brings
the mouth to rest width and straightens the lip line. The 68 landmarks of the result (the usual
iBUG order) are stored below; they were measured once, on this very image.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.warp import Floats, identity_map, sample, thin_plate_map

SIZE = (640, 480)
_IMAGE = Path(__file__).parent / "astronaut.png"
_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
_SCALE, _CENTRE_IN, _CENTRE_OUT = 2.7, (220.0, 121.0), (320.0, 250.0)

# Landmarks of the smiling face in the 640x480 frame.
_SMILING = np.array(
    [
        (210, 204), (211, 235), (214, 266), (217, 297), (225, 328), (242, 355), (265, 378),
        (291, 398), (321, 405), (353, 401), (382, 385), (409, 364), (429, 338), (441, 309),
        (448, 277), (455, 246), (460, 214), (228, 177), (245, 161), (267, 158), (290, 163),
        (310, 173), (363, 176), (385, 168), (406, 167), (428, 172), (442, 189), (335, 199),
        (335, 222), (334, 244), (334, 267), (305, 277), (318, 281), (331, 286), (345, 282),
        (358, 279), (252, 196), (267, 187), (285, 189), (300, 204), (283, 205), (265, 204),
        (367, 207), (383, 194), (401, 194), (415, 205), (401, 211), (384, 210), (267, 299),
        (290, 299), (314, 300), (329, 303), (346, 301), (368, 301), (390, 303), (367, 331),
        (344, 342), (326, 344), (309, 341), (287, 328), (274, 302), (313, 309), (328, 312),
        (345, 311), (381, 306), (344, 328), (327, 329), (311, 327),
    ],
    dtype=np.float64,
)  # fmt: skip

# Edges of the mouth opening: lower edge of the upper lip, upper edge of the lower lip.
_UPPER_EDGE = np.array(
    [
        (271, 298), (276, 299.5), (281, 302), (286, 304), (294, 305), (303, 308), (312, 310),
        (320, 310), (330, 311), (340, 310.5), (350, 309), (358, 308), (365, 306), (372, 303),
        (380, 302), (386, 301.5),
    ]
)  # fmt: skip
_LOWER_EDGE = np.array(
    [
        (271, 298), (276, 303.5), (281, 309), (286, 314), (292, 319), (298, 323), (306, 326),
        (316, 328), (326, 328.5), (336, 328), (346, 327), (354, 324.5), (362, 320), (370, 315),
        (376, 310), (382, 305.5), (386, 301.5),
    ]
)  # fmt: skip
_NOSE_BASE, _CHIN = 272.0, 372.0
_LINE_AT = 0.45


def _mouth_columns() -> tuple[Floats, Floats, Floats]:
    """Per column: upper edge, lower edge, lip line; equal outside the opening."""
    x = np.arange(SIZE[0], dtype=np.float64)
    upper = np.interp(x, _UPPER_EDGE[:, 0], _UPPER_EDGE[:, 1])
    lower = np.interp(x, _LOWER_EDGE[:, 0], _LOWER_EDGE[:, 1])
    smooth = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth /= smooth.sum()
    upper, lower = (np.convolve(np.pad(v, 6, "edge"), smooth, "valid") for v in (upper, lower))
    return upper, lower, upper + _LINE_AT * (lower - upper)


def _smoothstep(t: Floats) -> Floats:
    t = np.clip(t, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _close_mouth(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    upper, lower, line = _mouth_columns()
    y = np.arange(SIZE[1], dtype=np.float64)[:, None]
    # The shift is full (slope 1) within a lip's thickness and fades to the nose base and the chin.
    above = _smoothstep((y - _NOSE_BASE) / (line - 12.0 - _NOSE_BASE))
    below = _smoothstep((_CHIN - y) / (_CHIN - line - 16.0))
    shift = np.where(y < line, -(line - upper) * above, (lower - line) * below)
    at = identity_map(SIZE)
    at[..., 1] += shift
    closed = sample(image, at).astype(np.float64)
    gap = np.clip((lower - upper) / 6.0, 0.0, 1.0)
    dark = 0.55 * gap * np.exp(-0.5 * ((y - line) / 1.6) ** 2)
    return np.clip(np.rint(closed * (1.0 - dark[..., None])), 0, 255).astype(np.uint8)


def _closed_landmarks() -> Floats:
    """Landmarks after the columns were closed: lips moved onto the line."""
    upper, lower, line = _mouth_columns()
    points = _SMILING.copy()
    column = np.rint(points[:, 0]).astype(int)
    for i in (49, 50, 51, 52, 53):
        points[i, 1] += line[column[i]] - upper[column[i]]
    for i in (55, 56, 57, 58, 59):
        points[i, 1] -= lower[column[i]] - line[column[i]]
    for i in (48, 54, 60, 61, 62, 63, 64, 65, 66, 67):
        points[i, 1] = line[column[i]]
    return points


def _rest_landmarks(closed: Floats) -> Floats:
    """Where the mouth's landmarks belong at rest."""
    rest = closed.copy()
    cx = 328.0
    line_y = 313.5
    half = 0.5 * 0.84 * (closed[54, 0] - closed[48, 0])
    rest[48:68, 0] = cx + 0.84 * (closed[48:68, 0] - cx)
    t = np.clip((rest[48:68, 0] - cx) / half, -1.0, 1.0)
    level = line_y + 0.8 * t**2
    taper = 1.0 - np.abs(t) ** 1.6
    offset = np.zeros(20)
    offset[1:6] = -9.5 * taper[1:6]
    offset[3] += 1.5  # cupid's bow
    offset[7:12] = 13.0 * taper[7:12]
    rest[48:68, 1] = level + offset
    return rest


def _border() -> Floats:
    xs, ys = np.linspace(0, SIZE[0] - 1, 9), np.linspace(0, SIZE[1] - 1, 7)
    top = [(x, y) for x in xs for y in (0.0, SIZE[1] - 1.0)]
    side = [(x, y) for y in ys[1:-1] for x in (0.0, SIZE[0] - 1.0)]
    return np.array(top + side)


@lru_cache(maxsize=1)
def neutral_face() -> tuple[NDArray[np.uint8], Floats]:
    """The neutral base face: (480, 640, 3) uint8 BGR and its 68 landmarks (68, 2) in pixels."""
    if hashlib.sha256(_IMAGE.read_bytes()).hexdigest() != _SHA256:
        raise ValueError(f"{_IMAGE} is not the expected photograph; restore it from the repository")
    photo = cv2.imread(str(_IMAGE), cv2.IMREAD_COLOR)
    (ix, iy), (ox, oy) = _CENTRE_IN, _CENTRE_OUT
    place = np.array([[_SCALE, 0, ox - _SCALE * ix], [0, _SCALE, oy - _SCALE * iy]])
    frame = cv2.warpAffine(photo, place, SIZE, flags=cv2.INTER_CUBIC)
    closed = _closed_landmarks()
    rest = _rest_landmarks(closed)
    fixed = _border()
    spline = thin_plate_map(SIZE, np.vstack([rest, fixed]), np.vstack([closed, fixed]), ridge=1e-5)
    return sample(_close_mouth(np.asarray(frame, np.uint8)), spline), rest
