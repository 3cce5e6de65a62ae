"""DFME: colour clips named sub0001_01, with sheets; the challenge subset or the full release.

    train_data/train_data/sub0001_01/00000.png            CCAC2024.xlsx
    USTC_MEv4_partD_sub0301_sub0671_200fps/micro/<emotion>/sub0301_01/00000.png
    DFME_data_coding.xlsx                                 with a column fps, emotion the seventh

Clips begin before the onset and end after the offset; frames are numbered from 0.
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
    damage_frames,
    nest_folder,
    number,
    stray_file,
)
from data.synthetic.workbook import write_xlsx

_SUBSET = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "AU")
_RELEASE = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "AU", "Emotion",
            "fps")  # fmt: skip


class SyntheticDfme(SyntheticLayout):
    """DFME."""

    name = "dfme"
    kind = "clip"
    cameras = (Camera("", 200.0, colour=True, suffix="png"),)
    emotions: ClassVar[dict[str, float]] = {
        "disgust": 0.3, "surprise": 0.16, "sadness": 0.15, "fear": 0.14, "happiness": 0.11,
        "anger": 0.09, "contempt": 0.05,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {"release": "the full release, filed by emotion"}

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        first = 301 if self.variant else 1
        places = []
        for video in videos:
            subject = f"sub{video.subject + first:04d}"
            clip = f"{subject}_{video.number + 1:02d}"
            above = "train_data/train_data"
            if self.variant:
                above = f"USTC_MEv4_partD_sub0301_sub0671_200fps/micro/{video.emotion}"
            places.append(Place(subject, clip, f"{above}/{clip}", first=0, digits=5))
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows: list[Row] = []
        for video in videos:
            event = video.plan.expressions[0]
            rows.append(
                {
                    "Subject": video.place.subject,
                    "Filename": video.place.video,
                    "OnsetFrame": video.number(event.onset),
                    "ApexFrame": video.number(event.apex),
                    "OffsetFrame": video.number(event.offset),
                    "Emotion": event.emotion,
                    "AU": event.aus_cell,
                    "fps": int(video.plan.fps),
                }
            )
        return {"coding": rows}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        columns = _RELEASE if self.variant else _SUBSET
        name = "DFME_data_coding.xlsx" if self.variant else "CCAC2024.xlsx"
        write_xlsx(out / name, {"Sheet1": [columns, *lines(columns, tables["coding"])]})

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        rows = Planter("coding", tables["coding"], lambda row: str(row["Filename"]), rng)
        rows.plant("apex_past_offset", lambda r: {"ApexFrame": number(r, "OffsetFrame") + 7})
        rows.plant("offset_past_end", lambda r: {"OffsetFrame": number(r, "OffsetFrame") + 4000})
        planted = rows.planted + damage_frames(videos, out, rng)
        planted.append(stray_file(out, videos[0].place.folder))
        planted.append(nest_folder(out, videos[0].place.folder.partition("/")[0]))
        return planted
