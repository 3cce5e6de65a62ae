"""Recognition and spotting scores, computed from pooled counts.

Recognition follows the MEGC 2019 composite protocol (UF1, UAR over pooled folds) and, beside it,
the F1 that enters STRS: the harmonic mean of macro precision and macro recall, as MEAN and ME-TST
compute it. Spotting is micro precision / recall / F1 over all videos. STRS is their product.

Everything here is a function of counts (a confusion matrix; TP, FP, FN), so a score of any subset
is the score of summed counts: see `models/scores/bootstrap.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.errors import InputError

Absent = Literal["exclude", "zero"]
Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recognition:
    """Scores of one list of classified samples.

    `confusion` (C, C): row = true class, column = predicted class, in the order of `labels`.
    `other` (C,): samples of each true class predicted as something outside `labels` (an error).
    `precision`, `recall`, `f1` (C,): per class, NaN where the ratio is 0/0.
    `classes_used`: classes with at least one true or predicted sample; with absent="zero", all.
    `absent`: the classes with neither, which absent="exclude" leaves out of every mean.
    `f1_of_means`: harmonic mean of macro precision and macro recall, their 0/0 counted as 0.
    """

    labels: tuple[Hashable, ...]
    confusion: Counts
    other: Counts
    precision: Reals
    recall: Reals
    f1: Reals
    uf1: float
    uar: float
    accuracy: float
    macro_precision: float
    macro_recall: float
    f1_of_means: float
    classes_used: tuple[Hashable, ...]
    absent: tuple[Hashable, ...]

    @property
    def num_samples(self) -> int:
        """Samples scored."""
        return int(self.confusion.sum() + self.other.sum())

    @property
    def note(self) -> str:
        """What a reader of these scores must know, or an empty string."""
        notes = []
        if self.absent:
            names = ", ".join(str(label) for label in self.absent)
            verb = "counted as 0" if len(self.classes_used) == len(self.labels) else "left out"
            notes.append(f"no true or predicted sample of: {names} ({verb})")
        support = self.confusion.sum(axis=1) + self.other
        only = [
            str(label)
            for label, true, predicted in zip(
                self.labels, support, self.confusion.sum(axis=0), strict=True
            )
            if true == 0 and predicted > 0
        ]
        if only:
            notes.append(f"predicted but never true: {', '.join(only)} (no recall, F1 is 0)")
        return "; ".join(notes)


@dataclass(frozen=True)
class Spotting:
    """Pooled spotting counts and what follows from them; 0 where a ratio is 0/0."""

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float


def confusion_counts(
    y_true: Sequence[Any] | npt.NDArray[Any],
    y_pred: Sequence[Any] | npt.NDArray[Any],
    labels: Sequence[Hashable],
) -> Counts:
    """Confusion matrix (C, C + 1) in the order of `labels`; the last column is "something else".

    A prediction outside `labels` is an error of its true class. Raises `InputError` for lengths
    that differ, for repeated labels and for a true class outside `labels`.
    """
    true, predicted = list(y_true), list(y_pred)
    if len(true) != len(predicted):
        raise InputError(
            "recognition(y_true, y_pred)",
            expected="two lists of one length",
            got=f"{len(true)} true and {len(predicted)} predicted",
        )
    index: dict[Hashable, int] = {label: i for i, label in enumerate(labels)}
    if not index or len(index) != len(labels):
        raise InputError("recognition labels", expected="distinct classes", got=repr(labels))
    unknown = {label for label in true if label not in index}
    if unknown:
        raise InputError(
            "recognition y_true",
            expected=f"classes among {list(labels)}",
            got=f"{sorted(unknown, key=str)}",
            todo="Remove those samples before scoring; a prediction outside the labels may stay.",
        )
    counts = np.zeros((len(index), len(index) + 1), dtype=np.int64)
    for one_true, one_predicted in zip(true, predicted, strict=True):
        counts[index[one_true], index.get(one_predicted, len(index))] += 1
    return counts


def recognition(
    y_true: Sequence[Any] | npt.NDArray[Any],
    y_pred: Sequence[Any] | npt.NDArray[Any],
    labels: Sequence[Hashable],
    absent: Absent = "exclude",
) -> Recognition:
    """Score predicted classes against true ones over `labels`.

    absent="exclude": a class with neither a true nor a predicted sample enters no mean, and UAR is
    the mean over classes that have true samples. absent="zero": every class of `labels` enters
    every mean, an undefined ratio counting 0 (scikit-learn's zero_division=0). An empty list gives
    NaN scores (0 with "zero") and `f1_of_means` 0.
    """
    return recognition_from_counts(confusion_counts(y_true, y_pred, labels), labels, absent)


def recognition_from_counts(
    counts: npt.NDArray[np.integer[Any]], labels: Sequence[Hashable], absent: Absent = "exclude"
) -> Recognition:
    """As `recognition`, from the (C, C + 1) counts of `confusion_counts` or a sum of such."""
    if absent not in ("exclude", "zero"):
        raise InputError("recognition absent", expected='"exclude" or "zero"', got=repr(absent))
    confusion, other = counts[:, :-1].astype(np.int64), counts[:, -1].astype(np.int64)
    hits = np.diag(confusion).astype(np.float64)
    true = (confusion.sum(axis=1) + other).astype(np.float64)
    predicted = confusion.sum(axis=0).astype(np.float64)
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1 = _ratio(2 * hits, true + predicted)
    present = (true + predicted) > 0
    used = present if absent == "exclude" else np.ones_like(present)
    zeroed = {name: np.nan_to_num(value) for name, value in (("p", precision), ("r", recall))}
    if absent == "zero":
        f1_shown, recall_shown = np.nan_to_num(f1), zeroed["r"]
    else:
        f1_shown, recall_shown = f1[present], recall[true > 0]
    macro_precision, macro_recall = _mean(zeroed["p"][used]), _mean(zeroed["r"][used])
    total = true.sum()
    return Recognition(
        labels=tuple(labels),
        confusion=confusion,
        other=other,
        precision=precision,
        recall=recall,
        f1=f1,
        uf1=_mean(f1_shown),
        uar=_mean(recall_shown),
        accuracy=float(hits.sum() / total) if total else (0.0 if absent == "zero" else np.nan),
        macro_precision=macro_precision,
        macro_recall=macro_recall,
        f1_of_means=_harmonic(macro_precision, macro_recall),
        classes_used=tuple(label for label, use in zip(labels, used, strict=True) if use),
        absent=tuple(label for label, here in zip(labels, present, strict=True) if not here),
    )


def recognition_statistic(
    name: str, labels: Sequence[Hashable], total: npt.NDArray[np.integer[Any]]
) -> Callable[[npt.NDArray[Any]], float]:
    """A recognition score as a function of counts, over the classes that `total` has.

    `total`, (C, C + 1) as of `confusion_counts`, is what is resampled from: a resample that happens
    to hold no sample of a class would else be scored on fewer classes, which is another measure. A
    class without a sample in a resample counts 0. UAR is over the classes that are true in `total`,
    UF1 over those true or predicted.
    """
    counts = total.astype(np.int64)
    true = counts.sum(axis=1) > 0
    there = true if name == "uar" else true | (counts[:, :-1].sum(axis=0) > 0)
    chosen = np.flatnonzero(there)
    kept = [labels[int(i)] for i in chosen]

    def value(counts: npt.NDArray[Any]) -> float:
        rows = counts[chosen]
        inside = rows[:, chosen]
        other = rows.sum(axis=1) - inside.sum(axis=1)
        part = np.concatenate([inside, other[:, None]], axis=1)
        return float(getattr(recognition_from_counts(part, kept, "zero"), name))

    return value


def spotting(tp: int, fp: int, fn: int) -> Spotting:
    """Micro precision, recall and F1 of pooled counts; a ratio 0/0 is 0.

    `fn` may be negative when `tp` comes from the authors' soft counter, which can count one event
    twice; TP + FN is the number of events either way.
    """
    tp, fp, fn = int(tp), int(fp), int(fn)
    precision = tp / (tp + fp) if tp + fp > 0 else 0.0
    recall = tp / (tp + fn) if tp + fn > 0 else 0.0
    return Spotting(tp, fp, fn, precision, recall, _harmonic(precision, recall))


def strs(spotting: Spotting, recognition: Recognition) -> float:
    """Spot-then-recognise score: F1 of spotting x F1 of recognition on the spotted events."""
    return spotting.f1 * recognition.f1_of_means


def _ratio(numerator: Reals, denominator: Reals) -> Reals:
    """numerator / denominator, NaN where the denominator is 0."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)


def _mean(values: Reals) -> float:
    return float(values.mean()) if values.size else float("nan")


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0
