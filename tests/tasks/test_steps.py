"""What a request does: which steps, which units, forced or narrowed, on one workspace in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data.errors import ConfigError, DatasetError, InputError, StoreError
from data.settings import Settings
from data.stages import stores
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter
from data.stages.planning import StageStep
from data.stages.workspace import Workspace
from flows.runs import planner, pruning
from models.recipe import load_recipe
from tasks import steps
from tasks.carriers import LocalCarrier
from tasks.context import PlainExecutor, forces, open_context, wanted_steps
from tasks.request import PLACES, RunRequest
from tasks.steps import StepRecord, run_steps
from tests.fakes import dataset_trees as trees
from tests.fakes.steps import register

RECIPE = """
data: [samm]
labels: emotion
also: [toy, second]
model: {name: hsta}
"""


class ToyConfig(Settings):
    """Settings of both toy stages."""

    scale: float = 1.0
    fail: tuple[str, ...] = ()


def _first(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
    for video in inputs.recordings.videos.values():
        yield Unit(video.id, video.id, {"num_frames": video.num_frames})


def _make(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
    if unit.id in config.fail:
        raise InputError(unit.id, expected="luck", got="none", code="no_luck")
    part.group(unit.id)["x"] = np.full(3, config.scale)
    part.done(unit.id)


def _second(inputs: StageInputs, config: ToyConfig) -> Iterator[Unit]:
    for video in inputs.recordings.videos.values():
        yield Unit(video.id, video.id, reads=(("toy", video.id),))


def _copy(unit: Unit, inputs: UnitInputs, config: ToyConfig, part: PartWriter) -> None:
    with inputs.open("toy", unit.video) as group:
        part.group(unit.id)["x"] = group["x"][:]
    part.done(unit.id)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny SAMM, a recipe, and two stages that need no face."""
    more: dict[str, Any] = {"suffix": ".h5", "unit_kind": "video"}
    register(
        monkeypatch,
        Stage("toy", 1, ("ingest",), list_units=_first, process=_make, **more),
        ToyConfig,
    )
    register(
        monkeypatch,
        Stage("second", 1, ("ingest", "toy"), list_units=_second, process=_copy, **more),
        ToyConfig,
    )
    trees.samm(tmp_path / "samm")
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path


def asked(lab: Path, **words: Any) -> RunRequest:
    """A request for ingest and both toy stages, unless it says otherwise."""
    stages = [] if {"from_stage", "until", "stages"} & set(words) else ["ingest", "toy", "second"]
    return RunRequest(
        recipe=str(lab / "toy.yaml"),
        workspace=str(lab / "ws"),
        data={"samm": str(lab / "samm")},
        **{"stages": stages, **words},
    )


def run(lab: Path, **words: Any) -> dict[str, StepRecord]:
    with open_context(asked(lab, **words), PlainExecutor(LocalCarrier(0))) as context:
        return {record.stage: record for record in run_steps(context)}


def redone(lab: Path, **words: Any) -> dict[str, int]:
    return {name: record.redone for name, record in run(lab, **words).items()}


def videos(lab: Path) -> list[str]:
    return stores.StageStore(lab / "ws", "samm", "toy").units()


def test_history_has_the_devices_that_results_carry(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what was asked for: this machine may have none of the workers' GPUs."""
    noted: list[str] = []
    plan, results = StageStep.plan, steps._results

    def planned(*of: Any, **words: Any) -> Any:
        found = plan(*of, **words)
        found.detail["run"] = str(lab)
        return found

    def made(*of: Any) -> Iterator[Any]:
        for one in results(*of):
            one.device = "cuda:1 (a worker's)"
            yield one

    monkeypatch.setattr(StageStep, "plan", planned)
    monkeypatch.setattr(steps, "note_session", lambda *of: noted.append(of[4]))
    run(lab, stages=["ingest", "toy"])
    monkeypatch.setattr(steps, "_results", made)
    run(lab, stages=["second"])
    assert noted == ["cpu", "cuda:1 (a worker's)"]


def test_steps_of_a_request(lab: Path) -> None:
    recipe = load_recipe(str(lab / "toy.yaml"))
    every = list(recipe.steps)
    assert every[0] == "ingest" and every[-4:] == ["toy", "second", "train", "evaluate"]

    def steps(**words: Any) -> list[str]:
        return wanted_steps(asked(lab, **words), recipe)

    assert steps(stages=[]) == every
    assert steps(from_stage="second") == ["second", "train", "evaluate"]
    assert steps(until="align") == ["ingest", "align"]
    assert steps(from_stage="toy", until="second") == ["toy", "second"]
    assert steps(stages=[], subjects=["006"]) == every[:-2], "a part is not trained on"
    with pytest.raises(ConfigError, match="motion"):
        steps(stages=["motion"])
    for words in ({"until": "train"}, {"from_stage": "evaluate"}, {"force": ["train"]}):
        with pytest.raises(ConfigError, match="trained and scored on all"):
            steps(subjects=["006"], **words)
    with pytest.raises(ConfigError, match="--from second --until align"):
        steps(from_stage="second", until="align")
    with pytest.raises(ValidationError):
        asked(lab, workers=-1)


def test_a_home_folder_is_one_in_every_field_that_is_a_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in PLACES:
        assert getattr(RunRequest(**{name: "~/it"}), name) == str(tmp_path / "it")
        assert getattr(RunRequest(**{name: "some/~it"}), name) == "some/~it"
        with pytest.raises(ValidationError, match="home"):
            RunRequest(**{name: "~nobody-of-that-name/it"})


def test_force_redoes_a_stage_and_what_depends_on_it(lab: Path) -> None:
    assert all(redone(lab).values())
    assert not any(redone(lab).values())
    recipe = load_recipe(str(lab / "toy.yaml"))
    assert forces(asked(lab, force=["toy"]), recipe, "second")
    assert not forces(asked(lab, force=["toy"]), recipe, "train"), "no network reads it"
    assert forces(asked(lab, force=["align"]), recipe, "evaluate")
    found = redone(lab, force=["toy"])
    assert found["ingest"] == 0 and found["toy"] == found["second"] == len(videos(lab))
    assert not any(redone(lab).values())


def test_two_recipes_in_turn_on_one_workspace(lab: Path) -> None:
    """Results lie side by side: the second pass of both does nothing."""
    other = {"overrides": {"toy.scale": 2.0}}
    assert redone(lab)["second"] and redone(lab, **other)["second"]
    parts = sorted((lab / "ws").rglob("part-*"))
    for _ in range(2):
        assert not any(redone(lab).values()) and not any(redone(lab, **other).values())
    assert sorted((lab / "ws").rglob("part-*")) == parts


def test_a_stage_alone_refuses_stale_inputs(lab: Path) -> None:
    run(lab)
    with pytest.raises(StoreError, match="toy to be up to date") as caught:
        run(lab, stages=["second"], overrides={"toy.scale": 3.0})
    assert "--from toy" in str(caught.value)
    assert redone(lab, from_stage="toy", until="second", overrides={"toy.scale": 3.0})["second"]


def test_only_some_subjects_and_videos(lab: Path) -> None:
    every = trees.SAMM_ROWS
    run(lab, stages=["ingest"])
    found = redone(lab, subjects=["006"])
    assert 0 < found["toy"] < len(every)
    first = videos(lab)
    assert redone(lab, subjects=["006"])["toy"] == 0
    assert redone(lab)["toy"] + len(first) == len(videos(lab))
    with pytest.raises(ConfigError, match="--subjects"):
        run(lab, subjects=["nobody"])
    with pytest.raises(ConfigError, match="--videos"):
        run(lab, videos=["nothing"])


def test_only_what_failed(lab: Path) -> None:
    run(lab)
    victim = videos(lab)[0]
    failing = {"overrides": {"toy.fail": [victim]}}
    assert run(lab, **failing)["toy"].failed == 1
    assert redone(lab, **failing)["toy"] == 0
    assert redone(lab, stages=["toy"], only_failed=True, **failing) == {"toy": 1}
    assert redone(lab, stages=["toy"], only_failed=True) == {"toy": 0}


def test_a_folder_moved_away_loses_nothing(lab: Path) -> None:
    run(lab)
    before = {p: p.read_bytes() for p in sorted((lab / "ws").rglob("part-*"))}
    subject = next(p for p in (lab / "samm").rglob("006") if p.is_dir())
    shutil.move(subject, lab / "away")
    with pytest.raises(DatasetError, match="source not there"):
        run(lab)
    done = run(lab, allow_shrink=True)
    assert any("source not there" in note for note in done["toy"].notes)
    assert done["toy"].gone and not done["toy"].redone
    assert {p: p.read_bytes() for p in sorted((lab / "ws").rglob("part-*"))} == before
    shutil.move(lab / "away", subject)
    assert redone(lab)["toy"] == 0, "back again, nothing is computed anew"


def test_plan_says_what_a_run_would_do_and_changes_nothing(lab: Path) -> None:
    run(lab)
    before = {p: p.stat().st_mtime_ns for p in (lab / "ws").rglob("*")}
    words = {"stages": [], "until": "second", "overrides": {"toy.scale": 2.0}, "force": ["second"]}
    rows = {row["stage"]: row for row in planner.plan(asked(lab, **words))}
    assert rows["toy"]["reasons"] == {"toy: scale 1.0 → 2.0": len(videos(lab))}
    assert set(rows["second"]["reasons"]) == {"forced"}
    text = planner.to_text(list(rows.values()))
    assert "toy samm: 4 × toy: scale 1.0 → 2.0" in text and "train" not in text
    assert {p: p.stat().st_mtime_ns for p in (lab / "ws").rglob("*")} == before


def test_a_damaged_part_is_redone_in_the_same_run(lab: Path) -> None:
    run(lab)
    part = sorted((lab / "ws" / "samm" / "toy").glob("part-*"))[0]
    whole = part.read_bytes()
    at = whole.find(np.full(3, 1.0).tobytes())
    part.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    import os

    times = stores.read_timings(part.parent).set_index("part").mtime_ns
    os.utime(part, ns=(0, int(times[part.name])))  # the planner trusts size and time
    done = run(lab, stages=[], from_stage="toy", until="second", force=["second"])
    assert done["toy"].redone >= 1 and part.read_bytes() == whole


# ------------------------------------------------------------------------------------------- prune


def pruned(lab: Path, *, delete: bool = False) -> list[str]:
    found = pruning.prune(lab / "ws", delete=delete)
    assert all("results" not in row for row in found)
    return [Path(row["path"]).name for row in found]


def test_prune_lists_first_and_deletes_only_what_nothing_needs(lab: Path) -> None:
    run(lab)
    first = {p.name for p in (lab / "ws" / "samm" / "toy").glob("part-*")}
    assert pruned(lab) == []
    run(lab, overrides={"toy.scale": 2.0})
    stray = lab / "ws" / "samm" / "toy" / "damaged-part-00-x.h5"
    stray.write_bytes(b"x")
    listed = pruned(lab)
    assert set(listed) > {stray.name} | first and stray.exists(), "a dry run first"
    text = pruning.to_text(pruning.prune(lab / "ws", delete=False), delete=False)
    assert "add --delete" in text and "results of other settings that no run uses" in text
    assert set(pruned(lab, delete=True)) == set(listed)
    assert not stray.exists() and not first & {p.name for p in stray.parent.glob("part-*")}
    assert not any(redone(lab, overrides={"toy.scale": 2.0}).values()), "what is current stays"
    assert redone(lab)["toy"] == len(videos(lab)), "what went is made again"
    assert pruned(lab, delete=True) and pruned(lab) == []


def test_prune_keeps_results_of_an_absent_dataset(lab: Path) -> None:
    run(lab)
    run(lab, overrides={"toy.scale": 2.0})
    shutil.move(lab / "samm", lab / "elsewhere")
    assert pruned(lab) == []


def test_prune_waits_for_no_run(lab: Path) -> None:
    from data.errors import LockedError

    run(lab)
    with Workspace(lab / "ws").lock(), pytest.raises(LockedError):
        pruned(lab)
    with pytest.raises(ConfigError, match="stores or runs"):
        pruning.prune(lab / "nowhere", delete=False)
