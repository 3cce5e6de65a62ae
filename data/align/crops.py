"""Aligned crops for readers that know a workspace only: stored ones, or made from the raw frames.

With `align.store: transforms` a crop is cut when it is read, so a reader needs the dataset's
folder. Every run notes it beside ingest's tables, in `root.txt`; like timings, the note is no part
of any key: a folder that moved is noted anew by the next run.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from data.align.store import MadeCrops, open_crops
from data.errors import StoreError
from data.registration.store import EventCrops
from data.stages.engine import StageInputs
from data.stages.stores import replacing
from data.stages.workspace import Workspace

ROOT_NOTE = "root.txt"


def note_root(workspace: Workspace | Path, dataset: str, root: Path) -> None:
    """Keep in the workspace where a dataset's raw frames lie; writes only what changed."""
    note = _note(workspace, dataset)
    text = os.fsencode(root.absolute())
    if not note.exists() or note.read_bytes() != text:
        with replacing(note) as temporary:
            temporary.write_bytes(text)


def noted_root(workspace: Workspace | Path, dataset: str) -> Path:
    """The dataset's folder as noted. Raises StoreError `no_raw_frames` when unknown or gone."""
    note = _note(workspace, dataset)
    root = Path(os.fsdecode(note.read_bytes())) if note.exists() else None
    if root is None or not root.is_dir():
        raise StoreError(
            f"{dataset}: raw frames",
            expected="the dataset's folder, to cut crops from",
            got="no note of it" if root is None else f"nothing at {root}",
            todo="Run again with --data NAME=ROOT, or align with store: crops.",
            code="no_raw_frames",
        )
    return root


def _note(workspace: Workspace | Path, dataset: str) -> Path:
    ours = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    return ours.stage(dataset, "ingest") / ROOT_NOTE


class CropReader:
    """Crops of one dataset's aligned videos, however the align stage keeps them."""

    def __init__(self, workspace: Workspace | Path, dataset: str, root: Path | None = None) -> None:
        """`root`: the dataset's folder; by default the noted one, asked for when needed."""
        self._workspace, self._dataset, self._root = workspace, dataset, root
        self._inputs: StageInputs | None = None

    def crops(self, video: str, group: h5py.Group) -> h5py.Dataset | MadeCrops:
        """Crops (T,S,S) or (T,S,S,3) of a video, whose align group is given; indexed by frame.

        Raises StoreError `no_raw_frames` when they must be made and the frames are not there.
        """
        if "crops" in group:
            return open_crops(group)
        return open_crops(group, self.inputs.frame_source(video))

    def event(self, video: str, group: h5py.Group) -> EventCrops:
        """Crops of a registered event of `video`, whose registration group is given."""
        return EventCrops(group, None if "crops" in group else self.inputs.frame_source(video))

    @property
    def inputs(self) -> StageInputs:
        """Ingest's tables and raw frames of the dataset."""
        if self._inputs is None:
            ours = self._workspace
            path = ours.path if isinstance(ours, Workspace) else Path(ours)
            root = self._root if self._root is not None else noted_root(path, self._dataset)
            self._inputs = StageInputs(path, self._dataset, root, {})
        return self._inputs
