"""Stage registration: every event's frames brought onto its own onset.

A unit is an event. Its group holds, for its n frames (onset to offset; without an offset, up to the
apex or 50 frames),

    crops (n,S,S) uint8, or (n,S,S,3)   of each frame, registered; absent with `store: transforms`
    poses (n,8) float64                 against the event's reference, `data.align.geometry`
    status (n,) uint8                   attribute status_names: ok, doubtful (points agree badly),
                                        chained (alignment's pose), align_held (its neighbours'),
                                        no_face, unreadable (shows the frame `shown`)
    residual_px, inlier_ratio, pose_sd_px (n,) float32   NaN where nothing was measured
    landmarks (68,2), landmarks_crop (68,2), to_crop (2,3), depth (50,), slope (2,)   reference's;
                                        landmarks' attribute found_by: detector | alignment

Attributes: first (index of row 0), reference (the onset, or the first frame that shows the face),
size, colour, ipd_px, method. With align's own crops (`method: stored`) poses and depth are absent.

Dropped: `no_onset`, `outside_video`; `scene_cut`, a new scene begins inside the event;
`face_absent`, less than half of its frames show the face. A new reference of alignment's is no cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt

from data.align.geometry import CropMaker
from data.align.modes import Image, grey_of
from data.align.store import FILTERS, StoredPoses, depth_without, open_crops
from data.errors import InputError
from data.faces import face_finder
from data.frames import FrameSource
from data.prefetch import ahead
from data.registration.events import (
    STATUS,
    USABLE,
    Guesses,
    Pose,
    event_geometry,
    located,
    onset_landmarks,
    register_event,
)
from data.registration.settings import RegistrationConfig
from data.stages.buckets import span
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "registration", 2
OPEN_FRAMES = 50  # frames of an event without an offset
CALM_SECONDS = 0.1  # around the event, left out of the depth too
MARGIN = 16  # px kept around a frame's crop, for what the last fit still moves
MOST = 0.5  # share of an event's frames that must show the face
FAILED = ("no_face", "unreadable")  # align's states without a face


def list_units(inputs: StageInputs, config: RegistrationConfig) -> Iterator[Unit]:
    """One unit per event."""
    return (
        Unit(event.id, event.video, event.marks, reads=(("align", event.video),), frames=True)
        for event in inputs.recordings.events.values()
    )


def process(unit: Unit, inputs: UnitInputs, config: RegistrationConfig, part: PartWriter) -> None:
    """Register one event."""
    cv2.setNumThreads(1)
    if unit.facts["onset"] is None:
        part.drop(unit.id, "no_onset", "the annotation gives no onset frame")
        return
    with inputs.open("align", unit.video) as align:
        names = [str(n) for n in align["status"].attrs["status_names"]]
        status = align["status"][:]
        who = f"{inputs.dataset}/{unit.id}"
        first, last = event_span(unit.facts, len(status), who)
        whole = scene_of(align, first, last, who)
        placed = located(status, names)
        absent = np.isin(status, [names.index(n) for n in FAILED if n in names])
        shown = [f for f in range(first, last + 1) if placed[f]]
        if not shown:
            raise _faceless(who, 0, last - first + 1)
        reference = shown[0]
        if reference != first:
            part.note(unit.id, "onset_replaced", f"frame {first} shows no face: {reference} does")
        if str(align.attrs["mode"]) != "track" or config.method == "stored" or not whole:
            source = None if "crops" in align else inputs.frames()
            _copy(part.group(unit.id), align, source, (first, last), reference, config)
        else:
            source = inputs.frames()
            _register(part.group(unit.id), align, source, (first, last), reference, absent,
                      placed, config)  # fmt: skip
    _report(unit.id, part, who)


def event_span(marks: Mapping[str, Any], frames: int, who: str) -> tuple[int, int]:
    """First and last frame. Raises InputError `outside_video`."""
    onset, apex, offset = marks["onset"], marks["apex"], marks["offset"]
    assert onset is not None
    last = offset
    if last is None:
        last = max(min(onset + OPEN_FRAMES, frames - 1), onset if apex is None else apex)
    if not 0 <= onset <= last < frames:
        raise InputError(
            who,
            expected=f"an event within frames 0-{frames - 1}",
            got=f"{onset}-{last}",
            code="outside_video",
        )
    return onset, last


def scene_of(align: h5py.Group, first: int, last: int, who: str) -> bool:
    """Whether alignment knows poses of the event. Raises InputError `scene_cut`."""
    cuts = align["cuts"][:] if "cuts" in align else np.zeros(0, np.int32)
    inside = cuts[(cuts > first) & (cuts <= last)]
    if len(inside):
        raise InputError(
            who,
            expected="an event within one scene",
            got=f"a new scene at frame {', '.join(map(str, inside))}",
            code="scene_cut",
        )
    return "segment_link" in align


def _faceless(who: str, seen: int, frames: int) -> InputError:
    return InputError(
        who,
        expected="a face in half of the event's frames",
        got=f"one in {seen} of {frames}",
        code="face_absent",
    )


def _register(
    group: h5py.Group,
    align: h5py.Group,
    source: FrameSource,
    span: tuple[int, int],
    reference: int,
    absent: npt.NDArray[np.bool_],
    placed: npt.NDArray[np.bool_],
    config: RegistrationConfig,
) -> None:
    """Track, fit, and write the event's frames."""
    first, last = span
    colour = bool(align.attrs["colour"])
    stored = StoredPoses(align)
    calm = round(CALM_SECONDS * float(align.attrs["fps"]))
    added = depth_without(align, first - calm, last + calm)
    image = source.read(reference, colour=colour)
    finder = face_finder(config.landmark_model)
    geometry, seen = event_geometry(
        stored,
        reference,
        added,
        lambda carried: onset_landmarks(finder, grey_of(image), carried),
        upright=bool(align.attrs["upright"]),
    )
    maker = CropMaker(geometry)
    patches: dict[int, tuple[Image, tuple[int, int]]] = {}

    def keep(index: int, picture: Image, pose: npt.NDArray[np.float64]) -> None:
        x0, y0, x1, y1 = maker.box(pose, picture.shape, MARGIN)
        patches[index] = np.ascontiguousarray(picture[y0:y1, x0:x1]), (x0, y0)

    poses = register_event(
        ahead(source.iter(range(first, last + 1), colour=colour)), reference, image, geometry,
        Guesses(stored, reference, placed), absent, points=config.points, keep=keep,
    )  # fmt: skip
    crops, shown = [], []
    for index in range(first, last + 1):
        at = index
        while at >= first and poses[at].status == "unreadable":
            at -= 1  # such a frame shows the last one that could be read, or the reference
        shown.append(at if at >= first else reference)
        if config.store == "crops":
            pose = poses[index].pose
            patch, origin = patches.get(shown[-1], (image, (0, 0)))
            if not _inside(maker.box(pose, image.shape), patch.shape, origin):
                patch, origin = source.read(shown[-1], colour=colour), (0, 0)
            crops.append(maker(patch, pose, origin, image.shape))
    _write(group, [poses[i] for i in range(first, last + 1)], crops, config)
    group.create_dataset("shown", data=np.array(shown, np.int32))
    group.create_dataset("poses", data=np.array([poses[i].pose for i in range(first, last + 1)]))
    group.create_dataset("landmarks", data=geometry.landmarks)
    group["landmarks"].attrs["found_by"] = "detector" if seen else "alignment"
    group.create_dataset("landmarks_crop", data=geometry.landmarks_crop.astype(np.float32))
    group.create_dataset("to_crop", data=geometry.to_crop)
    group.create_dataset("depth", data=np.array([*geometry.depth.added, geometry.depth.mean]))
    group.create_dataset("slope", data=geometry.depth.slope)
    _describe(group, align, first, reference, geometry.ipd, "onset")


def _inside(
    box: tuple[int, int, int, int], patch: tuple[int, ...], origin: tuple[int, int]
) -> bool:
    x0, y0, x1, y1 = box
    left, top = origin
    return left <= x0 and top <= y0 and x1 <= left + patch[1] and y1 <= top + patch[0]


def _copy(
    group: h5py.Group,
    align: h5py.Group,
    source: FrameSource | None,
    span: tuple[int, int],
    reference: int,
    config: RegistrationConfig,
) -> None:
    """The event's crops as aligned."""
    first, last = span
    names = [str(n) for n in align["status"].attrs["status_names"]]
    words = [names[code] for code in align["status"][first : last + 1].tolist()]
    keep = {"align_held": "align_held", "doubtful": "doubtful", "ecc": "chained"}
    nothing = np.zeros(8)
    poses = [
        Pose(nothing, w if w in STATUS else "no_face" if w in FAILED else keep.get(w, "ok"))
        for w in words
    ]
    crops = open_crops(align, source)[first : last + 1]
    _write(group, poses, list(crops), config)
    segment = int(align["segment"][reference])
    to_crop, landmarks = align["segment_to_crop"][segment], align["segment_landmarks"][segment]
    inside = landmarks @ to_crop[:, :2].T + to_crop[:, 2]
    group.create_dataset("landmarks_crop", data=inside.astype(np.float32))
    _describe(group, align, first, reference, float(align.attrs.get("ipd_px", np.nan)), "stored")


def _write(
    group: h5py.Group, poses: list[Pose], crops: list[Image], config: RegistrationConfig
) -> None:
    codes = np.array([STATUS.index(p.status) for p in poses], np.uint8)
    group.create_dataset("status", data=codes)
    group["status"].attrs["status_names"] = list(STATUS)
    for name, values in (
        ("residual_px", [p.residual for p in poses]),
        ("inlier_ratio", [p.agreeing for p in poses]),
        ("pose_sd_px", [p.sd for p in poses]),
    ):
        group.create_dataset(name, data=np.array(values, np.float32))
    if crops:
        data = np.stack(crops)
        group.create_dataset(
            "crops", data=data, chunks=(1, *data.shape[1:]), **FILTERS[config.compression]
        )


def _describe(
    group: h5py.Group, align: h5py.Group, first: int, reference: int, ipd: float, method: str
) -> None:
    group.attrs.update(
        first=first,
        reference=reference,
        ipd_px=ipd,
        method=method,
        size=int(align.attrs["size"]),
        colour=bool(align.attrs["colour"]),
    )


def _report(unit: str, part: PartWriter, who: str) -> None:
    """Counts for the manifest, ledger rows; or the event dropped for want of a face."""
    group = part.group(unit)
    counts = Counter(STATUS[code] for code in group["status"][:].tolist())
    frames = len(group["status"])
    seen = sum(counts[name] for name in USABLE)
    if seen < MOST * frames:
        raise _faceless(who, seen, frames)
    for name in ("doubtful", "chained", "align_held", "no_face", "unreadable"):
        if counts[name]:
            part.note(unit, name, f"{counts[name]} of {frames} frames")
    residual = group["residual_px"][:]
    facts: dict[str, Any] = {
        "frames": frames,
        "ok": counts["ok"],
        "doubtful": counts["doubtful"],
        "held": frames - seen + counts["chained"] + counts["align_held"],
        "residual_px": round(float(np.nanmedian(residual)), 4)
        if np.isfinite(residual).any()
        else None,
    }
    part.done(unit, **facts)


def pictures(shown: Shown) -> Iterator[Drawn]:
    """What is left after registration, and how frames were placed; no faces."""
    from data.align.pictures import residual_figure
    from data.pictures.stages import Drawn

    store, facts = shown.store(NAME), []
    for event in shown.chosen_events(store).itertuples(index=False):
        with store.open(str(event.event)) as group:
            facts.append((str(event.event), group["residual_px"][:], group["status"][:]))
    store.close()
    if facts:
        caption = f"{shown.dataset}: what is left after registration to the onset"
        yield Drawn(residual_figure(facts, STATUS), caption)


def weigh(unit: Unit, frames: int, configs: Mapping[str, Any]) -> tuple[float, float]:
    """Nominal seconds and bytes, for chunks: 10 ms and a crop a frame."""
    align, own = configs["align"], span(unit, frames)
    crop = align.size**2 * (3 if align.colour else 1)
    return 0.01 * own, own * (120.0 + (crop if configs[NAME].store == "crops" else 0))


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest", "align"),
    suffix=".h5",
    unit_kind="event",
    list_units=list_units,
    process=process,
    title="Registration: every event on its own onset",
    pictures=pictures,
    weigh=weigh,
)
