"""One experiment: which samples, which folds, what identifies the run, and its way to scores.

The run id is a hash of recipe, split, input keys and seed: the same experiment again is the same
folder and nothing to do. A fold is trained in a hidden folder that keeps its resume state across
kills, and takes its name by one rename when it is whole. `models.runs.files` says what it holds.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd

from data.errors import ConfigError, SplitError, StoreError
from data.folds import (
    Split,
    event_ids,
    leave_one_subject_out,
    published_split,
    subject_kfold,
    with_training_events,
)
from data.schema import LEDGER, conform
from data.stages import stores
from data.stages.identity import file_digest, stable_hash
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.recipe import Recipe
from models.runs.files import (
    FOLD_FILES,
    RUN_MANIFEST,
    FoldJob,
    RunFiles,
    Sample,
    done_folds,
    read_tables,
    run_manifest,
    run_times,
)

VERSION = 1  # bumped by hand when training results change


@dataclass
class RunPlan:
    """The experiment as it would run: samples kept and dropped, split, run folder, folds to do."""

    recipe: Recipe
    workspace: Workspace
    samples: pd.DataFrame  # dataset subject person video event label, one row per kept sample
    ledger: pd.DataFrame
    split: Split
    run_id: str
    folder: Path
    jobs: list[FoldJob] = field(default_factory=list)  # all folds, trained or not
    done: set[str] = field(default_factory=set)

    @property
    def todo(self) -> list[FoldJob]:
        """Folds still to train."""
        return [job for job in self.jobs if job.fold not in self.done]

    @property
    def evaluated(self) -> bool:
        """Whether all folds are trained and scored, and the scores can be read."""
        tables = ("predictions.parquet", "metrics.parquet")
        return (
            not self.todo
            and (self.folder / "report.html").is_file()
            and all(stores.is_sound_table(self.folder / name) for name in tables)
        )


def plan_run(
    workspace: Workspace, recipe: Recipe, device: str = "cpu", *, verify: bool = False
) -> RunPlan:
    """Choose samples, make the split, name the run; reads stores, writes nothing.

    `verify` also reads the bytes of large weight files of folds that are there.

    Raises SplitError when nothing is left to train on or people are shared between sides.
    """
    samples, ledger, keys = (
        _event_samples(workspace, recipe)
        if recipe.entry.samples == "events"
        else _video_samples(workspace, recipe)
    )
    if samples.empty:
        raise SplitError(
            f"recipe {recipe.name}",
            expected="at least one usable sample",
            got=f"none of {len(ledger)} (reasons: {sorted(set(ledger.reason))})",
            todo="See the ledger; check the dataset with `python -m flows check`.",
        )
    split = make_split(recipe, samples)
    used = {s: keys[s] for s in sorted(keys)}
    run_id = stable_hash(VERSION, recipe.digest, split.digest, list(used.items()))[:12]
    folder = workspace.run(recipe.name, run_id)
    plan = RunPlan(recipe, workspace, samples, ledger, split, run_id, folder)
    plan.jobs = _fold_jobs(plan, device)
    plan.ledger = pd.concat([ledger, _outside_split(plan)], ignore_index=True)
    plan.done = done_folds(plan.folder, verify=verify)
    return plan


def make_split(recipe: Recipe, samples: pd.DataFrame) -> Split:
    """The recipe's split over `samples`; ids as `data.folds.event_ids` makes them.

    In splits of ours macro-expressions only train, where their person is not tested; a published
    list is taken as it is.
    """
    config = recipe.split
    if config.kind == "published":
        if not config.name or not config.path:
            raise ConfigError(
                "split", expected="name and path of a published split", got=str(config)
            )
        return published_split(config.name, config.path)
    extra = samples[samples.type == "macro"] if "type" in samples else samples[:0]
    tested = samples.drop(extra.index)
    if config.kind == "leave_one_subject_out":
        split = leave_one_subject_out(tested)
    else:
        label = "label" if tested.label.notna().all() else None
        split = subject_kfold(tested, config.k, config.seed, label=label)
    return with_training_events(split, tested, extra) if len(extra) else split


def _event_samples(
    workspace: Workspace, recipe: Recipe
) -> tuple[pd.DataFrame, pd.DataFrame, dict[Sample, str]]:
    """Micro-expression events with a label whose inputs are all there, and macro where asked."""
    events = read_tables(workspace, recipe.data, "events")
    label = events[recipe.labels].astype("string")
    macro = bool(getattr(recipe.train, "macro", False))  # a setting of families that can
    with_micro = set(events.dataset[(events.type == "micro") & label.notna()])
    needed = recipe.entry.needs(recipe.model)
    stores_of = {(d, s): StageStore(workspace, d, s) for d in recipe.data for s in needed}
    keep, dropped, keys = [], [], {}
    for row, name in zip(events.itertuples(index=False), label, strict=True):
        reason = ""
        trains_only = macro and row.type == "macro" and row.dataset in with_micro
        if row.type != "micro" and not trains_only:
            reason = "not_micro"
        elif pd.isna(name):
            reason = f"no_{recipe.labels}"
        else:
            for stage in needed:
                status = stores_of[row.dataset, stage].status(row.event)
                if status != "ok":
                    reason = f"{stage}:{status}"
        if reason:
            dropped.append(_ledger_row(row.dataset, row.event, "event", reason))
        else:
            keys[row.dataset, row.event] = (
                "|".join(stores_of[row.dataset, s].keys()[row.event] for s in needed)
                + f"|{name}|{row.person}"
            )
        keep.append(not reason)
    samples = events.assign(label=label)[keep]
    return samples.reset_index(drop=True), _ledger(dropped), keys


def _video_samples(
    workspace: Workspace, recipe: Recipe
) -> tuple[pd.DataFrame, pd.DataFrame, dict[Sample, str]]:
    """Videos with motion features, with and without micro-expressions."""
    videos = read_tables(workspace, recipe.data, "videos")
    events = read_tables(workspace, recipe.data, "events")
    truth = {
        key: stable_hash(
            group[["event", "onset", "apex", "offset", "type", recipe.labels]]
            .astype("string")
            .fillna("")
            .to_dict("records")
        )
        for key, group in events.groupby(["dataset", "video"])
    }
    stores_of = {d: StageStore(workspace, d, "motion") for d in recipe.data}
    keep, dropped, keys = [], [], {}
    for row in videos.itertuples(index=False):
        status = stores_of[row.dataset].status(row.video)
        if status != "ok":
            dropped.append(_ledger_row(row.dataset, row.video, "video", f"motion:{status}"))
        else:
            key = stores_of[row.dataset].keys()[row.video]
            keys[row.dataset, row.video] = f"{key}|{truth.get((row.dataset, row.video), '')}"
        keep.append(status == "ok")
    samples = videos.assign(event=videos.video, label=pd.NA)[keep]
    return samples.reset_index(drop=True), _ledger(dropped), keys


def _ledger_row(dataset: str, unit: str, kind: str, reason: str) -> dict[str, str]:
    return {
        "stage": "train",
        "dataset": dataset,
        "unit": unit,
        "kind": kind,
        "reason": reason,
        "detail": "",
        "action": "dropped",
    }


def _ledger(rows: list[dict[str, str]]) -> pd.DataFrame:
    return conform(pd.DataFrame(rows, columns=list(LEDGER)), "ledger")


def _fold_jobs(plan: RunPlan, device: str) -> list[FoldJob]:
    table = plan.samples
    samples = list(zip(table.dataset, table.event, strict=True))
    sample_of = dict(zip(event_ids(table), samples, strict=True))
    video_of = dict(zip(samples, zip(table.dataset, table.video, strict=True), strict=True))
    jobs = []
    for number, (name, (train, test)) in enumerate(plan.split.folds.items()):
        safe = re.sub(r"[^A-Za-z0-9.-]+", "_", str(name)).strip("_")[:40]
        fold = f"fold-{number:02d}-{safe}"
        sides = [tuple(sample_of[i] for i in side if i in sample_of) for side in (train, test)]
        if not sides[0] or not sides[1]:
            raise SplitError(
                f"{plan.recipe.name}, {fold}",
                expected="samples on both sides",
                got=f"{len(sides[0])} to train on, {len(sides[1])} to test",
                todo="Use fewer folds or more subjects.",
            )
        videos = [tuple(sorted({video_of[s] for s in side})) for side in sides]
        job = FoldJob(
            workspace=plan.workspace.path,
            recipe=plan.recipe,
            fold=fold,
            datasets=plan.recipe.data,
            train_events=sides[0],
            test_events=sides[1],
            train_videos=videos[0],
            test_videos=videos[1],
            seed=plan.recipe.seed,
            out=plan.folder / f".partial-{fold}",
            device=device,
        )
        jobs.append(job)
    return jobs


def _outside_split(plan: RunPlan) -> pd.DataFrame:
    """Ledger rows for events a published split names in vain, and for samples no fold tests."""
    ids = event_ids(plan.samples)
    testable = ids[plan.samples.type != "macro"] if "type" in plan.samples else ids
    named = {i for sides in plan.split.folds.values() for side in sides for i in side}
    tested = {i for _, test in plan.split.folds.values() for i in test}
    missing, untested = sorted(named - set(ids)), sorted(set(testable) - tested)
    dataset = "+".join(plan.recipe.data)
    rows = [_ledger_row(dataset, i, "event", "split_names_no_sample") for i in missing]
    rows += [_ledger_row(dataset, i, "event", "not_tested_by_split") for i in untested]
    return _ledger(rows)


def forced(plan: RunPlan) -> RunPlan:
    """The same experiment in a new folder, numbered -2, -3 …; nothing is overwritten."""
    number = 2
    while (folder := plan.workspace.run(plan.recipe.name, f"{plan.run_id}-{number}")).exists():
        number += 1
    return moved_to(plan, folder)


def moved_to(plan: RunPlan, folder: Path) -> RunPlan:
    """The plan with its results in another folder."""
    jobs = [replace(j, out=folder / f".partial-{j.fold}") for j in plan.jobs]
    return replace(plan, folder=folder, run_id=folder.name, jobs=jobs, done=done_folds(folder))


def start_run(plan: RunPlan, token: str) -> None:
    """Make the run folder and write what identifies it, where that is not there already.

    Call while holding the workspace lock.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    for old in plan.folder.glob(".old-*"):  # a kill between two renames of publish_fold
        home = plan.folder / old.name.removeprefix(".old-")
        shutil.rmtree(old) if home.exists() else old.rename(home)
    plan.done = done_folds(plan.folder)
    recipe = json.dumps(plan.recipe.model_dump(mode="json"), indent=1, sort_keys=True)
    split = json.dumps(
        {
            "digest": plan.split.digest,
            "people_shared": sorted({p for s in plan.split.people_shared.values() for p in s}),
            "folds": {
                job.fold: {"train": list(train), "test": list(test)}
                for job, (train, test) in zip(plan.jobs, plan.split.folds.values(), strict=True)
            },
        },
        indent=1,
    )
    for name, text in (("recipe.json", recipe), ("split.json", split)):
        path = plan.folder / name
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        with stores.replacing(path, token) as temporary:
            temporary.write_text(text)
    if plan.todo or not stores.is_sound_table(plan.folder / "ledger.parquet"):
        stores.write_table(plan.ledger, plan.folder / "ledger.parquet", token)


def fit_fold(job: FoldJob) -> str:
    """Train and predict one fold into `job.out`; returns the fold's name. Runs in a worker."""
    job.out.mkdir(parents=True, exist_ok=True)
    _family(job.recipe).fit_fold(job)
    missing = [name for name in FOLD_FILES if not (job.out / name).exists()]
    if missing:
        raise StoreError(job.fold, expected=f"files {FOLD_FILES}", got=f"without {missing}")
    return job.fold


def _family(recipe: Recipe) -> ModuleType:
    """The module that trains and scores the recipe's network family."""
    return import_module(f"models.{recipe.family}.fold")


def publish_fold(plan: RunPlan, job: FoldJob, seconds: float, token: str) -> None:
    """Give a trained fold its name, then enter it in the run's manifest."""
    shutil.rmtree(job.out / "resume", ignore_errors=True)
    final, old = plan.folder / job.fold, plan.folder / f".old-{job.fold}"
    for path in sorted(job.out.iterdir()):
        if path.is_file():
            stores.publish(path, path)
    (plan.folder / "report.html").unlink(missing_ok=True)  # its scores are of other weights
    if final.exists():
        final.rename(old)
    job.out.rename(final)
    stores.sync_folder(plan.folder)
    shutil.rmtree(old, ignore_errors=True)
    rows = run_manifest(plan.folder)
    rows = rows[rows.unit != job.fold]
    new = [
        {
            "unit": job.fold,
            "key": stable_hash(plan.run_id, job.fold),
            "part": f"{job.fold}/{path.name}",
            "bytes": path.stat().st_size,
            "digest": file_digest(path),
        }
        for path in sorted(final.iterdir())
        if path.is_file() and path.name != "timings.parquet"  # seconds have no identity
    ]
    table = pd.concat([rows, pd.DataFrame(new)], ignore_index=True).astype(RUN_MANIFEST)
    times = [t for t in run_times(plan.folder) if t["unit"] != job.fold]
    times.append({"unit": job.fold, "seconds": seconds})
    stores.write_table(pd.DataFrame(times), plan.folder / "timings.parquet", token)
    stores.write_table(table.sort_values(["unit", "part"]), plan.folder / "manifest.parquet", token)
    plan.done.add(job.fold)


def evaluate_run(plan: RunPlan, token: str) -> pd.DataFrame:
    """Pool the folds' predictions, score them, write metrics and report; returns the metrics."""
    run = RunFiles(plan.folder)
    from models.report.write import write_report

    stores.write_table(run.predictions(), plan.folder / "predictions.parquet", token)
    metrics = _family(plan.recipe).score(run)
    stores.write_table(metrics, plan.folder / "metrics.parquet", token)
    with stores.replacing(plan.folder / "report.html", token) as temporary:
        write_report(run, temporary)
    return metrics
