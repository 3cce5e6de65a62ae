"""SMIC, the short clips: HS at 100 fps, VIS and NIR at 25 fps; no sheet, the name is the label.

    SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559700.bmp ...     at least 6 digits
    SMIC_all_raw/NIR/s20/micro/positive/s20_po_01/07750.bmp ...        at least 5, no prefix
    SMIC_all_raw/HS/s1/non_micro/s1_n1/...                             a neutral clip
    SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image559700.bmp     here whole frames

Clips run from onset to offset; numbers are camera counters, of 8 digits for HS subject 20. VIS and
NIR filmed the second half of the subjects. Clip names count per subject and emotion.
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
    SyntheticLayout,
    Tables,
)
from data.synthetic.layouts.planting import copy_frames, damage_frames, nest_folder, stray_file

IDS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)
CODES = {"negative": "ne", "positive": "po", "surprise": "sur"}
DIGITS = {"HS": 6, "VIS": 5, "NIR": 5}
_ROOTS = {"": "SMIC_all_raw", "cropped": "SMIC_all_cropped"}
_NEUTRAL = 6


class SyntheticSmic(SyntheticLayout):
    """SMIC HS, VIS and NIR."""

    name = "smic"
    kind = "clip"
    people = "smic"
    cameras = (
        Camera("HS", 100.0, colour=True, suffix="bmp"),
        Camera("VIS", 25.0, colour=True, suffix="bmp", subjects=0.5),
        Camera("NIR", 25.0, colour=False, suffix="bmp", subjects=0.5),
    )
    emotions: ClassVar[dict[str, float]] = {"negative": 0.43, "positive": 0.31, "surprise": 0.26}
    variants: ClassVar[dict[str, str]] = {"cropped": "SMIC_all_cropped, reg_image559700.bmp"}

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        places = []
        counters: dict[tuple[str, int], int] = {}
        crop = "reg_" if self.variant else ""
        for video, subject, clip in clip_names(videos):
            camera, event = video.camera.name, video.expressions[0]
            at = next_number(counters, video, subject, rng)
            places.append(
                Place(
                    subject=f"s{subject}",
                    video=f"{camera}/{clip}",
                    folder=f"{_ROOTS[self.variant]}/{camera}/s{subject}/micro/{video.emotion}/{clip}",
                    first=at - event.onset,
                    prefix=crop + ("image" if camera == "HS" else ""),
                    digits=DIGITS[camera],
                    start=event.onset,
                    stop=event.offset + 1,
                )
            )
        return places

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        """No sheet; the neutral clip is the onset frame of a clip over again."""
        video = videos[0]
        folder = (
            f"{_ROOTS[self.variant]}/HS/{video.place.subject}/non_micro/{video.place.subject}_n1"
        )
        source = video.path(video.released.start)
        names = [f"image{120 + i:06d}.bmp" for i in range(_NEUTRAL)]
        return {"neutral": [{"source": source, "target": f"{folder}/{name}"} for name in names]}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        """SMIC has no sheet. The copy stands as read before any folder was nested."""
        root = _ROOTS[self.variant]
        base = out / root if (out / root / root).is_dir() else out
        copy_frames(base, [(str(r["source"]), str(r["target"])) for r in tables["neutral"]])

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        planted = damage_frames(videos, out, rng)
        planted.append(stray_file(out, videos[-1].place.folder))
        planted.append(nest_folder(out, _ROOTS[self.variant]))
        return planted


def clip_names(videos: Sequence[PlannedVideo]) -> list[tuple[PlannedVideo, int, str]]:
    """(video, subject id, clip) with clips counted per camera, subject and emotion: s1_ne_01."""
    people = 1 + max(v.subject for v in videos)
    counts: dict[tuple[str, int, str], int] = {}
    named = []
    for video in videos:
        key = (video.camera.name, video.subject, video.emotion)
        counts[key] = counts.get(key, 0) + 1
        subject = subject_id(video.subject, people)
        named.append((video, subject, f"s{subject}_{CODES[video.emotion]}_{counts[key]:02d}"))
    return named


def subject_id(ordinal: int, people: int) -> int:
    """SMIC's own ids: the first half of few people from the front of the list, the rest from its
    end, so that the second half is always among those whom VIS and NIR filmed."""
    if ordinal >= len(IDS):
        return IDS[-1] + ordinal - len(IDS) + 1
    half = people // 2
    return IDS[ordinal] if ordinal < half or people > len(IDS) else IDS[ordinal - people]


def next_number(
    counters: dict[tuple[str, int], int],
    video: PlannedVideo,
    subject: int,
    rng: np.random.Generator,
) -> int:
    """The camera counter at the video's beginning; a recording's clips follow one another."""
    key = (video.camera.name, subject)
    if key not in counters:
        low, high = (60_000, 2_000_000) if key[0] == "HS" else (1_200, 40_000)
        counters[key] = 17_500_000 if key == ("HS", 20) else int(rng.integers(low, high))
    start = counters[key] + int(rng.integers(50, 900))
    counters[key] = start + video.frames
    return start
