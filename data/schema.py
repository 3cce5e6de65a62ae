"""Columns and types of the tables that ingest writes: one schema for clips and long videos.

Indices (`onset`, `apex`, `offset`, `index`) are zero-based positions in the video's own frame list,
inclusive. `*_number` and `number` are the files' own numbers, for people and sheets only.
"""

from __future__ import annotations

import pandas as pd

from data.errors import StoreError

SCHEMA_VERSION = 2

VIDEOS = {
    "dataset": "string",
    "subject": "string",
    "person": "string",
    "video": "string",
    "fps": "float64",
    "num_frames": "int64",
    "width": "Int64",
    "height": "Int64",
    "kind": "string",  # clip | long
    "source": "string",  # frames | video_file
    "folder": "string",  # posix, relative to the dataset root
    "identity": "string",
    "provided_crop": "bool",
    "show_faces": "bool",
    "synthetic": "boolean",  # drawn people, by our generator's truth file; null: not known
}

FRAMES = {
    "video": "string",
    "index": "int32",
    "number": "Int64",
    "path": "string",
    "time_s": "float64",  # after the first frame, by the container's clock; null: it has none
}

EVENTS = {
    "dataset": "string",
    "subject": "string",
    "person": "string",
    "video": "string",
    "event": "string",
    "onset": "Int64",
    "apex": "Int64",
    "offset": "Int64",
    "onset_number": "Int64",
    "apex_number": "Int64",
    "offset_number": "Int64",
    "type": "string",  # micro | macro | blink
    "aus": "string",
    "emotion": "string",
    "label_3": "string",
    "label_4": "string",
    "label_5": "string",
    "label_7": "string",
    "objective_class": "Int64",
}

LEDGER = {
    "stage": "string",
    "dataset": "string",
    "unit": "string",
    "kind": "string",  # dataset | video | event | frame | row | file | fold
    "reason": "string",
    "detail": "string",
    "action": "string",  # dropped | repaired | flagged
    "key": "string",  # of the unit's result that the row is about; null where there is none
}

TABLES = {"videos": VIDEOS, "frames": FRAMES, "events": EVENTS, "ledger": LEDGER}


def conform(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with exactly the columns of schema `name`, in order and typed.

    Missing nullable columns become null. Raises StoreError for an unknown column or a value that
    does not fit its type.
    """
    columns = TABLES[name]
    unknown = [c for c in table.columns if c not in columns]
    if unknown:
        raise StoreError(
            f"table {name}", expected=f"columns {list(columns)}", got=f"unknown {unknown}"
        )
    typed = {}
    for column, kind in columns.items():
        nothing = float("nan") if kind == "float64" else pd.NA
        values = table[column] if column in table else pd.Series(nothing, index=table.index)
        try:
            typed[column] = values.astype(kind)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"table {name}, column {column}", expected=kind, got=str(error)
            ) from error
    return pd.DataFrame(typed, columns=list(columns)).reset_index(drop=True)


def empty(name: str) -> pd.DataFrame:
    """An empty, typed table of schema `name`."""
    return conform(pd.DataFrame(columns=list(TABLES[name])), name)
