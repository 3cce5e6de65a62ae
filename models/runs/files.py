"""A run on disk: what one fold's training is given, and what reading a run's folder gives back.

<workspace>/runs/<recipe>/<run id>/
    recipe.json split.json          what was asked, who is held out in which fold
    fold-00-<subject>/              weights.safetensors model.json, history and predictions
    manifest.parquet timings.parquet ledger.parquet
    predictions.parquet metrics.parquet report.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import ConfigError, StoreError
from data.plain_json import read_object
from data.stages import stores
from data.stages.workspace import Workspace
from models.recipe import Recipe, parse_recipe

Sample = tuple[str, str]  # (dataset, event id) or (dataset, video id)
FOLD_FILES = ("weights.safetensors", "model.json", "history.parquet", "predictions.parquet")
QUICK_BYTES = 16 << 20
RUN_MANIFEST = {
    "unit": "string",
    "key": "string",
    "part": "string",
    "bytes": "int64",
    "digest": "string",
}


@dataclass(frozen=True)
class FoldJob:
    """Everything one fold's training needs; picklable as long as `progress` is None."""

    workspace: Path
    recipe: Recipe
    fold: str
    datasets: tuple[str, ...]
    train_events: tuple[Sample, ...]
    test_events: tuple[Sample, ...]
    train_videos: tuple[Sample, ...]
    test_videos: tuple[Sample, ...]
    seed: int
    out: Path
    device: str = "cpu"
    progress: Callable[[float, str], None] | None = None


def read_tables(workspace: Workspace, datasets: tuple[str, ...], name: str) -> pd.DataFrame:
    """One of ingest's tables over several datasets, stacked. Raises StoreError if not ingested."""
    tables = []
    for dataset in datasets:
        path = workspace.stage(dataset, "ingest") / f"{name}.parquet"
        if not path.exists():
            raise StoreError(
                f"dataset {dataset}",
                expected="its ingest tables in the workspace",
                got="none",
                todo="Run the ingest stage first.",
                code="no_data",
            )
        tables.append(stores.read_table(path))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class RunFiles:
    """A run's folder, read: what scoring, the report, predict and compare work from."""

    folder: Path

    @property
    def workspace(self) -> Workspace:
        """The workspace that holds the run."""
        return Workspace(self.folder.parent.parent.parent)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return parse_recipe(read_json(self.folder / "recipe.json"))

    @property
    def split(self) -> dict[str, Any]:
        """Digest, shared people and folds, as in split.json."""
        return read_json(self.folder / "split.json")

    @property
    def folds(self) -> list[Path]:
        """Folders of the trained folds, in order."""
        return [self.folder / fold for fold in sorted(done_folds(self.folder))]

    def predictions(self) -> pd.DataFrame:
        """All folds' predictions, stacked in fold order.

        Raises StoreError when none is trained, or one is not what its run recorded.
        """
        damaged = set(run_manifest(self.folder).unit) - done_folds(self.folder)
        if damaged:
            raise StoreError(
                str(self.folder),
                expected="every fold as it was trained",
                got=f"missing or altered files in {sorted(damaged)}",
                todo="Run the recipe again: these folds are trained anew.",
                code="damaged_run",
            )
        tables = [stores.read_table(fold / "predictions.parquet") for fold in self.folds]
        if not tables:
            raise StoreError(
                str(self.folder), expected="trained folds", got="none", todo="Run `train` first."
            )
        return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)

    def metrics(self) -> pd.DataFrame:
        """The metrics table of an evaluated run."""
        return stores.read_table(self.folder / "metrics.parquet")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a run's JSON file. Raises StoreError when it is missing or damaged."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise StoreError(
            str(path),
            expected="a JSON file that `run` wrote",
            got=f"{type(error).__name__}: {error}",
            todo="Run the recipe again: it is written anew.",
            code="damaged_run",
        ) from error


def find_run(text: str) -> RunFiles:
    """A run from its folder's path. Raises ConfigError when it is not one."""
    folder = Path(text).absolute()
    if not (folder / "recipe.json").exists():
        raise ConfigError(
            f"run {text}",
            expected="a folder WORKSPACE/runs/RECIPE/RUN_ID",
            got="no recipe.json in it",
            todo="List runs with: ls WORKSPACE/runs/*",
        )
    return RunFiles(folder)


def run_manifest(folder: Path) -> pd.DataFrame:
    """Rows of the run's manifest: fold, key, file, bytes, digest.

    Empty before the first fold, and when the file is damaged: no fold can be trusted then.
    """
    try:
        return stores.read_table(folder / "manifest.parquet", RUN_MANIFEST)
    except StoreError:
        return pd.DataFrame({c: pd.Series(dtype=t) for c, t in RUN_MANIFEST.items()})


def run_times(folder: Path) -> list[dict[Any, Any]]:
    """Seconds per fold; none when the file is missing or damaged (it is only news)."""
    try:
        return stores.read_table(folder / "timings.parquet").to_dict("records")
    except StoreError:
        return []


def done_folds(folder: Path, *, verify: bool = False) -> set[str]:
    """Folds all of whose files are as recorded: size, and digest where that is quick.

    Files over QUICK_BYTES, the large networks' weights, are read only when `verify`.
    """
    done: dict[str, bool] = {}
    for row in run_manifest(folder).itertuples(index=False):
        path = folder / row.part
        sound = path.is_file() and path.stat().st_size == row.bytes
        if sound and (verify or row.bytes <= QUICK_BYTES):
            sound = stores.digest_of(path) == row.digest
        done[row.unit] = done.get(row.unit, True) and sound
    return {fold for fold, sound in done.items() if sound}
