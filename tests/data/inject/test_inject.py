"""Planting into real frames: what moves is what was asked for; and measured, it is found again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.datasets import open_dataset
from data.errors import ConfigError, DatasetError, InputError
from data.flow.settings import FlowConfig
from data.inject.measure import draw, expected_field, measure, project, summarise
from data.inject.stretches import Looks, quiet_stretches
from data.inject.write import TWIN, InjectOptions, inject, parse_places, read_truth
from data.optical_flow import tvl1
from data.registration.settings import RegistrationConfig
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.workspace import Workspace
from data.synthetic import write_dataset
from data.synthetic.real_frames import activation, parse_units, plant, planted_field
from data.synthetic.subjects import make_subject
from flows.commands.inject import inject_recordings, measure_injected
from tests.fakes.steps import ingest

SIZE = (320, 240)


@pytest.fixture(scope="module")
def person() -> Any:
    return make_subject("inject", 1, SIZE)


def test_the_largest_displacement_is_the_amplitude_and_still_pixels_keep_their_bytes(
    person: Any,
) -> None:
    field = planted_field(person.landmarks, SIZE, (1, 2), 1.5)
    assert field.peak == pytest.approx(1.5, rel=1e-3)
    planted = plant(person.image, field, 1.0)
    x, y, w, h = field.box
    outside = np.ones(person.image.shape[:2], bool)
    outside[y : y + h, x : x + w] = False
    assert (planted[outside] == person.image[outside]).all() and (planted != person.image).any()
    assert plant(person.image, field, 0.0) is person.image


def test_flow_finds_the_field_that_was_planted(person: Any) -> None:
    """The direction and place are right: brows go up, and nothing else does."""
    grey = cv2.cvtColor(person.image, cv2.COLOR_BGR2GRAY)
    field = planted_field(person.landmarks, SIZE, (1, 2), 1.5)
    flow = tvl1(grey, plant(grey, field, 1.0), preset="fast", backend="numba")
    whole = np.zeros((*grey.shape, 2), np.float32)
    x, y, w, h = field.box
    whole[y : y + h, x : x + w] = field.u
    share, correlation = project(flow, whole)
    assert 0.6 < share < 1.15 and correlation > 0.85
    brow = person.landmarks[19].round().astype(int)
    assert whole[brow[1], brow[0], 1] < -0.5


def test_a_rolled_head_is_planted_along_its_own_axes(person: Any) -> None:
    turn = cv2.getRotationMatrix2D((160, 120), 20.0, 1.0)
    rolled = person.landmarks @ turn[:, :2].T + turn[:, 2]
    still = planted_field(person.landmarks, SIZE, (1,), 1.0)
    tilted = planted_field(rolled, SIZE, (1,), 1.0)
    means, places = [], []
    for field in (still, tilted):
        strong = np.hypot(field.u[..., 0], field.u[..., 1]) > 0.5
        means.append(field.u[strong].mean(axis=0))
        places.append(np.argwhere(strong).mean(axis=0)[::-1] + field.box[:2])
    np.testing.assert_allclose(places[1], turn[:, :2] @ places[0] + turn[:, 2], atol=1.0)
    cos, sin = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    np.testing.assert_allclose(means[1], np.array([[cos, sin], [-sin, cos]]) @ means[0], atol=0.05)


def test_activation_begins_and_ends_at_nothing_and_follows_uneven_seconds() -> None:
    seconds = np.array([1.0, 1.05, 1.1, 1.2, 1.23, 1.4, 1.5])
    curve = activation(seconds)
    assert curve[0] == 0 and curve[-1] == pytest.approx(0) and curve.max() == pytest.approx(1)
    assert curve.argmax() in (3, 4)
    assert curve[1] == pytest.approx(activation(np.array([0, 0.05, 0.5]))[1])


def test_wrong_wishes_are_named(person: Any) -> None:
    for word in ("", "99", "1+x"):
        with pytest.raises(ConfigError, match="action units"):
            parse_units(word)
    with pytest.raises(ConfigError, match="fold"):
        planted_field(person.landmarks, SIZE, (5,), 40.0)
    for options in ({"amplitudes": ()}, {"amplitudes": (0.0,)}, {"seconds": 0}):
        with pytest.raises(ConfigError):
            InjectOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="NAME:SECOND"):
        parse_places(["film:soon"])
    assert parse_places(["a:b:1.5", "2"]) == (("a:b", 1.5), ("", 2.0))


def test_quiet_stretches_are_the_quietest_apart_from_each_other_and_from_blinks() -> None:
    seconds = np.arange(0, 12, 0.04)
    index = np.arange(0, 300, 5)
    motion = np.full(60, 0.5)
    motion[20:30] = 0.01
    motion[40:50] = 0.02
    motion[24] = np.nan  # a blink in the middle of the stillest second
    looks = Looks(index, motion, np.full(60, 100.0))
    found = quiet_stretches(looks, seconds, 0.5, 0.5, 3)
    assert [round(m, 2) for _, _, m in found] == [0.01, 0.02, 0.02]
    for first, last, _ in found:
        touching = (seconds[index] >= seconds[first] - 0.2) & (
            seconds[index] <= seconds[last] + 0.2
        )
        assert not touching[24]
    for (_, end, _), (start, _, _) in pairwise(found):
        assert seconds[start] - seconds[end] >= 0.5 - 1e-6
    short = Looks(index[:4], motion[:4], np.full(4, 100.0))
    assert quiet_stretches(short, seconds[:20], 0.5, 0.5, 3) == []


def a_field(amplitude: float, person: Any) -> np.ndarray:
    identity = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    return expected_field(person.landmarks, "12", amplitude, identity, 320, 320, (320, 320))


def test_the_expected_field_follows_the_crop(person: Any) -> None:
    plain = a_field(1.0, person)
    half = expected_field(
        person.landmarks, "12", 1.0, np.array([[0.5, 0, 3], [0, 0.5, -2]]), 160, 160, (320, 320)
    )
    assert np.abs(half).max() == pytest.approx(0.5 * np.abs(plain).max(), rel=0.05)
    y, x = np.unravel_index(np.hypot(*plain.transpose(2, 0, 1)).argmax(), plain.shape[:2])
    at = np.unravel_index(np.hypot(*half.transpose(2, 0, 1)).argmax(), half.shape[:2])
    assert abs(at[0] - (0.5 * y - 2)) <= 2 and abs(at[1] - (0.5 * x + 3)) <= 2


def test_projection_is_the_share_of_the_field(person: Any) -> None:
    field = a_field(2.0, person)
    share, correlation = project(0.4 * field, field)
    assert share == pytest.approx(0.4, rel=1e-5) and correlation == pytest.approx(1.0)
    assert project(np.zeros_like(field), field)[0] == 0
    assert np.isnan(project(field, np.zeros_like(field))[0])


def planted_table(twin: bool) -> pd.DataFrame:
    rows = []
    for amplitude in (0.5, 1.0, 2.0):
        for n in range(4):
            own = 0.1 * (n - 1.5)
            rows.append(
                {
                    "event": f"{amplitude}#{n}", "video": "v", "aus": "12",
                    "amplitude_px": amplitude, "amplitude_ipd": amplitude / 50, "ipd_px": 50.0,
                    "status": "ok", "displacement_px": amplitude * 0.8 + own - 0.3,
                    "twin_px": own if twin else np.nan, "correlation": 0.9,
                }
            )  # fmt: skip
    rows[0] |= {"status": "no_face", "displacement_px": np.nan}
    return pd.DataFrame(rows)


def test_summary_counts_what_is_missing_and_subtracts_the_twin() -> None:
    found = summarise(planted_table(twin=True))
    table = found.by_amplitude.set_index("amplitude_px")
    assert table.planted.tolist() == [4, 4, 4] and table.reached.tolist() == [3, 4, 4]
    np.testing.assert_allclose(table.moved_px, [0.1, 0.5, 1.3])
    assert found.twins == 12 and found.level_px == pytest.approx(0.15)
    assert table.detected.tolist() == [pytest.approx(1 / 3), 1.0, 1.0]
    assert found.smallest_px == 1.0
    assert "11 of 12" in found.to_text() and draw(found)[:4] == b"\x89PNG"
    assert json.loads(json.dumps(found.to_json()))["events"][0]["displacement_px"] is None


def test_without_a_twin_nothing_is_called_detected() -> None:
    found = summarise(planted_table(twin=False))
    assert np.isnan(found.level_px) and found.by_amplitude.detected.isna().all()
    assert "plant --twin" in found.to_text()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a drawn person who hardly moves a muscle."""
    pytest.importorskip("dlib")
    root = write_dataset(
        "csv", tmp_path_factory.mktemp("own") / "set", preset="smoke", subjects=1, clips=1,
        amplitude=0.0, confounder=0.0, blink=0.0, fps=25.0, lead=(1.5, 1.5), tail=(0.3, 0.3),
        workers=1,
    )  # fmt: skip
    return next(root.glob("videos/*/*.avi"))


def test_planted_measured_and_found_again(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = InjectOptions(amplitudes=(2.0,), units=("1+2",), events=1, twin=True)
    record = inject([recording], out, options)
    assert read_truth(out) == json.loads(json.dumps(record, default=list))
    events = record["videos"][0]["events"]
    assert len(events) == 1 and record["left_out"] == []
    dataset = open_dataset("csv", out)
    assert set(dataset.videos.video) == {recording.stem, recording.stem + TWIN}
    assert not dataset.show_faces and set(dataset.ledger.action) <= {"flagged"}
    ours = dataset.events.set_index("event").loc[[e["event"] for e in events]]
    for name in ("onset", "apex", "offset"):
        assert ours[name].tolist() == [e[name] for e in events]
    first = events[0]
    for index in range(first["onset"] - 2, first["offset"] + 2):
        pair = [cv2.imread(str(out / kind / recording.stem / f"{index + 1:06d}.png"))
                for kind in ("planted", "twin")]  # fmt: skip
        inside = first["onset"] < index < first["offset"]
        assert (pair[0] != pair[1]).any() == inside, index

    workspace = Workspace(tmp_path / "ws")
    configs = {
        "align": AlignConfig(size=128),
        "registration": RegistrationConfig(),
        "apex": ApexConfig(),
        "flow": FlowConfig(size=128),
    }
    inputs = StageInputs(workspace.path, "csv", out, dict(configs))
    with workspace.lock() as token:
        ingest(workspace, "csv", out)
        for stage in configs:
            run_stage(inputs, stage, token)
    found = measure(workspace.path, record)
    assert (found.events.status == "ok").all() and found.twins == 1
    assert found.by_amplitude.gain[0] == pytest.approx(0.95, abs=0.25)
    assert found.events.detected.tolist() == [1.0] and found.smallest_px == 2.0
    assert (found.events.twin_px.abs() < 0.5).all()
    said = measure_injected([out], workspace.path, as_json=False)
    assert "1 of 1 planted events reached flow" in said
    assert (out / "measured" / "measured.png").stat().st_size > 5000


def test_the_command_writes_the_same_and_refuses_by_name(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"at": [f"{recording.stem}:0.8"], "amplitudes": [1.0], "units": ["12"], "twin": False}
    said = inject_recordings([recording, out], options, as_json=False)
    assert "1 events" in said and not (out / "twin").exists()
    truth = read_truth(out)["videos"][0]["events"]
    assert [(e["onset"], e["aus"], e["amplitude_px"]) for e in truth] == [(20, "12", 1.0)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(DatasetError, match="one that inject wrote"):
        inject([recording], tmp_path / "mine", InjectOptions())
    with pytest.raises(InputError, match="neither"):
        inject([tmp_path / "none.mp4"], tmp_path / "new", InjectOptions())
    assert not (tmp_path / "new").exists()
    with pytest.raises(DatasetError, match="no place was given"):
        inject([recording], tmp_path / "new", InjectOptions(at=(("other", 1.0),)))
    assert not (tmp_path / "new").exists()
