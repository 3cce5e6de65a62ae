"""Names and cells of exported files: nothing leads out of the folder, nothing runs on opening."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from data.errors import InputError
from data.stages.files import replacing
from data.stages.identity import stable_hash

Key = TypeVar("Key", bound=Hashable)
LONGEST_NAME = 80
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE)


def safe_name(text: str) -> str:
    """One file name that cannot leave its folder: letters of any script, digits, `.`, `-`, `_`."""
    name = re.sub(r"[^\w.\- ]+", "_", text).strip(" ").lstrip(".")[:LONGEST_NAME].rstrip(" .")
    return name or "_"


def safe_folders(out: Path, ids: Iterable[str]) -> dict[str, Path]:
    """A folder under `out` for every id; slashes in an id make folders, `..` and the like do not.

    Ids that would share a folder (also where upper and lower case are one) get a hash behind.
    Raises InputError when a link inside `out` would lead one outside.
    """
    base, taken, found = out.resolve(), dict[str, str](), {}
    for unit in sorted(ids):
        steps = [step for step in re.split(r"[/\\]", unit) if step not in ("", ".", "..")]
        parts = [safe_name(step) for step in steps] or ["_"]
        relative = "/".join(parts)
        if relative.casefold() in taken:
            parts[-1] += f"-{stable_hash(unit)[:8]}"
            relative = "/".join(parts)
        taken[relative.casefold()] = unit
        path = base / relative
        if not path.resolve().is_relative_to(base):
            raise InputError(
                f"export of {unit}",
                expected=f"a folder inside {out}",
                got=f"a link to {path.resolve()}",
                todo="Export to an empty folder.",
            )
        found[unit] = path
    return found


def unique_names(wanted: Mapping[Key, str]) -> dict[Key, str]:
    """Key → its name, no two the same, also where upper and lower case are one.

    Keys that would share a name get a hash of theirs behind, but for the first of them.
    """
    taken, found = set[str](), dict[Key, str]()
    for key in sorted(wanted, key=str):
        name = wanted[key]
        if name.casefold() in taken:
            name += f"-{stable_hash(key)[:8]}"
        taken.add(name.casefold())
        found[key] = name
    return found


def defused(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a quote before what begins like one.

    Ids and sheet texts come from strangers' files; `=HYPERLINK(...)` in one would run on opening.
    """
    if not isinstance(value, str) or not value.startswith(FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file at once, its cells defused; what is missing is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if pd.isna(cell) else defused(cell) for cell in row] for row in rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
