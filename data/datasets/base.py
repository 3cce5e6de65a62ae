"""What an adapter is: one dataset's knowledge of its own folders and sheets.

An adapter hands over video folders (`VideoSpec`) and annotations (`checks.Annotation`); listing,
identity, checks, corrections, label maps and the ledger are done in `assemble`, alike for all.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pandas as pd

from data.datasets.checks import Annotation, Rules
from data.datasets.listing import FrameList, Tree
from data.datasets.report import Report

GENERATOR = "apexflow-synthetic"  # marks datasets of drawn faces, which may be shown


@dataclass(frozen=True)
class VideoSpec:
    """A folder (or video file) that is a video, before its frames are listed.

    `folder` is relative to the dataset root; `file` names a video file inside it; `trimmed`: the
    owner cut the clip to its expression, so its ends can stand in for missing frame numbers.
    """

    subject: str
    person: str
    video: str
    folder: str
    fps: float
    kind: str = "clip"
    provided_crop: bool = False
    file: str = ""
    trimmed: bool = False

    @property
    def path(self) -> str:
        """Path of the folder or video file relative to the root."""
        return "/".join(p for p in (self.folder, self.file) if p)


@dataclass(frozen=True)
class Dataset:
    """One dataset as ingested. Tables follow `data.schema`; `findings` has every defect.

    `variant` says which release, sheet and folders were found; `counts` what came in and out:
    rows = events + rows dropped, folders = videos + videos dropped. `sheet`: kind of event ->
    what the sheet itself says of it (see `census`), before any row is corrected or dropped.
    """

    name: str
    root: Path
    videos: pd.DataFrame
    frames: pd.DataFrame
    events: pd.DataFrame
    ledger: pd.DataFrame
    findings: pd.DataFrame
    variant: dict[str, str]
    counts: dict[str, int]
    show_faces: bool
    sheet: dict[str, dict[str, int]] = field(default_factory=dict)


class Adapter(ABC):
    """One dataset's layout. Subclasses set the class attributes and the two methods."""

    name: ClassVar[str]
    title: ClassVar[str]
    fps: ClassVar[float]
    kind: ClassVar[str] = "clip"
    labelled: ClassVar[bool] = True  # False: recordings to predict on, without a truth
    show_faces: ClassVar[bool] = False  # licensed faces are people: never passed on
    confined: ClassVar[bool] = False  # links of frames may not lead out of the root
    rules: ClassVar[Rules] = Rules()
    identity_space: ClassVar[str] = ""  # datasets that share people share this name
    reference: ClassVar[dict[str, int]] = {}  # published counts, for `check`

    @abstractmethod
    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """The dataset's videos among the folders. Raises DatasetError when there are none."""

    @abstractmethod
    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """All annotations of the dataset's sheets, unchecked. Raises DatasetError without any."""

    def may_show_faces(self, tree: Tree) -> bool:
        """Whether this copy's faces may appear in reports and exports."""
        return self.show_faces or is_synthetic(tree.root)

    def person(self, subject: str) -> str:
        """Cross-dataset identity of a subject."""
        return f"{self.identity_space or self.name}:{subject}"


@dataclass
class ListedVideo:
    """A video with its frames listed."""

    spec: VideoSpec
    frames: FrameList
    identity: str = ""
    size: tuple[int, int] | None = None


def is_synthetic(root: Path) -> bool:
    """Whether the folder was written by our generator (its truth file says so)."""
    path = root / "truth.json"
    try:
        truth = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(truth, dict) and truth.get("generator") == GENERATOR
