"""Which epoch is scored: choices by hand, ties, and that no choice looks where it must not."""

from __future__ import annotations

import numpy as np
import pytest

from models.epoch_record import FoldEpochs
from models.metrics import confusion_counts, recognition_statistic
from models.scores.epochs import (
    LAST,
    NESTED,
    OPTIMISTIC_ALL,
    OPTIMISTIC_FOLDS,
    best_epoch,
    choices,
    pooled_epochs,
)

LABELS = ("negative", "positive")
PEOPLE = ["a", "b", "c"]


def statistics(total):
    return {n: recognition_statistic(n, LABELS, total) for n in ("uf1", "accuracy")}


def counted(right, of=4):
    """Counts of one person with so many right answers of `of`, half of them of each class."""
    true = [LABELS[i % 2] for i in range(of)]
    said = [t if i < right else LABELS[1 - LABELS.index(t)] for i, t in enumerate(true)]
    return confusion_counts(true, said, LABELS)


def fold(name, people, rights, epochs=(10, 20, 30)):
    """rights: per epoch the right answers of each person."""
    counts = np.stack([np.stack([counted(r) for r in own]) for own in rights])
    return FoldEpochs(name, list(epochs), people, counts)


FOLDS = [fold("f0", ["b", "c"], [(4, 2), (2, 2), (2, 0)]), fold("f1", ["a"], [(0,), (4,), (2,)])]


def right(choice):
    """Right answers of a, b, c."""
    return [int(np.trace(c[:, :-1])) for c in choice.counts]


def test_the_choices_by_hand():
    inner = [fold("i0", ["x"], [(0,), (4,), (1,)]), fold("i1", ["y"], [(4,), (0,), (0,)])]
    found = {c.name: c for c in choices(FOLDS, inner, PEOPLE, statistics)}
    assert list(found) == [LAST, NESTED, OPTIMISTIC_FOLDS, OPTIMISTIC_ALL]
    assert right(found[LAST]) == [2, 2, 0] and found[LAST].epochs == [30, 30]
    assert right(found[NESTED]) == [0, 2, 2] and found[NESTED].epochs == [20, 10]
    assert right(found[OPTIMISTIC_FOLDS]) == [4, 4, 2] and found[OPTIMISTIC_FOLDS].epochs == [
        10,
        20,
    ]
    assert right(found[OPTIMISTIC_ALL]) == [4, 2, 2] and found[OPTIMISTIC_ALL].epochs == [20]
    assert found[NESTED].note == "epochs 10 to 20, median 15" and found[LAST].note == "epoch 30"


def test_without_inner_trainings_there_is_no_nested_choice():
    assert NESTED not in {c.name for c in choices(FOLDS, [], PEOPLE, statistics)}


def test_the_nested_choice_never_looks_at_tested_people():
    """Whatever the tested people's answers are, it chooses the same epochs."""
    inner = [fold("i0", ["x"], [(0,), (4,), (1,)]), fold("i1", ["y"], [(4,), (0,), (0,)])]
    rng = np.random.default_rng(0)
    for _ in range(20):
        outer = [
            fold(f.fold, f.people, rng.integers(0, 5, (3, len(f.people))).tolist()) for f in FOLDS
        ]
        found = {c.name: c for c in choices(outer, inner, PEOPLE, statistics)}
        assert found[NESTED].epochs == [20, 10]
        best = [statistics(c.counts.sum(0))["uf1"](c.counts.sum(0)) for c in found.values()]
        assert best[3] >= best[0], "the best of all epochs is no worse than the last"


def test_of_equal_epochs_the_latest_and_undefined_is_worst():
    same = np.stack([counted(2), counted(3), counted(3), counted(1)])
    assert best_epoch(same, statistics) == 2
    order = {"first": lambda c: float(c[0]), "second": lambda c: float(c[1])}
    by_two = np.array([[1, 5], [1, 9], [0, 99]])
    assert best_epoch(by_two, lambda total: order) == 1
    nothing = {"only": lambda c: float("nan") if c[0] else 0.0}
    assert best_epoch(np.array([[0], [1]]), lambda total: nothing) == 0


def test_pooling_is_over_epochs_that_all_folds_have():
    short = fold("f1", ["a"], [(4,), (2,)], epochs=(20, 30))
    epochs, counts = pooled_epochs([FOLDS[0], short], PEOPLE)
    assert epochs == [20, 30] and counts.shape == (2, 3, 2, 3)
    assert counts.sum() == 2 * 3 * 4
    twice = [fold("f0", ["a"], [(4,)], epochs=(1,)), fold("f1", ["a"], [(0,)], epochs=(1,))]
    assert pooled_epochs(twice, ["a"])[1].sum() == 8, "a person tested twice counts twice"


@pytest.mark.parametrize("empty", [0, 1])
def test_a_fold_in_which_nobody_is_scored_chooses_nothing(empty):
    none = FoldEpochs("f", [], [], np.zeros((0, 0, 2, 3), np.int64))
    folds = [none if n == empty else f for n, f in enumerate(FOLDS)]
    inner = [fold("i", ["x"], [(0,), (4,), (1,)]), none]
    found = {c.name: c for c in choices(folds, inner, PEOPLE, statistics)}
    assert len(found[LAST].epochs) == 1
    assert found[NESTED].epochs == ([30] if empty == 0 else [20])
