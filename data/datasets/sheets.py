"""Annotation workbooks as plain rows: xlsx, xls and csv, found and recognised by their contents.

File names differ between releases and users rename files, so a sheet is known by its header row
(or, where it has none, by the shape of its rows), and a file's format by its first bytes. A formula
whose value was never calculated is calculated here if it is simple arithmetic on cells of the same
sheet; cells merged downwards all hold the value that is seen.
"""

from __future__ import annotations

import ast
import functools
import io
import operator
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.datasets.csv_text import Rows, read_csv
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, has_decimal_comma, text, unsure
from data.errors import DatasetError

SUFFIXES = (".xlsx", ".xls", ".xlsm", ".csv")
MAX_BYTES = 200 << 20  # unpacked; real sheets are below 2 MB
HEADER_ROWS = 60  # prose may come before the header
# columns, by our names, that hold numbers: a comma elsewhere, as in units 4,7, is no decimal comma
_NUMBERS = re.compile(r"(fps|first|last|length|total|onset|apex|offset)(\d|_end)?")
_OLE = b"\xd0\xcf\x11\xe0"  # the container of the old .xls


@dataclass(frozen=True)
class Sheet:
    """One sheet: `rows` as read; `where` names file and sheet for messages.

    `formulas`: cells of its workbook that hold a formula (0 where the format does not tell).
    `plain`: it was text, where nothing but its signs says what a number is and where a cell ends.
    """

    path: Path
    name: str
    rows: Rows
    formulas: int = 0
    plain: bool = False

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
        """(row number as a spreadsheet shows it, cells by our names) of every row not blank.

        Rows of text with more cells than the header are left out: see `too_long`.
        """
        rows = self._rows()
        numbers = {n for n in self.columns if self.sheet.plain and _NUMBERS.fullmatch(n)}
        places = [self.columns[n] for n in numbers]
        if not any(has_decimal_comma(row[c]) for _, row in rows for c in places if c < len(row)):
            numbers = set()
        for at, row in rows:
            if not self._surplus(row):
                cells = {n: row[c] if c < len(row) else None for n, c in self.columns.items()}
                yield at, {n: unsure(c) if n in numbers else c for n, c in cells.items()}

    def too_long(self) -> list[tuple[int, int]]:
        """(row number, cells too many) where nobody knows which cell belongs to which column: a
        comma inside a cell that is not quoted, a decimal comma for one, shifts all that follow."""
        return [(at, surplus) for at, row in self._rows() if (surplus := self._surplus(row))]

    def repeated(self) -> list[str]:
        """Columns in use that the header names twice, and that do not say the same."""
        words = [header_word(c) for c in self.sheet.rows[self.header]]
        found = []
        for at in self.columns.values():
            others = [i for i, word in enumerate(words) if word == words[at] and i != at]
            if any(
                text(row[i]) not in ("", text(row[at]))
                for i in others
                for _, row in self._rows()
                if max(i, at) < len(row)
            ):
                found.append(text(self.sheet.rows[self.header][at]))
        return found

    def _rows(self) -> list[tuple[int, list[Cell]]]:
        rows = enumerate(self.sheet.rows[self.header + 1 :], self.header + 2)
        return [(at, row) for at, row in rows if any(text(c) for c in row)]

    def _surplus(self, row: list[Cell]) -> int:
        """Cells too many, of text. A spreadsheet gives all rows of a CSV the same number; blank
        ones at the end are nothing if most rows have them."""
        width = len(self.sheet.rows[self.header])
        if not self.sheet.plain or len(row) <= width:
            return 0
        if any(text(c) for c in row[width:]):
            return len(row) - width
        return max(0, len(row) - max(width, self._usual_width))

    @functools.cached_property
    def _usual_width(self) -> int:
        """Cells that most rows below the header have."""
        widths = Counter(len(row) for row in self.sheet.rows[self.header + 1 :])
        return widths.most_common(1)[0][0]


def read_workbook(path: Path) -> list[Sheet]:
    """All sheets of a workbook in order; what a file is, its first bytes say, not its name.

    Raises DatasetError `unreadable_sheet` for a damaged, encrypted, empty or oversized file, or one
    that is no file. Too little memory is a MemoryError, never the sheet's fault.
    """
    suffix = path.suffix.lower()
    try:
        return _read_any(path, suffix)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # openpyxl and xlrd raise anything on a damaged file
        if isinstance(error, zlib.error) and "-4" in str(error):  # zlib's word for it
            raise MemoryError(f"while reading {path.name}") from error
        raise DatasetError(
            str(path.name),
            expected=f"a readable {suffix[1:]} workbook",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            todo="Make it readable for yourself."
            if isinstance(error, PermissionError)
            else "Copy the file again from the dataset's owner.",
            code="unreadable_sheet",
        ) from error


def _read_any(path: Path, suffix: str) -> list[Sheet]:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("not an ordinary file")
    if facts.st_size == 0:
        raise ValueError("the file is empty")
    if facts.st_size > MAX_BYTES:
        raise ValueError(f"a file of {facts.st_size} bytes")
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:2] == b"PK":  # some .xls files are xlsx inside
        return _read_xlsx(path)
    if head[:4] == _OLE:
        return [Sheet(path, n, r) for n, r in _read_xls(path)]
    if head.lstrip()[:1] == b"<":
        raise ValueError("a web page or XML under a workbook's name: save it as .xlsx")
    if suffix != ".csv" and not _is_table_text(head):
        return [Sheet(path, n, r) for n, r in _read_xls(path)]  # old BIFF, or it says what is wrong
    return [Sheet(path, "", read_csv(path.read_bytes()), plain=True)]


def _is_table_text(head: bytes) -> bool:
    """Whether a file begins like text in columns, which some programs save as .xls."""
    is_text = head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" not in head
    return is_text and any(sign in head for sign in b",;\t")


def _read_xls(path: Path) -> list[tuple[str, Rows]]:
    import xlrd

    book = xlrd.open_workbook(str(path), logfile=io.StringIO(), formatting_info=True)
    sheets = []
    for sheet in book.sheets():
        rows: Rows = [list(map(_xls_cell, row)) for row in sheet.get_rows()]
        merged = ((left + 1, top + 1, right, low) for top, low, left, right in sheet.merged_cells)
        _fill_merged(rows, merged)
        sheets.append((sheet.name, rows))
    return sheets


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
    # handed over as open files: openpyxl refuses a workbook by its name's ending
    with open(path, "rb") as file:
        values = openpyxl.load_workbook(file, data_only=True)
    formulas = None
    result = []
    for sheet in values.worksheets:
        rows: Rows = [[_plain(c) for c in row] for row in sheet.iter_rows(values_only=True)]
        if count and any(cell is None for row in rows for cell in row):
            if formulas is None:
                with open(path, "rb") as file:
                    formulas = openpyxl.load_workbook(file)
            raw = [list(row) for row in formulas[sheet.title].iter_rows(values_only=True)]
            _calculate(rows, raw)
        _fill_merged(rows, [r.bounds for r in sheet.merged_cells.ranges])
        result.append(Sheet(path, sheet.title, rows, count))
    return result


def _fill_merged(rows: Rows, merged: Iterable[tuple[int, int, int, int]]) -> None:
    """Every row of a cell merged downwards gets its value; bounds are 1-based, inclusive."""
    for left, top, _, bottom in merged:
        if top <= len(rows) and left <= len(rows[top - 1]):
            for row in rows[top : min(bottom, len(rows))]:
                if left <= len(row) and row[left - 1] is None:
                    row[left - 1] = rows[top - 1][left - 1]


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
class SheetSearch:
    """What a search for sheets met: recognised ones, damaged workbooks, all files looked at."""

    found: list[Any]
    damaged: list[DatasetError]
    seen: list[str]


def find_sheets(tree: Tree, accept: Callable[[Sheet], Any]) -> SheetSearch:
    """Everything `accept` recognises among the workbooks of a dataset, in order of file name.

    Looks under the root; where nothing is recognised there, also right above it (the user may point
    at the folder of frames). Excel's lock files (`~$name`) are passed over.
    """
    search = _search(tree.files(SUFFIXES), accept)
    if search.found:
        return search
    above = _search(tree.files_above(SUFFIXES), accept)
    return above if above.found else search


def _search(files: Iterable[Path], accept: Callable[[Sheet], Any]) -> SheetSearch:
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
    return SheetSearch(found, damaged, seen)
