"""Manifests and trees made at random: tables or a named error, every row accounted for, nobody
gets another's frames, nothing outside the root is read. Sound rows come out as they went in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from data.datasets import open_dataset
from data.errors import DatasetError
from tests.fakes import strategies as made

ROUGH = settings(
    max_examples=30,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes here
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HURT = settings(ROUGH, max_examples=40)
REFUSALS = ("wrong_sheet", "no_sheet", "no_videos", "several_manifests")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A tree as `strategies.write_tree` makes it; each example replaces the manifest."""
    return made.write_tree(tmp_path_factory.mktemp("csv") / "deep" / "set")


def check_tables(dataset) -> None:
    """What is true of any dataset, however it came to be."""
    dropped = dataset.ledger[dataset.ledger.action == "dropped"].kind.value_counts()
    assert dataset.counts["rows"] == len(dataset.events) + dropped.get("row", 0)
    videos = dataset.videos.set_index("video")
    assert dataset.events.event.is_unique and dataset.videos.video.is_unique
    for event in dataset.events.itertuples():
        assert videos.person[event.video] == event.person
        assert videos.subject[event.video] == event.subject
        assert 0 <= event.onset <= event.offset < videos.num_frames[event.video]
    real = dataset.root.resolve()
    assert all((dataset.root / p).resolve().is_relative_to(real) for p in dataset.frames.path)


@ROUGH
@given(made.manifests())
def test_any_manifest_gives_tables_or_a_named_error(root, manifest):
    (root / "manifest.csv").write_bytes(manifest.content)
    try:
        dataset = open_dataset("csv", root)
    except DatasetError as error:
        assert error.code in REFUSALS
        return
    check_tables(dataset)
    wanted = {(row["subject"].strip(), row["path"]) for row in manifest.rows}
    assert len(dataset.videos) <= len(wanted)


@ROUGH
@given(made.sound_manifests())
def test_sound_rows_come_out_as_they_went_in(root, manifest):
    (root / "manifest.csv").write_bytes(manifest.content)
    dataset = open_dataset("csv", root)
    check_tables(dataset)
    read = sorted((e.subject, e.video, e.onset_number, e.offset_number)
                  for e in dataset.events.itertuples())  # fmt: skip
    said = {(r["subject"], r["path"], int(r["onset"]), int(r["offset"])) for r in manifest.rows}
    assert read == sorted(said)
    assert dataset.videos.fps.unique().tolist() == [29.97]


@HURT
@given(made.hurt_manifests())
def test_a_defect_gives_the_right_value_or_is_named(tmp_path_factory, manifest):
    root = made.write_tree(tmp_path_factory.mktemp("hurt") / "deep" / "set")
    (root / manifest.name).write_bytes(manifest.content)
    try:
        dataset = open_dataset("csv", root)
    except DatasetError as error:
        assert not manifest.kept and error.code == "no_videos"
        for reasons in manifest.refused.values():
            assert any(reason in str(error) for reason in (*reasons, "nowhere")), reasons
        return
    check_tables(dataset)
    folders = dataset.videos.set_index("video").folder
    read = [(e.subject, folders[e.video], e.onset_number, e.offset_number)
            for e in dataset.events.itertuples()]  # fmt: skip
    assert sorted(read) == sorted(manifest.kept)
    assert dataset.counts["rows"] == len(manifest.kept) + len(manifest.refused)
    dropped = dataset.ledger[dataset.ledger.action == "dropped"]
    for number, reasons in manifest.refused.items():
        named = dropped[dropped.reason.isin(reasons)]
        texts = (named.unit + " " + named.detail).str.cat(sep="\n") + "\n"
        assert re.search(rf"row {number}\b", texts), (number, reasons, dropped.to_string())


@ROUGH
@given(made.odd_files())
def test_any_folder_of_frames_gives_its_own_frames(tmp_path_factory, files):
    base = tmp_path_factory.mktemp("tree")
    folder = base / "set" / "a"
    outside = base / "outside.png"
    outside.write_bytes(b"secret")
    made.trees.write_frames(folder, range(1, made.LENGTH + 1), "{}.png")
    for name, kind in files:
        made.put(folder, name, kind, outside)
    (base / "set" / "manifest.csv").write_text("subject,path,fps,onset,offset\np,a,25,2,9\n")
    dataset = open_dataset("csv", base / "set")
    check_tables(dataset)
    frames = dataset.frames.set_index("number").path
    assert [frames[n] for n in range(1, made.LENGTH + 1)] == [
        f"a/{n}.png" for n in range(1, made.LENGTH + 1)
    ], "no odd file displaces a frame"
    assert len(dataset.events) == 1
