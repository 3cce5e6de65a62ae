"""The same clip under two people's names, found by its pixels: a copy, or its mirror image.

Every other check of a split goes by names: who somebody is, which video a clip is from. A clip that
was copied, or mirrored to have more of them, and entered as another person's passes them all; its
twin would train the network that is tested on it. Two clips are twins when their onset faces and
the change from onset to apex both agree, moved against each other by a little: faces alone may be
much alike, and two expressions never change alike in every place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.align.crops import CropReader
from data.errors import SplitError
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from models.runs.files import read_input_keys

if TYPE_CHECKING:
    from models.runs.publishing import RunPlan

SIDE, REACH = 48, 3  # of the pictures compared, and how far they are moved, px of these
LIKELY = 0.8  # agreement of unmoved faces from which a pair is looked at closely
FACE, CHANGE = 0.95, 0.8  # least agreement of twins
Pictures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Twins:
    """Two clips (positions) of different people that show the same recording."""

    one: int
    other: int
    mirrored: bool


def twins_of(run: RunPlan) -> str:
    """Refuse a run in which two people have the same clip, or its mirror image.

    For networks that read registered crops. Raises SplitError `clips_shared`; a published list is
    taken as it is, and what was found is said.
    """
    recipe, table = run.recipe, run.samples.table
    if recipe.network.samples != "events" or "registration" not in recipe.stages:
        return ""
    inputs = run.folder / "inputs.parquet"
    workspace = run.folder.parent.parent.parent
    pictures = read_pictures(workspace, table, partial(read_input_keys, inputs))
    found = find_twins(pictures, [str(p) for p in table.person])
    if not found:
        return ""
    names = [f"{d}:{e}" for d, e in zip(table.dataset, table.event, strict=True)]
    shown = [
        f"{names[t.one]} and {names[t.other]}{' mirrored' if t.mirrored else ''}" for t in found[:3]
    ]
    said = f"{len(found)} pairs that are the same: {'; '.join(shown)}"
    if recipe.split.kind == "published" and recipe.split.name != "csv":
        return f"clips of different people: {said}"
    raise SplitError(
        "samples",
        expected="clips of different people to be different recordings",
        got=said,
        todo="Remove the copies, or enter them under one person: a network would be tested on "
        "what it was trained on.",
        code="clips_shared",
    )


def read_pictures(
    workspace: Workspace | Path,
    table: pd.DataFrame,
    keys: Callable[[str, str], Mapping[str, str] | None],
) -> Pictures:
    """(n, 2, SIDE, SIDE): the onset's face in grey, and how the apex differs from it."""
    import cv2

    stores = {
        d: StageStore(workspace, d, "registration", keys(d, "registration"))
        for d in table.dataset.unique()
    }
    readers = {d: CropReader(workspace, d) for d in stores}
    found = np.zeros((len(table), 2, SIDE, SIDE), np.float32)
    for number, row in enumerate(table.itertuples(index=False)):
        with stores[row.dataset].open(row.event) as group:
            crops = readers[row.dataset].event(row.video, group)
            last = crops.last if pd.isna(row.offset) else int(row.offset)
            apex = (int(row.onset) + last) // 2 if pd.isna(row.apex) else int(row.apex)
            wanted = [crops.nearest(int(row.onset)), crops.nearest(apex)]
            pair = crops.take(wanted).astype(np.float32)
        grey = pair if pair.ndim == 3 else pair.mean(axis=3)
        small = [
            cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for one in (grey[0], grey[1] - grey[0])
        ]
        found[number] = np.stack(small)
    for store in stores.values():
        store.close()
    return found


def find_twins(pictures: Pictures, people: Sequence[str]) -> list[Twins]:
    """Pairs of different people's clips that agree as they are or mirrored; `read_pictures`."""
    who = np.unique(list(people), return_inverse=True)[1]
    apart = np.triu(who[:, None] != who[None], 1)
    plain = _unit(pictures[:, 0])
    found = []
    for mirrored in (False, True):
        others = np.ascontiguousarray(pictures[..., ::-1]) if mirrored else pictures
        likely = np.argwhere(apart & (plain @ _unit(others[:, 0]).T > LIKELY))
        for one, other in likely.tolist():
            face, change = _agreement(pictures[one], others[other])
            if face >= FACE and change >= CHANGE:
                found.append(Twins(one, other, mirrored))
    return sorted(found, key=lambda t: (t.one, t.other))


def _unit(images: Pictures) -> Pictures:
    """Images (n, S, S) as rows of mean 0 and length 1; one without contrast is all 0."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 1e-6, length, np.inf), np.float32)


def _agreement(one: Pictures, other: Pictures) -> tuple[float, float]:
    """Correlation of faces and of changes, where moving the other makes the faces agree best."""
    inner = SIDE - 2 * REACH
    moved = np.lib.stride_tricks.sliding_window_view(other, (inner, inner), axis=(1, 2))
    windows = moved.reshape(2, -1, inner, inner)
    middle = one[:, REACH:-REACH, REACH:-REACH]
    faces = _unit(windows[0]) @ _unit(middle[:1])[0]
    best = int(faces.argmax())
    change = _unit(windows[1, best : best + 1])[0] @ _unit(middle[1:])[0]
    return float(faces[best]), float(change)
