"""SAMM Long Videos: 200 fps, macro- and micro-expressions (Yap et al. 2020, arXiv 1911.01519).

    SAMM_longvideos/006_1/006_1_0001.jpg ...   flat; numbered from 1, 4 or 5 digits by video
    SAMM_LongVideos_V*_Release.xlsx            prose, header in row 10, no emotions
    SAMM_Micro_FACS_Codes_v2.xlsx              emotions of the micro-expressions

The frame numbers of the two sheets have different origins: labels are joined on (Filename, Type),
frames never. `037_4_1` names a macro- and a micro-expression.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, objective_class, text
from data.datasets.report import Report
from data.datasets.samm import CLIP, CODES, recordings
from data.datasets.sheets import Table
from data.datasets.tables import TableLayout, annotation_rows, choose_table, optional_table

MOVEMENTS = TableLayout(
    {
        "subject": ("subject",),
        "clip": ("filename",),
        "onset": ("onset", "onsetframe"),
        "apex": ("apex", "apexframe"),
        "offset": ("offset", "offsetframe"),
        "type": ("type",),
        "aus": ("actionunits", "actionunit", "au"),
    },
    ("clip", "onset", "apex", "offset", "type"),
    "clip",
    CLIP,
)


class SammLongVideos(Adapter):
    """SAMM Long Videos."""

    name = "samm_lv"
    title = "SAMM Long Videos"
    fps = 200.0
    kind = "long"
    identity_space = "samm"
    reference: ClassVar[dict[str, int]] = {
        "rows": 502,
        "micro rows": 159,
        "macro rows": 343,
        "micro subjects": 29,
        "micro videos": 79,
        "subjects": 30,
        "videos": 147,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders 006_1, with or without a subject folder above them."""
        return recordings(self, tree, r"(\d{3})_\d+", report)

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the movements sheet with the micro-expressions' emotions joined on."""

        def score(table: Table) -> int:
            return sum(video_of(text(c["clip"])) in videos for _, c in table.records())

        table = choose_table(self, tree, MOVEMENTS, report, score)
        emotions = read_emotions(tree, report)
        names = Counter(text(c["clip"]) for _, c in table.records() if MOVEMENTS.fits(c["clip"]))
        for name in sorted(n for n, count in names.items() if count > 1):
            report.repair(
                name, "event", "repeated_key", f"{names[name]} rows; the key is (Filename, Type)",
                column="event", old=name, new=f"{name}_macro, {name}_micro", source="column Type",
            )  # fmt: skip
        rows = [
            read_row(cells, where, names[text(cells["clip"])] > 1, emotions, report)
            for where, cells in annotation_rows(table, MOVEMENTS, report)
        ]
        unlabelled = [r.event for r in rows if r.type == "micro" and r.emotion is None]
        if not emotions:
            report.variant["emotions"] = "none: the SAMM v2 sheet is not there"
            report.flag(
                table.sheet.path.name, "file", "no_emotion_sheet",
                "it names no emotions: add SAMM_Micro_FACS_Codes_v2.xlsx",
            )  # fmt: skip
        else:
            for event in unlabelled:
                report.flag(event, "event", "no_emotion_label", "not in the SAMM v2 sheet")
        return rows


def video_of(clip: str) -> str:
    """`006_1` of `006_1_2`."""
    return clip.rpartition("_")[0]


def kind_of(cell: Cell) -> str:
    """micro for `Micro - 1/2`, else macro."""
    return "micro" if text(cell).lower().startswith("micro") else "macro"


def read_emotions(tree: Tree, report: Report) -> dict[str, tuple[str | None, int | None]]:
    """(emotion, objective class) of the micro-expressions by clip name."""
    table = optional_table(tree, CODES, report, "emotion_sheet")
    if table is None:
        return {}
    return {
        text(c["clip"]): (
            normalise_emotion(text(c["emotion"])),
            objective_class(c.get("class")),
        )
        for _, c in table.records()
        if CODES.fits(c["clip"]) and kind_of(c.get("type", "Micro")) == "micro"
    }


def read_row(
    cells: dict[str, Cell],
    where: str,
    repeated: bool,
    emotions: dict[str, tuple[str | None, int | None]],
    report: Report,
) -> Annotation:
    """One row of the movements sheet; a name used twice gets its type appended."""
    clip, kind = text(cells["clip"]), kind_of(cells["type"])
    event = f"{clip}_{kind}" if repeated else clip
    aus = read_units(cells.get("aus"), event, where, report)
    emotion, objective = emotions.get(clip, (None, None)) if kind == "micro" else (None, None)
    return Annotation(
        who=event,
        where=where,
        subject=clip.partition("_")[0],
        video=video_of(clip),
        event=event,
        type=kind,
        aus=aus,
        emotion=emotion,
        objective=objective,
        **numbers_of(cells["onset"], cells["apex"], cells["offset"]),
    )


ADAPTER = SammLongVideos()
