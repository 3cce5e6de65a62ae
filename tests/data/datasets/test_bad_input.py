"""Broken copies: each gives a named error or a ledger row, never a traceback, never silence."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.datasets import open_dataset
from data.datasets.images import image_size, is_cut_off
from data.datasets.listing import list_frames, walk
from data.errors import DatasetError
from tests.fakes import dataset_trees as trees


def unit_reasons(dataset) -> set[tuple[str, str, str]]:
    return set(zip(dataset.ledger.unit, dataset.ledger.reason, dataset.ledger.action, strict=True))


def refused(name, root) -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(name, root)
    message = str(error.value)
    assert "expected" in message and "got" in message
    return error.value.code


def test_unknown_layout_lists_the_known(tmp_path):
    with pytest.raises(DatasetError, match="casme2, samm"):
        open_dataset("casme4", tmp_path)


def test_no_folder_an_empty_folder_and_a_file(tmp_path):
    assert refused("casme2", tmp_path / "nowhere") == "no_such_folder"
    assert refused("casme2", tmp_path) == "no_videos"
    (tmp_path / "file").write_text("x")
    assert refused("casme2", tmp_path / "file") == "no_such_folder"


@pytest.mark.parametrize("name", [n for n in trees.BUILDERS if n not in ("smic", "megc")])
def test_missing_sheet(tmp_path, name):
    root = trees.BUILDERS[name](tmp_path / "deep" / "set")
    for path in [*root.rglob("*.xls*"), *root.rglob("*.csv")]:
        path.unlink()
    assert refused(name, root) == "no_sheet"


@pytest.mark.parametrize("name", [n for n in trees.BUILDERS if n not in ("smic", "megc")])
def test_wrong_sheet_names_what_was_looked_at(tmp_path, name):
    root = trees.BUILDERS[name](tmp_path / "deep" / "set")
    for path in [*root.rglob("*.xls*"), *root.rglob("*.csv")]:
        path.unlink()
    trees.write_xlsx(root / "other.xlsx", {"s": [("Title", "Pages"), ("a", 3)]})
    with pytest.raises(DatasetError, match=r"other\.xlsx") as error:
        open_dataset(name, root)
    assert error.value.code == "wrong_sheet"


def test_a_damaged_sheet_is_named(tmp_path):
    root = trees.casme2(tmp_path / "deep" / "set")
    (root / "CASME2-coding-20140508.xlsx").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(DatasetError, match="CASME2-coding-20140508") as error:
        open_dataset("casme2", root)
    assert error.value.code == "wrong_sheet"


def test_a_damaged_second_sheet_is_flagged(tmp_path):
    root = trees.casme2(tmp_path)
    (root / "old copy.xls").write_bytes(b"")
    dataset = open_dataset("casme2", root)
    assert ("old copy.xls", "unreadable_sheet", "flagged") in unit_reasons(dataset)


def test_the_sheet_of_another_dataset_is_not_taken(tmp_path):
    root = trees.casme2(tmp_path / "deep" / "set")
    (root / "CASME2-coding-20140508.xlsx").unlink()
    trees.samm_sheet(root)
    assert refused("casme2", root) == "wrong_sheet"


def test_a_sheet_that_nearly_fits_says_what_it_lacks(tmp_path):
    root = trees.casme2(tmp_path / "deep" / "set")
    header = [{"ApexFrame": "Peak", "OffsetFrame": None}.get(c, c) for c in trees.CASME2_HEADER]
    sheets = {"Sheet1": [header, *trees.CASME2_ROWS]}
    trees.write_xlsx(root / "CASME2-coding-20140508.xlsx", sheets)
    with pytest.raises(DatasetError, match="has no column apex, offset") as error:
        open_dataset("casme2", root)
    assert error.value.code == "wrong_sheet"
    rows = [(r[0], f"clip {i}", *r[2:]) for i, r in enumerate(trees.CASME2_ROWS)]
    sheets = {"Sheet1": [trees.CASME2_HEADER, *rows]}
    trees.write_xlsx(root / "CASME2-coding-20140508.xlsx", sheets)
    with pytest.raises(DatasetError, match="its clip cells are of another dataset"):
        open_dataset("casme2", root)
    header = {"Sheet1": [trees.CASME2_HEADER]}
    trees.write_xlsx(root / "CASME2-coding-20140508.xlsx", header)
    with pytest.raises(DatasetError, match="no rows under them"):
        open_dataset("casme2", root)


def test_a_clip_that_no_row_names_is_flagged(tmp_path):
    root = trees.casme2(tmp_path)
    trees.write_frames(root / "CASME2-RAW" / "sub26" / "EP18_50", range(1, 20))
    dataset = open_dataset("casme2", root)
    assert ("sub26/EP18_50", "video_not_in_sheet", "flagged") in unit_reasons(dataset)
    assert "sub26/EP18_50" in set(dataset.videos.video)


def test_newer_sheet_with_more_matching_rows_wins(tmp_path):
    root = trees.casme2(tmp_path)
    trees.write_xlsx(
        root / "CASME2-coding-20190701.xlsx",
        {"Sheet1": [trees.CASME2_HEADER, *trees.CASME2_ROWS]},
    )
    dataset = open_dataset("casme2", root)
    assert "20190701" in dataset.variant["sheet"]
    assert "20140508" in dataset.variant["sheet_also_present"]


def test_subject_cells_that_became_numbers(tmp_path):
    rows = [(int(r[0]), *r[1:]) for r in trees.CASME2_ROWS]
    trees.casme2(tmp_path)
    trees.write_xlsx(
        tmp_path / "CASME2-coding-20140508.xlsx", {"Sheet1": [trees.CASME2_HEADER, *rows]}
    )
    assert len(open_dataset("casme2", tmp_path).events) == 7


@pytest.fixture
def clip(tmp_path):
    """One CASME II clip's folder inside a sound copy."""
    root = trees.casme2(tmp_path)
    return root, root / "CASME2-RAW" / "sub01" / "EP02_01f"


UNIT = "sub01/EP02_01f"


def test_missing_folder_drops_the_row(clip):
    root, folder = clip
    shutil.rmtree(folder)
    dataset = open_dataset("casme2", root)
    assert (UNIT, "video_missing", "dropped") in unit_reasons(dataset)
    assert dataset.counts["rows"] == 7 and len(dataset.events) == 6


def test_empty_folder_drops_video_and_row(clip):
    root, folder = clip
    for path in folder.iterdir():
        path.unlink()
    dataset = open_dataset("casme2", root)
    assert (UNIT, "empty_folder", "dropped") in unit_reasons(dataset)
    assert (UNIT, "video_missing", "dropped") in unit_reasons(dataset)


def test_number_gaps_move_the_event_inwards(clip):
    root, folder = clip
    for number in (6, 9, 16):  # onset, apex and offset
        (folder / f"img{number}.jpg").unlink()
    dataset = open_dataset("casme2", root)
    row = dataset.events.set_index("event").loc[UNIT]
    assert (row.onset_number, row.apex_number, row.offset_number) == (7, 8, 15)
    assert row.onset == 5, "the index counts the files that are there"
    assert (UNIT, "number_gaps", "flagged") in unit_reasons(dataset)
    moved = dataset.findings[dataset.findings.reason == "frame_missing"]
    assert moved.column.tolist() == ["apex", "offset", "onset"]


def test_event_without_any_frame_is_dropped(clip):
    root, folder = clip
    for number in range(6, 17):
        (folder / f"img{number}.jpg").unlink()
    assert (UNIT, "no_frame_in_interval", "dropped") in unit_reasons(open_dataset("casme2", root))


def test_zero_byte_and_truncated_files_are_flagged_and_kept(clip):
    root, folder = clip
    (folder / "img3.jpg").write_bytes(b"")
    (folder / "img1.jpg").write_bytes(b"\xff\xd8 cut")
    dataset = open_dataset("casme2", root)
    found = unit_reasons(dataset)
    assert (UNIT, "zero_byte_file", "flagged") in found
    assert (UNIT, "unreadable_frame", "flagged") in found
    assert dataset.videos.set_index("video").num_frames[UNIT] == 19


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_truncated_frame_is_found_by_its_missing_end(clip, suffix):
    root, folder = clip
    for path in folder.iterdir():
        path.unlink()
    trees.write_frames(folder, range(1, 20), "img{}" + suffix)
    assert not is_cut_off(folder / f"img9{suffix}")
    (folder / f"img9{suffix}").write_bytes(trees.image_bytes(suffix)[:60])
    assert is_cut_off(folder / f"img9{suffix}")
    found = [d for r, d in list_frames(folder).problems if r == "truncated_file"]
    assert found == [f"1: img9{suffix}"]
    assert (UNIT, "truncated_file", "flagged") in unit_reasons(open_dataset("casme2", root))


def test_stray_files_are_named(clip):
    root, folder = clip
    (folder.parent / "Desktop - Shortcut.lnk").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    found = unit_reasons(open_dataset("casme2", root))
    assert ("CASME2-RAW/sub01/Desktop - Shortcut.lnk", "stray_file", "flagged") in found
    assert ("CASME2-RAW/sub01/EP02_01f/notes.txt", "stray_file", "flagged") in found


def test_a_picture_that_claims_a_huge_size_is_flagged(clip):
    root, folder = clip
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60000).to_bytes(4, "big") * 2
    for path in folder.iterdir():
        path.unlink()
    trees.write_frames(folder, range(1, 20), "img{}.png")
    (folder / "img1.png").write_bytes(head + trees.image_bytes(".png"))
    assert (UNIT, "huge_image", "flagged") in unit_reasons(open_dataset("casme2", root))


def test_directory_named_like_an_image(clip):
    root, folder = clip
    (folder / "img99.jpg").mkdir()
    dataset = open_dataset("casme2", root)
    assert (UNIT, "directory_named_like_image", "flagged") in unit_reasons(dataset)
    assert dataset.videos.set_index("video").num_frames[UNIT] == 19


def test_strays_without_numbers_hidden_files_and_shortcuts(clip):
    root, folder = clip
    (folder / "cover.jpg").write_bytes(trees.image_bytes())
    (folder / "._img1.jpg").write_bytes(b"resource fork")
    (folder / "Desktop - Shortcut.lnk").write_bytes(b"")
    (folder / "img12345678901234567890123.jpg").write_bytes(trees.image_bytes())
    (folder / "img50.jpg").symlink_to("/nowhere/at/all")
    frames = list_frames(folder)
    assert len(frames) == 19
    assert {r for r, _ in frames.problems} == {"no_number", "number_too_large", "not_a_file"}
    assert len(open_dataset("casme2", root).events) == 7


def test_two_files_with_one_number(clip):
    _, folder = clip
    (folder / "img7.png").write_bytes(trees.image_bytes(".png"))
    (folder / "copy 007.jpg").write_bytes(trees.image_bytes())
    frames = list_frames(folder)
    assert frames.names[6] == "img7.jpg", "the commoner style stays"
    assert [r for r, _ in frames.problems] == ["duplicate_number"]


def test_paddings_sort_numerically(tmp_path):
    for name in ("f10.png", "f9.png", "f0008.png", "reg_img11.JPG", "VIS 012.bmp"):
        (tmp_path / name).write_bytes(b"x")
    frames = list_frames(tmp_path)
    assert frames.numbers.tolist() == [8, 9, 10, 11, 12]
    assert frames.names[0] == "f0008.png" and frames.padding == (1, 4)


def test_undecodable_and_unicode_names(tmp_path):
    (tmp_path / "bildér 07.jpg").write_bytes(trees.image_bytes())
    with open(os.fsencode(tmp_path) + b"/bad\xff1.jpg", "wb") as file:
        file.write(b"x")
    frames = list_frames(tmp_path)
    assert frames.numbers.tolist() == [7]
    assert frames.problems[0][0] == "undecodable_name"


def test_unreadable_directory_is_flagged(clip, monkeypatch):
    root, folder = clip
    scandir = os.scandir

    def deny(path):
        if os.fspath(path) == os.fspath(folder):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    found = unit_reasons(open_dataset("casme2", root))
    assert ("CASME2-RAW/sub01/EP02_01f", "permission_denied", "flagged") in found
    assert (UNIT, "video_missing", "dropped") in found
    monkeypatch.setattr(os, "scandir", scandir)


def test_folder_that_turns_unreadable_while_listed(clip, monkeypatch):
    root, folder = clip
    scandir, seen = os.scandir, []

    def deny_later(path):
        if os.fspath(path) == os.fspath(folder):
            seen.append(path)
            if len(seen) > 1:
                raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny_later)
    assert (UNIT, "permission_denied", "dropped") in unit_reasons(open_dataset("casme2", root))


def test_linked_folders_that_loop_end(clip):
    root, folder = clip
    (folder.parent / "loop").symlink_to(root)
    tree = walk(root)
    assert [reason for _, reason, _ in tree.problems] == ["folder_loop"]


@pytest.mark.parametrize("where", ["/", "/proc", "/sys/kernel", "/dev"])
def test_the_whole_disk_is_no_dataset(where):
    """Walking it took minutes, and found manifests of all kinds of things."""
    started = time.monotonic()
    assert refused("csv", Path(where)) == "whole_disk"
    assert time.monotonic() - started < 5


def test_a_link_to_the_whole_disk_is_not_followed(clip):
    root, folder = clip
    (folder.parent / "disk").symlink_to("/")
    tree = walk(root)
    assert [reason for _, reason, _ in tree.problems] == ["whole_disk"]
    ledger = open_dataset("casme2", root).ledger
    assert "the whole disk" in ledger[ledger.reason == "whole_disk"].detail.iloc[0]


def test_a_walk_that_lasts_says_how_far_it_is(clip, monkeypatch, caplog):
    monkeypatch.setattr("data.datasets.listing.SILENT_S", 0.0)
    walk(clip[0])
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{clip[0]}: 1 folders so far") and len(said) > 2


def test_strange_folders_inside_the_frames_root(clip):
    root, _ = clip
    trees.write_frames(root / "CASME2-RAW" / "sub01" / "notes", [1])
    trees.write_frames(root / "pictures", [1])
    dataset = open_dataset("casme2", root)
    found = unit_reasons(dataset)
    assert ("CASME2-RAW/sub01/notes", "unrecognised_folder", "dropped") in found
    assert "1 folder" in dataset.variant["ignored_folders"]


def test_repeated_rows_and_repeated_keys(tmp_path):
    rows = [trees.CASME2_ROWS[0], trees.CASME2_ROWS[0],
            (*trees.CASME2_ROWS[0][:3], 2, 3, 5, *trees.CASME2_ROWS[0][6:])]  # fmt: skip
    dataset = open_dataset("casme2", trees.casme2(tmp_path, rows))
    assert sorted(dataset.events.event) == [UNIT, f"{UNIT}-2"]
    found = unit_reasons(dataset)
    assert (UNIT, "duplicate_event", "dropped") in found
    assert (UNIT, "repeated_key", "repaired") in found


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ((None, 9, 16), "onset_missing"),
        (("six", 9, 16), "onset_not_a_number"),
        ((6, 9, None), "offset_missing"),
        ((6, 9, "?"), "offset_missing"),
        ((16, 9, 6), "offset_before_onset"),
        ((306, 309, 316), "outside_video"),
        ((-9, -5, -3), "offset_missing"),
    ],
)
def test_rows_that_cannot_be_saved_are_dropped_by_name(tmp_path, cells, reason):
    row = ("01", "EP02_01f", None, *cells, None, 12, "happiness")
    dataset = open_dataset("casme2", trees.casme2(tmp_path, [row, *trees.CASME2_ROWS[1:]]))
    assert (UNIT, reason, "dropped") in unit_reasons(dataset)
    assert len(dataset.events) == 6


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc", "path_outside_root"),
        ("../../etc", "path_outside_root"),
        ("a/../../b", "path_outside_root"),
        ("C:\\faces", "path_outside_root"),
        ("..\\up", "path_outside_root"),
        ("link", "path_outside_root"),
        ("", "no_path"),
    ],
)
def test_a_manifest_cannot_leave_its_folder(tmp_path, path, reason):
    outside = tmp_path / "outside"
    trees.write_frames(outside, range(1, 9), "f{}.png")
    root = trees.manifest(tmp_path / "in")
    (root / "link").symlink_to(outside)
    with open(root / "manifest.csv", "a", encoding="utf-8") as file:
        file.write(f"p3,{path},60,1,2,3,micro,,anger,\n")
    dataset = open_dataset("csv", root)
    assert reason in set(dataset.ledger.reason)
    assert len(dataset.videos) == 2 and len(dataset.events) == 2
    assert dataset.counts["rows"] == 3


def test_a_manifest_may_name_a_hidden_folder(tmp_path):
    root = trees.manifest(tmp_path, "subject,path,fps,onset,offset\np1,.kept/clip,120,2,9\n")
    trees.write_frames(root / ".kept" / "clip", range(1, 21))
    assert len(open_dataset("csv", root).events) == 1


@pytest.mark.parametrize("fps", ["", "fast", "0", "-5", "inf", "nan"])
def test_a_manifest_needs_a_frame_rate(tmp_path, fps):
    root = trees.manifest(tmp_path)
    with open(root / "manifest.csv", "a", encoding="utf-8") as file:
        file.write(f"p3,p2/ünïcode,{fps},1,2,3,micro,,anger,\n")
    assert "bad_fps" in set(open_dataset("csv", root).ledger.reason)


def test_manifest_ids_cannot_be_paths_upwards(tmp_path):
    text = "subject,path,fps,video,event,onset,offset\np1,p1/clip a,60,../x,e,1,3\n"
    text += "p2,p2/ünïcode,60,ok,../../e,1,3\np2,p2/ünïcode,60,ok,fine,1,3\n"
    dataset = open_dataset("csv", trees.manifest(tmp_path, text))
    assert dataset.events.event.tolist() == ["fine"]
    assert (dataset.ledger.reason == "bad_identifier").sum() == 2


def test_two_manifests_are_refused(tmp_path):
    root = trees.manifest(tmp_path)
    (root / "manifest.csv").rename(root / "a.csv")
    shutil.copy(root / "a.csv", root / "b.csv")
    assert refused("csv", root) == "several_manifests"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("kind", ["grey", "colour", "16-bit"])
def test_image_size_comes_from_the_header(tmp_path, suffix, kind):
    if kind == "16-bit" and suffix in (".jpg", ".bmp"):
        pytest.skip("the format has no 16-bit images")
    shape = (37, 53, 3) if kind == "colour" else (37, 53)
    image = np.zeros(shape, np.uint16 if kind == "16-bit" else np.uint8)
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), image)
    assert image_size(path) == (53, 37)


@pytest.mark.parametrize(
    "head", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"BM", b"II*\x00", b"GIF89a"]
)
def test_images_without_a_header(tmp_path, head):
    (tmp_path / "a.jpg").write_bytes(head)
    assert image_size(tmp_path / "a.jpg") is None
    assert image_size(tmp_path / "missing.jpg") is None


def test_cmyk_jpeg_has_a_size(tmp_path):
    from PIL import Image

    Image.new("CMYK", (53, 37)).save(tmp_path / "a.jpg")
    assert image_size(tmp_path / "a.jpg") == (53, 37)


def test_synthetic_faces_may_be_shown(tmp_path):
    root = trees.casme2(tmp_path)
    (root / "truth.json").write_text('{"generator": "apexflow-synthetic"}')
    assert open_dataset("casme2", root).videos.show_faces.all()
    (root / "truth.json").write_text('{"generator": "somebody"}')
    assert not open_dataset("casme2", root).show_faces
    (root / "truth.json").write_text("not json")
    assert not open_dataset("casme2", root).show_faces
