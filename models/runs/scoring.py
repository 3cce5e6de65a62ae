"""Scoring as a step: the folds' predictions pooled, the metrics, the report.

The scores' key is the folds' keys and the scoring settings, the report's the scores' and what is
shown. Both are made in the process that holds the workspace, scores first.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import StoreError
from data.stages.contract import Page, RecipeLike, Scope, StepPlan
from data.stages.files import save_parquet, temporary_name
from data.stages.identity import stable_hash
from data.stages.parts import versions_json
from data.stages.planning import why_not_fresh
from data.stages.writing import StoreWriter, file_row
from models.runs.files import QUICK_BYTES, REPORT, SCORES, RunFiles, run_manifest
from models.runs.publishing import RunPlan
from models.runs.scores import metadata, score_run
from models.runs.training import folds_to_come, is_trained, plan_run

VERSION = 4  # of scores and report, bumped by hand when either changes
FILES = {SCORES: ("predictions.parquet", "metrics.parquet"), REPORT: ("report.html",)}


@dataclass(frozen=True)
class ScoreJob:
    """Make the scores, or the report, of one run."""

    run: RunFiles
    unit: str
    token: str

    @property
    def label(self) -> str:
        """Name people see."""
        return f"evaluate-{self.unit}"

    @property
    def count(self) -> int:
        """Units it makes."""
        return 1


@dataclass
class ScoreResult:
    """Files under temporary names."""

    unit: str
    files: list[tuple[Path, Path]]
    seconds: float


class EvaluateStep:
    """Pool the folds' predictions into scores and the report."""

    name, per_dataset, in_parent, title = "evaluate", False, True, "Scores"
    shows_faces = False

    def needs(self, recipe: RecipeLike) -> tuple[str, ...]:
        """Trained folds."""
        return ("train",)

    def plan(self, scope: Scope, *, force: bool = False, verify: bool = False) -> StepPlan:
        """Whether the run is scored and its report written as they would be now.

        It has no units while only some folds were asked for and others are not trained.
        """
        run = plan_run(scope)
        if left := folds_to_come(scope):
            said = f"left out: {left} fold(s) are not trained yet; run without --folds trains them"
            return StepPlan(self.name, scope.label, [], notes=[said], work=run)
        plan = StepPlan(self.name, scope.label, [SCORES, REPORT], work=run)
        plan.detail = {"run": str(run.folder), "run_id": run.folder.name}
        wanted = _keys(run)
        bad, _ = why_not_fresh(
            run.folder,
            run_manifest(run.folder),
            wanted,
            VERSION,
            verify=verify,
            always_read=QUICK_BYTES,
        )
        if SCORES in bad:
            bad.setdefault(REPORT, "scores changed")
        plan.reasons = dict.fromkeys(plan.units, "forced") if force else bad
        plan.detail["keys"] = wanted
        return plan

    def jobs(self, scope: Scope, plan: StepPlan) -> list[ScoreJob]:
        """Scores, then the report. Raises StoreError when a fold is not trained."""
        run: RunPlan = plan.work
        if not plan.units:
            return []
        if not is_trained(run.folder, run.keys):
            raise StoreError(
                f"run {run.run_id}",
                expected="all folds trained",
                got="some missing",
                todo="Run --from train.",
                code="stale_inputs",
            )
        files = RunFiles(run.folder)
        return [ScoreJob(files, unit, scope.token) for unit in plan.todo]

    def make(self, job: ScoreJob) -> ScoreResult:
        """Compute and write under temporary names."""
        started = time.perf_counter()
        made = {n: temporary_name(job.run.folder / n, job.token) for n in FILES[job.unit]}
        if job.unit == SCORES:
            save_parquet(job.run.all_predictions(), made["predictions.parquet"])
            save_parquet(score_run(job.run), made["metrics.parquet"], metadata(job.run))
        else:
            from models.report.write import write_report

            write_report(job.run, made["report.html"])
        files = [(path, job.run.folder / name) for name, path in made.items()]
        return ScoreResult(job.unit, files, time.perf_counter() - started)

    def publish(self, scope: Scope, plan: StepPlan, result: ScoreResult) -> dict[str, str]:
        """Enter the files in the run's manifest."""
        run: RunPlan = plan.work
        writer = StoreWriter(scope.workspace, run.folder, scope.token)
        key = plan.detail["keys"][result.unit]
        rows = [file_row(result.unit, key, to.name, at, VERSION) for at, to in result.files]
        about = {"host": platform.node(), "versions": versions_json(), "units": 1}
        timings = [{"part": row["part"], "seconds": result.seconds, **about} for row in rows]
        writer.enter(rows, files=result.files, timings=timings)
        return {result.unit: "ok"}

    def finish(self, scope: Scope, plan: StepPlan) -> None:
        """Every publication is complete by itself."""

    def progress(self, scope: Scope, result: ScoreResult) -> str:
        """'scores written'."""
        return f"{result.unit} written"

    def gpu(self, scope: Scope, plan: StepPlan) -> int:
        """None."""
        return 0

    def warm_up(self, scope: Scope) -> float:
        """Nothing to prepare."""
        return 0.0

    def pictures(self, shown: Any) -> Iterable[Any]:
        """None of a dataset's."""
        return ()

    def pages(self, scope: Scope, plan: StepPlan) -> Iterator[Page]:
        """Scores with pictures, and a table of the folds."""
        from models.runs import pages

        run, name = RunFiles(plan.work.folder), scope.recipe.name
        yield Page(f"evaluate-{name}", pages.run_page(run), pages.score_rows(run))
        yield Page(f"folds-{name}", "", pages.fold_rows(run))


def _keys(run: RunPlan) -> dict[str, str]:
    scores = stable_hash("scores", VERSION, run.keys, run.recipe.decode.identity())
    shown = (run.recipe.with_faces, run.recipe.name, run.recipe.about, run.recipe.expected)
    return {SCORES: scores, REPORT: stable_hash("report", VERSION, scores, shown)}


STEP = EvaluateStep()
