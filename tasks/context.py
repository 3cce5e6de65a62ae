"""What a run holds while it works: recipe, locked workspace, and who carries the work out.

An executor decides how jobs are run and where progress and pictures are shown: `PlainExecutor`
here needs nothing, `tasks.prefect_executor.PrefectExecutor` shows the run in the Prefect UI. The
steps in `tasks.steps` do not know which one they have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data.errors import ConfigError
from data.stages.contract import Scope, Step
from data.stages.workspace import Workspace
from models.devices import resolve_device
from models.recipe import Recipe, load_recipe
from models.steps import find_step
from tasks.carriers import NO_GPU, Carrier, Share
from tasks.request import RunRequest

Job = TypeVar("Job")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Executor(Protocol):
    """How jobs run and where their progress shows."""

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        label: Callable[[Job], str],
        share: Share = NO_GPU,
    ) -> Iterator[Result]:
        """Results in order of completion; the first error is raised after all jobs ended."""
        ...

    def progress(self, name: str, done: int, total: int, text: str) -> None:
        """Show how far a stage is."""
        ...

    def page(self, name: str, markdown: str, rows: list[dict[str, Any]]) -> None:
        """Show a stage's pictures and table."""
        ...

    def gpu(self, count: int) -> Any:
        """Context manager held around work on `count` GPUs of this machine; how many it got."""
        ...

    @property
    def carrier(self) -> Carrier:
        """Where its jobs are done."""
        ...


class Watcher(Protocol):
    """Where a person watches: a terminal's view."""

    def __call__(self, name: str, done: int, total: int, text: str) -> None:
        """`done` of `total` units of the work `name`."""
        ...

    def begin(self, label: str) -> None:
        """A job is being worked on."""
        ...

    def end(self, label: str) -> None:
        """It is not any more."""
        ...


class PlainExecutor:
    """Shows a run nowhere but through `show`."""

    def __init__(self, carrier: Carrier, show: Watcher | None = None) -> None:
        self.carrier, self._show = carrier, show

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: list[Job],
        label: Callable[[Job], str],
        share: Share = NO_GPU,
    ) -> Iterator[Result]:
        """See Executor."""
        show = self._show
        yield from self.carrier.carry(
            function,
            jobs,
            label=label,
            share=share,
            started=(lambda job: show.begin(label(job))) if show else None,
            ended=(lambda job, error: show.end(label(job))) if show else None,
        )

    def progress(self, name: str, done: int, total: int, text: str) -> None:
        """See Executor."""
        if self._show:
            self._show(name, done, total, text)

    def page(self, name: str, markdown: str, rows: list[dict[str, Any]]) -> None:
        """Pages are for the UI; the report holds the same pictures."""

    @contextmanager
    def gpu(self, count: int) -> Iterator[int]:
        """Alone on the machine as far as we know: nothing to hold."""
        yield count


@dataclass
class RunContext:
    """A run in progress. Made by `open_context`, which holds the workspace's lock."""

    request: RunRequest
    recipe: Recipe
    workspace: Workspace
    token: str
    executor: Executor
    made: dict[str, list[int]] = field(default_factory=dict)  # 'align casme2' → [made, units]

    @property
    def steps(self) -> list[str]:
        """Steps this run does, in order: the recipe's, narrowed by the request."""
        return wanted_steps(self.request, self.recipe)

    @property
    def carrier(self) -> Carrier:
        """Where the run's jobs are done."""
        return self.executor.carrier

    def scopes(self, step: Step, dataset: str | None = None) -> list[Scope]:
        """What a step is done for: each of the recipe's datasets (or only `dataset`), or all."""
        whole = scopes(
            self.request, self.recipe, self.workspace, step, token=self.token, dataset=dataset
        )
        return [replace(scope, machines=self.carrier.machines) for scope in whole]

    def forces(self, step: str) -> bool:
        """Whether the request forces this step, or one it depends on."""
        return forces(self.request, self.recipe, step)


def scopes(
    request: RunRequest,
    recipe: Recipe,
    workspace: Workspace,
    step: Step,
    *,
    token: str = "t",
    dataset: str | None = None,
) -> list[Scope]:
    """A scope for each dataset of the recipe (or only `dataset`), or one for all of them."""
    names = recipe.data if dataset is None else (dataset,)
    whole = Scope(
        workspace,
        recipe,
        {name: dataset_root(request, name) for name in recipe.data},
        device=request.device,
        token=token,
        allow_shrink=request.allow_shrink,
        verify_inputs=request.verify == "inputs",
        folds=tuple(request.folds),
        subjects=tuple(request.subjects),
        videos=tuple(request.videos),
        only_failed=request.only_failed,
        max_gpu_memory_mb=request.max_gpu_memory_mb,
        time_limit_s=request.time_limit_s,
        chunk_minutes=recipe.chunk_minutes,
    )
    return [replace(whole, dataset=name) for name in names] if step.per_dataset else [whole]


def forces(request: RunRequest, recipe: Recipe, step: str) -> bool:
    """Whether a request forces a step, or one it depends on, nearest or not."""
    found, waiting = {step}, [step]
    while waiting:
        new = set(find_step(waiting.pop()).needs(recipe)) - found
        found |= new
        waiting.extend(new)
    return bool(found & set(request.force))


def wanted_steps(request: RunRequest, recipe: Recipe) -> list[str]:
    """Steps to do, in order. Raises ConfigError for one the recipe does not have."""
    known = list(recipe.steps)
    asked = [("--stage", s) for s in request.stages] + [("--force", s) for s in request.force]
    asked += [("--from", request.from_stage)] if request.from_stage else []
    asked += [("--until", request.until)] if request.until else []
    for option, stage in asked:
        if stage not in known:
            raise ConfigError(
                option, expected=f"one of recipe {recipe.name}'s: {', '.join(known)}", got=stage
            )
    if request.subjects or request.videos or request.only_failed:
        known = [s for s in known if find_step(s).per_dataset]  # a part is not trained on
        for option, stage in asked:
            if stage not in known:
                raise ConfigError(
                    option,
                    expected=f"one of {', '.join(known)} with --subjects, --videos or "
                    "--only-failed",
                    got=stage,
                    todo="A network is trained and scored on all of a dataset: ask without them.",
                )
    first = known.index(request.from_stage) if request.from_stage else 0
    last = known.index(request.until) if request.until else len(known) - 1
    if first > last:
        raise ConfigError(
            "--from and --until",
            expected=f"the first before the last, in the order {', '.join(known)}",
            got=f"--from {request.from_stage} --until {request.until}",
        )
    wanted = [s for s in known[first : last + 1] if not request.stages or s in request.stages]
    if not wanted:
        raise ConfigError(
            "stages",
            expected=f"one of {known[first : last + 1]}, as asked by first and last stage",
            got=", ".join(request.stages),
        )
    return wanted


def dataset_root(request: RunRequest, dataset: str) -> Path:
    """Folder of a dataset. Raises ConfigError when the request does not name it."""
    roots = request.roots()
    if dataset not in roots:
        raise ConfigError(
            "--data",
            expected=f"the folder of {dataset}, which the recipe reads",
            got=f"folders of {', '.join(sorted(roots)) or 'none'}",
            todo=f"Add --data {dataset}=/path/to/it.",
        )
    return roots[dataset].absolute()


def resolve_recipe(request: RunRequest) -> Recipe:
    """The request's recipe with its overrides applied."""
    overrides = dict(request.overrides)
    if request.with_faces:
        overrides["with_faces"] = True
    if request.landmark_model:
        for stage in ("align", "registration", "motion"):
            overrides[f"{stage}.landmark_model"] = request.landmark_model
    return load_recipe(request.recipe, overrides)


watcher: ContextVar[Watcher | None] = ContextVar("apexflow_watcher", default=None)


@contextmanager
def open_context(request: RunRequest, executor: Executor) -> Iterator[RunContext]:
    """Read the recipe, lock the workspace, and hold both for the run."""
    recipe = resolve_recipe(request)
    wanted_steps(request, recipe)
    if request.device != "auto" and not request.scheduler:  # hours before a network is trained
        resolve_device(request.device)
    workspace = Workspace(request.workspace)
    with workspace.lock(wait_s=request.wait_s, what=f"run {recipe.name}") as token:
        context = RunContext(request, recipe, workspace, token, executor)
        yield context
