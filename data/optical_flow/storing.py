"""Numba kernels for what becomes of a flow field: its strain, its float16 twin.

`data.strain` has the definitions in NumPy; these are the same without temporary arrays, for stages
that store millions of fields. This module imports numba: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from data.optical_flow.simd import LANES, lane_max, load, maximum, splat, store_half


@njit(nogil=True, error_model="numpy", cache=True)
def strain_of(fields, strain):
    """Strain magnitude (P,H,W) of flows (P,H,W,2), float32, H and W at least 2."""
    pairs, h, w, _ = fields.shape
    half, two = np.float32(0.5), np.float32(2)
    for p in range(pairs):
        for y in range(h):
            above, below = max(y - 1, 0), min(y + 1, h - 1)
            per_row = np.float32(1) / np.float32(below - above)
            for x in range(w):
                left, right = max(x - 1, 0), min(x + 1, w - 1)
                per_column = half if right - left == 2 else np.float32(1)
                u_x = (fields[p, y, right, 0] - fields[p, y, left, 0]) * per_column
                v_x = (fields[p, y, right, 1] - fields[p, y, left, 1]) * per_column
                u_y = (fields[p, below, x, 0] - fields[p, above, x, 0]) * per_row
                v_y = (fields[p, below, x, 1] - fields[p, above, x, 1]) * per_row
                shear = half * (u_y + v_x)
                strain[p, y, x] = math.sqrt(u_x * u_x + v_y * v_y + two * shear * shear)


@njit(nogil=True, error_model="numpy", cache=True)
def round_to_half(values, bits):
    """float16 bit patterns of float32 `values` (1-D) into uint16 `bits`; returns the largest loss.

    The length must be a multiple of LANES.
    """
    worst = splat(np.float32(0))
    for k in range(0, values.size, LANES):
        exact = load(values, k)
        loss = store_half(bits, k, exact) - exact
        worst = maximum(worst, maximum(loss, splat(np.float32(0)) - loss))
    return lane_max(worst)
