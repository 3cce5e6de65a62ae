"""The ingest store: published whole or not at all, fresh or with the reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from data.datasets import open_dataset
from data.errors import DatasetError
from data.ingest import store as ingest_store
from data.stages.stores import read_ledger, read_manifest, read_table
from data.stages.workspace import Workspace
from tests.benchmarks import bench_ingest
from tests.fakes import dataset_trees as trees

TOKEN = "t"


def publish(workspace: Workspace, root: Path) -> str:
    """Plan and run; the plan's reason."""
    plan = ingest_store.plan_ingest(workspace, "samm", root)
    ingest_store.run_ingest(plan, workspace, TOKEN)
    return plan.reason


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture
def store(tmp_path):
    """(workspace, dataset folder, store folder) after a first ingest."""
    root, workspace = trees.samm(tmp_path / "samm"), Workspace(tmp_path / "work")
    assert publish(workspace, root) == "missing"
    return workspace, root, workspace.stage("samm", "ingest")


def test_a_second_ingest_changes_no_byte(store):
    workspace, root, folder = store
    before = content(folder)
    assert set(before) == {f"{n}.parquet" for n in (*ingest_store.NAMES, "manifest")}
    assert publish(workspace, root) == ""
    assert content(folder) == before
    plan = ingest_store.plan_ingest(workspace, "samm", root, force=True)
    ingest_store.run_ingest(plan, workspace, TOKEN)
    assert plan.reason == "forced" and content(folder) == before, "deterministic bytes"


def test_tables_are_those_of_the_adapter(store):
    _, root, folder = store
    dataset = open_dataset("samm", root)
    pd.testing.assert_frame_equal(read_table(folder / "events.parquet"), dataset.events)
    ledger = read_ledger(folder)
    assert list(ledger.reason[1:]) == list(dataset.ledger.reason)
    account = ledger.iloc[0]
    assert (account.reason, account.kind) == ("annotation_account", "dataset")
    assert account.detail == "4 micro in the sheet = 4 micro kept + 0 dropped"
    rows = {r.unit: json.loads(r.counts)["rows"] for r in read_manifest(folder).itertuples()}
    assert rows["events"] == 4 and rows["ledger"] == len(dataset.ledger) + 1


def test_a_new_row_a_lost_table_and_a_damaged_one_are_seen(store):
    workspace, root, folder = store
    trees.samm_sheet(root, trees.SAMM_ROWS[:3])
    assert ingest_store.plan_ingest(workspace, "samm", root).reason == "files or sheets changed"
    assert publish(workspace, root) and len(read_table(folder / "events.parquet")) == 3
    (folder / "frames.parquet").unlink()
    assert publish(workspace, root) == "part missing"
    damaged = bytearray((folder / "videos.parquet").read_bytes())
    damaged[40] ^= 1
    (folder / "videos.parquet").write_bytes(bytes(damaged))
    assert ingest_store.plan_ingest(workspace, "samm", root).reason == ""
    plan = ingest_store.plan_ingest(workspace, "samm", root, verify=True)
    assert plan.reason == "part differs"
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    assert ingest_store.plan_ingest(workspace, "samm", root).reason == "manifest damaged"


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_kill_while_publishing_leaves_what_the_next_run_finishes(store, monkeypatch, moved):
    """Killed before the commit: the old tables. Killed after it: the next run has the new ones."""
    workspace, root, folder = store
    before = content(folder)
    trees.samm_sheet(root, trees.SAMM_ROWS[:3])
    plan = ingest_store.plan_ingest(workspace, "samm", root)
    replace, done = Path.replace, []

    def die(self: Path, target: Path) -> Path:
        if ".commit" in self.parts:
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(self)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        ingest_store.run_ingest(plan, workspace, TOKEN)
    monkeypatch.undo()
    assert (folder / "manifest.parquet").read_bytes() == before["manifest.parquet"]
    assert publish(workspace, root) in ("files or sheets changed", "part differs")
    assert len(read_table(folder / "events.parquet")) == 3
    assert ingest_store.plan_ingest(workspace, "samm", root, verify=True).reason == ""
    assert not (folder / ".commit").exists() and not (folder / ".pending").exists()


def test_no_folder_no_plan(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        ingest_store.plan_ingest(Workspace(tmp_path / "w"), "samm", tmp_path / "nowhere")


def test_the_benchmark_counts_files(tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["--videos", "2", "--frames", "40", "80", "--folder", str(tmp_path)]
    assert bench_ingest.main([*arguments, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(r["frames"], r["events"]) for r in rows] == [(80, 2), (160, 2)]
    assert list(tmp_path.iterdir()) == [out], "the tree is removed"
