"""What ingest found, as the nouns of the field: videos, events, frames. One opener for its tables.

An `Event` is one annotated expression inside one `Video`; both are read once, from the tables that
ingest published, and handed on as they are. Frame indices are zero-based positions in the video's
own frame list, inclusive; a mark that the sheet does not give is None.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import StoreError
from data.frames import FrameSource
from data.stages.files import read_table, replacing
from data.stages.workspace import Workspace
from data.video_file import seconds_of

ROOT_NOTE = "root.txt"
LABELS = ("label_3", "label_4", "label_5", "label_7", "objective_class")


@dataclass(frozen=True)
class Video:
    """One recorded sequence, a clip or a long video."""

    id: str
    dataset: str
    subject: str
    person: str
    fps: float
    num_frames: int
    kind: str  # clip | long
    source: str  # frames | video_file
    folder: str  # posix, relative to the dataset's root
    identity: str  # of its files' contents
    provided_crop: bool
    show_faces: bool


@dataclass(frozen=True)
class Event:
    """One annotated expression. onset, apex, offset: frame indices, inclusive; fps its video's."""

    id: str
    video: str
    dataset: str
    subject: str
    person: str
    onset: int | None
    apex: int | None
    offset: int | None
    fps: float
    type: str  # micro | macro | blink
    aus: str | None
    emotion: str | None
    labels: dict[str, str | None] = field(default_factory=dict)

    @property
    def marks(self) -> dict[str, int | None]:
        """onset, apex, offset by name."""
        return {"onset": self.onset, "apex": self.apex, "offset": self.offset}

    def last(self) -> int | None:
        """The last frame that is marked: offset, else apex, else onset."""
        return next((m for m in (self.offset, self.apex, self.onset) if m is not None), None)


class Recordings:
    """One dataset as ingested: its tables, videos, events and, where `root` is known, its frames.

    Picklable; a table is read when asked for, and once.
    """

    def __init__(
        self, workspace: Workspace | Path | str, dataset: str, root: Path | None = None
    ) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
        self.dataset, self.root = dataset, root
        self._cache: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def path(self, name: str) -> Path:
        """Where one of ingest's tables lies."""
        return self.workspace.stage(self.dataset, "ingest") / f"{name}.parquet"

    def table(self, name: str) -> pd.DataFrame:
        """One of ingest's tables. Raises StoreError `no_data` when nothing was ingested."""
        path = self.path(name)
        if not path.exists():
            raise StoreError(
                f"dataset {self.dataset}",
                expected="its ingest tables in the workspace",
                got="none",
                todo="Run the ingest stage first.",
                code="no_data",
            )
        table: pd.DataFrame = self._cached(f"table:{name}", lambda: read_table(path))
        return table

    @property
    def videos(self) -> dict[str, Video]:
        """Every video by its id, in the order of the table."""
        found: dict[str, Video] = self._cached("videos", self._read_videos)
        return found

    @property
    def events(self) -> dict[str, Event]:
        """Every event by its id, in the order of the table."""
        found: dict[str, Event] = self._cached("events", self._read_events)
        return found

    def numbers(self) -> dict[str, list[int] | None]:
        """Video → its files' own numbers in order, None where a file has none."""
        return {
            str(video): None if group.isna().any() else [int(n) for n in group]
            for video, group in self.table("frames").groupby("video")["number"]
        }

    def frames(self, video: str) -> FrameSource:
        """A video's frames by index, from `root` or, without one, the folder last run with.

        Raises StoreError `no_raw_frames` when no folder is known or it is not there.
        """
        root = self.root or noted_root(self.workspace, self.dataset)
        found = self.videos[video]
        if found.source == "video_file":
            return FrameSource(root / found.folder, found.num_frames)
        return FrameSource([root / str(p) for p in self._rows(video)["path"]])

    def seconds(self, video: str) -> npt.NDArray[np.float64]:
        """(T,) seconds of a video's frames: by timestamps where it has them, else index / fps."""
        times = self._rows(video)["time_s"].to_numpy(np.float64, na_value=np.nan)
        return seconds_of(times, self.videos[video].fps)

    def _rows(self, video: str) -> pd.DataFrame:
        """Rows of the frames table of one video; only its row groups are read."""
        import pyarrow.parquet as pq  # here: a GPU machine may lack it

        table = pq.read_table(
            self.path("frames"), filters=[("video", "=", video)], page_checksum_verification=True
        )
        return table.to_pandas().sort_values("index", kind="stable")

    def _read_videos(self) -> dict[str, Video]:
        return {
            str(row["video"]): Video(
                id=str(row["video"]),
                dataset=self.dataset,
                subject=_text(row.get("subject")) or "",
                person=_text(row.get("person")) or "",
                fps=float(row["fps"]),
                num_frames=int(row["num_frames"]),
                kind=_text(row.get("kind")) or "clip",
                source=_text(row.get("source")) or "frames",
                folder=_text(row.get("folder")) or "",
                identity=_text(row["identity"]) or "",
                provided_crop=bool(row["provided_crop"]),
                show_faces=bool(row["show_faces"]),
            )
            for row in self.table("videos").to_dict("records")
        }

    def _read_events(self) -> dict[str, Event]:
        fps = {v.id: v.fps for v in self.videos.values()}
        return {
            str(row["event"]): Event(
                id=str(row["event"]),
                video=str(row["video"]),
                dataset=self.dataset,
                subject=_text(row.get("subject")) or "",
                person=_text(row.get("person")) or "",
                onset=_index(row["onset"]),
                apex=_index(row["apex"]),
                offset=_index(row["offset"]),
                fps=fps.get(str(row["video"]), float("nan")),
                type=_text(row.get("type")) or "micro",
                aus=_text(row.get("aus")),
                emotion=_text(row.get("emotion")),
                labels={name: _text(row.get(name)) for name in LABELS},
            )
            for row in self.table("events").to_dict("records")
        }


def note_root(workspace: Workspace, dataset: str, root: Path) -> None:
    """Keep in the workspace where a dataset's raw frames lie; writes only what changed.

    Like timings the note is in no key: a folder that moved is noted anew by the next run.
    """
    note = workspace.stage(dataset, "ingest") / ROOT_NOTE
    text = os.fsencode(root.absolute())
    if not note.exists() or note.read_bytes() != text:
        with replacing(note) as temporary:
            temporary.write_bytes(text)


def noted_root(workspace: Workspace, dataset: str) -> Path:
    """The dataset's folder as noted. Raises StoreError `no_raw_frames` when unknown or gone."""
    note = workspace.stage(dataset, "ingest") / ROOT_NOTE
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


def _text(value: Any) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def _index(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(np.int64(value))
