"""What an export reads: stores with data, and faces only where they may leave."""

from __future__ import annotations

from collections.abc import Iterable

from data.errors import ConfigError, StoreError
from data.pictures.drawing import faces_shown
from data.stages.files import read_table
from data.stages.stores import StageStore, read_manifest
from data.stages.workspace import Workspace


def known_dataset(workspace: Workspace, dataset: str, stage: str) -> None:
    """A dataset's name is a folder in the workspace, never a way out of it."""
    known = workspace.datasets()
    if dataset not in known:
        raise no_data(dataset[:80], stage, f" The workspace holds {', '.join(known) or 'none'}.")


def open_store(workspace: Workspace, dataset: str, stage: str) -> StageStore:
    """A stage's store. Raises StoreError `no_data` where the dataset or the store is not there."""
    known_dataset(workspace, dataset, stage)
    if read_manifest(workspace.stage(dataset, stage)).empty:
        raise no_data(dataset, stage)
    return StageStore(workspace, dataset, stage)


class OpenStores:
    """Stores of several datasets, each opened when it is first asked for, closed at the end."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._found: dict[tuple[str, str], StageStore] = {}

    def of(self, dataset: str, stage: str) -> StageStore:
        """See `open_store`."""
        if (dataset, stage) not in self._found:
            self._found[dataset, stage] = open_store(self.workspace, dataset, stage)
        return self._found[dataset, stage]

    def __enter__(self) -> OpenStores:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._found.values():
            store.close()


def no_data(dataset: str, stage: str, more: str = "") -> StoreError:
    """The error for a dataset or stage without data."""
    return StoreError(
        f"{dataset}/{stage}",
        expected="a finished store",
        got="none",
        todo=f"Run the {stage} stage first.{more}",
        code="no_data",
    )


def chosen_units(store: StageStore, asked: Iterable[str] | None) -> list[str]:
    """The asked units, or all with data. Raises StoreError for one that has none."""
    if asked is None:
        return store.units()
    chosen = list(dict.fromkeys(asked))
    for unit in chosen:
        if store.status(unit) != "ok":
            raise StoreError(
                f"{store.dataset}/{store.stage}/{unit}",
                expected="a unit with data",
                got=f"status {store.status(unit)}",
                code="no_data",
            )
    return chosen


def refuse_hidden_faces(
    workspace: Workspace, dataset: str, videos: Iterable[str], with_faces: bool
) -> None:
    """Raises ConfigError `faces_not_shown` for videos whose faces may not be passed on."""
    table = read_table(workspace.stage(dataset, "ingest") / "videos.parquet")
    hidden = set(videos) - faces_shown(table, with_faces)
    if hidden:
        raise ConfigError(
            f"export crops of {dataset}",
            expected="a dataset whose faces may be passed on",
            got=f"a licence that forbids it ({len(hidden)} videos)",
            todo="For your own eyes, repeat with --with-faces. Flow and tables show no face.",
            code="faces_not_shown",
        )
