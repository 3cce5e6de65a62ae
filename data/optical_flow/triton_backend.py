"""The GPU backend: one Triton program solves one pair at one pyramid level, start to end.

Warps, medians, inner steps and the stopping test all run inside the program, so nothing waits for
the host within a pair and no pair waits for another. The pyramid and the resizing between levels
are the torch backend's. State (duals, warped gradient, medians) is 10 planes a pair in GPU memory;
a program's own reads and writes are ordered by barriers. Sums are made in a fixed order within the
program, so a pair's result does not depend on its batch.

Without a GPU the kernels run, slowly, through Triton's interpreter: TRITON_INTERPRET=1 in the
environment before the first import. This module imports triton and torch: import it lazily.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from data.errors import InputError, MissingExtraError
from data.optical_flow.settings import Settings

try:
    import triton
    import triton.language as tl
except ImportError as missing:
    raise MissingExtraError(
        "tvl1(backend='triton')",
        expected="the triton package",
        got="none installed",
        todo="It comes with CUDA builds of torch; on a CPU take backend 'numba'.",
    ) from missing

BLOCK = 1024  # pixels a program works on at once
WARPS = 16  # groups of 32 threads in a program: 128 registers each, one program per multiprocessor
PLANES = 10


def check_device(device: str) -> None:
    """Raise InputError where the kernels cannot run."""
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(
            "tvl1(backend='triton')",
            expected="a CUDA device",
            got=f"images on {device}",
            todo="Take backend 'numba' or 'torch'; TRITON_INTERPRET=1 is for checking kernels.",
        )


@triton.jit
def _order(a, b):
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _sort5(a, b, c, d, e):
    a, b = _order(a, b)
    d, e = _order(d, e)
    c, e = _order(c, e)
    c, d = _order(c, d)
    b, e = _order(b, e)
    a, d = _order(a, d)
    a, c = _order(a, c)
    b, d = _order(b, d)
    b, c = _order(b, c)
    return a, b, c, d, e


@triton.jit
def _sorted_row(plane, row, x, inside, W: tl.constexpr):
    """Sorted horizontal neighbourhood of five, edges repeated."""
    at = plane + row * W
    x0, x1 = tl.maximum(x - 2, 0), tl.maximum(x - 1, 0)
    x3, x4 = tl.minimum(x + 1, W - 1), tl.minimum(x + 2, W - 1)
    return _sort5(
        tl.load(at + x0, mask=inside),
        tl.load(at + x1, mask=inside),
        tl.load(at + x, mask=inside),
        tl.load(at + x3, mask=inside),
        tl.load(at + x4, mask=inside),
    )


@triton.jit
def _merge2(a0, a1, b0, b1):
    low, c = _order(a0, b0)
    d, high = _order(a1, b1)
    c, d = _order(c, d)
    return low, c, d, high


@triton.jit
def _merge5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    """Two sorted fives to a sorted ten (Batcher's odd-even merge)."""
    e0, e1, e2, e3 = _merge2(a0, a4, b0, b4)
    f0, f1 = _order(a2, b2)
    e1, f0 = _order(f0, e1)
    e2, f1 = _order(f1, e2)
    d0, d1, d2, d3 = _merge2(a1, a3, b1, b3)
    r1, r2 = _order(d0, e1)
    r3, r4 = _order(d1, f0)
    r5, r6 = _order(d2, e2)
    r7, r8 = _order(d3, f1)
    return e0, r1, r2, r3, r4, r5, r6, r7, r8, e3


@triton.jit
def _median5(plane, x, y, inside, H: tl.constexpr, W: tl.constexpr):
    """Median of the 5×5 window; the networks are explained in `median.py`."""
    a0, a1, a2, a3, a4 = _sorted_row(plane, tl.maximum(y - 1, 0), x, inside, W)
    b0, b1, b2, b3, b4 = _sorted_row(plane, y, x, inside, W)
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = _merge5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4)
    a0, a1, a2, a3, a4 = _sorted_row(plane, tl.minimum(y + 1, H - 1), x, inside, W)
    b0, b1, b2, b3, b4 = _sorted_row(plane, tl.minimum(y + 2, H - 1), x, inside, W)
    q0, q1, q2, q3, q4, q5, q6, q7, q8, q9 = _merge5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4)
    l0, h0 = _order(p0, q9)
    l1, h1 = _order(p1, q8)
    l2, h2 = _order(p2, q7)
    l3, h3 = _order(p3, q6)
    l4, h4 = _order(p4, q5)
    l5, h5 = _order(p5, q4)
    l6, h6 = _order(p6, q3)
    l7, h7 = _order(p7, q2)
    l8, h8 = _order(p8, q1)
    l9, h9 = _order(p9, q0)
    _, _, m0, m1, m2 = _sort5(
        tl.maximum(l0, l5), tl.maximum(l1, l6), tl.maximum(l2, l7), tl.maximum(l3, l8),
        tl.maximum(l4, l9),
    )  # fmt: skip
    m3, m4, m5, _, _ = _sort5(
        tl.minimum(h0, h5), tl.minimum(h1, h6), tl.minimum(h2, h7), tl.minimum(h3, h8),
        tl.minimum(h4, h9),
    )  # fmt: skip
    c0, c1, c2, c3, c4 = _sorted_row(plane, tl.maximum(y - 2, 0), x, inside, W)
    best = tl.minimum(m5, tl.maximum(m4, c0))
    best = tl.minimum(best, tl.maximum(m3, c1))
    best = tl.minimum(best, tl.maximum(m2, c2))
    best = tl.minimum(best, tl.maximum(m1, c3))
    return tl.minimum(best, tl.maximum(m0, c4))


@triton.jit
def _sorted3(plane, row, x, inside, W: tl.constexpr):
    at = plane + row * W
    a, b = _order(tl.load(at + tl.maximum(x - 1, 0), mask=inside), tl.load(at + x, mask=inside))
    b, c = _order(b, tl.load(at + tl.minimum(x + 1, W - 1), mask=inside))
    a, b = _order(a, b)
    return a, b, c


@triton.jit
def _median3(plane, x, y, inside, H: tl.constexpr, W: tl.constexpr):
    a0, a1, a2 = _sorted3(plane, tl.maximum(y - 1, 0), x, inside, W)
    b0, b1, b2 = _sorted3(plane, y, x, inside, W)
    c0, c1, c2 = _sorted3(plane, tl.minimum(y + 1, H - 1), x, inside, W)
    low = tl.maximum(tl.maximum(a0, b0), c0)
    high = tl.minimum(tl.minimum(a2, b2), c2)
    small, large = _order(a1, b1)
    mid = tl.maximum(small, tl.minimum(large, c1))
    small, large = _order(low, mid)
    return tl.maximum(small, tl.minimum(large, high))


@triton.jit
def _cubic_tap(t, tap: tl.constexpr):
    """Weight of bicubic tap 0…3 (a = −0.75), as in `torch_backend.cubic_weights`."""
    s = 1.0 - t
    w0 = -0.75 * t * s * s
    w3 = -0.75 * s * t * t
    w1 = (1.25 * t - 2.25) * t * t + 1.0
    if tap == 0:
        weight = w0
    elif tap == 1:
        weight = w1
    elif tap == 2:
        weight = 1.0 - w0 - w1 - w3
    else:
        weight = w3
    return weight


@triton.jit
def solve_level_kernel(
    i0_plane, i1_plane, dx_plane, dy_plane, u1_plane, u2_plane, state, steps, changes,
    i0_stride, lt, theta, taut, limit, warps, inner, outer,
    H: tl.constexpr, W: tl.constexpr, MEDIAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pair (program id) at one level: u1, u2 (N,H,W) improved in place."""
    pair = tl.program_id(0).to(tl.int64)
    SIZE: tl.constexpr = H * W
    i0, i1 = i0_plane + pair * i0_stride, i1_plane + pair * SIZE
    dx, dy = dx_plane + pair * SIZE, dy_plane + pair * SIZE
    u1, u2 = u1_plane + pair * SIZE, u2_plane + pair * SIZE
    p11 = state + pair * 10 * SIZE
    p12, p21, p22 = p11 + SIZE, p11 + 2 * SIZE, p11 + 3 * SIZE
    ix, iy, ig, rg = p11 + 4 * SIZE, p11 + 5 * SIZE, p11 + 6 * SIZE, p11 + 7 * SIZE
    m1, m2 = p11 + 8 * SIZE, p11 + 9 * SIZE
    lane = tl.arange(0, BLOCK)
    count = 0
    change = 0.0
    for _ in range(warps):
        for start in range(0, SIZE, BLOCK):  # warp I1 and its gradient by u
            k = start + lane
            inside = k < SIZE
            a, b = tl.load(u1 + k, mask=inside, other=0.0), tl.load(u2 + k, mask=inside, other=0.0)
            px, py = (k % W).to(tl.float32) + a, (k // W).to(tl.float32) + b
            fx, fy = tl.floor(px), tl.floor(py)
            tx, ty = px - fx, py - fy
            near = inside & (fx > -8.0) & (fx < W + 8.0) & (fy > -8.0) & (fy < H + 8.0)
            column0 = tl.where(near, fx, 0.0).to(tl.int32) - 1
            row0 = tl.where(near, fy, 0.0).to(tl.int32) - 1
            sum0 = tl.zeros([BLOCK], tl.float32)
            sum1 = tl.zeros([BLOCK], tl.float32)
            sum2 = tl.zeros([BLOCK], tl.float32)
            for j in tl.static_range(4):
                for i in tl.static_range(4):
                    row, column = row0 + j, column0 + i
                    valid = near & (row >= 0) & (row < H) & (column >= 0) & (column < W)
                    weight = _cubic_tap(tx, i) * _cubic_tap(ty, j)
                    at = row * W + column
                    sum0 += weight * tl.load(i1 + at, mask=valid, other=0.0)
                    sum1 += weight * tl.load(dx + at, mask=valid, other=0.0)
                    sum2 += weight * tl.load(dy + at, mask=valid, other=0.0)
            square = sum1 * sum1 + sum2 * sum2
            inverse = tl.where(square > 1.1920929e-7, 1.0 / tl.maximum(square, 1e-7), 0.0)
            residual = sum0 - sum1 * a - sum2 * b - tl.load(i0 + k, mask=inside, other=0.0)
            tl.store(ix + k, sum1, mask=inside)
            tl.store(iy + k, sum2, mask=inside)
            tl.store(ig + k, inverse, mask=inside)
            tl.store(rg + k, residual * inverse, mask=inside)
        tl.debug_barrier()
        change = 3.0e38  # nothing done yet
        passes = 0
        while (change > limit) & (passes < outer):
            if MEDIAN > 1:
                for start in range(0, SIZE, BLOCK):
                    k = start + lane
                    inside = k < SIZE
                    x, y = k % W, tl.minimum(k // W, H - 1)
                    if MEDIAN == 5:
                        tl.store(m1 + k, _median5(u1, x, y, inside, H, W), mask=inside)
                        tl.store(m2 + k, _median5(u2, x, y, inside, H, W), mask=inside)
                    else:
                        tl.store(m1 + k, _median3(u1, x, y, inside, H, W), mask=inside)
                        tl.store(m2 + k, _median3(u2, x, y, inside, H, W), mask=inside)
                tl.debug_barrier()
                for start in range(0, SIZE, BLOCK):
                    k = start + lane
                    inside = k < SIZE
                    tl.store(u1 + k, tl.load(m1 + k, mask=inside), mask=inside)
                    tl.store(u2 + k, tl.load(m2 + k, mask=inside), mask=inside)
                tl.debug_barrier()
            done = 0
            while (change > limit) & (done < inner):
                moved = tl.zeros([BLOCK], tl.float32)
                for start in range(0, SIZE, BLOCK):  # threshold and divergence: u
                    k = start + lane
                    inside = k < SIZE
                    left, up = inside & (k % W > 0), inside & (k >= W)
                    a, b = tl.load(u1 + k, mask=inside), tl.load(u2 + k, mask=inside)
                    gx, gy = tl.load(ix + k, mask=inside), tl.load(iy + k, mask=inside)
                    f = (gx * a + gy * b) * tl.load(ig + k, mask=inside)
                    f = f + tl.load(rg + k, mask=inside)
                    f = tl.maximum(tl.minimum(f, lt), -lt)
                    div1 = tl.load(p11 + k, mask=inside) - tl.load(p11 + k - 1, mask=left, other=0)
                    div1 += tl.load(p12 + k, mask=inside) - tl.load(p12 + k - W, mask=up, other=0)
                    div2 = tl.load(p21 + k, mask=inside) - tl.load(p21 + k - 1, mask=left, other=0)
                    div2 += tl.load(p22 + k, mask=inside) - tl.load(p22 + k - W, mask=up, other=0)
                    new_a, new_b = a - f * gx + theta * div1, b - f * gy + theta * div2
                    tl.store(u1 + k, new_a, mask=inside)
                    tl.store(u2 + k, new_b, mask=inside)
                    a, b = new_a - a, new_b - b
                    moved += tl.where(inside, a * a + b * b, 0.0)
                change = tl.sum(moved, axis=0)
                tl.debug_barrier()
                for start in range(0, SIZE, BLOCK):  # dual step: p
                    k = start + lane
                    inside = k < SIZE
                    right, down = inside & (k % W < W - 1), k < SIZE - W
                    a, b = tl.load(u1 + k, mask=inside), tl.load(u2 + k, mask=inside)
                    ax = tl.where(right, tl.load(u1 + k + 1, mask=right, other=0) - a, 0.0)
                    ay = tl.where(down, tl.load(u1 + k + W, mask=down, other=0) - a, 0.0)
                    bx = tl.where(right, tl.load(u2 + k + 1, mask=right, other=0) - b, 0.0)
                    by = tl.where(down, tl.load(u2 + k + W, mask=down, other=0) - b, 0.0)
                    shrink1 = 1.0 / (1.0 + taut * tl.sqrt(ax * ax + ay * ay))
                    shrink2 = 1.0 / (1.0 + taut * tl.sqrt(bx * bx + by * by))
                    q = (tl.load(p11 + k, mask=inside) + taut * ax) * shrink1
                    tl.store(p11 + k, q, mask=inside)
                    q = (tl.load(p12 + k, mask=inside) + taut * ay) * shrink1
                    tl.store(p12 + k, q, mask=inside)
                    q = (tl.load(p21 + k, mask=inside) + taut * bx) * shrink2
                    tl.store(p21 + k, q, mask=inside)
                    q = (tl.load(p22 + k, mask=inside) + taut * by) * shrink2
                    tl.store(p22 + k, q, mask=inside)
                tl.debug_barrier()
                done += 1
            count += done
            passes += 1
    tl.store(steps + pair, count)
    tl.store(changes + pair, change)


def solve_level(
    i0: Tensor, i1: Tensor, u1: Tensor, u2: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`torch_backend.solve_level` in one kernel launch; i0 may be one image repeated (stride 0)."""
    from data.optical_flow.torch_backend import central_gradient

    n, h, w = i1.shape
    if i0.stride(0) != 0:
        i0 = i0.contiguous()
    i1, u1, u2 = i1.contiguous(), u1.contiguous().clone(), u2.contiguous().clone()
    dx, dy = central_gradient(i1)
    state = torch.zeros((n, PLANES, h, w), device=i1.device)
    steps = torch.zeros(n, dtype=torch.int32, device=i1.device)
    changes = torch.zeros(n, device=i1.device)
    block = min(BLOCK, 1 << (h * w - 1).bit_length())
    solve_level_kernel[(n,)](
        i0, i1, dx.contiguous(), dy.contiguous(), u1, u2, state, steps, changes,
        i0.stride(0), settings.lam * settings.theta, settings.theta,
        settings.tau / settings.theta, settings.eps**2 * h * w,
        settings.warps, settings.inner, settings.outer,
        H=h, W=w, MEDIAN=settings.median, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip
    return u1, u2, steps.long(), torch.sqrt(changes / math.prod((h, w)))
