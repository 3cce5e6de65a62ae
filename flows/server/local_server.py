"""Start, look at and stop the local Prefect server and worker.

Everything lives under the checkout's `.prefect` folder, which only its owner can enter, and listens
on loopback behind a password of our making (docs/security.md). State is one small JSON file beside
the logs; `down` stops exactly the processes named there. What the server holds (pool, deployments,
limit, automation) is in `flows.server.deployed`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from data.errors import ApexflowError, ConfigError
from flows.server.settings import FILE, SQLITE, ServerSettings, changed, password, read_settings

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
DEFAULT_PORT = 4200
START_LIMIT_S = 120.0
PROFILE = "apexflow"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


@dataclass
class ServerState:
    """Processes and address of the server this checkout started.

    A process is known by its number and the time it began: numbers are used again.
    """

    port: int
    server_pid: int
    server_began: float
    worker_pid: int = 0
    worker_began: float = 0.0
    host: str = HOST  # address this machine reaches it under
    shown: str = HOST  # the name people are told
    remote: str = ""  # API of a team server that somebody else runs

    @property
    def api(self) -> str:
        """Address Prefect clients talk to."""
        return self.remote or f"http://{self.host}:{self.port}/api"

    @property
    def url(self) -> str:
        """Address people open."""
        return self.remote.removesuffix("/api") or f"http://{self.shown}:{self.port}"

    @property
    def server(self) -> psutil.Process | None:
        """The server's process, if it runs."""
        return _process(self.server_pid, self.server_began)

    @property
    def worker(self) -> psutil.Process | None:
        """The worker's process, if it runs."""
        return _process(self.worker_pid, self.worker_began)


def home() -> Path:
    """Prefect's home for this checkout: $PREFECT_HOME or `.prefect` in the checkout."""
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect")).absolute()


def state_path() -> Path:
    """Where the running server is written down."""
    return home() / "apexflow-server.json"


def auth_path() -> Path:
    """The file with `user:password` for the browser."""
    return home() / "auth"


def auth() -> str:
    """`user:password` of this home's server, made when there is none; its file is ours alone."""
    make_private(home())
    try:
        return auth_path().read_text().strip()
    except FileNotFoundError:
        text = f"apexflow:{secrets.token_urlsafe(24)}"
        write_private(auth_path(), text + "\n")
        return text


def client_environment(api: str, auth: str) -> dict[str, str]:
    """What a Prefect client of the server at `api` needs: our home, its password, no telemetry."""
    return {
        "PREFECT_HOME": str(home()),
        "PREFECT_API_URL": api,
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "DO_NOT_TRACK": "1",
        "APEXFLOW_ROOT": str(ROOT),
        **past_proxies(api),
    }


def past_proxies(api: str) -> dict[str, str]:
    """$NO_PROXY with this machine and the server at `api`: a proxy knows neither."""
    known = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    own = ["127.0.0.1", "localhost", urlsplit(api).hostname or ""]
    names = ",".join(dict.fromkeys(n for n in [*known.split(","), *own] if n))
    return {"NO_PROXY": names, "no_proxy": names}


def environment(state: ServerState, settings: ServerSettings | None = None) -> dict[str, str]:
    """Environment of every Prefect process we start: as of a client, and the server's settings."""
    if state.remote:
        return {**os.environ, **client_environment(state.remote, password(home(), None))}
    said = settings or read_settings(home())
    port, secret = state.port, auth()
    origins = ",".join(f"http://{name}:{port}" for name in said.hosts())
    variables = {**os.environ, **client_environment(state.api, secret)}
    if said.database == SQLITE:  # said, so that no address of the environment comes in its place
        variables.pop(DATABASE, None)
    return {
        **variables,
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_API_HOST": said.host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_API_URL": "/api",  # of wherever the page came from: also a proxy with TLS
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "APEXFLOW_HOSTS": ",".join(said.hosts()),
        **said.environment(),
    }


def remember(settings: ServerSettings) -> None:
    """Keep the settings for the next time; a file only where there is something to keep."""
    if settings != read_settings(home()):
        make_private(home())
        write_private(home() / FILE, settings.model_dump_json(indent=1) + "\n")


def find_server() -> ServerState | None:
    """The server this checkout started, if it runs and answers; else the team server it works for.

    Its process must be the one we started: whoever took its port since is never sent our password.
    """
    state = _read_state()
    if state is not None and state.server and _answers(state):
        return state
    api = read_settings(home()).connect
    team = ServerState(0, 0, 0.0, remote=api)
    return team if api and _answers(team) else None


def use(state: ServerState) -> None:
    """Point this process's Prefect at the server; call before prefect is imported."""
    ours = ("PREFECT", "NO_PROXY", "no_proxy", "DO_NOT_TRACK")
    os.environ.update({k: v for k, v in environment(state).items() if k.startswith(ours)})


def start_server(port: int | None = None, **said: Any) -> ServerState:
    """The running server, started if need be. A taken port means the next free one.

    said: `ServerSettings` to change; they are remembered, and a server that runs with others is
    started anew. A worker that outlived its server is kept where the port is the same, ended
    otherwise. Raises ApexflowError with the end of the server's log if it does not come up.
    """
    before = read_settings(home())
    url = os.environ.get(DATABASE, "")
    if said.get("database") is None and not before.database and url.startswith("postgres"):
        said["database"] = url  # else the next `up` without it would go back to SQLite
    settings = changed(before, port=port, **said)
    old = _read_state()
    if old and old.server and _answers(old) and _serves_as(before, settings, old.port):
        remember(settings)
        return old
    _prove(settings, before)
    if old and old.server:  # it runs and does not answer, or answers as it should no more
        _end(old.server)
    make_private(home())
    fixed = settings.port if port or settings.open else None
    usual = settings.port or int(os.environ.get("PREFECT_SERVER_API_PORT", DEFAULT_PORT))
    wanted = fixed or (usual if old is None else old.port)
    chosen = _free_port(wanted, settings.host, strict=fixed is not None)
    log = home() / "server.log"
    state = ServerState(chosen, 0, 0.0, host=settings.local, shown=settings.shown)
    process = _spawn(["flows.server.serve"], environment(state, settings), log)
    state.server_pid, state.server_began = process.pid, psutil.Process(process.pid).create_time()
    worker = (old.worker if old else None) or _stray_worker()
    same = old is not None and (old.port, old.host) == (chosen, state.host)
    if worker is not None and same:
        state.worker_pid, state.worker_began = worker.pid, worker.create_time()
    elif worker is not None:
        _end(worker)
    _save(state)  # before it answers: whoever comes in between must not start another
    try:
        _wait_until(lambda: _answers(state), process, log)
    except ApexflowError:
        if settings != before:  # a database that is not there is not remembered
            state_path().unlink(missing_ok=True)
        raise
    remember(settings)
    make_private(home())
    _write_profile(state)
    return state


def _serves_as(before: ServerSettings, now: ServerSettings, port: int) -> bool:
    """Whether a server started with the settings before is as it should be now."""
    same = ("host", "postgres", "retention_days", "names")
    return now.port in (None, before.port, port) and all(
        getattr(before, name) == getattr(now, name) for name in same
    )


def _prove(settings: ServerSettings, before: ServerSettings) -> None:
    """Raises ConfigError for an address that is not ours or a new database that is not there.

    Asked before a server that runs is ended for the new one.
    """
    with socket.socket() as probe:
        try:
            probe.bind((settings.host, 0))
        except OSError as error:
            raise ConfigError(
                "--host",
                expected="0.0.0.0, 127.0.0.1 or an address of this machine",
                got=f"{settings.host} ({error.strerror or error})",
            ) from error
    if settings.postgres and settings.postgres != before.postgres:
        place = urlsplit(settings.postgres)
        try:
            if place.hostname:
                socket.create_connection((place.hostname, place.port or 5432), 5).close()
        except OSError as error:
            raise ConfigError(
                "--database",
                expected=f"PostgreSQL to answer at {place.hostname}:{place.port or 5432}",
                got=str(error.strerror or error),
            ) from error


def start_worker(state: ServerState) -> ServerState:
    """Pool, deployments, limit, automation and a worker on a running server; idempotent."""
    use(state)
    from flows.server import deployed
    from tasks.ghosts import look_for_ghosts

    settings = read_settings(home())
    deployed.set_up(lambda *words: _prefect(state, *words), settings.gpus)
    look_for_ghosts(home())
    if not settings.worker:
        for process in filter(None, (state.worker, _stray_worker())):
            _end(process)
        state.worker_pid, state.worker_began = 0, 0.0
        _save(state)
        return state
    if state.worker is not None:
        return state
    if (stray := _stray_worker()) is not None:
        _end(stray)
    command = ["prefect", "worker", "start", "--pool", deployed.POOL, "--type", "process"]
    pid = _spawn(command, environment(state), home() / "worker.log").pid
    state.worker_pid, state.worker_began = pid, psutil.Process(pid).create_time()
    _save(state)
    return state


def newer(state: ServerState) -> ServerState:
    """The state as another command may have left it since; itself where there is none."""
    return _read_state() or state


def stop(only: ServerState | None = None) -> list[str]:
    """Stop worker and server; returns what was stopped. With `only` no other server than that."""
    state = _read_state()
    if state is None or (only is not None and state.server_pid != only.server_pid):
        return []
    stopped = []
    for name, process in (("worker", state.worker), ("server", state.server)):
        if process is not None:
            _end(process)
            stopped.append(f"{name} (process {process.pid})")
    state_path().unlink(missing_ok=True)
    return stopped


def describe() -> dict[str, Any]:
    """State for `status`: address, processes, where the password is; dead runs are closed."""
    from tasks.ghosts import look_for_ghosts

    state = find_server()
    if state is None:
        return {"server": "not running", "start": "python -m flows up"}
    if state.remote:
        return {"server": state.url, "worker": "the team's; see its UI", "home": str(home())}
    use(state)
    closed = look_for_ghosts(home())
    return {
        "server": state.url,
        "port": state.port,
        "server_pid": state.server_pid,
        "worker_pid": state.worker_pid if state.worker else 0,
        "worker": "running" if state.worker else "not running",
        "home": str(home()),
        "login": f"in {auth_path()}",
        **read_settings(home()).described(),
        **({"closed": f"{closed} run(s) whose process had ended"} if closed else {}),
    }


def _spawn(command: list[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a Python module that outlives us, its output in a log."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=variables,
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
        env=environment(state),
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


def _write_profile(state: ServerState) -> None:
    """So that `prefect …` typed in the checkout finds the server, password included."""
    path = home() / "profiles.toml"
    if path.exists() and f"[profiles.{PROFILE}]" not in path.read_text():
        return  # somebody's own
    lines = [f'active = "{PROFILE}"', "", f"[profiles.{PROFILE}]"]
    lines += [f'PREFECT_API_URL = "{state.api}"', f'PREFECT_API_AUTH_STRING = "{auth()}"', ""]
    write_private(path, "\n".join(lines))


def make_private(folder: Path) -> None:
    """The folder for its owner alone, and the files an earlier version left readable in it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    for path in folder.glob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & 0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file for its owner alone, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _free_port(wanted: int, host: str, *, strict: bool) -> int:
    why = ""
    for port in (wanted,) if strict else range(wanted, wanted + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                why = "it is taken" if error.errno == errno.EADDRINUSE else str(error.strerror)
    raise ConfigError(
        "server port",
        expected=f"port {wanted} to be free",
        got=why,
        todo="Give another with --port.",
    )


def _answers(state: ServerState) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{state.api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
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


def _read_state() -> ServerState | None:
    try:
        return ServerState(**json.loads(state_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _save(state: ServerState) -> None:
    write_private(state_path(), json.dumps(asdict(state)))


def _process(pid: int, began: float) -> psutil.Process | None:
    """The process, if it runs and is the one that began then."""
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(pid) if pid else None
        if process and abs(process.create_time() - began) < 2:
            return process if process.status() != psutil.STATUS_ZOMBIE else None
    return None


def _stray_worker() -> psutil.Process | None:
    """A worker of this home that no state file names any more."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words[2:5] != ["prefect", "worker", "start"]:
                continue
            if process.environ().get("PREFECT_HOME") == str(home()):
                return process
    return None


def _end(process: psutil.Process) -> None:
    """Ask it and its children to end, insist after 10 s."""
    with contextlib.suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs([process], timeout=10)
        _, left = psutil.wait_procs([*left, *family[1:]], timeout=0 if left else 3)
        for one in left:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=5)
