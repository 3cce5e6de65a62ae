"""A window network's outputs at earlier epochs: written beside the curves, counted for scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data.errors import StoreError
from data.stages.files import replacing
from models.epoch_record import FoldEpochs
from models.me_tst.curves import read_curves
from models.recipe import Recipe
from models.scores.bootstrap import group_counts
from models.scores.spotting import NUM_COUNTS, Protocol, VideoCurves, evaluate


def write_epochs(notes: Mapping[int, Mapping[str, npt.NDArray[Any]]], path: Path) -> None:
    """Write a fold's outputs at earlier epochs: a group each, `spot` (W, k) and `logits` (W, k, 5)
    of all its test windows, video after video as in `curves.h5`.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for number, arrays in sorted(notes.items()):
            group = file.create_group(f"epoch-{number:06d}")
            for name, array in sorted(arrays.items()):
                packed = {"compression": "lzf", "shuffle": True} if array.size > 64 else {}
                group.create_dataset(name, data=array, track_times=False, **packed)


def read_epochs(path: Path, last: Sequence[VideoCurves]) -> list[tuple[int, list[VideoCurves]]]:
    """(epochs done, curves) of each earlier epoch, rising; `last`: what `read_curves` gives.

    Raises `StoreError` for a damaged file.
    """
    ends, found = np.cumsum([len(one.spot) for one in last])[:-1], []
    try:
        with h5py.File(path, "r") as file:
            for name in sorted(file):
                parts = [np.split(file[name][key][:], ends) for key in ("spot", "logits")]
                curves = [
                    replace(one, spot=spot, logits=logits.astype(np.float32))
                    for one, spot, logits in zip(last, *parts, strict=True)
                ]
                found.append((int(name.rpartition("-")[2]), curves))
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(
            str(path), expected="a fold's epochs", got=str(error), todo="Train the fold again."
        ) from error
    return found


def count_epochs(recipe: Recipe, folder: Path, protocol: Protocol) -> FoldEpochs:
    """Counts of a fold's people at every recorded epoch, under `protocol`."""
    last = read_curves(folder / "curves.h5")
    train: Any = recipe.train
    found = [*read_epochs(folder / "epochs.h5", last), (int(train.epochs), last)]
    people, counts = list[str](), []
    for _, curves in found:
        results = evaluate(curves, protocol)
        if not results:  # a protocol that leaves out videos without events may leave none
            return FoldEpochs(folder.name, [], [], np.zeros((0, 0, NUM_COUNTS), np.int64))
        people, own = group_counts(
            [r.curves.person for r in results], np.stack([r.counts for r in results])
        )
        counts.append(own)
    return FoldEpochs(folder.name, [number for number, _ in found], people, np.stack(counts))
