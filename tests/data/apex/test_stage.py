"""The apex stage: labels win, the rest is spotted, and every way an event can be unusable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.apex.stage import STAGE
from data.errors import InputError
from data.registration.events import STATUS
from data.registration.settings import RegistrationConfig
from data.stages.contract import Unit
from data.stages.inputs import StageInputs
from data.stages.parts import PartWriter
from data.stages.stores import read_table
from tests.data.apex.test_spotting import _event, _landmarks
from tests.fakes.registered import fill_event
from tests.fakes.steps import write_tables

PEAK, LENGTH, START = 18, 40, 7


class FakeInputs:
    """One registered event of a video, from its frame 7 on, with 5 still frames at the end."""

    dataset = "toy"

    def __init__(self, folder: Path) -> None:
        crops = _event(PEAK, LENGTH)
        crops = np.concatenate([crops, crops[-1:].repeat(5, 0)])
        self._file = h5py.File(folder / "registration.h5", "w")
        self.group = self._file.create_group("e")
        self.status = np.zeros(len(crops), np.uint8)
        fill_event(self.group, crops, first=START, landmarks=_landmarks())

    @contextmanager
    def open(self, stage: str, unit: str) -> Iterator[h5py.Group]:
        yield self.group

    def frames(self) -> None:
        return None

    def mark(self, frames: slice, status: str) -> None:
        """Give frames of the video a status."""
        self.status[frames.start - START : frames.stop - START] = STATUS.index(status)
        self.group["status"][:] = self.status


@pytest.fixture
def inputs(tmp_path: Path) -> FakeInputs:
    return FakeInputs(tmp_path)


def _run(
    inputs: Any, config: ApexConfig | None = None, **marks: int | None
) -> tuple[PartWriter, dict[str, Any] | None]:
    payload: dict[str, Any] = {"onset": START, "apex": None, "offset": START + LENGTH - 1}
    unit = Unit("e", "v", {**payload, "fps": 100.0, **marks})
    path = Path(inputs.group.file.filename).with_name("part.parquet")
    part = PartWriter(path, STAGE, "toy")
    try:
        STAGE.process(unit, inputs, config or ApexConfig(), part)
    except InputError as error:
        part.drop(unit.id, error.code, str(error))
    part.close([unit], config or ApexConfig())
    table = read_table(path)
    return part, None if table.empty else table.iloc[0].to_dict()


def test_a_missing_label_is_spotted(inputs: FakeInputs) -> None:
    part, row = _run(inputs)
    assert row is not None
    assert row["source"] == "spotted"
    assert abs(row["apex"] - (START + PEAK)) <= 1
    assert np.isnan(row["label_apex"])
    assert np.isnan(row["error_frames"])
    assert row["confidence"] > 1.5
    assert (len(row["curve"]), row["curve_start"]) == (LENGTH, START)
    assert part.counts["e"] == {"source": "spotted", "error_frames": None, "middle_error": None}


@pytest.mark.parametrize("method", ["flow_peak", "lbp", "frequency", "middle", "label"])
def test_a_label_is_never_overwritten(inputs: FakeInputs, method: Any) -> None:
    label = START + 30
    part, row = _run(inputs, ApexConfig(method=method), apex=label)
    assert row is not None
    assert (row["apex"], row["source"], row["label_apex"]) == (label, "label", label)
    assert row["middle_error"] == (2 * START + LENGTH - 1) // 2 - label
    if method in ("flow_peak", "label"):
        assert abs(row["error_frames"] - (PEAK - 30)) <= 1
    assert not part.ledger


def test_a_label_outside_its_event_is_flagged_and_spotted(inputs: FakeInputs) -> None:
    part, row = _run(inputs, apex=START - 2)
    assert row is not None
    assert row["source"] == "spotted"
    assert [(r["reason"], r["action"]) for r in part.ledger] == [("apex_outside", "flagged")]


def test_middle_says_so(inputs: FakeInputs) -> None:
    _, row = _run(inputs, ApexConfig(method="middle"))
    assert row is not None
    assert (row["apex"], row["source"]) == ((2 * START + LENGTH - 1) // 2, "middle")


def test_an_event_of_three_frames_gets_its_middle(inputs: FakeInputs) -> None:
    _, row = _run(inputs, offset=START + 2)
    assert row is not None
    assert (row["apex"], row["source"]) == (START + 1, "middle")


def test_a_label_without_offset_is_kept(inputs: FakeInputs) -> None:
    _, row = _run(inputs, apex=START + 5, offset=None)
    assert row is not None
    assert (row["apex"], row["source"], len(row["curve"])) == (START + 5, "label", 0)


@pytest.mark.parametrize(
    ("marks", "method", "reason"),
    [
        ({"onset": None}, "flow_peak", "no_onset"),
        ({"offset": None}, "flow_peak", "no_offset"),
        ({}, "label", "no_apex_label"),
    ],
)
def test_unusable_events_are_dropped(
    inputs: FakeInputs, marks: dict[str, int | None], method: Any, reason: str
) -> None:
    part, row = _run(inputs, ApexConfig(method=method), **marks)
    assert row is None
    assert part.status == {"e": reason}
    assert part.ledger[-1]["action"] == "dropped"


def test_held_frames_are_left_out(inputs: FakeInputs) -> None:
    inputs.group["crops"][16:20] = 0
    inputs.mark(slice(START + 16, START + 20), "unreadable")
    _, row = _run(inputs)
    assert row is not None
    assert abs(row["apex"] - (START + PEAK)) <= 1


def test_too_few_usable_frames(inputs: FakeInputs) -> None:
    inputs.mark(slice(START + 2, START + LENGTH - 2), "no_face")
    part, row = _run(inputs)
    assert row is None
    assert part.status == {"e": "face_absent"}
    _, row = _run(inputs, apex=START + 9)
    assert row is not None
    assert row["source"] == "label"
    assert np.isnan(row["error_frames"])


def test_keys_follow_marks_and_upstream(tmp_path: Path) -> None:
    def keys(size: int = 224, **marks: Any) -> dict[str, str]:
        row = {"video": "v", "event": "e", "onset": 7, "apex": None, "offset": 46, "type": "micro"}
        video = {"video": "v", "fps": 100.0, "num_frames": 60, "identity": "x"}
        write_tables(
            tmp_path, "d", videos=pd.DataFrame([video]), events=pd.DataFrame([{**row, **marks}])
        )
        configs = {
            "align": AlignConfig(size=size),  # type: ignore[arg-type]
            "registration": RegistrationConfig(),
            "apex": ApexConfig(),
        }
        view = StageInputs(tmp_path, "d", None, configs)
        assert view.units("apex")[0].facts["apex"] is marks.get("apex")
        return view.keys("apex")

    before = keys()
    assert keys() == before
    assert before not in (keys(offset=47), keys(size=128), keys(apex=20))
