"""Sheets in several releases and copies, and what people do to them: which is used is said, and how
the others differ is counted."""

from __future__ import annotations

import os
import shutil

import openpyxl
import pytest

from data.datasets import open_dataset
from data.datasets.films import NOT_READ
from data.datasets.listing import list_frames, walk
from data.datasets.sheets import read_workbook
from data.datasets.versions import is_copy
from data.errors import DatasetError
from data.ingest.check import REPAIRED, check_dataset
from tests.fakes import dataset_trees as trees

RELABELLED = ("EP07_01", "EP07_04f", "EP10_03")
ROWS_2014 = [
    *trees.CASME2_ROWS,
    *(("24", clip, None, 2, 4, 9, None, "?", "sadness") for clip in RELABELLED),
]


def row_2019(row, number: int) -> tuple:
    """As the 2019 release has it: a tenth column, filled units, three clips called surprise."""
    emotion = "surprise" if row[1] in RELABELLED else row[8]
    return (*row[:7], 15 if row[7] == "?" else row[7], emotion, 1 + (number + 1) % 7)


ROWS_2019 = [row_2019(row, i) for i, row in enumerate(ROWS_2014)]
HEADER_2019 = (*trees.CASME2_HEADER, "Objective Classes")


def with_2019(root, name: str = "CASME2-coding-20190701.xlsx"):
    return trees.write_xlsx(root / name, {"Sheet1": [HEADER_2019, *ROWS_2019]})


def flagged(dataset, reason: str = "sheets_differ") -> list[str]:
    rows = dataset.ledger[dataset.ledger.reason == reason]
    return [f"{unit}: {detail}" for unit, detail in zip(rows.unit, rows.detail, strict=True)]


def test_casme2_releases_are_told_apart_by_contents(tmp_path):
    root = trees.casme2(tmp_path, ROWS_2014)
    old = open_dataset("casme2", root)
    assert old.variant["sheet_version"] != "2019" and not flagged(old)
    new_sheet = with_2019(root, "coding.xlsx")  # the name says nothing
    (root / "CASME2-coding-20140508.xlsx").unlink()
    new = open_dataset("casme2", root)
    assert new.variant["sheet_version"] == "2019" and new_sheet.name in new.variant["sheet"]
    emotions = new.events.set_index("event").emotion
    assert emotions["sub24/EP07_01"] == "surprise"
    own = new.events.set_index("event").objective_class
    assert own.to_dict() == {f"sub{r[0]}/{r[1]}": r[9] for r in ROWS_2019}, (
        "its own column, not the workbook of 2014"
    )
    (said,) = flagged(new)
    assert said.startswith("CASME2-ObjectiveClasses.xlsx") and "10 rows differ" in said


def test_two_releases_side_by_side_are_flagged_with_the_cells_that_differ(tmp_path):
    root = trees.casme2(tmp_path, ROWS_2014)
    with_2019(root)
    report = check_dataset("casme2", root)
    assert "20190701" in report.variant["sheet"] and report.exit_code == REPAIRED
    dataset = open_dataset("casme2", root)
    said = next(s for s in flagged(dataset) if "20140508" in s)
    changed = sum(a[7] != b[7] for a, b in zip(ROWS_2014, ROWS_2019, strict=True))
    assert f"{changed} cells of aus" in said and "3 cells of emotion" in said
    assert f"{changed} rows differ" in said
    assert "megc2019 surprise: 4, published 25  <- differs" in report.to_text()


def test_the_same_sheet_twice_is_no_finding(tmp_path):
    root = trees.casme2(tmp_path)
    shutil.copy(root / "CASME2-coding-20140508.xlsx", root / "CASME2-coding-again.xlsx")
    dataset = open_dataset("casme2", root)
    assert not flagged(dataset) and "again" in str(dataset.variant)


COPIES = ("Copy of {}", "{} - Copy", "{} (1)", "{}_backup", "zz old {}", "Kopie von {}", "{} copy")


@pytest.mark.parametrize("pattern", COPIES)
def test_a_copy_of_a_sheet_does_not_win(tmp_path, pattern):
    root = trees.casme2(tmp_path)
    stem = "CASME2-coding-20140508"
    edited = [(*r[:3], 5, *r[4:]) for r in trees.CASME2_ROWS]
    path = root / f"{pattern.format(stem)}.xlsx"
    trees.write_xlsx(path, {"Sheet1": [trees.CASME2_HEADER, *edited]})
    assert is_copy(path) and not is_copy(root / f"{stem}.xlsx")
    dataset = open_dataset("casme2", root)
    assert dataset.variant["sheet"].startswith(f"{stem}.xlsx")
    assert "6 rows differ (6 cells of onset" in flagged(dataset)[0]


CHANGED = {
    "samm": ("SAMM_Micro_FACS_Codes_v2.xlsx", "Anger", "Fear"),
    "mmew": ("MMEW_Micro_Exp.xlsx", "happiness", "fear"),
    "casme3": ("annotation/cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx", "disgust", "fear"),
    "casme3_c": ("CAS(ME)3_part_C_ME.xlsx", "surprise", "others"),
    "cas_me2": ("CAS(ME)^2code_final.xlsx", "negative", "positive"),
    "smic_e": ("SMIC-E_raw image/HS_long/SMIC-HS-E_annotation.xlsx", 610, 611),
    "samm_lv": ("SAMM_LongVideos_V3_Release.xlsx", "4+7", "4+8"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_conflicting_sheets_of_each_layout_are_counted(tmp_path, name):
    file, old, new = CHANGED[name]
    root = trees.BUILDERS[name](tmp_path)
    first = open_dataset(name, root)
    copy = root / file.replace(".xlsx", " (2).xlsx")
    book = openpyxl.load_workbook(root / file)
    changed = 0
    for row in book.worksheets[0].iter_rows():
        for cell in row:
            if cell.value == old:
                cell.value, changed = new, changed + 1
    book.save(copy)
    dataset = open_dataset(name, root)
    assert dataset.events.equals(first.events), "the copy is not used"
    said = [s for s in flagged(dataset) if copy.name in s]
    assert changed and len(said) == 1 and f"{changed} rows differ" in said[0]


@pytest.mark.parametrize("book", ["xlsx", "xls"])
def test_merged_subject_cells_are_filled_down(tmp_path, book):
    root = trees.casme2(tmp_path)
    sheet = root / "CASME2-coding-20140508.xlsx"
    want = open_dataset("casme2", root).events
    rows = [trees.CASME2_HEADER, *trees.CASME2_ROWS]
    if book == "xlsx":
        made = openpyxl.load_workbook(sheet)
        made.active.merge_cells("A5:A6")  # 07 and 07
        made.active.merge_cells("A7:A8")  # 09 and 09
        made.save(sheet)
    else:
        import xlwt

        sheet.unlink()
        made = xlwt.Workbook()
        page = made.add_sheet("s")
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                if cell is not None and (c or r < 4):
                    page.write(r, c, cell)
        page.write_merge(4, 5, 0, 0, "07")
        page.write_merge(6, 7, 0, 0, "09")
        made.save(str(root / "coding.xls"))
    assert open_dataset("casme2", root).events.equals(want)


def test_a_blank_subject_is_named_where_nothing_is_merged(tmp_path):
    root = trees.casme2(tmp_path)
    rows = [trees.CASME2_HEADER, *trees.CASME2_ROWS]
    blank = [r if i != 3 else (None, *r[1:]) for i, r in enumerate(rows)]
    trees.write_xlsx(root / "CASME2-coding-20140508.xlsx", {"Sheet1": blank})
    dataset = open_dataset("casme2", root)
    row = dataset.ledger[dataset.ledger.reason == "no_subject"].iloc[0]
    assert "row 4" in row.unit and "EP09_05f" in row.detail
    assert dataset.counts["rows"] == 7 and len(dataset.events) == 6


@pytest.mark.parametrize("prefix", ["sub", "Sub ", "subject", "sub_"])
def test_subjects_may_be_written_like_their_folders(tmp_path, prefix):
    root = trees.casme2(tmp_path)
    want = open_dataset("casme2", root).events
    rows = [(f"{prefix}{r[0]}", *r[1:]) for r in trees.CASME2_ROWS]
    trees.write_xlsx(root / "CASME2-coding-20140508.xlsx", {"Sheet1": [trees.CASME2_HEADER, *rows]})
    assert open_dataset("casme2", root).events.equals(want)


def test_a_workbook_is_known_by_its_bytes(tmp_path):
    root = trees.casme2(tmp_path)
    want = open_dataset("casme2", root).events
    sheet = root / "CASME2-coding-20140508.xlsx"
    sheet.rename(root / "CASME2-coding-20140508.xls")
    assert open_dataset("casme2", root).events.equals(want), "xlsx named .xls"
    (root / "CASME2-coding-20140508.xls").unlink()
    rows = [trees.CASME2_HEADER, *trees.CASME2_ROWS]
    trees.write_xls(sheet, {"Sheet1": rows})
    assert open_dataset("casme2", root).events.equals(want), "xls named .xlsx"
    sheet.unlink()
    text = "\n".join("\t".join("" if c is None else str(c) for c in r) for r in rows)
    (root / "coding.xls").write_bytes(text.encode("utf-16"))
    assert open_dataset("casme2", root).events.equals(want), "Unicode text named .xls"
    (root / "coding.xls").write_text("<html><table>" + text)
    with pytest.raises(DatasetError, match="a web page"):
        read_workbook(root / "coding.xls")


def test_too_little_memory_is_not_the_sheets_fault(tmp_path, monkeypatch):
    import zlib

    path = trees.samm_sheet(tmp_path)
    for error in (MemoryError(), zlib.error("Error -4 while decompressing data")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(openpyxl, "load_workbook", fail)
        with pytest.raises(MemoryError):
            read_workbook(path)


@pytest.mark.parametrize("archive", ["CASME2-RAW.zip", "CASME2-RAW.part1.rar", "CASME2-RAW.7z.001"])
def test_an_archive_not_unpacked_is_named(tmp_path, archive):
    root = trees.casme2(tmp_path)
    (root / archive).write_bytes(b"PK")
    assert not flagged(open_dataset("casme2", root), "archive_not_unpacked"), "it was unpacked"
    (root / "Cropped.zip").write_bytes(b"PK")
    assert flagged(open_dataset("casme2", root), "archive_not_unpacked") == [
        "Cropped.zip: unpack it"
    ]
    shutil.rmtree(root / "CASME2-RAW")
    with pytest.raises(DatasetError) as error:
        open_dataset("casme2", root)
    assert f"{archive}: unpack it" in str(error.value)


def test_films_of_a_format_that_is_not_read_are_named(tmp_path):
    root = trees.casme2(tmp_path)
    suffix = NOT_READ[0]
    (root / "CASME2-RAW" / "sub01" / f"EP03_01{suffix}").write_bytes(b"x")
    assert (
        f"{suffix} is not read" in flagged(open_dataset("casme2", root), "video_format_not_read")[0]
    )
    shutil.rmtree(root / "CASME2-RAW")
    (root / "films").mkdir()
    (root / "films" / f"a{suffix}").write_bytes(b"x")
    with pytest.raises(DatasetError, match=rf"1 video files: \{suffix} is not read"):
        open_dataset("casme2", root)


@pytest.mark.parametrize("odd", ["img{} edited.jpg", "img{}-Copy.jpg", "Copy of img{}.jpg"])
@pytest.mark.parametrize("many", [False, True])
def test_an_edited_frame_does_not_displace_the_frame(tmp_path, odd, many):
    trees.write_frames(tmp_path, range(1, 31))
    for number in range(1, 31) if many else [20]:
        (tmp_path / odd.format(number)).write_bytes(b"other")
    frames = list_frames(tmp_path)
    assert frames.names == [f"img{n}.jpg" for n in range(1, 31)]
    assert "duplicate_number" in {reason for reason, _ in frames.problems}


def test_an_edited_frame_alone_stands_in_and_is_flagged(tmp_path):
    trees.write_frames(tmp_path, [n for n in range(1, 31) if n != 20])
    (tmp_path / "img20 edited.jpg").write_bytes(trees.image_bytes())
    frames = list_frames(tmp_path)
    assert len(frames) == 30 and ("other_name_style", "1: img20 edited.jpg") in frames.problems


def test_folders_and_links_with_undecodable_or_looping_names(tmp_path):
    root = trees.casme2(tmp_path)
    clips = root / "CASME2-RAW" / "sub01"
    (clips / os.fsdecode(b"EP03_\xff")).mkdir()
    (clips / "self").symlink_to("self")
    tree = walk(root)
    reasons = {reason for _, reason, _ in tree.problems}
    assert reasons == {"undecodable_name", "not_a_file"}
    dataset = open_dataset("casme2", root)
    assert len(dataset.events) == 7
    dataset.ledger.detail.str.encode("utf-8")


SMIC_E_3 = ("Subject", "Filename", "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F",
            "Offset3F", "FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL",
            "Emotion")  # fmt: skip


@pytest.mark.parametrize("says_length", [True, False])
def test_formulas_over_empty_cells_invent_no_event(tmp_path, says_length):
    base = tmp_path / "HS_long" / "SMIC-HS-E" / "HS"
    trees.write_frames(base / "s03" / "s3_ne_21", range(50_600, 50_700), "image{}.jpg")
    trees.write_frames(base / "s18" / "s18_sur_03", range(600, 700), "image{}.jpg")
    # Onset3F and Offset3F stand over empty cells of the other sheet: far before, up to frame one
    rows = [(3, "s3_ne_21", 50_610, 50_621, 50_650, 50_660, 10_000, 50_600, 50_600, 50_699, 12, 11,
             -40_599 if says_length else None, 100, "negative"),
            (18, "s18_sur_03", 610, 621, None, None, None, None, 600, 699, 12, None, None, 100,
             "negative")]  # fmt: skip
    trees.write_xlsx(tmp_path / "SMIC-HS-E_annotation.xlsx", {"HS": [SMIC_E_3, *rows]})
    dataset = open_dataset("smic_e", tmp_path)
    assert sorted(dataset.events.event) == ["HS/s18_sur_03", "HS/s3_ne_21", "HS/s3_ne_21#2"]
    dropped = dataset.ledger[dataset.ledger.action == "dropped"]
    assert dropped.unit.tolist() == ["HS/s3_ne_21#3"]
    assert dropped.reason.tolist() == ["length_not_positive" if says_length else "outside_video"]
    assert dataset.counts["rows"] == 4


def test_a_label_that_contradicts_the_clips_name_follows_the_name(tmp_path):
    base = tmp_path / "HS_long" / "SMIC-HS-E" / "HS"
    trees.write_frames(base / "s18" / "s18_sur_03", range(600, 700), "image{}.jpg")
    row = (18, "s18_sur_03", None, 610, 621, None, None, None, 600, 699, 12, None, 100, "negative")
    trees.write_xlsx(tmp_path / "SMIC-HS-E_annotation.xlsx", {"HS": [trees.SMIC_E_HEADER, row]})
    dataset = open_dataset("smic_e", tmp_path)
    assert dataset.events.emotion.tolist() == ["surprise"]
    (said,) = flagged(dataset, "label_contradicts_name")
    assert "emotion: negative -> surprise" in said
