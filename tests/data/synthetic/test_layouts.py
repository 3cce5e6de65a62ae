"""The layouts' folders and sheets, and the defects planted in them."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from data.synthetic import load_truth, write_dataset
from data.synthetic.layouts.samm_lv import samm_subject
from data.synthetic.workbook import save

SMALL = {"preset": "smoke", "size": (160, 120), "workers": 1}
LONG = SMALL | {
    "clips": 2,
    "seconds": 4.0,
    "micros": (1, 2),
    "macros": (2, 2),
    "noise": 0.0,
    "fps": 50.0,
}


@pytest.fixture(scope="module")
def casme2(tmp_path_factory) -> Path:
    return write_dataset("casme2", tmp_path_factory.mktemp("c2"), **SMALL)


@pytest.fixture(scope="module")
def casme2_bad(tmp_path_factory) -> Path:
    return write_dataset("casme2", tmp_path_factory.mktemp("c2d"), defects=True, **SMALL)


@pytest.fixture(scope="module")
def samm_lv(tmp_path_factory) -> Path:
    return write_dataset("samm_lv", tmp_path_factory.mktemp("lv"), **LONG)


@pytest.fixture(scope="module")
def samm_lv_bad(tmp_path_factory) -> Path:
    return write_dataset("samm_lv", tmp_path_factory.mktemp("lvd"), defects=True, **LONG)


def _coding(root: Path) -> pd.DataFrame:
    return pd.read_excel(root / "CASME2-coding-20140508.xlsx", dtype={"Subject": str})


def _long(root: Path) -> pd.DataFrame:
    path = root / "SAMM_LongVideos_V3_Release.xlsx"
    return pd.read_excel(path, header=9, dtype={"Subject": str})


def test_casme2_sheet_has_the_released_shape(casme2):
    book = openpyxl.load_workbook(casme2 / "CASME2-coding-20140508.xlsx")
    assert book.sheetnames == ["Sheet1", "Sheet2", "Sheet3"]
    sheet = book["Sheet1"]
    assert [c.value for c in sheet[1]] == [
        "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None,
        "Action Units", "Estimated Emotion",
    ]  # fmt: skip
    assert sheet["A2"].value == "01"
    assert isinstance(sheet["D2"].value, int)
    assert book["Sheet2"].max_row == 1 and book["Sheet2"]["A1"].value is None
    classes = openpyxl.load_workbook(casme2 / "CASME2-ObjectiveClasses.xlsx")
    assert [c.value for c in classes["Sheet1"][1]] == ["Subject", "Filename", "Objective Class"]
    assert isinstance(classes["Sheet2"]["C1"].value, int)


def test_casme2_sheet_states_the_truth(casme2):
    rows = _coding(casme2)
    videos = load_truth(casme2).record["videos"]
    assert len(rows) == len(videos) == 4
    for (_, row), video in zip(rows.iterrows(), videos, strict=True):
        event = next(e for e in video["events"] if e["type"] == "micro")
        assert video["video"] == f"sub{row['Subject']}/{row['Filename']}"
        assert row["OnsetFrame"] == event["onset"] + 1 == event["onset_number"]
        assert row["ApexFrame"] == event["apex_number"]
        assert row["OffsetFrame"] == event["offset_number"]
        assert str(row["Action Units"]) == event["aus"]
        assert row["Estimated Emotion"] == event["emotion"]
        assert (casme2 / video["folder"] / f"img{event['apex_number']}.jpg").is_file()


def test_casme2_defects_are_where_the_truth_says(casme2, casme2_bad):
    clean, bad = _coding(casme2), _coding(casme2_bad)
    defects = load_truth(casme2_bad).defects
    assert load_truth(casme2).defects == []
    assert {d["kind"] for d in defects} == {
        "unknown_aus", "apex_symbol", "apex_is_onset", "apex_is_offset", "missing_frame",
        "truncated_image", "empty_file", "stray_file", "nested_folder",
    }  # fmt: skip
    names = [f"sub{s}/{f}" for s, f in zip(bad["Subject"], bad["Filename"], strict=True)]
    cells = {(d["who"], d["column"]): d for d in defects if d["table"] == "coding"}
    assert len(cells) == 4
    for i, name in enumerate(names):
        for column in clean.columns:
            old, new = clean.loc[i, column], bad.loc[i, column]
            if (name, column) in cells:
                record = cells[name, column]
                assert str(old) == str(record["old"]) and str(new) == str(record["new"])
                assert str(old) != str(new)
            else:
                assert str(old) == str(new)


def test_casme2_file_defects_are_real(casme2_bad):
    defects = load_truth(casme2_bad).defects
    by_kind = {d["kind"]: d["who"] for d in defects}
    lost = next(d["old"] for d in defects if d["kind"] == "missing_frame")
    assert (casme2_bad / lost).parent.is_dir() and not (casme2_bad / lost).exists()
    assert (casme2_bad / by_kind["empty_file"]).stat().st_size == 0
    assert 0 < (casme2_bad / by_kind["truncated_image"]).stat().st_size < 4000
    assert (casme2_bad / by_kind["stray_file"]).is_file()
    assert (casme2_bad / "CASME2-RAW" / "CASME2-RAW" / "sub01").is_dir()
    for video in load_truth(casme2_bad).record["videos"]:
        assert (casme2_bad / video["folder"]).is_dir()


def test_samm_lv_sheets_have_the_released_shape(samm_lv):
    sheet = openpyxl.load_workbook(samm_lv / "SAMM_LongVideos_V3_Release.xlsx")[
        "FACS_Movement_Only"
    ]
    assert sheet["A10"].value == "Subject" and sheet["H10"].value == "Type"
    assert "F7:I7" in {str(r) for r in sheet.merged_cells.ranges}
    assert sheet["A11"].value == "006"
    micro = openpyxl.load_workbook(samm_lv / "SAMM_Micro_FACS_Codes_v2.xlsx")["MICRO_ONLY"]
    assert micro["A14"].value == "Subject" and micro["J14"].value == "Estimated Emotion"
    assert not any(str(micro.cell(r, 1).value) == "Subject" for r in range(1, 14))
    for book in (sheet, micro):
        assert book.cell(book.max_row, 7).value == f"=F{book.max_row}-D{book.max_row}+1"
    rows = _long(samm_lv)
    length = rows["Offset"] - rows["Onset"] + 1
    assert rows["Duration"].to_numpy() == pytest.approx(length.to_numpy()), "values are stored"


def test_samm_lv_sheets_state_the_truth(samm_lv):
    rows = _long(samm_lv).set_index(["Filename", "Type"])
    path = samm_lv / "SAMM_Micro_FACS_Codes_v2.xlsx"
    emotions = pd.read_excel(path, header=13).set_index(["Filename", "Micro"])
    constant: dict[str, set[int]] = {}
    count = 0
    for video in load_truth(samm_lv).record["videos"]:
        expressions = [e for e in video["events"] if e["type"] != "blink"]
        for n, event in enumerate(expressions, start=1):
            kind = "Macro" if event["type"] == "macro" else "Micro - 1/2"
            key = (f"{video['video']}_{n}", kind)
            for column in ("Onset", "Apex", "Offset"):
                value = float(rows.loc[key, column])
                assert int(value + 0.5) == event[f"{column.lower()}_number"]
            count += 1
            if kind != "Macro":
                emotion = (
                    "others" if (e := emotions.loc[key, "Estimated Emotion"]) == "Other" else e
                )
                assert emotion.lower() == event["emotion"]
                shift = int(emotions.loc[key, "Onset Frame"]) - event["onset_number"]
                constant.setdefault(video["video"], set()).add(shift)
    assert count == len(rows)
    assert constant and all(len(shifts) == 1 for shifts in constant.values())


def test_samm_lv_macro_numbers_can_be_fractions(samm_lv):
    rows = _long(samm_lv)
    fraction = (rows["Onset"] % 1 != 0) | (rows["Offset"] % 1 != 0)
    assert fraction.any()
    assert not fraction[rows["Type"] != "Macro"].any()


def test_samm_lv_defects_are_where_the_truth_says(samm_lv, samm_lv_bad):
    clean, bad = _long(samm_lv), _long(samm_lv_bad)
    truth = load_truth(samm_lv_bad)
    defects = [d for d in truth.defects if d["table"] == "long"]
    assert {d["kind"] for d in defects} == {
        "onset_zero", "apex_missing", "offset_past_end", "interval_past_end", "duplicate_filename",
    }  # fmt: skip
    clean, bad = (t.drop(columns="Duration") for t in (clean, bad))  # a formula of the others
    equal = (clean == bad) | (clean.isna() & bad.isna())
    assert int((~equal).to_numpy().sum()) == len(defects)
    assert (bad["Onset"] == 0).sum() == 1
    assert (bad["Apex"] == -1).sum() == 2
    assert bad["Filename"].duplicated().sum() == 1
    frames = {v["video"]: v["frames"] for v in truth.record["videos"]}
    last = bad["Filename"].str.rsplit("_", n=1).str[0].map(frames)
    assert (bad["Offset"] > last).sum() == 2
    assert ((bad["Onset"] > last) & (bad["Offset"] > last)).sum() == 1


def test_samm_lv_padding_is_constant_within_a_video(samm_lv):
    for folder in (samm_lv / "SAMM_longvideos").iterdir():
        lengths = {len(p.stem) for p in folder.iterdir()}
        assert len(lengths) == 1
        assert all(p.stem.startswith(f"{folder.name}_") for p in folder.iterdir())


def test_samm_subjects_have_the_real_gaps():
    assert [samm_subject(i) for i in (0, 1, 2, 28, 29)] == ["006", "007", "009", "037", "038"]


def test_workbook_bytes_do_not_depend_on_the_clock(tmp_path):
    for name in ("a.xlsx", "b.xlsx"):
        book = openpyxl.Workbook()
        book.worksheets[0].append(["01", 2, 3.5, None])
        save(book, tmp_path / name)
        time.sleep(1.1)  # Excel times have a resolution of a second
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        assert {i.date_time[0] for i in archive.infolist()} == {2014}
    assert openpyxl.load_workbook(tmp_path / "a.xlsx").active["A1"].value == "01"
