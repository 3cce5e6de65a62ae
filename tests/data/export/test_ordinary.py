"""Export: what comes out is what is in the store, nothing leaves `out`, no licensed face leaves."""

from __future__ import annotations

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError, InputError, StoreError
from data.export import names
from data.export import ordinary as export
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from tests.fakes.fabricated_run import write_clip_stores, write_ingest, write_store


@pytest.fixture
def workspace(tmp_path):
    found = Workspace(tmp_path / "ws")
    for name, show in (("open", True), ("licensed", False)):
        events = write_ingest(found, name, subjects=1, per_subject=2, show_faces=show, frames=5)
        write_clip_stores(found, name, events, frames=5)
    return found


def test_crops_are_the_stored_pixels(workspace, tmp_path):
    out = tmp_path / "out"
    assert export.export_crops(workspace, "open", out) == 10
    image = cv2.imread(str(out / "sub01/EP02/000003.png"), cv2.IMREAD_UNCHANGED)
    store = StageStore(workspace, "open", "align")
    with store.open("sub01/EP02") as group:
        np.testing.assert_array_equal(image, group["crops"][3])


def test_colour_crops_keep_their_channels(workspace, tmp_path):
    crops = np.zeros((2, 8, 8, 3), np.uint8)
    crops[..., 0] = 250  # red

    def fill(group: h5py.Group) -> None:
        group["crops"] = crops

    write_store(workspace, "open", "align", {"sub01/EP01": fill})
    export.export_crops(workspace, "open", tmp_path / "out")
    bgr = cv2.imread(str(tmp_path / "out/sub01/EP01/000001.png"))
    assert bgr[0, 0].tolist() == [0, 0, 250]


def test_transforms_without_the_raw_frames_are_named(workspace, tmp_path):
    def fill(group: h5py.Group) -> None:
        group["transforms"] = np.zeros((2, 2, 3))

    write_store(workspace, "open", "align", {"sub01/EP01": fill})
    with pytest.raises(StoreError, match="--data NAME=ROOT") as caught:
        export.export_crops(workspace, "open", tmp_path / "out")
    assert caught.value.code == "no_raw_frames"


def test_licensed_faces_are_refused_before_anything_is_written(workspace, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--with-faces") as caught:
        export.export_crops(workspace, "licensed", out)
    assert caught.value.code == "faces_not_shown"
    assert not out.exists()
    assert export.export_crops(workspace, "licensed", out, with_faces=True) == 10


def test_flow_in_pixels_with_its_list(workspace, tmp_path):
    out = tmp_path / "out"
    assert export.export_flow(workspace, "licensed", out) == 2  # one event was dropped
    field = np.load(out / "sub01/EP01/onset_apex_000002_000012.npy")
    assert field.dtype == np.float32
    assert field.shape == (48, 48, 2)
    strain = np.load(out / "sub01/EP01/onset_apex_000002_000012_strain.npy")
    assert strain.shape == (48, 48)
    pairs = pd.read_csv(out / "pairs.csv")
    assert list(pairs["from"]) == [2, 12]
    np.testing.assert_array_equal(np.load(out / pairs.file[1]), -field)


def test_scaled_flow_is_unscaled(workspace, tmp_path):
    def fill(group: h5py.Group) -> None:
        group["flow"] = np.full((1, 4, 4, 2), 512, np.int16)
        group["flow"].attrs["scale"] = 2.0**-10
        group["strain"] = np.zeros((1, 4, 4), np.float16)
        group["pairs"] = np.array([[0, 3]], np.int32)
        group.create_dataset("kind", data=["onset_apex"], dtype=h5py.string_dtype())

    write_store(workspace, "open", "flow", {"e": fill})
    export.export_flow(workspace, "open", tmp_path / "out")
    assert np.load(tmp_path / "out/e/onset_apex_000000_000003.npy").max() == 0.5


def test_tables_come_back_with_their_values(workspace, tmp_path):
    out = tmp_path / "out"
    assert export.export_tables(workspace, "open", out) == len(list(out.glob("*.csv")))
    events = pd.read_csv(out / "events.csv")
    assert list(events.event) == ["sub01/EP01", "sub01/EP02"]
    assert list(events.onset) == [2, 2]
    apex = pd.read_csv(out / "apex.csv")
    assert apex.curve[0].startswith("[")
    assert {"videos.csv", "frames.csv", "ledger.csv", "flow_ledger.csv"} <= {
        p.name for p in out.iterdir()
    }


@pytest.mark.parametrize("call", [export.export_crops, export.export_flow, export.export_tables])
def test_a_stage_that_never_ran_is_named(tmp_path, call):
    with pytest.raises(StoreError, match=r"nothing/.*finished store"):
        call(Workspace(tmp_path), "nothing", tmp_path / "out")


def test_an_unknown_video_is_named(workspace, tmp_path):
    with pytest.raises(StoreError, match="sub77"):
        export.export_crops(workspace, "open", tmp_path / "out", videos=["sub77"])


@pytest.mark.parametrize(
    "unit",
    ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "a/../../b", "...", "", "~/x", "a\0b", ".hid"],
)
def test_no_id_escapes(tmp_path, unit):
    out = tmp_path / "out"
    path = names.safe_folders(out, [unit])[unit]
    assert path.is_relative_to(out.resolve())
    assert path != out.resolve()
    assert not any(part.startswith(".") for part in path.relative_to(out.resolve()).parts)


def test_a_link_inside_out_is_no_way_out(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub01").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link"):
        names.safe_folders(out, ["sub01/EP01"])


def test_ids_never_share_a_folder(tmp_path):
    ids = ["a:b", "a*b", "A_b", "a_b"]
    folders = names.safe_folders(tmp_path, ids)
    assert len({str(p).casefold() for p in folders.values()}) == len(ids)


def test_other_scripts_keep_their_names():
    assert names.safe_name("被试 03-é") == "被试 03-é"


def test_megc_form(tmp_path):
    path = tmp_path / "samm_pred.csv"
    rows = [("014_3", 90, 120, "me"), ("006_1", 12, 44, "mae"), ("006_1", 3, 9, "me")]
    assert export.write_megc_csv(rows, path) == 3
    assert path.read_text() == (
        "vid,pred_onset,pred_offset,type\n006_1,3,9,me\n006_1,12,44,mae\n014_3,90,120,me\n"
    )


@pytest.mark.parametrize("row", [("v", 5, 4, "me"), ("v", 1, 2, "blink")])
def test_megc_form_refuses_nonsense(tmp_path, row):
    with pytest.raises(InputError):
        export.write_megc_csv([row], tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+1", "'+1+1"),
        ("-x", "'-x"),
        ("\t=1", "'\t=1"),
        ("-1", "-1"),
        ("+3.5", "+3.5"),
        ("4+7", "4+7"),
        ("", ""),
        (-1, -1),
        (None, None),
    ],
)
def test_no_cell_begins_like_a_formula(cell, written):
    assert names.defused(cell) == written


def test_every_stages_ledger_is_a_table(workspace, tmp_path):
    from data.schema import empty
    from data.stages.registry import STAGES
    from data.stages.stores import write_table

    for stage in STAGES:
        write_table(empty("ledger"), workspace.stage("open", stage) / "ledger.parquet")
    export.export_tables(workspace, "open", tmp_path / "out")
    written = {p.stem for p in (tmp_path / "out").glob("*_ledger.csv")}
    assert written == {f"{stage}_ledger" for stage in STAGES}


def test_formulas_in_ids_and_texts_leave_as_text(workspace, tmp_path):
    path = workspace.stage("open", "ingest") / "ledger.parquet"
    ledger = pd.read_parquet(path)
    row = {"stage": "ingest", "dataset": "open", "unit": "=1+1", "kind": "row", "reason": "x",
           "detail": "@SUM(A1)", "action": "dropped"}  # fmt: skip
    from data.schema import conform
    from data.stages.stores import write_table

    write_table(
        conform(pd.concat([ledger, pd.DataFrame([row])], ignore_index=True), "ledger"), path
    )
    export.export_tables(workspace, "open", tmp_path / "out")
    text = (tmp_path / "out" / "ledger.csv").read_text()
    assert "'=1+1" in text and "'@SUM(A1)" in text


@pytest.mark.parametrize("dataset", ["../elsewhere", "..", ".", "", "/etc", "runs", "x" * 5000])
def test_a_dataset_is_one_of_the_workspace(workspace, tmp_path, dataset):
    with pytest.raises(StoreError, match="licensed, open") as caught:
        export.export_tables(workspace, dataset, tmp_path / "out")
    assert caught.value.code == "no_data"
