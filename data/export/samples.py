"""Labelled events as others train on them: one list of several datasets' events with their flow.

What leaves is flow, never a face, unless a caller reads crops by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import ConfigError, StoreError
from data.export.names import safe_name
from data.export.reading import known_dataset, open_store
from data.flow.fields import read_flow
from data.recordings import LABELS
from data.stages.files import read_table
from data.stages.workspace import Workspace

ONSET_APEX = "onset_apex"
TEXTS = (*LABELS, "emotion")


@dataclass(frozen=True)
class Sample:
    """One event with a label: `subject` unique over the datasets, `clip` unique in the subject."""

    dataset: str
    event: str
    subject: str
    person: str
    clip: str
    label: str
    row: Any  # of ingest's events table

    @property
    def name(self) -> str:
        """One file name that is unique over the datasets."""
        return f"{self.subject}_{self.clip}"


def labelled(
    workspace: Workspace, datasets: Sequence[str], label: str, only_flow: bool = True
) -> list[Sample]:
    """Micro-expressions with this label (and flow, if asked), by dataset and event.

    A subject's name that two datasets give to different people gets the dataset before it. Raises
    ConfigError for an unknown label, StoreError `no_data` without ingest or flow, and where no
    event has the label.
    """
    if label not in TEXTS:
        raise ConfigError("--label", expected=f"one of {', '.join(TEXTS)}", got=label)
    tables = []
    for dataset in datasets:
        events = events_of(workspace, dataset)
        if only_flow:
            store = open_store(workspace, dataset, "flow")
            events = events[events.event.isin(store.units())]
            store.close()
        tables.append(events[(events.type == "micro") & events[label].notna()])
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        raise StoreError(
            f"export of {', '.join(datasets) or 'no dataset'}",
            expected=f"micro-expressions with a {label}" + (" and flow" if only_flow else ""),
            got="none",
            code="no_data",
        )
    owners = table.groupby("subject").person.nunique()
    shared = set(owners[owners > 1].index)
    rows = table.sort_values(["dataset", "event"]).itertuples()
    return [_sample(row, str(getattr(row, label)), row.subject in shared) for row in rows]


def _sample(row: Any, label: str, shared: bool) -> Sample:
    subject = safe_name(f"{row.dataset}-{row.subject}" if shared else str(row.subject))
    clip = str(row.event).removeprefix(f"{row.subject}/").removeprefix(f"{row.subject}_")
    return Sample(
        row.dataset, row.event, subject, row.person, safe_name(re.sub(r"[/\\]", "_", clip)),
        label, row,
    )  # fmt: skip


def events_of(workspace: Workspace, dataset: str) -> pd.DataFrame:
    """Ingest's events of a dataset, labels as text. Raises StoreError `no_data` without them."""
    known_dataset(workspace, dataset, "ingest")
    path = workspace.stage(dataset, "ingest") / "events.parquet"
    events = read_table(path)
    for name in TEXTS:
        events[name] = events[name].astype("string")
    return events


def with_flow(
    workspace: Workspace, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, npt.NDArray[np.float32]]]:
    """Samples with u, v (px of the crop) and strain of onset→apex, float32 (H, W, 3)."""
    for dataset in dict.fromkeys(s.dataset for s in samples):
        store = open_store(workspace, dataset, "flow")
        for sample in (s for s in samples if s.dataset == dataset):
            with store.open(sample.event) as group:
                kinds = list(group["kind"].asstr()[:])
                if ONSET_APEX not in kinds:
                    continue
                at = kinds.index(ONSET_APEX)
                strain = group["strain"][at].astype(np.float32)
                yield sample, np.concatenate([read_flow(group, at), strain[..., None]], axis=-1)
        store.close()


def free_folder(out: Path) -> None:
    """Raises ConfigError `folder_not_empty` where files of another export would be mixed in."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            str(out), expected="a new or empty folder", got="files in it", code="folder_not_empty"
        )
