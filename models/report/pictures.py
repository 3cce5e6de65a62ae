"""The report's pictures: what align, apex, flow and motion made, how training went.

Units are chosen among those the run tested (data/pictures/stages.py draws them). A store that is
not there any more says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import ApexflowError, StoreError
from data.pictures.drawing import FACES_HIDDEN, png_uri, svg_uri
from data.pictures.stages import Drawn, Shown, step_pictures
from data.stages import stores
from data.steps import find_preprocessing_step
from models.family import family_of
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
class PictureGroup:
    """Pictures under one heading; `missing` is said when there are none."""

    title: str
    note: str = ""
    pictures: list[Picture] = field(default_factory=list)
    missing: str = "Not computed."


def stage_groups(run: RunFiles) -> list[PictureGroup]:
    """Pictures of the recipe's stages, in their order, of events this run tests."""
    from models.runs.files import read_tables

    recipe = run.recipe
    tested = test_samples(run)
    groups = []
    for stage in recipe.stages:
        step = find_preprocessing_step(stage)
        group = PictureGroup(step.title)
        for dataset in recipe.data:
            events = read_tables(run.workspace, (dataset,), "events")
            column = recipe.network.samples.removesuffix("s")
            used = events.event[(dataset + ":" + events[column]).isin(tested)]
            shown = Shown(
                run.workspace,
                dataset,
                recipe.with_faces,
                frozenset(used),
                PER_DATASET,
                keys=partial(run.keys, dataset),
            )
            try:
                group.pictures += [_picture(drawn) for drawn in step_pictures(shown, step)]
            except (ApexflowError, LookupError, ValueError, OSError) as error:
                # Scores are worth more than pictures: the report goes on and says so.
                group.note += f"{dataset}: a picture could not be drawn ({error}). "
            if step.shows_faces and not shown.faces():
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


def family_sections(run: RunFiles) -> dict[str, Any]:
    """What only this family of networks shows, by its place in the page."""
    found: dict[str, Any] = {}
    for section in family_of(run.recipe).sections(run):
        pictures = [_picture(Drawn(picture, text)) for picture, text in section.pictures]
        found[section.anchor] = {
            "title": section.title,
            "note": section.note,
            "key": section.key,
            "pictures": pictures,
            "missing": section.missing,
        }
    return found
