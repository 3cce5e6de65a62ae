"""What is deployed: one flow per stage and the full run, all with the same form.

Prefect's engine starts the process, keeps the top flow run and ends it; what is inside is done and
told by `flows.recorded`, so that a server that dies meanwhile ends nothing.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import Flow, flow
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.output import outlive_reader
from flows.recorded import run_recorded
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
            name=run.name if run and not _invented(run.name) else None,
            tags=run.tags if run else (),
        )
    except KeyboardInterrupt:
        return Cancelled(message="Cancelled from Prefect; finished parts are kept.")


def _invented(name: str) -> bool:
    """Whether Prefect made this name up (two words, lovely-lynx) and no person chose it."""
    from coolname.data import config

    parts: Any = config.values()
    known = {w for part in parts if part["type"] == "words" for w in part["words"]}
    return all(word in known for word in name.split("-"))


@flow(name="ingest", **_OPTIONS)
def ingest(request: RunRequest) -> Any:
    """Read datasets as their owners ship them into tables of videos, frames and events."""
    return _run(request, "ingest")


@flow(name="align", **_OPTIONS)
def align(request: RunRequest) -> Any:
    """Find faces and crop them, every frame registered to the video's first."""
    return _run(request, "align")


@flow(name="registration", **_OPTIONS)
def registration(request: RunRequest) -> Any:
    """Bring every event's frames onto its own onset."""
    return _run(request, "registration")


@flow(name="apex", **_OPTIONS)
def apex(request: RunRequest) -> Any:
    """Take labelled apex frames, spot the missing ones, and state the error where labels exist."""
    return _run(request, "apex")


@flow(name="flow", **_OPTIONS)
def optical_flow(request: RunRequest) -> Any:
    """Compute TV-L1 optical flow and strain of each event."""
    return _run(request, "flow")


@flow(name="motion", **_OPTIONS)
def motion(request: RunRequest) -> Any:
    """Compute ME-TST's motion series of facial regions, window by window."""
    return _run(request, "motion")


@flow(name="train", **_OPTIONS)
def train(request: RunRequest) -> Any:
    """Train one network per fold; finished folds are kept."""
    return _run(request, "train")


@flow(name="evaluate", **_OPTIONS)
def evaluate(request: RunRequest) -> Any:
    """Pool all folds' predictions into scores and the report."""
    return _run(request, "evaluate")


@flow(name="stage", **_OPTIONS)
def any_stage(request: RunRequest, stage: StageName) -> Any:
    """One stage, chosen in the form; also those that were added since this file was written."""
    return _run(request, stage)


@flow(name="full-run", **_OPTIONS)
def full_run(request: RunRequest) -> Any:
    """All stages a recipe needs, in order, each as its own flow run inside this one.

    Only what is stale is done. A damaged part found on the way is set aside and redone once.
    """
    return _run(request)


STAGE_FLOWS: dict[str, Flow[Any, Any]] = {
    "ingest": ingest,
    "align": align,
    "registration": registration,
    "apex": apex,
    "flow": optical_flow,
    "motion": motion,
    "train": train,
    "evaluate": evaluate,
}
