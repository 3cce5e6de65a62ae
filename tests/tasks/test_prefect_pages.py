"""What a run is called in Prefect's UI: keys of artifacts, the workspace's own name, no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.runs.recorded import workspace_name
from tasks.carriers import LocalCarrier
from tasks.prefect_executor import PrefectExecutor


class Kept:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Any] = {}

    def artifact(self, key: str, kind: str, data: Any, description: str) -> str:
        self.artifacts[key] = (kind, data, description)
        return key

    def change_artifact(self, key: str, data: Any, description: str) -> None:
        self.artifacts[key] = ("progress", data, description)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/lab/anna/hsta", "hsta"), ("/lab/anna/workspace", "anna-workspace"), ("/lab/b/ws", "b-ws")],
)
def test_a_workspace_has_a_name_of_its_own(path: str, name: str) -> None:
    assert workspace_name(Path(path)) == name


def test_artifacts_of_two_workspaces_and_recipes_do_not_mix() -> None:
    kept = Kept()
    for place, recipe in (("anna-ws-hsta_cpu", "hsta_cpu"), ("b-ws-me_tst", "me_tst")):
        executor = PrefectExecutor(LocalCarrier(0), kept, place, recipe)  # type: ignore[arg-type]
        executor.progress("align-casme2", 1, 4, "")
        executor.progress("align-casme2", 4, 4, "")
        executor.page("align-casme2", "# x", [{"subjects": "<b>"}])
        executor.page(f"evaluate-{recipe}", "# x", [])
        executor.table("anna-ws-scores", "Scores", [{"run": "a"}])
    assert set(kept.artifacts) == {
        *(f"anna-ws-hsta-cpu-align-casme2-{k}" for k in ("progress", "pictures", "table")),
        *(f"b-ws-me-tst-align-casme2-{k}" for k in ("progress", "pictures", "table")),
        "anna-ws-hsta-cpu-evaluate-pictures", "b-ws-me-tst-evaluate-pictures", "anna-ws-scores",
    }  # fmt: skip
    assert kept.artifacts["anna-ws-hsta-cpu-align-casme2-progress"][1] == 100.0
    kind, data, _ = kept.artifacts["b-ws-me-tst-align-casme2-table"]
    assert kind == "table" and json.loads(data) == [{"subjects": "&lt;b&gt;"}]
