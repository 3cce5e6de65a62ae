"""Emotion words and label maps: one spelling for each emotion, maps as data, drops with reasons.

The maps live in `data/datasets/labels/<dataset>.csv`, one row an emotion; an empty cell means the
emotion is dropped under that map and the column `why_dropped` says why.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from data.errors import ConfigError, DatasetError

MAPS = ("label_3", "label_4", "label_5", "label_7")
ALL_MAPS = (*MAPS, "valence")
FOLDER = Path(__file__).parent / "labels"
COLUMNS = ["emotion", *ALL_MAPS, "why_dropped"]

ALIASES = {
    "other": "others",
    "happy": "happiness",
    "happyiness": "happiness",
    "happines": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "surprised": "surprise",
    "contemptuous": "contempt",
    "repressed": "repression",
    "tension": "tense",
}


def normalise_emotion(word: str | None) -> str | None:
    """Canonical spelling: lower case, one word; "a+b" keeps both, sorted. Blank gives None."""
    if word is None:
        return None
    parts = [p.strip().lower() for p in word.replace(",", "+").split("+")]
    parts = sorted({ALIASES.get(p, p) for p in parts if p and p != "?"})
    return "+".join(parts) or None


@cache
def label_table(dataset: str) -> dict[str, dict[str, str]]:
    """Emotion -> row of the dataset's label map. Raises DatasetError for a malformed file."""
    path = FOLDER / f"{dataset}.csv"
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise DatasetError(
                path.name,
                expected=f"columns {COLUMNS}",
                got=str(reader.fieldnames),
                code="bad_label_map",
            )
        return {row["emotion"]: row for row in reader}


def label_of(dataset: str, label_map: str, emotion: str | None) -> str | None:
    """The class of an emotion under a map, None where it is dropped.

    A combined emotion ("positive+surprise") has a class only when all its parts agree on it.
    Raises ConfigError for an unknown map.
    """
    if label_map not in ALL_MAPS:
        raise ConfigError("label map", expected=f"one of {', '.join(ALL_MAPS)}", got=label_map)
    if emotion is None:
        return None
    table = label_table(dataset)
    classes = {table.get(part, {}).get(label_map) or None for part in emotion.split("+")}
    return classes.pop() if len(classes) == 1 else None


def map_labels(dataset: str, emotion: str | None) -> dict[str, str | None]:
    """label_3, label_4, label_5 and label_7 of an emotion (None = dropped under that map)."""
    return {name: label_of(dataset, name, emotion) for name in MAPS}


def why_dropped(dataset: str, label_map: str, emotion: str | None) -> str:
    """Why an emotion has no class under a map; "" when it has one."""
    if label_of(dataset, label_map, emotion) is not None:
        return ""
    if emotion is None:
        return "no emotion label"
    if not classes_of(dataset, label_map):
        return "the dataset has no classes of this map"
    table = label_table(dataset)
    unknown = [p for p in emotion.split("+") if p not in table]
    if unknown:
        return f"unknown emotion {', '.join(unknown)}"
    if "+" in emotion:
        return "combined emotions of different classes"
    return table[emotion]["why_dropped"] or "not a class of this map"


def classes_of(dataset: str, label_map: str) -> list[str]:
    """Sorted classes of a dataset's map."""
    rows: Iterable[dict[str, str]] = label_table(dataset).values()
    return sorted({row[label_map] for row in rows if row[label_map]})
