"""A trained run applied to a video of one's own: frames or a file in, intervals out."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from data import faces
from data.errors import ConfigError, InputError
from data.faces import Face
from data.frames import FrameSource
from data.motion import features as motion
from data.own_video import OwnVideo, open_own
from data.stages.workspace import Workspace
from data.video_file import VideoFacts
from models.fitting import save_weights, write_json
from models.predict.pace import choose_frames
from models.predict.spot import _Counted, predict_video, trained_rate
from models.runs.files import RunFiles
from tests.fakes.fabricated_run import (
    enter_again,
    write_hsta_run,
    write_ingest,
)
from tests.fakes.films import write_film
from tests.fakes.spotting_run import FRAMES, SIDE, landmarks, spotting_run, write_pictures


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "mine")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    """A run whose folds have real, small networks."""
    monkeypatch.setattr(motion, "dlib_face", lambda predictor=None: landmarks)
    return spotting_run(Workspace(tmp_path / "ws"))


def test_folder_of_frames(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    out = tmp_path / "out"
    found = predict_video(
        frames, run, out, fps=100.0, overlay=True, progress=lambda done, text: seen.append(done)
    )
    assert found.num_frames == FRAMES and found.num_windows == 5 and seen[0] == 0.0
    assert len(found.folds) == 2 and found.k_p == 4
    for one in found.intervals:
        assert 0 <= one.start <= one.peak <= one.end < FRAMES
        assert one.start_s == pytest.approx(one.start / 100)
        assert one.emotion in ("negative", "positive", "surprise", "others")
    plain = json.loads((out / "prediction.json").read_text())
    assert plain == json.loads(json.dumps(found.to_json()))
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    with (out / "intervals.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found.intervals)
    image = cv2.imread(str(out / "timeline.png"))
    assert image is not None and image.std() > 5
    clip = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(clip.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES
    assert "intervals" in found.to_text() and str(out / "scores.csv") in found.to_text()


def test_same_video_same_result_and_one_fold_is_not_the_mean(
    run: RunFiles, frames: Path, tmp_path: Path
) -> None:
    def scores(name: str, fold: str | None = None) -> str:
        predict_video(frames, run, tmp_path / name, fold=fold)
        return (tmp_path / name / "scores.csv").read_text()

    both = scores("a")
    assert both == scores("b")
    names = [fold.name for fold in run.folds]
    single = [scores(name, name) for name in names]
    assert single[0] != single[1] and both not in single
    columns = [[float(line.split(",")[1]) for line in s.splitlines()[1:]] for s in (both, *single)]
    np.testing.assert_allclose(columns[0], np.mean(columns[1:], axis=0), atol=2e-6)


def test_video_file(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 100.0, (SIDE, SIDE))
    for i in range(FRAMES):
        writer.write(cv2.cvtColor(cv2.imread(str(frames / f"img{i + 1}.png"), 0), 8))
    writer.release()
    found = predict_video(path, run, tmp_path / "out")
    assert found.fps == pytest.approx(100.0) and found.num_frames == FRAMES


def own_video(seconds: np.ndarray, fps: float | None, variable: bool = False) -> OwnVideo:
    """What is known of the time of a video without frames."""
    source = FrameSource([Path("none.png")] * len(seconds))
    facts = VideoFacts(len(seconds), (8, 8), seconds, fps or np.nan, 0, np.nan, int(variable), "")
    return OwnVideo(Path("own.mp4"), source, (), fps, seconds, facts)


@pytest.mark.parametrize(("fps", "step"), [(100.0, 1), (80.0, 1), (200.0, 2), (310.0, 3)])
def test_a_multiple_of_the_trained_rate_gives_every_nth_frame(fps: float, step: int) -> None:
    pace = choose_frames(own_video(np.arange(60) / fps, fps), 100.0, 1)
    assert pace.frames.tolist() == list(range(0, 60, step)) and pace.skip == step
    assert pace.fps == pytest.approx(fps / step)
    assert bool(pace.notes) == (fps == 80.0)


def test_other_rates_are_resampled_in_time_and_slow_ones_refused(run: RunFiles) -> None:
    """Trained at 100 frames/s; 150 is no multiple of it."""
    assert trained_rate(run) == 100.0
    seconds = np.arange(90) / 150
    pace = choose_frames(own_video(seconds, 150.0), 100.0, 1)
    assert pace.fps == 100.0 and "nearest" in pace.notes[0]
    np.testing.assert_allclose(seconds[pace.frames], np.arange(60) / 100, atol=0.5 / 150 + 1e-9)
    with pytest.raises(InputError, match="75 frames/s") as caught:
        choose_frames(own_video(np.arange(60) / 30, 30.0), 100.0, 1)
    assert caught.value.code == "frame_rate_too_low"
    unknown = choose_frames(own_video(np.full(60, np.nan), None), 100.0, 7)
    assert unknown.frames.tolist() == list(range(0, 60, 7)) and unknown.fps is None
    assert "unknown" in unknown.notes[0]


def test_a_variable_rate_is_said_and_followed() -> None:
    seconds = np.cumsum([0, *[0.01] * 30, 0.05, *[0.01] * 30])
    pace = choose_frames(own_video(seconds, 96.0, variable=True), 100.0, 1)
    assert "variable frame rate" in pace.notes[0] and pace.fps == 96.0
    steps = np.diff(seconds[pace.frames])
    assert (np.diff(pace.frames) == 0).sum() >= 3  # the gap is held, not skipped
    assert abs(steps.mean() - 1 / 96) < 2e-4


def test_seconds_come_from_the_files_timestamps(run: RunFiles, tmp_path: Path) -> None:
    """A pause of two seconds in the middle moves what follows, not its frame numbers."""
    ticks = [10 * i + (2000 if i >= 30 else 0) for i in range(FRAMES)]
    path = write_film(tmp_path / "own.mp4", FRAMES, "libx264", ticks=ticks)
    own = open_own(path)
    assert own.variable and own.seconds[45] == pytest.approx(2.45, abs=2e-3)
    assert own.fps == pytest.approx((FRAMES - 1) / 2.59, rel=1e-2)


def test_whom_the_network_has_seen_is_said(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    assert predict_video(frames, run, tmp_path / "a", fps=100.0).trained_on == "unknown"
    path = run.workspace.stage("samm_lv", "ingest") / "videos.parquet"
    table = pd.read_parquet(path)
    for real, word in ((False, "people"), (True, "synthetic")):
        table["synthetic"] = pd.array([real] * len(table), "boolean")
        table.to_parquet(path)
        found = predict_video(frames, run, tmp_path / "a", fps=100.0)
        assert found.trained_on == word
        assert ("never seen a real person" in found.to_text()) == (word == "synthetic")
    plain = json.loads((tmp_path / "a" / "prediction.json").read_text())
    assert plain["trained_on"] == "synthetic" and "never seen" in plain["notes"][0]


def test_two_faces_are_said(
    run: RunFiles, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def look(self, grey: np.ndarray) -> tuple[np.ndarray, Face]:
            return grey, Face(np.array([0.0, 0, 9, 9]), 1.0, count=2)

    monkeypatch.setattr(faces, "face_finder", lambda predictor=None: Finder())
    found = predict_video(frames, run, tmp_path / "out", fps=100.0)
    assert "2 faces in view (8 of 8 frames" in found.to_text()


def test_frames_come_in_natural_order(tmp_path: Path) -> None:
    for i, level in ((10, 90), (9, 30), (1, 10)):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), np.full((8, 8), level, np.uint8))
    own = open_own(tmp_path)
    assert own.fps is None and [int(own.source.read(i)[0, 0]) for i in range(3)] == [10, 30, 90]


def test_bad_videos_and_runs_are_named(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "note.avi"
    text.write_text("no video")
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (empty, tmp_path / "nowhere", text, frames / "img1.png", pipe):
        with pytest.raises(InputError):
            predict_video(path, run, tmp_path / "new" / "out")
    with pytest.raises(ConfigError, match="fold-00"):
        predict_video(frames, run, tmp_path / "out", fold="fold-99")
    for extra in list(frames.iterdir())[:50]:
        extra.unlink()
    with pytest.raises(InputError, match="at least k"):
        predict_video(frames, run, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()  # a refusal leaves nothing behind
    (tmp_path / "old").mkdir()
    with pytest.raises(InputError, match="at least k"):
        predict_video(frames, run, tmp_path / "old")
    assert (tmp_path / "old").is_dir()


def test_unreadable_frames_are_counted(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    for number in (1, 21):
        (frames / f"img{number}.png").write_bytes(b"no picture")
    found = predict_video(frames, run, tmp_path / "out", overlay=True)
    assert found.unreadable_frames == 2 and "2 frames cannot be read" in found.to_text()
    clip = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert int(clip.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES
    for path in frames.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=f"none of {FRAMES}") as caught:
        predict_video(frames, run, tmp_path / "out")
    assert caught.value.code == "unreadable_video"


def test_a_frame_that_several_runs_read_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8), np.uint8))
    counted = _Counted(FrameSource([tmp_path / "0.png", tmp_path / "1.png"]))
    for view in ([0, 1], [0], [1]):  # each run's own
        assert [index for index, _ in counted.iter(view)] == view
    assert counted.read == {0, 1} and counted.unreadable == {0}


def test_results_need_a_folder(run: RunFiles, frames: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(InputError, match="taken: expected a folder") as caught:
        predict_video(frames, run, taken)
    assert caught.value.code == "not_writable" and taken.read_text() == "a file"


def test_a_video_without_a_face(
    run: RunFiles, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion, "dlib_face", lambda predictor=None: lambda grey: None)
    with pytest.raises(InputError, match="face"):
        predict_video(frames, run, tmp_path / "out")


def test_a_recognition_run_does_not_spot(frames: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "other")
    write_ingest(workspace, "casme2")
    hsta = RunFiles(write_hsta_run(workspace))
    with pytest.raises(ConfigError, match="ME-TST"):
        predict_video(frames, hsta, tmp_path / "out")


# --- HSTA on what was spotted


@pytest.fixture
def hsta_run(tmp_path: Path) -> RunFiles:
    """A recognition run whose folds have real, small networks with known class biases."""
    from models.hsta import network as hsta

    workspace = Workspace(tmp_path / "hsta")
    write_ingest(workspace, "casme2", subjects=2)
    model = {"name": "hsta", "image_size": 64, "num_frames": 2, "embed_dim": [16, 16],
             "num_heads": [2, 2], "num_groups": 1, "patch_size": [16, 16]}  # fmt: skip
    recipe = {"model": model, "align": {"mode": "none", "size": 128}, "apex": {"method": "middle"}}
    folder = write_hsta_run(workspace, **recipe)
    config = hsta.HstaConfig(**{**model, "num_classes": 3})
    for fold in sorted(folder.glob("fold-*")):
        torch.manual_seed(0)
        network = hsta.create(config)
        with torch.no_grad():
            network.head.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
        save_weights(network, fold / "weights.safetensors")
        facts = {"model": config.model_dump(), "train": {}, "seed": 0, "input_scale": [1, 1, 1, 1],
                 "classes": ["negative", "positive", "surprise"]}  # fmt: skip
        write_json(fold / "model.json", facts)
    enter_again(folder)
    return RunFiles(folder)


def test_hsta_names_given_intervals(hsta_run: RunFiles, tmp_path: Path) -> None:
    from data.own_video import image_files
    from models.predict.recognise import recognise
    from tests.fakes.face_scenes import moved_face

    folder = tmp_path / "face"
    folder.mkdir()
    for i in range(24):
        cv2.imwrite(str(folder / f"{i}.png"), moved_face(noise=1.0, seed=i))
    spans = [(2, 9), (12, 20)]
    found = recognise(folder, image_files(folder), spans, hsta_run, fps=30.0)
    assert len(found) == 2
    for chances in found:
        assert chances is not None and set(chances) == {"negative", "positive", "surprise"}
        assert max(chances, key=chances.__getitem__) == "surprise"
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    assert recognise(folder, image_files(folder), [], hsta_run, fps=30.0) == []
    assert not [p for p in folder.iterdir() if p.suffix != ".png"]


def test_a_spotting_run_does_not_recognise(run: RunFiles, frames: Path) -> None:
    from models.predict.recognise import recognise

    with pytest.raises(ConfigError, match="HSTA"):
        recognise(frames, FRAMES, [(1, 5)], run, fps=30.0)
