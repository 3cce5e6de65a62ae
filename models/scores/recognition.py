"""Scores of named clips: the metrics table of a run of a classifier, and its counts per person.

Works from predictions (dataset, event, person, fold, label, predicted, prob_<class>), whichever
network made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.stages.identity import stable_hash
from models.contract import Counted
from models.epoch_record import FoldEpochs
from models.metrics import (
    Recognition,
    confusion_counts,
    recognition_from_counts,
    recognition_statistic,
)
from models.scores.bootstrap import group_counts, subject_interval
from models.scores.table import metric_row, metric_table, nothing_scored

NAMES = ("uf1", "uar", "accuracy")


def classes_of(table: pd.DataFrame) -> list[str]:
    """The classes of the network's outputs, in their order."""
    return [c.removeprefix("prob_") for c in table.columns if c.startswith("prob_")]


def count(predictions: pd.DataFrame, dataset: str | None = None) -> Counted:
    """Confusion counts per person, (people, C, C + 1); of one dataset's clips only, if named."""
    classes, known = classes_of(predictions), int(predictions.label.nunique())
    table = predictions.sort_values(["dataset", "event"], kind="stable")
    if dataset is not None:
        table = table[table.dataset == dataset]
    if table.empty:
        raise nothing_scored(dataset or "predictions")
    people, counts = group_counts([str(p) for p in table.person], _each(table, classes))
    facts = table[["dataset", "event", "person", "label"]].astype(str).to_numpy().tolist()

    def statistics(total: npt.NDArray[Any]) -> dict[str, Callable[[npt.NDArray[Any]], float]]:
        return {name: recognition_statistic(name, classes, total) for name in NAMES}

    def describe(total: npt.NDArray[Any]) -> str:
        """Of which classes the means are; over all of them too, where some are absent."""
        found = recognition_from_counts(total, classes)
        if not found.absent:
            return f"{len(classes)} classes"
        whole = recognition_from_counts(total, classes, "zero")
        return (
            f"{len(found.classes_used)} of {len(classes)} classes: {found.note}; over all "
            f"{len(classes)} UF1 {whole.uf1:.3f}, UAR {whole.uar:.3f}"
        )

    def floors(total: npt.NDArray[Any]) -> Mapping[str, tuple[float, float]]:
        most = _majority(total, classes)
        return {name: (1 / max(1, known), float(getattr(most, name))) for name in NAMES}

    return Counted(people, counts, statistics, stable_hash(facts), describe, floors, tuple(classes))


def count_epochs(fold: str, table: pd.DataFrame) -> FoldEpochs:
    """Counts of a fold's people at every recorded epoch; table: predictions with `epoch`."""
    classes, epochs, counts, people = classes_of(table), [], [], list[str]()
    for number, part in table.groupby("epoch", sort=True):
        people, own = group_counts([str(p) for p in part.person], _each(part, classes))
        epochs.append(int(str(number)))
        counts.append(own)
    return FoldEpochs(fold, epochs, people, np.stack(counts))


def _each(table: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Confusion counts of every row alone: (n, C, C + 1)."""
    pairs = zip(table.label, table.predicted, strict=True)
    return np.stack([confusion_counts([true], [said], classes) for true, said in pairs])


def _majority(counts: npt.NDArray[Any], classes: Sequence[str]) -> Recognition:
    """What always naming the most frequent true class would score."""
    support, guessed = counts.sum(axis=1), np.zeros_like(counts)
    guessed[:, int(support.argmax())] = support
    return recognition_from_counts(guessed, classes)


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """The metrics of predictions, pooled over folds first: name, scope, value, interval, baselines.

    table: columns fold, person, label, predicted and prob_<class> of every class.

    Scopes: "pooled" (uf1, uar, accuracy with intervals by bootstrap over people), "fold:<id>" (the
    same three, and no interval: one subject has none), "class:<label>" (f1, recall, precision).
    `chance` is the score of guessing by class frequencies' complement, 1 / classes; `majority` that
    of always answering the most frequent true class; `count` the clips scored.
    """
    classes = classes_of(table)
    rows = _pooled_rows(table, classes)
    known = int(table.label.nunique())
    for fold, part in table.groupby("fold", sort=True):
        rows += _score_rows(part, classes, f"fold:{fold}", known)
    counts = _counts(table, classes)
    result = recognition_from_counts(counts, classes)
    for number, name in enumerate(classes):
        support = int(counts[number].sum())
        values = {"f1": result.f1, "recall": result.recall, "precision": result.precision}
        rows += [
            metric_row(key, f"class:{name}", float(value[number]), count=support)
            for key, value in values.items()
        ]
    return metric_table(rows)


def _pooled_rows(table: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
    _, per_person = group_counts([str(p) for p in table.person], _each(table, classes))
    rows = _score_rows(table, classes, "pooled")
    total = per_person.sum(axis=0)
    for row in rows:
        statistic = recognition_statistic(row["name"], classes, total)
        interval = subject_interval(per_person, statistic)
        row["low"], row["high"] = interval.low, interval.high
    return rows


def _score_rows(
    table: pd.DataFrame, classes: Sequence[str], scope: str, known: int = 0
) -> list[dict[str, Any]]:
    """`known`: classes a guess is among, where that is more than this table shows."""
    counts = _counts(table, classes)
    result = recognition_from_counts(counts, classes)
    majority = _majority(counts, classes)
    used = known or max(1, int((counts.sum(axis=1) > 0).sum()))
    return [
        metric_row(
            name,
            scope,
            float(getattr(result, name)),
            chance=1 / used,
            majority=float(getattr(majority, name)),
            count=len(table),
            note=result.note,
        )
        for name in NAMES
    ]


def _counts(table: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    return confusion_counts(list(table.label), list(table.predicted), list(classes))
