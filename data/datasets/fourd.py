"""4DME, the grey micro-expression clips: 60 fps (Li et al. 2022, IEEE T. Affective Computing).

    4DMicro/gray_micro/<sub_ID>/<fold_name>/<frames>
    4DMicro/gray_micro_crop/<sub_ID>/<fold_name>/<frames>
    4DME_Labelling_Micro_release v1.xlsx
or
    micro_short_gray_video/micro short gray video/S08/S08_002_01_1/Frame_000001831.jpg
    macro_short_gray_video/..., long_gray_video/...             left aside
    Micro and Macro-expression labels.xlsx

Frames keep the numbers of the recording. A person filmed in several sessions (`S30_1`, `S30_2`) is
one person. Folder names follow no grammar that is known for sure: they are taken from the sheet.
Emotions may be combined ("Surprise+Positive"); a combined one has a class only where its parts
agree. Units marked (k) are held through the clip and are kept apart from those that move.

Two neighbouring rows of the released sheet are said to be exchanged from the column AUs rightwards.
Each stays consistent in itself, so that nothing in the sheet shows it and nothing is done here;
an exchange of the 0/1 columns alone contradicts the text of the row and is flagged.
"""

from __future__ import annotations

import re
from typing import ClassVar

from data.datasets.action_units import unit_numbers
from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, numbers_of, read_units
from data.datasets.grouping import FolderGroup, choose_group, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Folder, Tree
from data.datasets.parsing import Cell, text
from data.datasets.report import Report
from data.datasets.sheets import Table, header_word
from data.datasets.tables import TableLayout, choose_table, note_shape

ROWS = TableLayout(
    {
        "subject": ("subid", "subject", "sub"),
        "clip": ("foldname", "foldername", "filename"),
        "onset": ("onset", "onsetframe", "firstframe"),
        "apex": ("apex", "apexframe"),
        "offset": ("offset", "offsetframe", "lastframe"),
        "aus": ("aus", "au", "actionunits"),
        "emotion": ("emotion", "emotions", "emotionlabel", "estimatedemotion"),
    },
    ("subject", "clip", "onset", "apex", "offset", "emotion"),
    "clip",
    r".+",
)
CLASSES = ("positive", "negative", "surprise", "repression", "others")
VARIANTS = [
    ("macro", "macro clips"),
    ("long", "long videos"),
    ("crop", "gray_micro_crop"),
    ("rgb|colou?r", "rgb"),
    ("depth", "depth"),
    ("gr[ae]y", "gray"),
]
PREFERRED = ["gray", "gray_micro_crop", "rgb", "depth", "macro clips", "long videos"]
SESSION = re.compile(r"(S\d+)_\d+", re.IGNORECASE)
FOR_CODERS = "images for annotation"
MERGED = {"negative", "repression"}  # parts that the merged map calls negative together


class FourD(Adapter):
    """4DME."""

    name = "4dme"
    title = "4DME"
    fps = 60.0
    reference: ClassVar[dict[str, int]] = {"rows": 267, "subjects": 41, "videos": 267}

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Leaf folders named as in the sheet's column fold_name."""
        subjects = {text(c["clip"]): text(c["subject"]) for _, c in self.table(tree).records()}
        folded = {name.casefold(): name for name in subjects}
        groups: dict[tuple[str, ...], FolderGroup] = {}
        for folder in tree.sequences():
            parts = tree.names(folder)
            name = folded.get(parts[-1].casefold())
            if name is None:
                continue
            above = len(parts) > 1 and parts[-2].casefold() == subjects[name].casefold()
            head = parts[: -2 if above else -1]
            group = groups.setdefault(head, FolderGroup("/".join(head[1:]), head))
            match = re.fullmatch(".*", name)
            group.folders.append((folder, [match] if match else []))
        found = list(groups.values())
        best = choose_group(self, tree, found, VARIANTS, PREFERRED, report)
        aside = FolderGroup(
            "", (), folders=[(f, []) for f in tree.leaves() if is_for_coders(tree, f)]
        )
        if aside.folders:
            report.variant["coders_images"] = f"{len(aside.folders)} folders left aside"
        leave_out_strangers(tree, [*found, aside], best, report)
        crop = report.variant["frames"] == "gray_micro_crop"
        return [
            VideoSpec(
                subjects[name[0]],
                self.person(one_person(subjects[name[0]])),
                f"{subjects[name[0]]}/{name[0]}",
                folder.path,
                self.fps,
                provided_crop=crop,
                trimmed=True,
            )
            for folder, (name,) in best.folders
        ]

    def table(self, tree: Tree, report: Report | None = None) -> Table:
        """The sheet with most rows among those that fit."""
        return choose_table(
            self, tree, ROWS, report or Report(self.name), lambda t: len(list(t.records()))
        )

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the sheet; the 0/1 columns are compared with the text they repeat."""
        table = self.table(tree, report)
        header = [header_word(c) for c in table.sheet.rows[table.header]]
        units = {i: int(w[2:]) for i, w in enumerate(header) if re.fullmatch(r"au\d+", w)}
        classes = {i: w for i, w in enumerate(header) if w in CLASSES}
        rows, macro = [], 0
        others = other_clips(tree, videos)
        note_shape(table, report)
        for number, cells in table.records():
            if text(cells["clip"]).casefold() in others:
                macro += 1
                continue
            where = f"{table.sheet.where}, row {number}"
            row = read_row(cells, where, report)
            line = table.sheet.rows[number - 1]
            marked = {n for i, n in units.items() if i < len(line) and text(line[i]) == "1"}
            if units and marked != unit_numbers(row.aus, kept=True):
                said = unit_numbers(row.aus)
                if marked != said:  # copies with the held units already zeroed are fine too
                    report.flag(row.who, "event", "au_columns_differ", f"{where}: {row.aus}")
            named = {w for i, w in classes.items() if i < len(line) and text(line[i]) == "1"}
            if classes and named != set((row.emotion or "").split("+")) - {""}:
                report.flag(
                    row.who, "event", "emotion_columns_differ", f"{where}: {row.emotion}",
                    column="emotion", old="+".join(sorted(named)),
                )  # fmt: skip
            rows.append(row)
        if macro:
            report.variant["macro_rows"] = f"{macro} rows of macro clips, left aside"
        merged = sum(merged_label(row.emotion) is not None for row in rows)
        report.variant["label_3"] = (
            f"combined emotions where their parts agree; {merged} of {len(rows)} clips under the "
            "merged map (data.datasets.fourd.merged_label)"
        )
        return rows


def one_person(subject: str) -> str:
    """`S30` of the sessions S30_1 and S30_2."""
    session = SESSION.fullmatch(subject)
    return session[1] if session else subject


def is_for_coders(tree: Tree, folder: Folder) -> bool:
    """Whether a folder holds the pictures that the coders looked at, no clip."""
    return any(p.replace("_", " ").casefold() == FOR_CODERS for p in tree.parts(folder.path))


def other_clips(tree: Tree, videos: dict[str, ListedVideo]) -> set[str]:
    """Clips of macro-expressions: in a folder called so, and not among the videos."""
    used = {name.rpartition("/")[2].casefold() for name in videos}
    macro = {
        tree.names(f)[-1].casefold()
        for f in tree.sequences()
        if any("macro" in p.casefold() for p in tree.names(f)[1:-1])
    }
    return macro - used


def merged_label(emotion: str | None) -> str | None:
    """The other three-class map in use, which keeps combined emotions (206 clips).

    Anything with a surprise is surprise; positive, also with repression, is positive; negative and
    repression, alone or together, are negative; the rest has no class.
    """
    parts = set((emotion or "").split("+")) - {""}
    if "surprise" in parts:
        return "surprise"
    if "positive" in parts and parts <= {"positive", "repression"}:
        return "positive"
    return "negative" if parts and parts <= MERGED else None


def read_row(cells: dict[str, Cell], where: str, report: Report) -> Annotation:
    """One row of the sheet."""
    subject, clip = text(cells["subject"]), text(cells["clip"])
    video = f"{subject}/{clip}"
    aus = read_units(cells.get("aus"), video, where, report)
    return Annotation(
        who=video,
        where=where,
        subject=subject,
        video=video,
        event=video,
        aus=aus,
        emotion=normalise_emotion(text(cells["emotion"])),
        **numbers_of(cells["onset"], cells["apex"], cells["offset"]),
    )


ADAPTER = FourD()
