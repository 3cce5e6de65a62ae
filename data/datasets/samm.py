"""SAMM micro-expression clips: 200 fps, grey (Davison et al. 2018, IEEE T. Affective Computing 9).

    SAMM/006/006_1_2/006_05562.jpg ...    onset..offset; the number is the frame in the recording,
                                          4 or 5 digits depending on the recording
    SAMM_Micro_FACS_Codes_v2.xlsx         13 rows of prose, then the header

SAMM and SAMM Long Videos show the same people: their `person` is `samm:006` in both.
"""

from __future__ import annotations

from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import choose_group, group_by_pattern, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, identifier, objective_class, text
from data.datasets.report import Report
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table

CLIP = r"\d{3}_\d+_\d+"
CODES = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "onset": ("onsetframe", "onset"),
        "apex": ("apexframe", "apex"),
        "offset": ("offsetframe", "offset"),
        "type": ("micro", "type"),
        "aus": ("actionunits", "actionunit", "au"),
        "emotion": ("estimatedemotion", "emotion"),
        "class": ("objectiveclasses", "objectiveclass"),
    },
    ("clip", "onset", "apex", "offset", "emotion"),
    "clip",
    CLIP,
)
VARIANTS = [("crop", "cropped"), ("samm", "original")]
PREFERRED = ["original", "cropped"]


class Samm(Adapter):
    """SAMM, the micro-expression clips."""

    name = "samm"
    title = "SAMM"
    fps = 200.0
    identity_space = "samm"
    reference: ClassVar[dict[str, int]] = {
        "rows": 159,
        "micro subjects": 29,
        "subjects": 29,
        "videos": 159,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders 006/006_1_2; the subject is read from the clip's own name."""
        clip = r"(\d{3})_\d+_\d+"
        return recordings(self, tree, clip, report)

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the sheet `MICRO_ONLY`."""

        def score(table: Table) -> int:
            return sum(text(c["clip"]) in videos for _, c in table.records())

        table = choose_table(self, tree, CODES, report, score)
        return [
            read_row(cells, where, report) for where, cells in annotation_rows(table, CODES, report)
        ]


def recordings(adapter: Adapter, tree: Tree, pattern: str, report: Report) -> list[VideoSpec]:
    """Folders named `pattern` (its group 1 is the subject), with or without a subject folder
    above: the clips of SAMM and the videos of SAMM Long Videos."""
    groups = group_by_pattern(tree, (r"\d{3}", pattern)) or group_by_pattern(tree, (pattern,))
    best = choose_group(adapter, tree, groups, VARIANTS, PREFERRED, report)
    leave_out_strangers(tree, groups, best, report)
    return [
        VideoSpec(
            names[-1][1],
            adapter.person(names[-1][1]),
            names[-1][0],
            folder.path,
            adapter.fps,
            kind=adapter.kind,
            provided_crop=report.variant["frames"] == "cropped",
            trimmed=adapter.kind == "clip",
        )
        for folder, names in best.folders
    ]


def read_row(cells: dict[str, Cell], where: str, report: Report) -> Annotation:
    """One row of the SAMM sheet."""
    clip = text(cells["clip"])
    aus = read_units(cells.get("aus"), clip, where, report)
    return Annotation(
        who=clip,
        where=where,
        subject=identifier(clip.partition("_")[0], 3),
        video=clip,
        event=clip,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        objective=objective_class(cells.get("class")),
        **numbers_of(cells["onset"], cells["apex"], cells["offset"]),
    )


ADAPTER = Samm()
