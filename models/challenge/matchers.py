"""Which predicted interval found which event: the challenge's rule, and the rules of public code.

All use one overlap, intersection over union of inclusive frames. `optimal` is what we report; the
others exist because published figures were made with them. Each returns what it calls a pair and
the counts its code prints, so that a figure can be compared with the one it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.errors import InputError
from models.spotting import iou_matrix, match

Rule = Literal["optimal", "distinct_truths", "soft_pairs", "best_truth", "row_order", "iou_greedy"]
RULES: tuple[Rule, ...] = (
    "optimal", "distinct_truths", "soft_pairs", "best_truth", "row_order", "iou_greedy",
)  # fmt: skip
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Pairs (prediction, event) and counts of one video.

    `hits`: predictions that found something, where a rule counts them apart from `tp` (events
    found); precision is hits / P and recall tp / T there.
    """

    pairs: tuple[tuple[int, int], ...]
    tp: int
    hits: int
    num_pred: int
    num_truth: int

    @property
    def fp(self) -> int:
        """Predictions that found nothing."""
        return self.num_pred - self.hits

    @property
    def fn(self) -> int:
        """Events not found; below 0 where one was counted twice."""
        return self.num_truth - self.tp


def find(
    pred: npt.ArrayLike,
    truth: npt.ArrayLike,
    rule: Rule = "optimal",
    *,
    iou: float = 0.5,
    strict: bool = False,
) -> Found:
    """Match one video's predictions (n, 2) with its events (m, 2), inclusive onset and offset.

    `strict`: above `iou`, not at it, as several public programs test. Raises InputError for an
    interval that ends before it begins and for another rule.

    optimal: as many pairs as can be, then the highest total overlap; order plays no part.
    distinct_truths (baseline of 2020): events hit by anything, of the two precisions the smaller;
        its own overlap (see `iou_2020`), never `strict`.
    soft_pairs (ME-TST's spotting counter): every overlapping pair counts.
    best_truth (ME-TST's recognition list): in row order, each looks only at its best event.
    row_order (STRS-Metric): in row order, each takes all free events it reaches.
    iou_greedy (MEWM): pairs by falling overlap, of equal ones the earlier prediction, then event.
    """
    overlap = iou_matrix(pred, truth)
    num_pred, num_truth = overlap.shape
    good = overlap > iou if strict else overlap >= iou

    def one_to_one(pairs: list[tuple[int, int]]) -> Found:
        hits = len({p for p, _ in pairs})
        return Found(tuple(pairs), len(pairs), hits, num_pred, num_truth)

    if rule == "optimal":
        least = float(np.nextafter(iou, 2)) if strict else iou
        chosen = match(pred, truth, "one_to_one", least).gt_index
        return one_to_one([(p, int(t)) for p, t in enumerate(chosen) if t >= 0])
    if rule == "distinct_truths":
        good = _slipped(pred, truth) >= iou
        tp = int(good.any(axis=0).sum())
        hits = int(min(tp, good.any(axis=1).sum()))
        return Found(_pairs(good), tp, hits, num_pred, num_truth)
    if rule == "soft_pairs":
        hits = int(good.any(axis=1).sum())
        return Found(_pairs(good), int(good.sum()), hits, num_pred, num_truth)
    if rule == "best_truth":
        return one_to_one(_best_truth(overlap, good))
    if rule == "row_order":
        return one_to_one(_row_order(good))
    if rule == "iou_greedy":
        return one_to_one(_iou_greedy(overlap, good))
    raise InputError("matcher", expected=f"one of {', '.join(RULES)}", got=repr(rule))


def iou_2020(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Overlap with the slip of the 2020 baseline: disjoint intervals share one frame.

    The 1 is added outside the maximum; harmless at 0.5, and of an interval of one frame it makes 0.
    """
    if a[1] <= a[0] or b[1] <= b[0]:
        return 0.0
    inter = max(0, min(a[1], b[1]) - max(a[0], b[0])) + 1
    return inter / ((a[1] - a[0] + 1) + (b[1] - b[0] + 1) - inter)


def _slipped(pred: npt.ArrayLike, truth: npt.ArrayLike) -> npt.NDArray[np.float64]:
    p, t = (np.asarray(x, np.int64).reshape(-1, 2).tolist() for x in (pred, truth))
    values = [[iou_2020((a, b), (c, d)) for c, d in t] for a, b in p]
    return np.array(values, np.float64).reshape(len(p), len(t))


def _pairs(good: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    return tuple((int(p), int(t)) for p, t in zip(*np.nonzero(good), strict=True))


def _best_truth(overlap: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for p in range(len(overlap)):
        if not overlap.shape[1]:
            break
        best = int(np.argsort(overlap[p])[-1])
        if good[p, best] and best not in {t for _, t in pairs}:
            pairs.append((p, best))
    return pairs


def _row_order(good: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    taken: set[int] = set()
    pairs = []
    for p, t in _pairs(good):  # by prediction, then event
        if t not in taken:
            taken.add(t)
            pairs.append((p, t))
    return pairs


def _iou_greedy(overlap: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    ranked = sorted(_pairs(good), key=lambda pair: (-overlap[pair], *pair))
    pred: set[int] = set()
    truth: set[int] = set()
    pairs = []
    for p, t in ranked:
        if p not in pred and t not in truth:
            pred.add(p)
            truth.add(t)
            pairs.append((p, t))
    return sorted(pairs)
