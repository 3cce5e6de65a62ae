"""CASME (I): 60 fps clips in two sections (Yan et al. 2013, FG).

    CASME_A/Section A/sub07/EP01_6/*.jpg      1280x720, whole clips
    CASME_raw_selected/sub01/EP01_12/*.jpg    onset..offset
    Cropped/sub01/EP01_12/*.jpg               the authors' face crops
    CASME-coded-20190721.xls

The columns `Onset` and `Total` are durations in milliseconds, not frames: they serve as a check.
`ApexF1` and `ApexF2` are the first and last frame of the apex phase: the apex is the frame in its
middle, as everywhere here. A third of the rows give one frame only.
"""

from __future__ import annotations

from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.casme2 import clip_specs, video_id
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import (
    choose_group,
    group_by_pattern,
    leave_out_strangers,
    same_variant,
)
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, frame_number, text
from data.datasets.report import Report
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table

CODING = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "onset": ("onsetf",),
        "apex": ("apexf1",),
        "apex_end": ("apexf2",),
        "offset": ("offsetf",),
        "total": ("total",),
        "aus": ("au", "aus", "actionunits"),
        "emotion": ("emotion", "estimatedemotion"),
    },
    ("subject", "clip", "onset", "apex", "offset", "emotion"),
    "clip",
    r"EP\d.*",
)
VARIANTS = [("crop", "Cropped"), ("select", "RAW_selected"), ("raw|section", "raw")]
PREFERRED = ["raw", "RAW_selected", "Cropped"]
FRAME_MS = 1000 / 60


class Casme(Adapter):
    """CASME."""

    name = "casme"
    title = "CASME"
    fps = 60.0
    reference: ClassVar[dict[str, int]] = {
        "rows": 193,
        "micro subjects": 19,
        "subjects": 19,
        "videos": 193,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders subNN/EP.. of both sections."""
        groups = group_by_pattern(tree, (r"sub(\d+)", r"EP\d.*"))
        best = choose_group(self, tree, groups, VARIANTS, PREFERRED, report)
        leave_out_strangers(tree, groups, best, report)
        sections = same_variant(groups, VARIANTS, report)
        return clip_specs(self, sections, report.variant["frames"])

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the coding sheet."""

        def score(table: Table) -> int:
            return sum(video_id(c) in videos for _, c in table.records())

        table = choose_table(self, tree, CODING, report, score)
        return [
            read_row(cells, where, report)
            for where, cells in annotation_rows(table, CODING, report)
        ]


def read_row(cells: dict[str, Cell], where: str, report: Report) -> Annotation:
    """One row; its duration in milliseconds is compared with its frames."""
    video = video_id(cells)
    aus = read_units(cells.get("aus"), video, where, report)
    apex = cells["apex"]
    first, end = (frame_number(cells.get(name)).value for name in ("apex", "apex_end"))
    if first is not None and end is not None and end > first:
        apex = (first + end) // 2
    numbers = numbers_of(cells["onset"], apex, cells["offset"])
    onset, offset = numbers["onset"].value, numbers["offset"].value
    total = cells.get("total")
    if isinstance(total, str):
        total = frame_number(total).value
    if onset and offset and total and abs((offset - onset + 1) * FRAME_MS - total) > FRAME_MS:
        report.flag(
            video, "event", "total_differs",
            f"{where}: {offset - onset + 1} frames, {total:.0f} ms", column="Total",
            old=text(cells.get("total")),
        )  # fmt: skip
    return Annotation(
        who=video,
        where=where,
        subject=video.partition("/")[0],
        video=video,
        event=video,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        **numbers,
    )


ADAPTER = Casme()
