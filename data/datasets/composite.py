"""Evaluation sets made of several datasets: the MEGC2019 composite and CD6ME.

MEGC2019 (See et al. 2019, FG): SMIC-HS, CASME II and SAMM with three classes, 442 clips of 68
people, leave one person out. CD6ME (Varanka et al. 2022, arXiv 2211.11425): twelve action units
over six datasets, leave one dataset out.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import DatasetError

EXCLUDED = Path(__file__).parent / "megc2019_excluded.csv"
MEGC_DATASETS = ("casme2", "samm", "smic")
MEGC_CLASSES = ("negative", "positive", "surprise")
MEGC_COUNTS = {
    "casme2": (88, 32, 25),
    "samm": (92, 26, 15),
    "smic": (70, 51, 43),
}
MEGC_PEOPLE = {"casme2": 24, "samm": 28, "smic": 16}
# sha256 over the official list as sorted lines "dataset:event,class", ids as adapters spell them
MEGC_DIGEST = "0e7889cc507e554fd101bd4ee557ba0bdb14bf7540a6d11766c712ad09ba54d1"

CD6ME_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17)
CD6ME_COUNTS = {"casme": 189, "casme2": 256, "samm": 159, "4dme": 267, "mmew": 300, "casme3": 860}


def database_of(person: object) -> str:
    """The database whose person this is: of the identity 'samm:006', samm."""
    return str(person).partition(":")[0]


def sources(table: pd.DataFrame) -> pd.Series:
    """Where each row comes from: its dataset, or, in one dataset, its person's database.

    Pictures of several databases that are imported as one dataset are told apart so.
    """
    if table.dataset.nunique() > 1:
        return table.dataset.astype(str)
    return table.person.map(database_of)


@dataclass(frozen=True)
class Composite:
    """Events of several datasets under one label.

    `events`: rows of the datasets' events tables, with the composite's labels; `dropped`: dataset,
    event, reason of every event left out; `differences`: sentences on where the numbers differ
    from the published ones, empty when none does; `official`: whether it is the published list
    clip by clip (None where no list is published).
    """

    name: str
    events: pd.DataFrame
    dropped: pd.DataFrame
    differences: tuple[str, ...]
    official: bool | None = None

    def to_text(self) -> str:
        """Counts by dataset, drops by reason, and every difference."""
        people = self.events["person"].nunique()
        lines = [f"{self.name}: {len(self.events)} events of {people} people"]
        for dataset, rows in self.events.groupby("dataset", sort=True):
            lines.append(f"  {dataset}: {len(rows)} events of {rows['person'].nunique()} people")
        for (dataset, reason), rows in self.dropped.groupby(["dataset", "reason"], sort=True):
            lines.append(f"  {dataset}: {len(rows)} left out, {reason}")
        if self.official is not None:
            verdict = "is" if self.official else "IS NOT"
            lines.append(f"  {verdict} the official list clip by clip")
        lines += [f"  differs: {d}" for d in self.differences]
        return "\n".join(lines)


def megc2019(events: Mapping[str, pd.DataFrame]) -> Composite:
    """The three-class composite of the events tables of casme2, samm and smic.

    Left out, with reasons: other cameras than HS, emotions without one of the three classes, and
    the two CASME II clips that the organisers excluded. Labels are in `label_3`. Raises
    DatasetError `missing_dataset` when one of the three is not given.
    """
    _need(events, MEGC_DATASETS, "megc2019")
    kept, dropped = [], []
    for dataset in MEGC_DATASETS:
        table = events[dataset]
        out = why_not_megc2019(dataset, table)
        kept.append(table[out == ""])
        dropped.append(table.assign(reason=out).loc[out != "", ["dataset", "event", "reason"]])
    rows = pd.concat(kept, ignore_index=True)
    return Composite(
        "MEGC2019",
        rows,
        pd.concat(dropped, ignore_index=True),
        tuple(megc_differences(rows)),
        is_megc2019(rows),
    )


def is_megc2019(rows: pd.DataFrame) -> bool:
    """Whether these samples (dataset, event, label_3) are the official list, clip by clip."""
    lines = sorted(
        f"{d}:{e},{c}"
        for d, e, c in zip(rows["dataset"], rows["event"], rows["label_3"], strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() == MEGC_DIGEST


def why_not_megc2019(dataset: str, events: pd.DataFrame) -> pd.Series:
    """Why each event of one of the three datasets is not in the composite; "" when it is."""
    excluded = _excluded()
    rows = zip(events["event"], events["type"], events["label_3"], strict=True)
    reasons = [_why_not(dataset, str(e), kind, label, excluded) for e, kind, label in rows]
    return pd.Series(reasons, index=events.index, dtype="string")


def _why_not(
    dataset: str, event: str, kind: str, label: str | None, excluded: Mapping[str, str]
) -> str:
    """Why an event is not in the composite; "" when it is."""
    if kind != "micro":
        return "not a micro-expression"
    if dataset == "smic" and not event.startswith("HS/"):
        return "camera other than HS"
    if label is None or pd.isna(label):
        return "emotion outside the three classes"
    return excluded.get(f"{dataset}:{event}", "")


def _excluded() -> dict[str, str]:
    with open(EXCLUDED, newline="", encoding="utf-8") as file:
        return {f"{r['dataset']}:{r['event']}": r["reason"] for r in csv.DictReader(file)}


def megc_differences(rows: pd.DataFrame) -> list[str]:
    """Where counts of these samples (dataset, person, label_3) differ from the published ones."""
    found = []
    for dataset, published in MEGC_COUNTS.items():
        table = rows[rows["dataset"] == dataset]
        counts = tuple(int((table["label_3"] == c).sum()) for c in MEGC_CLASSES)
        if counts != published:
            found.append(f"{dataset}: {counts} of {MEGC_CLASSES}, published {published}")
        people = table["person"].nunique()
        if people != MEGC_PEOPLE[dataset]:
            found.append(f"{dataset}: {people} people, published {MEGC_PEOPLE[dataset]}")
    return found


def cd6me_differences(rows: pd.DataFrame) -> list[str]:
    """Where counts of these micro-expressions (dataset) differ from the published ones."""
    counts = rows["dataset"].value_counts()
    return [
        f"{dataset}: {int(counts.get(dataset, 0))} events, published {published}"
        for dataset, published in CD6ME_COUNTS.items()
        if counts.get(dataset, 0) != published
    ]


def _need(events: Mapping[str, pd.DataFrame], names: tuple[str, ...], who: str) -> None:
    missing = [n for n in names if n not in events]
    if missing:
        raise DatasetError(
            who,
            expected=f"the events of {', '.join(names)}",
            got=f"without {', '.join(missing)}",
            code="missing_dataset",
        )
