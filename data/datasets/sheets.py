"""Annotation workbooks as plain rows: xlsx, xls and csv, found and recognised by their contents.

File names differ between releases and users rename files, so a sheet is known by its header row
(or, where it has none, by the shape of its rows). A formula whose value was never calculated is
calculated here if it is simple arithmetic on cells of the same sheet.
"""

from __future__ import annotations

import ast
import csv
import io
import operator
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.datasets.listing import Tree
from data.datasets.parsing import Cell, text
from data.errors import DatasetError

SUFFIXES = (".xlsx", ".xls", ".xlsm", ".csv")
MAX_BYTES = 200 << 20  # unpacked; real sheets are below 2 MB
HEADER_ROWS = 60  # prose may come before the header

Rows = list[list[Cell]]


@dataclass(frozen=True)
class Sheet:
    """One sheet: `rows` as read; `where` names file and sheet for messages.

    `formulas`: cells of its workbook that hold a formula (0 where the format does not tell).
    """

    path: Path
    name: str
    rows: Rows
    formulas: int = 0

    @property
    def where(self) -> str:
        """File and sheet, for messages."""
        return f"{self.path.name}, sheet {self.name}" if self.name else self.path.name


@dataclass(frozen=True)
class Table:
    """A sheet whose header row is known. `columns`: our name -> position."""

    sheet: Sheet
    header: int
    columns: dict[str, int]

    def describe(self) -> str:
        """Where the table is and what its shape has of note, for people."""
        header = [text(c) for c in self.sheet.rows[self.header]]
        named = [at for at, word in enumerate(header) if word]
        parts = [f"{self.sheet.where}, header in row {self.header + 1}"]
        if blank := named[-1] + 1 - len(named):
            parts.append(f"{blank} blank columns")
        if self.sheet.formulas:
            parts.append(f"{self.sheet.formulas} formula cells")
        return ", ".join(parts)

    def records(self) -> Iterable[tuple[int, dict[str, Cell]]]:
        """(row number as a spreadsheet shows it, cells by our names) of every row not blank."""
        for at, row in enumerate(self.sheet.rows[self.header + 1 :], self.header + 2):
            cells = {n: row[c] if c < len(row) else None for n, c in self.columns.items()}
            if any(text(c) for c in row):
                yield at, cells


def read_workbook(path: Path) -> list[Sheet]:
    """All sheets of a workbook in order.

    Raises DatasetError `unreadable_sheet` for a damaged, encrypted, empty or oversized file.
    """
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty")
        if suffix == ".csv":
            return [Sheet(path, "", _read_csv(path))]
        if path.open("rb").read(2) == b"PK":  # some .xls files are xlsx inside
            return _read_xlsx(path)
        return [Sheet(path, n, r) for n, r in _read_xls(path)]
    except DatasetError:
        raise
    except Exception as error:  # openpyxl and xlrd raise anything on a damaged file
        raise DatasetError(
            str(path.name),
            expected=f"a readable {suffix[1:]} workbook",
            got=f"{type(error).__name__}: {error}",
            todo="Make it readable for yourself."
            if isinstance(error, PermissionError)
            else "Copy the file again from the dataset's owner.",
            code="unreadable_sheet",
        ) from error


def _read_csv(path: Path) -> Rows:
    raw = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030", "latin-1"):
        try:
            lines = raw.decode(encoding).splitlines()
            break
        except UnicodeDecodeError:
            continue
    return [list(row) for row in csv.reader(lines)]


def _read_xls(path: Path) -> list[tuple[str, Rows]]:
    import xlrd

    book = xlrd.open_workbook(str(path), logfile=io.StringIO())
    return [(s.name, [list(map(_xls_cell, row)) for row in s.get_rows()]) for s in book.sheets()]


def _xls_cell(cell: Any) -> Cell:
    import xlrd

    if cell.ctype in (xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK, xlrd.XL_CELL_ERROR):
        return None
    value: Cell = cell.value
    return value


def _read_xlsx(path: Path) -> list[Sheet]:
    import openpyxl

    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes when unpacked")
        sheets = [n for n in archive.namelist() if n.startswith("xl/worksheets/")]
        count = sum(len(_FORMULA.findall(archive.read(name))) for name in sheets)
    values = openpyxl.load_workbook(path, data_only=True)
    formulas = None
    result = []
    for sheet in values.worksheets:
        rows: Rows = [[_plain(c) for c in row] for row in sheet.iter_rows(values_only=True)]
        if any(cell is None for row in rows for cell in row):
            formulas = formulas or openpyxl.load_workbook(path)
            raw = [list(row) for row in formulas[sheet.title].iter_rows(values_only=True)]
            _calculate(rows, raw)
        result.append(Sheet(path, sheet.title, rows, count))
    return result


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)


_FORMULA = re.compile(rb"<f[ />]")
_REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?([0-9]{1,7})")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ARITHMETIC = re.compile(r"[0-9.+\-*/() ]+")


def _calculate(rows: Rows, raw: list[list[Any]]) -> None:
    """Fill cells that hold a formula without a stored value, in place."""
    for _ in range(4):  # a formula may use another one
        open_cells = 0
        for r, row in enumerate(raw):
            for c, cell in enumerate(row):
                if rows[r][c] is None and isinstance(cell, str) and cell.startswith("="):
                    rows[r][c] = _formula(cell[1:], rows)
                    open_cells += rows[r][c] is None
        if not open_cells:
            return


def _formula(formula: str, rows: Rows) -> Cell:
    """Value of `D2+K2-1`-like arithmetic, or None when it is more than that."""

    def look_up(match: re.Match[str]) -> str:
        column = 0
        for letter in match[1]:
            column = column * 26 + ord(letter) - 64
        row = int(match[2]) - 1
        inside = row < len(rows) and column <= len(rows[row])
        cell = rows[row][column - 1] if inside else None
        return repr(float(cell)) if isinstance(cell, int | float) else "#"

    expression = _REFERENCE.sub(look_up, formula.strip())
    if len(expression) > 200 or not _ARITHMETIC.fullmatch(expression):
        return None
    try:
        return _arithmetic(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _arithmetic(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_arithmetic(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_arithmetic(node.left), _arithmetic(node.right))
    raise ValueError("more than + - * /")


def header_word(cell: Cell) -> str:
    """A header cell reduced for comparison: "Onset Frame" and "OnsetFrame'" are one word."""
    return re.sub(r"[^0-9a-z]", "", text(cell).lower())


def find_table(
    sheet: Sheet, columns: Mapping[str, Sequence[str]], required: Iterable[str]
) -> Table | None:
    """The table under the first row that names all `required` columns, or None.

    `columns`: our name -> accepted header words (as `header_word` gives them), best first.
    """
    for at, row in enumerate(sheet.rows[:HEADER_ROWS]):
        words = [header_word(c) for c in row]
        found = {
            name: words.index(next(w for w in accepted if w in words))
            for name, accepted in columns.items()
            if any(w in words for w in accepted)
        }
        if all(name in found for name in required):
            return Table(sheet, at, found)
    return None


@dataclass(frozen=True)
class Search:
    """What a search for sheets met: recognised ones, damaged workbooks, all files looked at."""

    found: list[Any]
    damaged: list[DatasetError]
    seen: list[str]


def find_sheets(tree: Tree, accept: Callable[[Sheet], Any]) -> Search:
    """Everything `accept` recognises among the workbooks of a dataset, in order of file name.

    Looks under the root; where nothing is recognised there, also right above it (the user may point
    at the folder of frames). Excel's lock files (`~$name`) are passed over.
    """
    search = _search(tree.files(SUFFIXES), accept)
    if search.found:
        return search
    above = _search(tree.files_above(SUFFIXES), accept)
    return above if above.found else search


def _search(files: Iterable[Path], accept: Callable[[Sheet], Any]) -> Search:
    found, damaged, seen = [], [], []
    for path in sorted(set(files)):
        if path.name.startswith("~$"):
            continue
        seen.append(path.name)
        try:
            sheets = read_workbook(path)
        except DatasetError as error:
            damaged.append(error)
            continue
        found += [hit for hit in map(accept, sheets) if hit is not None]
    return Search(found, damaged, seen)
