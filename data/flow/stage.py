"""Stage flow: TV-L1 fields and optical strain between chosen frames of every event.

A unit is an event. Its group holds, for P frame pairs at H × W pixels of the (reduced) crop,

    flow (P,H,W,2)   (dx, dy), x right, y down; times attribute `scale` = pixels of the field
    strain (P,H,W)   optical strain magnitude (data.flow.strain), pixels per pixel, float16
    pairs (P,2) int32, kind (P,)   video frame index from, to; "onset_apex", "apex_offset",
                                   "sampled" or "consecutive"

A pair of a frame with itself is left out; a reader takes it as zero. So an event of one frame has
P = 0. One HDF5 chunk is one pair, which is what training reads. Attributes of the group: size,
backend; of `flow`: scale and quantisation_error_px, the largest difference made by the number
format. Preset and registration are among the part's `settings`.

The crops are registered to the event's own onset; `register_to_onset: residual` removes what head
motion is left. A frame that shows no face is replaced by the nearest of the event that does, with a
ledger row; an event without two such frames is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import InputError
from data.flow.fields import FlowField, quantise
from data.flow.settings import FlowConfig
from data.optical_flow import choose_backend, tvl1, tvl1_sequence
from data.registration.store import EventCrops, open_event
from data.stages.buckets import span
from data.stages.contract import Batching, Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.limits import FAKE_GPUS
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "flow", 3
GRID = 4  # spacing of the pixels that vote on residual head motion
KIND = h5py.string_dtype("utf-8", 12)  # the longest pair kind, "apex_offset", rounded up
TUKEY = 4.685  # tuning constant of the biweight, in robust standard deviations

Grey = npt.NDArray[np.uint8]
FramePair = tuple[str, int, int]  # kind, from, to
EventPairs = tuple[
    dict[int, Grey], list[FramePair]
]  # grey crops by video frame, the pairs they are for


def list_units(inputs: StageInputs, config: FlowConfig) -> Iterator[Unit]:
    """One unit per event."""
    return (
        Unit(
            event.id,
            event.video,
            {"onset": event.onset, "offset": event.offset},
            reads=(("registration", event.id), ("apex", event.id)),
            frames=True,
        )
        for event in inputs.recordings.events.values()
    )


def process(unit: Unit, inputs: UnitInputs, config: FlowConfig, part: PartWriter) -> None:
    """Flow and strain of one event's pairs."""
    event = read_event(unit, inputs, config, part)
    if event is not None:
        write_event(unit, event, compute_fields(*event, config), config, part)


def read_event(
    unit: Unit, inputs: UnitInputs, config: FlowConfig, part: PartWriter
) -> EventPairs | None:
    """The event's usable pairs and the grey crops they need, or None if it was dropped."""
    onset, offset = unit.facts["onset"], unit.facts["offset"]
    if onset is None:
        part.drop(unit.id, "no_onset", "the annotation gives no onset frame")
        return None
    row = inputs.row("apex", unit.id)
    apex = None if pd.isna(row["apex"]) else int(row["apex"])
    wanted = choose_pairs(onset, apex, offset, config)
    still = apex == onset and offset in (None, onset)
    if not wanted and not still:
        part.drop(unit.id, "no_motion_pair", f"onset {onset}, apex {apex}, offset {offset}")
        return None
    if still:  # one frame: no pairs, which a reader takes as no motion; it must show a face
        wanted = [("onset_apex", onset, onset)]
        part.note(unit.id, "one_frame", f"onset, apex and offset are frame {onset}: no motion")
    with open_event(inputs, unit.id) as crops:
        usable, replaced = usable_pairs(wanted, crops, f"{inputs.dataset}/{unit.id}")
        clip = _read_crops(crops, usable, config.size)
        doubtful = [f for f in clip if crops.status(f) != "ok"]
    if replaced:
        swaps = ", ".join(f"{a}: {b}" for a, b in replaced.items())
        part.note(unit.id, "frames_without_face", f"replaced by the nearest with one: {swaps}")
    if len(usable) < len(wanted):
        lost = f"{len(wanted) - len(usable)} of {len(wanted)} pairs left out"
        part.note(unit.id, "pairs_without_face", lost)
    if doubtful:
        part.note(unit.id, "frames_not_registered", f"head motion may remain in frames {doubtful}")
    return clip, [pair for pair in usable if pair[1] != pair[2]]


def write_event(
    unit: Unit, event: EventPairs, fields: FlowField, config: FlowConfig, part: PartWriter
) -> None:
    """Store the fields (P,H,W,2) of an event's pairs."""
    _, usable = event
    _write(part.group(unit.id), usable, fields, config)
    part.done(unit.id, pairs=len(usable), size=int(fields.shape[2]))


def choose_pairs(
    onset: int, apex: int | None, offset: int | None, config: FlowConfig
) -> list[FramePair]:
    """(kind, from, to) in the order of config.pairs; without pairs of a frame with itself."""
    last = offset if offset is not None else apex
    chosen: list[FramePair] = []
    for kind in dict.fromkeys(config.pairs):
        if kind == "onset_apex" and apex is not None:
            chosen.append((kind, onset, apex))
        elif kind == "apex_offset" and apex is not None and offset is not None:
            chosen.append((kind, apex, offset))
        elif kind == "sampled" and last is not None:
            targets = np.linspace(onset, last, config.samples + 1).round().astype(int)[1:]
            chosen += [(kind, onset, int(t)) for t in dict.fromkeys(targets)]
        elif kind == "consecutive" and last is not None:
            chosen += [(kind, t, t + 1) for t in range(onset, last)]
    return [pair for pair in chosen if pair[1] != pair[2]]


def usable_pairs(
    wanted: list[FramePair], crops: EventCrops, who: str
) -> tuple[list[FramePair], dict[int, int]]:
    """The pairs, frames without a face replaced by the nearest with one; and which were replaced.

    A pair whose frames become one is left out; one asked for as a frame with itself stays. Raises
    InputError with code `outside_video`, or `face_absent` when the pair onset→apex is lost.
    """
    frames = sorted({frame for _, *both in wanted for frame in both})
    if frames[0] < crops.first or frames[-1] > crops.last:
        raise InputError(
            who,
            expected=f"frames {crops.first}–{crops.last}",
            got=f"{frames[0]}–{frames[-1]}",
            code="outside_video",
        )
    swaps = {f: crops.nearest(f) for f in frames if not crops.usable(f)}
    good = [
        (kind, a, b)
        for kind, *pair in wanted
        for a, b in [[swaps.get(f, f) for f in pair]]
        if a != b or pair[0] == pair[1]
    ]
    lost = {kind for kind, *_ in wanted} - {kind for kind, *_ in good}
    if not good or "onset_apex" in lost:
        raise InputError(
            who,
            expected="a face in both frames of a pair",
            got=f"none in frames {sorted(swaps)}",
            code="face_absent",
        )
    return good, swaps


def _read_crops(crops: EventCrops, wanted: list[FramePair], size: int | None) -> dict[int, Grey]:
    """Grey crops of every frame that a pair needs, reduced to `size`."""
    used = sorted({frame for _, *pair in wanted for frame in pair})
    clip = {}
    for frame, image in zip(used, crops.take(used), strict=True):
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if size is not None and size < image.shape[1]:
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        clip[frame] = np.ascontiguousarray(image)
    return clip


def compute_fields(clip: dict[int, Grey], wanted: list[FramePair], config: FlowConfig) -> FlowField:
    """Flow (P,H,W,2) of the pairs; pairs that share a frame share its pyramid."""
    options: dict[str, Any] = {"preset": config.preset, "backend": config.backend, "threads": 1}
    fields = np.empty((len(wanted), *next(iter(clip.values())).shape, 2), np.float32)
    same_start: dict[int, list[int]] = {}
    for chain in _chains(wanted):
        if len(chain) > 1:
            frames = np.stack([clip[wanted[chain[0]][1]], *(clip[wanted[i][2]] for i in chain)])
            tvl1_sequence(frames, out=fields[chain[0] : chain[-1] + 1], **options)
        else:
            same_start.setdefault(wanted[chain[0]][1], []).extend(chain)
    for first, group in same_start.items():
        fields[group] = tvl1(clip[first], np.stack([clip[wanted[i][2]] for i in group]), **options)
    return _registered(fields, config)


def _registered(fields: FlowField, config: FlowConfig) -> FlowField:
    """The fields, with what head motion is left taken out if so configured; in place."""
    if config.register_to_onset == "residual":
        for field in fields:
            field -= similarity_motion(field)
    return fields


def wants_batches(config: FlowConfig) -> bool:
    """Whether flow is computed on a GPU, which a single event's pairs would leave idle.

    Raises InputError if that is asked for and there is none.
    """
    backend = choose_backend(config.backend).backend
    if backend not in ("torch", "triton"):
        return False
    if os.environ.get(FAKE_GPUS):
        return True
    from data.optical_flow.torch_backend import check_device

    return check_device(backend) == "cuda"


def use_device(device: str) -> None:
    """Compute on this GPU from now on."""
    if not os.environ.get(FAKE_GPUS):
        from data.optical_flow.torch_backend import use_device

        use_device(device)


def result_bytes(event: EventPairs) -> int:
    """Bytes of the event's fields."""
    clip, pairs = event
    return 8 * len(pairs) * next(iter(clip.values())).size


def compute_many(events: list[EventPairs], config: FlowConfig) -> list[FlowField]:
    """`compute_fields` of each event, all pairs of one image size in one call."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, (clip, _) in enumerate(events):
        by_size.setdefault(next(iter(clip.values())).shape, []).append(number)
    fields: list[FlowField] = [np.empty(0, np.float32)] * len(events)
    for shape, numbers in by_size.items():
        pairs = [(events[n][0][a], events[n][0][b]) for n in numbers for _, a, b in events[n][1]]
        if not pairs:
            for n in numbers:
                fields[n] = np.empty((0, *shape, 2), np.float32)
            continue
        first, second = (np.stack(images) for images in zip(*pairs, strict=True))
        flow = tvl1(first, second, preset=config.preset, backend=config.backend)
        ends = np.cumsum([len(events[n][1]) for n in numbers])
        for n, part in zip(numbers, np.split(flow, ends[:-1]), strict=True):
            fields[n] = _registered(part, config)
    return fields


def _chains(wanted: list[FramePair]) -> list[list[int]]:
    """Neighbouring pairs each of which begins at the frame the one before ended with."""
    chains: list[list[int]] = []
    for i, (_, first, _) in enumerate(wanted):
        if chains and wanted[i - 1][2] == first:
            chains[-1].append(i)
        else:
            chains.append([i])
    return chains


def similarity_motion(field: FlowField) -> FlowField:
    """The shift, turn and zoom (H,W,2) that most of a field (H,W,2) agrees on.

    Least squares of dx = a·x − b·y + c, dy = b·x + a·y + d with Tukey's biweight, so that the
    moving part of the face does not count.
    """
    h, w, _ = field.shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    x, y = x - (w - 1) / 2, y - (h - 1) / 2
    spot = (slice(None, None, GRID), slice(None, None, GRID))
    px, py = x[spot].ravel(), y[spot].ravel()
    one, nil = np.ones_like(px), np.zeros_like(px)
    design = np.concatenate([np.stack([px, -py, one, nil], 1), np.stack([py, px, nil, one], 1)])
    target = np.concatenate([field[..., 0][spot].ravel(), field[..., 1][spot].ravel()])
    weight = np.ones(len(px))
    a = b = c = d = 0.0
    for _ in range(10):
        root = np.sqrt(np.tile(weight, 2))
        a, b, c, d = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        miss = (target - design @ np.array([a, b, c, d])).reshape(2, -1)
        distance = np.hypot(*miss)
        spread = max(1.4826 * float(np.median(distance)), 1e-3)
        weight = np.clip(1 - (distance / (TUKEY * spread)) ** 2, 0, None) ** 2
    return np.stack([a * x - b * y + c, b * x + a * y + d], -1).astype(np.float32)


def _write(
    group: h5py.Group, wanted: list[FramePair], fields: FlowField, config: FlowConfig
) -> None:
    """Fill the unit's group."""
    stored, scale, loss, strain = quantise(fields, config.store)
    chunked = len(stored) > 0 or None  # an empty dataset has no chunks
    flow = group.create_dataset("flow", data=stored, chunks=chunked and (1, *stored.shape[1:]))
    flow.attrs["scale"] = scale
    flow.attrs["quantisation_error_px"] = loss
    group.create_dataset("strain", data=strain, chunks=chunked and (1, *strain.shape[1:]))
    group.create_dataset("pairs", data=np.array([p[1:] for p in wanted], np.int32))
    group.create_dataset("kind", data=np.array([kind for kind, *_ in wanted], KIND))
    group.attrs["size"] = int(fields.shape[1])
    group.attrs["backend"] = choose_backend(config.backend).backend


def warm_up(config: FlowConfig) -> float:
    """Compile the kernels; seconds spent."""
    from data import optical_flow

    return optical_flow.warm_up()


def pictures(shown: Shown) -> Iterator[Drawn]:
    """See `data.flow.pictures`."""
    from data.flow.pictures import stage_pictures

    yield from stage_pictures(shown)


def weigh(unit: Unit, frames: int, configs: Mapping[str, Any]) -> tuple[float, float]:
    """Nominal seconds and bytes, for chunks: TV-L1 by pixels, field and strain."""
    config = configs[NAME]
    pairs = sum(
        {"sampled": config.samples, "consecutive": span(unit, frames)}.get(kind, 1)
        for kind in config.pairs
    )
    pixels = (config.size or configs["align"].size) ** 2
    wide = 10 if config.store == "float32" else 6
    return pairs * pixels * 1e-6, float(pairs * pixels * wide)


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest", "registration", "apex"),
    suffix=".h5",
    unit_kind="event",
    list_units=list_units,
    process=process,
    batching=Batching(
        wants_batches, read_event, result_bytes, compute_many, write_event, use=use_device
    ),
    title="Flow: how the face moved, and its strain",
    pictures=pictures,
    warm_up=warm_up,
    weigh=weigh,
)
