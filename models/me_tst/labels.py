"""What ME-TST learns from a video: windows of motion, per-frame labels, and which windows are used.

Everything here lives on the *view*: the frames the motion stage kept (every 7th of SAMM-LV, all of
CAS(ME)^3), as `view_index` maps them to the video's own frames. A window w covers view frames
w * k/2 ... w * k/2 + k - 1; the stitched axis of a video with W windows has (W + 1) * k/2 frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import TrainingError
from models.spotting import CLASS_NAMES, NEUTRAL

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

EMOTIONS = CLASS_NAMES[:NEUTRAL]
JITTER_STEP = 0.01


@dataclass(frozen=True)
class SpottingTruth:
    """The accepted micro-expressions of one video, on the view, in sheet order.

    `intervals` (n, 3): onset, apex, offset, view frames, inclusive; apex -1 where unknown.
    `emotions` (n,): class ids 0..3. `events`: their ids. An interval and its emotion are accepted
    or rejected together. `dropped`: (event id, reason) of the rejected, `flagged` likewise of
    accepted ones that are out of order or reach beyond the windows.
    """

    intervals: Ints
    emotions: Ints
    events: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    flagged: tuple[tuple[str, str], ...] = ()


def view_frames(frames: npt.ArrayLike, view_index: npt.NDArray[Any]) -> Ints:
    """View frame of each video frame index: the last view frame not after it, -1 if none.

    view_index (T',) must not decrease. With every s-th frame kept this is index // s, the authors'
    int((number - 1) / s); with gaps in the numbering filled it is the filled position.
    """
    found = np.searchsorted(view_index, np.asarray(frames, np.int64), side="right") - 1
    return np.asarray(found, dtype=np.int64)


def read_truth(
    events: pd.DataFrame, view_index: npt.NDArray[Any], num_windows: int, k: int, label: str
) -> SpottingTruth:
    """Accept the micro-expressions of one video.

    events: this video's rows of the `events` table; `label` names the column with the emotion.
    Rejected, with a reason: no onset, neither offset nor apex, an offset before the onset, an onset
    before the view, an emotion without a class. A missing offset is the apex.
    """
    length = (num_windows + 1) * (k // 2)
    rows, emotions, names = [], [], []
    dropped: list[tuple[str, str]] = []
    flagged: list[tuple[str, str]] = []
    for event in events[events["type"] == "micro"].itertuples(index=False):
        onset, apex, offset = (_index(value) for value in (event.onset, event.apex, event.offset))
        offset = apex if offset < 0 else offset
        emotion = getattr(event, label)
        name = str(event.event)
        reason = _rejection(onset, offset, emotion, view_index)
        if reason:
            dropped.append((name, reason))
            continue
        span = view_frames([onset, apex, offset], view_index)
        if not onset <= apex <= offset and apex >= 0:
            flagged.append((name, "apex_outside"))
        if span[2] >= length:
            flagged.append((name, "beyond_windows"))
        rows.append([span[0], span[1] if apex >= 0 else -1, span[2]])
        emotions.append(EMOTIONS.index(str(emotion)))
        names.append(name)
    intervals = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return SpottingTruth(
        intervals, np.array(emotions, np.int64), tuple(names), tuple(dropped), tuple(flagged)
    )


def frame_labels(truth: SpottingTruth, num_windows: int, k: int) -> tuple[Floats, Ints]:
    """Spot target and class id per frame of the stitched axis, ((W + 1) * k/2,) each.

    Frames onset + 1 ... offset - 1 of an event are 1 and its emotion, all others 0 and neutral;
    a later event overwrites an earlier one. No ramp.
    """
    length = (num_windows + 1) * (k // 2)
    spot, classes = np.zeros(length, np.float32), np.full(length, NEUTRAL, np.int64)
    for (onset, _, offset), emotion in zip(truth.intervals, truth.emotions, strict=True):
        inside = slice(max(0, onset + 1), max(0, offset))
        spot[inside], classes[inside] = 1.0, emotion
    return spot, classes


def cut_windows(series: npt.NDArray[Any], num_windows: int, k: int) -> npt.NDArray[Any]:
    """(T, ...) on the stitched axis -> (W, k, ...), with the stride k/2 of the features."""
    starts = np.arange(num_windows)[:, None] * (k // 2)
    return np.asarray(series[starts + np.arange(k)])


def sample_windows(spot: npt.NDArray[Any], ratio: float, rng: np.random.Generator) -> Ints:
    """Windows to train on, ascending: all with a positive frame, and some of the others.

    spot (W, k). int(positives * ratio) of the all-zero windows are drawn without replacement; when
    there are not more than that, all but two of them, as the authors do.
    """
    positive = np.flatnonzero(spot.any(axis=1))
    negative = np.flatnonzero(~spot.any(axis=1))
    wanted = int(len(positive) * ratio)
    count = wanted if wanted < len(negative) else max(0, len(negative) - 2)
    drawn = rng.choice(negative, size=count, replace=False) if count else negative[:0]
    return np.sort(np.concatenate([positive, drawn])).astype(np.int64)


def class_weights(classes: npt.NDArray[Any], neutral_factor: float, strategy: int) -> Floats:
    """Weights (5,) balanced over the frames of the sampled windows: N / (5 n_c), 0 if absent.

    The neutral weight is multiplied by `neutral_factor`; strategy 0 sets it to 0.
    """
    counts = np.bincount(classes.ravel(), minlength=len(CLASS_NAMES)).astype(np.float64)
    weights = np.where(counts > 0, classes.size / (len(counts) * np.maximum(counts, 1)), 0.0)
    weights[NEUTRAL] *= 0.0 if strategy == 0 else neutral_factor
    return weights.astype(np.float32)


def jitter_factors(count: int, jitter: float, rng: np.random.Generator) -> Floats:
    """One factor per window from {1 - jitter, ..., 1 + jitter} in steps of 0.01."""
    steps = round(jitter / JITTER_STEP)
    return (1 + rng.integers(-steps, steps + 1, count) * JITTER_STEP).astype(np.float32)


def require_positives(spot: Sequence[npt.NDArray[Any]], who: str) -> None:
    """Raise `TrainingError` when no window has a frame inside a micro-expression."""
    if not any(one.any() for one in spot):
        raise TrainingError(
            who,
            expected="at least one training window with a micro-expression",
            got=f"none in {len(spot)} videos",
            todo="Check the events table and its labels; use fewer folds.",
            code="no_positive_windows",
        )


def _index(value: Any) -> int:
    return -1 if pd.isna(value) else int(value)


def _rejection(onset: int, offset: int, emotion: Any, view_index: npt.NDArray[Any]) -> str:
    if onset < 0:
        return "no_onset"
    if offset < 0:
        return "no_offset"
    if offset < onset:
        return "offset_before_onset"
    if pd.isna(emotion) or str(emotion) not in EMOTIONS:
        return "no_emotion_class"
    if view_frames([onset], view_index)[0] < 0:
        return "onset_before_first_frame"
    return ""
