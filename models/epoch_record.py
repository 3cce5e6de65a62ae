"""Predictions of several epochs, noted while a fold trains: what is chosen among, and the gap.

Nothing of it changes a weight: the network is asked in evaluation mode, without random numbers of
training. A note is a file of plain arrays in the fold's resume folder, written before the resume
point of its epoch, so that a killed training that goes on has every earlier one. The last epoch's
are the fold's own predictions and are not noted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from data.errors import TrainingError
from data.stages.files import replacing

NOTES = "epoch-*.npz"  # notes in a resume folder
Arrays = dict[str, npt.NDArray[Any]]


def recorded_epochs(epochs: int, record: int) -> list[int]:
    """Numbers of finished epochs to record: `record` of them, evenly spread, the last among them.

    All, where there are no more; [] for record 0.
    """
    if record <= 0:
        return []
    return sorted({-(-epochs * n // record) for n in range(1, record + 1)})


@dataclass(frozen=True)
class Watch:
    """After which epochs a training of several folds shows them, and to whom.

    `look` gets (position of the fold, epochs it has done) of those that are due; their networks
    hold the weights of that moment, and may be left in evaluation mode.
    """

    after: frozenset[int]
    look: Callable[[Sequence[tuple[int, int]]], None]

    def due(self, done: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of (position, epochs done) that are to be looked at."""
        return [(fold, epochs) for fold, epochs in done if epochs in self.after]


def watch_of(
    epochs: int, record: int, look: Callable[[Sequence[tuple[int, int]]], None]
) -> Watch | None:
    """The watch of a training; None when nothing before its last epoch is recorded."""
    after = frozenset(recorded_epochs(epochs, record)) - {epochs}
    return Watch(after, look) if after else None


def note_epoch(out: Path, epochs: int, arrays: Arrays) -> None:
    """Keep a fold's arrays of the moment; `out` is the folder it is trained in."""
    with replacing(_note(out, epochs)) as temporary, open(temporary, "wb") as file:
        save: Any = np.savez  # its stub takes an array's name for an option
        save(file, allow_pickle=False, **arrays)


def read_notes(out: Path, epochs: int, record: int, who: str) -> dict[int, Arrays]:
    """Epochs done → noted arrays, of all recorded epochs but the last.

    Raises TrainingError naming the fold when one is missing or damaged.
    """
    found = {}
    for number in recorded_epochs(epochs, record):
        if number == epochs:
            continue
        try:
            with np.load(_note(out, number), allow_pickle=False) as file:
                found[number] = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise TrainingError(
                f"{who}, epoch {number}",
                expected="the predictions noted in training",
                got=f"{type(error).__name__}: {error}",
                todo="Delete the fold's resume folder to train it again.",
            ) from error
    return found


def _note(out: Path, epochs: int) -> Path:
    return out / "resume" / f"epoch-{epochs:06d}.npz"


@dataclass(frozen=True)
class FoldEpochs:
    """What a fold's recorded epochs say of its tested people.

    epochs (E,): epochs done, rising, the last one the headline's; counts (E, P, ...): of each epoch
    and person, as of `models.contract.Counted`.
    """

    fold: str
    epochs: list[int]
    people: list[str]
    counts: npt.NDArray[np.int64]
