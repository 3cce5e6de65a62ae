"""Where everything of a run lives, and who may write there.

    <workspace>/<dataset>/<stage>/      stores of the preprocessing stages
    <workspace>/runs/<recipe>/<run id>/ trained folds, predictions, metrics, report

One process writes to a workspace at a time. The lock is an advisory `flock` that the kernel drops
when its holder dies, however it dies; the file's text names the holder for the one who is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from data.errors import ConfigError, LockedError

LOCK_NAME = ".lock"
TEMP_SUFFIX = ".tmp"


class Workspace:
    """Paths inside one workspace folder. Creating the object touches nothing."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def stage(self, dataset: str, stage: str) -> Path:
        """Folder of one dataset's stage store."""
        return self.path / dataset / stage

    def run(self, recipe: str, run_id: str) -> Path:
        """Folder of one training run."""
        return self.path / "runs" / recipe / run_id

    def datasets(self) -> list[str]:
        """Names of datasets that have at least one stage folder."""
        if not self.path.is_dir():
            return []
        return sorted(
            p.name
            for p in self.path.iterdir()
            if p.is_dir() and p.name != "runs" and not p.name.startswith(".")
        )

    @contextmanager
    def lock(self, *, wait_s: float = 0.0, what: str = "run") -> Iterator[str]:
        """Hold the workspace; yields the run's token. Leftovers of dead runs are swept first.

        Raises LockedError naming the holder (process, host, since when, what) if it is still held
        after `wait_s` seconds; ConfigError if the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / LOCK_NAME, "a+")  # noqa: SIM115 (held for the whole run)
        except OSError as error:
            raise ConfigError(
                f"workspace {self.path}",
                expected="a folder this user can write",
                got=str(error),
                todo="Choose another --workspace or fix its permissions.",
            ) from error
        with file:
            _acquire(file.fileno(), file.name, wait_s)
            token = secrets.token_hex(4)
            file.truncate(0)
            json.dump(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "what": what,
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                    "token": token,
                },
                file,
            )
            file.flush()
            sweep(self.path)
            try:
                yield token
            finally:
                file.truncate(0)


def _acquire(descriptor: int, path: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                text = Path(path).read_text(errors="replace") or "an unnamed process"
                raise LockedError(
                    f"workspace {Path(path).parent}",
                    expected="no other run on it",
                    got=f"one held by {text}",
                    todo="Wait for it (--wait SECONDS), stop it, or use another --workspace.",
                ) from None
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))


def sweep(root: Path) -> list[Path]:
    """Remove temporary files that dead runs left; call only while holding the lock."""
    gone = []
    for pattern in (f"*/*/.*{TEMP_SUFFIX}", f"runs/*/*/.*{TEMP_SUFFIX}"):
        for path in root.glob(pattern):
            if path.is_file():
                path.unlink()
                gone.append(path)
    return gone
