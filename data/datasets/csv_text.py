"""CSV as spreadsheets write it anywhere: UTF-8 or UTF-16, comma, semicolon, tab or bar between.

A European spreadsheet puts semicolons between cells because its numbers have a decimal comma, and
one that saves "Unicode text" writes UTF-16 with tabs. Both are recognised from the text itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

from data.datasets.parsing import Cell

Rows = list[list[Cell]]
SEPARATORS = (",", ";", "\t", "|")
_HINT = re.compile(r"sep=(.)[ \t]*\r?\n", re.IGNORECASE)  # a first line that Excel understands
_HIGH = re.compile(rb"(?:[\x81-\xfe][0-9]){2}|[\x81-\xfe][\xa1-\xfe]|[\x80-\xff]")
_SAMPLE = 60  # rows that show which separator is meant; prose may come first


def read_csv(raw: bytes) -> Rows:
    """Rows of text cells. Raises ValueError for bytes that are no text or a cell without end."""
    content = decode(raw)
    if hint := _HINT.match(content):
        return list(_rows(content[hint.end() :], hint[1]))
    return list(_rows(content, separator(content)))


def decode(raw: bytes) -> str:
    """Text of UTF-8, UTF-16 (with or without its mark), GB 18030 or Windows-1252 bytes.

    Chinese bytes come in pairs, the accented letters of Western names stand alone.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16")
    head = raw[:1000]
    if len(head) >= 4 and head.count(0) >= 0.3 * len(head):  # every other byte of ASCII is 0
        return raw.decode("utf-16-be" if head[0] == 0 else "utf-16-le")
    signs = _HIGH.findall(raw)
    eastern = 2 * sum(len(sign) > 1 for sign in signs) > len(signs)
    for encoding in ("utf-8-sig", "gb18030" if eastern else "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def separator(content: str) -> str:
    """The separator there is most of, the more even one of two; comma when there is none.

    Decimal commas and lists of action units inside cells are fewer than the columns' borders.
    """

    def score(candidate: str) -> tuple[int, int]:
        widths = [len(row) for row in islice(_rows(content, candidate), _SAMPLE)]
        return sum(w - 1 for w in widths if w), max(map(widths.count, widths), default=0)

    return max(SEPARATORS, key=score)


def _rows(content: str, between: str) -> Iterator[list[Cell]]:
    """Rows end at line feeds and carriage returns only, and not inside quotes."""
    try:
        for row in csv.reader(io.StringIO(content, newline=""), delimiter=between):
            yield list(row)
    except csv.Error as error:  # a cell longer than the module reads: a quote that never ends
        raise ValueError(f"{error}: a quotation mark that nothing closes?") from error
