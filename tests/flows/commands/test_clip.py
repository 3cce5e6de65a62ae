"""`python -m flows clip`: what it writes, what it refuses by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from data.align.settings import AlignConfig
from data.errors import ConfigError, StoreError
from data.export.ordinary import export_before_after
from data.recordings import ROOT_NOTE
from data.stages.inputs import StageInputs
from data.stages.planning import run_stage
from data.stages.workspace import Workspace
from tests.fakes.steps import ingest

pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def aligned(smoke: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The smoke clips, aligned."""
    workspace, root = Workspace(tmp_path_factory.mktemp("clip") / "ws"), smoke["casme2"]
    config = AlignConfig(size=128)
    with workspace.lock() as token:
        ingest(workspace, "casme2", root, token=token)
        inputs = StageInputs(workspace.path, "casme2", root, {"align": config})
        run_stage(inputs, "align", token)
    return workspace


def event_of(workspace: Workspace) -> pd.Series:
    """The first event."""
    return pd.read_parquet(workspace.stage("casme2", "ingest") / "events.parquet").iloc[0]


def test_an_event_becomes_a_film_of_both_halves(
    aligned: Workspace, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    event, film = event_of(aligned), tmp_path / "new" / "shake.mp4"
    done = cli("clip", str(aligned.path), str(film), "--event", str(event.event), "--fps", "10")
    length = int(event.offset - event.onset) + 1
    assert f"{length} frames" in done.stdout and "align.mode track" in done.stdout
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == length and frames[0].shape == (128, 260, 3)
    change = np.abs(frames[-1][30:].astype(float) - frames[0][30:])
    assert change[:, 132:].mean() < change[:, :128].mean()  # before moves more than after


def test_wrong_wishes_are_named_and_nothing_is_written(
    aligned: Workspace, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    done = cli("clip", str(aligned.path), str(tmp_path / "a.gif"), "--video", "sub1/EP", ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "sub01/EP" in done.stderr and "in all" in done.stderr
    done = cli("clip", str(tmp_path / "empty"), str(tmp_path / "a.gif"), ok=False)
    assert done.returncode == 2 and "--dataset" in done.stderr
    assert not list(tmp_path.glob("*.gif"))
    video = str(event_of(aligned).video)
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        export_before_after(aligned, "casme2", tmp_path / "a.webm", video=video)
    with pytest.raises(ConfigError, match="fps above 0"):
        export_before_after(aligned, "casme2", tmp_path / "a.gif", video=video, fps=0)
    with pytest.raises(ConfigError, match="got none"):
        export_before_after(aligned, "casme2", tmp_path / "a.gif")
    with pytest.raises(StoreError) as caught:
        export_before_after(aligned, "samm", tmp_path / "a.gif", video=video)
    assert caught.value.code == "no_data"


def test_licensed_faces_and_lost_frames(
    aligned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = str(event_of(aligned).video)
    monkeypatch.setattr(
        "data.export.reading.faces_shown", lambda table, asked: {video} if asked else set()
    )
    with pytest.raises(ConfigError) as refused:
        export_before_after(aligned, "casme2", tmp_path / "a.gif", video=video)
    assert refused.value.code == "faces_not_shown"
    told = export_before_after(aligned, "casme2", tmp_path / "a.gif", video=video, with_faces=True)
    assert video in told and (tmp_path / "a.gif").stat().st_size > 10_000
    note = aligned.stage("casme2", "ingest") / ROOT_NOTE
    kept = note.read_bytes()
    note.unlink()
    with pytest.raises(StoreError, match="--data") as lost:
        export_before_after(aligned, "casme2", tmp_path / "b.gif", video=video, with_faces=True)
    note.write_bytes(kept)
    assert lost.value.code == "no_raw_frames" and not (tmp_path / "b.gif").exists()


def test_help_teaches(cli: Callable[..., Any]) -> None:
    text = " ".join(cli("clip", "--help", COLUMNS="120").stdout.split())
    for word in (
        "--event",
        "--video",
        "--with-faces",
        "slow motion",
        "Example: python -m flows clip",
    ):
        assert word in text
