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
from data.stages.files import TEMP_SUFFIX, recover

LOCK_NAME = ".lock"
_held: dict[Path, tuple[str, int]] = {}  # workspaces this process holds → token, inode of the lock


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
            _held[self.path] = (token, os.fstat(file.fileno()).st_ino)
            try:
                for folder in _store_folders(self.path):
                    recover(folder)
                sweep(self.path)
                yield token
            finally:
                del _held[self.path]
                file.truncate(0)

    def check_hold(self) -> None:
        """Before something is published: is the lock that this process took still its own?

        Raises LockedError when the lock file was removed, replaced or taken over. A process that
        never locked the workspace (a test, a reader) is not asked.
        """
        if self.path not in _held:
            return
        token, inode = _held[self.path]
        path = self.path / LOCK_NAME
        try:
            mine = path.stat().st_ino == inode and json.loads(path.read_text())["token"] == token
        except (OSError, ValueError, KeyError):
            mine = False
        if not mine:
            raise LockedError(
                f"workspace {self.path}",
                expected="this run to hold it",
                got=f"a lock file {path.name} that was removed or taken over",
                todo="Another run may be writing here: look, then run again.",
                code="lost_lock",
            )


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


def _store_folders(root: Path) -> list[Path]:
    """Folders with a manifest of their own: a dataset's stages, and runs."""
    stages = [p for p in root.glob("*/*") if p.is_dir() and p.parent.name != "runs"]
    return sorted([*stages, *(p for p in root.glob("runs/*/*") if p.is_dir())])


def sweep(root: Path) -> list[Path]:
    """Remove temporary files that dead runs left; call only while holding the lock."""
    gone = []
    for folder in _store_folders(root):
        for pattern in (f".*{TEMP_SUFFIX}", f"*/.*{TEMP_SUFFIX}"):
            for path in folder.glob(pattern):
                if path.is_file():
                    path.unlink()
                    gone.append(path)
    return gone
