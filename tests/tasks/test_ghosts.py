"""Journals of runs whose process is gone: told to the server they belong to, and to no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.ghosts import close_ghosts
from tasks.outbox import Journal
from tasks.prefect_api import PrefectApi
from tasks.recorder import JOURNALS

TEAM = "http://team.example.org:4200/api"
HERE = "http://127.0.0.1:4200/api"


class Told(PrefectApi):
    """A server that remembers what it was told."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.told: list[str] = []

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """See PrefectApi."""
        self.told.append(path)
        return [] if path.endswith("filter") else {"id": "1", "state_type": "COMPLETED"}


@pytest.mark.parametrize(
    ("of", "asked", "tells"),
    [
        (HERE, HERE, True),
        (HERE, "http://localhost:4311/api", True),  # started anew on another port
        (TEAM, TEAM, True),
        (HERE, TEAM, False),
        (TEAM, HERE, False),
        (TEAM, "http://team2.example.org:4200/api", False),
    ],
)
def test_what_a_dead_run_left_to_tell_goes_to_its_own_server(
    tmp_path: Path, of: str, asked: str, tells: bool
) -> None:
    journal = Journal.begin(tmp_path / JOURNALS, "ws", PrefectApi(of).whose)
    journal.pid, journal.created, journal.top = 1 << 30, 0.0, "run"
    journal.pending = [{"method": "POST", "path": "late", "body": {}, "time": 0.0, "assigns": ""}]
    journal.save()
    api = Told(asked)
    close_ghosts(api, tmp_path)
    assert ("late" in api.told) == tells and journal.path.exists() != tells
