"""Numba kernels of one TV-L1 pair: image pyramid, warp, inner iterations, the solver over levels.

Zach, Pock, Bischof 2007 as OpenCV's DualTVL1 arranges it; `torch_backend.py` is the same algorithm
to be read beside the paper. Here each inner step is one pass through memory and 16 pixels advance
at a time (`simd.py`).

Two memory layouts, both with rows that start at a multiple of 16 floats:
* pyramid: planes I, Ix, Iy; each level has PAD_Y zero rows and PAD_X zero columns on every side,
  which gives bicubic taps outside the image the value 0;
* state: planes u1 u2 p11 p12 p21 p22 and the warp's ix iy ig rg; a row above, a row below and the
  columns right of the image exist so that no border needs a branch. Pixels right of the image
  have zero gradient and zero dual, so their flow stays exactly 0 and adds nothing to any sum.

This module imports numba: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from data.optical_flow.median import median3, median5
from data.optical_flow.simd import (
    LANES,
    lane_max,
    lane_min,
    lane_sum,
    load,
    maximum,
    minimum,
    ramp,
    select,
    splat,
    sqrt,
    store,
)
from data.optical_flow.simd import floor as vector_floor

PAD_X, PAD_Y = 16, 8
MAX_SPAN = 8  # a tile whose motions differ by more whole pixels is warped pixel by pixel
BLOCK = 8  # rows of u updated before the duals behind them
FLAT = 1.19209290e-7  # squared gradient below which a pixel has no data term
CUBIC = -0.75

_helper = njit(nogil=True, error_model="numpy")


@_helper
def _padded(width):
    return (width + 15) // 16 * 16


@_helper
def _linear_table(size, source_size, scale, index, weight):
    """Pixel-centred linear sampling positions, clamped to the edge."""
    for i in range(size):
        position = np.float32((i + 0.5) * scale - 0.5)
        whole = math.floor(position)
        part = position - np.float32(whole)
        if whole < 0:
            whole, part = 0, np.float32(0)
        if whole >= source_size - 1:
            whole, part = source_size - 1, np.float32(0)
        index[i] = whole
        weight[i] = part


@_helper
def resize_plane(source, start, stride, h, w, target, t_start, t_stride, th, tw, sy, sx, gain):
    """target = gain · bilinear resize of source, with sampling scales sy, sx (source/target)."""
    xi, xw = np.empty(tw, np.int64), np.empty(tw, np.float32)
    yi, yw = np.empty(th, np.int64), np.empty(th, np.float32)
    _linear_table(tw, w, sx, xi, xw)
    _linear_table(th, h, sy, yi, yw)
    row = np.zeros(_padded(w) + LANES, np.float32)
    for y in range(th):
        above = start + yi[y] * stride
        below = above + (stride if yi[y] < h - 1 else 0)
        part = yw[y]
        for x in range(0, w, LANES):
            a = load(source, above + x)
            store(row, x, a + (load(source, below + x) - a) * part)
        row[w] = row[w - 1]
        out = t_start + y * t_stride
        for x in range(tw):
            a = row[xi[x]]
            target[out + x] = (a + (row[xi[x] + 1] - a) * xw[x]) * gain


@njit(nogil=True, error_model="numpy", cache=True)
def build_pyramid(image, planes, heights, widths, starts, step, gradients):
    """Fill `planes` (3, n): every level of image (H,W) float32 and, if asked, its gradients."""
    image_plane, dx_plane, dy_plane = planes[0], planes[1], planes[2]
    for level in range(heights.size):
        h, w, start = heights[level], widths[level], starts[level]
        stride = _padded(w) + 2 * PAD_X
        if level == 0:
            for y in range(h):
                for x in range(w):
                    image_plane[start + y * stride + x] = image[y, x]
        else:
            h2, w2 = heights[level - 1], widths[level - 1]
            resize_plane(
                image_plane, starts[level - 1], _padded(w2) + 2 * PAD_X, h2, w2,
                image_plane, start, stride, h, w, 1.0 / step, 1.0 / step, np.float32(1),
            )  # fmt: skip
        if gradients:
            _gradients(image_plane, dx_plane, dy_plane, start, stride, h, w)


@_helper
def _gradients(image, dx, dy, start, stride, h, w):
    """Central differences with the index clamped at the border."""
    half = np.float32(0.5)
    for y in range(h):
        row = start + y * stride
        above = row - (stride if y > 0 else 0)
        below = row + (stride if y < h - 1 else 0)
        for x in range(0, w, LANES):
            inside = ramp() < splat(np.float32(w - x))
            k = row + x
            store(dx, k, select(inside, (load(image, k + 1) - load(image, k - 1)) * half, 0.0))
            store(dy, k, (load(image, below + x) - load(image, above + x)) * half)
        dx[row] = half * (image[row + 1] - image[row])
        dx[row + w - 1] = half * (image[row + w - 1] - image[row + w - 2])


@_helper
def _cubic(t):
    """Weights of the four bicubic taps at -1, 0, 1, 2 for a position t in [0, 1)."""
    a = np.float32(CUBIC)
    one = np.float32(1)
    s = one - t
    w0, w3 = a * t * s * s, a * s * t * t  # factored: no cancellation
    w1 = (np.float32(CUBIC + 2) * t - np.float32(CUBIC + 3)) * t * t + one
    return w0, w1, one - w0 - w1 - w3, w3


@_helper
def _window_weights(offset, low, span, t, table):
    """Spread each lane's four taps over the tile's common window of span + 4 taps."""
    w0, w1, w2, w3 = _cubic(t)
    zero = splat(np.float32(0))
    shift = offset - low
    for i in range(span + 4):
        weight = zero
        for s in range(max(0, i - 3), min(span, i) + 1):
            tap = i - s
            value = w0 if tap == 0 else (w1 if tap == 1 else (w2 if tap == 2 else w3))
            weight = weight + select(shift == np.float32(s), value, zero)
        store(table, i * LANES, weight)


@_helper
def _sample(plane, start, stride, h, w, x, y):
    """Bicubic value at (x, y), one pixel: the path of tiles whose motion varies wildly."""
    fx, fy = math.floor(x), math.floor(y)
    if not (-4 < fx < w + 4 and -4 < fy < h + 4):
        return np.float32(0)
    wx, wy = _cubic(np.float32(x - fx)), _cubic(np.float32(y - fy))
    total = np.float32(0)
    for j in range(4):
        row = fy + j - 1
        if 0 <= row < h:
            part = np.float32(0)
            for i in range(4):
                column = fx + i - 1
                if 0 <= column < w:
                    part += wx[i] * plane[start + row * stride + column]
            total += wy[j] * part
    return total


@_helper
def _warp(pyramid0, pyramid1, start, h, w, state, table):
    """Sample I1 and its gradient at x + u; leave ix, iy, 1/G and R/G in the state."""
    stride, s_stride = _padded(w) + 2 * PAD_X, _padded(w) + 16
    i0, i1, dx, dy = pyramid0[0], pyramid1[0], pyramid1[1], pyramid1[2]
    u1, u2 = state[0], state[1]
    zero = splat(np.float32(0))
    wx, wy, spill = table[: 16 * LANES], table[16 * LANES : 32 * LANES], table[32 * LANES :]
    for y in range(h):
        for x in range(0, w, LANES):
            k = (y + 1) * s_stride + x
            a, b = load(u1, k), load(u2, k)
            inside = ramp() < splat(np.float32(w - x))
            column, row = ramp() + np.float32(x), splat(np.float32(y))
            px, py = column + a, row + b
            fx, fy = vector_floor(px), vector_floor(py)
            ox, oy = fx - column, fy - row
            left = lane_min(select(inside, ox, 1e9))
            top = lane_min(select(inside, oy, 1e9))
            span_x = lane_max(select(inside, ox, -1e9)) - left
            span_y = lane_max(select(inside, oy, -1e9)) - top
            x_first, y_first = x + left - 1, y + top - 1
            sum0, sum1, sum2 = zero, zero, zero
            if (
                span_x <= MAX_SPAN
                and span_y <= MAX_SPAN
                and x_first >= -PAD_X
                and x_first + span_x + 3 + LANES <= w + PAD_X
                and y_first >= -PAD_Y
                and y_first + span_y + 4 <= h + PAD_Y
            ):
                _window_weights(ox, left, int(span_x), px - fx, wx)
                _window_weights(oy, top, int(span_y), py - fy, wy)
                corner = start + int(y_first) * stride + int(x_first)
                for j in range(int(span_y) + 4):
                    part0, part1, part2 = zero, zero, zero
                    for i in range(int(span_x) + 4):
                        weight, at = load(wx, i * LANES), corner + j * stride + i
                        part0 = part0 + weight * load(i1, at)
                        part1 = part1 + weight * load(dx, at)
                        part2 = part2 + weight * load(dy, at)
                    weight = load(wy, j * LANES)
                    sum0 = sum0 + weight * part0
                    sum1 = sum1 + weight * part1
                    sum2 = sum2 + weight * part2
            else:
                for lane in range(min(LANES, w - x)):
                    qx = np.float32(x + lane) + u1[k + lane]
                    qy = np.float32(y) + u2[k + lane]
                    spill[lane] = _sample(i1, start, stride, h, w, qx, qy)
                    spill[LANES + lane] = _sample(dx, start, stride, h, w, qx, qy)
                    spill[2 * LANES + lane] = _sample(dy, start, stride, h, w, qx, qy)
                sum0, sum1, sum2 = load(spill, 0), load(spill, LANES), load(spill, 2 * LANES)
            sum1, sum2 = select(inside, sum1, zero), select(inside, sum2, zero)
            squared = sum1 * sum1 + sum2 * sum2
            residual = sum0 - sum1 * a - sum2 * b - load(i0, start + y * stride + x)
            inverse = select(squared > np.float32(FLAT), 1.0 / squared, zero)
            store(state[6], k, sum1)
            store(state[7], k, sum2)
            store(state[8], k, inverse)
            store(state[9], k, residual * inverse)


@_helper
def update_flow(state, first, last, w, lt, theta):
    """Threshold and divergence step of u on rows [first, last); returns Σ |Δu|²."""
    u1, u2, p11, p12, p21, p22 = state[0], state[1], state[2], state[3], state[4], state[5]
    ix, iy, ig, rg = state[6], state[7], state[8], state[9]
    stride = _padded(w) + 16
    change = splat(np.float32(0))
    for y in range(first, last):
        for k in range(y * stride, y * stride + w, LANES):
            a, b, gx, gy = load(u1, k), load(u2, k), load(ix, k), load(iy, k)
            f = (gx * a + gy * b) * load(ig, k) + load(rg, k)
            f = maximum(minimum(f, lt), -lt)
            div1 = (load(p11, k) - load(p11, k - 1)) + (load(p12, k) - load(p12, k - stride))
            div2 = (load(p21, k) - load(p21, k - 1)) + (load(p22, k) - load(p22, k - stride))
            new_a, new_b = (a - f * gx) + theta * div1, (b - f * gy) + theta * div2
            store(u1, k, new_a)
            store(u2, k, new_b)
            a, b = new_a - a, new_b - b
            change = change + a * a + b * b
    return lane_sum(change)


@_helper
def update_dual(state, first, last, w, taut):
    """Gradient step of the four dual planes on rows [first, last)."""
    u1, u2, p11, p12, p21, p22 = state[0], state[1], state[2], state[3], state[4], state[5]
    stride = _padded(w) + 16
    one = np.float32(1)
    for y in range(first, last):
        for x in range(0, w, LANES):
            k = y * stride + x
            inner = ramp() < splat(np.float32(w - 1 - x))  # the last column has no right neighbour
            a, b = load(u1, k), load(u2, k)
            ax, ay = select(inner, load(u1, k + 1) - a, 0.0), load(u1, k + stride) - a
            bx, by = select(inner, load(u2, k + 1) - b, 0.0), load(u2, k + stride) - b
            shrink1 = one / (sqrt(ax * ax + ay * ay) * taut + one)
            shrink2 = one / (sqrt(bx * bx + by * by) * taut + one)
            store(p11, k, (load(p11, k) + taut * ax) * shrink1)
            store(p12, k, (load(p12, k) + taut * ay) * shrink1)
            store(p21, k, (load(p21, k) + taut * bx) * shrink2)
            store(p22, k, (load(p22, k) + taut * by) * shrink2)


@_helper
def inner_step(state, h, w, lt, theta, taut):
    """One iteration over the level; the duals follow one row behind u. Returns Σ |Δu|²."""
    stride = _padded(w) + 16
    total = 0.0
    done = 1
    for first in range(1, h + 1, BLOCK):
        last = min(first + BLOCK, h + 1)
        total += update_flow(state, first, last, w, lt, theta)
        update_dual(state, done, last - 1, w, taut)
        done = last - 1
    for plane in range(2):
        for x in range(0, w, LANES):  # no gradient across the bottom
            store(state[plane], (h + 1) * stride + x, load(state[plane], h * stride + x))
    update_dual(state, done, h + 1, w, taut)
    return total


@njit(nogil=True, error_model="numpy", cache=True)
def solve_pair(
    pyramid0, pyramid1, heights, widths, starts, state, scratch, initial, flow,
    lam, theta, tau, step, warps, epsilon, inner, outer, median, steps, errors,
):  # fmt: skip
    """Flow of one pair into `flow` (H,W,2), from `initial` (2,h,w) at the coarsest level.

    Also writes inner steps per level and the last RMS change in pixels of that level.
    """
    lt, taut = np.float32(lam * theta), np.float32(tau / theta)
    theta = np.float32(theta)
    u_coarse = scratch[: 2 * state.shape[1]]
    table = scratch[2 * state.shape[1] :]
    levels = heights.size
    for level in range(levels - 1, -1, -1):
        h, w = heights[level], widths[level]
        stride = _padded(w) + 16
        used = (h + 2) * stride + 16
        for plane in range(6):
            state[plane, :used] = 0
        if level < levels - 1:
            _upsample(u_coarse, heights[level + 1], widths[level + 1], state, h, w, step)
        else:
            for plane in range(2):
                for y in range(h):
                    for x in range(w):
                        state[plane, (y + 1) * stride + x] = initial[plane, y, x]
        count, change, limit = 0, 0.0, epsilon * epsilon * w * h
        for _ in range(warps):
            _warp(pyramid0, pyramid1, starts[level], h, w, state, table)
            change = np.inf
            passes = 0
            while change > limit and passes < outer:
                if median == 5:
                    median5(state[0], h, w, stride, table)
                    median5(state[1], h, w, stride, table)
                elif median == 3:
                    median3(state[0], h, w, stride, table)
                    median3(state[1], h, w, stride, table)
                done = 0
                while change > limit and done < inner:
                    change = inner_step(state, h, w, lt, theta, taut)
                    done += 1
                count += done
                passes += 1
        steps[level] = count
        errors[level] = math.sqrt(change / (w * h))
        if level > 0:
            u_coarse[:used] = state[0, :used]
            u_coarse[used : 2 * used] = state[1, :used]
    for y in range(heights[0]):
        k = (y + 1) * (_padded(widths[0]) + 16)
        for x in range(widths[0]):
            flow[y, x, 0] = state[0, k + x]
            flow[y, x, 1] = state[1, k + x]


@_helper
def _upsample(coarse, ch, cw, state, h, w, step):
    """Flow of the coarser level at this level's size and in this level's pixels."""
    c_stride, stride = _padded(cw) + 16, _padded(w) + 16
    used = (ch + 2) * c_stride + 16
    gain = np.float32(1.0 / step)
    for plane in range(2):
        resize_plane(
            coarse, plane * used + c_stride, c_stride, ch, cw,
            state[plane], stride, stride, h, w, ch / h, cw / w, gain,
        )  # fmt: skip
