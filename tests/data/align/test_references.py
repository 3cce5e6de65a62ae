"""References of a video: chained, returned to, carried crops; what never ends tracking."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from data.align.geometry import hull_points, unplace
from data.align.store import HOW, StoredPoses, depth_without
from data.align.views import between
from tests.fakes.align_scenes import align, grey_face, moved, noisy, person, words
from tests.fakes.planted_head import PlantedHead

pytest.importorskip("dlib")

FPS = 25.0


def turning(poses, seed=3):
    """A film of a head whose depth nobody knows: frames, the head."""
    head = PlantedHead(person().landmarks, seed)
    return head.film(grey_face(), np.asarray(poses, float), noise=1.5), head


def swing(angle, frames):
    """Yaw from 0 to `angle`, to half of it on the other side, and back; nothing else."""
    yaw = angle * np.sin(np.linspace(0, 2 * np.pi, frames))
    yaw[yaw < 0] /= 2
    return np.column_stack([yaw, *[np.zeros(frames)] * 5])


def test_a_head_that_turns_is_one_head(tmp_path):
    path = swing(0.34, 50)
    frames, head = turning(path)
    result, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        group = part["a"]
        found = words(group)
        assert found.count("ok") >= 48 and result.counts["a"]["cuts"] == 0
        assert 1 < result.counts["a"]["segments"] <= 6
        how = group["segment_how"][:]
        assert how[0] == HOW.index("first") and (how[1:] == HOW.index("chained")).all()
        assert group["segment_carries"][1:].all() and np.isfinite(group["segment_link"][1:]).all()
        order = group["segment"][:].tolist()
        assert 0 in order[order.index(1) :]  # it comes back to the first one
        stored = StoredPoses(group)
        face = hull_points(head.landmarks, 8)
        home = stored.geometry(0)
        rest = unplace(home, stored.poses[0], head.move(face, path[0]))
        left = []
        for i in range(50):
            seen = unplace(stored.geometry(i), stored.poses[i], head.move(face, path[i]))
            away = between(stored.geometry(i), home, seen) - rest
            left.append(np.sqrt((away**2).sum(-1).mean()) / head.ipd)
        nothing = [np.sqrt(((head.move(face, p) - face) ** 2).sum(-1).mean()) / head.ipd
                   for p in path]  # fmt: skip
        assert max(nothing) > 0.1 and max(left) < 0.25 * max(nothing) and left[-1] < 0.01


def test_no_jump_where_the_reference_changes(tmp_path):
    frames, _ = turning(swing(0.34, 50))
    _, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        crops = part["a/crops"][:, 24:104, 24:104].astype(float)
        change = np.abs(np.diff(crops, axis=0)).mean(axis=(1, 2))
        switches = np.flatnonzero(np.diff(part["a/segment"][:]))
    assert len(switches) >= 2
    assert change[switches].max() < 1.6 * np.median(change)


def test_a_blink_and_a_fast_smile_do_not_end_tracking(tmp_path):
    frames = [noisy(grey_face(), i) for i in range(16)]
    marks = person().landmarks
    for i in range(5, 9):  # lids and mouth as skin, for four frames
        for part in (slice(36, 42), slice(42, 48), slice(48, 68)):
            low, high = marks[part].min(axis=0) - 3, marks[part].max(axis=0) + 3
            x0, y0, x1, y1 = np.concatenate([low, high]).astype(int)
            frames[i][y0:y1, x0:x1] = frames[i][y0 - (y1 - y0) : y0, x0:x1]
    result, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        assert words(part["a"]) == ["ok"] * 16
    assert result.counts["a"]["segments"] == 1


def test_a_flash_is_followed_on_normalised_pictures(tmp_path):
    face = grey_face()
    ramp = np.linspace(0.5, 1.9, face.shape[1])  # light from one side
    frames = [noisy(moved(face, 0.4 * i, 0.2 * i)[0], i) for i in range(12)]
    for i in (6, 7):
        frames[i] = np.clip(frames[i] * ramp, 0, 255).astype(np.uint8)
    _, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        assert words(part["a"]).count("ok") == 12
        stored = StoredPoses(part["a"])
        steps = np.diff(stored.poses[:, 2:4], axis=0)
    assert np.abs(steps - (0.4, 0.2)).max() < 0.5


def test_small_and_large_faces_are_tracked_alike(tmp_path):
    import cv2

    for scale in (0.35, 2.0):
        size = (round(320 * scale), round(240 * scale))
        frames = [
            noisy(cv2.resize(moved(grey_face(size=(640, 480)), 0.8 * i, 0.4 * i)[0], size,
                             interpolation=cv2.INTER_AREA), i) for i in range(10)
        ]  # fmt: skip
        name = f"s{scale}"
        _, out, _ = align(tmp_path, {name: frames}, fps=FPS, size=128, part=f"{name}.h5")
        with h5py.File(out) as part:
            assert words(part[name]) == ["ok"] * 10
            moved_by = part[name]["poses"][-1, 2:4] - part[name]["poses"][0, 2:4]
            assert moved_by == pytest.approx(np.array([7.2, 3.6]) * scale / 2, abs=0.15)


def test_what_was_not_measured_is_nan(tmp_path):
    frames = [noisy(grey_face(), i) for i in range(8)]
    frames[3] = None
    _, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        residual = part["a/residual_px"][:]
    assert np.isnan(residual[3]) and np.isfinite(residual).sum() == 7 and np.nanmax(residual) > 0.02
    _, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128, mode="ecc", part="ecc.h5")
    with h5py.File(out) as part:
        assert np.isnan(part["a/residual_px"][:]).all()


def test_depth_can_be_had_without_some_frames(tmp_path):
    frames, _ = turning(swing(0.14, 30))
    _, out, _ = align(tmp_path, {"a": frames}, fps=FPS, size=128)
    with h5py.File(out) as part:
        group = part["a"]
        every = depth_without(group, -5, -1)
        stored = group["depth"][-1, :-1]
        assert np.abs(every - stored).max() < 0.02 and np.abs(every).max() > 0.01
        assert np.abs(depth_without(group, 10, 20) - every).max() > 1e-4
        assert not depth_without(group, 0, 29).any()
