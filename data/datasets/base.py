"""What an adapter is, and how its videos and annotations become the tables of one schema.

An adapter knows one dataset: how its folders are named and how its sheets are laid out. It hands
over video folders and annotations; listing, identity, checks, corrections, label maps and the
ledger are done here, the same way for all.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.datasets.checks import Annotation, EventChecker, Rules
from data.datasets.listing import (
    Folder,
    FrameList,
    Tree,
    content_identity,
    image_size,
    list_frames,
    list_video_file,
    video_size,
    walk,
)
from data.datasets.report import Report
from data.errors import DatasetError, InputError
from data.labels import map_labels
from data.schema import EVENTS, VIDEOS, conform

GENERATOR = "apexflow-synthetic"  # marks datasets of drawn faces, which may be shown
Tables = dict[str, Any]


@dataclass(frozen=True)
class VideoSpec:
    """A folder (or video file) that is a video, before its frames are listed.

    `folder` is relative to the dataset root; `file` names a video file inside it.
    """

    subject: str
    person: str
    video: str
    folder: str
    fps: float
    kind: str = "clip"
    provided_crop: bool = False
    file: str = ""

    @property
    def path(self) -> str:
        """Path of the folder or video file relative to the root."""
        return "/".join(p for p in (self.folder, self.file) if p)


@dataclass(frozen=True)
class Dataset:
    """One dataset as ingested. Tables follow `data.schema`; `findings` has every defect.

    `variant` says which release, sheet and folders were found; `counts` what came in and out:
    rows = events + rows dropped, folders = videos + videos dropped.
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


class Adapter(ABC):
    """One dataset's layout. Subclasses set the class attributes and the two methods."""

    name: ClassVar[str]
    title: ClassVar[str]
    fps: ClassVar[float]
    kind: ClassVar[str] = "clip"
    show_faces: ClassVar[bool] = False  # licensed faces are people: never passed on
    rules: ClassVar[Rules] = Rules()
    identity_space: ClassVar[str] = ""  # datasets that share people share this name
    reference: ClassVar[dict[str, int]] = {}  # published counts, for `check`

    @abstractmethod
    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """The dataset's videos among the folders. Raises DatasetError when there are none."""

    @abstractmethod
    def read_annotations(
        self, tree: Tree, videos: dict[str, Video], report: Report
    ) -> list[Annotation]:
        """All annotations of the dataset's sheets, unchecked. Raises DatasetError without any."""

    def may_show_faces(self, tree: Tree) -> bool:
        """Whether this copy's faces may appear in reports and exports."""
        return self.show_faces or is_synthetic(tree.root)

    def person(self, subject: str) -> str:
        """Cross-dataset identity of a subject."""
        return f"{self.identity_space or self.name}:{subject}"


@dataclass
class Video:
    """A video with its frames listed."""

    spec: VideoSpec
    frames: FrameList
    identity: str = ""
    size: tuple[int, int] | None = None


@dataclass
class Group:
    """Folders that match a dataset's pattern under one frames root (one variant of the frames)."""

    root: str
    parts: tuple[str, ...]
    folders: list[tuple[Folder, list[re.Match[str]]]] = field(default_factory=list)


def group_by_pattern(tree: Tree, patterns: Iterable[str]) -> list[Group]:
    """Leaf folders whose last names match `patterns` (one regex a level), by frames root.

    Matching ignores case and depth, so nested archives and any starting level work.
    """
    regexes = [re.compile(p, re.IGNORECASE) for p in patterns]
    groups: dict[tuple[str, ...], Group] = {}
    for folder in tree.leaves():
        parts = tree.parts(folder.path)
        if len(parts) < len(regexes):
            continue
        tail = parts[-len(regexes) :]
        matches = [r.fullmatch(p) for r, p in zip(regexes, tail, strict=True)]
        if all(matches):
            head = parts[: -len(regexes)]
            group = groups.setdefault(head, Group("/".join(head[1:]), head))
            group.folders.append((folder, [m for m in matches if m]))
    return list(groups.values())


def choose_group(
    adapter: Adapter,
    tree: Tree,
    groups: list[Group],
    variants: list[tuple[str, str]],
    preferred: list[str],
    report: Report,
) -> Group:
    """The group to use among several variants of the same frames; the choice goes to the variant.

    `variants`: (regex searched in the frames root's path, variant name), the first that is found
    names the group (an empty regex fits always); `preferred`: variant names, best first.
    Raises DatasetError `no_videos` without a group.
    """
    named = [
        (_variant_of(g, variants), g) for g in groups if any(f.num_images for f, _ in g.folders)
    ]
    if not named:
        raise no_videos(adapter, tree)
    named.sort(key=lambda n: (preferred.index(n[0]), -len(n[1].folders), n[1].root))
    name, best = named[0]
    report.variant["frames"] = name
    report.variant["frames_root"] = best.root or "."
    if others := [f"{n} ({g.root or '.'})" for n, g in named[1:]]:
        report.variant["also_present"] = "; ".join(others) + " (give that folder to use it)"
    return best


def _variant_of(group: Group, variants: list[tuple[str, str]]) -> str:
    path = "/".join(group.parts[-2:])
    return next(name for regex, name in variants if re.search(regex, path, re.IGNORECASE))


def no_videos(adapter: Adapter, tree: Tree) -> DatasetError:
    """The error for a root without any folder of frames that fits."""
    children = ", ".join(tree.folders[""].children[:8]) if "" in tree.folders else ""
    return DatasetError(
        f"{adapter.name} at {tree.root}",
        expected=f"folders of frames named as in {adapter.title}",
        got=f"folders {children or 'none'}",
        todo="Point ROOT at the folder with the frames and the sheet, or name another layout.",
        code="no_videos",
    )


def leave_out_strangers(tree: Tree, groups: list[Group], best: Group, report: Report) -> None:
    """Folders of images that fit no pattern: dropped one by one inside the frames root in use,
    counted in the variant when they lie elsewhere."""
    known = {folder.path for group in groups for folder, _ in group.folders}
    prefix = best.root + "/" if best.root else ""
    elsewhere = 0
    for folder in tree.leaves():
        if folder.path in known or not folder.num_images:
            continue
        if folder.path.startswith(prefix):
            report.drop(folder.path or ".", "video", "unrecognised_folder", folder.first_image)
        else:
            elsewhere += 1
    if elsewhere:
        report.variant["ignored_folders"] = f"{elsewhere} folders of images outside {best.root}"


def read_dataset(adapter: Adapter, root: Path) -> Dataset:
    """Ingest one dataset. Raises DatasetError when nothing of it can be used."""
    if not root.is_dir():
        raise DatasetError(
            str(root), expected="a folder", got="no folder there", code="no_such_folder"
        )
    report = Report(adapter.name)
    tree = walk(root)
    if "" not in tree.folders:
        path, reason, detail = tree.problems[0]
        raise DatasetError(str(root), expected="a readable folder", got=detail, code=reason)
    for path, reason, detail in tree.problems:
        report.flag(path or ".", "file", reason, detail)
    videos = _list_videos(adapter, tree, adapter.find_videos(tree, report), report)
    annotations = adapter.read_annotations(tree, videos, report)
    show = adapter.may_show_faces(tree)
    events = _events(adapter, annotations, videos, report)
    report.counts["videos"] = len(videos)
    report.counts["events"] = len(events)
    return Dataset(
        adapter.name,
        root,
        _video_table(adapter, videos, show),
        _frame_table(videos),
        events,
        report.ledger_table(),
        report.findings_table(),
        dict(sorted(report.variant.items())),
        dict(sorted(report.counts.items())),
        show,
    )


def is_synthetic(root: Path) -> bool:
    """Whether the folder was written by our generator (its truth file says so)."""
    try:
        truth = json.loads((root / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(truth, dict) and truth.get("generator") == GENERATOR


def _list_videos(
    adapter: Adapter, tree: Tree, specs: list[VideoSpec], report: Report
) -> dict[str, Video]:
    """Frames, identity and size of every video; folders without a frame are dropped."""
    videos: dict[str, Video] = {}
    report.counts["folders"] = len(specs)
    for spec in sorted(specs, key=lambda s: (s.video, s.path)):
        if spec.video in videos:
            kept = videos[spec.video].spec.path
            report.drop(
                spec.video, "video", "duplicate_video", f"{spec.path}; {kept} has the same name"
            )
            continue
        video = _list_video(tree.root, spec, report)
        if video is not None:
            videos[spec.video] = video
    if not videos:
        raise no_videos(adapter, tree)
    return dict(sorted(videos.items()))


def _list_video(root: Path, spec: VideoSpec, report: Report) -> Video | None:
    folder = root / spec.folder
    try:
        frames = list_video_file(root / spec.path) if spec.file else list_frames(folder)
    except (InputError, OSError) as error:
        code = error.code if isinstance(error, InputError) else "permission_denied"
        report.drop(spec.video, "video", code, str(error))
        return None
    denied = [d for r, d in frames.problems if r == "permission_denied"]
    if not len(frames):
        reason = "permission_denied" if denied else "empty_folder"
        report.drop(spec.video, "video", reason, "; ".join(denied) or spec.path)
        return None
    for reason, detail in frames.problems:
        report.flag(spec.video, "video", reason, detail)
    size = video_size(root / spec.path) if spec.file else image_size(folder / frames.names[0])
    if size is None:
        report.flag(spec.video, "frame", "unreadable_frame", f"no image header: {spec.path}")
    return Video(spec, frames, content_identity(folder, frames), size)


def _events(
    adapter: Adapter, rows: list[Annotation], videos: dict[str, Video], report: Report
) -> pd.DataFrame:
    """Checked events with indices; every annotation is kept, or dropped with a ledger row."""
    checker = EventChecker(adapter.name, adapter.rules, report)
    folded = {name.casefold(): name for name in videos}
    found, taken = [], set()
    report.counts["rows"] = len(rows)
    for row in rows:
        name = row.video if row.video in videos else folded.get(row.video.casefold())
        if name is None:
            report.drop(row.who, "row", "video_missing", f"{row.where}: no frames of {row.video}")
            continue
        if name != row.video:
            report.repair(
                row.who, "event", "case_differs", row.where,
                column="video", old=row.video, new=name, source="the folder's spelling",
            )  # fmt: skip
        video = videos[name]
        checked = checker.check(row, video.spec.fps)
        if checked is None:
            continue
        row, interval = checked
        placed = checker.locate(row, interval, video.frames)
        if placed is None or placed.onset is None or placed.offset is None:
            continue
        if row.event in taken:
            report.drop(row.who, "row", "duplicate_event", f"{row.where}: {row.event} again")
            continue
        taken.add(row.event)
        numbers = video.frames.numbers
        found.append(
            {
                "dataset": adapter.name,
                "subject": video.spec.subject,
                "person": video.spec.person,
                "video": name,
                "event": row.event,
                "onset": placed.onset,
                "apex": placed.apex,
                "offset": placed.offset,
                "onset_number": int(numbers[placed.onset]),
                "apex_number": None if placed.apex is None else int(numbers[placed.apex]),
                "offset_number": int(numbers[placed.offset]),
                "type": row.type,
                "aus": row.aus,
                "emotion": row.emotion,
                **{**map_labels(adapter.name, row.emotion), **row.labels},
                "objective_class": row.objective,
            }
        )
    found.sort(key=lambda e: (e["video"], e["onset"], e["event"]))
    return conform(pd.DataFrame(found, columns=list(EVENTS)), "events")


def _video_table(adapter: Adapter, videos: dict[str, Video], show: bool) -> pd.DataFrame:
    rows = [
        {
            "dataset": adapter.name,
            "subject": v.spec.subject,
            "person": v.spec.person,
            "video": v.spec.video,
            "fps": v.spec.fps,
            "num_frames": len(v.frames),
            "width": v.size[0] if v.size else None,
            "height": v.size[1] if v.size else None,
            "kind": v.spec.kind,
            "source": "video_file" if v.spec.file else "frames",
            "folder": v.spec.path,
            "identity": v.identity,
            "provided_crop": v.spec.provided_crop,
            "show_faces": show,
        }
        for v in videos.values()
    ]
    return conform(pd.DataFrame(rows, columns=list(VIDEOS)), "videos")


def _frame_table(videos: dict[str, Video]) -> pd.DataFrame:
    """The frames table as arrow columns: no Python object per frame survives."""
    ids, paths = [], []
    for name, video in videos.items():
        count = len(video.frames)
        ids.append(pa.repeat(_large(name), count))
        if video.spec.file:
            paths.append(pa.repeat(_large(video.spec.path), count))
            continue
        prefix = video.spec.folder + "/" if video.spec.folder else ""
        names = pa.array(video.frames.names, pa.large_string())
        paths.append(pc.binary_join_element_wise(_large(prefix), names, _large("")))
        video.frames.names = []  # a million file names are not kept twice
    table = pd.DataFrame(
        {
            "video": _strings(pa.chunked_array(ids, pa.large_string())),
            "index": np.concatenate([np.arange(len(v.frames)) for v in videos.values()]),
            "number": np.concatenate([v.frames.numbers for v in videos.values()]),
            "path": _strings(pa.chunked_array(paths, pa.large_string())),
        }
    )
    return conform(table, "frames")


def _strings(column: pa.ChunkedArray) -> Any:
    """A pandas string column around an arrow one, without a copy."""
    dtype: Any = pd.StringDtype("pyarrow")
    return dtype.__from_arrow__(column)


def _large(word: str) -> pa.Scalar:
    return pa.scalar(word, pa.large_string())
