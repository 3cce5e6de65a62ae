"""Aligned crops for readers that know a workspace only: stored ones, or made from the raw frames.

With `align.store: transforms` a crop is cut when it is read, so a reader needs the dataset's
folder. Every run notes it beside ingest's tables, in `root.txt`; like timings, the note is no part
of any key: a folder that moved is noted anew by the next run.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from data.align.store import MadeCrops, open_crops
from data.recordings import Recordings
from data.registration.store import EventCrops
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

    def event(self, video: str, group: h5py.Group) -> EventCrops:
        """Crops of a registered event of `video`, whose registration group is given."""
        return EventCrops(group, None if "crops" in group else self._recordings.frames(video))
