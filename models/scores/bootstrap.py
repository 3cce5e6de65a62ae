"""Intervals of scores by bootstrap over subjects, single and paired.

Samples of one subject are not independent, so subjects are drawn with replacement, not samples.
A score is given as a function of counts summed over subjects (a confusion matrix, or TP/FP/FN), as
all scores of `models/metrics.py` are. Two runs over the same subjects are compared on the same
draws, which cancels what makes a subject hard for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import InputError

Statistic = Callable[[npt.NDArray[Any]], float]


@dataclass(frozen=True)
class ScoreInterval:
    """A score with its percentile interval.

    `draws` counts the resamples whose score was defined; `low` and `high` are NaN when fewer than
    two subjects or no defined resample exist.
    """

    value: float
    low: float
    high: float
    draws: int


@dataclass(frozen=True)
class Difference:
    """Score of a minus score of b on the same subjects; `share_above` of the draws favour a."""

    value: float
    low: float
    high: float
    share_above: float
    draws: int


def group_counts(
    groups: Sequence[Any], counts: npt.NDArray[np.integer[Any]]
) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Sum `counts` (n, ...) of samples into one entry per group (subject), groups sorted."""
    if len(groups) != len(counts):
        raise InputError(
            "group_counts", expected=f"{len(counts)} group names", got=f"{len(groups)}"
        )
    names = sorted(set(groups), key=str)
    index = {name: i for i, name in enumerate(names)}
    total = np.zeros((len(names), *counts.shape[1:]), dtype=np.int64)
    np.add.at(total, [index[group] for group in groups], counts)
    return names, total


def subject_weights(num_subjects: int, draws: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each subject is in each resample: (draws, subjects), every row summing to S."""
    rng = np.random.default_rng(seed)
    share = np.full(num_subjects, 1.0 / num_subjects)
    return rng.multinomial(num_subjects, share, size=draws).astype(np.int64)


def subject_interval(
    per_subject: npt.NDArray[np.integer[Any]],
    statistic: Statistic,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ScoreInterval:
    """Percentile interval of `statistic(counts summed over subjects)`.

    per_subject: (S, ...) counts of each subject, in an order that does not depend on the run.
    """
    value = float(statistic(per_subject.sum(axis=0)))
    if len(per_subject) < 2:
        return ScoreInterval(value, float("nan"), float("nan"), 0)
    scores = _resampled(per_subject, statistic, draws, seed)
    low, high, defined = _percentiles(scores, level)
    return ScoreInterval(value, low, high, defined)


def mean_of_parts(statistic: Statistic) -> Statistic:
    """The mean of a statistic over the first axis of its counts, such as seeds."""

    def mean(counts: npt.NDArray[Any]) -> float:
        return float(np.mean([statistic(part) for part in counts]))

    return mean


def paired_difference(
    a: npt.NDArray[np.integer[Any]],
    b: npt.NDArray[np.integer[Any]],
    statistic: Statistic,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interval of score(a) - score(b), where row i of both (S, ...) is the same subject."""
    if len(a) != len(b):
        raise InputError(
            "paired_difference",
            expected="counts of the same subjects in the same order",
            got=f"{len(a)} and {len(b)} subjects",
        )
    value = float(statistic(a.sum(axis=0))) - float(statistic(b.sum(axis=0)))
    if len(a) < 2:
        return Difference(value, float("nan"), float("nan"), float("nan"), 0)
    gap = _resampled(a, statistic, draws, seed) - _resampled(b, statistic, draws, seed)
    low, high, defined = _percentiles(gap, level)
    known = gap[np.isfinite(gap)]
    # A tie favours neither: half of it counts for each.
    share = float(((known > 0) + 0.5 * (known == 0)).mean()) if defined else float("nan")
    return Difference(value, low, high, share, defined)


def _resampled(
    per_subject: npt.NDArray[np.integer[Any]], statistic: Statistic, draws: int, seed: int
) -> npt.NDArray[np.float64]:
    flat = per_subject.reshape(len(per_subject), -1).astype(np.int64)
    sums = subject_weights(len(per_subject), draws, seed) @ flat
    shape = per_subject.shape[1:]
    return np.array([float(statistic(total.reshape(shape))) for total in sums])


def _percentiles(scores: npt.NDArray[np.float64], level: float) -> tuple[float, float, int]:
    if not 0 < level < 1:
        raise InputError("bootstrap level", expected="a number between 0 and 1", got=str(level))
    known = scores[np.isfinite(scores)]
    if not known.size:
        return float("nan"), float("nan"), 0
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high), int(known.size)
