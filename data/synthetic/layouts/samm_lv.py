"""SAMM Long Videos: 200 fps grey, several micro- and macro-expressions a video, two workbooks.

    SAMM_longvideos/006_1/006_1_0001.jpg ...    flat, numbers from 1, 4 or 5 digits by video
    SAMM_LongVideos_V3_Release.xlsx             prose, header in row 10, merged F7:I7, no emotions
    SAMM_Micro_FACS_Codes_v2.xlsx               prose, header in row 14; emotions of the micro rows

The second workbook numbers the frames of the full recordings, so its numbers differ from the long
videos' by a constant per video; the two join on (Filename, Type). About half of the subjects have
macro rows converted from another frame rate, which leaves fractions of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from data.synthetic.action_units import objective_class
from data.synthetic.layouts.base import (
    Camera,
    Cell,
    Place,
    PlacedVideo,
    PlannedEvent,
    PlannedVideo,
    Planted,
    Row,
    SyntheticLayout,
    Tables,
)
from data.synthetic.layouts.planting import damage_frames
from data.synthetic.workbook import BookCell, Formula, Stored, put, save

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

_SUBJECTS = (6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 30,
             31, 32, 33, 34, 35, 36, 37)  # fmt: skip
_LONG = ("Subject", "Filename", "Inducement Code", "Onset", "Apex", "Offset", "Duration", "Type",
         "Action Units", "Notes")  # fmt: skip
_MICRO = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame",
          "Duration", "Micro", "Action Units", "Estimated Emotion", "Objective Classes",
          "Notes")  # fmt: skip
_TYPES = {"micro": "Micro - 1/2", "macro": "Macro"}
_ROOT = "SAMM_longvideos"


class SyntheticSammLv(SyntheticLayout):
    """SAMM Long Videos, third release, with the SAMM micro-expression sheet beside it."""

    name = "samm_lv"
    kind = "long"
    people = "samm"
    cameras = (Camera("", 200.0, colour=False),)
    emotions: ClassVar[dict[str, float]] = {
        "happiness": 0.25, "surprise": 0.22, "anger": 0.20, "others": 0.10, "disgust": 0.10,
        "contempt": 0.08, "sadness": 0.05,
    }  # fmt: skip

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            subject = samm_subject(video.subject)
            name = f"{subject}_{video.number + 1}"
            places.append(
                Place(
                    subject=subject,
                    video=name,
                    folder=f"{_ROOT}/{name}",
                    prefix=f"{name}_",
                    digits=5 if video.frames > 9999 or rng.random() < 0.3 else 4,
                    extra={"inducement": video.number + 1},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        converted = {s for s in sorted({v.place.subject for v in videos}) if rng.random() < 0.55}
        long_rows, micro_rows = [], []
        for video in videos:
            shift = 0 if rng.random() < 0.5 else 1000 * int(rng.integers(1, 11))
            for n, event in enumerate(video.plan.expressions, start=1):
                who: Row = {
                    "Subject": video.place.subject,
                    "Filename": f"{video.place.video}_{n}",
                    "Inducement Code": video.place.extra["inducement"],
                }
                fraction = event.kind == "macro" and video.place.subject in converted
                long_rows.append(who | _long_row(video, event, fraction, rng))
                if event.kind == "micro":
                    micro_rows.append(who | micro_row(video, event, shift))
        return {"long": long_rows, "micro": micro_rows}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        write_micro_sheet(out / "SAMM_Micro_FACS_Codes_v2.xlsx", tables["micro"])
        _write_long_sheet(out / "SAMM_LongVideos_V3_Release.xlsx", tables["long"])

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        rows = tables["long"]
        last = {v.place.video: v.number(v.released.stop - 1) for v in videos}
        pool = {
            kind: [int(i) for i in rng.permutation(len(rows)) if rows[i]["Type"] == name]
            for kind, name in _TYPES.items()
        }
        planted: list[Planted] = []

        def edit(kind: str, index: int, **cells: Cell) -> None:
            who = str(rows[index]["Filename"])
            for column, new in cells.items():
                old = rows[index][column]
                planted.append(Planted(kind, who, "long", column, old, new))
                rows[index][column] = new

        for kind, plant in (("macro", "onset_zero"), ("micro", "apex_missing"),
                            ("macro", "apex_missing"), ("macro", "offset_past_end"),
                            ("macro", "interval_past_end")):  # fmt: skip
            # Few videos have few macro rows; then the defect goes into a micro row.
            rest = pool[kind] or pool["micro"]
            if not rest:
                continue
            index = rest.pop()
            end = last[str(rows[index]["Filename"]).rsplit("_", 1)[0]]
            match plant:
                case "onset_zero":
                    edit(plant, index, Onset=0)
                case "apex_missing":
                    edit(plant, index, Apex=-1)
                case "offset_past_end":
                    edit(plant, index, Offset=end + int(rng.integers(20, 90)))
                case "interval_past_end":
                    edit(plant, index, Onset=end + 41, Apex=end + 80, Offset=end + 130)
        planted += _duplicate_name(rows, pool)
        planted += damage_frames(videos, out, rng)
        return planted


def samm_subject(ordinal: int) -> str:
    """SAMM's own three-digit subject numbers, the gaps included."""
    beyond = ordinal - len(_SUBJECTS)
    return f"{_SUBJECTS[ordinal] if beyond < 0 else 38 + beyond:03d}"


def _numbers(video: PlacedVideo, event: PlannedEvent) -> tuple[int, int, int]:
    return video.number(event.onset), video.number(event.apex), video.number(event.offset)


def _long_row(
    video: PlacedVideo, event: PlannedEvent, fraction: bool, rng: np.random.Generator
) -> Row:
    onset, apex, offset = (_fraction(n, rng) if fraction else n for n in _numbers(video, event))
    aus = event.aus
    if event.kind == "macro":
        aus = "+".join(f"{n}{_intensity(rng)}" for n in aus.split("+"))
    return {
        "Onset": onset,
        "Apex": apex,
        "Offset": offset,
        "Duration": round(offset - onset + 1, 4),
        "Type": _TYPES[event.kind],
        "Action Units": int(aus) if aus.isdigit() else aus,
        "Notes": None,
    }


def _fraction(number: int, rng: np.random.Generator) -> float:
    """A fraction that rounds (half up) to `number`, as a frame-rate conversion leaves them."""
    value = number + float(rng.choice([-0.4, -0.2, 0.0, 0.2, 0.4]))
    if value == number:
        return number
    return round(value + (1e-7 if rng.random() < 0.1 else 0.0), 7)


def _intensity(rng: np.random.Generator) -> str:
    return str(rng.choice(["A", "B", "C", "(B/C)"]))


def micro_row(video: PlacedVideo, event: PlannedEvent, shift: int) -> Row:
    """What SAMM's micro sheet says of an event, its numbers moved by `shift`."""
    onset, apex, offset = (n + shift for n in _numbers(video, event))
    emotion = "Other" if event.emotion == "others" else str(event.emotion).capitalize()
    return {
        "Onset Frame": onset,
        "Apex Frame": apex,
        "Offset Frame": offset,
        "Duration": offset - onset + 1,
        "Micro": _TYPES["micro"],
        "Action Units": event.aus_cell,
        "Estimated Emotion": emotion,
        "Objective Classes": objective_class(event.aus),
        "Notes": None,
    }


def _write_long_sheet(path: Path, rows: list[Row]) -> None:
    from openpyxl import Workbook

    book = Workbook()
    stored: Stored = {}
    sheet = book.worksheets[0]
    sheet.title = "FACS_Movement_Only"
    sheet["A1"] = "Movements of the long videos, synthetic stand-in"
    sheet["A3"] = "Frames are counted at 200 fps within each released video."
    sheet["A4"] = "Types: Macro, Micro - 1/2 (half a second or shorter)."
    sheet["F7"] = "An apex of -1 means that it was not annotated."
    sheet.merge_cells("F7:I7")
    for column, name in enumerate(_LONG, start=1):
        sheet.cell(10, column, name)
    _write_rows(sheet, _LONG, rows, 11, stored)
    save(book, path, stored)


def _write_rows(
    sheet: Worksheet, columns: Sequence[str], rows: list[Row], top: int, stored: Stored
) -> None:
    """The rows from row `top` on; durations are formulas, as the owner's are."""
    for at, row in enumerate(rows, start=top):
        for column, name in enumerate(columns, start=1):
            put(sheet, at, column, _duration(row, at) if name == "Duration" else row[name], stored)


def _duration(row: Row, at: int) -> BookCell:
    onset, offset = (row.get(n, row.get(f"{n} Frame")) for n in ("Onset", "Offset"))
    if not isinstance(onset, int | float) or not isinstance(offset, int | float):
        return row["Duration"]
    return Formula(f"=F{at}-D{at}+1", round(offset - onset + 1, 7))


def write_micro_sheet(path: Path, rows: list[Row]) -> None:
    """SAMM's micro-expression workbook: 13 rows of prose, header in row 14.

    Row keys: Subject, Filename, Inducement Code, Onset Frame, Apex Frame, Offset Frame, Duration,
    Micro, Action Units, Estimated Emotion, Objective Classes, Notes.
    """
    from openpyxl import Workbook

    book = Workbook()
    stored: Stored = {}
    sheet = book.worksheets[0]
    sheet.title = "MICRO_ONLY"
    sheet["A1"] = "Micro-movements, synthetic stand-in"
    sheet["A3"] = "Subject: participant. Filename: subject, inducement, running number."
    sheet["A5"] = "Frames are counted at 200 fps within the full recording."
    sheet["A7"] = "Objective Classes I to VII follow from the action units alone."
    sheet["A13"] = "Coded movements"
    for column, name in enumerate(_MICRO, start=1):
        sheet.cell(14, column, name)
    _write_rows(sheet, _MICRO, rows, 15, stored)
    save(book, path, stored)


def _duplicate_name(rows: list[Row], pool: dict[str, list[int]]) -> list[Planted]:
    """Give a macro row the file name of a micro row of the same video."""
    for macro in pool["macro"]:
        stem = str(rows[macro]["Filename"]).rsplit("_", 1)[0]
        for micro in pool["micro"]:
            name = rows[micro]["Filename"]
            if str(name).rsplit("_", 1)[0] == stem:
                old = rows[macro]["Filename"]
                rows[macro]["Filename"] = name
                return [Planted("duplicate_filename", str(old), "long", "Filename", old, name)]
    return []
