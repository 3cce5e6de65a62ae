"""A run on a real Prefect server: names, artifacts, a kill, the ghost it leaves, the end of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--set", "train.epochs=2", "--set", "flow.size=64"]


class Server:
    """The project's own server in a home of its own, beside a taken port 4200-like one."""

    def __init__(self, home: Path, cli: Callable[..., Any]) -> None:
        self.home, self.cli = home, cli
        self.env = {"PREFECT_HOME": str(home)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.wanted = probe.getsockname()[1]
        self.squatter = socket.socket()
        self.squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.squatter.bind(("127.0.0.1", self.wanted))
        self.squatter.listen()
        self.env["PREFECT_SERVER_API_PORT"] = str(self.wanted)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    @property
    def url(self) -> str:
        return str(self.status()["server"])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("status", "--json", **self.env).stdout)
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("prefect"), cli)
    try:
        cli("up", **server.env)
        yield server
    finally:
        cli("down", **server.env)
        server.squatter.close()


def flow_runs(server: Server, **state: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.post("flow_runs/filter", {"limit": 100, **state})
    return found


def test_up_takes_the_next_port_on_loopback_and_deploys_every_stage(server: Server) -> None:
    status = server.status()
    assert status["port"] != server.wanted and status["server"].startswith("http://127.0.0.1:")
    assert status["worker"] == "running"
    deployments = {d["name"]: d for d in server.post("deployments/filter", {})}
    stages = {"ingest", "align", "registration", "apex", "flow", "motion", "train", "evaluate"}
    assert set(deployments) == {"full", "stage", *stages}
    form = deployments["full"]["parameter_openapi_schema"]
    request = form["definitions"]["RunRequest"]["properties"]
    assert request["recipe"]["title"] == "Recipe" and request["workspace"]["description"]
    assert server.post("automations/filter", {})[0]["enabled"]
    assert [limit["name"] for limit in server.post("v2/concurrency_limits/filter", {})].count(
        "apexflow-gpu"
    ) == 1


def test_up_again_changes_nothing(server: Server) -> None:
    before = server.status()
    server.cli("up", **server.env)
    assert server.status() == before


def test_full_run_shows_stages_chunks_and_pictures(
    server: Server, smoke: dict[str, Path], tmp_path: Path
) -> None:
    words = ["run", "demo_hsta", "-w", tmp_path / "ws", "-d", f"casme2={smoke['casme2']}", *SMALL]
    server.cli(*words, "--runner", "prefect", **server.env)
    runs = {r["name"]: r for r in flow_runs(server)}
    expected = {
        f"{s}-demo_hsta"
        for s in ("full", "ingest", "align", "registration", "apex", "flow", "train")
    }
    assert expected <= set(runs)
    assert {runs[name]["state_type"] for name in expected} == {"COMPLETED"}
    assert "dataset:casme2" in runs["align-demo_hsta"]["tags"]
    deadline = time.monotonic() + 30  # the server records task runs a little later
    names: set[str] = set()
    while time.monotonic() < deadline and not any(n.startswith("train-fold") for n in names):
        names = {t["name"] for t in server.post("task_runs/filter", {"limit": 200})}
        time.sleep(0.5)
    assert any(n.startswith("align-casme2-") for n in names)
    assert any(n.startswith("train-fold-00") for n in names)
    artifacts = server.post("artifacts/filter", {"limit": 200})
    keys = {a["key"]: a for a in artifacts}
    assert keys["align-casme2-progress"]["data"] == 100.0
    assert "data:image/png;base64" in keys["align-casme2-pictures"]["data"]
    assert keys["align-casme2-table"]["type"] == "table"
    assert "evaluate-demo-hsta-pictures" in keys


def test_killed_run_is_closed_as_crashed_by_the_next(
    server: Server, smoke: dict[str, Path], tmp_path: Path
) -> None:
    words = ["run", "demo_hsta", "-w", tmp_path / "ws", "-d", f"casme2={smoke['casme2']}", *SMALL]
    command = [sys.executable, "-m", "flows", *map(str, words), "--runner", "prefect"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **server.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("ws/casme2/align/part-*")) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    ghosts = {r["id"] for r in flow_runs(server, **running)}
    assert ghosts, "the killed run should still say Running"
    server.cli(*words, "--runner", "prefect", **server.env)
    assert not flow_runs(server, **running)
    crashed = {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}}
    assert ghosts == {r["id"] for r in flow_runs(server, **crashed)}


def test_nothing_is_written_to_the_users_prefect_home(server: Server, tmp_path: Path) -> None:
    home = tmp_path / "user"
    home.mkdir()
    server.cli("status", HOME=str(home), **server.env)
    assert list(home.iterdir()) == []
    assert (server.home / "prefect.db").exists()
