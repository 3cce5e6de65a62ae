"""SAMM's micro-expression clips: 200 fps grey, cut to onset..offset, numbers of the recording.

SAMM/006/006_1_2/006_05562.jpg ...    4 or 5 digits by recording
SAMM_Micro_FACS_Codes_v2.xlsx         prose, header in row 14, durations as formulas
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
)
from data.synthetic.layouts.planting import (
    Planter,
    damage_frames,
    nest_folder,
    number,
    stray_file,
)
from data.synthetic.layouts.samm_lv import micro_row, samm_subject, write_micro_sheet

_ROOTS = {"": "SAMM", "cropped": "SAMM_CROP"}


class SyntheticSamm(SyntheticLayout):
    """SAMM, the clips; the same people as SAMM Long Videos."""

    name = "samm"
    kind = "clip"
    people = "samm"
    cameras = (Camera("", 200.0, colour=False),)
    emotions: ClassVar[dict[str, float]] = {
        "anger": 0.30, "happiness": 0.20, "others": 0.14, "surprise": 0.12, "contempt": 0.08,
        "disgust": 0.06, "fear": 0.05, "sadness": 0.05,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {"cropped": "folder SAMM_CROP"}

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        clips: dict[tuple[str, int], int] = {}
        digits: dict[tuple[str, int], int] = {}
        for video in videos:
            event = video.expressions[0]
            subject, inducement = samm_subject(video.subject), int(rng.integers(1, 8))
            recording = (subject, inducement)
            clips[recording] = clips.get(recording, 0) + 1
            onset = int(rng.integers(83, 12000))
            wide = digits.setdefault(recording, int(rng.choice([4, 5])))
            clip = f"{subject}_{inducement}_{clips[recording]}"
            places.append(
                Place(
                    subject=subject,
                    video=clip,
                    folder=f"{_ROOTS[self.variant]}/{subject}/{clip}",
                    first=onset - event.onset,
                    prefix=f"{subject}_",
                    digits=wide,
                    start=event.onset,
                    stop=event.offset + 1,
                    extra={"inducement": inducement},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows = []
        for i, video in enumerate(videos):
            who: Row = {
                "Subject": video.place.subject,
                "Filename": video.place.video,
                "Inducement Code": video.place.extra["inducement"],
            }
            row = who | micro_row(video, video.plan.expressions[0], 0)
            # Coders left alternatives in some rows, and a blank at the end of one.
            if rng.random() < 0.1:
                row["Action Units"] = f"{row['Action Units']} or 43"
            if i == len(videos) - 1:
                row["Action Units"] = f"{row['Action Units']} "
            rows.append(row)
        return {"micro": rows}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        write_micro_sheet(out / "SAMM_Micro_FACS_Codes_v2.xlsx", tables["micro"])

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        rows = Planter("micro", tables["micro"], lambda row: str(row["Filename"]), rng)
        rows.plant("apex_outside", lambda r: {"Apex Frame": number(r, "Offset Frame") + 37})
        rows.plant("apex_outside", lambda r: {"Apex Frame": number(r, "Onset Frame") - 12})
        rows.plant("offset_past_end", lambda r: {"Offset Frame": number(r, "Offset Frame") + 25})
        files = damage_frames(videos, out, rng)
        files.append(stray_file(out, f"{_ROOTS[self.variant]}/{videos[0].place.subject}"))
        files.append(nest_folder(out, _ROOTS[self.variant]))
        return rows.planted + files
