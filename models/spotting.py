"""From per-frame scores to intervals, and from intervals to counts (ME-TST section of the README).

The steps of ME-TST's inference, each in the authors' form and, where theirs depends on accident,
in a clean one: stitch windows to a video curve, smooth, threshold, take peaks, widen each by a
fixed half-width, match with the annotated intervals, vote the emotion. Frame numbers are 0-based
positions on the curve's own axis and intervals are inclusive at both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.errors import InputError

Matcher = Literal["one_to_one", "authors"]
StitchMode = Literal["clean", "authors"]
Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

# Class ids of the networks' last axis.
CLASS_NAMES = ("negative", "positive", "surprise", "others", "neutral")
NEUTRAL = 4


@dataclass(frozen=True)
class Match:
    """Which event each prediction found, and the counts.

    `gt_index` (n,): index of the matched event per prediction, -1 for none. With the authors'
    matcher it comes from their greedy rule and the counts from their soft rule, so the two may
    disagree and `fn` may be negative.
    """

    gt_index: Ints
    tp: int
    fp: int
    fn: int


def stitch(
    windows: npt.ArrayLike,
    windows_per_video: Sequence[int],
    k: int,
    mode: StitchMode = "clean",
    batch_size: int | None = None,
) -> list[Array]:
    """Put overlapping windows back on each video's time axis.

    windows: (W, k) or (W, k, C), all videos of one subject one after the other; window w of a video
    starts at frame w * k/2. Returns one array ((n + 1) * k/2,) or (..., C) per video, in order.

    "clean": a video's first window is written in full, each later one gives its second half only,
    so that every later frame was seen with at least k/2 frames of context. "authors": the released
    rule, where "first" means first of a *test batch*: videos that do not begin at a batch boundary
    keep zeros in their first half-window, and a window at a boundary overwrites the half before it.
    Needs `batch_size` (32 for SAMM-LV, 256 for CAS(ME)^3) and depends on it.
    """
    data = np.asarray(windows)
    counts = [int(n) for n in windows_per_video]
    _check_windows(data, counts, k)
    if mode not in ("clean", "authors"):
        raise InputError("stitch mode", expected='"clean" or "authors"', got=repr(mode))
    if mode == "authors" and (batch_size is None or batch_size < 1):
        raise InputError(
            "stitch batch_size",
            expected='a positive test batch size with mode="authors"',
            got=repr(batch_size),
        )
    half, curves, start = k // 2, [], 0
    for count in counts:
        curve = np.zeros(((count + 1) * half, *data.shape[2:]), dtype=data.dtype)
        for w in range(count):
            whole = w == 0 if mode == "clean" else (start + w) % int(batch_size or 1) == 0
            if whole:
                curve[w * half : w * half + k] = data[start + w]
            else:
                curve[(w + 1) * half : (w + 2) * half] = data[start + w, half:]
        curves.append(curve)
        start += count
    return curves


def smooth(score: npt.ArrayLike, k_p: int) -> Reals:
    """Mean over frames t - k_p ... t + k_p - 1 (a box of 2 k_p, zeros outside the video)."""
    values, width = _checked_score(score), 2 * _checked_half_width(k_p)
    # Sliced out of the full convolution: NumPy's "same" changes length for short videos.
    full = np.convolve(values, np.ones(width) / width)
    return np.asarray(full[k_p - 1 : k_p - 1 + len(values)], dtype=np.float64)


def threshold(smoothed: npt.ArrayLike, p: float = 0.55) -> float:
    """Mean + p (maximum - mean) of one video's smoothed score (Moilanen's rule)."""
    values = np.asarray(smoothed, dtype=np.float64)
    return float(values.mean() + p * (values.max() - values.mean()))


def decode(score: npt.ArrayLike, k_p: int, p: float = 0.55) -> Ints:
    """Intervals of one video's score curve (T,): int (n, 3) of start, end, peak, by peak.

    Smooth, threshold, peaks at least k_p apart (never a border frame; the middle of a plateau),
    [peak - k_p, peak + k_p]. Not clipped: an interval may begin below 0 or end beyond the video.
    No peak gives (0, 3). Raises `InputError` for a score that is not a finite 1-D array and for
    k_p < 1.
    """
    smoothed = smooth(score, k_p)
    from scipy.signal import find_peaks  # here: networks are trained without scipy too

    peaks, _ = find_peaks(smoothed, height=threshold(smoothed, p), distance=k_p)
    peaks = peaks.astype(np.int64)
    return np.stack([peaks - k_p, peaks + k_p, peaks], axis=1)


def half_width(intervals: npt.ArrayLike) -> int:
    """k_p of a set of (n, >=2) onset, offset intervals: int((mean(offset - onset) + 1) / 2).

    At least 1. Raises `InputError` when there is no interval to average.
    """
    spans = np.asarray(intervals)
    if spans.size == 0:
        raise InputError("half_width", expected="at least one interval", got="none")
    return max(1, int((float((spans[:, 1] - spans[:, 0]).mean()) + 1) / 2))


def iou_matrix(pred: npt.ArrayLike, truth: npt.ArrayLike) -> Reals:
    """Intersection over union of inclusive intervals: (n, m) from (n, >=2) and (m, >=2)."""
    a, b = _checked_intervals(pred, "pred"), _checked_intervals(truth, "truth")
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    inter = np.maximum(0, end - start + 1)
    union = (a[:, 1] - a[:, 0] + 1)[:, None] + (b[:, 1] - b[:, 0] + 1)[None, :] - inter
    return np.asarray(inter / union, dtype=np.float64)


def match(
    pred: npt.ArrayLike, truth: npt.ArrayLike, matcher: Matcher = "one_to_one", iou: float = 0.5
) -> Match:
    """Match the predictions of one video with its events at IoU >= `iou`.

    "one_to_one": the largest possible set of pairs, no prediction or event twice; among such sets
    the one of highest total IoU. Independent of the order of both lists.
    "authors": `gt_index` by their greedy rule (in the order given, each prediction looks only at
    its best event, and stays unmatched if that is taken; of equally good events the one NumPy's
    sort leaves last, mostly the later, which may differ between processors); counts by their soft
    rule (every overlapping pair is a true positive; a prediction with none is a false one).
    """
    overlap = iou_matrix(pred, truth)
    num_pred, num_truth = overlap.shape
    good = overlap >= iou
    if matcher == "one_to_one":
        gt_index = _assign(overlap, good)
        tp = int((gt_index >= 0).sum())
        return Match(gt_index, tp, num_pred - tp, num_truth - tp)
    if matcher == "authors":
        tp = int(good.sum())
        return Match(_greedy(overlap, iou), tp, int((~good.any(axis=1)).sum()), num_truth - tp)
    raise InputError("match matcher", expected='"one_to_one" or "authors"', got=repr(matcher))


def frame_classes(logits: npt.ArrayLike, strategy: int = 2) -> Ints:
    """Class per frame from logits (..., 5): argmax, over the four emotions only in strategy 2."""
    values = np.asarray(logits)
    if strategy not in (0, 1, 2):
        raise InputError("strategy", expected="0, 1 or 2", got=repr(strategy))
    return np.asarray((values[..., :NEUTRAL] if strategy == 2 else values).argmax(-1), np.int64)


def vote(classes: npt.ArrayLike, start: int, end: int) -> int:
    """Majority class of an interval's inner frames max(0, start) + 1 ... end - 2.

    As released: the interval is cut at the video's first frame, then loses its own first frame and
    its last two. A tie goes to the class met first. An interval without inner frames, or one
    outside the curve, is voted by the frame nearest its middle.
    """
    values = np.asarray(classes)
    inner = values[max(0, start) + 1 : max(0, end - 1)]
    if not inner.size:
        if not values.size:
            raise InputError("vote", expected="at least one frame", got="an empty class series")
        return int(values[min(max(0, (start + end) // 2), len(values) - 1)])
    names, first, counts = np.unique(inner, return_index=True, return_counts=True)
    best = counts == counts.max()
    return int(names[best][first[best].argmin()])


def _check_windows(data: Array, counts: list[int], k: int) -> None:
    if k < 2 or k % 2:
        raise InputError("stitch k", expected="an even window length", got=str(k))
    if data.ndim not in (2, 3) or data.shape[1] != k:
        raise InputError(
            "stitch windows", expected=f"(W, {k}) or (W, {k}, classes)", got=str(data.shape)
        )
    if sum(counts) != len(data) or any(count < 1 for count in counts):
        raise InputError(
            "stitch windows_per_video",
            expected=f"counts >= 1 that sum to {len(data)}",
            got=str(counts),
            todo="Leave out videos shorter than one window.",
        )


def _checked_score(score: npt.ArrayLike) -> Reals:
    values = np.asarray(score, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(
            "spotting score",
            expected="a finite 1-D curve with at least one frame",
            got=f"shape {values.shape}, {int((~np.isfinite(values)).sum())} not finite",
        )
    return values


def _checked_half_width(k_p: int) -> int:
    if int(k_p) != k_p or k_p < 1:
        raise InputError("k_p", expected="a whole number of frames >= 1", got=repr(k_p))
    return int(k_p)


def _checked_intervals(intervals: npt.ArrayLike, who: str) -> Array:
    values = np.asarray(intervals)
    if values.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if values.ndim != 2 or values.shape[1] < 2 or (values[:, 1] < values[:, 0]).any():
        raise InputError(
            f"intervals ({who})",
            expected="(n, >=2) of start <= end",
            got=f"{values.tolist()!r:.120}",
        )
    return values


def _assign(overlap: Reals, good: npt.NDArray[np.bool_]) -> Ints:
    """Largest one-to-one set, then highest total IoU."""
    gt_index = np.full(overlap.shape[0], -1, dtype=np.int64)
    if not good.any():
        return gt_index
    # One more pair outweighs any gain in IoU, which is at most 1 per pair.
    gain = np.where(good, overlap + min(overlap.shape) + 1.0, 0.0)
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(gain, maximize=True)
    kept = good[rows, cols]
    gt_index[rows[kept]] = cols[kept]
    return gt_index


def _greedy(overlap: Reals, iou: float) -> Ints:
    gt_index = np.full(overlap.shape[0], -1, dtype=np.int64)
    taken: set[int] = set()
    for i, row in enumerate(overlap):
        if not row.size:
            break
        best = int(np.argsort(row)[-1])  # as released, and so for ties too
        if row[best] >= iou and best not in taken:
            gt_index[i] = best
            taken.add(best)
    return gt_index
