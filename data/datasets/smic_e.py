"""SMIC-E, the long clips around SMIC's micro-expressions: HS 100 fps, VIS and NIR 25 fps.

    SMIC-E_raw image/HS_long/SMIC-HS-E/HS/s03/s3_ne_03/image426679.jpg ...   subject folder padded
    SMIC-E_raw image/VIS_long/SMIC-VIS-E/VIS/...                              blanks in file names
    SMIC-E_raw image/HS_long/SMIC-HS-E_annotation.xlsx                        sheets HS, VIS, ...

Frame numbers are camera counters of up to eight digits and are mapped as such; where a copy has
renumbered files, `OnsetF - FirstF` counts from the first file. Some rows have a second event; some
copies have a third whose formulas were filled down over empty cells, and whose length is negative.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules
from data.datasets.grouping import no_videos
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Folder, Tree
from data.datasets.parsing import UNREAD, Cell, Number, frame_number, text
from data.datasets.report import Report
from data.datasets.sheets import Table, find_sheets
from data.datasets.smic import (
    CAMERA,
    CLIP,
    EMOTIONS,
    RATES,
    camera_of,
    is_long,
    names_of,
    note_neutral,
    person_of,
)
from data.datasets.tables import TableLayout, near_misses, no_sheet, note_shape
from data.datasets.versions import by_choice, note_others


def _names(word: str) -> tuple[str, ...]:
    return (word, *(word + camera for camera in ("hs", "vis", "nir")))


EVENTS = ("", "2", "3")
ROWS = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "emotion": ("emotion",),
        "first": _names("firstf"),
        "last": _names("lastf"),
        "length": _names("totalvl"),
        **{f"onset{n}": _names(f"onset{n}f") for n in EVENTS},
        **{f"offset{n}": _names(f"offset{n}f") for n in EVENTS},
        **{f"total{n}": _names(f"totalmf{n or 1}") for n in EVENTS},
    },
    ("clip", "onset", "offset"),
    "clip",
    CLIP.pattern,
)


class SmicE(Adapter):
    """SMIC-E."""

    name = "smic_e"
    title = "SMIC-E (HS_long, VIS_long, NIR_long)"
    fps = RATES["HS"]
    kind = "long"
    identity_space = "smic"
    rules = Rules(apex_labelled=False)
    reference: ClassVar[dict[str, int]] = {
        "HS clips": 157,
        "VIS clips": 71,
        "NIR clips": 71,
        "subjects": 16,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Clip folders by camera, whatever the padding of the subject folder."""
        clips = [f for f in tree.sequences() if CLIP.fullmatch(tree.names(f)[-1])]
        clips = [f for f in clips if is_long(tree, f)] or [
            f for f in clips if not is_short(tree, f)
        ]
        if not any(f.has_frames for f in clips):
            raise no_videos(self, tree)
        specs = []
        for folder in clips:
            subject, name = names_of(tree, folder)
            camera = camera_of(tree, folder)
            report.variant[f"{camera}_frames"] = "long"
            specs.append(
                VideoSpec(
                    subject,
                    person_of(subject),
                    f"{camera}/{name}",
                    folder.path,
                    RATES[camera],
                    kind="long",
                )
            )
        note_neutral(tree, report)
        return specs

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """First, second and third events of every row, from the best sheet of each camera."""
        search = find_sheets(tree, ROWS.accept)
        for error in search.damaged:
            report.flag(error.who, "file", error.code, error.got)
        cameras = sorted({name.partition("/")[0] for name in videos})
        rows: list[Annotation] = []
        for camera in cameras:
            tables = [t for t in search.found if camera_of_table(t) == camera]
            if not tables:
                report.flag(camera, "file", "no_sheet", f"no annotation sheet for camera {camera}")
                continue
            best, *others = by_choice(tables, partial(known, camera=camera, videos=videos))
            note_others(best, others, ROWS.has, report, f"{camera}_sheet")
            note_shape(best, report)
            found = [
                read_row(cells, camera, f"{best.sheet.where}, row {number}", videos, report)
                for number, cells in best.records()
            ]
            report.variant[f"{camera}_sheet"] = (
                f"{best.describe()}: {sum(map(bool, found))} rows, "
                f"{sum(len(events) > 1 for events in found)} with more than one event"
            )
            rows += [event for events in found for event in events]
        if not rows:
            raise no_sheet(self, tree, search, ROWS.required, near_misses(tree, ROWS))
        return rows


def is_short(tree: Tree, folder: Folder) -> bool:
    """Whether a folder belongs to the short clips (`s1/micro/negative/...`)."""
    return any(part.lower() in ("micro", "non_micro") for part in tree.parts(folder.path))


def camera_of_table(table: Table) -> str:
    """Camera of a sheet: its own name, else a header that says so, else the file's name."""
    header = " ".join(text(c) for c in table.sheet.rows[table.header])
    for place in (table.sheet.name, header, table.sheet.path.name):
        if found := CAMERA.search(place):
            return found[1].upper()
    return "HS"


def known(table: Table, camera: str, videos: dict[str, ListedVideo]) -> int:
    """Rows whose clip is on disk."""
    return sum(f"{camera}/{clip_name(c)}" in videos for _, c in table.records())


def clip_name(cells: dict[str, Cell]) -> str:
    """The clip without padding, as folders are named; "" for a row that names none."""
    match = CLIP.fullmatch(text(cells["clip"]))
    return f"s{int(match[1])}_{match[2].lower()}_{match[3]}" if match else ""


def read_row(
    cells: dict[str, Cell], camera: str, where: str, videos: dict[str, ListedVideo], report: Report
) -> list[Annotation]:
    """The one to three events of a row."""
    name = clip_name(cells)
    if not name:
        words = [text(c) for c in cells.values() if text(c)]
        report.flag(where, "row", "not_an_annotation", " ".join(words)[:80])
        return []
    video = videos.get(f"{camera}/{name}")
    first = frame_number(cells.get("first"))
    if first.note in UNREAD:
        report.flag(
            f"{camera}/{name}", "event", "note_in_a_number", where, column="FirstF", old=first.raw
        )
    if video is not None:
        check_length(cells, video, where, report)
    emotion = emotion_of(cells, f"{camera}/{name}", name.split("_")[1], where, report)
    rows = []
    for n in EVENTS:
        onset, offset = frame_number(cells.get(f"onset{n}")), frame_number(cells.get(f"offset{n}"))
        if n and onset.note == "missing" and offset.note == "missing":
            continue
        event = f"{camera}/{name}" + (f"#{n}" if n else "")
        length = frame_number(cells.get(f"total{n}")).value
        if length is not None and length <= 0:  # formulas filled down over empty cells
            said = f"{where}: {onset.raw}..{offset.raw}, TotalMF{n or 1} {length}"
            report.drop(event, "row", "length_not_positive", said)
            report.count("rows_refused")
            continue
        row = Annotation(
            who=event,
            where=where,
            subject=name.partition("_")[0],
            video=f"{camera}/{name}",
            event=event,
            emotion=emotion,
            onset=onset,
            apex=Number(None, "not_labelled", ""),
            offset=offset,
        )
        rows.append(renumbered(row, first, video, report) if video else row)
    return rows


def emotion_of(
    cells: dict[str, Cell], clip: str, code: str, where: str, report: Report
) -> str | None:
    """The row's emotion; where one of the three contradicts the clip's name, the name's.

    SMIC's own folders and the official MEGC2019 list go by the name.
    """
    said, named = normalise_emotion(text(cells.get("emotion"))), EMOTIONS[code]
    if said is not None and said in EMOTIONS.values() and said != named:
        report.repair(
            clip, "event", "label_contradicts_name", where, column="emotion", old=said, new=named,
            source="the clip's own name, as SMIC's folders and the MEGC2019 list have it",
        )  # fmt: skip
        return named
    return said or named


def check_length(cells: dict[str, Cell], video: ListedVideo, where: str, report: Report) -> None:
    """The sheet's length of the long clip against the files."""
    length = frame_number(cells.get("length")).value
    if length is not None and length != len(video.frames):
        report.flag(
            video.spec.video, "video", "clip_length_differs",
            f"{where}: {length} frames, on disk {len(video.frames)}",
        )  # fmt: skip
    first, onset = frame_number(cells.get("first")).value, frame_number(cells["onset"]).value
    if first and onset and length and not 0 <= onset - first < length:
        report.flag(
            video.spec.video, "event", "onset_far_from_first_frame",
            f"{where}: FirstF {first}, {length} frames", column="OnsetF", old=str(onset),
        )  # fmt: skip


def renumbered(row: Annotation, first: Number, video: ListedVideo, report: Report) -> Annotation:
    """Counter values turned into file numbers where a copy counts its files anew."""
    numbers, onset, offset = video.frames.numbers, row.onset.value, row.offset.value
    if onset is None or offset is None or first.value is None:
        return row
    inside = bool(np.any((numbers >= onset) & (numbers <= offset)))
    start = onset - first.value
    if inside or not 0 <= start < len(numbers) or int(numbers[0]) == first.value:
        return row
    shift = int(numbers[0]) - first.value
    report.repair(
        row.who, "event", "files_renumbered", row.where,
        column="onset,offset", old=f"{onset},{offset}", new=f"{onset + shift},{offset + shift}",
        source="OnsetF - FirstF counted from the first file",
    )  # fmt: skip
    return replace(
        row,
        onset=replace(row.onset, value=onset + shift),
        offset=replace(row.offset, value=offset + shift),
    )


ADAPTER = SmicE()
