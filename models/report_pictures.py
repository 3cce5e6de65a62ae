"""The report's pictures: what align, apex, flow and motion made, how training went.

A stage's own module draws (data/*_pictures.py); here a few units are chosen, spread over subjects,
and shown the same way for every dataset. A store or picture that is not there says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from data import stores
from data.errors import StoreError
from data.pictures import png_uri, svg_uri
from models.report_figures import training_figure

if TYPE_CHECKING:
    from models.experiment import RunFiles

PER_DATASET = 3  # events shown of each dataset and stage


@dataclass(frozen=True)
class Picture:
    """An image in the page. `width`: CSS px, None for the image's own."""

    uri: str
    caption: str
    width: int | None = None


@dataclass
class Group:
    """Pictures under one heading; `missing` is said when there are none."""

    title: str
    note: str = ""
    pictures: list[Picture] = field(default_factory=list)
    missing: str = "Not computed."


@dataclass(frozen=True)
class Shown:
    """One unit to draw: its store, ids and the words under its picture."""

    store: stores.StageStore
    event: Any  # row of the events table, or of the videos table for a video stage
    with_face: bool

    @property
    def caption(self) -> str:
        """Dataset, unit and what it is."""
        row = self.event
        text = f"{row.dataset} · {getattr(row, 'event', row.video)}"
        label = getattr(row, "label", None)
        return text if label is None or pd.isna(label) else f"{text} · {label}"


def stage_groups(run: RunFiles) -> list[Group]:
    """Pictures of the recipe's stages, in their order."""
    drawers: dict[str, Callable[[RunFiles], Group]] = {}
    return [drawers[s](run) for s in run.recipe.stages if s in drawers]


def training(run: RunFiles) -> dict[str, str] | None:
    """Curves of all folds; None when no fold recorded any."""
    histories = {}
    for fold in run.folds:
        try:
            histories[fold.name] = stores.read_table(fold / "history.parquet")
        except StoreError:
            continue
    fig = training_figure(histories) if histories else None
    if fig is None:
        return None
    note = "A thin line per fold, the thick one their median. The last epoch's weights are scored."
    return {"uri": svg_uri(fig), "note": note}


def attention(run: RunFiles) -> Group | None:
    """Attention of HSTA over a few clips; None for other models or where it cannot be computed."""
    if run.recipe.family != "hsta":
        return None
    from models.report_attention import NOTE, attention_strips

    found = [Picture(png_uri(image), text) for image, text in attention_strips(run)]
    return Group("Attention", NOTE, found) if found else None


def spotting(run: RunFiles) -> dict[str, Any] | None:
    """Timelines of test videos with their key; None for models that do not spot."""
    if run.recipe.family != "me_tst":
        return None
    from models import report_spotting

    shown, total = report_spotting.timelines(run)
    note = report_spotting.note(run)
    if len(shown) < total:
        note += (
            f" {len(shown)} of {total} videos are shown; all curves are in the folds' curves.h5."
        )
    return {
        "note": note,
        "key": report_spotting.colour_key(),
        "pictures": [Picture(svg_uri(one.figure), one.caption) for one in shown],
        "missing": "Timelines: not computed.",
    }
