"""The challenges' test recordings, without labels (MEGC 2022 to 2026).

    SAMM_data/001_2/001_2_00001.jpg      CAS_data/dzw_a1/1.jpg          30 long videos, 2023 on
    SAMM_Test_cropped/001_2/...          CAS_Test_cropped/sub01/...     10 long videos of 2022
    ME_VQA_MEGC_2025_Test/CAS-1/...      .../SAMM-1/...                 24 clips

A folder is a video; the frame rate is its part's (SAMM 200, CAS 30). There is no sheet and no truth
was ever released, so there are no events: the layout is for `predict`. SAMM Challenge's people are
001 to 005, those of SAMM begin at 006; `sub01` is one only below a folder called CAS.
"""

from __future__ import annotations

import re
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules
from data.datasets.grouping import no_videos
from data.datasets.listing import Folder, Tree
from data.datasets.report import Report

RATES = {"samm": 200.0, "cas": 30.0}
SAMM_LONG = re.compile(r"(00[1-5])_[1-7]")
CAS_LONG = re.compile(r"([a-z]{2,4})_[a-z]\d{1,2}")
CAS_2022 = re.compile(r"(sub\d{2})", re.IGNORECASE)
CLIP = re.compile(r"(CAS|SAMM)[-_ ]?(\d{1,2})", re.IGNORECASE)
SIZES = {"2022, long": 10, "2023 on, long": 30, "clips": 24}


class Megc(Adapter):
    """Test recordings of the challenges."""

    name = "megc"
    title = "the MEGC test sets (SAMM_data, CAS_data, ..._Test_cropped, ME_VQA_...)"
    fps = RATES["cas"]
    kind = "long"
    labelled = False
    rules = Rules(every_clip_coded=False)
    reference: ClassVar[dict[str, int]] = {}

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Every folder (or film) named as a test video; which sets these are is said."""
        specs: list[VideoSpec] = []
        sets: dict[str, int] = {}
        for folder in tree.sequences():
            found = recognised(tree, folder)
            if found is None:
                if folder.num_images:
                    report.drop(
                        folder.path or ".", "video", "unrecognised_folder", folder.first_image
                    )
                continue
            which, part, subject = found
            name = tree.names(folder)[-1]
            cropped = any("crop" in p.lower() for p in tree.parts(folder.path))
            sets[which] = sets.get(which, 0) + 1
            specs.append(
                VideoSpec(
                    subject,
                    self.person(f"{part}-{subject}"),
                    f"{part}/{name}",
                    folder.path,
                    RATES[part],
                    kind="clip" if which == "clips" else "long",
                    provided_crop=cropped,
                )
            )
        if not specs:
            raise no_videos(self, tree, report)
        report.variant["sets"] = "; ".join(
            f"{which}: {count} of {SIZES[which]}" for which, count in sorted(sets.items())
        )
        return specs

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """None: the truth of the test sets was never released."""
        return []


def recognised(tree: Tree, folder: Folder) -> tuple[str, str, str] | None:
    """(set, part, subject) of a folder of the test sets, None for any other."""
    *above, name = tree.names(folder)
    cas = any(re.match(r"cas(?!me2|meii)", p, re.IGNORECASE) for p in above)
    samm = SAMM_LONG.fullmatch(name)
    if samm:
        cropped = any(p.lower().startswith("samm_test") for p in above)
        return "2022, long" if cropped else "2023 on, long", "samm", samm[1]
    clip = CLIP.fullmatch(name)
    if clip:
        return "clips", clip[1].lower(), f"{clip[1].upper()}-{int(clip[2])}"
    early = CAS_2022.fullmatch(name)
    if early and cas:
        return "2022, long", "cas", early[1].lower()
    long = CAS_LONG.fullmatch(name)
    return ("2023 on, long", "cas", long[1]) if long else None


ADAPTER = Megc()
