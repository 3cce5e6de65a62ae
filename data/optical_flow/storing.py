"""Numba kernels for what becomes of a flow field: its strain, its float16 twin.

`data.flow.strain` has the definitions in NumPy; these are the same without temporary arrays, for
stages that store millions of fields. This module imports numba: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from data.optical_flow.simd import LANES, lane_max, load, maximum, splat, store_half


@njit(nogil=True, error_model="numpy", inline="always")
def _strain_at(row, up, down, x, left, right, per_column, per_row):
    """Strain at column x from its neighbours in the row and the rows above and below."""
    u_x = (row[right, 0] - row[left, 0]) * per_column
    v_x = (row[right, 1] - row[left, 1]) * per_column
    u_y = (down[x, 0] - up[x, 0]) * per_row
    v_y = (down[x, 1] - up[x, 1]) * per_row
    shear = np.float32(0.5) * (u_y + v_x)
    return math.sqrt(u_x * u_x + v_y * v_y + np.float32(2) * shear * shear)


@njit(nogil=True, error_model="numpy", cache=True)
def strain_of(fields, strain):
    """Strain magnitude (P,H,W) of flows (P,H,W,2), float32, H and W at least 2."""
    pairs, h, w, _ = fields.shape
    half, one = np.float32(0.5), np.float32(1)
    for p in range(pairs):
        for y in range(h):
            above, below = max(y - 1, 0), min(y + 1, h - 1)
            per_row = np.float32(1) / np.float32(below - above)
            row, up, down, target = fields[p, y], fields[p, above], fields[p, below], strain[p, y]
            for x in range(1, w - 1):  # no branch: the compiler makes vectors of it
                target[x] = _strain_at(row, up, down, x, x - 1, x + 1, half, per_row)
            target[0] = _strain_at(row, up, down, 0, 0, 1, one, per_row)
            target[w - 1] = _strain_at(row, up, down, w - 1, w - 2, w - 1, one, per_row)


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
