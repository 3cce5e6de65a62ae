"""The report's pictures: what align, apex, flow and motion made, how training went.

Units are chosen among those the run tested (data/pictures/stages.py draws them). A store that is
not there any more says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import ApexflowError, StoreError
from data.pictures.drawing import FACES_HIDDEN, png_uri, svg_uri
from data.pictures.stages import Drawn, Shown, stage_pictures
from data.stages import stores
from models.report.figures import training_figure
from models.report.scores import test_samples

if TYPE_CHECKING:
    from models.runs.files import RunFiles

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


TITLES = {
    "ingest": "Ingest",
    "align": "Align: faces found and followed",
    "registration": "Registration: every event on its own onset",
    "apex": "Apex: where the motion is largest",
    "flow": "Flow: how the face moved, and its strain",
    "motion": "Motion: what the spotting network sees",
}


def stage_groups(run: RunFiles) -> list[Group]:
    """Pictures of the recipe's stages, in their order, of events this run tests."""
    from models.runs.files import read_tables

    recipe = run.recipe
    tested = test_samples(run)
    groups = []
    for stage in recipe.stages:
        group = Group(TITLES.get(stage, stage.capitalize()))
        for dataset in recipe.data:
            events = read_tables(run.workspace, (dataset,), "events")
            column = recipe.entry.samples.removesuffix("s")
            used = events.event[(dataset + ":" + events[column]).isin(tested)]
            shown = Shown(run.workspace, dataset, recipe.with_faces, frozenset(used), PER_DATASET)
            try:
                group.pictures += [_picture(drawn) for drawn in stage_pictures(shown, stage)]
            except (ApexflowError, LookupError, ValueError, OSError) as error:
                # Scores are worth more than pictures: the report goes on and says so.
                group.note += f"{dataset}: a picture could not be drawn ({error}). "
            if stage == "align" and not shown.faces():
                group.note += f"{dataset}: {FACES_HIDDEN} "
        groups.append(group)
    return groups


def _picture(drawn: Drawn) -> Picture:
    if isinstance(drawn.picture, np.ndarray):
        return Picture(png_uri(drawn.picture), drawn.caption)
    return Picture(svg_uri(drawn.picture), drawn.caption)


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
    from models.report.attention import NOTE, attention_strips

    found = [Picture(png_uri(image), text) for image, text in attention_strips(run)]
    return Group("Attention", NOTE, found) if found else None


def spotting(run: RunFiles) -> dict[str, Any] | None:
    """Timelines of test videos with their key; None for models that do not spot."""
    if run.recipe.family != "me_tst":
        return None
    from models.report import spotting as report_spotting

    missing = "Timelines: not computed."
    try:
        shown, total = report_spotting.timelines(run)
    except StoreError as error:
        shown, total, missing = [], 0, f"Timelines could not be drawn: {error}"
    note = report_spotting.note(run)
    if len(shown) < total:
        note += (
            f" {len(shown)} of {total} videos are shown; all curves are in the folds' curves.h5."
        )
    return {
        "note": note,
        "key": report_spotting.colour_key(),
        "pictures": [Picture(svg_uri(one.figure), one.caption) for one in shown],
        "missing": missing,
    }
