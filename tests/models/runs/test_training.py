"""Training and scoring as steps: what a changed setting redoes, forced runs, damage."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data.errors import ConfigError, StoreError
from data.stages.contract import StepPlan
from data.stages.workspace import Workspace
from models.me_tst.family import FAMILY
from models.recipe import Recipe, parse_recipe
from models.registry import NETWORKS
from models.runs.files import RunFiles, run_manifest
from models.runs.scoring import STEP as EVALUATE
from models.runs.training import STEP as TRAIN
from tests.fakes import fabricated_run as made
from tests.fakes import toy_network
from tests.fakes.steps import do, evaluate, scope, train

Run = tuple[Workspace, Recipe]


def recipe(**changes: Any) -> Recipe:
    """Two folds of a tiny network on a made-up dataset, with dotted changes."""
    values: dict[str, Any] = {
        "name": "gru",
        "data": ["samm_lv"],
        "model": {"name": "toy_gru"},
        "motion": {"k": 20},
        "train": {"epochs": 1, "batch_size": 8},
        "decode": {"draws": 10},
        "split": {"kind": "subject_kfold", "k": 2},
    }
    for key, value in changes.items():
        place, _, name = key.rpartition("__")
        (values.setdefault(place, {}) if place else values)[name or key] = value
    return parse_recipe(values)


@pytest.fixture(scope="module")
def plugged() -> Any:
    """The toy network in the map."""
    module: Any = ModuleType("tests.fakes.toy_gru")
    module.NETWORK = toy_network.WINDOWS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(NETWORKS, "toy_gru", module.__name__)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, plugged: None) -> Path:
    """A workspace with a trained and scored run, to be copied."""
    workspace = Workspace(tmp_path_factory.mktemp("trained") / "ws")
    events = made.write_ingest(workspace, "samm_lv", kind="long", frames=240, per_subject=1)
    first = recipe()
    made.write_motion_store(workspace, "samm_lv", sorted(set(events.video)), recipe=first)
    train(workspace, first)
    evaluate(workspace, first)
    return workspace.path


@pytest.fixture
def run(tmp_path: Path, trained: Path) -> Run:
    """A trained and scored run of one's own."""
    shutil.copytree(trained, tmp_path / "ws")
    return Workspace(tmp_path / "ws"), recipe()


def planned(run: Run, **changes: Any) -> tuple[StepPlan, StepPlan]:
    """What training and scoring would do under changed settings."""
    where = scope(run[0], None, Path(), recipe(**changes))
    return TRAIN.plan(where), EVALUATE.plan(where)


def test_the_same_again_is_nothing_to_do(run: Run) -> None:
    for changes in (
        {}, {"flow__size": 64}, {"apex__method": "lbp"}, {"about": "x"}, {"strict": True},
    ):  # fmt: skip
        training, _ = planned(run, **changes)
        assert not training.reasons, changes
    _, scoring = planned(run)
    assert not scoring.reasons


@pytest.mark.parametrize("changes", [{"decode__p": 0.7}, {"decode__draws": 20}, {"name": "again"}])
def test_scoring_otherwise_trains_nothing(
    run: Run, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(jobs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(type(FAMILY), "fit", lambda self, jobs: never(jobs))
    workspace, _ = run
    training, _ = planned(run, **changes)
    assert {why.partition(":")[2] for why in training.reasons.values()} == {" taken over"}
    other = recipe(**changes)
    plan = train(workspace, other)
    evaluate(workspace, other)
    new, old = RunFiles(Path(plan.detail["run"])), RunFiles(Path(planned(run)[0].detail["run"]))
    assert new.folder != old.folder and [f.name for f in new.folds] == [f.name for f in old.folds]
    for one, two in zip(new.folds, old.folds, strict=True):
        weights = [folder / "weights.safetensors" for folder in (one, two)]
        assert weights[0].samefile(weights[1]), "linked, not copied"
    assert not planned(run)[0].reasons and not planned(run)[1].reasons, "the first is untouched"
    assert new.recipe == other and len(new.metrics())


@pytest.mark.parametrize(
    "changes",
    [{"train__epochs": 2}, {"seed": 3}, {"model__width": 4}, {"labels": "label_4"},
     {"decode__strategy": 0}],
)  # fmt: skip
def test_what_changes_the_weights_is_trained_again(run: Run, changes: dict[str, Any]) -> None:
    training, _ = planned(run, **changes)
    assert set(training.reasons.values()) == {"missing"} and len(training.todo) == 2


def test_a_forced_run_cancelled_early_never_stands_for_the_run(run: Run) -> None:
    workspace, first = run
    base = Path(planned(run)[0].detail["run"])
    where = scope(workspace, None, Path(), first)
    plan = do(TRAIN, where, force=True, most=0)  # cancelled before a fold was trained
    assert plan.detail["run_id"] == f"{base.name}-2"
    training, scoring = planned(run)
    assert not training.reasons and not scoring.reasons and training.detail["run"] == str(base)
    plan = do(TRAIN, where, force=True, most=1)
    assert plan.detail["run_id"] == f"{base.name}-2", "the next one goes on where it was left"
    assert planned(run)[0].detail["run"] == str(base)
    again = TRAIN.plan(where, force=True)
    assert again.detail["run_id"] == f"{base.name}-2" and len(again.todo) == 1
    do(TRAIN, where, force=True)
    training, scoring = planned(run)
    assert training.detail["run_id"] == f"{base.name}-2" and not training.reasons
    assert scoring.reasons, "the repetition is scored for itself"
    evaluate(workspace, first)
    assert TRAIN.plan(where, force=True).detail["run_id"] == f"{base.name}-3"


def test_forced_folds_are_equal_folds(run: Run) -> None:
    workspace, first = run
    base = RunFiles(Path(planned(run)[0].detail["run"]))
    plan = do(TRAIN, scope(workspace, None, Path(), first), force=True)
    again = RunFiles(Path(plan.detail["run"]))
    for one, two in zip(base.folds, again.folds, strict=True):
        for name in ("weights.safetensors", "predictions.parquet", "model.json"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
            assert not (one / name).samefile(two / name)


def test_evaluate_without_all_folds_says_so(run: Run) -> None:
    other = recipe(seed=5)
    with pytest.raises(StoreError, match="--from train"):
        evaluate(run[0], other)


def test_only_some_folds(run: Run) -> None:
    other = recipe(seed=6)
    plan = train(run[0], other, folds=("1",))
    assert [folder.name for folder in RunFiles(Path(plan.detail["run"])).folds] == plan.units
    with pytest.raises(ConfigError, match="'nobody'"):
        train(run[0], other, folds=("1", "nobody"))
    both = scope(run[0], None, Path(), other, folds=("0,1",))
    plan = TRAIN.plan(both)
    assert [pack.folds[0].unit for pack in TRAIN.jobs(both, plan)] == [plan.units[0]]
    assert len(plan.units) == 2 and plan.summary()["fresh"] == 1


def test_large_weights_that_are_damaged_are_not_taken_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte, size and time as before: only the digest can tell, and large files are not read."""
    for module in ("publishing", "training", "files"):
        monkeypatch.setattr(f"models.runs.{module}.QUICK_BYTES", 100)
    for weights in run[0].path.glob("runs/*/*/*/weights.safetensors"):
        stat, data = weights.stat(), bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other = recipe(name="damaged_twin")
    where = scope(run[0], None, Path(), other)
    plan = TRAIN.plan(where)
    assert all("taken over" in why for why in plan.reasons.values()), plan.reasons
    jobs = TRAIN.jobs(where, plan)
    assert sorted(job.folds[0].unit for job in jobs) == sorted(plan.units)
    assert len(plan.notes) >= len(plan.units) and "damaged" in plan.notes[0]


FILES = [
    "predictions.parquet", "metrics.parquet", "report.html", "ledger.parquet", "manifest.parquet",
    "recipe.json", "split.json", "inputs.parquet", "SHA256SUMS", "fold/weights.safetensors",
    "fold/model.json", "fold/history.parquet", "fold/predictions.parquet", "fold/curves.h5",
    "fold/unit.json",
]  # fmt: skip
CASES = [
    pytest.param(name, how, marks=() if (name, how) in (
        ("metrics.parquet", "one bit"), ("manifest.parquet", "cut"), ("recipe.json", "replaced"),
        ("fold/weights.safetensors", "deleted"),
    ) else pytest.mark.slow)
    for name in FILES for how in ("deleted", "cut", "one bit", "replaced")
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), CASES)
def test_no_file_of_a_run_changes_in_silence(run: Run, name: str, how: str) -> None:
    """Found and healed by the next plain run, to the same bytes; also with its old time."""
    workspace, first = run
    folder = Path(planned(run)[0].detail["run"])
    fold = RunFiles(folder).folds[0]
    path = fold / name.removeprefix("fold/") if name.startswith("fold/") else folder / name
    kept = {
        p.relative_to(folder): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "timings.parquet"
    }
    stat, raw = path.stat(), path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes({
            "cut": raw[: len(raw) // 2],
            "one bit": raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1])
            + raw[len(raw) // 2 + 1 :],
            "replaced": (RunFiles(folder).folds[1] / "model.json").read_bytes(),
        }[how])  # fmt: skip
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with workspace.lock() as token:
        do(TRAIN, scope(workspace, None, Path(), first, token=token))
        do(EVALUATE, scope(workspace, None, Path(), first, token=token))
    now = {
        p.relative_to(folder): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "timings.parquet"
    }
    assert set(now) == set(kept)
    assert [str(p) for p in kept if now[p] != kept[p]] == []


def test_forged_scores_are_not_read(run: Run) -> None:
    from data.stages.files import read_table, write_table
    from models.runs.compare import compare

    files = RunFiles(Path(planned(run)[0].detail["run"]))
    table = read_table(files.folder / "metrics.parquet")
    write_table(table.assign(value=0.999), files.folder / "metrics.parquet")
    with pytest.raises(StoreError, match="altered metrics"):
        files.metrics()
    with pytest.raises(StoreError, match="altered metrics"):
        compare([files, files])
    assert planned(run)[1].reasons == {
        "scores": "part size differs",
        "report": "scores changed",
    }


@pytest.mark.parametrize("how", ["damaged", "deleted", "another run's"])
def test_a_lost_manifest_costs_no_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    workspace, first = run
    folder = Path(planned(run)[0].detail["run"])
    before = run_manifest(folder)
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    if how == "deleted":
        (folder / "manifest.parquet").unlink()
    if how == "another run's":
        foreign = Path(train(workspace, recipe(seed=8)).detail["run"])
        shutil.copy(foreign / "manifest.parquet", folder)
    else:
        (folder / "SHA256SUMS").unlink()
    monkeypatch.setattr(type(FAMILY), "fit", lambda self, jobs: pytest.fail("trained again"))
    train(workspace, first)
    evaluate(workspace, first)
    assert run_manifest(folder).equals(before)
    assert json.loads((folder / "recipe.json").read_text())["name"] == "gru"
