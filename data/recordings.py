"""What ingest found, as the nouns of the field: videos, events, frames. One opener for its tables.

An `Event` is one annotated expression inside one `Video`; both are read once, from the tables that
ingest published, and handed on as they are. Frame indices are zero-based positions in the video's
own frame list, inclusive; a mark that the sheet does not give is None.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.errors import StoreError
from data.frames import FrameSource
from data.frames_table import FramesTable
from data.stages.files import read_table, replacing
from data.stages.workspace import Workspace
from data.video_file import seconds_of

ROOT_NOTE = "root.txt"
LABELS = ("label_3", "label_4", "label_5", "label_7", "objective_class")


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        self,
        workspace: Workspace | Path | str,
        dataset: str,
        root: Path | None = None,
        known: Mapping[str, Video] | None = None,
    ) -> None:
        """`known`: the videos that will be asked for, where the whole table need not be read."""
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
        self.dataset, self.root, self._known = dataset, root, known or {}
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
        found = self.video(video)
        if found.source == "video_file":
            return FrameSource(root / found.folder, found.num_frames)
        return FrameSource([root / path for path in self._frames_table.paths(video)])

    def seconds(self, video: str) -> npt.NDArray[np.float64]:
        """(T,) seconds of a video's frames: by timestamps where it has them, else index / fps."""
        return seconds_of(self._frames_table.times(video), self.video(video).fps)

    def video(self, video: str) -> Video:
        """One video."""
        return self._known[video] if video in self._known else self.videos[video]

    @property
    def _frames_table(self) -> FramesTable:
        table: FramesTable = self._cached("frames", lambda: FramesTable(self.path("frames")))
        return table

    def _read_videos(self) -> dict[str, Video]:
        table = self.table("videos")
        columns = _Columns(table)
        rows = zip(
            columns.text("video"),
            columns.text("subject"),
            columns.text("person"),
            table["fps"].astype(float).tolist(),
            table["num_frames"].astype(int).tolist(),
            columns.text("kind"),
            columns.text("source"),
            columns.text("folder"),
            columns.text("identity"),
            table["provided_crop"].tolist(),
            table["show_faces"].tolist(),
            strict=True,
        )
        return {
            row[0] or "": Video(
                id=row[0] or "",
                dataset=self.dataset,
                subject=row[1] or "",
                person=row[2] or "",
                fps=row[3],
                num_frames=row[4],
                kind=row[5] or "clip",
                source=row[6] or "frames",
                folder=row[7] or "",
                identity=row[8] or "",
                provided_crop=bool(row[9]),
                show_faces=bool(row[10]),
            )
            for row in rows
        }

    def _read_events(self) -> dict[str, Event]:
        videos, columns = self.videos, _Columns(self.table("events"))
        labels = _Together(columns.text(name) for name in LABELS)
        rows = zip(
            columns.text("event"),
            columns.text("video"),
            columns.text("subject"),
            columns.text("person"),
            columns.index("onset"),
            columns.index("apex"),
            columns.index("offset"),
            columns.text("type"),
            columns.text("aus"),
            columns.text("emotion"),
            labels,
            strict=True,
        )
        return {
            row[0] or "": Event(
                id=row[0] or "",
                video=row[1] or "",
                dataset=self.dataset,
                subject=row[2] or "",
                person=row[3] or "",
                onset=row[4],
                apex=row[5],
                offset=row[6],
                fps=videos[row[1] or ""].fps if row[1] in videos else float("nan"),
                type=row[7] or "micro",
                aus=row[8],
                emotion=row[9],
                labels=row[10],
            )
            for row in rows
        }


class _Columns:
    """Columns of a table as lists of plain values; a text that comes again is one object."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self._seen: dict[str, str] = {}

    def text(self, name: str) -> list[str | None]:
        """Text, None where there is none or no such column."""
        if name not in self._table:
            return [None] * len(self._table)
        values = self._table[name].astype("string").astype(object)
        same = self._seen.setdefault
        return [None if v is None or v is pd.NA else same(v, v) for v in values.tolist()]

    def index(self, name: str) -> list[int | None]:
        """Frame indices, None where there is none."""
        values = self._table[name].astype("Int64").astype(object)
        return [None if v is None or v is pd.NA else int(v) for v in values.tolist()]


class _Together:
    """Rows of label columns as dicts; rows that are alike share one, for nobody writes into it."""

    def __init__(self, columns: Iterable[list[str | None]]) -> None:
        self._rows = zip(*columns, strict=True)
        self._seen: dict[tuple[str | None, ...], dict[str, str | None]] = {}

    def __iter__(self) -> Iterator[dict[str, str | None]]:
        for row in self._rows:
            if row not in self._seen:
                self._seen[row] = dict(zip(LABELS, row, strict=True))
            yield self._seen[row]


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
