"""Excel workbooks whose bytes depend on their cells only, with formulas that carry their values.

openpyxl stamps the time into the document properties and into every zip entry; here both are
fixed, so that the same dataset written twice is the same file twice. It also writes a formula
without the value a spreadsheet program would have stored beside it, and readers of values then see
an empty cell; here the value is put in.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import MissingExtraError

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

_EPOCH = datetime(2014, 5, 8)
_ZIP_TIME = (2014, 5, 8, 0, 0, 0)
_UNCALCULATED = re.compile(rb'(<c r="([A-Z]+[0-9]+)"[^>]*><f>[^<]*</f>)<v(?: ?/>|></v>)')


@dataclass(frozen=True)
class Formula:
    """A formula such as "=F2-D2+1" with the value a spreadsheet program stored for it."""

    text: str
    value: float


BookCell = str | int | float | Formula | None
BookRows = Sequence[Sequence[BookCell]]
# sheet title -> cell -> stored value of its formula
Stored = dict[str, dict[str, float]]


def put(sheet: Worksheet, row: int, column: int, cell: BookCell, stored: Stored) -> None:
    """Set one cell (1-based); a formula's value is noted in `stored`, for `save`."""
    if isinstance(cell, Formula):
        made = sheet.cell(row, column, cell.text)
        stored.setdefault(sheet.title, {})[made.coordinate] = cell.value
    else:
        sheet.cell(row, column, cell)


def write_xlsx(path: Path, sheets: Mapping[str, BookRows]) -> None:
    """Write sheets (title -> rows from the first on); a title without rows is an empty sheet."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.worksheets[0])
    stored: Stored = {}
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for r, cells in enumerate(rows, start=1):
            for c, cell in enumerate(cells, start=1):
                put(sheet, r, c, cell, stored)
    save(book, path, stored)


def save(book: Workbook, path: Path, stored: Stored | None = None) -> None:
    """Write `book` to `path` (folders are made); equal cells give equal bytes.

    `stored` are the formulas' values, sheet title -> cell -> value.
    """
    from openpyxl.writer.excel import ExcelWriter

    raw = io.BytesIO()
    book.properties.created = _EPOCH
    book.properties.creator = "apexflow synthetic"
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        writer = ExcelWriter(book, archive)
        # ExcelWriter.write_data() overwrites `modified` with the clock only via Workbook.save().
        book.properties.modified = _EPOCH
        writer.save()
    parts = {f"xl/worksheets/sheet{i}.xml": title for i, title in enumerate(book.sheetnames, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            values = (stored or {}).get(parts.get(name, ""))
            if values:
                content = _with_values(content, values)
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, content)


def _with_values(content: bytes, values: dict[str, float]) -> bytes:
    def fill(match: re.Match[bytes]) -> bytes:
        return match[1] + f"<v>{values[match[2].decode()]!r}</v>".encode()

    return _UNCALCULATED.sub(fill, content)


def need_xls() -> None:
    """Raise `MissingExtraError` where the writer of old .xls workbooks is not installed."""
    try:
        import xlwt  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "synthetic workbook in .xls format", expected="the package xlwt", got="not installed",
            todo="pip install 'apexflow[test]', or pip install xlwt.",
        ) from error  # fmt: skip


def write_xls(path: Path, sheets: Mapping[str, BookRows]) -> None:
    """Write an old-format workbook (title -> rows). Raises as `need_xls`; no formulas."""
    need_xls()
    import xlwt

    book = xlwt.Workbook()
    for title, rows in sheets.items():
        sheet = book.add_sheet(title)
        for r, cells in enumerate(rows):
            for c, cell in enumerate(cells):
                if cell is not None:
                    sheet.write(r, c, cell.value if isinstance(cell, Formula) else cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(str(path))
