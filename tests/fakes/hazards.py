"""A stage whose units do what real ones did: wait for a pipe, get stopped, die, eat memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.settings import Settings
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import ChunkJob, ChunkResult, PartWriter, compute_chunk
from data.stages.registry import STAGES


class HazardConfig(Settings):
    """Where the stage leaves marks, and finds its pipe."""

    folder: str = ""


def list_units(inputs: StageInputs, config: HazardConfig) -> Iterator[Unit]:
    """One unit per video."""
    for video in inputs.recordings.videos.values():
        yield Unit(video.id, video.id)


def process(unit: Unit, inputs: UnitInputs, config: HazardConfig, part: PartWriter) -> None:
    """What the video's name says, then three numbers."""
    folder, what = Path(config.folder), unit.id.split("/")[-1]
    first = not list(folder.glob(f"{what}-*"))
    (folder / f"{what}-{os.getpid()}-{time.monotonic_ns()}").touch()
    part.group(unit.id)["x"] = np.arange(3)
    if what == "pipe":
        (folder / "pipe").open("rb").read()  # nobody ever writes into it
    if what == "stops" or (what == "stops_once" and first):
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("waits"):  # until somebody makes a file go
        while not (folder / "go").exists():
            time.sleep(0.05)
    if what == "kills_workers":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if what == "eats":
        kept = np.ones(60_000_000)  # 480 MB
        while kept[0]:  # busy until somebody ends it
            time.sleep(0.01)
    part.done(unit.id)


def compute(job: ChunkJob) -> ChunkResult:
    """`compute_chunk` in a process that does not know this stage yet."""
    STAGES.setdefault("hazards", "tests.fakes.hazards")
    return compute_chunk(job)


SETTINGS = HazardConfig
STAGE = Stage(
    "hazards", 1, ("ingest",), ".h5", "video", list_units=list_units, process=process
)  # fmt: skip
