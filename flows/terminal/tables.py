"""Tables for people on a terminal: one formatter, rich's, as plain text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under their names; words left, numbers right; never cut or wrapped."""
    if not rows:
        return ""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(rows[0])
    table = Table(box=None, pad_edge=False, header_style="")
    for name in names:
        column = [str(row.get(name, "")) for row in rows]
        numbers = all(not text or text[0].isdigit() or text in ("?", "–") for text in column)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(row.get(name, ""))) for name in names))
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
