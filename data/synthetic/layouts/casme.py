"""CASME (I): whole 60 fps colour clips in two sections, and a workbook in the old Excel format.

    CASME_A/Section A/sub01/EP01_12/001.jpg ...    first half of the subjects
    CASME_B/Section B/sub02/EP03_4/001.jpg ...     the others
    CASME_raw_selected/sub01/EP01_12/073.jpg ...   onset to offset
    Cropped/sub01/EP01_12/073.jpg ...              the same; here whole frames, not crops
    CASME-coded-20190721.xls                       Onset and Total are milliseconds

`ApexF2`, the end of the apex plateau, is a backslash in about a third of the rows.
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
from data.synthetic.layouts.planting import Planter, damage_frames, number, stray_file
from data.synthetic.workbook import write_xls

_COLUMNS = ("Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "Onset",
            "Total", "AU", "Emotion")  # fmt: skip
_FRAME_MS = 1000 / 60


class SyntheticCasme(SyntheticLayout):
    """CASME, the coded sheet of 2019."""

    name = "casme"
    kind = "clip"
    cameras = (Camera("", 60.0, colour=True),)
    xls = True
    emotions: ClassVar[dict[str, float]] = {
        "tense": 0.36, "disgust": 0.22, "repression": 0.19, "surprise": 0.10, "happiness": 0.06,
        "sadness": 0.03, "fear": 0.02, "contempt": 0.02,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {
        "selected": "onset to offset",
        "cropped": "onset to offset, folder Cropped",
    }

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        used: set[tuple[int, str]] = set()
        people = 1 + max(v.subject for v in videos)
        for video in videos:
            clip = _clip(rng)
            while (video.subject, clip) in used:
                clip = _clip(rng)
            used.add((video.subject, clip))
            section = "A" if 2 * video.subject < people else "B"
            subject = f"sub{video.subject + 1:02d}"
            roots = {"selected": "CASME_raw_selected", "cropped": "Cropped"}
            root = roots.get(self.variant, f"CASME_{section}/Section {section}")
            place = Place(
                subject=subject,
                video=f"{subject}/{clip}",
                folder=f"{root}/{subject}/{clip}",
                digits=3,
                extra={"clip": clip},
            )
            places.append(place.trimmed(video.expressions[0]) if self.variant else place)
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows: list[Row] = []
        for video in videos:
            event = video.plan.expressions[0]
            plateau = event.apex_end > event.apex_start and rng.random() < 0.9
            apex = event.apex_start if plateau else event.apex
            rows.append(
                {
                    "Subject": video.plan.subject + 1,
                    "Filename": video.place.extra["clip"],
                    "OnsetF": video.number(event.onset),
                    "ApexF1": video.number(apex),
                    "ApexF2": video.number(event.apex_end) if plateau else "\\",
                    "OffsetF": video.number(event.offset),
                    "Onset": round((apex - event.onset + 1) * _FRAME_MS, 2),
                    "Total": round((event.offset - event.onset + 1) * _FRAME_MS, 2),
                    "AU": event.aus_cell,
                    "Emotion": event.emotion,
                }
            )
        return {"coding": rows}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        rows = lines(_COLUMNS, tables["coding"])
        write_xls(out / "CASME-coded-20190721.xls", {"Sheet1": [_COLUMNS, *rows]})

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        rows = Planter("coding", tables["coding"], _name, rng)
        rows.plant(
            "offset_before_onset",
            lambda r: {"OffsetF": number(r, "OnsetF") - 2},
            lambda r: number(r, "OnsetF") > 2,
        )
        rows.plant(
            "offset_wrong",
            lambda r: {"OffsetF": number(r, "OffsetF") - 3},
            lambda r: number(r, "OffsetF") - number(r, "ApexF1") > 3,
        )
        rows.plant(
            "onset_wrong",
            lambda r: {"OnsetF": number(r, "OnsetF") + 3},
            lambda r: number(r, "ApexF1") - number(r, "OnsetF") > 3,
        )
        rows.plant("apex_symbol", lambda r: {"ApexF1": "\\"})
        files = damage_frames(videos, out, rng)
        files.append(stray_file(out, videos[0].place.folder))
        return rows.planted + files


def _name(row: Row) -> str:
    return f"sub{number(row, 'Subject'):02d}/{row['Filename']}"


def _clip(rng: np.random.Generator) -> str:
    return f"EP{int(rng.integers(1, 20)):02d}_{int(rng.integers(1, 20))}"
