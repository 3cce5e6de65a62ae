"""What `check` says before a run: which part is there, frames of another size, known classes."""

from __future__ import annotations

import json

import pytest

from data.datasets import ADAPTERS, get_adapter
from data.ingest.check import CLEAN, REPAIRED, UNUSABLE, _what_part, check_dataset
from tests.fakes import dataset_trees as trees


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_part_is_never_called_clean(tmp_path, name):
    report = check_dataset(name, trees.build(name, tmp_path))
    said = report.to_text().splitlines()[0]
    assert json.loads(report.to_json())["verdict"] in said
    if not get_adapter(name).reference:
        assert report.part == "" and (
            report.exit_code != CLEAN or report.verdict.startswith("no defects; no published")
        )
        return
    assert "a part: " in said and "clean" not in said
    what, found, published = next(r for r in report.reference if r[1] < r[2])
    assert found < published and f" {what}" in report.to_text()


def test_a_part_is_counted_in_videos(tmp_path):
    report = check_dataset("casme2", trees.casme2(tmp_path))
    assert report.part == "a part: 7 of 255 videos"
    assert report.verdict == "usable with the repairs listed; a part: 7 of 255 videos"


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ([["videos", 255, 255], ["rows", 255, 255]], ""),
        ([], ""),
        ([["rows", 200, 255], ["videos", 4, 255]], "a part: 4 of 255 videos"),
        ([["HS clips", 12, 157]], "a part: 12 of 157 HS clips"),
        ([["videos", 255, 255], ["rows", 256, 255]], "not the published counts: 256 rows of 255"),
        ([["videos", 4, 255], ["megc2019 surprise", 28, 25]],
         "not the published counts: 28 megc2019 surprise of 25"),
    ],
)  # fmt: skip
def test_the_published_counts_decide_the_words(reference, part):
    assert _what_part(reference) == part


def test_classes_of_the_composite_stand_beside_the_published(tmp_path):
    report = check_dataset("smic", trees.smic(tmp_path))
    found = {what: (n, said) for what, n, said in report.reference}
    assert found["megc2019 negative"] == (1, 70) and found["megc2019 surprise"] == (1, 43)
    assert found["HS clips"] == (2, 164), "clips are compared with clips"


def test_two_events_of_a_long_clip_are_one_clip(tmp_path):
    report = check_dataset("smic_e", trees.smic_e(tmp_path))
    found = {what: n for what, n, _ in report.reference}
    assert found["HS clips"] == 2 < len(report.findings) + 3
    assert report.counts["micro"] == 3, "one of the clips has a second event"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_frames_of_another_size_are_named(tmp_path, suffix, deep):
    rows = "subject,path,fps,onset,offset\np1,p1/clip a,120,2,9\n"
    root = trees.manifest(tmp_path, rows)
    folder = root / "p1" / "clip a"
    for path in folder.iterdir():
        path.unlink()
    trees.write_frames(folder, range(1, 21), "{}" + suffix)
    assert check_dataset("csv", root, deep=deep).exit_code == CLEAN
    for number in (7, 8):
        (folder / f"{number}{suffix}").write_bytes(trees.image_bytes(suffix, (64, 48)))
    report = check_dataset("csv", root, deep=deep)
    assert report.exit_code == REPAIRED
    (defect,) = [d for d in report.defects if d["kind"] == "video"]
    assert defect["reason"] == "size_differs"
    assert "2 of 20 frames are not 32x24: 7" in defect["examples"][0]


def test_a_layout_that_does_not_fit_is_answered_with_one_that_does(tmp_path):
    root = trees.build("casme2", tmp_path)
    report = check_dataset("samm", root)
    assert report.exit_code == UNUSABLE and report.layouts[0] == "casme2"
    assert "this looks like casme2 (" in report.to_text()
    assert check_dataset("samm", tmp_path / "nowhere").layouts == []
    (tmp_path / "empty").mkdir()
    assert check_dataset("samm", tmp_path / "empty").looks_like == []
