"""What a stage is, and the one contract that every step of a run fulfils.

A *step* is anything a run does in order: ingest, the preprocessing stages, training, scoring. It
says what it needs, which units it has and under which keys, how one job is made (anywhere), and how
its result is published (by whoever holds the workspace). Planner, executors and command line know
this contract and no step by name.

A *stage* is a step whose units (videos or events) are computed from ingest's tables, raw frames and
other stages' stores. Whoever adds one writes `list_units` and `process`; keys, chunks, parts and
freshness are made here from what the units declare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.stages.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work, and all that its result depends on.

    `video` decides its chunk; `facts` are what it knows from ingest's tables (plain values, handed
    to `process`); `reads` are (stage, unit) of the stores it opens; `frames` says that it reads the
    raw frames of its video. Settings and the stage's version come on top. Nothing else can be read.
    """

    id: str
    video: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[tuple[str, str], ...] = ()
    frames: bool = False
    key: str = ""  # content key; made by `data.stages.inputs.StageInputs.units`


@dataclass(frozen=True)
class Batching:
    """How to compute several units at once, where that is faster (a GPU wants many image pairs).

    prepare gives what a unit needs, or None if it has dropped the unit; size, the bytes of its
    result; compute, the results of several, each the same as alone; finish writes one. `when` says
    whether to do so at all with these settings.
    """

    when: Callable[[Any], bool]
    prepare: Callable[..., Any | None]  # as Stage.process
    size: Callable[[Any], int]
    compute: Callable[[list[Any], Any], list[Any]]
    finish: Callable[..., None]  # unit, prepared, result, settings, part
    use: Callable[[str], None] | None = None  # compute on this device from now on


@dataclass(frozen=True)
class Stage:
    """A preprocessing stage: how to list its units and how to process one, or many at once.

    list_units(inputs: StageInputs, settings) gives its units. process(unit, inputs: UnitInputs,
    settings, part: PartWriter) computes one: it fills the part and says `done`, or `drop`s it, or
    raises an ApexflowError, which drops it. pictures(shown: Shown) yields Drawn ones for people.
    """

    name: str
    version: int  # bumped by hand when results change
    needs: tuple[str, ...]  # stages whose results it reads; "ingest" for the tables
    suffix: str  # .h5 or .parquet
    unit_kind: str  # video or event
    list_units: Callable[[Any, Any], Iterable[Unit]]
    process: Callable[..., None]
    batching: Batching | None = None
    title: str = ""  # heading of its pictures
    pictures: Callable[[Any], Iterable[Any]] | None = None
    shows_faces: bool = False  # its pictures are of faces
    warm_up: Callable[[Any], float] | None = None  # settings → seconds spent compiling, in parent
    # (unit, its video's frames, all stages' settings) → nominal core seconds, bytes of its result
    weigh: Callable[[Unit, int, Mapping[str, Any]], tuple[float, float]] | None = None


class RecipeLike(Protocol):
    """What a step must know of a recipe."""

    @property
    def name(self) -> str:
        """Names the folder of its runs."""
        ...

    @property
    def data(self) -> tuple[str, ...]:
        """Dataset names."""
        ...

    @property
    def strict(self) -> bool:
        """Stop at the first unit that fails."""
        ...

    @property
    def with_faces(self) -> bool:
        """Whether pictures may show faces of licensed datasets."""
        ...

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps it needs, in running order."""
        ...

    def stage_config(self, stage: str) -> Any:
        """Settings of one preprocessing stage."""
        ...


class Machines(Protocol):
    """Where jobs are done, which may be elsewhere."""

    def devices(self, asked: str) -> tuple[str, ...]:
        """Devices that can each take a job of its own: GPUs, or ("cpu",). Raises ConfigError."""
        ...

    def ask(self, function: Callable[..., Any], *args: Any, gpu: bool = False) -> Any:
        """What the function answers where jobs are done; `gpu`: where there is one."""
        ...


@dataclass(frozen=True)
class Scope:
    """What a step works for: a workspace, a recipe, and one dataset or (None) all of them."""

    workspace: Workspace
    recipe: RecipeLike
    roots: Mapping[str, Path]
    dataset: str | None = None
    device: str = "cpu"
    token: str = "t"
    allow_shrink: bool = False  # of a dataset that has lost many of its videos
    verify_inputs: bool = False  # read every byte of the raw recordings too
    subjects: tuple[str, ...] = ()  # preprocess only these subjects' units (empty: all)
    videos: tuple[str, ...] = ()  # … only these videos'
    only_failed: bool = False  # … only units that have no data
    folds: tuple[str, ...] = ()  # only these, where a step has folds
    max_gpu_memory_mb: float | None = None  # what training may take of a GPU
    machines: Machines | None = None  # where its jobs are done; None: here
    expect: bool = False  # plan as if all that is to be made before were made, and well
    chunk_minutes: float = 15.0  # of one core that a chunk may take, where a store is begun
    time_limit_s: float = 0.0  # what one unit of preprocessing may take; 0: by its history

    @property
    def root(self) -> Path:
        """Folder of the dataset."""
        assert self.dataset is not None
        return self.roots[self.dataset]

    @property
    def label(self) -> str:
        """The dataset, or all of them, for people."""
        return self.dataset or "+".join(self.recipe.data)


@dataclass
class StepPlan:
    """What a step would do: every unit's state, and the words for why."""

    step: str
    dataset: str
    units: list[str]
    reasons: dict[str, str] = field(default_factory=dict)  # unit → why (re)done; absent = fresh
    failed: dict[str, str] = field(default_factory=dict)  # fresh units without data, reason code
    gone: dict[str, list[str]] = field(default_factory=dict)  # words → units whose source is gone
    notes: list[str] = field(default_factory=list)  # for people
    detail: dict[str, Any] = field(default_factory=dict)  # for records and JSON
    work: Any = None  # the step's own

    @property
    def todo(self) -> list[str]:
        """Units to make."""
        return [u for u in self.units if u in self.reasons]

    def summary(self) -> dict[str, Any]:
        """Counts and reasons for people and JSON."""
        missing = sum(r == "missing" for r in self.reasons.values())
        return {
            "stage": self.step,
            "dataset": self.dataset,
            "units": len(self.units),
            "fresh": len(self.units) - len(self.reasons) - len(self.failed),
            "stale": len(self.reasons) - missing,
            "missing": missing,
            "failed": len(self.failed),
            "gone": sum(map(len, self.gone.values())),
            "reasons": dict(Counter(self.reasons.values()).most_common()),
            "notes": [*self.notes, *self.gone],
            **self.detail,
        }


class Job(Protocol):
    """A piece of work that can be carried out anywhere; picklable."""

    @property
    def label(self) -> str:
        """Name people see; after a space, what it works on."""
        ...

    @property
    def count(self) -> int:
        """Units it makes."""
        ...


@dataclass
class Page:
    """A step's page for people: Markdown with pictures inside, and rows of a table."""

    name: str
    markdown: str
    rows: list[dict[str, Any]]


class Step(Protocol):
    """What planner, executors and command line know of ingest, stages, training and scoring."""

    name: str
    per_dataset: bool  # once for each dataset, or once for the recipe
    in_parent: bool  # its jobs are quick, or large to send: made in the process that publishes

    @property
    def title(self) -> str:
        """Heading of its pictures."""
        ...

    def needs(self, recipe: RecipeLike) -> tuple[str, ...]:
        """Steps whose results it reads, nearest ones."""
        ...

    def plan(self, scope: Scope, *, force: bool = False, verify: bool = False) -> StepPlan:
        """Compare what should be with what is there; writes nothing.

        `verify` also reads the bytes of everything published.
        """
        ...

    def jobs(self, scope: Scope, plan: StepPlan) -> Sequence[Job]:
        """The plan's work. Called while holding the workspace; may make folders."""
        ...

    def make(self, job: Any) -> Any:
        """Carry a job out, in this process or another; publishes nothing."""
        ...

    def publish(self, scope: Scope, plan: StepPlan, result: Any) -> dict[str, str]:
        """Publish a job's result, whole or not at all; unit → "ok" or why it has no data."""
        ...

    def finish(self, scope: Scope, plan: StepPlan) -> None:
        """After the last job, and when something went wrong: nothing published stays unlisted."""
        ...

    def progress(self, scope: Scope, result: Any) -> str:
        """A job that ended, in words."""
        ...

    def gpu(self, scope: Scope, plan: StepPlan) -> int:
        """How many of the plan's jobs one GPU may have at once; 0 when they need none."""
        ...

    def warm_up(self, scope: Scope) -> float:
        """Seconds spent preparing what every job needs (compiled kernels), once, in the parent."""
        ...

    def pictures(self, shown: Any) -> Iterable[Any]:
        """Pictures (`data.pictures.stages.Drawn`) of a few of its results."""
        ...

    @property
    def shows_faces(self) -> bool:
        """Whether these pictures are of faces."""
        ...

    def pages(self, scope: Scope, plan: StepPlan) -> Iterator[Page]:
        """What people look at after the step."""
        ...
