"""Stores: HDF5 parts and Parquet tables, written whole or not at all, opened by anyone.

A part is written under a temporary name in its own folder, flushed, fsynced and renamed; the
manifest follows. Reading checks a part's digest once per process. Three lines open a store:

    manifest = pandas.read_parquet("WORKSPACE/casme2/align/manifest.parquet")
    part = h5py.File("WORKSPACE/casme2/align/" + manifest.part[0])
    crops = part[manifest.unit[0]]["crops"][:]
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import StoreError
from data.schema import LEDGER, empty
from data.stages.identity import file_digest
from data.stages.workspace import TEMP_SUFFIX, Workspace

MANIFEST = {
    "unit": "string",
    "key": "string",
    "part": "string",
    "status": "string",  # ok, or the reason code of its ledger row
    "bytes": "int64",
    "digest": "string",
    "version": "int64",
    "settings": "string",  # JSON of the settings that made it
    "counts": "string",  # JSON of what the stage counted
}
TIMINGS = {
    "part": "string",
    "mtime_ns": "int64",
    "seconds": "float64",
    "units": "int64",
    "host": "string",
    "versions": "string",
}


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """fsync `temporary`, rename it to `final` (same folder), fsync the folder."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


@contextmanager
def replacing(final: Path, token: str = "t") -> Iterator[Path]:
    """Give a temporary path beside `final`; on success it takes its place, on error it goes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{token}{TEMP_SUFFIX}"
    try:
        yield temporary
        publish(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: Path, token: str = "t") -> None:
    """Write Parquet atomically and deterministically (same rows and versions, same bytes)."""
    with replacing(path, token) as temporary:
        save_parquet(table, temporary)


def save_parquet(table: pd.DataFrame, path: Path) -> None:
    """Plain Parquet write with fixed options; no index, zstd."""
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd", version="2.6"
    )


def read_table(path: Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a Parquet table; StoreError naming the file when it is missing or damaged.

    columns: pandas types of columns it must have.
    """
    try:
        table = pq.read_table(path).to_pandas(types_mapper=_nullable)
        return table.astype(columns) if columns else table
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            str(path),
            expected="a readable Parquet table",
            got=f"{type(error).__name__}: {error}",
            todo="Run the stage again; it is rebuilt from its inputs.",
            code="damaged_table",
        ) from error


def _nullable(kind: pa.DataType) -> object:
    """Pandas' nullable types, so that a null never turns an index into a float."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    return {pa.int64(): pd.Int64Dtype(), pa.bool_(): None}.get(kind)


def read_manifest(folder: Path) -> pd.DataFrame:
    """The folder's manifest, or an empty one."""
    path = folder / "manifest.parquet"
    if not path.exists():
        return pd.DataFrame({c: pd.Series(dtype=t) for c, t in MANIFEST.items()})
    return read_table(path, MANIFEST)


def read_timings(folder: Path) -> pd.DataFrame:
    """Seconds, host and versions per part; empty when absent or damaged (it is only news)."""
    try:
        return read_table(folder / "timings.parquet", TIMINGS)
    except StoreError:
        return pd.DataFrame({c: pd.Series(dtype=t) for c, t in TIMINGS.items()})


def read_ledger(folder: Path) -> pd.DataFrame:
    """The folder's ledger, or an empty one."""
    path = folder / "ledger.parquet"
    return read_table(path, LEDGER) if path.exists() else empty("ledger")


def read_books(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """A stage's manifest and ledger, and what is wrong with them in words ('' when nothing is).

    Without both nobody knows what the parts hold and what was dropped: then both come back empty,
    so that the stage is redone.
    """
    nothing = pd.DataFrame({c: pd.Series(dtype=t) for c, t in MANIFEST.items()}), empty("ledger")
    if not (folder / "manifest.parquet").exists():
        return *nothing, ""
    if not (folder / "ledger.parquet").exists():
        return *nothing, "ledger missing"
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return *nothing, "manifest damaged"
    try:
        return manifest, read_ledger(folder), ""
    except StoreError:
        return *nothing, "ledger damaged"


def is_sound_table(path: Path) -> bool:
    """Whether a Parquet table is there and can be read."""
    try:
        read_table(path)
    except StoreError:
        return False
    return True


def digest_of(path: Path) -> str:
    """A file's digest, read once per process as long as its size and time stay the same."""
    stat = path.stat()
    return _digest_once(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest_once(path: str, size: int, mtime_ns: int) -> str:
    return file_digest(Path(path))


def check_part(folder: Path, part: str, size: int, digest: str) -> Path:
    """Path of a part whose bytes are what the manifest says; digests are read once per process.

    Raises StoreError, code `damaged_part`, for a missing, truncated or altered part.
    """
    path = folder / part
    try:
        stat, found = path.stat(), digest_of(path)
    except OSError as error:
        raise _damaged(path, "a part file", str(error)) from error
    if stat.st_size != size or found != digest:
        raise _damaged(path, f"{size} bytes, digest {digest[:8]}", f"{stat.st_size}, {found[:8]}")
    return path


def _damaged(path: Path, expected: str, got: str) -> StoreError:
    return StoreError(
        str(path),
        expected=expected,
        got=got,
        todo="Run again: the units in it are redone.",
        code="damaged_part",
    )


class StageStore:
    """Read one dataset's stage store: units, arrays, tables."""

    def __init__(self, workspace: Workspace | Path | str, dataset: str, stage: str) -> None:
        if not isinstance(workspace, Workspace):
            workspace = Workspace(workspace)
        self.dataset, self.stage = dataset, stage
        self.folder = workspace.stage(dataset, stage)
        self.manifest = read_manifest(self.folder)
        self._rows = {row.unit: row for row in self.manifest.itertuples(index=False)}
        self._open: dict[str, h5py.File] = {}

    def units(self) -> list[str]:
        """Ids of the units that have data, sorted."""
        return sorted(u for u, row in self._rows.items() if row.status == "ok")

    def keys(self) -> dict[str, str]:
        """Unit id → content key, of all units."""
        return {unit: row.key for unit, row in self._rows.items()}

    def status(self, unit: str) -> str:
        """'ok', the reason the unit was dropped, or 'missing'."""
        row = self._rows.get(unit)
        return "missing" if row is None else str(row.status)

    @contextmanager
    def open(self, unit: str) -> Iterator[h5py.Group]:
        """The unit's read-only HDF5 group. Parts stay open until `close`.

        Raises StoreError when the unit has no data or its part is damaged.
        """
        row = self._rows.get(unit)
        if row is None or row.status != "ok":
            raise StoreError(
                f"{self.dataset}/{self.stage}/{unit}",
                expected="a unit with data",
                got=f"status {self.status(unit)}",
                todo="Look it up in the ledger; run the stage if it is missing.",
                code="no_data",
            )
        if row.part not in self._open:
            path = check_part(self.folder, row.part, row.bytes, row.digest)
            try:
                self._open[row.part] = h5py.File(path, "r")
            except OSError as error:
                raise _damaged(path, "an HDF5 file", str(error)) from error
        yield self._open[row.part][unit]

    def table(self) -> pd.DataFrame:
        """All rows of a Parquet stage (apex), live units only, sorted by unit."""
        live = self.manifest[self.manifest.status == "ok"]
        tables = []
        for (part, size, digest), rows in live.groupby(["part", "bytes", "digest"], sort=True):
            table = read_table(check_part(self.folder, part, int(size), digest))
            tables.append(table[table["unit"].isin(rows["unit"])])
        if not tables:
            return pd.DataFrame({"unit": pd.Series(dtype="string")})
        return pd.concat(tables).sort_values("unit", kind="stable").reset_index(drop=True)

    def close(self) -> None:
        """Close all parts."""
        for file in self._open.values():
            file.close()
        self._open.clear()
