"""The generic CSV manifest: every performance once as a video file and, for some, as frames.

manifest.csv                        one row an event
videos/p01/c01.avi                  motion JPEG
frames/p02/c01/frame_0001.jpg ...   for the second half of the people
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.synthetic.action_units import objective_class
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
from data.synthetic.layouts.planting import Planter, damage_frames, number, stray_file

_COLUMNS = ("subject", "person", "path", "fps", "video", "kind", "show_faces", "event", "type",
            "onset", "apex", "offset", "aus", "emotion", "objective_class")  # fmt: skip


class SyntheticCsvManifest(SyntheticLayout):
    """A private dataset described by a manifest."""

    name = "csv"
    kind = "clip"
    cameras = (
        Camera("film", 100.0, colour=True, suffix="avi"),
        Camera("frames", 100.0, colour=True, subjects=0.5),
    )
    emotions: ClassVar[dict[str, float]] = {
        "happiness": 0.2, "surprise": 0.2, "disgust": 0.2, "anger": 0.12, "sadness": 0.1,
        "fear": 0.1, "contempt": 0.08,
    }  # fmt: skip

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        for video in videos:
            subject, clip = f"p{video.subject + 1:02d}", f"c{video.number + 1:02d}"
            film = video.camera.suffix == "avi"
            folder = f"videos/{subject}/{clip}.avi" if film else f"frames/{subject}/{clip}"
            places.append(
                Place(
                    subject=subject,
                    video=f"{subject}/{clip}_{video.camera.name}",
                    folder=folder,
                    prefix="frame_",
                    digits=4,
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        return {"manifest": [_row(video) for video in videos]}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(tables["manifest"])
        (out / "manifest.csv").write_text(text.getvalue(), encoding="utf-8", newline="")

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        sheet = tables["manifest"]
        sound = dict(sheet[0])
        rows = Planter("manifest", sheet, lambda row: str(row["event"]), rng)
        rows.plant("apex_past_offset", lambda r: {"apex": number(r, "offset") + 2})
        rows.plant("offset_zero", lambda r: {"offset": 0})
        rows.plant("unknown_type", lambda r: {"type": "subtle"})
        planted = rows.planted
        for kind, column, new in (
            ("path_outside", "path", "../elsewhere/c01.avi"),
            ("path_absolute", "path", "/data/elsewhere/c01.avi"),
            ("missing_video", "path", "frames/p99/c01"),
            ("bad_fps", "fps", "fast"),
        ):
            name = f"extra_{kind}"
            sheet.append(sound | {"video": name, "event": name, column: new})
            # Rows that are refused are known by their place: the manifest has one line of headers.
            who = name if kind == "missing_video" else f"row {len(sheet) + 1}"
            planted.append(Planted(kind, who, "manifest", column, sound[column], new))
        folders = [v for v in videos if v.plan.camera.suffix != "avi"]
        planted += damage_frames(folders, out, rng)
        hit = {record.who for record in planted}
        films = [v for v in videos if v.plan.camera.suffix == "avi"]
        planted.append(_cut_film(min(films, key=lambda v: v.place.video in hit), out))
        planted.append(stray_file(out, folders[0].place.folder))
        return planted


def _row(video: PlacedVideo) -> Row:
    event = video.plan.expressions[0]
    return {
        "subject": video.place.subject,
        "person": f"private:{video.place.subject}",
        "path": video.place.folder,
        "fps": video.plan.fps,
        "video": video.place.video,
        "kind": "clip",
        "show_faces": 1,
        "event": video.place.video,
        "type": event.kind,
        "onset": video.number(event.onset),
        "apex": video.number(event.apex),
        "offset": video.number(event.offset),
        "aus": event.aus,
        "emotion": event.emotion,
        "objective_class": objective_class(event.aus),
    }


def _cut_film(video: PlacedVideo, out: Path) -> Planted:
    """Leave the first kilobyte of a video file, as a broken transfer does."""
    path = out / video.place.folder
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1024])
    return Planted("truncated_film", video.place.video, old=size)
