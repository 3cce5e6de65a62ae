"""A run's record in MLflow's own store: the same params, metrics, curves and report.

MLflow is an extra (`pip install .[mlflow]`), imported when it is asked for. The store is a folder
with `mlflow.db` (SQLite) and `artifacts/`, or any tracking URI; look at it with a full MLflow:

    mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db

An experiment is a recipe, an MLflow run is a run of ours, found again by its tag `apexflow.run`:
written twice, it is there once. A score that does not exist is left out: MLflow has no "unknown".
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import MissingExtraError, StoreError
from data.stages import stores
from models.report.data import sample_digest
from models.report.scores import scores
from models.runs.files import RunFiles
from models.runs.history import Session, read_history
from models.runs.listing import flat
from models.runs.names import short_name

TAG = "apexflow.run"
LONGEST = 500  # characters of a param, MLflow's own limit is 6000
AT_ONCE = 100  # params or metrics in one call
FILES = ("report.html", "recipe.json", "split.json", "metrics.parquet", "history.jsonl")
FOLD_FILES = ("history.parquet", "curves.h5")
LARGEST = 64 << 20  # bytes of a fold's file that is copied


def tracking_uri(store: str) -> str:
    """The URI of a store: a folder becomes its SQLite file; what has :// is taken as it is."""
    if "://" in store:
        return store
    return f"sqlite:///{Path(store).absolute() / 'mlflow.db'}"


def write_run(run: RunFiles, store: str) -> str:
    """Write a scored run into an MLflow store; returns MLflow's id of it.

    Raises MissingExtraError without MLflow, StoreError for a run that is not scored.
    """
    found = scores(run.metrics())  # first: an unscored run leaves nothing in the store
    client = _client(store)
    recipe, key = run.recipe, f"{run.recipe.name}/{run.folder.name}"
    experiment = _experiment(client, recipe.name, store)
    history = read_history(run.folder)
    for old in client.search_runs([experiment], f"tags.`{TAG}` = '{key}'"):
        client.delete_run(old.info.run_id)
    made = client.create_run(
        experiment,
        start_time=_began(run, history),
        tags={TAG: key, **_tags(run, history)},
        run_name=short_name(run.folder),
    )
    name = made.info.run_id
    from mlflow.entities import Metric, Param

    at = _ended(run, history)
    params = [Param(k, str(v)[:LONGEST]) for k, v in flat(recipe.model_dump(mode="json")).items()]
    for part in _parts(params):
        client.log_batch(name, params=part)
    metrics = [Metric(k, v, at, step) for k, v, step in (*_scores(run, found), *_curves(run))]
    for part in _parts(metrics):
        client.log_batch(name, metrics=part)
    _artifacts(client, name, run)
    client.set_terminated(name, end_time=at)
    return str(name)


def require() -> Any:
    """MLflow's client class. Raises MissingExtraError without the extra."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves this machine
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingExtraError(
            "MLflow", expected="the extra mlflow", got="none", todo="pip install -e .[mlflow]"
        ) from error
    return MlflowClient


def _client(store: str) -> Any:
    client = require()
    if "://" not in store:
        Path(store).mkdir(parents=True, exist_ok=True)
    return client(tracking_uri=tracking_uri(store))


def _experiment(client: Any, name: str, store: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    place = None if "://" in store else (Path(store).absolute() / "artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _tags(run: RunFiles, history: list[Session]) -> dict[str, str]:
    recipe = run.recipe
    tags = {
        "network": recipe.network_name,
        "data": "+".join(recipe.data),
        "split": recipe.split.kind,
        "split_digest": str(run.split["digest"])[:12],
        "sample_digest": sample_digest(run),
        "workspace": str(run.workspace.path),
        "folder": str(run.folder),
    }
    if history:
        last = asdict(history[-1])
        tags |= {k: str(last[k]) for k in ("device", "host", "version", "commit")}
        tags |= {f"version.{k}": v for k, v in history[-1].versions.items()}
        tags["seconds"] = f"{sum(s.seconds for s in history):.1f}"
    return tags


def _scores(run: RunFiles, found: Iterable[Any]) -> Iterator[tuple[str, float, int]]:
    """Pooled scores with interval and chance; each fold's as a step of one metric."""
    folds = {name: number for number, name in enumerate(run.split["folds"])}
    for score in found:
        scope, _, what = score.scope.partition(":")
        if scope == "pooled":
            beside = {"": score.value, ".low": score.low, ".high": score.high,
                      ".chance": score.chance, ".majority": score.majority}  # fmt: skip
            for ending, value in beside.items():
                if value is not None:
                    yield f"{score.name}{ending}", value, 0
        elif scope == "fold" and score.value is not None:
            yield f"fold.{score.name}", score.value, folds.get(what, 0)
        elif scope in ("dataset", "class") and score.value is not None:
            yield f"{scope}.{_safe(what)}.{score.name}", score.value, 0


def _curves(run: RunFiles) -> Iterator[tuple[str, float, int]]:
    """Every fold's training curves, step by epoch."""
    for fold in run.folds:
        try:
            table = stores.read_table(fold / "history.parquet")
        except StoreError:
            continue
        if "epoch" not in table:
            continue
        columns = [c for c in table if c != "epoch" and pd.api.types.is_numeric_dtype(table[c])]
        for row in table.to_dict("records"):
            for column in columns:
                value = float(row[column])
                if value == value:
                    yield f"{_safe(fold.name)}.{column}", value, int(row["epoch"])


def _artifacts(client: Any, name: str, run: RunFiles) -> None:
    for file in (run.folder / n for n in FILES):
        if file.is_file():
            client.log_artifact(name, str(file))
    for fold in run.folds:
        for file in (fold / n for n in FOLD_FILES):
            if file.is_file() and file.stat().st_size <= LARGEST:
                client.log_artifact(name, str(file), f"folds/{_safe(fold.name)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"  # readable where no Parquet is read
        run.metrics().to_csv(path, index=False)
        client.log_artifact(name, str(path))
        path = Path(folder) / "provenance.json"
        path.write_text(json.dumps([asdict(s) for s in read_history(run.folder)], indent=1))
        client.log_artifact(name, str(path))


def _began(run: RunFiles, history: list[Session]) -> int:
    if history:
        return round(1000 * datetime.fromisoformat(history[0].began).timestamp())
    return round(1000 * (run.folder / "recipe.json").stat().st_mtime)


def _ended(run: RunFiles, history: list[Session]) -> int:
    if history:
        last = history[-1]
        return round(1000 * (datetime.fromisoformat(last.began).timestamp() + last.seconds))
    return round(1000 * (run.folder / "metrics.parquet").stat().st_mtime)


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def _safe(text: str) -> str:
    """MLflow takes letters, digits and a few signs in names."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in text)
