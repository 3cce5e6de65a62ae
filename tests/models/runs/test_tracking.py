"""A run in MLflow's own store, read back with MLflow's own client."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.errors import MissingExtraError, StoreError
from data.stages.workspace import Workspace
from models.runs.files import RunFiles
from models.runs.history import note_session
from models.runs.tracking import tracking_uri, write_run
from tests.fakes.fabricated_run import write_clip_stores, write_hsta_run, write_ingest

HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None
real = pytest.mark.skipif(not HAS_MLFLOW, reason="needs the extra mlflow")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """A made-up scored run with a history."""
    workspace = Workspace(tmp_path_factory.mktemp("tracked") / "ws")
    write_clip_stores(workspace, "casme2", write_ingest(workspace, "casme2"))
    folder = write_hsta_run(workspace)
    (folder / "report.html").write_text("<html></html>")
    note_session(folder, "train", 3, 50.0, "cpu")
    note_session(folder, "evaluate", 2, 1.5, "cpu")
    return RunFiles(folder)


def test_without_mlflow_the_extra_is_named(
    run: RunFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match="mlflow"):
        write_run(run, str(tmp_path / "store"))


@real
@pytest.mark.slow
@pytest.mark.ci
def test_params_scores_folds_curves_report_and_provenance_come_back(
    run: RunFiles, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    store = str(tmp_path / "store")
    first = write_run(run, store)
    second = write_run(run, store)
    client: Any = MlflowClient(tracking_uri=tracking_uri(store))
    experiment = client.get_experiment_by_name(run.recipe.name)
    found = client.search_runs([experiment.experiment_id])
    assert [r.info.run_id for r in found] == [second] != [first], "written twice, there once"
    there = client.get_run(second)
    assert there.info.status == "FINISHED" and there.info.end_time > there.info.start_time
    assert there.data.params["train.epochs"] == str(run.recipe.train.epochs)  # type: ignore[attr-defined]
    metrics = run.metrics().set_index(["scope", "name"])
    for beside, column in (("", "value"), (".low", "low"), (".chance", "chance")):
        told = metrics.loc[("pooled", "uf1"), column]
        assert there.data.metrics[f"uf1{beside}"] == pytest.approx(told)
    folds = metrics.loc[[s.startswith("fold:") for s in metrics.index.get_level_values(0)]]
    name = str(folds.index.get_level_values(1)[0])
    steps = client.get_metric_history(second, f"fold.{name}")
    wanted = folds.xs(name, level=1).value.dropna()
    assert sorted(m.value for m in steps) == pytest.approx(sorted(wanted))
    fold = run.folds[0]
    curve = pd.read_parquet(fold / "history.parquet")
    loss = client.get_metric_history(second, f"{fold.name}.loss")
    assert [m.step for m in loss] == list(curve.epoch)
    assert [m.value for m in loss] == pytest.approx(list(curve.loss))
    files = {a.path for a in client.list_artifacts(second)}
    assert {"report.html", "recipe.json", "split.json", "metrics.csv", "provenance.json"} <= files
    tags = there.data.tags
    assert tags["device"] == "cpu" and tags["commit"] and tags["version.torch"]
    assert float(tags["seconds"]) == 51.5


@real
@pytest.mark.slow
@pytest.mark.ci
def test_a_run_that_is_not_scored_leaves_nothing(run: RunFiles, tmp_path: Path) -> None:
    folder = tmp_path / "ws" / "runs" / "r" / "abcd"
    folder.mkdir(parents=True)
    for name in ("recipe.json", "split.json"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(StoreError):
        write_run(RunFiles(folder), str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
