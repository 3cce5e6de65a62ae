"""MMEW: 90 fps colour clips cut to the expression, numbered from 1, filed by emotion.

    Micro_Expression/happiness/S03-01-002/1.jpg ...    the folder of `others` is called repression
    Micro_Expression/S03/happiness/S03-01-002/1.jpg    or subject first, as the owner's page has it
    Macro_Expression/S03/happiness/S03-01-001.jpg      single pictures
    MMEW_Micro_Exp.xlsx

The real clips are crops of 231x231 pixels; these are whole frames of the preset's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.synthetic.layouts.base import (
    Camera,
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
    copy_frames,
    damage_frames,
    nest_folder,
    number,
    stray_file,
)
from data.synthetic.workbook import write_xlsx

_ROOT = "Micro_Expression"
_CODES = {"happiness": 1, "anger": 2, "surprise": 3, "disgust": 4, "fear": 5, "sadness": 6,
          "others": 8}  # fmt: skip
_COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units",
            "Estimated Emotion", "remarks")  # fmt: skip
_FRAMES = ("OnsetFrame", "ApexFrame", "OffsetFrame")


class SyntheticMmew(SyntheticLayout):
    """MMEW, the micro-expressions."""

    name = "mmew"
    kind = "clip"
    cameras = (Camera("", 90.0, colour=True),)
    emotions: ClassVar[dict[str, float]] = {
        "surprise": 0.28, "disgust": 0.24, "others": 0.22, "happiness": 0.12, "fear": 0.06,
        "sadness": 0.05, "anger": 0.03,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {"by_subject": "the subject's folder above the emotion's"}

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        counts: dict[tuple[int, str], int] = {}
        for video in videos:
            event = video.expressions[0]
            key = (video.subject, video.emotion)
            counts[key] = counts.get(key, 0) + 1
            subject = f"S{video.subject + 1:02d}"
            clip = f"{subject}-{_CODES[video.emotion]:02d}-{counts[key]:03d}"
            folder = "repression" if video.emotion == "others" else video.emotion
            folder = f"{subject}/{folder}" if self.variant else folder
            places.append(
                Place(
                    subject=subject,
                    video=clip,
                    folder=f"{_ROOT}/{folder}/{clip}",
                    first=1 - event.onset,
                    start=event.onset,
                    stop=event.offset + 1,
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows: list[Row] = []
        stills: list[Row] = []
        for video in videos:
            event = video.plan.expressions[0]
            rows.append(
                {
                    "Subject": video.plan.subject + 1,
                    "Filename": video.place.video,
                    "OnsetFrame": video.number(event.onset),
                    "ApexFrame": video.number(event.apex),
                    "OffsetFrame": video.number(event.offset),
                    "Action Units": event.aus_cell,
                    "Estimated Emotion": event.emotion,
                    "remarks": None,
                }
            )
            name = f"{video.place.subject}/{video.plan.emotion}/{video.place.video}.jpg"
            stills.append({"source": video.path(event.apex), "target": f"Macro_Expression/{name}"})
        return {"micro": rows, "macro": stills[:3]}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        rows = lines(_COLUMNS, tables["micro"])
        write_xlsx(out / "MMEW_Micro_Exp.xlsx", {"Sheet1": [_COLUMNS, *rows]})
        nested = f"{_ROOT}/" if (out / _ROOT / _ROOT).is_dir() else ""
        copies = [(f"{nested}{r['source']}", str(r["target"])) for r in tables["macro"]]
        copy_frames(out, copies)

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        rows = Planter("micro", tables["micro"], lambda row: str(row["Filename"]), rng)
        rows.plant("apex_blank", lambda r: {"ApexFrame": None, "OffsetFrame": None})
        rows.plant("uncut_numbers", lambda r: {n: number(r, n) + 61 for n in _FRAMES})
        rows.plant("apex_past_offset", lambda r: {"ApexFrame": number(r, "OffsetFrame") + 6})
        files = damage_frames(videos, out, rng)
        files.append(stray_file(out, videos[0].place.folder))
        files.append(nest_folder(out, _ROOT))
        return rows.planted + files
