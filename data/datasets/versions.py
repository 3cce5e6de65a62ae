"""Several copies or releases of one sheet in a folder: which is used, and what the others say.

Nobody is told by a file's date which sheet is right, so the choice is simple and said: plain names
before copies, then the later name; and every other sheet is compared with it cell by cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from data.datasets.action_units import action_units
from data.datasets.label_maps import normalise_emotion
from data.datasets.parsing import Cell, frame_number, objective_class, text
from data.datasets.report import Report
from data.datasets.sheets import Table

_COPY = re.compile(
    r"\bcop(y|ie|ia|ias)\b|kopie|副本|\(\d+\)$|backup|\bbak\b|\bold\b|conflict|~$", re.IGNORECASE
)
_IDENTITY = ("subject", "clip", "video", "type", "count")
Fits = Callable[[dict[str, Cell]], bool]
_Rows = dict[tuple[str, ...], list[dict[str, Cell]]]


def is_copy(path: Path) -> bool:
    """Whether a file's name says that it is a copy of another: `Copy of x`, `x (1)`, `x_old`."""
    return bool(_COPY.search(path.stem.replace("_", " ").replace("-", " ").strip()))


def by_choice(tables: Sequence[Table], score: Callable[[Table], int]) -> list[Table]:
    """Best first: the highest `score`, plain names before copies, then the later file name."""

    def rank(table: Table) -> tuple[int, bool, str]:
        return score(table), not is_copy(table.sheet.path), table.sheet.where

    return sorted(tables, key=rank, reverse=True)


def note_others(
    best: Table, others: Sequence[Table], fits: Fits, report: Report, role: str
) -> None:
    """Name the tables that are not used, and flag each that says something else.

    `fits`: whether a row of a table is an annotation.
    """
    if others:
        report.variant[f"{role}_also_present"] = "; ".join(t.sheet.where for t in others)
    for other in others:
        if said := compare(best, other, fits):
            report.flag(
                other.sheet.where, "file", "sheets_differ",
                f"{best.sheet.where} is used; {said}. To use this one, move that one away",
            )  # fmt: skip


def compare(best: Table, other: Table, fits: Fits) -> str:
    """In how many rows and cells two tables differ, with one example; "" when in none.

    Rows are the same when subject, key, type and number are; cells when they mean the same.
    """
    names = [c for c in _IDENTITY if c in best.columns and c in other.columns]
    if "video" in names:  # more than one event in a video: its onset tells which
        names.append("onset")
    mine, theirs = (_rows(t, names, fits) for t in (best, other))
    shared = [c for c in best.columns if c in other.columns and c not in names]
    cells: Counter[str] = Counter()
    rows, example = 0, ""
    for name in sorted(mine.keys() & theirs.keys()):
        for old, new in zip(mine[name], theirs[name], strict=False):
            odd = [c for c in shared if meaning(c, old[c]) != meaning(c, new[c])]
            cells.update(odd)
            rows += bool(odd)
            if odd and not example:
                what = odd[0]
                example = f"{'/'.join(name)}: {what} {text(old[what])!r}, here {text(new[what])!r}"
    said = []
    if rows:
        counts = ", ".join(f"{n} cells of {c}" for c, n in sorted(cells.items()))
        said.append(f"{rows} rows differ ({counts}; first {example})")
    only = {"that": mine.keys() - theirs.keys(), "this": theirs.keys() - mine.keys()}
    said += [f"{len(n)} rows are only in {place} one" for place, n in only.items() if n]
    return "; ".join(said)


def _rows(table: Table, names: list[str], fits: Fits) -> _Rows:
    found: _Rows = {}
    for _, cells in table.records():
        if fits(cells):
            words = (text(cells[c]).lower() for c in names)
            key = tuple(w.lstrip("0") if w.isdigit() else w for w in words)
            found.setdefault(key, []).append(cells)
    return found


def meaning(column: str, cell: Cell) -> object:
    """What a cell says, whatever its spelling."""
    if column == "aus":
        return action_units(cell)[0]
    if column == "emotion":
        return normalise_emotion(text(cell))
    if column == "class":
        return objective_class(cell)
    number = frame_number(cell)
    return text(cell) if number.note else number.value
