"""Farneback against OpenCV to the bit, top-percentile means against sorting, ROI bounds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data.motion.farneback import FarnebackReference, opencv_farneback
from data.motion.kernels import top_means
from data.motion.rois import COARSE10, MULTI36, plan_rois
from tests.fakes.face_scenes import known_landmarks, moved_face


def _landmarks() -> np.ndarray:
    return known_landmarks(np.zeros((320, 320), np.uint8))


@pytest.mark.parametrize(
    "shape",
    [(16, 16), (7, 9), (1, 5), (15, 40), (28, 44), (44, 28), (63, 65), (64, 64), (95, 151),
     (131, 177), (260, 300)],
)  # fmt: skip
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3), (7.0, 5.0)])
def test_farneback_equals_opencv_to_the_bit(
    shape: tuple[int, int], shift: tuple[float, float]
) -> None:
    h, w = shape
    rows, columns = slice(120, 120 + h), slice(200, 200 + w)
    first = moved_face(noise=1.5)[rows, columns]
    second = moved_face(shift, {48: (2.0, 1.0)}, noise=1.5, seed=1)[rows, columns]
    flow = FarnebackReference(first).to(second)
    np.testing.assert_array_equal(np.moveaxis(flow, 0, -1), opencv_farneback(first, second))


def test_farneback_of_flat_patches_is_zero() -> None:
    flat = np.full((40, 50), 128, np.uint8)
    assert not FarnebackReference(flat).to(flat).any()


def test_a_reference_is_not_used_up() -> None:
    first, second = moved_face()[100:160, 200:300], moved_face((1.0, 0.0))[100:160, 200:300]
    reference = FarnebackReference(first)
    once, twice = reference.to(second), reference.to(second)
    np.testing.assert_array_equal(once, twice)


def _sorted_mean(flow: np.ndarray, drop: int) -> np.ndarray:
    vectors = sorted(
        ((float(x), float(y)) for x, y in zip(flow[0].ravel(), flow[1].ravel(), strict=True)),
        key=lambda v: v[0] * v[0] + v[1] * v[1],
    )[drop:]
    return np.array(vectors).mean(axis=0) if vectors else np.zeros(2)


@pytest.mark.parametrize("kind", ["noise", "ties", "flat"])
def test_top_means_keep_what_sorting_keeps(kind: str) -> None:
    draw = np.random.default_rng(2)
    flow = draw.normal(size=(2, 12, 15)).astype(np.float32)
    if kind == "ties":
        flow = np.sign(flow) * draw.integers(0, 3, (2, 12, 15)).astype(np.float32)
    if kind == "flat":
        flow[:] = 0.5
    windows = np.array([[0, 12, 0, 15], [2, 5, 3, 9], [4, 5, 0, 1]], np.int64)
    for drop in (0, 1, 7, 17):
        keep_from = np.minimum([drop, drop, 0], [180, 18, 1]).astype(np.int64)
        out = np.zeros((3, 2))
        top_means(flow, windows, keep_from, out)
        for row, (r0, r1, c0, c1), skip in zip(out, windows, keep_from, strict=True):
            np.testing.assert_allclose(row, _sorted_mean(flow[:, r0:r1, c0:c1], skip), atol=1e-12)


def test_top_means_of_empty_windows_are_zero() -> None:
    flow = np.ones((2, 5, 5), np.float32)
    windows = np.array([[3, 3, 0, 5], [4, 2, 0, 5], [0, 5, 0, 5]], np.int64)
    out = np.full((3, 2), 9.0)
    top_means(flow, windows, np.array([0, 0, 25], np.int64), out)
    assert not out.any()


def test_coarse_rois_are_the_same_in_both_sets() -> None:
    coarse = plan_rois(_landmarks(), "coarse10", clamp=True, size=320)
    multi = plan_rois(_landmarks(), "multi36", clamp=True, size=320)
    assert coarse.bridge.bounds == multi.bridge.bounds
    boxes = {
        name: tuple(window)
        for plan, names in ((multi, MULTI36),)
        for patch in plan.patches
        for roi, window in zip(patch.rois, patch.windows, strict=True)
        for name in (names[roi],)
    }
    for patch in coarse.patches:
        for roi, window in zip(patch.rois, patch.windows, strict=True):
            assert boxes[COARSE10[roi]] == tuple(window)
    assert sorted(r for p in multi.patches for r in p.rois) == list(range(18))


@pytest.mark.parametrize("clamp", [True, False])
def test_a_landmark_at_the_patch_edge(clamp: bool) -> None:
    """Brow point 20 four pixels from its patch's left edge: a start of −6."""
    points = _landmarks()
    points[20, 0] = points[17:22, 0].min() - 1
    plan = plan_rois(points, "multi36", clamp=clamp, size=320)
    r0, r1, c0, c1 = plan.patches[0].bounds
    patch = np.arange((r1 - r0) * (c1 - c0)).reshape(r1 - r0, c1 - c0)
    x, y = points[20] - (points[17:22, 0].min() - 5, points[17:22, 1].min() - 15)
    start = x - 10
    assert start < 0
    rows = slice(max(y - 10, 0), y + 10)
    want = patch[rows, max(start, 0) if clamp else start : x + 10]
    a, b, c, d = plan.patches[0].windows[1]
    got = patch[a:b, c:d] if b > a and d > c else patch[:0, :0]
    assert got.size == want.size
    assert (want.size > 0) == clamp
    np.testing.assert_array_equal(got.ravel(), want.ravel())


def test_low_brow_is_trimmed_less() -> None:
    points = _landmarks()
    points[17:22, 1] = points[19, 1]  # a flat brow: 20 rows, too few for the usual trim
    window = plan_rois(points, "coarse10", clamp=True, size=320).patches[0].windows[0]
    assert window[0] == 10
    assert window[1] == 20 - 4


def test_patches_stay_inside_the_face() -> None:
    points = _landmarks()
    points[:, 1] -= 95
    for patch in plan_rois(points, "multi36", clamp=True, size=320).patches:
        r0, r1, c0, c1 = patch.bounds
        assert 0 <= r0 <= r1 <= 320
        assert 0 <= c0 <= c1 <= 320


def test_opencv_flow_has_the_sign_of_the_motion() -> None:
    first, second = moved_face()[100:200, 250:400], moved_face((1.0, -1.0))[100:200, 250:400]
    dx, dy = np.median(FarnebackReference(first).to(second).reshape(2, -1), axis=1)
    assert dx > 0.6
    assert dy < -0.6
    assert cv2.__version__[0] in "45"
