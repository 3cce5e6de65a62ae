"""`plan`: what a run would do and why, step by step, with what it would cost."""

from __future__ import annotations

from typing import Any

from data.errors import ApexflowError
from data.stages import stores
from data.stages.contract import Scope, StepPlan
from data.stages.planning import StageWork
from data.stages.workspace import Workspace
from models.steps import find_step
from tasks.context import RunContext, forces, resolve_recipe, scopes, wanted_steps
from tasks.request import RunRequest

UNKNOWN = "known after the stages above"
COUNTS = ("units", "fresh", "stale", "missing", "failed")


def plan(request: RunRequest) -> list[dict[str, Any]]:
    """A row per dataset and step: units fresh, stale, missing, failed; reasons; estimates."""
    recipe = resolve_recipe(request)
    wanted = wanted_steps(request, recipe)
    workspace = Workspace(request.workspace)
    rows: list[dict[str, Any]] = []
    behind: set[tuple[str, str | None]] = set()  # (step, dataset) that are to be redone
    for name in recipe.steps:
        step = find_step(name)
        for scope in scopes(request, recipe, workspace, step):
            row: dict[str, Any] = {"stage": name, "dataset": scope.label}
            if name != recipe.steps[0] and _waits(name, recipe, scope, behind):
                behind.add((name, scope.dataset))
                rows.append({**row, "unknown": UNKNOWN})
                continue
            try:
                found = step.plan(
                    scope, force=forces(request, recipe, name), verify=bool(request.verify)
                )
            except ApexflowError as error:
                if name == recipe.steps[0]:
                    raise
                behind.add((name, scope.dataset))
                rows.append({**row, "unknown": str(error)})
                continue
            if found.reasons:
                behind.add((name, scope.dataset))
            rows.append({**found.summary(), **_estimate(scope, found)})
    order = {name: number for number, name in enumerate(recipe.steps)}
    whole = [r for r in rows if r["stage"] in wanted]
    by_dataset = {d: number for number, d in enumerate(recipe.data)}
    return sorted(
        whole,
        key=lambda r: (by_dataset.get(r["dataset"], len(by_dataset)), order[r["stage"]]),
    )


def _waits(name: str, recipe: Any, scope: Scope, behind: set[tuple[str, str | None]]) -> bool:
    """Whether a step's units cannot be known yet.

    A stage's units follow from ingest's tables alone, so only ingest holds it up; what is chosen
    from results (samples, scores) waits for all of them.
    """
    step = find_step(name)
    if step.per_dataset:
        return (recipe.steps[0], scope.dataset) in behind
    needed = set(step.needs(recipe))
    return any(place in needed for place, _ in behind)


def _estimate(scope: Scope, found: StepPlan) -> dict[str, Any]:
    """CPU seconds and bytes of the work to do, from what past units took; None without a past."""
    if scope.dataset is None or not isinstance(found.work, StageWork):
        return {}
    times = stores.read_timings(scope.workspace.stage(scope.dataset, found.step))
    rows, size = found.work.stored
    if times.empty or not rows:
        return {"seconds": None, "bytes": None}
    units = int(times.units.sum())
    todo = len(found.todo)
    return {
        "seconds": round(float(times.seconds.sum()) / units * todo, 1),
        "bytes": int(size / rows * todo),
    }


def rows_for_people(context: RunContext) -> list[dict[str, Any]]:
    """The plan of a run about to start, as a table for the UI."""
    return [
        {
            "stage": row["stage"],
            "dataset": row["dataset"],
            **{c: row.get(c, "") for c in COUNTS},
            "why": row.get("unknown") or "; ".join(f"{n} × {w}" for w, n in row["reasons"].items()),
        }
        for row in plan(context.request)
    ]


def to_text(rows: list[dict[str, Any]]) -> str:
    """The plan as a table, with the reasons and what else a person should know beneath."""
    from flows.tables import as_text

    table, lines = [], []
    for row in rows:
        cells = {"stage": row["stage"], "dataset": row["dataset"]}
        if "unknown" in row:
            lines.append(f"{row['stage']} {row['dataset']}: {row['unknown']}")
            table.append({**cells, **dict.fromkeys(COUNTS, "?"), "time": "?", "disk": "?"})
            continue
        counts = {name: str(row[name]) for name in COUNTS}
        costs = {"time": _time(row.get("seconds")), "disk": _size(row.get("bytes"))}
        table.append({**cells, **counts, **costs})
        reasons = [f"{n} × {why}" for why, n in row["reasons"].items() if why != "missing"]
        lines += [f"{row['stage']} {row['dataset']}: {text}" for text in (*reasons, *row["notes"])]
    todo = sum(r.get("stale", 0) + r.get("missing", 0) + ("unknown" in r) for r in rows)
    last = "time is one core's, from past runs" if todo else "nothing to do"
    return "\n".join([as_text(table), *lines, last])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"
