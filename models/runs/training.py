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

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.folds import Split
from data.held_out import Fold
from data.stages.contract import Page, RecipeLike, Scope, StepPlan
from data.stages.files import save_parquet
from data.stages.identity import stable_hash
from data.stages.planning import why_not_fresh
from data.stages.rates import Rate, rate_key, remember
from data.stages.registry import with_needs
from data.stages.writing import StoreWriter
from models.devices import devices_of, real_device, resolve_device
from models.family import family_of
from models.recipe import Recipe
from models.runs.files import INNER, QUICK_BYTES, FoldJob, plain_name, run_manifest
from models.runs.fold_jobs import make_fold_jobs
from models.runs.packs import PackJob, PackResult, fit_pack, plan_packs, spread, telling
from models.runs.publishing import (
    VERSION,
    RunPlan,
    publish_fold,
    take_over,
    write_setup,
)
from models.runs.samples import Samples, choose_samples, find_fold, make_split, outside_split
from models.runs.twins import twins_of

if TYPE_CHECKING:
    from models.stacked.proof import Proof


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

        With folds asked for, its units are these. Raises SplitError when nothing is left to train
        on or people are shared between sides, ConfigError for a fold that the split does not have.
        """
        run = plan_run(scope, force=force)
        _asked(scope, run)
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
        if scope.folds:
            _narrow(scope, plan)
        plan.detail = {"run": str(run.folder), "run_id": run.folder.name, "device": scope.device}
        return plan

    def jobs(self, scope: Scope, plan: StepPlan) -> list[PackJob]:
        """Make the run folder, write what identifies the run, take over what is trained.

        The folds left come in packs, by `train.folds_at_once`. Raises SplitError `clips_shared`
        before anything is trained, for a clip that two people have.
        """
        run: RunPlan = plan.work
        run.folder.mkdir(parents=True, exist_ok=True)
        run.writer = StoreWriter(scope.workspace, run.folder, scope.token)
        write_setup(run, scope)
        for fold, twin in list(run.elsewhere.items()):
            if take_over(run, fold, twin):
                continue
            del run.elsewhere[fold]
            if fold in plan.reasons:
                plan.notes.append(f"{fold} is trained: its weights in {twin.parent} are damaged")
        left = [f for f in plan.todo if f not in run.elsewhere]
        if not left:
            return []
        if said := twins_of(run):
            plan.notes.append(said)
        devices = devices_of(scope)
        jobs = [telling(replace(run.jobs[fold], device=devices[0])) for fold in left]
        asked = (jobs, scope.max_gpu_memory_mb)
        on_gpu = devices[0] != "cpu"
        packs, choice = (
            scope.machines.ask(plan_packs, *asked, gpu=True)
            if scope.machines is not None and on_gpu
            else plan_packs(*asked)
        )
        packs = spread(packs, len(devices))
        run.beside = choice.side_by_side if on_gpu else 0
        if choice.at_once > 1:
            plan.notes.append(choice.why)
        if len(devices) > 1:
            plan.notes.append(f"{len(packs)} packs of folds on {len(devices)} GPUs")
        return [PackJob(tuple(pack)) for pack in packs]

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
        """'fold-00-sub01 trained in 3.1 s on cuda:0 of host'."""
        names = ", ".join(job.unit for job in result.folds)
        spent = result.seconds * len(result.folds)
        return f"{names} trained in {spent:.1f} s on {result.folds[0].device} of {result.host}"

    def gpu(self, scope: Scope, plan: StepPlan) -> int:
        """As many packs as were measured to fit beside each other."""
        run: RunPlan = plan.work
        return run.beside

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
    samples, split, jobs, keys, inner = _chosen(scope, recipe)
    run_id = stable_hash(list(keys.items()), recipe.decode.identity())[:12]
    base = scope.workspace.run(recipe.name, run_id)
    folder = forced_folder(base, keys) if force else newest_folder(base, keys)
    jobs = {
        unit: replace(
            job,
            out=folder / f".partial-{unit}",
            inputs=folder / "inputs.parquet",
            device=scope.device,
        )
        for unit, job in jobs.items()
    }
    ledger = pd.concat(
        [samples.ledger, outside_split(recipe, samples.table, split)], ignore_index=True
    )
    return RunPlan(recipe, samples, split, run_id, folder, jobs, keys, ledger, inner)


_Chosen = tuple[Samples, Split, dict[str, FoldJob], dict[str, str], dict[str, Fold]]
_last: dict[str, _Chosen] = {}  # of the last recipe and workspace: scoring asks for the same


def fold_rate_key(scope: Scope, recipe: Recipe) -> str:
    """Under which key this machine's rate of training with a recipe is kept."""
    here = scope.machines is None
    device = (resolve_device(scope.device) if here else scope.device).split(":")[0]
    facts = (recipe.network_name, recipe.model.identity(), recipe.train.identity())
    return rate_key("train", VERSION, facts, device)


def _chosen(scope: Scope, recipe: Recipe) -> _Chosen:
    """Samples, split, folds and their keys; taken from before while nothing of it has changed."""
    stamp = _stamp(scope, recipe)
    if stamp not in _last or recipe.split.path:  # a list's own files are not asked
        samples = choose_samples(scope.workspace, recipe, expect=scope.expect)
        split = make_split(recipe, samples.table)
        jobs, keys, inner = make_fold_jobs(scope, recipe, samples, split)
        _last.clear()
        _last[stamp] = samples, split, jobs, keys, inner
    return _last[stamp]


def _stamp(scope: Scope, recipe: Recipe) -> str:
    """Changes with the recipe, and with every table or store that samples are chosen from."""
    paths: list[Path] = []
    for dataset in recipe.data:
        ingest = scope.workspace.stage(dataset, "ingest")
        paths += [ingest / f"{name}.parquet" for name in ("videos", "events", "frames")]
        for stage in recipe.stages[1:]:
            folder = scope.workspace.stage(dataset, stage)
            paths += [folder, folder / "manifest.parquet"]
    stats = [path.stat() if path.exists() else None for path in paths]
    facts = [[s.st_ino, s.st_size, s.st_mtime_ns] if s else None for s in stats]
    identities = [recipe.stage_config(stage).identity() for stage in recipe.stages[1:]]
    return stable_hash(scope.workspace.path, recipe, identities, facts, scope.expect)


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


def _narrow(scope: Scope, plan: StepPlan) -> None:
    """Keep the folds asked for; what else is not trained is said."""
    wanted = _asked(scope, plan.work)
    others = _left(plan) - wanted
    plan.units = [fold for fold in plan.units if fold in wanted]
    plan.reasons = {fold: why for fold, why in plan.reasons.items() if fold in wanted}
    if others:
        plan.notes.append(f"{len(others)} other fold(s) of the run are not trained yet")


def folds_to_come(scope: Scope) -> int:
    """Folds that are not trained and were not asked for: without them a run has no scores."""
    if not scope.folds:
        return 0
    found = STEP.plan(replace(scope, folds=()))
    return len(_left(found) - _asked(scope, found.work))


def _left(plan: StepPlan) -> set[str]:
    return {fold for fold in plan.reasons if fold not in plan.work.elsewhere}


def _asked(scope: Scope, run: RunPlan) -> set[str]:
    """Units of the folds asked for; `--folds 7,12` are two, of all seeds with inner trainings.

    Raises ConfigError for what names no fold, or several.
    """
    found: set[str] = set()
    held = [str(name) for name in run.split.folds]
    for wanted in (name for text in scope.folds for name in text.split(",") if name):
        if wanted in run.jobs and not wanted.startswith("fold-"):
            found.add(wanted)  # one seed's, or an inner training
            continue
        number = f"{find_fold(held, wanted, '--folds'):02d}"
        found |= {unit for unit in run.jobs if plain_name(unit).split("-", 2)[1] == number}
    return found


# ------------------------------------------------------------------------------------ publication


def prove(scope: Scope, steps: int = 100) -> Proof:
    """Train one fold (the first of `scope.folds`, else the first) alone and beside all others.

    Writes nothing into the workspace. Raises as `plan_run` does.
    """
    run = plan_run(scope)
    device = real_device(resolve_device(scope.device))
    folds = [
        unit for unit, job in run.jobs.items() if unit == job.fold and not unit.startswith(INNER)
    ]
    wanted = _asked(scope, run)
    asked = [fold for fold in folds if fold in wanted]
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
