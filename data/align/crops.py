"""Aligned crops for readers that know a workspace only: stored ones, or made from the raw frames.

With `align.store: transforms` a crop is cut when it is read, so a reader needs the dataset's
folder. Every run notes it beside ingest's tables, in `root.txt`; like timings, the note is no part
of any key: a folder that moved is noted anew by the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data.align.store import MadeCrops, open_crops
from data.recordings import Recordings
from data.stages.workspace import Workspace


class CropReader:
    """Crops of one dataset's aligned videos, however the align stage keeps them."""

    def __init__(self, workspace: Workspace | Path, dataset: str, root: Path | None = None) -> None:
        """`root`: the dataset's folder; by default the noted one, asked for when needed."""
        self._recordings = Recordings(workspace, dataset, root)

    def crops(self, video: str, group: h5py.Group) -> h5py.Dataset | MadeCrops:
        """Crops (T,S,S) or (T,S,S,3) of a video, whose align group is given; indexed by frame.

        Raises StoreError `no_raw_frames` when they must be made and the frames are not there.
        """
        if "crops" in group:
            return open_crops(group)
        return open_crops(group, self._recordings.frames(video))


def take(crops: h5py.Dataset | MadeCrops, frames: Sequence[int] | Any) -> npt.NDArray[np.uint8]:
    """The crops of `frames` (n ≥ 1, any order, repeats allowed), each read or made once."""
    wanted, back = np.unique(np.asarray(frames), return_inverse=True)
    low, high = int(wanted[0]), int(wanted[-1]) + 1
    if isinstance(crops, MadeCrops):
        chosen = crops[wanted.tolist()]
    elif high - low <= 4 * len(wanted):  # a run of chunks reads faster than a list of them
        chosen = crops[low:high][wanted - low]
    else:
        chosen = np.stack([crops[i] for i in wanted])
    return np.asarray(chosen[back], np.uint8)
