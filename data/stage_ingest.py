"""Ingest: a dataset folder becomes the tables videos, frames, events, ledger; pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.datasets import open_dataset
from data.identity import stable_hash
from data.schema import SCHEMA_VERSION

VERSION = 1


@dataclass(frozen=True)
class IngestTables:
    """What ingest found. Tables follow `data.schema`; `findings` lists every defect and repair.

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
    key = stable_hash(
        "ingest",
        VERSION,
        SCHEMA_VERSION,
        layout,
        dataset.videos.astype(object).to_numpy().tolist(),
        dataset.events.astype(object).to_numpy().tolist(),
        dataset.ledger.astype(object).to_numpy().tolist(),
    )
    return IngestTables(
        dataset.videos,
        dataset.frames,
        dataset.events,
        dataset.ledger,
        dataset.findings,
        key,
        dataset.variant,
        dataset.counts,
        dataset.show_faces,
    )
