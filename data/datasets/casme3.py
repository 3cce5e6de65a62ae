"""CAS(ME)^3 part A: 30 fps RGB-D long videos (Li et al. 2022, IEEE TPAMI, TPAMI.2022.3174895).

    part_A/spNO.1/a/color/175.jpg, .../depth/175.png      long videos, numbers not padded
    Part_A_ME_clip/frame/spNO.1_b_166/166.jpg             one clip a micro-expression
    cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx             860 micro-expressions, all cells text
    cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx    macro-expressions with emotions
    CAS(ME)3_part_A_v2.xls                                both without emotions, and the blinks

Videos are letters a..m; one is an upper-case `J`. Several events share (Subject, Filename): the key
has the onset too, after corrections. Depth frames are left aside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import choose_group, group_by_pattern, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Tree
from data.datasets.parsing import Cell, objective_class, text
from data.datasets.report import Report, corrections
from data.datasets.sheets import Sheet, Table, find_sheets
from data.datasets.tables import TableLayout, annotation_rows, near_misses, no_sheet
from data.datasets.versions import compare, is_copy

SUBJECT = r"spNO\.?\s*(\d+)"
LABELS = TableLayout(
    {
        "subject": ("subject",),
        "video": ("filename",),
        "onset": ("onset",),
        "apex": ("apex",),
        "offset": ("offset",),
        "aus": ("au", "aus"),
        "type": ("expressiontype",),
        "class": ("objectiveclass",),
        "emotion": ("emotion",),
    },
    ("subject", "video", "onset", "offset"),
    "subject",
    SUBJECT,
)
VARIANTS = [("depth", "depth"), ("part|colou?r", "color")]
PREFERRED = ["color", "depth"]
ROWS = {"micro": {860: "v2", 921: "v1"}, "macro": {3346: "v2"}, "blink": {841: "v2"}}


@dataclass(frozen=True)
class Source:
    """A table and the kinds of event to take from it."""

    table: Table
    kind: str  # micro | macro | blink | both
    version: int


class Casme3(Adapter):
    """CAS(ME)^3 part A."""

    name = "casme3"
    title = "CAS(ME)^3 part A"
    fps = 30.0
    kind = "long"
    reference: ClassVar[dict[str, int]] = {
        "micro rows": 860,
        "micro subjects": 94,
        "micro videos": 463,
        "macro rows": 3346,
        "macro subjects": 98,
        "blink rows": 841,
        "blink subjects": 13,
        "subjects": 100,
        "videos": 1300,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders spNO.1/a/color (or spNO.1/a), else the clips spNO.1_b_166."""
        raw = group_by_pattern(tree, (SUBJECT, r"[a-m]", r"colou?r"))
        depth = group_by_pattern(tree, (SUBJECT, r"[a-m]", r"depth"))
        flat = group_by_pattern(tree, (SUBJECT, r"[a-m]"))
        clips = group_by_pattern(tree, (SUBJECT + r"_([a-m])_(\d+)",))
        groups = [g for g in raw or flat if any(f.has_frames for f, _ in g.folders)]
        if depth:
            report.variant["depth"] = f"{sum(len(g.folders) for g in depth)} folders, left aside"
        if groups:
            best = choose_group(self, tree, groups, VARIANTS, PREFERRED, report)
            leave_out_strangers(tree, [*raw, *depth, *flat, *clips], best, report)
            return [self.long_video(folder.path, m) for folder, m in best.folders]
        best = choose_group(self, tree, clips, VARIANTS, PREFERRED, report)
        report.variant["frames"] += " clips"
        used = [g for g in clips if "depth" not in g.root.lower()] or [best]
        return [self.clip(folder.path, m[0]) for g in used for folder, m in g.folders]

    def long_video(self, path: str, names: list[re.Match[str]]) -> VideoSpec:
        """A long video from its folder names; the letter keeps its case."""
        subject = f"spNO.{int(names[0][1])}"
        video = f"{subject}/{names[1][0]}"
        return VideoSpec(subject, self.person(subject), video, path, self.fps, kind="long")

    def clip(self, path: str, name: re.Match[str]) -> VideoSpec:
        """A clip cut around one expression; its name ends in the onset."""
        subject = f"spNO.{int(name[1])}"
        video = f"{subject}_{name[2]}_{name[3]}"
        crop = "crop" in path.lower()
        return VideoSpec(
            subject, self.person(subject), video, path, self.fps, provided_crop=crop, trimmed=True
        )

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Micro- and macro-expressions with emotions where there are any, and blinks."""
        clips = not any("/" in name for name in videos)
        rows: list[Annotation] = []
        for kind, source in choose_sources(self, tree, report).items():
            found = read_source(source, kind, clips, report)
            version = ROWS[kind].get(len(found), f"v{source.version or '?'}")
            report.variant[f"{kind}_sheet"] = (
                f"{source.table.describe()}: {len(found)} rows, {version}"
            )
            if kind == "micro" and version == "v1":
                report.flag(
                    source.table.sheet.where, "file", "old_sheet_version",
                    "61 of the 921 rows of v1 became macro-expressions in v2",
                )  # fmt: skip
            rows += found
        for name in sorted({r.video for r in rows if re.search(r"/[A-Z]$", r.video)}):
            report.flag(name, "video", "upper_case_video", "every other video is a small letter")
        return rows


def choose_sources(adapter: Adapter, tree: Tree, report: Report) -> dict[str, Source]:
    """The sheet for each kind of event: label sheets with emotions first, newest version first.

    Raises DatasetError without any sheet of micro-expressions.
    """
    search = find_sheets(tree, recognise)
    for error in search.damaged:
        report.flag(error.who, "file", error.code, error.got)
    sources: list[Source] = sorted(search.found, key=rank, reverse=True)
    chosen: dict[str, Source] = {}
    for kind in ("micro", "macro", "blink"):
        wanted = [s for s in sources if s.kind == kind] or (
            [s for s in sources if s.kind == "both"] if kind != "blink" else []
        )
        if wanted:
            chosen[kind] = wanted[0]
    if "micro" not in chosen:
        raise no_sheet(adapter, tree, search, LABELS.required, near_misses(tree, LABELS))
    used = {s.table.sheet.where for s in chosen.values()}
    if unused := [s.table.sheet.where for s in sources if s.table.sheet.where not in used]:
        report.variant["sheets_also_present"] = "; ".join(unused)
    for source in sources:  # lists of one kind and release should say the same
        best = chosen.get(source.kind)
        if best in (None, source) or best.version != source.version or is_list(source):
            continue
        if said := compare(best.table, source.table, LABELS.has):
            report.flag(
                source.table.sheet.where, "file", "sheets_differ",
                f"{best.table.sheet.where} is used; {said}",
            )  # fmt: skip
    return chosen


def is_list(source: Source) -> bool:
    """Whether a sheet lists wrong rows or folds, not annotations."""
    return bool(re.search("wrong|error|fold", source.table.sheet.path.name, re.IGNORECASE))


def rank(source: Source) -> tuple[bool, bool, int, bool, bool, str]:
    """Workbooks before CSV copies, no error lists, newer before older, with emotions if any, plain
    names before copies."""
    sheet = source.table.sheet
    emotions = "emotion" in source.table.columns
    plain = not is_copy(sheet.path)
    return (
        sheet.path.suffix != ".csv",
        not is_list(source),
        source.version,
        emotions,
        plain,
        sheet.where,
    )


def recognise(sheet: Sheet) -> Source | None:
    """What a sheet holds: by its columns, and for label sheets by the file's name."""
    table = LABELS.accept(sheet)
    if table is None:
        return None
    name = sheet.path.name.lower()
    found = re.search(r"v(\d)", name)
    version = int(found[1]) if found else 0
    if "apex" not in table.columns:
        return Source(table, "blink", version)
    if "type" in table.columns:
        kinds = {kind_of(cells["type"]) for _, cells in table.records()}
        return Source(table, kinds.pop() if len(kinds) == 1 else "both", version)
    return Source(table, "macro" if re.search("mae|macro", name) else "micro", version)


def read_source(source: Source, kind: str, clips: bool, report: Report) -> list[Annotation]:
    """Rows of one kind."""
    rows = []
    for where, cells in annotation_rows(source.table, LABELS, report):
        if source.kind != "both" or kind_of(cells["type"]) == kind:
            rows.append(read_row(cells, kind, where, clips, report))
    return rows


def kind_of(cell: Cell) -> str:
    """micro or macro, from the column `Expression type`."""
    return "micro" if text(cell).lower().startswith("micro") else "macro"


def read_row(
    cells: dict[str, Cell], kind: str, where: str, clips: bool, report: Report
) -> Annotation:
    """One event; its id is `spNO.1_b_166`, with the kind behind it unless micro."""
    digits = re.search(r"\d+", text(cells["subject"]))
    subject = f"spNO.{int(digits[0])}" if digits else text(cells["subject"])
    letter, onset = text(cells["video"]), text(cells["onset"])
    ending = "" if kind == "micro" else f"_{kind}"
    who = f"{subject}/{letter}_{onset}{ending}"
    fix = corrections("casme3").get((who, "onset", onset))
    aus = read_units(cells.get("aus"), who, where, report)
    numbers = numbers_of(cells["onset"], cells.get("apex"), cells["offset"])
    if kind == "blink":  # blinks have no apex column: nothing is missing
        numbers["apex"] = replace(numbers["apex"], note="not_labelled")
    return Annotation(
        who=who,
        where=where,
        subject=subject,
        video=f"{subject}_{letter}_{onset}" if clips else f"{subject}/{letter}",
        event=f"{subject}_{letter}_{fix.new if fix else onset}{ending}",
        type=kind,
        aus=aus,
        emotion=normalise_emotion(text(cells.get("emotion"))),
        objective=objective_class(cells.get("class")),
        **numbers,
    )


ADAPTER = Casme3()
