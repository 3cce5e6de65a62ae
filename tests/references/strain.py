"""Optical strain, slow and plain: what `data.flow.strain` is checked by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def optical_strain_reference(flow: npt.NDArray[Any]) -> Array:
    """`optical_strain` of one field (H,W,2), pixel by pixel in double precision: to check it by."""
    h, w, _ = flow.shape
    out = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            left, right = max(x - 1, 0), min(x + 1, w - 1)
            up, down = max(y - 1, 0), min(y + 1, h - 1)
            du_dx, dv_dx = (flow[y, right].astype(float) - flow[y, left]) / (right - left)
            du_dy, dv_dy = (flow[down, x].astype(float) - flow[up, x]) / (down - up)
            shear = 0.5 * (du_dy + dv_dx)
            out[y, x] = np.sqrt(du_dx**2 + dv_dy**2 + 2 * shear**2)
    return out
