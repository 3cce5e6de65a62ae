"""Training as a step: a unit is a fold, and a fold that was trained once is never trained again.

A fold's key is what decides its weights: network, training settings, labels, both sides of its
split with the identity of every sample, seed. The run's folder is named after its folds' keys and
the scoring settings; a fold trained in another run of the workspace under the same key is taken
over (its files linked), so that other scoring settings, another recipe name or another report cost
seconds. A fold is trained in a hidden folder that keeps its resume state across kills.

With several seeds a unit is a fold of a seed; with a nested choice every fold has an inner training
beside it, which leaves out some of its training people. Both have keys of their own, so another
list of seeds trains only the new ones.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.errors import ConfigError, SplitError, StoreError
from data.folds import Fold, Split, event_ids
from data.stages.contract import Page, RecipeLike, Scope, StepPlan
from data.stages.files import save_parquet
from data.stages.identity import stable_hash
from data.stages.limits import peak_mb
from data.stages.parts import versions_json
from data.stages.planning import why_not_fresh
from data.stages.rates import Rate, rate_key, remember
from data.stages.registry import with_needs
from data.stages.writing import StoreWriter
from models.contract import FOLD_FILES
from models.devices import resolve_device
from models.family import family_of
from models.recipe import Recipe
from models.runs.files import INNER, QUICK_BYTES, FoldJob, plain_name, run_manifest, unit_name
from models.runs.publishing import (
    VERSION,
    PackResult,
    RunPlan,
    publish_fold,
    take_over,
    write_setup,
)
from models.runs.samples import (
    Samples,
    choose_samples,
    fold_name,
    inner_sides,
    make_split,
    outside_split,
)

if TYPE_CHECKING:
    from models.stacked.proof import Proof


@dataclass(frozen=True)
class PackJob:
    """Folds that are trained by one call: one, or several as one program."""

    folds: tuple[FoldJob, ...]

    @property
    def label(self) -> str:
        """Name people see."""
        first = self.folds[0].label
        return first if len(self.folds) == 1 else f"{first}-and-{len(self.folds) - 1}-more"

    @property
    def count(self) -> int:
        """Units it makes."""
        return len(self.folds)


class TrainStep:
    """Train every fold that is not there yet."""

    name, per_dataset, in_parent, title = "train", False, False, "Training"
    shows_faces = False

    def needs(self, recipe: RecipeLike) -> tuple[str, ...]:
        """Ingest, and the stages its network reads, nearest or not."""
        assert isinstance(recipe, Recipe)
        return ("ingest", *with_needs(recipe.network.needs(recipe.model)))

    def plan(self, scope: Scope, *, force: bool = False, verify: bool = False) -> StepPlan:
        """Choose samples, make the split, name the run; reads stores, writes nothing.

        Raises SplitError when nothing is left to train on or people are shared between sides,
        ConfigError for a fold asked for that the split does not have.
        """
        run = plan_run(scope, force=force)
        for wanted in scope.folds:
            if not any(_asked(fold, (wanted,)) for fold in run.jobs):
                raise ConfigError(
                    "--folds",
                    expected=f"names, numbers or subjects of {', '.join(run.jobs)}",
                    got=repr(wanted[:80]),
                )
        plan = StepPlan(self.name, scope.label, list(run.jobs), work=run)
        plan.reasons, _ = why_not_fresh(
            run.folder,
            run_manifest(run.folder),
            run.keys,
            VERSION,
            verify=verify,
            always_read=QUICK_BYTES,
        )
        if force:
            plan.reasons = {
                f: "forced" if r == "missing" else r for f, r in plan.reasons.items()
            }  # fmt: skip
        else:
            _look_elsewhere(scope, run, plan)
        plan.detail = {"run": str(run.folder), "run_id": run.folder.name, "device": scope.device}
        return plan

    def jobs(self, scope: Scope, plan: StepPlan) -> list[PackJob]:
        """Make the run folder, write what identifies the run, take over what is trained.

        The folds left come in packs, by `train.folds_at_once`.
        """
        run: RunPlan = plan.work
        run.folder.mkdir(parents=True, exist_ok=True)
        run.writer = StoreWriter(scope.workspace, run.folder, scope.token)
        write_setup(run, scope)
        for fold, twin in run.elsewhere.items():
            take_over(run, fold, twin)
        left = [f for f in plan.todo if f not in run.elsewhere]
        if scope.folds:
            left = [f for f in left if _asked(f, scope.folds)]
        if not left:
            return []
        device = resolve_device(scope.device)
        jobs = [replace(run.jobs[fold], device=device) for fold in left]
        packs, choice = family_of(run.recipe).plan_packs(jobs, scope.max_gpu_memory_mb)
        if choice.at_once > 1:
            plan.notes.append(choice.why)
        return [PackJob(tuple(replace(j, device=scope.device) for j in pack)) for pack in packs]

    def make(self, job: PackJob) -> PackResult:
        """Train and predict a pack's folds, each into its `out`."""
        return fit_pack(job)

    def publish(self, scope: Scope, plan: StepPlan, result: PackResult) -> dict[str, str]:
        """Give the trained folds' files their names and enter them in the run's manifest."""
        run: RunPlan = plan.work
        for job in result.folds:
            publish_fold(run, job.unit, job.out, result)
            took = Rate(result.seconds, len(job.train_events) or 1, 0.0, result.peak_mb)
            remember(fold_rate_key(scope, run.recipe), took)
        return {job.unit: "ok" for job in result.folds}

    def finish(self, scope: Scope, plan: StepPlan) -> None:
        """Every publication is complete by itself."""

    def progress(self, scope: Scope, result: PackResult) -> str:
        """'fold-00-sub01 trained in 3.1 s'."""
        names = ", ".join(job.unit for job in result.folds)
        return f"{names} trained in {result.seconds * len(result.folds):.1f} s"

    def gpu(self, scope: Scope) -> int:
        """One fold at a time on a GPU."""
        return int(resolve_device(scope.device) != "cpu")

    def warm_up(self, scope: Scope) -> float:
        """Nothing to prepare."""
        return 0.0

    def pictures(self, shown: Any) -> Iterable[Any]:
        """None of a dataset's."""
        return ()

    def pages(self, scope: Scope, plan: StepPlan) -> Iterator[Page]:
        """The folds are shown with their scores."""
        return iter(())


def plan_run(scope: Scope, *, force: bool = False) -> RunPlan:
    """The experiment of a recipe on a workspace as it is now."""
    recipe = scope.recipe
    assert isinstance(recipe, Recipe)
    samples = choose_samples(scope.workspace, recipe, expect=scope.expect)
    split = make_split(recipe, samples.table)
    folds = _fold_jobs(scope, recipe, samples, split)
    inner, inner_jobs = _inner_jobs(scope, recipe, samples, split, folds)
    jobs = {}
    for number, seed in enumerate(recipe.each_seed):
        for job in (*folds.values(), *inner_jobs):
            own = replace(job, seed=seed, unit=unit_name(job.fold, seed, number))
            jobs[own.unit] = own
    keys = {unit: _key(recipe, job, samples) for unit, job in jobs.items()}
    run_id = stable_hash(list(keys.items()), recipe.decode.identity())[:12]
    base = scope.workspace.run(recipe.name, run_id)
    folder = forced_folder(base, keys) if force else newest_folder(base, keys)
    jobs = {
        unit: replace(job, out=folder / f".partial-{unit}", inputs=folder / "inputs.parquet")
        for unit, job in jobs.items()
    }
    ledger = pd.concat(
        [samples.ledger, outside_split(recipe, samples.table, split)], ignore_index=True
    )
    return RunPlan(recipe, samples, split, run_id, folder, jobs, keys, ledger, inner)


def _key(recipe: Recipe, job: FoldJob, samples: Samples) -> str:
    """What decides a fold's files: network, training, labels, seed, recorded epochs, both sides."""
    facts = [
        VERSION,
        recipe.network_name,
        recipe.model.identity(),
        recipe.train.identity(),
        family_of(recipe).training_facts(recipe),
        recipe.labels,
        job.seed,
    ]
    if recipe.epoch_scores.record:
        facts.append({"record": recipe.epoch_scores.record})
    return stable_hash(facts, *_sides(job, samples))


def fold_rate_key(scope: Scope, recipe: Recipe) -> str:
    """Under which key this machine's rate of training with a recipe is kept."""
    device = resolve_device(scope.device).split(":")[0]
    facts = (recipe.network_name, recipe.model.identity(), recipe.train.identity())
    return rate_key("train", VERSION, facts, device)


def _sides(job: FoldJob, samples: Samples) -> tuple[list[Any], list[Any]]:
    """Every sample of both sides with what identifies it, in an order of its own."""
    train, test = (
        sorted([*sample, samples.keys[sample]] for sample in side)
        for side in (job.train_events, job.test_events)
    )
    return train, test


def _fold_jobs(scope: Scope, recipe: Recipe, chosen: Samples, split: Split) -> dict[str, FoldJob]:
    """Fold → its job, for the first seed."""
    make = _job_maker(scope, recipe, chosen)
    named = {fold_name(n, name): sides for n, (name, sides) in enumerate(split.folds.items())}
    return {fold: make(fold, sides) for fold, sides in named.items()}


def _inner_jobs(
    scope: Scope, recipe: Recipe, chosen: Samples, split: Split, folds: dict[str, FoldJob]
) -> tuple[dict[str, Fold], list[FoldJob]]:
    """With a nested choice: fold → its inner sides, and the jobs that train on them."""
    if not recipe.epoch_scores.nested:
        return {}, []
    make, table = _job_maker(scope, recipe, chosen), chosen.table
    label_of = dict(zip(zip(table.dataset, table.event, strict=True), table.label, strict=True))
    inner, jobs = {}, []
    for (fold, outer), (name, sides) in zip(folds.items(), split.folds.items(), strict=True):
        inner[fold] = inner_sides(table, sides, str(name), recipe.epoch_scores.inner_folds)
        labels = {label_of[s] for s in (*outer.train_events, *outer.test_events)}
        # The outer fold's classes: one of them may be only in those who are tested.
        known = tuple(sorted(str(label) for label in labels if not pd.isna(label)))
        job = make(fold.replace("fold-", INNER, 1), inner[fold])
        jobs.append(replace(job, classes=known))
    return inner, jobs


def _job_maker(scope: Scope, recipe: Recipe, chosen: Samples) -> Callable[[str, Fold], FoldJob]:
    """(fold's name, ids of both sides) → its job. Raises SplitError for an empty side."""
    table = chosen.table
    samples = list(zip(table.dataset, table.event, strict=True))
    sample_of = dict(zip(event_ids(table), samples, strict=True))
    video_of = dict(zip(samples, zip(table.dataset, table.video, strict=True), strict=True))

    def make(fold: str, both: Fold) -> FoldJob:
        sides = [tuple(sample_of[i] for i in side if i in sample_of) for side in both]
        if not sides[0] or not sides[1]:
            raise SplitError(
                f"{recipe.name}, {fold}",
                expected="samples on both sides",
                got=f"{len(sides[0])} to train on, {len(sides[1])} to test",
                todo="Use fewer folds or more subjects.",
            )
        videos = [tuple(sorted({video_of[s] for s in side})) for side in sides]
        return FoldJob(
            workspace=scope.workspace.path,
            recipe=recipe,
            fold=fold,
            datasets=recipe.data,
            train_events=sides[0],
            test_events=sides[1],
            train_videos=videos[0],
            test_videos=videos[1],
            seed=recipe.each_seed[0],
            record=recipe.epoch_scores.record,
            out=Path(),
            device=scope.device,
        )

    return make


# --------------------------------------------------------------------- which folder, which twin


def _repetitions(base: Path) -> list[Path]:
    """The run's folder and its forced repetitions -2, -3 … that exist, oldest first."""
    found, number = [base], 2
    while (later := base.with_name(f"{base.name}-{number}")).exists():
        found.append(later)
        number += 1
    return found


def is_trained(folder: Path, keys: dict[str, str]) -> bool:
    """Whether every fold is there as it was published."""
    bad, _ = why_not_fresh(folder, run_manifest(folder), keys, VERSION, always_read=QUICK_BYTES)
    return not bad


def newest_folder(base: Path, keys: dict[str, str]) -> Path:
    """The latest repetition that is trained whole, else the run's own folder.

    A repetition that was cancelled early is never taken for the run.
    """
    whole = [folder for folder in _repetitions(base)[1:] if is_trained(folder, keys)]
    return whole[-1] if whole else base


def forced_folder(base: Path, keys: dict[str, str]) -> Path:
    """Where a forced repetition goes: the one that was begun and not finished, else a new one."""
    if not base.exists():
        return base
    found = _repetitions(base)
    last = found[-1]
    if last != base and not is_trained(last, keys):
        return last
    return base.with_name(f"{base.name}-{len(found) + 1}")


def _look_elsewhere(scope: Scope, run: RunPlan, plan: StepPlan) -> None:
    """Find folds of the same key in other runs of the workspace."""
    wanted = {run.keys[unit]: unit for unit, why in plan.reasons.items() if why != "forced"}
    if not wanted:
        return
    for folder in sorted((scope.workspace.path / "runs").glob("*/*")):
        if folder == run.folder or not (folder / "manifest.parquet").is_file():
            continue
        rows = run_manifest(folder)
        rows = rows[rows.key.isin(list(wanted))]
        twins = dict(zip(rows.key, rows.unit, strict=True))
        bad, _ = why_not_fresh(
            folder, rows, {u: k for k, u in twins.items()}, VERSION, always_read=QUICK_BYTES
        )
        for key, unit in twins.items():
            if unit not in bad and plain_name(wanted.get(key, "")) == plain_name(unit):
                own = wanted.pop(key)
                run.elsewhere[own] = folder / unit
                plan.reasons[own] = f"trained in {folder.parent.name}/{folder.name}: taken over"


def _asked(fold: str, wanted: tuple[str, ...]) -> bool:
    """Whether a unit is of a fold asked for by name, number or held-out subject, or itself is."""
    _, number, subject = plain_name(fold).split("-", 2)
    name = f"fold-{number}-{subject}"
    return bool({fold, name, number, str(int(number)), subject} & set(wanted))


# ------------------------------------------------------------------------------------ publication


def fit_pack(pack: PackJob) -> PackResult:
    """Train and predict a pack's folds, each into its `out`. Runs in a worker."""
    started = time.perf_counter()
    jobs = [replace(job, device=resolve_device(job.device)) for job in pack.folds]
    for job in jobs:
        job.out.mkdir(parents=True, exist_ok=True)
    family_of(jobs[0].recipe).fit(jobs)
    for job in jobs:
        missing = [name for name in FOLD_FILES if not (job.out / name).exists()]
        if missing:
            raise StoreError(job.unit, expected=f"files {FOLD_FILES}", got=f"without {missing}")
        if job.fold.startswith(INNER):
            (job.out / "weights.safetensors").unlink()  # it was trained to choose an epoch
    seconds = (time.perf_counter() - started) / len(jobs)
    return PackResult(pack.folds, seconds, platform.node(), versions_json(), peak_mb())


def prove(scope: Scope, steps: int = 100) -> Proof:
    """Train one fold (the first of `scope.folds`, else the first) alone and beside all others.

    Writes nothing into the workspace. Raises as `plan_run` does.
    """
    run = plan_run(scope)
    device = resolve_device(scope.device)
    folds = [
        unit for unit, job in run.jobs.items() if unit == job.fold and not unit.startswith(INNER)
    ]
    asked = [fold for fold in folds if scope.folds and _asked(fold, scope.folds)]
    with tempfile.TemporaryDirectory(prefix="apexflow-proof-") as folder:
        inputs = Path(folder) / "inputs.parquet"
        save_parquet(run.samples.inputs, inputs)
        jobs = [
            replace(run.jobs[fold], device=device, inputs=inputs, out=Path(folder) / fold)
            for fold in folds
        ]
        fold = asked[0] if asked else jobs[0].fold
        return family_of(run.recipe).prove(jobs, fold, steps)


STEP = TrainStep()
