"""One step per stage: plan, do what is stale, show it. The same with and without Prefect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data.errors import ApexflowError, StoreError
from data.ingest import store as ingest_store
from data.pictures.pages import stage_page
from data.stages import planning
from data.stages.engine import ChunkJob, ChunkResult, compute_chunk, get_stage
from models.runs import experiment
from models.runs import pages as run_pages
from models.runs.files import RunFiles
from tasks.context import RunContext, resolve_device

logger = logging.getLogger(__name__)


@dataclass
class StepRecord:
    """What a step did, small enough for a flow's result."""

    stage: str
    units: int = 0
    redone: int = 0
    failed: int = 0
    seconds: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)

    def sentence(self) -> str:
        """One line for logs and terminals."""
        what = f"{self.redone} of {self.units} redone" if self.redone else f"{self.units} fresh"
        lost = f", {self.failed} without data (see ledger)" if self.failed else ""
        return f"{self.stage}: {what}{lost}, {self.seconds:.1f} s"


def run_stages(
    context: RunContext, step: Callable[[RunContext, str], StepRecord] | None = None
) -> list[StepRecord]:
    """Do the run's stages in order with `step` (default: `run_step`).

    A damaged part found on the way has been set aside: begin again, once, and it is redone.
    """
    step = step or run_step
    try:
        return [step(context, stage) for stage in context.stages]
    except StoreError as error:
        if error.code != "damaged_part":
            raise
        logger.warning("%s Beginning again.", error)
    return [step(context, stage) for stage in context.stages]


def run_step(context: RunContext, stage: str) -> StepRecord:
    """Do one stage for all of the recipe's datasets."""
    started = time.perf_counter()
    if stage == "train":
        record = train(context)
    elif stage == "evaluate":
        record = evaluate(context)
    else:
        record = StepRecord(stage)
        for dataset in context.recipe.data:
            if context.request.stages:
                refuse_stale_inputs(context, dataset, stage)
            step = ingest if stage == "ingest" else preprocess
            step(context, dataset, stage, record)
    record.seconds = time.perf_counter() - started
    logger.info(record.sentence())
    return record


def refuse_stale_inputs(context: RunContext, dataset: str, stage: str) -> None:
    """With --stage only that stage runs; StoreError if what it reads is not up to date."""
    if stage == "ingest":
        return
    for upstream in get_stage(stage).upstream:
        if upstream == "ingest":
            plan = ingest_store.plan_ingest(context.workspace, dataset, context.root(dataset))
            stale = {plan.reason} - {""}
        else:
            stale = set(planning.plan_stage(context.inputs(dataset), upstream).reasons.values())
        if stale:
            raise StoreError(
                f"{dataset}/{stage}",
                expected=f"{upstream} to be up to date",
                got=", ".join(sorted(stale)),
                todo=f"Run --from {upstream} instead of --stage {stage}.",
                code="stale_inputs",
            )


def ingest(context: RunContext, dataset: str, stage: str, record: StepRecord) -> None:
    """List and read the dataset; publish its tables when anything changed."""
    plan = ingest_store.plan_ingest(
        context.workspace, dataset, context.root(dataset), force=context.forces(stage)
    )
    ingest_store.run_ingest(plan, context.workspace, context.token)
    record.units += 1
    record.redone += bool(plan.reason)
    tables = plan.tables
    record.detail[dataset] = {
        "videos": len(tables.videos),
        "frames": len(tables.frames),
        "events": len(tables.events),
        "ledger": len(tables.ledger),
    }
    context.executor.progress(f"{stage}-{dataset}", 1, 1, f"{len(tables.videos)} videos")
    if plan.reason:
        logger.info("%s/%s: %s", dataset, stage, plan.reason)
        show_stage(context, dataset, stage)


def preprocess(context: RunContext, dataset: str, stage: str, record: StepRecord) -> None:
    """Redo the stale units of one stage, chunk by chunk."""
    inputs = context.inputs(dataset)
    chunks: list[ChunkResult] = []

    def mapper(jobs: list[ChunkJob]) -> Any:  # called when there is work
        _warm_up(stage, context)
        context.executor.progress(f"{stage}-{dataset}", 0, len(jobs), "starting")
        return context.executor.map(compute_chunk, jobs, lambda job: job.label)

    def on_chunk(result: ChunkResult, done: int, total: int) -> None:
        chunks.append(result)
        text = f"{result.job.label}: {len(result.status)} units, {result.seconds:.1f} s"
        logger.info(text)
        context.executor.progress(f"{stage}-{dataset}", done, total, text)

    with planning.quarantining(inputs):
        plan = planning.run_stage(
            inputs,
            stage,
            context.token,
            mapper=mapper,
            force=context.forces(stage),
            strict=context.recipe.strict,
            on_chunk=on_chunk,
        )
    redone = [s for chunk in chunks for s in chunk.status.values()]
    record.units += len(plan.units)
    record.redone += len(redone)
    record.failed += len(plan.failed) + sum(s != "ok" for s in redone)
    record.detail[dataset] = plan.summary()
    if plan.reasons:
        logger.info("%s/%s: %s", dataset, stage, plan.summary()["reasons"])
        show_stage(context, dataset, stage)


def _warm_up(stage: str, context: RunContext) -> None:
    """Compile a stage's kernels once, here, so that workers load them from the disk cache."""
    seconds = 0.0
    if stage == "flow" or (stage == "motion" and context.recipe.motion.flow == "tvl1"):
        from data import optical_flow

        seconds += optical_flow.warm_up()
    if stage == "motion":
        from data.motion import features as motion

        seconds += motion.warm_up()
    if seconds > 1:
        logger.info("compiled the %s kernels in %.1f s (kept on disk)", stage, seconds)


def show_stage(context: RunContext, dataset: str, stage: str) -> None:
    """Pictures and table of a stage, for people; their failure never fails the stage."""
    try:
        page = stage_page(
            context.workspace,
            dataset,
            stage,
            with_faces=context.recipe.with_faces,
            root=context.root(dataset),
        )
    except (ApexflowError, OSError, ValueError, LookupError) as error:
        logger.warning("no picture page for %s/%s: %s", dataset, stage, error)
        return
    context.executor.page(f"{stage}-{dataset}", page.markdown, page.rows)


def train(context: RunContext) -> StepRecord:
    """Train every fold that is not there yet."""
    device = resolve_device(context.request.device)
    plan = experiment.plan_run(context.workspace, context.recipe, device)
    if context.forces("train") and plan.folder.exists():
        plan = experiment.forced(plan)
    experiment.start_run(plan, context.token)
    jobs = {job.fold: job for job in plan.todo}
    name, total = f"train-{context.recipe.name}", len(jobs)
    context.executor.progress(name, 0, total, f"run {plan.run_id}, {device}")
    started = {fold: time.perf_counter() for fold in jobs}
    with context.executor.gpu(device):
        done = context.executor.map(
            experiment.fit_fold,
            list(jobs.values()),
            lambda job: f"train-{job.fold}",
            most=None if device == "cpu" else 1,
        )
        for number, fold in enumerate(done, start=1):
            seconds = time.perf_counter() - started[fold]
            experiment.publish_fold(plan, jobs[fold], seconds, context.token)
            pace = run_pages.fold_pace(plan.folder / fold)
            text = f"{fold} trained" + (f"; last epoch {pace}" if pace else "")
            context.executor.progress(name, number, total, text)
            logger.info("%s: %s", plan.run_id, text)
    return StepRecord(
        "train",
        units=len(plan.jobs),
        redone=total,
        detail={"run": str(plan.folder), "run_id": plan.run_id, "device": device},
    )


def evaluate(context: RunContext) -> StepRecord:
    """Pool the folds' predictions into scores and the report."""
    plan = newest(experiment.plan_run(context.workspace, context.recipe))
    record = StepRecord("evaluate", units=1, detail={"run": str(plan.folder)})
    if plan.todo:
        raise StoreError(
            f"run {plan.run_id}",
            expected="all folds trained",
            got=f"{len(plan.todo)} of {len(plan.jobs)} missing",
            todo="Run --from train.",
            code="stale_inputs",
        )
    if plan.evaluated and not context.forces("evaluate"):
        return record
    experiment.evaluate_run(plan, context.token)
    record.redone = 1
    run = RunFiles(plan.folder)
    name = f"evaluate-{context.recipe.name}"
    context.executor.progress(name, 1, 1, "scored")
    context.executor.page(name, run_pages.run_page(run), run_pages.score_rows(run))
    context.executor.page(f"folds-{context.recipe.name}", "", run_pages.fold_rows(run))
    return record


def newest(plan: experiment.RunPlan) -> experiment.RunPlan:
    """The plan moved to the latest forced repetition (-2, -3 …) of its run, if there is one."""
    number, folder = 1, plan.folder
    while (later := plan.folder.with_name(f"{plan.run_id}-{number + 1}")).exists():
        number, folder = number + 1, later
    if number == 1:
        return plan
    return experiment.moved_to(plan, folder)
