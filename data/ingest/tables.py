"""Ingest: a dataset folder becomes the tables videos, frames, events, ledger; pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.datasets import Dataset, open_dataset
from data.datasets.census import account
from data.schema import LEDGER, SCHEMA_VERSION, conform
from data.stages.identity import stable_hash

VERSION = 2


@dataclass(frozen=True)
class IngestTables:
    """What ingest found. Tables follow `data.schema`; `findings` lists every defect and repair.

    The ledger has one row more than there are findings: reason `annotation_account`, what the sheet
    has = what was kept + what was dropped.

    `key` changes exactly when a table of contents does: other frames, other sheet, other code.
    """

    videos: pd.DataFrame
    frames: pd.DataFrame
    events: pd.DataFrame
    ledger: pd.DataFrame
    findings: pd.DataFrame
    key: str
    variant: dict[str, str]
    counts: dict[str, int]
    show_faces: bool


def ingest(root: Path, layout: str) -> IngestTables:
    """Read the dataset at `root` as `layout` (see `data.datasets.ADAPTERS`).

    Raises DatasetError when nothing of it can be used; everything smaller is a ledger row.
    """
    dataset = open_dataset(layout, root)
    ledger = _with_account(dataset)
    key = stable_hash(
        "ingest",
        VERSION,
        SCHEMA_VERSION,
        layout,
        dataset.videos.astype(object).to_numpy().tolist(),
        dataset.events.astype(object).to_numpy().tolist(),
        ledger.astype(object).to_numpy().tolist(),
    )
    return IngestTables(
        dataset.videos,
        dataset.frames,
        dataset.events,
        ledger,
        dataset.findings,
        key,
        dataset.variant,
        dataset.counts,
        dataset.show_faces,
    )


def _with_account(dataset: Dataset) -> pd.DataFrame:
    """The ledger after a row about the dataset: rows of the sheet = events kept + rows dropped."""
    said = account(dataset.sheet, dataset.counts.get("rows_refused", 0))
    name = dataset.name
    row = ["ingest", name, name, "dataset", "annotation_account", said, "flagged", None]
    first = conform(pd.DataFrame([row], columns=list(LEDGER)), "ledger")
    return pd.concat([first, dataset.ledger], ignore_index=True)
