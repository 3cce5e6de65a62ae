"""What is deployed: one flow per stage and the full run, each with a form of its own.

Prefect's engine starts the process, keeps the top flow run and ends it; what is inside is done and
told by `flows.runs.recorded`, so that a server that dies meanwhile ends nothing.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import Flow, flow
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.runs.recorded import run_recorded
from flows.runs.run_names import invented
from flows.terminal.output import outlive_reader
from tasks.forms import FORMS, AnyStageForm, FullForm
from tasks.request import RunRequest, StageName

ENGINE = "PREFECT__FLOW_RUN_ID"  # a worker sets it for the process that is one flow run
_OPTIONS: dict[str, Any] = {"persist_result": False, "validate_parameters": True}


def _run(request: RunRequest, only: str | None = None) -> Any:
    """Do it inside the engine's flow run; the records, or the state Cancelled."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if ENGINE in os.environ:
        outlive_reader()
    try:
        return run_recorded(
            request,
            only=only,
            adopt=str(run.id) if run else None,
            name=run.name if run and not invented(run.name) else None,
            tags=run.tags if run else (),
        )
    except KeyboardInterrupt:
        return Cancelled(message="Cancelled from Prefect; finished parts are kept.")


def _stage_flow(stage: str, about: str) -> Flow[Any, Any]:
    """A flow of one stage with a form of its own, which Prefect reads from the annotation."""

    def do(request: Any) -> Any:
        return _run(request.request(stage), stage)

    do.__annotations__ = {"request": FORMS[stage], "return": Any}
    do.__doc__ = about
    return flow(name=stage, **_OPTIONS)(do)


ingest = _stage_flow(
    "ingest", "Read datasets as their owners ship them into tables of videos, frames and events."
)
align = _stage_flow(
    "align", "Find faces and crop them, every frame registered to the video's first."
)
registration = _stage_flow("registration", "Bring every event's frames onto its own onset.")
apex = _stage_flow(
    "apex", "Take labelled apex frames, spot the missing ones, and state the error against labels."
)
optical_flow = _stage_flow("flow", "Compute TV-L1 optical flow and strain of each event.")
flow_pictures = _stage_flow(
    "flow_pictures", "Read the pictures of flow that a dataset ships instead of frames."
)
motion = _stage_flow(
    "motion", "Compute ME-TST's motion series of facial regions, window by window."
)
train = _stage_flow("train", "Train one network per fold; finished folds are kept.")
evaluate = _stage_flow("evaluate", "Pool all folds' predictions into scores and the report.")


@flow(name="stage", **_OPTIONS)
def any_stage(request: AnyStageForm, stage: StageName) -> Any:
    """One stage, chosen in the form; also those that were added since this file was written."""
    return _run(request.request(stage), stage)


@flow(name="full-run", **_OPTIONS)
def full_run(request: FullForm) -> Any:
    """All stages a recipe needs, in order, each as its own flow run inside this one.

    Only what is stale is done. A damaged part found on the way is set aside and redone once.
    """
    return _run(request)
