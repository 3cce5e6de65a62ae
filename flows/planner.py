"""`plan` and `prune`: what a run would do and why, and what a workspace no longer needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data.errors import ApexflowError, ConfigError
from data.ingest import store as ingest_store
from data.stages import planning, stores
from data.stages.workspace import Workspace
from models.runs import experiment
from tasks.context import (
    RunContext,
    dataset_root,
    resolve_recipe,
    stage_inputs,
    upstream,
    wanted_stages,
)
from tasks.request import RunRequest
from tasks.steps import newest

UNKNOWN = "known after the stages above"


def plan(request: RunRequest, *, verify: bool = False) -> list[dict[str, Any]]:
    """A row per dataset and stage: units fresh, stale, missing, failed; reasons; estimates."""
    recipe = resolve_recipe(request)
    wanted_stages(request, recipe)
    workspace = Workspace(request.workspace)
    rows: list[dict[str, Any]] = []
    behind = False
    for dataset in recipe.data:
        root = dataset_root(request, dataset)
        ingest = ingest_store.plan_ingest(
            workspace, dataset, root, force="ingest" in request.force, verify=verify
        )
        rows.append(ingest.summary())
        behind |= bool(ingest.reason)
        for stage in recipe.stages[1:]:
            forced = bool({stage, *upstream(stage, recipe)} & set(request.force))
            if ingest.reason:
                rows.append({"stage": stage, "dataset": dataset, "unknown": UNKNOWN})
                continue
            inputs = stage_inputs(workspace, recipe, dataset, root)
            found = planning.plan_stage(inputs, stage, force=forced, verify=verify)
            behind |= bool(found.reasons)
            rows.append({**found.summary(), **_estimate(workspace, dataset, stage, found)})
    return rows + _plan_training(workspace, recipe, request, behind, verify)


def _estimate(
    workspace: Workspace, dataset: str, stage: str, found: planning.StagePlan
) -> dict[str, Any]:
    """CPU seconds and bytes of the work to do, from what past units took; None without a past."""
    folder = workspace.stage(dataset, stage)
    times, (manifest, _, _) = stores.read_timings(folder), stores.read_books(folder)
    if times.empty or manifest.empty:
        return {"seconds": None, "bytes": None}
    units = int(times.units.sum())
    size = int(manifest.drop_duplicates("part").bytes.sum())
    todo = len(found.todo)
    return {
        "seconds": round(float(times.seconds.sum()) / units * todo, 1),
        "bytes": int(size / len(manifest) * todo),
    }


def _plan_training(
    workspace: Workspace, recipe: Any, request: RunRequest, behind: bool, verify: bool
) -> list[dict[str, Any]]:
    dataset = "+".join(recipe.data)
    names = [{"stage": s, "dataset": dataset} for s in ("train", "evaluate")]
    if behind:
        return [{**row, "unknown": UNKNOWN} for row in names]
    try:
        found = newest(experiment.plan_run(workspace, recipe, verify=verify))
    except ApexflowError as error:
        return [{**row, "unknown": str(error)} for row in names]
    forced = bool(set(request.force) & {*recipe.stages, "train"})
    todo = len(found.jobs) if forced else len(found.todo)
    counts = {
        "units": len(found.jobs),
        "fresh": len(found.jobs) - todo,
        "stale": todo if forced else 0,
        "missing": 0 if forced else todo,
        "failed": 0,
        "reasons": {"forced" if forced else "missing": todo} if todo else {},
        "run": str(found.folder),
    }
    fresh = int(found.evaluated and not forced and "evaluate" not in request.force)
    scored = {
        "units": 1,
        "fresh": fresh,
        "stale": 0,
        "missing": 1 - fresh,
        "failed": 0,
        "reasons": {} if fresh else {"not scored yet": 1},
    }
    return [{**names[0], **counts}, {**names[1], **scored}]


def rows_for_people(context: RunContext) -> list[dict[str, Any]]:
    """The plan of a run about to start, as a table for the UI."""
    return [
        {
            "stage": row["stage"],
            "dataset": row["dataset"],
            **{c: row.get(c, "") for c in ("units", "fresh", "stale", "missing", "failed")},
            "why": row.get("unknown") or "; ".join(f"{n} × {w}" for w, n in row["reasons"].items()),
        }
        for row in plan(context.request)
    ]


def to_text(rows: list[dict[str, Any]]) -> str:
    """The plan as a table with the reasons beneath."""
    columns = ("units", "fresh", "stale", "missing", "failed", "time", "disk")
    lines = [f"{'stage':<10}{'dataset':<12}" + "".join(f"{c:>9}" for c in columns)]
    for row in rows:
        name = f"{row['stage']:<10}{row['dataset']:<12}"
        if "unknown" in row:
            lines.append(name + f"  {row['unknown']}")
            continue
        cells = [row[c] for c in columns[:5]]
        cells += [_time(row.get("seconds")), _size(row.get("bytes"))]
        lines.append(name + "".join(f"{c:>9}" for c in cells))
        lines.extend(f"    {count} × {why}" for why, count in row["reasons"].items())
    todo = sum(r.get("stale", 0) + r.get("missing", 0) + ("unknown" in r) for r in rows)
    lines.append("nothing to do" if not todo else "time is one core's, from past runs")
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"


def prune(path: Path, *, delete: bool) -> list[dict[str, Any]]:
    """Files no manifest names and runs that never finished a fold; removed when `delete`.

    Raises ConfigError when `path` is no workspace, LockedError while a run holds it.
    """
    workspace = Workspace(path)
    if not workspace.datasets() and not (workspace.path / "runs").is_dir():
        raise ConfigError(f"workspace {path}", expected="stores or runs in it", got="none")
    with workspace.lock(what="prune"):
        found = [_describe(p, why) for p, why in _unneeded(workspace)]
        for row in found if delete else []:
            target = Path(row["path"])
            shutil.rmtree(target) if target.is_dir() else target.unlink()
    return found


def _unneeded(workspace: Workspace) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for dataset in workspace.datasets():
        for folder in sorted(p for p in (workspace.path / dataset).iterdir() if p.is_dir()):
            live = set(stores.read_manifest(folder)["part"])
            for path in sorted(folder.iterdir()):
                if path.name.startswith("damaged-"):
                    found.append((path, "damaged part, set aside"))
                elif path.name.startswith("part-") and path.name not in live:
                    found.append((path, "no manifest row names it"))
    for run in sorted((workspace.path / "runs").glob("*/*")):
        if run.is_dir() and not (run / "manifest.parquet").exists():
            found.append((run, "a run without a finished fold"))
        found.extend((p, "leftover of a killed run") for p in run.glob(".old-*"))
    return found


def _describe(path: Path, why: str) -> dict[str, Any]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {"path": str(path), "why": why, "bytes": sum(p.stat().st_size for p in files)}


def prune_text(found: list[dict[str, Any]], delete: bool) -> str:
    """The list for people."""
    if not found:
        return "nothing to remove"
    lines = [f"{row['bytes'] / 1e6:8.1f} MB  {row['path']}  ({row['why']})" for row in found]
    total = sum(row["bytes"] for row in found) / 1e6
    done = "removed" if delete else "to remove; add --delete to do it"
    return "\n".join([*lines, f"{total:8.1f} MB in {len(found)} places {done}"])
