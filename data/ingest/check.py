"""What a dataset folder holds against what it should: a report one can mail. Writes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from data.datasets import get_adapter, open_dataset
from data.datasets.assemble import LONGEST
from data.datasets.base import Dataset
from data.datasets.composite import (
    MEGC_CLASSES,
    MEGC_COUNTS,
    MEGC_DATASETS,
    why_not_megc2019,
)
from data.datasets.images import end_problem, image_size
from data.datasets.label_maps import ALL_MAPS, label_of, why_dropped
from data.errors import DatasetError, InputError
from data.frames import FrameSource
from data.ingest.guess import guess_layouts

CLEAN, REPAIRED, UNUSABLE = 0, 3, 4
VERDICTS = {CLEAN: "clean", REPAIRED: "usable with the repairs listed", UNUSABLE: "unusable"}
UNPUBLISHED = "no published counts to compare with"
EXAMPLES = 5
NOT_LOOKED = "not looked at"
FACES = "not to be passed on: pictures show none, unless --with-faces is given"
MANY_FRAMES = 200_000  # below this, the end of every image file is looked at
_DIGITS = re.compile(r"([0-9]+)[^0-9]*$")


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_dataset`; every field is plain JSON.

    `counts`: what was found, `sheet`: kind of event -> what the sheet says of it, before any row
    is corrected or dropped, `reference`: [what, found, published] where both are known,
    `numbering`: paddings, first numbers, gaps, `images`: sizes and unreadable frames,
    `defects`: action, reason, how many, examples, `classes`: map -> class -> events,
    `unlabelled`: map -> reason -> events dropped under that map, `show_faces`: whether pictures of
    this copy's faces may be passed on, `findings`: every defect with its repair, one by one,
    `part`: how it differs from the published counts, "" where it does not, `looks_like`: layouts
    that read an unusable folder, in words, the likeliest first.
    """

    dataset: str
    root: str
    exit_code: int
    error: str = ""
    variant: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sheet: dict[str, dict[str, int]] = field(default_factory=dict)
    reference: list[list[Any]] = field(default_factory=list)
    numbering: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    defects: list[dict[str, Any]] = field(default_factory=list)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    unlabelled: dict[str, dict[str, int]] = field(default_factory=dict)
    show_faces: bool = False
    findings: list[dict[str, str]] = field(default_factory=list)
    part: str = ""
    looks_like: list[str] = field(default_factory=list)
    layouts: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence; "clean" only for a copy without defects that is whole."""
        if self.exit_code == CLEAN and not self.reference:
            return f"no defects; {UNPUBLISHED}"
        if self.exit_code == UNUSABLE or not self.part:
            return VERDICTS[self.exit_code]
        return f"{'no defects' if self.exit_code == CLEAN else VERDICTS[REPAIRED]}; {self.part}"

    def to_json(self) -> str:
        """The report as indented JSON."""
        content = {**self.__dict__, "verdict": self.verdict}
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """The report as text, 100 columns."""
        lines = [f"{self.dataset} at {self.root}: {self.verdict}"]
        if self.error:
            lines.append(f"  {self.error}")
        lines += [f"  {said}" for said in self.looks_like]
        found = [f"{k}: {v}" for k, v in self.variant.items()]
        if found:
            found.append(f"faces: {'may be shown' if self.show_faces else FACES}")
        lines += _section("Found", found)
        lines += _section("Counts, after drops", [f"{k}: {v}" for k, v in self.counts.items()])
        lines += _section(
            "Annotations as the sheet has them",
            [
                f"{kind}: " + ", ".join(f"{name} {n}" for name, n in said.items())
                for kind, said in self.sheet.items()
            ],
        )
        lines += _section(
            "Against the published numbers",
            [
                f"{what}: {found}, published {said}{'' if found == said else '  <- differs'}"
                for what, found, said in self.reference
            ],
        )
        lines += _section("Numbering", [f"{k}: {v}" for k, v in self.numbering.items()])
        lines += _section("Images", [f"{k}: {_plain(v)}" for k, v in self.images.items()])
        if not self.error or self.defects:
            lines += _section("Defects and repairs", _defect_lines(self.defects))
        for name, classes in self.classes.items():
            found = [f"{c}: {n}" for c, n in classes.items()]
            lost = [f"dropped, {why}: {n}" for why, n in self.unlabelled.get(name, {}).items()]
            lines += _section(f"Classes under {name}", [", ".join(found) or "none", *lost])
        return "\n".join(lines) + "\n"


def _section(title: str, rows: list[str]) -> list[str]:
    return ["", title, *(f"  {row}" for row in rows)] if rows else []


def _plain(value: Any) -> str:
    """'320x240: 4 videos, 640x480: 1 video' of a mapping, anything else as it is."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k} in {n} video{'s' * (n != 1)}" for k, n in value.items())


def _defect_lines(defects: list[dict[str, Any]]) -> list[str]:
    lines = []
    for defect in defects:
        lines.append(
            f"{defect['action']}  {defect['reason']}  ({defect['count']} {defect['kind']})"
        )
        lines += [f"    {e}" for e in defect["examples"]]
        if defect["count"] > len(defect["examples"]):
            more = defect["count"] - len(defect["examples"])
            lines.append(f"    ... and {more} more (--json has every one)")
    return lines or ["none"]


def check_dataset(
    name: str,
    root: str | Path,
    deep: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> CheckReport:
    """Read the dataset, decode the first, middle and last frame of every video (all, if `deep`).

    progress(videos looked at, of how many, which) is called as it goes.

    Never raises for the dataset's sake: an unusable folder is a report with exit code 4. Raises
    DatasetError only for an unknown layout name.
    """
    adapter = get_adapter(name)
    where = str(root)[:LONGEST]
    try:
        dataset = open_dataset(name, root)
    except DatasetError as error:
        folder = Path(where)
        with suppress(RuntimeError):  # the home of nobody here: there is nothing to guess from
            folder = folder.expanduser()
        guesses = guess_layouts(folder, besides=name)
        return CheckReport(
            name,
            where,
            UNUSABLE,
            f"{error} [{error.code}]",
            looks_like=[guess.sentence() for guess in guesses],
            layouts=[guess.layout for guess in guesses],
        )
    images, unreadable = _look_at_images(dataset, deep, progress)
    findings = dataset.findings
    if images["truncated"] != NOT_LOOKED:  # ingest opens suspicious files only: said file by file
        findings = findings[findings["reason"] != "truncated_file"]
    findings = pd.concat([findings, unreadable], ignore_index=True)
    defects = _group_defects(findings)
    code, message = (REPAIRED if defects else CLEAN), ""
    if dataset.events.empty and adapter.labelled:
        code, message = UNUSABLE, "no event is left: see the dropped rows below"
    elif images["decoded"] and images["unreadable"] == images["decoded"]:
        code, message = UNUSABLE, "not one of the frames looked at can be decoded"
    classes, unlabelled = _classes(dataset)
    reference = _against_reference(dataset, adapter.reference, classes)
    return CheckReport(
        name,
        where,
        code,
        message,
        dataset.variant,
        _counts(dataset),
        dataset.sheet,
        reference,
        _numbering(dataset),
        images,
        defects,
        classes,
        unlabelled,
        dataset.show_faces,
        findings.astype("string").fillna("").to_dict("records"),
        _what_part(reference),
    )


def _counts(dataset: Dataset) -> dict[str, int]:
    events, videos = dataset.events, dataset.videos
    micro = events[events["type"] == "micro"]
    counts = {
        **dataset.counts,
        "frames": len(dataset.frames),
        "subjects": int(videos["subject"].nunique()),
        "subjects_with_events": int(events["subject"].nunique()),
        "micro_subjects": int(micro["subject"].nunique()),
        "micro_videos": int(micro["video"].nunique()),
        "videos_without_events": len(videos) - int(events["video"].nunique()),
    }
    counts |= {str(k): int(v) for k, v in events["type"].value_counts().sort_index().items()}
    cameras = videos["video"].str.extract(r"^(HS|VIS|NIR)/", expand=False).dropna()
    return counts | {f"{k} clips": int(v) for k, v in cameras.value_counts().sort_index().items()}


def _against_reference(
    dataset: Dataset, reference: dict[str, int], classes: dict[str, dict[str, int]]
) -> list[list[Any]]:
    """[what, found, published]; "micro rows" is of the sheet, "videos" of the folders,
    "megc2019 negative" of the events the composite takes."""
    found = _counts(dataset)
    for kind, said in dataset.sheet.items():
        found |= {f"{kind} {name}": n for name, n in said.items()}
    published = dict(reference)
    for label, number in zip(MEGC_CLASSES, MEGC_COUNTS.get(dataset.name, ()), strict=False):
        published[f"megc2019 {label}"] = number
        found[f"megc2019 {label}"] = classes["megc2019"].get(label, 0)
    return [[what, found.get(what, 0), number] for what, number in published.items()]


def _what_part(reference: list[list[Any]]) -> str:
    """ "a part: 4 of 255 videos", "not the published counts: ...", or "" where all agree."""
    differs = [row for row in reference if row[1] != row[2]]
    more = [row for row in differs if row[1] > row[2]]
    if more or not differs:
        what = ", ".join(f"{found} {what} of {said}" for what, found, said in more)
        return f"not the published counts: {what}" if more else ""
    what, found, said = min(differs, key=lambda row: row[0] != "videos")
    return f"a part: {found} of {said} {what}"


def _numbering(dataset: Dataset) -> dict[str, Any]:
    """Paddings, first numbers and gaps over all videos made of files."""
    videos = dataset.videos[dataset.videos["source"] == "frames"]
    if videos.empty:
        return {"source": "video files"}
    frames = dataset.frames[dataset.frames["video"].isin(videos["video"])]
    groups = frames.groupby("video", sort=False)["number"]
    first, last, count = groups.min(), groups.max(), groups.size()
    ends = pd.concat([frames.groupby("video").head(1), frames.groupby("video").tail(1)])
    widths = Counter(_width(path) for path in ends["path"])
    missing = last - first + 1 - count
    return {
        "digits": ", ".join(f"{w}: {n} names" for w, n in sorted(widths.items())),
        "first_number": f"{int(first.min())}..{int(first.max())}",
        "videos_starting_at_1": int((first == 1).sum()),
        "videos_with_gaps": int((missing > 0).sum()),
        "numbers_without_file": int(missing.sum()),
    }


def _width(path: str) -> int:
    match = _DIGITS.search(path.rpartition("/")[2].rpartition(".")[0])
    return len(match[1]) if match else 0


def _look_at_images(
    dataset: Dataset, deep: bool, progress: Callable[[int, int, str], None] | None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Decode frames; (summary, findings of the unreadable ones)."""
    sizes = Counter(
        "unknown" if pd.isna(w) else f"{w}x{h}"
        for w, h in zip(dataset.videos["width"], dataset.videos["height"], strict=True)
    )
    decoded, rows = 0, []
    tails = len(dataset.frames) <= MANY_FRAMES
    paths = dict(iter(dataset.frames.groupby("video", sort=False)["path"]))
    for number, video in enumerate(dataset.videos.itertuples(index=False)):
        if progress is not None:
            progress(number, len(dataset.videos), str(video.video))
        files = [dataset.root / p for p in paths[video.video]]
        is_file = video.source == "video_file"
        source = FrameSource(files[0] if is_file else files, video.num_frames)
        length = video.num_frames
        if tails and not is_file:
            ends = ((file.name, end_problem(file)) for file in files)
            rows += [[video.video, "frame", "flagged", said, name] for name, said in ends if said]
        if (tails or deep) and not is_file and not pd.isna(video.width):
            rows += _other_sizes(video.video, files, (int(video.width), int(video.height)))
        for index in range(length) if deep else sorted({0, length // 2, length - 1}):
            decoded += 1
            try:
                source.read(index)
            except (InputError, cv2.error) as error:  # OpenCV refuses a huge picture its own way
                said = " ".join(str(error).split())
                code = error.code if isinstance(error, InputError) else "unreadable_frame"
                rows.append([video.video, "frame", "flagged", code, said])
    table = pd.DataFrame(rows, columns=["who", "kind", "action", "reason", "detail"])
    return {
        "sizes": dict(sorted(sizes.items())),
        "decoded": decoded,
        "unreadable": sum(row[3] == "unreadable_frame" for row in rows),
        "truncated": sum(row[3] == "truncated_file" for row in rows) if tails else NOT_LOOKED,
        "looked_at": "every frame" if deep else "first, middle and last frame of each video",
    }, table


def _other_sizes(video: str, files: list[Path], usual: tuple[int, int]) -> list[list[str]]:
    """A row where frames of a video are of another size than its first: no stage can use those."""
    odd = [(f.name, size) for f in files if (size := image_size(f)) not in (None, usual)]
    if not odd:
        return []
    shown = ", ".join(f"{name} {size[0]}x{size[1]}" for name, size in odd[:EXAMPLES] if size)
    said = f"{len(odd)} of {len(files)} frames are not {usual[0]}x{usual[1]}: {shown}"
    return [[video, "video", "flagged", "size_differs", said]]


def _group_defects(findings: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a kind of defect: dropped ones first, then the commonest."""
    groups = []
    for key, rows in findings.groupby(["action", "reason", "kind"], sort=True):
        action, reason, kind = (str(k) for k in key)
        shown = rows.head(EXAMPLES)
        groups.append(
            {
                "action": action,
                "reason": reason,
                "kind": kind,
                "count": len(rows),
                "examples": [_example(r) for r in shown.to_dict("records")],
            }
        )
    order = ("dropped", "repaired", "flagged")
    return sorted(groups, key=lambda g: (order.index(g["action"]), -g["count"], g["reason"]))


def _example(row: dict[str, Any]) -> str:
    cells = {k: "" if pd.isna(v) else str(v) for k, v in row.items()}
    change = ""
    if cells.get("column"):
        change = f"{cells['column']} {cells['old'] or 'empty'}"
        if cells["action"] == "repaired":
            change += f" -> {cells['new'] or 'empty'}"
    parts = [change, cells.get("detail", ""), cells.get("source", "")]
    return f"{cells['who']}: " + "; ".join(p for p in parts if p)


def _classes(dataset: Dataset) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Events by class under every map, and why events have none (micro-expressions only)."""
    micro = dataset.events[dataset.events["type"] == "micro"]
    emotions = [None if pd.isna(e) else str(e) for e in micro["emotion"]]
    classes = {"emotion": _sorted_counts(e for e in emotions if e)}
    lost: dict[str, dict[str, int]] = {}
    for name in ALL_MAPS:
        found = (
            [None if pd.isna(v) else str(v) for v in micro[name]]
            if name in micro
            else [label_of(dataset.name, name, e) for e in emotions]
        )
        classes[name] = _sorted_counts(v for v in found if v)
        lost[name] = _sorted_counts(
            why_dropped(dataset.name, name, e)
            for e, v in zip(emotions, found, strict=True)
            if v is None
        )
    if dataset.name in MEGC_DATASETS:
        out = why_not_megc2019(dataset.name, micro)
        classes["megc2019"] = _sorted_counts(map(str, micro.loc[out == "", "label_3"]))
        lost["megc2019"] = _sorted_counts(map(str, out[out != ""]))
    objective = micro["objective_class"].dropna().astype(np.int64)
    classes["objective_class"] = {str(k): int(n) for k, n in sorted(Counter(objective).items())}
    return classes, lost


def _sorted_counts(words: Any) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))
