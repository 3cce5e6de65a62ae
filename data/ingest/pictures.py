"""Ingest in a picture: events per subject by class, and how long events last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data.pictures.drawing import CLASS_COLOURS, class_colour, figure, legend, title
from data.pictures.stages import LABELS, Drawn, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ingest_pictures(shown: Shown) -> Iterator[Drawn]:
    """Events per subject, and how long they last."""
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
