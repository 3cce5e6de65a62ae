"""Publishing results into a store: one protocol for parts, tables, folds and scores.

Only the process that holds the workspace publishes. A part is published by its rename: it says of
itself what it holds, so the store's tables may follow a little later. Files that take the place of
others change as one with the tables (`data.stages.files.commit`). A row for another key of the same
unit stays; rows of the same unit and key are replaced.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.schema import LEDGER, conform
from data.stages.buckets import recorded_buckets
from data.stages.files import commit, save_parquet, sync_file, sync_folder, temporary_name
from data.stages.identity import file_digest
from data.stages.stores import (
    BUCKETS,
    MANIFEST,
    SUMS,
    TIMINGS,
    blank,
    read_records,
    read_timings,
    save_manifest,
    save_sums,
)
from data.stages.workspace import Workspace

TABLES = ("ledger", "timings", "manifest")
WRITE_EVERY_S = 5.0  # at least so long between two writings of a store's tables
WRITE_SHARE = 0.05  # … and of the time at most so much


class StoreWriter:
    """A store's tables while results are published into it."""

    def __init__(
        self, workspace: Workspace, folder: Path, token: str, buckets: int | None = None
    ) -> None:
        """`buckets`: chunks of the store, where it is a stage's."""
        self.workspace, self.folder, self.token = workspace, folder, token
        self.buckets = buckets or recorded_buckets(folder) or BUCKETS
        records = read_records(folder)
        self.trouble = records.trouble
        self.rows = _by_result(records.manifest.to_dict("records"))
        self.ledger: list[dict[str, Any]] = records.ledger.to_dict("records")
        self.times = {r["part"]: r for r in read_timings(folder).to_dict("records")}
        self._written, self._spent = time.monotonic(), 0.0

    def add_part(
        self,
        temporary: Path,
        rows: Sequence[Mapping[str, Any]],
        ledger: Iterable[Mapping[str, Any]],
        timing: Mapping[str, Any],
    ) -> None:
        """Publish one part. The tables follow at once, or with one of the next parts."""
        self.workspace.check_hold()
        final = self.folder / str(timing["part"])
        sync_file(temporary)
        temporary.replace(final)
        sync_folder(self.folder)
        new = _by_result(rows)
        if self.rows.keys() & new.keys():
            self.ledger = [r for r in self.ledger if (r["unit"], r["key"]) not in new]
        self.rows |= new
        self.ledger += [dict(row) for row in ledger]
        self.times[final.name] = {**timing, "mtime_ns": final.stat().st_mtime_ns}
        self.trouble = self.trouble or "parts not in the manifest"
        if time.monotonic() - self._written > max(WRITE_EVERY_S, self._spent / WRITE_SHARE):
            self.flush()

    def flush(self) -> None:
        """Write the tables, where they do not say what is there."""
        if self.trouble:
            begun = time.monotonic()
            self._commit(())
            self.trouble, self._written = "", time.monotonic()
            self._spent = self._written - begun  # a table of a million rows takes seconds

    def enter(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        files: Sequence[tuple[Path, Path]] = (),
        ledger: Iterable[Mapping[str, Any]] = (),
        timings: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Publish files (temporary, final) of whole units in the place of what these units had."""
        new = _by_result(rows)
        units = {unit for unit, _ in new}
        self.rows = {k: v for k, v in self.rows.items() if k[0] not in units} | new
        self.ledger = [r for r in self.ledger if (r["unit"], r["key"]) not in new]
        self.ledger += [dict(row) for row in ledger]
        stamps = {final: temporary.stat().st_mtime_ns for temporary, final in files}
        for timing in timings:
            stamp = stamps.get(self.folder / str(timing["part"]), 0)
            self.times[str(timing["part"])] = {**timing, "mtime_ns": stamp}
        self._commit(files)

    def forget(self, results: Iterable[tuple[str, str]]) -> None:
        """Drop the rows of these (unit, key); their files may go afterwards."""
        gone = set(results)
        self.rows = {place: rows for place, rows in self.rows.items() if place not in gone}
        self.ledger = [r for r in self.ledger if (r["unit"], r["key"]) not in gone]
        self._commit(())

    def _commit(self, files: Sequence[tuple[Path, Path]]) -> None:
        self.workspace.check_hold()
        self.folder.mkdir(parents=True, exist_ok=True)
        new = {name: self.folder / f"{name}.parquet" for name in TABLES}
        made = {name: temporary_name(path, self.token) for name, path in new.items()}
        rows = [row for group in self.rows.values() for row in group]
        live = {row["part"] for row in rows}
        ledger = pd.DataFrame(self.ledger, columns=list(LEDGER))
        ledger = conform(ledger.sort_values(["unit", "key", "reason", "detail"]), "ledger")
        save_parquet(ledger, made["ledger"])
        times = [t for part, t in sorted(self.times.items()) if part in live]
        table = pd.DataFrame(times, columns=list(TIMINGS)).astype(TIMINGS)
        save_parquet(table if times else blank(TIMINGS), made["timings"])
        manifest = pd.DataFrame(rows, columns=list(MANIFEST)) if rows else blank(MANIFEST)
        save_manifest(manifest, made["manifest"], self.buckets)
        sums = temporary_name(self.folder / SUMS, self.token)
        save_sums(sums, {name: made[name] for name in ("ledger", "manifest")})
        moves = [*files, *((made[name], new[name]) for name in TABLES), (sums, self.folder / SUMS)]
        commit(self.folder, moves, self.token)


def file_row(
    unit: str,
    key: str,
    part: str,
    path: Path,
    version: int,
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Manifest row of a file that is a whole result, still at `path`, to be called `part`."""
    return {
        "unit": unit,
        "key": key,
        "part": part,
        "status": "ok",
        "bytes": path.stat().st_size,
        "digest": file_digest(path),
        "content": "",
        "version": version,
        "settings": "{}",
        "counts": json.dumps(dict(counts or {})),
    }


def _by_result(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Manifest rows by (unit, key)."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((str(row["unit"]), str(row["key"])), []).append(dict(row))
    return found
