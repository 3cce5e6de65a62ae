"""Publishing what training makes into a run's folder: its setup, its folds, folds taken over.

One protocol with the stores (`data.stages.writing`): files get their names and rows in the run's
manifest together, and a fold's folder says of itself what it holds.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.folds import Split, event_ids
from data.held_out import Fold
from data.stages.contract import Scope
from data.stages.files import save_parquet, temporary_name
from data.stages.identity import file_digest, stable_hash
from data.stages.parts import versions_json
from data.stages.planning import why_not_fresh
from data.stages.stores import UNIT_RECORD
from data.stages.writing import StoreWriter, file_row
from models.family import family_of
from models.recipe import Recipe
from models.runs.files import QUICK_BYTES, SETUP, FoldJob, run_manifest
from models.runs.packs import PackResult, attempts, link, news_of
from models.runs.samples import Samples, fold_name
from models.runs.split_file import split_text

TIMES = "timings.parquet"  # of a fold: seconds per epoch
VERSION = 2  # bumped by hand when training results change


@dataclass
class RunPlan:
    """The experiment as it would run: samples, split, folder, folds with their keys."""

    recipe: Recipe
    samples: Samples
    split: Split
    run_id: str
    folder: Path
    jobs: dict[str, FoldJob]  # by unit: a fold, of one seed, or its inner training
    keys: dict[str, str]  # unit → key
    ledger: pd.DataFrame
    inner: dict[str, Fold] = field(default_factory=dict)  # fold → ids that train, that choose
    elsewhere: dict[str, Path] = field(default_factory=dict)  # unit → its trained twin's folder
    writer: StoreWriter | None = None
    beside: int = 0  # packs that a GPU may have at once; 0: trained on the CPU


def write_setup(run: RunPlan, scope: Scope) -> None:
    """recipe.json, split.json, inputs.parquet and the ledger, where they are not there as now."""
    assert run.writer is not None
    texts = {
        "recipe.json": json.dumps(run.recipe.model_dump(mode="json"), indent=1, sort_keys=True),
        "split.json": split_text(
            run.split,
            [fold_name(n, str(name)) for n, name in enumerate(run.split.folds)],
            {fold: chooses for fold, (_, chooses) in run.inner.items()},
            frozenset(event_ids(run.samples.table)),
        ),
    }
    key = stable_hash(texts, run.samples.inputs.astype(str).to_numpy().tolist())
    bad, _ = why_not_fresh(
        run.folder, run_manifest(run.folder), {SETUP: key}, VERSION, always_read=QUICK_BYTES
    )
    if not bad and not run.writer.trouble:
        return
    made = {}
    for name, text in texts.items():
        made[name] = temporary_name(run.folder / name, scope.token)
        made[name].write_text(text)
    made["inputs.parquet"] = temporary_name(run.folder / "inputs.parquet", scope.token)
    save_parquet(run.samples.inputs, made["inputs.parquet"])
    rows = [file_row(SETUP, key, name, path, VERSION) for name, path in made.items()]
    run.writer.ledger = []
    run.writer.enter(
        rows,
        files=[(path, run.folder / name) for name, path in made.items()],
        ledger=[{**row, "key": key} for row in run.ledger.to_dict("records")],
        timings=[_timing(name, 0.0, platform.node(), versions_json()) for name in made],
    )


def take_over(run: RunPlan, fold: str, twin: Path) -> bool:
    """Publish another run's fold as this run's: weights linked, predictions decoded again.

    False, and nothing is done, where a file of it is not as that run recorded it: large weights,
    which were only compared by size and time until now.
    """
    rows = run_manifest(twin.parent)
    own = rows.part.str.startswith(f"{twin.name}/")
    recorded = dict(zip(rows.part[own].str.rpartition("/")[2], rows.digest[own], strict=True))
    files = sorted(p for p in twin.iterdir() if p.is_file() and p.name != UNIT_RECORD)
    large = [p for p in files if p.stat().st_size > QUICK_BYTES and p.name != TIMES]
    if any(file_digest(path) != recorded.get(path.name) for path in large):
        return False
    out = run.jobs[fold].out
    for folder in attempts(out):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    for path in files:
        link(path, out / path.name)  # linked files are replaced, never written into
    family_of(run.recipe).decode_fold(run.recipe, out)
    publish_fold(run, fold, out, None)
    return True


def publish_fold(run: RunPlan, fold: str, out: Path, result: PackResult | None) -> None:
    """Give a fold's files, made in `out`, their names, and enter them in the run's manifest.

    `result`: None where the fold was trained elsewhere.
    """
    assert run.writer is not None
    shutil.rmtree(out / "resume", ignore_errors=True)
    files = [p for p in sorted(out.iterdir()) if p.is_file() and p.name != UNIT_RECORD]
    rows = [
        file_row(fold, run.keys[fold], f"{fold}/{path.name}", path, VERSION)
        for path in files
        if path.name != TIMES  # seconds have no identity
    ]
    seconds, peak = (result.seconds, result.peak_mb) if result else (0.0, float("nan"))
    host, versions = (
        (result.host, result.versions) if result else (platform.node(), versions_json())
    )
    (out / UNIT_RECORD).write_text(json.dumps({"units": rows}, indent=1))
    files.append(out / UNIT_RECORD)
    record = out / UNIT_RECORD
    rows.append(file_row(fold, run.keys[fold], f"{fold}/{UNIT_RECORD}", record, VERSION))
    run.writer.enter(
        rows,
        files=[(path, run.folder / fold / path.name) for path in files],
        timings=[
            {**_timing(row["part"], seconds, host, versions), "peak_mb": peak} for row in rows
        ],
    )
    for folder in attempts(run.jobs[fold].out):
        shutil.rmtree(folder, ignore_errors=True)
    news_of(run.jobs[fold].out).unlink(missing_ok=True)


def _timing(part: str, seconds: float, host: str, versions: str) -> dict[str, Any]:
    return {"part": part, "seconds": seconds, "units": 1, "host": host, "versions": versions}
