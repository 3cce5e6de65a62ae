"""What `up` remembers, and what it refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from data.errors import ConfigError
from flows.server import local_server
from flows.server.settings import (
    AUTH,
    FILE,
    ServerSettings,
    changed,
    password,
    read_settings,
    without_password,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    return tmp_path / "home"


def test_what_was_said_is_remembered_and_what_was_not_stays(home: Path) -> None:
    local_server.remember(ServerSettings())
    assert not (home / FILE).exists()
    first = changed(ServerSettings(), database="postgresql://a:b@db/prefect", gpus=4)
    local_server.remember(first)
    assert (home / FILE).stat().st_mode & 0o777 == 0o600
    again = changed(read_settings(home), host="0.0.0.0", port=None)
    assert again.database == "postgresql+asyncpg://a:b@db/prefect" and again.gpus == 4
    assert changed(again, database="sqlite").database == ""


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"database": "mysql://x/y"}, "--database"),
        ({"database": "postgresql://host"}, "--database"),
        ({"port": 70000}, "--port"),
        ({"gpus": 0}, "--gpus"),
        ({"connect": "ftp://x"}, "--connect"),
        ({"connect": "http://user:secret@host"}, "--connect"),
    ],
)
def test_what_cannot_be_is_refused_without_telling_a_password(said: dict, names: str) -> None:
    with pytest.raises(ConfigError, match=names) as error:
        changed(ServerSettings(), **said)
    assert "secret" not in str(error.value)


def test_a_damaged_file_is_named(home: Path) -> None:
    home.mkdir()
    (home / FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"settings\.json"):
        read_settings(home)
    (home / FILE).write_text(json.dumps({"hots": "x"}))
    with pytest.raises(ConfigError, match=r"settings\.json"):
        read_settings(home)


def test_loopback_is_the_default_and_an_open_server_knows_its_names() -> None:
    assert ServerSettings().hosts() == ["127.0.0.1", "localhost"]
    team = ServerSettings(host="0.0.0.0", names=("lab.example.org",))
    assert {"127.0.0.1", socket.gethostname(), "lab.example.org"} <= set(team.hosts())
    assert "evil.example" not in team.hosts() and "*" not in team.hosts()
    assert team.shown == "lab.example.org" and team.local == "127.0.0.1"
    assert ServerSettings(host="10.1.2.3").local == "10.1.2.3"


def test_the_server_gets_its_database_and_retention() -> None:
    said = changed(ServerSettings(), database="postgres://u:p@h/d", retention_days=30)
    state = local_server.ServerState(4300, 0, 0.0)
    found = local_server.environment(state, said)
    assert found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://u:p@h/d"
    assert found["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    assert found["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] == str(30 * 86400)
    assert "p@" not in str(said.described())
    assert without_password("postgresql+asyncpg://u:p@h/d") == "postgresql+asyncpg://u:…@h/d"


def test_the_password_of_a_team_server_comes_from_a_file_the_environment_or_last_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="password"):
        password(home, None)
    (tmp_path / "copy").write_text("apexflow:one\n")
    assert password(home, tmp_path / "copy") == "apexflow:one"
    home.mkdir()
    (home / AUTH).write_text("apexflow:two\n")
    assert password(home, None) == "apexflow:two"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "apexflow:three")
    assert password(home, None) == "apexflow:three"
