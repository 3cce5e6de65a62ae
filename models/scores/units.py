"""Scores of named action units: every unit is a yes-or-no question, asked of every clip.

Of pooled predictions, with their counts:

    uf1       mean over units of F1 = 2 TP / (2 TP + FP + FN), CD6ME's measure
    uar       mean over units of (sensitivity + specificity) / 2
    accuracy  share of clips whose set is right as a whole

Means are over the units that occur in the truth; one that is neither true nor predicted has no F1,
and is named. `chance` is what a fair coin a unit scores, `majority` what the commonest set does.
Works from predictions (dataset, event, person, fold, label, predicted), label and predicted as
`models.targets` writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.stages.identity import stable_hash
from models.contract import Counted
from models.epoch_record import FoldEpochs
from models.scores.bootstrap import group_counts, subject_interval
from models.scores.recognition import NAMES
from models.scores.table import metric_row, metric_table, nothing_scored
from models.targets import UNITS, truth_matrix

Counts = npt.NDArray[np.int64]
TP, FP, FN, TN = range(4)


def each(table: pd.DataFrame) -> Counts:
    """(n, units + 1, 4): TP, FP, FN, TN of every unit; in the last row right sets and all."""
    true, said = truth_matrix(list(table.label)), truth_matrix(list(table.predicted))
    parts = np.stack([true & said, ~true & said, true & ~said, ~true & ~said], axis=2)
    right = (true == said).all(axis=1)
    whole = np.zeros((len(table), 1, 4), np.int64)
    whole[:, 0, 0], whole[:, 0, 1] = right, 1
    return np.concatenate([parts.astype(np.int64), whole], axis=1)


def scores_of(
    total: npt.NDArray[Any], reference: npt.NDArray[Any] | None = None
) -> dict[str, float]:
    """uf1, uar, accuracy of summed counts, over the units that are true in `reference`."""
    units, whole = total[:-1].astype(np.float64), total[-1]
    known = (total if reference is None else reference)[:-1]
    used = known[:, TP] + known[:, FN] > 0
    tp, fp, fn, tn = (units[used, i] for i in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.nan_to_num(2 * tp / (2 * tp + fp + fn))
        recalls = np.nan_to_num(np.stack([tp / (tp + fn), tn / (tn + fp)]))
        accuracy = whole[0] / whole[1] if whole[1] else float("nan")
    empty = float("nan")
    return {
        "uf1": float(f1.mean()) if len(f1) else empty,
        "uar": float(recalls.mean()) if len(f1) else empty,
        "accuracy": float(accuracy),
    }


def note_of(total: npt.NDArray[Any]) -> str:
    """Which units the means are not over, or ""."""
    absent = [u for u, row in zip(UNITS, total[:-1], strict=True) if not row[TP] + row[FN]]
    return f"never true, left out: {', '.join(absent)}" if absent else ""


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """The metrics of predictions: scopes "pooled" with intervals over people, "fold:<id>",
    "class:<AU>" (f1, recall, precision, and in the note TP, FP, FN);
    columns of `models.scores.table`.
    """
    counts = each(table)
    total = counts.sum(axis=0)
    _, people = group_counts([str(p) for p in table.person], counts)
    chance, most = floors_of(total, list(table.label))
    rows = []
    for name in NAMES:
        found = subject_interval(people, lambda c, n=name: scores_of(c, total)[n])  # type: ignore[misc]
        rows.append(
            metric_row(
                name,
                "pooled",
                found.value,
                low=found.low,
                high=found.high,
                chance=chance[name],
                majority=most[name],
                count=len(table),
                note="" if name == "accuracy" else note_of(total),
            )
        )
    for fold, at in table.groupby("fold", sort=True).indices.items():
        own = counts[at].sum(axis=0)
        floor, best = floors_of(own, [table.label.iloc[i] for i in at])
        rows += [
            metric_row(
                n,
                f"fold:{fold}",
                v,
                chance=floor[n],
                majority=best[n],
                count=len(at),
                note=note_of(own),
            )
            for n, v in scores_of(own).items()
        ]
    for unit, (tp, fp, fn, _) in zip(UNITS, total[:-1].tolist(), strict=True):
        note = f"TP {tp}, FP {fp}, FN {fn}"
        parts = {"f1": (2 * tp, 2 * tp + fp + fn), "recall": (tp, tp + fn),
                 "precision": (tp, tp + fp)}  # fmt: skip
        rows += [
            metric_row(n, f"class:{unit}", a / b if b else float("nan"), count=tp + fn, note=note)
            for n, (a, b) in parts.items()
        ]
    return metric_table(rows)


def floors_of(
    total: npt.NDArray[Any], labels: list[str] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """What a fair coin a unit scores, and what always saying the commonest set does.

    Without `labels` the commonest set is that of the units true in more than half of the clips.
    """
    units, clips = total[:-1], int(total[-1, 1])
    used = units[:, TP] + units[:, FN] > 0
    share = (units[:, TP] + units[:, FN]) / max(1, clips)
    coin = share[used] / (share[used] + 0.5)
    chance = {"uf1": float(coin.mean()) if used.any() else float("nan"), "uar": 0.5,
              "accuracy": 0.5 ** len(UNITS)}  # fmt: skip
    if labels:
        counted = Counter(labels)
        best = min(counted, key=lambda label: (-counted[label], label))
        table = pd.DataFrame({"label": labels, "predicted": best})
        return chance, scores_of(each(table).sum(axis=0), total)
    positive = units[:, TP] + units[:, FN]
    always = np.zeros_like(total)
    said = 2 * positive > clips
    always[:-1][said, TP], always[:-1][said, FP] = positive[said], clips - positive[said]
    always[:-1][~said, FN], always[:-1][~said, TN] = positive[~said], clips - positive[~said]
    always[-1, 1] = clips
    found = scores_of(always, total)
    return chance, {**found, "accuracy": float("nan")}


def count(predictions: pd.DataFrame, dataset: str | None = None) -> Counted:
    """Counts per person, (people, units + 1, 4); of one dataset's clips only, if named."""
    table = predictions.sort_values(["dataset", "event"], kind="stable")
    if dataset is not None:
        table = table[table.dataset == dataset]
    if table.empty:
        raise nothing_scored(dataset or "predictions")
    people, counts = group_counts([str(p) for p in table.person], each(table))
    facts = table[["dataset", "event", "person", "label"]].astype(str).to_numpy().tolist()

    def statistics(total: npt.NDArray[Any]) -> dict[str, Callable[[npt.NDArray[Any]], float]]:
        def one(name: str) -> Callable[[npt.NDArray[Any]], float]:
            return lambda counts: scores_of(counts, total)[name]

        return {name: one(name) for name in NAMES}

    def floors(total: npt.NDArray[Any]) -> Mapping[str, tuple[float, float]]:
        chance, most = floors_of(total)
        return {name: (chance[name], most[name]) for name in NAMES}

    def describe(total: npt.NDArray[Any]) -> str:
        return note_of(total) or f"{len(UNITS)} action units"

    return Counted(people, counts, statistics, stable_hash(facts), describe, floors, UNITS)


def count_epochs(fold: str, table: pd.DataFrame) -> FoldEpochs:
    """Counts of a fold's people at every recorded epoch; table: predictions with `epoch`."""
    epochs, counts, people = [], [], list[str]()
    for number, part in table.groupby("epoch", sort=True):
        people, own = group_counts([str(p) for p in part.person], each(part))
        epochs.append(int(str(number)))
        counts.append(own)
    return FoldEpochs(fold, epochs, people, np.stack(counts))
