"""Farneback flow of small patches against one fixed reference, equal to OpenCV's to the bit.

`cv2.calcOpticalFlowFarneback` expands both images on every call. ME-TST compares every frame of a
window with the window's first frame, so here the reference is expanded once, and the inner loops
run on planes (`data.motion.kernels`). The pyramid uses OpenCV's own blur and resize. Parameters are
ME-TST's and fixed: scale 0.5, 3 levels, window 15, 5 iterations, poly_n 7, poly_sigma 1.5, flags 0.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from data.motion import kernels

F32 = npt.NDArray[np.float32]
Patch = npt.NDArray[np.uint8]

SCALE, LEVELS, WINDOW, ITERATIONS, POLY_SIGMA = 0.5, 3, 15, 5, 1.5
SMALLEST_LEVEL = 32  # OpenCV adds no pyramid level whose side would be shorter
SMALLEST_PATCH = 16  # shorter sides go to OpenCV itself; the kernels need a neighbour to read
BORDER_WEIGHTS = (0.14, 0.14, 0.4472, 0.4472, 0.4472)


def opencv_farneback(reference: Patch, current: Patch) -> F32:
    """The same flow from OpenCV: (h,w) and (h,w) uint8 -> (h,w,2) float32 (dx, dy) px."""
    flow: F32 = cv2.calcOpticalFlowFarneback(
        reference,
        current,
        None,
        SCALE,
        LEVELS,
        WINDOW,
        ITERATIONS,
        kernels.RADIUS,
        POLY_SIGMA,
        0,
    )
    return flow


class FarnebackReference:
    """A reference patch, expanded once; `to(patch)` gives the flow towards a current patch."""

    def __init__(self, patch: Patch) -> None:
        """`patch` (h,w) uint8, not empty."""
        self._patch = np.ascontiguousarray(patch)
        self._levels = _expand(self._patch) if min(patch.shape) >= SMALLEST_PATCH else None

    def to(self, current: Patch) -> F32:
        """Flow reference -> `current` (same shape) as planes (2,h,w) float32: dx, dy in px."""
        if self._levels is None:
            flow = opencv_farneback(self._patch, np.ascontiguousarray(current))
            return np.ascontiguousarray(np.moveaxis(flow, -1, 0))
        planes: F32 | None = None
        for first, second in zip(self._levels, _expand(current), strict=True):
            planes = _upsampled(planes, first.shape[1:])
            scale = _border_scale(*first.shape[1:])
            kernels.refine(first, second, scale, WINDOW, ITERATIONS, planes)
        assert planes is not None
        return planes


def _upsampled(coarse: F32 | None, shape: tuple[int, ...]) -> F32:
    """Start of the next finer level: the coarser flow enlarged, its vectors with it."""
    h, w = shape
    if coarse is None:
        return np.zeros((2, h, w), np.float32)
    # OpenCV's one- and two-channel resizes round differently: interleave as it does
    pairs = np.ascontiguousarray(np.moveaxis(coarse, 0, -1))
    pairs = cv2.resize(pairs, (w, h), interpolation=cv2.INTER_LINEAR) * np.float32(1 / SCALE)
    return np.ascontiguousarray(np.moveaxis(pairs, -1, 0))


def _expand(patch: Patch) -> list[F32]:
    """Polynomial expansions (5,h',w') of the pyramid, coarsest first."""
    image = patch.astype(np.float32)
    expansions = []
    for h, w, sigma, size in _pyramid(*patch.shape):
        blurred = cv2.GaussianBlur(image, (size, size), sigma, sigmaY=sigma)
        level = cv2.resize(blurred, (w, h), interpolation=cv2.INTER_LINEAR)
        planes = np.empty((5, h, w), np.float32)
        kernels.polynomial_expansion(level, *_tables(), planes)
        expansions.append(planes)
    return expansions


@functools.lru_cache(maxsize=1024)
def _pyramid(h: int, w: int) -> tuple[tuple[int, int, float, int], ...]:
    """(height, width, blur sigma, blur size) per level, coarsest first."""
    top = 0
    while top < LEVELS and min(h, w) * SCALE ** (top + 1) >= SMALLEST_LEVEL:
        top += 1
    levels = []
    for level in range(top, -1, -1):
        scale = SCALE**level
        sigma = (1 / scale - 1) / 2  # 0 at full size, where OpenCV then takes 0.8 for a 3x3 blur
        levels.append((round(h * scale), round(w * scale), sigma, max(round(sigma * 5) | 1, 3)))
    return tuple(levels)


@functools.lru_cache(maxsize=1024)
def _border_scale(h: int, w: int) -> F32:
    """(h,w) weight that falls in the outer five pixels; sides are at least ten here."""
    fall = np.array(BORDER_WEIGHTS, np.float32)
    sides = []
    for length in (h, w):
        side = np.ones(length, np.float32)
        side[:5], side[-5:] = fall, fall[::-1]
        sides.append(side)
    return np.ascontiguousarray(sides[1][None, :] * sides[0][:, None])


@functools.cache
def _tables() -> tuple[F32, F32, F32, npt.NDArray[np.float64]]:
    """Gaussian weights times 1, x, x² (x = 0..7) and the inverse moments, in OpenCV's precision."""
    n, f32 = kernels.RADIUS, np.float32
    x = np.arange(-n, n + 1)
    g = np.array([math.exp(-i * i / (2 * POLY_SIGMA * POLY_SIGMA)) for i in x]).astype(f32)
    g = (g.astype(np.float64) * (1 / sum(float(v) for v in g))).astype(f32)
    moments = np.zeros((6, 6))
    for gy, y in zip(g, x.astype(f32), strict=True):
        for gx, s in zip(g, x.astype(f32), strict=True):
            p = f32(gy * gx)  # products stay in single precision, sums do not
            moments[0, 0] += float(p)
            moments[1, 1] += float(p * s * s)
            moments[3, 3] += float(p * s * s * s * s)
            moments[5, 5] += float(p * s * s * y * y)
    m11, m33, m55 = moments[1, 1], moments[3, 3], moments[5, 5]
    for i, j in ((2, 2), (0, 3), (0, 4), (3, 0), (4, 0)):
        moments[i, j] = m11
    moments[4, 4] = m33
    moments[3, 4] = moments[4, 3] = m55
    inverse = cv2.invert(moments, flags=cv2.DECOMP_CHOLESKY)[1]
    used = np.array([inverse[1, 1], inverse[0, 3], inverse[3, 3], inverse[5, 5]])
    half = x[n:]
    return g[n:].copy(), (half * g[n:]).astype(f32), (half * half * g[n:]).astype(f32), used
