"""A plan before the first run, after one changed cell, and what it says of hours."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import InputError
from data.settings import Settings
from data.stages import rates
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter
from data.stages.rates import Rate
from flows.runs import planner
from tasks.carriers import LocalCarrier
from tasks.context import PlainExecutor, open_context
from tasks.foreseeing import MEASURED
from tasks.request import RunRequest
from tasks.steps import run_steps
from tests.fakes import dataset_trees as trees
from tests.fakes.steps import register

RECIPE = """
data: [samm]
labels: emotion
split: {kind: subject_kfold, k: 2}
also: [toy]
model: {name: hsta}
"""


class ToyConfig(Settings):
    """Settings of the toy stage."""

    scale: float = 1.0


def _list(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
    for event in inputs.recordings.events.values():
        yield Unit(event.id, event.video, event.marks)


def _make(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
    if unit.facts["onset"] is None:
        raise InputError(unit.id, expected="an onset", got="none", code="no_onset")
    part.group(unit.id)["x"] = np.full(1000, config.scale)
    part.done(unit.id)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny SAMM, a recipe, an event stage, and rates of its own."""
    stage = Stage("toy", 1, ("ingest",), ".h5", "event", _list, _make)
    register(monkeypatch, stage, ToyConfig)
    monkeypatch.setenv("APEXFLOW_RATES", str(tmp_path / "rates.json"))
    trees.samm(tmp_path / "samm")
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path


def asked(lab: Path, **words: Any) -> RunRequest:
    return RunRequest(
        recipe=str(lab / "toy.yaml"),
        workspace=str(lab / "ws"),
        data={"samm": str(lab / "samm")},
        **words,
    )


def run(lab: Path, *stages: str) -> None:
    with open_context(asked(lab, stages=list(stages)), PlainExecutor(LocalCarrier(0))) as context:
        run_steps(context)


def planned(lab: Path, **words: Any) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in planner.plan(asked(lab, **words))}


def test_an_empty_workspace_is_planned_through_and_left_empty(lab: Path) -> None:
    rows = planned(lab)
    counts = {name: (row["units"], row["missing"]) for name, row in rows.items()}
    for stage in ("align", "registration", "apex", "toy"):
        assert counts[stage] == (4, 4), "units come from the sheets"
    assert counts["train"] == (2, 2) and counts["evaluate"] == (2, 2)
    assert rows["train"]["run"].startswith(str(lab / "ws" / "runs"))
    assert not (lab / "ws").exists()


def test_one_changed_cell_is_one_unit(lab: Path) -> None:
    run(lab, "ingest", "toy")
    before = {p: p.stat().st_mtime_ns for p in (lab / "ws").rglob("*")}
    rows = [list(row) for row in trees.SAMM_ROWS]
    rows[0][4] += 1  # its apex
    trees.samm_sheet(lab / "samm", [tuple(row) for row in rows])
    found = planned(lab)
    assert found["ingest"]["reasons"] == {"files or sheets changed": 1}
    assert (found["toy"]["units"], found["toy"]["fresh"], found["toy"]["stale"]) == (4, 3, 1)
    assert found["toy"]["reasons"] == {"inputs changed": 1}
    assert found["align"]["missing"] == 4 and found["train"]["missing"] == 2
    assert {p: p.stat().st_mtime_ns for p in (lab / "ws").rglob("*")} == before


def test_time_is_told_from_what_this_machine_took(lab: Path) -> None:
    assert planned(lab)["toy"]["seconds"] is None, "unmeasured is not 0"
    run(lab, "ingest", "toy")
    kept = json.loads((lab / "rates.json").read_text())
    [(_, entry)] = [item for own in kept.values() for item in own.items() if "toy" in item[0]]
    assert entry["work"] == 4 and entry["seconds"] > 0 and entry["peak_mb"] > 1
    row = planned(lab, force=["toy"])["toy"]
    assert row["seconds"] == pytest.approx(entry["seconds"], abs=0.06)
    assert row["bytes"] == pytest.approx(entry["bytes"], abs=2)
    assert row["rate"] == rates.SAME
    row = planned(lab, overrides={"toy.scale": 2.0})["toy"]
    assert row["rate"] == rates.OTHER
    text = planner.to_text(planner.plan(asked(lab, force=["toy"])), asked(lab))
    assert (
        "GB free" in text and "unknown: align samm" in text and "next: python -m flows run" in text
    )


@pytest.mark.parametrize(
    ("at_once", "workers", "hours"),
    [(1, 32, "10.0 h"), (4, 32, "2.5 h"), (64, 32, "19 min"), (4, 2, "5.0 h")],
)
def test_workers_that_have_nothing_to_do_shorten_nothing(
    at_once: int, workers: int, hours: str
) -> None:
    row = {"seconds": 36000.0, "bytes": 0, "peak_mb": 1000.0, "at_once": at_once}
    costs = planner._costs(row, workers)
    assert costs["time"] == hours
    assert costs["memory"] == planner._size(1e9 * min(at_once, workers))


def test_jobs_that_can_be_worked_on_at_once(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(lab, "ingest", "toy")
    monkeypatch.setattr(planner, "_estimate", lambda *_: {"seconds": 1.0})
    rows = planned(lab, force=["toy"], device="cpu")
    assert rows["toy"]["at_once"] == 4, "videos"
    assert rows["train"]["at_once"] == 2, "folds"
    assert planned(lab, folds=["0"], device="cpu")["train"]["at_once"] == 1
    monkeypatch.setenv("APEXFLOW_FAKE_GPUS", "1")
    assert planned(lab, device="cuda")["train"]["at_once"] == 1


def test_the_next_command_can_be_typed(lab: Path) -> None:
    request = asked(lab).model_copy(update={"workspace": str(lab / "my work")})
    request.data[0].folder = "/data/SAMM 2"
    rows = [{"stage": "toy", "dataset": "samm", "unknown": "x"}]
    [line] = [line for line in planner.to_text(rows, request).splitlines() if "next:" in line]
    words = shlex.split(line)
    assert words[words.index("-w") + 1] == str(lab / "my work") and "samm=/data/SAMM 2" in words


def test_the_page_before_a_run_reads_no_bytes(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(planner, "plan", lambda request: seen.append(request.verify) or [])
    with open_context(asked(lab, verify="inputs"), PlainExecutor(LocalCarrier(0))) as context:
        planner.rows_for_people(context)
    assert seen == [""]


def test_what_is_unknown_is_measured_on_one_video_and_thrown_away(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.foreseeing.map_jobs", lambda make, jobs, **_: map(make, jobs))
    said: list[str] = []
    found = planner.plan(asked(lab, stages=["toy"]), said.append)
    row = next(row for row in found if row["stage"] == "toy")
    assert len(said) == 1 and "toy" in said[0] and "thrown away" in said[0]
    assert not (lab / "ws").exists()
    assert row["seconds"] > 0 and row["rate"] == MEASURED
    said.clear()
    planner.plan(asked(lab, stages=["toy"]), said.append)
    assert not said, "what is known is not measured again"


def test_rates_fade_and_bad_files_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rates.json"
    monkeypatch.setenv("APEXFLOW_RATES", str(path))
    key = rates.rate_key("align", 3, ToyConfig())
    rates.remember(key, Rate(100.0, 10.0, 1e6, 50.0))
    rates.remember(key, Rate(10.0, 5.0, 0.0, 20.0))
    found = rates.recall(key)
    assert found is not None
    assert (found.seconds, found.work, found.peak_mb) == (60.0, 10.0, 50.0)
    assert rates.recall(rates.rate_key("train", 2, ToyConfig())) is None
    path.write_text("[1")
    assert rates.recall(key) is None
    rates.remember(key, Rate(1.0, 1.0))
    assert rates.recall(key) is not None
    monkeypatch.setenv("APEXFLOW_RATES", "")
    assert rates.recall(key) is None
