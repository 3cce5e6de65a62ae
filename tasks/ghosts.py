"""Runs that say Running though nobody runs them: found by their process, closed with what they had.

Evidence is a process that has ended, never silence: a laptop that slept, or a process somebody
stopped, is not gone. A run's process is in its journal (`tasks.outbox`), or, before it has one, in
what its worker wrote down.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tasks.outbox import Journal
from tasks.prefect_api import PrefectApi, Refused, Unreachable
from tasks.recorder import JOURNALS

logger = logging.getLogger(__name__)
PATIENCE_S = 5.0  # one look takes a tenth of a second
LOOK_EVERY_S = 15.0  # the server's watcher
GONE = "apexflow.run.gone"  # the event that the automation made by `up` waits for
_OPEN = ["RUNNING", "PENDING", "CANCELLING"]
_ENDED = ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
_CRASHED = {"type": "CRASHED", "name": "Crashed", "message": "Its process is gone."}
_CANCELLED = {"type": "CANCELLED", "name": "Cancelled", "message": "Cancelled with its run."}


def look_for_ghosts(home: Path) -> int:
    """`close_ghosts` on the server in use; 0 where it does not answer."""
    api = PrefectApi.from_environment()
    try:
        return close_ghosts(api, home)
    except (Unreachable, Refused) as error:
        logger.debug("ghosts not looked for: %s", error)
        return 0
    finally:
        api.close()


def close_ghosts(api: PrefectApi, home: Path, *, tell: bool = False) -> int:
    """Tell the server what runs of this home could not; close those whose process is gone.

    With `tell` the end of a top run is announced as an event, for the automation to act on. Returns
    how many flow runs were closed. Raises Unreachable. Two at once: the second waits for the first,
    whose look may have been before the run died, and gives up only after PATIENCE_S.
    """
    folder = home / JOURNALS
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as mine:
        if not mine:
            return 0
        closed, spoken_for = _journals(api, folder, tell)
        closed += _without_journal(api, spoken_for, tell)
        closed += _children(api, spoken_for)
    return closed


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    with open(folder / ".lock", "a") as file:
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() - begun > PATIENCE_S:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return


def _journals(api: PrefectApi, folder: Path, tell: bool) -> tuple[int, set[str]]:
    """Runs closed, and the ids of all runs that still have a journal: nobody else may close them.

    A journal ends with its run: told, or closed as gone. That of another server's run waits.
    """
    closed, spoken_for = 0, set[str]()
    for path in sorted(folder.glob("*.json")):
        journal = Journal.read(path)
        if journal is None or journal.server != api.whose:
            continue
        if journal.alive():
            spoken_for |= {journal.top, *journal.ids.values()}
            continue
        while journal.pending:
            journal.send(api, journal.pending[0])
            journal.pending.pop(0)
            journal.save()
        # CRASHED is what a worker makes of an engine that could not tell the end of it
        if journal.ended and _state(api, journal.top) in (*_OPEN, "CRASHED"):
            _set(api, "flow_runs", journal.top, journal.ended)
        elif not journal.ended:
            closed += _gone(api, journal.top, tell)
        if _state(api, journal.top) not in _OPEN:
            path.unlink(missing_ok=True)
    return closed, spoken_for


def _without_journal(api: PrefectApi, spoken_for: set[str], tell: bool) -> int:
    """Runs a worker of this machine started that died before, or without, our account of them."""
    query = {"flow_runs": {"state": {"type": {"any_": _OPEN}}}, "limit": 200}
    closed = 0
    for run in api.post("flow_runs/filter", query):
        host, _, pid = str(run.get("infrastructure_pid") or "").rpartition(":")
        mine = host == socket.gethostname() if host else api.local
        if run["id"] in spoken_for or not mine or not pid.isdigit():
            continue
        if not _runs(int(pid), run["id"]):
            closed += _gone(api, run["id"], tell)
    return closed


def _runs(pid: int, run: str) -> bool:
    """Whether the process with this number is the one of this flow run."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return uuid.UUID(process.environ()["PREFECT__FLOW_RUN_ID"]) == uuid.UUID(run)
    except (KeyError, ValueError):  # its number belongs to another process now
        return False
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _gone(api: PrefectApi, run: str, tell: bool) -> int:
    """Close one top run, or announce that it is gone; 1 if it was still open."""
    state = _state(api, run)
    if state not in _OPEN:
        return 0
    if state == "CANCELLING":  # what a person asked for has come true
        _set(api, "flow_runs", run, _CANCELLED)
    elif tell:
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": GONE,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }
        api.post("events", [event])
    else:
        _set(api, "flow_runs", run, _CRASHED)
    return 1


def _children(api: PrefectApi, spoken_for: set[str]) -> int:
    """Subflow and task runs left open below a flow run that has ended."""
    closed = 0
    nested = {"state": {"type": {"any_": _OPEN}}, "parent_task_run_id": {"is_null_": False}}
    for run in api.post("flow_runs/filter", {"flow_runs": nested, "limit": 200}):
        if run["id"] in spoken_for:
            continue
        parent = _read(api, f"task_runs/{run['parent_task_run_id']}") or {}
        state = _state(api, str(parent.get("flow_run_id")))
        if state in _ENDED:
            _set(api, "flow_runs", run["id"], _like(state))
            closed += 1
    query = {
        "flow_runs": {"state": {"type": {"any_": _ENDED}}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "limit": 200,
    }
    for task in api.post("task_runs/filter", query):
        if task["flow_run_id"] not in spoken_for:
            _set(api, "task_runs", task["id"], _like(_state(api, task["flow_run_id"])))
    return closed


def _like(parent: str) -> dict[str, str]:
    return _CANCELLED if parent == "CANCELLED" else _CRASHED


def _read(api: PrefectApi, path: str) -> Any:
    try:
        return api.request("GET", path)
    except Refused:  # deleted
        return None


def _state(api: PrefectApi, run: str) -> str:
    """The type of a flow run's state; "" for one that is not there."""
    found = _read(api, f"flow_runs/{run}") if run and "@" not in run else None
    return str((found or {}).get("state_type") or "")


def _set(api: PrefectApi, kind: str, run: str, state: dict[str, str]) -> None:
    try:
        api.post(f"{kind}/{run}/set_state", {"state": state, "force": True})
    except Refused as error:
        logger.debug("%s", error)


def watch(api: PrefectApi, home: Path, every_s: float = LOOK_EVERY_S) -> None:
    """Look for ghosts for as long as this process lives; the server does, in a thread."""
    while True:
        time.sleep(every_s)
        try:
            close_ghosts(api, home, tell=True)
        except Unreachable as error:
            logger.debug("%s", error)
        except Exception:
            logger.warning("looking for dead runs failed", exc_info=True)
