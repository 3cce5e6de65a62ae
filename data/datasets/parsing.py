"""Cells of annotation sheets: identifiers, frame numbers, action units.

A cell may be text, an integer, a float, or a symbol where a number belongs; identifiers lose their
zeros when a spreadsheet reader turns them into numbers. Nothing here raises: what cannot be
understood comes back as None with a note, and the caller writes the ledger row.
"""

from __future__ import annotations

import math
import re
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


UNREAD = ("not_a_number", "ambiguous_number")  # notes of a cell that holds something else
LONGEST_NUMBER = 40  # signs; a float needs at most 25
# "17,581,039" and "17.581.039" count thousands; "219,8" and "1.234,5" have a decimal comma
_THOUSANDS = re.compile(
    r"[+-]?[0-9]{1,3}(?:(?:,[0-9]{3}){2,}(?:\.[0-9]*)?|,[0-9]{3}\.[0-9]+)"  # 1,234,567 or 1,234.5
)
_DOTTED = re.compile(r"[+-]?[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]*)?|\.[0-9]{3},[0-9]+)")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]*")
_EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1,234: thousands here, a fraction there


def real_number(cell: Cell) -> tuple[float, str]:
    """(value, "") of a cell in either notation, or (nan, "not_a_number" | "ambiguous_number").

    A comma is a decimal comma (219,8) unless dots or further commas show that it counts thousands
    (17,581,039; 1,234.5). "1,234" may be either and is not guessed.
    """
    word = text(cell)
    if not word.isascii() or len(word) > LONGEST_NUMBER or "_" in word:
        return math.nan, "not_a_number"
    if _EITHER.fullmatch(word):
        return math.nan, "ambiguous_number"
    if _THOUSANDS.fullmatch(word):
        word = word.replace(",", "")
    elif _DOTTED.fullmatch(word):
        word = word.replace(".", "").replace(",", ".")
    elif _DECIMAL_COMMA.fullmatch(word):
        word = word.replace(",", ".")
    try:
        value = float(word)
    except ValueError:
        return math.nan, "not_a_number"
    return (value, "") if math.isfinite(value) else (math.nan, "not_a_number")


_DOT = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+")


def has_decimal_comma(cell: Cell) -> bool:
    """Whether a cell can only be a number with a decimal comma."""
    word = text(cell) if isinstance(cell, str) else ""
    if not any(sign.isdigit() for sign in word) or _EITHER.fullmatch(word):
        return False
    return bool(_DECIMAL_COMMA.fullmatch(word) or (_DOTTED.fullmatch(word) and "," in word))


def unsure(cell: Cell) -> Cell:
    """A cell of a sheet with decimal commas: there `1.012` may mean 1012, and is no number."""
    word = text(cell) if isinstance(cell, str) else ""
    return f"{word} or {word.replace('.', '')}" if _DOT.fullmatch(word) else cell


@dataclass(frozen=True)
class Number:
    """A frame number read from a cell. `value` is None when the cell holds none.

    `note` says what was odd: "" | "missing" | "not_a_number" | "ambiguous_number" |
    "fractional_frame_number".
    """

    value: int | None
    note: str
    raw: str


def frame_number(cell: Cell) -> Number:
    """Read a frame number; a fraction is rounded half up, a symbol is "missing"."""
    raw = text(cell)
    if raw.lower() in MISSING:
        return Number(None, "missing", raw)
    value, note = real_number(raw)
    if note or abs(value) >= 2**53:
        return Number(None, note or "not_a_number", raw)
    if value.is_integer():
        return Number(int(value), "", raw)
    return Number(math.floor(value + 0.5), "fractional_frame_number", raw)


def objective_class(cell: Cell) -> int | None:
    """Objective class 1..7 from 3, "3", 3.0 or "III"; None otherwise."""
    word = text(cell).lower()
    if word in ROMAN:
        return ROMAN[word]
    return int(word) if word in {"1", "2", "3", "4", "5", "6", "7"} else None
