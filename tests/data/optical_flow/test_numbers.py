"""TV-L1's numbers: parity with OpenCV's DualTVL1, stored and live, and the parts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.optical_flow import tvl1, tvl1_sequence
from tests.fakes.flow_pairs import distance, make_pair

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FIXED = {"outer": 2, "eps": 0.0}  # no data-dependent stop: what is left is rounding
SINGLE = {"levels": 1, "warps": 1, "outer": 1, "inner": 30, "median": 1, "eps": 0.0}
LIMITS = {  # golden case: mean, median, max over pixels, px
    "single_level": (1e-6, 1e-6, 1e-5),
    "fixed_steps": (0.005, 1e-4, None),
    "fixed_steps_odd": (0.005, 1e-4, None),
    "median3": (0.005, 1e-4, None),
    "defaults": (0.03, 0.015, None),
}


def optflow_is_version_5() -> bool:
    return hasattr(cv2, "optflow") and cv2.__version__.startswith("5.")


needs_opencv = pytest.mark.skipif(
    not optflow_is_version_5(), reason="cv2.optflow 5.x is not in this OpenCV wheel"
)


def golden(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    with np.load(GOLDEN / f"flow_{case}.npz") as file:
        stored = dict(file)
    arrays = [stored.pop(name) for name in ("i0", "i1", "flow")]
    del stored["opencv"]
    return *arrays, {name: value.item() for name, value in stored.items()}


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("case", LIMITS)
def test_stored_opencv_flows_are_reproduced(case: str, backend: str) -> None:
    i0, i1, expected, parameters = golden(case)
    gap = distance(tvl1(i0, i1, backend=backend, **parameters), expected.astype(np.float32))
    mean, median, largest = LIMITS[case]
    for pair in gap:
        assert pair.mean() <= mean
        assert np.median(pair) <= median
        assert largest is None or pair.max() <= largest


def test_golden_flows_are_not_trivial() -> None:
    for case in LIMITS:
        *_, flow, _ = golden(case)
        assert np.abs(flow).mean() > 0.05
    assert sum(f.stat().st_size for f in GOLDEN.glob("flow_*.npz")) < 300_000


@needs_opencv
def test_defaults_match_opencv_on_textures_of_known_motion() -> None:
    gaps, errors, peer_errors = [], [], []
    for number in range(6):
        i0, i1, truth = make_pair(112, number)
        ours, peer = tvl1(i0, i1), tvl1(i0, i1, backend="opencv")
        gaps.append(distance(ours, peer).mean())
        errors.append(distance(ours, truth).mean())
        peer_errors.append(distance(peer, truth).mean())
    assert np.mean(gaps) <= 0.02
    assert max(gaps) <= 0.03
    assert abs(np.mean(errors) / np.mean(peer_errors) - 1) <= 0.02


@needs_opencv
def test_fixed_steps_match_opencv_to_rounding() -> None:
    gaps = []
    for number in (0, 1, 3):
        i0, i1, _ = make_pair(128, number)
        gaps.append(distance(tvl1(i0, i1, **FIXED), tvl1(i0, i1, backend="opencv", **FIXED)))
    assert np.mean(gaps) <= 0.005
    assert np.median(gaps) <= 1e-4


@pytest.mark.slow
@needs_opencv
def test_fixed_steps_gap_is_opencvs_own_rounding() -> None:
    """We are no farther from OpenCV than OpenCV is from itself with λ one float higher.

    The iteration amplifies the last bit of single precision; where this alone passes 1e-4 px no
    other arithmetic can stay below it.
    """
    next_lam = float(np.nextafter(np.float32(0.15), np.float32(1)))
    gaps, itself = [], []
    for number in range(8):
        i0, i1, _ = make_pair(128, number)
        peer = tvl1(i0, i1, backend="opencv", **FIXED)
        gaps.append(distance(tvl1(i0, i1, **FIXED), peer))
        itself.append(distance(tvl1(i0, i1, backend="opencv", lam=next_lam, **FIXED), peer))
    assert np.mean(gaps) <= 0.005
    assert np.mean(gaps) <= 1.5 * np.mean(itself)
    assert np.median(gaps) <= max(1e-4, 2 * np.median(itself))


@needs_opencv
@pytest.mark.parametrize("shape", [(3, 3), (5, 16), (16, 17), (23, 40), (61, 33), (128, 31)])
@pytest.mark.parametrize("median", [1, 3, 5])
def test_one_level_equals_opencv_at_tiny_and_odd_sizes(shape: tuple[int, int], median: int) -> None:
    rng = np.random.default_rng(shape)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, (2, *shape)).transpose(1, 2, 0), (3, 3), 0.8)
    i0, i1 = np.ascontiguousarray(smooth.astype(np.uint8).transpose(2, 0, 1))
    settings = {**SINGLE, "outer": 2, "inner": 10, "median": median}
    peer = tvl1(i0, i1, backend="opencv", **settings)
    for backend in ("numba", "torch"):
        assert distance(tvl1(i0, i1, backend=backend, **settings), peer).max() <= 1e-5


@needs_opencv
def test_pyramid_sizes_and_warps_equal_opencvs_at_awkward_sizes() -> None:
    """97.5-like halves round to even; the sampling scale is 1/step, not the ratio of sizes."""
    for side, step in ((78, 0.8), (75, 0.5), (122, 0.8)):
        i0, i1, _ = make_pair(side, 1)
        settings = {**SINGLE, "levels": 4, "step": step, "inner": 10}
        peer = tvl1(i0, i1, backend="opencv", **settings)
        gap = distance(tvl1(i0, i1, **settings), peer)
        assert gap.mean() <= 2e-5
        assert gap.max() <= 5e-3


@needs_opencv
def test_initial_flow_is_used_as_opencv_uses_it() -> None:
    i0, i1, truth = make_pair(64, 1)
    start = (truth * 0.8).astype(np.float32)
    settings = {**SINGLE, "levels": 3, "inner": 8}
    peer = tvl1(i0, i1, backend="opencv", init=start, **settings)
    for backend in ("numba", "torch"):
        flow = tvl1(i0, i1, backend=backend, init=start, **settings)
        assert np.abs(flow - tvl1(i0, i1, backend=backend, **settings)).max() > 0.01
        assert distance(flow, peer).mean() <= 2e-5


def test_fast_preset_is_as_near_the_truth() -> None:
    fast, default = [], []
    for number in range(5):
        i0, i1, truth = make_pair(128, number)
        fast.append(distance(tvl1(i0, i1, preset="fast"), truth).mean())
        default.append(distance(tvl1(i0, i1), truth).mean())
    assert np.mean(fast) <= 1.07 * np.mean(default)
    assert np.mean(default) < 0.2


def test_direction_is_x_right_y_down() -> None:
    _, i1, _ = make_pair(64, 1, noise=0)
    shifted = np.roll(i1, (1, 2), axis=(0, 1))  # content moves 2 px right, 1 px down
    flow = tvl1(i1, shifted)[8:-8, 8:-8]
    assert np.allclose(np.median(flow, axis=(0, 1)), (2, 1), atol=0.05)


def test_large_and_wild_motion_takes_the_general_warp() -> None:
    """Tiles whose pixels point far apart or far outside agree with the plain backend."""
    i0, i1, _ = make_pair(48, 0)
    rng = np.random.default_rng(0)
    wild = rng.uniform(-30, 30, (48, 48, 2)).astype(np.float32)
    wild[20:30] = rng.uniform(-6, 6, (10, 48, 2))
    settings = {**SINGLE, "inner": 3}
    flows = [tvl1(i0, i1, backend=b, init=wild, **settings) for b in ("numba", "torch")]
    assert distance(*flows).max() <= 1e-4


def test_sequence_equals_pair_by_pair() -> None:
    clip = np.stack([make_pair(40, 1)[0], make_pair(40, 1)[1], make_pair(40, 2)[0]])
    clip = np.concatenate([clip, clip[::-1]])
    expected = tvl1(clip[:-1], clip[1:], threads=1)
    assert np.array_equal(tvl1_sequence(clip, threads=1), expected)
    assert np.array_equal(tvl1_sequence(clip, threads=3), expected)
    out = np.empty((5, 40, 40, 2), np.float32)
    assert tvl1_sequence(clip, out=out) is out
    assert np.array_equal(out, expected)
    assert tvl1_sequence(clip[:1]).shape == (0, 40, 40, 2)


@pytest.mark.slow
@needs_opencv
@pytest.mark.parametrize("side", [128, 224, 320])
def test_parity_on_many_pairs(side: int) -> None:
    gaps, medians, errors, fast, peers = [], [], [], [], []
    for number in range(10):
        i0, i1, truth = make_pair(side, number)
        ours, peer = tvl1(i0, i1), tvl1(i0, i1, backend="opencv")
        gaps.append(distance(ours, peer).mean())
        medians.append(np.median(distance(ours, peer)))
        errors.append(distance(ours, truth).mean())
        peers.append(distance(peer, truth).mean())
        fast.append(distance(tvl1(i0, i1, preset="fast"), truth).mean())
    assert np.mean(gaps) <= 0.02
    assert max(gaps) <= 0.03
    assert np.mean(medians) <= 0.01
    assert abs(np.mean(errors) / np.mean(peers) - 1) <= 0.02
    assert np.mean(fast) <= 1.07 * np.mean(peers)
