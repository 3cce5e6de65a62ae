"""Flow pictures that somebody else computed: the import, what is refused, the stage, a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from data.datasets import open_dataset
from data.errors import DatasetError
from data.flow_pictures import stage
from data.flow_pictures.importing import find_pictures, import_pictures, summary
from data.pictures.stages import Shown
from data.stages.files import read_table, write_table
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from data.steps import find_preprocessing_step
from models.recipe import load_recipe
from tests.fakes.flow_pictures import SUBJECTS, write_folder
from tests.fakes.steps import do, ingest, scope, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("x") / "three_norm_u_v_os", SUBJECTS[2:6], each=3)


def test_each_subjects_own_pictures_become_a_dataset(folder: Path, tmp_path: Path) -> None:
    found = import_pictures(folder, tmp_path / "out")
    assert len(found) == 12 and "4 people" in summary(found)
    dataset = open_dataset("csv", tmp_path / "out")
    events = dataset.events
    assert sorted(events.person.unique()) == ["casme2:sub03", "samm:006", "samm:011", "smic:01"]
    assert events.label_3.value_counts().to_dict() == {
        "negative": 4, "positive": 4, "surprise": 4,
    }  # fmt: skip
    assert (events.onset == 0).all() and (events.apex == 0).all() and len(events) == 12
    assert not len(dataset.ledger[dataset.ledger.action == "dropped"])
    source = folder / "006" / "u_test" / "0" / "006_EP00_01f .png"
    copy = tmp_path / "out" / "pictures" / "006" / "EP00_01f" / "1.png"
    assert copy.read_bytes() == source.read_bytes()
    with pytest.raises(DatasetError, match="new or empty"):
        import_pictures(folder, tmp_path / "out")


def test_ones_own_layout_and_words_for_classes(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for subject in ("ann", "bob"):
        for label in ("Happiness", "2"):
            place = tmp_path / "mine" / "deeper" / subject / label
            place.mkdir(parents=True)
            cv2.imwrite(str(place / "a b.png"), image)
    with pytest.raises(DatasetError, match="every clip of a subject once"):
        find_pictures(tmp_path / "mine")
    for subject in ("ann", "bob"):
        place = tmp_path / "mine" / "deeper" / subject / "2"
        (place / "a b.png").rename(place / "c.png")
    found = import_pictures(tmp_path / "mine", tmp_path / "out")
    assert [(p.person, p.label) for p in found] == [
        ("csv:ann", "happiness"), ("csv:ann", "surprise"),
        ("csv:bob", "happiness"), ("csv:bob", "surprise"),
    ]  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert table.event.tolist()[0] == "ann/a_b" and table.label_3.isna().tolist() == [1, 0, 1, 0]


def test_pictures_of_a_tested_subject_in_training_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "leaky")
    shutil.copy(copy / "006/u_test/0/006_EP00_01f .png", copy / "006/u_train/0")
    with pytest.raises(DatasetError) as told:
        find_pictures(copy)
    assert told.value.code == "tested_picture_in_training" and "006" in str(told.value)
    (copy / "006/u_train/0/006_EP00_01f .png").unlink()
    shutil.copy(copy / "011/u_test/0/011_EP00_01f .png", copy / "006/u_test/0")
    with pytest.raises(DatasetError) as told:
        find_pictures(copy)
    assert told.value.code == "other_subjects_picture"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="SUBJECT/u_test/CLASS"):
        find_pictures(tmp_path / "empty")


def test_one_subjects_folder_is_not_two_people(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the folder above") as told:
        import_pictures(folder / "006", tmp_path / "out")
    assert told.value.code == "no_pictures" and not (tmp_path / "out").exists()


def test_recordings_are_no_flow_pictures(folder: Path, tmp_path: Path) -> None:
    """Nor are their faces shown, or those of pictures that may not be."""
    workspace, root = Workspace(tmp_path / "ws"), tmp_path / "out"
    import_pictures(folder, root)
    clip = root / "pictures" / "006" / "EP00_01f"
    (clip / "2.png").write_bytes((clip / "1.png").read_bytes())
    ingest(workspace, "csv", root)
    recipe = load_recipe("flow_regression_pictures")
    plan = do(find_preprocessing_step("flow_pictures"), scope(workspace, "csv", root, recipe))
    assert len(plan.units) == 12
    store = StageStore(workspace, "csv", "flow_pictures")
    assert len(store.units()) == 11 and store.status("006/EP00_01f") == "not_a_flow_picture"
    shown = Shown(workspace, "csv", root=root)
    assert len(list(stage.pictures(shown))) == 6
    path = workspace.stage("csv", "ingest") / "videos.parquet"
    write_table(read_table(path).assign(show_faces=False), path)
    assert not list(stage.pictures(shown))
    assert len(list(stage.pictures(replace(shown, with_faces=True)))) == 6


@pytest.fixture
def invoke() -> Callable[..., Any]:
    from typer.testing import CliRunner

    from flows.cli import app

    return lambda *words: CliRunner().invoke(app, ["import-pictures", *map(str, words)])


@pytest.mark.slow
@pytest.mark.ci
def test_one_command_from_pictures_to_scores(
    folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    """As a user who has the published pictures: one command, folds, scores and report."""
    done = invoke(folder, tmp_path / "out", "--run", "flow_regression_pictures", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert told["pictures"] == 12 and told["people"] == 4
    run = Path(told["run"][-1]["detail"]["run"])
    metrics = pd.read_parquet(run / "metrics.parquet")
    pooled = metrics[metrics.scope == "pooled"].set_index("name").value
    assert pooled.uf1 > 0.9, "the classes can be told"
    assert len(list(run.glob("fold-*"))) == 4
    assert "Flow pictures" in (run / "report.html").read_text()


def test_a_run_on_pictures_reads_the_stage(folder: Path, tmp_path: Path) -> None:
    """Stage and folds in this process; the picture is stored as it came, u first."""
    from models.datasets import FlowDataset

    import_pictures(folder, tmp_path / "out")
    workspace, root = Workspace(tmp_path / "ws"), tmp_path / "out"
    recipe = load_recipe("flow_regression_pictures", {"train.epochs": 30})
    assert recipe.stages == ("ingest", "flow_pictures")
    ingest(workspace, "csv", root)
    do(find_preprocessing_step("flow_pictures"), scope(workspace, "csv", root, recipe))
    image = cv2.imread(str(folder / "006/u_test/0/006_EP00_01f .png"))
    with StageStore(workspace, "csv", "flow_pictures").open("006/EP00_01f") as group:
        assert (group["picture"][:] == image[..., ::-1]).all()
    name, training, tested = next(FlowDataset.folds(workspace.path, recipe))
    assert name == "fold-00-casme2_sub03" and (len(training), len(tested)) == (9, 3)
    plan = train(workspace, recipe, root)
    found = pd.concat(
        [pd.read_parquet(p) for p in Path(plan.detail["run"]).glob("fold-*/predictions.parquet")]
    )
    assert (found.label == found.predicted).mean() > 0.9 and len(found) == 12
