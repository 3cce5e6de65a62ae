"""What a run looks like in Prefect: flow runs, task runs, artifacts, logs, and a cancel obeyed.

The run computes outside Prefect's engine and only tells the server what happens, through an outbox.
So the server may die and come back: nothing computed needs it. For a run from a deployment the
engine has made the top flow run already; it is adopted, and everything else hangs below it.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.project import OUR_LOGGERS
from tasks.outbox import Journal, Outbox
from tasks.prefect_api import PrefectApi, Refused

logger = logging.getLogger(__name__)
JOURNALS = "runs"  # folder of journals in Prefect's home
WAKE = signal.SIGUSR2  # ^C's own signal is ignored in a run that a script put into the background
ENGINE_PATIENCE_S = 3.0  # a worker's own cancelling comes first, where it works


class Recorder:
    """One run's account to Prefect. Use `recording`; call from the thread that runs the stages."""

    def __init__(self, api: PrefectApi, home: Path, workspace: str) -> None:
        self.cancelled = False
        self._adopted = False
        self._asked_at: float | None = None
        self._open: list[str] = []  # flow runs, outermost first
        self._flows: dict[str, str] = {}
        self._tasks = 0
        self._ended = {"type": "COMPLETED", "name": "Completed"}
        self._outbox = Outbox(api, Journal.begin(home / JOURNALS, workspace, api.whose), self._look)

    @contextmanager
    def flow(
        self,
        flow: str,
        name: str,
        tags: list[str],
        parameters: dict[str, Any] | None = None,
        adopt: str | None = None,
    ) -> Iterator[None]:
        """A flow run around what is done inside; the first is the top one, others its subflows.

        `adopt`: id of a flow run that Prefect's engine made and will end; only its tags are set,
        and a cancel is told: its worker would first start a process to look for hooks.
        """
        run = adopt or self._begin(flow, name, tags, parameters or {})
        if adopt:
            self._adopted = True
            self._outbox.put("PATCH", f"flow_runs/{run}", {"tags": tags, "name": name})
        if not self._open:
            self._outbox.journal.top = run
            self._outbox.journal.save()
        self._open.append(run)
        ended = {"type": "COMPLETED", "name": "Completed"}
        try:
            yield
        except BaseException as error:
            ended = _state_of(error)
            raise
        finally:
            self._open.pop()
            self._ended = ended
            if not adopt or ended["type"] == "CANCELLED":
                self._set(f"flow_runs/{run}", ended)

    def _begin(self, flow: str, name: str, tags: list[str], parameters: dict[str, Any]) -> str:
        if flow not in self._flows:
            self._flows[flow] = self._outbox.put("POST", "flows/", {"name": flow}, named=True)
        body = {
            "flow_id": self._flows[flow],
            "name": name,
            "tags": tags,
            "parameters": parameters,
            "idempotency_key": uuid.uuid4().hex,
            "state": {"type": "PENDING", "name": "Pending"},
        }
        if self._open:  # the graph draws a subflow as a task run of its parent
            body["parent_task_run_id"] = self._create_task(f"{flow}-subflow", name)
        run = self._outbox.put("POST", "flow_runs/", body, named=True)
        self._set(f"flow_runs/{run}", {"type": "RUNNING", "name": "Running"})
        return run

    def _create_task(self, key: str, name: str) -> str:
        self._tasks += 1
        task = str(uuid.uuid4())
        body = {
            "id": task,
            "flow_run_id": self._open[-1],
            "task_key": key,
            "dynamic_key": f"{self._tasks}-{task[:8]}",
            "name": name,
            "state": {"type": "PENDING", "name": "Pending"},
        }
        self._outbox.put("POST", "task_runs/", body)
        return task

    def begin_task(self, name: str) -> str:
        """A task run of the innermost flow run, now running; returns its id."""
        task = self._create_task("work", name)
        self._set(f"task_runs/{task}", {"type": "RUNNING", "name": "Running"})
        return task

    def end_task(self, task: str, error: BaseException | None = None) -> None:
        """The end of a task run."""
        done = {"type": "COMPLETED", "name": "Completed"}
        self._set(f"task_runs/{task}", done if error is None else _state_of(error))

    def _set(self, path: str, state: dict[str, str]) -> None:
        self._outbox.put("POST", f"{path}/set_state", {"state": state, "force": True})

    def artifact(self, key: str, kind: str, data: Any, description: str) -> str:
        """A markdown, table or progress artifact of the innermost flow run; returns its name."""
        body = {"key": key, "type": kind, "data": data, "description": description}
        if self._open:
            body["flow_run_id"] = self._open[-1]
        return self._outbox.put("POST", "artifacts/", body, named=True)

    def change_artifact(self, artifact: str, data: Any, description: str) -> None:
        """Another value for an artifact of this run."""
        body = {"data": data, "description": description}
        self._outbox.put("PATCH", f"artifacts/{artifact}", body)

    def log(self, record: logging.LogRecord) -> None:
        """A line of the innermost flow run's log."""
        if not self._open:
            return
        line = {
            "name": record.name,
            "level": record.levelno,
            "message": record.getMessage()[:20_000],
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "flow_run_id": self._open[-1],
        }
        self._outbox.put("POST", "logs/", [line], log=True)

    def close(self) -> None:
        """Tell what is left to tell."""
        self._outbox.close(self._ended)

    def _look(self, api: PrefectApi) -> None:
        """Whether somebody asked for this run, or a part of it, to be cancelled."""
        runs = [self._outbox.journal.resolve(run) for run in self._open]
        runs = [run for run in runs if "@" not in run]
        if self.cancelled or not runs:
            return
        asked = {"id": {"any_": runs}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
        try:
            found = {r["id"] for r in api.post("flow_runs/filter", {"flow_runs": asked})}
        except Refused as error:
            logger.debug("%s", error)
            return
        if not found:
            return
        if self._adopted and found == {runs[0]}:  # its worker ends this process, if it lives
            self._asked_at = self._asked_at or time.monotonic()
            if time.monotonic() - self._asked_at < ENGINE_PATIENCE_S:
                return
        self.cancelled = True
        logger.warning("cancelled from Prefect; finished parts are kept")
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, WAKE)  # where it waits, a flag alone would not be seen


class _Handler(logging.Handler):
    """Our modules' log, told to Prefect."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.INFO)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._recorder.log(record)


@contextmanager
def recording(home: Path, workspace: str) -> Iterator[Recorder]:
    """A recorder for the server this process's settings name, with our log attached."""
    main = threading.current_thread() is threading.main_thread()
    saved = signal.signal(WAKE, _interrupt) if main else None
    recorder = Recorder(PrefectApi.from_environment(), home, workspace)
    handler, levels = _Handler(recorder), {}
    for name in OUR_LOGGERS:
        ours = logging.getLogger(name)
        levels[name] = ours.level
        for shown in ours.handlers:  # a terminal goes on showing what it showed
            shown.setLevel(max(shown.level, ours.level))
        ours.setLevel(logging.INFO)
        ours.addHandler(handler)
    try:
        yield recorder
    finally:
        for name, level in levels.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)
        recorder.close()
        if main:
            signal.signal(WAKE, saved or signal.SIG_DFL)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _state_of(error: BaseException) -> dict[str, str]:
    """How a run ended that raised: a person who stops it cancels it, anything else failed."""
    if isinstance(error, Exception):
        text = f"{type(error).__name__}: {error}"[:2000]
        return {"type": "FAILED", "name": "Failed", "message": text}
    return {"type": "CANCELLED", "name": "Cancelled", "message": "Stopped by a person or signal."}
