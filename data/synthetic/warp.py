"""Thin-plate-spline image warps (Bookstein 1989), evaluated on a coarse grid."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Map = NDArray[np.float32]


def _kernel(a: Floats, b: Floats) -> Floats:
    squared = np.sum((a[:, None, :] - b[None, :, :]) ** 2, axis=2)
    return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)))


def thin_plate_map(
    size: tuple[int, int], target: Floats, source: Floats, *, ridge: float = 0.0, step: int = 6
) -> Map:
    """Sampling map of the warp that carries `source` points onto `target` points.

    `size` (width, height); `target`, `source` (n, 2) pixels; `ridge` relaxes the interpolation
    (0 = exact); the spline is evaluated every `step` pixels and upsampled. Returns (H, W, 2)
    float32: for each output pixel the (x, y) to read, ready for `cv2.remap`.
    """
    width, height = size
    unit = width / 5.5  # about one inter-pupil distance of the base face
    points, values = target / unit, (source - target) / unit
    n = len(points)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(points, points) + ridge * np.eye(n)
    system[:n, n] = system[n, :n] = 1.0
    system[:n, n + 1 :] = points
    system[n + 1 :, :n] = points.T
    rhs = np.zeros((n + 3, 2))
    rhs[:n] = values
    weights = np.linalg.solve(system, rhs)

    # Node i of the coarse grid sits at pixel i * step, plus a margin node beyond the border.
    xs, ys = np.arange(0, width + step, step), np.arange(0, height + step, step)
    nodes = np.stack(np.meshgrid(xs, ys), axis=2).reshape(-1, 2) / unit
    shift = _kernel(nodes, points) @ weights[:n] + weights[n] + nodes @ weights[n + 1 :]
    coarse = (shift * unit).reshape(len(ys), len(xs), 2).astype(np.float32)
    return upsample(coarse, size, step) + identity_map(size)


def upsample(coarse: Map, size: tuple[int, int], step: float) -> Map:
    """Field on nodes at pixel i * step -> the same field at every pixel of `size`, cubic."""
    width, height = size
    xs = (np.arange(width, dtype=np.float32) / np.float32(step))[None, :].repeat(height, axis=0)
    ys = (np.arange(height, dtype=np.float32) / np.float32(step))[:, None].repeat(width, axis=1)
    # Columns then rows through resize would shift by half a pixel; remap is exact.
    return np.asarray(
        cv2.remap(coarse, xs, ys, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def identity_map(size: tuple[int, int]) -> Map:
    """(H, W, 2) float32 map of pixel coordinates."""
    width, height = size
    grid = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack(grid, axis=2)


def sample(image: NDArray[np.uint8], at: Map) -> NDArray[np.uint8]:
    """Read `image` (H, W) or (H, W, 3) at `at` (h, w, 2), cubic, replicated border."""
    return np.asarray(
        cv2.remap(image, at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )
