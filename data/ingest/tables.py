"""Ingest: a dataset folder becomes the tables videos, frames, events, ledger; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from data.datasets import open_dataset
from data.datasets.base import Dataset
from data.datasets.census import account
from data.ingest.raw import blank_raw, with_raw_identity
from data.schema import LEDGER, SCHEMA_VERSION, conform
from data.stages.identity import stable_hash

VERSION = 3


@dataclass(frozen=True)
class IngestTables:
    """What ingest found. Tables follow `data.schema`; `findings` lists every defect and repair.

    The ledger has one row more than there are findings: reason `annotation_account`, what the sheet
    has = what was kept + what was dropped.

    `key` changes exactly when a table of contents does: other frames, other sheet, other code.
    """

    layout: str
    videos: pd.DataFrame
    frames: pd.DataFrame
    events: pd.DataFrame
    ledger: pd.DataFrame
    findings: pd.DataFrame
    raw: pd.DataFrame
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
    return IngestTables(
        layout,
        dataset.videos,
        dataset.frames,
        dataset.events,
        ledger,
        dataset.findings,
        blank_raw(),
        _key(layout, dataset.videos, dataset.events, ledger),
        dataset.variant,
        dataset.counts,
        dataset.show_faces,
    )


def with_raw(tables: IngestTables, raw: pd.DataFrame) -> IngestTables:
    """The same tables, knowing what readings of all bytes found (`data.ingest.raw`)."""
    videos = with_raw_identity(tables.videos, raw)
    same = videos is tables.videos
    key = tables.key if same else _key(tables.layout, videos, tables.events, tables.ledger)
    return replace(tables, videos=videos, raw=raw, key=key)


def _key(layout: str, *tables: pd.DataFrame) -> str:
    contents = [table.astype(object).to_numpy().tolist() for table in tables]
    return stable_hash("ingest", VERSION, SCHEMA_VERSION, layout, *contents)


def _with_account(dataset: Dataset) -> pd.DataFrame:
    """The ledger after a row about the dataset: rows of the sheet = events kept + rows dropped."""
    said = account(dataset.sheet, dataset.counts.get("rows_refused", 0))
    name = dataset.name
    row = {
        "stage": "ingest", "dataset": name, "unit": name, "kind": "dataset",
        "reason": "annotation_account", "detail": said, "action": "flagged",
    }  # fmt: skip
    first = conform(pd.DataFrame([row], columns=list(LEDGER)), "ledger")
    return pd.concat([first, dataset.ledger], ignore_index=True)
