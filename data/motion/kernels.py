"""Numba kernels of the motion features: Farneback's inner loops and the top-percentile mean.

The three Farneback kernels repeat, operation by operation and in the same precision (float32
products, float64 sums), what OpenCV's `calcOpticalFlowFarneback` computes with a box window, so
that the flow is the same to the last bit; what differs is the layout (planes instead of
interleaved channels), which lets the compiler use vector instructions. Source of the method:
Farnebäck, "Two-frame motion estimation based on polynomial expansion", SCIA 2003.

Row slices are taken before each inner loop on purpose: the loops then vectorise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

RADIUS = 7  # poly_n

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile for one thread, once per machine (cached beside this file), types kept."""
    compiled: Function = njit(cache=True, error_model="numpy", nogil=True)(function)
    return compiled


@kernel
def polynomial_expansion(image: F32, g: F32, xg: F32, xxg: F32, inverse: F64, out: F32) -> None:
    """Local quadratic model of `image` (h,w): five coefficient planes into `out` (5,h,w).

    `g`, `xg`, `xxg` (8,): Gaussian weights times 1, x, x² for x = 0..7; `inverse` (4,): the used
    entries of the inverse moment matrix. Planes: the coefficients of y, x, y², x², xy.
    """
    h, w = image.shape
    last = h - 1
    padded = np.empty((3, w + 2 * RADIUS), np.float32)
    c0 = padded[0, RADIUS : RADIUS + w]
    c1 = padded[1, RADIUS : RADIUS + w]
    c2 = padded[2, RADIUS : RADIUS + w]
    sums = np.empty((6, w))
    b1, b2, b3, b4, b5, b6 = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
    zero = np.float32(0)
    for y in range(h):
        row = image[y]
        for x in range(w):
            c0[x] = row[x] * g[0]
            c1[x] = zero
            c2[x] = zero
        for k in range(1, RADIUS + 1):
            up, down = image[max(y - k, 0)], image[min(y + k, last)]
            w0, w1, w2 = g[k], xg[k], xxg[k]
            for x in range(w):
                both = up[x] + down[x]
                c0[x] += w0 * both
                c2[x] += w2 * both
            for x in range(w):
                c1[x] += w1 * (down[x] - up[x])
        for c in range(3):
            line = padded[c]
            for k in range(RADIUS):
                line[k] = line[RADIUS]
                line[RADIUS + w + k] = line[RADIUS + w - 1]
        for x in range(w):
            b1[x] = np.float64(c0[x] * g[0])
            b3[x] = np.float64(c1[x] * g[0])
            b5[x] = np.float64(c2[x] * g[0])
            b2[x] = 0.0
            b4[x] = 0.0
            b6[x] = 0.0
        for k in range(1, RADIUS + 1):
            w0, w1, d0, d2 = g[k], xg[k], np.float64(g[k]), np.float64(xxg[k])
            right = padded[0, RADIUS + k : RADIUS + k + w]
            left = padded[0, RADIUS - k : RADIUS - k + w]
            for x in range(w):
                both64 = np.float64(right[x] + left[x])
                b1[x] += both64 * d0
                b4[x] += both64 * d2
                b2[x] += np.float64((right[x] - left[x]) * w1)
            right = padded[1, RADIUS + k : RADIUS + k + w]
            left = padded[1, RADIUS - k : RADIUS - k + w]
            for x in range(w):
                b3[x] += np.float64((right[x] + left[x]) * w0)
                b6[x] += np.float64((right[x] - left[x]) * w1)
            right = padded[2, RADIUS + k : RADIUS + k + w]
            left = padded[2, RADIUS - k : RADIUS - k + w]
            for x in range(w):
                b5[x] += np.float64((right[x] + left[x]) * w0)
        o0, o1, o2, o3, o4 = out[0, y], out[1, y], out[2, y], out[3, y], out[4, y]
        for x in range(w):
            o0[x] = np.float32(b3[x] * inverse[0])
            o1[x] = np.float32(b2[x] * inverse[0])
            o2[x] = np.float32(b1[x] * inverse[1] + b5[x] * inverse[2])
            o3[x] = np.float32(b1[x] * inverse[1] + b4[x] * inverse[2])
            o4[x] = np.float32(b6[x] * inverse[3])


@kernel
def update_matrices(first: F32, second: F32, flow: F32, scale: F32, out: F32) -> None:
    """Normal equations (5,h,w) of the displacement at every pixel, into `out`.

    `first`, `second` (5,h,w): expansions; `flow` (2,h,w): the estimate at which `second` is read
    (bilinearly); `scale` (h,w): weight that falls towards the image border.
    """
    _, h, w = first.shape
    one, zero = np.float32(1), np.float32(0)
    half, quarter = np.float32(0.5), np.float32(0.25)
    weights = np.empty((4, w), np.float32)
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    read = np.empty((5, w), np.float32)
    p0, p1, p2, p3, p4 = read[0], read[1], read[2], read[3], read[4]
    index = np.empty(w, np.int32)
    inside = np.empty(w, np.bool_)
    limit_x, limit_y, stride = np.float32(w - 1), np.float32(h - 1), np.int32(w)
    flat = second.reshape(5, h * w)
    s0, s1, s2, s3, s4 = flat[0], flat[1], flat[2], flat[3], flat[4]
    for y in range(h):
        u, v = flow[0, y], flow[1, y]
        y32 = np.float32(y)
        for x in range(w):
            fx, fy = np.float32(np.int32(x)) + u[x], y32 + v[x]
            x0, y0 = np.floor(fx), np.floor(fy)
            good = (x0 >= zero) & (x0 < limit_x) & (y0 >= zero) & (y0 < limit_y)
            fx, fy = fx - x0, fy - y0
            gx, gy = one - fx, one - fy
            a[x] = gx * gy
            b[x] = fx * gy
            c[x] = gx * fy
            d[x] = fx * fy
            inside[x] = good
            column = np.int32(x0) if good else np.int32(0)
            line = np.int32(y0) if good else np.int32(0)
            index[x] = line * stride + column
        for x in range(w):
            i = np.uint64(index[x])
            j, k = i + np.uint64(1), i + np.uint64(w)
            m = k + np.uint64(1)
            wa, wb, wc, wd = a[x], b[x], c[x], d[x]  # held: a store to p might change a[x]
            p0[x] = wa * s0[i] + wb * s0[j] + wc * s0[k] + wd * s0[m]
            p1[x] = wa * s1[i] + wb * s1[j] + wc * s1[k] + wd * s1[m]
            p2[x] = wa * s2[i] + wb * s2[j] + wc * s2[k] + wd * s2[m]
            p3[x] = wa * s3[i] + wb * s3[j] + wc * s3[k] + wd * s3[m]
            p4[x] = wa * s4[i] + wb * s4[j] + wc * s4[k] + wd * s4[m]
        f0, f1, f2, f3, f4 = first[0, y], first[1, y], first[2, y], first[3, y], first[4, y]
        m0, m1, m2, m3, m4 = out[0, y], out[1, y], out[2, y], out[3, y], out[4, y]
        border = scale[y]
        for x in range(w):
            good = inside[x]
            r2 = p0[x] if good else zero
            r3 = p1[x] if good else zero
            r4 = (f2[x] + p2[x]) * half if good else f2[x]
            r5 = (f3[x] + p3[x]) * half if good else f3[x]
            r6 = (f4[x] + p4[x]) * quarter if good else f4[x] * half
            r2, r3 = (f0[x] - r2) * half, (f1[x] - r3) * half
            dx, dy = u[x], v[x]
            r2 = r2 + (r4 * dy + r6 * dx)
            r3 = r3 + (r6 * dy + r5 * dx)
            weight = border[x]
            r2, r3, r4, r5, r6 = r2 * weight, r3 * weight, r4 * weight, r5 * weight, r6 * weight
            m0[x] = r4 * r4 + r6 * r6
            m1[x] = (r4 + r5) * r6
            m2[x] = r5 * r5 + r6 * r6
            m3[x] = r4 * r2 + r6 * r3
            m4[x] = r6 * r2 + r5 * r3


@kernel
def blur_and_solve(matrices: F32, window: int, flow: F32) -> None:
    """Average the normal equations over a `window`² box and solve them into `flow` (2,h,w).

    Running sums in float64, first down the columns, then along the row; border pixels repeat.
    """
    _, h, w = matrices.shape
    m = window // 2
    pad = m + 1
    norm = 1.0 / (window * window)
    columns = np.empty((5, w + 2 * pad))
    totals = np.empty((5, w))
    start = np.empty(5)
    for c in range(5):
        middle, row = columns[c, pad : pad + w], matrices[c, 0]
        for x in range(w):
            middle[x] = np.float64(row[x] * np.float32(m + 2))
        for y in range(1, m):
            row = matrices[c, min(y, h - 1)]
            for x in range(w):
                middle[x] += np.float64(row[x])
    t0, t1, t2, t3, t4 = totals[0], totals[1], totals[2], totals[3], totals[4]
    for y in range(h):
        for c in range(5):
            line = columns[c]
            middle = line[pad : pad + w]
            leaves, enters = matrices[c, max(y - m - 1, 0)], matrices[c, min(y + m, h - 1)]
            for x in range(w):
                middle[x] += np.float64(enters[x] - leaves[x])
            for k in range(pad):
                line[k] = middle[0]
                line[pad + w + k] = middle[w - 1]
            total = middle[0] * np.float64(m + 2)
            for x in range(1, m):
                total += line[pad + x]
            start[c] = total
            ahead, behind, change = line[pad + m : pad + m + w], line[0:w], totals[c]
            for x in range(w):
                change[x] = ahead[x] - behind[x]
        a0, a1, a2, a3, a4 = start[0], start[1], start[2], start[3], start[4]
        for x in range(w):  # five chains side by side hide each addition's latency
            a0, a1, a2, a3, a4 = a0 + t0[x], a1 + t1[x], a2 + t2[x], a3 + t3[x], a4 + t4[x]
            t0[x], t1[x], t2[x], t3[x], t4[x] = a0, a1, a2, a3, a4
        u, v = flow[0, y], flow[1, y]
        for x in range(w):
            g11, g12, g22 = t0[x] * norm, t1[x] * norm, t2[x] * norm
            h1, h2 = t3[x] * norm, t4[x] * norm
            inverse = 1.0 / (g11 * g22 - g12 * g12 + 1e-3)
            u[x] = np.float32((g11 * h2 - g12 * h1) * inverse)
            v[x] = np.float32((g22 * h1 - g12 * h2) * inverse)


@kernel
def refine(first: F32, second: F32, scale: F32, window: int, rounds: int, flow: F32) -> None:
    """Improve `flow` (2,h,w) in place: `rounds` times read, average, solve."""
    matrices = np.empty(first.shape, np.float32)
    for _ in range(rounds):
        update_matrices(first, second, flow, scale, matrices)
        blur_and_solve(matrices, window, flow)


@kernel
def top_means(flow: F32, windows: I64, keep_from: I64, out: F64) -> None:
    """Mean (dx, dy) of the largest vectors in each window of `flow` (2,h,w), into `out` (n,2).

    `windows` (n,4): row and column start, stop; `keep_from` (n,): how many of the smallest vectors
    to leave out. Equal magnitudes leave in raster order, as a stable sort would have it. An empty
    window, or one from which nothing is kept, gives (0, 0).
    """
    for n in range(windows.shape[0]):
        r0, r1, c0, c1 = windows[n, 0], windows[n, 1], windows[n, 2], windows[n, 3]
        height, width, drop = max(r1 - r0, 0), max(c1 - c0, 0), keep_from[n]
        size = height * width
        out[n, 0] = 0.0
        out[n, 1] = 0.0
        if size - drop <= 0:
            continue
        squares = np.empty(size)
        i = 0
        for y in range(r0, r1):
            for x in range(c0, c1):
                dx, dy = np.float64(flow[0, y, x]), np.float64(flow[1, y, x])
                squares[i] = dx * dx + dy * dy
                i += 1
        cut = np.partition(squares, drop)[drop]
        ties = drop
        for i in range(size):
            if squares[i] < cut:
                ties -= 1
        sum_x, sum_y, i = 0.0, 0.0, 0
        for y in range(r0, r1):
            for x in range(c0, c1):
                square = squares[i]
                i += 1
                if square == cut and ties > 0:
                    ties -= 1
                elif square >= cut:
                    sum_x += np.float64(flow[0, y, x])
                    sum_y += np.float64(flow[1, y, x])
        out[n, 0] = sum_x / (size - drop)
        out[n, 1] = sum_y / (size - drop)
