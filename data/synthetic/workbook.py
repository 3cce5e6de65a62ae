"""Excel workbooks whose bytes depend on their cells only.

openpyxl stamps the time into the document properties and into every zip entry; here both are
fixed, so that the same dataset written twice is the same file twice.
"""

from __future__ import annotations

import io
import zipfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openpyxl import Workbook

_EPOCH = datetime(2014, 5, 8)
_ZIP_TIME = (2014, 5, 8, 0, 0, 0)


def save(book: Workbook, path: Path) -> None:
    """Write `book` to `path` (folders are made); equal cells give equal bytes."""
    from openpyxl.writer.excel import ExcelWriter

    raw = io.BytesIO()
    book.properties.created = _EPOCH
    book.properties.creator = "apexflow synthetic"
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        writer = ExcelWriter(book, archive)
        # ExcelWriter.write_data() overwrites `modified` with the clock only via Workbook.save().
        book.properties.modified = _EPOCH
        writer.save()
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, source.read(name))
