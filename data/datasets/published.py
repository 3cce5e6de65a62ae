"""Fold lists as others published them, read into one table: fold, role, event, person, video."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from data.datasets.csv_text import read_csv
from data.datasets.parsing import identifier, text
from data.datasets.report import corrections
from data.errors import SplitError

Rows = list[dict[str, str]]
NEEDED = {"subject", "filename", "onset"}


def read_rows(path: Path, header: list[str] | None = None) -> Rows:
    """Rows of a CSV file as dicts with lower-case keys; blank rows are passed over.

    Raises SplitError `bad_fold_file` when it cannot be read.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file")
        table = read_csv(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SplitError(
            str(path), expected="a readable CSV file", got=str(error), code="bad_fold_file"
        ) from error
    lines = [words for row in table if any(words := [text(c) for c in row])]
    names = header or [c.lower() for c in (lines.pop(0) if lines else [])]
    return [dict(zip(names, row, strict=False)) for row in lines]


def casme3_event(row: dict[str, str], path: Path) -> dict[str, str]:
    """Event, video and person of a row `Subject,Filename,Onset,...` of a CAS(ME)^3 list.

    The list may carry a frame number that a published correction replaces; ids use the new one.
    """
    if not row.keys() >= NEEDED or not re.fullmatch(r"\d+", row["onset"]):
        raise SplitError(
            str(path),
            expected="columns Subject, Filename, Onset",
            got=str(row),
            code="bad_fold_file",
        )
    subject, letter, onset = row["subject"], row["filename"], row["onset"]
    fix = corrections("casme3").get((f"{subject}/{letter}_{onset}", "onset", onset))
    kind = "_macro" if row.get("expression type", "").lower().startswith("macro") else ""
    return {
        "event": f"{subject}_{letter}_{fix.new if fix else onset}{kind}",
        "video": f"casme3:{subject}/{letter}",
        "person": f"casme3:{subject}",
    }


def hsta(train: str) -> Callable[[Path], pd.DataFrame]:
    """Reader of the HSTA authors' folder whose training files are called `train`_fold_<n>.csv."""

    def read(folder: Path) -> pd.DataFrame:
        tests = sorted(folder.glob("test_fold_*.csv")) if folder.is_dir() else []
        if not tests:
            raise SplitError(
                str(folder),
                expected="a folder with test_fold_1.csv ...",
                got="none",
                code="no_fold_files",
            )
        rows = []
        for test in tests:
            fold = test.stem.removeprefix("test_fold_")
            for role, path in (("test", test), ("train", folder / f"{train}_fold_{fold}.csv")):
                for row in read_rows(path):
                    rows.append({"fold": fold, "role": role, **casme3_event(row, path)})
        return pd.DataFrame(rows, columns=["fold", "role", "event", "person", "video"])

    return read


def megc2019(path: Path) -> pd.DataFrame:
    """The composite list: leave one subject out over three databases, ids "dataset:event"."""
    clips = [composite_clip(r, path) for r in composite_rows(path)]
    rows = []
    for person in sorted({c["person"] for c in clips}):
        for clip in clips:
            role = "test" if clip["person"] == person else "train"
            rows.append({"fold": person, "role": role, **clip})
    return pd.DataFrame(rows, columns=["fold", "role", "event", "person", "video", "label"])


def composite_rows(path: Path) -> Rows:
    """Rows database, subject, clip, label of `combined_3class_gt.csv`, with or without header."""
    rows = read_rows(path, ["database", "subject", "clip", "label"])
    return [r for r in rows if r.get("database", "").lower() in ("casme2", "smic", "samm")]


def composite_clip(row: dict[str, str], path: Path) -> dict[str, str]:
    """Ids as our adapters spell them: the list pads SMIC clips and does not pad SAMM subjects."""
    database, clip = row["database"].lower(), row.get("clip", "")
    digits = re.search(r"\d+", row.get("subject", ""))
    if digits is None or not clip or row.get("label") not in ("0", "1", "2"):
        raise SplitError(
            str(path),
            expected="rows database,subject,clip,label",
            got=str(row),
            code="bad_fold_file",
        )
    number = int(digits[0])
    subject, event = {
        "casme2": (f"sub{number:02d}", f"sub{number:02d}/{clip}"),
        "samm": (f"{number:03d}", clip),
        "smic": (f"s{number}", f"HS/{unpadded(clip)}"),
    }[database]
    person = f"smic:{number:02d}" if database == "smic" else f"{database}:{subject}"
    return {
        "event": f"{database}:{event}",
        "person": person,
        "video": f"{database}:{event}",
        "label": ("negative", "positive", "surprise")[int(row["label"])],
    }


def unpadded(clip: str) -> str:
    """`s1_ne_01` for the list's `s01_ne_01`: the disk does not pad the subject."""
    return re.sub(r"^s0*(\d+)_", r"s\1_", clip)


def plain(path: Path) -> pd.DataFrame:
    """The generic format: fold, role, event and optionally dataset, person, video."""
    rows = read_rows(path)
    table = []
    several = len({r.get("dataset", "") for r in rows}) > 1
    for row in rows:
        if not row.keys() >= {"fold", "role", "event"} or row["role"] not in ("train", "test"):
            raise SplitError(
                str(path),
                expected="columns fold, role (train|test), event",
                got=str(row),
                code="bad_fold_file",
            )
        dataset = row.get("dataset", "")
        event = f"{dataset}:{row['event']}" if several else row["event"]
        table.append(
            {
                "fold": identifier(row["fold"]),
                "role": row["role"],
                "event": event,
                "person": text(row.get("person")) or event,
                "video": f"{dataset}:{text(row.get('video')) or event}",
            }
        )
    return pd.DataFrame(table, columns=["fold", "role", "event", "person", "video"])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "hsta_objective": hsta("no_macro_exp_train"),
    "hsta_objective_macro": hsta("use_macro_exp_train"),
    "hsta_emotion": hsta("train"),
    "megc2019": megc2019,
    "csv": plain,
}
