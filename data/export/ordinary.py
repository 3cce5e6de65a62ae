"""Stores to ordinary files: crops as PNG, flow as .npy, tables as CSV, intervals in MEGC's form.

What is written can be read by anything and is never read back here; no cell begins like a
formula. Ids become folder names inside `out`, made safe: no id leads out of it, and two ids never
share a name. Faces of datasets whose licence forbids passing them on leave only when asked for by
name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.align.crops import CropReader
from data.errors import ConfigError, InputError
from data.export.names import defused, safe_folders, safe_name, write_csv
from data.export.reading import (
    chosen_units,
    known_dataset,
    no_data,
    open_store,
    refuse_hidden_faces,
)
from data.pictures.drawing import png_bytes
from data.recordings import Recordings
from data.stages.files import read_table, replacing
from data.stages.registry import STAGES
from data.stages.stores import StageStore
from data.stages.workspace import Workspace

MEGC_COLUMNS = ("vid", "pred_onset", "pred_offset", "type")
TABLES = ("videos", "frames", "events", "ledger", "findings")
CLIP_SUFFIXES = (".mp4", ".gif")


def export_crops(
    workspace: Workspace,
    dataset: str,
    out: Path,
    *,
    with_faces: bool = False,
    videos: Iterable[str] | None = None,
) -> int:
    """Aligned crops as `out/VIDEO/000000.png` (name = frame index); returns how many were written.

    With `align.store: transforms` they are cut from the raw frames. Raises ConfigError
    `faces_not_shown` for a dataset whose faces may not be passed on, unless `with_faces`;
    StoreError `no_data` without aligned videos, `no_raw_frames` where frames are needed and gone.
    """
    store = open_store(workspace, dataset, "align")
    chosen = chosen_units(store, videos)
    refuse_hidden_faces(workspace, dataset, chosen, with_faces)
    reader, count = CropReader(workspace, dataset), 0
    folders = safe_folders(out, chosen)
    for video in chosen:
        folders[video].mkdir(parents=True, exist_ok=True)
        with store.open(video) as group:
            crops = reader.crops(video, group)
            for index in range(len(crops)):  # one at a time: a long video never lies in memory
                path = folders[video] / f"{index:06d}.png"
                path.write_bytes(png_bytes(np.asarray(crops[index])))
                count += 1
    store.close()
    return count


def export_before_after(
    workspace: Workspace,
    dataset: str,
    path: Path,
    *,
    video: str | None = None,
    event: str | None = None,
    root: Path | None = None,
    fps: float = 25.0,
    with_faces: bool = False,
) -> str:
    """A short film (.mp4 or .gif) of a video, or of one event of it, before and after alignment.

    Left the reference frame's crop square in every raw frame, right the aligned crop. `root` is the
    dataset's folder, by default the one the last run noted. Returns one line that says what was
    written. Raises ConfigError `unknown_unit` (naming some that exist) and `faces_not_shown`,
    StoreError `no_data` and `no_raw_frames`, InputError for another ending or an unreadable frame.
    """
    from data.align.pictures import export_clip

    if path.suffix not in CLIP_SUFFIXES or fps <= 0:
        raise ConfigError(
            "clip", expected=f"a name ending in {' or '.join(CLIP_SUFFIXES)}, and fps above 0",
            got=f"{path.name} at {fps:g} fps",
        )  # fmt: skip
    store = open_store(workspace, dataset, "align")
    span = None
    if event is not None:
        table = read_table(workspace.stage(dataset, "ingest") / "events.parquet")
        row = table.set_index("event").loc[_known(event, table.event, f"event of {dataset}")]
        video, marks = str(row.video), (row.onset, row.offset)
        span = None if any(pd.isna(m) for m in marks) else (int(row.onset), int(row.offset))
    video = _known(video, store.manifest.unit, f"video of {dataset}")
    chosen_units(store, [video])
    refuse_hidden_faces(workspace, dataset, [video], with_faces)
    frames = Recordings(workspace, dataset, root).frames(video)
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.open(video) as group:
        last = len(group["status"]) - 1
        span = (0, last) if span is None else (max(0, span[0]), min(last, span[1]))
        export_clip(group, frames, path, span=span, fps=fps)
        mode = str(group.attrs["mode"])
    store.close()
    what = f"{dataset} {event or video}, frames {span[0]}-{span[1]}"
    return f"{what}: before and after align.mode {mode}, {span[1] - span[0] + 1} frames to {path}"


def _known(asked: str | None, names: Iterable[Any], what: str) -> str:
    """The id asked for. Raises ConfigError with some that exist for none or an unknown one."""
    known = sorted(map(str, names))
    if asked not in known:
        near = get_close_matches(asked or "", known, 3, 0.3) or known[:3]
        raise ConfigError(
            what,
            expected="the id of one, as ingest's tables spell it",
            got="none" if asked is None else asked,
            todo=f"For example {', '.join(near)} ({len(known)} in all)." if near else "",
            code="unknown_unit",
        )
    return asked or ""


def export_flow(
    workspace: Workspace, dataset: str, out: Path, *, events: Iterable[str] | None = None
) -> int:
    """Flow fields as `out/EVENT/KIND_FROM_TO.npy`, strain beside them; returns fields written.

    A field is float32 (H, W, 2), (dx, dy) in pixels of the crop, x right, y down; `_strain.npy` is
    float32 (H, W). `out/pairs.csv` lists them all. Raises StoreError `no_data` without flow.
    """
    from data.flow.fields import read_flow

    store = open_store(workspace, dataset, "flow")
    chosen = chosen_units(store, events)
    folders, rows = safe_folders(out, chosen), []
    for event in chosen:
        folders[event].mkdir(parents=True, exist_ok=True)
        with store.open(event) as group:
            kinds = group["kind"].asstr()[:]
            for number, (kind, (start, end)) in enumerate(zip(kinds, group["pairs"], strict=True)):
                name = f"{safe_name(str(kind))}_{start:06d}_{end:06d}"
                path = folders[event] / f"{name}.npy"
                np.save(path, read_flow(group, number))
                np.save(
                    folders[event] / f"{name}_strain.npy",
                    group["strain"][number].astype(np.float32),
                )
                rows.append((event, str(kind), int(start), int(end), path.relative_to(out)))
    store.close()
    write_csv(out / "pairs.csv", ("event", "kind", "from", "to", "file"), rows)
    return len(rows)


def export_tables(workspace: Workspace, dataset: str, out: Path) -> int:
    """Ingest's tables, the apex table and every stage's ledger as CSV; returns files written.

    Nulls are empty cells; a curve is a JSON list; a text that begins like a formula gets a quote
    before it. Raises StoreError `no_data` when the dataset was not ingested.
    """
    known_dataset(workspace, dataset, "ingest")
    folder = workspace.stage(dataset, "ingest")
    found = {name: folder / f"{name}.parquet" for name in TABLES}
    tables = {name: read_table(path) for name, path in found.items() if path.exists()}
    if not tables:
        raise no_data(dataset, "ingest")
    for stage in STAGES:
        path = workspace.stage(dataset, stage) / "ledger.parquet"
        if path.exists():
            tables[f"{stage}_ledger"] = read_table(path)
    apex = StageStore(workspace, dataset, "apex")
    if apex.units():
        tables["apex"] = apex.table()
    for name, table in tables.items():
        plain = table.copy()
        for column in table.columns:
            if any(isinstance(value, np.ndarray) for value in table[column].head(1)):
                plain[column] = table[column].map(_json_list)
            elif not pd.api.types.is_numeric_dtype(table[column]):
                plain[column] = table[column].map(defused)
        with replacing(out / f"{name}.csv") as temporary:
            plain.to_csv(temporary, index=False, lineterminator="\n")
    return len(tables)


def write_megc_csv(rows: Iterable[tuple[str, int, int, str]], path: Path) -> int:
    """Intervals in MEGC's form, `vid,pred_onset,pred_offset,type`; returns how many.

    Frames are the files' own numbers, inclusive; type is "me" or "mae". Rows are sorted by video
    and onset. Raises InputError for an interval that ends before it begins or another type.
    """
    ordered = sorted(rows)
    for row in ordered:
        if row[2] < row[1] or row[3] not in ("me", "mae"):
            raise InputError(
                f"MEGC row of {row[0]}", expected="onset ≤ offset, type me or mae", got=str(row)
            )
    write_csv(path, MEGC_COLUMNS, ordered)
    return len(ordered)


def _json_list(value: Any) -> str:
    return json.dumps(value.tolist()) if isinstance(value, np.ndarray) else ""
