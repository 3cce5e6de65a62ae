"""A folder of unlabelled videos to a submission; several runs as one; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from data.challenge.forms import read_intervals
from data.datasets.base import GENERATOR
from data.errors import ConfigError, InputError
from data.motion import features as motion
from data.stages.workspace import Workspace
from flows.cli import app
from models.predict import folder
from models.predict.ensemble import Look, combined
from models.predict.folder import is_collection, predict_folder, unlabelled
from models.predict.spot import predict_video
from models.runs.files import RunFiles
from tests.fakes.spotting_run import landmarks, spotting_run, write_pictures


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    monkeypatch.setattr(motion, "dlib_face", lambda predictor=None: landmarks)
    return spotting_run(Workspace(tmp_path / "ws"))


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    """Two videos of SAMM (200 fps) and a slow one of CAS (30 fps), as the challenge files them."""
    root = tmp_path / "tests"
    for name, at in (("001_2", 30), ("002_4", 50)):
        write_pictures(root / "SAMM_data" / name, 80, name + "_{:05d}.png", at)
    write_pictures(root / "CAS_data" / "dzw_a1", 40, "{}.png")
    return root


def test_test_set_to_submission(run: RunFiles, tests: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = predict_folder(tests, run, out, layout="megc")
    assert set(found.found) == {"samm/001_2", "samm/002_4"}
    (refused,) = found.refused
    assert refused[0] == "cas/dzw_a1" and refused[1] == "frame_rate_too_low"
    assert not (out / "cas").exists()  # a refused video leaves no folder
    form, rows = read_intervals(out / "spotting" / "samm_pred.csv")
    assert form == "spotting" and len(rows) == sum(len(p.intervals) for p in found.found.values())
    first = found.found["samm/001_2"].intervals[0]
    mine = [r for r in rows if r.video == "001_2"]
    assert mine[0].onset == first.start + 1  # the file's number, not the index
    form, rows = read_intervals(out / "recognised" / "samm_pred.csv")
    assert form == "str" and {r.subject for r in rows} <= {"1", "2"}
    assert {r.emotion for r in rows} <= {"negative", "positive", "surprise"}
    assert (out / "spotting" / "cas_pred.csv").read_text().count("\n") == 1  # the header
    said = json.loads((out / "videos.json").read_text())
    assert said["refused"][0]["video"] == "cas/dzw_a1"
    assert (out / "samm" / "001_2" / "prediction.json").is_file()
    assert "refused" in found.to_text() and "2 videos, 1 refused" in found.to_text()


def test_a_stated_rate_is_only_for_videos_without_one(
    tests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, _ = unlabelled(tests, "megc", 999.0)
    assert {(v.part, v.own.fps) for v in videos} == {("samm", 200.0), ("cas", 30.0)}
    unknown, _ = unlabelled(tests / "SAMM_data", None, 999.0)
    assert {v.own.fps for v in unknown} == {999.0}
    for rates, own, want in [((25.0, 999.0), 30.0, 25.0), ((0.0, 999.0), 30.0, 30.0),
                             ((0.0, 999.0), None, 999.0), ((0.0, None), None, None)]:  # fmt: skip
        film = SimpleNamespace(fps=own)
        monkeypatch.setattr(
            folder, "open_own", lambda _, fps=None, film=film: SimpleNamespace(fps=fps or film.fps)
        )
        assert folder._opened(tmp_path, *rates).fps == want


def test_nothing_is_left_where_every_video_is_refused(
    run: RunFiles, tests: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="75 frames/s") as caught:
        predict_folder(tests / "CAS_data", run, tmp_path / "new" / "out", fps=10.0)
    assert caught.value.code == "frame_rate_too_low" and not (tmp_path / "new").exists()
    for short in (tests / "SAMM_data").glob("*/*"):
        if int(short.stem[-5:]) > 12:
            short.unlink()
    with pytest.raises(InputError, match="at least k"):
        predict_folder(tests / "SAMM_data", run, tmp_path / "new" / "out", fps=100.0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        predict_folder(tmp_path / "empty", run, tmp_path / "new")
    assert caught.value.code == "no_videos" and not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="outside the videos"):
        predict_folder(tests, run, tests / "out")


def test_a_folder_of_ones_own(run: RunFiles, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_pictures(root / "anna" / "first", name="f_{:04d}.png")
    write_pictures(root / "ben")
    assert is_collection(root) and not is_collection(root / "ben")
    found = predict_folder(root, run, tmp_path / "out", fps=100.0)
    assert set(found.found) == {"own/anna/first", "own/ben"} and not found.refused
    _, rows = read_intervals(tmp_path / "out" / "recognised" / "own_pred.csv")
    assert {r.subject for r in rows} == {"anna", "ben"}


@pytest.mark.slow
def test_several_runs_are_averaged(run: RunFiles, tests: Path, tmp_path: Path) -> None:
    other = spotting_run(Workspace(tmp_path / "other"), seed=7)
    video = tests / "SAMM_data" / "001_2"

    def scores(name: str, runs: RunFiles | list[RunFiles]) -> np.ndarray:
        predict_video(video, runs, tmp_path / name, fps=200.0)
        lines = (tmp_path / name / "scores.csv").read_text().splitlines()[1:]
        return np.array([float(line.split(",")[1]) for line in lines])

    one, two, both = scores("a", run), scores("b", other), scores("c", [run, other])
    assert not np.allclose(one, two)
    np.testing.assert_allclose(both, (one + two) / 2, atol=2e-6)
    with pytest.raises(ConfigError, match="at least one"):
        predict_video(video, [], tmp_path / "d")


def test_runs_at_other_rates_meet_on_the_first_ones_frames() -> None:
    every, second = np.arange(0, 41), np.arange(0, 41, 2)
    peak = np.exp(-(((every - 20) / 5.0) ** 2))
    logits = np.zeros((41, 5))
    logits[:, 1] = 1.0
    slow = Look(peak[::2], logits[::2], second, 3, 2)
    curves, k_p = combined([slow, Look(peak, logits, every, 10, 2)], 0.55)
    assert curves.frames.tolist() == second.tolist() and k_p == 4  # 3, and 10 frames of the video
    np.testing.assert_allclose(curves.score, peak[::2], atol=1e-12)
    curves, k_p = combined([Look(peak, logits, every, 10, 2), slow], 0.55)
    assert k_p == 8 and len(curves.score) == 41 and set(curves.three) == {1}
    assert np.abs(curves.score - peak).max() < 0.02


@pytest.mark.slow
def test_command_on_a_folder_then_evaluate(run: RunFiles, tests: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def invoke(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(map(str, words)))
        return result.exit_code, result.output

    code, text = invoke("predict", tests, "--run", run.folder, "--run", run.folder, "--layout",
                        "megc", "--out", out, "--device", "cpu")  # fmt: skip
    assert code == 0 and "2 videos, 1 refused" in text and "recognised" in text
    event = {"type": "micro", "onset_number": 30, "offset_number": 50, "emotion": "disgust"}
    videos = [
        {"video": f"samm/{n}", "subject": n[:3], "events": [event]} for n in ("001_2", "002_4")
    ]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"generator": GENERATOR, "videos": videos}))
    for form in ("spotting", "recognised"):
        code, text = invoke("evaluate", out / form / "samm_pred.csv", "--truth", truth, "--json")
        sheet = json.loads(text)
        line = next(s for s in sheet["scores"] if s["measure"].startswith("F1") and not s["rule"])
        assert code == 0 and line["part"] == "samm" and line["counts"]["T"] == 2
    code, text = invoke("evaluate", out / "spotting" / "cas_pred.csv", "--truth", truth)
    assert code == 1 and "no video of part cas" in text
