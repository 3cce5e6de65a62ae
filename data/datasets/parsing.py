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


@dataclass(frozen=True)
class ActionUnit:
    """One coded action unit.

    `side`: "" both, L, R, A (asymmetric), T (top), B (bottom). `intensity`: "" or A..E.
    `kept`: held through the clip, not part of the movement.
    """

    number: int
    side: str = ""
    intensity: str = ""
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.side}{self.number}{self.intensity}{'(k)' if self.kept else ''}"


_TOKEN = re.compile(
    r"(?P<side>[LRATB]?)(?:AU)?(?P<side2>[LRATB]?)(?P<number>[0-9]{1,2})"
    r"(?P<intensity>[A-E]?)(?:\(?[A-E](?:/[A-E])?\)?)?(?P<kept>\(K\))?"
)
_GRADE = re.compile(r"\(([A-E])(?:/[A-E])*\)")
_ALTERNATIVE = re.compile(r"\s+OR\s+|/")


def action_units(cell: Cell) -> tuple[str | None, str]:
    """Canonical text of an action-unit cell and a note on what was not understood.

    `4`, `L10`, `AU4+AU7`, `R4,5`, `4(B/C)+7B`, `(R6 or R12)+R15`, `14(k)` and full-width commas are
    read. Canonical: units joined by "+" in the sheet's order, side before, intensity (the lower of
    a range) after, "(k)" for kept; alternatives joined by "|". `?`, blank and `ref(43)`-like
    references are no unit. Returns (None, note) when no unit is left; note "" when all was read.
    """
    word = text(cell).upper().replace("，", ",").replace("；", ",").replace(";", ",")
    if word.lower() in MISSING:
        return None, ""
    word = _GRADE.sub(r"\1", word)
    units, unread = [], []
    for term in _split_terms(word):
        alternatives = [_one_unit(t) for t in _ALTERNATIVE.split(term.strip("() "))]
        if None in alternatives or not alternatives:
            unread.append(term)
        found = [str(a) for a in alternatives if a is not None]
        if found:
            units.append("|".join(dict.fromkeys(found)))
    note = f"not understood: {', '.join(unread)}" if unread else ""
    return ("+".join(dict.fromkeys(units)) or None), note


def _split_terms(word: str) -> list[str]:
    """Split at + and comma outside parentheses, dropping question marks and empty terms."""
    terms, depth, start = [], 0, 0
    for at, char in enumerate(word + "+"):
        depth += (char == "(") - (char == ")")
        if char in "+," and (depth <= 0 or at == len(word)):
            terms.append(word[start:at])
            start, depth = at + 1, 0
    return [t for t in (t.replace("?", "").strip() for t in terms) if t.strip("() ")]


def _one_unit(token: str) -> ActionUnit | None:
    token = token.replace(" ", "")
    if token.endswith("(K"):  # its closing parenthesis was stripped with the term's
        token += ")"
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    return ActionUnit(
        int(match["number"]),
        match["side"] or match["side2"],
        match["intensity"],
        match["kept"] is not None,
    )


def unit_numbers(aus: str | None, *, kept: bool = False) -> set[int]:
    """Numbers of the units in a canonical text; of alternatives the first, `kept` if asked."""
    if not aus:
        return set()
    numbers = set()
    for term in aus.split("+"):
        first = term.partition("|")[0]
        if kept or not first.endswith("(k)"):
            numbers |= {int(n) for n in re.findall(r"[0-9]+", first)[:1]}
    return numbers
