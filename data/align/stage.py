"""Stage align: every video's face, registered to a reference frame, as crops with their poses.

A unit is a video. Its group holds, T frames and G segments (runs of frames with one reference):

    crops (T,S,S) uint8 grey, or (T,S,S,3) RGB     absent with `store: transforms`
    transforms (T,2,3) float64      original px → crop px, parallax left out
    poses (T,6) float64             full pose against the segment's reference, `data.align.geometry`
    landmarks (68,2) float32        of the first reference, original px; landmarks_crop: crop px
    status (T,) uint8               with attribute status_names
    inlier_ratio, residual_px (T,)  float32; NaN where no points were tracked
    segment (T,) int16; segment_reference (G,) int32; segment_landmarks (G,68,2) original px
    depth (B,…), depth_of (T,)      what a crop is made by, `data.align.store`
    points (N,2), point_rms (N,)    tracked points of the first block, original px, and how far
                                    each strays from the head, px

Attributes: size, mode, ipd_px, colour, reference_index, fps, and the predictor's digest. A video
without a usable face is dropped: `no_face`, `bad_pose`, `partial`, `unreadable_video`. Decoding,
tracking and writing overlap; memory holds a few blocks of face patches, never a video.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.align.modes import (
    FACELESS,
    PLACED,
    STATUS,
    Image,
    Options,
    PlacedFrames,
    Segment,
    grey_of,
    reference_geometry,
)
from data.align.run import Run
from data.align.settings import AlignConfig
from data.align.store import BlockWriter
from data.errors import InputError
from data.faces import (
    FaceFinder,
    Reference,
    assumed_reference,
    face_finder,
    find_reference,
    predictor_identity,
    search_order,
)
from data.frames import FrameSource
from data.prefetch import ahead
from data.stages.contract import Stage, Unit
from data.stages.inputs import StageInputs, UnitInputs
from data.stages.parts import PartWriter

if TYPE_CHECKING:
    from data.pictures.stages import Drawn, Shown

NAME, VERSION = "align", 4


def list_units(inputs: StageInputs, config: AlignConfig) -> Iterator[Unit]:
    """One unit per video."""
    return (
        Unit(
            video.id,
            video.id,
            {
                "num_frames": video.num_frames,
                "fps": video.fps,
                "provided_crop": video.provided_crop,
            },
            frames=True,
        )
        for video in inputs.recordings.videos.values()
    )


def process(unit: Unit, inputs: UnitInputs, config: AlignConfig, part: PartWriter) -> None:
    """Align one video."""
    cv2.setNumThreads(1)
    who = f"{inputs.dataset}/{unit.video}"
    options = options_of(config, unit.facts["fps"], who)
    finder = None if config.mode in FACELESS else face_finder(config.landmark_model)
    reference, image = find(inputs.frames(), finder, config, unit.facts["provided_crop"], options)
    source = inputs.frames()
    writer = BlockWriter(part.group(unit.id), len(source), config)
    geometry = reference_geometry(reference, image.shape, options)
    run = Run(Segment(0, reference, geometry), image, finder, options)
    write_all(run.blocks(ahead(source.iter(colour=config.colour))), writer)
    writer.finish(
        run.segments,
        run.cuts,
        run.evidence,
        mode=config.mode,
        fps=options.fps,
        upright=options.upright,
        landmark_model=predictor_identity(config.landmark_model) if finder else "none",
    )
    _report(unit.id, writer, run, part)


def options_of(config: AlignConfig, fps: float, who: str) -> Options:
    """The settings of one video."""
    return Options(
        mode=config.mode,
        size=config.size,
        upright=config.upright,
        points=config.points,
        parallax=config.parallax and config.mode == "track",
        smooth_frames=config.smooth_frames,
        fps=fps if fps > 0 else 100.0,
        who=who,
    )


def find(
    source: FrameSource,
    finder: FaceFinder | None,
    config: AlignConfig,
    provided_crop: bool,
    options: Options,
) -> tuple[Reference, Image]:
    """The video's first reference and its frame. Raises as `find_reference` does."""

    def read(index: int) -> Image | None:
        try:
            return source.read(index, colour=config.colour)
        except InputError:
            return None

    order = search_order(len(source), options.fps)
    if finder is None:
        index, image = next(
            ((i, image) for i in order if (image := read(i)) is not None), (0, None)
        )
        if image is None:
            raise InputError(
                options.who, expected="readable frames", got="none", code="unreadable_video"
            )
        return assumed_reference(grey_of(image), index, None), image
    reference = find_reference(
        finder,
        lambda i: None if (image := read(i)) is None else grey_of(image),
        order,
        provided_crop=provided_crop,
        who=options.who,
    )
    found = read(reference.index)
    assert found is not None
    return reference, found


def write_all(blocks: Iterator[PlacedFrames], writer: BlockWriter) -> None:
    """Write each block while the next is being tracked."""
    with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
        waiting: Future[None] | None = None
        for block in blocks:
            if waiting is not None:
                waiting.result()
            waiting = pool.submit(writer.write, block)
        if waiting is not None:
            waiting.result()


def _report(unit: str, writer: BlockWriter, run: Run, part: PartWriter) -> None:
    """Counts for the manifest; a ledger row for each kind of problem, with its frames."""
    counts: Counter[str] = Counter(STATUS[code] for code in writer.status.tolist())
    for name in STATUS[1:]:
        if counts[name] and name not in ("ecc", "landmarks"):
            where = _ranges(np.flatnonzero(writer.status == STATUS.index(name)))
            detail = f"{counts[name]} of {len(writer.status)} frames: {where}"
            part.note(unit, name, detail, kind="frame")
    reference = run.segments[0].reference
    for flag in reference.flags[1:]:  # the first one is every frame's status
        part.note(unit, flag, f"in the reference frame {reference.index}")
    for how, reason in (("landmarks", "face_found_again"), ("cut", "scene_cut")):
        found = [s.reference.index for s in run.segments if s.how == how]
        if found:
            part.note(unit, reason, f"at frames {', '.join(map(str, found))}")
    facts: dict[str, Any] = {
        "frames": len(writer.status),
        "ok": counts["ok"],
        "placed": sum(counts[name] for name in PLACED),
        "doubtful": counts["doubtful"],
        "ecc": counts["ecc"],
        "landmarks": counts["landmarks"],
        "held": counts["align_held"] + counts["no_face"] + counts["unreadable"],
        "segments": len(run.segments),
        "cuts": len(run.cuts),
        "residual_px": round(float(np.nanmedian(writer.residual)), 4)
        if np.isfinite(writer.residual).any()
        else None,
    }
    part.done(unit, **facts)


def _ranges(indices: Any, most: int = 8) -> str:
    """Indices as '3-7, 12', at most `most` runs."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    text = [f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs[:most]]
    return ", ".join(text) + (f" and {len(runs) - most} more runs" if len(runs) > most else "")


def pictures(shown: Shown) -> Iterator[Drawn]:
    """See `data.align.pictures`."""
    from data.align.pictures import stage_pictures

    yield from stage_pictures(shown)


def weigh(unit: Unit, frames: int, configs: Mapping[str, Any]) -> tuple[float, float]:
    """Nominal seconds and bytes, for chunks: 10 ms a frame, crop or pose."""
    config = configs[NAME]
    crop = config.size**2 * (3 if config.colour else 1) if config.store == "crops" else 0
    return 0.01 * frames, frames * (120.0 + crop)


STAGE = Stage(
    name=NAME,
    version=VERSION,
    needs=("ingest",),
    suffix=".h5",
    unit_kind="video",
    list_units=list_units,
    process=process,
    title="Align: faces found and followed",
    pictures=pictures,
    shows_faces=True,
    weigh=weigh,
)
