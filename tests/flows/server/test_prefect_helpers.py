"""Helpers die: the server, the worker, a run's own process; and a person cancels. For real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.ghosts import LOOK_EVERY_S
from tests.fakes.prefect_server import ROOT, Server, until

pytestmark = pytest.mark.slow
PROMISED_S = 10  # from a cancel to its end, whatever is being computed
STAGES = ("ingest", "align")  # enough to be in the middle of something


@pytest.fixture
def work(tmp_path: Path, smoke: dict[str, Path]) -> list[str]:
    """The words of a small run in a workspace of its own."""
    data = f"casme2={smoke['casme2']}"
    return ["demo_hsta", "-w", str(tmp_path / "ws"), "-d", data]


ONLY = [word for stage in STAGES for word in ("--stage", stage)]


@pytest.fixture
def form(tmp_path: Path, smoke: dict[str, Path]) -> dict[str, Any]:
    """The same run, as the form has it."""
    data = [{"dataset": "casme2", "folder": str(smoke["casme2"])}]
    where = str(tmp_path / "ws")
    return {"recipe": "demo_hsta", "workspace": where, "data": data, "stages": list(STAGES)}


@pytest.fixture(autouse=True)
def everything_up(server: Server) -> Iterator[None]:
    """Each test finds server and worker running and leaves no run behind."""
    if not _alive(server):
        server.up()
    yield
    if not _alive(server):
        server.up()
    assert not server.runs("RUNNING", "PENDING", "CANCELLING"), "a run still says it runs"
    assert not server.tasks("RUNNING", "PENDING"), "a task still says it runs"


def _alive(server: Server) -> bool:
    return all(
        psutil.pid_exists(server.state[f"{who}_pid"] or 1 << 30) for who in ("server", "worker")
    )


def process_lives(pid: int) -> bool:
    """A zombie, which this test may have to wait for, does not live."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def begun(tmp_path: Path) -> Callable[[], Any]:
    return lambda: list(tmp_path.glob("ws/casme2/align/part-*"))


def whole(server: Server, work: list[str]) -> None:
    """A plain run goes on from what is there, and then nothing is left to do."""
    server.cli("run", *work, *ONLY, "--runner", "none", **server.env)
    nothing_left(server, work)


def nothing_left(server: Server, work: list[str]) -> None:
    rows = json.loads(server.cli("plan", *work, "--verify", "--json", **server.env).stdout)
    rows = [row for row in rows if row["stage"] in STAGES]
    assert len(rows) == 2 and all(row["stale"] + row["missing"] == 0 for row in rows)


def test_a_run_goes_on_without_the_server_and_tells_it_later(
    server: Server, work: list[str], tmp_path: Path
) -> None:
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    server.kill()
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert said.count("does not answer: the run goes on") == 1 and "Traceback" not in said
    assert len(list((server.home / "runs").glob("*.json"))) == 1
    nothing_left(server, work)
    server.up()
    runs = server.runs(tags={"all_": ["recipe:demo_hsta"]})
    newest = {r["name"].split(" ")[0]: r["state_type"] for r in reversed(runs)}
    assert newest["full-demo_hsta"] == newest["align-demo_hsta"] == "COMPLETED"
    assert not list((server.home / "runs").glob("*.json"))


def test_a_workers_run_goes_on_without_the_server_and_is_completed_later(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    run = server.create_run("full", form)
    until(begun(tmp_path), "the first part")
    process = psutil.Process(int(server.run(run)["infrastructure_pid"]))
    server.kill()
    psutil.wait_procs([process], timeout=280)  # the engine tries for a minute to tell its end
    assert not process.is_running()
    nothing_left(server, work)
    server.up()
    until(lambda: server.run(run)["state_type"] == "COMPLETED", "the truth", 60)


def test_a_server_that_comes_back_hears_the_rest(
    server: Server, work: list[str], tmp_path: Path
) -> None:
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    server.kill()
    server.up()
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0 and "Traceback" not in said
    assert "answers again" in said and "is told when the server is back" not in said
    assert server.runs("COMPLETED", name={"like_": "align-demo_hsta"})


def test_up_after_a_crash_keeps_the_old_worker(server: Server) -> None:
    worker = server.state["worker_pid"]
    server.kill()
    server.up()
    assert server.state["worker_pid"] == worker and server.status()["worker"] == "running"
    workers = [p for p in psutil.process_iter() if _is_worker(p, server)]
    assert [p.pid for p in workers] == [worker]


def test_up_replaces_a_worker_that_no_file_names(server: Server) -> None:
    old = server.state["worker_pid"]
    state = {**server.state, "worker_pid": 0, "worker_began": 0.0}
    (server.home / "apexflow-server.json").write_text(json.dumps(state))
    server.up()
    assert [p.pid for p in psutil.process_iter() if _is_worker(p, server)] == [
        server.state["worker_pid"]
    ]
    assert server.state["worker_pid"] not in (0, old)


def _is_worker(process: psutil.Process, server: Server) -> bool:
    try:
        ours = process.environ().get("PREFECT_HOME") == str(server.home)
        return ours and process.cmdline()[2:5] == ["prefect", "worker", "start"]
    except psutil.Error:
        return False


def lasting(pid: int) -> None:
    """Make the chunks that are being computed last for ever."""
    children = psutil.Process(pid).children(recursive=True)
    computing = [c for c in children if any("spawn_main" in word for word in c.cmdline())]
    assert computing
    for child in computing:
        child.suspend()


def cancelled(server: Server, run: str) -> None:
    """The run and all of it end in Cancelled as soon as was promised."""
    until(lambda: server.run(run)["state_name"] == "Cancelled", "the end", PROMISED_S)
    open_ = ("RUNNING", "PENDING", "CANCELLING")
    until(lambda: not server.runs(*open_) and not server.tasks(*open_), "its parts", PROMISED_S)
    assert not any("Crash" in line for line in _log(server))


def test_a_terminal_run_is_cancelled_from_prefect(
    server: Server, work: list[str], tmp_path: Path
) -> None:
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    [top] = server.runs("RUNNING", name={"like_": "full-demo_hsta"})
    lasting(process.pid)
    server.post(f"flow_runs/{top['id']}/set_state", {"state": {"type": "CANCELLING"}})
    said, _ = process.communicate(timeout=PROMISED_S)
    assert (
        process.returncode == 130 and "Traceback" not in said and "finished parts are kept" in said
    )
    cancelled(server, top["id"])
    assert {"full-demo_hsta", "align-demo_hsta"} <= {
        r["name"].split(" ")[0] for r in server.runs("CANCELLED")
    }
    whole(server, work)


@pytest.mark.parametrize("part", ["the run", "its stage"])
@pytest.mark.parametrize("worker", ["alive", "dead"])
def test_a_workers_run_is_cancelled_from_prefect(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path, part: str, worker: str
) -> None:
    run = server.create_run("full", form, name="a name I chose")
    until(begun(tmp_path), "the first part")
    pid = int(server.run(run)["infrastructure_pid"])
    lasting(pid)
    [stage] = server.runs("RUNNING", name={"like_": "align-demo_hsta"})
    if worker == "dead":
        server.kill("worker")
    chosen = run if part == "the run" else stage["id"]
    server.post(f"flow_runs/{chosen}/set_state", {"state": {"type": "CANCELLING"}})
    cancelled(server, run)
    assert server.run(run)["name"] == "a name I chose"
    until(lambda: not process_lives(pid), "the end of its process", PROMISED_S)
    whole(server, work)


def test_prefects_own_command_cancels(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    run = server.create_run("full", form)
    until(begun(tmp_path), "the first part")
    lasting(int(server.run(run)["infrastructure_pid"]))
    words = [sys.executable, "-m", "prefect", "flow-run", "cancel", run]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **server.env}, check=False)
    assert done.returncode == 0
    cancelled(server, run)
    whole(server, work)


def test_a_workers_run_goes_on_without_its_worker(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    """What it prints has no reader any more."""
    run = server.create_run("full", form)
    until(begun(tmp_path), "the first part")
    server.kill("worker")
    until(lambda: server.run(run)["state_type"] == "COMPLETED", "the end of the run", 280)
    nothing_left(server, work)


def _log(server: Server) -> list[str]:
    lines = server.post("logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"})
    return [line["message"] for line in lines]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_are_a_persons_cancel(
    server: Server, work: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    [top] = server.runs("RUNNING", name={"like_": "full-demo_hsta"})
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert server.run(top["id"])["state_name"] == "Cancelled"
    whole(server, work)


def test_killed_worker_and_run_are_closed_by_the_server_alone(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    run = server.create_run("full", form)
    until(begun(tmp_path), "the first part")
    process = psutil.Process(int(server.run(run)["infrastructure_pid"]))
    server.kill("worker")
    process.kill()
    until(lambda: server.run(run)["state_type"] == "CRASHED", "the automation")
    assert server.run(run)["state"]["message"] == "Its process is gone."
    until(lambda: not server.runs("RUNNING", "PENDING"), "the ends of its stages")
    until(lambda: not server.tasks("RUNNING", "PENDING"), "the ends of its tasks")
    assert "pid" not in server.status()["worker"] and server.status()["worker"] == "not running"
    whole(server, work)


def test_status_closes_a_dead_run(server: Server, work: list[str], tmp_path: Path) -> None:
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    process.kill()
    process.wait()
    assert server.runs("RUNNING") and server.tasks("RUNNING")
    server.status()
    assert not server.runs("RUNNING", "PENDING") and not server.tasks("RUNNING", "PENDING")


def test_runs_that_sleep_are_not_gone(
    server: Server, work: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    """A laptop's lid: from a terminal and from a worker, for longer than three looks take."""
    process = server.start("run", *work, *ONLY, "--runner", "prefect")
    until(begun(tmp_path), "the first part")
    [top] = server.runs("RUNNING", name={"like_": "full-demo_hsta"})
    process.send_signal(signal.SIGSTOP)
    run = server.create_run("full", {**form, "workspace": str(tmp_path / "other")})
    until(lambda: list(tmp_path.glob("other/casme2/align/part-*")), "the other's first part")
    other = psutil.Process(int(server.run(run)["infrastructure_pid"]))
    other.suspend()
    time.sleep(3.2 * LOOK_EVERY_S)
    server.status()
    states = {server.run(one)["state_type"] for one in (top["id"], run)}
    process.send_signal(signal.SIGCONT)
    other.resume()
    assert states == {"RUNNING"}
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert server.run(top["id"])["state_type"] == "COMPLETED"
    until(lambda: server.run(run)["state_type"] == "COMPLETED", "the other's end", 280)
