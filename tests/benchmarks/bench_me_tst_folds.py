"""How long leave-one-subject-out takes at the size of SAMM Long Videos, from one or two folds.

    python -m tests.benchmarks.bench_me_tst_folds [--recipes me_tst_cpu_samm_lv,…] [--folds 1]
                                                  [--threads 1] [--json PATH]

Made-up motion of SAMM-LV's size (147 videos of 29 subjects, 79 of them with the 159
micro-expressions, 560 frames each after every 7th is kept) goes through the real fold code:
reading, sampling, training, prediction, writing. Times do not depend on what the numbers say. The
total is the mean of the measured folds times 29; the motion stage and scoring are not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

import h5py
import numpy as np
import pandas as pd
import torch

from data.stages.files import read_table, write_table
from data.stages.workspace import Workspace
from models.recipe import Recipe, load_recipe
from models.runs.training import STEP as TRAIN
from tests.fakes import steps
from tests.fakes.fabricated_run import planned_keys, write_ingest, write_store

DATASET = "samm_lv"
SUBJECTS, VIDEOS, EVENTFUL, EVENTS = 29, 147, 79, 159
VIEW_FRAMES = 560  # 44,295 stitched frames of 79 videos
EVENT_FRAMES = 75  # of the video, 200 per second: half-width 5 on the view


def write_data(workspace: Workspace, recipe: Recipe) -> None:
    """Tables and motion of SAMM-LV's size; the motion is noise."""
    per_subject = -(-VIDEOS // SUBJECTS)
    skip, k = recipe.motion.frame_skip, recipe.motion.k
    frames = VIEW_FRAMES * skip
    made = write_ingest(
        workspace, DATASET, subjects=SUBJECTS, per_subject=per_subject, kind="long", frames=1
    )
    folder = workspace.stage(DATASET, "ingest")
    videos = read_table(folder / "videos.parquet")
    order = sorted(videos.video, key=lambda name: (name.split("/")[1], name))[:VIDEOS]
    videos = videos[videos.video.isin(order)].assign(num_frames=frames, fps=200.0)
    write_table(videos.reset_index(drop=True), folder / "videos.parquet")
    write_table(_events(made, order[:EVENTFUL], frames), folder / "events.parquet")
    windows = VIEW_FRAMES // (k // 2) - 1
    channels = recipe.model_dump()["model"]["in_channels"]
    rng = np.random.default_rng(0)

    def fill(_: str) -> Callable[[h5py.Group], None]:
        def write(group: h5py.Group) -> None:
            motion = rng.normal(0, 0.5, (windows, channels, k)).astype(np.float32)
            group.create_dataset("features", data=motion, compression="lzf", shuffle=True)
            group["status"] = np.zeros(windows, np.uint8)
            group["view_index"] = np.arange(0, frames, skip, dtype=np.int32)
            group.attrs.update(k=k, stride=k // 2, frame_skip=skip, roi_set=recipe.motion.roi_set)

        return write

    keys = planned_keys(workspace, DATASET, "motion", recipe)
    write_store(workspace, DATASET, "motion", {v: fill(v) for v in order}, keys=keys)


def _events(made: pd.DataFrame, videos: list[str], frames: int) -> pd.DataFrame:
    """EVENTS micro-expressions spread evenly over `videos`."""
    micro = made[(made.type == "micro") & made.video.isin(videos)]
    extra = EVENTS - len(micro)
    micro = pd.concat([micro, micro.iloc[:extra].assign(event=lambda t: t.event + "_x")])
    micro = micro.sort_values("event").reset_index(drop=True)
    place = micro.groupby("video").cumcount() + 1
    onset = place * (frames // 4)
    micro["onset"], micro["apex"] = onset, onset + EVENT_FRAMES // 2
    micro["offset"], micro["label_4"] = onset + EVENT_FRAMES, micro.label_3
    return micro.astype(made.dtypes.to_dict())


def measure(recipe: Recipe, folds: int) -> dict[str, Any]:
    """CPU and wall seconds of the first folds, and of all of them in proportion."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        write_data(workspace, recipe)
        where = steps.scope(workspace, None, Path(), recipe)
        plan = TRAIN.plan(where)
        every = TRAIN.jobs(where, plan)
        cpu, wall, windows = [], [], []
        with workspace.lock(what="bench"):
            for job in every[:folds]:
                start, began = time.process_time(), time.perf_counter()
                TRAIN.make(job)
                cpu.append(time.process_time() - start)
                wall.append(time.perf_counter() - began)
                for fold in job.folds:
                    facts = json.loads((fold.out / "model.json").read_text())
                    windows.append(facts["num_windows"])
    total = float(np.mean(cpu)) * len(every)
    return {
        "recipe": recipe.name,
        "folds": len(every),
        "measured": len(cpu),
        "windows": windows,
        "epochs": recipe.model_dump()["train"]["epochs"],
        "cpu_s_per_fold": round(float(np.mean(cpu)), 1),
        "wall_s_per_fold": round(float(np.mean(wall)), 1),
        "all_folds_cpu_min": round(total / 60, 1),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="me_tst_cpu_samm_lv,me_tst_plus_cpu_samm_lv")
    parser.add_argument("--folds", type=int, default=1, help="folds to measure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args(argv)
    torch.set_num_threads(o.threads)
    changes = dict(change.split("=", 1) for change in o.set)
    rows = [measure(load_recipe(name, changes), o.folds) for name in o.recipes.split(",")]
    print(pd.DataFrame(rows).to_string(index=False))
    if o.json:
        o.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
