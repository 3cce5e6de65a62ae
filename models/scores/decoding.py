"""Is another decoder better? The choice nested over people, and what chance would make of it.

For each kind of decoder three figures stand side by side: the native decoder's; the kind's when
each person's decoder is chosen on the *other* people only (what a new person may expect); and the
kind's best on all people, chosen on those it is scored on and therefore flattering. Differences are
paired over people (`models.scores.bootstrap`); the choices are held fixed in the resamples.

The curves themselves are the folds': the networks behind other people's curves were trained on this
person too, as in every choice nested into one cross-validation. Only the decoder is chosen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from data.errors import ConfigError
from models.me_tst.labels import EMOTIONS
from models.scores.bootstrap import Difference, subject_weights
from models.scores.decoders import KINDS, MATCHERS, Decoder, DecoderCounts, Kind, count, decoders_of
from models.scores.spotting import Protocol, VideoCurves, scored_classes, spotting_of, statistics

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
OBJECTIVES = ("spotting_f1", "strs")
KIND_WORDS: Mapping[Kind, str] = {
    "native": "the recipe's own decoder",
    "threshold": "p between a video's mean and maximum",
    "height": "one score that a peak must reach in every video",
    "smoothing": "length of the box",
    "k_p": "half-width of an interval",
    "strategy": "synergy 0, 1 or 2 (0 was not trained as such)",
    "any": "any of these, and level × box × half-width together",
}


@dataclass(frozen=True)
class DecoderRow:
    """A decoder, or a choice among a kind's, scored on all people.

    how: "as set", "nested" (chosen on other people) or "best" (chosen on the tested people).
    chosen: settings → people that got them. f1: spotting F1 under each matcher.
    """

    kind: Kind
    how: str
    chosen: dict[str, int]
    counts: Counts  # (people, NUM_COUNTS) under the study's matcher
    value: float  # of the objective
    low: float
    high: float
    tp: int
    fp: int
    fn: int
    strs: float
    f1: dict[str, float]
    against_native: Difference | None


@dataclass(frozen=True)
class Study:
    """All kinds of decoders on one run's curves."""

    rows: list[DecoderRow]
    pairs: list[tuple[Kind, Kind, Difference]]  # nested choices of two kinds: first minus second
    objective: str
    matcher: str
    people: int
    videos: int
    events: int
    decoders: int


def study(
    videos: Sequence[VideoCurves],
    native: Protocol,
    *,
    kinds: Sequence[Kind] = KINDS,
    objective: str = "spotting_f1",
    draws: int = 1000,
    seed: int = 0,
) -> Study:
    """Score the decoders of these kinds and the native one.

    The recipe's matcher decides the choice; all three are reported. Raises ConfigError for an
    unknown kind or objective, and for curves of fewer than two people.
    """
    _check(kinds, objective)
    lists = decoders_of(native)
    wanted: list[Kind] = list(dict.fromkeys(["native", *kinds]))
    counted = count(videos, [d for kind in wanted for d in lists[kind]])
    people = len(counted.people)
    if people < 2:
        raise ConfigError(
            "decode",
            expected="curves of at least two people: a decoder is chosen on the others",
            got=str(people),
            code="too_few_people",
        )
    work = _Choosing(counted, native, objective, scored_classes(c.dataset for c in videos))
    given: list[tuple[Kind, str, list[Decoder]]] = [("native", "as set", lists["native"] * people)]
    for kind in wanted[1:]:
        given.append((kind, "nested", work.nested(lists[kind])))
        given.append((kind, "best", [work.best(lists[kind])] * people))
    counts = [work.counts_of(each) for *_, each in given]
    scoring = _Scoring(counts, work, draws, seed)
    rows = [scoring.row(number, *one) for number, one in enumerate(given)]
    fair = [number for number, row in enumerate(rows) if row.how != "best"]
    pairs = [
        (rows[a].kind, rows[b].kind, scoring.difference(a, b)) for a, b in combinations(fair, 2)
    ]
    return Study(
        rows,
        pairs,
        objective,
        work.matcher,
        people,
        counted.videos,
        counted.events,
        len(counted.decoders),
    )


def _check(kinds: Sequence[str], objective: str) -> None:
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError("decode --kind", expected=f"among {', '.join(KINDS)}", got=unknown[0])
    if objective not in OBJECTIVES:
        raise ConfigError("decode --by", expected=" or ".join(OBJECTIVES), got=objective)


def score_many(counts: Counts, objective: str, classes: Sequence[str], reference: Counts) -> Reals:
    """The objective of many flat counts (N, NUM_COUNTS) at once, NaN nowhere.

    Recognition is over the scored classes that `reference` has, as
    `models.scores.spotting.statistics(classes, reference)` has it.
    """
    tp, fp, fn = (counts[:, i].astype(np.float64) for i in range(3))
    f1 = _harmonic(_ratio(tp, tp + fp), _ratio(tp, tp + fn))
    if objective == "spotting_f1":
        return f1
    size, n = len(EMOTIONS), len(classes)
    shape = (-1, size, size + 1)
    own = reference[None, 3:].reshape(shape)[0, :n]
    there = np.flatnonzero((own.sum(axis=1) > 0) | (own[:, :n].sum(axis=0) > 0))
    rows = counts[:, 3:].reshape(shape)[:, there].astype(np.float64)
    inside = rows[:, :, there]
    hits = np.einsum("ncc->nc", inside)
    precision = _ratio(hits, inside.sum(axis=1)).mean(axis=1) if len(there) else 0 * f1
    recall = _ratio(hits, rows.sum(axis=2)).mean(axis=1) if len(there) else 0 * f1
    return f1 * _harmonic(precision, recall)


def _ratio(numerator: Reals, denominator: Reals) -> Reals:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), 0.0)


def _harmonic(a: Reals, b: Reals) -> Reals:
    return _ratio(2 * a * b, a + b)


class _Choosing:
    """Choices by the objective under one matcher."""

    def __init__(
        self, counted: DecoderCounts, native: Protocol, objective: str, classes: Sequence[str]
    ) -> None:
        self.matcher = "one_to_one" if native.matcher == "one_to_one" else "soft"
        self.counted, self.objective, self.classes = counted, objective, classes
        self.place = {decoder: i for i, decoder in enumerate(counted.decoders)}
        self.counts = counted.counts[:, MATCHERS.index(self.matcher)]  # (decoders, people, …)
        self.total = self.counts.sum(axis=1)
        self.reference = self.total.sum(axis=0)

    def nested(self, some: Sequence[Decoder]) -> list[Decoder]:
        """Each person's decoder, chosen on all others."""
        own = np.moveaxis(self.counts, 1, 0)
        return [self._choose(some, self.total - mine) for mine in own]

    def best(self, some: Sequence[Decoder]) -> Decoder:
        """The decoder chosen on the people it is scored on."""
        return self._choose(some, self.total)

    def _choose(self, some: Sequence[Decoder], sums: Counts) -> Decoder:
        """The best by sums of counts (decoders, …); of equals the first: the native one leads."""
        places = [self.place[decoder] for decoder in some]
        values = score_many(sums[places], self.objective, self.classes, self.reference)
        return some[int(np.argmax(values))]

    def counts_of(self, each: Sequence[Decoder]) -> Counts:
        """(matchers, people, NUM_COUNTS) with one decoder per person."""
        at = [self.place[decoder] for decoder in each]
        found: Counts = self.counted.counts[at, :, np.arange(len(each))]
        return np.moveaxis(found, 1, 0)


class _Scoring:
    """Values, intervals and differences of several choices on the same draws of people."""

    def __init__(self, counts: list[Counts], work: _Choosing, draws: int, seed: int) -> None:
        self.counts, self.work = counts, work
        self.own = [c[MATCHERS.index(work.matcher)] for c in counts]
        weights = subject_weights(len(work.counted.people), draws, seed)
        args = work.objective, work.classes, work.reference
        self.values = [float(score_many(c.sum(axis=0)[None], *args)[0]) for c in self.own]
        flat = [c.reshape(len(c), -1) for c in self.own]
        self.drawn = [score_many(weights @ c, *args) for c in flat]

    def difference(self, a: int, b: int) -> Difference:
        """Choice a minus choice b, paired over people."""
        gap = self.drawn[a] - self.drawn[b]
        low, high = np.percentile(gap, [2.5, 97.5])
        share = float(((gap > 0) + 0.5 * (gap == 0)).mean())  # a tie favours neither
        value = self.values[a] - self.values[b]
        return Difference(value, float(low), float(high), share, len(gap))

    def row(self, number: int, kind: Kind, how: str, each: Sequence[Decoder]) -> DecoderRow:
        """One choice as a row; the native one is number 0."""
        total = self.own[number].sum(axis=0)
        spot = spotting_of(total)
        low, high = np.percentile(self.drawn[number], [2.5, 97.5])
        pooled = self.counts[number].sum(axis=1)
        return DecoderRow(
            kind,
            how,
            dict(Counter(decoder.label() for decoder in each).most_common()),
            self.own[number],
            self.values[number],
            float(low),
            float(high),
            spot.tp,
            spot.fp,
            spot.fn,
            statistics(self.work.classes, total)["strs"](total),
            {m: spotting_of(pooled[i]).f1 for i, m in enumerate(MATCHERS)},
            self.difference(number, 0) if number else None,
        )
