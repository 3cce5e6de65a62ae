"""What a command does first and last: extras before hours of work, results where one looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.errors import MissingExtraError
from flows.cli import app
from flows.commands.predict import _beside
from flows.runs import launch

RUN = ["run", "demo_hsta", "-w", "ws", "--mlflow", "store"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order."""
    found: list[str] = []
    monkeypatch.setattr(launch, "require_tracking", lambda: found.append("asked"))
    monkeypatch.setattr(launch, "run", lambda *words: found.append("ran") or [])
    monkeypatch.setattr(launch, "summary", lambda records: found.append("said") or "scores")
    return found


def test_mlflow_is_asked_for_first_and_written_last(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(records: Any, store: str) -> int:
        told.append("written")
        return 1

    monkeypatch.setattr(launch, "write_tracking", write)
    done = CliRunner().invoke(app, RUN)
    assert done.exit_code == 0 and told == ["asked", "ran", "said", "written"]
    assert "scores" in done.output and "nothing written" not in done.output


def test_without_a_scored_run_it_is_said_that_nothing_was_written(told: list[str]) -> None:
    done = CliRunner().invoke(app, RUN)
    assert done.exit_code == 0 and "nothing written to MLflow" in done.output


def test_without_mlflow_nothing_is_begun(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("MLflow", expected="the extra mlflow", got="none")

    monkeypatch.setattr(launch, "require_tracking", missing)
    done = CliRunner().invoke(app, RUN)
    assert done.exit_code != 0 and "the extra mlflow" in done.output and told == []


def test_a_prediction_lies_beside_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _beside(Path("/films/a.mp4")) == Path("/films/a.mp4-prediction")
    assert _beside(Path("a.mp4")) == tmp_path / "a.mp4-prediction"
    assert _beside(Path()) == tmp_path.parent / f"{tmp_path.name}-prediction"


def test_plan_as_json_measures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.runs import planner

    def plan(request: Any, say: Any) -> list[Any]:
        say("measuring")
        return []

    monkeypatch.setattr(planner, "plan", plan)
    done = CliRunner().invoke(app, ["plan", "demo_hsta", "-w", "ws", "--json"])
    assert done.stdout.strip() == "[]" and "measuring" in done.stderr
