"""Ingest as a step: published whole or not at all, fresh or with the reason why not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from data.datasets import open_dataset
from data.errors import DatasetError
from data.frames import bytes_of_files
from data.ingest import raw
from data.ingest.stage import NAMES, STEP
from data.recordings import Recordings
from data.stages.contract import Unit
from data.stages.inputs import ChunkInputs
from data.stages.stores import read_ledger, read_manifest, read_table
from data.stages.workspace import Workspace
from tests.benchmarks import bench_ingest
from tests.fakes import dataset_trees as trees
from tests.fakes.films import write_film
from tests.fakes.steps import do, ingest, scope


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if p.is_file() and p.name != "timings.parquet"
    }


def why(workspace: Workspace, root: Path, **more: Any) -> str:
    """The plan's reason, '' when fresh."""
    return STEP.plan(scope(workspace, "samm", root), **more).reasons.get("samm", "")


@pytest.fixture
def store(tmp_path):
    """(workspace, dataset folder, store folder) after a first ingest."""
    root, workspace = trees.samm(tmp_path / "samm"), Workspace(tmp_path / "work")
    assert ingest(workspace, "samm", root) == "missing"
    return workspace, root, workspace.stage("samm", "ingest")


def test_a_second_ingest_changes_no_byte(store):
    workspace, root, folder = store
    before = content(folder)
    assert set(before) == {
        *(f"{n}.parquet" for n in (*NAMES, "ledger", "manifest")),
        "root.txt",
        "SHA256SUMS",
    }
    assert ingest(workspace, "samm", root) == ""
    assert content(folder) == before
    assert ingest(workspace, "samm", root, force=True) == "forced"
    assert content(folder) == before, "deterministic bytes"


def test_tables_are_those_of_the_adapter(store):
    _, root, folder = store
    dataset = open_dataset("samm", root)
    pd.testing.assert_frame_equal(read_table(folder / "events.parquet"), dataset.events)
    ledger = read_ledger(folder)
    account = ledger[ledger.reason == "annotation_account"].iloc[0]
    assert sorted(ledger.reason) == sorted([account.reason, *dataset.ledger.reason])
    assert (account.kind, account.detail) == (
        "dataset",
        "4 micro in the sheet = 4 micro kept + 0 dropped",
    )
    rows = {r.part: json.loads(r.counts)["rows"] for r in read_manifest(folder).itertuples()}
    assert rows["events.parquet"] == 4 and set(rows) == {f"{n}.parquet" for n in NAMES}


def test_a_new_row_and_a_lost_table_are_seen(store):
    workspace, root, folder = store
    trees.samm_sheet(root, trees.SAMM_ROWS[:3])
    assert why(workspace, root) == "files or sheets changed"
    assert ingest(workspace, "samm", root) and len(read_table(folder / "events.parquet")) == 3
    (folder / "frames.parquet").unlink()
    assert ingest(workspace, "samm", root) == "part missing"


@pytest.mark.parametrize("clock", ["new", "old"])
@pytest.mark.parametrize("name", [*NAMES, "ledger", "manifest"])
def test_one_flipped_bit_anywhere_is_seen_and_healed(store, name, clock):
    """Also with the old time, and by a plain run: what was made from it would be wrong."""
    workspace, root, folder = store
    before = content(folder)
    path = folder / f"{name}.parquet"
    stat, raw = path.stat(), bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.write_bytes(raw)
    if clock == "old":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert why(workspace, root) in ("digest differs", "manifest damaged", "ledger damaged")
    assert ingest(workspace, "samm", root)
    assert content(folder) == before and why(workspace, root, verify=True) == ""


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_kill_while_publishing_leaves_what_the_next_run_finishes(store, monkeypatch, moved):
    workspace, root, folder = store
    before = content(folder)
    trees.samm_sheet(root, trees.SAMM_ROWS[:3])
    replace, done = Path.replace, []

    def die(self: Path, target: Path) -> Path:
        if target.name in before and target.suffix == ".parquet":
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(self)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        ingest(workspace, "samm", root)
    monkeypatch.undo()
    assert (folder / "manifest.parquet").read_bytes() == before["manifest.parquet"]
    with workspace.lock():
        assert why(workspace, root, verify=True) == "", "the next holder finishes it"
    assert len(read_table(folder / "events.parquet")) == 3
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_no_folder_no_plan(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        why(Workspace(tmp_path / "w"), tmp_path / "nowhere")


def test_a_dataset_that_lost_many_videos_is_not_taken_over_unasked(store):
    """A share that is not mounted looks like a dataset that shrank."""
    workspace, root, folder = store
    before = content(folder)
    subject = sorted(p for p in root.rglob("*") if p.is_dir() and p.name == "006")[0]
    shutil.move(subject, root.parent / "away")
    with pytest.raises(DatasetError, match="source not there") as caught:
        ingest(workspace, "samm", root)
    assert caught.value.code == "dataset_shrank" and "--allow-shrink" in str(caught.value)
    assert content(folder) == before
    plan = STEP.plan(scope(workspace, "samm", root))
    assert sum(map(len, plan.gone.values())) >= 1
    assert ingest(workspace, "samm", root, allow_shrink=True) == "files or sheets changed"
    shutil.move(root.parent / "away", subject)
    assert ingest(workspace, "samm", root) == "files or sheets changed"
    assert content(folder) == before


def test_the_benchmark_counts_files(tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["--videos", "2", "--frames", "40", "80", "--folder", str(tmp_path)]
    assert bench_ingest.main([*arguments, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(r["frames"], r["events"]) for r in rows] == [(80, 2), (160, 2)]
    assert list(tmp_path.iterdir()) == [out], "the tree is removed"


def test_a_changed_frame_in_the_middle_is_found_when_all_bytes_are_read(store):
    """Same name, same size, neither first, middle nor last: only reading everything sees it."""
    workspace, root, _ = store
    tables = Recordings(workspace, "samm").table("frames")
    video = tables.video.value_counts().index[0]
    own = tables[tables.video == video].sort_values("index")
    assert len(own) > 5

    def keys() -> dict[str, str]:
        return {v.id: v.identity for v in Recordings(workspace, "samm").videos.values()}

    plan = do(STEP, scope(workspace, "samm", root, verify_inputs=True))
    assert plan.reasons and "recorded, to compare with next time" in plan.notes[0]
    before = keys()
    assert not STEP.plan(scope(workspace, "samm", root, verify_inputs=True)).reasons
    victim = root / own.path.iloc[1]
    old = victim.read_bytes()
    victim.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    assert ingest(workspace, "samm", root) == "", "a plain run does not read it"
    plan = do(STEP, scope(workspace, "samm", root, verify_inputs=True))
    assert plan.reasons == {"samm": "files or sheets changed"}
    assert plan.notes[0] == f"raw bytes changed: {video}"
    changed = {video for video, identity in keys().items() if identity != before[video]}
    assert changed == {video}, "only what was made from it is stale"
    assert ingest(workspace, "samm", root) == "", "and plain runs remember"


def test_a_stage_that_read_all_frames_is_believed_the_first_time(store, monkeypatch):
    """Its digest is that of `--verify=inputs`, so that the first reading already compares."""
    workspace, root, _ = store
    recordings = Recordings(workspace, "samm", root)
    told = {}
    for video in recordings.videos.values():
        source = recordings.frames(video.id)
        source.read(len(source) - 1)
        assert source.raw_bytes() is None, "not all, not in order"
        assert sum(image is not None for _, image in source.iter()) == len(source)
        told[video.id, video.identity] = {source.raw_bytes()[0]}
    monkeypatch.setattr("data.ingest.stage.raw_read_by_stages", lambda *_: told)
    own = recordings.table("frames").sort_values(["video", "index"])
    victim = root / own.path.iloc[1]
    old, when = victim.read_bytes(), victim.stat()
    victim.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    os.utime(victim, ns=(when.st_atime_ns, when.st_mtime_ns))
    plan = do(STEP, scope(workspace, "samm", root, verify_inputs=True))
    assert plan.notes[0] == f"raw bytes changed: {own.video.iloc[0]}"


def test_a_chunk_knows_its_videos_without_the_table_of_all(store, monkeypatch):
    workspace, root, _ = store
    video = next(iter(Recordings(workspace, "samm").videos.values()))
    chunk = ChunkInputs(workspace, "samm", root, videos={video.id: video})
    monkeypatch.setattr(Recordings, "_read_videos", lambda _: pytest.fail("a large table was read"))
    view = chunk.of(Unit(video.id, video.id, frames=True))
    assert sum(image is not None for _, image in view.frames().iter()) == video.num_frames
    assert view.raw_bytes()["listed"] == video.identity


def test_results_that_read_different_bytes_mean_that_it_changed(tmp_path, monkeypatch):
    """Whichever lies first in the manifest, which is sorted by key: no result is the first."""
    (tmp_path / "1.png").write_bytes(b"now")
    videos = pd.DataFrame({"video": ["v"], "identity": ["listed"], "source": "frames"})
    frames = pd.DataFrame({"video": ["v"], "path": ["1.png"]})
    table, _ = raw.read_raw(tmp_path, videos, frames, raw.blank_raw(), {})
    now = str(table.now[0])
    for digests in ([now, "earlier"], ["earlier", now], ["0", "1"]):
        counts = [
            json.dumps({"raw": {"video": "v", "listed": "listed", "digest": d}}) for d in digests
        ]
        manifest = SimpleNamespace(counts=counts)
        monkeypatch.setattr(raw, "read_records", lambda _, m=manifest: SimpleNamespace(manifest=m))
        (tmp_path / "ws" / "d" / "align").mkdir(parents=True, exist_ok=True)
        told = raw.raw_read_by_stages(Workspace(tmp_path / "ws"), "d")
        for before in (raw.blank_raw(), table):
            found, changed = raw.read_raw(tmp_path, videos, frames, before, told)
            assert changed == ["v"] and found["first"][0] != found.now[0] == now
            again, _ = raw.read_raw(tmp_path, videos, frames, found, told)
            assert again.equals(found), "its identity stays"
    told = {("v", "listed"): {now}, ("v", "other files"): {"earlier"}}
    assert raw.read_raw(tmp_path, videos, frames, raw.blank_raw(), told)[1] == []


def test_the_bytes_between_a_films_ends_are_recorded_by_who_read_it(tmp_path, monkeypatch):
    """Of a film above 3 MB the identity knows the ends and the middle; the digest knows it all."""
    root, workspace = tmp_path / "films", Workspace(tmp_path / "work")
    root.mkdir()
    film = write_film(root / "a.avi", 400, "rawvideo")
    assert film.stat().st_size > 4 << 20
    (root / "manifest.csv").write_text("subject,path,fps,onset,offset\np,a.avi,25,2,9\n")
    ingest(workspace, "csv", root)
    recordings = Recordings(workspace, "csv", root)
    [video] = recordings.videos.values()
    source = recordings.frames(video.id)
    source.read(7)
    assert source.raw_bytes() is None, "not all"
    assert sum(image is not None for _, image in source.iter()) == 400
    digest, size = source.raw_bytes()
    assert (digest, size) == (bytes_of_files([film])[0], film.stat().st_size)
    told = {(video.id, video.identity): {digest}}
    monkeypatch.setattr("data.ingest.stage.raw_read_by_stages", lambda *_: told)
    same = do(STEP, scope(workspace, "csv", root, verify_inputs=True))
    assert not any("changed" in note for note in same.notes)
    shutil.rmtree(workspace.stage("csv", "ingest"))
    ingest(workspace, "csv", root)
    when, raw = film.stat(), bytearray(film.read_bytes())
    raw[3 << 19] ^= 1  # at 1.5 MB
    film.write_bytes(raw)
    os.utime(film, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert ingest(workspace, "csv", root) == "", "a plain run does not read it"
    plan = do(STEP, scope(workspace, "csv", root, verify_inputs=True))
    assert plan.notes[0] == "raw bytes changed: a.avi"
