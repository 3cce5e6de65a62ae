"""Decoders: ways from a network's curves to intervals, and the counts that each of them gives.

A decoder changes what follows the network (box, threshold, half-width, synergy), never its curves,
so a finished run is scored under a hundred of them without training. A curve is stitched once, its
boxes are shared between decoders, and each interval list is counted under three matchers:

    one_to_one  the largest set of pairs (the headline here)
    soft        the authors' counter: every overlapping pair is a hit
    greedy      each interval in time order takes its best event, if that is free

Counts are those of `models.scores.spotting` (NUM_COUNTS) for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.me_tst.labels import EMOTIONS
from models.scores.bootstrap import group_counts
from models.scores.spotting import (
    NUM_COUNTS,
    Protocol,
    VideoCurves,
    half_width_of,
    scored_videos,
    stitched,
)
from models.spotting import NEUTRAL, frame_classes, match, threshold, vote

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Kind = Literal["native", "threshold", "height", "smoothing", "k_p", "strategy", "any"]
MATCHERS = ("one_to_one", "soft", "greedy")
KINDS: tuple[Kind, ...] = (
    "native",
    "threshold",
    "height",
    "smoothing",
    "k_p",
    "strategy",
    "any",
)

P_VALUES = tuple(round(0.30 + 0.05 * i, 2) for i in range(11))
HEIGHTS = tuple(round(0.05 * i, 2) for i in range(1, 20))
BOXES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # times 2 k_p frames; 0: no smoothing
WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times the half-width of the training people
# What "any" tries together, beside every single change.
SOME_LEVELS = (("p", 0.35), ("p", 0.45), ("p", 0.55), ("p", 0.65), ("p", 0.75),
               *(("height", h) for h in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)))  # fmt: skip
SOME_BOXES, SOME_WIDTHS = (0.5, 1.0, 2.0), (0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Decoder:
    """A protocol with what it cannot say: `box`, the smoothing box over 2 k_p (0: none); `width`, a
    factor on k_p; `height`, a smoothed score that a peak must reach in every video alike, in place
    of a threshold between each video's own mean and maximum."""

    protocol: Protocol
    box: float = 1.0
    width: float = 1.0
    height: float | None = None

    def half_width(self, curves: VideoCurves) -> int:
        """k_p of a video, at least 1."""
        k_p = half_width_of(curves, self.protocol)
        return k_p if self.width == 1 else max(1, round(self.width * k_p))

    def label(self) -> str:
        """Its settings in a few words."""
        p = self.protocol
        level = f"p {p.p:g}" if self.height is None else f"height {self.height:g}"
        half = p.k_p if isinstance(p.k_p, int) else p.k_p.replace("_", " ")
        half = f"k_p {half}" if self.width == 1 else f"k_p {half} × {self.width:g}"
        box = "no box" if not self.box else f"box × {self.box:g}"
        return f"{level}, {box}, {half}, strategy {p.strategy}"


def decoders_of(native: Protocol) -> dict[Kind, list[Decoder]]:
    """The decoders of each kind; every list begins with the native one and holds it once.

    The values do not depend on any data.
    """
    own = Decoder(native)

    def p(value: float) -> Decoder:
        return replace(own, protocol=replace(native, p=value))

    single: dict[Kind, list[Decoder]] = {
        "native": [],
        "threshold": [p(value) for value in P_VALUES],
        "height": [replace(own, height=value) for value in HEIGHTS],
        "smoothing": [replace(own, box=value) for value in BOXES],
        "k_p": [replace(own, width=value) for value in WIDTHS],
        "strategy": [replace(own, protocol=replace(native, strategy=value)) for value in (0, 1, 2)],
    }
    together = [
        replace(p(value) if word == "p" else replace(own, height=value), box=box, width=width)
        for (word, value), box, width in product(SOME_LEVELS, SOME_BOXES, SOME_WIDTHS)
    ]
    every = [decoder for some in single.values() for decoder in some]
    found: dict[Kind, list[Decoder]] = {**single, "any": [*every, *together]}
    return {kind: list(dict.fromkeys([own, *some])) for kind, some in found.items()}


@dataclass(frozen=True)
class DecoderCounts:
    """Counts of many decoders: (decoders, matchers, people, NUM_COUNTS), people sorted."""

    decoders: list[Decoder]
    people: list[str]
    counts: Counts
    videos: int
    events: int

    def of(self, decoder: Decoder, matcher: str) -> Counts:
        """(people, NUM_COUNTS)."""
        found: Counts = self.counts[self.decoders.index(decoder), MATCHERS.index(matcher)]
        return found


def count(videos: Sequence[VideoCurves], decoders: Iterable[Decoder]) -> DecoderCounts:
    """Count every decoder on every video. All must stitch alike and count the same videos."""
    chosen = list(dict.fromkeys(decoders))
    protocol = chosen[0].protocol
    kept = scored_videos(videos, protocol)
    counts = np.zeros((len(chosen), len(MATCHERS), len(kept), NUM_COUNTS), np.int64)
    for v, (curves, (spot, logits)) in enumerate(zip(kept, stitched(kept, protocol), strict=True)):
        counts[:, :, v] = _VideoDecoding(curves, spot, logits).counts(chosen)
    people = [curves.person for curves in kept]
    names, grouped = group_counts(people, np.moveaxis(counts, 2, 0))
    events = sum(len(curves.truth.intervals) for curves in kept)
    return DecoderCounts(chosen, names, np.moveaxis(grouped, 0, 2), len(kept), events)


class _VideoDecoding:
    """One video, its boxes and votes kept between decoders."""

    def __init__(
        self, curves: VideoCurves, spot: npt.NDArray[Any], logits: npt.NDArray[Any]
    ) -> None:
        self.curves, self.logits = curves, logits
        self.spot = np.asarray(spot, np.float64)
        self.truth = curves.truth.intervals[:, [0, 2]]
        self._boxes: dict[int, Reals] = {}
        self._classes: dict[int, npt.NDArray[np.int64]] = {}
        self._votes: dict[tuple[int, int, int], int] = {}
        self._counts: dict[tuple[Any, ...], Counts] = {}

    def counts(self, decoders: Sequence[Decoder]) -> Counts:
        """(decoders, matchers, NUM_COUNTS)."""
        return np.stack([self._of(decoder) for decoder in decoders])

    def _of(self, decoder: Decoder) -> Counts:
        k_p, strategy = decoder.half_width(self.curves), decoder.protocol.strategy
        intervals = self._intervals(decoder, k_p)
        neutral = np.zeros(len(intervals), bool)
        if strategy == 1:
            neutral = np.array([self._vote(1, s, e) == NEUTRAL for s, e in intervals], bool)
        iou = decoder.protocol.iou
        key = (intervals.tobytes(), strategy, neutral.tobytes(), iou)
        if key not in self._counts:
            self._counts[key] = self._count(intervals, strategy, neutral, iou)
        return self._counts[key]

    def _intervals(self, decoder: Decoder, k_p: int) -> npt.NDArray[np.int64]:
        """(n, 2): as `models.spotting.decode`, whose box, threshold and distance are one k_p's."""
        from scipy.signal import find_peaks  # here: networks are trained without scipy too

        box = self._smoothed(round(decoder.box * 2 * k_p))
        p = decoder.protocol.p
        level = threshold(box, p) if decoder.height is None else decoder.height
        peaks, _ = find_peaks(box, height=level, distance=k_p)
        found: npt.NDArray[np.int64] = np.stack([peaks - k_p, peaks + k_p], axis=1).astype(np.int64)
        return found

    def _smoothed(self, frames: int) -> Reals:
        if frames < 2:
            return self.spot
        if frames not in self._boxes:
            whole = np.convolve(self.spot, np.ones(frames) / frames)
            start = frames // 2 - 1 if frames % 2 == 0 else frames // 2
            self._boxes[frames] = whole[start : start + len(self.spot)]
        return self._boxes[frames]

    def _vote(self, strategy: int, start: int, end: int) -> int:
        names = 2 if strategy == 2 else 1  # 0 and 1 read the curves alike
        key = (names, start, end)
        if key not in self._votes:
            if names not in self._classes:
                self._classes[names] = frame_classes(self.logits, names)
            self._votes[key] = vote(self._classes[names], start, end)
        return self._votes[key]

    def _count(
        self,
        intervals: npt.NDArray[np.int64],
        strategy: int,
        neutral: npt.NDArray[np.bool_],
        iou: float,
    ) -> Counts:
        """(matchers, NUM_COUNTS); what is voted neutral is removed as `score_intervals` does."""
        out = np.zeros((len(MATCHERS), NUM_COUNTS), np.int64)
        near = self._near(intervals, iou)  # the others are false alarms under any matcher
        far = int((~near & ~neutral).sum())
        intervals, neutral = intervals[near], neutral[near]
        if not len(intervals):
            out[:, 1], out[:, 2] = far, len(self.truth)
            return out
        kept = intervals[~neutral]
        clean = self._match(kept, "one_to_one", iou)
        out[0] = self._row((clean.tp, clean.fp, clean.fn), kept, clean.gt_index, strategy)
        loose = self._match(intervals, "authors", iou)
        hit = loose.gt_index >= 0
        lost, spared = int((neutral & hit).sum()), int((neutral & ~hit).sum())
        soft = loose.tp - lost, loose.fp - spared, loose.fn + lost
        out[1] = self._row(soft, kept, loose.gt_index[~neutral], strategy)
        taken = int((hit & ~neutral).sum())
        greedy = taken, len(kept) - taken, len(self.truth) - taken
        out[2] = self._row(greedy, kept, loose.gt_index[~neutral], strategy)
        out[:, 1] += far
        return out

    def _near(self, intervals: npt.NDArray[np.int64], iou: float) -> npt.NDArray[np.bool_]:
        """(n,): which intervals reach `iou` with any event."""
        a, b = intervals[:, None], self.truth[None]
        inter = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]) + 1
        both = a[..., 1] - a[..., 0] + b[..., 1] - b[..., 0] + 2
        near: npt.NDArray[np.bool_] = inter >= iou * (both - np.maximum(inter, 0)) * (1 - 1e-12)
        return np.asarray(near.any(axis=1), np.bool_)

    def _match(self, intervals: npt.NDArray[np.int64], matcher: Any, iou: float) -> Any:
        return match(intervals, self.truth, matcher, iou)

    def _row(
        self,
        spotted: tuple[int, int, int],
        intervals: npt.NDArray[np.int64],
        gt_index: npt.NDArray[np.int64],
        strategy: int,
    ) -> Counts:
        confusion = np.zeros((len(EMOTIONS), len(EMOTIONS) + 1), np.int64)
        for i in np.flatnonzero(gt_index >= 0):
            voted = self._vote(strategy, int(intervals[i, 0]), int(intervals[i, 1]))
            confusion[self.curves.truth.emotions[gt_index[i]], voted] += 1
        return np.concatenate([spotted, confusion.ravel()]).astype(np.int64)
