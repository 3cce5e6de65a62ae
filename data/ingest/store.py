"""The ingest store: videos, frames, events, ledger and findings of one dataset, published together.

Five tables must change as one. They are written into a pending folder, which becomes the commit
folder by one rename; from then on whoever opens the store first moves the tables into place. A kill
before that rename leaves the old tables, a kill after it the new ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import DatasetError, StoreError
from data.ingest.tables import VERSION, IngestTables, ingest
from data.schema import conform
from data.stages import stores
from data.stages.identity import file_digest
from data.stages.workspace import Workspace

NAMES = ("videos", "frames", "events", "ledger", "findings")


@dataclass(frozen=True)
class IngestPlan:
    """What ingest found on disk and whether the store already says so."""

    dataset: str
    tables: IngestTables
    reason: str  # '' when fresh

    def summary(self) -> dict[str, object]:
        """Counts for people and JSON; one unit, the dataset."""
        return {
            "stage": "ingest",
            "dataset": self.dataset,
            "units": 1,
            "fresh": int(not self.reason),
            "stale": int(bool(self.reason) and self.reason != "missing"),
            "missing": int(self.reason == "missing"),
            "failed": 0,
            "reasons": {self.reason: 1} if self.reason else {},
        }


def plan_ingest(
    workspace: Workspace, dataset: str, root: Path, *, force: bool = False, verify: bool = False
) -> IngestPlan:
    """List and read the dataset, compare with the store; writes nothing.

    Raises DatasetError when the root is no folder or holds no such dataset.
    """
    if not root.is_dir():
        raise DatasetError(
            f"dataset {dataset}",
            expected=f"a folder at {root}",
            got="none",
            todo="Give --data NAME=ROOT with the folder the owner shipped.",
        )
    tables = ingest(root, dataset)
    folder = workspace.stage(dataset, "ingest")
    return IngestPlan(dataset, tables, "forced" if force else _why(folder, tables.key, verify))


def _why(folder: Path, key: str, verify: bool) -> str:
    try:
        manifest = stores.read_manifest(folder)
    except StoreError:
        return "manifest damaged"
    if manifest.empty:
        return "missing"
    if int(manifest.version.iloc[0]) != VERSION:
        return f"stage version {manifest.version.iloc[0]} → {VERSION}"
    if set(manifest.key) != {key}:
        return "files or sheets changed"
    for row in manifest.itertuples(index=False):
        path = folder / row.part
        if not path.exists():
            return "part missing"
        if path.stat().st_size != row.bytes or (verify and file_digest(path) != row.digest):
            return "part differs"
    return ""


def run_ingest(plan: IngestPlan, workspace: Workspace, token: str) -> None:
    """Publish the tables if the plan says so. Call while holding the workspace lock."""
    folder = workspace.stage(plan.dataset, "ingest")
    folder.mkdir(parents=True, exist_ok=True)
    roll_forward(folder)
    if not plan.reason:
        return
    pending, commit = folder / ".pending", folder / ".commit"
    shutil.rmtree(pending, ignore_errors=True)
    pending.mkdir()
    rows = []
    for name in NAMES:
        table = getattr(plan.tables, name)
        path = pending / f"{name}.parquet"
        stores.write_table(table if name == "findings" else conform(table, name), path, token)
        rows.append(
            {
                "unit": name,
                "key": plan.tables.key,
                "part": path.name,
                "status": "ok",
                "bytes": path.stat().st_size,
                "digest": file_digest(path),
                "version": VERSION,
                "settings": "{}",
                "counts": f'{{"rows": {len(table)}}}',
            }
        )
    manifest = pd.DataFrame(rows).astype(stores.MANIFEST).sort_values(["key", "unit"])
    stores.write_table(manifest, pending / "manifest.parquet", token)
    pending.rename(commit)
    stores.sync_folder(folder)
    roll_forward(folder)


def roll_forward(folder: Path) -> None:
    """Finish a publication that a kill interrupted; the manifest moves last."""
    commit = folder / ".commit"
    if not commit.is_dir():
        return
    for path in sorted(commit.iterdir(), key=lambda p: (p.name == "manifest.parquet", p.name)):
        path.replace(folder / path.name)
    stores.sync_folder(folder)
    commit.rmdir()
