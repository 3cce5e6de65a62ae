"""Scoring score-curves of videos under a stated protocol: STRS, MEGC counts, average precision.

A protocol says how windows are stitched, decoded, matched and voted. Scoring gives, per video, the
intervals and additive counts (TP, FP, FN and a confusion matrix of the matched events' emotions);
every score is a function of summed counts, so subsets, folds and resamples need no other code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models import metrics
from models.me_tst.labels import EMOTIONS, SpottingTruth
from models.spotting import (
    NEUTRAL,
    Matcher,
    StitchMode,
    decode,
    frame_classes,
    iou_matrix,
    match,
    smooth,
    stitch,
    vote,
)

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

# Flat counts of one video or person: tp, fp, fn, then the confusion matrix (4 true, 4 + 1 voted).
NUM_COUNTS = 3 + len(EMOTIONS) * (len(EMOTIONS) + 1)
THREE_CLASSES, FOUR_CLASSES = EMOTIONS[:3], EMOTIONS
# Micro- and macro-expressions in the challenge's own lists, after its clean-up.
MEGC_OFFICIAL = {"cas_me2": {"micro": 57, "macro": 300}, "samm_lv": {"micro": 159, "macro": 343}}


@dataclass(frozen=True)
class VideoCurves:
    """What a trained fold says about one test video, and what is true of it.

    spot (W, k) and logits (W, k, 5): the network's windows, unstitched. `magnitude` (T,): the
    motion baseline on the stitched axis, T = (W + 1) * k/2. `truth`: micro-expressions in view
    frames. `others` (m, 2): macro-expressions. `k_p`: half-width of the training subjects' events;
    `k_p_global`: of all subjects' events, the tested ones among them.
    """

    dataset: str
    video: str
    subject: str
    person: str
    fold: str
    k: int
    k_p: int
    k_p_global: int
    spot: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    magnitude: npt.NDArray[np.float32]
    truth: SpottingTruth
    others: Ints
    view_index: npt.NDArray[np.int32]
    seconds_per_frame: float

    @property
    def length(self) -> int:
        """Frames of the stitched axis."""
        return (len(self.spot) + 1) * (self.k // 2)


@dataclass(frozen=True)
class Protocol:
    """How curves become counts; see `DecodeConfig` for the meaning of each."""

    p: float = 0.55
    k_p: Literal["train_fold", "global"] | int = "train_fold"
    stitch: StitchMode = "clean"
    matcher: Matcher = "one_to_one"
    iou: float = 0.5
    strategy: int = 2
    batch_size: int = 32
    only_with_events: bool = False


@dataclass(frozen=True)
class VideoResult:
    """Intervals of one video with their fate.

    intervals (n, 3): start, end, peak; votes (n,): class ids; confidence (n,): smoothed score at
    the peak; gt_index (n,): matched event or -1; counts: see NUM_COUNTS.
    """

    curves: VideoCurves
    intervals: Ints
    votes: Ints
    confidence: Reals
    gt_index: Ints
    counts: Ints


def evaluate(videos: Sequence[VideoCurves], protocol: Protocol) -> list[VideoResult]:
    """Decode, match and vote every video; with `only_with_events`, those that have events."""
    kept = scored_videos(videos, protocol)
    results = []
    for curves, (spot, logits) in zip(kept, stitched(kept, protocol), strict=True):
        k_p = half_width_of(curves, protocol)
        intervals = decode(spot, k_p, protocol.p)
        classes = frame_classes(logits, protocol.strategy)
        votes = np.array([vote(classes, s, e) for s, e, _ in intervals], dtype=np.int64)
        confidence = smooth(spot, k_p)[intervals[:, 2]]
        results.append(score_intervals(curves, intervals, votes, confidence, protocol))
    return results


def scored_videos(videos: Sequence[VideoCurves], protocol: Protocol) -> list[VideoCurves]:
    """The videos that the protocol counts, in order."""
    return [v for v in videos if len(v.truth.intervals) or not protocol.only_with_events]


def stitched(
    videos: Sequence[VideoCurves], protocol: Protocol
) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Score (T,) and logits (T, 5) of each video; one subject's windows make one test pass."""
    out: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
    subjects: dict[tuple[str, str], list[int]] = {}
    for i, video in enumerate(videos):
        subjects.setdefault((video.dataset, video.subject), []).append(i)
    for members in subjects.values():
        counts = [len(videos[i].spot) for i in members]
        curves = [
            stitch(
                np.concatenate([getattr(videos[i], name) for i in members]),
                counts,
                videos[members[0]].k,
                protocol.stitch,
                protocol.batch_size,
            )
            for name in ("spot", "logits")
        ]
        out.update(zip(members, zip(*curves, strict=True), strict=True))
    return [out[i] for i in range(len(videos))]


def half_width_of(curves: VideoCurves, protocol: Protocol) -> int:
    """k_p of a video under the protocol: of its fold's training subjects, of all, or as given."""
    if protocol.k_p == "train_fold":
        return curves.k_p
    return curves.k_p_global if protocol.k_p == "global" else int(protocol.k_p)


def score_intervals(
    curves: VideoCurves, intervals: Ints, votes: Ints, confidence: Reals, protocol: Protocol
) -> VideoResult:
    """Match given intervals and count; strategy 1 removes those voted neutral.

    With the one-to-one matcher they are removed before matching. With the authors' they are taken
    back out of the counts, as their code does: an unmatched one costs a false positive less, a
    matched one turns a true positive into a miss.
    """
    truth = curves.truth.intervals[:, [0, 2]]
    neutral = votes == NEUTRAL if protocol.strategy == 1 else np.zeros(len(votes), bool)
    if protocol.matcher == "one_to_one":
        intervals, votes, confidence = (a[~neutral] for a in (intervals, votes, confidence))
        found = match(intervals, truth, protocol.matcher, protocol.iou)
        gt_index, tp, fp, fn = found.gt_index, found.tp, found.fp, found.fn
    else:
        found = match(intervals, truth, protocol.matcher, protocol.iou)
        hit = found.gt_index >= 0
        lost, spared = int((neutral & hit).sum()), int((neutral & ~hit).sum())
        tp, fp, fn = found.tp - lost, found.fp - spared, found.fn + lost
        intervals, votes, confidence = (a[~neutral] for a in (intervals, votes, confidence))
        gt_index = found.gt_index[~neutral]
    confusion = np.zeros((len(EMOTIONS), len(EMOTIONS) + 1), np.int64)
    for index, voted in zip(gt_index, votes, strict=True):
        if index >= 0:
            confusion[curves.truth.emotions[index], voted] += 1
    counts = np.concatenate([[tp, fp, fn], confusion.ravel()]).astype(np.int64)
    return VideoResult(curves, intervals, votes, confidence, gt_index, counts)


# ------------------------------------------------------------------------------- scores of counts


def spotting_of(counts: npt.NDArray[Any]) -> metrics.Spotting:
    """Spotting scores of flat counts."""
    return metrics.spotting(*(int(c) for c in counts[:3]))


def recognition_of(counts: npt.NDArray[Any], classes: Sequence[str]) -> metrics.Recognition:
    """Recognition scores on the matched events, over 3 or 4 emotions.

    With three, events of class "others" are left out and a vote for it stays an error.
    """
    return metrics.recognition_from_counts(confusion_of(counts, classes), list(classes))


def confusion_of(counts: npt.NDArray[Any], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """(C, C + 1) confusion of the matched events, as `models.metrics` reads it."""
    confusion = np.asarray(counts[3:]).reshape(len(EMOTIONS), len(EMOTIONS) + 1)
    n = len(classes)
    inside, beyond = confusion[:n, :n], confusion[:n, n:].sum(axis=1, keepdims=True)
    return np.concatenate([inside, beyond], axis=1).astype(np.int64)


def scored_classes(datasets: Iterable[str]) -> tuple[str, ...]:
    """Emotions that enter STRS: three for SAMM-LV alone, four otherwise."""
    return THREE_CLASSES if set(datasets) == {"samm_lv"} else FOUR_CLASSES


def statistics(
    classes: Sequence[str], reference: npt.NDArray[Any] | None = None
) -> dict[str, Callable[[npt.NDArray[Any]], float]]:
    """Each score by name, as a function of flat counts.

    reference: counts that are resampled from; recognition is then over the classes these have, in
    every resample (see `models.metrics.recognition_statistic`).
    """

    def recog(name: str) -> Callable[[npt.NDArray[Any]], float]:
        if reference is None:
            return lambda counts: float(getattr(recognition_of(counts, classes), name))
        whole = confusion_of(reference, classes)
        fixed = metrics.recognition_statistic(name, list(classes), whole)
        return lambda counts: fixed(confusion_of(counts, classes))

    means = recog("f1_of_means")
    return {
        "strs": lambda c: spotting_of(c).f1 * means(c),
        "spotting_f1": lambda c: spotting_of(c).f1,
        "spotting_precision": lambda c: spotting_of(c).precision,
        "spotting_recall": lambda c: spotting_of(c).recall,
        "f1_of_means": recog("f1_of_means"),
        "uf1": recog("uf1"),
        "uar": recog("uar"),
        "accuracy": recog("accuracy"),
    }


def total(results: Sequence[VideoResult]) -> Ints:
    """Summed counts."""
    return np.sum([np.zeros(NUM_COUNTS, np.int64), *(r.counts for r in results)], axis=0)


# ----------------------------------------------------------------------------- what went wrong


def errors(results: Sequence[VideoResult], classes: Sequence[str]) -> dict[str, int]:
    """Why the score is not 1: counts of each kind of error.

    missed: events that no interval touches; shifted: events touched but below the IoU bound;
    false: intervals that touch no event, false_macro of which lie on a macro-expression;
    near: intervals that touch an event without being its match; wrong_emotion: matched events of
    the scored classes with another vote.
    """
    found = dict.fromkeys(("missed", "shifted", "false", "false_macro", "near", "wrong_emotion"), 0)
    for result in results:
        truth = result.curves.truth
        touch = iou_matrix(result.intervals, truth.intervals[:, [0, 2]]) > 0
        macro = (iou_matrix(result.intervals, result.curves.others) > 0).any(axis=1)
        hit = result.gt_index >= 0
        taken = np.isin(np.arange(len(truth.intervals)), result.gt_index[hit])
        found["missed"] += int((~touch.any(axis=0) & ~taken).sum())
        found["shifted"] += int((touch.any(axis=0) & ~taken).sum())
        found["false"] += int((~touch.any(axis=1)).sum())
        found["false_macro"] += int((~touch.any(axis=1) & macro).sum())
        found["near"] += int((touch.any(axis=1) & ~hit).sum())
        wanted = truth.emotions[result.gt_index[hit]]
        scored = wanted < len(classes)
        found["wrong_emotion"] += int((scored & (wanted != result.votes[hit])).sum())
    return found


# ----------------------------------------------------------------- challenge counts, and precision


def megc_counts(
    predicted: Sequence[npt.NDArray[Any]],
    truth: Sequence[npt.NDArray[Any]],
    num_events: int | None = None,
) -> metrics.Spotting:
    """MEGC's spotting scores of one expression type: all videos are one long video.

    predicted and truth: per video, (n, >=2) inclusive intervals, also for videos without either.
    One-to-one at IoU 0.5. `num_events` replaces the number of events by the official one (events
    that a clean-up removed count as missed).
    """
    matches = [match(p, t) for p, t in zip(predicted, truth, strict=True)]
    tp = sum(m.tp for m in matches)
    events = sum(m.tp + m.fn for m in matches) if num_events is None else num_events
    return metrics.spotting(tp, sum(m.fp for m in matches), events - tp)


def megc_overall(parts: Iterable[metrics.Spotting]) -> metrics.Spotting:
    """Micro- and macro-expressions together: their counts added (MEGC 2020 and later)."""
    listed = list(parts)
    return metrics.spotting(
        sum(s.tp for s in listed), sum(s.fp for s in listed), sum(s.fn for s in listed)
    )


def average_precision(results: Sequence[VideoResult], iou: float = 0.5) -> float:
    """Area under the interpolated precision-recall curve, intervals ranked by confidence.

    Over all videos together. In rank order an interval takes the free event it overlaps most, if
    that reaches `iou`. NaN without events.
    """
    num_events = sum(len(r.curves.truth.intervals) for r in results)
    if not num_events:
        return float("nan")
    ranked = sorted(
        ((float(c), v, i) for v, r in enumerate(results) for i, c in enumerate(r.confidence)),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    overlaps = [iou_matrix(r.intervals, r.curves.truth.intervals[:, [0, 2]]) for r in results]
    hits = []
    for _, video, i in ranked:
        row = overlaps[video][i]
        best = int(row.argmax()) if row.size else -1
        hits.append(best >= 0 and row[best] >= iou)
        if hits[-1]:
            overlaps[video][:, best] = -1.0
    tp = np.cumsum(hits)
    if not len(tp) or not tp[-1]:
        return 0.0
    precision, recall = tp / np.arange(1, len(tp) + 1), tp / num_events
    best_after = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float((best_after * steps).sum())
