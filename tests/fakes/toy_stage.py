"""A stage in one file, as a user would add it: how bright each aligned frame is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from data.align.store import open_crops
from data.pictures.drawing import figure
from data.pictures.stages import Drawn, Shown
from data.settings import Settings
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter


class BrightnessConfig(Settings):
    """Settings of the toy stage."""

    scale: float = Field(1.0, gt=0, title="Scale")


def list_units(inputs: StageInputs, config: BrightnessConfig) -> Iterator[Unit]:
    """One unit per video."""
    for video in inputs.recordings.videos.values():
        yield Unit(video.id, video.id, reads=(("align", video.id),), frames=True)


def process(unit: Unit, inputs: UnitInputs, config: BrightnessConfig, part: PartWriter) -> None:
    """Mean grey of every aligned frame."""
    with inputs.open("align", unit.video) as group:
        crops = open_crops(group, inputs.frames())
        means = np.array([float(np.mean(crops[i])) for i in range(len(crops))])
    part.group(unit.id)["brightness"] = means * config.scale
    part.done(unit.id, frames=len(means))


def pictures(shown: Shown) -> Iterator[Drawn]:
    """A curve of the first video."""
    store = shown.store("toy_brightness")
    for video in shown.chosen_videos(store)[:1]:
        fig, (axis,) = figure(300, 120)
        with store.open(video) as group:
            axis.plot(group["brightness"][:])
        yield Drawn(fig, f"{video}: brightness")


SETTINGS = BrightnessConfig
STAGE = Stage(
    name="toy_brightness",
    version=1,
    needs=("ingest", "align"),
    suffix=".h5",
    unit_kind="video",
    list_units=list_units,
    process=process,
    title="Brightness: a stage somebody added",
    pictures=pictures,
)
