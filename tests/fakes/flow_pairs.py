"""Image pairs with real texture and exactly known sub-pixel motion, for flow tests and benchmarks.

I1 is a photograph from scikit-image; I0(x) = I1(x + u(x)) is sampled from its cubic spline, u being
five Gaussian bumps and a shift; noise of 1.5 grey levels is added to both before rounding. Not a
test module.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "camera", "coins")
MARGIN = 8

Array = npt.NDArray[Any]


def photograph(name: str) -> Array:
    """A grey float32 image (H,W), 0–255, cut to a square."""
    import skimage.data

    image = getattr(skimage.data, name)()
    if image.ndim == 3:
        image = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY)
    if name == "astronaut":
        image = image[0:260, 90:350]  # the face
    h, w = image.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return image[top : top + side, left : left + side].astype(np.float32)


def known_motion(side: int, rng: np.random.Generator, largest: float = 2.0) -> Array:
    """u (side,side,2): five bumps of up to `largest` px and a shift of 0.1–0.5 px."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    u = rng.uniform(0.1, 0.5) * np.array([np.cos(angle), np.sin(angle)]) * np.ones((side, side, 1))
    for _ in range(5):
        cx, cy = rng.uniform(0.15 * side, 0.85 * side, 2)
        width, size = rng.uniform(0.06, 0.16) * side, rng.uniform(0.3, largest)
        angle = rng.uniform(0, 2 * np.pi)
        bump = size * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        u += bump[..., None] * np.array([np.cos(angle), np.sin(angle)])
    return u


def make_pair(
    side: int, number: int, noise: float = 1.5, largest: float = 2.0
) -> tuple[Array, Array, Array]:
    """I0, I1 (side,side) uint8 and the true flow (side,side,2) float32; `number` picks both."""
    from scipy import ndimage

    rng = np.random.default_rng([side, number])
    image = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
    whole = side + 2 * MARGIN
    shrink = image.shape[0] > whole
    second = cv2.resize(
        image, (whole, whole), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    )
    u = known_motion(whole, rng, largest)
    y, x = np.mgrid[:whole, :whole].astype(np.float64)
    first = ndimage.map_coordinates(second, [y + u[..., 1], x + u[..., 0]], order=3, mode="nearest")
    inner = slice(MARGIN, -MARGIN)
    rounded = [
        np.clip(np.rint(i + rng.normal(0, noise, i.shape)), 0, 255).astype(np.uint8)[inner, inner]
        for i in (first, second)
    ]
    return rounded[0].copy(), rounded[1].copy(), u[inner, inner].astype(np.float32)


def distance(flow: Array, other: Array) -> Array:
    """End-point distance (…,H,W) between two flows (…,H,W,2)."""
    return np.hypot(flow[..., 0] - other[..., 0], flow[..., 1] - other[..., 1])
