"""Sheets of the published sizes, made-up rows: what the sheet says beside what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.datasets import open_dataset
from data.ingest.check import check_dataset
from data.ingest.tables import ingest
from tests.fakes import dataset_trees as trees

Row = tuple[Any, ...]


def sparse(root: Path, wanted: dict[str, set[int]], name: str) -> None:
    """Only the frames that are named; `wanted`: folder -> numbers."""
    for folder, numbers in wanted.items():
        trees.write_frames(root / folder, sorted(numbers), name)


def samm_lv_rows() -> list[Row]:
    """502 rows: 343 macro, 159 micro; every surprise of the public sheet as often as there."""
    videos = [f"{6 + v % 30:03d}_{1 + v // 30}" for v in range(147)]
    rows: list[Row] = []
    for i in range(502):
        video = videos[i % 147]
        macro = i < 343
        onset, apex, offset = 20 + 60 * (i // 147), 30 + 60 * (i // 147), 45 + 60 * (i // 147)
        cells: list[Any] = [onset, apex, offset]
        if i < 178:
            cells = [onset + 0.4000001, apex - 0.4, offset + 0.2]
        elif i < 188:
            cells[0] = 0
        if 190 <= i < 194 or 350 <= i < 352:
            cells[1] = -1
        if i in (200, 201):
            cells[2] = 5000
        if i == 202:
            cells = [4000, 4005, 4010]
        kind = "Macro" if macro else "Micro - 1/2"
        rows.append((video[:3], f"{video}_{1 + i // 147}", 1, *cells, None, kind, "4+7", None))
    twin = rows[342]
    rows[343] = (twin[0], twin[1], 1, 330, 335, 340, None, "Micro - 1/2", 4, None)
    return rows


def test_samm_long_videos_of_the_published_size(tmp_path):
    rows = samm_lv_rows()
    wanted = {f"SAMM_longvideos/{r[1].rpartition('_')[0]}": {1, 400} for r in rows}
    for row in rows:
        numbers = wanted[f"SAMM_longvideos/{row[1].rpartition('_')[0]}"]
        numbers.update(int(n + 0.5) for n in row[3:6] if 0 < n < 4000)
    sparse(tmp_path, wanted, "x_{:04d}.jpg")
    sheet = {"FACS_Movement_Only": [*trees.PROSE[:9], trees.SAMM_LV_HEADER, *rows]}
    trees.write_xlsx(tmp_path / "SAMM_LongVideos_V3_Release.xlsx", sheet)
    report = check_dataset("samm_lv", tmp_path)
    assert {k: (v["rows"], v["kept"], v["dropped"]) for k, v in report.sheet.items()} == {
        "macro": (343, 342, 1),
        "micro": (159, 159, 0),
    }
    macro, micro = report.sheet["macro"], report.sheet["micro"]
    assert macro["fractional_numbers"] == 178 and macro["onset_zero_or_less"] == 10
    assert macro["apex_zero_or_less"] + micro["apex_zero_or_less"] == 6
    assert macro["offset_past_last_frame"] == 3
    found = {what: (n, said) for what, n, said in report.reference}
    assert found["macro rows"] == (343, 343) and found["micro rows"] == (159, 159)
    assert found["rows"] == (502, 502) and found["videos"] == (147, 147)
    reasons = {d["reason"]: d["count"] for d in report.defects}
    assert reasons["fractional_frame_number"] == 178 and reasons["outside_video"] == 1
    assert reasons["repeated_key"] == 1 and reasons["onset_before_first_frame"] == 10
    assert reasons["apex_missing"] == 6 and reasons["offset_past_last_frame"] == 2
    assert "macro: rows 343, kept 342, dropped 1" in report.to_text()
    assert "... and 173 more (--json has every one)" in report.to_text()
    every = [f for f in report.findings if f["reason"] == "fractional_frame_number"]
    assert (
        len(every) == 178
        and every[0].items()
        >= {
            "action": "repaired",
            "column": "onset,apex,offset",
            "old": "20.4000001,29.6,45.2",
            "new": "20,30,45",
            "source": "rounded half up",
        }.items()
    )
    ledger = ingest(tmp_path, "samm_lv").ledger
    said = ledger[ledger.reason == "annotation_account"].iloc[0]
    assert (said.kind, said.unit) == ("dataset", "samm_lv")
    assert said.detail == (
        "502 (343 macro, 159 micro) in the sheet = 501 (342 macro, 159 micro) kept "
        "+ 1 macro dropped"
    )


def test_casme3_part_a_of_the_published_size(tmp_path):
    pairs = [(f"spNO.{1 + i % 94}", "abcdefghijklm"[i // 94]) for i in range(463)]
    rows: list[Row] = []
    wanted: dict[str, set[int]] = {}
    for i in range(860):
        onset = 10 + 100 * (i // 463)
        apex = onset if i % 15 == 0 and i < 825 else onset + 5
        subject, letter = pairs[i % 463]
        rows.append((subject, letter, str(onset), str(apex), str(onset + 20), "4", "III", "sad"))
        frames = wanted.setdefault(f"part_A/{subject}/{letter}/color", {1})
        frames.update((onset, apex, onset + 20))
    sparse(tmp_path, wanted, "{}.jpg")
    trees.write_xlsx(
        tmp_path / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        {"label": [trees.CASME3_HEADER, *rows]},
    )
    report = check_dataset("casme3", tmp_path)
    assert report.sheet["micro"] == {
        "rows": 860,
        "kept": 860,
        "dropped": 0,
        "apex_equals_onset": 55,
        "subjects": 94,
        "videos": 463,
    }
    found = {what: n for what, n, said in report.reference if n == said}
    assert {"micro rows", "micro subjects", "micro videos"} <= found.keys()
    assert {d["reason"]: d["count"] for d in report.defects} == {
        "apex_equals_onset": 55,
        "number_gaps": 463,
    }
    assert "860 rows, v2" in report.variant["micro_sheet"]


def test_casme2_of_the_published_size(tmp_path):
    emotions = {"disgust": 63, "repression": 27, "happiness": 32, "surprise": 25, "others": 99,
                "sadness": 7, "fear": 2}  # fmt: skip
    words = [word for word, n in emotions.items() for _ in range(n)]
    rows: list[Row] = []
    for i, word in enumerate(words):
        rows.append((f"{1 + i % 26:02d}", f"EP{i:02d}_01", None, 3, 6, 9, None, 4, word))
    rows[0] = ("04", "EP12_01f", None, 3, "/", 9, None, "4+L10", "disgust")
    rows[1] = ("05", "EP09_05f", None, 3, 3, 9, None, "?", "disgust")
    wanted = {f"CASME2-RAW/sub{r[0]}/{r[1]}": {1, 3, 6, 9, 12} for r in rows}
    sparse(tmp_path, wanted, "img{}.jpg")
    sheet = {"Sheet1": [trees.CASME2_HEADER, *rows]}
    trees.write_xlsx(tmp_path / "CASME2-coding-20140508.xlsx", sheet)
    report = check_dataset("casme2", tmp_path)
    assert report.sheet["micro"]["rows"] == 255 and report.sheet["micro"]["apex_no_number"] == 1
    assert "2 blank columns" in report.variant["sheet"]
    assert report.variant["sheet_version"] == "2014"
    assert report.classes["megc2019"] == {"negative": 88, "positive": 32, "surprise": 25}
    assert report.unlabelled["megc2019"] == {
        "emotion outside the three classes": 108,
        "excluded by the organisers: apex equals onset": 1,
        "excluded by the organisers: no apex": 1,
    }


def test_cas_me2_of_the_published_size(tmp_path):
    rows: list[Row] = []
    wanted = {f"rawpic/s15/15_0{n}01film": {1, 400} for n in (1, 4)}
    for i in range(357):
        macro = i < 300
        onset = 1 + i
        offset = 0 if i < 44 else onset + 8
        kind = "macro-expression" if macro else "micro-expression"
        clip = f"{'anger' if i % 2 else 'disgust'}1_{i}"
        rows.append((1, clip, onset, onset + 4, offset, 4, "negative", kind, "anger"))
        folder = f"rawpic/s15/15_0{4 if i % 2 else 1}01film"
        wanted[folder].update((onset, onset + 4, onset + 8))
    sparse(tmp_path, wanted, "img{:03d}.jpg")
    trees.write_xlsx(
        tmp_path / "CAS(ME)^2code_final.xlsx",
        {"CASFEcode_final": rows, "naming rule1": [(15, "s15", 1)] * 357,
         "naming rule2": trees.CAS_ME2_FILMS},
    )  # fmt: skip
    report = check_dataset("cas_me2", tmp_path)
    assert (report.sheet["macro"]["rows"], report.sheet["micro"]["rows"]) == (300, 57)
    assert report.sheet["macro"]["offset_zero_or_less"] == 44
    assert {d["reason"]: d["count"] for d in report.defects}["offset_missing"] == 44


def test_rows_without_frames_are_counted_in_the_sheet(tmp_path):
    root = trees.samm(tmp_path)
    for file in (root / "SAMM" / "006" / "006_1_2").iterdir():
        file.unlink()
    dataset = open_dataset("samm", root)
    assert (dataset.sheet["micro"]["rows"], dataset.sheet["micro"]["kept"]) == (4, 3)


def test_a_refused_manifest_row_is_in_the_account(tmp_path):
    text = "subject,path,fps,onset,offset\np1,p1/clip a,120,2,9\np1,../x,120,2,9\n"
    ledger = ingest(trees.manifest(tmp_path, text), "csv").ledger
    assert ledger.iloc[0].detail == (
        "1 micro in the sheet = 1 micro kept + 0 dropped + 1 rows refused"
    )


def test_smic_e_says_rows_events_and_formulas(tmp_path):
    said = open_dataset("smic_e", trees.smic_e(tmp_path)).variant["HS_sheet"]
    assert "3 rows, 1 with more than one event" in said and "4 formula cells" in said
