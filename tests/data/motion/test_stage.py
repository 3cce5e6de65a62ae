"""The motion stage: its time base, what it writes, keys and ledger rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from data.errors import InputError
from data.motion import stage as stage_motion
from data.motion.pictures import motion_figure, stitched
from data.motion.settings import MotionConfig
from data.motion.stage import STAGE
from data.motion.view import position_in_view, view_of
from data.pictures.drawing import png_bytes
from data.schema import conform
from data.stages.inputs import StageInputs
from data.stages.parts import PartWriter
from data.stages.stores import write_table
from data.stages.workspace import Workspace
from tests.fakes.face_scenes import known_landmarks, moved_face
from tests.fakes.steps import chunk_inputs, one_part

CONFIG = MotionConfig(k=6)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageInputs:
    """Videos a (9 frames), b (4 frames), c (6 frames without a face)."""
    monkeypatch.setattr(stage_motion, "dlib_face", lambda model: _find)
    root, rows = tmp_path / "root", []
    for video, count in (("s1/a", 9), ("s1/b", 4), ("s2/c", 6)):
        (root / video).mkdir(parents=True)
        for i in range(count):
            image = np.zeros((48, 64), np.uint8) if video == "s2/c" else moved_face((0.5 * i, 0.0))
            path = root / video / f"{i + 1}.png"
            cv2.imwrite(str(path), image)
            rows.append((video, i, i + 1 + (i > 3), path.relative_to(root).as_posix()))
    frames = pd.DataFrame(rows, columns=["video", "index", "number", "path"])
    videos = pd.DataFrame(
        {
            "dataset": "toy",
            "subject": [v.split("/")[0] for v in ("s1/a", "s1/b", "s2/c")],
            "person": "p",
            "video": ["s1/a", "s1/b", "s2/c"],
            "fps": 30.0,
            "num_frames": [9, 4, 6],
            "kind": "long",
            "source": "frames",
            "folder": ["s1/a", "s1/b", "s2/c"],
            "identity": ["i1", "i2", "i3"],
            "provided_crop": False,
            "show_faces": True,
        }
    )
    folder = Workspace(tmp_path / "ws").stage("toy", "ingest")
    folder.mkdir(parents=True)
    write_table(conform(videos, "videos"), folder / "videos.parquet")
    write_table(conform(frames, "frames"), folder / "frames.parquet")
    return StageInputs(tmp_path / "ws", "toy", root, {"motion": CONFIG})


def _find(grey: Any) -> Any:
    return known_landmarks(grey) if grey.any() else None


def _run(inputs: StageInputs, config: MotionConfig, path: Path) -> PartWriter:
    part = PartWriter(path, STAGE, "toy")
    units = list(STAGE.list_units(inputs, config))
    chunk = chunk_inputs(inputs, "motion", units)
    for unit in units:
        try:
            STAGE.process(unit, chunk.of(unit), config, part)
        except InputError as error:
            part.drop(unit.id, error.code, str(error))
    part.close(units, config)
    return part


def test_writes_features_status_and_view(inputs: StageInputs, tmp_path: Path) -> None:
    part = _run(inputs, CONFIG, tmp_path / "part.h5")
    assert part.status == {"s1/a": "ok", "s1/b": "too_short", "s2/c": "ok"}
    assert part.counts["s1/a"] == {"windows": 2, "frames": 9, "no_face": 0}
    assert [(r["unit"], r["reason"], r["action"]) for r in part.ledger] == [
        ("s1/b", "too_short", "dropped"),
        ("s2/c", "no_face", "flagged"),
    ]
    with h5py.File(tmp_path / "part.h5") as file:
        group = file["s1/a"]
        assert group["features"].shape == (2, 10, 6)
        assert group["features"].dtype == np.float32
        assert list(group["status"].attrs["status_names"])[group["status"][0]] == "ok"
        assert group["view_index"][:].tolist() == list(range(9))
        assert dict(group.attrs)["k"] == 6
        assert not file["s2/c/features"][:].any()
        assert file["s2/c/status"][:].tolist() == [3]
        assert "s1/b" not in file


def test_the_same_run_gives_the_same_bytes(inputs: StageInputs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.h5", tmp_path / "2.h5"
    _run(inputs, CONFIG, first)
    _run(inputs, CONFIG, second)
    assert first.read_bytes() == second.read_bytes()


def test_keys_follow_settings_and_numbers(inputs: StageInputs) -> None:
    def keys(**changes: Any) -> dict[str, str]:
        config = MotionConfig(**{"k": 6, **changes})
        view = StageInputs(inputs.workspace, inputs.dataset, inputs.root, {"motion": config})
        return view.keys("motion")

    assert keys() == keys()
    for change in ({"k": 8}, {"flow": "tvl1"}, {"clamp": False}, {"gaps": "fill"}):
        assert not set(keys(**change).values()) & set(keys().values()), change


def test_gaps_filled_shows_the_next_image(inputs: StageInputs, tmp_path: Path) -> None:
    _run(inputs, MotionConfig(k=6, gaps="fill"), tmp_path / "part.h5")
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["s1/a/view_index"][:].tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]


def test_view_of_numbers() -> None:
    fill, skip = MotionConfig(gaps="fill"), MotionConfig(frame_skip=7)
    assert view_of(4, [1, 2, 5, 6], fill).tolist() == [0, 1, 2, 2, 2, 3]
    assert view_of(3, [0, 1, 2], fill).tolist() == [1, 2], "a file numbered 0 is left out"
    assert view_of(2, [3, 4], fill).tolist() == [0, 0, 0, 1]
    assert view_of(20, None, skip).tolist() == [0, 7, 14]
    assert view_of(4, None, fill).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("numbers", [[1, 1, 2], [2, 1, 3], [-1, 0, 1], [1, 2], [1, 2, 100001]])
def test_bad_numbering_is_named(numbers: list[int]) -> None:
    with pytest.raises(InputError) as caught:
        view_of(3, numbers, MotionConfig(gaps="fill"), "toy/a")
    assert caught.value.code == "bad_numbering"
    assert "toy/a" in str(caught.value)


@pytest.mark.parametrize("skip", [1, 3, 7])
def test_position_in_view_is_the_truncated_number(skip: int) -> None:
    view = view_of(60, None, MotionConfig(frame_skip=skip))
    assert [position_in_view(view, n - 1) for n in range(1, 61)] == [
        int((n - 1) / skip) for n in range(1, 61)
    ]


def test_odd_windows_are_refused() -> None:
    with pytest.raises(ValidationError, match="even"):
        MotionConfig(k=31)


def test_picture_of_a_video() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(3, 10, 6)).astype(np.float32)
    series = stitched(features)
    assert series.shape == (10, 12)
    np.testing.assert_array_equal(series[:, 6:9], features[1, :, 3:])
    status = np.array([0, 3, 0], np.uint8)
    pictures = [
        png_bytes(motion_figure(features, status, "coarse10", spans=[(2, 5, "micro")]))
        for _ in range(2)
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0][:4] == b"\x89PNG"
    with pytest.raises(InputError, match="36 channels"):
        motion_figure(features, status, "multi36")


def test_a_frame_of_another_size_gets_its_own_ledger_row(
    inputs: StageInputs, tmp_path: Path
) -> None:
    path = tmp_path / "root" / "s1" / "a" / "4.png"
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path), 0), (70, 50)))
    result = one_part(inputs, "motion", tmp_path / "part.h5")
    found = [(r["unit"], r["detail"]) for r in result.ledger if r["reason"] == "size_differs"]
    assert found == [("s1/a", "1 frames are of another size: 3")]
