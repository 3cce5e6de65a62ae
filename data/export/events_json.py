"""Events of datasets as one JSON file in COCO's manner: videos, categories, annotations.

    {"info": {...}, "videos": [{"id", "dataset", "name", "subject", "person", "fps", "frames"}],
     "categories": [{"id", "name"}],
     "annotations": [{"id", "video_id", "event", "category_id", "type", "segment": [onset, offset],
                      "apex", "segment_s", "numbers", "aus", "emotion", "labels"}]}

`segment` and `apex` are indices into the video's own frames from 0, inclusive; `numbers` the files'
own. A category is an emotion; an event without one has category null. Nothing of a face is in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import InputError
from data.export.reading import known_dataset
from data.plain_json import read_object
from data.recordings import LABELS
from data.schema import EVENTS, SCHEMA_VERSION, conform
from data.stages.files import read_table, replacing
from data.stages.workspace import Workspace

FORMAT = "apexflow-events"
MARKS = ("onset", "apex", "offset")


def export_events(workspace: Workspace, datasets: Sequence[str], path: Path) -> int:
    """Write all events of the datasets; returns how many. Raises StoreError `no_data`."""
    videos, events = [], []
    for dataset in datasets:
        known_dataset(workspace, dataset, "ingest")
        folder = workspace.stage(dataset, "ingest")
        videos.append(read_table(folder / "videos.parquet"))
        events.append(read_table(folder / "events.parquet"))
    every = pd.concat(videos, ignore_index=True)
    rows = pd.concat(events, ignore_index=True)
    ids = {(v.dataset, v.video): i for i, v in enumerate(every.itertuples(), start=1)}
    rates = {(v.dataset, v.video): float(v.fps) for v in every.itertuples()}
    names = sorted(rows.emotion.dropna().unique())
    categories = {name: i for i, name in enumerate(names, start=1)}
    content = {
        "info": {"format": FORMAT, "schema": SCHEMA_VERSION, "datasets": list(datasets)},
        "videos": [
            {"id": ids[v.dataset, v.video], "dataset": v.dataset, "name": v.video,
             "subject": v.subject, "person": v.person, "fps": float(v.fps),
             "frames": int(v.num_frames)} for v in every.itertuples()
        ],
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
        "annotations": [
            _annotation(number, row, ids, rates, categories)
            for number, row in enumerate(rows.to_dict("records"), start=1)
        ],
    }  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return len(rows)


def _annotation(
    number: int,
    row: dict[Any, Any],
    ids: dict[tuple[str, str], int],
    rates: dict[tuple[str, str], float],
    categories: dict[str, int],
) -> dict[str, Any]:
    key = (row["dataset"], row["video"])
    onset, offset = int(row["onset"]), int(row["offset"])
    fps = rates[key]
    return {
        "id": number,
        "video_id": ids[key],
        "event": row["event"],
        "category_id": categories.get(row["emotion"]) if pd.notna(row["emotion"]) else None,
        "type": row["type"],
        "segment": [onset, offset],
        "apex": _plain(row["apex"]),
        "segment_s": [round(onset / fps, 6), round((offset + 1) / fps, 6)],
        "numbers": [_plain(row[f"{mark}_number"]) for mark in MARKS],
        "aus": _plain(row["aus"]),
        "emotion": _plain(row["emotion"]),
        "labels": {name: _plain(row[name]) for name in LABELS},
    }


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value if isinstance(value, str) else int(value)


def read_events(path: Path) -> pd.DataFrame:
    """The events table that was exported, in the project's schema.

    Raises InputError `bad_events_file` for another file.
    """
    try:
        content = read_object(path)
        if content["info"]["format"] != FORMAT:
            raise ValueError(f"format {content['info']['format']!r}")
        videos = {v["id"]: v for v in content["videos"]}
        rows = []
        for one in content["annotations"]:
            video = videos[one["video_id"]]
            marks = dict(zip(MARKS, (one["segment"][0], one["apex"], one["segment"][1]),
                             strict=True))  # fmt: skip
            numbers = dict(zip((f"{m}_number" for m in MARKS), one["numbers"], strict=True))
            rows.append({
                "dataset": video["dataset"], "subject": video["subject"],
                "person": video["person"], "video": video["name"], "event": one["event"],
                "type": one["type"], "aus": one["aus"], "emotion": one["emotion"],
                **marks, **numbers, **one["labels"],
            })  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            str(path), expected="a file that `export events` wrote", got=f"{error!r}"[:200],
            code="bad_events_file",
        ) from error  # fmt: skip
    return conform(pd.DataFrame(rows, columns=list(EVENTS)), "events")
