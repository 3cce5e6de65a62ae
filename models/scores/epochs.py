"""Which epoch is scored: the last one, one chosen on inner people, or (optimistic) on the tested.

The last epoch is the headline: nothing was chosen. A nested choice looks at people of the training
side only, so it is as honest. The best epoch on the tested people is what many published codes
report; it is an upper end of luck, and is named so wherever it stands.

Everything works on counts (E, P, ...) of epochs and people. What a choice goes by are a family's
statistics in their order (`models.contract.Counted`), over the classes that any of the epochs has;
of equal epochs the latest is taken, which is nearest to the headline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.epoch_record import FoldEpochs

Ints = npt.NDArray[np.int64]
Statistics = Callable[[npt.NDArray[Any]], Mapping[str, Callable[[npt.NDArray[Any]], float]]]

LAST = "last epoch (headline)"
NESTED = "chosen on inner people (nested)"
OPTIMISTIC_FOLDS = "optimistic: each fold's best epoch on its tested people"
OPTIMISTIC_ALL = "optimistic: the best epoch of all folds on the tested people"


@dataclass(frozen=True)
class Choice:
    """Counts of people (P, ...) under one way of choosing the epoch, and what it chose."""

    name: str
    counts: Ints
    epochs: list[int]  # chosen, by fold; one for all folds together

    @property
    def note(self) -> str:
        """The epochs in words."""
        low, high = min(self.epochs), max(self.epochs)
        if low == high:
            return f"epoch {low}"
        return f"epochs {low} to {high}, median {np.median(self.epochs):g}"


def best_epoch(counts: Ints, statistics: Statistics) -> int:
    """Position of the best of (E, ...) counts, the latest of equal ones; undefined is worst."""
    functions = list(statistics(counts.sum(axis=0)).values())
    values = [
        tuple(-np.inf if np.isnan(v) else v for v in (float(f(own)) for f in functions))
        for own in counts
    ]
    return max(range(len(values)), key=lambda e: (values[e], e))


def pooled_epochs(folds: Sequence[FoldEpochs], people: Sequence[str]) -> tuple[list[int], Ints]:
    """Epochs that all folds have, and the counts (E, P, ...) of all people at each."""
    common = sorted(set.intersection(*(set(fold.epochs) for fold in folds)))
    parts = [_placed(fold, [fold.epochs.index(e) for e in common], people) for fold in folds]
    return common, np.sum(parts, axis=0, dtype=np.int64)


def choices(
    folds: Sequence[FoldEpochs],
    inner: Sequence[FoldEpochs],
    people: Sequence[str],
    statistics: Statistics,
) -> list[Choice]:
    """The ways of choosing an epoch, by name; the nested one where `inner` trainings are given.

    inner: of the same folds in the same order, counted on the people who choose.
    """
    inner = [one for one, fold in zip(inner, folds, strict=bool(inner)) if fold.epochs]
    folds = [fold for fold in folds if fold.epochs]  # else nobody of it is scored
    found = [_picked(LAST, folds, [len(fold.epochs) - 1 for fold in folds], people)]
    if inner:
        places = [_chosen(one, fold, statistics) for one, fold in zip(inner, folds, strict=True)]
        found.append(_picked(NESTED, folds, places, people))
    own = [best_epoch(fold.counts.sum(axis=1), statistics) for fold in folds]
    found.append(_picked(OPTIMISTIC_FOLDS, folds, own, people))
    epochs, counts = pooled_epochs(folds, people)
    best = best_epoch(counts.sum(axis=1), statistics)
    found.append(Choice(OPTIMISTIC_ALL, counts[best], [epochs[best]]))
    return found


def _chosen(inner: FoldEpochs, fold: FoldEpochs, statistics: Statistics) -> int:
    """The fold's place of the epoch that was best on its inner people; the last without any."""
    if not inner.epochs:
        return len(fold.epochs) - 1
    best = best_epoch(inner.counts.sum(axis=1), statistics)
    return fold.epochs.index(inner.epochs[best])


def _picked(
    name: str, folds: Sequence[FoldEpochs], places: Sequence[int], people: Sequence[str]
) -> Choice:
    parts = [_placed(fold, [at], people)[0] for fold, at in zip(folds, places, strict=True)]
    epochs = [fold.epochs[at] for fold, at in zip(folds, places, strict=True)]
    return Choice(name, np.sum(parts, axis=0, dtype=np.int64), epochs)


def _placed(fold: FoldEpochs, places: Sequence[int], people: Sequence[str]) -> Ints:
    """A fold's counts at some of its epochs, (E, P, ...) in the order of all people."""
    whole = np.zeros((len(places), len(people), *fold.counts.shape[2:]), np.int64)
    at = [people.index(person) for person in fold.people]
    whole[:, at] = fold.counts[list(places)]
    return whole
