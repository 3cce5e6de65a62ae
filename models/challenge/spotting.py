"""Spotting scores of a challenge: counts over all videos of a part, and over all parts together.

A part is one of the test set's datasets. Its counts are summed over its videos before any ratio is
taken, and the overall score is that of the parts' summed counts, never the mean of their F1. Micro
and macro are matched apart and "total" adds their counts (2020 on); whether the hidden scorer of
2022 to 2024 asked for the type at all is not known, so the score without types stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from data.challenge.forms import SpottedInterval
from models import metrics
from models.challenge.matchers import Rule, find
from models.challenge.score import OVERALL, PRIORS, ChallengeScore

TYPES = {"me": "micro", "mae": "macro"}
BASELINE_2020 = "baseline of 2020 (distinct truths, silent videos skipped)"
NO_INTERVAL = "neither an event nor a prediction"
STRICT = "overlap above 0.5, not at it"
MATCHERS: dict[Rule, str] = {
    "soft_pairs": "every overlapping pair counts (ME-TST's spotting)",
    "best_truth": "each looks at its best event only (ME-TST's recognition)",
    "row_order": "in row order (STRS-Metric)",
    "iou_greedy": "by falling overlap (MEWM)",
}


@dataclass(frozen=True)
class ChallengePart:
    """Truth and predictions of one dataset of the test set."""

    name: str
    truth: tuple[SpottedInterval, ...]
    pred: tuple[SpottedInterval, ...]

    @property
    def videos(self) -> list[str]:
        """Every video that either side names, sorted."""
        return sorted({i.video for i in (*self.truth, *self.pred)})


@dataclass(frozen=True)
class Counts:
    """Summed counts; `num_pred` and `num_truth` are P and T. `unknown`: why nothing was counted."""

    tp: float = 0  # of the mean over shifts a fraction
    hits: float = 0
    num_pred: int = 0
    num_truth: int = 0
    videos: int = 0
    unknown: str = ""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.hits + other.hits,
            self.num_pred + other.num_pred,
            self.num_truth + other.num_truth,
            self.videos + other.videos,
            self.unknown or other.unknown,
        )

    @property
    def f1(self) -> float | None:
        """2 TP / (P + T); None without an event and a prediction, or where `unknown`."""
        if self.unknown or not self.num_pred + self.num_truth:
            return None
        if self.hits == self.tp:
            return 2 * self.tp / (self.num_pred + self.num_truth)
        precision = self.hits / self.num_pred if self.num_pred else 0.0
        recall = self.tp / self.num_truth if self.num_truth else 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    @property
    def spotting(self) -> metrics.Spotting:
        """The same counts as the metrics room has them."""
        tp, hits = int(self.tp), int(self.hits)
        return metrics.spotting(tp, self.num_pred - hits, self.num_truth - tp)

    def shown(self) -> dict[str, float]:
        """What a reader sees."""
        return {
            "TP": self.tp, "P": self.num_pred, "T": self.num_truth, "videos": self.videos,
        }  # fmt: skip


@dataclass(frozen=True)
class MatchedPairs:
    """Counts, and the matched (prediction, event) pairs behind them."""

    counts: Counts
    matched: tuple[tuple[SpottedInterval, SpottedInterval], ...] = field(default=())


def count(
    part: ChallengePart,
    rule: Rule = "optimal",
    *,
    strict: bool = False,
    skip: Callable[[str], bool] = lambda video: False,
) -> MatchedPairs:
    """Counts of a part over its videos but those to `skip`, whatever the intervals' types."""
    total, matched = Counts(), []
    for video in part.videos:
        if skip(video):
            continue
        pred = [i for i in part.pred if i.video == video]
        truth = [i for i in part.truth if i.video == video]
        found = find(_array(pred), _array(truth), rule, strict=strict)
        total += Counts(found.tp, found.hits, found.num_pred, found.num_truth, 1)
        matched += [(pred[p], truth[t]) for p, t in found.pairs]
    return MatchedPairs(total, tuple(matched))


def of_type(part: ChallengePart, kind: str) -> ChallengePart:
    """The part's intervals of one type, `me` or `mae`."""
    truth, pred = (tuple(i for i in s if i.type == kind) for s in (part.truth, part.pred))
    return ChallengePart(part.name, truth, pred)


def typed(
    part: ChallengePart, rule: Rule = "optimal", *, strict: bool = False
) -> dict[str, Counts]:
    """Counts of micro, macro and both added, each matched within its type."""
    by_type = {
        word: count(of_type(part, kind), rule, strict=strict).counts for kind, word in TYPES.items()
    }
    both = by_type["micro"] + by_type["macro"]
    return {**by_type, "total": replace(both, videos=len(part.videos))}


def spotting_scores(parts: Sequence[ChallengePart]) -> list[ChallengeScore]:
    """F1 of micro, macro and total, with and without types, of each part and of all together."""
    lines: list[ChallengeScore] = []
    sheets: list[tuple[str, str, Callable[[ChallengePart], dict[str, Counts]]]] = [
        ("", "", typed),
        ("", "", lambda part: {"total, types not compared": count(part).counts}),
        (BASELINE_2020, "the smaller of its two precisions", _as_in_2020),
        (STRICT, "as several public programs test", lambda part: typed(part, strict=True)),
        *((name, "", partial(typed, rule=rule)) for rule, name in MATCHERS.items()),
        (PRIORS, "each video answered with another's intervals, mean over all shifts", shifted),
    ]
    for rule, note, counted in sheets:
        every = [(part.name, counted(part)) for part in parts]
        if len(parts) > 1:
            names = every[0][1].keys() if every else ()
            overall = {n: sum((c[n] for _, c in every), Counts()) for n in names}
            every.append((OVERALL, overall))
        for name, sums in every:
            lines += [_line(name, what, c, rule, note) for what, c in sums.items()]
    return lines


def _line(part: str, what: str, counts: Counts, rule: str, note: str) -> ChallengeScore:
    f1 = counts.f1
    why = counts.unknown or NO_INTERVAL
    shown = {} if counts.unknown else counts.shown()
    return ChallengeScore(part, f"F1 {what}", f1, shown, rule, why if f1 is None else note)


def _as_in_2020(part: ChallengePart) -> dict[str, Counts]:
    """A video of which a type was not predicted lost its events without a word."""
    found = {}
    for kind, word in TYPES.items():
        only = of_type(part, kind)
        answered = {i.video for i in only.pred}
        silent = frozenset(only.videos) - answered
        found[word] = count(only, "distinct_truths", skip=silent.__contains__).counts
    return {**found, "total": found["micro"] + found["macro"]}


def shifted(part: ChallengePart) -> dict[str, Counts]:
    """Mean counts over all ways to give each video the next ones' intervals.

    When and how many, without a look at the video. `unknown` where there is one video only.
    """
    videos = part.videos
    if len(videos) == 1:
        why = f"{part.name} has one video only: there is no other to take intervals from"
        return {name: Counts(unknown=why) for name in ("micro", "macro", "total")}
    found: list[dict[str, Counts]] = []
    for step in range(1, len(videos)):
        place = {v: videos[(i + step) % len(videos)] for i, v in enumerate(videos)}
        moved = tuple(i.moved(place[i.video]) for i in part.pred)
        found.append(typed(ChallengePart(part.name, part.truth, moved)))
    return {
        name: replace(  # P, T and videos are those of every shift
            found[0][name] if found else Counts(),
            tp=sum(one[name].tp for one in found) / max(1, len(found)),
            hits=sum(one[name].hits for one in found) / max(1, len(found)),
        )
        for name in ("micro", "macro", "total")
    }


def _array(intervals: Iterable[SpottedInterval]) -> npt.NDArray[np.int64]:
    return np.array([(i.onset, i.offset) for i in intervals], np.int64).reshape(-1, 2)
