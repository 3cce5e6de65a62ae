"""From an adapter's videos and annotations to the tables of one schema."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.datasets.base import Adapter, Dataset, ListedVideo, VideoSpec, is_synthetic
from data.datasets.census import kept_and_dropped, take_census
from data.datasets.checks import Annotation, EventChecker
from data.datasets.doubles import EventIds
from data.datasets.films import not_read
from data.datasets.grouping import ARCHIVES, archives, films_not_read, no_videos
from data.datasets.images import image_size
from data.datasets.label_maps import map_labels
from data.datasets.listing import (
    FrameList,
    Tree,
    content_identity,
    list_frames,
    list_video_file,
    walk,
)
from data.datasets.report import Report
from data.datasets.sheets import SUFFIXES
from data.errors import DatasetError, InputError
from data.frames import MAX_PIXELS, VIDEO_SUFFIXES
from data.schema import EVENTS, VIDEOS, conform
from data.video_file import rate_differs

LONGEST = 300  # characters of a path in a message


def read_dataset(adapter: Adapter, root: Path) -> Dataset:
    """Ingest one dataset. Raises DatasetError when nothing of it can be used."""
    try:
        got = "" if root.is_dir() else "no folder there"
    except OSError as error:  # a name longer than the disk takes, a folder that may not be entered
        got = str(error.strerror)
    if got:
        raise DatasetError(str(root)[:LONGEST], expected="a folder", got=got, code="no_such_folder")
    report = Report(adapter.name)
    tree = walk(root, confined=adapter.confined)
    if "" not in tree.folders:
        path, reason, detail = tree.problems[0]
        raise DatasetError(str(root), expected="a readable folder", got=detail, code=reason)
    for path, reason, detail in tree.problems:
        report.flag(path or ".", "file", reason, detail)
    specs = [_with_file(root, spec) for spec in adapter.find_videos(tree, report)]
    videos = _list_videos(adapter, tree, specs, report)
    _flag_strays(tree, specs, videos, report)
    for path, said in archives(tree):
        report.flag(path, "file", "archive_not_unpacked", said)
    for path, said in films_not_read(tree):
        report.flag(path, "file", "video_format_not_read", said)
    annotations = adapter.read_annotations(tree, videos, report)
    show = adapter.may_show_faces(tree)
    _flag_uncoded(adapter, annotations, videos, report)
    events = _events(adapter, annotations, videos, report)
    sheet = kept_and_dropped(take_census(annotations, videos), events)
    report.counts["videos"] = len(videos)
    report.counts["events"] = len(events)
    return Dataset(
        adapter.name,
        root,
        _video_table(adapter, videos, show, is_synthetic(tree.root)),
        _frame_table(videos),
        events,
        report.ledger_table(),
        report.findings_table(),
        dict(sorted(report.variant.items())),
        dict(sorted(report.counts.items())),
        show,
        sheet,
    )


def _list_videos(
    adapter: Adapter, tree: Tree, specs: list[VideoSpec], report: Report
) -> dict[str, ListedVideo]:
    """Frames, identity and size of every video; folders without a frame are dropped."""
    videos: dict[str, ListedVideo] = {}
    refused = sum(f.kind == "video" and f.action == "dropped" for f in report.findings)
    report.counts["folders"] = len(specs) + refused
    for spec in sorted(specs, key=lambda s: (s.video, s.path)):
        if spec.video in videos:
            kept = videos[spec.video].spec.path
            report.drop(
                spec.video, "video", "duplicate_video", f"{spec.path}; {kept} has the same name"
            )
            continue
        video = _list_video(adapter, tree.root, spec, report)
        if video is not None:
            videos[spec.video] = video
    if not videos:
        raise no_videos(adapter, tree, report)
    return dict(sorted(videos.items()))


def _with_file(root: Path, spec: VideoSpec) -> VideoSpec:
    """A spec whose folder is a video file, with that file in its own field."""
    folder, _, name = spec.folder.rpartition("/")
    film = (
        not spec.file and name.lower().endswith(VIDEO_SUFFIXES) and not (root / spec.path).is_dir()
    )
    return replace(spec, folder=folder, file=name) if film else spec


def _list_video(
    adapter: Adapter, root: Path, spec: VideoSpec, report: Report
) -> ListedVideo | None:
    folder = root / spec.folder
    inside = root.resolve() if adapter.confined else None
    try:
        frames = list_video_file(root / spec.path) if spec.file else list_frames(folder, inside)
    except (InputError, OSError) as error:
        code = error.code if isinstance(error, InputError) else "permission_denied"
        report.drop(spec.video, "video", code, f"{spec.path}: {error}")
        return None
    denied = [(r, d) for r, d in frames.problems if r in ("permission_denied", "no_such_folder")]
    if not len(frames):
        reason = denied[0][0] if denied else "empty_folder"
        detail = "; ".join(d for _, d in denied)
        reason, detail = _no_folder(root / spec.path) or (reason, detail)
        report.drop(
            spec.video, "video", reason, detail or _contents(root / spec.path, spec, frames)
        )
        return None
    for reason, detail in frames.problems:
        report.flag(spec.video, "video", reason, detail)
    if frames.facts is not None and (said := rate_differs(frames.facts, spec.fps)):
        report.flag(
            spec.video, "video", "fps_differs", said, column="fps", old=f"{spec.fps:g}"
        )  # fmt: skip
    size = frames.facts.size if frames.facts else image_size(folder / frames.names[0])
    if size is None:
        report.flag(spec.video, "frame", "unreadable_frame", f"no image header: {spec.path}")
    elif size[0] * size[1] > MAX_PIXELS:
        report.flag(spec.video, "frame", "huge_image", f"{size[0]}x{size[1]}: frames are refused")
    return ListedVideo(spec, frames, content_identity(folder, frames), size)


def _no_folder(path: Path) -> tuple[str, str] | None:
    """(reason, detail) where a video's folder is something else, None where it is a folder."""
    if path.is_dir() or not path.exists():
        return None
    if not path.is_file():
        return "not_a_file", f"{path.name}: a pipe, socket or device"
    return "not_a_video", f"{path.name}: {not_read(path.name) or 'neither a folder nor a video'}"


def _contents(folder: Path, spec: VideoSpec, frames: FrameList) -> str:
    """What a folder without frames holds instead: by ending, and why its pictures are none."""
    kinds = Counter(entry.suffix.lower() or "no ending" for entry in folder.iterdir())
    held = ", ".join(f"{n} x {k}" for k, n in sorted(kinds.items())) or "nothing"
    return "; ".join([f"{spec.path}: {held}", *(f"{r}, {d}" for r, d in frames.problems)])


def _flag_strays(
    tree: Tree, specs: list[VideoSpec], videos: dict[str, ListedVideo], report: Report
) -> None:
    """Files that are neither frames nor sheets, in a video's folder or the one above it."""
    known = {spec.path for spec in specs}
    folders = {v.spec.folder for v in videos.values()}
    folders |= {f.rpartition("/")[0] for f in folders}
    for folder in (tree.folders[f] for f in sorted(folders - {""}) if f in tree.folders):
        films = [n for n in folder.videos if n.rpartition(".")[0] not in folder.children]
        for name in (*folder.others, *films):
            path = f"{folder.path}/{name}"
            is_sheet = name.lower().endswith(SUFFIXES)
            named = name.lower().endswith(ARCHIVES) or not_read(name)  # said of the whole tree
            if path not in known and not is_sheet and not named and not name.startswith("Thumbs"):
                report.flag(path, "file", "stray_file", "no frame, no sheet")


def _flag_uncoded(
    adapter: Adapter, rows: list[Annotation], videos: dict[str, ListedVideo], report: Report
) -> None:
    """Clips that no row of the sheet names: every clip is accounted for."""
    if not adapter.rules.every_clip_coded:
        return
    coded = {row.video.casefold() for row in rows}
    for name, video in videos.items():
        if video.spec.kind == "clip" and name.casefold() not in coded:
            report.flag(name, "video", "video_not_in_sheet", video.spec.path)


def _events(
    adapter: Adapter, rows: list[Annotation], videos: dict[str, ListedVideo], report: Report
) -> pd.DataFrame:
    """Checked events with indices; every annotation is kept, or dropped with a ledger row."""
    checker = EventChecker(adapter.name, adapter.rules, report)
    folded = {name.casefold(): name for name in videos}
    found: list[dict[str, Any]] = []
    ids = EventIds(report)
    report.counts["rows"] = len(rows) + report.counts.get("rows_refused", 0)
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
        checked = checker.check(row, video.spec.fps, _ends(video))
        if checked is None:
            continue
        row, interval = checked
        placed = checker.locate(row, interval, video.frames)
        if placed is None or placed.onset is None or placed.offset is None:
            continue
        event = ids.take(row, name, placed)
        if event is None:
            continue
        numbers = video.frames.numbers
        found.append(
            {
                "dataset": adapter.name,
                "subject": video.spec.subject,
                "person": video.spec.person,
                "video": name,
                "event": event,
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


def _ends(video: ListedVideo) -> tuple[int, int] | None:
    """First and last file number of a clip cut to its expression, None for any other video."""
    numbers = video.frames.numbers
    return (int(numbers[0]), int(numbers[-1])) if video.spec.trimmed else None


def _video_table(
    adapter: Adapter, videos: dict[str, ListedVideo], show: bool, synthetic: bool
) -> pd.DataFrame:
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
            "synthetic": synthetic,
        }
        for v in videos.values()
    ]
    return conform(pd.DataFrame(rows, columns=list(VIDEOS)), "videos")


def _frame_table(videos: dict[str, ListedVideo]) -> pd.DataFrame:
    """The frames table as arrow columns: no Python object per frame survives."""
    ids, paths, times = [], [], []
    for name, video in videos.items():
        count, facts = len(video.frames), video.frames.facts
        times.append(np.full(count, np.nan) if facts is None else facts.times)
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
            "time_s": np.concatenate(times),
        }
    )
    return conform(table, "frames")


def _strings(column: pa.ChunkedArray) -> Any:
    """A pandas string column around an arrow one, without a copy."""
    dtype: Any = pd.StringDtype("pyarrow")
    return dtype.__from_arrow__(column)


def _large(word: str) -> pa.Scalar:
    return pa.scalar(word, pa.large_string())
