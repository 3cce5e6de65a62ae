"""`prune`: what a workspace no longer needs, listed first, removed only when asked.

Needed is what a run's record of its inputs names, what the last run of a stage made, and every
result whose dataset is not there (a share may be away). Everything else is listed with its reason.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data.errors import ConfigError, StoreError
from data.recordings import noted_root
from data.stages import stores
from data.stages.registry import STAGES
from data.stages.workspace import Workspace
from data.stages.writing import StoreWriter
from models.runs.files import RunFiles, run_manifest


def prune(path: Path, *, delete: bool) -> list[dict[str, Any]]:
    """List what nothing needs; remove it when `delete`.

    Raises ConfigError when `path` is no workspace, LockedError while a run holds it.
    """
    workspace = Workspace(path)
    if not workspace.datasets() and not (workspace.path / "runs").is_dir():
        raise ConfigError(f"workspace {path}", expected="stores or runs in it", got="none")
    with workspace.lock(what="prune") as token:
        needed = _needed_by_runs(workspace)
        found = [
            row for store in _stores(workspace) for row in _of_store(workspace, *store, needed)
        ]
        found += [row for run in _runs(workspace) for row in _of_run(run)]
        for row in found if delete else []:
            _remove(workspace, row, token)
    return [{k: v for k, v in row.items() if k != "results"} for row in found]


def _stores(workspace: Workspace) -> list[tuple[str, str]]:
    return [
        (dataset, folder.name)
        for dataset in workspace.datasets()
        for folder in sorted((workspace.path / dataset).iterdir())
        if folder.is_dir()
    ]


def _runs(workspace: Workspace) -> list[Path]:
    return sorted(p for p in (workspace.path / "runs").glob("*/*") if p.is_dir())


def _needed_by_runs(workspace: Workspace) -> set[tuple[str, str, str, str]]:
    """(dataset, stage, unit, key) that a trained run was made from."""
    needed: set[tuple[str, str, str, str]] = set()
    for folder in _runs(workspace):
        path = folder / "inputs.parquet"
        if path.is_file() and not run_manifest(folder).empty:
            table = stores.read_table(path)
            needed |= set(zip(*(table[c] for c in table.columns), strict=True))
    return needed


def _of_store(
    workspace: Workspace, dataset: str, stage: str, needed: set[tuple[str, str, str, str]]
) -> list[dict[str, Any]]:
    folder = workspace.stage(dataset, stage)
    records = stores.read_records(folder)
    manifest = records.manifest
    named = set(manifest.part)
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("damaged-"):
            found.append(_row(path, "damaged part, set aside"))
        elif path.name.startswith("part-") and path.name not in named:
            found.append(_row(path, "no manifest row names it"))
    if stage not in STAGES or manifest.empty or not _is_there(workspace, dataset):
        return found
    last = stores.choose(manifest, folder, None)
    current = {(dataset, stage, u, k) for u, k in zip(last.unit, last.key, strict=True)}
    for part, rows in manifest.groupby("part", sort=True):
        results = [(dataset, stage, u, k) for u, k in zip(rows.unit, rows.key, strict=True)]
        if not any(result in needed or result in current for result in results):
            row = _row(folder / str(part), "results of other settings that no run uses")
            found.append({**row, "results": [(u, k) for *_, u, k in results]})
    return found


def _is_there(workspace: Workspace, dataset: str) -> bool:
    """Whether the dataset's folder is there; results of one that is away are kept."""
    try:
        return noted_root(workspace, dataset).is_dir()
    except StoreError:
        return False


def _of_run(folder: Path) -> list[dict[str, Any]]:
    if run_manifest(folder).empty or not any(RunFiles(folder).folds):
        return [_row(folder, "a run without a finished fold")]
    leftovers = [*folder.glob(".old-*"), *folder.glob(".partial-*/.old-*")]
    return [_row(path, "leftover of a killed run") for path in leftovers]


def _row(path: Path, why: str) -> dict[str, Any]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {"path": str(path), "why": why, "bytes": sum(p.stat().st_size for p in files)}


def _remove(workspace: Workspace, row: dict[str, Any], token: str) -> None:
    """The manifest forgets a result before its part goes."""
    path = Path(row["path"])
    if row.get("results"):
        writer = StoreWriter(workspace, path.parent, token)
        writer.forget(row["results"])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def to_text(found: list[dict[str, Any]], delete: bool) -> str:
    """The list for people."""
    from flows.terminal.tables import as_text

    if not found:
        return "nothing to remove"
    rows = [
        {"size": f"{row['bytes'] / 1e6:.1f} MB", "why": row["why"], "path": row["path"]}
        for row in found
    ]
    total = sum(row["bytes"] for row in found) / 1e6
    done = "removed" if delete else "to remove; add --delete to do it"
    return "\n".join([as_text(rows), f"{total:.1f} MB in {len(found)} places {done}"])
