"""The challenges' test recordings: long videos of two cameras, or clips; no sheet, no labels.

    SAMM_data/001_1/001_1_00001.jpg ...      CAS_data/dzw_a1/1.jpg ...
    SAMM_Test_cropped/001_1/...              CAS_Test_cropped/sub01/...         here whole frames
    ME_VQA_MEGC_2025_Test/CAS-1/0001.jpg     .../SAMM-1/0001.jpg

What happens in them stands in `truth.json`, which `evaluate --truth` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

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
from data.synthetic.layouts.planting import damage_frames, nest_folder, stray_file

PEOPLE = ("dzw", "gcf", "smy", "wy")
LETTERS = "adfhs"


class SyntheticMegc(SyntheticLayout):
    """Test recordings of MEGC 2022 to 2026."""

    name = "megc"
    kind: Literal["clip", "long"] = "long"
    cameras = (Camera("SAMM", 200.0, colour=False), Camera("CAS", 30.0, colour=True))
    emotions: ClassVar[dict[str, float]] = {
        "disgust": 0.3, "surprise": 0.25, "happiness": 0.2, "anger": 0.15, "fear": 0.05,
        "sadness": 0.05,
    }  # fmt: skip
    variants: ClassVar[dict[str, str]] = {
        "2022": "the ten long videos of 2022, cropped by the organisers",
        "clips": "the short clips of the questions",
    }

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        if variant == "clips":
            self.kind = "clip"

    def place(self, videos: Sequence[PlannedVideo], rng: np.random.Generator) -> list[Place]:
        counts: dict[str, int] = {}
        places = []
        for video in videos:
            camera = video.camera.name
            counts[camera] = counts.get(camera, 0) + 1
            places.append(self._place(video, camera, counts[camera]))
        return places

    def _place(self, video: PlannedVideo, camera: str, running: int) -> Place:
        if self.variant == "clips":
            name = f"{camera}-{running}"
            folder = f"ME_VQA_MEGC_2025_Test/{name}"
            return Place(name, f"{camera.lower()}/{name}", folder, digits=4)
        root = f"{camera}_Test_cropped" if self.variant else f"{camera}_data"
        if camera == "SAMM":
            subject = f"{video.subject + 1:03d}"
            name = f"{subject}_{video.number + 1}"
            return Place(subject, f"samm/{name}", f"{root}/{name}", prefix=f"{name}_", digits=5)
        if self.variant:
            name = f"sub{running:02d}"
            return Place(name, f"cas/{name}", f"{root}/{name}")
        who = PEOPLE[video.subject] if video.subject < len(PEOPLE) else _code(video.subject)
        letter, number = LETTERS[video.number % len(LETTERS)], video.number // len(LETTERS) + 1
        name = f"{who}_{letter}{number}"
        return Place(who, f"cas/{name}", f"{root}/{name}")

    def tables(self, videos: Sequence[PlacedVideo], rng: np.random.Generator) -> Tables:
        """No sheet."""
        return {}

    def write_sheets(self, out: Path, tables: Tables) -> None:
        """No sheet."""

    def plant(
        self, tables: Tables, videos: Sequence[PlacedVideo], out: Path, rng: np.random.Generator
    ) -> list[Planted]:
        planted = damage_frames(videos, out, rng)
        planted.append(stray_file(out, videos[0].place.folder))
        planted.append(nest_folder(out, videos[0].place.folder.partition("/")[0]))
        return planted


def _code(ordinal: int) -> str:
    """Three letters for a person beyond the four known."""
    return f"x{chr(97 + ordinal // 26 % 26)}{chr(97 + ordinal % 26)}"
