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
from data.export.names import safe_name, unique_names
from data.export.reading import OpenStores, known_dataset, open_store
from data.flow.fields import read_flow
from data.recordings import LABELS
from data.stages.files import read_table
from data.stages.workspace import Workspace

ONSET_APEX = "onset_apex"
TEXTS = (*LABELS, "emotion")


@dataclass(frozen=True)
class Sample:
    """One event with a label: `subject` and `name` are names of files, unique over the datasets."""

    dataset: str
    event: str
    subject: str
    person: str
    name: str  # the subject, then what the event's id says besides
    label: str
    row: Any  # of ingest's events table


def labelled(
    workspace: Workspace, datasets: Sequence[str], label: str, only_flow: bool = True
) -> list[Sample]:
    """Micro-expressions with this label (and flow, if asked), by dataset and event.

    A subject's name that occurs in two datasets, of one person or two, gets the dataset before it;
    names that would still be the same as files get a hash behind. Raises ConfigError for an unknown
    label, StoreError `no_data` without ingest or flow, and where no event has the label.
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
    spelled = table.groupby("subject").dataset.nunique()
    shared = set(spelled[spelled > 1].index)
    rows = list(table.sort_values(["dataset", "event"]).itertuples())
    subjects = unique_names(
        {
            (r.dataset, r.subject): safe_name(f"{r.dataset}-{r.subject}" if r.subject in shared
                                              else str(r.subject))
            for r in rows
        }
    )  # fmt: skip
    names = unique_names(
        {(r.dataset, r.event): f"{subjects[r.dataset, r.subject]}_{_clip(r)}" for r in rows}
    )
    return [
        Sample(
            r.dataset, r.event, subjects[r.dataset, r.subject], r.person,
            names[r.dataset, r.event], str(getattr(r, label)), r,
        )
        for r in rows
    ]  # fmt: skip


def _clip(row: Any) -> str:
    """What an event's id says besides its subject."""
    clip = str(row.event).removeprefix(f"{row.subject}/").removeprefix(f"{row.subject}_")
    return safe_name(re.sub(r"[/\\]", "_", clip))


def events_of(workspace: Workspace, dataset: str) -> pd.DataFrame:
    """Ingest's events of a dataset, labels as text. Raises StoreError `no_data` without them."""
    known_dataset(workspace, dataset, "ingest")
    path = workspace.stage(dataset, "ingest") / "events.parquet"
    events = read_table(path)
    for name in TEXTS:
        events[name] = events[name].astype("string")
    return events


def with_flow(
    stores: OpenStores, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, npt.NDArray[np.float32], tuple[int, int]]]:
    """Samples that have onset→apex, with that field and the two frames as flow took them.

    A field is float32 (H, W, 3): u, v in px of the crop and strain.
    """
    for dataset in dict.fromkeys(s.dataset for s in samples):
        store = stores.of(dataset, "flow")
        for sample in (s for s in samples if s.dataset == dataset):
            with store.open(sample.event) as group:
                kinds = list(group["kind"].asstr()[:])
                if ONSET_APEX not in kinds:
                    continue
                at = kinds.index(ONSET_APEX)
                strain = group["strain"][at].astype(np.float32)
                field = np.concatenate([read_flow(group, at), strain[..., None]], axis=-1)
                onset, apex = map(int, group["pairs"][at])
                yield sample, field, (onset, apex)


def free_folder(out: Path) -> None:
    """Raises ConfigError `folder_not_empty` where files of another export would be mixed in."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            str(out), expected="a new or empty folder", got="files in it", code="folder_not_empty"
        )
