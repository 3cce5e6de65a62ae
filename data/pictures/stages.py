"""A few pictures of what a stage made, for the UI page and the report alike.

A stage's own room draws (`Stage.pictures`); here is what it draws from: units are chosen, evenly
spread, and read from the stores. Faces appear only where `data.pictures.drawing.faces_shown` allows
it; without them the same units show landmarks, flow and curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pandas as pd

from data.pictures.drawing import (
    MUTED,
    evenly,
    faces_shown,
    figure,
    side_by_side,
    thumbnail,
)
from data.recordings import Recordings
from data.stages.contract import Step
from data.stages.stores import StageStore
from data.stages.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = ("label_3", "label_4", "label_5", "label_7", "emotion")  # the first that is there counts
STRIP_FRAMES, STRIP_SIDE = 7, 120  # frames of a filmstrip, px of each


@dataclass(frozen=True)
class Drawn:
    """A picture (figure, or uint8 image) with its words."""

    picture: Figure | npt.NDArray[Any]
    caption: str


@dataclass(frozen=True)
class Shown:
    """One dataset's stores, and which of its units may be chosen (None: all).

    `root`: the dataset's folder where it is known; without it nothing is read but stores.
    """

    workspace: Workspace
    dataset: str
    with_faces: bool = False
    events: frozenset[str] | None = None
    most: int = 3
    root: Path | None = None
    keys: Callable[[str], Mapping[str, str] | None] = field(default=lambda stage: None)

    @property
    def recordings(self) -> Recordings:
        """The dataset as ingested."""
        return Recordings(self.workspace, self.dataset, self.root)

    def table(self, name: str) -> pd.DataFrame:
        """One of ingest's tables."""
        return self.recordings.table(name)

    def store(self, stage: str) -> StageStore:
        """One of the dataset's stores, showing the results that `keys` names (else the last)."""
        return StageStore(self.workspace, self.dataset, stage, self.keys(stage))

    def chosen_events(self, store: StageStore) -> pd.DataFrame:
        """Events that `store` has, at most `most`, evenly spread."""
        ok = set(store.units()) & (self.events if self.events is not None else set(store.units()))
        events = self.table("events")
        wanted = evenly(sorted(ok & set(events.event)), self.most)
        return events[events.event.isin(wanted)]

    def chosen_videos(self, store: StageStore) -> list[str]:
        """Videos that `store` has, at most `most`, evenly spread; those of chosen events first."""
        ok = set(store.units())
        if self.events is not None:
            table = self.table("events")
            ok = ok & set(table.video[table.event.isin(self.events)]) or ok
        return list(evenly(sorted(ok), self.most))

    def faces(self) -> set[str]:
        """Videos whose faces may be shown."""
        return faces_shown(self.table("videos"), self.with_faces)


def step_pictures(shown: Shown, step: Step) -> Iterator[Drawn]:
    """Pictures of one step's results; none for a store that is not there."""
    folder = shown.workspace.stage(shown.dataset, step.name)
    if (folder / "manifest.parquet").exists():
        yield from step.pictures(shown)


def strip_figure(crops: Sequence[npt.NDArray[Any]], frames: Sequence[int]) -> Figure:
    """Aligned crops side by side, each with its frame index."""
    strip = side_by_side([thumbnail(crop, STRIP_SIDE) for crop in crops], gap=4)
    height, width = strip.shape[:2]
    scale = STRIP_SIDE / height  # small crops are drawn larger
    fig, (axis,) = figure(round(width * scale), STRIP_SIDE + 18)
    axis.imshow(strip, cmap="gray", vmin=0, vmax=255)
    axis.set_axis_off()
    step = width / len(crops)
    for place, frame in enumerate(frames):
        axis.text((place + 0.5) * step, -3, f"frame {frame}", fontsize=8, color=MUTED, ha="center")
    return fig


def event_caption(shown: Shown, event: Any) -> str:
    """'dataset · event · happiness, AU 6+12'."""
    emotion = "" if pd.isna(event.emotion) else str(event.emotion)
    units = "" if pd.isna(event.aus) else f"AU {event.aus}"
    told = ", ".join(filter(None, [emotion, units]))
    return " · ".join(filter(None, [shown.dataset, str(event.event), told]))
