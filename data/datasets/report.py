"""The account of one dataset: every defect, repair and drop, with evidence.

One list feeds both tables: `findings` says column, old value, new value and source; the `ledger`
says the same in the form every stage shares.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from data.errors import DatasetError
from data.schema import LEDGER, conform

FINDING_COLUMNS = ["who", "kind", "action", "reason", "column", "old", "new", "source", "detail"]
CORRECTIONS = Path(__file__).with_name("corrections")
CORRECTION_COLUMNS = ["who", "column", "old", "new", "reason", "source"]


@dataclass(frozen=True)
class Finding:
    """One defect. `action`: dropped (the unit is not used), repaired (a value was replaced by a
    better one), flagged (kept as it is, said so)."""

    who: str
    kind: str
    action: str
    reason: str
    column: str = ""
    old: str = ""
    new: str = ""
    source: str = ""
    detail: str = ""

    def sentence(self) -> str:
        """The finding's evidence as one line."""
        change = f"{self.column}: {self.old or 'empty'}" if self.column else ""
        if change and self.action == "repaired":
            change += f" -> {self.new or 'empty'}"
        source = f"source: {self.source}" if self.source else ""
        return "; ".join(t for t in (change, self.detail, source) if t)


class Report:
    """Collects findings of one dataset while it is read."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.findings: list[Finding] = []
        self.variant: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def drop(self, who: str, kind: str, reason: str, detail: str = "", **change: str) -> None:
        """A unit is left out."""
        self.findings.append(Finding(who, kind, "dropped", reason, detail=detail, **change))

    def repair(self, who: str, kind: str, reason: str, detail: str = "", **change: str) -> None:
        """A value was replaced; `change` has column, old, new and source."""
        self.findings.append(Finding(who, kind, "repaired", reason, detail=detail, **change))

    def flag(self, who: str, kind: str, reason: str, detail: str = "", **change: str) -> None:
        """Something is odd and kept."""
        self.findings.append(Finding(who, kind, "flagged", reason, detail=detail, **change))

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter shown by `check`."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def findings_table(self) -> pd.DataFrame:
        """All findings, columns FINDING_COLUMNS, in a stable order."""
        rows = [[_plain(getattr(f, c)) for c in FINDING_COLUMNS] for f in self._ordered()]
        return pd.DataFrame(rows, columns=FINDING_COLUMNS, dtype="string")

    def ledger_table(self) -> pd.DataFrame:
        """All findings as ledger rows."""
        rows = [
            [
                "ingest",
                self.dataset,
                _plain(f.who),
                f.kind,
                f.reason,
                _plain(f.sentence()),
                f.action,
            ]
            for f in self._ordered()
        ]
        return conform(pd.DataFrame(rows, columns=list(LEDGER)[:7]), "ledger")

    def _ordered(self) -> list[Finding]:
        return sorted(self.findings, key=lambda f: (f.kind, f.who, f.reason, f.column, f.detail))


def _plain(word: str) -> str:
    """Text that a table can hold; a file name's undecodable bytes are shown as `\\udcff`."""
    return word.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Correction:
    """One published correction of one cell; applies only while the cell still reads `old`."""

    who: str
    column: str
    old: str
    new: str
    reason: str
    source: str


@cache
def corrections(dataset: str) -> dict[tuple[str, str, str], Correction]:
    """The dataset's corrections by (who, column, old value).

    `old` may also be a word for what an apex is: `outside`, not within onset..offset, or
    `onset+1`, the frame after the onset.
    Raises DatasetError `bad_corrections` when the file's columns are not CORRECTION_COLUMNS.
    """
    path = CORRECTIONS / f"{dataset}.csv"
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != CORRECTION_COLUMNS:
            raise DatasetError(
                path.name,
                expected=f"columns {CORRECTION_COLUMNS}",
                got=str(reader.fieldnames),
                code="bad_corrections",
            )
        rows = [Correction(**row) for row in reader]
    return {(row.who, row.column, row.old): row for row in rows}
