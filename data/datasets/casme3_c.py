"""CAS(ME)^3 part C: the mock crime, one 30 fps video of about eight minutes a subject.

    part_C/01/a/color/373.jpg, part_C/01/a/depth/373.png
    CAS(ME)3_part_C_ME.xlsx        sheet mockCrimeME: micro-expressions, no apex
    CAS(ME)3_part_C.xls            another coding that disagrees: not used

Whether people of part C are also in part A is not known; they count as different people.
"""

from __future__ import annotations

import re
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules, numbers_of, read_units
from data.datasets.grouping import choose_group, group_by_pattern, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, frame_number, identifier, text
from data.datasets.report import Report
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table, optional_table

ROWS = TableLayout(
    {
        "subject": ("sub", "subject"),
        "count": ("count",),
        "onset": ("onset",),
        "offset": ("offset",),
        "aus": ("au", "aus"),
        "emotion": ("emotion",),
    },
    ("subject", "count", "onset", "offset", "emotion"),
    "subject",
    r"(?:sub(?:ject)?[ _-]*)?\d{1,2}",
)
ORGANISED = TableLayout(
    {"subject": ("subject",), "onset": ("onset",), "type": ("exptype",)},
    ("subject", "onset", "type"),
    "subject",
    r"\d{1,2}",
)
VARIANTS = [("depth", "depth"), ("part|colou?r", "color")]
PREFERRED = ["color", "depth"]


class Casme3C(Adapter):
    """CAS(ME)^3 part C."""

    name = "casme3_c"
    title = "CAS(ME)^3 part C"
    fps = 30.0
    kind = "long"
    rules = Rules(apex_labelled=False)
    reference: ClassVar[dict[str, int]] = {
        "rows": 165,
        "micro subjects": 30,
        "subjects": 31,
        "videos": 31,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders 01/a/color, or 01/a in copies without the level for depth."""
        raw = group_by_pattern(tree, (r"(\d{2})", r"[a-z]", r"colou?r"))
        depth = group_by_pattern(tree, (r"(\d{2})", r"[a-z]", r"depth"))
        flat = group_by_pattern(tree, (r"(\d{2})", r"[a-z]"))
        best = choose_group(self, tree, raw or flat, VARIANTS, PREFERRED, report)
        leave_out_strangers(tree, [*raw, *depth, *flat], best, report)
        if depth:
            report.variant["depth"] = f"{sum(len(g.folders) for g in depth)} folders, left aside"
        return [
            VideoSpec(
                names[0][1],
                self.person(names[0][1]),
                names[0][1],
                folder.path,
                self.fps,
                kind=self.kind,
            )
            for folder, names in best.folders
        ]

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the sheet `mockCrimeME`."""

        def score(table: Table) -> int:
            return sum(subject_of(c) in videos for _, c in table.records())

        table = choose_table(self, tree, ROWS, report, score)
        if optional_table(tree, ORGANISED, report, "organised_sheet") is not None:
            report.variant["organised_sheet"] += " (not used: it disagrees with the ME sheet)"
        return [
            read_row(cells, where, report) for where, cells in annotation_rows(table, ROWS, report)
        ]


def subject_of(cells: dict[str, Cell]) -> str:
    """`01` for the number 1, the text `01` or `sub01`."""
    return re.sub(r"^\D+", "", identifier(cells["subject"])).zfill(2)


def read_row(cells: dict[str, Cell], where: str, report: Report) -> Annotation:
    """One row; the event is `01_3`, the third of subject 01."""
    subject = subject_of(cells)
    count = text(cells["count"])
    event = f"{subject}_{count if count.isdigit() else frame_number(cells['onset']).value}"
    aus = read_units(cells.get("aus"), event, where, report)
    return Annotation(
        who=event,
        where=where,
        subject=subject,
        video=subject,
        event=event,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        **numbers_of(cells["onset"], None, cells["offset"]),
    )


ADAPTER = Casme3C()
