"""Stage flow_pictures: pictures of flow that a dataset ships instead of frames, for training.

A unit is an event; its video is one single image whose red, green and blue are u, v and strain of
onset→apex, as STSTNet and HTNet publish them (data.flow_pictures.importing). Its group holds

    picture (S,S,3) uint8   u, v, strain, each stretched to 0 … 255 by whoever made it: a value
                            tells no pixels, and no motion has no fixed value

Nothing is aligned or registered. Datasets with frames have the stage `flow` instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.errors import InputError
from data.flow_pictures.settings import FlowPicturesConfig
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "flow_pictures", 2


def list_units(inputs: StageInputs, config: FlowPicturesConfig) -> Iterator[Unit]:
    """One unit per event."""
    for event in inputs.recordings.events.values():
        yield Unit(event.id, event.video, frames=True)


def process(unit: Unit, inputs: UnitInputs, config: FlowPicturesConfig, part: PartWriter) -> None:
    """Store the event's picture.

    Raises InputError `not_a_flow_picture` for a recording, `unreadable_frame`.
    """
    frames = inputs.frames()
    if len(frames) != 1:
        raise InputError(
            unit.id,
            expected="a video of one image, a flow picture",
            got=f"{len(frames)} frames",
            todo="A dataset with frames has the stage flow: use a recipe without pictures.",
            code="not_a_flow_picture",
        )
    picture = frames.read(0, colour=True)
    if picture.shape[:2] != (config.size, config.size):
        shrinks = min(picture.shape[:2]) >= config.size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, (config.size, config.size), interpolation=how))
    group = part.group(unit.id)
    group.create_dataset("picture", data=picture.astype(np.uint8), track_times=False)
    part.done(unit.id, size=config.size)


def pictures(shown: Shown) -> Iterator[Drawn]:
    """A few events: u, v and strain side by side, where the dataset's pictures may be shown."""
    from data.pictures.drawing import evenly, side_by_side, thumbnail
    from data.pictures.stages import Drawn

    store, free, events = shown.store(NAME), shown.faces(), shown.recordings.events
    units = sorted(unit for unit in store.units() if events[unit].video in free)
    for event in evenly(units, 6):
        with store.open(event) as group:
            planes = np.moveaxis(group["picture"][:], 2, 0)
        yield Drawn(side_by_side([thumbnail(plane) for plane in planes]), f"{event}: u, v, strain")


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest",),
    suffix=".h5",
    unit_kind="event",
    list_units=list_units,
    process=process,
    title="Flow pictures: u, v and strain as they came",
    pictures=pictures,
)
