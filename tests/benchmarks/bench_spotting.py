"""ME-TST and ME-TST+ on synthetic long videos, against thresholding, chance and the ceiling.

    python -m tests.benchmarks.bench_spotting [--preset default] [--seed 1] [--networks me_tst,…]
                                              [--set train.epochs=30 …] [--folds N]
                                              [--workspace DIR] [--json PATH]

A synthetic SAMM Long Videos is written, ingested and measured by the real stages; each network is
trained leaving one subject out and scored by the recipe's protocol; baselines are scored on the
same videos by the same protocol. The networks are at a REDUCED width (32 channels, 4 blocks a
trunk, 16 states) and see ME-TST+'s 18 regions (36 channels) unless --set says otherwise; ME-TST's
own five are --set motion.roi_set=coarse10 --set model.in_channels=10. With --workspace the data are
kept and used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd
import torch
import yaml

from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.workspace import Workspace
from data.synthetic import write_dataset
from models.me_tst.fold import score
from models.recipe import Recipe, parse_recipe
from models.runs.files import RunFiles
from models.runs.training import STEP as TRAINING
from tests.fakes import steps

LAYOUT, TOKEN = "samm_lv", "bench"
REDUCED: dict[str, dict[str, Any]] = {
    "me_tst": {"name": "me_tst", "in_channels": 36, "dim": 32, "blocks": 4, "d_state": 16},
    "me_tst_plus": {"name": "me_tst_plus", "dim": 32, "blocks": 1, "d_state": 16},
}
TRAIN = {"max_lr": 0.003, "batch_size": 32, "negative_ratio": 2.0}
EPOCHS = {"me_tst": 40, "me_tst_plus": 15}
SHOWN = ("spotting_f1", "spotting_precision", "spotting_recall", "f1_of_means", "strs")
BASELINES = ("thresholded motion", "random intervals", "perfect intervals")


def recipe_of(network: str, changes: list[str]) -> Recipe:
    """The benchmark's recipe with `key.key=value` changes."""
    values: dict[str, Any] = {
        "name": f"bench_{network}",
        "about": "Benchmark on synthetic videos, reduced width.",
        "data": [LAYOUT],
        "labels": "label_4",
        "motion": {"k": 30, "frame_skip": 7, "roi_set": "multi36"},
        "model": REDUCED[network],
        "train": {**TRAIN, "epochs": EPOCHS[network]},
        "decode": {"strategy": 2},
    }
    for change in changes:
        key, _, text = change.partition("=")
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(text)
    return parse_recipe(values)


def prepare(folder: Path, recipe: Recipe, o: argparse.Namespace) -> Workspace:
    """Write the videos, ingest them and measure their motion; what is there is used again."""
    root = folder / f"raw-{o.preset}-{o.seed}"
    if not root.exists():
        write_dataset(LAYOUT, root, preset=o.preset, seed=o.seed, workers=o.workers)
    motion = recipe.motion
    named = f"ws-{o.preset}-{o.seed}-{motion.roi_set}"
    workspace = Workspace(folder / (named if motion.flow == "farneback" else f"{named}-tvl1"))
    configs = {"motion": motion}
    steps.ingest(workspace, LAYOUT, root)
    run_stage(StageInputs(workspace.path, LAYOUT, root, configs), "motion", TOKEN)
    return workspace


def run(workspace: Workspace, recipe: Recipe, folds: int | None) -> tuple[pd.DataFrame, float, str]:
    """Train the folds still missing; the metrics table, CPU seconds and the run's folder."""
    start = time.process_time()
    with workspace.lock(what="bench") as token:
        where = steps.scope(workspace, None, Path(), recipe, token=token)
        plan = steps.do(TRAINING, where, most=folds).work
        seconds = time.process_time() - start
        table = score(RunFiles(plan.folder))
    return table, seconds, str(plan.folder)


def rows_of(network: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The network's row, its scores under the other strategy, its baselines."""
    by = {(r["name"], r["scope"]): r for r in table.to_dict("records")}
    scopes = {network: "pooled", "  with MEs only": "videos:with micro-expressions"}
    scopes |= {f"  {s}": f"variant:{s}" for s in ("strategy 1", "authors' protocol, strategy 2")}
    scopes |= {f"  {b}": f"baseline:{b}" for b in BASELINES}
    rows = []
    for title, scope in scopes.items():
        row: dict[str, Any] = {"what": title}
        for name in SHOWN:
            found = by[name, scope]
            row[name] = round(found["value"], 3)
            if scope == "pooled" and name in ("spotting_f1", "strs"):
                row[f"{name}_95"] = f"{found['low']:.2f}-{found['high']:.2f}"
        row["note"] = by["spotting_f1", scope]["note"]
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--networks", default="me_tst", help="me_tst,me_tst_plus")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folds", type=int, help="train at most so many folds now")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--json", type=Path)
    o = parser.parse_args(argv)
    torch.set_num_threads(o.threads)
    report = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = o.workspace or Path(scratch)
        for network in o.networks.split(","):
            recipe = recipe_of(network, o.set)
            workspace = prepare(folder, recipe, o)
            table, seconds, where = run(workspace, recipe, o.folds)
            rows = rows_of(network, table)
            print(f"\n{LAYOUT} {o.preset}, seed {o.seed}; {seconds:.0f} CPU s of training; {where}")
            print(pd.DataFrame(rows).fillna("").to_string(index=False))
            wrong = table[table.scope.str.startswith("errors:")]
            for item in wrong.itertuples():
                print(f"  {item.scope}: {item.count} ({item.value:.0%}) {item.note}")
            errors = dict(zip(wrong.scope, wrong["count"].astype(int), strict=True))
            report.append(
                {"network": network, "train_cpu_s": seconds, "rows": rows, "errors": errors}
            )
    if o.json:
        o.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
