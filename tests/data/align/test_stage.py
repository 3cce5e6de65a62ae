"""Stage align on frames on disk: what is stored, failures by name, cuts, determinism, truth."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pytest

from data.align import store as alignment_store
from data.align.geometry import apply, hull_points, unplace
from data.align.run import MAX_SHIFT
from data.align.settings import AlignConfig
from data.align.store import StoredPoses, open_crops
from data.datasets import open_dataset
from data.errors import StoreError
from data.stages.inputs import StageInputs
from data.synthetic import load_truth, write_dataset
from data.synthetic.geometry import Head
from tests.fakes.align_scenes import align, grey_face, moved, noisy, person, words
from tests.fakes.steps import one_part, write_tables

pytest.importorskip("dlib")


def drifting(count=12, ordinal=0, size=(320, 240), start=0):
    """A face that wanders and turns a little."""
    face = grey_face(ordinal, size)
    return [
        noisy(moved(face, 0.3 * i, 0.5 * np.sin(i), 0.1 * i)[0], start + i) for i in range(count)
    ]


def beyond_the_edge(share):
    """A face near the image's left border: that share of its crop lies outside."""
    centre, side = person().landmarks[27:36, 0].mean(), 2.3 * person().ipd
    return np.ascontiguousarray(grey_face()[:, round(centre - side / 2 + share * side) :])


def test_what_a_video_holds(tmp_path):
    result, out, _ = align(tmp_path, {"a": drifting()}, size=128)
    assert result.status == {"a": "ok"} and result.ledger == []
    assert result.counts["a"]["frames"] == 12 and result.counts["a"]["held"] == 0
    assert 0 < result.counts["a"]["residual_px"] < 1  # read by `models.report.people`
    with h5py.File(out) as part:
        group = part["a"]
        shapes = {name: (data.shape, str(data.dtype)) for name, data in group.items()}
        assert shapes["crops"] == ((12, 128, 128), "uint8")
        assert shapes["transforms"] == ((12, 2, 3), "float64")
        assert shapes["landmarks"] == shapes["landmarks_crop"] == ((68, 2), "float32")
        assert shapes["status"] == ((12,), "uint8") and shapes["segment"] == ((12,), "int16")
        assert shapes["inlier_ratio"] == shapes["residual_px"] == ((12,), "float32")
        assert words(group) == ["ok"] * 12 and (group["segment"][:] == 0).all()
        assert group.attrs["mode"] == "track" and group.attrs["size"] == 128
        assert group.attrs["ipd_px"] == pytest.approx(person().ipd, rel=0.05)
        assert group["landmarks_crop"][:] == pytest.approx(
            apply(group["transforms"][0], group["landmarks"][:].astype(float)), abs=0.2
        )
        middle = group["crops"][:, 16:112, 16:112].astype(float)
        assert np.abs(middle - middle[0]).mean() < 3.5  # noise alone is 2.1


def test_aligned_crops_hold_still_and_first_crop_does_not(tmp_path):
    change = {}
    for mode in ("first_crop", "track"):
        _, out, _ = align(tmp_path, {"a": drifting(20)}, size=128, mode=mode, part=f"{mode}.h5")
        with h5py.File(out) as part:
            middle = part["a/crops"][:, 16:112, 16:112].astype(float)
            change[mode] = np.abs(middle[-1] - middle[0]).mean()
    assert change["track"] < 0.4 * change["first_crop"]


def test_colour_crops_are_rgb(tmp_path):
    frames = [person().image] * 3  # BGR, as OpenCV writes them
    _, out, _ = align(tmp_path, {"a": frames}, colour=True, size=128)
    with h5py.File(out) as part:
        crop = part["a/crops"][0].astype(float)
    assert crop.shape == (128, 128, 3)
    assert crop[64, 30:98, 0].mean() > crop[64, 30:98, 2].mean() + 10  # skin is red


@pytest.mark.parametrize("colour", [False, True])
def test_transforms_only_gives_the_very_same_crops(tmp_path, colour):
    frames = [cv2.cvtColor(f, cv2.COLOR_GRAY2BGR) if colour else f for f in drifting(8)]
    frames[4] = None
    settings = {"size": 128, "colour": colour}
    align(tmp_path, {"a": frames}, **settings, part="stored.h5")
    _, out, inputs = align(tmp_path, {"a": frames}, store="transforms", **settings)
    with h5py.File(out) as part, h5py.File(tmp_path / "stored.h5") as stored:
        assert "crops" not in part["a"]
        assert out.stat().st_size < 60_000
        made = open_crops(part["a"], inputs.recordings.frames("a"))
        assert made.shape == stored["a/crops"].shape and len(made) == 8
        assert np.array_equal(made[:], open_crops(stored["a"])[:])
        assert np.array_equal(made[-1], stored["a/crops"][7])
        assert np.array_equal(made[[2, 4]], stored["a/crops"][[2, 4]])
        with pytest.raises(StoreError, match="FrameSource"):
            open_crops(part["a"])


@pytest.mark.parametrize("mode", ["none", "whole", "first_crop", "landmarks_smooth", "ecc"])
def test_every_mode_gives_the_same_crops_either_way(tmp_path, mode):
    videos, settings = {"a": drifting(6)}, {"mode": mode, "size": 128}
    align(tmp_path, videos, **settings, part="stored.h5")
    _, out, inputs = align(tmp_path, videos, store="transforms", **settings)
    with h5py.File(out) as part, h5py.File(tmp_path / "stored.h5") as stored:
        made = open_crops(part["a"], inputs.recordings.frames("a"))
        assert np.array_equal(made[:], stored["a/crops"][:])


def test_every_compression_is_lossless(tmp_path):
    digests = set()
    for name in ("none", "lzf", "gzip"):
        _, out, _ = align(tmp_path, {"a": drifting(4)}, size=128, compression=name, part=name)
        with h5py.File(out) as part:
            digests.add(part["a/crops"][:].tobytes())
    assert len(digests) == 1


def test_the_same_bytes_every_time(tmp_path):
    videos = {"a": drifting(30), "b": drifting(6, 1)}
    first, _, _ = align(tmp_path, videos, part="one.h5")
    second, _, _ = align(tmp_path, videos, part="two.h5")
    assert first.digest == second.digest


@pytest.mark.parametrize("mode", ["none", "landmarks", "landmarks_smooth", "ecc"])
def test_other_modes_fill_the_same_store(tmp_path, mode):
    result, out, _ = align(tmp_path, {"a": drifting(8)}, mode=mode, size=128)
    assert result.status["a"] == "ok"
    with h5py.File(out) as part:
        assert part["a/crops"].shape == (8, 128, 128)
        assert np.isfinite(part["a/transforms"][:]).all()
        assert words(part["a"]) == ["assumed_crop" if mode == "none" else "ok"] * 8


def test_failures_are_named_and_spoil_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr("data.align.modes.EXCLUDED", 0.15)  # at 0.25 the pose is bad as well
    flat = np.full((240, 320), 90, np.uint8)
    tilted = moved(grey_face(size=(640, 480)), 0, 0, roll=38)[0]
    edge = beyond_the_edge(0.17)
    videos = {
        "good": drifting(3),
        "flat": [flat] * 3,
        "broken": [None, None],
        "tilted": [tilted] * 2,
        "edge": [edge] * 2,
    }
    result, out, _ = align(tmp_path, videos, size=128)
    assert result.status["good"] == "ok"
    assert result.status["flat"] == "no_face"
    assert result.status["broken"] == "unreadable_video"
    assert result.status["tilted"] == "bad_pose"
    assert result.status["edge"] == "partial"
    dropped = {r["unit"] for r in result.ledger if r["action"] == "dropped"}
    assert dropped == set(videos) - {"good"}
    with h5py.File(out) as part:
        assert list(part) == ["good"]


def test_flagged_frames_have_words_and_ledger_rows(tmp_path):
    dark = [np.round(f * 0.05).astype(np.uint8) for f in drifting(4)]
    holes = drifting(9)
    holes[0] = holes[5] = None
    inset = beyond_the_edge(0.17)
    result, out, _ = align(tmp_path, {"dark": dark, "holes": holes, "edge": [inset] * 3}, size=128)
    assert set(result.status.values()) == {"ok"}
    reasons = {(r["unit"], r["reason"]) for r in result.ledger}
    assert {("dark", "dark"), ("holes", "unreadable"), ("edge", "partial")} <= reasons
    assert all(r["action"] == "flagged" for r in result.ledger)
    with h5py.File(out) as part:
        assert words(part["dark"]) == ["dark"] * 4
        assert words(part["holes"]) == ["unreadable", *["ok"] * 4, "unreadable", *["ok"] * 3]
        assert words(part["edge"]) == ["partial"] * 3
        held = part["holes/crops"]
        assert np.array_equal(held[5], held[4])
        assert part["holes"].attrs["reference_index"] == 1


def test_provided_crops_without_a_detectable_face_are_assumed(tmp_path):
    truth = person(0, (640, 480))
    x0, y0 = (truth.landmarks[30] - 1.0 * truth.ipd).astype(int)
    side = int(2.0 * truth.ipd)
    tight = grey_face(0, (640, 480))[y0 : y0 + side, x0 : x0 + side]
    tight = cv2.GaussianBlur(cv2.resize(tight, (96, 96)), (0, 0), 3.5)
    result, out, _ = align(tmp_path, {"a": [tight] * 3}, size=128, provided_crop=True)
    assert result.status["a"] == "ok"
    with h5py.File(out) as part:
        assert words(part["a"])[0] == "assumed_crop"
    assert any(r["reason"] == "assumed_crop" for r in result.ledger)


def test_a_cut_starts_a_segment(tmp_path):
    frames = drifting(8) + [moved(f, -30, 10)[0] for f in drifting(8, 1, start=50)]
    result, out, _ = align(tmp_path, {"a": frames}, size=128)
    with h5py.File(out) as part:
        group = part["a"]
        assert group["segment"][:].tolist() == [0] * 8 + [1] * 8
        assert group["segment_reference"][:].tolist() == [0, 8]
        assert words(group) == ["ok"] * 16
        eyes = apply(group["transforms"][8], group["segment_landmarks"][1][36:48])
        assert eyes.mean(axis=0)[0] == pytest.approx(63.5, abs=6)
        assert group["cuts"][:].tolist() == [8]
        assert np.isnan(group["segment_link"][1]).all()  # nothing joins two scenes
    assert [r["reason"] for r in result.ledger] == ["scene_cut"]


def test_a_lost_face_is_held_and_found_again(tmp_path):
    wall = [noisy(np.full((240, 320), 120, np.uint8), i) for i in range(14)]
    frames = drifting(6) + wall + [moved(f, 25, 12)[0] for f in drifting(12)]
    result, out, _ = align(tmp_path, {"a": frames}, size=128)
    with h5py.File(out) as part:
        found = words(part["a"])
        assert found[:6] == ["ok"] * 6 and set(found[6:20]) == {"no_face"}
        assert found[-1] == "ok" and found[20:] == sorted(found[20:])  # within 0.1 s
        assert part["a/segment"][-1] == 1
        assert part["a/cuts"][:].tolist() == [6]
    assert {r["reason"] for r in result.ledger} == {"no_face", "scene_cut"}


def test_a_face_that_goes_and_comes_is_no_new_scene(tmp_path):
    x0, y0 = (person().landmarks.min(axis=0) - 12).astype(int)
    x1, y1 = (person().landmarks.max(axis=0) + 12).astype(int)
    gone = []
    for i, frame in enumerate(drifting(14)):
        frame[y0:y1, x0:x1] = noisy(np.full((y1 - y0, x1 - x0), 120, np.uint8), i)
        gone.append(frame)
    back = [moved(f, 6, 3)[0] for f in drifting(10)]
    result, out, _ = align(tmp_path, {"a": drifting(6) + gone + back}, size=128)
    with h5py.File(out) as part:
        found = words(part["a"])
        assert found[:6] == ["ok"] * 6 and found[-1] == "ok"
        assert set(found[15:20]) == {"no_face"}
        assert not len(part["a/cuts"])
    assert "scene_cut" not in {r["reason"] for r in result.ledger}


def test_large_motion_gets_a_new_reference(tmp_path):
    face = grey_face()
    frames = [noisy(moved(face, 1.2 * i, 0)[0], i) for i in range(24)]
    _, out, _ = align(tmp_path, {"a": frames}, size=128)
    with h5py.File(out) as part:
        assert words(part["a"]) == ["ok"] * 24
        starts = part["a/segment_reference"][:]
    assert 1 < len(starts) <= 3
    assert abs(1.2 * starts[1] - MAX_SHIFT * person().ipd) < 3


def test_long_videos_come_in_blocks_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("data.align.run.BLOCK_FRAMES", 10)
    _, out, _ = align(tmp_path, {"a": drifting(25)}, size=128)
    with h5py.File(out) as part:
        group = part["a"]
        assert group["depth_of"][:].tolist() == [0] * 10 + [1] * 10 + [2] * 5
        stored = StoredPoses(group)
        face = group["landmarks"][:].astype(float)
        path = [unplace(stored.geometry(i), stored.poses[i], face) for i in range(25)]
    # What one frame's face would have to move by to look like the next one's: the drift itself.
    steps = np.abs(np.diff(np.array(path), axis=0)).mean(axis=(1, 2))
    assert steps[[9, 19]].max() < 1.5 * steps.max(where=~np.isin(np.arange(24), [9, 19]), initial=0)


def test_key_follows_settings_and_predictor_not_paths(tmp_path):
    _, _, inputs = align(tmp_path, {"a": drifting(2)}, size=128)
    keys = {}
    one, same, other = (tmp_path / f"{name}.dat" for name in ("one", "same", "other"))
    one.write_bytes(b"a model"), same.write_bytes(b"a model"), other.write_bytes(b"another")
    for name, config in {
        "default": AlignConfig(),
        "size": AlignConfig(size=128),
        "a file": AlignConfig(landmark_model=one),
        "the same elsewhere": AlignConfig(landmark_model=same),
        "another file": AlignConfig(landmark_model=other),
        "not looked for": AlignConfig(landmark_model=other, mode="whole"),
        "faceless": AlignConfig(mode="whole"),
        "stored smaller": AlignConfig(compression="none"),
    }.items():
        view = StageInputs(inputs.workspace, inputs.dataset, inputs.root, {"align": config})
        keys[name] = view.keys("align")["a"]
    assert keys["a file"] == keys["the same elsewhere"] != keys["another file"]
    assert keys["default"] == keys["stored smaller"] and keys["not looked for"] == keys["faceless"]
    assert len({keys[n] for n in ("default", "size", "a file", "faceless")}) == 4


def test_filters_are_ones_every_hdf5_has():
    assert set(alignment_store.FILTERS) == {"gzip", "lzf", "none"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six clips of three people, the benchmark's setting: JPEG 92, amplitude 1.5 px."""
    root = tmp_path_factory.mktemp("clips") / "casme2"
    return write_dataset(
        "casme2", root, preset="default", seed=5, workers=1, subjects=3, clips=2,
        amplitude=1.5, noise=1.5, head=2.0, fps=60.0, confounder=0.3, blink=0.0,
    )  # fmt: skip


def residual(root, mode, folder):
    """RMS over clips of the head motion left in the aligned face, and of its steps; pooled gain.

    Pooled: over all clips' displacements at once, for a 0.4 px expression's own gain is noise.
    """
    config = AlignConfig(mode=mode, size=128, store="transforms")
    dataset = open_dataset("casme2", root)
    inputs = StageInputs(folder, "casme2", root, {"align": config})
    write_tables(folder, "casme2", videos=dataset.videos, frames=dataset.frames)
    out = folder / f"{mode}.h5"
    one_part(inputs, "align", out)
    truth = load_truth(root)
    left, steps, gains = [], [], []
    with h5py.File(out) as part:
        for name in truth.videos:
            video, stored = truth.video(name), StoredPoses(part[name])
            face = hull_points(video.landmarks, 12)
            head = Head.of(video.landmarks, video.ipd, tuple(video.record["size"]))
            apex = int(video.expressions[0]["apex"])
            smile = video.project(face, apex) - face - head.shift(face, video.pose[apex])

            def aligned(points, i, stored=stored, head=head, video=video):
                seen = points + head.shift(points, video.pose[i])
                return unplace(stored.geometry(i), stored.poses[i], seen)

            path = np.array([aligned(face, i) for i in range(len(stored.poses))])
            left.append(((path - path[0]) ** 2).sum(-1).mean())
            steps.append((np.diff(path, axis=0) ** 2).sum(-1).mean())
            shown = aligned(face + smile, apex) - path[0]
            gains.append(((shown * smile).sum(), (smile**2).sum()))
    return np.sqrt(np.mean(left)), np.sqrt(np.mean(steps)), np.divide(*np.sum(gains, axis=0))


def test_track_holds_heads_still_and_keeps_expressions(clips, tmp_path):
    left, steps, gain = residual(clips, "track", tmp_path)
    assert left < 0.25 and steps < 0.08
    assert 0.95 < gain < 1.05
    shaky, shake, _ = residual(clips, "landmarks", tmp_path)
    assert shaky > 2 * left and shake > 4 * steps
