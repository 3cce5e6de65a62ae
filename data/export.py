"""Stores to ordinary files: crops as PNG, flow as .npy, tables as CSV, intervals in MEGC's form.

What is written can be read by anything and is never read back here; no cell begins like a
formula. Ids become folder names inside `out`, made safe: no id leads out of it, and two ids never
share a name. Faces of datasets whose licence forbids passing them on leave only when asked for by
name.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.align.crops import CropReader
from data.errors import ConfigError, InputError, StoreError
from data.pictures.drawing import faces_shown, png_bytes
from data.recordings import Recordings
from data.stages.files import read_table, replacing
from data.stages.identity import stable_hash
from data.stages.stores import StageStore, read_manifest
from data.stages.workspace import Workspace

MEGC_COLUMNS = ("vid", "pred_onset", "pred_offset", "type")
TABLES = ("videos", "frames", "events", "ledger", "findings")
LONGEST_NAME = 80
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE)
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
    store = _store(workspace, dataset, "align")
    chosen = _chosen(store, videos)
    _refuse_hidden_faces(workspace, dataset, chosen, with_faces)
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


def _refuse_hidden_faces(
    workspace: Workspace, dataset: str, videos: Iterable[str], with_faces: bool
) -> None:
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
    store = _store(workspace, dataset, "align")
    span = None
    if event is not None:
        table = read_table(workspace.stage(dataset, "ingest") / "events.parquet")
        row = table.set_index("event").loc[_known(event, table.event, f"event of {dataset}")]
        video, marks = str(row.video), (row.onset, row.offset)
        span = None if any(pd.isna(m) for m in marks) else (int(row.onset), int(row.offset))
    video = _known(video, store.manifest.unit, f"video of {dataset}")
    _chosen(store, [video])
    _refuse_hidden_faces(workspace, dataset, [video], with_faces)
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

    store = _store(workspace, dataset, "flow")
    chosen = _chosen(store, events)
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
    _write_csv(out / "pairs.csv", ("event", "kind", "from", "to", "file"), rows)
    return len(rows)


def export_tables(workspace: Workspace, dataset: str, out: Path) -> int:
    """Ingest's tables, the apex table and every stage's ledger as CSV; returns files written.

    Nulls are empty cells; a curve is a JSON list; a text that begins like a formula gets a quote
    before it. Raises StoreError `no_data` when the dataset was not ingested.
    """
    _known_dataset(workspace, dataset, "ingest")
    folder = workspace.stage(dataset, "ingest")
    found = {name: folder / f"{name}.parquet" for name in TABLES}
    tables = {name: read_table(path) for name, path in found.items() if path.exists()}
    if not tables:
        raise _no_data(dataset, "ingest")
    for stage in ("align", "registration", "apex", "flow", "motion"):
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
        with replacing(out / f"{name}.csv", "export") as temporary:
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
    _write_csv(path, MEGC_COLUMNS, ordered)
    return len(ordered)


def safe_name(text: str) -> str:
    """One file name that cannot leave its folder: letters of any script, digits, `.`, `-`, `_`."""
    name = re.sub(r"[^\w.\- ]+", "_", text).strip(" ").lstrip(".")[:LONGEST_NAME].rstrip(" .")
    return name or "_"


def safe_folders(out: Path, ids: Iterable[str]) -> dict[str, Path]:
    """A folder under `out` for every id; slashes in an id make folders, `..` and the like do not.

    Ids that would share a folder (also where upper and lower case are one) get a hash behind.
    Raises InputError when a link inside `out` would lead one outside.
    """
    base, taken, found = out.resolve(), dict[str, str](), {}
    for unit in sorted(ids):
        steps = [step for step in re.split(r"[/\\]", unit) if step not in ("", ".", "..")]
        parts = [safe_name(step) for step in steps] or ["_"]
        relative = "/".join(parts)
        if relative.casefold() in taken:
            parts[-1] += f"-{stable_hash(unit)[:8]}"
            relative = "/".join(parts)
        taken[relative.casefold()] = unit
        path = base / relative
        if not path.resolve().is_relative_to(base):
            raise InputError(
                f"export of {unit}",
                expected=f"a folder inside {out}",
                got=f"a link to {path.resolve()}",
                todo="Export to an empty folder.",
            )
        found[unit] = path
    return found


def defused(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a quote before what begins like one.

    Ids and sheet texts come from strangers' files; `=HYPERLINK(...)` in one would run on opening.
    """
    if not isinstance(value, str) or not value.startswith(FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def _known_dataset(workspace: Workspace, dataset: str, stage: str) -> None:
    """A dataset's name is a folder in the workspace, never a way out of it."""
    known = workspace.datasets()
    if dataset not in known:
        raise _no_data(dataset[:80], stage, f" The workspace holds {', '.join(known) or 'none'}.")


def _store(workspace: Workspace, dataset: str, stage: str) -> StageStore:
    _known_dataset(workspace, dataset, stage)
    if read_manifest(workspace.stage(dataset, stage)).empty:
        raise _no_data(dataset, stage)
    return StageStore(workspace, dataset, stage)


def _no_data(dataset: str, stage: str, more: str = "") -> StoreError:
    return StoreError(
        f"{dataset}/{stage}",
        expected="a finished store",
        got="none",
        todo=f"Run the {stage} stage first.{more}",
        code="no_data",
    )


def _chosen(store: StageStore, asked: Iterable[str] | None) -> list[str]:
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


def _json_list(value: Any) -> str:
    return json.dumps(value.tolist()) if isinstance(value, np.ndarray) else ""


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([defused(cell) for cell in row] for row in rows)
    with replacing(path, "export") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
