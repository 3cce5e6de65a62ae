"""CASME II: neutral lead-in, one micro-expression, tail; 200 fps colour.

CASME2-RAW/sub01/EP02_01f/img1.jpg ...             numbers from 1, not padded (or 001.jpg)
CASME2_RAW_selected/sub01/EP02_01f/img46.jpg ...   onset to offset, numbers kept
Cropped/sub01/EP02_01f/reg_img46.jpg ...           the same; here whole frames, not crops
CASME2_compressed/sub01/EP02_01f.avi
CASME2-coding-20190701.xlsx                 the same and a column Objective Classes
CASME2-coding-20140508.xlsx                 Sheet1 with two blank columns, empty Sheet2, Sheet3
CASME2-ObjectiveClasses.xlsx                Sheet1, and leftovers without a header in Sheet2
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.synthetic.action_units import objective_class
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
    films,
    lines,
)
from data.synthetic.layouts.planting import damage_frames, nest_folder, stray_file
from data.synthetic.workbook import write_xlsx

_CODING = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None,
           "Action Units", "Estimated Emotion")  # fmt: skip
_CLASSES = ("Subject", "Filename", "Objective Class")
# variant -> folder, prefix of the frames' names, digits
_SHAPES = {
    "": ("CASME2-RAW", "img", 1),
    "padded": ("CASME2-RAW", "", 3),
    "selected": ("CASME2_RAW_selected", "img", 1),
    "cropped": ("Cropped", "reg_img", 1),
    "films": ("CASME2_compressed", "", 1),
    "2019": ("CASME2-RAW", "img", 1),
}


class SyntheticCasme2(SyntheticLayout):
    """CASME II, 2014 coding sheet."""

    name = "casme2"
    kind = "clip"
    cameras: tuple[Camera, ...] = (Camera("", 200.0, colour=True),)
    emotions: ClassVar[dict[str, float]] = {
        "happiness": 0.20, "disgust": 0.22, "surprise": 0.20, "repression": 0.18,
        "others": 0.14, "sadness": 0.04, "fear": 0.02,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {
        "padded": "whole clips named 001.jpg",
        "selected": "onset to offset, numbers kept",
        "cropped": "onset to offset, reg_img46.jpg",
        "films": "one video file a clip",
        "2019": "the sheet of 2019, with a tenth column for objective classes",
    }

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        self.root, self.prefix, self.digits = _SHAPES[variant]
        if variant == "films":
            self.cameras = films(self.cameras)

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        used: set[str] = set()
        for video in videos:
            subject = f"{video.subject + 1:02d}"
            clip = _clip_name(rng)
            while f"{subject}/{clip}" in used:
                clip = _clip_name(rng)
            used.add(f"{subject}/{clip}")
            place = Place(
                subject=f"sub{subject}",
                video=f"sub{subject}/{clip}",
                folder=f"{self.root}/sub{subject}/{clip}",
                prefix=self.prefix,
                digits=self.digits,
                extra={"subject": subject, "clip": clip},
            )
            if self.variant in ("selected", "cropped"):
                place = place.trimmed(video.expressions[0])
            places.append(place.filmed() if self.variant == "films" else place)
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        coding, classes = [], []
        for video in videos:
            event = video.plan.expressions[0]
            extra = video.place.extra
            who: Row = {"Subject": extra["subject"], "Filename": extra["clip"]}
            coding.append(
                who
                | {
                    "OnsetFrame": video.number(event.onset),
                    "ApexFrame": video.number(event.apex),
                    "OffsetFrame": video.number(event.offset),
                    "Action Units": event.aus_cell,
                    "Estimated Emotion": event.emotion,
                }
            )
            classes.append(who | {"Objective Class": objective_class(event.aus)})
            coding[-1]["Objective Classes"] = classes[-1]["Objective Class"]
        return {"coding": coding, "classes": classes}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        late = self.variant == "2019"
        columns = (*_CODING, "Objective Classes") if late else _CODING
        coding = lines(columns, tables["coding"])
        write_xlsx(
            out / f"CASME2-coding-{'20190701' if late else '20140508'}.xlsx",
            {"Sheet1": [columns, *coding], "Sheet2": [], "Sheet3": []},
        )
        if late:
            return
        classes = lines(_CLASSES, tables["classes"])
        write_xlsx(
            out / "CASME2-ObjectiveClasses.xlsx",
            {"Sheet1": [_CLASSES, *classes], "Sheet2": classes[:10]},
        )

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        coding = tables["coding"]
        order = [int(i) for i in rng.permutation(len(coding))]
        # The coders' question mark stands in rows of the class "others" only.
        order.sort(key=lambda i: coding[i]["Estimated Emotion"] == "others", reverse=True)
        edits = (
            ("unknown_aus", "Action Units", "?"),
            ("apex_symbol", "ApexFrame", "/"),
            ("apex_is_onset", "ApexFrame", "OnsetFrame"),
            ("apex_is_offset", "ApexFrame", "OffsetFrame"),
        )
        planted = []
        for i, (kind, column, new) in zip(order, edits, strict=False):
            row = coding[i]
            value: Cell = row.get(new, new)
            planted.append(
                Planted(kind, videos[i].place.video, "coding", column, row[column], value)
            )
            row[column] = value
        planted += damage_frames(videos, out, rng)
        planted.append(stray_file(out, f"{self.root}/sub01"))
        planted.append(nest_folder(out, self.root))
        return planted


def _clip_name(rng: np.random.Generator) -> str:
    """Names with the spellings found in the released sheet, the rare ones included."""
    stimulus, index = int(rng.integers(1, 20)), int(rng.integers(1, 60))
    kind = rng.random()
    if kind < 0.66:
        return f"EP{stimulus:02d}_{index:02d}"
    if kind < 0.92:
        return f"EP{stimulus:02d}_{index:02d}f"
    if kind < 0.95:
        return f"EP{stimulus:02d}_{index % 9 + 1}"
    if kind < 0.98:
        return f"EP{stimulus:02d}_{index:02d}_{index % 5 + 1:02d}"
    return f"EP{stimulus:02d}f"
