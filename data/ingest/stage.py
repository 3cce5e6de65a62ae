"""Ingest as a step: one unit, the dataset, whose tables change together.

What the listing says decides the key, so that other frames, another sheet or other code are seen; a
dataset that has lost many of its videos is more often a share that is not mounted than a wish.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DatasetError, StoreError
from data.ingest.raw import RAW, blank_raw, raw_read_by_stages, read_raw
from data.ingest.tables import VERSION, IngestTables, ingest, with_raw
from data.recordings import note_root
from data.schema import TABLES, conform
from data.stages.contract import Page, RecipeLike, Scope, StepPlan
from data.stages.files import read_table, save_parquet, temporary_name
from data.stages.parts import versions_json
from data.stages.planning import why_not_fresh
from data.stages.stores import read_records
from data.stages.writing import StoreWriter, file_row

NAMES = ("videos", "frames", "events", "findings", "raw")  # the ledger is the store's own
QUICK_BYTES = 64 << 20  # tables up to this size are read and compared at every run
MOST_LOST = 0.1  # share of a dataset's videos that may be gone without being asked about


@dataclass(frozen=True)
class IngestJob:
    """The tables to publish; made in the process that found them."""

    dataset: str
    tables: IngestTables

    @property
    def label(self) -> str:
        """Name people see."""
        return f"ingest-{self.dataset}"

    @property
    def count(self) -> int:
        """Units it makes."""
        return 1


class IngestStep:
    """What owners ship becomes the tables videos, frames, events, findings and a ledger."""

    name, per_dataset, in_parent, title = "ingest", True, True, "Ingest"
    shows_faces = False

    def needs(self, recipe: RecipeLike) -> tuple[str, ...]:
        """Nothing: it reads the dataset."""
        return ()

    def plan(self, scope: Scope, *, force: bool = False, verify: bool = False) -> StepPlan:
        """List and read the dataset, compare with the store; writes nothing.

        Raises DatasetError when the root is no folder or holds no such dataset.
        """
        dataset, root = str(scope.dataset), scope.root
        if not root.is_dir():
            raise DatasetError(
                f"--data {dataset}={root}",
                expected="the folder the owner shipped",
                got="no folder there",
            )
        folder = scope.workspace.stage(dataset, self.name)
        plan = StepPlan(self.name, dataset, [dataset])
        tables = plan.work = _read(scope, plan, folder)
        records = read_records(folder)
        if force:
            plan.reasons = {dataset: "forced"}
        elif records.trouble:
            plan.reasons = {dataset: records.trouble}
        else:
            plan.reasons, _ = why_not_fresh(
                folder,
                records.manifest,
                {dataset: tables.key},
                VERSION,
                verify=verify,
                always_read=QUICK_BYTES,
            )
            if plan.reasons.get(dataset) == "inputs changed":
                plan.reasons[dataset] = "files or sheets changed"
            if not plan.reasons and not _as_stored(tables.raw, folder):
                plan.reasons[dataset] = "digests of the raw recordings are new"
        plan.detail = {"tables": {name: len(getattr(tables, name)) for name in NAMES[:3]}}
        plan.detail["tables"]["ledger"] = len(tables.ledger)
        if plan.reasons:
            _say_what_is_lost(plan, folder, tables)
        return plan

    def jobs(self, scope: Scope, plan: StepPlan) -> list[IngestJob]:
        """The tables, when they are not there already.

        Raises DatasetError `dataset_shrank` when many of the videos known so far are gone.
        """
        lost = sum(map(len, plan.gone.values()))
        known = plan.detail.get("videos_known", 0)
        if lost > MOST_LOST * known and not scope.allow_shrink:
            raise DatasetError(
                f"dataset {plan.dataset}",
                expected=f"the {known} videos known so far",
                got=f"{lost} of them gone ({'; '.join(list(plan.gone)[:5])})",
                todo="Is a share not mounted? Nothing was changed. If it is meant: --allow-shrink.",
                code="dataset_shrank",
            )
        folder = scope.workspace.stage(plan.dataset, self.name)
        folder.mkdir(parents=True, exist_ok=True)
        note_root(scope.workspace, plan.dataset, scope.root)
        return [IngestJob(plan.dataset, plan.work)] if plan.reasons else []

    def make(self, job: IngestJob) -> IngestJob:
        """Nothing is left to compute: reading the dataset was the plan."""
        return job

    def publish(self, scope: Scope, plan: StepPlan, result: IngestJob) -> dict[str, str]:
        """All tables change as one."""
        started = time.perf_counter()
        tables, dataset = result.tables, result.dataset
        folder = scope.workspace.stage(dataset, self.name)
        rows, files = [], []
        for name in NAMES:
            table = getattr(tables, name)
            final = folder / f"{name}.parquet"
            made = temporary_name(final, scope.token)
            save_parquet(conform(table, name) if name in TABLES else table, made)
            files.append((made, final))
            counts = {"rows": len(table)}
            rows.append(file_row(dataset, tables.key, final.name, made, VERSION, counts))
        about = {"host": platform.node(), "versions": versions_json(), "units": 1}
        spent = time.perf_counter() - started
        writer = StoreWriter(scope.workspace, folder, scope.token)
        writer.ledger = []
        writer.enter(
            rows,
            files=files,
            ledger=[{**row, "key": tables.key} for row in tables.ledger.to_dict("records")],
            timings=[{"part": f"{n}.parquet", "seconds": spent, **about} for n in NAMES],
        )
        return {dataset: "ok"}

    def finish(self, scope: Scope, plan: StepPlan) -> None:
        """Every publication is complete by itself."""

    def progress(self, scope: Scope, result: IngestJob) -> str:
        """'48 videos'."""
        return f"{len(result.tables.videos)} videos"

    def gpu(self, scope: Scope, plan: StepPlan) -> int:
        """None."""
        return 0

    def warm_up(self, scope: Scope) -> float:
        """Nothing to prepare."""
        return 0.0

    def pictures(self, shown: Any) -> Iterable[Any]:
        """Events per subject, and how long they last."""
        from data.ingest.pictures import ingest_pictures

        return ingest_pictures(shown)

    def pages(self, scope: Scope, plan: StepPlan) -> Iterator[Page]:
        """One page: counts, ledger, events per subject."""
        from data.pictures.pages import stage_page

        yield stage_page(
            scope.workspace,
            plan.dataset,
            self,
            with_faces=scope.recipe.with_faces,
            root=scope.root,
        )


def _read(scope: Scope, plan: StepPlan, folder: Path) -> IngestTables:
    """The dataset's tables; what was found by reading all of its bytes, now or earlier, is in."""
    tables = ingest(scope.root, plan.dataset)
    before = _stored_raw(folder)
    listed = set(zip(tables.videos.video, tables.videos.identity, strict=True))
    raw = before[
        np.array([p in listed for p in zip(before.video, before.listed, strict=True)], bool)
    ]
    if scope.verify_inputs:
        told = raw_read_by_stages(scope.workspace, plan.dataset)
        raw, changed = read_raw(scope.root, tables.videos, tables.frames, before, told)
        new = len(raw) - len(before)
        if changed:
            plan.notes.append(f"raw bytes changed: {', '.join(changed[:8])}")
        if new > 0:
            plan.notes.append(f"raw bytes of {new} videos recorded, to compare with next time")
    return with_raw(tables, raw.reset_index(drop=True))


def _stored_raw(folder: Path) -> Any:
    try:
        return read_table(folder / "raw.parquet", RAW)
    except StoreError:
        return blank_raw()


def _as_stored(raw: Any, folder: Path) -> bool:
    return bool(raw.equals(_stored_raw(folder)))


def _say_what_is_lost(plan: StepPlan, folder: Path, tables: IngestTables) -> None:
    """Videos that the store knows and the folder no longer shows, by subject."""
    try:
        before: Any = read_table(folder / "videos.parquet")
    except StoreError:
        return
    plan.detail["videos_known"] = len(before)
    lost = before[~before.video.isin(set(tables.videos.video))]
    for subject, rows in lost.groupby("subject"):
        words = f"subject {subject}: source not there, {len(rows)} videos"
        plan.gone[words] = sorted(rows.video)


STEP = IngestStep()
