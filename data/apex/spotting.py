"""The apex of an event: the frame of its strongest expression, labelled or spotted.

Of an expression that is held for a while it is the frame in the middle of the hold: so the methods
look for it, synthetic sheets label it, and CASME's coded apex phase is read.

A dataset's label is never overwritten. Where it is missing or lies outside its event, one of the
methods looks for the apex in the aligned crops between onset and offset:

    flow_peak   `data.apex.flow_peak`: flow from the onset, fitted in time by a rise and a fall
    lbp         `data.apex.texture`: change of local binary patterns, divide and conquer
    frequency   `data.apex.texture`: energy of fast spatio-temporal change
    middle      half way; what the others are measured against
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.apex.clip import Array, Clip, Grey, Spotted
from data.errors import InputError

METHODS = ("flow_peak", "lbp", "frequency", "middle")
MIN_FRAMES = 4  # fewer say nothing: the middle is taken
MAX_FRAMES = 64  # frames of a longer event are looked at evenly spaced


def spot_apex(
    crops: Grey,
    landmarks: Array,
    method: str,
    *,
    fps: float,
    times: npt.NDArray[np.integer[Any]] | None = None,
    length: int | None = None,
    size: int = 128,
    smooth_ms: float = 50.0,
    margin: float = 0.1,
) -> Spotted:
    """Find the apex of one event.

    `crops` (m,S,S) or (m,S,S,3) uint8, the first one the onset, at `times` (m,) frames after it
    (all frames if not given) of an event of `length` frames; `landmarks` (68,2) crop px. An event
    of under four frames, or with under four crops, gives its middle with confidence NaN and no
    curve. Raises InputError for other shapes or an unknown method.
    """
    if crops.ndim not in (3, 4) or crops.dtype != np.uint8 or landmarks.shape != (68, 2):
        raise InputError(
            "spot_apex",
            expected="uint8 crops (m,S,S) or (m,S,S,3) and landmarks (68,2)",
            got=f"{crops.dtype} {crops.shape}, {landmarks.shape}",
        )
    if method not in METHODS:
        raise InputError("spot_apex: method", expected=f"one of {METHODS}", got=method)
    when = np.arange(len(crops)) if times is None else np.asarray(times)
    frames = int(when[-1]) + 1 if length is None else length
    if method == "middle" or frames < MIN_FRAMES or len(crops) < MIN_FRAMES:
        return Spotted((frames - 1) // 2, float("nan"), np.zeros(0, np.float32))
    chosen = evenly(len(crops))
    scale = size / crops.shape[1]
    clip = Clip(
        np.stack([_reduced(crops[i], size) for i in chosen]),
        when[chosen].astype(np.float64),
        frames,
        (np.asarray(landmarks, np.float64) + 0.5) * scale - 0.5,
        max(1, round(smooth_ms * fps / 1000)),
        margin,
    )
    if method == "flow_peak":
        from data.apex.flow_peak import flow_peak

        return flow_peak(clip)
    from data.apex import texture as apex_texture

    return apex_texture.lbp(clip) if method == "lbp" else apex_texture.frequency(clip)


def evenly(count: int) -> npt.NDArray[np.int64]:
    """Indices of at most MAX_FRAMES of `count` frames, evenly spaced, ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(np.int64))


def _reduced(crop: Grey, size: int) -> Grey:
    grey = crop if crop.ndim == 2 else cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    if grey.shape[0] != size:
        grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def valid_label(onset: int, apex: int | None, offset: int | None) -> bool:
    """Whether an apex label lies inside its event."""
    return apex is not None and onset <= apex and (offset is None or apex <= offset)


def error_report(rows: pd.DataFrame) -> dict[str, float | int]:
    """How far the spotted apex lies from the labels, over those rows of the stage that have both.

    events, mae and median (frames), within_5 (share), bias (mean, positive = late), and
    middle_mae, the same for the middle of each event.
    """
    both = rows[rows["error_frames"].notna() & rows["middle_error"].notna()]
    errors = both["error_frames"].to_numpy(np.float64)
    middle = both["middle_error"].to_numpy(np.float64)
    if not len(errors):
        return {"events": 0}
    return {
        "events": len(errors),
        "mae": float(np.abs(errors).mean()),
        "median": float(np.median(np.abs(errors))),
        "within_5": float((np.abs(errors) <= 5).mean()),
        "bias": float(errors.mean()),
        "middle_mae": float(np.abs(middle).mean()),
    }
