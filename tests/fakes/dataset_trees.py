"""Small dataset folders with the real layouts for tests: tiny images, real sheet shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openpyxl
import pytest
import xlwt

Rows = Sequence[Sequence[Any]]


@cache
def image_bytes(suffix: str = ".jpg", size: tuple[int, int] = (32, 24)) -> bytes:
    """A grey picture, encoded; size is (width, height)."""
    image = np.full((size[1], size[0]), 128, np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def write_frames(folder: Path, numbers: Iterable[int], name: str = "img{}.jpg") -> None:
    """One tiny picture a number; `name` is a format with one place."""
    folder.mkdir(parents=True, exist_ok=True)
    content = image_bytes("." + name.rpartition(".")[2])
    for number in numbers:
        (folder / name.format(number)).write_bytes(content)


def write_xlsx(path: Path, sheets: dict[str, Rows]) -> Path:
    """A workbook with the sheets in order."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def write_xls(path: Path, sheets: dict[str, Rows]) -> Path:
    """The same in the old binary format."""
    book = xlwt.Workbook()
    for name, rows in sheets.items():
        sheet = book.add_sheet(name)
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                if cell is not None:
                    sheet.write(r, c, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(str(path))
    return path


CASME2_HEADER = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None,
                 "Action Units", "Estimated Emotion")  # fmt: skip
CASME2_ROWS = [
    ("01", "EP02_01f", None, 6, 9, 16, None, 12, "happiness"),
    ("04", "EP12_01f", None, 3, "/", 12, None, "4+L10", "disgust"),
    ("05", "EP09_05f", None, 5, 5, 12, None, "?", "disgust"),
    ("07", "EP06_02_01", None, 2, 4, 9, None, "R6", "repression"),
    ("07", "EP06_02_02", None, 3, 9, 9, None, "1+2", "surprise"),
    ("09", "EP09f", None, 2, 4, 9, None, 4, "fear"),
    ("09", "EP02_01f", None, 2, 4, 9, None, 17, "others"),
]


def casme2(root: Path, rows: Rows = CASME2_ROWS, base: str = "CASME2-RAW", first: int = 1) -> Path:
    """CASME II as shipped: raw clips numbered from `first`, the 2014 sheet, objective classes."""
    for row in rows:
        folder = root / base / f"sub{row[0]}" / row[1]
        write_frames(folder, range(first, 20))
    write_xlsx(
        root / "CASME2-coding-20140508.xlsx",
        {"Sheet1": [CASME2_HEADER, *rows], "Sheet2": [], "Sheet3": []},
    )
    classes = [("Subject", "Filename", "Objective Class")]
    classes += [(r[0], r[1], 1 + i % 7) for i, r in enumerate(rows)]
    write_xlsx(
        root / "CASME2-ObjectiveClasses.xlsx",
        {"Sheet1": classes, "Sheet2": [("03", "EP01_2", 3)]},
    )
    return root


SAMM_HEADER = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame",
               "Offset Frame", "Duration", "Micro", "Action Units", "Estimated Emotion",
               "Objective Classes", "Notes")  # fmt: skip
SAMM_ROWS = [
    ("006", "006_1_2", 1, 562, 570, 580, 19, "Micro - 1/2", "4+7", "Anger", 3, None),
    ("007", "007_6_1", 6, 97, 99, 109, 13, "Micro - 1/2", "(R6 or R12)+R15", "Happiness", 7, None),
    ("028", "028_4_1", 4, 1100, 9, 1120, 21, "Micro - 1/2", "4 ", "Disgust", 3, "Blinks"),
    ("033", "033_1_2", 1, 12000, 700, 12010, 11, "Micro - 1/2", 12, "Other", 1, None),
]
PROSE = [(f"prose {i}",) for i in range(13)]


def samm_sheet(root: Path, rows: Rows = SAMM_ROWS) -> Path:
    """The v2 workbook: 13 rows of prose, then the header."""
    return write_xlsx(
        root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": [*PROSE, SAMM_HEADER, *rows]}
    )


def samm(root: Path, rows: Rows = SAMM_ROWS, base: str = "SAMM") -> Path:
    """SAMM clips onset..offset with the numbers of the whole recording, 4 or 5 digits."""
    for row in rows:
        width = 5 if row[3] > 9999 or row[0] == "006" else 4
        name = f"{row[0]}_{{:0{width}d}}.jpg"
        write_frames(root / base / row[0] / row[1], range(row[3], row[5] + 1), name)
    samm_sheet(root, rows)
    return root


SAMM_LV_HEADER = ("Subject", "Filename", "Inducement Code", "Onset", "Apex", "Offset",
                  "Duration", "Type", "Action Units", "Notes")  # fmt: skip
SAMM_LV_ROWS = [
    ("006", "006_1_1", 1, 66.4000001, 74.5, 93.2, 27.8, "Macro", "4(B/C)+7B", None),
    ("006", "006_1_2", 1, 12, 18, 32, 21, "Micro - 1/2", "4+7", None),
    ("012", "012_4_1", 4, 1520, 1522, 1524.6, 5.6, "Macro", 1, None),
    ("018", "018_4_4", 4, 0, 18.2, 34.8, 35.8, "Macro", "12B", None),
    ("020", "020_6_5", 6, 90, 95, 176, 87, "Macro", 1, None),
    ("028", "028_4_1", 4, 10, -1, 20, 11, "Micro - 1/2", 4, None),
    ("037", "037_4_1", 4, 10, 12, 20, 11, "Macro", 12, None),
    ("037", "037_4_1", 4, 15, 18, 25, 11, "Micro - 1/2", 1, None),
]


def samm_lv(root: Path, rows: Rows = SAMM_LV_ROWS, length: int = 100) -> Path:
    """Long videos 1..length, padding 4 or 5 by video, one video without any event."""
    videos = sorted({row[1].rpartition("_")[0] for row in rows} | {"036_2"})
    for i, video in enumerate(videos):
        name = f"{video}_{{:0{4 + i % 2}d}}.jpg"
        write_frames(root / "SAMM_longvideos" / video, range(1, length + 1), name)
    write_xlsx(
        root / "SAMM_LongVideos_V3_Release.xlsx",
        {"FACS_Movement_Only": [*PROSE[:9], SAMM_LV_HEADER, *rows]},
    )
    samm_sheet(
        root,
        [
            ("006", "006_1_2", 1, 2012, 2018, 2032, 21, "Micro - 1/2", "4+7", "Anger", 3, None),
            ("028", "028_4_1", 4, 10, 15, 20, 11, "Micro - 1/2", 4, "Disgust", 3, None),
            ("037", "037_4_1", 4, 15, 18, 25, 11, "Micro - 1/2", 1, "Surprise", 2, None),
        ],
    )
    return root


CASME3_HEADER = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class",
                 "emotion")  # fmt: skip
CASME3_ROWS = [
    ("spNO.1", "b", 66, 70, 79, "4", "III", "disgust"),
    ("spNO.8", "c", 7, 7, 36, "14", "VII", "others"),
    ("spNO.14", "J", 12, 19, 38, "24+T18", "VII", "Others"),
    ("spNO.40", "e", 1812, 1824, 0, "18", "VII", "others"),
    ("spNO.40", "e", 2327, 2363, 0, "14", "VII", "others"),
    ("spNO.149", "d", 112, 83, 358, "4", "III", "disgust"),
    ("spNO.214", "c", 5, 5, 3460, "17+4", "VII", "disgust"),
    ("spNO.216", "d", 3647, 2655, 2694, "4", "III", "sad"),
    ("spNO.216", "e", 0, 0, 25, "14", "VII", "happy"),
]


def casme3(root: Path, rows: Rows = CASME3_ROWS) -> Path:
    """Part A: color folders covering each row sparsely, the text-typed v2 sheet, the old .xls."""
    wanted: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        numbers = wanted.setdefault((row[0], row[1]), set(range(1, 41)))
        numbers.update(n for n in row[2:5] if n > 0)
    extra = {("spNO.40", "e"): (1845, 2403), ("spNO.149", "d"): (160,), ("spNO.214", "c"): (34,),
             ("spNO.216", "d"): (2647,)}  # fmt: skip
    for (subject, letter), numbers in wanted.items():
        numbers.update(extra.get((subject, letter), ()))
        folder = root / "part_A" / "part_A" / subject / letter
        write_frames(folder / "color", numbers, "{}.jpg")
        write_frames(folder / "depth", [1], "{}.png")
    write_xlsx(
        root / "annotation" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        {"label": [CASME3_HEADER, *([str(c) for c in r] for r in rows)], "Sheet1": [],
         "Sheet3": []},
    )  # fmt: skip
    header = (*CASME3_HEADER[:6], "Expression type", "Objective class")
    both = [(*r[:6], "Micro-expression", r[6]) for r in rows]
    both.append(("spNO.1", "b", 20, 25, 40, "12", "Macro-expression", "I"))
    blinks = [("Subject", "Filename", "Onset", "Offset"), ("spNO.1", "b", 20, 33)]
    write_xls(
        root / "annotation" / "CAS(ME)3_part_A_v2.xls",
        {"AU+Emotion": [header, *both], "eye blink": blinks},
    )
    return root


CAS_ME2_ROWS = [
    (1, "anger1_1", 5, 10, 20, "4+10+14", "negative", "macro-expression", "anger"),
    (1, "happy1_2", 8, 12, 0, "6+12", "positive", "macro-expression", "happyiness"),
    (1, "disgust2_3", 22, 24, 28, 43, "others", "micro-expression", "disgust"),
    (2, "happy1_1", 5, 0, 20, 12, "positive", "macro-expression", "happiness"),
    (2, "happy1_2", 5, 22, 20, 12, "surprise", "macro-expression", "happiness"),
]
CAS_ME2_FILMS = [("0101", "disgust1"), ("0102", "disgust2"), ("0401", "anger1"),
                 ("0402", "anger2"), ("0502", "happy1")]  # fmt: skip


def cas_me2(root: Path, rows: Rows = CAS_ME2_ROWS, misplaced: bool = True) -> Path:
    """Long videos, one of subject 23 inside s19, and the headerless three-sheet workbook."""
    base = root / "rawpic"
    names = [
        ("s15", "15_0401angryman"),
        ("s15", "15_0502funnyerrors"),
        ("s15", "15_0102eatingworms"),
    ]
    if misplaced:
        names += [("s19", "23_0502unnyerrors"), ("s19", "19_0101teeth")]
    else:
        names += [("s23", "23_0502funnyerrors")]
    for subject, video in names:
        write_frames(base / subject / video, range(1, 31), "img{:03d}.jpg")
    subjects = [(15, "s15", 1), (15, "s15", 1), (23, "s23", 2)]
    write_xlsx(
        root / "CAS(ME)^2code_final.xlsx",
        {"CASFEcode_final": rows, "naming rule1": subjects, "naming rule2": CAS_ME2_FILMS},
    )
    return root


SMIC_CLIPS = [
    ("HS", "s1", "negative", "s1_ne_01", range(559700, 559712), "image{}.bmp"),
    ("HS", "s20", "surprise", "s20_sur_02", range(17581039, 17581050), "image{}.bmp"),
    ("NIR", "s11", "positive", "s11_po_01", range(7750, 7760), "{:05d}.bmp"),
    ("VIS", "s11", "positive", "s11_po_01", range(7850, 7858), "image {}.bmp"),
]


def smic(root: Path, base: str = "SMIC_all_raw", prefix: str = "") -> Path:
    """The short clips of three cameras, and a neutral one."""
    for camera, subject, emotion, clip, numbers, name in SMIC_CLIPS:
        folder = root / base / camera / subject / "micro" / emotion / clip
        write_frames(folder, numbers, prefix + name)
    write_frames(root / base / "HS" / "s1" / "non_micro" / "s1_n1", range(5), "image{}.bmp")
    return root


SMIC_E_HEADER = ("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", None,
                 "FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalVL", "Emotion")  # fmt: skip


def smic_e(root: Path) -> Path:
    """SMIC-E HS: padded subject folders, formula cells, a text note, rows after the data."""
    base = root / "SMIC-E_raw image" / "HS_long" / "SMIC-HS-E"
    write_frames(base / "HS" / "s03" / "s3_ne_21", range(600, 700), "image{}.jpg")
    write_frames(base / "HS" / "s20" / "s20_ne_01", range(17580887, 17580987), "image {}.jpg")
    rows = [
        (20, "s20_ne_01", None, 17580900, "=D2+K2-1", 17580950, 17580960, None,
         "=17580887", "=I2+M2-1", 17, 11, 100, "negative"),
        (3, "s3_ne_21", None, 610, "=D3+K3-1", None, None, None, "MISSING one file", None, 12,
         None, 100, "negative"),
        (3, "s3_ne_03", None, 500, 510, None, None, None, 490, 520, 11, None, 31, "negative"),
        (None,) * 14,
        (None, "total 3 clips", None, "x"),
    ]  # fmt: skip
    write_xlsx(
        root / "SMIC-E_raw image" / "HS_long" / "SMIC-HS-E_annotation.xlsx",
        {"HS": [SMIC_E_HEADER, *rows], "VIS": [SMIC_E_HEADER[:2]], "Sheet2": [], "Sheet3": []},
    )
    return root


def casme3_c(root: Path) -> Path:
    """Part C: color and depth, the mock-crime sheet with a full-width comma."""
    for subject in ("01", "02", "22"):
        write_frames(root / "part_C" / subject / "a" / "color", range(370, 420), "{}.jpg")
        write_frames(root / "part_C" / subject / "a" / "depth", [370], "{}.png")
    rows = [
        ("sub", "count", "onset", "offset", "au", "emotion"),
        (1, 1, 373, 384, 4, "negative"),
        (1, 2, 390, 400, "R4,5", "surprise"),
        (2, 1, 371, 380, "1，2", "others"),
    ]
    write_xlsx(root / "CAS(ME)3_part_C_ME.xlsx", {"mockCrimeME": rows})
    organised = [("Subject", "Onset", "Offset", "diff", "Exp_type", "risk"), (4, 1, 9, 8, 1, 0)]
    write_xls(root / "CAS(ME)3_part_C.xls", {"organize": organised})
    return root


MMEW_HEADER = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units",
               "Estimated Emotion", "remarks")  # fmt: skip


def mmew(root: Path, subject_first: bool = False) -> Path:
    """MMEW in either folder order; an uncut time base, a missing offset, others = repression."""
    rows = [
        (1, "S01-01-001", 1, 8, 15, "6+12", "happiness", None),
        (5, "S05-08-003", 1, 6, 15, 4, "others", None),
        (6, "S06-02-001", 101, 108, 115, 4, "disgust", None),
        (6, "S06-02-002", 1, 40, None, 4, "disgust", None),
    ]
    emotions = ["happiness", "repression", "disgust", "disgust"]
    for row, emotion in zip(rows, emotions, strict=True):
        clip = row[1]
        parts = (clip[:3], emotion, clip) if subject_first else (emotion, clip)
        write_frames(
            (root / "MMEW_Final" / "Micro_Expression").joinpath(*parts), range(1, 16), "{}.jpg"
        )
    write_frames(
        root / "MMEW_Final" / "Macro_Expression" / "S03" / "happiness", [1], "S03-01-{:03d}.jpg"
    )
    write_xlsx(root / "MMEW_Micro_Exp.xlsx", {"Sheet1": [MMEW_HEADER, *rows]})
    return root


def casme(root: Path, base: str = "CASME_A/Section A") -> Path:
    """CASME (I): the old .xls with durations in ms, a backslash as filler, bare subject numbers."""
    header = ("Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "Onset",
              "Total", "AU", "Emotion")  # fmt: skip
    rows = [
        (1, "EP01_12", None, 3, 8, "\\", 13, None, 100, 183.33, 4, "tense"),
        (7, "EP01_6", None, 2, 4, 6, 9, None, 50, 133.33, "1+2", "surprise"),
        (7, "EP01_7", None, 2, 4, 5, 9, None, 50, 500, "L14", "disgust"),
    ]
    for row in rows:
        folder = root / base / f"sub{row[0]:02d}" / row[1]
        write_frames(folder, range(1, 20), "reg_img{}.jpg" if "Crop" in base else "{:03d}.jpg")
    write_xls(root / "CASME-coded-20190721.xls", {"Sheet1": [header, *rows]})
    return root


def fourd(root: Path) -> Path:
    """4DME: folders named by the sheet, header names with an apostrophe, combined emotions."""
    header = ("sub_ID'", "fold", "fold_name", "Onset", "Apex", "Offset", "AUs", "Emotion",
              "eye blink", "Positive", "Negative", "Surprise", "Repression", "Others", "AU4",
              "AU14")  # fmt: skip
    rows = [
        ("S13", 1, "S13_1st_001_01_1", 1.0, 4.0, 9.0, "AU4", "Negative", 0, 0, 1, 0, 0, 0, 1, 0),
        ("S13", 1, "S13_1st_001_01_2", 1.0, 4.0, 9.0, "AU4+AU14(k)", "Surprise+Positive", 0,
         1, 0, 1, 0, 0, 1, 1),
        ("S14", 2, "S14_1st_001_01_1", 1.0, 4.0, 9.0, "AU14", "Others", 0, 0, 0, 0, 0, 1, 1, 0),
    ]  # fmt: skip
    for row in rows:
        write_frames(root / "4DMicro" / "gray_micro" / row[0] / row[2], range(1, 10), "{:04d}.png")
    write_xlsx(root / "4DME_Labelling_Micro_release v1.xlsx", {"Sheet1": [header, *rows]})
    return root


DFME_HEADER = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "AU", "Emotion",
               "fps")  # fmt: skip
DFME_ROWS = [
    ("sub0003", "sub0003_01", 2, 5, 9, 12, "happiness", 500),
    ("sub0003", "sub0003_02", 2, 40, 9, "4+7", "disgust", 300),
    ("sub0601", "sub0601_01", 0, 3, 8, "1+2", "surprise", 200),
]


def dfme(root: Path, rows: Rows = DFME_ROWS) -> Path:
    """The challenge subset in its doubled folder, and its sheet; one apex past the offset."""
    for row in rows:
        write_frames(root / "train_data" / "train_data" / row[1], range(12), "{:05d}.png")
    write_xlsx(root / "CCAC2024.xlsx", {"Sheet1": [DFME_HEADER, *rows]})
    return root


def megc(root: Path) -> Path:
    """Long test videos of both parts, one of them with a strange folder beside it."""
    write_frames(root / "SAMM_data" / "001_2", range(1, 12), "001_2_{:05d}.jpg")
    for name in ("dzw_a1", "gcf_f2"):
        write_frames(root / "CAS_data" / name, range(1, 12), "{}.jpg")
    write_frames(root / "CAS_data" / "preview", range(1, 3), "{}.jpg")
    return root


def manifest(root: Path, text: str | None = None) -> Path:
    """The generic layout: two folders of frames and a manifest."""
    write_frames(root / "p1" / "clip a", range(1, 21), "f{:04d}.png")
    write_frames(root / "p2" / "ünïcode", range(1, 21), "f{:04d}.png")
    content = text or (
        "subject,path,fps,onset,apex,offset,type,aus,emotion,label_3\n"
        "p1,p1/clip a,120,2,5,9,micro,4+7,anger,\n"
        "p1,p1/clip a,120,11,13,19,macro,12,happiness,\n"
        "p2,p2/ünïcode,60,,,,,,,\n"
    )
    (root / "manifest.csv").write_text(content, encoding="utf-8")
    return root


BUILDERS = {
    "casme2": casme2,
    "samm": samm,
    "smic": smic,
    "smic_e": smic_e,
    "cas_me2": cas_me2,
    "samm_lv": samm_lv,
    "casme3": casme3,
    "casme3_c": casme3_c,
    "mmew": mmew,
    "4dme": fourd,
    "casme": casme,
    "dfme": dfme,
    "megc": megc,
    "csv": manifest,
}


def build(name: str, root: Path) -> Path:
    """The small tree of a layout; a test of a layout that has none yet is skipped, and says so."""
    if name not in BUILDERS:
        pytest.skip(f"{name}: no small tree in tests/fakes/dataset_trees.py yet")
    return BUILDERS[name](root)
