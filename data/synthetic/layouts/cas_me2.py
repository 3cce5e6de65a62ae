"""CAS(ME)^2: 30 fps colour long videos, one workbook of three sheets without header rows.

rawpic/s15/15_0101disgustingteeth/img001.jpg ... img1000.jpg     three digits at least, from 1
rawvideo/s15/15_0101disgustingteeth.avi
CAS(ME)^2code_final.xlsx     CASFEcode_final: participant, clip, onset, apex, offset, AU,
                             valence, type, self-report
                             naming rule1: 15 | s15 | 1, one row an annotation
                             naming rule2: 0101 | disgust1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

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
from data.synthetic.layouts.planting import (
    Planter,
    damage_frames,
    move_video,
    nest_folder,
    number,
    stray_file,
)
from data.synthetic.workbook import write_xlsx

_ROOTS = {"": "rawpic", "films": "rawvideo"}
_SUBJECTS = (15, 16, 19, 20, 21, 22, 23, 24, 25, 26, 27, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 40)
# film code, name in the sheet, free text of the folder
_FILMS = (
    ("0502", "happy1", "funnyerrors"), ("0101", "disgust1", "disgustingteeth"),
    ("0401", "anger1", "crash"), ("0503", "happy2", "unnyfarting"), ("0102", "disgust2", "worms"),
    ("0402", "anger2", "beating"), ("0505", "happy3", "inventions"), ("0507", "happy4", "wall"),
    ("0508", "happy5", "donkey"),
)  # fmt: skip
_COLUMNS = ("participant", "clip", "onset", "apex", "offset", "au", "valence", "type", "report")
_REPORTS = {"disgust": "disgust", "anger": "anger", "happy": "happiness"}


class SyntheticCasMe2(SyntheticLayout):
    """CAS(ME)^2, the long videos."""

    name = "cas_me2"
    kind = "long"
    preset: ClassVar[dict[str, Any]] = {"clips": 2}
    cameras: tuple[Camera, ...] = (Camera("", 30.0, colour=True),)
    emotions: ClassVar[dict[str, float]] = {
        "negative": 0.36, "positive": 0.34, "others": 0.20, "surprise": 0.10,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {"films": "video files in rawvideo"}

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        if variant == "films":
            self.cameras = films(self.cameras)

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            subject = _subject(video.subject)
            code, name, words = _film(video.number)
            place = Place(
                subject=f"s{subject}",
                video=f"s{subject}_{code}",
                folder=f"{_ROOTS[self.variant]}/s{subject}/{subject}_{code}{words}",
                prefix="img",
                digits=3,
                extra={"participant": video.subject + 1, "film": name, "code": code},
            )
            places.append(place.filmed() if self.variant == "films" else place)
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        coding: list[Row] = []
        people: list[Row] = []
        films = {}
        for video in videos:
            extra = video.place.extra
            films[str(extra["code"])] = str(extra["film"])
            for n, event in enumerate(video.plan.expressions, start=1):
                report = _REPORTS[str(extra["film"]).rstrip("0123456789")]
                coding.append(
                    {
                        "participant": extra["participant"],
                        "clip": f"{extra['film']}_{n}",
                        "onset": video.number(event.onset),
                        "apex": video.number(event.apex),
                        "offset": video.number(event.offset),
                        "au": event.aus_cell,
                        "valence": event.emotion,
                        "type": f"{event.kind}-expression",
                        "report": "happyiness" if coding == [] and "h" in report else report,
                        "subject": video.place.subject,
                    }
                )
                people.append(
                    {
                        "number": int(video.place.subject[1:]),
                        "code": video.place.subject,
                        "participant": extra["participant"],
                    }
                )
        rule: list[Row] = [{"code": code, "film": name} for code, name in sorted(films.items())]
        return {"coding": coding, "people": people, "films": rule}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        write_xlsx(
            out / "CAS(ME)^2code_final.xlsx",
            {
                "CASFEcode_final": lines(_COLUMNS, tables["coding"]),
                "naming rule1": [list(row.values()) for row in tables["people"]],
                "naming rule2": [list(row.values()) for row in tables["films"]],
            },
        )

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        coding = tables["coding"]
        rows = Planter("coding", coding, lambda r: f"{r['subject']}_{r['clip']}", rng)
        kinds: tuple[tuple[str, Callable[[Row], dict[str, Cell]]], ...] = (
            ("offset_zero", lambda r: {"offset": 0}),
            ("apex_zero", lambda r: {"apex": 0}),
            ("apex_past_offset", lambda r: {"apex": number(r, "offset") + 3}),
        )
        for kind, change in kinds:
            # Macro-expressions have these defects; where there are too few of them, others do.
            if not rows.plant(kind, change, lambda r: r["type"] == "macro-expression"):
                rows.plant(kind, change)
        planted = rows.planted + damage_frames(videos, out, rng)
        stranger = next((v for v in videos if v.place.subject == "s23"), videos[-1])
        host = next((v for v in videos if v.place.subject == "s19"), videos[0])
        if stranger.place.subject != host.place.subject:
            old = stranger.place.folder
            new = f"{_ROOTS[self.variant]}/{host.place.subject}/{old.rpartition('/')[2]}"
            planted.append(move_video("misplaced_video", stranger.place.video, out, old, new))
        planted.append(stray_file(out, host.place.folder.rpartition("/")[0]))
        planted.append(nest_folder(out, _ROOTS[self.variant]))
        return planted


def _subject(ordinal: int) -> int:
    beyond = ordinal - len(_SUBJECTS)
    return _SUBJECTS[ordinal] if beyond < 0 else 41 + beyond


def _film(at: int) -> tuple[str, str, str]:
    if at < len(_FILMS):
        return _FILMS[at]
    n = at - len(_FILMS) + 1
    return f"{600 + n:04d}", f"happy{n + 5}", "more"
