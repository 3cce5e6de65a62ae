"""The GPU backend: one Triton program solves one pair at one pyramid level, start to end.

Warps, medians, inner steps and the stopping test all run inside the program, so nothing waits for
the host within a pair and no pair waits for another. The pyramid and the resizing between levels
are the torch backend's.

Inner steps are where the time goes, and they run on chip. The image is cut into overlapping tiles;
a program loads the ten planes of a tile into registers, does a few steps there and stores the part
that the missing neighbours have not reached: about 20 bytes of memory traffic a step and pixel
instead of 64. In a tile each thread holds `rows` pixels of one column. Neighbours along a row come
from the warp's other lanes, those along a column from the thread itself; only the ends of its
strip pass through shared memory. The stopping test must hold after every step: a block of steps
leaves its start untouched and is done again, shorter, if one of its steps was the last. Sums are
made in a fixed order within the program, so a pair's result does not depend on its batch.

Without a GPU the kernels run, slowly, through Triton's interpreter: TRITON_INTERPRET=1 in the
environment before the first import. This module imports triton and torch: import it lazily.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# mypy: disable-error-code="assignment,misc,var-annotated"
from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from data.errors import InputError, MissingExtraError
from data.optical_flow.settings import SolverSettings

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

from data.optical_flow.triton_median import median_filter

COLUMNS = 32  # a tile is as wide as a warp: one lane a column
STRIPS = 8  # strips below one another in a tile, a warp each
ROWS = range(4, 11)  # pixels of a strip, held by one thread
AHEAD = range(3, 7)  # inner steps between loading a tile and storing it
SLOTS = 8  # places for the sums of a block of steps: a power of two
REGISTERS = 128  # a thread: two programs a multiprocessor, one loads while the other computes
PLANES = 16  # of state: twice u1, u2, p11, p12, p21, p22; once ix, iy, ig, rg


def check_device(device: str) -> None:
    """Raise InputError where the kernels cannot run."""
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(
            "tvl1(backend='triton')",
            expected="a CUDA device",
            got=f"images on {device}",
            todo="Take backend 'numba' or 'torch'; TRITON_INTERPRET=1 is for checking kernels.",
        )


@dataclass(frozen=True)
class Tiling:
    """An (H,W) level cut into `down` × `across` tiles of STRIPS·rows × COLUMNS pixels.

    A tile is loaded for `ahead` steps; tiles overlap by twice as many pixels.
    """

    rows: int
    ahead: int
    down: int
    across: int

    @property
    def pixels(self) -> int:
        """Pixels worked on in a step, the overlaps counted as often as they are done."""
        return self.down * self.across * STRIPS * self.rows * COLUMNS

    @property
    def cost(self) -> float:
        """Relative time of a step: moving a tile (estimated at four steps' work), steps in vain."""
        return self.pixels * (1 + 4 / self.ahead) * (1 + self.ahead / 20)


@lru_cache(maxsize=256)
def choose_tiling(height: int, width: int) -> Tiling:
    """The tiling of least estimated cost."""

    def tiles(size: int, tile: int, ahead: int) -> int:
        return max(1, math.ceil((size - 2 * ahead) / (tile - 2 * ahead)))

    return min(
        (
            Tiling(r, k, tiles(height, STRIPS * r, k), tiles(width, COLUMNS, k))
            for r in ROWS
            for k in AHEAD
        ),
        key=lambda tiling: tiling.cost,
    )


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
def _warp(
    i0, i1, dx, dy, u1, u2, constants,
    H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """I1 and its gradient at x + u; what the steps need of them, as planes ix, iy, ig, rg."""
    SIZE: tl.constexpr = H * W
    ix, iy, ig, rg = constants, constants + SIZE, constants + 2 * SIZE, constants + 3 * SIZE
    for start in range(0, SIZE, BLOCK):
        k = start + tl.arange(0, BLOCK)
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


@triton.jit
def _next_strip(a, b, index):
    """Two values a thread, (STRIPS, COLUMNS), from the thread `index`: one exchange for both."""
    low = a.to(tl.uint32, bitcast=True).to(tl.uint64)
    high = b.to(tl.uint32, bitcast=True).to(tl.uint64)
    both = tl.gather(tl.reshape((high << 32) | low, [a.numel]), index, 0)
    both = tl.reshape(both, a.shape)
    low, high = (both & 0xFFFFFFFF).to(tl.uint32), (both >> 32).to(tl.uint32)
    return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def _shrink(dx, dy, taut):
    """1 / (1 + τ/θ·|∇u|); a reciprocal root squared is cheaper than a division, and as exact."""
    root = tl.rsqrt(1.0 + taut * tl.sqrt(dx * dx + dy * dy))
    return root * root


@triton.jit
def _load_strip(plane, at, inside, ROWS: tl.constexpr):
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (tl.load(plane + at[i], mask=inside[i], other=0.0),)
    return values


@triton.jit
def _steps_in_tile(
    u, p, constants, new_u, new_p, top, left, first_y, last_y, first_x, last_x, count,
    lt, theta, taut,
    H: tl.constexpr, W: tl.constexpr, STRIPS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """`count` inner steps of the tile at (top, left).

    Reads planes u (2,H,W) and p (4,H,W); writes rows first_y … last_y − 1 and columns first_x …
    last_x − 1 of new_u and new_p. Returns the squared change of u in each step, summed over that
    part, (SLOTS,).
    """
    SIZE: tl.constexpr = H * W
    strip = tl.arange(0, STRIPS)[:, None]
    lane = tl.arange(0, COLUMNS)[None, :]
    x = left + lane
    at = ()
    inside = ()
    own = ()
    for i in tl.static_range(ROWS):
        y = top + strip * ROWS + i
        at = at + (y * W + x,)
        inside = inside + ((y < H) & (x < W),)
        own = own + ((y >= first_y) & (y < last_y) & (x >= first_x) & (x < last_x),)
    a, b = _load_strip(u, at, inside, ROWS), _load_strip(u + SIZE, at, inside, ROWS)
    p11, p12 = _load_strip(p, at, inside, ROWS), _load_strip(p + SIZE, at, inside, ROWS)
    p21 = _load_strip(p + 2 * SIZE, at, inside, ROWS)
    p22 = _load_strip(p + 3 * SIZE, at, inside, ROWS)
    gx, gy = (
        _load_strip(constants, at, inside, ROWS),
        _load_strip(constants + SIZE, at, inside, ROWS),
    )
    ig = _load_strip(constants + 2 * SIZE, at, inside, ROWS)
    rg = _load_strip(constants + 3 * SIZE, at, inside, ROWS)

    # At the image's right border a pixel is its own neighbour: a difference of 0, as it must be.
    grid = tl.zeros([STRIPS, COLUMNS], tl.int32)
    to_left = grid + tl.maximum(lane - 1, 0)
    to_right = grid + tl.minimum(lane + 1, tl.minimum(COLUMNS, W - left) - 1)
    thread = tl.arange(0, STRIPS * COLUMNS)
    to_upper = tl.maximum(thread - COLUMNS, 0)
    to_lower = tl.minimum(thread + COLUMNS, STRIPS * COLUMNS - 1)
    has_left = x > 0
    has_upper = top + strip > 0

    step = tl.arange(0, SLOTS)
    changes = tl.zeros([SLOTS], tl.float32)
    for done in range(count):
        above1, above2 = _next_strip(p12[ROWS - 1], p22[ROWS - 1], to_upper)
        above1, above2 = tl.where(has_upper, above1, 0.0), tl.where(has_upper, above2, 0.0)
        new_a = ()
        new_b = ()
        moved = tl.zeros([STRIPS, COLUMNS], tl.float32)
        for i in tl.static_range(ROWS):  # threshold and divergence: u
            f = (gx[i] * a[i] + gy[i] * b[i]) * ig[i] + rg[i]
            f = tl.maximum(tl.minimum(f, lt), -lt)
            beside1 = tl.where(has_left, tl.gather(p11[i], to_left, 1), 0.0)
            beside2 = tl.where(has_left, tl.gather(p21[i], to_left, 1), 0.0)
            div1 = (p11[i] - beside1) + (p12[i] - above1)
            div2 = (p21[i] - beside2) + (p22[i] - above2)
            above1, above2 = p12[i], p22[i]
            next_a, next_b = a[i] - f * gx[i] + theta * div1, b[i] - f * gy[i] + theta * div2
            new_a = new_a + (next_a,)
            new_b = new_b + (next_b,)
            da, db = next_a - a[i], next_b - b[i]
            moved += tl.where(own[i], da * da + db * db, 0.0)
        a, b = new_a, new_b
        changes += tl.where(step == done, tl.sum(moved), 0.0)
        below_a, below_b = _next_strip(a[0], b[0], to_lower)
        new11 = ()
        new12 = ()
        new21 = ()
        new22 = ()
        for i in tl.static_range(ROWS):  # dual step: p
            if i < ROWS - 1:
                lower_a, lower_b = a[i + 1], b[i + 1]
            else:
                lower_a, lower_b = below_a, below_b
            has_lower = top + strip * ROWS + i < H - 1
            ax, bx = tl.gather(a[i], to_right, 1) - a[i], tl.gather(b[i], to_right, 1) - b[i]
            ay = tl.where(has_lower, lower_a - a[i], 0.0)
            by = tl.where(has_lower, lower_b - b[i], 0.0)
            shrink1, shrink2 = _shrink(ax, ay, taut), _shrink(bx, by, taut)
            new11 = new11 + ((p11[i] + taut * ax) * shrink1,)
            new12 = new12 + ((p12[i] + taut * ay) * shrink1,)
            new21 = new21 + ((p21[i] + taut * bx) * shrink2,)
            new22 = new22 + ((p22[i] + taut * by) * shrink2,)
        p11, p12, p21, p22 = new11, new12, new21, new22

    for i in tl.static_range(ROWS):
        tl.store(new_u + at[i], a[i], mask=own[i])
        tl.store(new_u + SIZE + at[i], b[i], mask=own[i])
        tl.store(new_p + at[i], p11[i], mask=own[i])
        tl.store(new_p + SIZE + at[i], p12[i], mask=own[i])
        tl.store(new_p + 2 * SIZE + at[i], p21[i], mask=own[i])
        tl.store(new_p + 3 * SIZE + at[i], p22[i], mask=own[i])
    return changes


@triton.jit
def solve_level_kernel(
    i0_plane, i1_plane, dx_plane, dy_plane, state, flow, steps, changes,
    i0_stride, lt, theta, taut, limit, warps, inner, outer,
    H: tl.constexpr, W: tl.constexpr, MEDIAN: tl.constexpr, ROWS: tl.constexpr,
    AHEAD: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, STRIPS: tl.constexpr,
    COLUMNS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """One pair (program id) at one level, from u1, u2 in state's first planes to flow (N,2,H,W)."""
    pair = tl.program_id(0).to(tl.int64)
    SIZE: tl.constexpr = H * W
    BLOCK: tl.constexpr = 2 * STRIPS * COLUMNS
    i0, i1 = i0_plane + pair * i0_stride, i1_plane + pair * SIZE
    dx, dy = dx_plane + pair * SIZE, dy_plane + pair * SIZE
    state += pair * 16 * SIZE
    constants = state + 12 * SIZE
    u_now, p_now = 0, 0  # which of the two copies, planes 0…5 and 6…11, is current
    step = tl.arange(0, SLOTS)
    count = 0
    change = 0.0
    for _ in range(warps):
        u = state + u_now * 6 * SIZE
        _warp(i0, i1, dx, dy, u, u + SIZE, constants, H, W, BLOCK)
        tl.debug_barrier()
        change = 3.0e38  # nothing done yet
        passes = 0
        while (change > limit) & (passes < outer):
            if MEDIAN > 1:
                u, filtered = state + u_now * 6 * SIZE, state + (1 - u_now) * 6 * SIZE
                median_filter(u, filtered, H, W, MEDIAN, STRIPS, COLUMNS)
                median_filter(u + SIZE, filtered + SIZE, H, W, MEDIAN, STRIPS, COLUMNS)
                u_now = 1 - u_now
                tl.debug_barrier()
            done = 0
            while (change > limit) & (done < inner):
                u, p = state + u_now * 6 * SIZE, state + (p_now * 6 + 2) * SIZE
                new_u, new_p = state + (1 - u_now) * 6 * SIZE, state + (8 - p_now * 6) * SIZE
                block = tl.minimum(inner - done, AHEAD)
                undecided = 1
                squares = tl.zeros([SLOTS], tl.float32)
                while undecided > 0:
                    squares = tl.zeros([SLOTS], tl.float32)
                    for tile in range(DOWN * ACROSS):
                        row, column = tile // ACROSS, tile % ACROSS
                        HIGH: tl.constexpr = STRIPS * ROWS - 2 * AHEAD
                        WIDE: tl.constexpr = COLUMNS - 2 * AHEAD
                        squares += _steps_in_tile(
                            u, p, constants, new_u, new_p,
                            tl.minimum(row * HIGH, max(H - STRIPS * ROWS, 0)),
                            tl.minimum(column * WIDE, max(W - COLUMNS, 0)),
                            tl.where(row > 0, row * HIGH + AHEAD, 0),
                            tl.where(row < DOWN - 1, (row + 1) * HIGH + AHEAD, H),
                            tl.where(column > 0, column * WIDE + AHEAD, 0),
                            tl.where(column < ACROSS - 1, (column + 1) * WIDE + AHEAD, W),
                            block, lt, theta, taut, H, W, STRIPS, ROWS, COLUMNS, SLOTS,
                        )  # fmt: skip
                    tl.debug_barrier()
                    small = (squares <= limit) & (step < block)
                    needed = tl.min(tl.where(small, step + 1, block))
                    undecided = block - needed  # it stopped earlier: the same again, so far only
                    block = needed
                change = tl.sum(tl.where(step == block - 1, squares, 0.0))
                u_now, p_now = 1 - u_now, 1 - p_now
                done += block
            count += done
            passes += 1
    u = state + u_now * 6 * SIZE
    for start in range(0, 2 * SIZE, BLOCK):
        k = start + tl.arange(0, BLOCK)
        tl.store(flow + pair * 2 * SIZE + k, tl.load(u + k, mask=k < 2 * SIZE), mask=k < 2 * SIZE)
    tl.store(steps + pair, count)
    tl.store(changes + pair, change)


def solve_level(
    i0: Tensor, i1: Tensor, u1: Tensor, u2: Tensor, settings: SolverSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`torch_backend.solve_level` in one kernel launch; i0 may be one image repeated (stride 0)."""
    from data.optical_flow.torch_operators import central_gradient

    n, h, w = i1.shape
    repeated = i0.stride(0) == 0
    i0 = i0[:1].contiguous().expand_as(i1) if repeated else i0.contiguous()
    i1 = i1.contiguous()
    dx, dy = central_gradient(i1)
    state = torch.empty((n, PLANES, h, w), device=i1.device)
    state[:, 0], state[:, 1], state[:, 2:6] = u1, u2, 0.0
    flow = torch.empty((n, 2, h, w), device=i1.device)
    steps = torch.zeros(n, dtype=torch.int32, device=i1.device)
    changes = torch.zeros(n, device=i1.device)
    cut = choose_tiling(h, w)
    solve_level_kernel[(n,)](
        i0, i1, dx.contiguous(), dy.contiguous(), state, flow, steps, changes,
        i0.stride(0), float(settings.lam * settings.theta), float(settings.theta),
        float(settings.tau / settings.theta), float(settings.eps**2 * h * w),
        settings.warps, settings.inner, settings.outer,
        H=h, W=w, MEDIAN=settings.median, ROWS=cut.rows, AHEAD=cut.ahead, DOWN=cut.down,
        ACROSS=cut.across, STRIPS=STRIPS, COLUMNS=COLUMNS, SLOTS=SLOTS,
        num_warps=STRIPS, maxnreg=REGISTERS,
    )  # fmt: skip
    return flow[:, 0], flow[:, 1], steps.long(), torch.sqrt(changes / (h * w))
