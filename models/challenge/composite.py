"""MEGC 2019: UF1 and UAR of three classes over the clips of three databases, counts pooled.

A database's score is the same predictions restricted to it. Beside the definition stand two
computations found in public code: one drops a class that a subset holds no sample of, which raises
the mean; one weights F1 by how many samples a class has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.challenge.clips import CLASSES, ChallengeClip
from models.challenge.classes import majority
from models.challenge.score import OVERALL, PRIORS, ChallengeScore
from models.metrics import Recognition, confusion_counts, recognition

DROPPED = "a class without a two-by-two table is dropped (MEAN, HTNet, STSTNet)"
WEIGHTED = "F1 weighted by samples (SAC2-Net)"
UNANSWERED = "unanswered"


def composite_scores(
    truth: Sequence[ChallengeClip], pred: Sequence[ChallengeClip]
) -> list[ChallengeScore]:
    """Lines of every database, then of all. A clip without a prediction is a wrong answer."""
    given = {c.key: c.label for c in pred}
    names = sorted({c.database for c in truth})
    lines: list[ChallengeScore] = []
    for part in [*names, *([OVERALL] if len(names) > 1 else [])]:
        some = [c for c in truth if part in (c.database, OVERALL) and c.label in CLASSES]
        outside = sum(part in (c.database, OVERALL) for c in truth) - len(some)
        true = [c.label for c in some]
        answers = [given.get(c.key, UNANSWERED) for c in some]
        lines += _of_part(part, true, answers, outside)
    return lines


def _of_part(part: str, true: list[str], answers: list[str], outside: int) -> list[ChallengeScore]:
    counts = {
        "clips": len(true),
        "right": sum(t == a for t, a in zip(true, answers, strict=True)),
        "unanswered": answers.count(UNANSWERED),
        "outside the classes": outside,
    }
    shown = {n: c for n, c in counts.items() if c or n in ("clips", "right")}
    names = ("UF1", "UAR", "accuracy")
    if not true:
        why = f"no clip whose class is one of {', '.join(CLASSES)}"
        return [ChallengeScore(part, name, None, shown, note=why) for name in names]
    seen = [c for c in CLASSES if c in true]
    lines: list[ChallengeScore] = []

    def add(found: Recognition, rule: str, note: str) -> None:
        for name, value in zip(names, (found.uf1, found.uar, found.accuracy), strict=True):
            lines.append(ChallengeScore(part, name, value, shown, rule, note))

    add(recognition(true, answers, seen, "zero"), "", f"over {', '.join(seen)}")
    if len(seen) < len(CLASSES):
        every = recognition(true, answers, CLASSES, "zero")
        add(every, f"all {len(CLASSES)} classes", "a class without a clip counts 0")
    f1, recall = _dropping(true, answers)
    if f1:
        lines.append(
            ChallengeScore(part, "UF1", float(np.mean(f1)), shown, DROPPED, f"{len(f1)} classes")
        )
        lines.append(
            ChallengeScore(
                part, "UAR", float(np.mean(recall)), shown, DROPPED, f"{len(f1)} classes"
            )
        )
    else:
        why = "every class is dropped: the program divides by 0"
        lines += [ChallengeScore(part, n, None, shown, DROPPED, why) for n in ("UF1", "UAR")]
    whole = recognition(true, answers, seen, "zero")
    support = confusion_counts(true, answers, seen).sum(axis=1)
    weighted = float((np.nan_to_num(whole.f1) * support).sum() / support.sum())
    lines.append(ChallengeScore(part, "UF1", weighted, shown, WEIGHTED, "this is no UF1"))
    best = majority(true)
    add(recognition(true, [best] * len(true), seen, "zero"), PRIORS, f"always {best}")
    return lines


def _dropping(true: list[str], answers: list[str]) -> tuple[list[float], list[float]]:
    """F1 and recall of the classes whose pairs do not all agree with one another."""
    f1, recall = [], []
    for name in CLASSES:
        is_true, is_pred = np.array(true) == name, np.array(answers) == name
        if len(set(is_true.tolist()) | set(is_pred.tolist())) == 1:
            continue
        tp, missed = int((is_true & is_pred).sum()), int((is_true & ~is_pred).sum())
        false = int((~is_true & is_pred).sum())
        f1.append(2 * tp / (2 * tp + false + missed) if tp else 0.0)
        recall.append(tp / (tp + missed) if tp else 0.0)
    return f1, recall
