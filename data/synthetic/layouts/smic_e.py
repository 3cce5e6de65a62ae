"""SMIC-E: long clips around SMIC's micro-expressions, three cameras, two workbooks.

    SMIC-E_raw image/HS_long/SMIC-HS-E/HS/s01/s1_ne_03/image426679.jpg     padded folder, bare clip
    SMIC-E_raw image/VIS_long/SMIC-VIS-E/VIS/s20/s20_po_01/VIS 04512.jpg   a blank before the number
    SMIC-E_raw image/HS_long/SMIC-HS-E_annotation.xlsx                     sheets HS, VIS, two empty
    SMIC-E_raw image/NIR_long/SMIC-NIR-E_annotation.xlsx                   headers end in " NIR"

In the HS sheet OffsetF, FirstF, LastF and TotalVL are formulas. Subjects stand in the owner's order
(20, 14, 18, ...), with blank rows after the data. A video's second event has the columns Onset2F
and Offset2F.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.errors import ConfigError
from data.synthetic.layouts.base import (
    Camera,
    Cell,
    Place,
    PlacedVideo,
    PlannedVideo,
    Planted,
    Row,
    SyntheticLayout,
    Tables,
    lines,
)
from data.synthetic.layouts.planting import (
    Planter,
    damage_frames,
    lose_video,
    number,
    stray_file,
)
from data.synthetic.layouts.smic import DIGITS, clip_names, next_number
from data.synthetic.presets import Preset
from data.synthetic.workbook import BookCell, Formula, write_xlsx

_ROOT = "SMIC-E_raw image"
_ORDER = (20, 14, 18, 19, 13, 12, 11, 15, 1, 2, 3, 4, 5, 6, 8, 9)
_HS = ("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", None, "FirstF",
       "LastF", "TotalMF1", "TotalMF2", "TotalVL", "Emotion")  # fmt: skip
_PLAIN = ("Subject", "Filename", "OnsetF", "OffsetF", "Onset2F", "Offset2F", "FirstF", "TotalMF1",
          "TotalMF2", "TotalVL", "Emotion")  # fmt: skip
_PREFIX = {"HS": "image", "VIS": "VIS ", "NIR": "NIR "}
_NUMBERS = ("OnsetF", "OffsetF", "Onset2F", "Offset2F", "FirstF", "TotalMF1", "TotalMF2", "TotalVL")


class SyntheticSmicE(SyntheticLayout):
    """SMIC-E, HS, VIS and NIR; the same people as SMIC."""

    name = "smic_e"
    kind = "long"
    people = "smic"
    preset: ClassVar[dict[str, Any]] = {
        "seconds": 5.9, "micros": (1, 2), "macros": (0, 0), "clips": 2, "shifts": (0, 1),
    }  # fmt: skip
    same_emotion = True
    cameras = (
        Camera("HS", 100.0, colour=True),
        Camera("VIS", 25.0, colour=True, subjects=0.5),
        Camera("NIR", 25.0, colour=False, subjects=0.5),
    )
    emotions: ClassVar[dict[str, float]] = {"negative": 0.43, "positive": 0.31, "surprise": 0.26}

    def check(self, preset: Preset) -> None:
        """The sheet has columns for two events of a clip, and none for macro-expressions."""
        if preset.micros[1] > 2 or preset.micros[0] < 1 or preset.macros[1]:
            raise ConfigError(
                "micros and macros", expected="1 to 2 and 0 for layout smic_e",
                got=f"{preset.micros} and {preset.macros}",
            )  # fmt: skip

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        counters: dict[tuple[str, int], int] = {}
        for video, subject, clip in clip_names(videos):
            camera = video.camera.name
            root = f"{_ROOT}/{camera}_long/SMIC-{camera}-E/{camera}"
            places.append(
                Place(
                    subject=f"s{subject}",
                    video=f"{camera}/{clip}",
                    folder=f"{root}/s{subject:02d}/{clip}",
                    first=next_number(counters, video, subject, rng),
                    prefix=_PREFIX[camera],
                    digits=DIGITS[camera],
                    extra={"subject": subject, "clip": clip},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        tables: Tables = {"HS": [], "VIS": [], "NIR": []}
        for video in sorted(videos, key=_owner_order):
            tables[video.plan.camera.name].append(_row(video))
        return tables

    def write_sheets(self, out: Path, tables: Tables) -> None:
        hs = [_formulas(row, at) for at, row in enumerate(tables["HS"], start=2)]
        blank: list[list[BookCell]] = [[None] * len(_HS), [" "]]
        write_xlsx(
            out / _ROOT / "HS_long" / "SMIC-HS-E_annotation.xlsx",
            {
                "HS": [_HS, *hs, *blank],
                "VIS": [_PLAIN, *lines(_PLAIN, tables["VIS"]), *blank],
                "Sheet2": [],
                "Sheet3": [],
            },
        )
        heads = [f"{n} NIR" if n in _NUMBERS else n for n in _PLAIN]
        write_xlsx(
            out / _ROOT / "NIR_long" / "SMIC-NIR-E_annotation.xlsx",
            {"Sheet1": [heads, *lines(_PLAIN, tables["NIR"])]},
        )

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        """In the HS sheet and among the HS clips, where the real ones are."""
        filmed = [v for v in videos if v.plan.camera.name == "HS"]
        sheet = tables["HS"]
        rows = Planter("HS", sheet, lambda row: f"HS/{row['Filename']}", rng)
        rows.plant("first_frame_note", lambda row: {"FirstF": "MISSING, see the recording"})
        rows.plant("onset_far_from_first", _far_away)
        planted = rows.planted
        spared = {record.who for record in planted}
        lost = next((v for v in reversed(filmed) if v.place.video not in spared), None)
        if lost is not None:
            planted.append(lose_video(lost, out))
        note = "frames counted from the first file"
        sheet.append({name: note if name == "Filename" else None for name in sheet[0]})
        where = f"sheet HS, row {len(sheet) + 1}"
        planted.append(Planted("text_row", where, "HS", "Filename", None, note))
        kept = [v for v in videos if v is not lost]
        planted += damage_frames(kept, out, rng)
        planted.append(stray_file(out, kept[0].place.folder.rpartition("/")[0]))
        return planted


def _owner_order(video: PlacedVideo) -> tuple[str, int, str]:
    subject = int(str(video.place.extra["subject"]))
    at = _ORDER.index(subject) if subject in _ORDER else len(_ORDER) + subject
    return video.plan.camera.name, at, str(video.place.extra["clip"])


def _row(video: PlacedVideo) -> Row:
    events = [video.cut(e) for e in video.plan.expressions]
    row: Row = {
        "Subject": video.place.extra["subject"],
        "Filename": video.place.extra["clip"],
        "FirstF": video.number(video.released.start),
        "LastF": video.number(video.released.stop - 1),
        "TotalVL": len(video.released),
        "Emotion": video.plan.emotion,
    }
    for i in range(2):
        n = "2" if i else ""
        event = events[i] if i < len(events) else None
        row[f"Onset{n}F"] = video.number(event.onset) if event else None
        row[f"Offset{n}F"] = video.number(event.offset) if event else None
        row[f"TotalMF{i + 1}"] = event.offset - event.onset + 1 if event else None
    return row


def _formulas(row: Row, at: int) -> list[BookCell]:
    """A row of the HS sheet at spreadsheet row `at`, formulas where the owner has them."""
    cells: dict[str, BookCell] = dict(row)
    onset, first, length = (row[n] for n in ("OnsetF", "FirstF", "TotalVL"))
    if isinstance(onset, int) and isinstance(length, int):
        late = number(row, "LastF") - number(row, "OffsetF")
        cells["OffsetF"] = Formula(f"=D{at}+K{at}-1", number(row, "OffsetF"))
        cells["LastF"] = Formula(f"=E{at}{late:+d}", number(row, "LastF"))
        if isinstance(first, int):
            cells["FirstF"] = Formula(f"=D{at}-{onset - first}", first)
            cells["TotalVL"] = Formula(f"=J{at}-I{at}+1", length)
    return [cells[name] if name else None for name in _HS]


def _far_away(row: Row) -> dict[str, Cell]:
    """Both ends of the first event thousands of frames after the clip."""
    return {"OnsetF": number(row, "OnsetF") + 8536, "OffsetF": number(row, "OffsetF") + 8536}
