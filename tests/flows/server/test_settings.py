"""What `up` remembers, and what it refuses."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from data.errors import ApexflowError, ConfigError
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
from tasks import ghosts

up = importlib.import_module("flows.commands.up")


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
    assert changed(again, database="sqlite").postgres == ""


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


def test_sqlite_that_was_asked_for_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(local_server.DATABASE, "postgresql+asyncpg://u:p@h/d")
    state = local_server.ServerState(4300, 0, 0.0)
    said = changed(ServerSettings(), database="sqlite")
    assert local_server.DATABASE not in local_server.environment(state, said)
    local_server.remember(said)
    assert changed(read_settings(local_server.home()), gpus=1).database == "sqlite"
    assert "SQLite" in str(said.described())


def test_the_pages_find_the_api_wherever_they_came_from() -> None:
    state = local_server.ServerState(4300, 0, 0.0)
    said = ServerSettings(names=("runs.example.org",))
    assert local_server.environment(state, said)["PREFECT_UI_API_URL"] == "/api"


def test_a_proxy_for_the_internet_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "intra.example.org")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found = local_server.client_environment("http://10.0.0.5:4200/api", "a:b")
    assert (
        found["NO_PROXY"] == found["no_proxy"] == ("intra.example.org,127.0.0.1,localhost,10.0.0.5")
    )

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert local_server._answers(local_server.ServerState(server.server_port, 0, 0.0))
        server.shutdown()


@pytest.fixture
def running(home: Path) -> Iterator[local_server.ServerState]:
    """A process in place of a server that runs, in the state file."""
    process = subprocess.Popen(["sleep", "60"])
    began = psutil.Process(process.pid).create_time()
    state = local_server.ServerState(4300, process.pid, began)
    local_server.make_private(home)
    local_server._save(state)
    yield state
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"host": "192.0.2.1"}, "--host"),
        ({"host": "no such name.invalid"}, "--host"),
        ({"host": ""}, "--host"),
        ({"database": "postgresql://u:secret@127.0.0.1:9/d"}, "--database"),
    ],
)
def test_a_wrong_word_does_not_end_the_server_that_runs(
    running: local_server.ServerState, home: Path, said: dict, names: str
) -> None:
    with pytest.raises(ConfigError, match=names) as error:
        local_server.start_server(**said)
    assert "secret" not in str(error.value)
    assert running.server is not None and not (home / FILE).exists()


def test_stay_watches_the_server_that_another_up_has_started(
    running: local_server.ServerState, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = subprocess.Popen(["sleep", "60"])
    began = psutil.Process(other.pid).create_time()
    looks = 0

    def look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            psutil.Process(running.server_pid).kill()
        if looks == 3:  # ended a while before the other is there
            local_server._save(local_server.ServerState(4300, other.pid, began))
        if looks == 12:
            assert other.poll() is None
            raise KeyboardInterrupt

    monkeypatch.setattr(up, "sleep", look)
    monkeypatch.setattr(local_server, "start_worker", lambda state: pytest.fail("none was asked"))
    up.stay_up(running)
    assert looks == 12 and other.wait(10) is not None, "it is ours now, and ends with us"


def test_stay_ends_nobody_elses_server(
    running: local_server.ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "sleep", lambda seconds: None)
    gone = local_server.ServerState(4300, 1 << 30, 0.0)
    monkeypatch.setattr(local_server, "newer", lambda state: state)
    with pytest.raises(ApexflowError, match="its process ended"):
        up.stay_up(gone)
    assert running.server is not None


def test_stay_starts_a_worker_again_that_ended(
    running: local_server.ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def start(state: local_server.ServerState) -> local_server.ServerState:
        started.append(state.server_pid)
        state.worker_pid, state.worker_began = state.server_pid, state.server_began
        local_server._save(state)
        return state

    def look(seconds: float) -> None:
        if len(started) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(local_server, "start_worker", start)
    monkeypatch.setattr(up, "sleep", look)
    running.worker_pid = 1 << 30
    local_server._save(running)
    up.stay_up(running)
    assert started == [running.server_pid]


def test_server_only_forgets_the_worker_it_ends(
    running: local_server.ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.server import deployed

    monkeypatch.setattr(deployed, "set_up", lambda *words: None)
    monkeypatch.setattr(ghosts, "look_for_ghosts", lambda _: 0)
    monkeypatch.setattr(local_server, "use", lambda state: None)
    monkeypatch.setattr(local_server, "_stray_worker", lambda: None)
    local_server.remember(ServerSettings(worker=False))
    running.worker_pid, running.worker_began = 1 << 30, 1.0
    assert local_server.start_worker(running).worker_pid == 0
    assert local_server.newer(running).worker_pid == 0


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
