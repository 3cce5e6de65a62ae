"""Doing steps: plan, do what is stale, publish, show it. The same with and without Prefect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import ApexflowError, StoreError
from data.stages.contract import Job, Scope, Step, StepPlan
from data.stages.planning import quarantining, refuse_failures
from models.runs.history import note_session
from models.steps import find_step
from tasks.carriers import Share
from tasks.context import RunContext
from tasks.news import telling

logger = logging.getLogger(__name__)


@dataclass
class StepRecord:
    """What a step did, small enough for a flow's result."""

    stage: str
    units: int = 0
    redone: int = 0
    failed: int = 0
    gone: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def sentence(self) -> str:
        """One line for logs and terminals, and one for each thing a person should know."""
        what = f"{self.redone} of {self.units} redone" if self.redone else f"{self.units} fresh"
        lost = f", {self.failed} without data (see ledger)" if self.failed else ""
        first = f"{self.stage}: {what}{lost}, {self.seconds:.1f} s"
        return "\n".join([first, *(f"  {note}" for note in self.notes)])


def run_steps(
    context: RunContext, do: Callable[[RunContext, str], StepRecord] | None = None
) -> list[StepRecord]:
    """Do the run's steps in order with `do` (default: `run_step`).

    A damaged file found on the way is made anew: begin again, once.
    """
    do = do or run_step
    try:
        return _in_order(context, do)
    except StoreError as error:
        if error.code not in ("damaged_part", "damaged_table", "damaged_run"):
            raise
        logger.warning("%s Beginning again.", error)
    return _in_order(context, do)


def _in_order(context: RunContext, do: Callable[[RunContext, str], StepRecord]) -> list[StepRecord]:
    records, asked = [], bool(context.request.folds)
    for name in context.steps:
        if asked and name != context.recipe.steps[0]:  # from here on it takes hours
            refuse_unknown_folds(context)
            asked = False
        records.append(do(context, name))
    return records


def refuse_unknown_folds(context: RunContext) -> None:
    """ConfigError for a fold asked for that the split will not have; needs ingest's tables."""
    for step in map(find_step, context.steps):
        if not step.per_dataset:
            for scope in context.scopes(step):
                step.plan(replace(scope, expect=True))


def run_step(context: RunContext, name: str) -> StepRecord:
    """Do one step, for each of the recipe's datasets or for all of them."""
    started = time.perf_counter()
    step, record = find_step(name), StepRecord(name)
    for scope in context.scopes(step):
        if context.request.stages:
            refuse_stale_inputs(context, scope, step)
        with quarantining():
            _do(context, step, scope, record)
    record.seconds = time.perf_counter() - started
    logger.info(record.sentence())
    return record


def refuse_stale_inputs(context: RunContext, scope: Scope, step: Step) -> None:
    """With only some steps asked for, StoreError if what one of them reads is not up to date."""
    for needed in step.needs(context.recipe):
        upstream = find_step(needed)
        for place in context.scopes(upstream, scope.dataset):
            plan = upstream.plan(replace(place, folds=()))
            if plan.reasons:
                raise StoreError(
                    f"{scope.label}/{step.name}",
                    expected=f"{needed} to be up to date under these settings",
                    got=", ".join(sorted(set(plan.reasons.values()))),
                    todo=f"Run --from {needed} instead of --stage {step.name}.",
                    code="stale_inputs",
                )


def _do(context: RunContext, step: Step, scope: Scope, record: StepRecord) -> None:
    verify, began = bool(context.request.verify), time.perf_counter()
    plan = step.plan(scope, force=context.forces(step.name), verify=verify)
    jobs = list(step.jobs(scope, plan))
    name = f"{step.name}-{scope.label}"
    if jobs:
        if plan.reasons:
            logger.info("%s: %d to do%s", name, len(plan.todo), _words(plan))
        seconds = step.warm_up(scope)
        if seconds > 1:
            logger.info("%s: compiled kernels in %.1f s (kept on disk)", step.name, seconds)
        total = sum(job.count for job in jobs)
        context.executor.progress(name, 0, total, "starting")
    status: dict[str, str] = {}
    devices: set[str] = set()  # that results were made on; the CPU where they do not say
    per_gpu = step.gpu(scope, plan) if jobs else 0
    gpus = len(context.carrier.own_gpus(scope.device)) if per_gpu else 0
    try:
        with (
            context.executor.gpu(gpus) as granted,
            telling(context.executor, name, jobs) as news,
        ):
            for result in _results(context, step, jobs, Share(per_gpu, granted)):
                done = step.publish(scope, plan, result)
                status |= done
                devices.add(getattr(result, "device", "cpu"))
                news.done = len(status)
                text = step.progress(scope, result)
                if lost := sum(word != "ok" for word in status.values()):
                    text += f"; {lost} without data so far"
                context.executor.progress(name, len(status), total, text)
                logger.info("%s: %s", name, text, extra={"progress": True})
                refuse_failures(plan, done, scope.recipe.strict)
    finally:
        step.finish(scope, plan)
    context.made[f"{step.name} {scope.label}"] = [len(status), len(plan.units)]
    record.units += len(plan.units)
    record.redone += len(plan.todo)
    record.failed += len(plan.failed) + sum(word != "ok" for word in status.values())
    record.gone += sum(map(len, plan.gone.values()))
    record.notes += [f"{scope.label}: {note}" for note in (*plan.notes, *plan.gone)]
    record.detail[scope.label] = plan.summary()
    record.detail |= {k: plan.detail[k] for k in ("run", "run_id", "device") if k in plan.detail}
    if status and "run" in plan.detail:
        spent = time.perf_counter() - began
        run = Path(plan.detail["run"])
        note_session(run, step.name, len(status), spent, ", ".join(sorted(devices)), context.made)
    if plan.reasons:
        _show(context, step, scope, plan)


def _results(context: RunContext, step: Step, jobs: list[Job], share: Share) -> Iterable[Any]:
    """Results as they are made: here, or where the executor makes them."""
    if step.in_parent:
        return map(step.make, jobs)
    return context.executor.map(step.make, jobs, lambda job: job.label, share)


def _words(plan: StepPlan) -> str:
    """' (4 × size 224 → 112; 2 × missing)'; '' where all are new."""
    reasons = plan.summary()["reasons"]
    if list(reasons) == ["missing"]:
        return ""
    return f" ({'; '.join(f'{count} × {why}' for why, count in reasons.items())})"


def _show(context: RunContext, step: Step, scope: Scope, plan: StepPlan) -> None:
    """Pictures and table of a step, for people; their failure never fails the step."""
    try:
        for page in step.pages(scope, plan):
            context.executor.page(page.name, page.markdown, page.rows)
    except (ApexflowError, OSError, ValueError, LookupError) as error:
        logger.warning("no picture page for %s/%s: %s", scope.label, step.name, error)
