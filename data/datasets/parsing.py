"""Cells of annotation sheets: identifiers, frame numbers, action units.

A cell may be text, an integer, a float, or a symbol where a number belongs; identifiers lose their
zeros when a spreadsheet reader turns them into numbers. Nothing here raises: what cannot be
understood comes back as None with a note, and the caller writes the ledger row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Cell = str | int | float | bool | None

MISSING = {"", "/", "\\", "-", "--", "?", "nan", "na", "n/a", "none", "null", "."}
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7}


def text(cell: Cell) -> str:
    """A cell as stripped text; 4.0 reads "4", an empty cell "". Full-width forms are narrowed."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    return " ".join(str(cell).replace("\u3000", " ").replace("\xa0", " ").split())


def identifier(cell: Cell, width: int = 0) -> str:
    """An identifier as text; one that a spreadsheet turned into a number gets its zeros back."""
    word = text(cell)
    return word.zfill(width) if word.isascii() and word.isdigit() else word


@dataclass(frozen=True)
class Number:
    """A frame number read from a cell. `value` is None when the cell holds none.

    `note` says what was odd: "" | "missing" | "not_a_number" | "fractional_frame_number".
    """

    value: int | None
    note: str
    raw: str


def frame_number(cell: Cell) -> Number:
    """Read a frame number; a fraction is rounded half up, a symbol is "missing"."""
    raw = text(cell)
    if raw.lower() in MISSING:
        return Number(None, "missing", raw)
    try:
        value = float(raw.replace(",", "")) if raw.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= 2**53:
        return Number(None, "not_a_number", raw)
    if value.is_integer():
        return Number(int(value), "", raw)
    return Number(math.floor(value + 0.5), "fractional_frame_number", raw)


def objective_class(cell: Cell) -> int | None:
    """Objective class 1..7 from 3, "3", 3.0 or "III"; None otherwise."""
    word = text(cell).lower()
    if word in ROMAN:
        return ROMAN[word]
    return int(word) if word in {"1", "2", "3", "4", "5", "6", "7"} else None
