"""CASME II: 200 fps clips, one micro-expression each (Yan et al. 2014, PLoS ONE 9:e86041).

    CASME2-RAW/sub01/EP02_01f/img1.jpg ...             whole clip, numbered from 1
    CASME2_RAW_selected/sub01/EP02_01f/img46.jpg ...   onset..offset, numbers kept
    Cropped/sub01/EP02_01f/reg_img46.jpg ...           the authors' registered face crops
    CASME2-coding-*.xlsx, CASME2-ObjectiveClasses.xlsx

Clip names repeat between subjects and follow no strict grammar (`EP09f`, `EP06_02_01`).
"""

from __future__ import annotations

import re
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import FolderGroup, choose_group, group_by_pattern, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, identifier, objective_class, text
from data.datasets.report import Report
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table, optional_table
from data.datasets.versions import note_others

CODING = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "onset": ("onsetframe", "onset"),
        "apex": ("apexframe", "apex"),
        "offset": ("offsetframe", "offset"),
        "aus": ("actionunits", "actionunit", "au", "aus"),
        "emotion": ("estimatedemotion", "emotion"),
        "class": ("objectiveclasses", "objectiveclass"),
    },
    ("subject", "clip", "onset", "apex", "offset", "emotion"),
    "clip",
    r"EP\d.*",
)
OBJECTIVE = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "class": ("objectiveclass", "objectiveclasses"),
    },
    ("subject", "clip", "class"),
    "clip",
    r"EP\d.*",
)
VARIANTS = [("crop", "Cropped"), ("select", "RAW_selected"), ("raw", "RAW")]
PREFERRED = ["RAW", "RAW_selected", "Cropped"]
VERSIONS = {247: "2013 paper", 255: "2014", 256: "updated"}
# the 2019 release calls these clips surprise, every other one sadness
RELABELLED = ("sub24/EP07_01", "sub24/EP07_04f", "sub24/EP10_03")


DIFFERENCES_2019 = (
    "against the 2014 sheet: 3 clips of sub24 surprise instead of sadness (surprise 28, sadness "
    "4), action units of 57 clips, objective classes of 37; no frame number. The MEGC2019 list "
    "uses the emotions of 2014: this sheet gives 148 clips where the list has 145"
)


class Casme2(Adapter):
    """CASME II."""

    name = "casme2"
    title = "CASME II"
    fps = 200.0
    reference: ClassVar[dict[str, int]] = {
        "rows": 255,
        "micro subjects": 26,
        "subjects": 26,
        "videos": 255,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders subNN/EP..; the raw clips win over the selected ones, those over the crops."""
        groups = group_by_pattern(tree, (r"sub(\d+)", r"EP\d.*"))
        best = choose_group(self, tree, groups, VARIANTS, PREFERRED, report)
        leave_out_strangers(tree, groups, best, report)
        return clip_specs(self, [best], report.variant["frames"])

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the coding sheet, objective classes joined on (subject, clip)."""

        def score(table: Table) -> int:
            return sum(video_id(c) in videos for _, c in table.records())

        table = choose_table(self, tree, CODING, report, score)
        objective = read_objective(tree, table, report)
        rows = [
            read_row(cells, where, objective, report)
            for where, cells in annotation_rows(table, CODING, report)
        ]
        version = version_of(table, rows)
        report.variant["sheet_version"] = version
        if version == "2019":
            report.variant["sheet_differences"] = DIFFERENCES_2019
        return rows


def clip_specs(adapter: Adapter, groups: list[FolderGroup], variant: str) -> list[VideoSpec]:
    """Clips subNN/EP.. as CASME and CASME II file them; only whole ones reach past the event."""
    specs = []
    for folder, (subject, clip) in (item for group in groups for item in group.folders):
        person = f"sub{int(subject[1]):02d}"
        specs.append(
            VideoSpec(
                person,
                adapter.person(person),
                f"{person}/{clip[0]}",
                folder.path,
                adapter.fps,
                provided_crop=variant == "Cropped",
                trimmed=variant in ("RAW_selected", "Cropped"),
            )
        )
    return specs


def video_id(cells: dict[str, Cell]) -> str:
    """`sub01/EP02_01f`, whether the subject cell is the text `01`, `sub01` or the number 1."""
    subject = re.sub(r"^sub(ject)?[ _-]*", "", text(cells["subject"]), flags=re.IGNORECASE)
    return f"sub{identifier(subject, 2)}/{text(cells['clip'])}"


def version_of(table: Table, rows: list[Annotation]) -> str:
    """The release of a coding sheet, by its contents: three relabelled clips, else a column of its
    own for objective classes (both came in 2019), else the number of rows."""
    emotions = {row.emotion for row in rows if row.video in RELABELLED}
    if emotions == {"surprise"} or (not emotions and "class" in table.columns):
        return "2019"
    if emotions and emotions != {"sadness"}:
        said = ", ".join(sorted(map(str, emotions)))
        return f"unknown: {', '.join(RELABELLED)} are {said}"
    return VERSIONS.get(len(rows), f"unknown, {len(rows)} rows")


def read_objective(tree: Tree, coding: Table, report: Report) -> dict[str, int]:
    """Objective class by video id, from the coding sheet's own column or the other workbook.

    Empty without either; where both are there and disagree, that is flagged.
    """
    table = optional_table(tree, OBJECTIVE, report, "objective_sheet", other_than=CODING)
    classes: dict[str, int] = {}
    if "class" in coding.columns:
        report.variant["objective_sheet"] = f"{coding.sheet.where}: its own column"
        note_others(coding, [table] if table else [], CODING.has, report, "objective_sheet")
        table = coding
    if table is None:
        report.flag(
            "CASME2-ObjectiveClasses.xlsx", "file", "no_objective_sheet",
            "events have no objective class without it",
        )  # fmt: skip
        return classes
    for _, cells in table.records():
        value = objective_class(cells["class"])
        if value is not None and CODING.fits(cells["clip"]):
            classes[video_id(cells)] = value
    return classes


def read_row(
    cells: dict[str, Cell], where: str, objective: dict[str, int], report: Report
) -> Annotation:
    """One row of the coding sheet."""
    video = video_id(cells)
    aus = read_units(cells.get("aus"), video, where, report)
    return Annotation(
        who=video,
        where=where,
        subject=video.partition("/")[0],
        video=video,
        event=video,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        objective=objective.get(video),
        **numbers_of(cells["onset"], cells["apex"], cells["offset"]),
    )


ADAPTER = Casme2()
