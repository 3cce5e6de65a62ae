"""Groups of stage registration, filled by hand."""

from __future__ import annotations

from collections.abc import Mapping

import h5py
import numpy as np

from data.registration.events import STATUS


def fill_event(
    group: h5py.Group,
    crops: np.ndarray,
    *,
    first: int = 0,
    reference: int | None = None,
    words: Mapping[int, str] | None = None,
    landmarks: np.ndarray | None = None,
) -> None:
    """Crops (n,S,S[,3]) of frames first .. first + n − 1; `words`: status by frame, others ok."""
    group["crops"] = crops
    codes = np.zeros(len(crops), np.uint8)
    for frame, word in (words or {}).items():
        codes[frame - first] = STATUS.index(word)
    group["status"] = codes
    group["status"].attrs["status_names"] = list(STATUS)
    marks = np.zeros((68, 2)) if landmarks is None else landmarks
    group["landmarks_crop"] = marks.astype(np.float32)
    for name in ("residual_px", "inlier_ratio", "pose_sd_px"):
        group[name] = np.full(len(crops), 0.1, np.float32)
    group.attrs.update(
        first=first,
        reference=first if reference is None else reference,
        size=crops.shape[1],
        colour=crops.ndim == 4,
        ipd_px=60.0,
        method="onset",
    )
