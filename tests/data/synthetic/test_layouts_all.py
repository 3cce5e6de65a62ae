"""Every layout through its adapter: labels are the truth, planted defects are found, none invented.

Pixels are not the point here: frames are one small picture each, so that all layouts are written
in seconds. Rendering is tested in test_data_synthetic.py.
"""

from __future__ import annotations

import shutil
import sys

import cv2
import numpy as np
import openpyxl
import pandas as pd
import pytest

from data.datasets import ADAPTERS, get_adapter, open_dataset
from data.datasets.action_units import unit_numbers
from data.datasets.sheets import read_workbook
from data.errors import ConfigError, MissingExtraError
from data.ingest.check import check_dataset
from data.synthetic import layout_names, load_truth, write_dataset, writer
from data.synthetic.layouts import get_layout
from data.synthetic.layouts.base import SyntheticLayout
from tests.fakes.synthetic_defects import NATURAL, unexplained

FILES = {"missing_frame", "truncated_image", "empty_file"}
PLANTED = {
    "casme2": {"unknown_aus", "apex_symbol", "apex_is_onset", "apex_is_offset", "stray_file",
               "nested_folder", *FILES},
    "samm": {"apex_outside", "offset_past_end", "stray_file", "nested_folder", *FILES},
    "smic": {"stray_file", "nested_folder", *FILES},
    "smic_e": {"first_frame_note", "onset_far_from_first", "missing_video", "text_row",
               "stray_file", *FILES},
    "cas_me2": {"offset_zero", "apex_zero", "apex_past_offset", "misplaced_video", "stray_file",
                "nested_folder", *FILES},
    "samm_lv": {"onset_zero", "apex_missing", "offset_past_end", "interval_past_end",
                "duplicate_filename", *FILES},
    "casme3": {"apex_before_onset", "onset_after_offset", "onset_zero", "offset_zero",
               "offset_far", "apex_is_onset", "case_differs", "upper_case_video", "stray_file",
               *FILES},
    "casme3_c": {"interval_past_end", "onset_after_offset", "missing_video", "stray_file",
                 "nested_folder", *FILES},
    "mmew": {"apex_blank", "uncut_numbers", "apex_past_offset", "stray_file", "nested_folder",
             *FILES},
    "4dme": {"exchanged_columns", "apex_past_offset", "offset_past_end", "stray_file",
             "nested_folder", *FILES},
    "casme": {"offset_before_onset", "offset_wrong", "onset_wrong", "apex_symbol", "stray_file",
              *FILES},
    "dfme": {"apex_past_offset", "offset_past_end", "stray_file", "nested_folder", *FILES},
    "megc": {"stray_file", "nested_folder", *FILES},
    "csv": {"apex_past_offset", "offset_zero", "unknown_type", "path_outside", "path_absolute",
            "missing_video", "bad_fps", "truncated_film", "stray_file", *FILES},
}  # fmt: skip
# Fields without a column in these sheets: nothing to compare with.
NO_APEX, NO_AUS = {"smic", "smic_e", "casme3_c"}, {"smic", "smic_e"}
OPTIONS = {
    "preset": "smoke", "size": (160, 120), "workers": 1, "seconds": 3.0, "clips": 2,
}  # fmt: skip
OWN = {"casme3_c": {"clips": 1}, "samm_lv": {"macros": (2, 2), "fps": 50.0}}


def picture_only(job) -> tuple[str, int]:
    """Stands in for the renderer: one picture, written under every name the layout asks for."""
    plan, video = job.script.plan, job.video
    shape = (24, 32, 3) if plan.camera.colour else (24, 32)
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    target = job.out / video.place.folder
    if plan.camera.suffix == "avi":
        target.parent.mkdir(parents=True, exist_ok=True)
        writer._write_avi(target, iter([image] * len(video.released)), plan.fps, (32, 24))
    else:
        target.mkdir(parents=True)
        content = writer._encode(image, plan.camera.suffix, plan.camera.quality)
        for frame in video.released:
            (target / video.file_name(frame)).write_bytes(content)
    return video.place.video, len(video.released)


def write(name, out, seed=3, **options):
    """A dataset of layout `name` without the pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_render", picture_only)
        return write_dataset(name, out, seed=seed, **(OPTIONS | OWN.get(name, {}) | options))


@pytest.fixture(scope="module", params=layout_names())
def layout(request, tmp_path_factory):
    """(name, sound copy, copy with planted defects)."""
    folder = tmp_path_factory.mktemp(request.param)
    sound = write(request.param, folder / "sound")
    return request.param, sound, write(request.param, folder / "broken", defects=True)


def drawn_events(root) -> set[tuple]:
    """Truth as (video, subject, type, numbers, emotion, units)."""
    return {
        (v["video"], v["subject"], e["type"], e["onset_number"], e["apex_number"],
         e["offset_number"], e["emotion"], e["aus"])
        for v in load_truth(root).record["videos"]
        for e in v["events"]
    }  # fmt: skip


def test_every_layout_has_an_adapter_and_its_defects_are_listed():
    assert set(layout_names()) <= set(ADAPTERS) and set(layout_names()) == set(PLANTED)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_has_a_synthetic_layout(name):
    if name not in layout_names():
        pytest.skip(f"{name}: no synthetic layout in data/synthetic/layouts yet")
    assert isinstance(get_layout(name), SyntheticLayout)


def test_a_sound_copy_is_read_whole_and_without_findings(layout):
    name, sound, _ = layout
    dataset = open_dataset(name, sound)
    natural = NATURAL.get(name, set())
    assert set(dataset.ledger.reason) == natural, dataset.ledger
    assert set(dataset.videos.video) == set(load_truth(sound).videos)
    report = check_dataset(name, sound, deep=True)
    assert report.exit_code == (3 if natural else 0)
    assert report.images["unreadable"] == 0
    assert dataset.show_faces


def test_events_are_those_that_were_drawn(layout):
    name, sound, _ = layout
    read, drawn = open_dataset(name, sound).events, drawn_events(sound)
    expressions = {d for d in drawn if d[2] != "blink"}
    assert len(expressions) > 0
    if not get_adapter(name).labelled:
        assert read.empty
        return
    assert len(read[read.type != "blink"]) == len(expressions)
    for row in read.itertuples():
        near = {d for d in drawn if d[:4] == (row.video, row.subject, row.type, row.onset_number)}
        assert len(near) == 1, row
        *_, apex, offset, emotion, aus = near.pop()
        assert row.offset_number == offset
        if row.type == "blink":
            continue
        assert pd.isna(row.apex_number) if name in NO_APEX else row.apex_number == apex
        if not (name == "samm_lv" and row.type == "macro"):  # that sheet has no emotions
            assert row.emotion == emotion
        if name not in NO_AUS:
            assert unit_numbers(row.aus) == unit_numbers(aus)


def test_indices_are_those_of_the_truth(layout):
    name, sound, _ = layout
    read = open_dataset(name, sound).events
    drawn = {
        (v["video"], e["type"], e["onset"], e["offset"])
        for v in load_truth(sound).record["videos"]
        for e in v["events"]
    }
    assert {(r.video, r.type, r.onset, r.offset) for r in read.itertuples()} <= drawn


def test_planted_defects_are_found_and_none_is_invented(layout):
    name, sound, broken = layout
    assert load_truth(sound).defects == []
    assert {d["kind"] for d in load_truth(broken).defects} == PLANTED[name]
    missed, invented = unexplained(name, broken)
    assert not missed and not invented, (missed, invented)
    assert check_dataset(name, broken).exit_code == 3


def test_truth_knows_where_videos_went(layout):
    _, _, broken = layout
    truth = load_truth(broken)
    lost = {d["who"] for d in truth.defects if d["kind"] == "missing_video"}
    for video in truth.record["videos"]:
        assert (broken / video["folder"]).exists() != (video["video"] in lost)
    for defect in truth.defects:
        if defect["kind"] in ("truncated_image", "empty_file", "stray_file"):
            assert (broken / defect["who"]).is_file()
        if defect["kind"] == "missing_frame":
            assert (broken / defect["old"]).parent.is_dir()
            assert not (broken / defect["old"]).exists()


@pytest.mark.parametrize("name", ["smic_e", "casme3", "casme", "csv"])
def test_the_same_call_writes_the_same_bytes(name, tmp_path):
    trees = []
    for part in ("a", "b"):
        root = write(name, tmp_path / part, defects=True)
        trees.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert trees[0] == trees[1]
    other = write(name, tmp_path / "c", seed=4, defects=True)
    assert (other / "truth.json").read_bytes() != trees[0][next(
        p for p in trees[0] if p.name == "truth.json")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", layout_names())
def test_any_seed_will_do(name, tmp_path):
    for seed in range(12):
        root = write(name, tmp_path / str(seed), seed=seed, defects=True)
        assert unexplained(name, root) == ([], []), seed
        shutil.rmtree(root)


def first_rows(root, pattern: str, sheet: str | int = 0, stored: bool = True) -> list[tuple]:
    (path,) = root.rglob(pattern)
    book = openpyxl.load_workbook(path, data_only=stored)
    found = book[sheet] if isinstance(sheet, str) else book.worksheets[sheet]
    return list(found.iter_rows(values_only=True))


@pytest.fixture
def sound_of(tmp_path):
    return lambda name: write(name, tmp_path / name)


def test_smic_numbers_and_cameras(sound_of):
    root = sound_of("smic")
    videos = {v["video"]: v for v in load_truth(root).record["videos"]}
    hs = [v["first_file"] for n, v in videos.items() if n.startswith("HS/s20")]
    assert hs and all(f.startswith("image175") and len(f) == len("image17500000.bmp") for f in hs)
    nir = [v["first_file"] for n, v in videos.items() if n.startswith("NIR/")]
    assert nir and all(f[0].isdigit() and len(f) == len("07750.bmp") for f in nir)
    subjects = {c: {n.split("/")[1].split("_")[0] for n in videos if n.startswith(c)}
                for c in ("HS", "VIS", "NIR")}  # fmt: skip
    assert subjects == {"HS": {"s1", "s20"}, "VIS": {"s20"}, "NIR": {"s20"}}
    assert (root / "SMIC_all_raw/HS/s1/non_micro/s1_n1").is_dir()


def test_smic_e_workbooks(sound_of):
    root = sound_of("smic_e")
    shown, typed = (first_rows(root, "SMIC-HS-E*.xlsx", "HS", s) for s in (True, False))
    assert shown[0][:7] == ("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F")
    assert [r[0] for r in shown[1:5]] == [20, 20, 1, 1], "the owner's order, ids as numbers"
    assert not any(c for row in shown[5:] for c in row if str(c or "").strip()), "blank rows"
    assert len(shown) > 5
    for row, formulas in zip(shown[1:5], typed[1:5], strict=True):
        assert all(str(formulas[i]).startswith("=") for i in (4, 8, 9, 12))
        assert row[4] == row[3] + row[10] - 1 and row[12] == row[9] - row[8] + 1
    book = openpyxl.load_workbook(next(root.rglob("SMIC-HS-E*.xlsx")))
    assert book.sheetnames == ["HS", "VIS", "Sheet2", "Sheet3"]
    assert "OnsetF NIR" in first_rows(root, "SMIC-NIR-E*.xlsx")[0]
    assert list(root.rglob("HS/s01/s1_*/image*.jpg")) and list(root.rglob("VIS/s20/*/VIS *.jpg"))


def test_cas_me2_workbook_has_no_headers(sound_of):
    root = sound_of("cas_me2")
    book = openpyxl.load_workbook(root / "CAS(ME)^2code_final.xlsx")
    assert book.sheetnames == ["CASFEcode_final", "naming rule1", "naming rule2"]
    coding = first_rows(root, "*code_final.xlsx")
    assert coding[0][0] == 1 and coding[0][7] in ("macro-expression", "micro-expression")
    people, films = (first_rows(root, "*code_final.xlsx", i) for i in (1, 2))
    assert len(people) == len(coding) and people[0] == (15, "s15", 1)
    assert ("0101", "disgust1") in films


def test_casme3_sheets(sound_of):
    root = sound_of("casme3")
    for pattern in ("*_ME_label*.xlsx", "*_MaE_label*.xlsx"):
        rows = first_rows(root, pattern, "label")
        assert rows[0] == ("Subject", "Filename", "Onset", "Apex", "Offset", "AU",
                           "Objective class", "emotion")  # fmt: skip
        assert all(isinstance(c, str) for row in rows[1:] for c in row), "all cells are text"
    path = root / "annotation" / "CAS(ME)3_part_A_v2.xls"
    assert path.read_bytes()[:4] == b"\xd0\xcf\x11\xe0"
    both, blinks = read_workbook(path)
    assert (both.name, blinks.name) == ("AU+Emotion", "eye blink")
    assert {r[6] for r in both.rows[1:]} == {"Micro-expression", "Macro-expression"}
    assert blinks.rows[0] == ["Subject", "Filename", "Onset", "Offset"]
    assert list(root.glob("part_A/spNO.1/a/depth/*.png"))
    firsts = {v["first_number"] for v in load_truth(root).record["videos"]}
    assert max(firsts) > 7, "the first frames of most videos are lost"


def test_casme3_c_sheet(sound_of):
    root = sound_of("casme3_c")
    rows = first_rows(root, "*part_C_ME.xlsx", "mockCrimeME")
    assert rows[0] == ("sub", "count", "onset", "offset", "au", "emotion")
    assert isinstance(rows[1][0], int) and rows[1][:2] == (1, 1)
    assert any(isinstance(r[4], int) for r in rows[1:])


def test_casme_durations_are_milliseconds(sound_of):
    (sheet,) = read_workbook(sound_of("casme") / "CASME-coded-20190721.xls")
    assert sheet.rows[0][2] is None and sheet.rows[0][7] is None, "two blank columns"
    rows = pd.DataFrame(sheet.rows[1:], columns=sheet.rows[0])
    lengths = rows["OffsetF"] - rows["OnsetF"] + 1
    assert rows["Total"].to_numpy() == pytest.approx(lengths.to_numpy() * 1000 / 60, abs=0.01)
    assert rows["Onset"].max() < rows["Total"].max()


def test_4dme_and_mmew_sheets(sound_of):
    fourd, mmew = sound_of("4dme"), sound_of("mmew")
    rows = first_rows(fourd, "*Micro_release*.xlsx")
    assert rows[0][:9] == ("sub_ID", "fold", "fold_name", "Onset", "Apex", "Offset", "AUs",
                           "Emotion", "eye blink")  # fmt: skip
    assert all(r[6].startswith("AU") for r in rows[1:])
    columns = {c: i for i, c in enumerate(rows[0])}
    for row in rows[1:]:
        units = row[columns["AUs"]].replace("(k)", "").split("+")
        assert {c for c in columns if c[2:].isdigit() and row[columns[c]]} == set(units)
    assert first_rows(mmew, "MMEW*.xlsx")[1][2] == 1, "clips count from their onset"
    assert len(list(mmew.glob("Macro_Expression/*/*/*.jpg"))) == 3


def test_csv_has_films_and_folders(sound_of):
    root = sound_of("csv")
    rows = pd.read_csv(root / "manifest.csv")
    assert rows["path"].str.endswith(".avi").sum() == 4 and len(rows) == 6
    film = cv2.VideoCapture(str(root / rows["path"][0]))
    assert film.read()[0]
    assert set(open_dataset("csv", root).videos.source) == {"frames", "video_file"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("smic_e", {"micros": (1, 3)}),
        ("smic_e", {"macros": (1, 1)}),
        ("casme3", {"clips": 14}),
    ],
)
def test_what_a_sheet_cannot_say_is_refused(name, options, tmp_path):
    with pytest.raises(ConfigError, match=name):
        write(name, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["casme", "casme3", "casme3_c"])
def test_old_excel_without_its_writer_is_said_first(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xlwt", None)
    with pytest.raises(MissingExtraError, match="xlwt"):
        write(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_account_notices_what_is_missed_and_what_is_invented(tmp_path):
    root = write("casme", tmp_path / "out", defects=True)
    truth = load_truth(root)
    (lost,) = (d for d in truth.defects if d["kind"] == "missing_frame")
    neighbour = next((root / lost["old"]).parent.iterdir())
    shutil.copy(neighbour, root / lost["old"])
    other = next(v for v in truth.record["videos"] if v["video"] != lost["who"])
    sorted((root / other["folder"]).glob("*.jpg"))[1].unlink()
    missed, invented = unexplained("casme", root)
    assert [d["kind"] for d in missed] == ["missing_frame"]
    assert "number_gaps" in {row.reason for row in invented}
