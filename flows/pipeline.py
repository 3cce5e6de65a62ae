"""The flows: one per stage and the full run that nests them.

Each stage flow is also a deployment of its own with the same form. Called inside the full run it
works in that run's context; called alone it opens one, which locks the workspace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from prefect import Flow, flow, get_run_logger, tags
from prefect.task_runners import ThreadPoolTaskRunner

from data.stages.pool import cpu_count
from flows import planner
from tasks.context import RunContext, current_context, open_context
from tasks.prefect_executor import PrefectExecutor, close_ghosts
from tasks.request import RunRequest, StageName
from tasks.steps import StepRecord, run_step, run_steps

_RUNNER: Any = ThreadPoolTaskRunner(max_workers=max(2, cpu_count()))
_OPTIONS: dict[str, Any] = {"persist_result": False, "validate_parameters": True}


@contextmanager
def _context(request: RunRequest) -> Iterator[RunContext]:
    """The surrounding run's context, or a new one with the workspace locked and ghosts closed."""
    if (current := current_context()) is not None:
        yield current
        return
    executor = PrefectExecutor(request.workers or cpu_count())
    with open_context(request, executor) as context:
        ghosts = close_ghosts(context.workspace)
        if ghosts:
            get_run_logger().warning("closed %d run(s) whose process had died", ghosts)
        yield context


def _run_stage(request: RunRequest, stage: str) -> dict[str, Any]:
    with _context(request) as context, _tags(context, stage):
        record = run_step(context, stage)
        get_run_logger().info(record.sentence())
        return vars(record)


@flow(name="ingest", flow_run_name="ingest-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def ingest(request: RunRequest) -> dict[str, Any]:
    """Read datasets as their owners ship them into tables of videos, frames and events."""
    return _run_stage(request, "ingest")


@flow(name="align", flow_run_name="align-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def align(request: RunRequest) -> dict[str, Any]:
    """Find faces and crop them, every frame registered to the video's first."""
    return _run_stage(request, "align")


@flow(name="apex", flow_run_name="apex-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def apex(request: RunRequest) -> dict[str, Any]:
    """Take labelled apex frames, spot the missing ones, and state the error where labels exist."""
    return _run_stage(request, "apex")


@flow(name="flow", flow_run_name="flow-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def optical_flow(request: RunRequest) -> dict[str, Any]:
    """Compute TV-L1 optical flow and strain of each event."""
    return _run_stage(request, "flow")


@flow(name="motion", flow_run_name="motion-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def motion(request: RunRequest) -> dict[str, Any]:
    """Compute ME-TST's motion series of facial regions, window by window."""
    return _run_stage(request, "motion")


@flow(name="train", flow_run_name="train-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def train(request: RunRequest) -> dict[str, Any]:
    """Train one network per fold; finished folds are kept."""
    return _run_stage(request, "train")


@flow(name="evaluate", flow_run_name="evaluate-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def evaluate(request: RunRequest) -> dict[str, Any]:
    """Pool all folds' predictions into scores and the report."""
    return _run_stage(request, "evaluate")


@flow(name="stage", flow_run_name="stage-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def any_stage(request: RunRequest, stage: StageName) -> dict[str, Any]:
    """One stage, chosen in the form; also those that were added since this file was written."""
    return _run_stage(request, stage)


STAGE_FLOWS: dict[str, Flow[Any, Any]] = {
    "ingest": ingest,
    "align": align,
    "apex": apex,
    "flow": optical_flow,
    "motion": motion,
    "train": train,
    "evaluate": evaluate,
}


@flow(name="full-run", flow_run_name="full-{request.recipe}", task_runner=_RUNNER, **_OPTIONS)
def full_run(request: RunRequest) -> list[dict[str, Any]]:
    """All stages a recipe needs, in order, each as its own flow run inside this one.

    Only what is stale is done. A damaged part found on the way is set aside and redone once.
    """
    with _context(request) as context, _tags(context):
        context.executor.page("plan", "", planner.rows_for_people(context))
        records = run_steps(context, _as_subflow)
        get_run_logger().info("\n".join(record.sentence() for record in records))
        return [vars(record) for record in records]


def _as_subflow(context: RunContext, stage: str) -> StepRecord:
    run = STAGE_FLOWS.get(stage) or partial(any_stage, stage=stage)
    with _tags(context, stage):
        done: Any = run(context.request)
    return StepRecord(**done)


def _tags(context: RunContext, *stages: str) -> Any:
    """Tags of the flow and task runs inside."""
    names = [f"recipe:{context.recipe.name}", *(f"dataset:{d}" for d in context.recipe.data)]
    return tags(*names, *(f"stage:{s}" for s in stages))
