"""CAS(ME)^2, the long videos: 30 fps, macro- and micro-expressions (Qu et al. 2018, IEEE T-AC 9).

    rawpic/s15/15_0101disgustingteeth/img001.jpg ...   three digits at least, from 1
    CAS(ME)^2code_final.xlsx                           three sheets, none with a header row

A folder's free text is unreliable; its four digits name the film. One video of subject 23 lies in
folder s19: the person is the one of the folder's own prefix. An offset of 0 means "not coded": the
apex ends such an event, as published baselines have it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data.datasets.base import Adapter, ListedVideo, VideoSpec
from data.datasets.checks import Annotation, Rules, numbers_of, read_units
from data.datasets.grouping import choose_group, group_by_pattern, leave_out_strangers
from data.datasets.label_maps import normalise_emotion
from data.datasets.listing import Folder, Tree
from data.datasets.parsing import Cell, identifier, text
from data.datasets.report import Report
from data.datasets.sheets import Sheet, SheetSearch, find_sheets
from data.datasets.tables import no_sheet
from data.datasets.versions import is_copy

CLIP = re.compile(r"([a-z]+\d+)_(\d+)", re.IGNORECASE)
TYPE = re.compile(r"(macro|micro)[- ]?expression", re.IGNORECASE)
VARIANTS = [("crop", "cropped"), ("select", "selectedpic"), ("raw", "rawpic")]
PREFERRED = ["rawpic", "cropped", "selectedpic"]
WANTED = ("participant", "clip", "onset", "apex", "offset", "AU", "valence", "type")


@dataclass(frozen=True)
class Part:
    """One of the three sheets, known by what its rows look like."""

    kind: str  # coding | subjects | films
    sheet: Sheet


class CasMe2(Adapter):
    """CAS(ME)^2 long videos."""

    name = "cas_me2"
    title = "CAS(ME)^2"
    fps = 30.0
    kind = "long"
    rules = Rules(offset_missing="apex")
    reference: ClassVar[dict[str, int]] = {
        "rows": 357,
        "macro rows": 300,
        "macro subjects": 20,
        "macro videos": 89,
        "micro rows": 57,
        "micro subjects": 14,
        "micro videos": 33,
        "subjects": 22,
        "videos": 98,
    }

    def find_videos(self, tree: Tree, report: Report) -> list[VideoSpec]:
        """Folders s15/15_0101...; a video in another subject's folder goes by its own prefix."""
        groups = group_by_pattern(tree, (r"s(\d+)", r"(\d+)_(\d{4}).*"))
        best = choose_group(self, tree, groups, VARIANTS, PREFERRED, report)
        leave_out_strangers(tree, groups, best, report)
        crop = report.variant["frames"] == "cropped"
        own = {(int(m[1][1]), m[1][2]) for _, m in best.folders if int(m[0][1]) == int(m[1][1])}
        specs = []
        for folder, (above, name) in best.folders:
            subject, film = int(name[1]), name[2]
            video = f"s{subject}_{film}"
            if int(above[1]) != subject:
                video = self.misplaced(folder, int(above[1]), video, (subject, film) in own, report)
            specs.append(
                VideoSpec(
                    f"s{subject}",
                    self.person(f"s{subject}"),
                    video,
                    folder.path,
                    self.fps,
                    kind=self.kind,
                    provided_crop=crop,
                )
            )
        return specs

    def misplaced(self, folder: Folder, above: int, video: str, taken: bool, report: Report) -> str:
        """Id of a video that lies in another subject's folder."""
        new = f"s{above}_{video.partition('_')[2]}" if taken else video
        detail = f"{folder.path}; {video} is there as well" if taken else folder.path
        report.repair(
            new, "video", "misplaced_video", detail,
            column="subject", old=f"s{above}", new=video.partition("_")[0],
            source="the folder's own name",
        )  # fmt: skip
        return new

    def read_annotations(
        self, tree: Tree, videos: dict[str, ListedVideo], report: Report
    ) -> list[Annotation]:
        """Rows of the coding sheet, names resolved by the two naming sheets."""
        search = find_sheets(tree, recognise)
        for error in search.damaged:
            report.flag(error.who, "file", error.code, error.got)
        parts = choose_parts(self, tree, search)
        report.variant["sheet"] = parts["coding"].where
        note_other_codings(search, parts["coding"], report)
        subjects = read_subjects(parts["subjects"])
        films = read_films(parts["films"])
        rows = []
        for number, row in enumerate(parts["coding"].rows, 1):
            where = f"{parts['coding'].where}, row {number}"
            cells = [*row, *[None] * 9]
            if not any(text(c) for c in row):
                continue
            if not CLIP.fullmatch(text(cells[1])):
                report.flag(where, "row", "not_an_annotation", f"clip {cells[1]!r}")
                continue
            rows.append(read_row(cells, where, subjects, films, report))
        return rows


def recognise(sheet: Sheet) -> Part | None:
    """Which of the three sheets this is; no header row, so by its cells."""
    rows = [row for row in sheet.rows if any(text(c) for c in row)][:40]
    if not rows:
        return None

    def share(fits: list[bool]) -> bool:
        return sum(fits) > len(rows) / 2

    if share([len(r) >= 8 and is_coding(r) for r in rows]):
        return Part("coding", sheet)
    if share([any(re.fullmatch(r"s\d+", text(c), re.IGNORECASE) for c in r) for r in rows]):
        return Part("subjects", sheet)
    if share([len(r) >= 2 and is_film(r) for r in rows]):
        return Part("films", sheet)
    return None


def is_coding(row: list[Cell]) -> bool:
    """Whether a row has a clip such as `anger1_1` and a type of expression at its place."""
    return bool(CLIP.fullmatch(text(row[1])) and TYPE.search(text(row[7])))


def is_film(row: list[Cell]) -> bool:
    """Whether a row reads `0101 | disgust1` (the zero may be lost)."""
    code, name = text(row[0]), text(row[1])
    return bool(re.fullmatch(r"\d{3,4}", code) and re.fullmatch(r"[a-z]+\d+", name, re.IGNORECASE))


def choose_parts(adapter: Adapter, tree: Tree, search: SheetSearch) -> dict[str, Sheet]:
    """The three sheets, from one workbook if any holds them all (the last by name).

    Raises DatasetError when one of them is nowhere.
    """
    books: dict[str, dict[str, Sheet]] = {}
    for part in search.found:
        books.setdefault(str(part.sheet.path), {}).setdefault(part.kind, part.sheet)
    ordered = sorted(books.items(), key=lambda book: (not is_copy(Path(book[0])), book[0]))
    whole = [parts for _, parts in ordered if len(parts) == 3]
    if whole:
        return whole[-1]
    parts: dict[str, Sheet] = {}
    for _, found in ordered:
        parts.update(found)
    if len(parts) < 3:
        missing = sorted({"coding", "subjects", "films"} - parts.keys())
        raise no_sheet(adapter, tree, search, [*WANTED, f"(and sheets: {', '.join(missing)})"])
    return parts


def note_other_codings(search: SheetSearch, used: Sheet, report: Report) -> None:
    """Other coding sheets in the folder, and in how many rows each says something else."""

    def rows(sheet: Sheet) -> Counter[tuple[str, ...]]:
        said = ([text(c) for c in row[:8]] for row in sheet.rows)
        return Counter(tuple(words) for words in said if any(words))

    mine = rows(used)
    others = [p.sheet for p in search.found if p.kind == "coding" and p.sheet is not used]
    if others:
        report.variant["sheet_also_present"] = "; ".join(s.where for s in others)
    for sheet in others:
        theirs = rows(sheet)
        here, there = (mine - theirs).total(), (theirs - mine).total()
        if here or there:
            report.flag(
                sheet.where, "file", "sheets_differ",
                f"{used.where} is used; {max(here, there)} rows differ",
            )  # fmt: skip


def read_subjects(sheet: Sheet) -> dict[str, str]:
    """Participant number -> subject code, from rows `15 | s15 | 1`."""
    codes = {}
    for row in sheet.rows:
        words = [text(c) for c in row if text(c)]
        code = next((w.lower() for w in words if re.fullmatch(r"s\d+", w, re.IGNORECASE)), None)
        numbers = [w for w in words if w.isdigit()]
        if code and numbers:
            codes[numbers[-1]] = f"s{int(code[1:])}"  # the participant is the last column
    return codes


def read_films(sheet: Sheet) -> dict[str, str]:
    """Film name -> four-digit code, from rows `0101 | disgust1`."""
    return {
        text(row[1]).lower(): identifier(row[0], 4)
        for row in sheet.rows
        if len(row) >= 2 and is_film(row)
    }


def read_row(
    cells: list[Cell], where: str, subjects: dict[str, str], films: dict[str, str], report: Report
) -> Annotation:
    """One row: participant, clip, onset, apex, offset, AU, valence, type, self-report."""
    clip = text(cells[1])
    match = CLIP.fullmatch(clip)
    film = match[1].lower() if match else clip
    subject = subjects.get(text(cells[0]), f"participant {text(cells[0])}")
    event = f"{subject}_{clip}"
    aus = read_units(cells[5], event, where, report)
    return Annotation(
        who=event,
        where=where,
        subject=subject,
        video=f"{subject}_{films.get(film, film)}",
        event=event,
        type="micro" if text(cells[7]).lower().startswith("micro") else "macro",
        aus=aus,
        emotion=normalise_emotion(text(cells[6])),
        **numbers_of(cells[2], cells[3], cells[4]),
    )


ADAPTER = CasMe2()
