"""Name spotted intervals with a trained HSTA run: its own preprocessing on one's own video.

The intervals become events of a dataset of one video in a scratch workspace; align, apex and (where
the run uses it) flow run on them with the run's settings, and the class probabilities of all folds
are averaged. Nothing of it stays on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import ConfigError
from data.schema import EVENTS, conform
from data.stages.files import write_table
from data.stages.identity import stable_hash
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.family import family_of
from models.runs.files import RunFiles

DATASET = "own"


def recognise(
    video: Path,
    frames: Sequence[Path] | int,
    intervals: Sequence[tuple[int, int]],
    run: RunFiles,
    *,
    fps: float,
    device: str = "cpu",
) -> list[dict[str, float] | None]:
    """Class probabilities by name for each (onset, offset) interval, frame indices, inclusive.

    `frames`: the image files of a folder in order, or the number of frames of a video file. None
    stands for an interval that a stage dropped (no face, no motion). Raises `ConfigError` for a run
    that is not HSTA's.
    """
    if not family_of(run.recipe).recognises:
        raise ConfigError(
            f"run {run.folder.name}",
            expected="a run of a network that names clips, such as HSTA",
            got=run.recipe.network_name,
        )
    if not intervals:
        return []
    with tempfile.TemporaryDirectory(prefix="apexflow-") as scratch:
        workspace = Workspace(Path(scratch))
        events = _write_tables(workspace, video, frames, intervals, fps)
        _run_stages(workspace, video, run)
        kept = _usable(workspace, events, run)
        found: list[dict[str, float] | None] = [None] * len(events)
        if kept:
            chosen = events.iloc[kept].reset_index(drop=True)
            for place, chances in zip(kept, _chances(workspace, chosen, run, device), strict=True):
                found[place] = chances
        return found


def _write_tables(
    workspace: Workspace,
    video: Path,
    frames: Sequence[Path] | int,
    intervals: Sequence[tuple[int, int]],
    fps: float,
) -> pd.DataFrame:
    """Ingest's tables of one video whose events are the intervals; returns the events."""
    name, files = video.stem, [] if isinstance(frames, int) else list(frames)
    who = {"dataset": DATASET, "subject": DATASET, "person": f"{DATASET}:{DATASET}", "video": name}
    count = frames if isinstance(frames, int) else len(files)
    row = {
        **who,
        "fps": fps,
        "num_frames": count,
        "kind": "long",
        "source": "frames" if files else "video_file",
        "folder": video.name,
        "identity": stable_hash(str(video), count),
        "provided_crop": False,
        "show_faces": True,
    }
    listed = [
        {"video": name, "index": i, "number": i + 1, "path": f"{video.name}/{path.name}"}
        for i, path in enumerate(files)
    ]
    events = [
        {
            **who,
            "event": f"{name}_{number}",
            "type": "micro",
            "onset": onset,
            "offset": offset,
            "onset_number": onset + 1,
            "offset_number": offset + 1,
        }
        for number, (onset, offset) in enumerate(intervals)
    ]
    tables = {
        "videos": conform(pd.DataFrame([row]), "videos"),
        "frames": conform(
            pd.DataFrame(listed, columns=["video", "index", "number", "path"]), "frames"
        ),
        "events": conform(pd.DataFrame(events, columns=list(EVENTS)), "events"),
    }
    for table, content in tables.items():
        write_table(content, workspace.stage(DATASET, "ingest") / f"{table}.parquet")
    return tables["events"]


def _run_stages(workspace: Workspace, video: Path, run: RunFiles) -> None:
    recipe = run.recipe
    configs: dict[str, Any] = {
        stage: recipe.stage_config(stage) for stage in recipe.stages if stage != "ingest"
    }
    inputs = StageInputs(workspace.path, DATASET, video.absolute().parent, configs)
    with workspace.lock(what="predict") as token:
        for stage in configs:
            run_stage(inputs, stage, token)


def _usable(workspace: Workspace, events: pd.DataFrame, run: RunFiles) -> list[int]:
    """Positions of the events that came through every stage the run needs."""
    stages = [s for s in run.recipe.stages if s in ("apex", "flow")]
    stores = [StageStore(workspace, DATASET, stage) for stage in stages]
    return [
        place
        for place, event in enumerate(events.event)
        if all(store.status(str(event)) == "ok" for store in stores)
    ]


def _chances(
    workspace: Workspace, events: pd.DataFrame, run: RunFiles, device: str
) -> list[dict[str, float]]:
    from models.hsta.clips import read_clips
    from models.hsta.fold import load_fold

    folds = [load_fold(folder) for folder in run.folds]
    first = folds[0]
    bank = read_clips(workspace, events, [0] * len(events), first.model.config, first.train.input)
    mean = np.mean([fold.predict(bank, device) for fold in folds], axis=0)
    return [dict(zip(first.classes, map(float, row), strict=True)) for row in mean]
