"""A team's server for real: PostgreSQL remembered, other machines let in only with the password.

Two Prefect workers share one pool, each in a home of its own as on a machine of its own.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.postgres import binaries, postgres
from tests.fakes.prefect_server import ROOT, Server, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed"),
]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Iterator[Server]:
    with ExitStack() as stack:
        address = stack.enter_context(postgres())
        server = Server(tmp_path_factory.mktemp("team"), cli)
        stack.callback(server.down)
        server.squatter.close()
        words = ["--host", "0.0.0.0", "--port", str(server.wanted), "--server-only"]
        words += ["--name", "me.example"]
        cli("up", *words, "--database", address, "--retention-days", "30", **server.env)
        yield server


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_others_reach_it_by_its_names_and_only_with_the_password(team: Server) -> None:
    port, path = team.state["port"], "/api/work_pools/apexflow"
    basic = "Basic " + base64.b64encode(team.auth.encode()).decode()
    cards = {a.address for card in psutil.net_if_addrs().values() for a in card if "." in a.address}
    for name in (*cards, socket.gethostname(), "me.example"):  # as browsers elsewhere say it
        address = f"http://{name if name in cards else '127.0.0.1'}:{port}{path}"
        host = f"{name}:{port}"
        assert status_of(address, Host=host) == 401, name
        assert status_of(address, Authorization=basic, Host=host) == 200, name
    assert status_of(address, Authorization=basic, Host="evil.example") == 400
    assert team.status()["worker"] == "not running"


def test_the_next_up_keeps_database_address_and_that_nobody_works_here(team: Server) -> None:
    first = team.status()
    assert "postgresql" in first["database"] and "secret" not in json.dumps(first)
    team.cli("down", **team.env)
    team.cli("up", **team.env)
    again = team.status()
    for name in ("listens", "database", "retention", "worker", "port"):
        assert again[name] == first[name]
    assert not list(team.home.glob("*.db"))
    assert {d["name"] for d in team.post("deployments/filter", {})} >= {"full", "ingest"}


def test_two_workers_share_the_pool(team: Server, smoke: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "auth").write_text(team.auth)
    logs, started = {}, []
    root = str(smoke["casme2"])
    try:
        for name in ("one", "two"):
            env = {**os.environ, "PREFECT_HOME": str(tmp_path / name)}
            words = ["--connect", team.url, "--auth-file", str(tmp_path / "auth"), "--name", name]
            logs[name] = tmp_path / f"{name}.log"
            with open(logs[name], "ab") as log:
                command = [sys.executable, "-m", "flows", "worker", *words, "--workers", "1"]
                started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
        until(lambda: len(team.post("work_pools/apexflow/workers/filter", {})) >= 2, "workers")
        deployment = {d["name"]: d["id"] for d in team.post("deployments/filter", {})}["ingest"]
        runs = []
        for number in range(4):
            request = {
                "recipe": "demo_hsta",
                "workspace": str(tmp_path / f"ws{number}"),
                "data": [{"dataset": "casme2", "folder": root}],
            }
            body = {"parameters": {"request": request}, "state": {"type": "SCHEDULED"}}
            made = team.post(f"deployments/{deployment}/create_flow_run", body)
            runs.append(made["id"])

        def ended() -> bool:
            return all(team.get(f"flow_runs/{run}")["state_type"] == "COMPLETED" for run in runs)

        until(ended, "four runs", 300)
        host = socket.gethostname()
        for run in runs:
            assert team.get(f"flow_runs/{run}")["infrastructure_pid"].startswith(f"{host}:")
        for number in range(4):
            assert (tmp_path / f"ws{number}" / "casme2" / "ingest" / "manifest.parquet").exists()
        for log in logs.values():  # each did some of them
            assert any(run in log.read_text() for run in runs)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
