"""Stage registration: no event is lost to bookkeeping; what is stored brings frames together."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest

from data.align.geometry import hull_points, unplace
from data.align.modes import STATUS
from data.align.settings import AlignConfig
from data.faces import face_finder
from data.registration.events import located, onset_landmarks
from data.registration.settings import RegistrationConfig
from data.registration.stage import OPEN_FRAMES
from data.registration.store import EventCrops, event_geometry_of
from data.stages.inputs import StageInputs
from tests.fakes.align_scenes import grey_face, moved, noisy, person
from tests.fakes.clip_stages import ClipStages
from tests.fakes.planted_head import PlantedHead
from tests.fakes.steps import write_tables

pytest.importorskip("dlib")

FPS = 25.0
SMALL = {"size": 128}


def wandering(count=24, ordinal=0, start=0):
    """A face that drifts a little."""
    face = grey_face(ordinal)
    return [noisy(moved(face, 0.4 * i, 0.2 * i)[0], start + i) for i in range(count)]


def stages_of(frames, spans, folder, **settings):
    """Align and registration over frames in memory."""
    stages = ClipStages(frames, spans, folder, fps=FPS, align={**SMALL, **settings})
    stages.run("align")
    stages.run("registration")
    return stages


def reasons(stages, kind="registration"):
    return [row["reason"] for row in stages.parts[kind].ledger]


def test_what_an_event_holds(tmp_path):
    stages = stages_of(wandering(), [(4, 15)], tmp_path)
    part = stages.parts["registration"]
    assert part.status == {"e000": "ok"} and not part.ledger
    assert part.counts["e000"]["frames"] == part.counts["e000"]["ok"] == 12
    with stages.open("registration", "e000") as group:
        assert group["crops"].shape == (12, 128, 128)
        assert group["poses"].shape == (12, 8) and group["depth"].shape == (50,)
        crops = EventCrops(group)
        assert (crops.first, crops.last, crops.reference) == (4, 15, 4)
        middle = crops.take(range(4, 16))[:, 24:104, 24:104].astype(float)
        assert np.abs(middle - middle[0]).mean() < 3.5  # noise alone is 2.1
        assert group["pose_sd_px"][1:].max() < 0.3 and group["residual_px"][1:].max() < 0.3
        eyes = group["landmarks_crop"][36:48].mean(axis=0)
        assert eyes[0] == pytest.approx(63.5, abs=3)


def test_an_event_across_references_reaches_flow_and_lies_still(tmp_path):
    yaw = 0.32 * np.sin(np.linspace(0, np.pi, 36))
    path = np.column_stack([yaw, *[np.zeros(36)] * 5])
    head = PlantedHead(person().landmarks, 3)
    frames = head.film(grey_face(), path, noise=1.5)
    spans = [(4, 13), (12, 21), (20, 29)]
    stages = stages_of(frames, spans, tmp_path)
    with stages.open("align", "v") as group:
        segment = group["segment"][:]
    assert any(len(set(segment[a : b + 1])) > 1 for a, b in spans)
    assert set(stages.parts["registration"].status.values()) == {"ok"}
    stages.run("apex")
    assert set(stages.parts["apex"].status.values()) == {"ok"}
    face = hull_points(head.landmarks, 6)
    for name, (first, last) in zip(stages.names, spans, strict=True):
        with stages.open("registration", name) as group:
            geometry, poses = event_geometry_of(group), group["poses"][:]
            assert list(EventCrops(group).words).count("ok") >= 9
        seen = [unplace(geometry, q, head.move(face, path[first + k])) for k, q in enumerate(poses)]
        left = max(np.sqrt(((s - seen[0]) ** 2).sum(-1).mean()) for s in seen)
        gone = head.move(face, path[last]) - head.move(face, path[first])
        assert left < 0.02 * head.ipd
        assert left < 0.3 * max(np.sqrt((gone**2).sum(-1).mean()), 0.06 * head.ipd)


def test_a_scene_cut_inside_drops_the_event_and_outside_does_not(tmp_path):
    frames = wandering(12) + [moved(f, -30, 10)[0] for f in wandering(12, 1, 50)]
    stages = stages_of(frames, [(6, 15), (12, 20), (2, 11)], tmp_path)
    assert stages.parts["registration"].status == {
        "e000": "scene_cut",
        "e001": "ok",
        "e002": "ok",
    }
    assert "frame 12" in stages.parts["registration"].ledger[0]["detail"]


def faceless(frames, which):
    """The same frames with noise in the place of the face in some of them."""
    low, high = person().landmarks.min(axis=0) - 12, person().landmarks.max(axis=0) + 14
    x0, y0, x1, y1 = np.maximum(np.concatenate([low, high]), 0).astype(int)
    out = list(frames)
    for i in which:
        out[i] = frames[i].copy()
        out[i][y0:y1, x0:x1] = noisy(np.full((y1 - y0, x1 - x0), 120, np.uint8), i, 12)[
            : out[i].shape[0] - y0
        ]
    return out


def test_a_face_gone_for_most_of_an_event_drops_it_and_for_some_does_not(tmp_path):
    frames = faceless(wandering(40), range(14, 24))
    stages = stages_of(frames, [(12, 25), (4, 17), (22, 36)], tmp_path)
    status = stages.parts["registration"].status
    assert status["e000"] == "face_absent" and status["e001"] == "ok"
    assert status["e002"] == "ok"  # its onset shows none: the first frame that does stands in
    assert "onset_replaced" in reasons(stages)
    with stages.open("registration", "e001") as group:
        crops = EventCrops(group)
        assert crops.usable(13) and not crops.usable(16)
        assert crops.nearest(17) in (13, 14)
        assert np.isnan(group["residual_px"][12])


def test_frames_that_cannot_be_read_show_the_last_one(tmp_path):
    frames = wandering(16)
    frames[7] = frames[8] = None
    stages = stages_of(frames, [(4, 13)], tmp_path)
    with stages.open("registration", "e000") as group:
        crops = EventCrops(group)
        assert crops.status(7) == "unreadable" and not crops.usable(8)
        assert group["shown"][:].tolist() == [4, 5, 6, 6, 6, *range(9, 14)]
        assert np.isnan(group["residual_px"][3])


def test_an_events_landmarks_are_seen_in_its_onset_where_alignments_have_drifted():
    marks, finder = person().landmarks, face_finder(None)
    seen = onset_landmarks(finder, grey_face(), marks + [12.0, -5.0])
    assert seen is not None and np.hypot(*(seen - marks).T).mean() < 4
    assert onset_landmarks(finder, grey_face(), marks + [60.0, 0.0]) is None  # another face
    assert onset_landmarks(finder, grey_face(), marks * 0.6 + 60) is None
    assert onset_landmarks(finder, np.full((240, 320), 90, np.uint8), marks) is None


def test_crops_made_on_reading_are_the_stored_ones(tmp_path):
    frames = wandering(14)
    frames[6] = None
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    stored = stages_of(frames, [(2, 11)], tmp_path / "a")
    poses = ClipStages(frames, [(2, 11)], tmp_path / "b", fps=FPS, align=SMALL,
                       registration={"store": "transforms"})  # fmt: skip
    poses.run("align")
    poses.run("registration")
    with stored.open("registration", "e000") as a, poses.open("registration", "e000") as b:
        assert "crops" not in b
        made = EventCrops(b, poses.frames()).take(range(2, 12))
        assert np.array_equal(made, a["crops"][:])


@pytest.mark.parametrize("mode", ["none", "ecc", "landmarks", "first_crop"])
def test_other_modes_pass_their_own_crops_on(tmp_path, mode):
    stages = stages_of(wandering(14), [(2, 11)], tmp_path, mode=mode)
    assert stages.parts["registration"].status == {"e000": "ok"}
    with stages.open("registration", "e000") as group, h5py.File(stages.files["align"]) as align:
        assert group.attrs["method"] == "stored"
        assert np.array_equal(group["crops"][:], align["v/crops"][2:12])
        assert np.isnan(group["residual_px"][:]).all()


def test_an_event_without_an_offset_and_one_outside(tmp_path):
    spans = [(2, None), (10, 60), (-1, 5)]
    stages = stages_of(wandering(16), spans, tmp_path)
    assert stages.parts["registration"].status == {
        "e000": "ok",
        "e001": "outside_video",
        "e002": "outside_video",
    }
    assert OPEN_FRAMES > 16
    with stages.open("registration", "e000") as group:
        assert EventCrops(group).last == 15


def test_keys_follow_marks_settings_and_alignment(tmp_path):
    def key(offset=3, config=None, size=224):
        video = {"video": "v", "fps": 25.0, "num_frames": 9, "identity": "x"}
        event = {"video": "v", "event": "e", "onset": 0, "offset": offset, "type": "micro"}
        write_tables(tmp_path, "d", videos=pd.DataFrame([video]), events=pd.DataFrame([event]))
        configs = {"align": AlignConfig(size=size), "registration": config or RegistrationConfig()}
        return StageInputs(tmp_path, "d", None, configs).keys("registration")["e"]

    before = key()
    assert before == key() == key(config=RegistrationConfig(compression="none"))
    assert before not in (key(4), key(config=RegistrationConfig(points=200)), key(size=128))


def test_a_pose_taken_from_another_frame_is_no_measurement():
    measured = located(np.arange(len(STATUS)), list(STATUS))
    held = {name for name, good in zip(STATUS, measured, strict=True) if not good}
    assert held == {"align_held", "no_face", "unreadable"}
    old = [name for name in STATUS if name != "unreadable"]  # a store made before the word
    assert located(np.arange(len(old)), old).sum() == len(old) - 2
