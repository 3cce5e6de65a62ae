"""What a spotting score is worth: three baselines scored by the same protocol, on the same videos.

Thresholding motion without learning (as MEAN's predecessors do), random intervals at the network's
own rate, and perfect intervals with the network's voted emotion, the ceiling of spotting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.metrics import strs
from models.scores.spotting import (
    Protocol,
    VideoCurves,
    VideoResult,
    half_width_of,
    recognition_of,
    score_intervals,
    scored_videos,
    spotting_of,
    stitched,
    total,
)
from models.spotting import decode, frame_classes, smooth, vote

RANDOM_DRAWS = 200


def flow_magnitude(motion: npt.NDArray[np.float32], lag: int) -> npt.NDArray[np.float32]:
    """Mean ROI speed of each frame: (W, C, k) motion -> (T,) px, T = (W + 1) * k/2.

    The length of each ROI's displacement from frame t - lag/2 to t + lag/2, averaged over ROIs,
    both frames being taken from one window, so that the windows' own references cancel. Zero where
    the video has no such pair. `lag` is cut to k/2, the most that always fits into a window.
    """
    windows, channels, k = motion.shape
    half = k // 2
    lag = min(max(1, lag), half)
    length = (windows + 1) * half
    start = np.arange(length - lag)
    window = np.minimum(start // half, windows - 1)
    inside = start - window * half
    # The last window has no successor: pairs beyond its end do not exist.
    fits = inside + lag < k
    start, window, inside = start[fits], window[fits], inside[fits]
    step = motion[window, :, inside + lag] - motion[window, :, inside]
    speed = np.linalg.norm(step.reshape(len(step), channels // 2, 2), axis=2).mean(axis=1)
    out = np.zeros(length, np.float32)
    out[start + lag // 2] = speed
    return out


def threshold_motion(videos: Sequence[VideoCurves], protocol: Protocol) -> list[VideoResult]:
    """Flow magnitude decoded exactly as a network's score, with the network's voted emotion."""
    kept = scored_videos(videos, protocol)
    results = []
    for curves, (_, logits) in zip(kept, stitched(kept, protocol), strict=True):
        k_p = half_width_of(curves, protocol)
        intervals = decode(curves.magnitude, k_p, protocol.p)
        votes = _votes(logits, intervals, protocol.strategy)
        confidence = smooth(curves.magnitude, k_p)[intervals[:, 2]]
        results.append(score_intervals(curves, intervals, votes, confidence, protocol))
    return results


def perfect_intervals(videos: Sequence[VideoCurves], protocol: Protocol) -> list[VideoResult]:
    """The annotated intervals themselves, with the emotion the network votes inside them."""
    kept = scored_videos(videos, protocol)
    # Neutral is no candidate here: removing a perfect interval would not be perfect spotting.
    strategy = 2 if protocol.strategy == 1 else protocol.strategy
    given = Protocol(iou=protocol.iou, matcher=protocol.matcher, strategy=strategy)
    results = []
    for curves, (_, logits) in zip(kept, stitched(kept, protocol), strict=True):
        intervals = curves.truth.intervals[:, [0, 2, 1]]
        votes = _votes(logits, intervals, strategy)
        ones = np.ones(len(intervals))
        results.append(score_intervals(curves, intervals, votes, ones, given))
    return results


def random_intervals(
    results: Sequence[VideoResult],
    protocol: Protocol,
    classes: Sequence[str],
    seed: int = 0,
    draws: int = RANDOM_DRAWS,
) -> dict[str, float]:
    """Mean scores of as many intervals per video as `results` have, at random places, with random
    emotions: spotting_f1, spotting_precision, spotting_recall, f1_of_means, strs.
    """
    rng = np.random.default_rng(seed)
    widths = [half_width_of(r.curves, protocol) for r in results]
    given = Protocol(iou=protocol.iou, matcher=protocol.matcher)
    scores = []
    for _ in range(draws):
        drawn = []
        for result, k_p in zip(results, widths, strict=True):
            n = len(result.intervals)
            peaks = rng.integers(0, result.curves.length, n)
            intervals = np.stack([peaks - k_p, peaks + k_p, peaks], axis=1)
            votes = rng.integers(0, 4, n)
            drawn.append(score_intervals(result.curves, intervals, votes, np.ones(n), given))
        counts = total(drawn)
        spot, recog = spotting_of(counts), recognition_of(counts, classes)
        scores.append((spot.f1, spot.precision, spot.recall, recog.f1_of_means, strs(spot, recog)))
    names = ("spotting_f1", "spotting_precision", "spotting_recall", "f1_of_means", "strs")
    return dict(zip(names, np.mean(scores, axis=0).tolist(), strict=True))


def _votes(
    logits: npt.NDArray[np.float32], intervals: npt.NDArray[np.int64], strategy: int
) -> npt.NDArray[np.int64]:
    classes = frame_classes(logits, strategy)
    return np.array([vote(classes, s, e) for s, e, _ in intervals], dtype=np.int64)
