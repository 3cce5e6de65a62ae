"""Which frames of a video a trained run is shown, and what has to be said about that.

A run knows motion at the rate it was trained at: 200 frames/s, every 7th, is 28.6. A video at a
multiple of it gives every n-th frame, any other faster one the frames nearest in time. A slower one
is refused: between its frames lies motion that the network has only seen divided. Timestamps, where
the file has them, are what is counted in seconds; an index is not, in a film of variable rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.errors import InputError, MissingExtraError
from data.frames import FrameSource
from data.own_video import OwnVideo
from models.runs.files import RunFiles, read_tables

SLOWEST = 0.75  # of the trained rate; below it a video is refused
EVEN = 0.10  # share by which every n-th frame may miss the trained rate
LOOKS = 8  # frames of the video that are searched for company
COMPANY = 0.25  # share of them with a second face from which it is said

NEVER_SEEN = (
    "this network has never seen a real person: it was trained on synthetic recordings only. What "
    "it reports of a real face is a demonstration, not a finding"
)


@dataclass(frozen=True)
class FramesUsed:
    """The frames used: `frames` (V,) of the video, `fps` at which they follow, `notes` on it."""

    frames: npt.NDArray[np.int64]
    skip: int
    fps: float | None
    notes: tuple[str, ...]


def choose_frames(own: OwnVideo, trained: float | None, skip: int) -> FramesUsed:
    """The frames whose rate is nearest to `trained` frames/s; every `skip`-th where none is known.

    Raises InputError, code `frame_rate_too_low`, for a video slower than three quarters of it.
    """
    count = len(own.source)
    if own.fps is None or trained is None:
        note = f"frame rate unknown: every {skip}. frame is used, as in training; no seconds"
        return FramesUsed(np.arange(0, count, skip), skip, None, (note,) if own.fps is None else ())
    if own.fps < SLOWEST * trained:
        raise InputError(
            own.path.name,
            expected=f"at least {SLOWEST * trained:.3g} frames/s, for the run was trained at "
            f"{trained:.3g}",
            got=f"{own.fps:.3g}",
            todo="Use a run trained at a lower rate (motion.frame_skip), or record faster. Where "
            "the file's rate is wrong, give --fps.",
            code="frame_rate_too_low",
        )
    every = max(1, round(own.fps / trained))
    even = own.fps <= trained or abs(own.fps / every / trained - 1) <= EVEN
    if even and not own.variable:
        notes: tuple[str, ...] = ()
        if abs(own.fps / every / trained - 1) > EVEN:
            notes = (f"{own.fps:.3g} frames/s are shown to a network trained at {trained:.3g}",)
        return FramesUsed(np.arange(0, count, every), every, own.fps / every, notes)
    rate = min(trained, own.fps)
    wanted = own.seconds[0] + np.arange(
        0.0, own.seconds[-1] - own.seconds[0] + 0.5 / rate, 1 / rate
    )
    frames = _nearest(own.seconds, wanted)
    said = f"the frames nearest to every {1000 / rate:.1f} ms are used"
    if own.variable:
        steps = 1000 * np.diff(own.seconds)
        low, high = steps.min(), steps.max()
        said = f"variable frame rate ({low:.1f} to {high:.1f} ms between frames): {said}"
    return FramesUsed(frames, every, rate, (said,))


def _nearest(
    seconds: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Index of the frame nearest in time to each wanted second; a frame may come twice."""
    right = np.clip(np.searchsorted(seconds, wanted), 1, len(seconds) - 1)
    nearer = (wanted - seconds[right - 1]) <= (seconds[right] - wanted)
    return np.asarray(right - nearer, np.int64)


def trained_on(run: RunFiles) -> str:
    """Whom the run's datasets show: `synthetic`, `people`, `both`, or `unknown`.

    Ingest marks each video (`videos.synthetic`); tables older than the mark say nothing.
    """
    table = read_tables(run.workspace, run.recipe.data, "videos")
    if "synthetic" not in table or table.synthetic.isna().any() or not len(table):
        return "unknown"
    kinds = set(table.synthetic.astype(bool))
    return "both" if len(kinds) == 2 else "synthetic" if kinds == {True} else "people"


def company(source: FrameSource) -> tuple[str, ...]:
    """A note where more than one face is in view; nothing where faces cannot be looked for."""
    from data.faces import face_finder

    try:
        finder = face_finder()
    except MissingExtraError:
        return ()
    several, most = 0, 0
    looks = sorted({int(i) for i in np.linspace(0, len(source) - 1, LOOKS)})
    for _, image in source.iter(looks):
        found = None if image is None else finder.look(image)
        if found is not None and found[1].count > 1:
            several += 1
            most = max(most, found[1].count)
    if several < COMPANY * len(looks):
        return ()
    return (
        f"{most} faces in view ({several} of {len(looks)} frames looked at): each window follows "
        "one of them, and not always the same",
    )
