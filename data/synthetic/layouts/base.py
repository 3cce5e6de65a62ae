"""The small interface between the generator and one dataset's shape on disk.

The generator decides *what happens* (who, which expression, when, how strong); a `SyntheticLayout`
decides *how it is filed*: names of subjects and folders, file numbers, frames kept, sheets.
Adding a layout is one file with one `SyntheticLayout` subclass and one line in
`layouts/__init__.py`.

Order of calls made by `write_dataset`, all in one process:

1. `place(videos, rng)`          names and numbers every planned video;
2. (frames are rendered and written, in parallel);
3. `tables(videos, rng)`         the truthful content of the sheets;
4. `plant(tables, videos, out, rng)`   only with `defects=True`: alters tables and files;
5. `write_sheets(out, tables)`   writes the workbooks.

`rng` is seeded by (seed, layout, step), so every step is repeatable on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from data.synthetic.presets import Preset
from data.synthetic.workbook import need_xls

Cell = str | int | float | None
Row = dict[str, Cell]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Camera:
    """One recording device. A layout with several films the same performances several times.

    `name` is free text ("HS", "VIS", ""); `fps` is the device's real rate; `colour` False means
    grey frames; `suffix` is the file ending without dot ("jpg" | "bmp" | "png", or "avi" for one
    file per video); `quality` is the JPEG quality; `subjects` the share of subjects it filmed
    (the last ones, at least one).
    """

    name: str
    fps: float
    colour: bool
    suffix: str = "jpg"
    quality: int = 92
    subjects: float = 1.0


@dataclass(frozen=True)
class PlannedActionUnit:
    """One action unit of an event; `left` and `right` are the image sides' peaks in pixels."""

    number: int
    left: float
    right: float
    coded: bool = True
    """False for a weak accompanying movement that no coder would have written down."""


@dataclass(frozen=True)
class PlannedEvent:
    """One expression or blink. All frame fields are 0-based indices of *rendered* frames.

    `apex_start` is the first frame of the hold, `apex_end` its last, `apex` the frame in the
    middle, what a coder who gives one frame means; `apex_centre` is the middle in time, fractional.
    For a blink, `units` is empty and `emotion` is None. "talk" is never among a video's events: no
    sheet knows of it.
    """

    kind: Literal["micro", "macro", "blink", "talk"]
    onset: int
    apex_start: int
    apex_end: int
    apex_centre: float
    offset: int
    emotion: str | None
    units: tuple[PlannedActionUnit, ...]

    @property
    def apex(self) -> int:
        """The middle frame of the hold."""
        return (self.apex_start + self.apex_end) // 2

    @property
    def aus(self) -> str:
        """The coded action units as coders write them: "1+2", "6+12"; "" for a blink."""
        return "+".join(str(n) for n in sorted(u.number for u in self.units if u.coded))

    @property
    def aus_cell(self) -> Cell:
        """The same as it stands in a sheet: a single unit is a number there."""
        return int(self.aus) if self.aus.isdigit() else self.aus


@dataclass(frozen=True)
class Place:
    """Where and under which names a video's frames lie.

    `subject` the dataset's own spelling; `video` unique in the dataset, e.g. "sub01/EP02_01f";
    `folder` posix path under the dataset root (for an "avi" camera: the file itself);
    a frame is called f"{prefix}{number:0{digits}d}.{suffix}"; `first` is the file number that
    rendered frame 0 has (or would have); rendered frames `start` .. `stop - 1` are released,
    the others are never written. `extra` keeps whatever the layout's own sheets need.
    """

    subject: str
    video: str
    folder: str
    first: int = 1
    prefix: str = ""
    digits: int = 1
    start: int = 0
    stop: int | None = None
    extra: dict[str, Cell] = field(default_factory=dict)

    def trimmed(self, event: PlannedEvent) -> Place:
        """The place of a clip that is released from onset to offset only."""
        return replace(self, start=event.onset, stop=event.offset + 1)

    def filmed(self) -> Place:
        """The place of a video file instead of a folder of frames."""
        return replace(self, folder=f"{self.folder}.avi")


@dataclass(frozen=True)
class PlannedVideo:
    """A video before it has a name: who, which camera, how long, what happens.

    `subject` and `number` are 0-based ordinals (subject; video of that subject, the same for all
    cameras). `frames` counts rendered frames.
    """

    camera: Camera
    subject: int
    number: int
    fps: float
    frames: int
    size: tuple[int, int]
    events: tuple[PlannedEvent, ...]

    @property
    def emotion(self) -> str:
        """Emotion of the first expression, the one a clip is filed under ("" without any)."""
        return next((e.emotion for e in self.events if e.emotion), "")

    @property
    def expressions(self) -> tuple[PlannedEvent, ...]:
        """Micro- and macro-expressions, by onset, without the blinks."""
        return tuple(e for e in self.events if e.kind != "blink")


@dataclass(frozen=True)
class PlacedVideo:
    """A planned video with its place: what sheets and defects are written from."""

    plan: PlannedVideo
    place: Place

    @property
    def released(self) -> range:
        """Rendered frames that exist as files."""
        stop = self.plan.frames if self.place.stop is None else self.place.stop
        return range(self.place.start, stop)

    def cut(self, event: PlannedEvent) -> PlannedEvent:
        """The event as far as it lies in the released frames (a blink may stand out of them)."""
        first, last = self.released.start, self.released.stop - 1
        frames = ("onset", "apex_start", "apex_end", "offset")
        inside = {n: min(max(getattr(event, n), first), last) for n in frames}
        centre = min(max(event.apex_centre, float(first)), float(last))
        return replace(event, apex_centre=centre, **inside)

    def number(self, frame: int) -> int:
        """File number of a rendered frame."""
        return self.place.first + frame

    def file_name(self, frame: int) -> str:
        """File name of a rendered frame."""
        stem = f"{self.place.prefix}{self.number(frame):0{self.place.digits}d}"
        return f"{stem}.{self.plan.camera.suffix}"

    def path(self, frame: int) -> str:
        """Posix path of a rendered frame under the dataset root."""
        return f"{self.place.folder}/{self.file_name(frame)}"


@dataclass(frozen=True)
class Planted:
    """One defect put there on purpose, as written to `truth.json`.

    `kind` a code_like_this; `who` the video, event or file it concerns; `table` and `column` where
    (or "" for a defect of files); `old` and `new` the cell, or the place on disk, before and after.
    """

    kind: str
    who: str
    table: str = ""
    column: str = ""
    old: Cell = None
    new: Cell = None


def lines(columns: Sequence[str | None], rows: Sequence[Row]) -> list[list[Cell]]:
    """The rows' cells in the order of a sheet's columns; None is a column without a name."""
    return [[None if name is None else row[name] for name in columns] for row in rows]


def films(cameras: tuple[Camera, ...]) -> tuple[Camera, ...]:
    """The same cameras, writing video files."""
    return tuple(replace(camera, suffix="avi") for camera in cameras)


class SyntheticLayout(ABC):
    """How one dataset files its recordings. Subclasses set the fields and write four methods.

    `emotions` maps generator emotions (keys of `action_units.EMOTIONS`) to weights. `kind` "clip"
    plans one micro-expression per video, "long" several micro- and macro-expressions with blinks
    and head shifts. `lead_in` scales a clip's neutral frames before and after the expression.
    `people` names the population where two layouts film the same persons (SAMM and its long
    videos); by default every layout has its own. `preset` holds fields of `Preset` that all presets
    of this layout have, unless the caller overrides them. `same_emotion`: all expressions of a
    video show the emotion the video is filed under. `xls`: a workbook has the old Excel format.
    `variants`: other shapes in which the owner, or users, ship the same recordings, name -> what
    differs; `variant` is the one to write, "" for the usual shape.
    """

    name: ClassVar[str]
    kind: Literal["clip", "long"]
    cameras: tuple[Camera, ...]
    emotions: ClassVar[dict[str, float]]
    lead_in: ClassVar[float] = 1.0
    people: ClassVar[str] = ""
    preset: ClassVar[dict[str, Any]] = {}
    same_emotion: ClassVar[bool] = False
    xls: ClassVar[bool] = False
    variants: ClassVar[dict[str, str]] = {}

    def __init__(self, variant: str = "") -> None:
        self.variant = variant

    def defaults(self) -> dict[str, Any]:
        """Fields of `Preset` that all presets of this layout have."""
        return self.preset

    def check(self, preset: Preset) -> None:
        """Raise an `ApexflowError` where this layout cannot be written, before any rendering."""
        if self.xls:
            need_xls()

    @abstractmethod
    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        """Name every video; same order and length as `videos` (sorted by subject, number)."""

    @abstractmethod
    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        """Sheet rows as the coders would have written them, table name -> rows."""

    @abstractmethod
    def write_sheets(self, out: Path, tables: Tables) -> None:
        """Write the workbooks under `out`; deterministic bytes (see `workbook.save`)."""

    def population(self, seed: int) -> str:
        """Name of the people this layout films, as `subjects.make_subject` takes it."""
        return f"{seed}/{self.people or self.name}"

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        """Put this dataset's known defects into `tables` (in place) and the files under `out`.

        Every kind the layout knows is planted if there are rows enough for it; nothing is hit
        twice. Returns one record per defect.
        """
        return []
