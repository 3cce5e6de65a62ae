"""SMIC, the short clips: HS 100 fps, VIS and NIR 25 fps (Li et al. 2013, FG).

    SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559700.bmp ...
    SMIC_all_raw/NIR/s11/micro/positive/s11_po_01/07750.bmp ...
    SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image559700.bmp ...
    SMIC_all_raw/HS/s1/non_micro/...                            neutral clips, left aside

There is no sheet: a clip runs from onset to offset and its name carries the label. No apex, no
action units; where `SMIC-NIR-E_annotation.xlsx` lies beside the NIR clips and has a column `ApexF
NIR`, that apex is taken. The three cameras, and SMIC-E, show the same people.
"""

from __future__ import annotations

import re
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules
from data.datasets.grouping import no_videos
from data.datasets.listing import Folder, Tree
from data.datasets.parsing import Number, frame_number, text
from data.datasets.report import Report
from data.datasets.tables import TableLayout, optional_table

CLIP = re.compile(r"s(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)
CAMERA = re.compile(r"(?:^|[^a-z])(HS|VIS|NIR)(?![a-z])", re.IGNORECASE)
LONG = re.compile(r"_long$|SMIC[-_](HS|VIS|NIR)[-_]E$|^SMIC-E", re.IGNORECASE)
RATES = {"HS": 100.0, "VIS": 25.0, "NIR": 25.0}
EMOTIONS = {"ne": "negative", "po": "positive", "sur": "surprise"}

APEXES = TableLayout(
    {"clip": ("filename",), "apex": ("apexfnir", "apexnir")}, ("clip", "apex"), "clip", CLIP.pattern
)


class Smic(Adapter):
    """SMIC HS, VIS and NIR."""

    name = "smic"
    title = "SMIC (SMIC_all_raw or SMIC_all_cropped)"
    fps = RATES["HS"]
    identity_space = "smic"
    rules = Rules(apex_labelled=False)
    reference: ClassVar[dict[str, int]] = {
        "rows": 306,
        "HS clips": 164,
        "VIS clips": 71,
        "NIR clips": 71,
        "subjects": 16,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Clips by camera; raw frames win over the authors' crops, camera by camera."""
        clips = [f for f in tree.sequences() if CLIP.fullmatch(tree.names(f)[-1])]
        clips = [f for f in clips if not is_long(tree, f)]
        if not any(f.has_frames for f in clips):
            raise no_videos(self, tree)
        by_camera: dict[str, dict[bool, list[Folder]]] = {}
        for folder in clips:
            copies = by_camera.setdefault(camera_of(tree, folder), {})
            copies.setdefault(is_crop(tree, folder), []).append(folder)
        specs = []
        for camera, copies in sorted(by_camera.items()):
            crop = False not in copies
            report.variant[f"{camera}_frames"] = "cropped" if crop else "raw"
            if len(copies) > 1:
                report.variant[f"{camera}_also_present"] = "cropped"
            specs += [self.clip(tree, folder, camera, crop) for folder in copies[crop]]
        note_neutral(tree, report)
        return specs

    def clip(self, tree: Tree, folder: Folder, camera: str, crop: bool) -> VideoSpec:
        """One clip of one camera."""
        subject, name = names_of(tree, folder)
        return VideoSpec(
            subject,
            person_of(subject),
            f"{camera}/{name}",
            folder.path,
            RATES[camera],
            provided_crop=crop,
            trimmed=True,
        )

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """One event a clip, over all its frames."""
        rows = []
        apexes = self.apexes(tree, report) if any(n.startswith("NIR/") for n in videos) else {}
        for name, video in videos.items():
            match = CLIP.fullmatch(name.partition("/")[2])
            assert match is not None
            emotion = EMOTIONS[match[2].lower()]
            parent = video.spec.path.split("/")[-2:-1]
            if parent and parent[0].lower() in EMOTIONS.values() and parent[0].lower() != emotion:
                report.flag(
                    name, "event", "emotion_differs_from_folder", video.spec.folder,
                    column="emotion", old=emotion,
                )  # fmt: skip
            first, last = int(video.frames.numbers[0]), int(video.frames.numbers[-1])
            rows.append(
                Annotation(
                    who=name,
                    where="the clip's folder",
                    subject=video.spec.subject,
                    video=name,
                    event=name,
                    emotion=emotion,
                    onset=Number(first, "", str(first)),
                    apex=apexes.get(name) or Number(None, "not_labelled", ""),
                    offset=Number(last, "", str(last)),
                )
            )
        return rows

    def apexes(self, tree: Tree, report: Report) -> dict[str, Number]:
        """Video → apex of the NIR clips, from a sheet that has a column for it; mostly none."""
        table = optional_table(tree, APEXES, report, "apex_sheet")
        found: dict[str, Number] = {}
        for _, cells in table.records() if table else ():
            match = CLIP.fullmatch(text(cells["clip"]))
            number = frame_number(cells["apex"])
            if match and number.value is not None:
                found[f"NIR/s{int(match[1])}_{match[2].lower()}_{match[3]}"] = number
        return found


def is_long(tree: Tree, folder: Folder) -> bool:
    """Whether a folder belongs to SMIC-E, the long clips."""
    return any(LONG.search(part) for part in tree.parts(folder.path)[:-1])


def is_crop(tree: Tree, folder: Folder) -> bool:
    """Whether a folder holds the authors' registered crops."""
    if folder.first_image.lower().startswith("reg_"):
        return True
    said = [re.search("crop|raw", p, re.IGNORECASE) for p in reversed(tree.parts(folder.path))]
    nearest = next((m for m in said if m), None)
    return nearest is not None and nearest[0].lower() == "crop"


def camera_of(tree: Tree, folder: Folder) -> str:
    """HS, VIS or NIR from the folders above; HS files are called `image...`, the others not."""
    for part in reversed(tree.parts(folder.path)[:-1]):
        if found := CAMERA.search(part):
            return found[1].upper()
    return "HS" if "image" in folder.first_image.lower() else "VIS"


def names_of(tree: Tree, folder: Folder) -> tuple[str, str]:
    """(subject, clip) without padding: `s3`, `s3_ne_21`."""
    match = CLIP.fullmatch(tree.names(folder)[-1])
    assert match is not None
    subject = f"s{int(match[1])}"
    return subject, f"{subject}_{match[2].lower()}_{match[3]}"


def person_of(subject: str) -> str:
    """`smic:03` for s3 in HS, VIS, NIR and E."""
    return f"smic:{int(subject[1:]):02d}"


def note_neutral(tree: Tree, report: Report) -> None:
    """Say how many folders are left aside: neutral clips, and folders of no known name."""
    rest = [f for f in tree.leaves() if f.num_images]
    rest = [f for f in rest if not CLIP.fullmatch(tree.parts(f.path)[-1])]
    neutral = [f for f in rest if any("non_micro" in p.lower() for p in tree.parts(f.path))]
    if neutral:
        report.variant["non_micro"] = f"{len(neutral)} neutral clips, left aside"
    for folder in rest:
        if folder not in neutral:
            report.drop(folder.path or ".", "video", "unrecognised_folder", folder.first_image)


ADAPTER = Smic()
