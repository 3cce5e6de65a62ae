"""A real Prefect server: what a run looks like there, the ghost a kill leaves, and who may not in.

Not a page of another origin, not a false host, not another local user; and nobody chooses the
command of a process. Fast and slow tests of it are apart, so that the fast ones share one server.
"""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import psutil
import pytest

from models.steps import step_names
from tasks.prefect_api import PrefectApi, Refused
from tests.fakes.prefect_server import Server, until

pytestmark = [pytest.mark.slow, pytest.mark.ci]

EVIL = "http://evil.example"
SMALL = ["--set", "train.epochs=2", "--set", "flow.size=64"]


def test_up_takes_the_next_port_on_loopback_and_deploys_every_stage(server: Server) -> None:
    status = server.status()
    assert status["port"] != server.wanted and status["server"].startswith("http://127.0.0.1:")
    assert status["worker"] == "running"
    deployments = {d["name"]: d for d in server.post("deployments/filter", {})}
    stages = set(step_names())
    assert set(deployments) == {"full", "stage", *stages}
    form = deployments["full"]["parameter_openapi_schema"]
    request = form["definitions"]["FullForm"]["properties"]
    assert request["recipe"]["title"] == "Recipe" and request["workspace"]["description"]
    assert server.post("automations/filter", {})[0]["enabled"]
    assert [limit["name"] for limit in server.post("v2/concurrency_limits/filter", {})].count(
        "apexflow-gpu"
    ) == 1


def test_up_again_changes_nothing_and_says_the_password(server: Server) -> None:
    before = server.status()
    said = server.cli("up", **server.env).stdout
    assert server.status() == before
    assert server.url in said and server.auth in said


def test_full_run_shows_stages_chunks_and_pictures(
    server: Server, smoke: dict[str, Path], tmp_path: Path
) -> None:
    words = ["run", "demo_hsta", "-w", tmp_path / "ws", "-d", f"casme2={smoke['casme2']}", *SMALL]
    server.cli(*words, "--runner", "prefect", **server.env)
    runs = {r["name"].split(" ")[0]: r for r in server.runs()}
    expected = {
        f"{s}-demo_hsta"
        for s in ("full", "ingest", "align", "registration", "apex", "flow", "train")
    }
    assert expected <= set(runs)
    assert {runs[name]["state_type"] for name in expected} == {"COMPLETED"}
    assert "dataset:casme2" in runs["align-demo_hsta"]["tags"]
    assert {"recipe:demo_hsta", "dataset:casme2"} <= set(runs["full-demo_hsta"]["tags"])
    tasks = server.tasks()
    assert {t["state_type"] for t in tasks} == {"COMPLETED"}
    names = {t["name"] for t in tasks}
    assert any(n.startswith("align-casme2-") for n in names)
    assert any(n.startswith("train-fold-00") for n in names)
    artifacts = server.post("artifacts/filter", {"limit": 200})
    place = f"{tmp_path.name}-ws".replace("_", "-")
    own = f"{place}-demo-hsta-"
    assert all(a["key"].startswith(own) or a["key"] == f"{place}-scores" for a in artifacts)
    keys = {a["key"].removeprefix(own): a for a in artifacts}
    assert any(r["name"].endswith(f"· casme2 · {tmp_path.name}-ws") for r in server.runs())
    assert f"workspace:{tmp_path.name}-ws" in runs["full-demo_hsta"]["tags"]
    assert "UF1" in keys[f"{place}-scores"]["data"]
    assert "sub01" in keys["align-casme2-table"]["data"]
    assert keys["align-casme2-progress"]["data"] == 100.0
    assert "data:image/png;base64" in keys["align-casme2-pictures"]["data"]
    assert keys["align-casme2-table"]["type"] == "table"
    assert "evaluate-pictures" in keys
    logs = [line["message"] for line in server.post("logs/filter", {"limit": 200})]
    assert any(line.startswith("align: 4 of 4 redone") for line in logs)
    assert not list((server.home / "runs").glob("*.json")), "all was told: nothing is kept"


def test_killed_run_is_closed_as_crashed_by_the_next(
    server: Server, smoke: dict[str, Path], tmp_path: Path
) -> None:
    words = ["run", "demo_hsta", "-w", tmp_path / "ws", "-d", f"casme2={smoke['casme2']}", *SMALL]
    process = server.start(*words, "--runner", "prefect")
    until(lambda: list(tmp_path.glob("ws/casme2/align/part-*")), "the first part")
    process.kill()
    process.wait()
    ghosts = {r["id"] for r in server.runs("RUNNING")}
    assert ghosts, "the killed run should still say Running"
    server.cli(*words, "--runner", "prefect", **server.env)
    assert not server.runs("RUNNING", "PENDING") and not server.tasks("RUNNING", "PENDING")
    assert ghosts == {r["id"] for r in server.runs("CRASHED")}


def test_nothing_is_written_to_the_users_prefect_home(server: Server, tmp_path: Path) -> None:
    home = tmp_path / "user"
    home.mkdir()
    server.cli("status", HOME=str(home), **server.env)
    assert list(home.iterdir()) == []
    assert (server.home / "prefect.db").exists()


@pytest.fixture(scope="module")
def attack(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Path and body of the request that would run a command, and the file that would show it."""
    mark = tmp_path_factory.mktemp("attack") / "PWNED"
    body = {
        "parameters": {"request": {"recipe": "demo_hsta"}, "stage": "ingest"},
        "job_variables": {"command": f"touch {mark}"},
        "state": {"type": "SCHEDULED"},
    }
    deployment = server.deployment("stage")["id"]
    return f"/api/deployments/{deployment}/create_flow_run", json.dumps(body), mark


def basic(auth: str) -> str:
    return "Basic " + base64.b64encode(auth.encode()).decode()


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_foreign_page_is_refused_with_and_without_preflight(
    server: Server, attack: tuple[str, str, Path], kind: str
) -> None:
    path, body, mark = attack
    status, headers, _ = server.knock("POST", path, body, Origin=EVIL, Content_Type=kind)
    assert status in (401, 403) and headers.get("access-control-allow-origin") != EVIL
    # even a browser that knows the password and sends it along lacks the token
    status, _, text = server.knock(
        "POST", path, body, Origin=EVIL, Content_Type=kind, Authorization=basic(server.auth)
    )
    assert status == 403 and "CSRF" in text
    assert not mark.exists() and not server.runs("SCHEDULED")


def test_a_preflight_from_elsewhere_is_not_allowed(
    server: Server, attack: tuple[str, str, Path]
) -> None:
    asked = {
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization,content-type,prefect-csrf-token",
    }
    status, headers, _ = server.knock("OPTIONS", attack[0], Origin=EVIL, **asked)
    assert status == 400 and "access-control-allow-origin" not in headers
    status, headers, _ = server.knock("OPTIONS", attack[0], Origin=server.url, **asked)
    assert status == 200 and headers["access-control-allow-origin"] == server.url


def test_answers_cannot_be_read_from_another_origin(server: Server) -> None:
    for path in ("/api/health", "/api/csrf-token?client=x", "/ui-settings", "/"):
        _, headers, _ = server.knock("GET", path, Origin=EVIL)
        assert headers.get("access-control-allow-origin") in (None, server.url), path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example"])
def test_a_false_host_gets_nothing(server: Server, host: str) -> None:
    for path in ("/", "/api/health", "/api/csrf-token?client=x", "/ui-settings"):
        status, _, text = server.knock("GET", path, Host=host, Authorization=basic(server.auth))
        assert status == 400 and text == "Invalid host header", path
    port = server.state["port"]
    assert server.knock("GET", "/api/health", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("auth", ["", "apexflow:", "apexflow:guess", ":"])
def test_another_local_user_is_refused(server: Server, auth: str) -> None:
    headers = {"Authorization": basic(auth)} if auth else {}
    for path in ("/api/flow_runs/filter", "/api/block_documents/filter"):
        status, _, _ = server.knock("POST", path, "{}", Content_Type="application/json", **headers)
        assert status in (401, 403)
    assert server.knock("GET", "/api/csrf-token?client=x", **headers)[0] == 401
    assert server.knock("GET", "/api/variables/name/x", **headers)[0] == 401
    with pytest.raises(Refused, match=r"401|403"):
        PrefectApi(f"{server.url}/api", auth).post("flow_runs/filter", {})


@pytest.mark.parametrize(
    "variables",
    [
        {"command": "touch PWNED"},
        {"env": {"PYTHONPATH": "/tmp/evil"}},
        {"env.PYTHONPATH": "/tmp/evil"},
        {"working_dir": "/tmp/evil"},
        {"launcher": ["sh", "-c"]},
    ],
)
def test_the_job_of_a_run_cannot_be_changed(server: Server, variables: dict[str, object]) -> None:
    with pytest.raises(Refused, match=r"422|409"):
        server.create_run("stage", {}, parameters={"stage": "ingest"}, job_variables=variables)
    template = server.get("work_pools/apexflow")["base_job_template"]
    assert "{{" not in json.dumps(template), "nothing of a process is left to choose"


def test_home_and_database_are_their_owners_alone(server: Server) -> None:
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    for path in server.home.glob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert len(server.auth.partition(":")[2]) >= 32


def test_the_password_is_in_no_command_line_log_or_status(server: Server) -> None:
    secret = server.auth.partition(":")[2]
    for who in ("server_pid", "worker_pid"):
        assert secret not in " ".join(psutil.Process(server.state[who]).cmdline())
    assert secret not in json.dumps(server.status())
    for log in server.home.glob("*.log"):
        assert secret not in log.read_text()
