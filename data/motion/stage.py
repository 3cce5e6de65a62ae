"""Stage motion: ME-TST's per-window ROI series of every video, from the raw frames.

A unit is a video. Its group holds `features` (W, C, k) float32, `status` (W,) uint8 with attribute
`status_names`, and `view_index` (T',) int32: the video's frame that each frame of ME-TST's time
base (gaps filled, every n-th kept) shows. Windows without a face stay zero and are flagged; a video
shorter than one window is dropped, reason `too_short`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data.motion.features import (
    HELD_FRAME,
    LATE_REFERENCE,
    NO_FACE,
    STATUS_NAMES,
    Motion,
    MotionOptions,
    dlib_face,
    motion_features,
)
from data.motion.settings import MotionConfig
from data.motion.view import Index, view_of
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "motion", 1


def list_units(inputs: StageInputs, config: MotionConfig) -> Iterator[Unit]:
    """One unit per video."""
    numbers = inputs.recordings.numbers() if config.gaps == "fill" else {}
    return (
        Unit(v.id, v.id, {"num_frames": v.num_frames, "numbers": numbers.get(v.id)}, frames=True)
        for v in inputs.recordings.videos.values()
    )


def process(unit: Unit, inputs: UnitInputs, config: MotionConfig, part: PartWriter) -> None:
    """Measure one video."""
    source = inputs.frames()
    view = view_of(len(source), unit.facts["numbers"], config, f"{inputs.dataset}/{unit.video}")
    options = MotionOptions(
        k=config.k, roi_set=config.roi_set, flow=config.flow, clamp=config.clamp
    )
    find_face = dlib_face(config.landmark_model)
    motion = motion_features(
        source, view.tolist(), options, find_face, who=f"{inputs.dataset}/{unit.video}"
    )
    _write(part, unit, motion, view, config)


def warm_up(config: MotionConfig) -> float:
    """Compile the kernels these settings use; seconds spent."""
    from data.motion import features

    seconds = features.warm_up()
    if config.flow == "tvl1":
        from data import optical_flow

        seconds += optical_flow.warm_up()
    return seconds


def pictures(shown: Shown) -> Iterator[Drawn]:
    """See `data.motion.pictures`."""
    from data.motion.pictures import stage_pictures

    yield from stage_pictures(shown)


def _write(part: PartWriter, unit: Unit, motion: Motion, view: Index, config: MotionConfig) -> None:
    group = part.group(unit.id)
    group.create_dataset(
        "features", data=motion.features, chunks=True, compression="lzf", shuffle=True
    )
    status = group.create_dataset("status", data=motion.status)
    status.attrs["status_names"] = list(STATUS_NAMES)
    group.create_dataset("view_index", data=view)
    group.attrs.update(
        k=config.k,
        stride=config.k // 2,
        frame_skip=config.frame_skip,
        gaps=config.gaps,
        roi_set=config.roi_set,
        flow=config.flow,
        clamp=config.clamp,
    )
    windows = len(motion.status)
    counts = np.bincount(motion.status, minlength=len(STATUS_NAMES))
    for code, words in (
        (NO_FACE, "without a face: zeros"),
        (LATE_REFERENCE, "measured from a later frame than their first"),
        (HELD_FRAME, "repeat the column before an unreadable frame"),
    ):
        if counts[code]:
            detail = f"{counts[code]} of {windows} windows {words}"
            part.note(unit.id, STATUS_NAMES[code], detail)
    part.done(unit.id, windows=windows, frames=len(view), no_face=int(counts[NO_FACE]))


def weigh(unit: Unit, frames: int, configs: Mapping[str, Any]) -> tuple[float, float]:
    """Nominal seconds and bytes, for chunks: 20 ms a frame, 36 channels."""
    return 0.02 * frames, 4.0 * 36 * configs[NAME].k * frames / 4


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest",),
    suffix=".h5",
    unit_kind="video",
    list_units=list_units,
    process=process,
    title="Motion: what the spotting network sees",
    pictures=pictures,
    warm_up=warm_up,
    weigh=weigh,
)
