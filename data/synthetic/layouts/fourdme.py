"""4DME: grey 60 fps clips cut to the expression, several emotions at once, one 0/1 column a unit.

    4DMicro/gray_micro/S01/S01_1st_001_01_1/0213.jpg ...
    4DMicro/gray_micro_crop/S01/S01_1st_001_01_1/0213.jpg ...       here whole frames
    4DMicro/gray_micro/S01_1st_001_01_1/0213.jpg ...                as before the release
    micro_short_gray_video/micro short gray video/S01/S01_001_01_1/Frame_000001831.jpg ...
    Micro and Macro-expression labels.xlsx          the tree and workbook of real copies
    4DME_Labelling_Micro_release v1.xlsx            frame numbers as floats, units as AU4+AU7(k)
    4DME_Labelling_Micro_extras_release v1.xlsx     self-reports and film emotions

`(k)` marks a unit held still through the clip; it is not one of the movement's.
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

_ROOT = "4DMicro"
_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 23, 24, 25, 26, 28, 38, 45)
_CLASSES = ("Positive", "Negative", "Surprise", "Repression", "Others")
_MARKS = (*_CLASSES, *(f"AU{n}" for n in _UNITS))
_COLUMNS = ("sub_ID", "fold", "fold_name", "Onset", "Apex", "Offset", "AUs", "Emotion",
            "eye blink", *_MARKS)  # fmt: skip
_EXTRAS = ("sub_ID", "fold_name", "self-report", "video emotion")
_WORDS = {"positive+surprise": "Surprise+Positive"}


class SyntheticFourDme(SyntheticLayout):
    """4DME, the grey clips."""

    name = "4dme"
    kind = "clip"
    cameras = (Camera("", 60.0, colour=False),)
    emotions: ClassVar[dict[str, float]] = {
        "negative": 0.38, "surprise": 0.20, "positive": 0.15, "others": 0.12, "repression": 0.08,
        "positive+surprise": 0.07,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {
        "cropped": "folder gray_micro_crop",
        "flat": "no folder a subject",
        "gray": "micro_short_gray_video, sessions S01_1 and S01_2, folders for the coders",
    }

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            event = video.expressions[0]
            subject = f"S{video.subject + 1:02d}"
            if self.variant == "gray":
                first = int(rng.integers(120, 2500)) - event.onset
                subject += f"_{1 + video.number % 2}"  # filmed in two sessions
                clip = f"{subject}_{video.number + 1:03d}_01_1"
                folder = f"micro_short_gray_video/micro short gray video/{subject}/{clip}"
                place = Place(
                    subject, f"{subject}/{clip}", folder, first, "Frame_", 9, extra={"clip": clip}
                )
                places.append(place.trimmed(event))
                continue
            session = "1st" if video.number % 2 == 0 else "2nd"
            clip = f"{subject}_{session}_{video.number + 1:03d}_{int(rng.integers(1, 10)):02d}_1"
            above = "gray_micro_crop" if self.variant == "cropped" else "gray_micro"
            above += "" if self.variant == "flat" else f"/{subject}"
            places.append(
                Place(
                    subject=subject,
                    video=f"{subject}/{clip}",
                    folder=f"{_ROOT}/{above}/{clip}",
                    first=int(rng.integers(120, 2500)) - event.onset,
                    digits=4,
                    start=event.onset,
                    stop=event.offset + 1,
                    extra={"clip": clip},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows: list[Row] = []
        extras: list[Row] = []
        for video in videos:
            event = video.plan.expressions[0]
            moving = [int(n) for n in event.aus.split("+")]
            kept = [n for n in (7, 14) if n not in moving and rng.random() < 0.12]
            emotion = str(event.emotion)
            who: Row = {"sub_ID": video.place.subject, "fold_name": video.place.extra["clip"]}
            row = who | {
                "fold": video.plan.number + 1,
                "Onset": float(video.number(event.onset)),
                "Apex": float(video.number(event.apex)),
                "Offset": float(video.number(event.offset)),
                "AUs": "+".join([f"AU{n}" for n in moving] + [f"AU{n}(k)" for n in kept]),
                "Emotion": _WORDS.get(emotion, emotion.capitalize()),
                "eye blink": int(any(e.kind == "blink" for e in video.plan.events)),
            }
            row |= {name: int(name.lower() in emotion.split("+")) for name in _CLASSES}
            rows.append(row | {f"AU{n}": int(n in moving + kept) for n in _UNITS})
            extras.append(who | {"self-report": "calm", "video emotion": emotion.split("+")[0]})
        return {"micro": rows, "extras": extras}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        if self.variant == "gray":
            rows = lines(_COLUMNS, tables["micro"])
            name = "Micro and Macro-expression labels.xlsx"
            write_xlsx(out / name, {"Sheet1": [_COLUMNS, *rows]})
            clip = next(p for p in sorted(out.rglob("Frame_*")) if p.stat().st_size)
            aside = out / "micro_short_gray_video" / "images for annotation"
            aside.mkdir(parents=True, exist_ok=True)
            (aside / clip.name).write_bytes(clip.read_bytes())
            return
        for table, columns, name in (("micro", _COLUMNS, "release v1"),
                                     ("extras", _EXTRAS, "extras_release v1")):  # fmt: skip
            rows = lines(columns, tables[table])
            write_xlsx(out / f"4DME_Labelling_Micro_{name}.xlsx", {"Sheet1": [columns, *rows]})

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        """The real sheet's exchange of two rows begins at `AUs` and cannot be seen in the sheet
        alone; here it begins behind `AUs` and `Emotion`, where the row contradicts itself."""
        sheet = tables["micro"]
        planted = _exchange_marks(sheet, rng)
        rows = Planter("micro", sheet, _name, rng)
        hit = {record.who for record in planted}
        free = [i for i in rows.free if _name(sheet[i]) not in hit]
        rows.free = free or rows.free
        rows.plant("apex_past_offset", lambda r: {"Apex": number(r, "Offset") + 4.0})
        rows.plant("offset_past_end", lambda r: {"Offset": number(r, "Offset") + 12.0})
        planted += rows.planted + damage_frames(videos, out, rng)
        planted.append(stray_file(out, videos[0].place.folder))
        planted.append(nest_folder(out, videos[0].place.folder.partition("/")[0]))
        return planted


def _name(row: Row) -> str:
    return f"{row['sub_ID']}/{row['fold_name']}"


def _exchange_marks(rows: list[Row], rng: np.random.Generator) -> list[Planted]:
    """Exchange the 0/1 columns of two rows that differ in emotion and units."""
    order = [int(i) for i in rng.permutation(len(rows))]
    pairs = ((a, b) for a in order for b in order
             if rows[a]["Emotion"] != rows[b]["Emotion"]
             and any(rows[a][f"AU{n}"] != rows[b][f"AU{n}"] for n in _UNITS))  # fmt: skip
    pair = next(pairs, None)
    if pair is None:
        return []
    one, two = (rows[i] for i in pair)
    marks = [{name: row[name] for name in _MARKS} for row in (one, two)]
    planted = [
        Planted("exchanged_columns", _name(row), "micro", name, row[name], new[name])
        for row, new in ((one, marks[1]), (two, marks[0]))
        for name in _MARKS
        if row[name] != new[name]
    ]
    one.update(marks[1])
    two.update(marks[0])
    return planted
