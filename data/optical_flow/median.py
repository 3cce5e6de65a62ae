"""5×5 and 3×3 medians of a plane in place, edges repeated, 16 pixels at a time.

Two output rows share four input rows. Each row contributes sorted neighbourhoods of five; pairs of
rows are merged to sorted tens; two tens leave only six values that can still be the median of
either output row; a last sorted five decides. About 60 min/max operations per 16 pixels, where
sorting each window takes 200. All networks are written whole: the compiler drops what nobody reads.

This module imports numba: import it inside functions only.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
from __future__ import annotations

from numba import njit

from data.optical_flow.simd import LANES, load, maximum, minimum, store

_helper = njit(nogil=True, error_model="numpy")
_inline = njit(nogil=True, error_model="numpy", forceinline=True)


@_inline
def _order(a, b):
    return minimum(a, b), maximum(a, b)


@_inline
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


@_inline
def _merge2(a0, a1, b0, b1):
    """Two sorted pairs to a sorted four (odd-even merge)."""
    low, c = _order(a0, b0)
    d, high = _order(a1, b1)
    c, d = _order(c, d)
    return low, c, d, high


@_inline
def _merge3(a0, a1, a2, b0, b1, b2):
    """Two sorted threes to a sorted six."""
    c0, c1, c2, c3 = _merge2(a0, a2, b0, b2)
    d0, d1 = _order(a1, b1)
    c1, d0 = _order(d0, c1)
    c2, d1 = _order(d1, c2)
    return c0, c1, d0, c2, d1, c3


@_helper
def _repeat_edges(plane, start, w, row):
    """One image row with two repeated pixels on each side; vectors may read on behind it."""
    for x in range(0, w, LANES):
        store(row, 2 + x, load(plane, start + x))
    first, last = plane[start], plane[start + w - 1]
    row[0], row[1], row[w + 2], row[w + 3] = first, first, last, last


@_helper
def _sort_row(plane, start, w, row, fives, slot, width):
    """Sorted horizontal neighbourhoods of five of one image row, into ring slot `slot`."""
    _repeat_edges(plane, start, w, row)
    at = slot * 5 * width
    for x in range(0, w, LANES):
        a, b, c, d, e = _sort5(
            load(row, x), load(row, x + 1), load(row, x + 2), load(row, x + 3), load(row, x + 4)
        )
        store(fives, at + x, a)
        store(fives, at + width + x, b)
        store(fives, at + 2 * width + x, c)
        store(fives, at + 3 * width + x, d)
        store(fives, at + 4 * width + x, e)


@_helper
def _merge_rows(fives, slot_a, slot_b, w, width, tens, slot):
    """Sorted tens of two neighbouring rows."""
    p, q, at = slot_a * 5 * width, slot_b * 5 * width, slot * 10 * width
    for x in range(0, w, LANES):
        a0, a1 = load(fives, p + x), load(fives, p + width + x)
        a2, a3 = load(fives, p + 2 * width + x), load(fives, p + 3 * width + x)
        a4 = load(fives, p + 4 * width + x)
        b0, b1 = load(fives, q + x), load(fives, q + width + x)
        b2, b3 = load(fives, q + 2 * width + x), load(fives, q + 3 * width + x)
        b4 = load(fives, q + 4 * width + x)
        c0, c1, c2, c3, c4, c5 = _merge3(a0, a2, a4, b0, b2, b4)
        d0, d1, d2, d3 = _merge2(a1, a3, b1, b3)
        store(tens, at + x, c0)
        store(tens, at + width + x, minimum(d0, c1))
        store(tens, at + 2 * width + x, maximum(d0, c1))
        store(tens, at + 3 * width + x, minimum(d1, c2))
        store(tens, at + 4 * width + x, maximum(d1, c2))
        store(tens, at + 5 * width + x, minimum(d2, c3))
        store(tens, at + 6 * width + x, maximum(d2, c3))
        store(tens, at + 7 * width + x, minimum(d3, c4))
        store(tens, at + 8 * width + x, maximum(d3, c4))
        store(tens, at + 9 * width + x, c5)


@_inline
def _split(tens, p, q, width, x, i):
    """Smaller and larger of the i-th from below in one ten and the i-th from above in the other."""
    return _order(load(tens, p + i * width + x), load(tens, q + (9 - i) * width + x))


@_inline
def _sixth_of_eleven(q0, q1, q2, q3, q4, q5, fives, at, width, x):
    """The median of six sorted values and a sorted five from the ring."""
    best = minimum(q5, maximum(q4, load(fives, at + x)))
    best = minimum(best, maximum(q3, load(fives, at + width + x)))
    best = minimum(best, maximum(q2, load(fives, at + 2 * width + x)))
    best = minimum(best, maximum(q1, load(fives, at + 3 * width + x)))
    return minimum(best, maximum(q0, load(fives, at + 4 * width + x)))


@_helper
def median5(plane, h, w, stride, scratch):
    """5×5 median of the h × w pixels of a state plane (first row at offset `stride`), in place."""
    width = (w + 15) // 16 * 16
    fives, tens = scratch[: 40 * width], scratch[40 * width : 60 * width]
    row = scratch[60 * width :]
    for y in range(-2, 2):  # row y lives in ring slot (y + 8) % 8
        _sort_row(plane, (min(max(y, 0), h - 1) + 1) * stride, w, row, fives, (y + 8) % 8, width)
    _merge_rows(fives, 7, 0, w, width, tens, 0)
    for y in range(0, h, 2):
        for ahead in range(y + 2, y + 4):
            _sort_row(plane, (min(ahead, h - 1) + 1) * stride, w, row, fives, ahead % 8, width)
        p, q = (y // 2 % 2) * 10 * width, ((y // 2 + 1) % 2) * 10 * width
        _merge_rows(fives, (y + 1) % 8, (y + 2) % 8, w, width, tens, (y // 2 + 1) % 2)
        above, below = (y + 6) % 8 * 5 * width, (y + 3) % 8 * 5 * width
        for x in range(0, w, LANES):
            l0, h0 = _split(tens, p, q, width, x, 0)
            l1, h1 = _split(tens, p, q, width, x, 1)
            l2, h2 = _split(tens, p, q, width, x, 2)
            l3, h3 = _split(tens, p, q, width, x, 3)
            l4, h4 = _split(tens, p, q, width, x, 4)
            l5, h5 = _split(tens, p, q, width, x, 5)
            l6, h6 = _split(tens, p, q, width, x, 6)
            l7, h7 = _split(tens, p, q, width, x, 7)
            l8, h8 = _split(tens, p, q, width, x, 8)
            l9, h9 = _split(tens, p, q, width, x, 9)
            # both halves are bitonic: one more step keeps the five nearest the middle
            _, _, q0, q1, q2 = _sort5(
                maximum(l0, l5), maximum(l1, l6), maximum(l2, l7), maximum(l3, l8), maximum(l4, l9)
            )
            q3, q4, q5, _, _ = _sort5(
                minimum(h0, h5), minimum(h1, h6), minimum(h2, h7), minimum(h3, h8), minimum(h4, h9)
            )
            k = (y + 1) * stride + x
            store(plane, k, _sixth_of_eleven(q0, q1, q2, q3, q4, q5, fives, above, width, x))
            if y + 1 < h:
                value = _sixth_of_eleven(q0, q1, q2, q3, q4, q5, fives, below, width, x)
                store(plane, k + stride, value)
        _clear_behind(plane, y, min(y + 2, h), w, width, stride)


@_helper
def _clear_behind(plane, first, last, w, width, stride):
    """Pixels right of the image are 0 again."""
    for y in range(first, last):
        plane[(y + 1) * stride + w : (y + 1) * stride + width] = 0


@_helper
def median3(plane, h, w, stride, scratch):
    """3×3 median of the h × w pixels of a state plane, in place."""
    width = (w + 15) // 16 * 16
    size = width + 32
    for y in range(-1, 1):
        start = (min(max(y, 0), h - 1) + 1) * stride
        _repeat_edges(plane, start, w, scratch[(y + 3) % 3 * size : ((y + 3) % 3 + 1) * size])
    for y in range(h):
        slot = (y + 1) % 3
        start = (min(y + 1, h - 1) + 1) * stride
        _repeat_edges(plane, start, w, scratch[slot * size : (slot + 1) * size])
        for x in range(0, w, LANES):
            low = mid = high = load(scratch, x)
            for r in range(3):
                at = r * size + x + 1
                a, b = _order(load(scratch, at), load(scratch, at + 1))
                b, c = _order(b, load(scratch, at + 2))
                a, b = _order(a, b)
                if r == 0:
                    low, mid, high = a, b, c
                elif r == 1:  # greatest low, the mids still in order, least high
                    low, high = maximum(low, a), minimum(high, c)
                    mid, other = _order(mid, b)
                else:
                    low, high = maximum(low, a), minimum(high, c)
                    mid = maximum(mid, minimum(other, b))
            low, mid = _order(low, mid)
            store(plane, (y + 1) * stride + x, maximum(low, minimum(mid, high)))
        _clear_behind(plane, y, y + 1, w, width, stride)
