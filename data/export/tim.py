"""Clips brought to one length by temporal interpolation (TIM), for networks that need that.

The method (Zhou, Zhao and Pietikäinen 2011, CVPR) lays a clip's frames along a curve whose
coordinates are the eigenvectors of a path graph, and reads the curve at other places. Those
eigenvectors are cosines, so that the whole method is a fixed matrix of weights between the frames
of a clip: no decomposition of pixels is needed, and a clip that has the length already comes out
as it is.

    OUT/EVENT/000000.png ...      aligned crops, `length` of them, onset to offset
    OUT/clips.csv                 event, frames before, length, labels
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.align.crops import CropReader
from data.errors import InputError
from data.export.names import safe_folders, write_csv
from data.export.reading import open_store, refuse_hidden_faces
from data.export.samples import events_of, free_folder
from data.pictures.drawing import png_bytes
from data.stages.workspace import Workspace

COLUMNS = ("event", "folder", "frames", "length", "subject", "person", "emotion", "label_3")


def tim_weights(frames: int, length: int) -> npt.NDArray[np.float64]:
    """(length, frames) weights of the interpolation; rows sum to 1.

    Output i lies at 1/n + i (1 - 1/n) / (length - 1) of the curve, n = frames: the first output is
    the first frame, the last the last. Raises InputError for less than one frame or output.
    """
    if frames < 1 or length < 1:
        raise InputError(
            "TIM", expected="at least one frame in and out", got=f"{frames} in, {length} out"
        )
    orders = np.arange(1, frames)
    at = np.arange(1, frames + 1) / frames
    wanted = np.linspace(1 / frames, 1, length) if length > 1 else np.array([(1 + 1 / frames) / 2])

    def curve(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        phase = np.pi * (frames - orders) / (2 * frames)
        return np.sin(np.pi * orders * places[:, None] + phase)

    return np.asarray(1 / frames + curve(wanted) @ curve(at).T * (2 / frames))


def interpolated(clip: npt.NDArray[np.uint8], length: int) -> npt.NDArray[np.uint8]:
    """(length, ...) of a clip (T, ...), rounded and cut to 0 … 255: the curve may overshoot."""
    weights = tim_weights(len(clip), length)
    values = np.tensordot(weights, clip.astype(np.float64), axes=1)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def export_tim_clips(
    workspace: Workspace,
    dataset: str,
    out: Path,
    *,
    length: int = 10,
    with_faces: bool = False,
) -> int:
    """Registered events as clips of `length` frames; returns how many clips.

    Raises ConfigError `faces_not_shown` as crops do, and for a folder with files in it; StoreError
    `no_data` without registered events.
    """
    tim_weights(1, length)
    store = open_store(workspace, dataset, "registration")
    events = events_of(workspace, dataset)
    events = events[events.event.isin(store.units())]
    refuse_hidden_faces(workspace, dataset, events.video.unique(), with_faces)
    free_folder(out)
    folders, reader, rows = safe_folders(out, events.event), CropReader(workspace, dataset), []
    for row in events.itertuples():
        with store.open(row.event) as group:
            crops = reader.event(row.video, group)
            used = [f for f in range(int(row.onset), int(row.offset) + 1) if crops.usable(f)]
            clip = crops.take(used or [crops.nearest(int(row.onset))])
        folder = folders[row.event]
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(interpolated(clip, length)):
            (folder / f"{number:06d}.png").write_bytes(png_bytes(image))
        rows.append((row.event, folder.relative_to(out), len(clip), length, row.subject,
                     row.person, row.emotion, row.label_3))  # fmt: skip
    store.close()
    write_csv(out / "clips.csv", COLUMNS, rows)
    return len(rows)
