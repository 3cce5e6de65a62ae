"""CSV manifests as people make them: every separator and encoding, ids shared by people, links,
pipes, films, doubles. The right value or a row in the ledger, and `check` says it before a run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.datasets import open_dataset, sheets
from data.datasets.csv_manifest import COLUMNS
from data.datasets.csv_text import read_csv
from data.datasets.films import NOT_READ
from data.datasets.parsing import frame_number
from data.datasets.sheets import Sheet, find_table
from data.errors import DatasetError, InputError
from data.ingest.check import CLEAN, REPAIRED, check_dataset
from data.video_file import examine_video
from tests.fakes import dataset_trees as trees

HEADER = "subject,path,fps,onset,apex,offset,type,aus,emotion,label_3\n"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030")


def opened(root, rows: str, header: str = HEADER):
    return open_dataset("csv", trees.manifest(root, header + rows))


def found(dataset, action: str = "dropped") -> dict[str, list[str]]:
    rows = dataset.ledger[dataset.ledger.action == action]
    return {reason: sorted(part.unit) for reason, part in rows.groupby("reason")}


@pytest.mark.parametrize("between", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_separator_and_encoding_reads_alike(tmp_path, between, encoding):
    root = trees.manifest(tmp_path)
    want = open_dataset("csv", root)
    text = (root / "manifest.csv").read_text(encoding="utf-8").replace(",", between)
    (root / "manifest.csv").write_bytes(text.encode(encoding))
    got = open_dataset("csv", root)
    assert got.events.equals(want.events) and got.videos.equals(want.videos)
    assert got.ledger.equals(want.ledger)


def test_a_decimal_comma_is_no_thousands_sign(tmp_path):
    text = "subject;path;fps;onset;apex;offset;aus\np1;p1/clip a;29,97;2,4;5,5;8,8;4,7\n"
    dataset = open_dataset("csv", trees.manifest(tmp_path, text))
    row = dataset.events.iloc[0]
    assert (row.onset_number, row.apex_number, row.offset_number) == (2, 6, 9)
    assert row.aus == "4+7" and dataset.videos.fps.tolist() == [29.97]
    assert "fractional_frame_number" in found(dataset, "repaired")


@pytest.mark.parametrize(
    ("cell", "value", "note"),
    [
        ("219,8", 220, "fractional_frame_number"),
        ("219.8", 220, "fractional_frame_number"),
        ("0,5", 1, "fractional_frame_number"),
        ("-1,5", -1, "fractional_frame_number"),
        ("566,4000001", 566, "fractional_frame_number"),
        ("1.234,5", 1235, "fractional_frame_number"),
        ("1,234.5", 1235, "fractional_frame_number"),
        ("1.234.567", 1234567, ""),
        ("1,234", None, "ambiguous_number"),
        ("1,2,3", None, "not_a_number"),
        ("1_0", None, "not_a_number"),
        ("9" * 5000, None, "not_a_number"),
        (",", None, "not_a_number"),
    ],
)
def test_numbers_of_either_notation(cell, value, note):
    number = frame_number(cell)
    assert (number.value, number.note) == (value, note)


def test_an_ambiguous_number_is_refused_by_name(tmp_path):
    dataset = opened(tmp_path, 'p1,p1/clip a,60,"1,234",,9,,,,\np1,p1/clip a,60,2,,9,,,,\n')
    assert list(found(dataset)) == ["onset_ambiguous_number"] and len(dataset.events) == 1


def test_a_hint_line_and_prose_with_commas_do_not_decide_the_separator():
    assert read_csv(b"sep=;\na;b\n1,5;2\n") == [["a", "b"], ["1,5", "2"]]
    text = b"Notes, of one, and another\na;b;c;d\n1,5;2;3;4\n1,6;2;3;4\n"
    assert read_csv(text)[2] == ["1,5", "2", "3", "4"]


@pytest.mark.parametrize(
    "raw", [b'a,b\n"' + b"x" * 200_000 + b"\n", b"\xff\xfea\x00,", b"subject,path\xff\xfe\x80"]
)
def test_text_that_is_no_table_is_named(tmp_path, raw):
    root = trees.manifest(tmp_path / "deep" / "set")
    (root / "manifest.csv").write_bytes(raw)
    with pytest.raises(DatasetError) as error:
        open_dataset("csv", root)
    assert error.value.code in ("wrong_sheet", "no_sheet")


def test_one_video_id_under_two_subjects_is_two_videos(tmp_path):
    header = "subject,video,path,fps,onset,offset\n"
    rows = "p1,clip,p1/clip a,60,2,9\np2,clip,p2/ünïcode,60,3,8\np2,clip,p2/ünïcode,60,11,15\n"
    dataset = opened(tmp_path, rows, header)
    videos = dataset.videos.set_index("video")
    assert videos.folder.to_dict() == {"p1/clip": "p1/clip a", "p2/clip": "p2/ünïcode"}
    assert videos.person.to_dict() == {"p1/clip": "csv:p1", "p2/clip": "csv:p2"}
    for event in dataset.events.itertuples():
        assert videos.person[event.video] == event.person, "nobody has another's frames"
    assert found(dataset, "repaired") == {"repeated_key": ["p1/clip", "p2/clip"]}
    frames = dataset.frames.set_index("video").path
    assert frames["p2/clip"].str.startswith("p2/").all()


def test_one_video_id_for_two_folders_of_a_subject_is_two_videos(tmp_path):
    header = "subject,video,path,fps,onset,offset\n"
    rows = "p1,clip,p1/clip a,60,2,9\np1,clip,p2/ünïcode,60,3,8\np1,clip,p1/clip a,60,11,12\n"
    dataset = opened(tmp_path, rows, header)
    assert dataset.videos.folder.is_unique and len(dataset.videos) == 2
    paths = dataset.videos.set_index("video").folder
    numbers = {(paths[e.video], e.onset_number) for e in dataset.events.itertuples()}
    assert numbers == {("p1/clip a", 2), ("p2/ünïcode", 3), ("p1/clip a", 11)}


def test_one_folder_for_two_people_is_flagged(tmp_path):
    header = "subject,video,path,fps,onset,offset\n"
    dataset = opened(tmp_path, "p1,a,p1/clip a,60,2,9\np2,b,p1/clip a,60,2,9\n", header)
    assert "frames_of_two_subjects" in found(dataset, "flagged")
    assert check_dataset("csv", tmp_path).exit_code == REPAIRED


def test_contradicting_rows_of_a_video_say_what_differs(tmp_path):
    dataset = opened(tmp_path, "p1,p1/clip a,60,2,,9,,,,\np1,p1/clip a,30,11,,12,,,,\n")
    flagged = dataset.ledger[dataset.ledger.reason == "contradicting_rows"]
    assert "fps 60.0 before, 30.0 here" in flagged.detail.iloc[0]
    assert dataset.videos.fps.tolist() == [60.0]


def test_exact_doubles_go_with_a_row_and_contradictions_are_named(tmp_path):
    one = "p1,p1/clip a,60,2,5,9,micro,4,anger,\n"
    rows = one + one + one.replace("anger", "fear") + one.replace("5", "6") + "p1,p1/clip a,60,"
    dataset = opened(tmp_path, rows + "2,5,9,macro,4,anger,\n")
    assert dataset.events.type.tolist() == ["micro", "macro"]
    assert dataset.events.emotion.tolist() == ["anger", "anger"]
    assert {k: len(v) for k, v in found(dataset).items()} == {
        "contradicting_event": 2,
        "duplicate_event": 1,
    }
    said = " ".join(dataset.ledger.detail)
    assert "emotion anger, here fear" in said and "apex 5, here 6" in said
    assert dataset.counts["rows"] == 5


def test_events_of_one_interval_with_ids_of_their_own_stay_and_are_flagged(tmp_path):
    header = "subject,path,fps,event,onset,offset,emotion\n"
    rows = "p1,p1/clip a,60,a,2,9,anger\np1,p1/clip a,60,b,2,9,fear\n"
    dataset = opened(tmp_path, rows, header)
    assert len(dataset.events) == 2 and found(dataset, "flagged") == {"same_interval": ["b"]}


@pytest.mark.parametrize("path", ["p1\\clip a", ".\\p1\\clip a\\", "./p1/clip a", "P1/CLIP A"])
def test_paths_as_other_systems_write_them(tmp_path, path):
    dataset = opened(tmp_path, f"p1,{path},60,2,,9,,,,\n")
    assert dataset.videos.folder.tolist() == ["p1/clip a"] and len(dataset.events) == 1
    assert dataset.videos.video.tolist() == ["p1/clip a"]


def test_the_manifests_own_folder_may_be_the_video(tmp_path):
    trees.write_frames(tmp_path, range(1, 11), "{}.png")
    rows = "p1,.,only,60,2,9\np1,.,,60,2,9\n"
    dataset = opened(tmp_path, rows, "subject,path,video,fps,onset,offset\n")
    assert dataset.videos.video.tolist() == ["only"] and len(dataset.frames) == 10
    assert found(dataset) == {"bad_identifier": ["manifest.csv, row 3"]}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (",p1/clip a,60", "no_subject"),
        ("..,p1/clip a,60", "no_subject"),
        (f"{'x' * 300},p1/clip a,60", "no_subject"),
        (f"p1,{'x/' * 3000},60", "bad_path"),
        (f"p1,{'x' * 300},60", "bad_path"),
        ("p1,p1/clip a,1.234", ""),
        ('p1,p1/clip a,"29,970"', "bad_fps"),
        ("p1,p1/clip a,25 fps", "bad_fps"),
        ("p1,self,60", "bad_path"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_one_by_one(tmp_path, cells, reason):
    trees.manifest(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    good = "p2,p2/ünïcode,60,2,,9,,,,\n"
    dataset = opened(tmp_path, f"{cells},2,,9,,,,\n{good}")
    assert list(found(dataset)) == ([reason] if reason else [])
    assert dataset.counts["rows"] == 2


def test_a_manifest_of_refused_rows_says_why_each_was(tmp_path):
    rows = "p1,/data/x,60,2,,9,,,,\np1,/data/y,60,2,,9,,,,\np2,p2/ünïcode,fast,2,,9,,,,\n"
    with pytest.raises(DatasetError) as error:
        opened(tmp_path, rows)
    said = str(error.value)
    assert "2 refused, path_outside_root" in said and "'/data/x'" in said
    assert "1 refused, bad_fps" in said and "'fast'" in said
    assert error.value.code == "no_videos"


def test_frames_that_are_links_out_of_the_root_are_dropped(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(trees.image_bytes(".png"))
    root = trees.manifest(tmp_path / "in")
    folder = root / "p1" / "clip a"
    for number in (3, 4):
        (folder / f"f{number:04d}.png").unlink()
    (folder / "f0003.png").symlink_to(outside)
    (folder / "f0004.png").symlink_to(folder / "f0005.png")  # inside: as good as a file
    dataset = open_dataset("csv", root)
    flagged = dataset.ledger[dataset.ledger.reason == "path_outside_root"]
    assert flagged.detail.tolist() == ["1: f0003.png"]
    numbers = dataset.frames[dataset.frames.video == "p1/clip a"].number.tolist()
    assert 3 not in numbers and 4 in numbers
    report = check_dataset("csv", root)
    assert report.exit_code == REPAIRED and "path_outside_root" in report.to_text()


@pytest.mark.parametrize("name", ["pipe", "pipe.mp4", "p3/1.png", "pipe.csv", "truth.json"])
def test_pipes_are_never_opened(tmp_path, name):
    root = trees.manifest(tmp_path)
    (root / "p3").mkdir()
    os.mkfifo(root / name)
    path = "p3" if "/" in name else name
    dataset = opened(tmp_path, f"p1,{path},60,1,,2,,,,\np2,p2/ünïcode,60,2,,9,,,,\n")
    assert len(dataset.events) == 1
    assert "not_a_file" in " ".join([*dataset.ledger.reason, *dataset.ledger.detail])


def test_a_film_that_opens_without_a_frame_drops_only_itself(tmp_path, monkeypatch):
    root = trees.manifest(tmp_path)
    (root / "film.mp4").write_bytes(b"no film")
    (root / "av1.mp4").write_bytes(b"opens")

    def examine(path):
        if path.name == "av1.mp4":
            got = "a file that opens and yields no frame"
            raise InputError(path.name, expected="a film", got=got, code="unreadable_video")
        return examine_video(path)

    monkeypatch.setattr("data.datasets.listing.examine_video", examine)
    rows = "p1,film.mp4,60,1,,2,,,,\np1,av1.mp4,60,1,,2,,,,\np2,p2/ünïcode,60,2,,9,,,,\n"
    dataset = opened(tmp_path, rows)
    assert found(dataset)["unreadable_video"] == ["av1.mp4", "film.mp4"]
    assert len(dataset.events) == 1 and "yields no frame" in " ".join(dataset.ledger.detail)


@pytest.mark.parametrize("suffix", NOT_READ)
def test_a_film_of_another_format_says_which_are_read(tmp_path, suffix):
    (tmp_path / f"film{suffix}").write_bytes(b"x" * 100)
    dataset = opened(tmp_path, f"p1,film{suffix},60,1,,2,,,,\np2,p2/ünïcode,60,2,,9,,,,\n")
    dropped = dataset.ledger[dataset.ledger.reason == "not_a_video"]
    assert f"{suffix} is not read" in dropped.detail.iloc[0] and ".mp4" in dropped.detail.iloc[0]
    assert len(dataset.events) == 1


def film(path, fps: float, count: int = 30) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (32, 24))
    for i in range(count):
        writer.write(np.full((24, 32, 3), i, np.uint8))
    writer.release()


@pytest.mark.parametrize(("declared", "differs"), [(25, False), (25.1, False), (200, True)])
def test_the_declared_rate_is_held_against_the_films(tmp_path, declared, differs):
    film(tmp_path / "film.avi", 25)
    dataset = opened(tmp_path, f"p1,film.avi,{declared},1,,9,,,,\n")
    assert ("fps_differs" in set(dataset.ledger.reason)) == differs
    report = check_dataset("csv", tmp_path)
    assert report.exit_code == (REPAIRED if differs else CLEAN)
    assert dataset.videos.fps.tolist() == [declared]


def test_western_letters_of_an_old_spreadsheet_are_no_chinese():
    rows = read_csv("subject;path\nMüller;Zoë\nÅse;Ähre\n".encode("cp1252"))
    assert rows[1:] == [["Müller", "Zoë"], ["Åse", "Ähre"]]
    assert read_csv("a,悲伤\n".encode("gb18030")) == [["a", "悲伤"]]


def test_a_dot_among_decimal_commas_may_be_a_thousand(tmp_path):
    rows = "p1;p1/clip a;29,97;1.002;1.004;1.008\np1;p1/clip a;29,97;2,4;5,5;8,8\n"
    header = "subject;path;fps;onset;apex;offset\n"
    dataset = opened(tmp_path, rows, header)
    assert dataset.events.onset_number.tolist() == [2]
    assert "onset_not_a_number" in found(dataset)
    dotted = opened(tmp_path / "b", "p1,p1/clip a,29.97,1.002,2.004,8.5\n")
    assert dotted.events.offset_number.tolist() == [9]


def test_a_comma_between_action_units_is_no_decimal_comma(tmp_path):
    """Neither the rate nor an id of such a sheet may be thousands."""
    header = "subject,video,path,fps,onset,apex,offset,aus\n"
    dataset = opened(tmp_path, '1.001,1.002,p1/clip a,59.940,2,5,8,"4,7"\n', header)
    assert dataset.videos.fps.tolist() == [59.94]
    assert dataset.videos.subject.tolist() == ["1.001"]
    assert dataset.videos.video.tolist() == ["1.002"]
    assert dataset.events.aus.tolist() == ["4+7"]
    decimals = opened(tmp_path / "b", "1.001;v.1;p1/clip a;59,94;2;5;8;4+7\n",
                      header.replace(",", ";"))  # fmt: skip
    assert decimals.videos.subject.tolist() == ["1.001"], "an id is no number there either"


def test_what_most_rows_have_is_counted_once(monkeypatch):
    """Rows with blanks at their ends; counted for each of them, a long sheet took minutes."""
    counted = []
    monkeypatch.setattr(sheets, "Counter", lambda widths: counted.append(1) or Counter(widths))
    rows = [["subject", "path"], *([f"p{i}", "x", ""] for i in range(40))]
    table = find_table(Sheet(Path("x.csv"), "", rows, plain=True), COLUMNS, ("subject", "path"))
    assert table is not None and len(list(table.records())) == 40 and not table.too_long()
    assert counted == [1]


def test_a_row_with_more_cells_than_columns_is_not_guessed(tmp_path):
    """`219,8` without quotes in a sheet with commas shifts every later cell."""
    good = "p1,p1/clip a,120,3,5,9,micro,4+7,anger,\n"
    for shifted in ("2,8,5,9,micro,4,anger,", "2,8,5,9,micro,4,anger,negative"):
        dataset = opened(tmp_path, good + f"p1,p1/clip a,120,{shifted}\n" + good.replace("3", "4"))
        assert found(dataset)["too_many_cells"] == ["manifest.csv, row 3"]
        assert dataset.events.onset_number.tolist() == [3, 4]
    sloppy = good.replace("\n", ",,\n") * 2
    assert "too_many_cells" not in found(opened(tmp_path, sloppy)), "blanks that all rows have"


def test_a_column_twice_is_said(tmp_path):
    header = "subject,path,fps,onset,offset,onset\n"
    dataset = opened(tmp_path, "p1,p1/clip a,120,2,9,3\n", header)
    assert found(dataset, "flagged")["repeated_column"] == ["manifest.csv"]
    same = opened(tmp_path / "same", "p1,p1/clip a,120,2,9,2\n", header)
    assert "repeated_column" not in found(same, "flagged")


def test_an_offset_that_is_no_number_is_said(tmp_path):
    dataset = opened(tmp_path, "p1,p1/clip a,120,2,5,1e300,micro,4,anger,\n")
    assert "offset_not_a_number" in found(dataset, "repaired")


def test_a_header_alone_is_named(tmp_path):
    with pytest.raises(DatasetError, match="nothing under it"):
        opened(tmp_path, "")


def test_folders_that_lead_out_are_not_entered(tmp_path):
    outside = trees.manifest(tmp_path / "elsewhere")
    (outside / "faces.zip").write_bytes(b"PK")
    root = trees.manifest(tmp_path / "root")
    (root / "up").symlink_to(outside)
    dataset = open_dataset("csv", root)
    flagged = found(dataset, "flagged")
    assert flagged["path_outside_root"] == ["up"] and "archive_not_unpacked" not in flagged


def test_of_two_spellings_of_a_number_the_usual_one_wins(tmp_path):
    root = trees.manifest(tmp_path, HEADER + "p1,p1/clip a,120,2,5,9,micro,4,anger,\n")
    folder = root / "p1" / "clip a"
    (folder / "f3.png").write_bytes(b"other")  # beside f0003.png
    frames = open_dataset("csv", root).frames.path
    assert "p1/clip a/f0003.png" in set(frames)
    for path in sorted(folder.glob("f00*")):
        path.rename(folder / f"f{int(path.stem[1:])}.png")
    (folder / "f03.png").write_bytes(b"other")
    assert "p1/clip a/f3.png" in set(open_dataset("csv", root).frames.path)
