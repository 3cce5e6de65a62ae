"""Medians of a plane on a GPU, each thread rolling down one strip of a column.

A row's sorted neighbourhood of five, and the sorted ten of two rows, serve several windows below
one another, so a thread carries them from pixel to pixel; `median.py` explains the networks. This
module imports triton: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl


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
def _merge2(a0, a1, b0, b1):
    low, c = _order(a0, b0)
    d, high = _order(a1, b1)
    c, d = _order(c, d)
    return low, c, d, high


@triton.jit
def _merge5(a, b):
    """Two sorted fives to a sorted ten (Batcher's odd-even merge)."""
    e0, e1, e2, e3 = _merge2(a[0], a[4], b[0], b[4])
    f0, f1 = _order(a[2], b[2])
    e1, f0 = _order(f0, e1)
    e2, f1 = _order(f1, e2)
    d0, d1, d2, d3 = _merge2(a[1], a[3], b[1], b[3])
    r1, r2 = _order(d0, e1)
    r3, r4 = _order(d1, f0)
    r5, r6 = _order(d2, e2)
    r7, r8 = _order(d3, f1)
    return e0, r1, r2, r3, r4, r5, r6, r7, r8, e3


@triton.jit
def _middle(p, q, c):
    """Median of 25 from two sorted tens and a sorted five."""
    l0, h0 = _order(p[0], q[9])
    l1, h1 = _order(p[1], q[8])
    l2, h2 = _order(p[2], q[7])
    l3, h3 = _order(p[3], q[6])
    l4, h4 = _order(p[4], q[5])
    l5, h5 = _order(p[5], q[4])
    l6, h6 = _order(p[6], q[3])
    l7, h7 = _order(p[7], q[2])
    l8, h8 = _order(p[8], q[1])
    l9, h9 = _order(p[9], q[0])
    _, _, m0, m1, m2 = _sort5(
        tl.maximum(l0, l5), tl.maximum(l1, l6), tl.maximum(l2, l7), tl.maximum(l3, l8),
        tl.maximum(l4, l9),
    )  # fmt: skip
    m3, m4, m5, _, _ = _sort5(
        tl.minimum(h0, h5), tl.minimum(h1, h6), tl.minimum(h2, h7), tl.minimum(h3, h8),
        tl.minimum(h4, h9),
    )  # fmt: skip
    best = tl.minimum(m5, tl.maximum(m4, c[0]))
    best = tl.minimum(best, tl.maximum(m3, c[1]))
    best = tl.minimum(best, tl.maximum(m2, c[2]))
    best = tl.minimum(best, tl.maximum(m1, c[3]))
    return tl.minimum(best, tl.maximum(m0, c[4]))


@triton.jit
def _five(plane, y, x, H: tl.constexpr, W: tl.constexpr):
    """Sorted horizontal neighbourhood of five, edges repeated in both directions."""
    at = plane + tl.minimum(tl.maximum(y, 0), H - 1) * W
    return _sort5(
        tl.load(at + tl.maximum(x - 2, 0)),
        tl.load(at + tl.maximum(x - 1, 0)),
        tl.load(at + x),
        tl.load(at + tl.minimum(x + 1, W - 1)),
        tl.load(at + tl.minimum(x + 2, W - 1)),
    )


@triton.jit
def _median5_column(source, target, y, x, inside, STRIP: tl.constexpr, H, W):
    """One column's strips, STRIP rows down from y."""
    above2 = _five(source, y - 2, x, H, W)
    above = _five(source, y - 1, x, H, W)
    here = _five(source, y, x, H, W)
    below = _five(source, y + 1, x, H, W)
    upper, lower = _merge5(above, here), _merge5(here, below)
    for _ in range(STRIP):
        below2 = _five(source, y + 2, x, H, W)
        last = _merge5(below, below2)
        value = _middle(upper, last, above2)
        tl.store(target + y * W + x, value, mask=inside & (y < H))
        above2, above, here, below = above, here, below, below2
        upper, lower = lower, last
        y += 1


@triton.jit
def _three(plane, y, x, H: tl.constexpr, W: tl.constexpr):
    at = plane + tl.minimum(tl.maximum(y, 0), H - 1) * W
    a, b = _order(tl.load(at + tl.maximum(x - 1, 0)), tl.load(at + x))
    b, c = _order(b, tl.load(at + tl.minimum(x + 1, W - 1)))
    a, b = _order(a, b)
    return a, b, c


@triton.jit
def _median3_column(source, target, y, x, inside, STRIP: tl.constexpr, H, W):
    above = _three(source, y - 1, x, H, W)
    here = _three(source, y, x, H, W)
    for _ in range(STRIP):
        below = _three(source, y + 1, x, H, W)
        low = tl.maximum(tl.maximum(above[0], here[0]), below[0])
        high = tl.minimum(tl.minimum(above[2], here[2]), below[2])
        small, large = _order(above[1], here[1])
        mid = tl.maximum(small, tl.minimum(large, below[1]))
        small, large = _order(low, mid)
        value = tl.maximum(small, tl.minimum(large, high))
        tl.store(target + y * W + x, value, mask=inside & (y < H))
        above, here = here, below
        y += 1


@triton.jit
def median_filter(
    source, target, H: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr,
    STRIPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """SIZE × SIZE median of one plane (H,W) into another; STRIPS × COLUMNS threads at work."""
    STRIP: tl.constexpr = (H + STRIPS - 1) // STRIPS
    y = tl.arange(0, STRIPS)[:, None] * STRIP + tl.zeros([1, COLUMNS], tl.int32)
    for start in range(0, W, COLUMNS):
        x = start + tl.arange(0, COLUMNS)[None, :]
        inside, x = x < W, tl.minimum(x, W - 1)
        if SIZE == 5:
            _median5_column(source, target, y, x, inside, STRIP, H, W)
        else:
            _median3_column(source, target, y, x, inside, STRIP, H, W)
