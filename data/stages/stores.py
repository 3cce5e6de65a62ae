"""Stores: parts and their manifest, opened by anyone; results of different settings side by side.

A store is a folder. Its manifest has a row for every unit, key and file: the same unit made with
other settings has another key and lies in another part, so nothing that is there is overwritten.
Three lines open a store:

    manifest = pandas.read_parquet("WORKSPACE/casme2/align/manifest.parquet")
    part = h5py.File("WORKSPACE/casme2/align/" + manifest.part[0])
    crops = part[manifest.unit[0]]["crops"][:]

The manifest's own metadata carry a digest of its rows and of the ledger, the rows carry that of
every part and of every unit in it; what is read is checked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data.errors import StoreError
from data.schema import LEDGER, conform, empty
from data.stages.files import read_table, read_table_and_facts, save_parquet, write_table
from data.stages.identity import digest_of
from data.stages.workspace import Workspace

MANIFEST_FORM = "2"  # of the tables of a store; 1 had one result of a unit at most
MANIFEST = {
    "unit": "string",
    "key": "string",
    "part": "string",
    "status": "string",  # ok, or the reason code of its ledger row
    "bytes": "int64",
    "digest": "string",  # of the part's bytes
    "content": "string",  # of the unit's own arrays in an HDF5 part; empty otherwise
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
    "peak_mb": "float64",  # most memory its process had; NaN where not measured
}
UNIT_RECORD = "unit.json"  # in a unit's own folder: its rows of the manifest
RECORDS = ".records"  # dataset of an HDF5 part with what it says of itself
ROWS, FORM = "apexflow_rows", "apexflow_form"
BUCKETS, CHUNKS = 64, "apexflow_chunks"  # chunks of a store, where it does not say another number
SUMS = "SHA256SUMS"  # of manifest and ledger, beside them


def blank(columns: Mapping[str, str]) -> pd.DataFrame:
    """An empty table of these columns and types."""
    return pd.DataFrame({c: pd.Series(dtype=t) for c, t in columns.items()})


def rows_digest(table: pd.DataFrame) -> str:
    """Digest of a table's values, column by column."""
    digest = hashlib.sha256()
    for name in table.columns:
        digest.update(f"\x1e{name}\x1f".encode())
        texts = table[name].astype("string").to_numpy(object, na_value="\x00")
        digest.update("\x1f".join(texts.tolist()).encode())
    return digest.hexdigest()[:32]


def save_manifest(manifest: pd.DataFrame, path: Path, buckets: int = BUCKETS) -> None:
    """Write a manifest that vouches for its own rows."""
    table = manifest.astype(MANIFEST).sort_values(["key", "unit", "part"]).reset_index(drop=True)
    chunks = {} if buckets == BUCKETS else {CHUNKS: str(buckets)}
    save_parquet(table, path, {FORM: MANIFEST_FORM, ROWS: rows_digest(table), **chunks})


def save_sums(path: Path, tables: Mapping[str, Path]) -> None:
    """Write name → file's sha256, as `sha256sum -c` reads it."""
    lines = [f"{sha256_of(tables[name])}  {name}.parquet" for name in sorted(tables)]
    path.write_text("\n".join([*lines, ""]))


def sha256_of(path: Path) -> str:
    """A file's whole sha256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _as_summed(folder: Path) -> dict[str, bool]:
    """Table → whether its bytes are those its sum says; empty without readable sums."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError):
        return {}
    found = {}
    for name, digest in sums.items():
        path = folder / name
        found[name.removesuffix(".parquet")] = path.is_file() and sha256_of(path) == digest
    return found


def read_manifest(folder: Path) -> pd.DataFrame:
    """The folder's manifest, or an empty one.

    Raises StoreError `damaged_table` when a value is not as it was written, `old_store` for a
    manifest of an earlier form.
    """
    return _read_manifest(folder)[0]


def _read_manifest(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    path = folder / "manifest.parquet"
    if not path.exists():
        return blank(MANIFEST), {}
    table, facts = read_table_and_facts(path)
    if FORM not in facts and "content" not in table.columns and "unit" in table.columns:
        raise StoreError(
            str(folder),
            expected=f"a store of form {MANIFEST_FORM}",
            got="one that an apexflow before 0.2 made",
            todo="Run again: results are made anew beside it, `prune` lists the old files.",
            code="old_store",
        )
    if list(table.columns) != list(MANIFEST) or facts.get(ROWS) != rows_digest(
        table.astype(MANIFEST)
    ):
        raise StoreError(
            str(path),
            expected="rows as they were written",
            got="other columns or values",
            todo="Run again: it is made anew.",
            code="damaged_table",
        )
    return table.astype(MANIFEST), facts


def read_timings(folder: Path) -> pd.DataFrame:
    """Seconds, host and versions per part; empty when absent or damaged (it is only news)."""
    try:
        table = read_table(folder / "timings.parquet")
        if "peak_mb" not in table:  # of an earlier version
            table["peak_mb"] = np.nan
        return table[list(TIMINGS)].astype(TIMINGS)
    except (StoreError, KeyError, ValueError, TypeError):
        return blank(TIMINGS)


def read_ledger(folder: Path, keys: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The folder's ledger, or an empty one; with `keys` (unit → key) only rows about these."""
    path = folder / "ledger.parquet"
    if not path.exists():
        return empty("ledger")
    table = read_table(path, LEDGER)
    if keys is None:
        return table
    own = [k == keys.get(u) for u, k in zip(table.unit, table.key.fillna(""), strict=True)]
    return table[np.array(own, bool)].reset_index(drop=True)


@dataclass
class Records:
    """What a store says of itself: manifest and ledger, and what is wrong with them in words."""

    manifest: pd.DataFrame
    ledger: pd.DataFrame
    trouble: str = ""  # '' when the tables are as they were written


def read_records(folder: Path) -> Records:
    """A store's manifest and ledger. What is lost or damaged is read from the parts again.

    Parts, and the folders of trained folds, say which units they hold and what was noted about
    them; whole files (ingest's, a run's scores) do not, so that these are made anew.
    """
    told = itertools.chain(folder.glob("part-*"), folder.glob(f"*/{UNIT_RECORD}"))
    if not (folder / "manifest.parquet").exists() and not any(True for _ in told):
        return Records(blank(MANIFEST), empty("ledger"))
    try:
        manifest, facts = _read_manifest(folder)
        if not facts:
            raise StoreError(str(folder), expected="a manifest", got="none", code="no_data")
    except StoreError as error:
        word = {"old_store": "made by an earlier version", "no_data": "manifest missing"}
        trouble = word.get(error.code, "manifest damaged")
        return Records(*read_from_parts(folder), trouble)
    sound = _as_summed(folder)
    if not sound.get("ledger"):
        missing = not (folder / "ledger.parquet").exists()
        trouble = "ledger missing" if missing else "ledger damaged"
        if not sound:
            trouble = f"{SUMS} missing or damaged"
        _, ledger = read_from_parts(folder, set(manifest.part))
        return Records(manifest, ledger, trouble)
    trouble = ""
    if not sound.get("manifest"):  # its rows are whole, yet may be another store's
        trouble = "manifest damaged"
        told, _ = read_from_parts(folder, set())
        here = [(folder / part).exists() for part in manifest.part]
        own = manifest[np.array(here, bool) & ~manifest.part.isin(told.part).to_numpy(bool)]
        manifest = pd.concat([own, told], ignore_index=True) if len(told) else own
    return _with_newer_parts(folder, Records(manifest, read_ledger(folder), trouble))


def _with_newer_parts(folder: Path, records: Records) -> Records:
    """The records and what parts say that a run published before it could write the tables."""
    newer = {p.name for p in folder.glob("part-*")} - set(records.manifest.part)
    if not newer:
        return records
    manifest, ledger = read_from_parts(folder, newer)
    if manifest.empty:
        return records
    made = set(zip(manifest.unit, manifest.key, strict=True))

    def older(table: pd.DataFrame) -> pd.DataFrame:
        places = zip(table.unit, table.key, strict=True)
        return table[np.array([place not in made for place in places], bool)]

    return Records(
        pd.concat([older(records.manifest), manifest], ignore_index=True),
        pd.concat([older(records.ledger), ledger], ignore_index=True),
        records.trouble or "parts not in the manifest",
    )


def read_from_parts(
    folder: Path, wanted: set[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest and ledger as the parts (and the folders of trained folds) themselves tell them.

    Unreadable ones tell nothing.
    """
    rows: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"*/{UNIT_RECORD}")):
        try:
            own = json.loads(path.read_text())["units"]
            part = str(path.relative_to(folder))
            size = path.stat().st_size
            rows += [*own, {**own[0], "part": part, "bytes": size, "digest": digest_of(path)}]
        except (OSError, LookupError, ValueError, TypeError):
            continue
    for path in sorted(folder.glob("part-*")):
        if wanted is not None and path.name not in wanted:
            continue
        try:
            told = json.loads(part_facts(path)["records"])
        except (OSError, KeyError, ValueError, StoreError):
            continue
        common = {"part": path.name, "bytes": path.stat().st_size, "digest": digest_of(path)}
        rows += [{**row, **common} for row in told["units"]]
        ledger += told["ledger"]
    manifest = pd.DataFrame(rows, columns=list(MANIFEST)).astype(MANIFEST)
    return manifest, conform(pd.DataFrame(ledger, columns=list(LEDGER)), "ledger")


def part_facts(path: Path) -> dict[str, str]:
    """What a part says of itself, as text: attributes of an HDF5 file, metadata of a Parquet."""
    if path.suffix == ".parquet":
        return read_table_and_facts(path)[1]
    with h5py.File(path, "r") as file:
        facts = {name: str(value) for name, value in file.attrs.items()}
        if RECORDS in file:  # longer than an attribute may be
            facts["records"] = file[RECORDS][:].tobytes().decode()
        return facts


def group_digest(group: h5py.Group) -> str:
    """Digest of a unit's arrays and attributes: names, types, shapes and stored bytes."""
    digest = hashlib.sha256()

    def enter(name: str, item: h5py.Group | h5py.Dataset) -> None:
        facts = [(k, _attribute(item.attrs[k])) for k in sorted(item.attrs)]
        digest.update(f"\x1e{name}\x1f{facts}".encode())
        if not isinstance(item, h5py.Dataset):
            return
        digest.update(f"{item.dtype}{item.shape}".encode())
        if item.chunks is None or item.dtype.hasobject:
            values = item[()]
            plain = values.tolist() if item.dtype.hasobject else values.tobytes()
            digest.update(plain if isinstance(plain, bytes) else repr(plain).encode())
            return
        places: list[tuple[int, ...]] = []
        item.id.chunk_iter(lambda info: places.append(info.chunk_offset))
        for place in sorted(places):
            digest.update(repr(place).encode())
            digest.update(item.id.read_direct_chunk(place)[1])

    enter("", group)
    group.visititems(enter)
    return digest.hexdigest()[:32]


def _attribute(value: Any) -> str:
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def damaged(path: Path, expected: str, got: str) -> StoreError:
    """The error of a part that is not what the manifest says."""
    return StoreError(
        str(path),
        expected=expected,
        got=got,
        todo="Run again: the units in it are redone.",
        code="damaged_part",
    )


def check_part(folder: Path, part: str, size: int, digest: str) -> Path:
    """Path of a file whose bytes are what the manifest says; digests are read once per process.

    Raises StoreError, code `damaged_part`, for a missing, truncated or altered file.
    """
    path = folder / part
    try:
        stat, found = path.stat(), digest_of(path)
    except OSError as error:
        raise damaged(path, "a part file", str(error)) from error
    if stat.st_size != size or found != digest:
        raise damaged(path, f"{size} bytes, digest {digest[:8]}", f"{stat.st_size}, {found[:8]}")
    return path


@dataclass(frozen=True)
class Entry:
    """Where one result lies: a row of the manifest."""

    unit: str
    key: str
    part: str
    status: str
    bytes: int
    digest: str
    content: str


class OpenParts:
    """HDF5 parts of one folder, each opened once; a unit's content is checked when first opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, h5py.File] = {}
        self._checked: set[tuple[str, str]] = set()

    def group(self, entry: Entry) -> h5py.Group:
        """The entry's read-only group. Raises StoreError `damaged_part` when it is not as made."""
        path = self.folder / entry.part
        try:
            if entry.part not in self._files:
                self._files[entry.part] = h5py.File(path, "r")
            group = self._files[entry.part][entry.unit]
            if (entry.part, entry.unit) not in self._checked:
                found = group_digest(group)
                if found != entry.content:
                    raise damaged(path, f"{entry.unit} as it was written", "other contents")
                self._checked.add((entry.part, entry.unit))
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise damaged(path, f"an HDF5 file with {entry.unit}", str(error)) from error
        return group

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._checked.clear()


class StageStore:
    """Read one dataset's stage store: units, arrays, tables; of a unit's results, one."""

    def __init__(
        self,
        workspace: Workspace | Path | str,
        dataset: str,
        stage: str,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """`keys`: unit → key of the result wanted; without it the one that was made last."""
        if not isinstance(workspace, Workspace):
            workspace = Workspace(workspace)
        self.dataset, self.stage = dataset, stage
        self.folder = workspace.stage(dataset, stage)
        self.manifest = choose(read_records(self.folder).manifest, self.folder, keys)
        self._entries = {e.unit: e for e in entries(self.manifest)}
        self._parts = OpenParts(self.folder)

    def units(self) -> list[str]:
        """Ids of the units that have data, sorted."""
        return sorted(u for u, e in self._entries.items() if e.status == "ok")

    def keys(self) -> dict[str, str]:
        """Unit id → content key, of all units."""
        return {unit: entry.key for unit, entry in self._entries.items()}

    def status(self, unit: str) -> str:
        """'ok', the reason the unit was dropped, or 'missing'."""
        entry = self._entries.get(unit)
        return "missing" if entry is None else entry.status

    @contextmanager
    def open(self, unit: str) -> Iterator[h5py.Group]:
        """The unit's read-only HDF5 group. Parts stay open until `close`.

        Raises StoreError when the unit has no data or its part is damaged.
        """
        entry = self._entries.get(unit)
        if entry is None or entry.status != "ok":
            raise no_data(self.dataset, self.stage, unit, self.status(unit))
        yield self._parts.group(entry)

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
        self._parts.close()


def no_data(dataset: str, stage: str, unit: str, status: str) -> StoreError:
    """The error of a unit without data."""
    return StoreError(
        f"{dataset}/{stage}/{unit}",
        expected="a unit with data",
        got=f"status {status}",
        todo="Look it up in the ledger; run the stage if it is missing.",
        code="no_data",
    )


def entries(manifest: pd.DataFrame) -> Iterator[Entry]:
    """The manifest's rows."""
    columns = ("unit", "key", "part", "status", "bytes", "digest", "content")
    for row in zip(*plain_columns(manifest, columns), strict=True):
        yield Entry(*row)


def plain_columns(table: pd.DataFrame, names: Iterable[str]) -> list[list[Any]]:
    """Columns as lists; many times faster than going through pandas' strings one by one."""
    return [table[name].to_numpy(object).tolist() for name in names]


def choose(manifest: pd.DataFrame, folder: Path, keys: Mapping[str, str] | None) -> pd.DataFrame:
    """One result of each unit: that of `keys`, or without them the one that was made last."""
    if keys is not None:
        rows = zip(*plain_columns(manifest, ("unit", "key")), strict=True)
        own = np.array([k == keys.get(u) for u, k in rows], bool)
        return manifest if own.all() else manifest[own].reset_index(drop=True)
    if not manifest.unit.duplicated().any():
        return manifest
    times = {t.part: t.mtime_ns for t in read_timings(folder).itertuples(index=False)}
    made = manifest.assign(made=[times.get(part, 0) for part in manifest.part])
    last = made.sort_values(["made", "key"], kind="stable").groupby("unit").key.last()
    newest = [k == last[u] for u, k in zip(manifest.unit, manifest.key, strict=True)]
    return manifest[np.array(newest, bool)].reset_index(drop=True)


__all__ = [
    "LEDGER",
    "MANIFEST",
    "TIMINGS",
    "Entry",
    "OpenParts",
    "Records",
    "StageStore",
    "digest_of",
    "read_ledger",
    "read_manifest",
    "read_records",
    "read_table",
    "read_timings",
    "write_table",
]
