"""A few pictures of what a stage made, for the UI page and the report alike.

A stage's own room draws (its pictures.py); here units are chosen, evenly spread, and read from the
stores. A stage that is not in the map at the end may have a `pictures(shown)` in its module. Faces
appear only where `data.pictures.drawing.faces_shown` allows it; without them the same units show
landmarks, flow and curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.pictures.drawing import (
    BLUE,
    CLASS_COLOURS,
    MUTED,
    class_colour,
    evenly,
    faces_shown,
    figure,
    legend,
    side_by_side,
    thumbnail,
    title,
)
from data.stages.engine import StageInputs
from data.stages.stores import StageStore, read_table
from data.stages.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = ("label_3", "label_4", "label_5", "label_7", "emotion")  # the first that is there counts
STRIP_FRAMES, STRIP_SIDE = 7, 120  # frames of a filmstrip, px of each
MOST_PAIRS = 3  # flow fields of one event


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

    def table(self, name: str) -> pd.DataFrame:
        """One of ingest's tables."""
        return read_table(self.workspace.stage(self.dataset, "ingest") / f"{name}.parquet")

    def store(self, stage: str) -> StageStore:
        """One of the dataset's stores."""
        return StageStore(self.workspace, self.dataset, stage)

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


def stage_pictures(shown: Shown, stage: str) -> Iterator[Drawn]:
    """Pictures of one stage; none for a store that is not there or has nothing to show."""
    folder = shown.workspace.stage(shown.dataset, stage)
    if not (folder / "manifest.parquet").exists():
        return
    draw = _DRAWERS.get(stage) or getattr(import_module(f"data.{stage}.stage"), "pictures", None)
    if draw is not None:
        yield from draw(shown)


def _ingest(shown: Shown) -> Iterator[Drawn]:
    videos, events = shown.table("videos"), shown.table("events")
    if len(events):
        yield Drawn(events_figure(events, videos), "Events per subject, and how long they last")


def events_figure(events: pd.DataFrame, videos: pd.DataFrame) -> Figure:
    """Events per subject by class (by type where they have none), and how long events last."""
    fig, (people, lengths) = figure(860, 230, cols=2, gridspec_kw={"width_ratios": [2, 1]})
    column = next((c for c in LABELS if events[c].notna().any()), "type")
    classes = events[column].astype("string").fillna(events.type.replace("micro", "unlabelled"))
    counts = pd.crosstab(events.subject.astype(str), classes)
    known = [name for name in CLASS_COLOURS if name in counts]
    counts = counts[[*known, *(name for name in counts if name not in known)]]
    bottom = np.zeros(len(counts))
    for number, name in enumerate(counts.columns):
        colour = class_colour(str(name), number)
        people.bar(
            range(len(counts)), counts[name], 0.7, bottom=bottom, color=colour, label=str(name)
        )
        bottom += counts[name].to_numpy()
    named = len(counts) <= 40
    people.set_xticks(range(len(counts)) if named else [], counts.index if named else [])
    people.tick_params(axis="x", labelrotation=90 if len(counts) > 8 else 0)
    people.set_xlim(-0.6, max(len(counts), 8) - 0.4)  # few subjects make no fat bars
    people.set_ylim(0, bottom.max() * 1.3)
    title(people, f"events of each of {len(counts)} subjects")
    if len(counts.columns) <= 7:
        legend(people, loc="upper right", ncols=len(counts.columns))
    rate = events.video.map(videos.set_index("video").fps).astype(float)
    timed = events.onset.notna() & events.offset.notna()
    seconds = (events.offset - events.onset + 1)[timed].astype(float) / rate[timed]
    lengths.hist(seconds, bins=20, color=class_colour("negative"))
    title(lengths, "how long they last, seconds")
    for axis in (people, lengths):
        axis.locator_params(axis="y", integer=True, nbins=5)
    return fig


def _align(shown: Shown) -> Iterator[Drawn]:
    from data.align.pictures import points_figure, residual_figure

    store, faces, facts = shown.store("align"), shown.faces(), []
    videos = shown.chosen_videos(store)
    for video in videos:
        with store.open(video) as group:
            facts.append((video, group["residual_px"][:], group["status"][:]))
    if facts:
        yield Drawn(residual_figure(facts), f"{shown.dataset}: what is left after alignment")
    for number, video in enumerate(videos):
        with store.open(video) as group:
            hidden = video not in faces
            if "points" in group and (hidden or number == 0):
                yield Drawn(points_figure(group), f"{shown.dataset} · {video}: tracked points")
            elif hidden:
                yield Drawn(landmark_figure(group), f"{shown.dataset} · {video}: landmarks")
            if not hidden:
                yield from _strip(shown, video, group)
    store.close()


def _strip(shown: Shown, video: str, group: h5py.Group) -> Iterator[Drawn]:
    """A filmstrip over the video's first event: before and after where the raw frames are known."""
    events = shown.table("events")
    own = events[(events.video == video) & events.onset.notna() & events.offset.notna()]
    if own.empty:
        return
    event = next(own.itertuples(index=False))
    first, last = int(event.onset), int(event.offset)
    if shown.root is not None:
        from data.align.pictures import filmstrip

        inputs = StageInputs(shown.workspace.path, shown.dataset, shown.root, {})
        fig = filmstrip(group, inputs.frame_source(video), (first, last), STRIP_FRAMES)
        yield Drawn(fig, _event_caption(shown, event))
    elif "crops" in group:
        frames = evenly(range(first, last + 1), STRIP_FRAMES)
        fig = strip_figure([group["crops"][i] for i in frames], frames)
        yield Drawn(fig, _event_caption(shown, event))


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


def landmark_figure(group: h5py.Group) -> Figure:
    """The 68 landmarks in the crop: where the face lies, without the face."""
    fig, (axis,) = figure(STRIP_SIDE + 20, STRIP_SIDE + 20)
    points, size = group["landmarks_crop"][:], float(group.attrs["size"])
    axis.scatter(points[:, 0], points[:, 1], s=4, color=BLUE)
    axis.set(xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    return fig


def _apex(shown: Shown) -> Iterator[Drawn]:
    from data.apex.pictures import apex_figure, error_figure

    store = shown.store("apex")
    table = store.table()
    if "curve" not in table:
        return
    events = shown.chosen_events(store)
    rows = table[table.event.isin(events.event) & table.curve.map(len).gt(0)]
    if len(rows):
        yield Drawn(
            apex_figure(rows, most=shown.most), "Motion from onset to offset, label and apex found"
        )
    if (table.error_frames.notna() & table.middle_error.notna()).any():
        yield Drawn(error_figure(table), "Error against the labelled apex, where there is one")


def _flow(shown: Shown) -> Iterator[Drawn]:
    from data.flow.pictures import flow_figure
    from data.flow.stage import read_flow

    store = shown.store("flow")
    for event in shown.chosen_events(store).itertuples(index=False):
        with store.open(str(event.event)) as group:
            kinds = [str(kind) for kind in group["kind"].asstr()[:]]
            # Main pairs first; of many sampled or consecutive ones a few, evenly spread.
            main = [i for i, kind in enumerate(kinds) if kind in ("onset_apex", "apex_offset")]
            rest = [i for i in range(len(kinds)) if i not in main]
            chosen = main + evenly(rest, max(0, MOST_PAIRS - len(main)))
            if not chosen:  # an event of one frame
                continue
            fields = np.stack([read_flow(group, i) for i in chosen])
            strains = np.stack([group["strain"][i] for i in chosen]).astype(np.float32)
        fig = flow_figure(fields, strains, [kinds[i] for i in chosen])
        yield Drawn(fig, _event_caption(shown, event))
    store.close()


def _event_caption(shown: Shown, event: Any) -> str:
    """'dataset · event · happiness, AU 6+12'."""
    emotion = "" if pd.isna(event.emotion) else str(event.emotion)
    units = "" if pd.isna(event.aus) else f"AU {event.aus}"
    told = ", ".join(filter(None, [emotion, units]))
    return " · ".join(filter(None, [shown.dataset, str(event.event), told]))


def _motion(shown: Shown) -> Iterator[Drawn]:
    from data.motion.pictures import motion_figure
    from data.motion.stage import position_in_view

    store, events = shown.store("motion"), shown.table("events")
    for video in shown.chosen_videos(store):
        own = events[(events.video == video) & events.onset.notna() & events.offset.notna()]
        with store.open(video) as group:
            view = group["view_index"][:]
            spans = [
                (
                    position_in_view(view, int(e.onset)),
                    position_in_view(view, int(e.offset)),
                    e.type,
                )
                for e in own.itertuples(index=False)
            ]
            fig = motion_figure(
                group["features"][:], group["status"][:], str(group.attrs["roi_set"]), spans=spans
            )
        text = "how far each region moved; micro- and macro-expressions as annotated above"
        yield Drawn(fig, f"{shown.dataset} · {video}: {text}")
    store.close()


_DRAWERS: dict[str, Callable[[Shown], Iterable[Drawn]]] = {
    "ingest": _ingest,
    "align": _align,
    "apex": _apex,
    "flow": _flow,
    "motion": _motion,
}
