"""DFME: micro-expressions of 656 people at 200, 300 and 500 fps (Zhao et al., arXiv 2301.00985).

    train_data/train_data/sub0003_01/00000.png ...        the challenge subset of 2024, whole frames
    test_data_A/..., test_data_B/..., CCAC2024.xlsx, ..._withstart.csv, ..._with_AU.xlsx
    USTC_MEv4_partD_sub0301_sub0671_500fps/micro/<emotion>/<Filename>/<frames>     the full release
    DFME_data_coding.xlsx

A clip is known by its folder's name, anywhere. Several sheets may lie side by side (train, both
tests, without and with labels): of a clip the row of the sheet with most columns is used, and what
it leaves blank comes from the others; where two differ, the ledger says so. The frame rate is the
sheet's, else the folder's; the letters of the zip parts are not the paper's groups.
Numeric emotion ids are in two orders in circulation; they are read only where the counts of a whole
training sheet tell which is which.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules, read_units
from data.datasets.grouping import no_videos
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Folder, Tree
from data.datasets.parsing import MISSING, Cell, Number, frame_number, real_number, text
from data.datasets.report import Report
from data.datasets.sheets import Table, find_sheets, header_word
from data.datasets.tables import TableLayout, annotation_rows, near_misses, no_sheet
from data.datasets.versions import by_choice, meaning

CLIP = re.compile(r"(sub\d{4})(?:_\d+)+", re.IGNORECASE)
PART = re.compile(r"USTC_MEv\d+_part[A-D]_sub\d+_sub\d+(?:_(\d+)fps)?", re.IGNORECASE)
ROWS = TableLayout(
    {
        "subject": ("subject", "subid"),
        "clip": ("filename",),
        "onset": ("onsetframe", "onset", "startframe", "start"),
        "apex": ("apexframe", "apex"),
        "offset": ("offsetframe", "offset", "endframe", "end"),
        "emotion": ("emotion", "estimatedemotion", "label"),
        "id": ("emotionid",),
        "fps": ("fps", "framerate"),
        "aus": ("actionunits", "aus", "au"),
    },
    ("clip",),
    "clip",
    CLIP.pattern,
)
USUAL_FPS = 200.0  # of 5,439 of the 7,526 clips
# clips of each class in the training sheet: all different, so that counts tell the order of ids
TRAIN = {"anger": 161, "contempt": 100, "disgust": 548, "fear": 265, "happiness": 206,
         "sadness": 278, "surprise": 298}  # fmt: skip
Rows = dict[str, tuple[str, dict[str, Cell]]]


class Dfme(Adapter):
    """DFME, the challenge subset and the full release."""

    name = "dfme"
    title = "DFME (train_data, test_data_A or USTC_MEv4_part..., with its sheets)"
    fps = USUAL_FPS
    rules = Rules(first_number=0, every_clip_coded=True)
    reference: ClassVar[dict[str, int]] = {}

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders called sub0003_01, and what the sheets say of their rate."""
        rows = self.rows(tree, Report(self.name))
        specs, kinds, unknown = [], Counter[str](), 0
        for folder in tree.sequences():
            match = CLIP.fullmatch(tree.names(folder)[-1])
            if match is None:
                if folder.num_images:
                    report.drop(
                        folder.path or ".", "video", "unrecognised_folder", folder.first_image
                    )
                continue
            clip, subject = match[0].lower(), match[1].lower()
            cells = rows[clip][1] if clip in rows else {}
            fps = rate_of(cells) or folder_rate(tree, folder)
            unknown += fps is None
            kinds["full release" if part_of(tree, folder) else "challenge subset"] += 1
            specs.append(
                VideoSpec(
                    subject,
                    self.person(subject),
                    clip,
                    folder.path,
                    fps or USUAL_FPS,
                    # The ends of a clip stand in where its sheet has no column for them.
                    trimmed=not text(cells.get("onset")) or not text(cells.get("offset")),
                )
            )
        if not specs:
            raise no_videos(self, tree, report)
        report.variant["release"] = ", ".join(f"{n} of {k}" for k, n in sorted(kinds.items()))
        if unknown:
            report.variant["fps"] = f"not said of {unknown} clips: {USUAL_FPS:g} taken"
        return specs

    def rows(self, tree: Tree, report: Report) -> Rows:
        """Clip → (place, cells) of the sheet with most columns, its blanks filled from the others.

        All sheets are named; one that contradicts what is used is flagged `sheets_differ`.
        """
        search = find_sheets(tree, ROWS.accept)
        for error in search.damaged:
            report.flag(error.who, "file", error.code, error.got)
        if not search.found:
            raise no_sheet(self, tree, search, ROWS.required, near_misses(tree, ROWS))
        tables = by_choice(search.found, lambda t: len(t.columns.keys() - {"id"}))
        report.variant["sheet"] = "; ".join(t.describe() for t in tables)
        rows: Rows = {}
        for table in tables:
            own: set[str] = set()
            odd: list[str] = []
            for where, found in annotation_rows(table, ROWS, report):
                cells = with_marked_units(found, table, where)
                clip = text(cells["clip"]).lower()
                if clip in own:
                    report.flag(clip, "row", "repeated_key", where)
                elif clip in rows:
                    odd += fill(*rows[clip], cells)
                else:
                    rows[clip] = (where, cells)
                own.add(clip)
            if odd:
                said = f"{len(odd)} cells say otherwise and are not used; first {odd[0]}"
                report.flag(table.sheet.where, "file", "sheets_differ", said)
        return rows

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """One event a clip that any sheet names."""
        rows = self.rows(tree, report)
        emotions = emotion_ids(rows, report)
        return [self.row(n, *rows[n], emotions, tree, videos, report) for n in sorted(rows)]

    def row(
        self,
        clip: str,
        where: str,
        cells: dict[str, Cell],
        emotions: dict[str, str],
        tree: Tree,
        videos: dict[str, ListedVideo],
        report: Report,
    ) -> Annotation:
        """One clip's annotation."""
        emotion = normalise_emotion(text(cells.get("emotion")) or None)
        emotion = emotion or emotions.get(text(cells.get("id")))
        video = videos.get(clip)
        if video is not None:
            check_folder(tree, video, clip, emotion, where, report)
        subject = clip.partition("_")[0]
        said = text(cells.get("subject")).lower()
        if said and said.lstrip("sub0") != subject.lstrip("sub0"):
            report.flag(clip, "event", "subject_differs", f"{where}: subject {said}")
        absent = Number(None, "not_labelled", "")
        numbers = {
            name: frame_number(cells[name]) if name in cells else absent
            for name in ("onset", "apex", "offset")
        }
        if video is not None and video.spec.trimmed:  # no column: the clip itself is the event
            ends = (int(video.frames.numbers[0]), int(video.frames.numbers[-1]))
            for name, end in zip(("onset", "offset"), ends, strict=True):
                if name not in cells:
                    numbers[name] = Number(end, "", str(end))
        return Annotation(
            who=clip,
            where=where,
            subject=subject,
            video=clip,
            event=clip,
            aus=read_units(cells["aus"], clip, where, report) if "aus" in cells else None,
            emotion=emotion,
            onset=numbers["onset"],
            apex=numbers["apex"],
            offset=numbers["offset"],
        )


def part_of(tree: Tree, folder: Folder) -> re.Match[str] | None:
    """The zip part a folder of the full release lies in."""
    found = (PART.fullmatch(part) for part in tree.parts(folder.path))
    return next((m for m in found if m), None)


def folder_rate(tree: Tree, folder: Folder) -> float | None:
    """Frames per second that a part's name ends in."""
    part = part_of(tree, folder)
    return float(part[1]) if part and part[1] else None


def rate_of(cells: dict[str, Cell]) -> float | None:
    """Frames per second of a row; None without a positive number."""
    value, note = real_number(text(cells.get("fps")))
    return value if not note and value > 0 else None


def emotion_ids(rows: Rows, report: Report) -> dict[str, str]:
    """Id → emotion, where the counts are those of the whole training sheet; else none, said."""
    numbered = [cells for _, cells in rows.values() if text(cells.get("id"))]
    bare = [cells for cells in numbered if not text(cells.get("emotion"))]
    if not bare:
        return {}
    by_count = {n: name for name, n in TRAIN.items()}
    for those in (bare, numbered):  # another sheet may name the emotions of some
        counts = Counter(text(cells["id"]) for cells in those)
        if sorted(counts.values()) == sorted(TRAIN.values()):
            found = {i: by_count[n] for i, n in counts.items()}
            report.variant["emotion_ids"] = ", ".join(f"{i} {e}" for i, e in sorted(found.items()))
            return found
    report.flag(
        "EmotionId", "file", "emotion_ids_unclear",
        f"{len(bare)} clips have a number for an emotion; two orders are in use, and the counts "
        "are not those of the whole training sheet",
    )  # fmt: skip
    return {}


def check_folder(
    tree: Tree,
    video: ListedVideo,
    clip: str,
    emotion: str | None,
    where: str,
    report: Report,
) -> None:
    """The emotion of the folder above against the sheet's."""
    parts = tree.parts(video.spec.path)
    above = normalise_emotion(parts[-2]) if len(parts) > 1 else None
    if above in TRAIN and emotion is not None and above != emotion:
        report.flag(
            clip, "event", "emotion_differs_from_folder", f"{where}; folder {parts[-2]}",
            column="emotion", old=emotion,
        )  # fmt: skip


def with_marked_units(cells: dict[str, Cell], table: Table, where: str) -> dict[str, Cell]:
    """The cells, units of the columns AU1, AU2, ... that hold a 1 where no column lists them."""
    header = [header_word(c) for c in table.sheet.rows[table.header]]
    marked = {at: int(w[2:]) for at, w in enumerate(header) if re.fullmatch(r"au\d{1,2}", w)}
    if "aus" in cells or not marked:
        return cells
    line = table.sheet.rows[int(where.rpartition(" ")[2]) - 1]
    units = sorted(n for at, n in marked.items() if at < len(line) and text(line[at]) == "1")
    return {**cells, "aus": "+".join(map(str, units))}


def fill(where: str, cells: dict[str, Cell], more: dict[str, Cell]) -> list[str]:
    """Blank cells of a clip's row get what another sheet says; returns where the two differ."""
    odd = []
    for name, cell in more.items():
        if text(cell).lower() in MISSING:
            continue
        if text(cells.get(name)).lower() in MISSING:
            cells[name] = cell
        elif meaning(name, cells[name]) != meaning(name, cell):
            odd.append(f"{where}: {name} {text(cells[name])!r}, here {text(cell)!r}")
    return odd


ADAPTER = Dfme()
