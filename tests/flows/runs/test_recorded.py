"""What a recorded run leaves to look at: galleries drawn, links that the server's pages open."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from data.stages.workspace import Workspace
from flows.runs import recorded
from flows.server.pages import PREFIX, find_file

SECRET = "apexflow:secret"


@pytest.fixture
def context(tmp_path: Path) -> Any:
    request = SimpleNamespace(with_faces=True)
    executor = SimpleNamespace(progress=lambda *_: None)
    recipe = SimpleNamespace(data=("casme2", "samm"))
    space = Workspace(tmp_path / "ws")
    return SimpleNamespace(request=request, executor=executor, recipe=recipe, workspace=space)


def test_nothing_about_pictures_fails_a_run(
    context: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[str, bool]] = []

    def draw(_: Workspace, dataset: str, *, with_faces: bool, progress: Any) -> None:
        asked.append((dataset, with_faces))
        raise KeyError("a picture")

    few = SimpleNamespace(table=lambda _: pd.DataFrame({"video": ["v"]}))
    monkeypatch.setattr(recorded, "galleries", lambda _, data: list(data))
    monkeypatch.setattr(recorded, "Recordings", lambda *_: few)
    monkeypatch.setattr(recorded, "write_gallery", draw)
    recorded._draw_galleries(context)
    assert asked == [("casme2", True), ("samm", True)]  # as the run's own field says
    assert caplog.text.count("not drawn") == 2


def test_links_open_the_gallery_that_is_there_and_name_the_command_for_the_other(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = context.workspace.path / "casme2" / "gallery" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("gallery")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    said = recorded.links(context, [])
    one, two = said.split("\n")
    assert find_file(one.split("](")[1].split(")")[0], SECRET) == page
    assert "samm" in two and "python -m flows gallery" in two and PREFIX not in two
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    assert PREFIX not in recorded.links(context, []), "no server of ours could show them"
