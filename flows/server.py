"""Start, look at and stop the local Prefect server, worker, deployments, GPU limit, automation.

Everything lives under the checkout's `.prefect` folder and listens on loopback. State is one small
JSON file beside the logs; `down` stops exactly the processes named there.
"""

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
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from data.errors import ApexflowError, ConfigError

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DEFAULT_PORT = 4200
POOL = "apexflow"
GPU_LIMIT = "apexflow-gpu"  # the name tasks.prefect_executor waits on
START_LIMIT_S = 120.0


@dataclass
class ServerState:
    """Processes and address of the server this checkout started."""

    port: int
    server_pid: int
    worker_pid: int = 0

    @property
    def api(self) -> str:
        """Address Prefect clients talk to."""
        return f"http://{HOST}:{self.port}/api"

    @property
    def url(self) -> str:
        """Address people open."""
        return f"http://{HOST}:{self.port}"


def home() -> Path:
    """Prefect's home for this checkout: $PREFECT_HOME or `.prefect` in the checkout."""
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect")).absolute()


def state_path() -> Path:
    """Where the running server is written down."""
    return home() / "apexflow-server.json"


def environment(port: int) -> dict[str, str]:
    """Environment of every Prefect process we start: our home, our port, no telemetry."""
    return {
        **os.environ,
        "PREFECT_HOME": str(home()),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "APEXFLOW_ROOT": str(ROOT),
    }


def find_server() -> ServerState | None:
    """The server this checkout started, if it answers."""
    try:
        state = ServerState(**json.loads(state_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if _answers(state) else None


def use(state: ServerState) -> None:
    """Point this process's Prefect at the server; call before prefect is imported."""
    os.environ.update({k: v for k, v in environment(state.port).items() if k.startswith("PREFECT")})
    os.environ["DO_NOT_TRACK"] = "1"


def start_server(port: int | None = None) -> ServerState:
    """The running server, started if need be. A taken port means the next free one.

    Raises ApexflowError with the end of its log if it does not come up.
    """
    if (state := find_server()) is not None:
        return state
    home().mkdir(parents=True, exist_ok=True)
    wanted = port or int(os.environ.get("PREFECT_SERVER_API_PORT", DEFAULT_PORT))
    chosen = _free_port(wanted, strict=port is not None)
    log = home() / "server.log"
    process = _spawn(
        ["prefect", "server", "start", "--host", HOST, "--port", str(chosen)], chosen, log
    )
    state = ServerState(chosen, process.pid)
    _wait_until(lambda: _answers(state), process, log)
    _save(state)
    return state


def start_worker(state: ServerState) -> ServerState:
    """Pool, GPU limit, deployments, automation and a worker on a running server; idempotent."""
    _prefect(state, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect(state, "deploy", "--all")
    use(state)
    _make_gpu_limit()
    _make_automation()
    if state.worker_pid and _alive(state.worker_pid):
        return state
    command = ["prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    state.worker_pid = _spawn(command, state.port, home() / "worker.log").pid
    _save(state)
    return state


def stop() -> list[str]:
    """Stop worker and server; returns what was stopped."""
    try:
        state = ServerState(**json.loads(state_path().read_text()))
    except (OSError, ValueError, TypeError):
        return []
    stopped = []
    for name, pid in (("worker", state.worker_pid), ("server", state.server_pid)):
        if pid and _alive(pid) and _is_prefect(pid):
            _end(pid)
            stopped.append(f"{name} (process {pid})")
    state_path().unlink(missing_ok=True)
    return stopped


def describe() -> dict[str, Any]:
    """State for `status`: address, processes, deployments."""
    state = find_server()
    if state is None:
        return {"server": "not running", "start": "python -m flows up"}
    return {
        "server": state.url,
        **asdict(state),
        "worker": "running" if state.worker_pid and _alive(state.worker_pid) else "not running",
        "home": str(home()),
    }


def _spawn(command: list[str], port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a Prefect process that outlives us, its output in a log."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment(port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _prefect(state: ServerState, *words: str) -> str:
    """Run a Prefect command against the server; ApexflowError with its output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=ROOT,
        env=environment(state.port),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ApexflowError(
            f"prefect {' '.join(words)}",
            expected="success",
            got=(done.stdout + done.stderr)[-2000:],
        )
    return done.stdout


def _make_gpu_limit() -> None:
    """One run at a time on the GPU, unless somebody has set another number."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, 1)


def _make_automation() -> None:
    """Mark as Crashed every flow run whose heartbeat (30 s) stays away for 90 s."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    name = "apexflow: close runs that stopped answering"
    try:
        _ = Automation.read(name=name)
        return
    except ValueError:  # there is none yet
        pass
    ended = {f"prefect.flow-run.{s}" for s in ("Completed", "Failed", "Cancelled", "Crashed")}
    Automation(
        name=name,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=90),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat for 90 seconds.")
        ],
    ).create()


def _free_port(wanted: int, *, strict: bool) -> int:
    for port in (wanted,) if strict else range(wanted, wanted + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return port
            except OSError:
                continue
    raise ConfigError(
        "server port",
        expected=f"port {wanted} to be free",
        got="it is taken",
        todo="Give another with --port.",
    )


def _answers(state: ServerState) -> bool:
    try:
        with urllib.request.urlopen(f"{state.api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_until(ready: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise ApexflowError(
                "Prefect server",
                expected=f"an answer within {START_LIMIT_S:.0f} s",
                got=log.read_text(errors="replace")[-2000:],
                todo=f"See {log}.",
            )
        time.sleep(0.3)


def _save(state: ServerState) -> None:
    temporary = state_path().with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(state)))
    temporary.replace(state_path())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _is_prefect(pid: int) -> bool:
    """A process number may have been given to somebody else since."""
    try:
        return b"prefect" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # no /proc: trust the state file
        return True


def _end(pid: int) -> None:
    """Ask the process group to end, insist after 10 s."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not _alive(pid):
                return
            time.sleep(0.1)
