"""DFME, the challenges' test sets, and the trees and sheets of real copies of older datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.datasets import dfme, open_dataset
from data.datasets.fourd import merged_label
from data.errors import DatasetError
from data.folds import leave_one_subject_out
from data.ingest.check import CLEAN, check_dataset
from tests.fakes import dataset_trees as trees


def reasons(dataset) -> dict[str, list[str]]:
    return dataset.ledger.groupby("reason").unit.agg(list).to_dict()


# ------------------------------------------------------------------------------------ DFME


def test_dfme_subset(tmp_path: Path) -> None:
    found = open_dataset("dfme", trees.dfme(tmp_path))
    videos = found.videos.set_index("video")
    assert videos.fps.to_dict() == {"sub0003_01": 500, "sub0003_02": 300, "sub0601_01": 200}
    assert videos.person["sub0003_02"] == "dfme:sub0003"
    events = found.events.set_index("event")
    first = events.loc["sub0003_01"]
    assert (first.onset, first.apex, first.offset, first.onset_number) == (2, 5, 9, 2)
    assert events.loc["sub0601_01"].onset_number == 0  # frames are numbered from 0
    assert events.label_3.tolist() == ["positive", "negative", "surprise"]
    assert events.label_7.tolist() == ["happiness", "disgust", "surprise"]
    assert reasons(found) == {"apex_outside": ["sub0003_02"]}
    assert found.variant["release"] == "3 of challenge subset"


def test_dfme_release_takes_the_rate_from_the_folder_and_compares_emotions(tmp_path: Path) -> None:
    part = tmp_path / "USTC_MEv4_partD_sub0301_sub0671_500fps" / "micro"
    trees.write_frames(part / "disgust" / "sub0301_01", range(12), "{:05d}.jpg")
    trees.write_frames(part / "fear" / "sub0301_02", range(12), "{:05d}.jpg")
    header = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "AU1", "Emotion",
              "AU4")  # fmt: skip
    rows = [("sub0301", "sub0301_01", 0, 4, 11, 1, "Disgust", 1),
            ("sub0302", "sub0301_02", 0, 4, 11, 0, "sadness", 0)]  # fmt: skip
    trees.write_xlsx(tmp_path / "DFME_data_coding.xlsx", {"Sheet1": [header, *rows]})
    found = open_dataset("dfme", tmp_path)
    assert set(found.videos.fps) == {500.0} and "full release" in found.variant["release"]
    said = reasons(found)
    assert said["emotion_differs_from_folder"] == said["subject_differs"] == ["sub0301_02"]
    assert found.events.aus.tolist()[0] == "1+4" and found.events.aus.isna().tolist() == [
        False,
        True,
    ]


def test_dfme_without_labels_and_with_a_second_sheet(tmp_path: Path) -> None:
    for clip in ("sub0575_01", "sub0576_01", "sub0577_01"):
        trees.write_frames(tmp_path / "test_data_A" / "test_data_A" / clip, range(9), "{:05d}.png")
    (tmp_path / "CCAC2024_test_A_withstart.csv").write_text(
        "Filename,StartFrame\nsub0575_01,2\nsub0576_01,3\n"
    )
    found = open_dataset("dfme", tmp_path)
    assert found.events.onset.tolist() == [2, 3] and found.events.offset.tolist() == [8, 8]
    assert found.events.emotion.isna().all() and "not said of 3 clips" in found.variant["fps"]
    assert reasons(found)["video_not_in_sheet"] == ["sub0577_01"]
    header = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion")
    rows = [("sub0575", "sub0575_01", 1, 3, 7, "anger")]
    trees.write_xlsx(tmp_path / "testA_full.xlsx", {"Sheet1": [header, *rows]})
    more = open_dataset("dfme", tmp_path).events.set_index("event")
    assert more.emotion["sub0575_01"] == "anger" and more.onset["sub0575_01"] == 1
    assert more.onset["sub0576_01"] == 3


def test_dfme_labels_beside_a_wide_sheet_without_any(tmp_path: Path) -> None:
    for clip in ("sub0575_01", "sub0576_01"):
        trees.write_frames(tmp_path / "test_data_A" / clip, range(9), "{:05d}.png")
    wide = ("Subject", "Filename", "Onset", "Apex", "Offset", "Emotion", "AU4", "AU7")
    rows = [("sub0575", "sub0575_01", 1, 4, 7, None, 1, 1), ("sub0576", "sub0576_01", 2, 5, "/",
            "fear", 0, 0)]  # fmt: skip
    trees.write_xlsx(tmp_path / "CCAC2024.xlsx", {"Sheet1": [wide, *rows]})
    labels = [("Filename", "Emotion", "Offset", "AUs"), ("sub0575_01", "anger", 7, "12"),
              ("sub0576_01", "surprise", 8, "12")]  # fmt: skip
    trees.write_xlsx(tmp_path / "testA_labels.xlsx", {"Sheet1": labels})
    found = open_dataset("dfme", tmp_path)
    events = found.events.set_index("event")
    assert events.emotion.to_dict() == {"sub0575_01": "anger", "sub0576_01": "fear"}
    assert events.offset.to_dict() == {"sub0575_01": 7, "sub0576_01": 8}
    assert events.aus.to_dict() == {"sub0575_01": "4+7", "sub0576_01": "12"}
    [row] = found.ledger[found.ledger.reason == "sheets_differ"].itertuples()
    assert row.unit.startswith("testA_labels.xlsx") and row.detail.startswith("2 cells say")


def test_dfme_numbers_for_emotions_are_read_from_a_whole_sheet_only(tmp_path: Path) -> None:
    rows = [(f"sub{i:04d}", f"sub{i:04d}_01", i % 2) for i in (1, 2, 3)]
    for row in rows:
        trees.write_frames(tmp_path / "train_data" / row[1], range(5), "{:05d}.png")
    header = ("Subject", "Filename", "EmotionId")
    trees.write_xlsx(tmp_path / "CCAC2024.xlsx", {"Sheet1": [header, *rows]})
    part = open_dataset("dfme", tmp_path)
    assert part.events.emotion.isna().all() and "emotion_ids_unclear" in reasons(part)
    order = ["disgust", "surprise", "sadness", "fear", "happiness", "anger", "contempt"]
    ids = [i for i, name in enumerate(order) for _ in range(dfme.TRAIN[name])]
    whole = [(f"sub{n:04d}", f"sub{n:04d}_01", i) for n, i in enumerate(ids)]
    trees.write_xlsx(tmp_path / "CCAC2024.xlsx", {"Sheet1": [header, *whole]})
    events = open_dataset("dfme", tmp_path).events
    assert set(events.emotion) == {"disgust"}  # sub0001 to sub0003 are among the first 548
    some = {"Sheet1": [("Filename", "Emotion"), ("sub0001_01", "fear")]}
    trees.write_xlsx(tmp_path / "some.xlsx", some)  # and so they are when one is named elsewhere
    events = open_dataset("dfme", tmp_path).events
    assert sorted(events.emotion) == ["disgust", "disgust", "fear"]


# ------------------------------------------------------------------------------------ MEGC


def test_megc_long_videos(tmp_path: Path) -> None:
    found = open_dataset("megc", trees.megc(tmp_path))
    videos = found.videos.set_index("video")
    assert videos.fps.to_dict() == {"cas/dzw_a1": 30, "cas/gcf_f2": 30, "samm/001_2": 200}
    assert videos.subject.to_dict()["cas/dzw_a1"] == "dzw" and set(videos.kind) == {"long"}
    assert found.events.empty and found.variant["sets"] == "2023 on, long: 3 of 30"
    assert reasons(found) == {"unrecognised_folder": ["CAS_data/preview"]}
    (tmp_path / "CAS_data" / "preview").rename(tmp_path / "CAS_data" / "smy_d1")
    assert check_dataset("megc", tmp_path).exit_code == CLEAN  # no truth is no defect


def test_megc_2022_and_clips(tmp_path: Path) -> None:
    trees.write_frames(tmp_path / "CAS_Test_cropped" / "sub01", range(1, 9), "{}.jpg")
    trees.write_frames(tmp_path / "SAMM_Test_cropped" / "003_1", range(1, 9), "{}.jpg")
    trees.write_frames(tmp_path / "VQA" / "CAS-12", range(9), "{}.bmp")
    trees.write_frames(tmp_path / "VQA" / "SAMM-7", range(9), "{}.png")
    found = open_dataset("megc", tmp_path)
    videos = found.videos.set_index("video")
    assert videos.kind.to_dict() == {
        "cas/CAS-12": "clip", "cas/sub01": "long", "samm/003_1": "long", "samm/SAMM-7": "clip",
    }  # fmt: skip
    assert videos.provided_crop.to_dict()["cas/sub01"] and found.variant["sets"] == (
        "2022, long: 2 of 10; clips: 2 of 24"
    )


@pytest.mark.parametrize("folder", ["CASME2-RAW/sub01", "SAMM_longvideos/006_1", "x/sub01"])
def test_megc_is_not_mistaken(tmp_path: Path, folder: str) -> None:
    trees.write_frames(tmp_path / folder, range(1, 5), "img{}.jpg")
    with pytest.raises(DatasetError) as caught:
        open_dataset("megc", tmp_path)
    assert caught.value.code == "no_videos"


# ------------------------------------------------------------------------------------ real copies


def test_casme2_sheet_of_2019_names_its_differences(tmp_path: Path) -> None:
    root = trees.casme2(tmp_path)
    (root / "CASME2-coding-20140508.xlsx").unlink()
    header = ["Onset Frame" if c == "OnsetFrame" else c for c in trees.CASME2_HEADER]
    rows = [(*row, 1) for row in trees.CASME2_ROWS]
    trees.write_xlsx(root / "c.xlsx", {"Sheet1": [[*header, "Objective Classes"], *rows]})
    found = open_dataset("casme2", root)
    assert found.variant["sheet_version"] == "2019"
    assert "148 clips" in found.variant["sheet_differences"]


def test_casme2_table_without_header_is_refused(tmp_path: Path) -> None:
    root = trees.casme2(tmp_path)
    (root / "CASME2-coding-20140508.xlsx").unlink()
    trees.write_xlsx(root / "label_mouath.xlsx", {"Sheet1": trees.CASME2_ROWS})
    with pytest.raises(DatasetError, match="no header row") as caught:
        open_dataset("casme2", root)
    assert caught.value.code == "wrong_sheet"


def fourd(root: Path) -> Path:
    header = ("SubID", "fold_name", "Onset", "Apex", "Offset", "AUs", "Emotion")
    rows = [
        ("S08", "S08_002_01_1", 1831, 1836, 1840, "AU4", "Negative"),
        ("S30_1", "S30_1_001_01_1", 11, 15, 20, "AU12", "Positive+Repression"),
        ("S30_2", "S30_2_001_01_1", 11, 15, 20, "AU1", "Surprise+Negative"),
        ("S08", "S08_003_01_1", 1, 5, 9, "AU12", "Positive"),
    ]
    micro = root / "micro_short_gray_video" / "micro short gray video"
    firsts = (1831, 11, 11)
    for row, first in zip(rows, firsts, strict=False):
        numbers = [n for n in range(first, first + 10) if n != 1834]
        trees.write_frames(micro / row[0] / row[1], numbers, "Frame_{:09d}.jpg")
    trees.write_frames(micro / "images for annotation", range(3), "Frame_{:09d}.jpg")
    macro = root / "macro_short_gray_video" / "macro short gray video" / "S08" / "S08_003_01_1"
    trees.write_frames(macro, range(1, 10), "Frame_{:09d}.jpg")
    trees.write_frames(root / "long_gray_video" / "S08" / "S08_002_01", range(9), "Frame_{}.jpg")
    name = "Micro and Macro-expression labels.xlsx"
    trees.write_xlsx(root / name, {"Sheet1": [header, *rows]})
    return root


def test_4dme_tree_of_real_copies(tmp_path: Path) -> None:
    found = open_dataset("4dme", fourd(tmp_path))
    assert found.videos.person.tolist() == ["4dme:S08", "4dme:S30", "4dme:S30"]
    split = leave_one_subject_out(found.events)
    assert split.folds["4dme:S30"][1] == ("S30_1/S30_1_001_01_1", "S30_2/S30_2_001_01_1")
    first = found.events.set_index("event").loc["S08/S08_002_01_1"]
    assert (first.onset, first.onset_number, first.apex) == (0, 1831, 4)  # a hole before the apex
    assert set(reasons(found)) == {"number_gaps"}
    assert found.variant["coders_images"] == "1 folders left aside"
    assert found.variant["macro_rows"] == "1 rows of macro clips, left aside"
    assert found.events.label_3.isna().tolist() == [False, True, True]
    assert "3 of 3 clips under the merged map" in found.variant["label_3"]


@pytest.mark.parametrize(
    ("emotion", "label"),
    [
        ("positive+repression", "positive"), ("positive+surprise", "surprise"),
        ("negative+repression", "negative"), ("repression", "negative"), ("others", None),
        ("negative+positive", None), (None, None),
    ],
)  # fmt: skip
def test_merged_map_of_4dme(emotion: str | None, label: str | None) -> None:
    assert merged_label(emotion) == label


def test_mmew_apex_beyond_the_last_file_and_repression(tmp_path: Path) -> None:
    base = tmp_path / "Micro_Expression" / "repression" / "S13-07-001"
    trees.write_frames(base, range(1, 16), "{}.jpg")
    macro = tmp_path / "Macro_Expression" / "S01" / "anger"
    trees.write_frames(macro, [1], "S01-07-{:03d}.jpg")
    rows = [(13, "S13-07-001", 62, 70, 76, 4, "others", None)]
    name = "MMEW_Micro_Exp (20).xlsx"
    trees.write_xlsx(tmp_path / name, {"Sheet1": [trees.MMEW_HEADER, *rows]})
    found = open_dataset("mmew", tmp_path)
    assert set(reasons(found)) == {"numbers_of_uncut_video"}
    assert found.events.apex.tolist() == [8] and found.variant["macro_pictures"] == "1 left aside"


def test_smic_nir_apexes(tmp_path: Path) -> None:
    """Four digits in the sheet, five in the files."""
    clip = tmp_path / "NIR" / "s11" / "micro" / "positive" / "s11_po_01"
    trees.write_frames(clip, range(7750, 7760), "{:05d}.bmp")
    trees.write_frames(clip.with_name("s11_po_02"), range(800, 810), "{:05d}.bmp")
    header = ("Subject", "Filename", "OnsetF NIR", "ApexF NIR", "Emotion")
    rows = [(11, "s11_po_01", 7750, 7754, "positive")]
    trees.write_xlsx(tmp_path / "NIR" / "SMIC-NIR-E_annotation.xlsx", {"Sheet1": [header, *rows]})
    found = open_dataset("smic", tmp_path)
    events = found.events.set_index("event")
    assert events.apex["NIR/s11_po_01"] == 4 and events.apex.isna()["NIR/s11_po_02"]
    assert found.videos.fps.tolist() == [25, 25] and not len(found.ledger)


def test_casme3_frames_as_text_dots_and_upper_case(tmp_path: Path) -> None:
    trees.write_frames(tmp_path / "part_A" / "spNO.1" / "J" / "color", range(160, 190), "{}.jpg")
    header = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
    rows = [("spNO.1", "J", "166", "175", "179", "4", "III", "sad")]
    name = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    trees.write_xlsx(tmp_path / name, {"label": [header, *rows]})
    found = open_dataset("casme3", tmp_path)
    assert found.events.onset_number.tolist() == [166] and found.events.emotion.tolist() == [
        "sadness"
    ]
