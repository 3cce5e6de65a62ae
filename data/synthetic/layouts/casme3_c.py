"""CAS(ME)^3 part C: one 30 fps video a subject, micro-expressions without an apex.

    part_C/01/a/color/1.jpg ...              not padded
    annotation/CAS(ME)3_part_C_ME.xlsx       sheet mockCrimeME: sub, count, onset, offset, au ...
    annotation/CAS(ME)3_part_C.xls           sheet organize: another coding, which disagrees

Action units are numbers, or text with commas, one of them of full width.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    lines,
)
from data.synthetic.layouts.planting import (
    Planter,
    damage_frames,
    nest_folder,
    number,
    stray_file,
)
from data.synthetic.workbook import write_xls, write_xlsx

_ROOT = "part_C"
_ME = ("sub", "count", "onset", "offset", "au", "emotion")
_ORGANIZE = ("Subject", "Onset", "Offset", "diff", "Exp_type", "risk")
_STRANGER = 22  # the subject whom the real ME sheet lacks


class SyntheticCasme3C(SyntheticLayout):
    """CAS(ME)^3 part C."""

    name = "casme3_c"
    kind = "long"
    preset: ClassVar[dict[str, Any]] = {"clips": 1, "macros": (0, 0), "micros": (2, 3)}
    cameras = (Camera("", 30.0, colour=True),)
    xls = True
    emotions: ClassVar[dict[str, float]] = {
        "negative": 0.55, "surprise": 0.2, "others": 0.13, "positive": 0.12,
    }  # fmt: skip

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            subject = f"{video.subject + 1:02d}"
            places.append(
                Place(
                    subject=subject,
                    video=subject,
                    folder=f"{_ROOT}/{subject}/a/color",
                    extra={"sub": video.subject + 1},
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        rows: list[Row] = []
        other: list[Row] = []
        comma = "，"
        for video in videos:
            for count, event in enumerate(video.plan.expressions, start=1):
                units = event.aus.split("+")
                aus: Cell = int(units[0])
                if len(units) > 1:
                    aus, comma = comma.join([f"R{units[0]}", *units[1:]]), ","
                onset, offset = video.number(event.onset), video.number(event.offset)
                rows.append(
                    {
                        "sub": video.place.extra["sub"],
                        "count": count,
                        "onset": onset,
                        "offset": offset,
                        "au": aus,
                        "emotion": event.emotion,
                    }
                )
                shift = int(rng.integers(-3, 4))
                other.append(
                    {
                        "Subject": video.place.extra["sub"],
                        "Onset": max(onset + shift, 1),
                        "Offset": offset + shift,
                        "diff": offset - onset,
                        "Exp_type": int(rng.random() < 0.8),
                        "risk": int(rng.random() < 0.5),
                    }
                )
        return {"me": rows, "organize": other[1:]}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        write_xlsx(
            out / "annotation" / "CAS(ME)3_part_C_ME.xlsx",
            {"mockCrimeME": [_ME, *lines(_ME, tables["me"])]},
        )
        write_xls(
            out / "annotation" / "CAS(ME)3_part_C.xls",
            {"organize": [_ORGANIZE, *lines(_ORGANIZE, tables["organize"])]},
        )

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        last = {v.place.extra["sub"]: v.number(v.released.stop - 1) for v in videos}
        rows = Planter("me", tables["me"], _event_name, rng)
        rows.plant(
            "interval_past_end",
            lambda r: {"onset": last[r["sub"]] + 40, "offset": last[r["sub"]] + 51},
        )
        rows.plant("onset_after_offset", lambda r: {"onset": number(r, "offset") + 7})
        stranger: Row = {**tables["me"][0], "sub": max(_STRANGER, len(videos) + 1), "count": 1}
        tables["me"].append(stranger)
        lost = Planted("missing_video", _event_name(stranger), "me", "sub", None, stranger["sub"])
        files = damage_frames(videos, out, rng)
        files.append(stray_file(out, videos[0].place.folder))
        files.append(nest_folder(out, _ROOT))
        return [*rows.planted, lost, *files]


def _event_name(row: Row) -> str:
    return f"{number(row, 'sub'):02d}_{row['count']}"
