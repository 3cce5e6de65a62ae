"""Choosing the annotation table among all sheets of a dataset folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.datasets.listing import Tree
from data.datasets.parsing import Cell, text
from data.datasets.report import Report
from data.datasets.sheets import Search, Sheet, Table, find_sheets, find_table
from data.errors import DatasetError

if TYPE_CHECKING:
    from data.datasets.base import Adapter

ADD_SHEET = "Put the sheet of {title} into ROOT or right above it."


@dataclass(frozen=True)
class Layout:
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


def choose_table(
    adapter: Adapter,
    tree: Tree,
    layout: Layout,
    report: Report,
    score: Callable[[Table], int],
    role: str = "sheet",
) -> Table:
    """The best table of this layout: highest `score`, then the later file name.

    Other candidates go to the variant. Raises DatasetError `no_sheet` or `wrong_sheet`.
    """
    search = find_sheets(tree, layout.accept)
    for error in search.damaged:
        report.flag(error.who, "file", error.code, error.got)
    if not search.found:
        raise no_sheet(adapter, tree, search, layout.required)
    tables: list[Table] = sorted(search.found, key=lambda t: (score(t), t.sheet.where))
    best = tables.pop()
    report.variant[role] = best.describe()
    if tables:
        report.variant[f"{role}_also_present"] = "; ".join(t.sheet.where for t in tables)
    return best


def optional_table(tree: Tree, layout: Layout, report: Report, role: str) -> Table | None:
    """The last table of this layout in order of file name, or None."""
    search = find_sheets(tree, layout.accept)
    if not search.found:
        return None
    best: Table = search.found[-1]
    report.variant[role] = best.sheet.where
    return best


def no_sheet(adapter: Adapter, tree: Tree, search: Search, wanted: Sequence[str]) -> DatasetError:
    """The error for a root without a sheet that fits: what was looked at, what was wanted."""
    damaged = "; ".join(str(e) for e in search.damaged)
    return DatasetError(
        f"{adapter.name} at {tree.root}",
        expected=f"an annotation sheet with columns {', '.join(wanted)}",
        got=damaged or f"sheets {', '.join(search.seen) or 'none'}",
        todo=ADD_SHEET.format(title=adapter.title),
        code="wrong_sheet" if search.seen else "no_sheet",
    )
