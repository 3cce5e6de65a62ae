"""Requests to the Prefect server in order, sent by a thread, kept while the server is away.

What a run has to tell must never slow it down or end it. So the one who computes only puts requests
into a queue. Ids that the server will choose go by names of ours until it has. A journal on disk
says whose run this is and what is still to be told: `tasks.ghosts` reads it when the run is gone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from data.stages.heartbeat import process_lives
from tasks.prefect_api import PrefectApi, Refused, Unreachable

logger = logging.getLogger(__name__)
RETRY_S = 3.0
TICK_S = 2.0
FLUSH_S = 60.0  # how long the end of a run waits for a server that answers
GIVE_UP_S = 6.0  # and for one that does not
MOST_LOGS = 2000  # log lines kept while the server is away
_NAME = re.compile(r"@[0-9a-f]{12}\.\d+")  # nothing a person writes


@dataclass
class Journal:
    """What is known of a run outside the server: whose process, which ids, how it ended."""

    path: Path
    pid: int
    created: float  # the process's start, so that a number used again is not taken for it
    host: str
    workspace: str
    top: str = ""  # id of the top flow run, or its name until the server has chosen one
    ids: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] | None = None  # the top run's final state, once there is one
    pending: list[dict[str, Any]] = field(default_factory=list)
    server: str = ""  # whose ids these are, and who must be told; see `PrefectApi.whose`

    @classmethod
    def begin(cls, folder: Path, workspace: str, server: str = "") -> Journal:
        """A new one for this process."""
        folder.mkdir(parents=True, exist_ok=True)
        me = psutil.Process()
        path = folder / f"{secrets.token_hex(6)}.json"
        began = me.create_time()
        return cls(path, me.pid, began, socket.gethostname(), workspace, server=server)

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal at `path`; None when it has gone or is no journal."""
        try:
            return cls(**{**json.loads(path.read_text()), "path": path})
        except (OSError, ValueError, TypeError):
            return None

    def save(self) -> None:
        """Write it; a reader sees the old one whole or the new one whole."""
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "w") as file:
            file.write(json.dumps({**asdict(self), "path": ""}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def alive(self) -> bool:
        """Whether its process still runs; True on another machine, where nobody can tell."""
        if self.host != socket.gethostname():
            return True
        return process_lives(self.pid, self.created)

    def resolve(self, value: Any) -> Any:
        """`value` with our names replaced by the ids the server chose."""
        if isinstance(value, str):
            return _NAME.sub(lambda m: self.ids.get(m[0], m[0]), value) if "@" in value else value
        if isinstance(value, dict):
            return {k: self.resolve(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.resolve(v) for v in value]
        return value

    def send(self, api: PrefectApi, request: dict[str, Any]) -> None:
        """Make one request; one that is refused is dropped. Raises Unreachable."""
        body = self.resolve(request["body"])
        late = time.time() - request["time"]
        if late > 30 and isinstance(body, dict) and "state" in body:
            at = time.strftime("%H:%M:%S", time.localtime(request["time"]))
            text = f"{body['state'].get('message') or ''} (was at {at}, told later)".strip()
            body = {**body, "state": {**body["state"], "message": text}}
        try:
            answer = api.request(request["method"], self.resolve(request["path"]), body)
        except Refused as error:
            logger.debug("not told to Prefect: %s", error)
            return
        if request["assigns"] and answer:
            self.ids[request["assigns"]] = str(answer["id"])
            self.top = self.resolve(self.top)


class Outbox:
    """The queue and its thread. `tick` is called every two seconds while the server answers."""

    def __init__(
        self, api: PrefectApi, journal: Journal, tick: Callable[[PrefectApi], None] | None = None
    ) -> None:
        self.journal, self._api, self._tick = journal, api, tick
        self._queue: deque[dict[str, Any]] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._away = False
        self._numbers = 0
        self._thread = threading.Thread(target=self._run, name="prefect-outbox", daemon=True)
        journal.save()
        self._thread.start()

    def put(
        self, method: str, path: str, body: Any = None, *, named: bool = False, log: bool = False
    ) -> str:
        """Queue a request. `named`: the server chooses an id; its name until then is returned."""
        with self._change:
            assigns = ""
            if named:
                self._numbers += 1
                assigns = f"@{self.journal.path.stem}.{self._numbers}"
            request = {
                "method": method,
                "path": path,
                "body": body,
                "assigns": assigns,
                "time": time.time(),
                "log": log,
            }
            if method == "PATCH":  # of several values that wait, only the newest matters
                for old in list(self._queue)[1:]:  # the first may be on its way
                    if (old["method"], old["path"]) == (method, path):
                        self._queue.remove(old)
            if log and sum(r["log"] for r in self._queue) >= MOST_LOGS:
                return ""
            self._queue.append(request)
            self._change.notify_all()
            return assigns

    def close(self, ended: dict[str, str]) -> None:
        """Tell what is left, as long as the server answers; keep the rest in the journal."""
        self.journal.ended = ended
        with self._change:
            self._closing = True
            self._change.notify_all()
        begun = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            if time.monotonic() - begun > (GIVE_UP_S if self._away else FLUSH_S):
                break
        with self._change:
            left = list(self._queue)
            self._queue.clear()
        if left:
            self.journal.pending = left
            self.journal.save()
            logger.warning(
                "Prefect's server did not hear the end of this run; it is told when the server is "
                "back (`python -m flows up`, `status` or the next run)"
            )
        else:
            self.journal.path.unlink(missing_ok=True)

    def _run(self) -> None:
        ticked = time.monotonic()
        while True:
            with self._change:
                if not self._queue and not self._closing:
                    self._change.wait(TICK_S)
                request = self._queue[0] if self._queue else None
                if request is None and self._closing:
                    return
            try:
                if request is not None:
                    known = len(self.journal.ids)
                    self.journal.send(self._api, request)
                    if len(self.journal.ids) > known:
                        self.journal.save()
                    with self._change:
                        if self._queue and self._queue[0] is request:
                            self._queue.popleft()
                if self._tick and not self._closing and time.monotonic() - ticked > TICK_S:
                    ticked = time.monotonic()
                    self._tick(self._api)
            except Unreachable as error:
                self._wait_for_server(error)
                continue
            except Exception:  # a bug here must not cost a person's computation
                logger.debug("a request to Prefect failed", exc_info=True)
                with self._change:
                    if request is not None and self._queue and self._queue[0] is request:
                        self._queue.popleft()
            if self._away:
                self._away = False
                logger.warning("Prefect's server answers again")

    def _wait_for_server(self, error: Unreachable) -> None:
        if not self._away:
            self._away = True
            logger.warning(
                "Prefect's server does not answer: the run goes on without it and tells it later"
            )
            logger.debug("%s", error)
        with self._change:
            self._change.wait_for(lambda: self._closing, RETRY_S)
        if self._closing:
            time.sleep(0.5)
