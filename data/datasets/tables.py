"""Choosing the annotation table among all sheets of a dataset folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.datasets.listing import Tree
from data.datasets.parsing import Cell, text
from data.datasets.report import Report
from data.datasets.sheets import (
    HEADER_ROWS,
    Sheet,
    SheetSearch,
    Table,
    find_sheets,
    find_table,
    header_word,
)
from data.datasets.versions import by_choice, note_others
from data.errors import DatasetError

if TYPE_CHECKING:
    from data.datasets.base import Adapter

ADD_SHEET = "Put the sheet of {title} into ROOT or right above it."


@dataclass(frozen=True)
class TableLayout:
    """How a table is recognised.

    `columns`: our name -> accepted header words; `required` of them must be there; at least half
    of the values of column `key` match `pattern` (headers alone do not tell datasets apart).
    """

    columns: Mapping[str, Sequence[str]]
    required: tuple[str, ...]
    key: str
    pattern: str

    def accept(self, sheet: Sheet) -> Table | None:
        """The table of a sheet, or None."""
        table = find_table(sheet, self.columns, self.required)
        if table is None:
            return None
        keys = [text(cells[self.key]) for _, cells in table.records()]
        fits = sum(bool(re.fullmatch(self.pattern, k, re.IGNORECASE)) for k in keys)
        return table if fits and 2 * fits >= len([k for k in keys if k]) else None

    def fits(self, cell: Cell) -> bool:
        """Whether a row with this key is an annotation."""
        return bool(re.fullmatch(self.pattern, text(cell), re.IGNORECASE))

    def has(self, cells: dict[str, Cell]) -> bool:
        """The same of a whole row."""
        return self.fits(cells[self.key])


def annotation_rows(
    table: Table, layout: TableLayout, report: Report
) -> Iterator[tuple[str, dict[str, Cell]]]:
    """(place for messages, cells) of the rows that are annotations; any other row is flagged.

    A row without its subject, where the layout needs one, is dropped: cells merged in a workbook
    are filled (see `sheets`), the blanks of an exported CSV tell nothing for sure.
    """
    note_shape(table, report)
    for number, cells in table.records():
        where = f"{table.sheet.where}, row {number}"
        if layout.fits(cells[layout.key]):
            if "subject" in layout.required and not text(cells["subject"]):
                report.drop(where, "row", "no_subject", f"{layout.key} {text(cells[layout.key])}")
                report.count("rows_refused")
                continue
            yield where, cells
        else:
            report.flag(where, "row", "not_an_annotation", f"{layout.key} {cells[layout.key]!r}")


def note_shape(table: Table, report: Report) -> None:
    """The rows that `records` leaves out, and columns that are there twice; once for each table."""
    for number, surplus in table.too_long():
        where = f"{table.sheet.where}, row {number}"
        said = f"{surplus} cells more than the header: a separator inside a cell needs quotes"
        report.drop(where, "row", "too_many_cells", said)
        report.count("rows_refused")
    for column in table.repeated():
        said = f"{column} twice with different values; the first is used"
        report.flag(table.sheet.where, "file", "repeated_column", said)


def choose_table(
    adapter: Adapter,
    tree: Tree,
    layout: TableLayout,
    report: Report,
    score: Callable[[Table], int],
    role: str = "sheet",
) -> Table:
    """The best table of this layout: highest `score`, no copy of another, the later file name.

    Other candidates go to the variant; one that says otherwise is flagged `sheets_differ` with the
    number of differing rows and cells. Raises DatasetError `no_sheet` or `wrong_sheet`.
    """
    search = find_sheets(tree, layout.accept)
    for error in search.damaged:
        report.flag(error.who, "file", error.code, error.got)
    if not search.found:
        raise no_sheet(adapter, tree, search, layout.required, near_misses(tree, layout))
    best, *others = by_choice(search.found, score)
    report.variant[role] = best.describe()
    note_others(best, others, layout.has, report, role)
    return best


def optional_table(
    tree: Tree,
    layout: TableLayout,
    report: Report,
    role: str,
    other_than: TableLayout | None = None,
) -> Table | None:
    """The best table of this layout (see `choose_table`), or None.

    `other_than`: a layout whose tables are none of these, though they have the columns too.
    """
    found = [
        t for t in find_sheets(tree, layout.accept).found
        if other_than is None or other_than.accept(t.sheet) is None
    ]  # fmt: skip
    if not found:
        return None
    best, *others = by_choice(found, lambda table: 0)
    report.variant[role] = best.sheet.where
    note_others(best, others, layout.has, report, role)
    return best


def near_misses(tree: Tree, layout: TableLayout) -> list[str]:
    """Sheets with at least half of the required columns, and what keeps them from fitting."""

    def why_not(sheet: Sheet) -> str | None:
        rows = sheet.rows[:HEADER_ROWS]
        known = {n: layout.columns[n] for n in layout.required}
        found = [{n for n in known if set(known[n]) & set(map(header_word, r))} for r in rows]
        best = max(found, key=len, default=set())
        missing = [n for n in layout.required if n not in best]
        if not best and _holds_keys(rows, layout):
            return f"{sheet.where} has rows of this dataset, but no header row to name its columns"
        if 2 * len(best) < len(layout.required):
            return None
        if missing:
            return f"{sheet.where} has no column {', '.join(missing)}"
        table = find_table(sheet, layout.columns, layout.required)
        if table is None or not any(text(c[layout.key]) for _, c in table.records()):
            return f"{sheet.where} has the columns, but no rows under them"
        return f"{sheet.where} has the columns, but its {layout.key} cells are of another dataset"

    return list(find_sheets(tree, why_not).found)


def _holds_keys(rows: Sequence[Sequence[Cell]], layout: TableLayout) -> bool:
    """Whether one column holds keys of the layout in at least half of the rows."""
    width = max(map(len, rows), default=0)
    columns = ([row[at] for row in rows if at < len(row)] for at in range(width))
    return any(2 * sum(map(layout.fits, column)) >= len(rows) for column in columns if rows)


def no_sheet(
    adapter: Adapter,
    tree: Tree,
    search: SheetSearch,
    wanted: Sequence[str],
    near: Sequence[str] = (),
) -> DatasetError:
    """The error for a root without a sheet that fits: what was looked at, what was wanted."""
    damaged = [str(e).rstrip(".") for e in search.damaged]
    return DatasetError(
        f"{adapter.name} at {tree.root}",
        expected=f"an annotation sheet with columns {', '.join(wanted)}",
        got="; ".join([*damaged, *near]) or f"sheets {', '.join(search.seen) or 'none'}",
        todo=ADD_SHEET.format(title=adapter.title),
        code="wrong_sheet" if search.seen else "no_sheet",
    )
