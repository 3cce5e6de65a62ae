"""Crops read through a workspace: stored and made-on-read are the same pixels for every reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.align.crops import CropReader
from data.align.settings import AlignConfig
from data.apex.settings import ApexConfig
from data.errors import InputError, StoreError
from data.export.ordinary import export_crops
from data.flow.fields import read_flow
from data.flow.settings import FlowConfig
from data.recordings import note_root, noted_root
from data.registration.settings import RegistrationConfig
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.stores import StageStore
from data.stages.workspace import Workspace
from data.synthetic import write_dataset
from tests.fakes.steps import ingest

pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two workspaces of one tiny dataset: crops stored, and transforms only."""
    folder = tmp_path_factory.mktemp("crops")
    root = write_dataset(
        "casme2", folder / "data", preset="smoke", seed=3, workers=1, subjects=1, clips=2
    )
    found = {"root": root}
    for kind in ("crops", "transforms"):
        workspace = Workspace(folder / kind)
        configs = {
            "align": AlignConfig(size=128, store=kind, colour=True),  # type: ignore[arg-type]
            "registration": RegistrationConfig(store=kind),  # type: ignore[arg-type]
            "apex": ApexConfig(method="flow_peak"),
            "flow": FlowConfig(preset="fast", size=48),
        }
        inputs = StageInputs(workspace.path, "casme2", root, configs)
        with workspace.lock() as token:
            ingest(workspace, "casme2", root, token=token)
            for stage in configs:
                run_stage(inputs, stage, token)
        found[kind] = workspace.path
    return found


def test_apex_and_flow_see_the_same_pixels(pair: dict[str, Path]) -> None:
    tables = [StageStore(pair[k], "casme2", "apex").table() for k in ("crops", "transforms")]
    assert len(tables[0]) > 0 and (tables[0].curve.map(len) > 10).all()
    for column in ("event", "apex", "source", "confidence"):
        pd.testing.assert_series_equal(tables[0][column], tables[1][column])
    for one, other in zip(*(t.curve for t in tables), strict=True):
        assert one.tobytes() == other.tobytes()
    stored, made = (StageStore(pair[k], "casme2", "flow") for k in ("crops", "transforms"))
    assert stored.units() == made.units() != []
    for event in stored.units():
        with stored.open(event) as a, made.open(event) as b:
            assert a["pairs"][:].tolist() == b["pairs"][:].tolist()
            assert read_flow(a).tobytes() == read_flow(b).tobytes()
            assert a["strain"][:].tobytes() == b["strain"][:].tobytes()


def test_hsta_draws_the_same_clips(pair: dict[str, Path]) -> None:
    pytest.importorskip("torch")
    from models.hsta.clips import read_clips
    from models.hsta.input import HstaInputConfig
    from models.hsta.network import HstaConfig

    config = HstaConfig(image_size=48, special="flow")
    banks = []
    for kind in ("crops", "transforms"):
        events = pd.read_parquet(pair[kind] / "casme2" / "ingest" / "events.parquet")
        labels = [0] * len(events)
        banks.append(read_clips(pair[kind], events, labels, config, HstaInputConfig()))
    assert banks[0].frames.shape[-1] == 3 and len(banks[0]) > 0
    assert banks[0].frames.tobytes() == banks[1].frames.tobytes()
    assert banks[0].special is not None and banks[1].special is not None
    assert banks[0].special.tobytes() == banks[1].special.tobytes()


def test_exported_crops_are_the_same_files(pair: dict[str, Path], tmp_path: Path) -> None:
    counts = [
        export_crops(Workspace(pair[k]), "casme2", tmp_path / k) for k in ("crops", "transforms")
    ]
    assert counts[0] == counts[1] > 0
    for path in (tmp_path / "crops").rglob("*.png"):
        other = tmp_path / "transforms" / path.relative_to(tmp_path / "crops")
        assert path.read_bytes() == other.read_bytes()


def test_take_keeps_order_and_repeats(pair: dict[str, Path]) -> None:
    rows = []
    for kind in ("crops", "transforms"):
        store = StageStore(pair[kind], "casme2", "registration")
        event = store.units()[0]
        events = pd.read_parquet(pair[kind] / "casme2" / "ingest" / "events.parquet")
        video = str(events.set_index("event").video[event])
        with store.open(event) as group:
            crops = CropReader(pair[kind], "casme2").event(video, group)
            wanted = [crops.first + k for k in (9, 2, 2, 5, len(crops.words) - 1, 0)]
            rows.append(crops.take(wanted))
            one_by_one = np.concatenate([crops.take([i]) for i in wanted])
            assert np.array_equal(rows[-1], one_by_one)
    assert rows[0].tobytes() == rows[1].tobytes()


def test_a_run_notes_where_the_frames_lie(pair: dict[str, Path], tmp_path: Path) -> None:
    assert noted_root(Workspace(pair["crops"]), "casme2") == pair["root"]
    note_root(Workspace(tmp_path), "made", tmp_path / "ä folder")
    with pytest.raises(StoreError, match=r"nothing at .*ä folder") as caught:
        noted_root(Workspace(tmp_path), "made")
    assert caught.value.code == "no_raw_frames"
    (tmp_path / "ä folder").mkdir()
    before = (tmp_path / "made/ingest/root.txt").stat().st_mtime_ns
    note_root(Workspace(tmp_path), "made", tmp_path / "ä folder")
    assert (tmp_path / "made/ingest/root.txt").stat().st_mtime_ns == before
    assert noted_root(Workspace(tmp_path), "made") == tmp_path / "ä folder"
    with pytest.raises(StoreError, match="no note of it"):
        noted_root(Workspace(tmp_path), "other")


def test_raw_frames_that_went_away_are_named(pair: dict[str, Path], tmp_path: Path) -> None:
    store = StageStore(pair["transforms"], "casme2", "align")
    video = store.units()[0]
    with store.open(video) as group:
        crops = CropReader(pair["transforms"], "casme2", tmp_path).crops(video, group)
        with pytest.raises(InputError) as caught:
            crops[3]
        assert caught.value.code == "unreadable_frame"
