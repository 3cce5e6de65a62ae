"""The robust pose: its model, its tolerance, and what must not pass for head motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.align.fitting import LEAST_ERROR, Model, expressions
from data.align.geometry import (
    DEPTH_TERMS,
    IDENTITY,
    CropMaker,
    face_geometry,
    head_depth,
    hull_points,
    place,
    unplace,
)
from data.align.views import Viewpoint, between, carried_on, pose_of_map
from data.faces import interpupil
from tests.fakes.align_scenes import grey_face, moved, person

POSE = np.array([1.01 * np.cos(0.05), 1.01 * np.sin(0.05), 3.0, -2.0, 0.06, -0.04, 0.002, -0.001])
SIZE = (640, 480)


@pytest.fixture(scope="module")
def geometry():
    return face_geometry(person(0, SIZE).landmarks, 224)


def points_of(geometry, step=9):
    """Points over face and forehead, as corners would lie."""
    up = geometry.landmarks[17:27] - (0, 0.5 * geometry.ipd)
    return hull_points(np.concatenate([geometry.landmarks, up]), step)


def fit(geometry, points, target, found=None, drift=None, **settings):
    drift = np.zeros((len(points), 2, 2)) if drift is None else drift
    found = np.ones(len(points), bool) if found is None else found
    model = Model(geometry, points, drift, **settings)
    return model.fit(target[None], found[None], np.ones(1, bool))


def left(geometry, pose, truth):
    """RMS px over the face between two poses."""
    face = hull_points(geometry.landmarks, 12)
    away = place(geometry, pose, face) - place(geometry, truth, face)
    return float(np.sqrt((away**2).sum(-1).mean()))


def test_pose_and_light_are_recovered(geometry):
    points = points_of(geometry)
    drift = np.random.default_rng(0).normal(0, 20, (len(points), 2, 2))
    light = np.array([0.004, -0.01])
    found = fit(geometry, points, place(geometry, POSE, points) + drift @ light, drift=drift)
    assert found.sure[0] and left(geometry, found.poses[0], POSE) < 0.02
    assert found.lights[0] == pytest.approx(light, abs=1e-3)


@pytest.mark.parametrize("noise", [0.1, 0.6, 1.2])
def test_the_tolerance_is_the_pictures_own(geometry, noise):
    points = points_of(geometry)
    random = np.random.default_rng(1)
    target = place(geometry, POSE, points) + random.normal(0, noise, points.shape)
    found = fit(geometry, points, target)
    assert found.sigma[0] == pytest.approx(noise, rel=0.15)
    assert found.agreeing[0] > 0.9 and found.sure[0] == (noise < 0.012 * geometry.ipd)
    assert left(geometry, found.poses[0], POSE) < 2 * found.sd[0] < 2 * noise


def test_a_smaller_face_asks_for_no_more_than_its_noise():
    small = face_geometry(person(0, SIZE).landmarks / 4, 224)  # 29 px between the pupils
    points = points_of(small, 3)
    noise = np.random.default_rng(2).normal(0, 0.17, points.shape)
    found = fit(small, points, place(small, IDENTITY, points) + noise)
    assert found.sure[0] and found.agreeing[0] > 0.9 and left(small, found.poses[0], IDENTITY) < 0.1


def test_a_raised_brow_with_its_forehead_is_no_nod(geometry):
    points = points_of(geometry)
    random = np.random.default_rng(3)
    raised = expressions(geometry.landmarks, points)[..., :4].sum(axis=-1).T * 0.025 * geometry.ipd
    assert (np.hypot(*raised.T) > 1).mean() > 0.25  # a quarter of the points go along
    target = place(geometry, POSE, points) + raised + random.normal(0, 0.2, points.shape)
    with_units = left(geometry, fit(geometry, points, target).poses[0], POSE)
    without = left(geometry, fit(geometry, points, target, give=False).poses[0], POSE)
    assert with_units < 0.15 and with_units < 0.5 * without


def test_a_hand_over_a_fifth_of_the_face_is_not_believed(geometry):
    points = points_of(geometry)
    target = place(geometry, POSE, points)
    hand = points[:, 0] < np.quantile(points[:, 0], 0.2)
    target[hand] += (9, 4)
    found = fit(geometry, points, target)
    assert left(geometry, found.poses[0], POSE) < 0.1 and found.agreeing[0] < 0.85
    assert not found.weights[0][hand].any()


def test_too_few_or_scattered_points_are_said_so(geometry):
    points = points_of(geometry)
    few = np.zeros(len(points), bool)
    few[:8] = True
    found = fit(geometry, points, place(geometry, POSE, points), few)
    assert not found.solved[0] and np.isnan(found.sigma[0]) and np.isnan(found.error).all()
    assert np.array_equal(found.poses[0], IDENTITY)
    wild = points + np.random.default_rng(4).uniform(-20, 20, points.shape)
    assert not fit(geometry, points, wild).sure[0]
    none = fit(geometry, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool))
    assert not none.solved[0]


def test_a_perfect_picture_keeps_a_least_scale(geometry):
    points = points_of(geometry)
    found = fit(geometry, points, place(geometry, IDENTITY, points))
    assert found.sigma[0] == pytest.approx(LEAST_ERROR * geometry.ipd)


def test_frames_fitted_together_are_those_fitted_alone(geometry):
    points = points_of(geometry)
    random = np.random.default_rng(5)
    target = np.stack([place(geometry, POSE, points) + random.normal(0, s, points.shape)
                       for s in (0.1, 0.5, 2.0)])  # fmt: skip
    found = random.random(target.shape[:2]) > 0.2
    model = Model(geometry, points, np.zeros((len(points), 2, 2)))
    together = model.fit(target, found, np.ones(3, bool))
    for k in range(3):
        alone = model.fit(target[k : k + 1], found[k : k + 1], np.ones(1, bool))
        assert alone.poses[0] == pytest.approx(together.poses[k], abs=1e-9)


def test_expressions_have_a_peak_of_about_one(geometry):
    grid = points_of(geometry, 4)
    peaks = np.hypot(*expressions(geometry.landmarks, grid)).max(axis=0)
    assert peaks.min() > 0.4 and peaks.max() < 1.5


# ---------------------------------------------------------------------------------- references


def test_a_reference_carries_on_the_crop_without_a_jump(geometry):
    pose = np.array([1.0, 0.02, 9.0, -4.0, 0.12, -0.05, 0.0, 0.0])
    after = carried_on(geometry, pose)
    assert after.crop_grid == pytest.approx(place(geometry, pose, geometry.crop_grid))
    frame = moved(grey_face(0, SIZE), 4, 2)[0]
    seen = CropMaker(after)(frame, IDENTITY).astype(int)
    assert np.abs(seen - CropMaker(geometry)(frame, pose)).max() <= 2
    assert after.depth.slope == pytest.approx(pose[4:6])
    assert after.landmarks == pytest.approx(place(geometry, pose, geometry.landmarks))


def test_points_go_between_references_and_back(geometry):
    first = carried_on(geometry, np.array([1.0, 0.02, 9.0, -4.0, 0.1, -0.05, 0, 0]))
    second = carried_on(first, np.array([0.98, -0.01, -3.0, 2.0, 0.08, 0.02, 0, 0]))
    other = carried_on(geometry, np.array([1.02, 0.0, -6.0, 1.0, -0.1, 0.0, 0, 0]))
    face = hull_points(geometry.landmarks, 25)
    there = between(geometry, second, face)
    assert between(second, geometry, there) == pytest.approx(face, abs=0.02)
    across = between(second, other, there)
    assert across == pytest.approx(between(geometry, other, face), abs=0.02)
    stranger = face_geometry(person(1, SIZE).landmarks, 224)
    assert between(second, stranger, there) is None
    assert Viewpoint(stranger).nearest_pose(stranger, second, IDENTITY) is None


def test_a_pose_is_found_again_from_what_it_does(geometry):
    face = hull_points(geometry.landmarks, 15)
    pose = pose_of_map(geometry, face, place(geometry, POSE, face))
    assert left(geometry, pose, POSE) < 0.05
    turned = carried_on(geometry, np.array([1.0, 0, 0, 0, 0.1, 0, 0, 0]))
    back = Viewpoint(geometry).nearest_pose(geometry, turned, IDENTITY)
    assert back[4] == pytest.approx(0.1, abs=0.01)


def test_a_viewpoint_that_goes_along_says_what_a_new_one_says(geometry):
    chain = [geometry]
    for turn in (0.1, -0.05, 0.08):
        chain.append(carried_on(chain[-1], np.array([1.0, 0.02, 6.0, -2.0, turn, 0.03, 0, 0])))
    aside = carried_on(chain[1], np.array([1.01, 0.0, -6.0, 1.0, -0.1, 0.0, 0, 0]))
    for own in (chain[0], chain[2], aside):
        view = Viewpoint(own)
        for other in (*chain, chain[1], aside, chain[0], *chain[1:]):  # also back, and down again
            said = view.nearest_pose(own, other, POSE)
            assert said.tolist() == Viewpoint(own).nearest_pose(own, other, POSE).tolist()


def test_a_turned_heads_depth_leans(geometry):
    turned = head_depth(geometry.landmarks, np.array([0.3, 0.0]))
    level = head_depth(geometry.landmarks)
    sides = geometry.landmarks[[36, 45]]
    lean = (turned(sides) - level(sides)) @ [-1, 1]
    assert lean == pytest.approx(-0.3 * (sides[1] - sides[0])[0] / geometry.ipd, rel=0.05)


def test_depth_hills_are_the_terms_times_their_coefficients(geometry):
    added = np.random.default_rng(6).normal(0, 0.06, DEPTH_TERMS)
    depth = replace(geometry.depth, added=added)
    face = hull_points(geometry.landmarks, 20)
    extra = depth(face) - geometry.depth(face)
    assert extra == pytest.approx(depth.terms(face) @ added)


def test_far_poses_come_back_exactly_enough(geometry):
    pose = np.array([1.1, 0.15, 20.0, -9.0, 0.3, -0.2, 0.01, 0.01])
    face = hull_points(geometry.landmarks, 20)
    back = unplace(geometry, pose, place(geometry, pose, face))
    assert np.abs(back - face).max() < 0.1
    assert interpupil(geometry.landmarks) == pytest.approx(geometry.ipd)
