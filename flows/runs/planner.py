"""`plan`: what a run would do and why, step by step, and what it would cost on this machine."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import ApexflowError
from data.stages import stores
from data.stages.contract import Scope, Step, StepPlan
from data.stages.planning import StageWork, rate_key_of
from data.stages.pool import cpu_count
from data.stages.rates import Rate, recall, work_of
from data.stages.registry import with_needs
from data.stages.workspace import Workspace
from models.devices import devices_of, gpus_for
from models.progress import in_words
from models.steps import find_step
from tasks.context import RunContext, forces, resolve_recipe, scopes, wanted_steps
from tasks.foreseeing import foreseen, measure
from tasks.request import RunRequest

COUNTS = ("units", "fresh", "stale", "missing", "failed")
HERE = "this workspace's earlier results"
SHOWN = 3  # folders with reasons named beneath the table


def plan(request: RunRequest, say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """A row per dataset and step: units fresh, stale, missing, failed; reasons; estimates.

    Nothing is written. With `say` (told before it begins), stages of which this machine has no
    rate are measured on one video, in a folder that is thrown away.
    """
    recipe = resolve_recipe(request)
    wanted = wanted_steps(request, recipe)
    workspace = Workspace(request.workspace)
    first = find_step(recipe.steps[0])
    rows: list[dict[str, Any]] = []
    behind: dict[str, tuple[Step, Scope, StepPlan]] = {}
    for scope in scopes(request, recipe, workspace, first):
        found = first.plan(
            scope, force=forces(request, recipe, first.name), verify=bool(request.verify)
        )
        rows.append(found.summary())
        if found.reasons:
            behind[str(scope.dataset)] = (first, scope, found)
    with ExitStack() as stack:
        seen = stack.enter_context(foreseen(workspace, behind)) if behind else workspace
        told = _measured(request, recipe, seen, wanted, say) if say else {}
        for name in recipe.steps[1:]:
            step = find_step(name)
            for scope in scopes(request, recipe, seen, step):
                rows.append(_row(request, recipe, step, scope, workspace, told))
    order = {name: number for number, name in enumerate(recipe.steps)}
    by_dataset = {d: number for number, d in enumerate(recipe.data)}
    return sorted(
        (r for r in rows if r["stage"] in wanted),
        key=lambda r: (by_dataset.get(r["dataset"], len(by_dataset)), order[r["stage"]]),
    )


def _measured(
    request: RunRequest,
    recipe: Any,
    seen: Workspace,
    wanted: list[str],
    say: Callable[[str], None],
) -> dict[tuple[str, str], str]:
    """What this machine's rates come from that were measured now; see `tasks.foreseeing`."""
    stages = [s for s in recipe.stages[1:] if s in wanted]
    if not stages:
        return {}
    places = {
        str(scope.dataset): replace(scope, subjects=(), videos=(), only_failed=False)
        for scope in scopes(request, recipe, seen, find_step(stages[0]))
    }
    return measure(places, list(with_needs(stages)), say)


def _row(
    request: RunRequest,
    recipe: Any,
    step: Step,
    scope: Scope,
    workspace: Workspace,
    told: dict[tuple[str, str], str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": step.name, "dataset": scope.label}
    try:
        found = step.plan(
            replace(scope, expect=True),
            force=forces(request, recipe, step.name),
            verify=bool(request.verify),
        )
    except ApexflowError as error:
        return {**row, "unknown": str(error)}
    row = {**found.summary(), **_estimate(scope, found)}
    if row.get("seconds"):
        row["at_once"] = _at_once(step, scope, found)
    if note := told.get((str(scope.dataset), step.name)):
        row["rate"] = note if row.get("seconds") is not None else row.get("rate") or note
    if "run" in row:  # in the folder as foreseen
        inside = Path(row["run"])
        row["run"] = str(workspace.path / inside.relative_to(scope.workspace.path))
    return row


def _estimate(scope: Scope, found: StepPlan) -> dict[str, Any]:
    """Seconds of one worker, bytes and MB a worker of the work to do, and where they are from."""
    unknown = {"seconds": None, "bytes": None, "peak_mb": None, "rate": ""}
    if not found.todo:
        return {"seconds": 0.0, "bytes": 0, "peak_mb": 0.0, "rate": ""}
    if isinstance(found.work, StageWork):
        todo = [found.work.units[name] for name in found.todo]
        work = work_of(todo, found.work.inputs.recordings)
        rate, own = recall(rate_key_of(found)), _of_store(scope, found)
        if rate is None or rate.work <= 0:
            if own is None:
                return unknown
            seconds, size = own
            return {
                "seconds": _three_digits(seconds * len(todo)),
                "bytes": int(size * len(todo)),
                "peak_mb": None,
                "rate": HERE,
            }
        return _scaled(rate, work)
    if found.step == "train":
        from models.runs.training import fold_rate_key

        rate = recall(fold_rate_key(scope, found.work.recipe))
        if rate is None or rate.work <= 0:
            return unknown
        jobs = [found.work.jobs[f] for f in found.todo if f not in found.work.elsewhere]
        return _scaled(rate, sum(len(job.train_events) or 1 for job in jobs))
    return {}


def _at_once(step: Step, scope: Scope, found: StepPlan) -> int:
    """So many of a step's jobs can be worked on at once, however many workers there are."""
    if isinstance(found.work, StageWork):
        jobs = len({found.work.units[unit].video for unit in found.todo})  # a chunk has whole ones
        each = step.gpu(scope, found)
        return min(jobs, each * len(gpus_for(scope.device))) if each else jobs
    jobs = len([fold for fold in found.todo if fold not in found.work.elsewhere])
    devices = devices_of(scope)
    return min(jobs, len(devices)) if devices[0] != "cpu" else jobs


def _of_store(scope: Scope, found: StepPlan) -> tuple[float, float] | None:
    """Seconds and bytes a unit of the store's own past; None without one."""
    times = stores.read_timings(scope.workspace.stage(str(scope.dataset), found.step))
    rows, size = found.work.stored
    if times.empty or not rows:
        return None
    return float(times.seconds.sum()) / int(times.units.sum()), size / rows


def _scaled(rate: Rate, work: float) -> dict[str, Any]:
    return {
        "seconds": _three_digits(rate.seconds / rate.work * work),
        "bytes": int(rate.bytes / rate.work * work),
        "peak_mb": round(rate.peak_mb, 0),
        "rate": rate.source,
    }


def _three_digits(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def rows_for_people(context: RunContext) -> list[dict[str, Any]]:
    """The plan of a run about to start, as a table for the UI.

    Bytes are not read for it: the steps verify, and would read them a second time.
    """
    return [
        {
            "stage": row["stage"],
            "dataset": row["dataset"],
            **{c: row.get(c, "") for c in COUNTS},
            "why": row.get("unknown") or "; ".join(f"{n} × {w}" for w, n in row["reasons"].items()),
        }
        for row in plan(context.request.model_copy(update={"verify": ""}))
    ]


def to_text(rows: list[dict[str, Any]], request: RunRequest | None = None) -> str:
    """The plan as a table, with the reasons and what else a person should know beneath."""
    from flows.terminal.tables import as_text

    workers = (request.workers if request else 0) or cpu_count()
    table, lines = [], []
    for row in rows:
        cells = {"stage": row["stage"], "dataset": row["dataset"]}
        if "unknown" in row:
            lines.append(f"{row['stage']} {row['dataset']}: {row['unknown']}")
            blank = dict.fromkeys((*COUNTS, "time", "disk", "memory"), "?")
            table.append({**cells, **blank})
            continue
        counts = {name: str(row[name]) for name in COUNTS}
        table.append({**cells, **counts, **_costs(row, workers)})
        reasons = [f"{n} × {why}" for why, n in row["reasons"].items() if why != "missing"]
        lines += [f"{row['stage']} {row['dataset']}: {text}" for text in (*reasons, *row["notes"])]
    todo = any(r.get("stale", 0) + r.get("missing", 0) + ("unknown" in r) for r in rows)
    if not todo:
        return "\n".join([as_text(table), *lines, "nothing to do"])
    return "\n".join([as_text(table), *lines, "", *_totals(rows, workers, request)])


def _costs(row: dict[str, Any], workers: int) -> dict[str, str]:
    """Wall clock, disk and memory of a row, '–' for what costs nothing worth telling."""
    if "seconds" not in row:
        return {"time": "–", "disk": "–", "memory": "–"}
    seconds, size, peak = row["seconds"], row["bytes"], row["peak_mb"]
    if seconds == 0:
        return {"time": "–", "disk": "–", "memory": "–"}
    return {
        "time": "?" if seconds is None else in_words(seconds / _busy(row, workers)),
        "disk": "?" if size is None else _size(size),
        "memory": "?" if not peak else _size(peak * 1e6 * _busy(row, workers)),
    }


def _busy(row: dict[str, Any], workers: int) -> int:
    """Workers that have something to do in a step."""
    return max(1, min(workers, row.get("at_once", workers)))


def _totals(rows: list[dict[str, Any]], workers: int, request: RunRequest | None) -> list[str]:
    """Together: time, disk against what is free, memory; and where the rates are from."""
    known = [r for r in rows if r.get("seconds")]
    unsure = [f"{r['stage']} {r['dataset']}" for r in rows if r.get("seconds", 0) is None]
    lines = []
    if known:
        spent = in_words(sum(r["seconds"] / _busy(r, workers) for r in known))
        size = sum(r["bytes"] or 0 for r in known)
        peak = max((r["peak_mb"] or 0) * _busy(r, workers) for r in known)
        memory = f", {_size(peak * 1e6)} of memory at most" if peak else ""
        free = f" ({_size(_free(Path(request.workspace)))} free)" if request else ""
        who = f"{workers} worker{'s' * (workers != 1)}"
        lines.append(f"about {spent} with {who}, {_size(size)} of disk{free}{memory}")
        sources: dict[str, list[str]] = {}
        for row in known:
            sources.setdefault(row["rate"], []).append(row["stage"])
        lines += [f"  {', '.join(dict.fromkeys(s))}: {how}" for how, s in sources.items()]
    if unsure:
        lines.append(f"  unknown: {', '.join(unsure)}{_hint(rows)}")
    if request:
        words = [request.recipe, "-w", request.workspace]
        for place in request.data:
            words += ["-d", f"{place.dataset}={place.folder}"]
        lines.append(f"next: python -m flows run {shlex.join(words)} (and the same options)")
    return lines


def _hint(rows: list[dict[str, Any]]) -> str:
    reasons = {r["rate"] for r in rows if r.get("seconds", 0) is None and r.get("rate")}
    if any(r["stage"] == "train" and r.get("seconds", 0) is None for r in rows):
        reasons.add("no fold of this recipe was trained on this machine yet: --folds 0 trains one")
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""


def _free(path: Path) -> float:
    while not path.exists():
        path = path.parent
    return float(shutil.disk_usage(path).free)


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
