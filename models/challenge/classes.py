"""UF1 and UAR of named answers: over which classes, and what an answer outside them is.

One file of answers has several scores, one per list of classes; none is worth comparing without
the list. The headline is over the declared classes that occur in the truth; beside it stand all
declared classes (one never asked for counts 0), and the lists that published code makes of the
answers themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from models.challenge.score import PRIORS, ChallengeScore
from models.metrics import Recognition, recognition

COARSE = ("positive", "negative", "surprise")
FINE = ("happiness", "surprise", "fear", "disgust", "anger", "sadness")
UNMAPPED = "unmapped"
UNION = "classes of truth and answers (Humphrey-0125)"
TRUTH_ONLY = "classes of the truth, declared or not (null-xy)"


def answer_class(answer: str, declared: Sequence[str]) -> str:
    """The class an answer names: exactly, else by the one class word in it, else `UNMAPPED`."""
    words = answer.strip().lower()
    if words in declared:
        return words
    found = {c for c in declared if re.search(rf"\b{re.escape(c)}\b", words)}
    return found.pop() if len(found) == 1 else UNMAPPED


def class_scores(
    part: str,
    name: str,
    truth: Sequence[str],
    answers: Sequence[str],
    declared: Sequence[str],
) -> list[ChallengeScore]:
    """UF1 and UAR of `answers` (as long as `truth`; "" for none given), a line per rule.

    Priors only always answers the commonest class of `truth`. Samples whose true class is not
    declared are left out and counted.
    """
    kept = [(t, a) for t, a in zip(truth, answers, strict=True) if t in declared]
    outside = len(truth) - len(kept)
    true = [t for t, _ in kept]
    given = [answer_class(a, declared) for _, a in kept]
    raw = [a.strip().lower() for _, a in kept]
    counts = {
        "rows": len(kept),
        "right": sum(t == g for t, g in zip(true, given, strict=True)),
        "unmapped": given.count(UNMAPPED),
        "unanswered": raw.count(""),
        "outside": outside,
    }
    shown = {n: c for n, c in counts.items() if c or n in ("rows", "right")}
    if not kept:
        why = f"no row whose true class is one of {', '.join(declared)}"
        return [ChallengeScore(part, f"{name} {m}", None, shown, note=why) for m in ("UF1", "UAR")]
    support = [c for c in declared if c in set(true)]
    lines: list[ChallengeScore] = []

    def add(found: Recognition, rule: str, note: str) -> None:
        for measure, value in (("UF1", found.uf1), ("UAR", found.uar)):
            lines.append(ChallengeScore(part, f"{name} {measure}", value, shown, rule, note))

    add(recognition(true, given, support, "zero"), "", f"over {', '.join(support)}")
    every = f"all {len(declared)} declared classes"
    add(recognition(true, given, list(declared), "zero"), every, "a class never asked for is 0")
    answered = [(t, a) for t, a in zip(true, raw, strict=True) if a]
    if answered:
        union = sorted({c for pair in answered for c in pair})
        found = recognition([t for t, _ in answered], [a for _, a in answered], union, "zero")
        add(found, UNION, f"{len(union)} classes; unanswered dropped")
    truths = sorted({t.strip().lower() for t in truth})
    exact = [a.strip().lower() for a in answers]
    add(recognition(list(truth), exact, truths, "zero"), TRUTH_ONLY, f"{len(truths)} classes")
    best = majority(true)
    always = recognition(true, [best] * len(true), support, "zero")
    add(always, PRIORS, f"always {best}")
    return lines


def majority(classes: Sequence[str]) -> str:
    """The commonest, of equally common ones the first in the alphabet."""
    counted = Counter(classes)
    return min(counted, key=lambda c: (-counted[c], c))
