"""MMEW: 90 fps clips cropped to the face (Ben et al. 2021, IEEE TPAMI 44).

    Micro_Expression/happiness/S03-01-002/1.jpg ...    or Micro_Expression/S03/happiness/...
    Macro_Expression/S03/happiness/S03-01-001.jpg      single pictures, left aside
    MMEW_Micro_Exp.xlsx

A clip is cut to its expression and numbered from 1. Where the sheet's numbers lie past the last
file, they count in the uncut video and are shifted to the clip. The folder of `others` is called
repression in real copies.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import FolderGroup, no_videos
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, Number, text
from data.datasets.report import Report
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table

CLIP = re.compile(r"S(\d{2})-(\d{2})-(\d{3})", re.IGNORECASE)
ROWS = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "onset": ("onsetframe", "onset"),
        "apex": ("apexframe", "apex"),
        "offset": ("offsetframe", "offset"),
        "aus": ("actionunits", "au"),
        "emotion": ("estimatedemotion", "emotion"),
    },
    ("clip", "onset", "apex", "offset", "emotion"),
    "clip",
    CLIP.pattern,
)
SAME_EMOTION = {("others", "repression"), ("repression", "others")}


class Mmew(Adapter):
    """MMEW micro-expressions."""

    name = "mmew"
    title = "MMEW"
    fps = 90.0
    reference: ClassVar[dict[str, int]] = {"rows": 300, "subjects": 36, "videos": 300}

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders called S03-01-002, whichever of emotion and subject is above the other."""
        group = FolderGroup("", ())
        for folder in tree.sequences():
            match = CLIP.fullmatch(tree.names(folder)[-1])
            if match:
                group.folders.append((folder, [match]))
            elif folder.num_images:
                note_other_folder(tree, folder.path, folder.num_images, report)
        if not any(folder.has_frames for folder, _ in group.folders):
            raise no_videos(self, tree)
        order = {
            "subject above emotion" if is_subject(tree, folder.path, -3) else "emotion above"
            for folder, _ in group.folders
        }
        report.variant["frames"] = ", ".join(sorted(order))
        return [
            VideoSpec(
                f"S{match[1]}",
                self.person(f"S{match[1]}"),
                match[0].upper(),
                folder.path,
                self.fps,
                provided_crop=True,
                trimmed=True,
            )
            for folder, (match,) in group.folders
        ]

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the sheet, numbers shifted to the clip where they count elsewhere."""

        def score(table: Table) -> int:
            return sum(text(c["clip"]).upper() in videos for _, c in table.records())

        table = choose_table(self, tree, ROWS, report, score)
        rows = []
        for where, cells in annotation_rows(table, ROWS, report):
            row = read_row(cells, where, report)
            if video := videos.get(row.video):
                check_folder_emotion(tree, row, video, report)
                row = rebased(row, video, report)
            rows.append(row)
        return rows


def is_subject(tree: Tree, path: str, level: int) -> bool:
    """Whether the folder `level` names up is a subject's."""
    parts = tree.parts(path)
    return len(parts) >= -level and bool(re.fullmatch(r"S\d+", parts[level], re.IGNORECASE))


def note_other_folder(tree: Tree, path: str, images: int, report: Report) -> None:
    """Macro pictures are left aside; any other folder of images is dropped by name."""
    if any("macro" in part.lower() for part in tree.parts(path)):
        before = int(report.variant.get("macro_pictures", "0 ").split()[0])
        report.variant["macro_pictures"] = f"{before + images} left aside"
    else:
        report.drop(path or ".", "video", "unrecognised_folder", f"{images} images")


def read_row(cells: dict[str, Cell], where: str, report: Report) -> Annotation:
    """One row of the sheet."""
    clip = text(cells["clip"]).upper()
    aus = read_units(cells.get("aus"), clip, where, report)
    return Annotation(
        who=clip,
        where=where,
        subject=clip.partition("-")[0],
        video=clip,
        event=clip,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        **numbers_of(cells["onset"], cells["apex"], cells["offset"]),
    )


def check_folder_emotion(tree: Tree, row: Annotation, video: ListedVideo, report: Report) -> None:
    """The emotion of the folder against the sheet's; others and repression are one."""
    above = tree.parts(video.spec.path)[-2]
    folder = normalise_emotion(above)
    if is_subject(tree, video.spec.path, -2) or folder is None or folder == row.emotion:
        return
    if (row.emotion, folder) in SAME_EMOTION:
        report.variant["others"] = "the folder of `others` is called repression"
    elif folder in KNOWN:
        report.flag(
            row.who, "event", "emotion_differs_from_folder", f"{row.where}; folder {above}",
            column="emotion", old=row.emotion or "",
        )  # fmt: skip


KNOWN = {"happiness", "anger", "surprise", "disgust", "fear", "sadness", "others", "repression"}


def rebased(row: Annotation, video: ListedVideo, report: Report) -> Annotation:
    """Numbers of the uncut video shifted so that the onset is the clip's first file."""
    first, last = int(video.frames.numbers[0]), int(video.frames.numbers[-1])
    onset, apex = row.onset.value, row.apex.value
    if onset is None or apex is None or apex <= last or onset <= first:
        return row
    shift = first - onset
    if not first <= apex + shift <= last:
        return row
    moved = replace(
        row,
        onset=shifted(row.onset, shift),
        apex=shifted(row.apex, shift),
        offset=shifted(row.offset, shift),
    )
    report.repair(
        row.who, "event", "numbers_of_uncut_video", row.where,
        column="onset,apex,offset",
        old=f"{onset},{apex},{row.offset.raw}",
        new=f"{moved.onset.value},{moved.apex.value},{moved.offset.value}",
        source=f"the clip ends at {last}: its first file is the onset",
    )  # fmt: skip
    return moved


def shifted(number: Number, shift: int) -> Number:
    """The number moved by `shift`; a missing one stays missing."""
    return replace(number, value=None if number.value is None else number.value + shift)


ADAPTER = Mmew()
