"""Geometry, tracking and the joint fit, against known motion; no detector needed."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from data.align.geometry import (
    DEPTH_TERMS,
    IDENTITY,
    CropMaker,
    apply,
    compose,
    face_geometry,
    frame_to_crop,
    head_depth,
    hull_points,
    invert,
    landmark_pose,
    matrix_pose,
    outside_share,
    place,
    pose_matrix,
    square_geometry,
    unplace,
)
from data.align.joint import DepthEvidence, refine
from data.align.modes import Options, overlap, smooth_poses
from data.align.run import align_frames
from data.align.tracking import FaceTracker, light_drift, stable_mask, upper_mask
from data.align.watching import SMALL_FACE, FaceSearch
from data.errors import InputError
from data.faces import Face, Reference
from tests.fakes.align_scenes import grey_face, moved, noisy, person

SIZE = (640, 480)
POSE = np.array([1.01 * np.cos(0.05), 1.01 * np.sin(0.05), 3.0, -2.0, 0.03, -0.02, 0.004, -0.003])


@pytest.fixture(scope="module")
def landmarks():
    return person(0, SIZE).landmarks


@pytest.fixture(scope="module")
def face():
    return grey_face(0, SIZE)


def reference_of(landmarks, flags=()):
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    return Reference(0, landmarks, Face(np.r_[low, high], 1.0), flags)


def test_crop_square_is_level_centred_and_2_3_pupil_distances(landmarks):
    turned = cv2.transform(landmarks[None], cv2.getRotationMatrix2D((320, 240), 12, 1))[0]
    geometry = face_geometry(turned, 224)
    eyes = geometry.landmarks_crop[36:48]
    assert eyes[:6, 1].mean() == pytest.approx(eyes[6:, 1].mean(), abs=1e-9)
    assert eyes[6:, 0].mean() - eyes[:6, 0].mean() == pytest.approx(224 / 2.3)
    nose = geometry.landmarks_crop[27:36].mean(axis=0)
    assert nose == pytest.approx([111.5, 111.5 - 0.02 * 224 / 2.3])
    level = face_geometry(turned, 224, upright=False).to_crop
    assert level[0, 1] == 0 and level[1, 0] == 0


def test_affines_undo_and_compose(landmarks):
    matrix = pose_matrix(POSE, landmarks[30])
    assert apply(invert(matrix), apply(matrix, landmarks)) == pytest.approx(landmarks)
    twice = compose(matrix, matrix)
    assert apply(twice, landmarks) == pytest.approx(apply(matrix, apply(matrix, landmarks)))
    assert matrix_pose(matrix, landmarks[30])[:4] == pytest.approx(POSE[:4])


def test_unplace_undoes_place_with_parallax(landmarks):
    geometry = face_geometry(landmarks, 224)
    inside = hull_points(landmarks, 20)
    back = unplace(geometry, POSE, place(geometry, POSE, inside))
    assert np.abs(back - inside).max() < 0.01


def test_depth_has_zero_mean_and_the_nose_in_front(landmarks):
    depth = head_depth(landmarks)
    inside = hull_points(landmarks, 6)
    assert depth(inside).mean() == pytest.approx(0, abs=0.01)
    assert depth(landmarks[30]) > depth(landmarks[[0, 16, 8]]).max() + 0.3


def test_landmark_pose_recovers_a_similarity(landmarks):
    centre = landmarks[30]
    rigid = np.r_[POSE[:4], 0, 0, 0, 0]
    target = apply(pose_matrix(rigid, centre), landmarks)
    assert landmark_pose(landmarks, target, centre) == pytest.approx(rigid)


def test_share_outside_the_image():
    inside = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    assert outside_share(inside, 100, (100, 100)) == 0
    half = np.array([[1.0, 0, 50], [0, 1.0, 0]])  # crop px = image px + 50: left half is outside
    assert outside_share(half, 100, (100, 100)) == pytest.approx(0.5)


def test_crop_is_the_frame_resampled_once(landmarks, face):
    geometry = face_geometry(landmarks, 224)
    crop = CropMaker(geometry)(face, IDENTITY)
    expected = cv2.warpAffine(face, geometry.to_crop, (224, 224), flags=cv2.INTER_CUBIC)
    difference = np.abs(crop.astype(int) - expected)
    assert crop.shape == (224, 224) and crop.dtype == np.uint8
    assert difference.mean() < 0.6 and difference.max() < 14  # cv2 rounds maps to 1/32 px


def test_crop_of_a_moved_frame_equals_the_reference_crop(landmarks, face):
    geometry = face_geometry(landmarks, 224)
    frame, matrix = moved(face, 3.3, -2.6, roll=1.5, scale=1.01)
    pose = matrix_pose(matrix, geometry.centre)
    make = CropMaker(geometry)
    still = make(face, IDENTITY).astype(float)
    assert np.abs(make(frame, pose).astype(float) - still).mean() < 1.2
    assert np.abs(make(frame, IDENTITY).astype(float) - still).mean() > 4
    assert apply(frame_to_crop(geometry, pose), apply(matrix, landmarks)) == pytest.approx(
        geometry.landmarks_crop
    )


def test_crop_from_a_patch_is_the_crop_from_the_frame(landmarks, face):
    colour = np.dstack([face, face[::-1], 255 - face])
    for image in (face, colour):
        make = CropMaker(face_geometry(landmarks, 128))
        x0, y0, x1, y1 = make.box(POSE, image.shape, 12)
        patch = image[y0:y1, x0:x1]
        part = make(patch, POSE, (x0, y0), image.shape)
        assert np.array_equal(part, make(image, POSE))
        assert part.shape == (128, 128, *image.shape[2:])


def test_crop_beyond_the_border_repeats_it(landmarks):
    flat = np.full((480, 640), 77, np.uint8)
    make = CropMaker(face_geometry(landmarks - (330, 200), 128))
    assert (make(flat, IDENTITY) == 77).all()


def test_small_crops_of_large_faces_do_not_alias():
    large = cv2.resize(person(0, SIZE).landmarks[None], None, fx=1, fy=1)[0] * 3
    stripes = np.tile(np.array([0, 255], np.uint8), (1440, 960))  # finest detail there is
    crop = CropMaker(face_geometry(large, 128, upright=False))(stripes, IDENTITY)
    assert crop.std() < 12


def test_mask_keeps_off_brows_eyes_and_mouth(landmarks, face):
    mask = stable_mask(landmarks, person(0, SIZE).ipd, face.shape)
    for part in (19, 24, 37, 44, 51, 57):
        x, y = landmarks[part].round().astype(int)
        assert mask[y, x] == 0
    x, y = landmarks[29].round().astype(int)
    assert mask[y, x] == 255 and mask[5, 5] == 0


def test_some_points_lie_above_the_brows_and_on_nothing_that_moves(landmarks, face):
    ipd = person(0, SIZE).ipd
    tracker = FaceTracker(face, face_geometry(landmarks, 224))
    upper = tracker.points[tracker.points[:, 1] < landmarks[17:27, 1].min()]
    assert 40 <= len(upper) <= 70 and len(tracker.points) <= 200
    apart = np.hypot(*(upper[:, None] - landmarks[17:27]).transpose(2, 0, 1)).min(axis=1)
    assert apart.min() > 0.15 * ipd
    mask = upper_mask(landmarks, ipd, SIZE[::-1])
    moving = np.round(landmarks[17:]).astype(int)
    assert mask[moving[:, 1], moving[:, 0]].max() == 0 and mask.any()


def test_tracker_measures_a_similarity_to_a_hundredth(landmarks, face):
    geometry = face_geometry(landmarks, 224)
    tracker = FaceTracker(noisy(face, 0), geometry)
    for seed, (dx, dy, roll, scale) in enumerate([(0.3, -0.2, 0, 1), (2.5, 1.4, 0.6, 1.004)], 1):
        frame, matrix = moved(face, dx, dy, roll, scale)
        found = tracker.register(noisy(frame, seed))
        error = place(geometry, found.pose, landmarks) - apply(matrix, landmarks)
        assert found.method == "track" and found.inlier_ratio > 0.8
        assert np.sqrt((error**2).sum(1).mean()) < 0.08


def test_tracker_does_not_take_light_for_motion(landmarks, face):
    tracker = FaceTracker(face, face_geometry(landmarks, 224))
    for gain, offset in ((1.012, 0.0), (1.0, 2.0)):
        lit = cv2.convertScaleAbs(face, alpha=gain, beta=offset)
        found = tracker.register(lit)
        error = place(tracker.geometry, found.pose, landmarks) - landmarks
        assert np.sqrt((error**2).sum(1).mean()) < 0.05
        naive = np.hypot(*(np.asarray(found.moved) - tracker.points).T)
        assert np.median(naive) > 0.1  # the points themselves were fooled
        assert found.light[0] + found.light[1] == pytest.approx(gain - 1 + offset / 100, abs=0.006)


def test_light_drift_is_zero_where_nothing_changes():
    face = np.full((60, 60), 50, np.uint8)
    assert np.abs(light_drift(face, np.array([[30.0, 30.0]], np.float32), 15)).max() == 0


def test_tracker_follows_a_large_jump_and_rejects_what_moves_by_itself(landmarks, face):
    geometry = face_geometry(landmarks, 224)
    frame, matrix = moved(face, 17, -12, 2.0)
    smile = frame.copy()
    at = apply(matrix, landmarks)[4].round().astype(int)
    low, high = np.maximum(at - 45, 0), at + 45
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    smile[part] = np.roll(frame[part], (3, 2), (0, 1))
    found = FaceTracker(face, geometry).register(smile)
    error = place(geometry, found.pose, landmarks) - apply(matrix, landmarks)
    assert found.method == "track" and np.sqrt((error**2).sum(1).mean()) < 0.25
    assert found.inlier_ratio < 0.98


def test_flat_face_falls_back_and_then_is_held(landmarks, face):
    blurred = cv2.GaussianBlur(face, (0, 0), 12)
    geometry = face_geometry(landmarks, 224)
    tracker = FaceTracker(blurred, geometry, points=300)
    tracker.points = tracker.points[:5]  # too few to trust
    frame, matrix = moved(blurred, 2.0, 1.0)
    found = tracker.register(frame)
    assert found.method == "ecc" and found.moved is None
    assert apply(pose_matrix(found.pose, geometry.centre), landmarks) == pytest.approx(
        apply(matrix, landmarks), abs=0.3
    )
    lost = tracker.register(np.random.default_rng(0).integers(0, 255, face.shape, np.uint8))
    assert lost.method == "held" and np.array_equal(lost.pose, found.pose)


def simulated(landmarks, frames=60):
    """Poses, tracked points and their motion for a head deeper than the prior says."""
    random = np.random.default_rng(1)
    geometry = face_geometry(landmarks, 224)
    points = hull_points(landmarks, 14)
    time = np.linspace(0, 6, frames)
    poses = np.column_stack(
        [1 + 0.003 * np.sin(time), 0.01 * np.sin(2 * time), 4 * np.sin(time), 3 * np.cos(time),
         0.05 * np.sin(1.3 * time), 0.03 * np.cos(1.7 * time), 0 * time, 0 * time]
    )  # fmt: skip
    hills = random.normal(0, 0.06, DEPTH_TERMS)
    deeper = replace(geometry, depth=replace(geometry.depth, added=hills))
    true = np.stack([place(deeper, pose, points) for pose in poses])
    return geometry, deeper, points, poses, true + random.normal(0, 0.1, true.shape)


def fitted(geometry, points, motion, poses):
    start = poses * (1, 1, 1, 1, 0.7, 0.7, 1, 1)
    light, drift = np.zeros((len(poses), 2)), np.zeros((len(points), 2, 2))
    return refine(geometry, points, motion, start, light, drift, DepthEvidence(), fps=60)


def test_joint_fit_learns_the_depth_of_this_head(landmarks):
    geometry, deeper, points, poses, motion = simulated(landmarks)
    joint = fitted(geometry, points, motion, poses)

    def left(with_geometry, found):
        return np.sqrt(np.mean([
            (unplace(with_geometry, q, place(deeper, p, points)) - points) ** 2
            for p, q in zip(poses, found, strict=True)
        ]))  # fmt: skip

    assert left(joint.geometry, joint.poses) < 0.08
    assert left(joint.geometry, joint.poses) < 0.35 * left(geometry, poses)


def test_joint_fit_does_not_take_raised_cheeks_for_a_nod(landmarks):
    geometry, deeper, points, poses, motion = simulated(landmarks)
    ipd = geometry.ipd
    cheeks = landmarks[[41, 46]] + (0, 0.26 * ipd)
    away = ((points[:, None] - cheeks) ** 2).sum(-1).min(1)
    smile = np.exp(-0.5 * away / (0.15 * ipd) ** 2)[:, None] * (0, -1.5)
    curve = np.exp(-0.5 * ((np.arange(60) - 30) / 6) ** 2)
    joint = fitted(geometry, points, motion + curve[:, None, None] * smile, poses)
    at = unplace(joint.geometry, joint.poses[30], place(deeper, poses[30], points) + smile)
    rest = unplace(joint.geometry, joint.poses[0], place(deeper, poses[0], points))
    gain = ((at - rest) * smile).sum() / (smile**2).sum()
    assert 0.9 < gain < 1.1


def test_joint_fit_ignores_lost_points(landmarks):
    geometry, _, points, poses, motion = simulated(landmarks)
    motion[10:20, ::3] = np.nan
    joint = fitted(geometry, points, motion, poses)
    assert np.isfinite(joint.poses).all()
    assert np.isnan(joint.errors[10:20, ::3]).all() and np.nanmedian(joint.errors) < 0.2


def run(frames, landmarks, **settings):
    images = list(frames)
    options = Options(**{"fps": 60.0, "size": 128, **settings})
    blocks = align_frames(enumerate(images), images[0], reference_of(landmarks), None, options)
    return list(blocks)


def test_every_frame_is_given_out_once_in_order(landmarks, face, monkeypatch):
    monkeypatch.setattr("data.align.run.BLOCK_FRAMES", 7)
    frames = [noisy(face, i) for i in range(17)]
    frames[3] = None
    blocks = run(frames, landmarks)
    placed = [p for b in blocks for p in b.frames]
    assert [len(b.frames) for b in blocks] == [7, 7, 3]
    assert [p.index for p in placed] == list(range(17))
    assert placed[3].status == "unreadable" and placed[4].status == "ok"
    assert np.array_equal(placed[3].patch, placed[2].patch)


def test_first_frames_that_cannot_be_read_show_the_reference(landmarks, face):
    options = Options(fps=60.0, size=128)
    frames = [(0, None), (1, face), (2, face)]
    (block,) = align_frames(frames, face, reference_of(landmarks), None, options)
    assert [p.status for p in block.frames] == ["unreadable", "ok", "ok"]
    assert np.array_equal(block.frames[0].patch, block.frames[1].patch)


def test_frames_of_another_size_are_not_guessed_at(landmarks, face):
    blocks = run([face, face[:300], face], landmarks)
    assert [p.status for p in blocks[0].frames] == ["ok", "unreadable", "ok"]


def test_modes_differ_as_they_should(landmarks, face):
    frame, matrix = moved(face, 2.0, 1.0)
    centre = apply(matrix, landmarks[30]) - landmarks[30]
    for mode, follows in (("none", 0), ("first_crop", 0), ("ecc", 1), ("track", 1)):
        (block,) = run([face, frame], landmarks, mode=mode)
        geometry, pose = block.geometry, block.frames[1].pose
        seen = place(geometry, pose, landmarks[30]) - landmarks[30]
        assert seen == pytest.approx(follows * centre, abs=0.25)


def test_no_mode_without_a_face_takes_the_middle_of_the_frame(landmarks):
    geometry = square_geometry(landmarks, (240, 320), 128)
    corners = apply(invert(geometry.to_crop), np.array([[-0.5, -0.5], [127.5, 127.5]]))
    assert corners == pytest.approx(np.array([[39.5, -0.5], [279.5, 239.5]]))


def test_face_mostly_outside_is_refused(face, landmarks):
    with pytest.raises(InputError) as caught:
        run([face], landmarks - (240, 0))
    assert caught.value.code == "partial"


def test_smoothing_averages_good_frames_only():
    poses = np.tile(IDENTITY, (9, 1))
    poses[4, 2] = 100.0
    good = np.ones(9, bool)
    assert smooth_poses(poses, good, 1.0)[4, 2] == pytest.approx(39.9, abs=0.5)
    good[4] = False
    assert smooth_poses(poses, good, 1.0) == pytest.approx(np.tile(IDENTITY, (9, 1)))


def test_overlap_of_boxes():
    a = np.array([0.0, 0, 10, 10])
    assert overlap(a, a) == 1 and overlap(a, a + 20) == 0
    assert overlap(a, np.array([5.0, 0, 15, 10])) == pytest.approx(1 / 3)


class ElsewhereFinder:
    """Says the face is somewhere else from the first look on."""

    def __init__(self, box):
        self.box, self.looks = np.asarray(box, float), 0

    def detect(self, grey, scale=1.0):
        self.looks += 1
        return [Face(self.box, 1.0)]


@pytest.mark.parametrize("shift", [0, 250])
def test_a_track_on_the_wrong_thing_is_noticed(landmarks, face, monkeypatch, shift):
    reference = reference_of(landmarks)
    fresh = Reference(9, landmarks, reference.face, ())
    monkeypatch.setattr("data.align.watching.examine", lambda *_, **__: (fresh, ""))
    low, side = reference.face.box[:2], reference.face.box[2] - reference.face.box[0]
    near = reference.face.box - np.tile(np.floor(np.maximum(low - 0.6 * side, 0)), 2)
    finder = ElsewhereFinder(near + shift)
    options = Options(fps=10.0, size=128)
    frames = enumerate([face] * 14)
    blocks = list(align_frames(frames, face, reference, finder, options))
    assert finder.looks >= 2
    assert (len({b.segment.number for b in blocks}) > 1) == (shift > 0)
    assert sum(len(b.frames) for b in blocks) == 14


def test_a_lost_face_is_looked_for_patiently_once_a_second(landmarks, face, monkeypatch):
    looks = []

    def examined(finder, grey, index, *, dark, small):
        looks.append((index, dark, small))
        return None, "no_face"

    monkeypatch.setattr("data.align.watching.examine", examined)
    lost = reference_of(landmarks)
    for side, small in ((SMALL_FACE + 1, False), (SMALL_FACE - 1, True)):
        search = FaceSearch(object(), 10.0)
        known = replace(lost, face=Face(np.array([9.0, 9.0, 9.0 + side, 9.0 + side]), 1.0))
        looks.clear()
        for frame in range(0, 24, 4):
            assert search.find(face, frame, known) is None
        assert [index for index, dark, _ in looks if dark] == [0, 12]
        assert [s for index, _, s in looks if index in (0, 12)] == [True, True]
        assert {s for index, _, s in looks if index not in (0, 12)} == {small}
    looks.clear()
    search.find(face, 24, replace(lost, flags=("dark",)))
    search.find(face, 25, replace(lost, flags=("dark",)))
    assert [dark for _, dark, _ in looks] == [True, True]
