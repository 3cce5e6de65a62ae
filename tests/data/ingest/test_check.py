"""The check report and the composites, with the published numbers."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pandas as pd
import pytest

from data.datasets import ADAPTERS, composite, open_dataset
from data.errors import DatasetError
from data.ingest.check import CLEAN, REPAIRED, UNUSABLE, check_dataset
from tests.fakes import dataset_trees as trees


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")}


@pytest.mark.parametrize("name", ADAPTERS)
def test_report_of_each_layout(tmp_path, name):
    root = trees.build(name, tmp_path)
    before = snapshot(root)
    report = check_dataset(name, root)
    assert snapshot(root) == before, "a check writes nothing"
    assert report.exit_code == (CLEAN if name in ("smic", "casme3_c", "csv") else REPAIRED)
    content = json.loads(report.to_json())
    assert content["dataset"] == name and content["images"]["unreadable"] == 0
    ledger = open_dataset(name, root).ledger
    assert sum(d["count"] for d in content["defects"]) == len(ledger)
    assert len(content["findings"]) == len(ledger)
    for defect in content["defects"]:
        assert defect["reason"] in report.to_text()
    micro = content["counts"].get("micro", 0)
    for label_map, lost in content["unlabelled"].items():
        classes = content["classes"][label_map]
        assert sum(classes.values()) + sum(lost.values()) == micro


def test_report_says_variant_numbers_and_paddings(tmp_path):
    report = check_dataset("samm_lv", trees.samm_lv(tmp_path))
    text = report.to_text()
    assert "videos: 7, published 147  <- differs" in text
    assert report.numbering["digits"] == "4: 8 names, 5: 6 names"
    assert report.images["sizes"] == {"32x24": 7}
    assert report.variant["frames_root"] == "SAMM_longvideos"
    assert report.counts["videos_without_events"] == 2


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_states_whether_faces_may_be_shown(tmp_path, name):
    root = trees.build(name, tmp_path)
    licensed = check_dataset(name, root)
    assert licensed.show_faces is False and "faces: not to be passed on" in licensed.to_text()
    (root / "truth.json").write_text('{"generator": "apexflow-synthetic"}')
    drawn = check_dataset(name, root)
    assert drawn.show_faces is True and "faces: may be shown" in drawn.to_text()


def test_unreadable_frames_are_found_at_the_ends_or_deep(tmp_path):
    root = trees.smic(tmp_path)
    folder = next(root.rglob("s1_ne_01"))
    files = sorted(folder.iterdir())
    files[3].write_bytes(files[3].read_bytes()[:40])
    report = check_dataset("smic", root)
    assert report.exit_code == REPAIRED
    assert (report.images["truncated"], report.images["unreadable"]) == (1, 0)
    assert report.defects[0]["examples"] == [f"HS/s1_ne_01: {files[3].name}"]
    deep = check_dataset("smic", root, deep=True)
    assert (deep.images["truncated"], deep.images["unreadable"]) == (1, 1)
    files[0].write_bytes(b"")
    assert check_dataset("smic", root).images["unreadable"] == 1


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = trees.smic(tmp_path)
    locked = sorted(next(root.rglob("s1_ne_01")).iterdir())[4]
    real = open

    def guarded(path, *rest, **named):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **named)

    monkeypatch.setattr("builtins.open", guarded)
    report = check_dataset("smic", root)
    assert report.exit_code == REPAIRED
    assert [(d["reason"], d["examples"]) for d in report.defects] == [
        ("permission_denied", [f"HS/s1_ne_01: {locked.name}"])
    ]


def huge_png(path: Path) -> None:
    """A few bytes that claim 100000 x 100000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_huge_pictures_are_a_finding_not_a_crash(tmp_path):
    root = trees.manifest(tmp_path, "subject,path,fps,onset,offset\np1,p1/clip a,120,2,9\n")
    for old in (root / "p1" / "clip a").iterdir():
        huge_png(old)
    report = check_dataset("csv", root)
    assert report.exit_code == UNUSABLE
    reasons = {d["reason"] for d in report.defects}
    assert reasons == {"huge_image", "unreadable_frame"}


def test_unusable_copies(tmp_path):
    assert check_dataset("samm", tmp_path / "nowhere").exit_code == UNUSABLE
    report = check_dataset("samm", trees.casme2(tmp_path / "a"))
    assert report.exit_code == UNUSABLE and "no_videos" in report.to_text()
    root = trees.casme2(tmp_path / "b")
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    empty = check_dataset("casme2", root)
    assert empty.exit_code == UNUSABLE and "decoded" in empty.error
    rows = [("01", "EP02_01f", None, 50, 60, 70, None, 12, "happiness")]
    report = check_dataset("casme2", trees.casme2(tmp_path / "c", rows))
    assert report.exit_code == UNUSABLE and report.defects[0]["reason"] == "outside_video"


def test_unknown_layout_is_the_callers_mistake(tmp_path):
    with pytest.raises(DatasetError, match="casme2"):
        check_dataset("casme9", tmp_path)


def table(dataset: str, counts: dict[str, int], people: int, prefix: str = "") -> pd.DataFrame:
    """Events with the given number of rows of each label_3 ("" for none) over `people` people."""
    labels = [label or None for label, n in counts.items() for _ in range(n)]
    names = [f"{prefix}p{i % people}/v{i}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "dataset": dataset,
            "person": [f"{dataset}:{i % people}" for i in range(len(labels))],
            "video": names,
            "event": names,
            "type": "micro",
            "label_3": pd.Series(labels, dtype="string"),
            "aus": pd.Series(["4+R6|12+14(k)"] * len(labels), dtype="string"),
        }
    )


def published() -> dict[str, pd.DataFrame]:
    casme2 = table("casme2", {"negative": 88, "positive": 32, "surprise": 25}, 24)
    casme2 = pd.concat([casme2, casme2.iloc[:2].assign(
        event=["sub04/EP12_01f", "sub05/EP09_05f"])], ignore_index=True)  # fmt: skip
    smic = table("smic", {"negative": 70, "positive": 51, "surprise": 43}, 16, "HS/")
    vis = table("smic", {"negative": 24, "positive": 28, "surprise": 19}, 8, "VIS/")
    samm = table("samm", {"negative": 92, "positive": 26, "surprise": 15, "": 26}, 28)
    return {"casme2": casme2, "samm": samm, "smic": pd.concat([smic, vis], ignore_index=True)}


def test_megc2019_counts_and_reasons():
    result = composite.megc2019(published())
    assert len(result.events) == 442 and result.events.person.nunique() == 68
    assert result.events.label_3.value_counts().to_dict() == {
        "negative": 250,
        "positive": 109,
        "surprise": 83,
    }
    assert result.differences == ()
    assert result.official is False, "the counts fit, the clips are made up"
    reasons = result.dropped.groupby(["dataset", "reason"]).size().to_dict()
    assert reasons == {
        ("casme2", "excluded by the organisers: apex equals onset"): 1,
        ("casme2", "excluded by the organisers: no apex"): 1,
        ("samm", "emotion outside the three classes"): 26,
        ("smic", "camera other than HS"): 71,
    }
    assert "IS NOT" in result.to_text()


def test_megc2019_differences_are_said():
    tables = published()
    tables["samm"] = tables["samm"].iloc[1:]
    result = composite.megc2019(tables)
    assert result.differences == (
        "samm: (91, 26, 15) of ('negative', 'positive', 'surprise'), published (92, 26, 15)",
    )
    with pytest.raises(DatasetError, match="smic"):
        composite.megc2019({"casme2": tables["casme2"], "samm": tables["samm"]})


def test_megc2019_leaves_people_whole_for_loso():
    from data.folds import leave_one_subject_out

    assert len(leave_one_subject_out(composite.megc2019(published()).events).folds) == 68


def test_cd6me_says_where_its_counts_are_not_the_published_ones():
    rows = pd.concat([table("mmew", {"negative": 300}, 36), table("samm", {"negative": 5}, 5)])
    found = composite.cd6me_differences(rows)
    assert "samm: 5 events, published 159" in found
    assert "casme3: 0 events, published 860" in found
    assert not any(d.startswith("mmew:") for d in found)


def test_composite_of_real_layouts(tmp_path):
    events = {
        name: open_dataset(name, trees.build(name, tmp_path / name)).events
        for name in ("casme2", "samm", "smic")
    }
    result = composite.megc2019(events)
    assert set(result.events.event) == {
        "sub01/EP02_01f",
        "sub07/EP06_02_01",
        "sub07/EP06_02_02",
        "006_1_2",
        "007_6_1",
        "028_4_1",
        "HS/s1_ne_01",
        "HS/s20_sur_02",
    }


def test_the_home_of_nobody_is_a_finding_not_a_crash():
    report = check_dataset("casme2", "~nosuch-person/x")
    assert "no_such_folder" in report.error and not report.layouts
