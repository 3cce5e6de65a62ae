"""A dataset, a stage and a network added as the README says: one file and one line each."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data.datasets import ADAPTERS
from data.errors import ConfigError, StoreError
from data.stages import stores
from data.stages.registry import STAGES
from data.synthetic import write_dataset
from models.registry import NETWORKS, create_model
from models.runs.files import RunFiles
from tasks.carriers import LocalCarrier
from tasks.context import PlainExecutor, open_context
from tasks.request import RunRequest
from tasks.steps import StepRecord, run_steps
from tests.fakes import toy_network

RECIPE = """
data: [toy]
labels: emotion
split: {kind: subject_kfold, k: 2}
also: [toy_brightness]
align: {size: 128}
apex: {method: middle}
model: {name: toy_net}
train: {epochs: 2, batch_size: 4, warmup_epochs: 0}
"""


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three lines."""
    monkeypatch.setitem(ADAPTERS, "toy", "tests.fakes.toy_dataset")
    monkeypatch.setitem(STAGES, "toy_brightness", "tests.fakes.toy_stage")
    monkeypatch.setitem(NETWORKS, "toy_net", "tests.fakes.toy_network")


def run(tmp_path: Path, recipe: str, **more: Any) -> list[StepRecord]:
    path = tmp_path / "toy.yaml"
    path.write_text(recipe)
    request = RunRequest(recipe=str(path), workspace=str(tmp_path / "ws"), **more)
    with open_context(request, PlainExecutor(LocalCarrier(0))) as context:
        return run_steps(context)


def test_a_toy_of_each_runs_end_to_end(tmp_path: Path, plugged: None) -> None:
    pytest.importorskip("dlib")
    from flows.runs import planner

    root = write_dataset("casme", tmp_path / "data", preset="smoke", seed=1, workers=1)
    data = {"toy": str(root)}
    with pytest.raises(ConfigError, match=r"--folds.*'99'"):
        run(tmp_path, RECIPE, data=data, folds=["99"])
    assert not (tmp_path / "ws" / "toy" / "align").exists(), "found before hours of work"
    some = {record.stage: record for record in run(tmp_path, RECIPE, data=data, folds=["0"])}
    assert (some["train"].redone, some["train"].units) == (1, 1)
    assert some["evaluate"].redone == 0 and "1 fold(s) are not trained" in some["evaluate"].notes[0]
    with pytest.raises(StoreError, match="to be up to date"):
        run(tmp_path, RECIPE, data=data, folds=["0"], stages=["evaluate"])
    planned = planner.plan(
        RunRequest(recipe=str(tmp_path / "toy.yaml"), workspace=str(tmp_path / "ws"), data=data,
                   folds=["1"])
    )  # fmt: skip
    assert [(row["units"], row["missing"]) for row in planned[-2:]] == [(1, 1), (2, 2)]
    done = {record.stage: record for record in run(tmp_path, RECIPE, data=data)}
    assert list(done) == [
        "ingest",
        "align",
        "registration",
        "apex",
        "toy_brightness",
        "train",
        "evaluate",
    ]
    assert {name for name, record in done.items() if record.redone} == {"train", "evaluate"}
    assert (done["train"].redone, done["train"].units) == (1, 2)
    store = stores.StageStore(tmp_path / "ws", "toy", "toy_brightness")
    with store.open(store.units()[0]) as group:
        assert (group["brightness"][:] > 20).all()
    store.close()
    report = RunFiles(Path(done["evaluate"].detail["run"])).folder / "report.html"
    text = report.read_text()
    assert "Brightness: a stage somebody added" in text and "toy_net" in text
    again = run(tmp_path, RECIPE, data=data)
    assert not any(record.redone for record in again)
    request = RunRequest(
        recipe=str(tmp_path / "toy.yaml"), workspace=str(tmp_path / "ws"), data=data,
        overrides={"toy_brightness.scale": 2.0},
    )  # fmt: skip
    rows = {row["stage"]: row for row in planner.plan(request)}
    assert rows["toy_brightness"]["reasons"] == {"toy_brightness: scale 1.0 → 2.0": 4}
    assert "toy_brightness  toy" in planner.to_text(list(rows.values())), "columns stay apart"
    assert "toy_brightness:" not in str(rows["train"]), "no network reads it"
    assert rows["train"]["reasons"] == {}


def test_a_network_of_the_window_family_is_accepted_by_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.me_tst.fold import load_fold
    from tests.fakes import fabricated_run as made
    from tests.fakes.steps import evaluate, scope, train

    module: Any = ModuleType("tests.fakes.toy_gru")
    module.NETWORK = toy_network.WINDOWS
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(NETWORKS, "toy_gru", module.__name__)
    from data.stages.workspace import Workspace
    from models.recipe import parse_recipe

    workspace = Workspace(tmp_path / "ws")
    events = made.write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    recipe = parse_recipe(
        {
            "name": "gru", "data": ["samm_lv"], "model": {"name": "toy_gru"}, "motion": {"k": 20},
            "train": {"epochs": 1}, "decode": {"draws": 10},
            "split": {"kind": "subject_kfold", "k": 2},
        }
    )  # fmt: skip
    made.write_motion_store(workspace, "samm_lv", sorted(set(events.video)), recipe=recipe)
    where = scope(workspace, None, tmp_path, recipe)
    plan = train(workspace, recipe, tmp_path)
    assert len(plan.todo) == 2
    evaluate(workspace, recipe, tmp_path)
    run = RunFiles(Path(plan.detail["run"]))
    assert type(load_fold(run.folds[0]).network).__name__ == "ToyGru"
    assert {"spotting_f1", "strs"} <= set(run.metrics().name)
    assert where.label == "samm_lv"


def test_an_unknown_plugin_is_named_with_the_known_ones() -> None:
    from data.stages.registry import find_stage

    with pytest.raises(ConfigError, match="one of hsta, me_tst, me_tst_plus"):
        create_model("hsta2")
    with pytest.raises(ConfigError, match="Did you mean flow"):
        find_stage("flo")
