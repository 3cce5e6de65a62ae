"""Steps done by hand, without an executor: what tests and benchmarks of one stage need."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.ingest.stage import STEP as INGEST
from data.schema import conform, empty
from data.settings import Settings
from data.stages.contract import Scope, Stage, Step, StepPlan, Unit
from data.stages.files import write_table
from data.stages.inputs import ChunkInputs, StageInputs
from data.stages.parts import ChunkJob, ChunkResult, compute_chunk
from data.stages.registry import find_stage
from data.stages.stores import entries
from data.stages.workspace import Workspace
from models.runs.scoring import STEP as EVALUATE
from models.runs.training import STEP as TRAIN

TOKEN = "test"


@dataclass(frozen=True)
class NoRecipe:
    """A recipe for steps that need none: datasets and stage settings."""

    data: tuple[str, ...] = ()
    configs: dict[str, Settings] = field(default_factory=dict)
    name: str = "none"
    strict: bool = False
    with_faces: bool = False
    steps: tuple[str, ...] = ("ingest",)

    def stage_config(self, stage: str) -> Any:
        """Settings of one stage."""
        return self.configs[stage]


def scope(
    workspace: Workspace | Path, dataset: str | None, root: Path, recipe: Any = None, **more: Any
) -> Scope:
    """What a step works for; `recipe` None for ingest and single stages."""
    if not isinstance(workspace, Workspace):
        workspace = Workspace(workspace)
    found = recipe if recipe is not None else NoRecipe((str(dataset),))
    roots = dict.fromkeys(found.data, root)
    return Scope(workspace, found, roots, dataset, **{"token": TOKEN, **more})


def do(step: Step, where: Scope, *, force: bool = False, most: int | None = None) -> StepPlan:
    """Plan, make and publish (at most `most` jobs), in this process; returns the plan."""
    plan = step.plan(where, force=force)
    for job in list(step.jobs(where, plan))[:most]:
        step.publish(where, plan, step.make(job))
    step.finish(where, plan)
    return plan


def ingest(
    workspace: Workspace | Path, dataset: str, root: Path, *, force: bool = False, **more: Any
) -> str:
    """Ingest a dataset; returns why it was done, '' when it was fresh."""
    plan = do(INGEST, scope(workspace, dataset, root, **more), force=force)
    return plan.reasons.get(dataset, "")


def train(workspace: Workspace, recipe: Any, root: Path = Path(), **more: Any) -> StepPlan:
    """Train a recipe's folds one after the other."""
    return do(TRAIN, scope(workspace, None, root, recipe, **more))


def evaluate(workspace: Workspace, recipe: Any, root: Path = Path(), **more: Any) -> StepPlan:
    """Score a recipe's run."""
    return do(EVALUATE, scope(workspace, None, root, recipe, **more))


def chunk_inputs(inputs: StageInputs, stage: str, units: Iterable[Unit]) -> ChunkInputs:
    """Where what the units declared lies."""
    found = {}
    for name in find_stage(stage).needs:
        if name != "ingest":
            rows = {e.unit: e for e in entries(inputs.store(name).manifest)}
            wanted = {of for unit in units for where, of in unit.reads if where == name}
            found |= {(name, of): rows[of] for of in wanted if of in rows}
    return ChunkInputs(inputs.workspace.path, inputs.dataset, inputs.root, found)


def one_part(
    inputs: StageInputs,
    stage: str,
    path: Path,
    choose: Callable[[Unit], bool] = lambda unit: True,
) -> ChunkResult:
    """Compute a stage's units (those chosen) into one part at `path`."""
    units = tuple(unit for unit in inputs.units(stage) if choose(unit))
    sources = chunk_inputs(inputs, stage, units)
    inputs.workspace.stage(inputs.dataset, stage).mkdir(parents=True, exist_ok=True)
    name = f"part-00-made{find_stage(stage).suffix}"
    job = ChunkJob(sources, stage, inputs.configs[stage], 0, units, name, TOKEN)
    result = compute_chunk(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(result.temporary, path)
    result.temporary = path
    return result


def write_tables(workspace: Workspace | Path, dataset: str, **tables: pd.DataFrame) -> None:
    """Tables of a dataset as ingest would leave them (videos, frames, events), by name."""
    if not isinstance(workspace, Workspace):
        workspace = Workspace(workspace)
    for name in ("videos", "frames", "events"):
        table = tables.get(name, empty(name))
        given = {"provided_crop": False, "show_faces": True} if name == "videos" else {}
        missing = {column: value for column, value in given.items() if column not in table}
        path = workspace.stage(dataset, "ingest") / f"{name}.parquet"
        write_table(conform(table.assign(**missing), name), path)


def register(monkeypatch: Any, stage: Stage, settings: type[Settings]) -> Any:
    """Put a stage at the end of the list of stages, as its own module would be; returns it."""
    import sys
    from types import ModuleType

    from data.stages.registry import STAGES

    module: Any = ModuleType(f"tests.fakes.{stage.name}_stage")
    module.STAGE, module.SETTINGS = stage, settings
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(STAGES, stage.name, module.__name__)
    return module
