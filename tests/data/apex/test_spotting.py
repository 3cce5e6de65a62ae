"""Apex spotting: known apexes under drift and noise, the other methods, what is refused."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from data.apex.clip import Clip, peak_ratio, smoothed
from data.apex.flow_peak import face_mask, rigid_removed, time_courses
from data.apex.pictures import apex_figure, error_figure
from data.apex.spotting import METHODS, error_report, evenly, spot_apex, valid_label
from data.apex.texture import divide_and_conquer, local_patterns
from data.errors import InputError
from data.pictures.drawing import png_bytes
from tests.fakes.face_scenes import moved_face, still_face

Crops = npt.NDArray[np.uint8]
FACE = (slice(110, 450), slice(164, 504))  # 340 px square around the face
SIZE = 160
SMILE = {48: (-1.0, -1.2), 54: (1.0, -1.2)}


def _landmarks() -> npt.NDArray[np.float64]:
    _, points = still_face()
    return (points - (FACE[1].start, FACE[0].start)) * SIZE / 340


@functools.cache
def _event(peak: int, length: int = 40, amplitude: float = 2.0, drift: float = 0.8) -> Crops:
    """A smile that peaks at frame `peak`, on a head that drifts by `drift` px, with noise."""
    crops = []
    for t in range(length):
        s = t / peak if t <= peak else (length - 1 - t) / (length - 1 - peak)
        s = amplitude * (0.5 - 0.5 * np.cos(np.pi * s))
        bumps = {point: (s * dx, s * dy) for point, (dx, dy) in SMILE.items()}
        way = drift * t / length
        image = moved_face((way, -0.6 * way), bumps, noise=1.5, seed=t)
        crops.append(cv2.resize(image[FACE], (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(crops)


def _spot(crops: Crops, method: str = "flow_peak", **options: Any) -> Any:
    return spot_apex(crops, _landmarks(), method, fps=100, **options)


# ------------------------------------------------------------------------------------- flow_peak


@pytest.mark.parametrize("peak", [10, 18, 29])
def test_flow_peak_finds_the_apex(peak: int) -> None:
    found = _spot(_event(peak))
    assert abs(found.apex - peak) <= 1
    assert found.curve.shape == (40,)
    assert found.curve.dtype == np.float32
    assert abs(int(found.curve.argmax()) - peak) <= 3


def test_drift_and_turns_do_not_move_the_apex() -> None:
    assert abs(_spot(_event(12, drift=6.0)).apex - 12) <= 1


def test_confidence_tells_motion_from_none() -> None:
    moving, still = _spot(_event(18)), _spot(_event(18, amplitude=0.0))
    assert moving.confidence > 1.5
    assert still.confidence < 1.25


def test_curve_is_motion_in_pixels_of_the_small_crop() -> None:
    small, large = (_spot(_event(18, amplitude=a)).curve.max() for a in (1.0, 2.0))
    assert large == pytest.approx(2 * small, rel=0.25)


def test_missing_frames_are_no_harm() -> None:
    crops = _event(18)
    kept = np.array([t for t in range(40) if t not in (5, 6, 17, 18, 19, 30)])
    found = _spot(crops[kept], times=kept, length=40)
    assert abs(found.apex - 18) <= 1
    assert found.curve.shape == (40,)


def test_a_late_first_frame_is_no_harm() -> None:
    kept = np.arange(3, 40)
    assert abs(_spot(_event(18)[3:], times=kept, length=40).apex - 18) <= 1


def test_what_moves_far_beside_the_course_does_not_outvote_what_keeps_to_it() -> None:
    crops, length, peak = [], 30, 8
    for t in range(length):
        s = t / peak if t <= peak else (length - 1 - t) / (length - 1 - peak)
        s = 2.5 * (0.5 - 0.5 * np.cos(np.pi * s))
        talk = 5.5 * np.exp(-(((t - 20) / 1.5) ** 2))
        bumps = {20: (0.0, -s), 23: (0.0, -s), 48: (0.0, talk), 54: (0.0, talk)}
        image = moved_face((0.0, 0.0), bumps, noise=1.5, seed=t)
        crops.append(cv2.resize(image[FACE], (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    assert abs(_spot(np.stack(crops)).apex - peak) <= 2


def test_a_long_event_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.repeat(_event(18), 10, axis=0)
    seen = []
    from data.apex import flow_peak as apex_flow

    measure = apex_flow.onset_flow
    monkeypatch.setattr(apex_flow, "onset_flow", lambda c: seen.append(len(c)) or measure(c))
    found = _spot(long)
    assert seen == [64]
    assert abs(found.apex - 185) <= 10
    assert found.curve.shape == (400,)


def test_colour_and_contrast_change_nothing_much() -> None:
    crops = _event(18)
    colour = np.repeat(crops[..., None], 3, axis=-1)
    assert _spot(colour).apex == _spot(crops).apex
    darker = (crops * 0.6 + 20).astype(np.uint8)
    assert abs(_spot(darker).apex - 18) <= 1


def test_twice_gives_the_same() -> None:
    first, second = _spot(_event(18)), _spot(_event(18).copy())
    assert first.apex == second.apex
    np.testing.assert_array_equal(first.curve, second.curve)


def test_affine_motion_is_removed_and_local_motion_kept() -> None:
    ys, xs = np.mgrid[:64, :64] / 64 - 0.5
    mask = np.ones((64, 64), bool)
    affine = np.stack([0.7 + 2 * xs - ys, -0.3 + 0.5 * xs + ys], axis=-1)
    bump = np.exp(-((xs - 0.2) ** 2 + ys**2) / 0.003)
    fields = np.stack([affine, affine + np.stack([bump, 0 * bump], axis=-1)]).astype(np.float32)
    left = rigid_removed(fields, mask)
    assert np.abs(left[0]).max() < 1e-5
    assert left[1, :, 0].max() > 0.9


@pytest.mark.parametrize("length", [4, 5, 9, 37, 300])
def test_courses_have_no_drift_and_unit_energy(length: int) -> None:
    times = tuple(float(t) for t in evenly(length))
    courses, centres = time_courses(times, length, 0.1)
    assert len(courses) == len(centres) > 0
    np.testing.assert_allclose(np.linalg.norm(courses, axis=1), 1)
    assert np.abs(courses.sum(axis=1)).max() < 1e-6
    assert np.abs(courses @ np.array(times)).max() < 1e-6 * length
    assert centres.min() > 0
    assert centres.max() < length - 1


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_no_course_peaks_inside_the_margin(margin: float) -> None:
    last = 80
    _, centres = time_courses(tuple(float(t) for t in range(last + 1)), last + 1, margin)
    assert centres.min() == pytest.approx(margin * last)
    assert centres.max() == pytest.approx((1 - margin) * last)


def test_blinks_are_not_heard_and_the_brows_and_mouth_are() -> None:
    points = _landmarks()
    eyes = [points[a : a + 6].mean(axis=0) for a in (36, 42)]
    clip = Clip(_event(10)[:4], np.arange(4.0), 4, points, smooth=1, margin=0.1)
    mask = face_mask(clip)

    def heard(point: npt.NDArray[np.float64]) -> bool:
        x, y = np.rint(point).astype(int)
        return bool(mask[y, x])

    assert not any(heard(point) for point in points[36:48])  # lids and corners
    assert not any(heard(eye) for eye in eyes)
    inner = points[[50, 52, 57, 31, 35]]  # lips and nostrils
    assert all(heard(point) for point in inner)
    brows = points[[19, 24]] + (0, 0.04 * clip.ipd)  # just under the brow's edge
    assert all(heard(point) for point in brows)


# ------------------------------------------------------------------------------- the other methods


def test_middle() -> None:
    found = _spot(_event(10), "middle")
    assert (found.apex, len(found.curve)) == (19, 0)
    assert np.isnan(found.confidence)


@pytest.mark.parametrize("method", ["lbp", "frequency"])
def test_texture_methods_give_a_curve_inside_the_margin(method: str) -> None:
    found = _spot(_event(18, amplitude=4.0, drift=0.0), method, margin=0.1)
    assert 4 <= found.apex <= 35
    assert found.curve.shape == (40,)
    assert np.isfinite(found.curve).all()
    assert found.confidence >= 1


def test_lbp_finds_a_strong_apex() -> None:
    assert abs(_spot(_event(18, amplitude=5.0, drift=0.0), "lbp").apex - 18) <= 6


def test_local_patterns() -> None:
    image = np.zeros((3, 3), np.uint8)
    image[0, 0], image[1, 1] = 9, 5
    assert local_patterns(image)[1, 1] == 1, "only the first neighbour is not smaller"
    assert (local_patterns(np.full((4, 4), 7, np.uint8)) == 255).all()


@pytest.mark.parametrize(
    ("curve", "want"),
    [([0, 1, 5, 1, 0, 0, 2, 0], 2), ([0, 0, 0, 0, 1, 2, 9, 2], 6), ([3, 3, 3, 3], 0)],
)
def test_divide_and_conquer(curve: list[float], want: int) -> None:
    assert divide_and_conquer(np.array(curve, float), 0, len(curve) - 1) == want


# ------------------------------------------------------------------------------ odds and ends


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_tiny_events_take_the_middle(method: str, length: int) -> None:
    found = _spot(_event(10)[:length], method)
    assert found.apex == (length - 1) // 2
    assert len(found.curve) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [4, 5, 8])
def test_short_events_stay_inside(method: str, length: int) -> None:
    assert 0 <= _spot(_event(10)[:length], method).apex < length


def test_identical_frames_give_a_finite_answer() -> None:
    found = _spot(np.repeat(_event(10)[:1], 12, axis=0))
    assert 0 <= found.apex < 12
    assert np.isfinite(found.curve).all()
    assert np.isfinite(found.confidence)


def test_landmarks_off_the_crop_do_not_fail() -> None:
    found = spot_apex(_event(18), _landmarks() + 500.0, "flow_peak", fps=100)
    assert 0 <= found.apex < 40


@pytest.mark.parametrize(
    ("crops", "landmarks", "method"),
    [
        (np.zeros((5, 9, 9), np.float32), np.zeros((68, 2)), "flow_peak"),
        (np.zeros((9, 9), np.uint8), np.zeros((68, 2)), "flow_peak"),
        (np.zeros((5, 9, 9), np.uint8), np.zeros((5, 2)), "flow_peak"),
        (np.zeros((5, 9, 9), np.uint8), np.zeros((68, 2)), "label"),
    ],
)
def test_bad_input_is_refused(crops: Any, landmarks: Any, method: str) -> None:
    with pytest.raises(InputError, match="spot_apex"):
        spot_apex(crops, landmarks, method, fps=100)


@pytest.mark.parametrize(
    ("onset", "apex", "offset", "good"),
    [(3, 3, 9, True), (3, 9, 9, True), (3, 2, 9, False), (3, 10, 9, False), (3, None, 9, False),
     (3, 5, None, True)],
)  # fmt: skip
def test_valid_label(onset: int, apex: int | None, offset: int | None, good: bool) -> None:
    assert valid_label(onset, apex, offset) is good


def test_smoothing_and_ratio() -> None:
    times = np.array([0.0, 1, 2, 3, 10])
    values = np.array([0.0, 3, 6, 3, 50])
    assert smoothed(values, times, 3).tolist() == [1.5, 3, 4, 4.5, 50]
    assert smoothed(values, times, 1).tolist() == values.tolist()
    assert peak_ratio(np.array([1.0, 2, 2, 8])) == 4
    assert np.isfinite(peak_ratio(np.zeros(3)))


def _rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "event": ["a", "b", "c"],
            "apex": [10, 12, 14],
            "source": ["label", "label", "spotted"],
            "confidence": [2.0, 1.5, 1.2],
            "label_apex": [10.0, 12.0, np.nan],
            "error_frames": [2.0, -6.0, np.nan],
            "middle_error": [4.0, 4.0, np.nan],
            "method": "flow_peak",
            "curve": [np.linspace(0, 1, 20, dtype=np.float32)] * 3,
            "curve_start": [0, 0, 5],
        }
    )


def test_error_report() -> None:
    assert error_report(_rows()) == {
        "events": 2,
        "mae": 4.0,
        "median": 4.0,
        "within_5": 0.5,
        "bias": -2.0,
        "middle_mae": 4.0,
    }
    assert error_report(_rows().iloc[2:]) == {"events": 0}


@pytest.mark.parametrize("draw", [apex_figure, error_figure])
def test_pictures_are_the_same_each_time(draw: Any) -> None:
    first, second = png_bytes(draw(_rows())), png_bytes(draw(_rows()))
    assert first == second
    assert first[:4] == b"\x89PNG"


def test_pictures_of_nothing_are_refused() -> None:
    empty = _rows().assign(curve=[np.zeros(0, np.float32)] * 3, error_frames=np.nan)
    for draw in (apex_figure, error_figure):
        with pytest.raises(InputError):
            draw(empty)
