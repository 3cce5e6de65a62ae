"""People: the base face warped, recoloured, relit, mirrored and given its own skin texture.

A subject is a function of (population, ordinal, frame size) alone. Honest limit: everybody keeps
the same hair, clothes and background, so a leave-one-subject-out score on these people tests
transfer between face shapes, lightings and ways of moving, not between real identities.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.action_units import inter_pupil_distance, mirror_index
from data.synthetic.base_face import SIZE, neutral_face
from data.synthetic.rng import generator
from data.synthetic.warp import Floats, Map, sample, thin_plate_map


@dataclass(frozen=True)
class Subject:
    """A neutral face: `image` (H, W, 3) uint8 BGR, `landmarks` (68, 2) px, `ipd` px."""

    ordinal: int
    image: NDArray[np.uint8]
    landmarks: Floats
    ipd: float
    expressivity: float
    mirrored: bool


def make_subject(
    population: str, ordinal: int, size: tuple[int, int], spread: float = 0.25
) -> Subject:
    """Subject number `ordinal` of a named population, at `size` (width, height).

    `spread` is the log-normal sd of the expressivity, a factor on all the subject's amplitudes.
    """
    rng = generator(population, "subject", ordinal)
    base, points = neutral_face()
    image, landmarks = _reshape(base, points, rng)
    image = _recolour(image, rng)
    if mirrored := bool(rng.random() < 0.5):
        image = np.ascontiguousarray(image[:, ::-1])
        landmarks = landmarks[mirror_index()] * [-1, 1] + [SIZE[0] - 1, 0]
    expressivity = float(np.exp(spread * np.clip(rng.standard_normal(), -2, 2)))
    image, landmarks = _resize(image, landmarks, size)
    image = _add_skin(image, size, rng)
    return Subject(
        ordinal, image, landmarks, inter_pupil_distance(landmarks), expressivity, mirrored
    )


def _draw(rng: np.random.Generator, sd: float, *shape: int) -> Floats:
    return np.asarray(sd * np.clip(rng.standard_normal(shape), -2.0, 2.0))


def _shape_offsets(points: Floats, rng: np.random.Generator) -> Floats:
    """Landmark offsets in IPD: sizes and places of the face's parts, then a little of each."""
    ipd = inter_pupil_distance(points)
    at = (points - points[27]) / ipd
    out = np.zeros_like(at)
    jaw, brow, nose, mouth = slice(0, 17), slice(17, 27), slice(27, 36), slice(48, 68)
    out[jaw, 0] += _draw(rng, 0.05) * at[jaw, 0] / np.abs(at[jaw, 0]).max()
    down = np.clip((at[jaw, 1] - at[0, 1]) / (at[8, 1] - at[0, 1]), 0.0, 1.0)
    out[jaw, 1] += _draw(rng, 0.05) * down
    apart, larger = _draw(rng, 0.03), _draw(rng, 0.08)
    for eye, side in ((slice(36, 42), -1.0), (slice(42, 48), 1.0)):
        out[eye] += larger * (at[eye] - at[eye].mean(axis=0))
        out[eye, 0] += side * apart
    out[brow, 0] += apart * np.sign(at[brow, 0])
    out[nose, 1] += _draw(rng, 0.05) * np.clip(at[nose, 1] / at[33, 1], 0.0, 1.0)
    out[31:36, 0] += _draw(rng, 0.03) * np.linspace(-1.0, 1.0, 5)
    half = 0.5 * (at[54, 0] - at[48, 0])
    out[mouth, 0] += _draw(rng, 0.05) * (at[mouth, 0] - at[51, 0]) / half
    out[mouth, 1] += _draw(rng, 0.03)
    out[brow, 1] += _draw(rng, 0.035)
    tilt = np.linspace(-1.0, 1.0, 5)
    lean = _draw(rng, 0.02)
    out[17:22, 1] += lean * tilt
    out[22:27, 1] -= lean * tilt
    line = at[60:68, 1].mean()
    out[mouth, 1] += _draw(rng, 0.02) * np.clip((at[mouth, 1] - line) / 0.1, -1.0, 1.0)
    return np.asarray(out + _draw(rng, 0.008, *out.shape))


def _reshape(
    image: NDArray[np.uint8], points: Floats, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Floats]:
    target = points + _shape_offsets(points, rng) * inter_pupil_distance(points)
    xs, ys = np.linspace(0, SIZE[0] - 1, 7), np.linspace(0, SIZE[1] - 1, 5)
    edge = [(x, y) for x in xs for y in ys if x in (xs[0], xs[-1]) or y in (ys[0], ys[-1])]
    fixed = np.array(edge)
    at = thin_plate_map(SIZE, np.vstack([target, fixed]), np.vstack([points, fixed]), ridge=3e-2)
    return sample(image, at), _carry(points, target, at)


def _carry(points: Floats, start: Floats, at: Map) -> Floats:
    """Where `points` went: solves at(x) = point, since the relaxed spline misses its targets."""
    x = start.copy()
    for _ in range(20):
        read = cv2.remap(at, x.astype(np.float32)[None], None, cv2.INTER_LINEAR)[0]
        x += points - read
    return x


def _recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    lab = cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_BGR2LAB)
    gamma = float(np.exp(_draw(rng, 0.22)))
    chroma, shift = rng.uniform(0.6, 1.2), _draw(rng, 4.0, 2)
    lab[..., 0] = 100.0 * (np.clip(lab[..., 0], 0.0, 100.0) / 100.0) ** gamma
    lab[..., 1:] = lab[..., 1:] * chroma + 0.5 * shift.astype(np.float32)
    bgr = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
    slope = _draw(rng, 0.10, 2)
    x, y = np.linspace(-1, 1, SIZE[0]), np.linspace(-1, 1, SIZE[1])
    light = 1.0 + slope[0] * x[None, :] + slope[1] * y[:, None]
    return np.asarray(np.clip(np.rint(bgr * light[..., None] * 255.0), 0, 255), np.uint8)


def _resize(
    image: NDArray[np.uint8], landmarks: Floats, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], Floats]:
    """Scale to cover `size`, keeping the centre; pixel centres stay where they belong."""
    if size == SIZE:
        return image, landmarks
    scale = max(size[0] / SIZE[0], size[1] / SIZE[1])
    shift = [0.5 * (new - scale * old + scale - 1.0) for new, old in zip(size, SIZE, strict=True)]
    if scale < 1.0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / scale), np.uint8)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    out = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, np.uint8), np.asarray(landmarks * scale + shift)


def _add_skin(
    image: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Two grains of texture fixed to the face; the enlarged photograph alone is too smooth."""
    scale = max(size[0] / SIZE[0], 0.6)
    grain = np.zeros((size[1], size[0]))
    for sigma, level in ((0.9 * scale, 1.5), (2.2 * scale, 2.0)):
        noise = cv2.GaussianBlur(rng.standard_normal(grain.shape), (0, 0), sigma)
        grain += level * noise / noise.std()
    return np.asarray(np.clip(np.rint(image + grain[..., None]), 0, 255), np.uint8)
