"""Files written whole or not at all, and tables that say when a byte of them has changed.

A file is written under a temporary name in its own folder, flushed, fsynced and renamed. Several
files that belong together change as one: a small journal lists the renames before the first is
done, and whoever locks the workspace next finishes them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from data.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa  # else imported where tables are: a GPU machine may lack it

TEMP_SUFFIX = ".tmp"
JOURNAL = ".commit-{token}.json"
ROW_GROUP = 65_536  # rows: a reader of one video's frames reads these, not the table


def temporary_name(final: Path, token: str) -> Path:
    """The temporary name beside `final` of the attempt `token`."""
    return final.parent / f".{final.name}.{token}{TEMP_SUFFIX}"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing(final: Path, token: str = "") -> Iterator[Path]:
    """Give a temporary path beside `final`; on success it takes its place, on error it goes.

    It is this attempt's own, whoever else writes the file meanwhile, unless a token is given.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(final, token or f"{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(final)
        sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def commit(folder: Path, moves: Sequence[tuple[Path, Path]], token: str) -> None:
    """Rename every (temporary, final), all in or below `folder`, as one change; in this order.

    A kill before the journal is whole leaves the old files, a kill after it the new ones: `recover`
    finishes it.
    """
    for temporary, _ in moves:
        sync_file(temporary)
    names = [[str(a.relative_to(folder)), str(b.relative_to(folder))] for a, b in moves]
    with replacing(folder / JOURNAL.format(token=token), token) as journal:
        journal.write_text(json.dumps(names))
    recover(folder)


def recover(folder: Path) -> None:
    """Finish every change whose journal is in `folder`; call only while holding the workspace.

    A damaged journal is dropped: what it had begun is found by the digests of the files.
    """
    for journal in sorted(folder.glob(JOURNAL.format(token="*"))):
        touched = {folder}
        for temporary, final in _moves(journal):
            if temporary.exists():
                final.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(final)
                touched.add(final.parent)
        for place in touched:
            sync_folder(place)
        journal.unlink()


def _moves(journal: Path) -> list[tuple[Path, Path]]:
    """The renames of a journal, none of which leaves its folder."""
    folder = journal.parent
    try:
        moves = [(folder / old, folder / new) for old, new in json.loads(journal.read_text())]
        inside = [p.resolve().is_relative_to(folder.resolve()) for move in moves for p in move]
    except (ValueError, TypeError, RuntimeError):
        return []
    return moves if all(inside) else []


def write_table(table: pd.DataFrame, path: Path, token: str = "") -> None:
    """Write Parquet atomically and deterministically (same rows and versions, same bytes)."""
    with replacing(path, token) as temporary:
        save_parquet(table, temporary)


def save_parquet(table: pd.DataFrame, path: Path, facts: Mapping[str, str] | None = None) -> None:
    """Plain Parquet write with fixed options: no index, zstd, a checksum on every page.

    `facts` go into the file's own metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    if facts:
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **facts})
    pq.write_table(
        arrow,
        path,
        compression="zstd",
        version="2.6",
        row_group_size=ROW_GROUP,
        write_page_checksum=True,
    )


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read a Parquet table, its checksums checked; StoreError naming the file when it is damaged.

    columns: pandas types of columns it must have.
    """
    return read_table_and_facts(path, columns)[0]


def read_table_and_facts(
    path: Path, columns: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """As `read_table`, and the file's own metadata as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(path, page_checksum_verification=True)
        table = arrow.to_pandas(types_mapper=_nullable)
        facts = {k.decode(): v.decode() for k, v in (arrow.schema.metadata or {}).items()}
        return (table.astype(dict(columns)) if columns else table), facts
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            str(path),
            expected="a readable Parquet table",
            got=f"{type(error).__name__}: {error}",
            todo="Run again: it is made anew from its inputs.",
            code="damaged_table",
        ) from error


def _nullable(kind: pa.DataType) -> object:
    """Pandas' nullable types, so that a null never turns an index into a float."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    return {pa.int64(): pd.Int64Dtype(), pa.bool_(): None}.get(kind)
