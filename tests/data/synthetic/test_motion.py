"""Action-unit fields, time courses, subjects and plans of the synthetic generator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from data.synthetic.action_units import (
    EMOTIONS,
    UNITS,
    UnitFields,
    inter_pupil_distance,
    mirror_index,
    objective_class,
)
from data.synthetic.base_face import SIZE, neutral_face
from data.synthetic.dynamics import (
    ExpressionCourse,
    camera_gain,
    curve,
    frame_labels,
    head_pose,
    lid_closure,
    minimum_jerk,
)
from data.synthetic.layouts import get_layout
from data.synthetic.layouts.base import PlannedActionUnit, PlannedEvent
from data.synthetic.presets import resolve
from data.synthetic.render import expression_field
from data.synthetic.script import deal_emotions, write_scripts
from data.synthetic.subjects import make_subject
from data.synthetic.warp import thin_plate_map

BOX = (0, 0, 640, 480)


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    return neutral_face()[1]


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_unit_field_peaks_at_one_pixel_and_is_symmetric(unit, landmarks):
    middle = 0.5 * (landmarks[:, 0].min() + landmarks[:, 0].max())
    mirrored = landmarks[mirror_index()] * [-1, 1] + [2 * middle, 0]
    even = 0.5 * (landmarks + mirrored)
    even[:, 0] += 319.5 - even[27, 0]
    field = UnitFields(even, BOX).displacement({unit: (1.0, 1.0)})
    assert np.sqrt((field**2).sum(axis=2)).max() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(field[:, ::-1, 0], -field[:, :, 0], rtol=0, atol=2e-3)
    np.testing.assert_allclose(field[:, ::-1, 1], field[:, :, 1], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("unit", "point", "direction"),
    [(12, 48, (-1, -1)), (12, 54, (1, -1)), (4, 21, (1, 1)), (1, 21, (0, -1)), (15, 54, (0, 1))],
)
def test_units_move_the_right_way(unit, point, direction, landmarks):
    field = UnitFields(landmarks, BOX).displacement({unit: (1.0, 1.0)})
    x, y = np.rint(landmarks[point]).astype(int)
    for got, expected in zip(field[y, x], direction, strict=True):
        assert got * expected > 0.2 if expected else abs(got) < 0.2


def test_one_sided_unit_leaves_the_other_side(landmarks):
    field = UnitFields(landmarks, BOX).displacement({12: (1.0, 0.0)})
    (lx, ly), (rx, ry) = np.rint(landmarks[[48, 54]]).astype(int)
    assert np.hypot(*field[ly, lx]) > 0.7
    assert np.hypot(*field[ry, rx]) < 0.01


def test_field_that_would_fold_is_scaled_down():
    subject = make_subject("test", 0, SIZE)
    strong = PlannedEvent("macro", 0, 1, 1, 1.0, 2, "anger", (PlannedActionUnit(7, 14.0, 14.0),))
    field = expression_field(subject, BOX, strong, 1.0)
    gradient = max(np.abs(np.diff(field.u, axis=k)).max() for k in (0, 1))
    assert field.scale < 1.0
    assert gradient <= 0.7 + 1e-3


def test_emotion_probabilities_sum_to_one_and_units_exist():
    for sets in EMOTIONS.values():
        assert sum(p for _, p in sets) == pytest.approx(1.0)
        assert {u for units, _ in sets for u in units} <= set(UNITS)


@pytest.mark.parametrize(
    ("aus", "number"),
    [("12", 1), ("1+2", 2), ("4", 3), ("4+9", 4), ("15", 5), ("20", 6), ("14", 7)],
)
def test_objective_classes(aus, number):
    assert objective_class(aus) == number


def test_curve_and_labels_agree():
    course = ExpressionCourse(start=0.1, rise=0.1, hold=0.04, fall=0.15)
    fps = 200.0
    onset, start, end, centre, offset = frame_labels(course, fps)
    assert (onset, start, end, offset) == (20, 40, 48, 78)
    assert centre == pytest.approx(44.0)
    s = curve(course, np.arange(120) / fps)
    assert s[onset] == 0.0
    np.testing.assert_allclose(s[start : end + 1], 1.0, rtol=0, atol=1e-6)
    assert s[start - 1] < 1.0
    held = PlannedEvent("micro", onset, start, end, centre, offset, None, ())
    assert held.apex == 44  # the frame in the middle of the hold, not its first
    assert s[offset] == pytest.approx(0.08, abs=1e-6)
    assert 0.0 < s[-1] < s[offset]
    assert np.all(np.diff(s[onset : start + 1]) >= 0)


def test_minimum_jerk_is_flat_at_both_ends():
    t = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(minimum_jerk(t), [0, 0, 0.5, 1, 1])
    assert minimum_jerk(np.array([0.01]))[0] < 1e-4


def test_head_motion_has_the_stated_size_and_is_slow():
    rng = np.random.default_rng(0)
    pose = head_pose(60_000, 100.0, 1.0, 1.0, [], rng)
    np.testing.assert_allclose(pose.std(axis=0), [1.2, 1.0, 0.25, 0.002, 0.5, 0.4], rtol=0.1)
    step = np.diff(pose[:, 2]).std() / pose[:, 2].std()
    assert step < 0.15
    assert not head_pose(50, 100.0, 0.0, 1.0, [], rng).any()


def test_head_shift_stays():
    pose = head_pose(300, 100.0, 0.0, 0.5, [(1.0, 6.0, -2.0)], np.random.default_rng(0))
    np.testing.assert_allclose(pose[[0, 100, 150, 299], :2], [[0, 0], [0, 0], [3, -1], [3, -1]])


def test_gain_and_lids():
    gain = camera_gain(5000, 200.0, np.random.default_rng(1))
    assert gain.mean() == pytest.approx(1.0, abs=5e-4)
    assert 0.002 < gain.std() < 0.005
    lids = lid_closure(400, 200.0, [1.0])
    assert lids.argmax() == 200
    assert lids.max() == pytest.approx(0.85)
    assert lids[0] == 0.0 and lids[-1] == 0.0


def test_emotions_are_dealt_by_weight():
    hands = deal_emotions({"happiness": 0.5, "disgust": 0.3, "surprise": 0.2}, 4, 5)
    flat = [e for hand in hands for e in hand]
    assert [len(h) for h in hands] == [5, 5, 5, 5]
    assert [flat.count(e) for e in ("happiness", "disgust", "surprise")] == [10, 6, 4]
    assert all(2 <= h.count("happiness") <= 3 for h in hands)


def test_people_differ_and_repeat():
    one, again, other = (make_subject("test", i, (320, 240)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one.image, again.image)
    assert np.abs(one.image.astype(int) - other.image).mean() > 3
    assert np.abs(one.landmarks - other.landmarks).max() > 1
    for person in (one, other):
        assert person.ipd == pytest.approx(inter_pupil_distance(person.landmarks))
        assert 48 < person.ipd < 66
        assert person.image.shape == (240, 320, 3)


def test_size_scales_landmarks_with_the_picture():
    large, small = make_subject("test", 3, SIZE), make_subject("test", 3, (320, 240))
    np.testing.assert_allclose((large.landmarks + 0.5) / 2 - 0.5, small.landmarks, atol=1e-6)


def test_thin_plate_map_carries_points_and_fixes_the_rest():
    fixed = np.array([(x, y) for x in (0, 100, 199) for y in (0, 60, 119)], dtype=np.float64)
    source = np.array([[50.0, 40.0]])
    target = np.array([[54.0, 43.0]])
    at = thin_plate_map((200, 120), np.vstack([target, fixed]), np.vstack([source, fixed]), step=1)
    np.testing.assert_allclose(at[43, 54], source[0], atol=0.02)
    np.testing.assert_allclose(at[60, 100], [100, 60], atol=0.02)


def test_long_plan_has_everything_and_nothing_overlaps():
    layout = get_layout("samm_lv")
    preset = resolve("long", "tiny", {"size": (160, 120)})
    crew = [make_subject("test", i, preset.size) for i in range(preset.subjects)]
    scripts = write_scripts(layout, preset, 5, crew)
    assert len(scripts) >= 8
    kinds = [e.kind for s in scripts for e in s.plan.events]
    assert kinds.count("micro") >= 16 and kinds.count("macro") >= 8 and kinds.count("blink") >= 8
    for script in scripts:
        expressions = script.plan.expressions
        for a, b in itertools.pairwise(expressions):
            assert b.onset - a.offset >= 0.3 * script.plan.fps
        for e in expressions:
            limit = (0.2, 0.5) if e.kind == "micro" else (0.7, 2.6)
            assert limit[0] <= (e.offset - e.onset) / script.plan.fps <= limit[1]
        for blink in (e for e in script.plan.events if e.kind == "blink"):
            assert not any(
                e.onset <= blink.apex <= e.offset for e in expressions if e.kind == "micro"
            )
        assert np.ptp(script.track.pose[:, :2], axis=0).max() > 1.0
