"""The project's own Prefect server in a home of its own, and requests to it as anybody may make."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tasks.prefect_api import PrefectApi, Unreachable

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """`up`, `down` and requests; its wanted port is taken, so that it must choose the next."""

    def __init__(self, home: Path, cli: Callable[..., Any]) -> None:
        self.home, self.cli = home, cli
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.wanted = probe.getsockname()[1]
        self.squatter = socket.socket()
        self.squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.squatter.bind(("127.0.0.1", self.wanted))
        self.squatter.listen()
        self.env = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(self.wanted)}
        self._api: PrefectApi | None = None

    def up(self) -> None:
        """Start what is not there."""
        self.cli("up", **self.env)

    def down(self) -> None:
        """Stop all of it, whatever a test did to it."""
        self.cli("down", ok=False, **self.env)
        self.squatter.close()

    @property
    def state(self) -> dict[str, Any]:
        """The state file: port, process numbers."""
        found: dict[str, Any] = json.loads((self.home / "apexflow-server.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.state['port']}"

    @property
    def auth(self) -> str:
        return (self.home / "auth").read_text().strip()

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        found: dict[str, Any] = json.loads(self.cli("status", "--json", **self.env).stdout)
        return found

    def post(self, path: str, body: Any) -> Any:
        """As one who knows the password and takes the CSRF token."""
        return self._request("POST", path, body)

    def get(self, path: str) -> Any:
        """GET likewise."""
        return self._request("GET", path)

    def patch(self, path: str, body: Any) -> Any:
        """PATCH likewise."""
        return self._request("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """DELETE likewise."""
        return self._request("DELETE", path)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        if self._api is None:
            self._api = PrefectApi(f"{self.url}/api", self.auth, timeout_s=60)
        for _ in range(5):  # a locked database says 503, as to any client
            try:
                return self._api.request(method, path, body)
            except Unreachable:
                time.sleep(1)
        return self._api.request(method, path, body)

    def knock(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """A request with just these headers (`_` for `-`): status, headers, text."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = dict(answer.headers.items())
                return answer.status, {k.lower(): v for k, v in found.items()}, _text(answer)
        except urllib.error.HTTPError as error:
            found = dict(error.headers.items())
            return error.code, {k.lower(): v for k, v in found.items()}, _text(error)

    def runs(self, *types: str, **more: Any) -> list[dict[str, Any]]:
        """Flow runs, newest first; of these state types when given."""
        query: dict[str, Any] = dict(more)
        if types:
            query["state"] = {"type": {"any_": list(types)}}
        body = {"flow_runs": query, "limit": 200, "sort": "EXPECTED_START_TIME_DESC"}
        found: list[dict[str, Any]] = self.post("flow_runs/filter", body)
        return found

    def tasks(self, *types: str) -> list[dict[str, Any]]:
        """Task runs of these state types."""
        query = {"state": {"type": {"any_": list(types)}}} if types else {}
        body = {"task_runs": query, "limit": 200}
        found: list[dict[str, Any]] = self.post("task_runs/filter", body)
        return found

    def deployment(self, name: str) -> dict[str, Any]:
        """One deployment by its name."""
        [found] = [d for d in self.post("deployments/filter", {}) if d["name"] == name]
        return dict(found)

    def create_run(self, deployment: str, request: dict[str, Any], **more: Any) -> str:
        """A run of a deployment, as the form makes it; returns its id."""
        body = {"parameters": {"request": request, **more.pop("parameters", {})}, **more}
        body.setdefault("state", {"type": "SCHEDULED"})
        found = self.post(f"deployments/{self.deployment(deployment)['id']}/create_flow_run", body)
        return str(found["id"])

    def run(self, identity: str) -> dict[str, Any]:
        """One flow run."""
        return dict(self.get(f"flow_runs/{identity}"))

    def start(self, *words: Any, **env: str) -> subprocess.Popen[str]:
        """`python -m flows WORDS` beside the test, as in a terminal: ^C reaches it."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def kill(self, who: str = "server") -> None:
        """kill -9 of the server or the worker."""
        process = psutil.Process(self.state[f"{who}_pid"])
        process.kill()
        psutil.wait_procs([process], timeout=10)


def _text(answer: Any) -> str:
    return str(answer.read().decode(errors="replace"))


def until(true: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Wait for something that is bound to come; its value. The limit only ends a broken test."""
    deadline = time.monotonic() + seconds
    while True:
        if found := true():
            return found
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
