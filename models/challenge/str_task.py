"""Spot, then recognise (2024 on): STRS = F1 of spotting × F1 of emotion on what was spotted.

Only micro-expressions. The second factor is the harmonic mean of macro precision and macro recall
over a fixed list of classes, on the true positives alone: a false alarm costs in the first factor
only, and an event that was not spotted does not enter the second. Overall, the pairs and counts of
all parts are pooled and the three scores computed once.

Beside it stand the released program's figures under its own rules, which lose truths and depend on
the order of the rows; see docs/challenge.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models import metrics
from models.challenge.classes import majority
from models.challenge.score import OVERALL, PRIORS, ChallengeScore, defined
from models.challenge.spotting import (
    NO_INTERVAL,
    ChallengePart,
    Counts,
    MatchedPairs,
    count,
    of_type,
    shifted,
)

CLASSES = ("negative", "positive", "surprise")
RELEASED = "STRS-Metric (genbing99)"
NOTHING = "nothing spotted: there is no pair whose emotion could be right"


@dataclass(frozen=True)
class Emotions:
    """True and predicted emotions of the true positives; `dropped` had a truth outside the list."""

    true: tuple[str, ...]
    pred: tuple[str, ...]
    dropped: int = 0


def emotions_of(pairs: MatchedPairs, classes: Sequence[str] = CLASSES) -> Emotions:
    """The pairs' emotions; one whose truth is outside `classes` stays a true positive only."""
    kept = [(t.emotion, p.emotion) for p, t in pairs.matched if t.emotion in classes]
    return Emotions(
        tuple(t for t, _ in kept), tuple(p for _, p in kept), len(pairs.matched) - len(kept)
    )


def str_scores(
    parts: Sequence[ChallengePart], classes: Sequence[str] = CLASSES
) -> list[ChallengeScore]:
    """All lines of all parts, then of the pooled ones."""
    parts = [of_type(p, "me") for p in parts]
    lines: list[ChallengeScore] = []
    found = [count(p) for p in parts]
    released = [released_pairs(p) for p in parts]
    blind = [_blind(p) for p in parts]
    names = [p.name for p in parts]
    if len(parts) > 1:
        names.append(OVERALL)
        for every in (found, released, blind):
            every.append(MatchedPairs(
                sum((one.counts for one in every), Counts()),
                tuple(pair for one in every for pair in one.matched),
            ))  # fmt: skip
    for name, right, theirs, unseen in zip(names, found, released, blind, strict=True):
        lines += scores_of(name, right.counts, emotions_of(right, classes), classes)
        lines += released_scores(name, theirs.counts, emotions_of(theirs, classes), classes)
        truths = [i.emotion for p in parts for i in p.truth if name in (p.name, OVERALL)]
        lines += _prior_scores(name, unseen.counts, emotions_of(right, classes), truths, classes)
    return lines


def scores_of(
    part: str, counts: Counts, emotions: Emotions, classes: Sequence[str] = CLASSES
) -> list[ChallengeScore]:
    """Every score of one part as defined."""
    spot, shown, why = counts.f1, counts.shown(), NO_INTERVAL
    recall, precision = counts.spotting.recall, counts.spotting.precision
    lines = [
        ChallengeScore(part, "F1 spotting", spot, shown, note="" if spot is not None else why),
        _ratio(part, "precision spotting", precision, counts.num_pred, shown, "no prediction"),
        _ratio(part, "recall spotting", recall, counts.num_truth, shown, "no event"),
    ]
    pairs = {"pairs": len(emotions.true), "outside the classes": emotions.dropped}
    said = f"over {', '.join(classes)}"
    fixed = ("F1 emotion", "precision emotion", "recall emotion (UAR)", "UF1")
    if not emotions.true:
        why = NOTHING if not counts.tp else f"no pair whose truth is among {', '.join(classes)}"
        lines += [ChallengeScore(part, name, None, pairs, note=why) for name in fixed]
        zero = spot is not None and not counts.tp
        return [*lines, ChallengeScore(part, "STRS", 0.0 if zero else None, pairs, note=why)]
    found = metrics.recognition(emotions.true, emotions.pred, classes, "zero")
    values = (found.f1_of_means, found.macro_precision, found.macro_recall, found.uf1)
    lines += [
        ChallengeScore(part, n, v, pairs, note=said) for n, v in zip(fixed, values, strict=True)
    ]
    lines.append(ChallengeScore(part, "STRS", (spot or 0.0) * found.f1_of_means, pairs, note=said))
    seen = [c for c in classes if c in emotions.true]
    only = metrics.recognition(emotions.true, emotions.pred, seen, "zero")
    rule, said = "classes spotted only", f"over {', '.join(seen)}"
    for name, value in (("F1 emotion", only.f1_of_means), ("recall emotion (UAR)", only.uar),
                        ("UF1", only.uf1), ("STRS", (spot or 0.0) * only.f1_of_means)):  # fmt: skip
        lines.append(ChallengeScore(part, name, value, pairs, rule, said))
    return lines


def released_pairs(part: ChallengePart) -> MatchedPairs:
    """What the released program counts: only videos that have both sides, in row order.

    Its subjects come from the prediction file and its videos from the truth, so that the events of
    a subject without predictions, and the predictions in a video without events, are nowhere.
    """
    subjects = {i.subject for i in part.pred}
    told = {i.video for i in part.truth if i.subject in subjects}
    return count(part, "row_order", skip=lambda video: video not in told)


def released_scores(
    part: str, counts: Counts, emotions: Emotions, classes: Sequence[str] = CLASSES
) -> list[ChallengeScore]:
    """F1 of spotting, F1 of emotion, the "UAR" it prints and STRS, as the program prints them."""
    shown = counts.shown()
    spot = counts.f1
    lines = [
        ChallengeScore(part, "F1 spotting", spot, shown, RELEASED,
              "" if spot is not None else "the program stops here"),
    ]  # fmt: skip
    names = ("F1 emotion", "recall emotion (UAR)", "STRS")
    if not emotions.true:
        why = "the program stops, or prints NaN, where nothing was spotted"
        return [*lines, *(ChallengeScore(part, n, None, shown, RELEASED, why) for n in names)]
    precision, recall = released_means(emotions, classes)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else float("nan")
    value, why = defined(f1, "it prints NaN: one class only among the pairs, or no emotion right")
    means = {"pairs": len(emotions.true)}
    said = f"mean over {len(classes)} classes"
    printed = precision if value is not None else float("nan")
    for name, number, note in (
        ("F1 emotion", value, why or said),
        ("recall emotion (UAR)", defined(printed, why)[0], why or "this is the mean precision"),
        ("STRS", None if value is None else (spot or 0.0) * value, why or said),
    ):
        lines.append(ChallengeScore(part, name, number, means, RELEASED, note))
    return lines


def released_means(emotions: Emotions, classes: Sequence[str]) -> tuple[float, float]:
    """Macro precision and recall from one two-by-two table a class.

    A class for which all pairs agree with one another on both sides gives a table of one cell; the
    program then counts nothing of it.
    """
    true, pred = np.array(emotions.true), np.array(emotions.pred)
    precisions, recalls = [], []
    for name in classes:
        is_true, is_pred = true == name, pred == name
        one_cell = len(set(is_true.tolist()) | set(is_pred.tolist())) == 1
        tp = 0 if one_cell else int((is_true & is_pred).sum())
        fp = 0 if one_cell else int((~is_true & is_pred).sum())
        fn = 0 if one_cell else int((is_true & ~is_pred).sum())
        precisions.append(tp / (tp + fp) if tp + fp else 0.0)
        recalls.append(tp / (tp + fn) if tp + fn else 0.0)
    return float(np.mean(precisions)), float(np.mean(recalls))


def _blind(part: ChallengePart) -> MatchedPairs:
    return MatchedPairs(shifted(part)["micro"])


def _prior_scores(
    part: str, counts: Counts, found: Emotions, truths: Sequence[str], classes: Sequence[str]
) -> list[ChallengeScore]:
    """Another video's intervals; the commonest emotion of the truth on what was spotted."""
    spot = counts.f1
    why = counts.unknown or NO_INTERVAL
    moved = "each video answered with another's intervals, mean over all shifts"
    shown = {} if counts.unknown else counts.shown()
    line = ChallengeScore(part, "F1 spotting", spot, shown, PRIORS, why if spot is None else moved)
    known = [t for t in truths if t in classes]
    if not found.true or not known:
        return [
            line,
            *(ChallengeScore(part, n, None, {}, PRIORS, NOTHING) for n in ("F1 emotion", "STRS")),
        ]
    best = majority(known)
    always = metrics.recognition(found.true, [best] * len(found.true), classes, "zero")
    pairs = {"pairs": len(found.true)}
    strs = None if spot is None else spot * always.f1_of_means
    return [
        line,
        ChallengeScore(part, "F1 emotion", always.f1_of_means, pairs, PRIORS, f"always {best}"),
        ChallengeScore(
            part, "STRS", strs, pairs, PRIORS, why if strs is None else f"{moved}; {best}"
        ),
    ]


def _ratio(
    part: str, name: str, value: float, of: int, shown: dict[str, float], reason: str
) -> ChallengeScore:
    return ChallengeScore(part, name, value if of else None, shown, note="" if of else reason)
