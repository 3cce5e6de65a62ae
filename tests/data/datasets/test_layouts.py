"""Each real layout: videos, events, repairs and drops that come out of a folder as shipped."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from data import schema
from data.datasets import ADAPTERS, open_dataset
from data.ingest.tables import ingest
from tests.fakes import dataset_trees as trees


def reasons(dataset, action: str | None = None) -> dict[str, list[str]]:
    """reason -> units, of one action or all."""
    ledger = dataset.ledger if action is None else dataset.ledger[dataset.ledger.action == action]
    return {r: sorted(rows.unit) for r, rows in ledger.groupby("reason")}


def event(dataset, name: str) -> pd.Series:
    return dataset.events.set_index("event").loc[name]


@pytest.mark.parametrize("name", ADAPTERS)
def test_schema_account_and_index_invariants(tmp_path, name):
    dataset = open_dataset(name, trees.build(name, tmp_path))
    for table in ("videos", "frames", "events", "ledger"):
        assert list(getattr(dataset, table).columns) == list(schema.TABLES[table])
    kinds = dataset.ledger[dataset.ledger.action == "dropped"].kind.value_counts()
    assert dataset.counts["rows"] == len(dataset.events) + kinds.get("row", 0)
    assert dataset.counts["folders"] == len(dataset.videos) + kinds.get("video", 0)
    assert dataset.events.event.is_unique and dataset.videos.video.is_unique
    assert set(dataset.events.video) <= set(dataset.videos.video)
    assert not dataset.show_faces and not dataset.videos.show_faces.any()
    frames = dataset.frames
    assert frames.equals(frames.sort_values(["video", "index"], ignore_index=True))
    number = frames.set_index(["video", "index"]).number
    length = dataset.videos.set_index("video").num_frames
    assert (frames.groupby("video").size() == length).all()
    for row in dataset.events.itertuples():
        assert 0 <= row.onset <= row.offset < length[row.video]
        assert number[row.video, row.onset] == row.onset_number
        assert number[row.video, row.offset] == row.offset_number
        if not pd.isna(row.apex):
            assert row.onset <= row.apex <= row.offset
            assert number[row.video, row.apex] == row.apex_number
    assert all((tmp_path / p).is_file() for p in frames.path)


@pytest.mark.parametrize("name", ADAPTERS)
def test_ingest_is_repeatable_and_survives_a_move(tmp_path, name):
    first = ingest(trees.build(name, tmp_path / "a"), name)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = ingest(tmp_path / "b", name)
    assert first.key == second.key
    pd.testing.assert_frame_equal(first.frames, second.frames)
    pd.testing.assert_frame_equal(first.ledger, second.ledger)
    (tmp_path / "b" / first.frames.path[0]).write_bytes(trees.image_bytes(".png") + b" ")
    assert ingest(tmp_path / "b", name).key != first.key


def test_casme2(tmp_path):
    dataset = open_dataset("casme2", trees.casme2(tmp_path))
    assert len(dataset.events) == 7 and dataset.counts["rows"] == 7
    assert set(dataset.videos.subject) == {"sub01", "sub04", "sub05", "sub07", "sub09"}
    assert set(dataset.videos.fps) == {200.0}
    row = event(dataset, "sub01/EP02_01f")
    assert (row.onset, row.apex, row.offset) == (5, 8, 15)
    assert (row.onset_number, row.emotion, row.aus) == (6, "happiness", "12")
    assert event(dataset, "sub09/EP02_01f").aus == "17", "clip names repeat between subjects"
    assert pd.isna(event(dataset, "sub04/EP12_01f").apex)
    assert event(dataset, "sub07/EP06_02_01").objective_class == 4
    assert reasons(dataset) == {
        "apex_missing": ["sub04/EP12_01f"],
        "apex_equals_onset": ["sub05/EP09_05f"],
        "apex_equals_offset": ["sub07/EP06_02_02"],
        "au_uncertain": ["sub05/EP09_05f"],
    }


@pytest.mark.parametrize(
    ("base", "variant", "crop"),
    [
        ("CASME2-RAW", "RAW", False),
        ("CASME2/CASME2/CASME2-RAW/CASME2-RAW", "RAW", False),
        ("CASME2_RAW_selected/CASME2_RAW_selected", "RAW_selected", False),
        ("Cropped", "Cropped", True),
    ],
)
def test_casme2_variants_at_any_depth(tmp_path, base, variant, crop):
    dataset = open_dataset("casme2", trees.casme2(tmp_path, base=base))
    assert dataset.variant["frames"] == variant
    assert set(dataset.videos.provided_crop) == {crop}
    assert len(dataset.events) == 7


def test_casme2_raw_wins_and_the_others_are_named(tmp_path):
    trees.casme2(tmp_path, base="Cropped")
    dataset = open_dataset("casme2", trees.casme2(tmp_path, base="CASME2-RAW"))
    assert dataset.variant["frames"] == "RAW"
    assert "Cropped" in dataset.variant["also_present"]
    assert dataset.counts["folders"] == 7


def test_casme2_frames_root_with_the_sheet_above(tmp_path):
    trees.casme2(tmp_path)
    dataset = open_dataset("casme2", tmp_path / "CASME2-RAW")
    assert len(dataset.events) == 7
    assert dataset.videos.folder.iloc[0] == "sub01/EP02_01f"


def test_casme2_trimmed_clips_stand_in_for_a_wrong_interval(tmp_path):
    rows = [("01", "EP02_01f", None, 306, 309, 316, None, 12, "happiness"),
            ("04", "EP12_01f", None, 3, 5, None, None, 4, "disgust")]  # fmt: skip
    root = trees.casme2(tmp_path, rows, base="CASME2_RAW_selected")
    dataset = open_dataset("casme2", root)
    row = event(dataset, "sub01/EP02_01f")
    assert (row.onset_number, row.offset_number) == (1, 19) and pd.isna(row.apex)
    assert event(dataset, "sub04/EP12_01f").offset_number == 19
    assert reasons(dataset, "repaired") == {
        "apex_outside": ["sub01/EP02_01f"],
        "interval_not_in_clip": ["sub01/EP02_01f"],
        "offset_missing": ["sub04/EP12_01f"],
    }


def test_samm(tmp_path):
    dataset = open_dataset("samm", trees.samm(tmp_path))
    assert set(dataset.videos.person) == {"samm:006", "samm:007", "samm:028", "samm:033"}
    row = event(dataset, "007_6_1")
    assert (row.onset, row.onset_number, row.aus) == (0, 97, "R6|R12+R15")
    fixed = event(dataset, "028_4_1")
    assert fixed.apex_number == 1105, "the published correction for an apex outside the clip"
    assert pd.isna(event(dataset, "033_1_2").apex), "no correction known: the apex stage fills it"
    assert reasons(dataset) == {"apex_outside": ["028_4_1", "033_1_2"]}
    old = dataset.findings.set_index("who").loc["028_4_1"]
    assert (old.old, old.new) == ("9", "1105") and "MEB" in old.source


def test_a_clip_that_is_longer_than_its_event_is_flagged(tmp_path):
    """Files of a clip cut to its expression should be offset - onset + 1."""
    rows = [list(r) for r in trees.SAMM_ROWS[:2]]
    root = trees.samm(tmp_path, rows)
    assert reasons(open_dataset("samm", root)) == {}
    rows[0][5] -= 4
    rows[1][3] += 1
    trees.samm_sheet(root, rows)
    dataset = open_dataset("samm", root)
    assert reasons(dataset) == {"clip_longer_than_event": ["006_1_2", "007_6_1"]}
    assert event(dataset, "006_1_2").offset_number == 576, "the label stands"


def test_samm_apex_right_after_the_onset_is_corrected(tmp_path):
    for onset in (5126, 5120):  # whatever the copy's numbers are
        row = ("032", "032_3_2", 3, onset, onset + 1, 5207, 5208 - onset, "Micro - 1/2", 4,
               "Anger", 3, None)  # fmt: skip
        dataset = open_dataset("samm", trees.samm(tmp_path / str(onset), [row]))
        assert event(dataset, "032_3_2").apex_number == 5130
        assert reasons(dataset) == {"apex_one_after_onset": ["032_3_2"]}
    row = ("006", "006_1_2", 1, 562, 563, 580, 19, "Micro - 1/2", 4, "Anger", 3, None)
    dataset = open_dataset("samm", trees.samm(tmp_path / "other", [row]))
    assert event(dataset, "006_1_2").apex_number == 563, "an apex nobody corrected stays"


def test_samm_without_subject_folders(tmp_path):
    trees.samm(tmp_path)
    flat = tmp_path / "flat"
    flat.mkdir()
    for clip in (tmp_path / "SAMM").glob("*/*"):
        clip.rename(flat / clip.name)
    shutil.rmtree(tmp_path / "SAMM")
    assert len(open_dataset("samm", tmp_path).events) == 4


def test_samm_lv(tmp_path):
    dataset = open_dataset("samm_lv", trees.samm_lv(tmp_path))
    assert set(dataset.videos.kind) == {"long"} and "036_2" in set(dataset.videos.video)
    assert dataset.events.type.value_counts().to_dict() == {"macro": 4, "micro": 3}
    row = event(dataset, "006_1_1")
    assert (row.onset_number, row.apex_number, row.offset_number) == (66, 75, 93)
    assert event(dataset, "006_1_2").emotion == "anger", "joined on the name, not on frames"
    assert pd.isna(event(dataset, "037_4_1_macro").emotion)
    assert event(dataset, "037_4_1_micro").emotion == "surprise"
    assert event(dataset, "018_4_4").onset == 0
    assert event(dataset, "020_6_5").offset == 99
    assert reasons(dataset) == {
        "apex_missing": ["028_4_1"],
        "fractional_frame_number": ["006_1_1", "012_4_1", "018_4_4"],
        "offset_past_last_frame": ["020_6_5"],
        "onset_before_first_frame": ["018_4_4"],
        "outside_video": ["012_4_1"],
        "repeated_key": ["037_4_1"],
    }


def test_samm_lv_without_the_emotion_sheet(tmp_path):
    root = trees.samm_lv(tmp_path)
    (root / "SAMM_Micro_FACS_Codes_v2.xlsx").unlink()
    dataset = open_dataset("samm_lv", root)
    assert dataset.events.emotion.isna().all() and len(dataset.events) == 7
    assert "none" in dataset.variant["emotions"]
    assert "no_emotion_sheet" in reasons(dataset, "flagged")


def test_casme2_without_the_objective_classes(tmp_path):
    root = trees.casme2(tmp_path)
    (root / "CASME2-ObjectiveClasses.xlsx").unlink()
    dataset = open_dataset("casme2", root)
    assert dataset.events.objective_class.isna().all() and len(dataset.events) == 7
    assert "no_objective_sheet" in reasons(dataset, "flagged")


def test_casme3_finds_the_six_bad_rows_and_corrects_them(tmp_path):
    dataset = open_dataset("casme3", trees.casme3(tmp_path))
    micro = dataset.events[dataset.events.type == "micro"].set_index("event")
    assert len(micro) == 9 and micro.subject.nunique() == 7
    numbers = micro[["onset_number", "apex_number", "offset_number"]].astype(int)
    assert tuple(numbers.loc["spNO.149_d_112"]) == (112, 160, 358)
    assert tuple(numbers.loc["spNO.214_c_5"]) == (5, 5, 34)
    assert tuple(numbers.loc["spNO.216_d_2647"]) == (2647, 2655, 2694)
    assert tuple(numbers.loc["spNO.216_e_1"]) == (1, 1, 25)
    assert tuple(numbers.loc["spNO.40_e_1812"]) == (1812, 1824, 1845)
    assert tuple(numbers.loc["spNO.40_e_2327"]) == (2327, 2363, 2403)
    repaired = reasons(dataset, "repaired")
    assert repaired == {
        "apex_missing": ["spNO.216/e_0"],
        "apex_outside": ["spNO.149/d_112"],
        "implausible_length": ["spNO.214/c_5"],
        "offset_before_onset": ["spNO.216/d_3647"],
        "offset_missing": ["spNO.40/e_1812", "spNO.40/e_2327"],
        "onset_before_first_frame": ["spNO.216/e_0"],
    }
    flagged = reasons(dataset, "flagged")
    assert flagged["upper_case_video"] == ["spNO.14/J"]
    assert flagged["apex_equals_onset"] == ["spNO.214/c_5", "spNO.216/e_0", "spNO.8/c_7"]
    assert micro.loc["spNO.14_J_12"].emotion == "others"
    assert micro.loc["spNO.14_J_12"].objective_class == 7


def test_casme3_takes_macro_expressions_and_blinks_from_the_old_workbook(tmp_path):
    dataset = open_dataset("casme3", trees.casme3(tmp_path))
    assert dataset.events.type.value_counts().to_dict() == {"micro": 9, "macro": 1, "blink": 1}
    assert event(dataset, "spNO.1_b_20_macro").video == "spNO.1/b"
    assert pd.isna(event(dataset, "spNO.1_b_20_blink").apex)
    assert "apex_missing" not in reasons(dataset, "flagged")


def test_casme3_case_differences_are_repaired(tmp_path):
    root = trees.casme3(tmp_path)
    folder = root / "part_A" / "part_A" / "spNO.14"
    (folder / "J").rename(folder / "j")
    dataset = open_dataset("casme3", root)
    assert event(dataset, "spNO.14_J_12").video == "spNO.14/j"
    assert reasons(dataset, "repaired")["case_differs"] == ["spNO.14/J_12"]


def test_casme3_old_sheet_version_is_said(tmp_path):
    root = trees.casme3(tmp_path)
    shutil.rmtree(root / "annotation")
    rows = [trees.CASME3_HEADER] + [
        ("spNO.1", "b", i, i, i, "4", "I", "sad") for i in range(1, 922)
    ]
    trees.write_xls(root / "cas(me)3_part_A_ME_label_JpgIndex_v1.xls", {"label": rows})
    dataset = open_dataset("casme3", root)
    assert "v1" in dataset.variant["micro_sheet"]
    assert len(reasons(dataset, "flagged")["old_sheet_version"]) == 1


def test_casme3_clips_of_micro_expressions(tmp_path):
    root = trees.casme3(tmp_path)
    shutil.rmtree(root / "part_A")
    for kind in ("frame", "depth"):
        folder = root / "Part_A_ME_clip" / kind / "spNO.1_b_66"
        trees.write_frames(folder, range(66, 80), "{}.jpg" if kind == "frame" else "{}.png")
    dataset = open_dataset("casme3", root)
    assert list(dataset.events.event) == ["spNO.1_b_66"]
    assert dataset.videos.video.tolist() == ["spNO.1_b_66"]
    assert dataset.videos.folder.iloc[0].startswith("Part_A_ME_clip/frame")


def test_cas_me2(tmp_path):
    dataset = open_dataset("cas_me2", trees.cas_me2(tmp_path))
    assert dataset.events.type.value_counts().to_dict() == {"macro": 4, "micro": 1}
    assert event(dataset, "s15_happy1_2").offset_number == 12, "offset 0: the apex ends it"
    assert event(dataset, "s15_disgust2_3").video == "s15_0102"
    moved = dataset.videos.set_index("video").loc["s23_0502"]
    assert moved.subject == "s23" and "/s19/" in f"/{moved.folder}"
    assert reasons(dataset) == {
        "apex_missing": ["s23_happy1_1"],
        "apex_outside": ["s23_happy1_2"],
        "misplaced_video": ["s23_0502"],
        "offset_missing": ["s15_happy1_2"],
        "same_interval": ["s23_happy1_2"],
    }


def test_cas_me2_misplaced_video_beside_the_right_one(tmp_path):
    trees.cas_me2(tmp_path, misplaced=False)
    dataset = open_dataset("cas_me2", trees.cas_me2(tmp_path, misplaced=True))
    videos = dataset.videos.set_index("video")
    assert videos.loc["s23_0502"].folder.startswith("rawpic/s23/")
    assert videos.loc["s19_0502"].person == "cas_me2:s23", "the face is the one of the name"


def test_smic(tmp_path):
    dataset = open_dataset("smic", trees.smic(tmp_path))
    videos = dataset.videos.set_index("video")
    assert videos.fps.to_dict() == {
        "HS/s1_ne_01": 100.0,
        "HS/s20_sur_02": 100.0,
        "NIR/s11_po_01": 25.0,
        "VIS/s11_po_01": 25.0,
    }
    assert videos.loc["NIR/s11_po_01"].person == videos.loc["VIS/s11_po_01"].person == "smic:11"
    row = event(dataset, "HS/s20_sur_02")
    assert (row.onset, row.offset_number, row.emotion) == (0, 17581049, "surprise")
    assert "1 neutral" in dataset.variant["non_micro"]
    assert dataset.ledger.empty


def test_smic_crops_fill_in_and_a_camera_folder_is_enough(tmp_path):
    trees.smic(tmp_path, base="SMIC_all_cropped", prefix="reg_")
    cropped = open_dataset("smic", tmp_path)
    assert cropped.videos.provided_crop.all()
    trees.smic(tmp_path)
    both = open_dataset("smic", tmp_path)
    assert not both.videos.provided_crop.any() and len(both.videos) == 4
    hs = open_dataset("smic", tmp_path / "SMIC_all_raw" / "HS")
    assert set(hs.videos.video) == {"HS/s1_ne_01", "HS/s20_sur_02"}


def test_smic_e(tmp_path):
    dataset = open_dataset("smic_e", trees.smic_e(tmp_path))
    row = event(dataset, "HS/s20_ne_01")
    assert (row.onset, row.offset, row.onset_number) == (13, 29, 17580900), "a formula offset"
    assert event(dataset, "HS/s20_ne_01#2").onset_number == 17580950
    assert event(dataset, "HS/s3_ne_21").person == "smic:03", "folder s03, clip s3_"
    assert dataset.counts["rows"] == 4
    assert reasons(dataset, "dropped") == {"video_missing": ["HS/s3_ne_03"]}
    flagged = reasons(dataset, "flagged")
    assert flagged["note_in_a_number"] == ["HS/s3_ne_21"]
    assert len(flagged["not_an_annotation"]) == 1


def test_smic_e_renumbered_files(tmp_path):
    root = trees.smic_e(tmp_path)
    folder = next(root.rglob("s20_ne_01"))
    shutil.rmtree(folder)
    trees.write_frames(folder, range(1, 101), "img{}.jpg")
    dataset = open_dataset("smic_e", root)
    assert event(dataset, "HS/s20_ne_01").onset == 13
    assert reasons(dataset, "repaired")["files_renumbered"] == ["HS/s20_ne_01", "HS/s20_ne_01#2"]


def test_casme3_c(tmp_path):
    dataset = open_dataset("casme3_c", trees.casme3_c(tmp_path))
    assert dataset.videos.video.tolist() == ["01", "02", "22"]
    assert event(dataset, "01_2").aus == "R4+5"
    assert event(dataset, "02_1").aus == "1+2", "a full-width comma"
    assert dataset.events.apex.isna().all() and dataset.ledger.empty
    assert "not used" in dataset.variant["organised_sheet"]


@pytest.mark.parametrize("subject_first", [False, True])
def test_mmew_in_both_folder_orders(tmp_path, subject_first):
    dataset = open_dataset("mmew", trees.mmew(tmp_path, subject_first))
    assert set(dataset.videos.subject) == {"S01", "S05", "S06"}
    row = event(dataset, "S06-02-001")
    assert (row.onset, row.apex, row.offset) == (0, 7, 14), "numbers of the uncut video"
    assert event(dataset, "S06-02-002").offset_number == 15
    assert "repression" in dataset.variant["others"]
    assert dataset.variant["macro_pictures"] == "1 left aside"
    assert reasons(dataset) == {
        "apex_outside": ["S06-02-002"],
        "numbers_of_uncut_video": ["S06-02-001"],
        "offset_missing": ["S06-02-002"],
    }


def test_4dme(tmp_path):
    dataset = open_dataset("4dme", trees.fourd(tmp_path))
    combined = event(dataset, "S13/S13_1st_001_01_2")
    assert combined.emotion == "positive+surprise" and pd.isna(combined.label_5)
    assert combined.aus == "4+14(k)"
    assert event(dataset, "S13/S13_1st_001_01_1").label_5 == "negative"
    assert reasons(dataset) == {"au_columns_differ": ["S14/S14_1st_001_01_1"]}


@pytest.mark.parametrize(("base", "crop"), [("CASME_A/Section A", False), ("Cropped", True)])
def test_casme(tmp_path, base, crop):
    dataset = open_dataset("casme", trees.casme(tmp_path, base))
    assert set(dataset.videos.provided_crop) == {crop}
    row = event(dataset, "sub01/EP01_12")
    assert (row.onset_number, row.apex_number, row.offset_number) == (3, 8, 13)
    assert row.emotion == "tense" and row.label_4 == "others"
    held = event(dataset, "sub07/EP01_6")  # frames 4 to 6 are its apex phase
    assert (held.onset_number, held.apex_number, held.offset_number) == (2, 5, 9)
    found = reasons(dataset)
    assert found.pop("total_differs") == ["sub07/EP01_7"]
    assert set(found) == ({"clip_longer_than_event"} if crop else set())


def test_casme_sections_are_one_dataset(tmp_path):
    trees.casme(tmp_path, "CASME_A/Section A")
    section_b = tmp_path / "CASME_B" / "Section B"
    section_b.mkdir(parents=True)
    (tmp_path / "CASME_A" / "Section A" / "sub07").rename(section_b / "sub07")
    dataset = open_dataset("casme", tmp_path)
    assert set(dataset.videos.subject) == {"sub01", "sub07"} and len(dataset.events) == 3


def test_csv_manifest(tmp_path):
    dataset = open_dataset("csv", trees.manifest(tmp_path))
    assert dataset.videos.fps.to_dict() == {0: 120.0, 1: 60.0}
    assert dataset.videos.video.tolist() == ["p1/clip a", "p2/ünïcode"]
    row = event(dataset, "p1/clip a#2")
    assert (row.onset, row.apex, row.offset, row.type) == (10, 12, 18, "macro")
    assert row.label_3 == "positive" and dataset.ledger.empty


def test_csv_manifest_may_declare_faces_and_own_labels(tmp_path):
    text = (
        "subject,path,fps,onset,offset,event,label_5,show_faces\n"
        "p1,p1/clip a,120,2,9,first,grin,true\np2,p2/ünïcode,60,3,4,second,frown,yes\n"
    )
    dataset = open_dataset("csv", trees.manifest(tmp_path, text))
    assert dataset.show_faces and dataset.videos.show_faces.all()
    assert dataset.events.label_5.tolist() == ["grin", "frown"]


def test_csv_video_file(tmp_path):
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 24), True
    )
    for i in range(12):
        writer.write(np.full((24, 32, 3), 10 * i, np.uint8))
    writer.release()
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 4 // 5])
    text = "subject,path,fps,onset,apex,offset\np,a.avi,25,3,5,8\nq,bad.mp4,25,1,2,3\n"
    text += "q,cut.avi,25,1,2,3\n"
    (tmp_path / "manifest.csv").write_text(text)
    dataset = open_dataset("csv", tmp_path)
    video = dataset.videos.iloc[0]
    assert (video.source, video.num_frames, video.width, video.height) == ("video_file", 12, 32, 24)
    assert dataset.events.iloc[0].onset == 2
    assert reasons(dataset, "dropped") == {
        "unreadable_video": ["bad.mp4"],
        "video_missing": ["bad.mp4#1"],
    }
    assert reasons(dataset, "flagged") == {"truncated_video": ["cut.avi"]}
    assert dataset.videos.num_frames[1] < 12


def test_people_are_one_across_samm_and_across_smic(tmp_path):
    clips = open_dataset("samm", trees.samm(tmp_path / "a"))
    long = open_dataset("samm_lv", trees.samm_lv(tmp_path / "b"))
    assert "samm:006" in set(clips.videos.person) & set(long.videos.person)
    short = open_dataset("smic", trees.smic(tmp_path / "c"))
    assert "smic:20" in set(short.videos.person)
    assert "smic:20" in set(open_dataset("smic_e", trees.smic_e(tmp_path / "d")).videos.person)
