"""A run on disk: what one fold's training is given, and what reading a run's folder gives back.

<workspace>/runs/<recipe>/<run id>/
    recipe.json split.json          what was asked, who is held out in which fold
    fold-00-<subject>/              weights.safetensors model.json, history and predictions
    seed-1-fold-00-<subject>/       the same of another seed, where the recipe has several
    inner-00-<subject>/             of a nested choice: the fold without its inner people
    manifest.parquet timings.parquet ledger.parquet
    predictions.parquet metrics.parquet report.html
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import StoreError
from data.plain_json import read_object
from data.stages import stores
from data.stages.planning import why_not_fresh
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.recipe import Recipe, parse_stored_recipe
from models.runs.split_file import with_sides

Sample = tuple[str, str]  # (dataset, event id) or (dataset, video id)
QUICK_BYTES = 16 << 20  # files up to this size are read and compared whenever they are asked for
INNER = "inner-"  # begins the name of a fold's inner training
_OF_SEED = re.compile(r"^seed-\d+-")
SETUP, SCORES, REPORT = "setup", "scores", "report"  # units of a run beside its folds


@dataclass(frozen=True)
class FoldJob:
    """Everything one fold's training needs; to another process with a `ProgressFile` or none."""

    workspace: Path
    recipe: Recipe
    fold: str
    datasets: tuple[str, ...]
    train_events: Sequence[Sample]
    test_events: Sequence[Sample]
    train_videos: Sequence[Sample]
    test_videos: Sequence[Sample]
    seed: int
    out: Path
    device: str = "cpu"
    inputs: Path | None = None  # table of the stages' results that this run reads
    progress: Callable[[float, str], None] | None = None
    unit: str = ""  # its folder in the run: the fold's name, after the seed's if that is another
    record: int = 0  # how many epochs' test predictions to keep, see `models.epoch_record`
    classes: tuple[str, ...] | None = None  # of all folds; None: the label map fixes them

    @property
    def label(self) -> str:
        """Name people see."""
        return f"train-{self.unit or self.fold}"

    def keys(self, dataset: str, stage: str) -> dict[str, str] | None:
        """Unit → key of the stage's results this run reads; None: those that were made last."""
        return read_input_keys(self.inputs, dataset, stage)


def unit_name(fold: str, seed: int, number: int) -> str:
    """Unit of a fold trained with the seed that stands at `number` in the recipe's list."""
    return fold if number == 0 else f"seed-{seed}-{fold}"


def plain_name(unit: str) -> str:
    """A unit's fold, whatever its seed."""
    return _OF_SEED.sub("", unit)


def read_input_keys(path: Path | None, dataset: str, stage: str) -> dict[str, str] | None:
    """Unit → key of one stage from a run's `inputs.parquet`; None where there is none."""
    if path is None or not path.is_file():
        return None
    table = _read_inputs(str(path), path.stat().st_mtime_ns)
    own = table[(table.dataset == dataset) & (table.stage == stage)]
    return dict(zip(own.unit, own.key, strict=True)) if len(own) else None


@functools.lru_cache(maxsize=4)
def _read_inputs(path: str, mtime_ns: int) -> pd.DataFrame:
    return stores.read_table(Path(path))


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
    """A run's folder, read: what scoring, the report, predict and compare work from.

    Folds are those of one seed: the recipe's only or first one, or that at `number` in its list.
    """

    folder: Path
    number: int = 0

    @property
    def workspace(self) -> Workspace:
        """The workspace that holds the run."""
        return Workspace(self.folder.parent.parent.parent)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return parse_stored_recipe(read_json(self.folder / "recipe.json"))

    @property
    def split(self) -> dict[str, Any]:
        """Digest, shared people and folds, as in split.json. Raises StoreError for any other."""
        found = read_json(self.folder / "split.json")
        kinds = {"digest": str, "people_shared": list, "folds": dict}
        if not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
            raise _damaged_run(self.folder, "another split.json")
        return with_sides(found)

    @property
    def each_seed(self) -> list[RunFiles]:
        """This run for each of the recipe's seeds."""
        return [replace(self, number=n) for n in range(len(self.recipe.each_seed))]

    @property
    def prefix(self) -> str:
        """What the units of this seed begin with."""
        if self.number == 0:
            return ""
        return unit_name("", self.recipe.each_seed[self.number], self.number)

    @property
    def folds(self) -> list[Path]:
        """Folders of the trained folds, in order."""
        return self._done("fold-")

    @property
    def inner_folds(self) -> list[Path]:
        """Folders of the folds' inner trainings, in order; none without a nested choice."""
        return self._done(INNER)

    def _done(self, kind: str) -> list[Path]:
        return [self.folder / unit for unit in sorted(done_folds(self.folder, self.prefix + kind))]

    def keys(self, dataset: str, stage: str) -> dict[str, str] | None:
        """Unit → key of the stage's results this run was made from; None when not recorded."""
        return read_input_keys(self.folder / "inputs.parquet", dataset, stage)

    def store(self, dataset: str, stage: str) -> StageStore:
        """A stage's store, showing the results that this run was made from."""
        return StageStore(self.workspace, dataset, stage, self.keys(dataset, stage))

    def predictions(self) -> pd.DataFrame:
        """All folds' predictions, stacked in fold order.

        Raises StoreError when none is trained, or one is not what its run recorded.
        """
        kind = f"{self.prefix}fold-"
        damaged = set(fold_keys(self.folder, kind)) - done_folds(self.folder, kind)
        if damaged:
            raise _damaged_run(self.folder, f"missing or altered files in {sorted(damaged)}")
        tables = [stores.read_table(fold / "predictions.parquet") for fold in self.folds]
        if not tables:
            raise StoreError(
                str(self.folder), expected="trained folds", got="none", todo="Run `train` first."
            )
        return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)

    def all_predictions(self) -> pd.DataFrame:
        """Predictions of every seed, with a column `seed` where there are several."""
        if len(self.recipe.each_seed) == 1:
            return self.predictions()
        each = zip(self.each_seed, self.recipe.each_seed, strict=True)
        return pd.concat([run.predictions().assign(seed=seed) for run, seed in each])

    def metrics(self) -> pd.DataFrame:
        """The metrics table of an evaluated run. Raises StoreError when it is not as scored."""
        self.check("metrics.parquet")
        return stores.read_table(self.folder / "metrics.parquet")

    def check(self, name: str) -> None:
        """Raises StoreError `damaged_run` when a file of the run is not as it was published."""
        rows = run_manifest(self.folder)
        rows = rows[rows.part == name]
        path = self.folder / name
        if rows.empty or not path.is_file():
            raise StoreError(
                str(path), expected="a scored run", got="none", todo="Run `evaluate` first."
            )
        if stores.digest_of(path) != rows.digest.iloc[0]:
            raise _damaged_run(self.folder, f"an altered {name}")


def _damaged_run(folder: Path, got: str) -> StoreError:
    return StoreError(
        str(folder),
        expected="every file as it was published",
        got=got,
        todo="Run the recipe again: what is altered is made anew.",
        code="damaged_run",
    )


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


def find_run(text: str, workspace: Path | None = None) -> RunFiles:
    """A run from its folder's path, its short name in `workspace`, or WORKSPACE/NAME.

    Raises ConfigError when there is none (see `models.runs.names`), StoreError `damaged_run` when
    what it was asked or its split is not as it was written.
    """
    from models.runs.names import find_folder

    folder = find_folder(text, workspace)
    recorded = run_manifest(folder)
    for name in ("recipe.json", "split.json"):
        digests = recorded.digest[recorded.part == name].tolist()
        path = folder / name
        if digests and not (path.is_file() and stores.digest_of(path) in digests):
            raise _damaged_run(folder, f"an altered {name}")
    return RunFiles(folder)


def run_manifest(folder: Path) -> pd.DataFrame:
    """The run's manifest: a row per unit (a fold, the setup, scores, the report) and file.

    Empty before the first fold, and when it is damaged: no file can be trusted then.
    """
    return stores.read_records(folder).manifest


def run_times(folder: Path) -> dict[str, float]:
    """Seconds of each fold's training; none when the table is missing (it is only news)."""
    table = stores.read_timings(folder)
    found = {}
    for part, seconds in zip(table.part, table.seconds, strict=True):
        if part.startswith("fold-") and part.endswith("/model.json"):
            found[part.split("/")[0]] = float(seconds)
    return found


def fold_keys(folder: Path, kind: str = "fold-") -> dict[str, str]:
    """Unit → key of what the run's manifest names and begins with `kind`; its folds as it is."""
    rows = run_manifest(folder)
    return {u: k for u, k in zip(rows.unit, rows.key, strict=True) if u.startswith(kind)}


def done_folds(folder: Path, kind: str = "fold-", *, verify: bool = False) -> set[str]:
    """Those of `fold_keys` all of whose files are as recorded: size, and digest where it is quick.

    Files over QUICK_BYTES, the large networks' weights, are read only when `verify`.
    """
    wanted = fold_keys(folder, kind)
    bad, _ = why_not_fresh(
        folder, run_manifest(folder), wanted, 0, verify=verify, always_read=QUICK_BYTES
    )
    return set(wanted) - set(bad)
