"""ME-TST's motion features: against the plain transcription, known motion, failures, sharing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from data.errors import InputError
from data.motion.features import (
    HELD_FRAME,
    LATE_REFERENCE,
    NO_FACE,
    OK,
    CropBox,
    MotionOptions,
    dlib_face,
    motion_features,
    window_count,
)
from data.motion.rois import COARSE10, MULTI36
from tests.fakes.face_scenes import ListSource, known_landmarks, moved_face, still_face
from tests.references import motion as motion_reference

K = 6
OPTIONS = MotionOptions(k=K)


@functools.cache
def _drifting(frames: int = 12, step: float = 0.7, seed: int = 1) -> tuple[Any, ...]:
    """A drifting, smiling, noisy face."""
    drift = np.cumsum(np.random.default_rng(seed).normal(0, step, (frames, 2)), axis=0)
    smile = np.sin(np.linspace(0, np.pi, frames)) * 2
    return tuple(
        moved_face(
            (float(x), float(y)), {48: (-s, -s), 54: (s, -s), 20: (0.0, -s)}, noise=1.5, seed=i
        )
        for i, ((x, y), s) in enumerate(zip(drift, smile, strict=True))
    )


def _both(frames: Any, options: MotionOptions, find: Any = known_landmarks) -> tuple[Any, Any]:
    view = range(len(frames))
    fast = motion_features(ListSource(list(frames)), view, options, find)  # type: ignore[arg-type]
    slow = motion_reference.motion_features(
        ListSource(list(frames)),  # type: ignore[arg-type]
        view,
        options,
        find,
    )
    return fast, slow


def _assert_same(fast: Any, slow: Any) -> None:
    np.testing.assert_array_equal(fast.status, slow.status)
    np.testing.assert_array_equal(fast.features, slow.features)


# ------------------------------------------------------------------ the plain transcription agrees


@pytest.mark.parametrize("roi_set", ["coarse10", "multi36"])
@pytest.mark.parametrize("clamp", [True, False])
def test_equals_the_plain_transcription(roi_set: Any, clamp: bool) -> None:
    options = MotionOptions(k=K, roi_set=roi_set, clamp=clamp)
    fast, slow = _both(_drifting(), options)
    assert fast.features.shape == (3, options.channels, K)
    assert fast.features.dtype == np.float32
    assert (fast.status == OK).all()
    _assert_same(fast, slow)


def test_tvl1_equals_the_plain_transcription_and_sees_the_smile() -> None:
    frames = [moved_face(bumps={48: (-s, -s), 54: (s, -s)}) for s in (0, 1, 2, 3, 2, 1)]
    fast, slow = _both(frames, MotionOptions(k=K, flow="tvl1"))
    _assert_same(fast, slow)
    farneback, _ = _both(frames, OPTIONS)
    assert (fast.features != farneback.features).any()
    up = -fast.features[0, 2 * COARSE10.index("mouth") + 1]
    assert up.argmax() == 3
    assert up[3] > 1.0


def test_equals_the_plain_transcription_when_the_head_runs_away() -> None:
    frames = _drifting(frames=9, step=5.0, seed=4)
    fast, slow = _both(frames, OPTIONS)
    assert np.abs(fast.features).max() > 0.5
    _assert_same(fast, slow)


def test_equals_the_plain_transcription_at_the_image_border() -> None:
    cut = tuple(np.ascontiguousarray(f[150:, 230:]) for f in _drifting(frames=6))

    def find(grey: Any) -> Any:
        return None if grey.shape == (320, 320) else known_landmarks(grey) - (230, 150)

    fast, slow = _both(cut, MotionOptions(k=K, roi_set="multi36"), find)
    assert (fast.status == OK).all()
    _assert_same(fast, slow)


def test_equals_the_plain_transcription_with_lost_faces_and_frames() -> None:
    frames: list[Any] = list(_drifting(frames=12))
    frames[4] = frames[9] = None
    blank = np.full_like(frames[0], 90)
    frames[0] = blank

    def find(grey: Any) -> Any:
        return None if grey.std() < 1 else known_landmarks(grey)

    fast, slow = _both(frames, OPTIONS, find)
    assert fast.status.tolist() == [HELD_FRAME, HELD_FRAME, HELD_FRAME]
    _assert_same(fast, slow)


# -------------------------------------------------------------------------------- what it measures


def test_a_translated_face_has_no_roi_motion() -> None:
    path = [(0.0, 0.0), (2.0, 1.0), (5.0, -3.0), (9.0, 2.0), (7.0, 4.0), (4.0, 6.0)]
    frames = [moved_face(shift) for shift in path]
    motion = motion_features(ListSource(frames), range(6), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    assert np.abs(motion.features).max() < 0.25


def test_a_smile_moves_the_mouth_and_nothing_else() -> None:
    frames = [moved_face(bumps={48: (-s, -s), 54: (s, -s)}) for s in (0, 1, 2, 3, 2, 1)]
    motion = motion_features(ListSource(frames), range(6), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    up = -motion.features[0, 1::2]
    mouth = COARSE10.index("mouth")
    assert up[mouth].argmax() == 3
    assert up[mouth, 3] > 1.0
    assert np.abs(up[:2]).max() < 0.2


def test_a_smile_is_seen_at_both_mouth_corners_outward() -> None:
    frames = [moved_face(bumps={48: (-s, -s), 54: (s, -s)}) for s in (0, 1, 2, 3, 3, 3)]
    options = MotionOptions(k=K, roi_set="multi36")
    features = motion_features(ListSource(frames), range(6), options, known_landmarks).features[0]  # type: ignore[arg-type]
    left, right = MULTI36.index("mouth_corner_left"), MULTI36.index("mouth_corner_right")
    assert features[2 * left, -1] < -1.0 < 1.0 < features[2 * right, -1]


def test_the_first_column_of_each_window_is_zero() -> None:
    motion = motion_features(ListSource(list(_drifting())), range(12), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    assert not motion.features[:, :, 0].any()
    assert motion.features[:, :, 1:].any(axis=(1, 2)).all()


def test_a_window_depends_on_its_own_frames_only() -> None:
    frames = list(_drifting())
    whole = motion_features(ListSource(frames), range(12), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    alone = motion_features(ListSource(frames), range(3, 9), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole.features[1], alone.features[0])


def test_twice_gives_the_same() -> None:
    first, second = (
        motion_features(ListSource(list(_drifting())), range(12), OPTIONS, known_landmarks)  # type: ignore[arg-type]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.features, second.features)


# ----------------------------------------------------------------------------- windows and failures


@pytest.mark.parametrize(
    ("frames", "k", "windows"), [(29, 30, 0), (30, 30, 1), (44, 30, 1), (45, 30, 2), (100, 50, 3)]
)
def test_window_count(frames: int, k: int, windows: int) -> None:
    assert window_count(frames, k) == windows


def test_frames_of_the_remainder_are_not_read() -> None:
    source = ListSource(list(_drifting())[:8])
    motion = motion_features(source, range(8), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    assert len(motion.status) == 1
    assert max(source.reads) == 5


def test_a_video_shorter_than_a_window_is_too_short() -> None:
    source = ListSource(list(_drifting())[:5])
    for run in (motion_features, motion_reference.motion_features):
        with pytest.raises(InputError, match="at least k = 6") as caught:
            run(source, range(5), OPTIONS, known_landmarks)  # type: ignore[arg-type]
        assert caught.value.code == "too_short"


def test_an_odd_window_is_refused() -> None:
    with pytest.raises(InputError, match="even window length"):
        motion_features(
            ListSource(list(_drifting())),  # type: ignore[arg-type]
            range(12),
            MotionOptions(k=5),
            known_landmarks,
        )


def test_without_a_face_all_is_zero_and_each_frame_searched_once() -> None:
    asked = []

    def find(grey: Any) -> None:
        asked.append(grey)

    source = ListSource([np.full((60, 80), i, np.uint8) for i in range(12)])
    motion = motion_features(source, range(12), OPTIONS, find)  # type: ignore[arg-type]
    assert (motion.status == NO_FACE).all()
    assert not motion.features.any()
    assert len(asked) == 12
    assert source.reads == list(range(12))


def test_a_late_face_becomes_the_reference() -> None:
    frames = list(_drifting(frames=6))
    frames[0] = frames[1] = np.zeros_like(frames[0])

    def find(grey: Any) -> Any:
        return known_landmarks(grey) if grey.any() else None

    motion = motion_features(ListSource(frames), range(6), OPTIONS, find)  # type: ignore[arg-type]
    assert motion.status.tolist() == [LATE_REFERENCE]
    assert not motion.features[0, :, :3].any()
    assert motion.features[0, :, 3].any()


def test_an_unreadable_frame_repeats_the_column_before() -> None:
    frames: list[Any] = list(_drifting(frames=6))
    frames[3] = None
    motion = motion_features(ListSource(frames), range(6), OPTIONS, known_landmarks)  # type: ignore[arg-type]
    assert motion.status.tolist() == [HELD_FRAME]
    np.testing.assert_array_equal(motion.features[0, :, 3], motion.features[0, :, 2])
    assert (motion.features[0, :, 4] != motion.features[0, :, 3]).any()


def test_a_filled_gap_is_decoded_once() -> None:
    source = ListSource(list(_drifting(frames=6)))
    view = [0, 1, 2, 3, 3, 3, 4, 5]
    motion = motion_features(source, view, MotionOptions(k=8), known_landmarks)  # type: ignore[arg-type]
    assert source.reads == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(motion.features[0, :, 3], motion.features[0, :, 5], atol=0.3)


def test_a_degenerate_face_is_no_face() -> None:
    points = np.zeros((68, 2), np.int64)
    assert CropBox.around(points) is None
    motion = motion_features(
        ListSource(list(_drifting(frames=6))),  # type: ignore[arg-type]
        range(6),
        OPTIONS,
        lambda grey: points,
    )
    assert motion.status.tolist() == [NO_FACE]


def test_dlib_finds_the_face() -> None:
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    face, landmarks = still_face()
    found = dlib_face()(face)
    assert found is not None
    assert found.dtype == np.int64
    assert np.abs(found[[39, 42, 29, 30]] - landmarks[[39, 42, 29, 30]]).max() < 8
    assert dlib_face()(np.zeros((200, 200), np.uint8)) is None
