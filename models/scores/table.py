"""The metrics table: its columns, and a row of it. What was not measured is NaN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from data.errors import StoreError

NAN = float("nan")
METRIC_COLUMNS = {
    "name": "string",
    "scope": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "chance": "float64",
    "majority": "float64",
    "count": "int64",
    "note": "string",
}


def metric_row(
    name: str,
    scope: str,
    value: float,
    *,
    low: float = NAN,
    high: float = NAN,
    chance: float = NAN,
    majority: float = NAN,
    count: int = 0,
    note: str = "",
) -> dict[str, Any]:
    """One score: its value, interval, what guessing and the most frequent class give, a count."""
    facts = {"low": low, "high": high, "chance": chance, "majority": majority}
    return {"name": name, "scope": scope, "value": value, **facts, "count": count, "note": note}


def nothing_scored(what: str) -> StoreError:
    """The error of a count over nobody, code `nothing_scored`."""
    return StoreError(
        what,
        expected="samples that were scored",
        got="none",
        todo="See the run's ledger for what was left out.",
        code="nothing_scored",
    )


def metric_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table with METRIC_COLUMNS."""
    return pd.DataFrame(list(rows), columns=list(METRIC_COLUMNS)).astype(METRIC_COLUMNS)
