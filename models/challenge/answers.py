"""Scores of answered questions: short clips (VQA, 2025 and 2026) and long videos (LVQA, 2026).

A row without an answer is a wrong answer. An answer that cannot be read (no number, no class word)
is said; a count that cannot be read is left out of MAE and RMSE as the only public program does,
and beside it stands the value with 0 in its place, or silence would pay.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from data.challenge.facs import name_of, units_in
from data.challenge.questions import Kind, Question, several
from models.challenge.classes import COARSE, FINE, class_scores, majority
from models.challenge.score import PRIORS, ChallengeScore
from models.challenge.words import (
    CORPUS,
    PAPER,
    SMOOTHED,
    TextRecipe,
    bleu,
    corpus_bleu,
    rouge_1,
)

TYPES = ("micro-expression", "macro-expression")
COUNTED: tuple[tuple[Kind, str], ...] = (
    ("events", "expression events"),
    ("micro_events", "micro-expression events"),
    ("macro_events", "macro-expression events"),
)
AS_ZERO = "an unreadable count taken as 0"
_INTEGER = re.compile(r"\d+")
_MICRO = re.compile(r"^\s*(?:me|micro)\b|micro[- ]?expression", re.IGNORECASE)
_MACRO = re.compile(r"^\s*(?:mae|macro)\b|macro[- ]?expression", re.IGNORECASE)


@dataclass(frozen=True)
class AnswerRow:
    """A question with the true answer and the given one ("" for none); `prior`: the blind one."""

    asked: Question
    truth: str
    answer: str
    prior: str = ""


def paired(truth: Sequence[Question], given: Mapping[str, str]) -> list[AnswerRow]:
    """Truth rows with the answers given to them, and with a blind answer each."""
    blind = prior_answers(truth, truth)
    return [AnswerRow(q, q.answer, given.get(q.id, ""), blind[q.id]) for q in truth]


def prior_answers(asked: Sequence[Question], learnt: Sequence[Question]) -> dict[str, str]:
    """What one answers who has only read `learnt` (answers known) and the questions asked.

    Of each part and kind of question the commonest answer, the wording's "unit" or "units" told
    apart; of counts the median; of the units of a whole video those that most videos have.
    """
    groups: dict[tuple[str, Kind, bool], list[str]] = {}
    for q in learnt:
        groups.setdefault(_group(q), []).append(q.answer.strip().lower())
    found = {}
    for q in asked:
        answers = groups.get(_group(q), [])
        found[q.id] = _blind(q.kind, answers) if answers else ""
    return found


def _group(q: Question) -> tuple[str, Kind, bool]:
    return q.part, q.kind, several(q.question)


def _blind(kind: Kind, answers: Sequence[str]) -> str:
    if kind in ("events", "micro_events", "macro_events"):
        numbers = [n for n in map(count_in, answers) if n is not None]
        return str(round(median(numbers))) if numbers else ""
    if kind == "all_units":
        seen = Counter(u for a in answers for u in units_in(a)[0])
        most = sorted(u for u, n in seen.items() if 2 * n > len(answers))
        return ", ".join(map(name_of, most)) or majority(answers)
    return majority(answers)


def count_in(answer: str) -> int | None:
    """The first whole number of an answer, None without one."""
    found = _INTEGER.search(answer)
    return int(found[0]) if found and len(found[0]) < 9 else None


def type_in(answer: str) -> str:
    """`micro-expression`, `macro-expression`, or "" where both or neither is named."""
    micro, macro = bool(_MICRO.search(answer)), bool(_MACRO.search(answer))
    return "" if micro == macro else TYPES[0] if micro else TYPES[1]


# ------------------------------------------------------------------------------------ short clips


def clip_scores(
    part: str, rows: Sequence[AnswerRow], fine: Sequence[str] = FINE
) -> list[ChallengeScore]:
    """Coarse and fine UF1 and UAR, and the text measures, of one part or of all together."""
    lines: list[ChallengeScore] = []
    for kind, name, declared in (("coarse", "coarse", COARSE), ("fine", "fine", tuple(fine))):
        some = [r for r in rows if r.asked.kind == kind]
        truth = [r.truth.strip().lower() for r in some]
        lines += class_scores(part, name, truth, [r.answer for r in some], declared)
    return lines + text_scores(part, rows)


def text_scores(part: str, rows: Sequence[AnswerRow]) -> list[ChallengeScore]:
    """BLEU-4 and ROUGE-1 by recipe, of the answers and of the blind ones."""
    lines: list[ChallengeScore] = []
    for recipe in (PAPER, SMOOTHED, CORPUS):
        used = [r for r in rows if r.asked.kind == "free" or recipe.rows == "all"]
        for rule, pairs in (("", [(r.truth, r.answer) for r in used]),
                            (PRIORS, [(r.truth, r.prior) for r in used])):  # fmt: skip
            lines += _texts(part, recipe, rule, pairs)
    return lines


def _texts(
    part: str, recipe: TextRecipe, rule: str, pairs: list[tuple[str, str]]
) -> list[ChallengeScore]:
    answered = [p for p in pairs if p[1].strip()]
    kept = pairs if recipe.empty else answered
    counts = {"rows": len(kept), "unanswered": len(pairs) - len(answered)}
    names = [f"{m}, {recipe.name}" for m in ("BLEU-4", "ROUGE-1 recall", "ROUGE-1 F1")]
    if not kept:
        why = f"no row for this recipe ({recipe.rows} questions)"
        return [ChallengeScore(part, name, None, counts, rule, why) for name in names]
    if recipe is CORPUS:
        value = corpus_bleu(kept)
    else:
        smooth = recipe is SMOOTHED
        value = sum(bleu(t, a, smooth=smooth) for t, a in kept) / len(kept)
    rouge = [rouge_1(t, a) for t, a in kept]
    values = (value, *(sum(r[i] for r in rouge) / len(kept) for i in (0, 2)))
    notes = (recipe.about, "stemmed words, mean over the same rows", "the same")
    return [
        ChallengeScore(part, name, v, counts, rule, note)
        for name, v, note in zip(names, values, notes, strict=True)
    ]


# ------------------------------------------------------------------------------------ long videos


def long_scores(part: str, rows: Sequence[AnswerRow]) -> list[ChallengeScore]:
    """Event counts, types and the inventory of action units of one part or of all together."""
    lines: list[ChallengeScore] = []
    for kind, name in COUNTED:
        lines += count_scores(part, name, [r for r in rows if r.asked.kind == kind])
    some = [r for r in rows if r.asked.kind == "event_type"]
    truth = [type_in(r.truth) or r.truth.strip().lower() for r in some]
    given = [type_in(r.answer) or r.answer for r in some]
    lines += class_scores(part, "event type", truth, given, TYPES)
    return lines + unit_scores(part, [r for r in rows if r.asked.kind == "all_units"])


def count_scores(part: str, name: str, rows: Sequence[AnswerRow]) -> list[ChallengeScore]:
    """MAE and RMSE of a number of events."""
    pairs = [(count_in(r.truth), count_in(r.answer)) for r in rows]
    known = [(t, a) for t, a in pairs if t is not None]
    read = [(t, a) for t, a in known if a is not None]
    counts = {"n": len(read), "of": len(rows), "unreadable": len(known) - len(read)}
    blind = [(count_in(r.truth), count_in(r.prior)) for r in rows]
    lines = _errors(part, name, read, counts, "", "no answer with a number in it")
    zeros = [(t, a or 0) for t, a in known]
    lines += _errors(part, name, zeros, counts, AS_ZERO, "no question of this kind")
    unseen = [(t, a) for t, a in blind if t is not None and a is not None]
    few = {"n": len(unseen)}
    return lines + _errors(part, name, unseen, few, PRIORS, "no question of this kind")


def _errors(
    part: str,
    name: str,
    pairs: Sequence[tuple[int, int]],
    counts: Mapping[str, float],
    rule: str,
    reason: str,
) -> list[ChallengeScore]:
    if not pairs:
        return [
            ChallengeScore(part, f"{m} {name}", None, counts, rule, reason) for m in ("MAE", "RMSE")
        ]
    mae = sum(abs(t - a) for t, a in pairs) / len(pairs)
    rmse = math.sqrt(sum((t - a) ** 2 for t, a in pairs) / len(pairs))
    return [
        ChallengeScore(part, f"MAE {name}", mae, counts, rule),
        ChallengeScore(part, f"RMSE {name}", rmse, counts, rule),
    ]


def unit_scores(part: str, rows: Sequence[AnswerRow]) -> list[ChallengeScore]:
    """F1 and Jaccard index of sets of action units, mean over videos; both sets empty is 1."""
    lines: list[ChallengeScore] = []
    for rule in ("", PRIORS):
        given = [units_in(r.prior if rule else r.answer) for r in rows]
        pairs = [(units_in(r.truth)[0], units) for r, (units, _) in zip(rows, given, strict=True)]
        unmapped = sorted({name for _, names in given for name in names})
        counts = {"videos": len(rows), "unmapped names": len(unmapped)}
        note = f"unmapped: {', '.join(unmapped)[:200]}" if unmapped else ""
        if not pairs:
            why = "no question for the action units of a video"
            lines += [
                ChallengeScore(part, m, None, counts, rule, why)
                for m in ("AU set F1", "AU set Jaccard")
            ]
            continue
        scores = [set_scores(t, a) for t, a in pairs]
        for i, name in enumerate(("AU set F1", "AU set Jaccard")):
            value = sum(s[i] for s in scores) / len(scores)
            lines.append(ChallengeScore(part, name, value, counts, rule, note))
    return lines


def set_scores(truth: frozenset[int], given: frozenset[int]) -> tuple[float, float]:
    """F1 and Jaccard index of two sets; 1 of two empty ones, 0 where one is."""
    if not truth and not given:
        return 1.0, 1.0
    same = len(truth & given)
    return 2 * same / (len(truth) + len(given)), same / len(truth | given)
