"""CAS(ME)^3 part A: 30 fps long videos with micro- and macro-expressions and blinks.

    part_A/spNO.1/a/color/8.jpg ...                          not padded; the first frames are lost
    part_A/spNO.1/a/depth/8.png ...                          16 bit; here for the first video only
    part_A/spNO1/a/8.jpg ...                                 variant: no dot, no level for depth
    Part_A_ME_clip/frame/spNO.1_b_166/166.jpg ...            variant: one clip a micro-expression
    annotation/cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx     sheets label, Sheet1, Sheet3; all text
    annotation/cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx
    annotation/CAS(ME)3_part_A_v2.xls                        sheets AU+Emotion, eye blink
    annotation/partA/cas(me)3_part_A_ME_label_JpgIndex_v1.xls     variant: the first release

Several events of a video share (Subject, Filename). Blinks are coded for some subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from data.errors import ConfigError
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
    lines,
)
from data.synthetic.layouts.planting import (
    Planter,
    damage_frames,
    move_video,
    number,
    stray_file,
)
from data.synthetic.presets import Preset
from data.synthetic.workbook import write_xls, write_xlsx

_ROOT = "part_A"
_SUBJECTS = (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 39, 40, 41, 42, 75, 77, 99, 138, 142,
             149, 150, 155, 200, 201, 206, 210, 214, 216)  # fmt: skip
_LETTERS = "abcdefghijklm"
_LABEL = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
_CODES = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Expression type",
          "Objective class")  # fmt: skip
_BLINKS = ("Subject", "Filename", "Onset", "Offset")
_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII")
_WORDS = {"happiness": "happy", "sadness": "sad"}
_LOST = 7  # "the first 7 to 8 frames of most videos were lost"
_MINUTE = 1800


class SyntheticCasme3(SyntheticLayout):
    """CAS(ME)^3 part A, by default with the second release of the labels."""

    name = "casme3"
    kind: Literal["clip", "long"] = "long"
    preset: ClassVar[dict[str, Any]] = {"clips": 2, "micros": (2, 3)}
    cameras = (Camera("", 30.0, colour=True),)
    xls = True
    emotions: ClassVar[dict[str, float]] = {
        "disgust": 0.28, "surprise": 0.22, "others": 0.19, "fear": 0.10, "anger": 0.08,
        "sadness": 0.07, "happiness": 0.06,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {
        "v1": "the first release of the labels, in the old Excel format",
        "clips": "one clip a micro-expression",
        "dotless": "subjects spNO1, frames without a level for depth",
    }

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        if variant == "clips":
            self.kind = "clip"

    def defaults(self) -> dict[str, Any]:
        """A clip holds one micro-expression."""
        return {} if self.variant == "clips" else self.preset

    def check(self, preset: Preset) -> None:
        """A video is a letter from a to m."""
        super().check(preset)
        if preset.clips > len(_LETTERS):
            raise ConfigError("clips", expected="at most 13 in casme3", got=str(preset.clips))

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            subject, letter = f"spNO.{_subject(video.subject)}", _LETTERS[video.number]
            if self.variant == "clips":
                places.append(_clip(video, subject, letter, rng))
                continue
            lost = _LOST + int(rng.random() < 0.5) if rng.random() < 0.8 else 0
            flat = self.variant == "dotless"
            places.append(
                Place(
                    subject=subject,
                    video=f"{subject}/{letter}",
                    folder=f"{_ROOT}/{subject.replace('.', '')}/{letter}"
                    if flat
                    else f"{_ROOT}/{subject}/{letter}/color",
                    start=min([lost, *(e.onset for e in video.expressions)]),
                    extra={"letter": letter, "blinks": video.subject % 3 == 0},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        tables: Tables = {"micro": [], "macro": [], "blink": [], "depth": []}
        for video in videos:
            who: Row = {
                "Subject": video.place.subject,
                "Filename": video.place.extra["letter"],
                "video": video.place.video,
            }
            for event in video.plan.expressions:
                tables[event.kind].append(who | _row(video, event, rng))
            if video.place.extra["blinks"]:
                tables["blink"] += [who | row for row in _blinks(video)]
        first = videos[0]
        numbers = [first.number(frame) for frame in first.released]
        folder = first.place.folder.replace("/color", "/depth").replace("clip/frame", "clip/depth")
        if folder != first.place.folder:
            tables["depth"] = [{"path": f"{folder}/{n}.png"} for n in numbers]
        return tables

    def write_sheets(self, out: Path, tables: Tables) -> None:
        folder = out / "annotation"
        if self.variant == "v1":
            _write_first_release(folder, tables)
            _write_depth(out, [str(row["path"]) for row in tables["depth"]])
            return
        for kind, name in (("micro", "ME_label_JpgIndex_v2"),
                           ("macro", "MaE_label_JpgIndex_v2_emotion")):  # fmt: skip
            texts = [[str(row[n]) for n in _LABEL] for row in tables[kind]]
            write_xlsx(
                folder / f"cas(me)3_part_A_{name}.xlsx",
                {"label": [_LABEL, *texts], "Sheet1": [], "Sheet3": []},
            )
        _write_codes(folder / "CAS(ME)3_part_A_v2.xls", tables)
        _write_depth(out, [str(row["path"]) for row in tables["depth"]])

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        files = damage_frames(videos, out, rng)
        clips = self.variant == "clips"
        if not clips:  # a clip is named after its letter and onset
            files.append(_upper_case(tables, videos[-1], out))
        rows = Planter("micro", tables["micro"], _of_clip if clips else _of_video, rng)
        rows.plant("apex_before_onset", lambda r: {"Apex": max(number(r, "Onset") - 9, 1)})
        if not clips:
            rows.plant("onset_after_offset", lambda r: {"Onset": number(r, "Offset") + 953})
            rows.plant("onset_zero", lambda r: {"Onset": 0, "Apex": 0})
        rows.plant("offset_zero", lambda r: {"Offset": 0})
        rows.plant("offset_far", lambda r: {"Offset": number(r, "Offset") + _MINUTE})
        rows.plant("apex_is_onset", lambda r: {"Apex": r["Onset"]})
        rows.plant(
            "case_differs",
            lambda r: {"Filename": str(r["Filename"]).upper()},
            lambda r: str(r["Filename"]).islower(),
        )
        beside = videos[0].place.folder.removesuffix("/color")
        files.append(stray_file(out, beside))
        return rows.planted + files


def _subject(ordinal: int) -> int:
    beyond = ordinal - len(_SUBJECTS)
    return _SUBJECTS[ordinal] if beyond < 0 else 217 + beyond


def _clip(video: PlannedVideo, subject: str, letter: str, rng: np.random.Generator) -> Place:
    """A clip of one micro-expression, called after the onset's number in the long video."""
    event, onset = video.expressions[0], int(rng.integers(100, 4800))
    name = f"{subject}_{letter}_{onset}"
    place = Place(
        subject=subject,
        video=name,
        folder=f"Part_A_ME_clip/frame/{name}",
        first=onset - event.onset,
        extra={"letter": letter, "blinks": False},
    )
    return place.trimmed(event)


def _of_video(row: Row) -> str:
    return str(row["video"])


def _of_clip(row: Row) -> str:
    return f"{row['Subject']}/{row['Filename']}_{row['Onset']}"


def _write_codes(path: Path, tables: Tables) -> None:
    """The workbook without emotions: macro- and micro-expressions, and the blinks."""
    coded = lines(_CODES, tables["macro"] + tables["micro"])
    blinks = lines(_BLINKS, tables["blink"])
    write_xls(path, {"AU+Emotion": [_CODES, *coded], "eye blink": [_BLINKS, *blinks]})


def _write_first_release(folder: Path, tables: Tables) -> None:
    """The first label sheet, with two columns without a name for durations."""
    at = _LABEL.index("Offset") + 1
    rows: list[list[Cell]] = []
    for row in tables["micro"]:
        cells = [row[n] for n in _LABEL]
        spans = [number(row, "Offset") - number(row, "Onset") + 1,
                 number(row, "Apex") - number(row, "Onset") + 1]  # fmt: skip
        rows.append([*cells[:at], *spans, *cells[at:]])
    header = [*_LABEL[:at], None, None, *_LABEL[at:]]
    name = "cas(me)3_part_A_ME_label_JpgIndex_v1.xls"
    write_xls(folder / "partA" / name, {"label": [header, *rows]})
    _write_codes(folder / "CAS(ME)3_part_A_v1.xls", tables)


def _row(video: PlacedVideo, event: PlannedEvent, rng: np.random.Generator) -> Row:
    emotion = str(event.emotion)
    if emotion == "others" and rng.random() < 0.2:
        emotion = "Others"
    return {
        "Onset": video.number(event.onset),
        "Apex": video.number(event.apex),
        "Offset": video.number(event.offset),
        "AU": "+".join(_side(n, rng) for n in event.aus.split("+")),
        "Objective class": _ROMAN[objective_class(event.aus)],
        "emotion": _WORDS.get(emotion, emotion),
        "Expression type": f"{event.kind.capitalize()}-expression",
    }


def _side(unit: str, rng: np.random.Generator) -> str:
    """Some units are coded for one side, or for the top or bottom lip."""
    return f"{rng.choice(['L', 'R', 'T'])}{unit}" if rng.random() < 0.1 else unit


def _blinks(video: PlacedVideo) -> list[Row]:
    first, last = video.released.start, video.released.stop - 1
    whole = [e for e in video.plan.events if e.kind == "blink" and first <= e.offset]
    cut = [video.cut(e) for e in whole if e.onset <= last]
    return [{"Onset": video.number(e.onset), "Offset": video.number(e.offset)} for e in cut]


def _write_depth(out: Path, paths: list[str]) -> None:
    """A slanted plane at 60 to 90 cm, in millimetres, the same in every frame."""
    plane = np.linspace(600, 900, 64, dtype=np.uint16)[:, None] * np.ones((1, 64), np.uint16)
    content = cv2.imencode(".png", plane)[1].tobytes()
    for path in paths:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)


def _upper_case(tables: Tables, video: PlacedVideo, out: Path) -> Planted:
    """The video's letter in upper case, in all sheets and on disk, as spNO.14/J."""
    old, letter = video.place.folder.removesuffix("/color"), str(video.place.extra["letter"])
    below = video.place.folder.removeprefix(old)
    stem = old.rpartition("/")[0]
    new: Cell = letter.upper()
    name = f"{video.place.subject}/{new}"
    for kind in ("micro", "macro", "blink"):
        for row in tables[kind]:
            if row["video"] == video.place.video:
                row.update({"Filename": new, "video": name})
    move_video("upper_case_video", name, out, old, f"{stem}/{new}")
    return Planted("upper_case_video", name, old=video.place.folder, new=f"{stem}/{new}{below}")
