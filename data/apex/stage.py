"""Stage apex: one row per event with its apex frame, where it comes from, and the motion curve.

Columns: event, video, apex (frame index), source (label | spotted | middle), confidence (peak over
median motion; NaN without a curve), label_apex, error_frames (spotted − label, NaN without one of
them), middle_error (middle of the event − label), method, curve (list of float32, from frame
curve_start on). A valid label is always the apex; the spotted frame is computed beside it, so that
the stage states its own error.

Dropped: an event without onset, one that registration dropped, and, without a valid label, one
without offset or without enough usable frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.apex.clip import Spotted
from data.apex.settings import ApexConfig
from data.apex.spotting import MIN_FRAMES, evenly, spot_apex, valid_label
from data.errors import InputError
from data.registration.store import EventCrops, open_event
from data.stages.buckets import span
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "apex", 4
NAN = float("nan")


@dataclass(frozen=True)
class _EventFrames:
    onset: int
    apex: int | None
    offset: int | None
    fps: float


def list_units(inputs: StageInputs, config: ApexConfig) -> Iterator[Unit]:
    """One unit per event."""
    return (
        Unit(
            event.id,
            event.video,
            {**event.marks, "fps": event.fps},
            reads=(("registration", event.id),),
            frames=True,
        )
        for event in inputs.recordings.events.values()
    )


def process(unit: Unit, inputs: UnitInputs, config: ApexConfig, part: PartWriter) -> None:
    """Find or confirm the apex of one event."""
    cv2.setNumThreads(1)
    if unit.facts["onset"] is None:
        part.drop(unit.id, "no_onset", "the annotation gives no onset frame")
        return
    event = _EventFrames(**unit.facts)
    label = event.apex if valid_label(event.onset, event.apex, event.offset) else None
    if label is None and event.apex is not None:
        where = f"apex {event.apex} outside {event.onset}-{event.offset}: spotted instead"
        part.note(unit.id, "apex_outside", where)
    who = f"{inputs.dataset}/{unit.id}"
    with open_event(inputs, unit.id) as crops:
        spotted = _spot(crops, event, usable_frames(crops, event.offset), config)
    apex, source = _decide(label, spotted, event, config, who)
    row = _row(unit, event, apex, source, label, spotted, config)
    part.rows(unit.id, [row])
    errors = {n: None if np.isnan(row[n]) else row[n] for n in ("error_frames", "middle_error")}
    part.done(unit.id, source=source, **errors)


def usable_frames(crops: EventCrops, offset: int | None) -> list[int]:
    """Frames of the event whose own place was measured."""
    last = crops.last if offset is None else offset
    return [f for f in range(crops.first, last + 1) if crops.measured(f)]


def _spot(
    event_crops: EventCrops, event: _EventFrames, usable: list[int], config: ApexConfig
) -> Spotted | None:
    """The spotted apex, also of labelled events; None where nothing can be measured."""
    if event.offset is None:
        return None
    length = event.offset - event.onset + 1
    method = "flow_peak" if config.method == "label" else config.method
    if method != "middle" and length >= MIN_FRAMES and len(usable) < max(MIN_FRAMES, length // 2):
        return None
    crops = np.zeros((1, config.size, config.size), np.uint8)
    times = np.zeros(1, np.int64)
    if method != "middle" and length >= MIN_FRAMES:
        chosen = [usable[i] for i in evenly(len(usable))]
        crops, times = event_crops.take(chosen), np.array(chosen) - event.onset
    return spot_apex(
        crops,
        event_crops.landmarks,
        method,
        fps=event.fps,
        times=times,
        length=length,
        size=config.size,
        smooth_ms=config.smooth_ms,
        margin=config.margin,
    )


def _decide(
    label: int | None, spotted: Spotted | None, event: _EventFrames, config: ApexConfig, who: str
) -> tuple[int, str]:
    """(apex frame, source). Raises InputError where there is neither a label nor a way to spot."""
    if label is not None:
        return label, "label"
    if config.method == "label":
        raise InputError(who, expected="a labelled apex", got="none", code="no_apex_label")
    if event.offset is None:
        raise InputError(who, expected="a label or an offset", got="neither", code="no_offset")
    if spotted is None:
        raise InputError(
            who,
            expected="at least four usable frames and half of the event's",
            got="fewer",
            code="face_absent",
        )
    measured = config.method != "middle" and len(spotted.curve) > 0
    return event.onset + spotted.apex, "spotted" if measured else "middle"


def _row(
    unit: Unit,
    event: _EventFrames,
    apex: int,
    source: str,
    label: int | None,
    spotted: Spotted | None,
    config: ApexConfig,
) -> dict[str, Any]:
    middle = None if event.offset is None else (event.onset + event.offset) // 2
    found = None if spotted is None else event.onset + spotted.apex
    return {
        "event": unit.id,
        "video": unit.video,
        "apex": apex,
        "source": source,
        "confidence": NAN if spotted is None else spotted.confidence,
        "label_apex": NAN if label is None else float(label),
        "error_frames": NAN if label is None or found is None else float(found - label),
        "middle_error": NAN if label is None or middle is None else float(middle - label),
        "method": "flow_peak" if config.method == "label" else config.method,
        "curve": np.zeros(0, np.float32) if spotted is None else spotted.curve,
        "curve_start": event.onset,
    }


def pictures(shown: Shown) -> Iterator[Drawn]:
    """See `data.apex.pictures`."""
    from data.apex.pictures import stage_pictures

    yield from stage_pictures(shown)


def weigh(unit: Unit, frames: int, configs: Mapping[str, Any]) -> tuple[float, float]:
    """Nominal seconds and bytes, for chunks: 30 ms a frame, a curve."""
    own = span(unit, frames)
    return 0.03 * own, 200.0 + 4 * own


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest", "registration"),
    suffix=".parquet",
    unit_kind="event",
    list_units=list_units,
    process=process,
    title="Apex: where the motion is largest",
    pictures=pictures,
    weigh=weigh,
)
